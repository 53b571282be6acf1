"""The way down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, NonRetryable, Retry, branch, create_workflow, wait

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


class Declined(Exception):
    pass


async def test_in_reverse(engine: FluxEngine) -> None:
    """S10.1, I31: completed steps are undone one by one, in the reverse of the order in which they started."""
    effects = Effects()
    flow = create_workflow("saga")
    for name in "abc":
        flow = flow.step(name, effects.step(name), compensate=effects.step(f"undo {name}"))
    flow = flow.step("plain", effects.step("plain")).step("fail", effects.step("fail", error=Declined("no")), retries=0)
    result = await engine.execute(flow)
    assert effects.done == ["a", "b", "c", "plain", "fail", "undo c", "undo b", "undo a"]
    assert result.status == "failed" and isinstance(result.error, Declined)
    lines = {line.path: line for line in result.history}
    assert [lines[name].status.value for name in ("a", "b", "c", "plain", "fail")] == [
        "compensated", "compensated", "compensated", "completed", "failed",
    ]  # fmt: skip
    assert lines["a"].compensation is not None and lines["plain"].compensation is None and lines["fail"].compensation is None


async def test_what_a_compensation_is_given(engine: FluxEngine) -> None:
    """S10.1, D22: its step's result, the input, the data as last committed, and the error."""
    seen: dict[str, Any] = {}

    async def reserve(ctx: Any) -> dict[str, int]:
        ctx.data["n"] = 1
        return {"id": 7}

    async def release(ctx: Any) -> None:
        seen.update(
            result=ctx.result, input=ctx.input, data=dict(ctx.data), error=ctx.error, path=ctx.path, step=ctx.step,
            results=ctx.results["reserve"], run_id=ctx.run_id, attempt=ctx.attempt,
        )  # fmt: skip

    async def more(ctx: Any) -> None:
        ctx.data["n"] = 2

    async def fail(ctx: Any) -> None:
        raise Declined("card", 5)

    flow = create_workflow("given").step("reserve", reserve, compensate=release).step("more", more).step("fail", fail, retries=0)
    await engine.execute(flow, {"order": 1}, id="r")
    error = seen.pop("error")
    assert isinstance(error, Declined) and error.args == ("card", 5)
    assert seen == {
        "result": {"id": 7}, "input": {"order": 1}, "data": {"n": 2}, "path": "reserve!undo", "step": "reserve",
        "results": {"id": 7}, "run_id": "r", "attempt": 1,
    }  # fmt: skip


async def test_one_that_fails_does_not_stop_the_others(engine: FluxEngine) -> None:
    """S10.3, I33: recorded after its retries; the rest run; the run is failed with both errors."""
    effects = Effects()
    flow = (
        create_workflow("partly")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .step("b", effects.step("b"), compensate=effects.step("undo b", error=OSError("gone")), retry=AT_ONCE, compensate_retries=1)
        .step("c", effects.step("c"), compensate=effects.step("undo c"))
        .step("fail", effects.step("fail", error=Declined("no")), retries=0)
    )
    result = await engine.execute(flow)
    assert effects.done == ["a", "b", "c", "fail", "undo c", "undo b", "undo b", "undo a"]
    assert result.status == "failed" and isinstance(result.error, Declined)
    assert list(result.compensation_errors) == ["b"] and isinstance(result.compensation_errors["b"], OSError)
    line = result.history[1]
    assert line.status == "completed" and line.compensation is not None
    assert line.compensation.status == "failed" and line.compensation.attempts == 2
    stored = await engine.get(result.id)
    assert list(stored.compensation_errors) == ["b"]


async def test_a_cancelled_run_whose_compensation_fails(engine: FluxEngine) -> None:
    """I33: never reported as a clean cancellation."""
    effects = Effects()
    flow = create_workflow("cancel").step("a", effects.step("a"), compensate=effects.step("undo", error=NonRetryable("no"))).wait("w")
    result = await engine.cancel((await engine.execute(flow)).id)
    assert result.status == "failed" and list(result.compensation_errors) == ["a"]


async def test_blocking_on_a_failed_compensation(engine: FluxEngine) -> None:
    """S10.6: `on_compensation_failure="block"` parks the run where it stands, saying why; the rest is still due."""
    effects = Effects()
    flow = (
        create_workflow("parks", on_compensation_failure="block")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .step("b", effects.step("b"), compensate=effects.step("undo b", error=NonRetryable("gone")))
        .step("fail", effects.step("fail", error=Declined("no")), retries=0)
    )
    result = await engine.execute(flow)
    assert result.status == "blocked" and "'b!undo'" in (result.blocked_reason or "") and effects.done[-1] == "undo b"
    assert (await engine.list(status="blocked")).runs[0].blocked_reason == result.blocked_reason
    assert (await engine.resume(flow, result.id)).status == "blocked", "a person has to say what is to become of it"
    ended = await engine.resolve(result.id, "b", "skip")
    assert ended.status == "failed" and effects.done[-1] == "undo a" and list(ended.compensation_errors) == ["b"]


@pytest.mark.parametrize(
    ("mode", "after_raising", "after_doubt"),
    [
        ("in_doubt", ["undo done"], ["undo last", "undo done"]),
        ("completed", ["undo done"], ["undo done"]),
        ("started", ["undo last", "undo done"], ["undo last", "undo done"]),
    ],
)
async def test_compensate_when(engine: FluxEngine, mode: Any, after_raising: list[str], after_doubt: list[str]) -> None:
    """S10.4, D8: completed; completed or in doubt; started. A step stays in doubt when a later attempt raises."""
    effects = Effects()

    async def doubtful(ctx: Any) -> None:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        raise Declined("definitely not")

    for name, last, expected in (("raising", effects.step("x", error=Declined()), after_raising), ("doubt", doubtful, after_doubt)):
        effects.done.clear()
        flow = (
            create_workflow(name)
            .step("done", effects.step("done"), compensate=effects.step("undo done"), compensate_when=mode)
            .step("last", last, timeout=5, retries=1, retry=AT_ONCE, compensate=effects.step("undo last"), compensate_when=mode)
        )
        await engine.execute(flow)
        assert [done for done in effects.done if done.startswith("undo")] == expected


async def test_a_timed_out_step_in_doubt(engine: FluxEngine) -> None:
    """S10.4, D8: it is compensated, and its compensation is told that the result is not known."""
    seen: list[Any] = []

    async def slow(ctx: Any) -> None:
        await asyncio.Event().wait()

    async def undo(ctx: Any) -> None:
        seen.append(ctx.result)

    result = await engine.execute(create_workflow("doubt").step("a", slow, timeout=5, retries=0, compensate=undo))
    assert seen == [None] and result.status == "failed" and result.history[0].status == "compensated"


async def test_a_step_in_doubt_that_completes_after_all(engine: FluxEngine) -> None:
    """D8: it is undone once, as completed, with its result."""
    seen: list[Any] = []

    async def flaky(ctx: Any) -> int:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return 5

    async def undo(ctx: Any) -> None:
        seen.append(ctx.result)

    effects = Effects()
    flow = (
        create_workflow("after")
        .step("a", flaky, timeout=5, retry=AT_ONCE, compensate=undo)
        .step("fail", effects.step("f", error=Declined()), retries=0)
    )
    await engine.execute(flow)
    assert seen == [5]


@pytest.mark.parametrize("choice", ["fail", "compensate"])
async def test_on_unknown(engine: FluxEngine, choice: Any) -> None:
    """S3.8, D8: `on_unknown` decides before `retries`: a timed-out attempt is not called again."""
    effects = Effects()

    async def slow(ctx: Any) -> None:
        effects.done.append("a")
        await asyncio.Event().wait()

    undo = effects.step("undo")
    flow = create_workflow("unknown").step("a", slow, timeout=5, retries=3, retry=AT_ONCE, on_unknown=choice, compensate=undo)
    result = await engine.execute(flow)
    assert result.status == "failed" and effects.done == ["a", "undo"]


async def test_waits_sleeps_and_handlers_that_wait(engine: FluxEngine) -> None:
    """S10.4: a step whose handler returned `wait` has had its effect: it is compensated whether the signal came or not."""
    effects = Effects()

    async def ask(ctx: Any) -> Any:
        effects.done.append("ask")
        return wait("answer")

    flow = create_workflow("asked").step("ask", ask, waits=("answer",), compensate=effects.step("undo ask")).wait("more")
    first = await engine.execute(flow)
    assert (await engine.cancel(first.id)).status == "cancelled" and effects.done == ["ask", "undo ask"]
    second = await engine.execute(flow)
    await engine.signal(flow, second.id, "answer", 1)
    assert (await engine.cancel(second.id)).status == "cancelled" and effects.done[2:] == ["ask", "undo ask"]


async def test_inside_a_branch(engine: FluxEngine, cluster: Cluster) -> None:
    """S10.5: steps inside branches are compensated by the same rule, in the same one order."""
    effects = Effects()
    flow = (
        create_workflow("inside")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .wait(
            "w",
            timeout=5,
            on_timeout=branch()
            .step("b", effects.step("b"), compensate=effects.step("undo b"))
            .step("c", effects.step("c"), compensate=effects.step("undo c")),
        )
        .step("fail", effects.step("fail", error=Declined()), retries=0)
    )
    result = await engine.execute(flow)
    await cluster.clock.advance(5)
    await engine.resume(flow, result.id)
    assert effects.done == ["a", "b", "c", "fail", "undo c", "undo b", "undo a"]


async def test_a_crash_in_mid_rollback(cluster: Cluster) -> None:
    """S10.2, I32: it goes on where it stood: what is recorded never runs again, what is due is never skipped."""
    effects = Effects()
    entered = asyncio.Event()

    async def undo_b(ctx: Any) -> None:
        effects.done.append("undo b")
        if not entered.is_set():
            entered.set()
            await asyncio.Event().wait()

    flow = (
        create_workflow("rollback")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .step("b", effects.step("b"), compensate=undo_b, compensate_timeout=3600)
        .step("c", effects.step("c"), compensate=effects.step("undo c"))
        .step("fail", effects.step("fail", error=Declined()), retries=0)
    )
    engine = await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    assert (await other.get("r")).status == "compensating"
    result = await other.resume(flow, "r")
    assert effects.done == ["a", "b", "c", "fail", "undo c", "undo b", "undo b", "undo a"]
    assert result.status == "failed" and result.compensation_errors == {} and isinstance(result.error, Declined)
    compensation = result.history[1].compensation
    assert compensation is not None and compensation.attempts == 2


async def test_compensations_of_all_shapes(engine: FluxEngine) -> None:
    """S1.5: a compensation may be a `def`; a timeout bounds it; what it returns is not looked at."""
    effects = Effects()

    def on_a_thread(ctx: Any) -> None:
        effects.done.append(f"undo {ctx.result}")

    async def never(ctx: Any) -> None:
        await asyncio.Event().wait()

    flow = (
        create_workflow("shapes")
        .step("a", effects.step("a", 1), compensate=on_a_thread)
        .step("b", effects.step("b"), compensate=never, compensate_timeout=5, compensate_retries=0)
        .step("c", effects.step("c"), compensate=lambda ctx: object())
        .step("fail", effects.step("fail", error=Declined()), retries=0)
    )
    result = await engine.execute(flow)
    assert effects.done[-1] == "undo 1"
    assert isinstance(result.compensation_errors["b"], TimeoutError)

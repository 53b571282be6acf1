"""Moving on a run that is blocked: by `resolve`, `retry`, `resume` or `cancel`, as each reason allows (S2.1, S9.4, S10.6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import (
    FluxEngine,
    InvalidArgument,
    NotStorable,
    RunFinished,
    RunNotBlocked,
    RunNotFound,
    RunResult,
    StorageUnavailable,
    UnknownWorkflow,
    Workflow,
    branch,
    create_workflow,
)

from .again import Listener, Shop, header
from .cluster import Cluster, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio


def statuses(result: RunResult) -> dict[str, str]:
    return {line.path: line.status.value for line in result.history}


def undoing(shop: Shop) -> Workflow[Any, Any]:
    """Blocked at the compensation of `b`, while "undo b" fails."""
    return (
        create_workflow("undoing", on_compensation_failure="block")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .step("b", shop.act("b"), compensate=shop.act("undo b"), compensate_retries=0)
        .step("bad", shop.act("bad"), retries=0)
    )


def onward(shop: Shop) -> Workflow[Any, Any]:
    """Blocked at `b`, past the pivot, while "b" fails."""
    return (
        create_workflow("onward")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .commit("pivot", shop.act("pivot"), pivot=True)
        .step("b", shop.act("b", b=1), retries=0, compensate=shop.act("undo b"))
        .step("c", shop.act("c"))
    )


# --- a compensation


async def test_a_compensation_tried_again(engine: FluxEngine) -> None:
    """S10.6: it runs once more, with retries of its own; when it fails again the run is blocked again."""
    shop = Shop("bad", "undo b")
    flow = undoing(shop)
    run = await engine.execute(flow)
    assert run.status == "blocked" and "resolve" in (run.way_on or "") and run.resolutions == ()
    again = await engine.resolve(run.id, "b", "retry")
    assert again.status == "blocked" and shop.done[3:] == ["undo b", "undo b"]
    shop.again()
    result = await engine.resolve(run.id, "b!undo", "retry", by="ana", reason="the bank is open")
    assert result.status == "failed" and shop.done == ["undo b", "undo a"] and result.compensation_errors == {}
    assert statuses(result) == {"a": "compensated", "b": "compensated", "bad": "failed"}
    last = result.resolutions[-1]
    assert (last.path, last.way, last.by, last.reason) == ("b!undo", "retry", "ana", "the bank is open") and len(result.resolutions) == 2
    assert (await engine.get(run.id)).resolutions == result.resolutions


async def test_a_compensation_left_out(engine: FluxEngine) -> None:
    """S10.6, S10.3: it stays failed, and the rest is undone."""
    shop = Shop("bad", "undo b")
    run = await engine.execute(undoing(shop))
    result = await engine.resolve(run.id, "b", "skip")
    assert result.status == "failed" and shop.done[-1] == "undo a" and list(result.compensation_errors) == ["b"]
    assert statuses(result) == {"a": "compensated", "b": "completed", "bad": "failed"}


async def test_a_compensation_taken_as_done(engine: FluxEngine) -> None:
    """S10.6: somebody has undone it by hand: nothing is owed for it, also not after a retry."""
    shop = Shop("bad", "undo b")
    flow = undoing(shop)
    run = await engine.execute(flow)
    with pytest.raises(InvalidArgument):
        await engine.resolve(run.id, "b", "done", result=1)
    result = await engine.resolve(run.id, "b", "done")
    assert result.status == "failed" and result.compensation_errors == {} and statuses(result)["b"] == "compensated"
    shop.again()
    assert (await engine.retry(flow, run.id)).status == "completed" and shop.done == ["a", "b", "bad"]


async def test_a_cancelled_run(engine: FluxEngine) -> None:
    """I33: resolved as done it is a clean cancellation, left out it is not."""
    for way, status in (("done", "cancelled"), ("skip", "failed")):
        shop = Shop("undo")
        flow = create_workflow(f"cancelled-{way}", on_compensation_failure="block")
        flow = flow.step("a", shop.act("a"), compensate=shop.act("undo"), compensate_retries=0).wait("go")
        run = await engine.execute(flow)
        assert (await engine.cancel(run.id)).status == "blocked"
        assert (await engine.resolve(run.id, "a", way)).status == status  # type: ignore[arg-type]


# --- a step past the point of no return


async def test_a_step_tried_again(engine: FluxEngine) -> None:
    """S9.4: with its attempts reset, on the data of that time."""
    shop = Shop("b")
    run = await engine.execute(onward(shop))
    assert run.status == "blocked" and run.past_pivot and (run.blocked_reason or "").startswith("PastPivot")
    assert type(run.error).__name__ == "Declined"
    shop.again()
    result = await engine.resolve(run.id, "b", "retry")
    assert result.status == "completed" and shop.done == ["b", "c"] and result.data == {"b": 1} and result.error is None
    assert result.history[2].attempts == 1 and [old.status.value for old in result.history[2].earlier] == ["failed"]


async def test_a_step_left_out(engine: FluxEngine) -> None:
    """S9.4: skipped, and the run goes on."""
    shop = Shop("b")
    run = await engine.execute(onward(shop))
    result = await engine.resolve(run.id, "b", "skip")
    assert result.status == "completed" and shop.done[-1] == "c" and "b" not in result.results and statuses(result)["b"] == "skipped"


@pytest.mark.parametrize("given", [{"id": 7}, None])
async def test_a_step_taken_as_done(engine: FluxEngine, given: Any) -> None:
    """S9.4: with the result that it would have had."""
    shop = Shop("b")
    run = await engine.execute(onward(shop))
    with pytest.raises(NotStorable):
        await engine.resolve(run.id, "b", "done", result=object())
    assert (await engine.get(run.id)).status == "blocked"
    result = await engine.resolve(run.id, "b", "done", **({} if given is None else {"result": given}))
    assert result.status == "completed" and shop.done[-1] == "c" and result.results["b"] == given and statuses(result)["b"] == "completed"


@pytest.mark.parametrize("way", ["retry", "skip", "done"])
async def test_inside_a_branch(engine: FluxEngine, cluster: Cluster, way: Any) -> None:
    """S9.4: the step that failed is named, wherever it stands; what was done beside it stays done."""
    shop = Shop("two")
    late = branch().step("one", shop.act("one")).step("two", shop.act("two"), retries=0).step("three", shop.act("three"))
    flow = create_workflow("inside").commit("pivot", shop.act("pivot"), pivot=True).wait("w", timeout=5, on_timeout=late)
    run = await engine.execute(flow.step("last", shop.act("last")))
    await cluster.clock.advance(5)
    blocked = await engine.resume(flow.step("last", shop.act("last")), run.id)
    assert blocked.status == "blocked" and "w/on_timeout/two" in (blocked.blocked_reason or "")
    with pytest.raises(RunNotBlocked):
        await engine.resolve(run.id, "w", way)
    shop.again()
    result = await engine.resolve(run.id, "w/on_timeout/two", way)
    assert result.status == "completed" and shop.done == ([] if way != "retry" else ["two"]) + ["three", "last"]
    assert statuses(result)["w"] == "completed"


async def test_a_wait_that_timed_out(engine: FluxEngine, cluster: Cluster) -> None:
    """S9.4, S7.2: tried again it waits anew, and takes what came meanwhile."""
    shop = Shop()
    flow = create_workflow("wait").commit("pivot", shop.act("pivot"), pivot=True).wait("go", timeout=5)
    run = await engine.execute(flow)
    await cluster.clock.advance(5)
    assert (await engine.resume(flow, run.id)).status == "blocked"
    kept = await engine.signal(flow, run.id, "go", "late")
    assert kept.status == "blocked"
    result = await engine.resolve(run.id, "go", "retry")
    assert result.status == "completed" and result.results["go"] == "late"


# --- refusals


async def test_what_is_refused(engine: FluxEngine, cluster: Cluster) -> None:
    """S10.6: only what is blocked, at the path where it is, in one of three ways; the run stays as it was."""
    shop = Shop("b")
    flow = onward(shop)
    run = await engine.execute(flow)
    before = await header(engine, run.id)
    for path in ("a", "c", "pivot", "nobody", "", "b/x", "b!undo"):
        with pytest.raises(RunNotBlocked):
            await engine.resolve(run.id, path, "skip")
    for way in ("again", "", None, "Skip"):
        with pytest.raises(InvalidArgument):
            await engine.resolve(run.id, "b", way)  # type: ignore[arg-type]
    for way in ("retry", "skip"):
        with pytest.raises(InvalidArgument):
            await engine.resolve(run.id, "b", way, result=1)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        await engine.resolve(run.id, "b", "skip", by=5)  # type: ignore[arg-type]
    with pytest.raises(RunNotFound):
        await engine.resolve("nobody", "b", "skip")
    stranger = await cluster.open()
    with pytest.raises(UnknownWorkflow):
        await stranger.resolve(run.id, "b", "skip")
    after = await header(engine, run.id)
    assert (after.status, after.position, after.owner, after.blocked) == (before.status, before.position, None, before.blocked)
    shop.failing.clear()
    assert (await engine.resolve(run.id, "b", "retry")).status == "completed"
    with pytest.raises(RunNotBlocked):
        await engine.resolve(run.id, "b", "retry")


async def test_runs_that_are_not_blocked(engine: FluxEngine) -> None:
    """S10.6: suspended, pending, running, ended: refused, and left alone."""
    shop = Shop("bad")
    flow = create_workflow("open").step("a", shop.act("a")).wait("go").step("bad", shop.act("bad"), retries=0)
    await engine.execute(flow, id="waits")
    await engine.start(flow, id="pending")
    await engine.execute(flow, id="failed")
    await engine.signal(flow, "failed", "go")
    for run_id in ("waits", "pending", "failed"):
        before = await header(engine, run_id)
        with pytest.raises(RunNotBlocked):
            await engine.resolve(run_id, "a", "retry")
        after = await header(engine, run_id)
        assert (after.status, after.position, after.owner, after.wake_at) == (before.status, before.position, None, before.wake_at)
    shop.hanging = {"a"}
    task = asyncio.create_task(engine.execute(flow, id="running"))
    await eventually(lambda: shop.done.count("a") == 3)
    with pytest.raises(RunNotBlocked):
        await engine.resolve("running", "a", "skip")
    await engine.cancel("running", interrupt=True)
    await task


async def test_two_at_once(engine: FluxEngine, cluster: Cluster) -> None:
    """D1: one of them moves it, both learn what came of it."""
    shop = Shop("b")
    flow = onward(shop)
    run = await engine.execute(flow)
    other = await cluster.open(workflows=[flow])
    shop.again()
    results = await asyncio.gather(*[one.resolve(run.id, "b", "retry") for one in (engine, engine, other)], return_exceptions=True)
    assert shop.done == ["b", "c"] and len((await engine.get(run.id)).resolutions) == 1
    answers = {result.status.value if isinstance(result, RunResult) else type(result).__name__ for result in results}
    # A call that comes when all is over finds nothing blocked.
    assert answers <= {"completed", "RunNotBlocked"} and "completed" in answers


async def test_a_commit_that_fails(cluster: Cluster) -> None:
    """S15.3: the resolution is written once."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    shop = Shop("b")
    run = await engine.execute(onward(shop))
    shop.again()
    storage.fail("commit", StorageUnavailable("full"), after=True)
    result = await engine.resolve(run.id, "b", "retry")
    assert result.status == "completed" and len(result.resolutions) == 1 and shop.done == ["b", "c"]


async def test_it_is_told_of(cluster: Cluster) -> None:
    """S16: hooks hear that the run was blocked, and that it was moved on."""
    heard = Listener()
    engine = await cluster.open(hooks=[heard])
    shop = Shop("b")
    run = await engine.execute(onward(shop))
    await eventually(lambda: ("run_blocked", "b") in heard.heard)
    heard.heard.clear()
    await engine.resolve(run.id, "b", "skip")
    await eventually(lambda: ("run_completed", "") in heard.heard)
    assert heard.heard == [("step_resolved", "b"), ("step_started", "c"), ("run_completed", "")]


# --- cancelling what is blocked, in each reason


async def test_cancelling_a_blocked_compensation(engine: FluxEngine) -> None:
    """S2.1, S11: what failed is left out and the rest undone; with `compensate=False` nothing more is."""
    for compensate, undone in ((True, ["undo b", "undo a"]), (False, ["undo b"])):
        shop = Shop("bad", "undo b")
        run = await engine.execute(undoing(shop))
        result = await engine.cancel(run.id, compensate=compensate)
        assert result.status == "failed" and shop.done[3:] == undone and list(result.compensation_errors) == ["b"]
        with pytest.raises(RunFinished):
            await engine.cancel(run.id)


async def test_cancelling_past_the_pivot(engine: FluxEngine) -> None:
    """D10: only without compensating."""
    from flux import PastPivot

    shop = Shop("b")
    run = await engine.execute(onward(shop))
    with pytest.raises(PastPivot):
        await engine.cancel(run.id)
    assert (await engine.get(run.id)).status == "blocked"
    result = await engine.cancel(run.id, compensate=False)
    assert result.status == "cancelled" and shop.done == ["a", "pivot", "b"]


async def test_cancelling_a_crashing_run(cluster: Cluster) -> None:
    """S3.7, D11: blocked as WorkerCrashed it is cancelled and undone, or its step is taken as done, left out or tried again."""
    for way in ("cancel", "retry", "skip", "done", "resume"):
        shop = Shop()
        shop.hanging = {"crash"}
        flow = (
            create_workflow(f"crashes-{way}")
            .step("a", shop.act("a"), compensate=shop.act("undo a"))
            .step("crash", shop.act("crash"), timeout=None)
            .step("last", shop.act("last"))
        )
        run_id = f"r-{way}"
        for crash in (1, 2):
            engine = await cluster.open(crash_limit=2, workflows=[flow])
            task = asyncio.create_task(engine.execute(flow, id=run_id))
            await eventually(lambda: shop.done.count("crash") == crash)
            await cluster.crash(engine)
            await asyncio.gather(task, return_exceptions=True)
            await cluster.outlive()
        engine = await cluster.open(crash_limit=2, workflows=[flow])
        async with engine.worker():

            async def blocked() -> bool:
                return (await engine.summary(run_id)).status == "blocked"

            await eventually(blocked)
        run = await engine.get(run_id)
        assert (run.blocked_reason or "").startswith("WorkerCrashed") and shop.done == ["a", "crash", "crash"]
        shop.again()
        if way == "cancel":
            assert (await engine.cancel(run_id)).status == "cancelled" and shop.done == ["undo a"]
            continue
        result = await (engine.resume(flow, run_id) if way == "resume" else engine.resolve(run_id, "crash", way))  # type: ignore[arg-type]
        assert result.status == "completed" and shop.done == [*(["crash"] if way in ("retry", "resume") else []), "last"]


async def test_cancelling_a_run_past_its_deadline_and_pivot(engine: FluxEngine, cluster: Cluster) -> None:
    """D10: a deadline that passes after the pivot blocks; `resume` lifts it, a cancel without compensating ends it."""
    from flux import PastPivot

    shop = Shop()
    flow = (
        create_workflow("deadline", deadline=10)
        .step("a", shop.act("a"), compensate=shop.act("undo"))
        .commit("pivot", shop.act("pivot"), pivot=True)
        .wait("go")
    )
    for run_id in ("lifted", "ended", "retried"):
        await engine.execute(flow, id=run_id)
    await cluster.clock.advance(11)
    async with engine.worker():

        async def blocked() -> bool:
            return len((await engine.list(status="blocked")).runs) == 3

        await eventually(blocked)
    run = await engine.get("ended")
    assert (run.blocked_reason or "").startswith("DeadlineExceeded") and "resume" in (run.way_on or "") and shop.done.count("undo") == 0
    with pytest.raises(RunNotBlocked):
        await engine.resolve("ended", "go", "skip")
    with pytest.raises(PastPivot):
        await engine.cancel("ended")
    assert (await engine.cancel("ended", compensate=False)).status == "cancelled"
    lifted = await engine.resume(flow, "lifted")
    assert lifted.status == "suspended" and lifted.wake_at is None
    assert (await engine.signal(flow, "lifted", "go")).status == "completed"
    assert (await engine.retry(flow, "retried")).status == "suspended"
    assert (await engine.signal(flow, "retried", "go")).status == "completed" and shop.done.count("undo") == 0


async def test_cancelling_where_the_code_has_changed(cluster: Cluster) -> None:
    """D28: without code that fits, a run can only be ended without compensating; with it, it is undone."""
    shop = Shop()
    flow = create_workflow("changed").step("a", shop.act("a"), compensate=shop.act("undo")).wait("go")
    other = create_workflow("changed").step("b", shop.act("b")).wait("go")
    engine = await cluster.open()
    for run_id in ("1", "2"):
        await engine.execute(flow, id=run_id)
    changed = await cluster.open(workflows=[other])
    async with changed.worker():
        for run_id in ("1", "2"):
            await changed.signal(other, run_id, "go")

        async def blocked() -> bool:
            return len((await changed.list(status="blocked")).runs) == 2

        await eventually(blocked)
    assert (await changed.cancel("1")).status == "blocked"
    assert (await changed.cancel("2", compensate=False)).status == "cancelled" and shop.done == ["a", "a"]
    with pytest.raises(RunNotBlocked):
        await engine.resolve("1", "a", "skip")
    assert (await engine.resume(flow, "1")).status == "cancelled" and shop.done == ["a", "a", "undo"]

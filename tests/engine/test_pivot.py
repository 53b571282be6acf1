"""The point of no return (S9.4, D10)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, PastPivot, Retry, RunFinished, RunResult, branch, create_workflow

from .again import Shop, header
from .cluster import Cluster, eventually

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


def statuses(result: RunResult) -> dict[str, str]:
    return {line.path: line.status.value for line in result.history}


async def test_what_fails_after_it(engine: FluxEngine) -> None:
    """S9.4: it is retried, then the run is blocked for a person; nothing is ever unwound."""
    shop = Shop("b")
    flow = (
        create_workflow("after")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .commit("pay", shop.act("pay"), pivot=True, compensate=shop.act("undo pay"))
        .step("own", shop.act("own"), compensate=shop.act("undo own"))
        .step("b", shop.act("b"), retries=2, retry=AT_ONCE, compensate=shop.act("undo b"))
    )
    result = await engine.execute(flow)
    assert result.status == "blocked" and result.past_pivot and shop.done == ["a", "pay", "own", "b", "b", "b"]
    assert "'b'" in (result.blocked_reason or "") and "'pay'" in (result.blocked_reason or "") and "resolve" in (result.way_on or "")
    assert statuses(result) == {"a": "completed", "pay": "completed", "own": "completed", "b": "failed"}
    assert (await engine.resume(flow, result.id)).status == "blocked"
    assert (await engine.list(status="blocked")).runs[0].blocked_reason == result.blocked_reason
    shop.again()
    done = await engine.retry(flow, result.id)
    assert done.status == "completed" and shop.done == ["b"] and done.past_pivot


async def test_what_fails_before_it(engine: FluxEngine) -> None:
    """S9.4: until it has completed it is a step like any other, and its own failure unwinds."""
    for failing in ("before", "pay"):
        shop = Shop(failing)
        flow = (
            create_workflow(f"fails-{failing}")
            .step("a", shop.act("a"), compensate=shop.act("undo a"))
            .step("before", shop.act("before"), retries=0)
            .commit("pay", shop.act("pay"), pivot=True, retries=0)
        )
        result = await engine.execute(flow)
        assert result.status == "failed" and not result.past_pivot and shop.done[-1] == "undo a"


async def test_one_that_was_skipped(engine: FluxEngine) -> None:
    """S6.1, S9.4: it was never passed."""
    shop = Shop("b")
    flow = (
        create_workflow("skipped")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .commit("pay", shop.act("pay"), pivot=True, when=lambda ctx: False)
        .step("b", shop.act("b"), retries=0)
    )
    result = await engine.execute(flow)
    assert result.status == "failed" and not result.past_pivot and shop.done == ["a", "b", "undo a"]


async def test_inside_a_branch_after_it(engine: FluxEngine, cluster: Cluster) -> None:
    """S9.4: also what fails inside a step."""
    shop = Shop("late")
    late = branch().step("late", shop.act("late"), retries=0)
    flow = create_workflow("inside").commit("pay", shop.act("pay"), pivot=True).wait("w", timeout=5, on_timeout=late)
    run = await engine.execute(flow)
    await cluster.clock.advance(5)
    result = await engine.resume(flow, run.id)
    assert result.status == "blocked" and "w/on_timeout/late" in (result.blocked_reason or "")
    assert type(result.error).__name__ == "Declined"
    shop.again()
    assert (await engine.retry(flow, run.id)).status == "completed"


async def test_a_condition_after_it(engine: FluxEngine) -> None:
    """S6.2, S9.4: a condition that raises fails its step, and that blocks."""
    shop = Shop()
    broken = {"now": True}

    def when(ctx: Any) -> bool:
        if broken["now"]:
            raise ValueError("what?")
        return True

    flow = create_workflow("when").commit("pay", shop.act("pay"), pivot=True).step("b", shop.act("b"), when=when)
    run = await engine.execute(flow)
    assert run.status == "blocked" and shop.done == ["pay"]
    broken["now"] = False
    assert (await engine.resolve(run.id, "b", "retry")).status == "completed" and shop.done == ["pay", "b"]


# --- cancelling


async def test_a_cancel_after_it(engine: FluxEngine) -> None:
    """D10: refused, and the run goes on as if nothing had been asked; without compensating it ends."""
    shop = Shop()
    flow = (
        create_workflow("cancel")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .commit("pay", shop.act("pay"), pivot=True)
        .wait("go")
        .step("b", shop.act("b"))
    )
    for run_id in ("on", "off"):
        await engine.execute(flow, id=run_id)
    for run_id, options in (("on", {}), ("on", {"interrupt": True}), ("off", {})):
        before = await header(engine, run_id)
        with pytest.raises(PastPivot):
            await engine.cancel(run_id, "no", **options)
        after = await header(engine, run_id)
        assert (after.status, after.position, after.inbox_seq, after.waiting) == ("suspended", before.position, before.inbox_seq, ("go",))
    assert (await engine.signal(flow, "on", "go")).status == "completed"
    with pytest.raises(RunFinished):
        await engine.cancel("on")
    off = await engine.cancel("off", "no", compensate=False)
    assert off.status == "cancelled" and "undo a" not in shop.done and statuses(off)["a"] == "completed"


async def test_a_cancel_before_it(engine: FluxEngine) -> None:
    """S11: as usual."""
    shop = Shop()
    flow = (
        create_workflow("early")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .wait("go")
        .commit("pay", shop.act("pay"), pivot=True)
    )
    run = await engine.execute(flow)
    assert (await engine.cancel(run.id)).status == "cancelled" and shop.done == ["a", "undo a"]


@pytest.mark.parametrize("interrupt", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_cancel_while_it_runs(cluster: Cluster, interrupt: bool, elsewhere: bool) -> None:
    """D10, S11.2: accepted while the pivot runs, and the pivot completes: the cancel comes too late and changes nothing."""
    shop = Shop()
    entered, go = asyncio.Event(), asyncio.Event()

    async def pay(ctx: Any) -> str:
        entered.set()
        await go.wait()
        return "paid"

    flow = (
        create_workflow("race")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .commit("pay", pay, pivot=True, compensate=shop.act("undo pay"))
        .step("b", shop.act("b"))
        .wait("go")
    )
    engine = await cluster.open(workflows=[flow])
    other = await cluster.open(workflows=[flow]) if elsewhere else engine
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    asked = asyncio.create_task(other.cancel("r", interrupt=interrupt))

    async def accepted() -> bool:
        return int((await header(engine, "r")).inbox_seq) == 1

    await eventually(accepted)
    go.set()
    result = await task
    assert result.status == "suspended" and shop.done == ["a", "b"] and not result.cancelling and result.past_pivot
    (answer,) = await asyncio.gather(asked, return_exceptions=True)
    assert isinstance(answer, RunResult | PastPivot)
    assert (await engine.signal(flow, "r", "go")).status == "completed"


async def test_a_cancel_while_it_runs_and_fails(engine: FluxEngine) -> None:
    """S11.1: the pivot did not complete, so the cancel stands: what was done is undone."""
    shop = Shop()
    entered, go = asyncio.Event(), asyncio.Event()

    async def pay(ctx: Any) -> str:
        entered.set()
        await go.wait()
        raise ValueError("no money")

    flow = (
        create_workflow("race").step("a", shop.act("a"), compensate=shop.act("undo a")).commit("pay", pay, pivot=True, retries=5).wait("go")
    )
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    await engine.cancel("r")
    go.set()
    result = await task
    assert result.status == "cancelled" and shop.done == ["a", "undo a"] and not result.past_pivot


async def test_cancelled_without_compensating_while_it_runs(engine: FluxEngine) -> None:
    """D10: that cancel is never too late: the pivot finishes, nothing follows and nothing is undone."""
    shop = Shop()
    entered, go = asyncio.Event(), asyncio.Event()

    async def pay(ctx: Any) -> str:
        entered.set()
        await go.wait()
        return "paid"

    flow = (
        create_workflow("off")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .commit("pay", pay, pivot=True)
        .step("b", shop.act("b"))
    )
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    await engine.cancel("r", compensate=False)
    go.set()
    result = await task
    assert result.status == "cancelled" and shop.done == ["a"] and result.results["pay"] == "paid"


# --- the deadline


async def test_a_step_after_it_is_not_cut_by_the_deadline(engine: FluxEngine, cluster: Cluster) -> None:
    """D10: the deadline no longer cuts; what runs is recorded, then the run is blocked, unless it was the last step."""
    cluster.stand_still()
    shop = Shop()
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow(ctx: Any) -> str:
        entered.set()
        await go.wait()
        return "slow"

    base = (
        create_workflow("deadline", deadline=10)
        .step("a", shop.act("a"), compensate=shop.act("undo"))
        .commit("pay", shop.act("pay"), pivot=True)
    )
    last = base.step("slow", slow, timeout=None)
    for flow, status in ((last, "completed"),):
        task = asyncio.create_task(engine.execute(flow))
        await entered.wait()
        await cluster.clock.advance(20)
        go.set()
        result = await task
        assert result.status == status and "undo" not in shop.done and result.results["slow"] == "slow"


async def test_the_deadline_blocks(engine: FluxEngine, cluster: Cluster) -> None:
    """D10: a deadline that passes after the pivot, with steps still to come, blocks; lifted, the run goes on."""
    shop = Shop()
    flow = (
        create_workflow("blocks", deadline=10)
        .step("a", shop.act("a"), compensate=shop.act("undo"))
        .commit("pay", shop.act("pay"), pivot=True)
        .sleep("nap", seconds=20)
        .step("b", shop.act("b"))
    )
    run = await engine.execute(flow)
    assert run.status == "blocked" and (run.blocked_reason or "").startswith("DeadlineExceeded") and shop.done == ["a", "pay"]
    result = await engine.resume(flow, run.id)
    assert result.status == "completed" and shop.done == ["a", "pay", "b"]


# --- going back


async def test_not_back_across_it(engine: FluxEngine) -> None:
    """S9.4: a retry begins behind it; before it there is only a fork, which is not bound by it."""
    shop = Shop("b")
    flow = (
        create_workflow("back")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .commit("pay", shop.act("pay"), pivot=True)
        .step("own", shop.act("own"))
        .step("b", shop.act("b"), retries=0)
    )
    run = await engine.execute(flow)
    before = await header(engine, run.id)
    for from_step in ("a", "pay"):
        with pytest.raises(PastPivot):
            await engine.retry(flow, run.id, from_step=from_step)
    with pytest.raises(InvalidArgument):
        await engine.retry(flow, run.id, from_step="nobody")
    after = await header(engine, run.id)
    assert (after.position, after.status, after.owner) == (before.position, before.status, None)
    shop.done.clear()
    again = await engine.retry(flow, run.id, from_step="own")
    assert again.status == "blocked" and shop.done == ["own", "b"] and again.reopenings[0].from_step == "own"
    await engine.cancel(run.id, compensate=False)
    with pytest.raises(PastPivot):
        await engine.retry(flow, run.id, from_step="a")
    fork = await engine.fork(flow, run.id, from_step="own")
    assert fork.status == "failed" and not fork.past_pivot, "what it inherits is not its own point of no return (D5)"
    shop.again()
    assert (await engine.retry(flow, run.id)).status == "completed" and shop.done == ["b"]


async def test_replayed(engine: FluxEngine) -> None:
    """S9.3: the pivot is a commit step like any other; one that fails then blocks the replay, which a cancel ends."""
    shop = Shop()
    flow = create_workflow("replayed").commit("pay", shop.act("pay"), pivot=True, retries=0).commit("b", shop.act("b"))
    run = await engine.execute(flow)
    assert (await engine.replay(flow, run.id)).status == "completed" and shop.done == ["pay", "b"] * 2
    shop.failing = {"pay"}
    blocked = await engine.replay(flow, run.id)
    assert blocked.status == "blocked"
    assert (await engine.cancel(run.id)).status == "completed"


async def test_a_pivot_in_doubt(cluster: Cluster) -> None:
    """S9.4, D8: lost before its outcome was recorded, it has not completed: the run unwinds, and asks nothing of it."""
    shop = Shop()
    shop.hanging = {"pay"}
    flow = (
        create_workflow("doubt")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .commit("pay", shop.act("pay"), pivot=True, on_unknown="fail", compensate=shop.act("undo pay"))
    )
    one = await cluster.open()
    task = asyncio.create_task(one.execute(flow, id="r"))
    await shop.reached("pay")
    await cluster.crash(one)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    other = await cluster.open()
    result = await other.resume(flow, "r")
    assert result.status == "failed" and shop.done == ["a", "pay", "undo pay", "undo a"] and not result.past_pivot


async def test_a_crash_after_it(cluster: Cluster) -> None:
    """S9.4, I8: another process knows that the run has passed it."""
    shop = Shop()
    shop.hanging = {"b"}
    flow = (
        create_workflow("crash")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .commit("pay", shop.act("pay"), pivot=True)
        .step("b", shop.act("b"), on_unknown="fail")
    )
    one = await cluster.open()
    task = asyncio.create_task(one.execute(flow, id="r"))
    await shop.reached("b")
    await cluster.crash(one)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    result = await other.resume(flow, "r")
    assert result.status == "blocked" and type(result.error).__name__ == "UnknownOutcome" and shop.done == ["a", "pay", "b"]
    with pytest.raises(PastPivot):
        await other.cancel("r")
    assert (await other.resolve("r", "b", "done", result=5)).results["b"] == 5

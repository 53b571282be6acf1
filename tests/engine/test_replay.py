"""The commit steps of an ended run, once more (S9.3, D4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import (
    NOT_DONE,
    FluxEngine,
    InvalidArgument,
    Retry,
    RunConflict,
    RunNotBlocked,
    RunNotFinished,
    RunNotFound,
    StorageUnavailable,
    branch,
    create_workflow,
)

from .again import Listener, Provider, Shop, header
from .cluster import Cluster, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


async def test_commit_steps_run_again(engine: FluxEngine) -> None:
    """S9.3: in order, with the same idempotency keys, on the data of that time; everything else is served from the journal."""
    shop, provider = Shop(), Provider()
    flow = (
        create_workflow("order")
        .step("a", shop.act("a", n=1), compensate=shop.act("undo a"))
        .commit("charge", provider.charge, compensate=provider.refund)
        .step("b", shop.act("b", n=2))
        .wait("go")
        .commit("ship", shop.act("ship", n=3, shipped=True))
        .sleep("nap", seconds=5)
        .step("c", shop.act("c", n=4))
    )
    await engine.execute(flow, 7, id="r")
    first = await engine.signal(flow, "r", "go", "yes")
    assert first.status == "completed" and shop.done == ["a", "b", "ship", "c"]
    shop.again()
    result = await engine.replay(flow, "r", by="ana", reason="the carrier lost it")
    assert result.status == "completed" and shop.done == ["ship"]
    assert shop.saw == [("ship", {"n": 2})] and result.data == first.data == {"n": 4, "shipped": True}
    assert provider.asked == [provider.asked[0]] * 2 and provider.paid == ["charge-1"] and provider.refunds == {}
    assert result.results["go"] == "yes" and result.results["ship"] == "ship 1"
    (reopening,) = result.reopenings
    assert (reopening.generation, reopening.cause, reopening.from_step) == (1, "replay", "")
    assert (reopening.by, reopening.reason) == ("ana", "the carrier lost it")
    lines = {line.path: line for line in result.history}
    assert [path for path, line in lines.items() if line.earlier] == ["charge", "ship"]
    assert lines["ship"].attempts == 1 and lines["ship"].earlier[0].result == "ship 1"
    stored = await engine.get("r")
    assert stored.status == "completed" and stored.data == first.data and stored.reopenings == result.reopenings


async def test_nothing_to_run(engine: FluxEngine) -> None:
    """S9.3: without commit steps nothing runs; it is on record all the same."""
    shop = Shop()
    flow = create_workflow("none").step("a", shop.act("a", n=1))
    run = await engine.execute(flow)
    result = await engine.replay(flow, run.id)
    assert result.status == "completed" and shop.done == ["a"] and len(result.reopenings) == 1 and result.data == {"n": 1}


async def test_a_failed_run(engine: FluxEngine) -> None:
    """D4: a replay never compensates; a compensated commit step is not run again, and the run is failed as before."""
    shop = Shop("bad")
    flow = (
        create_workflow("failed")
        .commit("kept", shop.act("kept"))
        .commit("undone", shop.act("undone"), compensate=shop.act("undo"))
        .step("bad", shop.act("bad"), retries=0)
    )
    failed = await engine.execute(flow, id="r")
    shop.done.clear()
    result = await engine.replay(flow, "r")
    assert shop.done == ["kept"] and result.status == "failed"
    assert type(result.error) is type(failed.error) and result.error is not None and result.error.args == ("bad",)
    assert [line.status.value for line in result.history] == ["completed", "compensated", "failed"]
    shop.again()
    assert (await engine.retry(flow, "r")).status == "completed" and shop.done == ["undone", "bad"]


async def test_a_cancelled_run(engine: FluxEngine) -> None:
    """D4: it is cancelled as before."""
    shop = Shop()
    flow = create_workflow("cancelled").commit("a", shop.act("a")).wait("go")
    run = await engine.execute(flow)
    await engine.cancel(run.id, "not wanted")
    result = await engine.replay(flow, run.id)
    assert result.status == "cancelled" and shop.done == ["a", "a"] and "not wanted" in str(result.error)
    assert (await engine.retry(flow, run.id)).waiting_for == ("go",)


async def test_skipped_and_inside_branches(engine: FluxEngine, cluster: Cluster) -> None:
    """S6.1, S9.3: a skipped commit step stays so; those in the branch that was taken run again."""
    shop = Shop()
    asked: list[int] = []

    def no(ctx: Any) -> bool:
        asked.append(1)
        return False

    late = branch().commit("late", shop.act("late")).step("more", shop.act("more"))
    flow = create_workflow("branch").commit("skipped", shop.act("skipped"), when=no).wait("w", timeout=5, on_timeout=late)
    run = await engine.execute(flow)
    await cluster.clock.advance(5)
    await engine.resume(flow, run.id)
    shop.again()
    assert (await engine.replay(flow, run.id)).status == "completed" and shop.done == ["late"] and asked == [1]


async def test_its_own_retries(engine: FluxEngine) -> None:
    """S4, S9.3: a commit step that runs again has its retries again."""
    shop = Shop()
    flow = create_workflow("retries").commit("a", shop.act("a"), retries=2, retry=AT_ONCE)
    run = await engine.execute(flow)
    shop.failing = {"a"}
    result = await engine.replay(flow, run.id)
    assert result.status == "blocked" and shop.done == ["a"] * 4


async def test_one_that_fails_blocks(engine: FluxEngine) -> None:
    """D4: nothing is compensated; cancelling gives the run its old status back."""
    shop, provider = Shop(), Provider()
    flow = (
        create_workflow("blocks")
        .commit("charge", provider.charge, compensate=provider.refund)
        .commit("ship", shop.act("ship", n=1), retries=0)
        .commit("mail", shop.act("mail"))
    )
    first = await engine.execute(flow, id="r")
    shop.failing = {"ship"}
    shop.done.clear()
    result = await engine.replay(flow, "r")
    assert result.status == "blocked" and shop.done == ["ship"] and provider.refunds == {} and provider.paid == ["charge-1"]
    assert result.blocked_reason is not None and result.blocked_reason.startswith("ReplayFailed") and "cancel" in (result.way_on or "")
    assert (await engine.resume(flow, "r")).status == "blocked"
    with pytest.raises(RunNotFinished):
        await engine.replay(flow, "r")
    with pytest.raises(InvalidArgument):
        await engine.retry(flow, "r", from_step="charge")
    ended = await engine.cancel("r")
    assert ended.status == "completed" and ended.data == first.data and provider.refunds == {} and shop.done == ["ship"]
    assert ended.results == first.results and [line.status.value for line in ended.history] == ["completed"] * 3
    stored = await engine.get("r")
    assert stored.status == "completed" and not stored.cancelling and stored.results == first.results
    shop.again()
    assert (await engine.replay(flow, "r")).status == "completed" and shop.done == ["ship", "mail"]


@pytest.mark.parametrize("way", ["retry", "skip", "done"])
async def test_resolving(engine: FluxEngine, way: Any) -> None:
    """D4, S10.6: it is tried again, or what was recorded before stands, and the replay goes on with the next."""
    shop = Shop()
    flow = create_workflow("resolve").commit("a", shop.act("a"), retries=0).commit("b", shop.act("b"))
    run = await engine.execute(flow)
    shop.failing = {"a"}
    assert (await engine.replay(flow, run.id)).status == "blocked"
    with pytest.raises(RunNotBlocked):
        await engine.resolve(run.id, "b", way)
    shop.again()
    result = await engine.resolve(run.id, "a", way)
    assert result.status == "completed" and shop.done == (["a", "b"] if way == "retry" else ["b"])
    assert result.results["a"] == "a 1" and result.resolutions[0].way == way


async def test_resolved_with_a_result(engine: FluxEngine) -> None:
    """S10.6: taken as done with what it returned."""
    shop = Shop()
    flow = create_workflow("result").commit("a", shop.act("a"), retries=0)
    run = await engine.execute(flow)
    shop.failing = {"a"}
    await engine.replay(flow, run.id)
    result = await engine.resolve(run.id, "a", "done", result={"by": "hand"})
    assert result.status == "completed" and result.results == {"a": {"by": "hand"}} == dict((await engine.get(run.id)).results)


async def test_retry_of_a_blocked_replay(engine: FluxEngine) -> None:
    """S10.6: `retry` tries the commit step again."""
    shop = Shop()
    flow = create_workflow("again").commit("a", shop.act("a"), retries=0)
    run = await engine.execute(flow)
    shop.failing = {"a"}
    await engine.replay(flow, run.id)
    shop.again()
    assert (await engine.retry(flow, run.id)).status == "completed" and shop.done == ["a"]


async def test_one_that_returns_wait(engine: FluxEngine) -> None:
    """S7.1, S9.3: a commit step whose handler returns `wait` waits again."""
    from flux import wait

    calls: list[int] = []

    async def ask(ctx: Any) -> Any:
        calls.append(1)
        return wait("answer")

    shop = Shop()
    flow = create_workflow("asks").commit("ask", ask, waits=("answer",)).commit("b", shop.act("b"))
    run = await engine.execute(flow)
    await engine.signal(flow, run.id, "answer", 1)
    waiting = await engine.replay(flow, run.id)
    assert waiting.status == "suspended" and waiting.waiting_for == ("answer",) and shop.done == ["b"]
    result = await engine.signal(flow, run.id, "answer", 2)
    assert result.status == "completed" and result.results["ask"] == 2 and shop.done == ["b", "b"] and len(calls) == 2


async def test_its_deadline_is_not_asked(engine: FluxEngine, cluster: Cluster) -> None:
    """D4, S5.2: a replay long after the run's deadline is no overrun."""
    shop = Shop()
    flow = create_workflow("late", deadline=10).commit("a", shop.act("a"))
    run = await engine.execute(flow)
    await cluster.clock.advance(100)
    assert (await engine.replay(flow, run.id)).status == "completed" and shop.done == ["a", "a"]


async def test_cancelled_in_the_middle(engine: FluxEngine) -> None:
    """D4, D10: a cancel during a replay lets the commit step finish, ends the replay and compensates nothing."""
    shop = Shop()
    go = asyncio.Event()
    flow_calls: list[str] = []

    async def slow(ctx: Any) -> str:
        flow_calls.append("slow")
        if len(flow_calls) > 1:
            await go.wait()
        return f"slow {len(flow_calls)}"

    flow = (
        create_workflow("middle").commit("slow", slow, compensate=shop.act("undo")).commit("b", shop.act("b"), compensate=shop.act("undo"))
    )
    run = await engine.execute(flow)
    task = asyncio.create_task(engine.replay(flow, run.id))
    await eventually(lambda: len(flow_calls) == 2)
    assert (await engine.get(run.id)).status == "running"
    cancelling = await engine.cancel(run.id, interrupt=False)
    assert cancelling.status in ("running", "completed")
    go.set()
    result = await task
    assert result.status == "completed" and shop.done == ["b"] and flow_calls == ["slow", "slow"]
    assert (await engine.get(run.id)).status == "completed"


async def test_what_is_refused(engine: FluxEngine) -> None:
    """S9.3: only a run that has ended is replayed; the others are left as they are."""
    shop = Shop("undo")
    waits = create_workflow("waits").commit("a", shop.act("a")).wait("go")
    blocks = (
        create_workflow("blocks", on_compensation_failure="block")
        .commit("a", shop.act("a"), compensate=shop.act("undo"), compensate_retries=0)
        .wait("go")
    )
    await engine.execute(waits, id="waits")
    await engine.start(waits, id="pending")
    await engine.execute(blocks, id="blocked")
    await engine.cancel("blocked")
    for flow, run_id, error in (
        (waits, "waits", RunNotFinished), (waits, "pending", RunNotFinished), (blocks, "blocked", RunNotFinished),
        (waits, "nobody", RunNotFound), (waits, "blocked", RunConflict),
    ):  # fmt: skip
        before = await header(engine, run_id)
        with pytest.raises(error):
            await engine.replay(flow, run_id)
        after = await header(engine, run_id)
        if before is not None:
            assert (after.status, after.position, after.owner, after.blocked) == (before.status, before.position, None, before.blocked)
    runs = create_workflow("runs").step("here", shop.act("here"), timeout=None)
    shop.hanging = {"here"}
    task = asyncio.create_task(engine.execute(runs, id="running"))
    await shop.reached("here")
    with pytest.raises(RunNotFinished):
        await engine.replay(runs, "running")
    await engine.cancel("running", interrupt=True)
    await task


async def test_two_at_once(engine: FluxEngine, cluster: Cluster) -> None:
    """D1: the commit steps run once more, not twice more."""
    other = await cluster.open()
    shop = Shop()
    flow = create_workflow("two").commit("a", shop.act("a"))
    run = await engine.execute(flow)
    results = await asyncio.gather(*[one.replay(flow, run.id) for one in (engine, engine, other, other)])
    assert [result.status.value for result in results] == ["completed"] * 4
    # A call that begins when the first replay is over is a replay of its own.
    assert shop.done.count("a") - 1 == len((await engine.get(run.id)).reopenings)


async def test_killed_in_a_replay(cluster: Cluster) -> None:
    """S12.1, S9.2: it goes on where it stood: a commit step that ran again on record is not run once more."""
    shop = Shop()
    flow = create_workflow("killed").commit("a", shop.act("a")).commit("b", shop.act("b")).commit("c", shop.act("c"))
    one = await cluster.open()
    first = await one.execute(flow, id="r")
    shop.again()
    shop.hanging = {"b"}
    task = asyncio.create_task(one.replay(flow, "r"))
    await shop.reached("b")
    await cluster.crash(one)
    await asyncio.gather(task, return_exceptions=True)
    shop.hanging.clear()
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    assert (await other.get("r")).status == "running"
    async with other.worker():

        async def completed() -> bool:
            return (await other.summary("r")).status == "completed"

        await eventually(completed)
    result = await other.get("r")
    assert shop.done == ["a", "b", "b", "c"] and len(result.reopenings) == 1 and result.status == first.status


@pytest.mark.parametrize("on_unknown", ["fail", "compensate"])
async def test_lost_in_a_replay(cluster: Cluster, on_unknown: Any) -> None:
    """S3.8, D4: where it is not to be called again, it blocks the replay; never compensated."""
    shop = Shop()
    flow = create_workflow("lost").commit("a", shop.act("a"), on_unknown=on_unknown, compensate=shop.act("undo"))
    one = await cluster.open()
    await one.execute(flow, id="r")
    shop.again()
    shop.hanging = {"a"}
    task = asyncio.create_task(one.replay(flow, "r"))
    await shop.reached("a")
    await cluster.crash(one)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    result = await other.resume(flow, "r")
    assert result.status == "blocked" and "ReplayFailed" in (result.blocked_reason or "") and shop.done == ["a"]
    assert (await other.cancel("r")).status == "completed" and shop.done == ["a"]


async def test_probed_in_a_replay(cluster: Cluster) -> None:
    """S3.8: a lost attempt of a replay is asked after like any other."""
    shop = Shop()
    answers = [NOT_DONE, "found"]

    async def probe(ctx: Any) -> Any:
        return answers.pop(0)

    flow = create_workflow("probed").commit("a", shop.act("a"), probe=probe).commit("b", shop.act("b"))
    one = await cluster.open()
    await one.execute(flow, id="r")
    shop.again()
    shop.hanging = {"a"}
    engine = one
    for calls in (1, 2):
        task = asyncio.create_task(engine.replay(flow, "r") if calls == 1 else engine.resume(flow, "r"))
        await eventually(lambda: shop.done.count("a") == calls)
        await cluster.crash(engine)
        await asyncio.gather(task, return_exceptions=True)
        await cluster.outlive()
        engine = await cluster.open(workflows=[flow])
    result = await engine.resume(flow, "r")
    assert result.status == "completed" and result.results["a"] == "found" and shop.done == ["a", "a", "b"] and answers == []


async def test_a_storage_that_fails(cluster: Cluster) -> None:
    """S15.3: the reopening is written once."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    shop = Shop()
    flow = create_workflow("faulty").commit("a", shop.act("a"))
    run = await engine.execute(flow)
    storage.fail("commit", StorageUnavailable("full"), after=True)
    result = await engine.replay(flow, run.id)
    assert result.status == "completed" and len(result.reopenings) == 1 and shop.done == ["a", "a"]


async def test_twice_and_then_after_a_retry(engine: FluxEngine) -> None:
    """D1, D2: keys follow the undoing, not the number of replays."""
    provider, shop = Provider(), Shop("bad")
    flow = create_workflow("keys").commit("charge", provider.charge, compensate=provider.refund).step("bad", shop.act("bad"), retries=0)
    run = await engine.execute(flow)
    shop.again()
    await engine.retry(flow, run.id)
    await engine.replay(flow, run.id)
    result = await engine.replay(flow, run.id)
    assert result.status == "completed" and [reopening.cause for reopening in result.reopenings] == ["retry", "replay", "replay"]
    assert provider.asked[1:] == [provider.asked[1]] * 3 and provider.asked[0] != provider.asked[1] and provider.paid == ["charge-2"]


async def test_it_is_told_of(cluster: Cluster) -> None:
    """S16: hooks hear of it."""
    heard = Listener()
    engine = await cluster.open(hooks=[heard])
    shop = Shop()
    flow = create_workflow("told").step("a", shop.act("a")).commit("b", shop.act("b"))
    run = await engine.execute(flow)
    await eventually(lambda: ("run_completed", "") in heard.heard)
    heard.heard.clear()
    await engine.replay(flow, run.id)
    await eventually(lambda: ("run_completed", "") in heard.heard)
    assert heard.heard == [("run_reopened", ""), ("step_started", "b"), ("run_completed", "")]

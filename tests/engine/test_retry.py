"""An ended run that goes on under its id (S12.2, D1 to D3)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flux import (
    FluxEngine,
    InvalidArgument,
    Retry,
    RunConflict,
    RunFailed,
    RunFinished,
    RunNotFinished,
    RunNotFound,
    RunResult,
    branch,
    create_workflow,
    wait,
)

from .again import Declined, Listener, Provider, Shop, header, stands
from .cluster import Cluster, eventually

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


def statuses(result: RunResult) -> dict[str, str]:
    return {line.path: line.status.value for line in result.history}


# --- where it goes on


async def test_from_the_step_that_failed(engine: FluxEngine) -> None:
    """S12.2, D3: under the same id, from the first step that is not done, its attempts reset; who, when and why is on record."""
    shop = Shop("b")
    flow = (
        create_workflow("retry").step("a", shop.act("a", a=1)).step("b", shop.act("b"), retries=1, retry=AT_ONCE).step("c", shop.act("c"))
    )
    failed = await engine.execute(flow, {"n": 1}, id="r")
    assert failed.status == "failed" and shop.done == ["a", "b", "b"] and failed.reopenings == ()
    shop.again()
    result = await engine.retry(flow, "r", reason="the network is back", by="ana")
    assert result.status == "completed" and result.id == "r" and result.error is None and result.input == {"n": 1}
    assert shop.done == ["b", "c"] and result.results == {"a": "a 1", "b": "b 1", "c": "c 1"} and result.data == {"a": 1}
    line = result.history[1]
    assert line.attempts == 1 and line.error is None
    assert [(old.status.value, old.attempts, type(old.error)) for old in line.earlier] == [("failed", 2, Declined)]
    assert result.history[0].earlier == ()
    (reopening,) = result.reopenings
    assert (reopening.generation, reopening.cause, reopening.from_step) == (1, "retry", "b")
    assert (reopening.by, reopening.reason) == ("ana", "the network is back") and reopening.at >= failed.completed_at
    stored = await engine.get("r")
    assert stored.reopenings == result.reopenings and statuses(stored) == statuses(result)
    page = await engine.list(status="completed")
    assert [run.id for run in page.runs] == ["r"] and (await header(engine, "r")).owner is None


async def test_by_is_this_user_unless_said(engine: FluxEngine) -> None:
    """S12.2: the journal says who did it."""
    shop = Shop("a")
    flow = create_workflow("by").step("a", shop.act("a"), retries=0)
    run = await engine.execute(flow)
    result = await engine.retry(flow, run.id)
    assert result.status == "failed" and "@" in result.reopenings[0].by and result.reopenings[0].reason == ""


async def test_charge_refund_retry(engine: FluxEngine) -> None:
    """D2, D3: a compensated step is not done; the provider sees a new key, else it would answer with the charge it has refunded."""
    provider, shop = Provider(), Shop("ship")
    keys: list[str] = []

    async def reserve(ctx: Any) -> None:
        keys.append(ctx.idempotency_key)

    flow = (
        create_workflow("order")
        .step("reserve", reserve)
        .commit("charge", provider.charge, compensate=provider.refund)
        .step("ship", shop.act("ship"), retries=0)
    )
    await engine.execute(flow, id="r")
    assert provider.paid == []
    again = await engine.retry(flow, "r")
    assert again.status == "failed" and provider.paid == [] and len(provider.refunds) == 2
    shop.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and provider.paid == ["charge-3"] == [result.results["charge"]]
    assert len(set(provider.asked)) == 3 and list(provider.refunds) == [f"{key}!undo" for key in provider.asked[:2]]
    assert len(keys) == 1, "what was not undone is not done again"
    assert [reopening.generation for reopening in result.reopenings] == [1, 2]
    assert [line.status.value for line in result.history[1].earlier] == ["compensated", "compensated"]


async def test_keys_of_what_was_not_undone(engine: FluxEngine) -> None:
    """D2: without an undo the key stays what it was: the failed call may have arrived."""
    keys: list[str] = []

    async def send(ctx: Any) -> None:
        keys.append(ctx.idempotency_key)
        if len(keys) < 3:
            raise Declined

    flow = create_workflow("keys").step("send", send, retries=0)
    run = await engine.execute(flow)
    await engine.retry(flow, run.id)
    assert (await engine.retry(flow, run.id)).status == "completed" and len(keys) == 3 and len(set(keys)) == 1


async def test_on_the_data_of_that_time(engine: FluxEngine) -> None:
    """D3: `ctx.data` is what was committed before the step that it goes on from; the undone steps are redone."""
    shop = Shop("last")
    flow = (
        create_workflow("data")
        .step("kept", shop.act("kept", n=1, kept=True))
        .step("first", shop.act("first", n=2, first=True), compensate=shop.act("undo first"))
        .step("second", shop.act("second", n=3), compensate=shop.act("undo second"))
        .step("last", shop.act("last"), retries=0)
    )
    run = await engine.execute(flow)
    assert shop.done == ["kept", "first", "second", "last", "undo second", "undo first"]
    shop.again()
    result = await engine.retry(flow, run.id)
    assert shop.done == ["first", "second", "last"] and result.status == "completed"
    kept = {"n": 1, "kept": True}
    assert [data for _, data in shop.saw] == [kept, {**kept, "n": 2, "first": True}, {**kept, "n": 3, "first": True}]
    assert result.data == {"n": 3, "kept": True, "first": True} == (await engine.get(run.id)).data


async def test_from_a_named_step(engine: FluxEngine) -> None:
    """S12.2, D3: `from_step` goes further back: everything after it is not done either."""
    shop = Shop("c")
    flow = create_workflow("named").step("a", shop.act("a", n=1)).step("b", shop.act("b", n=2)).step("c", shop.act("c"), retries=0)
    run = await engine.execute(flow)
    shop.again()
    result = await engine.retry(flow, run.id, from_step="b")
    assert shop.done == ["b", "c"] and shop.saw[0] == ("b", {"n": 1}) and result.status == "completed"
    assert result.reopenings[0].from_step == "b"


async def test_an_earlier_effect_is_owed(engine: FluxEngine) -> None:
    """I30, S10: what a step did before it was done again is undone when the new attempt comes to nothing."""
    provider, shop = Provider(), Shop("ship")
    flow = (
        create_workflow("owed")
        .step("charge", provider.charge, compensate=provider.refund)
        .wait("go")
        .step("ship", shop.act("ship"), retries=0)
    )
    await engine.execute(flow, id="r")
    await engine.cancel("r", compensate=False)
    assert provider.paid == ["charge-1"]
    failing = {"now": True}

    async def charge(ctx: Any) -> str:
        if failing["now"]:
            raise Declined
        return await provider.charge(ctx)

    changed = (
        create_workflow("owed")
        .step("charge", charge, retries=0, compensate=provider.refund)
        .wait("go")
        .step("ship", shop.act("ship"), retries=0)
    )
    result = await engine.retry(changed, "r", from_step="charge")
    assert result.status == "failed" and provider.refunds != {} and provider.paid == []
    assert statuses(result)["charge"] == "compensated"
    failing["now"] = False
    assert (await engine.retry(changed, "r")).waiting_for == ("go",)
    assert provider.paid == ["charge-2"] and len(set(provider.asked)) == 2


async def test_conditions_are_asked_again(engine: FluxEngine) -> None:
    """D3: `when` of the steps from there on is a question of this generation (S6.1 holds within one)."""
    shop = Shop("b")
    wanted = {"maybe": False}
    flow = (
        create_workflow("when")
        .step("before", shop.act("before"), when=lambda ctx: wanted["maybe"])
        .step("b", shop.act("b"), retries=0)
        .step("maybe", shop.act("maybe"), when=lambda ctx: wanted["maybe"])
    )
    run = await engine.execute(flow)
    shop.again()
    wanted["maybe"] = True
    result = await engine.retry(flow, run.id)
    assert shop.done == ["b", "maybe"] and statuses(result) == {"before": "skipped", "b": "completed", "maybe": "completed"}


async def test_inside_a_branch(engine: FluxEngine, cluster: Cluster) -> None:
    """D3: the first step that is not done may be inside: what was done there stays done."""
    shop = Shop("c")
    late = branch().step("b", shop.act("b", b=1)).step("c", shop.act("c"), retries=0)
    flow = create_workflow("inside").step("a", shop.act("a")).wait("w", timeout=5, on_timeout=late).step("d", shop.act("d"))
    run = await engine.execute(flow)
    await cluster.clock.advance(5)
    assert (await engine.resume(flow, run.id)).status == "failed"
    shop.again()
    result = await engine.retry(flow, run.id)
    assert shop.done == ["c", "d"] and result.status == "completed" and result.reopenings[0].from_step == "w/on_timeout/c"
    assert result.results["w"] == {"b": "b 1", "c": "c 1"} and result.data == {"b": 1}


async def test_waits_are_awaited_again(engine: FluxEngine) -> None:
    """D3: a wait behind that step waits anew; what it received stands among the earlier lines."""
    shop = Shop("after")
    flow = (
        create_workflow("waits")
        .step("a", shop.act("a"), compensate=shop.act("undo"))
        .wait("go")
        .step("after", shop.act("after"), retries=0)
    )
    run = await engine.execute(flow)
    assert (await engine.signal(flow, run.id, "go", 1)).status == "failed"
    shop.again()
    waiting = await engine.retry(flow, run.id)
    assert waiting.status == "suspended" and waiting.waiting_for == ("go",) and shop.done == ["a"]
    result = await engine.signal(flow, run.id, "go", 2)
    assert result.status == "completed" and result.results["go"] == 2
    assert [line.result for line in result.history[1].earlier] == [1]


async def test_signals_are_kept(engine: FluxEngine) -> None:
    """S7.2: a signal that nothing had taken when the run failed is there for the retried run."""
    shop = Shop("a")
    flow = create_workflow("kept").step("first", shop.act("first")).wait("open").step("a", shop.act("a"), retries=0).wait("go")
    run = await engine.execute(flow)
    await engine.signal(flow, run.id, "go", "early", signal_id="s-1")
    assert (await engine.signal(flow, run.id, "open")).status == "failed"
    shop.again()
    async with asyncio.timeout(20):
        result = await engine.retry(flow, run.id)
    assert result.status == "completed" and result.results["go"] == "early" and shop.done == ["a"]


async def test_a_cancelled_run(engine: FluxEngine) -> None:
    """S12.2: the cancel is forgotten; undone steps are done again, and a new cancel is a new request."""
    shop = Shop()
    flow = create_workflow("cancelled").step("a", shop.act("a"), compensate=shop.act("undo")).wait("go").step("b", shop.act("b"))
    run = await engine.execute(flow)
    assert (await engine.cancel(run.id)).status == "cancelled"
    again = await engine.retry(flow, run.id)
    assert again.status == "suspended" and again.waiting_for == ("go",) and not again.cancelling and again.error is None
    assert (await engine.cancel(run.id)).status == "cancelled" and shop.done == ["a", "undo", "a", "undo"]
    await engine.retry(flow, run.id)
    assert (await engine.signal(flow, run.id, "go")).status == "completed"


async def test_cancelled_without_compensating(engine: FluxEngine) -> None:
    """S11.2, D3: what was not undone is done: it goes on at the wait."""
    shop = Shop()
    flow = create_workflow("left").step("a", shop.act("a"), compensate=shop.act("undo")).wait("go").step("b", shop.act("b"))
    run = await engine.execute(flow)
    await engine.cancel(run.id, compensate=False)
    assert (await engine.retry(flow, run.id)).waiting_for == ("go",)
    assert (await engine.signal(flow, run.id, "go")).status == "completed" and shop.done == ["a", "b"]


async def test_a_failed_compensation_is_owed(engine: FluxEngine) -> None:
    """S10.3, I30: a step whose undoing failed is done; when the retried run fails too, its undoing is tried again."""
    shop = Shop("b", "undo")
    flow = (
        create_workflow("owes")
        .step("a", shop.act("a"), compensate=shop.act("undo"), compensate_retries=0)
        .step("b", shop.act("b"), retries=0)
    )
    run = await engine.execute(flow)
    assert list(run.compensation_errors) == ["a"]
    shop.failing = {"b"}
    result = await engine.retry(flow, run.id)
    assert shop.done == ["a", "b", "undo", "b", "undo"] and result.status == "failed" and result.compensation_errors == {}
    assert statuses(result) == {"a": "compensated", "b": "failed"}


async def test_when_nothing_is_left_to_do(engine: FluxEngine, cluster: Cluster) -> None:
    """D3, S5.2: a run whose deadline passed while its last step ran has nothing to do again: it completes."""
    shop = Shop()

    async def long(ctx: Any) -> None:
        await cluster.clock.advance(7)

    flow = create_workflow("nothing", deadline=5).commit("a", long)
    run = await engine.execute(flow)
    assert run.status == "failed" and statuses(run) == {"a": "completed"}
    result = await engine.retry(flow, run.id)
    assert result.status == "completed" and shop.done == [] and result.reopenings[0].from_step == ""


async def test_the_deadline_begins_anew(engine: FluxEngine, cluster: Cluster) -> None:
    """S5.2, D3: a retried run has its whole time again, and is bound by it."""
    shop = Shop()
    flow = create_workflow("deadline", deadline=100).step("a", shop.act("a")).wait("go")
    run = await engine.execute(flow)
    await cluster.clock.advance(101)
    failed = await engine.resume(flow, run.id)
    assert failed.status == "failed" and type(failed.error).__name__ == "DeadlineExceeded"
    waiting = await engine.retry(flow, run.id)
    assert waiting.status == "suspended" and waiting.wake_at == cluster.clock.datetime + timedelta(seconds=100)
    await cluster.clock.advance(99)
    assert (await engine.resume(flow, run.id)).status == "suspended"
    await cluster.clock.advance(2)
    assert (await engine.resume(flow, run.id)).status == "failed"


# --- what is refused


async def test_what_is_refused(engine: FluxEngine, cluster: Cluster) -> None:
    """S12.2, S2.2: a run that has completed, or goes on by itself, is left as it is."""
    shop = Shop("bad")
    done = create_workflow("done").step("a", shop.act("a"))
    waits = create_workflow("waits").step("a", shop.act("a")).wait("go")
    failing = create_workflow("failing").step("bad", shop.act("bad"), retries=0)
    await engine.execute(done, id="done")
    await engine.execute(waits, id="waits")
    await engine.start(waits, id="pending")
    await engine.execute(failing, id="failed")
    for flow, run_id, error in (
        (done, "done", RunFinished), (waits, "waits", RunNotFinished), (waits, "pending", RunNotFinished),
        (done, "nobody", RunNotFound), (waits, "failed", RunConflict),
    ):  # fmt: skip
        before = await header(engine, run_id)
        with pytest.raises(error):
            await engine.retry(flow, run_id)
        after = await header(engine, run_id)
        if before is not None:
            assert (after.status, after.position, after.owner, after.wake_at, after.blocked) == (
                before.status, before.position, None, before.wake_at, before.blocked,
            )  # fmt: skip
    with pytest.raises(InvalidArgument):
        await engine.retry(failing, "failed", reason=5)  # type: ignore[arg-type]
    assert (await engine.signal(waits, "waits", "go")).status == "completed"
    other = await cluster.open(workflows=[waits])
    assert (await other.resume(waits, "pending")).waiting_for == ("go",)


async def test_steps_that_are_refused(engine: FluxEngine) -> None:
    """D3: `from_step` may not skip a step that is not done, nor name one that is not there or was not reached; the run stays as it was."""
    shop = Shop("b")
    flow = (
        create_workflow("steps")
        .step("a", shop.act("a"), compensate=shop.act("undo a"))
        .wait("w", timeout=9, default=1, when=lambda ctx: False)
        .step("b", shop.act("b"), retries=0)
        .step("c", shop.act("c"))
    )
    run = await engine.execute(flow)
    before = await header(engine, run.id)
    for from_step in ("b", "c", "w", "nobody", "a/x", "", "a!undo"):
        with pytest.raises(InvalidArgument):
            await engine.retry(flow, run.id, from_step=from_step)
    after = await header(engine, run.id)
    assert (after.status, after.position, after.ended_at, after.owner, after.updated_at) == (
        before.status, before.position, before.ended_at, None, before.updated_at,
    )  # fmt: skip
    assert [found.id for found in (await engine.list(status="failed")).runs] == [run.id]
    assert shop.done == ["a", "b", "undo a"]
    shop.again()
    assert (await engine.retry(flow, run.id, from_step="a")).status == "completed"


async def test_a_branch_that_was_not_taken(engine: FluxEngine) -> None:
    """D3: a step in a branch that the run did not go into is no place to go on from."""
    shop = Shop("b")
    late = branch().step("late", shop.act("late"))
    flow = create_workflow("branch").wait("w", timeout=5, on_timeout=late).step("b", shop.act("b"), retries=0)
    run = await engine.execute(flow)
    assert (await engine.signal(flow, run.id, "w")).status == "failed"
    with pytest.raises(InvalidArgument):
        await engine.retry(flow, run.id, from_step="w/on_timeout/late")


async def test_while_it_runs(engine: FluxEngine) -> None:
    """S12.2: a run that is moved here is not retried."""
    shop = Shop()
    shop.hanging = {"a"}
    flow = create_workflow("runs").step("a", shop.act("a"), timeout=None)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await shop.reached("a")
    with pytest.raises(RunNotFinished):
        await engine.retry(flow, "r")
    await engine.cancel("r", interrupt=True)
    await task


# --- blocked runs


async def test_a_blocked_compensation(engine: FluxEngine) -> None:
    """S10.6: `retry` moves a blocked run on from where it is blocked."""
    shop = Shop("b", "undo a")
    flow = (
        create_workflow("blocked", on_compensation_failure="block")
        .step("first", shop.act("first"), compensate=shop.act("undo first"))
        .step("a", shop.act("a"), compensate=shop.act("undo a"), compensate_retries=0)
        .step("b", shop.act("b"), retries=0)
    )
    run = await engine.execute(flow)
    assert run.status == "blocked" and shop.done[-1] == "undo a"
    with pytest.raises(InvalidArgument):
        await engine.retry(flow, run.id, from_step="a")
    assert (await engine.get(run.id)).status == "blocked"
    assert (await engine.retry(flow, run.id)).status == "blocked" and shop.done[-1] == "undo a"
    shop.failing.clear()
    result = await engine.retry(flow, run.id, by="ana", reason="why not")
    assert result.status == "failed" and shop.done[-2:] == ["undo a", "undo first"] and result.compensation_errors == {}
    assert [(done.path, done.way, done.by, done.reason) for done in result.resolutions][1:] == [("a!undo", "retry", "ana", "why not")]


# --- the run, before and after


async def test_another_engine(cluster: Cluster) -> None:
    """S12.2: the process that failed it need not be there any more."""
    shop = Shop("b")
    flow = create_workflow("another").step("a", shop.act("a")).step("b", shop.act("b"), retries=0)
    async with cluster.new() as one:
        await one.execute(flow, id="r")
    shop.again()
    async with cluster.new() as two:
        assert (await two.retry(flow, "r")).status == "completed"
    async with cluster.new(workflows=[flow]) as three:
        result = await three.get("r")
        assert result.results == {"a": "a 1", "b": "b 1"} and len(result.reopenings) == 1 and shop.done == ["b"]


async def test_by_idempotency_key(engine: FluxEngine) -> None:
    """D27: `execute` under the key of a failed run returns it; only an explicit retry moves it on."""
    shop = Shop("a")
    flow = create_workflow("key").step("a", shop.act("a"), retries=0)
    run = await engine.execute(flow, 1, idempotency_key="k")
    shop.again()
    same = await engine.execute(flow, 1, idempotency_key="k")
    assert same.id == run.id and same.status == "failed" and shop.done == []
    assert (await engine.retry(flow, run.id)).status == "completed"
    assert (await engine.execute(flow, 1, idempotency_key="k")).status == "completed" and shop.done == ["a"]


async def test_a_worker_carries_it_on(engine: FluxEngine, cluster: Cluster) -> None:
    """S12.1, S8.2: a retried run that sleeps is woken by a worker."""
    shop = Shop("b")
    flow = (
        create_workflow("sleeps")
        .step("a", shop.act("a"))
        .step("b", shop.act("b"), retries=0)
        .sleep("nap", hours=1)
        .step("c", shop.act("c"))
    )
    run = await engine.execute(flow)
    shop.again()
    result = await engine.retry(flow, run.id)
    assert result.status == "suspended" and result.wake_at is not None
    other = await cluster.open(workflows=[flow])
    async with other.worker():
        await cluster.clock.advance(hours=1, seconds=1)
        await eventually(lambda: stands(other, run.id, "completed"))
    assert shop.done == ["b", "c"]


async def test_the_handle_after_a_retry(engine: FluxEngine) -> None:
    """D1: `result()` tells of the run as it stands: failed before the retry, its data after it."""
    shop = Shop("a")
    flow = create_workflow("handle").step("a", shop.act("a", n=1), retries=0).wait("go")
    run = await engine.execute(flow)
    handle = engine.handle(run.id)
    with pytest.raises(RunFailed):
        await handle.result()
    shop.again()
    await engine.retry(flow, run.id)
    task = asyncio.create_task(handle.result())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done() and await handle.status() == "suspended"
    await engine.signal(flow, run.id, "go")
    assert await task == {"n": 1}


async def test_it_is_told_of(cluster: Cluster) -> None:
    """S16, D26: hooks hear that the run was reopened, and where."""
    heard = Listener()
    engine = await cluster.open(hooks=[heard])
    shop = Shop("b")
    flow = create_workflow("told").step("a", shop.act("a")).step("b", shop.act("b"), retries=0)
    run = await engine.execute(flow)
    await eventually(lambda: ("run_failed", "") in heard.heard)
    heard.heard.clear()
    shop.again()
    await engine.retry(flow, run.id)
    await eventually(lambda: ("run_completed", "") in heard.heard)
    assert heard.heard == [("run_reopened", "b"), ("step_started", "b"), ("run_completed", "")]


async def test_a_retried_run_is_deleted_and_purged(engine: FluxEngine, cluster: Cluster) -> None:
    """D26: while it goes on it is not; its age counts from its new end."""
    shop = Shop("a")
    flow = create_workflow("purged").step("a", shop.act("a"), retries=0).wait("go")
    run = await engine.execute(flow)
    await cluster.clock.advance(100)
    shop.again()
    await engine.retry(flow, run.id)
    assert await engine.purge(0) == 0
    with pytest.raises(RunNotFinished):
        await engine.delete(run.id)
    await engine.signal(flow, run.id, "go")
    assert await engine.purge(50) == 0
    await cluster.clock.advance(51)
    assert await engine.purge(50) == 1


async def test_earlier_compensations(engine: FluxEngine) -> None:
    """S10.6, D1: the line of each generation tells how its own undoing went."""
    shop = Shop("b", "undo")
    flow = (
        create_workflow("earlier")
        .step("a", shop.act("a"), compensate=shop.act("undo"), compensate_retries=1, retry=AT_ONCE)
        .step("b", shop.act("b"), retries=0)
    )
    run = await engine.execute(flow)
    shop.failing = {"b"}
    await engine.retry(flow, run.id)
    await engine.retry(flow, run.id)
    shop.failing = {"b", "undo"}
    last = (await engine.retry(flow, run.id)).history[0]
    assert last.compensation is not None and (last.compensation.status, last.compensation.attempts) == ("failed", 2)
    told = [
        (line.status.value, line.compensation and (line.compensation.status.value, line.compensation.attempts)) for line in last.earlier
    ]
    assert told == [("compensated", ("completed", 1)), ("compensated", ("completed", 1))], told


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("from_step", ["inner", "w"])
async def test_from_a_step_with_a_branch(engine: FluxEngine, cluster: Cluster, single: bool, from_step: str) -> None:
    """D3: from a named step inside the branch that was taken, or from the step that it belongs to: that waits anew."""
    shop = Shop("last")
    late: Any = (
        shop.act("b", n=2) if single else branch().step("b", shop.act("b", n=2), compensate=shop.act("undo")).step("c", shop.act("c"))
    )
    flow = (
        create_workflow("branch")
        .step("a", shop.act("a", n=1))
        .wait("w", timeout=5, on_timeout=late)
        .step("last", shop.act("last"), retries=0)
    )
    run = await engine.execute(flow)
    await cluster.clock.advance(5)
    assert (await engine.resume(flow, run.id)).status == "failed"
    shop.again()
    if from_step == "inner":
        path = "w/on_timeout" if single else "w/on_timeout/b"
        result = await engine.retry(flow, run.id, from_step=path)
        assert shop.saw[0] == ("b", {"n": 1}) and result.reopenings[0].from_step == path
        assert shop.done == (["b", "last"] if single else ["b", "c", "last"])
    else:
        waiting = await engine.retry(flow, run.id, from_step="w")
        assert waiting.waiting_for == ("w",) and shop.done == [] and waiting.wake_at is not None
        assert "w/on_timeout" not in statuses(waiting) and waiting.data == {"n": 1}
        result = await engine.signal(flow, run.id, "w", "in time")
        assert result.results["w"] == "in time" and shop.done == ["last"]
    assert result.status == "completed" and (await engine.get(run.id)).results == result.results


async def test_one_that_returned_wait(engine: FluxEngine) -> None:
    """S7.1, D3: undone before its signal came, it is called again, and waits again."""
    shop = Shop()

    async def ask(ctx: Any) -> Any:
        shop.done.append("ask")
        return wait("answer")

    flow = create_workflow("asks").step("ask", ask, waits=("answer",), compensate=shop.act("undo")).step("b", shop.act("b"))
    run = await engine.execute(flow)
    assert (await engine.cancel(run.id)).status == "cancelled" and shop.done == ["ask", "undo"]
    assert (await engine.retry(flow, run.id)).waiting_for == ("answer",)
    result = await engine.signal(flow, run.id, "answer", 5)
    assert result.status == "completed" and result.results["ask"] == 5 and shop.done == ["ask", "undo", "ask", "b"]


async def test_cancelled_in_a_retry_delay(engine: FluxEngine) -> None:
    """D3, S4: the attempts and the delay of the time before are over: it is called at once, with all its retries."""
    shop = Shop("a")
    flow = create_workflow("delay").step(
        "a", shop.act("a"), retries=1, retry=Retry(backoff="fixed", initial=3600, maximum=3600, jitter=False)
    )
    run = await engine.execute(flow)
    assert run.status == "suspended"
    assert (await engine.cancel(run.id)).status == "cancelled"
    again = await engine.retry(flow, run.id)
    assert again.status == "suspended" and shop.done == ["a", "a"] and again.history[0].attempts == 1
    await engine.cancel(run.id)
    shop.failing.clear()
    result = await engine.retry(flow, run.id)
    assert (
        result.status == "completed"
        and shop.done == ["a"] * 3
        and [line.status.value for line in result.history[0].earlier] == ["cancelled"] * 2
    )


async def test_a_signal_that_two_waits_want(engine: FluxEngine) -> None:
    """S7.2, D24: those that came early go in order to the waits of the retried run."""
    shop = Shop("a")
    flow = create_workflow("two").wait("open").step("a", shop.act("a"), retries=0).wait("one", signal="go").wait("two", signal="go")
    run = await engine.execute(flow)
    for payload in (1, 2):
        await engine.signal(flow, run.id, "go", payload, signal_id=f"s-{payload}")
    assert (await engine.signal(flow, run.id, "open")).status == "failed"
    with pytest.raises(RunFinished):
        await engine.signal(flow, run.id, "go", 3)
    shop.again()
    result = await engine.retry(flow, run.id)
    assert result.status == "completed" and (result.results["one"], result.results["two"]) == (1, 2)

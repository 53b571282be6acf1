"""Cancelling."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from flux import FluxEngine, Retry, RunCancelled, RunFinished, RunNotFound, RunStatus, create_workflow

from .cluster import Cluster, Effects, eventually

pytestmark = pytest.mark.anyio


class Gate:
    """A handler that enters, and goes on when told to."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = ""

    async def __call__(self, ctx: Any) -> str:
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "returned"
        return "done"


async def test_a_suspended_run(engine: FluxEngine) -> None:
    """S11.1: woken, compensated and `cancelled`; the reason is told."""
    effects = Effects()
    errors: list[Any] = []

    async def undo(ctx: Any) -> None:
        errors.append(ctx.error)

    flow = create_workflow("c").step("a", effects.step("a"), compensate=undo).wait("w").step("b", effects.step("b"))
    result = await engine.cancel((await engine.execute(flow)).id, "not wanted")
    assert result.status is RunStatus.CANCELLED and isinstance(result.error, RunCancelled) and "not wanted" in str(result.error)
    assert isinstance(errors[0], RunCancelled) and effects.done == ["a"]
    assert [line.status.value for line in result.history] == ["compensated", "cancelled"]
    with pytest.raises(RunCancelled, match="not wanted"):
        result.unwrap()


async def test_a_sleeping_run(engine: FluxEngine) -> None:
    """S11.1: a long sleep, a sleep that a caller stays with, a retry's delay."""
    effects = Effects()
    long = create_workflow("long").step("a", effects.step("a"), compensate=effects.step("undo")).sleep("s", days=3)
    assert (await engine.cancel((await engine.execute(long)).id)).status == "cancelled"
    assert effects.done == ["a", "undo"]
    policy = Retry("fixed", initial=999, maximum=999, jitter=False)
    retry = create_workflow("retry").step("a", effects.step("x", error=OSError()), retry=policy)
    assert (await engine.cancel((await engine.execute(retry)).id)).status == "cancelled"
    assert effects.done == ["a", "undo", "x"]


async def test_a_run_whose_caller_stays_with_a_sleep(cluster: Cluster) -> None:
    """S11.1: a run that rests in its holder is woken too, here and from elsewhere."""
    cluster.stand_still()
    engine, other = await cluster.open(), await cluster.open()
    flow = create_workflow("stays").sleep("s", 50)
    for number, who in enumerate((engine, other)):
        run_id = f"r{number}"
        task = asyncio.create_task(engine.execute(flow, id=run_id))
        await _until(engine, run_id, "suspended")
        answer = await who.cancel(run_id)
        if who is engine:
            assert answer.status == "cancelled"
        else:
            assert answer.status == "suspended"
            await cluster.clock.advance(1)  # a heartbeat
        assert (await task).status == "cancelled"


async def _until(engine: FluxEngine, run_id: str, status: str) -> None:
    async def there() -> bool:
        try:
            return bool((await engine.summary(run_id)).status == status)
        except RunNotFound:
            return False

    await eventually(there)


async def test_a_queued_run(engine: FluxEngine) -> None:
    """S11.1: one that nothing has started yet never starts, delayed or not."""
    effects = Effects()
    flow = create_workflow("queued").step("a", effects.step("a"))
    for delay in (0, timedelta(days=1)):
        handle = await engine.start(flow, delay=delay)
        assert (await handle.cancel("never mind")).status == "cancelled"
    assert effects.done == []


async def test_a_running_run_at_its_next_boundary(engine: FluxEngine) -> None:
    """S11.1, I28: the step in flight is recorded, then compensated; nothing after it starts."""
    effects, gate = Effects(), Gate()
    flow = create_workflow("runs").step("a", gate, compensate=effects.step("undo a")).step("b", effects.step("b"))
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await gate.entered.wait()
    asked = await engine.cancel("r")
    assert asked.status == "running"
    gate.go.set()
    result = await task
    assert result.status == "cancelled" and gate.ended == "returned" and effects.done == ["undo a"]
    assert result.results == {"a": "done"}


async def test_a_step_in_flight_that_then_fails(engine: FluxEngine) -> None:
    """S11.1: it is not retried; the run is cancelled, not failed."""
    effects = Effects()
    entered, go = asyncio.Event(), asyncio.Event()

    async def fail(ctx: Any) -> None:
        effects.done.append("try")
        entered.set()
        await go.wait()
        raise OSError("x")

    flow = create_workflow("fails").step("z", effects.step("z"), compensate=effects.step("undo z")).step("a", fail, retries=5)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    await engine.cancel("r")
    go.set()
    result = await task
    assert result.status == "cancelled" and effects.done == ["z", "try", "undo z"]


async def test_interrupting(engine: FluxEngine) -> None:
    """S11.1, D8: `interrupt=True` cancels the handler; its step is in doubt and so compensated."""
    effects, gate = Effects(), Gate()
    flow = create_workflow("interrupt").step("a", gate, timeout=None, compensate=effects.step("undo a")).step("b", effects.step("b"))
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await gate.entered.wait()
    result = await engine.cancel("r", interrupt=True)
    assert result.status == "cancelled" and gate.ended == "cancelled" and effects.done == ["undo a"]
    assert (await task).status == "cancelled"
    assert result.history[0].in_doubt is False and result.history[0].status == "compensated"


async def test_interrupting_after_asking(engine: FluxEngine) -> None:
    """S11.2: a second cancel is the same request, but may become an interrupting one."""
    gate = Gate()
    flow = create_workflow("twice").step("a", gate, timeout=None)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await gate.entered.wait()
    assert (await engine.cancel("r", "first")).status == "running"
    assert (await engine.cancel("r", "second")).status == "running"
    result = await engine.cancel("r", "third", interrupt=True)
    assert result.status == "cancelled" and "first" in str(result.error)
    await task


async def test_interrupting_from_elsewhere(cluster: Cluster) -> None:
    """D13: an interrupt reaches the holder within a heartbeat."""
    gate = Gate()
    flow = create_workflow("far").step("a", gate, timeout=None)
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await gate.entered.wait()
    assert (await other.cancel("r", interrupt=True)).status == "running"
    await cluster.clock.advance(1)
    assert (await task).status == "cancelled" and gate.ended == "cancelled"


async def test_interrupting_a_thread(engine: FluxEngine) -> None:
    """S5.1, S11.1: a `def` handler cannot be stopped; the run goes on without it, but its undoing waits for it (D9)."""
    entered, go = threading.Event(), threading.Event()
    order: list[str] = []

    def block(ctx: Any) -> None:
        entered.set()
        go.wait(10)
        order.append("returned")

    async def undo(ctx: Any) -> None:
        order.append("undone")

    flow = create_workflow("thread").step("a", block, timeout=None, compensate=undo)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await eventually(entered.is_set)
    asked = asyncio.create_task(engine.cancel("r", interrupt=True))
    await _until(engine, "r", "compensating")
    go.set()
    assert (await asked).status == "cancelled" and (await task).status == "cancelled" and order == ["returned", "undone"]


async def test_a_commit_step_is_shielded(engine: FluxEngine) -> None:
    """S9.1, S11.1: it always finishes first, also when interrupted."""
    effects, gate = Effects(), Gate()
    flow = create_workflow("commit").commit("a", gate, compensate=effects.step("undo a")).step("b", effects.step("b"))
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await gate.entered.wait()
    asked = asyncio.create_task(engine.cancel("r", interrupt=True))
    await _until_asked(engine, "r")
    assert gate.ended == ""
    gate.go.set()
    assert (await asked).status == "cancelled" and (await task).status == "cancelled"
    assert gate.ended == "returned" and effects.done == ["undo a"]


async def _until_asked(engine: FluxEngine, run_id: str) -> None:
    async def there() -> bool:
        run = await engine.storage.load(run_id)
        return run is not None and run.header.inbox_seq > 0

    await eventually(there)


async def test_without_compensating(engine: FluxEngine) -> None:
    """S11.2: `compensate=False`."""
    effects = Effects()
    flow = create_workflow("not").step("a", effects.step("a"), compensate=effects.step("undo")).wait("w")
    result = await engine.cancel((await engine.execute(flow)).id, compensate=False)
    assert result.status == "cancelled" and effects.done == ["a"] and result.history[0].status == "completed"


async def test_what_cannot_be_cancelled(engine: FluxEngine) -> None:
    """api.md: an unknown run is RunNotFound, one that ended RunFinished, a second time too."""
    flow = create_workflow("ended").step("a", Effects().step("a"))
    ended = await engine.execute(flow)
    with pytest.raises(RunNotFound):
        await engine.cancel("nobody")
    with pytest.raises(RunFinished):
        await engine.cancel(ended.id)
    handle = await engine.start(flow)
    await handle.cancel()
    with pytest.raises(RunFinished):
        await handle.cancel()


async def test_during_compensation_it_changes_nothing(engine: FluxEngine) -> None:
    """S11.2: the run that fails goes on failing."""
    effects, gate = Effects(), Gate()
    flow = (
        create_workflow("down")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .step("b", effects.step("b"), compensate=gate, compensate_timeout=999)
        .step("fail", effects.step("fail", error=ValueError("no")), retries=0)
    )
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await gate.entered.wait()
    answer = await engine.cancel("r", compensate=False)
    assert answer.status == "compensating"
    gate.go.set()
    result = await task
    assert result.status == "failed" and isinstance(result.error, ValueError) and effects.done == ["a", "b", "fail", "undo a"]
    assert gate.ended == "returned"


async def test_against_completion(engine: FluxEngine) -> None:
    """S11.2, I27: one of the two, and the caller learns which."""
    for turns in range(25):
        effects = Effects()
        flow = create_workflow("race").step("a", effects.step("a"), compensate=effects.step("undo")).step("b", effects.step("b"))
        run_id = f"r{turns}"
        task = asyncio.create_task(engine.execute(flow, id=run_id))
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await engine.cancel(run_id)
            accepted = True
        except RunFinished:
            accepted = False
        except RunNotFound:
            continue
        finally:
            await task
        status = (await engine.get(run_id)).status
        assert status == ("cancelled" if accepted else "completed")
        assert effects.done.count("undo") == (1 if accepted and "a" in effects.done else 0)


async def test_with_only_posting(cluster: Cluster) -> None:
    """D19: `drive_in_caller=False` asks, and a worker does it."""
    effects = Effects()
    flow = create_workflow("web").step("a", effects.step("a"), compensate=effects.step("undo")).wait("w")
    web, worker = await cluster.open(drive_in_caller=False), await cluster.open(workflows=[flow])
    run_id = (await worker.execute(flow)).id
    assert (await web.cancel(run_id)).status == "suspended"
    async with worker.worker():
        await _until(worker, run_id, "cancelled")
    assert effects.done == ["a", "undo"]


async def test_a_cancel_survives_a_crash(cluster: Cluster) -> None:
    """S11.1: durable at once; whoever takes the run over honours it, and compensates what was in flight."""
    effects, gate = Effects(), Gate()
    flow = create_workflow("crash").step("a", gate, timeout=None, compensate=effects.step("undo a")).step("b", effects.step("b"))
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await gate.entered.wait()
    await other.cancel("r")
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    result = await other.resume(flow, "r")
    assert result.status == "cancelled" and effects.done == ["undo a"]


async def test_a_sheltered_handler_that_cancels_its_own_run(engine: FluxEngine) -> None:
    """S11.1, D19: an interrupting cancel does not stop a commit step, nor does its call there wait for the run."""

    async def charge(ctx: Any) -> str:
        await engine.cancel(ctx.run_id, interrupt=True)
        return "charged"

    flow = create_workflow("self").commit("charge", charge).step("next", charge)
    async with asyncio.timeout(60):
        result = await engine.execute(flow)
    assert result.status == "cancelled" and result.results == {"charge": "charged"}

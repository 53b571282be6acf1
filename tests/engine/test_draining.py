"""Closing an engine: handlers finish, runs are given back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from flux import EngineClosed, Retry, RunStatus, create_workflow

from .cluster import Cluster, Effects, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio


class Hold:
    """A handler that waits for `go` on its first attempt."""

    def __init__(self, effects: Effects) -> None:
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.effects = effects

    async def __call__(self, ctx: Any) -> str:
        self.effects.done.append(f"hold {ctx.attempt}")
        if ctx.attempt == 1:
            self.entered.set()
            await self.go.wait()
        return "held"


async def test_a_handler_may_finish(cluster: Cluster) -> None:
    """S14.4, D7: its step is recorded, the next one is not started, and the run is there for others at once, with nothing in doubt."""
    effects = Effects()
    hold = Hold(effects)
    flow = create_workflow("drain").step("hold", hold).step("next", effects.step("next"))
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await hold.entered.wait()
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    hold.go.set()
    await closing
    result = await task
    assert result.results == {"hold": "held"} and effects.done == ["hold 1"]
    left = await other.get("r")
    assert left.status == "running" and [line.status.value for line in left.history] == ["completed"]
    async with other.worker():  # at once: no lease has to run out
        await other.handle("r").result(timeout=60)
    done = await other.get("r")
    assert effects.done == ["hold 1", "next"] and done.history[1].attempts == 1 and not done.history[1].in_doubt


async def test_closed_by_several_at_once(cluster: Cluster) -> None:
    """S14.4: whoever leaves the engine closes it, and `work`, which is told to stop by that, does too. It is closed once: a storage that
    it shares with another engine stays open for that one, and both wait until it is done."""
    hold = Hold(Effects())
    flow = create_workflow("drain").step("hold", hold)
    storage = cluster.storage()
    other, engine = await cluster.open(storage, workflows=[flow]), await cluster.open(storage, workflows=[flow])
    working = asyncio.create_task(engine.work(handle_signals=False))
    await engine.start(flow, id="r")
    await hold.entered.wait()
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    hold.go.set()
    await asyncio.gather(closing, working)
    await engine.close()
    assert (await other.get("r")).results == {"hold": "held"}
    assert (await other.execute(create_workflow("still").step("open", Effects().step("open")))).status == "completed"


async def test_a_worker_that_begins_while_it_closes(cluster: Cluster) -> None:
    """S14.4: an engine that closes claims nothing, also for a worker whose task has its first turn only then; that ends with it."""
    hold = Hold(Effects())
    flow = create_workflow("drain").step("hold", hold)
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage, workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await hold.entered.wait()
    await engine.start(flow, id="waits")
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    working = asyncio.create_task(engine.work(handle_signals=False))
    for _ in range(20):
        await asyncio.sleep(0)
    hold.go.set()
    await asyncio.gather(closing, working, task)
    assert "claim" not in [verb for verb, _ in storage.calls]


async def test_who_waits_for_a_run_learns_of_it(cluster: Cluster) -> None:
    """D19, errors.py: a call whose engine is closed before it has its answer is an EngineClosed, on every storage, and never a hang."""
    flow = create_workflow("waits").wait("go")
    engine = await cluster.open()
    handle = await engine.start(flow)
    waiting = [
        asyncio.create_task(handle.result()),
        asyncio.create_task(handle.result(timeout=3600)),
        asyncio.create_task(engine.until(handle.id, [RunStatus.COMPLETED])),
    ]
    for _ in range(20):
        await asyncio.sleep(0)
    await engine.close()
    async with asyncio.timeout(60):
        ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [EngineClosed] * 3, ends


async def test_a_handler_that_outlasts_the_grace(cluster: Cluster) -> None:
    """D8, D10: it is stopped and in doubt; the next attempt follows elsewhere, and is not counted as a retry."""
    effects = Effects()
    hold = Hold(effects)
    flow = create_workflow("grace").step("hold", hold, timeout=None, retries=0)
    engine, other = await cluster.open(workflows=[flow], grace=0), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await hold.entered.wait()
    await engine.close()
    await task
    left = await other.get("r")
    assert left.history[0].in_doubt and left.history[0].attempts == 1
    result = await other.resume(flow, "r")
    assert result.status == "completed" and effects.done == ["hold 1", "hold 2"]


async def test_a_thread_that_outlasts_the_grace(cluster: Cluster) -> None:
    """D10: closing does not wait for a thread for ever."""
    go, entered = threading.Event(), threading.Event()

    def block(ctx: Any) -> None:
        entered.set()
        go.wait(10)

    flow = create_workflow("thread").step("block", block, timeout=None)
    engine, other = await cluster.open(workflows=[flow], grace=0), await cluster.open()
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await eventually(entered.is_set)
    await engine.close()
    go.set()
    await task
    assert (await other.get("r")).history[0].in_doubt


async def test_a_commit_step_gets_the_grace_too(cluster: Cluster) -> None:
    """S9.1, D10: graceful shutdown waits for it; what outlasts the grace is in doubt."""
    effects = Effects()
    hold = Hold(effects)
    flow = create_workflow("commit").commit("hold", hold)
    engine, other = await cluster.open(workflows=[flow]), await cluster.open()
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await hold.entered.wait()
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    hold.go.set()
    await closing
    assert (await task).status == "completed" and (await other.get("r")).status == "completed"


async def test_an_attempt_that_was_recorded_but_not_called(cluster: Cluster) -> None:
    """D7: it is released, not in doubt: a deploy puts nothing in doubt."""
    effects = Effects()
    storage = Faulty(cluster.storage())
    flow = create_workflow("released").step("a", effects.step("a")).step("b", effects.step("b"), on_unknown="fail")
    engine, other = await cluster.open(storage), await cluster.open()
    storage.held["commit"] = asyncio.Event()
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await eventually(storage.commits)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    storage.held["commit"].set()
    await closing
    await task
    left = await other.get("r")
    assert effects.done == ["a"] and [(line.status.value, line.attempts, line.in_doubt) for line in left.history] == [
        ("completed", 1, False), ("pending", 0, False),
    ]  # fmt: skip
    result = await other.resume(flow, "r")
    assert result.status == "completed" and effects.done == ["a", "b"] and result.history[1].attempts == 1


async def test_runs_that_rest_are_given_back(cluster: Cluster) -> None:
    """S14.4: a sleep or a retry's delay that a call stays with does not hold the closing up."""
    cluster.stand_still()
    effects = Effects()
    nap = create_workflow("nap").sleep("nap", 50).step("b", effects.step("b"))
    retry = create_workflow("retry").step("a", effects.step("a", error=OSError()), retry=Retry("fixed", initial=50, jitter=False))
    engine, other = await cluster.open(), await cluster.open(workflows=[nap, retry])
    tasks = [asyncio.create_task(engine.execute(nap, id="n")), asyncio.create_task(engine.execute(retry, id="r"))]

    async def resting() -> bool:
        return len((await engine.list(status="suspended")).runs) == 2

    await eventually(resting)
    await engine.close()
    assert [result.status.value for result in await asyncio.gather(*tasks)] == ["suspended", "suspended"]
    async with other.worker():
        await cluster.clock.advance(50)
        await other.handle("n").result(timeout=60)
    assert effects.done.count("b") == 1


async def test_new_work_while_closing(cluster: Cluster) -> None:
    """S14.4: an execute that comes while the engine drains starts nothing, and what was stored is there for others."""
    effects = Effects()
    hold = Hold(effects)
    flow = create_workflow("drain").step("hold", hold)
    late = create_workflow("late").step("a", effects.step("a"))
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[late])
    task = asyncio.create_task(engine.execute(flow))
    await hold.entered.wait()
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    try:
        run = await engine.execute(late, id="late")
    except EngineClosed:
        run = await other.execute(late, id="late")
    else:
        assert run.status in ("pending", "running") and "a" not in effects.done
        run = await other.resume(late, "late")
    assert run.status == "completed" and effects.done.count("a") == 1
    hold.go.set()
    await closing
    await task


async def test_a_worker_drains(cluster: Cluster) -> None:
    """S14.4: leaving the worker's context waits for what it moves; closing the engine does too."""
    effects = Effects()
    hold = Hold(effects)
    flow = create_workflow("drain").step("hold", hold).step("next", effects.step("next"))
    engine = await cluster.open(workflows=[flow])
    handle = await engine.start(flow)
    async with engine.worker() as worker:
        await hold.entered.wait()
        worker.stop()
        hold.go.set()
    assert await handle.status() == "completed"  # the worker lets a run that it has come to rest
    assert effects.done == ["hold 1", "next"]


async def test_opened_again(cluster: Cluster) -> None:
    """An engine that was closed can be opened again, and goes on with its runs."""
    effects = Effects()
    flow = create_workflow("again").step("a", effects.step("a")).wait("w").step("b", effects.step("b"))
    engine = cluster.new()
    async with engine:
        run_id = (await engine.execute(flow)).id
    async with engine:
        assert (await engine.signal(flow, run_id, "w")).status == "completed"
    assert effects.done == ["a", "b"]


async def test_leaving_a_worker_waits_no_longer_than_the_grace(cluster: Cluster) -> None:
    """S14.4: the worker claims no more; what its engine still moves is moved on."""
    effects = Effects()
    hold = Hold(effects)
    flow = create_workflow("drain").step("hold", hold).step("next", effects.step("next"))
    engine = await cluster.open(workflows=[flow], grace=0.01)
    async with engine.worker():
        handle = await engine.start(flow)
        await hold.entered.wait()
    assert not hold.go.is_set() and await handle.status() == "running"
    hold.go.set()
    await handle.result(timeout=60)
    assert effects.done == ["hold 1", "next"]


async def test_closing_while_the_first_call_registers(cluster: Cluster) -> None:
    """S14.4, I14: the lease that it gets is given back, and nothing goes on under it."""
    effects = Effects()
    flow = create_workflow("first").step("a", effects.step("a"))
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage, workflows=[flow])
    storage.held["register"] = asyncio.Event()
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await eventually(lambda: any(verb == "register" for verb, _ in storage.calls))
    closing = asyncio.create_task(engine.close())
    await eventually(lambda: engine._host.draining)  # pyright: ignore[reportPrivateUsage]
    storage.held["register"].set()
    await closing
    await asyncio.gather(task, return_exceptions=True)
    assert engine._host._lease is None  # pyright: ignore[reportPrivateUsage]
    registered = [nonce for verb, nonce in storage.calls if verb == "register"]
    assert [nonce for verb, nonce in storage.calls if verb == "unregister"] == registered and effects.done == []

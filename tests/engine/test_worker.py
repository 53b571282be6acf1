"""Workers: claiming, timers, taking over."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, Retry, RunStatus, StorageUnavailable, create_workflow

from .cluster import LEASE, Cluster, Effects, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio


async def nothing(ctx: Any) -> None:
    return None


async def test_it_runs_what_was_started(engine: FluxEngine) -> None:
    """S12.1, S14: runs started before and after the worker came."""
    effects = Effects()
    flow = create_workflow("work").step("a", effects.step("a")).step("b", effects.step("b"))
    before = await engine.start(flow)
    async with engine.worker() as worker:
        after = await engine.start(flow)
        for handle in (before, after):
            await handle.result(timeout=60)
        worker.stop()
    assert effects.done.count("a") == effects.done.count("b") == 2


async def test_it_is_entered_again(engine: FluxEngine) -> None:
    """S14: a worker that was left and is entered again works again."""
    flow = create_workflow("again").step("a", Effects().step("a"))
    worker = engine.worker()
    for _ in range(2):
        async with worker:
            await (await engine.start(flow)).result(timeout=60)


async def test_it_is_stopped_at_once(cluster: Cluster) -> None:
    """S14: a worker that is told to stop before its task has had a turn claims nothing."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage, workflows=[create_workflow("w").step("a", Effects().step("a"))])
    async with engine.worker():
        engine.stop()
        for _ in range(20):
            await asyncio.sleep(0)
    assert "claim" not in [verb for verb, _ in storage.calls]


async def test_work_until_stopped(engine: FluxEngine) -> None:
    """api.md: `engine.work()` returns when told to stop, after what it moves has come to rest."""
    effects = Effects()
    flow = create_workflow("work").step("a", effects.step("a"))
    task = asyncio.create_task(engine.work(concurrency=5, handle_signals=False))
    await (await engine.start(flow)).result(timeout=60)
    engine.stop()
    await task
    handle = await engine.start(flow)
    assert await handle.status() == "pending" and effects.done == ["a"]


async def test_work_until_cancelled(engine: FluxEngine) -> None:
    """api.md: `engine.work()` may be cancelled; a run that it had claimed is not lost."""
    effects = Effects()
    flow = create_workflow("work").step("a", effects.step("a")).step("b", effects.step("b"))
    for turns in range(1, 25):
        handle = await engine.start(flow)
        task = asyncio.create_task(engine.work(handle_signals=False))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await engine.resume(flow, handle.id)).status == "completed"
    assert effects.done == ["a", "b"] * 24


async def test_a_place_that_becomes_free_is_filled_at_once(engine: FluxEngine, cluster: Cluster) -> None:
    """S14.3: no time passes between one run and the next, though there is place for only one."""
    effects = Effects()
    flow = create_workflow("work").step("a", effects.step("a"))
    cluster.stand_still()
    handles = [await engine.start(flow) for _ in range(5)]
    async with engine.worker(concurrency=1):
        for handle in handles:
            await handle.result()
    assert effects.done == ["a"] * 5


async def test_priority(engine: FluxEngine) -> None:
    """S14.3: a higher priority goes first, then the earlier due time."""
    order: list[str] = []

    async def note(ctx: Any) -> None:
        order.append(ctx.run_id)

    flow = create_workflow("first").step("note", note)
    for priority, run_id in ((0, "c"), (-5, "d"), (9, "a"), (9, "b")):
        await engine.start(flow, id=run_id, priority=priority)
    async with engine.worker(concurrency=1):
        for run_id in "abcd":
            await engine.handle(run_id).result(timeout=60)
    assert order == ["a", "b", "c", "d"]


async def test_delay(engine: FluxEngine, cluster: Cluster) -> None:
    """S8.2: a delayed run never starts early, and starts soon after."""
    cluster.stand_still()
    effects = Effects()
    flow = create_workflow("later").step("a", effects.step("a"))
    handle = await engine.start(flow, delay=timedelta(hours=1))
    async with engine.worker():
        await cluster.clock.advance(minutes=59)
        assert await handle.status() == "pending" and effects.done == []
        await cluster.clock.advance(minutes=1)
        await handle.result(timeout=60)


async def test_concurrency(engine: FluxEngine) -> None:
    """S14.3: a worker never holds more than its concurrency."""
    running: set[str] = set()
    most: list[int] = []
    gates: dict[str, asyncio.Event] = {}

    async def hold(ctx: Any) -> None:
        running.add(ctx.run_id)
        most.append(len(running))
        gates[ctx.run_id] = asyncio.Event()
        await gates[ctx.run_id].wait()
        running.discard(ctx.run_id)

    flow = create_workflow("bounded").step("hold", hold, timeout=None)
    handles = [await engine.start(flow) for _ in range(10)]
    async with engine.worker(concurrency=3):
        for _ in range(10):
            await eventually(lambda: running)
            if len(gates) < 8:
                await eventually(lambda: len(running) == 3)
            gates[next(iter(running))].set()
            name = next(iter(running))
            await eventually(lambda name=name: name not in running)  # type: ignore[misc]
        for handle in handles:
            await handle.result(timeout=60)
    assert max(most) == 3 and len(most) == 10


async def test_bad_concurrency(engine: FluxEngine) -> None:
    """S15.7: refused at the call."""
    for bad in (0, -1, 1.5, True):
        with pytest.raises(InvalidArgument):
            engine.worker(concurrency=bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await engine.work(concurrency=bad, handle_signals=False)  # type: ignore[arg-type]


async def test_timers_and_signals(engine: FluxEngine, cluster: Cluster) -> None:
    """S2.3, S12.1: whatever a run rests on, the worker moves it when it comes: sleeps, retries, timeouts, signals."""
    tries: list[int] = []

    async def flaky(ctx: Any) -> None:
        tries.append(ctx.attempt)
        if ctx.attempt == 1:
            raise OSError

    flow = (
        create_workflow("all")
        .sleep("nap", hours=1)
        .step("flaky", flaky, retry=Retry("fixed", initial=600, maximum=600, jitter=False))
        .wait("late", timeout=600, default="default")
        .wait("go")
        .step("end", nothing)
    )
    poster = await cluster.open(drive_in_caller=False)
    async with engine.worker():
        handle = await engine.start(flow)
        await engine.until(handle.id, {RunStatus.SUSPENDED})
        for advance, path in ((3600, "flaky"), (600, "late"), (600, "go")):
            await cluster.clock.advance(advance)

            async def reached(path: str = path) -> bool:
                details = await handle.details()
                return details.status == "suspended" and details.history[-1].path == path

            await eventually(reached)
        await poster.signal(flow, handle.id, "go", 1)
        await handle.result(timeout=60)
    assert tries == [1, 2] and (await handle.details()).results["late"] == "default"


async def test_it_leaves_what_it_does_not_know(engine: FluxEngine, cluster: Cluster) -> None:
    """I37, I38, S13.3: a worker takes only workflows and versions that it has; the rest is left for who has them."""
    effects = Effects()
    known = create_workflow("known").step("a", effects.step("a"))
    newer = create_workflow("known", version="2").step("a", effects.step("a2"))
    other = create_workflow("other").step("a", effects.step("o"))
    foreign = [await engine.start(newer), await engine.start(other)]
    worker = await cluster.open(workflows=[known])
    handle = await worker.start(known)
    async with worker.worker():
        await handle.result(timeout=60)
        assert [await one.status() for one in foreign] == [RunStatus.PENDING] * 2
    async with engine.worker():
        for one in foreign:
            await one.result(timeout=60)
    assert sorted(effects.done) == ["a", "a2", "o"]


async def test_taking_over(cluster: Cluster) -> None:
    """S12.1, S14.1, I16: a run whose worker is gone is taken over once its lease has run out, with no human act."""
    effects = Effects()
    entered = asyncio.Event()

    async def hold(ctx: Any) -> str:
        effects.done.append(f"hold {ctx.attempt}")
        if ctx.attempt == 1:
            entered.set()
            await asyncio.Event().wait()
        return "done"

    flow = create_workflow("over").step("a", effects.step("a", 1)).step("hold", hold, timeout=None).step("b", effects.step("b", 2))
    engine = await cluster.open(workflows=[flow])
    handle = await engine.start(flow, id="r")
    worker = engine.worker()
    await worker.__aenter__()
    await entered.wait()
    await cluster.crash(engine)
    other = await cluster.open(workflows=[flow])
    assert (await other.get("r")).status == "running"
    async with other.worker():
        await cluster.outlive()
        await other.handle(handle.id).result(timeout=60)
    result = await other.get("r")
    assert effects.done == ["a", "hold 1", "hold 2", "b"] and result.results == {"a": 1, "hold": "done", "b": 2}
    assert result.history[1].attempts == 2 and result.history[1].lost_attempts == 0


async def test_a_lost_attempt_is_in_doubt(cluster: Cluster) -> None:
    """S3.7, S3.8, D8: counted apart from those that raised; `on_unknown="fail"` does not call again."""
    effects = Effects()
    entered = asyncio.Event()

    async def hold(ctx: Any) -> None:
        effects.done.append("hold")
        entered.set()
        await asyncio.Event().wait()

    flow = create_workflow("doubt").step("hold", hold, timeout=None, on_unknown="fail", compensate=effects.step("undo"))
    engine = await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    result = await other.resume(flow, "r")
    assert result.status == "failed" and effects.done == ["hold", "undo"] and type(result.error).__name__ == "UnknownOutcome"


async def test_a_run_that_kills_its_workers(cluster: Cluster) -> None:
    """S3.7, D11: after `crash_limit` lost attempts in a row the run is blocked as WorkerCrashed, and reversibly so."""
    calls: list[int] = []
    entered = asyncio.Event()
    deadly = True

    async def kill(ctx: Any) -> str:
        calls.append(ctx.attempt)
        entered.set()
        if deadly:
            await asyncio.Event().wait()
        return "survived"

    flow = create_workflow("deadly").step("kill", kill, timeout=None, retries=0)
    for number in range(3):
        entered.clear()
        engine = await cluster.open(workflows=[flow], crash_limit=3)
        task = asyncio.create_task(engine.execute(flow, id="r") if number == 0 else engine.resume(flow, "r"))
        await entered.wait()
        await cluster.crash(engine)
        await asyncio.gather(task, return_exceptions=True)
        await cluster.outlive()
    last = await cluster.open(workflows=[flow], crash_limit=3)
    result = await last.resume(flow, "r")
    assert result.status == "blocked" and "WorkerCrashed" in (result.blocked_reason or "") and calls == [1, 2, 3]
    deadly = False
    revived = await last.resume(flow, "r")
    assert revived.status == "completed" and revived.results == {"kill": "survived"}


async def test_two_workers_share_the_work(cluster: Cluster) -> None:
    """I10, I39: each run is moved by one of them, and each step is called once."""
    effects = Effects()
    flow = create_workflow("share").step("a", effects.step("a")).step("b", effects.step("b"))
    engines = [await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])]
    async with engines[0].worker(concurrency=4), engines[1].worker(concurrency=4):
        handles = [await engines[n % 2].start(flow) for n in range(30)]
        for handle in handles:
            await handle.result(timeout=20)
    assert effects.done.count("a") == effects.done.count("b") == 30


@pytest.mark.parametrize("refusals", [0, 1])
async def test_a_lease_that_ran_out_unnoticed(cluster: Cluster, refusals: int) -> None:
    """I12, I15: a worker that could not renew in time, and that nobody has succeeded, goes on with its runs; one that still cannot renew
    drops them, and does not keep what it has dropped."""
    cluster.stand_still()
    effects = Effects()
    gate, entered = asyncio.Event(), asyncio.Event()

    async def hold(ctx: Any) -> None:
        entered.set()
        await gate.wait()

    flow = create_workflow("late").step("a", hold, timeout=None).step("b", effects.step("b")).step("c", effects.step("c"))
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage, workflows=[flow])
    async with engine.worker():
        handle = await engine.start(flow)
        await entered.wait()
        storage.fail("renew", StorageUnavailable("not now"), times=99)
        await cluster.clock.advance(seconds=LEASE + 1)
        storage.faults.clear()
        storage.fail("renew", StorageUnavailable("not now"), times=refusals)
        gate.set()
        await handle.result(timeout=60)
    assert effects.done == ["b", "c"]
    assert (await handle.details()).history[1].attempts == 1 + refusals

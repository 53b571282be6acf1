"""`start` and what it gives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, LeaseLost, RunCancelled, RunFailed, RunHandle, RunNotFound, RunStatus, create_workflow
from flux.testing import VirtualClock
from flux_storage import MemoryStorage

from .cluster import Cluster, Effects
from .faults import Faulty

pytestmark = pytest.mark.anyio


async def put(ctx: Any) -> str:
    ctx.data["who"] = ctx.input
    return "put"


FLOW = create_workflow("handled").step("put", put)


async def test_start_only_stores(engine: FluxEngine, cluster: Cluster) -> None:
    """S3.1, D18: durable when it returns; an engine that is merely open does not run it."""
    handle = await engine.start(FLOW, "ana", id="r")
    assert isinstance(handle, RunHandle) and handle.id == "r" and await handle.status() == "pending"
    details = await handle.details()
    assert details.status == "pending" and details.history == () and details.input == "ana"
    await cluster.crash(engine)
    other = await cluster.open()
    assert (await other.get("r")).status == "pending"


async def test_result(engine: FluxEngine) -> None:
    """api.md Handles: a builder run's data, from anywhere."""
    async with engine.worker():
        handle = await engine.start(FLOW, "ana")
        assert await handle.result(timeout=60) == {"who": "ana"}
        assert await engine.handle(handle.id).result() == {"who": "ana"}
        assert await handle.status() == "completed" and (await handle.details()).results == {"put": "put"}


async def test_result_of_a_run_that_goes_on(engine: FluxEngine) -> None:
    """api.md Handles: TimeoutError while it goes on; the run is not touched."""
    handle = await engine.start(FLOW, "ana")
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0)
    assert (await engine.resume(FLOW, handle.id)).status == "completed"


async def test_result_of_a_run_that_did_not_complete(engine: FluxEngine) -> None:
    """api.md Handles: RunFailed with the original error as cause; RunCancelled."""
    effects = Effects()
    failing = create_workflow("failing").step("a", effects.step("a", error=LookupError("lost")), retries=0)
    handle = engine.handle((await engine.execute(failing)).id)
    with pytest.raises(RunFailed, match="lost") as caught:
        await handle.result()
    assert isinstance(caught.value.__cause__, LookupError)
    handle = await engine.start(FLOW, "ana")
    await handle.cancel("no need")
    with pytest.raises(RunCancelled, match="no need"):
        await handle.result()


async def test_a_handle_of_nobody(engine: FluxEngine) -> None:
    """api.md Handles: nothing is looked up until it is asked."""
    handle = engine.handle("nobody")
    for call in (handle.status(), handle.details(), handle.result(timeout=5), handle.cancel()):
        with pytest.raises(RunNotFound):
            await call
    with pytest.raises(InvalidArgument):
        engine.handle("no body")


async def test_many_wait_for_one(engine: FluxEngine, cluster: Cluster) -> None:
    """A result can be awaited from several places and engines at once."""
    other = await cluster.open()
    handle = await engine.start(FLOW, "ana")
    waiting = [asyncio.create_task(engine.handle(handle.id).result()) for _ in range(5)]
    waiting += [asyncio.create_task(other.handle(handle.id).result()) for _ in range(5)]
    async with engine.worker():
        assert await asyncio.gather(*waiting) == [{"who": "ana"}] * 10


@pytest.mark.parametrize(
    "bad", [{"priority": 101}, {"priority": 1.5}, {"priority": True}, {"delay": -1}, {"delay": float("nan")}, {"delay": "soon"}]
)
async def test_bad_arguments(engine: FluxEngine, bad: dict[str, Any]) -> None:
    """S15.7: refused before anything is written."""
    with pytest.raises(InvalidArgument):
        await engine.start(FLOW, **bad)
    assert (await engine.list()).runs == ()


async def test_the_outcome(engine: FluxEngine, cluster: Cluster) -> None:
    """api.md Handles: however it ended, moved here or elsewhere, before the call or after it; and nothing of a run that is not there."""
    effects = Effects()
    failing = create_workflow("failing").step("a", effects.step("a", error=LookupError("lost")), retries=0)
    long = create_workflow("long")
    for number in range(40):
        long = long.step(f"s{number}", put)
    other = await cluster.open()
    for mover in (engine, other):
        for flow in (FLOW, failing, long):
            handle = await engine.start(flow, "ana")
            waiting = [asyncio.create_task(one.outcome(handle.id)) for one in (engine, other) for _ in range(2)]
            moved = await mover.resume(flow, handle.id)
            for outcome in [*(await asyncio.gather(*waiting)), await engine.outcome(handle.id)]:
                assert outcome.status == moved.status == ("failed" if flow is failing else "completed")
                assert (outcome.results, outcome.data, repr(outcome.error)) == (moved.results, moved.data, repr(moved.error))
    with pytest.raises(RunNotFound):
        await engine.outcome("nobody")


async def test_waiting_for_a_run_that_is_moved_here_reads_it_no_more(clock: VirtualClock) -> None:
    """Its driver knows how it ended."""
    storage = Faulty(MemoryStorage(clock=clock))
    async with FluxEngine(storage) as engine:
        handle = await engine.start(FLOW, "ana")
        waiting = [asyncio.create_task(handle.result()) for _ in range(3)]
        await asyncio.sleep(0)
        assert (await engine.resume(FLOW, handle.id)).status == "completed"
        assert await asyncio.gather(*waiting) == [{"who": "ana"}] * 3
        assert [verb for verb, _ in storage.calls if verb in ("load", "read_header")] == ["read_header"] * 3


async def test_a_driver_that_rests_or_is_lost_ends_nothing(cluster: Cluster) -> None:
    """Who waits for the end goes on waiting."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    flow = create_workflow("parked").step("put", put).wait("go").step("end", put)
    handle = await engine.start(flow, "ana")
    waiting = asyncio.create_task(handle.result())
    assert (await engine.resume(flow, handle.id)).status == "suspended"
    storage.fail("commit", LeaseLost("gone"))
    await engine.signal(flow, handle.id, "go")
    assert not waiting.done()
    assert (await engine.resume(flow, handle.id)).status == "completed"
    assert await waiting == {"who": "ana"}


async def test_a_run_that_is_forgotten_while_somebody_waits(engine: FluxEngine, cluster: Cluster) -> None:
    """D26: RunNotFound, once it is looked for again."""
    other = await cluster.open()
    handle = await engine.start(FLOW, "ana")
    waiting = asyncio.create_task(engine.until(handle.id, [RunStatus.BLOCKED]))
    await other.resume(FLOW, handle.id)
    await other.delete(handle.id)
    with pytest.raises(RunNotFound):
        await waiting

"""`execute_many`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, InvalidInput, RunStatus, create_workflow

from .cluster import eventually

pytestmark = pytest.mark.anyio


async def double(ctx: Any) -> int:
    if ctx.input == 13:
        raise ValueError("unlucky")
    return int(ctx.input * 2)


FLOW = create_workflow("double").step("double", double, retries=0)


async def test_order_and_progress(engine: FluxEngine) -> None:
    """api.md: results in the order of the inputs, whatever order they end in; `on_progress(done, total, result)` after each."""
    gates = [asyncio.Event() for _ in range(5)]
    for gate in gates[1:]:
        gate.set()
    told: list[tuple[int, int, Any]] = []

    async def wait(ctx: Any) -> int:
        await gates[ctx.input].wait()
        return int(ctx.input)

    def progress(done: int, total: int, result: Any) -> None:
        told.append((done, total, result.results["wait"]))
        if done == 4:
            gates[0].set()

    flow = create_workflow("many").step("wait", wait)
    results = await engine.execute_many(flow, range(5), concurrency=2, on_progress=progress)
    assert [result.results["wait"] for result in results] == [0, 1, 2, 3, 4]
    assert [done for done, _, _ in told] == [1, 2, 3, 4, 5] and {total for _, total, _ in told} == {5} and told[-1][2] == 0


async def test_concurrency(engine: FluxEngine) -> None:
    """api.md: at most `concurrency` at once; a generator of inputs and an empty one will do."""
    running: list[int] = []
    most: list[int] = []
    three = asyncio.Event()

    async def note(ctx: Any) -> None:
        running.append(1)
        most.append(len(running))
        if len(running) == 3:
            three.set()
        await three.wait()
        await asyncio.sleep(0)
        running.pop()

    flow = create_workflow("note").step("note", note)
    assert len(await engine.execute_many(flow, (n for n in range(20)), concurrency=3)) == 20 and max(most) == 3
    assert list(await engine.execute_many(flow, [])) == []
    with pytest.raises(InvalidArgument):
        await engine.execute_many(flow, [1], concurrency=0)


async def test_one_that_fails(engine: FluxEngine) -> None:
    """api.md: it does not stop the others, unless `stop_on_error`."""
    results = await engine.execute_many(FLOW, [1, 13, 2])
    assert [result.status.value for result in results] == ["completed", "failed", "completed"]
    stopped = await engine.execute_many(FLOW, [1, 13, 2, 3], concurrency=1, stop_on_error=True)
    assert [result.status.value for result in stopped] == ["completed", "failed"]


async def test_an_asynchronous_progress(engine: FluxEngine) -> None:
    """api.md: `on_progress` may be asynchronous."""
    told: list[int] = []

    async def progress(done: int, total: int, result: Any) -> None:
        await asyncio.sleep(0)
        told.append(done)

    await engine.execute_many(FLOW, [1, 2], concurrency=1, on_progress=progress)
    assert told == [1, 2]


async def test_an_input_that_is_refused(engine: FluxEngine) -> None:
    """api.md Input: the plain InvalidInput reaches the caller; what had been started goes on to its end."""
    flow = create_workflow("typed").input(int).step("double", double)
    with pytest.raises(InvalidInput):
        await engine.execute_many(flow, [1, "x", 2], concurrency=2)

    async def at_rest() -> bool:
        return {run.status for run in (await engine.list()).runs} <= {RunStatus.COMPLETED}

    await eventually(at_rest)

    def broken(done: int, total: int, result: Any) -> None:
        raise LookupError("progress")

    with pytest.raises(LookupError):
        await engine.execute_many(flow, [1, 2], on_progress=broken)


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_progress_that_is_cancelled(engine: FluxEngine, concurrency: int) -> None:
    """api.md: `on_progress` that awaits something cancelled, or has its task cancelled, ends the call as any error of it does: no input
    is passed over in silence."""

    async def awaits(done: int, total: int, result: Any) -> None:
        if done == 2:
            stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            stopped.cancel()
            await stopped

    async def cancels(done: int, total: int, result: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    for progress in (awaits, cancels):
        with pytest.raises(asyncio.CancelledError):
            await engine.execute_many(FLOW, range(6), concurrency=concurrency, on_progress=progress)

"""`def` handlers: on worker threads, one at a time a step."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from flux import FluxEngine, Retry, StepTimeout, create_workflow

from .cluster import Cluster, eventually

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


async def nothing(ctx: Any) -> None:
    return None


async def test_a_blocking_handler_does_not_block_the_loop(engine: FluxEngine) -> None:
    """S1.5, I18: it runs on another thread, and other runs go on meanwhile."""
    entered, go = threading.Event(), threading.Event()
    threads: list[str] = []

    def block(ctx: Any) -> str:
        threads.append(threading.current_thread().name)
        ctx.data["n"] = 1
        entered.set()
        go.wait(10)
        return "done"

    flow = create_workflow("block").step("block", block)
    task = asyncio.create_task(engine.execute(flow))
    await eventually(entered.is_set)
    assert (await engine.execute(create_workflow("other").step("a", nothing))).status == "completed"
    go.set()
    result = await task
    assert result.results == {"block": "done"} and result.data == {"n": 1}
    assert threads != [threading.main_thread().name]


async def test_a_late_result_is_discarded(engine: FluxEngine) -> None:
    """S5.1, S3.4: a thread cannot be cancelled; what it returns after its timeout, and what it changes, counts for nothing."""
    go, gone = threading.Event(), threading.Event()

    def late(ctx: Any) -> str:
        go.wait(10)
        ctx.data["late"] = True
        gone.set()
        return "late"

    flow = create_workflow("late").step("late", late, timeout=0.02, retries=0)
    result = await engine.execute(flow)
    assert result.status == "failed" and isinstance(result.error, StepTimeout)
    go.set()
    await eventually(gone.is_set)
    stored = await engine.get(result.id)
    assert stored.data == {} and stored.results == {} and stored.history[0].in_doubt


async def test_attempts_never_overlap(engine: FluxEngine) -> None:
    """D9, I29: the next attempt starts only once the thread of the last has returned."""
    go = threading.Event()
    running: list[int] = []
    overlaps: list[int] = []

    def handler(ctx: Any) -> int:
        before = len(running)
        running.append(ctx.attempt)
        overlaps.append(before)
        if ctx.attempt == 1:
            go.wait(10)
        running.remove(ctx.attempt)
        return int(ctx.attempt)

    flow = create_workflow("overlap").step("a", handler, timeout=0.02, retries=2, retry=AT_ONCE)
    task = asyncio.create_task(engine.execute(flow, id="r"))

    async def second_is_due() -> bool:
        try:
            history = await engine.history("r")
        except LookupError:
            return False
        return bool(history) and history[0].attempts == 2

    await eventually(second_is_due)
    await eventually(lambda: bool(overlaps))  # on a busy machine the first thread may have got no further than its start
    assert running == [1] and overlaps == [0]
    go.set()
    result = await task
    assert result.results == {"a": 2} and overlaps == [0, 0]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_compensation_waits_for_the_thread(engine: FluxEngine, asynchronous: bool) -> None:
    """D9: nor does the compensation of a `def` handler start before its old thread has returned."""
    go = threading.Event()
    order: list[str] = []

    def handler(ctx: Any) -> None:
        go.wait(10)
        order.append("returned")

    async def undo(ctx: Any) -> None:
        order.append("undone")

    def undo_on_a_thread(ctx: Any) -> None:
        order.append("undone")

    flow = create_workflow("undo").step("a", handler, timeout=0.02, retries=0, compensate=undo if asynchronous else undo_on_a_thread)
    task = asyncio.create_task(engine.execute(flow, id="r"))

    async def compensating() -> bool:
        return (await engine.list(status="compensating")).runs != ()

    await eventually(compensating)
    for _ in range(20):
        await asyncio.sleep(0)
    assert order == []
    go.set()
    result = await task
    assert result.status == "failed" and order == ["returned", "undone"]


async def test_threads_are_bounded(cluster: Cluster) -> None:
    """`threads=` bounds how many `def` handlers run at once; the others wait, and their timeouts do not count yet (D9)."""
    engine = await cluster.open(threads=2)
    go = threading.Event()
    running: list[str] = []
    most: list[int] = []
    lock = threading.Lock()

    def handler(ctx: Any) -> None:
        with lock:
            running.append(ctx.run_id)
            most.append(len(running))
        go.wait(10)
        with lock:
            running.remove(ctx.run_id)

    flow = create_workflow("bounded").step("a", handler, timeout=60)
    tasks = [asyncio.create_task(engine.execute(flow, id=f"r{n}")) for n in range(6)]
    await eventually(lambda: len(running) == 2)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(running) == 2
    go.set()
    results = await asyncio.gather(*tasks)
    assert {result.status.value for result in results} == {"completed"} and max(most) <= 2


async def test_odd_ends_of_a_thread(engine: FluxEngine) -> None:
    """A `def` handler may raise anything; StopIteration too fails its step alone."""

    def stop(ctx: Any) -> None:
        raise StopIteration(5)

    result = await engine.execute(create_workflow("odd").step("a", stop, retries=0))
    assert result.status == "failed" and "StopIteration" in repr(result.error) + str(result.error)
    assert (await engine.execute(create_workflow("fine").step("a", nothing))).status == "completed"

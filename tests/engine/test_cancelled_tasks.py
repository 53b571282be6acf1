"""Handlers that cancel the task they run in, or leave a cancellation on it: that is theirs, and stops neither run nor engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, Retry, RunStatus, create_workflow
from flux.testing import VirtualClock
from flux_storage import MemoryStorage

from .cluster import Cluster, Effects, eventually

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


def cancel() -> asyncio.Task[Any]:
    """Cancel the task that calls this."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return task


async def cancel_and_wait(ctx: Any) -> None:
    cancel()
    await asyncio.sleep(0)


async def wait_and_cancel(ctx: Any) -> None:
    await asyncio.sleep(0)
    await cancel_and_wait(ctx)


async def swallow(ctx: Any) -> str:
    """As timers of older libraries did on 3.11."""
    cancel()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "swallowed"
    return "never"


async def return_cancelled(ctx: Any) -> str:
    await asyncio.sleep(0)
    cancel()
    return "returned"


async def raise_cancelled(ctx: Any) -> None:
    cancel()
    raise ValueError("its own")


async def await_cancelled(ctx: Any) -> None:
    future = asyncio.get_running_loop().create_future()
    future.get_loop().call_soon(future.cancel)
    await future


async def count(ctx: Any) -> int:
    task = asyncio.current_task()
    assert task is not None
    await asyncio.sleep(0)
    return task.cancelling()


@pytest.mark.parametrize("by_worker", [False, True])
@pytest.mark.parametrize("handler", [cancel_and_wait, wait_and_cancel])
async def test_a_handler_that_cancels_its_task(cluster: Cluster, handler: Any, by_worker: bool) -> None:
    """S2.3, I15, I18: it fails its own step, and no more."""
    engine = await cluster.open(default_retries=1, default_retry=AT_ONCE)
    flow = create_workflow("own").step("a", Effects().step("a"), compensate=count).step("b", handler)
    result = await ended(engine, flow, by_worker)
    assert (result.status, result.history[1].attempts, result.compensation_errors) == ("failed", 1, {})
    assert "CancelledError" in repr(result.error.__class__) + str(result.error)


@pytest.mark.parametrize("by_worker", [False, True])
@pytest.mark.parametrize("handler", [swallow, return_cancelled])
async def test_a_cancellation_left_behind(cluster: Cluster, handler: Any, by_worker: bool) -> None:
    """S2.3, I15: the steps that follow find a task that nobody has cancelled; what is cancelled in one is its own failure."""
    engine = await cluster.open(default_retries=0)
    flow = create_workflow("left").step("a", handler).step("b", count).step("c", await_cancelled)
    result = await ended(engine, flow, by_worker)
    assert result.status == "failed" and result.results == {"a": result.results["a"], "b": 0}
    assert [step.path for step in result.history if step.status == "failed"] == ["c"]


async def test_one_that_raises_before_it_waits(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """S2.3, I15: its error is what the attempt failed of, and the next attempt is not cancelled."""
    engine = await cluster.open(default_retries=0)
    flow = create_workflow("raises").step("a", Effects().step("a"), compensate=count).step("b", raise_cancelled)
    result = await engine.execute(flow)
    assert result.status == "failed" and isinstance(result.error, ValueError) and result.compensation_errors == {}
    assert "given back" not in caplog.text


async def test_beside_one_another(cluster: Cluster) -> None:
    """S2.3, I15: an attempt in a task of its own is not lost with it."""
    engine = await cluster.open(default_retries=0)
    good = create_workflow("good").parallel("p", a=swallow, b=return_cancelled, c=count)
    assert (await engine.execute(good)).results["p"] == {"a": "swallowed", "b": "returned", "c": 0}
    bad = create_workflow("bad").parallel("p", a=cancel_and_wait, b=count)
    assert (await engine.execute(bad)).status == "failed"


@pytest.mark.parametrize("by_worker", [False, True])
async def test_a_cancellation_that_hits_the_engine(cluster: Cluster, by_worker: bool, caplog: pytest.LogCaptureFixture) -> None:
    """S2.3, I15: it comes while nothing of a handler is under way; the run is given back, and taken up again from what is stored."""
    engine = await cluster.open()
    tries: list[int] = []

    async def fails(ctx: Any) -> int:
        await asyncio.sleep(0)
        tries.append(ctx.attempt)
        task = asyncio.current_task()
        assert task is not None
        if ctx.attempt == 1:
            cluster.clock.call_later(0.2, task.cancel)  # while it waits for the next attempt
            raise OSError("again")
        return task.cancelling()

    flow = create_workflow("late").step("a", fails, retries=1, retry=Retry(initial=0.5, jitter=False)).step("b", count)
    result = await ended(engine, flow, by_worker)
    assert result.status == "completed" and result.results == {"a": 0, "b": 0} and tries == [1, 2]
    assert "the run is given back" in caplog.text


@pytest.mark.parametrize("by_worker", [False, True])
async def test_one_that_never_waits(cluster: Cluster, by_worker: bool) -> None:
    """S2.3, I15: its cancellation comes to whatever waits next, the engine or a handler; the run is left to nobody nevertheless."""
    engine = await cluster.open(default_retries=1, default_retry=AT_ONCE)

    async def at_once(ctx: Any) -> int:
        cancel()
        return int(ctx.attempt)

    for last in (Effects().step("b", 2), count):
        flow = create_workflow(f"late-{last.__name__}").step("a", at_once).step("b", last)
        result = await ended(engine, flow, by_worker)
        assert result.status in {"completed", "blocked", "failed"} and (last is count or result.status != "failed")


@pytest.mark.parametrize("held", [True, False])
async def test_a_branch_that_is_cancelled_before_it_calls(cluster: Cluster, held: bool) -> None:
    """S2.3, I15: the same for an attempt beside others: what goes on beside it is stopped first, and done again."""
    engine = await cluster.open(default_retries=1, default_retry=AT_ONCE)
    gate = asyncio.Event()
    calls: list[str] = []

    async def beside(ctx: Any) -> str:
        calls.append("beside")
        if held and len(calls) == 1:
            driver = engine._host.drivers[ctx.run_id]  # pyright: ignore[reportPrivateUsage]
            flying = driver._flying  # pyright: ignore[reportPrivateUsage]
            mover = next(task for task in engine._host._tasks if task not in flying.values())  # pyright: ignore[reportPrivateUsage]
            mover.cancel()
            try:
                await gate.wait()
            finally:
                calls.append("stopped")
        return "done"

    flow = create_workflow("beside").parallel("p", a=beside, b=count)
    result = await engine.execute(flow)
    assert result.results["p"] == {"a": "done", "b": 0}
    assert calls == (["beside", "stopped", "beside"] if held else ["beside"])


def test_a_program_that_ends_fails_no_step() -> None:
    """S2.3, I15: one that leaves without closing its engine cancels what goes on there; that is no failure of a handler, and the run is
    given back."""
    storage = MemoryStorage()
    cancelled: list[str] = []

    async def wait(ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(ctx.run_id)
            raise

    async def program() -> None:
        engine = FluxEngine(storage)
        await engine.__aenter__()
        call = asyncio.ensure_future(engine.execute(create_workflow("w").step("a", wait), id="r"))
        await eventually(lambda: engine._host.drivers and engine._host.drivers["r"]._attempts)  # pyright: ignore[reportPrivateUsage]
        assert not call.done()

    async def look() -> list[str]:
        async with FluxEngine(storage) as engine:
            header = await storage.read_header("r")
            assert header is not None and header.owner is None
            return [step.status for step in (await engine.get("r")).history]

    asyncio.run(program())
    assert cancelled == ["r"] and asyncio.run(look()) == ["running"]


def test_a_caller_that_has_swallowed_a_cancellation() -> None:
    """S2.3, I15: where the only other task bears one too, as if the program ended, the run is not left to nobody either."""

    async def program() -> str:
        await swallow(None)
        async with FluxEngine(MemoryStorage(clock=VirtualClock()), crash_limit=2) as engine:
            return (await engine.execute(create_workflow("w").step("a", wait_and_cancel))).status

    assert asyncio.run(program()) in {"blocked", "failed"}


async def ended(engine: FluxEngine, flow: Any, by_worker: bool) -> Any:
    """The result of a run of this, moved by a call or by a worker; nobody holds it then."""
    if not by_worker:
        result = await engine.execute(flow)
    else:
        handle = await engine.start(flow)
        async with engine.worker():
            await engine.until(handle.id, {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.BLOCKED})
        result = await engine.get(handle.id)
    header = await engine.storage.read_header(result.id)
    assert header is not None and header.owner is None
    return result

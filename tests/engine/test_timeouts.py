"""Bounds on attempts and on runs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import anyio
import pytest

from flux import DeadlineExceeded, FluxEngine, Retry, StepTimeout, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


async def forever(ctx: Any) -> None:
    await asyncio.Event().wait()


async def test_an_attempt_that_overruns(engine: FluxEngine, cluster: Cluster) -> None:
    """S5.1, D8: it is cancelled and failed with StepTimeout, and the step is in doubt."""
    cancelled: list[str] = []

    async def slow(ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("yes")
            raise

    began = cluster.clock.monotonic()
    result = await engine.execute(create_workflow("slow").step("a", slow, timeout=7, retries=0))
    assert result.status == "failed" and isinstance(result.error, StepTimeout) and isinstance(result.error, TimeoutError)
    assert "'a'" in str(result.error) and "7 s" in str(result.error)
    assert cancelled == ["yes"] and result.history[0].in_doubt and cluster.clock.monotonic() - began == pytest.approx(7)


async def test_it_counts_as_an_attempt(engine: FluxEngine) -> None:
    """S5.1: a timeout is retried like an error."""

    async def slow_once(ctx: Any) -> int:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return int(ctx.attempt)

    result = await engine.execute(create_workflow("once").step("a", slow_once, timeout=5, retries=1, retry=AT_ONCE))
    assert result.results == {"a": 2}


async def test_a_timeout_leaves_nothing_on_the_task(engine: FluxEngine) -> None:
    """S5.1: the next attempt and the next step find a task that nobody has cancelled."""

    async def slow_once(ctx: Any) -> None:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        raise asyncio.CancelledError  # its own, and not a stop of the engine

    async def look(ctx: Any) -> int:
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    first = await engine.execute(create_workflow("own").step("a", slow_once, timeout=5, retries=1, retry=AT_ONCE, compensate=look))
    assert first.status == "failed" and first.history[0].attempts == 2 and first.compensation_errors == {}

    async def slow_then_look(ctx: Any) -> int:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return await look(ctx)

    flow = create_workflow("look").step("a", slow_then_look, timeout=5, retry=AT_ONCE).step("b", look)
    assert (await engine.execute(flow)).results == {"a": 0, "b": 0}


async def test_the_default_timeout(cluster: Cluster) -> None:
    """S5.1: `default_timeout` is 30 s and a step may have none (D10: a commit step has none anyway)."""
    engine = await cluster.open(default_retries=0)
    began = cluster.clock.monotonic()
    result = await engine.execute(create_workflow("default").step("a", forever))
    assert isinstance(result.error, StepTimeout) and cluster.clock.monotonic() - began == pytest.approx(30)
    gate = asyncio.Event()

    async def wait_for_gate(ctx: Any) -> str:
        cluster.clock.call_later(3600, gate.set)
        await gate.wait()
        return "through"

    for flow in (create_workflow("none").step("a", wait_for_gate, timeout=None), create_workflow("commit").commit("a", wait_for_gate)):
        gate.clear()
        assert (await engine.execute(flow)).results == {"a": "through"}


async def test_a_handler_that_swallows_cancellation(engine: FluxEngine) -> None:
    """S5.1, S5.3: the timeout came first; what it returns afterwards leaves no trace, and later steps work."""

    async def stubborn(ctx: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ctx.data["late"] = True
            return "late"
        return "never"

    async def after(ctx: Any) -> str:
        await asyncio.sleep(0)
        return "fine"

    flow = create_workflow("stubborn").step("a", stubborn, timeout=5, retries=0)
    result = await engine.execute(flow)
    assert isinstance(result.error, StepTimeout) and result.data == {} and result.results == {}
    assert (await engine.execute(create_workflow("after").step("a", after))).results == {"a": "fine"}


async def test_a_handler_that_swallows_and_goes_on(engine: FluxEngine) -> None:
    """S5.1: awaiting on after a swallowed cancellation works, and still counts as timed out."""

    async def stubborn(ctx: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        raise ValueError("late")

    result = await engine.execute(create_workflow("on").step("a", stubborn, timeout=5, retries=0))
    assert isinstance(result.error, StepTimeout)


async def test_scopes_of_the_handlers_own(engine: FluxEngine) -> None:
    """D10 (driven in place): asyncio.timeout, anyio's scopes and both kinds of task group work inside a handler."""

    async def own_timeout(ctx: Any) -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            await asyncio.sleep(0)
            return "timed out"
        return "never"

    async def scopes(ctx: Any) -> str:
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0)
        try:
            with anyio.fail_after(0):
                await anyio.sleep_forever()
        except TimeoutError:
            return "moved on" if scope.cancelled_caught else "?"
        return "never"

    async def groups(ctx: Any) -> list[int]:
        done: list[int] = []

        async def work(n: int) -> None:
            await asyncio.sleep(0)
            done.append(n)

        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(work(n))
        async with anyio.create_task_group() as other:
            for n in range(3, 6):
                other.start_soon(work, n)
        return done

    async def failing_group(ctx: Any) -> str:
        async def fail() -> None:
            raise KeyError("x")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(forever(ctx))
        except* KeyError:
            pass
        return "caught"

    async def cancels_itself(ctx: Any) -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.cancel_scope.cancel()
        return "out"

    flow = (
        create_workflow("scopes")
        .step("own_timeout", own_timeout)
        .step("scopes", scopes)
        .step("groups", groups)
        .step("failing_group", failing_group)
        .step("cancels_itself", cancels_itself)
    )
    result = await engine.execute(flow)
    assert result.error is None
    assert result.results == {
        "own_timeout": "timed out", "scopes": "moved on", "groups": [0, 1, 2, 3, 4, 5], "failing_group": "caught", "cancels_itself": "out",
    }  # fmt: skip


async def test_a_timeout_reaches_into_scopes(engine: FluxEngine) -> None:
    """S5.1: the step's own timeout stops what a handler's task groups run."""
    stopped: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(name)

    async def anyio_group(ctx: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child, "anyio")
            with anyio.move_on_after(1e6):
                await anyio.sleep_forever()

    async def asyncio_group(ctx: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child("asyncio"))

    for handler in (anyio_group, asyncio_group):
        result = await engine.execute(create_workflow(handler.__name__).step("a", handler, timeout=5, retries=0))
        assert isinstance(result.error, StepTimeout), result.error
    assert stopped == ["anyio", "asyncio"]


async def test_its_own_timeout_error_is_no_step_timeout(engine: FluxEngine) -> None:
    """S3.9: a TimeoutError that a handler raises is its own, and puts nothing in doubt."""

    async def own(ctx: Any) -> None:
        raise TimeoutError("mine")

    result = await engine.execute(create_workflow("own").step("a", own, retries=0))
    assert type(result.error) is TimeoutError and not result.history[0].in_doubt


# --- deadlines


async def test_a_deadline_cuts_a_handler(engine: FluxEngine, cluster: Cluster) -> None:
    """S5.2, D8: past its deadline a run ends `failed` with DeadlineExceeded; what completed and what is in doubt is compensated."""
    effects = Effects()
    flow = (
        create_workflow("deadline", deadline=10)
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .step("b", forever, timeout=None, compensate=effects.step("undo b"))
        .step("c", effects.step("c"))
    )
    began = cluster.clock.monotonic()
    result = await engine.execute(flow)
    assert result.status == "failed" and isinstance(result.error, DeadlineExceeded)
    assert effects.done == ["a", "undo b", "undo a"] and cluster.clock.monotonic() - began == pytest.approx(10)


async def test_a_deadline_across_a_wait(cluster: Cluster) -> None:
    """S5.2: it counts while the run is suspended, and a worker acts on it."""
    effects = Effects()
    flow = create_workflow("waits", deadline=timedelta(hours=1)).step("a", effects.step("a"), compensate=effects.step("undo")).wait("ok")
    engine = await cluster.open(workflows=[flow])
    result = await engine.execute(flow)
    assert result.status == "suspended" and result.wake_at == result.created_at + timedelta(hours=1)
    async with engine.worker():
        await cluster.clock.advance(hours=1)
        await engine.until(result.id, {result.status.FAILED})
    ended = await engine.get(result.id)
    assert isinstance(ended.error, DeadlineExceeded) and effects.done == ["a", "undo"]


async def test_a_deadline_within_a_sleep_that_is_stayed_for(engine: FluxEngine, cluster: Cluster) -> None:
    """S5.2: the run ends at its deadline, not at the end of the sleep that it stays for."""
    flow = create_workflow("sleeps", deadline=10).sleep("s", seconds=50)
    result = await engine.execute(flow)
    assert result.status == "failed" and isinstance(result.error, DeadlineExceeded) and result.duration == pytest.approx(10)


async def test_a_deadline_within_a_retry_delay(engine: FluxEngine) -> None:
    """S5.2: nor after the delay."""
    effects = Effects()
    flow = create_workflow("retries", deadline=10).step(
        "a", effects.step("a", error=OSError("x")), retry=Retry("fixed", initial=40, jitter=False)
    )
    result = await engine.execute(flow)
    assert isinstance(result.error, DeadlineExceeded) and result.duration == pytest.approx(10) and effects.done == ["a"]


async def test_a_commit_step_is_not_cut(engine: FluxEngine, cluster: Cluster) -> None:
    """D10: a commit step that is under way at the deadline finishes and is recorded, and is then undone."""
    effects = Effects()

    async def ship(ctx: Any) -> str:
        gate = asyncio.Event()
        cluster.clock.call_later(100, gate.set)
        await gate.wait()
        effects.done.append("shipped")
        return "done"

    flow = create_workflow("commit", deadline=10).commit("ship", ship, compensate=effects.step("undo")).step("b", effects.step("b"))
    result = await engine.execute(flow)
    assert isinstance(result.error, DeadlineExceeded) and effects.done == ["shipped", "undo"]
    assert result.results == {"ship": "done"}


async def test_a_deadline_that_is_met(engine: FluxEngine) -> None:
    """S5.2: it changes nothing for a run that ends in time, compensations included."""
    effects = Effects()
    flow = create_workflow("met", deadline=10).step("a", effects.step("a", 1)).sleep("s", 5).step("b", effects.step("b", 2))
    assert (await engine.execute(flow)).status == "completed"

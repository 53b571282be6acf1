"""Hooks see everything and change nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from flux import Event, FluxEngine, Hooks, Retry, create_workflow
from flux_storage import MemoryStorage

from .cluster import Cluster, Effects, eventually

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)
NAMES = [name for name in vars(Hooks) if not name.startswith("_")]


def recording(told: list[Event], asynchronous: bool) -> Hooks:
    """Hooks that note every event."""

    def method(self: Any, event: Event) -> None:
        told.append(event)

    async def async_method(self: Any, event: Event) -> None:
        await asyncio.sleep(0)
        told.append(event)

    chosen = async_method if asynchronous else method
    kind = type("Recording", (Hooks,), dict.fromkeys(NAMES, chosen))
    hooks: Hooks = kind()
    return hooks


async def flaky(ctx: Any) -> None:
    if ctx.attempt == 1:
        raise OSError("again")


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_the_story_of_a_run(cluster: Cluster, asynchronous: bool) -> None:
    """D26: in order, after what they tell of is durable; `def` or `async def`."""
    told: list[Event] = []
    effects = Effects()
    engine = await cluster.open(hooks=[recording(told, asynchronous)])
    flow = (
        create_workflow("story", version="3")
        .step("a", flaky, retry=AT_ONCE, compensate=effects.step("undo"))
        .step("b", effects.step("b"), when=lambda ctx: False)
        .wait("go")
        .step("c", effects.step("c", error=ValueError("no")), retries=0)
    )
    run_id = (await engine.execute(flow)).id
    await engine.signal(flow, run_id, "go")
    await engine.close()
    assert [(event.name, event.path) for event in told] == [
        ("run_started", ""), ("step_started", "a"), ("step_retried", "a"), ("step_started", "a"), ("step_completed", "a"),
        ("step_skipped", "b"), ("run_suspended", "go"), ("signal_received", "go"), ("step_started", "c"), ("step_failed", "c"),
        ("run_compensating", ""),
        ("step_started", "a"), ("step_compensated", "a"), ("run_failed", ""),
    ]  # fmt: skip
    assert {event.run_id for event in told} == {run_id} and {(event.workflow, event.version) for event in told} == {("story", "3")}
    assert told[2].error == "OSError: again" and told[2].attempt == 1 and told[3].attempt == 2 and told[0].at.tzinfo is not None
    assert "ValueError: no" in told[9].error and "ValueError: no" in told[10].error
    with pytest.raises(AttributeError):
        told[0].name = "x"  # type: ignore[misc]


async def test_other_endings(cluster: Cluster) -> None:
    """D26: completion, cancellation, failed compensations."""
    told: list[Event] = []
    effects = Effects()
    engine = await cluster.open(hooks=[recording(told, True)])
    await engine.execute(create_workflow("ok").step("a", effects.step("a")))
    undo = effects.step("undo", error=OSError("x"))
    waits = create_workflow("waits").step("a", effects.step("a"), compensate=undo, compensate_retries=0).wait("w")
    await engine.cancel((await engine.execute(waits)).id)
    plain = create_workflow("plain").wait("w")
    await engine.cancel((await engine.execute(plain)).id)
    await engine.close()
    names = [event.name for event in told]
    assert "run_completed" in names and "compensation_failed" in names and "run_failed" in names and names[-1] == "run_cancelled"


class Raising(Hooks):
    def run_started(self, event: Event) -> None:
        raise RuntimeError("a hook")

    async def step_started(self, event: Event) -> None:
        raise RuntimeError("a hook")

    async def step_completed(self, event: Event) -> None:
        raise asyncio.CancelledError

    def run_suspended(self, event: Event) -> None:
        class Custom(BaseException):
            pass

        raise Custom


async def test_hooks_that_raise(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """S15.5, I46: they are logged; the run, the other hooks and later events do not notice."""
    told: list[Event] = []
    effects = Effects()
    engine = await cluster.open(hooks=[Raising(), recording(told, True)])
    flow = create_workflow("raises").step("a", effects.step("a", 1)).wait("w")
    result = await engine.execute(flow)
    assert result.status == "suspended" and result.results == {"a": 1}
    assert (await engine.signal(flow, result.id, "w")).status == "completed"
    await engine.close()
    assert [event.name for event in told] == [
        "run_started", "step_started", "step_completed", "run_suspended", "signal_received", "run_completed",
    ]  # fmt: skip
    assert sum("raised" in record.getMessage() for record in caplog.records) == 4


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_hooks_that_hang(cluster: Cluster, asynchronous: bool) -> None:
    """S15.5: runs go on, and closing does not wait for ever."""
    go = threading.Event()
    entered = threading.Event()

    class Hanging(Hooks):
        if asynchronous:

            async def run_started(self, event: Event) -> None:
                entered.set()
                await asyncio.Event().wait()

        else:

            def run_started(self, event: Event) -> None:
                entered.set()
                go.wait(20)

    effects = Effects()
    engine = await cluster.open(hooks=[Hanging()])
    flow = create_workflow("hangs").step("a", effects.step("a")).step("b", effects.step("b"))
    for _ in range(3):
        assert (await engine.execute(flow)).status == "completed"
    await eventually(entered.is_set)
    await engine.close()
    go.set()


async def test_a_class_with_other_names(cluster: Cluster) -> None:
    """D26: only the methods that one writes are called."""
    told: list[str] = []

    class Some(Hooks):
        def run_completed(self, event: Event) -> None:
            told.append(event.name)

        def helper(self) -> None:
            raise AssertionError

    engine = await cluster.open(hooks=[Some()])
    await engine.execute(create_workflow("some").step("a", Effects().step("a")))
    await engine.close()
    assert told == ["run_completed"]


class Cancelling(Hooks):
    """What it is told of has its task cancelled, in every way there is."""

    async def run_started(self, event: Event) -> None:
        _cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return  # and nobody takes it back, as timers of older libraries did not

    def step_started(self, event: Event) -> None:
        raise ValueError("a hook")

    async def step_completed(self, event: Event) -> None:
        _cancel()
        await asyncio.Event().wait()

    async def run_suspended(self, event: Event) -> None:
        _cancel()

    async def signal_received(self, event: Event) -> None:
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()
        asyncio.get_running_loop().call_soon(task.cancel)


def _cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def test_hooks_that_cancel_their_task(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """S15.5, I46: a cancellation that is not the engine's ends no hook but the one that it was meant for."""
    told: list[Event] = []
    engine = await cluster.open(hooks=[Cancelling(), recording(told, False)])
    flow = create_workflow("cancels").step("a", Effects().step("a")).wait("w")
    for _ in range(2):
        run_id = (await engine.execute(flow)).id
        await engine.signal(flow, run_id, "w")
        await eventually(lambda: any(event.name == "run_completed" and event.run_id == run_id for event in told))
    await engine.close()
    expected = ["run_started", "step_started", "step_completed", "run_suspended", "signal_received", "run_completed"]
    assert [name for name in (event.name for event in told) if name != "signal_received"] == [
        name for name in expected * 2 if name != "signal_received"
    ], "that of a cancellation which comes later hits whichever is called then"
    assert sum("raised" in record.getMessage() for record in caplog.records) >= 4


def test_a_program_that_ends_ends_its_hooks() -> None:
    """S15.5: one that leaves without closing its engine is not kept waiting, neither by a hook that is called nor by none."""

    class Waiting(Hooks):
        async def run_started(self, event: Event) -> None:
            reached.set()
            await asyncio.Event().wait()

    reached: asyncio.Event

    async def program(hook: Hooks) -> None:
        nonlocal reached
        reached = asyncio.Event()
        engine = FluxEngine(MemoryStorage(), hooks=[hook])
        await engine.__aenter__()
        await engine.execute(create_workflow("w").step("a", Effects().step("a")))
        if isinstance(hook, Waiting):
            await reached.wait()

    for hook in (Waiting(), recording([], True)):
        asyncio.run(program(hook))

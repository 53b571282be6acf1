"""`when`: asked once, recorded, pure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, InvalidWorkflow, StepError, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio


async def test_it_decides(engine: FluxEngine) -> None:
    """S6.1: a falsy answer skips, a truthy one runs; it sees data, input and results as committed."""
    effects = Effects()

    async def fill(ctx: Any) -> int:
        ctx.data["total"] = 150
        return 7

    flow = (
        create_workflow("when")
        .step("fill", fill)
        .step("big", effects.step("big"), when=lambda ctx: ctx.data["total"] > 100)
        .step("small", effects.step("small"), when=lambda ctx: ctx.data.total <= 100)
        .step("input", effects.step("input"), when=lambda ctx: ctx.input["on"])
        .step("result", effects.step("result"), when=lambda ctx: ctx.results["fill"] == 7)
        .step("none", effects.step("none"), when=lambda ctx: None)
        .wait("skipped_wait", when=lambda ctx: False)
        .sleep("skipped_sleep", days=9, when=lambda ctx: [])
        .commit("kept_commit", effects.step("commit"), when=lambda ctx: "yes")
    )
    result = await engine.execute(flow, {"on": True})
    assert result.status == "completed" and effects.done == ["big", "input", "result", "commit"]
    statuses = {line.path: line.status.value for line in result.history}
    assert [path for path, status in statuses.items() if status == "skipped"] == ["small", "none", "skipped_wait", "skipped_sleep"]


async def test_the_first_step_may_have_one(engine: FluxEngine) -> None:
    """S6.1: also where nothing stands before it."""
    effects = Effects()
    flow = create_workflow("first").step("a", effects.step("a"), when=lambda ctx: ctx.input).step("b", effects.step("b"))
    assert (await engine.execute(flow, False)).status == "completed" and effects.done == ["b"]
    assert (await engine.execute(flow, True)).status == "completed" and effects.done == ["b", "a", "b"]


async def test_all_skipped(engine: FluxEngine) -> None:
    """A run whose steps are all skipped is completed."""
    effects = Effects()
    flow = create_workflow("all").step("a", effects.step("a"), when=lambda ctx: False)
    result = await engine.execute(flow)
    assert result.status == "completed" and result.results == {} and effects.done == []


async def test_it_is_asked_once(cluster: Cluster) -> None:
    """S6.1, I35: the answer is recorded: no retry, recovery or compensation asks again, and a skipped step is not compensated."""
    asked: list[str] = []
    effects = Effects()
    answers = iter([True, False])

    def ask(ctx: Any) -> bool:
        asked.append(ctx.path)
        return next(answers)

    flow = (
        create_workflow("once")
        .step("a", effects.step("a"), when=ask, compensate=effects.step("undo a"))
        .step("b", effects.step("b"), when=ask, compensate=effects.step("undo b"), compensate_when="started")
        .wait("go")
        .step("c", effects.step("c", error=ValueError("no")), retries=0)
    )
    engine = await cluster.open(workflows=[flow])
    run_id = (await engine.execute(flow)).id
    await cluster.crash(engine)
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    result = await other.signal(flow, run_id, "go")
    assert result.status == "failed" and asked == ["a", "b"] and effects.done == ["a", "c", "undo a"]


async def test_one_that_raises_fails_the_step(engine: FluxEngine) -> None:
    """S6.2: with no retry, and the run is compensated."""
    effects = Effects()
    asked: list[int] = []

    def broken(ctx: Any) -> bool:
        asked.append(1)
        return bool(ctx.data["missing"])

    flow = (
        create_workflow("raises")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .step("b", effects.step("b"), when=broken, retries=5, compensate=effects.step("undo b"), compensate_when="started")
    )
    result = await engine.execute(flow)
    assert result.status == "failed" and isinstance(result.error, KeyError) and asked == [1]
    assert effects.done == ["a", "undo a"] and result.history[1].attempts == 0


async def test_one_whose_answer_has_no_truth(engine: FluxEngine) -> None:
    """S6.2: an answer that raises when it is asked for its truth fails the step alone."""

    class Odd:
        def __bool__(self) -> bool:
            raise OSError("neither")

    effects = Effects()
    result = await engine.execute(create_workflow("odd").step("a", effects.step("a"), when=lambda ctx: Odd()))
    assert result.status == "failed" and isinstance(result.error, OSError)


async def test_one_that_is_asynchronous_in_disguise(engine: FluxEngine) -> None:
    """S1.5: a lambda that returns a coroutine is no condition: the step fails instead of always running."""
    effects = Effects()

    async def later(ctx: Any) -> bool:
        return False

    result = await engine.execute(create_workflow("async").step("a", effects.step("a"), when=lambda ctx: later(ctx)))
    assert result.status == "failed" and isinstance(result.error, InvalidWorkflow) and effects.done == []


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit])
async def test_one_that_raises_what_would_stop_a_task(engine: FluxEngine, error: type[BaseException]) -> None:
    """S6.2, S2.3: it fails its step, as any other; the run is not given back and taken up again for ever."""
    effects = Effects()

    def stop(ctx: Any) -> bool:
        raise error

    result = await engine.execute(create_workflow("stop").step("a", effects.step("a"), when=stop))
    assert result.status == "failed" and isinstance(result.error, StepError) and error.__name__ in str(result.error)
    loop = create_workflow("turns").loop("l", effects.step("l"), until=stop, at_most=3)
    assert (await engine.execute(loop)).status == "failed" and effects.done == ["l"]


async def test_it_changes_nothing(engine: FluxEngine) -> None:
    """S1.5: what a condition does to the data is dropped."""
    effects = Effects()
    flow = create_workflow("pure").step("a", effects.step("a"), when=lambda ctx: not ctx.data.update(x=1))
    assert (await engine.execute(flow)).data == {}

"""Steps that say what they come after (S1.2, I6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, branch, create_workflow

from .cluster import Cluster, eventually
from .parts import Declined, Parts, Slow, statuses

pytestmark = pytest.mark.anyio


async def note(ctx: Any) -> str:
    return str(ctx.path)


def diamond(name: str, parts: Parts, **options: Any) -> Any:
    """a, then b beside c, then d."""
    return (
        create_workflow(name)
        .step("a", parts.mark, compensate=parts.undo)
        .step("b", parts.mark, after=["a"], retries=0, compensate=parts.undo, **options)
        .step("c", parts.mark, after=["a"], retries=0, compensate=parts.undo)
        .step("d", parts.mark, after=["b", "c"])
    )


async def test_a_diamond(cluster: Cluster) -> None:
    """I6: b and c side by side, d once both are done; read alike where the workflow is not known."""
    engine, stranger = await cluster.open(), await cluster.open()
    parts = Parts(held=("b", "c"))
    task = asyncio.create_task(engine.execute(diamond("diamond", parts), id="r"))
    await parts.reached("b", "c")
    assert parts.most == 2
    parts.let("c")

    async def recorded() -> bool:
        return statuses(await engine.get("r"))["c"] == "completed"

    await eventually(recorded)
    assert "d" not in parts.done
    assert statuses(await stranger.get("r")) == {"a": "completed", "b": "running", "c": "completed"}
    parts.let("b")
    result = await task
    assert result.status == "completed" and parts.done == ["a", "b", "c", "d"] and set(result.data) == set("abcd")
    read = await stranger.get("r")
    assert statuses(read) == statuses(result) and read.results == result.results


async def test_it_takes_as_long_as_its_longest_way(cluster: Cluster) -> None:
    """I6: nothing waits for what it does not come after."""
    engine = await cluster.open()
    flow = (
        create_workflow("ways")
        .step("long", Slow(cluster.clock, 3), after=())
        .step("short", Slow(cluster.clock, 1), after=())
        .step("then", Slow(cluster.clock, 1), after=["short"])
        .step("last", Slow(cluster.clock, 1), after=["long", "then"])
    )
    assert (await engine.execute(flow)).duration == pytest.approx(4)


async def test_a_diamond_with_an_untaken_branch(engine: FluxEngine) -> None:
    """S6.1, I6: a diamond with an untaken branch completes."""
    parts = Parts()
    result = await engine.execute(diamond("untaken", parts, when=lambda ctx: False))
    assert result.status == "completed" and parts.done == ["a", "c", "d"] and statuses(result)["b"] == "skipped"


@pytest.mark.parametrize(
    "second",
    [
        lambda flow: flow.step("b", note, when=lambda ctx: True, after=()),
        lambda flow: flow.sleep("b", lambda ctx: 0.001, after=()),
        lambda flow: flow.route("b", lambda ctx: "x", x=note, after=()),
        lambda flow: flow.loop("b", note, while_=lambda ctx: ctx.turn < 2, at_most=2, after=()),
        lambda flow: flow.for_each("b", lambda ctx: [1], note, after=()),
        lambda flow: flow.child("b", create_workflow("child").step("x", note), after=()),
    ],
    ids=["condition", "computed sleep", "route", "loop", "for_each", "child"],
)
async def test_what_begins_beside_the_first_step(engine: FluxEngine, second: Any) -> None:
    """S1.2, S2.4: a run is made and moved whatever begins with it: also what has to be asked first."""
    flow = second(create_workflow("beside").step("a", note)).step("c", note, after=["a", "b"])
    result = await engine.execute(flow, id="r")
    assert result.error is None and result.status == "completed"
    assert [line.path for line in result.history if "[" not in line.path and "/" not in line.path] == ["a", "b", "c"]


async def test_a_failure(engine: FluxEngine) -> None:
    """I28, S10.1: what runs is recorded first; all are undone, in reverse."""
    parts = Parts("b", held=("c",))
    task = asyncio.create_task(engine.execute(diamond("failure", parts), id="r"))
    await parts.reached("b", "c")

    async def failed() -> bool:
        return statuses(await engine.get("r")).get("b") == "failed"

    await eventually(failed)
    assert parts.undone == []
    parts.let("c")
    result = await task
    assert isinstance(result.error, Declined) and parts.undone == ["c", "a"] and "d" not in parts.done
    parts.again()
    again = await engine.retry(diamond("failure", parts), "r")
    assert again.status == "completed" and sorted(parts.done) == ["a", "b", "c", "d"]


async def test_retry_leaves_what_does_not_come_after(engine: FluxEngine) -> None:
    """S12.2: the step that failed, and what comes after it."""
    parts = Parts("b")
    flow = (
        create_workflow("retry")
        .step("a", parts.mark, after=())
        .step("b", parts.mark, after=(), retries=0)
        .step("c", parts.mark, after=["a"])
    )
    flow = flow.step("d", parts.mark, after=["b"])
    failed = await engine.execute(flow, id="r")
    assert failed.status == "failed"
    before = set(parts.done)
    parts.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and set(parts.done) == set("abcd") - (before - {"b"}) and set(result.data) == set("abcd")


async def test_conflicts(engine: FluxEngine) -> None:
    """D22: two that are beside one another change one key differently; one that comes after may."""

    def put(value: int) -> Any:
        async def handler(ctx: Any) -> None:
            ctx.data["k"] = value

        return handler

    apart = create_workflow("apart").step("a", put(1), after=()).step("b", put(2), after=())
    assert type((await engine.execute(apart)).error).__name__ == "DataConflict"
    behind = create_workflow("behind").step("a", put(1), after=()).step("b", put(2), after=["a"])
    assert (await engine.execute(behind)).data == {"k": 2}


async def test_waits_and_composites_in_a_graph(engine: FluxEngine) -> None:
    """I6, S7: every kind may come after any."""
    parts = Parts()
    flow = (
        create_workflow("kinds")
        .wait("w", after=())
        .parallel("p", x=parts.mark, y=branch().sleep("nap", 1).step("s", parts.mark), after=())
        .for_each("f", lambda ctx: [1, 2], parts.mark, after=["p"])
        .route("r", lambda ctx: "a", a=parts.mark, after=["w", "f"])
        .loop("l", parts.mark, at_most=2, after=["w"])
    )
    waiting = await engine.execute(flow, id="r")
    assert waiting.status == "suspended" and statuses(waiting)["f"] == "completed" and "r" not in statuses(waiting)
    result = await engine.signal(flow, "r", "w")
    assert result.status == "completed" and sorted(parts.done[-3:]) == ["l[1]", "l[2]", "r/a"] and len(result.data) == 7


async def test_a_crash_in_a_diamond(cluster: Cluster) -> None:
    """S12.1: only what was not recorded is done again."""
    parts = Parts(held=("c",))
    flow = diamond("crash", parts)
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("b", "c")

    async def recorded() -> bool:
        return statuses(await other.get("r"))["b"] == "completed"

    await eventually(recorded)
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    parts.again()
    result = await other.resume(flow, "r")
    assert result.status == "completed" and parts.done == ["c", "d"]


async def test_a_graph_in_every_body(engine: FluxEngine) -> None:
    """S1.2: in a branch, a turn, an item."""
    parts = Parts()
    graph = branch().step("a", parts.mark, after=()).step("b", parts.mark, after=()).step("c", parts.mark, after=["a", "b"])
    flow = create_workflow("bodies").parallel("p", g=graph).loop("l", graph, at_most=2).for_each("f", lambda ctx: [1, 2], graph)
    result = await engine.execute(flow)
    assert result.status == "completed" and len(parts.done) == len(result.data) == 15
    assert result.results["l"][1] == {"a": "l[2]/a", "b": "l[2]/b", "c": "l[2]/c"}

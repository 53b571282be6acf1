"""A body again and again (S1.2, S1.3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, branch, create_workflow
from flux_storage import MemoryStorage

from .cluster import Cluster
from .faults import Faulty
from .parts import Parts, statuses

pytestmark = pytest.mark.anyio


async def count_up(ctx: Any) -> int:
    """Returns the turn, and adds it to the data."""
    ctx.data["turns"] = [*ctx.data.get("turns", []), ctx.turn]
    return int(ctx.turn)


async def test_until(cluster: Cluster) -> None:
    """S1.2, S1.3: asked after each turn, which sees what that turn did; the result is a list."""
    engine, stranger = await cluster.open(), await cluster.open()
    asked: list[int] = []

    def enough(ctx: Any) -> bool:
        asked.append(ctx.turn)
        return len(ctx.data["turns"]) == 3

    result = await engine.execute(create_workflow("until").loop("l", count_up, until=enough, at_most=9), id="r")
    assert result.status == "completed" and result.results["l"] == [1, 2, 3] and result.data == {"turns": [1, 2, 3]} and asked == [1, 2, 3]
    assert statuses(result) == {"l": "completed", "l[1]": "completed", "l[2]": "completed", "l[3]": "completed"}
    assert (await stranger.get("r")).results == result.results


async def test_while(engine: FluxEngine) -> None:
    """S1.2: asked before each turn, the first too; `ctx.turn` is the one to come."""
    asked: list[int] = []

    def more(ctx: Any) -> bool:
        asked.append(ctx.turn)
        return bool(ctx.turn <= ctx.input)

    flow = create_workflow("while").loop("l", branch().step("x", count_up), while_=more, at_most=9)
    result = await engine.execute(flow, 2)
    assert result.results["l"] == [{"x": 1}, {"x": 2}] and asked == [1, 2, 3]
    none = await engine.execute(flow, 0)
    assert none.status == "completed" and none.results["l"] == [] and statuses(none) == {"l": "completed"}


async def test_while_in_a_branch_sees_its_data(engine: FluxEngine) -> None:
    """D22: its own changes, before the turn."""
    flow = create_workflow("own").parallel(
        "p",
        a=branch().loop("l", count_up, while_=lambda ctx: len(ctx.data.get("turns", [])) < 2, at_most=9),
        b=branch().step("x", count_up, when=lambda ctx: False).sleep("nap", 1),
    )
    result = await engine.execute(flow)
    assert result.status == "completed" and result.data == {"turns": [1, 2]}


async def test_at_most(engine: FluxEngine) -> None:
    """S1.2: running out of turns fails as LoopLimit; without a test they are just taken."""
    flow = create_workflow("limit").loop("l", count_up, until=lambda ctx: False, at_most=2)
    result = await engine.execute(flow)
    assert result.status == "failed" and type(result.error).__name__ == "LoopLimit"
    assert (await engine.execute(create_workflow("just").loop("l", count_up, at_most=2))).results["l"] == [1, 2]


async def test_a_test_that_raises(engine: FluxEngine) -> None:
    """S6.2: fails the loop; what it did is undone."""
    parts = Parts()
    flow = create_workflow("raises").loop("l", branch().step("x", parts.act, compensate=parts.undo), until=lambda ctx: 1 / 0, at_most=5)
    result = await engine.execute(flow)
    assert isinstance(result.error, ZeroDivisionError) and parts.undone == ["l[1]/x"]


async def test_waits_and_sleeps_in_turns(engine: FluxEngine) -> None:
    """S7, S8: each turn awaits its own signal."""
    flow = create_workflow("waits").loop("l", branch().sleep("nap", 1).wait("w"), until=lambda ctx: ctx.results["w"] == "stop", at_most=9)
    waiting = await engine.execute(flow, id="r")
    assert waiting.waiting_for == ("w",) and statuses(waiting)["l[1]/w"] == "suspended"
    assert (await engine.signal(flow, "r", "w", "go")).status == "suspended"
    result = await engine.signal(flow, "r", "w", "stop")
    assert [turn["w"] for turn in result.results["l"]] == ["go", "stop"]


async def test_results_are_the_turns_own(engine: FluxEngine) -> None:
    """S1.3: a name is of this turn; of an earlier one by its path."""
    seen: list[Any] = []

    async def look(ctx: Any) -> None:
        seen.append((ctx.turn, ctx.results["x"], ctx.results.get("l[1]/x")))

    await engine.execute(create_workflow("own").loop("l", branch().step("x", count_up).step("look", look), at_most=2))
    assert seen == [(1, 1, 1), (2, 2, 1)]


async def test_a_crash_in_a_turn(cluster: Cluster) -> None:
    """S12.1: turns that are done stay done, and tests that were answered are not asked again."""
    parts = Parts(held=("l[2]/y",))
    asked: list[int] = []
    flow = create_workflow("crash").loop(
        "l",
        branch().step("x", parts.mark).step("y", parts.mark),
        until=lambda ctx: bool(asked.append(ctx.turn)) or ctx.turn == 3,
        at_most=9,
    )
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("l[2]/y")
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    parts.again()
    result = await other.resume(flow, "r")
    assert result.status == "completed" and parts.done == ["l[2]/y", "l[3]/x", "l[3]/y"] and asked == [1, 2, 3]
    assert len(result.data) == 6


async def test_retry_keeps_the_turns(engine: FluxEngine) -> None:
    """S12.2, D3: and a turn named takes those after it with it."""
    parts = Parts("l[3]/y")
    flow = create_workflow("retry").loop("l", branch().step("x", parts.mark).step("y", parts.mark, retries=0), at_most=3)
    await engine.execute(flow, id="r")
    parts.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and parts.done == ["l[3]/y"] and len(result.data) == 6
    parts = Parts("z")
    flow = create_workflow("again").loop("l", branch().step("x", parts.mark), at_most=3).step("z", parts.mark, retries=0)
    await engine.execute(flow, id="s")
    parts.again()
    result = await engine.retry(flow, "s", from_step="l[2]/x")
    assert result.status == "completed" and parts.done == ["l[2]/x", "l[3]/x", "z"] and len(result.data) == 4


async def test_ten_thousand_turns() -> None:
    """S3.3, D23: one commit a turn, and none grows with how many came before."""
    storage = Faulty(MemoryStorage())
    async with FluxEngine(storage) as engine:

        async def nothing(ctx: Any) -> None:
            return None

        result = await engine.execute(create_workflow("long").loop("l", nothing, at_most=10_000))
        assert result.status == "completed" and len(result.results["l"]) == 10_000
        sizes = [len(commit.records) for commit in storage.commits()]
        assert len(sizes) <= 10_001 and max(sizes) == 3

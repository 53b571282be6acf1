"""A body for every item (S1.2, S1.3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, Retry, branch, create_workflow
from flux_storage import MemoryStorage

from .cluster import Cluster
from .faults import Faulty
from .parts import Declined, Parts, Slow, statuses

pytestmark = pytest.mark.anyio


async def double(ctx: Any) -> int:
    """Twice the item; the data says where it was."""
    ctx.data[f"item {ctx.index}"] = ctx.item
    return int(ctx.item * 2)


async def test_results_in_the_order_of_items(cluster: Cluster) -> None:
    """S1.2, S1.3: `ctx.item`, `ctx.index` from 0, paths from 1; changes meet at the join."""
    engine, stranger = await cluster.open(), await cluster.open()
    flow = create_workflow("each").for_each(
        "f", lambda ctx: ctx.input, branch().step("x", double).wait("ok", when=lambda ctx: ctx.item == 3)
    )
    waiting = await engine.execute(flow, [1, 2, 3], id="r")
    assert waiting.status == "suspended" and statuses(waiting)["f[3]/ok"] == "suspended"
    result = await engine.signal(flow, "r", "ok", "!")
    assert result.results["f"] == [{"x": 2}, {"x": 4}, {"x": 6, "ok": "!"}]
    assert result.data == {"item 0": 1, "item 1": 2, "item 2": 3}
    read = await stranger.get("r")
    assert read.results == result.results and statuses(read) == statuses(result)


async def test_concurrency(cluster: Cluster) -> None:
    """S1.2: so many at once, and no more."""
    engine = await cluster.open()
    most = 0
    now = 0

    class Counted(Slow):
        async def __call__(self, ctx: Any) -> str:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await super().__call__(ctx)
            now -= 1
            return ""

    flow = create_workflow("some").for_each("f", lambda ctx: range(7), Counted(cluster.clock, 1), concurrency=3)
    result = await engine.execute(flow)
    assert most == 3 and result.duration == pytest.approx(3)
    most = 0
    everything = create_workflow("all").for_each("f", lambda ctx: range(7), Counted(cluster.clock, 1), concurrency=None)
    assert (await engine.execute(everything)).duration == pytest.approx(1) and most == 7


async def test_no_items_and_bad_ones(engine: FluxEngine) -> None:
    """S1.2, S6.2: nothing to do is done; what cannot be iterated over, or stored, fails the step."""
    flow = create_workflow("none").for_each("f", lambda ctx: ctx.input, double)
    assert (await engine.execute(flow, [])).results["f"] == []
    assert isinstance((await engine.execute(flow, 5)).error, TypeError)
    bad = create_workflow("bad").for_each("f", lambda ctx: [object()], double)
    error = (await engine.execute(bad)).error
    assert type(error).__name__ == "NotStorable" and str(error).startswith("f: items[0]: a value of type object")


async def test_at_least(engine: FluxEngine) -> None:
    """S1.2: the others may fail, and have no result."""
    parts = Parts("f[2]", "f[3]")
    flow = create_workflow("least").for_each("f", lambda ctx: range(3), parts.mark, at_least=1)
    async with FluxEngine(default_retries=0, default_retry=Retry(initial=0)) as quick:
        result = await quick.execute(flow)
        assert result.results["f"] == ["f[1]", None, None] and set(result.data) == {"f[1]"}
        assert statuses(result) == {"f": "completed", "f[1]": "completed", "f[2]": "failed", "f[3]": "failed"}
        parts.failing.add("f[1]")
        failed = await quick.execute(flow)
        assert type(failed.error).__name__ == "BranchesFailed" and isinstance(failed.error.__cause__, Declined)


@pytest.mark.parametrize("fast", [True, False])
async def test_fail_fast(engine: FluxEngine, fast: bool) -> None:
    """S11.3: those under way are stopped and the rest never begin, or all are let to their end; then all are undone."""
    parts = Parts("f[1]/x", held=("f[2]/x",) if fast else ())
    flow = create_workflow("fast").for_each(
        "f", lambda ctx: range(4), branch().step("x", parts.act, retries=0, compensate=parts.undo), concurrency=2, fail_fast=fast
    )
    result = await engine.execute(flow)
    assert result.status == "failed" and isinstance(result.error, Declined)
    if fast:
        assert parts.cut == ["f[2]/x"] and parts.undone == ["f[2]/x"] and "f[3]/x" not in parts.done
    else:
        assert len(parts.done) == 4 and sorted(parts.undone) == ["f[2]/x", "f[3]/x", "f[4]/x"]


async def test_only_unfinished_items_go_on_after_a_crash(cluster: Cluster) -> None:
    """S12.1, I35: with the items that were recorded."""
    parts = Parts(held=("f[2]", "f[3]"))
    asked: list[int] = []
    flow = create_workflow("crash").for_each("f", lambda ctx: asked.append(1) or range(4), parts.mark, concurrency=2)
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("f[2]", "f[3]")
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    parts.again()
    result = await other.resume(flow, "r")
    assert result.status == "completed" and sorted(parts.done) == ["f[2]", "f[3]", "f[4]"] and asked == [1] and len(result.data) == 4


async def test_retry_after_some_items_failed(engine: FluxEngine) -> None:
    """S12.2: only those again, on the items of then."""
    parts = Parts("f[2]/x")
    seen: list[Any] = []

    async def note(ctx: Any) -> None:
        seen.append(ctx.item)
        await parts.mark(ctx)

    flow = create_workflow("retry").for_each("f", lambda ctx: ["a", "b", "c"], branch().step("x", note, retries=0), fail_fast=False)
    assert (await engine.execute(flow, id="r")).status == "failed" and seen == ["a", "b", "c"]
    parts.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and seen[3:] == ["b"] and set(result.data) == {"f[1]/x", "f[2]/x", "f[3]/x"}


async def test_items_within_items(engine: FluxEngine) -> None:
    """S1.3: the innermost is the one that is seen."""
    inner = branch().for_each("g", lambda ctx: ctx.item, double)
    result = await engine.execute(
        create_workflow("nested").for_each("f", lambda ctx: [[1], [2, 3]], inner, merge=lambda key, values: values)
    )
    assert result.results["f"] == [{"g": [2]}, {"g": [4, 6]}] and result.data == {"item 0": [1, 2], "item 1": 3}


@pytest.mark.parametrize("retried", [False, True])
async def test_ten_thousand_items(retried: bool) -> None:
    """S3.3: a commit an item at most, of a size that does not depend on how many there are; also when the run is done again."""
    storage = Faulty(MemoryStorage())
    async with FluxEngine(storage) as engine:

        async def put(ctx: Any) -> int:
            ctx.data[str(ctx.index)] = 1
            return int(ctx.item)

        broken = [retried]

        async def last(ctx: Any) -> None:
            if broken.pop():
                raise Declined

        flow = create_workflow("many").for_each("f", lambda ctx: range(10_000), put).step("last", last, retries=0)
        result = await engine.execute(flow, id="r")
        if retried:
            assert result.status == "failed"
            broken[:] = [False]
            storage.calls.clear()
            result = await engine.retry(flow, "r", from_step="f")
        assert result.status == "completed" and result.results["f"] == list(range(10_000)) and len(result.data) == 10_000
        sizes = sorted(len(commit.records) for commit in storage.commits())
        assert len(sizes) <= 10_002 and sizes[-3] <= 40

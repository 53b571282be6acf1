"""Growth: counted in rows, bytes and calls, never in seconds."""

from __future__ import annotations

from typing import Any

import pytest

from flux import FluxEngine, create_workflow
from flux.journal import encode_row

from .cluster import Cluster
from .faults import Faulty

pytestmark = pytest.mark.anyio


async def put(ctx: Any) -> str:
    ctx.data[ctx.step] = "x" * 100
    return "r" * 100


async def test_the_cost_of_a_step_is_flat(cluster: Cluster) -> None:
    """S3.3: one write a step, whose size depends on that step alone: not on the steps before it nor on the rest of the data."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    flow = create_workflow("long")
    for n in range(300):
        flow = flow.step(f"s{n:03}", put)
    result = await engine.execute(flow)
    assert result.status == "completed"
    sizes = [sum(map(len, encode_row(commit.records))) for commit in storage.commits()]
    assert len(sizes) == 300 and max(sizes[:-1]) == min(sizes[:-1])
    assert [verb for verb, _ in storage.calls if verb in ("create", "commit", "load", "read_header")] == ["create"] + ["commit"] * 300
    run = await storage.load(result.id)
    assert run is not None and len(run.rows) == 301


async def test_writes_of_a_whole_run(cluster: Cluster) -> None:
    """D7: the fault-free path: one write to start, one a step; a wait adds the posting that carries the run on."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    flow = create_workflow("writes").step("a", put).wait("go").step("b", put)
    run_id = (await engine.execute(flow)).id
    await engine.signal(flow, run_id, "go")
    assert [verb for verb, _ in storage.calls if verb in ("create", "commit", "post", "take", "claim")] == [
        "create", "commit", "post", "commit", "commit",
    ]  # fmt: skip


async def test_ten_thousand_waiting_runs(cluster: Cluster) -> None:
    """Features §6: parked runs are held by nobody, and one signal touches one of them."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    flow = create_workflow("parked").wait("go").step("b", put)
    results = await engine.execute_many(flow, range(10_000), concurrency=200)
    assert {result.status.value for result in results} == {"suspended"}
    assert not engine._host.drivers
    storage.calls.clear()
    done = await engine.signal(flow, results[5_000].id, "go")
    assert done.status == "completed" and len(storage.calls) == 3
    assert len((await engine.list(status="suspended", limit=500)).runs) == 500


async def test_a_finished_run_leaves_nothing_in_memory(engine: FluxEngine) -> None:
    """Features §6: an engine keeps nothing of runs that rest."""
    import gc
    import weakref

    seen: list[weakref.ref[Any]] = []

    class Big:
        pass

    async def make(ctx: Any) -> None:
        big = Big()
        seen.append(weakref.ref(big))
        ctx.data["kept"] = {"n": 1}

    flow = create_workflow("memory").step("make", make).wait("w")
    for _ in range(5):
        await engine.execute(flow)
    gc.collect()
    assert [ref() for ref in seen] == [None] * 5
    assert not engine._host.drivers and not engine._host._tasks

"""Runs that were done again, read where their workflow is not known (S16)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import NOT_DONE, FluxEngine, RunResult, branch, create_workflow

from .again import Shop
from .cluster import Cluster

pytestmark = pytest.mark.anyio


async def same(cluster: Cluster, engine: FluxEngine, *run_ids: str) -> None:
    """A stranger sees of these runs what is seen by who knows the workflow, but for the kinds of some steps and the pivot."""
    stranger = await cluster.open()
    for run_id in run_ids:
        assert told(await stranger.get(run_id)) == told(await engine.get(run_id)), run_id


def told(run: RunResult) -> Any:
    lines = [
        (
            line.path, line.status, line.attempts, line.result, repr(line.error), line.started_at, line.completed_at, line.in_doubt,
            line.inherited, len(line.earlier), repr(line.compensation),
        )
        for line in run.history
    ]  # fmt: skip
    return (
        run.status, run.data, dict(run.results), lines, run.reopenings, run.resolutions, run.forked_from, run.blocked_reason,
        repr(run.error), run.waiting_for, run.wake_at,
    )  # fmt: skip


async def test_replayed(cluster: Cluster, engine: FluxEngine) -> None:
    """D4: ended, under way at each commit step, blocked, and given its old status back."""
    shop = Shop()
    flow = (
        create_workflow("replayed")
        .step("a", shop.act("a", n=1))
        .commit("b", shop.act("b", n=2), retries=0)
        .step("c", shop.act("c", n=3))
        .commit("d", shop.act("d", n=4), retries=0)
    )
    await engine.execute(flow, id="done")
    await engine.replay(flow, "done")
    await same(cluster, engine, "done")
    for number, failing in enumerate(("b", "d")):
        run_id = f"blocked-{number}"
        await engine.execute(flow, id=run_id)
        shop.failing = {failing}
        await engine.replay(flow, run_id)
        await same(cluster, engine, run_id)
        await engine.cancel(run_id)
        await same(cluster, engine, run_id)
        shop.failing.clear()
    for number, name in enumerate(("b", "d")):
        run_id = f"live-{number}"
        shop.hanging = set()
        await engine.execute(flow, id=run_id)
        shop.hanging = {name}
        shop.entered.clear()
        task = asyncio.create_task(engine.replay(flow, run_id))
        await shop.reached(name)
        await same(cluster, engine, run_id)
        task.cancel()
    await cluster.crash(engine)


async def test_retried(cluster: Cluster, engine: FluxEngine) -> None:
    """D3: failed, retried, retried with success; with steps that another generation skipped, and a wait that could not be started."""
    shop = Shop("last")
    wanted = {"it": False}

    def when(ctx: Any) -> bool:
        if wanted["it"] is None:
            raise ValueError("what?")
        return wanted["it"]

    flow = (
        create_workflow("retried")
        .step("a", shop.act("a", n=1), compensate=shop.act("undo"))
        .wait("w", when=when, timeout=5, on_timeout=branch().step("late", shop.act("late")))
        .sleep("nap", seconds=1, when=when)
        .step("last", shop.act("last"), retries=0)
    )
    await engine.execute(flow, id="r")
    await same(cluster, engine, "r")
    wanted["it"] = None  # type: ignore[assignment]
    await engine.retry(flow, "r")
    await same(cluster, engine, "r")
    wanted["it"] = True
    shop.again()
    await engine.retry(flow, "r")
    await same(cluster, engine, "r")
    await engine.signal(flow, "r", "w", 1)
    await same(cluster, engine, "r")


async def test_forked(cluster: Cluster, engine: FluxEngine) -> None:
    """D5: a fork, and one that makes what it shares its own."""
    shop = Shop()
    flow = (
        create_workflow("forked")
        .step("a", shop.act("a", n=1))
        .step("skipped", shop.act("skipped"), when=lambda ctx: False)
        .wait("go")
        .sleep("nap", seconds=1)
        .step("b", shop.act("b"), retries=0)
    )
    await engine.execute(flow, id="r")
    await engine.signal(flow, "r", "go", 5)
    shop.failing = {"b"}
    await engine.fork(flow, "r", from_step="b", new_id="f")
    await engine.fork(flow, "r", from_step="b", new_id="pending", start=False)
    await same(cluster, engine, "f", "pending")
    await engine.retry(flow, "f", from_step="a")
    await same(cluster, engine, "f")
    shop.again()
    await engine.signal(flow, "f", "go", 6)
    await same(cluster, engine, "f")


async def test_probed_and_resolved(cluster: Cluster, engine: FluxEngine) -> None:
    """S3.8, S9.4: after a probe, in one, and moved on by a person."""
    shop = Shop()
    answers: list[Any] = [NOT_DONE, "found"]

    async def probe(ctx: Any) -> Any:
        await same(cluster, engine, "r")
        return answers.pop(0)

    shop.hanging = {"a"}
    flow = create_workflow("probed").commit("pay", shop.act("pay"), pivot=True)
    flow = flow.step("a", shop.act("a"), timeout=5, retries=1, probe=probe).step("b", shop.act("b"), retries=0)
    shop.failing = {"b"}
    await engine.execute(flow, id="r")
    await same(cluster, engine, "r")
    await engine.resolve("r", "b", "done", result=7)
    assert answers == []
    await same(cluster, engine, "r")

"""Commit steps: outside effects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, Retry, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio


async def test_it_is_a_step(engine: FluxEngine) -> None:
    """S9.1: it returns, retries and is compensated like any step."""
    effects = Effects()
    tries: list[int] = []

    async def ship(ctx: Any) -> str:
        tries.append(ctx.attempt)
        if ctx.attempt < 3:
            raise OSError
        ctx.data["shipped"] = True
        return "label"

    flow = (
        create_workflow("ships")
        .commit("ship", ship, retries=3, retry=Retry(initial=0, jitter=False), compensate=effects.step("undo"))
        .step("check", lambda ctx: ctx.results["ship"])
    )
    result = await engine.execute(flow)
    assert result.results == {"ship": "label", "check": "label"} and tries == [1, 2, 3] and effects.done == []
    assert result.data == {"shipped": True} and result.history[0].kind == "commit"


async def test_recovery_does_not_repeat_it(cluster: Cluster) -> None:
    """S9.2: once its outcome is recorded."""
    effects = Effects()
    entered = asyncio.Event()

    async def hold(ctx: Any) -> str:
        effects.done.append("hold")
        if entered.is_set():
            return "second"
        entered.set()
        await asyncio.Event().wait()
        return "never"

    flow = create_workflow("once").commit("pay", effects.step("pay", 1)).step("hold", hold, timeout=None)
    engine = await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    result = await other.resume(flow, "r")
    assert result.status == "completed" and effects.done == ["pay", "hold", "hold"] and result.results == {"pay": 1, "hold": "second"}


async def test_a_resume_of_a_finished_run_repeats_nothing(engine: FluxEngine) -> None:
    """S2.2, I9: a resume of a run that ended returns it."""
    effects = Effects()
    flow = create_workflow("done").step("a", effects.step("a")).commit("b", effects.step("b"))
    run_id = (await engine.execute(flow)).id
    assert (await engine.resume(flow, run_id)).status == "completed" and effects.done == ["a", "b"]

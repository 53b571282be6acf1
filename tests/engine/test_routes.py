"""One of several branches (S1.2, I35)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, branch, create_workflow

from .cluster import Cluster
from .parts import Parts, statuses

pytestmark = pytest.mark.anyio


async def test_the_branch_that_was_chosen(cluster: Cluster) -> None:
    """S1.2, S1.3: its result says which; others are not heard of."""
    engine, stranger = await cluster.open(), await cluster.open()
    parts = Parts()
    flow = (
        create_workflow("carrier")
        .step("s", parts.mark)
        .route("r", lambda ctx: ctx.input, air=parts.mark, sea=branch().step("book", parts.mark).wait("ok"), default=parts.mark)
        .step("z", parts.mark)
    )
    air = await engine.execute(flow, "air")
    assert air.results["r"] == {"branch": "air", "result": "r/air"} and parts.done == ["s", "r/air", "z"]
    assert set(air.data) == {"s", "r/air", "z"}
    sea = await engine.execute(flow, "sea", id="r")
    assert sea.waiting_for == ("ok",)
    sea = await engine.signal(flow, "r", "ok", 1)
    assert sea.results["r"] == {"branch": "sea", "result": {"book": "r/sea/book", "ok": 1}}
    assert [(line.path, line.kind) for line in sea.history] == [
        ("s", "step"), ("r", "route"), ("r/sea/book", "step"), ("r/sea/ok", "wait"), ("z", "step"),
    ]  # fmt: skip
    assert (await stranger.get("r")).results == sea.results
    assert (await engine.execute(flow, "horse")).results["r"]["branch"] == "default"


async def test_no_such_branch(engine: FluxEngine) -> None:
    """S1.2, S6.2: an answer that names none, without `default`, and a selector that raises."""
    parts = Parts()
    flow = create_workflow("none").step("s", parts.act, compensate=parts.undo).route("r", lambda ctx: ctx.input["to"], air=parts.act)
    result = await engine.execute(flow, {"to": "horse"})
    assert result.status == "failed" and "horse" in str(result.error) and parts.undone == ["s"]
    assert isinstance((await engine.execute(flow, {})).error, KeyError) and parts.done == ["s", "s"]


async def test_a_choice_whose_repr_fails(engine: FluxEngine) -> None:
    """S1.2, S6.2: an answer that is no name, whatever it is, fails the step and not the engine."""

    class Odd:
        def __repr__(self) -> str:
            raise OSError

    result = await engine.execute(create_workflow("odd").route("r", lambda ctx: Odd(), a=Parts().act))  # type: ignore[arg-type,return-value]
    assert result.status == "failed" and "something of type Odd, its branches are a" in str(result.error)


async def test_the_choice_stands_after_a_crash(cluster: Cluster) -> None:
    """I35: it is asked once, whatever the data has become."""
    parts = Parts(held=("r/a/x",))
    asked: list[Any] = []

    def choose(ctx: Any) -> str:
        asked.append(dict(ctx.data))
        return "b" if len(asked) > 1 else "a"

    flow = create_workflow("crash").route("r", choose, a=branch().step("x", parts.act), b=parts.act)
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("r/a/x")
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    parts.again()
    result = await other.resume(flow, "r")
    assert result.status == "completed" and parts.done == ["r/a/x"] and len(asked) == 1


async def test_retry_inside_a_route(engine: FluxEngine) -> None:
    """S12.2, D3: from the step that failed, in the branch that was taken; from the route itself it is asked again."""
    parts = Parts("r/a/y")
    answers = ["a", "b"]
    flow = create_workflow("retry").route(
        "r", lambda ctx: answers.pop(0), a=branch().step("x", parts.mark).step("y", parts.mark, retries=0), b=parts.mark
    )
    assert statuses(await engine.execute(flow, id="r")) == {"r": "failed", "r/a/x": "completed", "r/a/y": "failed"}
    again = await engine.retry(flow, "r")
    assert again.status == "failed" and parts.done == ["r/a/x", "r/a/y", "r/a/y"] and answers == ["b"]
    result = await engine.retry(flow, "r", from_step="r")
    assert result.results["r"] == {"branch": "b", "result": "r/b"} and set(result.data) == {"r/b"}
    assert statuses(result) == {"r": "completed", "r/b": "completed"}

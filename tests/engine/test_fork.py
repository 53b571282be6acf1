"""A new run that shares the history of another (S12.3, D5)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import DefinitionChanged, FluxEngine, InvalidArgument, RunConflict, RunNotFound, RunResult, branch, create_workflow

from .again import Listener, Provider, Shop, header
from .cluster import Cluster, eventually

pytestmark = pytest.mark.anyio


def statuses(result: RunResult) -> dict[str, str]:
    return {line.path: line.status.value for line in result.history}


async def test_it_shares_what_came_before(engine: FluxEngine) -> None:
    """S12.3: input, results and data up to that step; from there on it is a run of its own."""
    shop = Shop()
    flow = (
        create_workflow("shares")
        .step("a", shop.act("a", n=1))
        .step("skipped", shop.act("skipped"), when=lambda ctx: False)
        .wait("go")
        .step("b", shop.act("b", n=2))
        .step("c", shop.act("c", n=3))
    )
    await engine.execute(flow, {"order": 5}, id="r")
    original = await engine.signal(flow, "r", "go", "yes")
    shop.again()
    fork = await engine.fork(flow, "r", from_step="b", new_id="f", by="ana", reason="what if")
    assert fork.id == "f" and fork.status == "completed" and fork.forked_from == "r" and original.forked_from is None
    assert shop.done == ["b", "c"] and shop.saw == [("b", {"n": 1}), ("c", {"n": 2})] and fork.input == {"order": 5}
    assert fork.results == {"a": "a 1", "go": "yes", "b": "b 1", "c": "c 1"} and fork.data == {"n": 3}
    assert [line.path for line in fork.history if line.inherited] == ["a", "skipped", "go"]
    assert [line.started_at for line in fork.history][:3] == [line.started_at for line in original.history][:3]
    again = await engine.get("f")
    assert again.forked_from == "r" and statuses(again) == statuses(fork) and again.results == fork.results
    untouched = await engine.get("r")
    assert untouched.results == original.results and untouched.history[0].inherited is False and untouched.reopenings == ()


async def test_from_the_beginning(engine: FluxEngine) -> None:
    """S12.3: without a step, or from the first, nothing is shared but the input; ids are made where none is given."""
    shop = Shop()
    flow = create_workflow("whole").step("a", shop.act("a")).step("b", shop.act("b"))
    run = await engine.execute(flow, 3)
    for from_step in (None, "a"):
        shop.again()
        fork = await engine.fork(flow, run.id, from_step=from_step)
        assert fork.status == "completed" and fork.input == 3 and fork.id != run.id and shop.done == ["a", "b"]
        assert fork.forked_from == run.id and not any(line.inherited for line in fork.history)


async def test_one_that_fails_undoes_nothing_of_the_original(engine: FluxEngine) -> None:
    """D5: history is inherited, obligations are not: only what the fork did itself is compensated, under its own keys."""
    shop, provider = Shop("last"), Provider()
    flow = (
        create_workflow("fails")
        .commit("charge", provider.charge, compensate=provider.refund)
        .step("own", shop.act("own"), compensate=shop.act("undo own"))
        .wait("go")
        .step("last", shop.act("last"), retries=0)
    )
    await engine.execute(flow, id="r")
    fork = await engine.fork(flow, "r", from_step="own", new_id="f")
    assert fork.waiting_for == ("go",)
    failed = await engine.signal(flow, "f", "go")
    assert failed.status == "failed" and shop.done == ["own", "own", "last", "undo own"]
    assert provider.refunds == {} and provider.paid == ["charge-1"]
    assert statuses(failed)["charge"] == "completed" and statuses(failed)["own"] == "compensated"
    assert (await engine.get("r")).status == "suspended"
    assert (await engine.cancel("r")).status == "cancelled" and provider.paid == []


async def test_a_cancelled_fork(engine: FluxEngine) -> None:
    """D5: nor does a cancel undo what is shared."""
    shop = Shop()
    flow = create_workflow("cancelled").step("a", shop.act("a"), compensate=shop.act("undo")).wait("go")
    run = await engine.execute(flow)
    fork = await engine.fork(flow, run.id, from_step="go")
    assert (await engine.cancel(fork.id)).status == "cancelled" and shop.done == ["a"]
    assert (await engine.cancel(run.id)).status == "cancelled" and shop.done == ["a", "undo"]


async def test_replay_and_retry_of_a_fork(engine: FluxEngine) -> None:
    """D4, D5: a replay runs its own commit steps; a retry from a shared step makes that its own, to be undone by it."""
    shop = Shop()
    flow = (
        create_workflow("both")
        .commit("shared", shop.act("shared"), compensate=shop.act("undo shared"))
        .commit("own", shop.act("own"), compensate=shop.act("undo own"))
        .step("last", shop.act("last"), retries=0)
    )
    run = await engine.execute(flow)
    shop.again()
    shop.failing = {"last"}
    fork = await engine.fork(flow, run.id, from_step="own")
    assert fork.status == "failed" and shop.done == ["own", "last", "undo own"]
    shop.done.clear()
    assert (await engine.replay(flow, fork.id)).status == "failed" and shop.done == []
    again = await engine.retry(flow, fork.id, from_step="shared")
    assert again.status == "failed" and shop.done == ["shared", "own", "last", "undo own", "undo shared"]
    assert not again.history[0].inherited and again.history[0].earlier[0].inherited
    shop.again()
    assert (await engine.retry(flow, fork.id)).status == "completed"
    shop.done.clear()
    assert (await engine.replay(flow, fork.id)).status == "completed" and shop.done == ["shared", "own"]


async def test_a_replay_leaves_what_is_shared(engine: FluxEngine) -> None:
    """D5: the commit steps that the origin has done are not the fork's to repeat."""
    shop = Shop()
    flow = create_workflow("leaves").commit("shared", shop.act("shared")).commit("own", shop.act("own"))
    run = await engine.execute(flow)
    fork = await engine.fork(flow, run.id, from_step="own")
    shop.again()
    await engine.replay(flow, fork.id)
    assert shop.done == ["own"]


async def test_keys_are_its_own(engine: FluxEngine) -> None:
    """D2: another run, another key: the provider does not answer with what the original did."""
    provider = Provider()
    flow = create_workflow("keys").commit("charge", provider.charge)
    run = await engine.execute(flow)
    await engine.fork(flow, run.id, from_step="charge")
    assert len(set(provider.asked)) == 2


async def test_a_fork_of_a_fork(engine: FluxEngine) -> None:
    """S12.3: what it shares, it can share on."""
    shop = Shop()
    flow = create_workflow("chain").step("a", shop.act("a", n=1)).step("b", shop.act("b", n=2)).step("c", shop.act("c"))
    await engine.execute(flow, id="1")
    await engine.fork(flow, "1", from_step="b", new_id="2")
    shop.again()
    third = await engine.fork(flow, "2", from_step="c", new_id="3")
    assert shop.saw == [("c", {"n": 2})] and third.forked_from == "2"
    assert [line.inherited for line in third.history] == [True, True, False]


async def test_what_is_inside_a_step(engine: FluxEngine, cluster: Cluster) -> None:
    """S12.3: a step is shared with all that is inside it."""
    shop = Shop()
    late = branch().step("b", shop.act("b", b=1)).step("c", shop.act("c", c=1))
    flow = create_workflow("inside").wait("w", timeout=5, on_timeout=late).step("d", shop.act("d"))
    run = await engine.execute(flow)
    await cluster.clock.advance(5)
    await engine.resume(flow, run.id)
    shop.again()
    fork = await engine.fork(flow, run.id, from_step="d")
    assert fork.status == "completed" and shop.saw == [("d", {"b": 1, "c": 1})]
    assert fork.results["w"] == {"b": "b 1", "c": "c 1"}
    assert [line.path for line in fork.history] == ["w", "w/on_timeout/b", "w/on_timeout/c", "d"]


async def test_of_a_run_that_goes_on(engine: FluxEngine) -> None:
    """S12.3: a live run can be forked from what it has done; the two do not know of each other."""
    shop = Shop()
    flow = create_workflow("live").step("a", shop.act("a")).wait("go").step("b", shop.act("b"))
    run = await engine.execute(flow)
    fork = await engine.fork(flow, run.id, from_step="go")
    assert fork.waiting_for == ("go",)
    assert (await engine.signal(flow, fork.id, "go", 2)).results["go"] == 2
    assert (await engine.get(run.id)).waiting_for == ("go",)
    assert (await engine.signal(flow, run.id, "go", 1)).results["go"] == 1


async def test_only_created(engine: FluxEngine, cluster: Cluster) -> None:
    """S12.3: with `start=False` it is pending, for a worker or `resume`."""
    shop = Shop()
    flow = create_workflow("pending").step("a", shop.act("a")).step("b", shop.act("b"))
    await engine.execute(flow, id="r")
    shop.again()
    for new_id in ("f-1", "f-2"):
        fork = await engine.fork(flow, "r", from_step="b", new_id=new_id, start=False)
        assert fork.status == "pending" and shop.done == [] and fork.forked_from == "r"
    assert (await header(engine, "f-1")).owner is None
    assert (await engine.resume(flow, "f-1")).status == "completed" and shop.done == ["b"]
    other = await cluster.open(workflows=[flow])
    async with other.worker():
        assert await other.handle("f-2").result() == {}
    assert shop.done == ["b", "b"]


async def test_an_id_that_exists(engine: FluxEngine) -> None:
    """S2.4: the same fork again is the same run; an id that belongs to anything else is a conflict, and that run is untouched."""
    shop = Shop()
    flow = create_workflow("ids").step("a", shop.act("a")).step("b", shop.act("b")).wait("go")
    other = create_workflow("other").wait("go")
    await engine.execute(flow, 1, id="r")
    await engine.execute(flow, 1, id="same-input")
    await engine.execute(other, 1, id="other")
    for start in (True, False):
        for new_id in ("r", "same-input", "other"):
            with pytest.raises(RunConflict):
                await engine.fork(flow, "r", from_step="b", new_id=new_id, start=start)
    shop.again()
    first = await engine.fork(flow, "r", from_step="b", new_id="f")
    again = await engine.fork(flow, "r", from_step="b", new_id="f")
    assert shop.done == ["b"] and again.id == first.id == "f" and again.waiting_for == ("go",)
    with pytest.raises(RunConflict):
        await engine.fork(flow, "r", from_step="go", new_id="f")
    with pytest.raises(RunConflict):
        await engine.fork(flow, "same-input", from_step="b", new_id="f")
    with pytest.raises(InvalidArgument):
        await engine.fork(flow, "r", from_step="b", new_id="no/../good")
    assert {run.id for run in (await engine.list()).runs} == {"r", "same-input", "other", "f"}


async def test_what_is_refused(engine: FluxEngine) -> None:
    """S12.3: a step whose predecessors are not done, one that is inside another or not there, another workflow: nothing is created."""
    shop = Shop("bad")
    flow = (
        create_workflow("refused")
        .step("a", shop.act("a"), compensate=shop.act("undo"))
        .wait("w", timeout=5, on_timeout=branch().step("late", shop.act("late")))
        .step("bad", shop.act("bad"), retries=0)
        .step("last", shop.act("last"))
    )
    other = create_workflow("other").step("a", shop.act("a"))
    await engine.execute(flow, id="waits")
    await engine.execute(flow, id="failed")
    await engine.signal(flow, "failed", "w")
    await engine.start(flow, id="pending")
    for run_id, step in (
        ("waits", "bad"), ("waits", "last"), ("failed", "w"), ("failed", "last"), ("failed", "bad"), ("pending", "w"),
        ("waits", "w/on_timeout/late"), ("waits", "nobody"), ("waits", ""), ("waits", "a!undo"),
    ):  # fmt: skip
        with pytest.raises(InvalidArgument):
            await engine.fork(flow, run_id, from_step=step)
    with pytest.raises(RunConflict):
        await engine.fork(other, "waits", from_step="a")
    with pytest.raises(RunNotFound):
        await engine.fork(flow, "nobody")
    assert len((await engine.list()).runs) == 3


async def test_under_another_version(cluster: Cluster) -> None:
    """S12.3: the fork is of the workflow it is given; that has to have the steps that are shared."""
    shop = Shop()
    old = create_workflow("v").step("a", shop.act("a", n=1)).step("b", shop.act("b"))
    new = create_workflow("v", version="2").step("a", shop.act("a")).step("c", shop.act("c")).step("b", shop.act("b"))
    odd = create_workflow("v", version="3").step("x", shop.act("x")).step("b", shop.act("b"))
    engine = await cluster.open(workflows=[old, new])
    await engine.execute(old, id="r")
    shop.again()
    fork = await engine.fork(new, "r", from_step="c")
    assert fork.version == "2" and shop.done == ["c", "b"] and shop.saw[0] == ("c", {"n": 1})
    with pytest.raises((DefinitionChanged, InvalidArgument)):
        await engine.fork(odd, "r", from_step="b")
    assert len((await engine.list()).runs) == 2


async def test_its_own_deadline(engine: FluxEngine, cluster: Cluster) -> None:
    """S5.2: counted from its creation."""
    shop = Shop()
    flow = create_workflow("deadline", deadline=10).step("a", shop.act("a")).wait("go")
    run = await engine.execute(flow)
    await cluster.clock.advance(8)
    fork = await engine.fork(flow, run.id, from_step="go")
    await cluster.clock.advance(8)
    assert (await engine.resume(flow, run.id)).status == "failed"
    assert (await engine.resume(flow, fork.id)).status == "suspended"


async def test_it_outlives_the_original(engine: FluxEngine) -> None:
    """S12.3: what it shares, it has."""
    shop = Shop()
    flow = create_workflow("outlives").step("a", shop.act("a", n=1)).step("b", shop.act("b")).wait("go")
    run = await engine.execute(flow)
    fork = await engine.fork(flow, run.id, from_step="b")
    await engine.cancel(run.id)
    await engine.delete(run.id)
    result = await engine.signal(flow, fork.id, "go")
    assert result.results["a"] == "a 1" and result.data == {"n": 1}


async def test_killed_in_a_fork(cluster: Cluster) -> None:
    """S12.1: it is taken over like any other."""
    shop = Shop()
    flow = create_workflow("killed").step("a", shop.act("a", n=1)).step("b", shop.act("b"))
    one = await cluster.open()
    await one.execute(flow, id="r")
    shop.again()
    shop.hanging = {"b"}
    task = asyncio.create_task(one.fork(flow, "r", from_step="b", new_id="f"))
    await shop.reached("b")
    await cluster.crash(one)
    await asyncio.gather(task, return_exceptions=True)
    shop.hanging.clear()
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    result = await other.resume(flow, "f")
    assert result.status == "completed" and shop.done == ["b", "b"] and shop.saw[-1] == ("b", {"n": 1})
    assert [line.inherited for line in result.history] == [True, False]


async def test_it_is_told_of(cluster: Cluster) -> None:
    """S16: hooks hear that it is a fork."""
    heard = Listener()
    engine = await cluster.open(hooks=[heard])
    shop = Shop()
    flow = create_workflow("told").step("a", shop.act("a")).step("b", shop.act("b"))
    run = await engine.execute(flow)
    await eventually(lambda: ("run_completed", "") in heard.heard)
    heard.heard.clear()
    await engine.fork(flow, run.id, from_step="b")
    await eventually(lambda: ("run_completed", "") in heard.heard)
    assert heard.heard == [("run_forked", "b"), ("step_started", "b"), ("run_completed", "")]
    heard.heard.clear()
    await engine.fork(flow, run.id, from_step="b", start=False)
    await eventually(lambda: heard.heard == [("run_forked", "b")])


async def test_declared_data(engine: FluxEngine) -> None:
    """D22: also where `ctx.data` is a declared dataclass."""
    from dataclasses import dataclass

    @dataclass
    class Order:
        n: int = 0
        note: str = ""

    seen: list[Any] = []

    async def a(ctx: Any) -> None:
        ctx.data.n += 1

    async def b(ctx: Any) -> None:
        seen.append(ctx.data.n)
        ctx.data.note = "b"

    flow = create_workflow("typed").data(Order).step("a", a).step("b", b)
    run = await engine.execute(flow)
    fork = await engine.fork(flow, run.id, from_step="b")
    assert seen == [1, 1] and fork.data == {"n": 1, "note": "b"}

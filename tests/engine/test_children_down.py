"""Families on their way down: cancel, compensation, deadlines and points of no return (S10.5, S11, D6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import (
    ChildFailed,
    DeadlineExceeded,
    FluxEngine,
    PastPivot,
    RunCancelled,
    RunFinished,
    RunStatus,
    Workflow,
    branch,
    create_workflow,
)

from .again import Declined, Shop
from .cluster import Cluster, eventually
from .family import billing, family, order, standing
from .parts import Parts, statuses

pytestmark = pytest.mark.anyio


def three(shop: Shop) -> Workflow[Any, Any]:
    """A parent whose child has a child; each does something before and after, and all of it can be undone."""
    middle = (
        create_workflow("middle")
        .step("before", shop.act("m.before"), compensate=shop.act("undo m.before"))
        .child("inner", billing(shop, "inner"))
        .step("after", shop.act("m.after"), compensate=shop.act("undo m.after"))
    )
    return order(shop, middle)


UP = ["first", "m.before", "inner.a", "inner.b", "m.after"]
DOWN = [f"undo {name}" for name in reversed(UP)]


# --- compensation


async def test_finished_children_are_undone(engine: FluxEngine, cluster: Cluster) -> None:
    """S10.5, D6, I31: as a whole, in its turn, with its own children in theirs; each run says what became of it."""
    shop = Shop("last")
    result = await engine.execute(three(shop), id="r")
    assert shop.done == [*UP, "last", *DOWN]
    assert await standing(engine, "r") == {"": "failed", "middle": "cancelled", "middle:inner": "cancelled"}
    assert isinstance(result.error, Declined) and result.compensation_errors == {}
    line = result.history[1]
    assert line.status == "compensated" and line.compensation is not None and line.compensation.status == "completed"
    found = await family(await cluster.open(), "r")
    for run, path in ((found["middle"], "r"), (found["middle:inner"], found["middle"].id)):
        (reopening,) = run.reopenings
        assert (reopening.cause, reopening.by, reopening.generation, reopening.from_step) == ("unwind", path, 1, "")
        assert isinstance(run.error, RunCancelled) and set(statuses(run).values()) == {"compensated"}


async def test_two_children_in_the_reverse_order(engine: FluxEngine) -> None:
    """S10.1, I31: one after another, the later one first; nothing of the earlier is undone before the later is done with."""
    shop = Shop("last")
    await engine.execute(order(shop, billing(shop, "x"), billing(shop, "y")))
    assert shop.done[-6:] == ["last", "undo y.b", "undo y.a", "undo x.b", "undo x.a", "undo first"]


async def test_children_in_branches_and_loops_are_undone(engine: FluxEngine) -> None:
    """S10.5: by the same rule, however deep in a body they stand."""
    shop = Shop("last")
    flow = (
        create_workflow("top")
        .for_each("each", lambda ctx: [1, 2], branch().child("c", billing(shop, "x")), concurrency=1)
        .loop("turns", branch().child("c", billing(shop, "y")), until=lambda ctx: True, at_most=3)
        .parallel("p", only=branch().child("c", billing(shop, "z")))
        .step("last", shop.act("last"), retries=0)
    )
    result = await engine.execute(flow, id="r")
    assert result.status == "failed" and set((await standing(engine, "r")).values()) == {"failed", "cancelled"}
    undone = [name for name in shop.done if name.startswith("undo")]
    assert undone == [f"undo {name}" for name in ("z.b", "z.a", "y.b", "y.a", "x.b", "x.a", "x.b", "x.a")]


async def test_a_child_whose_compensation_fails(engine: FluxEngine) -> None:
    """S10.3, I33: it has failed, the rest is undone all the same; the parent ends failed with both errors, and names the child's step."""
    shop = Shop("last", "undo inner.a")
    result = await engine.execute(three(shop), id="r")
    assert shop.done == [*UP, "last", "undo m.after", "undo inner.b", *["undo inner.a"] * 4, "undo m.before", "undo first"]
    assert await standing(engine, "r") == {"": "failed", "middle": "failed", "middle:inner": "failed"}
    assert isinstance(result.error, Declined) and str(result.error) == "last"
    assert list(result.compensation_errors) == ["middle"] and str(result.compensation_errors["middle"]) == "undo inner.a"
    found = await family(engine, "r")
    assert [list(found[path].compensation_errors) for path in ("middle", "middle:inner")] == [["inner"], ["a"]]
    assert statuses(result) == {"first": "compensated", "middle": "completed", "last": "failed"}


async def test_a_child_that_failed_in_part_undone(engine: FluxEngine) -> None:
    """S10.3: a cancelled parent whose child could not undo all of it has failed, not been cancelled: something stands."""
    shop = Shop("undo x.a")
    child = create_workflow("c").step("a", shop.act("x.a"), compensate=shop.act("undo x.a"), compensate_retries=0).wait("go")
    await engine.execute(order(shop, child), id="r")
    result = await engine.cancel("r")
    assert await standing(engine, "r") == {"": "failed", "c": "failed"} and shop.done == ["first", "x.a", "undo x.a", "undo first"]
    assert result.status == "failed"


async def test_a_compensation_that_blocks_in_a_child(engine: FluxEngine) -> None:
    """S10.6: the child waits for a person, and its parent for the child; both go on when it is resolved."""
    shop = Shop("last", "undo x.a")
    child = create_workflow("c", on_compensation_failure="block").step(
        "a", shop.act("x.a"), compensate=shop.act("undo x.a"), compensate_retries=0
    )
    result = await engine.execute(order(shop, child), id="r")
    assert result.status == "compensating" and await standing(engine, "r") == {"": "compensating", "c": "blocked"}
    shop.failing.clear()
    resolved = await engine.resolve(result.children["c"], "a", "retry")
    assert resolved.status == "cancelled"
    assert (await engine.get("r")).status == "failed" and shop.done[-2:] == ["undo x.a", "undo first"]


async def test_a_child_that_was_undone_already(engine: FluxEngine) -> None:
    """D6, I30: a child that failed has undone what it did: its parent asks for nothing more."""
    shop = Shop("x.b")
    await engine.execute(order(shop, billing(shop, "x")), id="r")
    assert shop.done == ["first", "x.a", "x.b", "undo x.a", "undo first"] and (await engine.get("r")).status == "failed"
    assert (await family(engine, "r"))["x"].reopenings == ()


# --- cancel


@pytest.mark.parametrize("interrupt", [False, True])
async def test_cancel_goes_down(engine: FluxEngine, interrupt: bool) -> None:
    """S11.1, S10.5: to the last of them; each undoes its own before its parent does; the call returns with the end."""
    shop = Shop()
    inner = billing(shop, "inner").wait("go")
    middle = create_workflow("middle").step("m", shop.act("m"), compensate=shop.act("undo m")).child("inner", inner)
    await engine.execute(order(shop, middle), id="r")
    result = await engine.cancel("r", reason="changed my mind", interrupt=interrupt)
    assert result.status == "cancelled" and await standing(engine, "r") == dict.fromkeys(("", "middle", "middle:inner"), "cancelled")
    assert shop.done[-4:] == ["undo inner.b", "undo inner.a", "undo m", "undo first"]
    found = await family(engine, "r")
    assert all(str(run.error) == "changed my mind" for run in found.values()) and result.results == {"first": "first 1"}
    assert statuses(result) == {"first": "compensated", "middle": "cancelled"}
    again = await engine.get("r")
    with pytest.raises(RunFinished):
        await engine.cancel("r")
    assert (await engine.get("r")).status == again.status


async def test_cancel_while_a_child_is_at_work(cluster: Cluster) -> None:
    """S11.1, I28: what is in flight is recorded first, then undone."""
    engine = await cluster.open()
    parts = Parts(held=("a",))
    child = create_workflow("c").step("a", parts.act, compensate=parts.undo, timeout=None).step("b", parts.act)
    flow = create_workflow("top").child("c", child)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("a")
    await engine.cancel("r")
    await eventually(lambda: _told(engine, "r"))
    parts.let("a")
    result = await task
    assert result.status == "cancelled" and parts.done == ["a"] and parts.undone == ["a"] and parts.cut == []


async def _told(engine: FluxEngine, run_id: str) -> bool:
    """Whether a cancel lies in the child's inbox."""
    child = await engine.storage.load((await engine.get(run_id)).children["c"])
    return child is not None and [posting.kind for posting in child.postings] == ["cancel"]


async def test_an_interrupt_goes_down(cluster: Cluster) -> None:
    """S11.1: it stops the handler of a child's child; its step is in doubt, and is undone."""
    engine = await cluster.open()
    parts = Parts(held=("a",))
    inner = create_workflow("inner").step("a", parts.act, compensate=parts.undo, timeout=None)
    flow = create_workflow("top").child("middle", create_workflow("middle").child("inner", inner))
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("a")
    await engine.cancel("r", interrupt=True)
    result = await asyncio.wait_for(task, 10)
    assert result.status == "cancelled" and parts.cut == ["a"] and parts.undone == ["a"]
    assert await standing(engine, "r") == dict.fromkeys(("", "middle", "middle:inner"), "cancelled")


async def test_an_interrupt_after_a_cancel(cluster: Cluster) -> None:
    """S11.2: one that is more urgent is passed on too."""
    engine = await cluster.open()
    parts = Parts(held=("a",))
    flow = create_workflow("top").child("c", create_workflow("c").step("a", parts.act, compensate=parts.undo, timeout=None))
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("a")
    await engine.cancel("r")
    await engine.cancel("r", interrupt=True)
    assert (await asyncio.wait_for(task, 10)).status == "cancelled" and parts.cut == ["a"] and parts.undone == ["a"]


async def test_an_interrupt_from_elsewhere(cluster: Cluster) -> None:
    """S11.1, D13: from an engine that holds neither the parent nor the child: within a heartbeat each."""
    engine, other = await cluster.open(), await cluster.open()
    parts = Parts(held=("a",))
    flow = create_workflow("top").child("c", create_workflow("c").step("a", parts.act, compensate=parts.undo, timeout=None))
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("a")
    await other.cancel("r", interrupt=True)
    await cluster.clock.advance(1)
    assert (await asyncio.wait_for(task, 10)).status == "cancelled" and parts.cut == ["a"]


async def test_cancel_without_compensation(engine: FluxEngine) -> None:
    """S11.2: nothing is undone, in none of them."""
    shop = Shop()
    await engine.execute(order(shop, billing(shop, "x"), billing(shop, "y").wait("go")), id="r")
    result = await engine.cancel("r", compensate=False)
    assert await standing(engine, "r") == {"": "cancelled", "x": "completed", "y": "cancelled"}
    assert result.status == "cancelled" and not [name for name in shop.done if name.startswith("undo")]


async def test_a_signal_loses_to_a_cancel(engine: FluxEngine) -> None:
    """I27: a child that was told to end does not complete any more."""
    shop = Shop()
    child = create_workflow("c").wait("go").step("a", shop.act("c.a"))
    result = await engine.execute(order(shop, child), id="r")
    await engine.cancel("r")
    with pytest.raises(RunFinished):
        await engine.signal(child, result.children["c"], "go")
    assert shop.done == ["first", "undo first"]


async def test_children_that_complete_all_the_same(cluster: Cluster) -> None:
    """I27, D10: a child past its own point of no return refuses the cancel and completes; its parent cannot undo it, and says so."""
    shop = Shop()
    engine = await cluster.open()
    child = create_workflow("c").commit("pay", shop.act("pay"), pivot=True).wait("go").step("a", shop.act("c.a"))
    flow = order(shop, child)
    result = await engine.execute(flow, id="r")
    child_id = result.children["c"]
    asked = await engine.cancel("r")
    assert asked.cancelling and await standing(engine, "r") == {"": "suspended", "c": "suspended"}
    assert (await engine.doctor()).healthy
    await engine.signal(child, child_id, "go")
    blocked = await engine.get("r")
    assert blocked.status == "blocked" and (await engine.get(child_id)).status == "completed" and shop.done == ["first", "pay", "c.a"]
    assert "PastPivot" in (blocked.blocked_reason or "") and child_id in (blocked.blocked_reason or "")
    done = await engine.resolve("r", "c", "skip")
    assert done.status == "failed" and shop.done[-1] == "undo first" and list(done.compensation_errors) == ["c"]


# --- points of no return


def paid(shop: Shop) -> Workflow[Any, Any]:
    """A child with a point of no return."""
    return create_workflow("c").step("a", shop.act("c.a"), compensate=shop.act("undo c.a")).commit("pay", shop.act("pay"), pivot=True)


@pytest.mark.parametrize("way", ["skip", "done", "retry"])
async def test_a_child_past_its_pivot(engine: FluxEngine, cluster: Cluster, way: Any) -> None:
    """D6: it is not undone; the parent is blocked until a person says what is to become of it."""
    shop = Shop("last")
    blocked = await engine.execute(order(shop, paid(shop)), id="r")
    assert shop.done == ["first", "c.a", "pay", "last"] and await standing(engine, "r") == {"": "blocked", "c": "completed"}
    assert "PastPivot" in (blocked.blocked_reason or "") and blocked.children["c"] in (blocked.blocked_reason or "")
    assert "resolve" in (blocked.way_on or "") and (await engine.get(blocked.children["c"])).reopenings == ()
    assert [(finding.kind, finding.run_id) for finding in (await engine.doctor()).findings] == [("blocked", "r")]
    assert (await engine.resume(order(shop, paid(shop)), "r")).status == "blocked"
    result = await engine.resolve("r", "c", way, by="ana", reason="refunded by hand")
    assert (await engine.get(blocked.children["c"])).status == "completed" and shop.done.count("undo c.a") == 0
    if way == "retry":
        assert result.status == "blocked" and shop.done[-1] == "last"
        result = await engine.resolve("r", "c", "done")
    assert result.status == "failed" and shop.done == ["first", "c.a", "pay", "last", "undo first"]
    assert isinstance(result.error, Declined) and bool(result.compensation_errors) is (way == "skip")


async def test_cancel_of_a_parent_blocked_so(engine: FluxEngine) -> None:
    """S11.2: with `compensate=False` it ends as things stand."""
    shop = Shop("last")
    await engine.execute(order(shop, paid(shop)), id="r")
    result = await engine.cancel("r", compensate=False)
    assert result.status == "failed" and shop.done[-1] == "last" and await standing(engine, "r") == {"": "failed", "c": "completed"}


async def test_a_parent_past_its_own_pivot(engine: FluxEngine) -> None:
    """S9.4, D10: it is not cancelled; what fails in a child after it blocks the parent; a retry makes another child."""
    shop = Shop("x.b")
    flow = create_workflow("top").commit("pay", shop.act("pay"), pivot=True).child("x", billing(shop, "x"))
    blocked = await engine.execute(flow, id="r")
    assert blocked.status == "blocked" and await standing(engine, "r") == {"": "blocked", "x": "failed"}
    assert shop.done == ["pay", "x.a", "x.b", "undo x.a"] and isinstance(blocked.history[1].error, ChildFailed)
    shop.again()
    done = await engine.retry(flow, "r")
    assert done.status == "completed" and done.children != blocked.children and shop.done == ["x.a", "x.b"]


async def test_cancel_past_a_parents_pivot(engine: FluxEngine) -> None:
    """D10: refused, and the child that goes on hears nothing of it."""
    shop = Shop()
    child = create_workflow("c").wait("go")
    flow = create_workflow("top").commit("pay", shop.act("pay"), pivot=True).child("c", child)
    result = await engine.execute(flow, id="r")
    with pytest.raises(PastPivot):
        await engine.cancel("r")
    assert not (await engine.get(result.children["c"])).cancelling
    ended = await engine.cancel("r", compensate=False)
    assert ended.status == "cancelled" and await standing(engine, "r") == {"": "cancelled", "c": "cancelled"}


# --- deadlines


async def test_a_parents_deadline(cluster: Cluster) -> None:
    """S5.2: its children go down with it."""
    shop, engine = Shop(), await cluster.open(stay=0)
    cluster.stand_still()
    child = billing(shop, "x").wait("go")
    flow = create_workflow("top", deadline=60).step("first", shop.act("first"), compensate=shop.act("undo first")).child("x", child)
    waiting = await engine.execute(flow, id="r")
    assert waiting.status == "suspended" and (await engine.summary("r")).wake_at is not None
    await cluster.clock.advance(59)
    assert (await engine.resume(flow, "r")).status == "suspended"
    await cluster.clock.advance(2)
    result = await engine.resume(flow, "r")
    assert result.status == "failed" and isinstance(result.error, DeadlineExceeded)
    assert await standing(engine, "r") == {"": "failed", "x": "cancelled"} and shop.done[-3:] == ["undo x.b", "undo x.a", "undo first"]


async def test_a_parents_deadline_at_a_worker(cluster: Cluster) -> None:
    """S5.2, I15: it wakes the parent, which holds nothing, though only its child is there to wait for."""
    shop = Shop()
    flow = create_workflow("top", deadline=60).child("x", billing(shop, "x").wait("go"))
    engine = await cluster.open(workflows=[flow])
    await engine.start(flow, id="r")
    async with engine.worker():
        assert await engine.until("r", {RunStatus.FAILED}) == "failed"
    assert await standing(engine, "r") == {"": "failed", "x": "cancelled"} and shop.done == ["x.a", "x.b", "undo x.b", "undo x.a"]


async def test_a_childs_deadline(cluster: Cluster) -> None:
    """S5.2, S3.9: it fails the step, with that as the cause."""
    shop = Shop()
    flow = order(shop, create_workflow("c", deadline=5).step("a", shop.act("c.a"), compensate=shop.act("undo c.a")).wait("go"))
    engine = await cluster.open(workflows=[flow])
    await engine.start(flow, id="r")
    async with engine.worker():
        await engine.until("r", {RunStatus.FAILED})
    result = await engine.get("r")
    assert isinstance(result.error, ChildFailed) and isinstance(result.error.__cause__, DeadlineExceeded)
    assert shop.done == ["first", "c.a", "undo c.a", "undo first"]


# --- branches that nobody waits for any more


@pytest.mark.parametrize("by", ["call", "worker"])
async def test_any_stops_the_others(cluster: Cluster, by: str) -> None:
    """S11.3, S10.5: what the others did is undone by themselves, and the step ends when they have."""
    shop = Shop()
    flow = (
        create_workflow("top")
        .parallel(
            "p", join="any", slow=branch().child("c", billing(shop, "slow").wait("go")), quick=branch().child("c", billing(shop, "quick"))
        )
        .step("last", shop.act("last"))
    )
    engine = await cluster.open(workflows=[flow])
    if by == "call":
        await engine.execute(flow, id="r")
    else:
        await engine.start(flow, id="r")
        async with engine.worker():
            await engine.until("r", {RunStatus.COMPLETED})
    result = await engine.get("r")
    assert result.status == "completed" and list(result.results["p"]) == ["quick"] and shop.done[-1] == "last"
    assert await standing(engine, "r") == {"": "completed", "p/slow/c": "cancelled", "p/quick/c": "completed"}
    assert set(shop.done) >= {"undo slow.a", "undo slow.b"} and shop.done.index("undo slow.a") < shop.done.index("last")


async def test_a_failed_branch_stops_the_children_beside_it(engine: FluxEngine) -> None:
    """S11.3, I34: with `on_failure="cancel"`; the parent undoes its own only when they are through."""
    shop = Shop("bad")
    flow = (
        create_workflow("top")
        .step("first", shop.act("first"), compensate=shop.act("undo first"))
        .parallel(
            "p",
            on_failure="cancel",
            c=branch().child("c", billing(shop, "x").wait("go")),
            bad=branch().wait("now").step("bad", shop.act("bad"), retries=0),
        )
    )
    await engine.execute(flow, id="r")
    result = await engine.signal(flow, "r", "now")
    assert result.status == "failed" and shop.done[-3:] == ["undo x.b", "undo x.a", "undo first"]
    assert await standing(engine, "r") == {"": "failed", "p/c/c": "cancelled"}


async def test_items_that_are_not_needed(engine: FluxEngine) -> None:
    """S11.3: a for_each that has enough stops the children of the others; one that failed fails its item alone."""
    shop = Shop("x.b")
    each = branch().child("bad", billing(shop, "x"), when=lambda ctx: ctx.item == 1).child("c", billing(shop, "y"))
    flow = create_workflow("top").for_each("each", lambda ctx: [1, 2], each, at_least=1, fail_fast=False, concurrency=1)
    result = await engine.execute(flow, id="r")
    assert result.status == "completed" and result.results["each"] == [None, {"c": {"a": "y.a", "b": "y.b"}}]
    assert await standing(engine, "r") == {"": "completed", "each[1]/bad": "failed", "each[2]/c": "completed"}

"""Child workflows: how they begin, what their parents get of them, and how they are read (S1.2, I41)."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flux import (
    ChildFailed,
    FluxEngine,
    InvalidArgument,
    InvalidInput,
    NotStorable,
    Queue,
    RunFailed,
    RunStatus,
    branch,
    continue_as_new,
    create_workflow,
)  # fmt: skip
from flux.testing import VirtualClock

from .again import Declined, Shop
from .cluster import Cluster, eventually
from .family import billing, family, order, standing
from .faults import Faulty
from .parts import Parts, statuses

pytestmark = pytest.mark.anyio


@dataclass
class Bill:
    amount: int
    currency: str = "EUR"


async def test_what_a_parent_gets(engine: FluxEngine, cluster: Cluster) -> None:
    """S1.2, S16, D24: the child's data is the step's result; its id is made of the parent's; a line says which run it is."""
    shop, stranger = Shop(), await cluster.open()
    saw: list[Any] = []

    async def note(ctx: Any) -> None:
        saw.append(ctx.input)
        ctx.data["noted"] = 7

    bill = create_workflow("bill").input(Bill).step("note", note).step("print", shop.act("print", printed=True))
    flow = (
        create_workflow("top")
        .step("a", shop.act("a", amount=5))
        .child("bill", bill, input=lambda ctx: {"amount": ctx.data["amount"]})
        .step("z", shop.act("z"))
    )
    result = await engine.execute(flow, id="r")
    assert result.status == "completed" and shop.done == ["a", "print", "z"]
    assert result.results == {"a": "a 1", "bill": {"noted": 7, "printed": True}, "z": "z 1"} and result.data == {"amount": 5}
    ((path, child_id),) = result.children.items()
    assert path == "bill" and re.fullmatch(r"r~[0-9a-f]{16}", child_id)
    line = result.history[1]
    assert (line.path, line.kind, line.status, line.child, line.result) == ("bill", "child", "completed", child_id, result.results["bill"])
    assert [line.child for line in result.history] == [None, child_id, None] and line.compensation is None
    child = await engine.get(child_id)
    assert (child.parent, child.workflow, child.status, child.data) == ("r", "bill", "completed", result.results["bill"])
    assert child.input == {"amount": 5} and saw == [Bill(5)] and child.children == {} and result.parent is None
    there = await stranger.get("r")
    assert there.results == result.results and there.children == result.children and statuses(there) == statuses(result)
    listed = {run.id: run.parent for run in (await stranger.list()).runs}
    assert listed == {"r": None, child_id: "r"}
    assert [run.id for run in (await engine.list(name="bill")).runs] == [child_id]
    first = await engine.list(limit=1)
    assert first.next_cursor and [run.id for run in (await engine.list(cursor=first.next_cursor)).runs] == ["r"], "a cursor at a child"


async def test_without_input(engine: FluxEngine) -> None:
    """S1.2: no `input=` is no input."""
    shop = Shop()
    flow = create_workflow("top").child("c", create_workflow("c").step("a", shop.act("a")))
    result = await engine.execute(flow)
    child = await engine.get(result.children["c"])
    assert child.input is None and result.results == {"c": {}}


async def test_grandchildren_have_ids(engine: FluxEngine) -> None:
    """D24: at any depth, and under a parent whose id is as long as it may be; each can be read by its id."""
    shop = Shop()
    flow = billing(shop, "d0")
    for depth in range(1, 15):
        flow = create_workflow(f"d{depth}").child("c", flow)
    for run_id in ("r", "r" * 200):
        found = await family(engine, (await engine.execute(flow, id=run_id)).id)
        ids = [run.id for run in found.values()]
        assert len(set(ids)) == 15 and all(len(one) <= 200 for one in ids) and all(run.status == "completed" for run in found.values())
        assert [run.parent for run in found.values()] == [None, *ids[:-1]]
        assert (await engine.summary(ids[-1])).parent == ids[-2] and engine.handle(ids[-1]).id == ids[-1]
        listed = [run.id for run in (await engine.list(limit=7)).runs]
        assert len(listed) == 7


@pytest.mark.parametrize(
    "bad",
    ["r~", "~0123456789abcdef", "r~0123456789ABCDEF", "r~0123456789abcde", "r~0123456789abcdef~", "a..b~0123456789abcdef",
     "r~0123456789abcdef\n", "r x~0123456789abcdef", f"{'r' * 190}~0123456789abcdef", "r~0123456789abcdefg"],
)  # fmt: skip
async def test_ids_that_no_run_has(engine: FluxEngine, bad: str) -> None:
    """S15.7, D24: refused wherever a run is named; and an id of a child's form is nobody's to choose."""
    flow = create_workflow("w").wait("go")
    for call in (
        lambda: engine.get(bad),
        lambda: engine.summary(bad),
        lambda: engine.resume(flow, bad),
        lambda: engine.signal(flow, bad, "go"),
        lambda: engine.cancel(bad),
        lambda: engine.retry(flow, bad),
        lambda: engine.replay(flow, bad),
        lambda: engine.fork(flow, bad),
        lambda: engine.resolve(bad, "go", "skip"),
        lambda: engine.until(bad, {RunStatus.COMPLETED}),
        lambda: engine.delete(bad),
    ):
        with pytest.raises(InvalidArgument):
            await call()  # type: ignore[no-untyped-call]
    with pytest.raises(InvalidArgument):
        engine.handle(bad)
    for run_id in (bad, "r~0123456789abcdef"):
        for chosen in (
            lambda: engine.execute(flow, id=run_id), lambda: engine.start(flow, id=run_id), lambda: engine.fork(flow, "r", new_id=run_id),
            lambda: engine.start(flow, idempotency_key=run_id),
        ):  # fmt: skip
            with pytest.raises(InvalidArgument):
                await chosen()  # type: ignore[no-untyped-call]
    assert (await engine.list()).runs == ()


async def test_input_that_cannot_be(engine: FluxEngine) -> None:
    """S6.2, S1.2: a function that raises, that is refused by the child's type, or that answers with what cannot be stored, fails the
    step with that error; no child is made."""
    shop = Shop()
    bill = create_workflow("bill").input(Bill).step("a", shop.act("a"))

    def raises(ctx: Any) -> Any:
        raise Declined("no")

    cases: tuple[tuple[Any, Any], ...] = (
        (raises, Declined),
        (lambda ctx: {"amount": "many"}, InvalidInput),
        (lambda ctx: None, InvalidInput),
        (lambda ctx: {"amount": object()}, (InvalidInput, NotStorable)),
    )
    for number, (given, expected) in enumerate(cases):
        flow = create_workflow(f"top-{number}").step("first", shop.act("first"), compensate=shop.act("undo first"))
        flow = flow.child("bill", bill, input=given)
        result = await engine.execute(flow)
        assert result.status == "failed" and isinstance(result.error, expected), result.error
        line = result.history[-1]
        assert line.path == "bill" and line.status == "failed" and line.child is None and result.children == {}
    assert shop.done == ["first", "undo first"] * 4 and (await engine.list(name="bill")).runs == ()


async def test_input_sees_where_it_stands(engine: FluxEngine) -> None:
    """S1.2: the data, the results and the item, and nothing that it does to the data stays."""
    shop = Shop()
    child = create_workflow("c").step("a", shop.act("a"))

    def given(ctx: Any) -> Any:
        ctx.data["spoiled"] = True
        return {"item": ctx.item, "before": ctx.results["first"], "key": ctx.data["key"]}

    flow = (
        create_workflow("top")
        .step("first", shop.act("first", key=1))
        .for_each("each", lambda ctx: [10, 20], branch().child("c", child, input=given))
    )
    result = await engine.execute(flow)
    inputs = [(await engine.get(child_id)).input for child_id in result.children.values()]
    assert inputs == [{"item": item, "before": "first 1", "key": 1} for item in (10, 20)] and result.data == {"key": 1}


async def test_a_child_that_fails(engine: FluxEngine, cluster: Cluster) -> None:
    """S3.9, S10.1: the child undoes its own; the parent fails with the cause, all the way up, and undoes its own; read alike by a
    process that has nothing of it."""
    shop = Shop("inner.b")
    middle = create_workflow("middle").step("m", shop.act("m"), compensate=shop.act("undo m")).child("inner", billing(shop, "inner"))
    flow = order(shop, middle)
    result = await engine.execute(flow, id="r")
    assert shop.done == ["first", "m", "inner.a", "inner.b", "undo inner.a", "undo m", "undo first"]
    assert await standing(engine, "r") == {"": "failed", "middle": "failed", "middle:inner": "failed"}
    for seen in (result, await (await cluster.open()).get("r")):
        chain = [seen.error]
        while chain[-1] is not None and chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        assert [type(error).__name__ for error in chain] == ["ChildFailed", "ChildFailed", "Declined"]
        assert "'middle'" in str(chain[0]) and "inner.b" in str(chain[0]) and result.children["middle"] in str(chain[0])
        line = next(line for line in seen.history if line.path == "middle")
        assert isinstance(line.error, ChildFailed) and line.status == "failed" and line.compensation is None
    with pytest.raises(RunFailed) as raised:
        result.unwrap()
    assert isinstance(raised.value.__cause__, ChildFailed)


async def test_one_that_is_cancelled_alone(engine: FluxEngine) -> None:
    """S1.2: by somebody else than its parent: it undoes its own, and the parent's step has failed."""
    shop = Shop()
    child = create_workflow("c").step("a", shop.act("c.a"), compensate=shop.act("undo c.a")).wait("go")
    flow = order(shop, child)
    waiting = await engine.execute(flow, id="r")
    assert waiting.status == "suspended" and waiting.waiting_for == () and statuses(waiting) == {"first": "completed", "c": "suspended"}
    ended = await engine.cancel(waiting.children["c"], reason="not this one")
    assert ended.status == "cancelled" and ended.id == waiting.children["c"]
    result = await engine.get("r")
    assert result.status == "failed" and isinstance(result.error, ChildFailed) and "was cancelled" in str(result.error)
    assert shop.done == ["first", "c.a", "undo c.a", "undo first"] and result.children == waiting.children


async def test_a_signal_to_a_child(cluster: Cluster) -> None:
    """S7.6: it carries the child on, and with its end the parent, and the parent's parent."""
    shop, engine = Shop(), await cluster.open()
    inner = create_workflow("inner").wait("go").step("a", shop.act("inner.a"))
    middle = create_workflow("middle").child("inner", inner).step("m", shop.act("m"))
    flow = order(shop, middle)
    await engine.execute(flow, id="r")
    found = await family(engine, "r")
    assert [run.status for run in found.values()] == ["suspended"] * 3 and shop.done == ["first"]
    assert [run.waiting_for for run in found.values()] == [(), (), ("go",)]
    other = await cluster.open()
    inner_id = found["middle:inner"].id
    result = await other.signal(inner, inner_id, "go", 3)
    assert result.id == inner_id and result.status == "completed"
    seen = await engine.get("r")
    # Who signals may know the child alone: then its parents are for whoever knows them.
    assert seen.status == "suspended" and shop.done == ["first", "inner.a"]
    assert (await engine.resume(flow, "r")).status == "completed" and shop.done == ["first", "inner.a", "m", "last"]


async def test_a_signal_carries_parents_on(engine: FluxEngine) -> None:
    """S7.6: where their workflows are known; the call returns when they rest."""
    shop = Shop()
    inner = create_workflow("inner").wait("go").step("a", shop.act("inner.a"))
    middle = create_workflow("middle").child("inner", inner).step("m", shop.act("m"))
    flow = order(shop, middle)
    await engine.execute(flow, id="r")
    inner_id = (await family(engine, "r"))["middle:inner"].id
    result = await engine.signal(inner, inner_id, "go", 3)
    assert result.id == inner_id and result.results == {"go": 3, "a": "inner.a 1"}
    done = await engine.get("r")
    assert done.status == "completed" and shop.done == ["first", "inner.a", "m", "last"]
    assert done.results["middle"] == {} and set((await standing(engine, "r")).values()) == {"completed"}


async def test_resume_of_a_child(cluster: Cluster) -> None:
    """S12.2: a child that sleeps is carried on by its id, and its parent with it."""
    shop, engine = Shop(), await cluster.open(stay=0)
    cluster.stand_still()
    child = create_workflow("c").sleep("nap", 60).step("a", shop.act("c.a"))
    flow = order(shop, child)
    sleeping = await engine.execute(flow, id="r")
    assert sleeping.status == "suspended" and await standing(engine, "r") == {"": "suspended", "c": "suspended"}
    await cluster.clock.advance(61)
    assert (await engine.resume(child, sleeping.children["c"])).status == "completed"
    assert (await engine.get("r")).status == "completed" and shop.done == ["first", "c.a", "last"]


async def test_a_call_stays_with_a_child_that_sleeps(engine: FluxEngine) -> None:
    """S7.1: as long as with a run of its own."""
    shop = Shop()
    child = create_workflow("c").sleep("nap", 0.5).step("a", shop.act("c.a"))
    assert (await engine.execute(order(shop, child))).status == "completed" and shop.done == ["first", "c.a", "last"]


async def test_resume_of_a_parent_carries_children(cluster: Cluster) -> None:
    """S12.2: whatever it waits for is due: one call moves all of the family."""
    shop, engine = Shop(), await cluster.open(stay=0)
    cluster.stand_still()
    inner = create_workflow("inner").sleep("nap", 60).step("a", shop.act("inner.a"))
    flow = order(shop, create_workflow("middle").child("inner", inner))
    await engine.execute(flow, id="r")
    await cluster.clock.advance(61)
    assert (await engine.resume(flow, "r")).status == "completed" and shop.done == ["first", "inner.a", "last"]


async def test_an_engine_that_does_not_drive(cluster: Cluster) -> None:
    """D19: its calls only post; a worker moves parent and child."""
    shop = Shop()
    child = create_workflow("c").wait("go").step("a", shop.act("c.a"))
    flow = order(shop, child)
    poster = await cluster.open(drive_in_caller=False, workflows=[flow])
    handle = await poster.start(flow, id="r")
    worker = await cluster.open(workflows=[flow])
    async with worker.worker():
        await worker.until("r", {RunStatus.SUSPENDED})
        child_id = (await poster.get("r")).children["c"]
        await worker.until(child_id, {RunStatus.SUSPENDED})
        await poster.signal(child, child_id, "go", 1)
        assert await handle.result(timeout=30) == {}
    assert shop.done == ["first", "c.a", "last"]


async def test_execute_where_calls_do_not_carry_children(cluster: Cluster) -> None:
    """D19: an engine whose calls only post executes a parent as far as it goes by itself; the child is a worker's."""
    shop = Shop()
    flow = order(shop, billing(shop))
    poster = await cluster.open(drive_in_caller=False)
    result = await poster.execute(flow, id="r")
    assert result.status == "suspended" and await standing(poster, "r") == {"": "suspended", "billing": "pending"}
    worker = await cluster.open(workflows=[flow])
    async with worker.worker():
        await worker.until("r", {RunStatus.COMPLETED})
    assert shop.done == ["first", "billing.a", "billing.b", "last"]


async def test_side_by_side(engine: FluxEngine) -> None:
    """S1.2: children in branches go on beside one another, and beside a handler in a third."""
    parts = Parts(held=("a/1", "b/1", "p/own"))

    async def named(ctx: Any) -> str:
        return await parts.act(_At(f"{ctx.input}/1"))

    one, two = create_workflow("one").step("x", named), create_workflow("two").step("x", named)
    flow = create_workflow("top").parallel(
        "p", a=branch().child("c", one, input=lambda ctx: "a"), b=branch().child("c", two, input=lambda ctx: "b"), own=parts.act
    )
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("a/1", "b/1", "p/own")
    assert (await standing(engine, "r")) == {"": "running", "p/a/c": "running", "p/b/c": "running"}
    parts.let("b/1")
    await eventually(lambda: _is(engine, "r", "p/b/c", "completed"))
    parts.let("p/own", "a/1")
    result = await task
    assert result.results == {"p": {"a": {"c": {}}, "b": {"c": {}}, "own": "p/own"}} and len(set(result.children.values())) == 2


@dataclass
class _At:
    path: str


async def _is(engine: FluxEngine, run_id: str, path: str, status: str) -> bool:
    return (await standing(engine, run_id))[path] == status


@pytest.mark.parametrize("concurrency", [1, 3, None])
async def test_for_each(engine: FluxEngine, concurrency: int | None) -> None:
    """S1.2: a child an item, in the bounds of the concurrency; the results in the order of the items."""
    under_way: list[int] = []
    most: list[int] = []

    async def square(ctx: Any) -> None:
        under_way.append(ctx.input)
        most.append(len(under_way))
        await asyncio.sleep(0)
        under_way.remove(ctx.input)
        ctx.data["square"] = ctx.input**2

    child = create_workflow("square").step("s", square)
    each = branch().child("c", child, input=lambda ctx: ctx.item)
    flow = create_workflow("top").for_each("each", lambda ctx: range(7), each, concurrency=concurrency)
    result = await engine.execute(flow)
    assert result.status == "completed" and [item["c"] for item in result.results["each"]] == [{"square": n**2} for n in range(7)]
    assert len(set(result.children.values())) == 7 and (concurrency is None or max(most) <= concurrency)


async def test_in_a_loop(engine: FluxEngine) -> None:
    """S1.2, D24: each turn has a child of its own."""

    async def count(ctx: Any) -> None:
        ctx.data["n"] = ctx.input + 1

    async def note(ctx: Any) -> None:
        ctx.data["n"] = ctx.results["c"]["n"]

    body = branch().child("c", create_workflow("count").step("s", count), input=lambda ctx: ctx.data.get("n", 0)).step("note", note)
    flow = create_workflow("top").loop("again", body, until=lambda ctx: ctx.data["n"] == 4, at_most=9)
    result = await engine.execute(flow)
    assert result.status == "completed" and result.data == {"n": 4}
    assert list(result.children) == [f"again[{turn}]/c" for turn in range(1, 5)] and len(set(result.children.values())) == 4


async def test_skipped_and_routed(engine: FluxEngine) -> None:
    """S6.1, I35: a child whose `when` says no, or in a branch that is not taken, is not made."""
    shop = Shop()
    flow = (
        create_workflow("top")
        .child("no", billing(shop, "no"), when=lambda ctx: False)
        .route("pick", lambda ctx: "x", x=branch().child("c", billing(shop, "x")), y=branch().child("c", billing(shop, "y")))
    )
    result = await engine.execute(flow)
    assert result.status == "completed" and list(result.children) == ["pick/x/c"] and statuses(result)["no"] == "skipped"
    assert {run.workflow for run in (await engine.list()).runs} == {"top", "x"} and shop.done == ["x.a", "x.b"]


async def test_in_a_graph(engine: FluxEngine) -> None:
    """S1.2: `after=` names children, and they name others."""
    shop = Shop()
    flow = (
        create_workflow("graph")
        .child("a", billing(shop, "a"))
        .child("b", billing(shop, "b"), after=[])
        .step("c", shop.act("c"), after=["a", "b"])
    )
    result = await engine.execute(flow)
    assert result.status == "completed" and shop.done[-1] == "c" and sorted(shop.done) == ["a.a", "a.b", "b.a", "b.b", "c"]


async def test_priority_goes_down(cluster: Cluster) -> None:
    """S14.3: children are as urgent as their parents."""
    shop, engine = Shop(), await cluster.open(drive_in_caller=False)
    flow = order(shop, create_workflow("c").child("d", billing(shop)))
    await engine.start(flow, id="r", priority=7)
    async with (await cluster.open(workflows=[flow])).worker():
        await engine.until("r", {RunStatus.COMPLETED})
    assert {run.priority for run in (await engine.list()).runs} == {7}


async def test_history_of_the_writes(cluster: Cluster) -> None:
    """S3.3, I7, I41: a child is made in the commit of the step before it, and told of in the commit of its own end: a call that carries
    both writes one commit a step."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    shop = Shop()
    await engine.execute(order(shop, billing(shop)), id="r")
    made = [commit for commit in storage.commits() if commit.children]
    told = [commit for commit in storage.commits() if commit.posts]
    assert len(made) == len(told) == 1 and made[0].run_id == "r" and told[0].run_id == made[0].children[0].run_id
    assert [post.run_id for post in told[0].posts] == ["r"] and told[0].status == "completed"
    assert len(storage.commits()) == 1 + 3 + 2  # first and the child; the child's start, a, b; its end and last's start, last


async def test_parents_and_children_that_begin_anew(engine: FluxEngine) -> None:
    """S1.2, D1, D24: a parent that continues as new has other children; a child that does has one end, and its data are the result."""

    async def count(ctx: Any) -> object:
        ctx.data["n"] = ctx.data.get("n", 0) + 1
        return continue_as_new() if ctx.data["n"] < 3 else "enough"

    async def note(ctx: Any) -> None:
        ctx.data["came"] = [*ctx.data.get("came", []), ctx.results["c"]["n"]]

    child = create_workflow("c").step("count", count)
    flow = create_workflow("top").child("c", child).step("note", note).step("count", count)
    result = await engine.execute(flow, id="r")
    assert result.status == "completed" and result.data == {"n": 3, "came": [3, 3, 3]} and result.continuation == 2
    children = (await engine.list(name="c")).runs
    assert len(children) == 3 and result.children["c"] in {run.id for run in children} and {run.parent for run in children} == {"r"}
    await engine.delete("r")
    assert (await engine.list()).runs == ()


async def test_children_in_a_queue(cluster: Cluster) -> None:
    """S14.3: limits hold for children too; a parent that waits takes no place in its own queue."""
    at_work: list[str] = []
    most: list[int] = []

    async def work(ctx: Any) -> None:
        at_work.append(ctx.run_id)
        most.append(len(at_work))
        await asyncio.sleep(0)
        at_work.remove(ctx.run_id)

    child = create_workflow("c", queue=Queue(concurrency=1)).step("work", work)
    flow = create_workflow("top", queue=Queue(concurrency=1)).for_each("each", lambda ctx: range(4), branch().child("c", child))
    engine, poster = await cluster.open(workflows=[flow]), await cluster.open(drive_in_caller=False)
    for number in range(3):
        await poster.start(flow, id=f"r{number}")
    async with engine.worker(concurrency=5):
        for number in range(3):
            await asyncio.wait_for(engine.until(f"r{number}", {RunStatus.COMPLETED}), 10)
    assert len(most) == 12 and max(most) == 1


async def test_with_transactional_steps(tmp_path: Path, clock: VirtualClock) -> None:
    """S3.6, I41: a child begins in the transaction of the step before it, and its end may be told in one; down, too."""
    shop = Shop("last")

    def write(ctx: Any) -> None:
        ctx.connection.execute("INSERT INTO ledger VALUES (?)", (ctx.path,))

    child = create_workflow("c").step("inner", write, transactional=True, compensate=shop.act("undo inner"))
    flow = create_workflow("top").step("outer", write, transactional=True).child("c", child).step("last", shop.act("last"), retries=0)
    async with Cluster(tmp_path / "flux.db", clock) as cluster:
        engine = await cluster.open()
        with closing(sqlite3.connect(tmp_path / "flux.db")) as connection:
            connection.execute("CREATE TABLE ledger (line TEXT UNIQUE)")
            result = await engine.execute(flow, id="r")
            assert [line for (line,) in connection.execute("SELECT line FROM ledger")] == ["outer", "inner"]
        assert result.status == "failed" and await standing(engine, "r") == {"": "failed", "c": "cancelled"}
    assert shop.done == ["last", "undo inner"]

"""Families that do something again, are forgotten, or are looked at: retry, replay, fork, purge, doctor, hooks (D1 to D6, S16)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flux import (
    Event,
    FluxEngine,
    Hooks,
    InvalidArgument,
    InvalidWorkflow,
    RunConflict,
    RunNotFinished,
    RunNotFound,
    RunStatus,
    TraceFile,
    branch,
    create_workflow,
)

from .again import Provider, Shop
from .cluster import Cluster, eventually
from .damage import damage_header, sql
from .family import billing, family, order, standing
from .parts import statuses

pytestmark = pytest.mark.anyio


# --- doing it again


async def test_retry_of_a_parent_whose_child_failed(engine: FluxEngine) -> None:
    """D3, D24: another child, under another id; the old one stays as it was, and is in the line's past."""
    shop = Shop("x.b")
    flow = order(shop, billing(shop, "x"))
    failed = await engine.execute(flow, id="r")
    shop.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and shop.done == ["first", "x.a", "x.b", "last"]
    old, new = failed.children["x"], result.children["x"]
    assert old != new and (await engine.get(old)).status == "failed" and (await engine.get(new)).status == "completed"
    line = result.history[1]
    assert line.child == new and [(one.child, one.status) for one in line.earlier] == [(old, "failed")]
    assert {run.id for run in (await engine.list()).runs} == {"r", old, new}


async def test_retry_of_a_parent_whose_children_were_undone(engine: FluxEngine) -> None:
    """D3: what was compensated is done again, by another child."""
    shop = Shop("last")
    flow = order(shop, billing(shop, "x"))
    failed = await engine.execute(flow, id="r")
    shop.again()
    result = await engine.retry(flow, "r")
    assert shop.done == ["first", "x.a", "x.b", "last"] and result.children != failed.children
    assert await standing(engine, "r") == {"": "completed", "x": "completed"}
    assert (await engine.get(failed.children["x"])).status == "cancelled"


async def test_retry_of_a_parent_whose_children_stand(engine: FluxEngine) -> None:
    """D3: a child that has completed, and was not undone, is not done again."""
    shop = Shop("y.b")
    flow = create_workflow("top").commit("pay", shop.act("pay"), pivot=True).child("x", billing(shop, "x")).child("y", billing(shop, "y"))
    blocked = await engine.execute(flow, id="r")
    assert blocked.status == "blocked"
    shop.again()
    done = await engine.retry(flow, "r")
    assert done.status == "completed" and shop.done == ["y.a", "y.b"] and done.children["x"] == blocked.children["x"]


async def test_retry_of_a_parent_whose_child_is_undone_in_part(engine: FluxEngine) -> None:
    """D3, S10.3: what is left of it is no child that stands: another one does it again."""
    shop = Shop("last", "undo x.a")
    flow = order(shop, billing(shop, "x"))
    failed = await engine.execute(flow, id="r")
    assert list(failed.compensation_errors) == ["x"]
    shop.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and shop.done == ["first", "x.a", "x.b", "last"] and result.children != failed.children


async def test_a_child_with_nothing_to_undo(engine: FluxEngine) -> None:
    """S10.4, S10.5, D3: it stands, as a step without a compensation does, and a retry of the parent does not do it again."""
    shop = Shop("last")
    plain = create_workflow("plain").step("a", shop.act("c.a")).child("deeper", create_workflow("deeper").step("b", shop.act("d.b")))
    flow = order(shop, plain)
    failed = await engine.execute(flow, id="r")
    assert await standing(engine, "r") == {"": "failed", "plain": "completed", "plain:deeper": "completed"}
    assert statuses(failed) == {"first": "compensated", "plain": "completed", "last": "failed"}
    shop.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and result.children == failed.children and shop.done == ["first", "last"]


async def test_retry_from_before_a_child(engine: FluxEngine) -> None:
    """D3: named, it is begun anew with everything behind it, children too: the old one is undone only if the run fails again (I30)."""
    shop = Shop()
    x = billing(shop, "x")
    flow = create_workflow("top").commit("own", shop.act("own")).child("x", x).wait("go").step("last", shop.act("last"), retries=0)
    first = await engine.execute(flow, id="r")
    await engine.cancel("r", compensate=False)
    shop.failing.add("last")
    again = await engine.retry(flow, "r", from_step="own")
    assert again.status == "suspended"
    result = await engine.signal(flow, "r", "go")
    assert result.status == "failed"
    undone = [name for name in shop.done if name.startswith("undo")]
    everything = [run async for run in _all(engine, "x")]
    assert undone.count("undo x.a") == shop.done.count("x.a") and undone.count("undo x.b") == shop.done.count("x.b"), shop.done
    assert {run.status for run in everything} == {"cancelled"} and first.children["x"] in {run.id for run in everything}


async def _all(engine: FluxEngine, name: str) -> Any:
    for run in (await engine.list(name=name)).runs:
        yield run


async def test_retry_of_the_child_alone(engine: FluxEngine) -> None:
    """D1, I15: a person's own doing: it completes for itself; its parent has failed and stays so."""
    shop = Shop("x.b")
    x = billing(shop, "x")
    flow = order(shop, x)
    failed = await engine.execute(flow, id="r")
    shop.again()
    child = await engine.retry(x, failed.children["x"])
    assert child.status == "completed" and shop.done == ["x.a", "x.b"]
    assert (await engine.get("r")).status == "failed" and (await engine.doctor(ended=True)).healthy
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and result.children["x"] != child.id


async def test_retry_of_a_child_whose_parent_goes_on(engine: FluxEngine) -> None:
    """D1, I41: its end is told to a parent that has stopped to wait for it, and changes nothing there."""
    shop = Shop("x.b")
    x = billing(shop, "x")
    flow = (
        create_workflow("top")
        .for_each("each", lambda ctx: [1, 2], branch().child("x", x, when=lambda ctx: ctx.item == 1), at_least=1, fail_fast=False)
        .wait("go")
        .step("last", shop.act("last"))
    )
    waiting = await engine.execute(flow, id="r")
    assert waiting.status == "suspended" and waiting.results["each"] == [None, {}]
    shop.again()
    assert (await engine.retry(x, waiting.children["each[1]/x"])).status == "completed"
    seen = await engine.get("r")
    assert seen.status == "suspended" and seen.results["each"] == [None, {}] and (await engine.doctor()).healthy
    result = await engine.signal(flow, "r", "go")
    assert result.status == "completed" and result.results["each"] == [None, {}]


async def test_retry_while_a_child_goes_on(engine: FluxEngine) -> None:
    """D3: a blocked parent is not retried from before a child that is under way; from where it is blocked, it is."""
    shop = Shop("bad")
    child = create_workflow("c").wait("go")
    flow = (
        create_workflow("top")
        .commit("pay", shop.act("pay"), pivot=True)
        .step("mid", shop.act("mid"))
        .step("bad", shop.act("bad"), retries=0, after=["mid"])
        .child("c", child, after=["mid"])
    )
    blocked = await engine.execute(flow, id="r")
    child_id = blocked.children["c"]
    assert blocked.status == "blocked" and await standing(engine, "r") == {"": "blocked", "c": "suspended"}
    with pytest.raises(InvalidArgument, match="cancel that first"):
        await engine.retry(flow, "r", from_step="mid")
    shop.again()
    assert (await engine.retry(flow, "r")).status == "suspended" and shop.done == ["bad"]
    await engine.signal(child, child_id, "go")
    result = await engine.get("r")
    assert result.status == "completed" and result.children == {"c": child_id}


async def test_a_word_to_a_blocked_parent(engine: FluxEngine) -> None:
    """I25: it is kept, and counts once the parent goes on."""
    shop = Shop("bad")
    child = create_workflow("c").wait("go")
    flow = (
        create_workflow("top")
        .commit("pay", shop.act("pay"), pivot=True)
        .step("bad", shop.act("bad"), retries=0, after=["pay"])
        .child("c", child, after=["pay"])
    )
    blocked = await engine.execute(flow, id="r")
    assert (await engine.signal(child, blocked.children["c"], "go")).status == "completed"
    assert (await engine.get("r")).status == "blocked" and (await engine.doctor()).counts == {"blocked": 1}
    shop.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and result.results["c"] == {} and shop.done == ["bad"]


async def test_replay_of_a_parent(engine: FluxEngine) -> None:
    """D4: its own commit steps run again; a child is served from the journal, and is not replayed."""
    shop = Shop()
    child = create_workflow("c").commit("pay", shop.act("pay"))
    flow = create_workflow("top").commit("own", shop.act("own")).child("c", child).commit("last", shop.act("last"))
    done = await engine.execute(flow, id="r")
    shop.done.clear()
    result = await engine.replay(flow, "r")
    assert result.status == "completed" and shop.done == ["own", "last"] and result.children == done.children
    assert (await engine.get(done.children["c"])).reopenings == ()


async def test_replay_of_a_child(engine: FluxEngine) -> None:
    """D4, I41: the parent, ended or not, hears of its end again, and takes no notice."""
    shop = Shop()
    child = create_workflow("c").commit("pay", shop.act("pay"), compensate=shop.act("undo pay"))
    flow = create_workflow("top").child("c", child).wait("go").step("last", shop.act("last"), retries=0)
    waiting = await engine.execute(flow, id="r")
    child_id = waiting.children["c"]
    assert (await engine.replay(child, child_id)).status == "completed" and shop.done == ["pay", "pay"]
    assert (await engine.get("r")).status == "suspended"
    shop.failing.add("last")
    result = await engine.signal(flow, "r", "go")
    assert result.status == "failed" and shop.done == ["pay", "pay", "last", "undo pay"]
    assert (await engine.replay(child, child_id)).status == "cancelled" and (await engine.doctor(ended=True)).healthy


async def test_a_fork_of_a_parent(engine: FluxEngine) -> None:
    """D5: it shares the child's result, not the child: it never undoes it, and is forgotten without it."""
    shop = Shop()
    flow = order(shop, billing(shop, "x"))
    original = await engine.execute(flow, id="r")
    shop.again()
    shop.failing.add("last")
    fork = await engine.fork(flow, "r", from_step="last", new_id="f")
    assert fork.status == "failed" and shop.done == ["last"] and fork.results["x"] == original.results["x"] and fork.children == {}
    assert await standing(engine, "r") == {"": "completed", "x": "completed"}
    shop.again()
    whole = await engine.fork(flow, "r", from_step="x", new_id="g")
    assert whole.status == "completed" and shop.done == ["x.a", "x.b", "last"] and whole.children["x"].startswith("g~")
    await engine.delete("f")
    assert (await engine.get(original.children["x"])).status == "completed"


async def test_a_fork_of_a_child(engine: FluxEngine) -> None:
    """D5: a run of its own, nobody's child."""
    shop = Shop()
    x = billing(shop, "x")
    original = await engine.execute(order(shop, x), id="r")
    fork = await engine.fork(x, original.children["x"], from_step="b", new_id="f")
    assert fork.status == "completed" and fork.parent is None and fork.forked_from == original.children["x"]
    await engine.delete("f")
    assert await standing(engine, "r") == {"": "completed", "x": "completed"}


async def test_keys_of_children(engine: FluxEngine) -> None:
    """D2: a child that is done again asks under other keys than the one that was undone; a replay of it under the same."""
    provider, shop = Provider(), Shop("last")
    child = create_workflow("c").commit("charge", provider.charge, compensate=provider.refund)
    flow = create_workflow("top").child("c", child).step("last", shop.act("last"), retries=0)
    await engine.execute(flow, id="r")
    shop.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and provider.asked[0] != provider.asked[1] and provider.paid == ["charge-2"]
    await engine.replay(child, result.children["c"])
    assert provider.asked[2] == provider.asked[1]


# --- forgetting


async def test_a_family_is_forgotten_together(cluster: Cluster) -> None:
    """D6: not a child by itself, and all of them with the one that nobody started."""
    shop, engine = Shop(), await cluster.open()
    cluster.stand_still()
    flow = order(shop, create_workflow("middle").child("inner", billing(shop, "inner")))
    await engine.execute(flow, id="r")
    await engine.execute(flow, id="s")
    ids = [run.id for run in (await family(engine, "r")).values()]
    for child_id in ids[1:]:
        with pytest.raises(RunConflict):
            await engine.delete(child_id)
    await engine.delete("r")
    for run_id in ids:
        with pytest.raises(RunNotFound):
            await engine.get(run_id)
    await cluster.clock.advance(100)
    assert await engine.purge(99) == 1 and (await engine.list()).runs == ()


async def test_a_family_that_goes_on_stays(cluster: Cluster) -> None:
    """D6, D26: as long as one of them has not ended."""
    shop, engine = Shop("x.b"), await cluster.open()
    cluster.stand_still()
    await engine.execute(order(shop, billing(shop, "x")), id="r")
    held = await engine.execute(create_workflow("top").child("c", create_workflow("c").wait("go")), id="h")
    with pytest.raises(RunNotFinished):
        await engine.delete("h")
    await cluster.clock.advance(100)
    assert await engine.purge(99) == 1 and {run.id for run in (await engine.list()).runs} == {"h", held.children["c"]}


# --- the doctor


async def test_healthy_families(cluster: Cluster) -> None:
    """I15: at every kind of rest."""
    shop = Shop()
    flow = order(shop, create_workflow("middle").child("inner", create_workflow("inner").wait("go").sleep("nap", 500)))
    engine = await cluster.open(workflows=[flow], stay=0)
    cluster.stand_still()
    await engine.execute(flow, id="waiting")
    await engine.execute(flow, id="sleeping")
    await engine.signal(create_workflow("inner").wait("go").sleep("nap", 500), (await family(engine, "sleeping"))["middle:inner"].id, "go")
    await (await cluster.open(drive_in_caller=False)).execute(flow, id="posted")
    await engine.execute(flow, id="ended")
    await engine.cancel("ended")
    for ended in (False, True):
        report = await engine.doctor(ended=ended)
        assert report.healthy and report.examined == 3 * 3 - 1 + 3 * ended, str(report)


async def test_an_orphaned_wait(cluster: Cluster) -> None:
    """I15: a child whose rows are gone, or that ended without a word: its parent would wait for ever."""
    shop = Shop()
    child = create_workflow("c").wait("go")
    flow = order(shop, child)
    engine = await cluster.open(workflows=[flow])
    gone, silent = [(await engine.execute(flow, id=run_id)).children["c"] for run_id in ("gone", "silent")]
    assert (await engine.doctor()).healthy
    await damage_header(cluster, silent, status="completed")
    await _remove(cluster, gone)
    report = await engine.doctor()
    assert {(one.kind, one.run_id) for one in report.findings} == {("stuck", "gone"), ("stuck", "silent")}, str(report)
    assert gone in str(report) and "is not there" in str(report) and "has not told it" in str(report)
    assert (await engine.cancel("gone", compensate=False)).cancelling


async def _remove(cluster: Cluster, run_id: str) -> None:
    if cluster.in_memory:
        cluster.storage()._runs.pop(run_id)  # type: ignore[attr-defined]
        return
    for table in ("journal", "inbox"):
        await sql(cluster, f"DELETE FROM {{}}{table} WHERE ref = (SELECT ref FROM {{}}runs WHERE run_id = $1)", run_id)
    await sql(cluster, "DELETE FROM {}runs WHERE run_id = $1", run_id)


# --- watching


class Told(Hooks):
    """Notes every event of a family."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def _note(self, event: Event) -> None:
        self.heard.append(event)

    run_started = run_completed = run_failed = run_cancelled = run_compensating = run_reopened = child_started = child_ended = _note
    step_completed = step_compensated = _note


async def test_hooks_and_trace(cluster: Cluster, tmp_path: Path) -> None:
    """D26, S15.5: the parent's commit tells of the child, and of the run that began with it; its end is told with the error's class."""
    shop, told, trace = Shop("y.b"), Told(), tmp_path / "trace"
    engine = await cluster.open(hooks=[told, TraceFile(trace)])
    result = await engine.execute(order(shop, billing(shop, "x"), billing(shop, "y")), id="r")
    x, y = result.children["x"], result.children["y"]
    await eventually(lambda: told.heard and (told.heard[-1].name, told.heard[-1].run_id) == ("run_failed", "r"))
    names = [(event.name, event.run_id, event.path, event.child) for event in told.heard if not event.name.startswith("step")]
    assert names == [
        ("run_started", "r", "", ""),
        ("child_started", "r", "x", x),
        ("run_started", x, "", ""),
        ("run_completed", x, "", ""),
        ("child_ended", "r", "x", ""),
        ("child_started", "r", "y", y),
        ("run_started", y, "", ""),
        ("run_compensating", y, "", ""),
        ("run_failed", y, "", ""),
        ("child_ended", "r", "y", ""),
        ("run_compensating", "r", "", ""),
        ("run_reopened", x, "", ""),
        ("run_compensating", x, "", ""),
        ("run_cancelled", x, "", ""),
        ("child_ended", "r", "x", ""),
        ("run_failed", "r", "", ""),
    ]
    ended = [event for event in told.heard if event.name == "child_ended"]
    assert [event.error_type for event in ended][:2] == ["", "Declined"]
    await engine.close()
    lines = [json.loads(line) for line in trace.read_text("ascii").splitlines()]
    assert [(line["event"], line.get("child", "")) for line in lines if line["event"].startswith("child")] == [
        ("child_started", x), ("child_ended", ""), ("child_started", y), ("child_ended", ""), ("child_ended", ""),
    ]  # fmt: skip


# --- building


def test_what_cannot_be_built() -> None:
    """S1.4: refused where it is written, naming the step."""
    flow = create_workflow("top")
    good = create_workflow("good").wait("go")

    async def slow(ctx: Any) -> None: ...

    for build in (
        lambda: flow.child("c", create_workflow("empty")),
        lambda: flow.child("c", branch().wait("go")),  # type: ignore[arg-type]
        lambda: flow.child("c", "good"),  # type: ignore[arg-type]
        lambda: flow.child("c", None),  # type: ignore[arg-type]
        lambda: flow.child("c", good, input={"a": 1}),  # type: ignore[arg-type]
        lambda: flow.child("c", good, input=lambda: 1),  # type: ignore[arg-type,misc]
        lambda: flow.child("c", good, input=slow),
        lambda: flow.child("c", good, when=slow),
        lambda: flow.child("c/d", good),
        lambda: flow.child("c", good).child("c", good),
        lambda: flow.child("c", good, after=["nobody"]).to_mermaid(),
    ):
        with pytest.raises(InvalidWorkflow, match=r"c|nobody"):
            FluxEngine(workflows=[build()])  # type: ignore[no-untyped-call]


def test_registering_a_parent_registers_its_children() -> None:
    """S1.4, S13.3: also those that have a fault only an engine sees; and two shapes of one version are refused."""
    one, two = create_workflow("c").wait("go"), create_workflow("c").wait("went")
    with pytest.raises(InvalidWorkflow, match="'c'"):
        FluxEngine(workflows=[create_workflow("a").child("c", one), create_workflow("b").child("c", two)])
    FluxEngine(workflows=[create_workflow("a").child("c", one), create_workflow("b").child("c", one)])


def test_how_it_is_shown() -> None:
    """S16: in the description and in the diagram, inside bodies too."""
    child = create_workflow("billing", version="3").wait("go")
    flow = create_workflow("top").child("pay", child, input=lambda ctx: 1).for_each("each", lambda ctx: [1], branch().child("c", child))
    described = flow.describe()
    pay = described["steps"][0]
    assert pay["kind"] == "child" and pay["workflow"] == "billing" and pay["version"] == "3" and "input" in pay
    assert json.loads(json.dumps(described)) == described
    drawn = flow.to_mermaid({"pay": "completed"})
    assert drawn.count("workflow billing") == 2 and "pay" in drawn


async def test_the_state_in_the_diagram(engine: FluxEngine) -> None:
    """S16: a waiting child's step is coloured as one that waits."""
    flow = create_workflow("top").child("c", create_workflow("c").wait("go"))
    waiting = await engine.execute(flow)
    assert flow.to_mermaid(statuses(waiting)) != flow.to_mermaid() and statuses(waiting) == {"c": "suspended"}
    await engine.cancel(waiting.id)
    assert await engine.until(waiting.id, {RunStatus.CANCELLED}) == "cancelled"

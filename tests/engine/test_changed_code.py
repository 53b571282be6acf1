"""Runs that meet other code, or rows that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from flux import DefinitionChanged, RunStatus, UnreadableRun, Workflow, create_workflow

from .cluster import Cluster, Effects, eventually
from .damage import damage_row

pytestmark = pytest.mark.anyio


def original(effects: Effects) -> Workflow[Any, Any]:
    return (
        create_workflow("order")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .step("b", effects.step("b"))
        .wait("go")
        .step("c", effects.step("c"))
    )


def renamed(effects: Effects) -> Workflow[Any, Any]:
    return create_workflow("order").step("a", effects.step("a")).step("z", effects.step("z")).wait("go").step("c", effects.step("c"))


async def suspended(cluster: Cluster, effects: Effects) -> str:
    engine = await cluster.open()
    run_id = (await engine.execute(original(effects))).id
    await engine.close()
    effects.done.clear()
    return run_id


async def test_resume_raises_and_leaves_the_run(cluster: Cluster) -> None:
    """S13.2: DefinitionChanged says which paths differ; the run is as it was, and code that fits goes on."""
    effects = Effects()
    run_id = await suspended(cluster, effects)
    engine, fits = await cluster.open(), await cluster.open()
    with pytest.raises(DefinitionChanged, match="'b'") as caught:
        await engine.resume(renamed(effects), run_id)
    assert caught.value.paths == ("b",) and run_id in str(caught.value)
    left = await engine.get(run_id)
    assert left.status == "suspended" and left.waiting_for == ("go",) and [line.path for line in left.history] == ["a", "b", "go"]
    result = await fits.signal(original(effects), run_id, "go", 1)
    assert result.status == "completed" and effects.done == ["c"]


async def test_a_signal_blocks_it_and_is_kept(cluster: Cluster) -> None:
    """S13.2, api.md Changed code: the run is blocked, saying why; the signal is kept; code that fits takes it up with both."""
    effects = Effects()
    run_id = await suspended(cluster, effects)
    engine, fits = await cluster.open(), await cluster.open()
    result = await engine.signal(renamed(effects), run_id, "go", 5)
    assert result.status == "blocked" and "DefinitionChanged" in (result.blocked_reason or "") and "'b'" in (result.blocked_reason or "")
    assert [line.status.value for line in result.history] == ["completed", "completed", "suspended"] and effects.done == []
    done = await fits.resume(original(effects), run_id)
    assert done.status == "completed" and done.results["go"] == 5 and effects.done == ["c"]


async def test_a_worker_blocks_it(cluster: Cluster) -> None:
    """S13.2: a worker that claims it parks it and goes on with others; `resume` with unfitting code raises and leaves it blocked."""
    effects = Effects()
    run_id = await suspended(cluster, effects)
    poster = await cluster.open(drive_in_caller=False)
    await poster.signal(original(effects), run_id, "go", 5)
    other = create_workflow("other").step("o", effects.step("o"))
    engine, fits = await cluster.open(workflows=[renamed(effects), other]), await cluster.open()
    async with engine.worker():

        async def blocked() -> bool:
            return (await engine.summary(run_id)).status is RunStatus.BLOCKED

        await eventually(blocked)
        await (await engine.start(other)).result(timeout=60)
    with pytest.raises(DefinitionChanged):
        await engine.resume(renamed(effects), run_id)
    assert (await engine.get(run_id)).status == "blocked"
    assert (await fits.resume(original(effects), run_id)).status == "completed" and effects.done == ["o", "c"]


async def test_cancelling_a_blocked_run(cluster: Cluster) -> None:
    """S2.1, D28: it needs its definition to be compensated; without compensating it needs nothing."""
    effects = Effects()
    first, second = await suspended(cluster, effects), await suspended(cluster, effects)
    engine = await cluster.open()
    for run_id in (first, second):
        assert (await engine.signal(renamed(effects), run_id, "go")).status == "blocked"
    assert (await engine.cancel(first)).status == "blocked" and effects.done == []
    assert (await engine.cancel(second, compensate=False)).status == "cancelled" and effects.done == []
    fits = await cluster.open(workflows=[original(effects)])
    assert (await fits.resume(original(effects), first)).status == "cancelled" and effects.done == ["undo a"]


async def test_a_blocked_run_that_fits_is_cancelled(cluster: Cluster) -> None:
    """S2.1, api.md: a cancel moves a blocked run, downwards."""
    effects = Effects()
    run_id = await suspended(cluster, effects)
    engine, fits = await cluster.open(), await cluster.open(workflows=[original(effects)])
    await engine.signal(renamed(effects), run_id, "go")
    result = await fits.cancel(run_id)
    assert result.status == "cancelled" and effects.done == ["undo a"]


async def test_a_blocked_run_is_cancelled_where_calls_only_post(cluster: Cluster) -> None:
    """S11.1, D19: no worker looks for it, so the call itself takes it down: an accepted cancel would be carried out by nobody."""
    effects = Effects()
    run_id = await suspended(cluster, effects)
    engine, web = await cluster.open(), await cluster.open(workflows=[original(effects)], drive_in_caller=False)
    await engine.signal(renamed(effects), run_id, "go")
    result = await web.cancel(run_id)
    assert result.status == "cancelled" and effects.done == ["undo a"]


async def test_a_changed_kind(cluster: Cluster) -> None:
    """S13.2: a done step that has changed its kind does not fit."""
    effects = Effects()
    run_id = await suspended(cluster, effects)
    engine = await cluster.open()
    changed = create_workflow("order").step("a", effects.step("a")).step("b", effects.step("b")).sleep("go", 5)
    with pytest.raises(DefinitionChanged):
        await engine.resume(changed, run_id)


async def test_new_steps_behind(cluster: Cluster) -> None:
    """S13.1, S13.2: steps behind the point it has reached, other handlers, policies and comments are welcome."""
    effects = Effects()
    run_id = await suspended(cluster, effects)
    engine = await cluster.open()
    longer = (
        create_workflow("order")
        .step("a", effects.step("other a"), retries=9, timeout=5)
        .step("b", effects.step("other b"), when=lambda ctx: False)
        .wait("go", timeout=99)
        .step("new", effects.step("new"))
        .step("c", effects.step("c"))
    )
    assert (await engine.signal(longer, run_id, "go")).status == "completed" and effects.done == ["new", "c"]


async def test_two_versions_at_once(cluster: Cluster) -> None:
    """S13.3: a run goes on under its own version."""
    effects = Effects()
    one = create_workflow("v").wait("go").step("one", effects.step("one"))
    two = create_workflow("v", version="2").wait("go").step("two", effects.step("two"))
    engine = await cluster.open(workflows=[one, two])
    ids = [(await engine.execute(flow)).id for flow in (one, two)]
    for run_id in ids:
        assert (await engine.signal(two, run_id, "go")).status == "completed"
    assert effects.done == ["one", "two"]


# --- seen without its code


async def test_a_run_of_an_unknown_workflow_can_be_read(cluster: Cluster) -> None:
    """S16, I38: `get` and `history` of a run whose workflow is not registered, or has changed, show the journal's own picture."""
    effects = Effects()
    run_id = await suspended(cluster, effects)
    for engine in (await cluster.open(), await cluster.open(workflows=[renamed(effects)])):
        result = await engine.get(run_id)
        assert (result.workflow, result.version, result.status, result.waiting_for) == ("order", "1", "suspended", ("go",))
        assert [(line.path, line.kind, line.status.value) for line in await engine.history(run_id)] == [
            ("a", "step", "completed"), ("b", "step", "completed"), ("go", "wait", "suspended"),
        ]  # fmt: skip
        cancelled = await engine.summary(run_id)
        assert cancelled.status == "suspended"


async def test_failed_and_compensated_runs_can_be_read_too(cluster: Cluster) -> None:
    """S16: retries, failures, branches, compensations."""
    effects = Effects()
    flow = (
        create_workflow("rich")
        .step("skipped", effects.step("s"), when=lambda ctx: False)
        .step("a", effects.step("a", {"n": 1}), compensate=effects.step("undo a"))
        .wait("w", timeout=5, on_timeout=lambda ctx: "late")
        .commit("c", effects.step("c"), compensate=effects.step("undo c", error=OSError("x")), compensate_retries=0)
        .sleep("nap", 5)
        .step("fail", effects.step("fail", error=LookupError("lost")), retries=0)
    )
    engine = await cluster.open()
    run_id = (await engine.execute(flow)).id
    await cluster.clock.advance(5)
    known = await engine.resume(flow, run_id)
    stranger = await (await cluster.open()).get(run_id)
    assert stranger.status == known.status == "failed" and isinstance(stranger.error, LookupError)
    assert [(line.path, line.status) for line in stranger.history] == [(line.path, line.status) for line in known.history]
    assert stranger.results == known.results and stranger.data == known.data
    assert list(stranger.compensation_errors) == list(known.compensation_errors) == ["c"]


# --- rows that cannot be read


async def test_an_unreadable_run_hinders_nobody(cluster: Cluster) -> None:
    """S15.2, I18: it is reported with its id, blocked, and the others go on."""
    effects = Effects()
    flow = create_workflow("rows").step("a", effects.step("a")).wait("go").step("b", effects.step("b"))
    engine = await cluster.open(workflows=[flow])
    broken, whole = (await engine.execute(flow)).id, (await engine.execute(flow)).id
    await engine.close()
    await damage_row(cluster, broken, "{")
    other = await cluster.open(workflows=[flow])
    with pytest.raises(UnreadableRun, match=broken) as caught:
        await other.get(broken)
    assert caught.value.run_id == broken
    with pytest.raises(UnreadableRun, match=broken):
        await other.resume(flow, broken)
    poster = await cluster.open(drive_in_caller=False)
    await poster.signal(flow, whole, "go")
    with pytest.raises(UnreadableRun, match=broken):  # accepted, but there is nothing to show
        await poster.signal(flow, broken, "go")
    async with other.worker():
        await other.handle(whole).result(timeout=60)

        async def blocked() -> bool:
            return (await other.summary(broken)).status is RunStatus.BLOCKED

        await eventually(blocked)
    assert "UnreadableRun" in ((await other.summary(broken)).blocked_reason or "")
    assert len((await other.list()).runs) == 2 and effects.done == ["a", "a", "b"]


@dataclass
class Known:
    n: int


async def test_a_value_whose_class_is_gone(cluster: Cluster) -> None:
    """D21, S15.2: what is never touched does not matter; what is, stops the run visibly and nothing else."""

    async def make(ctx: Any) -> Known:
        return Known(1)

    flow = create_workflow("gone").step("make", make).wait("go").step("use", lambda ctx: ctx.results["make"].n)
    engine = await cluster.open()
    run_id = (await engine.execute(flow)).id
    await engine.close()
    other = await cluster.open()
    saved = globals().pop("Known")
    try:
        plain = create_workflow("gone").step("make", Effects().step("x")).wait("go").step("use", lambda ctx: ctx.results["make"].n)
        result = await other.signal(plain, run_id, "go")
        assert result.status in ("blocked", "failed") and "Known" in (result.blocked_reason or str(result.error))
    finally:
        globals()["Known"] = saved
    fits = await cluster.open()
    if result.status == "blocked":
        assert (await fits.resume(flow, run_id)).results["use"] == 1


async def test_a_value_that_this_process_cannot_read(cluster: Cluster) -> None:
    """S15.2, D21: a handler that touches it parks the run, undamaged, for a process that can."""

    @dataclass
    class Receipt:
        number: int

    async def pay(ctx: Any) -> Receipt:
        return Receipt(7)

    async def print_it(ctx: Any) -> int:
        return int(ctx.results["pay"].number)

    flow = create_workflow("pay").step("pay", pay).wait("go").step("print", print_it)
    able, unable = await cluster.open(), await cluster.open()
    run_id = (await able.execute(flow)).id
    parked = await unable.signal(flow, run_id, "go")
    assert parked.status == "blocked" and "Receipt" in str(parked.blocked_reason)
    result = await able.resume(flow, run_id)
    assert result.status == "completed" and result.results["print"] == 7

"""`engine.doctor()`: what would never move, or needs a person, and what to do about it (I15)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux import FluxEngine, Workflow, create_workflow
from flux.engine import doctor
from flux.storage import NewPosting
from flux.testing import VirtualClock

from .cluster import Cluster, Effects, eventually
from .damage import damage_header, damage_row

pytestmark = pytest.mark.anyio


def flow_of(effects: Effects, name: str = "order") -> Workflow[Any, Any]:
    return (
        create_workflow(name)
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .wait("go", timeout=5000, default=None)
        .sleep("nap", 100)
        .step("b", effects.step("b"))
    )


async def only(engine: FluxEngine, kind: str, *, ended: bool = False) -> doctor.Finding:
    """The one finding there is."""
    report = await engine.doctor(ended=ended)
    (finding,) = report.findings
    assert finding.kind == kind and report.counts == {kind: 1} and not report.healthy, str(report)
    assert finding.message and finding.advice and finding.run_id in str(report) and finding.advice in str(report)
    return finding


async def test_healthy(cluster: Cluster) -> None:
    """I15: runs at every kind of rest are fine, and ended ones are looked at only when asked for."""
    effects = Effects()
    engine = await cluster.open(workflows=[flow_of(effects)])
    cluster.stand_still()
    assert (await engine.doctor()).healthy and str(await engine.doctor()) == "0 runs examined, 0 need a look"
    waiting, sleeping, done = [(await engine.execute(flow_of(effects))).id for _ in range(3)]
    await engine.start(flow_of(effects), delay=9999)
    for run_id in (sleeping, done):
        await engine.signal(flow_of(effects), run_id, "go")
    await cluster.clock.advance(seconds=101)
    await engine.resume(flow_of(effects), done)
    assert (await engine.summary(waiting)).waiting_for == ("go",)
    report = await engine.doctor()
    assert report.healthy and report.examined == 3 and not report.counts
    assert (await engine.doctor(ended=True)).examined == 4


@pytest.mark.parametrize("state", ["waiting", "sleeping"])
async def test_stuck(cluster: Cluster, state: str) -> None:
    """I15: a run whose timer is gone from its row is found, though it also waits for a signal; and the advice works."""
    effects = Effects()
    flow = flow_of(effects)
    engine = await cluster.open(workflows=[flow])
    cluster.stand_still()
    run_id = (await engine.execute(flow)).id
    if state == "sleeping":
        await engine.signal(flow, run_id, "go")
    await damage_header(cluster, run_id, wake_at=None)
    finding = await only(engine, "stuck")
    assert "resume" in finding.advice and finding.run_id == run_id
    await engine.resume(flow, run_id)
    assert (await engine.doctor()).healthy
    async with engine.worker():
        await cluster.clock.advance(seconds=5001)

        async def ended() -> bool:
            await cluster.clock.advance(seconds=10)
            return (await engine.summary(run_id)).status == "completed"

        await eventually(ended)


async def test_stuck_beside_what_has_come(cluster: Cluster) -> None:
    """I15: a signal is there, and nobody has been told."""
    effects = Effects()
    flow = create_workflow("plain").wait("go").step("b", effects.step("b"))
    engine = await cluster.open(workflows=[flow])
    run_id = (await engine.execute(flow)).id
    await engine.storage.post(run_id, NewPosting("signal", "go", "1"))
    assert (await engine.doctor()).healthy
    await damage_header(cluster, run_id, wake_at=None)
    assert "signal has come" in (await only(engine, "stuck")).message
    assert (await engine.resume(flow, run_id)).status == "completed" and (await engine.doctor()).healthy


async def test_stuck_until_long_after_its_time(cluster: Cluster) -> None:
    """I15, S8: its timer was moved."""
    effects = Effects()
    flow = flow_of(effects)
    engine = await cluster.open(workflows=[flow])
    cluster.stand_still()
    run_id = (await engine.execute(flow)).id
    await damage_header(cluster, run_id, wake_at=cluster.clock.now() + 86_400_000_000)
    assert "it is due at" in (await only(engine, "stuck")).message
    await engine.resume(flow, run_id)
    assert (await engine.doctor()).healthy


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": "pending"}, "pending"),
        ({"waiting": "other"}, "other"),
        ({"version": "7"}, "order 7"),
        ({"status": "completed"}, "completed"),
    ],
)
async def test_header(cluster: Cluster, fields: dict[str, str], words: str) -> None:
    """D17: lists show another thing than the journal says; put right, it is well again."""
    effects = Effects()
    engine = await cluster.open(workflows=[flow_of(effects)])
    cluster.stand_still()
    run_id = (await engine.execute(flow_of(effects))).id
    await damage_header(cluster, run_id, **fields)
    ended = fields.get("status") == "completed"
    assert words in (await only(engine, "header", ended=ended)).message
    await damage_header(cluster, run_id, **{name: {"status": "suspended", "waiting": "go", "version": "1"}[name] for name in fields})
    assert (await engine.doctor(ended=True)).healthy


async def test_unreadable(cluster: Cluster) -> None:
    """S15.2: found with its id, and in nobody's way."""
    effects = Effects()
    engine = await cluster.open(workflows=[flow_of(effects)])
    cluster.stand_still()
    run_id = (await engine.execute(flow_of(effects))).id
    await damage_row(cluster, run_id, "{")
    await engine.execute(flow_of(effects))
    finding = await only(engine, "unreadable")
    assert finding.run_id == run_id and "backup" in finding.advice and (await engine.doctor()).examined == 2


async def test_misfit_and_then_blocked(cluster: Cluster) -> None:
    """S13.2, D28: found before a worker finds it, and afterwards; a worker with code that fits makes it well."""
    effects = Effects()
    other = create_workflow("order").step("z", effects.step("z"))
    first = await cluster.open()
    cluster.stand_still()
    run_id = (await first.execute(flow_of(effects))).id
    engine = await cluster.open(workflows=[other])
    assert "'a'" in (await only(engine, "misfit")).message
    poster = await cluster.open(drive_in_caller=False)
    async with engine.worker():
        await poster.signal(flow_of(effects), run_id, "go")

        async def blocked() -> bool:
            return (await engine.summary(run_id)).status == "blocked"

        await eventually(blocked)
    finding = await only(engine, "blocked")
    assert "DefinitionChanged" in finding.message and finding.advice == (await engine.get(run_id)).way_on
    await damage_header(cluster, run_id, wake_at=None)
    assert "'b" not in (await only(engine, "stuck")).message
    fits = await cluster.open(workflows=[flow_of(effects)])
    await fits.resume(flow_of(effects), run_id)
    assert (await fits.doctor()).healthy


async def test_unknown_workflow(cluster: Cluster) -> None:
    """I38: its workflow, or its version, is not here; what the advice says helps."""
    effects = Effects()
    flow = flow_of(effects)
    first = await cluster.open()
    cluster.stand_still()
    await first.execute(flow)
    for workflows in ([], [create_workflow("order", version="2").step("a", effects.step("a"))]):
        engine = await cluster.open(workflows=workflows)
        assert "is not registered here" in (await only(engine, "unknown workflow")).message
    newer = create_workflow("order", version="2")
    newer = newer._set(body=flow.body).migrates_from(flow)
    for workflow in (flow, newer):
        assert (await (await cluster.open(workflows=[workflow])).doctor()).healthy


async def test_blocked_for_a_person(cluster: Cluster) -> None:
    """S16: the advice is the run's own way on; what a handler raised is not quoted, for it may be a secret."""
    effects = Effects()
    flow = (
        create_workflow("down", on_compensation_failure="block")
        .step("a", effects.step("a"), compensate=effects.step("undo a", error=ValueError("token 12345")), compensate_retries=0)
        .step("b", effects.step("b", error=LookupError("token 12345")), retries=0)
    )
    engine = await cluster.open(workflows=[flow])
    run_id = (await engine.execute(flow)).id
    finding = await only(engine, "blocked")
    assert "'a!undo'" in finding.message and "resolve" in finding.advice
    assert "12345" not in str(await engine.doctor()) and "12345" not in repr(await engine.doctor())
    assert (await engine.resolve(run_id, "a!undo", "done")).status == "failed"
    assert (await engine.doctor(ended=True)).healthy


async def test_late(cluster: Cluster) -> None:
    """I15, S12.1: it is due, and no worker is there; with one it is well."""
    effects = Effects()
    flow = create_workflow("plain").step("b", effects.step("b"))
    engine = await cluster.open(workflows=[flow])
    cluster.stand_still()
    handle = await engine.start(flow)
    await cluster.clock.advance(seconds=30)
    assert (await engine.doctor()).healthy
    await cluster.clock.advance(seconds=60)
    assert "90 s" in (await only(engine, "late")).message and "worker" in (await only(engine, "late")).advice
    async with engine.worker():
        await handle.result(timeout=60)
    assert (await engine.doctor(ended=True)).healthy


async def test_the_worst_first_and_not_too_many(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """I15: ordered by kind; however many there are, a report stays small, and counts them all."""
    monkeypatch.setattr(doctor, "SHOWN", 3)
    monkeypatch.setattr(doctor, "PAGE", 4)
    effects = Effects()
    flow = flow_of(effects)
    engine = await cluster.open(workflows=[flow])
    cluster.stand_still()
    ids = [(await engine.execute(flow)).id for _ in range(9)]
    for run_id in ids[:5]:
        await damage_header(cluster, run_id, waiting="other")
    for run_id in ids[5:]:
        await damage_header(cluster, run_id, wake_at=None)
    report = await engine.doctor()
    assert report.examined == 9 and report.counts == {"stuck": 4, "header": 5} and list(report.counts) == ["stuck", "header"]
    assert [one.kind for one in report.findings] == ["stuck"] * 3 + ["header"] * 3
    lines = str(report).splitlines()
    assert lines[0] == "9 runs examined, 9 need a look" and lines[4] == "stuck: 1 more" and lines[-1] == "header: 2 more"


async def test_it_changes_nothing(cluster: Cluster) -> None:
    """S16: also beside workers: it takes no lease and writes no row."""
    effects = Effects()
    flow = flow_of(effects)
    engine = await cluster.open(workflows=[flow])
    cluster.stand_still()
    ids = [(await engine.execute(flow)).id for _ in range(3)]
    before = [await engine.storage.read_header(run_id) for run_id in ids]
    await engine.doctor(ended=True)
    assert [await engine.storage.read_header(run_id) for run_id in ids] == before


# --- after anything that may happen

ACTS = ["start", "signal", "cancel", "drop", "crash", "retry", "resume", "advance", "work", "wrong"]


@given(st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 2)), max_size=14), st.booleans())
@settings(max_examples=40)
def test_nothing_is_ever_stuck(acts: list[tuple[str, int]], on_disk: bool) -> None:
    """I15: whatever is done with runs, and whenever a process dies, none is left where nothing would ever move it."""

    async def main(directory: Path) -> None:
        async with Cluster(directory / "flux.db" if on_disk else None, VirtualClock(autojump=False)) as cluster:
            await anything(cluster, acts)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(Path(directory)))


async def anything(cluster: Cluster, acts: list[tuple[str, int]]) -> None:
    effects, deadly = Effects(), {"b": False}

    async def fragile(ctx: Any) -> None:
        if deadly["b"]:
            await asyncio.Event().wait()
        if ctx.attempt % 2:
            raise OSError("try again")

    flow = (
        create_workflow("any")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .wait("go", timeout=500, default=None)
        .step("b", fragile, retries=1, timeout=None)
        .sleep("nap", 50)
        .step("c", effects.step("c", error=ValueError("no")), retries=0)
    )
    wrong = create_workflow("any").wait("go").step("z", effects.step("z"))
    engine = await cluster.open(workflows=[flow], grace=0)
    for act, number in acts:
        run_id, other = f"r{number}", None
        call: Any = None
        if act == "start":
            call = engine.execute(flow, id=run_id)
        elif act == "signal":
            call = engine.signal(flow, run_id, "go")
        elif act in ("cancel", "drop"):
            call = engine.cancel(run_id, compensate=act == "cancel")
        elif act == "retry":
            call = engine.retry(flow, run_id)
        elif act == "resume":
            call = engine.resume(flow, run_id)
        elif act == "wrong":
            other = await cluster.open(workflows=[wrong], grace=0)
            call = other.signal(wrong, run_id, "go")
        elif act == "crash":
            deadly["b"] = True
            call = engine.signal(flow, run_id, "go")
        elif act == "advance":
            await cluster.clock.advance(seconds=101 * (number + 1))
        await some_turns(cluster, call)
        deadly["b"] = False
        if act == "crash":
            await cluster.crash(engine)
            await cluster.outlive()
            engine = await cluster.open(workflows=[flow], grace=0)
        if act == "work":
            async with engine.worker():
                for _ in range(number + 1):
                    await cluster.clock.advance(seconds=30)
                    await some_turns(cluster, None)
        if other is not None:
            await other.close()
    await cluster.outlive()
    last = await cluster.open(workflows=[flow])
    report = await last.doctor(ended=True)
    assert not {"stuck", "header", "unreadable", "misfit"} & report.counts.keys(), str(report)


async def some_turns(cluster: Cluster, call: Any) -> None:
    """Let this call go as far as it comes without time passing."""
    task = None if call is None else asyncio.create_task(call)
    async with asyncio.timeout(60):
        for _ in range(20):
            await asyncio.sleep(0)
            while cluster.clock.working:
                await asyncio.sleep(0)
    if task is not None and not task.done():
        task.cancel()
    await asyncio.gather(*[task] if task else [], return_exceptions=True)

"""Old and new code at work on the same runs at once: nothing is lost, doubled or told twice (S13, D28)."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux import DefinitionChanged, Event, FluxEngine, Hooks, Retry, RunStatus, Workflow, create_workflow
from flux.core.records import RunBlocked
from flux.storage import Header, NewPosting, StoredRun, WorkflowStorage
from flux.testing import VirtualClock

from .cluster import Cluster, Effects, eventually
from .damage import damage_row
from .faults import Faulty

pytestmark = pytest.mark.anyio


class Told(Hooks):
    """Notes what hooks were told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def run_blocked(self, event: Event) -> None:
        self.events.append(event)

    async def run_cancelled(self, event: Event) -> None:
        self.events.append(event)


def old_shape(effects: Effects, tag: str = "") -> Workflow[Any, Any]:
    return (
        create_workflow("order")
        .step("a", effects.step(f"a{tag}", 1), compensate=effects.step(f"undo a{tag}"))
        .wait("go")
        .step("b", effects.step(f"b{tag}", 2))
    )


def new_shape(effects: Effects, tag: str = "") -> Workflow[Any, Any]:
    """The same version with a step before the wait: runs of the other shape that wait do not fit."""
    return (
        create_workflow("order")
        .step("a", effects.step(f"a{tag}", 1), compensate=effects.step(f"undo a{tag}"))
        .step("check", effects.step(f"check{tag}", 3))
        .wait("go")
        .step("b", effects.step(f"b{tag}", 2))
    )


async def stored(engine: FluxEngine, run_id: str) -> StoredRun:
    run = await engine.storage.load(run_id)
    assert run is not None
    return run


async def header_of(engine: FluxEngine, run_id: str) -> Header:
    return (await stored(engine, run_id)).header


async def blocks(engine: FluxEngine, run_id: str) -> list[RunBlocked]:
    run = await stored(engine, run_id)
    return [record for row in run.rows for record in row.records if isinstance(record, RunBlocked)]


async def reaches(engine: FluxEngine, run_id: str, status: str) -> None:
    async def there() -> bool:
        return (await engine.summary(run_id)).status == status

    await eventually(there)


async def waiting(cluster: Cluster, flow: Workflow[Any, Any], run_id: str = "r") -> str:
    """A run that waits, made by an engine that is gone."""
    engine = await cluster.open()
    await engine.execute(flow, id=run_id)
    await engine.close()
    return run_id


# --- both at work


@pytest.mark.parametrize("first", ["old", "new"])
async def test_both_shapes_under_load(cluster: Cluster, first: str) -> None:
    """S13.2, D28, I5, I37: both kinds of runs end under the code that fits, every step once; a run is blocked once a fingerprint."""
    effects = Effects()
    shapes = {"old": old_shape(effects, " old"), "new": new_shape(effects, " new")}
    order = [first, "new" if first == "old" else "old"]
    ids = {kind: [f"{kind}-{n}" for n in range(8)] for kind in order}
    for kind in order:
        for run_id in ids[kind]:
            await waiting(cluster, shapes[kind], run_id)
    engines = [await cluster.open(workflows=[shapes[kind]]) for kind in order]
    poster = await cluster.open(drive_in_caller=False)
    every = [*ids["old"], *ids["new"]]
    async with engines[0].worker(concurrency=3):
        for run_id in every:
            await poster.signal(shapes["old"], run_id, "go", run_id)
        for run_id in ids[order[1]]:
            await reaches(poster, run_id, "blocked")
        async with engines[1].worker(concurrency=3):
            for run_id in every:
                await poster.handle(run_id).result(timeout=60)
    for run_id in every:
        kind = run_id.partition("-")[0]
        result = await engines[order.index(kind)].get(run_id)
        assert result.results["go"] == run_id and result.results["b"] == 2
        told = await blocks(poster, run_id)
        assert len(told) <= 1 and len({one.misfit for one in told}) == len(told)
    assert Counter(effects.done) == {"a old": 8, "b old": 8, "a new": 8, "check new": 8, "b new": 8}


async def test_no_flapping(cluster: Cluster) -> None:
    """D28, I17: workers whose code does not fit leave a run that they have blocked alone, however long they stay and however often
    they are started anew."""
    effects = Effects()
    run_id = await waiting(cluster, old_shape(effects))
    poster = await cluster.open(drive_in_caller=False)
    await poster.signal(old_shape(effects), run_id, "go")
    before = None
    for _ in range(4):
        engine = await cluster.open(workflows=[new_shape(effects)])
        other = create_workflow("other").step("o", effects.step("o"))
        async with engine.worker():
            await reaches(engine, run_id, "blocked")
            for _ in range(3):
                await (await engine.start(other)).result(timeout=60)
                await cluster.clock.advance(minutes=10)
        header = await header_of(engine, run_id)
        before = before or header
        assert (header.epoch, header.position, header.misfits) == (before.epoch, before.position, before.misfits)
        await engine.close()
    assert len(await blocks(poster, run_id)) == 1
    third = create_workflow("order").step("z", effects.step("z")).wait("go")
    for flow in (third, new_shape(effects)):
        engine = await cluster.open(workflows=[flow])
        async with engine.worker():

            async def told_twice() -> bool:
                return len(await blocks(poster, run_id)) == 2

            await eventually(told_twice)
            await cluster.clock.advance(minutes=10)
        await engine.close()
    assert len({one.misfit for one in await blocks(poster, run_id)}) == 2


async def test_old_and_new_version_side_by_side(cluster: Cluster) -> None:
    """S13.3: in one engine, and in several at once; each run goes on under its own version."""
    effects = Effects()
    one = create_workflow("v").wait("go").step("one", effects.step("one"))
    two = create_workflow("v", version="2").step("new", effects.step("new")).wait("go").step("two", effects.step("two"))
    both = await cluster.open(workflows=[one, two])
    ids = [(await both.execute(flow)).id for flow in (one, two) for _ in range(6)]
    poster = await cluster.open(drive_in_caller=False)
    engines = [await cluster.open(workflows=[flow]) for flow in (two, one)]
    async with engines[0].worker(), engines[1].worker():
        for run_id in ids:
            await poster.signal(two if run_id in ids[::2] else one, run_id, "go")
        for run_id in ids:
            await poster.handle(run_id).result(timeout=60)
            assert not await blocks(poster, run_id)
    assert Counter(effects.done) == {"new": 6, "one": 6, "two": 6}


# --- a blocked run says so, and goes on by itself


async def test_it_says_why_and_what_to_do(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """S13.2, S16: the reason and the way on are in `get`, the list, the log and a hook."""
    effects = Effects()
    run_id = await waiting(cluster, old_shape(effects))
    told = Told()
    engine = await cluster.open(workflows=[new_shape(effects)], hooks=[told])
    poster = await cluster.open(drive_in_caller=False)
    with caplog.at_level(logging.ERROR, "flux.engine"):
        async with engine.worker():
            await poster.signal(old_shape(effects), run_id, "go")
            await reaches(engine, run_id, "blocked")
    await engine.close()
    result = await poster.get(run_id)
    (summary,) = (await poster.list(status="blocked")).runs
    way = result.way_on or ""
    for text in (result.blocked_reason, summary.blocked_reason, told.events[0].error_type + told.events[0].error, caplog.text):
        assert text is not None and "DefinitionChanged" in text and "'go'" in text
    assert "deploy such code" in way and way == told.events[0].advice and way in caplog.text
    assert len(told.events) == 1 and (told.events[0].workflow, told.events[0].version) == ("order", "1")


async def test_it_goes_on_with_its_signals(cluster: Cluster) -> None:
    """D28, S7.2, I15: signals that come while it is blocked are kept in order; a worker whose code fits takes it with no human act."""
    effects = Effects()
    flow = create_workflow("order").step("a", effects.step("a")).wait("go").wait("again", signal="go").step("b", effects.step("b"))
    run_id = await waiting(cluster, flow)
    engine = await cluster.open(workflows=[new_shape(effects)])
    poster = await cluster.open(drive_in_caller=False)
    async with engine.worker():
        for number in range(2):
            await poster.signal(flow, run_id, "go", number)
            await reaches(poster, run_id, "blocked")
        fits = await cluster.open(workflows=[flow])
        async with fits.worker():
            await poster.handle(run_id).result(timeout=60)
    result = await fits.get(run_id)
    assert (result.results["go"], result.results["again"]) == (0, 1) and effects.done == ["a", "b"]
    assert result.way_on is None and (await poster.summary(run_id)).blocked_reason is None


async def test_timers_and_deadline_are_kept(cluster: Cluster) -> None:
    """D28, S8: blocked past its timer, the wait has expired at its time; one whose deadline passed meanwhile goes down."""
    cluster.stand_still()
    effects = Effects()

    def flow(name: str, deadline: int | None) -> Workflow[Any, Any]:
        start = create_workflow(name, deadline=deadline).step("a", effects.step("a"), compensate=effects.step("undo a"))
        return start.wait("go", timeout=100, default="late").sleep("nap", 100).step("b", effects.step("b"))

    fitting = [flow("timed", None), flow("bounded", 150)]
    other = [create_workflow(one.name, deadline=150).step("z", effects.step("z")).wait("go") for one in fitting]
    runs = [await waiting(cluster, one, one.name) for one in fitting]
    engine = await cluster.open(workflows=other)
    async with engine.worker():
        for run_id in runs:
            await cluster.clock.advance(seconds=101 if run_id == "timed" else 0)
            await reaches(engine, run_id, "blocked")
    await cluster.clock.advance(seconds=98)
    fits = await cluster.open(workflows=fitting)
    async with fits.worker():
        await reaches(fits, "bounded", "failed")
        await reaches(fits, "timed", "suspended")
        assert effects.done == ["a", "a", "undo a"]
        await cluster.clock.advance(seconds=100)
        result = await fits.handle("timed").result(timeout=60)
    assert effects.done[-1] == "b" and (await fits.get("timed")).results["go"] == "late", result
    assert "DeadlineExceeded" in type((await fits.get("bounded")).error).__name__


# --- the wrong code in a call


async def test_the_wrong_code_leaves_it_as_it_was(cluster: Cluster) -> None:
    """S13.2: `resume` with unfitting code raises and changes nothing but the epoch; what comes meanwhile is not lost (I15)."""
    effects = Effects()
    run_id = await waiting(cluster, old_shape(effects))
    inner = cluster.storage()
    engine = await cluster.open(ComesBetween(inner, run_id), workflows=[new_shape(effects)])
    before = await header_of(engine, run_id)
    with pytest.raises(DefinitionChanged):
        await engine.resume(new_shape(effects), run_id)
    after = await header_of(engine, run_id)
    assert (after.status, after.waiting, after.position, after.misfits, after.owner) == ("suspended", ("go",), before.position, (), None)
    assert after.inbox_seq == before.inbox_seq + 1
    assert (await engine.doctor()).counts.get("stuck") is None
    fits = await cluster.open(workflows=[old_shape(effects)])
    async with fits.worker():
        assert await fits.handle(run_id).result(timeout=60) is not None
    assert effects.done == ["a", "b"]


class ComesBetween(Faulty):
    """A signal comes while the run is held by somebody who gives it back."""

    def __init__(self, inner: WorkflowStorage, run_id: str) -> None:
        super().__init__(inner)
        self.run_id = run_id

    async def take(self, run_id: str, worker: str, *, blocked: bool = False, ended: bool = False) -> StoredRun | None:
        run = await super().take(run_id, worker, blocked=blocked, ended=ended)
        await self.inner.post(run_id, NewPosting("signal", "go", "1"))
        return run


async def test_a_worker_with_other_workflows(cluster: Cluster) -> None:
    """I37, I38: neither another workflow nor another version of this one touches the run; they leave it to who has it."""
    effects = Effects()
    run_id = await waiting(cluster, old_shape(effects))
    poster = await cluster.open(drive_in_caller=False)
    await poster.signal(old_shape(effects), run_id, "go")
    before = await header_of(poster, run_id)
    other = create_workflow("other").step("o", effects.step("o"))
    version = create_workflow("order", version="2").step("z", effects.step("z"))
    engine = await cluster.open(workflows=[other, version])
    async with engine.worker():
        for flow in (other, version):
            await (await engine.start(flow)).result(timeout=60)
    assert await header_of(poster, run_id) == before
    assert not (await poster.get(run_id)).blocked_reason


@pytest.mark.parametrize("known", [True, False], ids=["another shape", "not registered"])
@pytest.mark.parametrize("blocked", [True, False], ids=["blocked", "not yet"])
async def test_cancelled_without_its_code(cluster: Cluster, known: bool, blocked: bool) -> None:
    """D28: `compensate=False` needs no code, also after a cancel that does; the hook is told."""
    effects = Effects()
    run_id = await waiting(cluster, old_shape(effects))
    told = Told()
    engine = await cluster.open(workflows=[new_shape(effects)] if known else [], hooks=[told])
    if blocked:
        poster = await cluster.open(workflows=[new_shape(effects)])
        assert (await poster.signal(new_shape(effects), run_id, "go")).status == "blocked"
        assert (await engine.cancel(run_id)).status == "blocked"
    result = await engine.cancel(run_id, compensate=False)
    assert result.status == "cancelled" and effects.done == ["a"] and not result.waiting_for
    header = await header_of(engine, run_id)
    assert (header.status, header.owner, header.waiting, header.blocked) == ("cancelled", None, (), "")
    await engine.close()
    assert [event.name for event in told.events] == ["run_cancelled"]


async def test_cancelled_without_its_code_while_it_is_undone(cluster: Cluster) -> None:
    """D28, S11.2: a run that is blocked on its way down is ended without the rest of it."""
    effects = Effects()
    entered = asyncio.Event()

    async def hang(ctx: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    flow = (
        create_workflow("order")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .step("b", effects.step("b"), compensate=hang, compensate_timeout=9999)
        .step("c", effects.step("c", error=ValueError("no")), retries=0)
    )
    crashed = await cluster.open()
    task = asyncio.create_task(crashed.execute(flow, id="r"))
    await entered.wait()
    await cluster.crash(crashed)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    engine = await cluster.open(workflows=[create_workflow("order").step("z", effects.step("z"))])
    async with engine.worker():
        await reaches(engine, "r", "blocked")
    assert (await engine.cancel("r", compensate=False)).status in ("cancelled", "failed")
    assert "undo a" not in effects.done


# --- what is a change, and what is none


async def test_no_change_of_shape(cluster: Cluster) -> None:
    """S13.2: a comment, a handler's body, its retries, timeouts, payload types and conditions; a worker with them just goes on."""
    effects = Effects()
    run_id = await waiting(cluster, old_shape(effects))

    async def other(ctx: Any) -> int:
        """It does something else now."""
        effects.done.append("other b")  # and says so
        return 7

    changed = (
        create_workflow("order", deadline=99999)
        .input(dict)
        .step("a", other, retries=9, retry=Retry("linear"), timeout=99, compensate=other)
        .wait("go", type=int, timeout=999)
        .step("b", other, when=lambda ctx: True, on_unknown="fail")
    )
    engine = await cluster.open(workflows=[changed])
    poster = await cluster.open(drive_in_caller=False)
    async with engine.worker():
        await poster.signal(changed, run_id, "go", 4)
        await poster.handle(run_id).result(timeout=60)
    assert effects.done == ["a", "other b"] and not await blocks(poster, run_id)


async def test_new_steps_behind_the_point_reached(cluster: Cluster) -> None:
    """S13.1: both shapes may move the same run, as long as it has not come to what only one of them has; then that one does."""
    effects = Effects()
    short = create_workflow("order").wait("go").wait("on").step("b", effects.step("b"))
    long = create_workflow("order").wait("go").wait("on").step("new", effects.step("new")).wait("last").step("b", effects.step("b"))
    run_id = await waiting(cluster, short)
    old, new = await cluster.open(workflows=[short]), await cluster.open(workflows=[long])
    assert (await new.signal(long, run_id, "go", 1)).status == "suspended"
    assert (await old.get(run_id)).waiting_for == ("on",)
    assert (await new.signal(long, run_id, "on", 2)).waiting_for == ("last",)
    assert (await old.signal(short, run_id, "last", 3)).status == "blocked"
    async with old.worker(), new.worker():
        await new.handle(run_id).result(timeout=60)
    assert effects.done == ["new", "b"] and len(await blocks(old, run_id)) == 1


async def crash_while_undoing(cluster: Cluster, flow: Workflow[Any, Any], entered: asyncio.Event) -> None:
    engine = await cluster.open()
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()


def undone(effects: Effects, entered: asyncio.Event, c: bool, b: bool = True) -> Workflow[Any, Any]:
    """Three steps and a failing one; `undo a` hangs once. `c` and `b`: whether these steps can be undone."""

    async def hang_once(ctx: Any) -> None:
        effects.done.append("undo a")
        if not entered.is_set():
            entered.set()
            await asyncio.Event().wait()

    def undo(name: str, known: bool) -> Any:
        return effects.step(f"undo {name}") if known else None

    return (
        create_workflow("order")
        .step("a", effects.step("a"), compensate=hang_once, compensate_timeout=9999)
        .step("b", effects.step("b"), compensate=undo("b", b))
        .step("c", effects.step("c"), compensate=undo("c", c))
        .step("d", effects.step("d", error=ValueError("no")), retries=0)
    )


async def test_a_compensation_that_is_new(cluster: Cluster) -> None:
    """S10.4, S13.2: code that could undo more than what began the way down undoes nothing twice, and leaves out nothing."""
    effects, entered = Effects(), asyncio.Event()
    await crash_while_undoing(cluster, undone(effects, entered, c=False), entered)
    more = undone(effects, entered, c=True)
    engine = await cluster.open(workflows=[more])
    assert (await engine.resume(more, "r")).status == "failed"
    assert effects.done == ["a", "b", "c", "d", "undo b", "undo a", "undo a"]


async def test_a_compensation_that_is_gone(cluster: Cluster) -> None:
    """S13.2, D28: code that has lost a compensation which has run already does not fit; code that has it, of the same shape, does."""
    effects, entered = Effects(), asyncio.Event()
    whole = undone(effects, entered, c=True)
    await crash_while_undoing(cluster, whole, entered)
    less = undone(effects, entered, c=True, b=False)
    engine = await cluster.open(workflows=[less])
    async with engine.worker():
        await reaches(engine, "r", "blocked")
    assert "'b!undo'" in ((await engine.get("r")).blocked_reason or "")
    fits = await cluster.open(workflows=[whole])
    async with fits.worker():
        await reaches(fits, "r", "failed")
    assert Counter(effects.done)["undo b"] == Counter(effects.done)["undo c"] == 1


async def test_rows_that_were_put_right(cluster: Cluster) -> None:
    """S15.2, I15: once it can be read again, `resume` moves it on, and workers with that code take it up from then on."""
    effects = Effects()
    flow = create_workflow("order").step("a", effects.step("a")).wait("go").sleep("nap", 3600).step("b", effects.step("b"))
    run_id = await waiting(cluster, flow)
    control = await damage_row(cluster, run_id, "{")
    engine = await cluster.open(workflows=[flow])
    poster = await cluster.open(drive_in_caller=False)
    async with engine.worker():
        with pytest.raises(Exception, match="malformed"):
            await poster.signal(flow, run_id, "go")
        await reaches(poster, run_id, "blocked")
    await damage_row(cluster, run_id, control)
    assert (await poster.get(run_id)).blocked_reason
    cluster.stand_still()
    assert (await engine.resume(flow, run_id)).status == "suspended"
    async with engine.worker():
        await cluster.clock.advance(seconds=3601)
        await engine.handle(run_id).result(timeout=60)
    assert effects.done == ["a", "b"]


# --- any two shapes


NAMES = ["a", "b", "c", "d"]
KINDS = ["step", "wait", "sleep", "commit"]
shapes = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.tuples(*[st.tuples(st.just(name), st.sampled_from(KINDS)) for name in names])
)
Shape = tuple[tuple[str, str], ...]


def built(shape: Shape, effects: Effects, tag: str) -> Workflow[Any, Any]:
    flow: Workflow[Any, Any] = create_workflow("any")
    for name, kind in shape:
        if kind == "wait":
            flow = flow.wait(name)
        elif kind == "sleep":
            flow = flow.sleep(name, 3600)
        elif kind == "commit":
            flow = flow.commit(name, effects.step(f"{name} {tag}"))
        else:
            flow = flow.step(name, effects.step(f"{name} {tag}"))
    return flow


@given(shapes, shapes, st.lists(st.sampled_from(["old", "new"]), max_size=4), st.booleans())
@settings(max_examples=30)
def test_any_two_shapes(old: Shape, new: Shape, deploys: list[str], on_disk: bool) -> None:
    """S13.2, D28, I5, I15: a run of the one shape, moved on by workers of either in turn: no step is done twice, the run is told of
    at most once a fingerprint, and ends, with the very steps of one shape, once both are at work."""

    async def main(directory: Path) -> None:
        clock = VirtualClock(autojump=False)
        async with Cluster(directory / "flux.db" if on_disk else None, clock) as cluster:
            await any_two(cluster, {"old": old, "new": new}, deploys)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(Path(directory)))


async def any_two(cluster: Cluster, kinds: dict[str, Shape], deploys: list[str]) -> None:
    effects = Effects()
    flows = {kind: built(shape, effects, kind) for kind, shape in kinds.items()}
    poster, newer = await cluster.open(drive_in_caller=False), await cluster.open(drive_in_caller=False)
    run_id = await waiting(cluster, flows["old"], "r")
    for kind in [*deploys, "both"]:
        engines = [await cluster.open(workflows=[flow]) for name, flow in flows.items() if kind in (name, "both")]
        workers = [engine.worker() for engine in engines]
        for worker in workers:
            await worker.__aenter__()
        for _ in range(6 if kind == "both" else 1):
            await settled(poster, run_id, engines)
            summary = await poster.summary(run_id)
            for name in summary.waiting_for:
                knowing = "old" if name in dict(kinds["old"]) else "new"  # one engine has one shape of a version
                await (poster if knowing == "old" else newer).signal(flows[knowing], run_id, name)
            await cluster.clock.advance(seconds=3601)
        await settled(poster, run_id, engines)
        for worker in workers:
            await worker.__aexit__(None, None, None)
        for engine in engines:
            await engine.close()
    result = await poster.get(run_id)
    assert result.status == RunStatus.COMPLETED, (result.status, result.blocked_reason)
    paths = [line.path for line in result.history]
    ended = [shape for shape in kinds.values() if [name for name, _ in shape] == paths]
    names = Counter(done.partition(" ")[0] for done in effects.done)
    assert names in [{name: 1 for name, kind in shape if kind in ("step", "commit")} for shape in ended]
    told = [one.misfit for one in await blocks(poster, run_id)]
    assert len(told) == len(set(told)) <= 2


async def settled(poster: FluxEngine, run_id: str, engines: list[FluxEngine]) -> None:
    """Until nobody at work here can claim the run now."""
    codes = [code for engine in engines for code in engine._registry.codes()]  # pyright: ignore[reportPrivateUsage]

    async def quiet() -> bool:
        header = await header_of(poster, run_id)
        due = header.wake_at is not None and header.wake_at <= await poster.storage.now()
        return header.owner is None and not (due and any(code[2] not in header.misfits for code in codes))

    await eventually(quiet)

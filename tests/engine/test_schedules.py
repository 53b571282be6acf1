"""Schedules: one run for each tick, whoever is at work, asleep, or dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux import (
    EngineClosed,
    Event,
    FluxEngine,
    Hooks,
    InvalidArgument,
    InvalidInput,
    RunStatus,
    Schedule,
    ScheduleNotFound,
    StorageUnavailable,
    UnknownWorkflow,
    UnreadableSchedule,
    create_workflow,
    scheduled_at,
)
from flux.engine.ticking import BATCH, QUIET, Ticker
from flux.schedules import run_id
from flux.testing import VirtualClock

from .cluster import Cluster, Effects, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio

UTC = timezone.utc
START = datetime(2026, 1, 1, tzinfo=UTC)  # of a VirtualClock
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def by_hand(request: Any) -> None:
    """Time moves only where a test says so."""
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").stand_still()


async def nothing(ctx: Any) -> None:
    return None


FLOW = create_workflow("report").step("write", nothing)


def noting(done: list[datetime], name: str = "noted") -> Any:
    """A workflow that notes for when it runs."""

    async def note(ctx: Any) -> None:
        at = scheduled_at(ctx.run_id)
        assert at is not None
        done.append(at)

    return create_workflow(name).step("note", note)


async def made(engine: FluxEngine) -> list[str]:
    """The ids of all runs, by name."""
    found: list[str] = []
    page = await engine.list(limit=500)
    while True:
        found += [run.id for run in page.runs]
        if page.next_cursor is None:
            return sorted(found)
        page = await engine.list(limit=500, cursor=page.next_cursor)


async def reaches(engine: FluxEngine, run_id: str | None, status: str) -> None:
    """The run comes to stand so."""
    assert run_id is not None
    async with asyncio.timeout(60):
        await engine.until(run_id, {RunStatus(status)})


def ids(name: str, *instants: datetime | int) -> list[str]:
    """Those of the ticks at these instants, or so many minutes after the start."""
    whole = [START + at * MINUTE if isinstance(at, int) else at for at in instants]
    return [f"{name}@{at.replace(tzinfo=None).isoformat()}Z" for at in whole]


async def ticked(engine: FluxEngine, clock: VirtualClock) -> None:
    """Everything that is due has been looked at."""

    async def up_to_date() -> bool:
        return all(one.next_run_at is None or one.next_run_at > clock.datetime for one in await engine.schedules())

    await eventually(up_to_date)


async def live(engine: FluxEngine, clock: VirtualClock, until: datetime) -> None:
    """Time passes, from tick to tick, while a worker is at work."""
    while True:
        await ticked(engine, clock)
        coming = [one.next_run_at for one in await engine.schedules() if one.next_run_at is not None]
        if not coming or min(coming) > until:
            break
        await clock.advance(min(coming) - clock.datetime)
    await clock.advance(until - clock.datetime)


# --- one run for each tick


async def test_two_workers_and_a_hundred_ticks(cluster: Cluster) -> None:
    """I21: a hundred ticks, a hundred runs, each for its instant, though two processes are at work."""
    done: list[datetime] = []
    flow = noting(done)
    engines = [await cluster.open(workflows=[flow]) for _ in range(2)]
    await engines[0].schedule("tick", flow, every=20)  # no more than a lease
    async with engines[0].worker(), engines[1].worker():
        await live(engines[0], cluster.clock, START + timedelta(seconds=2000))
        await eventually(lambda: len(done) == 100)
    expected = [START + timedelta(seconds=20 * number) for number in range(1, 101)]
    assert sorted(done) == expected and await made(engines[1]) == ids("tick", *expected)


async def test_time_rushes_from_tick_to_tick(engine: FluxEngine, cluster: Cluster) -> None:
    """flux.testing: a clock that jumps jumps to the next tick."""
    cluster.clock._autojump = True
    done: list[datetime] = []
    flow = noting(done)
    async with engine.worker():
        await engine.schedule("nightly", flow, cron="0 2 * * *", timezone="Europe/Berlin")
        await eventually(lambda: len(done) >= 5)
        cluster.stand_still()
    assert done[:5] == [START + timedelta(days=number, hours=1) for number in range(5)]


async def test_across_daylight_saving_time(engine: FluxEngine, cluster: Cluster) -> None:
    """I21: the clock is put forward and back, and there is a run a day."""
    await cluster.clock.advance(datetime(2026, 3, 27, tzinfo=UTC) - START)
    await engine.schedule("nightly", FLOW, cron="30 2 * * *", timezone="Europe/Berlin")
    async with engine.worker():
        await live(engine, cluster.clock, datetime(2026, 3, 30, 12, tzinfo=UTC))
    days = [(27, 1, 30), (28, 1, 30), (29, 1, 0), (30, 0, 30)]
    assert await made(engine) == ids("nightly", *[datetime(2026, 3, day, hour, minute, tzinfo=UTC) for day, hour, minute in days])
    await (await engine.get_schedule("nightly")).update(timezone="Australia/Lord_Howe", cron="45 1 * * *")
    assert (await engine.get_schedule("nightly")).next_run_at == datetime(2026, 3, 30, 14, 45, tzinfo=UTC)


async def test_a_schedule_made_elsewhere(cluster: Cluster) -> None:
    """A worker that has nothing to do learns of it, and of its changes."""
    here, elsewhere = await cluster.open(workflows=[FLOW]), await cluster.open()
    async with here.worker():
        await eventually(lambda: _timers(cluster) == 0)
        one = await elsewhere.schedule("tick", FLOW, every=3600)
        await eventually(lambda: _timers(cluster) == 1)
        await one.update(every=60)
        await live(elsewhere, cluster.clock, START + 2 * MINUTE)
    assert await made(here) == ids("tick", 1, 2)


def _timers(cluster: Cluster) -> int:
    return sum(not timer.cancelled for _, _, timer in cluster.clock._timers)


async def test_what_a_run_is_given(engine: FluxEngine, cluster: Cluster) -> None:
    """Input, priority; it can be read for when it is; hooks are told."""
    told: list[Event] = []

    class Telling(Hooks):
        def run_started(self, event: Event) -> None:
            told.append(event)

    @dataclass
    class Order:
        pieces: int

    seen: list[Any] = []

    async def look(ctx: Any) -> None:
        seen.append((ctx.input, scheduled_at(ctx.run_id)))

    flow = create_workflow("typed").input(Order).step("look", look)
    worker = await cluster.open(workflows=[flow], hooks=[Telling()])
    one = await engine.schedule("typed", flow, every=60, input=Order(3), priority=7)
    assert one.input == Order(3) and one.priority == 7
    async with worker.worker():
        await live(engine, cluster.clock, START + MINUTE)
        await eventually(lambda: seen)
    assert seen == [(Order(3), START + MINUTE)]
    [run] = (await engine.list()).runs
    assert run.priority == 7 and run.created_at == START + MINUTE
    await eventually(lambda: [event.run_id for event in told] == [run.id])


# --- missed ticks


@pytest.mark.parametrize(("catch_up", "expected"), [("skip", []), ("one", [25]), ("all", [5, 10, 15, 20, 25])])
async def test_asleep_over_five_ticks(cluster: Cluster, catch_up: Any, expected: list[int]) -> None:
    """I21: as many runs as the policy says, and then one a tick again."""
    engine = await cluster.open(workflows=[FLOW])
    await engine.schedule("tick", FLOW, every=5 * MINUTE, catch_up=catch_up)
    await cluster.clock.advance(minutes=27)
    async with engine.worker():
        await ticked(engine, cluster.clock)
        assert await made(engine) == sorted(ids("tick", *expected))
        await live(engine, cluster.clock, START + 35 * MINUTE)
    assert await made(engine) == sorted(ids("tick", *expected, 30, 35))
    assert (await engine.get_schedule("tick")).last_run_at == START + 35 * MINUTE


@pytest.mark.parametrize(("catch_up", "expected"), [("skip", [25]), ("one", [20, 25]), ("all", [5, 10, 15, 20, 25])])
async def test_awake_for_the_last_one(cluster: Cluster, catch_up: Any, expected: list[int]) -> None:
    """I21: a tick that is looked at within a minute was not missed."""
    engine = await cluster.open(workflows=[FLOW])
    await engine.schedule("tick", FLOW, every=5 * MINUTE, catch_up=catch_up)
    await cluster.clock.advance(minutes=26)
    async with engine.worker():
        await ticked(engine, cluster.clock)
    assert await made(engine) == sorted(ids("tick", *expected))


async def test_a_long_sleep(cluster: Cluster) -> None:
    """Many ticks are made up for in bounded transactions, and another schedule does not wait for them."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage, workflows=[FLOW])
    await engine.schedule("many", FLOW, every=MINUTE, catch_up="all")
    await cluster.clock.advance(minutes=2 * BATCH + 50)
    await engine.schedule("few", FLOW, every=MINUTE)
    await cluster.clock.advance(minutes=1)
    async with engine.worker(concurrency=1):
        await ticked(engine, cluster.clock)
    expected = list(range(1, 2 * BATCH + 52))
    assert await made(engine) == sorted(ids("many", *expected) + ids("few", expected[-1]))
    advanced = [argument.name for verb, argument in storage.calls if verb == "advance"]
    assert advanced[2:] == ["many", "few", "many", "many"]


@given(
    st.sampled_from(["skip", "one", "all"]),
    st.sampled_from(
        [{"every": 20}, {"every": 90}, {"every": 700}, {"cron": "*/3 * * * *"}, {"cron": "1,2,30 * * * *", "timezone": "Asia/Kolkata"}]
    ),
    st.lists(st.tuples(st.integers(0, 600), st.booleans()), min_size=1, max_size=6),
    st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=25)
def test_whenever_workers_sleep(catch_up: str, how: dict[str, Any], periods: list[tuple[int, bool]], workers: int) -> None:
    """I21: for any times, and any pattern of workers at work and asleep, exactly the runs that the policy says."""

    async def main() -> None:
        async with Cluster(None, VirtualClock(autojump=False)) as cluster:
            engines = [await cluster.open(workflows=[FLOW]) for _ in range(workers)]
            one = await engines[0].schedule("x", FLOW, **how, catch_up=catch_up)
            expected: list[datetime] = []
            ticks = _ticks(one)
            waiting: list[datetime] = []
            tick = next(ticks)
            for seconds, awake in [*periods, (0, True)]:
                end = cluster.clock.datetime + timedelta(seconds=seconds)
                if awake:
                    missed = [at for at in waiting if cluster.clock.datetime - at > MINUTE]
                    expected += {"skip": [], "one": missed[-1:], "all": missed}[catch_up] + [at for at in waiting if at not in missed]
                    waiting = []
                    async with AsyncExitStack() as stack:
                        for engine in engines:
                            await stack.enter_async_context(engine.worker())
                        await live(engines[0], cluster.clock, end)
                else:
                    await cluster.clock.advance(end - cluster.clock.datetime)
                while tick <= end:
                    (expected if awake else waiting).append(tick)
                    tick = next(ticks)
            assert await made(engines[0]) == sorted(ids("x", *expected))

    asyncio.run(main())


def _ticks(one: Schedule) -> Iterator[datetime]:
    at = START
    while True:
        if one.every is not None:
            at += one.every
            yield at
            continue
        at += MINUTE
        minute = (at + timedelta(hours=5, minutes=30)).minute if one.timezone == "Asia/Kolkata" else at.minute
        if minute in (1, 2, 30) if one.timezone == "Asia/Kolkata" else minute % 3 == 0:
            yield at


# --- overlap


HELD = create_workflow("held").wait("go").step("end", nothing)


@pytest.mark.parametrize(
    ("overlap", "catch_up", "expected", "skipped"),
    [
        ("allow", "one", {1: "suspended", 2: "suspended", 3: "suspended"}, 0),
        ("skip", "one", {1: "suspended"}, 2),
        ("cancel", "one", {1: "cancelled", 2: "cancelled", 3: "suspended"}, 0),
    ],
)
async def test_overlap(cluster: Cluster, overlap: Any, catch_up: Any, expected: dict[int, str], skipped: int) -> None:
    """What becomes of a tick, and of the last run, where that has not ended."""
    engine = await cluster.open(workflows=[HELD])
    await engine.schedule("tick", HELD, every=MINUTE, overlap=overlap)
    async with engine.worker():
        await live(engine, cluster.clock, START + 3 * MINUTE)
        for minute, status in expected.items():
            await reaches(engine, ids("tick", minute)[0], status)
        assert await made(engine) == ids("tick", *expected)
        one = await engine.get_schedule("tick")
        assert one.skipped == skipped and one.last_run_id == ids("tick", max(expected))[0]
        await engine.signal(HELD, ids("tick", max(expected))[0], "go")
        await reaches(engine, one.last_run_id, "completed")
        await live(engine, cluster.clock, START + 4 * MINUTE)
    assert await made(engine) == ids("tick", *expected, 4)
    assert (await engine.get_schedule("tick")).skipped == skipped


@pytest.mark.parametrize(("overlap", "statuses"), [("skip", ["suspended"]), ("cancel", ["cancelled", "cancelled", "suspended"])])
async def test_overlap_of_what_is_made_up_for(cluster: Cluster, overlap: Any, statuses: list[str]) -> None:
    """Runs that are made together overlap as others do."""
    engine = await cluster.open(workflows=[HELD])
    await engine.schedule("tick", HELD, every=5 * MINUTE, overlap=overlap, catch_up="all")
    await cluster.clock.advance(minutes=17)
    async with engine.worker():
        await ticked(engine, cluster.clock)
        for number, status in enumerate(statuses, start=1):
            await reaches(engine, ids("tick", 5 * number)[0], status)
    assert await made(engine) == sorted(ids("tick", *range(5, 5 * len(statuses) + 1, 5)))
    assert (await engine.get_schedule("tick")).skipped == 3 - len(statuses)


async def test_a_cancel_says_why(cluster: Cluster) -> None:
    """The run that gave way tells so."""
    engine = await cluster.open(workflows=[HELD])
    await engine.schedule("tick", HELD, every=MINUTE, overlap="cancel")
    async with engine.worker():
        await live(engine, cluster.clock, START + 2 * MINUTE)
        await reaches(engine, ids("tick", 1)[0], "cancelled")
    assert "schedule 'tick' has begun the next run" in str((await engine.get(ids("tick", 1)[0])).error)


async def test_the_last_run_is_gone(cluster: Cluster) -> None:
    """A run that was deleted holds nothing up, and gets no cancel."""
    engine = await cluster.open(workflows=[FLOW])
    for overlap in ("skip", "cancel"):
        await engine.schedule(overlap, FLOW, every=MINUTE, overlap=overlap)  # type: ignore[arg-type]
    async with engine.worker():
        await live(engine, cluster.clock, START + MINUTE)
        for overlap in ("skip", "cancel"):
            await reaches(engine, ids(overlap, 1)[0], "completed")
            await engine.delete(ids(overlap, 1)[0])
        await live(engine, cluster.clock, START + 2 * MINUTE)
    assert await made(engine) == ids("cancel", 2) + ids("skip", 2)


# --- looking at them and changing them


async def test_what_it_shows(engine: FluxEngine, cluster: Cluster) -> None:
    """api.md: name, times, policies, next and last run."""
    daily = await engine.schedule(
        "daily", FLOW, cron=" 0  2 * * * ", timezone="Europe/Berlin", input={"a": 1}, catch_up="all", overlap="skip"
    )
    often = await engine.schedule("often", FLOW, every=90)
    assert (daily.name, daily.workflow, daily.version, daily.cron, daily.every) == ("daily", "report", FLOW.version, "0 2 * * *", None)
    assert (daily.timezone, daily.catch_up, daily.overlap, daily.priority, daily.input) == ("Europe/Berlin", "all", "skip", 0, {"a": 1})
    assert (daily.paused, daily.skipped, daily.error, daily.last_run_at, daily.last_run_id) == (False, 0, None, None, None)
    assert daily.next_run_at == START + timedelta(hours=1)
    assert (often.cron, often.every, often.timezone, often.next_run_at) == (None, 1.5 * MINUTE, "UTC", START + 1.5 * MINUTE)
    assert [await engine.get_schedule(name) for name in ("daily", "often")] == list(await engine.schedules()) == [daily, often]
    async with engine.worker():
        await live(engine, cluster.clock, START + 2 * MINUTE)
    often = await engine.get_schedule("often")
    assert (often.last_run_at, often.last_run_id) == (START + 1.5 * MINUTE, "often@2026-01-01T00:01:30Z")
    assert often.next_run_at == START + 3 * MINUTE


async def test_hundreds_of_schedules(engine: FluxEngine) -> None:
    """All pages, by name."""
    for number in range(510):
        await engine.schedule(f"s{number:04}", FLOW, every=60)
    assert [one.name for one in await engine.schedules()] == [f"s{number:04}" for number in range(510)]


async def test_declared_again(engine: FluxEngine, cluster: Cluster) -> None:
    """A deploy that declares what is there changes nothing: neither the next tick, nor that it is paused."""

    async def declare(**more: Any) -> Schedule:
        options: dict[str, Any] = {"cron": "0 * * * *", "input": {"a": 1}} | more
        return await engine.schedule("hourly", FLOW, **options)

    one = await declare()
    [row] = await engine.storage.schedules("hourly")
    await cluster.clock.advance(minutes=150)
    assert await declare(cron="@hourly") == one
    await one.pause()
    assert (await declare()).paused
    await (await engine.get_schedule("hourly")).resume()
    [again] = await engine.storage.schedules("hourly")
    assert (row.revision, again.revision) == (1, 3) and again.rule == row.rule

    changed = await declare(input={"a": 2}, overlap="skip")
    assert (changed.input, changed.overlap, changed.next_run_at) == ({"a": 2}, "skip", START + timedelta(hours=3))
    changed = await declare(cron="30 * * * *")
    assert (changed.input, changed.overlap, changed.next_run_at) == ({"a": 1}, "allow", START + timedelta(hours=3, minutes=30))


async def test_an_interval_declared_again(engine: FluxEngine, cluster: Cluster) -> None:
    """It goes on counting from where it began; a tick that is overdue stays so. Another interval begins now."""
    for _ in range(3):
        one = await engine.schedule("tick", FLOW, every=5 * MINUTE, catch_up="all")
        assert one.next_run_at == START + 5 * MINUTE
        await cluster.clock.advance(minutes=4)
    async with engine.worker():
        await ticked(engine, cluster.clock)
    assert (await engine.get_schedule("tick")).next_run_at == START + 15 * MINUTE
    assert (await engine.schedule("tick", FLOW, every=7 * MINUTE)).next_run_at == START + 19 * MINUTE


async def test_another_version(cluster: Cluster) -> None:
    """S13: the version that was declared last makes the runs, and the next tick stays."""
    old, new = FLOW, create_workflow("report", version="2").step("other", nothing)
    older, newer = await cluster.open(workflows=[old]), await cluster.open(workflows=[new])
    await older.schedule("tick", old, every=MINUTE)
    await cluster.clock.advance(seconds=30)
    moved = await newer.schedule("tick", new, every=MINUTE)
    assert (moved.version, moved.next_run_at) == ("2", START + MINUTE)
    async with newer.worker():
        await live(newer, cluster.clock, START + MINUTE)
    assert [run.version for run in (await newer.list()).runs] == ["2"]


async def test_pause_and_resume(cluster: Cluster) -> None:
    """Nothing while it is paused, and nothing is made up for afterwards."""
    engine = await cluster.open(workflows=[FLOW])
    one = await engine.schedule("tick", FLOW, every=MINUTE, catch_up="all")
    async with engine.worker():
        await live(engine, cluster.clock, START + MINUTE)
        paused = await one.pause()
        assert (paused.paused, paused.next_run_at, paused.last_run_at) == (True, None, START + MINUTE)
        assert await paused.pause() == paused
        await live(engine, cluster.clock, START + 4.5 * MINUTE)
        resumed = await paused.resume()
        assert (resumed.paused, resumed.next_run_at) == (False, START + 5 * MINUTE) and await resumed.resume() == resumed
        await live(engine, cluster.clock, START + 5 * MINUTE)
    assert await made(engine) == ids("tick", 1, 5)


async def test_updates(engine: FluxEngine, cluster: Cluster) -> None:
    """What is named changes, the rest stays; other times count from now."""
    one = await engine.schedule("x", FLOW, cron="0 2 * * *", timezone="Europe/Berlin", input=1)
    assert await one.update() == one
    assert await one.update(input=2, overlap="cancel") == replace(one, overlap="cancel", _input="2")
    assert (await one.update(input=None)).input is None
    moved = await one.update(timezone="America/New_York")
    assert (moved.cron, moved.next_run_at) == ("0 2 * * *", START + timedelta(hours=7))
    await cluster.clock.advance(seconds=10)
    often = await one.update(every=60, priority=3)
    assert (often.cron, often.timezone, often.next_run_at) == (None, "UTC", START + timedelta(seconds=70))
    assert (await one.update(every=60, catch_up="skip")).next_run_at == START + timedelta(seconds=70)
    await one.pause()
    again = await one.update(cron="@daily")
    assert (again.paused, again.next_run_at, again.timezone, again.catch_up, again.priority) == (True, None, "UTC", "skip", 3)
    assert (await one.resume()).next_run_at == START + timedelta(days=1)
    for wrong in (
        {"cron": "x"},
        {"every": -1},
        {"cron": "@daily", "every": 5},
        {"timezone": "Nowhere"},
        {"priority": 101},
        {"overlap": "no"},
    ):
        with pytest.raises(InvalidArgument):
            await one.update(**wrong)


async def test_delete(cluster: Cluster) -> None:
    """It makes no more runs; its runs stay. A new one of that name begins anew."""
    engine = await cluster.open(workflows=[FLOW])
    one = await engine.schedule("tick", FLOW, every=MINUTE)
    async with engine.worker():
        await live(engine, cluster.clock, START + MINUTE)
        await one.delete()
        await cluster.clock.advance(minutes=5)
        assert await made(engine) == ids("tick", 1) and not await engine.schedules()
        for call in (one.delete, one.pause, one.resume, one.update, one.trigger):
            with pytest.raises(ScheduleNotFound):
                await call()
        with pytest.raises(ScheduleNotFound):
            await engine.get_schedule("tick")
        assert (await engine.schedule("tick", FLOW, every=MINUTE)).next_run_at == START + 7 * MINUTE
        await live(engine, cluster.clock, START + 7 * MINUTE)
    assert await made(engine) == ids("tick", 1, 7)


async def test_trigger(cluster: Cluster) -> None:
    """A run now, also while it is paused; the next tick stays."""
    engine = await cluster.open(workflows=[HELD])
    one = await engine.schedule("tick", HELD, every=MINUTE, overlap="skip")
    await cluster.clock.advance(seconds=20)
    await one.pause()
    triggered = await one.trigger()
    assert triggered.last_run_id == "tick@2026-01-01T00:00:20Z/trigger" and triggered.last_run_at == START + timedelta(seconds=20)
    assert scheduled_at(triggered.last_run_id) == triggered.last_run_at
    async with engine.worker():
        await reaches(engine, triggered.last_run_id, "suspended")
        await one.resume()
        await live(engine, cluster.clock, START + MINUTE)
    one = await engine.get_schedule("tick")
    assert await made(engine) == [triggered.last_run_id] and (one.skipped, one.next_run_at) == (1, START + 2 * MINUTE)


async def test_triggers_in_one_instant(cluster: Cluster) -> None:
    """I21: each makes a run of its own, also when they come at once."""
    cluster.stand_still()
    engine = await cluster.open(workflows=[HELD])
    one = await engine.schedule("tick", HELD, every=MINUTE)
    told = [(await one.trigger()).last_run_id for _ in range(3)]
    told += [found.last_run_id for found in await asyncio.gather(one.trigger(), one.trigger())]
    assert len(set(told)) == 5 and set(await made(engine)) == set(told)
    assert told[:2] == ["tick@2026-01-01T00:00:00Z/trigger", "tick@2026-01-01T00:00:00.000001Z/trigger"]


async def test_triggers_around_a_late_tick(cluster: Cluster) -> None:
    """I21: also where between two of one instant a worker makes the run of an earlier one."""
    engine = await cluster.open(workflows=[FLOW])
    one = await engine.schedule("tick", FLOW, every=MINUTE)
    await cluster.clock.advance(seconds=61)
    told = [(await one.trigger()).last_run_id]
    async with engine.worker():
        await ticked(engine, cluster.clock)
    told += [(await one.trigger()).last_run_id for _ in range(2)]
    assert len(set(told)) == 3 and set(await made(engine)) == {*told, *ids("tick", 1)}


async def test_what_is_refused(engine: FluxEngine, cluster: Cluster) -> None:
    """S15.7: with what was expected, and nothing is stored."""

    def positive(value: int) -> bool:
        return value > 0

    flow = create_workflow("checked").input(int).validate(positive).step("a", nothing)
    for input in ("x", 0):
        with pytest.raises(InvalidInput):
            await engine.schedule("x", flow, every=60, input=input)
    for wrong in ({}, {"every": 0}, {"cron": "x"}, {"cron": "@daily", "timezone": "Nowhere"}, {"every": 60, "priority": 101}):
        with pytest.raises(InvalidArgument):
            await engine.schedule("x", flow, input=1, **wrong)
    for name in ("", "a b", "x" * 161, None):
        with pytest.raises(InvalidArgument):
            await engine.schedule(name, flow, every=60, input=1)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await engine.get_schedule(name)  # type: ignore[arg-type]
    assert not await engine.schedules()
    one = await engine.schedule("x", flow, every=60, input=1)
    with pytest.raises(InvalidInput):
        await one.update(input=-1)
    stranger = await cluster.open()
    for call in ((await stranger.get_schedule("x")).trigger(), (await stranger.get_schedule("x")).update(input=2)):
        with pytest.raises(UnknownWorkflow):
            await call
    await stranger.close()
    with pytest.raises(EngineClosed):
        await stranger.schedules()
    await engine.close()
    with pytest.raises(EngineClosed):
        await one.pause()


# --- several at once, and faults


async def test_declared_at_once(cluster: Cluster) -> None:
    """Ten processes that start together make one schedule; and each of their changes is made."""
    engines = [await cluster.open() for _ in range(3)]
    many = await asyncio.gather(*[engine.schedule("x", FLOW, every=60) for engine in engines * 4])
    assert many == [many[0]] * 12
    await asyncio.gather(many[0].pause(), many[1].update(priority=5), many[2].update(overlap="skip"), many[1].update(every=90))
    [one] = await engines[0].schedules()
    assert (one.paused, one.priority, one.overlap, one.every) == (True, 5, "skip", timedelta(seconds=90))


async def test_two_advance_at_once(cluster: Cluster) -> None:
    """I21: both have seen that it is due; one makes the run, and the other sees the next tick."""
    storages = [Faulty(cluster.storage()) for _ in range(2)]
    engines = [await cluster.open(storage, workflows=[FLOW]) for storage in storages]
    await engines[0].schedule("tick", FLOW, every=MINUTE)
    for storage in storages:
        storage.held["advance"] = asyncio.Event()
    async with engines[0].worker(), engines[1].worker():
        await cluster.clock.advance(minutes=1)
        await eventually(lambda: all(storage.calls[-1][0] == "advance" or "advance" in _verbs(storage) for storage in storages))
        for storage in storages:
            storage.held["advance"].set()
        await live(engines[0], cluster.clock, START + 3 * MINUTE)
    assert await made(engines[0]) == ids("tick", 1, 2, 3)


def _verbs(storage: Faulty) -> list[str]:
    return [verb for verb, _ in storage.calls[1:]]


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_a_tick(cluster: Cluster, after: bool) -> None:
    """I21: before its run is written, or after: another makes it, or finds it made."""
    storage = Faulty(cluster.storage())
    doomed, other = await cluster.open(storage, workflows=[FLOW]), await cluster.open(workflows=[FLOW])
    await other.schedule("tick", FLOW, every=MINUTE)
    worker = doomed.worker()
    await worker.__aenter__()
    await eventually(lambda: _timers(cluster) == 1)
    if not after:
        storage.held["advance"] = asyncio.Event()
    await cluster.clock.advance(minutes=1)
    await eventually(lambda: "advance" in _verbs(storage))
    if after:
        await ticked(other, cluster.clock)
    await cluster.crash(doomed)
    async with other.worker():
        await live(other, cluster.clock, START + 2 * MINUTE)
    assert await made(other) == ids("tick", 1, 2)


@pytest.mark.parametrize("after", [False, True])
async def test_the_storage_fails(cluster: Cluster, after: bool, caplog: pytest.LogCaptureFixture) -> None:
    """I21, I45: it did not write, or it did and did not say so: there is one run."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage, workflows=[FLOW])
    await engine.schedule("tick", FLOW, every=MINUTE)
    storage.fail("advance", StorageUnavailable("gone"), after=after)
    storage.fail("schedules", StorageUnavailable("gone"))
    async with engine.worker():
        await live(await cluster.open(), cluster.clock, START + 2 * MINUTE)
    assert await made(engine) == ids("tick", 1, 2)
    assert "the storage does not tell of schedules" in caplog.text


async def test_paused_while_it_is_due(cluster: Cluster) -> None:
    """A tick under way loses to a pause, or is first: never half of it."""
    storage = Faulty(cluster.storage())
    engine, other = await cluster.open(storage, workflows=[FLOW]), await cluster.open()
    await other.schedule("tick", FLOW, every=MINUTE)
    storage.held["advance"] = asyncio.Event()
    async with engine.worker():
        await eventually(lambda: _timers(cluster) == 1)
        await cluster.clock.advance(minutes=1)
        await eventually(lambda: "advance" in _verbs(storage))
        one = await (await other.get_schedule("tick")).pause()
        storage.held["advance"].set()
        assert await made(other) == []
        await (await one.resume()).update(priority=1)
        await live(other, cluster.clock, START + 2 * MINUTE)
    assert await made(other) == ids("tick", 2)


async def test_an_id_that_is_taken(cluster: Cluster) -> None:
    """I21: there is a run of that id already, so that tick has its run."""
    engine = await cluster.open(workflows=[FLOW])
    await engine.schedule("tick", FLOW, every=MINUTE)
    await engine.execute(FLOW, id=ids("tick", 1)[0])
    async with engine.worker():
        await live(engine, cluster.clock, START + 2 * MINUTE)
    assert await made(engine) == ids("tick", 1, 2)


# --- whose schedules, and those that cannot be ticked


async def test_schedules_of_others(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """S13.3: a worker leaves those alone whose workflow, in that version, it does not have, and says so where that may be an oversight."""
    old, new = create_workflow("moving", version="1").step("a", nothing), create_workflow("moving", version="2").step("b", nothing)
    storage = Faulty(cluster.storage())
    engine, other = await cluster.open(storage, workflows=[FLOW, new]), await cluster.open()
    await other.schedule("foreign", HELD, every=MINUTE)
    await other.schedule("old", old, every=MINUTE)
    await other.schedule("mine", FLOW, every=10 * MINUTE)
    async with engine.worker():
        await eventually(lambda: _timers(cluster) == 1)
        await cluster.clock.advance(minutes=10)
        await eventually(lambda: _made(other, "mine", 10))
        await cluster.clock.advance(minutes=10)
        await eventually(lambda: _made(other, "mine", 20))
    assert await made(other) == ids("mine", 10, 20)
    assert {argument.name for verb, argument in storage.calls if verb == "advance"} == {"mine"}
    assert caplog.text.count("waits for a worker that has version 1 of workflow moving") == 1 and "foreign" not in caplog.text


async def _made(engine: FluxEngine, name: str, minute: int) -> bool:
    return ids(name, minute)[0] in await made(engine)


async def test_a_version_that_migrates(cluster: Cluster) -> None:
    """S13: code that carries runs of the old version on makes them too, in its own version."""
    old = create_workflow("moving", version="1").step("a", nothing)
    new = create_workflow("moving", version="2").step("a", nothing).step("b", nothing).migrates_from(old)
    engine = await cluster.open(workflows=[new])
    await (await cluster.open()).schedule("tick", old, every=MINUTE)
    async with engine.worker():
        await live(engine, cluster.clock, START + MINUTE)
    assert [(run.id, run.version) for run in (await engine.list()).runs] == [(ids("tick", 1)[0], "2")]


async def test_hundreds_of_others(cluster: Cluster) -> None:
    """Overdue ones that nobody here has the workflow of hide none of those that can be ticked."""
    engine, other = await cluster.open(workflows=[FLOW]), await cluster.open()
    for number in range(150):
        await other.schedule(f"foreign{number}", HELD, every=MINUTE)
    await other.schedule("mine", FLOW, every=10 * MINUTE)
    await cluster.clock.advance(minutes=9)
    async with engine.worker():
        await eventually(lambda: _timers(cluster) == 1)
        await cluster.clock.advance(minutes=1)
        await eventually(lambda: _made(other, "mine", 10))


@pytest.mark.parametrize("rule", ["{", '{"format": 9}', "cron", "zone"])
async def test_a_rule_that_cannot_be_read(cluster: Cluster, rule: str, caplog: pytest.LogCaptureFixture) -> None:
    """S15.2: of a newer flux, damaged, or of a time zone that is unknown here: told once, left alone, in no other's way."""
    engine = await cluster.open(workflows=[FLOW])
    one = await engine.schedule("bad", FLOW, cron="* * * * *", timezone="Europe/Berlin")
    await engine.schedule("good", FLOW, every=MINUTE)
    [row] = await engine.storage.schedules("bad")
    told = {"cron": row.rule.replace("* * * * *", "? * * * *"), "zone": row.rule.replace("Berlin", "Atlantis")}
    await engine.storage.advance(replace(row, rule=told.get(rule, rule)))
    async with engine.worker():
        await eventually(lambda: _timers(cluster) == 1)
        for minute in (1, 2, 3):
            await cluster.clock.advance(minutes=1)
            await eventually(lambda minute=minute: _made(engine, "good", minute))  # type: ignore[misc]
    assert caplog.text.count("schedule bad makes no runs here") == 1
    assert await made(engine) == ids("good", 1, 2, 3)
    bad, _ = await engine.schedules()
    if rule not in told:
        assert bad.error is not None and bad.cron is None and bad.input is None
        for call in (bad.pause(), bad.update(priority=1), bad.trigger(), engine.schedule("bad", FLOW, every=60)):
            with pytest.raises(UnreadableSchedule):
                await call
    await bad.delete()
    assert [one.name for one in await engine.schedules()] == ["good"] and one.name == "bad"


async def test_a_row_that_does_not_advance(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """S15.2, I17: a storage that refuses every change of a schedule is not asked for ever."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage, workflows=[FLOW])
    await engine.schedule("tick", FLOW, every=MINUTE)

    async def refuse(*_: Any) -> bool:
        return False

    storage.advance = refuse  # type: ignore[method-assign]
    await cluster.clock.advance(minutes=1)
    async with engine.worker():
        await eventually(lambda: "schedule tick makes no runs here: its row cannot be changed" in caplog.text)
    with pytest.raises(UnreadableSchedule):
        await (await engine.get_schedule("tick")).pause()


async def test_looking_takes_little(engine: FluxEngine, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that is written to all the time is not asked for schedules all the time."""
    monkeypatch.setattr("flux.engine.ticking.LONGEST_REST", 0.3)
    storage = Faulty(engine.storage)
    engine._host.storage = storage
    storage.held["schedules"] = asyncio.Event()
    ticker = Ticker(engine._host)
    task = asyncio.create_task(ticker.run())
    await eventually(lambda: storage.calls)
    await cluster.clock.advance(seconds=10)  # so long it took
    storage.held["schedules"].set()
    for _ in range(100):
        ticker.hint()
        await asyncio.sleep(0)
    assert len(storage.calls) == 1
    await eventually(lambda: len(storage.calls) == 2)  # and then the hints are heeded
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_looking_again_when_nothing_is_heard(engine: FluxEngine, cluster: Cluster) -> None:
    """The poll is the truth: a change that no storage told of is found, and a clock that was put forward."""
    storage = Faulty(engine.storage)
    engine._host.storage = storage
    await engine.schedule("tick", FLOW, every=MINUTE)
    ticker = Ticker(engine._host)
    task = asyncio.create_task(ticker.run())

    async def looks(count: int) -> None:
        await eventually(lambda: [verb for verb, _ in storage.calls].count("schedules") == count and not ticker._resting)

    storage.calls.clear()
    await looks(1)
    for _ in range(QUIET - 1):
        ticker.poll()
    assert not ticker._wake.is_set()
    ticker.poll()
    await looks(2)
    ticker.poll()
    assert not ticker._wake.is_set()
    cluster.clock._now += 60_000_000  # no timer fires
    ticker.poll()
    await ticked(engine, cluster.clock)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await made(engine) == ids("tick", 1)


async def test_a_workflow_that_is_registered_later(cluster: Cluster) -> None:
    """S13.3: from then on its schedules are ticked."""
    engine, other = await cluster.open(), await cluster.open()
    await other.schedule("tick", FLOW, every=MINUTE)
    await cluster.clock.advance(minutes=1)
    async with engine.worker():
        await engine.start(FLOW, id="first")
        await ticked(other, cluster.clock)
    assert await made(engine) == ["first", *ids("tick", 1)]


async def test_a_stopped_worker_ticks_no_more(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """S14.4: also while it waits for what it moves."""
    caplog.set_level(logging.INFO)
    gate = asyncio.Event()
    began = asyncio.Event()

    async def hold(ctx: Any) -> None:
        began.set()
        await gate.wait()

    flow = create_workflow("slow").step("hold", hold, timeout=None)
    engine = await cluster.open(workflows=[flow])
    await engine.schedule("tick", flow, every=MINUTE)
    worker = engine.worker()
    async with worker:
        await live(engine, cluster.clock, START + MINUTE)
        await began.wait()
        worker.stop()
        await eventually(lambda: _timers(cluster) == 0)
        await cluster.clock.advance(minutes=1)
        gate.set()
    assert await made(engine) == [run_id("tick", round((START + MINUTE).timestamp() * 1_000_000))]


async def test_effects_of_each_run(cluster: Cluster) -> None:
    """Two schedules of one workflow have runs of their own."""
    effects = Effects()
    flow = create_workflow("shared").step("a", effects.step("a"))
    engine = await cluster.open(workflows=[flow])
    await engine.schedule("one", flow, every=MINUTE)
    await engine.schedule("two", flow, every=MINUTE)
    async with engine.worker():
        await live(engine, cluster.clock, START + 2 * MINUTE)
        await eventually(lambda: len(effects.done) == 4)
    assert await made(engine) == ids("one", 1, 2) + ids("two", 1, 2)

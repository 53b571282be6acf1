"""Checks of contract 19: schedules, and what their ticks bring about."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from ...core.status import RunStatus
from ...storage import Query, Schedule
from .kit import SECOND, Bench, Checks, equal, new_run, patiently, posting, sent, shows, true, turns

CHECKS = Checks()


def schedule(name: str, next_at: int | None = 1, **fields: Any) -> Schedule:
    """A schedule of the checks' workflow."""
    return Schedule(name, "flow", "1", '{"every":"é \\" \'"}', next_at, **fields)


async def the(b: Bench, name: str) -> Schedule:
    """The schedule of that name, which must be there."""
    (found,) = await b.storage.schedules(name)
    return found


async def _names(b: Bench, **options: Any) -> list[str]:
    return [one.name for one in await b.storage.schedules(**options)]


@CHECKS
async def a_schedule_is_kept_as_it_was_made(b: Bench) -> None:
    """Contract 19: every field; its revision is higher than the one it was made from."""
    for name, fields in (("a", {"last_at": 2**53 + 1, "last_run": "r"}), ("b", {"next_at": None}), ("c", {"version": "2"})):
        made = replace(schedule(name), **fields)
        true(await b.storage.advance(made), "the name is free")
        kept = await the(b, name)
        equal(replace(kept, revision=0), made)
        true(kept.revision > 0, "a schedule that is there has a revision")
    equal(await b.storage.schedules("d"), [])


@CHECKS
async def a_schedule_is_made_once(b: Bench) -> None:
    """Contract 19: revision 0 is for a name that is free; nothing is written where it is not, no run and no posting."""
    await b.create("s")
    await b.storage.advance(schedule("a"))
    before = await the(b, "a")
    equal(await b.storage.advance(schedule("a", 2), [new_run("r", b.now)], [sent("s")]), False)
    equal((await the(b, "a"), await b.storage.load("r")), (before, None))
    shows(await b.header("s"), inbox_seq=0)


@CHECKS
async def a_schedule_advances_from_what_was_seen(b: Bench) -> None:
    """Contract 19: whole, with a revision that is one more; from an older or a future one, not at all."""
    await b.storage.advance(schedule("a"))
    seen = await the(b, "a")
    later = replace(seen, workflow="other", version="2", rule="{}", next_at=None, last_at=b.now, last_run="r")
    equal(await b.storage.advance(later), True)
    equal(await the(b, "a"), replace(later, revision=seen.revision + 1))
    for revision in (0, seen.revision, seen.revision + 2, -1):
        equal(await b.storage.advance(replace(seen, revision=revision)), False)
    equal(await the(b, "a"), replace(later, revision=seen.revision + 1))
    equal(await b.storage.advance(replace(seen, name="b", revision=1)), False)


@CHECKS
async def a_tick_makes_its_runs(b: Bench) -> None:
    """Contract 16, 19: in its transaction, as a commit makes children; an id that is taken is left as it is."""
    await b.parked("taken")
    before = await b.load("taken")
    await b.storage.advance(schedule("a"))
    seen = await the(b, "a")
    runs = [new_run("r", b.now, priority=2), new_run("taken", b.now), new_run("s", b.now, delay=SECOND, idempotency_key="k", owner="w")]
    equal(await b.storage.advance(seen, runs), True)
    await b.unchanged("taken", before)
    shows(await b.header("r"), owner=None, epoch=0, wake_at=b.now, position=1, priority=2, parent="")
    shows(await b.header("s"), owner=None, wake_at=b.now + SECOND, idempotency_key=None)
    equal(await b.storage.advance(seen, [new_run("never", b.now)]), False)
    equal(await b.storage.load("never"), None)
    await b.worker("w")
    equal(await b.claimed("w"), ["r"])


@CHECKS
async def a_tick_posts(b: Bench) -> None:
    """Contract 16, 19: as a commit does: to a held run, to a parked one, and to none that has ended or is gone."""
    await b.held("held")
    await b.parked("parked")
    await b.ended("ended")
    posts = [sent(run_id) for run_id in ("held", "parked", "ended", "nobody", "made")]
    equal(await b.storage.advance(schedule("a"), [new_run("made", b.now)], posts), True)
    for run_id in ("held", "parked", "made"):
        equal((await b.load(run_id)).postings, [posting(1, b.now)])
    shows(await b.header("parked"), wake_at=b.now)
    shows(await b.header("ended"), inbox_seq=0, status=RunStatus.COMPLETED)


@CHECKS
async def of_those_that_try_one_succeeds(b: Bench) -> None:
    """Contract 1, 19: twenty at one moment make one run, and one schedule."""
    made = await asyncio.gather(*(b.storage.advance(schedule("a", number)) for number in range(1, 21)))
    equal(made.count(True), 1)
    seen = await the(b, "a")
    equal(seen.next_at, made.index(True) + 1)
    ticks = [b.storage.advance(replace(seen, last_run=f"r{number}"), [new_run(f"r{number}", b.now)]) for number in range(20)]
    done = await asyncio.gather(*ticks)
    equal(done.count(True), 1)
    equal([header.run_id for header in await b.storage.find(Query())], [f"r{done.index(True)}"])
    equal((await the(b, "a")).last_run, f"r{done.index(True)}")


@CHECKS
async def schedules_are_listed_by_name(b: Bench) -> None:
    """In pages; a name is exact."""
    names = ["a", "B", "b", "a.b", "é", "a%", "zz", "Z"]
    for name in names:
        await b.storage.advance(schedule(name, None if name == "b" else 5))
    equal(await _names(b), sorted(names))
    equal(await _names(b, limit=3), sorted(names)[:3])
    equal(await _names(b, limit=3, after=sorted(names)[2]), sorted(names)[3:6])
    equal((await _names(b, after="é"), await _names(b, limit=0)), ([], []))
    for name in names:
        equal(await _names(b, name=name), [name])


@CHECKS
async def due_schedules_come_earliest_first(b: Bench) -> None:
    """Contract 19: those that are due by the instant, then by name; paused ones never."""
    for name, next_at in (("a", 30), ("b", 10), ("c", None), ("d", 20), ("a2", 10), ("e", 31)):
        await b.storage.advance(schedule(name, next_at))
    equal(await _names(b, due=30), ["a2", "b", "d", "a"])
    equal((await _names(b, due=9), await _names(b, due=10), await _names(b, due=20, limit=2)), ([], ["a2", "b"], ["a2", "b"]))
    seen = await the(b, "b")
    await b.storage.advance(replace(seen, next_at=None))
    await b.storage.advance(replace(await the(b, "c"), next_at=1))
    equal(await _names(b, due=20), ["c", "a2", "d"])


@CHECKS
async def a_schedule_is_forgotten(b: Bench) -> None:
    """Contract 19: once; from what was seen of it nothing advances, also where another has its name by now."""
    await b.storage.advance(schedule("a"))
    await b.storage.advance(schedule("b"))
    for _ in range(3):
        seen = await the(b, "a")
        equal((await b.storage.unschedule("a"), await b.storage.unschedule("a")), (True, False))
        equal((await b.storage.schedules("a"), await _names(b, due=9), await _names(b)), ([], ["b"], ["b"]))
        equal(await b.storage.advance(seen, [new_run("r", b.now)]), False)
        equal(await b.storage.advance(schedule("a", 7)), True)
        equal(await b.storage.advance(seen, [new_run("r", b.now)]), False)
        equal(((await the(b, "a")).next_at, await b.storage.load("r")), (7, None))
        await b.storage.unschedule("b")
        await b.storage.advance(schedule("b"))


@CHECKS
async def schedules_cross_the_seam_as_copies(b: Bench) -> None:
    """Contract 13, I43: both ways."""
    made = schedule("a")
    await b.storage.advance(made)
    before = await the(b, "a")
    made.next_at, made.rule = 9, "spoilt"
    spoilt = await the(b, "a")
    spoilt.next_at, spoilt.revision = 9, 9
    (spoilt,) = await b.storage.schedules(due=5)
    spoilt.last_run = "spoilt"
    equal((await the(b, "a"), await b.storage.schedules()), (before, [before]))


@CHECKS
async def changed_tells_of_schedules(b: Bench) -> None:
    """Contract 19: made, changed, forgotten: whoever waits for the next tick looks again."""
    await _wakes(b, b.storage.advance(schedule("a")))
    await _wakes(b, b.storage.advance(await the(b, "a")))
    await _wakes(b, b.storage.unschedule("a"))


async def _wakes(b: Bench, call: Any) -> None:
    count = await patiently(b.storage.changed(-1, 3600))
    waiting = asyncio.ensure_future(b.storage.changed(count, 3600))
    await turns()
    equal(await call, True)
    true(await patiently(waiting) != count, "a schedule has changed")

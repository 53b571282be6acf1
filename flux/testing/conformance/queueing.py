"""Checks of contract 23 and 24: limits of workflows, lanes, rates; and of deduplication keys (2)."""

from __future__ import annotations

import asyncio
from typing import Any

from ...core.status import RunStatus
from ...storage import Code, Limit
from .kit import FLOW, LEASE, MINUTE, SECOND, Bench, Checks, equal, new_run, sent, shows, true

CHECKS = Checks()

OTHER: Code = ("other", "1", "s")
NEXT: Code = ("flow", "2", "s")
ONE = Limit("flow", per_key=1)


async def _claimed(b: Bench, worker: str, *limits: Limit, limit: int = 100, codes: tuple[Code, ...] = (FLOW,)) -> list[str]:
    """The ids of what was claimed, in order."""
    return [run.header.run_id for run in (await b.storage.claim(worker, codes, limit, limits)).runs]


async def _next_at(b: Bench, worker: str, *limits: Limit) -> int | None:
    claimed = await b.storage.claim(worker, (FLOW,), 100, limits)
    equal(claimed.runs, [])
    return claimed.next_at


async def _release(b: Bench, run_id: str, **fields: Any) -> None:
    """Its holder gives it up: it has ended, unless `fields` say otherwise."""
    header = await b.header(run_id)
    stand: dict[str, Any] = {"status": RunStatus.COMPLETED, "wake_at": None, "release": True, "records": ()}
    await b.commit(header, **{**stand, **fields})


async def _ended(b: Bench, run_id: str, lane: str) -> None:
    await b.held(run_id, f"ender-of-{run_id}", lane=lane)
    await _release(b, run_id)


async def _rows(b: Bench, *run_ids: str, **fields: Any) -> None:
    """Runs that are due one after the other."""
    for run_id in run_ids:
        await b.create(run_id, **fields)
        await b.clock.advance(1)


async def _parked(b: Bench, *run_ids: str) -> list[str]:
    return [run_id for run_id in run_ids if (await b.header(run_id)).parked]


# --- how many at once


@CHECKS
async def a_claim_takes_no_more_of_a_workflow_than_it_has_room_for(b: Bench) -> None:
    """Contract 23: and more of others; what is left counts for no `next_at`, since this claim could not take it."""
    await b.worker("w")
    await _rows(b, "a", "b", "c")
    await b.create("d", workflow="other")
    claimed = await b.storage.claim("w", (FLOW, OTHER), 100, [Limit("flow", room=2)])
    equal(([run.header.run_id for run in claimed.runs], claimed.next_at), (["a", "b", "d"], None))
    equal(await _claimed(b, "w", Limit("flow", room=2), limit=1), ["c"])


@CHECKS
async def no_more_are_held_at_a_time_than_the_limit_says(b: Bench) -> None:
    """Contract 23: by all workers together, whatever they were leased for; of each workflow by itself, all its versions together."""
    await b.worker("v")
    await b.held("direct", "w")
    await b.create("newer", version="2", owner="w")
    await _rows(b, "a", "b", "c")
    four = Limit("flow", concurrency=4)
    claimed = await b.storage.claim("v", (FLOW, NEXT), 1, [four])
    equal(([run.header.run_id for run in claimed.runs], claimed.next_at is not None), (["a"], True))
    claimed = await b.storage.claim("w", (FLOW,), 100, [four])
    equal(([run.header.run_id for run in claimed.runs], claimed.next_at), (["b"], None))
    equal(await _next_at(b, "v", four), None)
    await b.create("foreign", workflow="other")
    equal(await _claimed(b, "v", four, codes=(FLOW, OTHER)), ["foreign"])
    await _release(b, "newer")
    equal(await _claimed(b, "v", four), ["c"])
    equal(await _claimed(b, "v", Limit("flow", concurrency=4)), [])


@CHECKS
async def what_rests_leaves_its_place_to_others(b: Bench) -> None:
    """Contract 23: a run counts while somebody holds it. What a dead worker held is free, and goes on within the limit."""
    await b.worker("w")
    await b.worker("dead", 10 * SECOND)
    one = Limit("flow", concurrency=1)
    await _rows(b, "a", "b")
    equal(await _claimed(b, "w", one), ["a"])
    await _release(b, "a", status=RunStatus.SUSPENDED)
    equal(await _claimed(b, "dead", one), ["b"])
    equal(await _claimed(b, "w", one), [])
    await b.clock.advance(10)
    equal(await _claimed(b, "w", one), ["b"])


@CHECKS
async def who_waits_for_a_place_hears_that_one_is_free(b: Bench) -> None:
    """Contract 23: by `changed`, whoever gives up a run, and how."""
    await b.worker("w")
    one = Limit("flow", concurrency=1)
    await b.held("a", "v")
    await b.create("b")
    equal(await _next_at(b, "w", one), None)
    count = await b.storage.changed(-1, 0)
    await _release(b, "a", status=RunStatus.SUSPENDED)
    true(await b.storage.changed(count, 0) != count, "a run was given up, and nobody was told")
    equal(await _claimed(b, "w", one), ["b"])


# --- per lane


@CHECKS
async def a_lane_that_is_full_is_in_no_others_way(b: Bench) -> None:
    """Contract 24: one of each at a time; the others are parked, and taken in their order as it is their turn."""
    await b.worker("w")
    await b.worker("v")
    for at, run_id in enumerate(("a1", "a2", "a3", "b1", "b2", "c1")):
        await b.create(run_id, lane=run_id[0], delay=1 + at)
    await b.create("free", delay=9)
    await b.clock.advance(1)
    equal(await _claimed(b, "w", ONE), ["a1", "b1", "c1", "free"])
    equal(await _parked(b, "a1", "a2", "a3", "b1", "b2", "c1"), ["a2", "a3", "b2"])
    equal(await _next_at(b, "v", ONE), None)
    await _release(b, "a1")
    equal(await _parked(b, "a2", "a3"), ["a3"])
    equal(await _claimed(b, "v", ONE), ["a2"])
    await _release(b, "a2", status=RunStatus.SUSPENDED, wake_at=b.now)
    equal(await _claimed(b, "w", ONE), ["a3"])
    await _release(b, "b1")
    await _release(b, "a3")
    equal(await _claimed(b, "w", ONE), ["b2", "a2"])


@CHECKS
async def a_lane_may_have_more_than_one(b: Bench) -> None:
    """Contract 24: a claim that takes one lets another in while there is room, itself or for the next."""
    await b.worker("w")
    await b.worker("v")
    two = Limit("flow", per_key=2)
    await _rows(b, "a1", "a2", "a3", "a4", lane="a")
    equal(await _claimed(b, "w", two, limit=1), ["a1"])
    equal(await _claimed(b, "v", two), ["a2"])
    equal(await _claimed(b, "v", two), [])
    await _release(b, "a1")
    equal(await _claimed(b, "v", two), ["a3"])
    await _release(b, "a2")
    await _release(b, "a3")
    equal(await _claimed(b, "v", two), ["a4"])


@CHECKS
async def a_limit_that_is_raised_or_gone_is_followed(b: Bench) -> None:
    """Contract 24, I15: with the next run of the lane that is taken, all that there is room for."""
    await b.worker("w")
    await _rows(b, *"abcdefgh", lane="k")
    equal(await _claimed(b, "w", ONE), ["a"])
    await _release(b, "a")
    equal(await _claimed(b, "w", Limit("flow", per_key=3)), ["b", "c", "d"])
    await _release(b, "b")
    equal(await _claimed(b, "w", Limit("flow", per_key=1)), [])
    await _release(b, "c")
    await _release(b, "d")
    equal(await _claimed(b, "w", limit=1), ["e"])
    equal(await _claimed(b, "w"), ["f", "g", "h"])


@CHECKS
async def the_most_urgent_of_a_lane_is_let_in(b: Bench) -> None:
    """Contract 24, D29: in the order of claims, in which a level of priority is worth a minute."""
    await b.worker("w")
    for run_id, priority, delay in (("late", 0, 2), ("low", -1, 1), ("early", 0, 1), ("high", 2, 3), ("equal", 1, MINUTE + 2)):
        await b.create(run_id, lane="k", priority=priority, delay=delay)
    await b.clock.advance(61)
    order = await _claimed(b, "w", ONE)
    for _ in range(4):
        await _release(b, order[-1])
        order += await _claimed(b, "w", ONE)
    equal(order, ["high", "early", "equal", "late", "low"])


@CHECKS
async def whoever_gives_up_a_run_lets_the_next_in(b: Bench) -> None:
    """Contract 24, I15: by a commit, by leaving, by dying, by forgetting one that is held, or one that was next itself."""
    await b.worker("w")
    for worker in ("leaver", "dead"):
        await b.worker(worker, 10 * SECOND)
    for number, worker in enumerate(("leaver", "dead")):
        for delay, run_id in enumerate((f"first{number}", f"next{number}")):
            await b.create(run_id, lane=f"lane-{worker}", delay=1 + delay)
        await b.clock.advance(1)
        equal(await _claimed(b, worker, ONE, limit=1), [f"first{number}"])
        equal(await _claimed(b, "w", ONE), [])
        equal(await _parked(b, f"next{number}"), [f"next{number}"])
        if worker == "leaver":
            await b.storage.unregister(worker)
        else:
            await b.clock.advance(10)
        equal(await _claimed(b, "w", ONE), [f"next{number}"])
        await _release(b, f"next{number}")
        equal(await _claimed(b, "w", ONE), [f"first{number}"])
    await _ended(b, "ended", "gone")
    await b.storage.take("ended", "w", ended=True)
    await b.create("waits", lane="gone", delay=1)
    await b.clock.advance(1)
    equal(await _claimed(b, "w", ONE), [])
    equal(await _parked(b, "waits"), ["waits"])
    await b.storage.delete("ended")
    equal(await _claimed(b, "w", ONE), ["waits"])


@CHECKS
async def forgetting_the_one_whose_turn_it_is_lets_the_next_in(b: Bench) -> None:
    """Contract 24, I15: an ended run is due where its parent wants it undone; whoever forgets it must not strand its lane."""
    await b.worker("w")
    await _ended(b, "ended", "k")
    header = await b.held("teller", "v")
    await b.commit(header, posts=(sent("ended", "unwind"),))
    await b.create("holds", lane="k", owner="w")
    await b.create("waits", lane="k", delay=1)
    await b.clock.advance(1)
    equal(await _claimed(b, "w", ONE), [])
    equal(await _parked(b, "ended", "waits"), ["ended", "waits"])
    await _release(b, "holds")
    await b.storage.delete("ended")
    equal(await _claimed(b, "w", ONE), ["waits"])


@CHECKS
async def a_run_that_no_worker_here_can_take_strands_nobody(b: Bench) -> None:
    """Contract 24, I15: one is let in of each version, of all with the same misfits, and of what has begun and has not."""
    await b.worker("w")
    await b.held("first", "v", lane="k")
    await b.create("newer", lane="k", version="2")
    await b.create("fits", lane="k", delay=1)
    parker = await b.worker("x")
    header = (await b.create("misfit", lane="k", owner=parker)).header
    await b.commit(header, status=RunStatus.BLOCKED, misfits=("s",), wake_at=0, release=True)
    await b.clock.advance(1)
    equal(await _claimed(b, "w", ONE, codes=(FLOW, NEXT, ("flow", "1", "t"))), [])
    equal(await _parked(b, "newer", "fits", "misfit"), ["newer", "fits", "misfit"])
    await _release(b, "first")
    equal(await _parked(b, "newer", "fits", "misfit"), [])
    equal(await _claimed(b, "w", ONE), ["fits"])
    equal(await _claimed(b, "w", ONE, codes=(FLOW, NEXT, ("flow", "1", "t"))), [])
    equal(await _parked(b, "newer", "misfit"), ["newer", "misfit"])


@CHECKS
async def a_parked_run_can_be_taken_and_told(b: Bench) -> None:
    """Contract 24, 7: `take` and a poster pay no attention to lanes; a posting alone leaves it where it is, and is kept."""
    await b.worker("w")
    await b.held("first", "v", lane="k")
    for run_id in ("taken", "posted", "told"):
        await b.create(run_id, lane="k", delay=1)
    await b.clock.advance(1)
    equal(await _claimed(b, "w", ONE), [])
    equal(await _parked(b, "taken", "posted", "told"), ["taken", "posted", "told"])
    await b.storage.take("taken", "w")
    await b.post("posted", taker="w")
    await b.post("told")
    equal(await _parked(b, "taken", "posted", "told"), ["told"])
    equal(await _claimed(b, "w", ONE), [])
    for run_id in ("first", "taken", "posted"):
        await _release(b, run_id, inbox_seq=int(run_id == "posted"))
    equal(await _claimed(b, "w", ONE), ["told"])
    equal(len((await b.load("told")).postings), 1)


@CHECKS
async def a_new_run_waits_behind_those_of_its_lane(b: Bench) -> None:
    """Contract 24: without a claim having to meet it, unless it is more urgent, of another version, or due later."""
    await b.create("first", lane="k")
    await b.clock.advance(1)
    for run_id, fields in (
        ("second", {}), ("urgent", {"priority": 1}), ("newer", {"version": "2"}), ("later", {"delay": 1}), ("other", {"lane": "l"}),
        ("foreign", {"workflow": "other"}), ("soon", {"lane": "m", "priority": 100, "delay": 1}), ("now", {"lane": "m"}),
    ):  # fmt: skip
        await b.create(run_id, **{"lane": "k", **fields})
    equal(await _parked(b, "first", "second", "urgent", "newer", "later", "other", "foreign", "soon", "now"), ["second"])
    header = await b.held("parent", "w")
    child = new_run("child", b.now, lane="k", parent="parent")
    await b.commit(header, children=(child,))
    equal(await _parked(b, "child"), ["child"])
    equal(await _claimed(b, "w", ONE), ["urgent", "now", "other"])
    equal(await _parked(b, "first", "second", "child"), ["first", "second", "child"])


@CHECKS
async def lanes_are_of_one_workflow(b: Bench) -> None:
    """Contract 24: the same name in another is another lane."""
    await b.worker("w")
    await b.create("a", lane="k")
    await b.create("b", lane="k", workflow="other")
    equal(await _claimed(b, "w", ONE, Limit("other", per_key=1), codes=(FLOW, OTHER)), ["a", "b"])


@CHECKS
async def however_many_are_parked_the_others_come_to_their_turn(b: Bench) -> None:
    """Contract 23, 24: a claim does a bounded part of it, and says by its `next_at` that it is not through."""
    await b.worker("w")
    await b.held("first", "v", lane="k")
    await asyncio.gather(*[b.create(f"r{number}", lane="k", delay=1) for number in range(1200)])
    await b.create("other", lane="l", delay=2)
    await b.clock.advance(1)
    got: list[str] = []
    claims = 0
    while claims < 100:
        claims += 1
        claimed = await b.storage.claim("w", (FLOW,), 100, [ONE])
        got += [run.header.run_id for run in claimed.runs]
        if claimed.next_at is None:
            break
        equal((claimed.next_at, claimed.now), (b.now, b.now))
    else:
        raise AssertionError("99 claims did not come through 1200 runs")
    true(claims > 1, "one claim parked 1200 runs: no bound is to be seen")
    equal((got, len(await _parked(b, *[f"r{number}" for number in range(1200)]))), (["other"], 1200))


# --- how many in a time


@CHECKS
async def no_more_begin_in_any_period_than_the_rate_says(b: Bench) -> None:
    """Contract 23: whoever claims them; `next_at` is when there is room again."""
    await b.worker("w")
    await b.worker("v")
    rate = Limit("flow", rate=(3, 10 * SECOND))
    start = b.now
    await asyncio.gather(*[b.create(f"r{number}") for number in range(9)])
    equal(len(await _claimed(b, "w", rate, limit=2)), 2)
    await b.clock.advance(4)
    claimed = await b.storage.claim("v", (FLOW,), 100, [rate])
    equal((len(claimed.runs), claimed.next_at), (1, start + 10 * SECOND))
    await b.clock.advance(6)
    claimed = await b.storage.claim("v", (FLOW,), 1, [rate])
    equal((len(claimed.runs), claimed.next_at is not None), (1, True))
    claimed = await b.storage.claim("v", (FLOW,), 100, [rate])
    equal((len(claimed.runs), claimed.next_at), (1, start + 14 * SECOND))
    equal(await _next_at(b, "w", rate), start + 14 * SECOND)
    await b.clock.advance(3.999999)
    equal(await _next_at(b, "w", rate), start + 14 * SECOND)
    await b.clock.advance(0.000001)
    equal(len(await _claimed(b, "w", rate)), 1)


@CHECKS
async def a_rate_is_about_the_first_time_alone(b: Bench) -> None:
    """Contract 23: what has begun goes on, and does not wait behind what has not."""
    await b.worker("w")
    rate = Limit("flow", rate=(1, 10 * SECOND))
    await b.create("first")
    equal(await _claimed(b, "w", rate), ["first"])
    await b.create("second", priority=100)
    await _release(b, "first", status=RunStatus.SUSPENDED, wake_at=b.now)
    equal(await _claimed(b, "w", rate), ["first"])
    await b.create("foreign", workflow="other")
    equal(await _claimed(b, "w", rate, Limit("other", rate=(1, 10 * SECOND)), codes=(FLOW, OTHER)), ["foreign"])
    await b.create("later", delay=20 * SECOND)
    equal(await _next_at(b, "w", rate), b.now + 10 * SECOND)
    await b.clock.advance(10)
    equal(await _claimed(b, "w", rate), ["second"])
    equal(await _next_at(b, "w", rate), b.now + 10 * SECOND)


@CHECKS
async def what_somebody_has_held_takes_no_place_in_the_rate(b: Bench) -> None:
    """Contract 23: nor where it is due again at the instant at which it was due first."""
    await b.worker("w")
    rate = Limit("flow", rate=(1, 10 * SECOND))
    await b.create("first")
    await b.storage.take("first", "w")
    await _release(b, "first", status=RunStatus.SUSPENDED, wake_at=b.now)
    equal(await _claimed(b, "w", rate, limit=1), ["first"])
    await b.create("second")
    equal(await _claimed(b, "w", rate), ["second"])


@CHECKS
async def what_begins_in_a_call_counts_for_the_rate(b: Bench) -> None:
    """Contract 23: a run that is made with an owner and a rate is not held up, and takes a place."""
    await b.worker("w")
    rate = (2, 10 * SECOND)
    limit = Limit("flow", rate=rate)
    await b.create("waits")
    for run_id in ("one", "two", "three"):
        await b.create(run_id, owner="w", rate=rate)
    equal(await _next_at(b, "w", limit), b.now + 10 * SECOND)
    await b.create("uncounted", owner="w")
    await b.create("not-yet", rate=rate)
    await b.clock.advance(10)
    equal(sorted(await _claimed(b, "w", limit)), ["not-yet", "waits"])


@CHECKS
async def a_high_rate_is_kept_too(b: Bench) -> None:
    """Contract 23: more starts than a storage tells apart by their instants are never more than the rate allows."""
    await b.worker("w")
    rate = (1500, SECOND)
    for number in range(1500):
        await b.create(f"o{number}", owner="w", rate=rate)
        await b.clock.advance(0.0001)
    await b.create("a")
    await b.create("b")
    claimed = await b.storage.claim("w", (FLOW,), 100, [Limit("flow", rate=rate)])
    equal(claimed.runs, [])
    next_at = claimed.next_at
    true(next_at is not None and b.now < next_at <= b.now + SECOND - 150_000 + 3000, f"it has room again at {next_at}, it is {b.now}")
    await asyncio.gather(*[b.create(f"w{number}") for number in range(20)])
    await b.clock.advance(0.85)
    true(len(await _claimed(b, "w", Limit("flow", rate=rate))) <= 1, "it is one second since the first began, and no more than that one")
    await b.clock.advance(0.01)
    true(len(await _claimed(b, "w", Limit("flow", rate=rate))) > 1, "a hundred began more than a second ago")


@CHECKS
async def what_the_rate_holds_back_does_not_hold_up_its_lane(b: Bench) -> None:
    """Contract 24, I15: one that has begun is let in beside one that has not, which waits for the rate."""
    await b.worker("w")
    both = Limit("flow", per_key=1, rate=(2, MINUTE))
    await _rows(b, "a", "b", lane="k")
    equal(await _claimed(b, "w", both), ["a"])
    await _release(b, "a", status=RunStatus.SUSPENDED, wake_at=b.now + SECOND)
    equal(await _claimed(b, "w", both), ["b"])
    await b.create("c", lane="k", priority=100)
    await b.clock.advance(2)
    equal(await _claimed(b, "w", both), [])
    equal(await _parked(b, "a", "c"), ["a"])
    await _release(b, "b")
    equal(await _claimed(b, "w", both), ["a"])


# --- deduplication keys


@CHECKS
async def a_deduplication_key_is_taken_until_its_run_has_ended(b: Bench) -> None:
    """Contract 2: then it is free, for good: a run that goes on again does not have it back. It is of one workflow."""
    await b.worker("w")
    first = await b.create("a", deduplication_key="k")
    shows(first.header, deduplication_key="k")
    again = await b.create("b", deduplication_key="k", input_digest="other", owner="w")
    equal((again.fresh, again.header), (False, await b.header("a")))
    true((await b.create("c", deduplication_key="k", workflow="other")).fresh, "the key is taken by another workflow's run")
    true((await b.create("d", deduplication_key="l")).fresh, "another key is taken")
    await b.storage.take("a", "w")
    await _release(b, "a", status=RunStatus.SUSPENDED)
    true(not (await b.create("e", deduplication_key="k")).fresh, "the key of a run that is suspended is free")
    await b.storage.take("a", "w")
    await _release(b, "a", records=(), release=False)
    shows(await b.header("a"), status=RunStatus.COMPLETED, deduplication_key=None)
    second = await b.create("f", deduplication_key="k")
    true(second.fresh, "the key of a run that has ended is taken")
    await b.commit(await b.header("a"), status=RunStatus.RUNNING)
    shows(await b.header("a"), status=RunStatus.RUNNING, deduplication_key=None)
    equal((await b.create("g", deduplication_key="k")).header.run_id, "f")


@CHECKS
async def a_deduplication_key_comes_last(b: Bench) -> None:
    """Contract 2: what an idempotency key or an id says goes before it; a child has none."""
    await b.create("a", idempotency_key="i")
    await b.create("b", deduplication_key="k")
    equal((await b.create("c", idempotency_key="i", deduplication_key="k")).header.run_id, "a")
    equal((await b.create("a", deduplication_key="k")).header.run_id, "a")
    equal((await b.create("c", idempotency_key="j", deduplication_key="k")).header.run_id, "b")
    header = await b.held("parent", "w")
    await b.commit(header, children=(new_run("child", b.now, parent="parent", deduplication_key="k"),))
    shows(await b.header("child"), deduplication_key=None)


@CHECKS
async def of_creates_at_once_one_makes_the_run(b: Bench) -> None:
    """Contract 2: under a deduplication key, as under the others."""
    created = await asyncio.gather(*[b.create(f"r{number}", deduplication_key="k") for number in range(8)])
    equal(sum(one.fresh for one in created), 1)
    equal(len({one.header.run_id for one in created}), 1)


@CHECKS
async def heads_say_which_lane_and_key_they_have(b: Bench) -> None:
    """Contract 24: in every reply that has a head, and after each commit."""
    await b.worker("w", LEASE)
    header = (await b.create("r", lane="k/é", owner="w", deduplication_key="d")).header
    shows(header, lane="k/é", parked=False, deduplication_key="d")
    await b.commit(header)
    shows(await b.header("r"), lane="k/é", parked=False, deduplication_key="d")

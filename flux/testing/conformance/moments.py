"""Checks of waiting (`changed`), of time (contract 12), and of callers that are cancelled (contract 15)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ...core.status import RunStatus
from ...storage import Row
from .kit import LEASE, SECOND, Bench, Checks, commit_of, created_record, equal, patiently, step, true, turns

CHECKS = Checks()

# --- changed


@CHECKS
async def changed_answers_at_once_when_the_count_is_another(b: Bench) -> None:
    """A caller that starts with -1, or that missed something, does not wait."""
    count = await patiently(b.storage.changed(-1, 3600))
    await b.create("r")
    newer = await patiently(b.storage.changed(count, 3600))
    true(newer != count, "a new run is a change")
    equal(await patiently(b.storage.changed(count, 3600)), newer)


@CHECKS
async def changed_gives_up_after_its_timeout(b: Bench) -> None:
    """The count comes back as it was; a clock that stands still does not keep it (it is a poll)."""
    count = await patiently(b.storage.changed(-1, 3600))
    equal(await patiently(b.storage.changed(count, 0.001)), count)
    equal(await patiently(b.storage.changed(count, 0)), count)


async def _wakes(b: Bench, what: str, act: Callable[[], Awaitable[object]]) -> None:
    count = await patiently(b.storage.changed(-1, 3600))
    waiters = [asyncio.ensure_future(b.storage.changed(count, 3600)) for _ in range(3)]
    await turns()
    await act()
    for waiter in waiters:
        true(await patiently(waiter) != count, what)


@CHECKS
async def changed_wakes_all_who_wait(b: Bench) -> None:
    """On what a worker can claim, and on what somebody waits to see: create, post, release, end, a worker that leaves."""
    await b.worker("w")
    await b.worker("v")
    await _wakes(b, "create", lambda: b.create("r"))
    await b.claim("w")
    await _wakes(b, "post", lambda: b.post("r"))
    header = await b.header("r")
    await _wakes(b, "release", lambda: b.commit(header, release=True))
    await b.claim("w")
    header = await b.header("r")
    await _wakes(b, "end", lambda: b.commit(header, status=RunStatus.COMPLETED, wake_at=None))
    await b.create("s", owner="w")
    await _wakes(b, "unregister", lambda: b.storage.unregister("w"))


@CHECKS
async def changed_wakes_when_a_dead_worker_is_condemned(b: Bench) -> None:
    """I16: whoever waits for a run of it can go on."""
    await b.held("r")
    await b.clock.advance(LEASE / SECOND)
    await b.worker("v")
    await _wakes(b, "condemned", lambda: b.claim("v", codes=()))


@CHECKS
async def a_cancelled_wait_leaves_the_others_waiting(b: Bench) -> None:
    """Contract 15: one waiter goes, the others are woken."""
    count = await patiently(b.storage.changed(-1, 3600))
    waiters = [asyncio.ensure_future(b.storage.changed(count, 3600)) for _ in range(3)]
    await turns()
    waiters[1].cancel()
    await turns()
    await b.create("r")
    replies = await patiently(asyncio.gather(*waiters, return_exceptions=True))
    true(isinstance(replies[1], asyncio.CancelledError), "the cancelled one is cancelled")
    true(replies[0] != count and replies[2] != count, "the others are woken")


# --- time


@CHECKS
async def every_reply_says_what_time_it_is(b: Bench) -> None:
    """Contract 12, D16."""
    equal(await b.storage.register("w", LEASE), b.now)
    header = (await b.create("r", owner="w")).header
    await b.clock.advance(1)
    equal(await b.storage.now(), b.now)
    replies: list[Any] = [
        await b.create("r"), await b.create("s"), await b.commit(header), await b.post("r"), await b.claim("w"),
        await b.storage.renew("w", LEASE), await b.commit(header, position=2), await b.storage.renew("nobody", LEASE),
    ]  # fmt: skip
    equal([reply.now for reply in replies], [b.now] * len(replies))


@CHECKS
async def time_never_runs_backwards(b: Bench) -> None:
    """Contract 12, D16, I19: a clock that is set back changes nothing until it has caught up."""
    await b.worker("w")
    await b.clock.advance(100)
    last = await b.storage.now()
    b.clock.set_back(60 * SECOND)
    equal(await b.storage.now(), last)
    created = await b.create("r", at=last)
    equal((created.now, created.header.wake_at), (last, last))
    equal((await b.post("r")).now, last)
    equal((await b.load("r")).postings[0].at, last)
    equal((await b.storage.renew("w", LEASE)).now, last)
    equal(await b.claimed("w"), ["r"])
    await b.clock.advance(61)
    equal(await b.storage.now(), last + SECOND)


# --- cancelled callers


async def _cut(call: Coroutine[Any, Any, object], turn: int) -> None:
    """Begin a call and cancel it after so many turns of the loop; returns when the caller is gone."""
    task = asyncio.ensure_future(call)
    await turns(turn)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@CHECKS
async def a_cancelled_create_makes_all_of_a_run_or_nothing(b: Bench) -> None:
    """Contract 15, S15.6: cut at any moment; a second call settles it."""
    dice = random.Random(1)
    for number in range(30):
        await _cut(b.create(f"r{number}", idempotency_key=f"k{number}"), dice.randrange(12))
    for number in range(30):
        await b.create(f"r{number}", idempotency_key=f"k{number}")
        run = await b.load(f"r{number}")
        equal((run.rows, run.header.position), ([Row(1, 0, b.now, (created_record(),))], 1))
    await b.worker("w")
    equal(len(await b.claimed("w")), 30)


@CHECKS
async def a_cancelled_commit_writes_all_or_nothing(b: Bench) -> None:
    """Contract 15, 4: the state is the old or the new one, never between, and the same commit settles it."""
    dice = random.Random(2)
    await b.worker("w")
    for number in range(30):
        run_id = f"r{number}"
        header = (await b.create(run_id, owner="w")).header
        await b.post(run_id)
        commit = commit_of(header, b.now, inbox_seq=1, consumed=(1,), status=RunStatus.SUSPENDED, wake_at=None, waiting=("go",))
        await _cut(b.storage.commit(commit), dice.randrange(12))
        run = await b.load(run_id)
        shown = (run.header.position, len(run.rows), len(run.postings), run.header.status, run.header.waiting)
        true(shown in ((1, 1, 1, RunStatus.PENDING, ()), (2, 2, 0, RunStatus.SUSPENDED, ("go",))), f"a commit was cut in two: {shown}")
        equal((await b.storage.commit(commit)).postings, ())
        run = await b.load(run_id)
        equal((run.header.position, [row.records for row in run.rows[1:]], run.postings), (2, [step()], []))


@CHECKS
async def a_cancelled_post_is_kept_whole_or_not_at_all(b: Bench) -> None:
    """Contract 15, I25: number, posting and wake-up belong together; the same signal again counts once."""
    dice = random.Random(3)
    for number in range(30):
        run_id = f"r{number}"
        await b.parked(run_id)
        await _cut(b.post(run_id, "a"), dice.randrange(12))
        run = await b.load(run_id)
        shown = (run.header.inbox_seq, len(run.postings), run.header.wake_at)
        true(shown in ((0, 0, None), (1, 1, b.now)), f"a posting was cut in two: {shown}")
        equal((await b.post(run_id, "a")).seq, 1)
        equal(len((await b.load(run_id)).postings), 1)


@CHECKS
async def a_cancelled_claim_leaves_runs_free_or_leased(b: Bench) -> None:
    """Contract 15, I15: what was leased comes back when its worker goes."""
    dice = random.Random(4)
    for number in range(20):
        await b.create(f"r{number}")
        await b.worker(f"w{number}")
        await _cut(b.claim(f"w{number}"), dice.randrange(12))
        header = (await b.load(f"r{number}")).header
        true((header.owner, header.epoch) in ((None, 0), (f"w{number}", 1)), f"a claim was cut in two: {header}")
        await b.storage.unregister(f"w{number}")
    await b.worker("w")
    equal(len(await b.claimed("w")), 20)


@CHECKS
async def cancelled_readers_are_in_nobodys_way(b: Bench) -> None:
    """Contract 15: reads that are cut leave the storage as usable as before."""
    dice = random.Random(5)
    await b.create("r")
    for _ in range(30):
        await _cut(b.storage.load("r"), dice.randrange(8))
        await _cut(b.storage.read_header("r"), dice.randrange(8))
    equal((await b.load("r")).header.run_id, "r")
    true((await b.create("s")).fresh, "writing goes on")

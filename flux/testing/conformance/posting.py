"""Checks of contract 7: what is accepted is kept, numbered, and wakes the run."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ...core.commands import Posting
from ...core.status import RunStatus
from ...errors import InboxFull, LeaseLost, RunFinished, RunNotFound
from ...storage import NewPosting
from .kit import LEASE, SECOND, Bench, Checks, commit_of, equal, posting, refused, shows, signal, turns

CHECKS = Checks()


@CHECKS
async def postings_are_numbered_in_order_of_acceptance(b: Bench) -> None:
    """Contract 7, I22, I24: signals and cancels in one sequence, with what they were sent with."""
    header = (await b.create("r")).header
    first = b.now
    posted = await b.storage.post("r", NewPosting("signal", "go", '"a"', "id-1"))
    equal((posted.seq, posted.fresh, posted.now, posted.run), (1, True, b.now, None))
    equal(posted.header, replace(header, inbox_seq=1))
    await b.clock.advance(1)
    equal((await b.storage.post("r", NewPosting("cancel", "cancel", "[1]"))).seq, 2)
    equal((await b.storage.post("r", NewPosting("signal", "other", "2"))).seq, 3)
    kept = [Posting(1, "signal", "go", '"a"', "id-1", first), Posting(2, "cancel", "cancel", "[1]", None, b.now)]
    equal((await b.load("r")).postings, [*kept, Posting(3, "signal", "other", "2", None, b.now)])


@CHECKS
async def a_known_signal_id_is_accepted_without_effect(b: Bench) -> None:
    """Contract 7, D25, S7.2: while it is pending, after it was taken, and after the run has ended."""
    header = await b.held("r")
    await b.post("r", "a")
    await b.post("r", "b")
    before = await b.load("r")
    again = await b.post("r", "a")
    equal((again.seq, again.fresh, again.header), (1, False, before.header))
    await b.unchanged("r", before)
    await b.commit(header, inbox_seq=2, consumed=(1,))
    before = await b.load("r")
    equal(((await b.post("r", "a")).seq, (await b.post("r", "b")).seq), (1, 2))
    await b.unchanged("r", before)
    await b.commit(before.header, status=RunStatus.COMPLETED, wake_at=None, release=True)
    before = await b.load("r")
    equal(((await b.post("r", "a")).fresh, (await b.post("r", "b")).fresh), (False, False))
    await b.unchanged("r", before)


@CHECKS
async def signal_ids_belong_to_their_run(b: Bench) -> None:
    """D25: another run may have a signal with the same id, and a deleted run's ids are forgotten with it."""
    await b.ended("r")
    await b.create("s")
    await b.create("t")
    equal(((await b.post("s", "a")).fresh, (await b.post("t", "a")).fresh), (True, True))
    await b.parked("u")
    await b.post("u", "a")
    await b.worker("w")
    equal((await b.storage.take("u", "w") or await b.load("r")).header.run_id, "u")
    await b.commit(await b.header("u"), status=RunStatus.FAILED, wake_at=None)
    await b.storage.delete("u")
    await b.create("u")
    equal((await b.post("u", "a")).fresh, True)


@CHECKS
async def an_ended_run_accepts_nothing_new(b: Bench) -> None:
    """S7.4: RunFinished for signals and cancels, held or not, and nothing is kept."""
    await b.ended("r")
    held = await b.held("s")
    await b.commit(held, status=RunStatus.CANCELLED, wake_at=None)
    for run_id in ("r", "s"):
        before = await b.load(run_id)
        await refused(RunFinished, b.post(run_id, "a"))
        await refused(RunFinished, b.storage.post(run_id, NewPosting("cancel", "cancel", "null")))
        await refused(RunFinished, b.post(run_id, taker="w"))
        await b.unchanged(run_id, before)


@CHECKS
async def a_posting_needs_its_run(b: Bench) -> None:
    """S7.4: RunNotFound for an unknown id, and where the run is of another workflow than the sender says."""
    await refused(RunNotFound, b.post("r"))
    await b.create("r")
    before = await b.load("r")
    await refused(RunNotFound, b.post("r", workflow="other"))
    await b.unchanged("r", before)
    equal((await b.post("r", workflow="flow")).seq, 1)
    await b.ended("s")
    await refused(RunNotFound, b.post("s", workflow="other"))


@CHECKS
async def a_full_inbox_refuses_signals_and_never_a_cancel(b: Bench) -> None:
    """S15.7, D25: InboxFull at the sender; what was taken does not count; a known id is no new signal."""
    header = await b.held("r")
    for number in range(3):
        await b.storage.post("r", signal("go", signal_id=f"id-{number}", limit=3))
    before = await b.load("r")
    await refused(InboxFull, b.storage.post("r", signal("go", limit=3)))
    await refused(InboxFull, b.storage.post("r", signal("go", signal_id="new", limit=2)))
    await b.unchanged("r", before)
    equal((await b.storage.post("r", signal("go", signal_id="id-1", limit=3))).fresh, False)
    equal((await b.storage.post("r", NewPosting("cancel", "cancel", "null", limit=3))).seq, 4)
    await b.commit(header, inbox_seq=4, consumed=(1, 2, 4))
    equal((await b.storage.post("r", signal("go", signal_id="new", limit=2))).seq, 5)
    await refused(InboxFull, b.storage.post("r", signal("go", limit=2)))


@CHECKS
async def a_posting_makes_a_free_run_claimable_now(b: Bench) -> None:
    """Contract 7, I15, I25: a run that waited for nothing but this, and one whose timer is far."""
    await b.parked("r", wake_at=None)
    await b.parked("s", wake_at=b.now + 1000 * SECOND)
    await b.worker("w")
    equal(await b.claimed("w"), [])
    await b.clock.advance(1)
    for run_id in ("r", "s"):
        shows((await b.post(run_id)).header, wake_at=b.now, inbox_seq=1, owner=None)
    claimed = await b.claim("w")
    equal({run.header.run_id: run.postings for run in claimed.runs}, {"r": [posting(1, b.now)], "s": [posting(1, b.now)]})


@CHECKS
async def a_posting_does_not_make_a_due_run_wait_longer(b: Bench) -> None:
    """Contract 7, 9: a run that was due already keeps its place in the queue."""
    due = b.now
    await b.create("r")
    await b.clock.advance(5)
    shows((await b.post("r")).header, wake_at=due)


@CHECKS
async def a_known_signal_wakes_nobody(b: Bench) -> None:
    """Contract 7: accepted again without effect."""
    header = await b.held("r")
    await b.post("r", "a")
    await b.commit(header, inbox_seq=1, consumed=(1,), wake_at=None, release=True)
    shows((await b.post("r", "a")).header, wake_at=None, inbox_seq=1)
    equal(await b.claimed("w"), [])


@CHECKS
async def a_posting_does_not_wake_a_blocked_run(b: Bench) -> None:
    """Contract 7: it is kept, and the run stays parked."""
    await b.parked("r", status=RunStatus.BLOCKED, blocked="why", wake_at=None)
    shows((await b.post("r")).header, wake_at=None, inbox_seq=1, blocked="why")
    await b.worker("w")
    equal(await b.claimed("w"), [])
    equal((await b.load("r")).postings, [posting(1, b.now)])


@CHECKS
async def a_posting_to_a_held_run_reaches_its_holder(b: Bench) -> None:
    """Contract 7, D12, D13: the lease stays; the heartbeat says so, and the next commit brings it."""
    header = await b.held("r", wake_at=5)
    shows((await b.post("r")).header, owner="w", epoch=1, inbox_seq=1, wake_at=5)
    equal((await b.storage.renew("w", LEASE)).unseen, ("r",))
    equal((await b.commit(header)).postings, (posting(1, b.now),))


# --- with a taker


@CHECKS
async def the_poster_may_take_a_free_run(b: Bench) -> None:
    """S7.6: due or not; the reply is the run as it is taken, the posting included."""
    await b.parked("r", wake_at=b.now + 1000 * SECOND)
    await b.worker("w")
    posted = await b.post("r", taker="w")
    run = await b.load("r")
    shows(run.header, owner="w", epoch=2, inbox_seq=1)
    equal((posted.run, posted.header, posted.seq), (run, run.header, 1))
    equal(run.postings, [posting(1, b.now)])
    equal((await b.storage.renew("w", LEASE)).unseen, ())
    await b.commit(run.header, consumed=(1,))


@CHECKS
async def a_known_signal_may_take_the_run_too(b: Bench) -> None:
    """S7.6: whoever asks again may carry the run on, if it has not ended."""
    await b.parked("r")
    await b.post("r", "a")
    await b.worker("w")
    posted = await b.post("r", "a", taker="w")
    equal((posted.fresh, posted.run), (False, await b.load("r")))
    shows(posted.header, owner="w")
    await b.commit(posted.header, status=RunStatus.COMPLETED, wake_at=None, release=True)
    equal((await b.post("r", "a", taker="w")).run, None)


@CHECKS
async def the_poster_takes_no_held_and_no_blocked_run(b: Bench) -> None:
    """Contract 8: the posting is kept all the same."""
    await b.held("r", "v")
    await b.parked("s", status=RunStatus.BLOCKED, blocked="why")
    await b.worker("w")
    for run_id in ("r", "s"):
        posted = await b.post(run_id, taker="w")
        equal((posted.run, posted.seq, posted.fresh), (None, 1, True))
        equal((await b.load(run_id)).header, posted.header)
    shows(await b.header("r"), owner="v", epoch=1)
    equal((await b.post("r", taker="v")).run, None, "a run that the taker holds already")


@CHECKS
async def the_poster_takes_the_run_of_a_dead_worker(b: Bench) -> None:
    """Contract 10, I16: the dead one is condemned, and its other runs are free too."""
    header = await b.held("r", "v")
    await b.create("s", owner="v")
    await b.clock.advance(LEASE / SECOND)
    await b.worker("w")
    posted = await b.post("r", taker="w")
    equal(posted.run, await b.load("r"))
    shows(posted.header, owner="w", epoch=2)
    equal((await b.storage.renew("v", LEASE)).alive, False)
    shows(await b.header("s"), owner=None, wake_at=b.now)
    await refused(LeaseLost, b.commit(header, inbox_seq=1))


@CHECKS
async def a_dead_taker_takes_nothing_and_the_posting_is_accepted(b: Bench) -> None:
    """Contract 1, 7: no lease is needed to post, so none is lost by it."""
    await b.parked("r")
    posted = await b.post("r", taker="nobody")
    equal((posted.run, posted.seq, posted.fresh), (None, 1, True))
    shows(await b.header("r"), owner=None, inbox_seq=1, wake_at=b.now)


# --- at one moment


@CHECKS
async def concurrent_postings_are_all_kept(b: Bench) -> None:
    """Contract 1, I22: fifty senders, fifty numbers; one signal_id counts once."""
    await b.create("r")
    replies = await asyncio.gather(*(b.post("r", f"id-{number % 25}") for number in range(50)))
    equal(sorted(reply.seq for reply in replies if reply.fresh), list(range(1, 26)))
    kept = (await b.load("r")).postings
    equal([one.seq for one in kept], list(range(1, 26)))
    equal({one.signal_id: one.seq for one in kept}, {f"id-{number % 25}": reply.seq for number, reply in enumerate(replies)})


@CHECKS
async def parking_and_posting_lose_no_wake_up(b: Bench) -> None:
    """I25: whichever is first, either the holder is told of the posting, or the parked run is due."""
    await b.worker("w")
    for number in range(20):
        header = (await b.create(f"r{number}", owner="w")).header
        park = commit_of(header, b.now, status=RunStatus.SUSPENDED, wake_at=None, waiting=("go",), release=True)
        sending = asyncio.ensure_future(b.post(header.run_id))
        await turns(number % 5)
        reply = await b.storage.commit(park)
        await sending
        stands = await b.header(header.run_id)
        equal((stands.owner, stands.wake_at is None, stands.position), ("w", False, 1) if reply.postings else (None, False, 2))


@CHECKS
async def ending_and_posting_exclude_each_other(b: Bench) -> None:
    """I26, I27: either the run ended and the sender is told so, or the ending commit learns of the posting."""
    await b.worker("w")
    for number in range(20):
        header = (await b.create(f"r{number}", owner="w")).header
        end = commit_of(header, b.now, status=RunStatus.COMPLETED, wake_at=None)
        sending = asyncio.ensure_future(b.storage.post(header.run_id, NewPosting("cancel", "cancel", "null")))
        await turns(number % 5)
        reply = await b.storage.commit(end)
        sent = (await asyncio.gather(sending, return_exceptions=True))[0]
        ended = (await b.header(header.run_id)).status is RunStatus.COMPLETED
        equal((isinstance(sent, RunFinished), not reply.postings), (ended, ended))

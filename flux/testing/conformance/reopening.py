"""Checks of `take` with `ended`: a run that has ended is leased to be gone on with, and may be given back as it was."""

from __future__ import annotations

import asyncio

from ...core.records import RunCompleted
from ...core.status import RunStatus
from ...errors import LeaseLost, RunFinished, RunNotFound
from ...storage import Committed, Header
from .kit import LEASE, SECOND, Bench, Checks, equal, refused, shows, true

CHECKS = Checks()


async def _taken(b: Bench, run_id: str = "r", worker: str = "w", status: RunStatus = RunStatus.COMPLETED) -> Header:
    """A run that ended a second ago, in the hands of a new worker."""
    await b.ended(run_id, status=status)
    await b.clock.advance(1)
    await b.worker(worker)
    taken = await b.storage.take(run_id, worker, ended=True)
    if taken is None:
        raise AssertionError("an ended run that nobody holds was not leased")
    return taken.header


@CHECKS
async def an_ended_run_is_leased_on_demand(b: Bench) -> None:
    """Contract 8: with a new epoch; it is as ended as before."""
    for status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED):
        at = b.now
        header = await _taken(b, f"r-{status}", f"w-{status}", status)
        equal(header, await b.header(f"r-{status}"))
        shows(header, owner=f"w-{status}", epoch=2, status=status, ended_at=at, wake_at=None)


@CHECKS
async def each_demand_is_for_its_own_runs(b: Bench) -> None:
    """`ended` leases no blocked run, `blocked` no ended one; a run that goes on is leased with either."""
    await b.ended("ended")
    await b.parked("blocked", status=RunStatus.BLOCKED, blocked="why")
    await b.parked("parked")
    await b.worker("w")
    for run_id, blocked, ended in (("ended", True, False), ("blocked", False, True)):
        before = await b.load(run_id)
        equal(await b.storage.take(run_id, "w", blocked=blocked, ended=ended), before)
        await b.unchanged(run_id, before)
    for run_id in ("ended", "blocked", "parked"):
        equal(await b.storage.take(run_id, "w", blocked=True, ended=True), await b.load(run_id))
        shows(await b.header(run_id), owner="w", epoch=2)


@CHECKS
async def an_ended_run_has_one_taker(b: Bench) -> None:
    """Contract 8, I10: one gets it, the others None, and nothing changes by their asking."""
    await b.ended("r")
    workers = [await b.worker(f"w{number}") for number in range(5)]
    taken = await asyncio.gather(*(b.storage.take("r", worker, ended=True) for worker in workers))
    equal([run is not None for run in taken].count(True), 1)
    before = await b.load("r")
    equal((before.header.epoch, taken[workers.index(before.header.owner or "")]), (2, before))
    for worker in workers:
        equal(await b.storage.take("r", worker, ended=True), None)
    await b.unchanged("r", before)


@CHECKS
async def an_ended_run_is_not_leased_to_the_dead(b: Bench) -> None:
    """Contract 10: LeaseLost for a worker that is unknown or gone, RunNotFound for a run that is."""
    await b.ended("r")
    before = await b.load("r")
    await refused(LeaseLost, b.storage.take("r", "nobody", ended=True))
    await b.worker("w")
    await refused(RunNotFound, b.storage.take("s", "w", ended=True))
    await b.storage.unregister("w")
    await refused(LeaseLost, b.storage.take("r", "w", ended=True))
    await b.unchanged("r", before)


@CHECKS
async def a_reopened_run_goes_on(b: Bench) -> None:
    """Contract 3, 9: a live status, no `ended_at`, claimable when it is given back, and it ends anew."""
    header = await _taken(b)
    await b.commit(header, status=RunStatus.PENDING, wake_at=0, release=True)
    shows(await b.header("r"), status=RunStatus.PENDING, ended_at=None, owner=None, wake_at=b.now, position=3)
    await refused(LeaseLost, b.commit(header, records=()))
    await b.worker("v")
    equal(await b.claimed("v"), ["r"])
    equal((await b.post("r")).seq, 1)
    await b.clock.advance(1)
    seen = await b.header("r")
    await b.commit(seen, records=(RunCompleted(),), status=RunStatus.COMPLETED, wake_at=None, release=True, consumed=(1,))
    shows(await b.header("r"), status=RunStatus.COMPLETED, ended_at=b.now, position=4, epoch=3)
    equal(await b.claimed("v"), [])


@CHECKS
async def a_reopened_run_of_a_dead_worker_is_due(b: Bench) -> None:
    """Contract 10, I15: it had gone on, so it goes on."""
    header = await _taken(b)
    await b.commit(header, status=RunStatus.SUSPENDED, wake_at=None)
    await b.clock.advance(LEASE / SECOND)
    await b.worker("v")
    equal(await b.claimed("v"), ["r"])
    shows(await b.header("r"), epoch=3, ended_at=None)


@CHECKS
async def an_ended_run_is_given_back_as_it_was(b: Bench) -> None:
    """Contract 3, 5: by a commit without records; `ended_at` is the instant of the commit that ended the run."""
    header = await _taken(b)
    equal(await b.commit(header, records=(), status=RunStatus.COMPLETED, wake_at=None, release=True), Committed(b.now))
    header.owner = None
    equal(await b.header("r"), header)
    await b.worker("v")
    claimed = await b.claim("v")
    equal((claimed.runs, claimed.next_at), ([], None))
    await refused(RunFinished, b.post("r"))
    true(await b.storage.take("r", "v", ended=True) is not None, "it can be taken again")


@CHECKS
async def a_run_may_be_reopened_and_end_in_one_commit(b: Bench) -> None:
    """Contract 3: a commit with records and an ended status is the one that ended the run."""
    header = await _taken(b, status=RunStatus.FAILED)
    await b.commit(header, records=(RunCompleted(),), status=RunStatus.COMPLETED, wake_at=None, release=True)
    shows(await b.header("r"), status=RunStatus.COMPLETED, ended_at=b.now, position=3)
    equal(await b.storage.purge(1, 9), 0)
    equal(await b.storage.purge(0, 9), 1)


@CHECKS
async def a_held_run_that_has_ended_accepts_nothing(b: Bench) -> None:
    """Contract 7: RunFinished, as for any ended run; a known signal is accepted, and takes nothing."""
    header = await b.held("r", "parker")
    await b.post("r", "known")
    await b.commit(header, inbox_seq=1, consumed=(1,), status=RunStatus.COMPLETED, wake_at=None, release=True)
    await b.worker("w")
    await b.worker("v")
    true(await b.storage.take("r", "w", ended=True) is not None, "an ended run is leased on demand")
    before = await b.load("r")
    await refused(RunFinished, b.post("r", taker="v"))
    posted = await b.post("r", "known", taker="v")
    equal((posted.header, posted.seq, posted.fresh, posted.run), (before.header, 1, False, None))
    equal(await b.claimed("v"), [])
    await b.unchanged("r", before)


@CHECKS
async def a_dead_worker_leaves_an_ended_run_ended(b: Bench) -> None:
    """Contract 10: whoever finds it dead frees the run, which is never claimable, and can be taken again."""
    for way in ("claim", "unregister"):
        at = b.now
        header = await _taken(b, way, f"w-{way}")
        if way == "claim":
            await b.clock.advance(LEASE / SECOND)
        else:
            await b.storage.unregister(f"w-{way}")
        heir = await b.worker(f"heir-{way}")
        claimed = await b.claim(heir)
        equal((claimed.runs, claimed.next_at), ([], None))
        shows(await b.header(way), owner=None, wake_at=None, status=RunStatus.COMPLETED, ended_at=at, epoch=2)
        await refused(LeaseLost, b.commit(header))
        true(await b.storage.take(way, heir, ended=True) is not None, "it can be taken again")
        shows(await b.header(way), owner=heir, wake_at=None, ended_at=at, epoch=3)


@CHECKS
async def an_ended_run_is_taken_from_a_dead_worker(b: Bench) -> None:
    """Contract 10, I16: at once; without `ended` it is shown, and nobody is condemned for it."""
    header = await _taken(b)
    await b.worker("v", 10 * LEASE)
    equal(await b.storage.take("r", "v", ended=True), None)
    await b.clock.advance(LEASE / SECOND)
    equal(await b.storage.take("r", "v"), await b.load("r"))
    shows(await b.header("r"), owner="w", epoch=2)
    taken = await b.storage.take("r", "v", ended=True)
    equal(taken, await b.load("r"))
    shows(await b.header("r"), owner="v", epoch=3, status=RunStatus.COMPLETED, wake_at=None, ended_at=header.ended_at)
    equal((await b.storage.renew("w", LEASE)).alive, False)
    await refused(LeaseLost, b.commit(header))


@CHECKS
async def a_held_run_that_has_ended_can_be_forgotten(b: Bench) -> None:
    """`delete` and `purge` ask whether a run has ended, not who holds it; its holder's commit is RunNotFound."""
    for way in ("delete", "purge"):
        header = await _taken(b, way, f"w-{way}")
        if way == "delete":
            await b.storage.delete(way)
        else:
            equal(await b.storage.purge(SECOND, 9), 1)
        equal(await b.storage.load(way), None)
        await refused(RunNotFound, b.commit(header))
        await refused(RunNotFound, b.commit(header, records=(), status=RunStatus.COMPLETED, wake_at=None, release=True))
        equal((await b.storage.renew(f"w-{way}", LEASE)).unseen, ())
        true((await b.create(way)).fresh, "its id is free")
        await refused(RunNotFound, b.commit(header))
        await b.storage.unregister(f"w-{way}")
        shows(await b.header(way), owner=None, epoch=0)

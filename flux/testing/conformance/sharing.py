"""Checks for storages whose data can be opened another time: durability, several users at once, and damaged rows."""

from __future__ import annotations

import asyncio

from ...core.status import RunStatus
from ...errors import LeaseLost, UnreadableRun
from ...storage import Query, Schedule
from .kit import FLOW, LEASE, SECOND, Bench, Checks, commit_of, equal, new_run, patiently, refused, sent, shows, step, true, turns

SHARED = Checks()
DAMAGED = Checks()


@SHARED
async def what_was_acknowledged_outlives_the_storage(b: Bench) -> None:
    """Contract 1, I22, I40: runs, rows, postings, keys, signal ids and condemned workers. (A storage that closes may take
    its live workers with it.)"""
    header = await b.held("r", idempotency_key="k")
    await b.commit(header)
    await b.post("r", "a")
    await b.parked("s", wake_at=b.now + SECOND)
    await b.worker("gone")
    await b.storage.unregister("gone")
    before = [await b.load("r"), await b.load("s")]
    await b.reopen()
    equal([await b.load("r"), await b.load("s")], before)
    equal(((await b.create("x", idempotency_key="k")).fresh, (await b.post("r", "a")).fresh), (False, False))
    equal((await b.storage.renew("gone", LEASE)).alive, False)
    await b.clock.advance(1)
    await b.worker("v")
    true("s" in await b.claimed("v"), "what was queued is claimed")


@SHARED
async def what_belongs_together_outlives_the_storage(b: Bench) -> None:
    """Contract 1, 16 to 19: parents, where a journal begins, schedules, and the revisions of those that are gone."""
    header = await b.held("r")
    await b.parked("s")
    await b.commit(header, children=(new_run("c", b.now, parent="r"),), posts=(sent("s"),), fresh=True)
    for name in ("kept", "gone"):
        await b.storage.advance(Schedule(name, *FLOW[:2], "{}", b.now, b.now, "r"))
    (gone,) = await b.storage.schedules("gone")
    await b.storage.unschedule("gone")
    before = [await b.load("r"), await b.load("s"), await b.load("c"), await b.storage.schedules()]
    await b.reopen()
    equal([await b.load("r"), await b.load("s"), await b.load("c"), await b.storage.schedules()], before)
    equal(len(await b.storage.read_journal("r")), 2)
    await b.storage.advance(Schedule("gone", *FLOW[:2], "{}", b.now))
    equal(await b.storage.advance(gone), False)


@SHARED
async def of_two_storages_one_advances_a_schedule(b: Bench) -> None:
    """Contract 19, I48: each tick once, and what it brings about."""
    other = await b.second()
    await b.storage.advance(Schedule("a", *FLOW[:2], "{}", b.now))
    await b.create("s")
    for number in range(10):
        seen = await other.schedules("a")
        equal(await b.storage.schedules(due=b.now), seen)
        done = await asyncio.gather(
            *(storage.advance(seen[0], [new_run(f"r{number}", b.now)], [sent("s")]) for storage in (b.storage, other))
        )
        equal(sorted(done), [False, True])
    shows(await b.header("s"), inbox_seq=10)
    equal(len(await other.find(Query())), 11)


@SHARED
async def two_storages_see_one_truth(b: Bench) -> None:
    """I48: what one has acknowledged, the other reads, refuses and goes on from."""
    other = await b.second()
    header = await b.held("r")
    equal((await other.load("r"), await other.find(Query())), (await b.load("r"), [header]))
    await other.commit(commit_of(header, b.now))
    await refused(LeaseLost, b.commit(header, records=()))
    await other.register("v", LEASE)
    equal(await other.take("r", "v"), None)
    await b.storage.unregister("w")
    taken = await other.take("r", "v")
    equal(taken, await b.load("r"))
    shows(await b.header("r"), owner="v", epoch=2)


@SHARED
async def claims_through_two_storages_share_no_run(b: Bench) -> None:
    """Contract 8, I10, I48."""
    other = await b.second()
    for number in range(30):
        await b.create(f"r{number}")
    await b.worker("w")
    await b.worker("v")
    claims = await asyncio.gather(
        *(storage.claim(worker, [FLOW], 5) for _ in range(4) for storage, worker in ((b.storage, "w"), (other, "v")))
    )
    ids = [run.header.run_id for claimed in claims for run in claimed.runs]
    equal((len(ids), len(set(ids))), (30, 30))


@SHARED
async def a_change_in_one_storage_wakes_who_waits_in_another(b: Bench) -> None:
    """I15: a hint, so that nobody waits for the next poll."""
    other = await b.second()
    await b.parked("r")
    count = await patiently(other.changed(-1, 3600))
    waiting = asyncio.ensure_future(other.changed(count, 3600))
    await turns()
    await b.post("r")
    true(await patiently(waiting) != count, "a posting elsewhere is a change")


@SHARED
async def a_worker_is_condemned_from_another_storage(b: Bench) -> None:
    """Contract 10, D13: by its lease, whoever looks; it never renews where it was."""
    other = await b.second()
    header = await b.held("r")
    await b.clock.advance(LEASE / SECOND)
    await other.register("v", LEASE)
    equal([run.header.run_id for run in (await other.claim("v", [FLOW], 9)).runs], ["r"])
    equal((await b.storage.renew("w", LEASE)).alive, False)
    await refused(LeaseLost, b.commit(header))


@DAMAGED
async def an_unreadable_run_is_in_nobodys_way(b: Bench) -> None:
    """Contract 14, S15.2: it is returned with its error and no journal, its header can be listed, and the others go on."""
    for run_id in ("a", "bad", "c"):
        await b.create(run_id)
    b.damage("bad")
    run = await b.load("bad")
    error = run.error
    true(type(error) is UnreadableRun and error.run_id == "bad", f"expected an UnreadableRun that names the run, got {error!r}")
    await refused(UnreadableRun, b.storage.read_journal("bad"))
    shows(await b.header("bad"), status=RunStatus.PENDING)
    equal(len(await b.storage.find(Query())), 3)
    await b.worker("w")
    claimed = await b.claim("w")
    equal({run.header.run_id: run.error is None for run in claimed.runs}, {"a": True, "bad": False, "c": True})


@DAMAGED
async def an_unreadable_beginning_is_left_behind(b: Bench) -> None:
    """Contract 14, 18: rows before the one that begins the journal anew are not loaded, so they are in nobody's way."""
    await b.create("bad")
    b.damage("bad")
    await b.worker("w")
    await b.storage.take("bad", "w")
    await b.commit(await b.header("bad"), fresh=True, release=True)
    run = await b.load("bad")
    equal(([row.records for row in run.rows], run.error), ([step()], None))
    await refused(UnreadableRun, b.storage.read_journal("bad"))
    equal(len(await b.storage.read_journal("bad", after=1)), 1)


@DAMAGED
async def an_unreadable_run_is_in_no_senders_way(b: Bench) -> None:
    """Contract 14, 16, 17: it takes postings, and goes with its parent."""
    header = await b.held("p")
    await b.create("bad", parent="p")
    b.damage("bad")
    await b.commit(header, posts=(sent("bad"),))
    shows(await b.header("bad"), inbox_seq=1)
    await b.storage.take("bad", "w")
    for run_id in ("bad", "p"):
        await b.commit(await b.header(run_id), records=(), status=RunStatus.FAILED, wake_at=None)
    await b.storage.delete("p")
    equal(await b.storage.load("bad"), None)


@DAMAGED
async def an_unreadable_run_can_be_parked(b: Bench) -> None:
    """Contract 14, S15.2: its holder can block and release it as any other."""
    await b.create("bad")
    b.damage("bad")
    await b.worker("w")
    taken = await b.storage.take("bad", "w")
    true(taken is not None and taken.error is not None, "it can be taken, and says that it cannot be read")
    header = await b.header("bad")
    await b.commit(header, records=(), status=RunStatus.BLOCKED, blocked="UnreadableRun", wake_at=None, release=True)
    shows(await b.header("bad"), status=RunStatus.BLOCKED, blocked="UnreadableRun", owner=None)
    equal(await b.claimed("w"), [])

"""Checks of contract 3 to 6: a commit states what it saw, and is written whole or refused whole."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from ...core.records import RunBlocked, RunCompleted, StepStarted
from ...core.status import RunStatus
from ...errors import LeaseLost, RunNotFinished, RunNotFound
from ...storage import Committed, Row
from .kit import LEASE, SECOND, Bench, Checks, commit_of, created_record, equal, posting, refused, shows, step

CHECKS = Checks()


@CHECKS
async def a_commit_appends_its_row_and_replaces_the_header(b: Bench) -> None:
    """Contract 3, I7: records become the row at position + 1; at, status, waiting and blocked are the commit's."""
    header = await b.held("r")
    created = b.now
    await b.clock.advance(1)
    reply = await b.commit(header, at=b.now - 7, status=RunStatus.SUSPENDED, waiting=("go", "stop"), wake_at=None)
    equal(reply, Committed(b.now))
    run = await b.load("r")
    equal(run.rows, [Row(1, 1, created, (created_record(),)), Row(2, 1, b.now - 7, step())])
    stand: dict[str, Any] = {"status": RunStatus.SUSPENDED, "waiting": ("go", "stop"), "wake_at": None, "updated_at": b.now - 7}
    equal(run.header, replace(header, position=2, **stand))
    await b.commit(run.header, records=(RunBlocked("x", "y"),), status=RunStatus.BLOCKED, blocked="x: y", wake_at=None)
    shows(await b.header("r"), status=RunStatus.BLOCKED, blocked="x: y", waiting=(), position=3, ended_at=None)


@CHECKS
async def positions_count_without_gaps(b: Bench) -> None:
    """Contract 3, D20, I1: rows are appended one after the other and never change."""
    header = await b.held("r")
    for number in range(20):
        await b.commit(header, records=step(f"s{number}"))
        header = replace(header, position=header.position + 1)
    rows = (await b.load("r")).rows
    equal([row.position for row in rows], list(range(1, 22)))
    equal([row.records for row in rows[1:]], [step(f"s{number}") for number in range(20)])


@CHECKS
async def wake_at_0_is_now(b: Bench) -> None:
    """Contract 6: 0 is the storage's now, None is never, and an instant stays as it is."""
    header = await b.held("r")
    for position, (given, kept) in enumerate(((0, b.now), (None, None), (b.now + 5, b.now + 5), (b.now - 5, b.now - 5)), start=1):
        await b.commit(replace(header, position=position), wake_at=given)
        shows(await b.header("r"), wake_at=kept, owner="w")


@CHECKS
async def an_end_is_recorded_once(b: Bench) -> None:
    """I9: `ended_at` is the instant of the commit that ended the run, and stays."""
    for status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED):
        run_id = f"r-{status}"
        header = await b.held(run_id, f"w-{status}")
        await b.commit(header, at=b.now + 1, records=(RunCompleted(),), status=status, wake_at=None)
        shows(await b.header(run_id), status=status, ended_at=b.now + 1)
        await b.commit(await b.header(run_id), at=b.now + 2, records=(), status=status, wake_at=None, release=True)
        shows(await b.header(run_id), status=status, ended_at=b.now + 1, owner=None)


@CHECKS
async def a_run_that_was_reopened_has_not_ended(b: Bench) -> None:
    """Contract 3, D1: its `ended_at` is gone, and no purge forgets it, until it ends again."""
    header = await b.held("r")
    await b.commit(header, records=(RunCompleted(),), status=RunStatus.FAILED, wake_at=None)
    await b.clock.advance(1)
    await b.commit(replace(header, position=2))
    shows(await b.header("r"), status=RunStatus.RUNNING, ended_at=None)
    await b.clock.advance(1)
    equal(await b.storage.purge(0, 9), 0)
    await refused(RunNotFinished, b.storage.delete("r"))
    await b.commit(replace(header, position=3), status=RunStatus.COMPLETED, wake_at=None)
    shows(await b.header("r"), ended_at=b.now)


@CHECKS
async def whoever_does_not_hold_the_run_writes_nothing(b: Bench) -> None:
    """Contract 3, I11, S14.2: another owner, an old or future epoch, another position: LeaseLost."""
    header = await b.held("r")
    await b.worker("v")
    before = await b.load("r")
    wrong: tuple[dict[str, Any], ...] = (
        {"owner": "v"}, {"owner": "nobody"}, {"owner": ""}, {"epoch": 0}, {"epoch": 2}, {"position": 0}, {"position": 2}, {"position": 9},
    )  # fmt: skip
    for fields in wrong:
        for more in ({}, {"records": ()}, {"release": True}, {"misfits": ("s",)}, {"version": "2", "shape": "t"}):
            await refused(LeaseLost, b.commit(header, **fields, **more))
            await b.unchanged("r", before)


@CHECKS
async def a_released_run_takes_no_commit(b: Bench) -> None:
    """Contract 6, I11: who gave the lease back cannot write, with the same epoch or another."""
    header = await b.held("r")
    await b.commit(header, release=True)
    before = await b.load("r")
    await refused(LeaseLost, b.commit(replace(header, position=2)))
    await refused(LeaseLost, b.commit(replace(header, position=2), epoch=2))
    await b.unchanged("r", before)


@CHECKS
async def the_former_holder_is_fenced_off(b: Bench) -> None:
    """Contract 8, I11, S14.2: after a takeover the old holder's commit changes nothing, also after its nonce holds it anew."""
    header = await b.held("r")
    await b.commit(header, release=True)
    await b.worker("v")
    equal(await b.claimed("v"), ["r"])
    taken = await b.load("r")
    await refused(LeaseLost, b.commit(replace(header, position=2)))
    await b.unchanged("r", taken)
    await b.commit(taken.header, release=True)
    equal(await b.claimed("w"), ["r"])
    before = await b.load("r")
    await refused(LeaseLost, b.commit(replace(header, position=3)))
    await b.unchanged("r", before)


@CHECKS
async def a_condemned_worker_writes_nothing(b: Bench) -> None:
    """Contract 10, I11, I49: neither to runs that were taken over, nor to those that merely were freed."""
    header = await b.held("r")
    other = (await b.create("s", owner="w")).header
    await b.clock.advance(LEASE / SECOND)
    await b.worker("v")
    equal(await b.claimed("v", limit=1), ["r"])
    for seen in (header, other):
        before = await b.load(seen.run_id)
        await refused(LeaseLost, b.commit(seen))
        await b.unchanged(seen.run_id, before)


@CHECKS
async def a_late_worker_that_nobody_condemned_still_writes(b: Bench) -> None:
    """Contract 10: fencing is by owner and epoch; an overrun lease alone loses nothing."""
    header = await b.held("r")
    await b.clock.advance(10 * LEASE / SECOND)
    equal(await b.commit(header), Committed(b.now))


@CHECKS
async def a_commit_extends_the_lease(b: Bench) -> None:
    """D15: a worker whose commits are written lives, however late its heartbeat is."""
    header = await b.held("r")
    await b.worker("v")
    for position in range(1, 4):
        await b.clock.advance(0.8 * LEASE / SECOND)
        await b.storage.renew("v", LEASE)
        await b.commit(replace(header, position=position))
    await b.clock.advance(0.9 * LEASE / SECOND)
    equal(await b.claimed("v"), [])
    equal((await b.storage.renew("w", LEASE)).alive, True)


@CHECKS
async def a_newer_posting_refuses_a_commit_whole(b: Bench) -> None:
    """Contract 3, D12, I25: nothing is written, the reply carries exactly the postings after the one seen."""
    header = await b.held("r")
    at = b.now
    await b.post("r", "a")
    await b.clock.advance(1)
    await b.post("r", "b")
    later = b.now
    before = await b.load("r")
    for fields in (
        {}, {"records": ()}, {"release": True}, {"status": RunStatus.COMPLETED, "records": (RunCompleted(),)},
        {"misfits": ("s",)}, {"version": "2", "shape": "t"},
    ):  # fmt: skip
        reply = await b.commit(header, **fields)
        equal(reply, Committed(b.now, (posting(1, at, "a"), posting(2, later, "b"))))
        equal(await b.commit(header, inbox_seq=1, **fields), Committed(b.now, (posting(2, later, "b"),)))
        await b.unchanged("r", before)
    equal(await b.commit(header, inbox_seq=2), Committed(b.now))
    shows(await b.header("r"), position=2, inbox_seq=2)


@CHECKS
async def a_commit_that_saw_postings_which_are_not_there_is_refused(b: Bench) -> None:
    """I49: a storage that was set back by a restore holds less than the committer saw: LeaseLost, nothing written."""
    header = await b.held("r")
    before = await b.load("r")
    await refused(LeaseLost, b.commit(header, inbox_seq=1))
    await b.unchanged("r", before)


@CHECKS
async def consumed_postings_leave_the_inbox(b: Bench) -> None:
    """Contract 3, I23: those the commit consumed, in its transaction; the others stay in order."""
    header = await b.held("r")
    for _ in range(4):
        await b.post("r")
    await b.commit(header, inbox_seq=4, consumed=(1, 3))
    run = await b.load("r")
    equal(run.postings, [posting(2, b.now), posting(4, b.now)])
    await b.commit(run.header, records=(), consumed=(2, 4))
    equal((await b.load("r")).postings, [])
    shows(await b.header("r"), inbox_seq=4, position=2)


@CHECKS
async def the_same_commit_again_succeeds_and_changes_nothing(b: Bench) -> None:
    """Contract 4, I45, S15.3: at once, after further commits, after the lease went, and after a posting came."""
    header = await b.held("r")
    same = commit_of(header, b.now)
    await b.storage.commit(same)
    before = await b.load("r")
    equal(await b.storage.commit(same), Committed(b.now))
    equal(await b.storage.commit(replace(same, records=step())), Committed(b.now))
    await b.unchanged("r", before)
    await b.post("r")
    equal(await b.storage.commit(same), Committed(b.now))
    await b.commit(before.header, inbox_seq=1, release=True, consumed=(1,))
    await b.worker("v")
    equal(await b.claimed("v"), ["r"])
    before = await b.load("r")
    equal(await b.storage.commit(same), Committed(b.now))
    await b.unchanged("r", before)


@CHECKS
async def another_commit_at_the_same_place_is_not_the_same_commit(b: Bench) -> None:
    """Contract 4: other records, another instant or another epoch are another commit: LeaseLost."""
    header = await b.held("r")
    same = commit_of(header, b.now)
    await b.storage.commit(same)
    before = await b.load("r")
    for other in (replace(same, records=step("b")), replace(same, at=b.now + 1), replace(same, epoch=2), replace(same, records=())):
        await refused(LeaseLost, b.storage.commit(other))
    await b.unchanged("r", before)


@CHECKS
async def a_commit_without_records_writes_no_row(b: Bench) -> None:
    """Contract 5: position and updated_at stay; it may still say where the run stands."""
    header = await b.held("r")
    await b.clock.advance(1)
    equal(await b.commit(header, records=(), status=RunStatus.SUSPENDED, wake_at=None, waiting=("go",)), Committed(b.now))
    run = await b.load("r")
    equal(len(run.rows), 1)
    equal(run.header, replace(header, status=RunStatus.SUSPENDED, wake_at=None, waiting=("go",)))


@CHECKS
async def a_commit_without_records_asks_for_postings(b: Bench) -> None:
    """Contract 5, D13: nothing new, then what is new, and once it was stated, nothing again."""
    header = await b.held("r")
    equal(await b.commit(header, records=()), Committed(b.now))
    await b.post("r")
    equal(await b.commit(header, records=()), Committed(b.now, (posting(1, b.now),)))
    equal(await b.commit(header, records=(), inbox_seq=1), Committed(b.now))
    equal((await b.load("r")).postings, [posting(1, b.now)])


@CHECKS
async def a_commit_without_records_gives_the_lease_back(b: Bench) -> None:
    """Contract 5, 6: owner cleared, epoch kept, claimable when `wake_at` says."""
    header = await b.held("r")
    await b.worker("v")
    await b.commit(header, records=(), release=True, wake_at=b.now + 5 * SECOND)
    shows(await b.header("r"), owner=None, epoch=1, wake_at=b.now + 5 * SECOND, position=1)
    equal(await b.claimed("v"), [])
    await b.clock.advance(5)
    equal(await b.claimed("v"), ["r"])


@CHECKS
async def a_release_says_when_the_run_can_be_claimed(b: Bench) -> None:
    """Contract 6, S14.4: at once, later, or never without a posting."""
    due = b.now + SECOND
    await b.parked("now", wake_at=0)
    await b.parked("later", wake_at=due)
    await b.parked("never", wake_at=None)
    await b.worker("v")
    claimed = await b.claim("v")
    equal(([run.header.run_id for run in claimed.runs], claimed.next_at), (["now"], due))
    await b.clock.advance(1)
    claimed = await b.claim("v")
    equal(([run.header.run_id for run in claimed.runs], claimed.next_at), (["later"], None))
    await b.clock.advance(days=400)
    await b.storage.renew("v", LEASE)
    equal([run_id for run_id in await b.claimed("v") if run_id == "never"], [])


@CHECKS
async def a_deleted_run_takes_no_commit(b: Bench) -> None:
    """RunNotFound, also where another run has its id by now: `ref` tells them apart."""
    header = await b.held("r")
    last = commit_of(header, b.now, records=(RunCompleted(),), status=RunStatus.COMPLETED, wake_at=None)
    await b.storage.commit(last)
    await b.storage.delete("r")
    await refused(RunNotFound, b.storage.commit(last))
    await refused(RunNotFound, b.commit(header))
    await b.create("r", owner="w")
    before = await b.load("r")
    await refused(RunNotFound, b.commit(header))
    await refused(RunNotFound, b.commit(header, records=(), release=True))
    await b.unchanged("r", before)


@CHECKS
async def concurrent_commits_of_one_position_have_one_winner(b: Bench) -> None:
    """Contract 1, 3, I27: one is written, the others are refused and leave no trace."""
    header = await b.held("r")
    commits = [commit_of(header, b.now, records=(StepStarted(f"s{number}", 1),)) for number in range(20)]
    replies = await asyncio.gather(*map(b.storage.commit, commits), return_exceptions=True)
    winners = [commit for commit, reply in zip(commits, replies, strict=True) if reply == Committed(b.now)]
    equal([type(reply) for reply in replies if reply != Committed(b.now)], [LeaseLost] * 19)
    rows = (await b.load("r")).rows
    equal([row.records for row in rows[1:]], [commit.records for commit in winners])


@CHECKS
async def a_refused_commit_harms_no_other(b: Bench) -> None:
    """I47: commits of many runs at one moment; those that are refused are refused alone."""
    await b.worker("w")
    headers = [(await b.create(f"r{number}", owner="w")).header for number in range(20)]
    commits = [commit_of(header, b.now, epoch=1 if number % 3 else 7) for number, header in enumerate(headers)]
    replies = await asyncio.gather(*map(b.storage.commit, commits), return_exceptions=True)
    for number, (header, reply) in enumerate(zip(headers, replies, strict=True)):
        equal(type(reply), Committed if number % 3 else LeaseLost)
        equal((await b.header(header.run_id)).position, 2 if number % 3 else 1)

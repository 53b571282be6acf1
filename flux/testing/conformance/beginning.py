"""Checks of contract 18: a journal that begins anew."""

from __future__ import annotations

from dataclasses import replace

from ...core.status import RunStatus
from .kit import Bench, Checks, created_record, equal, posting, shows, step

CHECKS = Checks()


@CHECKS
async def a_fresh_commit_begins_the_journal_anew(b: Bench) -> None:
    """Contract 18: its row and those after it are what load, claim, take and post give; positions go on."""
    header = await b.held("r")
    for position in range(1, 4):
        await b.commit(replace(header, position=position), records=step(f"s{position}"))
    await b.commit(replace(header, position=4), records=(created_record("2"),), fresh=True)
    whole = await b.storage.read_journal("r")
    equal([row.position for row in whole], [1, 2, 3, 4, 5])
    equal((await b.load("r")).rows, whole[4:])
    shows(await b.header("r"), position=5)
    await b.commit(replace(header, position=5), release=True)
    whole = await b.storage.read_journal("r")
    await b.worker("v")
    equal([run.rows for run in (await b.claim("v")).runs], [whole[4:]])
    await b.commit(await b.header("r"), status=RunStatus.SUSPENDED, wake_at=None, release=True, records=())
    taken = await b.storage.take("r", "v")
    equal(taken is None or taken.rows, whole[4:])
    await b.commit(await b.header("r"), status=RunStatus.SUSPENDED, wake_at=None, release=True, records=())
    posted = (await b.post("r", taker="v")).run
    equal(posted is None or (posted.rows, posted.postings), (whole[4:], [posting(1, b.now)]))


@CHECKS
async def the_whole_journal_can_be_read(b: Bench) -> None:
    """Contract 18: `read_journal` knows no beginning but the first, in pages too."""
    header = await b.held("r")
    for position in range(1, 6):
        await b.commit(replace(header, position=position), records=step(f"s{position}"), fresh=position % 2 == 0)
    whole = await b.storage.read_journal("r")
    equal([row.records for row in whole], [(created_record(),), *(step(f"s{position}") for position in range(1, 6))])
    equal((await b.load("r")).rows, whole[4:])
    equal((await b.storage.read_journal("r", 0, 2), await b.storage.read_journal("r", 2, 3)), (whole[:2], whole[2:5]))


@CHECKS
async def a_fresh_commit_may_leave_all_else_as_it_stands(b: Bench) -> None:
    """Contract 3, 18: also where nothing but the journal changes; the inbox and what was consumed stay as they are."""
    header = await b.held("r", status=RunStatus.RUNNING, wake_at=b.now + 5)
    await b.post("r")
    await b.post("r")
    await b.commit(header, inbox_seq=2, consumed=(1,), wake_at=b.now + 5, fresh=True)
    run = await b.load("r")
    equal(run.header, replace(header, position=2, inbox_seq=2, updated_at=b.now))
    equal(([row.position for row in run.rows], run.postings), ([2], [posting(2, b.now)]))


@CHECKS
async def a_fresh_commit_without_records_begins_nothing(b: Bench) -> None:
    """Contract 5, 18: there is no row to begin with."""
    header = await b.held("r")
    await b.commit(header)
    header.position = 2
    await b.commit(header, records=(), fresh=True)
    equal([row.position for row in (await b.load("r")).rows], [1, 2])
    await b.commit(header)
    equal([row.position for row in (await b.load("r")).rows], [1, 2, 3])


@CHECKS
async def a_run_that_began_anew_ends_and_is_forgotten_whole(b: Bench) -> None:
    """Contract 18, D26: what came before the beginning goes, too."""
    header = await b.held("r")
    await b.commit(header, fresh=True, status=RunStatus.COMPLETED, wake_at=None, release=True)
    equal([row.position for row in (await b.load("r")).rows], [2])
    await b.storage.delete("r")
    equal(await b.storage.read_journal("r"), [])
    await b.create("r")
    equal([row.position for row in (await b.load("r")).rows], [1])

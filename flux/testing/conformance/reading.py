"""Checks of reading, of forgetting, and of contract 13: what crosses the seam is a copy."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from ...core.records import RunCreated, StepCompleted
from ...core.status import RunStatus
from ...errors import RunNotFinished, RunNotFound
from ...storage import Query
from .kit import LEASE, SECOND, Bench, Checks, commit_of, equal, new_run, posting, refused, shows, signal, step, true

CHECKS = Checks()


@CHECKS
async def what_is_not_there_is_not_there(b: Bench) -> None:
    """None for a run or a header, no rows for a journal, no page of nothing."""
    equal((await b.storage.load("r"), await b.storage.read_header("r")), (None, None))
    equal((await b.storage.read_journal("r"), await b.storage.find(Query())), ([], []))


@CHECKS
async def a_journal_is_read_in_pages(b: Bench) -> None:
    """Rows behind a position, in order, so many at most."""
    header = await b.held("r")
    for position in range(1, 7):
        await b.commit(replace(header, position=position), records=step(f"s{position}"))
    rows = (await b.load("r")).rows
    equal(await b.storage.read_journal("r"), rows)
    equal(await b.storage.read_journal("r", 2, 3), rows[2:5])
    equal(await b.storage.read_journal("r", after=5), rows[5:])
    for after, limit in ((7, 500), (99, 500), (0, 0)):
        equal(await b.storage.read_journal("r", after, limit), [])


@CHECKS
async def ids_are_exact(b: Bench) -> None:
    """S15.7: ids that differ in case, or hold what SQL and globs make something of, are different ids."""
    ids = ["r", "R", "r.", "a/b", "a%b", "a_b", "axb", "0", "00", "x" * 200]
    for run_id in ids:
        await b.create(run_id, idempotency_key=run_id)
    for run_id in ids:
        equal(((await b.header(run_id)).run_id, (await b.create("new", idempotency_key=run_id)).header.run_id), (run_id, run_id))


# --- find


async def _many(b: Bench) -> list[str]:
    """Runs of two workflows and two versions in several statuses, some created at one instant; their ids, newest first."""
    await b.worker("w", 10**15)
    made: list[tuple[int, str]] = []
    for number in range(12):
        run_id = f"r{number * 7 % 12:02d}"
        fields: dict[str, Any] = {"workflow": ("flow", "other")[number % 2], "version": str(number % 3)}
        header = (await b.create(run_id, owner="w", **fields)).header
        if number % 4:
            status = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.SUSPENDED)[number % 4 - 1]
            await b.commit(header, status=status, wake_at=None)
        made.append((header.created_at, run_id))
        if number % 3 == 2:
            await b.clock.advance(1)
    return [run_id for _, run_id in sorted(made, reverse=True)]


async def _ids(b: Bench, query: Query) -> list[str]:
    found = await b.storage.find(query)
    for header in found:
        equal(header, await b.storage.read_header(header.run_id))
    return [header.run_id for header in found]


@CHECKS
async def lists_are_newest_first(b: Bench) -> None:
    """By (created_at, run_id), D24: later moves of a run do not change its place."""
    ids = await _many(b)
    equal(await _ids(b, Query()), ids)
    equal(await _ids(b, Query(limit=5)), ids[:5])
    equal(await _ids(b, Query(limit=0)), [])


@CHECKS
async def lists_are_filtered(b: Bench) -> None:
    """By workflow, version, statuses, and all together; statuses given twice count once."""
    ids = await _many(b)
    headers = {run_id: await b.header(run_id) for run_id in ids}
    done = (RunStatus.COMPLETED, RunStatus.FAILED)
    statuses: tuple[tuple[RunStatus, ...], ...] = ((), (RunStatus.PENDING,), done, (*done, *done), (RunStatus.BLOCKED,), tuple(RunStatus))
    for workflow in (None, "flow", "other", "third"):
        for version in (None, "0", "1", "9"):
            for wanted in statuses:
                expected = [
                    run_id
                    for run_id in ids
                    if workflow in (None, headers[run_id].workflow)
                    and version in (None, headers[run_id].version)
                    and (not wanted or headers[run_id].status in wanted)
                ]
                equal(await _ids(b, Query(workflow, wanted, version=version)), expected, f"{workflow} {version} {wanted}")


@CHECKS
async def lists_are_paged(b: Bench) -> None:
    """Each run once, whatever the size of the page, also where many were created at one instant."""
    ids = await _many(b)
    by_status = [run_id for run_id in ids if (await b.header(run_id)).status in (RunStatus.FAILED, RunStatus.SUSPENDED)]
    for query, expected in ((Query(), ids), (Query(statuses=[RunStatus.FAILED, RunStatus.SUSPENDED]), by_status)):
        for size in (1, 2, 5):
            seen: list[str] = []
            before: tuple[int, str] | None = None
            while page := await b.storage.find(replace(query, limit=size, before=before)):
                true(len(page) <= size, "a page is no longer than it was asked to be")
                seen += [header.run_id for header in page]
                before = (page[-1].created_at, page[-1].run_id)
            equal(seen, expected)


# --- forgetting


@CHECKS
async def delete_forgets_everything(b: Bench) -> None:
    """D26, D27: rows, inbox, signal ids and the key; the id can be used again."""
    header = (await b.create("r", idempotency_key="k", owner=await b.worker("w"))).header
    await b.post("r", "a")
    await b.commit(header, inbox_seq=1, status=RunStatus.COMPLETED, wake_at=None)
    await b.create("other")
    await b.storage.delete("r")
    equal((await b.storage.load("r"), await b.storage.read_journal("r")), (None, []))
    equal(await _ids(b, Query()), ["other"])
    await refused(RunNotFound, b.post("r", "a"))
    await refused(RunNotFound, b.storage.delete("r"))
    equal((await b.storage.renew("w", LEASE)).unseen, ())
    true((await b.create("r", idempotency_key="k2")).fresh, "the id is free")
    true((await b.create("s", idempotency_key="k")).fresh, "the key is free")
    run = await b.load("r")
    equal((len(run.rows), run.postings, run.header.inbox_seq), (1, [], 0))


@CHECKS
async def delete_refuses_a_live_run(b: Bench) -> None:
    """D26: RunNotFinished, whatever it does, and nothing is lost."""
    await b.create("pending")
    await b.held("held")
    await b.parked("parked")
    await b.parked("blocked", status=RunStatus.BLOCKED, blocked="why")
    for run_id in ("pending", "held", "parked", "blocked"):
        before = await b.load(run_id)
        await refused(RunNotFinished, b.storage.delete(run_id))
        await b.unchanged(run_id, before)


@CHECKS
async def a_deleted_run_leaves_no_trace_in_the_queue(b: Bench) -> None:
    """Contract 9: a run made anew under the id, elsewhere, is claimed where it is now and only there."""
    await b.create("r", priority=7)
    await b.worker("w")
    header = (await b.claim("w")).runs[0].header
    await b.commit(header, status=RunStatus.COMPLETED, wake_at=b.now)
    await b.storage.delete("r")
    await b.create("r", version="2")
    claimed = await b.claim("w")
    equal((claimed.runs, claimed.next_at), ([], None))
    equal([run.header.run_id for run in (await b.claim("w", codes=[("flow", "2", "s")])).runs], ["r"])


@CHECKS
async def purge_forgets_what_ended_long_ago(b: Bench) -> None:
    """By age, the oldest first, so many at most; returns how many. Live runs stay however old they are."""
    await b.create("live")
    for number in range(6):
        await b.ended(f"r{number}")
        await b.clock.advance(10)
    equal(await b.storage.purge(61 * SECOND, 100), 0)
    equal(await b.storage.purge(60 * SECOND, 100), 1)
    equal(await b.storage.purge(20 * SECOND, 2), 2)
    equal(sorted(await _ids(b, Query())), ["live", "r3", "r4", "r5"])
    equal((await b.storage.purge(0, 0), await b.storage.purge(0, 100), await b.storage.purge(0, 100)), (0, 3, 0))
    equal(await _ids(b, Query()), ["live"])


# --- copies


@CHECKS
async def what_is_handed_out_is_not_the_stored_thing(b: Bench) -> None:
    """Contract 13, I43: a caller may do with replies what it likes."""
    await b.parked("r", records=(StepCompleted("a", 1, "1", {"k": "1"}),))
    await b.post("r")
    before = deepcopy(await b.load("r"))
    await b.worker("w")
    _spoil(await b.load("r"))
    _spoil_header((await b.create("r")).header)
    _spoil_header(await b.header("r"))
    for header in await b.storage.find(Query()):
        _spoil_header(header)
    for row in await b.storage.read_journal("r"):
        _spoil_row(row)
    await b.unchanged("r", before)
    taken = await b.storage.take("r", "w")
    true(taken is not None, "the run is free")
    before = deepcopy(await b.load("r"))
    _spoil(taken)
    for one in (await b.commit(before.header, inbox_seq=0)).postings:
        one.payload = "spoilt"
    await b.unchanged("r", before)
    await b.commit(before.header, release=True)
    before = deepcopy(await b.load("r"))
    claimed = (await b.claim("w")).runs
    before.header = replace(before.header, owner="w", epoch=3)
    _spoil(claimed[0])
    await b.unchanged("r", before)


def _spoil(run: Any) -> None:
    _spoil_header(run.header)
    for row in run.rows:
        _spoil_row(row)
    for one in run.postings:
        one.payload = "spoilt"
    run.rows.clear()
    run.postings.clear()


def _spoil_header(header: Any) -> None:
    header.status, header.owner, header.position, header.waiting = RunStatus.FAILED, "spoilt", 99, ("spoilt",)


def _spoil_row(row: Any) -> None:
    for record in row.records:
        if isinstance(record, RunCreated):
            record.data["spoilt"] = "1"
        elif isinstance(record, StepCompleted) and record.changes is not None:
            record.changes.clear()
    row.position, row.records = 99, ()


@CHECKS
async def what_is_handed_in_is_not_kept(b: Bench) -> None:
    """Contract 13, I43: a caller may go on using the values it gave."""
    await b.worker("w")
    new = new_run("r", b.now, owner="w", waiting=("go",))
    header = (await b.storage.create(new)).header
    before = deepcopy(await b.load("r"))
    new.waiting, new.status, record = (), RunStatus.FAILED, new.records[0]
    if isinstance(record, RunCreated):
        record.data["spoilt"] = "1"
    await b.unchanged("r", before)
    changes: dict[str, str | None] = {"k": "1"}
    commit = commit_of(header, b.now, records=(StepCompleted("a", 1, "1", changes),))
    await b.storage.commit(commit)
    before = deepcopy(await b.load("r"))
    changes.clear()
    commit.records, commit.status, commit.waiting = (), RunStatus.FAILED, ("spoilt",)
    await b.unchanged("r", before)
    sent = signal("go")
    await b.storage.post("r", sent)
    sent.payload = sent.name = "spoilt"
    equal((await b.load("r")).postings, [posting(1, b.now)])
    shows(await b.header("r"), status=RunStatus.RUNNING)

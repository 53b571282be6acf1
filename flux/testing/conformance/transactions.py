"""Checks of contract 21 and 22: transactions that are lent, and those of the caller's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ...core.status import RunStatus
from ...errors import InboxFull, LeaseLost, RunFinished, RunNotFound, StorageMisused
from ...storage import Commit, Committed, Header, Outbox, Query, Transaction, Transactional, Within
from .kit import FLOW, SECOND, Bench, Checks, commit_of, equal, new_run, patiently, posting, refused, sent, shows, signal, step, true, turns

TRANSACTIONS = Checks()
OUTBOX = Checks()


class _Spoilt(Exception):
    """What a check raises in a transaction."""


def _lender(b: Bench) -> Transactional:
    if not isinstance(b.storage, Transactional):
        raise TypeError("this check is for storages that are Transactional")
    return b.storage


async def _note(b: Bench, tx: Transaction, text: str) -> None:
    """Write a line as a handler would."""
    await tx.run(lambda connection: b.ledger.note(connection, text))


def _step(b: Bench, seen: Header, **fields: Any) -> Commit:
    return commit_of(seen, b.now, **fields)


# --- transactions that are lent


@TRANSACTIONS
async def what_is_done_is_written_with_the_commit(b: Bench) -> None:
    """Contract 21, S3.6: nobody sees it before, and then all of it."""
    header = await b.held("r")
    async with _lender(b).transaction() as tx:
        await _note(b, tx, "a")
        await _note(b, tx, "b")
        equal(await b.ledger.lines(), [])
        equal(await tx.commit(_step(b, header)), Committed(b.now))
        equal(await b.ledger.lines(), ["a", "b"])
    run = await b.load("r")
    equal((run.header.position, run.rows[-1].records), (2, step()))
    async with _lender(b).transaction() as tx:
        await _note(b, tx, "c")
        await tx.commit(_step(b, run.header, status=RunStatus.COMPLETED, wake_at=None, release=True))
    equal(await b.ledger.lines(), ["a", "b", "c"])
    shows(await b.header("r"), position=3, status=RunStatus.COMPLETED, owner=None)


@TRANSACTIONS
async def what_the_handler_returns_and_raises_comes_through(b: Bench) -> None:
    """Contract 21: `run` is a call, and an error in it ends nothing by itself."""
    header = await b.held("r")

    def spoil(_: Any) -> None:
        raise _Spoilt

    async with _lender(b).transaction() as tx:
        await refused(_Spoilt, tx.run(spoil))
        equal(await tx.run(lambda connection: connection is tx.connection), True)
        await _note(b, tx, "a")
        await tx.commit(_step(b, header))
    equal(await b.ledger.lines(), ["a"])


@TRANSACTIONS
async def leaving_without_a_commit_rolls_back(b: Bench) -> None:
    """Contract 21: also with an error, or where the holder is cancelled; the run is as it was, and can go on."""
    header = await b.held("r")
    before = await b.load("r")
    async with _lender(b).transaction() as tx:
        await _note(b, tx, "a")
    try:
        async with _lender(b).transaction() as tx:
            await _note(b, tx, "b")
            raise _Spoilt
    except _Spoilt:
        pass
    entered = asyncio.Event()

    async def stay() -> None:
        async with _lender(b).transaction() as tx:
            await _note(b, tx, "c")
            entered.set()
            await asyncio.Event().wait()

    staying = asyncio.ensure_future(stay())
    await patiently(entered.wait())
    staying.cancel()
    await asyncio.gather(staying, return_exceptions=True)
    equal(await b.ledger.lines(), [])
    await b.unchanged("r", before)
    async with _lender(b).transaction() as tx:
        await _note(b, tx, "d")
        await tx.commit(_step(b, header))
    equal(await b.ledger.lines(), ["d"])


@TRANSACTIONS
async def a_refused_commit_rolls_all_back(b: Bench) -> None:
    """Contract 3, 21, I11: of another's owner, epoch, position or inbox_seq, or a run that is gone; the transaction is over then."""
    header = await b.held("r")
    before = await b.load("r")
    for wrong in ({"owner": "v"}, {"epoch": 2}, {"position": 2}, {"inbox_seq": 1}):
        async with _lender(b).transaction() as tx:
            await _note(b, tx, "a")
            await refused(LeaseLost, tx.commit(_step(b, header, **wrong, children=(new_run("c", b.now),), posts=(sent("r"),))))
            await refused(StorageMisused, tx.commit(_step(b, header)))
    await b.unchanged("r", before)
    async with _lender(b).transaction() as tx:
        await _note(b, tx, "b")
        header.ref += 999
        await refused(RunNotFound, tx.commit(_step(b, header)))
    header.ref -= 999
    async with _lender(b).transaction() as tx:
        await _note(b, tx, "c")
    await b.storage.unregister("w")
    async with _lender(b).transaction() as tx:
        await _note(b, tx, "d")
        await refused(LeaseLost, tx.commit(_step(b, header)))
    equal((await b.ledger.lines(), await b.storage.load("c")), ([], None))


@TRANSACTIONS
async def newer_postings_leave_the_transaction_open(b: Bench) -> None:
    """Contract 3, 21, D12: nothing of the commit is written; the next one, which has seen them, takes all along."""
    header = await b.held("r")
    await b.post("r")
    await b.parked("s")
    async with _lender(b).transaction() as tx:
        await _note(b, tx, "a")
        reply = await tx.commit(_step(b, header, children=(new_run("c", b.now),), posts=(sent("s"),)))
        equal(reply, Committed(b.now, (posting(1, b.now),)))
        equal((await b.ledger.lines(), await b.storage.load("c")), ([], None))
        equal(await tx.commit(_step(b, header, inbox_seq=1, consumed=(1,), posts=(sent("s"),))), Committed(b.now))
    equal(await b.ledger.lines(), ["a"])
    equal(((await b.load("r")).postings, (await b.load("s")).postings), ([], [posting(1, b.now)]))
    shows(await b.header("r"), position=2)


@TRANSACTIONS
async def a_transaction_spreads_as_any_commit(b: Bench) -> None:
    """Contract 16, 18, 21: children and postings, with what was done or not at all; a journal may begin anew."""
    header = await b.held("r")
    await b.parked("s")
    async with _lender(b).transaction() as tx:
        await _note(b, tx, "a")
        await tx.commit(_step(b, header, children=(new_run("c", b.now, parent="r"),), posts=(sent("s"), sent("c")), fresh=True))
    for run_id in ("s", "c"):
        shows(await b.header(run_id), inbox_seq=1, wake_at=b.now)
    equal(([row.position for row in (await b.load("r")).rows], await b.ledger.lines()), ([2], ["a"]))


@TRANSACTIONS
async def a_commit_that_is_there_already_is_not_done_twice(b: Bench) -> None:
    """Contract 4, 21: what was done for it once more is rolled back."""
    header = await b.held("r")
    same = _step(b, header, posts=(sent("r"),))
    for text in ("a", "b"):
        async with _lender(b).transaction() as tx:
            await _note(b, tx, text)
            equal(await tx.commit(same), Committed(b.now))
    equal(await b.ledger.lines(), ["a"])
    shows(await b.header("r"), position=2, inbox_seq=1)


@TRANSACTIONS
async def a_transaction_ends_with_its_commit(b: Bench) -> None:
    """Contract 21: one that is over does nothing more, and one commit has records: else nobody could find it."""
    header = await b.held("r")
    async with _lender(b).transaction() as tx:
        await tx.commit(_step(b, header))
        await refused(StorageMisused, tx.commit(_step(b, header, position=2)))
        await refused(StorageMisused, tx.run(lambda _: None))
    shows(await b.header("r"), position=2)


@TRANSACTIONS
async def a_cancelled_commit_of_a_transaction_is_whole(b: Bench) -> None:
    """Contract 15, 21: the row and what was done are there together or not at all; leaving waits for it."""
    await b.worker("w")
    for number in range(20):
        header = (await b.create(f"r{number}", owner="w")).header

        async def go(header: Header, number: int) -> None:
            async with _lender(b).transaction() as tx:
                await _note(b, tx, f"{number}")
                committing = asyncio.ensure_future(tx.commit(_step(b, header)))
                await turns(number % 10)
                committing.cancel()
                await committing

        await asyncio.gather(go(header, number), return_exceptions=True)
        done = (await b.header(f"r{number}")).position == 2
        equal(f"{number}" in await b.ledger.lines(), done)


@TRANSACTIONS
async def many_transactions_at_once(b: Bench) -> None:
    """Contract 1, 21: more than there are connections, beside other work, and each with its own outcome."""
    await b.worker("w")
    headers = [(await b.create(f"r{number}", owner="w")).header for number in range(30)]

    async def go(header: Header) -> None:
        async with _lender(b).transaction() as tx:
            await _note(b, tx, header.run_id)
            await tx.commit(_step(b, header, posts=(sent("r0", signal_id=header.run_id),)) if header.run_id != "r0" else _step(b, header))

    replies = await patiently(asyncio.gather(*map(go, headers[1:]), *(b.create(f"s{number}") for number in range(30))))
    equal(len(replies), 59)
    equal(await _sorted(b), sorted(header.run_id for header in headers[1:]))
    equal([one.seq for one in (await b.load("r0")).postings], list(range(1, 30)))


async def _sorted(b: Bench) -> list[str]:
    return sorted(await b.ledger.lines())


# --- transactions of the caller's own


@asynccontextmanager
async def _within(b: Bench) -> AsyncIterator[tuple[Any, Within]]:
    """A transaction of the caller's, and the verbs in it."""
    if not isinstance(b.storage, Outbox):
        raise TypeError("this check is for storages that are an Outbox")
    async with b.ledger.connection() as connection, b.ledger.transaction(connection):
        yield connection, b.storage.within(connection)


async def _write(b: Bench, connection: Any, text: str) -> None:
    noted = b.ledger.note(connection, text)
    if noted is not None:
        await noted


@OUTBOX
async def a_run_is_there_with_the_callers_transaction(b: Bench) -> None:
    """Contract 2, 22: not before, and then as any; whoever waits for work is told."""
    await b.worker("w")
    count = await patiently(b.storage.changed(-1, 3600))
    waiting = asyncio.ensure_future(b.storage.changed(count, 3600))
    async with _within(b) as (connection, within):
        await _write(b, connection, "a")
        created = await within.create(new_run("r", b.now, idempotency_key="k", delay=SECOND, owner="w", parent="p"))
        equal((created.fresh, created.now), (True, b.now))
        equal((await b.storage.load("r"), await b.storage.find(Query()), await b.ledger.lines()), (None, [], []))
        equal((await within.create(new_run("x", b.now, idempotency_key="k"))).header, created.header)
    true(await patiently(waiting) != count, "a run that can be claimed is a change")
    equal((await b.header("r"), await b.ledger.lines()), (created.header, ["a"]))
    shows(created.header, owner=None, epoch=0, wake_at=b.now + SECOND, idempotency_key="k", parent="p")
    equal((await b.create("y", idempotency_key="k")).fresh, False)
    await b.clock.advance(1)
    equal(await b.claimed("w"), ["r"])


@OUTBOX
async def nothing_is_left_of_a_transaction_that_is_rolled_back(b: Bench) -> None:
    """Contract 22: no run, no key, no posting, no number."""
    await b.parked("s")
    before = await b.load("s")
    try:
        async with _within(b) as (connection, within):
            await _write(b, connection, "a")
            await within.create(new_run("r", b.now, idempotency_key="k"))
            await within.post("s", signal("go", signal_id="x"))
            raise _Spoilt
    except _Spoilt:
        pass
    equal((await b.storage.load("r"), await b.ledger.lines()), (None, []))
    await b.unchanged("s", before)
    equal(((await b.create("y", idempotency_key="k")).fresh, (await b.post("s", "x")).seq), (True, 1))


@OUTBOX
async def a_run_that_is_there_is_found_within(b: Bench) -> None:
    """Contract 2, 22: by its id or its key, untouched."""
    first = await b.held("r", idempotency_key="k")
    async with _within(b) as (_, within):
        for run in (new_run("r", b.now), new_run("x", b.now, idempotency_key="k")):
            found = await within.create(run)
            equal((found.fresh, found.header), (False, first))
    equal([header.run_id for header in await b.storage.find(Query())], ["r"])


@OUTBOX
async def a_posting_is_there_with_the_callers_transaction(b: Bench) -> None:
    """Contract 7, 22: numbered with what others send; it wakes the run, and who waits is told."""
    await b.parked("s")
    await b.post("s", "a")
    await b.worker("w")
    count = await patiently(b.storage.changed(-1, 3600))
    waiting = asyncio.ensure_future(b.storage.changed(count, 3600))
    async with _within(b) as (_, within):
        posted = await within.post("s", signal("go", signal_id="b"), workflow=FLOW[0])
        equal((posted.seq, posted.fresh, posted.run, posted.header.inbox_seq), (2, True, None, 2))
        again = [await within.post("s", signal("go", signal_id=known)) for known in ("a", "b")]
        equal([(reply.seq, reply.fresh) for reply in again], [(1, False), (2, False)])
        equal(len((await b.load("s")).postings), 1)
    true(await patiently(waiting) != count, "a posting is a change")
    equal((await b.load("s")).postings, [posting(1, b.now, "a"), posting(2, b.now, "b")])
    equal(await b.claimed("w"), ["s"])


@OUTBOX
async def a_run_may_be_posted_to_where_it_is_made(b: Bench) -> None:
    """Contract 22: in one transaction."""
    async with _within(b) as (_, within):
        await within.create(new_run("r", b.now, delay=SECOND))
        equal((await within.post("r", signal("go"))).seq, 1)
    shows(await b.header("r"), inbox_seq=1, wake_at=b.now)


@OUTBOX
async def what_is_refused_leaves_the_callers_transaction_as_it_is(b: Bench) -> None:
    """Contract 7, 22, S2.4: the caller decides whether it goes on."""
    await b.ended("ended")
    await b.create("full")
    await b.post("full")
    async with _within(b) as (connection, within):
        await _write(b, connection, "a")
        await refused(RunNotFound, within.post("nobody", signal("go")))
        await refused(RunNotFound, within.post("full", signal("go"), workflow="other"))
        await refused(RunFinished, within.post("ended", signal("go")))
        await refused(InboxFull, within.post("full", signal("go", limit=1)))
        await within.create(new_run("r", b.now))
    equal(await b.ledger.lines(), ["a"])
    shows(await b.header("r"), position=1)
    shows(await b.header("full"), inbox_seq=1)


@OUTBOX
async def there_must_be_a_transaction(b: Bench) -> None:
    """Contract 22: otherwise what was meant to come with the caller's work would come without it."""
    await b.create("s")
    async with b.ledger.connection() as connection:
        assert isinstance(b.storage, Outbox)
        within = b.storage.within(connection)
        await refused(StorageMisused, within.create(new_run("r", b.now)))
        await refused(StorageMisused, within.post("s", signal("go")))
        await refused(StorageMisused, b.storage.within(object()).create(new_run("r", b.now)))
    equal((await b.storage.load("r"), (await b.header("s")).inbox_seq), (None, 0))

"""Transactions that SQLite lends to handlers, and those that applications open themselves (contract 21, 22)."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flux.errors import StorageMisused, StorageUnavailable
from flux.testing import VirtualClock
from flux.testing.conformance import OUTBOX_CHECKS, TRANSACTION_CHECKS, run_check
from flux.testing.conformance.kit import commit_of, new_run
from flux_storage import SQLiteStorage
from flux_storage.sqlite import transactions

pytestmark = pytest.mark.anyio


class Lines:
    """The table of an application in the file of flux."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE lines (text TEXT)")
            connection.commit()

    def note(self, connection: Any, text: str) -> None:
        """Write a line."""
        connection.execute("INSERT INTO lines VALUES (?)", (text,))

    async def lines(self) -> list[str]:
        """What is committed."""
        with closing(sqlite3.connect(self.path)) as connection:
            return [text for (text,) in connection.execute("SELECT text FROM lines ORDER BY rowid")]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """One of the application's own."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self, connection: Any) -> AsyncIterator[Any]:
        """A transaction on it."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


@pytest.mark.parametrize("name", [*TRANSACTION_CHECKS, *OUTBOX_CHECKS])
async def test_contract(name: str, tmp_path: Path) -> None:
    """Contract 21, 22, on a file."""
    path = tmp_path / "flux.db"
    await run_check(name, lambda clock: SQLiteStorage(path, synchronous="NORMAL", clock=clock), ledger=Lines(path))


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SQLiteStorage]:
    """A storage in which the worker w holds the run r, beside a table of an application."""
    Lines(tmp_path / "flux.db")
    async with SQLiteStorage(tmp_path / "flux.db", synchronous="NORMAL") as storage:
        await storage.register("w", 30_000_000)
        yield storage


async def held(storage: SQLiteStorage, run_id: str = "r") -> Any:
    return (await storage.create(new_run(run_id, await storage.now(), owner="w"))).header


async def test_the_handler_runs_in_the_writers_thread(storage: SQLiteStorage) -> None:
    """Contract 21: on the connection of all writes, as SQLite users know it: str comes back as str."""
    header = await held(storage)

    def look(connection: sqlite3.Connection) -> Any:
        connection.row_factory = sqlite3.Row
        row = connection.execute("SELECT 'a' AS text").fetchone()
        return threading.current_thread().name, row["text"]

    async with storage.transaction() as tx:
        assert await tx.run(look) == ("flux-sqlite-writer", "a")
        await tx.commit(commit_of(header, await storage.now()))
    assert (await storage.load("r")).header.position == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "statement",
    ["COMMIT", "ROLLBACK", "BEGIN", "DELETE FROM flux_runs", "UPDATE flux_journal SET at = 1", "DROP TABLE flux_inbox",
     "CREATE TRIGGER t AFTER INSERT ON flux_journal BEGIN SELECT 1; END", "ALTER TABLE flux_runs ADD x", "PRAGMA synchronous = OFF",
     "ATTACH ':memory:' AS other"],
)  # fmt: skip
async def test_what_a_handler_may_not_do(storage: SQLiteStorage, statement: str) -> None:
    """S3.6, I1: it neither ends the transaction nor writes what is flux's; and afterwards flux can."""
    header = await held(storage)
    async with storage.transaction() as tx:
        with pytest.raises(sqlite3.DatabaseError):
            await tx.run(lambda connection: connection.execute(statement))
        await tx.run(lambda connection: connection.execute("INSERT INTO lines VALUES ('a')").connection.execute("SELECT * FROM flux_runs"))
        await tx.commit(commit_of(header, await storage.now()))
    assert await Lines.lines(_lines(storage)) == ["a"]


def _lines(storage: SQLiteStorage) -> Lines:
    found = Lines.__new__(Lines)
    found.path = Path(storage.path)
    return found


async def test_a_handler_that_takes_too_long(storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """D13: it would let every lease on the file expire; a statement is interrupted, and what comes too late is taken back."""
    monkeypatch.setattr(transactions, "LIMIT", 0.05)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"

    def busy(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO lines VALUES ('late')")
        begun = time.perf_counter()
        while time.perf_counter() - begun < 0.1:
            pass

    header = await held(storage)
    for handler in (lambda connection: connection.execute(endless).fetchall(), busy):
        async with transactions.SQLiteTransaction(storage._parts().port(), 0.05) as tx:  # pyright: ignore[reportPrivateUsage]
            with pytest.raises(TimeoutError, match="of the writer's time"):
                await tx.run(handler)
            with pytest.raises(StorageMisused):
                await tx.commit(commit_of(header, await storage.now()))
    assert await _lines(storage).lines() == []


async def test_a_handler_that_closes_the_connection(storage: SQLiteStorage) -> None:
    """S3.6: it is told that it may not, and what it wrote is taken back unless it goes on; others write afterwards."""
    header = await held(storage)

    def close(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO lines VALUES ('a')")
        connection.close()

    async with storage.transaction() as tx:
        with pytest.raises(StorageMisused, match="leave it open"):
            await tx.run(close)
    async with storage.transaction() as tx:
        await tx.run(lambda connection: connection.execute("INSERT INTO lines VALUES ('b')"))
        await tx.commit(commit_of(header, await storage.now()))
    assert await _lines(storage).lines() == ["b"]


@pytest.mark.parametrize(
    "begin",
    [
        lambda connection: connection.execute("INSERT INTO lines VALUES ('c') RETURNING text"),
        lambda connection: connection.execute("SELECT text FROM lines"),
        lambda connection: connection.cursor().execute("SELECT text FROM lines"),
        lambda connection: connection.blobopen("lines", "text", 1, readonly=True),
    ],
)
async def test_a_statement_that_a_handler_leaves_open(storage: SQLiteStorage, begin: Any) -> None:
    """S3.6, I18: it is over with the handler, although its cursor is kept; nobody's commit waits for it, also where others write."""
    header = await held(storage)
    ledger = _lines(storage)
    kept: list[Any] = []
    try:
        async with ledger.connection() as outside:
            ledger.note(outside, "a")
            ledger.note(outside, "b")
            async with storage.transaction() as tx:
                await tx.run(lambda connection: kept.append(begin(connection)))
                await tx.commit(commit_of(header, await storage.now()))
            ledger.note(outside, "d")
        assert await asyncio.wait_for(held(storage, "other"), 10)
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            kept[0].read() if isinstance(kept[0], sqlite3.Blob) else kept[0].fetchone()
    finally:
        kept.clear()


@pytest.mark.parametrize(
    "use",
    [
        lambda connection: connection.execute("DELETE FROM flux_runs"),
        lambda connection: connection.executemany("DELETE FROM flux_runs WHERE run_id = ?", [("r",)]),
        lambda connection: connection.executescript("DELETE FROM flux_runs"),
        lambda connection: connection.cursor(),
        lambda connection: connection.blobopen("flux_runs", "run_id", 1),
        lambda connection: connection.commit(),
        lambda connection: connection.rollback(),
        lambda connection: connection.__enter__(),
    ],
)
async def test_a_connection_that_a_handler_keeps(storage: SQLiteStorage, use: Any) -> None:
    """S3.6: it is of no use once the step is over, neither beside others' transactions nor between them."""
    header = await held(storage)
    async with storage.transaction() as tx:
        kept = await tx.run(lambda connection: connection)
        await tx.commit(commit_of(header, await storage.now()))
        with pytest.raises(StorageMisused, match="a step that is over"):
            use(kept)
    with pytest.raises(StorageMisused, match="a step that is over"):
        use(kept)
    assert await storage.read_header(header.run_id) is not None


async def test_a_connection_that_is_closed_all_the_same(storage: SQLiteStorage) -> None:
    """S15.3: then there is no database any more, and every call says so; none waits for ever, nor does closing."""
    async with storage.transaction() as tx:
        with pytest.raises(sqlite3.ProgrammingError):
            await tx.run(sqlite3.Connection.close)
    with pytest.raises(StorageUnavailable, match="closed database"):
        await held(storage)
    with pytest.raises(StorageUnavailable, match="closed database"):
        async with storage.transaction():
            pass


async def test_a_constraint_that_the_commit_finds(storage: SQLiteStorage) -> None:
    """Contract 21: what the database has against it comes as its driver says it, and nothing is left."""
    _demand_parents(storage)
    header = await held(storage)
    async with storage.transaction() as tx:
        await tx.run(lambda connection: connection.execute("INSERT INTO kids VALUES (7)"))
        with pytest.raises(sqlite3.IntegrityError):
            await tx.commit(commit_of(header, await storage.now()))
    assert (await storage.load("r")).header.position == 1  # type: ignore[union-attr]


async def test_a_lease_that_was_extended_in_vain_is_extended_again(tmp_path: Path) -> None:
    """D15: what a transaction that was rolled back did for the lease counts for nothing."""
    Lines(tmp_path / "flux.db")
    clock = VirtualClock(autojump=False)
    async with SQLiteStorage(tmp_path / "flux.db", synchronous="NORMAL", clock=clock) as storage:
        await storage.register("w", 30_000_000)
        header = await held(storage)
        _demand_parents(storage)
        await storage.commit(commit_of(header, clock.now()))
        header = replace(header, position=2)
        await clock.advance(11)
        async with storage.transaction() as tx:
            await tx.run(lambda connection: connection.execute("INSERT INTO kids VALUES (7)"))
            with pytest.raises(sqlite3.IntegrityError):
                await tx.commit(commit_of(header, clock.now()))
        assert await _expires_at(storage) == clock.now() + 19_000_000
        await storage.commit(commit_of(header, clock.now()))
        assert await _expires_at(storage) == clock.now() + 30_000_000


def _demand_parents(storage: SQLiteStorage) -> None:
    """A table that has something against a transaction only when it ends."""
    with closing(sqlite3.connect(storage.path)) as connection:
        connection.executescript(
            "CREATE TABLE parents (id INTEGER PRIMARY KEY);"
            "CREATE TABLE kids (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)"
        )
    writer = storage._parts().port()._writer  # pyright: ignore[reportPrivateUsage]
    sqlite3.Connection.execute(writer.connection, "PRAGMA foreign_keys = ON")


async def _expires_at(storage: SQLiteStorage) -> int:
    with closing(sqlite3.connect(storage.path)) as connection:
        expires_at: int = connection.execute("SELECT expires_at FROM flux_workers").fetchone()[0]
    return expires_at


async def test_others_write_before_and_after(storage: SQLiteStorage) -> None:
    """Contract 1: who comes meanwhile waits, and nobody is forgotten."""
    header = await held(storage)
    async with storage.transaction() as tx:
        others = [asyncio.ensure_future(storage.create(new_run(f"o{number}", header.created_at))) for number in range(20)]
        second = asyncio.ensure_future(_whole(storage, "second"))
        await tx.run(lambda connection: connection.execute("INSERT INTO lines VALUES ('first')"))
        assert not any(other.done() for other in others)
        await tx.commit(commit_of(header, header.created_at))
    await asyncio.gather(*others, second)
    assert await _lines(storage).lines() == ["first", "second"]


async def _whole(storage: SQLiteStorage, text: str) -> None:
    async with storage.transaction() as tx:
        await tx.run(lambda connection: connection.execute("INSERT INTO lines VALUES (?)", (text,)))
        header = await storage.read_header("r")
        assert header is not None
        await tx.commit(commit_of(header, header.created_at))


async def test_closing_waits_for_it(tmp_path: Path) -> None:
    """Contract 1: leaving the storage finishes what was begun."""
    storage = SQLiteStorage(tmp_path / "flux.db", synchronous="NORMAL", clock=VirtualClock())
    await storage.__aenter__()
    await storage.register("w", 30_000_000)
    header = await held(storage)
    tx = await storage.transaction().__aenter__()
    closing_ = asyncio.ensure_future(storage.__aexit__(None, None, None))
    await asyncio.sleep(0)
    await tx.commit(commit_of(header, header.created_at))
    await tx.__aexit__(None, None, None)
    await closing_
    async with SQLiteStorage(tmp_path / "flux.db") as again:
        assert (await again.load("r")).header.position == 2  # type: ignore[union-attr]


async def test_connections_that_are_refused(storage: SQLiteStorage, tmp_path: Path) -> None:
    """S15.7: another driver's, another file's, or outside a transaction."""
    run = new_run("n", 1)
    with pytest.raises(StorageMisused, match="got str"):
        await storage.within("flux.db").create(run)  # type: ignore[arg-type]
    with closing(sqlite3.connect(storage.path, isolation_level=None)) as connection:
        with pytest.raises(StorageMisused, match="BEGIN IMMEDIATE"):
            await storage.within(connection).create(run)
    for path in (tmp_path / "other.db", ":memory:"):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageMisused, match="not on the file of this storage"):
                await storage.within(connection).create(run)

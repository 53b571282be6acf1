"""A transaction that a handler works in (contract 21): it has the writer to itself, and is over within a moment.

The handler is a `def`, called in the writer's thread on the writer's own connection. Others' writes wait meanwhile, heartbeats
too: so it has `LIMIT` seconds. What comes later is taken back, and a statement that takes longer is interrupted. While it has
the connection it can neither end the transaction nor write to flux's tables.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from types import TracebackType
from typing import Any, TypeVar, cast

from flux.errors import FluxError, StorageMisused
from flux.journal import encode_row
from flux.storage import Commit, Committed, RolledBack

from . import queries, runs
from .port import Port
from .schema import WriterConnection
from .writer import Transaction, Writer

T = TypeVar("T")

LIMIT = 2.0  # seconds
_STEPS = 10_000  # of SQLite's machine, between two looks at the clock
_OURS = "flux_"
_READING = frozenset({sqlite3.SQLITE_READ, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})


class SQLiteTransaction:
    """See `flux.storage.Transaction`. Made by `SQLiteStorage.transaction()`."""

    def __init__(self, port: Port, limit: float = LIMIT) -> None:
        self._port = port
        self._loop = port.loop
        self._limit = limit
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._writer: Writer | None = None
        self._tx: Transaction | None = None  # None once the transaction is over
        self._end: asyncio.Future[None] | None = None

    # --- in the event loop

    async def __aenter__(self) -> SQLiteTransaction:
        """Wait for the writer, and begin. Raises StorageUnavailable."""
        begun: asyncio.Future[None] = self._loop.create_future()
        self._end = self._loop.create_future()
        self._port.invite(partial(self._serve, begun, self._end))
        try:
            with self._port.at_work():
                await begun
        except BaseException:
            self._jobs.put(None)
            self._port.dismiss()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take back what was not committed, and let the writer go on."""
        self._jobs.put(None)
        self._port.dismiss()
        assert self._end is not None, "entered before it is left"
        with self._port.at_work():
            await self._end

    @property
    def connection(self) -> WriterConnection:
        """The writer's, in the open transaction; for what `run` calls."""
        if self._writer is None or self._tx is None:
            raise StorageMisused("the transaction is over")
        return self._writer.connection

    async def run(self, call: Callable[[Any], Awaitable[T] | T]) -> T:
        """What `call(connection)` returns, in the writer's thread. Raises what it raises; TimeoutError, StorageMisused."""
        value: Any = await self._do(lambda: self._call(call))
        return cast("T", value)

    async def commit(self, commit: Commit) -> Committed:
        """The step forward, and with it all that was done. Raises LeaseLost, RunNotFound, RolledBack, sqlite3.Error."""
        if not commit.records:
            raise StorageMisused("a commit in a transaction has records")
        texts = encode_row(commit.records)
        children = [(child, encode_row(child.records)) for child in commit.children]
        return await self._do(partial(self._commit, commit, texts, children))

    async def _do(self, job: Callable[[], T]) -> T:
        answer: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(partial(self._perform, job, answer))
        with self._port.at_work():
            return await asyncio.shield(answer)

    # --- in the writer's thread

    def _serve(self, begun: asyncio.Future[None], end: asyncio.Future[None], writer: Writer) -> None:
        self._writer = writer
        try:
            self._tx = writer.begin()
        except BaseException as error:
            self._answer(begun, None, error)
        else:
            self._answer(begun, None, None)
        while (job := self._jobs.get()) is not None:
            job()
        try:
            self._take_back()
        finally:
            self._answer(end, None, None)

    def _perform(self, job: Callable[[], T], answer: asyncio.Future[T]) -> None:
        try:
            if self._tx is None:
                raise StorageMisused("the transaction is over")
            value = job()
        except BaseException as error:
            self._answer(answer, None, error)
        else:
            self._answer(answer, value, None)

    def _answer(self, answer: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, answer, value, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _call(self, call: Callable[[Any], T]) -> T:
        connection = self.connection
        begun = perf_counter()
        connection.lend()
        connection.set_authorizer(_allows)
        connection.set_progress_handler(lambda: perf_counter() - begun > self._limit, _STEPS)
        connection.row_factory, connection.text_factory, own = None, str, connection.text_factory
        try:
            return call(connection)
        finally:
            connection.take_back()
            connection.set_authorizer(None)
            connection.set_progress_handler(None, _STEPS)
            connection.row_factory, connection.text_factory = None, own
            self._check(perf_counter() - begun)

    def _check(self, seconds: float) -> None:
        if not self.connection.in_transaction:  # SQLite itself takes a transaction back where its disk is full, or it is told to
            self._tx = None
            raise StorageMisused("the transaction of the step is over before the step is: leave it to flux to end it")
        if seconds > self._limit:
            self._take_back()
            raise TimeoutError(f"it took {seconds:.1f} s of the writer's time, and has {self._limit:g} s")

    def _commit(self, commit: Commit, texts: runs.Texts, children: list[runs.Child]) -> Committed:
        tx, writer = self._tx, self._writer
        assert tx is not None and writer is not None, "checked by _perform"
        tx.refresh(writer.now())
        try:
            stand = tx.row(queries.STAND, (commit.ref, commit.run_id))
            reply = runs.commit(tx, commit, texts, children)
            if reply.postings:
                return reply
            if stand is not None and stand[2] != commit.position:  # it was written before
                self._take_back()
                return reply
            writer.end(tx)
        except Exception as error:
            self._take_back()
            if isinstance(error, FluxError | sqlite3.IntegrityError):
                raise
            raise RolledBack(f"the transaction could not be committed: {error}") from error
        self._tx = None
        return reply

    def _take_back(self) -> None:
        if self._tx is not None and self._writer is not None:
            self._tx = None
            self._writer.take_back()


def _allows(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    """What a handler may do on the connection."""
    if action in _READING:
        return sqlite3.SQLITE_OK
    if action in (sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_OK if second is None or first in _ASKING else sqlite3.SQLITE_DENY
    if any(name is not None and name.lower().startswith(_OURS) for name in (first, second)):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


_ASKING = frozenset({"table_info", "table_xinfo", "index_list", "index_info", "foreign_key_list", "foreign_key_check"})  # they take a name


def _settle(answer: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(value)
    elif isinstance(error, StopIteration | GeneratorExit):  # a future takes none, and a coroutine would take it for its end
        wrapped = RuntimeError(f"the handler raised {type(error).__name__}")
        wrapped.__cause__ = error
        answer.set_exception(wrapped)
    else:
        answer.set_exception(error)

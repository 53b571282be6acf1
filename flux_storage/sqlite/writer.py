"""The one writer of a storage: a thread that commits what has gathered, all of it in one transaction.

Group commit (I47): while one transaction is being synced to disk, the next operations gather. Each operation has its own
outcome. One that the contract refuses raises a FluxError before it has written anything, and the others go on. When the
transaction itself fails it is rolled back and every operation is tried alone, so that a bad one fails alone.

While the disk is quick, a small operation that is alone is committed by its caller's thread (`here`): two hand-overs between threads
cost as much as such a commit. Whoever uses the connection holds the turn.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, Protocol

from flux.errors import FluxError, StorageUnavailable

from . import queries
from .errors import is_busy, translate
from .schema import Patience, WriterConnection, open_connection

BATCH = 256  # operations in one transaction

SWIFT = 0.001  # seconds: commits that take no longer on average may hold up an event loop
SLUGGISH = 0.005  # seconds: after one commit this slow, the thread does all of them for a while

IDLE, RUNNING, WAITING = 0, 1, 2  # what the thread does: nothing, needs the interpreter, waits for disk or file

FORKED = "forked, and SQLite does not survive a fork: start processes with 'spawn', or fork before the storage is opened"

_log = logging.getLogger("flux.storage.sqlite")


class Transaction:
    """What an operation works with: a cursor inside a transaction, and the time of the storage.

    `notify`: set it when others may wait for this change. `workers`: what is known of workers here, by nonce; `looked`: until when, by
    what earlier transactions found, their leases need not be prolonged. `afterwards`: called once the transaction is durable.
    """

    __slots__ = ("afterwards", "cursor", "looked", "notify", "now", "workers")

    def __init__(self, cursor: sqlite3.Cursor, now: int, looked: dict[str, int] | None = None) -> None:
        self.cursor = cursor
        self.now = now
        self.looked = {} if looked is None else looked
        self.notify = False
        self.workers: dict[str, tuple[int, int] | None] = {}
        self.afterwards: list[Callable[[], None]] = []

    def refresh(self, now: int) -> None:
        """Time has passed since it began, and what was known of workers may be old."""
        self.now = now
        self.workers.clear()

    def row(self, sql: str, parameters: Any = ()) -> Any:
        """The first row, or None."""
        return self.cursor.execute(sql, parameters).fetchone()


class Operation:
    """One verb on its way: the work, and what became of it. A `small` one may be done in its caller's thread."""

    __slots__ = ("error", "future", "small", "value", "work")

    def __init__(self, work: Callable[[Transaction], Any], future: asyncio.Future[Any] | None = None, small: bool = False) -> None:
        self.work = work
        self.future = future
        self.small = small
        self.value: Any = None
        self.error: Exception | None = None

    def outcome(self) -> Any:
        """What it came to. Raises its error."""
        if self.error is not None:
            raise self.error
        return self.value

    def settle(self) -> None:
        """Answer the caller, if it still waits. On its event loop."""
        if self.future is None or self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Batch(Protocol):
    """Operations handed over together. `answer` is called in the writer's thread, once their outcomes stand."""

    operations: list[Operation]

    def answer(self) -> None:
        """Let the callers know."""
        ...


@dataclass(frozen=True, slots=True)
class Guest:
    """Somebody who gets the writer, in its thread, for a transaction of their own."""

    serve: Callable[[Writer], None]


def _promise() -> Future[None]:
    made: Future[None] = Future()
    made.set_running_or_notify_cancel()  # who waits for it cannot cancel it
    return made


class Writer:
    """The thread and its connection. It opens the file when it starts: `opened` and `closed` tell when it has, and has ended."""

    def __init__(self, path: str, *, synchronous: str, busy_warning: float, now: Callable[[], int], changed: Callable[[int], None]) -> None:
        self.phase = IDLE
        self._path = path
        self._synchronous = synchronous
        self._busy_warning = busy_warning
        self.now = now
        self._changed = changed
        self.opened, self.closed = _promise(), _promise()
        self._queue: SimpleQueue[Batch | Guest | None] = SimpleQueue()
        self._next: Guest | None = None  # came while a batch gathered
        self._gate = threading.Lock()
        self._turn = threading.Lock()  # who has it uses the connection
        self._wanted = False  # by the thread: others leave it alone
        self.cost = SWIFT
        """Seconds that a transaction takes, averaged."""
        self._stopped = False
        self.refusal = "the storage was closed before this call"
        """Why nothing can be handed over any more."""
        self._looked: dict[str, int] = {}
        self.thread = threading.Thread(target=self._run, name="flux-sqlite-writer", daemon=True)
        self.thread.start()

    def hand_over(self, batch: Batch | Guest) -> bool:
        """Queue a batch; False when the thread takes no more."""
        with self._gate:
            if self._stopped:
                return False
            self._queue.put(batch)
            return True

    def here(self, operation: Operation) -> bool:
        """Commit this one operation in the calling thread, if that is quick just now; whether it was done, one way or the other."""
        if self._wanted or self.cost >= SWIFT or not self._turn.acquire(blocking=False):
            return False
        try:
            if self._stopped or not self._queue.empty():
                return False
            try:
                transaction = self._attempt([operation])
            except Exception as error:
                self.take_back()
                if is_busy(error):
                    return False
                operation.error = translate(error, self._path)
            except BaseException:  # a signal handler's: this is the thread that has those
                self.take_back()
                raise
            else:
                for act in transaction.afterwards:
                    act()
            return True
        finally:
            self.phase = IDLE
            self._turn.release()

    def stop(self) -> None:
        """Finish what is queued, then end."""
        with self._gate:
            self._stopped = True
            self._queue.put(None)

    def disown(self) -> None:
        """In a forked child: the thread and the connection are the parent's. No lock is waited for, its holder may not be there."""
        self.refusal = f"the storage was open when this process was {FORKED}"
        self._gate = threading.Lock()
        self._stopped = True

    # --- in the thread

    def _run(self) -> None:
        try:
            self._connection = open_connection(self._path, self._synchronous, self._patience)
            self._cursor = self._connection.keep()
        except Exception as error:
            self.opened.set_exception(translate(error, self._path))
            return
        self.opened.set_result(None)
        try:
            while self._serve():
                pass
        finally:  # also where the thread dies of what nobody has foreseen
            self.stop()
            with self._turn:
                self._connection.let_go()
            while self._serve():  # what is left is told that there is no database any more
                pass
            self.closed.set_result(None)

    def _serve(self) -> bool:
        """Perform what is queued; False when that was the last."""
        batch = self._next or self._queue.get()
        self._next = None
        if batch is None:
            return False
        if isinstance(batch, Guest):
            self._receive(batch)
            return True
        batches = [batch]
        operations = list(batch.operations)
        last = False
        while len(operations) < BATCH:
            try:
                batch = self._queue.get_nowait()
            except Empty:
                break
            if batch is None:
                last = True
                break
            if isinstance(batch, Guest):
                self._next = batch
                break
            batches.append(batch)
            operations += batch.operations
        try:
            with self._own_turn():
                self._perform(operations)
        except BaseException:
            for operation in operations:
                operation.error = StorageUnavailable(f"{self._path}: its writer has ended")
            raise
        finally:
            for batch in batches:
                batch.answer()
        return not last

    def _receive(self, guest: Guest) -> None:
        with self._own_turn():
            try:
                guest.serve(self)
            except Exception:
                _log.exception("%s: what a handler began could not be taken back", self._path)

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        self._wanted = True
        with self._turn:
            self._wanted = False
            yield

    def _perform(self, operations: list[Operation]) -> None:
        try:
            self._transact(operations)
        except Exception as error:
            if len(operations) == 1:
                operations[0].error = translate(error, self._path)
            else:
                for operation in operations:
                    self._perform([operation])
        finally:
            self.phase = IDLE

    def _transact(self, operations: list[Operation]) -> None:
        patience: Patience | None = None
        while True:
            try:
                transaction = self._attempt(operations)
            except Exception as error:
                self.take_back()
                if not is_busy(error):
                    raise
            else:
                break
            patience = patience or self._patience()
            self.phase = WAITING
            patience()
        for act in transaction.afterwards:
            act()

    def _attempt(self, operations: list[Operation]) -> Transaction:
        cursor = self._cursor
        self.phase = RUNNING
        begun = perf_counter()
        cursor.execute(queries.BEGIN)
        transaction = Transaction(cursor, self.now(), self._looked)
        for operation in operations:
            try:
                operation.error = None
                operation.value = operation.work(transaction)
            except FluxError as error:
                operation.error = error
        changes = self._commit(transaction)
        if changes:
            self._changed(changes)
        cost = perf_counter() - begun
        self.cost = 10 * SWIFT if cost > SLUGGISH else self.cost + (cost - self.cost) / 8
        return transaction

    def _commit(self, transaction: Transaction) -> int:
        """Make it durable; the file's count of changes, 0 when nobody has to be told."""
        changes = 0
        if transaction.notify:
            changes = transaction.row(queries.CHANGES)[0] + 1
            transaction.cursor.execute(queries.SET_CHANGES, (changes,))
        self.phase = WAITING
        transaction.cursor.execute(queries.COMMIT)
        self.phase = RUNNING
        return changes

    # --- for guests, in the thread

    @property
    def connection(self) -> WriterConnection:
        """The connection that all writes go through."""
        return self._connection

    def begin(self) -> Transaction:
        """Begin, as soon as nobody else holds the file. Raises as a verb does."""
        patience: Patience | None = None
        while True:
            try:
                self._cursor.execute(queries.BEGIN)
            except sqlite3.Error as error:
                if not is_busy(error):
                    raise translate(error, self._path) from error
            else:
                return Transaction(self._cursor, self.now(), self._looked)
            patience = patience or self._patience()
            self.phase = WAITING
            patience()

    def end(self, transaction: Transaction) -> None:
        """Make it durable. Raises sqlite3.Error."""
        changes = self._commit(transaction)
        for act in transaction.afterwards:
            act()
        if changes:
            self._changed(changes)

    def take_back(self) -> None:
        """Leave everything as it was."""
        self._looked.clear()  # it may tell of what is taken back
        with suppress(sqlite3.ProgrammingError):  # the connection is closed: nothing is left of it
            if self._connection.in_transaction:
                self._cursor.execute(queries.ROLLBACK)

    def _patience(self) -> Patience:
        return Patience(self._busy_warning, self._warn)

    def _warn(self, seconds: float) -> None:
        _log.warning("%s has been locked by somebody else for %.0f s; still waiting", self._path, seconds)

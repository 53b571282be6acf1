"""`SQLiteStorage`: the verbs of `flux.storage.WorkflowStorage` on a SQLite file.

reads    load, find, read_header,          reader.py: aiosqlite, on a connection of their own
         read_journal, schedules
writes   the other verbs                   port.py: from the event loop to the writer and back
                                           writer.py: one thread, group commit
                                           runs.py, leases.py, schedules.py, forgetting.py: what happens inside the transaction
         transactions.py: a handler's        within.py: inside an application's own
opening  opened.py: what is there from then to closing
beside   changes.py: what `changed` waits for; bell.py: how processes wake one another;
         ../liveness.py: whose process is still there
         schema.py, schema.sql, schema_2.sql, queries.py: the tables, and every SQL text
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from flux.clock import Clock, SystemClock
from flux.core.status import RunStatus
from flux.errors import InvalidArgument, StorageMisused
from flux.journal import encode_row
from flux.storage import (
    Claimed,
    Code,
    Commit,
    Committed,
    Created,
    Header,
    Limit,
    NewPosting,
    NewRun,
    Outgoing,
    Posted,
    Query,
    Renewal,
    Row,
    Schedule,
    StoredRun,
)

from ..turns import Turns
from . import forgetting, queries, runs, schedules
from .leases import Raw
from .opened import Opened, refuse_inherited
from .rows import header_of, row_of, schedule_of, stored_of
from .transactions import SQLiteTransaction
from .within import Within
from .writer import Transaction

__all__ = ["SQLiteStorage"]

T = TypeVar("T")

MEMORY = ":memory:"
_LATEST = (1 << 63) - 1


class SQLiteStorage:
    """A `WorkflowStorage` in a SQLite file, for the processes of one machine.

    `path` is a file, made when it is not there, or ":memory:". `synchronous="FULL"` makes every acknowledged write survive a
    loss of power; "NORMAL" is faster and may lose the last of them then, though never on a crash of the process.
    `clock` is where its time comes from. `busy_warning`: seconds after which waiting for a file that somebody else holds
    locked is logged, again and again; it is never an error.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        clock: Clock | None = None,
        busy_warning: float = 30.0,
    ) -> None:
        if synchronous not in queries.SYNCHRONOUS:
            raise InvalidArgument(f"synchronous={synchronous!r} is refused: expected 'FULL' or 'NORMAL'")
        given = os.fspath(path)
        if not given or "\0" in given:
            raise InvalidArgument(f"path {given!r} is refused: expected a file, or {MEMORY!r}")
        self.clock: Clock = clock or SystemClock()
        self.path = given if given == MEMORY else str(Path(given).absolute())
        self._synchronous = synchronous
        self._busy_warning = busy_warning
        self._last = 0
        self._time = threading.Lock()
        self._open: Opened | None = None
        self._users = 0
        self._turns = Turns()  # of opening and closing
        self._leaving: set[asyncio.Task[None]] = set()

    @classmethod
    def from_url(cls, url: str) -> SQLiteStorage:
        """From `sqlite:///relative.db`, `sqlite:////absolute.db` or `sqlite:///:memory:`, perhaps with `?synchronous=normal`.

        Raises InvalidArgument.
        """
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise InvalidArgument(f"{url!r} is refused: {error}") from None
        path = unquote(parts.path[1:])
        if parts.scheme != "sqlite" or parts.netloc or parts.fragment or not path:
            raise InvalidArgument(f"{url!r} is refused: expected sqlite:///relative.db or sqlite:////absolute.db")
        settings: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name != "synchronous" or value.upper() not in queries.SYNCHRONOUS:
                raise InvalidArgument(f"{name}={value} in {url!r} is refused: expected synchronous=full or normal")
            settings[name] = value.upper()
        return cls(path, **settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    # --- opening and closing

    async def __aenter__(self) -> SQLiteStorage:
        """Open the file, and migrate it; several users share one opened storage. Raises StorageTooNew, StorageMisused,
        StorageUnavailable."""
        async with self._turns:
            if self._open is None:
                opened = Opened(None if self.path == MEMORY else self.path, self.clock, self._lose)
                await opened.open(self._synchronous, self._busy_warning, self._tell)
                self._open = opened
            self._users += 1
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Finish what was begun, and close, when this was the last user. That goes on where the caller is cancelled."""
        leaving = asyncio.get_running_loop().create_task(self._leave())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)

    async def _leave(self) -> None:
        async with self._turns:
            if self._open is None:
                return  # in a forked child: it is open in the parent
            self._users -= 1
            if self._users == 0:
                current, self._open = self._open, None
                await current.close()

    def _lose(self) -> None:
        """In a forked child: what is open is the parent's."""
        self._open, self._users = None, 0
        self._turns, self._time = Turns(), threading.Lock()

    def _parts(self) -> Opened:
        if self._open is None:
            refuse_inherited(self.path)
            raise StorageMisused(f"{self!r} is not open: use it inside 'async with'")
        return self._open

    def _write(self, work: Callable[[Transaction], T], *, small: bool = False) -> asyncio.Future[T]:
        return self._parts().port().submit(work, small=small)

    async def _soon(self, run_id: str, work: Callable[[Transaction], T]) -> T:
        port = self._parts().port()
        done = port.at_once(work, run_id)
        if done is not None:
            value: T = done.outcome()
            return value
        return await port.submit(work, small=True)

    async def _rows(self, sql: str, parameters: Any) -> list[Any]:
        reader = self._parts().reader
        if reader is not None:
            return await reader.rows(sql, parameters)
        return await self._write(lambda tx: tx.cursor.execute(sql, parameters).fetchall())

    # --- time

    def _tell(self) -> int:
        with self._time:
            self._last = max(self._last, self.clock.now())
            return self._last

    async def now(self) -> int:
        """The clock's time, or the last answer where that is later (D16)."""
        self._parts()
        return self._tell()

    async def changed(self, since: int, timeout: float) -> int:
        """The count of changes that others may wait for: at once when it is not `since`, else with the next or the timeout."""
        return await self._parts().changes.wait(since, timeout, self.clock)

    # --- runs

    async def create(self, run: NewRun) -> Created:
        """Make a run, or find the one that is there. Raises LeaseLost when `owner` is not live."""
        return await self._soon(run.run_id, partial(runs.create, run=run, texts=encode_row(run.records)))

    async def commit(self, commit: Commit) -> Committed:
        """One step forward of a run. Raises LeaseLost, RunNotFound."""
        texts = encode_row(commit.records) if commit.records else ("", "")
        if commit.children:
            return await self._write(partial(runs.commit, commit=commit, texts=texts, children=_encoded(commit.children)))
        return await self._soon(commit.run_id, partial(runs.commit, commit=commit, texts=texts))

    async def post(self, run_id: str, posting: NewPosting, *, workflow: str | None = None, taker: str | None = None) -> Posted:
        """Accept a signal or a cancel. Raises RunNotFound, RunFinished, InboxFull."""
        leases = self._parts().leases
        raw = await self._write(lambda tx: runs.post(tx, leases, run_id, posting, workflow, taker))
        run = None if raw.run is None else _run(raw.run)
        return Posted(header_of(raw.header), raw.seq, raw.fresh, raw.now, run)

    async def load(self, run_id: str) -> StoredRun | None:
        """The whole run, from one snapshot."""
        return stored_of(await self._rows(queries.LOAD, {"run_id": run_id}))

    async def read_header(self, run_id: str) -> Header | None:
        """The head of the run."""
        rows = await self._rows(queries.HEADER, (run_id,))
        return header_of(rows[0]) if rows else None

    async def read_journal(self, run_id: str, after: int = 0, limit: int = 500) -> list[Row]:
        """Rows behind position `after`. Raises UnreadableRun."""
        rows = await self._rows(queries.JOURNAL, (run_id, after, max(limit, 0)))
        return [row_of(run_id, row) for row in rows]

    async def find(self, query: Query) -> list[Header]:
        """A page of runs, newest first."""
        at, run_id = query.before or (_LATEST, "")
        parameters: dict[str, Any] = {
            "workflow": query.workflow, "version": query.version, "at": at, "run_id": run_id, "limit": max(query.limit, 0),
        }  # fmt: skip
        statuses = sorted({RunStatus(status).value for status in query.statuses})
        if statuses:
            parameters.update({f"status{number}": status for number, status in enumerate(statuses)})
            sql = queries.FIND_STATUSES[len(statuses)]
        else:
            sql = queries.FIND if query.workflow is None else queries.FIND_WORKFLOW
        return [header_of(row) for row in await self._rows(sql, parameters)]

    async def delete(self, run_id: str) -> None:
        """Forget an ended run, its children and all their rows. Raises RunNotFound, RunNotFinished, RunConflict."""
        await self._write(partial(forgetting.delete, run_id=run_id))

    async def purge(self, finished_for: int, limit: int) -> int:
        """Forget up to `limit` runs that ended at least `finished_for` microseconds ago."""
        return await self._write(partial(forgetting.purge, finished_for=finished_for, limit=limit))

    # --- schedules

    async def advance(self, schedule: Schedule, runs: Collection[NewRun] = (), posts: Collection[Outgoing] = ()) -> bool:
        """Make a schedule, or replace it from the revision that was seen; whether that was the one."""
        return await self._write(partial(schedules.advance, schedule=schedule, runs=_encoded(runs), posts=posts))

    async def schedules(self, name: str | None = None, *, due: int | None = None, limit: int = 500, after: str = "") -> list[Schedule]:
        """One, or those that are due, or a page of all."""
        sql = queries.SCHEDULES if due is None else queries.SCHEDULES_DUE
        parameters = {"name": name, "due": due, "after": after, "limit": max(limit, 0)}
        return [schedule_of(row) for row in await self._rows(sql if name is None else queries.SCHEDULE, parameters)]

    async def unschedule(self, name: str) -> bool:
        """Forget a schedule; whether there was one."""
        return await self._write(partial(schedules.unschedule, name=name))

    # --- transactions of handlers and of applications

    handlers: Literal["def"] = "def"

    def transaction(self) -> SQLiteTransaction:
        """A transaction for a handler, which has the writer to itself (contract 21)."""
        return SQLiteTransaction(self._parts().port())

    def within(self, connection: sqlite3.Connection) -> Within:
        """Runs and postings inside a transaction of the caller's own on this file (contract 22)."""
        parts = self._parts()
        return Within(connection, self.path, self._tell, parts.leases, parts.changes.announce)

    # --- leases

    async def take(self, run_id: str, worker: str, *, blocked: bool = False, ended: bool = False) -> StoredRun | None:
        """Lease this run if nothing live holds it. Raises RunNotFound, LeaseLost."""
        leases = self._parts().leases
        raw = await self._write(lambda tx: leases.take(tx, run_id, worker, blocked, ended))
        return None if raw is None else _run(raw)

    async def claim(self, worker: str, codes: Collection[Code], limit: int, limits: Collection[Limit] = ()) -> Claimed:
        """Lease up to `limit` due runs. Raises LeaseLost."""
        leases, wanted = self._parts().leases, tuple(dict.fromkeys(codes))
        raw = await self._write(lambda tx: leases.claim(tx, worker, wanted, limit, tuple(limits)))
        return Claimed([_run(found) for found in raw.runs], raw.next_at, raw.now)

    async def register(self, worker: str, lease: int) -> int:
        """Make a worker, alive for `lease` microseconds."""
        parts = self._parts()
        now, shared = await self._write(lambda tx: (tx.now, parts.leases.register(tx, worker, lease)))
        if shared:
            parts.warn_shared()
        return now

    async def renew(self, worker: str, lease: int) -> Renewal:
        """Alive for `lease` microseconds more; from any event loop."""
        parts = self._parts()
        renewal = await self._write(lambda tx: parts.leases.renew(tx, worker, lease))
        if not renewal.alive:
            parts.locks.let_go(worker)  # it never renews again
        return renewal

    async def unregister(self, worker: str) -> None:
        """The worker is gone, and what it held is free."""
        parts = self._parts()
        try:
            await self._write(lambda tx: parts.leases.unregister(tx, worker))
        except Exception:
            parts.locks.let_go(worker)  # nobody here uses this name again, and others learn by that what could not be written
            raise


def _encoded(children: Collection[NewRun]) -> list[runs.Child]:
    return [(child, encode_row(child.records)) for child in children]


def _run(raw: Raw) -> StoredRun:
    run = stored_of(raw)
    assert run is not None, "a run that was just leased is there"
    return run

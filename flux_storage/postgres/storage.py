"""`PostgresStorage`: the verbs of `flux.storage.WorkflowStorage` on a PostgreSQL database.

ways     link.py: connections, and calls that outlive one     line.py: group commit
         transactions.py: lent to handlers                      within.py: the caller's own
verbs    runs.py, spreading.py, leases.py, schedules.py,        rows.py: rows as values
         forgetting.py: what is written
beside   beacon.py: heartbeats, in a thread of their own       changes.py: what `changed` waits for
         schema.py, schema.sql: the tables                      queries.py: every SQL text
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from flux.clock import Clock
from flux.core.status import RunStatus
from flux.errors import InvalidArgument, StorageMisused, StorageUnavailable
from flux.journal import encode_row
from flux.names import check_identifier
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
from . import forgetting, lanes, leases, runs, schedules
from .link import CONNECTIONS, EXPRESS, Borrowed, Connect, Lent, Own, Source, connector, connector_like
from .opened import Opened
from .rows import header_of, row_of, schedule_of, stored_of
from .spreading import spreading
from .transactions import Lending
from .within import WithinTransaction

__all__ = ["PostgresStorage"]

SCHEMA = "flux"
_SCHEMES = ("postgresql", "postgres")
_OPTION = "flux_schema"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^:\[\]]*)(:[0-9]{1,5})?")
_LATEST = (1 << 63) - 1

_log = logging.getLogger("flux.storage.postgres")


class PostgresStorage:
    """A `WorkflowStorage` in a PostgreSQL database, for the workers of many machines.

    `url` is as for asyncpg. With `pool`, an `asyncpg.Pool` of the caller's, ordinary work is done on connections of that pool;
    heartbeats and notifications need one each beside it, and connect as the pool does unless `url` says how. All tables
    are in `schema`, which is made when it is not there, and which is flux's alone. Durability is the server's: flux leaves
    `synchronous_commit` as it is. Time is the server's too, unless a `clock` is given.
    """

    def __init__(self, url: str | None = None, *, pool: Any = None, schema: str = SCHEMA, clock: Clock | None = None) -> None:
        if url is None and pool is None:
            raise InvalidArgument("expected the URL of a database, such as 'postgresql://host/name', or a pool=")
        self._url = None if url is None else _check_url(url)
        self._pool = pool
        self.schema = check_identifier(schema, "schema")
        self.clock = clock
        self._open: Opened | None = None
        self._users = 0
        self._turns = Turns()  # of opening and closing
        self._leaving: set[asyncio.Task[None]] = set()

    @classmethod
    def from_url(cls, url: str) -> PostgresStorage:
        """From `postgresql://user@host/database`, perhaps with `?flux_schema=name` among its options. Raises InvalidArgument."""
        parts = urlsplit(_check_url(url))
        options = parse_qsl(parts.query, keep_blank_values=True)
        schemas = [value for name, value in options if name == _OPTION]
        if len(schemas) > 1:
            raise InvalidArgument(f"{_OPTION} is given {len(schemas)} times in the URL: expected once")
        rest = urlencode([(name, value) for name, value in options if name != _OPTION])
        return cls(urlunsplit(parts._replace(query=rest)), schema=schemas[0] if schemas else SCHEMA)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where()!r}, schema={self.schema!r})"

    def _where(self) -> str:
        """The database without its passwords."""
        if self._url is None:
            return "pool"
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    # --- opening and closing

    async def __aenter__(self) -> PostgresStorage:
        """Connect, and migrate the schema; several users share one opened storage. Raises StorageTooNew, StorageMisused,
        StorageUnavailable."""
        async with self._turns:
            if self._open is None:
                connect = connector(self._url) if self._url is not None else connector_like(self._pool)
                where = f"{self._where()}, schema {self.schema}"
                opened = Opened(connect, *self._sources(connect), where, self.schema, self.clock)
                await opened.open()
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
            self._users -= 1
            if self._users == 0 and self._open is not None:
                current, self._open = self._open, None
                await current.close()

    def _sources(self, connect: Connect) -> tuple[Source, Source, Source]:
        lent = Lent(self._url, self._pool)
        if self._pool is None:
            return Own(connect, CONNECTIONS), Own(connect, EXPRESS), lent
        borrowed = Borrowed(self._pool)
        return borrowed, borrowed, lent

    def _parts(self) -> Opened:
        if self._open is None:
            raise StorageMisused(f"{self!r} is not open: use it inside 'async with'")
        return self._open

    # --- time

    async def now(self) -> int:
        """The server's time, or the last answer where that is later (D16)."""
        o = self._parts()
        return o.saw((await o.own(o.link.row(o.sql.now, o.earliest())))[0])

    async def changed(self, since: int, timeout: float) -> int:
        """The count of changes that others may wait for: at once when it is not `since`, else with the next or the timeout."""
        return await self._parts().changes.wait(since, timeout)

    # --- runs

    async def create(self, run: NewRun) -> Created:
        """Make a run, or find the one that is there. Raises LeaseLost when `owner` is not live."""
        o = self._parts()
        if asyncio.get_running_loop() is not o.loop:
            return await o.own(self.create(run))
        texts = encode_row(run.records)
        if run.lane or (run.rate is not None and run.owner is not None):
            return await o.own(lanes.create(o, run, texts))
        created: Created = await o.creates.submit((run, texts), sum(map(len, texts)))
        return created

    async def commit(self, commit: Commit) -> Committed:
        """One step forward of a run. Raises LeaseLost, RunNotFound."""
        o = self._parts()
        if asyncio.get_running_loop() is not o.loop:
            return await o.own(self.commit(commit))
        texts = encode_row(commit.records) if commit.records else None
        if commit.children or commit.posts or commit.fresh or (commit.lane and commit.release):
            return await self._commit_widely(o, commit, texts)
        committed: Committed = await o.commits.submit((commit, texts, None), sum(map(len, texts or ())))
        return committed

    async def _commit_widely(self, o: Opened, commit: Commit, texts: runs.Texts | None) -> Committed:
        more = spreading(commit.children)
        weight = sum(map(len, texts or ())) + sum([len(payload) for _, (_, payload) in more.children])
        weight += sum([len(sent.posting.payload) for sent in commit.posts])
        committed: Committed = await o.spreading.submit((commit, texts, more), weight)
        return committed

    async def post(self, run_id: str, posting: NewPosting, *, workflow: str | None = None, taker: str | None = None) -> Posted:
        """Accept a signal or a cancel. Raises RunNotFound, RunFinished, InboxFull."""
        o = self._parts()
        return await o.own(_post(o, run_id, posting, workflow, taker))

    async def load(self, run_id: str) -> StoredRun | None:
        """The whole run, from one snapshot."""
        o = self._parts()
        row = await o.own(o.link.row(o.sql.load, run_id))
        return None if row is None else stored_of(row)

    async def read_header(self, run_id: str) -> Header | None:
        """The head of the run."""
        o = self._parts()
        row = await o.own(o.link.row(o.sql.read_header, run_id))
        return None if row is None else header_of(row)

    async def read_journal(self, run_id: str, after: int = 0, limit: int = 500) -> list[Row]:
        """Rows behind position `after`. Raises UnreadableRun."""
        o = self._parts()
        rows = await o.own(o.link.rows(o.sql.journal, run_id, after, max(limit, 0)))
        return [row_of(run_id, row) for row in rows]

    async def find(self, query: Query) -> list[Header]:
        """A page of runs, newest first."""
        o = self._parts()
        at, run_id = query.before or (_LATEST, "")
        page: tuple[Any, ...] = (at, run_id, query.version, max(query.limit, 0))
        statuses = sorted({RunStatus(status).value for status in query.statuses})
        if statuses:
            rows = await o.own(o.link.rows(o.sql.find_statuses, *page, query.workflow, statuses))
        elif query.workflow is not None:
            rows = await o.own(o.link.rows(o.sql.find_workflow, *page, query.workflow))
        else:
            rows = await o.own(o.link.rows(o.sql.find, *page))
        return [header_of(row) for row in rows]

    async def delete(self, run_id: str) -> None:
        """Forget an ended run, its children and all their rows. Raises RunNotFound, RunNotFinished, RunConflict."""
        o = self._parts()
        await o.own(forgetting.delete(o, run_id))

    async def purge(self, finished_for: int, limit: int) -> int:
        """Forget up to `limit` runs that ended at least `finished_for` microseconds ago."""
        o = self._parts()
        return await o.own(forgetting.purge(o, finished_for, limit))

    # --- schedules

    async def advance(self, schedule: Schedule, runs: Collection[NewRun] = (), posts: Collection[Outgoing] = ()) -> bool:
        """Make a schedule, or replace it from the revision that was seen; whether that was the one."""
        o = self._parts()
        return await o.own(schedules.advance(o, schedule, runs, posts))

    async def schedules(self, name: str | None = None, *, due: int | None = None, limit: int = 500, after: str = "") -> list[Schedule]:
        """One, or those that are due, or a page of all."""
        o = self._parts()
        text, asked = (o.sql.schedules, after) if due is None else (o.sql.schedules_due, due)
        if name is not None:
            text, asked = o.sql.schedule, name
        return [schedule_of(row) for row in await o.own(o.link.rows(text, asked, max(limit, 0)))]

    async def unschedule(self, name: str) -> bool:
        """Forget a schedule; whether there was one."""
        o = self._parts()
        return await o.own(schedules.unschedule(o, name))

    # --- transactions of others

    @property
    def handlers(self) -> Literal["async"]:
        """Transactional steps are `async` here: asyncpg is."""
        return "async"

    def transaction(self) -> Lending:
        """A transaction on a connection of its own, open when it is entered. Raises StorageUnavailable, StorageMisused."""
        return Lending(self._parts())

    def within(self, connection: Any) -> WithinTransaction:
        """For the caller's `asyncpg.Connection`, in a transaction on this database."""
        return WithinTransaction(self._parts(), connection)

    # --- leases

    async def take(self, run_id: str, worker: str, *, blocked: bool = False, ended: bool = False) -> StoredRun | None:
        """Lease this run if nothing live holds it. Raises RunNotFound, LeaseLost."""
        o = self._parts()
        return await o.own(leases.take(o, run_id, worker, blocked, ended))

    async def claim(self, worker: str, codes: Collection[Code], limit: int, limits: Collection[Limit] = ()) -> Claimed:
        """Lease up to `limit` due runs. Raises LeaseLost."""
        o = self._parts()
        return await o.own(leases.claim(o, worker, tuple(codes), limit, tuple(limits)))

    async def register(self, worker: str, lease: int) -> int:
        """Make a worker, alive for `lease` microseconds."""
        o = self._parts()
        return await o.own(leases.register(o, worker, lease))

    async def renew(self, worker: str, lease: int) -> Renewal:
        """Alive for `lease` microseconds more; from any event loop."""
        return await leases.renew(self._parts(), worker, lease)

    async def unregister(self, worker: str) -> None:
        """The worker is gone, and what it held is free."""
        o = self._parts()
        await o.own(leases.unregister(o, worker))


async def _post(o: Opened, run_id: str, posting: NewPosting, workflow: str | None, taker: str | None) -> Posted:
    mark = runs.new_mark()
    header, seq, fresh, now, taken = await runs.post(o, run_id, posting, workflow, mark, taker)
    run = None
    try:
        if taker is not None:
            run = await leases.seize(o, run_id, taker, mark, taken)
    finally:
        if fresh:
            o.changes.own()  # only now: no worker of this storage is to be quicker than the poster
            if taker is not None and run is None and header.owner != taker:
                await _tell(o)
    return Posted(header if run is None else run.header.copy(), seq, fresh, now, run)


async def _tell(o: Opened) -> None:
    """Notify the others of what they would otherwise find when they look the next time."""
    try:
        await o.link.row(o.sql.tell, o.token)
    except StorageUnavailable as error:
        _log.debug("nobody was told of a posting: %s", error)


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if parts.scheme not in _SCHEMES or parts.fragment or "\0" in url or not all(map(_HOST.fullmatch, hosts)):
        raise InvalidArgument("the URL is refused: expected postgresql://user@host/database")
    return url

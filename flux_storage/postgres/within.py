"""Creating runs and posting to them within a transaction of the caller's (contract 22). Statements that fail would end that
transaction for the caller, so what can be refused is asked first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flux.errors import RunNotFound, StorageMisused, StorageUnavailable
from flux.journal import encode_row
from flux.storage import Created, NewPosting, NewRun, Posted

from .link import ANSWERING, Connection
from .rows import HEADER, header_of
from .runs import TRIES, demand, fresh_header, keep_within, new_columns, new_mark

if TYPE_CHECKING:
    from .opened import Opened


class WithinTransaction:
    """A `flux.storage.Within`. Its notifications are the server's to send, at COMMIT, to this storage too."""

    def __init__(self, o: Opened, connection: Connection) -> None:
        self._o = o
        self._connection = connection

    async def create(self, run: NewRun) -> Created:
        """Make a run that nobody holds, or find the one that is there."""
        o, connection = self._o, self._connection
        await self._demand_here()
        new, mark = [(run, encode_row(run.records))], new_mark()
        for _ in range(TRIES):
            columns = new_columns(o, [mark], new, [None], [run.idempotency_key], "", [run.deduplication_key], False)
            (row,) = await connection.fetch(o.sql.create, *columns, timeout=ANSWERING)
            now = o.saw(row[0])
            if row[1] is not None:
                return Created(fresh_header(run, row[2], row[3], None), True, now)
            found = await connection.fetchrow(
                o.sql.existing, [run.run_id], [run.workflow], [run.idempotency_key], [None], [run.deduplication_key], timeout=ANSWERING
            )
            if found[2] is not None:
                return Created(header_of(found[2 : 2 + HEADER]), False, now)
        raise StorageUnavailable(f"{o.link.where}: runs came and went while others of their names were made")

    async def post(self, run_id: str, posting: NewPosting, *, workflow: str | None = None) -> Posted:
        """Accept a posting. Raises RunNotFound, RunFinished, InboxFull."""
        o, connection = self._o, self._connection
        await self._demand_here()
        await connection.execute(o.sql.lock_run, run_id, timeout=ANSWERING)  # what is read after it is as new as can be
        said = (
            o.earliest(), "", run_id, workflow, posting.kind, posting.name, posting.payload, posting.signal_id, posting.limit, new_mark(),
            None,
        )  # fmt: skip
        row = await keep_within(o, connection, said)
        if row is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        header = header_of(row)
        fresh = row["what"] == "new"
        if not fresh:
            demand(row["what"], header, workflow)
        return Posted(header, header.inbox_seq if fresh else row["seq"], fresh, o.saw(row["now"]))

    async def _demand_here(self) -> None:
        """The connection is in a transaction, on the database of this storage."""
        o, connection = self._o, self._connection
        in_transaction: Any = getattr(connection, "is_in_transaction", None)
        if in_transaction is None:
            raise StorageMisused(f"expected an asyncpg.Connection, got a {type(connection).__name__}")
        if not in_transaction():
            raise StorageMisused("the connection is in no transaction: use it inside 'async with connection.transaction()'")
        here = await connection.fetchval(o.sql.here, f'"{o.schema}".flux_schema', timeout=ANSWERING)
        if not here or await connection.fetchval(o.sql.home, timeout=ANSWERING) != o.home:
            raise StorageMisused(f"the connection is to another database than {o.link.where}")

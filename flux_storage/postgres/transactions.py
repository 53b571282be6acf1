"""Transactions that are lent to the handlers of steps, and committed with them (contract 21, S3.6).

The run is locked and fenced only at the end, as any commit does it. Where the answer to COMMIT is lost, what has become of it is read:
whoever waits for the run's lock finds the other session over, one way or the other.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import asyncpg

from flux.errors import FluxError, InvalidArgument, StorageMisused, StorageUnavailable
from flux.journal import encode_row
from flux.storage import Commit, Committed, RolledBack

from .errors import TROUBLE, breaks, is_passing, is_refusal, translate
from .line import Member
from .link import ANSWERING, Connection
from .runs import TRIES, Texts, Written, explain
from .spreading import commit_within, spreading

if TYPE_CHECKING:
    from .opened import Opened

T = TypeVar("T")

_LEAVE_OPEN = "this connection is flux's own, lent for the step: leave it open"
_CODECS = frozenset({"set_type_codec", "set_builtin_type_codec", "reset_type_codec"})


class Lending:
    """A transaction for as long as the block lasts."""

    def __init__(self, o: Opened) -> None:
        self._o = o
        self._lent: LentTransaction | None = None

    async def __aenter__(self) -> LentTransaction:
        """Begin. Raises StorageUnavailable, StorageMisused."""
        if asyncio.get_running_loop() is not self._o.loop:
            raise StorageMisused("a transaction is lent to the event loop that opened the storage: its connection belongs to that one")
        if self._lent is not None:
            raise StorageMisused("this transaction was entered before: ask for another one")
        self._lent = await _begin(self._o)
        return self._lent

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Roll back, unless it is over."""
        if self._lent is not None:
            await self._o.own(self._lent.end())


async def _begin(o: Opened) -> LentTransaction:
    """Where the caller goes away meanwhile, nobody keeps the connection."""
    name = secrets.token_hex(8)

    async def work(connection: Connection, _: bool) -> Any:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetchval(o.sql.lend, name, timeout=ANSWERING)
        return transaction

    borrowing = asyncio.ensure_future(o.lent.borrow(work))
    try:
        connection, transaction = await asyncio.shield(borrowing)
    except asyncio.CancelledError:
        o.spawn(_forget(o, borrowing))
        raise
    return LentTransaction(o, connection, transaction, name)


async def _forget(o: Opened, borrowing: asyncio.Future[tuple[Connection, Any]]) -> None:
    try:
        connection, transaction = await borrowing
    except FluxError:
        return
    await LentTransaction(o, connection, transaction, "").end()


class LentConnection:
    """The connection as a handler has it: what asyncpg's is, but flux's to close. `altered`: no reset makes it as it was."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.altered = False

    def __getattr__(self, name: str) -> Any:
        if name in _CODECS:
            self.altered = True
        return getattr(self._connection, name)

    async def close(self, *, timeout: float | None = None) -> None:
        """Refused with StorageMisused."""
        raise StorageMisused(_LEAVE_OPEN)

    def terminate(self) -> None:
        """Refused with StorageMisused."""
        raise StorageMisused(_LEAVE_OPEN)


class LentTransaction:
    """A `flux.storage.Transaction`."""

    def __init__(self, o: Opened, connection: Connection, transaction: Any, name: str) -> None:
        self.connection = LentConnection(connection)
        self._connection = connection
        self._o = o
        self._transaction = transaction
        self._name = name
        self._turn = asyncio.Lock()  # a caller that is cancelled leaves while its commit goes on
        self._over = False  # nothing is open any more
        self._broken = False  # the connection is of no more use
        self._in_doubt = False  # COMMIT was sent, and nothing was heard of it
        self._given_back = False

    async def run(self, call: Callable[[Any], Awaitable[T] | T]) -> T:
        """What `call(connection)` returns; awaited in the caller's task."""
        if self._over:
            raise StorageMisused("this transaction is over: what is done on its connection would be written by itself")
        result = call(self.connection)
        if isinstance(result, Awaitable):
            return await cast("Awaitable[T]", result)
        return result

    async def commit(self, commit: Commit) -> Committed:
        """Commit with what was done on the connection. Raises LeaseLost, RunNotFound, RolledBack, StorageUnavailable, StorageMisused,
        and what the database has against it."""
        if not commit.records:
            raise InvalidArgument("a commit without records leaves nothing by which it could be found: commit it by itself")
        return await self._o.own(self._commit(commit, encode_row(commit.records)))

    async def end(self) -> None:
        """Roll back what is open, and give the connection back."""
        async with self._turn:
            if not self._over:
                await self._roll_back()
            self._give_back(broken=self._broken or self.connection.altered)

    def _give_back(self, *, broken: bool) -> None:
        if not self._given_back:
            self._given_back = True
            self._o.lent.give_back(self._connection, broken=broken)

    # --- one at a time

    async def _commit(self, commit: Commit, texts: Texts) -> Committed:
        async with self._turn:
            if self._in_doubt:
                return await self._look(commit, texts)
            if self._over:
                raise StorageMisused("this transaction is over")
            try:
                reply = await self._write(commit, texts)
            except BaseException as error:
                if not self._over:
                    self._broken = breaks(error)
                    await self._roll_back()
                if isinstance(error, StorageUnavailable):
                    raise RolledBack(f"the transaction did not come through: {error}") from error
                raise
            return await self._look(commit, texts) if reply is None else reply

    async def _write(self, commit: Commit, texts: Texts) -> Committed | None:
        """None: what has become of COMMIT is not known."""
        await self._demand_own()
        member: Member[Written] = Member((commit, texts, spreading(commit.children)), 0, self._o.loop.create_future())
        for _ in range(TRIES):
            try:
                now = await self._fence(member)
            except TROUBLE as error:
                raise translate(error, self._o.link.where) from error
            if now is not None:
                return await self._finish(now)
            # Others see nothing of what the handler itself has posted to its run.
            if not await explain(self._o, [member], self._o.earliest()) or not await self._explain_here(member):
                return await self._answer(member)
        raise StorageUnavailable("the run changed again and again while it was committed")

    async def _demand_own(self) -> None:
        """It is still the transaction that was lent, and none of its statements has failed."""
        try:
            row = await self._connection.fetchrow(self._o.sql.give_back, timeout=ANSWERING)
        except asyncpg.InterfaceError as error:
            if self._is_there():
                raise StorageMisused(f"something that the handler began on its connection still goes on, await it: {error}") from error
            raise translate(error, self._o.link.where) from error
        except TROUBLE as error:
            if is_passing(error):
                raise translate(error, self._o.link.where) from error
            raise  # a statement of the handler has failed: this is its error
        if row[0] != self._name or not self._connection.is_in_transaction():
            raise StorageMisused("the handler has ended the transaction that was lent to it: what it did is not the step's")

    def _is_there(self) -> bool:
        try:
            return not self._connection.is_closed()
        except asyncpg.InterfaceError:  # its pool has noticed that it is gone
            return False

    async def _fence(self, member: Member[Written]) -> int | None:
        """The time, with everything of flux's written and locked; None where it was refused, which has left nothing, not even a lock."""
        inner = self._connection.transaction()
        await inner.start()
        now, done = await commit_within(self._o, self._connection, [member])
        if done:
            await inner.commit()
            return self._o.saw(now)
        await inner.rollback()
        return None

    async def _explain_here(self, member: Member[Written]) -> list[Member[Written]]:
        """The same as this transaction sees it."""
        try:
            return await explain(self._o, [member], self._o.earliest(), partial(self._connection.fetch, timeout=ANSWERING))
        except TROUBLE as error:
            raise translate(error, self._o.link.where) from error

    async def _answer(self, member: Member[Written]) -> Committed:
        """Nothing was written: it is there already, it is refused, or there are newer postings to decide upon."""
        if member.error is not None:
            raise member.error
        reply: Committed = member.value
        if not reply.postings:
            await self._roll_back()
        return reply

    async def _finish(self, now: int) -> Committed | None:
        try:
            async with asyncio.timeout(ANSWERING):
                await self._transaction.commit()
        except TROUBLE as error:
            self._over = True
            self._broken = breaks(error)
            if not is_refusal(error):
                self._in_doubt = self._broken = True
                return None
            if is_passing(error):
                raise translate(error, self._o.link.where) from error
            raise
        finally:
            self._o.changes.own()
        self._over = True
        return Committed(now)

    async def _look(self, commit: Commit, texts: Texts) -> Committed:
        """What has become of COMMIT. Raises StorageUnavailable while that cannot be known."""
        o = self._o
        self._give_back(broken=True)
        await o.link.row(o.sql.lock_run, commit.run_id)  # waits for the session that is lost
        rows = await o.link.rows(
            o.sql.stand, [commit.ref], [commit.run_id], [commit.owner], [commit.epoch], [commit.position], [commit.at]
        )  # fmt: skip
        if texts != (rows[0]["control"], rows[0]["payload"]):
            self._in_doubt = False
            raise RolledBack("the connection was lost in COMMIT, and nothing was written")
        return Committed(o.earliest())

    async def _roll_back(self) -> None:
        self._over = True
        if self._broken:
            return
        try:
            async with asyncio.timeout(ANSWERING):
                await self._transaction.rollback()
        except TROUBLE:
            self._broken = True  # the server rolls back what a session leaves behind

"""Connections: where they come from, and how a call gets through although one of them breaks.

A call that a broken connection has cut off may have been carried out. Each verb is written so that it can be sent again then, and
finds what it has done: by its row in the journal, or by the mark that it left (contract 4, I45).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, TypeVar

import asyncpg

from flux.clock import Clock, Jumping
from flux.errors import StorageMisused

from .errors import TROUBLE, breaks, is_passing, translate
from .queries import SETTINGS

T = TypeVar("T")

Connection: TypeAlias = Any  # an asyncpg.Connection, or one lent by a pool
Connect: TypeAlias = Callable[[], Awaitable[Connection]]
Work: TypeAlias = Callable[[Connection, bool], Awaitable[T]]

CONNECTIONS = 6  # of one storage's own, for all but steps, heartbeats and notifications
EXPRESS = 2  # for steps and new runs
CONNECTING = 5  # seconds
ANSWERING = 30.0  # seconds for one statement; after so many a call is not tried again
PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0)  # seconds before each further try; a server restarts in about that time


def connector(url: str) -> Connect:
    """How this storage connects by itself."""

    async def connect() -> Connection:
        connection = await asyncpg.connect(url, timeout=CONNECTING)
        try:
            await connection.execute(SETTINGS, timeout=CONNECTING)
        except BaseException:
            connection.terminate()
            raise
        return connection

    return connect


def connector_like(pool: Any) -> Connect:
    """The same as the caller's pool does, for connections that must not be lent: those of heartbeats and notifications."""

    async def connect() -> Connection:
        try:
            how, arguments, options = pool._connect, pool._connect_args, pool._connect_kwargs
        except AttributeError:
            raise StorageMisused("this asyncpg does not tell how its pool connects: give the storage the URL too") from None
        return await how(*arguments, loop=asyncio.get_running_loop(), **options)

    return connect


class Source(Protocol):
    """Where connections come from."""

    async def acquire(self) -> Connection:
        """One to work with; it must be released."""
        ...

    def release(self, connection: Connection, *, broken: bool = False) -> None:
        """Done with it. A broken one is not used again."""
        ...

    async def close(self) -> None:
        """No connection is out any more."""
        ...


class Own:
    """A storage's own connections, opened when they are needed."""

    def __init__(self, connect: Connect, limit: int) -> None:
        self._connect = connect
        self._room = asyncio.Semaphore(limit)
        self._idle: list[Connection] = []

    async def acquire(self) -> Connection:
        """An idle one, else a new one, else the next that is released."""
        await self._room.acquire()
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await self._connect()
        except BaseException:
            self._room.release()
            raise

    def release(self, connection: Connection, *, broken: bool = False) -> None:
        """Keep it for the next caller."""
        if broken:
            connection.terminate()
        elif not connection.is_closed():
            self._idle.append(connection)
        self._room.release()

    async def close(self) -> None:
        """Close what is idle: all are."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await close(connection)


class Borrowed:
    """The connections of a pool that somebody else opens and closes. Its settings are its own."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._returning: set[asyncio.Task[None]] = set()

    async def acquire(self) -> Connection:
        """As the pool gives it."""
        return await self._pool.acquire(timeout=ANSWERING)

    def release(self, connection: Connection, *, broken: bool = False) -> None:
        """Give it back; nobody waits for the pool to clean it."""
        if broken:
            connection.terminate()
        task = asyncio.get_running_loop().create_task(self._give_back(connection))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _give_back(self, connection: Connection) -> None:
        try:
            await self._pool.release(connection)
        except TROUBLE:
            return  # the pool has dropped it

    async def close(self) -> None:
        """Everything is given back; the pool stays open."""
        await asyncio.gather(*self._returning)


async def close(connection: Connection) -> None:
    """Say goodbye, or go without."""
    try:
        await connection.close(timeout=CONNECTING)
    except TROUBLE:
        connection.terminate()


class Link:
    """The way to the server. `where` names it in messages. A clock that jumps does not jump while an answer is awaited."""

    def __init__(self, source: Source, where: str, clock: Clock | None = None) -> None:
        self._source = source
        self._clock = clock if isinstance(clock, Jumping) else None
        self.where = where
        self.closing = False

    async def perform(self, work: Work[T]) -> T:
        """`work(connection, again)`, tried again while that may help; `again`: an earlier try may have been carried out.

        Raises StorageUnavailable when the tries are used up.
        """
        if self._clock is None:
            return await self._perform(work)
        self._clock.working += 1
        try:
            return await self._perform(work)
        finally:
            self._clock.working -= 1

    async def _perform(self, work: Work[T]) -> T:
        again = False
        until = time.monotonic() + ANSWERING
        for pause in (*PAUSES, None):
            try:
                return await self._once(work, again)
            except Exception as error:
                if pause is None or self.closing or not is_passing(error) or time.monotonic() > until:
                    raise translate(error, self.where) from error
            again = True
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
        raise AssertionError("the last try returns or raises")

    async def _once(self, work: Work[T], again: bool) -> T:
        connection = await self._source.acquire()
        try:
            result = await work(connection, again)
        except BaseException as error:
            self._source.release(connection, broken=breaks(error))
            raise
        self._source.release(connection)
        return result

    async def row(self, text: str, *parameters: Any) -> Any:
        """The first row of a statement that may be sent twice, or None."""
        return await self.perform(lambda connection, _: connection.fetchrow(text, *parameters, timeout=ANSWERING))

    async def rows(self, text: str, *parameters: Any) -> list[Any]:
        """All rows of a statement that may be sent twice."""
        return await self.perform(lambda connection, _: connection.fetch(text, *parameters, timeout=ANSWERING))

"""Connections: where they come from, and how a call gets through although one of them breaks.

A call that a broken connection has cut off may have been carried out. Each verb is written so that it can be sent again then, and
finds what it has done: by its row in the journal, or by the mark that it left (contract 4, I45).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import asyncpg

from flux.clock import Clock, Jumping
from flux.errors import StorageMisused, StorageUnavailable

from .errors import TROUBLE, breaks, is_passing, translate
from .queries import SETTINGS

T = TypeVar("T")

Connection: TypeAlias = Any  # an asyncpg.Connection, or one lent by a pool
Connect: TypeAlias = Callable[[], Awaitable[Connection]]
Work: TypeAlias = Callable[[Connection, bool], Awaitable[T]]

CONNECTIONS = 6  # of one storage's own, for all but steps, heartbeats and notifications
EXPRESS = 3  # for steps, those that concern other runs too, and new runs
CONNECTING = 5  # seconds
LENT = 8  # for the transactions of handlers, at most
ANSWERING = 30.0  # seconds for one statement; after so many a call is not tried again
SOON = 1.0  # seconds that a server which is busy may need for a sign of life
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

    def prompt(self) -> bool:
        """Whether `at_once` is likely to have one."""
        ...

    async def at_once(self) -> Connection | None:
        """The same without waiting for anything, where that can be."""
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

    def prompt(self) -> bool:
        """Whether one is idle."""
        return bool(self._idle)

    async def at_once(self) -> Connection | None:
        """An idle one, if there is one."""
        if not self._idle or self._room.locked():
            return None
        await self._room.acquire()  # it does not wait
        connection = self._idle.pop()
        if connection.is_closed():
            self._room.release()
            return None
        return connection

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

    def prompt(self) -> bool:
        """No."""
        return False

    async def at_once(self) -> Connection | None:
        """Never: a pool may have to ask the server whether a connection is still there."""
        return None

    def release(self, connection: Connection, *, broken: bool = False) -> None:
        """Give it back; nobody waits for the pool to clean it."""
        if broken:
            with suppress(asyncpg.InterfaceError):  # the pool has noticed it before us
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


class Lent:
    """Connections for the transactions of handlers, `LENT` at most, whose settings are the server's: flux's own are made for the
    statements of flux. They are cleaned after each use. Of a pool of the caller's no more than half, so that the rest can go on.
    """

    def __init__(self, url: str | None, pool: Any) -> None:
        self._url = url
        self._borrowed = None if pool is None else Borrowed(pool)
        self._own: Any = None
        self._limit = LENT if pool is None else max(1, min(LENT, pool.get_max_size() // 2))
        self._room = asyncio.Semaphore(self._limit)
        self._turn = asyncio.Lock()  # of making the pool
        self._out = 0

    async def acquire(self) -> Connection:
        """The next that is free."""
        await self._room.acquire()
        try:
            connection = await (await self._ready()).acquire()
        except BaseException:
            self._room.release()
            raise
        self._out += 1
        return connection

    def prompt(self) -> bool:
        """No."""
        return False

    async def at_once(self) -> Connection | None:
        """Never."""
        return None

    async def _ready(self) -> Borrowed:
        async with self._turn:
            if self._borrowed is None:
                self._own = await asyncpg.create_pool(self._url, min_size=0, max_size=self._limit, timeout=CONNECTING)
                self._borrowed = Borrowed(self._own)
            return self._borrowed

    def release(self, connection: Connection, *, broken: bool = False) -> None:
        """Give it back."""
        assert self._borrowed is not None, "it was acquired"
        self._out -= 1
        self._borrowed.release(connection, broken=broken)
        self._room.release()

    async def close(self) -> None:
        """Close what is this storage's own; a handler that has not let go yet finds its transaction rolled back."""
        if self._own is not None and self._out:
            self._own.terminate()
        if self._borrowed is not None:
            await self._borrowed.close()
        if self._own is not None and not self._out:
            await self._own.close()


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
        self._asked: dict[Connection, float] = {}  # since when, by the event loop's clock; see `first`
        self._watch: asyncio.TimerHandle | None = None

    def prompt(self) -> bool:
        """Whether `first` is likely to send a statement."""
        return self._source.prompt()

    async def first(self, text: str, *parameters: Any) -> Any:
        """The first row of one try of a statement, or None: also where it cannot be sent at once. It needs no task to run in.

        Raises whatever asyncpg does, and StorageUnavailable where there was no answer in all the time of a call.
        """
        connection = await self._source.at_once()
        if connection is None:
            return None
        asked = self._ask(connection)
        try:
            row = await connection.fetchrow(text, *parameters)
        except BaseException as error:
            self._source.release(connection, broken=breaks(error))
            if asyncio.get_running_loop().time() - asked >= ANSWERING:
                raise StorageUnavailable(f"{self.where}: no answer in {ANSWERING:g} s") from error
            raise
        finally:
            del self._asked[connection]
        self._source.release(connection)
        return row

    def _ask(self, connection: Connection) -> float:
        """One timer watches over all such tries: one for each, as asyncpg has it, costs a tenth of a step."""
        loop = asyncio.get_running_loop()
        self._asked[connection] = asked = loop.time()
        if self._watch is None:
            self._watch = loop.call_at(asked + ANSWERING, self._look, loop)
        return asked

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        late = [connection for connection, asked in self._asked.items() if loop.time() - asked >= ANSWERING]
        for connection in late:
            connection.terminate()
        left = [asked for connection, asked in self._asked.items() if connection not in late]
        self._watch = loop.call_at(min(left) + ANSWERING, self._look, loop) if left else None

    def rest(self) -> None:
        """Nothing is asked any more."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def perform(self, work: Work[T]) -> T:
        """`work(connection, again)`, tried again while that may help; `again`: an earlier try may have been carried out.

        Raises StorageUnavailable when the tries are used up.
        """
        return await self._patiently(partial(self._once, work))

    async def borrow(self, work: Work[T]) -> tuple[Connection, T]:
        """The same, and the connection it was done on, which is then the caller's until `give_back`."""
        return await self._patiently(partial(self._keep, work))

    def give_back(self, connection: Connection, *, broken: bool = False) -> None:
        """Done with a connection that was borrowed."""
        self._source.release(connection, broken=broken)

    async def _patiently(self, work: Callable[[bool], Awaitable[T]]) -> T:
        if self._clock is None:
            return await self._try(work)
        self._clock.working += 1
        try:
            return await self._try(work)
        finally:
            self._clock.working -= 1

    async def _try(self, work: Callable[[bool], Awaitable[T]]) -> T:
        again = False
        until = time.monotonic() + ANSWERING
        for pause in (*PAUSES, None):
            try:
                return await work(again)
            except Exception as error:
                if pause is None or self.closing or not is_passing(error) or time.monotonic() > until:
                    raise translate(error, self.where) from error
            again = True
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
        raise AssertionError("the last try returns or raises")

    async def _once(self, work: Work[T], again: bool) -> T:
        connection, result = await self._keep(work, again)
        self._source.release(connection)
        return result

    async def _keep(self, work: Work[T], again: bool) -> tuple[Connection, T]:
        connection = await self._source.acquire()
        try:
            return connection, await work(connection, again)
        except BaseException as error:
            self._source.release(connection, broken=breaks(error))
            raise

    async def row(self, text: str, *parameters: Any, answering: float | None = None) -> Any:
        """The first row of a statement that may be sent twice, or None. `answering`: seconds until another connection is tried."""
        timeout = ANSWERING if answering is None else answering
        return await self.perform(lambda connection, _: connection.fetchrow(text, *parameters, timeout=timeout))

    async def rows(self, text: str, *parameters: Any) -> list[Any]:
        """All rows of a statement that may be sent twice."""
        return await self.perform(lambda connection, _: connection.fetch(text, *parameters, timeout=ANSWERING))

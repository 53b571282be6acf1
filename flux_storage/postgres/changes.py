"""The count of changes that somebody may wait for: this storage's own at once, those of others by notification.

A notification is sent only where somebody else must wake: each costs the server a lock of all (measured: a third of the commits). One
that a run has ended is sent only where somebody else has said that it listens.
While nothing can be heard, a wait is short and says that something may have changed: the poll is the truth.

A clock that jumps does not jump while a notification is on its way to another storage on that clock: see `expect`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from flux.clock import Clock, Jumping

from .errors import TROUBLE
from .link import CONNECTING, Connect, Connection, close
from .queries import Queries

DEAF = 0.5  # seconds until a wait ends while notifications cannot be heard
LATE = 2.0  # seconds after which whoever has not seen that somebody listens here is done

_listeners: WeakKeyDictionary[Jumping, WeakSet[Changes]] = WeakKeyDictionary()

_log = logging.getLogger("flux.storage.postgres")


class Changes:
    """`token` marks this storage's own notifications. Used on one event loop; the connection is opened for the first who waits."""

    def __init__(self, connect: Connect, sql: Queries, token: str, clock: Clock | None) -> None:
        self._connect = connect
        self._sql = sql
        self._key = 0  # of the lock that the listening session holds
        self._again: asyncio.TimerHandle | None = None
        self._token = token
        self._clock = clock
        self._count = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._connection: Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self._told = False
        self._jumping = clock if isinstance(clock, Jumping) else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._expecting: asyncio.Task[None] | None = None
        self._expected = False
        if self._jumping is not None:
            _listeners.setdefault(self._jumping, WeakSet()).add(self)

    def own(self) -> None:
        """This storage changed something that others may wait for."""
        self._wake()
        if self._jumping is not None:
            for other in list(_listeners[self._jumping]):
                if other is not self:
                    other.expect()

    def _wake(self) -> None:
        self._count += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _finish(waiter)

    def expect(self) -> None:
        """Another storage may have sent a notification: the clock does not jump until it must have come."""
        loop = asyncio.get_running_loop()
        if self._connection is None or loop is not self._loop:
            return
        self._expected = True
        if self._expecting is None:
            self._expecting = loop.create_task(self._hear())

    async def _hear(self) -> None:
        """The server tells a session what it has for it before it answers."""
        assert self._jumping is not None
        self._jumping.working += 1
        try:
            while self._expected and self._connection is not None:
                self._expected = False
                await self._connection.execute("SELECT 1", timeout=CONNECTING)
        except TROUBLE as error:
            _log.debug("notifications may come late: %s", error)
        finally:
            self._jumping.working -= 1
            self._expecting = None

    async def wait(self, since: int, timeout: float) -> int:
        """The count, once it is not `since` or `timeout` seconds have passed."""
        if self._connection is None and not self._closed:
            await self._open()
        if self._count != since or self._closed:
            return self._count
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        later = asyncio.get_running_loop().call_later if self._clock is None else self._clock.poll_later
        deaf = self._connection is None
        timer = later(min(timeout, DEAF) if deaf else timeout, _finish, waiter)
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        if deaf and self._count == since:
            self._count += 1
        return self._count

    async def close(self) -> None:
        """Wake all who wait, and hear nothing more."""
        self._closed = True
        if self._jumping is not None:
            _listeners[self._jumping].discard(self)
        self._wake()
        while tasks := [task for task in (self._opening, self._expecting) if task is not None]:
            await asyncio.wait(tasks)
        if self._again is not None:
            self._again.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._lost)
            try:
                with suppress(*TROUBLE):  # the next that listens finds it gone
                    await connection.execute(self._sql.unlisten, self._key, self._token, timeout=CONNECTING)
            except BaseException:
                connection.terminate()
                raise
            await close(connection)

    async def _open(self) -> None:
        """Listen; all who come while that is being begun wait for the same."""
        if self._opening is None:
            self._loop = asyncio.get_running_loop()
            self._opening = self._loop.create_task(self._listen())
            if self._jumping is not None:
                self._jumping.working += 1
                self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    def _opened(self, _: object) -> None:
        assert self._jumping is not None
        self._jumping.working -= 1

    async def _listen(self) -> None:
        connection: Any = None
        try:
            connection = await self._connect()
            connection.add_termination_listener(self._lost)
            async with asyncio.timeout(CONNECTING):
                await connection.add_listener(self._sql.channel, self._heard)
                self._key = secrets.randbits(62)
                await connection.execute(self._sql.listen, self._key, self._token)
            self._connection = connection
            self._wake()  # whatever happened before was not heard
            self._again = asyncio.get_running_loop().call_later(LATE, self._wake)
            self._told = False
        except TROUBLE as error:
            if connection is not None:
                connection.terminate()
            if not self._told:
                self._told = True
                _log.warning("notifications cannot be heard (%s): looking every %.1f s until they can", error, DEAF)
        finally:
            self._opening = None

    def _heard(self, connection: Any, process: int, channel: str, payload: Any) -> None:
        if payload != self._token:
            self._wake()

    def _lost(self, connection: Any) -> None:
        if connection is self._connection:
            self._connection = None
            self._wake()  # who waits comes again, and listens anew


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

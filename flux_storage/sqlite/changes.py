"""The count of changes that somebody may wait for: this process's own at once, other processes' by looking at the file.

The file keeps a count too (`flux_changes`); `PRAGMA data_version` says, for a few microseconds, whether it is worth reading.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading

from flux.clock import Clock

from . import queries

POLL, SLOWEST, GROWTH = 0.01, 0.05, 1.05  # seconds between two looks while anybody waits: longer when nothing happens


class Changes:
    """`path` None: nobody else can write (a database in memory)."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._count = 0
        self._stored = 0  # the file's count, as far as it is known here
        self._version: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._waiters: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}

    def own(self, stored: int) -> None:
        """This process changed something: the file's count is `stored` now. From the writer's thread."""
        with self._lock:
            self._stored = max(self._stored, stored)
            self._count += 1
            loops = list(self._waiters)
        for loop in loops:
            try:
                loop.call_soon_threadsafe(self._wake, loop)
            except RuntimeError:
                continue  # that loop is closed

    async def wait(self, since: int, timeout: float, clock: Clock) -> int:
        """The count, once it is not `since` or `timeout` seconds have passed."""
        self._look()
        if self._count != since:
            return self._count
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._count != since:
                return self._count
            waiters = self._waiters.setdefault(loop, [])
            waiters.append(waiter)
            first = len(waiters) == 1
        if first and self._path is not None:
            loop.call_later(POLL, self._poll, loop, waiters, POLL)
        timer = clock.poll_later(timeout, _finish, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._leave(loop, waiters, waiter)
        return self._count

    def close(self) -> None:
        """Wake all who wait, and close the connection."""
        with self._lock:
            self._count += 1
            loops = list(self._waiters)
        for loop in loops:
            self._wake(loop)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _leave(self, loop: asyncio.AbstractEventLoop, waiters: list[asyncio.Future[None]], waiter: asyncio.Future[None]) -> None:
        with self._lock:
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters and self._waiters.get(loop) is waiters:
                del self._waiters[loop]

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            waiters = self._waiters.pop(loop, [])
            woken = list(waiters)
            waiters.clear()
        for waiter in woken:
            _finish(waiter)

    def _poll(self, loop: asyncio.AbstractEventLoop, waiters: list[asyncio.Future[None]], interval: float) -> None:
        if self._waiters.get(loop) is not waiters:
            return
        if self._look():
            self._wake(loop)
        else:
            interval = min(interval * GROWTH, SLOWEST)
            loop.call_later(interval, self._poll, loop, waiters, interval)

    def _look(self) -> bool:
        """Whether another process has changed something since the last look."""
        if self._path is None:
            return False
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            version = self._connection.execute(queries.DATA_VERSION).fetchone()[0]
            if version == self._version:
                return False
            stored = self._connection.execute(queries.CHANGES).fetchone()[0]
        except sqlite3.Error:
            return False  # a hint that could not be had now; the next look has it
        with self._lock:
            self._version = version
            news: bool = stored > self._stored
            if news:
                self._stored = stored
                self._count += 1
        return news


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

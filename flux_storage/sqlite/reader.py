"""Reading beside the writer: each statement sees one committed state, and nobody waits for anybody."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import aiosqlite

from . import queries
from .errors import is_busy, translate
from .port import BUSY, PATIENCE, Load
from .schema import readable

_ASIDE = 0.002  # seconds for which a busy loop stands aside for its reads


class Reader:
    """A connection of aiosqlite, opened when it is first needed. It may be used from any event loop."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: aiosqlite.Connection | None = None
        self._opening: asyncio.Task[aiosqlite.Connection] | None = None
        self._watches: dict[asyncio.AbstractEventLoop, _Watch] = {}

    async def rows(self, sql: str, parameters: Any) -> list[Any]:
        """What a query finds, in one hop. Raises StorageUnavailable."""
        loop = asyncio.get_running_loop()
        watch = self._watches.get(loop)
        if watch is None:
            watch = self._watches[loop] = _Watch(loop)
        watch.enter()
        try:
            return await self._patiently(sql, parameters)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        finally:
            watch.leave()
            if not watch.reads:
                self._watches.pop(loop, None)

    async def _patiently(self, sql: str, parameters: Any) -> list[Any]:
        while True:
            connection = self._connection or await self._open()
            try:
                return list(await connection.execute_fetchall(sql, parameters))
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
            await asyncio.sleep(random.uniform(0.0005, 0.0015))

    async def _open(self) -> aiosqlite.Connection:
        """The connection; all who come while it is being opened wait for the same."""
        loop = asyncio.get_running_loop()
        if self._opening is None or self._opening.get_loop() is not loop:
            self._opening = loop.create_task(self._connect())
        return await asyncio.shield(self._opening)

    async def _connect(self) -> aiosqlite.Connection:
        try:
            connecting = aiosqlite.connect(f"{Path(self._path).as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
            # An interpreter that ends without closing the storage must not wait for this thread.
            thread: Any = getattr(connecting, "_thread", connecting)
            thread.daemon = True
            connection = await connecting
            connection.text_factory = readable
            await connection.execute_fetchall(queries.READ_ONLY)
        finally:
            self._opening = None
        if self._connection is None:
            self._connection = connection
        else:
            await connection.close()
        return self._connection

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._opening is not None and self._opening.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([self._opening])
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class _Watch:
    """While reads are out and the loop is busy, it stands aside now and then, so that their thread is not starved."""

    __slots__ = ("_load", "_loop", "_timer", "reads")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reads = 0
        self._loop = loop
        self._load = Load()
        self._timer = loop.call_later(PATIENCE, self._stand_aside)

    def enter(self) -> None:
        self.reads += 1

    def leave(self) -> None:
        self.reads -= 1
        if not self.reads:
            self._timer.cancel()

    def _stand_aside(self) -> None:
        if self._load.take() >= BUSY:
            time.sleep(_ASIDE)
            self._load.take()
        self._timer = self._loop.call_later(PATIENCE, self._stand_aside)

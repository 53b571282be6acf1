"""An open database: its writer, reader, locks and changes, and the event loops' ways to the writer."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

from flux.clock import Clock

from ..liveness import WorkerLocks
from .changes import Changes
from .leases import Leases
from .port import Port
from .reader import Reader
from .writer import Writer

_SAFE = (3, 51, 3)  # before it, two processes that write and checkpoint at one moment can damage a shared file

_log = logging.getLogger("flux.storage.sqlite")


class Opened:
    """What a `SQLiteStorage` has between entering and leaving. `path` None: a database in memory, which nobody shares."""

    def __init__(self, path: str | None, clock: Clock) -> None:
        folder = None if path is None else Path(f"{Path(path).resolve()}-workers")
        self.reader = None if path is None else Reader(path)
        self.changes = Changes(path, folder)
        self.locks = WorkerLocks(folder)
        self.leases = Leases(self.locks)
        self._path = path
        self._clock = clock
        self._ports: dict[asyncio.AbstractEventLoop, Port] = {}
        self._writer: Writer | None = None
        self._warned = False

    async def open(self, synchronous: str, busy_warning: float, now: Callable[[], int]) -> None:
        """Start the writer, which opens and migrates the file. Raises StorageTooNew, StorageMisused, StorageUnavailable."""
        self._writer = Writer(
            self._path or ":memory:", synchronous=synchronous, busy_warning=busy_warning, now=now, changed=self.changes.own
        )
        try:
            await asyncio.wrap_future(self._writer.opened)
        except BaseException:
            self._writer.stop()
            raise

    def port(self) -> Port:
        """The running event loop's way to the writer."""
        loop = asyncio.get_running_loop()
        port = self._ports.get(loop)
        if port is None:
            assert self._writer is not None, "opened before it is used"
            for old in [known for known in self._ports if known.is_closed()]:
                self._ports.pop(old, None)
            port = self._ports[loop] = Port(loop, self._writer, self._clock)
        return port

    async def close(self) -> None:
        """Finish what was begun, then let everything go. In any event loop."""
        self.changes.close()
        try:
            if self.reader is not None:
                await self.reader.close()
            port = self.port()
            if not port.is_idle:
                await port.submit(lambda _: None)  # the last in line: then all before it are done
        finally:
            assert self._writer is not None, "opened before it is closed"
            self._writer.stop()
            self.locks.close()
        await asyncio.wrap_future(self._writer.closed)
        self._writer.thread.join()

    def warn_shared(self) -> None:
        """Another process's worker is on the file: say once what that means with an old SQLite."""
        if self._path is not None and not self._warned and sqlite3.sqlite_version_info < _SAFE:
            self._warned = True
            _log.warning(
                "%s is shared by several workers; SQLite %s has a rare fault there that %s mends: upgrade it, and keep backups",
                self._path, sqlite3.sqlite_version, ".".join(map(str, _SAFE)),
            )  # fmt: skip

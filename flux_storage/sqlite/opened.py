"""An open database: its writer, reader, locks and changes, and the event loops' ways to the writer."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

from flux.clock import Clock
from flux.errors import StorageMisused

from ..liveness import WorkerLocks
from .changes import Changes
from .leases import Leases
from .port import Port
from .reader import Reader
from .writer import FORKED, Writer

_SAFE = (3, 51, 3)  # before it, two processes that write and checkpoint at one moment can damage a shared file

_log = logging.getLogger("flux.storage.sqlite")


class Opened:
    """What a `SQLiteStorage` has between entering and leaving. `path` None: a database in memory, which nobody shares.

    `lost` is called in a forked child, which has no part in it.
    """

    def __init__(self, path: str | None, clock: Clock, lost: Callable[[], None]) -> None:
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
        self._lost = lost
        _all.add(self)

    async def open(self, synchronous: str, busy_warning: float, now: Callable[[], int]) -> None:
        """Start the writer, which opens and migrates the file. Raises StorageTooNew, StorageMisused, StorageUnavailable."""
        if self._path is not None:
            refuse_inherited(self._path)
        self._writer = Writer(
            self._path or ":memory:", synchronous=synchronous, busy_warning=busy_warning, now=now, changed=self.changes.own
        )
        try:
            await asyncio.wrap_future(self._writer.opened)
        except BaseException:
            self._writer.stop()
            _all.discard(self)
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
        _all.discard(self)

    def is_at(self, path: str) -> bool:
        """Whether that is its file."""
        try:
            return self._path is not None and Path(self._path).samefile(path)
        except OSError:
            return False

    def disown(self) -> None:
        """In a forked child. Other threads may have held any lock at the fork: none is waited for."""
        if self._writer is not None:
            self._writer.disown()
        self.changes.disown()
        self._lost()

    def warn_shared(self) -> None:
        """Another process's worker is on the file: say once what that means with an old SQLite."""
        if self._path is not None and not self._warned and sqlite3.sqlite_version_info < _SAFE:
            self._warned = True
            _log.warning(
                "%s is shared by several workers; SQLite %s has a rare fault there that %s mends: upgrade it, and keep backups",
                self._path, sqlite3.sqlite_version, ".".join(map(str, _SAFE)),
            )  # fmt: skip


_all: weakref.WeakSet[Opened] = weakref.WeakSet()
_inherited: list[Opened] = []  # of the process that this one was forked from; kept, for closing a connection may write to its file


def refuse_inherited(path: str) -> None:
    """Raises StorageMisused in a child of a fork while the file was open. SQLite takes the child for a holder of locks that only the parent
    has: what it writes on a new connection, too, is lost when the parent closes its own."""
    if any(opened.is_at(path) for opened in _inherited):
        raise StorageMisused(f"{path} was open when this process was {FORKED}")


def _forked() -> None:
    for opened in list(_all):
        _inherited.append(opened)
        opened.disown()
    _all.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)

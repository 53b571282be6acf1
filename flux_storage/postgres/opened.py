"""What an open `PostgresStorage` has: ways to the server, lines of writers, changes, and the signs of life of its workers."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import secrets
import stat
import tempfile
import threading
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from flux.clock import Clock, Jumping

from ..liveness import WorkerLocks
from . import runs, spreading
from .beacon import Beacon
from .changes import Changes
from .line import Line
from .link import Connect, Link, Source
from .queries import Queries
from .schema import prepare

T = TypeVar("T")

_log = logging.getLogger("flux.storage.postgres")


LOOKING_AFTER = 250_000  # microseconds between two commits of a worker that look after its lease, too


class Opened:
    """Everything between entering and leaving. Used on the event loop that made it, except where it is said."""

    def __init__(
        self, connect: Connect, source: Source, express: Source, lent: Source, where: str, schema: str, clock: Clock | None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.sql = Queries(schema, clock is not None)
        self.link = Link(source, where, clock)
        self.express = Link(express, where, clock)  # for what every run needs for every step: no crowd of postings and readers holds it up
        self.lent = Link(lent, where, clock)  # for the transactions of handlers
        self.token = secrets.token_hex(8)
        self.changes = Changes(connect, self.sql, self.token, clock)
        self.beacon = Beacon(connect, self.sql.shown, where)
        self.creates: Line[runs.NewWritten] = Line(
            lambda batch: runs.create_all(self, batch), self, lambda member: runs.create_lone(self, member)
        )
        self.commits: Line[runs.Written] = Line(
            lambda batch: runs.commit_all(self, batch), self, lambda member: runs.commit_lone(self, member)
        )
        self.spreading: Line[runs.Written] = Line(lambda batch: spreading.commit_all(self, batch), self)
        self.host = machine()
        self.home = ""
        self.locks = WorkerLocks(None)
        self.probed = float("-inf")  # when the others' signs of life were last looked at, by the loop's clock
        self.schema = schema
        self._sources = {source, express, lent}
        self._clock = clock
        self._jumping = clock if isinstance(clock, Jumping) else None
        self._last = 0
        self._prolonged: dict[str, int] = {}  # worker -> when a commit of its last looked after its lease
        self._time = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._entered = 0
        self._left: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Check and migrate the schema. Raises StorageTooNew, StorageMisused, StorageUnavailable."""
        try:
            self.home = await self.link.perform(lambda connection, _: prepare(connection, self.schema))
        except BaseException:
            await self._let_go()
            raise
        self.locks = WorkerLocks(lock_folder(self.home))

    async def close(self) -> None:
        """Finish what was begun, then let everything go."""
        self.link.closing = self.express.closing = self.lent.closing = True
        while self._tasks or self._entered:
            if self._entered:
                self._left = self.loop.create_future()
                await self._left
            else:
                await asyncio.wait(set(self._tasks))
        if self._jumping is not None:
            self._jumping.working += 1
        try:
            await self._close()
        finally:
            if self._jumping is not None:
                self._jumping.working -= 1

    async def _close(self) -> None:
        await self.changes.close()
        try:
            await self.beacon.close()
        finally:
            self.locks.close()
            await self._let_go()

    async def _let_go(self) -> None:
        self.express.rest()
        for source in self._sources:
            await source.close()

    # --- time, from any thread

    def earliest(self) -> int:
        """What each statement is told: the time, where a clock was given; else the time that it must not fall below."""
        with self._time:
            if self._clock is not None:
                self._last = max(self._last, self._clock.now())
            return self._last

    def saw(self, now: int) -> int:
        """A statement said what time it is; returns what is said to the caller, which never goes back (contract 12)."""
        with self._time:
            self._last = max(self._last, now)
            return self._last

    def prolongs(self, worker: str) -> bool:
        """Whether a commit of this worker's is to look after its lease (D15): now and then, for it costs the server something."""
        return self.earliest() >= self._prolonged.get(worker, 0) + LOOKING_AFTER

    def prolonged(self, worker: str) -> None:
        """One is on its way."""
        self._prolonged[worker] = self.earliest()

    # --- tasks

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that closing waits for."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        if self._jumping is not None:
            self._jumping.working += 1
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._jumping is not None:
            self._jumping.working -= 1

    def enter(self) -> None:
        """Something begins that closing waits for and that is no task."""
        self._entered += 1
        if self._jumping is not None:
            self._jumping.working += 1

    def leave(self) -> None:
        """It has ended."""
        self._entered -= 1
        if self._jumping is not None:
            self._jumping.working -= 1
        if self._left is not None and not self._entered and not self._left.done():
            self._left.set_result(None)

    async def own(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it to its end, whatever becomes of the caller (contract 15); from any event loop."""
        if asyncio.get_running_loop() is not self.loop:
            return await asyncio.shield(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.own(work), self.loop)))
        answer: asyncio.Future[T] = self.loop.create_future()
        self.spawn(_pass_on(work, answer))
        return await answer


async def _pass_on(work: Coroutine[Any, Any, T], answer: asyncio.Future[T]) -> None:
    try:
        value = await work
    except asyncio.CancelledError:
        answer.cancel()
        raise
    except Exception as error:
        if answer.done():
            _log.debug("a call whose caller has gone ended with %s: %s", type(error).__name__, error)
        else:
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(value)


def machine() -> str:
    """This machine, until it is started anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return f"{platform.node()}-{uuid.getnode():x}"


def lock_folder(home: str) -> Path | None:
    """Where the workers of this database keep their lock files on this machine: with the temporary files, as the server may be
    anywhere; a folder for each user, which nobody else may write to. None where there is none to trust."""
    user = os.getuid() if hasattr(os, "getuid") else None
    folder = Path(tempfile.gettempdir(), "flux-workers" if user is None else f"flux-workers-{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or (user is not None and (found.st_uid != user or found.st_mode & 0o022)):
        return None
    return folder / home

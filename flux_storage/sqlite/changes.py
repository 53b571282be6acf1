"""The count of changes that somebody may wait for: this process's own at once, other processes' when they ring, or by looking at the file.

The file keeps a count too (`flux_changes`); `PRAGMA data_version` says, for a few microseconds, whether it is worth reading. A ring
makes a waiting event loop look; polling is for changes by those who cannot ring, and for event loops that cannot have a bell.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flux.clock import Clock

from . import bell, queries
from .bell import Bell, Neighbours

POLL = 0.01  # seconds between two looks while anybody waits: longer when nothing happens
SLOWEST, GROWTH = 0.05, 1.05  # without a bell
SLOWEST_BESIDE_BELL, GROWTH_BESIDE_BELL = 0.25, 1.5
PAUSE, LONGEST_PAUSE = 0.001, 0.01  # seconds for which a bell is left alone after a ring: longer while others come all the time

_log = logging.getLogger("flux.storage.sqlite")


class Changes:
    """`path` None: nobody else can write (a database in memory). `folder` is where bells are."""

    def __init__(self, path: str | None, folder: Path | None) -> None:
        self._path = path
        self._folder = folder if bell.SUPPORTED else None
        self._lock = threading.Lock()
        self._count = 0
        self._stored = 0  # the file's count, as far as it is known here
        self._ears: dict[asyncio.AbstractEventLoop, _Ear] = {}
        self._bells: set[str] = set()  # names of this process's own
        self._others = None if self._folder is None else Neighbours(self._folder, self._bells)
        self._closed = False
        self._looking = threading.Lock()
        self._version: int | None = None
        self._connection: sqlite3.Connection | None = None

    def own(self, stored: int) -> None:
        """This process has committed a change: the file's count is `stored` now. From the thread that committed."""
        with self._lock:
            self._stored = max(self._stored, stored)
            self._count += 1
        self._call(_Ear.wake)
        self._ring()

    def announce(self) -> None:
        """An application's transaction has made a change, and commits when it likes: all look often for a while. From any thread."""
        self._call(_Ear.hasten)
        self._ring()

    async def wait(self, since: int, timeout: float, clock: Clock) -> int:
        """The count, once it is not `since` or `timeout` seconds have passed."""
        ear = self._ear(asyncio.get_running_loop())  # its bell hangs before the look: what the look misses rings it
        self._look(ear.loop)
        waiter: asyncio.Future[None] = ear.loop.create_future()
        with self._lock:
            if self._count != since or self._closed:
                return self._count
            ear.waiters.append(waiter)
        if self._path is not None:
            ear.listen()
        timer = clock.poll_later(timeout, _finish, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            ear.leave(waiter)
        return self._count

    def close(self) -> None:
        """Wake all who wait, remove the bells, and close the connection. In an event loop."""
        with self._lock:
            self._closed = True
            self._count += 1
            ears, self._ears = list(self._ears.values()), {}
        for ear in ears:
            if ear.bell is not None:
                ear.bell.remove()
            if ear.loop is asyncio.get_running_loop() or not ear.later(ear.close):
                ear.close()
        with self._looking:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def disown(self) -> None:
        """In a forked child: the connection is the parent's, and nothing changes here any more."""
        self._closed = True
        self._lock, self._looking = threading.Lock(), threading.Lock()

    def _ring(self) -> None:
        if self._others is not None:
            self._others.ring()

    def _call(self, act: Callable[[_Ear], None], here: asyncio.AbstractEventLoop | None = None) -> None:
        """Let all event loops where somebody waits do it; `here` is the running one."""
        with self._lock:
            for ear in self._ears.values():
                ear.interval = POLL
            waiting = [ear for ear in self._ears.values() if ear.waiters]
        for ear in waiting:
            if ear.loop is here:
                act(ear)
            else:
                ear.later(partial(act, ear))

    def _ear(self, loop: asyncio.AbstractEventLoop) -> _Ear:
        ear = self._ears.get(loop)
        if ear is None:
            ear = _Ear(loop, self._look, self._hang())
            with self._lock:
                over = [self._ears.pop(known) for known in list(self._ears) if known.is_closed()]
                if self._closed:
                    over.append(ear)
                else:
                    self._ears[loop] = ear
            for old in over:
                old.close()
        return ear

    def _hang(self) -> Bell | None:
        """A bell for an event loop, None where there cannot be one."""
        if self._folder is None:
            return None
        try:
            made = Bell(self._folder)
        except OSError as error:
            _log.info("no bell in %s (%s): changes of other processes are noticed by polling", self._folder, error)
            return None
        self._bells.add(made.name)
        return made

    def _look(self, here: asyncio.AbstractEventLoop) -> bool:
        """Whether another process has changed something since the last look; whoever waits is woken then."""
        if self._path is None:
            return False
        with self._looking:
            stored = self._read(self._path)
        with self._lock:
            news = stored > self._stored
            if news:
                self._stored = stored
                self._count += 1
        if news:
            self._call(_Ear.wake, here)
        return news

    def _read(self, path: str) -> int:
        """The file's count; 0 where nothing has changed, or that cannot be had now and the next look has it."""
        if self._closed:
            return 0
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            version = self._connection.execute(queries.DATA_VERSION).fetchone()[0]
            if version == self._version:
                return 0
            stored: int = self._connection.execute(queries.CHANGES).fetchone()[0]
        except sqlite3.Error:
            return 0
        self._version = version
        return stored


class _Ear:
    """An event loop: who waits there, its bell, its polling. Used in its thread only, but for `later`."""

    __slots__ = ("_listens", "_look", "_pause", "_timer", "bell", "interval", "loop", "waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop, look: Callable[[asyncio.AbstractEventLoop], bool], bell: Bell | None) -> None:
        self.loop = loop
        self.waiters: list[asyncio.Future[None]] = []
        self.bell = bell
        self.interval = POLL  # until the next look; goes on from one wait to the next until something happens
        self._look = look
        self._listens = False
        self._pause = 0.0  # 0 when there is none
        self._timer: asyncio.TimerHandle | None = None

    def later(self, act: Callable[[], None]) -> bool:
        """Do it in the event loop's thread; False when that has been closed. From any thread."""
        try:
            self.loop.call_soon_threadsafe(act)
        except RuntimeError:
            return False
        return True

    def listen(self) -> None:
        """Somebody has begun to wait."""
        if self.bell is not None and not self._listens and not self._pause:
            self._attend(self.bell)
        if self._timer is None:
            self._timer = self.loop.call_later(self.interval, self._poll)

    def wake(self) -> None:
        """Something has changed."""
        woken, self.waiters = self.waiters, []
        for waiter in woken:
            _finish(waiter)
        self._rest()

    def hasten(self) -> None:
        """Something may change soon."""
        self._rest()
        self.interval = POLL
        if self.waiters:
            self._timer = self.loop.call_later(self.interval, self._poll)

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """One waits no longer."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            if not self.waiters:
                self._rest()

    def close(self) -> None:
        """Wake all, and let go of the bell. In its thread, or once the event loop is closed."""
        if not self.loop.is_closed():
            self.wake()
        if self.bell is not None:
            self._take_down(self.bell)

    def _take_down(self, bell: Bell) -> None:
        self._turn_away()
        bell.close()
        self.bell = None

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _poll(self) -> None:
        self._timer = None
        if not self._look(self.loop):
            if self.bell is not None and self.interval >= SLOWEST_BESIDE_BELL and not self.bell.hangs:
                self._take_down(self.bell)
            slowest, growth = (SLOWEST, GROWTH) if self.bell is None else (SLOWEST_BESIDE_BELL, GROWTH_BESIDE_BELL)
            self.interval = min(self.interval * growth, slowest)
            self._timer = self.loop.call_later(self.interval, self._poll)

    def _attend(self, bell: Bell) -> None:
        try:
            self.loop.add_reader(bell.descriptor, self._rung)
        except (NotImplementedError, OSError) as error:  # an event loop that watches no descriptors: Windows has such
            _log.info("%r cannot watch a pipe (%s): changes of other processes are noticed by polling", self.loop, error)
            bell.close()
            self.bell = None
        else:
            self._listens = True

    def _rung(self) -> None:
        self._turn_away()  # a ring without anybody who waits stays in the pipe
        if self.waiters and self.bell is not None:
            self.bell.hush()
            self._answer(PAUSE)

    def _answer(self, pause: float) -> None:
        """Look, and then not again for a while, though others ring: a file that many write to would have us do nothing else."""
        self._pause = pause
        self.loop.call_later(pause, self._go_on)
        if not self._look(self.loop):
            self.hasten()

    def _go_on(self) -> None:
        pause, self._pause = self._pause, 0.0
        if self.waiters and self.bell is not None:
            if self.bell.hush():
                self._answer(min(2 * pause, LONGEST_PAUSE))
            else:
                self._attend(self.bell)

    def _turn_away(self) -> None:
        if self._listens and self.bell is not None:
            self._listens = False
            if not self.loop.is_closed():
                self.loop.remove_reader(self.bell.descriptor)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

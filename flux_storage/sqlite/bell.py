"""How processes on one file wake one another: who waits has a bell, and who has committed something rings all bells of the others.

A bell is a named pipe in the folder of the workers' lock files. A ring says 'look at the file' and nothing else; a lost one costs
a poll's interval. The folder beside the file is the one place that all its users share: services and containers have temporary
directories of their own. A socket would do there, but for its path of hardly 100 bytes. Tools that copy folders know pipes.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
import weakref
from collections.abc import Container
from pathlib import Path

SUFFIX = ".bell"
SUPPORTED = hasattr(os, "mkfifo")

_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_FINE, _COARSE = 100_000_000, 5_000_000_000  # nanoseconds: times of folders are of a tick, or on some file systems of 2 seconds
_ALL = 1 << 16  # bytes: what a pipe holds; what is left of more rings again


class Bell:
    """One event loop's pipe. `descriptor` is readable once it was rung; -1 when it is closed."""

    def __init__(self, directory: Path) -> None:
        """Make it, and the folder. Raises OSError."""
        directory.mkdir(exist_ok=True)
        self.name = f"{os.getpid()}-{secrets.token_hex(6)}{SUFFIX}"
        self._path = directory / self.name
        self.descriptor = _make(self._path)
        _all.add(self)

    def __del__(self) -> None:
        if getattr(self, "descriptor", -1) >= 0:  # of an event loop that stopped for good before it could be told
            self.let_go()

    @property
    def hangs(self) -> bool:
        """Whether others can still find it: somebody may have removed the folder."""
        return self._path.exists()

    def hush(self) -> bool:
        """Forget the rings so far; whether there were any."""
        try:
            return bool(os.read(self.descriptor, _ALL))
        except OSError:
            return False

    def remove(self) -> None:
        """Nobody finds it any more. From any thread."""
        if self.descriptor >= 0:
            _unlink(str(self._path))

    def close(self) -> None:
        """Remove it, and let go of it; no event loop may watch the descriptor any more."""
        self.remove()
        self.let_go()

    def let_go(self) -> None:
        """Close the descriptor. The pipe stays: without a reader it is removed by whoever rings next."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Neighbours:
    """The bells of others in a folder. `own`: names of this process's. The folder is read again when it has changed; while that is not
    long ago, always, for its file system may not tell two changes of one moment apart."""

    def __init__(self, directory: Path, own: Container[str]) -> None:
        self._directory = str(directory)
        self._own = own
        self._known: tuple[int, list[str]] = (0, [])  # the folder's time, and the bells that were there then

    def ring(self) -> None:
        """Ring them all; remove those of processes that are gone. Never waits, never raises OSError."""
        try:
            changed = os.stat(self._directory).st_mtime_ns  # noqa: PTH116 - half the time of a Path's
            known, names = self._known
            if changed != known:
                names = [name for name in os.listdir(self._directory) if name.endswith(SUFFIX)]  # noqa: PTH208 - likewise
                settled = time.time_ns() - changed > (_FINE if changed % 1_000_000_000 else _COARSE)
                self._known = (changed if settled else 0), names
        except OSError:
            return  # nobody has been there yet
        for name in names:
            if name not in self._own:
                _ring(f"{self._directory}/{name}")


def _ring(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | _FLAGS)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody reads it
            _unlink(path)
        return
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            reader = os.open(path, os.O_RDONLY | _FLAGS)  # else a process that ends just now would send us SIGPIPE
            try:
                os.write(descriptor, b"\n")
            finally:
                os.close(reader)
    except OSError:
        return  # full: it has enough to wake up for; or gone, or not ours
    finally:
        os.close(descriptor)


def _make(path: Path) -> int:
    """A pipe that is open before it has its name: one that nobody reads is taken for a dead process's."""
    unready = path.with_suffix(".new")
    os.mkfifo(unready)
    descriptor = -1
    try:
        descriptor = os.open(unready, os.O_RDWR | _FLAGS)
        unready.rename(path)
    except OSError:
        if descriptor >= 0:
            os.close(descriptor)
        _unlink(str(unready))
        raise
    return descriptor


def _unlink(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - names come from a listing as text
    except OSError:
        return  # somebody else was there first, or it is not ours to remove


_all: weakref.WeakSet[Bell] = weakref.WeakSet()


def _forked() -> None:
    # A child shares its parent's pipes; keeping them open would make a dead parent look alive.
    for bell in list(_all):
        bell.let_go()


if SUPPORTED:
    os.register_at_fork(after_in_child=_forked)

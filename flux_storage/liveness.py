"""Whether a worker's process is still there: each worker keeps a file of its machine locked (D14).

The operating system drops the lock when the process ends, however it ends. A lock that can be taken proves that its worker
is gone; a file that is missing or cannot be opened proves nothing, and the lease decides.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import weakref
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_log = logging.getLogger("flux.storage")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)


class WorkerLocks:
    """The lock files of one database on this machine, and those that this storage holds. `directory` None: there are none."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}  # file name -> descriptor
        _all.add(self)

    def hold(self, worker: str) -> str | None:
        """Lock a worker's file until it is dropped or the process ends. Returns its name, None where that cannot be."""
        name = _name(worker)
        if self._directory is None or name in self._held:
            return name if name in self._held else None
        try:
            self._directory.mkdir(exist_ok=True)
            descriptor = os.open(self._directory / name, _FLAGS | os.O_CREAT, 0o666)
        except OSError as error:
            _log.warning("no lock file in %s (%s): a killed worker is noticed by its lease only", self._directory, error)
            return None
        if not _lock(descriptor):
            os.close(descriptor)
            return None
        self._held[name] = descriptor
        return name

    def holds(self, name: str | None) -> bool:
        """Whether this storage holds that lock."""
        return name in self._held

    def is_free(self, name: str) -> bool:
        """Whether the process that held this lock is certainly gone."""
        if self._directory is None or name in self._held:
            return False
        try:
            descriptor = os.open(self._directory / Path(name).name, _FLAGS)
        except OSError:
            return False
        try:
            return _lock(descriptor)
        finally:
            os.close(descriptor)

    def drop(self, name: str) -> None:
        """Give up a lock, and remove its file."""
        descriptor = self._held.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)
        if self._directory is not None:
            _remove(self._directory / Path(name).name)

    def let_go(self, worker: str) -> None:
        """Give up a worker's lock, and leave its file, which says that the worker is gone. From any thread."""
        descriptor = self._held.pop(_name(worker), None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Give up all locks. Their files stay: they say that these workers are gone."""
        held, self._held = self._held, {}
        for descriptor in held.values():
            os.close(descriptor)


def _name(worker: str) -> str:
    plain = worker if _PLAIN.fullmatch(worker) else hashlib.sha256(worker.encode("utf-8", "replace")).hexdigest()
    return f"{plain}.lock"


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.debug("%s stays: %s", path, error)


def _lock(descriptor: int) -> bool:
    try:
        _try_lock(descriptor)
    except OSError:
        return False
    return True


_all: weakref.WeakSet[WorkerLocks] = weakref.WeakSet()


def _forked() -> None:
    # A child shares its parent's locks; keeping them would make a dead parent look alive.
    for locks in list(_all):
        locks.close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)

"""A run's events in a file, one JSON object a line (NDJSON), to be read by people, `jq` and log collectors."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from ..errors import InvalidArgument
from .hooks import Event, Hooks

logger = logging.getLogger("flux.hooks")

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_MODE = 0o600  # of a file that is made here: it tells who does what
_dumps = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


class TraceFile(Hooks):
    """Hooks that append every event to a file: `FluxEngine(hooks=[TraceFile("trace.ndjson")])`.

    A line has `at` (ISO 8601, UTC), `event`, `run_id`, `workflow` and `version`; where the event has them `path`, `attempt`, `child`
    (the id of a run that a step has started) and `error` (the class of what went wrong); with `messages=True` also `message`, its
    text. Without, no line holds anything that a handler was given or has made: texts of errors may quote secrets. Inputs, data,
    results and payloads are never written.

    A line is appended whole, by one write, so engines and processes may share a file. It is open for that moment only: rotate or
    remove it whenever you like; a pipe such as `/dev/stdout` will do as well. A file that cannot be written, or a disk that is full,
    costs lines and no run: the log tells of it once, and again with the number of missing lines when it can be written.
    A new file can be read by its owner alone.
    Raises InvalidArgument for a path with a NUL character.
    """

    def __init__(self, path: str | os.PathLike[str], *, messages: bool = False) -> None:
        self._path = Path(path)
        if "\0" in str(path):
            raise InvalidArgument("the path of a trace file has a NUL character")
        self._messages = messages
        self._missed = 0

    def __repr__(self) -> str:
        return f"<TraceFile {self._path}>"

    def write(self, event: Event) -> None:
        """Append one event. Never raises an OSError."""
        try:
            self._append(_line(event, self._messages))
        except OSError as error:
            self._missed += 1
            if self._missed == 1:
                logger.warning("trace file %s cannot be written (%s): lines will be missing until it can", self._path, error)
        else:
            if self._missed:
                logger.warning("trace file %s can be written again; %d lines are missing", self._path, self._missed)
                self._missed = 0

    def _append(self, line: bytes) -> None:
        file = os.open(self._path, _FLAGS, _MODE)
        try:
            _wait_for_turn(file)
            if _is_torn(file):
                line = b"\n" + line
            if os.write(file, line) != len(line):
                raise OSError("the disk took a part of a line")
        finally:
            os.close(file)


def _wait_for_turn(file: int) -> None:
    """Until the file is closed no other TraceFile writes: one that looked at the end meanwhile would take half a line for a torn one."""
    if fcntl is not None:
        with suppress(OSError):  # a pipe, or a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)


def _is_torn(file: int) -> bool:
    """Whether the last line lacks its end: a disk was full, or a writer died."""
    try:
        end = os.lseek(file, 0, os.SEEK_END)
    except OSError:  # a pipe or a terminal, which has no lines behind it
        return False
    if end == 0:
        return False
    os.lseek(file, end - 1, os.SEEK_SET)
    return os.read(file, 1) != b"\n"


def _line(event: Event, messages: bool) -> bytes:
    found: dict[str, Any] = {
        "at": event.at.isoformat(timespec="microseconds"),
        "event": event.name,
        "run_id": event.run_id,
        "workflow": event.workflow,
        "version": event.version,
        "path": event.path,
        "attempt": event.attempt,
        "child": event.child,
        "error": event.error_type,
    }
    if messages:
        found["message"] = event.error.removeprefix(f"{event.error_type}: ")
    return (_dumps({name: value for name, value in found.items() if value}) + "\n").encode()


def _on_event(self: TraceFile, event: Event) -> None:
    """Append it, as `write`."""
    self.write(event)


# Every event that hooks have, also those that are added later.
for _name in [name for name in vars(Hooks) if not name.startswith("_")]:
    setattr(TraceFile, _name, _on_event)

"""What a child process has: the file of effects, the words it says to its parent, and the instant at which it kills itself."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from flux import Context

_words: Connection
_turn = threading.Lock()  # handlers on threads speak too
_effects = -1
_kill_at = 0
_points: list[str] = []


def settle_in(words: Connection, effects: str, kill_at: int) -> None:
    """Called first in every child. `kill_at`: the number of the point, from 1, at which it dies; 0 is never."""
    global _words, _effects, _kill_at
    _words, _kill_at = words, kill_at
    _effects = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def say(word: str, value: Any = None) -> None:
    """Tell the parent."""
    with _turn:
        _words.send((word, value))


def points() -> list[str]:
    """The points passed so far."""
    return _points


def point(name: str) -> None:
    """An instant at which a process may die."""
    _points.append(name)
    if len(_points) == _kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


def effect(ctx: Context) -> None:
    """What a handler does to the world outside: one line, appended in one write, between two points."""
    point(f"{ctx.path} #{ctx.attempt}, before its effect")
    fields = (time.monotonic_ns(), os.getpid(), ctx.run_id, ctx.path, ctx.attempt, ctx.idempotency_key)
    os.write(_effects, (" ".join(map(str, fields)) + "\n").encode())
    point(f"{ctx.path} #{ctx.attempt}, after its effect")


def permission() -> None:
    """Block until the parent allows it."""
    _words.recv()


async def permission_soon() -> None:
    """The same without blocking the event loop."""
    loop = asyncio.get_running_loop()
    allowed = asyncio.Event()
    loop.add_reader(_words.fileno(), allowed.set)
    try:
        await allowed.wait()
    finally:
        loop.remove_reader(_words.fileno())
    _words.recv()

"""Where time comes from. The core never asks; engine and storages ask here, so that a test can put another clock in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable


class Timer(Protocol):
    """A callback that is due later."""

    def cancel(self) -> None:
        """It will not be called."""
        ...


class Clock(Protocol):
    """Time for engine and storage. Instants are integer microseconds UTC, durations are seconds."""

    def now(self) -> int:
        """The wall clock, in microseconds UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Timer:
        """Call back in `delay` seconds, on the running event loop."""
        ...

    def limit_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Timer:
        """The same for the time limit of something that may end by itself first: a clock that jumps is slow to jump for it."""
        ...

    def poll_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Timer:
        """The same for a poll: nothing becomes due by it, so a clock that jumps does not jump for it."""
        ...


@runtime_checkable
class Jumping(Protocol):
    """A clock that jumps when nothing happens. `working` counts what happens where it cannot see it, in threads: no jump meanwhile."""

    working: int

    def on_jump(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """Await `callback()` after each jump, before anything that became due (leases are renewed there); returns how to stop that."""
        ...


class SystemClock:
    """The machine's clocks. `now` never goes back within one clock object (D16)."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        """Microseconds UTC: the wall clock, or the last answer where that is later."""
        now = time.time_ns() // 1000
        if now < self._last:
            return self._last
        self._last = now
        return now

    monotonic = staticmethod(time.monotonic)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Timer:
        """The event loop's own timer."""
        return asyncio.get_running_loop().call_later(delay, callback, *args)

    limit_later = poll_later = call_later

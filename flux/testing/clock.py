"""A clock that jumps: when everything waits for time, time has passed."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
QUIET = 10  # turns of the event loop without a new timer or a fired one, before time jumps
PATIENCE = 0.25  # seconds of real quiet before time jumps to the time limit of a handler that may still end by itself


class _Timer:
    __slots__ = ("args", "at", "callback", "cancelled", "limit")

    def __init__(self, at: int, limit: bool, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.at = at
        self.limit = limit
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualClock:
    """Time for tests: give it to a storage (`MemoryStorage(clock=clock)`), and the engine on it uses it too.

    With `autojump` (the default) time jumps to the next timer once nothing has happened for a real millisecond, so that a
    retry's delay or a short sleep passes at once; `def` handlers run on threads, in real time. `advance` moves it by hand, for
    waits that no call stays for. Virtual time does not pass by itself, and polls do not move it.
    """

    def __init__(self, start: datetime = START, *, autojump: bool = True) -> None:
        self._now = int((start - datetime(1970, 1, 1, tzinfo=timezone.utc)) / timedelta(microseconds=1))
        self._autojump = autojump
        self._timers: list[tuple[int, int, _Timer]] = []
        self._order = count()
        self.working = 0  # operations that a storage has on its threads
        self._activity = 0
        self._watching = False
        self._jumping: set[Callable[[], Any]] = set()

    def now(self) -> int:
        """Microseconds UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds, on the same time line."""
        return self._now / 1_000_000

    @property
    def datetime(self) -> datetime:
        """The time as an aware datetime."""
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=self._now)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> _Timer:
        """Call back once time has moved by `delay` seconds."""
        return self._add(delay, False, callback, args)

    def limit_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> _Timer:
        """The same for a time limit: time jumps to it only after a quarter of a real second in which nothing happened."""
        return self._add(delay, True, callback, args)

    def _add(self, delay: float, limit: bool, callback: Callable[..., Any], args: tuple[Any, ...]) -> _Timer:
        # Rounded up: a timer that fires a microsecond early finds nothing due and is set again, for ever.
        timer = _Timer(self._now + max(0, math.ceil(delay * 1_000_000)), limit, callback, args)
        heapq.heappush(self._timers, (timer.at, next(self._order), timer))
        self._activity += 1
        if self._autojump:
            self._watch()
        return timer

    def poll_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any:
        """A poll's timer: in real time, so that an idle worker does not make days pass."""
        return asyncio.get_running_loop().call_later(delay, callback, *args)

    def on_jump(self, callback: Callable[[], Awaitable[Any]]) -> Callable[[], None]:
        """Await `callback()` after each jump, before what became due; returns how to stop that."""
        self._jumping.add(callback)
        return lambda: self._jumping.discard(callback)

    async def advance(self, seconds: float | timedelta = 0, **more: float) -> None:
        """Move time on by seconds, a timedelta, or its keywords (`days=3`); timers on the way fire in order."""
        step = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        until = self._now + (step + timedelta(**more)) // timedelta(microseconds=1)
        while (timer := self._next()) is not None and timer.at <= until:
            await self._jump(timer.at)
            await _turns()
        await self._jump(until)
        await _turns()

    def _next(self) -> _Timer | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][2] if self._timers else None

    async def _jump(self, at: int) -> None:
        if at > self._now:
            self._now = at
            for callback in list(self._jumping):
                await callback()
        while (timer := self._next()) is not None and timer.at <= self._now:
            heapq.heappop(self._timers)
            self._activity += 1
            timer.callback(*timer.args)

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().create_task(self._jump_when_quiet())

    async def _jump_when_quiet(self) -> None:
        try:
            while (timer := self._next()) is not None:
                before = self._activity
                await _turns()
                await asyncio.sleep(PATIENCE if timer.limit else 0.001)
                if self._activity == before and not self.working and self._next() is timer:
                    await self._jump(timer.at)
        finally:
            self._watching = False


async def _turns() -> None:
    for _ in range(QUIET):
        await asyncio.sleep(0)

"""The count of changes that somebody may wait for."""

from __future__ import annotations

import asyncio

from flux.clock import Clock


class Changes:
    """Of one storage; used in the thread of the event loop that waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = 0
        self._waiters: list[asyncio.Future[None]] = []

    async def wait(self, since: int, timeout: float) -> int:
        """The count, once it is not `since` or `timeout` seconds have passed."""
        if self._count != since:
            return self._count
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.poll_later(timeout, _wake, waiter)
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return self._count

    def notify(self) -> None:
        """Something changed that others may wait for."""
        self._count += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

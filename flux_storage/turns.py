"""A lock for coroutines of several event loops: `asyncio.Lock` is for one."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from types import TracebackType


class Turns:
    """Whoever enters has the turn until it leaves; the others wait without holding up their event loops. In no order."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        while not self._turn.acquire(blocking=False):
            woken = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            if self._turn.acquire(blocking=False):  # given up before we were seen to wait
                return
            await woken

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._turn.release()
        # All of them: one may have been cancelled, or its event loop be gone, and the turn is lost on nobody.
        for _ in range(len(self._waiting)):
            try:
                woken = self._waiting.popleft()
            except IndexError:
                return  # who came next has woken it
            try:
                woken.get_loop().call_soon_threadsafe(_wake, woken)
            except RuntimeError:
                continue  # its event loop is closed


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

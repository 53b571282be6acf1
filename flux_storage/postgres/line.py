"""Group commit (I47): while one statement is under way, the next operations gather, and leave as one.

Nobody waits for company: an operation that comes while nothing is under way leaves with the event loop's next turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from flux.errors import StorageUnavailable

Q = TypeVar("Q")

BATCH = 256  # operations in one statement
BULK = 1 << 20  # characters in one statement, from which on no further operation joins it


class Member(Generic[Q]):
    """One operation of a batch: what is asked, and what became of it."""

    __slots__ = ("error", "future", "request", "value", "weight")

    def __init__(self, request: Q, weight: int, future: asyncio.Future[Any]) -> None:
        self.request = request
        self.weight = weight
        self.future = future
        self.value: Any = None
        self.error: Exception | None = None

    def settle(self) -> None:
        """Answer the caller, if it still waits."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Line(Generic[Q]):
    """Operations of one kind on their way. `send` gives each member a value or an error; if it raises, nothing is known of any."""

    def __init__(self, send: Callable[[list[Member[Q]]], Awaitable[None]], spawn: Callable[[Any], asyncio.Task[Any]]) -> None:
        self._send = send
        self._spawn = spawn
        self._pending: list[Member[Q]] = []
        self._running = False

    def submit(self, request: Q, weight: int) -> asyncio.Future[Any]:
        """Send an operation on its way. A caller that stops waiting does not stop it (contract 15)."""
        member = Member(request, weight, asyncio.get_running_loop().create_future())
        self._pending.append(member)
        if not self._running:
            self._running = True
            self._spawn(self._run())
        return member.future

    async def _run(self) -> None:
        try:
            while self._pending:
                batch = self._cut()
                await self._deliver(batch)
                for member in batch:
                    member.settle()
                await asyncio.sleep(0)  # who was answered may go along at once
        finally:
            self._running = False

    def _cut(self) -> list[Member[Q]]:
        count = weight = 0
        for member in self._pending[:BATCH]:
            if count and weight + member.weight > BULK:
                break
            count += 1
            weight += member.weight
        batch = self._pending[:count]
        del self._pending[:count]
        return batch

    async def _deliver(self, batch: list[Member[Q]]) -> None:
        """All at once; where that fails, one by one, so that a bad one fails alone."""
        try:
            await self._send(batch)
        except StorageUnavailable as error:
            for member in batch:
                member.error = error
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for member in batch:
                member.error = None
                await self._deliver([member])

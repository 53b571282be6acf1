"""Group commit (I47): while one statement is under way, the next operations gather, and leave as one.

Nobody waits for company: an operation that comes while nothing is under way leaves with the event loop's next turn; or at once, where
the one before it was alone too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from flux.errors import StorageUnavailable

Q = TypeVar("Q")
T = TypeVar("T")

BATCH = 256  # operations in one statement
BULK = 1 << 20  # characters in one statement, from which on no further operation joins it


class Member(Generic[Q]):
    """One operation of a batch: what is asked, and what became of it. `mark`: the number of a try whose outcome is not known, else 0."""

    __slots__ = ("error", "future", "mark", "request", "value", "weight")

    def __init__(self, request: Q, weight: int, future: asyncio.Future[Any]) -> None:
        self.request = request
        self.weight = weight
        self.future = future
        self.mark = 0
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


class Closing(Protocol):
    """Who does not close before what was begun has ended."""

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that closing waits for."""
        ...

    def enter(self) -> None:
        """Something begins that closing waits for, too."""
        ...

    def leave(self) -> None:
        """It has ended."""
        ...


Lone: TypeAlias = "Callable[[Member[Q]], Coroutine[Any, Any, bool] | None]"


class Line(Generic[Q]):
    """Operations of one kind on their way. `send` gives each member a value or an error; if it raises, nothing is known of any.

    `lone` tries an operation that is alone, in a shorter way: whether it was done, or None where there is no such way for it now. It must
    not need a task to run in. What it has not done, or has failed at, is sent.
    """

    def __init__(self, send: Callable[[list[Member[Q]]], Awaitable[None]], closing: Closing, lone: Lone[Q] | None = None) -> None:
        self._send = send
        self._closing = closing
        self._lone = lone
        self._pending: list[Member[Q]] = []
        self._running = False
        self._calm = True  # whether the last batch was of one

    def submit(self, request: Q, weight: int) -> asyncio.Future[Any]:
        """Send an operation on its way. A caller that stops waiting does not stop it (contract 15)."""
        member = Member(request, weight, asyncio.get_running_loop().create_future())
        if self._running:
            self._pending.append(member)
            return member.future
        self._running = True
        work = self._shorter(member)
        if work is None:
            self._pending.append(member)
            self._closing.spawn(self._run())
        else:
            self._closing.enter()
            self._advance(member, work)
        return member.future

    def _shorter(self, member: Member[Q]) -> Coroutine[Any, Any, bool] | None:
        if self._lone is None or not self._calm:
            return None
        try:
            return self._lone(member)
        except Exception:
            return None  # what is wrong with it is told in the longer way

    def _advance(self, member: Member[Q], work: Coroutine[Any, Any, bool], _: object = None) -> None:
        """Go on with the lone operation until it waits: in its caller at first, then when what it waited for is there. So it is nobody's
        who may be cancelled, like a task, without the two turns of the event loop that one takes."""
        try:
            awaited = work.send(None)
        except StopIteration as end:
            self._end(member, end.value)
        except StorageUnavailable as error:
            member.error = error
            self._end(member, True)
        except (Exception, asyncio.CancelledError):
            self._end(member, False)
        except BaseException:
            self._end(member, False)
            raise
        else:
            awaited._asyncio_future_blocking = False  # as a task says that it has taken note
            awaited.add_done_callback(partial(self._advance, member, work))

    def _end(self, member: Member[Q], done: bool) -> None:
        if done:
            member.settle()
        else:
            self._pending.insert(0, member)
        if self._pending:
            self._closing.spawn(self._run())
        else:
            self._running = False
        # Who was answered goes on first, and who is told of it: until then no clock jumps.
        asyncio.get_running_loop().call_soon(self._closing.leave)

    async def _run(self) -> None:
        try:
            while self._pending:
                batch = self._cut()
                self._calm = len(batch) == 1
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

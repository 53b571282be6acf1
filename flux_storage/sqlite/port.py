"""How operations get from an event loop to the writer and back: one hop each way, and a watch over starving threads.

While one batch of operations is away the next one gathers: batches grow with the load, and nobody waits for company.

A thread that needs the interpreter can starve for seconds beside a loop that is busy in small pieces. So when a batch stays
away and the loop's own thread uses the processor, the loop waits for the writer a moment: that is what hands it the
interpreter. It waits in slices of half a millisecond: as many as 40 while the writer computes, one while it waits for the disk.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

from flux.clock import Clock, Jumping
from flux.errors import StorageMisused, StorageUnavailable

from .writer import BATCH, SWIFT, WAITING, Guest, Operation, Transaction, Writer

T = TypeVar("T")

PATIENCE = 0.005  # how long a batch may be away before the loop looks after it
_SLICE = 0.0005  # how long the loop waits at once: seconds
_SLICES = 40  # how often, while the writer computes
BUSY = 0.5  # of the processor: from here on a loop can starve other threads


class _Batch:
    __slots__ = ("_home", "gate", "operations")

    def __init__(self, port: Port, operations: list[Operation]) -> None:
        self._home = port
        self.operations = operations
        self.gate = threading.Lock()  # open once the outcomes stand
        self.gate.acquire()

    def answer(self) -> None:
        """In the writer's thread: back to the loop."""
        self.gate.release()
        try:
            self._home.loop.call_soon_threadsafe(self._home.receive, self)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more


class Load:
    """How much of the processor this thread used since it was last asked."""

    __slots__ = ("_used", "_wall")

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._used = time.thread_time()

    def take(self) -> float:
        """From 0 to 1; begins anew."""
        wall, used = time.perf_counter(), time.thread_time()
        passed = wall - self._wall
        share = (used - self._used) / passed if passed > 0 else 0.0
        self._wall, self._used = wall, used
        return share


class Port:
    """One event loop's way to the writer. Used in that loop's thread only."""

    __slots__ = (
        "_alone", "_away", "_clock", "_goes_on", "_guests", "_leaving", "_load", "_pressed", "_until", "_watching", "_writer", "loop",
        "pending",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, writer: Writer, clock: Clock) -> None:
        self.loop = loop
        self._clock = clock if isinstance(clock, Jumping) else None
        self.pending: list[Operation] = []
        self._writer = writer
        self._away: _Batch | None = None
        self._guests = 0  # who have the writer to themselves, or wait for it
        self._leaving = False
        self._goes_on = ""  # the run that had an operation done here in this turn of the loop, and how long it may have more
        self._until = 0.0
        self._alone = True  # the last batch was one operation: the next need not wait for the turn to end
        self._watching: asyncio.TimerHandle | None = None
        self._pressed = False  # the loop is busy and the last batch had to be waited for
        self._load = Load()

    def at_once(self, work: Callable[[Transaction], T], run_id: str) -> Operation | None:
        """Do a small operation here and now, if nothing else goes on and the disk is quick: None where it must be submitted.

        What comes after it in this turn of the loop gathers, so that others have theirs; but the same run may go on for a moment.
        """
        if self._away is not None or not self._alone or self._pressed:
            return None
        if self._leaving and (run_id != self._goes_on or perf_counter() + self._writer.cost > self._until):
            return None
        operation = Operation(work)
        if not self._writer.here(operation):
            return None
        if not self._leaving:
            self._begin_turn(run_id)
        return operation

    def submit(self, work: Callable[[Transaction], T], *, small: bool = False) -> asyncio.Future[T]:
        """Send an operation on its way. A caller that stops waiting does not stop it (contract 15). A `small` one may be done here."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self.pending.append(Operation(work, future, small))
        if self._away is None and not self._leaving:
            if self._alone and not self._pressed:
                self._leave()
            else:
                self._leaving = True
                self.loop.call_soon(self._leave)
        return future

    def _begin_turn(self, run_id: str) -> None:
        self._leaving = True
        self._goes_on = run_id
        self._until = perf_counter() + SWIFT
        self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Others have had their turn since an operation was done here: what has gathered goes."""
        self._leaving = False
        if len(self.pending) == 1 and self.pending[0].small and self._done_here():
            self._begin_turn("")
        elif self.pending:
            self._leave()

    def _done_here(self) -> bool:
        """Do the one that has gathered on the spot, if that can be; what a signal handler raises meanwhile does not leave it behind."""
        operation = self.pending.pop()
        try:
            done = self._writer.here(operation)
        except BaseException as error:
            operation.error = StorageUnavailable(f"{type(error).__name__} came while it was written")
            operation.settle()
            raise
        if done:
            operation.settle()
        else:
            self.pending.append(operation)
        return done

    def invite(self, serve: Callable[[Writer], None]) -> None:
        """Let somebody have the writer to itself, behind what is on its way; `dismiss` says that it is over. Raises StorageMisused."""
        if not self._writer.hand_over(Guest(serve)):
            raise StorageMisused(self._writer.refusal)
        self._guests += 1

    def dismiss(self) -> None:
        """A guest has gone."""
        self._guests -= 1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While entered, somebody waits for the writer's thread: virtual time stands still."""
        clock = self._clock
        if clock is not None:
            clock.working += 1
        try:
            yield
        finally:
            if clock is not None:
                clock.working -= 1

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self.pending and self._away is None and not self._guests

    def _leave(self) -> None:
        self._leaving = False
        operations = self.pending[:BATCH]
        del self.pending[:BATCH]
        self._alone = len(operations) == 1
        batch = _Batch(self, operations)
        if not self._writer.hand_over(batch):
            operations += self.pending
            self.pending.clear()
            for operation in operations:
                operation.error = StorageMisused(self._writer.refusal)
                operation.settle()
            return
        self._away = batch
        if self._clock is not None:
            self._clock.working += 1
        if self._pressed:
            self._press(batch)
        elif self._watching is None:
            self._load.take()
            self._watching = self.loop.call_later(PATIENCE, self._watch, batch)

    def receive(self, batch: _Batch) -> None:
        """The outcomes stand: answer the callers, and let go who has gathered meanwhile."""
        if batch is not self._away:
            return
        self._away = None
        if self._clock is not None:
            self._clock.working -= 1
        for operation in batch.operations:
            operation.settle()
        if self.pending:
            self._leaving = True
            self.loop.call_soon(self._leave)

    def _watch(self, batch: _Batch) -> None:
        """Every few milliseconds while anything is away: is this still the batch that was away last time?"""
        self._watching = None
        away = self._away
        if away is None:
            return
        if away is batch and self._load.take() >= BUSY:
            self._press(batch)
        else:
            self._load.take()
            self._watching = self.loop.call_later(PATIENCE, self._watch, away)

    def _press(self, batch: _Batch) -> None:
        """Stand aside until the writer is done or waits for the disk; goes on while the loop is busy."""
        if batch is not self._away:
            return
        self._pressed = self._load.take() >= BUSY
        done = self._stand_aside(batch)
        self._load.take()
        if done:
            self.receive(batch)
        elif self._pressed:
            self.loop.call_soon(self._press, batch)
        elif self._watching is None:
            self._watching = self.loop.call_later(PATIENCE, self._watch, batch)

    def _stand_aside(self, batch: _Batch) -> bool:
        """Whether the batch came back meanwhile."""
        left = _SLICES
        while not batch.gate.acquire(timeout=_SLICE):
            left -= 1
            if left <= 0 or self._writer.phase == WAITING:
                return False
        return True

"""Watching runs from outside: hooks run after the commit and off its path, and can change nothing (D26, S15.5)."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..core import records as r
from ..core.plan import UNDO, base_path
from ..core.records import Record
from .cancelling import all_are_cancelled, being_cancelled, take_back
from .instants import to_datetime
from .pool import Pool
from .view import way_from

logger = logging.getLogger("flux.hooks")

LIMIT = 10_000  # events that may be waiting for slow hooks; further ones are missed


@dataclass(frozen=True, slots=True)
class Event:
    """What happened. `path` and `attempt` are empty for events of the run.

    `error` is the text of what went wrong, which may quote whatever the exception says; `error_type` is its class alone. `advice`
    is what moves a blocked run on, in words, and empty for other events; `child` is the id of the run that a step has started.
    """

    name: str
    run_id: str
    workflow: str
    version: str
    at: datetime
    path: str = ""
    attempt: int = 0
    error: str = ""
    error_type: str = ""
    advice: str = ""
    child: str = ""


class Hooks:
    """Subclass it and write the methods you need, `def` or `async def`; each gets one frozen `Event`.

    They are called in order, after what they tell of is durable. A crash can make them miss or repeat an event; one that raises is
    logged; one that is slow makes later events wait, and beyond 10,000 waiting events be missed. None of it changes a run.
    """

    def run_started(self, event: Event) -> Any:
        """The run was created here."""

    def run_continued(self, event: Event) -> Any:
        """The run has begun again: the step at `path` returned `continue_as_new(...)`."""

    def run_suspended(self, event: Event) -> Any:
        """The run waits for a signal or for time; `path` is the step it waits at."""

    def run_compensating(self, event: Event) -> Any:
        """The run is on its way down; `error` is why."""

    def run_completed(self, event: Event) -> Any:
        """The run completed."""

    def run_failed(self, event: Event) -> Any:
        """The run failed, and what could be undone is."""

    def run_cancelled(self, event: Event) -> Any:
        """The run was cancelled, and everything is undone."""

    def run_blocked(self, event: Event) -> Any:
        """The run is parked until it is moved on; `error` is why, `advice` what moves it on."""

    def run_reopened(self, event: Event) -> Any:
        """A person had the run retried or replayed; `path` is where a retry goes on from."""

    def run_forked(self, event: Event) -> Any:
        """The run was created as a fork of another."""

    def step_resolved(self, event: Event) -> Any:
        """A person moved on the run, which was blocked at `path`."""

    def step_started(self, event: Event) -> Any:
        """An attempt is about to be dispatched."""

    def step_completed(self, event: Event) -> Any:
        """A step's result is recorded."""

    def step_failed(self, event: Event) -> Any:
        """A step failed for good."""

    def step_retried(self, event: Event) -> Any:
        """An attempt failed and another will follow."""

    def step_skipped(self, event: Event) -> Any:
        """A step's condition said no."""

    def step_probed(self, event: Event) -> Any:
        """A step's probe answered, after an attempt whose outcome was not known."""

    def step_compensated(self, event: Event) -> Any:
        """A compensation completed; `path` is that of the step."""

    def compensation_failed(self, event: Event) -> Any:
        """A compensation failed for good; `path` is that of the step."""

    def attempt_lost(self, event: Event) -> Any:
        """A started attempt was lost in a crash, or stopped before its outcome."""

    def child_started(self, event: Event) -> Any:
        """A step has started a run of its own, `child`."""

    def child_ended(self, event: Event) -> Any:
        """The child of a step has ended, or has undone what it did; `error` is what went wrong in it."""

    def signal_received(self, event: Event) -> Any:
        """A wait got its signal."""


_NAMES: dict[type[Record], str] = {
    r.RunCreated: "run_started",
    r.StepStarted: "step_started",
    r.StepCompleted: "step_completed",
    r.StepSuspended: "run_suspended",
    r.AttemptFailed: "step_retried",
    r.AttemptLost: "attempt_lost",
    r.AttemptCut: "attempt_lost",
    r.StepFailed: "step_failed",
    r.StepSkipped: "step_skipped",
    r.WaitStarted: "run_suspended",
    r.SleepStarted: "run_suspended",
    r.SignalReceived: "signal_received",
    r.UnwindStarted: "run_compensating",
    r.RunCompleted: "run_completed",
    r.RunFailed: "run_failed",
    r.RunCancelled: "run_cancelled",
    r.RunBlocked: "run_blocked",
    r.Reopened: "run_reopened",
    r.RunForked: "run_forked",
    r.StepResolved: "step_resolved",
    r.StepProbed: "step_probed",
    r.ChildStarted: "child_started",
    r.ChildEnded: "child_ended",
}
_OF_COMPENSATIONS = {"step_completed": "step_compensated", "step_failed": "compensation_failed"}


class Dispatcher:
    """Calls the hooks, one event after another, in a task of its own."""

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        self._hooks = list(hooks)
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._missed = 0
        self._closing = False  # what is late is being cut
        self._pool = Pool()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="flux-hooks")

    def publish(self, key: tuple[str, str], run_id: str, records: Iterable[Record], at: int) -> None:
        """Tell of committed records of a run of the workflow `key` (name and version). Never blocks, never raises."""
        for record in records:
            name = _NAMES.get(type(record))
            if name is None:
                continue
            if self._queue.qsize() >= LIMIT:
                self._missed += 1
                continue
            if self._missed:
                logger.warning("hooks are too slow: they missed %d events", self._missed)
                self._missed = 0
            self._queue.put_nowait(_event(name, key, run_id, record, at))

    async def _run(self) -> None:
        goes_on = True
        while goes_on:
            try:
                goes_on = await self._tell_next()
            except asyncio.CancelledError:
                if self._stops():
                    raise
                logger.error("a hook had the task cancelled in which all are called; they go on")
                await take_back(self._stops)

    async def _tell_next(self) -> bool:
        event = await self._queue.get()
        if event is None:
            return False
        for hook in self._hooks:
            await self._call(hook, event)
        return True

    def _stops(self) -> bool:
        """Whether a cancellation is the engine's, or the end of the program: else a hook has brought it about."""
        return self._closing or all_are_cancelled()

    async def _call(self, hook: Hooks, event: Event) -> None:
        method = getattr(hook, event.name, None)
        if method is None or getattr(type(hook), event.name, None) is getattr(Hooks, event.name, None):
            return
        try:
            if inspect.iscoroutinefunction(method):
                await method(event)
            else:
                answer = await self._pool.call(method, event)
                if inspect.isawaitable(answer):
                    await answer
        except BaseException as error:
            ends = being_cancelled() and self._stops()
            if ends or isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
                raise
            logger.exception("hook %s.%s raised; the run is not affected", type(hook).__name__, event.name)
        if being_cancelled():
            await take_back(self._stops)

    async def close(self, seconds: float = 2.0) -> None:
        """Let the hooks catch up, for a moment."""
        self._queue.put_nowait(None)
        _done, late = await asyncio.wait([self._task], timeout=seconds)
        for task in late:
            logger.warning("hooks did not finish within %.0f s; %d events are missed", seconds, self._queue.qsize())
            self._closing = True
            task.cancel()


def _event(name: str, key: tuple[str, str], run_id: str, record: Any, at: int) -> Event:
    path = getattr(record, "path", "") or getattr(record, "from_path", "")
    if path.endswith(UNDO):
        name, path = _OF_COMPENSATIONS.get(name, name), path[: -len(UNDO)]
    path = base_path(path)
    if isinstance(record, r.RunCreated) and record.continuation:
        name = "run_continued"
    failure = getattr(record, "failure", None)
    error, kind, advice = getattr(record, "message", ""), "", ""
    if failure is not None:
        error, kind = str(failure), failure.type.rpartition(":")[2]
    elif isinstance(record, r.RunBlocked):
        kind, advice = record.reason, way_from(record)
    return Event(
        name, run_id, *key, to_datetime(at), path, getattr(record, "attempt", 0), error, kind, advice, getattr(record, "child", "")
    )

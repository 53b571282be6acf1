"""What people read of a run: its result, its history, lists of runs (S16)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from ..codec import Codec, Undecodable
from ..context import Results, has_result, result_of
from ..core.failure import Failure
from ..core.machine import UNDECIDED
from ..core.records import RunBlocked
from ..core.state import RunState, StepState, undo_path
from ..core.status import TERMINAL, RunStatus, StepStatus
from ..errors import RunCancelled, RunFailed, UnreadableRun
from ..failures import rebuild
from ..storage import Header
from .instants import seconds_between, to_datetime


@dataclass(frozen=True, slots=True)
class Compensation:
    """How the undoing of a step went: `status` is running, suspended, completed, failed or pending; `error` is of its last attempt."""

    status: StepStatus
    attempts: int
    error: BaseException | None

    def __repr__(self) -> str:
        return f"<Compensation {self.status} attempts={self.attempts}>"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running handler says it is: a fraction from 0 to 1, and a message (D26)."""

    fraction: float
    message: str


class _Reading:
    """The codec for one run: a stored value that cannot be read is reported with the run's id (S15.2)."""

    __slots__ = ("_codec", "_run_id", "declare", "encode", "find_type")

    def __init__(self, codec: Codec, run_id: str) -> None:
        self._codec = codec
        self._run_id = run_id
        self.encode, self.declare, self.find_type = codec.encode, codec.declare, codec.find_type

    def decode(self, text: str) -> Any:
        """The value. Raises UnreadableRun."""
        try:
            return self._codec.decode(text)
        except Undecodable as error:
            raise UnreadableRun(f"run {self._run_id!r}: {error}", self._run_id) from error


@dataclass(frozen=True, slots=True)
class Reopening:
    """Something that an ended run did again: `cause` is "retry" or "replay", which a person asked for, or "unwind", which its parent did
    (`by` is that run's id); `from_step` is the path that a retry went on from; `generation` counts from 1."""

    generation: int
    cause: str
    from_step: str
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a person moved on a run that was blocked at `path`: `way` is "retry", "skip" or "done"."""

    path: str
    way: str
    at: datetime
    by: str
    reason: str


_WAYS = {
    "DefinitionChanged": "A worker whose code fits takes it by itself: deploy such code, or cancel with compensate=False",
    "UnreadableRun": "A worker that can read it takes it by itself: deploy such code, or call resume() once it can be read",
    "DeadlineExceeded": "Move it on with resume(), which lifts the deadline, or end it with cancel(compensate=False)",
    "ReplayFailed": "Move it on with resolve(id, path, 'retry' | 'skip' | 'done'), or give it its old status back with cancel()",
    "HandlerStuck": "Call resume(), or let another process do so: there the old thread is not in the way",
}
_AT_A_STEP = "Move it on with resolve(id, path, 'retry' | 'skip' | 'done') or retry()"


def way_on(state: RunState) -> str:
    """What moves a blocked run on, in words; '' when it is not blocked."""
    return "" if state.blocked is None else way_from(state.blocked)


def way_from(blocked: RunBlocked) -> str:
    """What moves a run on from where it is blocked, in words."""
    return _WAYS.get(blocked.reason) or (_AT_A_STEP if blocked.path else "Move it on with resume() once the cause is gone")


def told_of(blocked: RunBlocked) -> str:
    """Why it is blocked, for logs: without the message where that quotes what a handler raised; `blocked_reason` has it (S16)."""
    return f"{blocked.reason}: " + (f"at {blocked.path!r}" if blocked.reason in UNDECIDED else blocked.message)


class HistoryLine:
    """One line of a run's history: a step that was reached, and how it stands."""

    def __init__(self, state: RunState, st: StepState, codec: Codec) -> None:
        self._state = state
        self._st = st
        self._codec = codec
        self.name = st.node.name
        self.path = st.path
        self.kind = st.node.kind.value
        self.status = st.status
        self.attempts = st.attempt
        self.lost_attempts = st.lost
        self.in_doubt = st.doubt
        self.child = st.child or None
        """The id of the run that a child step has started."""
        self.inherited = st.inherited
        """Whether a fork took it over from its origin (D5)."""
        self.started_at = to_datetime(st.started_at)
        self.completed_at = to_datetime(st.ended_at)
        self.wake_at = to_datetime(st.due_at)
        self.duration = seconds_between(st.started_at, st.ended_at)
        self.waiting_for = st.signal if st.status is StepStatus.SUSPENDED and st.signal in state.waits else None

    @cached_property
    def result(self) -> Any:
        """What the step returned, or the wait received; None where there is none."""
        if not self._current:
            return None if self._st.result is None else self._codec.decode(self._st.result)
        return result_of(self._state, self.path, self._codec) if has_result(self._state, self.path) else None

    @cached_property
    def error(self) -> BaseException | None:
        """What went wrong in the last attempt that failed; None once the step completed (S3.9)."""
        return None if self._st.failure is None else rebuild(self._st.failure, self._codec)

    @cached_property
    def earlier(self) -> tuple[HistoryLine, ...]:
        """The lines of this step in earlier generations of the run, oldest first: before a retry or a replay did it again (D1)."""
        return tuple(HistoryLine(self._state, st, self._codec) for st in self._state.past.get(self.path, ()))

    @property
    def _current(self) -> bool:
        """Whether this is the line of the run's present generation."""
        return self._st is self._state.steps.get(self.path)

    @property
    def _undo(self) -> StepState | None:
        """What undid, or undoes, this very line; of an earlier generation only where it was undone."""
        path = undo_path(self.path)
        if self._current:
            return self._state.steps.get(path)
        undone = [st for st in self._state.past.get(self.path, ()) if st.status is StepStatus.COMPENSATED]
        undos = [st for st in self._state.past.get(path, ()) if st.status is StepStatus.COMPLETED]
        return next((undo for st, undo in zip(undone, undos, strict=False) if st is self._st), None)

    @cached_property
    def compensation(self) -> Compensation | None:
        """How its undoing went; None where it was not needed, or there is nothing to call (S10.6)."""
        undo = self._undo
        if undo is None:
            due = self._current and self.path in self._state.undo[self._state.undo_at :]
            return Compensation(StepStatus.PENDING, 0, None) if due else None
        error = None if undo.failure is None else rebuild(undo.failure, self._codec)
        return Compensation(undo.status, undo.attempt, error)

    def __repr__(self) -> str:
        return f"<HistoryLine {self.path} {self.kind} {self.status} attempts={self.attempts}>"


class RunResult:
    """A run as it stands: what `execute`, `signal`, `get` and their like return. It is a snapshot and does not follow the run."""

    def __init__(self, run_id: str, state: RunState, codec: Codec, progress: Mapping[str, Progress] | None = None) -> None:
        self._state = state
        self._codec = _Reading(codec, run_id)
        self.id = run_id
        self.progress = dict(progress or {})
        """What running handlers last said with `ctx.progress`, by path; only of a run that this engine moves."""

    workflow = property(lambda self: self._state.workflow, doc="The workflow's name.")
    version = property(lambda self: self._state.version, doc="The workflow's version.")

    @cached_property
    def status(self) -> RunStatus:
        """Where the run stands (S2.1)."""
        return self._state.status

    @cached_property
    def input(self) -> Any:
        """What the run was given, as it was given."""
        return self._codec.decode(self._state.input)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The run's data, as last committed."""
        return {key: self._codec.decode(text) for key, text in self._state.data.items()}

    @cached_property
    def results(self) -> Mapping[str, Any]:
        """What steps returned and waits received, by name."""
        return dict(Results(self._state, self._codec))

    @cached_property
    def error(self) -> BaseException | None:
        """Why the run failed or was cancelled, or is on its way there or blocked on it; None otherwise (S3.9)."""
        failure = self._failure
        return None if failure is None else rebuild(failure, self._codec)

    @property
    def _failure(self) -> Failure | None:
        state = self._state
        if state.unwinding is not None:
            return state.unwinding.failure
        return None if state.failing is None else state.steps[state.failing].failure

    @cached_property
    def history(self) -> tuple[HistoryLine, ...]:
        """One line per step that was reached, in order."""
        steps = self._state.steps.values()
        return tuple(HistoryLine(self._state, st, self._codec) for st in steps if not st.node.aside)

    @cached_property
    def compensation_errors(self) -> dict[str, BaseException]:
        """The compensations that failed for good, by the path of their step (S10.3)."""
        return {
            line.path: line.compensation.error
            for line in self.history
            if line.compensation is not None and line.compensation.status is StepStatus.FAILED and line.compensation.error is not None
        }

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Names of the signals that the run awaits."""
        return self._state.waiting_for

    @property
    def wake_at(self) -> datetime | None:
        """When a timer next moves the run; None when none does, or it can move now."""
        return to_datetime(self._state.wake_at or None)

    @property
    def blocked_reason(self) -> str | None:
        """Why the run is parked, None when it is not."""
        blocked = self._state.blocked
        return None if blocked is None else f"{blocked.reason}: {blocked.message}"

    @property
    def way_on(self) -> str | None:
        """What moves a blocked run on, in words; None when it is not blocked."""
        return way_on(self._state) or None

    @cached_property
    def reopenings(self) -> tuple[Reopening, ...]:
        """Every retry, replay and undoing of this run: who, when, why, and from where (D1)."""
        return tuple(Reopening(r.generation, r.cause, r.from_path, to_datetime(at), r.by, r.reason) for at, r in self._state.reopenings)

    @cached_property
    def resolutions(self) -> tuple[Resolution, ...]:
        """Every `resolve` of this run: who, when, why, and how (S10.6)."""
        return tuple(Resolution(r.path, r.way, to_datetime(at), r.by, r.reason) for at, r in self._state.resolutions)

    @property
    def past_pivot(self) -> bool:
        """Whether the run has passed its point of no return (S9.4)."""
        return self._state.pivot is not None

    @property
    def cancelling(self) -> bool:
        """Whether a cancel has been accepted, is being carried out, or has been."""
        return self._state.cancel is not None

    @property
    def continuation(self) -> int:
        """How often the run has begun again (`continue_as_new`); its history is that since the last time."""
        return self._state.continuation

    @property
    def parent(self) -> str | None:
        """The id of the run whose child this is, None when it is nobody's."""
        return self._state.parent or None

    @cached_property
    def children(self) -> dict[str, str]:
        """The ids of the runs that this one has started, by the path of the step."""
        return {st.path: st.child for st in self._state.steps.values() if st.child}

    @property
    def forked_from(self) -> str | None:
        """The id of the run whose history this one shares, None when it is no fork (D5)."""
        return None if self._state.forked is None else self._state.forked.origin

    @property
    def created_at(self) -> datetime:
        """When the run was created."""
        return to_datetime(self._state.created_at)

    @property
    def completed_at(self) -> datetime | None:
        """When the run ended."""
        return to_datetime(self._state.ended_at)

    @property
    def duration(self) -> float | None:
        """Seconds from its creation to its end, or to its last change."""
        state = self._state
        return seconds_between(state.created_at, state.updated_at if state.ended_at is None else state.ended_at)

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self._state.ended in TERMINAL

    def unwrap(self) -> dict[str, Any]:
        """The data of a completed run. Raises RunFailed or RunCancelled, with the original error as cause."""
        if self.status is RunStatus.FAILED:
            raise RunFailed(f"run {self.id!r} of {self.workflow!r} failed: {self._failure}") from self.error
        if self.status is RunStatus.CANCELLED:
            raise RunCancelled(f"run {self.id!r} of {self.workflow!r} was cancelled: {self._failure}")
        return self.data

    def __repr__(self) -> str:
        return f"<RunResult {self.id} {self.workflow} {self.status}>"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list: its head, without history."""

    id: str
    workflow: str
    version: str
    status: RunStatus
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    wake_at: datetime | None
    waiting_for: tuple[str, ...]
    blocked_reason: str | None
    priority: int
    parent: str | None = None
    """The id of the run whose child this is."""

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self.workflow

    @staticmethod
    def of(header: Header) -> RunSummary:
        """The summary of a stored run."""
        return RunSummary(
            header.run_id, header.workflow, header.version, header.status, to_datetime(header.created_at),
            to_datetime(header.updated_at), to_datetime(header.ended_at), to_datetime(header.wake_at),
            header.waiting, header.blocked or None, header.priority, header.parent or None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """Some runs, newest first, and the cursor for the next page (None: this was the last)."""

    runs: tuple[RunSummary, ...]
    next_cursor: str | None

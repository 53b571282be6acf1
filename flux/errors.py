"""Every error flux raises, drawn as one flat tree. `except FluxError` catches them all.

    FluxError
     the caller's call          InvalidWorkflow  InvalidArgument  InvalidInput  InvalidPayload  NotStorable
                                UnknownWorkflow  EngineClosed
     the run it names           RunNotFound  RunConflict  RunFinished  RunNotFinished  UnknownSignal  InboxFull
                                DefinitionChanged  PastPivot  RunNotBlocked
     the schedule it names      ScheduleNotFound  UnreadableSchedule
     how a step ended           StepTimeout  WaitTimeout  StepError  UnknownOutcome  UnknownBranch  LoopLimit  BranchesFailed
                                DataConflict  ChildFailed
     how a run ended            RunFailed  RunCancelled  DeadlineExceeded
     why a run is blocked       WorkerCrashed  HandlerStuck  CompensationFailed  ReplayFailed  (and PastPivot, DeadlineExceeded,
                                DefinitionChanged, UnreadableRun)
     asked for by a handler     NonRetryable  RetryAfter
     the storage below          StorageUnavailable  StorageTooNew  StorageMisused  UnreadableRun  LeaseLost

Classes are named for the situation; tell them apart by class, never by message text.
"""

from __future__ import annotations

import math
from datetime import timedelta

__all__ = [
    "BranchesFailed", "CompensationFailed", "DataConflict", "DeadlineExceeded", "DefinitionChanged", "EngineClosed", "FluxError",
    "HandlerStuck", "InboxFull", "InvalidArgument", "InvalidInput", "InvalidPayload", "InvalidWorkflow", "LeaseLost", "LoopLimit",
    "NonRetryable", "NotStorable", "PastPivot", "ReplayFailed", "RetryAfter", "RunCancelled", "RunConflict", "RunFailed",
    "RunFinished", "RunNotBlocked", "RunNotFinished", "RunNotFound", "ScheduleNotFound", "StepError", "StepTimeout", "StorageMisused",
    "StorageTooNew", "StorageUnavailable", "UnknownBranch", "UnknownOutcome", "UnknownSignal", "UnknownWorkflow", "UnreadableRun",
    "UnreadableSchedule", "WaitTimeout", "WorkerCrashed",
]  # fmt: skip


class FluxError(Exception):
    """The base of every error flux raises itself. You never get a bare one."""


class InvalidWorkflow(FluxError):
    """A definition that cannot run, at the builder call or registration that made it so (S1.4).

    Names the workflow and the step. You do not get it once a run exists: see `DefinitionChanged`.
    """


class InvalidArgument(FluxError, ValueError):
    """An argument of an engine call that is refused before anything is written: an id, a limit, a cursor, a URL (S15.7)."""


class InvalidInput(FluxError, ValueError):
    """A run's input does not fit what the workflow declares; nothing was stored. `path` names the field, such as `lines[2].sku`."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class InvalidPayload(FluxError, ValueError):
    """A signal's payload does not fit the wait's declared type; nothing was stored (S7.3). `path` names the field."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class NotStorable(FluxError, ValueError):
    """A value that cannot be written: a type without an encoding, NaN, a cycle, too deep or too large (S15.1).

    From a handler it is the error of that step and is not retried; from a call it is raised at the caller.
    """


class UnknownWorkflow(FluxError, LookupError):
    """A call needs a workflow that this engine has not registered; the message lists those it has."""


class EngineClosed(FluxError, RuntimeError):
    """A call on an engine that is not open: use it inside `async with FluxEngine(...)`."""


class RunNotFound(FluxError, LookupError):
    """No run has this id in this storage (S7.4)."""


class RunConflict(FluxError):
    """The id or idempotency key belongs to a run of another workflow or with another input (S2.4)."""


class RunFinished(FluxError):
    """A signal or a cancel for a run that has ended (S7.4). A repeated `signal_id` that was accepted before is not an error."""


class RunNotFinished(FluxError):
    """`delete` of a run that has not ended: cancel it first (D26)."""


class UnknownSignal(FluxError, LookupError):
    """The workflow declares its waits, and this name is neither among them nor awaited now (S7.4, D25)."""


class InboxFull(FluxError):
    """A run has its limit of signals that nobody has taken yet (S15.7); this one was not stored."""


class DefinitionChanged(FluxError):
    """The journal of a run no longer fits the registered workflow; the run is kept as it was (S13.2). `paths` says where."""

    def __init__(self, message: str, paths: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.paths = paths


class StepTimeout(FluxError, TimeoutError):
    """An attempt of a step ran longer than its `timeout=` (S5.1). Its effect may have happened: the step is in doubt (D8)."""


class WaitTimeout(FluxError, TimeoutError):
    """A wait's `timeout=` passed with no signal, and it has neither `default=` nor `on_timeout=` (S7.5)."""


class StepError(FluxError):
    """Stands in for a recorded exception whose class cannot be rebuilt here (S3.9): `type_name` names it, `args` are its own."""

    type_name: str = ""
    message: str = ""

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.type_name else super().__str__()


class UnknownOutcome(FluxError):
    """A started attempt was lost and the step says `on_unknown="fail"` or `"compensate"`: it is not called again (S3.8)."""


class UnknownBranch(FluxError, LookupError):
    """The selector of a `route` named a branch that it does not have, and there is no `default`; the message lists those it has."""


class LoopLimit(FluxError):
    """A `loop` was not done after its `at_most` turns."""


class BranchesFailed(FluxError):
    """Too few branches of a `parallel` with `join="any"` or a number, or items of a `for_each` with `at_least`, completed; the first
    failure is its `__cause__`. Where all have to complete, you get that failure itself."""


class DataConflict(FluxError):
    """Steps beside one another changed one key of `ctx.data` to different values; the message names it. `merge=` of a `parallel` or
    `for_each` says what becomes of such a key (D22)."""


class ChildFailed(FluxError):
    """A child workflow failed, or was cancelled by somebody else than its parent; the child's error is the `__cause__`."""


class RunFailed(FluxError):
    """Raised by `unwrap()` and `handle.result()` for a failed run, with the original error as `__cause__`.

    You do not get it from `execute`, which returns a result with status `failed`.
    """


class RunCancelled(FluxError):
    """Raised by `unwrap()` and `handle.result()` for a cancelled run; also `ctx.error` in the compensations of a cancel."""


class DeadlineExceeded(FluxError, TimeoutError):
    """The run did not end before its `deadline=` (S5.2); it was unwound and is `failed`."""


class WorkerCrashed(FluxError):
    """A step lost `crash_limit` attempts to crashes while it ran alone; the run is `blocked`, not failed (S3.7, D11). It is a reason
    that a run shows; you do not get it raised."""


class HandlerStuck(FluxError):
    """A `def` handler that overran its timeout has not returned within `abandon_after`, so its step can go on in this process no
    more; the run is `blocked` (D9). It is a reason that a run shows; you do not get it raised."""


class CompensationFailed(FluxError):
    """A compensation failed for good and the workflow says `on_compensation_failure="block"`; the run is `blocked` (S10.6). It is
    a reason that a run shows; you do not get it raised."""


class ReplayFailed(FluxError):
    """A commit step failed when a replay ran it again; the run is `blocked`, and cancelling it gives its old status back (D4). It
    is a reason that a run shows; you do not get it raised."""


class PastPivot(FluxError):
    """The run has passed its point of no return: it cannot be cancelled with its compensations, nor retried from a step before
    that (S9.4, D10). Also the reason that a run shows which failed after it: it is `blocked`, never unwound."""


class RunNotBlocked(FluxError):
    """`resolve` for a run, or a path, at which nothing is blocked; the message says where the run stands."""


class ScheduleNotFound(FluxError, LookupError):
    """No schedule has this name in this storage."""


class UnreadableSchedule(FluxError):
    """What is stored of a schedule cannot be read here: damaged, or written by a newer flux. It makes no runs, and is in no other's way;
    delete it and make it again."""


class NonRetryable(FluxError):
    """Raise it (or a subclass) in a handler to fail the step at once, whatever its `retries=` (S4.2)."""


class RetryAfter(FluxError):
    """Raise it in a handler to choose the delay before the next attempt, in seconds or as a timedelta; it still counts as a retry
    (S4.2). More than 1,000 years are 1,000 years; what is not finite leaves the delay to the step's `retry=`. Raises InvalidArgument."""

    def __init__(self, seconds: float | timedelta, message: str = "") -> None:
        delay: object = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        if isinstance(delay, bool) or not isinstance(delay, int | float):
            raise InvalidArgument(f"RetryAfter: seconds must be a number or a timedelta, got {type(delay).__name__}")
        super().__init__(delay, message)
        try:
            self.seconds = float(delay)
        except OverflowError:
            self.seconds = math.inf if delay > 0 else -math.inf

    def __str__(self) -> str:
        return self.args[1] or f"asked to be tried again after {self.seconds:g} s"


class StorageUnavailable(FluxError):
    """The storage did not answer or could not write (disk full, I/O error, connection lost); try again. Nothing is half written."""


class StorageTooNew(FluxError):
    """The file or schema was written by a newer flux; it was not touched (S15.4). Upgrade flux, or open another file."""


class StorageMisused(FluxError):
    """A storage is used against its contract: not opened, opened twice, or a file that is not a flux database."""


class UnreadableRun(FluxError):
    """The stored rows of one run cannot be read (S15.2). Other runs are not affected. `run_id` names it."""

    def __init__(self, message: str, run_id: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id


class LeaseLost(FluxError):
    """Another worker holds the run now: this commit changed nothing (S14.2). The engine drops the run; you rarely see it."""

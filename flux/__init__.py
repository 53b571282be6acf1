"""Durable workflows: steps that survive crashes, restarts and deploys.

Where things are, from the outside in:

    builder.py      create_workflow(...).step(...): a definition, checked as it is built (check.py), drawn by diagram.py
    engine/         FluxEngine: drives runs. Read driver.py: perform, commit, go on
    context.py      what a handler sees: ctx.data, ctx.results, ctx.input
    core/           the pure machine: decide, evolve, outstanding. Read machine.py; it needs nothing of the rest
    storage.py      the seam to storages, as numbered sentences; flux_storage/ has memory, SQLite and PostgreSQL
    codec.py        values as text; journal.py: records as rows; failures.py: exceptions as values
    testing/        a virtual clock and the storage conformance suite
    errors.py       every error, drawn as a tree
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .builder import Branch, Workflow, branch, create_workflow
    from .codec import Codec, JsonCodec
    from .context import Context
    from .core.retry import Retry
    from .core.status import RunStatus, StepStatus
    from .engine.doctor import Finding, Report
    from .engine.engine import FluxEngine, run
    from .engine.handle import RunHandle
    from .engine.hooks import Event, Hooks
    from .engine.schedules import Schedule
    from .engine.trace import TraceFile
    from .engine.view import Compensation, HistoryLine, Page, Progress, Reopening, Resolution, RunResult, RunSummary
    from .engine.worker import Worker
    from .errors import (
        BranchesFailed,
        ChildFailed,
        CompensationFailed,
        DataConflict,
        DeadlineExceeded,
        DefinitionChanged,
        EngineClosed,
        FluxError,
        HandlerStuck,
        InboxFull,
        InvalidArgument,
        InvalidInput,
        InvalidPayload,
        InvalidWorkflow,
        LeaseLost,
        LoopLimit,
        NonRetryable,
        NotStorable,
        PastPivot,
        ReplayFailed,
        RetryAfter,
        RunCancelled,
        RunConflict,
        RunFailed,
        RunFinished,
        RunNotBlocked,
        RunNotFinished,
        RunNotFound,
        ScheduleNotFound,
        StepError,
        StepTimeout,
        StorageMisused,
        StorageTooNew,
        StorageUnavailable,
        UnknownBranch,
        UnknownOutcome,
        UnknownSignal,
        UnknownWorkflow,
        UnreadableRun,
        UnreadableSchedule,
        WaitTimeout,
        WorkerCrashed,
    )
    from .queue import Queue
    from .schedules import scheduled_at
    from .secret import Secret
    from .storage import WorkflowStorage
    from .waiting import NOT_DONE, ContinueAsNew, WaitFor, continue_as_new, wait

__version__ = "0.2.0"

__all__ = [
    "NOT_DONE",
    "Branch",
    "BranchesFailed",
    "ChildFailed",
    "Codec",
    "Compensation",
    "CompensationFailed",
    "Context",
    "ContinueAsNew",
    "DataConflict",
    "DeadlineExceeded",
    "DefinitionChanged",
    "EngineClosed",
    "Event",
    "Finding",
    "FluxEngine",
    "FluxError",
    "HandlerStuck",
    "HistoryLine",
    "Hooks",
    "InboxFull",
    "InvalidArgument",
    "InvalidInput",
    "InvalidPayload",
    "InvalidWorkflow",
    "JsonCodec",
    "LeaseLost",
    "LoopLimit",
    "NonRetryable",
    "NotStorable",
    "Page",
    "PastPivot",
    "Progress",
    "Queue",
    "Reopening",
    "ReplayFailed",
    "Report",
    "Resolution",
    "Retry",
    "RetryAfter",
    "RunCancelled",
    "RunConflict",
    "RunFailed",
    "RunFinished",
    "RunHandle",
    "RunNotBlocked",
    "RunNotFinished",
    "RunNotFound",
    "RunResult",
    "RunStatus",
    "RunSummary",
    "Schedule",
    "ScheduleNotFound",
    "Secret",
    "StepError",
    "StepStatus",
    "StepTimeout",
    "StorageMisused",
    "StorageTooNew",
    "StorageUnavailable",
    "TraceFile",
    "UnknownBranch",
    "UnknownOutcome",
    "UnknownSignal",
    "UnknownWorkflow",
    "UnreadableRun",
    "UnreadableSchedule",
    "WaitFor",
    "WaitTimeout",
    "Worker",
    "WorkerCrashed",
    "Workflow",
    "WorkflowStorage",
    "branch",
    "continue_as_new",
    "create_workflow",
    "run",
    "scheduled_at",
    "wait",
]  # fmt: skip

# Public names are loaded when they are first touched: a program that imports flux and runs no workflow pays a millisecond.
_HOMES = {
    "builder": ("Branch", "Workflow", "branch", "create_workflow"),
    "codec": ("Codec", "JsonCodec"),
    "context": ("Context",),
    "core.retry": ("Retry",),
    "core.status": ("RunStatus", "StepStatus"),
    "engine.doctor": ("Finding", "Report"),
    "engine.engine": ("FluxEngine", "run"),
    "engine.handle": ("RunHandle",),
    "engine.hooks": ("Event", "Hooks"),
    "engine.schedules": ("Schedule",),
    "engine.trace": ("TraceFile",),
    "engine.view": ("Compensation", "HistoryLine", "Page", "Progress", "Reopening", "Resolution", "RunResult", "RunSummary"),
    "engine.worker": ("Worker",),
    "queue": ("Queue",),
    "schedules": ("scheduled_at",),
    "secret": ("Secret",),
    "storage": ("WorkflowStorage",),
    "waiting": ("NOT_DONE", "ContinueAsNew", "WaitFor", "continue_as_new", "wait"),
}  # fmt: skip
_HOME = dict.fromkeys(__all__, "errors") | {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flux' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

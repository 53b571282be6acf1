"""Where a run and a step can stand, and what each command does to a run in each status.

The table at the end is total: every command has an answer in every status, because in a durable system
duplicates and late arrivals are daily life. `APPLY` may change the run, `IGNORE` never does.
"""

from __future__ import annotations

from enum import Enum

from .commands import (
    Advance,
    Answered,
    Arrived,
    Block,
    Command,
    Continued,
    Cut,
    Lost,
    Migrate,
    Postpone,
    Raised,
    Released,
    Reopen,
    Resolve,
    Returned,
    Suspended,
    Tick,
    Unblock,
)


class RunStatus(str, Enum):
    """Where a run stands (S2.1). Compares equal to its value: `result.status == "completed"`."""

    PENDING = "pending"  # created; nothing has started
    RUNNING = "running"  # a handler runs, or could start now
    SUSPENDED = "suspended"  # only waits and timers are outstanding (D17)
    COMPENSATING = "compensating"  # on the way down, undoing
    BLOCKED = "blocked"  # parked until a person, or a worker whose code fits, moves it on
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    __hash__ = str.__hash__  # it equals its value, so it is found where its value is

    def __str__(self) -> str:
        return str(self.value)


class StepStatus(str, Enum):
    """Where a step stands in the history of its run. Compares equal to its value."""

    PENDING = "pending"  # will be started as soon as somebody holds the run
    RUNNING = "running"  # an attempt was started and has no outcome yet
    SUSPENDED = "suspended"  # waits for a signal or for time (a retry's delay too)
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"  # stopped before it had an outcome of its own
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"

    __hash__ = str.__hash__  # it equals its value, so it is found where its value is

    def __str__(self) -> str:
        return str(self.value)


TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})

APPLY, IGNORE = True, False

_ATTEMPTS: tuple[type[Command], ...] = (Returned, Suspended, Continued, Answered, Raised, Cut, Released, Lost)
COMMANDS: tuple[type[Command], ...] = (*_ATTEMPTS, Advance, Tick, Arrived, Postpone, Block, Unblock, Resolve, Reopen, Migrate)


def _only(*applied: type[Command]) -> dict[type[Command], bool]:
    return {command: command in applied for command in COMMANDS}


_MOVING = _only(*_ATTEMPTS, Advance, Tick, Arrived, Postpone, Block, Migrate)
# A parked run starts nothing, but records what its attempts came to (I28), keeps signals, and can be cancelled or moved on.
_PARKED = _only(*_ATTEMPTS, Arrived, Unblock, Resolve, Reopen, Migrate)
# What has ended stays so, but for a person's explicit act (S2.2), for which the signals that nobody took are kept.
_ENDED = _only(Arrived, Reopen, Migrate)

TABLE: dict[RunStatus, dict[type[Command], bool]] = {
    RunStatus.PENDING: _MOVING,
    RunStatus.RUNNING: _MOVING,
    RunStatus.SUSPENDED: _MOVING,
    RunStatus.COMPENSATING: _MOVING,
    RunStatus.BLOCKED: _PARKED,
    RunStatus.COMPLETED: _ENDED,
    RunStatus.FAILED: _ENDED,
    RunStatus.CANCELLED: _ENDED,
}

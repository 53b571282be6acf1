"""What has happened: the journal's vocabulary. Past participles; a record never changes (I1).

Texts in `result`, `input`, `payload` and the values of `changes` are encoded values; the core never looks into them.
The path of a compensation is its step's path and `!undo`: it starts, fails, is retried and lost like any step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .commands import Changes, CutCause
from .failure import Failure
from .value import Value

UnwindCause: TypeAlias = Literal["failed", "cancelled", "deadline"]
Again: TypeAlias = Literal["retry", "replay", "unwind"]
Told: TypeAlias = Literal["cancel", "stop", "unwind"]
Way: TypeAlias = Literal["retry", "skip", "done"]


class Record(Value):
    """The base of all records."""

    __slots__ = ()


@dataclass(slots=True, eq=False, repr=False)
class RunCreated(Record):
    """Always the first record: what the run is, and what it was given. `continuation` counts how often it has begun again
    (`continue_as_new`), the last time by the attempt of the step `path` that returned with this record; `created_at` is then when
    it was created.
    """

    workflow: str
    version: str
    shape: str
    input: str
    data: Changes
    deadline_at: int | None = None
    parent: str = ""  # the id of the run whose child this is
    continuation: int = 0
    path: str = ""
    created_at: int | None = None


@dataclass(slots=True, eq=False, repr=False)
class StepStarted(Record):
    """An attempt is about to be dispatched: from here on it may have been called (D7)."""

    path: str
    attempt: int


@dataclass(slots=True, eq=False, repr=False)
class StepCompleted(Record):
    """The attempt returned; its result and its changes to the data are part of the run from here on (S3.3)."""

    path: str
    attempt: int
    result: str
    changes: Changes | None = None


@dataclass(slots=True, eq=False, repr=False)
class StepSuspended(Record):
    """The attempt returned `flux.wait(...)`: the step now waits for a signal (S7.1)."""

    path: str
    attempt: int
    signal: str
    expires_at: int | None = None
    default: str | None = None
    changes: Changes | None = None


@dataclass(slots=True, eq=False, repr=False)
class AttemptFailed(Record):
    """The attempt raised or timed out, and another follows at `retry_at` (S4.3)."""

    path: str
    attempt: int
    failure: Failure
    retry_at: int
    doubt: bool = False


@dataclass(slots=True, eq=False, repr=False)
class AttemptLost(Record):
    """The attempt's owner is gone; another follows at `retry_at`, or none (None) (S3.7)."""

    path: str
    attempt: int
    retry_at: int | None


@dataclass(slots=True, eq=False, repr=False)
class AttemptCut(Record):
    """The attempt was stopped from outside before it had an outcome: it is in doubt (D8). After a shutdown another follows."""

    path: str
    attempt: int
    cause: CutCause
    retry_at: int | None


@dataclass(slots=True, eq=False, repr=False)
class AttemptReleased(Record):
    """The attempt was never dispatched; it does not count (D7)."""

    path: str
    attempt: int


@dataclass(slots=True, eq=False, repr=False)
class StepFailed(Record):
    """The step failed for good. `attempt` is 0 when it never had one (a condition that raised, a wait that expired)."""

    path: str
    attempt: int
    failure: Failure
    doubt: bool = False


@dataclass(slots=True, eq=False, repr=False)
class StepSkipped(Record):
    """The step's `when` said no; it is skipped for ever (S6.1)."""

    path: str


@dataclass(slots=True, eq=False, repr=False)
class WaitStarted(Record):
    """A wait was reached (S7.1)."""

    path: str
    signal: str
    expires_at: int | None = None


@dataclass(slots=True, eq=False, repr=False)
class SignalReceived(Record):
    """Posting `seq` was delivered to this wait, whose result is its payload (I23)."""

    path: str
    seq: int
    payload: str


@dataclass(slots=True, eq=False, repr=False)
class WaitExpired(Record):
    """The wait's time ran out: it ends with `result` (its default), or goes on in its `on_timeout` branch (None) (S7.5)."""

    path: str
    result: str | None


@dataclass(slots=True, eq=False, repr=False)
class BranchEnded(Record):
    """The last step inside this step has ended; `result` says nothing where the parts hold it (D23)."""

    path: str


@dataclass(slots=True, eq=False, repr=False)
class SleepStarted(Record):
    """A sleep was reached; its due time is computed once (S8.1)."""

    path: str
    until: int


@dataclass(slots=True, eq=False, repr=False)
class SleepEnded(Record):
    """The sleep's due time has passed."""

    path: str


@dataclass(slots=True, eq=False, repr=False)
class CancelRequested(Record):
    """Posting `seq` asked to cancel the run (S11.1)."""

    seq: int
    reason: str
    compensate: bool
    interrupt: bool


@dataclass(slots=True, eq=False, repr=False)
class UnwindStarted(Record):
    """The run is on its way down; what is to be undone follows from the journal (S10)."""

    cause: UnwindCause
    failure: Failure
    compensate: bool = True


@dataclass(slots=True, eq=False, repr=False)
class RunCompleted(Record):
    """Every step has ended: the run is completed."""


@dataclass(slots=True, eq=False, repr=False)
class RunFailed(Record):
    """Everything that could be undone is; the run is failed. The reason stands in `UnwindStarted`."""


@dataclass(slots=True, eq=False, repr=False)
class RunCancelled(Record):
    """Everything is undone; the run is cancelled."""


@dataclass(slots=True, eq=False, repr=False)
class RunBlocked(Record):
    """The run is parked until it is moved on; `reason` is a class name of `flux.errors`, `path` the step it stands at.

    `misfit` is the fingerprint of the code that the journal does not fit: other code may take the run (D28).
    """

    reason: str
    message: str
    path: str = ""
    misfit: str = ""


@dataclass(slots=True, eq=False, repr=False)
class RunUnblocked(Record):
    """The run goes on where it was parked."""


@dataclass(slots=True, eq=False, repr=False)
class CancelRefused(Record):
    """The cancel of posting `seq` cannot be honoured: the run has passed its point of no return meanwhile (D10)."""

    seq: int


@dataclass(slots=True, eq=False, repr=False)
class AttemptIsolated(Record):
    """The attempt that was just started runs alone in its worker: if it is lost, that is its own doing (D11)."""

    path: str
    attempt: int


@dataclass(slots=True, eq=False, repr=False)
class AttemptPostponed(Record):
    """The next attempt has to wait longer, for a worker where it can run alone (D11)."""

    path: str
    retry_at: int


@dataclass(slots=True, eq=False, repr=False)
class StepProbed(Record):
    """The probe of the step at `path` has answered: with its result, or (None) that nothing happened (S3.8)."""

    path: str
    attempt: int
    result: str | None


@dataclass(slots=True, eq=False, repr=False)
class StepResolved(Record):
    """A person moved on the run that was blocked at `path`: the step is tried again, left out, or taken as done with `result`."""

    path: str
    way: Way
    result: str | None
    by: str
    reason: str


@dataclass(slots=True, eq=False, repr=False)
class Reopened(Record):
    """An ended run does something again (D1): a person had it go on from `from_path` ('' for its end), or run its commit steps again;
    or its parent has it undo what it did (D6)."""

    generation: int
    cause: Again
    from_path: str
    by: str
    reason: str
    deadline_at: int | None = None


@dataclass(slots=True, eq=False, repr=False)
class RunForked(Record):
    """This run shares the history of run `origin` before `from_path` (D5); what it inherits follows."""

    origin: str
    from_path: str
    by: str
    reason: str


@dataclass(slots=True, eq=False, repr=False)
class StepInherited(Record):
    """A step that the origin of a fork had done: its outcome is shared, its obligations are not (D5)."""

    path: str
    skipped: bool
    attempt: int
    signal: str | None
    result: str | None
    changes: Changes | None
    started_at: int | None
    ended_at: int | None
    inside: int | str | None = None  # of a step with branches: which it took, or how many turns or items it had


@dataclass(slots=True, eq=False, repr=False)
class RunMigrated(Record):
    """From here on the run is of another version of its workflow, by a declared migration (S13). `renamed` maps the paths that records
    before this one have to those they have now: so the run can be read where that migration is not known."""

    version: str
    shape: str
    renamed: dict[str, str] | None = None


@dataclass(slots=True, eq=False, repr=False)
class ParallelStarted(Record):
    """The branches of this step have begun, all of them (S1.2)."""

    path: str


@dataclass(slots=True, eq=False, repr=False)
class RouteTaken(Record):
    """The selector has answered, once and for all: this step goes on in that branch (S1.2)."""

    path: str
    branch: str


@dataclass(slots=True, eq=False, repr=False)
class TurnStarted(Record):
    """The body of this loop begins its `turn`-th turn, from 1."""

    path: str
    turn: int


@dataclass(slots=True, eq=False, repr=False)
class ItemsListed(Record):
    """What this step iterates over, once and for all: encoded items. The first of them begin."""

    path: str
    items: tuple[str, ...]


@dataclass(slots=True, eq=False, repr=False)
class ArmEnded(Record):
    """The last step of the branch or item at `path` has ended."""

    path: str


@dataclass(slots=True, eq=False, repr=False)
class ArmsStopped(Record):
    """The outcome of the step at `path` is settled: nothing more starts in its branches, and what waits there is left."""

    path: str


@dataclass(slots=True, eq=False, repr=False)
class ArmsJoined(Record):
    """Enough branches of the step at `path` have completed; `changes` are what they changed in the data, merged (D22)."""

    path: str
    changes: Changes | None


@dataclass(slots=True, eq=False, repr=False)
class ChildStarted(Record):
    """The run `child` has been made, in the transaction of this record: the step waits for its end (S1.2, I41)."""

    path: str
    child: str


@dataclass(slots=True, eq=False, repr=False)
class ChildTold(Record):
    """In the transaction of this record the child was asked to end: the whole run goes down ("cancel"), or nobody waits for its branch
    any more ("stop"); or to undo what it did ("unwind", at the path of the compensation)."""

    path: str
    why: Told
    interrupt: bool = False


@dataclass(slots=True, eq=False, repr=False)
class ChildEnded(Record):
    """Posting `seq` told how the child of this step, or its undoing, has ended. `clean`: nothing of it is left that should have been
    undone."""

    path: str
    seq: int
    status: Literal["completed", "failed", "cancelled"]
    result: str | None
    failure: Failure | None
    clean: bool = True


@dataclass(slots=True, eq=False, repr=False)
class UndoDemanded(Record):
    """Posting `seq`: the parent wants what this finished child did undone (D6). What comes of it is told to the parent."""

    seq: int


RECORDS: tuple[type[Record], ...] = (
    RunCreated,
    StepStarted,
    StepCompleted,
    StepSuspended,
    AttemptFailed,
    AttemptLost,
    AttemptCut,
    AttemptReleased,
    StepFailed,
    StepSkipped,
    WaitStarted,
    SignalReceived,
    WaitExpired,
    BranchEnded,
    SleepStarted,
    SleepEnded,
    CancelRequested,
    UnwindStarted,
    RunCompleted,
    RunFailed,
    RunCancelled,
    RunBlocked,
    RunUnblocked,
    CancelRefused,
    AttemptIsolated,
    AttemptPostponed,
    StepProbed,
    StepResolved,
    Reopened,
    RunForked,
    StepInherited,
    RunMigrated,
    ParallelStarted,
    RouteTaken,
    TurnStarted,
    ItemsListed,
    ArmEnded,
    ArmsStopped,
    ArmsJoined,
    ChildStarted,
    ChildTold,
    ChildEnded,
    UndoDemanded,
)

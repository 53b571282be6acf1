"""What may be asked of a run: the machine's input. Imperatives and outcomes, never stored.

Values inside are encoded text already; the core never looks into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .failure import Failure
from .value import Value

Changes: TypeAlias = dict[str, str | None]  # key of the run's data -> encoded value, or None for 'deleted'
PostingKind: TypeAlias = Literal["signal", "cancel", "child", "unwind"]
CutCause: TypeAlias = Literal["cancelled", "deadline", "shutdown", "stopped"]


@dataclass(slots=True, eq=False, repr=False)
class Posting(Value):
    """A stored word from outside: a signal, a cancel, the end of a child, or a parent's demand that a finished child be undone.
    `seq` counts from 1 per run, in order of acceptance (I24)."""

    seq: int
    kind: PostingKind
    name: str
    payload: str
    signal_id: str | None = None
    at: int = 0


@dataclass(slots=True, eq=False, repr=False)
class Tell(Value):
    """A word from this run to a child of its: that it is to be cancelled, or, once it has ended, undone."""

    run_id: str
    kind: Literal["cancel", "unwind"]
    reason: str = ""
    compensate: bool = True
    interrupt: bool = False


class Command(Value):
    """The base of all commands."""

    __slots__ = ()


@dataclass(slots=True, eq=False, repr=False)
class Advance(Command):
    """Take up whatever can start now: the first command after a create or a claim."""


@dataclass(slots=True, eq=False, repr=False)
class Returned(Command):
    """An attempt's handler returned: its result and its changes to the data."""

    path: str
    attempt: int
    result: str
    changes: Changes | None = None


@dataclass(slots=True, eq=False, repr=False)
class Suspended(Command):
    """An attempt's handler returned `flux.wait(...)`: the step goes on as a wait (S7.1)."""

    path: str
    attempt: int
    signal: str
    timeout: int | None = None
    default: str | None = None
    changes: Changes | None = None


@dataclass(slots=True, eq=False, repr=False)
class Continued(Command):
    """An attempt's handler returned `flux.continue_as_new(...)`: the run begins again, with this input (None: the one it had)."""

    path: str
    attempt: int
    input: str | None
    changes: Changes | None = None


@dataclass(slots=True, eq=False, repr=False)
class Raised(Command):
    """An attempt's handler raised, or overran its timeout (`doubt`). `delay` in microseconds is the handler's own wish."""

    path: str
    attempt: int
    failure: Failure
    retryable: bool = True
    delay: int | None = None
    doubt: bool = False


@dataclass(slots=True, eq=False, repr=False)
class Cut(Command):
    """An attempt was stopped before it had an outcome: by an interrupting cancel, the deadline, or a shutdown. It is in doubt (D8)."""

    path: str
    attempt: int
    cause: CutCause


@dataclass(slots=True, eq=False, repr=False)
class Lost(Command):
    """All attempts that the journal shows as running have no owner any more: their process is gone (S3.7)."""


@dataclass(slots=True, eq=False, repr=False)
class Released(Command):
    """A started attempt was not dispatched after all: a graceful release puts nothing in doubt (D7)."""

    path: str
    attempt: int


@dataclass(slots=True, eq=False, repr=False)
class Tick(Command):
    """Time has passed: fire what is due."""


@dataclass(slots=True, eq=False, repr=False)
class Arrived(Command):
    """Postings that the run has not seen yet, in order. `upto`: there are none but these up to that number."""

    postings: tuple[Posting, ...]
    upto: int = 0


@dataclass(slots=True, eq=False, repr=False)
class Block(Command):
    """Park the run for a reason that the machine cannot see: the stored definition does not fit, a row cannot be read."""

    reason: str
    message: str
    path: str = ""


@dataclass(slots=True, eq=False, repr=False)
class Unblock(Command):
    """Move a blocked run on: asked for by a person, or by code that fits again."""


@dataclass(slots=True, eq=False, repr=False)
class Answered(Command):
    """The probe of a step answered: with the step's encoded result, or (None) that nothing happened (S3.8)."""

    path: str
    attempt: int
    result: str | None


@dataclass(slots=True, eq=False, repr=False)
class Postpone(Command):
    """A suspect could not be given a worker to itself: its next attempt waits `delay` microseconds more (D11)."""

    path: str
    delay: int


@dataclass(slots=True, eq=False, repr=False)
class Resolve(Command):
    """Move on a run that is blocked at `path`; `result` is what the step taken as done returned, encoded."""

    path: str
    way: Literal["retry", "skip", "done"]
    result: str | None
    by: str
    reason: str


@dataclass(slots=True, eq=False, repr=False)
class Reopen(Command):
    """Do something of an ended run again: from `from_path` on, or (a replay) its commit steps."""

    cause: Literal["retry", "replay"]
    from_path: str
    by: str
    reason: str


@dataclass(slots=True, eq=False, repr=False)
class Migrate(Command):
    """The run's journal fits the plan by a declared migration: it is of the plan's version from here on."""

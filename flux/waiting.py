"""What handlers return to say more than a value: `wait(...)`, `continue_as_new(...)`, and a probe's `NOT_DONE`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from .core.workflow import MISSING
from .durations import Duration, to_microseconds
from .errors import InvalidArgument
from .names import check_name


class NotDone(Enum):
    """The type of `NOT_DONE`."""

    NOT_DONE = "not done"

    def __repr__(self) -> str:
        return "flux.NOT_DONE"


NOT_DONE = NotDone.NOT_DONE
"""A probe's answer that the attempt it asks after had no effect: the step is tried again (S3.8)."""


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Made by `wait(...)`: the step goes on as a wait for `signal`. `timeout` is in microseconds."""

    signal: str
    timeout: int | None = None
    default: Any = MISSING

    @property
    def has_default(self) -> bool:
        """Whether the wait ends with `default` when its time is out, instead of failing with WaitTimeout (S7.5)."""
        return self.default is not MISSING


@dataclass(frozen=True, slots=True)
class ContinueAsNew:
    """Made by `continue_as_new(...)`: the run begins again, with this input unless it is MISSING."""

    input: Any = MISSING


def continue_as_new(input: Any = MISSING) -> ContinueAsNew:
    """Return this from a step at the top level of a workflow without an end of its own: the run begins again at its first step, under its
    id, with its data as they are now, and with this input if one is given.

    Its history starts afresh, so that a run which goes on for years stays as quick as on its first day: what it did before is not
    read any more, nor compensated; signals that nobody took are kept, and a deadline begins anew. It happens in one transaction with
    the end of the step (S1.2, D1).
    """
    return ContinueAsNew(input)


def wait(signal: str, *, timeout: Duration | None = None, default: Any = MISSING) -> WaitFor:
    """Return this from a handler: the run is suspended until `signal` comes, and its payload is the step's result.

    After `timeout` (seconds or a timedelta; None waits for ever) the step fails with WaitTimeout, or results in `default`.
    Raises InvalidWorkflow for a malformed name, InvalidArgument for the rest.
    """
    signal = check_name(signal, "the name of a signal")
    if timeout is None:
        if default is not MISSING:
            raise InvalidArgument(f"wait({signal!r}): default= needs a timeout=, without one the wait never ends by itself")
        return WaitFor(signal)
    return WaitFor(signal, to_microseconds(timeout, f"wait({signal!r}): timeout"), default)

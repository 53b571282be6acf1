"""What handlers return to say more than a value: `wait(...)`, and a probe's `NOT_DONE`."""

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


def wait(signal: str, *, timeout: Duration | None = None, default: Any = MISSING) -> WaitFor:
    """Return this from a handler: the run is suspended until `signal` comes, and its payload is the step's result.

    After `timeout` (seconds or a timedelta; None waits for ever) the step fails with WaitTimeout, or results in `default`.
    Raises InvalidWorkflow for a malformed name, InvalidArgument for the rest.
    """
    check_name(signal, "the name of a signal")
    if timeout is None:
        if default is not MISSING:
            raise InvalidArgument(f"wait({signal!r}): default= needs a timeout=, without one the wait never ends by itself")
        return WaitFor(signal)
    return WaitFor(signal, to_microseconds(timeout, f"wait({signal!r}): timeout"), default)

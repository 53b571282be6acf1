"""What the machine is told of the world, and what it decides, while it is being decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .commands import Posting
from .evolve import EVOLVE
from .records import CancelRequested, Record
from .state import RunState

Question: TypeAlias = Literal["when", "until", "route", "items", "go_on", "stop", "merge"]


def _busy() -> bool:
    return False


@dataclass(slots=True)
class Moment:
    """What the machine may know of the world: the time, a draw, an answer, and whether new attempts may start.

    `ask(node, path, question)` evaluates the step's `when` or a loop's test (a bool), a sleep's due time (microseconds), a route's
    selector, a for_each's items (encoded), or the `merge` of conflicts it is given; it answers with a Failure when that raised.
    `read_cancel(posting)` reads a cancel posting. With `halt` nothing new starts. `alone`: this run has its worker to itself;
    `quiet()`: nothing else happens to run in it (D11).
    """

    now: int
    draw: Callable[[], float]
    ask: Callable[..., Any]
    read_cancel: Callable[[Posting], CancelRequested]
    halt: bool = False
    alone: bool = False
    quiet: Callable[[], bool] = _busy


class Decision:
    """Records to commit, and the numbers of the postings they take from the inbox; while it is being made, also what it is about."""

    __slots__ = ("consumed", "moment", "now", "records", "state")

    def __init__(self, state: RunState, moment: Moment) -> None:
        self.state = state
        self.moment = moment
        self.now = moment.now
        self.records: list[Record] = []
        self.consumed: list[int] = []

    def emit(self, record: Record) -> None:
        """One more fact: it holds from here on."""
        self.records.append(record)
        EVOLVE[type(record)](self.state, record, self.now)

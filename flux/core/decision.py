"""What the machine is told of the world, and what it decides, while it is being decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .commands import Posting, Tell
from .evolve import EVOLVE
from .failure import Failure
from .records import CancelRequested, Record
from .state import RunState

Question: TypeAlias = Literal["when", "until", "route", "items", "go_on", "stop", "merge", "child"]
Word: TypeAlias = tuple[Literal["completed", "failed", "cancelled"], str | None, Failure | None, bool]  # of a child: as in `ChildEnded`


def _busy() -> bool:
    return False


@dataclass(slots=True)
class Moment:
    """What the machine may know of the world: the time, a draw, an answer, and whether new attempts may start.

    `ask(node, path, question)` evaluates the step's `when` or a loop's test (a bool), a sleep's due time (microseconds), a route's
    selector, a for_each's items (encoded), the `merge` of conflicts it is given, or the run that a `child` is to be (the core looks at
    its `run_id`); it answers with a Failure when that raised. `read_cancel(posting)` reads a cancel, `read_child(posting)` the end
    of a child. With `halt` nothing new starts. `alone`: this run has its worker to itself;
    `quiet()`: nothing else happens to run in it (D11).
    """

    now: int
    draw: Callable[[], float]
    ask: Callable[..., Any]
    read_cancel: Callable[[Posting], CancelRequested]
    read_child: Callable[[Posting], Word]
    halt: bool = False
    alone: bool = False
    quiet: Callable[[], bool] = _busy


class Decision:
    """Records to commit, the numbers of the postings they take from the inbox, the runs that begin with them, and the words that
    go to other runs; `fresh`: the run begins again with them. While it is being made, also what it is about."""

    __slots__ = ("children", "consumed", "fresh", "moment", "now", "records", "state", "tells")

    def __init__(self, state: RunState, moment: Moment) -> None:
        self.state = state
        self.moment = moment
        self.now = moment.now
        self.records: list[Record] = []
        self.consumed: list[int] = []
        self.children: tuple[Any, ...] = ()
        self.tells: tuple[Tell, ...] = ()
        self.fresh = False

    def emit(self, record: Record) -> None:
        """One more fact: it holds from here on."""
        self.records.append(record)
        EVOLVE[type(record)](self.state, record, self.now)

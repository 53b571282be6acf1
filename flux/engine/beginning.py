"""A run that begins: its first records, and how they are handed to the storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..codec import digest
from ..core.commands import Posting
from ..core.decision import Moment
from ..core.machine import create
from ..core.records import Record, RunCreated
from ..core.state import RunState
from ..core.stride import set_out
from ..errors import InvalidArgument
from ..names import show_given
from ..storage import NewRun
from .queueing import lane_of, rate_of
from .registry import Bound


def begin(
    bound: Bound,
    run_id: str,
    text: str,
    now: int,
    draw: Callable[[], float],
    *,
    data: dict[str, str | None] | None = None,
    halt: bool = True,
    shared: Sequence[Record] = (),
    parent: str = "",
    idempotency_key: str | None = None,
    priority: int = 0,
    delay: int = 0,
    concurrency_key: str | None = None,
    deduplication_key: str | None = None,
) -> tuple[RunState, NewRun]:
    """A run of this workflow with this encoded input; with `halt` nothing in it has started. `data` is what its workflow says it begins
    with, `shared` what a fork takes over."""
    definition = bound.definition
    queue = definition.queue
    lane = "" if queue is None and concurrency_key is None else lane_of(bound, text, concurrency_key)
    deadline = None if definition.deadline is None else now + definition.deadline
    first = bound.first_data() if data is None else data
    record = RunCreated(definition.name, definition.version, bound.plan.shape, text, first, deadline, parent)
    begun = None if halt or shared else set_out(bound.plan, record, now)
    if begun is not None:
        state, records = begun
    else:
        state, decision = create(bound.plan, record, Moment(now, draw, _no_questions, _no_postings, _no_postings, halt), shared)
        records = tuple(decision.records)
    new = NewRun(
        run_id, definition.name, definition.version, bound.plan.shape, digest(text), now,
        records, state.status, None, (), idempotency_key, priority, delay, None, parent,
        lane, deduplication_key, rate_of(queue),
    )  # fmt: skip
    return state, new


def check_priority(value: object) -> int:
    """A run's priority, as a caller says it. Raises InvalidArgument."""
    if type(value) is not int or not -100 <= value <= 100:
        raise InvalidArgument(f"priority is a whole number from -100 to 100, got {show_given(value)}")
    return value


def _no_questions(*_: Any) -> Any:
    raise AssertionError("a new run asks nothing before it is stored")


def _no_postings(posting: Posting) -> Any:
    raise AssertionError("nothing has been posted to a new run")

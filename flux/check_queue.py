"""The limits of a workflow, when it is built (S1.4)."""

from __future__ import annotations

from .check_functions import check_question
from .durations import to_microseconds
from .errors import InvalidArgument, InvalidWorkflow
from .labels import shown
from .queue import Queue

MOST = 1_000_000_000


def check_queue(queue: object, owner: str) -> None:
    """Raises InvalidWorkflow."""
    if queue is None:
        return
    if not isinstance(queue, Queue):
        raise InvalidWorkflow(f"{owner}: queue must be a Queue(...), such as Queue(concurrency=20), got {shown(queue)}")
    for name in ("concurrency", "worker_concurrency", "per_key"):
        value = getattr(queue, name)
        if value is not None:
            _check_count(value, f"queue, {name}", owner)
    if queue.rate is not None:
        _check_rate(queue.rate, owner)
    if queue.key is not None:
        check_question(queue.key, "queue, key", owner, "the input")
        if queue.per_key is None:
            raise InvalidWorkflow(f"{owner}: queue has a key and no per_key: say how many runs with one key are moved at a time")


def _check_count(value: object, what: str, owner: str) -> None:
    if type(value) is not int or not 1 <= value <= MOST:
        raise InvalidWorkflow(f"{owner}: {what} must be a whole number from 1, got {shown(value)}")


def _check_rate(rate: object, owner: str) -> None:
    if not isinstance(rate, tuple) or len(rate) != 2:
        raise InvalidWorkflow(f"{owner}: queue, rate must be a pair such as (100, 60) for 100 runs in 60 seconds, got {shown(rate)}")
    count, period = rate
    _check_count(count, "queue, rate: how many", owner)
    try:
        to_microseconds(period, "queue, rate: in how long a time")
    except InvalidArgument as error:
        raise InvalidWorkflow(f"{owner}: {error}") from None

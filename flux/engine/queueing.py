"""The limits of workflows, as a worker puts them to the storage, and the lanes that runs belong to."""

from __future__ import annotations

from collections.abc import Callable

from ..durations import to_microseconds
from ..errors import InvalidArgument, InvalidInput
from ..names import check_id
from ..queue import Queue
from ..storage import Code, Limit
from .registry import Bound, Registry


def rate_of(queue: Queue | None) -> tuple[int, int] | None:
    """How many runs begin in how many microseconds, at most."""
    return None if queue is None or queue.rate is None else (queue.rate[0], to_microseconds(queue.rate[1], "rate"))


def demand_of(registry: Registry, moving: Callable[[str], int]) -> tuple[tuple[Code, ...], list[Limit]]:
    """What a worker asks for now: the code that it can run, without workflows of which it moves as many as it may, and the limits of the
    others. `moving` counts those that it moves."""
    codes = registry.codes()
    limits: list[Limit] = []
    for name, queue in registry.queues.items():
        room = None if queue.worker_concurrency is None else queue.worker_concurrency - moving(name)
        if room is not None and room < 1:
            codes = tuple([code for code in codes if code[0] != name])
        else:
            limits.append(Limit(name, room, queue.concurrency, queue.per_key, rate_of(queue)))
    return codes, limits


def lane_of(bound: Bound, text: str, key: str | None = None) -> str:
    """The lane of a new run with this encoded input: the concurrency key that its caller gives, else what the workflow's queue makes of
    the input. Raises InvalidArgument, InvalidInput."""
    name, queue = bound.definition.name, bound.definition.queue
    if queue is None or queue.per_key is None:
        if key is not None:
            raise InvalidArgument(f"concurrency_key is refused: workflow {name!r} has no limit per key, such as queue=Queue(per_key=1)")
        return ""
    if key is not None:
        return check_id(key, "concurrency_key")
    if queue.key is None:
        return ""
    try:
        found = queue.key(bound.read_input(text))
    except Exception as error:
        raise InvalidInput(f"input of workflow {name!r}: the key of its queue raised {type(error).__name__}: {error}") from error
    if found is None:
        return ""
    try:
        return check_id(str(found) if type(found) is int else found, "the key of its queue")
    except InvalidArgument as error:
        raise InvalidInput(f"input of workflow {name!r}: {error}") from None

"""How many runs of a workflow are moved at once, and how many begin in a time: `create_workflow("order", queue=Queue(concurrency=20))`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Queue"]


@dataclass(frozen=True, slots=True)
class Queue:
    """The limits that workers keep to for one workflow, in all its versions. Runs beyond them wait their turn; none is lost or refused.

    `concurrency` bounds the runs that are moved at a time by all workers together, `worker_concurrency` those by one worker, and
    `per_key` those with one concurrency key: the one a call gives, else what `key(input)` answers (a text, a whole number, or None for
    no key). `rate=(100, 60)`: in any 60 seconds (or a timedelta) at most 100 runs begin. A run counts while a worker or a call holds
    it, not while it is suspended. `execute` begins at once, whatever the limits, and counts. None: no such limit.
    """

    concurrency: int | None = None
    worker_concurrency: int | None = None
    per_key: int | None = None
    rate: tuple[int, float | timedelta] | None = None
    key: Callable[[Any], object] | None = None

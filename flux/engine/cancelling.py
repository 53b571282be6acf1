"""Whose a cancellation is: the engine's, or one that foreign code brought upon the task it was called in.

A handler or a hook may cancel its own task, or swallow a cancellation without `uncancel()`, as timers of older libraries do. Neither
may end the task that goes on behind it (I15, I18).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def being_cancelled() -> bool:
    """Whether somebody has cancelled the current task, and nobody has taken that back."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def all_are_cancelled() -> bool:
    """Whether all other tasks are being cancelled, but for at most the one that does it: the program ends, as `asyncio.run` ends it."""
    task = asyncio.current_task()
    others = [other for other in asyncio.all_tasks() if other is not task]
    spared = sum(not other.cancelling() for other in others)
    return spared == 0 or (spared == 1 and len(others) > 1)


def uncancel() -> None:
    """Take back what the current task was cancelled with and has been told of."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


async def take_back(stops: Callable[[], bool]) -> None:
    """Make the current task one that nobody has cancelled, unless the engine `stops` it. Raises CancelledError when it does."""
    if stops():
        return
    uncancel()
    try:
        await asyncio.sleep(0)  # one that was asked for and not delivered yet is delivered here (until 3.13 `uncancel` leaves it)
    except asyncio.CancelledError:
        if stops():
            raise
        uncancel()

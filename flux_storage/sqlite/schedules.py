"""Writing schedules, all inside a transaction: of those that advance one from what they saw, one succeeds (contract 19)."""

from __future__ import annotations

from collections.abc import Iterable

from flux.storage import Outgoing, Schedule

from . import queries
from .runs import Child, spread
from .writer import Transaction


def advance(tx: Transaction, schedule: Schedule, runs: Iterable[Child], posts: Iterable[Outgoing]) -> bool:
    """Make a schedule, or replace it from the revision that was seen, with what its ticks bring about."""
    says = (
        schedule.workflow, schedule.version, schedule.rule, schedule.next_at, schedule.last_at, schedule.last_run, schedule.name,
    )  # fmt: skip
    if schedule.revision == 0:
        done = tx.cursor.execute(queries.SCHEDULE_NEW, says)
    else:
        done = tx.cursor.execute(queries.SCHEDULE_CHANGE, (*says, schedule.revision))
    if done.rowcount != 1:
        return False
    spread(tx, runs, posts)
    tx.notify = True
    return True


def unschedule(tx: Transaction, name: str) -> bool:
    """Forget a schedule; whether there was one."""
    if tx.cursor.execute(queries.SCHEDULE_GONE, (name, name)).rowcount != 1:
        return False
    tx.cursor.execute(queries.UNSCHEDULE, (name,))
    tx.notify = True
    return True

"""Writing schedules: of those that advance one from what they saw, one succeeds (contract 19)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from flux.storage import NewRun, Outgoing, Schedule

from .lanes import lock_lanes
from .link import ANSWERING, Connection
from .spreading import Spreading, lock, spread, spreading

if TYPE_CHECKING:
    from .opened import Opened


async def advance(o: Opened, schedule: Schedule, runs: Collection[NewRun], posts: Collection[Outgoing]) -> bool:
    """Make a schedule, or replace it from the revision that was seen, with what its ticks bring about; whether it did.

    A call whose answer was lost finds its mark; where another has come after it in that moment, it counts as second.
    """
    more = spreading(runs)

    async def done(connection: Connection) -> bool:
        return bool(await connection.fetchval(o.sql.scheduled, schedule.name, more.mark, timeout=ANSWERING))

    async def work(connection: Connection, again: bool) -> bool:
        if again and await done(connection):
            return True
        async with connection.transaction():
            await lock_lanes(o, connection, [run.lane for run, _ in more.children])
            if not await _put(o, connection, schedule, more):
                return again and await done(connection)  # an earlier try was still under way before
            locked = await lock(o, connection, posts)
            await spread(o, connection, more.children, [(sent, more.mark) for sent in posts], locked)
        return True

    try:
        return await o.link.perform(work)
    finally:
        o.changes.own()


async def _put(o: Opened, connection: Connection, schedule: Schedule, more: Spreading) -> bool:
    text, revision = o.sql.schedule_change, schedule.revision
    if revision == 0:
        text, revision = o.sql.schedule_new, 1 + await connection.fetchval(o.sql.forgotten, timeout=ANSWERING)
    row = await connection.fetchrow(
        text, schedule.name, schedule.workflow, schedule.version, schedule.rule, schedule.next_at, schedule.last_at, schedule.last_run,
        more.mark, o.token, revision, timeout=ANSWERING,
    )  # fmt: skip
    return row is not None


async def unschedule(o: Opened, name: str) -> bool:
    """Forget a schedule; whether there was one."""

    async def work(connection: Connection, again: bool) -> bool:
        async with connection.transaction():
            await connection.fetchval(o.sql.forgotten, timeout=ANSWERING)
            row = await connection.fetchrow(o.sql.unschedule, name, o.token, timeout=ANSWERING)
        return again or row is not None

    try:
        return await o.link.perform(work)
    finally:
        o.changes.own()

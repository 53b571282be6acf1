"""The lanes of runs (contract 24).

Whoever parks a run, and whoever lets others in because a run of the lane is given up or forgotten, holds the lane's lock (an advisory
one, of the transaction): else one could park behind a run that the other is just giving up. Locks of lanes come before those of rows, in
the order of their numbers; a claim, which meets lanes in the order of their runs, and forgetting, which has locked rows by then, do
not keep to it: the one never waits for a lane, the other may be broken off and is sent again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from flux.errors import LeaseLost, StorageUnavailable
from flux.storage import Created, NewRun

from ..queueing import slot_of
from .link import ANSWERING, Connection
from .rows import HEADER, header_of
from .runs import TRIES, Texts, fresh_header, new_columns, new_mark
from .schema import number_of

if TYPE_CHECKING:
    from .opened import Opened

FREE = 1000  # runs of dead workers freed in one call

Lane: TypeAlias = tuple[str, str]  # a workflow's name, and that of a lane


def number_of_lane(o: Opened, lane: str) -> int:
    """Of its lock; lanes of one name share it."""
    return number_of("lane", o.home, lane)


async def lock_lanes(o: Opened, connection: Connection, lanes: Iterable[str]) -> None:
    """Until the transaction ends."""
    numbers = sorted({number_of_lane(o, lane) for lane in lanes if lane})
    if numbers:
        await connection.execute(o.sql.lock_numbers, numbers, timeout=ANSWERING)


async def let_in(o: Opened, connection: Connection, lanes: Iterable[Lane]) -> list[Any]:
    """Put the most urgent parked run of each kind in each of these lanes back into the due order."""
    each = sorted(set(lanes))
    if not each:
        return []
    found: list[Any] = await connection.fetch(
        o.sql.let_in, [workflow for workflow, _ in each], [lane for _, lane in each], o.token, timeout=ANSWERING
    )
    return found


async def lanes_of(o: Opened, connection: Connection, refs: list[int]) -> dict[int, Lane]:
    """The lanes of those of these runs that have one."""
    return {row[0]: (row[1], row[2]) for row in await connection.fetch(o.sql.lanes_of, refs, timeout=ANSWERING)}


async def create(o: Opened, run: NewRun, texts: Texts) -> Created:
    """Make one run, in its lane, and count it where it begins (contract 2, 23, 24)."""
    mark = new_mark()

    async def work(connection: Connection, _: bool) -> Any:
        async with connection.transaction():
            await lock_lanes(o, connection, [run.lane])
            columns = new_columns(o, [mark], [(run, texts)], [run.owner], [run.idempotency_key], once=[run.deduplication_key])
            row = await connection.fetchrow(o.sql.create, *columns, timeout=ANSWERING)
            if row[1] is not None and run.owner is not None and run.rate is not None:
                await count_start(o, connection, run.workflow, 1, run.rate, row[0])
            return row

    for _ in range(TRIES):
        try:
            row = await o.express.perform(work)
        finally:
            o.changes.own()
        now = o.saw(row[0])
        if row[1] is not None:
            return Created(fresh_header(run, row[2], row[3], run.owner, parked=row[5]), True, now)
        found = await o.express.row(
            o.sql.existing, [run.run_id], [run.workflow], [run.idempotency_key], [run.owner], [run.deduplication_key]
        )
        if found[2] is not None:
            columns = found[2:]
            return Created(header_of(columns), columns[HEADER] == mark, now)
        if not found[1]:
            raise LeaseLost(f"worker {run.owner!r} is not registered, or was condemned")
    raise StorageUnavailable(f"{o.link.where}: runs came and went while others of their names were made")


async def count_start(o: Opened, connection: Connection, workflow: str, number: int, rate: tuple[int, int], now: int) -> None:
    """So many of its runs begin now."""
    await connection.execute(o.sql.start, workflow, slot_of(now, rate), number, timeout=ANSWERING)
    await connection.execute(o.sql.forget_starts, workflow, now - rate[1], timeout=ANSWERING)


async def free_dead(o: Opened) -> bool:
    """Free a bounded number of runs of lanes that condemned workers hold, and let others in there; whether there were any."""

    async def work(connection: Connection, _: bool) -> bool:
        rows = await connection.fetch(o.sql.dead, FREE, timeout=ANSWERING)
        if not rows:
            return False
        async with connection.transaction():
            await lock_lanes(o, connection, [row[2] for row in rows])
            freed = await connection.fetch(o.sql.free, o.earliest(), [row[0] for row in rows], timeout=ANSWERING)
            await let_in(o, connection, [(row[0], row[1]) for row in freed])
            await connection.execute(o.sql.tell, o.token, timeout=ANSWERING)
        return True

    freed = await o.link.perform(work)
    if freed:
        o.changes.own()
    return freed

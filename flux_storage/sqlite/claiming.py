"""One claim's look at the tables, and the lanes of runs. All inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from ..queueing import MINUTE, Found, Level, Starts, Wanted, fits, slot_of
from . import queries
from .rows import shapes_of
from .writer import Transaction

_TOP = 1 << 62  # above every priority

Lane: TypeAlias = tuple[str, str]  # a workflow's name, and that of a lane


class Look:
    """A `flux_storage.queueing.Queue`, for one worker."""

    def __init__(self, tx: Transaction, worker: str, wanted: Wanted, size: int) -> None:
        self._tx = tx
        self._worker = worker
        self._wanted = wanted
        self._size = size
        self._through: set[Level] = set()  # levels of which all that is due has been seen

    def levels(self) -> Iterator[Level]:
        """Where runs may be due that one of the wanted shapes fits, version by version as they were asked for."""
        for version, (place, shapes) in self._wanted.items():
            for begun in (True, False):
                for priority, misfits in self._scan(*version, begun):
                    if _fits(shapes, misfits):
                        yield Level(*version, begun, priority, misfits, place)

    def _scan(self, workflow: str, version: str, begun: bool) -> Iterator[tuple[int, str]]:
        """Priorities and misfits of all runs of a version that can be claimed now or later, each pair once."""
        of = workflow, version, begun
        row = self._tx.row(queries.LEVEL, (*of, _TOP))
        while row is not None:
            yield row
            priority, misfits = row
            row = self._tx.row(queries.BESIDE, (*of, priority, misfits)) if misfits else None
            row = row or self._tx.row(queries.LEVEL, (*of, priority))

    async def due(self, level: Level) -> Sequence[Found]:
        """The first due runs of a level."""
        if level in self._through:
            return ()
        page = self._tx.cursor.execute(queries.DUE, (*_key(level), self._tx.now, self._size)).fetchall()
        if len(page) < self._size:
            self._through.add(level)
        return page

    async def next_at(self, level: Level) -> int | None:
        """When the first of a level is due."""
        row = self._tx.row(queries.NEXT, _key(level))
        return row[0] if row is not None and type(row[0]) is int else None  # not a damaged one (S15.2)

    async def held(self, workflow: str, limit: int) -> int:
        """How many runs of a workflow are held."""
        count: int = self._tx.row(queries.HELD, (workflow, limit))[0]
        return count

    async def held_in(self, workflow: str, lane: str, limit: int) -> int:
        """How many of a lane."""
        count: int = self._tx.row(queries.HELD_IN, (workflow, lane, limit))[0]
        return count

    async def starts(self, workflow: str, since: int) -> Starts:
        """What has begun lately."""
        return self._tx.cursor.execute(queries.STARTS, (workflow, since)).fetchall()

    async def take(self, run_id: str) -> None:
        """Lease it."""
        self._tx.cursor.execute(queries.TAKE, (self._worker, run_id))

    async def park(self, run_id: str) -> None:
        """Take it out of the due order."""
        self._tx.cursor.execute(queries.PARK, (run_id,))

    async def let_in(self, workflow: str, lane: str) -> Iterable[tuple[Level, Found]]:
        """Put parked ones back."""
        found: list[tuple[Level, Found]] = []
        for version, begun, priority, misfits, wake_at, run_id in let_in(self._tx, workflow, lane):
            place, shapes = self._wanted.get((workflow, version), (-1, ()))
            if place >= 0 and _fits(shapes, misfits):
                found.append((Level(workflow, version, begun == 1, priority, misfits, place), (wake_at, run_id, lane)))
        return found


def let_in(tx: Transaction, workflow: str, lane: str) -> list[Any]:
    """Put the most urgent parked run of each kind in this lane back into the due order."""
    found: list[Any] = []
    row = tx.row(queries.PARKED, (workflow, lane, ""))
    while row is not None:
        kind, *rest = row
        tx.cursor.execute(queries.LET_IN, (rest[-1],))
        found.append(rest)
        row = tx.row(queries.PARKED, (workflow, lane, kind))
    return found


def let_in_all(tx: Transaction, lanes: Iterable[Lane]) -> None:
    """The same for each of these lanes, once. Somebody has given up a run there."""
    for workflow, lane in dict.fromkeys(lanes):
        if let_in(tx, workflow, lane):
            tx.notify = True


def is_behind(tx: Transaction, workflow: str, version: str, lane: str, priority: int) -> bool:
    """Whether another that is due goes before a new run of this lane."""
    row = tx.row(queries.AHEAD, (workflow, lane, f"{version} 0 "))
    if row is None or type(row[0]) is not int:
        return False
    wake_at, rank, above = row
    return wake_at <= tx.now and (rank, -above) <= (tx.now - priority * MINUTE, -priority)


def count_start(tx: Transaction, workflow: str, number: int, rate: tuple[int, int]) -> None:
    """So many of its runs begin now."""
    tx.cursor.execute(queries.START, (workflow, slot_of(tx.now, rate), number))
    tx.cursor.execute(queries.FORGET_STARTS, (workflow, tx.now - rate[1]))


def _key(level: Level) -> tuple[str, str, bool, int, str]:
    return level.workflow, level.version, level.begun, level.priority, level.misfits


def _fits(shapes: Iterable[str], misfits: str) -> bool:
    try:
        return fits(tuple(shapes), shapes_of(misfits))
    except (AttributeError, TypeError):  # damaged: claimed, so that it is found out, and in no other run's way (contract 14)
        return True

"""Forgetting runs, each with its children (contract 17)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flux.errors import RunConflict, RunNotFinished, RunNotFound, StorageUnavailable

from .lanes import lanes_of, let_in, lock_lanes
from .link import ANSWERING, Connection
from .runs import ENDED, TRIES

if TYPE_CHECKING:
    from .opened import Opened

PURGE = 10_000  # runs forgotten in one call, children counted: the one that goes beyond is the last
_PAGE = 500
_BEFORE_ALL = (-(1 << 63), -(1 << 63))


async def delete(o: Opened, run_id: str) -> None:
    """Forget an ended run, and its children. Raises RunNotFound, RunConflict, RunNotFinished."""

    async def work(connection: Connection, again: bool) -> None:
        async with connection.transaction():
            row = await connection.fetchrow(o.sql.parent, run_id, timeout=ANSWERING)
            if row is not None and row[0] is not None:
                raise RunConflict(f"run {run_id!r} is a child of run {row[0]!r}: delete that one")
            family = await _lock_family(o, connection, run_id)
            if not family and not again:  # else an earlier try has deleted it
                raise RunNotFound(f"no run {run_id!r} in this storage")
            for _, name, status in family:
                if status not in ENDED:
                    raise RunNotFinished(f"run {name!r} is {status}: cancel it first")
            await _forget(o, connection, [[ref for ref, _, _ in family]])

    await o.link.perform(work)


async def _lock_family(o: Opened, connection: Connection, run_id: str) -> list[Any]:
    """The run, its children, and theirs, as they are while all are locked: more may be made until they are."""
    locked: set[str] = set()
    for _ in range(TRIES):
        family: list[Any] = await connection.fetch(o.sql.family, run_id, timeout=ANSWERING)
        ids = {name for _, name, _ in family}
        if ids <= locked:
            return family
        await connection.fetch(o.sql.lock, sorted(ids), timeout=ANSWERING)
        locked = ids
    raise StorageUnavailable(f"{o.link.where}: run {run_id!r} got children while it was forgotten")


async def purge(o: Opened, finished_for: int, limit: int) -> int:
    """Forget runs that ended long ago, the oldest first."""

    async def work(connection: Connection, _: bool) -> int:
        async with connection.transaction():
            return await _purge(o, connection, finished_for, limit)

    return await o.link.perform(work)


async def _purge(o: Opened, connection: Connection, finished_for: int, limit: int) -> int:
    gone = rows = 0
    last = _BEFORE_ALL
    while gone < limit and rows < PURGE:
        size = min(limit - gone, _PAGE)
        page = await connection.fetch(o.sql.old, o.earliest(), finished_for, *last, size, timeout=ANSWERING)
        if not page:
            break
        families: list[list[int]] = []
        for ended_at, ref, run_id, parent in page:
            if rows >= PURGE:
                break
            last = ended_at, ref
            family = await _ended_family(o, connection, run_id) if parent else [ref]
            families.append(family)
            rows += len(family)
        gone += await _forget_whole(o, connection, families)
    return gone


async def _ended_family(o: Opened, connection: Connection, run_id: str) -> list[int]:
    """The run, its children, and theirs; none of them where one has not ended."""
    family = await connection.fetch(o.sql.family, run_id, timeout=ANSWERING)
    return [ref for ref, _, _ in family] if all(status in ENDED for _, _, status in family) else []


async def _forget_whole(o: Opened, connection: Connection, families: list[list[int]]) -> int:
    """Forget the families of whom nobody is locked by others or goes on again; returns how many."""
    refs = [ref for family in families for ref in family]
    locked = await connection.fetch(o.sql.lock_free, refs, timeout=ANSWERING)
    ended = {ref for ref, status in locked if status in ENDED}
    whole = [family for family in families if family and ended.issuperset(family)]
    await _forget(o, connection, whole)
    return len(whole)


async def _forget(o: Opened, connection: Connection, families: Sequence[list[int]]) -> None:
    gone = [ref for family in families for ref in family]
    lanes = await lanes_of(o, connection, gone)
    await lock_lanes(o, connection, [lane for _, lane in lanes.values()])
    for text in o.sql.delete:
        await connection.execute(text, gone, timeout=ANSWERING)
    for family in families:
        await let_in(o, connection, [lanes[ref] for ref in family if ref in lanes])

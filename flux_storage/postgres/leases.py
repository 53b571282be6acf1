"""Workers and what they hold: registering, renewing, condemning, taking and claiming."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from flux.core.status import RunStatus
from flux.errors import LeaseLost, RunNotFound, StorageUnavailable
from flux.storage import Claimed, Code, Limit, Renewal, StoredRun

from . import claiming
from .lanes import free_dead
from .link import ANSWERING, SOON, Connection
from .rows import stored_of
from .runs import ENDED, TRIES, new_mark
from .schema import number_of

if TYPE_CHECKING:
    from .opened import Opened

PROBING = 0.5  # seconds between two looks at the signs of life of others

# --- workers


async def register(o: Opened, worker: str, lease: int) -> int:
    """Make a worker; returns the time."""
    await free_dead(o)  # before it lives again: it knows nothing of what it held
    lock = o.locks.hold(worker)
    beacon = await o.beacon.hold(worker, number_of("worker", o.home, worker))
    row = await o.link.row(o.sql.register, o.earliest(), o.token, worker, lease, beacon, o.host, lock)
    return o.saw(row[0])


async def renew(o: Opened, worker: str, lease: int) -> Renewal:
    """Extend a worker's lease, unless it was condemned. From any event loop. On a connection from which nothing is heard any more it
    does not wait so long that the lease runs out meanwhile."""
    answering = min(ANSWERING, max(SOON, lease / 3_000_000))
    row = await o.beacon.row(o.sql.renew, o.earliest(), worker, lease, answering=answering)
    if not row[1]:  # it never renews again
        o.locks.let_go(worker)
        await o.beacon.drop(worker)
    return Renewal(row[1], tuple(row[2]) if row[1] else (), o.saw(row[0]))


async def unregister(o: Opened, worker: str) -> None:
    """The worker is gone."""
    try:
        await _sweep(o, None, [worker])
    except Exception:
        o.locks.let_go(worker)  # nobody here uses this name again, and others learn by that what could not be written
        raise
    finally:
        await o.beacon.drop(worker)


# --- one run


async def take(o: Opened, run_id: str, worker: str, blocked: bool, ended: bool) -> StoredRun | None:
    """Lease one run to the worker, or show it. Raises RunNotFound, LeaseLost."""
    return (await _ask_for(o, run_id, worker, blocked, ended, new_mark()))[1]


async def seize(o: Opened, run_id: str, worker: str, mark: int, taken: bool) -> StoredRun | None:
    """Lease the run to a poster if nothing live holds it, the poster lives, and the run goes on. `taken`: it is, under this mark."""
    try:
        if taken:
            return await _load(o, run_id, worker, mark)
        leased, run = await _ask_for(o, run_id, worker, False, False, mark)
    except (LeaseLost, RunNotFound):
        return None
    return run if leased else None


async def _ask_for(o: Opened, run_id: str, worker: str, blocked: bool, ended: bool, mark: int) -> tuple[bool, StoredRun | None]:
    """Whether this call leased the run, and the run: None where it is in other hands, or was already in these."""
    for _ in range(TRIES):
        if await _take(o, run_id, worker, mark, blocked, ended):
            return True, await _load(o, run_id, worker, mark)
        found = await o.link.row(o.sql.holder, o.earliest(), worker, run_id, o.host)
        if not found["live"]:
            raise LeaseLost(f"worker {worker!r} is not registered, or was condemned")
        if found["ref"] is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        status, owner = found["status"], found["owner"]
        if owner == worker and found["mark"] == mark:
            return True, await _load(o, run_id, worker, mark)  # an earlier try, whose answer was lost
        if (status in ENDED and not ended) or (status == RunStatus.BLOCKED.value and not blocked):
            return False, stored_of(await o.link.row(o.sql.load, run_id) or _missing(run_id))
        if owner == worker or (owner is not None and not await _is_dead(o, worker, found)):
            return False, None
    raise StorageUnavailable(f"{o.link.where}: run {run_id!r} changed hands again and again while it was asked for")


async def _take(o: Opened, run_id: str, worker: str, mark: int, blocked: bool, ended: bool) -> bool:
    row = await o.link.row(o.sql.take, o.earliest(), worker, run_id, mark, blocked, ended)
    if row is not None:
        o.saw(row[0])
    return row is not None


async def _load(o: Opened, run_id: str, worker: str, mark: int) -> StoredRun | None:
    """The run as it was taken; None where it is in other hands by now."""
    row = await o.link.row(o.sql.load, run_id) or _missing(run_id)
    return stored_of(row) if row["owner"] == worker and row["mark"] == mark else None


def _missing(run_id: str) -> Any:
    raise RunNotFound(f"no run {run_id!r} in this storage")


async def _is_dead(o: Opened, claimer: str, found: Any) -> bool:
    """Whether the holder of a run is dead: then it is condemned, and what it held is free."""
    gone = found["here"] and found["lock"] is not None and o.locks.is_free(found["lock"])
    if found["holds"] and not gone:
        return False
    await _sweep(o, claimer, [found["owner"]] if gone else [])
    return True


# --- what is due


async def claim(o: Opened, worker: str, codes: Collection[Code], limit: int, limits: Collection[Limit] = ()) -> Claimed:
    """Free what dead workers held, then lease what is most urgent (9, 10). Raises LeaseLost."""
    await _sweep(o, worker, await _probe(o, worker))
    if limits:
        return await claiming.claim(o, worker, codes, limit, limits)
    mark, asked, doubt = new_mark(), _ask(codes), claiming.Doubt(o, worker)

    async def work(connection: Connection, _: bool) -> Any:
        earlier = await doubt.resolve(connection, mark)
        if earlier:
            return o.earliest(), True, earlier, o.earliest(), False
        with doubt:
            row = await connection.fetchrow(o.sql.claim, o.earliest(), worker, mark, max(limit, 0), *asked, timeout=ANSWERING)
        return row["now"], row["live"], row["refs"], row["next_at"], row["laned"]

    now, live, refs, next_at, laned = await o.link.perform(work)
    now = o.saw(now)
    if not live:
        raise LeaseLost(f"worker {worker!r} is not registered, or was condemned")
    if laned and not refs:
        return await claiming.claim(o, worker, codes, limit, ())
    runs = {run.header.ref: run for run in await _load_many(o, refs, worker, mark)} if refs else {}
    return Claimed([runs[ref] for ref in refs if ref in runs], claiming.patient(next_at, now, bool(refs) or limit <= 0), now)


async def _load_many(o: Opened, refs: list[int], worker: str, mark: int) -> list[StoredRun]:
    return [stored_of(row) for row in await o.link.rows(o.sql.load_many, refs, worker, mark)]


def _ask(codes: Collection[Code]) -> tuple[list[int], list[str], list[str], list[int], list[str]]:
    """Versions, each once and by its place, and the shapes of each."""
    places: dict[tuple[str, str], int] = {}
    shapes = [(places.setdefault((workflow, version), len(places)), shape) for workflow, version, shape in dict.fromkeys(codes)]
    return (
        list(places.values()), [workflow for workflow, _ in places], [version for _, version in places],
        [place for place, _ in shapes], [shape for _, shape in shapes],
    )  # fmt: skip


async def _probe(o: Opened, claimer: str) -> list[str]:
    """Workers of this machine whose process is gone; now and then also whose session is gone, anywhere (D14)."""
    now = o.loop.time()
    if now < o.probed + PROBING:
        return []
    o.probed = now
    rows = await o.link.rows(o.sql.probe, o.earliest(), claimer, o.host)
    return [nonce for nonce, lock in rows if o.locks.is_free(lock)]


async def _sweep(o: Opened, claimer: str | None, gone: list[str]) -> None:
    """Condemn the dead, except who claims, and free a bounded number of their runs."""
    rows = await o.link.rows(o.sql.sweep, o.earliest(), o.token, claimer, gone)
    o.saw(rows[0]["now"])
    for row in rows:
        if row["lock"] is not None and row["host"] == o.host:
            o.locks.drop(row["lock"])
    if rows[0]["laned"]:
        await free_dead(o)
    if rows[0]["freed"] or rows[0]["nonce"] is not None:
        o.changes.own()

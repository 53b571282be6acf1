"""Workers and what they hold: registering, renewing, condemning, taking and claiming. All inside a transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flux.core.status import TERMINAL, RunStatus
from flux.errors import LeaseLost, RunNotFound
from flux.storage import Code, Renewal

from ..liveness import WorkerLocks
from . import queries
from .rows import shapes_of
from .writer import Transaction

MINUTE = 60_000_000  # microseconds that one level of priority is worth (D29)
SWEEP = 1000  # runs freed of dead workers in one call
REMEMBERED = 30 * 24 * 60 * MINUTE  # how long the nonce of a condemned worker is kept
_TOP = 1 << 62  # above every priority
_PROBING = 20  # looking at locks takes at most one part in so many of the time

ENDED = frozenset(status.value for status in TERMINAL)

Raw = list[Any]  # the rows of `queries.LOAD`
_Level = tuple[str, str, int, str]  # workflow, version, priority and misfits: runs that claims look at, or pass over, together


@dataclass(slots=True)
class RawClaim:
    """Claimed runs as rows, to be read in the caller's thread."""

    runs: list[Raw]
    next_at: int | None
    now: int


class Leases:
    """The lease part of the verbs. Used in the writer's thread only."""

    def __init__(self, locks: WorkerLocks) -> None:
        self._locks = locks
        self._probe_at = 0.0

    # --- workers

    def register(self, tx: Transaction, worker: str, lease: int) -> bool:
        """Make a worker. Returns whether others live on this file already."""
        row = tx.row(queries.WORKER, (worker,))
        if row is not None and row[3] == 1:
            self._free(tx, worker, -1)
        name = self._locks.hold(worker)
        tx.cursor.execute(queries.FORGET_WORKERS, (tx.now - REMEMBERED,))
        tx.cursor.execute(queries.REGISTER, (worker, tx.now + lease, lease, name))
        tx.workers.pop(worker, None)
        return any(self._is_elsewhere(tx, *row) for row in tx.cursor.execute(queries.WORKERS).fetchall())

    def _is_elsewhere(self, tx: Transaction, _: str, expires_at: int, lock: str | None, state: int) -> bool:
        """Whether another storage's worker certainly lives."""
        if state != 0 or lock is None or expires_at <= tx.now:
            return False
        return not self._locks.holds(lock) and not self._locks.is_free(lock)

    def renew(self, tx: Transaction, worker: str, lease: int) -> Renewal:
        """Extend a worker's lease, unless it was condemned."""
        if _look(tx, worker) is None:
            return Renewal(False, (), tx.now)
        tx.cursor.execute(queries.EXTEND, (tx.now + lease, lease, worker))
        tx.workers[worker] = (tx.now + lease, lease)
        unseen = tx.cursor.execute(queries.UNSEEN, (worker,)).fetchall()
        return Renewal(True, tuple([row[0] for row in unseen]), tx.now)

    def unregister(self, tx: Transaction, worker: str) -> None:
        """The worker is gone."""
        row = tx.row(queries.WORKER, (worker,))
        if row is not None and row[3] == 0:
            self._condemn(tx, worker, row[2])
        self._sweep(tx, "")

    # --- runs

    def take(self, tx: Transaction, run_id: str, worker: str, blocked: bool, ended: bool) -> Raw | None:
        """Lease one run to the worker, or show it."""
        demand_live(tx, worker)
        row = tx.row(queries.ADDRESS, (run_id,))
        if row is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        _, _, status, owner, _ = row
        if (status in ENDED and not ended) or (status == RunStatus.BLOCKED.value and not blocked):
            return load(tx, run_id)
        return self.seize(tx, run_id, owner, worker)

    def seize(self, tx: Transaction, run_id: str, owner: str | None, worker: str) -> Raw | None:
        """Lease the run unless something live holds it. `worker` is live."""
        if owner is not None:
            if owner == worker or not self._is_dead(tx, owner):
                return None
            tx.cursor.execute(queries.FREE_ONE, (tx.now, run_id))
            self._sweep(tx, worker)
            tx.notify = True
        tx.cursor.execute(queries.TAKE, (worker, run_id))
        return load(tx, run_id)

    def claim(self, tx: Transaction, worker: str, codes: tuple[Code, ...], limit: int) -> RawClaim:
        """Free what dead workers held, then lease what is due."""
        demand_live(tx, worker)
        self._sweep(tx, worker)
        levels = list(_levels(tx, codes))
        runs: list[Raw] = []
        for run_id in _due(tx, levels, limit):
            tx.cursor.execute(queries.TAKE, (worker, run_id))
            runs.append(load(tx, run_id))
        return RawClaim(runs, _next_at(tx, levels), tx.now)

    # --- the dead

    def _is_dead(self, tx: Transaction, worker: str) -> bool:
        """Whether a worker is condemned, or has to be: then it is."""
        row = tx.row(queries.WORKER, (worker,))
        if row is None or row[3] != 0:
            return True
        expires_at, _, lock, _ = row
        if expires_at > tx.now and not (lock is not None and self._locks.is_free(lock)):
            return False
        self._condemn(tx, worker, lock)
        return True

    def _condemn(self, tx: Transaction, worker: str, lock: str | None) -> None:
        tx.cursor.execute(queries.SET_STATE, (1, worker))
        tx.workers[worker] = None
        if lock is not None:
            tx.afterwards.append(lambda: self._locks.drop(lock))

    def _sweep(self, tx: Transaction, claimer: str) -> None:
        """Condemn the dead, except who claims, and free a bounded number of their runs."""
        probing = time.monotonic() >= self._probe_at
        began = time.monotonic()
        left = SWEEP
        for worker, expires_at, lock, state in tx.cursor.execute(queries.WORKERS).fetchall():
            if state == 0:
                if worker == claimer:
                    continue
                if expires_at > tx.now and not (probing and lock is not None and self._locks.is_free(lock)):
                    continue
                self._condemn(tx, worker, lock)
            if left > 0:
                left -= self._free(tx, worker, left)
        if probing:
            now = time.monotonic()
            self._probe_at = now + (now - began) * _PROBING

    def _free(self, tx: Transaction, worker: str, limit: int) -> int:
        """Free what a condemned worker holds; when that was all, it stands nowhere any more."""
        freed = tx.cursor.execute(queries.FREE, (tx.now, worker, limit)).rowcount
        if freed:
            tx.notify = True
        if limit < 0 or freed < limit:
            tx.cursor.execute(queries.SET_STATE, (2, worker))
        return freed


def load(tx: Transaction, run_id: str) -> Raw:
    """The whole run, as rows."""
    return tx.cursor.execute(queries.LOAD, {"run_id": run_id}).fetchall()


def demand_live(tx: Transaction, worker: str) -> None:
    """Raises LeaseLost when the worker is unknown or condemned."""
    if _look(tx, worker) is None:
        raise LeaseLost(f"worker {worker!r} is not registered, or was condemned")


def is_live(tx: Transaction, worker: str) -> bool:
    """Whether the worker is known and was not condemned. Asked once a transaction."""
    return _look(tx, worker) is not None


def prolong(tx: Transaction, worker: str) -> None:
    """A commit shows that its worker lives: its lease begins anew when a third of it has passed (D15)."""
    known = tx.workers[worker]
    if known is None:
        return
    expires_at, lease = known
    if expires_at - tx.now < lease - lease // 3:
        tx.cursor.execute(queries.EXTEND, (tx.now + lease, lease, worker))
        tx.workers[worker] = (tx.now + lease, lease)


def _look(tx: Transaction, worker: str) -> tuple[int, int] | None:
    if worker in tx.workers:
        return tx.workers[worker]
    row = tx.row(queries.WORKER, (worker,))
    known = (row[0], row[1]) if row is not None and row[3] == 0 else None
    tx.workers[worker] = known
    return known


def _levels(tx: Transaction, codes: tuple[Code, ...]) -> Iterator[_Level]:
    """Where runs may be due that one of these codes fits, version by version as they were asked for."""
    wanted: dict[tuple[str, str], set[str]] = {}
    for workflow, version, shape in codes:
        wanted.setdefault((workflow, version), set()).add(shape)
    for of, shapes in wanted.items():
        for priority, misfits in _scan(tx, of):
            if not _fits_none(shapes, misfits):
                yield (*of, priority, misfits)


def _fits_none(shapes: set[str], misfits: str) -> bool:
    try:
        return shapes.issubset(shapes_of(misfits))
    except TypeError:  # damaged: claimed, so that it is found out, and in no other run's way (contract 14)
        return False


def _scan(tx: Transaction, of: tuple[str, str]) -> Iterator[tuple[int, str]]:
    """Priorities and misfits of all runs of a version that can be claimed now or later, each pair once."""
    row = tx.row(queries.LEVEL, (*of, _TOP))
    while row is not None:
        yield row
        priority, misfits = row
        row = tx.row(queries.BESIDE, (*of, priority, misfits)) if misfits else None
        row = row or tx.row(queries.LEVEL, (*of, priority))


def _due(tx: Transaction, levels: list[_Level], limit: int) -> list[str]:
    """The runs that come first: each level of priority is worth a minute of waiting (contract 9)."""
    found: list[tuple[int, int, int, str]] = []
    order = {of: place for place, of in enumerate(dict.fromkeys([level[:2] for level in levels]))}
    for level in levels:
        priority, place = level[2], order[level[:2]]
        for wake_at, run_id in tx.cursor.execute(queries.DUE, (*level, tx.now, max(limit, 0))):
            found.append((wake_at - priority * MINUTE, -priority, place, run_id))
    found.sort()
    return [entry[3] for entry in found[: max(limit, 0)]]


def _next_at(tx: Transaction, levels: list[_Level]) -> int | None:
    rows = [tx.row(queries.NEXT, level) for level in levels]
    return min([row[0] for row in rows if row is not None and type(row[0]) is int], default=None)  # not a damaged one (S15.2)

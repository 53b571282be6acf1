"""Workers and what they hold: registering, renewing, condemning, taking and claiming. All inside a transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flux.core.status import TERMINAL, RunStatus
from flux.errors import LeaseLost, RunNotFound
from flux.storage import Code, Limit, Renewal

from ..liveness import WorkerLocks
from ..queueing import MINUTE, Claiming, at_once, wanted_of
from . import queries
from .claiming import Lane, Look, count_start, let_in_all
from .writer import Transaction

SWEEP = 1000  # runs freed of dead workers in one call
REMEMBERED = 30 * 24 * 60 * MINUTE  # how long the nonce of a condemned worker is kept
_PROBING = 20  # looking at locks takes at most one part in so many of the time

ENDED = frozenset(status.value for status in TERMINAL)

Raw = list[Any]  # the rows of `queries.LOAD`


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
            lanes: list[Lane] = []
            self._free(tx, worker, -1, lanes)
            let_in_all(tx, lanes)
        name = self._locks.hold(worker)
        tx.cursor.execute(queries.FORGET_WORKERS, (tx.now - REMEMBERED,))
        tx.cursor.execute(queries.REGISTER, (worker, tx.now + lease, lease, name))
        tx.workers.pop(worker, None)
        tx.looked.pop(worker, None)
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
        tx.looked.pop(worker, None)
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
            self._sweep(tx, worker, [lane for lane in [tx.row(queries.LANE, (run_id,))] if lane[1]])
            tx.notify = True
        tx.cursor.execute(queries.TAKE, (worker, run_id))
        return load(tx, run_id)

    def claim(self, tx: Transaction, worker: str, codes: tuple[Code, ...], limit: int, limits: tuple[Limit, ...] = ()) -> RawClaim:
        """Free what dead workers held, then lease what is due."""
        demand_live(tx, worker)
        self._sweep(tx, worker)
        look = Look(tx, worker, wanted_of(codes), max(limit, 1))
        claiming = Claiming(look, list(look.levels()), limits, tx.now, limit)
        next_at = at_once(claiming.perform())
        for one in limits:
            if one.rate is not None and one.workflow in claiming.begun:
                count_start(tx, one.workflow, claiming.begun[one.workflow], one.rate)
        return RawClaim([load(tx, run_id) for run_id in claiming.taken], next_at, tx.now)

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
        tx.looked.pop(worker, None)
        if lock is not None:
            tx.afterwards.append(lambda: self._locks.drop(lock))

    def _sweep(self, tx: Transaction, claimer: str, freed: Iterable[Lane] = ()) -> None:
        """Condemn the dead, except who claims, and free a bounded number of their runs. Of some lanes, runs were `freed` already."""
        lanes = list(freed)
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
                left -= self._free(tx, worker, left, lanes)
        let_in_all(tx, lanes)
        if probing:
            now = time.monotonic()
            self._probe_at = now + (now - began) * _PROBING

    def _free(self, tx: Transaction, worker: str, limit: int, lanes: list[Lane]) -> int:
        """Free what a condemned worker holds, and note of which lanes; when that was all, it stands nowhere any more."""
        lanes += tx.cursor.execute(queries.LANES_OF, (worker, limit)).fetchall()
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


def needs_no_look(tx: Transaction, worker: str) -> bool:
    """Whether it was looked at so lately that its lease need not be prolonged yet; not whether it lives still."""
    return tx.now < tx.looked.get(worker, 0)


def prolong(tx: Transaction, worker: str) -> None:
    """A commit shows that its worker lives: its lease begins anew when a third of it has passed (D15)."""
    known = tx.workers[worker]
    if known is None:
        return
    expires_at, lease = known
    if expires_at - tx.now < lease - lease // 3:
        expires_at = tx.now + lease
        tx.cursor.execute(queries.EXTEND, (expires_at, lease, worker))
        tx.workers[worker] = (expires_at, lease)
    tx.looked[worker] = expires_at - (lease - lease // 3)


def _look(tx: Transaction, worker: str) -> tuple[int, int] | None:
    if worker in tx.workers:
        return tx.workers[worker]
    row = tx.row(queries.WORKER, (worker,))
    known = (row[0], row[1]) if row is not None and row[3] == 0 else None
    tx.workers[worker] = known
    return known

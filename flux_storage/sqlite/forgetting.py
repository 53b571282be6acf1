"""Forgetting runs, each with its children (contract 17). All inside a transaction; checks come before writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flux.errors import RunConflict, RunNotFinished, RunNotFound

from . import queries
from .claiming import Lane, let_in_all
from .leases import ENDED
from .writer import Transaction

PURGE = 10_000  # runs forgotten in one call, children counted: the one that goes beyond is the last
_PAGE = 500


def delete(tx: Transaction, run_id: str) -> None:
    """Forget an ended run, and its children."""
    row = tx.row(queries.PARENT, (run_id,))
    if row is None:
        raise RunNotFound(f"no run {run_id!r} in this storage")
    if row[0] is not None:
        raise RunConflict(f"run {run_id!r} is a child of run {row[0]!r}: delete that one")
    family = _family(tx, run_id)
    for _, name, status in family:
        if status not in ENDED:
            raise RunNotFinished(f"run {name!r} is {status}: cancel it first")
    let_in_all(tx, _forget(tx, family))


def purge(tx: Transaction, finished_for: int, limit: int) -> int:
    """Forget runs that ended long ago, the oldest first."""
    gone = rows = 0
    lanes: list[list[Lane]] = []
    for run_id in _old(tx, tx.now - finished_for):
        if gone >= limit or rows >= PURGE:
            break
        family = _family(tx, run_id)
        if all(status in ENDED for _, _, status in family):
            lanes.append(_forget(tx, family))
            gone += 1
            rows += len(family)
    for left in lanes:
        let_in_all(tx, left)
    return gone


def _old(tx: Transaction, before: int) -> Iterator[str]:
    """Runs that ended before and are not forgotten with a parent. What was given may be forgotten meanwhile."""
    last = (-1, -1)
    while page := tx.cursor.execute(queries.OLD, (before, *last, _PAGE)).fetchall():
        for _, _, run_id in page:
            yield run_id
        last = page[-1][:2]


def _family(tx: Transaction, run_id: str) -> list[Any]:
    return tx.cursor.execute(queries.FAMILY, (run_id,)).fetchall()


def _forget(tx: Transaction, family: list[Any]) -> list[Lane]:
    """Forget them; the lanes that they were in."""
    lanes: list[Lane] = []
    for ref, _, _ in family:
        workflow, lane, owner = tx.row(queries.LANE_OF, (ref,))
        if lane:
            lanes.append((workflow, lane))
        if owner is not None:
            tx.notify = True
        for statement in queries.DELETE:
            tx.cursor.execute(statement, (ref,))
    return lanes

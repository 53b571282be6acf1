"""Rows of the tables as values of the seam, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from flux.core.commands import Posting
from flux.core.status import RunStatus
from flux.errors import UnreadableRun
from flux.journal import decode_row
from flux.storage import Header, Row, Schedule, StoredRun

from ..instants import check_instants, is_instant

HEADER = 24  # columns of a head, which come first in a row
_BASE = HEADER + 13  # where a whole run says with which row its journal begins
REVISIONS = 1 << 53  # a revision that is less than 1 or greater is damage
_SEPARATOR = "\x1f"  # between shapes; queries.py splits them in SQL
_STATUSES = {status.value: status for status in RunStatus}

_dumps = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def pack_names(names: Sequence[str]) -> str:
    """The names of awaited signals as a column."""
    return _dumps(list(names)) if names else ""


def pack_shapes(shapes: Sequence[str]) -> str:
    """Shapes as a column: each once, in order, so that equal sets are one level for claims."""
    return _SEPARATOR.join(sorted(set(shapes))) if shapes else ""


def shapes_of(column: str) -> tuple[str, ...]:
    """The shapes in such a column."""
    return tuple(column.split(_SEPARATOR)) if column else ()


def header_of(row: Sequence[Any]) -> Header:
    """A head from its columns. One that says what no flux writes is shown as blocked."""
    return _head(row)[0]


def _head(row: Sequence[Any]) -> tuple[Header, str]:
    header = Header(*row[:HEADER])
    fault = ""
    try:
        header.status = _STATUSES[row[5]]
        header.waiting = tuple(json.loads(row[17])) if row[17] else ()
        header.misfits = shapes_of(row[19])
        check_instants(header)
    except (KeyError, TypeError, ValueError) as error:
        fault = f"its head cannot be read: {type(error).__name__}: {error}"
        header.status, header.waiting, header.blocked, header.misfits = RunStatus.BLOCKED, (), UnreadableRun.__name__, ()
    return header, fault


def row_of(run_id: str, columns: Sequence[Any]) -> Row:
    """A row of a journal. Raises UnreadableRun."""
    position, epoch, at, version, control, payload = columns
    try:
        if not is_instant(at):
            raise ValueError("its time is no instant")
        return Row(position, epoch, at, decode_row(control, payload, version))
    except (ValueError, UnreadableRun) as error:
        raise UnreadableRun(f"run {run_id!r}, row {position} of its journal: {error}", run_id) from error


def posting_of(columns: Sequence[Any]) -> Posting:
    """A posting."""
    seq, kind, name, payload, signal_id, at = columns
    return Posting(seq, kind, name, payload, signal_id, at)


def stored_of(row: Sequence[Any]) -> StoredRun:
    """A whole run from a row of `Queries.load`: the head, then journal and inbox column by column. What cannot be read is told
    in `error`."""
    header, fault = _head(row)
    run = StoredRun(header, [], [])
    journal, inbox = row[HEADER : HEADER + 6], row[HEADER + 6 : HEADER + 12]
    try:
        if fault:
            raise UnreadableRun(f"run {header.run_id!r}: {fault}", header.run_id)
        _fill_rows(run, row[_BASE], journal)
    except UnreadableRun as error:
        run.error = error
    if inbox[0] is not None:
        run.postings = [posting_of(columns) for columns in zip(*inbox, strict=True)]
    return run


def _fill_rows(run: StoredRun, base: int, journal: Sequence[Any]) -> None:
    header = run.header
    positions = journal[0]
    if not positions:
        raise UnreadableRun(f"run {header.run_id!r}: its journal does not begin where its head says", header.run_id)
    for expected, position in enumerate(positions, start=base):
        if position != expected:
            raise UnreadableRun(f"run {header.run_id!r}: row {expected} of its journal is missing", header.run_id)
    if positions[-1] != header.position:
        raise UnreadableRun(
            f"run {header.run_id!r}: its journal ends with row {positions[-1]}, its head says {header.position}", header.run_id
        )
    for columns in zip(*journal, strict=True):
        run.rows.append(row_of(header.run_id, columns))


def schedule_of(columns: Sequence[Any]) -> Schedule:
    """A schedule. One with an instant that is none is never due; one with a revision that is none cannot be changed."""
    name, workflow, version, rule, next_at, last_at, last_run, revision = columns
    revision = revision if 1 <= revision <= REVISIONS else -1
    return Schedule(name, workflow, version, rule, _instant(next_at), _instant(last_at), last_run, revision)


def _instant(column: Any) -> int | None:
    return column if is_instant(column) else None

"""Rows of the tables as values of the seam, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from flux.core.commands import Posting
from flux.core.status import RunStatus
from flux.errors import UnreadableRun
from flux.journal import decode_row
from flux.storage import Header, Row, Schedule, StoredRun

from ..instants import check_instants, is_instant

_STATUSES = {status.value: status for status in RunStatus}
_UNREADABLE = (TypeError, ValueError, AttributeError, UnreadableRun)

_dumps = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def pack_names(names: Sequence[str]) -> str:
    """The names of awaited signals as a column."""
    return _dumps(list(names)) if names else ""


def _names(column: str) -> tuple[str, ...]:
    return tuple(json.loads(column)) if column else ()


def pack_shapes(shapes: Sequence[str]) -> str:
    """Shapes as a column: each once, in order, so that equal sets are one level for claims."""
    return ",".join(sorted(set(shapes))) if shapes else ""


def shapes_of(column: str) -> tuple[str, ...]:
    """The shapes in such a column."""
    return tuple(column.split(",")) if column else ()


def header_of(row: Sequence[Any]) -> Header:
    """A head from its columns. One that says what no flux writes is shown as blocked."""
    return _head(row)[0]


def _head(row: Sequence[Any]) -> tuple[Header, str]:
    header = Header(*row)
    header.parked = row[22] == 1  # SQLite has no truth values
    fault = ""
    try:
        header.status = _STATUSES[row[5]]
        header.waiting = _names(row[17])
        header.misfits = shapes_of(row[19])
        if type(header.parent) is not str:
            header.parent = ""
            raise ValueError("its parent is no id")
        check_instants(header)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fault = f"its head cannot be read: {type(error).__name__}: {error}"
        header.status, header.waiting, header.blocked, header.misfits = RunStatus.BLOCKED, (), UnreadableRun.__name__, ()
    return header, fault


def row_of(run_id: str, columns: Sequence[Any]) -> Row:
    """A row of a journal. Raises UnreadableRun."""
    position, epoch, at, version, control, payload = columns
    try:
        if not is_instant(at):
            raise ValueError("its time is no instant")
        return Row(position, epoch, at, decode_row(control.decode(), payload.decode(), version))
    except _UNREADABLE as error:
        raise UnreadableRun(f"run {run_id!r}, row {position} of its journal: {error}", run_id) from error


def posting_of(columns: Sequence[Any]) -> Posting:
    """A posting. Raises ValueError or AttributeError where its payload is damaged."""
    seq, kind, name, payload, signal_id, at = columns
    return Posting(seq, kind, name, payload.decode(), signal_id, at)


def stored_of(found: Iterable[Sequence[Any]]) -> StoredRun | None:
    """A whole run from the rows of `queries.LOAD`; None where there are none. What cannot be read is told in `error`."""
    parts: tuple[list[Sequence[Any]], ...] = ([], [], [])
    for row in found:
        parts[row[0]].append(row[1:])
    if not parts[0]:
        return None
    *head, base = parts[0][0]
    header, fault = _head(head)
    run = StoredRun(header, [], [])
    try:
        if fault:
            raise UnreadableRun(f"run {header.run_id!r}: {fault}", header.run_id)
        _fill_rows(run, base, sorted(parts[1], key=_first))
        _fill_postings(run, sorted(parts[2], key=_first))
    except UnreadableRun as error:
        run.error = error
    return run


def _fill_rows(run: StoredRun, base: Any, journal: list[Sequence[Any]]) -> None:
    header = run.header
    if type(base) is not int or not journal:
        raise UnreadableRun(f"run {header.run_id!r}: its journal does not begin where its head says", header.run_id)
    for expected, columns in enumerate(journal, start=base):
        if columns[0] != expected:
            raise UnreadableRun(f"run {header.run_id!r}: row {expected} of its journal is missing", header.run_id)
        run.rows.append(row_of(header.run_id, columns[:6]))
    last = base + len(journal) - 1
    if last != header.position:
        raise UnreadableRun(f"run {header.run_id!r}: its journal ends with row {last}, its head says {header.position}", header.run_id)


def _fill_postings(run: StoredRun, inbox: list[Sequence[Any]]) -> None:
    try:
        run.postings.extend([posting_of(columns[:6]) for columns in inbox])
    except _UNREADABLE as error:
        run_id = run.header.run_id
        raise UnreadableRun(f"run {run_id!r}: a posting cannot be read: {error}", run_id) from error


def schedule_of(columns: Sequence[Any]) -> Schedule:
    """A schedule. One with an instant that is none is never due; one with a revision that is none cannot be changed."""
    name, workflow, version, rule, next_at, last_at, last_run, revision = columns
    revision = revision if type(revision) is int else -1
    return Schedule(name, workflow, version, rule, _instant(next_at), _instant(last_at), last_run, revision)


def _instant(column: Any) -> int | None:
    return column if is_instant(column) else None


def _first(columns: Sequence[Any]) -> int:
    number = columns[0]
    return number if isinstance(number, int) else -1

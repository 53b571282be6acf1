"""What is kept of a run and of a worker: rows of text and plain values, as in a database (I43)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from flux.core.commands import Posting
from flux.core.status import TERMINAL
from flux.errors import UnreadableRun
from flux.journal import decode_row, encode_row
from flux.storage import Commit, Header, Query, Row, StoredRun

TextRow = tuple[int, int, str, str]  # epoch, at, control, payload; nothing that the garbage collector would visit for ever


@dataclass(slots=True)
class KeptWorker:
    """A live worker."""

    expires_at: int
    lease: int
    owned: dict[str, None] = field(default_factory=dict)  # run ids


@dataclass(slots=True)
class KeptRun:
    """A run: its head, its journal and its inbox."""

    header: Header
    rows: list[TextRow] = field(default_factory=list)
    inbox: dict[int, Posting] = field(default_factory=dict)  # not yet taken, by seq
    signal_ids: dict[str, int] = field(default_factory=dict)
    seen: int = 0  # the newest posting that the holder has stated
    base: int = 1  # the position of the first row that is loaded

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self.header.status in TERMINAL


def page_of(runs: Iterable[KeptRun], query: Query) -> list[Header]:
    """Heads as a query wants them, newest first."""
    found = [
        run.header
        for run in runs
        if (query.workflow is None or run.header.workflow == query.workflow)
        and (query.version is None or run.header.version == query.version)
        and (not query.statuses or run.header.status in query.statuses)
        and (query.before is None or (run.header.created_at, run.header.run_id) < query.before)
    ]
    found.sort(key=lambda header: (header.created_at, header.run_id), reverse=True)
    return [header.copy() for header in found[: max(query.limit, 0)]]


def has_written(run: KeptRun, commit: Commit) -> bool:
    """Whether this very commit was written before (contract 4)."""
    if not commit.records or len(run.rows) <= commit.position:
        return False
    return run.rows[commit.position] == (commit.epoch, commit.at, *encode_row(commit.records))


def copy_of(run: KeptRun) -> StoredRun:
    """The run as it is handed out: the journal from where it begins anew."""
    postings = [replace(posting) for posting in run.inbox.values()]
    try:
        if len(run.rows) != run.header.position:
            raise UnreadableRun(f"run {run.header.run_id!r}: a row of its journal is missing", run.header.run_id)
        return StoredRun(run.header.copy(), rows_of(run, run.base - 1, len(run.rows)), postings)
    except UnreadableRun as error:
        return StoredRun(run.header.copy(), [], postings, error)


def rows_of(run: KeptRun, after: int, limit: int) -> list[Row]:
    """So many rows behind a position. Raises UnreadableRun."""
    try:
        return [_row(position, row) for position, row in enumerate(run.rows[after : after + limit], after + 1)]
    except UnreadableRun as error:
        run_id = run.header.run_id
        raise UnreadableRun(f"run {run_id!r}: {error}", run_id) from error


def _row(position: int, row: TextRow) -> Row:
    epoch, at, control, payload = row
    return Row(position, epoch, at, decode_row(control, payload))

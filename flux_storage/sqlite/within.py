"""Runs and postings inside a transaction of an application's own on the same file (contract 22)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flux.errors import StorageMisused
from flux.journal import encode_row
from flux.storage import Created, NewPosting, NewRun, Posted

from . import queries, runs
from .leases import Leases
from .rows import header_of
from .writer import Transaction


class Within:
    """See `flux.storage.Within`: for a `sqlite3.Connection`, used in the thread that the connection belongs to."""

    def __init__(self, connection: Any, path: str, now: Callable[[], int], leases: Leases, announce: Callable[[], None]) -> None:
        self._connection = connection
        self._path = path
        self._now = now
        self._leases = leases
        self._announce = announce

    async def create(self, run: NewRun) -> Created:
        """Make a run, or find the one that is there."""
        tx = self._begin()
        created = runs.create(tx, replace(run, owner=None), encode_row(run.records))
        self._tell(tx)
        return created

    async def post(self, run_id: str, posting: NewPosting, *, workflow: str | None = None) -> Posted:
        """Accept a signal or a cancel. Raises RunNotFound, RunFinished, InboxFull."""
        tx = self._begin()
        raw = runs.post(tx, self._leases, run_id, posting, workflow, None)
        self._tell(tx)
        return Posted(header_of(raw.header), raw.seq, raw.fresh, raw.now)

    def _begin(self) -> Transaction:
        connection = self._connection
        if not isinstance(connection, sqlite3.Connection):
            raise StorageMisused(f"connection= expects a sqlite3.Connection, got {type(connection).__name__}")
        if not connection.in_transaction:
            raise StorageMisused("connection= expects a connection inside a transaction: execute BEGIN IMMEDIATE first")
        files = [row[2] for row in connection.execute(queries.FILES) if row[1] == "main"]
        if not files or not files[0] or not Path(files[0]).samefile(self._path):
            raise StorageMisused(
                f"connection= is open on {files[0] if files else 'nothing'!r}, not on the file of this storage, {self._path}"
            )
        cursor = connection.cursor()
        cursor.row_factory = None
        return Transaction(cursor, self._now())

    def _tell(self, tx: Transaction) -> None:
        if tx.notify:
            tx.cursor.execute(queries.SET_CHANGES, (tx.row(queries.CHANGES)[0] + 1,))
            self._announce()

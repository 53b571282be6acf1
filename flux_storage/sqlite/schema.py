"""The versions of the file's schema, and how a connection gets there (S15.4, I50)."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from flux.errors import StorageMisused, StorageTooNew

from . import queries
from .errors import is_busy

APPLICATION_ID = 0x666C7578  # "flux"
_SET_APPLICATION = f"PRAGMA application_id = {APPLICATION_ID}"

T = TypeVar("T", bound=sqlite3.Cursor | sqlite3.Blob)

Pause = Callable[[], None]
Step = Callable[[sqlite3.Cursor], None]


class Patience:
    """Waits for a busy file about a millisecond at a time, for ever, and says so now and then."""

    __slots__ = ("_interval", "_started", "_warn", "_warn_at")

    def __init__(self, interval: float, warn: Callable[[float], None]) -> None:
        self._interval = interval
        self._warn = warn
        self._started = time.monotonic()
        self._warn_at = self._started + interval

    def __call__(self) -> None:
        """Wait once."""
        time.sleep(random.uniform(0.0005, 0.0015))
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + self._interval
            self._warn(now - self._started)


def _create(cursor: sqlite3.Cursor) -> None:
    cursor.execute(queries.TABLES)
    alone = cursor.fetchone()[0] == 0
    _run(cursor, "schema.sql")
    cursor.execute(queries.FIRST_VERSION, (0,))
    if alone:
        cursor.execute(_SET_APPLICATION)


def _extend(cursor: sqlite3.Cursor) -> None:
    _run(cursor, "schema_2.sql")


def _run(cursor: sqlite3.Cursor, script: str) -> None:
    for statement in _statements(Path(__file__).with_name(script).read_text("utf-8")):
        cursor.execute(statement)


# Step n leads from version n to n + 1. A step that was released never changes, nor does the script that it runs.
STEPS: tuple[Step, ...] = (_create, _extend)
VERSION = len(STEPS)


def readable(column: bytes) -> str:
    """The text of a column. Bytes that are none become marks: they must not fail a statement that also finds other runs (S15.2)."""
    return column.decode("utf-8", "replace")


class WriterConnection(sqlite3.Connection):
    """The connection of all writes. Handlers get it lent, and must not close it.

    A statement that a handler leaves open would keep all later transactions from their end, or from their begin where others write too:
    `take_back` closes what was made since `lend`. Who has kept the connection cannot use it any more then.
    """

    _lent: WeakSet[sqlite3.Cursor | sqlite3.Blob] | None = None
    _kept = False  # flux has the one cursor that it needs

    def keep(self) -> sqlite3.Cursor:
        """A cursor; from here on others can only be had while it is lent."""
        cursor: sqlite3.Cursor = self.cursor()
        self._kept = True
        return cursor

    def lend(self) -> None:
        """What is made from now on is somebody's who may leave it open."""
        self._lent = WeakSet()

    def take_back(self) -> None:
        """Close it."""
        lent, self._lent = self._lent, None
        for made in lent or ():
            with suppress(sqlite3.Error):
                made.close()

    def _check(self) -> None:
        if self._kept and self._lent is None:
            raise StorageMisused("this connection is flux's own, and was lent for a step that is over")

    def _noted(self, made: T) -> T:
        if self._lent is not None:
            self._lent.add(made)
        return made

    def __enter__(self) -> Any:
        self._check()
        return super().__enter__()

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        """As `sqlite3` has it, while it is lent; and so have the others."""
        self._check()
        return self._noted(super().cursor(factory))

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run a statement."""
        self._check()
        return self._noted(super().execute(sql, parameters))

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        """Run it often."""
        self._check()
        return self._noted(super().executemany(sql, parameters))

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        """Run several."""
        self._check()
        return self._noted(super().executescript(sql_script))

    def blobopen(self, *where: Any, **how: Any) -> sqlite3.Blob:
        """Open one value."""
        self._check()
        return self._noted(super().blobopen(*where, **how))

    def commit(self) -> None:
        """End a transaction."""
        self._check()
        super().commit()

    def rollback(self) -> None:
        """Take one back."""
        self._check()
        super().rollback()

    def close(self) -> None:
        """Refused with StorageMisused."""
        raise StorageMisused("this connection is flux's own, lent for the step: leave it open")

    def let_go(self) -> None:
        """Close it."""
        super().close()


def open_connection(path: str, synchronous: str, patience: Callable[[], Pause]) -> WriterConnection:
    """A connection for the writer, on a file that is checked and migrated.

    Raises StorageTooNew and StorageMisused before anything is touched, and sqlite3.Error.
    """
    connection = sqlite3.connect(
        path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256, factory=WriterConnection
    )
    connection.text_factory = readable
    try:
        _patiently(patience(), lambda: _check(connection, path))
        _patiently(patience(), lambda: connection.execute(queries.WAL).fetchone())
        connection.execute(queries.SYNCHRONOUS[synchronous])
        _patiently(patience(), lambda: _migrate(connection, path))
    except BaseException:
        connection.let_go()
        raise
    return connection


def _patiently(pause: Pause, act: Callable[[], object]) -> None:
    while True:
        try:
            act()
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
        else:
            return
        pause()


def _check(connection: sqlite3.Connection, path: str) -> int:
    """The file's version, 0 where flux has not been."""
    application = connection.execute(queries.APPLICATION).fetchone()[0]
    if application not in (0, APPLICATION_ID):
        raise StorageMisused(f"{path} is the file of another program (application_id {application:#x}): choose another one")
    if connection.execute(queries.HAS_SCHEMA).fetchone() is None:
        return 0
    row = connection.execute(queries.VERSION).fetchone()
    version = 0 if row is None else row[0]
    if not isinstance(version, int) or version < 1:
        raise StorageMisused(f"{path} has a table flux_schema that flux did not write: choose another file")
    if version > VERSION:
        raise StorageTooNew(f"{path} has schema version {version}, this flux knows up to {VERSION}: upgrade flux")
    return version


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    """All missing steps in one transaction; whoever comes second finds them done."""
    if _check(connection, path) == VERSION:
        return
    cursor = connection.cursor()
    cursor.execute(queries.BEGIN)
    try:
        for step in STEPS[_check(connection, path) :]:
            step(cursor)
        cursor.execute(queries.SET_VERSION, (VERSION,))
        cursor.execute(queries.COMMIT)
    except BaseException:
        if connection.in_transaction:
            cursor.execute(queries.ROLLBACK)
        raise


def _statements(script: str) -> Iterator[str]:
    lines: list[str] = []
    for line in script.splitlines():
        lines.append(line)
        statement = "\n".join(lines)
        if line.rstrip().endswith(";") and sqlite3.complete_statement(statement):
            yield statement
            lines.clear()

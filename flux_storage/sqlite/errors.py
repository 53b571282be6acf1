"""What goes wrong in SQLite, as flux says it. The one place where its error codes are looked at."""

from __future__ import annotations

import sqlite3

from flux.errors import FluxError, StorageMisused, StorageUnavailable

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_FOREIGN = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_CONSTRAINT})


def is_busy(error: BaseException) -> bool:
    """Whether somebody else holds the file for a moment: try again."""
    return isinstance(error, sqlite3.Error) and _code(error) in _BUSY


def translate(error: Exception, path: str) -> Exception:
    """The error a caller gets. Disk full, I/O and the like are StorageUnavailable; what is no error of SQLite stays."""
    if isinstance(error, FluxError) or not isinstance(error, sqlite3.Error):
        return error
    if _code(error) in _FOREIGN:
        return StorageMisused(f"{path} is not a database that flux can work with: {_describe(error)}")
    return StorageUnavailable(f"{path}: {_describe(error)}")


def _describe(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", None)
    return f"{error} ({name})" if name else str(error)


def _code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else -1

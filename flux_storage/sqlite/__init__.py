"""Runs in a SQLite file: durable, shared by the processes of one machine, with no server to look after."""

from __future__ import annotations

from .storage import SQLiteStorage

__all__ = ["SQLiteStorage", "open_url"]


def open_url(url: str) -> SQLiteStorage:
    """The storage that a `sqlite://` URL names, not opened yet. Raises InvalidArgument."""
    return SQLiteStorage.from_url(url)

"""Runs in a PostgreSQL database: durable, shared by the workers of many machines."""

from __future__ import annotations

from .storage import PostgresStorage

__all__ = ["PostgresStorage", "open_url"]


def open_url(url: str) -> PostgresStorage:
    """The storage that a `postgresql://` URL names, not opened yet. Raises InvalidArgument."""
    return PostgresStorage.from_url(url)

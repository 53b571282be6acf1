"""Runs in this process's memory: the default, and the reference that the other adapters are held against."""

from __future__ import annotations

from .storage import MemoryStorage

__all__ = ["MemoryStorage", "open_url"]


def open_url(url: str) -> MemoryStorage:
    """The storage for `memory:`."""
    return MemoryStorage()

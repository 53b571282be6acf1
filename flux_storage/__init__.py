"""Where flux keeps runs: `MemoryStorage` for tests and trials, `SQLiteStorage` for one machine, `PostgresStorage` for many.

An adapter is imported when it is first asked for, so that what one of them needs is no burden for the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .memory import MemoryStorage
    from .postgres import PostgresStorage
    from .sqlite import SQLiteStorage

__all__ = ["MemoryStorage", "PostgresStorage", "SQLiteStorage"]

_HOMES = {"MemoryStorage": "memory", "PostgresStorage": "postgres", "SQLiteStorage": "sqlite"}
_EXTRAS = {"aiosqlite": "sqlite", "asyncpg": "postgres"}  # a missing package -> the extra that brings it


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f".{home}", __name__)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        raise ImportError(f"{name} needs {error.name}: pip install 'flux-durable[{extra}]'", name=error.name) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)

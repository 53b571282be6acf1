"""What the tests of PostgreSQL's storage share. Those of SQLite's have their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import pytest

from flux_storage import PostgresStorage

from ..postgres import Server, Wire, fresh_schema
from .runs import LEASE

Wired: TypeAlias = tuple[PostgresStorage, Wire]


@pytest.fixture
def schema() -> str:
    return fresh_schema()


@pytest.fixture
async def storage(server: Server, schema: str) -> AsyncIterator[PostgresStorage]:
    async with PostgresStorage(server.url(), schema=schema) as opened:
        await opened.register("w", LEASE)
        yield opened


@pytest.fixture
async def wired(server: Server, schema: str, tmp_path: Path) -> AsyncIterator[Wired]:
    """A storage behind a wire that can lose answers."""
    folder = tmp_path / "w"
    folder.mkdir()
    async with Wire(server, folder) as wire:
        async with PostgresStorage(wire.url(), schema=schema) as storage:
            await storage.register("w", LEASE)
            yield storage, wire

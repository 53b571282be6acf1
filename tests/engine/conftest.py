"""What the engine's tests share: all run over memory and SQLite, with FLUX_TEST_STORAGES=all over PostgreSQL too; in virtual time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from flux import FluxEngine
from flux.testing import VirtualClock

from .cluster import Cluster


@pytest.fixture
def clock() -> VirtualClock:
    """The time of all engines of a test."""
    return VirtualClock()


STORAGES = ["memory", "sqlite", *(["postgres"] if os.environ.get("FLUX_TEST_STORAGES") == "all" else [])]


@pytest.fixture(params=STORAGES)
async def cluster(request: Any, clock: VirtualClock, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Cluster]:
    """Engines on one storage, which may crash; see `Cluster`."""
    async with AsyncExitStack() as stack:
        url = ""
        if request.param == "postgres":
            url = await stack.enter_async_context(request.getfixturevalue("server").lent_schema())
        yield await stack.enter_async_context(Cluster(tmp_path / "flux.db" if request.param == "sqlite" else None, clock, url))


@pytest.fixture
async def engine(cluster: Cluster) -> FluxEngine:
    """One engine with the defaults."""
    return await cluster.open()

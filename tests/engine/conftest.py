"""What the engine's tests share: every test runs over memory and over SQLite, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
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


@pytest.fixture(params=["memory", "sqlite"])
async def cluster(request: Any, clock: VirtualClock, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Cluster]:
    """Engines on one storage, which may crash; see `Cluster`."""
    async with Cluster(None if request.param == "memory" else tmp_path / "flux.db", clock) as cluster:
        yield cluster


@pytest.fixture
async def engine(cluster: Cluster) -> FluxEngine:
    """One engine with the defaults."""
    return await cluster.open()

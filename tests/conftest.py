"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from .postgres import Server, running_server

# Without the phase that explains a failure: of a state machine on real databases it takes longer than everything else.
QUICK = tuple(phase for phase in Phase if phase is not Phase.explain)

settings.register_profile("quick", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=QUICK)
settings.register_profile("long", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("FLUX_TEST_PROFILE", "quick"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: so the workers of a parallel run end together."""
    items.sort(key=lambda item: "processes" not in item.path.parts)


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of the engine's tests."""
    return "asyncio"


@pytest.fixture(scope="session")
def database() -> Iterator[Server]:
    """One PostgreSQL server for all tests."""
    with running_server() as server:
        yield server


@pytest.fixture
def server(database: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same, and a temporary folder of the test's own for the lock files of workers."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return database

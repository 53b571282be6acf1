"""What the tests with real processes share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..postgres import Server, fresh_schema

if TYPE_CHECKING:
    from .children import World

if sys.platform == "win32":  # it has no SIGKILL, no SIGSTOP and no fork
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def places(request: pytest.FixtureRequest) -> Callable[[], str]:
    """New databases. For tests that ask for `postgres` by parameter: URLs of schemas on a real server; the others use files, which
    need none."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return str
    server: Server = request.getfixturevalue("database")
    return lambda: server.url(fresh_schema())


@pytest.fixture
def world(tmp_path: Path, places: Callable[[], str]) -> Iterator[World]:
    """A database and its processes."""
    from .children import World

    world = World(tmp_path, places())
    try:
        yield world
    finally:
        world.close()

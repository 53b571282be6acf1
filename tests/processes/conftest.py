"""What the tests with real processes share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .children import World

if sys.platform == "win32":  # it has no SIGKILL, no SIGSTOP and no fork
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A database and its processes."""
    from .children import World

    world = World(tmp_path)
    try:
        yield world
    finally:
        world.close()

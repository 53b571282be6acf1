"""Transactional steps, killed at every statement and around every commit (S3.6)."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg

from tests.postgres import Server

from .bank import LINES, SUMS
from .children import World

LANES = 3
LINES_OF_ALL = [("run-1", "first"), ("run-1", "second")]


def tell(world: World, *kills: int, **arguments: Any) -> tuple[Any, int]:
    """Tell it; the first processes die at these points. What the last one says, and how many died."""
    died = 0
    try:
        for kill_at in kills:
            child = world.child("book", kill_at=kill_at, **arguments)
            died += child.ends() == -signal.SIGKILL
        child = world.child("book", **arguments)
        end = child.says("ended")
        child.ends_well()
        return end, died
    finally:
        world.close()


def check(end: Any, points: int) -> None:
    """Every line is there once, however often its handler was called; and nothing is in doubt."""
    status, steps, (lines, sums), _ = end
    assert status == "completed", points
    assert sorted(lines) == LINES_OF_ALL and sums == [("run-1", 2)], points
    assert not any(in_doubt for path, (_, in_doubt) in steps.items() if path != "between"), points


def test_on_a_file(tmp_path: Path) -> None:
    """S3.6, I45: SQLite."""

    def begin(name: str) -> World:
        world = World(tmp_path / name)
        with closing(sqlite3.connect(world.where)) as connection:
            connection.executescript(f"{LINES}; {SUMS}")
        return world

    reference, _ = tell(begin("reference"))
    check(reference, 0)
    points = reference[-1]
    assert len(points) == 2 * 6 + 2, points

    def case(kill_at: int) -> None:
        end, died = tell(begin(str(kill_at)), kill_at)
        assert died, points[kill_at - 1]
        check(end, points[kill_at - 1])

    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(case, range(1, len(points) + 1)))
    end, _ = tell(begin("twice"), 5, 5, 12)
    check(end, -1)


def test_on_a_server(tmp_path: Path, server: Server) -> None:
    """S3.6, I45: PostgreSQL."""
    reference, _ = tell(World(tmp_path / "reference"), **asyncio.run(_database(server, "reference")))
    check(reference, 0)
    points = reference[-1]

    def case(kill_at: int) -> None:
        arguments = asyncio.run(_database(server, f"k{kill_at}"))
        end, died = tell(World(tmp_path / str(kill_at)), kill_at, **arguments)
        assert died, points[kill_at - 1]
        check(end, points[kill_at - 1])

    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(case, range(1, len(points) + 1)))


async def _database(server: Server, name: str) -> dict[str, Any]:
    """A database of its own: the tables of the bank are in its public schema."""
    await server.sql(f"CREATE DATABASE bank_{name}")
    url = server.url().replace("/postgres?", f"/bank_{name}?", 1)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"{LINES}; {SUMS}")
    finally:
        await connection.close()
    return {"url": url}

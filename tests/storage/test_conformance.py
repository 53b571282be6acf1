"""The adapters against the contract of flux.storage: every check of the public suite, on each of them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flux.clock import Clock
from flux.storage import Commit, Committed, WorkflowStorage
from flux.testing.conformance import CHECKS, DAMAGED_CHECKS, SHARED_CHECKS, run_check
from flux_storage import MemoryStorage, SQLiteStorage

pytestmark = pytest.mark.anyio

Make = Callable[[Clock], WorkflowStorage]


def sqlite_file(path: Path) -> Make:
    return lambda clock: SQLiteStorage(path / "flux.db", synchronous="NORMAL", clock=clock)


ADAPTERS: dict[str, Callable[[Path], Make]] = {
    "memory": lambda path: lambda clock: MemoryStorage(clock=clock),
    "sqlite": sqlite_file,
    "sqlite-memory": lambda path: lambda clock: SQLiteStorage(":memory:", clock=clock),
}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_contract(adapter: str, name: str, tmp_path: Path) -> None:
    """I42, contract 1 to 20, 23 and 24: what holds for one storage holds for all."""
    await run_check(name, ADAPTERS[adapter](tmp_path))


@pytest.mark.parametrize("name", SHARED_CHECKS)
async def test_contract_of_shared_data(name: str, tmp_path: Path) -> None:
    """I48, contract 1: one SQLite file, opened twice and again."""
    make = sqlite_file(tmp_path)
    await run_check(name, make, again=make)


@pytest.mark.parametrize("name", DAMAGED_CHECKS)
@pytest.mark.parametrize("column", ["control", "payload", "format"])
async def test_contract_of_damaged_rows(name: str, column: str, tmp_path: Path) -> None:
    """S15.2, contract 14: whatever it is about the row that cannot be read."""

    def damage(run_id: str) -> None:
        with sqlite3.connect(tmp_path / "flux.db") as connection:
            connection.execute(
                f"UPDATE flux_journal SET {column} = ? WHERE ref = (SELECT ref FROM flux_runs WHERE run_id = ?)",
                (999 if column == "format" else b"\xff{", run_id),
            )
        connection.close()

    await run_check(name, sqlite_file(tmp_path), damage=damage)


def test_the_suite_needs_no_test_runner() -> None:
    """Architecture 4: a third party runs the checks with whatever it has."""
    script = (
        "import asyncio, sys\n"
        "from flux.testing.conformance import CHECKS, run_check\n"
        "from flux_storage import MemoryStorage\n"
        "asyncio.run(run_check(CHECKS[0], lambda clock: MemoryStorage(clock=clock)))\n"
        "sys.exit('pytest' in sys.modules or 'hypothesis' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


async def test_a_broken_storage_is_found() -> None:
    """A check fails by an AssertionError that says what is wrong."""

    class Forgetful(MemoryStorage):
        async def commit(self, commit: Commit) -> Committed:
            return Committed(await self.now())

    with pytest.raises(AssertionError, match="expected"):
        await run_check("a_commit_appends_its_row_and_replaces_the_header", lambda clock: Forgetful(clock=clock))

"""Who is alive on one machine: the locks that workers hold beside the database (D14)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flux.errors import StorageUnavailable
from flux.storage import StoredRun
from flux_storage import SQLiteStorage

from .runs import CODE, LEASE, new_run

pytestmark = pytest.mark.anyio

HOUR = 3_600_000_000

HOLDER = """
import asyncio, sys
from flux_storage import SQLiteStorage
from tests.storage.runs import new_run
async def main():
    async with SQLiteStorage(sys.argv[1]) as storage:
        await storage.register("doomed", 3_600_000_000)
        for name in ("one", "two"):
            await storage.create(new_run(name, owner="doomed"))
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process whose worker holds the runs 'one' and 'two' for an hour."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield child
    finally:
        child.kill()
        child.communicate(timeout=60)


def locks(path: Path) -> list[str]:
    return sorted(os.listdir(f"{path}-workers"))


async def test_runs_of_a_killed_process_are_taken_at_once(path: Path) -> None:
    """S14.5, I16: neither the lease nor a signal is waited for; while it lives nothing is stolen."""
    async with SQLiteStorage(path) as storage:
        await storage.register("heir", LEASE)
        with holder(path) as child:
            assert await storage.take("one", "heir") is None
            assert (await storage.claim("heir", [CODE], 5)).runs == []
            child.kill()
            child.wait()
            one = await storage.take("one", "heir")
            assert isinstance(one, StoredRun)
            assert (one.header.owner, one.header.epoch) == ("heir", 2)
            claimed = await storage.claim("heir", [CODE], 5)
            assert [run.header.run_id for run in claimed.runs] == ["two"]
        assert not (await storage.renew("doomed", HOUR)).alive
        assert locks(path) == ["heir.lock"]


async def test_a_claim_alone_finds_the_dead(path: Path) -> None:
    """S12.1: recovering needs no human act."""
    async with SQLiteStorage(path) as storage:
        await storage.register("heir", LEASE)
        with holder(path) as child:
            child.kill()
            child.wait()
            claimed = await storage.claim("heir", [CODE], 5)
        assert [(run.header.run_id, run.header.epoch) for run in claimed.runs] == [("one", 2), ("two", 2)]


async def test_two_storages_of_one_process_do_not_steal(path: Path) -> None:
    """D14: a lock belongs to the storage that took it, not to the process."""
    async with SQLiteStorage(path) as mine, SQLiteStorage(path) as theirs:
        await mine.register("mine", HOUR)
        await theirs.register("theirs", HOUR)
        await mine.create(new_run("one", owner="mine"))
        assert await theirs.take("one", "theirs") is None
        assert (await theirs.claim("theirs", [CODE], 5)).runs == []
        await mine.unregister("mine")
        assert locks(path) == ["theirs.lock"]
        assert await theirs.take("one", "theirs") is not None


async def test_a_closed_storage_keeps_no_worker_alive(path: Path) -> None:
    """S14.4: what it still held is free at once."""
    async with SQLiteStorage(path) as storage:
        await storage.register("gone", HOUR)
        await storage.create(new_run("one", owner="gone"))
    async with storage:
        await storage.register("next", HOUR)
        assert await storage.take("one", "next") is not None
        assert locks(path) == ["next.lock"]


async def test_a_missing_lock_file_proves_nothing(path: Path) -> None:
    """D14: then the lease decides."""
    async with SQLiteStorage(path) as mine, SQLiteStorage(path) as theirs:
        await mine.register("mine", HOUR)
        await theirs.register("theirs", HOUR)
        await mine.create(new_run("one", owner="mine"))
        Path(f"{path}-workers", "mine.lock").unlink()
        assert await theirs.take("one", "theirs") is None
        assert (await mine.renew("mine", HOUR)).alive


async def test_any_nonce_makes_a_harmless_file_name(path: Path) -> None:
    """S15.7: what comes from outside never walks through directories."""
    async with SQLiteStorage(path) as storage:
        await storage.register("../../evil", HOUR)
        assert [name for name in os.listdir(path.parent) if "evil" in name] == []
        assert len(locks(path)) == 1


async def test_a_worker_that_could_not_be_unregistered(path: Path) -> None:
    """S14.5, D14: it is gone all the same. Its lock is given up, so that others need not wait for its lease, and nothing stays open."""
    async with SQLiteStorage(path) as left, SQLiteStorage(path) as other:
        await left.register("gone", HOUR)
        await left.create(new_run("one", owner="gone"))
        await other.register("w", LEASE)
        await left._write(lambda tx: tx.cursor.execute("PRAGMA query_only = 1").fetchall())
        with pytest.raises(StorageUnavailable):
            await left.unregister("gone")
        assert [run.header.run_id for run in (await other.claim("w", [CODE], 10)).runs] == ["one"]
        assert locks(path) == ["w.lock"]


async def test_a_worker_that_learns_that_it_was_condemned(path: Path) -> None:
    """D13, D14: it never renews, so nothing stays open for it: a process that loses its lease now and then lasts for years."""
    async with SQLiteStorage(path) as lost, SQLiteStorage(path) as other:
        await lost.register("late", 1)
        await other.register("w", LEASE)
        assert (await other.claim("w", [CODE], 10)).runs == []
        assert not (await lost.renew("late", HOUR)).alive
        assert not lost._parts().locks.holds("late.lock")

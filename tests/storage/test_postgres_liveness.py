"""Who is alive on PostgreSQL: file locks on one machine, sessions between machines (D14)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flux.errors import LeaseLost, StorageMisused
from flux.storage import StoredRun
from flux.testing.conformance.kit import HandClock
from flux_storage import PostgresStorage
from flux_storage.postgres import leases, opened
from flux_storage.postgres.opened import lock_folder
from flux_storage.postgres.schema import number_of

from ..postgres import Server
from .runs import LEASE, new_run, step

pytestmark = pytest.mark.anyio

HOUR = 3_600_000_000
CODE = ("order", "1", "s")

HOLDER = """
import asyncio, sys, tempfile
from flux_storage import PostgresStorage
from tests.storage.runs import new_run
async def main():
    tempfile.tempdir = sys.argv[3]
    async with PostgresStorage(sys.argv[1], schema=sys.argv[2]) as storage:
        await storage.register("doomed", 3_600_000_000)
        for name in ("one", "two"):
            await storage.create(new_run(name, owner="doomed"))
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())
"""


@contextmanager
def holder(server: Server, schema: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process whose worker holds the runs 'one' and 'two' for an hour."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, server.url(), schema, tempfile.gettempdir()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield child
    finally:
        child.kill()
        child.communicate(timeout=60)


def locks(storage: PostgresStorage) -> list[str]:
    folder = lock_folder(storage._parts().home)
    assert folder is not None
    return sorted(os.listdir(folder))


async def test_runs_of_a_killed_process_are_taken_at_once(server: Server, schema: str) -> None:
    """S14.5, I16: on one machine neither lease nor session is waited for; while it lives nothing is stolen."""
    async with PostgresStorage(server.url(), schema=schema) as storage:
        await storage.register("heir", LEASE)
        with holder(server, schema) as child:
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
        assert locks(storage) == ["heir.lock"]


async def test_a_claim_alone_finds_the_dead(server: Server, schema: str) -> None:
    """S12.1: recovering needs no human act."""
    async with PostgresStorage(server.url(), schema=schema) as storage:
        await storage.register("heir", LEASE)
        with holder(server, schema) as child:
            child.kill()
            child.wait()
            claimed = await storage.claim("heir", [CODE], 5)
        assert [(run.header.run_id, run.header.epoch) for run in claimed.runs] == [("one", 2), ("two", 2)]


async def test_two_storages_of_one_process_do_not_steal(server: Server, schema: str) -> None:
    """D14: locks belong to the storage that took them; one that closes keeps no worker alive."""
    async with PostgresStorage(server.url(), schema=schema) as theirs:
        await theirs.register("theirs", HOUR)
        async with PostgresStorage(server.url(), schema=schema) as mine:
            await mine.register("mine", HOUR)
            await mine.create(new_run("one", owner="mine"))
            assert await theirs.take("one", "theirs") is None
            assert (await theirs.claim("theirs", [CODE], 5)).runs == []
        assert await theirs.take("one", "theirs") is not None
        assert locks(theirs) == ["theirs.lock"]


async def test_who_unregisters_leaves_no_sign_of_life(server: Server, schema: str) -> None:
    """S14.4: neither a file nor a lock in the session stays behind."""
    async with PostgresStorage(server.url(), schema=schema) as storage:
        await storage.register("../../evil", HOUR)
        key = number_of("worker", storage._parts().home, "../../evil")
        assert await _locked(server, key)
        assert len(locks(storage)) == 1
        assert not list(Path(tempfile.gettempdir()).rglob("*evil*"))
        await storage.unregister("../../evil")
        assert not await _locked(server, key)
        assert locks(storage) == []


def test_only_a_folder_of_ones_own_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S15.7: whoever could write there could make the living look dead."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = lock_folder("home")
    assert folder is not None and folder.parent.stat().st_mode & 0o077 == 0
    folder.parent.chmod(0o777)
    assert lock_folder("home") is None
    folder.parent.rmdir()
    folder.parent.symlink_to(tmp_path)
    assert lock_folder("home") is None


# --- between machines


class Pair:
    """A worker `w` on one machine, which holds the run 'one', and a worker `v` on another; time is moved by hand."""

    def __init__(self, server: Server, clock: HandClock, w: PostgresStorage, v: PostgresStorage) -> None:
        self.server, self.clock, self.w, self.v = server, clock, w, v

    async def cut(self, *, for_good: bool) -> None:
        """End the session of w."""
        beacon = self.w._parts().beacon
        if for_good:
            beacon._mend = lambda: None  # type: ignore[method-assign]
        key = number_of("worker", self.w._parts().home, "w")
        (session,) = await _sessions(self.server, key)
        await self.server.sql("SELECT pg_terminate_backend($1)", session)
        async with asyncio.timeout(30):
            while session in await _sessions(self.server, key):
                await asyncio.sleep(0)

    async def claimed(self) -> list[str]:
        return [run.header.run_id for run in (await self.v.claim("v", [CODE], 5)).runs]

    async def doubt(self) -> int | None:
        rows = await self.server.sql(f"SELECT doubt_until FROM {self.w.schema}.workers WHERE nonce = 'w'")
        return None if rows[0][0] is None else rows[0][0] - self.clock.now()


async def _sessions(server: Server, key: int) -> list[int]:
    text = (
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND ((classid::bigint << 32) | objid::bigint) = $1"
    )
    return [row[0] for row in await server.sql(text, key)]


async def _locked(server: Server, key: int) -> bool:
    return bool(await _sessions(server, key))


@pytest.fixture
async def pair(server: Server, schema: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr(leases, "PROBING", 0.0)
    clock = HandClock()
    monkeypatch.setattr(opened, "machine", lambda: "here")
    async with PostgresStorage(server.url(), schema=schema, clock=clock) as w:
        monkeypatch.setattr(opened, "machine", lambda: "there")
        async with PostgresStorage(server.url(), schema=schema, clock=clock) as v:
            await w.register("w", LEASE)
            await v.register("v", HOUR)
            await w.create(new_run("one", owner="w"))
            yield Pair(server, clock, w, v)


async def test_a_lost_session_shortens_the_lease(pair: Pair) -> None:
    """D14: to five seconds from when that was noticed, and not at once."""
    assert await pair.claimed() == [] and await pair.doubt() is None
    await pair.cut(for_good=True)
    assert await pair.claimed() == [] and await pair.doubt() == 5_000_000
    await pair.clock.advance(4.9)
    assert await pair.claimed() == [] and await pair.doubt() == 100_000
    await pair.clock.advance(0.1)
    assert await pair.claimed() == ["one"]
    assert not (await pair.w.renew("w", LEASE)).alive


async def test_who_takes_one_run_waits_as_long(pair: Pair) -> None:
    """D14: `take` goes by the same lease."""
    await pair.cut(for_good=True)
    assert await pair.claimed() == []
    assert await pair.v.take("one", "v") is None
    await pair.clock.advance(5)
    assert await pair.v.take("one", "v") is not None


async def test_a_renewal_ends_the_doubt(pair: Pair) -> None:
    """D14: a database that was restarted does not make everybody take over everybody."""
    await pair.cut(for_good=True)
    assert await pair.claimed() == [] and await pair.doubt() is not None
    await pair.clock.advance(4)
    assert (await pair.w.renew("w", LEASE)).alive
    assert await pair.doubt() is None
    await pair.clock.advance(20)
    assert await pair.claimed() == [] and await pair.doubt() is None  # the session is back with the renewal


async def test_a_renewal_ends_a_doubt_without_cause(pair: Pair) -> None:
    """D14: whoever looked a moment before the session had its lock."""
    await pair.server.sql(f"UPDATE {pair.w.schema}.workers SET doubt_until = $1 WHERE nonce = 'w'", pair.clock.now() + 1_000_000)
    assert (await pair.w.renew("w", LEASE)).alive
    await pair.clock.advance(2)
    assert await pair.claimed() == []


async def test_a_commit_ends_the_doubt(pair: Pair) -> None:
    """D15: who commits lives."""
    header = await pair.w.read_header("one")
    assert header is not None
    await pair.cut(for_good=True)
    assert await pair.claimed() == [] and await pair.doubt() is not None
    await pair.w.commit(step(header, 1))
    assert await pair.doubt() is None


async def test_a_session_is_made_anew_at_once(pair: Pair) -> None:
    """D14: without waiting for the next heartbeat."""
    key = number_of("worker", pair.w._parts().home, "w")
    await pair.cut(for_good=False)
    async with asyncio.timeout(30):
        while not await _locked(pair.server, key):
            await asyncio.sleep(0)
    await pair.claimed()
    assert await pair.doubt() is None


async def test_a_short_lease_is_not_made_longer_by_doubt(pair: Pair) -> None:
    """D14: it shortens a lease, never more."""
    await pair.w.renew("w", 1_000_000)
    await pair.cut(for_good=True)
    assert await pair.claimed() == [] and await pair.doubt() is None
    await pair.clock.advance(1)
    assert await pair.claimed() == ["one"]
    with pytest.raises(LeaseLost):
        await pair.w.create(new_run("two", owner="w"))


async def test_a_worker_that_could_not_be_unregistered(server: Server, schema: str) -> None:
    """S14.5, D14: it is gone all the same. Its lock is given up, so that others need not wait for its lease, and nothing stays open."""
    async with PostgresStorage(server.url(), schema=schema) as left, PostgresStorage(server.url(), schema=schema) as other:
        await left.register("gone", HOUR)
        await left.create(new_run("one", owner="gone"))
        await other.register("w", LEASE)
        await server.sql(f'ALTER TABLE "{schema}".runs RENAME TO away')
        with pytest.raises(StorageMisused):
            await left.unregister("gone")
        await server.sql(f'ALTER TABLE "{schema}".away RENAME TO runs')
        assert [run.header.run_id for run in (await other.claim("w", [CODE], 10)).runs] == ["one"]
        assert locks(other) == ["w.lock"]


async def test_a_worker_that_learns_that_it_was_condemned(server: Server, schema: str) -> None:
    """D13, D14: it never renews, so nothing stays open for it: a process that loses its lease now and then lasts for years."""
    async with PostgresStorage(server.url(), schema=schema) as lost, PostgresStorage(server.url(), schema=schema) as other:
        await lost.register("late", 1)
        await other.register("w", LEASE)
        assert (await other.claim("w", [CODE], 10)).runs == []
        assert not (await lost.renew("late", HOUR)).alive
        assert not lost._parts().locks.holds("late.lock")
        assert lost._parts().beacon._held == set()

"""The versions of the SQLite file: from each released one to this, with what is in it (S15.4, I50)."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flux.core.status import RunStatus
from flux.errors import FluxError, StorageTooNew
from flux.journal import FORMAT, encode_row
from flux.storage import NewPosting, Outgoing, Query, Schedule
from flux_storage import SQLiteStorage
from flux_storage.sqlite import queries, schema

from .runs import CODE, LEASE, end, new_run, step

pytestmark = pytest.mark.anyio

# Digests of the statements in a file of each released version. They never change.
RELEASED = {1: "c0676eeb5e1ef996", 2: "5749a95bf4c5360f"}

# What version 1 wrote of a run: every column that it had.
_RUN_1 = """
INSERT INTO flux_runs (run_id, workflow, version, shape, status, priority, created_at, updated_at, ended_at, wake_at, owner, epoch,
                       position, inbox_seq, seen_seq, input_digest, idempotency_key, waiting, blocked)
VALUES (?, 'order', '1', 's', ?, ?, 1, 1, ?, ?, ?, 1, 1, 0, 0, 'd', ?, '', ?)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


def make(path: Path, version: int) -> sqlite3.Connection:
    """A new file as the flux of that schema version made it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(queries.WAL)
    cursor = connection.cursor()
    cursor.execute(queries.BEGIN)
    for advance in schema.STEPS[:version]:
        advance(cursor)
    cursor.execute(queries.SET_VERSION, (version,))
    cursor.execute(queries.COMMIT)
    return connection


def first_version(path: Path) -> None:
    """A file of version 1 with runs: one that is due, one that waits, one in dead hands, one parked and one that ended."""
    connection = make(path, 1)
    texts = encode_row(new_run("any").records)
    for run_id, status, priority, ended_at, wake_at, owner, key, blocked in (
        ("due", "running", 0, None, 5, None, "k", ""), ("urgent", "pending", 3, None, 5, None, None, ""),
        ("waits", "suspended", 0, None, None, None, None, ""), ("held", "running", 0, None, 5, "dead", None, ""),
        ("parked", "blocked", 0, None, None, None, None, "why"), ("ended", "completed", 0, 7, None, None, None, ""),
    ):  # fmt: skip
        ref = connection.execute(_RUN_1, (run_id, status, priority, ended_at, wake_at, owner, key, blocked)).lastrowid
        connection.execute(queries.APPEND, (ref, 1, 1, 1, FORMAT, *texts))
    connection.execute(queries.REGISTER, ("dead", 9, LEASE, None))
    connection.close()


def statements(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE name LIKE 'flux_%' AND sql IS NOT NULL ORDER BY name").fetchall()
    connection.close()
    return [" ".join(row[0].split()) for row in rows]


def version_of(path: Path) -> int:
    connection = sqlite3.connect(path)
    (version,) = connection.execute(queries.VERSION).fetchone()
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return int(version)


@pytest.mark.parametrize("version", RELEASED)
def test_released_versions_never_change(path: Path, version: int) -> None:
    """I50: a file that was made by an older flux and migrated is the one that this flux makes."""
    assert sorted(RELEASED) == list(range(1, schema.VERSION + 1))
    make(path, version).close()
    digest = hashlib.sha256("\n".join(statements(path)).encode()).hexdigest()
    assert digest[:16] == RELEASED[version]


async def test_a_file_of_the_first_version_is_migrated_with_its_runs(path: Path) -> None:
    """S15.4, I50: nothing is lost, its runs are claimed, go on, end and are blocked with what is new."""
    first_version(path)
    async with SQLiteStorage(path) as storage:
        headers = {header.run_id: header for header in await storage.find(Query())}
        assert sorted(headers) == ["due", "ended", "held", "parked", "urgent", "waits"]
        assert all(header.misfits == () for header in headers.values())
        assert (headers["ended"].ended_at, headers["parked"].blocked) == (7, "why")
        await storage.register("w", LEASE)
        claimed = {run.header.run_id: run for run in (await storage.claim("w", [CODE], 9)).runs}
        assert list(claimed) == ["urgent", "due", "held"]
        assert all(run.error is None and run.rows[0].records == new_run("any").records for run in claimed.values())
        blocked = step(claimed["due"].header, 1, status=RunStatus.BLOCKED, misfits=("s",), wake_at=0, release=True)
        await storage.commit(blocked)
        posts = (Outgoing("waits", NewPosting("child", "go", "1")), Outgoing("ended", NewPosting("unwind", "go", "1")))
        children = (new_run("child", parent="urgent", delay=LEASE),)
        await storage.commit(step(claimed["urgent"].header, 1, children=children, posts=posts, fresh=True))
        assert {run.header.run_id for run in (await storage.claim("w", [CODE], 9)).runs} == {"waits", "ended"}
        assert [len(run.rows) for run in (await storage.load("urgent"), await storage.load("waits")) if run] == [1, 1]
        assert await storage.advance(Schedule("daily", "order", "1", "{}", 5))
        await storage.commit(end(claimed["held"].header, 1))
        assert (await storage.claim("w", [CODE], 9)).runs == []
        assert [run.header.misfits for run in (await storage.claim("w", [("order", "1", "t")], 9)).runs] == [("s",)]
        assert not (await storage.create(new_run("other", idempotency_key="k"))).fresh
        await storage.delete("ended")
    assert version_of(path) == schema.VERSION


async def test_a_migrated_file_is_like_a_new_one(path: Path, tmp_path: Path) -> None:
    """I50: the same tables and indexes, whichever way they came."""
    first_version(path)
    for file in (path, tmp_path / "new.db"):
        async with SQLiteStorage(file) as storage:
            await storage.now()
    assert statements(path) == statements(tmp_path / "new.db")


async def test_two_storages_migrate_one_file(path: Path) -> None:
    """I50: opened by two threads of one process at one moment; whoever comes second finds it done, and neither disturbs the other."""
    first_version(path)
    one, two = SQLiteStorage(path), SQLiteStorage(path)
    await asyncio.gather(one.__aenter__(), two.__aenter__())
    await one.register("w", LEASE)
    assert {header.run_id for header in await two.find(Query())} == {header.run_id for header in await one.find(Query())}
    assert await two.take("waits", "w") is not None
    await asyncio.gather(one.__aexit__(None, None, None), two.__aexit__(None, None, None))
    assert version_of(path) == schema.VERSION


async def test_several_processes_migrate_one_file(path: Path) -> None:
    """I50: each of them opens it, and writes to it."""
    first_version(path)
    script = (
        "import asyncio, sys\n"
        "from flux_storage import SQLiteStorage\n"
        "from tests.storage.runs import new_run\n"
        "async def main():\n"
        "    async with SQLiteStorage(sys.argv[1]) as storage:\n"
        "        await storage.create(new_run(sys.argv[2]))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "asyncio.run(main())\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(path), f"r{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for n in range(2)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0
    async with SQLiteStorage(path) as storage:
        assert {"r0", "r1", "due", "ended"} <= {header.run_id for header in await storage.find(Query())}
    assert version_of(path) == schema.VERSION


async def test_a_file_that_is_being_migrated_is_waited_for(path: Path) -> None:
    """I48, I50: and found migrated, if that is what the other did."""
    first_version(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(queries.BEGIN)
    opening = asyncio.create_task(SQLiteStorage(path).__aenter__())
    cursor = other.cursor()
    for advance in schema.STEPS[1:]:
        advance(cursor)
    cursor.execute(queries.SET_VERSION, (schema.VERSION,))
    assert not opening.done()
    cursor.execute(queries.COMMIT)
    other.close()
    storage = await opening
    assert await storage.read_header("due") is not None
    await storage.__aexit__(None, None, None)
    assert version_of(path) == schema.VERSION


async def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I50: all missing steps in one transaction, or none; the next attempt succeeds."""
    first_version(path)
    before, steps = statements(path), schema.STEPS

    def fail(cursor: sqlite3.Cursor) -> None:
        steps[1](cursor)
        cursor.execute("SELECT * FROM flux_nothing")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "STEPS", (steps[0], fail))
        with pytest.raises(FluxError, match="flux_nothing"):
            await SQLiteStorage(path).__aenter__()
    assert (version_of(path), statements(path)) == (1, before)
    async with SQLiteStorage(path) as storage:
        assert await storage.read_header("due") is not None
    assert version_of(path) == schema.VERSION


async def test_an_older_flux_refuses_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S15.4: with the version in the error, and nothing is changed, not a byte."""
    async with SQLiteStorage(path) as storage:
        await storage.create(new_run("one"))
    before = path.read_bytes()
    monkeypatch.setattr(schema, "STEPS", schema.STEPS[:1])
    monkeypatch.setattr(schema, "VERSION", 1)
    with pytest.raises(StorageTooNew, match="schema version 2, this flux knows up to 1"):
        await SQLiteStorage(path).__aenter__()
    assert path.read_bytes() == before

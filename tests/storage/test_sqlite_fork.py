"""A process that forks while a storage is open: SQLite's locks and the writer's thread stay with the parent, so the child is refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

FORKING = """
import asyncio, os, signal, sys
from flux.errors import StorageMisused
from flux_storage import SQLiteStorage
from tests.storage.runs import new_run

path, elsewhere = sys.argv[1:]
storage = SQLiteStorage(path)
loop = asyncio.new_event_loop()


async def begin():
    await storage.__aenter__()
    await storage.create(new_run("one"))
    await storage.load("one")
    await storage.changed(-1, 3600)
    return storage._parts()


async def another(path):
    async with SQLiteStorage(path) as opened:
        await opened.create(new_run("two"))
        await opened.load("two")
        return await opened.changed(0, 3600)


async def again():
    async with storage:
        pass


async def in_the_child():
    for call in (
        lambda: storage.create(new_run("two")), lambda: storage.load("one"), lambda: storage.changed(0, 3600),
        lambda: another(path), again,
    ):
        try:
            print("done:", await call())
        except StorageMisused as error:
            print("refused" if "forked" in str(error) and "spawn" in str(error) else error)
    print("elsewhere", await another(elsewhere) > 0)
    await storage.__aexit__(None, None, None)


def on_the_inherited_port(port):
    print("on the spot:", port.at_once(lambda tx: tx.row("SELECT 1"), "r"))
    try:
        port.invite(print)
    except StorageMisused as error:
        print("refused" if "forked" in str(error) else error)


opened = loop.run_until_complete(begin())
port = opened._ports[loop]
writer, changes = opened._writer, opened.changes
writer.cost = 0.0001
locks = writer._gate, changes._lock, changes._looking, storage._time
for lock in locks:  # as if other threads had them
    lock.acquire()
child = os.fork()
if child == 0:
    signal.alarm(60)
    on_the_inherited_port(port)
    asyncio.run(in_the_child())
    sys.stdout.flush()
    os._exit(0)
for lock in locks:
    lock.release()
os.waitpid(child, 0)
loop.run_until_complete(storage.create(new_run("three")))
loop.run_until_complete(storage.__aexit__(None, None, None))
"""


def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    """I1, S15.7: it does not write through its parent's connection, nor beside it, where SQLite would lose it; another file is its own.
    The parent goes on."""
    path, elsewhere = tmp_path / "orders.db", tmp_path / "other.db"
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(path), str(elsewhere)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["on the spot: None", *["refused"] * 6, "elsewhere True"]
    assert runs(path) == ["one", "three"] and runs(elsewhere) == ["two"]


def runs(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [run_id for (run_id,) in connection.execute("SELECT run_id FROM flux_runs ORDER BY created_at")]

"""How storages on one file wake one another (I25). Polling is made impossible where a bell is to be proved."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flux_storage import SQLiteStorage
from flux_storage.sqlite import changes, queries
from flux_storage.sqlite.bell import Bell, Neighbours

from .runs import LEASE, end, new_run, step

pytestmark = pytest.mark.anyio

HOUR = 3600.0

BEGIN = """
import asyncio, os, signal, sys
from flux_storage import SQLiteStorage
from flux_storage.sqlite import changes
from tests.storage.runs import new_run
changes.POLL = 3600.0
def listen():
    return asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
"""

ANSWERING = """
async def main():
    async with SQLiteStorage(sys.argv[1]) as storage:
        since = await storage.changed(-1, 3600)
        for number in range(20):
            asyncio.get_running_loop().call_soon(lambda: print("waits", flush=True))
            await storage.changed(since, 3600)
            await storage.create(new_run(f"answer-{number}"))
            since = await storage.changed(-1, 3600)
        await listen()
asyncio.run(main())
"""

WAITING = """
async def main():
    async with SQLiteStorage(sys.argv[1]) as storage:
        await storage.changed(-1, 3600)
        print("waits", flush=True)
        await listen()
asyncio.run(main())
"""

FORKING = """
async def main():
    async with SQLiteStorage(sys.argv[1]) as storage:
        await storage.changed(-1, 3600)
        if os.fork() == 0:
            print("forked", flush=True)
            sys.stdin.readline()
            os._exit(0)
        await listen()
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody polls."""
    monkeypatch.setattr(changes, "POLL", HOUR)


@pytest.fixture
async def storage(path: Path) -> AsyncIterator[SQLiteStorage]:
    async with SQLiteStorage(path) as opened:
        yield opened


@pytest.fixture
async def other(path: Path, storage: SQLiteStorage) -> AsyncIterator[SQLiteStorage]:
    async with SQLiteStorage(path) as opened:
        yield opened


@contextmanager
def process(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another one, which has said its first word."""
    child = subprocess.Popen([sys.executable, "-c", BEGIN + script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        heard(child)
        yield child
    finally:
        child.kill()
        child.communicate(timeout=60)


def heard(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    word = child.stdout.readline()
    assert word, "it has ended"
    return word


def folder(path: Path) -> Path:
    return Path(f"{path}-workers")


def bells(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder(path)) if name.endswith(".bell")) if folder(path).exists() else []


async def begun(storage: SQLiteStorage) -> tuple[int, asyncio.Task[int]]:
    """The count, and somebody who waits for the next."""
    since = await storage.changed(-1, HOUR)
    waiting = asyncio.create_task(storage.changed(since, HOUR))
    await asyncio.sleep(0)
    assert not waiting.done()
    return since, waiting


async def soon(waiting: asyncio.Task[int]) -> int:
    return await asyncio.wait_for(waiting, 20)


# --- ringing


@pytest.mark.usefixtures("deaf")
async def test_a_change_rings_who_waits_elsewhere(storage: SQLiteStorage, other: SQLiteStorage) -> None:
    """I25: again and again, in both directions, and the writer's own bell stays silent."""
    for number in range(20):
        here, there = (storage, other) if number % 2 else (other, storage)
        since, waiting = await begun(here)
        await there.create(new_run(f"run-{number}"))
        assert await soon(waiting) > since


@pytest.mark.usefixtures("deaf")
async def test_a_change_rings_another_process(storage: SQLiteStorage, path: Path) -> None:
    """I25: and its answer rings back."""
    with process(ANSWERING, path) as child:
        for number in range(20):
            since, waiting = await begun(storage)
            await storage.create(new_run(f"question-{number}"))
            while await storage.read_header(f"answer-{number}") is None:
                since = await soon(waiting)
                waiting = asyncio.create_task(storage.changed(since, HOUR))
            waiting.cancel()
            if number < 19:
                heard(child)


async def test_only_what_others_wait_for_rings(storage: SQLiteStorage, path: Path) -> None:
    """I25: a step of a run that somebody moves does not, nor does a heartbeat; nobody rings the bell of the own process."""
    await storage.changed(-1, HOUR)
    (own,) = bells(path)
    bell = Bell(folder(path))
    try:
        await storage.register("w", LEASE)
        header = (await storage.create(new_run("one", owner="w"))).header
        await storage.commit(step(header, 1))
        await storage.renew("w", LEASE)
        assert not bell.hush()
        await storage.commit(end(header, 2))
        assert bell.hush()
        await storage.create(new_run("two"))
        assert bell.hush()
        assert silent(folder(path) / own)
    finally:
        bell.close()


async def test_the_folder_is_read_again_once_it_has_changed(tmp_path: Path) -> None:
    """I25: a bell that is hung later is rung, though a folder that has long been the same is not read at each change."""
    neighbours, long_ago = Neighbours(tmp_path, ()), (1, 1)
    os.utime(tmp_path, long_ago)
    neighbours.ring()
    bell = Bell(tmp_path)
    try:
        os.utime(tmp_path, long_ago)
        neighbours.ring()
        assert not bell.hush()
        os.utime(tmp_path)
        for _ in range(2):
            neighbours.ring()
            assert bell.hush()
    finally:
        bell.close()
    neighbours.ring()


def silent(pipe: Path) -> bool:
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return not os.read(descriptor, 1)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("deaf")
async def test_an_open_transaction_of_the_application_makes_others_look_often(
    storage: SQLiteStorage, other: SQLiteStorage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract 22: nobody can ring when it commits."""
    waits = [(await begun(storage))[1], (await begun(other))[1]]
    monkeypatch.setattr(changes, "POLL", 0.001)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        await storage.within(connection).create(new_run("one"))
        assert not any(waiting.done() for waiting in waits)
        connection.execute("COMMIT")
    finally:
        connection.close()
    for waiting in waits:
        await soon(waiting)


@pytest.mark.usefixtures("deaf")
async def test_what_comes_before_the_bell_hangs_is_seen(storage: SQLiteStorage, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I25: the look comes after it; the other way round, a change between them would be found by nobody."""

    def late(directory: Path) -> Bell:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(queries.SET_CHANGES, (1,))
        connection.close()
        return Bell(directory)

    monkeypatch.setattr(changes, "Bell", late)
    assert await asyncio.wait_for(storage.changed(0, HOUR), 20) == 1


@pytest.mark.usefixtures("deaf")
async def test_rings_without_news_and_in_crowds(storage: SQLiteStorage, other: SQLiteStorage, path: Path) -> None:
    """A bell that is rung all the time is answered less often, and no change is missed for that."""
    for number in range(100):
        _, waiting = await begun(storage)
        Neighbours(folder(path), ()).ring()
        for again in range(1 + number % 3):
            await other.create(new_run(f"run-{number}-{again}"))
            Neighbours(folder(path), ()).ring()
        await soon(waiting)


@pytest.mark.usefixtures("deaf")
async def test_every_event_loop_has_its_own(storage: SQLiteStorage, other: SQLiteStorage, path: Path) -> None:
    """Contract 11: whichever looks first, all are woken; a bell goes when its loop is closed and another one comes."""
    waits, woken = threading.Semaphore(0), []

    async def wait() -> None:
        since = await storage.changed(-1, HOUR)
        asyncio.get_running_loop().call_soon(waits.release)
        woken.append(await asyncio.wait_for(storage.changed(since, HOUR), 20) > since)

    threads = [threading.Thread(target=lambda: asyncio.run(wait())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        await asyncio.to_thread(waits.acquire)
    _, waiting = await begun(storage)
    assert len(bells(path)) == 3
    await other.create(new_run("one"))
    await soon(waiting)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert woken == [True, True]
    await asyncio.to_thread(lambda: asyncio.run(storage.changed(-1, HOUR)))  # type: ignore[arg-type]
    assert len(bells(path)) == 2


# --- bells that nobody answers


async def test_the_bell_of_a_killed_process_is_removed(storage: SQLiteStorage, path: Path) -> None:
    """By whoever rings next; that of a process which lives is not."""
    with process(WAITING, path) as dead, process(WAITING, path):
        assert len(bells(path)) == 2
        dead.kill()
        dead.wait()
        await storage.create(new_run("one"))
        assert len(bells(path)) == 1


async def test_a_forked_child_does_not_answer_for_its_parent(storage: SQLiteStorage, path: Path) -> None:
    """It would keep the pipe of a dead process open."""
    with process(FORKING, path) as parent:
        await storage.create(new_run("one"))
        assert len(bells(path)) == 1
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        await storage.create(new_run("two"))
        assert bells(path) == []


@pytest.mark.usefixtures("deaf")
async def test_a_full_bell_holds_nobody_up(storage: SQLiteStorage, other: SQLiteStorage, path: Path) -> None:
    """It is that of a frozen process; once it goes on, it looks."""
    since = await storage.changed(-1, HOUR)
    (name,) = bells(path)
    descriptor = os.open(folder(path) / name, os.O_WRONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            while True:
                os.write(descriptor, bytes(4096))
    finally:
        os.close(descriptor)
    await other.create(new_run("one"))
    assert await storage.changed(since, HOUR) > since
    _, waiting = await begun(storage)
    await asyncio.sleep(0)
    await other.create(new_run("two"))
    await soon(waiting)


async def test_only_pipes_are_rung(storage: SQLiteStorage, path: Path, tmp_path: Path) -> None:
    """S15.7: what lies in the folder under such a name is neither written to nor followed."""
    treasure, pipe = tmp_path / "treasure", Bell(tmp_path)
    treasure.write_text("mine")
    folder(path).mkdir()
    (folder(path) / "pipe.bell").symlink_to(tmp_path / pipe.name)
    (folder(path) / "link.bell").symlink_to(treasure)
    (folder(path) / "hard.bell").hardlink_to(treasure)
    (folder(path) / "folder.bell").mkdir()
    await storage.create(new_run("one"))
    assert treasure.read_text() == "mine"
    assert not pipe.hush()
    assert bells(path) == ["folder.bell", "hard.bell", "link.bell", "pipe.bell"]
    pipe.close()


# --- having none


async def test_who_never_waits_has_none(path: Path) -> None:
    """A process that only moves its own runs."""
    async with SQLiteStorage(path) as storage:
        await storage.register("w", LEASE)
        header = (await storage.create(new_run("one", owner="w"))).header
        await storage.commit(end(header, 1))
        assert bells(path) == []


async def test_closing_removes_it(path: Path) -> None:
    """And lets go of its descriptor; whoever still waits is woken."""
    async with SQLiteStorage(path) as first:
        await first.now()
    before = len(os.listdir("/dev/fd"))
    async with SQLiteStorage(path) as storage:
        _, waiting = await begun(storage)
        assert len(bells(path)) == 1
    await soon(waiting)
    assert os.listdir(folder(path)) == []
    assert len(os.listdir("/dev/fd")) == before


async def test_where_there_is_no_folder_there_is_polling(storage: SQLiteStorage, other: SQLiteStorage, path: Path) -> None:
    """I25: it hurries things, and nothing hangs on it."""
    folder(path).write_text("in the way")
    _, waiting = await begun(storage)
    await other.create(new_run("one"))
    await soon(waiting)


async def test_a_bell_that_was_taken_away_leaves_polling(storage: SQLiteStorage, other: SQLiteStorage, path: Path) -> None:
    """I25: the same for one that others cannot ring."""
    _, waiting = await begun(storage)
    (name,) = bells(path)
    (folder(path) / name).unlink()
    await other.create(new_run("one"))
    await soon(waiting)


class Blind(asyncio.SelectorEventLoop):
    """An event loop that watches no descriptors of others, as one of Windows' does."""

    def add_reader(self, fd: object, callback: object, *args: object) -> None:
        raise NotImplementedError


def test_an_event_loop_that_watches_no_pipes_polls(path: Path) -> None:
    """I25: and has no bell that nobody would answer."""

    async def main() -> None:
        async with SQLiteStorage(path) as storage, SQLiteStorage(path) as other:
            _, waiting = await begun(storage)
            assert bells(path) == []
            await other.create(new_run("one"))
            await soon(waiting)

    with asyncio.Runner(loop_factory=Blind) as runner:
        runner.run(main())

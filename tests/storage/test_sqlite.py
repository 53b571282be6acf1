"""What is special to SQLite; what all storages share is in the conformance suite."""

from __future__ import annotations

import asyncio
import logging
import signal as signals
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from flux.clock import SystemClock
from flux.core.status import RunStatus
from flux.errors import InvalidArgument, LeaseLost, RunNotFound, StorageMisused, StorageTooNew, StorageUnavailable, UnreadableRun
from flux.storage import Committed, Created, Header, NewRun, Outgoing, Query, Schedule, StoredRun, WorkflowStorage
from flux_storage import SQLiteStorage
from flux_storage.sqlite import leases, open_url, queries, runs
from flux_storage.sqlite.schema import VERSION
from flux_storage.sqlite.writer import Transaction

from .runs import CODE, LEASE, end, new_run, signal, step

pytestmark = pytest.mark.anyio


class MovableClock(SystemClock):
    """The machine's clock, and what a test adds to it."""

    __slots__ = ("ahead",)

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@pytest.fixture
async def storage(path: Path) -> AsyncIterator[SQLiteStorage]:
    async with SQLiteStorage(path) as opened:
        await opened.register("w", LEASE)
        yield opened


async def held(storage: WorkflowStorage, run_id: str, worker: str = "w") -> Header:
    return (await storage.create(new_run(run_id, owner=worker))).header


async def loaded(storage: WorkflowStorage, run_id: str) -> StoredRun:
    run = await storage.load(run_id)
    assert run is not None
    return run


def sql(path: Path, text: str, *parameters: object) -> list[tuple[object, ...]]:
    """Run a statement as somebody else would."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(text, parameters).fetchall()
    finally:
        connection.close()


# --- group commit


async def test_commits_that_gather_share_a_transaction(storage: SQLiteStorage) -> None:
    """I47: what gathers while one batch is away leaves as one."""
    headers = [await held(storage, f"r{n}") for n in range(100)]
    replies = await asyncio.gather(*(storage.commit(step(header, 1)) for header in headers))
    assert len({reply.now for reply in replies}) <= 3


async def test_a_refused_commit_fails_alone(storage: SQLiteStorage) -> None:
    """S14.2, I11, I47: each operation of a batch has its own outcome."""
    one, two, three = [await held(storage, name) for name in ("one", "two", "three")]
    outcomes = await asyncio.gather(
        storage.commit(step(one, 1)),
        storage.commit(step(two, 1, epoch=7)),
        storage.commit(step(three, 1, ref=999)),
        storage.commit(step(three, 1)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Committed, LeaseLost, RunNotFound, Committed]
    assert [len((await loaded(storage, name)).rows) for name in ("one", "two", "three")] == [2, 1, 2]


async def test_an_operation_that_breaks_the_transaction_fails_alone(storage: SQLiteStorage) -> None:
    """I47: the batch is rolled back and played again one by one."""
    outcomes = await asyncio.gather(
        storage.create(new_run("one")), storage.create(new_run("\ud800")), storage.create(new_run("three")),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(outcomes[1], UnicodeEncodeError)
    assert {header.run_id for header in await storage.find(Query())} == {"one", "three"}


async def test_a_full_disk_is_unavailable_and_nothing_is_half_written(storage: SQLiteStorage, path: Path) -> None:
    """S15.3: disk full is StorageUnavailable for the one it hits; what fits is written."""
    pages = sql(path, "PRAGMA page_count")[0][0]
    assert isinstance(pages, int)
    await storage._write(lambda tx: tx.cursor.execute(f"PRAGMA max_page_count = {pages + 10}").fetchall())
    header = await held(storage, "one")
    big = step(header, 1, records=(type(step(header, 1).records[0])("pay", 1, '"' + "x" * 200_000 + '"'),))  # type: ignore[call-arg]
    outcomes = await asyncio.gather(
        storage.commit(big), storage.create(new_run("small")), return_exceptions=True
    )  # fmt: skip
    assert isinstance(outcomes[0], StorageUnavailable)
    assert "SQLITE_FULL" in str(outcomes[0])
    assert await storage.read_header("small") is not None
    assert len((await loaded(storage, "one")).rows) == 1
    await storage._write(lambda tx: tx.cursor.execute("PRAGMA max_page_count = 1000000").fetchall())
    await storage.commit(big)  # the same commit, tried again (I45)
    assert len((await loaded(storage, "one")).rows) == 2


async def test_closing_goes_on_where_its_caller_is_cancelled(path: Path) -> None:
    """Contract 1: at any moment; nothing of it is left behind, and the next who opens waits for its end."""
    for turns in range(1, 12):
        storage = SQLiteStorage(path)
        await storage.__aenter__()
        await storage.create(new_run(f"run-{turns}"))
        await storage.read_header("nobody")
        opened = storage._open
        closing = asyncio.create_task(storage.__aexit__(None, None, None))
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        async with storage:
            assert opened is not None and opened._writer is not None and not opened._writer.thread.is_alive()
            assert await storage.read_header(f"run-{turns}") is not None


async def test_a_cancelled_caller_leaves_a_whole_commit(storage: SQLiteStorage) -> None:
    """S15.6, contract 15: the caller goes, the transaction is finished, the storage goes on."""
    header = await held(storage, "one")
    calls = [asyncio.create_task(storage.commit(step(header, 1))), asyncio.create_task(storage.post("one", signal()))]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    committed, posted = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(committed, asyncio.CancelledError | Committed), "on a quick disk it is done on the spot"
    assert isinstance(posted, asyncio.CancelledError)
    await held(storage, "two")
    run = await loaded(storage, "one")
    assert len(run.rows) == 2
    assert [posting.seq for posting in run.postings] == [1]


async def test_the_same_commit_twice_is_one(storage: SQLiteStorage) -> None:
    """I45, contract 4: also when the first one gave the lease back and another worker has the run by now."""
    await storage.register("other", LEASE)
    header = await held(storage, "one")
    first = step(header, 1, release=True, wake_at=0)
    await storage.commit(first)
    await storage.commit(first)
    assert await storage.take("one", "other") is not None
    await storage.commit(first)
    with pytest.raises(LeaseLost):
        await storage.commit(step(header, 1, at=3, release=True, wake_at=0))
    assert len((await loaded(storage, "one")).rows) == 2


async def test_commits_keep_the_lease(path: Path) -> None:
    """D15: a worker that commits is alive, even when its heartbeat is not heard."""
    clock = MovableClock()
    async with SQLiteStorage(path, clock=clock) as storage:
        await storage.register("w", LEASE)
        await storage.register("other", 10 * LEASE)
        header = await held(storage, "one")
        clock.ahead = LEASE * 2 // 3
        await storage.commit(step(header, 1))
        clock.ahead = LEASE + LEASE // 3
        assert await storage.take("one", "other") is None
        clock.ahead = 2 * LEASE
        assert await storage.take("one", "other") is not None
        assert not (await storage.renew("w", LEASE)).alive
        with pytest.raises(LeaseLost):
            await storage.commit(step(header, 2))


async def test_a_condemned_worker_commits_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D13, I11: its runs are freed a bounded number at a time, and none of them takes a commit from it any more."""
    monkeypatch.setattr(leases, "SWEEP", 1)
    clock = MovableClock()
    async with SQLiteStorage(path, clock=clock) as storage:
        await storage.register("w", LEASE)
        headers = [await held(storage, name) for name in ("one", "two", "three")]
        clock.ahead = LEASE + 1
        await storage.register("other", LEASE)
        assert await storage.take("three", "other") is not None
        assert [(await loaded(storage, name)).header.owner for name in ("one", "two")] == [None, "w"]
        for header in headers:
            with pytest.raises(LeaseLost):
                await storage.commit(step(header, 1))
        names = [run.header.run_id for _ in range(3) for run in (await storage.claim("other", [CODE], 5)).runs]
        assert names == ["one", "two"]


# --- a file that others use too


class _Heard(logging.Handler):
    def __init__(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        super().__init__(logging.WARNING)
        self._loop = loop
        self._event = event

    def emit(self, record: logging.LogRecord) -> None:
        self._loop.call_soon_threadsafe(self._event.set)


async def test_a_busy_file_is_waited_for_and_told(path: Path) -> None:
    """I48: 'database is locked' reaches the log, never the caller."""
    async with SQLiteStorage(path, busy_warning=0.02) as storage:
        await storage.register("w", LEASE)
        other = sqlite3.connect(path, isolation_level=None)
        heard = asyncio.Event()
        handler = _Heard(asyncio.get_running_loop(), heard)
        logging.getLogger("flux.storage.sqlite").addHandler(handler)
        try:
            other.execute("BEGIN IMMEDIATE")
            created = asyncio.create_task(storage.create(new_run("one")))
            await heard.wait()
            assert not created.done()
            assert await storage.read_header("one") is None  # readers do not wait
            other.execute("COMMIT")
            assert (await created).fresh
        finally:
            logging.getLogger("flux.storage.sqlite").removeHandler(handler)
            other.close()


async def test_opening_waits_for_a_busy_file(path: Path) -> None:
    """I48, I50: also while it has to migrate."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("BEGIN IMMEDIATE")
    heard = asyncio.Event()
    handler = _Heard(asyncio.get_running_loop(), heard)
    logging.getLogger("flux.storage.sqlite").addHandler(handler)
    try:
        storage = SQLiteStorage(path, busy_warning=0.02)
        entering = asyncio.create_task(storage.__aenter__())
        await heard.wait()
        other.execute("COMMIT")
        await entering
        await storage.__aexit__(None, None, None)
    finally:
        logging.getLogger("flux.storage.sqlite").removeHandler(handler)
        other.close()


async def test_several_processes_open_one_new_file(path: Path) -> None:
    """I50: whoever comes second finds the schema there."""
    script = (
        "import asyncio, sys\n"
        "from flux_storage import SQLiteStorage\n"
        "from tests.storage.runs import new_run\n"
        "async def main():\n"
        "    async with SQLiteStorage(sys.argv[1]) as storage:\n"
        "        await storage.create(new_run(sys.argv[2]))\n"
        "sys.stdin.readline()\n"
        "asyncio.run(main())\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(path), f"r{n}"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(3)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors.decode()
    async with SQLiteStorage(path) as storage:
        assert {header.run_id for header in await storage.find(Query())} == {"r0", "r1", "r2"}
    assert sql(path, "SELECT version FROM flux_schema") == [(VERSION,)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


async def test_a_newer_schema_is_refused_untouched(path: Path) -> None:
    """S15.4, I50: nothing is changed, not a byte."""
    async with SQLiteStorage(path):
        pass
    sql(path, "UPDATE flux_schema SET version = 99")
    before = path.read_bytes()
    with pytest.raises(StorageTooNew, match="99"):
        await SQLiteStorage(path).__aenter__()
    assert path.read_bytes() == before


async def test_another_programs_file_is_refused_untouched(path: Path) -> None:
    """S15.4: a file that says that it belongs to another program, and one that is no database at all."""
    sql(path, "PRAGMA application_id = 4711")
    before = path.read_bytes()
    with pytest.raises(StorageMisused, match="another program"):
        await SQLiteStorage(path).__aenter__()
    assert path.read_bytes() == before
    path.write_bytes(b"not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(StorageMisused, match="NOTADB"):
        await SQLiteStorage(path).__aenter__()


async def test_a_file_may_hold_tables_of_others(path: Path) -> None:
    """Users may keep their own tables beside flux's: their ids and versions stay theirs."""
    sql(path, "CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    sql(path, "PRAGMA user_version = 7")
    async with SQLiteStorage(path) as storage:
        await storage.create(new_run("one"))
    assert sql(path, "PRAGMA user_version") == [(7,)]
    assert sql(path, "PRAGMA application_id") == [(0,)]
    strangers = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'flux_%' AND name NOT LIKE 'sqlite_%'"
    assert sql(path, strangers) == [("orders",)]


async def test_a_directory_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """The error names the file; the object can be entered again."""
    storage = SQLiteStorage(tmp_path / "no" / "orders.db")
    with pytest.raises(StorageUnavailable, match=r"orders\.db"):
        await storage.__aenter__()
    (tmp_path / "no").mkdir()
    async with storage:
        await storage.now()


async def test_changes_of_another_storage_wake_who_waits(storage: SQLiteStorage, path: Path) -> None:
    """I25: another process's create, post and release are seen, its steps are not."""
    async with SQLiteStorage(path) as other:
        since = await storage.changed(-1, 60)
        waiting = asyncio.create_task(storage.changed(since, 3600))
        await other.register("x", LEASE)
        header = await held(other, "one", "x")
        await other.commit(step(header, 1))
        assert not waiting.done()
        await other.create(new_run("two"))
        since = await waiting
        await other.commit(step(header, 2, release=True))
        assert await storage.changed(since, 3600) != since  # a change before the call is no less seen


async def test_own_changes_wake_who_waits(storage: SQLiteStorage) -> None:
    """I25: without looking at the file."""
    since = await storage.changed(-1, 60)
    waiting = [asyncio.create_task(storage.changed(since, 3600)) for _ in range(3)]
    await asyncio.sleep(0)
    await storage.create(new_run("one"))
    assert all(count > since for count in await asyncio.gather(*waiting))
    assert await storage.changed(since + 1, 0) == since + 1


# --- threads, opening and closing


async def test_a_heartbeat_thread_renews_while_the_loop_is_blocked(storage: SQLiteStorage) -> None:
    """Contract 11, D15: the thread has an event loop of its own."""
    header = await held(storage, "one")
    await storage.post("one", signal())
    replies: list[object] = []
    thread = threading.Thread(target=lambda: replies.append(asyncio.run(storage.renew("w", LEASE))))
    thread.start()
    thread.join()  # nothing else runs on this loop meanwhile
    assert [getattr(reply, "unseen", None) for reply in replies] == [("one",)]
    assert len((await storage.commit(step(header, 1))).postings) == 1


async def test_reads_may_come_from_another_loop(storage: SQLiteStorage) -> None:
    """Each event loop has its own way to the database."""
    await storage.create(new_run("one"))
    found = await asyncio.to_thread(lambda: asyncio.run(storage.read_header("one")))
    assert found is not None
    assert await storage.read_header("one") == found


async def test_an_unopened_storage_is_misused(path: Path) -> None:
    """Before and after; it stays open until the last of its users has left."""
    storage = SQLiteStorage(path)
    with pytest.raises(StorageMisused, match="not open"):
        await storage.load("one")
    async with storage:
        async with storage:
            await storage.now()
        await storage.create(new_run("one"))
    with pytest.raises(StorageMisused, match="not open"):
        await storage.commit(step(Header(*["x"] * 19), 1))  # type: ignore[arg-type]
    async with storage:
        assert await storage.read_header("one") is not None


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flux-sqlite-writer"]


@pytest.mark.parametrize("memory", [False, True])
async def test_entering_while_the_last_user_leaves(path: Path, memory: bool) -> None:
    """It is opened once, for all who come."""
    storage = SQLiteStorage(":memory:" if memory else path)
    await storage.__aenter__()
    leaving = asyncio.create_task(storage.__aexit__(None, None, None))
    entering = asyncio.create_task(storage.__aenter__())
    await leaving
    async with storage:
        await entering
        await storage.create(new_run("one"))
        await storage.__aexit__(None, None, None)
        assert len(writers()) == 1 and await storage.read_header("one") is not None
    assert writers() == []


async def test_users_in_several_event_loops(path: Path) -> None:
    """Whoever comes first and whoever leaves last, wherever that is."""
    storage = SQLiteStorage(path)
    entered, alone = threading.Event(), threading.Event()

    async def use() -> None:
        async with storage:
            entered.set()
            await asyncio.to_thread(alone.wait, 20)
            await storage.create(new_run("one"))

    async with storage:
        other = asyncio.create_task(asyncio.to_thread(asyncio.run, use()))
        await asyncio.to_thread(entered.wait, 20)
    alone.set()
    await other
    assert writers() == []
    async with storage:
        assert await storage.read_header("one") is not None


async def test_many_event_loops_open_and_close(path: Path) -> None:
    """One at a time; who was cancelled while it waited is in nobody's way."""
    storage = SQLiteStorage(path)

    async def come_and_go() -> None:
        for _ in range(20):
            given_up = asyncio.create_task(storage.__aenter__())
            await asyncio.sleep(0)
            async with storage:
                if given_up.cancel():
                    await asyncio.wait([given_up])
                await storage.now()
                assert len(writers()) == 1
            if not given_up.cancelled():
                await storage.__aexit__(None, None, None)

    await asyncio.gather(*(asyncio.to_thread(asyncio.run, come_and_go()) for _ in range(4)))
    assert writers() == []


async def test_closing_finishes_what_was_begun(path: Path) -> None:
    """What was handed over is written, and its callers are answered."""
    async with SQLiteStorage(path) as storage:
        calls = [asyncio.create_task(storage.create(new_run(f"r{n}"))) for n in range(300)]
        await asyncio.sleep(0)
    assert all(created.fresh for created in await asyncio.gather(*calls))
    assert sql(path, "SELECT count(*) FROM flux_runs") == [(300,)]


async def test_closing_an_idle_storage_does_not_wait_for_a_busy_file(path: Path) -> None:
    """Only what has to be written needs the file."""
    other = sqlite3.connect(path, isolation_level=None)
    async with SQLiteStorage(path) as storage:
        await storage.create(new_run("one"))
        other.execute("BEGIN IMMEDIATE")
    other.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writer_that_dies_leaves_nobody_waiting(path: Path) -> None:
    """S15.3: what was on its way and what is queued fails, later calls are refused, and closing works."""

    class Deadly(SystemClock):
        deadly = False

        def now(self) -> int:
            if self.deadly and threading.current_thread() is not threading.main_thread():
                raise SystemExit
            return super().now()

    clock = Deadly()
    async with SQLiteStorage(path, clock=clock) as storage:
        disk(storage, 0.1)
        clock.deadly = True
        asked = [asyncio.ensure_future(storage.create(new_run(f"r{number}"))) for number in range(600)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {StorageUnavailable, StorageMisused}
        with pytest.raises(StorageMisused):
            await storage.create(new_run("late"))
    assert sql(path, "SELECT count(*) FROM flux_runs") == [(0,)]


def test_an_interpreter_ends_without_closing(path: Path) -> None:
    """Neither the writer's nor the reader's thread keeps it alive."""
    script = (
        "import asyncio, sys\n"
        "from flux_storage import SQLiteStorage\n"
        "kept = SQLiteStorage(sys.argv[1])\n"
        "async def main():\n"
        "    await kept.__aenter__()\n"
        "    print(await kept.load('one'))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"None\n"), done.stderr.decode()


def test_the_package_does_not_need_aiosqlite() -> None:
    """Without the extra the error names it."""
    script = (
        "import sys\n"
        "sys.modules['aiosqlite'] = None\n"
        "import flux_storage\n"
        "flux_storage.MemoryStorage\n"
        "try:\n"
        "    flux_storage.SQLiteStorage\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert "pip install 'flux-durable[sqlite]'" in done.stdout.decode(), done.stderr.decode()


async def test_a_database_in_memory() -> None:
    """Everything works, nothing is kept."""
    async with SQLiteStorage(":memory:") as storage:
        await storage.register("w", LEASE)
        header = await held(storage, "one")
        await storage.commit(step(header, 1))
        assert len((await loaded(storage, "one")).rows) == 2
        assert len(await storage.read_journal("one", 1)) == 1
        since = await storage.changed(-1, 60)
        await storage.create(new_run("two"))
        assert await storage.changed(since, 60) > since
        assert [run.header.run_id for run in (await storage.claim("w", [CODE], 5)).runs] == ["two"]
    async with storage:
        assert await storage.read_header("one") is None


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////data/orders.db", "/data/orders.db"),
        ("sqlite:///orders%20of%20today.db", str(Path("orders of today.db").absolute())),
        ("sqlite:///:memory:", ":memory:"),
        ("sqlite:////data/orders.db?synchronous=normal", "/data/orders.db"),
    ],
)
def test_urls(url: str, path: str) -> None:
    """Relative with three slashes, absolute with four."""
    assert open_url(url).path == path
    assert isinstance(SQLiteStorage.from_url(url), WorkflowStorage)


@pytest.mark.parametrize(
    "url", ["sqlite://host/x.db", "sqlite:///", "sqlite:///x.db?mode=ro", "sqlite:///x.db?synchronous=off", "postgresql:///x", "sqlite://["]
)
def test_urls_that_are_refused(url: str) -> None:
    """S15.7: refused, never repaired."""
    with pytest.raises(InvalidArgument):
        open_url(url)


# --- damage


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE flux_journal SET control = '[[' WHERE ref = 1",
        "UPDATE flux_journal SET control = CAST(x'ff' AS TEXT) WHERE ref = 1",
        "UPDATE flux_journal SET format = 99 WHERE ref = 1",
        "DELETE FROM flux_journal WHERE ref = 1",
        "UPDATE flux_journal SET position = 2 WHERE ref = 1",
        "UPDATE flux_runs SET status = 'dancing' WHERE ref = 1",
        "UPDATE flux_runs SET misfits = x'7332' WHERE ref = 1",
        "UPDATE flux_runs SET parent = x'7332' WHERE ref = 1",
        "UPDATE flux_runs SET base = 2 WHERE ref = 1",
        "UPDATE flux_runs SET base = 0 WHERE ref = 1",
        "UPDATE flux_runs SET base = 'x' WHERE ref = 1",
        "UPDATE flux_inbox SET payload = CAST(x'ff' AS TEXT) WHERE ref = 1",
    ],
)
async def test_a_damaged_run_is_in_no_other_runs_way(storage: SQLiteStorage, path: Path, damage: str) -> None:
    """S15.2, contract 14: it is told with its run id; lists and claims go on."""
    await storage.create(new_run("bad"))
    await storage.create(new_run("good"))
    await storage.post("bad", signal())
    sql(path, damage)
    assert len(await storage.find(Query())) == 2
    claimed = {run.header.run_id: run.error for run in (await storage.claim("w", [CODE], 5)).runs}
    assert claimed["good"] is None
    error = (await loaded(storage, "bad")).error
    assert isinstance(error, UnreadableRun)
    assert error.run_id == "bad"
    assert isinstance(claimed["bad"], UnreadableRun)


async def test_a_deleted_run_leaves_nothing(storage: SQLiteStorage, path: Path) -> None:
    """All of a run's rows go together."""
    header = await held(storage, "one")
    await storage.post("one", signal())
    await storage.commit(end(header, 1, inbox_seq=1))
    await storage.delete("one")
    assert [sql(path, f"SELECT count(*) FROM flux_{table}") for table in ("runs", "journal", "inbox")] == [[(0,)]] * 3
    with pytest.raises(RunNotFound):
        await storage.commit(end(header, 1, inbox_seq=1))


@pytest.mark.parametrize("kind", ["children", "ticks"])
async def test_what_cannot_be_written_takes_all_with_it(storage: SQLiteStorage, kind: str) -> None:
    """I7, I41: a child that fails in the middle of the transaction leaves no row, no posting and no schedule; others go on."""
    header = await held(storage, "one")
    runs, posts = (new_run("good"), new_run("\ud800")), (Outgoing("one", signal()),)
    schedule = Schedule("daily", "order", "1", "{}", 1)
    bad = storage.commit(step(header, 1, children=runs, posts=posts)) if kind == "children" else storage.advance(schedule, runs, posts)
    outcomes = await asyncio.gather(storage.create(new_run("other")), bad, return_exceptions=True)
    assert isinstance(outcomes[1], UnicodeEncodeError)
    assert {found.run_id for found in await storage.find(Query())} == {"one", "other"}
    assert (await loaded(storage, "one")).header == header
    assert await storage.schedules() == []


@pytest.mark.parametrize("damage", ["inbox_seq = 'x'", "inbox_seq = 0", "status = 'dancing'", "wake_at = 'x'", "position = 'x'"])
async def test_a_damaged_run_is_in_no_senders_way(storage: SQLiteStorage, path: Path, damage: str) -> None:
    """S15.2, contract 14, 16: a posting that cannot be kept is dropped, and the commit that sent it is written."""
    await storage.create(new_run("bad"))
    await storage.post("bad", signal())
    header = await held(storage, "good")
    sql(path, f"UPDATE flux_runs SET {damage} WHERE run_id = 'bad'")
    await storage.commit(step(header, 1, posts=(Outgoing("bad", signal()), Outgoing("good", signal()))))
    run = await loaded(storage, "good")
    assert (run.header.position, run.header.inbox_seq) == (2, 1)


@pytest.mark.parametrize(
    "damage",
    ["next_at = 'x'", "next_at = 1.5", "next_at = -5", "revision = 'x'", "workflow = x'ff'", "rule = CAST(x'ff' AS TEXT)", "last_at = 'x'"],
)
async def test_a_damaged_schedule_is_in_no_other_ones_way(storage: SQLiteStorage, path: Path, damage: str) -> None:
    """S15.2, contract 14: what is no instant is never due, what is no revision never advances; all can be listed and forgotten."""
    for name in ("bad", "good"):
        assert await storage.advance(Schedule(name, "order", "1", "{}", 5))
    sql(path, f"UPDATE flux_schedules SET {damage} WHERE name = 'bad'")
    bad, good = await storage.schedules()
    assert isinstance(bad.workflow, str) and isinstance(bad.rule, str) and bad.last_at is None
    due = [one.name for one in await storage.schedules(due=9)]
    assert due == (["good"] if "next_at" in damage else ["bad", "good"])
    assert await storage.advance(good, [new_run("tick")])
    assert await storage.advance(bad) is ("revision" not in damage)
    assert await storage.unschedule("bad")
    assert await storage.advance(Schedule("bad", "order", "1", "{}", 5))
    assert await storage.unschedule("good")
    assert await storage.advance(Schedule("good", "order", "1", "{}", 5))
    assert not await storage.advance(good) and not await storage.advance(replace(good, revision=2))


# --- indexes


def plan(path: Path, text: str) -> str:
    return " ".join(str(row[3]) for row in sql(path, f"EXPLAIN QUERY PLAN {text}", *[None] * text.count("?")))


async def test_claims_look_through_the_index_of_claimable_runs(storage: SQLiteStorage, path: Path) -> None:
    """100,000 waiting runs must not be in the way of one that is due."""
    of = "INDEX flux_runs_claimable (workflow=? AND version=? AND begun=? AND priority"
    assert f"{of}<?)" in plan(path, queries.LEVEL)
    assert f"{of}=? AND misfits<?)" in plan(path, queries.BESIDE)
    found = f"{of}=? AND misfits=? AND wake_at>?"
    assert f"{found} AND wake_at<?)" in plan(path, queries.DUE)
    assert f"{found})" in plan(path, queries.NEXT)
    for text in (queries.LEVEL, queries.BESIDE, queries.DUE, queries.NEXT, queries.OLD, queries.UNSEEN, queries.PARENT):
        assert "TEMP B-TREE" not in plan(path, text)
        assert "SCAN" not in plan(path, text)


async def test_limits_are_looked_up_in_their_indexes(storage: SQLiteStorage, path: Path) -> None:
    """1,000,000 runs that wait, of one lane or of many, must not be in the way of a claim, a new run, or who gives one up."""
    parked = "INDEX flux_runs_parked (workflow=? AND lane=? AND parked=? AND kind"
    for text, found in (
        (queries.PARKED, f"{parked}>?)"), (queries.AHEAD, f"{parked}=?)"),
        (queries.HELD_IN, "INDEX flux_runs_lane (workflow=? AND lane=?)"),
        (queries.HELD, "INDEX flux_runs_owned (owner=? AND workflow=?)"), (queries.STARTS, "PRIMARY KEY (workflow=? AND at>?)"),
        (queries.FORGET_STARTS, "PRIMARY KEY (workflow=? AND at<?)"), (queries.LANES_OF, "INDEX flux_runs_owned (owner=?)"),
        (queries.HEADER_ONCE, "INDEX flux_runs_deduplication (workflow=? AND deduplication_key=?)"),
    ):  # fmt: skip
        told = plan(path, text)
        assert found in told, (text, told)
        if text != queries.LANES_OF:  # each lane once: a bounded number of rows
            assert "TEMP B-TREE" not in told
        assert "SCAN flux" not in told and "SCAN r" not in told, told


async def test_families_and_schedules_are_found_by_their_indexes(storage: SQLiteStorage, path: Path) -> None:
    """100,000 other runs, or journals that are long before they begin anew, must not be in the way."""
    connection = sqlite3.connect(path)
    for text, found in (
        (queries.LOAD, "sqlite_autoindex_flux_journal_1 (ref=? AND position>?)"),
        (queries.SCHEDULES_DUE, "INDEX flux_schedules_next (next_at>? AND next_at<?)"),
        (queries.SCHEDULES, "PRIMARY KEY (name>?)"),
        (queries.SCHEDULE, "PRIMARY KEY (name=?)"),
    ):
        names = ("run_id", "name", "due", "after", "limit")
        told = " ".join(str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", dict.fromkeys(names)))
        assert found in told and "SCAN" not in told and "TEMP B-TREE" not in told
    connection.close()
    told = plan(path, queries.FAMILY).replace("SCAN family", "")
    assert "INDEX flux_runs_children (parent=?)" in told and "SCAN" not in told


async def claim_work(storage: SQLiteStorage) -> int:
    """Claim one run, and give it back; returns how much SQLite had to do for the claim, in tens of its instructions."""
    tens: list[None] = []
    await storage._write(lambda tx: tx.cursor.connection.set_progress_handler(lambda: tens.append(None), 10))
    claimed = await storage.claim("w", [CODE], 1)
    await storage._write(lambda tx: tx.cursor.connection.set_progress_handler(None, 0))
    (run,) = claimed.runs
    assert (run.header.run_id, claimed.next_at) == ("fits", None)
    await storage.commit(step(run.header, run.header.position, records=(), wake_at=1, release=True))
    return len(tens)


async def test_runs_that_do_not_fit_cost_a_claim_nothing(storage: SQLiteStorage, path: Path) -> None:
    """D28: 10,000 of them, more urgent than the one that fits, are passed over as quickly as 10."""
    many = """
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
        INSERT INTO flux_runs (run_id, workflow, version, shape, status, priority, created_at, updated_at, wake_at, epoch,
                               position, inbox_seq, seen_seq, input_digest, waiting, blocked, misfits)
        SELECT ? || i, 'order', '1', 's', 'blocked', i % 2, 1, 1, 1, 1, 1, 0, 0, 'd', '', 'why', 's' FROM n
    """
    await storage.create(new_run("fits"))
    sql(path, many, 10, "few-")
    few = await claim_work(storage)
    sql(path, many, 10_000, "many-")
    assert await claim_work(storage) <= few * 1.1 + 5


async def test_a_step_touches_no_index(storage: SQLiteStorage, path: Path) -> None:
    """One row of one table changes, found by its rowid, and one is added: three pages are written, one of them of the journal's index."""
    alive = "CORRELATED SCALAR SUBQUERY 1 SEARCH w USING PRIMARY KEY (nonce=?)"
    assert plan(path, queries.STEP) == plan(path, queries.MOVE) == f"SEARCH flux_runs USING INTEGER PRIMARY KEY (rowid=?) {alive}"
    header = await held(storage, "one")
    written = Path(f"{path}-wal")
    for position in range(1, 4):
        before = written.stat().st_size
        await storage.commit(step(header, position, wake_at=0))
        assert written.stat().st_size - before == 3 * (4096 + 24)


async def test_a_step_that_waits_for_nothing_new_takes_the_short_way(storage: SQLiteStorage) -> None:
    """The update without indexes is the one that an ordinary step uses."""
    header = await held(storage, "one")
    seen: list[str] = []
    await storage._write(lambda tx: tx.cursor.connection.set_trace_callback(seen.append))
    await storage.commit(step(header, 1))
    await storage._write(lambda tx: tx.cursor.connection.set_trace_callback(None))
    updates = [text for text in seen if text.lstrip().startswith("UPDATE flux_runs")]
    assert len(updates) == 1
    assert "AND status =" in updates[0]


async def test_a_step_that_posts_takes_the_short_way(storage: SQLiteStorage) -> None:
    """Its own run is written as without posts and children; a commit that begins the journal anew takes the other way."""
    header = await held(storage, "one")
    seen: list[str] = []
    await storage._write(lambda tx: tx.cursor.connection.set_trace_callback(seen.append))
    await storage.commit(step(header, 1, posts=(Outgoing("one", signal()),), children=(new_run("two"),)))
    await storage.commit(step(header, 2, inbox_seq=1, fresh=True))
    await storage._write(lambda tx: tx.cursor.connection.set_trace_callback(None))
    updates = [text for text in seen if text.lstrip().startswith("UPDATE flux_runs")]
    assert ["AND status =" in text for text in updates] == [True, False, False]  # the step, its posting, the fresh one


async def test_lists_read_an_index_in_order(storage: SQLiteStorage, path: Path) -> None:
    """A page costs what the page holds; several statuses are merged from their own pages."""
    for n in range(6):
        await storage.create(new_run(f"r{n}", at=n, status=RunStatus.PENDING if n % 2 else RunStatus.RUNNING))
    everything = [header.run_id for header in await storage.find(Query())]
    assert everything == ["r5", "r4", "r3", "r2", "r1", "r0"]
    both = Query(statuses=[RunStatus.PENDING, RunStatus.RUNNING], limit=3, before=(4, "r4"))
    assert [header.run_id for header in await storage.find(both)] == ["r3", "r2", "r1"]
    assert [header.run_id for header in await storage.find(Query(workflow="order", limit=2))] == ["r5", "r4"]
    assert await storage.find(Query(workflow="none", statuses=[RunStatus.PENDING])) == []
    names = ("at", "run_id", "version", "limit", "workflow", "status0")
    connection = sqlite3.connect(path)
    for text in (queries.FIND, queries.FIND_WORKFLOW):
        rows = connection.execute(f"EXPLAIN QUERY PLAN {text}", dict.fromkeys(names)).fetchall()
        assert not any("TEMP B-TREE" in row[3] for row in rows)
    connection.close()


class ThreadClock(SystemClock):
    """Tells the time, and remembers which threads asked: each transaction asks once."""

    __slots__ = ("threads",)

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []

    def now(self) -> int:
        self.threads.append("loop" if threading.current_thread() is threading.main_thread() else "writer")
        return super().now()


@pytest.fixture
async def timed(path: Path) -> AsyncIterator[tuple[SQLiteStorage, ThreadClock]]:
    clock = ThreadClock()
    async with SQLiteStorage(path, clock=clock) as opened:
        await opened.register("w", LEASE)
        yield opened, clock


def disk(storage: SQLiteStorage, seconds: float) -> None:
    """As if commits had taken this long of late."""
    assert storage._open is not None and storage._open._writer is not None
    storage._open._writer.cost = seconds


async def test_a_lone_commit_on_a_quick_disk_is_done_on_the_spot(timed: tuple[SQLiteStorage, ThreadClock]) -> None:
    storage, clock = timed
    header = await held(storage, "r")
    disk(storage, 0.0001)
    clock.threads.clear()
    await storage.commit(step(header, 1))
    assert clock.threads == ["loop"]
    disk(storage, 0.1)
    await storage.commit(step(header, 2))
    assert clock.threads == ["loop", "writer"]
    assert (await loaded(storage, "r")).header.position == 3


async def test_a_commit_on_the_spot_lets_others_have_their_turn(
    timed: tuple[SQLiteStorage, ThreadClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes from others in the same turn of the loop gathers for the thread; the same run goes on for a moment, not for long."""
    storage, clock = timed
    headers = [await held(storage, f"r{n}") for n in range(20)]
    await asyncio.sleep(0)
    seconds = count(0.0, 0.0002)
    monkeypatch.setattr("flux_storage.sqlite.port.perf_counter", lambda: next(seconds))
    clock.threads.clear()
    turns: list[int] = []
    position = 0
    asyncio.get_running_loop().call_soon(lambda: turns.append(position))
    for position in range(1, 21):
        disk(storage, 0.0001)
        await storage.commit(step(headers[0], position))
    assert 3 <= turns[0] <= 7 and set(clock.threads) == {"loop"}
    await asyncio.sleep(0)
    disk(storage, 0.0001)
    clock.threads.clear()
    await asyncio.gather(*(storage.commit(step(header, 21 if header is headers[0] else 1)) for header in headers))
    assert clock.threads.count("loop") <= 2 and len(clock.threads) <= 5


async def test_a_locked_file_never_holds_up_the_loop(timed: tuple[SQLiteStorage, ThreadClock], path: Path) -> None:
    """I48: a commit that would have to wait goes to the thread, which waits."""
    storage, clock = timed
    header = await held(storage, "r")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    disk(storage, 0.0001)
    waiting = asyncio.ensure_future(storage.commit(step(header, 1)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    other.execute("COMMIT")
    other.close()
    assert (await waiting).postings == ()
    assert clock.threads[-1] == "writer"


def test_an_interrupt_while_a_commit_is_made_on_the_spot(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S15.6: the caller that waits for it is answered, it is not done a second time, and others go on."""
    done: list[str] = []
    create = runs.create

    def interrupted(tx: Transaction, run: NewRun, texts: runs.Texts) -> Created:
        done.append(run.run_id)
        if run.run_id == "second":
            signals.raise_signal(signals.SIGINT)
        return create(tx, run, texts)

    monkeypatch.setattr(runs, "create", interrupted)
    for name in ("SWIFT", "SLUGGISH"):
        monkeypatch.setattr(f"flux_storage.sqlite.writer.{name}", 3600.0)

    async def two(storage: SQLiteStorage) -> list[asyncio.Task[Created]]:
        await storage.__aenter__()
        disk(storage, 0.0001)
        return [asyncio.ensure_future(storage.create(new_run(run_id))) for run_id in ("first", "second")]

    async def the_rest(asked: list[asyncio.Task[Created]]) -> list[Created | BaseException]:
        outcomes = await asyncio.gather(*asked, storage.create(new_run("third")), return_exceptions=True)
        await storage.__aexit__(None, None, None)
        return outcomes

    storage = SQLiteStorage(path)
    loop = asyncio.new_event_loop()
    try:
        asked = loop.run_until_complete(two(storage))
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        first, second, third = loop.run_until_complete(the_rest(asked))
    finally:
        loop.close()
    assert isinstance(first, Created) and isinstance(second, StorageUnavailable) and isinstance(third, Created)
    assert done == ["first", "second", "third"]
    assert sql(path, "SELECT run_id FROM flux_runs ORDER BY run_id") == [("first",), ("third",)]


async def test_a_refusal_on_the_spot_is_the_callers_alone(timed: tuple[SQLiteStorage, ThreadClock]) -> None:
    """Contract 3: as in the thread, an operation that is refused has written nothing."""
    storage, _ = timed
    header = await held(storage, "r")
    disk(storage, 0.0001)
    with pytest.raises(LeaseLost):
        await storage.commit(step(header, 1, epoch=7))
    await storage.commit(step(header, 1))
    assert (await loaded(storage, "r")).header.position == 2


# --- a busy event loop


async def test_a_busy_neighbour_does_not_starve_the_writer(storage: SQLiteStorage) -> None:
    """I18: a coroutine that keeps the loop busy in small pieces leaves commits and reads a way."""
    headers = [await held(storage, f"r{n}") for n in range(10)]
    turns = 0

    async def carry_on(header: Header) -> None:
        for position in range(1, 11):
            await storage.commit(step(header, position))
        await storage.read_header(header.run_id)

    async def neighbour(work: asyncio.Future[object]) -> None:
        nonlocal turns
        while not work.done() and turns < 1500:
            turns += 1
            until = time.perf_counter() + 0.002
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    work = asyncio.gather(*map(carry_on, headers))
    await neighbour(work)
    assert work.done()
    await work

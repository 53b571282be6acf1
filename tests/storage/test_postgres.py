"""What is special to PostgreSQL; what all storages share is in the conformance suite."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flux.core.records import StepCompleted
from flux.core.status import RunStatus
from flux.errors import InboxFull, InvalidArgument, LeaseLost, RunNotFound, StorageMisused, StorageTooNew, StorageUnavailable, UnreadableRun
from flux.storage import Committed, Header, NewPosting, Posted, Query, StoredRun, WorkflowStorage
from flux_storage import PostgresStorage
from flux_storage.postgres import link, open_url
from flux_storage.postgres.queries import SETTINGS, Queries

from ..postgres import Server, Wire, fresh_schema
from .following_postgres import astray
from .runs import LEASE, end, new_run, signal, step

pytestmark = pytest.mark.anyio

CODE = ("order", "1", "s")


async def held(storage: WorkflowStorage, run_id: str, worker: str = "w") -> Header:
    return (await storage.create(new_run(run_id, owner=worker))).header


async def loaded(storage: WorkflowStorage, run_id: str) -> StoredRun:
    run = await storage.load(run_id)
    assert run is not None
    return run


async def patiently(call: Any) -> Any:
    return await asyncio.wait_for(call, 30)


# --- what it is called with


@pytest.mark.parametrize(
    "url",
    ["postgresql://u@h/d", "postgres://u:p%40@h1:5432,[::1]:5433/d", "postgresql:///d", "postgresql://u@h/d?flux_schema=mine&host=/tmp"],
)
def test_urls(url: str) -> None:
    """Both schemes, and the schema as an option."""
    assert open_url(url).schema == ("mine" if "mine" in url else "flux")
    assert isinstance(open_url(url), WorkflowStorage)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://h/d", "postgresql://[", "postgresql://h:port/d", "postgresql://h/d#x", "postgresql://h/d?flux_schema=",
        "postgresql://h/d?flux_schema=a&flux_schema=b", "postgresql://h/d?flux_schema=a%22b", "postgresql://h/d\0",
    ],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    """S15.7: refused, never repaired."""
    with pytest.raises(InvalidArgument):
        open_url(url)


@pytest.mark.parametrize("name", ["", "Flux", "1a", 'a"b', "a b", "a;b", "a" * 32, None, "é"])
def test_schema_names_that_are_refused(name: Any) -> None:
    """S15.7: the name of the schema is the only text that becomes part of SQL."""
    with pytest.raises(InvalidArgument):
        PostgresStorage("postgresql://h/d", schema=name)


def test_a_database_is_needed() -> None:
    """A URL or a pool."""
    with pytest.raises(InvalidArgument, match="URL"):
        PostgresStorage()


def test_no_password_is_shown() -> None:
    """Neither in the representation, which logs hold, nor in the refusal of a URL."""
    assert "secret" not in repr(PostgresStorage("postgresql://user:secret@host/db"))
    with pytest.raises(InvalidArgument) as caught:
        open_url("postgresq://user:secret@host/db")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["select", "user", "a" * 31, "_"])
async def test_any_accepted_name_is_a_schema(server: Server, name: str) -> None:
    """Words of SQL too; another schema is another namespace (D24)."""
    async with PostgresStorage(server.url(), schema=name) as storage, PostgresStorage(server.url(), schema=fresh_schema()) as other:
        await storage.create(new_run("one"))
        since = await storage.changed(-1, 60)
        await storage.create(new_run("two"))
        assert await patiently(storage.changed(since, 60)) != since
        assert await other.read_header("one") is None


# --- opening


async def test_several_open_one_new_schema(server: Server, schema: str) -> None:
    """I50: whoever comes second finds the tables there."""
    storages = [PostgresStorage(server.url(), schema=schema) for _ in range(6)]
    try:
        await asyncio.gather(*(storage.__aenter__() for storage in storages))
        await asyncio.gather(*(storage.create(new_run(f"r{n}")) for n, storage in enumerate(storages)))
        assert len(await storages[0].find(Query())) == 6
        assert len({storage._parts().home for storage in storages}) == 1
    finally:
        for storage in storages:
            await storage.__aexit__(None, None, None)
    assert [row[0] for row in await server.sql(f"SELECT version FROM {schema}.flux_schema")] == [1]


async def _fingerprint(server: Server, schema: str) -> list[Any]:
    tables = await server.sql(
        "SELECT oid, relname, relfilenode FROM pg_class WHERE relnamespace = to_regnamespace($1) ORDER BY oid", schema
    )
    return [*map(tuple, tables), *map(tuple, await server.sql(f"SELECT xmin::text, ctid::text, * FROM {schema}.flux_schema"))]


async def test_a_newer_schema_is_refused_untouched(server: Server, schema: str) -> None:
    """S15.4, I50."""
    async with PostgresStorage(server.url(), schema=schema):
        pass
    await server.sql(f"UPDATE {schema}.flux_schema SET version = 99")
    before = await _fingerprint(server, schema)
    with pytest.raises(StorageTooNew, match="99"):
        await PostgresStorage(server.url(), schema=schema).__aenter__()
    assert await _fingerprint(server, schema) == before


@pytest.mark.parametrize("table", ["orders (id int)", "flux_schema (version text)", "flux_schema (version int, home text)"])
async def test_a_schema_of_others_is_refused_untouched(server: Server, schema: str, table: str) -> None:
    """S15.4: flux wants a schema of its own, and takes no table for its own by the name alone."""
    await server.sql(f"CREATE SCHEMA {schema}")
    await server.sql(f"CREATE TABLE {schema}.{table}")
    with pytest.raises(StorageMisused, match="did not make"):
        await PostgresStorage(server.url(), schema=schema).__aenter__()
    assert len(await server.sql("SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'", schema)) == 1


async def test_an_empty_schema_that_somebody_made_will_do(server: Server, schema: str) -> None:
    """An administrator may make it, and grant no more than it needs: no superuser, no right to make schemas."""
    await server.sql(f"CREATE SCHEMA {schema}")
    await server.sql(f"CREATE ROLE plain_{schema} LOGIN")
    await server.sql(f"GRANT ALL ON SCHEMA {schema} TO plain_{schema}")
    url = server.url().replace("//flux@", f"//plain_{schema}@")
    async with PostgresStorage(url, schema=schema) as storage:
        await storage.register("w", LEASE)
        await storage.commit(step(await held(storage, "one"), 1))
        assert (await storage.renew("w", LEASE)).alive
    with pytest.raises(StorageMisused, match="permission denied"):
        await PostgresStorage(url, schema=f"{schema}x").__aenter__()


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S15.3: after some tries; the object can be entered again."""
    monkeypatch.setattr(link, "PAUSES", (0.0,))
    storage = PostgresStorage(f"postgresql://u@/d?host={tmp_path}")
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="schema flux"):
            await storage.__aenter__()


async def test_a_database_that_is_not_there_is_misused(server: Server) -> None:
    """At once: trying again does not make it."""
    with pytest.raises(StorageMisused, match="nowhere"):
        await PostgresStorage(server.url().replace("/postgres", "/nowhere")).__aenter__()


async def test_an_unopened_storage_is_misused(server: Server, schema: str) -> None:
    """Before and after; it stays open until the last of its users has left."""
    storage = PostgresStorage(server.url(), schema=schema)
    with pytest.raises(StorageMisused, match="not open"):
        await storage.load("one")
    async with storage:
        async with storage:
            await storage.now()
        await storage.create(new_run("one"))
    with pytest.raises(StorageMisused, match="not open"):
        await storage.find(Query())
    async with storage:
        assert await storage.read_header("one") is not None


async def test_closing_finishes_what_was_begun(server: Server, schema: str) -> None:
    """What was handed over is written, and its callers are answered."""
    async with PostgresStorage(server.url(), schema=schema) as storage:
        calls = [asyncio.create_task(storage.create(new_run(f"r{n}"))) for n in range(300)]
        await asyncio.sleep(0)
    assert all(created.fresh for created in await asyncio.gather(*calls))
    assert (await server.sql(f"SELECT count(*) FROM {schema}.runs"))[0][0] == 300
    assert await server.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE $1 AND pid <> pg_backend_pid()", f'%"{schema}"%') == []


def test_an_interpreter_ends_without_closing(server: Server, schema: str) -> None:
    """The thread of the heartbeats does not keep it alive."""
    script = (
        "import asyncio, sys\n"
        "from flux_storage import PostgresStorage\n"
        "kept = PostgresStorage(sys.argv[1], schema=sys.argv[2])\n"
        "async def main():\n"
        "    await kept.__aenter__()\n"
        "    await kept.register('w', 1000000)\n"
        "    print(await kept.load('one'))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, server.url(), schema], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"None\n"), done.stderr.decode()


def test_the_package_does_not_need_asyncpg() -> None:
    """Without the extra the error names it."""
    script = (
        "import sys\n"
        "sys.modules['asyncpg'] = None\n"
        "import flux_storage\n"
        "flux_storage.MemoryStorage\n"
        "try:\n"
        "    flux_storage.PostgresStorage\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert "pip install 'flux-durable[postgres]'" in done.stdout.decode(), done.stderr.decode()


# --- group commit


async def test_commits_that_gather_share_a_transaction(storage: PostgresStorage, server: Server, schema: str) -> None:
    """I47: what gathers while one batch is away leaves as one."""
    headers = [created.header for created in await asyncio.gather(*(storage.create(new_run(f"r{n}", owner="w")) for n in range(100)))]
    await asyncio.gather(*(storage.commit(step(header, 1)) for header in headers))
    for position in (1, 2):
        rows = await server.sql(f"SELECT count(DISTINCT xmin::text), count(*) FROM {schema}.journal WHERE position = $1", position)
        assert rows[0][1] == 100 and rows[0][0] <= 3


async def test_a_refused_commit_fails_alone(storage: PostgresStorage) -> None:
    """S14.2, I11, I47: each operation of a batch has its own outcome."""
    one, two, three = [await held(storage, name) for name in ("one", "two", "three")]
    outcomes = await asyncio.gather(
        storage.commit(step(one, 1)), storage.commit(step(two, 1, epoch=7)), storage.commit(step(three, 1, ref=999_999)),
        storage.commit(step(three, 1)), storage.commit(step(three, 1)), return_exceptions=True,
    )  # fmt: skip
    assert [type(outcome) for outcome in outcomes] == [Committed, LeaseLost, RunNotFound, Committed, Committed]
    assert [len((await loaded(storage, name)).rows) for name in ("one", "two", "three")] == [2, 1, 2]


async def test_an_operation_that_breaks_the_statement_fails_alone(storage: PostgresStorage) -> None:
    """I47: the batch is sent again one by one; also where the run's own rows are what is wrong (contract 14)."""
    headers = [await held(storage, name) for name in ("one", "two", "three", "four")]
    o = storage._parts()
    await o.link.row(f'INSERT INTO "{storage.schema}".journal VALUES ($1, 2, 9, 9, 9, $2, $2) RETURNING 1', headers[3].ref, "x")
    outcomes = await asyncio.gather(
        storage.commit(step(headers[0], 1)), storage.commit(step(headers[1], 1, blocked="\0")), storage.commit(step(headers[2], 1)),
        storage.commit(step(headers[3], 1)), return_exceptions=True,
    )  # fmt: skip
    assert [type(outcome) for outcome in outcomes] == [Committed, asyncpg.CharacterNotInRepertoireError, Committed, StorageMisused]
    assert isinstance((await loaded(storage, "four")).error, UnreadableRun)


async def test_large_commits_do_not_ride_together(storage: PostgresStorage, server: Server, schema: str) -> None:
    """S15.7: a statement holds a megabyte, or one commit that is larger."""
    headers = [await held(storage, f"r{n}") for n in range(6)]
    big = (StepCompleted("pay", 1, '"' + "x" * 700_000 + '"'),)
    await asyncio.gather(*(storage.commit(step(header, 1, records=big)) for header in headers))
    rows = await server.sql(f"SELECT count(DISTINCT xmin::text), sum(length(payload)) FROM {schema}.journal WHERE position = 2")
    assert tuple(rows[0]) == (6, 6 * 700_002)


async def test_a_step_touches_no_index(server: Server, schema: str) -> None:
    """An ordinary step changes no indexed column: all updates but the first, which makes the run running, are heap-only."""
    async with PostgresStorage(server.url(), schema=schema) as storage:
        await storage.register("w", LEASE)
        header = (await storage.create(new_run("one", owner="w", status=RunStatus.PENDING))).header
        for position in range(1, 51):
            await storage.commit(step(header, position, wake_at=0))

    async def statistics() -> tuple[int, int]:
        text = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = 'runs'"
        return tuple((await server.sql(text, schema))[0])  # type: ignore[return-value]

    async with asyncio.timeout(30):
        while (found := await statistics())[0] < 50:
            pass  # a session tells its statistics when it ends
    assert found == (50, 49)


async def test_a_crowd_of_senders(server: Server, schema: str) -> None:
    """Contract 7, I22, I25: on many connections, beside a holder who commits all the time: every posting has its number."""
    async with AsyncExitStack() as stack:
        storages = [await stack.enter_async_context(PostgresStorage(server.url(), schema=schema)) for _ in range(4)]
        await storages[0].register("w", LEASE)
        header = await held(storages[0], "one")
        senders = [storages[n % 4].post("one", signal(signal_id=f"id-{n % 100}")) for n in range(200)]
        sending = asyncio.ensure_future(asyncio.gather(*senders))
        seen, position = 0, 1
        while not sending.done() or seen < 100:
            reply = await storages[0].commit(step(header, position, inbox_seq=seen))
            seen = reply.postings[-1].seq if reply.postings else seen
            position += not reply.postings
        replies = await sending
        assert sorted(reply.seq for reply in replies if reply.fresh) == list(range(1, 101))
        assert [posting.seq for posting in (await loaded(storages[0], "one")).postings] == list(range(1, 101))


async def test_a_crowd_of_senders_keeps_to_the_limit(server: Server, schema: str) -> None:
    """S15.7: what is counted is as new as the lock."""
    async with AsyncExitStack() as stack:
        storages = [await stack.enter_async_context(PostgresStorage(server.url(), schema=schema)) for _ in range(4)]
        await storages[0].create(new_run("one"))
        sent = [storages[n % 4].post("one", NewPosting("signal", "go", "1", limit=10)) for n in range(80)]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        assert sorted(outcome.seq for outcome in outcomes if isinstance(outcome, Posted)) == list(range(1, 11))
        assert {type(outcome) for outcome in outcomes} == {Posted, InboxFull}


async def test_a_poster_takes_no_blocked_run_that_it_holds(storage: PostgresStorage) -> None:
    """Contract 7: a `taker` that holds the run already takes nothing, whatever the run is."""
    header = await held(storage, "one")
    await storage.commit(step(header, 1, status=RunStatus.BLOCKED, blocked="why", wake_at=None))
    assert (await storage.post("one", signal(), taker="w")).run is None


async def test_a_poster_has_the_run_at_once(storage: PostgresStorage) -> None:
    """Contract 7, 13: with one statement, as `take` would give it: its holder has been told of the posting, and it waits nowhere."""
    for name, lane in (("one", ""), ("two", "k")):
        await storage.create(new_run(name, lane=lane, workflow=name))
        await storage.post(name, signal())
        posted = await storage.post(name, signal(), taker="w")
        assert posted.run == await storage.load(name) and [posting.seq for posting in posted.run.postings] == [1, 2]
        assert (posted.run.header.owner, posted.run.header.epoch, posted.header) == ("w", 1, posted.run.header)
        assert (await storage.claim("w", [(name, "1", "s")], 5)).runs == []
    assert (await storage.renew("w", LEASE)).unseen == ()
    assert await astray(storage) == []


async def test_who_holds_a_run_hears_of_a_posting_at_once(storage: PostgresStorage, server: Server, schema: str) -> None:
    """Contract 13: also where the poster had hoped to take it."""
    async with PostgresStorage(server.url(), schema=schema) as other:
        await other.register("v", LEASE)
        await held(other, "one", "v")
        since = await other.changed(-1, 60)
        assert (await storage.post("one", signal(), taker="w")).run is None
        assert await patiently(other.changed(since, 60)) != since
        assert (await other.renew("v", LEASE)).unseen == ("one",)


async def test_an_end_is_told_where_somebody_listens(storage: PostgresStorage, server: Server, schema: str) -> None:
    """Contract 13: nobody else, no notification; a session that has ended without a word is forgotten by the next."""
    listeners = f"SELECT token FROM {schema}.listeners"
    heard: list[object] = []
    stranger = await asyncpg.connect(server.url())
    await stranger.add_listener(f"flux_{schema}", lambda *said: heard.append(said[3]))
    await storage.changed(-1, 60)
    headers = [await held(storage, f"r{n}") for n in range(4)]
    await storage.commit(step(headers[0], 1))  # looks after the lease
    await storage.commit(end(headers[1], 1))
    await stranger.execute("SELECT 1")
    assert heard == []
    async with PostgresStorage(server.url(), schema=schema) as other:
        since = await other.changed(-1, 60)
        await storage.commit(end(headers[2], 1))
        assert await patiently(other.changed(since, 60)) != since
        await stranger.execute("SELECT 1")
        assert heard == [storage._parts().token]
        assert len(await server.sql(listeners)) == 2
    await server.sql(f"INSERT INTO {schema}.listeners VALUES ('gone', 7)")
    assert len(await server.sql(listeners)) == 2
    async with PostgresStorage(server.url(), schema=schema) as other:
        await other.changed(-1, 60)
        assert {row[0] for row in await server.sql(listeners)} == {storage._parts().token, other._parts().token}
    await stranger.close()


# --- connections that are lost


async def test_a_commit_whose_answer_is_lost_is_found(wired: tuple[PostgresStorage, Wire]) -> None:
    """I45, contract 4: written once, and the caller is told so; alone, among others, and where it gave the lease back."""
    storage, wire = wired
    headers = [await held(storage, f"r{n}") for n in range(5)]
    wire.lose_answers("moved AS", 2)
    assert (await storage.commit(step(headers[0], 1))).postings == ()
    assert wire.lost
    assert len((await loaded(storage, "r0")).rows) == 2
    wire.lose_answers("moved AS")
    await asyncio.gather(*(storage.commit(step(header, 1)) for header in headers[1:]))
    assert wire.lost
    wire.lose_answers("moved AS")
    await storage.commit(end(headers[1], 2))
    assert wire.lost
    assert [len((await loaded(storage, f"r{n}")).rows) for n in range(5)] == [2, 3, 2, 2, 2]


async def test_a_run_that_was_made_without_an_answer_is_found(wired: tuple[PostgresStorage, Wire]) -> None:
    """Contract 2, I39: it is this call's own, and fresh."""
    storage, wire = wired
    wire.lose_answers("made AS")
    created = await storage.create(new_run("one", owner="w", idempotency_key="k"))
    assert wire.lost and created.fresh and created.header == await storage.read_header("one")
    await storage.commit(step(created.header, 1))
    assert not (await storage.create(new_run("one", owner="w"))).fresh


@pytest.mark.parametrize("signal_id", [None, "a"])
async def test_a_posting_whose_answer_is_lost_is_kept_once(wired: tuple[PostgresStorage, Wire], signal_id: str | None) -> None:
    """I22, contract 7: with a signal_id or without one."""
    storage, wire = wired
    await storage.create(new_run("one"))
    wire.lose_answers("verdict AS")
    posted = await storage.post("one", signal(signal_id=signal_id), taker="w")
    assert wire.lost and (posted.seq, posted.fresh) == (1, True)
    assert posted.run == await storage.load("one") and len(posted.run.postings) == 1


async def test_a_posting_that_waited_when_its_connection_broke_is_kept_once(
    wired: tuple[PostgresStorage, Wire], server: Server, schema: str
) -> None:
    """I22, I45: the server goes on with the first try, which waits for somebody's lock, and the second comes to wait behind it."""
    storage, wire = wired
    await storage.create(new_run("one"))
    holder = await asyncpg.connect(server.url())
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(f'SELECT FROM "{schema}".runs FOR UPDATE')
    posting = asyncio.create_task(storage.post("one", signal()))
    await waiting_for_locks(server, 1)
    wire.cut()
    await waiting_for_locks(server, 2)
    await transaction.rollback()
    assert (await posting).seq == 1
    assert [one.seq for one in (await loaded(storage, "one")).postings] == [1]
    await holder.close()


async def waiting_for_locks(server: Server, number: int) -> None:
    """So many sessions wait for one."""
    while (await server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))[0][0] < number:
        await asyncio.sleep(0)


async def test_a_lease_whose_answer_is_lost_is_found(wired: tuple[PostgresStorage, Wire]) -> None:
    """I15: no run stays behind with a worker that does not know of it."""
    storage, wire = wired
    for n in range(4):
        await storage.create(new_run(f"r{n}"))
    wire.lose_answers("UPDATE", 2)
    taken = await storage.take("r0", "w")
    assert taken is not None and taken.header.epoch == 1
    wire.lose_answers("leased AS")
    claimed = await storage.claim("w", [CODE], 2)
    assert wire.lost
    assert [run.header.run_id for run in claimed.runs] == ["r1", "r2"]
    assert (await storage.read_header("r3") or claimed.runs[0].header).owner is None
    assert await storage.take("r0", "w") is None  # another call, which finds the run held


async def test_forgetting_whose_answer_is_lost(wired: tuple[PostgresStorage, Wire]) -> None:
    """Gone is gone: the second try of the same call finds nothing to complain about."""
    storage, wire = wired
    await storage.commit(end(await held(storage, "one"), 1))
    wire.lose_answers("DELETE")
    await storage.delete("one")
    assert wire.lost
    with pytest.raises(RunNotFound):
        await storage.delete("one")


async def test_heartbeats_outlive_their_connection(wired: tuple[PostgresStorage, Wire]) -> None:
    """D13: a renewal is sent again."""
    storage, wire = wired
    wire.lose_answers("extended AS")
    assert (await storage.renew("w", LEASE)).alive
    assert wire.lost


async def test_a_commit_under_way_when_its_session_is_ended(storage: PostgresStorage, server: Server) -> None:
    """S15.3: the server's administrator ends the session while the commit waits for a lock; it is sent again."""
    header = await held(storage, "one")
    other = await asyncpg.connect(server.url())
    async with other.transaction():
        await other.execute(f"SELECT 1 FROM {storage.schema}.runs WHERE run_id = 'one' FOR UPDATE")
        committing = asyncio.create_task(storage.commit(step(header, 1)))
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
        async with asyncio.timeout(30):
            while not (found := await server.sql(waiting, f'%"{storage.schema}".runs r SET%')):
                assert not committing.done()
        await server.sql("SELECT pg_terminate_backend($1)", found[0][0])
    await other.close()
    await patiently(committing)
    assert len((await loaded(storage, "one")).rows) == 2


async def test_a_server_that_crashes_and_comes_back(storage: PostgresStorage, server: Server) -> None:
    """S15.3, I22: what was acknowledged is there, what was under way is written once, and nobody loses a lease by it."""
    header = await held(storage, "one")
    position, crashed = 1, asyncio.Event()

    async def go_on() -> int:
        nonlocal position
        while not crashed.is_set() or position < 20:
            try:
                await storage.commit(step(header, position))
            except StorageUnavailable:
                continue  # the engine sends the same commit again
            position += 1
        return position

    def crash() -> None:
        server.stop("immediate")
        server.start()

    steps = asyncio.create_task(go_on())
    async with asyncio.timeout(30):
        while position < 5:
            await asyncio.sleep(0)
    await asyncio.to_thread(crash)
    crashed.set()
    done = await patiently(steps)
    assert [row.position for row in (await loaded(storage, "one")).rows] == list(range(1, done + 1))
    assert (await storage.renew("w", LEASE)).alive
    async with PostgresStorage(server.url(), schema=storage.schema) as other:
        await other.register("v", LEASE)
        assert (await other.claim("v", [CODE], 5)).runs == []
    await storage.commit(step(header, done))


async def test_a_server_that_stays_away_is_unavailable(storage: PostgresStorage, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """S15.3: every verb says so, the wait for changes is a poll meanwhile, and all goes on when it is back."""
    monkeypatch.setattr(link, "PAUSES", (0.0, 0.01))
    header = await held(storage, "one")
    since = await storage.changed(-1, 60)
    await asyncio.to_thread(server.stop)
    try:
        calls = [
            storage.commit(step(header, 1)), storage.create(new_run("two")), storage.post("one", signal()), storage.load("one"),
            storage.take("one", "w"), storage.claim("w", [CODE], 1), storage.renew("w", LEASE), storage.register("x", LEASE),
            storage.purge(0, 1), storage.now(), storage.schedules(), storage.unschedule("daily"), storage.transaction().__aenter__(),
            storage.commit(step(header, 1, fresh=True)),
        ]  # fmt: skip
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * len(calls)
        since = await patiently(storage.changed(since, 3600))
        assert await patiently(storage.changed(since, 3600)) != since
    finally:
        await asyncio.to_thread(server.start)
    await storage.commit(step(header, 1))
    assert (await storage.renew("w", LEASE)).alive
    since = await patiently(storage.changed(-1, 60))
    waiting = asyncio.create_task(storage.changed(since, 3600))
    await storage.create(new_run("two"))
    assert await patiently(waiting) != since


# --- notifications


async def test_changes_of_another_storage_wake_who_waits(storage: PostgresStorage, server: Server) -> None:
    """I25: another process's create, post and release are told, its steps are not."""
    told: list[str] = []
    listener = await asyncpg.connect(server.url())
    await listener.add_listener(f"flux_{storage.schema}", lambda *heard: told.append(heard[3]))
    async with PostgresStorage(server.url(), schema=storage.schema) as other:
        since = await storage.changed(-1, 60)
        waiting = asyncio.create_task(storage.changed(since, 3600))
        await other.register("x", LEASE)
        header = await held(other, "one", "x")
        await other.commit(step(header, 1))
        await other.renew("x", LEASE)
        await listener.fetch("SELECT 1")
        assert (told, waiting.done()) == ([], False)
        for act in (
            lambda: other.create(new_run("two")), lambda: other.post("one", signal()),
            lambda: other.commit(step(header, 2, inbox_seq=1, release=True)), lambda: other.unregister("x"),
        ):  # fmt: skip
            told.clear()
            await act()
            await listener.fetch("SELECT 1")
            assert len(told) == 1
            assert await patiently(waiting) != since
            since = await waiting
            waiting = asyncio.create_task(storage.changed(since, 3600))
            await asyncio.sleep(0)
        waiting.cancel()
    await listener.close()


async def test_a_lost_notification_connection_is_a_change(storage: PostgresStorage, server: Server) -> None:
    """I25: nobody knows what was missed, so who waits looks; then it hears again."""
    since = await storage.changed(-1, 60)
    waiting = asyncio.create_task(storage.changed(since, 3600))
    await asyncio.sleep(0)
    await server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE $1", f"LISTEN%flux_{storage.schema}%")
    since = await patiently(waiting)
    since = await patiently(storage.changed(-1, 60))
    async with PostgresStorage(server.url(), schema=storage.schema) as other:
        waiting = asyncio.create_task(storage.changed(since, 3600))
        await asyncio.sleep(0)
        await other.create(new_run("one"))
        assert await patiently(waiting) != since


# --- time


async def test_time_is_the_servers(storage: PostgresStorage, server: Server) -> None:
    """D16, contract 12: one time for all machines; it never goes back, whatever becomes of the server's clock."""
    text = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    before = (await server.sql(text))[0][0]
    created = await storage.create(new_run("one"))
    after = (await server.sql(text))[0][0]
    assert before <= created.now <= after and created.header.wake_at == created.now
    ahead = storage._parts().saw(after + 3_600_000_000)  # as if the server that was asked before had been an hour ahead
    replies = [
        await storage.now(), (await storage.create(new_run("two"))).now, (await storage.post("one", signal())).now,
        (await storage.renew("w", LEASE)).now, (await storage.claim("w", [CODE], 5)).now, await storage.register("v", LEASE),
    ]  # fmt: skip
    assert replies == [ahead] * len(replies)


# --- a pool of the caller's


async def test_a_pool_of_the_callers(server: Server, schema: str) -> None:
    """Ordinary work borrows from it; it stays as it was, and open."""
    async with asyncpg.create_pool(server.url(), min_size=1, max_size=2) as pool:
        async with PostgresStorage(pool=pool, schema=schema) as storage:
            await storage.register("w", LEASE)
            headers = [
                created.header for created in await asyncio.gather(*(storage.create(new_run(f"r{n}", owner="w")) for n in range(20)))
            ]
            await asyncio.gather(*(storage.commit(step(header, 1)) for header in headers))
            since = await storage.changed(-1, 60)
            await storage.create(new_run("free"))
            assert await patiently(storage.changed(since, 60)) != since
            assert [run.header.run_id for run in (await storage.claim("w", [CODE], 5)).runs] == ["free"]
            await asyncio.to_thread(lambda: asyncio.run(storage.renew("w", LEASE)))
            outcome = await asyncio.gather(storage.commit(step(headers[0], 7)), return_exceptions=True)
            assert isinstance(outcome[0], LeaseLost)
            await pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
            )
            await storage.commit(step(headers[0], 2))
            assert (await storage.renew("w", LEASE)).alive
        assert await pool.fetchval("SHOW enable_seqscan") == "on"
        assert pool.get_idle_size() == pool.get_size()


# --- what is looked through


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "load": ("r",), "load_many": ([1], "w", 1), "read_header": ("r",), "journal": ("r", 0, 10), "find": (9, "r", None, 5),
    "find_workflow": (9, "r", None, 5, "f"), "find_statuses": (9, "r", None, 5, None, ["a", "b"]),
    "existing": (["r"], ["f"], ["k"], ["w"], ["d"]), "stand": ([1], ["r"], ["w"], [1], [1], [1]), "newer": ([1], [0]),
    "post": (0, "t", "r", None, "signal", "n", "p", "id", 10, 1, "w"), "posted": ("r", 1), "take": (0, "w", "r", 1, False, False),
    "holder": (0, "w", "r", "h"), "claim": (0, "w", 1, 10, [0], ["f"], ["1"], [0], ["s"]), "leased": ("w", 1),
    "step": (0,) * 16, "last": (0,) * 17, "create_one": (0,) * 21,
    "unlisten": (1, "t"), "sweep": (0, "t", "w", []), "renew": (0, "w", 10), "probe": (0, "w", "h"),
    "lock": (["r"],), "deliver": (0, "t", ["r"], ["signal"], ["n"], ["p"], ["id"], [1]), "delivered": (["r"], [1]),
    "parent": ("r",), "family": ("r",), "old": (0, 1, 0, 0, 10), "lock_free": ([1],),
    "schedule": ("s", 1), "schedules": ("s", 10), "schedules_due": (9, 10), "scheduled": ("s", 1), "unschedule": ("s", "t"),
    "schedule_change": ("s", "f", "1", "{}", 1, 1, "r", 1, "t", 1),
    "levels": (0, [0], ["f"], ["1"], "w"), "due": ("f", "1", True, 0, "", 9, 10), "next_of_level": ("f", "1", True, 0, ""),
    "held": ("f", 5), "held_in": ("f", ["k"], 5), "park": ([1],), "lease": ("w", 1, [1]), "let_in": (["f"], ["k"], "t"),
    "lanes_of": ([1],), "dead": (10,), "free": (0, [1]), "starts": ("f", 9), "forget_starts": ("f", 9),
}  # fmt: skip
INDEXES = {
    "load": {"runs_run_id_key", "journal_pkey", "inbox_pending"}, "load_many": {"runs_pkey", "journal_pkey", "inbox_pending"},
    "find": {"runs_created"}, "find_workflow": {"runs_workflow"}, "find_statuses": {"runs_status"},
    "stand": {"runs_run_id_key", "journal_pkey", "workers_present"}, "newer": {"inbox_pending"},
    "post": {"runs_run_id_key", "inbox_signal", "inbox_pending", "workers_present"},
    "claim": {"runs_claimable", "runs_pkey", "workers_present"},
    "sweep": {"workers_present", "runs_owned", "runs_lane_owned", "runs_pkey"}, "renew": {"workers_present", "runs_owned"},
    "lock": {"runs_run_id_key"}, "deliver": {"runs_run_id_key", "runs_pkey", "inbox_signal"},
    "family": {"runs_run_id_key", "runs_children"}, "old": {"runs_ended", "runs_children", "runs_run_id_key"}, "lock_free": {"runs_pkey"},
    "levels": {"runs_claimable", "workers_present"}, "due": {"runs_claimable"}, "next_of_level": {"runs_claimable"},
    "held": {"runs_owned", "workers_present"}, "held_in": {"runs_lane"}, "let_in": {"runs_parked", "runs_pkey"}, "lanes_of": {"runs_pkey"},
    "step": {"runs_pkey", "runs_run_id_key", "workers_present"},
    "last": {"runs_pkey", "runs_run_id_key", "workers_present", "listeners_pkey"},
    "create_one": {"workers_present"},
    "dead": {"runs_lane_owned", "workers_present"}, "starts": {"starts_pkey"}, "forget_starts": {"starts_pkey"},
    "schedules": {"schedules_pkey"}, "schedules_due": {"schedules_next"}, "schedule_change": {"schedules_pkey"},
}  # fmt: skip

SORTS = {"claim": 2, "find_statuses": 1, "newer": 1, "deliver": 1}  # of what was found: never more than is asked for


async def plan(connection: Any, text: str, arguments: tuple[Any, ...]) -> list[str]:
    await connection.execute(SETTINGS)
    statement = await connection.prepare(text)
    kinds = ", ".join("NULL" for _ in arguments)
    rows = await connection.fetch(f"EXPLAIN EXECUTE {statement.get_name()} ({kinds})")
    return [str(row[0]) for row in rows]


@pytest.mark.parametrize("size", [0, 5000])
async def test_every_statement_goes_by_its_indexes(storage: PostgresStorage, server: Server, size: int) -> None:
    """Whether the tables are new or full, known to the planner or not: none is read from end to end, in no other order."""
    connection = await asyncpg.connect(server.url())
    try:
        if size:
            await _fill(connection, storage.schema, size)
        for known in (False, True) if size else (False,):
            if known:
                await connection.execute(f"ANALYZE {storage.schema}.runs, {storage.schema}.journal, {storage.schema}.workers")
            texts = Queries(storage.schema, False)
            steps = {f"commit {kind}": (text, (0,) * (22 if kind[1] else 20)) for kind, text in texts.commit.items()}
            steps["commit widely"] = texts.commit_widely, (0,) * 23
            for name, (text, arguments) in {**{name: (getattr(texts, name), given) for name, given in ARGUMENTS.items()}, **steps}.items():
                lines = await plan(connection, text, arguments)
                assert not [line for line in lines if "Seq Scan" in line], (name, lines)
                used = {line.split(" using ")[1].split()[0] for line in lines if " using " in line}
                assert used <= INDEXES.get(name, used), (name, used)
                assert len([line for line in lines if "->  Sort" in line or line.startswith("Sort")]) <= SORTS.get(name, 0), (name, lines)
                if name.startswith("commit"):
                    assert used <= {"runs_pkey", "runs_run_id_key", "workers_present", "workers_pkey", "inbox_pkey"}, (name, used)
    finally:
        await connection.close()


async def _fill(connection: Any, schema: str, size: int) -> None:
    """Runs of a version that others can claim, with a misfit and in one status; and as many held by one worker."""
    for owner, misfits in (("NULL", "s"), ("'w'", "")):
        await connection.execute(
            f"INSERT INTO {schema}.runs (run_id, workflow, version, shape, status, priority, created_at, updated_at, wake_at, owner, "
            "epoch, position, inbox_seq, seen_seq, input_digest, waiting, blocked, misfits, parent, mark, begun, due_at, unfit) "
            f"SELECT 'r' || n || {owner if owner != 'NULL' else repr('')}, 'order', '1', 's', 'running', 0, n, n, n, {owner}, 1, 1, 0, 0, "
            f"'', '', '', '{misfits}', CASE WHEN n > 9 THEN 'r' || n / 9 ELSE '' END, 0, true, "
            f"CASE WHEN {owner} IS NULL THEN n END, '{misfits}' FROM generate_series(1, {size}) n"
        )


async def test_a_claim_passes_over_what_it_cannot_run(storage: PostgresStorage, server: Server) -> None:
    """D28, contract 9: it looks at a handful of pages, however many runs wait for other code."""
    connection = await asyncpg.connect(server.url())
    try:
        await _fill(connection, storage.schema, 20_000)
        await connection.execute(SETTINGS)
        text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {Queries(storage.schema, False).claim}"
        for shape in ("s", "t"):
            async with connection.transaction():
                found = await connection.fetchval(text, 0, "w", 1, 10, [0], ["order"], ["1"], [0], [shape])
            top = json.loads(found)[0]["Plan"]
            assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 300
    finally:
        await connection.close()
    assert (await storage.claim("w", [CODE], 5)).runs == []


async def test_a_deleted_run_leaves_nothing(storage: PostgresStorage, server: Server) -> None:
    """All of a run's rows go together."""
    header = await held(storage, "one")
    await storage.post("one", signal())
    await storage.commit(end(header, 1, inbox_seq=1))
    await storage.delete("one")
    for table in ("runs", "journal", "inbox"):
        assert await server.sql(f"SELECT 1 FROM {storage.schema}.{table}") == []

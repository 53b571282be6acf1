"""Transactions that are lent, and those of the caller's own: what is special to PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from flux.errors import StorageMisused, StorageUnavailable
from flux.storage import Committed, Header, Outbox, Outgoing, RolledBack, StoredRun, Transactional, WorkflowStorage
from flux_storage import PostgresStorage
from flux_storage.postgres import link
from flux_storage.postgres.errors import TROUBLE

from ..postgres import Server
from .conftest import Wired
from .ledger_postgres import PostgresLedger
from .runs import LEASE, new_run, signal, step

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ledger(server: Server, schema: str) -> AsyncIterator[PostgresLedger]:
    async with PostgresLedger.made(server, schema) as made:
        yield made


async def held(storage: WorkflowStorage, run_id: str = "one") -> Header:
    return (await storage.create(new_run(run_id, owner="w"))).header


async def loaded(storage: WorkflowStorage, run_id: str = "one") -> StoredRun:
    run = await storage.load(run_id)
    assert run is not None
    return run


async def waits(server: Server, count: int) -> None:
    """Until so many statements wait for a lock."""
    async with asyncio.timeout(30):
        while len(await server.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")) < count:
            pass


def test_it_says_what_it_can() -> None:
    """Contract 21, 22."""
    storage = PostgresStorage("postgresql://h/d")
    assert isinstance(storage, Transactional) and isinstance(storage, Outbox) and storage.handlers == "async"


# --- what a handler can do to it


async def test_nothing_is_locked_before_the_commit(storage: PostgresStorage, ledger: PostgresLedger) -> None:
    """Contract 21: the run takes postings and beats while its handler holds a transaction, and the handler's own rows are its own."""
    header = await held(storage)
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "a")
        assert (await storage.post("one", signal())).seq == 1
        assert (await storage.renew("w", LEASE)).unseen == ("one",)
        await storage.commit(step(header, 1, inbox_seq=1))
        assert (await tx.commit(step(header, 2, inbox_seq=1))).postings == ()
    assert (await loaded(storage)).header.position == 3


async def test_an_error_that_the_handler_swallowed_is_its_error(storage: PostgresStorage, ledger: PostgresLedger) -> None:
    """Contract 21: a transaction one of whose statements has failed cannot be committed; the driver says so."""
    header = await held(storage)
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "a")
        with pytest.raises(asyncpg.UndefinedTableError):
            await tx.connection.execute("SELECT * FROM nowhere")
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await tx.commit(step(header, 1))
        with pytest.raises(StorageMisused, match="over"):
            await tx.commit(step(header, 1))
    assert (await ledger.lines(), (await loaded(storage)).header) == ([], header)
    async with storage.transaction() as tx:
        async with tx.connection.transaction():
            await ledger.note(tx.connection, "b")
        with pytest.raises(asyncpg.UndefinedTableError):
            async with tx.connection.transaction():
                await tx.connection.execute("SELECT * FROM nowhere")
        await tx.commit(step(header, 1))
    assert await ledger.lines() == ["b"]


@pytest.mark.parametrize("how", ["COMMIT", "COMMIT; BEGIN", "ROLLBACK", "ROLLBACK; BEGIN"])
async def test_a_handler_that_ends_the_transaction_is_told(storage: PostgresStorage, ledger: PostgresLedger, how: str) -> None:
    """Contract 21: what it did is not the step's any more, so the step is not written."""
    header = await held(storage)
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "a")
        await tx.connection.execute(how)
        with pytest.raises(StorageMisused, match="ended the transaction"):
            await tx.commit(step(header, 1))
    assert (await loaded(storage)).header == header
    async with storage.transaction() as tx:
        await tx.commit(step(header, 1))


async def defer(server: Server, ledger: PostgresLedger, body: str) -> None:
    """Something that the database does at COMMIT for each line of the ledger."""
    table = ledger.table
    await server.sql(f"CREATE FUNCTION late_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$")
    await server.sql(
        f"CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late_{table}()"
    )


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("RAISE unique_violation", asyncpg.UniqueViolationError),
        ("RAISE EXCEPTION 'no'", asyncpg.RaiseError),
        ("RAISE serialization_failure", RolledBack),
        ("PERFORM pg_terminate_backend(pg_backend_pid())", RolledBack),
    ],
)
async def test_what_the_database_refuses_at_the_commit(
    storage: PostgresStorage, ledger: PostgresLedger, server: Server, body: str, error: type[Exception]
) -> None:
    """Contract 21: a constraint is the handler's error; for what passes, or where the session ends in COMMIT, all may be done again."""
    await defer(server, ledger, body)
    header = await held(storage)
    for _ in range(2):
        async with storage.transaction() as tx:
            await ledger.note(tx.connection, "a")
            with pytest.raises(error):
                await tx.commit(step(header, 1, children=(new_run("c"),)))
    assert (await ledger.lines(), (await loaded(storage)).header, await storage.load("c")) == ([], header, None)
    async with storage.transaction() as tx:
        await tx.commit(step(header, 1))
    assert (await loaded(storage)).header.position == 2


async def test_a_deadlock_of_two_handlers_is_rolled_back(storage: PostgresStorage, ledger: PostgresLedger, server: Server) -> None:
    """Contract 21: one of them comes through, the other is told to do it all again."""
    headers = [await held(storage, f"r{n}") for n in range(2)]
    await server.sql(f"INSERT INTO {ledger.table} (line) VALUES ('0'), ('1')")
    await defer(server, ledger, f"UPDATE {ledger.table} SET line = line || '+' WHERE line = CASE NEW.line WHEN 'a0' THEN '1' ELSE '0' END")
    ready = asyncio.Barrier(2)

    async def go(n: int) -> Any:
        async with storage.transaction() as tx:
            await tx.connection.execute(f"UPDATE {ledger.table} SET line = line WHERE line = $1", f"{n}")
            await ledger.note(tx.connection, f"a{n}")
            await ready.wait()
            return await tx.commit(step(headers[n], 1))

    outcomes = await asyncio.gather(go(0), go(1), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Committed, RolledBack}
    assert sorted([(await loaded(storage, f"r{n}")).header.position for n in range(2)]) == [1, 2]


# --- connections that are lost


@pytest.mark.parametrize("spreads", [False, True])
async def test_a_commit_whose_answer_is_lost_is_found(wired: Wired, ledger: PostgresLedger, spreads: bool) -> None:
    """I45, contract 21: the handler is not run again for it."""
    storage, wire = wired
    header = await held(storage)
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "a")
        wire.lose_answers("COMMIT")
        more: dict[str, Any] = {"children": (new_run("c"),), "posts": (Outgoing("c", signal()),)} if spreads else {}
        assert (await tx.commit(step(header, 1, **more))).postings == ()
        assert wire.lost
    assert (await ledger.lines(), (await loaded(storage)).header.position) == (["a"], 2)
    if spreads:
        assert (await loaded(storage, "c")).header.inbox_seq == 1
    async with storage.transaction() as tx:
        await tx.commit(step(header, 2))


@pytest.mark.parametrize("trigger", ["flux.transaction", "SAVEPOINT", "moved AS"])
async def test_a_connection_that_is_lost_before_the_commit(wired: Wired, ledger: PostgresLedger, trigger: str) -> None:
    """Contract 21: it is known that nothing was written."""
    storage, wire = wired
    header = await held(storage)
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "a")
        wire.lose_answers(trigger)
        with pytest.raises(RolledBack):
            await tx.commit(step(header, 1))
        assert wire.lost
    assert (await ledger.lines(), (await loaded(storage)).header) == ([], header)


async def test_a_connection_that_is_lost_in_the_handler(storage: PostgresStorage, ledger: PostgresLedger, server: Server) -> None:
    """Contract 21: the handler gets the driver's error, and the next one a new connection."""
    header = await held(storage)
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "a")
        await server.sql("SELECT pg_terminate_backend($1)", tx.connection.get_server_pid())
        with pytest.raises(TROUBLE):
            await ledger.note(tx.connection, "b")
        with pytest.raises(RolledBack):
            await tx.commit(step(header, 1))
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "c")
        await tx.commit(step(header, 1))
    assert await ledger.lines() == ["c"]


async def test_what_the_handler_has_begun_still_goes_on(storage: PostgresStorage, ledger: PostgresLedger) -> None:
    """S3.6: that is the handler's doing, and would be so again and again; what comes next has a connection of its own."""
    header = await held(storage)
    async with storage.transaction() as tx:
        left = asyncio.create_task(tx.connection.execute("SELECT pg_sleep(3600)"))
        await asyncio.sleep(0)
        with pytest.raises(StorageMisused, match="still goes on, await it"):
            await tx.commit(step(header, 1))
    with pytest.raises(TROUBLE):
        await asyncio.wait_for(left, 30)
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "a")
        await tx.commit(step(header, 1))
    assert await ledger.lines() == ["a"]


async def test_an_outcome_that_cannot_be_known_yet(wired: Wired, ledger: PostgresLedger, server: Server, monkeypatch: Any) -> None:
    """I45, contract 21: it is not guessed; the same commit again only looks."""
    storage, wire = wired
    header = await held(storage)
    await storage.post("one", signal())
    text = f"SELECT 1 FROM {storage.schema}.runs WHERE run_id = 'one' FOR UPDATE"
    first, second = await asyncpg.connect(server.url()), await asyncpg.connect(server.url())
    try:
        same = step(header, 1, inbox_seq=1)
        async with storage.transaction() as tx:
            await ledger.note(tx.connection, "a")
            async with first.transaction():
                await first.execute(text)
                committing = asyncio.create_task(tx.commit(same))
                await waits(server, 1)
                await second.execute("BEGIN")
                locking = asyncio.create_task(second.execute(text))
                await waits(server, 2)
                monkeypatch.setattr(link, "PAUSES", (0.0,))
                monkeypatch.setattr(link, "ANSWERING", 0.05)
                wire.lose_answers("COMMIT")
            with pytest.raises(StorageUnavailable):
                await committing
            assert wire.lost
            await locking
            with pytest.raises(StorageUnavailable):
                await tx.commit(same)
            await second.execute("ROLLBACK")
            monkeypatch.undo()
            assert (await tx.commit(same)).postings == ()
    finally:
        await first.close()
        await second.close()
    assert (await ledger.lines(), (await loaded(storage)).header.position) == (["a"], 2)


async def test_the_server_ends_a_holder_that_is_cut_off(storage: PostgresStorage) -> None:
    """Contract 21: once it may have locked runs, and not before."""
    header = await held(storage)
    await storage.post("one", signal())
    async with storage.transaction() as tx:
        assert await tx.connection.fetchval("SHOW idle_in_transaction_session_timeout") == "0"
        assert len((await tx.commit(step(header, 1, posts=(Outgoing("one", signal()),)))).postings) == 1
        assert (await asyncio.wait_for(storage.post("one", signal()), 30)).seq == 2  # nothing is locked while its holder decides
        assert await tx.connection.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"


# --- connections


async def test_a_handlers_connection_is_as_the_server_makes_it(storage: PostgresStorage) -> None:
    """flux's own settings are for flux's statements; what one handler sets, the next one does not find."""
    for _ in range(3):
        async with storage.transaction() as tx:
            assert await tx.connection.fetchval("SHOW enable_seqscan") == "on"
            assert await tx.connection.fetchval("SHOW work_mem") == "4MB"
            await tx.connection.execute("SET work_mem = '9MB'")
            await tx.commit(step(await held(storage, f"r{id(tx)}"), 1))


async def test_a_codec_is_for_one_handler(server: Server, schema: str) -> None:
    """As any setting: also where the connections are the caller's, whose own codecs stay."""

    async def prepare(connection: Any) -> None:
        await connection.set_type_codec("jsonb", encoder=repr, decoder=len, schema="pg_catalog")

    async with asyncpg.create_pool(server.url(), min_size=0, max_size=2, init=prepare) as pool:
        for storage in (PostgresStorage(server.url(), schema=schema), PostgresStorage(pool=pool, schema=schema)):
            async with storage:
                for _ in range(3):
                    async with storage.transaction() as tx:
                        assert await tx.connection.fetchval("SELECT '[1]'::json") == "[1]"
                        await tx.connection.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
                        assert await tx.connection.fetchval("SELECT '[1]'::json") == [1]
        assert await pool.fetchval("SELECT '[1]'::jsonb") == 3


async def test_a_connection_that_is_lent_is_not_closed(storage: PostgresStorage, ledger: PostgresLedger) -> None:
    """S3.6: neither in one way nor in the other; whoever goes on loses nothing."""
    header = await held(storage)
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "a")
        with pytest.raises(StorageMisused, match="leave it open"):
            await tx.run(lambda connection: connection.close(timeout=1))
        with pytest.raises(StorageMisused, match="leave it open"):
            tx.connection.terminate()
        await tx.commit(step(header, 1))
    assert await ledger.lines() == ["a"]


async def test_no_more_are_lent_than_there_are(storage: PostgresStorage) -> None:
    """Others wait, and go on when one is given back; who stops waiting keeps nothing."""
    entered = [storage.transaction() for _ in range(link.LENT)]
    for one in entered:
        await one.__aenter__()
    waiting = [asyncio.create_task(storage.transaction().__aenter__()) for _ in range(2)]
    await held(storage)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    await entered[0].__aexit__(None, None, None)
    await asyncio.gather(waiting[0], return_exceptions=True)
    await entered[1].__aexit__(None, None, None)
    last = await asyncio.wait_for(waiting[1], 30)
    await last.end()
    for one in entered[2:]:
        await one.__aexit__(None, None, None)
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        for _ in range(link.LENT):
            await stack.enter_async_context(storage.transaction())


async def test_a_pool_of_the_callers_lends_half(server: Server, schema: str, ledger: PostgresLedger) -> None:
    """So that steps can go on while handlers hold transactions; a transaction may be asked of a pool of one."""
    for size in (1, 4):
        async with asyncpg.create_pool(server.url(), min_size=0, max_size=size) as pool:
            async with PostgresStorage(pool=pool, schema=schema) as storage:
                await storage.register("w", LEASE)
                headers = [await held(storage, f"r{size}{n}") for n in range(12)]

                async def go(header: Header, storage: PostgresStorage) -> None:
                    async with storage.transaction() as tx:
                        await ledger.note(tx.connection, header.run_id)
                        if size > 1:
                            await held(storage, f"{header.run_id}.beside")
                        await tx.commit(step(header, 1))

                await asyncio.wait_for(asyncio.gather(*(go(header, storage) for header in headers)), 30)
            assert await pool.fetchval("SELECT 1") == 1
    assert len(await ledger.lines()) == 24


async def test_a_transaction_belongs_to_one_event_loop(storage: PostgresStorage) -> None:
    """Its connection does."""

    async def elsewhere() -> None:
        async with storage.transaction():
            pass

    with pytest.raises(StorageMisused, match="event loop"):
        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    lending = storage.transaction()
    async with lending:
        pass
    with pytest.raises(StorageMisused, match="before"):
        await lending.__aenter__()


async def test_closing_takes_transactions_back(server: Server, schema: str, ledger: PostgresLedger) -> None:
    """A handler that is still there finds its connection gone, and nothing written."""
    storage = PostgresStorage(server.url(), schema=schema)
    await storage.__aenter__()
    async with storage.transaction() as tx:
        await ledger.note(tx.connection, "a")
        await asyncio.wait_for(storage.__aexit__(None, None, None), 30)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await ledger.note(tx.connection, "b")
    assert await ledger.lines() == []


# --- transactions of the caller's own


async def test_another_database_is_refused(storage: PostgresStorage, server: Server) -> None:
    """Contract 22: with flux of the same name or without it; and the caller's transaction goes on."""
    name = f"other_{storage.schema}"
    await server.sql(f"CREATE DATABASE {name}")
    url = server.url().replace("/postgres?", f"/{name}?")
    try:
        for _ in range(2):
            connection = await asyncpg.connect(url)
            async with connection.transaction():
                with pytest.raises(StorageMisused, match="another database"):
                    await storage.within(connection).create(new_run("one"))
                assert await connection.fetchval("SELECT 1") == 1
            await connection.close()
            async with PostgresStorage(url, schema=storage.schema):
                pass
    finally:
        await server.sql(f"DROP DATABASE {name} WITH (FORCE)")
    assert await storage.load("one") is None


async def test_any_way_to_begin_will_do(storage: PostgresStorage, server: Server) -> None:
    """Contract 22: a pool's connection, one begun by hand, one with snapshots, and the transaction of a step."""
    async with asyncpg.create_pool(server.url(), min_size=0, max_size=2) as pool, pool.acquire() as connection:
        async with connection.transaction():
            await storage.within(connection).create(new_run("pooled"))
        await connection.execute("BEGIN")
        await storage.within(connection).create(new_run("raw"))
        await connection.execute("COMMIT")
        for level in ("repeatable_read", "serializable"):
            async with connection.transaction(isolation=level):
                await storage.within(connection).create(new_run(level))
                assert (await storage.within(connection).post("raw", signal())).fresh
    header = await held(storage)
    async with storage.transaction() as tx:
        await storage.within(tx.connection).create(new_run("stepped"))
        await storage.within(tx.connection).post("stepped", signal())
        await tx.commit(step(header, 1))
    for run_id in ("pooled", "raw", "repeatable_read", "serializable", "stepped"):
        assert await storage.read_header(run_id) is not None
    assert (await loaded(storage, "raw")).header.inbox_seq == 2


async def test_of_two_transactions_that_make_one_run(storage: PostgresStorage, server: Server) -> None:
    """Contract 2, 22, I39: the second waits for the first, and finds its run, or makes its own where that one is rolled back."""
    for ending, fresh in (("COMMIT", False), ("ROLLBACK", True)):
        one, two = await asyncpg.connect(server.url()), await asyncpg.connect(server.url())
        for connection in (one, two):
            await connection.execute("BEGIN")
        run = new_run(ending, idempotency_key=ending)
        assert (await storage.within(one).create(run)).fresh
        second = asyncio.create_task(storage.within(two).create(run))
        await waits(server, 1)
        await one.execute(ending)
        assert (await second).fresh is fresh
        for connection in (one, two):
            await connection.execute("COMMIT")
            await connection.close()
        assert await storage.read_header(ending) is not None

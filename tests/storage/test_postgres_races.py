"""What others do in the middle of a call: between two of its statements, or while an answer is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from flux.errors import LeaseLost, StorageUnavailable
from flux.storage import Limit, Schedule
from flux_storage import PostgresStorage
from flux_storage.postgres import beacon, link

from ..postgres import Server, Wire
from .runs import CODE, LEASE, new_run, signal, step

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("transactional", [False, True])
async def test_a_commit_that_another_worker_overtakes_is_no_success(
    storage: PostgresStorage, server: Server, schema: str, transactional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I11, D12: the holder loses its run, and the posting that it has not seen is consumed, while it asks for that posting."""
    header = (await storage.create(new_run("one", owner="w"))).header
    o = storage._parts()
    ask = o.express.rows
    async with PostgresStorage(server.url(), schema=schema) as other:
        await other.register("v", LEASE)

        async def rows(text: str, *parameters: object) -> list[Any]:
            if text is o.sql.newer:
                monkeypatch.undo()
                await other.unregister("w")
                run = await other.take("one", "v")
                assert run is not None
                await other.commit(step(run.header, 1, inbox_seq=1, consumed=(1,), at=77))
            return await ask(text, *parameters)

        monkeypatch.setattr(o.express, "rows", rows)
        await other.post("one", signal())
        with pytest.raises(LeaseLost):
            if transactional:
                async with storage.transaction() as lent:
                    await lent.commit(step(header, 1, at=55))
            else:
                await storage.commit(step(header, 1, at=55))
        run = await other.load("one")
        assert run is not None and [row.at for row in run.rows] == [1, 77]


async def test_a_posting_of_the_transaction_itself_is_replied(storage: PostgresStorage) -> None:
    """D12, contract 21, 22: the handler posts to its own run, behind a posting of somebody else's; both are replied, and then consumed."""
    header = (await storage.create(new_run("one", owner="w"))).header
    await storage.post("one", signal("first"))
    async with storage.transaction() as lent:
        await lent.run(lambda connection: storage.within(connection).post("one", signal("own")))
        first = await lent.commit(step(header, 1))
        second = await lent.commit(step(header, 1, inbox_seq=1))
        assert [posting.name for posting in (*first.postings, *second.postings)] == ["first", "own"]
        assert (await lent.commit(step(header, 1, inbox_seq=2, consumed=(1, 2)))).postings == ()
    run = await storage.load("one")
    assert run is not None and (run.header.position, run.postings) == (2, [])


@pytest.mark.parametrize("limits", [(), (Limit("order", concurrency=5),)])
async def test_a_worker_does_not_spin_for_a_run_that_is_locked(
    storage: PostgresStorage, server: Server, schema: str, limits: tuple[Limit, ...]
) -> None:
    """Contract 9: it is due, and nobody can have it before the transaction that posts to it has ended; who has no room is not told to
    wait."""
    await storage.create(new_run("one"))
    poster = await asyncpg.connect(server.url())
    async with poster.transaction():
        await storage.within(poster).post("one", signal())
        claimed = await storage.claim("w", [CODE], 5, limits)
        assert claimed.runs == [] and claimed.next_at is not None and claimed.now < claimed.next_at < claimed.now + 1_000_000
        full = await storage.claim("w", [CODE], 0, limits)
        assert full.runs == [] and full.next_at is not None and full.next_at <= full.now
    await poster.close()
    assert len((await storage.claim("w", [CODE], 5, limits)).runs) == 1


class Paused:
    """A connection on which something happens once, behind the first lock of a run."""

    def __init__(self, connection: Any, lock_run: str, then: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._lock_run = lock_run
        self._then: Callable[[], Awaitable[None]] | None = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, text: str, *parameters: object, **options: Any) -> Any:
        found = await self._connection.execute(text, *parameters, **options)
        if text == self._lock_run and self._then is not None:
            then, self._then = self._then, None
            await then()
        return found


async def test_a_posting_to_a_run_that_is_made_meanwhile_is_kept(
    storage: PostgresStorage, server: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I25, contract 22: it asks for the lock of a run that is not there yet, and then waits for one while the run's owner commits."""
    o = storage._parts()
    beside: list[asyncio.Task[Any]] = []
    async with AsyncExitStack() as stack:
        poster, holder = [await asyncpg.connect(server.url()) for _ in range(2)]
        stack.push_async_callback(poster.close)
        stack.push_async_callback(holder.close)

        async def release() -> None:
            await waiting_for_locks(server, 2)
            await holder.execute("ROLLBACK")

        async def make() -> None:
            header = (await storage.create(new_run("one", owner="w"))).header
            await holder.execute(f'BEGIN; SELECT FROM "{schema}".runs FOR UPDATE')
            beside.append(asyncio.create_task(storage.commit(step(header, 1))))
            await waiting_for_locks(server, 1)
            beside.append(asyncio.create_task(release()))

        async with poster.transaction():
            within = storage.within(poster)
            monkeypatch.setattr(within, "_connection", Paused(poster, o.sql.lock_run, make))
            posted = await asyncio.wait_for(within.post("one", signal()), 30)
        await asyncio.gather(*beside)
    assert (posted.seq, posted.fresh) == (1, True)
    run = await storage.load("one")
    assert run is not None and (run.header.position, len(run.postings)) == (2, 1)


# --- opening and closing


async def sessions(server: Server) -> int:
    """How many connections there are beside this one."""
    rows = await server.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
    count: int = rows[0][0]
    return count


async def no_more_sessions(server: Server, number: int) -> None:
    """Until so many are left."""
    async with asyncio.timeout(30):
        while await sessions(server) > number:
            pass


async def test_who_opens_while_it_is_closed_shares_what_is_opened_next(server: Server, schema: str) -> None:
    """I50: two users wait, one from before the closing has ended and one from after it; it is opened once more, and closed."""
    before = await sessions(server)
    storage = PostgresStorage(server.url(), schema=schema)
    await storage.__aenter__()
    closing = asyncio.create_task(storage.__aexit__(None, None, None))
    await asyncio.sleep(0)
    first = asyncio.create_task(storage.__aenter__())
    await closing
    await asyncio.gather(first, storage.__aenter__())
    opened = storage._parts()
    for _ in range(2):
        assert storage._open is opened
        await storage.now()
        await storage.__aexit__(None, None, None)
    assert storage._open is None
    await no_more_sessions(server, before)


async def test_closing_goes_on_where_its_caller_is_cancelled(server: Server, schema: str) -> None:
    """Contract 15: connections, the thread of the heartbeats and the locks of workers are let go all the same."""
    before = await sessions(server)
    storage = PostgresStorage(server.url(), schema=schema)
    await storage.__aenter__()
    await storage.register("w", LEASE)
    await storage.create(new_run("one"))
    thread = storage._parts().beacon._thread
    assert thread is not None and thread.is_alive()
    holder = await asyncpg.connect(server.url())
    await holder.execute(f'BEGIN; SELECT FROM "{schema}".runs FOR UPDATE')
    posting = asyncio.create_task(storage.post("one", signal()))
    await waiting_for_locks(server, 1)
    leaving = asyncio.create_task(storage.__aexit__(None, None, None))
    await asyncio.sleep(0)
    leaving.cancel()
    assert isinstance((await asyncio.gather(leaving, return_exceptions=True))[0], asyncio.CancelledError)
    await holder.execute("ROLLBACK")
    await holder.close()
    assert (await posting).seq == 1
    await no_more_sessions(server, before)
    await asyncio.wait_for(asyncio.to_thread(thread.join), 30)
    async with storage:
        assert await storage.read_header("one") is not None


# --- a connection that is lost while the server has not ended what was sent on it


@asynccontextmanager
async def slow_commits(server: Server) -> AsyncIterator[None]:
    """COMMIT of what writes waits, within the block, for a standby that is not there."""
    await server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    try:
        await _told(server, "nobody")
        yield
    finally:
        await server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        await _told(server, "")


async def _told(server: Server, standby: str) -> None:
    await server.sql("SELECT pg_reload_conf()")
    async with asyncio.timeout(30):
        while (await server.sql("SHOW synchronous_standby_names"))[0][0] != standby:
            pass


async def committing(server: Server, number: int = 1) -> None:
    """Until so many sessions wait in COMMIT."""
    async with asyncio.timeout(30):
        while (await server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))[0][0] < number:
            pass


@pytest.mark.parametrize("limits", [(), (Limit("order", concurrency=5),)])
async def test_a_claim_that_is_still_under_way_is_not_sent_again(
    wired: tuple[PostgresStorage, Wire], server: Server, limits: tuple[Limit, ...]
) -> None:
    """I15: what it leases nobody would know of; so it is unavailable, and its worker, once given up, frees the run."""
    storage, wire = wired
    await storage.create(new_run("one"))
    async with slow_commits(server):
        claim = asyncio.create_task(storage.claim("w", [CODE], 5, limits))
        await committing(server)
        wire.cut()
        with pytest.raises(StorageUnavailable):
            await asyncio.wait_for(claim, 30)
    header = await storage.read_header("one")
    assert header is not None and header.owner == "w"
    await storage.unregister("w")
    await storage.register("v", LEASE)
    assert [run.header.run_id for run in (await storage.claim("v", [CODE], 5, limits)).runs] == ["one"]


@pytest.mark.parametrize("limits", [(), (Limit("order", concurrency=5),)])
async def test_a_claim_whose_answer_is_lost_leases_no_more(wired: tuple[PostgresStorage, Wire], limits: tuple[Limit, ...]) -> None:
    """I15: it is found, and says that there may be more."""
    storage, wire = wired
    await storage.create(new_run("one"))
    wire.lose_answers("COMMIT" if limits else "leased AS")
    claimed = await storage.claim("w", [CODE], 5, limits)
    assert wire.lost and [run.header.run_id for run in claimed.runs] == ["one"]
    assert claimed.next_at is not None and claimed.next_at <= claimed.now


@pytest.mark.parametrize("revision", [0, 1])
async def test_a_schedule_that_is_still_being_written_is_found(wired: tuple[PostgresStorage, Wire], server: Server, revision: int) -> None:
    """I45, contract 19: the second try waits for the first, and is told of what that has done."""
    storage, wire = wired
    if revision:
        assert await storage.advance(Schedule("daily", "order", "1", "{}", None))
    async with slow_commits(server):
        writing = asyncio.create_task(storage.advance(Schedule("daily", "order", "1", "{}", 5, revision=revision), [new_run("tick")]))
        await committing(server)
        wire.cut()
        await waiting_for_locks(server, 1)
    assert await asyncio.wait_for(writing, 30)
    assert await storage.read_header("tick") is not None


@pytest.mark.parametrize("call", ["drop", "hold"])
async def test_a_silent_session_keeps_no_renewal_waiting(
    wired: tuple[PostgresStorage, Wire], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D13, I15: another worker that comes or goes waits for the same connection, and gives it up before that costs the lease."""
    for module in (link, beacon):
        monkeypatch.setattr(module, "ANSWERING", 3600.0, raising=False)
        monkeypatch.setattr(module, "SOON", 0.1, raising=False)
    storage, wire = wired
    await storage.register("v", LEASE)
    light = storage._parts().beacon
    wire.forget()
    other = asyncio.create_task(light.drop("v") if call == "drop" else light.hold("u", 7))
    await asyncio.sleep(0)
    try:
        assert (await asyncio.wait_for(storage.renew("w", LEASE), 20)).alive
        await asyncio.wait_for(other, 20)
    finally:
        wire.cut()  # the other connections are as silent: closing does not wait for them


async def waiting_for_locks(server: Server, number: int) -> None:
    """Until so many sessions wait for one."""
    async with asyncio.timeout(30):
        while (await server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))[0][0] < number:
            pass

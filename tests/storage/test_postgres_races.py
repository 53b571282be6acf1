"""What others do in the middle of a call: between two of its statements, or while an answer is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from flux.errors import LeaseLost
from flux_storage import PostgresStorage

from ..postgres import Server, fresh_schema
from .runs import LEASE, new_run, signal, step

pytestmark = pytest.mark.anyio


@pytest.fixture
def schema() -> str:
    return fresh_schema()


@pytest.fixture
async def storage(server: Server, schema: str) -> AsyncIterator[PostgresStorage]:
    async with PostgresStorage(server.url(), schema=schema) as opened:
        await opened.register("w", LEASE)
        yield opened


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


async def waiting_for_locks(server: Server, number: int) -> None:
    """Until so many sessions wait for one."""
    async with asyncio.timeout(30):
        while (await server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))[0][0] < number:
            pass

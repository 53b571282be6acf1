"""What is done when one operation is alone on its way: in its caller, with one short statement, and without a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from flux.errors import LeaseLost, StorageUnavailable
from flux.storage import Header
from flux_storage import PostgresStorage
from flux_storage.postgres import link

from ..postgres import Server, Wire, fresh_schema
from .following_postgres import astray
from .runs import LEASE, end, new_run, step
from .test_families_postgres import waits

pytestmark = pytest.mark.anyio


@pytest.fixture
async def wired(server: Server, tmp_path: Path) -> AsyncIterator[tuple[PostgresStorage, Wire]]:
    """A storage behind a wire, with a connection for steps that is idle, and a worker whose lease was just looked after."""
    folder = tmp_path / "w"
    folder.mkdir()
    async with Wire(server, folder) as wire:
        async with PostgresStorage(wire.url(), schema=fresh_schema()) as storage:
            await storage.register("w", LEASE)
            await storage.commit(step(await held(storage, "first"), 1))
            storage._parts()._prolonged["w"] = 1 << 62
            yield storage, wire


async def held(storage: PostgresStorage, run_id: str) -> Header:
    return (await storage.create(new_run(run_id, owner="w"))).header


async def positions(storage: PostgresStorage, *ids: str) -> list[int]:
    headers = [await storage.read_header(run_id) for run_id in ids]
    return [header.position for header in headers if header is not None]


async def test_a_lone_operation_needs_no_task(wired: tuple[PostgresStorage, Wire]) -> None:
    """A run that is made, its steps and its end are each one statement, begun in the caller."""
    storage, _ = wired
    o = storage._parts()
    header = None
    for number in range(4):
        making = asyncio.ensure_future(storage.create(new_run("one", owner="w")) if number == 0 else storage.commit(
            (end if number == 3 else step)(header, number)  # type: ignore[arg-type]
        ))  # fmt: skip
        await asyncio.sleep(0)
        assert (o._entered, len(o._tasks)) == (1, 0)
        answer = await making
        header = header or answer.header  # type: ignore[union-attr]
        assert (o._entered, len(o._tasks)) == (0, 0)
    found = await storage.read_header("one")
    assert found is not None and found.owner is None and found.ended_at == 2
    assert found.position == 4 and await astray(storage) == []


async def test_a_caller_that_goes_away_stops_nothing(wired: tuple[PostgresStorage, Wire], server: Server) -> None:
    """Contract 15: the commit of a caller that is cancelled goes on, and those that gathered behind it go on after it."""
    storage, _ = wired
    one, two, three = [await held(storage, name) for name in ("one", "two", "three")]
    other = await asyncpg.connect(server.url())
    async with other.transaction():
        await other.execute(f"SELECT FROM {storage.schema}.runs WHERE run_id = 'one' FOR UPDATE")
        leaving = asyncio.create_task(storage.commit(step(one, 1)))
        await waits(server, "moved AS", leaving)
        behind = [asyncio.create_task(storage.commit(step(header, 1))) for header in (two, three)]
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await positions(storage, "one", "two", "three") == [1, 1, 1]
    await other.close()
    await asyncio.gather(*behind)
    assert await positions(storage, "one", "two", "three") == [2, 2, 2]
    await storage.commit(step(one, 2))


async def test_closing_waits_for_a_lone_operation(server: Server) -> None:
    """Contract 15: also where its caller has gone."""
    async with PostgresStorage(server.url(), schema=fresh_schema()) as storage:
        schema, o = storage.schema, storage._parts()
        await storage.register("w", LEASE)
        one = await held(storage, "one")
        o.prolonged("w")
        other = await asyncpg.connect(server.url())
        locked = other.transaction()
        await locked.start()
        await other.execute(f"SELECT FROM {schema}.runs WHERE run_id = 'one' FOR UPDATE")
        leaving = asyncio.create_task(storage.commit(step(one, 1)))
        await waits(server, "moved AS", leaving)
        leaving.cancel()
        closing = asyncio.create_task(storage.__aexit__(None, None, None))
        while o._left is None and not closing.done():
            await asyncio.sleep(0)
        assert not closing.done()
        await locked.rollback()
        await other.close()
        await closing
        assert (await server.sql(f"SELECT position FROM {schema}.runs WHERE run_id = 'one'"))[0][0] == 2
        await storage.__aenter__()


async def test_a_lone_commit_whose_answer_is_lost_is_found(wired: tuple[PostgresStorage, Wire]) -> None:
    """I45, contract 4: a step and an end; written once, and the caller is told so."""
    storage, wire = wired
    header = await held(storage, "one")
    for position in (1, 2, 3):
        wire.lose_answers("moved AS")
        await storage.commit((end if position == 3 else step)(header, position))
        assert wire.lost
    assert await positions(storage, "one") == [4]


async def test_a_lone_run_that_was_made_without_an_answer_is_found(wired: tuple[PostgresStorage, Wire]) -> None:
    """Contract 2, I39: it is this call's own, and fresh; not so the one that was there before."""
    storage, wire = wired
    for name in ("one", "two"):
        wire.lose_answers("made AS")
        created = await storage.create(new_run(name, owner="w", idempotency_key=name))
        assert wire.lost and created.fresh and created.header == await storage.read_header(name)
    assert not (await storage.create(new_run("one", owner="w"))).fresh
    assert not (await storage.create(new_run("three", owner="w", idempotency_key="two"))).fresh
    with pytest.raises(LeaseLost, match="not registered"):
        await storage.create(new_run("four", owner="nobody"))


async def test_a_lone_commit_without_an_answer_is_given_up(wired: tuple[PostgresStorage, Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    """S15.3: after the time of a call it is not tried again. Said once more, it is found where it was carried out after all."""
    storage, wire = wired
    one, two = [await held(storage, name) for name in ("one", "two")]
    monkeypatch.setattr(link, "ANSWERING", 0.05)
    storage._parts().express.rest()  # the next sets the timer
    wire.hush()
    with pytest.raises(StorageUnavailable, match=r"no answer in 0\.05 s"):
        await storage.commit(step(one, 1))
    assert storage._parts().express._asked == {}
    monkeypatch.undo()
    wire.speak()
    await storage.commit(step(one, 1))
    await storage.commit(step(two, 1))
    assert await positions(storage, "one", "two") == [2, 2]


async def test_a_lone_commit_that_makes_no_sense_is_in_nobodys_way(wired: tuple[PostgresStorage, Wire]) -> None:
    """Contract 14: whether that is found before anything is sent, by asyncpg, or by the server, its caller is told; the next is written."""
    storage, _ = wired
    one = await held(storage, "one")
    for error, changes in (
        (TypeError, {"misfits": (1, "a")}), (asyncpg.DataError, {"position": "x"}),
        (asyncpg.CharacterNotInRepertoireError, {"blocked": "\0"}),
    ):  # fmt: skip
        with pytest.raises(error):
            await storage.commit(step(one, **{"position": 1, **changes}))
    await storage.commit(step(one, 1))
    assert await positions(storage, "one") == [2]

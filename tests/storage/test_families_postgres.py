"""What a commit or a tick means for others, families and schedules: what is special to PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from flux.core.commands import Posting
from flux.core.status import RunStatus
from flux.errors import LeaseLost, RunNotFound
from flux.storage import Header, NewPosting, Outgoing, Query, Schedule, StoredRun, WorkflowStorage
from flux_storage import PostgresStorage
from flux_storage.postgres import forgetting

from ..postgres import Server
from .conftest import Wired
from .runs import CODE, LEASE, end, new_run, signal, step

pytestmark = pytest.mark.anyio


async def held(storage: WorkflowStorage, run_id: str, worker: str = "w", **fields: Any) -> Header:
    return (await storage.create(new_run(run_id, owner=worker, **fields))).header


async def loaded(storage: WorkflowStorage, run_id: str) -> StoredRun:
    run = await storage.load(run_id)
    assert run is not None
    return run


async def ids(storage: WorkflowStorage) -> set[str]:
    return {header.run_id for header in await storage.find(Query(limit=500))}


def daily(name: str = "daily") -> Schedule:
    return Schedule(name, "order", "1", "{}", 5)


# --- answers that are lost


@pytest.mark.parametrize("trigger", ["moved AS", "made AS", "rung AS", "COMMIT"])
@pytest.mark.parametrize("records", [True, False])
async def test_what_a_commit_spreads_is_there_once(wired: Wired, trigger: str, records: bool) -> None:
    """I45, contract 16: whether it was rolled back or written without an answer; alone, and among others."""
    storage, wire = wired
    headers = [await held(storage, f"r{n}") for n in range(4)]
    await storage.create(new_run("to"))

    def commit(n: int) -> Any:
        more = {} if records else {"records": ()}
        return storage.commit(step(headers[n], 1, children=(new_run(f"c{n}"),), posts=(Outgoing("to", signal()),), **more))

    wire.lose_answers(trigger)
    assert (await commit(0)).postings == ()
    assert wire.lost
    wire.lose_answers(trigger)
    await asyncio.gather(*map(commit, range(1, 4)))
    assert wire.lost
    assert [posting.seq for posting in (await loaded(storage, "to")).postings] == [1, 2, 3, 4]
    assert await ids(storage) == {"to", *(f"{kind}{n}" for kind in "rc" for n in range(4))}
    assert [len((await loaded(storage, f"r{n}")).rows) for n in range(4)] == [1 + records] * 4


@pytest.mark.parametrize("trigger", ["changed AS", "rung AS", "COMMIT"])
async def test_a_tick_whose_answer_is_lost_is_this_calls_own(wired: Wired, trigger: str) -> None:
    """Contract 19, I45: it has succeeded, once, with its runs and postings."""
    storage, wire = wired
    await storage.create(new_run("to"))
    for number in range(2):
        schedule = daily() if number == 0 else (await storage.schedules("daily"))[0]
        wire.lose_answers(trigger)
        assert await storage.advance(schedule, [new_run(f"tick{number}")], [Outgoing("to", signal())])
        assert wire.lost
        assert not await storage.advance(schedule, [new_run("never")])
    assert (await storage.schedules("daily"))[0].revision == 2
    assert await ids(storage) == {"to", "tick0", "tick1"}
    assert [posting.seq for posting in (await loaded(storage, "to")).postings] == [1, 2]


@pytest.mark.parametrize("trigger", ["gone AS", "COMMIT"])
async def test_forgetting_a_schedule_whose_answer_is_lost(wired: Wired, trigger: str) -> None:
    """Contract 19: there was one."""
    storage, wire = wired
    await storage.advance(daily())
    wire.lose_answers(trigger)
    assert await storage.unschedule("daily")
    assert wire.lost and await storage.schedules() == []
    assert not await storage.unschedule("daily")


@pytest.mark.parametrize("trigger", ["RECURSIVE", "DELETE", "COMMIT"])
async def test_forgetting_a_family_whose_answer_is_lost(wired: Wired, trigger: str) -> None:
    """Contract 17: whole, and the second try of the same call finds nothing to complain about."""
    storage, wire = wired
    for run_id, parent in (("p", ""), ("p.a", "p"), ("p.a.x", "p.a")):
        await storage.commit(end(await held(storage, run_id, parent=parent), 1))
    wire.lose_answers(trigger)
    await storage.delete("p")
    assert wire.lost and await ids(storage) == set()
    with pytest.raises(RunNotFound):
        await storage.delete("p")


# --- whole, or not at all; in nobody's way


@pytest.mark.parametrize("kind", ["children", "ticks"])
async def test_what_cannot_be_written_takes_all_with_it(storage: PostgresStorage, kind: str) -> None:
    """I7, I41: what fails in the middle of the transaction leaves no row, no child and no schedule; others go on."""
    one, two = await held(storage, "one"), await held(storage, "two")
    runs = (new_run("good"), new_run("bad", input_digest="\0"))
    posts = (Outgoing("one", signal()), Outgoing("two", NewPosting("signal", "go", "\0")))
    bad = storage.commit(step(one, 1, children=runs, posts=posts)) if kind == "children" else storage.advance(daily(), runs, posts)
    outcomes = await asyncio.gather(storage.commit(step(two, 1, children=(new_run("other"),))), bad, return_exceptions=True)
    assert isinstance(outcomes[1], asyncpg.CharacterNotInRepertoireError)
    assert await ids(storage) == {"one", "two", "other"}
    assert (await loaded(storage, "one")).header == one
    assert (await loaded(storage, "two")).header.position == 2
    assert await storage.schedules() == []


async def test_a_refused_commit_that_spreads_fails_alone(storage: PostgresStorage) -> None:
    """I47: each of a batch has its own outcome, and what the refused ones would have spread is not there."""
    headers = [await held(storage, f"r{n}") for n in range(4)]
    await storage.create(new_run("to"))
    changes: tuple[dict[str, Any], ...] = ({}, {"epoch": 7}, {"ref": 999_999}, {"fresh": True})
    commits = [
        storage.commit(step(headers[n], 1, children=(new_run(f"c{n}"),), posts=(Outgoing("to", signal(signal_id=f"{n % 3}")),), **changed))
        for n, changed in enumerate(changes)
    ]
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert [getattr(outcome, "postings", type(outcome)) for outcome in outcomes] == [(), LeaseLost, RunNotFound, ()]
    assert await ids(storage) == {"r0", "r1", "r2", "r3", "to", "c0", "c3"}
    assert [posting.signal_id for posting in (await loaded(storage, "to")).postings] == ["0"]
    assert [row.position for row in (await loaded(storage, "r3")).rows] == [2]


@pytest.mark.parametrize(
    "damage", ["inbox_seq = -1", "inbox_seq = 0", "inbox_seq = 9223372036854775807", "status = 'dancing'", "wake_at = -1", "position = -1"]
)
async def test_a_damaged_run_is_in_no_senders_way(storage: PostgresStorage, server: Server, damage: str) -> None:
    """S15.2, contract 14, 16: a posting that cannot be kept is dropped, and the commit that sent it is written."""
    await storage.create(new_run("bad"))
    await storage.post("bad", signal())
    header = await held(storage, "good")
    await server.sql(f"UPDATE {storage.schema}.runs SET {damage} WHERE run_id = 'bad'")
    await storage.commit(step(header, 1, posts=(Outgoing("bad", signal()), Outgoing("good", signal()))))
    run = await loaded(storage, "good")
    assert (run.header.position, run.header.inbox_seq) == (2, 1)


@pytest.mark.parametrize(
    "damage",
    ["next_at = -5", "next_at = 9223372036854775807", "last_at = -1", "revision = -1", "revision = 0", "revision = 9223372036854775807"],
)
async def test_a_damaged_schedule_is_in_no_other_ones_way(storage: PostgresStorage, server: Server, damage: str) -> None:
    """S15.2, contract 14: what is no instant is never due, what is no revision never advances; all can be listed and forgotten."""
    for name in ("bad", "good"):
        assert await storage.advance(daily(name))
    await server.sql(f"UPDATE {storage.schema}.schedules SET {damage} WHERE name = 'bad'")
    bad, good = await storage.schedules()
    assert bad.last_at is None and (bad.next_at == 5) is ("next_at" not in damage)
    due = [one.name for one in await storage.schedules(due=9)]
    assert due == (["good"] if "next_at" in damage else ["bad", "good"])
    assert await storage.advance(good, [new_run("tick")])
    assert await storage.advance(bad) is ("revision" not in damage)
    assert await storage.unschedule("bad")
    assert await storage.advance(daily("bad"))
    assert await storage.unschedule("good")
    assert await storage.advance(daily("good"))
    assert not await storage.advance(good) and not await storage.advance(replace(good, revision=2))


async def test_a_journal_whose_beginning_is_damaged(storage: PostgresStorage, server: Server) -> None:
    """S15.2, contract 14, 18: a head that says it begins where there is no row is told, not believed."""
    await storage.commit(step(await held(storage, "one"), 1))
    for base in (0, 3, -1):
        await server.sql(f"UPDATE {storage.schema}.runs SET base = $1", base)
        run = await loaded(storage, "one")
        assert run.error is not None and "journal" in str(run.error)
    await server.sql(f"UPDATE {storage.schema}.runs SET base = 2")
    assert [row.position for row in (await loaded(storage, "one")).rows] == [2]


# --- several at once


async def deadlocks(server: Server) -> int:
    return int((await server.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))[0][0])


async def test_crowds_that_post_to_each_other(server: Server, schema: str) -> None:
    """Contract 1, 3, 16: from two storages, beside plain steps, schedules and senders: nobody waits in a circle, nothing is lost."""
    before, count = await deadlocks(server), 40
    async with AsyncExitStack() as stack:
        storages = [await stack.enter_async_context(PostgresStorage(server.url(), schema=schema)) for _ in range(2)]
        for storage in storages:
            await storage.register("w", LEASE)
        headers = [await held(storages[0], f"r{n}") for n in range(count)]

        async def go(n: int) -> None:
            storage, seen, position = storages[n % 2], 0, 1
            to = tuple(Outgoing(f"r{(n * factor + 1) % count}", NewPosting("child", "go", "1", f"{n}-{factor}")) for factor in (3, 7, 11))
            child = new_run(f"c{n % 5}", parent="r0")
            for posts, children in ((to, (child,)), ((), ()), (to, ())):
                while True:
                    reply = await storage.commit(step(headers[n], position, inbox_seq=seen, posts=posts, children=children))
                    if not reply.postings:
                        break
                    seen = reply.postings[-1].seq
                position += 1

        async def tick(n: int) -> None:
            assert await storages[n % 2].advance(daily(f"s{n}"), [new_run(f"c{4 - n % 5}")], [Outgoing(f"c{n % 5}", signal())])

        others: list[Awaitable[Any]] = [storages[n % 2].post(f"r{n}", signal(signal_id="x")) for n in range(count)]
        async with asyncio.timeout(60):
            await asyncio.gather(*map(go, range(count)), *map(tick, range(20)), *others)
        runs = [await loaded(storages[0], f"r{n}") for n in range(count)]
    reached = [(n * factor + 1) % count for n in range(count) for factor in (3, 7, 11)]
    for n, run in enumerate(runs):
        assert run.header.position == 4
        assert [posting.seq for posting in run.postings] == list(range(1, reached.count(n) + 2))
    assert await deadlocks(server) == before


async def test_a_commit_that_waits_for_anothers_posting_sees_it(storage: PostgresStorage, server: Server) -> None:
    """I25, contract 3: whoever has to wait for a lock goes on with the run as it is then."""
    one = await held(storage, "one")
    await storage.create(new_run("to"))
    other = await asyncpg.connect(server.url())
    async with other.transaction():
        await other.execute(f"SELECT 1 FROM {storage.schema}.runs WHERE run_id = 'to' FOR UPDATE")
        committing = asyncio.create_task(storage.commit(step(one, 1, posts=(Outgoing("to", signal()),))))
        await waits(server, "unnest", committing)
        await other.execute(f"UPDATE {storage.schema}.runs SET inbox_seq = 1 WHERE run_id = 'to'")
        await other.execute(
            f"INSERT INTO {storage.schema}.inbox (ref, seq, kind, name, payload, at, mark, pending) "
            f"SELECT ref, 1, 'signal', 'first', '1', 1, 0, ref FROM {storage.schema}.runs WHERE run_id = 'to'"
        )
    await other.close()
    await committing
    assert [(posting.seq, posting.name) for posting in (await loaded(storage, "to")).postings] == [(1, "first"), (2, "go")]


async def test_runs_are_locked_in_one_order(storage: PostgresStorage, server: Server) -> None:
    """Contract 1, 16: by their ids, whoever commits and whoever is posted to, in a batch too; so nobody waits in a circle."""
    headers = [await held(storage, run_id) for run_id in ("c", "e")]
    for run_id in ("a", "b", "d"):
        await storage.create(new_run(run_id))
    other = await asyncpg.connect(server.url())
    async with other.transaction():
        await other.execute(f"SELECT 1 FROM {storage.schema}.runs WHERE run_id = 'd' FOR UPDATE")
        posts = tuple(Outgoing(run_id, signal()) for run_id in ("d", "b", "a"))
        committing = asyncio.gather(*(storage.commit(step(header, 1, posts=posts)) for header in reversed(headers)))
        await waits(server, "unnest", committing)
        free = await server.sql(f"SELECT run_id FROM {storage.schema}.runs FOR UPDATE SKIP LOCKED")
        assert [row[0] for row in free] == ["e"]
    await other.close()
    await committing


async def test_a_child_that_another_makes_just_now_is_posted_to(storage: PostgresStorage, server: Server) -> None:
    """Contract 16: one whose id is taken is left as it is, and gets its postings."""
    one = await held(storage, "one")
    other = await asyncpg.connect(server.url())
    async with other.transaction():
        await other.execute(
            f"INSERT INTO {storage.schema}.runs (run_id, workflow, version, shape, status, priority, created_at, updated_at, epoch, "
            "position, inbox_seq, seen_seq, input_digest, waiting, blocked, misfits, parent, mark) "
            "VALUES ('c', 'order', '7', 's', 'pending', 0, 1, 1, 0, 1, 5, 0, '', '', '', '', '', 0)"
        )
        committing = asyncio.create_task(storage.commit(step(one, 1, children=(new_run("c"),), posts=(Outgoing("c", signal()),))))
        await waits(server, "free_at", committing)
    await other.close()
    await committing
    run = await loaded(storage, "c")
    assert (run.header.version, run.header.inbox_seq, [posting.seq for posting in run.postings]) == ("7", 6, [6])


async def waits(server: Server, text: str, task: asyncio.Future[Any]) -> None:
    """Until a statement with this text waits for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
    async with asyncio.timeout(30):
        while not await server.sql(waiting, f"%{text}%"):
            assert not task.done()


async def test_a_schedule_is_not_made_while_it_is_forgotten(storage: PostgresStorage, server: Server) -> None:
    """Contract 19: what is made under its name has a higher revision, although nobody has seen yet that it is gone."""
    await storage.advance(daily())
    seen = (await storage.schedules("daily"))[0]
    await storage.advance(seen)
    other = await asyncpg.connect(server.url())
    async with other.transaction():
        await other.execute(f"SELECT 1 FROM {storage.schema}.schedules FOR UPDATE")
        forgetting = asyncio.create_task(storage.unschedule("daily"))
        await waits(server, "gone AS", forgetting)
        making = asyncio.create_task(storage.advance(daily()))
        await waits(server, "ON CONFLICT (one)", making)
    await other.close()
    assert (await forgetting, await making) == (True, True)
    assert (await storage.schedules("daily"))[0].revision == 3
    assert not await storage.advance(replace(seen, revision=2))


async def test_changes_elsewhere_are_told_once(storage: PostgresStorage, server: Server) -> None:
    """I15, I25: children, postings and schedules wake who waits in another process: one notification each."""
    told: list[str] = []
    listener = await asyncpg.connect(server.url())
    await listener.add_listener(f"flux_{storage.schema}", lambda *heard: told.append(heard[3]))
    async with PostgresStorage(server.url(), schema=storage.schema) as other:
        await other.register("x", LEASE)
        header = await held(other, "one", "x")
        since = await storage.changed(-1, 60)
        acts: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: other.commit(step(header, 1, children=(new_run("c"),))),
            lambda: other.commit(step(header, 2, posts=(Outgoing("c", signal()), Outgoing("c", signal())))),
            lambda: other.commit(step(header, 3, children=(new_run("d"),), posts=(Outgoing("d", signal()),))),
            lambda: other.advance(daily(), [new_run("e")], [Outgoing("c", signal())]),
            lambda: other.unschedule("daily"),
        )
        for act in acts:
            waiting = asyncio.create_task(storage.changed(since, 3600))
            await asyncio.sleep(0)
            told.clear()
            await act()
            await listener.fetch("SELECT 1")
            assert len(told) == 1
            since = await asyncio.wait_for(waiting, 30)
        told.clear()
        await other.commit(step(header, 4, fresh=True))
        await other.commit(step(header, 5, posts=(Outgoing("nobody", signal()),)))
        await listener.fetch("SELECT 1")
        assert told == []
    await listener.close()


# --- forgetting


async def test_a_purge_is_bounded_in_rows(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """D26, D27, contract 17: whole families, no more once it is enough; asked until it returns 0, it forgets them all."""
    monkeypatch.setattr(forgetting, "PURGE", 5)
    for number in range(5):
        for run_id in (f"p{number}", f"p{number}.a", f"p{number}.b", f"p{number}.c"):
            await storage.commit(end(await held(storage, run_id, parent=run_id.rpartition(".")[0]), 1, at=number))
    assert await storage.purge(0, 500) == 2
    assert len(await ids(storage)) == 12
    assert [await storage.purge(0, 500) for _ in range(3)] == [2, 1, 0]
    assert await ids(storage) == set()


async def test_a_purge_looks_behind_families_that_go_on(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract 17: however many of them there are."""
    monkeypatch.setattr(forgetting, "_PAGE", 2)
    for number in range(7):
        header = await held(storage, f"p{number}")
        await storage.commit(end(header, 1, children=(new_run(f"p{number}.a", parent=header.run_id),) if number % 5 else (), at=1))
    assert [await storage.purge(0, 500) for _ in range(2)] == [2, 0]
    assert len(await ids(storage)) == 10


async def test_a_purge_passes_over_what_is_locked(storage: PostgresStorage, server: Server) -> None:
    """Contract 17: a family one of whom is being written to stays whole; the others go."""
    for run_id, parent in (("p", ""), ("p.a", "p"), ("q", "")):
        await storage.commit(end(await held(storage, run_id, parent=parent), 1))
    other = await asyncpg.connect(server.url())
    async with other.transaction():
        await other.execute(f"SELECT 1 FROM {storage.schema}.runs WHERE run_id = 'p.a' FOR UPDATE")
        assert await storage.purge(0, 9) == 1
        assert await ids(storage) == {"p", "p.a"}
    await other.close()
    assert await storage.purge(0, 9) == 1


async def test_a_child_that_is_made_while_its_parent_is_deleted(storage: PostgresStorage, server: Server) -> None:
    """Contract 17: who deletes waits for who writes, and takes along what came to be meanwhile."""
    for run_id, parent in (("p", ""), ("p.a", "p")):
        await storage.commit(end(await held(storage, run_id, parent=parent), 1))
    other = await asyncpg.connect(server.url())
    async with other.transaction():
        await other.execute(f"SELECT 1 FROM {storage.schema}.runs WHERE run_id = 'p.a' FOR UPDATE")
        deleting = asyncio.create_task(storage.delete("p"))
        await waits(server, "unnest", deleting)
        await storage.commit(end(await held(storage, "p.a.x", parent="p.a"), 1))
    await other.close()
    await deleting
    assert await ids(storage) == set()


async def test_an_unwind_outlives_a_worker_that_registers_anew(storage: PostgresStorage) -> None:
    """Contract 10, 16: an ended run that a dead worker held is due as soon as it is free."""
    ended = await held(storage, "e")
    await storage.commit(replace(end(ended, 1), release=False))
    await storage.register("x", LEASE)
    one = await held(storage, "one", "x")
    await storage.commit(step(one, 1, posts=(Outgoing("e", NewPosting("unwind", "go", "1")),)))
    await storage.unregister("w")
    claimed = await storage.claim("x", [CODE], 5)
    (run,) = claimed.runs
    assert (run.header.run_id, run.header.status) == ("e", RunStatus.COMPLETED)
    assert [type(posting) for posting in run.postings] == [Posting]

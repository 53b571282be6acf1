"""A step that is lost with its process again and again: it waits longer and longer, runs alone, and harms no other run (D11)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flux import FluxEngine, Workflow, create_workflow
from flux.core.records import AttemptIsolated, AttemptLost, AttemptPostponed, Record, RunBlocked
from flux.engine.isolation import ALONE, LATER, PATIENCE
from flux.storage import StoredRun

from .cluster import LEASE, Cluster, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio

SECOND = 1_000_000


class Bench:
    """Runs whose handlers wait until they are let go, and engines that die under them."""

    def __init__(self, cluster: Cluster, crash_limit: int = 20) -> None:
        self.cluster = cluster
        self.crash_limit = crash_limit
        self.calls: list[str] = []
        self.inside: set[str] = set()  # "run step" of the handlers that are running
        self.gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.open: set[str] = set()  # runs whose handlers do not wait
        cluster.stand_still()

    async def act(self, ctx: Any) -> str:
        name = f"{ctx.run_id} {ctx.path}"
        self.calls.append(name)
        self.inside.add(name)
        try:
            if ctx.run_id not in self.open:
                await self.gates[name].wait()
        finally:
            self.inside.discard(name)
        return f"{name} done"

    @property
    def flow(self) -> Workflow[Any, Any]:
        flow = create_workflow("bench")
        for name in ("one", "two"):
            flow = flow.step(name, self.act, timeout=None, retries=0, compensate=self.act, compensate_timeout=99999)
        return flow

    async def engine(self, grace: float = 0) -> FluxEngine:
        return await self.cluster.open(workflows=[self.flow], crash_limit=self.crash_limit, grace=grace)

    async def wanted(self, engine: FluxEngine) -> None:
        """A suspect is due, and wants this engine to itself."""
        async with asyncio.timeout(60):
            while not engine._host.isolation.closed:  # pyright: ignore[reportPrivateUsage]
                await self.cluster.clock.advance(seconds=1)
                await self.turns()

    async def enters(self, name: str) -> None:
        await eventually(lambda: name in self.inside)

    async def finish(self, name: str) -> None:
        self.gates[name].set()
        await eventually(lambda: name not in self.inside)

    async def crash(self, engine: FluxEngine, *tasks: asyncio.Task[Any]) -> None:
        """It dies, and so do the calls that were made there; its lease runs out."""
        await self.cluster.crash(engine)
        await asyncio.gather(*tasks, return_exceptions=True)
        self.inside.clear()
        await self.cluster.outlive()

    async def suspect(self, *run_ids: str, losses: int = 3) -> None:
        """These runs have lost their first step so often, each with a worker of its own."""
        for run_id in run_ids:
            for number in range(losses):
                engine = await self.engine()
                if not number:
                    await engine.start(self.flow, id=run_id)
                task = asyncio.create_task(self.start_of(engine, run_id))
                await self.enters(f"{run_id} one")
                await self.crash(engine, task)

    async def start_of(self, engine: FluxEngine, run_id: str) -> None:
        """Move the run until its handler is entered, time passing as it must."""
        task = asyncio.create_task(engine.resume(self.flow, run_id))
        while f"{run_id} one" not in self.inside and not task.done():
            await self.cluster.clock.advance(seconds=1)
        await task

    async def records(self, engine: FluxEngine, run_id: str, kind: type[Record]) -> list[Any]:
        run: StoredRun | None = await engine.storage.load(run_id)
        assert run is not None
        return [(row.at, record) for row in run.rows for record in row.records if isinstance(record, kind)]

    async def innocents(self, engine: FluxEngine, *run_ids: str) -> None:
        """These are at work in their first step."""
        for run_id in run_ids:
            await engine.start(self.flow, id=run_id)
            await self.enters(f"{run_id} one")

    async def turns(self) -> None:
        """As many turns as anything here could need."""
        await self.cluster.clock.advance(seconds=0)
        async with asyncio.timeout(60):
            for _ in range(5):
                for _ in range(20):
                    await asyncio.sleep(0)
                await eventually(lambda: not self.cluster.clock.working)

    async def completes(self, engine: FluxEngine, *run_ids: str) -> None:
        """Time passes until these have completed."""

        async def completed() -> bool:
            await self.cluster.clock.advance(seconds=5)
            await self.turns()
            return all([(await engine.summary(run_id)).status == "completed" for run_id in run_ids])

        await eventually(completed)

    async def unharmed(self, *run_ids: str) -> None:
        """They complete, and none of their attempts was ever lost or in doubt."""
        engine = await self.engine()
        self.open.update(run_ids)
        async with engine.worker():
            for run_id in run_ids:
                await engine.handle(run_id).result(timeout=60)
                result = await engine.get(run_id)
                assert [(line.attempts, line.lost_attempts, line.in_doubt) for line in result.history] == [(1, 0, False)] * 2
                assert not await self.records(engine, run_id, AttemptLost)
                assert [call for call in self.calls if call.startswith(run_id)] == [f"{run_id} one", f"{run_id} two"]


async def test_growing_delays(cluster: Cluster) -> None:
    """S3.7, D11: 0, then 1, 2, 4 … 60 seconds before the attempt that follows a lost one."""
    bench = Bench(cluster)
    await bench.suspect("bad", losses=9)
    engine = await bench.engine()
    task = asyncio.create_task(bench.start_of(engine, "bad"))
    await bench.enters("bad one")
    lost = await bench.records(engine, "bad", AttemptLost)
    assert [(record.retry_at - at) // SECOND for at, record in lost] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    bench.open.add("bad")
    await bench.finish("bad one")
    await task
    result = await engine.get("bad")
    assert result.status == "completed" and result.history[0].attempts == 10 and result.history[0].lost_attempts == 0


async def test_innocents_finish_first_and_start_nothing(cluster: Cluster) -> None:
    """D11, S3.7: beside a suspect that wants to start, attempts are finished and none starts, neither of a run at work nor of a new
    one; a crash of the suspect then leaves none of them in doubt."""
    bench = Bench(cluster)
    await bench.suspect("bad")
    engine = await bench.engine()
    await engine.worker().__aenter__()
    await bench.innocents(engine, "i1", "i2")
    await bench.wanted(engine)
    await engine.start(bench.flow, id="i3")
    await bench.finish("i1 one")
    await bench.turns()
    assert (await engine.get("i1")).history[0].status == "completed"
    assert bench.inside == {"i2 one"}
    await bench.finish("i2 one")
    await bench.enters("bad one")
    await bench.turns()
    assert bench.inside == {"bad one"} and len(await bench.records(engine, "bad", AttemptIsolated)) == 3
    await bench.crash(engine)
    await bench.unharmed("i1", "i2", "i3")


async def test_a_run_that_is_made_meanwhile(cluster: Cluster) -> None:
    """D11: neither does a call start one, be it that the suspect came first or while the run was being stored."""
    bench = Bench(cluster)
    await bench.suspect("bad")
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage, workflows=[bench.flow], grace=0)
    storage.held["create"] = asyncio.Event()
    early = asyncio.create_task(engine.execute(bench.flow, id="i1"))
    await eventually(lambda: any(verb == "create" for verb, _ in storage.calls))
    task = asyncio.create_task(bench.start_of(engine, "bad"))
    await bench.enters("bad one")
    storage.held.pop("create").set()
    late = asyncio.create_task(engine.execute(bench.flow, id="i2"))
    await bench.turns()
    assert bench.inside == {"bad one"}
    await eventually(lambda: {"i1", "i2"} <= engine._host.drivers.keys())  # pyright: ignore[reportPrivateUsage]
    await bench.turns()
    await bench.crash(engine, early, late, task)
    await bench.unharmed("i1", "i2")


async def test_the_gate_opens_again(cluster: Cluster) -> None:
    """D11: a suspect that takes long is no hindrance: after a while others start beside it."""
    bench = Bench(cluster)
    await bench.suspect("bad")
    engine = await bench.engine()
    async with engine.worker():
        await bench.innocents(engine, "i1")
        await bench.wanted(engine)
        await bench.finish("i1 one")
        await bench.enters("bad one")
        await engine.start(bench.flow, id="i2")
        await cluster.clock.advance(seconds=ALONE - 1)
        await bench.turns()
        assert bench.inside == {"bad one"}
        await cluster.clock.advance(seconds=2)
        await bench.enters("i1 two")
        await bench.enters("i2 one")
        assert "bad one" in bench.inside
        bench.open.update(("bad", "i1", "i2"))
        for name in ("bad one", "i1 two", "i2 one"):
            await bench.finish(name)
        for run_id in ("bad", "i1", "i2"):
            await engine.handle(run_id).result(timeout=60)


async def test_it_ends_and_all_go_on(cluster: Cluster) -> None:
    """D11: the gate opens as soon as the suspect has an outcome, good or bad."""
    bench = Bench(cluster)
    await bench.suspect("bad")
    engine = await bench.engine()
    async with engine.worker():
        await bench.innocents(engine, "i1")
        await bench.wanted(engine)
        await bench.finish("i1 one")
        await bench.enters("bad one")
        await bench.finish("bad one")
        await bench.enters("i1 two")
        await bench.enters("bad two")  # which is no suspect: it was never lost
        assert not engine._host.isolation.active  # pyright: ignore[reportPrivateUsage]


async def test_no_quiet_worker(cluster: Cluster) -> None:
    """D11, I17: a suspect that finds no quiet worker is postponed, and the worker goes on; once it is quiet the suspect runs."""
    bench = Bench(cluster)
    await bench.suspect("bad")
    engine = await bench.engine()
    async with engine.worker():
        await bench.innocents(engine, "i1")
        await bench.wanted(engine)
        await engine.start(bench.flow, id="i2")
        await bench.turns()
        assert bench.inside == {"i1 one"}
        await cluster.clock.advance(seconds=PATIENCE)
        await bench.enters("i2 one")
        (postponed,) = await bench.records(engine, "bad", AttemptPostponed)
        assert postponed[1].retry_at - postponed[0] == LATER
        assert bench.inside == {"i1 one", "i2 one"} and (await engine.get("bad")).status == "suspended"
        bench.open.update(("i1", "i2"))
        for run_id in ("i1", "i2"):
            await bench.finish(f"{run_id} one")
            await engine.handle(run_id).result(timeout=60)
        await cluster.clock.advance(seconds=LATER / SECOND + 1)
        await bench.enters("bad one")


async def test_two_suspects(cluster: Cluster) -> None:
    """D11: one at a time: the other waits for its turn, and gets it."""
    bench = Bench(cluster)
    await bench.suspect("bad", "worse")
    engine = await bench.engine()
    async with engine.worker():
        await bench.wanted(engine)
        await eventually(lambda: len(bench.inside) == 1)
        await cluster.clock.advance(seconds=PATIENCE + 1)
        await bench.turns()
        assert len(bench.inside) == 1
        first = bench.inside.copy().pop()
        other = "worse one" if first == "bad one" else "bad one"
        bench.open.update(("bad", "worse"))
        await bench.finish(first)
        await bench.completes(engine, "bad", "worse")
    assert bench.calls[-2:] == [other, other.replace("one", "two")]


# --- while it waits


async def waiting_suspect(bench: Bench) -> FluxEngine:
    """An engine in which an innocent works, and a suspect waits for its end."""
    await bench.suspect("bad")
    engine = await bench.engine(grace=20)
    worker = engine.worker()
    await worker.__aenter__()
    await bench.innocents(engine, "i1")
    await bench.wanted(engine)
    return engine


async def test_cancelled_while_it_waits(cluster: Cluster) -> None:
    """D11, S11: a cancel does not wait for the others; and they go on at once."""
    bench = Bench(cluster)
    engine = await waiting_suspect(bench)
    bench.open.add("bad")
    await engine.cancel("bad")
    await engine.until("bad", {"cancelled"})
    assert bench.calls[-1] == "bad one!undo" or bench.calls[-1].startswith("bad one")
    await bench.finish("i1 one")
    await bench.enters("i1 two")
    bench.open.add("i1")
    await bench.finish("i1 two")


async def test_drained_while_it_waits(cluster: Cluster) -> None:
    """D10, D11: closing gives it back as it is: not lost once more, due for the next worker."""
    bench = Bench(cluster)
    engine = await waiting_suspect(bench)
    closing = asyncio.create_task(engine.close())
    await bench.finish("i1 one")
    await closing
    after = await bench.engine()
    assert len(await bench.records(after, "bad", AttemptLost)) == 3 and len(bench.calls) == 4
    header = await after.storage.read_header("bad")
    assert header is not None and header.owner is None and header.wake_at is not None
    bench.open.update(("bad", "i1"))
    async with after.worker():
        await bench.completes(after, "bad", "i1")
    await bench.unharmed("i1")


async def test_the_lease_is_lost_while_it_waits(cluster: Cluster) -> None:
    """I10, D11: it starts nothing under a lease that is gone; the gate opens for what comes under a new one."""
    bench = Bench(cluster)
    engine = await waiting_suspect(bench)
    lease = engine._host._lease  # pyright: ignore[reportPrivateUsage]
    assert lease is not None
    lease.stop()
    other = await bench.engine()
    bench.open.update(("bad", "i1", "i9"))
    engine._host.drop_lease(lease)  # pyright: ignore[reportPrivateUsage]
    await eventually(lambda: not engine._host.drivers)  # pyright: ignore[reportPrivateUsage]  # a commit would extend it (D15)
    assert not engine._host.isolation.closed  # pyright: ignore[reportPrivateUsage]
    await cluster.clock.advance(seconds=LEASE + 1)
    async with other.worker():
        await other.handle("bad").result(timeout=60)
        await other.handle("i1").result(timeout=60)
        await (await engine.start(bench.flow, id="i9")).result(timeout=60)


# --- what counts


async def lose(bench: Bench, *, beside: bool) -> FluxEngine:
    """One more attempt of "bad" is lost, beside an innocent that never ends or by itself; the engine that is dead then."""
    engine = await bench.engine()
    async with asyncio.timeout(60):
        worker = engine.worker()
        await worker.__aenter__()
        if beside:
            await bench.enters("i1 one")
        while "bad one" not in bench.inside and (await engine.summary("bad")).status != "blocked":
            await bench.cluster.clock.advance(seconds=1)
            await bench.turns()
            if engine._host.isolation.closed:  # pyright: ignore[reportPrivateUsage]
                for name in [name for name in bench.inside if not name.startswith("bad")]:
                    await bench.finish(name)
    await bench.crash(engine)
    return engine


async def test_what_counts_towards_the_limit(cluster: Cluster) -> None:
    """S3.7, D11: only losses of an attempt that ran alone, and with them the first; so a run beside others is condemned later, and what
    runs beside a suspect for a long time never."""
    bench = Bench(cluster, crash_limit=4)
    engine = await bench.engine()
    for run_id in ("i1", "bad"):
        await engine.start(bench.flow, id=run_id)
    for _ in range(2):
        await lose(bench, beside=True)
    for _ in range(9):
        if (await engine.summary("bad")).status == "blocked":
            break
        await lose(bench, beside=False)
    after = await bench.engine()
    ((_, blocked),) = await bench.records(after, "bad", RunBlocked)
    alone = await bench.records(after, "bad", AttemptIsolated)
    lost = await bench.records(after, "bad", AttemptLost)
    assert blocked.reason == "WorkerCrashed" and len(alone) == 3 and len(lost) > 4
    assert f"lost {len(lost)} attempts" in blocked.message and "3 of them while it ran alone" in blocked.message
    bench.open.add("i1")
    async with after.worker():
        await bench.completes(after, "i1")


async def by_resume(engine: FluxEngine, flow: Workflow[Any, Any]) -> Any:
    return await engine.resume(flow, "bad")


async def by_retry(engine: FluxEngine, flow: Workflow[Any, Any]) -> Any:
    return await engine.retry(flow, "bad", reason="the machine has more memory now")


async def by_trying_again(engine: FluxEngine, flow: Workflow[Any, Any]) -> Any:
    return await engine.resolve("bad", "one", "retry")


async def by_word(engine: FluxEngine, flow: Workflow[Any, Any]) -> Any:
    return await engine.resolve("bad", "one", "done", result="by hand")


async def by_leaving_out(engine: FluxEngine, flow: Workflow[Any, Any]) -> Any:
    return await engine.resolve("bad", "one", "skip")


@pytest.mark.parametrize("revive", [by_resume, by_retry, by_trying_again, by_word, by_leaving_out])
async def test_it_can_be_revived(cluster: Cluster, revive: Callable[[FluxEngine, Workflow[Any, Any]], Awaitable[Any]]) -> None:
    """S3.7, S10.6, S12.2: blocked for its crashes, a run is moved on in every way; its count begins anew."""
    bench = Bench(cluster, crash_limit=3)
    await bench.suspect("bad")
    engine = await bench.engine()
    async with engine.worker():
        await engine.until("bad", {"blocked"})
    assert "WorkerCrashed" in ((await engine.get("bad")).blocked_reason or "") and (await engine.get("bad")).way_on
    await cluster.clock.advance(seconds=5)
    calls = len(bench.calls)
    bench.open.add("bad")
    result = await revive(engine, bench.flow)
    assert result.status == "completed" and result.history[1].status == "completed"
    assert result.results.get("one") == {by_word: "by hand", by_leaving_out: None}.get(revive, "bad one done")
    assert len(bench.calls) - calls == (1 if revive in (by_word, by_leaving_out) else 2)
    assert result.history[0].lost_attempts == 0


# --- rolling crashes


@pytest.mark.parametrize("limit", [3, 5])
@pytest.mark.parametrize("innocents", [1, 3, 8])
async def test_innocents_are_never_condemned(cluster: Cluster, innocents: int, limit: int) -> None:
    """S3.7, I18: one run kills every worker that calls it, until it is blocked; all others complete, none of them blocked."""
    bench = Bench(cluster, crash_limit=limit)
    names = [f"i{number}" for number in range(innocents)]
    engine = await bench.engine()
    for run_id in [*names[: innocents // 2], "bad", *names[innocents // 2 :]]:
        await engine.start(bench.flow, id=run_id)
    for _ in range(20):
        if (await engine.summary("bad")).status == "blocked":
            break
        await lose(bench, beside=False)
    last = await bench.engine()
    bench.open.update(names)
    async with last.worker():
        await bench.completes(last, *names)
        for run_id in names:
            assert not await bench.records(last, run_id, RunBlocked)
    assert (await last.get("bad")).status == "blocked"

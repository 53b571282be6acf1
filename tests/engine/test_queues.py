"""Queues: how many runs of a workflow are moved at once, how many begin in a time, and what a key keeps apart or together."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, InvalidInput, InvalidWorkflow, Queue, RunConflict, RunHandle, create_workflow
from flux.storage import Query

from .cluster import Cluster, Effects, eventually
from .damage import damage_header

pytestmark = pytest.mark.anyio


class Gate:
    """A handler that stays inside until it is let through, and notes who was inside with whom."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.begun: list[str] = []
        self.most: Counter[str] = Counter()
        self._through = asyncio.Event()

    async def handler(self, ctx: Any) -> None:
        key = str(ctx.input)[:1]
        self.inside.append(key)
        self.begun.append(ctx.input)
        self.most[key] = max(self.most[key], self.inside.count(key))
        self.most["all"] = max(self.most["all"], len(self.inside))
        try:
            await self._through.wait()
        finally:
            self.inside.remove(key)

    async def full(self, number: int) -> None:
        """As many are inside, and no more come."""
        await eventually(lambda: len(self.inside) == number)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(self.inside) == number

    def open(self) -> None:
        self._through.set()


async def ended(handles: list[RunHandle]) -> None:
    for handle in handles:
        await handle.result(timeout=60)


async def test_workers_together_move_no_more_than_the_limit(cluster: Cluster) -> None:
    """S14.3, I14: `concurrency` is over all workers and calls; an `execute` begins at once, and counts."""
    gate = Gate()
    flow = create_workflow("limited", queue=Queue(concurrency=3)).step("a", gate.handler, timeout=None)
    one, two = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    direct = asyncio.create_task(one.execute(flow, "direct"))
    await gate.full(1)
    handles = [await one.start(flow, f"r{number}") for number in range(6)]
    async with one.worker(), two.worker():
        await gate.full(3)
        another = asyncio.create_task(two.execute(flow, "another"))
        await gate.full(4)
        gate.open()
        await ended(handles)
        await asyncio.gather(direct, another)
    assert gate.most["all"] <= 4


async def test_a_worker_moves_no_more_than_its_limit(cluster: Cluster) -> None:
    """S14.3: `worker_concurrency` is by worker; other workflows have the rest of its places."""
    gate, free = Gate(), Gate()
    flow = create_workflow("limited", queue=Queue(worker_concurrency=2)).step("a", gate.handler, timeout=None)
    other = create_workflow("other").step("a", free.handler, timeout=None)
    one, two = await cluster.open(workflows=[flow, other]), await cluster.open(workflows=[flow])
    handles = [await one.start(flow, f"r{number}") for number in range(7)]
    handles += [await one.start(other, "o") for _ in range(3)]
    async with one.worker(concurrency=5):
        await gate.full(2)
        await free.full(3)
        async with two.worker():
            await gate.full(4)
            gate.open()
            free.open()
            await ended(handles)


async def test_one_key_does_not_hold_up_another(cluster: Cluster) -> None:
    """S14.3, I15: of one key as many as the limit says, in their order; those of others go on."""
    gate = Gate()
    flow = create_workflow("keyed", queue=Queue(per_key=2, key=lambda name: name[:1])).step("a", gate.handler, timeout=None)
    engine = await cluster.open(workflows=[flow])
    inputs = [*[f"a{number}" for number in range(8)], "b1", "c1", "c2", "c3"]
    handles: list[RunHandle] = []
    for input in inputs:
        handles.append(await engine.start(flow, input))
        await cluster.clock.advance(1)
    async with engine.worker():
        await gate.full(5)
        assert sorted(gate.begun) == ["a0", "a1", "b1", "c1", "c2"]
        gate.open()
        await ended(handles)
    assert (gate.most["a"], gate.most["b"], gate.most["c"]) == (2, 1, 2)
    assert [one for one in gate.begun if one[0] == "a"] == inputs[:8]
    assert (await engine.doctor(ended=True)).healthy


async def test_one_key_at_a_time_across_workers(cluster: Cluster) -> None:
    """S14.3, I15: with rests between: a run that waits or sleeps leaves its place to the next of its key."""
    inside: Counter[str] = Counter()

    async def work(ctx: Any) -> None:
        inside[ctx.input] += 1
        assert inside[ctx.input] == 1
        await asyncio.sleep(0)
        inside[ctx.input] -= 1

    flow = create_workflow("keyed", queue=Queue(per_key=1)).step("a", work).sleep("nap", 5).step("b", work)
    engines = [await cluster.open(workflows=[flow]) for _ in range(3)]
    handles = [await engines[0].start(flow, key, concurrency_key=key) for _ in range(5) for key in "xyz"]
    async with engines[0].worker(concurrency=2), engines[1].worker(), engines[2].worker(concurrency=1):
        await ended(handles)
    assert (await engines[0].doctor(ended=True)).healthy


async def test_the_runs_of_a_dead_worker_do_not_keep_their_places(cluster: Cluster) -> None:
    """S14.1, I15: neither those of the limit, nor those of a key."""
    gate, effects = Gate(), Effects()
    flow = (
        create_workflow("keyed", queue=Queue(per_key=1, concurrency=2)).step("a", gate.handler, timeout=None).step("b", effects.step("b"))
    )
    doomed, heir = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    handles = [await heir.start(flow, key, concurrency_key=key) for key in "aabbc"]
    await doomed.worker().__aenter__()
    await gate.full(2)
    await cluster.crash(doomed)
    gate.open()
    async with heir.worker():
        await cluster.outlive()
        await ended(handles)
    assert effects.done == ["b"] * 5


async def test_no_more_begin_than_the_rate_says(cluster: Cluster) -> None:
    """S14.3: in any span of that length, whatever the number of workers; a run that has begun is not held up by it."""
    begun: list[float] = []

    async def first(ctx: Any) -> None:
        begun.append(cluster.clock.monotonic())

    flow = create_workflow("rated", queue=Queue(rate=(3, timedelta(seconds=10)))).step("a", first)
    one, two = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    await one.execute(flow)
    handles = [await one.start(flow) for _ in range(11)]
    async with one.worker(), two.worker():
        await ended(handles)
    assert len(begun) == 12
    assert all(later - earlier >= 10 for earlier, later in zip(begun, begun[3:], strict=False)), begun
    assert begun[-1] - begun[0] < 45


async def test_what_has_begun_goes_on_beside_what_the_rate_holds_back(cluster: Cluster) -> None:
    """S14.3: a timer of a run that has begun is not behind a backlog that may not begin."""
    effects = Effects()
    flow = create_workflow("rated", queue=Queue(rate=(1, 1000))).step("a", effects.step("a")).sleep("nap", 5).step("b", effects.step("b"))
    engine = await cluster.open(workflows=[flow])
    first = await engine.start(flow)
    for _ in range(5):
        await engine.start(flow, priority=100)
    await engine.resume(flow, first.id)
    began = cluster.clock.monotonic()
    async with engine.worker():
        await eventually(lambda: "b" in effects.done)
        assert cluster.clock.monotonic() - began < 10


async def test_a_worker_that_waits_for_the_rate_sleeps(cluster: Cluster) -> None:
    """S14.3: it does not ask again and again; nor does one that waits for a place."""
    gate = Gate()
    rated = create_workflow("rated", queue=Queue(rate=(1, 1000))).step("a", Effects().step("a"))
    full = create_workflow("full", queue=Queue(concurrency=1, per_key=1)).step("a", gate.handler, timeout=None)
    engine = await cluster.open(workflows=[rated, full])
    cluster.stand_still()
    for number in range(5):
        await engine.start(rated)
        await engine.start(full, concurrency_key="k" if number else "l")
    asked = 0
    claim = engine.storage.claim

    async def count(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await claim(*arguments)

    engine.storage.claim = count  # type: ignore[method-assign, assignment]
    async with engine.worker():
        await gate.full(1)
        before = asked
        for _ in range(300):
            await asyncio.sleep(0)
        assert asked - before <= 5
        gate.open()
        engine.stop()


async def test_limits_change_without_a_new_version(cluster: Cluster) -> None:
    """S13.2: they are no part of a workflow's shape; runs that wait behind a key go by the new one."""
    gate = Gate()
    strict = create_workflow("keyed", queue=Queue(per_key=1)).step("a", gate.handler, timeout=None)
    wide = create_workflow("keyed", queue=Queue(per_key=3)).step("a", gate.handler, timeout=None)
    free = create_workflow("keyed").step("a", gate.handler, timeout=None)
    first = await cluster.open(workflows=[strict])
    handles = [await first.start(strict, "k", concurrency_key="k") for _ in range(8)]
    await first.worker().__aenter__()
    await gate.full(1)
    await cluster.crash(first)
    second = await cluster.open(workflows=[wide])
    async with second.worker():
        await cluster.outlive()
        await gate.full(3)
        gate.open()
        await ended([second.handle(handle.id) for handle in handles])
    third = await cluster.open(workflows=[free])
    assert (await third.execute(free, "k")).status == "completed"


async def test_children_and_schedules_have_the_keys_of_their_inputs(cluster: Cluster) -> None:
    """S1.2, S14.3: `Queue(key=...)` is asked for every run, whoever starts it."""
    effects = Effects()
    child = create_workflow("child", queue=Queue(per_key=1, key=lambda order: order["shop"])).step("a", effects.step("a"))
    parent = create_workflow("parent").child("kid", child, input=lambda ctx: {"shop": 7})
    engine = await cluster.open(workflows=[parent, child])
    run = await engine.execute(parent)
    assert run.status == "completed" and effects.done == ["a"]
    lanes = {header.workflow: header.lane for header in await engine.storage.find(Query())}
    assert lanes == {"parent": "", "child": "7"}


async def test_a_cancel_does_not_wait_for_a_place(cluster: Cluster) -> None:
    """S11.1: a run that waits behind its key is cancelled at once, here and now."""
    gate = Gate()
    flow = create_workflow("keyed", queue=Queue(per_key=1, concurrency=1)).step("a", gate.handler, timeout=None)
    engine = await cluster.open(workflows=[flow])
    handles = [await engine.start(flow, "k", concurrency_key="k") for _ in range(3)]
    async with engine.worker():
        await gate.full(1)
        assert (await engine.cancel(handles[1].id)).status == "cancelled"
        gate.open()
        await ended([handles[0], handles[2]])


async def test_a_deduplication_key(engine: FluxEngine) -> None:
    """S2.4: one run at a time under it, whatever the inputs; free again when that has ended, also for good."""
    effects = Effects()
    flow = create_workflow("sync").step("a", effects.step("a")).wait("go")
    other = create_workflow("other").step("a", effects.step("a"))
    first = await engine.start(flow, {"n": 1}, deduplication_key="user-42")
    again = await engine.start(flow, {"n": 2}, deduplication_key="user-42")
    assert again.id == first.id
    run = await engine.execute(flow, {"n": 3}, deduplication_key="user-42")
    assert (run.id, run.status, run.input) == (first.id, "suspended", {"n": 1})
    assert (await engine.start(other, {"n": 2}, deduplication_key="user-42")).id != first.id
    assert (await engine.signal(flow, first.id, "go")).status == "completed"
    second = await engine.start(flow, {"n": 2}, deduplication_key="user-42")
    assert second.id != first.id
    with pytest.raises(RunConflict, match="another input"):
        await engine.start(flow, {"n": 4}, id=second.id, deduplication_key="user-42")
    await engine.start(flow, {"n": 5}, idempotency_key="i", deduplication_key="user-43")
    with pytest.raises(RunConflict, match="another input"):
        await engine.start(flow, {"n": 6}, idempotency_key="i", deduplication_key="user-43")


async def test_starts_at_once_under_one_deduplication_key(engine: FluxEngine) -> None:
    """I39: one of them makes the run."""
    flow = create_workflow("sync").step("a", Effects().step("a"))
    handles = await asyncio.gather(*[engine.start(flow, number, deduplication_key="k") for number in range(20)])
    assert len({handle.id for handle in handles}) == 1


async def test_a_retry_does_not_take_the_key_back(engine: FluxEngine) -> None:
    """S12.2, S2.4: another run may have it by then; both go on."""
    fails = True

    async def handler(ctx: Any) -> None:
        if fails:
            raise ValueError("no")

    flow = create_workflow("sync").step("a", handler, retries=0)
    first = await engine.execute(flow, deduplication_key="k")
    assert first.status == "failed"
    fails = False
    second = await engine.start(flow, deduplication_key="k")
    assert (await engine.retry(flow, first.id)).status == "completed"
    assert (await engine.start(flow, deduplication_key="k")).id == second.id


async def test_a_doctor_finds_who_is_parked_behind_nobody(cluster: Cluster) -> None:
    """I15: which no order of calls leads to; who waits behind one that is held, or that is next, is fine."""
    gate = Gate()
    flow = create_workflow("keyed", queue=Queue(per_key=1)).step("a", gate.handler, timeout=None)
    engine = await cluster.open(workflows=[flow])
    cluster.stand_still()
    handles: list[RunHandle] = []
    for _ in range(3):
        handles.append(await engine.start(flow, "k", concurrency_key="k"))
        await cluster.clock.advance(1)
    assert (await engine.doctor()).healthy
    async with engine.worker():
        await gate.full(1)
        assert (await engine.doctor()).healthy
        lost = await engine.start(flow, "l", concurrency_key="l", delay=1000)
        await damage_header(cluster, lost.id, parked=True)
        (finding,) = (await engine.doctor()).findings
        assert (finding.kind, finding.run_id) == ("stuck", lost.id) and "concurrency key" in finding.message
        gate.open()
        assert (await engine.resume(flow, lost.id)).status == "completed"
        await ended(handles)
    assert (await engine.doctor(ended=True)).healthy


@pytest.mark.parametrize(
    ("queue", "told"),
    [
        (3, r"queue must be a Queue\(\.\.\.\)"),
        (Queue(concurrency=0), "concurrency must be a whole number from 1, got 0"),
        (Queue(worker_concurrency=True), "worker_concurrency must be a whole number from 1"),
        (Queue(per_key=1.5), "per_key must be a whole number from 1, got 1.5"),  # type: ignore[arg-type]
        (Queue(rate=100), r"rate must be a pair such as \(100, 60\)"),  # type: ignore[arg-type]
        (Queue(rate=(0, 60)), "rate: how many must be a whole number from 1"),
        (Queue(rate=(5, 0)), "rate: in how long a time must be more than 0"),
        (Queue(rate=(5, "minute")), "rate: in how long a time must be seconds or a timedelta"),  # type: ignore[arg-type]
        (Queue(key=lambda order: order), "queue has a key and no per_key"),
        (Queue(per_key=1, key="customer"), "queue, key"),  # type: ignore[arg-type]
    ],
)
def test_what_no_queue_can_be(queue: Any, told: str) -> None:
    """S1.4: it is refused when the workflow is built, with its name."""
    with pytest.raises(InvalidWorkflow, match=f"workflow 'order': .*{told}"):
        create_workflow("order", queue=queue)


async def test_what_no_key_can_be(engine: FluxEngine) -> None:
    """S15.7: refused before anything is stored."""
    plain = create_workflow("plain").step("a", Effects().step("a"))
    keyed = create_workflow("keyed", queue=Queue(per_key=1, key=lambda order: order["key"])).step("a", Effects().step("a"))
    with pytest.raises(InvalidArgument, match="workflow 'plain' has no limit per key"):
        await engine.start(plain, concurrency_key="k")
    for key in ("", "a b", "x" * 201, 5):
        with pytest.raises(InvalidArgument, match="concurrency_key"):
            await engine.start(keyed, {"key": "k"}, concurrency_key=key)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="deduplication key"):
            await engine.start(plain, deduplication_key=key)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="the key of its queue raised KeyError"):
        await engine.start(keyed, {})
    with pytest.raises(InvalidInput, match="the key of its queue"):
        await engine.execute(keyed, {"key": ["list"]})
    assert not (await engine.list()).runs
    await engine.start(keyed, {"key": None})
    await engine.start(keyed, {"key": 7})
    assert sorted(header.lane for header in await engine.storage.find(Query())) == ["", "7"]

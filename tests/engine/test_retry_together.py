"""A retry among others: at the same time, by engines that die, drain or lose their lease, on storages that fail (D1, S12.2, S15.3)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from flux import (
    DefinitionChanged,
    FluxEngine,
    InvalidArgument,
    Retry,
    RunFinished,
    RunNotFinished,
    StorageUnavailable,
    UnknownWorkflow,
    create_workflow,
)

from .again import Shop, header, stands
from .cluster import Cluster, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


async def test_two_at_once_in_one_engine(cluster: Cluster) -> None:
    """D1: of calls that found the run failed one reopens it, and all learn what came of it."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    shop = Shop("a")
    flow = create_workflow("two").step("a", shop.act("a"), retries=0)
    run = await engine.execute(flow)
    shop.again()
    gate = storage.held["take"] = asyncio.Event()
    tasks = [asyncio.create_task(engine.retry(flow, run.id)) for _ in range(5)]
    await eventually(lambda: [verb for verb, _ in storage.calls].count("take") == 5)
    gate.set()
    results = await asyncio.gather(*tasks)
    assert [result.status.value for result in results] == ["completed"] * 5
    assert shop.done == ["a"] and len((await engine.get(run.id)).reopenings) == 1
    with pytest.raises(RunFinished):
        await engine.retry(flow, run.id)


async def test_two_at_once_while_it_runs(cluster: Cluster) -> None:
    """D1: whoever asks while the first retry is under way, here or elsewhere, gets its outcome."""
    elsewhere = Faulty(cluster.storage())
    one, other = await cluster.open(), await cluster.open(elsewhere)
    shop = Shop("a")
    go = asyncio.Event()

    async def slow(ctx: Any) -> str:
        result = await shop.act("a")(ctx)
        await go.wait()
        return str(result)

    flow = create_workflow("two").step("a", slow, retries=0)
    run = await one.execute(flow)
    shop.again()
    first = asyncio.create_task(one.retry(flow, run.id))
    await shop.reached("a")
    others = [asyncio.create_task(engine.retry(flow, run.id)) for engine in (one, other, other)]
    await eventually(lambda: [verb for verb, _ in elsewhere.calls].count("changed") >= 2)
    go.set()
    results = await asyncio.gather(first, *others)
    assert [result.status.value for result in results] == ["completed"] * 4
    assert shop.done == ["a"] and len(results[-1].reopenings) == 1


async def test_while_another_is_about_to(cluster: Cluster) -> None:
    """D1: the other has taken the run and not written yet: this call waits for what comes of it."""
    storage = Faulty(cluster.storage())
    elsewhere = Faulty(cluster.storage())
    one, other = await cluster.open(storage), await cluster.open(elsewhere)
    shop = Shop("a")
    flow = create_workflow("about").step("a", shop.act("a"), retries=0)
    run = await one.execute(flow)
    shop.again()
    gate = storage.held["commit"] = asyncio.Event()
    storage.calls.clear()
    first = asyncio.create_task(one.retry(flow, run.id))
    await eventually(lambda: storage.calls and storage.calls[-1][0] == "commit")
    second = asyncio.create_task(other.retry(flow, run.id))
    await eventually(lambda: elsewhere.calls[-1][0] == "changed")
    del storage.held["commit"]
    gate.set()
    results = await asyncio.gather(first, second)
    assert [result.status.value for result in results] == ["completed", "completed"]
    assert shop.done == ["a"] and len(results[1].reopenings) == 1


async def test_a_run_that_another_moves(cluster: Cluster) -> None:
    """S12.2: it is not retried, wherever it runs."""
    one, other = await cluster.open(), await cluster.open()
    shop = Shop()
    shop.hanging = {"a"}
    flow = create_workflow("runs").step("a", shop.act("a"), timeout=None)
    task = asyncio.create_task(one.execute(flow, id="r"))
    await shop.reached("a")
    with pytest.raises(RunNotFinished):
        await other.retry(flow, "r")
    await one.cancel("r", interrupt=True)
    await task


async def test_killed_in_a_retry(cluster: Cluster) -> None:
    """S12.1, D1: a retried run is a run like any other: a worker takes it over, and it is not reopened again."""
    shop = Shop("b")
    flow = create_workflow("killed").step("a", shop.act("a"), compensate=shop.act("undo")).step("b", shop.act("b"), retries=0)
    one = await cluster.open()
    await one.execute(flow, id="r")
    shop.again()
    shop.hanging = {"b"}
    task = asyncio.create_task(one.retry(flow, "r"))
    await shop.reached("b")
    await cluster.crash(one)
    await asyncio.gather(task, return_exceptions=True)
    shop.hanging.clear()
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    async with other.worker():
        await eventually(lambda: stands(other, "r", "completed"))
    result = await other.get("r")
    assert shop.done == ["a", "b", "b"] and len(result.reopenings) == 1 and result.history[1].lost_attempts == 0


async def test_killed_before_it_is_written(cluster: Cluster) -> None:
    """I15: an engine that dies with an ended run in its hands leaves it as it was: ended, and to be retried."""
    shop = Shop("a")
    flow = create_workflow("before").step("a", shop.act("a"), retries=0)
    storage = Faulty(cluster.storage())
    one = await cluster.open(storage)
    await one.execute(flow, id="r")
    storage.held["commit"] = asyncio.Event()
    storage.calls.clear()
    task = asyncio.create_task(one.retry(flow, "r"))
    await eventually(lambda: storage.calls and storage.calls[-1][0] == "commit")
    await cluster.crash(one)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    async with other.worker():
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await other.get("r")).status == "failed" and shop.done == ["a"]
        shop.again()
        assert (await other.retry(flow, "r")).status == "completed"
    assert len((await other.get("r")).reopenings) == 1


@pytest.mark.parametrize("after", [False, True])
async def test_a_commit_that_fails(cluster: Cluster, after: bool) -> None:
    """S15.3: the reopening is written once, whether the storage failed before or after it wrote."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    shop = Shop("a")
    flow = create_workflow("faulty").step("a", shop.act("a"), retries=0)
    run = await engine.execute(flow)
    shop.again()
    storage.fail("commit", StorageUnavailable("disk full"), after=after)
    result = await engine.retry(flow, run.id)
    assert result.status == "completed" and shop.done == ["a"] and len(result.reopenings) == 1


async def test_a_storage_that_stays_down(cluster: Cluster) -> None:
    """S15.3, I15: when it comes back the run is what it was, and can be retried."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    shop = Shop("a")
    flow = create_workflow("down").step("a", shop.act("a"), retries=0)
    run = await engine.execute(flow)
    shop.again()
    storage.fail("commit", StorageUnavailable("disk full"), times=10_000)
    storage.fail("renew", StorageUnavailable("disk full"), times=10_000)
    task = asyncio.create_task(engine.retry(flow, run.id))
    await eventually(lambda: len(storage.commits()) > 6)
    assert shop.done == []
    storage.faults.clear()
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    other = await cluster.open()
    if (await other.get(run.id)).status == "failed":
        await other.retry(flow, run.id)
    result = await other.get(run.id)
    assert result.status == "completed" and shop.done == ["a"] and len(result.reopenings) == 1


async def test_a_take_that_fails(cluster: Cluster) -> None:
    """S15.3: the caller is told, and nothing has happened to the run."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    shop = Shop("a")
    flow = create_workflow("take").step("a", shop.act("a"), retries=0)
    run = await engine.execute(flow)
    shop.again()
    storage.fail("take", StorageUnavailable("gone"))
    with pytest.raises(StorageUnavailable):
        await engine.retry(flow, run.id)
    assert (await engine.get(run.id)).status == "failed" and shop.done == []
    assert (await engine.retry(flow, run.id)).status == "completed"


async def test_code_that_is_not_there(cluster: Cluster) -> None:
    """S13, I15: a version that is not registered, or no longer fits, is an error of the call; the run is given back as it was."""
    shop = Shop("b")
    flow = create_workflow("code").step("a", shop.act("a")).step("b", shop.act("b"), retries=0)
    newer = create_workflow("code", version="2").step("a", shop.act("a")).step("b", shop.act("b"))
    changed = create_workflow("code").step("x", shop.act("x")).step("b", shop.act("b"))
    engine = await cluster.open()
    await engine.execute(flow, id="r")
    before = await header(engine, "r")
    for wrong, error in ((newer, UnknownWorkflow), (changed, DefinitionChanged)):
        other = await cluster.open()
        for call in (other.retry, other.replay):
            with pytest.raises(error):
                await call(wrong, "r")
        after = await header(other, "r")
        assert (after.status, after.position, after.owner, after.ended_at) == (before.status, before.position, None, before.ended_at)
    with pytest.raises(InvalidArgument):
        await engine.retry(flow, "r", reason="x" * 9000)
    shop.again()
    assert (await engine.retry(flow, "r")).status == "completed"


async def test_a_signal_while_it_is_written(cluster: Cluster) -> None:
    """D12: what comes between taking a blocked run and moving it on is folded first, and not lost."""
    storage = Faulty(cluster.storage())
    one, other = await cluster.open(storage), await cluster.open()
    shop = Shop("b")
    flow = create_workflow("comes").commit("pay", shop.act("pay"), pivot=True).step("b", shop.act("b"), retries=0).wait("go")
    assert (await one.execute(flow, id="r")).status == "blocked"
    shop.again()
    gate = storage.held["commit"] = asyncio.Event()
    storage.calls.clear()
    task = asyncio.create_task(one.retry(flow, "r"))
    await eventually(lambda: storage.calls and storage.calls[-1][0] == "commit")
    assert (await other.signal(flow, "r", "go", 5)).status == "blocked"
    del storage.held["commit"]
    gate.set()
    result = await task
    assert result.status == "completed" and result.results["go"] == 5 and shop.done == ["b"] and len(result.resolutions) == 1


async def test_a_cancel_while_it_is_written(cluster: Cluster) -> None:
    """D12, I27: a cancel that was accepted before the run moved on wins."""
    storage = Faulty(cluster.storage())
    one, other = await cluster.open(storage, abandon_after=0.02), await cluster.open()
    go = threading.Event()
    shop = Shop()

    def stay(ctx: Any) -> None:
        go.wait(10)

    flow = (
        create_workflow("cancelled")
        .step("a", shop.act("a"), compensate=shop.act("undo"))
        .step("stay", stay, timeout=0.02, retries=1, retry=AT_ONCE)
        .step("b", shop.act("b"))
    )
    assert (await one.execute(flow, id="r")).status == "blocked"
    gate = storage.held["commit"] = asyncio.Event()
    storage.calls.clear()
    task = asyncio.create_task(one.retry(flow, "r"))
    await eventually(lambda: storage.calls and storage.calls[-1][0] == "commit")
    await other.cancel("r")
    del storage.held["commit"]
    gate.set()
    result = await task
    go.set()
    assert result.status == "cancelled" and shop.done == ["a", "undo"]


async def test_the_lease_is_lost_before_it_is_written(cluster: Cluster) -> None:
    """S14.2, D1: this engine was condemned, and hears of it only when it writes: it takes the run anew and does what was asked, once."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    shop = Shop("a")
    flow = create_workflow("lease").step("a", shop.act("a"), retries=0)
    run = await engine.execute(flow)
    shop.again()
    gate = storage.held["commit"] = asyncio.Event()
    storage.calls.clear()
    task = asyncio.create_task(engine.retry(flow, run.id))
    await eventually(lambda: storage.calls and storage.calls[-1][0] == "commit")
    lease = engine._host._lease  # pyright: ignore[reportPrivateUsage]
    assert lease is not None
    await storage.unregister(lease.nonce)
    del storage.held["commit"]
    gate.set()
    result = await task
    assert result.status == "completed" and shop.done == ["a"] and len(result.reopenings) == 1


async def test_a_caller_that_goes_away(engine: FluxEngine) -> None:
    """D19: it only detaches; the retried run goes on."""
    shop = Shop("a")
    flow = create_workflow("goes").step("a", shop.act("a"), retries=0).wait("go")
    run = await engine.execute(flow)
    shop.again()
    for turns in range(12):
        shop.failing = {"a"}
        task = asyncio.create_task(engine.retry(flow, run.id))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: not engine._host.drivers)  # pyright: ignore[reportPrivateUsage]
    shop.failing.clear()

    async def free() -> bool:
        return (await header(engine, run.id)).owner is None

    await eventually(free)
    run = await engine.get(run.id)
    if not run.waiting_for:  # the last that went away may have set it going, or not
        run = await engine.retry(flow, run.id)
    assert run.waiting_for == ("go",)
    assert (await engine.signal(flow, run.id, "go")).status == "completed"


async def test_in_an_engine_that_drains(cluster: Cluster) -> None:
    """S14.4: a retry that comes while the engine closes is written, and left to a worker."""
    shop = Shop("a")
    go = asyncio.Event()

    async def slow(ctx: Any) -> None:
        shop.entered.setdefault("slow", asyncio.Event()).set()
        await go.wait()

    flow = create_workflow("drains").step("a", shop.act("a"), retries=0)
    other = create_workflow("other").step("slow", slow)
    engine = await cluster.open(workflows=[flow])
    await engine.execute(flow, id="r")
    shop.again()
    task = asyncio.create_task(engine.execute(other))
    await shop.reached("slow")
    closing = asyncio.create_task(engine.close())
    await eventually(lambda: engine._host.draining)  # pyright: ignore[reportPrivateUsage]
    result = await engine.retry(flow, "r")
    assert not result.finished and len(result.reopenings) == 1 and shop.done == []
    go.set()
    await asyncio.gather(closing, task)
    late = await cluster.open(workflows=[flow])
    async with late.worker():
        await eventually(lambda: stands(late, "r", "completed"))
    assert shop.done == ["a"] and not (await late.history("r"))[0].in_doubt


async def test_with_a_worker_beside(cluster: Cluster) -> None:
    """S14.1: a worker in the same engine and one elsewhere do not move a run twice that is retried."""
    shop = Shop("a")
    flow = (
        create_workflow("beside")
        .step("a", shop.act("a"), retries=0)
        .step("b", shop.act("b"))
        .sleep("nap", seconds=0.5)
        .step("c", shop.act("c"))
    )
    one, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    async with one.worker(), other.worker():
        for number in range(5):
            await one.execute(flow, id=f"r-{number}")
        shop.again()
        results = await asyncio.gather(*[[one, other][number % 2].retry(flow, f"r-{number}") for number in range(5)])
        for number in range(5):
            await one.handle(f"r-{number}").result()
    assert sorted(shop.done) == sorted("abc" * 5) and len(results) == 5

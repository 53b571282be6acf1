"""A storage that does not answer, leases that are lost, handlers that raise the strangest things."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from flux import DefinitionChanged, FluxEngine, RunStatus, StepError, StorageMisused, StorageUnavailable, create_workflow

from .cluster import LEASE, Cluster, Effects, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio

DOWN = StorageUnavailable("the disk is full")


async def faulty(cluster: Cluster, **options: Any) -> tuple[FluxEngine, Faulty]:
    storage = Faulty(cluster.storage())
    return await cluster.open(storage, **options), storage


@pytest.mark.parametrize("after", [False, True])
async def test_a_commit_that_fails_is_tried_again(cluster: Cluster, after: bool) -> None:
    """S15.3, I45: the same commit, until it is answered; the handler is not run again for it."""
    effects = Effects()
    engine, storage = await faulty(cluster)
    flow = create_workflow("again").step("a", effects.step("a", 1)).step("b", effects.step("b", 2))
    storage.fail("commit", DOWN, after=after, times=3)
    result = await engine.execute(flow)
    assert result.status == "completed" and effects.done == ["a", "b"] and result.results == {"a": 1, "b": 2}
    commits = storage.commits()
    assert len(commits) == 5 and commits[0] == commits[1] == commits[2] == commits[3]
    assert (await engine.get(result.id)).results == result.results


async def test_a_storage_that_stays_down(cluster: Cluster) -> None:
    """I45, S14.2: only as long as the lease holds; then the run is dropped, and whoever comes next takes it over."""
    effects = Effects()
    engine, storage = await faulty(cluster)
    other = await cluster.open()
    flow = create_workflow("down").step("a", effects.step("a", 1)).step("b", effects.step("b", 2))
    storage.fail("commit", DOWN, times=10_000)
    storage.fail("renew", DOWN, times=10_000)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await eventually(lambda: len(storage.commits()) > 2)
    await cluster.outlive()
    result = await other.resume(flow, "r")
    assert result.status == "completed" and effects.done == ["a", "a", "b"]
    storage.faults.clear()
    assert (await task).results == {"a": 1, "b": 2}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("verb", ["create", "take", "post", "claim"])
async def test_a_lease_that_is_not_heard_of(cluster: Cluster, verb: str, after: bool) -> None:
    """S15.3, I15: a verb that leases a run may have done so without our hearing of it: the caller has an error, and the run is not held
    by nobody: the next call moves it, and its step is called once."""
    effects = Effects()
    engine, storage = await faulty(cluster)
    flow = create_workflow("unheard").wait("go").step("a", effects.step("a", 1))
    if verb == "create":
        storage.fail(verb, DOWN, after=after)
        with pytest.raises(StorageUnavailable):
            await engine.execute(flow, id="r")
        await engine.execute(flow, id="r")
    else:
        await engine.start(flow, id="r")
        storage.fail(verb, DOWN, after=after)
        if verb == "take":
            with pytest.raises(StorageUnavailable):
                await engine.resume(flow, "r")
        elif verb == "post":
            with pytest.raises(StorageUnavailable):
                await engine.signal(flow, "r", "go", signal_id="s")
        else:
            async with engine.worker():
                await engine.until("r", {RunStatus.SUSPENDED})
    result = await asyncio.wait_for(engine.signal(flow, "r", "go", signal_id="s"), 10)
    result = await asyncio.wait_for(engine.resume(flow, "r"), 10)
    assert result.status == "completed" and effects.done == ["a"] and len((await engine.list()).runs) == 1


@pytest.mark.parametrize("call", ["signal", "resume", "worker"])
async def test_a_run_that_cannot_be_given_back(cluster: Cluster, call: str) -> None:
    """I15: a run that was taken and does not fit is not held by nobody when giving it back fails."""
    effects = Effects()
    flow = create_workflow("fits").step("a", effects.step("a")).wait("go").step("b", effects.step("b"))
    changed = create_workflow("fits").step("z", effects.step("z")).wait("go").step("b", effects.step("b"))
    engine, storage = await faulty(cluster, workflows=[changed])
    fits = await cluster.open(drive_in_caller=False)
    run_id = (await fits.execute(flow)).id
    await fits.signal(flow, run_id, "go", signal_id="s")
    storage.fail("commit", DOWN)
    if call == "signal":
        await engine.signal(changed, run_id, "go", signal_id="s")
    elif call == "resume":
        with pytest.raises(DefinitionChanged):
            await engine.resume(changed, run_id)
    else:
        async with engine.worker():
            await engine.until(run_id, {RunStatus.BLOCKED})
    assert storage.faults[0].times == 0
    assert (await asyncio.wait_for(fits.resume(flow, run_id), 10)).status == "completed"


async def test_calls_that_the_storage_cannot_answer(cluster: Cluster) -> None:
    """E: a typed error at the caller, nothing written, and the next call works."""
    engine, storage = await faulty(cluster)
    flow = create_workflow("calls").wait("w")
    run_id = (await engine.execute(flow)).id
    for verb, call in (
        ("load", lambda: engine.get(run_id)),
        ("find", lambda: engine.list()),
        ("post", lambda: engine.signal(flow, run_id, "w", 1)),
        ("read_header", lambda: engine.cancel(run_id)),
        ("take", lambda: engine.resume(flow, run_id)),
        ("create", lambda: engine.start(flow)),
        ("delete", lambda: engine.delete(run_id)),
        ("purge", lambda: engine.purge(1)),
    ):
        storage.fail(verb, DOWN)
        with pytest.raises(StorageUnavailable):
            await call()  # type: ignore[no-untyped-call]
    assert (await engine.signal(flow, run_id, "w", 2)).results == {"w": 2}


async def test_a_worker_outlives_a_storage_that_is_down(cluster: Cluster) -> None:
    """I18: claims go on once it is back."""
    effects = Effects()
    engine, storage = await faulty(cluster)
    flow = create_workflow("claims").step("a", effects.step("a"))
    handle = await engine.start(flow)
    storage.fail("claim", DOWN, times=2)
    async with engine.worker():
        await handle.result(timeout=60)
    assert effects.done == ["a"]


async def test_a_fault_of_the_engines_own(cluster: Cluster) -> None:
    """I15, I17: something that flux did not expect is told to the caller; the run is parked with the reason and can go on."""
    effects = Effects()
    engine, storage = await faulty(cluster)
    flow = create_workflow("own").step("a", effects.step("a", 1)).step("b", effects.step("b", 2))
    storage.fail("commit", RuntimeError("a bug in an adapter"))
    with pytest.raises(RuntimeError, match="adapter"):
        await engine.execute(flow, id="r")
    parked = await engine.get("r")
    assert parked.status == "blocked" and "a bug in an adapter" in (parked.blocked_reason or "")
    result = await engine.resume(flow, "r")
    assert result.status == "completed" and result.results == {"a": 1, "b": 2}


# --- leases


async def test_a_lost_lease_drops_the_run(cluster: Cluster) -> None:
    """S14.2, I11: who was taken for dead writes nothing any more; its caller gets the result of who moved the run."""
    effects = Effects()
    entered, go = asyncio.Event(), asyncio.Event()

    async def hold(ctx: Any) -> str:
        effects.done.append(f"hold {ctx.attempt}")
        if ctx.attempt == 1:
            entered.set()
            await go.wait()
        return f"by {ctx.attempt}"

    engine, storage = await faulty(cluster)
    other = await cluster.open()
    flow = create_workflow("lost").step("hold", hold, timeout=None).step("b", effects.step("b"))
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    storage.fail("renew", DOWN, times=10_000)  # cut off from its heartbeats
    await cluster.clock.advance(LEASE + 1)
    assert (await other.resume(flow, "r")).results["hold"] == "by 2"
    storage.faults.clear()
    go.set()
    result = await task
    assert result.results["hold"] == "by 2" and effects.done == ["hold 1", "hold 2", "b"]
    assert (await engine.execute(create_workflow("fine").step("a", effects.step("a")))).status == "completed"


async def test_a_late_heartbeat(cluster: Cluster) -> None:
    """D13, I12: a lease that ran out unnoticed is renewed at the next call, and what is under way goes on."""
    effects = Effects()
    entered, go = asyncio.Event(), asyncio.Event()

    async def hold(ctx: Any) -> int:
        entered.set()
        await go.wait()
        return int(ctx.attempt)

    engine, storage = await faulty(cluster)
    task = asyncio.create_task(engine.execute(create_workflow("late").step("hold", hold, timeout=None), id="r"))
    await entered.wait()
    storage.fail("renew", DOWN)
    await cluster.clock.advance(LEASE + 1)
    assert (await engine.execute(create_workflow("other").step("a", effects.step("a")))).status == "completed"
    go.set()
    assert (await task).results == {"hold": 1}


async def test_a_run_is_made_by_a_worker_that_was_condemned(cluster: Cluster) -> None:
    """S14.2: it learns so when it makes the next run, and makes that under another name."""
    effects = Effects()
    flow = create_workflow("condemned").step("a", effects.step("a"))
    engine = await cluster.open()
    await engine.execute(flow, id="before")
    nonce = (await engine._host.lease()).nonce  # pyright: ignore[reportPrivateUsage]
    await engine.storage.unregister(nonce)
    result = await engine.execute(flow, id="after")
    assert result.status == "completed" and effects.done == ["a", "a"]


async def test_a_condemned_worker_stops_its_handlers(cluster: Cluster) -> None:
    """D13, S14.2: it learns at its next heartbeat, drops everything and registers anew."""
    entered = asyncio.Event()
    ended: list[str] = []

    async def hold(ctx: Any) -> str:
        if ctx.attempt > 1:
            return "second"
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("stopped")
        return "never"

    engine, storage = await faulty(cluster)
    other = await cluster.open()
    flow = create_workflow("condemned").step("hold", hold, timeout=None)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    storage.fail("renew", DOWN)
    await cluster.clock.advance(LEASE + 1)
    assert (await other.resume(flow, "r")).results == {"hold": "second"} and ended == []
    await cluster.clock.advance(1)
    assert (await task).results == {"hold": "second"} and ended == ["stopped"]
    assert (await engine.execute(create_workflow("fine").step("a", Effects().step("a")))).status == "completed"


async def test_a_run_that_is_deleted_meanwhile(cluster: Cluster) -> None:
    """The faults' table: a row deleted under a waiting caller: an error, never a hang."""
    engine = await cluster.open()
    flow = create_workflow("gone").step("a", Effects().step("a"))
    run_id = (await engine.execute(flow)).id
    await engine.delete(run_id)
    with pytest.raises(LookupError):
        await engine.resume(flow, run_id)


# --- what handlers may raise


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Custom(BaseException):
    pass


@pytest.mark.parametrize("after_a_turn", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        Mute(), Custom("x"), asyncio.CancelledError(), ExceptionGroup("many", [ValueError("a"), OSError("b")]),
        BaseExceptionGroup("all", [Custom("x")]), StopAsyncIteration(), RecursionError("deep"), MemoryError(), TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("thread", [False, True])
async def test_odd_exceptions(engine: FluxEngine, error: BaseException, after_a_turn: bool, thread: bool) -> None:
    """Traps: the step fails and its run is compensated; the engine and the other runs live on."""
    effects = Effects()

    async def fail(ctx: Any) -> None:
        if after_a_turn:
            await asyncio.sleep(0)
        raise error

    def fail_on_a_thread(ctx: Any) -> None:
        raise error

    flow = (
        create_workflow("odd")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .step("fail", fail_on_a_thread if thread else fail, retries=0)
    )
    result = await asyncio.wait_for(engine.execute(flow), 10)
    assert result.status == "failed" and effects.done == ["a", "undo a"]
    assert type(result.error) in (type(error), StepError)
    assert (await engine.get(result.id)).status == "failed"
    assert (await engine.execute(create_workflow("fine").step("a", effects.step("a")))).status == "completed"


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)
async def test_a_handler_that_stops_the_process(cluster: Cluster, error: BaseException, thread: bool) -> None:
    """Traps: it stops the engine gracefully and reaches the caller; the run is released and not failed."""
    effects = Effects()
    flaky = [error]

    async def stop(ctx: Any) -> str:
        if flaky:
            raise flaky.pop()
        return "after all"

    def stop_on_a_thread(ctx: Any) -> str:
        if flaky:
            raise flaky.pop()
        return "after all"

    flow = create_workflow("stops").step("a", effects.step("a")).step("stop", stop_on_a_thread if thread else stop)
    engine, other = await cluster.open(), await cluster.open()
    with pytest.raises(type(error)):
        await engine.execute(flow, id="r")
    left = await other.get("r")
    assert left.status not in (RunStatus.FAILED, RunStatus.COMPENSATING) and left.history[1].in_doubt
    result = await other.resume(flow, "r")
    assert result.status == "completed" and result.results["stop"] == "after all" and effects.done == ["a"]


async def test_it_reaches_a_worker_too(cluster: Cluster) -> None:
    """Traps: `engine.work()` ends with what stopped it."""

    async def stop(ctx: Any) -> None:
        raise KeyboardInterrupt

    flow = create_workflow("stops").step("stop", stop)
    engine = await cluster.open()
    await engine.start(flow)
    with pytest.raises(KeyboardInterrupt):
        await engine.work(handle_signals=False)


async def test_a_handler_that_leaves_tasks_behind(engine: FluxEngine) -> None:
    """I18: they do not matter to the run; what it committed stays."""
    gate = asyncio.Event()
    kept: list[asyncio.Task[Any]] = []

    async def spawn(ctx: Any) -> str:
        data = ctx.data

        async def later() -> None:
            await gate.wait()
            data["late"] = True

        kept.append(asyncio.create_task(later()))
        return "spawned"

    flow = create_workflow("spawns").step("a", spawn).step("b", Effects().step("b"))
    result = await engine.execute(flow)
    gate.set()
    await kept[0]
    assert result.status == "completed" and (await engine.get(result.id)).data == {}


async def test_a_blocked_loop_does_not_lose_the_run(engine: FluxEngine, caplog: pytest.LogCaptureFixture) -> None:
    """I18: an async handler that never yields is only slow."""

    async def busy(ctx: Any) -> int:
        return sum(range(200_000))

    with caplog.at_level(logging.WARNING):
        assert (await engine.execute(create_workflow("busy").step("a", busy))).status == "completed"
    assert not caplog.records


async def test_an_engine_that_cannot_be_opened(cluster: Cluster) -> None:
    """S15.3: it leaves no storage open behind it, and can be opened once the storage answers."""
    storage = Faulty(cluster.storage())
    engine = cluster.new(storage)
    storage.fail("now", StorageUnavailable("not now"))
    with pytest.raises(StorageUnavailable):
        await engine.__aenter__()
    if not cluster.in_memory:
        with pytest.raises(StorageMisused):
            await storage.inner.now()
    async with engine:
        assert (await engine.execute(create_workflow("w").step("a", Effects().step("a")))).status == "completed"


async def test_a_worker_that_fails_says_so(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """I17: one beside an app is told of in the log when it meets what no retry can mend, and raises where it is left."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage, workflows=[create_workflow("w").step("a", Effects().step("a"))])
    storage.fail("claim", StorageMisused("permission denied"))
    with pytest.raises(StorageMisused):
        async with engine.worker():
            await eventually(lambda: "permission denied" in caplog.text)
    assert "a worker has failed, and claims nothing any more" in caplog.text


@pytest.mark.parametrize("after", [False, True])
async def test_registering_again_and_again(cluster: Cluster, after: bool) -> None:
    """S15.3: while the storage does not answer, a worker asks again under one name. Each name keeps a file locked, or a key, and a full
    disk would use up what a process may open."""
    storage = Faulty(cluster.storage())
    flow = create_workflow("w").step("a", Effects().step("a"))
    engine = await cluster.open(storage, workflows=[flow])
    storage.fail("register", DOWN, after=after, times=5)
    async with engine.worker():
        assert (await (await engine.start(flow)).details()).status == "pending"
        await eventually(lambda: [verb for verb, _ in storage.calls].count("register") == 6)
        await (await engine.start(flow)).result(timeout=60)
        assert len({name for verb, name in storage.calls if verb == "register"}) == 1
        if cluster.path is not None:
            assert len(list(Path(f"{cluster.path}-workers").glob("*.lock"))) == 1

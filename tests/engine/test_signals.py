"""Waits and signals."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from flux import (
    FluxEngine,
    InboxFull,
    InvalidArgument,
    InvalidPayload,
    NotStorable,
    RunFinished,
    RunNotFound,
    RunStatus,
    UnknownSignal,
    WaitTimeout,
    Workflow,
    branch,
    create_workflow,
    wait,
)

from .cluster import Cluster, Effects, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio


@dataclass
class Approval:
    by: str
    amount: int = 0


async def nothing(ctx: Any) -> None:
    return None


def approval(**options: Any) -> Any:
    return create_workflow("approve").step("a", nothing).wait("approval", **options).step("b", lambda ctx: ctx.results["approval"])


async def test_a_wait_suspends(engine: FluxEngine) -> None:
    """S7.1, S7.3, S7.6: the run is suspended, holds no lease, and the signal carries it on; its payload is the result."""
    flow = approval()
    result = await engine.execute(flow)
    assert result.status is RunStatus.SUSPENDED and result.waiting_for == ("approval",) and result.wake_at is None
    line = result.history[1]
    assert (line.kind, line.status, line.waiting_for) == ("wait", "suspended", "approval")
    done = await engine.signal(flow, result.id, "approval", {"by": "ana"})
    assert done.status == "completed" and done.results == {"a": None, "approval": {"by": "ana"}, "b": {"by": "ana"}}
    assert done.history[1].result == {"by": "ana"} and done.history[1].waiting_for is None


async def test_an_early_signal_is_kept(engine: FluxEngine) -> None:
    """S7.2: it may come before the run waits for it."""
    flow = approval()
    handle = await engine.start(flow, id="r")
    posted = await engine.signal(flow, handle.id, "approval", 1)
    assert posted.status == "completed" and posted.results["approval"] == 1


async def test_a_signal_while_a_handler_runs(engine: FluxEngine) -> None:
    """S7.2, S7.6: kept while something holds the run; the sender does not wait for it."""
    entered, go = asyncio.Event(), asyncio.Event()

    async def hold(ctx: Any) -> None:
        entered.set()
        await go.wait()

    flow = create_workflow("hold").step("hold", hold).wait("approval")
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    posted = await engine.signal(flow, "r", "approval", "early")
    assert posted.status == "running"
    go.set()
    result = await task
    assert result.status == "completed" and result.results["approval"] == "early"


async def test_it_survives_a_crash(cluster: Cluster) -> None:
    """S7.2, I22: what was accepted is there after the process that held the run is gone."""
    entered = asyncio.Event()

    async def hold(ctx: Any) -> str:
        if ctx.attempt > 1:
            return "second"
        entered.set()
        await asyncio.Event().wait()
        return "never"

    flow = create_workflow("crash").step("hold", hold, timeout=None).wait("approval")
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    await other.signal(flow, "r", "approval", 5)
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    result = await other.resume(flow, "r")
    assert result.status == "completed" and result.results == {"hold": "second", "approval": 5}


async def test_a_signal_counts_once(engine: FluxEngine) -> None:
    """S7.2, D25: one `signal_id` is one signal, also after it was taken and after the run has ended."""
    flow = create_workflow("twice").wait("go").wait("stop")
    run_id = (await engine.execute(flow)).id
    for _ in range(2):
        result = await engine.signal(flow, run_id, "go", 1, signal_id="s-1")
        assert result.waiting_for == ("stop",)
    done = await engine.signal(flow, run_id, "stop", 2, signal_id="s-2")
    assert done.status == "completed" and done.results == {"go": 1, "stop": 2}
    again = await engine.signal(flow, run_id, "stop", 3, signal_id="s-2")
    assert again.status == "completed" and again.results == {"go": 1, "stop": 2}
    with pytest.raises(RunFinished):
        await engine.signal(flow, run_id, "stop", 3, signal_id="s-3")


async def test_order_of_arrival(engine: FluxEngine) -> None:
    """S7.2, I24, D24: signals of one name go to the waits of that name in order, each to one."""
    flow = create_workflow("order").step("a", nothing).wait("go").wait("again", signal="go").wait("third", signal="go")
    run_id = (await engine.execute(flow)).id
    assert (await engine.signal(flow, run_id, "go", 1)).waiting_for == ("go",)
    await engine.signal(flow, run_id, "go", 2)
    assert (await engine.signal(flow, run_id, "go", 3)).results == {"a": None, "go": 1, "again": 2, "third": 3}


async def test_kept_signals_keep_their_order(engine: FluxEngine) -> None:
    """I24: also those that come before anything waits."""
    gate = asyncio.Event()
    entered = asyncio.Event()

    async def hold(ctx: Any) -> None:
        entered.set()
        await gate.wait()

    flow = create_workflow("kept").step("hold", hold).wait("go").wait("again", signal="go")
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    for n in range(3):
        await engine.signal(flow, "r", "go", n)
    gate.set()
    result = await task
    assert result.results == {"hold": None, "go": 0, "again": 1}


async def test_payload_types(engine: FluxEngine) -> None:
    """S7.3: checked at the sender; nothing is stored when it does not fit."""
    flow = approval(type=Approval)
    run_id = (await engine.execute(flow)).id
    for bad, path in (({"by": 5}, "by"), ({"by": "x", "what": 1}, "what"), ({}, "by"), ("ana", "")):
        with pytest.raises(InvalidPayload) as caught:
            await engine.signal(flow, run_id, "approval", bad)
        assert caught.value.path == path and "approval" in str(caught.value)
    assert (await engine.get(run_id)).status == "suspended"
    done = await engine.signal(flow, run_id, "approval", {"by": "ana"})
    assert done.status == "completed"
    assert done.results["approval"] == Approval("ana")  # of the declared type, however it was sent


async def test_payloads_that_cannot_be_stored(engine: FluxEngine) -> None:
    """S15.1: refused at the sender."""
    flow = approval()
    run_id = (await engine.execute(flow)).id
    for bad in (float("nan"), object(), "x" * (1 << 21)):
        with pytest.raises(NotStorable, match="approval"):
            await engine.signal(flow, run_id, "approval", bad)
    assert (await engine.get(run_id)).waiting_for == ("approval",)


async def test_unknown_names(engine: FluxEngine) -> None:
    """S7.4, D25: refused, naming those that are known."""
    flow = create_workflow("names").wait("first").wait("second")
    run_id = (await engine.execute(flow)).id
    with pytest.raises(UnknownSignal, match=r"first, second"):
        await engine.signal(flow, run_id, "third")
    with pytest.raises(InvalidArgument):
        await engine.signal(flow, run_id, 5)  # type: ignore[arg-type]
    assert (await engine.signal(flow, run_id, "second", 2)).waiting_for == ("first",)  # declared: kept
    assert (await engine.signal(flow, run_id, "first", 1)).status == "completed"


async def test_a_workflow_without_declared_waits_keeps_any_name(engine: FluxEngine) -> None:
    """D25: its handlers may wait for whatever they like."""

    async def ask(ctx: Any) -> Any:
        return wait("anything")

    flow = create_workflow("open").step("ask", ask)
    run_id = (await engine.execute(flow)).id
    assert (await engine.signal(flow, run_id, "other", 1)).waiting_for == ("anything",)
    assert (await engine.signal(flow, run_id, "anything", 2)).results == {"ask": 2}


async def test_an_undeclared_wait_that_is_awaited_now(engine: FluxEngine) -> None:
    """D25: a name that is neither declared nor awaited is refused; awaited now is enough."""

    async def ask(ctx: Any) -> Any:
        return wait("surprise")

    flow = create_workflow("mixed").wait("declared").step("ask", ask, waits=("later",))
    run_id = (await engine.execute(flow)).id
    with pytest.raises(UnknownSignal, match="declared, later"):
        await engine.signal(flow, run_id, "surprise")
    await engine.signal(flow, run_id, "declared")
    assert (await engine.signal(flow, run_id, "surprise", 3)).results["ask"] == 3


async def test_signals_to_nobody(engine: FluxEngine) -> None:
    """S7.4: an unknown run is RunNotFound, one of another workflow too; one that ended is RunFinished."""
    flow = approval()
    other = create_workflow("other").wait("approval")
    with pytest.raises(RunNotFound, match="nobody"):
        await engine.signal(flow, "nobody", "approval")
    with pytest.raises(RunNotFound):
        await engine.signal(flow, "nobody", "unknown")
    run_id = (await engine.execute(flow)).id
    with pytest.raises(RunNotFound):
        await engine.signal(other, run_id, "approval")
    await engine.signal(flow, run_id, "approval")
    with pytest.raises(RunFinished):
        await engine.signal(flow, run_id, "approval")


async def test_a_full_inbox(cluster: Cluster) -> None:
    """S15.7, D25: InboxFull at the sender; a repeated `signal_id` and a cancel are never refused for it."""
    engine = await cluster.open(inbox_limit=3)
    flow = create_workflow("full").wait("first").wait("second")
    run_id = (await engine.execute(flow)).id
    for n in range(3):
        await engine.signal(flow, run_id, "second", n, signal_id=f"s-{n}")
    with pytest.raises(InboxFull):
        await engine.signal(flow, run_id, "second", 3)
    await engine.signal(flow, run_id, "second", 0, signal_id="s-0")
    assert (await engine.cancel(run_id)).status == "cancelled"


# --- time


async def test_a_wait_that_expires(engine: FluxEngine, cluster: Cluster) -> None:
    """S7.5: without a default it fails with WaitTimeout, and the run is compensated."""
    effects = Effects()
    flow = (
        create_workflow("expires")
        .step("a", effects.step("a"), compensate=effects.step("undo a"))
        .wait("approval", timeout=timedelta(days=3))
        .step("b", effects.step("b"))
    )
    result = await engine.execute(flow)
    assert result.status == "suspended" and result.wake_at == result.created_at + timedelta(days=3)
    await cluster.clock.advance(days=2)
    assert (await engine.resume(flow, result.id)).status == "suspended"
    await cluster.clock.advance(days=1)
    late = await engine.resume(flow, result.id)
    assert late.status == "failed" and isinstance(late.error, WaitTimeout) and "approval" in str(late.error)
    assert effects.done == ["a", "undo a"]


async def test_a_default(engine: FluxEngine, cluster: Cluster) -> None:
    """S7.5: it becomes the result; None is a default too."""
    for default in (None, {"ok": False}):
        flow = approval(timeout=10, default=default)
        result = await engine.execute(flow)
        await cluster.clock.advance(10)
        assert (await engine.resume(flow, result.id)).results == {"a": None, "approval": default, "b": default}


async def test_an_on_timeout_branch(engine: FluxEngine, cluster: Cluster) -> None:
    """S7.5: the branch runs in place of the signal; its results are the wait's."""
    effects = Effects()
    flow = (
        create_workflow("branch")
        .wait(
            "approval",
            timeout=10,
            on_timeout=branch().step("remind", effects.step("remind", "sent")).wait("answer").step("close", effects.step("close", 1)),
        )
        .step("end", lambda ctx: ctx.results["approval"])
    )
    result = await engine.execute(flow)
    await cluster.clock.advance(10)
    waiting = await engine.resume(flow, result.id)
    assert waiting.status == "suspended" and waiting.waiting_for == ("answer",) and effects.done == ["remind"]
    done = await engine.signal(flow, result.id, "answer", "yes")
    assert done.results["end"] == {"remind": "sent", "answer": "yes", "close": 1}
    assert [line.path for line in done.history] == [
        "approval", "approval/on_timeout/remind", "approval/on_timeout/answer", "approval/on_timeout/close", "end",
    ]  # fmt: skip


async def test_an_on_timeout_handler(engine: FluxEngine, cluster: Cluster) -> None:
    """S7.5, api.md Bodies: a single handler's return value is the result; when it fails, so does the wait."""
    flow = approval(timeout=10, on_timeout=lambda ctx: "too late")
    result = await engine.execute(flow)
    await cluster.clock.advance(10)
    assert (await engine.resume(flow, result.id)).results["b"] == "too late"

    async def fail(ctx: Any) -> None:
        raise LookupError("x")

    flow = create_workflow("fails").wait("approval", timeout=10, on_timeout=branch().step("fail", fail, retries=0))
    result = await engine.execute(flow)
    await cluster.clock.advance(10)
    late = await engine.resume(flow, result.id)
    assert late.status == "failed" and isinstance(late.error, LookupError)


async def test_a_signal_in_time(engine: FluxEngine, cluster: Cluster) -> None:
    """S5.3, I26: one wins; a signal that came in time leaves no timer behind."""
    flow = approval(timeout=10)
    result = await engine.execute(flow)
    await cluster.clock.advance(9)
    done = await engine.signal(flow, result.id, "approval", "just")
    await cluster.clock.advance(100)
    assert done.results["approval"] == "just" and (await engine.get(result.id)).status == "completed"


async def test_a_signal_at_the_moment_of_the_timeout(engine: FluxEngine, cluster: Cluster) -> None:
    """I26: the signal was accepted before anybody noticed the timeout: exactly one of them counts."""
    flow = approval(timeout=10, default="default")
    result = await engine.execute(flow)
    await cluster.clock.advance(11)
    done = await engine.signal(flow, result.id, "approval", "signal")
    assert done.status == "completed" and done.results["approval"] in ("signal", "default")
    assert (await engine.get(result.id)).results == done.results


# --- a handler that returns flux.wait


async def test_a_handler_that_waits(engine: FluxEngine) -> None:
    """S7.1: the payload is the step's result, and what the handler changed is committed."""
    effects = Effects()

    async def ask(ctx: Any) -> Any:
        effects.done.append("asked")
        ctx.data["asked"] = True
        return wait("approval")

    flow = create_workflow("ask").step("ask", ask, waits=("approval",)).step("end", lambda ctx: [ctx.results["ask"], ctx.data["asked"]])
    result = await engine.execute(flow)
    assert result.status == "suspended" and result.waiting_for == ("approval",) and result.data == {"asked": True}
    done = await engine.signal(flow, result.id, "approval", "yes")
    assert done.results == {"ask": "yes", "end": ["yes", True]} and effects.done == ["asked"]


async def test_a_handler_that_waits_with_a_timeout(engine: FluxEngine, cluster: Cluster) -> None:
    """S7.5: `wait(..., timeout=, default=)`; the handler's own timeout does not bound the wait."""

    async def ask(ctx: Any) -> Any:
        return wait("approval", timeout=timedelta(hours=1), **ctx.input)

    flow = create_workflow("ask").step("ask", ask, timeout=5)
    for options, check in (({"default": None}, "completed"), ({"default": [1]}, "completed"), ({}, "failed")):
        result = await engine.execute(flow, options)
        assert result.wake_at == result.created_at + timedelta(hours=1)
        await cluster.clock.advance(hours=1)
        late = await engine.resume(flow, result.id)
        assert late.status == check
        if check == "completed":
            assert late.results == {"ask": options["default"]}
        else:
            assert isinstance(late.error, WaitTimeout)


async def test_a_handler_that_waits_for_what_has_come(engine: FluxEngine) -> None:
    """S7.2: an early signal is taken at once."""

    async def ask(ctx: Any) -> Any:
        return wait("approval")

    flow = create_workflow("ask").step("ask", ask, waits=("approval",))
    handle = await engine.start(flow)
    assert (await engine.signal(flow, handle.id, "approval", 9)).results == {"ask": 9}


# --- many at once


async def test_a_hundred_senders(cluster: Cluster) -> None:
    """S7.2, I23, I25: none of 100 concurrent signals is lost or counted twice, whoever moves the run."""
    flow = create_workflow("many").step("a", nothing)
    for n in range(100):
        flow = flow.wait(f"w{n}", signal="go")
    engines = [await cluster.open(), await cluster.open()]
    run_id = (await engines[0].execute(flow)).id
    await asyncio.gather(*(engines[n % 2].signal(flow, run_id, "go", n) for n in range(100)))
    result = await engines[0].resume(flow, run_id)
    assert result.status == "completed"
    assert sorted(result.results[f"w{n}"] for n in range(100)) == list(range(100))


async def test_no_lost_wake_up(cluster: Cluster) -> None:
    """I25, S7.6: a signal that meets the run as it is being parked is taken: with no second signal and no worker."""
    flow = create_workflow("park").step("a", nothing).wait("go").step("b", nothing)
    engine = await cluster.open()
    for turns in range(30):
        run_id = f"r{turns}"
        task = asyncio.create_task(engine.execute(flow, id=run_id))
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await engine.signal(flow, run_id, "go", turns)
        except RunNotFound:
            await task
            await engine.signal(flow, run_id, "go", turns)
        await task
        result = await engine.get(run_id)
        assert result.status == "completed", (turns, result)
        assert result.results["go"] == turns


async def test_a_signal_while_the_run_is_being_taken(cluster: Cluster) -> None:
    """I24, I25: one signal is kept from before, another comes between the taking and the first commit: both are delivered."""
    flow = create_workflow("taken").wait("go").wait("later")
    faulty = Faulty(cluster.storage())
    engine, other = await cluster.open(faulty), await cluster.open(workflows=[flow], drive_in_caller=False)
    run_id = (await engine.execute(flow)).id
    await other.signal(flow, run_id, "later", "kept")
    faulty.held["commit"] = asyncio.Event()
    before = len(faulty.calls)
    resuming = asyncio.create_task(engine.resume(flow, run_id))
    await eventually(lambda: "commit" in [verb for verb, _ in faulty.calls[before:]])
    await other.signal(flow, run_id, "go", "new")
    faulty.held["commit"].set()
    result = await resuming
    assert result.status == "completed" and result.results == {"go": "new", "later": "kept"}


async def test_only_posting(cluster: Cluster) -> None:
    """D19: with `drive_in_caller=False` a signal only posts; a worker carries the run on."""
    flow = approval()
    web, worker = await cluster.open(drive_in_caller=False), await cluster.open(workflows=[flow])
    handle = await web.start(flow)
    async with worker.worker():
        await worker.until(handle.id, {RunStatus.SUSPENDED})
    posted = await web.signal(flow, handle.id, "approval", 1)
    assert posted.status == "suspended"
    async with worker.worker():
        await handle.result(timeout=60)
    assert (await web.get(handle.id)).results["b"] == 1


async def test_a_cancelled_sender_has_sent_or_not(engine: FluxEngine) -> None:
    """D19, S2.3: a sender that goes away leaves no run that nobody moves."""
    flow = approval()
    for turns in range(1, 15):
        run_id = (await engine.execute(flow, id=f"r{turns}")).id
        task = asyncio.create_task(engine.signal(flow, run_id, "approval", turns))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        result = await engine.resume(flow, run_id)
        if result.status != "completed":
            await engine.signal(flow, run_id, "approval", turns)
        # Who was cancelled may just have taken the run: then that one moves it, and the second sender only sees how it stands.
        await engine.handle(run_id).result(timeout=60)
        assert (await engine.get(run_id)).results["approval"] == turns


async def test_a_branch_that_signals_its_own_run(engine: FluxEngine) -> None:
    """S7.6, D19: the signal is stored, and the call does not wait for a run that waits for its caller."""
    flow: Workflow[Any, Any]

    async def tell(ctx: Any) -> Any:
        await eventually(lambda: engine._host.drivers[ctx.run_id]._rest is not None)  # pyright: ignore[reportPrivateUsage]
        return (await engine.signal(flow, ctx.run_id, "go", 1)).status

    flow = create_workflow("branches").parallel("p", a=tell, b=branch().wait("go"))
    async with asyncio.timeout(60):
        result = await engine.execute(flow)
    assert result.results["p"] == {"a": "running", "b": {"go": 1}}


async def test_a_signal_beside_a_branch_at_work(engine: FluxEngine) -> None:
    """S7.6: it is durable when the call returns, and that does not wait for a handler of another branch."""
    entered, go = asyncio.Event(), asyncio.Event()

    async def work(ctx: Any) -> str:
        entered.set()
        await go.wait()
        return "done"

    flow = create_workflow("beside").parallel("p", a=work, b=branch().wait("go"))
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await entered.wait()
    async with asyncio.timeout(60):
        assert (await engine.signal(flow, "r", "go", 1)).status == "running"
    go.set()
    assert (await task).results["p"] == {"a": "done", "b": {"go": 1}}

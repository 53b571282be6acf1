"""A thread cannot be stopped: what is to follow waits for it (D9)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from flux import NOT_DONE, FluxEngine, Retry, RunResult, create_workflow

from .cluster import Cluster, eventually

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


class Stubborn:
    """A `def` handler whose first call does not return before it is let go."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.go = threading.Event()
        self.entered = threading.Event()
        self._lock = threading.Lock()
        self._inside = 0
        self.most = 0

    def __call__(self, ctx: Any) -> str:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
            self.order.append(f"called {ctx.attempt}")
        if ctx.attempt == 1 and not self.go.is_set():
            self.entered.set()
            self.go.wait(20)
        with self._lock:
            self._inside -= 1
            self.order.append(f"returned {ctx.attempt}")
        ctx.data["by"] = ctx.attempt
        return f"attempt {ctx.attempt}"

    async def begun(self) -> None:
        """Until the first call is under way: its time may be over before its thread has had a turn."""
        await eventually(self.entered.is_set)

    async def undo(self, ctx: Any) -> None:
        self.order.append("undone")

    def undo_on_a_thread(self, ctx: Any) -> None:
        self.order.append("undone")

    def probe(self, ctx: Any) -> Any:
        self.order.append("probed")
        return NOT_DONE


async def waits(engine: FluxEngine, stubborn: Stubborn) -> None:
    """Until the run says that it waits for the thread."""

    async def says() -> bool:
        try:
            run = await engine.get("r")
        except LookupError:
            return False
        return "a" in run.progress and "thread" in run.progress["a"].message

    await eventually(says)
    await stubborn.begun()


async def blocked(engine: FluxEngine, run_id: str = "r") -> RunResult:
    """The run, once it is blocked."""

    async def is_blocked() -> bool:
        return (await engine.summary(run_id)).status == "blocked"

    await eventually(is_blocked)
    return await engine.get(run_id)


async def test_the_next_attempt_waits(engine: FluxEngine) -> None:
    """D9: no attempt starts beside it, the run shows what it waits for, and the late result counts for nothing."""
    stubborn = Stubborn()
    flow = create_workflow("attempt").step("a", stubborn, timeout=0.02, retries=1, retry=AT_ONCE)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await waits(engine, stubborn)
    assert stubborn.order == ["called 1"]
    stubborn.go.set()
    result = await task
    assert result.status == "completed" and result.results == {"a": "attempt 2"} and result.data == {"by": 2}
    assert stubborn.order == ["called 1", "returned 1", "called 2", "returned 2"] and stubborn.most == 1
    assert result.history[0].in_doubt and result.history[0].attempts == 2


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("choice", ["retry", "fail", "compensate"])
async def test_the_compensation_waits(engine: FluxEngine, asynchronous: bool, choice: Any) -> None:
    """D9: nor does its compensation, whatever `on_unknown` says."""
    stubborn = Stubborn()
    undo = stubborn.undo if asynchronous else stubborn.undo_on_a_thread
    flow = create_workflow("undo").step("a", stubborn, timeout=0.02, retries=0, on_unknown=choice, compensate=undo)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await waits(engine, stubborn)
    assert stubborn.order == ["called 1"] and (await engine.get("r")).status == "compensating"
    stubborn.go.set()
    result = await task
    assert result.status == "failed" and stubborn.order == ["called 1", "returned 1", "undone"]


async def test_the_probe_waits(engine: FluxEngine) -> None:
    """D9, S3.8: asked while the thread is at work, the answer would be worth nothing."""
    stubborn = Stubborn()
    flow = create_workflow("probe").step("a", stubborn, timeout=0.02, retries=1, retry=AT_ONCE, probe=stubborn.probe)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await waits(engine, stubborn)
    assert stubborn.order == ["called 1"]
    stubborn.go.set()
    result = await task
    assert result.results == {"a": "attempt 2"} and stubborn.order[:3] == ["called 1", "returned 1", "probed"]


async def test_after_an_interrupt(engine: FluxEngine) -> None:
    """D9, S11.1: an interrupt lets go of the thread, and the way down waits for it."""
    stubborn = Stubborn()
    flow = create_workflow("interrupt").step("a", stubborn, timeout=None, compensate=stubborn.undo)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await stubborn.begun()
    cancel = asyncio.create_task(engine.cancel("r", interrupt=True))
    await waits(engine, stubborn)
    assert stubborn.order == ["called 1"]
    stubborn.go.set()
    assert (await cancel).status == "cancelled" and (await task).status == "cancelled"
    assert stubborn.order == ["called 1", "returned 1", "undone"]


async def test_a_retry_of_the_run_waits(engine: FluxEngine) -> None:
    """D9, D3: also what a person has done again."""
    stubborn = Stubborn()
    flow = create_workflow("retry").step("a", stubborn, timeout=0.02, retries=0)
    assert (await engine.execute(flow, id="r")).status == "failed"
    await stubborn.begun()
    task = asyncio.create_task(engine.retry(flow, "r"))
    await waits(engine, stubborn)
    assert stubborn.order == ["called 1"]
    stubborn.go.set()
    result = await task
    assert result.status == "completed" and stubborn.most == 1


async def test_other_runs_go_on(engine: FluxEngine) -> None:
    """D9: it is a matter of one step of one run."""
    stubborn, other = Stubborn(), Stubborn()
    other.go.set()
    flow = create_workflow("one").step("a", stubborn, timeout=0.02, retries=1, retry=AT_ONCE)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await waits(engine, stubborn)
    assert (await engine.execute(create_workflow("two").step("a", other))).status == "completed"
    stubborn.go.set()
    await task


async def test_a_cancel_while_it_waits(engine: FluxEngine) -> None:
    """D9, D7: the attempt that waits for the thread was not called, and does not stand in a cancel's way."""
    stubborn = Stubborn()
    flow = create_workflow("cancel").step("a", stubborn, timeout=0.02, retries=5, retry=AT_ONCE, compensate=stubborn.undo)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await waits(engine, stubborn)
    cancel = asyncio.create_task(engine.cancel("r", interrupt=True))

    async def compensating() -> bool:
        return (await engine.summary("r")).status == "compensating"

    await eventually(compensating)
    assert stubborn.order == ["called 1"]
    stubborn.go.set()
    assert (await cancel).status == "cancelled" and (await task).status == "cancelled"
    assert stubborn.order == ["called 1", "returned 1", "undone"]


async def test_abandoned(cluster: Cluster) -> None:
    """D9: after `abandon_after` the run is blocked; once the thread has returned `resume` moves it on in the same process."""
    engine = await cluster.open(abandon_after=0.02)
    stubborn = Stubborn()
    flow = create_workflow("abandoned").step("a", stubborn, timeout=0.02, retries=1, retry=AT_ONCE)
    run = await engine.execute(flow, id="r")
    await stubborn.begun()
    assert run.status == "blocked" and (run.blocked_reason or "").startswith("HandlerStuck") and "'a'" in (run.blocked_reason or "")
    assert "resume" in (run.way_on or "") and stubborn.order == ["called 1"]
    assert (await engine.resume(flow, "r")).status == "blocked", "it is still there"
    stubborn.go.set()
    await eventually(lambda: stubborn.order == ["called 1", "returned 1"])
    result = await engine.resume(flow, "r")
    assert result.status == "completed" and result.results == {"a": "attempt 2"} and stubborn.most == 1
    assert result.history[0].attempts == 2, "what was not called is not counted"


async def test_abandoned_and_taken_elsewhere(cluster: Cluster) -> None:
    """D9: in another process the thread is not in the way."""
    one, other = await cluster.open(abandon_after=0.02), await cluster.open()
    stubborn = Stubborn()
    flow = create_workflow("elsewhere").step("a", stubborn, timeout=0.02, retries=1, retry=AT_ONCE)
    assert (await one.execute(flow, id="r")).status == "blocked"
    await stubborn.begun()
    result = await other.resume(flow, "r")
    assert result.status == "completed" and result.results == {"a": "attempt 2"}
    assert stubborn.order == ["called 1", "called 2", "returned 2"]
    stubborn.go.set()


async def test_an_abandoned_compensation(cluster: Cluster) -> None:
    """D9: the same on the way down; a cancel leaves it out."""
    engine = await cluster.open(abandon_after=0.02)
    flow: Any = None
    for run_id in ("resumed", "cancelled", "done"):
        stubborn = Stubborn()
        flow = create_workflow(f"undo-{run_id}").step("a", stubborn, timeout=0.02, retries=0, compensate=stubborn.undo)
        run = await engine.execute(flow, id=run_id)
        await stubborn.begun()
        assert run.status == "blocked" and stubborn.order == ["called 1"]
        if run_id == "resumed":
            stubborn.go.set()
            await eventually(lambda: stubborn.order[-1] == "returned 1")
            assert (await engine.resume(flow, run_id)).status == "failed" and stubborn.order[-1] == "undone"
        elif run_id == "cancelled":
            assert (await engine.cancel(run_id)).status == "failed" and stubborn.order == ["called 1"]
        else:
            result = await engine.resolve(run_id, "a", "done")
            assert result.status == "failed" and result.history[0].status == "compensated" and stubborn.order == ["called 1"]
        stubborn.go.set()


@pytest.mark.parametrize("way", ["retry", "skip", "done", "cancel", "run"])
async def test_what_moves_an_abandoned_run(cluster: Cluster, way: Any) -> None:
    """D9, S2.1: resolve, retry and cancel move it like any blocked run; a step that is tried again still waits for the thread."""
    engine = await cluster.open(abandon_after=0.02)
    stubborn, last = Stubborn(), Stubborn()
    last.go.set()
    flow = create_workflow("moves").step("a", stubborn, timeout=0.02, retries=3, retry=AT_ONCE).step("last", last)
    assert (await engine.execute(flow, id="r")).status == "blocked"
    await stubborn.begun()
    if way in ("skip", "done"):
        assert (await engine.resolve("r", "a", way)).status == "completed"
    elif way == "cancel":
        assert (await engine.cancel("r")).status == "cancelled" and last.order == []
    else:
        again = await (engine.retry(flow, "r") if way == "run" else engine.resolve("r", "a", way))
        assert again.status == "blocked" and stubborn.order == ["called 1"]
        stubborn.go.set()
        await eventually(lambda: stubborn.order[-1] == "returned 1")
        assert (await engine.retry(flow, "r")).status == "completed" and stubborn.most == 1
    stubborn.go.set()


async def test_a_shutdown_does_not_wait_for_ever(cluster: Cluster) -> None:
    """D10: what outlasts the grace period is in doubt; what only waited for it is released."""
    stubborn = Stubborn()
    flow = create_workflow("shutdown").step("a", stubborn, timeout=0.02, retries=2, retry=AT_ONCE)
    one = await cluster.open(grace=0)
    task = asyncio.create_task(one.execute(flow, id="r"))
    await waits(one, stubborn)
    await one.close()
    await asyncio.gather(task, return_exceptions=True)
    other = await cluster.open()
    left = await other.get("r")
    assert left.history[0].attempts == 1 and left.history[0].lost_attempts == 0
    assert (await other.resume(flow, "r")).results == {"a": "attempt 2"}
    stubborn.go.set()

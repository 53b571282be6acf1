"""Branches beside one another (S1.2, S11.3, D22)."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from flux import FluxEngine, Retry, branch, create_workflow

from .cluster import Cluster, eventually
from .faults import Faulty
from .parts import Declined, Parts, Slow, statuses

pytestmark = pytest.mark.anyio


async def test_four_branches_take_as_long_as_one(cluster: Cluster) -> None:
    """S1.2: four branches of one 100 ms step each take about 100 ms."""
    engine = await cluster.open()
    slow = Slow(cluster.clock, 0.1)
    flow = create_workflow("four").parallel("p", a=slow, b=slow, c=slow, d=slow)
    result = await engine.execute(flow)
    assert result.status == "completed" and result.duration == pytest.approx(0.1)
    assert result.results == {"p": {name: f"p/{name}" for name in "abcd"}}


async def test_results_lines_and_statuses(cluster: Cluster) -> None:
    """S1.3, S16: by branch; a line a step, in order; read alike where the workflow is not known."""
    engine, stranger = await cluster.open(), await cluster.open()
    parts = Parts()
    flow = (
        create_workflow("lines")
        .parallel("p", label=parts.act, invoice=branch().step("print", parts.act).step("no", parts.act, when=lambda ctx: False).wait("ok"))
        .step("z", parts.act)
    )
    waiting = await engine.execute(flow, id="r")
    assert waiting.status == "suspended" and waiting.waiting_for == ("ok",)
    assert statuses(waiting) == {
        "p": "running", "p/label": "completed", "p/invoice/print": "completed", "p/invoice/no": "skipped", "p/invoice/ok": "suspended",
    }  # fmt: skip
    assert statuses(await stranger.get("r")) == statuses(waiting)
    result = await engine.signal(flow, "r", "ok", 5)
    expected = {"label": "p/label", "invoice": {"print": "p/invoice/print", "ok": 5}}
    assert result.status == "completed" and result.results["p"] == expected
    assert [(line.path, line.kind) for line in result.history][:3] == [("p", "parallel"), ("p/label", "step"), ("p/invoice/print", "step")]
    read = await stranger.get("r")
    assert read.results == result.results and statuses(read) == statuses(result) and read.data == result.data


async def test_signals_to_waits_in_two_branches(engine: FluxEngine) -> None:
    """S7: each goes on when its own comes; one that came before is kept."""
    parts = Parts()
    flow = create_workflow("two").parallel(
        "p", a=branch().wait("one").step("x", parts.act), b=branch().step("y", parts.act).wait("two").step("x", parts.act)
    )
    handle = await engine.start(flow, id="r")
    await engine.signal(flow, "r", "two", 2)
    waiting = await engine.resume(flow, "r")
    assert waiting.status == "suspended" and waiting.waiting_for == ("one",) and parts.done == ["p/b/y", "p/b/x"]
    result = await engine.signal(flow, handle.id, "one", 1)
    assert result.status == "completed" and result.results["p"]["a"]["one"] == 1 and parts.done[-1] == "p/a/x"


async def test_a_timer_while_a_handler_runs(cluster: Cluster) -> None:
    """S8.2: a sleep, a wait's timeout and a retry's delay do not wait for the handler in another branch."""
    engine = await cluster.open()
    parts = Parts(held=("p/a/x",))
    flow = create_workflow("timer").parallel(
        "p",
        a=branch().step("x", parts.act, timeout=None),
        b=branch().sleep("nap", 5).step("y", parts.act),
        c=branch().wait("w", timeout=7, default="none").step("y", parts.act),
    )
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("p/a/x", "p/b/y", "p/c/y")
    between = await engine.get("r")
    assert between.status == "running" and statuses(between)["p/b/y"] == "completed"
    assert [run.id for run in (await engine.list(status="running")).runs] == ["r"]
    parts.let("p/a/x")
    assert (await task).results["p"]["c"]["w"] == "none"


async def test_retries_with_delays_in_branches(cluster: Cluster) -> None:
    """S4.3: side by side."""
    engine = await cluster.open()
    calls: list[tuple[str, float]] = []
    started = cluster.clock.monotonic()

    async def shaky(ctx: Any) -> int:
        calls.append((ctx.path, round(cluster.clock.monotonic() - started)))
        if ctx.attempt < 3:
            raise Declined
        return int(ctx.attempt)

    policy = Retry("fixed", initial=10, jitter=False)
    flow = create_workflow("shaky").parallel(
        "p", a=branch().step("x", shaky, retry=policy), b=branch().sleep("nap", 5).step("x", shaky, retry=policy)
    )
    result = await engine.execute(flow)
    assert result.results["p"] == {"a": {"x": 3}, "b": {"nap": None, "x": 3}}
    assert [at for path, at in calls if path == "p/a/x"] == [0, 10, 20] and [at for path, at in calls if path == "p/b/x"] == [5, 15, 25]


async def test_what_lands_while_a_commit_is_under_way(cluster: Cluster) -> None:
    """I5, I29: a handler that returned is not called again, whatever the storage is doing."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    parts = Parts(held=("p/a", "p/b"))
    flow = create_workflow("land").parallel("p", a=parts.act, b=parts.act)
    task = asyncio.create_task(engine.execute(flow))
    await parts.reached("p/a", "p/b")
    storage.held["commit"] = asyncio.Event()
    before = len(storage.commits())
    parts.let("p/a")
    await eventually(lambda: len(storage.commits()) > before)
    parts.let("p/b")
    await eventually(lambda: parts.under_way == 0)
    storage.held.pop("commit").set()
    result = await task
    assert result.status == "completed" and sorted(parts.done) == ["p/a", "p/b"]
    assert [line.attempts for line in result.history] == [0, 1, 1]


async def test_what_was_stopped_before_it_was_called(cluster: Cluster) -> None:
    """D7, S11.3: its start is recorded, but its handler is not called, and nothing is in doubt."""
    storage = Faulty(cluster.storage())
    engine = await cluster.open(storage)
    parts = Parts("p/b/x", held=("p/a/x", "p/b/x"))
    flow = create_workflow("late").parallel(
        "p", a=branch().step("x", parts.act).step("y", parts.act, compensate=parts.undo), b=branch().step("x", parts.act, retries=0)
    )
    task = asyncio.create_task(engine.execute(flow))
    await parts.reached("p/a/x", "p/b/x")
    storage.held["commit"] = asyncio.Event()
    before = len(storage.commits())
    parts.let("p/a/x")
    await eventually(lambda: len(storage.commits()) > before)
    parts.let("p/b/x")
    await eventually(lambda: parts.under_way == 0)
    storage.held.pop("commit").set()
    result = await task
    assert result.status == "failed" and "p/a/y" not in parts.done and parts.undone == []
    line = next(line for line in result.history if line.path == "p/a/y")
    assert (line.status, line.attempts, line.in_doubt) == ("cancelled", 0, False)


async def test_any_join(engine: FluxEngine) -> None:
    """S11.3: an any join with three predecessors succeeds once; the others are stopped, and are undone if they may have acted."""
    parts = Parts("z", held=("p/b/x", "p/c/x"))
    flow = (
        create_workflow("any")
        .parallel(
            "p",
            a=branch().step("x", parts.act, compensate=parts.undo),
            b=branch().step("x", parts.act, compensate=parts.undo),
            c=branch().step("x", parts.act).step("y", parts.act, compensate=parts.undo),
            join="any",
        )
        .step("z", parts.act, retries=0)
    )
    result = await engine.execute(flow)
    assert result.status == "failed" and parts.done == ["p/a/x", "p/b/x", "p/c/x", "z"] and sorted(parts.cut) == ["p/b/x", "p/c/x"]
    assert result.results["p"] == {"a": {"x": "p/a/x"}} and parts.undone == ["p/b/x", "p/a/x"]


async def test_a_commit_step_is_not_cut(engine: FluxEngine) -> None:
    """S9.1, S11.3: the join waits for it."""
    parts = Parts(held=("p/b/pay",))
    flow = create_workflow("pay").parallel("p", a=parts.act, b=branch().commit("pay", parts.act).step("next", parts.act), join="any")
    task = asyncio.create_task(engine.execute(flow, id="r"))

    async def settled() -> bool:
        return "p/b/pay" in parts.done and statuses(await engine.get("r")).get("p/a") == "completed"

    await eventually(settled)
    assert statuses(await engine.get("r"))["p"] == "running"
    parts.let("p/b/pay")
    result = await task
    assert statuses(result) == {"p": "completed", "p/a": "completed", "p/b/pay": "completed"} and parts.cut == []
    assert result.results["p"] == {"a": "p/a"}


async def test_threads_go_on_side_by_side(engine: FluxEngine) -> None:
    """S1.2, S1.5: `def` handlers of two branches meet."""
    meet = threading.Barrier(2, timeout=10)

    def block(ctx: Any) -> str:
        meet.wait()
        ctx.data[ctx.path] = 1
        return str(ctx.path)

    result = await engine.execute(create_workflow("threads").parallel("p", a=block, b=branch().step("x", block)))
    assert result.results["p"] == {"a": "p/a", "b": {"x": "p/b/x"}} and result.data == {"p/a": 1, "p/b/x": 1}


async def test_a_thread_that_is_stopped(engine: FluxEngine) -> None:
    """S5.1, S11.3: it cannot be cut; its late result is nobody's, and the run does not wait for it."""
    go, entered = threading.Event(), threading.Event()

    def block(ctx: Any) -> None:
        entered.set()
        go.wait(10)

    async def after(ctx: Any) -> None:
        await eventually(entered.is_set)

    result = await engine.execute(create_workflow("stuck").parallel("p", a=after, b=branch().step("x", block, timeout=None), join="any"))
    go.set()
    assert result.status == "completed" and statuses(result)["p/b/x"] == "cancelled"


async def test_data_is_each_branches_own(engine: FluxEngine) -> None:
    """D22: until the join, in declaration order; `merge` says what becomes of a key that several changed."""
    seen: list[Any] = []
    parts = Parts(held=("p/a/y",))

    def put(**changes: Any) -> Any:
        async def handler(ctx: Any) -> None:
            ctx.data.update(changes)

        return handler

    async def look(ctx: Any) -> None:
        await parts.act(ctx)
        seen.append(dict(ctx.data))

    async def release(ctx: Any) -> None:
        seen.append(dict(ctx.data))
        parts.let("p/a/y")

    def flow(merge: Any) -> Any:
        return (
            create_workflow("data")
            .step("s", put(k=0, total=0))
            .parallel(
                "p",
                a=branch().step("x", put(a=1, total=1)).step("y", look),
                b=branch().step("x", put(b=2, total=2)).step("y", release),
                merge=merge,
            )
        )  # fmt: skip

    failed = await engine.execute(flow(None))
    assert type(failed.error).__name__ == "DataConflict" and "total" in str(failed.error) and failed.data == {"k": 0, "total": 0}
    assert seen == [{"k": 0, "total": 2, "b": 2}, {"k": 0, "total": 1, "a": 1}]
    merged = await engine.execute(flow(lambda key, values: sum(values)))
    assert merged.status == "completed" and merged.data == {"k": 0, "total": 3, "a": 1, "b": 2}
    assert (await engine.execute(flow(lambda key, values: 1 / 0))).status == "failed"


async def test_interrupting_cancel_with_several_handlers(cluster: Cluster) -> None:
    """S11.1: all are cut, but for a commit step; then they are undone."""
    engine, other = await cluster.open(), await cluster.open()
    parts = Parts(held=("p/a/x", "p/b/x", "p/c/x"))
    flow = create_workflow("stop").parallel(
        "p",
        a=branch().step("x", parts.act, compensate=parts.undo, timeout=None),
        b=branch().step("x", parts.act, timeout=None),
        c=branch().commit("x", parts.act, compensate=parts.undo),
        d=branch().wait("w"),
    )
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("p/a/x", "p/b/x", "p/c/x")
    cancelling = asyncio.create_task(engine.cancel("r", interrupt=True))
    await eventually(lambda: sorted(parts.cut) == ["p/a/x", "p/b/x"])
    assert (await other.get("r")).status == "running"
    parts.let("p/c/x")
    result = await task
    await cancelling
    assert result.status == "cancelled" and parts.undone == ["p/c/x", "p/a/x"]
    assert statuses(result)["p"] == "cancelled" and statuses(result)["p/c/x"] == "compensated"


async def test_closing_with_several_handlers(cluster: Cluster) -> None:
    """S14.4, D7: those that run finish, nothing more starts, and nothing is in doubt."""
    parts = Parts(held=("p/a/x", "p/b/x"))
    flow = create_workflow("close").parallel(
        "p", a=branch().step("x", parts.act).step("y", parts.act), b=branch().step("x", parts.act), c=branch().sleep("nap", 50)
    )
    cluster.stand_still()
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("p/a/x", "p/b/x")
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    parts.let("p/a/x", "p/b/x")
    await closing
    await task
    left = await other.get("r")
    assert "p/a/y" not in parts.done and not any(line.in_doubt for line in left.history)
    assert statuses(left)["p/b/x"] == "completed" and statuses(left)["p"] == "running"
    going = asyncio.create_task(other.resume(flow, "r"))
    await parts.reached("p/a/y")
    await cluster.clock.advance(60)
    assert (await going).status == "completed" and sorted(parts.done) == ["p/a/x", "p/a/y", "p/b/x"]


async def test_only_unfinished_branches_go_on_after_a_crash(cluster: Cluster) -> None:
    """S3.5, S12.1: what is recorded is not done again."""
    parts = Parts(held=("p/b/y", "p/c/x"))
    flow = create_workflow("crash").parallel(
        "p", a=parts.mark, b=branch().step("x", parts.mark).step("y", parts.mark), c=branch().step("x", parts.mark), d=branch().wait("w")
    )
    engine, other = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("p/a", "p/b/y", "p/c/x")
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    parts.again()
    resumed = await other.resume(flow, "r")
    assert resumed.status == "suspended" and sorted(parts.done) == ["p/b/y", "p/c/x"]
    result = await other.signal(flow, "r", "w")
    assert result.status == "completed" and set(result.data) == {"p/a", "p/b/x", "p/b/y", "p/c/x"}
    assert {line.path: line.attempts for line in result.history if line.attempts} == {"p/a": 1, "p/b/x": 1, "p/b/y": 2, "p/c/x": 2}


async def test_retry_after_a_branch_failed(engine: FluxEngine) -> None:
    """S12.2, D3: branches that are done are not called again, and what they changed is there."""
    parts = Parts("p/b/y")
    flow = (
        create_workflow("retry")
        .parallel(
            "p", a=branch().step("x", parts.mark), b=branch().step("x", parts.mark).step("y", parts.mark, retries=0), on_failure="finish"
        )
        .step("z", parts.mark)
    )
    failed = await engine.execute(flow, id="r")
    assert failed.status == "failed" and isinstance(failed.error, Declined) and failed.data == {}
    parts.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and parts.done == ["p/b/y", "z"]
    assert set(result.data) == {"p/a/x", "p/b/x", "p/b/y", "z"}
    assert result.reopenings[0].from_step == "p/b/y"


async def test_retry_after_compensation(engine: FluxEngine) -> None:
    """D3, D2: what was undone inside is done again, with a new key; what stands beside it is not."""
    parts = Parts("z")
    keys: list[str] = []

    async def keyed(ctx: Any) -> str:
        keys.append(ctx.idempotency_key)
        return await parts.mark(ctx)

    flow = (
        create_workflow("undone")
        .parallel("p", a=branch().step("x", keyed, compensate=parts.undo), b=branch().step("x", parts.mark))
        .step("z", parts.mark, retries=0)
    )
    await engine.execute(flow, id="r")
    assert parts.undone == ["p/a/x"]
    parts.again()
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and parts.done == ["p/a/x", "z"] and len(set(keys)) == 2
    assert set(result.data) == {"p/a/x", "p/b/x", "z"}


async def test_results_of_others_are_not_there(engine: FluxEngine) -> None:
    """D22, I6: a name is that of a step beside it or around it, never of another branch, which may not have ended."""
    seen: dict[str, Any] = {}
    parts = Parts()

    async def look(ctx: Any) -> None:
        await eventually(lambda: "p/other" in parts.done)
        for name in ("s", "x", "other", "p/other"):
            seen[name] = ctx.results.get(name)

    flow = create_workflow("names").step("s", parts.act).parallel("p", a=branch().step("x", parts.act).step("look", look), other=parts.act)
    await engine.execute(flow)
    assert (seen["s"], seen["x"], seen["other"]) == ("s", "p/a/x", None)


@dataclass
class Totals:
    a: int = 0
    b: int = 0


async def test_typed_data_in_a_graph(engine: FluxEngine) -> None:
    """D22: what a step beside it committed meanwhile is not taken for its own change."""
    parts = Parts(held=("slow",))

    async def slow(ctx: Any) -> None:
        ctx.data.a = 1
        await parts.act(ctx)

    async def fast(ctx: Any) -> None:
        ctx.data.b = 1

    async def release(ctx: Any) -> None:
        parts.let("slow")

    flow = (
        create_workflow("typed")
        .data(Totals)
        .step("slow", slow, after=())
        .step("fast", fast, after=())
        .step("release", release, after=["fast"])
    )
    result = await engine.execute(flow)
    assert result.status == "completed" and result.data == {"a": 1, "b": 1}

"""Runs that begin again under their id, with a fresh history (S1.2, D1, D2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flux import FluxEngine, InvalidInput, branch, continue_as_new, create_workflow
from flux.core.evolve import fold
from flux.storage import Commit, Committed
from flux.testing import VirtualClock

from .cluster import Cluster, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio


class Rounds:
    """`work` notes its key, `again` begins anew until there were `last` rounds."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.keys: list[str] = []
        self.inputs: list[Any] = []
        self.undone: list[str] = []

    async def work(self, ctx: Any) -> int:
        """One round."""
        self.keys.append(ctx.idempotency_key)
        self.inputs.append(ctx.input)
        ctx.data["rounds"] = ctx.data.get("rounds", 0) + 1
        return int(ctx.data["rounds"])

    async def again(self, ctx: Any) -> Any:
        """The end of a round, or of all."""
        if ctx.data["rounds"] < self.last:
            ctx.data["last"] = ctx.data["rounds"]
            return continue_as_new({"after": ctx.data["rounds"]})
        return "over"

    async def undo(self, ctx: Any) -> None:
        """Notes what is undone."""
        self.undone.append(f"{ctx.path} {ctx.data['rounds']}")


async def test_data_go_on_and_history_begins_anew(engine: FluxEngine, cluster: Cluster) -> None:
    """S1.2, D2: the same run, with its data, another input, other keys, and the history of its last round alone."""
    rounds = Rounds(4)
    flow = create_workflow("rounds").step("work", rounds.work).step("again", rounds.again)
    result = await engine.execute(flow, {"after": 0}, id="r")
    assert (result.status, result.data, result.continuation) == ("completed", {"rounds": 4, "last": 3}, 3)
    assert [line.path for line in result.history] == ["work", "again"] and result.results == {"work": 4, "again": "over"}
    assert rounds.inputs == [{"after": number} for number in range(4)] and len(set(rounds.keys)) == 4
    read = await (await cluster.open()).get("r")
    assert (read.data, read.input, read.continuation, read.results) == (result.data, {"after": 3}, 3, result.results)
    assert read.created_at == result.created_at


async def test_what_is_loaded_stays_small(engine: FluxEngine) -> None:
    """S1.2: after two hundred rounds as much as after one; the whole journal can still be read, and says the same."""
    rounds = Rounds(200)
    flow = create_workflow("rounds").step("work", rounds.work).step("again", rounds.again)
    result = await engine.execute(flow, {"after": 0}, id="r")
    run = await engine.storage.load("r")
    assert run is not None and len(run.rows) == 3 and run.header.position >= 200
    rows = await engine.storage.read_journal("r", limit=10_000)
    assert [row.position for row in rows] == list(range(1, run.header.position + 1))
    plan = engine._registry.bind(flow).plan  # pyright: ignore[reportPrivateUsage]
    whole = fold(plan, [(row.at, row.records) for row in rows])
    part = fold(plan, [(row.at, row.records) for row in run.rows])
    assert whole.facts() == part.facts() and result.continuation == whole.continuation == 199


class Dying(Faulty):
    """Its Nth commit is written, or (`before`) not, and never answered; nothing is written after it."""

    def __init__(self, storage: Any, number: int, *, before: bool) -> None:
        super().__init__(storage)
        self.left = number
        self.before = before

    async def commit(self, commit: Commit) -> Committed:
        """Writes, or is gone."""
        self.left -= 1
        if self.left > 0:
            return await super().commit(commit)
        if self.left == 0 and not self.before:
            await super().commit(commit)
        return await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("number", range(1, 7))
async def test_a_crash_at_any_commit(cluster: Cluster, number: int, before: bool) -> None:
    """I5, I7: the end of a round and the beginning of the next are one commit, written or not."""
    rounds = Rounds(3)
    flow = create_workflow("rounds").step("work", rounds.work).step("again", rounds.again)
    storage = Dying(cluster.storage(), number, before=before)
    engine = await cluster.open(storage)
    call = asyncio.create_task(engine.execute(flow, {"after": 0}, id="r"))
    await eventually(lambda: storage.left <= 0)
    await cluster.crash(engine)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await cluster.outlive()
    result = await (await cluster.open()).resume(flow, "r")
    assert (result.status, result.data["rounds"], result.continuation) == ("completed", 3, 2)
    assert len(set(rounds.keys)) == 3 and len(rounds.keys) <= 4


async def test_signals_that_nobody_took_are_kept(engine: FluxEngine) -> None:
    """S7.2: for the wait of the next round."""
    rounds = Rounds(3)
    flow = create_workflow("rounds").step("work", rounds.work).wait("go").step("again", rounds.again)
    await engine.execute(flow, id="r")
    for number in range(3):
        result = await engine.signal(flow, "r", "go", number)
    assert (result.status, result.results["go"], result.data["rounds"]) == ("completed", 2, 3)
    early = await engine.start(flow, id="early")
    for number in range(3):
        await engine.signal(flow, early.id, "go", number)
    assert (await engine.resume(flow, "early")).results["go"] == 2


async def test_a_worker_goes_on_with_it(cluster: Cluster, clock: VirtualClock) -> None:
    """S14: over sleeps, from claim to claim; the deadline is each round's own."""
    engine = await cluster.open()
    rounds = Rounds(30)
    flow = create_workflow("rounds", deadline=100).step("work", rounds.work).sleep("nap", 60).step("again", rounds.again)
    async with engine.worker():
        handle = await engine.start(flow)
        assert (await handle.result())["rounds"] == 30


async def test_what_was_before_is_not_undone(engine: FluxEngine) -> None:
    """S10.4: of the last round alone."""
    rounds = Rounds(3)

    async def fail(ctx: Any) -> None:
        if len(rounds.keys) == 2:
            raise ValueError("enough")

    flow = (
        create_workflow("rounds").step("work", rounds.work, compensate=rounds.undo).step("f", fail, retries=0).step("again", rounds.again)
    )
    result = await engine.execute(flow)
    assert (result.status, rounds.undone) == ("failed", ["work!undo 2"])
    rounds.undone.clear()
    retried = await engine.retry(flow, result.id)
    assert (retried.status, retried.continuation, retried.data["rounds"], rounds.undone) == ("completed", 2, 3, [])


async def test_a_cancel_comes_first(cluster: Cluster) -> None:
    """I27: a run that is cancelled does not begin again."""
    engine = await cluster.open()
    undone: list[str] = []

    async def again(ctx: Any) -> Any:
        await engine.cancel(ctx.run_id, "enough")
        return continue_as_new()

    async def undo(ctx: Any) -> None:
        undone.append(ctx.path)

    flow = create_workflow("x").step("again", again, compensate=undo)
    result = await engine.execute(flow, id="r")
    assert (result.status, result.continuation, undone) == ("cancelled", 0, ["again!undo"])


async def test_not_in_a_replay(engine: FluxEngine) -> None:
    """D4: a commit step that returns it only then has run again, and nothing else has."""
    rounds, paid = Rounds(1), list[str]()

    async def pay(ctx: Any) -> Any:
        paid.append(ctx.idempotency_key)
        return continue_as_new() if len(paid) == 2 else "paid"

    flow = create_workflow("x").step("work", rounds.work).commit("pay", pay, pivot=True)
    await engine.execute(flow, id="r")
    result = await engine.replay(flow, "r")
    assert (result.status, result.continuation, result.results) == ("completed", 0, {"work": 1, "pay": None})
    assert len(rounds.keys) == 1 and len(paid) == 2 and len(set(paid)) == 1 and result.past_pivot


async def test_where_it_may_not_be_returned(engine: FluxEngine) -> None:
    """S1.4: inside another step, or in a graph, others may be under way; and an input is checked as ever."""

    async def again(ctx: Any) -> Any:
        return continue_as_new({"n": "no number"})

    async def work(ctx: Any) -> None: ...

    inside = await engine.execute(create_workflow("inside").parallel("p", a=branch().step("again", again)))
    assert inside.status == "failed" and "only a step at the top level" in str(inside.error)
    graph = await engine.execute(create_workflow("graph").step("a", work).step("again", again, after=["a"]))
    assert graph.status == "failed" and "stands in a graph" in str(graph.error)
    checked = create_workflow("checked").validate(lambda value: value is None).step("again", again)
    refused = await engine.execute(checked)
    assert refused.status == "failed" and isinstance(refused.error, InvalidInput)

"""Families whose engines die, which are spread over several, or find few workers (I15, I41, S14)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from flux import FluxEngine, RunFinished, RunNotFound, RunStatus, StorageUnavailable, Workflow, branch, create_workflow
from flux.core.status import TERMINAL
from flux.storage import Commit, WorkflowStorage

from .again import Shop
from .cluster import Cluster, eventually
from .family import billing, family, order, standing
from .faults import Faulty
from .parts import Parts

pytestmark = pytest.mark.anyio

WRITES = frozenset({"create", "commit", "post", "take", "claim"})
DOWN = StorageUnavailable("the disk is full")


class Dying(Faulty):
    """A storage whose process dies at its write number `at` (from 1; 0 is never), just before or just `after` it: nothing is answered
    from then on."""

    def __init__(self, inner: WorkflowStorage, at: int, after: bool) -> None:
        super().__init__(inner)
        self.at = at
        self.after = after
        self.writes = 0
        self.died = asyncio.Event()

    async def _do(self, verb: str, first: Any, *rest: Any, **named: Any) -> Any:
        await self._alive()
        self.writes += verb in WRITES
        if verb not in WRITES or self.writes != self.at:
            answer = await super()._do(verb, first, *rest, **named)
            await self._alive()
            return answer
        if self.after:
            await super()._do(verb, first, *rest, **named)
        self.died.set()
        return await self._alive()

    async def _alive(self) -> None:
        if self.died.is_set():
            await asyncio.Event().wait()


# --- what happens


Act = Callable[[FluxEngine, Workflow[Any, Any]], Awaitable[object]]


class Story:
    """A family of three generations, `r`, and what is done to it; it can be told again from the beginning, or gone on with."""

    def __init__(self, ending: str) -> None:
        self.ending = ending
        self.shop = Shop(*{"fails": ["last"], "child fails": ["inner.b"]}.get(ending, []))
        shop = self.shop
        inner = billing(shop, "inner")
        self.waiting = inner.wait("go") if ending in ("cancelled", "signalled") else inner
        middle = create_workflow("middle").child("inner", self.waiting).step("m", shop.act("m"), retries=0, compensate=shop.act("undo m"))
        self.flow = order(shop, middle, billing(shop, "other"))

    async def begin(self, engine: FluxEngine) -> None:
        """All of it, by calls."""
        await engine.execute(self.flow, id="r")
        await self.then(engine)

    async def then(self, engine: FluxEngine) -> None:
        """What somebody does who has had no answer, and does it again."""
        if self.ending == "cancelled":
            try:
                await engine.cancel("r")
            except RunFinished:
                return
        elif self.ending == "signalled":
            try:
                await engine.signal(self.waiting, await self.inner(engine), "go", 1, signal_id="s")
            except RunFinished:
                return

    async def inner(self, engine: FluxEngine) -> str:
        """The id of the child that waits."""
        return (await family(engine, "r"))["middle:inner"].id

    async def carry_on(self, engine: FluxEngine, by: str) -> None:
        """To its end, by an engine that knows nothing but what is stored."""
        if by == "call":
            await engine.execute(self.flow, id="r")
            await self.then(engine)
            return
        try:
            await engine.summary("r")
        except RunNotFound:
            await engine.start(self.flow, id="r")
        poster = self.ending in ("cancelled", "signalled")
        async with engine.worker(concurrency=1):
            if poster:
                await eventually(lambda: self.posted(engine))
            await engine.until("r", TERMINAL)

    async def posted(self, engine: FluxEngine) -> bool:
        """Whether it could be said what is said next: the family rests, or goes down already."""
        found = await family(engine, "r")
        inner = found.get("middle:inner")
        if found[""].status in TERMINAL or found[""].cancelling:
            return True
        if inner is None or not (inner.waiting_for or inner.status in TERMINAL):
            return False
        await self.then(engine)
        return True


ENDINGS = ["completes", "fails", "child fails", "cancelled", "signalled"]


async def ends(story: Story, engine: FluxEngine) -> tuple[dict[str, str], set[str], Counter[str]]:
    """How they stand, who was made, and what was done."""
    return await standing(engine, "r"), {run.id for run in (await engine.list()).runs}, Counter(story.shop.done)


async def as_it_should(cluster: Cluster, ending: str) -> tuple[dict[str, str], set[str], Counter[str], int]:
    """The same without a crash, and the number of writes; all forgotten afterwards."""
    story, storage = Story(ending), Dying(cluster.storage(), 0, False)
    engine = await cluster.open(storage)
    await story.begin(engine)
    found = await ends(story, engine)
    await engine.delete("r")
    return *found, storage.writes


def same(found: Any, expected: Any, lost: int = 1) -> None:
    """The same end and the same runs; nothing was left out, and no more was done twice than attempts were lost. A step that fails for
    good has something to undo where one attempt of it was lost (D8)."""
    assert list(found[:2]) == expected[:2]
    more = found[2] - expected[2]
    doubts = {f"undo {name}" for name in more}
    assert not expected[2] - found[2] and sum(count for name, count in more.items() if name not in doubts) <= lost, more


async def dies(cluster: Cluster, story: Story, at: int, after: bool, tell: Callable[[FluxEngine], Awaitable[object]]) -> bool:
    """Let an engine do it, and die; whether it did."""
    storage = Dying(cluster.storage(), at, after)
    engine = await cluster.open(storage, workflows=[story.flow])
    task, death = asyncio.ensure_future(tell(engine)), asyncio.ensure_future(storage.died.wait())
    async with asyncio.timeout(60):
        await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
    died = storage.died.is_set()
    if died:
        await cluster.bury(engine)
        task.cancel()
    death.cancel()
    problem = (await asyncio.gather(task, death, return_exceptions=True))[0]
    if not died and problem is not None:
        raise problem
    await engine.close() if not died else await cluster.outlive()
    return died


@pytest.mark.parametrize("by", ["call", "worker"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_engine_dies_at_every_write(cluster: Cluster, ending: str, after: bool, by: str) -> None:
    """I15, I41, I7: the same end as without; a child is made once, its end is heard once, and no effect is left out or repeated but
    that of the attempt which was lost."""
    *expected, writes = await as_it_should(cluster, ending)
    for at in range(1, writes + 1, 1 if cluster.in_memory else 3):
        story = Story(ending)
        assert await dies(cluster, story, at, after, story.begin) or at > writes // 2, "it dies, unless a look at the inbox was saved"
        engine = await cluster.open(workflows=[story.flow])
        await asyncio.wait_for(story.carry_on(engine, by), 10)
        await eventually(lambda: ended(engine))
        same(await ends(story, engine), expected)
        assert (await engine.doctor(ended=True)).healthy
        await engine.delete("r")
        await engine.close()


async def ended(engine: FluxEngine) -> bool:
    return all(run.status in TERMINAL for run in (await engine.list()).runs)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_workers_die_at_every_write(cluster: Cluster, ending: str) -> None:
    """I15, I41: a worker that has room for one run at a time, and dies; the next one does it all from where it stood."""
    *expected, _ = await as_it_should(cluster, ending)
    for at in range(1, 200, 1 if cluster.in_memory else 3):
        story = Story(ending)

        async def work(engine: FluxEngine, story: Story = story) -> None:
            await story.carry_on(engine, "worker")

        died = await dies(cluster, story, at, at % 2 == 0, work)
        engine = await cluster.open(workflows=[story.flow])
        if died:
            await asyncio.wait_for(story.carry_on(engine, "worker"), 10)
        same(await ends(story, engine), expected)
        await engine.delete("r")
        await engine.close()
        if not died:
            break
    else:
        raise AssertionError("it never came to an end by itself")


@pytest.mark.parametrize("ending", ["fails", "cancelled"])
async def test_two_die_one_after_another(cluster: Cluster, ending: str) -> None:
    """I15, I32: wherever the first died, and wherever the one that carried on."""
    *expected, writes = await as_it_should(cluster, ending)
    step = 13 if cluster.in_memory else 41
    for number in range(0, writes * writes, step):
        story = Story(ending)
        first, second = number // writes + 1, number % writes + 1

        async def again(engine: FluxEngine, story: Story = story) -> None:
            await story.carry_on(engine, "call")

        await dies(cluster, story, first, number % 2 == 0, story.begin)
        await dies(cluster, story, second, number % 4 > 1, again)
        engine = await cluster.open(workflows=[story.flow])
        await asyncio.wait_for(story.carry_on(engine, "call"), 10)
        same(await ends(story, engine), expected, lost=2)
        await engine.delete("r")
        await engine.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_commits_that_are_not_answered(cluster: Cluster, ending: str, after: bool) -> None:
    """I45, I41: every commit fails once, and is tried again: nothing is done twice, no child made or told twice."""
    *expected, _ = await as_it_should(cluster, ending)
    story, storage = Story(ending), Faulty(cluster.storage())
    engine = await cluster.open(storage)
    do, failed = storage._do, list[Commit]()

    async def twice(verb: str, first: Any, *rest: Any, **named: Any) -> Any:
        if verb != "commit" or not first.records or any(first is commit for commit in failed):
            return await do(verb, first, *rest, **named)
        failed.append(first)
        if after:
            await do(verb, first, *rest, **named)
        raise DOWN

    storage._do = twice  # type: ignore[method-assign]
    await story.begin(engine)
    assert await ends(story, engine) == tuple(expected)
    assert len(failed) > 8


# --- several engines


@pytest.mark.parametrize("engines", [1, 2, 3])
async def test_parents_do_not_starve_their_children(cluster: Cluster, engines: int) -> None:
    """S1.2, S14.3: parents that wait hold nothing: twenty families of four generations, one run at a time in each worker."""
    shop = Shop()
    flow: Workflow[Any, Any] = create_workflow("d0").step("a", shop.act("d0"))
    for depth in range(1, 4):
        flow = create_workflow(f"d{depth}").child("c", flow).step("a", shop.act(f"d{depth}"))
    workers = [await cluster.open(workflows=[flow]) for _ in range(engines)]
    poster = await cluster.open(drive_in_caller=False)
    for number in range(20):
        await poster.start(flow, id=f"r{number}")
    async with AsyncExitStack() as stack, asyncio.timeout(20):
        for worker in workers:
            await stack.enter_async_context(worker.worker(concurrency=1))
        for number in range(20):
            await poster.until(f"r{number}", {RunStatus.COMPLETED})
    assert Counter(shop.done) == {f"d{depth}": 20 for depth in range(4)}
    assert len((await poster.list(limit=100)).runs) == 80


async def test_a_waiting_parent_is_held_by_nobody(cluster: Cluster) -> None:
    """S1.2, D17: at a worker; nor does it keep a place in it, though its deadline is near."""
    cluster.stand_still()
    flow = create_workflow("top", deadline=0.9).child("c", create_workflow("c").wait("go"))
    engine = await cluster.open(workflows=[flow])
    await engine.start(flow, id="r")
    async with engine.worker(concurrency=1):
        await eventually(lambda: _waits(engine))
        header = await engine.storage.read_header("r")
        assert header is not None and (header.owner, header.status) == (None, "suspended")


async def _waits(engine: FluxEngine) -> bool:
    found = await standing(engine, "r")
    header = await engine.storage.read_header("r")
    return found == {"": "suspended", "c": "suspended"} and header is not None and header.owner is None


@pytest.mark.parametrize("who", ["parent", "child"])
async def test_parent_and_child_in_two_engines(cluster: Cluster, who: str) -> None:
    """S13.3, I41: each workflow is known to one worker alone; they go on by what is posted between them, down and up again."""
    shop = Shop("last") if who == "parent" else Shop("child.b")
    child = billing(shop, "child")
    flow = order(shop, child)
    knows_all = await cluster.open(workflows=[flow])
    only_child = await cluster.open(workflows=[child])
    await knows_all.start(flow, id="r")
    one, other = knows_all.worker(concurrency=1), only_child.worker(concurrency=1)
    async with one, other:
        await knows_all.until("r", {RunStatus.FAILED})
    assert await standing(knows_all, "r") == {"": "failed", "child": "cancelled" if who == "parent" else "failed"}
    assert shop.done[-1] == "undo first" and shop.done.count("undo child.a") == 1


async def test_the_engine_of_the_child_dies(cluster: Cluster) -> None:
    """S12.1: its parent, which is held elsewhere, hears of the end from whoever takes it over."""
    parts = Parts(held=("a",))
    child = create_workflow("c").step("a", parts.act, timeout=None)
    flow = create_workflow("top").child("c", child)
    first, second = await cluster.open(workflows=[child]), await cluster.open(workflows=[flow])
    poster = await cluster.open(drive_in_caller=False)
    await poster.execute(flow, id="r")
    await first.worker().__aenter__()  # never left: it dies
    await parts.reached("a")
    await cluster.crash(first)
    parts.let("a")
    async with second.worker():
        await cluster.outlive()
        await second.until("r", {RunStatus.COMPLETED})
    assert parts.done == ["a", "a"]


async def test_a_call_waits_for_a_child_that_is_held_elsewhere(cluster: Cluster) -> None:
    """D19: an `execute` goes on once another engine is through with the child."""
    parts = Parts(held=("a",))
    child = create_workflow("c").step("a", parts.act, timeout=None)
    flow = create_workflow("top").child("c", child).step("z", parts.act)
    worker, poster, caller = await cluster.open(workflows=[child]), await cluster.open(drive_in_caller=False), await cluster.open()
    await poster.execute(flow, id="r")
    async with worker.worker():
        await parts.reached("a")
        task = asyncio.create_task(caller.resume(flow, "r"))
        await eventually(lambda: "r" in caller._host.drivers)
        parts.let("a")
        result = await asyncio.wait_for(task, 10)
    assert result.status == "completed" and parts.done == ["a", "z"]


async def test_closing_an_engine_gives_all_of_a_family_back(cluster: Cluster) -> None:
    """S14.4: parent and child are there for others at once."""
    parts = Parts(held=("a",))
    child = create_workflow("c").step("a", parts.act, timeout=None).step("b", parts.act)
    flow = create_workflow("top").child("c", child)
    first, second = await cluster.open(), await cluster.open(workflows=[flow])
    task = asyncio.create_task(first.execute(flow, id="r"))
    await parts.reached("a")
    closing = asyncio.create_task(first.close())
    await eventually(lambda: first._host.draining)  # pyright: ignore[reportPrivateUsage]
    parts.let("a")
    await asyncio.wait_for(closing, 10)
    await asyncio.gather(task, return_exceptions=True)
    for run in (await second.list()).runs:
        header = await second.storage.read_header(run.id)
        assert header is not None and header.owner is None
    async with second.worker():
        await second.until("r", {RunStatus.COMPLETED})
    assert parts.done == ["a", "b"]


async def test_a_caller_that_goes_away(cluster: Cluster) -> None:
    """D19: parent and child go on without it."""
    engine = await cluster.open()
    parts = Parts(held=("a",))
    flow = create_workflow("top").child("c", create_workflow("c").step("a", parts.act, timeout=None)).step("z", parts.act)
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await parts.reached("a")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    parts.let("a")
    assert await asyncio.wait_for(engine.until("r", {RunStatus.COMPLETED}), 10) == "completed" and parts.done == ["a", "z"]


# --- deploys


async def test_an_old_parent_has_its_old_child(cluster: Cluster) -> None:
    """S13.3, I37: a rolling deploy: new code has a new version of both; a parent of the old goes on to its child of the old, at the old
    worker, or at a new one that still knows the old parent, and with it its child."""
    shop = Shop()

    def release(version: str) -> Workflow[Any, Any]:
        child = create_workflow("child", version=version).step("a", shop.act(f"child {version}"))
        return create_workflow("top", version=version).wait("go").child("c", child).step("z", shop.act(f"top {version}"))

    old, new = release("1"), release("2")
    poster = await cluster.open(drive_in_caller=False, workflows=[old])
    await poster.execute(old, id="r")
    newer = await cluster.open(workflows=[new])
    async with newer.worker():
        await poster.signal(old, "r", "go")
        await newer.start(new, id="s")
        await poster.signal(new, "s", "go")
        await newer.until("s", {RunStatus.COMPLETED})
        assert (await poster.summary("r")).status == "suspended" and shop.done == ["child 2", "top 2"]
    both = await cluster.open(workflows=[new, old])
    async with both.worker():
        await both.until("r", {RunStatus.COMPLETED})
    found = await family(both, "r")
    assert [run.version for run in found.values()] == ["1", "1"] and shop.done[2:] == ["child 1", "top 1"]


async def test_a_child_whose_code_does_not_fit(cluster: Cluster) -> None:
    """D28, S13.2: it is blocked by itself, and goes on with code that fits; its parent just waits."""
    shop = Shop()

    def release(name: str) -> tuple[Workflow[Any, Any], Workflow[Any, Any]]:
        child = create_workflow("child").step(name, shop.act(name)).wait("go")
        return create_workflow("top").child("c", child), child

    (fits, _), (other, changed) = release("a"), release("b")
    engine, stranger = await cluster.open(), await cluster.open()
    child_id = (await engine.execute(fits, id="r")).children["c"]
    await stranger.signal(changed, child_id, "go")
    assert await standing(engine, "r") == {"": "suspended", "c": "blocked"} and other.name == "top"
    async with (await cluster.open(workflows=[fits])).worker():
        await engine.until("r", {RunStatus.COMPLETED})
    assert shop.done == ["a"]


@pytest.mark.parametrize("by", ["call", "worker"])
async def test_a_finished_child_that_is_undone_by_code_that_fits(cluster: Cluster, by: str) -> None:
    """S2.2, D6, D28, I8, I15: code that does not fit leaves it completed, looks at it once, and nobody can take the demand away; a worker
    whose code fits undoes it."""
    shop = Shop()

    def release(name: str) -> Workflow[Any, Any]:
        child = create_workflow("child").step(name, shop.act(name), compensate=shop.act(f"undo {name}"))
        return create_workflow("top").child("c", child).wait("go")

    fits, other = release("a"), release("b")
    first = await cluster.open()
    child_id = (await first.execute(fits, id="r")).children["c"]
    await first.close()
    stranger = await cluster.open(workflows=[other], drive_in_caller=by == "call")
    await stranger.cancel("r")

    async def told() -> bool:
        header = await stranger.storage.read_header(child_id)
        return header is not None and header.misfits != ()

    async with stranger.worker():
        await eventually(told)
        seen = await stranger.storage.read_header(child_id)
        await cluster.clock.advance(1)
        assert await stranger.storage.read_header(child_id) == seen and seen is not None and seen.owner is None
    assert await standing(stranger, "r") == {"": "compensating", "c": "completed"}
    with pytest.raises(RunFinished):
        await stranger.cancel(child_id, compensate=False)
    report = await stranger.doctor(ended=True)
    assert [(one.kind, one.run_id) for one in report.findings] == [("misfit", child_id)] and "wants it undone" in str(report)
    engine = await cluster.open(workflows=[fits])
    assert (await engine.doctor(ended=True)).healthy
    async with engine.worker():
        await engine.until("r", {RunStatus.CANCELLED})
    assert await standing(engine, "r") == {"": "cancelled", "c": "cancelled"} and shop.done == ["a", "undo a"]
    assert (await engine.doctor(ended=True)).healthy


async def test_a_finished_child_that_is_asked_while_it_is_given_back(cluster: Cluster) -> None:
    """I15, D12: what its parent asks of it comes while somebody holds it, who found nothing to do: it is looked at all the same."""
    shop = Shop()
    child = create_workflow("child").step("a", shop.act("a"), compensate=shop.act("undo a"))
    flow = create_workflow("top").child("c", child).wait("go")
    slow = Faulty(cluster.storage())
    first, poster = await cluster.open(slow, workflows=[child]), await cluster.open(workflows=[flow], drive_in_caller=False)
    child_id = (await (await cluster.open()).execute(flow, id="r")).children["c"]
    gate = slow.held["commit"] = asyncio.Event()
    refused = asyncio.create_task(first.retry(child, child_id))
    await eventually(lambda: "commit" in dict(slow.calls))
    await poster.cancel("r")
    async with poster.worker(), asyncio.timeout(60):
        await poster.until("r", {RunStatus.COMPENSATING})
        gate.set()
        with pytest.raises(RunFinished):
            await refused
        await poster.until("r", {RunStatus.CANCELLED})
    assert await standing(poster, "r") == {"": "cancelled", "c": "cancelled"} and shop.done == ["a", "undo a"]


@pytest.mark.parametrize("by", ["call", "worker"])
async def test_a_family_that_nobody_knows_any_more(cluster: Cluster, by: str) -> None:
    """D28, D6: it can be cancelled without its code, all of it: the parent has its child told, and ends once that has."""
    shop = Shop()
    flow = order(shop, create_workflow("c").step("a", shop.act("c.a"), compensate=shop.act("undo")).wait("go"))
    engine, stranger = await cluster.open(), await cluster.open()
    child_id = (await engine.execute(flow, id="r")).children["c"]
    asked = await stranger.cancel("r", compensate=False)
    assert asked.cancelling and asked.status == "suspended"
    again = await stranger.cancel("r", compensate=False)
    assert again.status == "suspended" and not (await engine.get(child_id)).cancelling
    if by == "call":
        assert (await stranger.cancel(child_id, compensate=False)).status == "cancelled"
        assert (await stranger.cancel("r", compensate=False)).status == "cancelled"
    else:  # it does not fit, and needs not
        other = create_workflow("order").child("other", create_workflow("c").wait("other"))
        async with (await cluster.open(workflows=[other])).worker():
            await engine.until("r", {RunStatus.CANCELLED})
    assert await standing(stranger, "r") == {"": "cancelled", "c": "cancelled"} and shop.done == ["first", "c.a"]


async def test_many_children_of_one_parent(cluster: Cluster) -> None:
    """I15, I25: their words come all at once, and none is lost."""
    shop = Shop()
    each = branch().child("c", create_workflow("c").step("a", shop.act("a")))
    flow = create_workflow("top").for_each("each", lambda ctx: range(60), each, concurrency=None)
    poster = await cluster.open(drive_in_caller=False)
    await poster.start(flow, id="r")
    one, two = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    async with one.worker(concurrency=7), two.worker(concurrency=7):
        await asyncio.wait_for(one.until("r", {RunStatus.COMPLETED}), 20)
    assert len(shop.done) == 60 and len((await poster.list(limit=100)).runs) == 61

"""An attempt was lost, and nobody knows what it did (S3.8, D7, D8)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flux import NOT_DONE, FluxEngine, InvalidWorkflow, Retry, RunResult, branch, create_workflow

from .again import Declined, Listener, Shop
from .cluster import Cluster, eventually
from .faults import Faulty

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


# --- the ways to lose an attempt: each leaves the run to a new engine


async def crash(cluster: Cluster, engine: FluxEngine) -> None:
    """The process is gone."""
    await cluster.crash(engine)
    await cluster.outlive()


async def shut_down(cluster: Cluster, engine: FluxEngine) -> None:
    """The grace period is over."""
    await engine.close()


async def lose_the_lease(cluster: Cluster, engine: FluxEngine) -> None:
    """Another has condemned it: what runs here is cut, and can write nothing."""
    host = engine._host  # pyright: ignore[reportPrivateUsage]
    assert host._lease is not None
    host._lease.stop()
    await cluster.outlive()


Way = Callable[[Cluster, FluxEngine], Awaitable[None]]
WAYS = {"crash": crash, "shutdown": shut_down, "lease": lose_the_lease}


class Lost:
    """A run "r" whose step was lost in its handler, in one of these ways."""

    def __init__(self, cluster: Cluster, way: str, flow: Any, shop: Shop) -> None:
        self.cluster, self.way, self.flow, self.shop = cluster, way, flow, shop

    async def __call__(self, name: str = "a") -> FluxEngine:
        """Lose it; the engine that carries on."""
        engine = await self.cluster.open(grace=0, workflows=[self.flow])
        self.shop.hanging = {name}
        self.shop.entered.clear()
        task = asyncio.create_task(engine.execute(self.flow, id="r"))
        await self.shop.reached(name)
        await WAYS[self.way](self.cluster, engine)
        self.shop.hanging = set()
        other = await self.cluster.open(workflows=[self.flow])
        if self.way == "lease":
            await other.resume(self.flow, "r")
            await self.cluster.crash(engine)
        await asyncio.gather(task, return_exceptions=True)
        return other


@pytest.fixture(params=list(WAYS))
def lost(request: Any, cluster: Cluster) -> Callable[[Any, Shop], Lost]:
    """How the attempt was lost."""
    return lambda flow, shop: Lost(cluster, request.param, flow, shop)


# --- on_unknown


async def test_fail_is_never_called_again(lost: Callable[..., Lost]) -> None:
    """S3.8: at most once, whatever `retries` says; the run fails with UnknownOutcome, and the step, in doubt, is compensated."""
    shop = Shop()
    flow = (
        create_workflow("fail")
        .step("first", shop.act("first"), compensate=shop.act("undo first"))
        .step("a", shop.act("a"), retries=5, timeout=None, on_unknown="fail", compensate=shop.act("undo a"))
        .step("b", shop.act("b"))
    )
    engine = await lost(flow, shop)()
    result = await engine.resume(flow, "r")
    assert shop.done == ["first", "a", "undo a", "undo first"] and result.status == "failed"
    assert type(result.error).__name__ == "UnknownOutcome" and "'a'" in str(result.error)
    line = result.history[1]
    assert line.attempts == 1 and line.status == "compensated"


async def test_fail_and_what_was_completed(lost: Callable[..., Lost]) -> None:
    """S10.4: with `compensate_when="completed"` the step in doubt is left, and shown as such."""
    shop = Shop()
    flow = create_workflow("left").step("a", shop.act("a"), on_unknown="fail", compensate=shop.act("undo"), compensate_when="completed")
    engine = await lost(flow, shop)()
    result = await engine.resume(flow, "r")
    assert shop.done == ["a"] and result.status == "failed" and result.history[0].in_doubt


async def test_compensate(lost: Callable[..., Lost]) -> None:
    """S3.8: never called again, and undone."""
    shop = Shop()
    flow = create_workflow("undo").commit("a", shop.act("a"), on_unknown="compensate", compensate=shop.act("undo"))
    engine = await lost(flow, shop)()
    result = await engine.resume(flow, "r")
    assert shop.done == ["a", "undo"] and result.status == "failed" and not result.history[0].in_doubt


async def test_retry_calls_again(lost: Callable[..., Lost]) -> None:
    """S3.7, S3.8: the default: called again, and not counted as one that raised; in doubt until the run's end."""
    shop = Shop()
    flow = create_workflow("again").step("a", shop.act("a"), retries=0, timeout=None)
    engine = await lost(flow, shop)()
    result = await engine.resume(flow, "r")
    assert shop.done == ["a", "a"] and result.status == "completed" and result.history[0].attempts == 2


async def test_a_person_tries_it_again(lost: Callable[..., Lost]) -> None:
    """D3: a retry of the run is somebody's decision that it may be called once more; under a new key when it was undone."""
    shop = Shop()
    keys: list[str] = []

    async def act(ctx: Any) -> Any:
        keys.append(ctx.idempotency_key)
        return await shop.act("a")(ctx)

    flow = create_workflow("person").step("a", act, on_unknown="fail", compensate=shop.act("undo"))
    engine = await lost(flow, shop)()
    await engine.resume(flow, "r")
    result = await engine.retry(flow, "r")
    assert result.status == "completed" and shop.done == ["a", "undo", "a"] and len(set(keys)) == 2


@pytest.mark.parametrize("choice", ["fail", "compensate"])
async def test_a_timeout(engine: FluxEngine, choice: Any) -> None:
    """D8: an attempt that overran its timeout is in doubt, and `on_unknown` decides before `retries`."""
    shop = Shop()
    shop.hanging = {"a"}
    flow = create_workflow("timeout").step("a", shop.act("a"), timeout=5, retries=3, on_unknown=choice, compensate=shop.act("undo"))
    result = await engine.execute(flow)
    assert shop.done == ["a", "undo"] and type(result.error).__name__ == "StepTimeout"


@pytest.mark.parametrize("choice", ["retry", "fail", "compensate"])
async def test_one_that_raised_is_known(engine: FluxEngine, choice: Any) -> None:
    """D8: its outcome is known: `retries` decide."""
    shop = Shop("a")
    flow = create_workflow("raised").step("a", shop.act("a"), retries=1, retry=AT_ONCE, on_unknown=choice, compensate=shop.act("undo"))
    result = await engine.execute(flow)
    assert shop.done == ["a", "a"] and result.status == "failed"


@pytest.mark.parametrize("choice", ["retry", "fail", "compensate"])
async def test_an_interrupt(engine: FluxEngine, choice: Any) -> None:
    """S11.1, D8: the handler of an interrupted step is in doubt; the run goes down, and the step is undone."""
    shop = Shop()
    shop.hanging = {"a"}
    flow = create_workflow("interrupt").step("a", shop.act("a"), timeout=None, on_unknown=choice, compensate=shop.act("undo"))
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await shop.reached("a")
    await engine.cancel("r", interrupt=True)
    result = await task
    assert result.status == "cancelled" and shop.done == ["a", "undo"]


async def test_an_interrupt_that_is_refused(cluster: Cluster) -> None:
    """D8, D10: past the pivot, from an engine that does not know the workflow: the cancel is refused, so its interrupt cuts nothing."""
    shop = Shop()
    go = asyncio.Event()

    async def act(ctx: Any) -> str:
        shop.done.append("a")
        shop.entered.setdefault("a", asyncio.Event()).set()
        await go.wait()
        return "done"

    flow = create_workflow("refused").commit("pay", shop.act("pay"), pivot=True).step("a", act, timeout=None, on_unknown="fail")
    engine = await cluster.open(workflows=[flow])
    stranger = await cluster.open()
    task = asyncio.create_task(engine.execute(flow, id="r"))
    await shop.reached("a")
    await stranger.cancel("r", interrupt=True)
    await cluster.clock.advance(20)  # two heartbeats
    go.set()
    result = await task
    assert result.status == "completed" and shop.done == ["pay", "a"]


# --- compensations


async def test_a_compensation_in_doubt(lost: Callable[..., Lost]) -> None:
    """S10.2, D8: a compensation that was lost is run again, with its key, whatever its step says."""
    shop = Shop("bad")
    keys: list[str] = []

    async def undo(ctx: Any) -> None:
        keys.append(ctx.idempotency_key)
        await shop.act("undo")(ctx)

    flow = (
        create_workflow("undoing")
        .step("a", shop.act("a"), on_unknown="fail", compensate=undo, compensate_retries=0, compensate_timeout=3600)
        .step("bad", shop.act("bad"), retries=0)
    )
    engine = await lost(flow, shop)("undo")
    result = await engine.resume(flow, "r")
    assert result.status == "failed" and shop.done == ["a", "bad", "undo", "undo"] and result.compensation_errors == {}
    assert len(set(keys)) == 1 and type(result.error) is Declined


# --- before the handler was called


async def test_a_run_that_was_only_claimed(cluster: Cluster) -> None:
    """D7: a worker that dies between its claim and the start has started nothing."""
    shop = Shop()
    flow = create_workflow("claimed").step("a", shop.act("a"), on_unknown="fail")
    storage = Faulty(cluster.storage())
    one = await cluster.open(storage, workflows=[flow])
    await one.start(flow, id="r")
    storage.held["commit"] = asyncio.Event()
    await one.worker().__aenter__()
    await eventually(lambda: "commit" in [verb for verb, _ in storage.calls])
    await cluster.crash(one)
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    result = await other.resume(flow, "r")
    assert result.status == "completed" and shop.done == ["a"] and result.history[0].attempts == 1


async def test_a_pending_run(cluster: Cluster) -> None:
    """D7: nor has an engine that has only stored it."""
    shop = Shop()
    flow = create_workflow("pending").step("a", shop.act("a"), on_unknown="fail")
    one = await cluster.open()
    await one.start(flow, id="r")
    await cluster.crash(one)
    await cluster.outlive()
    other = await cluster.open()
    assert (await other.resume(flow, "r")).status == "completed" and shop.done == ["a"]


async def test_a_handler_that_waits_for_a_thread(cluster: Cluster) -> None:
    """D7: released before a thread was free for it, it was never called, and is not in doubt."""
    go, called = threading.Event(), []

    def hold(ctx: Any) -> None:
        called.append(ctx.run_id)
        go.wait(10)

    flow = create_workflow("waits").step("a", hold, timeout=None, on_unknown="fail")
    one = await cluster.open(threads=1, grace=0, workflows=[flow])
    first = asyncio.create_task(one.execute(flow, id="first"))
    await eventually(lambda: called == ["first"])
    second = asyncio.create_task(one.execute(flow, id="second"))

    async def started() -> bool:
        return any(run.id == "second" for run in (await one.list()).runs)

    await eventually(started)
    await one.close()
    go.set()
    await asyncio.gather(first, second, return_exceptions=True)
    other = await cluster.open(workflows=[flow])
    result = await other.resume(flow, "second")
    assert result.status == "completed" and result.history[0].attempts == 1 and called == ["first", "second"]
    condemned = await other.resume(flow, "first")
    assert condemned.status == "failed" and called == ["first", "second"]


async def test_a_deploy_puts_nothing_in_doubt(cluster: Cluster) -> None:
    """D7, S14.4: a graceful close while handlers end within the grace period, runs sleep, wait and are queued: each step runs once."""
    shop = Shop()
    go = asyncio.Event()

    async def slow(ctx: Any) -> None:
        shop.done.append("slow")
        shop.entered.setdefault("slow", asyncio.Event()).set()
        await go.wait()

    def tail(name: str) -> Any:
        return create_workflow(name).step("x", shop.act("x"), on_unknown="fail")

    flows = {
        "handler": tail("handler").commit("slow", slow, on_unknown="fail"),
        "sleep": tail("sleep").sleep("nap", hours=1),
        "wait": tail("wait").wait("go"),
        "queued": tail("queued"),
    }
    flows = {name: flow.step("after", shop.act(f"after {name}"), on_unknown="fail") for name, flow in flows.items()}
    one = await cluster.open(workflows=flows.values())
    await one.start(flows["queued"], id="queued", delay=3600)
    tasks = [asyncio.create_task(one.execute(flow, id=name)) for name, flow in flows.items() if name != "queued"]
    await shop.reached("slow")
    closing = asyncio.create_task(one.close())
    await eventually(lambda: one._host.draining)  # pyright: ignore[reportPrivateUsage]
    go.set()
    await closing
    await asyncio.gather(*tasks, return_exceptions=True)
    other = await cluster.open(workflows=flows.values())
    await cluster.clock.advance(hours=2)
    await other.signal(flows["wait"], "wait", "go")
    async with other.worker():
        for name in flows:
            await other.handle(name).result()
    assert sorted(shop.done) == sorted(["x"] * 4 + ["slow"] + [f"after {name}" for name in flows])
    for name in flows:
        assert all(not line.in_doubt and line.attempts <= 1 and not line.lost_attempts for line in await other.history(name))


# --- the probe


async def test_a_probe_that_found_it(lost: Callable[..., Lost]) -> None:
    """S3.8: it answers with the step's result, and the step is not called again; what it changed in the data is gone."""
    shop = Shop()
    seen: list[Any] = []

    async def probe(ctx: Any) -> Any:
        seen.append((ctx.idempotency_key, ctx.path, ctx.step, ctx.attempt, dict(ctx.data), ctx.input))
        with pytest.raises(TypeError):
            ctx.data["n"] = 5
        return {"id": 7}

    keys: list[str] = []

    async def act(ctx: Any) -> Any:
        keys.append(ctx.idempotency_key)
        ctx.data["lost"] = True
        return await shop.act("a")(ctx)

    flow = create_workflow("found").step("first", shop.act("first", n=1)).commit("a", act, probe=probe).step("b", shop.act("b"))
    engine = await lost(flow, shop)()
    result = await engine.resume(flow, "r")
    assert result.status == "completed" and shop.done == ["first", "a", "b"] and result.results["a"] == {"id": 7}
    assert result.data == {"n": 1} and [line.path for line in result.history] == ["first", "a", "b"]
    ((key, path, step, attempt, data, given),) = seen
    assert key == keys[0] and path == "a!probe" and step == "a" and attempt == 1 and data == {"n": 1} and given is None
    assert result.history[1].attempts == 1 and not result.history[1].in_doubt


async def test_a_probe_that_found_nothing(lost: Callable[..., Lost]) -> None:
    """S3.8: NOT_DONE: the step is called again, with the same key, and is not in doubt any more."""
    shop = Shop()
    flow = create_workflow("nothing").commit("a", shop.act("a", n=1), probe=shop_probe(shop, NOT_DONE))
    engine = await lost(flow, shop)()
    result = await engine.resume(flow, "r")
    assert result.status == "completed" and shop.done == ["a", "probe", "a"] and result.data == {"n": 1}
    assert result.history[0].attempts == 2 and not result.history[0].in_doubt


def shop_probe(shop: Shop, *answers: Any) -> Any:
    """A probe that gives these answers in turn; exceptions are raised."""
    left = list(answers)

    async def probe(ctx: Any) -> Any:
        shop.done.append("probe")
        shop.entered.setdefault("probe", asyncio.Event()).set()
        if "probe" in shop.hanging:
            await asyncio.Event().wait()
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return probe


async def test_a_probe_after_a_timeout(engine: FluxEngine) -> None:
    """S3.8, D8: an overrun is asked after too; each counts as one of the `retries`."""
    shop = Shop()
    shop.hanging = {"a"}
    flow = create_workflow("timeout").step(
        "a", shop.act("a"), timeout=5, retries=1, retry=AT_ONCE, probe=shop_probe(shop, NOT_DONE), compensate=shop.act("undo")
    )
    result = await engine.execute(flow)
    assert shop.done == ["a", "probe", "a", "probe"] and result.status == "failed"
    assert type(result.error).__name__ == "StepTimeout", "it is known that nothing happened, so there is nothing to undo"
    flow = create_workflow("late").step("a", shop.act("a"), timeout=5, retries=0, probe=shop_probe(shop, "in time"))
    late = await engine.execute(flow)
    assert late.status == "completed" and late.results["a"] == "in time"


async def test_a_probe_is_not_asked_for_nothing(engine: FluxEngine) -> None:
    """D8: an attempt that raised has a known outcome."""
    shop = Shop("a")
    flow = create_workflow("known").step("a", shop.act("a"), retries=1, retry=AT_ONCE, probe=shop_probe(shop, "?"))
    assert (await engine.execute(flow)).status == "failed" and shop.done == ["a", "a"]


async def test_a_probe_that_fails(lost: Callable[..., Lost]) -> None:
    """S3.8: it is retried; when it cannot say, what happened stays unknown: the step fails, in doubt, and is undone."""
    shop = Shop()
    flow = create_workflow("silent").step("a", shop.act("a"), probe=shop_probe(shop, Declined("busy")), compensate=shop.act("undo"))
    engine = await lost(flow, shop)()
    result = await engine.resume(flow, "r")
    assert shop.done == ["a", *["probe"] * 4, "undo"] and result.status == "failed"
    assert type(result.error).__name__ == "UnknownOutcome" and isinstance(result.error.__cause__, Declined)


async def test_a_probe_that_recovers(lost: Callable[..., Lost]) -> None:
    """S3.8, S4: after a failure it is asked again."""
    shop = Shop()
    flow = create_workflow("recovers").step("a", shop.act("a"), probe=shop_probe(shop, Declined("busy"), "found"))
    engine = await lost(flow, shop)()
    result = await engine.resume(flow, "r")
    assert shop.done == ["a", "probe", "probe"] and result.results["a"] == "found"


async def test_a_probe_with_an_answer_that_cannot_be_stored(lost: Callable[..., Lost]) -> None:
    """S15.1, S3.8: that is no answer, and asking again would not help."""
    shop = Shop()
    flow = create_workflow("odd").step("a", shop.act("a"), probe=shop_probe(shop, object()))
    engine = await lost(flow, shop)()
    result = await engine.resume(flow, "r")
    assert result.status == "failed" and shop.done == ["a", "probe"]


async def test_a_probe_that_is_lost(cluster: Cluster) -> None:
    """S3.8: asked again; asking changes nothing."""
    shop = Shop()
    flow = create_workflow("twice").step("a", shop.act("a"), probe=shop_probe(shop, "found"))
    one = await Lost(cluster, "crash", flow, shop)()
    shop.hanging = {"probe"}
    task = asyncio.create_task(one.resume(flow, "r"))
    await shop.reached("probe")
    await cluster.crash(one)
    await asyncio.gather(task, return_exceptions=True)
    shop.hanging = set()
    await cluster.outlive()
    other = await cluster.open(workflows=[flow])
    result = await other.resume(flow, "r")
    assert shop.done == ["a", "probe", "probe"] and result.results["a"] == "found"


async def test_a_cancel_before_the_probe(cluster: Cluster) -> None:
    """S11, D8: a run that is to end asks nobody: what is in doubt is undone."""
    shop = Shop()
    flow = create_workflow("cancel").step("a", shop.act("a"), probe=shop_probe(shop, "found"), compensate=shop.act("undo"))
    other = await Lost(cluster, "crash", flow, shop)()
    result = await other.cancel("r")
    assert result.status == "cancelled" and shop.done == ["a", "undo"]


async def test_a_probe_after_a_retry(cluster: Cluster) -> None:
    """S3.8, D3: a step that is still in doubt when the run is retried is asked after before it is called again."""
    shop = Shop()
    flow = create_workflow("doubt").commit("a", shop.act("a"), probe=shop_probe(shop, "found"))
    other = await Lost(cluster, "crash", flow, shop)()
    assert (await other.cancel("r", compensate=False)).history[0].in_doubt
    result = await other.retry(flow, "r")
    assert result.status == "completed" and shop.done == ["a", "probe"] and result.results["a"] == "found"


async def test_a_probe_on_a_thread(cluster: Cluster) -> None:
    """S1.5: a probe may be a `def`."""
    shop = Shop()
    threads: list[str] = []

    def probe(ctx: Any) -> str:
        threads.append(threading.current_thread().name)
        return "found"

    flow = create_workflow("thread").step("a", shop.act("a"), probe=probe)
    other = await Lost(cluster, "crash", flow, shop)()
    result: RunResult = await other.resume(flow, "r")
    assert result.results["a"] == "found" and threads != [threading.main_thread().name]


async def test_a_probe_in_a_branch_that_has_failed_meanwhile(engine: FluxEngine) -> None:
    """I17, S3.8: its answer leads to nothing any more, and the run rests while another branch waits."""
    shop, asking, tell = Shop(), asyncio.Event(), asyncio.Event()
    shop.hanging = {"a"}

    async def probe(ctx: Any) -> Any:
        asking.set()
        await tell.wait()
        return NOT_DONE

    async def fails(ctx: Any) -> None:
        await tell.wait()
        raise Declined("b")

    x = branch().step("a", shop.act("a"), timeout=5, retries=0, probe=probe, after=()).step("b", fails, retries=0, after=())
    flow = create_workflow("beside").parallel("p", on_failure="finish", x=x, y=branch().wait("go"))
    call = asyncio.create_task(engine.execute(flow, id="r"))
    await asking.wait()
    tell.set()  # both return in one turn of the loop, `b` first, and the probe is not cut
    result = await asyncio.wait_for(call, 60)
    lines = {line.path: line.status.value for line in result.history}
    assert result.status == "suspended" and lines["p/x/a"] == "cancelled" and shop.done == ["a"]
    assert (await engine.summary("r")).wake_at is None and (await engine.signal(flow, "r", "go")).status == "failed"


async def test_it_is_told_of(cluster: Cluster) -> None:
    """S16: hooks hear of the probe's answer."""
    shop = Shop()
    flow = create_workflow("told").step("a", shop.act("a"), probe=shop_probe(shop, "found"))
    await Lost(cluster, "crash", flow, shop)()
    heard = Listener()
    other = await cluster.open(hooks=[heard])
    await other.resume(flow, "r")
    await eventually(lambda: ("run_completed", "") in heard.heard)
    assert heard.heard == [("step_started", "a"), ("step_probed", "a"), ("run_completed", "")]


def test_probe_and_on_unknown_exclude_each_other() -> None:
    """S1.4: the one finds out what the other would guess."""
    with pytest.raises(InvalidWorkflow):
        create_workflow("both").step("a", lambda ctx: 1, probe=lambda ctx: 1, on_unknown="fail")

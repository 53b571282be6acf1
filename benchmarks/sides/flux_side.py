"""flux's side of the workloads. Measures the flux that it finds on its path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from common import (
    Figures,
    Helper,
    Job,
    flatness,
    idle,
    import_seconds,
    lanes,
    one_by_one,
    perform,
    recovery,
    resident,
    side_by_side,
    tell_ends,
    until_told,
)
from flux_claims import claims
from flux_parts import open_storage, plain, step

from flux import FluxEngine, Hooks, create_workflow

Work = Callable[[Job], Awaitable[Figures]]

WARM = 200  # runs that are parked before their memory is looked at


def engine_for(job: Job, **options: Any) -> FluxEngine:
    """An engine on the job's storage."""
    return FluxEngine(open_storage(job), **options)


async def completed(result: Awaitable[Any]) -> None:
    """What does less by failing is not quick."""
    run = await result
    if run.status != "completed":
        raise RuntimeError(f"{run!r}: {run.error!r}")


def _executing(engine: FluxEngine) -> Callable[[], Awaitable[object]]:
    flow = plain(5)
    return lambda: completed(engine.execute(flow, {"n": 1}))


async def sequential(job: Job) -> Figures:
    """W1."""
    async with engine_for(job) as engine:
        return await one_by_one(_executing(engine), job.sizes["runs"], warm=50)


async def in_flight(job: Job) -> Figures:
    """W2."""
    async with engine_for(job) as engine:
        return await side_by_side(_executing(engine), job.sizes["runs"])


async def long_run(job: Job) -> Figures:
    """W3."""
    stamps: list[float] = []

    async def stamped(ctx: object) -> dict[str, object]:
        stamps.append(time.perf_counter())
        return {"n": 1, "ok": True}

    flow = create_workflow("long")
    for index in range(job.sizes["steps"]):
        flow = flow.step(f"s{index}", stamped)
    async with engine_for(job) as engine:
        await completed(engine.execute(flow, {}))
    return flatness(stamps)


async def round_trip(job: Job) -> Figures:
    """W4, the worker beside its caller in one process."""
    flow = plain(1)
    async with engine_for(job, workflows=[flow]) as engine, engine.worker():
        return await one_by_one(_start_and_wait(engine), job.sizes["runs"])


async def round_trip_elsewhere(job: Job) -> Figures:
    """W4, the worker in another process."""
    helper = Helper(job, "worker")
    try:
        await helper.ready()
        async with engine_for(job, workflows=[plain(1)]) as engine:
            return await one_by_one(_start_and_wait(engine), job.sizes["runs"])
    finally:
        helper.stop()


def _start_and_wait(engine: FluxEngine) -> Callable[[], Awaitable[object]]:
    flow = plain(1)

    async def one() -> None:
        handle = await engine.start(flow, {"n": 1})
        await handle.result(timeout=60)  # raises where the run has failed

    return one


async def worker(job: Job) -> Figures:
    """The other process of W4."""
    async with engine_for(job, workflows=[plain(1)]) as engine, engine.worker():
        await until_told()
    return {}


async def start_only(job: Job) -> Figures:
    """W5."""
    flow = plain(5)
    async with engine_for(job) as engine:
        alone = await one_by_one(lambda: engine.start(flow, {"n": 1}), job.sizes["runs"], warm=50)
        many = await side_by_side(lambda: engine.start(flow, {"n": 1}), job.sizes["more"])
        return alone | {"rate": many["rate"]}


async def signals(job: Job) -> Figures:
    """W6."""
    count = job.sizes["runs"]
    flow = create_workflow("parked").step("before", step).wait("go").step("after", step)
    names = [f"run-{number}" for number in range(count)]
    async with engine_for(job, workflows=[flow]) as engine:
        parked, told = iter(names), iter(names)
        await lanes(lambda: engine.execute(flow, {"n": 1}), WARM, 100)
        before, start = resident(), time.perf_counter()
        await lanes(lambda: engine.execute(flow, {"n": 1}, id=next(parked)), count, 100)
        halfway = time.perf_counter()
        held = resident() - before
        await lanes(lambda: completed(engine.signal(flow, next(told), "go", {"by": "ana"})), count, 100)
        done = time.perf_counter() - halfway
    return {"parking": count / (halfway - start), "rate": count / done, "held": held / count}


class Counting(Hooks):
    """When so many runs were completed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.ends: list[float] = []
        self.all = asyncio.Event()

    def run_completed(self, event: Any) -> None:
        self.ends.append(time.monotonic())
        if len(self.ends) == self.count:
            self.all.set()


def _held_up(arrived: Callable[[], Awaitable[None]]) -> Any:
    async def third(ctx: object) -> dict[str, object]:
        await arrived()
        return {"n": 1, "ok": True}

    flow = create_workflow("recovery")
    for index, handler in enumerate((step, step, third, step, step)):
        flow = flow.step(f"s{index}", handler)
    return flow


async def heir(job: Job) -> Figures:
    """The process that comes after the one that was killed."""
    counting = Counting(job.sizes["runs"])
    async with engine_for(job, workflows=[_held_up(_at_once)], hooks=[counting]) as engine, engine.worker(concurrency=100):
        await counting.all.wait()
        await tell_ends(counting.ends)
    return {}


async def _at_once() -> None:
    return None


async def victim(job: Job) -> Figures:
    """The process that is killed, when each of its runs is in its third step."""
    count = job.sizes["runs"]
    left, everybody = count, asyncio.Event()

    async def arrived() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            everybody.set()
        await asyncio.Event().wait()

    flow = _held_up(arrived)
    async with engine_for(job, workflows=[flow], default_timeout=None) as engine, engine.worker(concurrency=count):
        await lanes(lambda: engine.start(flow, {"n": 1}), count, 100)
        await everybody.wait()
        await until_told()
    return {}


@asynccontextmanager
async def _idle_engine(job: Job) -> AsyncIterator[None]:
    flow = plain(5)
    async with engine_for(job, workflows=[flow]) as engine, engine.worker():
        await engine.execute(flow, {"n": 1})
        yield


async def weight(job: Job) -> Figures:
    """W8: a worker that has run one workflow and has nothing to do."""
    found = {
        "import": import_seconds("import flux"),
        "ready": import_seconds("from flux import FluxEngine, create_workflow; from flux_storage import SQLiteStorage"),
    }
    async with _idle_engine(job):
        return found | await idle()


WORK: dict[str, Work] = {
    "W1": sequential, "W2": in_flight, "W3": long_run, "W4": round_trip, "W4x": round_trip_elsewhere, "W5": start_only, "W6": signals,
    "W7": recovery, "W8": weight, "W9": claims, "W9m": claims, "worker": worker, "victim": victim, "heir": heir,
}  # fmt: skip


async def work(job: Job) -> Figures:
    """What the job says."""
    return await WORK[job.workload](job)


if __name__ == "__main__":
    perform(work)

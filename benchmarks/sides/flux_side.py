"""flux's side of the workloads. Measures the flux that it finds on its path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from common import Figures, Helper, Job, flatness, idle, import_seconds, lanes, one_by_one, perform, resident, side_by_side, until_told
from flux_claims import claims
from flux_parts import open_storage, plain, step

from flux import FluxEngine, Hooks, create_workflow

Work = Callable[[Job], Awaitable[Figures]]


def engine_for(job: Job, **options: Any) -> FluxEngine:
    """An engine on the job's storage."""
    return FluxEngine(open_storage(job), **options)


async def sequential(job: Job) -> Figures:
    """W1."""
    flow = plain(5)
    async with engine_for(job) as engine:
        return await one_by_one(lambda: engine.execute(flow, {"n": 1}), job.sizes["runs"], warm=50)


async def in_flight(job: Job) -> Figures:
    """W2."""
    flow = plain(5)
    async with engine_for(job) as engine:
        return await side_by_side(lambda: engine.execute(flow, {"n": 1}), job.sizes["runs"])


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
        await engine.execute(flow, {})
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
        await handle.result(timeout=60)

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
        before, start = resident(), time.perf_counter()
        await lanes(lambda: engine.execute(flow, {"n": 1}, id=next(parked)), count, 100)
        halfway = time.perf_counter()
        held = resident() - before
        await lanes(lambda: engine.signal(flow, next(told), "go", {"by": "ana"}), count, 100)
        done = time.perf_counter() - halfway
        last = await engine.get(names[-1])
        if last.status != "completed":
            raise RuntimeError(f"the last run is {last.status}")
    return {"parking": count / (halfway - start), "rate": count / done, "held": held / count}


class Counting(Hooks):
    """When the first and the last of so many runs were completed."""

    def __init__(self, count: int) -> None:
        self.first = self.last = 0.0
        self.left = count
        self.all = asyncio.Event()

    def run_completed(self, event: Any) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.left -= 1
        if self.left == 0:
            self.all.set()


def _held_up(arrived: Callable[[], Awaitable[None]]) -> Any:
    async def third(ctx: object) -> dict[str, object]:
        await arrived()
        return {"n": 1, "ok": True}

    flow = create_workflow("recovery")
    for index, handler in enumerate((step, step, third, step, step)):
        flow = flow.step(f"s{index}", handler)
    return flow


async def recovery(job: Job) -> Figures:
    """W7: from the kill to the first and to the last completed run, on an engine that is opened at once after it."""
    helper = Helper(job, "victim")
    try:
        await helper.ready()
    finally:
        helper.kill()
    start = time.perf_counter()
    counting = Counting(job.sizes["runs"])
    async with engine_for(job, workflows=[_held_up(_at_once)], hooks=[counting]) as engine, engine.worker(concurrency=100):
        await counting.all.wait()
    return {"first": counting.first - start, "all": counting.last - start}


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
    "W7": recovery, "W8": weight, "W9": claims, "worker": worker, "victim": victim,
}  # fmt: skip


async def work(job: Job) -> Figures:
    """What the job says."""
    return await WORK[job.workload](job)


if __name__ == "__main__":
    perform(work)

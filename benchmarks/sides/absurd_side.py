"""Absurd's side, on PostgreSQL: its asynchronous Python client, its schema from absurdctl."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import absurdctl
from absurd_sdk import AsyncAbsurd
from common import Figures, Helper, Job, idle, import_seconds, lanes, one_by_one, perform, resident, side_by_side, until_told
from psycopg import AsyncConnection

POLL = 0.005  # seconds between a worker's looks
LOOK = 0.001  # seconds between a caller's looks
ENDED = ("completed", "failed", "cancelled")

arrived = asyncio.Semaphore(0)
ends: dict[Any, float] = {}
held_up = False


async def step() -> dict[str, Any]:
    """As little as a step can do."""
    return {"n": 1, "ok": True}


async def third() -> dict[str, Any]:
    """In the process that is killed, it never ends."""
    if held_up:
        arrived.release()
        await asyncio.Event().wait()
    return {"n": 1, "ok": True}


def register(app: AsyncAbsurd) -> None:
    """The tasks."""

    @app.register_task("plain")
    async def plain(params: Any, ctx: Any) -> Any:
        return [await ctx.step(f"s{index}", step) for index in range(params["steps"])]

    @app.register_task("parked")
    async def parked(params: Any, ctx: Any) -> Any:
        await ctx.step("before", step)
        await ctx.await_event(f"go:{params['n']}")
        found = await ctx.step("after", step)
        ends[params["n"]] = time.perf_counter()
        return found

    @app.register_task("interrupted")
    async def interrupted(params: Any, ctx: Any) -> Any:
        for index, handler in enumerate((step, step, third, step, step)):
            await ctx.step(f"s{index}", handler)
        ends[params["n"]] = time.perf_counter()
        return None


async def migrate(url: str) -> None:
    """Its schema, as `absurdctl init` would make it, without needing psql."""
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)


@asynccontextmanager
async def worker(url: str, places: int = 100) -> AsyncIterator[None]:
    """A worker with a connection of its own."""
    app = AsyncAbsurd(url)
    register(app)
    task = asyncio.create_task(app.start_worker(concurrency=places, poll_interval=POLL))
    try:
        yield
    finally:
        app.stop_worker()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await app.close()


async def finished(app: AsyncAbsurd, task_id: str) -> None:
    """Its own waiting begins with looks 50 ms apart; this looks oftener."""
    while True:
        snapshot = await app.fetch_task_result(task_id)
        if snapshot is not None and snapshot.state in ENDED:
            return
        await asyncio.sleep(LOOK)


async def sequential(job: Job, app: AsyncAbsurd) -> Figures:
    """W1: the caller works the task off itself, so nothing waits for a poll."""

    async def one() -> None:
        spawned = await app.spawn("plain", {"steps": 5})
        await app.work_batch()
        await finished(app, spawned["task_id"])

    return await one_by_one(one, job.sizes["runs"], warm=5)


def round_trip(app: AsyncAbsurd, steps: int) -> Callable[[], Awaitable[None]]:
    """Spawn, and wait for a worker's result."""

    async def one() -> None:
        spawned = await app.spawn("plain", {"steps": steps})
        await finished(app, spawned["task_id"])

    return one


async def in_flight(job: Job, app: AsyncAbsurd) -> Figures:
    """W2."""
    async with worker(job.url):
        return await side_by_side(round_trip(app, 5), job.sizes["runs"], warm=20)


async def through_worker(job: Job, app: AsyncAbsurd) -> Figures:
    """W4."""
    async with worker(job.url):
        return await one_by_one(round_trip(app, 1), job.sizes["runs"], warm=2)


async def start_only(job: Job, app: AsyncAbsurd) -> Figures:
    """W5."""
    alone = await one_by_one(lambda: app.spawn("plain", {"steps": 5}), job.sizes["runs"], warm=5)
    many = await side_by_side(lambda: app.spawn("plain", {"steps": 5}), job.sizes["more"], warm=20)
    return alone | {"rate": many["rate"]}


async def signals(job: Job, app: AsyncAbsurd) -> Figures:
    """W6."""
    number = job.sizes["runs"]
    names, told, spawned = count(), count(), list[str]()

    async def park() -> None:
        task_id = (await app.spawn("parked", {"n": next(names)}))["task_id"]
        spawned.append(task_id)
        while (await state(app, task_id)) != "sleeping":
            await asyncio.sleep(LOOK)

    async with worker(job.url):
        before, start = resident(), time.perf_counter()
        await lanes(park, number, 100)
        halfway = time.perf_counter()
        held = resident() - before
        await lanes(lambda: app.emit_event(f"go:{next(told)}", {"by": "ana"}), number, 100)
        for task_id in spawned:
            await finished(app, task_id)
    return {"parking": number / (halfway - start), "rate": number / (max(ends.values()) - halfway), "held": held / number}


async def state(app: AsyncAbsurd, task_id: str) -> str | None:
    """Of a task."""
    snapshot = await app.fetch_task_result(task_id)
    return None if snapshot is None else snapshot.state


async def victim(job: Job, app: AsyncAbsurd) -> Figures:
    """The process that is killed."""
    global held_up
    held_up = True
    for number in range(job.sizes["runs"]):
        await app.spawn("interrupted", {"n": number})
    async with worker(job.url, job.sizes["runs"]):
        for _ in range(job.sizes["runs"]):
            await arrived.acquire()
        await until_told()
    return {}


async def recovery(job: Job, app: AsyncAbsurd) -> Figures:
    """W7: a claim lasts two minutes unless one says otherwise."""
    helper = Helper(job, "victim")
    try:
        await helper.ready()
    finally:
        helper.kill()
    start = time.perf_counter()
    async with worker(job.url):
        while len(ends) < job.sizes["runs"]:
            await asyncio.sleep(0.01)
    return {"first": min(ends.values()) - start, "all": max(ends.values()) - start}


async def weight(job: Job, app: AsyncAbsurd) -> Figures:
    """W8, the worker at its default polling interval."""
    found = {"import": import_seconds("import absurd_sdk"), "ready": import_seconds("from absurd_sdk import AsyncAbsurd")}
    task = asyncio.create_task(app.start_worker(concurrency=100))
    try:
        return found | await idle()
    finally:
        app.stop_worker()
        await asyncio.gather(task, return_exceptions=True)


WORK: dict[str, Callable[[Job, AsyncAbsurd], Awaitable[Figures]]] = {
    "W1": sequential, "W2": in_flight, "W4": through_worker, "W5": start_only, "W6": signals, "W7": recovery, "W8": weight,
    "victim": victim,
}  # fmt: skip


async def work(job: Job) -> Figures:
    """What the job says."""
    app = AsyncAbsurd(job.url)
    if job.workload != "victim":
        await migrate(job.url)
        await app.create_queue()
    register(app)
    try:
        return await WORK[job.workload](job, app)
    finally:
        await app.close()


if __name__ == "__main__":
    perform(work)

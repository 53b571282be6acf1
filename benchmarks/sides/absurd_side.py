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
from common import Figures, Job, idle, import_seconds, lanes, one_by_one, perform, recovery, resident, side_by_side, tell_ends, until_told
from psycopg import AsyncConnection

POLL = 0.005  # seconds between a worker's looks
LOOK = 0.001  # seconds between a caller's looks
CLAIM = 30  # seconds that a claim lasts, as a lease of flux does; 120 unless one says otherwise
WARM = 50  # tasks that are parked before their memory is looked at

arrived = asyncio.Semaphore(0)
returned: dict[str, asyncio.Event] = {}  # by a task's id: its handler has come to its end
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
        found = [await ctx.step(f"s{index}", step) for index in range(params["steps"])]
        returned.setdefault(ctx.task_id, asyncio.Event()).set()
        return found

    @app.register_task("parked")
    async def parked(params: Any, ctx: Any) -> Any:
        await ctx.step("before", step)
        arrived.release()
        await ctx.await_event(f"go:{params['n']}")
        found = await ctx.step("after", step)
        returned.setdefault(ctx.task_id, asyncio.Event()).set()
        return found

    @app.register_task("interrupted")
    async def interrupted(params: Any, ctx: Any) -> Any:
        for index, handler in enumerate((step, step, third, step, step)):
            await ctx.step(f"s{index}", handler)
        ends[params["n"]] = time.monotonic()
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
    task = asyncio.create_task(app.start_worker(concurrency=places, poll_interval=POLL, claim_timeout=CLAIM))
    try:
        yield
    finally:
        app.stop_worker()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await app.close()


async def finished(app: AsyncAbsurd, task_id: str) -> None:
    """Its own waiting begins with looks 50 ms apart; this begins to look when the handler has returned, and looks oftener: a hundred who
    look all the time would hold up the worker beside them."""
    await returned.setdefault(task_id, asyncio.Event()).wait()
    while (found := await state(app, task_id)) != "completed":
        if found in ("failed", "cancelled"):
            raise RuntimeError(f"task {task_id} is {found}")
        await asyncio.sleep(LOOK)
    del returned[task_id]


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
        spawned.append((await app.spawn("parked", {"n": next(names)}))["task_id"])
        await arrived.acquire()  # as many as have been spawned are at their wait, then

    async with worker(job.url):
        await lanes(park, WARM, 100)
        spawned.clear()
        before, start = resident(), time.perf_counter()
        await lanes(park, number, 100)
        halfway = time.perf_counter()
        held = resident() - before
        await lanes(lambda: app.emit_event(f"go:{WARM + next(told)}", {"by": "ana"}), number, 100)
        for task_id in spawned:
            await finished(app, task_id)
        done = time.perf_counter() - halfway
    return {"parking": number / (halfway - start), "rate": number / done, "held": held / number}


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


async def heir(job: Job, app: AsyncAbsurd) -> Figures:
    """The process that comes after the one that was killed: what that had claimed is free once the claim has run out."""
    async with worker(job.url):
        while len(ends) < job.sizes["runs"]:
            await asyncio.sleep(0.01)
        await tell_ends(list(ends.values()))
    return {}


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
    "W1": sequential, "W2": in_flight, "W4": through_worker, "W5": start_only, "W6": signals,
    "W7": lambda job, app: recovery(job), "W8": weight, "victim": victim, "heir": heir,
}  # fmt: skip


async def work(job: Job) -> Figures:
    """What the job says."""
    app = AsyncAbsurd(job.url)
    if job.workload not in ("victim", "heir"):
        await migrate(job.url)
        await app.create_queue()
    register(app)
    try:
        return await WORK[job.workload](job, app)
    finally:
        await app.close()


if __name__ == "__main__":
    perform(work)

"""DBOS's side, on SQLite or PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from common import (
    Figures,
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
from dbos import DBOS, DBOSConfig, SetWorkflowID

POLL = 0.01  # seconds: of the queue, and of results
PATIENCE = 300  # seconds that a workflow waits for a message
QUEUE = "bench"
WARM = 50  # workflows that are parked before their memory is looked at

stamps: list[float] = []
ends: list[float] = []
arrived = asyncio.Semaphore(0)
all_done = asyncio.Semaphore(0)
held_up = False


@DBOS.step()
async def step() -> dict[str, object]:
    """As little as a step can do."""
    return {"n": 1, "ok": True}


@DBOS.step()
async def stamped() -> dict[str, object]:
    """Notes when it was taken."""
    stamps.append(time.perf_counter())
    return {"n": 1, "ok": True}


@DBOS.step()
async def third() -> dict[str, object]:
    """In the process that is killed, it never ends."""
    if held_up:
        arrived.release()
        await asyncio.Event().wait()
    return {"n": 1, "ok": True}


@DBOS.workflow()
async def plain(steps: int) -> dict[str, object]:
    """Trivial steps."""
    for _ in range(steps - 1):
        await step()
    return await step()


@DBOS.workflow()
async def long(steps: int) -> None:
    """Very many steps."""
    for _ in range(steps):
        await stamped()


@DBOS.workflow()
async def parked(value: int) -> dict[str, object]:
    """A step, a wait, a step."""
    await step()
    arrived.release()
    await DBOS.recv_async("go", timeout_seconds=PATIENCE)
    return await step()


@DBOS.workflow()
async def interrupted(value: int) -> dict[str, object]:
    """Five steps, of which the third may not end."""
    for handler in (step, step, third, step):
        await handler()
    found = await step()
    ends.append(time.monotonic())
    all_done.release()
    return found


async def launch(job: Job) -> None:
    """DBOS is one for the whole process."""
    url = job.url or f"sqlite:///{job.place}/dbos.sqlite"
    config: DBOSConfig = {
        "name": "bench", "system_database_url": url, "log_level": "ERROR", "executor_id": "bench", "application_version": "1",
        "notification_listener_polling_interval_sec": POLL,
    }  # fmt: skip
    DBOS(config=config)
    DBOS.launch()


async def sequential(job: Job) -> Figures:
    """W1."""
    return await one_by_one(lambda: plain(5), job.sizes["runs"], warm=5)


async def in_flight(job: Job) -> Figures:
    """W2."""
    return await side_by_side(lambda: plain(5), job.sizes["runs"], warm=20)


async def long_run(job: Job) -> Figures:
    """W3."""
    await long(job.sizes["steps"])
    return flatness(stamps)


async def round_trip(job: Job) -> Figures:
    """W4."""
    await DBOS.register_queue_async(QUEUE, polling_interval_sec=POLL)

    async def one() -> None:
        handle = await DBOS.enqueue_workflow_async(QUEUE, plain, 1)
        await handle.get_result(polling_interval_sec=POLL)

    return await one_by_one(one, job.sizes["runs"], warm=2)


async def start_only(job: Job) -> Figures:
    """W5: into a queue that no process listens to."""
    await DBOS.register_queue_async(QUEUE, polling_interval_sec=3600, concurrency=0)

    async def one() -> None:
        await DBOS.enqueue_workflow_async(QUEUE, plain, 5)

    alone = await one_by_one(one, job.sizes["runs"], warm=5)
    return alone | {"rate": (await side_by_side(one, job.sizes["more"], warm=20))["rate"]}


async def signals(job: Job) -> Figures:
    """W6."""
    count = job.sizes["runs"]
    names = iter(range(WARM + count))
    handles: list[Any] = []

    async def park() -> None:
        with SetWorkflowID(f"run-{next(names)}"):
            handles.append(await DBOS.start_workflow_async(parked, 1))
        await arrived.acquire()  # as many as have been started are at their wait, then

    await lanes(park, WARM, 100)
    handles.clear()
    before, start = resident(), time.perf_counter()
    await lanes(park, count, 100)
    halfway = time.perf_counter()
    held, told = resident() - before, iter(handles)

    async def tell() -> None:
        handle = next(told)
        await DBOS.send_async(handle.workflow_id, {"by": "ana"}, "go")
        await handle.get_result(polling_interval_sec=POLL)

    await lanes(tell, count, 100)
    return {"parking": count / (halfway - start), "rate": count / (time.perf_counter() - halfway), "held": held / count}


async def victim(job: Job) -> Figures:
    """The process that is killed."""
    global held_up
    held_up = True
    for number in range(job.sizes["runs"]):
        with SetWorkflowID(f"run-{number}"):
            await DBOS.start_workflow_async(interrupted, 1)
    for _ in range(job.sizes["runs"]):
        await arrived.acquire()
    await until_told()
    return {}


async def heir(job: Job) -> Figures:
    """The process that comes after the one that was killed: DBOS lets it take up what the old one with its name left."""
    for _ in range(job.sizes["runs"]):
        await all_done.acquire()
    await tell_ends(ends)
    return {}


async def weight(job: Job) -> Figures:
    """W8."""
    statement = "from dbos import DBOS, DBOSConfig"
    found = {"import": import_seconds("import dbos"), "ready": import_seconds(statement)}
    await plain(5)
    return found | await idle()


WORK: dict[str, Callable[[Job], Awaitable[Figures]]] = {
    "W1": sequential, "W2": in_flight, "W3": long_run, "W4": round_trip, "W5": start_only, "W6": signals, "W7": recovery, "W8": weight,
    "victim": victim, "heir": heir,
}  # fmt: skip


async def work(job: Job) -> Figures:
    """What the job says."""
    if job.workload != "W7":
        await launch(job)
    try:
        return await WORK[job.workload](job)
    finally:
        await asyncio.to_thread(DBOS.destroy)


if __name__ == "__main__":
    perform(work)

"""Edda's side, on SQLite."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from common import Figures, Job, idle, import_seconds, lanes, one_by_one, perform, recovery, resident, side_by_side, tell_ends, until_told
from edda import EddaApp, WorkflowContext, activity, publish, receive, subscribe, workflow

TOGETHER = 1  # of W6: with more, some starts fail, or never end
LOCK = 30  # seconds that a lock lasts, as a lease of flux does; 300 unless one says otherwise
WARM = 20  # runs that are parked before their memory is looked at

arrived = asyncio.Semaphore(0)
done = asyncio.Semaphore(0)
ends: list[float] = []
held_up = False


@activity
async def step(ctx: WorkflowContext) -> dict[str, Any]:
    """As little as a step can do."""
    return {"n": 1, "ok": True}


@activity
async def third(ctx: WorkflowContext) -> dict[str, Any]:
    """In the process that is killed, it never ends."""
    if held_up:
        arrived.release()
        await asyncio.Event().wait()
    return {"n": 1, "ok": True}


@workflow
async def five(ctx: WorkflowContext, n: int) -> dict[str, Any]:
    """Five trivial steps."""
    for _ in range(4):
        await step(ctx)
    return await step(ctx)


@workflow
async def parked(ctx: WorkflowContext, n: int) -> dict[str, Any]:
    """A step, a wait, a step."""
    await step(ctx)
    await subscribe(ctx, f"go-{n}")
    await receive(ctx, f"go-{n}")
    found = await step(ctx)
    done.release()
    return found


@workflow(lock_timeout_seconds=LOCK)
async def interrupted(ctx: WorkflowContext, n: int) -> dict[str, Any]:
    """Five steps, of which the third may not end."""
    for handler in (step, step, third, step):
        await handler(ctx)
    found = await step(ctx)
    ends.append(time.monotonic())
    done.release()
    return found


async def in_flight(job: Job) -> Figures:
    """W2. Some starts fail: the application resumes runs that are being run, and both write a step. Those do not count."""
    good = bad = 0

    async def one() -> None:
        nonlocal good, bad
        try:
            await five.start(n=1)
            good += 1
        except Exception:
            bad += 1

    await five.start(n=1)  # the first of a workflow has to be alone: it stores the definition
    found = await side_by_side(one, job.sizes["runs"], warm=10)
    return found | {"rate": found["rate"] * good / (good + bad), "failed": bad / (good + bad)}


async def signals(job: Job, app: EddaApp) -> Figures:
    """W6."""
    number = job.sizes["runs"]
    names, told = count(), count()
    for warm in range(1, WARM + 1):  # the first of a workflow has to be alone: it stores the definition
        await parked.start(n=-warm)
    before, start = resident(), time.perf_counter()
    await lanes(lambda: parked.start(n=next(names)), number, TOGETHER)
    halfway = time.perf_counter()
    held = resident() - before
    await lanes(lambda: publish(app.storage, f"go-{next(told)}", {"by": "ana"}), number, TOGETHER)
    for _ in range(number):
        await done.acquire()
    return {"parking": number / (halfway - start), "rate": number / (time.perf_counter() - halfway), "held": held / number}


async def victim(job: Job, app: EddaApp) -> Figures:
    """The process that is killed."""
    global held_up
    held_up = True
    tasks: list[asyncio.Task[str]] = []
    for number in range(job.sizes["runs"]):  # the first of a workflow has to be alone: it stores the definition
        tasks.append(asyncio.create_task(interrupted.start(n=number)))
        if number == 0:
            await arrived.acquire()
    for _ in tasks[1:]:
        await arrived.acquire()
    await until_told()
    return {}


async def heir(job: Job, app: EddaApp) -> Figures:
    """The process that comes after the one that was killed: what that had locked is free once the lock has run out."""
    for _ in range(job.sizes["runs"]):
        await done.acquire()
    await tell_ends(ends)
    return {}


async def weight(job: Job, app: EddaApp) -> Figures:
    """W8."""
    found = {"import": import_seconds("import edda"), "ready": import_seconds("from edda import EddaApp, activity, workflow")}
    await five.start(n=1)
    return found | await idle()


async def opened(job: Job) -> EddaApp:
    """The application, on a file of the job's."""
    app = EddaApp(service_name="bench", db_url=f"sqlite:///{job.place}/edda.db")
    await app.initialize()
    return app


async def measure(job: Job, app: EddaApp) -> Figures:
    """What the job says."""
    others: dict[str, Callable[[Job, EddaApp], Awaitable[Figures]]] = {"W6": signals, "W8": weight, "victim": victim, "heir": heir}
    if job.workload == "W1":
        return await one_by_one(lambda: five.start(n=1), job.sizes["runs"], warm=3)
    if job.workload == "W2":
        return await in_flight(job)
    return await others[job.workload](job, app)


async def work(job: Job) -> Figures:
    """In an application, but for W7, whose processes have their own."""
    logging.disable(logging.WARNING)
    if job.workload == "W7":
        return await recovery(job)
    app = await opened(job)
    try:
        return await measure(job, app)
    finally:
        await app.shutdown()


if __name__ == "__main__":
    perform(work)

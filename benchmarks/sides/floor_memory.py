"""The limit in memory: the same coroutines called by a bare Python loop, with nothing kept but a list of what they returned."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from common import Figures, Job, flatness, idle, import_seconds, one_by_one, perform, side_by_side

SWEEP = 100  # workflows a stopwatch reading: one alone is too short for the clock


async def step(ctx: object) -> dict[str, object]:
    """As little as a step can do."""
    return {"n": 1, "ok": True}


async def workflow() -> list[object]:
    """Five of them."""
    return [await step(None) for _ in range(5)]


async def sequential(job: Job) -> Figures:
    """W1."""

    async def sweep() -> None:
        for _ in range(SWEEP):
            await workflow()

    found = await one_by_one(sweep, max(1, job.sizes["runs"] // SWEEP))
    return {name: found[name] / SWEEP for name in ("latency", "p95", "cpu")} | {"rate": found["rate"] * SWEEP}


async def in_flight(job: Job) -> Figures:
    """W2."""
    return await side_by_side(workflow, job.sizes["runs"])


async def long_run(job: Job) -> Figures:
    """W3."""
    stamps: list[float] = []
    for _ in range(job.sizes["steps"]):
        stamps.append(time.perf_counter())
        await step(None)
    return flatness(stamps)


async def weight(job: Job) -> Figures:
    """W8: an interpreter with asyncio and nothing else."""
    return {"import": import_seconds("pass"), "ready": import_seconds("import sqlite3")} | await idle()


WORK: dict[str, Callable[[Job], Awaitable[Figures]]] = {"W1": sequential, "W2": in_flight, "W3": long_run, "W8": weight}


async def work(job: Job) -> Figures:
    """What the job says."""
    return await WORK[job.workload](job)


if __name__ == "__main__":
    perform(work)

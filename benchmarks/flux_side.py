"""flux's side of the workloads: five trivial async steps, each returning a small dict."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from flux import FluxEngine, create_workflow
from flux.builder import Workflow


async def step(ctx: object) -> dict[str, object]:
    """As little as a step can do."""
    return {"n": 1, "ok": True}


def workflow(steps: int = 5) -> Workflow:
    """A workflow of trivial steps."""
    flow = create_workflow("bench")
    for index in range(steps):
        flow = flow.step(f"s{index}", step)
    return flow


def url(folder: Path, storage: str) -> str:
    """The storage URL of a fresh store."""
    if storage == "memory":
        return "memory:"
    mode = "?synchronous=normal" if storage == "sqlite-normal" else ""
    return f"sqlite:///{folder}/flux-{time.monotonic_ns()}.db{mode}"


async def sequential(target: str, count: int) -> float:
    """Seconds for `count` workflows, one after the other (W1)."""
    flow = workflow()
    async with FluxEngine(target) as engine:
        for _ in range(min(50, count)):
            await engine.execute(flow, {"n": 1})
        start = time.perf_counter()
        for _ in range(count):
            await engine.execute(flow, {"n": 1})
        return time.perf_counter() - start


async def in_flight(target: str, count: int, concurrency: int = 100) -> float:
    """Seconds for `count` workflows, `concurrency` at a time (W2)."""
    flow = workflow()
    async with FluxEngine(target) as engine:
        await engine.execute_many(flow, [{"n": 1}] * 50, concurrency=50)
        start = time.perf_counter()
        await engine.execute_many(flow, [{"n": 1}] * count, concurrency=concurrency)
        return time.perf_counter() - start


async def busy_neighbour(target: str, count: int) -> float:
    """W2 while another coroutine keeps the event loop busy in chunks of 2 ms."""

    async def hog() -> None:
        while True:
            until = time.perf_counter() + 0.002
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    task = asyncio.create_task(hog())
    try:
        return await in_flight(target, count)
    finally:
        task.cancel()


async def long_run(target: str, steps: int = 10_000) -> tuple[float, float]:
    """Seconds for the first and for the last thousand steps of one run (W3)."""
    stamps: list[float] = []

    async def stamped(ctx: object) -> dict[str, object]:
        stamps.append(time.perf_counter())
        return {"n": len(stamps)}

    flow = create_workflow("long")
    for index in range(steps):
        flow = flow.step(f"s{index}", stamped)
    async with FluxEngine(target) as engine:
        await engine.execute(flow, {})
    return stamps[1000] - stamps[0], stamps[-1] - stamps[-1001]

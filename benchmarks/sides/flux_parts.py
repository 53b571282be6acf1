"""What flux's measurements are made of: the storage of a job, and workflows of trivial steps."""

from __future__ import annotations

from typing import Any

from common import Job

from flux import create_workflow
from flux.builder import Workflow


def open_storage(job: Job) -> Any:
    """The storage object, not opened yet."""
    if job.storage == "memory":
        from flux_storage import MemoryStorage

        return MemoryStorage()
    if job.storage == "postgres":
        from flux_storage import PostgresStorage

        return PostgresStorage(job.url)
    from flux_storage import SQLiteStorage

    return SQLiteStorage(f"{job.place}/flux.db", synchronous=job.synchronous)


async def step(ctx: object) -> dict[str, object]:
    """As little as a step can do."""
    return {"n": 1, "ok": True}


def plain(steps: int) -> Workflow:
    """A workflow of so many trivial steps."""
    flow = create_workflow(f"plain-{steps}")
    for index in range(steps):
        flow = flow.step(f"s{index}", step)
    return flow

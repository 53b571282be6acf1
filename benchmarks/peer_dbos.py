"""The same workloads on DBOS with SQLite. Runs in an environment of its own: `python peer_dbos.py FOLDER SEQUENTIAL CONCURRENT`."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from dbos import DBOS, DBOSConfig

FOLDER, SEQUENTIAL, CONCURRENT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


@DBOS.step()
async def step() -> dict[str, object]:
    """As little as a step can do."""
    return {"n": 1, "ok": True}


@DBOS.workflow()
async def five_steps(value: dict[str, int]) -> dict[str, object]:
    """Five trivial steps."""
    for _ in range(4):
        await step()
    return await step()


async def main() -> None:
    """Sequential, then a hundred in flight; prints the seconds of both as JSON."""
    config: DBOSConfig = {"name": "bench", "system_database_url": f"sqlite:///{FOLDER}/dbos.sqlite", "log_level": "ERROR"}
    DBOS(config=config)
    DBOS.launch()
    for _ in range(5):
        await five_steps({"n": 1})
    start = time.perf_counter()
    for _ in range(SEQUENTIAL):
        await five_steps({"n": 1})
    sequential = time.perf_counter() - start
    gate = asyncio.Semaphore(100)

    async def one() -> None:
        async with gate:
            await five_steps({"n": 1})

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CONCURRENT)))
    concurrent = time.perf_counter() - start
    print(json.dumps({"sequential": sequential / SEQUENTIAL, "in_flight": concurrent / CONCURRENT}), flush=True)
    DBOS.destroy()


asyncio.run(main())

"""The limit on PostgreSQL: as many asyncpg commits of the same shape on one connection, each one statement and one round trip.

In flight, 100 workflows that go on at the same moment share a statement over arrays: nothing that is durable can need fewer.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from common import Figures, Job, flatness, one_by_one, perform, quantile

COMMITS = 6  # of a workflow of five steps: its creation, and one a step
BODY = '{"n":1,"ok":true}' * 2
TABLES = """
CREATE TABLE IF NOT EXISTS head (id bigint PRIMARY KEY, position bigint) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS rows (head bigint, position bigint, body text, PRIMARY KEY (head, position));
CREATE TABLE IF NOT EXISTS jobs (id bigint PRIMARY KEY, due bigint, owner text);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due, id) WHERE owner IS NULL;
"""
CREATE = "WITH h AS (INSERT INTO head VALUES ($1, 0)) INSERT INTO rows VALUES ($1, 0, $2)"
STEP = "WITH h AS (UPDATE head SET position = $2 WHERE id = $1) INSERT INTO rows VALUES ($1, $2, $3)"
MANY_CREATED = (
    "WITH h AS (INSERT INTO head SELECT id, 0 FROM unnest($1::bigint[]) AS id)"
    " INSERT INTO rows SELECT id, 0, $2 FROM unnest($1::bigint[]) AS id"
)
MANY_STEPS = (
    "WITH h AS (UPDATE head SET position = $2 WHERE id = ANY($1::bigint[]))"
    " INSERT INTO rows SELECT id, $2, $3 FROM unnest($1::bigint[]) AS id"
)
TAKE = (
    "UPDATE jobs SET owner = 'me' WHERE id IN (SELECT id FROM jobs WHERE owner IS NULL AND due <= 1 << 30"
    " ORDER BY due, id LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id"
)


class Bare:
    """One connection, and workflows by number."""

    def __init__(self, connection: Any) -> None:
        self._do = connection
        self._number = 0

    async def one(self, commits: int, reads: int = 0) -> None:
        """A workflow of its own."""
        self._number += 1
        await self._do.execute(CREATE, self._number, BODY)
        for position in range(1, commits):
            await self._do.execute(STEP, self._number, position, BODY)
        for _ in range(reads):
            await self._do.fetch("SELECT body FROM rows WHERE head = $1", self._number)

    async def together(self, count: int, commits: int, lanes: int = 100) -> float:
        """Workflows a second when `lanes` of them share each statement."""
        start = time.perf_counter()
        for _ in range(0, count, lanes):
            numbers = list(range(self._number + 1, self._number + 1 + lanes))
            self._number += lanes
            await self._do.execute(MANY_CREATED, numbers, BODY)
            for position in range(1, commits):
                await self._do.execute(MANY_STEPS, numbers, position, BODY)
        return count / (time.perf_counter() - start)


async def alone(job: Job, bare: Bare, commits: int, reads: int = 0) -> Figures:
    """One workflow after the other."""
    return await one_by_one(lambda: bare.one(commits, reads), job.sizes["runs"])


async def long_run(job: Job, connection: Any) -> Figures:
    """W3."""
    await connection.execute(CREATE, 0, BODY)
    stamps: list[float] = []
    for position in range(1, job.sizes["steps"] + 1):
        stamps.append(time.perf_counter())
        await connection.execute(STEP, 0, position, BODY)
    return flatness(stamps)


async def claims(job: Job, connection: Any) -> Figures:
    """W9: one statement that takes the oldest waiting rows, past those that others hold locked."""
    found, there = Figures(), 0
    for level in sorted(size for name, size in job.sizes.items() if name.startswith("level")):
        await connection.execute("INSERT INTO jobs SELECT n, n FROM generate_series($1::bigint, $2::bigint) AS n", there + 1, level)
        await connection.execute("ANALYZE jobs")
        there = level
        for batch in (10, 100):
            found[f"claims_{batch}_at_{level}"] = quantile([await _claimed(connection, batch) for _ in range(5)], 0.5)
    return found


async def _claimed(connection: Any, batch: int) -> float:
    got, start = 0, time.perf_counter()
    while got < 400:
        got += len(await connection.fetch(TAKE, batch))
    elapsed = time.perf_counter() - start
    await connection.execute("UPDATE jobs SET owner = NULL WHERE owner = 'me'")
    return got / elapsed


async def measure(job: Job, connection: Any) -> Figures:
    """The workloads that a database has a limit for."""
    bare = Bare(connection)
    work: dict[str, Callable[[], Awaitable[Figures]]] = {
        "W1": lambda: alone(job, bare, COMMITS),
        "W3": lambda: long_run(job, connection),
        "W4": lambda: alone(job, bare, 3, reads=1),  # created, claimed, done; and the look at the result
        "W9": lambda: claims(job, connection),
        "W9m": lambda: claims(job, connection),
    }
    if job.workload in work:
        return await work[job.workload]()
    if job.workload == "W2":
        await bare.together(1000, COMMITS)
        return {"rate": await bare.together(job.sizes["runs"], COMMITS)}
    if job.workload == "W5":
        return await alone(job, bare, 1) | {"rate": await bare.together(job.sizes["more"], 1)}
    # W6: two commits until a run is parked; the signal, its taking and the end are three.
    return {"parking": await bare.together(job.sizes["runs"], 2), "rate": await bare.together(job.sizes["runs"], 3)}


async def work(job: Job) -> Figures:
    """On a connection of its own."""
    connection = await asyncpg.connect(job.url)
    try:
        await connection.execute(TABLES)
        return await measure(job, connection)
    finally:
        await connection.close()


if __name__ == "__main__":
    perform(work)

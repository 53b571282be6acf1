"""The limit on SQLite: as many bare sqlite3 transactions of the same shape, one update and one insert each.

In flight, 100 workflows that go on at the same moment share a transaction: nothing that is durable can need fewer.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from common import Figures, Job, answer, flatness, quantile, read_job, summary

COMMITS = 6  # of a workflow of five steps: its creation, and one a step
BODY = '{"n":1,"ok":true}' * 2
HEAD = "INSERT INTO head VALUES (?, ?) ON CONFLICT DO UPDATE SET position = excluded.position"
ROW = "INSERT INTO rows (head, position, body) VALUES (?, ?, ?)"


def connect(job: Job) -> sqlite3.Connection:
    """A fresh file with a table of heads and one of rows."""
    db = sqlite3.connect(f"{job.place}/floor.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={job.synchronous}")
    db.execute("CREATE TABLE head (id INTEGER PRIMARY KEY, position INTEGER)")
    db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, head INTEGER, position INTEGER, body TEXT, UNIQUE (head, position))")
    return db


def commit(db: sqlite3.Connection, heads: range, position: int) -> None:
    """One transaction for a step of each of these."""
    db.execute("BEGIN IMMEDIATE")
    for head in heads:
        db.execute(HEAD, (head, position))
        db.execute(ROW, (head, position, BODY))
    db.execute("COMMIT")


def alone(job: Job, commits: int, reads: int = 0) -> Figures:
    """So many transactions and reads a workflow, one workflow after the other."""
    db, times = connect(job), list[float]()
    cpu = time.process_time()
    for number in range(job.sizes["runs"]):
        start = time.perf_counter()
        for position in range(commits):
            commit(db, range(number, number + 1), position)
        for _ in range(reads):
            db.execute("SELECT body FROM rows WHERE head = ?", (number,)).fetchall()
        times.append(time.perf_counter() - start)
    return summary(times, time.process_time() - cpu)


def together(job: Job, count: int, commits: int, lanes: int = 100) -> float:
    """Workflows a second when `lanes` of them share each transaction."""
    db, start = connect(job), time.perf_counter()
    for begin in range(0, count, lanes):
        for position in range(commits):
            commit(db, range(begin, min(begin + lanes, count)), position)
    return count / (time.perf_counter() - start)


def long_run(job: Job) -> Figures:
    """W3."""
    db, stamps = connect(job), list[float]()
    for position in range(job.sizes["steps"]):
        stamps.append(time.perf_counter())
        commit(db, range(1), position)
    return flatness(stamps)


def start_only(job: Job) -> Figures:
    """W5: one commit each."""
    found = alone(job, 1)
    return found | {"rate": together(Job(**vars(job) | {"place": _beside(job)}), job.sizes["more"], 1)}


def signals(job: Job) -> Figures:
    """W6: two commits until a run is parked; the signal, its taking and the end are three."""
    count = job.sizes["runs"]
    return {"parking": together(job, count, 2), "rate": together(Job(**vars(job) | {"place": _beside(job)}), count, 3)}


def _beside(job: Job) -> str:
    import tempfile

    return tempfile.mkdtemp(dir=job.place)


def claims(job: Job) -> Figures:
    """W9: one statement that takes the oldest waiting rows."""
    db = sqlite3.connect(f"{job.place}/claims.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, due INTEGER, owner TEXT)")
    db.execute("CREATE INDEX due ON jobs (due, id) WHERE owner IS NULL")
    db.execute(f"PRAGMA synchronous={job.synchronous}")
    take = (
        "UPDATE jobs SET owner = 'me' WHERE id IN (SELECT id FROM jobs WHERE owner IS NULL AND due <= 1 << 40"
        " ORDER BY due, id LIMIT ?) RETURNING id"
    )
    found, there = Figures(), 0
    for level in sorted(size for name, size in job.sizes.items() if name.startswith("level")):
        db.execute("BEGIN")
        db.executemany("INSERT INTO jobs (due) VALUES (?)", ((at,) for at in range(there, level)))
        db.execute("COMMIT")
        there = level
        for batch in (10, 100):
            found[f"claims_{batch}_at_{level}"] = quantile([_claimed(db, take, batch) for _ in range(5)], 0.5)
    return found


def _claimed(db: sqlite3.Connection, take: str, batch: int) -> float:
    got, start = 0, time.perf_counter()
    while got < 400:
        got += len(db.execute(take, (batch,)).fetchall())
    elapsed = time.perf_counter() - start
    db.execute("UPDATE jobs SET owner = NULL WHERE owner = 'me'")
    return got / elapsed


WORK: dict[str, Callable[[Job], Figures]] = {
    "W1": lambda job: alone(job, COMMITS),
    "W2": lambda job: {"rate": together(job, job.sizes["runs"], COMMITS)},
    "W3": long_run,
    "W4": lambda job: alone(job, 3, reads=1),  # created, claimed, done; and the look at the result
    "W5": start_only,
    "W6": signals,
    "W9": claims,
    "W9m": claims,
}


if __name__ == "__main__":
    task = read_job()
    answer(WORK[task.workload](task))

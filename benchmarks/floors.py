"""What the machine allows: the same number of commits with nothing around them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

COMMITS = 6  # of a workflow of five steps: its creation, and one a step


def sqlite_commits(folder: Path, workflows: int, synchronous: str = "FULL") -> float:
    """Seconds for bare sqlite3 transactions (one update, one insert each), as many as that many workflows need."""
    db = sqlite3.connect(folder / f"floor-{time.monotonic_ns()}.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute("CREATE TABLE head (id INTEGER PRIMARY KEY, position INTEGER)")
    db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, head INTEGER, position INTEGER, body TEXT, UNIQUE (head, position))")
    body = '{"n":1,"ok":true}' * 2
    start = time.perf_counter()
    for number in range(workflows):
        for position in range(COMMITS):
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO head VALUES (?, ?) ON CONFLICT DO UPDATE SET position = excluded.position", (number, position))
            db.execute("INSERT INTO rows (head, position, body) VALUES (?, ?, ?)", (number, position, body))
            db.execute("COMMIT")
    elapsed = time.perf_counter() - start
    db.close()
    return elapsed

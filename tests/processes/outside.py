"""The checker: it reads the file of effects and the rows of the journal itself, and asks the engine nothing."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

OUTCOMES = {"ok", "err", "lost", "cut", "free", "fail", "park"}  # what can become of an attempt
ENDS = {"done": "completed", "dead": "failed", "gone": "cancelled"}


@dataclass(frozen=True)
class Effect:
    """One line that a handler wrote."""

    at: int
    pid: int
    run_id: str
    path: str
    attempt: int
    key: str


@dataclass
class Story:
    """One run as the file holds it: its status, and its records in order, each with the epoch it was written under."""

    run_id: str
    status: str
    records: list[list[Any]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def tags(self, path: str) -> list[str]:
        """What happened to one step, in order."""
        return [tag for tag, *rest in self.records if rest and rest[0] == path]

    def paths(self, tag: str) -> list[str]:
        """The steps that one thing happened to, in order."""
        return [record[1] for record in self.records if record[0] == tag]


def read_effects(path: Path) -> list[Effect]:
    """All effects, in the order in which they happened."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split(" ") for line in lines]
    return [Effect(int(at), int(pid), run_id, step, int(attempt), key) for at, pid, run_id, step, attempt, key in found]


def read_runs(where: str) -> dict[str, Story]:
    """All runs, whole."""
    runs, journal = asyncio.run(_read_postgres(where)) if where.startswith("postgresql:") else _read_sqlite(where)
    found = {ref: Story(run_id, status) for ref, run_id, status in runs}
    for ref, position, epoch, control in journal:
        found[ref].records += json.loads(control)
        found[ref].epochs.append(epoch)
        found[ref].positions.append(position)
    return {run.run_id: run for run in found.values()}


Rows = tuple[list[Any], list[Any]]

_RUNS = "SELECT ref, run_id, status FROM {}runs"
_JOURNAL = "SELECT ref, position, epoch, control FROM {}journal ORDER BY ref, position"


def _read_sqlite(path: str) -> Rows:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("BEGIN")
        return connection.execute(_RUNS.format("flux_")).fetchall(), connection.execute(_JOURNAL.format("flux_")).fetchall()
    finally:
        connection.close()


async def _read_postgres(url: str) -> Rows:
    server, schema = url.split("&flux_schema=")
    connection = await asyncpg.connect(server)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            return await connection.fetch(_RUNS.format(f"{schema}.")), await connection.fetch(_JOURNAL.format(f"{schema}."))
    finally:
        await connection.close()


def check(where: str, effects: Path, *, ended: bool = True) -> dict[str, Story]:
    """All that must hold of every run, whatever was killed (I1, I2, I3, I5, I8, I10, I29, I31)."""
    runs = read_runs(where)
    of_run: dict[str, list[Effect]] = defaultdict(list)
    for effect in read_effects(effects):
        of_run[effect.run_id].append(effect)
    assert set(of_run) <= set(runs), "an effect of a run that was never stored (S3.1)"
    for run in runs.values():
        try:
            _check_rows(run)
            _check_effects(of_run[run.run_id], _check_attempts(run))
            if ended:
                assert run.status == ENDS.get(run.records[-1][0]), f"the run stands at {run.status}"
        except AssertionError as error:
            told = "\n".join(map(str, [*run.records, *of_run[run.run_id]]))
            raise AssertionError(f"{run.run_id}: {error}\n{told}") from error
    return runs


def _check_rows(run: Story) -> None:
    assert run.positions == list(range(1, len(run.positions) + 1)), "rows are missing or doubled"
    assert run.epochs == sorted(run.epochs), "an old epoch wrote after a new one (I11)"
    assert [tag for tag, *_ in run.records].count("new") == 1
    started = [path for path in dict.fromkeys(run.paths("go")) if not path.endswith("!undo")]
    for records in _generations(run):
        undone = list(dict.fromkeys(record[1] for record in records if record[0] == "go" and record[1].endswith("!undo")))
        assert undone == [f"{path}!undo" for path in reversed(started) if f"{path}!undo" in undone], "undone out of order (I31)"


def _generations(run: Story) -> list[list[list[Any]]]:
    """The records up to the first retry or replay, those up to the next, and so on (D1)."""
    found: list[list[list[Any]]] = [[]]
    for record in run.records:
        if record[0] == "again":
            found.append([])
        found[-1].append(record)
    return found


Outcome = tuple[str, int, str]  # path, attempt, what became of it


def _check_attempts(run: Story) -> list[Outcome]:
    """What became of each attempt; each has one outcome, and nothing starts after its step is recorded, within a generation (I2, I29)."""
    outcomes: list[Outcome] = []
    for records in _generations(run):
        found, under_way = _check_generation(records)
        outcomes += [(path, attempt, outcome) for (path, attempt), outcome in found.items()]
        assert not under_way or run.status not in ENDS.values(), f"the run ended while {under_way} were under way"
        outcomes += [(path, attempt, "under way") for path, attempt in under_way.items()]
    return outcomes


def _check_generation(records: list[list[Any]]) -> tuple[dict[tuple[str, int], str], dict[str, int]]:
    outcomes: dict[tuple[str, int], str] = {}
    under_way: dict[str, int] = {}
    recorded: set[str] = set()
    for tag, *rest in records:
        if tag == "go":
            path, attempt = rest[:2]
            assert path not in recorded, f"{path} was recorded, and started again"
            assert path not in under_way, f"{path} was started while an attempt was under way"
            assert outcomes.get((path, attempt)) in (None, "free"), f"attempt {attempt} of {path} was started twice"
            under_way[path] = attempt
        elif tag in OUTCOMES and rest[1]:
            path, attempt = rest[:2]
            assert under_way.pop(path, None) == attempt, f"attempt {attempt} of {path} has an outcome, but is not under way"
            outcomes[path, attempt] = tag
            if tag in ("ok", "fail"):
                recorded.add(path)
    return outcomes, under_way


def _check_effects(effects: list[Effect], outcomes: list[Outcome]) -> None:
    happened = Counter((effect.path, effect.attempt) for effect in effects)
    started = Counter((path, attempt) for path, attempt, outcome in outcomes if outcome != "free")
    known = Counter((path, attempt) for path, attempt, outcome in outcomes if outcome in ("ok", "err", "fail", "park"))
    for (path, attempt), times in happened.items():
        assert times <= started[path, attempt], (
            f"attempt {attempt} of {path} was called {times} times, and started {started[path, attempt]}"
        )
    for (path, attempt), times in known.items():
        assert happened[path, attempt] >= times, f"attempt {attempt} of {path} has an outcome on record, but was never called"
    undone = Counter(path for path, _, outcome in outcomes if path.endswith("!undo") and outcome == "ok")
    keys = defaultdict(set)
    for effect in effects:
        keys[effect.path].add(effect.key)
    for path, found in keys.items():
        step = path.removesuffix("!undo")
        assert len(found) <= 1 + undone[f"{step}!undo"], f"{path} had several idempotency keys, and was not undone between (S3.5, D2)"

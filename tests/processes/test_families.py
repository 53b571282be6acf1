"""A parent with two children, killed at every effect and at every write, and carried on by a new process (S1.2, S10.5, I41)."""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .children import World
from .outside import Story

LANES = 3  # families that are looked after at once

UP = ["open", "pay", "pack", "fetch", "close"]
EFFECTS = {"completed": UP, "failed": [*UP, "pack!undo", "pay!undo", "open!undo"]}
STATUSES = {"completed": ["completed", "completed", "completed"], "failed": ["cancelled", "cancelled", "failed"]}


@dataclass
class Kept:
    """A family that was looked after to its end, by as many processes as it took."""

    end: Any
    points: list[str]  # those that the last process passed
    runs: dict[str, Story]
    effects: list[str]
    died: int  # how many processes were killed


def keep(directory: Path, ending: str, *kills: int) -> Kept:
    """Look after it; the first processes die at these points."""
    world = World(directory)
    died = 0
    try:
        for kill_at in kills:
            process = world.child("keep", ending=ending, kill_at=kill_at)
            died += process.ends() == -signal.SIGKILL
        process = world.child("keep", ending=ending)
        end, points = process.says("ended")
        process.ends_well()
        return Kept(end, points, world.check(), [effect.path for effect in world.effects()], died)
    finally:
        world.close()


def check_family(kept: Kept, reference: Kept) -> None:
    """I15, I41, I30, I31: the same runs and the same end as in a family where nobody died; only what was lost was done again, each child
    was made once, and was heard of as often."""
    assert kept.end == reference.end and list(kept.runs) == list(reference.runs)
    again = Counter(kept.effects) - Counter(reference.effects)
    lost = Counter(record[1] for run in kept.runs.values() for record in run.records if record[0] == "lost")
    assert sum(again.values()) <= kept.died and not again - lost, f"done again: {again}, lost: {lost}"
    assert list(dict.fromkeys(kept.effects)) == list(dict.fromkeys(reference.effects))
    for run_id, run in kept.runs.items():
        for tag in ("new", "child", "tell", "home", "undo", "again"):
            assert run.paths(tag) == reference.runs[run_id].paths(tag), f"{run_id}: {tag}"


@pytest.mark.parametrize("ending", EFFECTS)
def test_killed_once_at_every_point(tmp_path: Path, ending: str) -> None:
    """I15, I41: a family that is killed at any of its points ends as if nothing had happened."""
    reference = keep(tmp_path / "reference", ending)
    assert reference.effects == EFFECTS[ending] and sorted(run.status for run in reference.runs.values()) == STATUSES[ending]
    points = reference.points
    shared = points.index("close #1, before its effect")  # up to there both are the same: each takes every second point
    kills = [*range(1 if ending == "completed" else 2, shared + 1, 2), *range(shared + 1, len(points) + 1)]

    def case(kill_at: int) -> Kept:
        kept = keep(tmp_path / str(kill_at), ending, kill_at)
        assert kept.died or kill_at > len(points) - 3, f"it was to die at {points[kill_at - 1]}"
        return kept

    with ThreadPoolExecutor(LANES) as lanes:
        for kept in lanes.map(case, kills):
            check_family(kept, reference)


def test_workers_are_killed(tmp_path: Path) -> None:
    """S12.1, S1.2: workers with room for one run, killed at effects; the next one carries parents and children on."""

    def case(kill_at: int) -> None:
        world = World(tmp_path / str(kill_at))
        try:
            world.does("start", workflow="house", ids=["house-0", "house-1"])  # they fail with neither
            assert world.child("work", concurrency=1, kill_at=kill_at).ends() == -signal.SIGKILL
            worker = world.worker(concurrency=1)
            world.does("see", ids=["house-0", "house-1"])
            worker.signal(signal.SIGTERM)
            worker.ends_well()
            runs = world.check()
            assert len(runs) == 6 and {run.status for run in runs.values()} == {"completed"}
            assert sum((Counter(effect.path for effect in world.effects()) - Counter(UP * 2)).values()) <= 1
        finally:
            world.close()

    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(case, range(1, 2 * 2 * len(UP) + 1, 3)))

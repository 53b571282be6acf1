"""Killed at every effect and at every write, and carried on by a new process."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .children import BOTH, World
from .outside import Story

LANES = 3  # stories that are told at once

UP_TO_THE_WAIT = ["reserve", "flaky", "flaky", "flaky", "charge"]
DOWN = ["charge!undo", "charge!undo", "flaky!undo", "reserve!undo"]
EFFECTS = {
    "completed": [*UP_TO_THE_WAIT, "finish"],
    "failed": [*UP_TO_THE_WAIT, "finish", "finish", "finish", *DOWN],
    "cancelled": [*UP_TO_THE_WAIT, *DOWN],
}


@dataclass
class Told:
    """A story that was told to its end, by as many processes as it took."""

    end: Any
    points: list[str]  # those that the last process passed
    run: Story
    effects: list[str]
    died: int  # how many processes were killed


def tell(directory: Path, url: str, ending: str, *kills: int) -> Told:
    """Tell it; the first processes die at these points."""
    world = World(directory, url)
    died = 0
    try:
        for kill_at in kills:
            child = world.child("tell", ending=ending, kill_at=kill_at)
            died += child.ends() == -signal.SIGKILL
        child = world.child("tell", ending=ending)
        end, points = child.says("ended")
        child.ends_well()
        run = world.check()["story-1"]
        return Told(end, points, run, [effect.path for effect in world.effects()], died)
    finally:
        world.close()


def check_story(told: Told, reference: Told) -> None:
    """S3.5, S3.7, S9.2, S10.2: the end is that of a story in which nobody died, and only what was lost was done again."""
    assert told.end == reference.end
    run = told.run
    assert run.status == reference.run.status
    for path in dict.fromkeys(reference.effects):
        again = told.effects.count(path) - reference.effects.count(path)
        assert again <= run.tags(path).count("lost") <= told.died, f"{path} was done {again} times too often"
        assert run.tags(path).count("ok") == reference.run.tags(path).count("ok")
    assert run.tags("finish").count("err") == reference.run.tags("finish").count("err"), "raised attempts were not counted across the crash"
    assert run.paths("sig") == reference.run.paths("sig")
    assert list(dict.fromkeys(told.effects)) == list(dict.fromkeys(reference.effects))


@BOTH
@pytest.mark.parametrize("ending", EFFECTS)
def test_killed_once_at_every_point(tmp_path: Path, places: Callable[[], str], ending: str) -> None:
    """I2, I5, I32: a story that is killed at any of its points ends as if nothing had happened."""
    reference = tell(tmp_path / "reference", places(), ending)
    assert reference.end[0] == ending
    assert reference.effects == EFFECTS[ending]
    points = reference.points
    alike = "before post" if ending == "cancelled" else "finish #1, before its effect"  # up to there all stories are the same
    first = 1 if ending == "completed" else points.index(alike) + 1

    def case(kill_at: int) -> Told:
        told = tell(tmp_path / str(kill_at), places(), ending, kill_at)
        assert told.died, f"it was to die at {points[kill_at - 1]}"
        return told

    with ThreadPoolExecutor(LANES) as lanes:
        for told in lanes.map(case, range(first, len(points) + 1)):
            check_story(told, reference)


@BOTH
def test_killed_twice(tmp_path: Path, places: Callable[[], str]) -> None:
    """S3.7: also when the process that carries on is killed, at a point of its own."""
    reference = tell(tmp_path / "reference", places(), "failed")
    chance = random.Random(1)
    kills = [(chance.randint(1, len(reference.points)), chance.randint(1, 12)) for _ in range(12)]

    def case(pair: tuple[int, int]) -> Told:
        return tell(tmp_path / "-".join(map(str, pair)), places(), "failed", *pair)

    with ThreadPoolExecutor(LANES) as lanes:
        for told in lanes.map(case, dict.fromkeys(kills)):
            check_story(told, reference)

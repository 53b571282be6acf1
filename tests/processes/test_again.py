"""Killed at every effect and at every write of a retry and of a replay, and carried on by a new process (D1 to D4)."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .children import BOTH, World
from .outside import Effect, Story

LANES = 3

BEFORE = ["reserve", "charge", "pack", "label", "ship", "ship", "pack!undo", "charge!undo"]
AGAIN = {
    "retry": ["charge", "pack", "label", "ship", "mail"],
    "retry that fails": ["charge", "pack", "label", "ship", "ship", "pack!undo", "charge!undo"],
    "replay": ["charge", "ship", "mail"],
}


@dataclass
class Told:
    """An order that was done again, by as many processes as it took."""

    end: Any
    points: list[str]  # those that the last process passed
    run: Story
    effects: list[Effect]  # since it was begun again
    died: int


def prepare(directory: Path, what: str) -> Path:
    """The order as it stands before: failed, or, for the replay, retried with success."""
    world = World(directory)
    try:
        world.does("do_again", cause="first", fine=False)
        if what == "replay":
            world.does("do_again", cause="retry")
    finally:
        world.close()
    return directory


def tell(before: Path, directory: Path, what: str, *kills: int) -> Told:
    """Do it again, on a copy; the first processes die at these points."""
    shutil.copytree(before, directory)
    world = World(directory)
    cause, fine = what.split()[0], "fails" not in what
    already = len(world.effects())
    died = 0
    try:
        for kill_at in kills:
            child = world.child("do_again", cause=cause, fine=fine, kill_at=kill_at)
            died += child.ends() == -signal.SIGKILL
        child = world.child("do_again", cause=cause, fine=fine)
        end, points = child.says("ended")
        child.ends_well()
        run = world.check()["order-1"]
        return Told(end, points, run, world.effects()[already:], died)
    finally:
        world.close()


def check_keys(before: list[Effect], told: Told, what: str) -> None:
    """D2: a retry charges under a new key, for the old charge was undone; a replay under the same. Everything else keeps its key."""
    old = {effect.path: effect.key for effect in before}
    for effect in told.effects:
        step = effect.path.removesuffix("!undo")
        undone = what != "replay" and step in ("charge", "pack")
        if effect.path in old:
            assert (effect.key == old[effect.path]) is not undone, f"{effect.path} was done again under the wrong key"
        if effect.path != step:
            assert effect.key == next(found.key for found in told.effects if found.path == step) + "!undo"


def check(told: Told, reference: Told) -> None:
    """S3.5, D1: the end is that of an order in which nobody died; only what was lost was done once more; it was begun again once."""
    assert told.end == reference.end
    run, effects, expected = told.run, [effect.path for effect in told.effects], [effect.path for effect in reference.effects]
    assert [record[0] for record in run.records].count("again") == [record[0] for record in reference.run.records].count("again")
    assert list(dict.fromkeys(effects)) == list(dict.fromkeys(expected))
    for path in dict.fromkeys(expected):
        more = effects.count(path) - expected.count(path)
        assert 0 <= more <= run.tags(path).count("lost") <= told.died, f"{path} was done {more} times too often"
        assert run.tags(path).count("ok") == reference.run.tags(path).count("ok")


@pytest.mark.parametrize("what", AGAIN)
def test_killed_at_every_point(tmp_path: Path, what: str) -> None:
    """D1, D2, D4, I5: killed anywhere, a retry and a replay end as if nothing had happened, each effect under the key that was promised."""
    before = prepare(tmp_path / "before", what)
    world = World(before)
    earlier = world.effects()
    assert [effect.path for effect in earlier] == BEFORE + (AGAIN["retry"] if what == "replay" else [])
    reference = tell(before, tmp_path / "reference", what)
    assert reference.end[0] == ("failed" if "fails" in what else "completed")
    assert [effect.path for effect in reference.effects] == AGAIN[what]
    check_keys(earlier, reference, what)

    def case(kill_at: int) -> Told:
        told = tell(before, tmp_path / str(kill_at), what, kill_at)
        assert told.died, f"it was to die at {reference.points[kill_at - 1]}"
        return told

    with ThreadPoolExecutor(LANES) as lanes:
        for told in lanes.map(case, range(1, len(reference.points) + 1)):
            check(told, reference)
            check_keys(earlier, told, what)


@BOTH
@pytest.mark.parametrize("way", ["async", "thread", "commit"])
def test_a_step_that_is_called_once_at_most(tmp_path: Path, places: Callable[[], str], way: str) -> None:
    """S3.8, D7: killed at every point, it is never called twice; where it may have been called the run fails and is undone."""

    def tell_once(name: str, kill_at: int) -> tuple[str, list[str], Story, list[str]]:
        world = World(tmp_path / name, places())
        try:
            if kill_at:
                assert world.child("carry", workflow=f"once-{way}", kill_at=kill_at).ends() == -signal.SIGKILL
            child = world.child("carry", workflow=f"once-{way}")
            status, points = child.says("ended")
            child.ends_well()
            return status, points, world.check()["run-1"], [effect.path for effect in world.effects()]
        finally:
            world.close()

    _, points, _, _ = tell_once("reference", 0)
    statuses = set()
    with ThreadPoolExecutor(LANES) as lanes:
        for number, (status, _, run, effects) in enumerate(lanes.map(lambda at: tell_once(str(at), at), range(1, len(points) + 1))):
            statuses.add(status)
            assert effects.count("once") <= 1, f"called twice when killed at {points[number]}"
            lost = "lost" in run.tags("once")
            assert status == ("failed" if lost else "completed"), f"killed at {points[number]}"
            if lost:
                assert "after" not in effects and effects[-1] == "first!undo" and ("once!undo" in effects) is (way != "async")
    assert statuses == {"completed", "failed"}


@BOTH
@pytest.mark.parametrize("way", ["async", "thread", "commit"])
def test_a_worker_killed_in_its_handler(world: World, way: str) -> None:
    """S3.8, S14.5: other workers take the run over, and do not call it again."""
    worker = world.worker()
    world.does("start", workflow=f"once-{way}", ids=["run-1"], stays=True)
    worker.says("in")
    follower = world.worker()
    worker.kill()
    world.does("see", ids=["run-1"])
    run = world.check()["run-1"]
    assert run.status == "failed" and len(world.effects("once")) == 1
    assert world.effects("first!undo")[0].pid == follower.pid


@BOTH
@pytest.mark.parametrize("way", ["async", "thread", "commit"])
def test_a_deploy(world: World, way: str) -> None:
    """D7, S14.4: SIGTERM while such steps run and others are queued behind them: nothing is in doubt, each is called once, all complete."""
    ids = [f"run-{number}" for number in range(6)]
    worker = world.worker(concurrency=1)
    world.does("start", workflow=f"once-{way}", ids=ids, stays=True)
    worker.says("in")
    worker.signal(signal.SIGTERM)
    worker.allow()
    worker.ends_well()
    left = world.check(ended=False)
    assert not [path for run in left.values() for tag in ("lost", "cut") for path in run.paths(tag)]
    follower = world.worker(concurrency=1)
    for _ in ids[1:]:
        follower.says("in")
        follower.allow()
    world.does("see", ids=ids)
    runs = world.check()
    assert {run.status for run in runs.values()} == {"completed"}
    effects = world.effects()
    assert len({(effect.run_id, effect.path) for effect in effects}) == len(effects) == 3 * len(ids)

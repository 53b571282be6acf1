"""SIGTERM: a worker in any phase ends well, and its runs are not worse for it (S14.4)."""

from __future__ import annotations

import signal

import pytest

from .children import BOTH, World
from .outside import Story

DOUBTS = ("lost", "cut")


def doubts(run: Story) -> list[str]:
    """What was put in doubt."""
    return [path for tag in DOUBTS for path in run.paths(tag)]


def catch(world: World, phase: str) -> None:
    """A worker gets SIGTERM in this phase, and ends."""
    worker = world.worker(tells=True)
    world.does("start", workflow=f"held-{phase}", ids=["run-1"])
    match phase:
        case "sleep" | "wait":
            worker.says("suspended")
        case "retry":
            worker.says("retried")
        case _:
            worker.says("in")
    worker.signal(signal.SIGTERM)
    if phase in ("handler", "thread", "commit", "undo"):
        worker.says("stopping")
        worker.allow()
    worker.ends_well()


@BOTH
@pytest.mark.parametrize("phase", ["handler", "thread", "commit", "sleep", "retry", "wait", "undo"])
def test_sigterm_in_each_phase(world: World, phase: str) -> None:
    """S14.4, D7: what runs is finished and recorded, the rest is given back; another worker goes on at once, with the lease still long."""
    catch(world, phase)
    left = world.check(ended=False)["run-1"]
    assert not doubts(left)
    follower = world.worker()
    if phase == "wait":
        world.does("signal", run_id="run-1", workflow="held-wait", name="go")
    world.does("see", ids=["run-1"])
    run = world.check()["run-1"]
    assert run.status == ("failed" if phase == "undo" else "completed")
    assert not doubts(run)
    effects = [effect.path for effect in world.effects()]
    assert effects.count("later") == (2 if phase == "retry" else 0)
    assert all(effects.count(path) == 1 for path in effects if path != "later")
    if phase != "undo":
        assert world.effects("after")[0].pid == follower.pid


@BOTH
def test_sigterm_when_idle(world: World) -> None:
    """S14.4: nothing to give back."""
    worker = world.worker()
    worker.signal(signal.SIGTERM)
    worker.ends_well()


@BOTH
def test_sigterm_and_a_handler_that_does_not_end(world: World) -> None:
    """S14.4, D8, D10: beyond the grace period the handler is stopped and its step is in doubt; the process still exits 0."""
    worker = world.worker(grace=0.3)
    world.does("start", workflow="stuck", ids=["run-1"])
    worker.says("in")
    worker.signal(signal.SIGTERM)
    worker.ends_well()
    assert world.check(ended=False)["run-1"].tags("stay") == ["go", "cut"]
    world.worker()
    world.does("see", ids=["run-1"])
    run = world.check()["run-1"]
    assert run.status == "completed"
    assert run.tags("stay") == ["go", "cut", "go", "ok"]


@BOTH
def test_sigterm_and_a_thread_that_does_not_end(world: World) -> None:
    """S14.4, D9, D10: a thread cannot be stopped, but it does not keep the process from ending; its step is in doubt."""
    worker = world.worker(grace=0.3)
    world.does("start", workflow="held-thread", ids=["run-1"])
    worker.says("in")
    worker.signal(signal.SIGTERM)
    worker.ends_well()
    assert world.check(ended=False)["run-1"].tags("hold") == ["go", "cut"]


@BOTH
def test_sigterm_under_load(world: World) -> None:
    """S14.4, D7: workers come and go by SIGTERM while many runs are under way; nothing is in doubt, nothing runs twice."""
    poster = world.child("post", seconds=3.0, lanes=20)
    workers = [world.worker(), world.worker()]
    for turn in range(8):
        leaving = workers[turn % 2]
        leaving.signal(signal.SIGTERM)
        workers[turn % 2] = world.worker()
        leaving.ends_well()
    total = poster.says("posted")
    for worker in workers:
        worker.signal(signal.SIGTERM)
        worker.ends_well()
    runs = world.check()
    assert len(runs) == total
    assert not [path for run in runs.values() for path in doubts(run)]
    effects = world.effects()
    assert len({(effect.run_id, effect.path) for effect in effects}) == len(effects)

"""A worker is gone or stands still: another takes its runs over."""

from __future__ import annotations

import signal
import time

from .children import BOTH, Child, World


def dropped(world: World, child: Child) -> bool:
    """Whether it says that it lets go of the run."""
    return any("run-1" in line and "dropped here" in line for line in world.told(child))


@BOTH
def test_a_killed_worker_is_succeeded(world: World) -> None:
    """S14.5, D14: with a lease of 30 s, the runs of a killed process are moved by another one of the same host soon after."""
    first = world.worker(concurrency=1)
    world.does("start", workflow="held-handler", ids=["run-1"])
    first.says("in")
    second = world.worker()
    world.does("start", workflow="held-sleep", ids=["run-2"])
    world.does("see", ids=["run-2"])  # so that the second has settled, and has nothing to do
    first.kill()
    killed_at = time.monotonic()
    second.says("in", seconds=10)
    took = time.monotonic() - killed_at
    second.allow()
    world.does("see", ids=["run-1"])
    run = world.check()["run-1"]
    assert run.status == "completed"
    assert run.tags("hold") == ["go", "lost", "go", "alone", "ok"]
    assert [effect.path for effect in world.effects() if effect.run_id == "run-1"] == ["first", "hold", "hold", "after"]
    print(f"\ntaken over by another worker {took * 1000:.0f} ms after the kill")


@BOTH
def test_a_new_process_carries_on_at_once(world: World) -> None:
    """S2.4, S12.1: `execute` with the id of a run whose process was killed takes it over there and then."""
    reference = World(world.directory / "reference")
    points = reference.does("tell", ending="completed").says("ended")[1]
    killed = world.child("tell", ending="completed", kill_at=points.index("flaky #2, after its effect") + 1)
    assert killed.ends() == -signal.SIGKILL
    killed_at = time.monotonic_ns()
    world.does("tell", ending="completed")
    took = (world.effects("flaky")[2].at - killed_at) / 1e6
    assert took < 10_000
    world.check()
    print(f"\ncarried on by a new process {took:.0f} ms after the kill")


@BOTH
def test_a_frozen_worker_writes_nothing_when_it_thaws(world: World) -> None:
    """S14.2, I10, I11, I12: stopped past its lease, its run was moved by another; back again it writes nothing, says so, and goes on."""
    world.does("start", workflow="frozen", ids=["run-1"])
    sleeper = world.worker(lease=0.6, concurrency=1)
    sleeper.says("in")
    other = world.worker(lease=0.6)
    world.does("see", ids=["run-1"])
    before = world.check()["run-1"]
    assert before.tags("freeze") == ["go", "lost", "go", "alone", "ok"]
    sleeper.signal(signal.SIGCONT)
    other.signal(signal.SIGTERM)
    other.ends_well()
    world.does("start", workflow="held-sleep", ids=["run-2"])  # the thawed one is a worker again, under a new name
    world.does("see", ids=["run-2"])
    sleeper.signal(signal.SIGTERM)
    sleeper.ends_well()
    runs = world.check()
    assert runs["run-1"].records == before.records
    assert {effect.pid for effect in world.effects() if effect.run_id == "run-2"} == {sleeper.pid}
    assert dropped(world, sleeper), "it does not say that it dropped the run"


@BOTH
def test_a_frozen_worker_is_refused_before_another_has_written(world: World) -> None:
    """S14.2, I10, I11: its run was taken over, and stands where it left it: nothing but the hands it is in keeps it from writing there."""
    world.does("start", workflow="frozen", ids=["run-1"])
    sleeper = world.worker(lease=0.6, concurrency=1)
    sleeper.says("in")
    other = world.worker(hesitates=True)
    other.says("hesitates")
    before = world.runs()["run-1"]
    assert before.tags("freeze") == ["go"]
    sleeper.signal(signal.SIGCONT)
    world.until(lambda: dropped(world, sleeper), "the run is dropped")
    sleeper.signal(signal.SIGTERM)
    sleeper.ends_well()
    assert world.runs()["run-1"] == before
    other.allow()
    world.does("see", ids=["run-1"])
    run = world.check()["run-1"]
    assert run.records[: len(before.records)] == before.records
    assert run.tags("freeze") == ["go", "lost", "go", "alone", "ok"]
    assert [effect.pid for effect in world.effects("freeze")] == [sleeper.pid, other.pid]


@BOTH
def test_a_worker_outlives_a_storage_that_does_not_register_it(world: World) -> None:
    """S15.3: a storage that cannot write when a worker begins is asked again; the worker does not end for it."""
    world.does("start", workflow="held-sleep", ids=["run-1"])
    worker = world.worker(refusals=2)
    world.does("see", ids=["run-1"])
    worker.signal(signal.SIGTERM)
    worker.ends_well()
    assert world.check()["run-1"].status == "completed"
    assert world.output().count("the storage does not answer a claim") == 2

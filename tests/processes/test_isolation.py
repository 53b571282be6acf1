"""A run that kills every process that calls it, beside others that do no harm."""

from __future__ import annotations

import signal
import time

from .children import BOTH, SECONDS, Child, World
from .outside import Story

INNOCENTS = [f"innocent-{number}" for number in range(30)]
LIMIT = 3


@BOTH
def test_a_deadly_run_is_found_out(world: World) -> None:
    """S3.7, D11, I18: workers are started anew as they die, until the run is blocked as WorkerCrashed; everything beside it completes,
    none of it blocked, and nothing of it is lost any more once the run is a suspect."""
    workers = [world.worker(crash_limit=LIMIT) for _ in range(2)]
    world.does("start", workflow="innocent", ids=INNOCENTS[:15])
    world.does("start", workflow="deadly", ids=["deadly-1"])
    world.does("start", workflow="innocent", ids=INNOCENTS[15:])
    died = 0
    until = time.monotonic() + SECONDS
    while not _settled(world.runs()):
        assert time.monotonic() < until, world.output()
        for place, worker in enumerate(workers):
            if not worker.lives(0.05):
                assert worker.ends() == 9
                died += 1
                workers[place] = world.worker(crash_limit=LIMIT)
    for worker in workers:
        if worker.lives(0):
            _stop(worker)
        else:  # since the last look at it
            assert worker.ends() == 9
            died += 1
    runs = world.check(ended=False)
    deadly = runs["deadly-1"]
    assert deadly.tags("kill").count("lost") == died <= 6
    assert [record[1] for record in deadly.records if record[0] == "hold"] == ["WorkerCrashed"]
    for run_id in INNOCENTS:
        run = runs[run_id]
        assert run.status == "completed" and not [tag for tag, *_ in run.records if tag == "hold"]
        assert sum(tag == "lost" for tag, *_ in run.records) <= 3
    assert "WorkerCrashed" in world.output()


def _settled(runs: dict[str, Story]) -> bool:
    return all(run.status == ("blocked" if run.run_id == "deadly-1" else "completed") for run in runs.values())


def _stop(worker: Child) -> None:
    worker.signal(signal.SIGTERM)
    worker.ends_well()

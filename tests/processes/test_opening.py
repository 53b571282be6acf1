"""Several processes find a new database at the same moment."""

from __future__ import annotations

import signal

from .children import BOTH, World

PROCESSES = 6


@BOTH
def test_many_open_a_new_database_at_once(world: World) -> None:
    """I50, S15.4: one of them makes the tables and the others find them; nothing that any of them stores is lost."""
    ids = [f"run-{number}" for number in range(PROCESSES)]
    children = [world.child("open_up", run_id=run_id) for run_id in ids]
    for child in children:
        child.says("ready")
    for child in children:
        child.allow()
    for child in children:
        child.ends_well()
    worker = world.worker()
    world.does("see", ids=ids)
    worker.signal(signal.SIGTERM)
    worker.ends_well()
    assert {run.run_id for run in world.check().values() if run.status == "completed"} == set(ids)

"""Small runs and steps for tests of storages."""

from __future__ import annotations

from typing import Any

from flux.core.records import RunCreated, StepCompleted, StepStarted
from flux.core.status import RunStatus
from flux.storage import Commit, Header, NewPosting, NewRun

LEASE = 30_000_000
CODE = ("order", "1", "s")


def new_run(run_id: str, **changes: Any) -> NewRun:
    fields: dict[str, Any] = {
        "run_id": run_id, "workflow": "order", "version": "1", "shape": "s", "input_digest": "d", "at": 1,
        "records": (RunCreated("order", "1", "s", "{}", {"a": "1"}), StepStarted("pay", 1)), "status": RunStatus.RUNNING,
    }  # fmt: skip
    return NewRun(**(fields | changes))


def step(header: Header, position: int, **changes: Any) -> Commit:
    """A commit by the holder at `position`."""
    fields: dict[str, Any] = {
        "run_id": header.run_id, "ref": header.ref, "owner": header.owner, "epoch": header.epoch, "position": position,
        "inbox_seq": 0, "at": 2, "records": (StepCompleted("pay", 1, '{"x":1}'),), "status": RunStatus.RUNNING,
        "wake_at": header.wake_at,
    }  # fmt: skip
    return Commit(**(fields | changes))


def end(header: Header, position: int, **changes: Any) -> Commit:
    """The commit that ends a run."""
    return step(header, position, status=RunStatus.COMPLETED, wake_at=None, release=True, **changes)


def signal(name: str = "go", signal_id: str | None = None) -> NewPosting:
    return NewPosting("signal", name, "1", signal_id)

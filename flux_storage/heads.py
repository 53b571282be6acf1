"""The head of a run as it is when the run is made."""

from __future__ import annotations

from flux.storage import Header, NewRun


def new_head(
    run: NewRun, ref: int, wake_at: int, owner: str | None = None, key: str | None = None, once: str | None = None, *, parked: bool = False
) -> Header:
    """`key` and `once`: its idempotency and its deduplication key; children have neither."""
    return Header(
        run.run_id, ref, run.workflow, run.version, run.shape, run.status, run.priority, run.at, run.at, None, wake_at, owner,
        0 if owner is None else 1, 1, 0, run.input_digest, key, tuple(run.waiting), "", (), run.parent, run.lane, parked, once,
    )  # fmt: skip

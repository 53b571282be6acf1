"""Which runs can be claimed, and in which order: unowned ones with a wake-up time that are not parked."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush

from flux.storage import Header

from ..queueing import Found, Level, Wanted, fits
from .kept import KeptRun

_Due = tuple[int, str, int]
_Version = tuple[str, str]  # a workflow's name and version
_Level = tuple[bool, int, tuple[str, ...]]  # whether it has begun, its priority and misfits: runs that claims pass over together


class DueQueue:
    """(workflow, version) -> level -> heap of (wake_at, run id, ref).

    An entry whose run has an owner by now, is parked, has begun since, or has another wake-up time, version or misfits, is stale and
    dropped when it comes up.
    """

    def __init__(self, runs: Mapping[str, KeptRun]) -> None:
        self._runs = runs
        self._levels: dict[_Version, dict[_Level, list[_Due]]] = {}

    def put(self, header: Header) -> None:
        """The run has no owner: it is due when its header says, if ever."""
        if header.wake_at is not None and not header.parked:
            levels = self._levels.setdefault((header.workflow, header.version), {})
            heap = levels.setdefault((header.epoch > 0, header.priority, header.misfits), [])
            heappush(heap, (header.wake_at, header.run_id, header.ref))

    def levels(self, wanted: Wanted) -> list[Level]:
        """Levels where a wanted shape fits."""
        return [
            Level(*version, begun, priority, misfits, place)
            for version, (place, shapes) in wanted.items()
            for begun, priority, misfits in self._levels.get(version, {})
            if fits(shapes, misfits)
        ]

    def due(self, level: Level, now: int) -> list[Found]:
        """The first of a level, if it is due."""
        run = self._first(level)
        if run is None or (run.header.wake_at or 0) > now:
            return []
        return [(run.header.wake_at or 0, run.header.run_id, run.header.lane)]

    def next_at(self, level: Level) -> int | None:
        """When the first of a level is due."""
        run = self._first(level)
        return None if run is None else run.header.wake_at

    def _first(self, level: Level) -> KeptRun | None:
        """The first run that is queued here; stale entries before it are dropped."""
        levels = self._levels.get((level.workflow, level.version), {})
        heap = levels.get((level.begun, level.priority, level.misfits), [])
        while heap:
            wake_at, run_id, ref = heap[0]
            stored = self._runs.get(run_id)
            if stored is not None:
                header = stored.header
                stands = (header.wake_at, header.version, header.misfits, header.epoch > 0)
                here = stands == (wake_at, level.version, level.misfits, level.begun)
                if here and header.ref == ref and header.owner is None and not header.parked:
                    return stored
            heappop(heap)
        return None

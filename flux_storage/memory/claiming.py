"""One claim's look at the runs in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..queueing import Found, Level, Starts, Wanted, fits
from .due import DueQueue
from .kept import KeptRun
from .lanes import Lanes


@dataclass(slots=True)
class Look:
    """A `flux_storage.queueing.Queue`. `lease` is called for what is taken."""

    runs: dict[str, KeptRun]
    waiting: DueQueue
    lanes: Lanes
    workflows: dict[str, int]  # how many runs of each are held
    begun: dict[str, dict[int, int]]
    wanted: Wanted
    now: int
    lease: Callable[[KeptRun], None]

    async def due(self, level: Level) -> Sequence[Found]:
        """The first due runs of a level."""
        return self.waiting.due(level, self.now)

    async def next_at(self, level: Level) -> int | None:
        """When the first of a level is due."""
        return self.waiting.next_at(level)

    async def held(self, workflow: str, limit: int) -> int:
        """How many runs of a workflow are held."""
        return min(self.workflows.get(workflow, 0), limit)

    async def held_in(self, workflow: str, lane: str, limit: int) -> int:
        """How many of a lane."""
        return min(self.lanes.held(workflow, lane), limit)

    async def starts(self, workflow: str, since: int) -> Starts:
        """What has begun lately."""
        return [(at, n) for at, n in self.begun.get(workflow, {}).items() if at > since]

    async def take(self, run_id: str) -> None:
        """Lease it."""
        self.lease(self.runs[run_id])

    async def park(self, run_id: str) -> None:
        """Take it out of the due order."""
        header = self.runs[run_id].header
        header.parked = True
        self.lanes.wait(header)

    async def let_in(self, workflow: str, lane: str) -> Iterable[tuple[Level, Found]]:
        """Put parked ones back."""
        found: list[tuple[Level, Found]] = []
        for header in self.lanes.let_in(workflow, lane):
            place, shapes = self.wanted.get((header.workflow, header.version), (-1, ()))
            if place >= 0 and fits(shapes, header.misfits):
                level = Level(workflow, header.version, header.epoch > 0, header.priority, header.misfits, place)
                found.append((level, (header.wake_at or 0, header.run_id, lane)))
        return found

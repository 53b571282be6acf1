"""Runs that are parked behind their concurrency key, with nobody there to let them in (I15, contract 24)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from ..storage import Header, Query, WorkflowStorage

PAGE = 500

_Lane: TypeAlias = tuple[str, str]
_Kind: TypeAlias = tuple[str, bool, tuple[str, ...]]


class Lanes:
    """What has been seen of lanes: who is parked, and who moves them on."""

    def __init__(self, now: int) -> None:
        self._now = now
        self._parked: dict[tuple[_Lane, _Kind], list[Header]] = {}
        self._held: set[_Lane] = set()
        self._due: set[tuple[_Lane, _Kind]] = set()

    def see(self, header: Header) -> None:
        """Here is another."""
        if not header.lane:
            return
        lane = header.workflow, header.lane
        kind = header.version, header.epoch > 0, header.misfits
        if header.owner is not None:
            self._held.add(lane)
        elif header.parked:
            self._parked.setdefault((lane, kind), []).append(header)
        elif header.wake_at is not None and header.wake_at <= self._now:
            self._due.add((lane, kind))

    def left(self) -> list[Header]:
        """Those that are parked behind nobody."""
        lost = [key for key in self._parked if key[0] not in self._held and key not in self._due]
        return [header for key in lost for header in self._parked[key]]


async def stranded(storage: WorkflowStorage, suspects: Iterable[Header]) -> list[Header]:
    """Those of whom a second look says the same: what was seen first may have been of different moments."""
    found: list[Header] = []
    suspected = {header.run_id: header.epoch for header in suspects}
    workflows = {header.workflow for header in suspects}
    for workflow in sorted(workflows):
        lanes = Lanes(await storage.now())
        before: tuple[int, str] | None = None
        while page := await storage.find(Query(workflow, (), PAGE, before)):
            for header in page:
                lanes.see(header)
            before = page[-1].created_at, page[-1].run_id
        found += [header for header in lanes.left() if suspected.get(header.run_id) == header.epoch]
    return found

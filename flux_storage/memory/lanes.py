"""The lanes of runs: how many of each are held, and which are parked (contract 24)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from flux.storage import Header

from ..queueing import MINUTE
from .kept import KeptRun

_Kind = tuple[str, bool, tuple[str, ...]]  # version, whether it has begun, misfits
_Urgency = tuple[int, int, str, int]  # rank, minus the priority, run id, ref: the least is the most urgent
_Queues = dict[tuple[bool, _Kind], list[_Urgency]]  # by whether they are parked


@dataclass(slots=True)
class _Lane:
    held: int = 0
    queues: _Queues = field(default_factory=dict)


class Lanes:
    """(workflow, lane) -> what is held and what waits. `put` is told of runs that are let in."""

    def __init__(self, runs: Mapping[str, KeptRun], put: Callable[[Header], None]) -> None:
        self._runs = runs
        self._put = put
        self._lanes: dict[tuple[str, str], _Lane] = {}

    def held(self, workflow: str, lane: str) -> int:
        """How many of its runs somebody holds."""
        known = self._lanes.get((workflow, lane))
        return 0 if known is None else known.held

    def hold(self, header: Header, number: int) -> None:
        """So many more are held."""
        self._lane(header).held += number

    def wait(self, header: Header) -> None:
        """The run has no owner; it may be parked."""
        if header.wake_at is not None:
            heappush(self._lane(header).queues.setdefault((header.parked, _kind(header)), []), _urgency(header))

    def is_behind(self, header: Header) -> bool:
        """Whether another that is due goes before this new one."""
        first = self._first(self._lane(header), False, _kind(header))
        if first is None or first.wake_at is None or header.wake_at is None:
            return False
        return first.wake_at <= header.wake_at and _urgency(first)[:2] <= _urgency(header)[:2]

    def let_in(self, workflow: str, lane: str) -> list[Header]:
        """The most urgent parked one of each kind."""
        known = self._lanes.get((workflow, lane))
        found: list[Header] = []
        for parked, kind in list(known.queues) if known is not None else ():
            header = self._first(known, True, kind) if known is not None and parked else None
            if header is not None:
                header.parked = False
                self.wait(header)
                self._put(header)
                found.append(header)
        return found

    def let_in_all(self, lanes: Iterable[tuple[str, str]]) -> None:
        """The same for these, each once, and forget those that are empty."""
        for workflow, lane in lanes:
            self.let_in(workflow, lane)
            known = self._lanes.get((workflow, lane))
            if known is not None and not known.held and not any(self._first(known, *key) for key in list(known.queues)):
                del self._lanes[workflow, lane]

    def _lane(self, header: Header) -> _Lane:
        return self._lanes.setdefault((header.workflow, header.lane), _Lane())

    def _first(self, lane: _Lane, parked: bool, kind: _Kind) -> Header | None:
        """The most urgent of those that wait; stale entries before it are dropped."""
        heap = lane.queues.get((parked, kind), [])
        while heap:
            stored = self._runs.get(heap[0][2])
            if stored is not None:
                header = stored.header
                waits = header.owner is None and header.wake_at is not None and header.parked is parked
                if waits and _urgency(header) == heap[0] and _kind(header) == kind:
                    return header
            heappop(heap)
        lane.queues.pop((parked, kind), None)
        return None


def _kind(header: Header) -> _Kind:
    return header.version, header.epoch > 0, header.misfits


def _urgency(header: Header) -> _Urgency:
    return (header.wake_at or 0) - header.priority * MINUTE, -header.priority, header.run_id, header.ref

"""What a claim takes, and in which order: the most urgent first, as far as the limits of its workflow allow (contract 9, 23, 24)."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol, TypeAlias, TypeVar

from flux.storage import Code, Limit

MINUTE = 60_000_000  # microseconds that one level of priority is worth (D29)
PARK = 500  # runs parked in one claim: where a lane is full and has more at the head of the queue, the next claim goes on
SLOTS = 1000  # instants that are told apart in one period of a rate of more than that

Found: TypeAlias = tuple[int, str, str]  # wake_at, run id and lane
Starts: TypeAlias = Sequence[tuple[int, int]]  # (when, how many), the earliest first
Wanted: TypeAlias = Mapping[tuple[str, str], tuple[int, Collection[str]]]  # (workflow, version) -> its place, and shapes of code
_Entry: TypeAlias = tuple[int, int, int, str, int, str, "Level", "Iterator[Found] | None"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Level:
    """Runs that claims look at, or pass over, together. `misfits` is as the adapter keeps them."""

    workflow: str
    version: str
    begun: bool
    priority: int
    misfits: Any
    place: int


class Queue(Protocol):
    """What an adapter does for a claim, inside its transaction."""

    async def due(self, level: Level) -> Sequence[Found]:
        """The first due runs of a level that nobody holds and that are not parked, the earliest first: some of them. What was found before
        has been taken or parked meanwhile."""
        ...

    async def next_at(self, level: Level) -> int | None:
        """When the first of these is due."""
        ...

    async def held(self, workflow: str, limit: int) -> int:
        """How many of its runs somebody holds, counted up to a limit."""
        ...

    async def held_in(self, workflow: str, lane: str, limit: int) -> int | None:
        """The same of one lane; None where that cannot be said just now: its runs are left for the next claim."""
        ...

    async def starts(self, workflow: str, since: int) -> Starts:
        """What has begun after that instant."""
        ...

    async def take(self, run_id: str) -> None:
        """Lease it."""
        ...

    async def park(self, run_id: str) -> None:
        """Take it out of the due order."""
        ...

    async def let_in(self, workflow: str, lane: str) -> Iterable[tuple[Level, Found]]:
        """Put the most urgent parked one of each kind back; those that the claim can take, with their levels."""
        ...


class Claiming:
    """One claim. `taken` and `begun` (workflow -> how many) say what it has done."""

    def __init__(self, queue: Queue, levels: Sequence[Level], limits: Iterable[Limit], now: int, limit: int) -> None:
        self._queue = queue
        self._levels = levels
        self._limits = {one.workflow: one for one in limits}
        self._now = now
        self._room = max(limit, 0)
        self._heap: list[_Entry] = []
        self._left: dict[str, int] = {}  # runs of a limited workflow that may still be taken
        self._starts: dict[str, int] = {}  # those of them that nobody has held yet
        self._again: dict[str, int] = {}  # when more may begin
        self._in_lane: dict[tuple[str, str], int | None] = {}
        self._parked = 0
        self._met: set[str] = set()
        self._numbers = count()
        self.taken: list[str] = []
        self.begun: dict[str, int] = {}

    async def perform(self) -> int | None:
        """Take what is due; when the next run that this claim could take is due."""
        for name in sorted({level.workflow for level in self._levels} & self._limits.keys()):
            await self._measure(self._limits[name])
        for level in self._levels if self._room else ():
            await self._push(level, iter(()))
        while self._heap and len(self.taken) < self._room:
            _, _, _, run_id, _, lane, level, rest = heappop(self._heap)
            if not self._open(level):
                continue
            if self._parked >= PARK:
                return self._now
            if run_id not in self._met:
                self._met.add(run_id)
                await self._meet(run_id, lane, level)
            if rest is not None:
                await self._push(level, rest)
        return await self._next_at()

    async def _measure(self, limit: Limit) -> None:
        name = limit.workflow
        bounds = [] if limit.room is None else [limit.room]
        if limit.concurrency is not None:
            bounds.append(limit.concurrency - await self._queue.held(name, limit.concurrency))
        if bounds:
            self._left[name] = min(bounds)
        if limit.rate is not None:
            self._starts[name] = limit.rate[0] - sum([n for _, n in await self._queue.starts(name, self._now - limit.rate[1])])

    def _open(self, level: Level) -> bool:
        """Whether the limits of its workflow let runs of this level be taken."""
        name = level.workflow
        return self._left.get(name, 1) > 0 and (level.begun or self._starts.get(name, 1) > 0)

    async def _push(self, level: Level, rest: Iterator[Found]) -> None:
        if not self._open(level):
            return
        found = next(rest, None)
        if found is None:
            rest = iter([one for one in await self._queue.due(level) if one[1] not in self._met])
            found = next(rest, None)
        if found is not None:
            self._add(level, found, rest)

    def _add(self, level: Level, found: Found, rest: Iterator[Found] | None) -> None:
        wake_at, run_id, lane = found
        rank = wake_at - level.priority * MINUTE
        heappush(self._heap, (rank, -level.priority, level.place, run_id, next(self._numbers), lane, level, rest))

    async def _meet(self, run_id: str, lane: str, level: Level) -> None:
        name = level.workflow
        bound = self._limits[name].per_key if name in self._limits else None
        if lane and bound is not None:
            held = await self._held_in(name, lane, bound)
            if held is None:
                return
            if held >= bound:
                await self._queue.park(run_id)
                self._parked += 1
                return
        await self._queue.take(run_id)
        self.taken.append(run_id)
        if name in self._left:
            self._left[name] -= 1
        if not level.begun and name in self._starts:
            self._starts[name] -= 1
            self.begun[name] = self.begun.get(name, 0) + 1
        if lane:
            await self._took_in(name, lane, bound)

    async def _held_in(self, workflow: str, lane: str, bound: int) -> int | None:
        key = workflow, lane
        if key not in self._in_lane:
            self._in_lane[key] = await self._queue.held_in(workflow, lane, bound)
        return self._in_lane[key]

    async def _took_in(self, workflow: str, lane: str, bound: int | None) -> None:
        """There is one more in the lane; where there is room for another, let it in."""
        held = self._in_lane.get((workflow, lane))
        if held is not None:
            self._in_lane[workflow, lane] = held + 1
        if bound is None or (held is not None and held + 1 < bound):
            for level, found in await self._queue.let_in(workflow, lane):
                self._add(level, found, None)

    async def _next_at(self) -> int | None:
        waiting = [(level, await self._queue.next_at(level)) for level in self._levels if self._left.get(level.workflow, 1) > 0]
        for rank, _, _, run_id, _, _, level, rest in self._heap:
            if rest is None and run_id not in self._met and self._left.get(level.workflow, 1) > 0:  # it was let in
                waiting.append((level, rank + level.priority * MINUTE))
        times = [at if self._open(level) else max(at, await self._more_at(level.workflow)) for level, at in waiting if at is not None]
        return min(times, default=None)

    async def _more_at(self, workflow: str) -> int:
        """When a run of this workflow may begin again."""
        if workflow not in self._again:
            rate = self._limits[workflow].rate
            assert rate is not None, "it is the rate that holds it back"
            starts = list(await self._queue.starts(workflow, self._now - rate[1]))
            if workflow in self.begun:
                starts.append((slot_of(self._now, rate), self.begun[workflow]))
            self._again[workflow] = room_at(starts, rate)
        return self._again[workflow]


def room_at(starts: Starts, rate: tuple[int, int]) -> int:
    """When one more may begin, of those that the rate holds back."""
    count, period = rate
    over = sum([n for _, n in starts]) - (count - 1)
    for at, n in sorted(starts):
        over -= n
        if over <= 0:
            return at + period
    raise AssertionError("more have begun than the rate says")


def slot_of(now: int, rate: tuple[int, int]) -> int:
    """The instant that a start is counted at: itself, or a little later where there may be too many to tell them apart."""
    count, period = rate
    slot = 1 if count <= SLOTS else max(period // SLOTS, 1)
    return -(-now // slot) * slot


def wanted_of(codes: Iterable[Code]) -> dict[tuple[str, str], tuple[int, set[str]]]:
    """What a worker asks for, version by version, each with its place."""
    wanted: dict[tuple[str, str], tuple[int, set[str]]] = {}
    for workflow, version, shape in codes:
        wanted.setdefault((workflow, version), (len(wanted), set()))[1].add(shape)
    return wanted


def fits(shapes: Collection[str], misfits: Collection[str]) -> bool:
    """Whether there is code that the run fits."""
    return not misfits or any(shape not in misfits for shape in shapes)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine answers that never waits: that of a claim whose queue never does."""
    try:
        work.send(None)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    work.close()
    raise AssertionError("it waited")

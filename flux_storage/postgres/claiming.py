"""Claims that keep to limits, or meet lanes: several statements in a transaction (contract 23, 24).

One at a time of each limited workflow: it holds the workflow's lock (an advisory one, of the transaction), which comes before all others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flux.errors import LeaseLost, StorageUnavailable
from flux.storage import Claimed, Code, Limit

from ..queueing import Claiming, Found, Level, Starts, Wanted, fits, wanted_of
from .errors import is_refusal
from .lanes import count_start, let_in, number_of_lane
from .link import ANSWERING, Connection
from .rows import shapes_of, stored_of
from .runs import new_mark
from .schema import number_of

if TYPE_CHECKING:
    from .opened import Opened

PAUSE = 50_000  # microseconds until a claim looks again for what it finds locked


async def claim(o: Opened, worker: str, codes: Collection[Code], limit: int, limits: Collection[Limit]) -> Claimed:
    """Lease what is most urgent of what the limits allow. Raises LeaseLost."""
    mark, doubt = new_mark(), Doubt(o, worker)

    async def work(connection: Connection, _: bool) -> tuple[int, list[int], int | None, bool]:
        earlier = await doubt.resolve(connection, mark)
        if earlier:
            return o.earliest(), earlier, o.earliest(), True
        async with connection.transaction():
            look = Look(o, connection, worker, mark, codes, max(limit, 1), limits)
            levels = await look.begin()
            claiming = Claiming(look, levels, limits, look.now, limit)
            next_at = await claiming.perform()
            await look.flush()
            for one in limits:
                if one.rate is not None and one.workflow in claiming.begun:
                    await count_start(o, connection, one.workflow, claiming.begun[one.workflow], one.rate, look.now)
            doubt.sent = bool(claiming.taken)  # with the COMMIT that follows
        return look.now, [look.refs[run_id] for run_id in claiming.taken], next_at, look.moved

    now, refs, next_at, moved = await o.link.perform(work)
    now = o.saw(now)
    rows = await o.link.rows(o.sql.load_many, refs, worker, mark) if refs else []
    runs = {run.header.ref: run for run in map(stored_of, rows)}
    return Claimed([runs[ref] for ref in refs if ref in runs], patient(next_at, now, moved or limit <= 0), now)


def patient(next_at: int | None, now: int, busy: bool) -> int | None:
    """When to claim again. Who had room, and could do nothing with what is due, would find the same at once: a transaction of somebody's
    has locked it."""
    return now + PAUSE if next_at is not None and next_at <= now and not busy else next_at


class Doubt:
    """Whether a claim whose connection broke may have leased runs, or still may: it is sent once. A second would pass over what the
    first has locked, and nobody would know of those runs for as long as the worker lives (I15)."""

    def __init__(self, o: Opened, worker: str) -> None:
        self._o = o
        self._worker = worker
        self.sent = False

    def __enter__(self) -> None:
        """It is sent now."""
        self.sent = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """A server that refuses it has leased nothing."""
        if error is not None and is_refusal(error):
            self.sent = False

    async def resolve(self, connection: Connection, mark: int) -> list[int]:
        """What it has leased, if it was sent. Raises StorageUnavailable where that is not to be seen, so that the worker is given up."""
        if not self.sent:
            return []
        found = [row[0] for row in await connection.fetch(self._o.sql.leased, self._worker, mark, timeout=ANSWERING)]
        if not found:
            raise StorageUnavailable(f"{self._o.link.where}: the connection was lost in a claim, which may lease runs yet")
        return found


class Look:
    """A `flux_storage.queueing.Queue`. What it finds is locked; what is taken or parked is written with `flush`."""

    def __init__(
        self, o: Opened, connection: Connection, worker: str, mark: int, codes: Collection[Code], size: int, limits: Iterable[Limit]
    ) -> None:
        self._o = o
        self._connection = connection
        self._worker = worker
        self._mark = mark
        self._wanted: Wanted = wanted_of(codes)
        self._size = size
        self._limits = {one.workflow: one for one in limits}
        self._unfit: dict[tuple[str, str], str] = {}  # (version and) misfits -> as they stand in the index
        self._through: set[Level] = set()
        self._known: dict[tuple[str, str], int | None] = {}  # how many of a lane are held; None: its lock was not to be had
        self._taken: list[int] = []
        self._parked: list[int] = []
        self.refs: dict[str, int] = {}
        self.now = 0
        self.moved = False  # whether anything was taken or parked

    async def begin(self) -> list[Level]:
        """Where runs may be due that one of the wanted shapes fits. Raises LeaseLost."""
        o = self._o
        numbers = sorted({number_of("queue", o.home, workflow) for workflow in self._limits})
        if numbers:
            await self._connection.execute(o.sql.lock_numbers, numbers, timeout=ANSWERING)
        places = [place for place, _ in self._wanted.values()]
        versions = list(self._wanted)
        rows = await self._fetch(o.sql.levels, o.earliest(), places, [w for w, _ in versions], [v for _, v in versions], self._worker)
        self.now = rows[0]["now"]
        if not rows[0]["live"]:
            raise LeaseLost(f"worker {self._worker!r} is not registered, or was condemned")
        levels = [self._level(row["place"], row) for row in rows if row["place"] is not None]
        return [level for level in levels if fits(self._wanted[level.workflow, level.version][1], shapes_of(level.misfits))]

    def _level(self, place: int, row: Any) -> Level:
        self._unfit[row["version"], row["misfits"]] = row["unfit"]
        return Level(row["workflow"], row["version"], row["begun"], row["priority"], row["misfits"], place)

    def _key(self, level: Level) -> tuple[Any, ...]:
        return level.workflow, level.version, level.begun, level.priority, self._unfit[level.version, level.misfits]

    async def _fetch(self, text: str, *parameters: Any) -> list[Any]:
        rows: list[Any] = await self._connection.fetch(text, *parameters, timeout=ANSWERING)
        return rows

    async def flush(self) -> None:
        """Write what is taken and parked."""
        if self._taken:
            await self._connection.execute(self._o.sql.lease, self._worker, self._mark, self._taken, timeout=ANSWERING)
        if self._parked:
            await self._connection.execute(self._o.sql.park, self._parked, timeout=ANSWERING)
        self._taken, self._parked = [], []

    async def due(self, level: Level) -> Sequence[Found]:
        """The first due runs of a level."""
        if level in self._through:
            return ()
        await self.flush()
        rows = await self._fetch(self._o.sql.due, *self._key(level), self.now, self._size)
        if len(rows) < self._size:
            self._through.add(level)
        self.refs.update({row[2]: row[0] for row in rows})
        limit = self._limits.get(level.workflow)
        if limit is not None and limit.per_key is not None:
            await self._count(level.workflow, {row[3] for row in rows if row[3]}, limit.per_key)
        return [(row[1], row[2], row[3]) for row in rows]

    async def next_at(self, level: Level) -> int | None:
        """When the first of a level is due."""
        await self.flush()
        rows = await self._fetch(self._o.sql.next_of_level, *self._key(level))
        return rows[0][0] if rows else None

    async def held(self, workflow: str, limit: int) -> int:
        """How many runs of a workflow are held."""
        count: int = (await self._fetch(self._o.sql.held, workflow, limit))[0][0]
        return count

    async def held_in(self, workflow: str, lane: str, limit: int) -> int | None:
        """How many of a lane."""
        await self._count(workflow, {lane}, limit)
        return self._known[workflow, lane]

    async def _count(self, workflow: str, lanes: set[str], limit: int) -> None:
        """Lock these lanes, as far as nobody else has them, and then count."""
        new = sorted(lane for lane in lanes if (workflow, lane) not in self._known)
        if not new:
            return
        numbers = {lane: number_of_lane(self._o, lane) for lane in new}
        had = {row[0] for row in await self._fetch(self._o.sql.try_numbers, sorted(set(numbers.values())))}
        self._known.update({(workflow, lane): None for lane in new})
        rows = await self._fetch(self._o.sql.held_in, workflow, [lane for lane in new if numbers[lane] in had], limit)
        self._known.update({(workflow, row[0]): row[1] for row in rows})

    async def starts(self, workflow: str, since: int) -> Starts:
        """What has begun lately."""
        return [(row[0], row[1]) for row in await self._fetch(self._o.sql.starts, workflow, since)]

    async def take(self, run_id: str) -> None:
        """Lease it."""
        self.moved = True
        self._taken.append(self.refs[run_id])

    async def park(self, run_id: str) -> None:
        """Take it out of the due order."""
        self.moved = True
        self._parked.append(self.refs[run_id])

    async def let_in(self, workflow: str, lane: str) -> Iterable[tuple[Level, Found]]:
        """Put parked ones back."""
        await self.flush()
        found: list[tuple[Level, Found]] = []
        for row in await let_in(self._o, self._connection, [(workflow, lane)]):
            place, shapes = self._wanted.get((workflow, row["version"]), (-1, ()))
            if place >= 0 and fits(shapes, shapes_of(row["misfits"])):
                self.refs[row["run_id"]] = row["ref"]
                found.append((self._level(place, row), (row["wake_at"], row["run_id"], lane)))
        return found

"""Makes the runs of schedules, when they are due (I21). Every worker has a ticker; of several that try, the storage lets one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.status import TERMINAL
from ..errors import FluxError, StorageUnavailable, UnreadableRun
from ..schedules import LATE, Rule, read_rule, run_id
from ..storage import NewPosting, NewRun, Outgoing
from ..storage import Schedule as Stored
from .beginning import begin
from .lists import LATEST
from .questions import write_cancel

if TYPE_CHECKING:
    from .host import Host

logger = logging.getLogger("flux.engine")

BATCH = 100  # runs made in one transaction
BATCH_SIZE = 4_000_000  # characters of their inputs together, at most
SEEN = 100  # schedules looked at in one query, unless they are not enough
REST = 100  # how many times as long as a look took it is rested before a change alone leads to another
LONGEST_REST = 1.0  # seconds
QUIET = 20  # polls without a known change after which it is looked all the same


class Ticker:
    """Looks at the schedules whose workflow is registered here, at the next tick and whenever something has changed.

    What cannot be ticked (a rule of a newer flux, a time zone that this machine lacks) is told once and left alone.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._wake = asyncio.Event()
        self._changed = False
        self._resting = False
        self._quiet = 0  # polls since the last look
        self._next_at: int | None = None
        self._registered = 0
        self._seen = SEEN
        self._left: dict[str, int] = {}  # name -> the revision that is left alone
        self._refused: dict[str, int] = {}  # name -> the revision from which it did not advance
        self._told: dict[str, int] = {}  # name -> the revision that waits for code

    def hint(self) -> None:
        """Something has changed: perhaps a schedule."""
        self._changed = True
        if not self._resting:
            self._wake.set()

    def poll(self) -> None:
        """Half a second has passed without a change that is known of: look all the same, now and then, or where the clock was put on."""
        self._quiet += 1
        overdue = self._next_at is not None and self._next_at <= self._host.now()
        if overdue or self._quiet >= QUIET or self._registered != self._host.registry.changes:
            self.hint()

    async def run(self) -> None:
        """Until cancelled."""
        clock = self._host.clock
        while True:
            self._wake.clear()
            self._changed, self._resting = False, True
            began = clock.monotonic()
            self._registered = self._host.registry.changes
            self._next_at = next_at = await self._look_safely()
            if next_at is not None and next_at <= self._host.now():
                continue
            # A storage that is written to all the time changes all the time: looking takes one percent of the time.
            timers = [clock.poll_later(min(REST * (clock.monotonic() - began), LONGEST_REST), self._rested)]
            if next_at is not None:
                timers.append(clock.call_later((next_at - self._host.now()) / 1_000_000, self._wake.set))
            try:
                await self._wake.wait()
            finally:
                for timer in timers:
                    timer.cancel()

    def _rested(self) -> None:
        self._resting = False
        if self._changed:
            self._wake.set()

    async def _look_safely(self) -> int | None:
        try:
            next_at = await self._look()
            self._quiet = 0
            return next_at
        except FluxError as error:
            logger.warning("the storage does not tell of schedules (%s); asking again", error)
            self._quiet = QUIET
        except Exception:
            logger.exception("schedules could not be looked at; trying again")
            self._quiet = QUIET
        return None

    async def _look(self) -> int | None:
        """Tick what is due; when the next tick of all is."""
        now = self._host.now()
        upcoming: int | None = None
        for row in await self._mine(now):
            next_at = row.next_at
            if next_at is not None and next_at <= now:
                next_at = await self._tick_safely(row, now)
            if next_at is not None:
                upcoming = next_at if upcoming is None else min(upcoming, next_at)
        return upcoming

    async def _mine(self, now: int) -> list[Stored]:
        """The schedules to tick here that are due, and at least the next one to come; the earliest first."""
        while True:
            rows = await self._host.storage.schedules(due=LATEST, limit=self._seen)
            mine = [row for row in rows if self._is_mine(row, now)]
            if len(rows) < self._seen or (mine and (mine[-1].next_at or 0) > now):
                return mine
            self._seen *= 4

    def _is_mine(self, row: Stored, now: int) -> bool:
        if self._left.get(row.name) == row.revision:
            return False
        registry = self._host.registry
        if registry.get(row.workflow, row.version) is not None:
            return True
        known = any(name == row.workflow for name, _, _ in registry.codes())
        if known and (row.next_at or now) < now - LATE and self._told.get(row.name) != row.revision:
            self._told[row.name] = row.revision
            logger.warning(
                "schedule %s is due, and waits for a worker that has version %s of workflow %s; engine.schedule() moves it to another",
                row.name, row.version, row.workflow,
            )  # fmt: skip
        return False

    async def _tick_safely(self, row: Stored, now: int) -> int | None:
        """Tick one; its next tick, None where it is left alone. One that cannot be ticked is in no other's way (S15.2)."""
        try:
            return await self._host.own(self._tick(row, now))
        except StorageUnavailable:
            raise
        except Exception as error:
            self._leave(row, f"{type(error).__name__}: {error}")
            return None

    async def _tick(self, row: Stored, now: int) -> int | None:
        """Make the runs of the ticks that are due, in one transaction with the schedule's next one."""
        rule = read_rule(row.rule)
        room = max(1, min(BATCH, BATCH_SIZE // len(rule.input or " ")))
        ticks, next_at = rule.due(row.next_at or now, now, room)
        busy = bool(ticks) and rule.overlap == "skip" and await self._goes_on(row.last_run)
        runs: list[NewRun] = []
        posts: list[Outgoing] = []
        last_at, last_run = row.last_at, row.last_run
        for tick in ticks:
            if busy:
                continue
            if rule.overlap == "cancel" and last_run:
                posts.append(_cancel(row.name, last_run))
            last_at, last_run = tick, run_id(row.name, tick)
            runs.append(draft(self._host, row, rule, last_run))
            busy = rule.overlap == "skip"
        skipped = rule.skipped + len(ticks) - len(runs)
        text = row.rule if skipped == rule.skipped else replace(rule, skipped=skipped).write()
        after = replace(row, rule=text, next_at=next_at, last_at=last_at, last_run=last_run)
        if not await self._host.storage.advance(after, runs, posts):
            return self._lost(row, now)
        tell(self._host, runs)
        return next_at

    async def _goes_on(self, run_id: str) -> bool:
        """Whether the last run has not ended."""
        try:
            header = await self._host.storage.read_header(run_id) if run_id else None
        except UnreadableRun:
            return False
        return header is not None and header.status not in TERMINAL

    def _lost(self, row: Stored, now: int) -> int | None:
        """Another was first, or has changed it: look again. If it is still as it was then, it does not advance at all."""
        if self._refused.get(row.name) == row.revision:
            self._leave(row, "its row cannot be changed")
            return None
        self._refused[row.name] = row.revision
        return now

    def _leave(self, row: Stored, why: str) -> None:
        self._left[row.name] = row.revision
        logger.error("schedule %s makes no runs here: %s", row.name, why)


def draft(host: Host, row: Stored, rule: Rule, run_id: str) -> NewRun:
    """A run of this schedule, to be stored. Raises UnknownWorkflow."""
    bound = host.registry.require(row.workflow, row.version)
    return begin(bound, run_id, rule.input, host.now(), host.draw, priority=rule.priority)[1]


def tell(host: Host, runs: Sequence[NewRun]) -> None:
    """Tell the hooks that these have begun."""
    if host.hooks is not None:
        for new in runs:
            host.hooks.publish((new.workflow, new.version), new.run_id, new.records, new.at)


def _cancel(name: str, run_id: str) -> Outgoing:
    return Outgoing(run_id, NewPosting("cancel", "cancel", write_cancel(f"schedule {name!r} has begun the next run", True, False)))

"""Schedules as callers have them: made, looked at, changed, forgotten. Their runs are made by workers: see ticking.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..core.workflow import MISSING
from ..errors import EngineClosed, ScheduleNotFound, UnreadableSchedule
from ..schedules import Rule, check_schedule_name, make_rule, read_rule, run_id
from ..storage import NewRun, WorkflowStorage
from ..storage import Schedule as Stored
from .beginning import check_priority
from .instants import to_datetime
from .ticking import draft, tell

if TYPE_CHECKING:
    from .host import Host
    from .registry import Bound

TRIES = 100  # changes that may come in between, before a schedule is taken for one that cannot be changed
PAGE = 500

CatchUp: TypeAlias = Literal["skip", "one", "all"]
Overlap: TypeAlias = Literal["allow", "skip", "cancel"]
Edit: TypeAlias = Callable[[Stored | None], tuple[Stored, Sequence[NewRun]]]  # what is to become of it; the same object: nothing


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it stood when it was looked at; its methods change it, and give it as it stands then.

    `cron` with its `timezone`, or `every`. `next_run_at` is None while it is paused, and when its cron names no more times.
    `last_run_at` is the instant for which the run `last_run_id` was made. `skipped` counts the ticks that made no run because the last
    one had not ended (`overlap="skip"`). `error` says why it cannot be read here: then it makes no runs, and can only be deleted.
    """

    name: str
    workflow: str
    version: str
    cron: str | None
    every: timedelta | None
    timezone: str
    catch_up: str
    overlap: str
    priority: int
    paused: bool
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_run_id: str | None
    skipped: int
    error: str | None
    _input: str = field(repr=False)
    _keeper: Schedules = field(repr=False, compare=False)

    @property
    def input(self) -> Any:
        """What its runs are given."""
        return self._keeper.decode(self._input) if self._input else None

    async def pause(self) -> Schedule:
        """Make no more runs until `resume`. Raises ScheduleNotFound."""
        return await self._keeper.pause(self.name)

    async def resume(self) -> Schedule:
        """Go on with the next tick from now; those of the meantime are not made up for. Raises ScheduleNotFound."""
        return await self._keeper.resume(self.name)

    async def update(
        self,
        *,
        cron: str | None = None,
        every: float | timedelta | None = None,
        timezone: Any = None,
        input: Any = MISSING,
        catch_up: CatchUp | None = None,
        overlap: Overlap | None = None,
        priority: int | None = None,
    ) -> Schedule:
        """Change what is named. Other times count from now, and an interval begins anew. Raises as `engine.schedule`, ScheduleNotFound,
        and UnknownWorkflow when there is an `input` for a workflow that is not registered here."""
        named = {"cron": cron, "every": every, "timezone": timezone, "catch_up": catch_up, "overlap": overlap, "priority": priority}
        return await self._keeper.update(self.name, {what: value for what, value in named.items() if value is not None}, input)

    async def trigger(self) -> Schedule:
        """Make a run now, whatever its times and `overlap` say, also while it is paused; `last_run_id` is its id. A worker takes it up.

        Raises ScheduleNotFound, and UnknownWorkflow when its workflow is not registered here.
        """
        return await self._keeper.trigger(self.name)

    async def delete(self) -> None:
        """Forget it. Runs that it made stay. Raises ScheduleNotFound."""
        await self._keeper.delete(self.name)


class Schedules:
    """The schedules of one engine's storage."""

    def __init__(self, host: Host) -> None:
        self._host = host

    # --- making and finding

    async def declare(self, name: str, bound: Bound, input: Any, priority: int, asked: dict[str, Any]) -> Schedule:
        """Make it, or let the one that is there be this; one that is this already stays as it is, also paused."""
        check_schedule_name(name)
        check_priority(priority)
        text = bound.write_input(input)
        rule = make_rule(**asked, input=text, priority=priority, now=self._host.now())
        workflow, version = bound.key

        def edit(row: Stored | None) -> tuple[Stored, Sequence[NewRun]]:
            if row is None:
                return Stored(name, workflow, version, rule.write(), rule.after(self._host.now())), ()
            return self._change_to(replace(row, workflow=workflow, version=version), self._read(row), rule), ()

        return await self._edit(name, edit)

    async def get(self, name: str) -> Schedule:
        """Raises ScheduleNotFound."""
        return self._view(_there(name, await self._find(check_schedule_name(name))))

    async def all(self) -> list[Schedule]:
        """By name."""
        found: list[Stored] = []
        page = await self._storage.schedules(limit=PAGE)
        while page:
            found += page
            page = await self._storage.schedules(limit=PAGE, after=page[-1].name) if len(page) == PAGE else []
        return [self._view(row) for row in found]

    def decode(self, text: str) -> Any:
        """An input."""
        return self._host.codec.decode(text)

    # --- changing

    async def pause(self, name: str) -> Schedule:
        """Without a next tick."""

        def edit(row: Stored, rule: Rule) -> Stored:
            return row if rule.paused else replace(row, rule=replace(rule, paused=True).write(), next_at=None)

        return await self._edit(name, self._of_one_that_is_there(name, edit))

    async def resume(self, name: str) -> Schedule:
        """With the next tick from now."""

        def edit(row: Stored, rule: Rule) -> Stored:
            if not rule.paused:
                return row
            return replace(row, rule=replace(rule, paused=False).write(), next_at=rule.after(self._from(row)))

        return await self._edit(name, self._of_one_that_is_there(name, edit))

    async def update(self, name: str, named: dict[str, Any], input: Any) -> Schedule:
        """With what is named, and the rest as it is."""
        check_priority(named.get("priority", 0))

        def edit(row: Stored, rule: Rule) -> Stored:
            text = rule.input
            if input is not MISSING:
                text = self._host.registry.require(row.workflow, row.version).write_input(input)
            options = _options(rule) | named
            if "cron" in named or "every" in named:
                options |= {"cron": named.get("cron"), "every": named.get("every")}
                if "timezone" not in named and named.get("every") is not None:
                    options["timezone"] = "UTC"
            return self._change_to(row, rule, make_rule(**options, input=text, now=self._host.now()))

        return await self._edit(name, self._of_one_that_is_there(name, edit))

    async def trigger(self, name: str) -> Schedule:
        """With a run more."""

        now = self._host.now()
        while await self._storage.read_header(run_id(name, now, triggered=True)) is not None:
            now += 1  # triggered in this instant, before a tick was made for an earlier one

        def edit(found: Stored | None) -> tuple[Stored, Sequence[NewRun]]:
            row = _there(name, found)
            rule = self._read(row)
            at = now if row.last_at is None else max(now, row.last_at + 1)  # two in one instant are two runs, with two ids
            new = draft(self._host, row, rule, run_id(name, at, triggered=True))
            return replace(row, last_at=at, last_run=new.run_id), (new,)

        return await self._edit(name, edit)

    async def delete(self, name: str) -> None:
        """Raises ScheduleNotFound."""
        if not await self._storage.unschedule(name):
            _there(name, None)

    # --- small parts

    @property
    def _storage(self) -> WorkflowStorage:
        if not self._host.is_open:
            raise EngineClosed("the engine of this schedule is not open")
        return self._host.storage

    async def _find(self, name: str) -> Stored | None:
        found = await self._storage.schedules(name)
        return found[0] if found else None

    async def _edit(self, name: str, edit: Edit) -> Schedule:
        """Change what is there, whoever else changes it meanwhile."""
        for _ in range(TRIES):
            seen = await self._find(name)
            row, runs = edit(seen)
            if row == seen:
                return self._view(row)
            if await self._storage.advance(row, runs):
                tell(self._host, runs)
                return self._view(row)
        raise UnreadableSchedule(f"schedule {name!r} cannot be changed: its row is damaged; delete it and make it again")

    def _of_one_that_is_there(self, name: str, edit: Callable[[Stored, Rule], Stored]) -> Edit:
        def whole(found: Stored | None) -> tuple[Stored, Sequence[NewRun]]:
            row = _there(name, found)
            return edit(row, self._read(row)), ()

        return whole

    def _change_to(self, row: Stored, old: Rule, new: Rule) -> Stored:
        """With another rule. The next tick stays, unless the times are others."""
        new = replace(new, paused=old.paused, skipped=old.skipped)
        if new.same_times(old):
            return replace(row, rule=replace(new, anchor=old.anchor).write())
        return replace(row, rule=new.write(), next_at=None if new.paused else new.after(self._from(row)))

    def _from(self, row: Stored) -> int:
        """Whence to look for the next tick: the last one is not given again, whatever the clock says."""
        return max(self._host.now(), row.last_at or 0)

    def _read(self, row: Stored) -> Rule:
        try:
            return read_rule(row.rule)
        except UnreadableSchedule as error:
            raise UnreadableSchedule(f"schedule {row.name!r}: {error}; delete it and make it again") from None

    def _view(self, row: Stored) -> Schedule:
        head = row.name, row.workflow, row.version
        runs = to_datetime(row.next_at), to_datetime(row.last_at), row.last_run or None
        try:
            rule = read_rule(row.rule)
        except UnreadableSchedule as error:
            return Schedule(*head, None, None, "", "", "", 0, False, *runs, 0, str(error), "", self)
        every = None if rule.every is None else timedelta(microseconds=rule.every)
        return Schedule(
            *head, rule.cron, every, rule.timezone, rule.catch_up, rule.overlap, rule.priority, rule.paused, *runs,
            rule.skipped, None, rule.input, self,
        )  # fmt: skip


def _there(name: str, row: Stored | None) -> Stored:
    if row is None:
        raise ScheduleNotFound(f"no schedule {name!r} in this storage")
    return row


def _options(rule: Rule) -> dict[str, Any]:
    return {
        "cron": rule.cron,
        "every": None if rule.every is None else timedelta(microseconds=rule.every),
        "timezone": rule.timezone,
        "catch_up": rule.catch_up,
        "overlap": rule.overlap,
        "priority": rule.priority,
    }

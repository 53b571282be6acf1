"""When schedules tick: cron expressions and intervals, and what becomes of ticks that were missed. Pure: it is told what time it is.

A *tick* is a nominal instant at which a schedule starts a run, in microseconds UTC.

A cron's times are those of the clock on the wall in its time zone. When that clock is put forward or back:

- a cron whose minutes or hours begin with `*` ticks whenever the clock shows such a time: not in an hour that is skipped, and
  again in one that comes again;
- any other, which names its times, ticks once for each: for one that is skipped at the moment when the clock is put forward
  (once for all that are skipped then), and for one that comes twice the first time.

That is the rule of Debian's cron. `cronsim` reads the expression and finds the times on the wall; from there to instants is here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from .core.retry import SECOND
from .durations import from_datetime, to_microseconds
from .errors import InvalidArgument, UnreadableSchedule
from .labels import shown
from .names import check_id

FORMAT = 1
LATE = 60 * SECOND  # a tick that nobody has looked at for so long was missed
LONGEST_NAME = 160  # characters; the id of a run is the name and an instant
LONGEST_CRON = 200  # characters
POLICIES: Final = {"catch_up": ("skip", "one", "all"), "overlap": ("allow", "skip", "cancel")}

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TRIGGERED = "/trigger"
_RUN_ID = re.compile(rf".+@(\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{{6}})?)Z(?:{_TRIGGERED})?")
_SHORTHANDS = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """What a schedule does, as it is stored: either `cron` and its `timezone`, or `every` microseconds from `anchor`; and the encoded
    input of its runs. `skipped` counts the ticks that made no run because the last one had not ended."""

    cron: str | None
    timezone: str
    every: int | None
    anchor: int
    input: str
    catch_up: str
    overlap: str
    priority: int
    paused: bool = False
    skipped: int = 0

    def after(self, at: int) -> int | None:
        """The first tick after this instant, None where there is none in 50 years. Raises InvalidArgument when the cron or its time
        zone is not known here."""
        if self.every is not None:
            return self.anchor + (max((at - self.anchor) // self.every, 0) + 1) * self.every
        found = _times(self.cron or "", self.timezone).after(_EPOCH + timedelta(microseconds=at))
        return None if found is None else from_datetime(found, "a tick")

    def latest(self, first: int, until: int) -> int:
        """The last tick up to `until`, where `first` is one."""
        before, behind = first, until + 1
        if self._next_is_behind(before, until):
            return first
        # The tick after `before` is in time, the one after `behind` is not: halve what is between.
        while behind - before > 1:
            middle = (before + behind) // 2
            if self._next_is_behind(middle, until):
                behind = middle
            else:
                before = middle
        return self.after(before) or first

    def _next_is_behind(self, at: int, until: int) -> bool:
        found = self.after(at)
        return found is None or found > until

    def due(self, first: int, now: int, limit: int) -> tuple[list[int], int | None]:
        """Which ticks from `first` to now make a run, at most `limit`, and the tick after them, which may be due as well.

        Those of the last minute do. Older ones were missed: none of them does, or the latest, or all, as `catch_up` says.
        """
        ticks: list[int] = []
        at: int | None = first
        if self.catch_up != "all" and first < now - LATE:
            last = self.latest(first, now - LATE - 1)
            if self.catch_up == "one":
                ticks.append(last)
            at = self.after(last)
        while at is not None and at <= now and len(ticks) < limit:
            ticks.append(at)
            at = self.after(at)
        return ticks, at

    def same_times(self, other: Rule) -> bool:
        """Whether both tick at the same instants, wherever an interval began."""
        return (self.cron, self.timezone, self.every) == (other.cron, other.timezone, other.every)

    def write(self) -> str:
        """As JSON."""
        return json.dumps({"format": FORMAT, **{one.name: getattr(self, one.name) for one in fields(self)}})


def make_rule(*, cron: Any, every: Any, timezone: Any, input: str, catch_up: Any, overlap: Any, priority: int, now: int) -> Rule:
    """The rule that a caller describes; an interval begins at the next whole second from `now`. Raises InvalidArgument."""
    if (cron is None) == (every is None):
        raise InvalidArgument("a schedule has either cron= or every=: give one of them")
    for what, value in (("catch_up", catch_up), ("overlap", overlap)):
        if not isinstance(value, str) or value not in POLICIES[what]:
            raise InvalidArgument(f"{what} is one of {', '.join(map(repr, POLICIES[what]))}, got {shown(value)}")
    zone = timezone.key if isinstance(timezone, ZoneInfo) else timezone
    if every is not None:
        if zone != "UTC":
            raise InvalidArgument(f"timezone= is for cron=, an interval has none, got {shown(timezone)}")
        micros = to_microseconds(every, "every")
        if micros < SECOND:
            raise InvalidArgument(f"every must be at least a second, got {shown(every)}")
        return Rule(None, zone, micros, -(-now // SECOND) * SECOND, input, catch_up, overlap, priority)
    rule = Rule(_clean(cron), _zone(zone).key, None, 0, input, catch_up, overlap, priority)
    if rule.after(now) is None:
        raise InvalidArgument(f"cron {shown(cron)} names no time in the next 50 years")
    return rule


def read_rule(text: object) -> Rule:
    """What `Rule.write` wrote. Raises UnreadableSchedule."""
    try:
        told: Any = json.loads(text) if isinstance(text, str) else None
        if told["format"] != FORMAT:
            raise UnreadableSchedule(f"it is of format {shown(told['format'])}, and this flux reads {FORMAT}: is it of a newer one?")
        rule = Rule(**{one.name: told[one.name] for one in fields(Rule)})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnreadableSchedule(f"its rule cannot be read: {type(error).__name__}") from error
    if not _makes_sense(rule):
        raise UnreadableSchedule("its rule makes no sense")
    return rule


def _makes_sense(rule: Rule) -> bool:
    counts = (rule.anchor, rule.priority, rule.skipped)
    times = type(rule.every) is int and rule.every >= SECOND if rule.cron is None else isinstance(rule.cron, str) and rule.every is None
    texts = all(isinstance(text, str) for text in (rule.timezone, rule.input))
    policies = rule.catch_up in POLICIES["catch_up"] and rule.overlap in POLICIES["overlap"]
    return times and texts and policies and type(rule.paused) is bool and all(type(count) is int for count in counts)


# --- the ids of the runs


def check_schedule_name(value: object) -> str:
    """The name of a schedule: as an id, and shorter. Raises InvalidArgument."""
    name = check_id(value, "schedule name")
    if len(name) > LONGEST_NAME:
        raise InvalidArgument(f"a schedule's name has at most {LONGEST_NAME} characters, got {len(name)}")
    return name


def run_id(name: str, at: int, *, triggered: bool = False) -> str:
    """The id of the run of a tick: `nightly@2026-03-29T01:00:00Z`. One for each schedule and nominal instant (I21)."""
    return f"{name}@{(_EPOCH + timedelta(microseconds=at)).replace(tzinfo=None).isoformat()}Z{_TRIGGERED if triggered else ''}"


def scheduled_at(run_id: str) -> datetime | None:
    """The instant for which a schedule made this run, an aware datetime in UTC: `flux.scheduled_at(ctx.run_id)`. None for a run whose
    id is not one that a schedule gives."""
    found = _RUN_ID.fullmatch(run_id)
    try:
        return None if found is None else datetime.fromisoformat(found[1]).replace(tzinfo=timezone.utc)
    except ValueError:
        return None


# --- times of a cron


def _clean(cron: object) -> str:
    """The five fields, one blank apart. Raises InvalidArgument."""
    if not isinstance(cron, str) or len(cron) > LONGEST_CRON:
        raise InvalidArgument(f"cron is a text such as '0 2 * * *', at most {LONGEST_CRON} characters, got {shown(cron)}")
    text = _SHORTHANDS.get(cron.strip().lower()) or " ".join(cron.split())
    if len(text.split()) != 5:
        raise InvalidArgument(f"cron {shown(cron)} is refused: expected five fields (minute hour day month weekday), such as '0 2 * * *'")
    _sim(text, datetime(2000, 1, 1))
    return text


def _sim(cron: str, wall: datetime) -> Iterator[datetime]:
    """The times on the wall that a cron names, after this one. Raises InvalidArgument."""
    # Imported here because it is an extra, which only a cron needs.
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise InvalidArgument("cron= needs the package cronsim: pip install 'flux-durable[cron]'") from None
    try:
        return CronSim(cron, wall)
    except (CronSimError, ValueError) as error:
        raise InvalidArgument(
            f"cron {shown(cron)} is refused: {error}; expected minute hour day month weekday, such as '0 2 * * *'"
        ) from None


def _zone(key: object) -> ZoneInfo:
    """A time zone by its name. Raises InvalidArgument."""
    try:
        if not isinstance(key, str):
            raise ValueError("no text")
        return ZoneInfo(key)
    except (KeyError, ValueError, OSError):
        raise InvalidArgument(
            f"time zone {shown(key)} is not known here: expected a name such as 'UTC' or 'Europe/Berlin' "
            "(a system without time zones needs the package tzdata)"
        ) from None


class _Times:
    """The instants of a cron in a time zone."""

    def __init__(self, cron: str, zone: ZoneInfo) -> None:
        self._cron = cron
        self._zone = zone
        minutes, hours = cron.split()[:2]
        self._often = minutes.startswith("*") or hours.startswith("*")
        self._instants: Callable[[datetime], list[datetime]] = self._shown_at if self._often else self._meant_by

    def after(self, at: datetime) -> datetime | None:
        """The first instant after this one (both in UTC)."""
        local = at.astimezone(self._zone)
        wall = local.replace(tzinfo=None, fold=0)
        first, second = self._offsets(wall)
        # The clock will be put back over this very time: times up to now come again, but first those that are left until then.
        again = self._often and first > second and local.fold == 0
        best: datetime | None = None
        for shown_time in self._walls(wall - (first - second) if again else wall):
            instants = self._instants(shown_time)
            if best is not None and instants and instants[0] >= best:
                break
            later = [instant for instant in instants if instant > at]
            if later and (best is None or later[0] < best):
                best = later[0]
                if not again:
                    break
        return best

    def _walls(self, after: datetime) -> Iterator[datetime]:
        times = _sim(self._cron, after)
        while True:
            try:
                yield next(times)
            except (StopIteration, OverflowError, ValueError):  # none in 50 years, or no such year
                return

    def _shown_at(self, wall: datetime) -> list[datetime]:
        """When the clock shows this time: never, once or twice."""
        first, second = self._offsets(wall)
        if first < second:
            return []
        return [_utc(wall, first), _utc(wall, second)] if first > second else [_utc(wall, first)]

    def _meant_by(self, wall: datetime) -> list[datetime]:
        """The one instant that is meant by this time."""
        first, second = self._offsets(wall)
        return [self._leap(_utc(wall, second), _utc(wall, first)) if first < second else _utc(wall, first)]

    def _offsets(self, wall: datetime) -> tuple[timedelta, timedelta]:
        """From UTC, with the rule before and behind a change of the clock: the first is less where the time is skipped, and more where
        it comes twice."""
        before = wall.replace(tzinfo=self._zone).utcoffset()
        behind = wall.replace(tzinfo=self._zone, fold=1).utcoffset()
        return before or timedelta(0), behind or timedelta(0)

    def _leap(self, before: datetime, behind: datetime) -> datetime:
        """When the clock is put forward, between these two."""
        new = behind.astimezone(self._zone).utcoffset()
        while behind - before > timedelta(seconds=1):
            middle = before + timedelta(seconds=(behind - before) // timedelta(seconds=2))
            if middle.astimezone(self._zone).utcoffset() == new:
                behind = middle
            else:
                before = middle
        return behind


@lru_cache(maxsize=256)
def _times(cron: str, zone: str) -> _Times:
    if len(cron.split()) != 5:
        raise InvalidArgument(f"cron {shown(cron)} has not five fields")
    return _Times(cron, _zone(zone))


def _utc(wall: datetime, offset: timedelta) -> datetime:
    return (wall - offset).replace(tzinfo=timezone.utc)

"""When schedules tick."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from flux import InvalidArgument, UnreadableSchedule, scheduled_at
from flux.names import check_id
from flux.schedules import LATE, LONGEST_NAME, Rule, check_schedule_name, make_rule, read_rule, run_id

UTC = timezone.utc
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND, MINUTE = 1_000_000, 60_000_000
START = datetime(2026, 1, 1, tzinfo=UTC)


def micros(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def at(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def rule(cron: Any = None, *, every: Any = None, zone: Any = "UTC", now: datetime = START, **more: Any) -> Rule:
    options: dict[str, Any] = {"input": "null", "catch_up": "one", "overlap": "allow", "priority": 0} | more
    return make_rule(cron=cron, every=every, timezone=zone, now=micros(now), **options)


def ticks(rule: Rule, after: datetime, before: datetime) -> list[datetime]:
    """All between the two."""
    found: list[datetime] = []
    next_at = rule.after(micros(after))
    while next_at is not None and at(next_at) < before:
        found.append(at(next_at))
        next_at = rule.after(next_at)
    return found


def shown(cron: str, zone: str, after: str, before: str) -> list[str]:
    """The ticks between two instants (UTC), as a clock in that zone and one in UTC show them."""
    limits = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (after, before)]
    found = ticks(rule(cron, zone=zone), *limits)
    return [f"{one.astimezone(ZoneInfo(zone)):%d %H:%M} = {one:%H:%M}" for one in found]


# --- daylight saving time, in examples


BERLIN_SPRING = ("Europe/Berlin", "2026-03-28T22:00", "2026-03-30T01:00")  # 02:00 -> 03:00 on the 29th, at 01:00 UTC
BERLIN_AUTUMN = ("Europe/Berlin", "2026-10-24T21:00", "2026-10-26T02:00")  # 03:00 -> 02:00 on the 25th, at 01:00 UTC
NEW_YORK_SPRING = ("America/New_York", "2026-03-08T04:00", "2026-03-09T07:00")  # 02:00 -> 03:00 on the 8th, at 07:00 UTC
NEW_YORK_AUTUMN = ("America/New_York", "2026-11-01T03:00", "2026-11-02T08:00")  # 02:00 -> 01:00 on the 1st, at 06:00 UTC
LORD_HOWE_SPRING = ("Australia/Lord_Howe", "2026-10-03T12:00", "2026-10-04T18:00")  # 02:00 -> 02:30 on the 4th, at 15:30 UTC
LORD_HOWE_AUTUMN = ("Australia/Lord_Howe", "2026-04-04T12:00", "2026-04-05T18:00")  # 02:00 -> 01:30 on the 5th, at 15:00 UTC


@pytest.mark.parametrize(
    ("cron", "change", "expected"),
    [
        # times that are named: once each
        ("30 2 * * *", BERLIN_SPRING, ["29 03:00 = 01:00", "30 02:30 = 00:30"]),
        ("0,30 2,3 * * *", BERLIN_SPRING, ["29 03:00 = 01:00", "29 03:30 = 01:30", "30 02:00 = 00:00", "30 02:30 = 00:30"]),
        ("30 1,3 * * *", BERLIN_SPRING, ["29 01:30 = 00:30", "29 03:30 = 01:30", "30 01:30 = 23:30"]),
        ("30 2 * * *", BERLIN_AUTUMN, ["25 02:30 = 00:30", "26 02:30 = 01:30"]),
        ("0 2,3 * * *", BERLIN_AUTUMN, ["25 02:00 = 00:00", "25 03:00 = 02:00", "26 02:00 = 01:00"]),
        ("30 2 * * *", NEW_YORK_SPRING, ["08 03:00 = 07:00", "09 02:30 = 06:30"]),
        ("30 1 * * *", NEW_YORK_AUTUMN, ["01 01:30 = 05:30", "02 01:30 = 06:30"]),
        ("15 2 * * *", LORD_HOWE_SPRING, ["04 02:30 = 15:30", "05 02:15 = 15:15"]),
        ("45 1 * * *", LORD_HOWE_AUTUMN, ["05 01:45 = 14:45", "06 01:45 = 15:15"]),
        # times at which it ticks whenever the clock shows them
        (
            "0 * * * *",
            (*BERLIN_SPRING[:2], "2026-03-29T03:00"),
            ["29 00:00 = 23:00", "29 01:00 = 00:00", "29 03:00 = 01:00", "29 04:00 = 02:00"],
        ),
        ("*/30 2 * * *", BERLIN_SPRING, ["30 02:00 = 00:00", "30 02:30 = 00:30"]),
        (
            "*/30 2 * * *",
            BERLIN_AUTUMN,
            ["25 02:00 = 00:00", "25 02:30 = 00:30", "25 02:00 = 01:00", "25 02:30 = 01:30", "26 02:00 = 01:00", "26 02:30 = 01:30"],
        ),
        (
            "15 */2 * * *",
            (*BERLIN_AUTUMN[:2], "2026-10-25T04:00"),
            ["25 00:15 = 22:15", "25 02:15 = 00:15", "25 02:15 = 01:15", "25 04:15 = 03:15"],
        ),
        (
            "*/30 1 * * *",
            NEW_YORK_AUTUMN,
            ["01 01:00 = 05:00", "01 01:30 = 05:30", "01 01:00 = 06:00", "01 01:30 = 06:30", "02 01:00 = 06:00", "02 01:30 = 06:30"],
        ),
        ("*/20 2 * * *", LORD_HOWE_SPRING, ["04 02:40 = 15:40", "05 02:00 = 15:00", "05 02:20 = 15:20", "05 02:40 = 15:40"]),
        ("*/20 4 * * *", (*LORD_HOWE_SPRING[:2], "2026-10-04T00:00"), ["04 04:00 = 17:00", "04 04:20 = 17:20", "04 04:40 = 17:40"]),
        (
            "*/20 1 * * *",
            (*LORD_HOWE_AUTUMN[:2], "2026-04-05T00:00"),
            ["05 01:00 = 14:00", "05 01:20 = 14:20", "05 01:40 = 14:40", "05 01:40 = 15:10"],
        ),
    ],
)
def test_when_the_clock_is_changed(cron: str, change: tuple[str, str, str], expected: list[str]) -> None:
    """I21: a named time ticks once, at the leap where it is skipped; others tick whenever the clock shows them."""
    zone, after, before = change
    assert shown(cron, zone, after, before) == expected


# --- and in general, against a model that looks at every minute


def model(minutes: str, hours: str, zone: ZoneInfo, first: datetime, count: int) -> list[datetime]:
    """Ticks among `count` minutes from `first`."""
    often = minutes.startswith("*") or hours.startswith("*")
    named = {(hour, minute) for hour in _numbers(hours, 24) for minute in _numbers(minutes, 60)}
    found: set[datetime] = set()
    seen: set[tuple[int, ...]] = set()
    wall = (first - timedelta(minutes=1)).astimezone(zone).replace(tzinfo=None)
    for number in range(count):
        instant = first + timedelta(minutes=number)
        local = instant.astimezone(zone).replace(tzinfo=None)
        skipped = [wall + timedelta(minutes=past) for past in range(1, (local - wall) // timedelta(minutes=1))]
        for time in ([] if often else skipped) + [local]:
            day_and_time = (time.year, time.month, time.day, time.hour, time.minute)
            if (time.hour, time.minute) in named and (often or day_and_time not in seen):
                found.add(instant)
            seen.add(day_and_time)
        wall = local
    return sorted(found)


def _numbers(field: str, end: int) -> list[int]:
    if field == "*":
        return list(range(end))
    return list(range(0, end, int(field[2:]))) if field.startswith("*/") else [int(number) for number in field.split(",")]


def fields(end: int) -> st.SearchStrategy[str]:
    lists = st.lists(st.integers(0, end - 1), min_size=1, max_size=4, unique=True).map(lambda found: ",".join(map(str, found)))
    return st.one_of(st.just("*"), st.sampled_from([2, 5, 7, 20, 40]).filter(lambda step: step < end).map("*/{}".format), lists)


CHANGES = [
    ("Europe/Berlin", (2026, 3, 29)),
    ("Europe/Berlin", (2026, 10, 25)),
    ("America/New_York", (2026, 3, 8)),
    ("America/New_York", (2026, 11, 1)),
    ("Australia/Lord_Howe", (2026, 10, 4)),
    ("Australia/Lord_Howe", (2026, 4, 5)),
    ("America/Santiago", (2026, 9, 6)),
    ("America/Santiago", (2026, 4, 5)),
    ("Africa/Cairo", (2026, 4, 24)),
    ("Africa/Cairo", (2026, 10, 30)),
    ("America/St_Johns", (2026, 11, 1)),
    ("Asia/Kathmandu", (2026, 5, 5)),
    ("UTC", (2026, 3, 29)),
]


@given(st.sampled_from(CHANGES), fields(60), fields(24), st.integers(0, 36 * 60))
def test_every_cron_around_every_change(change: tuple[str, tuple[int, int, int]], minutes: str, hours: str, begin: int) -> None:
    """I21: the same ticks as a clerk finds who watches the clock, wherever one begins to look."""
    zone = ZoneInfo(change[0])
    first = datetime(*change[1], tzinfo=UTC) - timedelta(days=1)
    expected = [tick for tick in model(minutes, hours, zone, first, 72 * 60) if tick > first + timedelta(minutes=begin)]
    found = ticks(rule(f"{minutes} {hours} * * *", zone=zone), first + timedelta(minutes=begin), first + timedelta(hours=72))
    assert found == expected


def test_named_times_are_those_of_cronsim() -> None:
    """Where it knows of daylight saving time itself, over two years."""
    for zone in ("Europe/Berlin", "America/New_York"):
        for cron in ("30 2 * * *", "0,30 1-3 * * 0", "15 2 L * *", "59 23 * * MON#1", "0 2 29 2 *"):
            times = CronSim(cron, START.astimezone(ZoneInfo(zone)))
            expected = [next(times).astimezone(UTC) for _ in range(3 if "29" in cron else 20)]
            assert ticks(rule(cron, zone=zone), START, expected[-1] + timedelta(seconds=1)) == list(dict.fromkeys(expected))


# --- intervals


def test_intervals_do_not_drift() -> None:
    """I21: they tick at whole multiples from the whole second in which they were made, whenever somebody looks."""
    made = START + timedelta(milliseconds=1500)
    one = rule(every=timedelta(minutes=7), now=made)
    assert at(one.anchor) == START + timedelta(seconds=2)
    assert [at(one.after(micros(when)) or 0) for when in (START, made)] == [START + timedelta(seconds=2, minutes=7)] * 2
    late = made + timedelta(days=1000)
    assert (one.after(micros(late)) or 0) - micros(late) <= 7 * MINUTE
    assert ((one.after(micros(late)) or 0) - one.anchor) % (7 * MINUTE) == 0
    assert rule(every=1.5).every == 1_500_000


# --- what is missed


@given(
    st.sampled_from(["skip", "one", "all"]),
    st.one_of(
        st.integers(1, 200).map(lambda seconds: {"every": seconds}),
        st.sampled_from(["*/2 * * * *", "7,9 * * * *"]).map(lambda cron: {"cron": cron}),
    ),
    st.lists(st.integers(0, 2000), min_size=1, max_size=12),
    st.sampled_from([1, 2, 100]),
)
def test_catching_up(catch_up: str, how: dict[str, Any], sleeps: list[int], limit: int) -> None:
    """I21: whenever somebody looks, the ticks of the last minute make a run each; older ones none, one together, or each."""
    one = rule(**how, catch_up=catch_up)
    every_tick = iter(_all(one))
    tick, now = next(every_tick), micros(START)
    next_at: int | None = tick
    made: list[int] = []
    expected: list[int] = []
    for sleep in sleeps:
        now += sleep * SECOND
        come: list[int] = []
        while tick <= now:
            come.append(tick)
            tick = next(every_tick)
        missed = [at for at in come if now - at > LATE]
        expected += {"skip": [], "one": missed[-1:], "all": missed}[catch_up] + [at for at in come if now - at <= LATE]
        while next_at is not None and next_at <= now:
            found, next_at = one.due(next_at, now, limit)
            assert len(found) <= limit
            made += found
    assert made == expected and next_at == tick


def _all(rule: Rule) -> Iterator[int]:
    at = rule.after(micros(START))
    while at is not None:
        yield at
        at = rule.after(at)


@pytest.mark.parametrize(("late", "expected"), [(LATE, {"skip": 1, "one": 1, "all": 1}), (LATE + 1, {"skip": 0, "one": 1, "all": 1})])
def test_missed_is_what_is_more_than_a_minute_late(late: int, expected: dict[str, int]) -> None:
    """I21: to the microsecond."""
    for catch_up, count in expected.items():
        one = rule(every=3600, catch_up=catch_up)
        first = one.after(micros(START)) or 0
        assert one.due(first, first + late, 100) == ([first] * count, first + 3600 * SECOND)


def test_a_year_of_minutes_is_no_work() -> None:
    """The last one that was missed is found without going through all of them."""
    one = rule("* * * * *", zone="Europe/Berlin")
    first, now = one.after(micros(START)) or 0, micros(START + timedelta(days=365, seconds=30))
    assert one.due(first, now, 100) == ([now - 90 * SECOND, now - 30 * SECOND], now + 30 * SECOND)


# --- what is accepted


@pytest.mark.parametrize(
    "cron",
    [
        "0 2 * * *",
        " 0  2 * * * ",
        "@daily",
        "@Hourly",
        "*/5 8-18 * * MON-FRI",
        "0 0 L * *",
        "0 0 LW * *",
        "0 12 * * 5L",
        "0 12 * * FRI#2",
        "0 0 29 2 *",
    ],
)
def test_crons(cron: str) -> None:
    one = rule(cron)
    assert one.cron is not None and len(one.cron.split()) == 5
    assert one.after(micros(START)) is not None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "either cron= or every="),
        ({"cron": "0 2 * * *", "every": 5}, "either cron= or every="),
        ({"cron": "0 2 * *"}, "five fields"),
        ({"cron": "0 0 2 * * *"}, "five fields"),
        ({"cron": "60 2 * * *"}, "Bad minute"),
        ({"cron": "0 2 * * XYZ"}, "Bad day-of-week"),
        ({"cron": "0 2 30 2 *"}, "Bad day"),
        ({"cron": "* * */20 * 1L"}, "no time in the next 50 years"),
        ({"cron": f"{'1' * 5000} 2 * * *"}, "at most 200 characters"),
        ({"cron": "²,1 2 * * *"}, "Bad minute"),
        ({"cron": 7}, "cron is a text"),
        ({"cron": "0 2 * * *", "zone": "Europe/Atlantis"}, "time zone 'Europe/Atlantis' is not known"),
        ({"cron": "0 2 * * *", "zone": "../../etc/passwd"}, "is not known"),
        ({"cron": "0 2 * * *", "zone": "Europe"}, "is not known"),
        ({"cron": "0 2 * * *", "zone": "Eu\0rope"}, "is not known"),
        ({"cron": "0 2 * * *", "zone": None}, "is not known"),
        ({"every": 0}, "more than 0"),
        ({"every": -5}, "more than 0"),
        ({"every": 0.5}, "at least a second"),
        ({"every": "1 h"}, "seconds or a timedelta"),
        ({"every": float("nan")}, "finite"),
        ({"every": 60, "zone": "Europe/Berlin"}, "an interval has none"),
        ({"every": 60, "catch_up": "two"}, "catch_up is one of 'skip', 'one', 'all'"),
        ({"every": 60, "overlap": ["allow"]}, "overlap is one of 'allow', 'skip', 'cancel'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], says: str) -> None:
    """S15.7: with what was expected."""
    with pytest.raises(InvalidArgument, match=says):
        rule(**options)


# --- as it is stored


def test_rules_are_written_and_read() -> None:
    for one in (rule("*/5 * * * *", zone=ZoneInfo("Asia/Tokyo"), priority=-3), rule(every=90, input='{"a":"é"}', overlap="cancel")):
        assert read_rule(one.write()) == one


GOOD = json.loads(rule(every=60).write())


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "{",
        "[]",
        "null",
        "7",
        '"x"',
        "[" * 100_000,
        json.dumps({**GOOD, "format": 2}),
        json.dumps({**GOOD, "format": None}),
        *[json.dumps({key: value for key, value in GOOD.items() if key != gone}) for gone in GOOD],
        *[json.dumps({**GOOD, key: wrong}) for key in GOOD for wrong in ([], {"a": 1}, -1.5)],
        json.dumps({**GOOD, "cron": "0 2 * * *"}),
        json.dumps({**GOOD, "every": None}),
        json.dumps({**GOOD, "every": 0}),
    ],
)
def test_what_cannot_be_read(text: Any) -> None:
    """S15.2: an error of its own, whatever is stored."""
    with pytest.raises(UnreadableSchedule):
        read_rule(text)


# --- the ids of runs


def test_ids_say_for_when() -> None:
    """I21: one for each schedule and nominal instant, and it can be read again."""
    longest = "n" * LONGEST_NAME
    for when in (START, START + timedelta(microseconds=1), datetime(3025, 12, 31, 23, 59, 59, 999_999, UTC)):
        for triggered in (False, True):
            made = run_id(check_schedule_name(longest), micros(when), triggered=triggered)
            assert check_id(made) == made and scheduled_at(made) == when
    assert run_id("nightly", micros(START)) == "nightly@2026-01-01T00:00:00Z"
    for other in ("", "nightly", "a@b", "a@2026-01-01T00:00:00", "a@2026-13-01T00:00:00Z", "a@2026-01-01T00:00:00Z/other"):
        assert scheduled_at(other) is None


@pytest.mark.parametrize("name", ["", "a b", "..", "a..b", "n" * (LONGEST_NAME + 1), 7, None, "/etc", "x\n"])
def test_names_that_are_refused(name: Any) -> None:
    """S15.7: as ids."""
    with pytest.raises(InvalidArgument):
        check_schedule_name(name)

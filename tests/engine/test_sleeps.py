"""Sleeping."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio


async def nothing(ctx: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        ((5,), 5), ((2.5,), 2.5), ((timedelta(minutes=3),), 180), ((lambda ctx: ctx.input,), 40), ((lambda ctx: timedelta(hours=2),), 7200),
    ],
)  # fmt: skip
async def test_durations(engine: FluxEngine, cluster: Cluster, how: Any, seconds: float) -> None:
    """S8.1: seconds, timedeltas, computed; the due time is computed once and recorded, and never fires early (S8.2)."""
    flow = create_workflow("naps").step("a", nothing).sleep("nap", *how).step("b", nothing)
    result = await engine.execute(flow, 40)
    if seconds > 60:
        assert result.status == "suspended" and result.wake_at == result.created_at + timedelta(seconds=seconds)
        await cluster.clock.advance(seconds - 0.001 - 60)
        assert (await engine.get(result.id)).status == "suspended"
        await cluster.clock.advance(60.001)
        result = await engine.resume(flow, result.id)
    assert result.status == "completed" and result.duration == pytest.approx(seconds)
    line = result.history[1]
    assert line.kind == "sleep" and line.duration == pytest.approx(seconds)


@pytest.mark.parametrize(("seconds", "stay"), [(90, 300), (3600, 60)])
async def test_a_computed_sleep_counts_from_when_it_is_reached(cluster: Cluster, seconds: float, stay: float) -> None:
    """S8.1, S8.2, I19: not from the commit before the step that comes first, however long that takes."""

    async def slow(ctx: Any) -> None:
        await cluster.clock.advance(100)

    engine = await cluster.open(stay=stay)
    asleep: list[float] = []
    for how in (seconds, lambda ctx: timedelta(seconds=seconds), lambda ctx: seconds):
        flow = create_workflow(f"after-{len(asleep)}").step("a", slow, timeout=None).sleep("nap", how)
        began = cluster.clock.datetime
        result = await engine.execute(flow)
        over = result.wake_at or result.completed_at
        assert over is not None
        asleep.append((over - began).total_seconds() - 100)
    assert asleep == [seconds] * 3


async def test_units(engine: FluxEngine) -> None:
    """api.md: `sleep("cool-off", hours=1)`."""
    result = await engine.execute(create_workflow("units").sleep("nap", hours=1, minutes=30))
    assert result.wake_at == result.created_at + timedelta(minutes=90)


async def test_instants(engine: FluxEngine, cluster: Cluster) -> None:
    """S8.1: an absolute aware datetime; one in the past does not sleep."""
    at = cluster.clock.datetime + timedelta(days=30)
    result = await engine.execute(create_workflow("until").sleep("nap", until=at))
    assert result.status == "suspended" and result.wake_at == at
    past = create_workflow("past").sleep("nap", until=datetime(2001, 1, 1, tzinfo=timezone.utc)).step("a", nothing)
    assert (await engine.execute(past)).status == "completed"
    computed = create_workflow("computed").sleep("nap", until=lambda ctx: at)
    assert (await engine.execute(computed)).wake_at == at
    negative = create_workflow("negative").sleep("nap", lambda ctx: -5)
    assert (await engine.execute(negative)).status == "completed"


@pytest.mark.parametrize("bad", ["soon", None, float("nan"), datetime(2030, 1, 1), 1e18])
async def test_a_computed_sleep_that_makes_no_sense(engine: FluxEngine, bad: Any) -> None:
    """S8.1, S6.2: it fails its step, with no retry; nothing sleeps for ever."""
    result = await engine.execute(create_workflow("bad").sleep("nap", lambda ctx: bad))
    assert result.status == "failed" and isinstance(result.error, InvalidArgument)


async def test_what_a_computed_sleep_answers_with_is_not_told(engine: FluxEngine) -> None:
    """S16: it may be of the input: the error says what is expected, an aware datetime too, and the type that came."""
    result = await engine.execute(create_workflow("odd").sleep("s", lambda ctx: ctx.input), "4711")
    assert str(result.error) == "a computed sleep must be seconds, a timedelta or an aware datetime, got str"


async def test_a_computed_sleep_is_computed_once(cluster: Cluster) -> None:
    """S8.1: not again after a crash."""
    asked: list[int] = []

    def nap(ctx: Any) -> int:
        asked.append(1)
        return 3600

    flow = create_workflow("once").sleep("nap", nap)
    engine = await cluster.open(workflows=[flow])
    result = await engine.execute(flow)
    await cluster.crash(engine)
    await cluster.clock.advance(hours=2)
    other = await cluster.open(workflows=[flow])
    assert (await other.resume(flow, result.id)).status == "completed" and asked == [1]


async def test_a_short_sleep_holds_the_run_and_sees_signals(engine: FluxEngine, cluster: Cluster) -> None:
    """api.md Staying: the call stays for a sleep within `stay`."""
    effects = Effects()
    flow = create_workflow("stay").step("a", effects.step("a")).sleep("nap", 59).step("b", effects.step("b"))
    assert (await engine.execute(flow)).status == "completed" and effects.done == ["a", "b"]
    short = await cluster.open(stay=10)
    assert (await short.execute(flow)).status == "suspended"


async def test_a_month_passes(cluster: Cluster) -> None:
    """I19, S8.2: long timers survive everything and fire when due, in whatever process is left."""
    effects = Effects()
    flow = create_workflow("month").step("a", effects.step("a")).sleep("nap", days=30).step("b", effects.step("b"))
    engine = await cluster.open(workflows=[flow])
    result = await engine.execute(flow)
    await cluster.crash(engine)
    worker = await cluster.open(workflows=[flow])
    async with worker.worker():
        await cluster.clock.advance(days=29, hours=23)
        assert (await worker.get(result.id)).status == "suspended"
        await cluster.clock.advance(hours=1)
        await worker.handle(result.id).result(timeout=60)
    ended = await worker.get(result.id)
    assert effects.done == ["a", "b"] and ended.duration is not None and ended.duration >= 30 * 86400


@pytest.mark.parametrize("hours", [-5, 14])
@pytest.mark.parametrize("end", [datetime.min, datetime.max])
async def test_the_ends_of_time(engine: FluxEngine, end: datetime, hours: int) -> None:
    """S8.1, S15.2: in any time zone: the run can be read, and the list of all runs too."""
    at = end.replace(tzinfo=timezone(timedelta(hours=hours)))
    for number, how in enumerate((at, lambda ctx: at)):
        result = await engine.execute(create_workflow(f"end{number}").sleep("nap", until=how))
        assert result.status == ("completed" if end == datetime.min else "suspended")
        (found,) = (await engine.list(name=f"end{number}")).runs
        assert found.wake_at == result.wake_at
        assert result.wake_at is None or result.wake_at >= datetime.max.replace(tzinfo=timezone.utc) - timedelta(hours=14)

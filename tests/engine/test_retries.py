"""Trying again."""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, NonRetryable, Retry, RetryAfter, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


class Declined(Exception):
    pass


class Fatal(NonRetryable):
    pass


def failing(effects: list[int], error: Any, until: int = 100) -> Any:
    async def handler(ctx: Any) -> int:
        effects.append(ctx.attempt)
        if ctx.attempt < until:
            raise error
        return int(ctx.attempt)

    return handler


async def test_it_succeeds_in_the_end(engine: FluxEngine) -> None:
    """S4.1, S4.3: attempts are counted from 1 and are in the history."""
    tries: list[int] = []
    result = await engine.execute(create_workflow("flaky").step("a", failing(tries, OSError("x"), 3), retries=5, retry=AT_ONCE))
    assert tries == [1, 2, 3] and result.results == {"a": 3}
    assert result.history[0].attempts == 3 and result.history[0].error is None


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (1, 2), (4, 5)])
async def test_at_most_n_further_attempts(engine: FluxEngine, retries: int, calls: int) -> None:
    """S4.1: `retries=n` means n after the first."""
    tries: list[int] = []
    result = await engine.execute(create_workflow("n").step("a", failing(tries, OSError("x")), retries=retries, retry=AT_ONCE))
    assert tries == list(range(1, calls + 1)) and result.status == "failed" and isinstance(result.error, OSError)
    assert result.history[0].attempts == calls and isinstance(result.history[0].error, OSError)


async def test_engine_wide_defaults(cluster: Cluster) -> None:
    """S4.1: `default_retries` is 3, and a step may say otherwise."""
    tries: list[int] = []
    engine = await cluster.open(default_retry=AT_ONCE)
    await engine.execute(create_workflow("d").step("a", failing(tries, OSError("x"))))
    assert tries == [1, 2, 3, 4]
    tries.clear()
    engine = await cluster.open(default_retry=AT_ONCE, default_retries=1)
    await engine.execute(create_workflow("d").step("a", failing(tries, OSError("x"))))
    assert tries == [1, 2]
    tries.clear()
    await engine.execute(create_workflow("e").step("a", failing(tries, OSError("x")), retries=0))
    assert tries == [1]


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (Retry(jitter=False), [1, 2, 4]),
        (Retry("linear", initial=3, jitter=False), [3, 6, 9]),
        (Retry("fixed", initial=5, jitter=False), [5, 5, 5]),
        (Retry(factor=10, maximum=20, jitter=False), [1, 10, 20]),
    ],
)
async def test_backoff(engine: FluxEngine, cluster: Cluster, retry: Retry, delays: list[int]) -> None:
    """S4.1: the delays between attempts, by the storage's clock."""
    times: list[float] = []

    async def fail(ctx: Any) -> None:
        times.append(cluster.clock.monotonic())
        raise OSError

    await engine.execute(create_workflow("b").step("a", fail, retries=3, retry=retry))
    assert [round(later - earlier) for earlier, later in pairwise(times)] == delays


async def test_bugs_are_not_retried(engine: FluxEngine) -> None:
    """D29: TypeError, NameError, AttributeError and ImportError are not transient; unless `retry_on` names them."""
    for bug in (TypeError("x"), NameError("x"), AttributeError("x"), ImportError("x"), UnboundLocalError("x"), ModuleNotFoundError("x")):
        tries: list[int] = []
        result = await engine.execute(create_workflow("bug").step("a", failing(tries, bug), retries=3, retry=AT_ONCE))
        assert tries == [1] and type(result.error) is type(bug)
    tries = []
    named = Retry(initial=0, jitter=False, retry_on=(TypeError,))
    await engine.execute(create_workflow("bug2").step("a", failing(tries, TypeError("x")), retries=2, retry=named))
    assert tries == [1, 2, 3]


async def test_which_errors(engine: FluxEngine) -> None:
    """S4.1: `retry_on` and `give_up_on`."""
    policy = Retry(initial=0, jitter=False, retry_on=(OSError,), give_up_on=(FileNotFoundError,))
    for error, calls in ((OSError("x"), 3), (FileNotFoundError("x"), 1), (Declined("x"), 1)):
        tries: list[int] = []
        await engine.execute(create_workflow("which").step("a", failing(tries, error), retries=2, retry=policy))
        assert len(tries) == calls, error


async def test_non_retryable(engine: FluxEngine) -> None:
    """S4.2: it fails the step at once, subclasses too, whatever `retry_on` says."""
    for error in (NonRetryable("no"), Fatal("no")):
        tries: list[int] = []
        result = await engine.execute(create_workflow("non").step("a", failing(tries, error), retries=9, retry=AT_ONCE))
        assert tries == [1] and result.status == "failed" and type(result.error) is type(error)


async def test_retry_after(engine: FluxEngine, cluster: Cluster) -> None:
    """S4.2: the handler's own delay, which still counts as a retry."""
    times: list[float] = []

    async def busy(ctx: Any) -> None:
        times.append(cluster.clock.monotonic())
        raise RetryAfter(17, "busy")

    result = await engine.execute(create_workflow("after").step("a", busy, retries=2))
    assert [round(b - a) for a, b in pairwise(times)] == [17, 17]
    assert result.status == "failed" and isinstance(result.error, RetryAfter) and result.error.seconds == 17
    assert str(result.error) == "busy"


class Mute(RetryAfter):
    def __init__(self) -> None:  # as people forget to
        pass


THOUSAND_YEARS = timedelta(days=365_250)


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (RetryAfter(timedelta(minutes=2)), timedelta(minutes=2)),
        (RetryAfter(1_767_225_600_000), THOUSAND_YEARS),  # an instant in milliseconds, mistaken for a delay in seconds
        (RetryAfter(1e300), THOUSAND_YEARS),
        (RetryAfter(timedelta.max), THOUSAND_YEARS),
        (RetryAfter(math.inf), timedelta(seconds=7)),
        (RetryAfter(-(10**400)), timedelta(seconds=7)),
        (RetryAfter(math.nan), timedelta(seconds=7)),
        (Mute(), timedelta(seconds=7)),
    ],
)
async def test_any_delay_asked_for_can_be_kept(cluster: Cluster, error: RetryAfter, delay: timedelta) -> None:
    """S4.2, S15.2: at most 1,000 years, so that the instant is one; what is no finite number leaves it to the policy. The run can be
    read, and the list of all runs too."""
    cluster.stand_still()
    engine = await cluster.open(stay=0)
    policy = Retry("fixed", initial=7, jitter=False)
    result = await engine.execute(create_workflow("far").step("a", failing([], error), retries=1, retry=policy))
    assert result.status == "suspended" and result.wake_at == cluster.clock.datetime + delay
    assert result.history[0].error is not None and (await engine.list()).runs[0].wake_at == result.wake_at


async def test_a_delay_below_zero(engine: FluxEngine) -> None:
    """S4.2: at once."""
    result = await engine.execute(create_workflow("past").step("a", failing([], RetryAfter(-3)), retries=1))
    assert result.status == "failed" and result.history[0].attempts == 2


async def test_a_delay_of_another_type() -> None:
    """S4.2: refused where it is written."""
    for wrong in ("5", None, True, [1]):
        with pytest.raises(InvalidArgument, match="RetryAfter: seconds must be a number or a timedelta"):
            RetryAfter(wrong)  # type: ignore[arg-type]


async def test_a_time_budget(engine: FluxEngine) -> None:
    """S4.1: `max_elapsed` bounds the seconds from the first start to the last try."""
    tries: list[int] = []
    policy = Retry("fixed", initial=10, jitter=False, max_elapsed=35)
    await engine.execute(create_workflow("budget").step("a", failing(tries, OSError("x")), retries=99, retry=policy))
    assert tries == [1, 2, 3, 4]


async def test_jitter_is_drawn_once_and_recorded(engine: FluxEngine) -> None:
    """S4.4: the due time stands in the history, between now and the full delay; reading it again gives the same."""
    policy = Retry("fixed", initial=1000, maximum=1000)
    result = await engine.execute(create_workflow("jitter").step("a", failing([], OSError("x")), retry=policy))
    if result.status == "suspended":  # a draw below the `stay` is waited for
        assert result.wake_at == (await engine.get(result.id)).wake_at == result.history[0].wake_at
        assert timedelta(0) <= result.wake_at - result.created_at <= timedelta(seconds=4000)  # type: ignore[operator]


async def test_a_long_delay_suspends(engine: FluxEngine, cluster: Cluster) -> None:
    """S4.3, api.md Staying: a delay beyond `stay` returns `suspended` with `wake_at`; the timer is in the journal."""
    tries: list[int] = []
    policy = Retry("fixed", initial=300, maximum=300, jitter=False)
    flow = create_workflow("long").step("a", failing(tries, OSError("x"), 2), retry=policy)
    result = await engine.execute(flow)
    assert result.status == "suspended" and tries == [1]
    assert result.wake_at == result.created_at + timedelta(seconds=300)
    assert result.history[0].status == "suspended" and isinstance(result.history[0].error, OSError)
    early = await engine.resume(flow, result.id)
    assert early.status == "suspended" and tries == [1]
    await cluster.clock.advance(299)
    assert (await engine.resume(flow, result.id)).status == "completed"  # a second left: worth staying for
    assert tries == [1, 2]


async def test_a_delay_survives_a_crash(cluster: Cluster) -> None:
    """S4.3: a retry is a timer, not a sleeping task; its count survives too."""
    tries: list[int] = []
    policy = Retry("fixed", initial=300, maximum=300, jitter=False)
    flow = create_workflow("crash").step("a", failing(tries, OSError("x")), retry=policy, retries=2)
    engine = await cluster.open(workflows=[flow])
    run_id = (await engine.execute(flow)).id
    await cluster.crash(engine)
    for expected in ([1, 2], [1, 2, 3]):
        await cluster.clock.advance(301)
        other = await cluster.open(workflows=[flow])
        result = await other.resume(flow, run_id)
        assert tries == expected
        await cluster.crash(other)
    assert result.status == "failed" and result.history[0].attempts == 3


async def test_compensations_are_retried_by_their_own_policy(engine: FluxEngine) -> None:
    """S10.2: `compensate_retries` counts apart from `retries`."""
    undone: list[int] = []
    effects = Effects()
    flow = (
        create_workflow("undo")
        .step("a", effects.step("a"), retries=0, retry=AT_ONCE, compensate=failing(undone, OSError("x"), 3), compensate_retries=2)
        .step("b", effects.step("b", error=ValueError("no")), retries=0)
    )
    result = await engine.execute(flow)
    assert undone == [1, 2, 3] and result.status == "failed" and result.compensation_errors == {}
    compensation = result.history[0].compensation
    assert compensation is not None and compensation.attempts == 3 and compensation.status == "completed"

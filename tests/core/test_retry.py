"""When to try again (S4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core.commands import Raised, Tick
from flux.core.failure import Failure
from flux.core.records import AttemptFailed, Record, StepFailed, StepStarted
from flux.core.retry import SECOND, Retry, crash_delay

from .test_machine import Talk
from .world import T0, step

BOOM = Failure("builtins:ValueError", "boom")

numbers = st.floats(0, 1e12) | st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("retry", "seconds"),
    [
        (Retry(jitter=False), [1, 2, 4, 8, 16, 32, 60, 60]),
        (Retry(initial=0.5, factor=3.0, maximum=10.0, jitter=False), [0.5, 1.5, 4.5, 10, 10]),
        (Retry("linear", initial=2.0, maximum=7.0, jitter=False), [2, 4, 6, 7, 7]),
        (Retry("fixed", initial=3.0, jitter=False), [3, 3, 3]),
        (Retry("fixed", initial=90.0, jitter=False), [60]),
        (Retry(initial=1.0, factor=1.0, jitter=False), [1, 1, 1]),
    ],
)
def test_backoff(retry: Retry, seconds: list[float]) -> None:
    """S4.1: exponential, linear, fixed; never more than the cap."""
    assert [retry.delay(n, 0.9) for n in range(1, len(seconds) + 1)] == [int(s * SECOND) for s in seconds]


@given(
    st.sampled_from(["exponential", "linear", "fixed"]),
    numbers,
    numbers,
    numbers,
    st.booleans(),
    st.integers(1, 10**9),
    st.floats(0, 1, exclude_max=True),
)
def test_delay_is_always_a_number_between_nothing_and_the_cap(
    backoff: str, initial: float, factor: float, maximum: float, jitter: bool, failed: int, draw: float
) -> None:
    """S4.1, I17: whatever the policy says, also where its power overflows."""
    retry = Retry(backoff, initial, factor, maximum, jitter)  # type: ignore[arg-type]
    delay = retry.delay(failed, draw)
    assert isinstance(delay, int)
    assert 0 <= delay <= maximum * SECOND
    if initial and factor >= 1:
        assert retry.delay(failed + 1, draw) >= delay, "it never shrinks"
    if jitter:
        assert retry.delay(failed, 0.0) == 0


def test_a_slow_growth_reaches_the_cap() -> None:
    """S4.1: however many attempts it takes."""
    assert Retry(initial=0.001, factor=1.1, jitter=False).delay(200, 0.0) == 60 * SECOND


def test_full_jitter_is_even() -> None:
    """S4.1: between nothing and the whole delay."""
    retry = Retry(initial=8.0)
    assert [retry.delay(2, draw) for draw in (0.0, 0.25, 0.5)] == [0, 4 * SECOND, 8 * SECOND]


def test_which_errors_are_worth_it() -> None:
    """S4.1, D29: bugs are not, unless they are named."""

    class Odd(ValueError):
        pass

    assert Retry().wants(ValueError())
    assert not Retry().wants(KeyboardInterrupt())
    for bug in (TypeError(), NameError(), AttributeError(), ImportError(), ModuleNotFoundError(), UnboundLocalError()):
        assert not Retry().wants(bug)
    assert Retry(retry_on=(TypeError,)).wants(TypeError())
    assert not Retry(retry_on=(TypeError,)).wants(AttributeError())
    assert not Retry(retry_on=(OSError,)).wants(ValueError())
    assert not Retry(give_up_on=(ValueError,)).wants(Odd())
    assert not Retry(retry_on=(Odd,), give_up_on=(ValueError,)).wants(Odd()), "giving up wins"


def test_crash_delay() -> None:
    """D11: at once after the first, then 1, 2, 4 … 60 s."""
    assert [crash_delay(n) // SECOND for n in range(1, 11)] == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert crash_delay(10**9) == 60 * SECOND


def starts(retries: int, **kwargs: object) -> tuple[list[Record], Talk]:
    """All records of a step that always raises."""
    run = Talk(step("a", retries=retries, **kwargs))
    records = list(run.first)
    while run.state.ended is None:
        attempt = run.state.steps["a"].attempt
        records += run.tell(Raised("a", attempt, BOOM))
        if run.state.wake_at is not None:
            run.now = max(run.now, run.state.wake_at)
            records += run.tell(Tick())
    return records, run


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_at_most_n_further_attempts(retries: int) -> None:
    """S4.1: and each but the last is recorded with the time of the next."""
    records, _ = starts(retries)
    assert sum(isinstance(record, StepStarted) for record in records) == retries + 1
    assert sum(isinstance(record, AttemptFailed) for record in records) == retries
    assert sum(isinstance(record, StepFailed) for record in records) == 1


def test_total_budget() -> None:
    """S4.1: no attempt starts later than `max_elapsed` seconds after the first."""
    records, run = starts(99, retry=Retry("fixed", initial=4.0, jitter=False, max_elapsed=10.0))
    assert [record.retry_at - T0 for record in records if isinstance(record, AttemptFailed)] == [4 * SECOND, 8 * SECOND]
    assert run.now == T0 + 8 * SECOND


def test_a_handler_chooses_its_delay() -> None:
    """S4.2: without a draw; it is a retry like any other."""
    run = Talk(step("a", retries=1))
    run.tell(Raised("a", 1, BOOM, delay=7 * SECOND))
    assert (run.state.wake_at, run.draws) == (T0 + 7 * SECOND, 0)
    run.after(7).tell(Tick())
    assert run.tell(Raised("a", 2, BOOM, delay=0))[0] == StepFailed("a", 2, BOOM)


def test_the_delay_is_drawn_once() -> None:
    """S4.4: and never again, neither when it is due nor when the run is folded anew."""
    run = Talk(step("a", retries=2))
    run.tell(Raised("a", 1, BOOM))
    run.tell(Raised("a", 1, BOOM), Tick())
    run.after(1).tell(Tick())
    assert run.draws == 1
    run.tell(Raised("a", 2, BOOM))
    assert run.draws == 2


def test_non_retryable() -> None:
    """S4.2: fails the step at once."""
    run = Talk(step("a", retries=9))
    assert run.tell(Raised("a", 1, BOOM, retryable=False))[0] == StepFailed("a", 1, BOOM)

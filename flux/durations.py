"""How long, and when: what people write, as the integer microseconds that the core counts in."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from .core.retry import SECOND
from .errors import InvalidArgument
from .labels import shown

Duration: TypeAlias = float | timedelta

LONGEST = timedelta(days=365_250) // timedelta(microseconds=1)  # 1,000 years: an instant that far still fits a datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = ((end.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND for end in (datetime.min, datetime.max))
_UNITS = ((86_400 * SECOND, "d"), (3_600 * SECOND, "h"), (60 * SECOND, "min"))


def to_microseconds(value: object, what: str, *, zero: bool = False) -> int:
    """Seconds (int or float) or a timedelta as microseconds, finite, above 0 (or from 0) and at most 1,000 years.

    Raises InvalidArgument naming `what`.
    """
    micros = _micros(value, what)
    if micros > LONGEST:
        raise InvalidArgument(f"{what} must be at most 1,000 years, got {shown(value)}")
    if micros > 0 or (zero and micros == 0):
        return micros
    raise InvalidArgument(f"{what} must be {'0 or more' if zero else 'more than 0'}, got {shown(value)}")


def _micros(value: object, what: str) -> int:
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(f"{what} must be seconds or a timedelta, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgument(f"{what} must be finite, got {shown(value)}")
    if abs(value) > LONGEST:  # before the product, which may overflow
        return LONGEST + 1 if value > 0 else -1
    return round(value * SECOND)


def add_up(units: dict[str, Any]) -> int:
    """Microseconds of keywords such as `hours=1, minutes=30`, each 0 or more. Raises InvalidArgument."""
    parts = [to_microseconds(_one_unit(unit, value), unit, zero=True) for unit, value in units.items()]
    return to_microseconds(timedelta(microseconds=sum(parts)), " + ".join(units))


def _one_unit(unit: str, value: Any) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(f"{unit} must be a number, got {shown(value)}")
    if value < 0:
        raise InvalidArgument(f"{unit} must be 0 or more, got {shown(value)}")
    try:
        return timedelta(**{unit: value})
    except (OverflowError, ValueError):
        raise InvalidArgument(f"{unit} must be finite and at most 1,000 years, got {shown(value)}") from None


def from_datetime(value: object, what: str) -> int:
    """An aware datetime as microseconds UTC, no earlier or later than a datetime in UTC can be. Raises InvalidArgument, also for a naive
    one."""
    if not isinstance(value, datetime):
        raise InvalidArgument(f"{what} must be a datetime, got {shown(value)}")
    if value.utcoffset() is None:
        raise InvalidArgument(f"{what} must be an aware datetime (say which time zone), got {shown(value)}")
    return max(_FIRST, min((value - _EPOCH) // _MICROSECOND, _LAST))  # `datetime.max` in New York is in year 10000 in UTC


def to_instant(value: object, now: int) -> int:
    """The due time that a computed sleep answers with: an aware datetime, or seconds or a timedelta from `now`.

    Microseconds UTC. What is in the past is fine and due at once. Raises InvalidArgument.
    """
    if isinstance(value, bool) or not isinstance(value, datetime | timedelta | int | float):
        raise InvalidArgument(f"a computed sleep must be seconds, a timedelta or an aware datetime, got {type(value).__name__}")
    if isinstance(value, datetime):
        return from_datetime(value, "a computed sleep")
    micros = _micros(value, "a computed sleep")
    if micros > LONGEST:
        raise InvalidArgument(f"a computed sleep must be at most 1,000 years, got {shown(value)}")
    return now + max(micros, 0)


def instant_text(at: int) -> str:
    """An instant in ISO 8601, in UTC."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat()


def duration_text(micros: int) -> str:
    """A duration for people: `3 d`, `1 h 30 min`, `0.5 s`."""
    parts: list[str] = []
    for size, unit in _UNITS:
        whole, micros = divmod(micros, size)
        if whole:
            parts.append(f"{whole} {unit}")
    if micros or not parts:
        seconds = f"{micros // SECOND}.{micros % SECOND:06d}".rstrip("0").rstrip(".")
        parts.append(f"{seconds} s")
    return " ".join(parts)

"""Instants as people have them: aware datetimes, from the integer microseconds inside."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import overload

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@overload
def to_datetime(at: int) -> datetime: ...
@overload
def to_datetime(at: int | None) -> datetime | None: ...
def to_datetime(at: int | None) -> datetime | None:
    """An aware datetime in UTC."""
    return None if at is None else _EPOCH + timedelta(microseconds=at)


def seconds_between(start: int | None, end: int | None) -> float | None:
    """Seconds from one instant to another, where both are known."""
    return None if start is None or end is None else (end - start) / 1_000_000

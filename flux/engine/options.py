"""What an engine is made with, checked before anything is opened (S15.7). Each raises InvalidArgument naming the argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar, cast

from ..check import check_retry
from ..core.plan import Defaults
from ..core.retry import Retry
from ..durations import Duration, to_microseconds
from ..errors import InvalidArgument, InvalidWorkflow
from ..labels import shown

T = TypeVar("T")


def make_defaults(retries: int, timeout: Duration | None, retry: Retry | None, crash_limit: int) -> Defaults:
    """What holds for steps that say nothing else."""
    check_whole(retries, 0, "default_retries")
    check_whole(crash_limit, 1, "crash_limit")
    try:
        check_retry(retry, "default_retry")
    except InvalidWorkflow as error:
        raise InvalidArgument(str(error)) from None
    return Defaults(retries, None if timeout is None else to_microseconds(timeout, "default_timeout"), retry or Retry(), crash_limit)


def check_whole(value: object, least: int, what: str) -> int:
    """A whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{what} must be a whole number ≥ {least}, got {shown(value)}")
    return value


def check_switch(value: object, what: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what} must be True or False, got {shown(value)}")
    return value


def check_each(values: Iterable[T], kind: type[T], what: str, of: str) -> list[T]:
    """Several of a kind."""
    if not isinstance(cast(object, values), Iterable):
        raise InvalidArgument(f"{what} must be a list of {of}, got {shown(values)}")
    found = list(values)
    for one in cast("list[object]", found):
        if not isinstance(one, kind):
            raise InvalidArgument(f"{what} must be a list of {of}, got {shown(one)} in it")
    return found

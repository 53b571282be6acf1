"""Lists of runs: which ones, and where a page begins. Whatever a caller may send is read here, or refused (S15.7)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from typing import cast

from ..core.status import RunStatus
from ..errors import InvalidArgument
from ..names import check_name, check_run, is_version, show_given
from ..storage import Query

LATEST = (1 << 63) - 1  # what every storage can compare with
LARGEST_PAGE = 500
LONGEST_CURSOR = 400  # characters; that of the longest id has fewer


def read_query(name: object, status: object, version: object, limit: object, cursor: object) -> Query:
    """What to ask the storage for a page: one run more than the page holds, to see whether another follows. Raises InvalidArgument."""
    if type(limit) is not int or not 1 <= limit <= LARGEST_PAGE:
        raise InvalidArgument(f"limit is a whole number from 1 to {LARGEST_PAGE}, got {show_given(limit)}")
    workflow = None if name is None else check_name(name, "the name of a workflow", colon=True, error=InvalidArgument)
    if version is not None and not is_version(version):
        raise InvalidArgument(f"version {show_given(version)} is none that a workflow can have: 1 to 64 letters, digits and _ . + -")
    return Query(workflow, read_statuses(status), limit + 1, decode_cursor(cursor), None if version is None else str(version))


def read_statuses(status: object) -> tuple[RunStatus, ...]:
    """One status or several, as an empty tuple for all. Raises InvalidArgument."""
    if status is None:
        return ()
    several = isinstance(status, Collection) and not isinstance(status, str)
    return tuple(_status(one) for one in (cast("Collection[object]", status) if several else (status,)))


def _status(value: object) -> RunStatus:
    known = {one.value: one for one in RunStatus}
    found = known.get(value) if isinstance(value, str) else None
    if found is None:
        raise InvalidArgument(f"status {show_given(value)} is not known; expected one or several of: {', '.join(known)}")
    return found


def encode_cursor(created_at: int, run_id: str) -> str:
    """Where the next page begins, as opaque text."""
    return base64.urlsafe_b64encode(f"1:{created_at}:{run_id}".encode()).decode()


def decode_cursor(cursor: object) -> tuple[int, str] | None:
    """What `encode_cursor` made, to the letter. Raises InvalidArgument."""
    if cursor is None:
        return None
    try:
        if not isinstance(cursor, str) or len(cursor) > LONGEST_CURSOR:
            raise ValueError("no cursor")
        _, created_at, run_id = base64.urlsafe_b64decode(cursor.encode()).decode().split(":", 2)
        place = int(created_at), check_run(run_id)
        if encode_cursor(*place) != cursor or abs(place[0]) > LATEST:
            raise ValueError("not as a page gave it")
        return place
    except (ValueError, binascii.Error):
        raise InvalidArgument("the cursor is not one that a page gave as `next_cursor`") from None

"""Lists of runs: which statuses, and where a page begins."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection

from ..core.status import RunStatus
from ..errors import InvalidArgument

LATEST = (1 << 63) - 1  # what every storage can compare with


def read_statuses(status: RunStatus | str | Collection[RunStatus | str] | None) -> tuple[RunStatus, ...]:
    """One status or several, as an empty tuple for all. Raises InvalidArgument."""
    if status is None:
        return ()
    wanted = (status,) if isinstance(status, str) else tuple(status)
    try:
        return tuple(RunStatus(one) for one in wanted)
    except ValueError:
        known = ", ".join(one.value for one in RunStatus)
        raise InvalidArgument(f"status {wanted!r} is not known; expected one or several of: {known}") from None


def encode_cursor(created_at: int, run_id: str) -> str:
    """Where the next page begins, as opaque text."""
    return base64.urlsafe_b64encode(f"1:{created_at}:{run_id}".encode()).decode()


def decode_cursor(cursor: str | None) -> tuple[int, str] | None:
    """What `encode_cursor` made. Raises InvalidArgument."""
    if cursor is None:
        return None
    try:
        form, created_at, run_id = base64.urlsafe_b64decode(cursor.encode()).decode().split(":", 2)
        if form != "1" or not -LATEST <= int(created_at) <= LATEST:
            raise ValueError(form)
        return int(created_at), run_id
    except (AttributeError, ValueError, binascii.Error):
        raise InvalidArgument("the cursor is not one that a page gave as `next_cursor`") from None

"""What a stored instant can be."""

from __future__ import annotations

from flux.storage import Header

LATEST = 253_402_300_799_999_999  # microseconds UTC: the end of the year 9999, the last that a datetime can say
_ALWAYS = ("created_at", "updated_at")


def is_instant(at: object) -> bool:
    """Whether this is microseconds UTC that a datetime can say."""
    return type(at) is int and 0 <= at <= LATEST


def check_instants(header: Header) -> None:
    """Replaces what is no instant, so that the head can be listed beside the others; then raises ValueError."""
    wrong = ""
    for name in (*_ALWAYS, "ended_at", "wake_at"):
        at = getattr(header, name)
        if is_instant(at) or (at is None and name not in _ALWAYS):
            continue
        setattr(header, name, 0 if name in _ALWAYS else None)
        wrong = name
    if wrong:
        raise ValueError(f"{wrong} is no instant")

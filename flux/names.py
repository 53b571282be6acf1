"""Which names and ids are accepted (S15.7, D24). Refused, never repaired."""

from __future__ import annotations

import re

from .errors import InvalidArgument, InvalidWorkflow

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,199}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_DURABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")


def check_id(value: object, what: str = "run id") -> str:
    """An id of a caller's choosing: run, signal, schedule or idempotency key. Raises InvalidArgument."""
    if isinstance(value, str) and _ID.fullmatch(value) and ".." not in value:
        return value
    raise InvalidArgument(
        f"{what} {_show(value)} is refused: expected 1 to 200 characters, first a letter or digit, "
        "then letters, digits and . _ : @ / -, with no '..'"
    )


def check_name(value: object, what: str, *, colon: bool = False) -> str:
    """A name of a workflow, step, branch or signal (D24). Raises InvalidWorkflow."""
    if isinstance(value, str) and (_DURABLE if colon else _NAME).fullmatch(value):
        return value
    raise InvalidWorkflow(
        f"{what} {_show(value)} is refused: expected 1 to 64 characters, first a letter or _, "
        f"then letters, digits and _ . -{' :' if colon else ''}"
    )


def _show(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

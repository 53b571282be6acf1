"""Which names and ids are accepted (S15.7, D24). Refused, never repaired."""

from __future__ import annotations

import re

from .errors import FluxError, InvalidArgument, InvalidWorkflow

_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:@/-]{0,199}")
_CHILD = re.compile(r"(?:~[0-9a-f]{16})+\Z")
LONGEST_CHILD = 200  # characters of a child's id, whose parent's may be cut for it
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_DURABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_SQL = re.compile(r"[a-z_][a-z0-9_]{0,30}")


def exact(text: str) -> str:
    """The text as nothing but a str: an Enum's member that is one too turns into its own name where it is formatted."""
    return text if type(text) is str else str.__str__(text)


def check_id(value: object, what: str = "run id") -> str:
    """An id of a caller's choosing: run, signal, schedule or idempotency key. Raises InvalidArgument."""
    if isinstance(value, str) and _ID.fullmatch(value):
        return exact(value)
    raise InvalidArgument(
        f"{what} {show_given(value)} is refused: expected 1 to 200 characters, first a letter or digit, "
        "then letters, digits and . _ : @ / -, with no '..'"
    )


def check_run(value: object) -> str:
    """The id of a run that is there: of a caller's choosing, or a child's (D24). Raises InvalidArgument."""
    if isinstance(value, str):
        born = _CHILD.search(value)
        if born is not None and born.start() and len(value) <= LONGEST_CHILD:
            check_id(value[: born.start()])
            return exact(value)
    return check_id(value)


def check_name(value: object, what: str, *, colon: bool = False, error: type[FluxError] = InvalidWorkflow) -> str:
    """A name of a workflow, step, branch or signal (D24). Raises `error`: InvalidArgument where a call names it, no definition."""
    if isinstance(value, str) and (_DURABLE if colon else _NAME).fullmatch(value):
        return exact(value)
    raise error(
        f"{what} {show_given(value)} is refused: expected 1 to 64 characters, first a letter or _, "
        f"then letters, digits and _ . -{' :' if colon else ''}"
    )


def check_identifier(value: object, what: str) -> str:
    """A schema name: the only text from outside that ever becomes part of SQL. Raises InvalidArgument."""
    if isinstance(value, str) and _SQL.fullmatch(value):
        return value
    raise InvalidArgument(f"{what} {show_given(value)} is refused: expected [a-z_][a-z0-9_]{{0,30}}")


def is_version(value: object) -> bool:
    """Whether this can be a workflow's version: 1 to 64 letters, digits and `_ . + -`."""
    return isinstance(value, str) and _VERSION.fullmatch(value) is not None


def show_given(value: object) -> str:
    """What a caller gave where a name or an id was expected, for a message: ASCII, short, whatever it is."""
    # What is no str may have anything inside, and a repr that raises: its type says enough.
    if not isinstance(value, str):
        return str(value) if value is None or (type(value) is int and abs(value) < 10**9) else f"of type {type(value).__name__}"
    text = ascii(str.__getitem__(value, slice(80)))
    return text if str.__len__(value) <= 80 and len(text) <= 80 else f"{text[:77]}..."

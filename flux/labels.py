"""What to call a function, a type or a value in an error message or a diagram."""

from __future__ import annotations

import functools
from typing import Any, get_origin


def type_name(kind: Any) -> str:
    """A type as people write it."""
    return kind.__qualname__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)


def function_name(value: Any) -> str:
    """A handler's name: that of its function, or the class of a callable object."""
    while isinstance(value, functools.partial):
        value = value.func
    name = getattr(value, "__qualname__", None)
    return name.rpartition("<locals>.")[2] if isinstance(name, str) else type(value).__qualname__


def shown(value: object) -> str:
    """A value as its repr, cut where it is long; its class where it has no repr (an object's own, a huge int)."""
    try:
        return cut(repr(value))
    except Exception:
        return f"a {type(value).__name__}"


def cut(text: str) -> str:
    """Text of at most 80 characters."""
    return text if len(text) <= 80 else f"{text[:77]}..."

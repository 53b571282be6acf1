"""Values that are not to be seen: `Secret("4711")` (S16)."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, final

__all__ = ["Secret"]

T = TypeVar("T")

_HIDDEN = "Secret(***)"


@final
class Secret(Generic[T]):
    """A value that shows itself to nobody who does not ask: its `repr` and `str` are `Secret(***)`, in logs, tracebacks and messages too.

    Put it in inputs, data, results and payloads like any other value; it comes back as a Secret, and `reveal()` gives what is inside.
    A field declared as `Secret[str]` also takes a bare str and wraps it. It is not encryption: the storage keeps the value as it is.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value itself."""
        return self._value

    def __repr__(self) -> str:
        return _HIDDEN

    def __format__(self, form: str) -> str:
        return format(_HIDDEN, form)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        inside: Any = other.reveal()
        return bool(self._value == inside)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

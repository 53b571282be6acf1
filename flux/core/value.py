"""What records, commands and stored values have in common: compared and shown by what they hold.

Methods here rather than generated for each class: there are some sixty of them, and `import flux` is to be quick.
"""

from __future__ import annotations


class Value:
    """A plain value with slots, for dataclasses made with `eq=False, repr=False`."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({inner})"

"""One careful encoding: a value becomes a tree of plain JSON, or it is refused by the name of its place (S15.1)."""

from __future__ import annotations

import json
import json.encoder
import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

from .classes import Classes

__all__ = ["Packer", "Pass", "Refused", "chunks", "encode_tree", "has_halves", "plain_encoder"]

Packer = Callable[["Pass", Any, int], Any]

_quote: Callable[[str], str] = json.encoder.encode_basestring_ascii

# Where a str holds the two halves of a surrogate pair as two characters; JSON would join them.
_HALVES = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
_AS_IS = frozenset({bool, type(None)})


def has_halves(text: str) -> bool:
    """Whether JSON alone would give a text back as another one: two halves of a surrogate pair would become one character."""
    return not text.isascii() and _HALVES.search(text) is not None


class Refused(Exception):
    """A value that cannot be stored, on its way up to the name of its place: each container adds its step and itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self._trail: list[tuple[str, object]] = []

    def at(self, step: str, owner: object) -> Refused:
        """The same refusal, seen from the container `owner`."""
        self._trail.append((step, owner))
        return self

    def message(self, root: str) -> str:
        """`pay: result['lines'][2].price: NaN cannot be stored`."""
        steps = [step for step, _ in reversed(self._trail)]
        owners = [id(owner) for _, owner in reversed(self._trail)]
        seen: set[int] = set()
        for index, owner in enumerate(owners):
            if owner in seen:
                return f"{root}{_shorten(steps[:index])}: contains itself: a cycle cannot be stored"
            seen.add(owner)
        return f"{root}{_shorten(steps)}: {self.reason}"


class Pass:
    """One encoding: the limits, what has been visited, and how each type is packed."""

    __slots__ = ("_count", "_learn", "_max_depth", "_max_size", "classes", "packers")

    def __init__(
        self, packers: dict[type, Packer], learn: Callable[[type, Any, Classes], Packer], classes: Classes, max_depth: int, max_size: int
    ) -> None:
        self.packers = packers
        self.classes = classes
        self._learn = learn
        self._max_depth = max_depth
        self._max_size = max_size
        self._count = 0

    def pack(self, value: Any, depth: int) -> Any:
        """The tree of a value that is inside `depth` containers. Raises Refused."""
        kind = type(value)
        if kind is str:
            return value if not _HALVES.search(value) else {"~str": _HALVES.split(value)}
        if kind in _AS_IS:
            return value
        if kind is int:
            return _int(value)
        if kind is float:
            return _float(value)
        packer = self.packers.get(kind)
        if packer is None:
            packer = self.packers[kind] = self._learn(kind, value, self.classes)
        return packer(self, value, depth)

    def enter(self, depth: int, size: int) -> None:
        """A container of `size` members begins. Raises Refused when it is too deep, or when the whole is bound to be too large."""
        if depth >= self._max_depth:
            raise Refused(f"nested deeper than {self._max_depth} levels")
        self._count += size
        if self._count > self._max_size:
            raise Refused(f"more than {self._max_size:,} items in all, and the limit is as many characters")

    def items(self, value: Iterable[Any], size: int, depth: int) -> list[Any]:
        """The trees of a sequence's or a set's members."""
        self.enter(depth, size)
        done: list[Any] = []
        try:
            for item in value:
                done.append(self.pack(item, depth + 1))
        except Refused as refused:
            raise refused.at("[member]" if isinstance(value, set | frozenset) else f"[{len(done)}]", value) from None
        return done

    def pairs(self, value: Mapping[Any, Any], depth: int) -> list[list[Any]]:
        """The trees of a mapping's keys and values."""
        self.enter(depth, len(value))
        done: list[list[Any]] = []
        key: Any = None
        try:
            for key, item in value.items():
                done.append([self.pack(key, depth + 1), self.pack(item, depth + 1)])
        except Refused as refused:
            raise refused.at(_key(key), value) from None
        return done

    def state(self, value: object, state: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """The trees of an object's attributes."""
        self.enter(depth, len(state))
        done: dict[str, Any] = {}
        name = ""
        try:
            for name, item in state.items():
                done[name] = self.pack(item, depth + 1)
        except Refused as refused:
            raise refused.at(f".{name}", value) from None
        return done


def _int(value: int) -> int:
    if value.bit_length() > 2000:
        try:
            int.__repr__(value)
        except ValueError:
            raise Refused("an integer of more digits than this interpreter writes (sys.set_int_max_str_digits)") from None
    return value


def _float(value: float) -> float:
    if not isfinite(value):
        raise Refused(f"{'NaN' if value != value else 'infinity'} cannot be stored: JSON has no such number")
    return value


def _key(key: object) -> str:
    if type(key) not in (str, int, bool, float, bytes, type(None)):
        return f"[a key of type {type(key).__name__}]"
    text = ascii(key)
    return f"[{text if len(text) <= 60 else text[:57] + '...'}]"


def _shorten(steps: list[str]) -> str:
    text = "".join(steps)
    return text if len(text) <= 200 else f"{text[:140]} ... {text[-50:]}"


def plain_encoder() -> Callable[[Any, int], Iterable[str]]:
    """Plain JSON to pieces of text: the C encoder past `json.dumps`, which costs more than it, or else the Python one."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is not None:
        encoder: Callable[[Any, int], Iterable[str]] = make(None, None, _quote, None, ":", ",", False, False, False)
        return encoder
    slow = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":")).encode
    return lambda value, _level: slow(value)


chunks = plain_encoder()


def encode_tree(tree: Any) -> str:
    """A tree of plain JSON as text. Raises ValueError for NaN."""
    return "".join(chunks(tree, 0))

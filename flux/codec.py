"""Values <-> text: tagged JSON in ASCII (D21), the one value domain of all storages (S15.1, S15.6, I44).

Plain values (None, bool, int, float, str, list, dict with str keys) are plain JSON. Everything else is an object with one key that
starts with `~`, such as `{"~date":"2026-01-01"}` (`flux.tags` has the list); a dict of the user's that looks like one is escaped.
What comes back equals what went in and has the same type, or it is refused at once: no value changes quietly. An object that
is referred to twice comes back as two equal ones (I43).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .classes import Classes, Undecodable
from .errors import NotStorable
from .packing import Packer, Pass, Refused, chunks, encode_tree
from .tags import PACKERS, UNPACKERS, is_native, learn

__all__ = ["Codec", "JsonCodec", "Undecodable", "digest"]

_SCALARS = frozenset({str, int, float, bool, type(None)})
_CONSTANTS: dict[str, Any] = {"null": None, "true": True, "false": False}

# Two escapes that JSON reads as one character: an emoji, or two halves that the str holds apart and that need a tag.
_PAIR = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f]")


class Codec(Protocol):
    """What the engine needs of an encoding."""

    def encode(self, value: Any, where: str = "") -> str:
        """ASCII text. Raises NotStorable naming `where` and the place in the value."""
        ...

    def decode(self, text: str) -> Any:
        """The value. Raises Undecodable."""
        ...

    def declare(self, *types: type) -> None:
        """Let instances of these classes be stored and rebuilt."""
        ...

    def find_type(self, name: str) -> type | None:
        """The class stored as `module:qualname`, if it is declared or imported already."""
        ...


class JsonCodec:
    """The codec of flux. `max_size` counts characters of encoded text, `max_depth` nested containers (S15.7)."""

    __slots__ = ("_classes", "_max_depth", "_max_size", "_packers", "_scan_tagged")

    def __init__(self, types: Iterable[type] = (), *, max_size: int = 1 << 20, max_depth: int = 64) -> None:
        self._max_size = max_size
        self._max_depth = max_depth
        self._classes = Classes()
        self._packers: dict[type, Packer] = dict(PACKERS)
        self._scan_tagged = _scanner(self._untag)
        self.declare(*types)

    def declare(self, *types: type) -> None:
        """Let instances of these classes be stored and rebuilt. Raises InvalidArgument for a class that cannot be."""
        self._classes.declare(*(kind for kind in types if kind not in _SCALARS and not is_native(kind)))

    def find_type(self, name: str) -> type | None:
        """The class stored as `module:qualname`, if it is declared or imported already (D21)."""
        return self._classes.find(name)

    def encode(self, value: Any, where: str = "") -> str:
        """The value as ASCII text.

        `where` names the value in errors: a path (whose result is meant), or any phrase, such as `pay: data['total']`.
        Raises NotStorable: a type without an encoding, NaN, a cycle, too deep, too large (S15.1).
        """
        if value is None:
            return "null"
        kind = type(value)
        try:
            if kind in _SCALARS or ((kind is dict or kind is list) and _is_plain(value, self._max_depth, [self._max_size])):
                text = "".join(chunks(value, 0))
                if '{"~' in text or ("\\ud" in text and _PAIR.search(text)):
                    text = self._encode_tagged(value, where)
            else:
                text = self._encode_tagged(value, where)
        except ValueError as error:
            if isinstance(error, NotStorable):
                raise
            text = self._encode_tagged(value, where)  # NaN or a huge int: the careful way says where
        except RuntimeError as error:
            raise NotStorable(f"{_named(where)}: {_disturbed(error)}") from None
        if len(text) > self._max_size:
            raise NotStorable(self._too_large(text, value, where))
        return text

    def decode(self, text: str) -> Any:
        """The value of encoded text, always a fresh object. Raises Undecodable."""
        if len(text) < 6 and text in _CONSTANTS:
            return _CONSTANTS[text]
        try:
            value, end = self._scan_tagged(text, 0) if '"~' in text else _scan(text, 0)
        except StopIteration:
            raise Undecodable("stored text cannot be read: it is no JSON value") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, Undecodable):
                raise
            raise Undecodable(f"stored text cannot be read: {type(error).__name__}") from error
        if end != len(text):
            raise Undecodable("stored text cannot be read: something follows the value")
        return value

    def _encode_tagged(self, value: Any, where: str) -> str:
        try:
            return encode_tree(Pass(self._packers, learn, self._classes, self._max_depth, self._max_size).pack(value, 0))
        except Refused as refused:
            raise NotStorable(refused.message(_named(where))) from None

    def _untag(self, found: dict[str, Any]) -> Any:
        if len(found) != 1:
            return found
        (tag,) = found
        if tag[:1] != "~":
            return found
        unpack = UNPACKERS.get(tag)
        if unpack is None:
            raise Undecodable(f"stored text has the unknown tag {tag[:60]!a}: was it written by a newer flux?")
        try:
            return unpack(self._classes, found[tag])
        except Undecodable:
            raise
        except Exception as error:  # from damaged text, or from the constructor of a declared class; what it says may hold the value
            raise Undecodable(f"a stored {tag!r} value cannot be rebuilt: {type(error).__name__}") from error

    def _too_large(self, text: str, value: Any, where: str) -> str:
        message = f"{_named(where)}: {len(text):,} characters when encoded, and the limit is {self._max_size:,}"
        if type(value) is not dict:
            return message
        sizes = {key: len(self._encode_tagged(item, where)) for key, item in value.items()}
        largest = max(sizes, key=lambda key: sizes[key])
        return f"{message}; the largest part is [{ascii(largest)[:60]}] with {sizes[largest]:,}"


def digest(text: str) -> str:
    """32 characters that tell texts apart (S2.4, D27)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _is_plain(box: Any, depth: int, left: list[int]) -> bool:
    """Whether a dict or list is plain JSON all through, at most `depth` deep, and visits at most `left[0]` inner members."""
    items = box
    if type(box) is dict:
        for key in box:
            if type(key) is not str:
                return False
        items = box.values()
    for item in items:
        kind = type(item)
        if kind not in _SCALARS:
            if (kind is not dict and kind is not list) or depth <= 1:
                return False
            left[0] -= len(item)
            if left[0] < 0 or not _is_plain(item, depth - 1, left):
                return False
    return True


def _no_constant(name: str) -> Any:
    raise Undecodable(f"stored text has {name}, which is no JSON")


def _named(where: str) -> str:
    if not where:
        return "value"
    return where if " " in where or where == "input" else f"{where}: result"


def _disturbed(error: RuntimeError) -> str:
    if isinstance(error, RecursionError):
        return "nested deeper than this interpreter's recursion limit allows here"
    return f"changed by another thread while it was being stored ({error})"


def _scanner(hook: Callable[[dict[str, Any]], Any] | None) -> Callable[[str, int], tuple[Any, int]]:
    decoder: Any = json.JSONDecoder(object_hook=hook, parse_constant=_no_constant)
    scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once  # past the checks of `json.loads`, which cost more than it
    return scan


_scan = _scanner(None)

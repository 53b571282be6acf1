"""Classes in the journal: by name, found only where they are imported already, and rebuilt from raw state (D21).

A stored row never makes flux import a module, and rebuilding by raw state calls no code of the class: neither `__init__` nor
`__post_init__` nor `__setattr__` nor a property.
"""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields
from enum import Enum
from functools import cached_property
from types import MemberDescriptorType, ModuleType
from typing import Any

from .errors import InvalidArgument

__all__ = ["Classes", "Undecodable", "class_name", "has_attribute", "imported_class", "kind_of", "raw_state", "restore_state", "shown_name"]

_HARMLESS = (list, dict, set, tuple, frozenset, str, int, float, bool, bytes, bytearray)  # default factories


class Undecodable(ValueError):
    """Stored text that cannot be turned back into its value here: damaged, written by a newer flux, or a class that is missing.

    `type_name` is the missing class as `module:qualname`, or empty. The engine reports it as UnreadableRun (S15.2).
    """

    def __init__(self, message: str, type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name


class Classes:
    """The classes that one codec knows: those declared to it, and those that the process has imported."""

    __slots__ = ("_declared",)

    def __init__(self) -> None:
        self._declared: dict[str, type] = {}

    def declare(self, *classes: type) -> None:
        """Let instances of these classes be rebuilt. Raises InvalidArgument for one that could not be stored at all."""
        for cls in classes:
            if not isinstance(cls, type) or kind_of(cls) is None:
                raise InvalidArgument(
                    f"{cls!r} cannot be declared as a storable type: expected a dataclass, an Enum, a NamedTuple, "
                    "a pydantic model, a msgspec Struct or an exception class"
                )
            self._declared[class_name(cls)] = cls

    def name_of(self, cls: type) -> str:
        """The name to store. A class that no import leads to (one made in a function) is declared by this."""
        name = class_name(cls)
        if self._declared.get(name) is not cls and imported_class(name) is not cls:
            self._declared[name] = cls
        return name

    def is_declared(self, cls: type) -> bool:
        """Whether it was declared, so that its constructor and its default factories may be called."""
        return self._declared.get(class_name(cls)) is cls

    def find(self, name: str) -> type | None:
        """The class of a stored name, if it is declared or imported already."""
        return self._declared.get(name) or imported_class(name)

    def require(self, name: str) -> type:
        """The class of a stored name. Raises Undecodable, saying what to do."""
        found = self.find(name)
        if found is None:
            raise Undecodable(
                f"the stored value is a {shown_name(name)}, which is neither declared nor imported here: "
                "import its module before the run goes on, or declare it: FluxEngine(types=[...])",
                name,
            )
        return found


def class_name(cls: type) -> str:
    """`module:qualname`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def shown_name(name: object) -> str:
    """A class name from a stored row, as a message may show it: printable, and cut where it is long."""
    text = name if isinstance(name, str) and name.isascii() and name.isprintable() else ascii(name)
    return text if len(text) <= 200 else f"{text[:197]}..."


def imported_class(name: str) -> type | None:
    """The class of this name where its module is imported already; never imports and never calls a module's `__getattr__`."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = _members(found).get(part)
    return found if issubclass(type(found), type) else None


def _members(owner: Any) -> Any:
    # Read past `__getattribute__`: looking into a lazily loaded module would import it.
    if issubclass(type(owner), type):
        return type.__getattribute__(owner, "__dict__")
    return object.__getattribute__(owner, "__dict__") if issubclass(type(owner), ModuleType) else {}


def kind_of(cls: type) -> str | None:
    """How instances of a class are stored: enum, named, dataclass, pydantic, struct, error (as a failure only), or not at all."""
    if issubclass(cls, BaseException):
        return "error"
    if issubclass(cls, Enum):
        return "enum"
    if issubclass(cls, tuple):
        return "named" if has_attribute(cls, "_fields") else None
    if has_attribute(cls, "__dataclass_fields__"):
        return "dataclass"
    if _optional("pydantic.main", "BaseModel") in cls.__mro__ and has_attribute(cls, "__pydantic_fields_set__"):
        return "pydantic"
    return "struct" if _optional("msgspec", "Struct") in cls.__mro__ else None


def has_attribute(cls: type, name: str) -> bool:
    """Whether a class or a base of it defines this; asks no code of the class."""
    return any(name in vars(base) for base in cls.__mro__)


def _optional(module: str, name: str) -> Any:
    """A class of a library that flux never imports: an instance can only exist where somebody else did."""
    return getattr(sys.modules.get(module), name, None)


def raw_state(value: object) -> dict[str, Any]:
    """What an object holds in its `__dict__` and slots, without what it can compute again or Python put there."""
    held: Any = object.__getstate__(value)
    if type(held) is tuple:
        plain, slots = held
        held = {**(plain or {}), **slots}
    return {} if not held else without_cached(type(value), held)


def without_cached(cls: type, state: dict[str, Any]) -> dict[str, Any]:
    """The state without cached properties and dunder names."""
    return {
        name: item
        for name, item in state.items()
        if not (name.startswith("__") and name.endswith("__")) and type(_attribute(cls, name)) is not cached_property
    }


def restore_state(value: object, state: dict[str, Any]) -> None:
    """Put raw state back. A name that has neither slot nor place any more is left out."""
    held: Any = _instance_dict(value)
    for name, item in state.items():
        slot = _attribute(type(value), name)
        if type(slot) is MemberDescriptorType:
            slot.__set__(value, item)
        elif held is not None:
            held[name] = item


def new_record(cls: type, state: dict[str, Any], trusted: bool) -> object:
    """A dataclass instance from raw state (D21). Fields that are newer than the state take their defaults.

    A default factory is called only when it is a builtin type or the class is `trusted`. Raises Undecodable, naming the field, for
    a required field that the state lacks.
    """
    value: object = object.__new__(cls)
    restore_state(value, state)
    for field in fields(cls):
        if field.name in state or _is_computed(cls, field.name):
            continue
        if field.default is not MISSING:
            restore_state(value, {field.name: field.default})
        elif field.default_factory is not MISSING and (trusted or any(field.default_factory is one for one in _HARMLESS)):
            restore_state(value, {field.name: field.default_factory()})
        elif field.init:
            raise Undecodable(f"the stored {class_name(cls)} has no field {field.name!r}, which has no default")
    return value


def _is_computed(cls: type, name: str) -> bool:
    return isinstance(_attribute(cls, name), property)


def _attribute(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


def _instance_dict(value: object) -> dict[str, Any] | None:
    try:
        held: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return held

"""The tags of the encoding: how each type that JSON lacks is written and read (D21). Used by `flux.codec` alone.

A packer gets (pass, value, depth) and returns plain JSON; an unpacker gets (classes, payload) and returns the value.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from enum import Enum, Flag
from importlib import import_module
from typing import Any

from .classes import Classes, Undecodable, class_name, has_attribute, kind_of, new_record, raw_state, shown_name, without_cached
from .packing import Packer, Pass, Refused, encode_tree
from .secret import Secret

__all__ = ["PACKERS", "UNPACKERS", "is_native", "learn"]

Unpacker = Callable[[Classes, Any], Any]

# Decoding imports no module that a row names. These four of the standard library are imported by flux when a value needs them,
# not at start-up, where they would cost more than the rest of the codec.
_LAZY = ("decimal", "uuid", "pathlib", "zoneinfo")
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (list, dict, set, tuple, int, float, str, bool, bytes)}


# --- containers


def _pack_items(on: Pass, value: Any, depth: int) -> Any:
    return on.items(value, len(value), depth)


def _pack_pairs(on: Pass, value: Any, depth: int) -> Any:
    return on.pairs(value, depth)


def _pack_dict(on: Pass, value: dict[Any, Any], depth: int) -> Any:
    for key in value:
        if type(key) is not str or on.pack(key, depth) is not key:
            return {"~map": on.pairs(value, depth)}
    pairs = on.pairs(value, depth)
    if len(pairs) == 1 and pairs[0][0][:1] == "~":
        return {"~": pairs[0]}
    return dict(pairs)


def _pack_set(tag: str) -> Packer:
    def pack(on: Pass, value: Any, depth: int) -> Any:
        return {tag: sorted(on.items(value, len(value), depth), key=encode_tree)}  # equal sets have equal texts

    return pack


def _tagged(tag: str, pack: Packer) -> Packer:
    return lambda on, value, depth: {tag: pack(on, value, depth)}


def _pack_defaultdict(on: Pass, value: defaultdict[Any, Any], depth: int) -> Any:
    factory = value.default_factory
    name = None if factory is None else getattr(factory, "__name__", "")
    if name is not None and _FACTORIES.get(name) is not factory:
        raise Refused(f"a defaultdict can be stored when its factory is one of {', '.join(_FACTORIES)} or None")
    return {"~defaultdict": [name, on.pairs(value, depth)]}


def _unpack_map(_classes: Classes, pairs: Any) -> dict[Any, Any]:
    return dict(map(tuple, pairs))


def _unpack_defaultdict(classes: Classes, payload: Any) -> Any:
    name, pairs = payload
    return defaultdict(None if name is None else _FACTORIES[name], _unpack_map(classes, pairs))


def _unpack_counter(classes: Classes, pairs: Any) -> Any:
    counter: Counter[Any] = Counter()
    dict.update(counter, _unpack_map(classes, pairs))
    return counter


def _pack_secret(on: Pass, value: Secret[Any], depth: int) -> Any:
    on.enter(depth, 1)
    try:
        return {"~secret": on.pack(value.reveal(), depth + 1)}
    except Refused as refused:  # said without the way to the place: its keys are secret too
        raise Refused(f"inside a Secret: {refused.reason}") from None


# --- dates and times: ISO 8601 text; in full as [text without zone, fold, zone] where that text would lose something


def _pack_instant(tag: str) -> Packer:
    def pack(_on: Pass, value: Any, _depth: int) -> Any:
        zone = value.tzinfo
        if not value.fold and (zone is None or (type(zone) is timezone and _is_told(*_timezone_args(zone)))):
            return {tag: value.isoformat()}
        return {tag: [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _pack_zone(zone)]}

    return pack


def _is_told(offset: timedelta, *name: str) -> bool:
    """Whether ISO 8601 text tells the whole of a time zone; Python reads parts of a second alone as none."""
    return not name and not offset.microseconds


def _timezone_args(zone: timezone) -> tuple[Any, ...]:
    args: tuple[Any, ...] = zone.__getinitargs__()  # type: ignore[attr-defined]
    return args


def _pack_zone(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is timezone:
        offset, *name = _timezone_args(zone)
        return [_pack_timedelta(offset), *name]
    if type(zone) is getattr(sys.modules.get("zoneinfo"), "ZoneInfo", None):
        key = getattr(zone, "key", None)
        if key is not None:
            return key
        raise Refused("a ZoneInfo without a key cannot be stored: use ZoneInfo('Area/City')")
    raise Refused(f"a time zone of type {class_name(type(zone))} cannot be stored: use zoneinfo.ZoneInfo or datetime.timezone")


def _unpack_zone(payload: Any) -> tzinfo | None:
    if isinstance(payload, str):
        zone: tzinfo = _lazily("zoneinfo", "ZoneInfo")(payload)
        return zone
    return None if payload is None else timezone(_unpack_timedelta(payload[0]), *payload[1:])


def _unpack_instant(kind: Any) -> Unpacker:
    def unpack(_classes: Classes, payload: Any) -> Any:
        if isinstance(payload, str):
            return kind.fromisoformat(payload)
        text, fold, zone = payload
        return kind.fromisoformat(text).replace(fold=fold, tzinfo=_unpack_zone(zone))

    return unpack


def _pack_timedelta(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _unpack_timedelta(payload: Any) -> timedelta:
    return timedelta(*payload)


# --- classes: raw state under the class's name, rebuilt without calling it unless it was declared and needs its constructor


def _pack_enum(on: Pass, value: Enum, _depth: int) -> Any:
    cls = type(value)
    name = on.classes.name_of(cls)
    if cls.__members__.get(value._name_) is value:
        return {"~enum": [name, value._name_]}
    if not isinstance(value, Flag):
        raise Refused(f"a {class_name(cls)} that is none of its members cannot be stored: another process does not know it")
    return {"~enum": [name, None, value._value_]}  # a combination of flags


def _unpack_enum(classes: Classes, payload: Any) -> Any:
    cls: Any = _of_kind(classes, payload[0], "enum")
    if payload[1] is not None:
        member = cls.__members__.get(payload[1])
        if member is None:
            raise Undecodable(f"the enum {payload[0]} has no member {shown_name(payload[1])!r} any more")
        return member
    known = cls._value2member_map_.get(payload[2])
    if known is not None:
        return known
    combined = Flag._missing_.__func__(cls, payload[2])  # type: ignore[attr-defined]  # past a `_missing_` of the class's own
    if type(combined) is not cls:
        raise Undecodable(f"the enum {payload[0]} has not the stored flags any more")
    return combined


def _pack_dataclass(on: Pass, value: Any, depth: int) -> Any:
    return {"~data": [on.classes.name_of(type(value)), on.state(value, raw_state(value), depth)]}


def _unpack_dataclass(classes: Classes, payload: Any) -> Any:
    cls = _of_kind(classes, payload[0], "dataclass")
    return new_record(cls, payload[1], classes.is_declared(cls))


def _pack_named(on: Pass, value: Any, depth: int) -> Any:
    if getattr(value, "__dict__", None):
        raise Refused("a NamedTuple with attributes besides its fields cannot be stored")
    state = dict(zip(type(value)._fields, value, strict=True))
    return {"~named": [on.classes.name_of(type(value)), on.state(value, state, depth)]}


def _unpack_named(classes: Classes, payload: Any) -> Any:
    cls: Any = _of_kind(classes, payload[0], "named")
    values = {**getattr(cls, "_field_defaults", {}), **payload[1]}
    lacking = [name for name in cls._fields if name not in values]
    if lacking:
        raise Undecodable(f"the stored {payload[0]} has no field {lacking[0]!r}, which has no default")
    return tuple.__new__(cls, [values[name] for name in cls._fields])


def _pack_pydantic(on: Pass, value: Any, depth: int) -> Any:
    base = sys.modules["pydantic.main"].BaseModel
    held: dict[str, Any] = base.__getstate__(value)
    state = without_cached(type(value), held["__dict__"])
    extra, private = held.get("__pydantic_extra__") or {}, held.get("__pydantic_private__")
    given = sorted(held["__pydantic_fields_set__"])
    fields = on.state(value, {**state, **extra}, depth)
    inner = None if private is None else on.state(value, private, depth)
    return {"~pydantic": [on.classes.name_of(type(value)), fields, sorted(extra), given, inner]}


def _unpack_pydantic(classes: Classes, payload: Any) -> Any:
    cls: Any = _of_kind(classes, payload[0], "pydantic")
    _, held, extra, given, private = payload
    model = cls.__new__(cls)
    state = {name: item for name, item in held.items() if name not in extra}
    for name, field in type(model).model_fields.items():
        if name not in state:
            if field.is_required():
                raise Undecodable(f"the stored {payload[0]} has no field {name!r}, which has no default")
            state[name] = field.get_default(call_default_factory=True)
    hidden = {name: attribute.get_default() for name, attribute in cls.__private_attributes__.items() if name not in (private or {})}
    hidden = {name: item for name, item in hidden.items() if item is not sys.modules["pydantic_core"].PydanticUndefined}
    sys.modules["pydantic.main"].BaseModel.__setstate__(
        model,
        {
            "__dict__": state,
            "__pydantic_extra__": {name: held[name] for name in extra} if cls.model_config.get("extra") == "allow" else None,
            "__pydantic_fields_set__": set(given),
            "__pydantic_private__": {**hidden, **(private or {})} if cls.__private_attributes__ else None,
        },
    )
    return model


def _pack_struct(on: Pass, value: Any, depth: int) -> Any:
    cls, msgspec = type(value), sys.modules["msgspec"]
    if without_cached(cls, getattr(value, "__dict__", {})):
        raise Refused("a Struct with attributes besides its fields cannot be stored")
    state = {name: getattr(value, name) for name in cls.__struct_fields__}
    unset = [name for name, item in state.items() if item is msgspec.UNSET]
    packed = [on.classes.name_of(cls), on.state(value, {name: state[name] for name in state if name not in unset}, depth)]
    by_default = {field.name for field in msgspec.structs.fields(cls) if field.default is msgspec.UNSET} if unset else set()
    said = [name for name in unset if name not in by_default]
    return {"~struct": [*packed, said] if said else packed}


def _unpack_struct(classes: Classes, payload: Any) -> Any:
    cls: Any = _of_kind(classes, payload[0], "struct")
    unset = dict.fromkeys(payload[2] if len(payload) > 2 else (), sys.modules["msgspec"].UNSET)
    state = {name: item for name, item in {**payload[1], **unset}.items() if name in cls.__struct_fields__}
    value = cls(**state)
    for name, item in state.items():  # what `__post_init__` made of them was stored already
        sys.modules["msgspec"].structs.force_setattr(value, name, item)
    return value


def _of_kind(classes: Classes, name: str, kind: str) -> type:
    cls = classes.require(name)
    if kind_of(cls) != kind:
        raise Undecodable(f"{shown_name(name)} was stored as a {kind} and is none any more")
    if kind in ("pydantic", "struct") and not classes.is_declared(cls):
        raise Undecodable(f"{shown_name(name)} needs its own constructor, so it must be declared: FluxEngine(types=[{cls.__name__}])")
    return cls


# --- finding the packer of a class met for the first time

_BY_KIND: dict[str, Packer] = {
    "enum": _pack_enum, "dataclass": _pack_dataclass, "named": _pack_named, "pydantic": _pack_pydantic, "struct": _pack_struct,
}  # fmt: skip


def learn(cls: type, value: Any, classes: Classes) -> Packer:
    """The packer of a class. Raises Refused, saying what to do instead."""
    if issubclass(cls, BaseException):
        raise Refused(f"an exception ({cls.__name__}) is not a value: raise it, or store what it says")
    known = _from_library(cls)
    if known is not None:
        return known
    kind = kind_of(cls)
    if kind is None or (kind == "dataclass" and not _is_bare(cls)):
        raise Refused(_no_way(cls, value))
    if kind in ("pydantic", "struct") and not classes.is_declared(cls):
        raise Refused(
            f"a {cls.__name__} needs its own constructor to come back, so it must be declared: "
            f"annotate the handler's return type, or FluxEngine(types=[{cls.__name__}])"
        )
    return _BY_KIND[kind]


def is_native(cls: type) -> bool:
    """Whether a class is stored by a tag of its own, so that there is nothing to declare."""
    return cls in PACKERS or _from_library(cls) is not None


def _from_library(cls: type) -> Packer | None:
    for module, names, packer in _FROM_LIBRARIES:
        if any(cls is getattr(sys.modules.get(module), name, None) for name in names):
            return packer
    return None


def _is_bare(cls: type) -> bool:
    """Whether an instance is nothing but its `__dict__` and slots (and not also a list, say)."""
    try:
        object.__new__(cls)
    except TypeError:
        return False
    return True


def _no_way(cls: type, value: Any) -> str:
    name = class_name(cls).removeprefix("builtins:")
    for base in (str, int, float, dict, list, tuple, set, frozenset, bytes, bytearray, datetime, date, time, timedelta):
        if issubclass(cls, base):
            return f"a {name} cannot be stored: it would come back as a plain {base.__name__}; convert it: {base.__name__}(...)"
    if has_attribute(cls, "__await__"):
        return f"a {name} cannot be stored: was an `await` forgotten?"
    if has_attribute(cls, "__next__"):
        return f"a {name} cannot be stored: make it a list"
    return f"a value of type {name} cannot be stored: use plain data, a dataclass, an Enum, a NamedTuple or a declared model"


# --- the tables


def _lazily(module: str, name: str) -> Any:
    if module not in _LAZY:
        raise ValueError(f"{module} is none of the modules that decoding may import")
    return getattr(import_module(module), name)


_PATHS = ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath")


def _unpack_path(_classes: Classes, payload: Any) -> Any:
    name, text = payload
    if name not in _PATHS:
        raise ValueError(f"no kind of path: {name!r}")
    return _lazily("pathlib", name)(text)


def _number(on: Pass, part: float) -> Any:
    return on.pack(part, 0)


_FROM_LIBRARIES: Iterable[tuple[str, tuple[str, ...], Packer]] = (
    ("decimal", ("Decimal",), lambda on, value, depth: {"~decimal": str(value)}),
    ("uuid", ("UUID",), lambda on, value, depth: {"~uuid": str(value)}),
    ("pathlib", _PATHS, lambda on, value, depth: {"~path": [type(value).__name__, on.pack(str(value), 0)]}),
)

PACKERS: dict[type, Packer] = {
    list: _pack_items,
    dict: _pack_dict,
    tuple: _tagged("~tuple", _pack_items),
    set: _pack_set("~set"),
    frozenset: _pack_set("~frozenset"),
    OrderedDict: _tagged("~ordered", _pack_pairs),
    defaultdict: _pack_defaultdict,
    Counter: _tagged("~counter", _pack_pairs),
    deque: lambda on, value, depth: {"~deque": [value.maxlen, on.items(value, len(value), depth)]},
    bytes: lambda on, value, depth: {"~bytes": b64encode(value).decode("ascii")},
    bytearray: lambda on, value, depth: {"~bytearray": b64encode(value).decode("ascii")},
    complex: lambda on, value, depth: {"~complex": [_number(on, value.real), _number(on, value.imag)]},
    datetime: _pack_instant("~datetime"),
    time: _pack_instant("~time"),
    date: lambda on, value, depth: {"~date": value.isoformat()},
    timedelta: lambda on, value, depth: {"~timedelta": _pack_timedelta(value)},
    Secret: _pack_secret,
}

UNPACKERS: dict[str, Unpacker] = {
    "~": lambda classes, pair: dict([pair]),
    "~str": lambda classes, parts: "".join(parts),
    "~map": _unpack_map,
    "~ordered": lambda classes, pairs: OrderedDict(_unpack_map(classes, pairs)),
    "~defaultdict": _unpack_defaultdict,
    "~counter": _unpack_counter,
    "~deque": lambda classes, payload: deque(payload[1], payload[0]),
    "~tuple": lambda classes, items: tuple(items),
    "~set": lambda classes, items: set(items),
    "~frozenset": lambda classes, items: frozenset(items),
    "~bytes": lambda classes, text: b64decode(text, validate=True),
    "~bytearray": lambda classes, text: bytearray(b64decode(text, validate=True)),
    "~complex": lambda classes, parts: complex(*parts),
    "~datetime": _unpack_instant(datetime),
    "~time": _unpack_instant(time),
    "~date": lambda classes, text: date.fromisoformat(text),
    "~timedelta": lambda classes, payload: _unpack_timedelta(payload),
    "~secret": lambda classes, value: Secret(value),
    "~decimal": lambda classes, text: _lazily("decimal", "Decimal")(text),
    "~uuid": lambda classes, text: _lazily("uuid", "UUID")(text),
    "~path": _unpack_path,
    "~enum": _unpack_enum,
    "~data": _unpack_dataclass,
    "~named": _unpack_named,
    "~pydantic": _unpack_pydantic,
    "~struct": _unpack_struct,
}

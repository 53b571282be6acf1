"""Typed input: plain data checked against a declared type and built into it (S7.3; api.md, input).

What already is an instance of the declared type passes through, a container where all its members do. A field nobody knows, a field that
lacks, a wrong type: an error that names the field, what was expected and what type came, never the value. Nothing is guessed: a str is
no int, a bool is no int.

    bool, int, str, bytes       an instance; an int is also a float
    datetime, date, time        or ISO 8601 text               timedelta   or ISO 8601 text, or seconds
    Decimal                     or text, or an int             UUID, paths   or text
    Enum                        or a member's value, or its name
    dataclass, TypedDict        or a mapping of the fields     NamedTuple   that, or a list of them in order
    pydantic, msgspec           as those libraries validate
    Secret[T]                   or what T takes, which is wrapped
    list, set, dict, tuple, Sequence, Mapping, Union, Optional, Literal, NewType, Annotated (the type in it), type aliases
"""

from __future__ import annotations

import dataclasses
import operator
import re
import reprlib
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from datetime import date, datetime, time, timedelta
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from .annotations import class_of, declared_types, field_hints, is_alias, is_typed_dict, reachable, returned_types, show, stop, unwrap
from .classes import kind_of
from .errors import InvalidWorkflow
from .secret import Secret

__all__ = ["ConversionError", "check_convertible", "convert", "declared_types", "returned_types"]

Converter = Callable[[Any, str], Any]

_DURATION = (  # compiled by `re` at first use: at import it would be the dearest line of this file
    r"(?P<sign>[+-]?)P(?=.)(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?=.)(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
_INVALID = ("Invalid enum value", "Invalid value")  # as msgspec begins a message with a value in it

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


class ConversionError(ValueError):
    """Data that does not fit a declared type. `path` names the place, such as `lines[2].sku`; the message begins with it."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class _Mismatch(ConversionError):
    """Data of another type than the declared one: says these two and nothing else, so it can be shown also of what is secret."""


class _Known(threading.local):
    """What the unions of one conversion have made of which data.

    Members of a union that may contain the union again would each convert what is inside anew: twice as often at every level.
    """

    def __init__(self) -> None:
        # (union, data, path) -> what came of it, and the data, kept alive so that its id stays its own
        self.answers: dict[tuple[int, int, str], tuple[Any, Any]] = {}


_known = _Known()


def convert(value: Any, declared_type: Any, path: str = "") -> Any:
    """The value as the declared type. Raises ConversionError; InvalidWorkflow for a type that `check_convertible` refuses."""
    outer, _known.answers = _known.answers, {}
    try:
        return _converter(declared_type)(value, path)
    except RecursionError:
        raise ConversionError("nested too deep", path) from None
    finally:
        _known.answers = outer


def check_convertible(declared_type: Any) -> None:
    """Raises InvalidWorkflow, naming the type and the field, if values of a declared type cannot be checked and built (S1.4)."""
    for annotation in reachable(declared_type, into_models=False):
        _converter(annotation)
        cls = class_of(annotation)
        if cls is not None and _is_record(cls):
            _fields(annotation, cls)


# --- from annotation to converter

_converters: dict[Any, Converter] = {}


def _converter(annotation: Any) -> Converter:
    try:
        found = _converters.get(annotation)
    except TypeError:  # metadata or literals that do not hash
        return _make(annotation)
    if found is None:
        found = _converters[annotation] = _make(annotation)
    return found


def _make(annotation: Any) -> Converter:
    if is_alias(annotation):
        return lambda value, path: _converter(unwrap(annotation)[0])(value, path)  # later: an alias may contain itself
    annotation, _ = unwrap(annotation)
    if annotation is Any or annotation is object:
        return _anything
    if annotation is None or annotation is NoneType:
        return _nothing
    if isinstance(annotation, TypeVar):
        return _make(_bound(annotation))
    origin = get_origin(annotation)
    if origin is Union or origin is UnionType:
        return _union(annotation, get_args(annotation))
    if origin is Literal:
        return _literal(get_args(annotation))
    cls = class_of(annotation)
    if cls is None:
        raise stop(annotation, "flux cannot check values of this type; use a dataclass, a TypedDict, or plain types")
    return _of_class(annotation, cls)


def _bound(variable: TypeVar) -> Any:
    if variable.__constraints__:
        return Union[variable.__constraints__]  # noqa: UP007
    return Any if variable.__bound__ is None else variable.__bound__


def _of_class(annotation: Any, cls: type) -> Converter:
    if cls in _SIMPLE:
        return _SIMPLE[cls]
    if cls is tuple and getattr(annotation, "__args__", None) == ():  # `tuple[()]`; a bare `tuple` has none
        return _fixed([])
    if cls in _CONTAINERS:
        return _CONTAINERS[cls](cls, get_args(annotation))
    kind = "dict" if is_typed_dict(cls) else kind_of(cls)
    if kind in _BY_KIND:
        return _BY_KIND[kind](annotation, cls)
    for module, name, expected in _FROM_LIBRARIES:
        base = getattr(sys.modules.get(module), name, None)
        if base is not None and issubclass(cls, base):
            return _parsed(cls, (str, int) if name == "Decimal" else (str,), cls, expected)
    raise stop(annotation, "flux cannot build this class from data; make it a dataclass, a TypedDict or a NamedTuple")


def _is_record(cls: type) -> bool:
    return is_typed_dict(cls) or kind_of(cls) in ("dataclass", "named")


# --- single values


def _wrong(path: str, expected: str, value: Any) -> ConversionError:
    """Says what was expected and what type came. Never the value: such messages end in logs (S16)."""
    came = "None" if value is None else type(value).__name__
    return _Mismatch(f"expected {expected}, got {came}", path)


def _anything(value: Any, _path: str) -> Any:
    return value


def _refused(cls: type, error: Exception, path: str) -> ConversionError:
    """A class's own code has refused the data, in its own words."""
    return ConversionError(f"{cls.__name__} refuses it: {type(error).__name__}: {error}", path)


def _nothing(value: Any, path: str) -> None:
    if value is not None:
        raise _wrong(path, "None", value)


def _int(value: Any, path: str) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong(path, "int", value)


def _float(value: Any, path: str) -> Any:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            raise ConversionError("an int that is too large for a float", path) from None
        if found == value:
            return found
        raise ConversionError("an int that no float is equal to", path)
    raise _wrong(path, "float", value)


def _instance(cls: type) -> Converter:
    def check(value: Any, path: str) -> Any:
        if isinstance(value, cls):
            return value
        raise _wrong(path, cls.__name__, value)

    return check


def _parsed(cls: type, sources: tuple[type, ...], parse: Callable[[Any], Any], expected: str) -> Converter:
    def parsed(value: Any, path: str) -> Any:
        if isinstance(value, cls):
            return value
        if isinstance(value, sources) and not isinstance(value, bool):
            try:
                return parse(value)
            except (ValueError, ArithmeticError):
                pass
        raise _wrong(path, expected, value)

    return parsed


def _duration(value: Any) -> timedelta:
    if not isinstance(value, str):
        return timedelta(seconds=value)
    found = re.fullmatch(_DURATION, value)
    if found is None:
        raise ValueError(value)
    parts = {name: float(text) for name, text in found.groupdict().items() if text and name != "sign"}
    return -timedelta(**parts) if found["sign"] == "-" else timedelta(**parts)


def _enum(_annotation: Any, cls: type) -> Converter:
    members = cast("type[Enum]", cls)
    expected = f"{cls.__name__} ({', '.join(ascii(one.value) for one in list(members)[:8])}{', ...' if len(members) > 8 else ''})"

    def member(value: Any, path: str) -> Any:
        if isinstance(value, members):
            return value
        named = members.__members__.get(value) if isinstance(value, str) else None
        found: Enum | None
        try:
            found = members(value)
        except Exception:  # not a value; or a `_missing_` of the class's own that fails
            found = named
        if found is None or (isinstance(value, bool) and not isinstance(found.value, bool)):
            raise _wrong(path, expected, value)
        return found

    return member


def _literal(choices: tuple[Any, ...]) -> Converter:
    def choose(value: Any, path: str) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
            if isinstance(choice, Enum) and type(value) is type(choice.value) and value == choice.value:
                return choice
        raise _wrong(path, f"one of {', '.join(map(ascii, choices))}", value)

    return choose


def _union(annotation: Any, members: tuple[Any, ...]) -> Converter:
    converters = [_converter(one) for one in members]
    real = [one for one in members if one is not NoneType]

    def convert_union(value: Any, path: str) -> Any:
        fitting: list[Any] = []
        errors: list[ConversionError] = []
        for converter in converters:
            try:
                found = converter(value, path)
            except ConversionError as error:
                errors.append(error)
                continue
            if found is value and (converter is _anything or type(value) not in _KEPT):
                return found  # an instance of one member is not built into another; a plain container is data, and fits the first it can
            fitting.append(found)
        if fitting:
            return fitting[0]
        inside = [error for error in errors if error.path != path or not isinstance(error, _Mismatch)]
        if inside and len(real) == 1:
            raise inside[0]
        reasons = "".join(f"; {error}" for error in inside)
        if not reasons:
            raise _wrong(path, show(annotation), value)
        raise ConversionError(f"{_wrong('', show(annotation), value)}{reasons if len(reasons) < 400 else reasons[:397] + '...'}", path)

    return _once(convert_union)


def _once(convert_union: Converter) -> Converter:
    """The same, asked once for each part of the data in one conversion."""

    def convert_once(value: Any, path: str) -> Any:
        if not isinstance(value, list | tuple | Mapping):
            return convert_union(value, path)
        key = id(convert_once), id(value), path
        if key not in _known.answers:
            try:
                answer = convert_union(value, path)
            except ConversionError as error:
                answer = error
            _known.answers[key] = answer, value
        answer = _known.answers[key][0]
        if isinstance(answer, ConversionError):
            raise answer.with_traceback(None)
        return answer

    return convert_once


# --- containers


def _secret(_cls: type, args: tuple[Any, ...]) -> Converter:
    member = _converter(args[0] if args else Any)

    def secret(value: Any, path: str) -> Any:
        inside = value.reveal() if isinstance(value, Secret) else value
        try:
            found = member(inside, path)
        except ConversionError as error:
            if error.path == path and isinstance(error, _Mismatch):
                raise
            # Its keys are secret too, and whatever a class of the user's says of the value.
            raise ConversionError("does not fit what is declared inside the Secret", path) from None
        return value if isinstance(value, Secret) and found is inside else Secret(found)

    return secret


def _sequence(cls: type, args: tuple[Any, ...]) -> Converter:
    member = _converter(args[0] if args else Any)
    others = (one for one in (set, frozenset, deque) if issubclass(one, cls) or {one, cls} == {set, frozenset})
    takes = cast("tuple[type[Any], ...]", (list, tuple, *others))

    def sequence(value: Any, path: str) -> Any:
        if not isinstance(value, takes):
            raise _wrong(path, cls.__name__, value)
        items = [member(item, f"{path}[{index}]") for index, item in enumerate(cast("Iterable[Any]", value))]
        if _is_kept(value, cls) and all(map(operator.is_, items, cast("Iterable[Any]", value))):
            return value
        try:
            return _rebuilt(cls, value, items)
        except TypeError:
            raise _wrong(path, f"{cls.__name__} of hashable members", value) from None

    return sequence


def _is_kept(value: object, cls: type) -> bool:
    """Whether a container passes through where nothing in it is converted: an instance of what is declared, and storable as it is."""
    return isinstance(value, cls) and type(value) in _KEPT


def _rebuilt(cls: type, value: object, items: list[Any]) -> Any:
    build: Any = cls
    if cls not in _BUILT:
        build = type(value) if _is_kept(value, cls) else tuple if isinstance(value, tuple) and issubclass(tuple, cls) else list
    return deque(items, value.maxlen) if build is deque and isinstance(value, deque) else build(items)


def _tuple(cls: type, args: tuple[Any, ...]) -> Converter:
    if not args or args[-1] is Ellipsis:
        return _sequence(cls, args[:1])
    for one in args:
        if getattr(one, "__unpacked__", False):
            raise stop(one, "flux cannot check a tuple with a part of any length; use tuple[T, ...], or a list")
    return _fixed([_converter(one) for one in args])


def _fixed(members: list[Converter]) -> Converter:
    def fixed(value: Any, path: str) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(members):
            raise _wrong(path, f"tuple of {len(members)}", value)
        items = tuple(member(item, f"{path}[{i}]") for i, (member, item) in enumerate(zip(members, value, strict=True)))
        return value if _is_kept(value, tuple) and all(map(operator.is_, items, value)) else items

    return fixed


def _mapping(cls: type, args: tuple[Any, ...]) -> Converter:
    key_of, value_of = (_converter(one) for one in (args or (Any, Any)))
    build = cls if cls in _BUILT else dict

    def mapping(value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(path, cls.__name__, value)
        found: dict[Any, Any] = {}
        same = _is_kept(value, cls)
        for key, item in value.items():
            place = f"{path}[{_short.repr(key)}]"
            name = _new_key(found, key_of(key, f"{place} (the key)"), place)
            found[name] = made = value_of(item, place)
            same = same and name is key and made is item
        return value if same else build(found)

    return mapping


def _new_key(found: dict[Any, Any], key: Any, place: str) -> Any:
    try:
        if key not in found:
            return key
    except TypeError:
        raise ConversionError("expected a hashable key", f"{place} (the key)") from None
    raise ConversionError("two keys become one when they are converted, and a value would be lost", place)


# --- records


def _fields(annotation: Any, cls: type) -> dict[str, tuple[Converter, bool]]:
    """Field name -> how to convert it, whether it must be there."""
    hints = field_hints(annotation)
    for name, hint in hints.items():
        if hint is dataclasses.InitVar or isinstance(hint, dataclasses.InitVar):
            raise stop(annotation, f"field {name!r} is an InitVar: it is gone after __init__, so it could not be stored")
    found: dict[str, tuple[Converter, bool]] = {}
    for name, needed in _needed(cls, hints).items():
        hint, marked = unwrap(hints.get(name, Any))
        try:
            converter = _converter(hint)
        except InvalidWorkflow as error:
            raise stop(annotation, f"field {name!r}: {error}") from error
        found[name] = (converter, needed if marked is None else marked)
    return found


def _needed(cls: Any, hints: dict[str, Any]) -> dict[str, bool]:
    """Name of each field that data may give -> whether it must."""
    if is_typed_dict(cls):
        return {name: name in cls.__required_keys__ for name in hints}
    if kind_of(cls) == "named":
        return {name: name not in getattr(cls, "_field_defaults", {}) for name in cls._fields}
    missing = dataclasses.MISSING
    fields = [one for one in dataclasses.fields(cls) if one.init]
    return {one.name: one.default is missing and one.default_factory is missing for one in fields}


def _record(annotation: Any, cls: type) -> Converter:
    fields: dict[str, tuple[Converter, bool]] | None = None  # found out at first use: a type may contain itself
    build: Callable[..., Any] = dict if is_typed_dict(cls) else cls

    def record(value: Any, path: str) -> Any:
        nonlocal fields
        if build is cls and isinstance(value, cls):
            return value
        if fields is None:
            fields = _fields(annotation, cls)
        if kind_of(cls) == "named" and isinstance(value, list | tuple) and len(value) <= len(fields):
            value = dict(zip(fields, value, strict=False))
        if not isinstance(value, Mapping):
            raise _wrong(path, f"{cls.__name__} (a mapping of its fields)", value)
        found = _read_fields(cls, fields, value, path)
        if build is dict and type(value) is dict and all(map(operator.is_, found.values(), value.values())):
            return value
        try:
            return build(**found)
        except ConversionError:
            raise
        except Exception as error:  # a `__post_init__` that refuses
            raise _refused(cls, error, path) from error

    return record


def _read_fields(cls: type, fields: dict[str, tuple[Converter, bool]], value: Mapping[Any, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise ConversionError(f"unknown field; the fields of {cls.__name__} are {known}", _at(path, key))
        found[key] = fields[key][0](item, _at(path, key))
    for name, (_, needed) in fields.items():
        if needed and name not in found:
            raise ConversionError(f"missing: {cls.__name__} needs this field", _at(path, name))
    return found


def _at(path: str, key: Any) -> str:
    name = key if isinstance(key, str) and key.isidentifier() else _short.repr(key)
    return f"{path}.{name}" if path else name


# --- models of other libraries, which validate themselves


def _pydantic(_annotation: Any, cls: type) -> Converter:
    def validate(value: Any, path: str) -> Any:
        if isinstance(value, cls):
            return value
        try:
            return cast("Any", cls).model_validate(value)
        except sys.modules["pydantic"].ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            for step in first["loc"]:
                path = f"{path}[{step}]" if isinstance(step, int) else _at(path, step)
            reason = "the tag is none of those expected" if first["type"] == "union_tag_invalid" else first["msg"]
            raise ConversionError(f"{cls.__name__}: {reason}", path) from None  # its own text shows the value
        except Exception as error:  # a validator of the model's that raises what pydantic does not take for a refusal
            raise _refused(cls, error, path) from error

    return validate


def _struct(annotation: Any, cls: type) -> Converter:
    msgspec: Any = sys.modules["msgspec"]

    def validate(value: Any, path: str) -> Any:
        if isinstance(value, cls):
            return value
        try:
            return msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            reason, inner = _told(str(error))
            path = f"{path}{inner}" if path else inner.removeprefix(".")
            raise ConversionError(f"{cls.__name__}: {reason}", path) from None
        except Exception as error:
            raise _refused(cls, error, path) from error

    return validate


def _told(text: str) -> tuple[str, str]:
    """What msgspec says is wrong, without a value, and where: it writes "... - at `$.lines[0].sku`", or "... - at `key` in `$.lines`"."""
    reason, at, place = text.rpartition(" - at `")
    if not at:
        reason, place = text, ""
    key, _, inner = place.rstrip("`").rpartition("$")
    if reason.startswith(_INVALID):
        reason = next(known for known in _INVALID if reason.startswith(known))  # what follows is the value
    return reason, f"{inner} (the key)" if key.startswith("key") else inner


# --- the tables

_BY_KIND: dict[str | None, Callable[[Any, type], Converter]] = {
    "dict": _record, "dataclass": _record, "named": _record, "enum": _enum, "pydantic": _pydantic, "struct": _struct,
}  # fmt: skip

_FROM_LIBRARIES = (
    ("decimal", "Decimal", "Decimal (text such as '1.10')"),
    ("uuid", "UUID", "UUID (or its text)"),
    ("pathlib", "PurePath", "a path (or its text)"),
)

_SIMPLE: dict[type, Converter] = {
    bool: _instance(bool),
    int: _int,
    float: _float,
    **{cls: _instance(cls) for cls in (str, bytes, bytearray, complex)},
    datetime: _parsed(datetime, (str,), datetime.fromisoformat, "datetime (ISO 8601 text)"),
    date: _parsed(date, (str,), date.fromisoformat, "date (ISO 8601 text)"),
    time: _parsed(time, (str,), time.fromisoformat, "time (ISO 8601 text)"),
    timedelta: _parsed(timedelta, (str, int, float), _duration, "timedelta (seconds, or ISO 8601 text such as 'PT90S')"),
}

_BUILT = frozenset({list, set, frozenset, tuple, deque, dict, OrderedDict})
_KEPT = frozenset({*_BUILT, defaultdict, Counter})

_CONTAINERS: dict[type, Callable[[type, tuple[Any, ...]], Converter]] = {
    **dict.fromkeys((list, set, frozenset, deque, Sequence, MutableSequence, Collection, Iterable), _sequence),
    tuple: _tuple,
    Secret: _secret,
    **dict.fromkeys((dict, OrderedDict, Mapping, MutableMapping), _mapping),
}

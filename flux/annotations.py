"""Reading type annotations: what class one names, what its fields are, what can be reached from it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from types import GenericAlias, SimpleNamespace, UnionType
from typing import Annotated, Any, ForwardRef, Generic, Literal, NewType, NotRequired, Required, TypeVar, Union, cast, get_args, get_origin

from typing_extensions import ReadOnly, TypeAliasType, get_type_hints

from .classes import kind_of
from .errors import InvalidWorkflow

__all__ = [
    "class_of", "declared_types", "field_hints", "is_alias", "is_typed_dict", "reachable", "returned_types", "show", "stop", "unwrap",
]  # fmt: skip

_LIMIT = 1000  # types within a type


def show(annotation: Any) -> str:
    """An annotation as one would write it."""
    if isinstance(annotation, type) and not isinstance(annotation, GenericAlias):
        return annotation.__qualname__.rpartition("<locals>.")[2] if annotation is not type(None) else "None"
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(show, get_args(annotation)))
    return str(annotation).replace("typing.", "")


def stop(annotation: Any, reason: str) -> InvalidWorkflow:
    """The error for an annotation that flux cannot work with."""
    return InvalidWorkflow(f"type {show(annotation)}: {reason}")


def unwrap(annotation: Any) -> tuple[Any, bool | None]:
    """The type within Annotated, NewType, type aliases and TypedDict marks; and whether Required or NotRequired was among these."""
    needed: bool | None = None
    while True:
        origin = get_origin(annotation)
        if origin in (Annotated, ReadOnly):
            annotation = get_args(annotation)[0]
        elif origin is Required or origin is NotRequired:
            needed = origin is Required
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif is_alias(annotation):
            annotation = annotation.__value__
        else:
            return annotation, needed


def is_alias(annotation: Any) -> bool:
    """Whether this is a named type alias, whose value is read when it is needed."""
    # `type X = ...` makes typing's class, which is another one than the backport's on some versions.
    return isinstance(annotation, TypeAliasType) or type(annotation).__name__ == "TypeAliasType"


def class_of(annotation: Any) -> type | None:
    """The class that a plain or generic annotation names, such as list for `list[int]`; None for special forms."""
    found = get_origin(annotation) or annotation
    return found if isinstance(found, type) else None


def is_typed_dict(cls: type) -> bool:
    """Whether a class is a TypedDict."""
    return issubclass(cls, dict) and hasattr(cls, "__required_keys__")


def field_hints(annotation: Any) -> dict[str, Any]:
    """The annotations of a class's fields, strings resolved and type variables filled in. Raises InvalidWorkflow."""
    cls: Any = class_of(annotation)
    try:
        hints: dict[str, Any] = get_type_hints(cls, include_extras=True)
    except Exception as error:  # NameError for a name that only type checkers see, and whatever evaluating text can raise
        raise stop(annotation, f"its annotations cannot be resolved: {error}") from error
    return _filled_in(annotation, hints) if Generic in cls.__mro__ else hints


def _filled_in(annotation: Any, hints: dict[str, Any]) -> dict[str, Any]:
    """The hints with type variables filled in: of the class's own fields by its arguments, of those it inherits first by its bases'."""
    cls: Any = class_of(annotation)
    inherited: dict[str, Any] = {}
    for base in reversed(vars(cls).get("__orig_bases__", cls.__bases__)):
        origin = class_of(base)
        if origin is not None and origin is not Generic:
            inherited.update(_filled_in(base, hints))
    own = _own_names(cls)
    given = dict(zip(getattr(cls, "__parameters__", ()), get_args(annotation), strict=False))
    found = {name: hint for name, hint in hints.items() if name in own or name in inherited}
    return {name: _filled(hint if name in own else inherited[name], given) for name, hint in found.items()}


def _own_names(cls: Any) -> set[str]:
    names = inspect.get_annotations(cls)
    if not is_typed_dict(cls):
        return set(names)
    bases = [class_of(base) for base in vars(cls).get("__orig_bases__", ())]  # a TypedDict has the annotations of its bases too
    above = [inspect.get_annotations(base) for base in bases if base is not None]
    return {name for name, hint in names.items() if not any(other.get(name) is hint for other in above)}


def _filled(hint: Any, given: dict[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    open_ones = getattr(hint, "__parameters__", ())
    if not open_ones or isinstance(hint, type):
        return hint
    return hint[tuple(given.get(one, one) for one in open_ones)]


def reachable(annotation: Any, *, into_models: bool, lenient: bool = False) -> Iterator[Any]:
    """Every annotation within an annotation, itself first, each once; those inside pydantic and msgspec models on request.

    Raises InvalidWorkflow for fields that cannot be resolved, or passes them over (`lenient`); for too many in any case.
    """
    todo, seen = [annotation], list[Any]()
    while todo:
        one, _ = unwrap(todo.pop())
        if any(one is other for other in seen) or _in(one, seen):
            continue
        if len(seen) == _LIMIT:
            raise stop(annotation, f"leads to more than {_LIMIT} other types; does a generic type contain ever larger ones of itself?")
        seen.append(one)
        yield one
        try:
            todo.extend(reversed(_parts(one, into_models)))
        except InvalidWorkflow:
            if not lenient:
                raise


def _in(one: Any, seen: list[Any]) -> bool:
    return not isinstance(one, str | ForwardRef) and any(type(one) is type(other) and one == other for other in seen)


def _parts(annotation: Any, into_models: bool) -> list[Any]:
    if get_origin(annotation) is Literal:
        return [type(choice) for choice in get_args(annotation)]
    parts = [part for part in get_args(annotation) if part is not Ellipsis and not isinstance(part, list)]
    cls = class_of(annotation)
    if cls is None:
        return parts
    kind = "dict" if is_typed_dict(cls) else kind_of(cls)
    if kind == "dataclass":
        hints = field_hints(annotation)
        return parts + [hints[one.name] for one in dataclasses.fields(cast("Any", cls))]
    if kind in ("dict", "named") or (kind == "struct" and into_models):
        return parts + list(field_hints(annotation).values())
    if kind == "pydantic" and into_models:
        return parts + [one.annotation for one in cast("Any", cls).model_fields.values()]
    return parts


def declared_types(annotation: Any) -> set[type]:
    """The classes reachable from an annotation whose instances flux can store and rebuild: what to declare to the codec (D21).

    Never raises: what cannot be resolved is left out.
    """
    found: set[type] = set()
    try:
        for one in reachable(annotation, into_models=True, lenient=True):
            cls = class_of(one)
            if cls is not None and not is_typed_dict(cls) and kind_of(cls) not in (None, "error"):
                found.add(cls)
    except InvalidWorkflow:
        return found
    return found


def returned_types(function: Callable[..., Any]) -> set[type]:
    """The `declared_types` of what a function says it returns; none where it says nothing or what cannot be resolved."""
    target: Any = function
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target):
        target = type(target).__call__  # an object that can be called
    try:
        # What it takes need not be resolvable: that often only a type checker sees.
        said = {name: hint for name, hint in target.__annotations__.items() if name == "return"}
        hints = get_type_hints(SimpleNamespace(__annotations__=said), globalns=getattr(inspect.unwrap(target), "__globals__", {}))
    except Exception:  # as in field_hints; a handler need not be annotated at all
        return set()
    return declared_types(hints["return"]) if "return" in hints else set()

"""Exceptions <-> failures (S3.9): what went wrong is stored as it was, and comes back as an instance of the same class.

Neither way calls the exception's own code where it can be avoided, and neither ever raises: a failure that cannot be recorded
or rebuilt in full is recorded or rebuilt in part.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any

from . import errors
from .classes import class_name, imported_class, raw_state, restore_state
from .codec import Codec
from .core.failure import TEXT_LIMIT, Failure
from .errors import StepError

__all__ = ["capture", "rebuild"]

CHAIN_LIMIT = 8  # failures along causes and nested groups
GROUP_LIMIT = 16  # members of one exception group
TOTAL_LIMIT = 64  # failures in one recorded error
ARGS_LIMIT = 8 * TEXT_LIMIT  # characters of encoded args, and of encoded state
FRAME_LIMIT = 50  # innermost frames of a traceback

_NOTE = "recorded traceback:\n"
_HOME = __file__.removesuffix("failures.py")  # frames of flux and of its storages say nothing about the user's mistake
_HOMES = (_HOME, _HOME[:-1] + "_storage" + _HOME[-1:])

# What exceptions written in C keep outside their args and their `__dict__`.
_HIDDEN: tuple[tuple[type[BaseException], tuple[str, ...]], ...] = (
    (ImportError, ("name", "path")),
    (NameError, ("name",)),
    (AttributeError, ("name",)),
    (SyntaxError, ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset")),
)

# Names in a recorded state that are flux's own; no attribute of an object's has such a name there.
_NOTES = "__notes__"
_IS_CONTEXT = "__context__"  # the recorded cause is what was being handled, not what was named with `from`
_SUPPRESS = "__suppress_context__"  # `raise ... from None`

# Read past whatever a class calls by these names.
_CAUSE, _CONTEXT = BaseException.__dict__["__cause__"], BaseException.__dict__["__context__"]
_SUPPRESSED, _TRACEBACK = BaseException.__dict__["__suppress_context__"], BaseException.__dict__["__traceback__"]
_MEMBERS, _TITLE = BaseExceptionGroup.__dict__["exceptions"], BaseExceptionGroup.__dict__["message"]

# Raised anew, these would stop a process or a task instead of failing a step.
_CONTROL = (SystemExit, KeyboardInterrupt, GeneratorExit)


def capture(error: BaseException, codec: Codec) -> Failure:
    """The failure that records an exception: type, message, args, attributes, traceback text, cause or context, group members.

    Never raises, whatever the exception's own methods do.
    """
    try:
        return _Capture(codec).failure(error, CHAIN_LIMIT)
    except Exception:  # a class that answers even the plainest question with an exception
        return Failure(class_name(type(error)), _message(error)[:TEXT_LIMIT])


def rebuild(failure: Failure, codec: Codec) -> BaseException:
    """The exception that a failure records. Never raises.

    An instance of the same class with the same args, made without calling its `__init__`, when the class is imported or declared;
    else a `StepError` that names it, as for SystemExit and its like. What it was raised from is its `__cause__`, what was being
    handled when it was raised its `__context__`, the traceback text a note.
    """
    state = _stored_state(failure, codec)
    error = _same_class(failure, codec, state)
    if error is None:
        error = _stand_in(failure, codec)
    _chain(error, state, None if failure.cause is None else rebuild(failure.cause, codec))
    if failure.traceback:
        held = _attributes(error)
        notes = held.get(_NOTES)
        held[_NOTES] = [*(notes if isinstance(notes, list) else ()), _NOTE + failure.traceback]
    return error


def _chain(error: BaseException, state: dict[str, Any], other: BaseException | None) -> None:
    # Through the base class: an exception that is a frozen dataclass refuses an ordinary assignment.
    if other is not None:
        (_CONTEXT if _IS_CONTEXT in state else _CAUSE).__set__(error, other)
    elif _SUPPRESS in state:
        _SUPPRESSED.__set__(error, True)


class _Capture:
    """One recording. A chain that leads back into itself is cut there; what two others refer to is recorded twice."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._above: set[int] = set()  # ids of the exceptions that led to this one
        self._count = 0

    def failure(self, error: BaseException, depth: int) -> Failure:
        self._above.add(id(error))
        self._count += 1
        also: tuple[Failure, ...] = ()
        if isinstance(error, BaseExceptionGroup) and depth > 1:
            also = tuple(filter(None, (self._next(one, depth) for one in _MEMBERS.__get__(error)[:GROUP_LIMIT])))
        cause = self._next(_cause(error), depth)
        failure = Failure(
            self._type_name(error),
            _message(error)[:TEXT_LIMIT],
            self._encode(list(_args(error))),
            self._state(error, cause),
            _traceback_text(error),
            cause,
            also,
        )
        self._above.discard(id(error))
        return failure

    def _next(self, error: BaseException | None, depth: int) -> Failure | None:
        if error is None or depth <= 1 or id(error) in self._above or self._count >= TOTAL_LIMIT:
            return None
        return self.failure(error, depth - 1)

    def _type_name(self, error: BaseException) -> str:
        if type(error) is StepError and error.type_name:
            return error.type_name  # a stand-in keeps the name it stands for
        name = class_name(type(error))
        if self._codec.find_type(name) is not type(error):
            self._codec.declare(type(error))  # made in a function: no import leads to it
        return name

    def _state(self, error: BaseException, cause: Failure | None) -> str | None:
        state = _known_attributes(error)
        if cause is not None and _CAUSE.__get__(error) is None:
            state[_IS_CONTEXT] = True
        elif cause is None and _CAUSE.__get__(error) is None and _SUPPRESSED.__get__(error):
            state[_SUPPRESS] = True
        if not state:
            return None
        whole = self._encode(state)
        if whole is not None:
            return whole
        fitting = {name: value for name, value in state.items() if self._encode(value) is not None}
        return self._encode(fitting) if fitting else None

    def _encode(self, value: Any) -> str | None:
        try:
            text = self._codec.encode(value)
        except Exception:  # whatever a stranger's attribute does when it is looked at
            return None
        return text if len(text) <= ARGS_LIMIT else None


def _args(error: BaseException) -> tuple[Any, ...]:
    if isinstance(error, BaseExceptionGroup):
        return (_TITLE.__get__(error),)
    if isinstance(error, OSError):
        return tuple(OSError.__reduce__(error)[1])  # with the file names, which its args leave out
    args: tuple[Any, ...] = BaseException.__dict__["args"].__get__(error)
    return args


def _known_attributes(error: BaseException) -> dict[str, Any]:
    state = {name: value for name, value in raw_state(error).items() if type(name) is str}
    if type(error) is StepError:
        state.pop("type_name", None)
        state.pop("message", None)
    for kind, names in _HIDDEN:
        if isinstance(error, kind):
            hidden = {name: kind.__dict__[name].__get__(error) for name in names}
            state.update({name: value for name, value in hidden.items() if value is not None})
    own = [note for note in _notes(error) if not note.startswith(_NOTE)]
    if own:
        state[_NOTES] = own
    return state


def _notes(error: BaseException) -> list[str]:
    notes = _attributes(error).get(_NOTES)
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list | tuple) else []


def _attributes(error: BaseException) -> dict[str, Any]:
    held: dict[str, Any] = BaseException.__getattribute__(error, "__dict__")
    return held


def _cause(error: BaseException) -> BaseException | None:
    cause: BaseException | None = _CAUSE.__get__(error)
    if cause is not None or _SUPPRESSED.__get__(error):
        return cause
    context: BaseException | None = _CONTEXT.__get__(error)
    return context


def _message(error: BaseException) -> str:
    if type(error) is StepError and isinstance(error.message, str) and error.message:
        return error.message
    try:
        text = str(error)
    except BaseException as other:  # also one that would stop the process, or cancel this task: it is not this text's to decide
        return f"<no message: its __str__ raised {type(other).__name__}>"
    return text if type(text) is str else str.__str__(text)


def _traceback_text(error: BaseException) -> str:
    recorded = "".join(note.removeprefix(_NOTE) for note in _notes(error) if note.startswith(_NOTE))
    try:
        frames = _frames(_TRACEBACK.__get__(error))
    except Exception:  # reading source lines runs loaders of other people
        frames = ""
    if not frames:
        return recorded[-TEXT_LIMIT:]
    last = f"{type(error).__qualname__}: {_message(error)}"
    text = f"Traceback (most recent call last):\n{frames}{last if len(last) <= 500 else last[:500] + '...'}\n"
    return (f"{recorded}\nraised again:\n{text}" if recorded else text)[-TEXT_LIMIT:]


def _frames(start: TracebackType | None) -> str:
    if start is None:
        return ""
    frames = traceback.extract_tb(start, limit=-FRAME_LIMIT)
    outside = [frame for frame in frames if not frame.filename.startswith(_HOMES)]
    return "".join(traceback.StackSummary.from_list(outside or list(frames)).format())


# --- and back


def _same_class(failure: Failure, codec: Codec, state: dict[str, Any]) -> BaseException | None:
    try:
        cls = codec.find_type(failure.type)
        if cls is None or not issubclass(cls, BaseException) or issubclass(cls, _CONTROL) or _is_cancellation(cls):
            return None
        error = _instance(cls, failure, codec)
        if isinstance(error, BaseException):
            _restore(error, state)
            return error
    except Exception:  # no way to make one: the stand-in says what it was
        return None
    return None


def _is_cancellation(cls: type) -> bool:
    return cls is imported_class("asyncio.exceptions:CancelledError") or class_name(cls) == "trio:Cancelled"


def _instance(cls: type[BaseException], failure: Failure, codec: Codec) -> BaseException:
    args = _stored_args(failure, codec)
    base = _builtin_base(cls)
    if issubclass(cls, BaseExceptionGroup):
        members = [rebuild(one, codec) for one in failure.also]
        group: BaseException = base.__new__(cls, args[0], members or [StepError("its members were not recorded")])
        return group
    if cls.__module__ == errors.__name__ and failure.state is None and failure.args is None:
        return cls(*args)  # flux's own, found by flux itself: its defaults are wanted
    error: BaseException = base.__new__(cls, *args)
    base.__init__(error, *args)
    if not issubclass(cls, OSError):
        BaseException.__dict__["args"].__set__(error, args)
    return error


def _builtin_base(cls: type[BaseException]) -> Any:
    """The class in C that allocates an instance and keeps its fields, such as OSError for a FileNotFoundError of one's own."""
    base: type = cls
    while base.__module__ != "builtins" and base.__base__ is not None:
        base = base.__base__
    return base


def _stored_args(failure: Failure, codec: Codec) -> tuple[Any, ...]:
    if failure.args is None:
        return (failure.message,)
    try:
        return tuple(codec.decode(failure.args))
    except Exception:  # damaged, or a class of an argument is missing here
        return (failure.message,)


def _stored_state(failure: Failure, codec: Codec) -> dict[str, Any]:
    try:
        state = {} if failure.state is None else codec.decode(failure.state)
    except Exception:  # the class is worth more than its attributes: `except MyError` must take the same branch
        return {}
    return {name: value for name, value in state.items() if type(name) is str} if isinstance(state, dict) else {}


def _restore(error: BaseException, state: dict[str, Any]) -> None:
    hidden = {_IS_CONTEXT, _SUPPRESS, *[name for kind, names in _HIDDEN if isinstance(error, kind) for name in names]}
    restore_state(error, {name: value for name, value in state.items() if name not in hidden})
    for kind, names in _HIDDEN:
        for name in names:
            if isinstance(error, kind) and name in state:
                kind.__dict__[name].__set__(error, state[name])


def _stand_in(failure: Failure, codec: Codec) -> StepError:
    error = StepError(*_stored_args(failure, codec))
    error.type_name = failure.type
    error.message = failure.message
    return error

"""What a handler is given: `ctx`.

Everything a handler sees is decoded when it is touched, for this attempt alone: what it changes and does not commit is
gone with the attempt (S3.4), and one attempt never sees another's objects.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, cast

from typing_extensions import TypeVar

from .codec import Codec
from .core.commands import Changes
from .core.inside import arm_completed
from .core.patterns import frames_around
from .core.plan import UNDO, Sequence, base_path
from .core.state import RunState, StepState
from .core.status import StepStatus
from .core.workflow import Kind
from .errors import NotStorable
from .packing import has_halves

InputT = TypeVar("InputT", default=Any)
DataT = TypeVar("DataT", default=Any)

__all__ = ["Context", "Data", "Results"]

logger = logging.getLogger("flux.run")

_NUMBER = re.compile(r"\[(\d+)\]")
_SCALARS = frozenset({str, int, float, bool, type(None)})


class _UnreadValue:
    """Stands in the dict itself for a value that was not decoded yet: whoever reads past the methods stumbles over it (S15.1)."""

    def __repr__(self) -> str:
        return "<a value of the run's data that was not read: take dict(ctx.data)>"


_UNREAD: Any = _UnreadValue()


class Data(dict[str, Any]):
    """A run's data as one attempt sees it: a dict, also readable and writable as attributes.

    Values are decoded when first touched; what was touched and differs in the end is what the attempt changed (D22). The unit of
    change is the top-level key.
    """

    __slots__ = ("_codec", "_stored", "_texts", "_whole")

    def __init__(self, texts: Mapping[str, str], codec: Codec) -> None:
        if texts:
            super().__init__(dict.fromkeys(texts, _UNREAD))
        _set(self, "_texts", texts)  # as committed; never changed here
        _set(self, "_codec", codec)
        _set(self, "_stored", {})  # key -> the scalar it was decoded to: unchanged while identical
        _set(self, "_whole", not texts)

    # The dict itself holds every key, with _UNREAD for what was not touched: encoders in C take a dict that is empty for empty data.

    def _load(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if value is _UNREAD:
            value = self._codec.decode(self._texts[key])
            if type(value) in _SCALARS:
                self._stored[key] = value
            dict.__setitem__(self, key, value)
        return value

    def _load_all(self) -> None:
        if not self._whole:
            for key in list(dict.keys(self)):
                self._load(key)
            _set(self, "_whole", True)

    def __getitem__(self, key: str) -> Any:
        return self._load(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default."""
        try:
            return self._load(key)
        except KeyError:
            return default

    def __setitem__(self, key: str, value: Any) -> None:
        if type(key) is not str:
            raise TypeError(f"a key of the data is a str, got {type(key).__name__} {key!r}")
        dict.__setitem__(self, key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value, set to the default where there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        """Remove the key and return its value."""
        if key not in self and default:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def update(self, *others: Any, **values: Any) -> None:
        """Set several keys."""
        for key, value in dict(*others, **values).items():
            self[key] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self._load(name)
        except KeyError:
            raise AttributeError(f"the run's data has no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the run's data has no {name!r}") from None

    def changes(self, where: str) -> Changes | None:
        """What this attempt changed, encoded. Raises NotStorable naming the key (S15.1)."""
        found: Changes = {}
        for key, value in dict.items(self):
            if value is not _UNREAD and (key not in self._stored or self._stored[key] is not value):
                if has_halves(key):
                    raise NotStorable(f"{where}: data[{key!a}]: the key holds two halves of a surrogate pair as two characters")
                text = self._codec.encode(value, f"{where}: data[{key!r}]")
                if self._texts.get(key) != text:
                    found[key] = text
        if not self._texts.keys() <= dict.keys(self):
            found.update(dict.fromkeys(key for key in self._texts if key not in self))
        return found or None


_set: Callable[[Any, str, Any], None] = object.__setattr__


def _whole(name: str) -> Any:
    """A dict method that first needs every value."""
    method = getattr(dict, name)

    def call(self: Data, *args: Any) -> Any:
        self._load_all()
        return method(self, *args)

    call.__name__ = name
    call.__doc__ = f"As `dict.{name}`."
    return call


for _name in (
    "__iter__", "__len__", "__eq__", "__ne__", "__repr__", "__or__", "__ror__", "__reversed__", "keys", "values", "items",
    "popitem", "copy",
):  # fmt: skip
    setattr(Data, _name, _whole(_name))


def _clear(self: Data) -> None:
    """Remove every key."""
    self._load_all()
    dict.clear(self)


def _merge(self: Data, other: Any) -> Data:
    self.update(other)
    return self


def _as_dict(self: Data) -> dict[str, Any]:
    return dict(self.items())


def _deep(self: Data, memo: Any) -> dict[str, Any]:
    return copy.deepcopy(_as_dict(self), memo)


def _reduce(self: Data) -> tuple[Any, ...]:
    return dict, (_as_dict(self),)


Data.clear = _clear  # type: ignore[assignment,method-assign]
Data.__ior__ = _merge  # type: ignore[assignment,method-assign]
Data.__copy__ = _as_dict  # type: ignore[attr-defined]
Data.__deepcopy__ = _deep  # type: ignore[attr-defined]
Data.__reduce__ = _reduce  # type: ignore[assignment,method-assign]


class ReadOnlyData(Data):
    """The run's data as a compensation or a probe sees it: as last committed, not to be changed (S10.1)."""

    __slots__ = ()

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("a compensation or a probe reads the run's data, it cannot change it (S10.1)")

    def __delitem__(self, key: str) -> None:
        self[key] = None

    def clear(self) -> None:
        """Refused."""
        self[""] = None

    def popitem(self) -> Any:
        """Refused."""
        self[""] = None

    def changes(self, where: str) -> Changes | None:
        """None: what is nested inside a value may have been touched, and is dropped."""
        return None


class Results(Mapping[str, Any]):
    """What the steps of a run returned and its waits received, by name or path; decoded when touched.

    A name is looked up beside the asking step first, then outside. A skipped step has no result.
    """

    __slots__ = ("_asking", "_codec", "_state")

    def __init__(self, state: RunState, codec: Codec, asking: str = "") -> None:
        self._state = state
        self._codec = codec
        self._asking = asking

    def __getitem__(self, name: str) -> Any:
        for key in frames_around(self._asking):
            path = f"{key}/{name}" if key else name
            if self._has(path):
                return result_of(self._state, path, self._codec)
        raise KeyError(name)

    def _has(self, path: str) -> bool:
        st = self._state.steps.get(path)
        return st is not None and not st.node.aside and has_result(self._state, path)

    def __iter__(self) -> Iterator[str]:
        return (path for path in self._state.steps if "/" not in path and "[" not in path and self._has(path))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def has_result(state: RunState, path: str) -> bool:
    """Whether the step at `path` ended with a result."""
    st = state.steps[path]
    return st.result is not None or (st.status is StepStatus.COMPLETED and not st.node.aside)


def result_of(state: RunState, path: str, codec: Codec) -> Any:
    """The result of the step at `path`; where it went into a branch, a mapping of that branch's results (or the one)."""
    st = state.steps[path]
    if st.result is not None:
        return codec.decode(st.result)
    compose = _COMPOSERS.get(st.node.kind)
    return None if compose is None else compose(state, st, codec)


def _of_branch(state: RunState, key: str, body: Sequence, codec: Codec) -> Any:
    """What a branch came to: the value of its handler, or a mapping of its steps' results."""
    if body.single:
        return result_of(state, key, codec) if key in state.steps and has_result(state, key) else None
    paths = [(node.name, f"{key}/{node.name}") for node in body.nodes]
    return {name: result_of(state, path, codec) for name, path in paths if path in state.steps and has_result(state, path)}


def _of_wait(state: RunState, st: StepState, codec: Codec) -> Any:
    body = st.node.bodies.get("on_timeout")
    return None if body is None else _of_branch(state, f"{st.path}/on_timeout", body, codec)


def _of_parallel(state: RunState, st: StepState, codec: Codec) -> Any:
    bodies = {name: body for name, body in st.node.bodies.items() if arm_completed(state, st, f"{st.path}/{name}")}
    return {name: _of_branch(state, f"{st.path}/{name}", body, codec) for name, body in bodies.items()}


def _of_route(state: RunState, st: StepState, codec: Codec) -> Any:
    branch = "" if st.inside is None else st.inside.choice
    return {"branch": branch, "result": _of_branch(state, f"{st.path}/{branch}", st.node.bodies[branch], codec)}


def _of_turns(state: RunState, st: StepState, codec: Codec) -> Any:
    turns = 0 if st.inside is None else st.inside.turn
    return [_of_branch(state, f"{st.path}[{turn}]", st.node.bodies["body"], codec) for turn in range(1, turns + 1)]


def _of_items(state: RunState, st: StepState, codec: Codec) -> Any:
    if st.inside is None:
        return []
    keys = [f"{st.path}[{number}]" for number in range(1, len(st.inside.items) + 1)]
    return [_of_branch(state, key, st.node.bodies["body"], codec) if arm_completed(state, st, key) else None for key in keys]


_COMPOSERS: dict[Kind, Callable[[RunState, StepState, Codec], Any]] = {
    Kind.WAIT: _of_wait,
    Kind.PARALLEL: _of_parallel,
    Kind.ROUTE: _of_route,
    Kind.LOOP: _of_turns,
    Kind.FOR_EACH: _of_items,
}


class Context(Generic[InputT, DataT]):
    """What a handler is called with.

    Attributes: `run_id`, `workflow` and `version` (names), `step` (name), `path`, `attempt` (from 1), `idempotency_key`; `input`, `data`,
    `results`, `error` and `result` (in a compensation), `logger`.
    """

    __slots__ = ("_cache", "_codec", "_source", "_state", "attempt", "path", "run_id", "step")

    def __init__(self, source: Source, run_id: str, state: RunState, path: str, step: str, attempt: int) -> None:
        self._source = source
        self._codec = source.codec
        self._state = state
        self._cache: dict[str, Any] | None = None
        self.run_id = run_id
        self.path = path
        self.step = step
        self.attempt = attempt

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        cache = self._cache
        if cache is None:
            cache = self._cache = {}
        elif name in cache:
            return cache[name]
        value = cache[name] = make()
        return value

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self._state.workflow

    @property
    def version(self) -> str:
        """The workflow's version."""
        return self._state.version

    @property
    def input(self) -> InputT:
        """The run's input, as the declared type. In a compensation too: the run's input."""
        return cast(InputT, self._once("input", lambda: self._source.read_input(self._state.input)))

    @property
    def data(self) -> DataT:
        """The run's data, to be read and changed: a dict with attribute access, or the declared dataclass (D22)."""
        aside = "!" in self.path
        return cast(DataT, self._once("data", lambda: self._source.read_data(self._texts(), aside)))

    def _texts(self) -> dict[str, str]:
        """The data as it stood when this attempt first looked."""
        return cast("dict[str, str]", self._once("texts", lambda: self._state.data_at(self.path)))

    @property
    def item(self) -> Any:
        """In a `for_each`: the item that this body is run for. Raises AttributeError elsewhere."""
        return self._once("item", lambda: self._codec.decode(self._item()))

    def _item(self) -> str:
        st, number = self._turn_of(Kind.FOR_EACH, "item")
        assert st is not None and st.inside is not None
        return st.inside.items[number - 1]

    @property
    def index(self) -> int:
        """In a `for_each`: the place of the item, from 0. Raises AttributeError elsewhere."""
        return self._turn_of(Kind.FOR_EACH, "index")[1] - 1

    @property
    def turn(self) -> int:
        """In a `loop`: which turn this is, from 1. Raises AttributeError elsewhere."""
        return self._turn_of(Kind.LOOP, "turn")[1]

    def _turn_of(self, kind: Kind, name: str) -> tuple[StepState | None, int]:
        for found in reversed(list(_NUMBER.finditer(self.path))):
            st = self._state.steps.get(self.path[: found.start()])
            if st is None or st.node.kind is kind:  # before its first turn a loop has no state yet, and nothing else is asked for so early
                return st, int(found[1])
        raise AttributeError(f"ctx.{name} is there inside a {kind.value} only, and {self.path!r} is not in one")

    @property
    def results(self) -> Mapping[str, Any]:
        """What steps returned and waits received, by name."""
        return cast("Mapping[str, Any]", self._once("results", lambda: Results(self._state, self._codec, self.path)))

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt and every recovery of this step of this run; for passing to outside services (S3.5, D2)."""
        return cast(str, self._once("key", self._key))

    def _key(self) -> str:
        path, generation = self._state.key_of(self.path)
        return self._source.idempotency_key(self.run_id, self._state.continuation, path, generation, self.path.endswith(UNDO))

    @property
    def result(self) -> Any:
        """In a compensation: what the step returned, None where that is not known (S10.1). In a loop's test: what its last turn came to."""
        return self._once("result", self._undone_result)

    def show_turn(self, key: str) -> None:
        """For a loop's test, by the engine: `result` is that of the turn with this key."""
        body = self._state.steps[key.rpartition("[")[0]].node.bodies["body"]
        self._once("result", lambda: _of_branch(self._state, key, body, self._codec))

    def _undone_result(self) -> Any:
        text = self._state.result_text(base_path(self.path)) if self.path.endswith(UNDO) else None
        return None if text is None else self._codec.decode(text)

    @property
    def error(self) -> BaseException | None:
        """In a compensation: what went wrong. None elsewhere."""
        return cast("BaseException | None", self._once("error", self._cause))

    def _cause(self) -> BaseException | None:
        unwinding = self._state.unwinding
        return None if unwinding is None else self._source.rebuild(unwinding.failure)

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger (`flux.run`) whose records carry run_id, path and attempt as extras."""
        extra = {"run_id": self.run_id, "path": self.path, "attempt": self.attempt}
        return cast("logging.LoggerAdapter[logging.Logger]", self._once("logger", lambda: logging.LoggerAdapter(logger, extra)))

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far this attempt is (0 to 1). Not journaled: seen while it runs, gone afterwards (D26)."""
        self._source.progress(self.run_id, self.path, fraction, message)

    def changes(self) -> Changes | None:
        """What this attempt changed in the data, encoded; for the engine. Raises NotStorable."""
        cache = self._cache
        if cache is None or "data" not in cache or "!" in self.path:
            return None
        data = cache["data"]
        if isinstance(data, Data):
            return data.changes(self.path)
        return self._typed_changes(data)

    @property
    def connection(self) -> Any:
        """In a transactional step: the driver's own connection, inside the transaction that the step is committed with (S3.6)."""
        cache = self._cache
        if cache is None or "connection" not in cache:
            raise AttributeError(f"ctx.connection is there in a transactional step only, and {self.path!r} is not one")
        return cache["connection"]

    def lend(self, connection: Any) -> None:
        """Let the handler have this connection; for the engine."""
        self._once("connection", lambda: connection)

    def write_input(self, value: Any) -> str:
        """An input for the run's workflow, encoded; for the engine. Raises InvalidInput, NotStorable."""
        return self._source.write_input(value)

    def _typed_changes(self, data: Any) -> Changes | None:
        before = self._texts()
        found: Changes = {}
        for name in getattr(data, "__dict__", ()):
            if name not in self._source.data_names and not hasattr(type(data), name):
                raise NotStorable(f"{self.path}: data.{name}: {type(data).__name__} has no such field, and nothing else of it is stored")
        for field in dataclasses.fields(data):
            text = self._codec.encode(getattr(data, field.name), f"{self.path}: data.{field.name}")
            if before.get(field.name) != text:
                found[field.name] = text
        return found or None

    def __repr__(self) -> str:
        return f"<Context {self._state.workflow} {self.run_id} {self.path} attempt {self.attempt}>"


class Source:
    """What contexts of one workflow in one engine share: how to read input, data and errors."""

    __slots__ = ("codec", "data_names", "data_type", "idempotency_key", "progress", "read_input", "rebuild", "write_input")

    def __init__(
        self,
        codec: Codec,
        read_input: Callable[[str], Any],
        write_input: Callable[[Any], str],
        data_type: type[Any] | None,
        rebuild: Callable[[Any], BaseException],
        idempotency_key: Callable[[str, int, str, int, bool], str],
        progress: Callable[[str, str, float, str], None],
    ) -> None:
        self.codec = codec
        self.read_input = read_input
        self.write_input = write_input
        self.data_type = data_type
        self.data_names: frozenset[str] = frozenset()  # its fields, and what it gives itself beside them
        self.rebuild = rebuild
        self.idempotency_key = idempotency_key
        self.progress = progress

    def read_data(self, texts: Mapping[str, str], read_only: bool) -> Any:
        """The data for one attempt."""
        if self.data_type is None:
            return (ReadOnlyData if read_only else Data)(texts, self.codec)
        names = frozenset(field.name for field in dataclasses.fields(self.data_type))
        values = {key: self.codec.decode(text) for key, text in texts.items() if key in names}
        try:
            data = self.data_type(**values)
        except TypeError as error:
            raise NotStorable(f"the run's data does not make a {self.data_type.__name__}: {error}") from error
        self.data_names = names | set(getattr(data, "__dict__", ()))
        return data


if TYPE_CHECKING:
    _: Context[Any, Any]

"""Stored rows are data: whatever one names, nothing is imported and nothing is called (D21)."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest

from flux import FluxEngine, StepError, UnreadableRun, create_workflow
from flux.codec import JsonCodec, Undecodable
from flux.core.failure import Failure
from flux.failures import rebuild

from ..engine.cluster import Cluster
from .rows import write_result

pytestmark = pytest.mark.anyio

CALLED: list[str] = []


def noted(name: str) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        CALLED.append(name)
        raise AssertionError(f"{name} was called")

    return call


class Loud(Exception):
    """An exception with every door that a rebuilding could come through."""

    def __new__(cls, *args: Any) -> Any:
        CALLED.append("__new__")
        return super().__new__(cls, *args)

    __init__ = __setstate__ = __setattr__ = __reduce__ = __reduce_ex__ = __init_subclass__ = __eq__ = noted("Loud")
    with_traceback = add_note = noted("Loud")


def make() -> list[int]:
    CALLED.append("factory")
    return []


@dataclass
class Record:
    a: int
    b: list[int] = field(default_factory=make)

    __post_init__ = __setstate__ = noted("Record")

    @property
    def c(self) -> int:
        return int(noted("property")())


class Kind(Enum):
    A = 1

    @classmethod
    def _missing_(cls, value: object) -> Any:
        CALLED.append("_missing_")
        return cls.A


class Lazy(types.ModuleType):
    """A module that would import something when it is looked into."""

    def __getattr__(self, name: str) -> Any:
        CALLED.append(f"module {name}")
        raise AttributeError(name)


HERE = __name__
TARGETS = [
    "os:system", "builtins:eval", "builtins:exec", "builtins:__import__", "builtins:print", "subprocess:Popen", "subprocess:run",
    "sys:exit", "pickle:loads", "flux:FluxEngine", "flux.testing:VirtualClock", "pathlib:Path", "os:environ", "builtins:type",
    "builtins:dict", "os:_wrap_close", "antigravity:fly", "this:s", "not_there:Thing", "idlelib.idle:main", "", ":", "a",
    "builtins:", ":dict", "os.path:join", "builtins:object.__subclasses__", "../x:Y", "os:system\n", "__main__:x",
    f"{HERE}:noted", f"{HERE}:CALLED", f"{HERE}:pytest", "x" * 100_000, "\ud800:\0",
]  # fmt: skip

# What names a class, with the name left open.
FORMS: list[Any] = [
    ["~data", ["NAME", {"a": 1}]], ["~data", ["NAME", {}]], ["~named", ["NAME", {"a": 1}]], ["~enum", ["NAME", "A"]],
    ["~enum", ["NAME", None, 1]], ["~pydantic", ["NAME", {}, [], [], None]], ["~struct", ["NAME", {}]],
]  # fmt: skip


@pytest.mark.parametrize("form", range(len(FORMS)))
def test_names_in_values(form: int) -> None:
    """D21: only classes of the kind that was stored, declared or imported; anything else is Undecodable, in few printable words."""
    tag, payload = FORMS[form]
    before = set(sys.modules)
    for name in TARGETS:
        text = json.dumps({tag: [name, *payload[1:]]})
        with pytest.raises(Undecodable) as caught:
            JsonCodec().decode(text)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", TARGETS)
def test_names_in_exceptions(name: str) -> None:
    """D21: a failure that names anything but an exception class comes back as a StepError."""
    before = set(sys.modules)
    error = rebuild(Failure(name, "m", '["id"]', '{"__class__":"x","args":[1]}'), JsonCodec())
    assert type(error) is StepError and error.type_name == name and set(sys.modules) == before


def test_a_lazy_module_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """D21: looking for a class asks no module's `__getattr__`."""
    monkeypatch.setitem(sys.modules, "lazy_thing", Lazy("lazy_thing"))
    CALLED.clear()
    for tag, payload in FORMS:
        with pytest.raises(Undecodable):
            JsonCodec().decode(json.dumps({tag: ["lazy_thing:Thing", *payload[1:]]}))
    assert type(rebuild(Failure("lazy_thing:Thing", "m"), JsonCodec())) is StepError and CALLED == []


def test_classes_that_are_imported_are_filled_and_not_called() -> None:
    """D21: no constructor, no `__setstate__`, no factory, no property of a class that was not declared."""
    CALLED.clear()
    codec = JsonCodec()
    record = codec.decode(json.dumps({"~data": [f"{HERE}:Record", {"a": 1, "b": [2], "c": 3}]}))
    assert type(record) is Record and (record.a, record.b) == (1, [2])
    with pytest.raises(Undecodable, match="no field 'b'"):
        codec.decode(json.dumps({"~data": [f"{HERE}:Record", {"a": 1}]}))
    with pytest.raises(Undecodable):
        codec.decode(json.dumps({"~enum": [f"{HERE}:Kind", None, 99]}))
    error = rebuild(
        Failure(f"{HERE}:Loud", "m", '["x"]', '{"code":5,"__class__":"x","args":0,"__dict__":{},"__setstate__":1}', "tb"), codec
    )
    assert type(error) is Loud and error.args == ("x",) and vars(error)["code"] == 5
    assert CALLED == []


STATES = [
    '{"__notes__":5}', '{"__notes__":[5,"n"]}', '{"__context__":1,"__suppress_context__":2}', '{"args":5}', '{"__traceback__":"x"}',
    '{"__cause__":"x"}', '{"errno":"x","characters_written":"x"}', '{"~map":[[1,2]]}', '{"name":5,"path":{}}', '{"__dict__":5}', '[1]', "5",
]  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "name", ["ValueError", "OSError", "ImportError", "BlockingIOError", "ExceptionGroup", "UnicodeDecodeError", "SyntaxError"]
)
def test_states_that_no_capture_wrote(name: str, state: str) -> None:
    """D21, S15.2: rebuild never raises, and what it gives can be printed and raised."""
    for args in (None, "[]", '["m"]', '[1,"m","f"]', "5", '{"a":1}', '["m",[5]]'):
        failure = Failure(
            f"builtins:{name}", "m", args, state, "tb", Failure("builtins:KeyError", "k"), (Failure("builtins:ValueError", "v"),)
        )
        error = rebuild(failure, JsonCodec())
        with pytest.raises(BaseException) as caught:
            raise error
        assert caught.value is error and isinstance(str(error), str) and isinstance(repr(error), str)


@pytest.mark.parametrize("name", ["os:system", "not_there:Thing", f"{HERE}:Record", "builtins:eval"])
async def test_rows_through_the_engine(cluster: Cluster, name: str) -> None:
    """D21, S15.2: a tampered result is told with the run's id; a handler that reads it does not go on, and the run waits for a person."""
    CALLED.clear()
    reached: list[str] = []

    async def first(ctx: Any) -> str:
        return "x" * 40

    async def reads(ctx: Any) -> None:
        reached.append(str(ctx.results["first"]))

    flow = create_workflow("tampered").step("first", first).wait("go").step("reads", reads)
    engine = await cluster.open()
    await engine.execute(flow, id="bad")
    await engine.execute(flow, id="good")
    await engine.close()
    await write_result(cluster, "bad", json.dumps({"~data": [name, {}]}))
    other = await cluster.open()
    before = set(sys.modules)
    result = await other.get("bad")
    with pytest.raises(UnreadableRun, match="bad") as caught:
        _ = result.results
    assert caught.value.run_id == "bad" and result.status == "suspended" and "bad" in repr(result)
    with pytest.raises(UnreadableRun, match="bad"):
        _ = result.history[0].result
    assert (await other.signal(flow, "bad", "go")).status == "blocked"
    assert (await other.signal(flow, "good", "go")).status == "completed"
    assert CALLED == [] and reached == ["x" * 40] and set(sys.modules) == before


async def test_tag_like_dicts_of_users_stay_dicts(engine: FluxEngine) -> None:
    """D21: what a user's dict looks like is escaped, at any depth, and names nothing."""
    CALLED.clear()
    lookalikes = [{tag: [f"{HERE}:Record", *payload[1:]]} for tag, payload in FORMS] + [{"~": [{"~date": "x"}]}, {"~str": []}]
    flow = create_workflow("alike").step("echo", lambda ctx: {"all": ctx.input, "inner": [{"~": ctx.input}]})
    result = await engine.execute(flow, lookalikes)
    found = await engine.get(result.id)
    assert found.input == lookalikes and found.results["echo"] == {"all": lookalikes, "inner": [{"~": lookalikes}]} and CALLED == []

"""Values: stored and returned intact when legal, refused by name when not, alike on all storages (S15.1, S15.6, S15.7, D21)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flux import FluxEngine, NotStorable, Retry, Secret, create_workflow

from ..engine.cluster import Cluster
from .hostile import TEXTS, Grumpy, Shy

pytestmark = pytest.mark.anyio


def nested(depth: int, leaf: Any) -> Any:
    value = leaf
    for n in range(depth):
        value = [value] if n % 2 else {"k": value}
    return value


# Legal values, by what might happen to them on the way.
LEGAL: dict[str, Any] = {
    **{f"text: {name}": text for name, text in TEXTS.items()},
    "a date in disguise": {"~date": "2026-01-01"},
    "an escape in disguise": {"~": ["a", 1]},
    "a class in disguise": {"~data": ["os:system", {"command": "id"}]},
    "an exception in disguise": {"~error": ["builtins:SystemExit", [3]]},
    "an enum in disguise": {"~enum": ["os:environ", "PATH"]},
    "a secret in disguise": {"~secret": 1},
    "an unknown tag": {"~zz": 1},
    "a tag and more": {"~date": "x", "b": 1},
    "tags all the way": {"~": {"~": {"~str": ["a"]}}},
    "a key of a tag": {"~~": {"~tuple": [1]}},
    "a text that is JSON": '{"~date":"2026-01-01"}',
    "a text with a tag": '"~',
    "a prototype": {"__proto__": 1, "constructor": {"prototype": 1}},
    "dunder keys": {"__class__": "os", "__reduce__": ["os.system", ["id"]], "__dict__": {}},
    "keys that are hostile": dict.fromkeys([text for text in TEXTS.values() if len(text) < 100], 1),
    "keys that look alike": {"é": 1, "e\u0301": 2, "a": 3, "\u0430": 4, "A": 5, "a ": 6},
    "keys of other types": {1: "one", "1": "text", None: 2, (1, "a"): 3, b"b": 4, 1.5: 5},
    "beyond 64 bits": [2**63, -(2**63) - 1, 2**64, 10**300, -(10**300)],
    "beyond 53 bits": [2**53 + 1, 2**63 - 1],
    "numbers at the edge": [0, -0.0, 5e-324, 1.7976931348623157e308, 1e16, True, 1, 1.0],
    "bytes": [b"", b"\0\xff", bytearray(b"'; DROP"), "AAE="],
    "sets": [{"a"}, frozenset({None}), set()],
    "empty things": [None, "", [], {}, (), b""],
    "decimals": [Decimal("NaN"), Decimal("-0.10"), Decimal("1E+999")],
    "an instant": datetime(2026, 1, 1, tzinfo=UTC),
    "a path": Path("../../etc/passwd"),
    "deep": nested(60, "leaf"),
    "wide": list(range(50_000)),
    "large": "x" * 1_000_000,
    "a secret": Secret({"token": "\0'"}),
}


def shape(value: Any) -> str:
    """Everything that tells values apart, types and signs too."""
    return repr(value.reveal() if isinstance(value, Secret) else value)


@pytest.mark.parametrize("name", LEGAL)
async def test_legal_values_come_back_intact(cluster: Cluster, name: str) -> None:
    """S15.6, D21: as an input, in the data, as a result, as a payload; in this engine and in another one."""
    value = LEGAL[name]

    async def keep(ctx: Any) -> Any:
        assert shape(ctx.input) == shape(value)
        ctx.data["value"] = ctx.input
        return ctx.data["value"]

    flow = create_workflow("keep").step("keep", keep).wait("go").step("last", lambda ctx: ctx.results["go"])
    engine, other = await cluster.open(), await cluster.open()
    run_id = (await engine.execute(flow, value)).id
    await engine.signal(flow, run_id, "go", value)
    for reader in (engine, other):
        result = await reader.get(run_id)
        assert result.status == "completed", result.error
        found = [result.input, result.data["value"], *result.results.values()]
        assert [shape(one) for one in found] == [shape(value)] * 5 and [type(one) for one in found] == [type(value)] * 5


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("huge", "two halves")])
async def test_any_text_is_a_key_of_the_data(cluster: Cluster, name: str) -> None:
    """S15.6: kept, changed and removed under its very name."""
    key = TEXTS[name]

    async def write(ctx: Any) -> None:
        ctx.data[key] = 1
        ctx.data["other"] = 2

    async def change(ctx: Any) -> None:
        assert ctx.data[key] == 1
        ctx.data[key] = {key: key}

    async def drop(ctx: Any) -> None:
        del ctx.data[key]

    flow = create_workflow("keys").step("write", write).step("change", change).wait("go").step("drop", drop)
    engine, other = await cluster.open(), await cluster.open()
    run_id = (await engine.execute(flow)).id
    assert (await other.get(run_id)).data == {key: {key: key}, "other": 2}
    assert (await other.signal(flow, run_id, "go")).data == {"other": 2}
    assert (await engine.get(run_id)).data == {"other": 2}


async def test_a_key_that_would_come_back_as_another_one(engine: FluxEngine) -> None:
    """S15.1, S15.6: no key changes quietly: JSON would make one character of these two."""

    async def write(ctx: Any) -> None:
        ctx.data["\ud83d\ude00"] = 1

    result = await engine.execute(create_workflow("keys").step("write", write))
    assert type(result.error) is NotStorable and "write: data['\\ud83d\\ude00']" in str(result.error)
    assert result.data == {} and result.history[0].attempts == 1


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "huge"])
async def test_any_text_is_an_argument_of_an_exception(cluster: Cluster, name: str) -> None:
    """S3.9, S15.6: message and arguments come back as they were."""
    text = TEXTS[name]

    async def fail(ctx: Any) -> None:
        raise ValueError(text, {text: text})

    engine, other = await cluster.open(), await cluster.open()
    run_id = (await engine.execute(create_workflow("fails").step("fail", fail, retries=0))).id
    for reader in (engine, other):
        error = (await reader.get(run_id)).error
        assert type(error) is ValueError and error.args == (text, {text: text})


# --- what is refused


def cycle() -> Any:
    value: dict[str, Any] = {}
    value["self"] = [value]
    return value


def long_way_round() -> Any:
    a: list[Any] = []
    b = {"a": a}
    a.append((b,))
    return a


def shared(depth: int) -> Any:
    value: Any = ["x"]
    for _ in range(depth):
        value = [value, value]
    return value


ILLEGAL: dict[str, Callable[[], Any]] = {
    "NaN": lambda: float("nan"),
    "infinity, inside": lambda: {"a": [1, {"b": float("inf")}]},
    "a cycle": cycle,
    "a long cycle": long_way_round,
    "too deep": lambda: nested(65, 1),
    "far too deep": lambda: nested(100_000, 1),
    "too large": lambda: "x" * (1 << 20),
    "too large in all": lambda: {str(n): "x" * 1000 for n in range(1100)},
    "too large for its escapes": lambda: "\0" * 200_000,
    "a bomb": lambda: shared(60),
    "a number of 5,000 digits": lambda: 10**5000,
    "a function": lambda: cycle,
    "a class": lambda: dict,
    "a module": lambda: pytest,
    "a lock": threading.Lock,
    "a generator": lambda: (n for n in ()),
    "an exception": lambda: ValueError("x"),
    "an object": object,
    "grumpy": Grumpy,
    "shy": Shy,
    "grumpy, as a key": lambda: {frozenset(): Grumpy()},
    "grumpy, in a secret": lambda: Secret([Grumpy()]),
    "a subclass of str": lambda: type("Loud", (str,), {})("x"),
    "a subclass of dict": lambda: type("Odd", (dict,), {})(),
}


@pytest.mark.parametrize("name", [name for name in ILLEGAL if name != "a bomb"])
async def test_illegal_values_are_refused_at_the_caller(engine: FluxEngine, name: str) -> None:
    """S15.1: NotStorable from `execute`, `start` and `signal`, in few words; nothing is stored, and the run waits as before."""
    flow = create_workflow("waits").wait("go")
    await engine.execute(flow, id="waiting")
    for call in (
        lambda: engine.execute(flow, ILLEGAL[name]()),
        lambda: engine.start(flow, [ILLEGAL[name]()]),
        lambda: engine.signal(flow, "waiting", "go", ILLEGAL[name]()),
        lambda: engine.signal(flow, "waiting", "go", {"k": ILLEGAL[name]()}),
    ):
        with pytest.raises(NotStorable) as caught:
            await call()
        assert len(str(caught.value)) < 500 and str(caught.value).isprintable()
    assert len((await engine.list()).runs) == 1 and (await engine.get("waiting")).waiting_for == ("go",)
    assert (await engine.signal(flow, "waiting", "go", "well")).results == {"go": "well"}


@pytest.mark.parametrize("where", ["result", "data"])
@pytest.mark.parametrize("name", ILLEGAL)
async def test_illegal_values_fail_their_step(engine: FluxEngine, name: str, where: str) -> None:
    """S15.1: in a handler they are that step's error, not retried; what was recorded before stays."""

    async def make(ctx: Any) -> Any:
        if where == "result":
            return ILLEGAL[name]()
        ctx.data["bad"] = ILLEGAL[name]()

    flow = create_workflow("makes").step("before", lambda ctx: 1).step("make", make, retries=5, retry=Retry(initial=0, jitter=False))
    result = await engine.execute(flow)
    assert result.status == "failed" and type(result.error) is NotStorable and "make" in str(result.error)
    assert result.results == {"before": 1} and result.data == {} and result.history[1].attempts == 1


@pytest.mark.parametrize("key", [1, None, b"a", ("a",), 1.5])
async def test_keys_of_the_data_are_texts(engine: FluxEngine, key: Any) -> None:
    """S15.1: another key is refused where it is set, by its type."""

    async def make(ctx: Any) -> None:
        ctx.data[key] = 1

    result = await engine.execute(create_workflow("makes").step("make", make))
    assert result.status == "failed" and isinstance(result.error, TypeError) and type(key).__name__ in str(result.error)

"""What handlers are given, and that attempts do not see one another."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest

from flux import FluxEngine, Retry, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


@dataclass
class Basket:
    items: list[str] = field(default_factory=list)
    total: int = 0
    note: str | None = None


async def nothing(ctx: Any) -> None:
    return None


async def test_what_a_handler_sees(engine: FluxEngine) -> None:
    """api.md: the attributes of ctx."""
    seen: dict[str, Any] = {}

    async def look(ctx: Any) -> None:
        for name in ("run_id", "workflow", "version", "step", "path", "attempt", "input", "error"):
            seen[name] = getattr(ctx, name)
        ctx.progress(0.4, "nearly half")

    flow = create_workflow("see", version="7").step("look", look)
    await engine.execute(flow, {"a": 1}, id="r")
    assert seen == {
        "run_id": "r", "workflow": "see", "version": "7", "step": "look", "path": "look", "attempt": 1, "input": {"a": 1}, "error": None,
    }  # fmt: skip


async def test_data_is_a_dict_with_attributes(engine: FluxEngine) -> None:
    """api.md: `ctx.data` is a mutable dict, attribute access too; deletions and nested changes are changes (D22)."""

    async def fill(ctx: Any) -> None:
        ctx.data.total = 1
        ctx.data["lines"] = [{"sku": "x"}]
        ctx.data.update(gone=1, popped=2, kept=3)

    async def change(ctx: Any) -> None:
        assert ctx.data["total"] == ctx.data.total == 1 and "lines" in ctx.data and len(ctx.data) == 5
        ctx.data.lines[0]["sku"] = "y"
        ctx.data["lines"].append({"sku": "z"})
        del ctx.data.gone
        assert ctx.data.pop("popped") == 2 and ctx.data.pop("popped", None) is None
        assert ctx.data.get("nothing") is None and ctx.data.setdefault("new", []) == []
        ctx.data.new.append(1)
        with pytest.raises(AttributeError):
            ctx.data.absent
        with pytest.raises(KeyError):
            ctx.data["absent"]

    async def look(ctx: Any) -> dict[str, Any]:
        return dict(ctx.data)

    flow = create_workflow("data").step("fill", fill).step("change", change).step("look", look)
    result = await engine.execute(flow)
    expected = {"total": 1, "lines": [{"sku": "y"}, {"sku": "z"}], "kept": 3, "new": [1]}
    assert result.error is None
    assert result.results["look"] == expected == result.data == (await engine.get(result.id)).data


async def test_clearing_the_data(engine: FluxEngine) -> None:
    """D22: what is cleared is gone for later steps."""

    async def fill(ctx: Any) -> None:
        ctx.data.update(a=1, b=2)

    async def clear(ctx: Any) -> None:
        ctx.data.clear()
        ctx.data.c = 3

    result = await engine.execute(create_workflow("clear").step("fill", fill).step("clear", clear).step("end", nothing))
    assert result.data == {"c": 3} == (await engine.get(result.id)).data


READERS: dict[str, Callable[[Any], Any]] = {
    "json": lambda data: json.loads(json.dumps(data)),
    "json, nested": lambda data: json.loads(json.dumps({"in": [data]}))["in"][0],
    "json, indented": lambda data: json.loads(json.dumps(data, indent=1)),
    "dict": dict,
    "unpacked": lambda data: {**data},
    "keywords": lambda data: dict(**data),
    "or": lambda data: data | {},
    "or, on the right": lambda data: {} | data,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda data: pickle.loads(pickle.dumps(data)),
    "equal": lambda data: {"a": 1, "b": {"c": [2]}} if data == {"a": 1, "b": {"c": [2]}} and len(data) == 2 and data else None,
    "order": lambda data: {key: data[key] for key in ("a", "b")} if list(data) == ["a", "b"] == list(data.keys()) else None,
}


@pytest.mark.parametrize("touched", ["nothing", "one"])
@pytest.mark.parametrize("reader", READERS)
async def test_whoever_reads_the_data_as_a_dict_gets_all_of_it(engine: FluxEngine, reader: str, touched: str) -> None:
    """api.md: `ctx.data` is a dict, also for encoders in C, which look at the dict itself to see whether it is empty."""

    def fill(ctx: Any) -> None:
        ctx.data.update(a=1, b={"c": [2]})

    def read(ctx: Any) -> Any:
        assert touched == "nothing" or ctx.data["a"] == 1
        return READERS[reader](ctx.data)

    result = await engine.execute(create_workflow("read").step("fill", fill).step("read", read, retries=0), {})
    assert result.results["read"] == {"a": 1, "b": {"c": [2]}}, result.error
    assert result.data == {"a": 1, "b": {"c": [2]}}


async def test_the_data_after_deletions(engine: FluxEngine) -> None:
    """D22: what was deleted is gone for every reader; a key that comes again is there again; data without keys is empty."""
    seen: list[Any] = []

    def change(ctx: Any) -> None:
        seen.append((json.dumps(ctx.data), len(ctx.data), bool(ctx.data), list(ctx.data), ctx.data == {}, {**ctx.data}))
        ctx.data.update(a=1, b=2)

    def delete(ctx: Any) -> None:
        del ctx.data["a"]
        with pytest.raises(KeyError):
            del ctx.data["a"]
        seen.append((json.dumps(ctx.data), "a" in ctx.data, ctx.data.get("a")))
        ctx.data["new"] = 1
        del ctx.data["new"]
        del ctx.data["b"]
        seen.append((json.dumps(ctx.data), len(ctx.data)))
        ctx.data["b"] = 3

    flow = create_workflow("delete").step("change", change).step("delete", delete, retries=0)
    result = await engine.execute(flow, {})
    assert result.status == "completed", result.error
    assert seen == [("{}", 0, False, [], True, {}), ('{"b": 2}', False, None), ("{}", 0)] and result.data == {"b": 3}


async def test_a_reader_of_the_dict_itself_fails_and_is_told(engine: FluxEngine) -> None:
    """S15.1: what passes the methods by meets a value that says that it was not read; nothing is lost in silence."""

    def read(ctx: Any) -> Any:
        return repr(dict.__getitem__(ctx.data, "a"))

    def deep(ctx: Any) -> Any:
        copy.deepcopy(ctx.data)["a"].append(1)

    flow = create_workflow("raw").step("fill", lambda ctx: ctx.data.update(a=[])).step("read", read).step("deep", deep)
    result = await engine.execute(flow, {})
    assert "was not read" in result.results["read"] and result.data == {"a": []}


async def test_each_attempt_starts_from_the_committed_data(engine: FluxEngine) -> None:
    """S3.4: what a failed attempt changed is gone, nested or not."""
    seen: list[Any] = []

    async def first(ctx: Any) -> None:
        ctx.data.update(n=1, deep={"list": [1]})

    async def flaky(ctx: Any) -> None:
        seen.append((ctx.data["n"], ctx.data["deep"]["list"][:], "extra" in ctx.data, ctx.attempt))
        ctx.data["n"] += 1
        ctx.data["deep"]["list"].append(2)
        ctx.data["extra"] = True
        if ctx.attempt < 3:
            raise OSError("again")

    flow = create_workflow("isolated").step("first", first).step("flaky", flaky, retries=5, retry=AT_ONCE)
    result = await engine.execute(flow)
    assert seen == [(1, [1], False, 1), (1, [1], False, 2), (1, [1], False, 3)]
    assert result.data == {"n": 2, "deep": {"list": [1, 2]}, "extra": True}


async def test_a_failed_step_leaves_the_data_alone(engine: FluxEngine) -> None:
    """S3.4: also when it fails for good."""

    async def good(ctx: Any) -> None:
        ctx.data["a"] = 1

    async def bad(ctx: Any) -> None:
        ctx.data["a"] = 2
        raise ValueError

    result = await engine.execute(create_workflow("bad").step("good", good).step("bad", bad, retries=0))
    assert result.data == {"a": 1} == (await engine.get(result.id)).data


async def test_input_and_results_are_copies(engine: FluxEngine) -> None:
    """I43: a handler that changes its input, a result, or what it returned changes nothing that is stored."""
    returned = {"n": [1]}
    given = {"list": [1]}

    async def make(ctx: Any) -> Any:
        ctx.input["list"].append(2)
        ctx.data["shared"] = returned
        return returned

    async def change(ctx: Any) -> None:
        returned["n"].append(99)
        ctx.results["make"]["n"].append(100)
        ctx.input["list"].append(3)

    async def look(ctx: Any) -> Any:
        return [ctx.input, ctx.results["make"], ctx.data["shared"]]

    flow = create_workflow("copies").step("make", make).step("change", change).step("look", look)
    result = await engine.execute(flow, given)
    assert result.results["look"] == [{"list": [1]}, {"n": [1]}, {"n": [1]}]
    assert given == {"list": [1]} and result.input == {"list": [1]}


async def test_typed_data(engine: FluxEngine) -> None:
    """api.md: `.data(Type)` gives the declared dataclass, whose defaults the run begins with."""
    seen: list[Any] = []

    async def fill(ctx: Any) -> None:
        assert type(ctx.data) is Basket and ctx.data == Basket()
        ctx.data.items.append("x")
        ctx.data.total += 5

    async def flaky(ctx: Any) -> None:
        seen.append(ctx.data.total)
        ctx.data.total += 1
        if ctx.attempt == 1:
            raise OSError

    flow = create_workflow("basket").data(Basket).step("fill", fill).step("flaky", flaky, retry=AT_ONCE)
    result = await engine.execute(flow)
    assert result.error is None and seen == [5, 5]
    assert result.data == {"items": ["x"], "total": 6, "note": None}


async def test_a_field_that_typed_data_does_not_have(engine: FluxEngine) -> None:
    """S15.1: it would be lost, and is refused; what the class gives itself is its own."""

    @dataclass
    class Sums:
        total: int = 0

        def __post_init__(self) -> None:
            self.seen = 0

        @cached_property
        def twice(self) -> int:
            return 2 * self.total

    async def add(ctx: Any) -> None:
        ctx.data.total, ctx.data.seen = ctx.data.twice + 1, 1
        if ctx.input:
            ctx.data.totl = 5

    flow = create_workflow("sums").data(Sums).step("add", add)
    assert (await engine.execute(flow)).data == {"total": 1}
    result = await engine.execute(flow, "typo")
    assert result.status == "failed" and "add: data.totl: Sums has no such field" in str(result.error)


async def test_typed_data_begins_as_one_object(engine: FluxEngine) -> None:
    """api.md: the defaults that a run begins with are those of one object: fields that belong together do."""
    numbers = itertools.count(1)

    @dataclass
    class Order:
        number: int = field(default_factory=lambda: next(numbers))
        label: str = ""

        def __post_init__(self) -> None:
            self.label = self.label or f"order {self.number}"

    result = await engine.execute(create_workflow("order").data(Order).step("go", nothing))
    assert result.data == {"number": 1, "label": "order 1"}


async def test_results_by_name(engine: FluxEngine) -> None:
    """api.md: `ctx.results` has what steps returned; a skipped step has none."""

    async def look(ctx: Any) -> Any:
        with pytest.raises(KeyError):
            ctx.results["skipped"]
        return [dict(ctx.results), list(ctx.results), len(ctx.results), ctx.results.get("later")]

    flow = (
        create_workflow("results")
        .step("one", lambda ctx: 1)
        .step("skipped", nothing, when=lambda ctx: False)
        .step("none", nothing)
        .step("look", look)
        .step("later", nothing)
    )
    result = await engine.execute(flow)
    assert result.results["look"] == [{"one": 1, "none": None}, ["one", "none"], 2, None]


async def test_the_idempotency_key_is_stable(cluster: Cluster) -> None:
    """S3.5, D2: one key a path, for all attempts and after a crash; another for other steps and other runs; a compensation's is its own."""
    keys: dict[str, list[str]] = {"a": [], "b": [], "undo": []}
    engine = await cluster.open()

    def handler(name: str, fail_until: int) -> Any:
        async def handle(ctx: Any) -> None:
            keys[name].append(ctx.idempotency_key)
            if ctx.attempt < fail_until:
                raise OSError

        return handle

    async def undo(ctx: Any) -> None:
        keys["undo"].append(ctx.idempotency_key)

    async def fail(ctx: Any) -> None:
        raise ValueError

    flow = (
        create_workflow("keys")
        .step("a", handler("a", 3), retry=AT_ONCE, compensate=undo)
        .step("b", handler("b", 1))
        .step("fail", fail, retries=0)
    )
    await engine.execute(flow, id="r-1")
    assert len(keys["a"]) == 3 and len(set(keys["a"])) == 1 and keys["a"][0] != keys["b"][0]
    assert keys["undo"] == [keys["a"][0] + "!undo"]
    await engine.execute(flow, id="r-2")
    assert len(set(keys["a"])) == 2


async def test_compensations_read_the_data_only(engine: FluxEngine) -> None:
    """S10.1, D22: in a compensation the data is the last committed, and cannot be changed."""
    seen: list[Any] = []

    async def fill(ctx: Any) -> None:
        ctx.data["list"] = [1]

    async def more(ctx: Any) -> None:
        ctx.data["list"].append(2)

    async def undo(ctx: Any) -> None:
        seen.append(ctx.data["list"][:])
        ctx.data["list"].append(3)
        data = ctx.data
        for change in (lambda: data.update(x=1), lambda: data.pop("list"), lambda: data.clear(), lambda: setattr(data, "x", 1)):
            with pytest.raises(TypeError):
                change()

    async def fail(ctx: Any) -> None:
        ctx.data["list"].append(4)
        raise ValueError

    flow = create_workflow("readonly").step("fill", fill, compensate=undo).step("more", more, compensate=undo).step("fail", fail, retries=0)
    result = await engine.execute(flow)
    assert result.compensation_errors == {}
    assert seen == [[1, 2], [1, 2]] and result.data == {"list": [1, 2]} == (await engine.get(result.id)).data


async def test_the_logger_knows_the_step(engine: FluxEngine, caplog: pytest.LogCaptureFixture) -> None:
    """api.md: `ctx.logger` says which run and which step."""

    async def log(ctx: Any) -> None:
        ctx.logger.info("hello")

    with caplog.at_level(logging.INFO, logger="flux.run"):
        await engine.execute(create_workflow("logs").step("log", log), id="r")
    (record,) = [record for record in caplog.records if record.name == "flux.run"]
    assert (record.message, record.run_id, record.path, record.attempt) == ("hello", "r", "log", 1)  # type: ignore[attr-defined]


async def test_a_ctx_of_one_run_says_nothing_of_another(engine: FluxEngine) -> None:
    """I18: two runs of one workflow share nothing."""
    effects = Effects()

    async def put(ctx: Any) -> None:
        assert "who" not in ctx.data
        ctx.data["who"] = ctx.input
        effects.done.append(ctx.input)

    flow = create_workflow("apart").step("put", put).step("end", lambda ctx: ctx.data["who"])
    for who in ("x", "y"):
        assert (await engine.execute(flow, who)).results["end"] == who

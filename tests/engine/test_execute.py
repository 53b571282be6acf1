"""Running to the end: results, inputs, identities."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

import flux
from flux import (
    EngineClosed,
    FluxEngine,
    Hooks,
    InvalidArgument,
    InvalidInput,
    InvalidWorkflow,
    NotStorable,
    Retry,
    RunConflict,
    RunNotFound,
    RunStatus,
    StepStatus,
    branch,
    create_workflow,
)
from flux_storage import MemoryStorage

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio


@dataclass
class Line:
    sku: str
    quantity: int = 1


@dataclass
class Order:
    id: str
    lines: list[Line] = field(default_factory=list)
    due: datetime | None = None


class OrderDict(TypedDict):
    id: str
    count: int


class OrderModel(pydantic.BaseModel):
    id: str
    count: int


class OrderStruct(msgspec.Struct):
    id: str
    count: int


async def nothing(ctx: Any) -> None:
    return None


async def echo(ctx: Any) -> Any:
    return ctx.input


# --- the happy path


async def test_result_shape(engine: FluxEngine) -> None:
    """S3.3, S16: what `execute` returns after the end."""

    async def one(ctx: Any) -> dict[str, int]:
        ctx.data["total"] = 5
        return {"n": 1}

    async def two(ctx: Any) -> int:
        ctx.data["total"] += ctx.results["one"]["n"]
        return int(ctx.data["total"])

    flow = create_workflow("sum").step("one", one).step("two", two)
    result = await engine.execute(flow, {"a": 1}, id="sum-1")
    assert (result.id, result.workflow, result.version) == ("sum-1", "sum", "1")
    assert result.status is RunStatus.COMPLETED and result.status == "completed"
    assert result.input == {"a": 1} and result.data == {"total": 6} and result.results == {"one": {"n": 1}, "two": 6}
    assert result.error is None and result.waiting_for == () and result.wake_at is None and result.blocked_reason is None
    assert result.compensation_errors == {} and result.unwrap() == {"total": 6} and result.finished
    assert result.completed_at is not None and result.completed_at >= result.created_at
    assert result.duration == (result.completed_at - result.created_at).total_seconds()
    assert result.created_at.tzinfo is not None


async def test_history_lines(engine: FluxEngine) -> None:
    """S16: one line a step, in order, with what it came to."""
    flow = create_workflow("lines").step("a", echo).commit("b", echo).step("c", echo, when=lambda ctx: False)
    result = await engine.execute(flow, 7)
    first, second, third = result.history
    assert (first.name, first.path, first.kind, first.status, first.attempts, first.result) == (
        "a", "a", "step", StepStatus.COMPLETED, 1, 7,
    )  # fmt: skip
    assert first.error is None and first.compensation is None and first.waiting_for is None
    assert first.started_at is not None and first.completed_at is not None and first.duration is not None
    assert second.kind == "commit" and second.status == "completed"
    assert third.status == "skipped" and third.attempts == 0 and third.result is None


async def test_get_shows_the_same(engine: FluxEngine) -> None:
    """S3.2: the stored run tells what the caller was told."""
    flow = create_workflow("same").step("a", echo).step("b", echo)
    result = await engine.execute(flow, {"x": [1, 2]})
    stored = await engine.get(result.id)
    for name in ("id", "status", "input", "data", "results", "duration", "created_at", "completed_at", "waiting_for"):
        assert getattr(stored, name) == getattr(result, name), name
    assert [(line.path, line.status, line.result, line.started_at) for line in await engine.history(result.id)] == [
        (line.path, line.status, line.result, line.started_at) for line in result.history
    ]


async def test_values_come_back_as_they_were(engine: FluxEngine) -> None:
    """I44: rich values survive between steps and in the result."""
    when = datetime(2026, 5, 1, tzinfo=timezone.utc)
    value = {"when": when, "price": Decimal("1.10"), "raw": b"\x00", "set": {1, 2}, "d": timedelta(days=1)}

    async def make(ctx: Any) -> Any:
        return value

    async def check(ctx: Any) -> bool:
        return bool(ctx.results["make"] == value)

    result = await engine.execute(create_workflow("rich").step("make", make).step("check", check))
    assert result.results["check"] is True and result.results["make"] == value


async def test_a_step_that_returns_nothing(engine: FluxEngine) -> None:
    """Functions that return nothing are fine, and done."""
    result = await engine.execute(create_workflow("none").step("a", nothing))
    assert result.status == "completed" and result.results == {"a": None}


async def test_a_handler_may_be_anything_callable(engine: FluxEngine) -> None:
    """S1.5: methods, callable objects, lambdas and partials, `def` or `async def`."""
    from functools import partial

    class Object:
        async def method(self, ctx: Any) -> str:
            return "method"

        async def __call__(self, ctx: Any) -> str:
            return "call"

    async def with_more(ctx: Any, more: str) -> str:
        return more

    flow = (
        create_workflow("callables")
        .step("method", Object().method)
        .step("object", Object())
        .step("partial", partial(with_more, more="partial"))
        .step("lambda", lambda ctx: "lambda")
        .step("lambda_async", lambda ctx: with_more(ctx, "late"))
    )
    assert (await engine.execute(flow)).results == {
        "method": "method", "object": "call", "partial": "partial", "lambda": "lambda", "lambda_async": "late",
    }  # fmt: skip


async def test_a_failed_run_does_not_raise(engine: FluxEngine) -> None:
    """api.md: the result says `failed` and carries the error; `unwrap` raises it."""

    async def fail(ctx: Any) -> None:
        raise ValueError("no")

    result = await engine.execute(create_workflow("fails").step("a", fail, retries=0).step("b", nothing))
    assert result.status == "failed" and isinstance(result.error, ValueError) and result.error.args == ("no",)
    assert [line.path for line in result.history] == ["a"]
    with pytest.raises(flux.RunFailed, match="no") as caught:
        result.unwrap()
    assert isinstance(caught.value.__cause__, ValueError)


class Unbuildable:
    pass


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        (create_workflow("bad").input(Unbuildable).step("go", nothing), "workflow 'bad', the input: type Unbuildable"),
        (create_workflow("bad").wait("go", type=list[Unbuildable]), "workflow 'bad', step 'go': type Unbuildable"),
        (create_workflow("bad").wait("go", timeout=1, default=object()), "workflow 'bad', step 'go': default: a value of type object"),
        (
            create_workflow("good").parallel("both", a=nothing, b=branch().wait("go", timeout=1, default=float("nan"))),
            "workflow 'good', step 'go': default: NaN",
        ),
    ],
)
def test_what_cannot_be_registered_is_named(flow: Any, words: str) -> None:
    """S1.4: types and defaults are looked at when it is registered; the error names the workflow and the step, among many."""
    with pytest.raises(InvalidWorkflow, match=words):
        FluxEngine(workflows=[create_workflow("other").step("go", nothing), flow])


class Names(str, Enum):
    FLOW = "flow"
    STEP = "step"
    INNER = "inner"
    LEFT = "left"
    GO = "go"
    RUN = "run-1"


async def where(ctx: Any) -> list[str]:
    assert {type(ctx.step), type(ctx.path), type(ctx.run_id), type(ctx.workflow)} == {str}
    return [ctx.step, ctx.path, ctx.run_id]


INSIDE = branch().step(Names.INNER, where).wait(Names.GO)


@pytest.mark.parametrize(
    ("flow", "at"),
    [
        (create_workflow(Names.FLOW).step(Names.INNER, where).wait(Names.GO, after=[Names.INNER]), ""),
        (create_workflow(Names.FLOW).parallel(Names.STEP, {Names.LEFT: INSIDE}), "step/left/"),
        (create_workflow(Names.FLOW).route(Names.STEP, lambda ctx: Names.LEFT, {Names.LEFT: INSIDE}), "step/left/"),
        (create_workflow(Names.FLOW).loop(Names.STEP, INSIDE, at_most=1), "step[1]/"),
    ],
    ids=["plain", "parallel", "route", "loop"],
)
async def test_names_that_are_members_of_an_enum(cluster: Cluster, flow: Any, at: str) -> None:
    """S1.3, D24: a name is its text, whichever class of str it is of: a path has it, and what is stored is found again."""
    engine, other = await cluster.open(), await cluster.open()
    await engine.execute(flow, id=Names.RUN)
    await other.signal(flow, Names.RUN, Names.GO)
    result = await engine.get("run-1")
    assert (result.status, result.id, result.workflow) == ("completed", "run-1", "flow")
    assert {line.path: line.result for line in result.history}[f"{at}inner"] == ["inner", f"{at}inner", "run-1"]
    assert [summary.id for summary in (await other.list(name=Names.FLOW)).runs] == ["run-1"]


async def test_execute_of_something_that_cannot_run(engine: FluxEngine) -> None:
    """S1.4: registering is the moment of the error."""
    with pytest.raises(InvalidWorkflow):
        await engine.execute(create_workflow("empty"))
    with pytest.raises(InvalidWorkflow):
        await engine.execute(nothing)  # type: ignore[arg-type]
    assert (await engine.list()).runs == ()


FLOW = create_workflow("order").step("a", nothing)

WRONG: list[tuple[dict[str, Any], str]] = [
    *(({"default_retries": bad}, "default_retries must be a whole number ≥ 0, got") for bad in (-1, 1.5, True, None)),
    *(({"crash_limit": bad}, "crash_limit must be a whole number ≥ 1, got") for bad in (0, None, True)),
    *(({"threads": bad}, "threads must be a whole number ≥ 1, got") for bad in (0, "a")),
    *(({"inbox_limit": bad}, "inbox_limit must be a whole number ≥ 1, got") for bad in (0, "x")),
    *(({"hooks": bad}, "hooks must be a list of objects of classes that extend Hooks, got") for bad in ([Hooks], [3], Hooks(), None)),
    *(({"workflows": bad}, "workflows must be a list of workflows made by create_workflow") for bad in (FLOW, ["order"], None)),
    *(({"storage": bad}, "storage must be a storage object or a URL such as .*, got") for bad in (MemoryStorage, 3)),
    ({"drive_in_caller": "no"}, "drive_in_caller must be True or False, got 'no'"),
    ({"default_retry": Retry(jitter="x")}, "default_retry: retry.jitter must be True or False, got 'x'"),  # type: ignore[arg-type]
    ({"default_retry": 3}, "default_retry: retry must be a Retry"),
    ({"default_timeout": 0}, "default_timeout must be more than 0, got 0"),
]


@pytest.mark.parametrize(("options", "told"), WRONG, ids=[f"{next(iter(options))}{number}" for number, (options, _) in enumerate(WRONG)])
def test_what_an_engine_is_made_with(options: dict[str, Any], told: str) -> None:
    """S1.4, S15.7: refused where it is written, with its name, what was expected and what came."""
    with pytest.raises(InvalidArgument, match=told):
        FluxEngine(**options)


async def test_a_closed_engine_refuses(cluster: Cluster) -> None:
    """A call on an engine that is not open is an EngineClosed, never a hang."""
    engine = cluster.new()
    flow = create_workflow("late").step("a", nothing)
    signal = engine.signal(flow, "x", "y")
    looks = (engine.summary("x"), engine.handle("x").status())
    for call in (engine.execute(flow), engine.start(flow), engine.get("x"), engine.list(), engine.cancel("x"), signal, *looks):
        with pytest.raises(EngineClosed):
            await call
    async with engine:
        await engine.execute(flow, id="one")
    with pytest.raises(EngineClosed):
        await engine.get("one")
    await engine.close()  # twice is once


def test_run_in_a_script(tmp_path: Any) -> None:
    """`flux.run` opens, executes and closes."""
    flow = create_workflow("script").step("a", lambda ctx: ctx.input["n"] + 1)
    url = f"sqlite:///{tmp_path / 'script.db'}"
    assert flux.run(flow, {"n": 1}).results == {"a": 2}
    assert flux.run(flow, {"n": 1}, storage=url, id="r").results == {"a": 2}
    assert flux.run(flow, {"n": 1}, storage=url, id="r").id == "r"


# --- input


@pytest.mark.parametrize(
    ("kind", "good", "seen", "bad", "path"),
    [
        (Order, {"id": "1", "lines": [{"sku": "x"}]}, Order("1", [Line("x")]), {"id": "1", "lines": [{"sku": "x"}, {}]}, "lines[1].sku"),
        (Order, Order("1"), Order("1"), {"id": "1", "extra": 1}, "extra"),
        (OrderDict, {"id": "1", "count": 2}, {"id": "1", "count": 2}, {"id": "1"}, "count"),
        (OrderModel, {"id": "1", "count": 2}, OrderModel(id="1", count=2), {"id": "1", "count": "many"}, "count"),
        (OrderModel, OrderModel(id="1", count=2), OrderModel(id="1", count=2), {"count": 1}, "id"),
        (OrderStruct, {"id": "1", "count": 2}, OrderStruct("1", 2), {"id": "1", "count": "x"}, "count"),
        (list[int], [1, 2], [1, 2], [1, "2"], "[1]"),
        (int, 1, 1, "1", ""),
    ],
)
async def test_input_types(engine: FluxEngine, kind: Any, good: Any, seen: Any, bad: Any, path: str) -> None:
    """api.md, Input: checked at the caller with the path of the field; handlers get the declared type; nothing bad is stored."""
    given: list[Any] = []

    async def look(ctx: Any) -> None:
        given.append(ctx.input)

    flow = create_workflow("typed").input(kind).step("look", look)
    assert (await engine.execute(flow, good)).status == "completed"
    assert given == [seen] and type(given[0]) is type(seen)
    for call in (engine.execute(flow, bad, id="bad"), engine.start(flow, bad, id="bad")):
        with pytest.raises(InvalidInput) as caught:
            await call
        assert caught.value.path == path
        assert "typed" in str(caught.value)
    with pytest.raises(RunNotFound):
        await engine.get("bad")


@pytest.mark.parametrize("answer", ["false", "raises"])
async def test_validate(engine: FluxEngine, answer: str) -> None:
    """api.md, Input: `validate` that returns False or raises refuses; None and True accept."""

    def check(value: Any) -> Any:
        if value["n"] >= 0:
            return None
        if answer == "raises":
            raise ValueError("n must not be negative")
        return False

    flow = create_workflow("checked").validate(check).step("a", nothing)
    assert (await engine.execute(flow, {"n": 1})).status == "completed"
    with pytest.raises(InvalidInput, match="negative" if answer == "raises" else "refused"):
        await engine.execute(flow, {"n": -1})
    assert len((await engine.list()).runs) == 1


async def test_validate_that_is_asynchronous_in_disguise(engine: FluxEngine) -> None:
    """S1.5: a lambda that returns a coroutine checks nothing: it is refused, and nothing is stored."""

    async def refuse(value: Any) -> bool:
        return False

    flow = create_workflow("checked").validate(lambda value: refuse(value)).step("a", nothing)
    with pytest.raises(InvalidWorkflow, match="workflow 'checked': validate must be a plain function"):
        await engine.execute(flow, 1)
    assert (await engine.list()).runs == ()


async def test_validate_gets_the_declared_type(engine: FluxEngine) -> None:
    """`validate` after `input` sees what handlers will see."""
    seen: list[Any] = []
    flow = create_workflow("both").input(Line).validate(seen.append).step("a", nothing)
    await engine.execute(flow, {"sku": "x"})
    assert seen == [Line("x")]


async def test_input_that_cannot_be_stored(engine: FluxEngine) -> None:
    """S15.1, S15.6: refused at the caller, before anything is written."""
    flow = create_workflow("plain").step("a", nothing)
    for bad in (float("nan"), object(), {"deep": {"x": float("inf")}}, "x" * (1 << 21)):
        with pytest.raises(NotStorable):
            await engine.execute(flow, bad, id="bad")
    assert (await engine.list()).runs == ()


# --- ids and keys


async def test_the_same_id_again(engine: FluxEngine) -> None:
    """S2.4: a second execute returns the run that ended, and calls nothing."""
    effects = Effects()
    flow = create_workflow("once").step("a", effects.step("a", 1))
    first = await engine.execute(flow, {"n": 1}, id="o-1")
    second = await engine.execute(flow, {"n": 1}, id="o-1")
    assert second.id == first.id and second.results == {"a": 1} and effects.done == ["a"]


async def test_the_same_id_carries_on(cluster: Cluster) -> None:
    """S2.4: a run that has not ended is carried on by an execute with its id."""
    effects = Effects()
    flow = create_workflow("on").step("a", effects.step("a", 1)).step("b", effects.step("b", 2))
    engine = await cluster.open()
    await engine.start(flow, {"n": 1}, id="o-1")
    result = await engine.execute(flow, {"n": 1}, id="o-1")
    assert result.status == "completed" and effects.done == ["a", "b"]


async def test_conflicts(engine: FluxEngine) -> None:
    """S2.4, D27: one id, another input or another workflow."""
    flow = create_workflow("one").step("a", nothing)
    other = create_workflow("other").step("a", nothing)
    await engine.execute(flow, {"n": 1}, id="o-1")
    for call in (
        engine.execute(flow, {"n": 2}, id="o-1"),
        engine.start(flow, {"n": 2}, id="o-1"),
        engine.execute(other, {"n": 1}, id="o-1"),
        engine.resume(other, "o-1"),
    ):
        with pytest.raises(RunConflict, match="o-1"):
            await call
    assert len((await engine.list()).runs) == 1


async def test_idempotency_keys(engine: FluxEngine) -> None:
    """S2.4, D27: a key makes one run of one workflow; version, delay and priority do not count."""
    flow = create_workflow("keyed").step("a", nothing)
    first = await engine.execute(flow, {"n": 1}, idempotency_key="k-1")
    again = await engine.start(flow, {"n": 1}, idempotency_key="k-1", priority=5, delay=10)
    assert again.id == first.id
    newer = create_workflow("keyed", version="2").step("a", nothing)
    assert (await engine.start(newer, {"n": 1}, idempotency_key="k-1")).id == first.id
    with pytest.raises(RunConflict):
        await engine.execute(flow, {"n": 2}, idempotency_key="k-1")
    elsewhere = await engine.execute(create_workflow("elsewhere").step("a", nothing), {"n": 1}, idempotency_key="k-1")
    assert elsewhere.id != first.id


async def test_fifty_callers_make_one_run(cluster: Cluster) -> None:
    """S2.4, I39: callers that race with one id start one run, also from two engines."""
    effects = Effects()
    flow = create_workflow("race").step("a", effects.step("a", 1)).step("b", effects.step("b", 2))
    engines = [await cluster.open(), await cluster.open()]
    results = await asyncio.gather(*(engines[n % 2].execute(flow, {"n": 1}, id="r") for n in range(50)))
    assert {result.id for result in results} == {"r"} and {result.status for result in results} == {RunStatus.COMPLETED}
    assert effects.done == ["a", "b"]
    keyed = await asyncio.gather(*(engines[n % 2].execute(flow, {"n": 1}, idempotency_key="k") for n in range(20)))
    assert len({result.id for result in keyed}) == 1
    assert effects.done == ["a", "b", "a", "b"]


@pytest.mark.parametrize("id", ["", " ", "a b", "a/../b", "x" * 201, "ä", "-a", 7])
async def test_malformed_ids(engine: FluxEngine, id: Any) -> None:
    """S15.7: refused, never repaired."""
    flow = create_workflow("ids").step("a", nothing)
    with pytest.raises(InvalidArgument):
        await engine.execute(flow, id=id)
    with pytest.raises(InvalidArgument):
        await engine.start(flow, idempotency_key=id)
    with pytest.raises(InvalidArgument):
        await engine.get(id)
    assert (await engine.list()).runs == ()


async def test_generated_ids_are_in_order_of_time(engine: FluxEngine, cluster: Cluster) -> None:
    """D24: generated ids are time-ordered."""
    flow = create_workflow("ids").step("a", nothing)
    ids = []
    for _ in range(5):
        ids.append((await engine.execute(flow)).id)
        await cluster.clock.advance(0.001)
    assert ids == sorted(ids) and len(set(ids)) == 5


# --- callers that go away


async def test_a_cancelled_caller_only_detaches(engine: FluxEngine) -> None:
    """D19: the run goes on in the engine's own task."""
    entered, go = asyncio.Event(), asyncio.Event()

    async def hold(ctx: Any) -> str:
        entered.set()
        await go.wait()
        return "done"

    flow = create_workflow("detach").step("a", hold).step("b", nothing)
    caller = asyncio.create_task(engine.execute(flow, id="d"))
    await entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    assert await engine.handle("d").result(timeout=60) == {}
    assert (await engine.get("d")).results == {"a": "done", "b": None}


@pytest.mark.parametrize("turns", range(1, 12))
async def test_a_caller_cancelled_early_leaves_no_limbo(engine: FluxEngine, turns: int) -> None:
    """D19, S2.3, I15: wherever the cancellation falls, a run that was stored goes on."""
    flow = create_workflow("early").step("a", nothing).step("b", nothing)
    caller = asyncio.create_task(engine.execute(flow, id="e"))
    for _ in range(turns):
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    try:
        await engine.get("e")
    except RunNotFound:
        assert (await engine.execute(flow, id="e")).status == "completed"
    else:
        await engine.handle("e").result(timeout=5)


async def test_one_version_has_one_shape(engine: FluxEngine) -> None:
    """S13.3: other steps under a name and version that are registered are refused; another handler of a step is not."""
    effects = Effects()
    flow = create_workflow("flow").step("a", effects.step("a"))
    assert (await engine.execute(flow)).status == "completed"
    with pytest.raises(InvalidWorkflow, match="give the changed one another version"):
        await engine.execute(flow.step("b", effects.step("b")))
    assert (await engine.execute(create_workflow("flow").step("a", effects.step("other")))).status == "completed"
    assert effects.done == ["a", "other"]

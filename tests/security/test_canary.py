"""A canary is put into every place where a secret could be, and looked for in every place where it must not be (S16).

The rule:

- What callers and handlers put into inputs, data, results, payloads and exceptions is in no log record of flux's own, at any level,
  not even among a record's arguments; in no `repr` of what flux hands out; and in no text of an error that flux itself raises.
- Names are shown: ids, names of workflows, steps and signals, paths, field names and keys. Do not use a secret as a key.
- The text of an exception that user code raised is part of that run's error, for whoever asks for it: `result.error`, its traceback,
  the message of `RunFailed`, a `validate` function's refusal, `Event.error`. It is not logged.
- A mapping of the user's values (`result.data`, `ctx.data`, `ctx.results`) prints them, as any dict does. `flux.Secret` is for values that
  must not be printed there either.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

from flux import (
    DefinitionChanged,
    FluxEngine,
    InboxFull,
    InvalidInput,
    InvalidPayload,
    NotStorable,
    Retry,
    RunConflict,
    RunFinished,
    UnknownSignal,
    UnreadableRun,
    create_workflow,
    wait,
)
from flux.codec import JsonCodec, Undecodable
from flux.convert import ConversionError, convert

from ..engine.cluster import Cluster
from .rows import write_result

pytestmark = pytest.mark.anyio

CANARY = "canary-4711-1111"
NUMBER = 4711_1111_4711
AT_ONCE = Retry(initial=0, jitter=False)

Story = Callable[[Cluster, list[Any]], Awaitable[None]]
STORIES: dict[str, Story] = {}


def story(tell: Story) -> Story:
    STORIES[tell.__name__] = tell
    return tell


def is_silent(caplog: pytest.LogCaptureFixture) -> bool:
    """No record has the canary, in its text, its arguments, its traceback or its extras."""
    for record in caplog.records:
        told = repr(record.__dict__) + record.getMessage() + str(record.exc_text or "")
        if CANARY in told or str(NUMBER) in told:
            return False
    return CANARY not in caplog.text and str(NUMBER) not in caplog.text


def hides(things: list[Any]) -> bool:
    """No repr and, for errors, no text has it either."""
    told = "".join(repr(thing) + (str(thing) if isinstance(thing, BaseException) else "") for thing in things)
    return CANARY not in told and str(NUMBER) not in told


async def raises(things: list[Any], kind: type[BaseException], call: Awaitable[Any]) -> None:
    """The call raises this error of flux's own, which is then looked through."""
    with pytest.raises(kind) as caught:
        await call
    things.append(caught.value)


# --- the life of a run


@story
async def a_run_that_completes(cluster: Cluster, things: list[Any]) -> None:
    async def handler(ctx: Any) -> Any:
        ctx.data["card"] = CANARY
        ctx.data[f"{len(ctx.data)}"] = {"nested": [CANARY, NUMBER]}
        things.append(ctx)
        ctx.logger.info("at work")
        return {"card": CANARY}

    flow = create_workflow("flow").step("a", handler).wait("go").commit("b", handler)
    engine = await cluster.open()
    handle = await engine.start(flow, {"card": CANARY}, id="r", idempotency_key="k")
    things += [handle, await engine.resume(flow, "r"), await engine.signal(flow, "r", "go", CANARY, signal_id="s")]
    result = await engine.get("r")
    assert result.status == "completed"
    things += [result, *result.history, await engine.list(), await engine.summary("r"), flow, engine, flow.steps]


@story
async def a_run_that_fails(cluster: Cluster, things: list[Any]) -> None:
    async def fail(ctx: Any) -> None:
        raise ValueError(CANARY) from OSError(CANARY)

    async def undo(ctx: Any) -> None:
        things.append(ctx)
        raise LookupError(CANARY)

    flow = (
        create_workflow("flow")
        .step("a", lambda ctx: CANARY, compensate=undo, compensate_retries=1)
        .step("fail", fail, retries=2, retry=AT_ONCE)
    )
    engine = await cluster.open(default_retry=AT_ONCE)
    result = await engine.execute(flow, CANARY)
    assert result.status == "failed" and CANARY in str(result.error)
    things += [result, *result.history, result.history[0].compensation, await engine.list()]


@story
async def a_run_that_is_blocked_by_its_compensation(cluster: Cluster, things: list[Any]) -> None:
    async def fail(ctx: Any) -> None:
        raise ValueError(CANARY)

    flow = create_workflow("flow", on_compensation_failure="block").step("a", lambda ctx: 1, compensate=fail, compensate_retries=0)
    engine = await cluster.open()
    result = await engine.execute(flow.step("fail", fail, retries=0))
    assert result.status == "blocked"
    things += [result, *result.history]


@story
async def a_run_that_is_cancelled(cluster: Cluster, things: list[Any]) -> None:
    flow = create_workflow("flow").step("a", lambda ctx: wait("go", timeout=60, default=CANARY))
    engine = await cluster.open()
    await engine.execute(flow, CANARY, id="r")
    things += [await engine.cancel("r", CANARY)]
    await raises(things, RunFinished, engine.signal(flow, "r", "go", CANARY))


@story
async def a_crash_and_a_takeover(cluster: Cluster, things: list[Any]) -> None:
    entered = asyncio.Event()

    async def hang(ctx: Any) -> str:
        ctx.data["card"] = CANARY
        if ctx.attempt == 1:
            entered.set()
            await asyncio.Event().wait()
        return CANARY

    flow = create_workflow("flow").step("a", hang, timeout=None)
    first, second = await cluster.open(workflows=[flow]), await cluster.open(workflows=[flow])
    task = asyncio.create_task(first.execute(flow, CANARY, id="r"))
    await entered.wait()
    await cluster.crash(first)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    result = await second.resume(flow, "r")
    assert result.status == "completed"
    things += [result, *result.history]


@story
async def handlers_and_engines_that_end_early(cluster: Cluster, things: list[Any]) -> None:
    entered = asyncio.Event()

    async def stubborn(ctx: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError(CANARY)

    flow = create_workflow("flow").step("a", stubborn, timeout=None)
    engine = await cluster.open(grace=0)
    task = asyncio.create_task(engine.execute(flow, CANARY, id="r"))
    await entered.wait()
    await engine.close()
    things += await asyncio.gather(task, return_exceptions=True)


# --- calls that are refused


class Line(TypedDict):
    sku: str
    count: int


@dataclass
class Order:
    card: int
    lines: list[Line]
    when: date | None = None
    kind: Literal["a", "b"] = "a"


@story
async def inputs_that_are_refused(cluster: Cluster, things: list[Any]) -> None:
    flow = create_workflow("flow").input(Order).wait("go", type=Order)
    engine = await cluster.open()
    good = {"card": 1, "lines": []}
    await engine.execute(flow, good, id="r")
    for bad in (
        CANARY, {"card": CANARY, "lines": []}, {**good, "lines": [{"sku": "x", "count": CANARY}]}, {**good, "when": CANARY},
        {**good, "kind": CANARY}, {**good, "lines": CANARY}, [CANARY], {**good, "lines": [{"sku": NUMBER, "count": 1}]},
        {**good, "lines": {CANARY}},
    ):  # fmt: skip
        await raises(things, InvalidInput, engine.execute(flow, bad))
        await raises(things, InvalidPayload, engine.signal(flow, "r", "go", bad))


@story
async def values_that_are_refused(cluster: Cluster, things: list[Any]) -> None:
    class Own(str):
        pass

    async def spoil(ctx: Any) -> Any:
        ctx.data["spoilt"] = [CANARY, object()]

    flow = create_workflow("flow").wait("go")
    engine = await cluster.open()
    await engine.execute(flow, id="r")
    for bad in (
        [CANARY, object()],
        CANARY * 100_000,
        Own(CANARY),
        ValueError(CANARY),
        {"a": {CANARY, 1.5e308 * 10}},
        memoryview(CANARY.encode()),
    ):
        await raises(things, NotStorable, engine.execute(flow, bad))
        await raises(things, NotStorable, engine.signal(flow, "r", "go", bad))
    things.append((await engine.execute(create_workflow("spoil").step("a", spoil))).error)


@story
async def conflicts(cluster: Cluster, things: list[Any]) -> None:
    flow = create_workflow("flow").wait("go")
    engine = await cluster.open(inbox_limit=1)
    await engine.execute(flow, CANARY, id="r", idempotency_key="k")
    await raises(things, RunConflict, engine.execute(flow, {"card": CANARY}, id="r"))
    await raises(things, RunConflict, engine.execute(flow, {"card": CANARY}, idempotency_key="k"))
    await raises(things, UnknownSignal, engine.signal(flow, "r", "other", CANARY))
    posts = await cluster.open(drive_in_caller=False, inbox_limit=1)
    later = create_workflow("later").sleep("s", days=1).wait("go")
    await posts.execute(later, id="l")
    await posts.signal(later, "l", "go", CANARY)
    await raises(things, InboxFull, posts.signal(later, "l", "go", CANARY))


@story
async def changed_code(cluster: Cluster, things: list[Any]) -> None:
    flow = create_workflow("flow").step("a", lambda ctx: CANARY).wait("go")
    other = create_workflow("flow").step("b", lambda ctx: CANARY).wait("go")
    engine, changed = await cluster.open(), await cluster.open()
    await engine.execute(flow, CANARY, id="r")
    await raises(things, DefinitionChanged, changed.resume(other, "r"))
    things.append(await changed.signal(other, "r", "go", CANARY))
    assert things[-1].status == "blocked" and CANARY not in things[-1].blocked_reason


@story
async def rows_that_are_damaged(cluster: Cluster, things: list[Any]) -> None:
    flow = create_workflow("flow").step("a", lambda ctx: "x" * 60).wait("go").step("b", lambda ctx: ctx.results["a"])
    engine = await cluster.open()
    for number, text in enumerate(UNDECODABLE):
        run_id = (await engine.execute(flow, CANARY, id=f"r{number}")).id
        await write_result(cluster, run_id, text)
        result = await engine.signal(flow, run_id, "go", CANARY)
        assert result.status == "blocked", text
        things += [result, result.blocked_reason]
        with pytest.raises(UnreadableRun) as caught:
            _ = result.results
        things.append(caught.value)


@pytest.mark.parametrize("name", STORIES)
async def test_nothing_is_told(cluster: Cluster, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """S16: whatever becomes of a run or a call."""
    caplog.set_level(logging.DEBUG)
    things: list[Any] = []
    await STORIES[name](cluster, things)
    assert things and hides(things) and is_silent(caplog)


# --- the parts


@dataclass
class Picky:
    number: int

    def __post_init__(self) -> None:
        raise ValueError(f"{CANARY} is not to my liking")


class Tagged(msgspec.Struct, tag="card"):
    number: int = 0


class Struct(msgspec.Struct):
    kind: Literal["a", "b"]
    number: int = 0

    def __post_init__(self) -> None:
        if self.number:
            raise ValueError(CANARY)


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


class Owner(pydantic.BaseModel):
    pet: Cat | Dog = pydantic.Field(discriminator="kind")
    when: date | None = None
    code: str = pydantic.Field(default="x", pattern="^x", max_length=3)


UNDECODABLE = [
    f'{{"~date":"{CANARY}"}}', f'{{"~datetime":["{CANARY}",0,null]}}', f'{{"~datetime":["2026-01-01T00:00:00",0,"{CANARY}"]}}',
    f'{{"~decimal":"{CANARY}"}}', f'{{"~uuid":"{CANARY}"}}', f'{{"~complex":["{CANARY}"]}}', f'{{"~bytes":"{CANARY}"}}', f'["{CANARY}",',
    f'{{"~enum":["{__name__}:Picky",null,"{CANARY}"]}}', f'{{"~data":["{__name__}:Picky",["{CANARY}"]]}}', f'"{CANARY}"x',
    f'{{"~path":["{CANARY}","x"]}}', f'{{"~defaultdict":["{CANARY}",[]]}}', f'{{"~secret":{{"~date":"{CANARY}"}}}}',
]  # fmt: skip


@pytest.mark.parametrize("text", UNDECODABLE)
def test_what_cannot_be_decoded_is_not_shown(text: str) -> None:
    """S16: Undecodable says what kind of value it was, and not which; it ends in logs and in `blocked_reason`."""
    with pytest.raises(Undecodable) as caught:
        JsonCodec([Struct]).decode(text)
    assert hides([caught.value])


def test_what_a_constructor_says_is_not_shown() -> None:
    """S16: a declared class that refuses its stored value may quote it."""
    with pytest.raises(Undecodable, match=r"~struct.*ValueError") as caught:
        JsonCodec([Struct]).decode(f'{{"~struct":["{__name__}:Struct",{{"kind":"a","number":5}}]}}')
    assert hides([caught.value])


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (Tagged, {"type": CANARY}), (Tagged, {"type": f"{CANARY} - at `$.number`"}),
        (Struct, {"kind": CANARY}), (Struct, {"kind": "a", "number": CANARY}), (Struct, CANARY),
        (Owner, {"pet": {"kind": CANARY}}), (Owner, {"pet": {"kind": "cat", "lives": CANARY}}), (Owner, CANARY),
        (Owner, {"pet": {"kind": "dog"}, "when": CANARY}), (Owner, {"pet": {"kind": "dog"}, "code": CANARY}),
    ],
)  # fmt: skip
def test_models_do_not_tell(declared: Any, value: Any) -> None:
    """S16: pydantic's and msgspec's own texts quote the value; ours do not, nor does the traceback that a caller would log."""
    with pytest.raises(ConversionError) as caught:
        convert(value, declared)
    assert hides([caught.value]) and CANARY not in "".join(traceback.format_exception(caught.value))


def test_what_user_code_says_itself() -> None:
    """The rule's exception: the words of a class that refuses its data are its own."""
    with pytest.raises(ConversionError, match=CANARY):
        convert({"number": 1}, Picky)


async def test_the_caller_that_has_gone(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """D19, S16: neither does the call that nobody waits for any more say what it was about."""
    caplog.set_level(logging.DEBUG)
    engine: FluxEngine = await cluster.open()

    async def fail(ctx: Any) -> None:
        await asyncio.sleep(0)
        raise ValueError(CANARY)

    task = asyncio.create_task(engine.execute(create_workflow("flow").step("a", fail, retries=0), CANARY, id="r"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await engine.close()
    assert is_silent(caplog)

"""Ids and names: refused, never repaired, and alike on all storages (S15.7, D24)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, InvalidWorkflow, branch, create_workflow, wait
from flux.names import check_id, check_name, is_version

from .hostile import OBJECTS, TEXTS

pytestmark = pytest.mark.anyio

BAD_IDS: dict[str, Any] = {
    **TEXTS, **OBJECTS,
    "dots": "a..b", "up": "../../etc/passwd", "hidden": ".a", "option": "-rf", "slash": "/etc/passwd", "colon": ":a", "at": "@a",
    "201 characters": "x" * 201, "query": "a?b=c", "comma": "a,b", "plus": "a+b",
}  # fmt: skip

GOOD_IDS = ["a", "0", "Z9", "x" * 200, "order-2026.01_02:eu@shop/4", "a.", "a-", "null", "true", "select", "a.b.c", "1e5", "c:/x"]


async def handler(ctx: Any) -> int:
    return 1


PLAIN = create_workflow("plain").step("a", handler)
WAITS = create_workflow("waits").wait("go")
FREE = create_workflow("free").step("a", lambda ctx: wait("go"))

# Every call that takes an id, with the id.
CALLS: dict[str, Callable[[FluxEngine, Any], Awaitable[Any]]] = {
    "execute": lambda engine, one: engine.execute(PLAIN, id=one),
    "execute, key": lambda engine, one: engine.execute(PLAIN, idempotency_key=one),
    "start": lambda engine, one: engine.start(PLAIN, id=one),
    "start, key": lambda engine, one: engine.start(PLAIN, idempotency_key=one),
    "get": lambda engine, one: engine.get(one),
    "history": lambda engine, one: engine.history(one),
    "summary": lambda engine, one: engine.summary(one),
    "resume": lambda engine, one: engine.resume(PLAIN, one),
    "cancel": lambda engine, one: engine.cancel(one),
    "delete": lambda engine, one: engine.delete(one),
    "signal": lambda engine, one: engine.signal(WAITS, one, "go"),
    "signal, signal id": lambda engine, one: engine.signal(WAITS, "waiting", "go", signal_id=one),
    "until": lambda engine, one: engine.until(one, ()),
    "outcome": lambda engine, one: engine.outcome(one),
}


def is_clear(error: BaseException) -> bool:
    """One printable ASCII line of bounded length, whatever was sent: it will stand in a log."""
    text = str(error)
    return text.isascii() and text.isprintable() and len(text) < 300


@pytest.mark.parametrize("call", CALLS)
async def test_malformed_ids(engine: FluxEngine, call: str) -> None:
    """S15.7: every call refuses them with InvalidArgument, and nothing is stored or changed."""
    await engine.execute(WAITS, id="waiting")
    for name, id in BAD_IDS.items():
        with pytest.raises(InvalidArgument) as caught:
            await CALLS[call](engine, id)
        assert is_clear(caught.value), name
    assert [run.id for run in (await engine.list()).runs] == ["waiting"]
    assert (await engine.get("waiting")).status == "suspended"


@pytest.mark.parametrize("id", BAD_IDS)
async def test_malformed_ids_of_handles(engine: FluxEngine, id: str) -> None:
    """S15.7: a handle is refused where it is made."""
    with pytest.raises(InvalidArgument) as caught:
        engine.handle(BAD_IDS[id])
    assert is_clear(caught.value)


async def test_ids_at_the_edge(engine: FluxEngine) -> None:
    """S15.7: what the rule allows is taken as it is, letter by letter."""
    for id in GOOD_IDS:
        assert (await engine.execute(PLAIN, id=id)).id == id
        assert (await engine.get(id)).id == id and engine.handle(id).id == id
        assert (await engine.execute(PLAIN, idempotency_key=id)).id == (await engine.execute(PLAIN, idempotency_key=id)).id
    assert {run.id for run in (await engine.list(limit=500)).runs} >= set(GOOD_IDS)


async def test_ids_are_not_folded(engine: FluxEngine) -> None:
    """S15.7: case and trailing characters tell runs apart on every storage."""
    for id in ("Order-1", "order-1", "order-1.", "order-10", "order-1/"):
        await engine.execute(PLAIN, {"id": id}, id=id)
    for id in ("Order-1", "order-1", "order-1.", "order-10", "order-1/"):
        assert (await engine.get(id)).input == {"id": id}


@pytest.mark.parametrize("what", ["run id", "signal id", "schedule", "idempotency key"])
@pytest.mark.parametrize("id", BAD_IDS)
def test_one_rule_for_all_ids(id: str, what: str) -> None:
    """S15.7: ids of schedules follow it too; the error says which id it was."""
    with pytest.raises(InvalidArgument, match=f"^{what} .* is refused") as caught:
        check_id(BAD_IDS[id], what)
    assert is_clear(caught.value)


def test_a_str_subclass_is_no_way_around() -> None:
    """S15.7: the rule looks at the characters, not at what a class says of itself."""

    class Sly(str):
        def __contains__(self, part: object) -> bool:
            return False

        def __len__(self) -> int:
            return 3

        def __str__(self) -> str:
            return "harmless"

    for text in ("a b", "x" * 201, "\n"):
        with pytest.raises(InvalidArgument):
            check_id(Sly(text))
    with pytest.raises(InvalidArgument):
        check_id(Sly("a..b"))


# --- names

BAD_NAMES: dict[str, Any] = {**TEXTS, **OBJECTS, "digit first": "1a", "dash first": "-a", "slash": "a/b", "at": "a@b", "long": "a" * 65}
del BAD_NAMES["huge"]

BUILDERS: dict[str, Callable[[Any], Any]] = {
    "workflow": lambda name: create_workflow(name),
    "step": lambda name: PLAIN.step(name, handler),
    "commit": lambda name: PLAIN.commit(name, handler),
    "wait": lambda name: PLAIN.wait(name),
    "sleep": lambda name: PLAIN.sleep(name, seconds=1),
    "signal": lambda name: PLAIN.wait("w", signal=name),
    "waits": lambda name: PLAIN.step("s", handler, waits=(name,)),
    "in a branch": lambda name: branch().step(name, handler),
    "flux.wait": lambda name: wait(name),
}


@pytest.mark.parametrize("place", BUILDERS)
def test_malformed_names(place: str) -> None:
    """D24, S1.4: names of workflows, steps and signals are refused where they are given."""
    for label, name in BAD_NAMES.items():
        with pytest.raises(InvalidWorkflow) as caught:
            BUILDERS[place](name)
        assert is_clear(caught.value), label


@pytest.mark.parametrize("version", [name for name in BAD_NAMES if name not in ("blank",)])
def test_malformed_versions(version: str) -> None:
    """S1.4: a version becomes part of rows and claims."""
    value = BAD_NAMES[version]
    if is_version(value):
        return
    with pytest.raises(InvalidWorkflow):
        create_workflow("flow", version=value)


@pytest.mark.parametrize("flow", [FREE, WAITS], ids=lambda flow: flow.name)
async def test_malformed_names_of_signals(engine: FluxEngine, flow: Any) -> None:
    """D24: a name that no wait can have is refused at the sender, also by a workflow that declares no waits and keeps any other."""
    run_id = (await engine.execute(flow)).id
    for label, name in {**BAD_NAMES, "huge": TEXTS["huge"]}.items():
        with pytest.raises(InvalidArgument) as caught:
            await engine.signal(flow, run_id, name)
        assert is_clear(caught.value), label
    assert (await engine.signal(flow, run_id, "go")).finished


def test_a_name_in_a_call_and_a_name_in_a_definition() -> None:
    """D24: one rule, and the error says whose mistake it was."""
    with pytest.raises(InvalidWorkflow):
        check_name("a b", "a name")
    with pytest.raises(InvalidArgument):
        check_name("a b", "a name", error=InvalidArgument)
    assert check_name("a:b", "a name", colon=True) == "a:b"


# --- what else a call takes


@pytest.mark.parametrize("reason", [None, 7, b"x", ["x"], {"a": 1}, float("nan"), object(), OBJECTS["grumpy"], "x" * 8193])
async def test_malformed_reasons(engine: FluxEngine, reason: Any) -> None:
    """S15.7: the reason of a cancel is text of at most 8 KiB; what is refused cancels nothing."""
    await engine.execute(WAITS, id="r")
    with pytest.raises(InvalidArgument):
        await engine.cancel("r", reason)
    assert (await engine.get("r")).status == "suspended"


@pytest.mark.parametrize("option", ["compensate", "interrupt"])
@pytest.mark.parametrize("value", ["no", 0, None, OBJECTS["grumpy"]])
async def test_malformed_options_of_a_cancel(engine: FluxEngine, option: str, value: Any) -> None:
    """S11.2: "no" is not taken for True."""
    await engine.execute(WAITS, id="r")
    with pytest.raises(InvalidArgument):
        await engine.cancel("r", **{option: value})
    assert (await engine.get("r")).status == "suspended"


@pytest.mark.parametrize("name", [*(name for name in TEXTS if name != "huge"), "8 KiB"])
async def test_any_text_is_a_reason(engine: FluxEngine, name: str) -> None:
    """S15.6: stored and shown as it was given."""
    reason = {**TEXTS, "8 KiB": "x" * 8192}[name]
    await engine.execute(WAITS, id="r")
    result = await engine.cancel("r", reason)
    assert result.status == "cancelled"
    if name != "two halves":  # JSON makes one character of them
        assert str((await engine.get("r")).error) == (reason or "the run was cancelled")


@pytest.mark.parametrize("priority", [101, -101, 1.5, True, "1", None])
async def test_malformed_priorities(engine: FluxEngine, priority: Any) -> None:
    """S15.7."""
    with pytest.raises(InvalidArgument):
        await engine.start(PLAIN, priority=priority)
    assert not (await engine.list()).runs

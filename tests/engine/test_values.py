"""Values that cannot be stored, and errors that come back as they were."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import pydantic
import pytest

from flux import FluxEngine, NotStorable, Retry, StepError, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)


class Colour(Enum):
    RED = "red"


@dataclass
class Receipt:
    id: str
    price: Decimal
    colour: Colour


class Declined(Exception):
    def __init__(self, card: str, *, code: int) -> None:
        super().__init__(f"card {card} was declined")
        self.card = card
        self.code = code


class Awkward:
    def __getattribute__(self, name: str) -> Any:
        raise OSError("do not look at me")


def cyclic() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> Any:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    return value


BAD: dict[str, Callable[[], Any]] = {
    "nan": lambda: float("nan"), "infinity": lambda: {"x": [float("-inf")]}, "object": object, "function": lambda: len,
    "large": lambda: "x" * (1 << 21), "cycle": cyclic, "deep": deep, "awkward": Awkward,
}  # fmt: skip


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("bad", BAD)
async def test_a_result_that_cannot_be_stored(engine: FluxEngine, bad: str, thread: bool) -> None:
    """S15.1: an error of the step that produced it, not retried, naming the path; what was recorded before stays."""
    effects = Effects()

    def make(ctx: Any) -> Any:
        effects.done.append("make")
        return BAD[bad]()

    async def make_async(ctx: Any) -> Any:
        return make(ctx)

    flow = (
        create_workflow("bad")
        .step("a", effects.step("a", 1), compensate=effects.step("undo a"))
        .step("make", make if thread else make_async, retries=5, retry=AT_ONCE)
    )
    result = await engine.execute(flow)
    assert result.status == "failed" and effects.done == ["a", "make", "undo a"]
    assert result.results == {"a": 1} == (await engine.get(result.id)).results
    if bad != "awkward":
        assert isinstance(result.error, NotStorable) and "make" in str(result.error)


@pytest.mark.parametrize("bad", [name for name in BAD if name != "awkward"])
async def test_data_that_cannot_be_stored(engine: FluxEngine, bad: str) -> None:
    """S15.1: naming the path and the key; no other change of that attempt is kept."""

    async def good(ctx: Any) -> None:
        ctx.data["kept"] = 1

    async def spoil(ctx: Any) -> None:
        ctx.data["kept"] = 2
        ctx.data["spoilt"] = BAD[bad]()

    result = await engine.execute(create_workflow("bad").step("good", good).step("spoil", spoil, retries=5, retry=AT_ONCE))
    assert isinstance(result.error, NotStorable) and "spoil" in str(result.error) and "'spoilt'" in str(result.error)
    assert result.data == {"kept": 1} == (await engine.get(result.id)).data and result.history[1].attempts == 1


async def test_one_domain(engine: FluxEngine) -> None:
    """S15.6: NUL, lone surrogates, huge integers, odd keys: handled alike by all storages."""
    values = ["\x00", "\ud800", 1 << 80, -(1 << 64), {"~date": "x"}, {"": None}, {1: "one", None: 2}, [], {}, "", 0.1, -0.0, "\u2028", "💥"]

    async def keep(ctx: Any) -> Any:
        ctx.data["values"] = values
        ctx.data["\x00 key \ud800"] = 1
        return values

    flow = create_workflow("domain").step("keep", keep).step("look", lambda ctx: ctx.data["values"] == ctx.results["keep"] == values)
    result = await engine.execute(flow)
    assert result.results["look"] is True and (await engine.get(result.id)).data["\x00 key \ud800"] == 1


async def test_typed_results(cluster: Cluster) -> None:
    """D21, features §6: what a handler declares to return comes back as it was, in another engine too, also with postponed annotations."""

    async def make(ctx: Any) -> Receipt:
        return Receipt("r", Decimal("1.10"), Colour.RED)

    seen: list[Any] = []

    async def look(ctx: Any) -> None:
        seen.append(ctx.results["make"])

    flow = create_workflow("typed").step("make", make).wait("go").step("look", look)
    engine = await cluster.open()
    run_id = (await engine.execute(flow)).id
    await cluster.crash(engine)
    other = await cluster.open()
    await other.signal(flow, run_id, "go")
    assert seen == [Receipt("r", Decimal("1.10"), Colour.RED)] and type(seen[0]) is Receipt


class Parcel(pydantic.BaseModel):
    weight: int


class Packer:
    async def __call__(self, ctx: Any) -> Parcel:
        return Parcel(weight=1)


async def weigh(ctx: Nowhere, weight: int) -> Parcel:  # type: ignore[name-defined]  # noqa: F821
    return Parcel(weight=weight)


@pytest.mark.parametrize(
    ("flow", "result"),
    [
        (create_workflow("parcels").step("one", Packer()), Parcel(weight=1)),
        (create_workflow("parcels").step("one", functools.partial(weigh, weight=2)), Parcel(weight=2)),
    ],
    ids=["an object", "a partial"],
)
async def test_models_that_a_handler_says_it_returns(cluster: Cluster, flow: Any, result: Any) -> None:
    """D21: a model in a handler's return annotation is declared by that, whatever kind of function it is."""
    engine, other = await cluster.open(), await cluster.open(workflows=[flow])
    run = await engine.execute(flow)
    assert run.unwrap() == {} and run.results["one"] == (await other.get(run.id)).results["one"] == result


async def test_models_among_items(engine: FluxEngine) -> None:
    """D21: also what the function for the items of a `for_each` says it returns."""

    def parcels(ctx: Any) -> list[Parcel]:
        return [Parcel(weight=3)]

    async def look(ctx: Any) -> int:
        return int(ctx.item.weight)

    run = await engine.execute(create_workflow("parcels").for_each("each", parcels, look))
    assert run.unwrap() == {} and run.results["each"] == [3]


async def test_errors_are_themselves(cluster: Cluster) -> None:
    """S3.9: the same class, arguments and attributes, in the result, in a compensation, and in another engine; with its cause."""
    seen: list[Any] = []

    async def fail(ctx: Any) -> None:
        try:
            raise LookupError("inner")
        except LookupError as error:
            raise Declined("4711", code=5) from error

    async def undo(ctx: Any) -> None:
        seen.append(ctx.error)

    flow = create_workflow("errors").step("a", Effects().step("a"), compensate=undo).step("fail", fail, retries=0)
    engine, other = await cluster.open(), await cluster.open()
    result = await engine.execute(flow)
    for error in (result.error, seen[0], (await other.get(result.id)).error, result.history[1].error):
        assert type(error) is Declined and str(error) == "card 4711 was declined" and (error.card, error.code) == ("4711", 5)
        assert isinstance(error.__cause__, LookupError) and error.__cause__.args == ("inner",)
        assert "raise Declined" in "".join(getattr(error, "__notes__", []))


async def test_a_local_error_class(cluster: Cluster) -> None:
    """S3.9: a class that cannot be found again is a StepError that names it."""

    async def fail(ctx: Any) -> None:
        class Local(Exception):
            pass

        raise Local("gone")

    engine, other = await cluster.open(), await cluster.open()
    result = await engine.execute(create_workflow("local").step("fail", fail, retries=0))
    error = (await other.get(result.id)).error
    assert isinstance(error, StepError) and "Local" in str(error) and "gone" in str(error)


async def test_long_error_texts_are_cut(engine: FluxEngine) -> None:
    """S15.7: error text is bounded; the run is none the worse."""

    async def fail(ctx: Any) -> None:
        raise ValueError("x" * 5_000_000)

    result = await engine.execute(create_workflow("long").step("fail", fail, retries=0))
    assert result.status == "failed" and isinstance(result.error, ValueError) and len(str(result.error)) < 100_000

"""`flux.Secret`: a value that is stored like any other and shows itself to nobody who does not ask (S16)."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from dataclasses import dataclass
from datetime import date
from typing import Any

import pydantic
import pytest

from flux import FluxEngine, InvalidInput, InvalidPayload, NotStorable, Secret, create_workflow
from flux.codec import JsonCodec, Undecodable
from flux.convert import ConversionError, check_convertible, convert, declared_types

from ..engine.cluster import Cluster

pytestmark = pytest.mark.anyio

CANARY = "canary-4711"


@dataclass
class Card:
    number: Secret[str]
    limits: Secret[dict[str, int]] | None = None


def test_it_does_not_show_itself() -> None:
    """S16: not by repr, str, format, or inside of other things; only `reveal` gives it."""
    secret = Secret(CANARY)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", f"{secret:>20}", f"{secret} {secret!r}", repr([secret]),
                 repr(Card(secret)), str(ValueError(secret)), ascii({"a": secret})):  # fmt: skip
        assert CANARY not in text and "Secret(***)" in text
    assert secret.reveal() == CANARY and not hasattr(secret, "__dict__")
    with pytest.raises(TypeError) as caught:
        json.dumps(secret)
    assert CANARY not in str(caught.value)
    with pytest.raises(TypeError):
        secret + "x"  # type: ignore[operator]


def test_it_is_a_value() -> None:
    """Equal when what is inside is; hashable when that is; can be copied."""
    assert Secret(1) == Secret(1) != Secret(2) and Secret(1) != 1 and len({Secret("a"), Secret("a")}) == 1
    with pytest.raises(TypeError):
        hash(Secret([]))
    for again in (copy.copy(Secret([1])), copy.deepcopy(Secret([1])), pickle.loads(pickle.dumps(Secret([1])))):
        assert again == Secret([1])


@dataclass
class Checked:
    number: str

    def __post_init__(self) -> None:
        raise ValueError(f"{self.number} is no number of a card")


class Model(pydantic.BaseModel):
    number: str

    @pydantic.model_validator(mode="after")
    def check(self) -> Model:
        raise ValueError(f"{self.number} is no number of a card")


@pytest.mark.parametrize("inside", [CANARY, None, 5, {"a": [1, (2,)]}, Secret("x"), b"\0", {"~secret": 1}])
def test_the_codec_knows_it(inside: Any) -> None:
    """D21: stored as its value with a tag; it comes back as a Secret, without being declared."""
    text = JsonCodec().encode({"s": Secret(inside)})
    assert '"~secret":' in text and JsonCodec().decode(text) == {"s": Secret(inside)}
    assert JsonCodec().decode(JsonCodec().encode({"~secret": 1})) == {"~secret": 1}


def test_what_cannot_be_stored_inside_it() -> None:
    """S15.1, S16: refused by the name of the secret's place, without the way further in."""
    for inside in (float("nan"), {CANARY: {"b": object()}}, [CANARY, object()]):
        with pytest.raises(NotStorable, match=r"pay: result\['card'\]: inside a Secret: ") as caught:
            JsonCodec().encode({"card": Secret(inside)}, "pay")
        assert CANARY not in str(caught.value)
    loop: list[Any] = []
    loop.append(Secret(loop))
    with pytest.raises(NotStorable):
        JsonCodec().encode(loop)
    with pytest.raises(Undecodable):
        JsonCodec().decode('{"~secret":{"~zz":1}}')


def test_it_can_be_declared() -> None:
    """S7.3: a field of type Secret[T] takes a Secret, or what T takes; an error shows neither the value nor its keys."""
    check_convertible(Card)
    assert declared_types(Card) == {Card}
    built = convert({"number": CANARY, "limits": {"day": 5}}, Card)
    assert built == Card(Secret(CANARY), Secret({"day": 5}))
    assert convert({"number": Secret(CANARY)}, Card) == Card(Secret(CANARY))
    assert convert(5, Secret[int]) == Secret(5) and convert("x", Secret) == Secret("x")
    already = Secret({"day": 1})
    assert convert(already, Secret[Any]) is already
    for data in ({"number": 4711}, {"number": Secret(4711)}, {"number": "x", "limits": Secret({CANARY: "y"})}):
        with pytest.raises(ConversionError) as caught:
            convert(data, Card)
        assert CANARY not in str(caught.value) and "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "data"),
    [
        (Secret[Checked], {"number": CANARY}),
        (Secret[Model], {"number": CANARY}),
        (Secret[Checked | None], {"number": CANARY}),
        (Secret[dict[str, int] | dict[str, bool]], {CANARY: "x"}),
        (Secret[dict[date, int]], {CANARY: 1}),
    ],
)
def test_what_a_class_says_of_what_is_inside_is_not_shown(declared: Any, data: Any) -> None:
    """S16: nor what the members of a union say of its keys; a Secret that is refused says that it does not fit."""
    check_convertible(declared)
    for value in (data, Secret(data)):
        with pytest.raises(ConversionError, match="inside the Secret") as caught:
            convert(value, declared)
        assert CANARY not in "".join(traceback.format_exception(caught.value)) and caught.value.path == ""


async def test_on_its_way_through_a_run(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """S16: as input, data, result, payload and in an exception: secret in everything that is printed, there for who asks."""
    caplog.set_level(logging.DEBUG)
    seen: list[Any] = []

    async def charge(ctx: Any) -> Any:
        ctx.logger.info("charging %s", ctx.input)
        ctx.data["token"] = ctx.input.number
        seen.append(repr((ctx.input, ctx.data, ctx.results, ctx)))
        return {"number": ctx.input.number}

    async def fail(ctx: Any) -> None:
        ctx.logger.warning("%r", dict(ctx.results))
        seen.append(repr((ctx.data, ctx.results)))
        raise ValueError("refused", ctx.results["go"])

    flow = create_workflow("card").input(Card).step("charge", charge).wait("go", type=Secret[str]).step("fail", fail, retries=0)
    engine, other = await cluster.open(), await cluster.open()
    run_id = (await engine.execute(flow, {"number": Secret(CANARY)})).id
    await engine.signal(flow, run_id, "go", CANARY)
    result = await other.get(run_id)
    assert result.data["token"].reveal() == result.results["charge"]["number"].reveal() == result.results["go"].reveal() == CANARY
    assert type(result.error) is ValueError and result.error.args == ("refused", Secret(CANARY))
    shown = [result.data, result.results, result.input, result.error, *result.history, *[line.result for line in result.history], *seen]
    assert CANARY not in repr(shown) and CANARY not in "".join(traceback.format_exception(result.error)) and CANARY not in caplog.text
    assert "Secret(***)" in caplog.text


async def test_refusals_do_not_show_it(engine: FluxEngine) -> None:
    """S16: InvalidInput and InvalidPayload."""
    flow = create_workflow("card").input(Card).wait("go", type=Secret[int])
    with pytest.raises(InvalidInput) as caught:
        await engine.execute(flow, {"number": Secret([CANARY])})
    await engine.execute(flow, {"number": "x"}, id="r")
    with pytest.raises(InvalidPayload) as refused:
        await engine.signal(flow, "r", "go", CANARY)
    for error in (caught.value, refused.value):
        assert CANARY not in "".join(traceback.format_exception(error))
    assert caught.value.path == "number"

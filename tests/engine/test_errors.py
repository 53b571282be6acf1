"""What a handler raised, met again: in the result, in an engine that was opened later, and by compensations (S3.9)."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import traceback
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pydantic
import pytest

from flux import RunFailed, StepError, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio


class Declined(Exception):
    def __init__(self, card: str, *, code: int) -> None:
        super().__init__(f"card {card} was declined")
        self.card = card
        self.code = code


class OutOfStock(LookupError):
    def __str__(self) -> str:
        raise RuntimeError("cannot say")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("cannot compare")

    __hash__ = LookupError.__hash__


class ByKeyword(Exception):
    def __init__(self, *, limit: Decimal) -> None:
        self.limit = limit

    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


class Quota(OSError):
    def __init__(self, user: str) -> None:
        super().__init__(errno.EDQUOT, f"quota of {user}")
        self.user = user


@dataclasses.dataclass(frozen=True)
class Rejected(Exception):
    code: int
    reasons: tuple[str, ...]


class Many(ExceptionGroup[Exception]):
    pass


class Stops(Exception):
    """Whose text would end the engine."""

    def __str__(self) -> str:
        raise SystemExit(3)


KINDS: dict[str, Callable[[], BaseException]] = {
    "plain": lambda: ValueError("x", 1, (2, Decimal("3"))),
    "of one's own": lambda: Declined("4711", code=5),
    "no text": lambda: OutOfStock("apples"),
    "keywords alone": lambda: ByKeyword(limit=Decimal("1.10")),
    "of the system": lambda: PermissionError(errno.EACCES, "no", "a.txt", None, "b.txt"),
    "of the system, own": lambda: Quota("ana"),
    "dataclass": lambda: Rejected(3, ("a", "b")),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "key": lambda: KeyError(("a", 1)),
    "end of an iteration": lambda: StopAsyncIteration(5),
    "group": lambda: Many("many", [Declined("1", code=1), ExceptionGroup("inner", [ValueError(2), KeyError("k")])]),
    "stops": lambda: Stops("x"),
    "NUL and halves": lambda: ValueError("\0\ud800", "\ud83d\ude00"),
    "a timeout of asyncio": lambda: TimeoutError("late"),
}


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("name", KINDS)
async def test_the_same_class_again(cluster: Cluster, name: str, thread: bool) -> None:
    """S3.9: the same class, arguments and attributes, from the engine that ran it and from one that was opened later."""
    make = KINDS[name]

    def fail(ctx: Any) -> None:
        raise make()

    async def fail_async(ctx: Any) -> None:
        raise make()

    flow = create_workflow("fails").step("fail", fail if thread else fail_async, retries=0)
    first = await cluster.open()
    await first.execute(flow, id="r")
    await first.close()
    result = await (await cluster.open()).get("r")
    made = make()
    for error in (result.error, result.history[0].error):
        assert type(error) is type(made)
        assert repr(error.args) == repr(made.args)
        assert {key: value for key, value in vars(error).items() if key != "__notes__"} == vars(made)
        assert "raise make()" in "".join(vars(error)["__notes__"])
    with pytest.raises(RunFailed) as caught:
        result.unwrap()
    assert type(caught.value.__cause__) is type(made)


async def test_except_takes_the_same_branch(cluster: Cluster) -> None:
    """S3.9: groups and their members too."""

    async def fail(ctx: Any) -> None:
        raise KINDS["group"]()

    first = await cluster.open()
    await first.execute(create_workflow("fails").step("fail", fail, retries=0), id="r")
    error = (await (await cluster.open()).get("r")).error
    assert error is not None
    caught: list[str] = []
    try:
        raise error
    except* Declined as group:
        caught.append(repr(group.exceptions[0].code))  # type: ignore[attr-defined]
    except* KeyError:
        caught.append("key")
    except* ValueError:
        caught.append("value")
    assert caught == ["1", "key", "value"]


async def test_causes_and_contexts(cluster: Cluster) -> None:
    """S3.9: to a compensation, and from another engine, the chain prints as it did."""
    seen: list[Any] = []

    async def undo(ctx: Any) -> None:
        seen.append(ctx.error)

    async def fail(ctx: Any) -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise OSError("second")
        except OSError as error:
            raise Declined("4711", code=5) from error

    flow = create_workflow("fails").step("a", Effects().step("a"), compensate=undo).step("fail", fail, retries=0)
    first, other = await cluster.open(), await cluster.open()
    await first.execute(flow, id="r")
    for error in (seen[0], (await other.get("r")).error):
        assert type(error) is Declined and type(error.__cause__) is OSError and type(error.__cause__.__context__) is KeyError
        text = "".join(traceback.format_exception(error))
        assert (
            text.index("'first'") < text.index("During handling") < text.index("second") < text.index("direct cause") < text.index("4711")
        )


async def test_a_class_that_this_engine_cannot_have(cluster: Cluster) -> None:
    """S3.9: one made in a function, and one that needs its own constructor, come back as a StepError that names them."""

    class Local(Exception):
        pass

    async def local(ctx: Any) -> None:
        raise Local("gone", 5)

    async def invalid(ctx: Any) -> None:
        pydantic.TypeAdapter(int).validate_python("x")

    first, other = await cluster.open(), await cluster.open()
    for id, handler, name in (("a", local, "Local"), ("b", invalid, "ValidationError")):
        await first.execute(create_workflow(f"fails-{id}").step("fail", handler, retries=0), id=id)
        error = (await other.get(id)).error
        assert isinstance(error, StepError) and error.type_name.endswith(name) and name in str(error)
    assert (await other.get("a")).error.args == ("gone", 5)  # type: ignore[union-attr]
    declared = await cluster.open(types=[Local])
    assert type((await declared.get("a")).error) is Local


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", [StopIteration, GeneratorExit, asyncio.CancelledError])
async def test_what_would_end_a_coroutine(cluster: Cluster, kind: type[BaseException], late: bool, thread: bool) -> None:
    """S3.9, I15: raised by a handler they fail its step, and no more: the call returns, and the run is held by nobody."""

    def fail(ctx: Any) -> None:
        raise kind

    async def fail_async(ctx: Any) -> None:
        if late:
            await asyncio.sleep(0)
        raise kind

    engine, other = await cluster.open(), await cluster.open()
    flow = create_workflow("fails").step("a", Effects().step("a"), compensate=Effects().step("undo"))
    result = await engine.execute(flow.step("fail", fail if thread else fail_async, retries=0), id="r")
    assert result.status == "failed" and result.history[0].status == "compensated"
    error = (await other.get("r")).error
    assert kind.__name__ in f"{type(error).__name__} {error} {error.__cause__!r}"


async def test_a_flood_of_words(cluster: Cluster) -> None:
    """S15.7: of long messages, deep chains and wide groups a bounded part is kept, and the class."""

    async def fail(ctx: Any) -> None:
        error: Exception = ValueError("x" * 1_000_000)
        for n in range(2_000):
            outer = ExceptionGroup("y" * 100_000, [error, *(KeyError(n) for _ in range(50))]) if n % 2 else OSError("z" * 100_000)
            outer.__cause__ = error
            error = outer
        raise error

    first, other = await cluster.open(), await cluster.open()
    await first.execute(create_workflow("fails").step("fail", fail, retries=0), id="r")
    error = (await other.get("r")).error
    assert isinstance(error, ExceptionGroup) and len(error.message) <= 8192 and isinstance(error.exceptions[0], OSError)
    assert len("".join(traceback.format_exception(error))) < 5_000_000

"""Typed input: data that fits is built, data that does not is refused by the name of its field (S7.3, S15.1, S1.4)."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import enum
import functools
import json
import sys
import typing
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, MutableSequence, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Required,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from flux.codec import JsonCodec
from flux.convert import ConversionError, check_convertible, convert, declared_types, returned_types
from flux.errors import InvalidWorkflow
from flux.secret import Secret

T = TypeVar("T")
Number = TypeVar("Number", int, Decimal)
Sku = NewType("Sku", str)
Words = TypeAliasType("Words", list[str])
# What `type Json = dict[str, Json] | ...` makes where the language has it.
Json = TypeAliasType("Json", None)
if sys.version_info >= (3, 12):
    exec("type Json = dict[str, Json] | list[Json] | str | int | None")
else:
    vars(Json)["__value__"] = dict[str, Json] | list[Json] | str | int | None


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass(frozen=True)
class Line:
    sku: Sku
    count: int = 1
    price: Decimal | None = None
    kind: ClassVar[str] = "line"


@dataclasses.dataclass
class Order:
    id: str
    lines: list[Line]
    placed: datetime
    colour: Colour = Colour.RED
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    total: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        if not self.lines:
            raise ValueError("no lines")
        self.total = sum(line.count for line in self.lines)


@dataclasses.dataclass
class Node:
    name: str
    below: list[Node] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    one: T
    many: list[T]


U = TypeVar("U")


@dataclasses.dataclass
class LineBox(Box[Line]):
    name: str = ""


@dataclasses.dataclass
class Pair(Box[T], Generic[U, T]):
    other: dict[str, U] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class DatedPair(Pair[date, int]):
    pass


class Reply(TypedDict, Generic[T]):
    one: T


class LineReply(Reply[Line]):
    page: int


class Coordinates(NamedTuple, Generic[T]):
    x: T


class Dates(Coordinates[date]):
    pass


@dataclasses.dataclass
class WithInitVar:
    a: int
    b: dataclasses.InitVar[int]


class Base(TypedDict):
    a: int
    b: NotRequired[date]


class Partial(Base, total=False):
    c: Line
    d: Required[str]


class Point(NamedTuple):
    x: int
    y: date = date(2026, 1, 1)


class Inner(pydantic.BaseModel):
    sku: str
    colour: Colour = Colour.RED


class Model(pydantic.BaseModel):
    when: date
    lines: list[Inner] = []


class Struct(msgspec.Struct):
    n: int
    lines: list[Line] = []
    when: date | None = None
    counts: dict[int, int] = {}


NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
UID = UUID("12345678123456781234567812345678")


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        (Any, object, object),
        (int, 1, 1),
        (float, 1, 1.0),
        (bool, True, True),
        (str, "", ""),
        (None, None, None),
        (Optional[int], None, None),  # noqa: UP045
        (Union[int, str], "5", "5"),  # noqa: UP007
        (float | int, 1, 1),
        (date | None, "2026-01-02", date(2026, 1, 2)),
        (datetime, "2026-01-02T03:04:00Z", NOW),
        (time, "03:04", time(3, 4)),
        (timedelta, "P1DT1H30M0.5S", timedelta(days=1, hours=1, minutes=30, seconds=0.5)),
        (timedelta, "-PT5M", timedelta(minutes=-5)),
        (timedelta, 1.5, timedelta(seconds=1.5)),
        (Decimal, "1.10", Decimal("1.10")),
        (Decimal, 3, Decimal(3)),
        (UUID, str(UID), UID),
        (PurePosixPath, "a/b", PurePosixPath("a/b")),
        (Path, "a", Path("a")),
        (Colour, "r", Colour.RED),
        (Colour, "BLUE", Colour.BLUE),
        (Level, 2, Level.HIGH),
        (Literal["a", 1], 1, 1),
        (Literal[Colour.RED], "r", Colour.RED),
        (list[int], (1, 2), [1, 2]),
        (list, [1, "a"], [1, "a"]),
        (Sequence[date], ["2026-01-02"], [date(2026, 1, 2)]),
        (collections.abc.Iterable[int], (1,), (1,)),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[()], [], ()),
        (tuple, [1, "a"], (1, "a")),
        (typing.Tuple, [1, "a"], (1, "a")),  # noqa: UP006
        (set[Colour], ["r"], {Colour.RED}),
        (frozenset[int], [1], frozenset({1})),
        (deque[int], [1], deque([1])),
        (dict[str, date], {"a": "2026-01-02"}, {"a": date(2026, 1, 2)}),
        (dict[date, int], {"2026-01-02": 1}, {date(2026, 1, 2): 1}),
        (Mapping[str, Any], {"a": 1}, {"a": 1}),
        (OrderedDict[str, int], {"a": 1}, OrderedDict(a=1)),
        (Annotated[int, "positive"], 1, 1),
        (Sku, "a", "a"),
        (Json, {"a": [1, None, {"b": "c"}]}, {"a": [1, None, {"b": "c"}]}),
        (Words, ["a"], ["a"]),
        (T, 1, 1),
        (Number, "1.5", Decimal("1.5")),
        (Line, {"sku": "a", "price": "1.5"}, Line(Sku("a"), 1, Decimal("1.5"))),
        (Node, {"name": "a", "below": [{"name": "b"}]}, Node("a", [Node("b")])),
        (Box[date], {"one": "2026-01-02", "many": ["2026-01-02"]}, Box(date(2026, 1, 2), [date(2026, 1, 2)])),
        (Base, {"a": 1}, {"a": 1}),
        (Partial, {"a": 1, "d": "x", "b": "2026-01-02", "c": {"sku": "a"}}, {"a": 1, "d": "x", "b": date(2026, 1, 2), "c": Line(Sku("a"))}),
        (Point, {"x": 1}, Point(1)),
        (Point, [1, "2026-01-02"], Point(1, date(2026, 1, 2))),
        (Model, {"when": "2026-01-02", "lines": [{"sku": "a"}]}, Model(when=date(2026, 1, 2), lines=[Inner(sku="a")])),
        (Struct, {"n": 1, "lines": [{"sku": "a"}]}, Struct(1, [Line(Sku("a"))])),
        (Line | Point, {"x": 1}, Point(1)),
        (Line | dict[str, Any], {"sku": "a"}, Line(Sku("a"))),
        (LineBox, {"one": {"sku": "a"}, "many": [{"sku": "b"}]}, LineBox(Line(Sku("a")), [Line(Sku("b"))])),
        (Pair[date, Line], {"one": {"sku": "a"}, "many": [], "other": {"a": "2026-01-02"}}, Pair(Line(Sku("a")), [], {"a": NOW.date()})),
        (DatedPair, {"one": 1, "many": [2], "other": {"a": "2026-01-02"}}, DatedPair(1, [2], {"a": date(2026, 1, 2)})),
        (LineReply, {"one": {"sku": "a"}, "page": 1}, {"one": Line(Sku("a")), "page": 1}),
        (Dates, ["2026-01-02"], Dates(date(2026, 1, 2))),
        (list[Line] | list[Any], [{"sku": "a"}], [Line(Sku("a"))]),
    ],
)  # fmt: skip
def test_data_that_fits_is_built(declared: Any, value: Any, expected: Any) -> None:
    """S7.3: each supported annotation; what was built passes through unchanged a second time."""
    check_convertible(declared)
    found = convert(value, declared)
    assert found == expected and type(found) is type(expected)
    assert convert(found, declared) == found


def test_instances_pass_through() -> None:
    """The declared type itself is accepted as it is."""
    order = Order("1", [Line(Sku("a"))], NOW)
    for value, declared in ((order, Order), (Point(1), Point), (Model(when=date(2026, 1, 1)), Model), (Struct(1), Struct)):
        assert convert(value, declared) is value


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (list[int], [1, 2]),
        (tuple[str, int], ("a", 1)),
        (Base, {"a": 1, "b": date(2026, 1, 1)}),
        (deque[int], deque([1], maxlen=2)),
        (Sequence[int], deque([1], maxlen=2)),
        (Collection[int], {1, 2}),
        (Iterable[int], frozenset({1, 2})),
        (Mapping[str, int], OrderedDict(a=1)),
        (dict[str, int], defaultdict(int, a=1)),
    ],
)
def test_containers_of_what_is_declared_pass_through(declared: Any, value: Any) -> None:
    """api.md (input): a container of what is declared is not built into one of another type, and loses nothing."""
    check_convertible(declared)
    assert convert(value, declared) is value


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        (deque[float], deque([1], maxlen=2), deque([1.0], maxlen=2)),
        (Sequence[float], deque([1], maxlen=2), deque([1.0], maxlen=2)),
        (Collection[date], {"2026-01-01"}, {date(2026, 1, 1)}),
        (MutableSequence[int], (1, 2), [1, 2]),
        (Sequence[Any], Point(1, date(2026, 1, 2)), (1, date(2026, 1, 2))),
        (frozenset[int], {1}, frozenset({1})),
    ],
)
def test_containers_keep_their_type_when_their_members_are_converted(declared: Any, value: Any, expected: Any) -> None:
    """api.md (input): what is built is of the declared type, and of the type that came where that is one."""
    found = convert(value, declared)
    assert found == expected and type(found) is type(expected)
    assert getattr(found, "maxlen", None) == getattr(expected, "maxlen", None)


def test_a_nested_dataclass_is_built_by_its_constructor() -> None:
    """Defaults and `__post_init__` are honoured; a field that data may not give is unknown."""
    data = {"id": "1", "lines": [{"sku": "a", "count": 2}], "placed": "2026-01-02T03:04:00+00:00"}
    assert convert(data, Order) == Order("1", [Line(Sku("a"), 2)], NOW)
    assert convert(data, Order).total == 2
    with pytest.raises(ConversionError, match="unknown field") as caught:
        convert({**data, "total": 1}, Order)
    assert caught.value.path == "total"


@pytest.mark.parametrize(
    ("declared", "value", "path", "message"),
    [
        (int, True, "", "expected int, got bool"),
        (int, "1", "", "expected int, got str"),
        (float, False, "", "expected float, got bool"),
        (float, 10**400, "", "too large for a float"),
        (float, 2**53 + 1, "", "an int that no float is equal to"),
        (bool, 1, "", "expected bool, got int"),
        (str, None, "", "expected str, got None"),
        (date, "2026-13-01", "", "expected date (ISO 8601 text), got str"),
        (timedelta, "PT", "", "expected timedelta"),
        (timedelta, float("nan"), "", "expected timedelta"),
        (Decimal, 1.5, "", "expected Decimal"),
        (Decimal, "x", "", "expected Decimal"),
        (Level, True, "", "expected Level (1, 2), got bool"),
        (Colour, [], "", "expected Colour ('r', 'b'), got list"),
        (Literal["a", 1], True, "", "expected one of 'a', 1, got bool"),
        (int | str, 1.5, "", "expected int | str, got float"),
        (list[int], [1, "x"], "[1]", "expected int, got str"),
        (list[int], "12", "", "expected list, got str"),
        (set[list[int]], [[1]], "", "expected set of hashable members"),
        (tuple[int, str], [1], "", "expected tuple of 2"),
        (tuple[()], [1], "", "expected tuple of 0"),
        (typing.Tuple[()], [1], "", "expected tuple of 0"),  # noqa: UP006
        (dict[str, int], {"a": "x"}, "['a']", "expected int"),
        (dict[int, int], {"a": 1}, "['a'] (the key)", "expected int"),
        (dict[date, int], {"2026-01-02": 1, date(2026, 1, 2): 2}, "[datetime.date(2026, 1, 2)]", "two keys become one"),
        (dict[Colour, int], {"RED": 1, "r": 2}, "['r']", "two keys become one"),
        (dict[list[int], int], {(1, 2): 1}, "[(1, 2)] (the key)", "expected a hashable key"),
        (Order, {"id": "1", "lines": [{"sku": "a"}, {"sku": 5}], "placed": NOW}, "lines[1].sku", "expected str, got int"),
        (Order, {"id": "1", "lines": [{"sku": "a", "skuu": 5}]}, "lines[0].skuu", "unknown field; the fields of Line are sku, count"),
        (Order, {"id": "1", "lines": []}, "placed", "missing: Order needs this field"),
        (Order, {"id": "1", "lines": [], "placed": NOW}, "", "Order refuses it: ValueError: no lines"),
        (Order, [1], "", "expected Order (a mapping of its fields), got list"),
        (Optional[Line], {"sku": 5}, "sku", "expected str, got int"),  # noqa: UP045
        (Order | None, {"id": "1", "lines": [], "placed": NOW}, "", "Order refuses it: ValueError: no lines"),
        (Secret[int] | None, "x", "", "Secret[int] | None, got str"),
        (Secret[int], "x", "", "expected int, got str"),
        (LineBox, {"one": 5, "many": []}, "one", "expected Line"),
        (DatedPair, {"one": "x", "many": []}, "one", "expected int, got str"),
        (Line | Point, {"z": 5}, "", "expected Line | Point"),
        (Partial, {"a": 1}, "d", "missing"),
        (Partial, {"a": 1, "d": "x", "c": {}}, "c.sku", "missing"),
        (Base, {"a": 1, 5: 1}, "5", "unknown field"),
        (Point, [1, "2026-01-02", 3], "", "expected Point"),
        (Model, {"when": "2026-01-02", "lines": [{}]}, "lines[0].sku", "Model: Field required"),
        (Struct, {"n": "x"}, "n", "Struct: Expected `int`, got `str`"),
        (Struct, {"n": 1, "lines": [{}]}, "lines[0]", "Struct: Object missing required field `sku`"),
        (list[Struct], [{"n": "x"}], "[0].n", "Expected `int`"),
        (list[Struct], [{"n": 1, "counts": {"a": 1}}], "[0].counts (the key)", "Struct: Expected `int`, got `str`"),
        (str, ["x" * 1000] * 1000, "", "expected str, got list"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_refused_by_name(declared: Any, value: Any, path: str, message: str) -> None:
    """S7.3, S16, api.md (input): the field's path, what was expected and what type came, in few words, and never the value."""
    with pytest.raises(ConversionError) as caught:
        convert(value, declared)
    assert caught.value.path == path and message in str(caught.value) and len(str(caught.value)) < 500
    assert str(caught.value).startswith(path)


def test_a_path_to_start_from() -> None:
    """The caller names where the value stands."""
    with pytest.raises(ConversionError) as caught:
        convert({"sku": 1}, Line, "input")
    assert caught.value.path == "input.sku"


def test_data_that_never_ends() -> None:
    """S15.7: too deep is an error of the data, not of the interpreter."""
    data: dict[str, Any] = {"name": "a"}
    for _ in range(50_000):
        data = {"name": "a", "below": [data]}
    with pytest.raises(ConversionError, match="too deep"):
        convert(data, Node)


class Plain:
    pass


@dataclasses.dataclass
class Holds:
    line: Line
    plain: dict[str, Plain]


@dataclasses.dataclass
class Unresolved:
    a: Nowhere  # type: ignore[name-defined]  # noqa: F821


@dataclasses.dataclass
class Growing(Generic[T]):
    one: T
    more: Growing[list[T]] | None = None


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (Plain, "Plain"),
        (list[Plain], "Plain"),
        (Holds, "Plain"),
        (Callable[[int], int], "Callable"),
        (WithInitVar, "field 'b' is an InitVar"),
        (Unresolved, "Nowhere"),
        ("Order", "Order"),
        (type[int], "type"),
        (Growing[int], "more than 1000"),
        (int | Plain, "Plain"),
        (tuple[int, *tuple[str, ...]], "a part of any length"),
    ],
)
def test_types_that_cannot_be_checked_are_found_at_build_time(declared: Any, message: str) -> None:
    """S1.4: an annotation that flux cannot work with is an error of the definition, naming the type."""
    with pytest.raises(InvalidWorkflow, match=message):
        check_convertible(declared)


def test_declared_types() -> None:
    """D21: all classes that an annotation leads to, through fields, containers and models of other libraries."""
    assert declared_types(Order) == {Order, Line, Colour}
    assert declared_types(dict[str, Model | None]) == {Model, Inner, Colour}
    assert declared_types(list[Partial]) == {Line}
    assert declared_types(Struct) == {Struct, Line}
    assert declared_types(tuple[Point, Box[Level]]) == {Point, Box, Level}
    assert declared_types(Literal[Colour.RED]) == {Colour}
    assert declared_types(Json) == declared_types(int) == declared_types("Order") == declared_types(Callable[..., int]) == set()
    assert declared_types(Unresolved) == {Unresolved}
    assert declared_types(tuple[Unresolved, Model]) == {Unresolved, Model, Inner, Colour}
    assert JsonCodec(declared_types(dict[str, Model]))


def test_returned_types() -> None:
    """D21: what a handler of whatever kind says it returns, also where annotations are text, or what it takes cannot be resolved."""

    async def handler(ctx: Any) -> list[Model]: ...

    def silent(ctx: Any): ...  # type: ignore[no-untyped-def]

    def partly(ctx: Nowhere) -> Model: ...  # type: ignore[name-defined]  # noqa: F821

    def lost(ctx: Any) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821

    class Called:
        async def __call__(self, ctx: Any) -> list[Model]: ...

        def method(self, ctx: Any) -> list[Model]: ...

    @functools.wraps(handler)
    def wrapper(*args: Any) -> Any: ...

    for one in (handler, partly, functools.partial(functools.partial(handler)), Called(), Called().method, wrapper):
        assert returned_types(one) == {Model, Inner, Colour}
    assert returned_types(silent) == returned_types(lost) == returned_types(print) == returned_types(functools.partial(print)) == set()


@given(
    st.builds(
        Order,
        st.text(),
        st.lists(st.builds(Line, st.text(), st.integers(), st.none() | st.decimals(allow_nan=False)), min_size=1, max_size=3),
        st.datetimes(),
        st.sampled_from(Colour),
        st.dictionaries(st.text(), st.text(), max_size=2),
    )
)
def test_what_json_makes_of_a_value_converts_back(order: Order) -> None:
    """S7.3: plain JSON of a typed value, as a client in another language would send it, is that value again."""
    data = dataclasses.asdict(order)
    del data["total"]
    plain = json.loads(json.dumps(data, default=lambda value: value.value if isinstance(value, Colour) else str(value)))
    assert convert(plain, Order) == order


DATA = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "lines", "sku", "a"]), inner),
)


@given(DATA, st.sampled_from([Order, Partial, Point, Model, Struct, Json, dict[str, Line], Line | int]))
def test_any_data_is_built_or_refused(data: Any, declared: Any) -> None:
    """S7.3: no other error ever leaves."""
    with contextlib.suppress(ConversionError):
        convert(data, declared)


@dataclasses.dataclass
class Left:
    child: Left | Right | None = None


@dataclasses.dataclass
class Right:
    child: Left | Right | None = None


@pytest.mark.parametrize("leaf", [None, 5])
def test_unions_that_contain_themselves(leaf: Any) -> None:
    """S15.7: each part is converted once a member, not twice as often at every level; the error is of bounded length."""
    data: Any = {"child": leaf}
    for _ in range(60):
        data = {"child": data}
    if leaf is None:
        found = convert(data, Left)
        assert isinstance(found, Left) and isinstance(found.child, Left)
        return
    with pytest.raises(ConversionError) as caught:
        convert(data, Left)
    assert caught.value.path == "child" and len(str(caught.value)) < 600

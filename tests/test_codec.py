"""The codec: one value domain, exact round trips, clear refusals (S15.1, S15.6, S15.7, D21, I43, I44)."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.codec import JsonCodec, Undecodable, digest
from flux.errors import InvalidArgument, NotStorable
from flux.packing import plain_encoder


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"
    CRIMSON = "red"  # noqa: PIE796


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Fresh(enum.Flag):
    """No test but one makes a combination of these: the enum module would remember it."""

    READ = 1
    WRITE = 2

    @classmethod
    def _missing_(cls, value: object) -> Any:
        CALLED.append("_missing_")
        return super()._missing_(value)


CALLED: list[str] = []


def noted_default() -> list[int]:
    CALLED.append("factory")
    return []


@dataclasses.dataclass
class Line:
    sku: str
    price: Decimal
    count: int = 1
    tags: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        CALLED.append("__post_init__")


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    a: int
    __hidden: int = 3


@dataclasses.dataclass
class Order:
    id: UUID
    at: datetime
    lines: list[Line]
    colour: Colour = Colour.RED
    by: Key | None = None


@dataclasses.dataclass
class WithMore:
    a: int
    derived: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.derived = self.a * 2
        self.besides = "kept"

    @cached_property
    def computed(self) -> object:
        return object()


@dataclasses.dataclass
class UserFactory:
    a: int
    made: list[int] = dataclasses.field(default_factory=noted_default)


@dataclasses.dataclass
class ListLike(list):  # type: ignore[type-arg]
    a: int = 1


class Point(NamedTuple):
    x: int
    y: Any = 0


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    when: date
    inner: Model | None = None
    _private: int = 5


class Struct(msgspec.Struct, frozen=True):
    n: int
    parts: tuple[int, ...] = ()


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=()), max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.timezones(), allow_imaginary=True).map(lambda at: at.replace(fold=1)),
    st.datetimes(timezones=st.integers(-86_399, 86_399).map(lambda s: timezone(timedelta(seconds=s)))),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.sampled_from([*Colour, *Level, Word.YES, *Right, Right(0), Right.READ | Right.WRITE]),
    st.builds(Key, st.integers()),
    st.builds(PurePosixPath, st.text(max_size=5).filter(lambda text: "\0" not in text)),
    st.complex_numbers(allow_nan=False, allow_infinity=False),
)
KEYS = st.sampled_from(["", "~", "~date", "~tuple", "a", "b"]) | SCALARS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.frozensets(SCALARS, max_size=3),
        st.sets(SCALARS, max_size=3),
        st.builds(Point, st.integers(), inner),
        st.builds(WithMore, st.integers()),
    ),
    max_leaves=10,
)


def here(text: str) -> str:
    """Stored text of a class of this module."""
    return text.replace("HERE", __name__)


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types all through, and in the same order."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=False)
        return len(one) == len(other) and all(same(a, c) and same(b, d) for (a, b), (c, d) in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, set | frozenset):
        return one == other and Counter(map(type, one)) == Counter(map(type, other))
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, datetime | time):
        return (one.isoformat(), one.fold, str(one.tzinfo)) == (other.isoformat(), other.fold, str(other.tzinfo))
    if isinstance(one, Decimal):
        return str(one) == str(other)
    if hasattr(one, "__dict__") and not isinstance(one, enum.Enum):
        return same(vars(one), vars(other))
    return bool(one == other)


@given(PLAIN)
def test_plain_values_come_back_exactly(value: Any) -> None:
    """S15.6, I44: plain JSON all through, with NUL, lone surrogates and big integers."""
    text = JsonCodec().encode(value)
    assert text.isascii() and "\0" not in text
    assert same(JsonCodec().decode(text), value)


@given(VALUES)
def test_all_values_come_back_exactly(value: Any) -> None:
    """D21, I44: every type of the domain, nested anyhow; another process with the same classes reads the same."""
    text = JsonCodec().encode(value)
    assert text.isascii()
    assert same(JsonCodec().decode(text), value)
    assert JsonCodec().encode(JsonCodec().decode(text)) == text


@given(
    st.text(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda i: (
            st.lists(i)
            | st.dictionaries(
                st.sampled_from(
                    ["~", "~map", "~set", "~data", "~enum", "~datetime", "~pydantic", "~struct", "~named", "~path", "~counter"]
                ),
                i,
            )
        ),
    ).map(json.dumps)
)
def test_damaged_text_is_undecodable_and_nothing_else(text: str) -> None:
    """S15.2: whatever the row holds, the error is one that the engine can report."""
    with contextlib.suppress(Undecodable):
        JsonCodec().decode(text)


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict([("b", 1), ((1, 2), 2)]),
        defaultdict(list, {"a": [1]}),
        defaultdict(None, {"a": 1}),
        Counter({"a": -2, "b": 0}),
        deque([1, (2,)], maxlen=3),
        bytearray(b"\0\xff"),
        Decimal("NaN"),
        Decimal("-sNaN12"),
        Decimal("1E+5"),
        PureWindowsPath("C:/x"),
        datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=-1))),
        time(1, 2, tzinfo=timezone(timedelta(microseconds=1))),
        time(1, 2, tzinfo=ZoneInfo("UTC")),
        "\ud83d" + "\ude00",
        {"\ud83d" + "\ude00": 1},
        {Word.YES: 1},
        {"~": {"~date": "x"}},
        -0.0,
    ],
)
def test_particular_values(value: Any) -> None:
    """D21: the less common members of the domain, and text that JSON would join or mistake for a tag."""
    found = JsonCodec().decode(JsonCodec().encode(value))
    assert same(found, value)
    for detail in ("default_factory", "maxlen"):
        assert getattr(found, detail, None) == getattr(value, detail, None)


def test_equal_sets_have_equal_texts() -> None:
    """S2.4, D27: the digest of an input does not hang on a set's order of iteration."""
    words = [f"word{n}" for n in range(50)]
    assert json.loads(JsonCodec().encode(set(words)))["~set"] == sorted(words)
    assert digest("a") != digest("b") and len(digest("\ud800")) == 32


def test_an_object_comes_back_without_its_own_code_being_called() -> None:
    """D21: a stored row calls nothing: not `__post_init__`, not `_missing_`, not a factory of an undeclared class."""
    codec = JsonCodec()
    order = Order(uuid4(), datetime.now(UTC), [Line("a", Decimal("1.50"))], Colour.CRIMSON, Key(1))
    texts = [codec.encode(order), codec.encode(Right.READ | Right.WRITE), codec.encode(WithMore(2))]
    CALLED.clear()
    found = [codec.decode(text) for text in texts]
    both = codec.decode(here('{"~enum":["HERE:Fresh",null,3]}'))
    assert CALLED == []
    assert both.value == 3 and type(both) is Fresh and both is Fresh.READ | Fresh.WRITE
    assert found[:2] == [order, Right.READ | Right.WRITE]
    assert (found[2].derived, found[2].besides) == (4, "kept")


def test_a_cached_property_is_not_part_of_the_value() -> None:
    """What an object can compute again is not stored, even where it could not be."""
    value = WithMore(1)
    assert value.computed is not None
    assert "computed" not in vars(JsonCodec().decode(JsonCodec().encode(value)))


def test_a_class_that_has_grown() -> None:
    """S13.1: a newer field takes its default; one without default is an error that names it; a member that is gone too."""
    codec = JsonCodec()
    old = here('{"~data":["HERE:Line",{"sku":"a","price":1,"gone":2}]}')
    assert (codec.decode(old).count, codec.decode(old).tags) == (1, [])
    with pytest.raises(Undecodable, match="no field 'price'"):
        codec.decode(here('{"~data":["HERE:Line",{"sku":"a"}]}'))
    with pytest.raises(Undecodable, match="no field 'made'"):
        codec.decode(here('{"~data":["HERE:UserFactory",{"a":1}]}'))
    assert JsonCodec([UserFactory]).decode(here('{"~data":["HERE:UserFactory",{"a":1}]}')).made == []
    with pytest.raises(Undecodable, match="no member 'GREEN'"):
        codec.decode(here('{"~enum":["HERE:Colour","GREEN"]}'))
    with pytest.raises(Undecodable, match="no field 'x'"):
        codec.decode(here('{"~named":["HERE:Point",{"y":1}]}'))
    for private in ("null", "{}", '{"_private":6}'):
        model = JsonCodec([Model]).decode(here(f'{{"~pydantic":["HERE:Model",{{"when":{{"~date":"2026-01-01"}}}},[],["when"],{private}]}}'))
        assert (model.inner, model._private) == (None, 6 if "6" in private else 5)


def test_decoding_never_imports_and_never_looks_into_lazy_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """D21: a class is found where it is imported already, or not at all; the error names it and says what to do."""
    codec = JsonCodec()
    assert "wave" not in sys.modules
    with pytest.raises(Undecodable, match=r"wave:Wave_read.*types=\[") as caught:
        codec.decode('{"~data":["wave:Wave_read",{}]}')
    assert caught.value.type_name == "wave:Wave_read" and "wave" not in sys.modules

    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            CALLED.append(name)
            return super().__getattribute__(name)

    monkeypatch.setitem(sys.modules, "lazy_one", Lazy("lazy_one"))
    CALLED.clear()
    with pytest.raises(Undecodable):
        codec.decode('{"~data":["lazy_one:Thing",{}]}')
    assert CALLED == []


@pytest.mark.parametrize("name", ["builtins:dict", "subprocess:Popen", "os:system", "decimal:Decimal", "enum:Enum", "", ":", "sys"])
@pytest.mark.parametrize("tag", ["data", "enum", "named", "pydantic", "struct"])
def test_only_fitting_classes_are_rebuilt(tag: str, name: str) -> None:
    """D21: a row cannot make an instance of any class that happens to be there."""
    with pytest.raises(Undecodable):
        JsonCodec().decode(json.dumps({f"~{tag}": [name, {}, [], [], None]}))


def test_a_class_that_has_become_another_kind() -> None:
    """D21: what was a dataclass is not made of an Enum."""
    for tag, name in (("data", "Colour"), ("enum", "Line"), ("named", "Line"), ("struct", "Point"), ("pydantic", "Struct")):
        with pytest.raises(Undecodable, match="was stored as"):
            JsonCodec().decode(here('{"~%s":["HERE:%s",{},[],[],null]}' % (tag, name)))  # noqa: UP031


def test_a_class_made_in_a_function_is_declared_by_storing_it() -> None:
    """It comes back in this codec; another one has never seen it."""

    @dataclasses.dataclass
    class Local:
        a: int

    codec = JsonCodec()
    text = codec.encode(Local(1))
    assert codec.decode(text) == Local(1)
    with pytest.raises(Undecodable, match="Local"):
        JsonCodec().decode(text)
    assert JsonCodec([Local]).decode(text) == Local(1)


def test_models_that_need_their_constructor_must_be_declared() -> None:
    """D21: pydantic models and msgspec Structs round-trip exactly when declared; else the error says how to declare them."""
    model = Model(when=date(2026, 1, 1), inner=Model.model_validate({"when": "2026-01-02"}), other=1)  # type: ignore[call-arg]
    model._private = 7
    for value in (model, Struct(1, (2, 3))):
        name = type(value).__name__
        with pytest.raises(NotStorable, match=rf"types=\[{name}\]"):
            JsonCodec().encode(value)
        codec = JsonCodec([type(value)])
        text = codec.encode(value)
        found = codec.decode(text)
        assert found == value and type(found) is type(value)
        with pytest.raises(Undecodable, match=rf"types=\[{name}\]"):
            JsonCodec().decode(text)
    found = JsonCodec([Model]).decode(JsonCodec([Model]).encode(model))
    assert (found._private, found.model_fields_set, found.inner.model_extra) == (7, {"when", "inner", "other"}, {})


class Patch(msgspec.Struct, dict=True):
    must: int | msgspec.UnsetType
    may: int | msgspec.UnsetType = 5
    plain: int | msgspec.UnsetType = msgspec.UNSET

    @cached_property
    def computed(self) -> object:
        return object()


def test_a_struct_keeps_what_is_unset() -> None:
    """D21: a field that is UNSET comes back so, whatever its default; what is UNSET by default is not written."""
    codec = JsonCodec([Patch])
    for value in (Patch(1), Patch(1, msgspec.UNSET, 2), Patch(msgspec.UNSET, msgspec.UNSET, msgspec.UNSET)):
        assert value.computed is not None
        assert codec.decode(codec.encode(value)) == value
    assert codec.encode(Patch(1)) == here('{"~struct":["HERE:Patch",{"must":1,"may":5}]}')
    assert codec.decode(here('{"~struct":["HERE:Patch",{"must":1},["may","gone"]]}')) == Patch(1, msgspec.UNSET)


def test_a_struct_with_more_than_its_fields_is_refused() -> None:
    """S15.1: no attribute is lost in silence."""
    value = Patch(1)
    vars(value)["note"] = "x"
    with pytest.raises(NotStorable, match="attributes besides its fields"):
        JsonCodec([Patch]).encode(value)


def test_declaring_what_cannot_be_stored_is_refused() -> None:
    """S1.4: the mistake is found at the declaration."""
    with pytest.raises(InvalidArgument, match="dataclass"):
        JsonCodec([type("Plain", (), {})])
    assert JsonCodec([int, Decimal, datetime, UUID])  # known anyhow


def nested(depth: int, make: Any = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    return value


@pytest.mark.parametrize("make", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,), lambda v: {1: v}, lambda v: Point(1, v)])
def test_nesting_is_limited(make: Any) -> None:
    """S15.7: 64 levels and no more, the same for plain and tagged values, and no RecursionError for 100,000."""
    codec = JsonCodec()
    assert codec.decode(codec.encode(nested(64, make))) == nested(64, make)
    for depth in (65, 100_000):
        with pytest.raises(NotStorable, match="nested deeper than 64 levels"):
            codec.encode(nested(depth, make))


def test_cycles_are_refused_and_shared_objects_copied() -> None:
    """S15.1, I43."""
    codec = JsonCodec()
    cycle: dict[str, Any] = {"a": [1]}
    cycle["a"].append(cycle)
    with pytest.raises(NotStorable, match=r"pay: result\['a'\]\[1\]: contains itself"):
        codec.encode(cycle, "pay")
    shared = [1]
    found = codec.decode(codec.encode({"a": shared, "b": shared}))
    assert found["a"] == found["b"] == [1] and found["a"] is not found["b"]


@pytest.mark.parametrize("make", [lambda v: [v, v], lambda v: (v, v)])
def test_sharing_cannot_blow_a_value_up(make: Any) -> None:
    """S15.7: sixty levels of a pair of the same are 2**60 members: refused, not counted out."""
    with pytest.raises(NotStorable, match="more than 10,000 items"):
        JsonCodec(max_size=10_000).encode(nested(60, make))


def test_size_is_limited() -> None:
    """S15.1, S15.7: the error says the size, the limit, and which part it is."""
    codec = JsonCodec(max_size=1000)
    assert codec.encode("x" * 998)
    with pytest.raises(NotStorable, match=r"pay: result: 1,001 characters when encoded, and the limit is 1,000"):
        codec.encode("x" * 999, "pay")
    with pytest.raises(NotStorable, match=r"the largest part is \['big'\] with 2,002"):
        codec.encode({"a": 1, "big": "x" * 2000})
    with pytest.raises(NotStorable, match="1,048,576"):
        JsonCodec().encode("x" * 10_000_000)


class Open(enum.Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> Open:
        made = object.__new__(cls)
        made._name_, made._value_ = f"open {value}", value
        return made


@dataclasses.dataclass
class Priced:
    price: float


@pytest.mark.parametrize(
    ("value", "where", "message"),
    [
        ({"lines": [1, 2, Priced(float("nan"))]}, "pay", r"pay: result['lines'][2].price: NaN cannot be stored"),
        ({"x": float("inf")}, "input", "input['x']: infinity cannot be stored"),
        ([float("-inf")], "pay: data['t']", "pay: data['t'][0]: infinity cannot be stored"),
        ([10**5000], "", "value[0]: an integer of more digits"),
        ({"a": {1, (2, object())}}, "", "value['a'][member][1]: a value of type object cannot be stored"),
        (object(), "", "value: a value of type object"),
        (ValueError("x"), "pay", "an exception (ValueError) is not a value"),
        (type("S", (str,), {})("x"), "", "would come back as a plain str"),
        (type("D", (dict,), {})(), "", "would come back as a plain dict"),
        ((n for n in ()), "", "make it a list"),
        (lambda: 1, "", "a value of type function"),
        (defaultdict(lambda: 1), "", "a defaultdict can be stored when"),
        (ListLike(), "", "plain list"),
        (datetime(2026, 1, 1, tzinfo=type("Z", (timezone.__base__,), {})()), "", "use zoneinfo.ZoneInfo"),  # type: ignore[misc]
        ({("k",): float("nan")}, "", "value[a key of type tuple]: NaN"),
        ({"~": float("nan")}, "", "value['~']: NaN"),
        ({"c": Open("x")}, "", "Open that is none of its members"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_refused_by_name(value: Any, where: str, message: str) -> None:
    """S15.1: the error names the path, the key within the value, and the reason."""
    with pytest.raises(NotStorable) as caught:
        JsonCodec().encode(value, where)
    assert message in str(caught.value)


def test_a_forgotten_await_is_named() -> None:
    """S15.1."""

    async def charge() -> None: ...

    coroutine = charge()
    with pytest.raises(NotStorable, match="was an `await` forgotten"):
        JsonCodec().encode({"charge": coroutine})
    coroutine.close()


@pytest.mark.parametrize("text", ["", "{", "[1] 2", "NaN", '{"a":NaN}', "[" * 100_000, '{"~unknown":1}', '{"~tuple":1}', '{"~date":"x"}'])
def test_text_that_no_codec_wrote(text: str) -> None:
    """S15.2."""
    with pytest.raises(Undecodable):
        JsonCodec().decode(text)


def test_the_python_encoder_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreters without the C encoder write the same text."""
    value = {"a": [1, 1.5, None, True, "é\0", "\ud800"], "b": {}}
    text = JsonCodec().encode(value)
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    monkeypatch.setattr("flux.codec.chunks", plain_encoder())
    assert JsonCodec().encode(value) == text
    with pytest.raises(NotStorable, match="NaN"):
        JsonCodec().encode(float("nan"))

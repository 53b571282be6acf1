"""What went wrong is stored as it was, and meets user code as the same class (S3.9, S15.7)."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import traceback
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.codec import JsonCodec
from flux.core.failure import TEXT_LIMIT, Failure
from flux.errors import FluxError, InvalidInput, NonRetryable, RetryAfter, StepError, StepTimeout
from flux.failures import capture, rebuild
from flux.journal import pack_failure, unpack_failure

CALLED: list[str] = []


class Declined(Exception):
    """Needs keywords, so that its class alone cannot make one."""

    def __init__(self, *, code: int, amount: Decimal) -> None:
        CALLED.append("__init__")
        super().__init__(f"declined with {code}")
        self.code = code
        self.amount = amount


class Bare(Exception):
    def __init__(self, code: int) -> None:
        CALLED.append("__init__")
        self.code = code

    def __str__(self) -> str:
        return f"bare {self.code}"


class OwnNew(Exception):
    def __new__(cls, *args: Any) -> OwnNew:
        CALLED.append("__new__")
        return super().__new__(cls, *args)


class Slotted(LookupError):
    __slots__ = ("where",)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Mixed(FluxError, OSError):
    pass


class MyGroup(ExceptionGroup[Exception]):
    pass


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


class OwnBase(BaseException):
    pass


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def there_and_back(error: BaseException) -> Any:
    """Through capture, the journal's form, and rebuild by a codec that has seen nothing."""
    return rebuild(unpack_failure(pack_failure(capture(error, JsonCodec()))), JsonCodec())


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", 1, (2, Decimal("3"))),
        KeyError("k"),
        Declined(code=5, amount=Decimal("1.10")),
        Bare(3),
        OwnNew("a", 2),
        Frozen(4),
        NonRetryable("stop"),
        RetryAfter(2.5, "later"),
        InvalidInput("bad", "lines[2].sku"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        SyntaxError("bad", ("f.py", 1, 2, "x = ", 1, 3)),
        StopIteration(5),
        AssertionError(),
        TimeoutError(),
        OwnBase("mine"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_same_class_with_the_same_arguments(error: BaseException) -> None:
    """S3.9: the same class, args, attributes and text, and no code of the class called for it."""
    caught = raised(error)
    CALLED.clear()
    found = there_and_back(caught)
    assert CALLED == []
    assert type(found) is type(error) and found.args == error.args and str(found) == str(error)
    ours = {name: value for name, value in vars(found).items() if name != "__notes__"}
    assert ours == vars(error)


@given(st.lists(st.text(st.characters(exclude_categories=())) | st.integers() | st.binary() | st.dates(), max_size=3))
def test_any_arguments_come_back(args: list[Any]) -> None:
    """S3.9, S15.6."""
    assert there_and_back(ValueError(*args)).args == tuple(args)


def test_errors_of_the_system_keep_their_fields() -> None:
    """S3.9: errno, the file names and the subclass of an OSError; the name of an ImportError or NameError."""
    missing = raised(FileNotFoundError(errno.ENOENT, "No such file", "a.txt", None, "b.txt"))
    found = there_and_back(missing)
    assert type(found) is FileNotFoundError and str(found) == str(missing)
    assert (found.errno, found.strerror, found.filename, found.filename2) == (errno.ENOENT, "No such file", "a.txt", "b.txt")
    mixed = there_and_back(Mixed(errno.EPIPE, "gone"))
    assert type(mixed) is Mixed and mixed.errno == errno.EPIPE
    lost = there_and_back(ImportError("no", name="a", path="b"))
    assert (lost.name, lost.path, lost.args) == ("a", "b", ("no",))
    assert there_and_back(NameError("no", name="x")).name == "x"
    slotted = Slotted("k")
    slotted.where = "here"
    assert there_and_back(slotted).where == "here"
    assert there_and_back(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")).object == b"\xff"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError("c")])
def test_what_would_stop_the_process_comes_back_as_a_step_error(error: BaseException) -> None:
    """S3.9: it is named, not raised anew."""
    found = there_and_back(error)
    assert type(found) is StepError and found.args == (error.args or ())
    assert type(error).__name__ in str(found) and found.type_name.endswith(type(error).__name__)


def test_a_class_that_is_not_there() -> None:
    """S3.9, D21: a StepError that names it, with its args; recorded again, it is still the failure that it stands for."""
    failure = Failure("shop.errors:OutOfStock", "no more apples", JsonCodec().encode(["apple", 3]), traceback="there")
    error = rebuild(failure, JsonCodec())
    assert type(error) is StepError and error.type_name == "shop.errors:OutOfStock" and error.args == ("apple", 3)
    assert str(error) == "shop.errors:OutOfStock: no more apples"
    again = capture(error, JsonCodec())
    assert (again.type, again.message, again.args, again.state) == (failure.type, failure.message, failure.args, None)


@pytest.mark.parametrize("name", ["builtins:dict", "subprocess:Popen", "os:system", "", ":", "builtins:print"])
def test_only_exceptions_are_rebuilt(name: str) -> None:
    """D21: a row cannot name anything else."""
    assert type(rebuild(Failure(name, "m", "[]", '{"a":1}'), JsonCodec())) is StepError


@pytest.mark.parametrize("text", ["{", "5", "null", '{"~date":"x"}', '{"~data":["gone:Gone",{}]}'])
def test_damaged_failures_still_come_back(text: str) -> None:
    """S15.2: rebuild never raises."""
    for failure in (Failure("builtins:ValueError", "m", text), Failure("builtins:ValueError", "m", "[]", text)):
        assert type(rebuild(failure, JsonCodec())) is ValueError
    assert rebuild(Failure("builtins:ValueError", "m", '{"~data":["gone:Gone",{}]}'), JsonCodec()).args == ("m",)


def test_a_class_made_in_a_function_comes_back_in_its_process() -> None:
    """S3.9: and in another as a StepError, unless it is declared."""

    class Local(Exception):
        pass

    codec = JsonCodec()
    failure = capture(Local("x"), codec)
    assert type(rebuild(failure, codec)) is Local
    assert type(rebuild(failure, JsonCodec())) is StepError
    assert type(rebuild(failure, JsonCodec([Local]))) is Local


def test_what_flux_found_itself() -> None:
    """Failure.of has no args: the message is the argument, and the class has its own defaults."""
    error = rebuild(Failure.of("StepTimeout", "too slow"), JsonCodec())
    assert type(error) is StepTimeout and error.args == ("too slow",)
    lost = rebuild(Failure.of("InvalidInput", "bad"), JsonCodec())
    assert isinstance(lost, InvalidInput) and lost.path == ""


def test_what_cannot_be_stored_is_left_out() -> None:
    """S3.9: args that have no encoding become the message; of the attributes those that fit are kept."""
    error = Declined(code=5, amount=Decimal(1))
    error.args = (object(),)
    error.response = object()  # type: ignore[attr-defined]
    failure = capture(error, JsonCodec())
    assert failure.args is None
    found: Any = rebuild(failure, JsonCodec())
    assert type(found) is Declined and found.args == (failure.message,) and (found.code, found.amount) == (5, Decimal(1))
    assert not hasattr(found, "response")
    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.TypeAdapter(int).validate_python("x")
    other = there_and_back(caught.value)
    assert type(other) is StepError and "ValidationError" in str(other)


def test_an_exception_that_cannot_say_what_it_is() -> None:
    """invariants.md, traps: `__str__` that raises."""
    failure = capture(raised(Odd("x")), JsonCodec())
    assert "__str__ raised RuntimeError" in failure.message
    assert type(rebuild(failure, JsonCodec())) is Odd


class Stops(Exception):
    """Its text would end the process, the task or the coroutine of whoever asks for it."""

    def __str__(self) -> str:
        raise self.args[0]


class OddBase(BaseException):
    pass


@pytest.mark.parametrize(
    "inner", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), OddBase(), RecursionError()]
)
def test_a_text_that_would_stop_the_process(inner: BaseException) -> None:
    """S3.9: capture raises nothing at all."""
    failure = capture(raised(Stops(inner)), JsonCodec())
    assert type(inner).__name__ in failure.message and type(rebuild(failure, JsonCodec())) is Stops


def no(self: Any, *args: Any, **options: Any) -> Any:
    raise RuntimeError("no")


class NotAText(Exception):
    __str__ = lambda self: 5  # type: ignore[assignment,return-value]  # noqa: E731


class OwnText(Exception):
    class Text(str):
        __slots__ = ()
        __getitem__ = __len__ = __str__ = __format__ = __repr__ = no  # type: ignore[assignment]

    def __str__(self) -> str:
        return OwnText.Text("own text")


class Contrary(Exception):
    """Whatever may be called by a recording or a rebuilding raises."""

    __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __reduce__ = __reduce_ex__ = __setstate__ = __getstate__ = no  # type: ignore[assignment]
    with_traceback = add_note = __setattr__ = __delattr__ = __format__ = __dir__ = no  # type: ignore[assignment]


class LyingGroup(ExceptionGroup[Exception]):
    exceptions = message = property(no)  # type: ignore[assignment]
    derive = split = subgroup = __init__ = no  # type: ignore[assignment]

    def __new__(cls, message: str, members: Any) -> LyingGroup:
        return super().__new__(cls, message, members)


class OwnChain(Exception):
    """Its class calls other things by the names of the chain."""

    __cause__ = __context__ = __suppress_context__ = __traceback__ = property(lambda self: 1 / 0)  # type: ignore[assignment]


class NoArgs(Exception):
    args = property(no)  # type: ignore[assignment]


class Liar(Exception):
    @property
    def __class__(self) -> Any:
        return ExceptionGroup


@pytest.mark.parametrize("kind", [NotAText, OwnText, Contrary, NoArgs, Liar, OwnChain])
def test_exceptions_that_resist(kind: type[Exception]) -> None:
    """S3.9: type and arguments come back past whatever the class overrides; capture and rebuild raise nothing."""
    error = Exception.__new__(kind, "a", 5)
    found = there_and_back(raised(error))
    assert type(found) is kind
    if kind is not Liar:
        assert BaseException.__dict__["args"].__get__(found) == ("a", 5)


def test_a_group_that_resists() -> None:
    """S3.9: members and message are read past the class."""
    error = ExceptionGroup.__new__(LyingGroup, "many", [ValueError(1), KeyError(2)])
    found = there_and_back(error)
    assert type(found) is LyingGroup
    assert [one.args for one in BaseExceptionGroup.__dict__["exceptions"].__get__(found)] == [(1,), (2,)]


class ByReduce(Exception):
    """Made by keywords, and says by `__reduce__` how to be made again: which is not asked."""

    def __init__(self, *, what: str) -> None:
        super().__init__()
        self.what = what

    def __reduce__(self) -> Any:
        CALLED.append("__reduce__")
        return no, ()


class Quota(OSError):
    """An OSError with a constructor and attributes of its own."""

    def __init__(self, user: str, code: int = errno.EDQUOT) -> None:
        super().__init__(code, f"quota of {user}")
        self.user = user


class Slots(Exception):
    __slots__ = ("_code", "where")

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


@dataclasses.dataclass(frozen=True, slots=True)
class Tight(Exception):
    code: int
    parts: tuple[str, ...] = ()


class Final(KeyError):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


class Located(SyntaxError):
    pass


def located() -> SyntaxError:
    error = Located("bad")
    error.filename, error.lineno, error.text = "f.py", 7, "x ="
    return error


@pytest.mark.parametrize(
    "make",
    [
        lambda: ByReduce(what="x"), lambda: Quota("ana"), lambda: Slots("here"), lambda: Tight(3, ("a",)), lambda: Final("k"),
        lambda: BlockingIOError(errno.EAGAIN, "later", 7), lambda: UnicodeEncodeError("ascii", "é\ud800", 0, 1, "no"),
        lambda: UnicodeTranslateError("é", 0, 1, "no"), lambda: StopIteration({"v": 1}), lambda: StopAsyncIteration(2), lambda: EOFError(),
        lambda: PermissionError(errno.EACCES, "no", "a", None, "b"), lambda: ConnectionResetError(errno.ECONNRESET, "reset"),
        lambda: json.JSONDecodeError("bad", "{", 1), lambda: ValueError("\0", "\ud800", "\ud83d\ude00"), lambda: ValueError(ValueError),
        lambda: located(),
        lambda: TimeoutError("late"), lambda: asyncio.IncompleteReadError(b"ab", 5), lambda: ZeroDivisionError(1, None, (2, b"3")),
    ],
)  # fmt: skip
def test_builtin_and_other_kinds(make: Any) -> None:
    """S3.9: the same class, args, attributes and text, for what carries more than args."""
    error = make()
    CALLED.clear()
    found = there_and_back(raised(error))
    assert type(found) is type(error) and str(found) == str(error) and CALLED == []
    if all(not isinstance(one, type) for one in error.args):
        assert found.args == error.args
    for name in ("errno", "strerror", "filename", "filename2", "characters_written", "object", "start", "end", "value", "lineno", "text",
                 "user", "what", "where", "code", "parts", "doc", "pos", "partial", "expected"):  # fmt: skip
        try:
            before = getattr(error, name)
        except AttributeError:
            continue
        assert getattr(found, name) == before, name


def test_a_class_that_was_renamed() -> None:
    """S3.9: what it was called then is named, with its message; its cause is still there."""
    failure = capture(handled(lambda inner: raise_from(Declined(code=1, amount=Decimal(1)), inner)), JsonCodec())
    failure.type = failure.type.replace("Declined", "Refused")
    found = rebuild(failure, JsonCodec())
    assert type(found) is StepError and found.type_name.endswith(":Refused") and "declined with 1" in str(found)
    assert type(found.__cause__) is KeyError


def test_a_class_that_is_no_exception_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3.9, D21."""
    failure = capture(Declined(code=1, amount=Decimal(1)), JsonCodec())
    monkeypatch.setitem(globals(), "Declined", dict)
    assert type(rebuild(failure, JsonCodec())) is StepError


def test_notes_that_are_none() -> None:
    """S3.9: `__notes__` is anybody's to set."""
    for notes in (5, [5, "n"], ("n",), {"a": 1}, None):
        error = ValueError("x")
        error.__notes__ = notes  # type: ignore[assignment]
        assert type(there_and_back(raised(error))) is ValueError


def test_texts_are_limited_and_keep_what_matters() -> None:
    """S15.7: 8 KiB of message, and of traceback the end."""

    def deep(n: int) -> None:
        if n % 2:
            deep(n - 1)
        elif n:
            deep_too(n)
        else:
            raise ValueError("x" * 100_000)

    def deep_too(n: int) -> None:
        deep(n - 1)

    with pytest.raises(ValueError) as caught:
        deep(300)
    failure = capture(caught.value, JsonCodec())
    assert len(failure.message) == TEXT_LIMIT and failure.args is None
    assert len(failure.traceback) <= TEXT_LIMIT and "raise ValueError" in failure.traceback
    assert failure.traceback.endswith("x...\n")


def test_the_traceback_is_of_user_code() -> None:
    """S16: frames of flux are left out where there are others; the text comes back as a note, once, however often it is recorded."""
    with pytest.raises(ValueError) as caught:
        pydantic_like(JsonCodec())
    failure = capture(caught.value, JsonCodec())
    assert "pydantic_like" in failure.traceback and "flux/codec.py" not in failure.traceback
    error = rebuild(failure, JsonCodec())
    assert failure.traceback in "".join(traceback.format_exception(error))
    again = capture(raised(error), JsonCodec())
    assert again.traceback.startswith(failure.traceback) and "raised again" in again.traceback
    assert capture(rebuild(failure, JsonCodec()), JsonCodec()) == failure


def pydantic_like(codec: JsonCodec) -> None:
    codec.decode("{")


def test_notes_of_the_users_own_come_back() -> None:
    """S3.9."""
    error = ValueError("x")
    error.add_note("look here")
    assert there_and_back(raised(error)).__notes__[0] == "look here"


def chain(length: int) -> BaseException:
    error: BaseException = ValueError(0)
    for n in range(1, length):
        outer = ValueError(n)
        outer.__cause__ = error
        error = outer
    return error


def handled(raise_it: Any) -> BaseException:
    """What `raise_it` raises while a KeyError is being handled."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise_it(inner)
    except BaseException as error:
        return error
    raise AssertionError


def raise_from(outer: BaseException, cause: Any) -> None:
    raise outer from cause


@pytest.mark.parametrize(
    "make", [lambda: ValueError("outer"), lambda: Frozen(1), lambda: OwnChain("outer"), lambda: Declined(code=1, amount=Decimal(1))]
)
def test_cause_context_and_none(make: Any) -> None:
    """S3.9: `raise ... from error` comes back as the cause, a raise while handling as the context, `from None` as neither."""
    get = BaseException.__dict__
    cases: dict[str, tuple[Any, bool, bool, bool]] = {
        "from": (lambda inner: raise_from(make(), inner), True, False, True),
        "while handling": (lambda inner: raise_it(make()), False, True, False),
        "from None": (lambda inner: raise_from(make(), None), False, False, True),
    }
    for name, (raise_it_, cause, context, suppressed) in cases.items():
        error = handled(raise_it_)
        found = there_and_back(error)
        assert type(found) is type(error), name
        assert (type(get["__cause__"].__get__(found)) is KeyError) is cause, name
        assert (type(get["__context__"].__get__(found)) is KeyError) is context, name
        assert get["__suppress_context__"].__get__(found) is suppressed, name
        assert not {"__context__", "__suppress_context__"} & set(vars(found)), name
        assert capture(found, JsonCodec()) == capture(error, JsonCodec()), name


def raise_it(error: BaseException) -> None:
    raise error


def test_printed_as_python_would() -> None:
    """S3.9: a traceback says 'direct cause' or 'during handling', as it did when it happened; of cause and context the cause is kept."""
    during = "".join(traceback.format_exception(there_and_back(handled(lambda inner: raise_it(ValueError("outer"))))))
    assert "During handling of the above exception" in during and "KeyError: 'inner'" in during
    direct = "".join(traceback.format_exception(there_and_back(handled(lambda inner: raise_from(ValueError("outer"), OSError("why"))))))
    assert "direct cause" in direct and "OSError: why" in direct and "KeyError" not in direct
    silent = "".join(traceback.format_exception(there_and_back(handled(lambda inner: raise_from(ValueError("outer"), None)))))
    assert "KeyError" not in silent


def test_what_two_refer_to_is_kept_for_both() -> None:
    """S3.9: only what leads back into itself is cut."""
    shared = OSError("disk")
    first, second = ValueError(1), ValueError(2)
    first.__cause__ = second.__cause__ = shared
    found = there_and_back(ExceptionGroup("both", [first, second, first]))
    assert [one.args for one in found.exceptions] == [(1,), (2,), (1,)]
    assert [str(one.__cause__) for one in found.exceptions] == ["disk"] * 3
    group = ExceptionGroup("g", [first])
    first.__context__ = group  # as a TaskGroup's members may have
    group.__cause__ = first
    again = there_and_back(group)
    assert type(again.exceptions[0]) is ValueError and type(again.__cause__) is ValueError
    own = ValueError("own")
    own.__cause__ = own
    assert capture(own, JsonCodec()).cause is None


def test_long_chains_of_causes() -> None:
    """S3.9: at most eight along a chain; cycles cut."""
    depth, failure = 0, capture(chain(100_000), JsonCodec())
    while failure is not None:
        depth, failure = depth + 1, failure.cause  # type: ignore[assignment]
    assert depth == 8
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    assert capture(a, JsonCodec()).cause.cause is None  # type: ignore[union-attr]


def test_groups() -> None:
    """S3.9: an exception group comes back with its members, at most sixteen, so that `except*` takes the same branch."""
    found = there_and_back(raised(MyGroup("many", [ValueError(1), Declined(code=2, amount=Decimal(3))])))
    assert type(found) is MyGroup and found.message == "many"
    assert [type(one) for one in found.exceptions] == [ValueError, Declined]
    mixed = there_and_back(BaseExceptionGroup("stop", [KeyboardInterrupt(), KeyError("k")]))
    assert [type(one) for one in mixed.exceptions] == [StepError, KeyError]
    assert len(capture(ExceptionGroup("g", [ValueError(n) for n in range(100)]), JsonCodec()).also) == 16
    wide: Exception = ValueError("leaf")
    for _ in range(12):
        wide = ExceptionGroup("g", [wide, *(ValueError(n) for n in range(20))])
    failure = capture(wide, JsonCodec())
    assert count(failure) <= 64
    assert isinstance(rebuild(failure, JsonCodec()), ExceptionGroup)


def count(failure: Failure) -> int:
    return 1 + sum(map(count, failure.also)) + (0 if failure.cause is None else count(failure.cause))

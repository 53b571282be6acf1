"""The fluent builder, and everything it refuses."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flux
from flux.builder import Branch, Workflow, branch, create_workflow
from flux.check import check_definition
from flux.core.plan import Defaults, Plan
from flux.core.retry import Retry
from flux.core.workflow import MISSING, Body, Definition, Kind, Step, declared_signals, shape
from flux.durations import duration_text, to_instant, to_microseconds
from flux.errors import InvalidArgument, InvalidWorkflow
from flux.waiting import WaitFor, wait

HOUR = 3_600_000_000
MINUTE = 60_000_000
SECOND = 1_000_000
ORDER = create_workflow("order")


async def fetch(ctx: Any) -> str:
    return "fetched"


def release(ctx: Any) -> None:
    return None


@dataclass
class OrderInput:
    total: int


@dataclass
class OrderData:
    total: int = 0
    lines: list[str] = field(default_factory=list)


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        call()
    return str(caught.value)


# --- values (S1.1)


def test_every_call_gives_a_new_workflow() -> None:
    """S1.1: the old one is left as it was, and two that grow from one base are independent."""
    base = ORDER.step("fetch", fetch)
    left = base.step("pay", fetch)
    right = base.wait("approval").sleep("rest", 1)
    assert [step.name for step in ORDER.steps] == []
    assert [step.name for step in base.steps] == ["fetch"]
    assert [step.name for step in left.steps] == ["fetch", "pay"]
    assert [step.name for step in right.steps] == ["fetch", "approval", "rest"]


def test_headers_are_values_too() -> None:
    """S1.1: input, data and validate leave the base alone and keep the steps."""
    base = ORDER.step("fetch", fetch)
    full = base.input(OrderInput).data(OrderData).validate(release)
    assert (base.input_type, base.data_type, base.validator) == (None, None, None)
    assert (full.input_type, full.data_type, full.validator) == (OrderInput, OrderData, release)
    assert full.steps == base.steps


def test_a_workflow_is_frozen() -> None:
    """S1.1: nothing of it can be set."""
    for name in ("name", "body", "version", "deadline"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(ORDER, name, None)


def test_a_branch_is_a_value() -> None:
    """S1.1: also of branches."""
    base = branch().step("a", fetch)
    longer = base.step("b", fetch)
    assert len(base.body.steps) == 1 and len(longer.body.steps) == 2
    assert base == branch().step("a", fetch) and hash(base) == hash(branch().step("a", fetch))


def test_equal_parts_make_equal_workflows() -> None:
    """S1.1: they compare and hash by their parts, not by identity."""
    one = create_workflow("order").step("fetch", fetch, compensate=release).sleep("rest", hours=1)
    two = create_workflow("order").step("fetch", fetch, compensate=release).sleep("rest", timedelta(hours=1))
    assert one == two and hash(one) == hash(two)
    assert one != two.step("pay", fetch) and one != create_workflow("order", version="2")


def test_what_a_workflow_shows() -> None:
    flow = create_workflow("order", version="2.1", deadline=timedelta(days=7)).step("fetch", fetch)
    assert (flow.name, flow.version, flow.deadline) == ("order", "2.1", 7 * 24 * HOUR)
    assert isinstance(flow, Workflow) and isinstance(flow, Definition)
    assert flow.build() is flow
    assert repr(flow) == "<Workflow order 2.1: fetch>"


def test_a_plan_can_be_made_of_it() -> None:
    """The builder's values are those that the machine works on."""
    flow = ORDER.step("fetch", fetch, timeout=None).commit("ship", fetch).step("pay", fetch)
    nodes = Plan(flow, Defaults()).root.nodes
    assert [node.timeout for node in nodes] == [None, None, 30 * SECOND]
    check_definition(dataclasses.replace(flow, body=flow.body))


# --- what each call makes


def test_step() -> None:
    retry = Retry(backoff="fixed")
    flow = ORDER.step(
        "pay", fetch, retries=0, retry=retry, timeout=1.5, when=release, compensate=release, compensate_retries=9,
        compensate_timeout=timedelta(minutes=1), compensate_when="started", on_unknown="compensate", waits=["ok"],
    )  # fmt: skip
    assert flow.steps[0] == Step(
        "pay", Kind.STEP, fetch, when=release, retries=0, retry=retry, timeout=1_500_000, on_unknown="compensate",
        compensate=release, compensate_retries=9, compensate_timeout=MINUTE, compensate_when="started", waits=("ok",),
    )  # fmt: skip


def test_no_timeout_and_none_are_told_apart() -> None:
    """S5.1, D10: not given is the engine's default, None is no limit."""
    default, unlimited = ORDER.step("a", fetch).step("b", fetch, timeout=None).steps
    assert (default.timeout, default.unlimited) == (None, False)
    assert (unlimited.timeout, unlimited.unlimited) == (None, True)


def test_commit() -> None:
    """S1.2"""
    assert ORDER.commit("ship", fetch, timeout=5).steps[0] == Step("ship", Kind.COMMIT, fetch, timeout=5 * SECOND)


def test_wait() -> None:
    """S7.5, D24: the signal is called as the step, unless it says otherwise; None is a default like any other."""
    first, second = ORDER.wait("approval").wait("second", signal="approval", type=OrderInput, timeout=1, default=None).steps
    assert first == Step("approval", Kind.WAIT, signal="approval")
    assert second == Step("second", Kind.WAIT, signal="approval", type=OrderInput, timeout=SECOND, default=None)
    assert first.default is MISSING


def test_on_timeout_takes_a_handler_a_branch_or_a_workflow() -> None:
    """S7.5"""
    steps = branch().step("remind", fetch).wait("answer")
    whole = create_workflow("reminders").step("remind", fetch).wait("answer")
    bodies = [ORDER.wait("ok", timeout=1, on_timeout=source).steps[0].on_timeout for source in (fetch, steps, whole)]
    assert bodies[0] == Body((Step("on_timeout", Kind.STEP, fetch),), single=True)
    assert bodies[1] == bodies[2] == steps.body
    assert isinstance(steps, Branch)


def test_signals_inside_branches_are_declared() -> None:
    """D25: a wait at any depth, and what handlers declare, can be signalled."""
    inner = branch().step("ask", fetch, waits=("answer",)).wait("second", signal="late")
    flow = ORDER.wait("ok", timeout=1, on_timeout=inner)
    assert declared_signals(flow.body) == {"ok", "answer", "late"}
    assert shape(flow.body) == "wait ok{on_timeout:step ask;wait second}"


@pytest.mark.parametrize(
    "build",
    [
        lambda: ORDER.sleep("rest", 5400),
        lambda: ORDER.sleep("rest", 5400.0),
        lambda: ORDER.sleep("rest", timedelta(minutes=90)),
        lambda: ORDER.sleep("rest", seconds=5400),
        lambda: ORDER.sleep("rest", minutes=90),
        lambda: ORDER.sleep("rest", hours=1.5),
        lambda: ORDER.sleep("rest", hours=1, minutes=30),
        lambda: ORDER.sleep("rest", days=0.0625),
    ],
)
def test_sleep_for_a_time(build: Callable[[], Workflow]) -> None:
    """S8.1: one hour and a half, in every way of saying it."""
    assert build().steps[0] == Step("rest", Kind.SLEEP, duration=90 * MINUTE)


def test_sleep_until() -> None:
    """S8.1: an aware datetime, in whatever zone, also in the past; or a function of ctx."""
    noon = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    there = noon.astimezone(timezone(timedelta(hours=5)))
    for flow in (ORDER.sleep("rest", noon), ORDER.sleep("rest", until=noon), ORDER.sleep("rest", until=there)):
        assert flow.steps[0] == Step("rest", Kind.SLEEP, until=10**15)
    for flow in (ORDER.sleep("rest", release, when=release), ORDER.sleep("rest", until=release, when=release)):
        assert flow.steps[0] == Step("rest", Kind.SLEEP, compute=release, when=release)


# --- what is refused (S1.4)

SLEEPLESS = "a sleep takes exactly one way of saying how long"


class Handlers:
    """Handlers of every sort; those in GOOD are accepted, those in BAD are not."""

    def method(self, ctx: Any) -> None: ...
    async def async_method(self, ctx: Any) -> None: ...
    @classmethod
    def of_class(cls, ctx: Any) -> None: ...
    @staticmethod
    def static(ctx: Any) -> None: ...
    def __call__(self, ctx: Any) -> None: ...


class AsyncCallable:
    async def __call__(self, ctx: Any) -> None: ...


class GeneratorCallable:
    def __call__(self, ctx: Any) -> Any:
        yield ctx


def two(a: Any, b: Any) -> None: ...
def none() -> None: ...
def keyword(*, ctx: Any) -> None: ...
def needs_keyword(ctx: Any, *, other: Any) -> None: ...
def with_default(ctx: Any, other: int = 3, *, more: int = 4) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...
def generator(ctx: Any) -> Any:
    yield ctx


async def async_generator(ctx: Any) -> Any:
    yield ctx


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def injecting(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(ctx: Any) -> Any:
        return function(ctx, "connection")

    return call


GOOD: list[Any] = [
    fetch, release, lambda ctx: ctx, Handlers().method, Handlers().async_method, Handlers.of_class, Handlers.static,
    Handlers(), AsyncCallable(), with_default, anything, functools.partial(two, 1), functools.partial(two, b=1),
    functools.partial(needs_keyword, other=1), passing(fetch), injecting(two), len, print, max, {}.get, str.upper,
    functools.lru_cache(release),
]  # fmt: skip

BAD: list[tuple[Any, str]] = [
    (two, "must take one positional argument, ctx; two() takes (a: 'Any', b: 'Any')"),
    (none, "must take one positional argument, ctx; none() takes ()"),
    (keyword, "must take one positional argument"),
    (needs_keyword, "must take one positional argument"),
    (functools.partial(two, 1, 2), "must take one positional argument"),
    (functools.partial(two, a=1), "must take one positional argument"),
    (passing(two), "must take one positional argument"),
    (Handlers.method, "must take one positional argument"),
    (generator, "generator() yields: it is a generator"),
    (async_generator, "async_generator() yields: it is a generator"),
    (functools.partial(generator), "generator() yields: it is a generator"),
    (GeneratorCallable(), "GeneratorCallable() yields: it is a generator"),
    (Handlers, "got the class Handlers"),
    (functools.partial(Handlers), "got the class Handlers"),
    (5, "must be a function of ctx, got 5"),
    ("fetch", "must be a function of ctx, got 'fetch'"),
    (branch().step("a", fetch), "must be a function of ctx, got Branch"),
]


@pytest.mark.parametrize("handler", GOOD)
def test_handlers_that_are_accepted(handler: Any) -> None:
    """S1.4, S1.5: whatever can be called with ctx alone, `def` or `async def`."""
    assert ORDER.step("pay", handler).commit("ship", handler, compensate=handler).steps[0].handler is handler


@pytest.mark.parametrize(("handler", "expected"), BAD)
def test_handlers_that_are_refused(handler: Any, expected: str) -> None:
    """S1.4, S10.6: when it is built, handler and compensation alike."""
    text = message(lambda: ORDER.step("pay", handler))
    assert text.startswith("workflow 'order', step 'pay': handler ") and expected in text
    text = message(lambda: ORDER.commit("pay", fetch, compensate=handler))
    assert text.startswith("workflow 'order', step 'pay': compensate ") and expected in text


@pytest.mark.parametrize("question", [fetch, AsyncCallable(), Handlers().async_method, functools.partial(fetch), two, 5, True])
def test_questions_are_plain_functions(question: Any) -> None:
    """S1.5: conditions, computed sleeps and validate are never asynchronous and take one argument."""
    assert "step 'x': when must" in message(lambda: ORDER.step("x", fetch, when=question))
    assert "step 'x': when must" in message(lambda: ORDER.wait("x", when=question))
    assert "step 'x': when must" in message(lambda: ORDER.sleep("x", 1, when=question))
    assert "order': validate must" in message(lambda: ORDER.validate(question))
    if callable(question):
        assert "step 'x': a computed sleep must" in message(lambda: ORDER.sleep("x", question))


REFUSED: list[tuple[Callable[[], object], str]] = [
    # names (D24)
    (lambda: create_workflow("my order"), "the name of a workflow 'my order' is refused"),
    (lambda: create_workflow(""), "the name of a workflow '' is refused"),
    (lambda: create_workflow(5), "the name of a workflow 5 is refused"),  # type: ignore[arg-type]
    (lambda: ORDER.step("a/b", fetch), "workflow 'order': the name of a step 'a/b' is refused"),
    (lambda: ORDER.step("x" * 65, fetch), "the name of a step"),
    (lambda: ORDER.wait("a", signal="b c"), "workflow 'order', step 'a': the name of its signal 'b c' is refused"),
    (lambda: ORDER.step("a", fetch, waits=("b c",)), "step 'a': the name of a signal in waits 'b c' is refused"),
    (lambda: ORDER.step("a", fetch, waits="ok"), "step 'a': waits must be a tuple of names of signals, got 'ok'"),
    (lambda: ORDER.step("a", fetch, waits=("b", "b")), "step 'a': waits names a signal twice"),
    (lambda: ORDER.step("a", fetch).wait("a"), "workflow 'order', step 'a': a step beside it has this name already"),
    (lambda: branch().step("a", fetch).wait("a"), "branch, step 'a': a step beside it has this name already"),
    # the header
    (lambda: create_workflow("order", version=""), "workflow 'order': version must be 1 to 64 letters"),
    (lambda: create_workflow("order", version=2), "version must be 1 to 64 letters"),  # type: ignore[arg-type]
    (lambda: create_workflow("order", deadline=0), "workflow 'order': deadline must be more than 0, got 0"),
    (lambda: create_workflow("order", on_compensation_failure="stop"), "must be one of 'continue', 'block', got 'stop'"),  # type: ignore[arg-type]
    (lambda: ORDER.input(None), "workflow 'order': the input type must be a type, got None"),
    (lambda: ORDER.input(5), "the input type must be a type, got 5"),
    (lambda: ORDER.data(dict), "workflow 'order': the data type must be a dataclass, got <class 'dict'>"),
    (lambda: ORDER.data(None), "the data type must be a dataclass, got None"),  # type: ignore[arg-type]
    (lambda: ORDER.data(OrderInput), "the field 'total' of data type OrderInput must have a default"),
    # numbers
    (lambda: ORDER.step("pay", fetch, retries=-1), "workflow 'order', step 'pay': retries must be a whole number ≥ 0, got -1"),
    (lambda: ORDER.step("pay", fetch, retries=True), "retries must be a whole number ≥ 0, got True"),
    (lambda: ORDER.step("pay", fetch, retries=1.0), "retries must be a whole number ≥ 0, got 1.0"),  # type: ignore[arg-type]
    (lambda: ORDER.step("pay", fetch, compensate=release, compensate_retries=-1), "compensate_retries must be a whole"),
    (lambda: ORDER.step("pay", fetch, timeout=0), "workflow 'order', step 'pay': timeout must be more than 0, got 0"),
    (lambda: ORDER.step("pay", fetch, timeout=-1.5), "timeout must be more than 0, got -1.5"),
    (lambda: ORDER.step("pay", fetch, timeout=math.nan), "timeout must be finite, got nan"),
    (lambda: ORDER.step("pay", fetch, timeout=math.inf), "timeout must be finite, got inf"),
    (lambda: ORDER.step("pay", fetch, timeout="3"), "timeout must be seconds or a timedelta, got '3'"),  # type: ignore[arg-type]
    (lambda: ORDER.step("pay", fetch, timeout=True), "timeout must be seconds or a timedelta, got True"),
    (lambda: ORDER.step("pay", fetch, timeout=10**400), "timeout must be at most 1,000 years"),
    (lambda: ORDER.step("pay", fetch, compensate=release, compensate_timeout=0), "compensate_timeout must be more than 0"),
    (lambda: ORDER.wait("ok", timeout=0), "workflow 'order', step 'ok': timeout must be more than 0, got 0"),
    # choices and policies
    (lambda: ORDER.step("pay", fetch, on_unknown="maybe"), "on_unknown must be one of 'retry', 'fail', 'compensate'"),  # type: ignore[arg-type]
    (lambda: ORDER.step("pay", fetch, compensate=release, compensate_when="never"), "compensate_when must be one of"),  # type: ignore[arg-type]
    (lambda: ORDER.step("pay", fetch, retry=3), "step 'pay': retry must be a Retry(...), got 3"),  # type: ignore[arg-type]
    (lambda: ORDER.step("pay", fetch, retry=Retry(initial=-1)), "retry.initial must be a finite number ≥ 0, got -1"),
    (lambda: ORDER.step("pay", fetch, retry=Retry(maximum=math.inf)), "retry.maximum must be a finite number"),
    (lambda: ORDER.step("pay", fetch, retry=Retry(initial=1e12)), "retry.initial must be at most 1,000 years, in seconds, got 1000"),
    (lambda: ORDER.step("pay", fetch, retry=Retry(maximum=10**400)), "retry.maximum must be at most 1,000 years"),
    (lambda: ORDER.step("pay", fetch, retry=Retry(jitter="x")), "retry.jitter must be True or False, got 'x'"),  # type: ignore[arg-type]
    (lambda: ORDER.step("pay", fetch, retry=Retry(max_elapsed=math.nan)), "retry.max_elapsed must be a finite number"),
    (lambda: ORDER.step("pay", fetch, retry=Retry(backoff="random")), "retry.backoff must be one of"),  # type: ignore[arg-type]
    (lambda: ORDER.step("pay", fetch, retry=Retry(retry_on=ValueError)), "retry.retry_on must be a tuple of exception"),  # type: ignore[arg-type]
    (lambda: ORDER.step("pay", fetch, retry=Retry(give_up_on=(int,))), "retry.give_up_on must be a tuple of exception"),  # type: ignore[arg-type]
    # compensations
    (lambda: ORDER.step("pay", fetch, compensate_retries=1), "step 'pay': compensate_retries needs compensate="),
    (lambda: ORDER.step("pay", fetch, compensate_timeout=1), "step 'pay': compensate_timeout needs compensate="),
    (lambda: ORDER.step("pay", fetch, compensate_when="started"), "step 'pay': compensate_when needs compensate="),
    (lambda: ORDER.step("pay", fetch, on_unknown="compensate"), "step 'pay': on_unknown='compensate' needs compensate="),
    (lambda: ORDER.step("pay", fetch, compensate=release, compensate_when="completed", on_unknown="compensate"), "must go"),
    # waits
    (lambda: ORDER.wait("ok", default=1), "step 'ok': default= needs a timeout="),
    (lambda: ORDER.wait("ok", on_timeout=fetch), "step 'ok': on_timeout= needs a timeout="),
    (lambda: ORDER.wait("ok", timeout=1, default=1, on_timeout=fetch), "default= and on_timeout= exclude each other"),
    (lambda: ORDER.wait("ok", timeout=1, on_timeout=branch()), "step 'ok': on_timeout has no steps"),
    (lambda: ORDER.wait("ok", timeout=1, on_timeout=create_workflow("x")), "step 'ok': on_timeout has no steps"),
    (lambda: ORDER.wait("ok", timeout=1, on_timeout=create_workflow("x", deadline=1).step("a", fetch)), "with a deadline"),
    (lambda: ORDER.wait("ok", timeout=1, on_timeout=two), "step 'ok': on_timeout must take one positional argument"),
    (lambda: ORDER.wait("ok", timeout=1, on_timeout=5), "step 'ok': on_timeout must be a function"),  # type: ignore[arg-type]
    (lambda: ORDER.wait("ok", type=5), "step 'ok': type must be a type, got 5"),
    (lambda: ORDER.wait("a", type=int).wait("b", signal="a", type=str), "step 'b': signal 'a' is declared with two types, int and str"),
    (lambda: ORDER.wait("a", type=int).wait("b", timeout=1, on_timeout=branch().wait("a", type=str)), "with two types"),
    # sleeps
    (lambda: ORDER.sleep("rest"), f"workflow 'order', step 'rest': {SLEEPLESS}"),
    (lambda: ORDER.sleep("rest", 1, hours=1), SLEEPLESS),
    (lambda: ORDER.sleep("rest", 1, until=release), SLEEPLESS),
    (lambda: ORDER.sleep("rest", hours=1, until=release), SLEEPLESS),
    (lambda: ORDER.sleep("rest", 0), "step 'rest': a sleep must be more than 0, got 0"),
    (lambda: ORDER.sleep("rest", -1), "step 'rest': a sleep must be more than 0, got -1"),
    (lambda: ORDER.sleep("rest", hours=0), "step 'rest': hours must be more than 0"),
    (lambda: ORDER.sleep("rest", hours=1, minutes=-1), "step 'rest': minutes must be 0 or more, got -1"),
    (lambda: ORDER.sleep("rest", hours=math.nan), "step 'rest': hours must be finite"),
    (lambda: ORDER.sleep("rest", hours=timedelta(1)), "step 'rest': hours must be a number"),  # type: ignore[arg-type]
    (lambda: ORDER.sleep("rest", "1"), "a sleep must be seconds or a timedelta, got '1'"),  # type: ignore[arg-type]
    (lambda: ORDER.sleep("rest", until=3), "until must be an aware datetime or a function of ctx, got 3"),  # type: ignore[arg-type]
    (lambda: ORDER.sleep("rest", until=datetime(2030, 1, 1)), "until must be an aware datetime (say which time zone)"),
    (lambda: ORDER.sleep("rest", datetime(2030, 1, 1)), "until must be an aware datetime (say which time zone)"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "expected"), REFUSED, ids=[expected for _, expected in REFUSED])
def test_what_cannot_run_is_refused_at_the_call(build: Callable[[], object], expected: str) -> None:
    """S1.4: an error at that moment, naming the workflow and the step."""
    assert expected in message(build)


def test_wrong_keywords_are_type_errors() -> None:
    for build in (ORDER.step, ORDER.commit):
        with pytest.raises(TypeError, match="retires"):
            build("pay", fetch, retires=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="handler"):
        ORDER.step("pay")  # type: ignore[call-arg]


def test_a_path_has_an_end() -> None:
    """D24: at most 1,000 characters, however deep the branches."""
    inner = branch().step("a", fetch)
    with pytest.raises(InvalidWorkflow, match="more than 1000 characters"):
        for _ in range(20):
            inner = branch().wait("w" * 60, timeout=1, on_timeout=inner)


# --- registration


def test_an_empty_workflow_is_refused_at_registration() -> None:
    """S1.4"""
    assert message(lambda: check_definition(ORDER)).startswith("workflow 'order': it has no steps")


def test_registration_checks_what_was_not_built_here() -> None:
    """S1.4: a definition made by hand is held to the same rules, at any depth."""
    bad = Step("pay", Kind.STEP, fetch, retries=-1)
    outer = Step("ok", Kind.WAIT, signal="ok", timeout=1, on_timeout=Body((bad,)))
    for steps, expected in (
        ((bad,), "workflow 'x', step 'pay': retries must be"),
        ((outer,), "workflow 'x', step 'ok/on_timeout/pay': retries must be"),
        ((Step("a", Kind.STEP, fetch), Step("a", Kind.STEP, fetch)), "step 'a': a step beside it has this name"),
        ((Step("a", Kind.STEP),), "step 'a': handler is missing"),
        ((Step("a", Kind.SLEEP),), SLEEPLESS),
        ((Step("a", Kind.WAIT),), "step 'a': the name of its signal None is refused"),
        ((Step("a", Kind.STEP, fetch, timeout=0),), "step 'a': timeout must be more than 0"),
    ):
        assert expected in message(lambda steps=steps: check_definition(Definition("x", body=Body(steps))))  # type: ignore[misc]


def test_the_single_handler_of_a_body_is_named_by_its_path() -> None:
    """S1.3: the path of a body of one handler is that of the body."""
    outer = Step("ok", Kind.WAIT, signal="ok", timeout=1, on_timeout=Body((Step("on_timeout", Kind.STEP, two),), single=True))
    assert "step 'ok/on_timeout': handler must" in message(lambda: check_definition(Definition("x", body=Body((outer,)))))


class Row(TypedDict):
    x: int


@pytest.mark.parametrize("kind", [int, OrderInput, Row, list[int], int | None, Any, dict[str, Any]], ids=repr)
def test_types_that_are_accepted(kind: Any) -> None:
    flow = ORDER.input(kind).wait("ok", type=kind)
    check_definition(flow)
    assert flow.input_type == flow.steps[0].type == kind


# --- wait(...) (S7.1)


def test_wait_for() -> None:
    """S7.1, S7.5: what a handler returns."""
    assert wait("approval") == WaitFor("approval", None, MISSING)
    assert wait("approval", timeout=timedelta(minutes=1), default=None) == WaitFor("approval", MINUTE, None)
    assert [wait("a").has_default, wait("a", timeout=1, default=None).has_default] == [False, True]


def test_wait_for_is_checked() -> None:
    """D24, S7.5"""
    with pytest.raises(InvalidWorkflow, match="the name of a signal 'a b' is refused"):
        wait("a b")
    for call in (lambda: wait("a", timeout=0), lambda: wait("a", timeout=math.nan), lambda: wait("a", default=1)):
        with pytest.raises(InvalidArgument, match=r"wait\('a'\): "):
            call()


# --- durations


@given(st.integers(1, 10**15))
def test_microseconds_are_exact(micros: int) -> None:
    """A timedelta loses nothing; a float of a few years neither."""
    assert to_microseconds(timedelta(microseconds=micros), "x") == micros
    assert to_microseconds(micros / 1_000_000, "x") == micros


@given(st.one_of(st.floats(), st.integers(), st.timedeltas(), st.text(), st.none(), st.booleans()), st.booleans())
def test_a_duration_is_in_range_or_refused(value: Any, zero: bool) -> None:
    """S15.7: whatever it is given, an answer within the limits or InvalidArgument."""
    try:
        micros = to_microseconds(value, "x", zero=zero)
    except InvalidArgument as error:
        assert str(error).startswith("x must be ")
    else:
        assert (0 if zero else 1) <= micros <= 365_250 * 24 * HOUR


def test_a_computed_sleep() -> None:
    """S8.1: seconds, a timedelta or an aware datetime; the past is due at once."""
    assert to_instant(1.5, 100) == 1_500_100
    assert to_instant(timedelta(seconds=1), 100) == 1_000_100
    assert to_instant(-5, 100) == to_instant(0, 100) == 100
    assert to_instant(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 100) == 1_000_000
    for bad in (datetime(2030, 1, 1), math.nan, math.inf, "soon", None, True, 10**400):
        with pytest.raises(InvalidArgument):
            to_instant(bad, 100)


def test_durations_for_people() -> None:
    told = {1: "0.000001 s", SECOND // 2: "0.5 s", 30 * SECOND: "30 s", 90 * MINUTE: "1 h 30 min", 72 * HOUR: "3 d"}
    assert {micros: duration_text(micros) for micros in told} == told
    assert duration_text(25 * HOUR + 61 * SECOND + 1) == "1 d 1 h 1 min 1.000001 s"


# --- weight


def test_the_builder_is_light() -> None:
    """Beyond what asyncio imports, the builder's own modules need little of the standard library."""
    code = (
        "import asyncio, sys, types, json; p = types.ModuleType('flux'); p.__path__ = [sys.argv[1]]; sys.modules['flux'] = p;"
        "import typing_extensions; before = set(sys.modules); import flux.builder; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    package = next(iter(flux.__path__))
    out = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in json.loads(out)} - {"flux", "__future__"}
    assert loaded <= {"dataclasses", "copy", "datetime", "_datetime", "_strptime", "copyreg"}

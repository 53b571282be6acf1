"""Steps with bodies, as they are built: parallel, route, loop and for_each, and everything that is refused about them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from flux.builder import Branch, Workflow, branch, create_workflow
from flux.check import check_definition
from flux.core.patterns import numbers, pattern
from flux.core.workflow import Body, Definition, Kind, Step, declared_signals, shape
from flux.errors import InvalidWorkflow

ORDER = create_workflow("order")
HERE = "workflow 'order', step 'x': "


async def fetch(ctx: Any) -> str:
    return "fetched"


async def fetch_list(ctx: Any) -> list[int]:
    return []


def pay(ctx: Any) -> None: ...
def test(ctx: Any) -> bool:
    return True


test.__test__ = False  # type: ignore[attr-defined]


def choose(ctx: Any) -> str:
    return "air"


def lines(ctx: Any) -> list[int]:
    return [1, 2]


def newest(key: str, values: list[Any]) -> Any:
    return values[-1]


async def newest_later(key: str, values: list[Any]) -> Any:
    return values[-1]


STEPS = branch().step("fetch", fetch).wait("ok")


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidWorkflow) as caught:
        call()
    return str(caught.value)


two: Any = newest  # no handler, and the types do not tell


def one(handler: Any, name: str) -> Body:
    return Body((Step(name, Kind.STEP, handler),), single=True)


# --- what each call makes (S1.2)


def test_parallel() -> None:
    """S1.2: branches in the order given, each a handler, a branch or a workflow's steps."""
    whole = create_workflow("other", version="7").input(int).step("fetch", fetch).wait("ok")
    flow = ORDER.parallel("x", label=pay, invoice=STEPS, rest=whole)
    assert flow.steps[0] == Step("x", Kind.PARALLEL, branches=(("label", one(pay, "label")), ("invoice", STEPS.body), ("rest", STEPS.body)))
    assert flow.steps[0].join == "all" and flow.steps[0].on_failure == "cancel"
    full = ORDER.parallel("x", a=pay, b=pay, join=1, on_failure="finish", merge=newest, when=test).steps[0]
    assert (full.join, full.on_failure, full.merge, full.when) == (1, "finish", newest, test)


def test_names_that_are_options_go_into_the_mapping() -> None:
    """S1.2: any name can be a branch's, also those that the method's arguments have."""
    flow = ORDER.parallel("x", {"join": pay, "when": pay}, name=pay, branches=pay, join="any")
    assert list(flow.steps[0].bodies) == ["join", "when", "name", "branches"] and flow.steps[0].join == "any"
    flow = ORDER.route("x", choose, {"when": pay, "default": pay}, selector=pay, name=pay)
    assert list(flow.steps[0].bodies) == ["when", "default", "selector", "name"]


def test_route() -> None:
    flow = ORDER.route("x", choose, air=pay, sea=STEPS, default=fetch, when=test)
    branches = (("air", one(pay, "air")), ("sea", STEPS.body), ("default", one(fetch, "default")))
    assert flow.steps[0] == Step("x", Kind.ROUTE, when=test, selector=choose, branches=branches)


def test_loop() -> None:
    """S1.2: one handler in a loop is called as the loop."""
    until, while_, both, neither = (
        ORDER.loop("a", pay, until=test, at_most=100)
        .loop("b", STEPS, while_=test, at_most=1)
        .loop("c", STEPS, while_=test, until=choose, at_most=2, when=test)
        .loop("d", create_workflow("other").step("fetch", fetch), at_most=3)
        .steps
    )
    assert until == Step("a", Kind.LOOP, body=one(pay, "a"), stop=test, at_most=100)
    assert while_ == Step("b", Kind.LOOP, body=STEPS.body, go_on=test, at_most=1)
    assert both == Step("c", Kind.LOOP, body=STEPS.body, go_on=test, stop=choose, at_most=2, when=test)
    assert (neither.go_on, neither.stop, neither.at_most) == (None, None, 3)


def test_for_each() -> None:
    plain, full = (
        ORDER.for_each("a", lines, pay)
        .for_each("b", lines, STEPS, concurrency=None, at_least=0, fail_fast=False, merge=newest, when=test)
        .steps
    )
    assert plain == Step("a", Kind.FOR_EACH, body=one(pay, "a"), items=lines, concurrency=10)
    assert full == Step(
        "b", Kind.FOR_EACH, body=STEPS.body, items=lines, at_least=0, on_failure="finish", merge=newest, when=test
    )  # fmt: skip


def test_bodies_within_bodies() -> None:
    """S1.2, S13.2, D25: every kind in every other; names, order and signals at any depth are seen."""
    items = branch().for_each("items", lines, branch().wait("deep"))
    nested = ORDER.parallel("all", loop=branch().loop("poll", branch().route("way", choose, a=items, b=pay), at_most=3), other=pay)
    check_definition(nested)
    assert declared_signals(nested.body) == {"deep"}
    assert shape(nested.body) == (
        "parallel all{loop:loop poll{body:route way{a:for_each items{body:wait deep}}{b:!step b}}}{other:!step other}"
    )


def test_they_are_values() -> None:
    """S1.1: the base is left as it was, equal calls make equal workflows, and these can be hashed."""
    base = ORDER.step("a", pay)
    built = [base.parallel("x", a=pay).route("y", choose, a=pay).loop("z", pay, at_most=1).for_each("w", lines, pay) for _ in range(2)]
    assert len(base.steps) == 1 and built[0] == built[1] and hash(built[0]) == hash(built[1])
    assert built[0] != base.parallel("x", a=fetch)


def test_branches_can_hold_them_too() -> None:
    """S1.2"""
    inner = branch().parallel("x", a=pay).route("y", choose, a=pay).loop("z", pay, at_most=1).for_each("w", lines, pay)
    assert ORDER.wait("ok", timeout=1, on_timeout=inner).steps[0].on_timeout == inner.body


# --- what is refused (S1.4)

NEEDS_JOIN = "join must be 'all', 'any' or a whole number from 1 to the number of branches, 2, got "

REFUSED: list[tuple[Callable[[], object], str]] = [
    # branches
    (lambda: ORDER.parallel("x"), HERE + "a parallel has at least one branch"),
    (lambda: ORDER.parallel("x", {}), HERE + "a parallel has at least one branch"),
    (lambda: ORDER.parallel("x", [pay]), HERE + "branches must be a mapping of names to bodies, got ["),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", {"a": pay}, a=pay), HERE + "branch 'a' is given twice, in the mapping and by keyword"),
    (lambda: ORDER.parallel("x", {"a/b": pay}), HERE + "the name of a branch 'a/b' is refused"),
    (lambda: ORDER.parallel("x", {5: pay}), HERE + "the name of a branch 5 is refused"),  # type: ignore[dict-item]
    (lambda: ORDER.parallel("x", {"n" * 65: pay}), HERE + "the name of a branch 'nnn"),
    (lambda: ORDER.parallel("a b", a=pay), "workflow 'order': the name of a step 'a b' is refused"),
    (lambda: ORDER.parallel("x", a=None), HERE + "branch 'a' is missing"),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", a=5), HERE + "branch 'a' must be a function of ctx, got 5"),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", a=newest), HERE + "branch 'a' must take one positional argument, ctx; newest() takes "),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", a=branch()), HERE + "branch 'a' has no steps"),
    (lambda: ORDER.parallel("x", a=ORDER), HERE + "branch 'a' has no steps"),
    (lambda: ORDER.parallel("x", a=create_workflow("w", deadline=1).step("a", pay)), HERE + "branch 'a' is a workflow with a deadline"),
    (lambda: ORDER.step("x", pay).parallel("x", a=pay), HERE + "a step beside it has this name already"),
    (lambda: branch().parallel("x"), "branch, step 'x': a parallel has at least one branch"),
    # joining
    (lambda: ORDER.parallel("x", a=pay, b=pay, join=0), HERE + NEEDS_JOIN + "0"),
    (lambda: ORDER.parallel("x", a=pay, b=pay, join=3), HERE + NEEDS_JOIN + "3"),
    (lambda: ORDER.parallel("x", a=pay, b=pay, join=True), HERE + NEEDS_JOIN + "True"),
    (lambda: ORDER.parallel("x", a=pay, b=pay, join=1.0), HERE + NEEDS_JOIN + "1.0"),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", a=pay, b=pay, join="some"), HERE + NEEDS_JOIN + "'some'"),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", a=pay, b=pay, join=pay), HERE + NEEDS_JOIN + "<function"),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", a=pay, on_failure="stop"), HERE + "on_failure must be one of 'cancel', 'finish', got 'stop'"),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", a=pay, merge=pay), HERE + "merge must take two positional arguments, key and values; pay() takes"),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", a=pay, merge=newest_later), HERE + "merge must be a plain function, and newest_later() is async"),
    (lambda: ORDER.parallel("x", a=pay, merge="last"), HERE + "merge must be a function of key and values, got 'last'"),  # type: ignore[arg-type]
    (lambda: ORDER.parallel("x", a=pay, when=fetch), HERE + "when must be a plain function, and fetch() is asynchronous (S1.5)"),
    # routes
    (lambda: ORDER.route("x", choose), HERE + "a route has at least one branch"),
    (lambda: ORDER.route("x", choose, default=pay), HERE + "a route has at least one branch beside its default"),
    (lambda: ORDER.route("x", fetch, a=pay), HERE + "selector must be a plain function, and fetch() is asynchronous"),  # type: ignore[arg-type]
    (lambda: ORDER.route("x", newest, a=pay), HERE + "selector must take one positional argument, ctx; newest() takes"),  # type: ignore[arg-type]
    (lambda: ORDER.route("x", None, a=pay), HERE + "selector must be a function of ctx, got None"),  # type: ignore[arg-type]
    (lambda: ORDER.route("x", choose, a=branch()), HERE + "branch 'a' has no steps"),
    (lambda: ORDER.route("x", choose, {"a b": pay}), HERE + "the name of a branch 'a b' is refused"),
    (lambda: ORDER.route("x", choose, a=pay, when=fetch), HERE + "when must be a plain function"),
    # loops
    (lambda: ORDER.loop("x", pay, until=test), HERE + "a loop needs an end: say with at_most= how many turns it may take"),  # type: ignore[call-overload]
    (lambda: ORDER.loop("x", pay, until=test, at_most=None), HERE + "a loop needs an end: say with at_most="),  # type: ignore[call-overload]
    (lambda: ORDER.loop("x", pay, at_most=0), HERE + "at_most must be a whole number ≥ 1, got 0"),
    (lambda: ORDER.loop("x", pay, at_most=True), HERE + "at_most must be a whole number ≥ 1, got True"),
    (lambda: ORDER.loop("x", pay, at_most=float("inf")), HERE + "at_most must be a whole number ≥ 1, got inf"),  # type: ignore[call-overload]
    (lambda: ORDER.loop("x", pay, until=fetch, at_most=1), HERE + "until must be a plain function, and fetch() is asynchronous"),
    (lambda: ORDER.loop("x", pay, while_=fetch, at_most=1), HERE + "while_ must be a plain function, and fetch() is asynchronous"),
    (lambda: ORDER.loop("x", pay, while_=True, at_most=1), HERE + "while_ must be a function of ctx, got True"),  # type: ignore[call-overload]
    (lambda: ORDER.loop("x", branch(), at_most=1), HERE + "body has no steps"),
    (lambda: ORDER.loop("x", None, at_most=1), HERE + "body is missing"),  # type: ignore[call-overload]
    (lambda: ORDER.loop("x", create_workflow("w", deadline=1).step("a", pay), at_most=1), HERE + "body is a workflow with a deadline"),
    (lambda: ORDER.loop("x", pay, at_most=1, when=fetch), HERE + "when must be a plain function"),
    # items
    (lambda: ORDER.for_each("x", fetch_list, pay), HERE + "items must be a plain function, and fetch_list() is asynchronous"),  # type: ignore[arg-type]
    (lambda: ORDER.for_each("x", [1, 2], pay), HERE + "items must be a function of ctx, got [1, 2]"),  # type: ignore[arg-type]
    (lambda: ORDER.for_each("x", lines, branch()), HERE + "body has no steps"),
    (lambda: ORDER.for_each("x", lines, pay, concurrency=0), HERE + "concurrency must be a whole number ≥ 1, got 0"),
    (lambda: ORDER.for_each("x", lines, pay, concurrency=2.5), HERE + "concurrency must be a whole number ≥ 1, got 2.5"),  # type: ignore[arg-type]
    (lambda: ORDER.for_each("x", lines, pay, at_least=-1), HERE + "at_least must be a whole number ≥ 0, got -1"),
    (lambda: ORDER.for_each("x", lines, pay, fail_fast="no"), HERE + "fail_fast must be True or False, got 'no'"),  # type: ignore[arg-type]
    (lambda: ORDER.for_each("x", lines, pay, merge=pay), HERE + "merge must take two positional arguments"),  # type: ignore[arg-type]
    (lambda: ORDER.for_each("x", lines, pay, when=fetch), HERE + "when must be a plain function"),
    # what is inside
    (lambda: ORDER.parallel("x", a=branch().commit("c", pay, pivot=True)), "step 'x/a/c': a pivot stands at the top level"),
    (lambda: ORDER.route("x", choose, a=branch().commit("c", pay, pivot=True)), "step 'x/a/c': a pivot stands at the top level"),
    (lambda: ORDER.loop("x", branch().commit("c", pay, pivot=True), at_most=1), "step 'x[n]/c': a pivot stands at the top level"),
    (lambda: ORDER.for_each("x", lines, branch().commit("c", pay, pivot=True)), "step 'x[n]/c': a pivot stands at the top level"),
    (lambda: ORDER.wait("s", type=int).parallel("x", a=branch().wait("s", type=str)), "signal 's' is declared with two types, int and str"),
    (lambda: ORDER.parallel("x", a=branch().wait("s", type=int), b=branch().wait("s", type=str)), "declared with two types"),
    (lambda: ORDER.loop("x", branch().wait("s", type=int), at_most=1).wait("s", type=str), "declared with two types"),
    (lambda: ORDER.for_each("x", lines, branch().wait("s", type=int).wait("t", signal="s", type=str)), "declared with two types"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "expected"), REFUSED, ids=[expected for _, expected in REFUSED])
def test_what_cannot_run_is_refused_at_the_call(build: Callable[[], object], expected: str) -> None:
    """S1.4, S1.5, D10, D24: an error at that moment, naming the workflow, the step and the path inside it."""
    assert expected in message(build)


@pytest.mark.parametrize("merge", [newest, max, functools.partial(newest), lambda *both: both, lambda key, values, more=1: values])
def test_merges_that_are_accepted(merge: Any) -> None:
    """S1.4: whatever can be called with a key and values."""
    assert ORDER.parallel("x", a=pay, merge=merge).for_each("y", lines, pay, merge=merge).steps[0].merge is merge


def test_without_a_name_or_a_body_it_is_a_type_error() -> None:
    builds: list[Callable[[], object]] = [ORDER.parallel, ORDER.route, ORDER.loop, ORDER.for_each]  # type: ignore[list-item]
    for build in builds:
        with pytest.raises(TypeError, match="required"):
            build()


# --- paths (S1.3, D24)

NAME = "n" * 64


def deep(turns: int, last: str) -> Branch:
    """A loop in a loop in a loop: the path of the step in the last of them takes 72 characters a loop, and its name."""
    inner = branch().step(last, pay)
    for _ in range(turns):
        inner = branch().loop(NAME, inner, at_most=5)
    return inner


def test_a_path_is_as_long_as_its_turns_make_it() -> None:
    """S1.3, D24: at most 1,000 characters, where a turn or an item counts as `[12345]`."""
    assert len(f"{NAME}[12345]/" * 13 + "a" * 64) == 1000
    check_definition(Definition("x", body=deep(13, "a" * 64).body))
    check_definition(Definition("x", body=branch().parallel("p", b=deep(13, "a" * 60)).body))
    text = message(lambda: ORDER.parallel("p", b=deep(13, "a" * 61)))
    assert text == f"workflow 'order', step 'p/b/{NAME[:36]}...': its path has more than 1000 characters"


def test_patterns() -> None:
    """S1.3: what a definition knows of the path of one turn or item."""
    assert pattern("a[3]/b") == pattern("a[12]/b") == "a[n]/b"
    assert pattern("a[3]/b[1]!undo") == "a[n]/b[n]!undo" and pattern("a[2][1]") == "a[n][n]"
    for other in ("a/b", "a", "", "a[x]/b", "a[", "a[1", "a[]", "a[²]", "a[" + "1" * 5000 + "]"):
        assert pattern(other) == other and list(numbers(other)) == []
    assert list(numbers("a[3]/b[12]/c")) == [("a", 3), ("a[3]/b", 12)]
    assert list(numbers("a[x]/b[2]")) == [("a[x]/b", 2)]


# --- registration


def hand(step: Step) -> str:
    return message(lambda: check_definition(Definition("x", body=Body((step,)))))


def test_registration_checks_what_was_not_built_here() -> None:
    """S1.4: a definition made by hand is held to the same rules, at any depth."""
    bad = Step("pay", Kind.STEP, pay, retries=-1)
    inner, good = Body((bad,)), Body((Step("a", Kind.STEP, pay),))
    for step, expected in (
        (Step("p", Kind.PARALLEL, branches=(("b", inner),)), "workflow 'x', step 'p/b/pay': retries must be"),
        (Step("r", Kind.ROUTE, selector=choose, branches=(("b", inner),)), "step 'r/b/pay': retries must be"),
        (Step("l", Kind.LOOP, body=inner, at_most=1), "step 'l[n]/pay': retries must be"),
        (Step("f", Kind.FOR_EACH, body=inner, items=lines), "step 'f[n]/pay': retries must be"),
        (Step("f", Kind.FOR_EACH, body=Body((Step("f", Kind.STEP, two),), single=True), items=lines), "step 'f[n]': handler must take"),
        (Step("p", Kind.PARALLEL, branches=(("b", one(newest, "b")),)), "step 'p/b': handler must take"),
        (Step("l", Kind.LOOP, body=Body((Step("l", Kind.COMMIT, pay, pivot=True),), single=True), at_most=1), "step 'l[n]': a pivot"),
        (Step("p", Kind.PARALLEL), "step 'p': a parallel has at least one branch"),
        (Step("p", Kind.PARALLEL, branches=(("b", good), ("b", good))), "step 'p': two branches are called 'b'"),
        (Step("p", Kind.PARALLEL, branches=(("b c", good),)), "step 'p': the name of a branch 'b c' is refused"),
        (Step("p", Kind.PARALLEL, branches=(("b", Body()),)), "step 'p': branch 'b' has no steps"),
        (Step("p", Kind.PARALLEL, branches=(("b", Body((*good.steps, *good.steps))),)), "step 'p/b/a': a step beside it"),
        (Step("r", Kind.ROUTE, branches=(("b", good),)), "step 'r': selector must be a function of ctx, got None"),
        (Step("l", Kind.LOOP, at_most=1), "step 'l': body is missing"),
        (Step("l", Kind.LOOP, body=good), "step 'l': a loop needs an end"),
        (Step("f", Kind.FOR_EACH, items=lines), "step 'f': body is missing"),
        (Step("f", Kind.FOR_EACH, body=good), "step 'f': items must be a function of ctx, got None"),
        (Step("f", Kind.FOR_EACH, body=good, items=lines, concurrency=0), "step 'f': concurrency must be"),
        (Step("f", Kind.FOR_EACH, body=good, items=lines, on_failure="x"), "step 'f': on_failure must be"),  # type: ignore[arg-type]
        (Step("a", Kind.STEP, pay, body=good), "step 'a': a step has no body"),
        (Step("w", Kind.WAIT, signal="w", branches=(("b", good),)), "step 'w': a wait has no branches"),
        (Step("p", Kind.PARALLEL, branches=(("b", good),), on_timeout=good), "step 'p': a parallel has no on_timeout"),
        (Step("l", Kind.LOOP, body=one(pay, "a"), at_most=1), "step 'l': body is marked as made from one handler, and is not"),
        (Step("p", Kind.PARALLEL, branches=(("b", one(pay, "a")),)), "step 'p': branch 'b' is marked as made from one handler"),
        (Step("l", Kind.LOOP, body=Body((Step("l", Kind.WAIT, signal="l"),), single=True), at_most=1), "step 'l': body is marked"),
    ):
        assert expected in hand(step)


# --- migrations (S13)


def carried(old: Workflow[Any, Any], new: Workflow[Any, Any], **changes: Any) -> Workflow[Any, Any]:
    return new.migrates_from(old, **changes)


OLD, NEW = create_workflow("order"), create_workflow("order", version="2")
TWO = branch().step("a", pay).step("b", pay)
OF_EACH_KIND: list[tuple[str, Callable[[Workflow[Any, Any], Any], Workflow[Any, Any]]]] = [
    ("x/left", lambda flow, body: flow.parallel("x", left=body, right=pay)),
    ("x/left", lambda flow, body: flow.route("x", choose, left=body, default=pay)),
    ("x[n]", lambda flow, body: flow.loop("x", body, at_most=3)),
    ("x[n]", lambda flow, body: flow.for_each("x", lines, body)),
]


@pytest.mark.parametrize(("at", "build"), OF_EACH_KIND, ids=["parallel", "route", "loop", "for_each"])
def test_a_migration_holds_inside_bodies_of_every_kind(at: str, build: Callable[[Any, Any], Any]) -> None:
    """S13: what a body has must be what the new one begins with, after renaming and dropping by path."""
    old = build(OLD, TWO)
    assert carried(old, build(NEW, TWO.step("c", pay))).migrations[0].old == old
    carried(old, build(NEW, branch().step("a", pay).step("z", pay)), rename={f"{at}/b": f"{at}/z"})
    carried(old, build(NEW, branch().step("b", pay)), drop=[f"{at}/a"])
    text = message(lambda: carried(old, build(NEW, branch().step("b", pay).step("a", pay))))
    assert f"a run that has reached '{at}/a' does not fit: the new version has '{at}/b' in its place" in text
    text = message(lambda: carried(old, build(NEW, branch().step("a", pay))))
    assert f"a run that has reached '{at}/b' does not fit: the new version has no step for it" in text
    text = message(lambda: carried(old, build(NEW, branch().step("a", pay).commit("b", pay))))
    assert f"'{at}/b' does not fit: it was a 'step' and is a 'commit' now" in text
    text = message(lambda: carried(old, build(NEW, TWO), drop=["x/a"]))
    assert "the old version has no step 'x/a'" in text and f"{at}/a" in text


@pytest.mark.parametrize(("at", "build"), OF_EACH_KIND, ids=["parallel", "route", "loop", "for_each"])
def test_a_body_of_one_handler_stays_one(at: str, build: Callable[[Any, Any], Any]) -> None:
    """S1.3, S13: its step has the path of the body, so it is neither renamed nor dropped by itself, nor can it become several."""
    old = build(OLD, pay)
    carried(old, build(NEW, fetch))
    assert "was one handler and is a branch of steps now" in message(lambda: carried(old, build(NEW, TWO)))
    assert "was a branch of steps and is one handler now" in message(lambda: carried(build(OLD, TWO), build(NEW, pay)))
    assert f"the old version has no step {at!r}" in message(lambda: carried(old, build(NEW, fetch), drop=[at]))


def test_a_loop_of_one_handler_can_be_renamed() -> None:
    """S13: the step in it has no name of its own."""
    carried(OLD.loop("x", pay, at_most=3), NEW.loop("y", pay, at_most=3), rename={"x": "y"})
    carried(OLD.for_each("x", lines, TWO), NEW.for_each("y", lines, TWO), rename={"x": "y"})
    both = {"x": "y", "x[n]/b": "y[n]/c"}
    carried(OLD.for_each("x", lines, TWO), NEW.for_each("y", lines, branch().step("a", pay).step("c", pay)), rename=both)


def test_a_branch_is_there_for_ever() -> None:
    """S13: a run may be in it. More branches may come."""
    old = OLD.route("x", choose, air=pay, sea=pay)
    carried(old, NEW.route("x", choose, rail=pay, sea=pay, air=pay))
    text = message(lambda: carried(old, NEW.route("x", choose, air=pay, rail=pay)))
    assert "a run that has reached 'x' does not fit: the new version has no such branch 'sea' for it" in text
    text = message(lambda: carried(OLD.parallel("x", a=pay, b=pay), NEW.parallel("x", a=pay)))
    assert "the new version has no such branch 'b' for it" in text
    waits = OLD.wait("x", timeout=1, on_timeout=pay), NEW.wait("x", timeout=1)
    assert "the new version has no such on_timeout= for it" in message(lambda: carried(*waits))


def test_what_is_undone_inside_a_body_still_is() -> None:
    """S10.5, S13: also in branches and turns."""
    body = branch().step("a", pay, compensate=pay)
    text = message(lambda: carried(OLD.loop("x", body, at_most=1), NEW.loop("x", branch().step("a", pay), at_most=1)))
    assert "'x[n]/a' does not fit while it is undone: the new version has no compensate= for it" in text

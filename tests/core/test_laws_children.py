"""The laws of parents and children over generated families, three generations deep, with children in any shape.

`Family` checks after every commit that each state is the fold of its journal (I8), that a refused decision leaves no trace (D12), that
repeating says nothing, that every run has a reason to move again, and no more reasons than that (I15), that no child is made twice (I41)
and no parent ends before its children.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.core.patterns import body_path, step_path
from flux.core.retry import SECOND
from flux.core.status import RunStatus
from flux.core.workflow import Body, Definition, Kind, Step

from .families import ROOT, Call, Crash, Family, Story, reopened, settled
from .test_inside import after, parallel
from .test_laws_inside import FIXED
from .world import Answer, Does, handler, step

MANY = settings(max_examples=max(100, settings().max_examples))
CRASHES: tuple[Crash, ...] = ("before", "after", "all")


# --- generated

SIMPLE = ("child", "child", "child", "step", "step", "commit", "sleep", "wait")
SHAPES = ("parallel", "parallel", "parallel", "for_each", "loop", "route")
LAST = "last"


@st.composite
def definitions(draw: Any, level: int, calm: bool, name: str = "w") -> Definition:
    """A workflow whose children are up to `level` generations deep."""
    lower = [draw(definitions(level - 1, calm, f"{name}{index}")) for index in range(draw(st.integers(1, 2)))] if level else []
    body = draw(bodies(lower, 2 if level else 1, calm))
    if name == "w":
        body = replace(body, steps=(*body.steps, step(LAST, after=None if _is_sequence(body) else _after(draw, body))))
    if not calm and draw(st.sampled_from([False, False, True])):
        body = replace(body, steps=tuple(replace(one, pivot=one.kind is Kind.COMMIT) for one in body.steps))
    deadline = None if calm else draw(st.sampled_from([None, None, None, 5 * SECOND]))
    return Definition(name, body=body, deadline=deadline, on_compensation_failure=draw(st.sampled_from(["continue", "block"])))


def _is_sequence(body: Body) -> bool:
    return all(one.after is None for one in body.steps)


def _after(draw: Any, body: Body) -> tuple[str, ...]:
    return tuple(draw(st.lists(st.sampled_from([one.name for one in body.steps]), unique=True, max_size=2)))


@st.composite
def bodies(draw: Any, lower: list[Definition], depth: int, calm: bool) -> Body:
    """A sequence, or a graph, of steps of which many are children."""
    kinds = [kind for kind in SIMPLE + (SHAPES if depth else ()) if kind != "child" or lower]
    body = Body()
    graph = draw(st.sampled_from([False, False, True]))
    for index in range(draw(st.integers(1, 3 if depth else 2))):
        one = draw(_steps(f"{'cba'[depth]}{index}", draw(st.sampled_from(kinds)), lower, depth, calm))
        body = Body((*body.steps, replace(one, after=_after(draw, body) if body.steps else ()) if graph else one))
    return body


@st.composite
def _steps(draw: Any, name: str, kind: str, lower: list[Definition], depth: int, calm: bool) -> Step:
    when = draw(st.sampled_from([None] * 6 + [Answer(False)]))
    undo = draw(st.sampled_from([handler, handler, None]))
    if kind == "child":
        return Step(name, Kind.CHILD, child=draw(st.sampled_from(lower)), when=when)
    if kind in ("step", "commit"):
        probe = None if calm else draw(st.sampled_from([None, None, handler]))
        return Step(name, Kind(kind), handler, when=when, retries=1, retry=FIXED, compensate=undo, probe=probe)
    if kind == "sleep":
        return Step(name, Kind.SLEEP, duration=draw(st.integers(1, 3)) * SECOND)
    if kind == "wait":
        inner = draw(st.none() | bodies(lower, max(0, depth - 1), calm))
        default = "1" if calm or draw(st.booleans()) else None
        return Step(name, Kind.WAIT, timeout=2 * SECOND, signal="go", on_timeout=inner, default_text=None if inner else default)
    return draw(_shapes(name, Kind(kind), lower, depth - 1, calm))


@st.composite
def _shapes(draw: Any, name: str, kind: Kind, lower: list[Definition], depth: int, calm: bool) -> Step:
    if kind is Kind.LOOP:
        return Step(name, kind, body=draw(bodies(lower, depth, calm)), at_most=2)
    on_failure = draw(st.sampled_from(["cancel", "cancel", "finish"]))
    if kind is Kind.FOR_EACH:
        least = None if calm else draw(st.sampled_from([None, 1]))
        items, room = Answer(("1", "2", "3")[: draw(st.integers(1, 3))]), draw(st.sampled_from([None, 1, 2]))
        inner = draw(bodies(lower, depth, calm))
        return Step(name, kind, items=items, body=inner, concurrency=room, at_least=least, on_failure=on_failure)
    branches = tuple((f"x{index}", draw(bodies(lower, depth, calm))) for index in range(draw(st.integers(1, 3))))
    if kind is Kind.ROUTE:
        return Step(name, kind, branches=branches, selector=Answer(draw(st.sampled_from([key for key, _ in branches]))))
    join: Any = "all" if calm else draw(st.sampled_from(["all", "any", 1]))
    return Step(name, kind, branches=branches, join=join, on_failure=on_failure)


def handlers(definition: Definition) -> dict[tuple[str, str], Step]:
    """The steps with a handler of this workflow and those of its descendants, by workflow and pattern."""
    found: dict[tuple[str, str], Step] = {}

    def walk(body: Body, at: str) -> None:
        for one in body.steps:
            path = step_path(body, at, one)
            if one.handler is not None:
                found[definition.name, path] = one
            if one.child is not None:
                found.update(handlers(one.child))
            for name, inner in one.bodies.items():
                walk(inner, body_path(one, path, name))

    walk(definition.body, "")
    return found


@st.composite
def stories(draw: Any, calm: bool = False, clean: bool = False) -> Story:
    """A family's whole story. With `calm` it ends as it does for reasons that do not depend on time; with `clean` all that is to be
    undone can be, and nobody says otherwise."""
    definition = draw(definitions(2, calm))
    script: dict[tuple[str, str], tuple[Does, ...]] = {}
    outcomes = ["returns"] * 6 + ["raises", "gives up", "overruns"]
    for (name, path), one in handlers(definition).items():
        found = draw(st.lists(st.sampled_from(outcomes), max_size=2 if not calm else 1))
        if path == LAST and draw(st.booleans()):
            found = ["gives up"]
        if calm and one.retries and found == ["raises"]:
            found = draw(st.sampled_from([["raises"], ["raises", "raises"]]))
        script[name, path] = tuple(Does(what, draw(st.integers(0, 2))) for what in found)
        if not (calm or clean):
            undone = draw(st.lists(st.sampled_from(["returns", "returns", "raises"]), max_size=2))
            script[name, f"{path}!undo"] = tuple(Does(what) for what in undone)
    calls: list[Call] = []
    if not calm:
        firm = st.just(True) if clean else st.sampled_from([True, True, False])
        calls = draw(st.lists(st.builds(Call, st.integers(0, 8), st.sampled_from([0, 0, 1, 2]), firm, st.booleans()), max_size=2))
        calls.sort(key=lambda call: call.after)
    crashes = {} if calm else draw(st.dictionaries(st.integers(0, 30), st.sampled_from(CRASHES), max_size=4))
    order = tuple(draw(st.lists(st.integers(0, 3), max_size=12)))
    ways = tuple(draw(st.lists(st.sampled_from(["retry", "skip", "done"]), max_size=3)))
    retries = () if calm else tuple(draw(st.lists(st.integers(0, 4), max_size=2)))
    return Story(definition, script, tuple(calls), order, crashes, () if calm else ways, retries)


@MANY
@given(stories())
def test_laws_hold_in_families(story: Story) -> None:
    """I8, I15, I30, I31, I41, S2.3, S10.5, S11.3, D3, D6: through any outcomes, cancels, deadlines, crashes and acts of a person."""
    settled(Family(story).run())


@MANY
@given(stories(clean=True))
def test_what_goes_down_is_undone_as_a_whole(story: Story) -> None:
    """S10.4, S10.5, I30: whatever ends otherwise than completed has left nothing behind in any generation, each undone exactly once."""
    family = Family(story).run()
    settled(family)


@MANY
@given(stories(calm=True), st.data())
def test_a_crash_at_any_point_leads_to_the_same_end(story: Story, data: st.DataObject) -> None:
    """S12.1, I41: the same children and the same ends, wherever a process dies, and whoever moves first."""
    whole = Family(story).run()
    settled(whole)
    ends = {run_id: kin.state.ended for run_id, kin in whole.kin.items()}
    turns = sorted(data.draw(st.sets(st.integers(0, max(0, whole.turns - 1)), max_size=4)))
    for turn in turns:
        crash = data.draw(st.sampled_from(CRASHES))
        again = Family(replace(story, crashes={turn: crash}, order=data.draw(st.permutations(story.order)) if story.order else ())).run()
        settled(again)
        assert again.kin[ROOT].state.ended is ends[ROOT]
        if ends[ROOT] is RunStatus.COMPLETED:
            assert {run_id: kin.state.ended for run_id, kin in again.kin.items()} == ends
            assert again.kin[ROOT].state.data == whole.kin[ROOT].state.data


def test_the_laws_meet_what_they_are_about() -> None:
    """A family that goes down: children that have completed are undone at their parents' demand, three generations deep."""
    leaf = Definition("leaf", body=Body((step("x", compensate=handler),)))
    middle = Definition("middle", body=Body((Step("c", Kind.CHILD, child=leaf), step("y", compensate=handler))))
    root = Definition("root", body=Body((Step("c", Kind.CHILD, child=middle), step("z"))))
    family = Family(Story(root, {("root", "z"): (Does("raises"),)})).run()
    settled(family)
    assert {run_id: kin.state.ended for run_id, kin in family.kin.items()} == {
        ROOT: "failed", "me~c~0": "cancelled", "me~c~0~c~0": "cancelled",
    }  # fmt: skip
    assert reopened(family) == 2


@pytest.mark.parametrize("turn", range(24))
@pytest.mark.parametrize("crash", CRASHES)
def test_a_family_on_its_way_down_survives_every_crash(turn: int, crash: Crash) -> None:
    """S12.1, I32, I41: a cancel in the middle, with one child done, one under way and one stopped."""
    leaf = Definition("leaf", body=Body((step("x", compensate=handler), step("y", compensate=handler))))
    long = Definition("long", body=Body((step("x", compensate=handler), Step("c", Kind.CHILD, child=leaf), step("z"))))
    root = Definition(
        "root",
        body=Body(
            (
                Step("done", Kind.CHILD, child=leaf),
                after(parallel("p", a=Body((step("x"),)), b=Step("c", Kind.CHILD, child=long), more={"join": "any"}), "done"),
                after(Step("long", Kind.CHILD, child=long, when=Answer(True)), "done"),
                after(step("late", compensate=handler), "p", "long"),
            )
        ),
    )
    script = {("long", "z"): (Does(took=9),), ("root", "p/a/x"): (Does(took=1),)}
    family = Family(Story(root, script, (Call(3),), (0, 1, 2), {turn: crash})).run()
    settled(family)
    assert family.kin[ROOT].state.ended is RunStatus.CANCELLED
    assert all(kin.state.ended is not RunStatus.COMPLETED for kin in family.kin.values())
    assert not any(count for kin in family.kin.values() for path, count in kin.effects.items() if path in ("x", "y"))

"""The laws of the machine over generated compositions: parallel, route, loop, for_each and graphs in one another, four deep.

`World` checks after every commit that the state is the fold of the journal (I8), that a refused decision leaves no trace (D12), that
repeating a command says nothing, and that the run has a reason to move again (I15).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flux.core.commands import Command, Cut, Released
from flux.core.evolve import fold
from flux.core.failure import Failure
from flux.core.inside import lies_in
from flux.core.patterns import NTH, body_path, pattern, step_path
from flux.core.plan import Defaults, Node, base_path
from flux.core.records import (
    AttemptCut,
    AttemptLost,
    Record,
    RunCompleted,
    StepCompleted,
    StepFailed,
    StepResolved,
    StepStarted,
    UnwindStarted,
)
from flux.core.retry import SECOND, Retry
from flux.core.state import StepState
from flux.core.status import TERMINAL
from flux.core.workflow import Body, Definition, Kind, Step

from .strategies import FAULTS, SIGNALS, doings, mail, texts
from .world import PATIENT, Act, Answer, Case, Does, Fault, Mail, World, freeze, handler, owed

MANY = settings(max_examples=max(150, settings().max_examples))
ALL = ("step", "step", "wait", "sleep", "parallel", "route", "loop", "for_each")
FIXED = Retry("fixed", initial=1.0, jitter=False)


class Nested(World):
    """A world that knows branches: a step's script is that of its pattern, and what is stopped may be cut."""

    cutting = True

    def does(self, st: StepState) -> Does:
        """The script's line for this attempt, by its pattern."""
        lines = self.case.script.get(pattern(st.path), ())
        used = self.store.raised.get(st.path, 0)
        return lines[used] if used < len(lines) else Does()

    def turn(self) -> bool:
        """Stop what is to be stopped first."""
        state = self.state
        stopped = [st for st in state.calls.values() if state.is_stopped(st.path) and not st.node.sheltered]
        if not (self.cutting and stopped and state.ended is None):
            return super().turn()
        self._receive()
        for one in stopped[:1]:
            if self.finish.pop(one.path, None) is None:
                self.commit(Released(one.path, one.attempt), over=(one.path,))
            else:
                self.commit(Cut(one.path, one.attempt, "stopped"), over=(one.path,), notes=("doubt",))
        return True

    def _general(self, commands: tuple[Command, ...], halt: bool, before: Any) -> None:
        """The order among several that are due at one time is no promise, and a decision that is taken back may change it."""
        if len(self.state.parked) + len(self.state.calls) + len(self.state.due) < 2:
            super()._general(commands, halt, before)

    def _ask(self, node: Node, path: str, question: str, about: Any = None) -> Any:
        self.asked.append(f"{question} {path}")
        if question == "merge":
            return {key: found[-1] for key, found in about.items()}
        name = {"when": "when", "until": "compute", "route": "selector", "items": "items", "go_on": "go_on", "stop": "stop"}[question]
        value = getattr(node.step, name).value
        if question in ("go_on", "stop"):
            turn = int(path.rpartition("[")[2].rstrip("]"))
            value = None if value == -turn else (turn <= value if question == "go_on" else turn >= value)
        if value is None:
            return Failure("builtins:KeyError", f"the {question} of {pattern(path)} raised")
        return self.store.now + value * SECOND if question == "until" else value

    def _witness(self, record: Record) -> None:
        if isinstance(record, StepFailed) and record.attempt and record.failure.type.endswith("DataConflict"):
            self.store.seen[record.path] = self.store.seen[record.path] - {"returned"} | {"raised", "doubt"}
        if not isinstance(record, UnwindStarted):
            return super()._witness(record)
        steps = by_pattern(self.case.definition.body)
        right = [path for path, notes in self.store.seen.items() if "!" not in path and owed(steps[pattern(path)], notes)]
        if not record.compensate:
            return None
        if self.state.again:
            assert set(self.state.undo) == set(right), "I30: exactly the right set"
        else:
            assert list(self.state.undo) == right[::-1], "I30, I31: exactly the right ones, the last that began first"


def by_pattern(body: Body, at: str = "") -> dict[str, Step]:
    """Every step at any depth, by the pattern of its path."""
    found: dict[str, Step] = {}
    for one in body.steps:
        path = step_path(body, at, one)
        found[path] = one
        for name, inner in one.bodies.items():
            found |= by_pattern(inner, body_path(one, path, name))
    return found


# --- generated


@st.composite
def bodies(draw: Any, depth: int, calm: bool) -> Body:
    """A sequence, a graph or one handler. `calm`: when things happen makes no difference to how it ends."""
    if depth < 4 and draw(st.sampled_from([False, False, True])):
        return Body(
            (Step("one", Kind.STEP, handler, retries=1, retry=FIXED, compensate=draw(st.sampled_from([None, handler]))),), single=True
        )
    steps = [draw(any_step(f"{'abcde'[depth]}{index}", depth, calm)) for index in range(draw(st.integers(1, 3 if depth > 2 else 2)))]
    if draw(st.sampled_from([False, False, True])):
        names = [one.name for one in steps]
        steps = [
            replace(one, after=tuple(draw(st.lists(st.sampled_from(names[:index]), unique=True, max_size=2))) if index else ())
            for index, one in enumerate(steps)
        ]
    return Body(tuple(steps))


@st.composite
def any_step(draw: Any, name: str, depth: int, calm: bool) -> Step:
    """A step of any kind; the deepest have no branches."""
    kind = draw(st.sampled_from(ALL if depth else ALL[:4]))
    when = draw(st.sampled_from([None, None, None, Answer(True), Answer(False)]))
    if kind == "step":
        return Step(
            name, draw(st.sampled_from([Kind.STEP, Kind.STEP, Kind.COMMIT])), handler, when=when, retries=1, retry=FIXED,
            on_unknown="retry" if calm else draw(st.sampled_from(["retry", "retry", "fail"])),
            compensate=draw(st.sampled_from([None, handler])),
            compensate_when=draw(st.sampled_from(["in_doubt", "completed", "started"])), waits=SIGNALS,
        )  # fmt: skip
    if kind == "wait":
        end = draw(st.sampled_from(["default", "branch"] if calm else ["never", "fail", "default", "branch"]))
        return Step(
            name, Kind.WAIT, when=when, signal=draw(st.sampled_from(SIGNALS)), timeout=None if end == "never" else 3 * SECOND,
            default_text="1" if end == "default" else None, on_timeout=draw(bodies(max(0, depth - 1), calm)) if end == "branch" else None,
        )  # fmt: skip
    if kind == "sleep":
        return Step(name, Kind.SLEEP, when=when, duration=draw(st.integers(1, 5)) * SECOND)
    return draw(_composites(name, Kind(kind), when, depth - 1, calm))


@st.composite
def _composites(draw: Any, name: str, kind: Kind, when: Any, depth: int, calm: bool) -> Step:
    merge = draw(st.sampled_from([None, handler]))
    on_failure = draw(st.sampled_from(["cancel", "finish"]))
    if kind in (Kind.LOOP, Kind.FOR_EACH):
        body = draw(bodies(depth, calm))
        if kind is Kind.LOOP:
            test = Answer(draw(st.integers(1 if calm else -2, 3)))
            which = draw(st.sampled_from([{}, {"stop": test}, {"go_on": test}]))
            return Step(name, kind, when=when, body=body, at_most=3 if calm else draw(st.integers(1, 3)), **which)
        items = Answer(tuple("123"[: draw(st.integers(0, 3))]))
        least = None if calm else draw(st.sampled_from([None, None, 1]))
        room = draw(st.sampled_from([None, 1, 2]))
        return Step(name, kind, when=when, items=items, body=body, concurrency=room, at_least=least, on_failure=on_failure, merge=merge)
    branches = tuple((f"x{index}", draw(bodies(depth, calm))) for index in range(draw(st.integers(1, 3))))
    if kind is Kind.ROUTE:
        choice = draw(st.sampled_from([key for key, _ in branches] + ([] if calm else ["nowhere"])))
        return Step(name, kind, when=when, branches=branches, selector=Answer(choice))
    join: Any = "all" if calm else draw(st.sampled_from(["all", "all", "any", 1]))
    return Step(name, kind, when=when, branches=branches, join=join, on_failure=on_failure, merge=merge)


@st.composite
def nested(draw: Any, calm: bool = False) -> Case:
    """A run's whole story. With `calm` it ends well, or for a reason that does not depend on time."""
    body = draw(bodies(4, calm))
    script: dict[str, tuple[Does, ...]] = {}
    for path, one in by_pattern(body).items():
        if one.handler is None:
            continue
        if calm:
            changes = draw(st.none() | st.dictionaries(st.sampled_from([path, path, "k"]), texts, min_size=1))
            lines = draw(st.sampled_from([(), ("raises",), ("overruns",)]))
            script[path] = (*[Does(what, draw(st.integers(0, 2))) for what in lines], Does(took=draw(st.integers(0, 2)), changes=changes))
        else:
            script[path] = tuple(draw(st.lists(doings(), max_size=3)))
            undone = draw(st.lists(st.sampled_from(["returns", "returns", "raises"]), max_size=2))
            script[f"{path}!undo"] = tuple(Does(what) for what in undone)
    definition = Definition(
        "flow",
        body=body,
        deadline=None if calm else draw(st.sampled_from([None, None, 8 * SECOND])),
        on_compensation_failure=draw(st.sampled_from(["continue", "block"])),
    )
    some: tuple[Mail, ...] = () if calm else draw(mail)
    faults: dict[int, Fault] = {} if calm else draw(st.dictionaries(st.integers(0, 15), st.sampled_from(FAULTS), max_size=4))
    acts = (
        () if calm else draw(st.lists(st.sampled_from([Act("retry"), Act("retry"), Act("replay"), Act("resolve", way="skip")]), max_size=3))
    )
    return Case(
        definition, script, some, faults, PATIENT if calm else Defaults(retries=0, crash_limit=1000), draw(st.booleans()), acts=tuple(acts)
    )


def settle(world: World) -> None:
    """What holds of every run that has come to rest."""
    state = world.state
    rows = world.store.journal()
    assert freeze(fold(world.plan, rows)) == freeze(state)
    running: set[str] = set()
    for _, row in rows:
        for record in row:
            if isinstance(record, StepStarted):
                assert record.path not in running, "I29"
                running.add(record.path)
            elif getattr(record, "attempt", 0):
                running.discard(record.path)  # type: ignore[attr-defined]
    if state.status in TERMINAL:
        assert not state.calls and not state.stopping and not state.parked
        assert not any(st.status in ("running", "suspended", "pending") for st in state.steps.values() if not st.node.aside)
    for path in state.undo:
        assert base_path(path) in state.steps


def completed(world: World) -> set[str]:
    """The steps that are recorded as completed, each once a generation (I2)."""
    paths = [record.path for _, row in world.store.journal() for record in row if isinstance(record, StepCompleted)]
    assert len(paths) == len(set(paths))
    return set(paths)


@MANY
@given(nested())
def test_laws_hold_inside(case: Case) -> None:
    """I8, I15, I30, I31, S2.3, S11.3, D12: through any faults, cancels, deadlines and retries."""
    settle(Nested(case).run())


@MANY
@given(nested(calm=True))
def test_a_crash_at_any_point_leads_to_the_same_end(case: Case) -> None:
    """S12.1, S3.5, I2: the same status, data and steps, wherever the process dies."""
    whole = Nested(case).run()
    settle(whole)
    ends = {type(record) for _, row in whole.store.journal() for record in row}
    for store in whole.snapshots[:: max(1, len(whole.snapshots) // 12)]:
        again = Nested(case, store.copy()).run()
        assert again.state.status == whole.state.status
        settle(again)
        if RunCompleted in ends:
            assert again.state.data == whole.state.data
            assert completed(again) == completed(whole)


@st.composite
def past_the_pivot(draw: Any) -> Case:
    """A run's whole story behind its point of no return: what fails there, a person decides about."""
    case = draw(nested())
    steps = case.definition.body.steps
    body = case.definition.body
    if not body.single:
        graph = any(one.after is not None for one in steps)
        behind = tuple(replace(one, after=one.after or ("pay",)) for one in steps) if graph else steps
        pay = Step("pay", Kind.COMMIT, handler, pivot=True, after=() if graph else None)
        body = Body((pay, *behind))
    acts = draw(st.lists(st.sampled_from([Act("resolve", way=way) for way in ("skip", "done", "retry")]), min_size=2, max_size=12))
    return replace(case, definition=replace(case.definition, body=body, deadline=None), acts=tuple(acts))


@MANY
@given(past_the_pivot())
def test_decisions_past_the_pivot(case: Case) -> None:
    """S2.3, S3.8, S9.4, S10.6, I8, I15: through any faults; a step that failed, or that may be called once at most and was stopped, is
    called again only when somebody said so of it."""
    world = Nested(case).run()
    settle(world)
    steps = by_pattern(case.definition.body)
    failed: set[str] = set()
    for _, row in world.store.journal():
        for record in row:
            stopped = isinstance(record, AttemptCut | AttemptLost) and record.retry_at is None
            if isinstance(record, StepFailed) or (stopped and steps[pattern(record.path)].on_unknown == "fail"):
                failed.add(record.path)
            elif isinstance(record, StepResolved):
                failed = {path for path in failed if path != record.path and not lies_in(path, record.path)}
            elif isinstance(record, StepStarted):
                assert record.path not in failed, "nobody has decided about it"


def test_patterns_name_every_step() -> None:
    """The world of this file finds a script for every path."""
    inner = Body((Step("x", Kind.STEP, handler),))
    assert list(by_pattern(Body((Step("l", Kind.LOOP, body=inner, at_most=1),)))) == ["l", f"l{NTH}/x"]

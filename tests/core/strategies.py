"""Workflows, and what happens to their runs, for Hypothesis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from flux.core.plan import Defaults
from flux.core.retry import SECOND, Retry
from flux.core.workflow import Body, Definition, Kind, Step

from .world import T0, Act, Answer, Case, Does, Fault, Mail, handler, steps_by_path

SIGNALS = ("a", "b")
BACKOFFS = (
    Retry(backoff="fixed", initial=1.0),
    Retry(backoff="exponential", initial=2.0, maximum=6.0, jitter=False),
    Retry(backoff="linear", initial=0.0),
    Retry(backoff="linear", initial=3.0, max_elapsed=5.0),
)

seconds = st.integers(1, 15).map(lambda n: n * SECOND)
answers = st.sampled_from([*([None] * 9), Answer(True), Answer(True), Answer(False), Answer(False), Answer(None)])
texts = st.sampled_from(["1", '"two"', "null"])
changes = st.none() | st.dictionaries(st.sampled_from(["k", "l"]), st.none() | texts, min_size=1)


@st.composite
def called_steps(draw: Any, name: str, exact: bool) -> Step:
    """A step or a commit step. `exact`: lost attempts change nothing in how its run ends."""
    rules = ["completed", "started"] if exact else ["in_doubt", "completed", "started"]
    undone = draw(st.booleans())
    kind = draw(st.sampled_from([Kind.STEP, Kind.STEP, Kind.COMMIT]))
    asked = draw(st.sampled_from([False, False, True]))
    return Step(
        name,
        kind,
        handler,
        when=draw(answers),
        retries=draw(st.sampled_from([1, 0, 2, 1, 3])),
        retry=draw(st.sampled_from(BACKOFFS)),
        on_unknown="retry" if exact or asked else draw(st.sampled_from(["retry", "retry", "fail", "compensate"])),
        probe=handler if asked else None,
        pivot=kind is Kind.COMMIT and name[0] == "s" and draw(st.sampled_from([False, False, False, True])),
        compensate=handler if undone else None,
        compensate_retries=draw(st.integers(0, 2)),
        compensate_when=draw(st.sampled_from(rules)),
        waits=SIGNALS,
    )


@st.composite
def waits(draw: Any, name: str, exact: bool, depth: int) -> Step:
    """A wait with every way of running out."""
    end = draw(st.sampled_from(["never", "fail", "default", "branch", "single"]))
    text = draw(texts) if end == "default" else None
    body = None
    if end == "branch" and depth:
        body = Body(draw(sequences(exact, depth - 1, "i")))
    elif end == "single":
        body = Body((draw(called_steps("on_timeout", exact)),), single=True)
    return Step(
        name,
        Kind.WAIT,
        when=draw(answers),
        signal=draw(st.sampled_from(SIGNALS)),
        timeout=None if end == "never" else draw(seconds),
        default_text=text,
        on_timeout=body,
    )


@st.composite
def sleeps(draw: Any, name: str) -> Step:
    """A sleep of each kind."""
    how = draw(st.sampled_from(["duration", "until", "compute"]))
    return Step(
        name,
        Kind.SLEEP,
        when=draw(answers),
        duration=draw(seconds) if how == "duration" else None,
        until=T0 + draw(seconds) if how == "until" else None,
        compute=draw(st.sampled_from([Answer(3), Answer(3), Answer(20), Answer(None)])) if how == "compute" else None,
    )


@st.composite
def sequences(draw: Any, exact: bool, depth: int = 2, prefix: str = "s") -> tuple[Step, ...]:
    """The steps of a body."""
    steps: list[Step] = []
    for index in range(draw(st.integers(2, 6) if depth == 2 else st.integers(1, 2))):
        name = f"{prefix}{index}"
        kind = draw(st.sampled_from(["step", "step", "step", "wait", "wait", "sleep"]))
        if kind == "step":
            steps.append(draw(called_steps(name, exact)))
        elif kind == "wait":
            steps.append(draw(waits(name, exact, depth)))
        else:
            steps.append(draw(sleeps(name)))
    return tuple(steps)


@st.composite
def doings(draw: Any) -> Does:
    """One line of a script."""
    what = draw(st.sampled_from([*(["returns"] * 8), "raises", "raises", "raises", "gives up", "overruns", "overruns", "waits", "waits"]))
    waiting = what == "waits"
    return Does(
        what,
        draw(st.integers(0, 4)),
        draw(changes),
        draw(st.none() | st.sampled_from([0, 2 * SECOND])),
        draw(st.sampled_from(SIGNALS)) if waiting else "",
        draw(st.none() | seconds) if waiting else None,
        draw(st.none() | texts) if waiting else None,
    )


mail = st.lists(
    st.builds(
        Mail,
        st.integers(0, 12),
        st.sampled_from(["a", "a", "a", "b", "b", "c", "", ""]),
        st.booleans(),
        st.sampled_from([True, True, True, False]),
    ),
    max_size=6,
).map(lambda some: tuple(sorted(some, key=lambda one: one.after)))

FAULTS: tuple[Fault, ...] = ("before", "before", "after", "after", "release", "drain", "shutdown", "block")


BRIEF: dict[str, Any] = {"waits": "returns"}
PROBED: dict[str, Any] = {"waits": "nothing", "overruns": "nothing"}


def called_paths(steps: tuple[Step, ...], prefix: str = "") -> list[str]:
    """The paths of handlers and of compensations in this body."""
    paths: list[str] = []
    for one in steps:
        path = prefix + one.name
        if one.handler is not None:
            paths += [path, f"{path}!undo", *([f"{path}!probe"] if one.probe is not None else [])]
        if one.on_timeout is not None:
            paths += called_paths(one.on_timeout.steps, f"{path}/" if one.on_timeout.single else f"{path}/on_timeout/")
    return paths


@st.composite
def acts(draw: Any, steps: tuple[Step, ...]) -> tuple[Act, ...]:
    """What people do with the run once it rests."""
    what = draw(st.lists(st.sampled_from(["retry", "retry", "retry from", "replay", "resolve"]), max_size=4))
    paths = list(steps_by_path(steps))
    found: list[Act] = []
    for one in what:
        if one == "retry from":
            found.append(Act("retry", draw(st.sampled_from(paths))))
        elif one == "resolve":
            found.append(Act("resolve", way=draw(st.sampled_from(["retry", "skip", "done"]))))
        else:
            found.append(Act("replay" if one == "replay" else "retry"))
    return tuple(found)


@st.composite
def cases(draw: Any, exact: bool = False, faults: bool = True) -> Case:
    """A run's whole story. With `exact`, where it is cut in two makes no difference to how it ends."""
    steps = draw(sequences(exact))
    definition = Definition(
        "flow",
        body=Body(steps),
        deadline=draw(st.none() | st.none() | st.integers(2, 40).map(lambda n: n * SECOND)),
        on_compensation_failure=draw(st.sampled_from(["continue", "block"])),
    )
    script = {path: tuple(draw(st.lists(doings(), max_size=4))) for path in called_paths(steps)}
    for path, lines in script.items():
        if path.endswith("!undo"):
            script[path] = tuple(replace(one, what="raises" if one.what == "waits" else one.what, changes=None) for one in lines)
        if path.endswith("!probe"):
            script[path] = () if exact else tuple(replace(one, what=PROBED.get(one.what, one.what), changes=None) for one in lines)
    if exact:  # a probe finds the result, at once, and not what the handler did to the data
        for path, probed in steps_by_path(steps).items():
            if probed.probe is not None:
                script[path] = tuple(replace(one, what=BRIEF.get(one.what, one.what), changes=None, took=0) for one in script[path])
    postings = draw(mail)
    if exact:  # at T0 the run may or may not have been there already
        postings = tuple(replace(one, after=max(1, one.after)) for one in postings)
    return Case(
        definition,
        script,
        postings,
        draw(st.dictionaries(st.integers(0, 15), st.sampled_from(FAULTS), max_size=6)) if faults else {},
        Defaults(retries=0, crash_limit=1000 if exact else draw(st.sampled_from([1, 2, 1000]))),
        False if exact else draw(st.booleans()),
        acts=draw(acts(steps)),
    )

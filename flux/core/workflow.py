"""The definition of a workflow, as frozen values (S1.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

from ..names import exact
from ..queue import Queue
from .retry import Retry

Handler: TypeAlias = Callable[[Any], Any]
CompensateWhen: TypeAlias = Literal["in_doubt", "completed", "started"]
OnUnknown: TypeAlias = Literal["retry", "fail", "compensate"]
OnCompensationFailure: TypeAlias = Literal["continue", "block"]
OnBranchFailure: TypeAlias = Literal["cancel", "finish"]


class Kind(str, Enum):
    """The kinds of step (S1.2)."""

    STEP = "step"
    COMMIT = "commit"
    WAIT = "wait"
    SLEEP = "sleep"
    PARALLEL = "parallel"
    ROUTE = "route"
    LOOP = "loop"
    FOR_EACH = "for_each"
    CHILD = "child"

    def __str__(self) -> str:
        return str(self.value)


class Missing(Enum):
    """Tells 'not given' from None."""

    MISSING = "missing"


MISSING = Missing.MISSING


def _exact(value: object, *names: str) -> None:
    for name in names:
        text = getattr(value, name)
        if isinstance(text, str) and type(text) is not str:
            object.__setattr__(value, name, exact(text))


@dataclass(frozen=True, slots=True)
class Body:
    """A sequence of steps: the workflow's own, or that of a branch."""

    steps: tuple[Step, ...] = ()
    single: bool = False  # made from one handler: its result is that handler's return value


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a workflow. Durations are integer microseconds; None means 'the engine's default' for
    `retries`, `timeout`, `retry`, and 'none' elsewhere."""

    name: str
    kind: Kind
    handler: Handler | None = None
    when: Handler | None = None
    # trying
    retries: int | None = None
    retry: Retry | None = None
    timeout: int | None = None
    unlimited: bool = False  # `timeout=None` was asked for
    on_unknown: OnUnknown = "retry"
    probe: Handler | None = None  # asks whether an attempt of unknown outcome happened (S3.8)
    pivot: bool = False  # the point of no return (S9.4)
    transactional: bool = False  # its handler works in the transaction of its commit: no attempt of it is ever in doubt (S3.6)
    # undoing
    compensate: Handler | None = None
    compensate_retries: int | None = None
    compensate_timeout: int | None = None
    compensate_when: CompensateWhen = "in_doubt"
    # waiting
    signal: str | None = None
    type: Any = None  # of a signal's payload, or of a handler's result
    default: Any = MISSING
    default_text: str | None = None  # the default, encoded when the workflow is registered
    on_timeout: Body | None = None
    waits: tuple[str, ...] = ()  # signals that the handler may return `wait` for
    # sleeping: exactly one of these
    duration: int | None = None
    until: int | None = None
    compute: Handler | None = None
    # parallel and route: named branches, a route's fallback under "default"
    branches: tuple[tuple[str, Body], ...] = ()
    join: Literal["all", "any"] | int = "all"  # how many branches of a parallel have to complete
    on_failure: OnBranchFailure = "cancel"  # what the others do when a branch, or an item, has failed
    merge: Callable[[str, list[Any]], Any] | None = None  # (key, the values by branch) -> the value, where branches changed one key
    selector: Handler | None = None  # of a route: answers with a branch's name
    # loop and for_each
    body: Body | None = None
    go_on: Handler | None = None  # asked before a turn: `while_`
    stop: Handler | None = None  # asked after a turn: `until`
    at_most: int | None = None  # turns
    items: Handler | None = None  # answers with what to iterate over
    concurrency: int | None = None  # items at once, None for all
    at_least: int | None = None  # items that have to complete, None for all
    # a child: another workflow, in a run of its own
    child: Definition | None = None
    child_input: Handler | None = None  # answers with the child's input; None for no input
    # in a graph rather than a sequence
    after: tuple[str, ...] | None = None  # names of the steps beside it that must have ended before

    def __post_init__(self) -> None:
        _exact(self, "name", "signal")

    @property
    def bodies(self) -> dict[str, Body]:
        """The bodies inside this step, by name; that of a loop or a for_each is called `body`."""
        if self.on_timeout is not None:
            return {"on_timeout": self.on_timeout}
        return {"body": self.body} if self.body is not None else dict(self.branches)


@dataclass(frozen=True, slots=True)
class Migration:
    """How runs of another version go on under this one: which steps have another name now, and which are gone."""

    old: Definition
    rename: tuple[tuple[str, str], ...] = ()  # (old path, new path)
    drop: frozenset[str] = frozenset()  # old paths


@dataclass(frozen=True, slots=True)
class Definition:
    """A workflow: a name, a version, an ordered tree of steps and the rules of its runs."""

    name: str
    version: str = "1"
    body: Body = field(default_factory=Body)
    deadline: int | None = None
    input_type: Any = None
    validator: Callable[[Any], Any] | None = None
    data_type: Any = None
    on_compensation_failure: OnCompensationFailure = "continue"
    migrations: tuple[Migration, ...] = ()
    queue: Queue | None = None  # no part of its shape: limits change without a new version

    def __post_init__(self) -> None:
        _exact(self, "name", "version")

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps at the top level, in order."""
        return self.body.steps


def is_graph(body: Body) -> bool:
    """Whether its steps say what they come after, so that they are no sequence."""
    return any(step.after is not None for step in body.steps)


def shape(body: Body) -> str:
    """The shape of a body as text: names, kinds and order, nothing else (S13.2)."""
    return ";".join(
        f"{step.kind.value} {step.name}{_needs(step)}" + "".join(f"{{{name}:{_inner(inner)}}}" for name, inner in step.bodies.items())
        for step in body.steps
    )


def _inner(body: Body) -> str:
    """A body of one handler has other paths than a branch of one step."""
    return f"!{shape(body)}" if body.single else shape(body)


def _needs(step: Step) -> str:
    return "" if step.after is None else f"({','.join(sorted(step.after))})"


def child_workflows(body: Body) -> list[Definition]:
    """The workflows that steps of this body start as children, at any depth of the body."""
    found = [step.child for step in body.steps if step.child is not None]
    return found + [one for step in body.steps for inner in step.bodies.values() for one in child_workflows(inner)]


def can_be_undone(body: Body) -> bool:
    """Whether a child of these steps, once it has completed, has anything to undo, or to say about that (S10.4, S10.5)."""
    for step in body.steps:
        if step.compensate is not None or step.pivot or (step.child is not None and can_be_undone(step.child.body)):
            return True
        if any(can_be_undone(inner) for inner in step.bodies.values()):
            return True
    return False


def declared_signals(body: Body) -> frozenset[str]:
    """The names of all signals that this body may wait for, at any depth."""
    names: set[str] = set()
    for step in body.steps:
        if step.signal is not None:
            names.add(step.signal)
        names.update(step.waits)
        for inner in step.bodies.values():
            names |= declared_signals(inner)
    return frozenset(names)

"""The definition of a workflow, as frozen values (S1.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

from .retry import Retry

Handler: TypeAlias = Callable[[Any], Any]
CompensateWhen: TypeAlias = Literal["in_doubt", "completed", "started"]
OnUnknown: TypeAlias = Literal["retry", "fail", "compensate"]
OnCompensationFailure: TypeAlias = Literal["continue", "block"]


class Kind(str, Enum):
    """The kinds of step (S1.2)."""

    STEP = "step"
    COMMIT = "commit"
    WAIT = "wait"
    SLEEP = "sleep"

    def __str__(self) -> str:
        return str(self.value)


class Missing(Enum):
    """Tells 'not given' from None."""

    MISSING = "missing"


MISSING = Missing.MISSING


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

    @property
    def bodies(self) -> dict[str, Body]:
        """The bodies inside this step, by name."""
        return {} if self.on_timeout is None else {"on_timeout": self.on_timeout}


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

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps at the top level, in order."""
        return self.body.steps


def shape(body: Body) -> str:
    """The shape of a body as text: names, kinds and order, nothing else (S13.2)."""
    return ";".join(
        f"{step.kind.value} {step.name}" + "".join(f"{{{name}:{shape(inner)}}}" for name, inner in step.bodies.items())
        for step in body.steps
    )


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

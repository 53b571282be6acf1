"""A workflow made ready to run: defaults filled in, names indexed, one node a step.

A plan belongs to one engine; the workflow it was made from stays a plain value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .retry import SECOND, Retry
from .workflow import Body, CompensateWhen, Definition, Handler, Kind, Step

UNDO = "!undo"  # the path of a compensation is its step's path and this


@dataclass(frozen=True, slots=True)
class Defaults:
    """What an engine fills in where a step says nothing. `timeout` in microseconds."""

    retries: int = 3
    timeout: int | None = 30 * SECOND
    retry: Retry = Retry()
    crash_limit: int = 20


class Node:
    """A step of a plan, or its compensation (`undoes` is then the step's own node)."""

    __slots__ = (
        "bodies",
        "called",
        "compensate_when",
        "extra",
        "handler",
        "index",
        "kind",
        "label",
        "name",
        "on_unknown",
        "retries",
        "retry",
        "sheltered",
        "step",
        "timeout",
        "undo",
        "undoes",
        "when",
    )

    def __init__(self, step: Step, index: int, defaults: Defaults) -> None:
        self.step = step
        self.index = index
        self.name = step.name
        self.label = step.name  # what handlers are told: of a compensation, the step's own name
        self.kind = step.kind
        self.when = step.when
        self.handler = step.handler
        self.extra: Any = None  # for whoever drives: what it knows of the handler
        self.called = step.handler is not None  # a handler runs, as against a wait or a sleep
        self.sheltered = step.kind is Kind.COMMIT  # not cut by cancel or deadline (D10)
        self.retries = defaults.retries if step.retries is None else step.retries
        self.retry = step.retry or defaults.retry
        self.timeout = self._timeout(step, defaults)
        self.on_unknown = step.on_unknown
        self.bodies = {name: Sequence(body, defaults) for name, body in step.bodies.items()}
        self.compensate_when: CompensateWhen = step.compensate_when
        self.undoes: Node | None = None
        self.undo = None if step.compensate is None else self._make_undo(step.compensate, defaults)

    @staticmethod
    def _timeout(step: Step, defaults: Defaults) -> int | None:
        if step.timeout is not None or step.unlimited or step.kind is Kind.COMMIT:
            return step.timeout
        return defaults.timeout

    def _make_undo(self, handler: Handler, defaults: Defaults) -> Node:
        step = self.step
        undo = Node(Step(step.name + UNDO, Kind.STEP, handler, timeout=step.compensate_timeout), self.index, defaults)
        undo.retries = defaults.retries if step.compensate_retries is None else step.compensate_retries
        undo.retry = step.retry or defaults.retry
        undo.sheltered = True
        undo.undoes = self
        undo.label = self.name
        return undo

    def __repr__(self) -> str:
        return f"<Node {self.kind.value} {self.name}>"


class Sequence:
    """The nodes of a body, in order and by name."""

    __slots__ = ("by_name", "nodes", "single")

    def __init__(self, body: Body, defaults: Defaults) -> None:
        self.nodes = tuple(Node(step, index, defaults) for index, step in enumerate(body.steps))
        self.by_name = {node.name: node for node in self.nodes}
        self.single = body.single


class Plan:
    """A definition with an engine's defaults: what the machine works on."""

    __slots__ = ("crash_limit", "definition", "root", "shape")

    def __init__(self, definition: Definition, defaults: Defaults | None = None, shape: str = "") -> None:
        defaults = defaults or Defaults()
        self.definition = definition
        self.root = Sequence(definition.body, defaults)
        self.crash_limit = defaults.crash_limit
        self.shape = shape

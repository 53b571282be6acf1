"""A workflow made ready to run: defaults filled in, names indexed, one node a step.

A plan belongs to one engine; the workflow it was made from stays a plain value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .patterns import NTH, body_path, numbered, pattern, step_path
from .retry import SECOND, Retry
from .workflow import Body, CompensateWhen, Definition, Handler, Kind, Migration, Step, can_be_undone

UNDO = "!undo"  # the path of a compensation is its step's path and this
PROBE = "!probe"  # and that of its probe


@dataclass(frozen=True, slots=True)
class Defaults:
    """What an engine fills in where a step says nothing. `timeout` in microseconds."""

    retries: int = 3
    timeout: int | None = 30 * SECOND
    retry: Retry = Retry()
    crash_limit: int = 20


class Node:
    """A step of a plan, or what is called on its behalf: its compensation (`undoes` is then the step's own node), or its probe
    (`probes` is)."""

    __slots__ = (
        "bodies",
        "called",
        "compensate_when",
        "extra",
        "following",
        "handler",
        "index",
        "kind",
        "label",
        "name",
        "on_unknown",
        "plain",
        "probe",
        "probes",
        "retries",
        "retry",
        "sheltered",
        "step",
        "straight",
        "timeout",
        "transactional",
        "undo",
        "undoable",
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
        self.transactional = step.transactional
        self.bodies = {name: Sequence(body, defaults, inside=True) for name, body in step.bodies.items()}
        self.compensate_when: CompensateWhen = step.compensate_when
        self.undoes: Node | None = None
        self.probes: Node | None = None
        self.undoable = step.compensate is not None or (step.child is not None and can_be_undone(step.child.body))
        undoes = self.undoable or step.kind is Kind.CHILD  # a child undoes what it did by itself
        self.undo = self._make_undo(step.compensate, defaults) if undoes else None
        self.probe = None if step.probe is None else self._make_probe(step.probe, defaults)
        self.plain = not step.pivot  # its end concerns nothing but the top sequence
        self.following: Node | None = None  # in the workflow's own sequence
        self.straight = False  # what follows once it has returned depends on nothing else in its run's code (stride.py)

    @staticmethod
    def _timeout(step: Step, defaults: Defaults) -> int | None:
        if step.timeout is not None or step.unlimited or step.kind is Kind.COMMIT:
            return step.timeout
        return defaults.timeout

    def _make_undo(self, handler: Handler | None, defaults: Defaults) -> Node:
        step = self.step
        undo = Node(Step(step.name + UNDO, Kind.STEP, handler, timeout=step.compensate_timeout), self.index, defaults)
        undo.retries = defaults.retries if step.compensate_retries is None else step.compensate_retries
        undo.retry = step.retry or defaults.retry
        undo.sheltered = True
        undo.undoes = self
        undo.label = self.name
        undo.plain = False
        return undo

    def _make_probe(self, handler: Handler, defaults: Defaults) -> Node:
        probe = Node(Step(self.name + PROBE, Kind.STEP, handler), self.index, defaults)
        probe.probes = self
        probe.label = self.name
        probe.plain = False
        return probe

    @property
    def aside(self) -> bool:
        """Whether it is called on behalf of a step, rather than being one."""
        return self.undoes is not None or self.probes is not None

    def __repr__(self) -> str:
        return f"<Node {self.kind.value} {self.name}>"


class Sequence:
    """The nodes of a body, in order and by name.

    `needs` is None for a sequence; where steps say `after=`, it holds for each node those that must have ended before it. `calls_at_once`:
    all that begins with this body is called, and nothing is asked before. `opening` is the step that begins with the workflow's own
    sequence, if that is so of it (stride.py).
    """

    __slots__ = ("by_name", "calls_at_once", "needs", "nodes", "opening", "single")

    def __init__(self, body: Body, defaults: Defaults, *, inside: bool = False) -> None:
        self.nodes = tuple(Node(step, index, defaults) for index, step in enumerate(body.steps))
        for node in self.nodes:
            node.plain = node.plain and not inside
        self.by_name = {node.name: node for node in self.nodes}
        self.single = body.single
        self.opening: Node | None = None
        graph = any(step.after is not None for step in body.steps)
        self.needs = {node.name: frozenset(node.step.after or ()) for node in self.nodes} if graph else None
        self.calls_at_once = self._calls_at_once()
        if not (graph or inside):
            self._straighten()

    def _straighten(self) -> None:
        self.opening = self.nodes[0] if self.nodes and self.calls_at_once else None
        for node, following in zip(self.nodes, (*self.nodes[1:], None), strict=False):
            node.following = following
            node.straight = node.plain and node.called and (following is None or (following.called and following.when is None))

    def _calls_at_once(self) -> bool:
        needs = self.needs
        first = self.nodes[:1] if needs is None else [node for node in self.nodes if not needs[node.name]]
        return all(node.called and node.when is None for node in first)

    def path_of(self, key: str, node: Node) -> str:
        """The path of this node where the body has this key: what was made from one handler has the key for its path."""
        if self.single:
            return key
        return f"{key}/{node.name}" if key else node.name


def base_path(path: str) -> str:
    """The path of the step that this is about: itself, or the step that it undoes or probes."""
    return path.partition("!")[0] if "!" in path else path


def split_number(part: str) -> tuple[str, str]:
    """A part of a path, as its name and `[12]`, or '' where it has no number."""
    name, bracket, rest = part.partition("[")
    return name, bracket + rest


@dataclass(frozen=True, slots=True)
class Ghost:
    """A step that a migration has dropped: journals still tell of it, and its compensation may be owed."""

    node: Node
    place: float  # among the steps that are left: between two of them


class Port:
    """How the paths of another version's journals are read under this one (S13)."""

    __slots__ = ("ghosts", "rename")

    def __init__(self, old: Definition, chain: tuple[Migration, ...], defaults: Defaults) -> None:
        self.rename: dict[str, str] = {}
        self.ghosts: dict[str, Ghost] = {}
        self._walk(old.body, "", "", chain, defaults)

    def _walk(self, body: Body, old: str, new: str, chain: tuple[Migration, ...], defaults: Defaults) -> None:
        """`old` and `new` are where this body stands in the two versions."""
        kept = gone = 0
        self._learn(old, new)
        for step in body.steps:
            path = step_path(body, old, step)
            name, lived = (path, chain) if body.single else _translate(path, chain)
            here = new if body.single else f"{new}/{name.rpartition('/')[2]}" if new else name
            self._learn(path, here)
            if lived != chain:
                last = _step_at(chain[len(lived)].old.body, name)
                gone += 1
                self.ghosts[here] = Ghost(Node(last, kept - 1, defaults), kept - 1 + gone / (gone + 1))
            else:
                kept, gone = kept + 1, 0
            for inner, branch in step.bodies.items():
                self._walk(branch, body_path(step, path, inner), body_path(step, here, inner), lived, defaults)

    def _learn(self, old: str, new: str) -> None:
        if old != new:
            self.rename[old] = new

    def path(self, path: str) -> str:
        """The path under this version of what was written as this one."""
        return moved(self.rename, path)


def moved(rename: dict[str, str], path: str) -> str:
    """The path by its new name; `rename` maps patterns."""
    base = base_path(path)
    new = rename.get(pattern(base), "")
    return numbered(new, base) + path[len(base) :] if new else path


def _translate(path: str, chain: tuple[Migration, ...]) -> tuple[str, tuple[Migration, ...]]:
    """The path after these migrations, and those that the step outlived: all, unless one of them drops it."""
    for index, migration in enumerate(chain):
        if path in migration.drop:
            return path, chain[:index]
        path = renamed(path, dict(migration.rename))
    return path, chain


def _step_at(body: Body, path: str) -> Step:
    """The step at this pattern of a path."""
    found = {step_path(body, "", step): (body, step) for step in body.steps}
    while path not in found:
        found = {
            step_path(branch, at, inner): (branch, inner)
            for here, (_, step) in found.items()
            for name, branch in step.bodies.items()
            for at in (body_path(step, here, name),)
            for inner in branch.steps
        }
    return found[path][1]


def renamed(path: str, names: dict[str, str]) -> str:
    """The path with every step on the way to it under its new name."""
    new: list[str] = []
    way = ""
    for part in path.split("/"):
        way = f"{way}/{part}" if way else part
        step = way.removesuffix(NTH)
        new.append(names.get(step, step).rpartition("/")[2] + way[len(step) :])
    return "/".join(new)


def ports(definition: Definition, later: tuple[Migration, ...], defaults: Defaults) -> dict[str, Port]:
    """For each older version that can go on under the newest: how it is read."""
    found: dict[str, Port] = {}
    for migration in definition.migrations:
        chain = (migration, *later)
        found[migration.old.version] = Port(migration.old, chain, defaults)
        found = {**ports(migration.old, chain, defaults), **found}
    return found


class Plan:
    """A definition with an engine's defaults: what the machine works on. `shape` is its fingerprint (S13.1)."""

    __slots__ = ("crash_limit", "definition", "ghosts", "ports", "root", "shape")

    def __init__(self, definition: Definition, defaults: Defaults | None = None, shape: str = "") -> None:
        defaults = defaults or Defaults()
        self.definition = definition
        self.root = Sequence(definition.body, defaults)
        self.crash_limit = defaults.crash_limit
        self.shape = shape
        self.ports = ports(definition, (), defaults)
        self.ghosts: dict[str, Ghost] = {}
        for port in self.ports.values():  # the oldest version first, which has most of what is gone
            self.ghosts = {**port.ghosts, **self.ghosts}

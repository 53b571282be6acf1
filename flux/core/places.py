"""Where a path stands in a plan: which sequences lead to it, and what comes before what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..errors import DefinitionChanged
from .patterns import pattern
from .plan import Ghost, Node, Plan, Sequence, base_path, split_number
from .workflow import Kind

Place: TypeAlias = tuple[float, ...]  # the way down: the step's index, the branch or the turn, the step's index in there, …

END: Place = (float("inf"),)
FANS = frozenset({Kind.PARALLEL, Kind.FOR_EACH})  # their branches go on beside one another, each on its own view of the data


@dataclass(slots=True)
class Level:
    """One sequence on the way to a path: the key of its frame, the step that it stands inside ('' for none), which branch or turn
    of that it is, and the node in it."""

    key: str
    owner: str
    arm: float
    steps: Sequence
    node: Node
    ghost: Ghost | None = None  # a migration has dropped it

    @property
    def cursor(self) -> int:
        """Where the sequence's frame stands when this is the next step."""
        return self.node.index + (self.ghost is not None)

    @property
    def place(self) -> float:
        """Among the steps of the sequence."""
        return self.node.index if self.ghost is None else self.ghost.place


def misfit(path: str, why: str) -> DefinitionChanged:
    """The journal has something that the code does not."""
    return DefinitionChanged(f"step {path!r} of the journal {why}", (path,))


def trail(plan: Plan, path: str) -> list[Level]:
    """The sequences that lead to this path, the top one first. Raises DefinitionChanged when the workflow has no such step."""
    parts = base_path(path).split("/")
    levels: list[Level] = []
    steps, key, owner, arm = plan.root, "", "", 0.0
    while True:
        name, number = ("", "") if steps.single or not parts else split_number(parts.pop(0))
        here = key if steps.single else f"{key}/{name}" if key else name
        ghost = plan.ghosts.get(pattern(here)) if plan.ghosts else None
        node = steps.nodes[0] if steps.single else steps.by_name.get(name) if ghost is None else ghost.node
        if node is None:
            raise misfit(path, "is not in the workflow any more")
        levels.append(Level(key, owner, arm, steps, node, ghost))
        if not parts and not number:
            return levels
        owner = here
        if number:
            branch, key, arm = "body", f"{here}{number}", float(number[1:-1])
        else:
            branch, rest = split_number(parts.pop(0))
            if rest:  # the step of a single body has none
                raise misfit(path, "is not in the workflow any more")
            key, arm = f"{here}/{branch}", float(list(node.bodies).index(branch)) if branch in node.bodies else 0.0
        body = node.bodies.get(branch)
        if body is None:
            raise misfit(path, "is not in the workflow any more")
        steps = body
        if not parts and not steps.single:
            raise misfit(path, "is a branch, not a step")


def place(plan: Plan, path: str) -> Place:
    """Where the step at this path, or what is called on its behalf, stands."""
    found: list[float] = []
    for level in trail(plan, path):
        found += [level.arm, level.place] if level.owner else [level.place]
    return tuple(found)


def fan_of(plan: Plan, path: str) -> str:
    """The key of the innermost branch of a parallel, or item, that this path stands in; '' for none."""
    if "/" not in path and "[" not in path:
        return ""
    levels = trail(plan, path)
    return next((level.key for above, level in zip(levels[-2::-1], levels[::-1], strict=False) if above.node.kind in FANS), "")

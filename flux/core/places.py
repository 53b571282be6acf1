"""Where a path stands in a plan: which sequences lead to it, and what comes before what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..errors import DefinitionChanged
from .plan import Ghost, Node, Plan, Sequence, base_path

Place: TypeAlias = tuple[float, ...]  # the indexes on the way down: places compare as their steps follow one another

END: Place = (float("inf"),)


@dataclass(slots=True)
class Level:
    """One sequence on the way to a path: its frame's prefix, the step that it stands inside ('' for none), and the node in it."""

    prefix: str
    owner: str
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
    levels: list[Level] = []
    steps, prefix, owner = plan.root, "", ""
    names = base_path(path).split("/")
    while names:
        here = f"{prefix}/{names[0]}" if prefix else names[0]
        ghost = plan.ghosts.get(here)
        node = steps.by_name.get(names[0]) if ghost is None else ghost.node
        if node is None:
            raise misfit(path, "is not in the workflow any more")
        levels.append(Level(prefix, owner, steps, node, ghost))
        del names[0]
        if not names:
            return levels
        body = node.bodies.get(names[0])
        if body is None:
            raise misfit(path, "is not in the workflow any more")
        owner = here
        if body.single:
            steps, prefix = body, here
        else:
            steps, prefix = body, f"{here}/{names[0]}"
            del names[0]
    raise misfit(path, "is a branch, not a step")


def place(plan: Plan, path: str) -> Place:
    """Where the step at this path, or what is called on its behalf, stands."""
    return tuple(level.place for level in trail(plan, path))

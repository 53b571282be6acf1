"""Which failures made a run fail, and which of them are still to be decided about (S9.4, S10.6)."""

from __future__ import annotations

from collections.abc import Collection

from .inside import inside_of, lies_in
from .places import FANS, place, trail
from .state import RunState, StepState
from .status import StepStatus
from .workflow import Kind


def culprit(state: RunState, decided: Collection[str]) -> StepState | None:
    """The first step, at any depth, whose failure made the run fail; None when somebody has decided about each: `decided`, paths."""
    tops = sorted(_failed(state, ""), key=lambda st: st.path != state.failing)
    return next((found for st in tops if (found := _cause(state, st, decided)) is not None), None)


def _cause(state: RunState, st: StepState, decided: Collection[str]) -> StepState | None:
    """The step inside this one, or itself, whose failure made it fail."""
    if st.path in decided:
        return None
    if st.inside is None or (st.node.kind in FANS and _has_won(st)):
        return st
    found = next((found for one in _failed(state, st.path) if (found := _cause(state, one, decided)) is not None), None)
    return st if found is None and not any(lies_in(path, st.path) for path in decided) else found


def _failed(state: RunState, owner: str) -> list[StepState]:
    """The steps right inside this one that have failed, in their order; those of the run for ''."""
    failed = [st for st in state.steps.values() if st.status is StepStatus.FAILED and not st.node.aside]
    return sorted([st for st in failed if trail(state.plan, st.path)[-1].owner == owner], key=lambda st: place(state.plan, st.path))


def _has_won(st: StepState) -> bool:
    return len(inside_of(st).done) >= counts(st)[1]


def counts(st: StepState) -> tuple[int, int]:
    """How many branches or items there are in this fan, and how many have to complete."""
    step = st.node.step
    if st.node.kind is Kind.FOR_EACH:
        total = len(inside_of(st).items)
        return total, total if step.at_least is None else step.at_least
    total = len(st.node.bodies)
    if isinstance(step.join, int):
        return total, step.join
    return total, total if step.join == "all" else 1

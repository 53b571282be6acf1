"""Which failures made a run fail, and which of them are still to be decided about (S9.4, S10.6)."""

from __future__ import annotations

from collections.abc import Collection

from .inside import inside_of, lies_in
from .places import FANS, place, trail
from .state import RunState, StepState
from .status import StepStatus
from .workflow import Kind


def culprit(state: RunState, decided: Collection[str]) -> StepState | None:
    """The first step, at any depth, that somebody has to decide about: its failure made the run fail, or it was stopped with others while
    it ran, and may not be called again unasked. None when somebody has decided about each: `decided`, paths."""
    tops = sorted(_undecided(state, ""), key=lambda st: (_was_stopped(st), st.path != state.failing))
    return next((found for st in tops if (found := _cause(state, st, decided)) is not None), None)


def _cause(state: RunState, st: StepState, decided: Collection[str]) -> StepState | None:
    """The step inside this one, or itself, that this is about."""
    if st.path in decided:
        return None
    if st.inside is None or (st.node.kind in FANS and _has_won(st)):
        return st if not _was_stopped(st) or _may_not_be_called(st) else None
    allowed = st.inside.failed.values() if _was_stopped(st) else ()  # what failed before, and did no harm: it is left so
    inside = [one for one in _undecided(state, st.path) if one.path not in allowed]
    found = next((found for one in inside if (found := _cause(state, one, decided)) is not None), None)
    return st if found is None and not _was_stopped(st) and not any(lies_in(path, st.path) for path in decided) else found


def _undecided(state: RunState, owner: str) -> list[StepState]:
    """The steps right inside this one that have failed, in their order, and then those that were stopped, or in which something may have
    been; those of the run for ''."""
    found = [st for st in state.steps.values() if (st.status in _UNDONE or _goes_on(st)) and not st.node.aside]
    inside = [st for st in found if trail(state.plan, st.path)[-1].owner == owner]
    return sorted(inside, key=lambda st: (_was_stopped(st), place(state.plan, st.path)))


_UNDONE = frozenset({StepStatus.FAILED, StepStatus.CANCELLED})


def _goes_on(st: StepState) -> bool:
    return st.inside is not None and st.status is StepStatus.RUNNING


def _was_stopped(st: StepState) -> bool:
    return st.status is not StepStatus.FAILED


def _may_not_be_called(st: StepState) -> bool:
    """Whether nobody knows what became of its last attempt, and nobody but a person may have it called again (S3.8)."""
    return st.doubt and st.node.on_unknown != "retry" and st.node.probe is None


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

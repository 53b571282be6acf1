"""What follows inside steps that have branches: which branch begins, when they join, and what becomes of the others (S1.2, S11.3)."""

from __future__ import annotations

from dataclasses import replace

from .commands import Changes
from .culprits import counts
from .decision import Decision
from .failure import Failure
from .inside import conflict, inside_of, lies_in, merged
from .places import FANS
from .plan import Node, base_path
from .records import (
    ArmEnded,
    ArmsJoined,
    ArmsStopped,
    BranchEnded,
    ItemsListed,
    ParallelStarted,
    RouteTaken,
    RunBlocked,
    StepFailed,
    TurnStarted,
)
from .state import Frame, RunState, StepState
from .status import StepStatus
from .workflow import Kind

# --- a step is reached


def take_up(draft: Decision, node: Node, path: str) -> None:
    """A step with branches begins."""
    _BEGIN[node.kind](draft, node, path)


def _begin_parallel(draft: Decision, node: Node, path: str) -> None:
    draft.emit(ParallelStarted(path))


def _begin_route(draft: Decision, node: Node, path: str) -> None:
    answer = draft.moment.ask(node, path, "route")
    if isinstance(answer, Failure):
        return fail(draft, path, 0, answer)
    branch = answer if isinstance(answer, str) and answer in node.bodies else "default"
    if branch in node.bodies:
        return draft.emit(RouteTaken(path, branch))
    chosen = f"{answer!r:.80}" if isinstance(answer, str) else f"something of type {type(answer).__name__}"  # whose repr may fail
    text = f"the selector of {path!r} chose {chosen}, its branches are {', '.join(node.bodies)}"
    fail(draft, path, 0, Failure.of("UnknownBranch", text))


def _begin_loop(draft: Decision, node: Node, path: str) -> None:
    _turn(draft, node, path, 1)


def _begin_items(draft: Decision, node: Node, path: str) -> None:
    answer = draft.moment.ask(node, path, "items")
    if isinstance(answer, Failure):
        return fail(draft, path, 0, answer)
    draft.emit(ItemsListed(path, tuple(answer)))
    conclude(draft, draft.state.steps[path])


_BEGIN = {Kind.PARALLEL: _begin_parallel, Kind.ROUTE: _begin_route, Kind.LOOP: _begin_loop, Kind.FOR_EACH: _begin_items}


# --- a branch is at its end


def branch_over(draft: Decision, frame: Frame) -> None:
    """The last step of this branch has ended."""
    owner = draft.state.steps[frame.owner]
    if owner.node.kind in FANS:
        draft.emit(ArmEnded(frame.key))
        conclude(draft, owner)
    elif owner.node.kind is Kind.LOOP:
        _after_turn(draft, owner)
    else:
        draft.emit(BranchEnded(frame.owner))


def _after_turn(draft: Decision, st: StepState) -> None:
    turn = inside_of(st).turn
    if st.node.step.stop is not None:
        answer = draft.moment.ask(st.node, f"{st.path}[{turn}]", "stop")
        if isinstance(answer, Failure):
            return fail(draft, st.path, 0, answer)
        if answer:
            return draft.emit(BranchEnded(st.path))
    _turn(draft, st.node, st.path, turn + 1)


def _turn(draft: Decision, node: Node, path: str, turn: int) -> None:
    """Begin this turn, unless there is to be none."""
    step = node.step
    if step.go_on is not None:
        answer = draft.moment.ask(node, f"{path}[{turn}]", "go_on")
        if isinstance(answer, Failure):
            return fail(draft, path, 0, answer)
        if not answer:
            return draft.emit(BranchEnded(path))
    if step.at_most is None or turn <= step.at_most:
        return draft.emit(TurnStarted(path, turn))
    if step.go_on is None and step.stop is None:
        return draft.emit(BranchEnded(path))
    fail(draft, path, 0, Failure.of("LoopLimit", f"{path!r} was not done after {step.at_most} turns"))


# --- the join


def conclude(draft: Decision, st: StepState) -> None:
    """End this fan if its outcome is settled and nothing in it runs; before that, stop what the outcome makes useless."""
    if st.status is not StepStatus.RUNNING:
        return
    inside = inside_of(st)
    total, need = counts(st)
    failed = len(inside.failed)
    won = len(inside.done) >= need
    early = won and st.node.kind is Kind.PARALLEL
    lost = failed > total - need and st.node.step.on_failure == "cancel"
    over = len(inside.done) + failed == total
    if (early or lost) and not over and not inside.stopping:
        draft.emit(ArmsStopped(st.path))
    if not (over or inside.stopping) or ((failed or inside.stopping) and _goes_on_inside(draft.state, st)):
        return
    if won:
        _join(draft, st)
    else:
        fail(draft, st.path, 0, _why(draft, st, total, need))


def _goes_on_inside(state: RunState, st: StepState) -> bool:
    """Whether an attempt runs, or a child is under way, in a branch of this step."""
    return any(lies_in(path, st.path) for path in (*state.calls, *state.children))


def _why(draft: Decision, st: StepState, total: int, need: int) -> Failure:
    inside = inside_of(st)
    first = next((draft.state.steps[path].failure for path in inside.failed.values()), None)
    if first is not None and need == total:
        return first
    text = f"{len(inside.done)} of the {total} branches of {st.path!r} completed, and {need} had to"
    return replace(Failure.of("BranchesFailed", text), cause=first)


def _join(draft: Decision, st: StepState) -> None:
    changes, conflicts = merged(st)
    if conflicts and st.node.step.merge is None:
        text = f"branches of {st.path!r} changed {min(conflicts)!r} of the data to different values: let one do it, or say merge="
        return fail(draft, st.path, 0, Failure.of("DataConflict", text))
    if conflicts:
        answer = draft.moment.ask(st.node, st.path, "merge", conflicts)
        if isinstance(answer, Failure):
            return fail(draft, st.path, 0, answer)
        changes |= answer
    if not clash(draft, st.path, 0, changes):
        draft.emit(ArmsJoined(st.path, changes or None))


# --- failing


def clash(draft: Decision, path: str, attempt: int, changes: Changes | None) -> bool:
    """Whether the step of a graph fails because it changed what a step beside it changed too (D22)."""
    key = conflict(draft.state, path, changes)
    if key is None:
        return False
    text = f"{path!r} changed {key!r} of the data, and so did a step that it does not come after, to another value"
    undone = attempt == 0 or draft.state.steps[path].node.transactional  # else its handler has returned: it is to be undone
    fail(draft, path, attempt, Failure.of("DataConflict", text), doubt=not undone)
    return True


def fail(draft: Decision, path: str, attempt: int, failure: Failure, doubt: bool = False) -> None:
    """The step has failed for good, and with it the branch or the step it stands in; or the compensation has (S10.3)."""
    state = draft.state
    st = state.steps.get(path)
    frame = None if "!" in path else state.frame_of(path)
    draft.emit(StepFailed(path, attempt, failure, doubt))
    if st is not None and st.node.probes is not None:
        return _fail_unasked(draft, base_path(path), failure)
    if state.replay is not None:
        return draft.emit(RunBlocked("ReplayFailed", f"{path!r} failed when it was run again: {failure}", path))
    if st is not None and st.node.undoes is not None:
        if state.plan.definition.on_compensation_failure == "block":
            draft.emit(RunBlocked("CompensationFailed", f"{path!r} failed: {failure}", path))
        return None
    if frame is not None and frame.owner:
        owner = state.steps[frame.owner]
        conclude(draft, owner) if owner.node.kind in FANS else fail(draft, frame.owner, 0, failure)


def _fail_unasked(draft: Decision, path: str, why: Failure) -> None:
    """The probe has failed for good: what happened stays unknown."""
    text = f"an attempt of {path!r} may have taken effect, and its probe could not say: {why}"
    fail(draft, path, 0, replace(Failure.of("UnknownOutcome", text), cause=why), doubt=True)

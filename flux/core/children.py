"""What follows for a run from those that it has started as children, and for a child from its parent (S1.2, S10.5, D6, I41)."""

from __future__ import annotations

from dataclasses import replace

from .commands import Posting, Tell
from .decision import Decision
from .failure import Failure
from .inside import lies_in
from .joins import fail
from .plan import UNDO, Node, base_path
from .records import ChildEnded, ChildStarted, ChildTold, Reopened, RunBlocked, StepFailed, Told, UndoDemanded, UnwindStarted
from .state import HALF_UNDONE, RunState, is_left
from .status import RunStatus, StepStatus

# --- a parent's side


def begin_child(draft: Decision, node: Node, path: str) -> None:
    """Another run begins, in the transaction of this decision. One that was done before and is not undone is the same child still: what
    it came to counts."""
    child = _standing(draft.state, path)
    done = draft.state.result_text(path) if child else None
    if done is not None:
        draft.emit(ChildStarted(path, child))
        return draft.emit(ChildEnded(path, 0, "completed", done, None))
    answer = draft.moment.ask(node, path, "child")
    if isinstance(answer, Failure):
        return fail(draft, path, 0, answer)
    draft.children += (answer,)
    draft.emit(ChildStarted(path, answer.run_id))


def _standing(state: RunState, path: str) -> str:
    """The child that has completed in an earlier generation, and of which nothing was undone; '' when there is none."""
    past = state.past.get(path, ())
    earlier = state.owed.get(path) or (past[-1] if past and past[-1].status is StepStatus.COMPLETED else None)
    return "" if earlier is None or earlier.told == HALF_UNDONE else earlier.child


def number_of_child(state: RunState, path: str) -> int:
    """How many other children the step at `path` has had, and may not have again."""
    now = state.steps.get(path)
    return len({st.child for st in (*state.past.get(path, ()), *([now] if now is not None else [])) if st.child})


def child_told(draft: Decision, posting: Posting) -> None:
    """A child has ended, or has undone what it did; one that nobody waits for is not heard."""
    state = draft.state
    draft.consumed.append(posting.seq)
    path = next((path for path, child in state.children.items() if child == posting.name), None)
    if path is None or state.ended is not None:
        return None
    status, result, failure, clean = draft.moment.read_child(posting)
    going_down = _going_down(draft, path)
    draft.emit(ChildEnded(path, posting.seq, status, result, failure, clean))
    if path.endswith(UNDO):
        return _undone(draft, path, posting.name, status, failure)
    if status == "completed" or going_down:
        return None
    what = "failed" if status == "failed" else "was cancelled"
    told = Failure.of("ChildFailed", f"{posting.name}, the child of {path!r}, {what}" + (f": {failure}" if failure else ""))
    return fail(draft, path, 0, replace(told, cause=failure))


def _going_down(draft: Decision, path: str) -> bool:
    state = draft.state
    return state.descending or state.is_stopped(path) or is_left(state.steps[path])


def _undone(draft: Decision, path: str, child: str, status: str, failure: Failure | None) -> None:
    if status == "cancelled":
        return None
    if status == "failed":
        return fail(draft, path, 0, failure or Failure.of("StepError", "no error was recorded"))
    text = f"{child}, the child of {base_path(path)!r}, is past its point of no return: it cannot be undone"
    draft.emit(StepFailed(path, 0, Failure.of("PastPivot", text)))
    draft.emit(RunBlocked("PastPivot", text, path))


def undo_child(draft: Decision, path: str) -> None:
    """Have the finished child of this step undo what it did; `path` is that of the compensation."""
    draft.tells += (Tell(draft.state.steps[base_path(path)].child, "unwind"),)
    draft.emit(ChildTold(path, "unwind"))


def call_back(draft: Decision) -> bool:
    """The run is going down: its children do so first. Whether there are any left to wait for."""
    state = draft.state
    cancel = state.cancel
    compensate = cancel is None or cancel.compensate
    interrupt = cancel is not None and cancel.interrupt
    reason = (cancel.reason if cancel is not None else "") or "its parent ends"
    paths = list(state.children)
    _tell_all(draft, paths, "cancel", reason, compensate, interrupt)
    if paths and not state.descending:  # all were told before, when their branches were stopped
        draft.emit(ChildTold(paths[0], "cancel", state.steps[paths[0]].told > 1))
    return bool(paths)


def stop_children(draft: Decision, top: str) -> None:
    """Nobody waits for what goes on under this path any more."""
    _tell_all(draft, [path for path in draft.state.children if lies_in(path, top)], "stop", "its branch was stopped", True, False)


def leave_children(draft: Decision) -> None:
    """The steps of these children are gone from the workflow: it goes on beside them, and ends once they have."""
    state = draft.state
    _tell_all(draft, [path for path in state.children if is_left(state.steps[path])], "stop", "its step is gone", True, False)


def _tell_all(draft: Decision, paths: list[str], why: Told, reason: str, compensate: bool, interrupt: bool) -> None:
    for path in paths:
        st = draft.state.steps[path]
        if st.told <= interrupt:
            draft.tells += (Tell(st.child, "cancel", reason, compensate, interrupt),)
            draft.emit(ChildTold(path, why, interrupt))


# --- a child's side


def demanded(draft: Decision, posting: Posting) -> None:
    """The parent wants this run undone: at once if it has ended, else when it has."""
    draft.consumed.append(posting.seq)
    draft.emit(UndoDemanded(posting.seq))


def undo_for_parent(draft: Decision) -> bool:
    """Begin to undo what this run did, if that is asked and can be; whether it has begun. The parent hears of it either way."""
    state = draft.state
    if not state.demand or state.ended is not RunStatus.COMPLETED or state.pivot is not None:
        return False
    draft.emit(Reopened(state.generation + 1, "unwind", "", state.parent, ""))
    draft.emit(UnwindStarted("cancelled", Failure.of("RunCancelled", "its parent had it undone")))
    return True

"""The common cases of a decision, in one go: a run begins and its first step is called, and a step of the workflow's own sequence
returned, where the next is a plain one, or none is left.

What `create`, `decide` and `evolve` say of them in general, at a fraction of the cost; the laws in the tests hold the two ways to be equal.
"""

from __future__ import annotations

from .commands import Returned
from .plan import Node, Plan
from .records import Record, RunCompleted, RunCreated, StepCompleted, StepStarted
from .state import Frame, RunState, StepState
from .status import RunStatus, StepStatus

_COMPLETED = RunCompleted()


def set_out(plan: Plan, created: RunCreated, now: int) -> tuple[RunState, tuple[Record, ...]] | None:
    """A new run with its first step under way, and the records that say so; None where `create` has to say."""
    node = plan.root.opening
    if node is None or created.continuation or created.created_at is not None:
        return None
    if created.deadline_at is not None and created.deadline_at <= now:
        return None
    state = RunState(plan)
    state.workflow = created.workflow
    state.version = created.version
    state.shape = created.shape
    state.input = created.input
    state.deadline_at = created.deadline_at
    state.created_at = state.updated_at = now
    state.parent = created.parent
    state.continuation = 0  # as it is set there, though it is the default: `RunState.clear` takes back what stands here
    if created.data:
        state.first = created.data
        state.data = {key: value for key, value in created.data.items() if value is not None}
    state.frames[""] = Frame("", "", plan.root)
    _begin(state, node, now)
    return state, (created, StepStarted(node.name, 1))


def stride(state: RunState, done: Returned, now: int) -> tuple[Record, Record] | None:
    """The records that follow; None where `decide` has to say. The state is as it was: call `take` once they are committed."""
    st = state.calls.get(done.path)
    if st is None or st.attempt != done.attempt or not st.node.straight:
        return None
    if state.due or state.blocked or state.unwinding or state.cancel or state.failing or state.again or state.children:
        return None
    if state.deadline_at is not None and state.deadline_at <= now:
        return None
    following = st.node.following
    after = _COMPLETED if following is None else StepStarted(following.name, 1)
    return StepCompleted(done.path, done.attempt, done.result, done.changes), after


def take(state: RunState, done: Returned, at: int) -> None:
    """The state after the records of this stride."""
    calls = state.calls
    st = calls.pop(done.path)
    if done.changes:
        state.change(done.changes)
        state.settle()
        st.changes = done.changes
    st.status = StepStatus.COMPLETED
    st.result = done.result
    st.failure = None
    st.lost = st.guilty = 0
    st.ended_at = state.updated_at = at
    node = st.node
    state.frames[""].cursor = node.index + 1
    following = node.following
    if following is None:
        state.ended = RunStatus.COMPLETED
        state.ended_at = at
        return
    _begin(state, following, at)


def _begin(state: RunState, node: Node, at: int) -> None:
    name = node.name
    started = state.calls[name] = state.steps[name] = StepState(name, node)
    started.status = StepStatus.RUNNING
    started.attempt = 1
    started.started_at = at

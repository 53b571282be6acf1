"""`evolve`: the state of a run after one more fact; and `fold`, the state after all of them (I8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from ..errors import UnreadableRun
from .again import ended_again, inherit, not_undone, reopen, replay_on, resolve
from .commands import Changes
from .inside import (
    arm_ended,
    arm_failed,
    arms_stopped,
    is_done,
    items_listed,
    leave_inside,
    make_due,
    open_frame,
    parallel_started,
    ready,
    route_taken,
    turn_started,
)
from .patterns import pattern
from .places import FANS, misfit, place
from .plan import PROBE, UNDO, Node, Plan, base_path
from .porting import migrate, ported
from .records import (
    ArmEnded,
    ArmsJoined,
    ArmsStopped,
    AttemptCut,
    AttemptFailed,
    AttemptIsolated,
    AttemptLost,
    AttemptPostponed,
    AttemptReleased,
    BranchEnded,
    CancelRefused,
    CancelRequested,
    ChildEnded,
    ChildStarted,
    ChildTold,
    ItemsListed,
    ParallelStarted,
    Record,
    Reopened,
    RouteTaken,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunForked,
    RunMigrated,
    RunUnblocked,
    SignalReceived,
    SleepEnded,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepInherited,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSuspended,
    TurnStarted,
    UndoDemanded,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from .state import ABSENT, HALF_UNDONE, OPEN, RAN, Frame, Inside, RunState, StepState, is_left, needs_undo
from .status import RunStatus, StepStatus
from .workflow import Kind


def fold(plan: Plan, rows: Iterable[tuple[int, Iterable[Record]]]) -> RunState:
    """The state after these journal rows, each `(at, records)`.

    Raises DefinitionChanged where they do not fit the plan (S13.2), and UnreadableRun, without a run id, where a record
    makes no sense after those before it: a row is missing, or is not what was written (S15.2).
    """
    state = RunState(plan)
    for at, records in ported(plan, rows):
        try:
            apply_row(state, at, records)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise UnreadableRun(
                f"row {state.position + 1} of the journal does not follow from those before it: {type(error).__name__}: {error}"
            ) from error
    return state


def apply_row(state: RunState, at: int, records: Iterable[Record]) -> None:
    """Fold one committed journal row."""
    for record in records:
        evolve(state, record, at)
    state.position += 1
    state.log.clear()


def evolve(state: RunState, record: Record, at: int) -> None:
    """The state after this fact, which was recorded at `at`."""
    EVOLVE[type(record)](state, record, at)
    state.updated_at = at


# --- helpers


def _reach(
    state: RunState, path: str, at: int, *, called: bool | None = None, kind: Kind | None = None, node: Node | None = None
) -> StepState:
    """The step's state, made when its path is new; checks that the code has this step here and of this kind. `node`: where that is
    known, though nothing is open there."""
    st = state.steps.get(path)
    if st is not None:
        return state.save(st)
    node = node or _node_for(state, path)
    if (called is not None and node.called is not called) or (kind is not None and node.kind is not kind):
        raise misfit(path, f"has changed its kind to {node.kind.value!r}")
    owed = state.owed.get(path) if state.owed else None
    if owed is None:
        st = StepState(path, node)
    else:
        st = state.save(owed)
        state.drop(state.owed, path)
    st.started_at = at
    state.put(state.steps, path, st)
    return st


def _node_for(state: RunState, path: str) -> Node:
    frame = state.frame_of(path)
    if frame is not None and (expected := ready(state, frame)) is not None and frame.path_of(expected) == path:
        return expected
    if "!" in path:
        return _node_aside(state, path)
    node = None if frame is None else frame.steps.by_name.get(path.rpartition("/")[2])
    ghost = state.plan.ghosts.get(pattern(path)) if state.plan.ghosts else None
    if ghost is not None:
        return ghost.node
    if frame is None or node is None:
        raise misfit(path, "is not in the workflow any more")
    if frame.steps.needs is not None:
        return _in_graph(state, frame, node, path)
    if node.index != frame.cursor:
        there = frame.steps.nodes[frame.cursor].name if frame.cursor < len(frame.steps.nodes) else "the end"
        raise misfit(path, f"stands where the workflow now has {there!r}")
    return node


def _in_graph(state: RunState, frame: Frame, node: Node, path: str) -> Node:
    needs = frame.steps.needs or {}
    early = [name for name in needs[node.name] if not is_done(state, frame, name)]
    if early:
        raise misfit(path, f"was reached before {min(early)!r}, which it comes after now")
    return node


def _node_aside(state: RunState, path: str) -> Node:
    base = base_path(path)
    if base not in state.steps and base in state.owed:  # asked after before it is done again
        state.put(state.steps, base, state.owed[base])
        state.drop(state.owed, base)
    node = state.steps[base].node
    found = node.undo if path.endswith(UNDO) else node.probe
    if found is None:
        raise misfit(path, f"has no {'compensation' if path.endswith(UNDO) else 'probe'} any more")
    return found


def _known(state: RunState, path: str) -> StepState:
    return state.save(state.steps[path])


def _running(state: RunState, path: str) -> StepState:
    """The step of an attempt that now has an outcome."""
    st = _known(state, path)
    state.drop(state.calls, path)
    return st


def _await(state: RunState, st: StepState, signal: str, expires_at: int | None) -> None:
    st.status = StepStatus.SUSPENDED
    st.signal = signal
    st.due_at = expires_at
    state.put(state.parked, st.path, st)
    state.put(state.waits, signal, (*state.waits.get(signal, ()), st.path))


def _end(state: RunState, st: StepState, status: StepStatus, at: int) -> None:
    """The step has its final outcome: its frame moves on."""
    st.status = status
    st.ended_at = at
    st.due_at = None
    if st.node.undoes is not None:
        state.assign(state, "undo_at", state.undo_at + 1)
        return
    if status is StepStatus.COMPLETED and not st.node.plain:
        _passed(state, st)
    _move_on(state, st)


def _move_on(state: RunState, st: StepState) -> None:
    """The step has ended: its frame stands at the next."""
    if state.replay is not None:
        return replay_on(state)
    frame = state.frame_of(st.path)
    if frame is None:
        return None  # its branch was stopped
    if frame.steps.needs is None:
        state.log.append((frame, "cursor", frame.cursor))
        frame.cursor = st.node.index + 1
    make_due(state, frame)


def _change(state: RunState, st: StepState, changes: Changes) -> None:
    """The step's changes to the data hold, where it stands; in a branch that was stopped they are kept for a retry."""
    st.changes = changes
    if state.replay is not None:
        return state.change(changes)
    frame = state.frame_of(st.path)
    if frame is not None:
        state.change(changes, frame.scope)


def _not_due(state: RunState, path: str) -> None:
    """The step at `path` has been taken up: its frame stands there."""
    frame = state.frame_of(path)
    if frame is None:
        return
    if frame.steps.needs is None:
        state.drop(state.due, frame.key)
    else:
        make_due(state, frame)


# --- one small function a record


def _run_created(state: RunState, record: RunCreated, at: int) -> None:
    if state.frames:
        state.clear()
    state.workflow = record.workflow
    state.version = record.version
    state.shape = record.shape
    state.input = record.input
    state.deadline_at = record.deadline_at
    state.created_at = at if record.created_at is None else record.created_at
    state.parent = record.parent
    state.continuation = record.continuation
    state.first = record.data
    state.change(record.data)
    root = Frame("", "", state.plan.root)
    state.put(state.frames, "", root)
    state.put(state.due, "", root)


def _step_started(state: RunState, record: StepStarted, at: int) -> None:
    path = record.path
    st = _reach(state, path, at, called=True)
    if st.started_at is None:
        st.started_at = at
    st.alone = False
    st.status = StepStatus.RUNNING
    st.attempt = record.attempt
    st.due_at = None
    if state.parked:
        state.drop(state.parked, path)
    if st.node.undoes is not None:
        _show_undo(state, path, StepStatus.COMPENSATING)
        _turn_to(state, base_path(path))
    elif st.node.probes is not None:
        _probe_started(state, base_path(path))
    elif state.due:
        _not_due(state, path)
    state.calls[path] = st
    state.log.append((state.calls, path, ABSENT))


def _show_undo(state: RunState, path: str, status: StepStatus) -> None:
    """The history line of the step tells how its compensation stands (S10.6)."""
    _known(state, base_path(path)).status = status


def _turn_to(state: RunState, path: str) -> None:
    """It is this step's turn to be undone, whatever the code of today would undo before it, or would not undo (S10.4)."""
    undo, at = state.undo, state.undo_at
    if at < len(undo) and undo[at] == path:
        return
    if path in undo[at:]:
        state.assign(state, "undo_at", undo.index(path, at))
    else:
        state.assign(state, "undo", (*undo[:at], path, *undo[at:]))


def _probe_started(state: RunState, path: str) -> None:
    """The step goes on by being asked after."""
    base = _known(state, path)
    state.unpark(base)
    _not_due(state, path)
    base.status = StepStatus.RUNNING
    base.due_at = None


def _step_completed(state: RunState, record: StepCompleted, at: int) -> None:
    path = record.path
    st = state.calls.pop(path)
    log = state.log
    log.append((state.calls, path, st))
    log.append((st, RAN, (st.failure, st.lost, st.guilty)))
    st.status = StepStatus.COMPLETED
    st.result = record.result
    st.failure = None
    st.lost = st.guilty = 0
    st.ended_at = at
    if record.changes:
        _change(state, st, record.changes)
    if st.node.undoes is None:
        if not st.node.plain:
            _passed(state, st)
        _move_on(state, st)
        return
    _undone(state, path)
    state.assign(state, "undo_at", state.undo_at + 1)


def _undone(state: RunState, path: str) -> None:
    base = _known(state, base_path(path))
    base.status = StepStatus.COMPENSATED
    base.doubt = base.owed = False


def _passed(state: RunState, st: StepState) -> None:
    if st.node.step.pivot:
        state.assign(state, "pivot", st.path)


def _step_suspended(state: RunState, record: StepSuspended, at: int) -> None:
    st = _running(state, record.path)
    st.default = record.default
    st.failure = None
    st.lost = st.guilty = 0
    if record.changes:
        _change(state, st, record.changes)
    _await(state, st, record.signal, record.expires_at)
    if state.is_stopped(st.path):
        state.leave(st.path, at)


def _park_attempt(state: RunState, st: StepState, retry_at: int | None, at: int) -> None:
    if retry_at is None:
        _give_up(state, st, at)
    else:
        st.status = StepStatus.SUSPENDED
        st.due_at = retry_at
        state.put(state.parked, st.path, st)


def _give_up(state: RunState, st: StepState, at: int) -> None:
    """Nobody starts it any more; where it is a probe, nor the step that it asks after."""
    for one in (st, _known(state, base_path(st.path))) if st.node.probes is not None else (st,):
        one.status = StepStatus.CANCELLED
        one.ended_at = at


def _attempt_failed(state: RunState, record: AttemptFailed, at: int) -> None:
    st = _running(state, record.path)
    st.raised += 1
    st.lost = st.guilty = 0
    st.failure = record.failure
    st.doubt = st.doubt or record.doubt
    _park_attempt(state, st, record.retry_at, at)


def _attempt_lost(state: RunState, record: AttemptLost, at: int) -> None:
    st = _running(state, record.path)
    st.lost += 1
    st.guilty += st.alone
    st.doubt = st.doubt or not st.node.transactional
    _park_attempt(state, st, record.retry_at, at)


def _attempt_cut(state: RunState, record: AttemptCut, at: int) -> None:
    st = _running(state, record.path)
    st.doubt = st.doubt or not st.node.transactional
    _park_attempt(state, st, record.retry_at, at)


def _attempt_released(state: RunState, record: AttemptReleased, at: int) -> None:
    st = _running(state, record.path)
    st.attempt -= 1
    if st.attempt == 0:
        st.started_at = None
    if state.is_stopped(st.path):
        return _give_up(state, st, at)
    st.status = StepStatus.PENDING
    st.due_at = at
    state.put(state.parked, st.path, st)
    return None


def _step_failed(state: RunState, record: StepFailed, at: int) -> None:
    path = record.path
    frame = None if "!" in path else state.frame_of(path)
    st = _reach(state, path, at)
    state.drop(state.calls, path)
    state.unpark(st)
    if record.attempt:
        st.raised += 1
    st.failure = record.failure
    st.doubt = st.doubt or record.doubt
    st.status = StepStatus.FAILED
    st.ended_at = at
    st.due_at = None
    if st.node.undoes is not None:
        not_undone(state, base_path(path))
        state.assign(state, "undo_at", state.undo_at + 1)
        return
    _not_due(state, path)
    if st.node.bodies:
        leave_inside(state, st, at)
    if frame is None or st.node.probes is not None or state.replay is not None:
        return
    if not frame.owner:
        if state.failing is None:
            state.assign(state, "failing", path)
    elif state.steps[frame.owner].node.kind in FANS:
        arm_failed(state, frame.key, path, at)


def _step_skipped(state: RunState, record: StepSkipped, at: int) -> None:
    _end(state, _reach(state, record.path, at), StepStatus.SKIPPED, at)


def _wait_started(state: RunState, record: WaitStarted, at: int) -> None:
    st = _reach(state, record.path, at, kind=Kind.WAIT)
    _not_due(state, record.path)
    _await(state, st, record.signal, record.expires_at)


def _signal_received(state: RunState, record: SignalReceived, at: int) -> None:
    st = _known(state, record.path)
    state.unpark(st)
    st.result = record.payload
    _end(state, st, StepStatus.COMPLETED, at)


def _wait_expired(state: RunState, record: WaitExpired, at: int) -> None:
    st = _known(state, record.path)
    state.unpark(st)
    if record.result is not None:
        st.result = record.result
        _end(state, st, StepStatus.COMPLETED, at)
        return
    body = st.node.bodies.get("on_timeout")
    if body is None:
        raise misfit(record.path, "has no on_timeout branch any more")
    st.status = StepStatus.RUNNING
    st.due_at = None
    st.inside = Inside(choice="on_timeout")
    open_frame(state, st, f"{record.path}/on_timeout", body)


def _branch_ended(state: RunState, record: BranchEnded, at: int) -> None:
    st = _reach(state, record.path, at)
    if st.inside is None and st.node.kind is Kind.LOOP:  # it had no turn at all
        st.inside = Inside()
    leave_inside(state, st, at)
    _end(state, st, StepStatus.COMPLETED, at)


def _sleep_started(state: RunState, record: SleepStarted, at: int) -> None:
    st = _reach(state, record.path, at, kind=Kind.SLEEP)
    _not_due(state, record.path)
    st.status = StepStatus.SUSPENDED
    st.due_at = record.until
    state.put(state.parked, record.path, st)


def _sleep_ended(state: RunState, record: SleepEnded, at: int) -> None:
    st = _known(state, record.path)
    state.unpark(st)
    _end(state, st, StepStatus.COMPLETED, at)


def _cancel_requested(state: RunState, record: CancelRequested, at: int) -> None:
    state.assign(state, "cancel", record)


def _unwind_started(state: RunState, record: UnwindStarted, at: int) -> None:
    for st in state.steps.values():
        if st.status in OPEN:
            state.unpark(state.save(st))
            st.status = StepStatus.CANCELLED
            st.due_at = None
            st.ended_at = at
    for path, st in list(state.owed.items()):
        state.save(st).status = StepStatus.CANCELLED
        state.put(state.steps, path, st)
        state.drop(state.owed, path)
    for frontier in (state.due, state.stopping):
        for key in list(frontier):
            state.drop(frontier, key)
    state.assign(state, "blocked", None)
    state.assign(state, "descending", False)
    state.assign(state, "unwinding", record)
    if not record.compensate:
        state.assign(state, "undo", state.undo[: state.undo_at])
    else:
        paths = list(state.steps)
        if state.past:  # what an earlier generation left stands where it was reached then
            paths.sort(key=lambda path: place(state.plan, path))
        state.assign(state, "undo", tuple(path for path in reversed(paths) if needs_undo(state.steps[path])))


def _parallel_started(state: RunState, record: ParallelStarted, at: int) -> None:
    parallel_started(state, _reach(state, record.path, at, kind=Kind.PARALLEL))


def _route_taken(state: RunState, record: RouteTaken, at: int) -> None:
    st = _reach(state, record.path, at, kind=Kind.ROUTE)
    if record.branch not in st.node.bodies:
        raise misfit(f"{record.path}/{record.branch}", "is not in the workflow any more")
    route_taken(state, st, record.branch)


def _turn_started(state: RunState, record: TurnStarted, at: int) -> None:
    turn_started(state, _reach(state, record.path, at, kind=Kind.LOOP), record.turn)


def _items_listed(state: RunState, record: ItemsListed, at: int) -> None:
    items_listed(state, _reach(state, record.path, at, kind=Kind.FOR_EACH), record.items)


def _arm_ended(state: RunState, record: ArmEnded, at: int) -> None:
    arm_ended(state, record.path)


def _arms_stopped(state: RunState, record: ArmsStopped, at: int) -> None:
    arms_stopped(state, _known(state, record.path), at)


def _arms_joined(state: RunState, record: ArmsJoined, at: int) -> None:
    st = _known(state, record.path)
    leave_inside(state, st, at)
    if record.changes:
        _change(state, st, record.changes)
    _end(state, st, StepStatus.COMPLETED, at)


def _child_started(state: RunState, record: ChildStarted, at: int) -> None:
    st = _reach(state, record.path, at, kind=Kind.CHILD)
    _not_due(state, record.path)
    st.status = StepStatus.SUSPENDED
    st.child = record.child
    st.told = 0
    st.owed = False
    state.put(state.children, record.path, record.child)


def _child_told(state: RunState, record: ChildTold, at: int) -> None:
    path = record.path
    if path.endswith(UNDO):
        _undo_child(state, path, at)
        return
    _known(state, path).told = 2 if record.interrupt else 1
    if record.why == "cancel":
        state.assign(state, "descending", True)


def _undo_child(state: RunState, path: str, at: int) -> None:
    st = _reach(state, path, at)
    st.status = StepStatus.SUSPENDED
    st.attempt = 1
    _show_undo(state, path, StepStatus.COMPENSATING)
    _turn_to(state, base_path(path))
    state.put(state.children, path, state.steps[base_path(path)].child)


def _child_ended(state: RunState, record: ChildEnded, at: int) -> None:
    path = record.path
    st = _known(state, path)
    state.drop(state.children, path)
    if not record.clean:
        state.assign(state, "unclean", True)
    if path.endswith(UNDO):
        if record.status == "cancelled":
            st.status = StepStatus.COMPLETED
            st.ended_at = at
            _undone(state, path)
            state.assign(state, "undo_at", state.undo_at + 1)
        elif record.status == "failed":
            _known(state, base_path(path)).told = HALF_UNDONE
        return None
    if record.status == "completed":
        st.result = record.result
        if not is_left(st):
            return _end(state, st, StepStatus.COMPLETED, at)
        st.status = StepStatus.COMPLETED
        st.ended_at = at
        return None
    st.failure = record.failure
    st.status = StepStatus.CANCELLED  # until a record says that it failed
    st.ended_at = at
    return None


def _undo_demanded(state: RunState, record: UndoDemanded, at: int) -> None:
    if state.ended is None or (state.ended is RunStatus.COMPLETED and state.pivot is None):
        state.assign(state, "demand", record.seq)
        state.assign(state, "again", True)


def _run_completed(state: RunState, record: RunCompleted, at: int) -> None:
    _finish(state, RunStatus.COMPLETED, at)


def _run_failed(state: RunState, record: RunFailed, at: int) -> None:
    _finish(state, RunStatus.FAILED, at)


def _run_cancelled(state: RunState, record: RunCancelled, at: int) -> None:
    _finish(state, RunStatus.CANCELLED, at)


def _finish(state: RunState, status: RunStatus, at: int) -> None:
    state.drop(state.due, "")
    state.assign(state, "blocked", None)
    state.assign(state, "ended", status)
    state.assign(state, "ended_at", at)
    if state.descending:
        state.assign(state, "descending", False)
    if status is not RunStatus.COMPLETED and state.demand:
        state.assign(state, "demand", 0)
    if state.replay is not None:
        ended_again(state)


def _run_blocked(state: RunState, record: RunBlocked, at: int) -> None:
    state.assign(state, "blocked", record)
    if record.misfit and record.misfit not in state.misfits:
        state.assign(state, "misfits", (*state.misfits, record.misfit))


def _run_unblocked(state: RunState, record: RunUnblocked, at: int) -> None:
    blocked = state.blocked
    if blocked is not None and blocked.path in state.steps:
        st = _known(state, blocked.path)
        st.lost = st.guilty = 0
    if blocked is not None and blocked.reason == "DeadlineExceeded":
        state.assign(state, "deadline_at", None)
    state.assign(state, "blocked", None)


def _cancel_refused(state: RunState, record: CancelRefused, at: int) -> None:
    state.assign(state, "cancel", None)
    state.assign(state, "descending", False)


def _attempt_isolated(state: RunState, record: AttemptIsolated, at: int) -> None:
    _known(state, record.path).alone = True


def _attempt_postponed(state: RunState, record: AttemptPostponed, at: int) -> None:
    _known(state, record.path).due_at = record.retry_at


def _step_probed(state: RunState, record: StepProbed, at: int) -> None:
    path = record.path
    probe = _running(state, path + PROBE)
    probe.status = StepStatus.COMPLETED
    probe.ended_at = at
    st = _known(state, path)
    st.doubt = False
    if record.result is None:
        if state.is_stopped(path):
            return _give_up(state, st, at)
        st.status = StepStatus.PENDING
        st.due_at = at
        state.put(state.parked, path, st)
        return None
    st.result = record.result
    st.failure = None
    st.lost = st.guilty = 0
    return _end(state, st, StepStatus.COMPLETED, at)


def _step_resolved(state: RunState, record: StepResolved, at: int) -> None:
    state.assign(state, "resolutions", (*state.resolutions, (at, record)))
    node = state.steps[record.path].node
    status = resolve(state, record)
    if status is None:
        return
    st = _reach(state, record.path, at, node=node)
    if status is StepStatus.COMPLETED:
        st.result = record.result
        st.doubt = False
    _end(state, st, status, at)


def _reopened(state: RunState, record: Reopened, at: int) -> None:
    state.assign(state, "reopenings", (*state.reopenings, (at, record)))
    reopen(state, record)


def _run_forked(state: RunState, record: RunForked, at: int) -> None:
    state.assign(state, "forked", record)


def _step_inherited(state: RunState, record: StepInherited, at: int) -> None:
    inherit(state, record)


def _run_migrated(state: RunState, record: RunMigrated, at: int) -> None:
    migrate(state, record)


Evolve: TypeAlias = Callable[[RunState, Any, int], None]

EVOLVE: dict[type[Record], Evolve] = {
    RunCreated: _run_created,
    StepStarted: _step_started,
    StepCompleted: _step_completed,
    StepSuspended: _step_suspended,
    AttemptFailed: _attempt_failed,
    AttemptLost: _attempt_lost,
    AttemptCut: _attempt_cut,
    AttemptReleased: _attempt_released,
    StepFailed: _step_failed,
    StepSkipped: _step_skipped,
    WaitStarted: _wait_started,
    SignalReceived: _signal_received,
    WaitExpired: _wait_expired,
    BranchEnded: _branch_ended,
    SleepStarted: _sleep_started,
    SleepEnded: _sleep_ended,
    CancelRequested: _cancel_requested,
    UnwindStarted: _unwind_started,
    RunCompleted: _run_completed,
    RunFailed: _run_failed,
    RunCancelled: _run_cancelled,
    RunBlocked: _run_blocked,
    RunUnblocked: _run_unblocked,
    CancelRefused: _cancel_refused,
    AttemptIsolated: _attempt_isolated,
    AttemptPostponed: _attempt_postponed,
    StepProbed: _step_probed,
    StepResolved: _step_resolved,
    Reopened: _reopened,
    RunForked: _run_forked,
    StepInherited: _step_inherited,
    RunMigrated: _run_migrated,
    ParallelStarted: _parallel_started,
    RouteTaken: _route_taken,
    TurnStarted: _turn_started,
    ItemsListed: _items_listed,
    ArmEnded: _arm_ended,
    ArmsStopped: _arms_stopped,
    ArmsJoined: _arms_joined,
    ChildStarted: _child_started,
    ChildTold: _child_told,
    ChildEnded: _child_ended,
    UndoDemanded: _undo_demanded,
}

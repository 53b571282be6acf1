"""The state of a run, and `evolve`: the state after one more fact.

State is the fold of the journal and nothing else (I8), save for the inbox, which is the storage's (D17). It is
updated in place by its one owner. While a decision is being prepared, every change also leaves its inverse in
`state.log`, so that a decision the storage refuses can be taken back at the cost of the decision, not of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from ..errors import DefinitionChanged, UnreadableRun
from .commands import Changes, Posting
from .failure import Failure
from .plan import UNDO, Node, Plan, Sequence
from .records import (
    AttemptCut,
    AttemptFailed,
    AttemptLost,
    AttemptReleased,
    BranchEnded,
    CancelRequested,
    Record,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunUnblocked,
    SignalReceived,
    SleepEnded,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepSuspended,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from .status import RunStatus, StepStatus
from .workflow import Kind

_ABSENT: Any = object()
_RAN: Any = object()  # in the log: the step was running before
_STEPPED: Any = object()  # in the log: one step completed and the next was started, in one go


class StepState:
    """One execution of one step: a line of the history."""

    # Defaults stand on the class: most steps never change most of them, and making a StepState is on every step's way.
    status = StepStatus.PENDING
    attempt = 0  # attempts started
    raised = 0  # attempts that raised or timed out: what `retries` counts
    lost = 0  # attempts lost to crashes in a row: what `crash_limit` counts
    doubt = False  # an effect may have happened whose outcome is not recorded (D8)
    result: str | None = None
    failure: Failure | None = None
    signal: str | None = None  # awaited now, or was
    default: str | None = None
    due_at: int | None = None  # of a retry, a sleep or a wait's timeout
    started_at: int | None = None
    ended_at: int | None = None

    def __init__(self, path: str, node: Node) -> None:
        self.path = path
        self.node = node

    def saved(self) -> tuple[Any, ...]:
        """What changes, for `RunState.rollback`."""
        return (
            self.status, self.attempt, self.raised, self.lost, self.doubt, self.result, self.failure,
            self.signal, self.default, self.due_at, self.started_at, self.ended_at,
        )  # fmt: skip

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Back to what `saved` said."""
        (
            self.status, self.attempt, self.raised, self.lost, self.doubt, self.result, self.failure,
            self.signal, self.default, self.due_at, self.started_at, self.ended_at,
        ) = saved  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepState) and self.path == other.path and self.saved() == other.saved()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<StepState {self.path} {self.status.value}>"


class Frame:
    """A sequence of steps being worked through: the workflow's own (prefix ''), or a branch inside a step."""

    __slots__ = ("cursor", "owner", "prefix", "steps")

    def __init__(self, prefix: str, owner: str, steps: Sequence) -> None:
        self.prefix = prefix
        self.owner = owner
        self.steps = steps
        self.cursor = 0  # index of the step that the frame stands at

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and (self.prefix, self.owner, self.cursor) == (
            other.prefix, other.owner, other.cursor,
        )  # fmt: skip

    __hash__ = None  # type: ignore[assignment]


class RunState:
    """Everything the journal says about a run. The frontier (`calls`, `parked`, `due`) is kept, never searched for."""

    # Defaults stand on the class, as for StepState.
    workflow = ""
    version = ""
    shape = ""
    input = ""
    cancel: CancelRequested | None = None
    failing: str | None = None  # the top-level step whose failure ends the run
    unwinding: UnwindStarted | None = None
    undo: tuple[str, ...] = ()  # steps to compensate, in order
    undo_at = 0
    blocked: RunBlocked | None = None
    ended: RunStatus | None = None
    deadline_at: int | None = None
    created_at = 0
    updated_at = 0
    ended_at: int | None = None
    position = 0  # commits folded
    inbox_seq = 0  # the newest posting seen

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.data: dict[str, str] = {}
        self.steps: dict[str, StepState] = {}  # every path reached, in the order of being reached
        self.frames: dict[str, Frame] = {}  # by prefix
        self.due: dict[str, Frame] = {}  # frames whose next step can be started
        self.calls: dict[str, StepState] = {}  # attempts that may be running
        self.parked: dict[str, StepState] = {}  # waits, sleeps and retry delays
        self.waits: dict[str, tuple[str, ...]] = {}  # signal name -> paths, earliest first (D24)
        self.inbox: dict[str, tuple[Posting, ...]] = {}  # the storage's part: signals accepted and not yet taken
        self.log: list[tuple[Any, Any, Any]] = []  # how to take back what is being decided

    # --- what is asked of it

    @property
    def status(self) -> RunStatus:
        """Where the run stands (S2.1, D17)."""
        if self.ended is not None:
            return self.ended
        if self.blocked is not None:
            return RunStatus.BLOCKED
        if self.unwinding is not None:
            return RunStatus.COMPENSATING
        if self.calls or (self.due and self.steps):
            return RunStatus.RUNNING
        return RunStatus.SUSPENDED if self.parked else RunStatus.PENDING

    @property
    def wake_at(self) -> int | None:
        """When there is next something to do without a posting: 0 for at once, None for never."""
        if self.ended is not None or self.blocked is not None:
            return None
        if self.calls or self.due:
            return 0
        times = [st.due_at for st in self.parked.values() if st.due_at is not None]
        if self.unwinding is None:
            if self.deadline_at is not None:
                times.append(self.deadline_at)
        elif not times:
            return 0
        return min(times, default=None)

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Names of the signals that the run awaits now."""
        return tuple(self.waits)

    def head(self) -> tuple[RunStatus, int | None, tuple[str, ...], str]:
        """Status, wake-up time, awaited signals and reason of being blocked: what the storage's header shows."""
        if self.calls and not self.waits and self.unwinding is None and self.blocked is None:
            return RunStatus.RUNNING, 0, (), ""
        blocked = self.blocked
        # A message of the user's may hold what no storage takes: NUL, and halves of surrogate pairs.
        text = "" if blocked is None else f"{blocked.reason}: {blocked.message}".replace("\0", "\\0")
        return self.status, self.wake_at, self.waiting_for, text.encode("utf-8", "backslashreplace").decode()

    # --- changing it, so that it can be taken back

    def put(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        """`mapping[key] = value`, undoable."""
        self.log.append((mapping, key, mapping.get(key, _ABSENT)))
        mapping[key] = value

    def drop(self, mapping: dict[Any, Any], key: Any) -> None:
        """`mapping.pop(key, None)`, undoable."""
        old = mapping.pop(key, _ABSENT)
        if old is not _ABSENT:
            self.log.append((mapping, key, old))

    def assign(self, target: Any, name: str, value: Any) -> None:
        """`target.name = value`, undoable."""
        self.log.append((target, name, getattr(target, name)))
        setattr(target, name, value)

    def settle(self) -> None:
        """What was decided is committed: forget how to take it back."""
        self.log.clear()

    def rollback(self) -> None:
        """Take back everything since the last `settle`."""
        log = self.log
        while log:
            target, key, old = log.pop()
            if type(target) is dict:
                if old is _ABSENT:
                    del target[key]
                elif key in target:
                    target[key] = old
                else:
                    _reinsert(target, key, old)
            elif key is None:
                target.restore(old)
            elif key is _STEPPED:
                self._step_back(*old)
            elif key is _RAN:
                target.status = StepStatus.RUNNING
                target.result = target.ended_at = None
                target.failure, target.lost = old
            else:
                setattr(target, key, old)

    def step_on(self, st: StepState, frame: Frame, following: Node | None, result: str, changes: Changes | None, at: int) -> None:
        """The same as `evolve` with this step's StepCompleted and the following one's StepStarted (or, without one, RunCompleted), in a
        top-level sequence: what most commits say, without the ceremony. The laws in the tests hold it against `evolve`."""
        self.log.append((self, _STEPPED, (st, frame, st.failure, st.lost, following)))
        if changes:
            _change(self, changes)
        st.status = StepStatus.COMPLETED
        st.result = result
        st.failure = None
        st.lost = 0
        st.ended_at = at
        calls = self.calls
        del calls[st.path]
        frame.cursor = st.node.index + 1
        if following is None:
            self.ended = RunStatus.COMPLETED
            self.ended_at = at
            return
        name = following.name
        started = self.steps[name] = StepState(name, following)
        started.status = StepStatus.RUNNING
        started.attempt = 1
        started.started_at = at
        calls[name] = started

    def _step_back(self, st: StepState, frame: Frame, failure: Failure | None, lost: int, following: Node | None) -> None:
        if following is None:
            self.ended = self.ended_at = None
        else:
            del self.calls[following.name]
            del self.steps[following.name]
        frame.cursor = st.node.index
        st.status = StepStatus.RUNNING
        st.result = st.ended_at = None
        st.failure, st.lost = failure, lost
        self.calls[st.path] = st

    def apply_row(self, at: int, records: Iterable[Record]) -> None:
        """Fold one committed journal row."""
        for record in records:
            evolve(self, record, at)
        self.position += 1
        self.log.clear()

    def facts(self) -> tuple[Any, ...]:
        """Everything that the journal determines, comparable: two folds of one journal have equal facts (I8)."""
        return (
            self.status, self.workflow, self.version, self.shape, self.input, self.data, self.steps, self.frames,
            sorted(self.due), sorted(self.calls), sorted(self.parked), self.waits, self.cancel, self.failing,
            self.unwinding, self.undo, self.undo_at, self.blocked, self.ended, self.deadline_at, self.wake_at,
            self.created_at, self.updated_at, self.ended_at,
        )  # fmt: skip


def _reinsert(target: dict[Any, Any], key: Any, old: Any) -> None:
    # A dropped key goes back to the end; the frontier's dicts are small and their order is not a promise.
    target[key] = old


def fold(plan: Plan, rows: Iterable[tuple[int, Iterable[Record]]]) -> RunState:
    """The state after these journal rows, each `(at, records)`.

    Raises DefinitionChanged where they do not fit the plan (S13.2), and UnreadableRun, without a run id, where a record
    makes no sense after those before it: a row is missing, or is not what was written (S15.2).
    """
    state = RunState(plan)
    for at, records in rows:
        try:
            state.apply_row(at, records)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise UnreadableRun(
                f"row {state.position + 1} of the journal does not follow from those before it: {type(error).__name__}: {error}"
            ) from error
    return state


def evolve(state: RunState, record: Record, at: int) -> None:
    """The state after this fact, which was recorded at `at`."""
    EVOLVE[type(record)](state, record, at)
    state.updated_at = at


# --- helpers


def misfit(path: str, why: str) -> DefinitionChanged:
    """The journal has something that the code does not."""
    return DefinitionChanged(f"step {path!r} of the journal {why}", (path,))


def undo_path(path: str) -> str:
    """The path of the compensation of the step at `path`."""
    return path + UNDO


def _reach(state: RunState, path: str, at: int, *, called: bool | None = None, kind: Kind | None = None) -> StepState:
    """The step's state, made when its path is new; checks that the code has this step here and of this kind."""
    st = state.steps.get(path)
    if st is not None:
        state.log.append((st, None, st.saved()))
        return st
    node = _node_for(state, path)
    if (called is not None and node.called is not called) or (kind is not None and node.kind is not kind):
        raise misfit(path, f"has changed its kind to {node.kind.value!r}")
    st = state.steps[path] = StepState(path, node)
    st.started_at = at
    state.log.append((state.steps, path, _ABSENT))
    return st


def _node_for(state: RunState, path: str) -> Node:
    if "/" not in path:
        root = state.frames[""]
        nodes = root.steps.nodes
        if root.cursor < len(nodes) and nodes[root.cursor].name == path:
            return nodes[root.cursor]
    if path.endswith(UNDO):
        undo = state.steps[path[: -len(UNDO)]].node.undo
        if undo is None:
            raise misfit(path, "has no compensation any more")
        return undo
    prefix, _, name = path.rpartition("/")
    frame = state.frames.get(prefix)
    node = None if frame is None else frame.steps.by_name.get(name)
    if frame is None or node is None:
        raise misfit(path, "is not in the workflow any more")
    if node.index != frame.cursor:
        expected = frame.steps.nodes[frame.cursor].name if frame.cursor < len(frame.steps.nodes) else "the end"
        raise misfit(path, f"stands where the workflow now has {expected!r}")
    return node


def _known(state: RunState, path: str) -> StepState:
    st = state.steps[path]
    state.log.append((st, None, st.saved()))
    return st


def _running(state: RunState, path: str) -> StepState:
    """The step of an attempt that now has an outcome."""
    st = _known(state, path)
    state.drop(state.calls, path)
    return st


def _unpark(state: RunState, st: StepState) -> None:
    if state.parked.pop(st.path, None) is not None:
        state.log.append((state.parked, st.path, st))
    if st.signal is not None and st.signal in state.waits:
        left = tuple(path for path in state.waits[st.signal] if path != st.path)
        if left:
            state.put(state.waits, st.signal, left)
        else:
            state.drop(state.waits, st.signal)


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
    _move_on(state, st)


def _move_on(state: RunState, st: StepState) -> None:
    """The step has ended: its frame stands at the next."""
    path = st.path
    prefix = path.rpartition("/")[0] if "/" in path else ""
    frame = state.frames[prefix]
    state.log.append((frame, "cursor", frame.cursor))
    frame.cursor = st.node.index + 1
    state.log.append((state.due, prefix, state.due.get(prefix, _ABSENT)))
    state.due[prefix] = frame


def _change(state: RunState, changes: Changes | None) -> None:
    if changes:
        for key, value in changes.items():
            if value is None:
                state.drop(state.data, key)
            else:
                state.put(state.data, key, value)


# --- one small function a record


def _run_created(state: RunState, record: RunCreated, at: int) -> None:
    state.workflow = record.workflow
    state.version = record.version
    state.shape = record.shape
    state.input = record.input
    state.deadline_at = record.deadline_at
    state.created_at = at
    _change(state, record.data)
    root = Frame("", "", state.plan.root)
    state.frames[""] = root
    state.due[""] = root


def _step_started(state: RunState, record: StepStarted, at: int) -> None:
    path = record.path
    st = _reach(state, path, at, called=True)
    if st.started_at is None:
        st.started_at = at
    st.status = StepStatus.RUNNING
    st.attempt = record.attempt
    st.due_at = None
    if state.parked:
        state.drop(state.parked, path)
    if st.node.undoes is not None:
        _show_undo(state, path, StepStatus.COMPENSATING)
    elif state.due:
        state.drop(state.due, path.rpartition("/")[0] if "/" in path else "")
    state.calls[path] = st
    state.log.append((state.calls, path, _ABSENT))


def _show_undo(state: RunState, path: str, status: StepStatus) -> None:
    """The history line of the step tells how its compensation stands (S10.6)."""
    _known(state, path[: -len(UNDO)]).status = status


def _step_completed(state: RunState, record: StepCompleted, at: int) -> None:
    path = record.path
    st = state.calls.pop(path)
    log = state.log
    log.append((state.calls, path, st))
    log.append((st, _RAN, (st.failure, st.lost)))
    st.status = StepStatus.COMPLETED
    st.result = record.result
    st.failure = None
    st.lost = 0
    st.ended_at = at
    if record.changes:
        _change(state, record.changes)
    if st.node.undoes is None:
        _move_on(state, st)
        return
    _show_undo(state, path, StepStatus.COMPENSATED)
    state.steps[path[: -len(UNDO)]].doubt = False
    state.assign(state, "undo_at", state.undo_at + 1)


def _step_suspended(state: RunState, record: StepSuspended, at: int) -> None:
    st = _running(state, record.path)
    st.default = record.default
    st.failure = None
    _change(state, record.changes)
    _await(state, st, record.signal, record.expires_at)


def _park_attempt(state: RunState, st: StepState, retry_at: int | None, at: int) -> None:
    if retry_at is None:
        st.status = StepStatus.CANCELLED
        st.ended_at = at
    else:
        st.status = StepStatus.SUSPENDED
        st.due_at = retry_at
        state.put(state.parked, st.path, st)


def _attempt_failed(state: RunState, record: AttemptFailed, at: int) -> None:
    st = _running(state, record.path)
    st.raised += 1
    st.lost = 0
    st.failure = record.failure
    st.doubt = st.doubt or record.doubt
    _park_attempt(state, st, record.retry_at, at)


def _attempt_lost(state: RunState, record: AttemptLost, at: int) -> None:
    st = _running(state, record.path)
    st.lost += 1
    st.doubt = True
    _park_attempt(state, st, record.retry_at, at)


def _attempt_cut(state: RunState, record: AttemptCut, at: int) -> None:
    st = _running(state, record.path)
    st.doubt = True
    _park_attempt(state, st, record.retry_at, at)


def _attempt_released(state: RunState, record: AttemptReleased, at: int) -> None:
    st = _running(state, record.path)
    st.attempt -= 1
    if st.attempt == 0:
        st.started_at = None
    st.status = StepStatus.PENDING
    st.due_at = at
    state.put(state.parked, st.path, st)


def _step_failed(state: RunState, record: StepFailed, at: int) -> None:
    path = record.path
    st = _reach(state, path, at)
    state.drop(state.calls, path)
    _unpark(state, st)
    if record.attempt:
        st.raised += 1
    st.failure = record.failure
    st.doubt = st.doubt or record.doubt
    st.status = StepStatus.FAILED
    st.ended_at = at
    st.due_at = None
    if st.node.undoes is not None:
        _show_undo(state, path, StepStatus.COMPLETED)
        base = state.steps[path[: -len(UNDO)]]
        if base.result is None:
            base.status = StepStatus.FAILED if base.failure is not None else StepStatus.CANCELLED
        state.assign(state, "undo_at", state.undo_at + 1)
        return
    state.drop(state.due, path.rpartition("/")[0])
    if "/" not in path:
        state.assign(state, "failing", path)


def _step_skipped(state: RunState, record: StepSkipped, at: int) -> None:
    _end(state, _reach(state, record.path, at), StepStatus.SKIPPED, at)


def _wait_started(state: RunState, record: WaitStarted, at: int) -> None:
    st = _reach(state, record.path, at, kind=Kind.WAIT)
    state.drop(state.due, record.path.rpartition("/")[0])
    _await(state, st, record.signal, record.expires_at)


def _signal_received(state: RunState, record: SignalReceived, at: int) -> None:
    st = _known(state, record.path)
    _unpark(state, st)
    st.result = record.payload
    _end(state, st, StepStatus.COMPLETED, at)


def _wait_expired(state: RunState, record: WaitExpired, at: int) -> None:
    st = _known(state, record.path)
    _unpark(state, st)
    if record.result is not None:
        st.result = record.result
        _end(state, st, StepStatus.COMPLETED, at)
        return
    body = st.node.bodies.get("on_timeout")
    if body is None:
        raise misfit(record.path, "has no on_timeout branch any more")
    st.status = StepStatus.RUNNING
    st.due_at = None
    frame = Frame(record.path if body.single else f"{record.path}/on_timeout", record.path, body)
    state.put(state.frames, frame.prefix, frame)
    state.put(state.due, frame.prefix, frame)


def _branch_ended(state: RunState, record: BranchEnded, at: int) -> None:
    st = _known(state, record.path)
    for prefix in (record.path, f"{record.path}/on_timeout"):
        state.drop(state.frames, prefix)
        state.drop(state.due, prefix)
    _end(state, st, StepStatus.COMPLETED, at)


def _sleep_started(state: RunState, record: SleepStarted, at: int) -> None:
    st = _reach(state, record.path, at, kind=Kind.SLEEP)
    state.drop(state.due, record.path.rpartition("/")[0])
    st.status = StepStatus.SUSPENDED
    st.due_at = record.until
    state.put(state.parked, record.path, st)


def _sleep_ended(state: RunState, record: SleepEnded, at: int) -> None:
    st = _known(state, record.path)
    _unpark(state, st)
    _end(state, st, StepStatus.COMPLETED, at)


def _cancel_requested(state: RunState, record: CancelRequested, at: int) -> None:
    state.assign(state, "cancel", record)


def _unwind_started(state: RunState, record: UnwindStarted, at: int) -> None:
    for st in list(state.parked.values()):
        state.log.append((st, None, st.saved()))
        _unpark(state, st)
        st.status = StepStatus.CANCELLED
        st.due_at = None
        st.ended_at = at
    for frame in state.frames.values():
        if frame.owner and state.steps[frame.owner].status is StepStatus.RUNNING:
            owner = _known(state, frame.owner)
            owner.status = StepStatus.CANCELLED
            owner.ended_at = at
    for prefix in list(state.due):
        state.drop(state.due, prefix)
    state.assign(state, "blocked", None)
    state.assign(state, "unwinding", record)
    if record.compensate:
        state.assign(state, "undo", tuple(path for path, st in reversed(state.steps.items()) if needs_undo(st)))


def needs_undo(st: StepState) -> bool:
    """Whether this step belongs to the set of S10.4."""
    if st.node.undo is None or st.status is StepStatus.SKIPPED:
        return False
    if st.result is not None or st.signal is not None:
        return True  # completed, or its handler returned `wait` (its effect has happened)
    if st.node.compensate_when == "started":
        return st.attempt > 0
    return st.doubt and (st.node.compensate_when == "in_doubt" or st.node.on_unknown == "compensate")


def _run_completed(state: RunState, record: RunCompleted, at: int) -> None:
    _finish(state, RunStatus.COMPLETED, at)


def _run_failed(state: RunState, record: RunFailed, at: int) -> None:
    _finish(state, RunStatus.FAILED, at)


def _run_cancelled(state: RunState, record: RunCancelled, at: int) -> None:
    _finish(state, RunStatus.CANCELLED, at)


def _finish(state: RunState, status: RunStatus, at: int) -> None:
    state.drop(state.due, "")
    state.log.append((state, "ended", None))
    state.log.append((state, "ended_at", None))
    state.ended = status
    state.ended_at = at


def _run_blocked(state: RunState, record: RunBlocked, at: int) -> None:
    state.assign(state, "blocked", record)


def _run_unblocked(state: RunState, record: RunUnblocked, at: int) -> None:
    if state.blocked is not None and state.blocked.path in state.steps:
        _known(state, state.blocked.path).lost = 0
    state.assign(state, "blocked", None)


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
}

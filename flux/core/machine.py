"""The pure machine: from a run's state and a command, the records that follow.

    decide(state, commands, moment) -> Decision     what follows from these requests and outcomes
    evolve(state, record, at)                       the state after one fact            (state.py)
    outstanding(state, now)                         what ought to be happening now      (actions.py)

The holder of a run turns a loop: perform what is outstanding, hand the outcome to `decide`, COMMIT the records, and only
then perform what has become outstanding. Wanted work is derived from state, so recovery after a crash is no separate
path: it is the first turn of the loop, with `Lost` as its command.

`decide` leaves the state as if its records were committed already. Call `state.settle()` once they are, or
`state.rollback()` when the storage refuses them; nothing else undoes them.

The core reads no clock and draws no random number: both come in with the `Moment` (S8.3). User code is asked only through
`Moment.ask`, and only for the quick, pure questions of S1.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .commands import Advance, Arrived, Block, Command, Cut, CutCause, Lost, Posting, Raised, Released, Returned, Suspended, Tick, Unblock
from .failure import Failure
from .plan import Node, Plan
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
    UnwindCause,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from .retry import crash_delay
from .state import EVOLVE, Frame, RunState, StepState, undo_path
from .status import TABLE
from .workflow import Kind

Question: TypeAlias = Literal["when", "until"]


@dataclass(slots=True)
class Moment:
    """What the machine may know of the world: the time, a draw, an answer, and whether new attempts may start.

    `ask(node, path, question)` evaluates the step's `when` (a bool) or a sleep's due time (microseconds), and answers
    with a Failure when that raised. `cancel(posting)` reads a cancel posting.
    """

    now: int
    draw: Callable[[], float]
    ask: Callable[[Node, str, Question], Any]
    read_cancel: Callable[[Posting], CancelRequested]
    halt: bool = False


class Decision:
    """Records to commit, and the numbers of the postings they take from the inbox; while it is being made, also what it is about."""

    __slots__ = ("consumed", "moment", "now", "records", "state")

    def __init__(self, state: RunState, moment: Moment) -> None:
        self.state = state
        self.moment = moment
        self.now = moment.now
        self.records: list[Record] = []
        self.consumed: list[int] = []

    def emit(self, record: Record) -> None:
        """One more fact: it holds from here on."""
        self.records.append(record)
        EVOLVE[type(record)](self.state, record, self.now)


def create(plan: Plan, created: RunCreated, moment: Moment) -> tuple[RunState, Decision]:
    """A new run. With `moment.halt` nothing starts yet: somebody will claim it."""
    state = RunState(plan)
    draft = Decision(state, moment)
    draft.emit(created)
    _settle(draft)
    state.updated_at = moment.now
    return state, draft


def decide(state: RunState, commands: tuple[Command, ...], moment: Moment) -> Decision:
    """The records that follow from these commands, in order. A command that has nothing to say in this state adds nothing."""
    draft = Decision(state, moment)
    if len(commands) == 1 and _step_on(draft, commands[0]):
        return draft
    for command in commands:
        if TABLE[state.status][type(command)]:
            _DECIDE[type(command)](draft, command)
    _settle(draft)
    if draft.records:
        state.log.append((state, "updated_at", state.updated_at))
        state.updated_at = moment.now
    return draft


def _step_on(draft: Decision, command: Command) -> bool:
    """The common case: a top-level step returned, nothing else is going on, and it was the last, or the next is a plain step
    without a condition.

    Decides exactly what the general way would; whether it applied.
    """
    state = draft.state
    if type(command) is not Returned or state.due or state.blocked or state.unwinding or state.cancel or state.failing:
        return False
    if draft.moment.halt or _overdue(draft):
        return False
    st = state.calls.get(command.path)
    if st is None or st.attempt != command.attempt or st.node.undoes is not None or "/" in command.path:
        return False
    frame = state.frames[""]
    nodes = frame.steps.nodes
    index = st.node.index + 1
    completed = StepCompleted(command.path, command.attempt, command.result, command.changes)
    following: Node | None = None
    if index < len(nodes):
        following = nodes[index]
        if not following.called or following.when is not None:
            return False
        draft.records = [completed, StepStarted(following.name, 1)]
    else:
        draft.records = [completed, RunCompleted()]
    state.log.append((state, "updated_at", state.updated_at))
    state.updated_at = draft.now
    state.step_on(st, frame, following, command.result, command.changes, draft.now)
    return True


# --- one small function a command


def _attempt(draft: Decision, path: str, attempt: int) -> StepState | None:
    """The step whose attempt this is, unless that attempt has an outcome already (I29)."""
    st = draft.state.calls.get(path)
    return st if st is not None and st.attempt == attempt else None


def _advance(draft: Decision, command: Advance) -> None:
    """Nothing of its own: `_settle` takes up what is due."""


def _returned(draft: Decision, command: Returned) -> None:
    if _attempt(draft, command.path, command.attempt) is not None:
        draft.emit(StepCompleted(command.path, command.attempt, command.result, command.changes))


def _suspended(draft: Decision, command: Suspended) -> None:
    if _attempt(draft, command.path, command.attempt) is None:
        return
    expires_at = None if command.timeout is None else draft.now + command.timeout
    draft.emit(StepSuspended(command.path, command.attempt, command.signal, expires_at, command.default, command.changes))
    _deliver_kept(draft, command.path, command.signal)


def _raised(draft: Decision, command: Raised) -> None:
    st = _attempt(draft, command.path, command.attempt)
    if st is None:
        return
    if command.retryable and _may_retry(draft, st, command.doubt):
        node = st.node
        delay = command.delay
        if delay is None:
            delay = node.retry.delay(st.raised + 1, draft.moment.draw())
        if _within_budget(draft, st, delay):
            draft.emit(AttemptFailed(command.path, command.attempt, command.failure, draft.now + delay, command.doubt))
            return
    _fail(draft, command.path, command.attempt, command.failure, command.doubt)


def _may_retry(draft: Decision, st: StepState, doubt: bool) -> bool:
    state = draft.state
    if st.raised >= st.node.retries:
        return False
    if doubt and st.node.on_unknown != "retry":
        return False
    return st.node.undoes is not None or not (state.cancel or state.failing or _overdue(draft))


def _within_budget(draft: Decision, st: StepState, delay: int) -> bool:
    budget = st.node.retry.max_elapsed
    return budget is None or st.started_at is None or draft.now + delay - st.started_at <= budget * 1_000_000


def _cut(draft: Decision, command: Cut) -> None:
    st = _attempt(draft, command.path, command.attempt)
    if st is None:
        return
    undoing = st.node.undoes is not None
    ending = not undoing and _goes_down(draft.state, command.cause)
    again = undoing or (not ending and st.node.on_unknown == "retry")
    draft.emit(AttemptCut(command.path, command.attempt, command.cause, draft.now if again else None))
    if not ending and not again:
        _fail_unknown(draft, st)


def _goes_down(state: RunState, cause: CutCause) -> bool:
    """Whether the run ends for the reason that an attempt was cut for; if not, the step must go on (S2.3)."""
    if cause == "cancelled":
        return state.cancel is not None
    return cause == "deadline" and state.deadline_at is not None


def _lost(draft: Decision, command: Lost) -> None:
    state = draft.state
    for st in list(state.calls.values()):
        stopping = st.node.undoes is None and (state.cancel is not None or _overdue(draft))
        again = st.node.undoes is not None or (st.node.on_unknown == "retry" and not stopping)
        retry_at = draft.now + crash_delay(st.lost + 1) if again else None
        draft.emit(AttemptLost(st.path, st.attempt, retry_at))
        if again and st.lost >= state.plan.crash_limit and state.blocked is None:
            text = f"{st.path!r} lost {st.lost} attempts in a row to crashes of its worker"
            draft.emit(RunBlocked("WorkerCrashed", text, st.path))
        elif not again and not stopping:
            _fail_unknown(draft, st)


def _fail_unknown(draft: Decision, st: StepState) -> None:
    text = f"an attempt of {st.path!r} was lost, whether it took effect is not known, and it is not to be called again"
    _fail(draft, st.path, 0, Failure.of("UnknownOutcome", text), doubt=True)


def _released(draft: Decision, command: Released) -> None:
    if _attempt(draft, command.path, command.attempt) is not None:
        draft.emit(AttemptReleased(command.path, command.attempt))


def _tick(draft: Decision, command: Tick) -> None:
    state = draft.state
    now = draft.now
    for st in [st for st in state.parked.values() if st.due_at is not None and st.due_at <= now]:
        if st.path in state.parked:
            _fire(draft, st)


def _fire(draft: Decision, st: StepState) -> None:
    if st.signal is not None and st.path in draft.state.waits.get(st.signal, ()):
        _expire(draft, st)
    elif st.node.kind is Kind.SLEEP:
        draft.emit(SleepEnded(st.path))
    elif not draft.moment.halt and not _stopping(draft, st):
        draft.emit(StepStarted(st.path, st.attempt + 1))


def _stopping(draft: Decision, st: StepState) -> bool:
    state = draft.state
    return st.node.undoes is None and bool(state.cancel or state.failing or _overdue(draft))


def _expire(draft: Decision, st: StepState) -> None:
    default = st.default if st.node.called else st.node.step.default_text
    if default is not None:
        draft.emit(WaitExpired(st.path, default))
    elif "on_timeout" in st.node.bodies:
        draft.emit(WaitExpired(st.path, None))
    else:
        text = f"no signal {st.signal!r} came for {st.path!r} before its timeout"
        _fail(draft, st.path, 0, Failure.of("WaitTimeout", text))


def _arrived(draft: Decision, command: Arrived) -> None:
    state = draft.state
    for posting in command.postings:
        if posting.seq <= state.inbox_seq:
            continue
        state.assign(state, "inbox_seq", posting.seq)
        if posting.kind == "cancel":
            _cancel(draft, posting)
            continue
        paths = state.waits.get(posting.name)
        if paths and state.blocked is None:
            _deliver(draft, paths[0], posting)
        else:
            state.put(state.inbox, posting.name, (*state.inbox.get(posting.name, ()), posting))
    if command.upto > state.inbox_seq:
        state.assign(state, "inbox_seq", command.upto)


def _cancel(draft: Decision, posting: Posting) -> None:
    """A second cancel is the same request, and one during compensation changes nothing (S11.2)."""
    state = draft.state
    draft.consumed.append(posting.seq)
    if state.unwinding is not None:
        return
    request = draft.moment.read_cancel(posting)
    first = state.cancel
    if first is None:
        draft.emit(request)
    elif request.interrupt and not first.interrupt:
        draft.emit(CancelRequested(posting.seq, first.reason, first.compensate, True))


def _deliver(draft: Decision, path: str, posting: Posting) -> None:
    draft.consumed.append(posting.seq)
    draft.emit(SignalReceived(path, posting.seq, posting.payload))


def _deliver_kept(draft: Decision, path: str, signal: str) -> None:
    """A signal that came before the run waited for it is kept, and taken now (S7.2)."""
    state = draft.state
    kept = state.inbox.get(signal)
    if not kept or state.blocked is not None:
        return
    first, *rest = kept
    if rest:
        state.put(state.inbox, signal, tuple(rest))
    else:
        state.drop(state.inbox, signal)
    _deliver(draft, path, first)


def _block(draft: Decision, command: Block) -> None:
    draft.emit(RunBlocked(command.reason, command.message))


def _unblock(draft: Decision, command: Unblock) -> None:
    state = draft.state
    draft.emit(RunUnblocked())
    for signal, paths in list(state.waits.items()):
        for path in paths:
            _deliver_kept(draft, path, signal)


_DECIDE: dict[type[Command], Callable[[Decision, Any], None]] = {
    Advance: _advance,
    Returned: _returned,
    Suspended: _suspended,
    Raised: _raised,
    Cut: _cut,
    Lost: _lost,
    Released: _released,
    Tick: _tick,
    Arrived: _arrived,
    Block: _block,
    Unblock: _unblock,
}


# --- what follows of itself


def _overdue(draft: Decision) -> bool:
    deadline = draft.state.deadline_at
    return deadline is not None and draft.now >= deadline


def _settle(draft: Decision) -> None:
    """Take the run as far as it goes without an answer from outside."""
    state = draft.state
    while state.ended is None and (state.blocked is None or _unparks(state)):
        if state.unwinding is not None:
            _unwind_on(draft)
            return
        if state.cancel is not None or state.failing is not None or _overdue(draft):
            if state.calls:
                return  # what is in flight is recorded first (I28)
            _unwind(draft)
        elif not state.due:
            return
        else:
            frame = next(iter(state.due.values()))
            if draft.moment.halt and frame.cursor < len(frame.steps.nodes):
                return  # nothing starts any more, but what is at its end may end
            _take_up(draft, frame)


def _unparks(state: RunState) -> bool:
    """A cancel moves a blocked run, downwards (S2.1)."""
    return state.cancel is not None and state.unwinding is None


def _take_up(draft: Decision, frame: Frame) -> None:
    """Start the next step of this frame, or end the frame."""
    if frame.cursor < len(frame.steps.nodes):
        node = frame.steps.nodes[frame.cursor]
        _reach(draft, node, f"{frame.prefix}/{node.name}" if frame.prefix else node.name)
    elif frame.owner:
        draft.emit(BranchEnded(frame.owner))
    else:
        draft.emit(RunCompleted())


def _reach(draft: Decision, node: Node, path: str) -> None:
    if node.when is not None:
        answer = draft.moment.ask(node, path, "when")
        if isinstance(answer, Failure):
            return _fail(draft, path, 0, answer)
        if not answer:
            return draft.emit(StepSkipped(path))
    if node.called:
        draft.emit(StepStarted(path, 1))
    elif node.kind is Kind.WAIT:
        _start_wait(draft, node, path)
    else:
        _start_sleep(draft, node, path)


def _start_wait(draft: Decision, node: Node, path: str) -> None:
    signal = node.step.signal or node.name
    timeout = node.step.timeout
    draft.emit(WaitStarted(path, signal, None if timeout is None else draft.now + timeout))
    _deliver_kept(draft, path, signal)


def _start_sleep(draft: Decision, node: Node, path: str) -> None:
    step = node.step
    if step.duration is not None:
        until = draft.now + step.duration
    elif step.until is not None:
        until = step.until
    else:
        answer = draft.moment.ask(node, path, "until")
        if isinstance(answer, Failure):
            return _fail(draft, path, 0, answer)
        until = answer
    draft.emit(SleepStarted(path, until))
    if until <= draft.now:
        draft.emit(SleepEnded(path))


def _fail(draft: Decision, path: str, attempt: int, failure: Failure, doubt: bool = False) -> None:
    """The step has failed for good, and with it the steps it stands in; or the compensation has (S10.3)."""
    st = draft.state.steps.get(path)
    undoing = st is not None and st.node.undoes is not None
    draft.emit(StepFailed(path, attempt, failure, doubt))
    if undoing:
        if draft.state.plan.definition.on_compensation_failure == "block":
            draft.emit(RunBlocked("CompensationFailed", f"{path!r} failed: {failure}", path))
        return
    frame = draft.state.frames.get(path.rpartition("/")[0])
    if frame is not None and frame.owner:
        _fail(draft, frame.owner, 0, failure)


def _unwind(draft: Decision) -> None:
    """Start the way down, for the first of the reasons there are (S10.1)."""
    state = draft.state
    cause: UnwindCause
    compensate = True
    if state.cancel is not None:
        cause, compensate = "cancelled", state.cancel.compensate
        failure = Failure.of("RunCancelled", state.cancel.reason or "the run was cancelled")
    elif state.failing is not None:
        failure = state.steps[state.failing].failure or Failure.of("StepError", "no error was recorded")
        cause = "failed"
    else:
        cause, failure = "deadline", Failure.of("DeadlineExceeded", "the run did not end before its deadline")
    draft.emit(UnwindStarted(cause, failure, compensate))


def _unwind_on(draft: Decision) -> None:
    """Start the next compensation, or end the run."""
    state = draft.state
    if state.calls or state.parked:
        return
    if state.undo_at < len(state.undo):
        if not draft.moment.halt:
            draft.emit(StepStarted(undo_path(state.undo[state.undo_at]), 1))
        return
    unwinding = state.unwinding
    failed = any(_undo_failed(state, path) for path in state.undo)
    cancelled = unwinding is not None and unwinding.cause == "cancelled" and not failed
    draft.emit(RunCancelled() if cancelled else RunFailed())


def _undo_failed(state: RunState, path: str) -> bool:
    undo = state.steps.get(undo_path(path))
    return undo is not None and undo.failure is not None and undo.result is None

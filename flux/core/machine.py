"""The pure machine: from a run's state and a command, the records that follow.

    decide(state, commands, moment) -> Decision     what follows from these requests and outcomes
    evolve(state, record, at)                       the state after one fact            (evolve.py)
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

from collections.abc import Callable, Sequence
from typing import Any

from .again import retry_from
from .children import begin_child, call_back, child_told, demanded, leave_children, stop_children, undo_child, undo_for_parent
from .commands import (
    Advance,
    Answered,
    Arrived,
    Block,
    Changes,
    Command,
    Continued,
    Cut,
    CutCause,
    Lost,
    Migrate,
    Posting,
    Postpone,
    Raised,
    Released,
    Reopen,
    Resolve,
    Returned,
    Suspended,
    Tick,
    Unblock,
)
from .culprits import culprit
from .decision import Decision, Moment
from .failure import Failure
from .inside import applied, at_end, ready
from .joins import branch_over, clash, conclude, fail, take_up
from .plan import PROBE, Node, Plan, base_path
from .records import (
    AttemptCut,
    AttemptFailed,
    AttemptIsolated,
    AttemptLost,
    AttemptPostponed,
    AttemptReleased,
    CancelRefused,
    CancelRequested,
    Record,
    Reopened,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunMigrated,
    RunUnblocked,
    SignalReceived,
    SleepEnded,
    SleepStarted,
    StepCompleted,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSuspended,
    UnwindCause,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from .retry import SUSPECT, crash_delay
from .state import Frame, RunState, StepState, undo_path
from .status import TABLE, RunStatus, StepStatus
from .workflow import Kind


def create(plan: Plan, created: RunCreated, moment: Moment, inherited: Sequence[Record] = ()) -> tuple[RunState, Decision]:
    """A new run; a fork has `inherited`. With `moment.halt` nothing starts yet: somebody will claim it."""
    state = RunState(plan)
    draft = Decision(state, moment)
    draft.emit(created)
    for record in inherited:
        draft.emit(record)
    _settle(draft)
    state.updated_at = moment.now
    return state, draft


def decide(state: RunState, commands: tuple[Command, ...], moment: Moment) -> Decision:
    """The records that follow from these commands, in order. A command that has nothing to say in this state adds nothing."""
    draft = Decision(state, moment)
    for command in commands:
        if TABLE[state.status][type(command)]:
            _DECIDE[type(command)](draft, command)
    _settle(draft)
    if draft.records:
        state.log.append((state, "updated_at", state.updated_at))
        state.updated_at = moment.now
    return draft


# --- one small function a command


def _attempt(draft: Decision, path: str, attempt: int) -> StepState | None:
    """The step whose attempt this is, unless that attempt has an outcome already (I29)."""
    st = draft.state.calls.get(path)
    return st if st is not None and st.attempt == attempt else None


def _advance(draft: Decision, command: Advance) -> None:
    """Nothing of its own: `_settle` takes up what is due."""


def _returned(draft: Decision, command: Returned) -> None:
    if _attempt(draft, command.path, command.attempt) is not None and not clash(draft, command.path, command.attempt, command.changes):
        draft.emit(StepCompleted(command.path, command.attempt, command.result, command.changes))


def _suspended(draft: Decision, command: Suspended) -> None:
    if _attempt(draft, command.path, command.attempt) is None or clash(draft, command.path, command.attempt, command.changes):
        return
    expires_at = None if command.timeout is None else draft.now + command.timeout
    draft.emit(StepSuspended(command.path, command.attempt, command.signal, expires_at, command.default, command.changes))
    if command.path in draft.state.parked:
        _deliver_kept(draft, command.path, command.signal)


def _continued(draft: Decision, command: Continued) -> None:
    """The run begins again, unless it is on its way down, or this is a replay (D4). Past the point of no return there is no such way for
    a deadline, nor for a cancel that compensates (D10)."""
    state = draft.state
    st = _attempt(draft, command.path, command.attempt)
    if st is None:
        return None
    if state.frames[""].steps.needs is not None:
        text = f"{command.path!r} stands in a graph, where other steps may be under way: only a step of a sequence can begin the run anew"
        return fail(draft, command.path, command.attempt, Failure.of("InvalidWorkflow", text))
    past = state.pivot is not None or st.node.step.pivot
    cancel = state.cancel
    down = (_overdue(draft) and not past) or (cancel is not None and not (past and cancel.compensate))
    if down or state.replay is not None or state.blocked is not None:
        return draft.emit(StepCompleted(command.path, command.attempt, "null", command.changes))
    if cancel is not None:
        draft.emit(CancelRefused(cancel.seq))
    plan, definition = state.plan, state.plan.definition
    deadline_at = None if definition.deadline is None else draft.now + definition.deadline
    before: Changes = dict(state.data)
    data: Changes = dict(applied([before, command.changes]))
    text = state.input if command.input is None else command.input
    draft.emit(
        RunCreated(
            definition.name, definition.version, plan.shape, text, data, deadline_at, state.parent, state.continuation + 1, command.path,
            state.created_at,
        )
    )  # fmt: skip
    draft.fresh = True


def _answered(draft: Decision, command: Answered) -> None:
    """What a probe found out: the step is done, or it is tried again, as often as its retries allow (S3.8)."""
    if _attempt(draft, command.path, command.attempt) is None:
        return
    path = base_path(command.path)
    draft.emit(StepProbed(path, command.attempt, command.result))
    st = draft.state.steps[path]
    if command.result is None and not _stopping(draft, st):
        if st.raised > st.node.retries and st.failure is not None:
            fail(draft, path, 0, st.failure)
        elif not draft.moment.halt and draft.state.blocked is None:
            _try(draft, st)


def _raised(draft: Decision, command: Raised) -> None:
    st = _attempt(draft, command.path, command.attempt)
    if st is None:
        return None
    doubt = command.doubt and not st.node.transactional
    if doubt and st.node.probe is not None and not _stopping(draft, st):
        delay = st.node.retry.delay(st.raised + 1, draft.moment.draw()) if st.raised < st.node.retries else 0
        return draft.emit(AttemptFailed(command.path, command.attempt, command.failure, draft.now + delay, True))
    if command.retryable and _may_retry(draft, st, doubt):
        node = st.node
        delay = command.delay or 0
        if command.delay is None:
            delay = node.retry.delay(st.raised + 1, draft.moment.draw())
        if _within_budget(draft, st, delay):
            draft.emit(AttemptFailed(command.path, command.attempt, command.failure, draft.now + delay, doubt))
            return None
    fail(draft, command.path, command.attempt, command.failure, doubt)


def _may_retry(draft: Decision, st: StepState, doubt: bool) -> bool:
    if st.raised >= st.node.retries:
        return False
    if doubt and st.node.on_unknown != "retry":
        return False
    return not _stopping(draft, st)


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
    """Whether the run ends for the reason that an attempt was cut for; if not, the step must go on (S2.3). While the step beyond which
    there is no return is under way beside it, that is not known: the step waits, and goes on if the run does."""
    if cause == "stopped":
        return True
    if any(st.node.step.pivot for st in state.calls.values()):
        return False
    if cause == "cancelled":
        return state.cancel is not None
    return cause == "deadline" and state.deadline_at is not None and state.pivot is None


def _lost(draft: Decision, command: Lost) -> None:
    state = draft.state
    for st in list(state.calls.values()):
        stopping = st.node.undoes is None and (
            state.cancel is not None or (_overdue(draft) and state.pivot is None) or state.is_stopped(st.path)
        )
        again = st.node.undoes is not None or (st.node.on_unknown == "retry" and not stopping)
        retry_at = draft.now + crash_delay(st.lost + 1) if again else None
        draft.emit(AttemptLost(st.path, st.attempt, retry_at))
        if again and _own_losses(st) >= state.plan.crash_limit and state.blocked is None:
            text = f"{st.path!r} lost {st.lost} attempts in a row to crashes of its worker, {st.guilty} of them while it ran alone"
            draft.emit(RunBlocked("WorkerCrashed", text, st.path))
        elif not again and not stopping:
            _fail_unknown(draft, st)


def _own_losses(st: StepState) -> int:
    """Losses that are the step's own doing: those while it ran alone, and with them the first, of which nothing is known (D11)."""
    return st.guilty + 1 if st.guilty else 0


def _fail_unknown(draft: Decision, st: StepState) -> None:
    text = f"an attempt of {st.path!r} was lost, whether it took effect is not known, and it is not to be called again"
    fail(draft, st.path, 0, Failure.of("UnknownOutcome", text), doubt=True)


def _released(draft: Decision, command: Released) -> None:
    if _attempt(draft, command.path, command.attempt) is not None:
        draft.emit(AttemptReleased(command.path, command.attempt))


def _tick(draft: Decision, command: Tick) -> None:
    state = draft.state
    now = draft.now
    if state.descending:
        return
    for st in [st for st in state.parked.values() if st.due_at is not None and st.due_at <= now]:
        if st.path in state.parked:
            _fire(draft, st)


def _fire(draft: Decision, st: StepState) -> None:
    if st.signal is not None and st.path in draft.state.waits.get(st.signal, ()):
        _expire(draft, st)
    elif st.node.kind is Kind.SLEEP:
        draft.emit(SleepEnded(st.path))
    elif not draft.moment.halt and not _stopping(draft, st):
        _try(draft, st)


def _try(draft: Decision, st: StepState) -> None:
    """The next attempt; a suspect's only where it is alone (D11), and after a doubt the probe's instead (S3.8)."""
    moment = draft.moment
    if st.lost >= SUSPECT and not moment.alone:
        return
    path, attempt = st.path, st.attempt + 1
    if st.doubt and st.node.probe is not None:
        path = st.path + PROBE
        asked = draft.state.steps.get(path)
        attempt = 1 if asked is None else asked.attempt + 1
    draft.emit(StepStarted(path, attempt))
    if st.lost and (moment.alone or moment.quiet()):
        draft.emit(AttemptIsolated(path, attempt))


def _stopping(draft: Decision, st: StepState) -> bool:
    state = draft.state
    overdue = _overdue(draft) and state.pivot is None
    return st.node.undoes is None and bool(state.cancel or state.failing or overdue or state.is_stopped(st.path))


def _expire(draft: Decision, st: StepState) -> None:
    default = st.default if st.node.called else st.node.step.default_text
    if default is not None:
        draft.emit(WaitExpired(st.path, default))
    elif "on_timeout" in st.node.bodies:
        draft.emit(WaitExpired(st.path, None))
    else:
        text = f"no signal {st.signal!r} came for {st.path!r} before its timeout"
        fail(draft, st.path, 0, Failure.of("WaitTimeout", text))


def _arrived(draft: Decision, command: Arrived) -> None:
    state = draft.state
    for posting in command.postings:
        if posting.seq <= state.inbox_seq:
            continue
        state.assign(state, "inbox_seq", posting.seq)
        if posting.kind != "signal":
            _FROM_OTHERS[posting.kind](draft, posting)
            continue
        paths = state.waits.get(posting.name)
        if paths and state.blocked is None and state.ended is None and not state.descending:
            _deliver(draft, paths[0], posting)
        else:
            state.put(state.inbox, posting.name, (*state.inbox.get(posting.name, ()), posting))
    if command.upto > state.inbox_seq:
        state.assign(state, "inbox_seq", command.upto)


def _cancel(draft: Decision, posting: Posting) -> None:
    """A second cancel is the same request, and one during compensation changes nothing (S11.2), unless that is blocked."""
    state = draft.state
    if state.ended is not None:
        return
    draft.consumed.append(posting.seq)
    request = draft.moment.read_cancel(posting)
    if state.unwinding is not None:
        if state.blocked is not None:
            _leave_undone(draft, request)
        return
    first = state.cancel
    if request.compensate and state.pivot is not None and state.replay is None:
        draft.emit(CancelRefused(posting.seq))
    elif first is None:
        draft.emit(request)
    elif request.interrupt and not first.interrupt:
        draft.emit(CancelRequested(posting.seq, first.reason, first.compensate, True))


_FROM_OTHERS = {"cancel": _cancel, "child": child_told, "unwind": demanded}


def _leave_undone(draft: Decision, request: CancelRequested) -> None:
    """A cancel of a run that is blocked in its compensation: leave out what failed, and with `compensate=False` all the rest."""
    state = draft.state
    unwinding, blocked = state.unwinding, state.blocked
    draft.emit(request)
    if blocked is not None and blocked.path in state.steps:
        draft.emit(StepResolved(blocked.path, "skip", None, "", request.reason or "cancelled"))
    else:
        draft.emit(RunUnblocked())
    if unwinding is not None and not request.compensate:
        draft.emit(UnwindStarted(unwinding.cause, unwinding.failure, False))


def _deliver(draft: Decision, path: str, posting: Posting) -> None:
    draft.consumed.append(posting.seq)
    draft.emit(SignalReceived(path, posting.seq, posting.payload))


def _deliver_kept(draft: Decision, path: str, signal: str) -> None:
    """A signal that came before the run waited for it is kept, and taken now (S7.2)."""
    state = draft.state
    kept = state.inbox.get(signal)
    if not kept or state.blocked is not None or state.descending:
        return
    first, *rest = kept
    if rest:
        state.put(state.inbox, signal, tuple(rest))
    else:
        state.drop(state.inbox, signal)
    _deliver(draft, path, first)


def _block(draft: Decision, command: Block) -> None:
    draft.emit(RunBlocked(command.reason, command.message, command.path))


def _unblock(draft: Decision, command: Unblock) -> None:
    """Go on where it was parked; not where somebody has to decide what is to become of a step."""
    blocked = draft.state.blocked
    if blocked is not None and blocked.reason not in UNDECIDED:
        draft.emit(RunUnblocked())
        _deliver_all(draft)


def _postpone(draft: Decision, command: Postpone) -> None:
    if command.path in draft.state.parked:
        draft.emit(AttemptPostponed(command.path, draft.now + command.delay))


def _resolve(draft: Decision, command: Resolve) -> None:
    draft.emit(StepResolved(command.path, command.way, command.result, command.by, command.reason))
    _deliver_all(draft)


def _reopen(draft: Decision, command: Reopen) -> None:
    """Refused, by an exception, where it cannot be: see `again.py`."""
    state = draft.state
    deadline = state.plan.definition.deadline
    path, deadline_at = "", None
    if command.cause == "retry":
        path = retry_from(state, command.from_path or None)
        deadline_at = None if deadline is None else draft.now + deadline
    draft.emit(Reopened(state.generation + 1, command.cause, path, command.by, command.reason, deadline_at))


def _migrate(draft: Decision, command: Migrate) -> None:
    plan = draft.state.plan
    port = plan.ports.get(draft.state.version)
    draft.emit(RunMigrated(plan.definition.version, plan.shape, dict(port.rename) or None if port is not None else None))
    leave_children(draft)


def _deliver_all(draft: Decision) -> None:
    """Signals that came while the run was blocked reach the waits that were there."""
    state = draft.state
    for signal, paths in list(state.waits.items()):
        for path in paths:
            _deliver_kept(draft, path, signal)


_DECIDE: dict[type[Command], Callable[[Decision, Any], None]] = {
    Advance: _advance,
    Returned: _returned,
    Suspended: _suspended,
    Continued: _continued,
    Raised: _raised,
    Cut: _cut,
    Lost: _lost,
    Released: _released,
    Tick: _tick,
    Arrived: _arrived,
    Block: _block,
    Unblock: _unblock,
    Answered: _answered,
    Postpone: _postpone,
    Resolve: _resolve,
    Reopen: _reopen,
    Migrate: _migrate,
}


# --- what follows of itself

UNDECIDED = frozenset({"CompensationFailed", "PastPivot", "ReplayFailed"})  # blocked until a person says what is to become of a step


def _overdue(draft: Decision) -> bool:
    deadline = draft.state.deadline_at
    return deadline is not None and draft.now >= deadline


def _settle(draft: Decision) -> None:
    """Take the run as far as it goes without an answer from outside."""
    _go_far(draft)
    if draft.state.demand and undo_for_parent(draft):
        _go_far(draft)


def _go_far(draft: Decision) -> None:
    state = draft.state
    while state.ended is None and (state.blocked is None or _unparks(state)):
        if state.stopping:
            _stop(draft)
        if state.replay is not None:
            return _replay_on(draft)
        if state.unwinding is not None:
            return _unwind_on(draft)
        if state.cancel is not None or state.failing is not None or _overdue(draft):
            if not _go_down(draft):
                return None
        elif not state.due:
            return None
        else:
            frame = next(iter(state.due.values()))
            if draft.moment.halt and ready(state, frame) is not None:
                return None  # nothing starts any more, but what is at its end may end
            if not _take_up(draft, frame):
                return None


def _stop(draft: Decision) -> None:
    """Tell the children in branches that nobody waits for, and end the steps in whose branches nothing goes on any more; one that ends
    may make another stop."""
    state = draft.state
    seen: list[str] = []
    while seen != list(state.stopping):
        seen = list(state.stopping)
        for top, st in list(state.stopping.items()):
            if state.children:
                stop_children(draft, top)
            conclude(draft, st)


def _unparks(state: RunState) -> bool:
    """A cancel moves a blocked run, downwards (S2.1)."""
    return state.cancel is not None and state.unwinding is None


def _go_down(draft: Decision) -> bool:
    """The run cannot go on: unwind it; past its point of no return, that is for a person to say (S9.4). False: something of it has to
    end first: what is in flight, and is recorded first (I28), and its children."""
    state = draft.state
    if state.calls:
        return False
    if state.pivot is None or (state.cancel is not None and not state.cancel.compensate):
        if state.children and call_back(draft):
            return False
        _unwind(draft)
    elif state.cancel is not None:
        draft.emit(CancelRefused(state.cancel.seq))
    elif state.failing is None and _at_end(state):
        if call_back(draft):
            return False
        draft.emit(RunCompleted())
    else:
        _block_past_pivot(draft)
    return True


def _at_end(state: RunState) -> bool:
    root = state.frames[""]
    return at_end(state, root)


def _block_past_pivot(draft: Decision) -> None:
    """Past the point of no return nothing is undone: a person decides (S9.4, D10)."""
    state = draft.state
    if state.failing is None:
        text = f"the deadline passed after the point of no return {state.pivot!r}"
        draft.emit(RunBlocked("DeadlineExceeded", text))
        return
    failed = culprit(state, state.decided) or state.steps[state.failing]
    behind = f"after the point of no return {state.pivot!r}"
    text = f"{failed.path!r} failed {behind}: {failed.failure}"
    if failed.failure is None:
        text = f"{failed.path!r} was stopped while it ran, {behind}: whether it was done is not known"
    draft.emit(RunBlocked("PastPivot", text, failed.path))


def _replay_on(draft: Decision) -> None:
    """The next commit step of a replay; after the last, or when it was cancelled, the run is what it was (D4)."""
    state = draft.state
    if state.calls:
        return None
    paths = state.replay or ()
    if state.cancel is not None or state.replay_at == len(paths):
        return draft.emit(_ENDINGS[state.before[0]]())
    path = paths[state.replay_at]
    if not state.parked and not draft.moment.halt:
        draft.emit(StepStarted(path, state.steps[path].attempt + 1))


_ENDINGS: dict[RunStatus, Callable[[], Record]] = {
    RunStatus.COMPLETED: RunCompleted,
    RunStatus.FAILED: RunFailed,
    RunStatus.CANCELLED: RunCancelled,
}


def _take_up(draft: Decision, frame: Frame) -> bool:
    """Start the next step of this frame, or end the frame. False: the run is at its end, but for children of steps that are gone."""
    node = ready(draft.state, frame)
    if node is not None:
        _reach(draft, node, frame.path_of(node))
    elif frame.owner:
        branch_over(draft, frame)
    elif draft.state.children and call_back(draft):
        return False
    else:
        draft.emit(RunCompleted())
    return True


def _reach(draft: Decision, node: Node, path: str) -> None:
    if node.when is not None:
        answer = draft.moment.ask(node, path, "when")
        if isinstance(answer, Failure):
            return fail(draft, path, 0, answer)
        if not answer:
            return draft.emit(StepSkipped(path))
    if node.called:
        owed = draft.state.owed.get(path)
        asked = owed is not None and owed.doubt and node.probe is not None
        draft.emit(StepStarted(path + PROBE if asked else path, 1))
    elif node.kind is Kind.WAIT:
        _start_wait(draft, node, path)
    elif node.bodies:
        take_up(draft, node, path)
    elif node.kind is Kind.CHILD:
        begin_child(draft, node, path)
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
            return fail(draft, path, 0, answer)
        until = answer
    draft.emit(SleepStarted(path, until))
    if until <= draft.now:
        draft.emit(SleepEnded(path))


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
    if state.calls or state.parked or state.children:
        return
    if state.undo_at < len(state.undo):
        path = undo_path(state.undo[state.undo_at])
        if state.steps[base_path(path)].node.kind is Kind.CHILD:
            undo_child(draft, path)
        elif not draft.moment.halt:
            draft.emit(StepStarted(path, 1))
        return
    unwinding = state.unwinding
    failed = state.unclean or any(_undo_failed(state, path) for path in state.undo)
    cancelled = unwinding is not None and unwinding.cause == "cancelled" and not failed
    draft.emit(RunCancelled() if cancelled else RunFailed())


def _undo_failed(state: RunState, path: str) -> bool:
    undo = state.steps.get(undo_path(path))
    return undo is not None and undo.status is StepStatus.FAILED

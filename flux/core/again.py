"""Doing a step again: retry, replay, fork, and moving on what is blocked (D1 to D5).

The upper half is asked before anything is written, and refuses what cannot be; the lower half is what the records do to the state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..errors import InvalidArgument, PastPivot
from .commands import Changes
from .failure import Failure
from .places import END, Place, place, trail
from .plan import PROBE, UNDO, Plan, Sequence, base_path
from .records import Record, Reopened, RunBlocked, StepInherited, StepResolved
from .state import Frame, RunState, StepState, needs_undo
from .status import StepStatus
from .workflow import Kind

DONE = frozenset({StepStatus.COMPLETED, StepStatus.SKIPPED})
OPEN = frozenset({StepStatus.PENDING, StepStatus.RUNNING, StepStatus.SUSPENDED})


# --- what can be asked for


def first_undone(state: RunState) -> str:
    """The path of the first step that is not done, '' when all are. A compensated step is not done (D3)."""
    return _first_of(state, "", state.plan.root) or ""


def _first_of(state: RunState, prefix: str, steps: Sequence) -> str | None:
    """Of this sequence; of a step whose branch was entered, the first in there: the rest of it stands."""
    for node in steps.nodes:
        path = f"{prefix}/{node.name}" if prefix else node.name
        inside = [(path if body.single else f"{path}/{name}", body) for name, body in node.bodies.items()]
        for way, body in inside:
            found = _first_of(state, way, body) if _entered(state, way, body) else None
            if found is not None:
                return found
        st = state.steps.get(path)
        if st is None or st.status not in DONE:
            return path
    return None


def _entered(state: RunState, prefix: str, body: Sequence) -> bool:
    """Whether the run went into this branch, in this generation: what an earlier one left there has no times."""
    for node in body.nodes:
        st = state.steps.get(f"{prefix}/{node.name}")
        if st is not None and (st.started_at is not None or st.ended_at is not None or st.status in OPEN):
            return True
    return False


def retry_from(state: RunState, from_step: str | None) -> str:
    """The path that a retry goes on from. Raises InvalidArgument, PastPivot, DefinitionChanged."""
    first = first_undone(state)
    if from_step is None:
        return first
    here = _place_of(state.plan, from_step)
    if first and here > place(state.plan, first):
        raise InvalidArgument(f"from_step {from_step!r} would skip {first!r}, which is not done: name that or an earlier one")
    if not all(_entered(state, level.prefix, level.steps) for level in trail(state.plan, from_step) if level.owner):
        raise InvalidArgument(f"from_step {from_step!r} is in a branch that the run did not take")
    if state.pivot is not None and here <= place(state.plan, state.pivot):
        raise PastPivot(f"{from_step!r} stands before the point of no return {state.pivot!r}, which has completed: fork the run instead")
    return from_step


def _place_of(plan: Plan, path: str) -> Place:
    try:
        return place(plan, path if "!" not in path else "")  # what is called on a step's behalf is no step
    except Exception:
        names = ", ".join(node.name for node in plan.root.nodes)
        raise InvalidArgument(f"workflow {plan.definition.name!r} has no step {path!r}; its steps are {names}") from None


def inherited(state: RunState, plan: Plan, from_step: str | None) -> list[Record]:
    """What a fork of this run takes over: the steps before `from_step`, all of which must be done. Raises InvalidArgument,
    DefinitionChanged when the fork's workflow does not have them."""
    if from_step is None:
        return []
    here = _place_of(plan, from_step)
    if len(here) != 1:
        raise InvalidArgument(f"a fork begins at a step of the top level, {from_step!r} is inside one")
    taken: list[Record] = []
    for node in [node for node in plan.root.nodes if (node.index,) < here]:
        st = state.steps.get(node.name)
        if st is None or st.status not in DONE:
            raise InvalidArgument(f"a fork from {from_step!r} would skip {node.name!r}, which is not done in the original")
        taken += [_inherited(one) for one in _within(state, node.name)]
    return taken


def _within(state: RunState, path: str) -> list[StepState]:
    """The step at this path and those inside it, in the order of being reached."""
    return [st for one, st in state.steps.items() if (one == path or one.startswith(f"{path}/")) and not st.node.aside]


def _inherited(st: StepState) -> Record:
    skipped = st.status is StepStatus.SKIPPED
    return StepInherited(st.path, skipped, st.attempt, st.signal, st.result, st.changes, st.started_at, st.ended_at)


# --- what the records do


def reopen(state: RunState, record: Reopened) -> None:
    """An ended or blocked run goes on, or runs its commit steps again."""
    state.assign(state, "generation", record.generation)
    state.assign(state, "again", True)
    if record.cause == "replay":
        _start_replay(state)
        return
    _lift(state, record.deadline_at)
    spot = place(state.plan, record.from_path) if record.from_path else END
    gone = [path for path in state.steps if "!" in path or place(state.plan, path) >= spot]
    _set_aside(state, gone, record.generation)
    for name in list(state.frames):
        state.drop(state.frames, name)
    _stand_at(state, record.from_path)
    state.assign(state, "data", data_before(state, spot))


def _lift(state: RunState, deadline_at: int | None) -> None:
    """Nothing is left of how the run ended, or what it waited for."""
    for name in ("ended", "ended_at", "blocked", "cancel", "failing", "unwinding"):
        state.assign(state, name, None)
    state.assign(state, "undo", ())
    state.assign(state, "undo_at", 0)
    state.assign(state, "deadline_at", deadline_at)
    _still(state)


def _still(state: RunState) -> None:
    for frontier in (state.parked, state.waits, state.due):
        for key in list(frontier):
            state.drop(frontier, key)


def _set_aside(state: RunState, paths: Collection[str], generation: int) -> None:
    """These steps are to be done again: what they were belongs to the past, and what they owe is kept (I30)."""
    kept = dict(state.steps)
    for path in paths:
        st = kept.pop(path)
        state.put(state.past, path, (*state.past.get(path, ()), st))
        if "!" in path:
            continue
        if st.status is StepStatus.COMPENSATED:
            state.put(state.keys, path, (state.key_of(path)[0], generation))
        elif needs_undo(st) or (st.doubt and st.node.probe is not None):
            owed = StepState(path, st.node)
            owed.owed = needs_undo(st)
            owed.doubt = st.doubt
            state.put(state.owed, path, owed)
    state.assign(state, "steps", kept)


def _stand_at(state: RunState, path: str) -> None:
    """The frames on the way to this path stand there, and the innermost is due."""
    levels = trail(state.plan, path) if path else []
    if not levels:
        root = Frame("", "", state.plan.root)
        root.cursor = len(root.steps.nodes)
        state.put(state.frames, "", root)
        state.put(state.due, "", root)
    for level in levels:
        frame = Frame(level.prefix, level.owner, level.steps)
        frame.cursor = level.cursor
        state.put(state.frames, level.prefix, frame)
        if level.owner:
            goes_on(state.save(state.steps[level.owner]))
        if level is levels[-1]:
            state.put(state.due, level.prefix, frame)


def goes_on(owner: StepState) -> None:
    """A step that others stand in, and that had ended: those go on."""
    owner.status = StepStatus.RUNNING
    owner.ended_at = None
    owner.failure = None


def data_before(state: RunState, spot: Place) -> dict[str, str]:
    """The run's data as it was committed before this place was reached (D3)."""
    plan = state.plan
    changed = [(place(plan, st.path), st) for st in state.steps.values() if st.changes and not st.node.aside]
    changed.sort(key=lambda entry: entry[0])
    return _applied([state.first, *[st.changes for where, st in changed if where < spot]])


def _applied(all_changes: Iterable[Changes | None]) -> dict[str, str]:
    data: dict[str, str] = {}
    for changes in all_changes:
        for key, value in (changes or {}).items():
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value
    return data


# --- replay


def _start_replay(state: RunState) -> None:
    """Ordinary steps are served from the journal, commit steps run again in order, on the data of that time (D4)."""
    found = (state.ended, state.unwinding, state.undo, state.undo_at, state.cancel, state.failing, state.deadline_at)
    paths = [st.path for st in state.steps.values() if _runs_again(st)]
    _lift(state, None)
    state.assign(state, "before", found)
    state.assign(state, "replay", tuple(paths))
    state.assign(state, "replay_at", 0)
    _take_next(state)


def _runs_again(st: StepState) -> bool:
    return st.node.kind is Kind.COMMIT and st.status is StepStatus.COMPLETED and not st.inherited


def replay_on(state: RunState) -> None:
    """A commit step has run again: the next one's turn."""
    state.assign(state, "replay_at", state.replay_at + 1)
    _take_next(state)


def _take_next(state: RunState) -> None:
    paths = state.replay or ()
    if state.replay_at == len(paths):
        state.assign(state, "data", data_before(state, END))
        return
    path = paths[state.replay_at]
    _renew(state, path)
    state.assign(state, "data", data_before(state, place(state.plan, path)))


def _renew(state: RunState, path: str) -> None:
    old = state.steps[path]
    state.put(state.past, path, (*state.past.get(path, ()), old))
    state.put(state.steps, path, StepState(path, old.node))


def ended_again(state: RunState) -> None:
    """The replay is over, or was cancelled: the run is what it was before (D4)."""
    paths = state.replay or ()
    if state.replay_at < len(paths):
        _serve(state, paths[state.replay_at])
    _ended, unwinding, undo, undo_at, cancel, failing, deadline_at = state.before
    for name, value in (
        ("unwinding", unwinding), ("undo", undo), ("undo_at", undo_at), ("cancel", cancel), ("failing", failing),
        ("deadline_at", deadline_at), ("replay", None), ("replay_at", 0), ("before", ()),
    ):  # fmt: skip
        state.assign(state, name, value)
    _still(state)
    state.assign(state, "data", data_before(state, END))


def _serve(state: RunState, path: str) -> None:
    """The step is what it was before the replay came to it, and is not asked after any more."""
    state.drop(state.steps, path + PROBE)
    *earlier, original = state.past[path]
    state.put(state.past, path, (*earlier, state.steps[path]))
    state.put(state.steps, path, original)


# --- moving on what is blocked


def resolve(state: RunState, record: StepResolved) -> StepStatus | None:
    """Lift the block; the status that the step at the record's path now ends with, None when it is tried again or has ended."""
    blocked = state.blocked
    state.assign(state, "blocked", None)
    path = record.path
    if path.endswith(UNDO):
        _resolve_undo(state, record, blocked)
        return None
    if state.replay is not None:
        _resolve_replay(state, record)
        return None
    state.assign(state, "failing", None)
    within = [one for one in state.steps if base_path(one) == path or one.startswith(f"{path}/")]
    for one in within:
        _leave(state, one)
    _set_aside(state, within, state.generation)
    state.assign(state, "data", data_before(state, END))
    for level in trail(state.plan, path):
        if level.owner:
            goes_on(state.save(state.steps[level.owner]))
    prefix = path.rpartition("/")[0]
    state.put(state.due, prefix, state.frames[prefix])
    state.assign(state, "again", True)
    return {"retry": None, "skip": StepStatus.SKIPPED, "done": StepStatus.COMPLETED}[record.way]


def _leave(state: RunState, path: str) -> None:
    st = state.steps[path]
    state.drop(state.parked, path)
    if st.signal is not None and path in state.waits.get(st.signal, ()):
        left = tuple(one for one in state.waits[st.signal] if one != path)
        state.put(state.waits, st.signal, left) if left else state.drop(state.waits, st.signal)


def _resolve_undo(state: RunState, record: StepResolved, blocked: RunBlocked | None) -> None:
    path = record.path
    st = state.steps[path]
    failed = st.status is StepStatus.FAILED
    state.drop(state.parked, path)
    if record.way == "retry":
        if failed:
            state.assign(state, "undo_at", state.undo_at - 1)
        state.put(state.past, path, (*state.past.get(path, ()), st))
        state.drop(state.steps, path)
        return
    if not failed:
        state.assign(state, "undo_at", state.undo_at + 1)
    state.save(st).due_at = None
    base = base_path(path)
    if record.way == "done":
        st.status = StepStatus.COMPLETED
        st.failure = None
        st.result = record.result
        undone = state.save(state.steps[base])
        undone.status = StepStatus.COMPENSATED
        undone.doubt = undone.owed = False
    else:
        st.status = StepStatus.FAILED
        if st.failure is None and blocked is not None:  # it was never called, or never answered
            st.failure = Failure.of(blocked.reason, blocked.message)
        not_undone(state, base)


def not_undone(state: RunState, path: str) -> None:
    """The compensation of this step has failed for good: its history line shows what it was (S10.6)."""
    base = state.save(state.steps[path])
    if base.result is not None:
        base.status = StepStatus.COMPLETED
    else:
        base.status = StepStatus.FAILED if base.failure is not None else StepStatus.CANCELLED


def _resolve_replay(state: RunState, record: StepResolved) -> None:
    path = record.path
    state.drop(state.parked, path + PROBE)
    _leave(state, path)
    _serve(state, path)
    if record.way == "retry":
        return _renew(state, path)
    if record.way == "done" and record.result is not None:
        state.save(state.steps[path]).result = record.result
    replay_on(state)


# --- a fork


def inherit(state: RunState, record: StepInherited) -> None:
    """A step that the origin had done."""
    levels = trail(state.plan, record.path)
    st = StepState(record.path, levels[-1].node)
    st.status = StepStatus.SKIPPED if record.skipped else StepStatus.COMPLETED
    st.attempt, st.signal, st.result, st.changes = record.attempt, record.signal, record.result, record.changes
    st.started_at, st.ended_at = record.started_at, record.ended_at
    st.inherited = True
    state.put(state.steps, record.path, st)
    state.assign(state, "inherited", state.inherited + 1)
    state.change(record.changes)
    if len(levels) == 1:
        root = state.frames[""]
        state.assign(root, "cursor", levels[0].node.index + 1)

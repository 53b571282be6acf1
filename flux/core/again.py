"""Doing a step again: retry, replay, fork, and moving on what is blocked (D1 to D5).

The upper half is asked before anything is written, and refuses what cannot be; the lower half is what the records do to the state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..errors import InvalidArgument, PastPivot
from .culprits import culprit
from .failure import Failure
from .inside import DONE, applied, arm_completed, arms_of, failed_arms, ghosts_at, goes_on_in, goes_on_itself, lies_in, make_due, stand_anew
from .patterns import pattern
from .places import END, FANS, Level, Place, fan_of, place, trail
from .plan import PROBE, UNDO, Plan, Sequence, base_path
from .records import Record, Reopened, RunBlocked, StepInherited, StepResolved
from .state import Inside, RunState, StepState, needs_undo
from .status import StepStatus
from .workflow import Kind

_UNDONE = frozenset({StepStatus.COMPENSATING, StepStatus.COMPENSATED})

# --- what can be asked for


def first_undone(state: RunState) -> str:
    """The path of the first step that is not done, '' when all are; of a step with branches in which something is done, the first in
    there. A compensated step is not done (D3)."""
    return _first_of(state, "", state.plan.root) or ""


def _first_of(state: RunState, key: str, steps: Sequence) -> str | None:
    for node in steps.nodes:
        path = steps.path_of(key, node)
        st = state.steps.get(path)
        if st is None or not _wholly_done(state, st):
            inner = None if st is None else _first_inside(state, st)
            return path if inner is None else inner
    return None


def _first_inside(state: RunState, st: StepState) -> str | None:
    if not _partly_done(state, st):
        return None
    return next((found for key, body in arms_of(st) if (found := _first_of(state, key, body))), None)


def _wholly_done(state: RunState, st: StepState) -> bool:
    """Whether the step is done, and nothing inside it was compensated, or is about to be."""
    if st.status not in DONE:
        return False
    return st.inside is None or not any(_inside_with(state, st, _UNDONE))


def _partly_done(state: RunState, st: StepState, named: Collection[str] = ()) -> bool:
    """Whether what is done inside this step stands, and the rest begins again: when there is something, when a child goes on in there,
    when it is a wait whose time was out, or when somebody has named what is to begin again in there. Else the whole step does."""
    if st.inside is None:
        return False
    if st.node.kind is Kind.WAIT or any(lies_in(path, st.path) for path in (*named, *state.children)):
        return True
    return any(_inside_with(state, st, DONE))


def _inside_with(state: RunState, st: StepState, statuses: frozenset[StepStatus]) -> Iterator[str]:
    return (path for path, one in state.steps.items() if one.status in statuses and lies_in(path, st.path) and not one.node.aside)


def retry_from(state: RunState, from_step: str | None) -> str:
    """The path that a retry goes on from. Raises InvalidArgument, PastPivot, DefinitionChanged."""
    first = first_undone(state)
    if from_step is None:
        return first
    here = _place_of(state.plan, from_step)
    if first and here > place(state.plan, first):
        raise InvalidArgument(f"from_step {from_step!r} would skip {first!r}, which is not done: name that or an earlier one")
    if not all(_entered(state, level) for level in trail(state.plan, from_step) if level.owner):
        raise InvalidArgument(f"from_step {from_step!r} is in a branch that the run did not take")
    if any(level.owner and state.steps[level.owner].inherited for level in trail(state.plan, from_step)):
        raise InvalidArgument(f"from_step {from_step!r} is inside a step that this fork shares with its origin: name that step")
    going = _child_done_again(state, from_step) if state.children else None
    if going is not None:
        raise InvalidArgument(
            f"from_step {from_step!r} would do {going!r} again, whose child {state.children[going]!r} goes on: cancel that first"
        )
    if state.pivot is not None and here <= place(state.plan, state.pivot):
        raise PastPivot(f"{from_step!r} stands before the point of no return {state.pivot!r}, which has completed: fork the run instead")
    return from_step


def _child_done_again(state: RunState, from_step: str) -> str | None:
    """A step that this retry would do again though its child goes on."""
    search = _Search(state, from_step)
    search.sequence("", state.plan.root)
    return next((one for one in state.children if one in search.found or one == from_step or lies_in(one, from_step)), None)


def _entered(state: RunState, level: Level) -> bool:
    st = state.steps.get(level.owner)
    return st is not None and any(key == level.key for key, _ in arms_of(st))


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
        if st is None or not _wholly_done(state, st):
            raise InvalidArgument(f"a fork from {from_step!r} would skip {node.name!r}, which is not done in the original")
        taken += [_inherited(one) for one in _done_within(state, node.name)]
    return taken


def _done_within(state: RunState, path: str) -> list[StepState]:
    """The step at this path and those inside it, in the order of being reached; nothing of a branch that failed or lost (D5)."""
    within = [st for one, st in state.steps.items() if (one == path or lies_in(one, path)) and not st.node.aside and st.status in DONE]
    return [st for st in within if all(_counts(state, level) for level in trail(state.plan, st.path))]


def _counts(state: RunState, level: Level) -> bool:
    owner = state.steps[level.owner] if level.owner else None
    return owner is None or owner.node.kind not in FANS or arm_completed(state, owner, level.key)


def _inherited(st: StepState) -> Record:
    skipped = st.status is StepStatus.SKIPPED
    inside: int | str | None = None
    if st.inside is not None:
        inside = st.inside.choice or st.inside.turn or len(st.inside.items)
    return StepInherited(st.path, skipped, st.attempt, st.signal, st.result, st.changes, st.started_at, st.ended_at, inside)


# --- what the records do


def reopen(state: RunState, record: Reopened) -> None:
    """An ended or blocked run goes on, or runs its commit steps again."""
    state.assign(state, "generation", record.generation)
    state.assign(state, "again", True)
    if record.cause == "unwind":
        for name, value in (("ended", None), ("ended_at", None), ("demand", 0), ("cancel", None)):
            state.assign(state, name, value)
        return
    if record.cause == "replay":
        _start_replay(state)
        return
    _lift(state, record.deadline_at)
    named = record.from_path
    _set_aside(
        state, [path for path in state.steps if "!" in path or (named and (path == named or lies_in(path, named)))], record.generation
    )
    _begin_again(state, _Search(state, named), record.generation)


def _begin_again(state: RunState, search: _Search, generation: int) -> None:
    """Steps that are not done, or come after one that is not, are to be done again; what goes on by itself does."""
    search.sequence("", state.plan.root)
    for path in search.entered:
        state.save(state.steps[path]).status = StepStatus.RUNNING
    _set_aside(state, [path for path in state.steps if base_path(path) in search.found], generation)
    stand_anew(state)


class _Search:
    """Looks for what is to be done again: `found`, and `entered`, the steps around it of which something stands.

    `named`: where somebody wants to begin. `decided`: where the failures stood that are decided about; what has failed without harm to
    the run is then left as it is.
    """

    def __init__(self, state: RunState, named: str, decided: Collection[str] = ()) -> None:
        self.state = state
        self.named = named
        self.decided = decided
        self.found: dict[str, None] = {}
        self.entered: list[str] = []

    def sequence(self, key: str, steps: Sequence) -> bool:
        """Whether everything in this sequence, or graph, is done."""
        undone: set[str] = set()
        gone = self._gone(key) if self.state.plan.ports else END[0]
        for node in steps.nodes:
            path = steps.path_of(key, node)
            if undone or node.index > gone if steps.needs is None else undone & steps.needs[node.name]:
                undone.add(node.name)
                self._all_at(path)
            elif not self._step(path):
                undone.add(node.name)
        return not undone

    def _gone(self, key: str) -> float:
        """Where in this sequence the first step stands that is to be done again, and that a migration to come will drop."""
        paths = [ghost.path for ghost in ghosts_at(self.state, key) if not self._step(ghost.path)]
        if self.named and self.named.rpartition("/")[0] == key:
            paths.append(self.named)
        ghosts = [self.state.plan.ghosts.get(pattern(path)) for path in paths]
        return min((ghost.place for ghost in ghosts if ghost is not None), default=END[0])

    def _all_at(self, path: str) -> None:
        self.found.update(dict.fromkeys(one for one in self.state.steps if one == path or lies_in(one, path)))

    def _step(self, path: str) -> bool:
        state = self.state
        st = state.steps.get(path)
        if st is None or path == self.named or goes_on_itself(state, st):
            return False
        if _wholly_done(state, st) and not lies_in(self.named, path):
            return True
        stands = _partly_done(state, st, self.decided or (self.named,)) or goes_on_in(state, path) or self._has_left(st)
        if path in self.decided or not stands:
            self._all_at(path)
            return False
        self.entered.append(path)
        broken = False
        left = self._left(st)
        for key, body in arms_of(st):
            if key in left:
                continue
            if broken and st.node.kind not in FANS:
                self._all_at(key)
            elif not self.sequence(key, body):
                broken = True
        return False

    def _has_left(self, st: StepState) -> bool:
        """Whether a branch has failed in there that is left so."""
        if not self.decided:
            return False
        return any(self._left(one) for one in self.state.steps.values() if one is st or lies_in(one.path, st.path))

    def _left(self, st: StepState) -> Collection[str]:
        """The branches that have failed, of a step that has not; unless no other is left to bring the join about."""
        if not self.decided or st.node.kind not in FANS or st.status is StepStatus.FAILED:
            return ()
        left = failed_arms(self.state, st)
        return left if len(left) < len(arms_of(st)) else ()


def _lift(state: RunState, deadline_at: int | None) -> None:
    """Nothing is left of how the run ended, or what it waited for."""
    for name in ("ended", "ended_at", "blocked", "cancel", "failing", "unwinding"):
        state.assign(state, name, None)
    state.assign(state, "unclean", False)
    state.assign(state, "descending", False)
    state.assign(state, "decided", ())
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
            owed.child, owed.told = st.child, st.told
            owed.owed = needs_undo(st)
            owed.doubt = st.doubt
            state.put(state.owed, path, owed)
    state.assign(state, "steps", kept)


def data_before(state: RunState, path: str) -> dict[str, str]:
    """The data that the step at `path` began with; with '', the run's as it is now."""
    plan = state.plan
    spot = place(plan, path) if path else END
    changed = [(place(plan, st.path), st) for st in state.steps.values() if st.changes and not st.node.aside and not lies_in(path, st.path)]
    seen = [(where, st) for where, st in changed if where < spot and _sees(fan_of(plan, st.path), path)]
    seen.sort(key=lambda entry: entry[0])
    return applied([state.first, *[st.changes for _, st in seen]])


def _sees(fan: str, path: str) -> bool:
    return not fan or path == fan or lies_in(path, fan)


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
        state.assign(state, "data", data_before(state, ""))
        return
    path = paths[state.replay_at]
    _renew(state, path)
    state.assign(state, "data", data_before(state, path))


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
    state.assign(state, "data", data_before(state, ""))


def _serve(state: RunState, path: str) -> None:
    """The step is what it was before the replay came to it, and is not asked after any more."""
    state.assign(state, "steps", {one: st for one, st in state.steps.items() if one != path + PROBE})
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
    within = [one for one in state.steps if base_path(one) == path or lies_in(one, path)]
    for one in within:
        state.unpark(state.steps[one])
    frame = state.frame_of(path)
    more = state.failing is not None and culprit(state, (*state.decided, path)) is not None
    if not (more and record.way == "retry"):  # else it begins again with the others
        _set_aside(state, within, state.generation)
    if state.failing is not None or frame is None:
        go_on_behind(state, path, path)
    else:
        state.assign(state, "again", True)
        state.assign(state, "descending", False)
        make_due(state, frame)
    return {"retry": None, "skip": StepStatus.SKIPPED, "done": StepStatus.COMPLETED}[record.way]


def go_on_behind(state: RunState, path: str, *others: str) -> None:
    """Somebody has decided what is to become of the step at `path`, at which the run was blocked, and of `others`. The run goes on once
    that is so of every step whose failure made it fail: nobody is called again beside it unasked (S3.8)."""
    state.assign(state, "again", True)
    state.assign(state, "descending", False)
    decided = (*state.decided, path, *others)
    rest = culprit(state, decided) if state.failing is not None else None
    if rest is not None:
        state.assign(state, "failing", trail(state.plan, rest.path)[0].node.name)
        state.assign(state, "decided", decided)
        return
    state.assign(state, "failing", None)
    state.assign(state, "decided", ())
    _begin_again(state, _Search(state, path, decided), state.generation)


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
    state.unpark(state.steps[path])
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
    st.inside = _inside_again(record.inside, st.node.kind)
    state.put(state.steps, record.path, st)
    state.assign(state, "inherited", state.inherited + 1)
    if not fan_of(state.plan, record.path):
        state.change(record.changes)
    if len(levels) == 1:
        root = state.frames[""]
        state.assign(root, "cursor", levels[0].node.index + 1)


def _inside_again(inside: int | str | None, kind: Kind) -> Inside | None:
    if isinstance(inside, str):
        return Inside(choice=inside)
    if kind is Kind.LOOP:
        return Inside(turn=inside or 0)
    return Inside(items=("null",) * inside) if isinstance(inside, int) else None

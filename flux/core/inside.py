"""The state of a step that has branches, and what records do to it: parallel, route, loop, for_each (S1.2, D22)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .commands import Changes
from .patterns import pattern
from .places import FANS, fan_of, place
from .plan import PROBE, Node, Sequence, base_path
from .state import OPEN, Frame, Inside, RunState, Scope, StepState
from .status import StepStatus
from .workflow import Kind

DONE = frozenset({StepStatus.COMPLETED, StepStatus.SKIPPED})

# --- where things are


def arm_keys(st: StepState) -> list[str]:
    """The keys of this fan's branches or items, in declaration order."""
    if st.node.kind is Kind.FOR_EACH:
        return [f"{st.path}[{number}]" for number in range(1, len(inside_of(st).items) + 1)]
    return [f"{st.path}/{name}" for name in st.node.bodies]


def arm_body(node: Node, key: str) -> Sequence:
    """The steps of the branch with this key."""
    return node.bodies["body"] if key.endswith("]") else node.bodies[key.rpartition("/")[2]]


def arms_of(st: StepState) -> list[tuple[str, Sequence]]:
    """The branches, turns or items that this step has gone into: their keys and steps."""
    inside, bodies = st.inside, st.node.bodies
    if inside is None:
        return []
    if st.node.kind is Kind.LOOP:
        return [(f"{st.path}[{turn}]", bodies["body"]) for turn in range(1, inside.turn + 1)]
    if st.node.kind in FANS:
        return [(key, arm_body(st.node, key)) for key in arm_keys(st)]
    return [(f"{st.path}/{inside.choice}", bodies[inside.choice])]


def goes_on_itself(state: RunState, st: StepState) -> bool:
    """Whether the step is under way: its attempt runs, or it waits for time, a signal, a child or its probe."""
    paths = (st.path,) if st.node.probe is None else (st.path, st.path + PROBE)
    return any(path in state.parked or path in state.calls or path in state.children for path in paths)


def lies_in(path: str, owner: str) -> bool:
    """Whether this path stands inside that step."""
    return path.startswith((f"{owner}/", f"{owner}["))


def _frame(state: RunState, path: str) -> Frame:
    frame = state.frame_of(path)
    assert frame is not None
    return frame


def inside_of(st: StepState) -> Inside:
    """What the step's branches have come to."""
    assert st.inside is not None
    return st.inside


# --- what the records do


def enter(state: RunState, st: StepState, inside: Inside) -> None:
    """The step goes on in its branches."""
    frame = _frame(state, st.path)
    if frame.steps.needs is None:
        state.drop(state.due, frame.key)
    else:
        make_due(state, frame)
    state.save(st)
    st.status = StepStatus.RUNNING
    st.inside = inside


def open_frame(state: RunState, st: StepState, key: str, body: Sequence) -> Frame:
    """A branch begins. Branches of a fan have a view of the data of their own."""
    scope = _frame(state, st.path).scope
    if st.node.kind in FANS:
        scope = Scope(scope)
    frame = Frame(key, st.path, body, scope)
    if scope is not None and st.node.kind in FANS and state.again:
        scope.changes.update(kept_changes(state, key, body))
    state.put(state.frames, key, frame)
    stand(state, frame)
    return frame


def stand_anew(state: RunState) -> None:
    """All frames stand where the steps say, and the data is what those that are done have made of it."""
    for key in list(state.frames):
        close_frame(state, key)
    for path in list(state.stopping):
        state.drop(state.stopping, path)
    state.assign(state, "data", applied([state.first, kept_changes(state, "", state.plan.root)]))
    root = Frame("", "", state.plan.root)
    state.put(state.frames, "", root)
    stand(state, root)


def applied(all_changes: Iterable[Changes | None]) -> dict[str, str]:
    """The data that these changes, one after another, make."""
    data: dict[str, str] = {}
    for changes in all_changes:
        for key, value in (changes or {}).items():
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value
    return data


def ghosts_at(state: RunState, key: str) -> list[StepState]:
    """The steps right in this branch that the journal's version still has, and the migration to come will drop."""
    port = state.plan.ports.get(state.version) if state.plan.ports else None
    if port is None or not port.ghosts:
        return []
    return [st for path, st in state.steps.items() if path.rpartition("/")[0] == key and pattern(path) in port.ghosts]


def stand(state: RunState, frame: Frame) -> None:
    """The frame stands at its first step that is not done, and is due unless that one goes on by itself; a new frame stands at its
    beginning."""
    for ghost in ghosts_at(state, frame.key):
        if ghost.status not in DONE:
            _takes_up_again(state, ghost)
    if frame.steps.needs is not None:
        _stand_in_graph(state, frame)
        return
    frame.cursor = len(frame.steps.nodes)
    for node in frame.steps.nodes:
        st = state.steps.get(frame.path_of(node))
        if st is None or st.status not in DONE:
            frame.cursor = node.index
            if st is not None and not _takes_up_again(state, st):
                return
            break
    state.put(state.due, frame.key, frame)


def _stand_in_graph(state: RunState, frame: Frame) -> None:
    for node in frame.steps.nodes:
        st = state.steps.get(frame.path_of(node))
        if st is not None and st.status not in DONE:
            _takes_up_again(state, st)
    make_due(state, frame)


def _takes_up_again(state: RunState, st: StepState) -> bool:
    """Whether its frame has to start this step; not one that goes on by itself, or in what is inside it."""
    if goes_on_itself(state, st):
        return False
    if st.inside is None:
        return True
    reenter(state, st)
    return False


def ready(state: RunState, frame: Frame) -> Node | None:
    """The next step of the frame that can start; None when there is none, or all have ended."""
    steps = frame.steps
    if steps.needs is None:
        return steps.nodes[frame.cursor] if frame.cursor < len(steps.nodes) else None
    for node in steps.nodes:
        if frame.path_of(node) not in state.steps and all(is_done(state, frame, name) for name in steps.needs[node.name]):
            return node
    return None


def at_end(state: RunState, frame: Frame) -> bool:
    """Whether all steps of the frame are done."""
    if frame.steps.needs is None:
        return frame.cursor == len(frame.steps.nodes)
    return all(is_done(state, frame, node.name) for node in frame.steps.nodes)


def is_done(state: RunState, frame: Frame, name: str) -> bool:
    """Whether the step of this name in the frame is done."""
    st = state.steps.get(frame.path_of(frame.steps.by_name[name]))
    return st is not None and st.status in DONE


def conflict(state: RunState, path: str, changes: Changes | None) -> str | None:
    """A key that a step in a graph changes to another value than one there that it does not come after; None when there is none."""
    frame = state.frame_of(path) if changes and "!" not in path and state.replay is None else None
    while frame is not None and changes:
        key = None if frame.steps.needs is None else _conflict_in(state, frame, state.steps[path].node.name, changes)
        if key is not None or not frame.owner or state.steps[frame.owner].node.kind in FANS:
            return key
        path = frame.owner
        frame = state.frame_of(path)
    return None


def _conflict_in(state: RunState, frame: Frame, name: str, changes: Changes) -> str | None:
    before = _all_before(frame.steps, name)
    for node in frame.steps.nodes:
        other = state.steps.get(frame.path_of(node))
        if other is None or node.name == name or node.name in before:
            continue
        last: Changes = {}
        for theirs in _changes_of(state, other):
            last |= theirs
        for key, text in changes.items():
            if last.get(key, text) != text:
                return key
    return None


def _all_before(steps: Sequence, name: str) -> set[str]:
    found: set[str] = set()
    for one in (steps.needs or {})[name]:
        found |= {one} | _all_before(steps, one)
    return found


def make_due(state: RunState, frame: Frame) -> None:
    """The frame is due if there is something in it to start, or nothing left."""
    if frame.steps.needs is None or ready(state, frame) is not None or at_end(state, frame):
        state.put(state.due, frame.key, frame)
    else:
        state.drop(state.due, frame.key)


def kept_changes(state: RunState, key: str, steps: Sequence) -> Changes:
    """What the steps of this branch that are done have changed in its view of the data; of the run, for the key ''."""
    plan = state.plan
    found: Changes = {}
    if not plan.ghosts:
        for changes in _changes_in(state, key, steps):
            found |= changes
        return found
    changed = [st for st in state.steps.values() if st.changes and not st.node.aside and fan_of(plan, st.path) == key]
    for st in sorted(changed, key=lambda st: place(plan, st.path)):
        found |= st.changes or {}
    return found


def _changes_in(state: RunState, key: str, steps: Sequence) -> Iterator[Changes]:
    for node in steps.nodes:
        st = state.steps.get(steps.path_of(key, node))
        if st is not None:
            yield from _changes_of(state, st)


def _changes_of(state: RunState, st: StepState) -> Iterator[Changes]:
    """What the step, and those inside it that see the same data, have changed, in their order."""
    if st.changes:
        yield st.changes
    for key, body in arms_of(st) if st.node.kind not in FANS else ():
        yield from _changes_in(state, key, body)


def reenter(state: RunState, st: StepState) -> None:
    """Some of what is inside the step is done, and stands; the rest begins again."""
    old = inside_of(state.save(st))
    st.status, st.ended_at, st.failure, st.due_at = StepStatus.RUNNING, None, None, None
    kind = st.node.kind
    if kind is Kind.LOOP:
        turn = next((turn for turn in range(1, old.turn + 1) if not _arm_done(state, st, f"{st.path}[{turn}]")), old.turn)
        st.inside = Inside(turn=turn)
        open_frame(state, st, f"{st.path}[{turn}]", st.node.bodies["body"])
    elif kind in FANS:
        _reenter_fan(state, st, old)
    else:
        st.inside = Inside(choice=old.choice)
        open_frame(state, st, f"{st.path}/{old.choice}", st.node.bodies[old.choice])


def _reenter_fan(state: RunState, st: StepState, old: Inside) -> None:
    outer = _frame(state, st.path).scope
    failed = failed_arms(state, st)
    inside = st.inside = Inside(items=old.items)
    waiting: list[str] = []
    for key in arm_keys(st):
        if _arm_done(state, st, key):
            inside.done[key] = Scope(outer, kept_changes(state, key, arm_body(st.node, key)))
        elif key in failed:
            inside.failed[key] = failed[key]
        else:
            waiting.append(key)
    if not waiting:  # only the join is left: the last branch ends once more, and brings it about
        waiting.append(inside.done.popitem()[0])
    waiting.sort(key=lambda key: not goes_on_in(state, key))  # those have their places among the ones that are under way at once
    inside.waiting = tuple(waiting)
    for _ in range(_at_once(st)):
        _begin_next(state, st)


def failed_arms(state: RunState, st: StepState) -> dict[str, str]:
    """The branches of this fan that have failed, and are not to be done again: the key of each, and the path of what failed in it."""
    failed = inside_of(st).failed
    return {key: path for key, path in failed.items() if path in state.steps and state.steps[path].status is StepStatus.FAILED}


def goes_on_in(state: RunState, key: str) -> bool:
    """Whether something is under way in this branch, or step."""
    return any(base_path(path) == key or lies_in(path, key) for path in (*state.calls, *state.parked, *state.children))


def arm_completed(state: RunState, st: StepState, key: str) -> bool:
    """Whether this branch is one of those whose results and changes count."""
    return _arm_done(state, st, key) if st.inherited else key in inside_of(st).done


def _arm_done(state: RunState, st: StepState, key: str) -> bool:
    body = arm_body(st.node, key)
    paths = [body.path_of(key, node) for node in body.nodes]
    return all(path in state.steps and state.steps[path].status in DONE for path in paths)


def _at_once(st: StepState) -> int:
    waiting = len(inside_of(st).waiting)
    limit = st.node.step.concurrency if st.node.kind is Kind.FOR_EACH else None
    return waiting if limit is None else min(waiting, limit)


def close_frame(state: RunState, key: str) -> None:
    """The branch is over."""
    state.drop(state.frames, key)
    state.drop(state.due, key)


def merged(st: StepState) -> tuple[Changes, dict[str, list[str | None]]]:
    """What the branches that have completed changed in the data, and the keys that they changed differently: then what each wants,
    in declaration order (D22)."""
    wanted: dict[str, list[str | None]] = {}
    done = inside_of(st).done
    for key in arm_keys(st):
        if key in done:
            for name, text in done[key].changes.items():
                wanted.setdefault(name, []).append(text)
    agreed = {name: texts[0] for name, texts in wanted.items() if all(text == texts[0] for text in texts)}
    return agreed, {name: texts for name, texts in wanted.items() if name not in agreed}


def parallel_started(state: RunState, st: StepState) -> None:
    """All branches begin."""
    enter(state, st, Inside())
    _begin_all(state, st)


def _begin_all(state: RunState, st: StepState) -> None:
    inside_of(st).waiting = tuple(arm_keys(st))
    for _ in range(_at_once(st)):
        _begin_next(state, st)


def route_taken(state: RunState, st: StepState, branch: str) -> None:
    """That branch begins."""
    enter(state, st, Inside(choice=branch))
    open_frame(state, st, f"{st.path}/{branch}", st.node.bodies[branch])


def turn_started(state: RunState, st: StepState, turn: int) -> None:
    """The next turn begins; the one before is over."""
    if st.inside is None:
        enter(state, st, Inside())
    else:
        close_frame(state, f"{st.path}[{turn - 1}]")
    state.assign(inside_of(st), "turn", turn)
    open_frame(state, st, f"{st.path}[{turn}]", st.node.bodies["body"])


def items_listed(state: RunState, st: StepState, items: tuple[str, ...]) -> None:
    """As many items begin as may be under way at once."""
    enter(state, st, Inside(items=items))
    _begin_all(state, st)


def _begin_next(state: RunState, st: StepState) -> None:
    inside = inside_of(st)
    if inside.stopping or inside.begun == len(inside.waiting):
        return
    key = inside.waiting[inside.begun]
    state.assign(inside, "begun", inside.begun + 1)
    open_frame(state, st, key, arm_body(st.node, key))


def arm_ended(state: RunState, key: str) -> None:
    """A branch has completed: its changes wait for the join, the next item begins."""
    frame = state.frames[key]
    st = state.steps[frame.owner]
    inside = inside_of(st)
    if frame.scope is not None:
        state.put(inside.done, key, frame.scope)
    close_frame(state, key)
    _begin_next(state, st)


def arm_failed(state: RunState, key: str, path: str, at: int) -> None:
    """The step at `path` has failed, and with it the branch; where steps went on beside it in there, they are stopped."""
    frame = state.frames[key]
    st = state.steps[frame.owner]
    state.put(inside_of(st).failed, key, path)
    close_frame(state, key)
    if _has_graph(frame.steps):
        _close_inside(state, key, at)
        if any(lies_in(one, key) for one in (*state.calls, *state.children)):
            state.put(state.stopping, key, st)
    _begin_next(state, st)


def _has_graph(steps: Sequence) -> bool:
    """Whether steps may go on beside one another in this branch, other than in branches of their own."""
    if steps.needs is not None:
        return True
    return any(_has_graph(body) for node in steps.nodes if node.kind not in FANS for body in node.bodies.values())


def arms_stopped(state: RunState, st: StepState, at: int) -> None:
    """Nothing more starts in there, and what waits is left; what runs is let to its outcome, or cut."""
    state.assign(inside_of(st), "stopping", True)
    _close_inside(state, st.path, at)
    state.put(state.stopping, st.path, st)


def leave_inside(state: RunState, st: StepState, at: int) -> None:
    """The step is over: what its branches had not ended is left."""
    if not _all_over(st):
        _close_inside(state, st.path, at)
    state.drop(state.stopping, st.path)


def _all_over(st: StepState) -> bool:
    """Whether every branch has ended by itself, and nothing is left of any."""
    inside = st.inside
    if inside is None:
        return True
    total = len(inside.items) if st.node.kind is Kind.FOR_EACH else len(st.node.bodies)
    return st.node.kind in FANS and len(inside.done) == total and not inside.stopping


def _close_inside(state: RunState, top: str, at: int) -> None:
    """Everything under this path, a step's or a branch's, comes to its end, but for attempts that run."""
    keys = [key for key in state.frames if lies_in(key, top)]
    stopping = [path for path in state.stopping if lies_in(path, top)]
    owners = {state.frames[key].owner: None for key in keys}
    owners.update({state.stopping[path].path: None for path in stopping})
    for key in keys:
        close_frame(state, key)
    for path in stopping:
        state.drop(state.stopping, path)
    parked = dict.fromkeys(one for path in state.parked for one in (path, base_path(path)))  # with those that a probe asks after
    for path in [path for path in (*parked, *owners) if lies_in(path, top)]:
        if state.steps[path].status in OPEN:
            state.leave(path, at)

"""Journals of an older version, read under a newer one by its declared migrations (S13).

Paths are translated while the journal is folded, up to the record that says the run has been migrated. What the migration has
dropped stays in the state as a ghost: its changes to the data hold, and its compensation may be owed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import fields, replace
from typing import Any

from .again import go_on_behind
from .inside import close_frame, make_due
from .patterns import numbered, pattern
from .places import trail
from .plan import Plan, Port, base_path, moved
from .records import Record, RunCreated, RunMigrated
from .state import OPEN, RunState, StepState
from .status import StepStatus

Rows = Iterable[tuple[int, Iterable[Record]]]


def ported(plan: Plan, rows: Rows) -> Rows:
    """These rows as the plan's own version would have written them."""
    return _translated(plan, rows) if plan.ports else rows


def _translated(plan: Plan, rows: Rows) -> Iterator[tuple[int, Iterable[Record]]]:
    port: Port | None = None
    for at, records in rows:
        found: list[Record] = []
        for record in records:
            if isinstance(record, RunCreated | RunMigrated):
                port = plan.ports.get(record.version)
            found.append(record if port is None else _under(port, record))
        yield at, found


def _under(port: Port, record: Any) -> Record:
    names = {field.name for field in fields(record)} & {"path", "from_path"}
    return replace(record, **{name: port.path(getattr(record, name)) for name in names}) if names else record  # type: ignore[no-any-return]


def translated(rows: Rows) -> list[tuple[int, tuple[Record, ...]]]:
    """These rows with every path as the newest version has it, by what the migrations among them say: to be read without the code."""
    found: list[tuple[int, tuple[Record, ...]]] = []
    later: list[dict[str, str]] = []
    for at, records in reversed([(at, tuple(records)) for at, records in rows]):
        row: list[Record] = []
        for record in reversed(records):
            row.append(_moved(record, later) if later else record)
            if isinstance(record, RunMigrated) and record.renamed:
                later.insert(0, record.renamed)
        found.append((at, tuple(reversed(row))))
    return found[::-1]


def _moved(record: Any, later: list[dict[str, str]]) -> Record:
    changed: dict[str, str] = {}
    for name in {field.name for field in fields(record)} & {"path", "from_path"}:
        path = getattr(record, name)
        for renamed in later:
            path = moved(renamed, path)
        changed[name] = path
    return replace(record, **changed) if changed else record  # type: ignore[no-any-return]


def migrate(state: RunState, record: RunMigrated) -> None:
    """The run is of the newer version from here on: what it stood at and is gone is left, and keys stay what they were (D2)."""
    port = state.plan.ports.get(state.version)
    state.assign(state, "version", record.version)
    state.assign(state, "shape", record.shape)
    if port is None:
        return
    olds = {new: old for old, new in port.rename.items()}
    for path in {**state.steps, **state.owed, **state.past} if olds else ():
        old = olds.get(pattern(path))
        name, generation = state.key_of(path)
        if old is not None and name == path:
            state.put(state.keys, path, (numbered(old, path), generation))
    if state.ended is None and state.unwinding is None and state.replay is None:  # what is undone or run again is so, gone or not
        later = state.plan.ports.get(record.version)
        _leave_ghosts(state, port.ghosts.keys() - (later.ghosts.keys() if later is not None else ()))


def _leave_ghosts(state: RunState, gone: Set[str]) -> None:
    """`gone`: what the version that the run is now of has no more; a later one may have dropped other steps."""
    blocked = state.blocked
    stuck = None if blocked is None else _ghost_of(gone, blocked.path)
    failed = [st.path for st in state.steps.values() if stuck and _ghost_of(gone, st.path) and _ended_more(state, st)]
    for st in [st for st in state.steps.values() if _ghost_of(gone, st.path) and (st.status in OPEN or st.path in failed)]:
        _leave(state, st)
    if blocked is not None and stuck:
        state.assign(state, "blocked", None)
        go_on_behind(state, base_path(blocked.path), *failed)


def _ended_more(state: RunState, st: StepState) -> bool:
    """Whether this step has failed, and with it what it stands in: the run, or a step with branches."""
    owner = trail(state.plan, st.path)[-1].owner
    return st.status is StepStatus.FAILED and (not owner or state.steps[owner].status is StepStatus.FAILED)


def _ghost_of(gone: Set[str], path: str) -> str:
    """The dropped step that this path belongs to, '' for none."""
    path = pattern(base_path(path))
    while path and path not in gone:
        path = path.rpartition("/")[0]
    return path


def _leave(state: RunState, st: StepState) -> None:
    path = st.path
    state.save(st)
    if path in state.calls:
        st.doubt = True
        state.drop(state.calls, path)
    frame = None if "!" in path else state.frame_of(path)
    state.unpark(st)
    for top, stopped in list(state.stopping.items()):
        if stopped is st:
            state.drop(state.stopping, top)
    st.status = StepStatus.CANCELLED
    st.due_at = None
    for key in [key for key, frame in state.frames.items() if frame.owner == path]:
        close_frame(state, key)
    if frame is not None and frame.key in state.frames:
        make_due(state, frame)

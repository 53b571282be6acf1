"""A definition drawn from a journal alone, so that a run can be read where its workflow is not registered, or no longer fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..errors import UnreadableRun
from .evolve import fold
from .patterns import frames_around
from .plan import UNDO, Plan, base_path
from .porting import translated
from .records import (
    ArmsJoined,
    BranchEnded,
    ChildEnded,
    ChildStarted,
    ChildTold,
    ItemsListed,
    ParallelStarted,
    Record,
    Reopened,
    RouteTaken,
    RunCreated,
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
    TurnStarted,
    WaitExpired,
    WaitStarted,
)
from .state import RunState
from .workflow import Body, Definition, Kind, Step

_Found = dict[str, Step]  # by path, with `[]` for the number of any turn or item


def _never(ctx: Any) -> Any:
    raise RuntimeError("a sketch of a workflow cannot be run")


def drawn(rows: Iterable[tuple[int, Iterable[Record]]]) -> RunState:
    """The state after these journal rows, each `(at, records)`, as far as they tell it without the workflow. Raises UnreadableRun,
    DefinitionChanged."""
    plain = translated(rows)
    try:
        plan = Plan(sketch(record for _, records in plain for record in records))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableRun(f"the journal makes no sense: {type(error).__name__}: {error}") from error
    return fold(plan, plain)


def sketch(records: Iterable[Record]) -> Definition:
    """A workflow of the shape that these records describe: names, kinds and order of the steps that were reached."""
    name, version = "unknown", "1"
    found: _Found = {}
    beside = _Beside()
    replaying = False
    for record in records:
        if isinstance(record, RunCreated):
            name, version = record.workflow, record.version
            continue
        if isinstance(record, Reopened):
            replaying = record.cause == "replay"
        _learn(found, record, replaying)
        beside.take(record)
    return Definition(name, version, _body(_in_graphs(found, beside.graphs), ""))


class _Beside:
    """Finds the bodies that are graphs: a step began there while another had not ended."""

    def __init__(self) -> None:
        self.graphs: set[str] = set()
        self._open: dict[str, set[str]] = {}

    def take(self, record: Record) -> None:
        """One more record."""
        path = getattr(record, "path", "")
        if isinstance(record, Reopened | StepResolved):
            self._open.clear()
        elif path and "!" not in path:
            key = next(frames_around(path))
            under_way = self._open.setdefault(key, set())
            if type(record) in _KINDS and under_way - {path}:
                self.graphs.add(_unnumbered(key))
            if isinstance(record, StepInherited) or (isinstance(record, _ENDS) and getattr(record, "result", "") is not None):
                under_way.discard(path)
            elif type(record) in _KINDS:
                under_way.add(path)


_ENDS = (
    StepCompleted, StepSkipped, StepFailed, SignalReceived, WaitExpired, SleepEnded, BranchEnded, ArmsJoined, StepProbed, StepInherited,
    ChildEnded,
)  # fmt: skip


def _in_graphs(found: _Found, graphs: set[str]) -> _Found:
    """The steps of these bodies begin in whatever order they did."""
    return {path: replace(step, after=()) if _parent(found, path) in graphs else step for path, step in found.items()} if graphs else found


def _learn(found: _Found, record: Any, replaying: bool) -> None:
    path = _unnumbered(getattr(record, "path", ""))
    kind = _KINDS.get(type(record))
    if not path or kind is None:
        return
    base = base_path(path)
    known = found.get(base)
    if path != base:
        if known is not None:  # else it was begun under another name, before a migration
            found[base] = replace(known, compensate=_never) if path.endswith(UNDO) else replace(known, probe=_never)
    elif known is None or isinstance(record, _SURE):
        kind = Kind.COMMIT if replaying and isinstance(record, StepStarted) else _inherited(record) or kind
        found[path] = _step(path.rpartition("/")[2].removesuffix("[]"), kind, known)


def _inherited(record: Record) -> Kind | None:
    """What a step that a fork has inherited may have been."""
    if not isinstance(record, StepInherited) or record.attempt or record.skipped:
        return None
    if record.inside is None and record.signal is None:
        return Kind.SLEEP if record.result is None else Kind.CHILD
    if record.inside is None:
        return Kind.WAIT
    if isinstance(record.inside, str):
        return Kind.ROUTE if record.signal is None else Kind.WAIT
    return Kind.FOR_EACH


# These tell the kind of a step, the others let it be guessed.
_SURE = (StepStarted, WaitStarted, SleepStarted, ParallelStarted, RouteTaken, TurnStarted, ItemsListed, ChildStarted)

_KINDS: dict[type[Record], Kind] = {
    StepStarted: Kind.STEP,
    StepSkipped: Kind.STEP,
    StepFailed: Kind.STEP,
    StepInherited: Kind.STEP,
    WaitStarted: Kind.WAIT,
    SleepStarted: Kind.SLEEP,
    ParallelStarted: Kind.PARALLEL,
    RouteTaken: Kind.ROUTE,
    TurnStarted: Kind.LOOP,
    ItemsListed: Kind.FOR_EACH,
    ChildStarted: Kind.CHILD,
    ChildTold: Kind.CHILD,
    BranchEnded: Kind.LOOP,  # where nothing else is known of the step, it had no turn
}


def _unnumbered(path: str) -> str:
    """The path with `[]` for each `[12]`."""
    head, *rest = path.split("[")
    return "[".join([head, *["]" + one.partition("]")[2] for one in rest]])


def _step(name: str, kind: Kind, known: Step | None) -> Step:
    """Such a step; what is called on its behalf is as it was known."""
    undo, probe = (None, None) if known is None else (known.compensate, known.probe)
    if known is not None and known.kind is Kind.COMMIT:
        kind = Kind.COMMIT
    called = _never if kind in (Kind.STEP, Kind.COMMIT) else None
    signal = name if kind is Kind.WAIT else None
    duration = 0 if kind is Kind.SLEEP else None
    return Step(name, kind, handler=called, signal=signal, duration=duration, compensate=undo, probe=probe)


def _body(found: _Found, prefix: str) -> Body:
    """The steps that stand right under this prefix, each with what is inside it."""
    return Body(tuple([_with_inside(found, path, step) for path, step in found.items() if _parent(found, path) == prefix]))


def _parent(found: _Found, path: str) -> str | None:
    """The frame in which this step stands; None for the one step of a single body, which is its own frame."""
    above, _, name = path.rpartition("/")
    if name.endswith("[]") or (above in found and not above.endswith("[]")):
        return None
    return above


def _with_inside(found: _Found, path: str, step: Step) -> Step:
    if step.kind is Kind.FOR_EACH and any(one.startswith(f"{path}/") for one in found):
        step = replace(step, kind=Kind.PARALLEL)  # as a fork has inherited it
    if step.kind in (Kind.LOOP, Kind.FOR_EACH):
        return replace(step, body=_arm(found, f"{path}[]"))
    if step.kind in (Kind.PARALLEL, Kind.ROUTE):
        names = dict.fromkeys(one[len(path) + 1 :].partition("/")[0].partition("[")[0] for one in found if one.startswith(f"{path}/"))
        return replace(step, branches=tuple([(name, _arm(found, f"{path}/{name}")) for name in names]))
    inner = _arm(found, f"{path}/on_timeout")
    return replace(step, on_timeout=inner) if inner.steps else step


def _arm(found: _Found, key: str) -> Body:
    if key in found:
        return Body((_with_inside(found, key, found[key]),), single=True)
    return _body(found, key)

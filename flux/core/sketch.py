"""A definition drawn from a journal alone, so that a run can be read where its workflow is not registered, or no longer fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .evolve import fold
from .plan import UNDO, Plan, base_path
from .porting import translated
from .records import Record, Reopened, RunCreated, SleepStarted, StepFailed, StepInherited, StepSkipped, StepStarted, WaitStarted
from .state import RunState
from .workflow import Body, Definition, Kind, Step


def _never(ctx: Any) -> Any:
    raise RuntimeError("a sketch of a workflow cannot be run")


def drawn(rows: Iterable[tuple[int, Iterable[Record]]]) -> RunState:
    """The state after these journal rows, each `(at, records)`, as far as they tell it without the workflow. Raises UnreadableRun,
    DefinitionChanged."""
    plain = translated(rows)
    return fold(Plan(sketch(record for _, records in plain for record in records)), plain)


def sketch(records: Iterable[Record]) -> Definition:
    """A workflow of the shape that these records describe: names, kinds and order of the steps that were reached."""
    name, version = "unknown", "1"
    found: dict[str, Step] = {}
    replaying = False
    for record in records:
        if isinstance(record, RunCreated):
            name, version = record.workflow, record.version
        elif isinstance(record, Reopened):
            replaying = record.cause == "replay"
        elif isinstance(record, _TELLING):
            _draw(found, record, replaying)
    return Definition(name, version, _body(found, ""))


_SURE = (StepStarted, WaitStarted, SleepStarted)  # they tell the kind of a step, the others let it be guessed
_TELLING = (*_SURE, StepSkipped, StepFailed, StepInherited)


def _draw(found: dict[str, Step], record: Any, replaying: bool) -> None:
    path = record.path
    base = base_path(path)
    if path != base:
        if base in found:  # else it was begun under another name, before a migration
            step = found[base]
            found[base] = replace(step, compensate=_never) if path.endswith(UNDO) else replace(step, probe=_never)
    elif path not in found or isinstance(record, _SURE):
        kind = Kind.COMMIT if replaying and isinstance(record, StepStarted) else _kind(record)
        found[path] = _step(path.rpartition("/")[2], kind, found.get(path))


def _kind(record: Record) -> Kind:
    if isinstance(record, WaitStarted):
        return Kind.WAIT
    if isinstance(record, SleepStarted):
        return Kind.SLEEP
    if isinstance(record, StepInherited) and not record.attempt and not record.skipped:
        return Kind.SLEEP if record.signal is None else Kind.WAIT
    return Kind.STEP


def _step(name: str, kind: Kind, before: Step | None) -> Step:
    """Such a step; what is called on its behalf is as it was `before`."""
    undo, probe = (None, None) if before is None else (before.compensate, before.probe)
    if kind is Kind.WAIT:
        return Step(name, kind, signal=name, compensate=undo, probe=probe)
    if kind is Kind.SLEEP:
        return Step(name, kind, duration=0, compensate=undo, probe=probe)
    kind = Kind.COMMIT if before is not None and before.kind is Kind.COMMIT else kind
    return Step(name, kind, handler=_never, compensate=undo, probe=probe)


def _body(found: dict[str, Step], prefix: str) -> Body:
    steps: list[Step] = []
    for path, step in found.items():
        parent, _, _name = path.rpartition("/")
        if parent == prefix:
            steps.append(_with_branch(found, path, step))
    return Body(tuple(steps))


def _with_branch(found: dict[str, Step], path: str, step: Step) -> Step:
    if f"{path}/on_timeout" in found:
        return replace(step, on_timeout=replace(_body(found, path), single=True))
    inner = _body(found, f"{path}/on_timeout")
    return replace(step, on_timeout=inner) if inner.steps else step

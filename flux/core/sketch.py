"""A definition drawn from a journal alone, so that a run can be read where its workflow is not registered, or no longer fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .plan import UNDO
from .records import Record, RunCreated, SleepStarted, StepFailed, StepSkipped, StepStarted, WaitStarted
from .workflow import Body, Definition, Kind, Step


def _never(ctx: Any) -> Any:
    raise RuntimeError("a sketch of a workflow cannot be run")


def sketch(records: Iterable[Record]) -> Definition:
    """A workflow of the shape that these records describe: names, kinds and order of the steps that were reached."""
    name, version = "unknown", "1"
    found: dict[str, Step] = {}
    for record in records:
        if isinstance(record, RunCreated):
            name, version = record.workflow, record.version
            continue
        path = getattr(record, "path", "")
        if not path or (kind := _kind(record)) is None:
            continue
        if path.endswith(UNDO):
            base = path[: -len(UNDO)]
            found[base] = replace(found[base], compensate=_never)
        elif path not in found:
            found[path] = _step(path.rpartition("/")[2], kind)
    return Definition(name, version, _body(found, ""))


def _kind(record: Record) -> Kind | None:
    if isinstance(record, StepStarted | StepSkipped | StepFailed):
        return Kind.STEP
    if isinstance(record, WaitStarted):
        return Kind.WAIT
    return Kind.SLEEP if isinstance(record, SleepStarted) else None


def _step(name: str, kind: Kind) -> Step:
    if kind is Kind.STEP:
        return Step(name, kind, handler=_never)
    return Step(name, kind, signal=name) if kind is Kind.WAIT else Step(name, kind, duration=0)


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

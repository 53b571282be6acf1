"""A workflow for people to see before it runs: as data (`describe`) and as a Mermaid flowchart (`to_mermaid`).

Both say the same for the same definition, always: their text can be kept and compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .core.plan import UNDO
from .core.retry import Retry
from .core.status import StepStatus
from .core.workflow import MISSING, Body, Definition, Kind, Step
from .durations import duration_text, instant_text
from .errors import InvalidArgument
from .labels import function_name, type_name

# --- as data


def describe(definition: Definition) -> dict[str, Any]:
    """Name, version, rules and steps as JSON-ready data. Durations are seconds; what the engine decides is `"default"`."""
    return {
        "name": definition.name,
        "version": definition.version,
        "deadline": _seconds(definition.deadline),
        "input": _type(definition.input_type),
        "data": _type(definition.data_type),
        "validated": definition.validator is not None,
        "on_compensation_failure": definition.on_compensation_failure,
        "steps": _describe_body(definition.body),
    }


def _describe_body(body: Body) -> list[dict[str, Any]]:
    return [_describe_step(step) for step in body.steps]


def _describe_step(step: Step) -> dict[str, Any]:
    told: dict[str, Any] = {"name": step.name, "kind": step.kind.value, "when": step.when is not None}
    if step.kind is Kind.WAIT:
        told |= _describe_wait(step)
    elif step.kind is Kind.SLEEP:
        told |= _describe_sleep(step)
    else:
        told |= _describe_called(step)
    return told


def _describe_called(step: Step) -> dict[str, Any]:
    unlimited = step.unlimited or step.kind is Kind.COMMIT
    return {
        "handler": function_name(step.handler),
        "retries": _or_default(step.retries),
        "retry": "default" if step.retry is None else _describe_retry(step.retry),
        "timeout": _seconds(step.timeout) if step.timeout is not None or unlimited else "default",
        "on_unknown": step.on_unknown,
        "waits": list(step.waits),
        "compensation": None if step.compensate is None else _describe_compensation(step),
    }


def _describe_retry(retry: Retry) -> dict[str, Any]:
    return {
        "backoff": retry.backoff,
        "initial": retry.initial,
        "factor": retry.factor,
        "maximum": retry.maximum,
        "jitter": retry.jitter,
        "retry_on": [type_name(kind) for kind in retry.retry_on],
        "give_up_on": [type_name(kind) for kind in retry.give_up_on],
        "max_elapsed": retry.max_elapsed,
    }


def _describe_compensation(step: Step) -> dict[str, Any]:
    return {
        "handler": function_name(step.compensate),
        "retries": _or_default(step.compensate_retries),
        "timeout": _or_default(_seconds(step.compensate_timeout)),
        "when": step.compensate_when,
    }


def _describe_wait(step: Step) -> dict[str, Any]:
    return {
        "signal": step.signal or step.name,
        "type": _type(step.type),
        "timeout": _seconds(step.timeout),
        "has_default": step.default is not MISSING,
        "on_timeout": None if step.on_timeout is None else _describe_body(step.on_timeout),
    }


def _describe_sleep(step: Step) -> dict[str, Any]:
    return {
        "seconds": _seconds(step.duration),
        "until": None if step.until is None else instant_text(step.until),
        "computed": step.compute is not None,
    }


def _seconds(micros: int | None) -> float | None:
    return None if micros is None else micros / 1_000_000


def _type(kind: Any) -> str | None:
    return None if kind is None else type_name(kind)


def _or_default(value: float | None) -> float | str:
    return "default" if value is None else value


# --- as a flowchart

_COLOURS: dict[StepStatus, str] = {
    StepStatus.PENDING: "fill:#f1f3f5,stroke:#868e96,color:#212529",
    StepStatus.RUNNING: "fill:#d0ebff,stroke:#1971c2,color:#212529",
    StepStatus.SUSPENDED: "fill:#fff3bf,stroke:#e67700,color:#212529",
    StepStatus.COMPLETED: "fill:#d3f9d8,stroke:#2b8a3e,color:#212529",
    StepStatus.FAILED: "fill:#ffe3e3,stroke:#c92a2a,color:#212529",
    StepStatus.SKIPPED: "fill:#ffffff,stroke:#adb5bd,color:#868e96,stroke-dasharray:4",
    StepStatus.CANCELLED: "fill:#e9ecef,stroke:#495057,color:#212529",
    StepStatus.COMPENSATING: "fill:#ffe8cc,stroke:#d9480f,color:#212529",
    StepStatus.COMPENSATED: "fill:#e5dbff,stroke:#5f3dc4,color:#212529",
}

_SHAPES: dict[Kind, tuple[str, str]] = {Kind.STEP: ("[", "]"), Kind.COMMIT: ("[[", "]]"), Kind.WAIT: ("{{", "}}"), Kind.SLEEP: ("(", ")")}

_Ends = list[tuple[str, str]]  # nodes that lead on to what comes next, each with its arrow

_ESCAPES = str.maketrans({"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\n": " ", "\r": " "})


def to_mermaid(definition: Definition, statuses: Mapping[str, str] | None = None) -> str:
    """The text of a Mermaid flowchart. `statuses` maps paths to step statuses (`reserve!undo` is a compensation).

    Commit steps have double sides, waits are hexagons, sleeps rounded; a diamond asks a condition, with a dotted way round;
    compensations hang beside their steps. A path the workflow does not have is passed over. Raises InvalidArgument for an
    unknown status.
    """
    chart = _Chart()
    chart.nodes.append(f"    start([{_text(f'{definition.name} {definition.version}')}])")
    ends = chart.draw_body(definition.body, "", "", [("start", "-->")], "    ")
    chart.nodes.append(f"    done([{_text('completed')}])")
    chart.link(ends, "done")
    return "\n".join(["flowchart TD", *chart.nodes, *chart.edges, *chart.colours(statuses or {})]) + "\n"


class _Chart:
    """A flowchart in the making: its lines, and which node stands for which path."""

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self.edges: list[str] = []
        self.ids: dict[str, str] = {}

    def link(self, ends: _Ends, node: str) -> None:
        self.edges.extend(f"    {end} {arrow} {node}" for end, arrow in ends)

    def draw_body(self, body: Body, path: str, number: str, ends: _Ends, indent: str) -> _Ends:
        """Draw the steps one after the other; `ends` lead in, and those returned lead out."""
        for index, step in enumerate(body.steps, start=1):
            inner = f"{path}/{step.name}" if path else step.name
            title = function_name(step.handler) if body.single else step.name
            ends = self._draw_step(step, title, inner, f"{number}_{index}" if number else str(index), ends, indent)
        return ends

    def _draw_step(self, step: Step, title: str, path: str, number: str, ends: _Ends, indent: str) -> _Ends:
        node = f"s{number}"
        self.ids[path] = node
        round_it: _Ends = []
        if step.when is not None:
            self.nodes.append(f"{indent}c{number}{{{_text(f'{step.name}?')}}}")
            self.link(ends, f"c{number}")
            ends, round_it = [(f"c{number}", "-->")], [(f"c{number}", "-. skip .->")]
        opening, closing = _SHAPES[step.kind]
        self.nodes.append(f"{indent}{node}{opening}{_text(title, _note(step))}{closing}")
        self.link(ends, node)
        if step.compensate is not None:
            self._draw_compensation(step, path, number, indent)
        return [(node, "-->"), *self._draw_inner(step, path, number, indent), *round_it]

    def _draw_compensation(self, step: Step, path: str, number: str, indent: str) -> None:
        self.ids[path + UNDO] = f"u{number}"
        self.nodes.append(f"{indent}u{number}[/{_text(f'undo: {function_name(step.compensate)}')}/]")
        self.edges.append(f"    s{number} -.- u{number}")

    def _draw_inner(self, step: Step, path: str, number: str, indent: str) -> _Ends:
        if step.on_timeout is None:
            return []
        self.nodes.append(f"{indent}subgraph t{number}[{_text(f'{step.name}: on timeout')}]")
        inner = path if step.on_timeout.single else f"{path}/on_timeout"
        ends = self.draw_body(step.on_timeout, inner, number, [(f"s{number}", "-->|timeout|")], f"{indent}    ")
        self.nodes.append(f"{indent}end")
        return ends

    def colours(self, statuses: Mapping[str, str]) -> list[str]:
        """The lines that colour the nodes of these paths."""
        coloured: dict[StepStatus, list[str]] = {}
        found = {path: _status(path, status) for path, status in statuses.items()}
        for path, node in self.ids.items():
            if path in found:
                coloured.setdefault(found[path], []).append(node)
        lines: list[str] = []
        for status in StepStatus:
            if status in coloured:
                lines.append(f"    classDef {status.value} {_COLOURS[status]}")
                lines.append(f"    class {','.join(coloured[status])} {status.value}")
        return lines


def _status(path: str, status: str) -> StepStatus:
    try:
        return StepStatus(status)
    except ValueError:
        known = ", ".join(known.value for known in StepStatus)
        raise InvalidArgument(f"status {status!r} of {path!r} is not known; expected one of: {known}") from None


def _note(step: Step) -> str:
    """What a node says below its name."""
    if step.kind is Kind.WAIT:
        parts = [] if step.signal in (None, step.name) else [f"signal {step.signal}"]
        if step.timeout is not None:
            after = "default after" if step.default is not MISSING else "at most"
            parts.append(f"{after} {duration_text(step.timeout)}")
        return ", ".join(parts)
    if step.kind is not Kind.SLEEP:
        return ""
    if step.duration is not None:
        return duration_text(step.duration)
    return "computed" if step.until is None else f"until {instant_text(step.until)}"


def _text(title: str, note: str = "") -> str:
    """A quoted label, with nothing in it that Mermaid reads as its own."""
    lines = [line.translate(_ESCAPES) for line in (title, note) if line]
    return '"' + "<br/>".join(lines) + '"'

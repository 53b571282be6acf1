"""A workflow for people to see before it runs: as data (`describe`) and as a Mermaid flowchart (`to_mermaid`).

Both say the same for the same definition, always: their text can be kept and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .core.patterns import body_path, numbers, pattern, step_path
from .core.plan import UNDO
from .core.retry import Retry
from .core.status import StepStatus
from .core.workflow import MISSING, Body, Definition, Kind, Step, is_graph
from .durations import duration_text, instant_text, to_microseconds
from .errors import InvalidArgument
from .labels import function_name, type_name
from .queue import Queue

# --- as data


def describe(definition: Definition) -> dict[str, Any]:
    """Name, version, rules and steps as JSON-ready data. Durations are seconds; what the engine decides is `"default"`. `after` names
    the steps that one comes after in a graph; in a sequence it is None."""
    return {
        "name": definition.name,
        "version": definition.version,
        "deadline": _seconds(definition.deadline),
        "input": _type(definition.input_type),
        "data": _type(definition.data_type),
        "validated": definition.validator is not None,
        "on_compensation_failure": definition.on_compensation_failure,
        "queue": _queue(definition.queue),
        "steps": _describe_body(definition.body),
    }


def _queue(queue: Queue | None) -> dict[str, Any] | None:
    if queue is None:
        return None
    rate = None if queue.rate is None else [queue.rate[0], _seconds(to_microseconds(queue.rate[1], "rate"))]
    return {
        "concurrency": queue.concurrency, "worker_concurrency": queue.worker_concurrency, "per_key": queue.per_key, "rate": rate,
        "key": None if queue.key is None else function_name(queue.key),
    }  # fmt: skip


def _describe_body(body: Body) -> list[dict[str, Any]]:
    graph = is_graph(body)
    return [{**_describe_step(step), "after": list(step.after or ()) if graph else None} for step in body.steps]


def _describe_step(step: Step) -> dict[str, Any]:
    return {"name": step.name, "kind": step.kind.value, "when": step.when is not None, **_DESCRIBE[step.kind](step)}


def _describe_called(step: Step) -> dict[str, Any]:
    unlimited = step.unlimited or step.kind is Kind.COMMIT
    return {
        "handler": function_name(step.handler),
        "retries": _or_default(step.retries),
        "retry": "default" if step.retry is None else _describe_retry(step.retry),
        "timeout": _seconds(step.timeout) if step.timeout is not None or unlimited else "default",
        "on_unknown": step.on_unknown,
        "probe": _function(step.probe),
        "pivot": step.pivot,
        "transactional": step.transactional,
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


def _describe_parallel(step: Step) -> dict[str, Any]:
    return {"branches": _describe_branches(step), "join": step.join, **_describe_meeting(step)}


def _describe_route(step: Step) -> dict[str, Any]:
    return {"selector": function_name(step.selector), "branches": _describe_branches(step)}


def _describe_loop(step: Step) -> dict[str, Any]:
    return {
        "while": _function(step.go_on),
        "until": _function(step.stop),
        "at_most": step.at_most,
        "body": _describe_body(step.body or Body()),
    }


def _describe_for_each(step: Step) -> dict[str, Any]:
    return {
        "items": function_name(step.items),
        "concurrency": step.concurrency,
        "at_least": step.at_least,
        **_describe_meeting(step),
        "body": _describe_body(step.body or Body()),
    }


def _describe_branches(step: Step) -> dict[str, list[dict[str, Any]]]:
    return {name: _describe_body(body) for name, body in step.branches}


def _describe_meeting(step: Step) -> dict[str, Any]:
    return {"on_failure": step.on_failure, "merge": _function(step.merge)}


def _describe_child(step: Step) -> dict[str, Any]:
    if step.child is None:
        return {"workflow": None, "version": None, "input": None}
    return {"workflow": step.child.name, "version": step.child.version, "input": _function(step.child_input)}


_DESCRIBE: dict[Kind, Callable[[Step], dict[str, Any]]] = {
    Kind.STEP: _describe_called,
    Kind.COMMIT: _describe_called,
    Kind.WAIT: _describe_wait,
    Kind.SLEEP: _describe_sleep,
    Kind.PARALLEL: _describe_parallel,
    Kind.ROUTE: _describe_route,
    Kind.LOOP: _describe_loop,
    Kind.FOR_EACH: _describe_for_each,
    Kind.CHILD: _describe_child,
}


def _function(value: Any) -> str | None:
    return None if value is None else function_name(value)


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

_WORST = (  # of several items, the status that says most, last
    StepStatus.SKIPPED, StepStatus.COMPLETED, StepStatus.COMPENSATED, StepStatus.CANCELLED, StepStatus.PENDING, StepStatus.SUSPENDED,
    StepStatus.RUNNING, StepStatus.COMPENSATING, StepStatus.FAILED,
)  # fmt: skip

_SHAPES: dict[Kind, tuple[str, str]] = {
    Kind.STEP: ("[", "]"),
    Kind.COMMIT: ("[[", "]]"),
    Kind.WAIT: ("{{", "}}"),
    Kind.SLEEP: ("(", ")"),
    Kind.PARALLEL: ("[/", "\\]"),
    Kind.ROUTE: ("{", "}"),
    Kind.LOOP: ("([", "])"),
    Kind.FOR_EACH: ("[/", "\\]"),
    Kind.CHILD: ("[\\", "/]"),
}

_BACK = {"-. skip .->": "-.->"}  # arrows with a word of their own, without it

_Ends = list[tuple[str, str]]  # nodes that lead on to what comes next, each with its arrow

_ESCAPES = str.maketrans({"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\n": " ", "\r": " "})


def to_mermaid(definition: Definition, statuses: Mapping[str, str] | None = None) -> str:
    """The text of a Mermaid flowchart, of a graph as it is. `statuses` maps paths to step statuses (`reserve!undo` is a compensation).

    Commit steps have double sides, waits are hexagons, sleeps rounded; a diamond asks a condition, with a dotted way round;
    compensations hang beside their steps. Parallel branches and items go from a fork to a join, a route is a diamond with one way a
    branch, a loop has a way back. The step in a loop has the status of the latest turn, that of a for_each the worst of the items.
    A path the workflow does not have is passed over. Raises InvalidArgument for an unknown status.
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
        self.loops: set[str] = set()

    def link(self, ends: _Ends, node: str) -> None:
        self.edges.extend(f"    {end} {arrow} {node}" for end, arrow in ends)

    def draw_body(self, body: Body, at: str, number: str, ends: _Ends, indent: str) -> _Ends:
        """Draw the steps one after the other, or each after those that it comes after; `ends` lead in, and those returned lead out."""
        graph = is_graph(body)
        out: dict[str, _Ends] = {}
        for index, step in enumerate(body.steps, start=1):
            title = function_name(step.handler) if body.single else step.name
            before = step.after if graph else list(out)[-1:]
            into = [end for name in before for end in out[name]] if before else ends
            out[step.name] = self._draw_step(
                step, title, step_path(body, at, step), f"{number}_{index}" if number else str(index), into, indent
            )
        followed = {name for step in body.steps for name in step.after or ()} if graph else {*list(out)[:-1]}
        last = [found for name, found in out.items() if name not in followed]
        return [end for found in last for end in found] if last else ends

    def _draw_step(self, step: Step, title: str, path: str, number: str, ends: _Ends, indent: str) -> _Ends:
        self.ids[path] = f"s{number}"
        round_it: _Ends = []
        if step.when is not None:
            self.nodes.append(f"{indent}c{number}{{{_text(f'{step.name}?')}}}")
            self.link(ends, f"c{number}")
            ends, round_it = [(f"c{number}", "-->")], [(f"c{number}", "-. skip .->")]
        if step.kind is Kind.LOOP:
            return [*self._draw_loop(step, path, number, ends, indent), *round_it]
        if step.kind in (Kind.PARALLEL, Kind.FOR_EACH):
            return [*self._draw_fan(step, path, number, ends, indent), *round_it]
        self._draw_node(step, title, number, ends, indent)
        if step.compensate is not None:
            self._draw_compensation(step, path, number, indent)
        if step.kind is Kind.ROUTE:
            return [*self._draw_branches(step, path, number, indent), *round_it]
        return [(f"s{number}", "-->"), *self._draw_on_timeout(step, path, number, indent), *round_it]

    def _draw_node(self, step: Step, title: str, number: str, ends: _Ends, indent: str) -> None:
        opening, closing = _SHAPES[step.kind]
        self.nodes.append(f"{indent}s{number}{opening}{_text(title, _note(step))}{closing}")
        self.link(ends, f"s{number}")

    def _draw_compensation(self, step: Step, path: str, number: str, indent: str) -> None:
        self.ids[path + UNDO] = f"u{number}"
        self.nodes.append(f"{indent}u{number}[/{_text(f'undo: {function_name(step.compensate)}')}/]")
        self.edges.append(f"    s{number} -.- u{number}")

    def _draw_on_timeout(self, step: Step, path: str, number: str, indent: str) -> _Ends:
        if step.on_timeout is None:
            return []
        at = body_path(step, path, "on_timeout")
        return self._draw_boxed(
            step.on_timeout, f"{step.name}: on timeout", at, f"t{number}", number, (f"s{number}", "-->|timeout|"), indent
        )

    def _draw_boxed(self, body: Body, title: str, at: str, box: str, number: str, way: tuple[str, str], indent: str) -> _Ends:
        self.nodes.append(f"{indent}subgraph {box}[{_text(title)}]")
        ends = self.draw_body(body, at, number, [way], f"{indent}    ")
        self.nodes.append(f"{indent}end")
        return ends

    def _draw_branches(self, step: Step, path: str, number: str, indent: str) -> _Ends:
        """The branches of a route or a parallel, each in a box of its own."""
        ends: _Ends = []
        for index, (name, body) in enumerate(step.branches, start=1):
            inner = f"{number}_{index}"
            ends += self._draw_boxed(body, name, body_path(step, path, name), f"b{inner}", inner, (f"s{number}", _way(step, name)), indent)
        return ends

    def _draw_fan(self, step: Step, path: str, number: str, ends: _Ends, indent: str) -> _Ends:
        """Branches or items beside one another, between a fork and a join."""
        inner = f"{indent}    "
        self.nodes.append(f"{indent}subgraph p{number}[{_text(_together(step))}]")
        self._draw_node(step, step.name, number, ends, inner)
        if step.body is not None:
            ends = self.draw_body(step.body, body_path(step, path, "body"), number, [(f"s{number}", "-->")], inner)
        else:
            ends = self._draw_branches(step, path, number, inner)
        self.nodes.extend((f"{inner}j{number}[\\{_text(_join(step))}/]", f"{indent}end"))
        self.link(ends, f"j{number}")
        return [(f"j{number}", "-->")]

    def _draw_loop(self, step: Step, path: str, number: str, ends: _Ends, indent: str) -> _Ends:
        """A body with a way back to its head. `while_` is asked at the head and leads out from there, `until` at the end."""
        self.loops.add(path)
        self.nodes.append(f"{indent}subgraph p{number}[{_text('loop')}]")
        self._draw_node(step, step.name, number, ends, f"{indent}    ")
        ends = self.draw_body(step.body or Body(), body_path(step, path, "body"), number, [(f"s{number}", "-->")], f"{indent}    ")
        self.nodes.append(f"{indent}end")
        back = _again(step)
        self.link([(end, _BACK.get(arrow, "-->") + f"|{_text(back)}|") for end, arrow in ends], f"s{number}")
        out: _Ends = [] if step.go_on is None else [(f"s{number}", "-->|done|")]
        return out if step.go_on is not None and step.stop is None else [*out, *ends]

    def colours(self, statuses: Mapping[str, str]) -> list[str]:
        """The lines that colour the nodes of these paths."""
        coloured: dict[StepStatus, list[str]] = {}
        found = self._by_pattern({path: _status(path, status) for path, status in statuses.items()})
        for path, node in self.ids.items():
            if path in found:
                coloured.setdefault(found[path], []).append(node)
        lines: list[str] = []
        for status in StepStatus:
            if status in coloured:
                lines.append(f"    classDef {status.value} {_COLOURS[status]}")
                lines.append(f"    class {','.join(coloured[status])} {status.value}")
        return lines

    def _by_pattern(self, found: dict[str, StepStatus]) -> dict[str, StepStatus]:
        """What a node shows that stands for many paths: the latest turn of its loops, and of the items in it the worst."""
        latest: dict[str, int] = {}
        for path in found:
            for loop, turn in self._turns(path):
                latest[loop] = max(turn, latest.get(loop, turn))
        shown: dict[str, StepStatus] = {}
        for path, status in found.items():
            if all(turn == latest[loop] for loop, turn in self._turns(path)):
                key = pattern(path)
                shown[key] = max(shown.get(key, status), status, key=_WORST.index)
        return shown

    def _turns(self, path: str) -> Iterator[tuple[str, int]]:
        """The loops on the way to a path, and which turn of each it is in."""
        return ((owner, number) for owner, number in numbers(path) if pattern(owner) in self.loops)


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
    if step.child is not None:
        return f"workflow {step.child.name}"
    if step.kind is not Kind.SLEEP:
        return ""
    if step.duration is not None:
        return duration_text(step.duration)
    return "computed" if step.until is None else f"until {instant_text(step.until)}"


def _way(step: Step, name: str) -> str:
    """The arrow that leads into a branch."""
    if step.kind is not Kind.ROUTE:
        return "-->"
    return f"{'-.->' if name == 'default' else '-->'}|{_text(name)}|"


def _together(step: Step) -> str:
    if step.kind is Kind.PARALLEL:
        return "in parallel"
    return f"for each ({'all' if step.concurrency is None else step.concurrency} at once)"


def _join(step: Step) -> str:
    """What a join waits for."""
    if step.kind is Kind.FOR_EACH:
        return "all" if step.at_least is None else f"at least {step.at_least}"
    return step.join if isinstance(step.join, str) else f"{step.join} of {len(step.branches)}"


def _again(step: Step) -> str:
    """What the way back of a loop says."""
    tests = [f"{word} {function_name(test)}" for word, test in (("while", step.go_on), ("until", step.stop)) if test is not None]
    return ", ".join([*tests, f"at most {step.at_most}"]) if tests else f"{step.at_most} times"


def _text(title: str, note: str = "") -> str:
    """A quoted label, with nothing in it that Mermaid reads as its own."""
    lines = [line.translate(_ESCAPES) for line in (title, note) if line]
    return '"' + "<br/>".join(lines) + '"'

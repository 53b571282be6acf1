"""Writes what was found: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from .environments import versions
from .figures import FLOOR, Line, figures_of, lines, spread
from .goals import goals
from .plan import STORAGE_NAMES, WORKLOADS, Figure, Scale, Workload
from .runner import Found
from .subjects import Subject

NOTHING = "—"


def show(value: float, unit: str) -> str:
    """A figure with its unit, three digits of it."""
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
            if value * factor >= 1 or name == "µs":
                return f"{_digits(value * factor)} {name}"
    if unit == "B":
        factor, name = next(((factor, name) for factor, name in ((2**20, "MB"), (2**10, "kB")) if value >= factor), (1, "B"))
        return f"{_digits(value / factor)} {name}"
    if unit == "%":
        return f"{value * 100:.2f} %"
    if unit == "x":
        return f"{value:.2f}" if value < 10 else _digits(value)
    return _digits(value)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(line: Line, figure: Figure, rounds: int) -> str:
    """Median, the spread or that it was measured once, and the percentage of the limit."""
    values = line.values.get(figure.name)
    if not values:
        return NOTHING
    least, middle, most = (show(value, figure.unit) for value in spread(values))
    around = f" ({least} – {most})" if len(values) > 1 else " (once)" if rounds > 1 else ""
    limit = line.limits.get(figure.name)
    return middle + around + ("" if limit is None else f", {_percent(limit)}")


def _percent(part: float) -> str:
    return f"{part * 100:.0f} %" if part >= 0.1 else f"{part * 100:.1f} %"


def row(cells: Iterable[str]) -> str:
    """Of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def table(workload: Workload, found: Sequence[Line], scale: Scale) -> list[str]:
    """One workload; a column that would be empty is left out."""
    figures = figures_of(workload, scale)
    columns = {"storage": [STORAGE_NAMES[line.storage] for line in found], "who": [line.subject for line in found]}
    columns |= {figure.title: [cell(line, figure, scale.rounds) for line in found] for figure in figures}
    if workload.key != "W8":  # of weight nothing is faster
        columns["flux is faster by"] = [NOTHING if line.against is None else f"{show(line.against, 'x')} ×" for line in found]
    shown = {title: cells for title, cells in columns.items() if any(text != NOTHING for text in cells)}
    text = [f"## {workload.key}: {workload.title}", "", row(shown), row("---" for _ in shown)]
    text += [row(cells) for cells in zip(*shown.values(), strict=True)]
    sizes = scale.sizes[workload.key]
    durable, theirs = _sizes(sizes["sqlite"]), _sizes(scale.peers.get(workload.key, {}))
    return [*text, "", f"Sizes: {durable}; in memory: {_sizes(sizes['memory'])}; peers: {theirs}.", ""]


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{value:,} {name.partition('_')[0]}" for name, value in sizes.items() if value) or "none"


def goal_table(found: Found) -> list[str]:
    """What flux aims for."""
    text = ["## Goals", "", row(["goal", "aim", "this run", "reached"]), row(["---"] * 4)]
    for goal in goals(found):
        figure = "not measured" if goal.figure is None else show(goal.figure, goal.unit)
        aim = ("≤ " if goal.at_most else "≥ ") + show(goal.aim, goal.unit)
        text.append(row([goal.title, aim, figure, {None: "—", True: "yes", False: "no"}[goal.reached]]))
    return [*text, ""]


def notes(found: Found, subjects: Sequence[Subject]) -> list[str]:
    """Who took part and how, and what could not be measured."""
    text = ["## Who took part", ""]
    for subject in subjects:
        if subject.setup:
            version = f" {versions(subject.environment).get(subject.package, '')}" if subject.package else ""
            extra = "".join(f", {name} {number}" for name, number in versions("node").items()) if subject.needs else ""
            weight = f" Durability: {subject.durability}." if subject.durability else ""
            where = f" ({STORAGE_NAMES[next(iter(subject.takes))].partition(',')[0]})" if subject.name == FLOOR else ""
            text.append(f"- **{subject.name}{where}{version}{extra}**: {subject.setup}.{weight}")
    text += ["", "## Not measured", ""]
    text += [f"- {subject.name}: {subject.absent}." for subject in subjects if subject.absent]
    text += [f"- {name}: {' '.join(reason.split())}" for name, reason in found.missing.items()]
    return [*text, ""]


def markdown(found: Found, scale: Scale, subjects: Sequence[Subject], machine: dict[str, str], command: str, done: int) -> str:
    """The whole report, of so many rounds that are done."""
    all_lines = list(lines(found, scale))
    text = [
        "# Results", "",
        f"Medians of {scale.rounds} rounds (least – most), everybody in turns in each round, each measurement in a process of its own."
        " Percentages say what part of the limit's speed was reached: of the floor on the same storage. They and the ratios are medians of"
        " those in each round. Reproduce: `" + command + "`.",
        "", *([f"**Not complete: {done} of {scale.rounds} rounds.**", ""] if done < scale.rounds else []),
        *(f"- {name}: {value}" for name, value in machine.items()), "", "![plot](latest.png)", "", *goal_table(found),
    ]  # fmt: skip
    for workload in WORKLOADS:
        here = [line for line in all_lines if line.workload is workload]
        if here:
            text += table(workload, here, scale)
    return "\n".join([*text, *notes(found, subjects)])


def as_json(found: Found, scale: Scale, machine: dict[str, str]) -> str:
    """Every single measurement, and the medians."""
    rows = [
        {
            "workload": line.workload.key, "title": line.workload.title, "storage": line.storage, "subject": line.subject,
            "median": {name: median(values) for name, values in line.values.items()}, "values": line.values,
            "of_the_limit": line.limits, "flux_is_faster_by": line.against,
        }
        for line in lines(found, scale)
    ]  # fmt: skip
    return json.dumps({"machine": machine, "rounds": scale.rounds, "results": rows, "missing": found.missing}, indent=1)


def write(folder: Path, name: str, text: str, data: str) -> None:
    """`name`.md and `name`.json."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / f"{name}.json").write_text(data + "\n", encoding="utf-8")

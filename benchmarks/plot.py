"""The picture: a bar for everybody in each of the main workloads, the floor as a line. `python plot.py RESULTS.json PICTURE.png`.

Runs in an environment of its own, which has matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

PANELS = (
    ("W1", "latency", "Five steps, one after the other", "ms a workflow: less is better", 1e3),
    ("W2", "rate", "Five steps, 100 in flight", "workflows/s: more is better", 1.0),
    ("W4", "latency", "Enqueue → result through a worker", "ms: less is better", 1e3),
    ("W5", "latency", "Start only", "ms: less is better", 1e3),
)
NAMES = {"memory": "memory", "sqlite": "SQLite", "sqlite-normal": "SQLite NORMAL", "postgres": "PostgreSQL", "own": "own server"}
COLOURS = {"floor": "#b8b8b8", "flux": "#1f6fb2", "flux + uvloop": "#7fb3dc"}
PEER = "#d98c3f"


def bars(results: list[dict[str, Any]], workload: str, figure: str, factor: float) -> list[tuple[str, float, float, float, str]]:
    """Label, median, distance to least and to most, colour."""
    found = []
    for row in results:
        values = row["values"].get(figure)
        if row["workload"] == workload and values:
            middle = row["median"][figure] * factor
            colour = COLOURS.get(row["subject"], PEER)
            low, high = min(values) * factor, max(values) * factor
            found.append((f"{NAMES[row['storage']]}: {row['subject']}", middle, middle - low, high - middle, colour))
    return found


def draw(results: list[dict[str, Any]], title: str, target: Path) -> None:
    """One panel a workload, on a logarithmic scale: the differences are of orders of magnitude."""
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(6 * len(PANELS), 8), constrained_layout=True)
    for axis, (workload, name, heading, unit, factor) in zip(axes, PANELS, strict=True):
        found = bars(results, workload, name, factor)[::-1]
        axis.set_title(f"{workload}: {heading}")
        if not found:
            axis.set_axis_off()
            continue
        labels, middles, below, above, colours = zip(*found, strict=True)
        axis.barh(labels, middles, xerr=[below, above], color=colours, error_kw={"elinewidth": 0.8})
        axis.set_xscale("log")
        axis.set_xlabel(unit)
        for at, middle in enumerate(middles):
            axis.annotate(f" {middle:,.3g}" if middle < 1000 else f" {middle:,.0f}", (middle + above[at], at), va="center", fontsize=8)
        axis.margins(x=0.25)
    figure.suptitle(title)
    figure.savefig(target, dpi=90)


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    machine = told["machine"]
    heading = f"{machine['date']}, {machine['processor']}, Python {machine['python']}; median and spread of {told['rounds']} rounds"
    draw(told["results"], heading, Path(sys.argv[2]))

"""flux beside the machine's limit, and beside DBOS: `python -m benchmarks [--quick] [--peers]`.

Every figure is the median of several rounds; in each round floor, flux and peer take turns, so that a drift of the machine meets
all of them. Results go to `benchmarks/results/latest.md` and `.json`. Needs the project installed with its sqlite extra; `--peers`
makes an environment for DBOS under `benchmarks/.peers`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

from . import flux_side as flux
from .floors import sqlite_commits

HERE = Path(__file__).resolve().parent
DBOS = "dbos==3.4.0"
Figures = dict[str, list[float]]


def note(figures: Figures, name: str, value: float) -> None:
    """One more measurement."""
    figures.setdefault(name, []).append(value)
    print(f"  {name}: {value:.6g}", flush=True)


def one_round(figures: Figures, folder: Path, scale: float, peer: Callable[[Path], dict[str, float]] | None) -> None:
    """Everything once, in turns."""
    few, many = int(200 * scale), int(2000 * scale)
    memory = int(3000 * scale)
    note(figures, "memory W1, s a workflow", asyncio.run(flux.sequential("memory:", memory)) / memory)
    for mode in ("FULL", "NORMAL"):
        target = "sqlite" if mode == "FULL" else "sqlite-normal"
        note(figures, f"floor {mode}, s a workflow", sqlite_commits(folder, few, mode) / few)
        note(figures, f"sqlite {mode} W1, s a workflow", asyncio.run(flux.sequential(flux.url(folder, target), few)) / few)
        note(figures, f"sqlite {mode} W2, workflows/s", many / asyncio.run(flux.in_flight(flux.url(folder, target), many)))
    busy = asyncio.run(flux.busy_neighbour(flux.url(folder, "sqlite"), few))
    note(figures, "sqlite FULL W2 beside a busy neighbour, workflows/s", few / busy)
    first, last = asyncio.run(flux.long_run(flux.url(folder, "sqlite")))
    note(figures, "W3 last thousand steps / first thousand", last / first)
    if peer is not None:
        found = peer(folder)
        note(figures, "DBOS W1, s a workflow", found["sequential"])
        note(figures, "DBOS W2, workflows/s", 1 / found["in_flight"])


def prepare_dbos() -> Callable[[Path], dict[str, float]]:
    """An environment with the pinned DBOS, and how to run its side."""
    home = HERE / ".peers" / "dbos"
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", DBOS], check=True)

    def run(folder: Path) -> dict[str, float]:
        place = tempfile.mkdtemp(dir=folder)
        command = [str(python), str(HERE / "peer_dbos.py"), place, "30", "300"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer

    return run


def lines(middle: dict[str, float]) -> list[str]:
    """The table of ratios."""
    rows = [("Memory, one after the other", f"{middle['memory W1, s a workflow'] * 1e6:.0f} µs a workflow", "—")]
    for mode in ("FULL", "NORMAL"):
        mine, floor = middle[f"sqlite {mode} W1, s a workflow"], middle[f"floor {mode}, s a workflow"]
        rows.append((f"SQLite {mode}, one after the other", f"{mine * 1e3:.2f} ms a workflow", f"{mine / floor:.2f} × bare sqlite3"))
        rate = middle[f"sqlite {mode} W2, workflows/s"]
        rows.append((f"SQLite {mode}, 100 in flight", f"{rate:,.0f} workflows/s, {rate * 5:,.0f} steps/s", "—"))
    busy = middle["sqlite FULL W2 beside a busy neighbour, workflows/s"]
    rows.append(("SQLite FULL, 100 in flight, busy event loop", f"{busy:,.0f} workflows/s", "—"))
    rows.append(("10,000 steps in one run", "last thousand / first thousand", f"{middle['W3 last thousand steps / first thousand']:.2f}"))
    if "DBOS W1, s a workflow" in middle:
        slow, rate = middle["DBOS W1, s a workflow"], middle["DBOS W2, workflows/s"]
        mine, fast = middle["sqlite FULL W1, s a workflow"], middle["sqlite FULL W2, workflows/s"]
        rows.append(("DBOS on SQLite, one after the other", f"{slow * 1e3:.1f} ms a workflow", f"flux: {slow / mine:.0f} × faster"))
        rows.append(("DBOS on SQLite, 100 in flight", f"{rate:,.0f} workflows/s", f"flux: {fast / rate:.0f} × as many"))
    return ["| workload: five trivial steps | median | ratio |", "|---|---|---|", *[f"| {a} | {b} | {c} |" for a, b, c in rows]]


def write(figures: Figures, rounds: int) -> None:
    """The results, for people and for programs."""
    middle = {name: median(values) for name, values in figures.items()}
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, {versions}"
    date = datetime.now(timezone.utc).date().isoformat()
    spread = [f"| {name} | {min(v):.6g} | {median(v):.6g} | {max(v):.6g} |" for name, v in figures.items()]
    text = [
        "# Results", "", f"{date}, {machine}; medians of {rounds} rounds in turns. Reproduce: `python -m benchmarks --peers`.", "",
        *lines(middle), "", "## Spread", "", "| figure | min | median | max |", "|---|---|---|---|", *spread, "",
    ]  # fmt: skip
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "latest.md").write_text("\n".join(text), encoding="utf-8")
    (results / "latest.json").write_text(json.dumps({"date": date, "machine": machine, "figures": figures}, indent=1), encoding="utf-8")
    print("\n".join(text))


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--peers", action="store_true", help="DBOS too")
    chosen = parser.parse_args()
    rounds, scale = (1, 0.2) if chosen.quick else (5, 1.0)
    peer = prepare_dbos() if chosen.peers else None
    figures: Figures = {}
    with tempfile.TemporaryDirectory(dir=HERE) as place:
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            one_round(figures, Path(place), scale, peer)
    write(figures, rounds)


if __name__ == "__main__":
    sys.exit(main())

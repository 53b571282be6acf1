"""This tree beside another revision of it: `python -m benchmarks --compare REV`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import report
from .figures import figures_of, over, spread
from .plan import BY_KEY, STORAGE_NAMES, Figure, Scale
from .runner import Found

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = ("W1", "W2", "W3", "W4", "W5", "W6")


def name_of(revision: str) -> str:
    """How the other tree is called."""
    return f"flux@{revision}"


@contextmanager
def checked_out(revision: str) -> Iterator[tuple[Path, str]]:
    """A work tree of that revision in a temporary folder, and its short name."""
    short = _git("rev-parse", "--short", revision)
    with tempfile.TemporaryDirectory(prefix="flux-tree-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", "--quiet", str(tree), revision)
        try:
            yield tree, short
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def write(folder: Path, found: Found, scale: Scale, machine: dict[str, str], revision: str, command: str) -> None:
    """compare.md and compare.json."""
    text = "\n".join([
        f"# This tree beside {revision}", "",
        f"Medians of {scale.rounds} rounds (least – most), in turns. The change is beyond the noise where the spreads do not meet."
        f" Reproduce: `{command}`.", "",
        *(f"- {name}: {value}" for name, value in machine.items()), "", *_table(found, scale, revision), "",
        *(f"- not measured: {name}: {' '.join(reason.split())}" for name, reason in found.missing.items()),
    ])  # fmt: skip
    values = [{"workload": key[0], "storage": key[1], "subject": key[2], "values": figures} for key, figures in found.values.items()]
    report.write(folder, "compare", text, json.dumps({"machine": machine, "results": values}, indent=1))


def _table(found: Found, scale: Scale, revision: str) -> list[str]:
    head = ["workload", "storage", "figure", revision, "this tree", "speed", "beyond the noise"]
    text = [report.row(head), report.row("---" for _ in head)]
    for (key, storage, subject), new in found.values.items():
        old = found.values.get((key, storage, name_of(revision)), {})
        if subject == "flux":
            for figure in figures_of(BY_KEY[key], scale):
                if old.get(figure.name) and new.get(figure.name):
                    text.append(report.row([key, STORAGE_NAMES[storage], *_cells(figure, old[figure.name], new[figure.name])]))
    return text


def _cells(figure: Figure, old: list[float], new: list[float]) -> list[str]:
    def shown(values: list[float]) -> str:
        least, middle, most = (report.show(value, figure.unit) for value in spread(values))
        return f"{middle} ({least} – {most})"

    factor = over(old, new) if all(new) else 1.0
    factor = factor if figure.less else 1 / factor
    apart = max(new) < min(old) or min(new) > max(old)
    return [figure.title, shown(old), shown(new), f"{factor:.2f} ×", "yes" if apart and len(new) > 1 else "no"]

"""Where a step's microseconds go: `python -m benchmarks --profile`. The sampling is done by `sides/profile_side.py`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from .environments import python
from .postgres import running_server
from .runner import ROOT
from .subjects import SIDES

COUNTS = {"memory": 20_000, "sqlite": 1500, "sqlite-normal": 3000, "postgres": 1000}
WORKLOADS = {"W1": "one workflow after the other", "W2": "100 in flight"}
FUNCTIONS = 30


def show(storages: list[str] | tuple[str, ...], tree: Path | None, folder: Path) -> None:
    """Print the tables, and keep them in profile.md. `tree` is whose flux is looked at, this one unless said."""
    text = ["# Where a step's microseconds go", ""]
    for storage in storages:
        for workload in WORKLOADS:
            with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as place:
                Path(place).chmod(0o755)
                text += _tables(storage, workload, Path(place), tree or ROOT)
    folder.mkdir(exist_ok=True)
    (folder / "profile.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


def _tables(storage: str, workload: str, place: Path, tree: Path) -> list[str]:
    if storage != "postgres":
        return _table(_sampled(storage, workload, place, "", tree), storage, workload)
    with running_server(place) as server:
        return _table(_sampled(storage, workload, place, server.database(), tree), storage, workload)


def _sampled(storage: str, workload: str, place: Path, url: str, tree: Path) -> dict[str, object]:
    job = {"workload": workload, "storage": storage, "place": str(place), "url": url, "sizes": {"runs": COUNTS[storage]}}
    command = [str(python("flux")), str(SIDES / "profile_side.py"), json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={"PYTHONPATH": str(tree)})
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _table(found: dict[str, object], storage: str, workload: str) -> list[str]:
    """Two tables: by module, and by function."""
    text = [
        f"## {storage}, {workload}: {WORKLOADS[workload]}", "",
        f"{found['each']:.1f} µs a workflow of five steps. 'Own' is what is spent in the place itself, 'with calls' what it calls too;"
        " waiting for the disk counts where it is waited for.", "",
    ]  # fmt: skip
    for title, rows in (("module", found["modules"]), ("function", found["functions"])):
        assert isinstance(rows, list)
        text += [f"| {title} | own, µs a workflow | part | with calls, µs | calls |", "|---|---|---|---|---|"]
        for name, own, part, whole, calls in rows[:FUNCTIONS]:
            text.append(f"| `{name}` | {own:.2f} | {part * 100:.1f} % | {whole:.2f} | {calls:.1f} |")
        text.append("")
    return text

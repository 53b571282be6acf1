"""Runs measurements: each in a process of its own, everybody in turns, round after round."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .environments import Unavailable, node_program, python
from .plan import BY_KEY, OWN, Scale, Sizes
from .postgres import Server
from .subjects import Subject

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 420  # seconds for one measurement
LAST_WORDS = 300  # characters of an error that are worth showing
ERROR = re.compile(r"[A-Za-z_][\w.]*: ")


@dataclass
class Found:
    """All that was measured: for each of (workload, storage, subject) and figure, a value a round; and what went wrong."""

    values: dict[tuple[str, str, str], dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def note(self, key: tuple[str, str, str], figures: dict[str, float]) -> None:
        """One more measurement."""
        for name, value in figures.items():
            self.values.setdefault(key, {}).setdefault(name, []).append(value)


class Runner:
    """`disk` is where the files of the storages lie; `server` is None where there is no PostgreSQL."""

    def __init__(self, subjects: Sequence[Subject], scale: Scale, disk: Path, server: Server | None) -> None:
        self._scale = scale
        self._disk = disk
        self._server = server
        self.found = Found()
        self._subjects = [subject for subject in subjects if self._prepare(subject)]

    def _prepare(self, subject: Subject) -> bool:
        try:
            python(subject.environment)
            for program in subject.needs:
                node_program(program)
        except Unavailable as reason:
            self.found.missing[subject.name] = str(reason)
            return False
        return True

    def rounds(self, storages: Sequence[str]) -> Iterator[int]:
        """Everything, in turns; how many rounds are done, after each."""
        for number in range(self._scale.rounds):
            print(f"round {number + 1} of {self._scale.rounds}", flush=True)
            for subject, workload, storage in self._turns(number, storages):
                self._measure(subject, workload, storage)
            yield number + 1

    def _turns(self, number: int, storages: Sequence[str]) -> Iterator[tuple[Subject, str, str]]:
        for key in self._scale.only:
            for storage in (storage for storage in (*BY_KEY[key].storages, OWN) if storage in storages):
                for subject in self._subjects:
                    once = BY_KEY[key].once or key in subject.slow
                    if key in subject.takes.get(storage, ()) and not (once and number):
                        yield subject, key, storage

    def _sizes(self, subject: Subject, workload: str, storage: str) -> Sizes:
        return self._scale.peers[workload] if subject.is_peer else self._scale.sizes[workload][storage]

    def _measure(self, subject: Subject, workload: str, storage: str) -> None:
        label = f"{workload} {storage} {subject.name}"
        url = ""
        if storage == "postgres" and self._server is None:
            return
        place = Path(tempfile.mkdtemp(dir=self._disk))
        try:
            if storage == "postgres" and self._server is not None:
                url = self._server.database()
            figures = self._process(subject, workload, storage, place, url)
        except Unavailable as reason:
            self.found.missing[label] = str(reason)
            print(f"  {label}: {reason}", flush=True)
        else:
            self.found.note((workload, storage, subject.name), figures)
            print(f"  {label}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
        finally:
            shutil.rmtree(place, ignore_errors=True)
            if url and self._server is not None:
                self._server.drop(url)

    def _process(self, subject: Subject, workload: str, storage: str, place: Path, url: str) -> dict[str, float]:
        job = {
            "workload": workload, "storage": storage, "place": str(place), "url": url, "uvloop": subject.uvloop,
            "sizes": self._sizes(subject, workload, storage), "extra": {need: str(node_program(need)) for need in subject.needs},
        }  # fmt: skip
        return run_side(subject, job)


def run_side(subject: Subject, job: dict[str, object]) -> dict[str, float]:
    """What the last line of its output says. Raises Unavailable when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PREFECT_", "DBOS", "PYTHON"))}
    environment["PYTHONPATH"] = str(subject.tree or ROOT)
    command = [str(python(subject.environment)), str(subject.path), json.dumps(job)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            said, complaints = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            _end_group(process)
            raise Unavailable(f"not done after {PATIENCE} s") from None
        except BaseException:
            _end_group(process)
            raise
    if process.returncode or not said.strip():
        raise Unavailable(f"failed: {complaint(complaints)}")
    try:
        figures: dict[str, float] = json.loads(said.strip().splitlines()[-1])
    except ValueError:
        raise Unavailable(f"said no figures: {said.strip()[-LAST_WORDS:]}") from None
    return figures


def complaint(text: str) -> str:
    """The error of a traceback: the last line that looks like one."""
    lines = [line for line in text.splitlines() if line.strip()] or ["without a word"]
    return next((line for line in reversed(lines) if ERROR.match(line)), lines[-1])[:LAST_WORDS]


def _end_group(process: subprocess.Popen[str]) -> None:
    """The measurement and the processes that it has started: they are a session of their own."""
    with suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, 9)

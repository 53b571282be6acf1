"""What flux aims for, and whether this run has reached it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .figures import middle, over
from .runner import Found

Measured = Callable[[str, str, str, str], float | None]


@dataclass(frozen=True)
class Goal:
    """`figure` is what was measured, None when it was not; it should be at most, or else at least, `aim`."""

    title: str
    figure: float | None
    aim: float
    at_most: bool
    unit: str

    @property
    def reached(self) -> bool | None:
        """None when it was not measured."""
        if self.figure is None:
            return None
        return self.figure <= self.aim if self.at_most else self.figure >= self.aim


def goals(found: Found) -> Iterator[Goal]:
    """All of them."""

    def get(workload: str, storage: str, subject: str, figure: str) -> float | None:
        return middle(found, workload, storage, subject, figure)

    yield Goal("memory, five steps: CPU a workflow", get("W1", "memory", "flux", "cpu"), 31e-6, True, "s")
    for storage, title, aim in (("sqlite", "SQLite", 1.5), ("postgres", "PostgreSQL", 1.4)):
        yield Goal(f"{title}, five steps / the limit", _against(found, ("W1", storage, "latency"), "floor"), aim, True, "x")
    for storage, title, aim in (("sqlite", "SQLite", 80.0), ("postgres", "PostgreSQL", 60.0)):
        yield Goal(f"{title}, 100 in flight / DBOS", _against(found, ("W2", storage, "rate"), "DBOS"), aim, False, "x")
    for storage in ("memory", "sqlite", "postgres"):
        yield Goal(f"one long run, late / early step, {storage}", get("W3", storage, "flux", "flat"), 1.1, True, "x")
    for workload, where in (("W4", "the same process"), ("W4x", "another process")):
        for storage in ("sqlite", "postgres"):
            yield Goal(f"enqueue → result, worker in {where}, {storage}", get(workload, storage, "flux", "latency"), 3e-3, True, "s")
    yield Goal("import flux", get("W8", "sqlite", "flux", "import"), 60e-3, True, "s")
    yield Goal("import of what one uses", get("W8", "sqlite", "flux", "ready"), 60e-3, True, "s")


def _against(found: Found, what: tuple[str, str, str], other: str) -> float | None:
    workload, storage, figure = what
    mine = found.values.get((workload, storage, "flux"), {}).get(figure)
    theirs = found.values.get((workload, storage, other), {}).get(figure)
    return over(mine, theirs) if mine and theirs else None

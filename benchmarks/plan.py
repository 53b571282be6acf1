"""What is measured: the workloads, on which storages, how much of each, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass, field

Sizes = dict[str, int]

STORAGES = ("memory", "sqlite", "sqlite-normal", "postgres")
OWN = "own"  # a peer that is a server and brings its own storage
STORAGE_NAMES = {
    "memory": "memory",
    "sqlite": "SQLite, synchronous=FULL",
    "sqlite-normal": "SQLite, synchronous=NORMAL",
    "postgres": "PostgreSQL, fsync on",
    "own": "a server of its own",
}
BESIDE = {"own": "postgres"}  # which figures of flux a peer is held against, where that is not the same storage


@dataclass(frozen=True)
class Figure:
    """A number that a workload yields. `unit` is how it is shown; `less` whether less is better."""

    name: str
    title: str
    unit: str
    less: bool = True


@dataclass(frozen=True)
class Workload:
    """The first figure is the one that is compared. `once`: too long to be measured in every round."""

    key: str
    title: str
    figures: tuple[Figure, ...]
    storages: tuple[str, ...] = STORAGES
    once: bool = False


LATENCY = (Figure("latency", "median", "s"), Figure("p95", "p95", "s"), Figure("cpu", "CPU of the process", "s"))
RATE = Figure("rate", "workflows/s", "/s", less=False)

WORKLOADS = (
    Workload("W1", "Five trivial async steps, one workflow after the other", LATENCY),
    Workload("W2", "The same, 100 workflows in flight",
        (RATE, Figure("cpu", "CPU of the process", "s"), Figure("failed", "failed", "%")),),
    Workload(
        "W3", "One run of very many steps", (Figure("step", "a step", "s"), Figure("flat", "late step / early step", "x"))
    ),
    Workload("W4", "Enqueue → result of one step through a worker in the same process", LATENCY),
    Workload("W4x", "Enqueue → result of one step through a worker in another process", LATENCY, ("sqlite", "sqlite-normal", "postgres")),
    Workload(
        "W5", "Start only: the run is durable, nothing of it has run",
        (Figure("latency", "median", "s"), Figure("p95", "p95", "s"), Figure("rate", "starts/s, 100 in flight", "/s", less=False)),
    ),
    Workload(
        "W6", "Runs parked at a wait; a signal to each, until it is done",
        (
            Figure("rate", "signals to the end/s", "/s", less=False), Figure("parking", "runs parked/s", "/s", less=False),
            Figure("held", "memory a parked run", "B"),
        ),
    ),
    Workload(
        "W7", "Recovery: runs interrupted in their third step by kill -9, until a new process has them done",
        (Figure("all", "to the last", "s"), Figure("first", "to the first", "s")), ("sqlite", "sqlite-normal", "postgres"),
    ),
    Workload(
        "W8", "Weight: a worker with nothing to do",
        (
            Figure("memory", "memory", "B"), Figure("idle", "of one core", "%"), Figure("threads", "threads", "n"),
            Figure("modules", "modules", "n"), Figure("import", "import", "s"), Figure("ready", "import of what one uses", "s"),
        ),
        ("memory", "sqlite", "postgres"),
    ),
    Workload("W9", "Claim rate, by how many runs wait", (), ("memory", "sqlite", "postgres")),
    Workload("W9m", "The same where a million wait", (), ("memory", "sqlite", "postgres"), once=True),
)  # fmt: skip
BY_KEY = {workload.key: workload for workload in WORKLOADS}


def claim_figures(sizes: Sizes) -> tuple[Figure, ...]:
    """Those of W9 and W9m, which depend on the levels."""
    levels = sorted(size for name, size in sizes.items() if name.startswith("level"))
    return tuple(
        Figure(f"claims_{batch}_at_{level}", f"{level:,} waiting, {batch} a claim", "/s", less=False)
        for batch in (100, 10)
        for level in levels
    )


@dataclass(frozen=True)
class Scale:
    """How much of everything. `sizes` are flux's and the floors', by workload and then by storage; `peers` are for the slower ones."""

    rounds: int
    sizes: dict[str, dict[str, Sizes]]
    peers: dict[str, Sizes]
    only: tuple[str, ...] = field(default=tuple(BY_KEY))


def _of(runs: int, memory: int | None = None, **others: int) -> dict[str, Sizes]:
    durable = {"runs": runs, **others}
    in_memory = {"runs": memory or runs, **others}
    return {storage: in_memory if storage == "memory" else durable for storage in STORAGES}


FULL = Scale(
    rounds=5,
    sizes={
        "W1": _of(400, 5000), "W2": _of(4000, 10_000), "W3": _of(0, steps=10_000), "W4": _of(300, 2000), "W4x": _of(100),
        "W5": _of(500, 5000, more=5000), "W6": _of(10_000), "W7": _of(1000), "W8": _of(1),
        "W9": _of(0, level_1=1000, level_2=100_000), "W9m": _of(0, level_1=1_000_000),
    },
    peers={
        "W1": {"runs": 60}, "W2": {"runs": 300}, "W3": {"steps": 1000}, "W4": {"runs": 100}, "W4x": {"runs": 100},
        "W5": {"runs": 100, "more": 300}, "W6": {"runs": 300}, "W7": {"runs": 100}, "W8": {"runs": 1},
    },
)  # fmt: skip

QUICK = Scale(
    rounds=3,
    sizes={
        "W1": _of(150, 2000), "W2": _of(1500, 3000), "W3": _of(0, steps=2500), "W4": _of(80, 500), "W4x": _of(30),
        "W5": _of(150, 1000, more=1000), "W6": _of(1000), "W7": _of(200), "W8": _of(1), "W9": _of(0, level_1=1000, level_2=10_000),
        "W9m": _of(0, level_1=100_000),
    },
    peers={
        "W1": {"runs": 10}, "W2": {"runs": 100}, "W3": {"steps": 200}, "W4": {"runs": 5}, "W4x": {"runs": 5},
        "W5": {"runs": 20, "more": 100}, "W6": {"runs": 100}, "W7": {"runs": 20}, "W8": {"runs": 1},
    },
    only=("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W9"),
)  # fmt: skip

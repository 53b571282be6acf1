"""Who takes part: flux, the floors and the peers; where each runs, in what it takes part, and what must be said about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SIDES = Path(__file__).resolve().parent / "sides"


@dataclass(frozen=True)
class Subject:
    """`script` in `sides/` run by `environment`'s interpreter. `takes`: the workloads it takes part in, by storage.

    `setup` says how it is configured, `durability` what it gives; both for the report. `tree` is another source tree of flux.
    `slow` are workloads that are measured in the first round only; `absent` says why it takes no part in some.
    """

    name: str
    environment: str
    script: str
    takes: dict[str, tuple[str, ...]]
    setup: str = ""
    durability: str = ""
    package: str = ""
    needs: tuple[str, ...] = ()
    uvloop: bool = False
    tree: Path | None = None
    slow: tuple[str, ...] = ()
    absent: str = ""

    @property
    def is_peer(self) -> bool:
        """Neither flux nor a floor."""
        return not self.name.startswith(("flux", "floor"))

    @property
    def path(self) -> Path:
        """The script."""
        return SIDES / self.script


DURABLE = ("W1", "W2", "W3", "W4", "W4x", "W5", "W6", "W7", "W8", "W9", "W9m")
FLUX_TAKES = {
    "memory": ("W1", "W2", "W3", "W4", "W5", "W6", "W8", "W9", "W9m"),
    "sqlite": DURABLE,
    "sqlite-normal": ("W1", "W2", "W3", "W4", "W5", "W6", "W7"),
    "postgres": DURABLE,
}
WITH_LOOP = ("W1", "W2", "W4", "W5")

FLOORS = (
    Subject("floor", "flux", "floor_memory.py", {"memory": ("W1", "W2", "W3", "W8")}, setup="a bare Python loop over the same coroutines"),
    Subject(
        "floor", "flux", "floor_sqlite.py",
        {"sqlite": ("W1", "W2", "W3", "W4", "W5", "W6", "W9", "W9m"), "sqlite-normal": ("W1", "W2", "W3", "W4", "W5", "W6")},
        setup="bare sqlite3: as many commits of one update and one insert; 100 in flight share a transaction",
    ),
    Subject(
        "floor", "flux", "floor_postgres.py", {"postgres": ("W1", "W2", "W3", "W4", "W5", "W6", "W9", "W9m")},
        setup="bare asyncpg on one connection: as many one-statement commits; 100 in flight share a statement",
    ),
)  # fmt: skip

FLUX = Subject(
    "flux", "flux", "flux_side.py", FLUX_TAKES,
    setup="defaults; in W7 it knows by a lock on the file, or on the server, that a process has died, where that was on the same machine;"
    " else its lease has to run out, after 30 s",
)  # fmt: skip
FLUX_UVLOOP = Subject(
    "flux + uvloop", "uvloop", "flux_side.py",
    dict.fromkeys(("memory", "sqlite", "sqlite-normal", "postgres"), WITH_LOOP),
    uvloop=True,
)  # fmt: skip

PEERS = (
    Subject(
        "DBOS", "dbos", "dbos_side.py",
        {"sqlite": ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8"), "postgres": ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8")},
        setup="async workflows, log level ERROR, queue polled every 10 ms (its default is 1 s), LISTEN/NOTIFY on PostgreSQL",
        durability="SQLite: rollback journal, synchronous=FULL; PostgreSQL as the others", package="dbos",
    ),
    Subject(
        "LangGraph", "langgraph", "langgraph_side.py", {"sqlite": ("W1", "W2", "W6", "W8")},
        setup="a graph of five nodes with AsyncSqliteSaver (WAL), durability=\"sync\": a checkpoint is stored before the next node begins",
        durability="SQLite's default, synchronous=FULL", package="langgraph",
        absent="W3: not measured; W4, W5, W7: the library has no queue, no worker and no recovery by itself",
    ),
    Subject(
        "Edda", "edda", "edda_side.py", {"sqlite": ("W1", "W2", "W6", "W7", "W8")},
        setup="activities in a workflow, in one process on SQLite, defaults; in W7 its locks last 30 s (300 by default), as"
        " a lease of flux does;"
        " with many in flight some of its starts fail, its resumption taking up what is being run: those do not count, and in W6 it is"
        " one after the other",
        durability="rollback journal, synchronous=FULL", package="edda-framework", slow=("W6", "W7"),
        absent="W3: not measured; W4, W5: `start` runs the workflow in its caller",
    ),
    Subject(
        "Prefect", "prefect", "prefect_side.py", {"sqlite": ("W1", "W2", "W8")},
        setup="a flow of five async tasks with stored results, a local server on SQLite, logging to the server off;"
        " its server answers 503 when its own writers meet, and its client comes again after about 2 s;"
        " 10 in flight, not 100: with those it answers 500",
        durability="results in files, states in SQLite with its own settings (WAL, synchronous=NORMAL): weaker",
        package="prefect", slow=("W2",),
        absent="W3: too slow; W4 to W7: deployments with a worker that starts a process a run are another kind of thing",
    ),
    Subject(
        "Absurd", "absurd", "absurd_side.py", {"postgres": ("W1", "W2", "W4", "W5", "W6", "W7", "W8")},
        setup="async worker with 100 places that polls every 5 ms (its default is 250 ms); the caller looks for the result every"
        " 1 ms once the task's handler has returned;"
        " in W7 a claim lasts 30 s (120 by default), as a lease of flux does",
        durability="PostgreSQL as the others", package="absurd-sdk", slow=("W7",),
        absent="W3: not measured",
    ),
    Subject(
        "Restate", "restate", "restate_side.py", {"own": ("W1", "W2", "W4x", "W5", "W6", "W7", "W8")},
        setup="its own server (one node, defaults) with the service in hypercorn, called over HTTP on loopback",
        durability="its own replicated log, one node, fsync on", package="restate-sdk", needs=("restate-server",),
        absent="W3: not measured; W4: handlers are always in another process, see W4x",
    ),
)  # fmt: skip

"""flux beside its peers and beside the limit: `python -m benchmarks`.

    python -m benchmarks                    everything, about three quarters of an hour
    python -m benchmarks --quick            flux and the floors, under three minutes
    python -m benchmarks --compare REV      this tree beside another revision of it
    python -m benchmarks --profile          where the microseconds of a step go

Needs Python 3.11 or later with pip, and npm for Restate's server. What a side needs is installed in an environment of its own
under `benchmarks/.envs`. Results are written to `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from . import compare, profiling, report
from .environments import Unavailable, python
from .machine import describe
from .plan import BY_KEY, FULL, OWN, QUICK, STORAGES, Scale
from .postgres import Server, running_server
from .runner import Runner
from .subjects import FLOORS, FLUX, FLUX_UVLOOP, PEERS, Subject

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything, and no peers unless they are named")
    parser.add_argument("--rounds", type=int, help="how many (5; 3 when quick)")
    parser.add_argument("--only", help=f"workloads, as {','.join(BY_KEY)}")
    parser.add_argument("--storages", help=f"as {','.join(STORAGES)}")
    parser.add_argument("--peers", help="'all', 'none' or names: " + ",".join(peer.name for peer in PEERS))
    parser.add_argument("--compare", metavar="REV", help="measure that revision beside this tree, in turns")
    parser.add_argument("--profile", action="store_true", help="show where a step's microseconds go")
    parser.add_argument("--tree", type=Path, help="measure the flux of this source tree instead of the one around the benchmarks")
    parser.add_argument("--name", default="latest", help="of the files in benchmarks/results")
    return parser.parse_args()


def scale_of(chosen: argparse.Namespace) -> Scale:
    """How much is measured."""
    scale = QUICK if chosen.quick or chosen.compare else FULL
    if chosen.compare:
        scale = replace(scale, rounds=FULL.rounds, only=compare.WORKLOADS)
    if chosen.only:
        scale = replace(scale, only=tuple(key for key in BY_KEY if key in chosen.only.split(",")))
    return replace(scale, rounds=chosen.rounds) if chosen.rounds else scale


def peers_of(chosen: argparse.Namespace) -> tuple[Subject, ...]:
    """Those that were asked for."""
    asked = chosen.peers or ("none" if chosen.quick else "all")
    if asked in ("all", "none"):
        return PEERS if asked == "all" else ()
    names = asked.lower().split(",")
    return tuple(peer for peer in PEERS if peer.name.lower() in names)


@contextmanager
def server_on(disk: Path, storages: Sequence[str]) -> Iterator[tuple[Server | None, str]]:
    """A PostgreSQL server when it is wanted and can be had, and else why not."""
    if "postgres" not in storages:
        yield None, "not asked for"
        return
    try:
        manager = running_server(disk)
        server = manager.__enter__()
    except Unavailable as reason:
        yield None, str(reason)
        return
    try:
        yield server, ""
    finally:
        manager.__exit__(None, None, None)


def measure(chosen: argparse.Namespace) -> None:
    """The whole comparison, or that of two revisions."""
    scale = scale_of(chosen)
    storages = (*(chosen.storages.split(",") if chosen.storages else STORAGES), OWN)
    with tempfile.TemporaryDirectory(dir=HERE, ignore_cleanup_errors=True) as place, server_on(Path(place), storages) as (server, reason):
        disk = Path(place)
        disk.chmod(0o755)
        machine = describe(disk, server.version() if server else "")
        if chosen.compare:
            with compare.checked_out(chosen.compare) as (tree, revision):
                old = replace(FLUX, name=compare.name_of(revision), tree=tree)
                runner = Runner((*FLOORS, old, replace(FLUX, tree=chosen.tree)), scale, disk, server)
                runner.rounds(storages)
            compare.write(RESULTS, runner.found, scale, machine, revision)
            return
        mine = (replace(side, tree=chosen.tree) for side in (FLUX, FLUX_UVLOOP))
        subjects = (*FLOORS, *mine, *peers_of(chosen))
        runner = Runner(subjects, scale, disk, server)
        if server is None and "postgres" in storages:
            runner.found.missing["PostgreSQL"] = reason
        runner.rounds(storages)
    command = "python -m benchmarks " + " ".join(sys.argv[1:])
    text = report.markdown(runner.found, scale, subjects, machine, command.strip())
    report.write(RESULTS, chosen.name, text.replace("latest.png", f"{chosen.name}.png"), report.as_json(runner.found, scale, machine))
    picture(chosen.name)
    print(text)


def picture(name: str) -> None:
    """The plot of results that are written already; without matplotlib there is none, and that is said."""
    try:
        command = [str(python("plot")), str(HERE / "plot.py"), str(RESULTS / f"{name}.json"), str(RESULTS / f"{name}.png")]
        subprocess.run(command, check=True)
    except (Unavailable, subprocess.SubprocessError) as reason:
        print(f"no plot: {reason}", file=sys.stderr)


def main() -> None:
    """Do what was asked for."""
    chosen = arguments()
    if chosen.profile:
        profiling.show(chosen.storages.split(",") if chosen.storages else ("memory", "sqlite"), chosen.tree, RESULTS)
    else:
        measure(chosen)


if __name__ == "__main__":
    main()

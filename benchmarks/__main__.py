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
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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
ROOT = HERE.parent
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
    parser.add_argument("--name", help="of the files in benchmarks/results (latest; 'quick' or 'part' when it is not everything)")
    chosen = parser.parse_args()
    try:
        chosen.only = known(chosen.only, BY_KEY)
        chosen.storages = known(chosen.storages, STORAGES)
        chosen.peers = peers_of(chosen)
    except ValueError as error:
        parser.error(str(error))
    return chosen


def known(asked: str | None, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that were asked for, all unless any were. Raises ValueError."""
    by_name = {name.lower(): name for name in names}
    words = asked.lower().split(",") if asked else list(by_name)
    for word in words:
        if word not in by_name:
            raise ValueError(f"there is no {word!r}: expected any of {','.join(by_name.values())}")
    return tuple(name for word, name in by_name.items() if word in words)


def scale_of(chosen: argparse.Namespace) -> Scale:
    """How much is measured."""
    scale = QUICK if chosen.quick or chosen.compare else FULL
    if chosen.compare:
        scale = replace(scale, rounds=FULL.rounds, only=compare.WORKLOADS)
    if chosen.only != tuple(BY_KEY):
        scale = replace(scale, only=chosen.only)
    return replace(scale, rounds=chosen.rounds) if chosen.rounds else scale


def peers_of(chosen: argparse.Namespace) -> tuple[Subject, ...]:
    """Those that were asked for. Raises ValueError."""
    asked = chosen.peers or ("none" if chosen.quick else "all")
    if asked == "none":
        return ()
    names = known(None if asked == "all" else asked, [peer.name for peer in PEERS])
    return tuple(peer for peer in PEERS if peer.name in names)


def name_of(chosen: argparse.Namespace) -> str:
    """Of the results: what is not everything does not take the place of everything."""
    whole = chosen.only == tuple(BY_KEY) and chosen.storages == STORAGES and chosen.peers == PEERS and chosen.tree is None
    return chosen.name or ("quick" if chosen.quick else "latest" if whole else "part")


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
    storages = (*chosen.storages, OWN)
    with tempfile.TemporaryDirectory(dir=HERE, ignore_cleanup_errors=True) as place:
        disk = Path(place)
        disk.chmod(0o755)  # the user whom PostgreSQL runs as has to get there
        with server_on(disk, storages) as (server, reason):
            machine = describe(disk, server, chosen.tree or ROOT)
            if chosen.compare:
                beside(chosen, scale, storages, disk, server, machine)
                return
            mine = (replace(side, tree=chosen.tree) for side in (FLUX, FLUX_UVLOOP))
            subjects = (*FLOORS, *mine, *chosen.peers)
            runner = Runner(subjects, scale, disk, server)
            if server is None and "postgres" in storages:
                runner.found.missing["PostgreSQL"] = reason
            for done in runner.rounds(storages):  # what an abort leaves is worth having
                text = report.markdown(runner.found, scale, subjects, machine, command(), done)
                name = name_of(chosen)
                report.write(RESULTS, name, text.replace("latest.png", f"{name}.png"), report.as_json(runner.found, scale, machine))
    picture(name)
    print(text)


def beside(
    chosen: argparse.Namespace, scale: Scale, storages: Sequence[str], disk: Path, server: Server | None, machine: dict[str, str]
) -> None:
    """That of two revisions."""
    with compare.checked_out(chosen.compare) as (tree, revision):
        old = replace(FLUX, name=compare.name_of(revision), tree=tree)
        runner = Runner((*FLOORS, old, replace(FLUX, tree=chosen.tree)), scale, disk, server)
        for _ in runner.rounds(storages):
            compare.write(RESULTS, runner.found, scale, machine, revision, command())
    print((RESULTS / "compare.md").read_text(encoding="utf-8"))


def command() -> str:
    """What makes these results again."""
    return " ".join(["python -m benchmarks", *sys.argv[1:]])


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
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: whatever has been started is ended
    if chosen.profile:
        profiling.show(("memory", "sqlite") if chosen.storages == STORAGES else chosen.storages, chosen.tree, RESULTS)
    else:
        measure(chosen)


if __name__ == "__main__":
    main()

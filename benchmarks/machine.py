"""What was measured on: the machine, the versions, the date."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from .environments import versions
from .postgres import Server


def describe(disk: Path, server: Server | None, tree: Path) -> dict[str, str]:
    """By name, for the report. `tree` is the flux that is measured."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": revision(tree),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "disk": _filesystem(disk) + (f"; of PostgreSQL: {_filesystem(server.folder)}" if server else ""),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "postgres": server.version() if server else "none",
        "load when it began": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "packages of flux": ", ".join(f"{name} {version}" for name, version in versions("flux").items()),
    }


def revision(tree: Path) -> str:
    """The commit of a tree, and whether the tree differs from it."""
    try:
        head = _git(tree, "rev-parse", "--short", "HEAD")
        return head + (" with changes" if _git(tree, "status", "--porcelain", "--", "flux", "flux_storage") else "")
    except (OSError, subprocess.SubprocessError):
        return "not a git checkout"


def _git(tree: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()


def _line(file: str, start: str) -> str:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(start)), "")


def _processor() -> str:
    return _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory() -> str:
    total = _line("/proc/meminfo", "MemTotal").split()
    return f"{int(total[0]) / 2**20:.0f} GiB" if total else "unknown"


def _filesystem(place: Path) -> str:
    """The kind of file system that the storages' files are on: a benchmark on tmpfs syncs nothing."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    fitting = [(point, kind) for point, kind in mounts if place.resolve().is_relative_to(point)]
    return max(fitting, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]

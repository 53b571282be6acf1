"""A Restate server and the process that serves the handlers, both on free ports of loopback, both ended with the measurement."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from common import Job

PATIENCE = 60.0  # seconds until the server is up


@dataclass
class Place:
    """Where what listens; `marks` is the file of the handlers, `pids` the server itself."""

    ingress: str
    admin: str
    service: str
    marks: Path
    pids: list[int]


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def server(job: Job) -> AsyncIterator[Place]:
    """A fresh server with one node, for as long as the block lasts."""
    node, ingress, admin = free_port(), free_port(), free_port()
    settings = {
        "RESTATE_BIND_IP": "127.0.0.1", "RESTATE_BIND_PORT": str(node), "RESTATE_INGRESS__BIND_PORT": str(ingress),
        "RESTATE_ADMIN__BIND_PORT": str(admin), "RESTATE_BASE_DIR": f"{job.place}/restate-data", "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }  # fmt: skip
    command = [job.extra["restate-server"], "--no-logo", "--listen-mode", "tcp"]
    with Path(job.place, "restate.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
    try:
        place = Place(
            *(f"http://127.0.0.1:{port}" for port in (ingress, admin, free_port())), Path(job.place, "marks"), family(process.pid)
        )
        await answering(f"{place.admin}/health")
        await answering(f"{place.ingress}/restate/health")
        place.pids[:] = family(process.pid)[-1:]
        yield place
    finally:
        for pid in reversed(family(process.pid)):
            os.kill(pid, 15)
        process.wait(30)


def family(pid: int) -> list[int]:
    """A process and those that it has started: npm's program is a script around the real one."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(child for number in found for child in family(int(number)))]


async def answering(url: str) -> None:
    """Until it does."""
    async with asyncio.timeout(PATIENCE), httpx.AsyncClient() as client:
        while True:
            try:
                if (await client.get(url)).is_success:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.05)


@asynccontextmanager
async def service(place: Place, *words: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The process with the handlers, registered with the server."""
    script = Path(__file__).with_name("restate_service.py")
    process = subprocess.Popen([sys.executable, str(script), place.service.rpartition(":")[2], str(place.marks), *words])
    try:
        await listening(int(place.service.rpartition(":")[2]))
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            told = {"uri": place.service, "force": True}
            (await client.post(f"{place.admin}/deployments", json=told)).raise_for_status()
        yield process
    finally:
        process.kill()
        process.wait()


async def listening(port: int) -> None:
    """Until somebody does."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def both(job: Job) -> AsyncIterator[tuple[Place, subprocess.Popen[bytes]]]:
    """The server, and a service."""
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(server(job))
        yield place, await stack.enter_async_context(service(place))

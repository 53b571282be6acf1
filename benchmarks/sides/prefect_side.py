"""Prefect's side: a flow of five tasks against a local server on SQLite or PostgreSQL, started here on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from common import Figures, Job, idle, import_seconds, one_by_one, perform, read_job, side_by_side

TOGETHER = 10  # with 100 in flight its server answers 500
PATIENCE = 120  # seconds until the server is up


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PORT = free_port()
JOB = read_job()
SETTINGS = {
    "PREFECT_HOME": JOB.place,
    "PREFECT_API_URL": f"http://127.0.0.1:{PORT}/api",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "DO_NOT_TRACK": "1",
}
if JOB.url:
    SETTINGS["PREFECT_API_DATABASE_CONNECTION_URL"] = JOB.url.replace("postgresql://", "postgresql+asyncpg://")
os.environ |= SETTINGS  # before prefect reads them

from prefect import flow, task  # noqa: E402


@task
async def step() -> dict[str, object]:
    """As little as a step can do."""
    return {"n": 1, "ok": True}


@flow
async def five() -> dict[str, object]:
    """Five trivial steps."""
    for _ in range(4):
        await step()
    return await step()


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    """The server, for as long as the block lasts; its process id."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
    with Path(SETTINGS["PREFECT_HOME"], "server.log").open("wb") as log:
        process = subprocess.Popen([*command, "--port", str(PORT), "--log-level", "error"], stdout=log, stderr=log)
    try:
        await asyncio.to_thread(wait_for, process, f"http://127.0.0.1:{PORT}/api/health")
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    """Until it answers."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > until:
                log = Path(SETTINGS["PREFECT_HOME"], "server.log").read_text(errors="replace")
                raise RuntimeError(f"Prefect's server does not come up: {log[-300:]}") from None
            time.sleep(0.1)


async def weight(pid: int) -> Figures:
    """W8: this process and the server together; what is imported is this one's."""
    found = {"import": import_seconds("import prefect"), "ready": import_seconds("from prefect import flow, task")}
    await five()
    before, start = cpu_of(pid), time.perf_counter()
    mine = await idle()
    used = (cpu_of(pid) - before) / (time.perf_counter() - start)
    mine["idle"] += used
    mine["memory"] += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    mine["threads"] += len(list(Path(f"/proc/{pid}/task").iterdir()))
    return found | mine


def cpu_of(pid: int) -> float:
    """Seconds, in hundredths."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


async def work(job: Job) -> Figures:
    """What the job says."""
    async with server() as pid:
        if job.workload == "W1":
            return await one_by_one(five, job.sizes["runs"], warm=2)
        if job.workload == "W2":
            return await side_by_side(five, job.sizes["runs"], TOGETHER, warm=5)
        return await weight(pid)


if __name__ == "__main__":
    perform(work)

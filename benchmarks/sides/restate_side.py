"""Restate's side: its server on loopback, a process with the handlers, calls over HTTP with its own client."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import restate
import restate_service
from common import IDLE, Figures, Job, import_seconds, lanes, one_by_one, perform, side_by_side
from restate_server import Place, both, server, service

JSON = {"content-type": "application/json"}

Called = Callable[[Job, Any, Place, subprocess.Popen[bytes]], Awaitable[Figures]]


async def sequential(job: Job, client: Any, place: Place, served: subprocess.Popen[bytes]) -> Figures:
    """W1."""
    return await one_by_one(lambda: client.service_call(restate_service.plain, 5), job.sizes["runs"], warm=10)


async def in_flight(job: Job, client: Any, place: Place, served: subprocess.Popen[bytes]) -> Figures:
    """W2."""
    return await side_by_side(lambda: client.service_call(restate_service.plain, 5), job.sizes["runs"])


async def round_trip(job: Job, client: Any, place: Place, served: subprocess.Popen[bytes]) -> Figures:
    """W4x: the process with the handlers is another one always."""
    return await one_by_one(lambda: client.service_call(restate_service.plain, 1), job.sizes["runs"], warm=10)


async def start_only(job: Job, client: Any, place: Place, served: subprocess.Popen[bytes]) -> Figures:
    """W5: one-way calls, for later: nothing of them runs meanwhile."""

    async def one() -> None:  # its client's own parameter for it says no unit, which its server refuses
        (await client.client.post("bench/plain/send?delay=1h", headers=JSON, content=b"5")).raise_for_status()

    alone = await one_by_one(one, job.sizes["runs"], warm=5)
    many = await side_by_side(one, job.sizes["more"], warm=20)
    return alone | {"rate": many["rate"]}


async def signals(job: Job, client: Any, place: Place, served: subprocess.Popen[bytes]) -> Figures:
    """W6: a promise of a workflow; parked when the step before it has run, done when the workflow's result is there."""
    number = job.sizes["runs"]
    names, told = count(), count()
    start = time.perf_counter()
    await lanes(lambda: client.workflow_send(restate_service.run, f"run-{next(names)}", 1), number, 100)
    await marks(place, number)
    halfway = time.perf_counter()

    async def tell() -> None:
        name = f"run-{next(told)}"
        await client.workflow_call(restate_service.go, name, {"by": "ana"})
        (await client.client.get(f"/restate/workflow/parked/{name}/attach")).raise_for_status()

    await lanes(tell, number, 100)
    return {"parking": number / (halfway - start), "rate": number / (time.perf_counter() - halfway)}


async def weight(job: Job, client: Any, place: Place, served: subprocess.Popen[bytes]) -> Figures:
    """W8: the server and the process with the handlers together; what is imported is the latter's."""
    await client.service_call(restate_service.plain, 5)
    pids = [*place.pids, served.pid]
    await asyncio.sleep(1)
    before, start = sum(map(cpu_of, pids)), time.perf_counter()
    await asyncio.sleep(IDLE)
    used = (sum(map(cpu_of, pids)) - before) / (time.perf_counter() - start)
    memory = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids)
    threads = sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids)
    found = {"import": import_seconds("import restate"), "ready": import_seconds("import restate, hypercorn.asyncio")}
    return found | {"idle": used, "memory": float(memory), "threads": float(threads)}


async def marks(place: Place, number: int) -> None:
    """Until so many steps have said that they are reached."""
    while not place.marks.exists() or place.marks.stat().st_size < number:
        await asyncio.sleep(0.005)


def cpu_of(pid: int) -> float:
    """Seconds, in hundredths."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


async def recovery(job: Job) -> Figures:
    """W7: the process with the handlers is killed and started again; the server lives on."""
    number = job.sizes["runs"]
    async with server(job) as place:
        async with restate.create_client(place.ingress) as client:
            async with service(place, "hold"):
                for n in range(number):
                    await client.service_send(restate_service.interrupted, n, idempotency_key=str(n))
                await marks(place, number)
            start = time.perf_counter()  # leaving the block has killed it
            ends: list[float] = []

            async def one(n: int) -> None:
                await client.service_call(restate_service.interrupted, n, idempotency_key=str(n))
                ends.append(time.perf_counter() - start)

            async with service(place):
                await asyncio.gather(*(one(n) for n in range(number)))
    return {"first": min(ends), "all": max(ends)}


WORK: dict[str, Called] = {
    "W1": sequential, "W2": in_flight, "W4x": round_trip, "W5": start_only, "W6": signals, "W8": weight,
}  # fmt: skip


async def work(job: Job) -> Figures:
    """What the job says."""
    if job.workload == "W7":
        return await recovery(job)
    async with both(job) as (place, served), restate.create_client(place.ingress) as client:
        client.client.timeout = 120
        return await WORK[job.workload](job, client, place, served)


if __name__ == "__main__":
    perform(work)

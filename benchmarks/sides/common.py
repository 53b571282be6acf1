"""What every side of a measurement shares: a job comes in as one JSON argument, figures go out as one JSON line.

Imports little, because some of the figures are about weight. Durations are seconds, memory is bytes.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, float]
One = Callable[[], Awaitable[object]]

ENOUGH = 8.0  # seconds after which no further repetition is begun
FEWEST = 3  # repetitions, however long they take
IDLE = 3.0  # seconds over which an idle process is watched
IMPORTS = 5  # fresh interpreters whose import is timed


@dataclass
class Job:
    """One measurement. `place` is an empty folder of its own, `url` an empty PostgreSQL database, `sizes` how much of what."""

    workload: str
    storage: str = "memory"
    place: str = ""
    url: str = ""
    uvloop: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def synchronous(self) -> str:
        """SQLite's setting."""
        return "NORMAL" if self.storage == "sqlite-normal" else "FULL"


def read_job() -> Job:
    """The job of this process."""
    return Job(**json.loads(sys.argv[1]))


def answer(figures: Figures) -> None:
    """Say what was measured."""
    print(json.dumps(figures), flush=True)


def perform(work: Callable[[Job], Coroutine[Any, Any, Figures]]) -> None:
    """Read the job, do it in an event loop of the kind it asks for, answer."""
    job = read_job()
    if job.uvloop:
        import uvloop

        answer(uvloop.run(work(job)))
    else:
        answer(asyncio.run(work(job)))


def quantile(values: Sequence[float], part: float) -> float:
    """The value that this part of all is not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]


def summary(times: Sequence[float], cpu: float) -> Figures:
    """Latencies, and CPU seconds of this process for each."""
    total = sum(times)
    return {"latency": quantile(times, 0.5), "p95": quantile(times, 0.95), "cpu": cpu / len(times), "rate": len(times) / total}


async def one_by_one(one: One, count: int, warm: int = 20) -> Figures:
    """`count` times, one after the other; fewer when `ENOUGH` seconds have passed."""
    for _ in range(min(warm, count)):
        await one()
    times: list[float] = []
    cpu, until = time.process_time(), time.perf_counter() + ENOUGH
    while len(times) < count and (len(times) < FEWEST or time.perf_counter() < until):
        start = time.perf_counter()
        await one()
        times.append(time.perf_counter() - start)
    return summary(times, time.process_time() - cpu)


async def side_by_side(one: One, count: int, concurrency: int = 100, warm: int = 100) -> Figures:
    """`count` times, `concurrency` of them in flight; fewer when `ENOUGH` seconds have passed."""
    await lanes(one, min(warm, count), concurrency)
    cpu, start = time.process_time(), time.perf_counter()
    done = await lanes(one, count, concurrency, until=start + ENOUGH)
    return {"rate": done / (time.perf_counter() - start), "cpu": (time.process_time() - cpu) / done}


async def lanes(one: One, count: int, concurrency: int, until: float = float("inf")) -> int:
    """`count` times, `concurrency` of them in flight, none begun after `until`; how many it were."""
    done = 0
    todo = iter(range(count))

    async def lane() -> None:
        nonlocal done
        for _ in todo:
            await one()
            done += 1
            if time.perf_counter() > until:
                return

    await asyncio.gather(*(lane() for _ in range(min(concurrency, count))))
    return done


def flatness(stamps: Sequence[float]) -> Figures:
    """From when each step of one long run was taken: what a step costs, and what a late one costs in early ones.

    Early and late are the second and the last fifth; of each, the median of ten means, which a hiccup does not move.
    """
    fifth = len(stamps) // 5
    part = max(1, fifth // 10)

    def cost(begin: int) -> float:
        return quantile([(stamps[at + part] - stamps[at]) / part for at in range(begin, begin + fifth - part, part)], 0.5)

    early, late = cost(fifth), cost(len(stamps) - fifth)
    return {"step": (stamps[-1] - stamps[0]) / (len(stamps) - 1), "flat": late / early}


def import_seconds(statement: str) -> float:
    """Median of what a statement costs in a fresh interpreter that has imported asyncio already."""
    code = f"import asyncio, time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-P", "-c", code]  # not what happens to lie in the working directory
    found = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(IMPORTS)]
    return quantile(found, 0.5)


def resident() -> float:
    """Bytes of memory that this process holds now; on systems without /proc, the most that it ever held."""
    try:
        return float(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except OSError:
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def thread_count() -> float:
    """Threads of this process, native ones too where that can be known."""
    try:
        return float(len(list(Path("/proc/self/task").iterdir())))
    except OSError:
        import threading

        return float(threading.active_count())


async def idle() -> Figures:
    """What this process takes while it has nothing to do: part of a core, memory, threads, modules."""
    await asyncio.sleep(0.5)
    cpu, start = time.process_time(), time.perf_counter()
    await asyncio.sleep(IDLE)
    used = (time.process_time() - cpu) / (time.perf_counter() - start)
    return {"idle": used, "memory": resident(), "threads": thread_count(), "modules": float(len(sys.modules))}


class Helper:
    """A second process of the same side, for what takes two: a worker elsewhere, or one that is to be killed.

    It says `ready` on a line of its own when it has come so far; it ends when its standard input does.
    """

    def __init__(self, job: Job, role: str) -> None:
        told = asdict(job) | {"workload": role}
        command = [sys.executable, sys.argv[0], json.dumps(told)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    async def ready(self) -> None:
        """Until it says so."""
        line = await self.says()
        if line != "ready":
            raise RuntimeError(f"the helper process said {line!r}")

    async def says(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    def kill(self) -> None:
        """As `kill -9`."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """In peace, or else by force."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()


async def until_told(word: str = "ready") -> None:
    """Say this, and wait until the process that started this one closes our standard input."""
    print(word, flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def recovery(job: Job) -> Figures:
    """W7: from the kill of a `victim`, through the start of its `heir`, a process that is as new as after any crash, to the ends that
    this one tells of."""
    victim = Helper(job, "victim")
    try:
        await victim.ready()
    finally:
        victim.kill()
    start = time.monotonic()
    heir = Helper(job, "heir")
    try:
        first, last = map(float, (await heir.says()).split())
    finally:
        heir.stop()
    return {"first": first - start, "all": last - start}


async def tell_ends(ends: Sequence[float]) -> None:
    """In an heir: when the first and the last run were completed, by `time.monotonic`, which is the same in all processes."""
    await until_told(f"{min(ends)} {max(ends)}")

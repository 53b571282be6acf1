"""Samples flux while it runs W1 or W2, and counts calls in a second pass: µs a workflow by module and by function.

A timer interrupts the main thread; each sample weighs as much as has passed since the one before, so that long calls into C are
not underrated. Unlike a tracing profiler this slows nothing down in one place more than in another.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import signal
import time
from collections import Counter
from functools import cache
from pathlib import Path
from types import FrameType

from common import Job, lanes, read_job
from flux_parts import open_storage, plain

import flux
from flux import FluxEngine

INTERVAL = 0.0007  # seconds
COUNTED = 200  # workflows of the second pass
TREE = Path(flux.__file__).parent.parent  # what is measured


class Sampler:
    """Seconds by place, own and with what it calls."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()
        self._last = 0.0

    def __enter__(self) -> Sampler:
        signal.signal(signal.SIGALRM, self._sample)
        self._last = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        weight = time.perf_counter() - self._last
        while frame is not None and frame.f_code is Sampler._sample.__code__:
            frame = frame.f_back
        seen: set[str] = set()
        first = True
        while frame is not None:
            for name in place_of(frame.f_code.co_filename, frame.f_code.co_qualname if known(frame) else owner(frame)):
                if first:
                    self.own[name] += weight
                if name not in seen:
                    seen.add(name)
                    self.whole[name] += weight
            first, frame = False, frame.f_back
        self._last = time.perf_counter()  # what sampling takes is nobody's


def known(frame: FrameType) -> bool:
    """Whether its code says whose it is: what dataclasses generate does not."""
    return frame.f_code.co_filename != "<string>"


def owner(frame: FrameType) -> str:
    """Of generated code: the class of what it is called on."""
    return f"{type(frame.f_locals.get('self')).__name__}.{frame.f_code.co_name}"


@cache
def place_of(file: str, function: str) -> tuple[str, str]:
    """The module, short, and the function in it."""
    path = Path(file)
    module = str(path.relative_to(TREE)) if path.is_relative_to(TREE) else "/".join(path.parts[-2:])
    return module, f"{module}: {function}"


async def run(job: Job, engine: FluxEngine, count: int) -> None:
    """The workload."""
    flow = plain(5)
    await lanes(lambda: engine.execute(flow, {"n": 1}), count, 100 if job.workload == "W2" else 1)


async def sampled(job: Job) -> tuple[Sampler, float, Counter[str]]:
    """The samples, microseconds a workflow, and calls a workflow by place."""
    count = job.sizes["runs"]
    async with FluxEngine(open_storage(job)) as engine:
        await run(job, engine, min(200, count))
        start = time.perf_counter()
        with Sampler() as sampler:
            await run(job, engine, count)
        each = (time.perf_counter() - start) / count * 1e6
        profile = cProfile.Profile()
        profile.enable()
        await run(job, engine, COUNTED)
        profile.disable()
    return sampler, each, _calls(profile)


def _calls(profile: cProfile.Profile) -> Counter[str]:
    calls: Counter[str] = Counter()
    for (file, _, name), (_, number, *_rest) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        for place in place_of(file, name):
            calls[place] += number
    return calls


def rows(sampler: Sampler, calls: Counter[str], each: float, functions: bool) -> list[tuple[str, float, float, float, float]]:
    """Name, own µs, part, µs with calls, calls; the dearest first."""
    total = sum(value for name, value in sampler.own.items() if ": " not in name)
    found = []
    for name, own in sampler.own.most_common():
        if (": " in name) == functions:
            number = calls[name] or calls[_plain(name)]
            found.append((name, own / total * each, own / total, sampler.whole[name] / total * each, number / COUNTED))
    return found


def _plain(name: str) -> str:
    """As a tracing profiler calls it: without the class."""
    module, _, function = name.partition(": ")
    return f"{module}: {function.rpartition('.')[2]}"


def main() -> None:
    """Sample, and print both tables as JSON."""
    sampler, each, calls = asyncio.run(sampled(read_job()))
    print(json.dumps({"each": each, "modules": rows(sampler, calls, each, False), "functions": rows(sampler, calls, each, True)}))


main()

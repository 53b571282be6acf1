"""W9: how quickly a worker gets runs out of a store where very many wait."""

from __future__ import annotations

import time
from typing import Any

from common import Figures, Job, lanes, quantile
from flux_parts import open_storage, plain

from flux import FluxEngine

BATCHES = (10, 100)
REPEATS = 5
LEASE = 3_600_000_000  # microseconds: nothing may expire meanwhile


async def claims(job: Job) -> Figures:
    """Claims a second in batches of ten and of a hundred, at each level of waiting runs."""
    found: Figures = {}
    levels = [size for name, size in sorted(job.sizes.items(), key=lambda item: item[1]) if name.startswith("level")]
    there = 0
    for level in levels:
        await _fill(job, level - there)
        there = level
        async with FluxEngine(_storage(job), workflows=[plain(1)]) as engine:
            for batch in BATCHES:
                found[f"claims_{batch}_at_{level}"] = quantile([await _rate(engine, batch, number) for number in range(REPEATS)], 0.5)
    return found


_kept: dict[str, Any] = {}


def _storage(job: Job) -> Any:
    """Memory is gone when its storage object is."""
    return _kept.setdefault(job.place, open_storage(job)) if job.storage == "memory" else open_storage(job)


async def _fill(job: Job, count: int) -> None:
    flow = plain(1)
    async with FluxEngine(_storage(job)) as engine:
        await lanes(lambda: engine.start(flow, {"n": 1}), count, 500)


async def _rate(engine: FluxEngine, batch: int, number: int) -> float:
    """Of at most half a second or 400 runs; then everything is given back."""
    nonce, storage = f"bench-{batch}-{number}", engine.storage
    await storage.register(nonce, LEASE)
    codes, got = engine._registry.codes(), 0
    start = time.perf_counter()
    while got < 400 and time.perf_counter() - start < 0.5:
        got += len((await storage.claim(nonce, codes, batch)).runs)
    elapsed = time.perf_counter() - start
    await storage.unregister(nonce)
    return got / elapsed

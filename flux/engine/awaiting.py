"""Waiting until a run stands where somebody wants it, whoever moves it: this engine, or a worker elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from ..core.status import RunStatus
from ..errors import EngineClosed, RunNotFound, StorageMisused
from ..storage import Header, StoredRun
from .driver import Driver
from .host import Host

POLL = 0.5  # seconds between looks at a run that another worker holds; its changes are noticed at once
SHORT = 32  # rows of a journal that may as well be read with the head


class Awaiting:
    """What one engine's callers wait for."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._listens = False  # the storage has been asked for its changes before, so that this costs little

    async def until(self, run_id: str, statuses: Collection[RunStatus], *, whole: bool = False) -> Driver | StoredRun | Header:
        """The run once it stands at one of these statuses: its head, or where it was at hand what has more of it. With `whole` a short run
        is read whole. Raises RunNotFound, EngineClosed where the engine is closed before."""
        try:
            return await self._until(run_id, statuses, whole)
        except StorageMisused:
            if self._host.is_open:
                raise
            raise _closed(run_id) from None

    async def _until(self, run_id: str, statuses: Collection[RunStatus], whole: bool) -> Driver | StoredRun | Header:
        count = await self._host.storage.changed(-1, 0) if self._listens else -1
        short = False
        while True:
            driver = self._host.drivers.get(run_id)
            if driver is not None:
                await driver.finished()
            elif not self._host.is_open:
                raise _closed(run_id)
            else:
                run, header = await self._read(run_id, whole=short and whole)
                if header.status in statuses:
                    return run or header
                short = header.position <= SHORT
                count, driver = await self._news(run_id, count)
            if driver is not None and not driver.lost and driver.error is None and driver.state.status in statuses:
                return driver

    async def _read(self, run_id: str, *, whole: bool) -> tuple[StoredRun | None, Header]:
        storage = self._host.storage
        run = await storage.load(run_id) if whole else None
        header = run.header if run is not None else None if whole else await storage.read_header(run_id)
        if header is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        return run, header

    async def _news(self, run_id: str, count: int) -> tuple[int, Driver | None]:
        """Wait for a change in the storage since `count`, or for a driver that has moved the run here and lets go of it: what it knows need
        not be read again."""
        self._listens = True
        here = self._host.watch(run_id)
        change = asyncio.ensure_future(self._host.storage.changed(count, POLL))
        try:
            await asyncio.wait((here, change), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._host.unwatch(run_id, here)
            if not change.done():
                change.cancel()
        if change.done():
            count = change.result()
        return count, here.result() if here.done() else None


def _closed(run_id: str) -> EngineClosed:
    return EngineClosed(f"the engine was closed before run {run_id!r} had come to that")

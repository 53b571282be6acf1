"""Claims runs that are due and moves them on, and has schedules ticked, until it is told to stop (S12.1, S14, D18)."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from ..clock import Timer
from ..errors import FluxError, LeaseLost, StorageUnavailable
from ..storage import Claimed
from .queueing import demand_of

if TYPE_CHECKING:
    from .host import Host
    from .lease import Lease
    from .ticking import Ticker

logger = logging.getLogger("flux.engine")

POLL = 0.5  # seconds between looks for dead workers' runs; new work is noticed at once
STAY = 1.0  # seconds a worker keeps a run that sleeps; a longer sleep gives its place to others


class Worker:
    """Beside an app: `async with engine.worker(concurrency=100): ...`. On its own: `await engine.work()`."""

    def __init__(self, host: Host, concurrency: int, ticker: Ticker) -> None:
        self._host = host
        self._ticker = ticker
        self._concurrency = concurrency
        self._wake = asyncio.Event()
        self._stopping = False
        self._held_up = True  # there may be more to claim once one of its runs has come to rest
        self._moving = 0
        self._claimed: dict[str, str] = {}  # run id -> workflow, of those that it moves
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Worker:
        self._stopping = False  # it may have been left before
        self._host.workers.add(self)  # who is told to stop before its task's first turn has heard it
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="flux-worker")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Claim no more, and wait for what is being moved, at most the engine's grace period: the engine moves the rest on."""
        self.stop()
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=self._host.grace)
            for task in late:
                task.cancel()
            self._host.workers.discard(self)  # where its task was cancelled before that turn
            await asyncio.gather(self._task, return_exceptions=bool(late))

    async def _serve(self) -> None:
        """Run beside an app, which learns of an error only where it leaves the worker: perhaps in weeks (I17)."""
        try:
            await self.run()
        except Exception as error:
            logger.error("a worker has failed, and claims nothing any more: %s: %s", type(error).__name__, error)
            raise

    def wake(self) -> None:
        """There may be something to claim."""
        self._wake.set()

    def stop(self) -> None:
        """Claim no more; `run` returns once what it moves has come to rest."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Claim and move runs until `stop`."""
        self._host.workers.add(self)
        if self._host.draining:  # the engine began to close before this task had its first turn, and could tell nobody
            self._stopping = True
        loop = asyncio.get_running_loop()
        ticking = loop.create_task(self._ticker.run(), name="flux-ticker")
        watcher = loop.create_task(self._watch(), name="flux-watch")
        try:
            while not self._stopping:
                next_at = await self._claim()
                await self._sleep(next_at)
            ticking.cancel()
            while self._moving and not self._host.draining:  # closing waits for handlers, and no longer than its grace period
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._host.workers.discard(self)
            watcher.cancel()
            ticking.cancel()
            await asyncio.gather(watcher, ticking, return_exceptions=True)

    async def _claim(self) -> int | None:
        """Take what there is room for; when the next run is due, None if that is not known."""
        self._wake.clear()
        host = self._host
        while (room := self._concurrency - self._moving) > 0 and not self._stopping and not host.isolation.closed:
            lease: Lease | None = None  # stays so while the storage does not even register this worker
            try:
                lease = await host.lease()
                claimed = await host.own(self._take(lease, room))
            except LeaseLost as error:
                if lease is not None:
                    logger.error("%s: its runs are moved by others now", error)
                    host.drop_lease(lease)
                continue
            except StorageUnavailable as error:
                if lease is not None:
                    host.retire(lease)
                logger.warning("the storage does not answer a claim (%s); trying again in %.1f s", error, POLL)
                break
            if len(claimed.runs) < room:
                self._held_up = bool(host.registry.queues)
                return claimed.next_at
        self._held_up = True
        return None

    async def _take(self, lease: Lease, room: int) -> Claimed:
        """Claim and adopt, in a task of the engine's own: whoever cancels a worker does not lose what it was about to get (D19)."""
        codes, limits = demand_of(self._host.registry, self._count)
        claimed = await self._host.storage.claim(lease.nonce, codes, room, limits)
        self._host.saw(claimed.now)
        for run in claimed.runs:
            self._moving += 1
            self._claimed[run.header.run_id] = run.header.workflow
            self._host.adopt(run, lease, STAY).add_done_callback(partial(self._moved, run.header.run_id))
        return claimed

    def _count(self, workflow: str) -> int:
        """How many runs of a workflow are moved here, by this worker or by calls."""
        drivers = [run_id for run_id, driver in self._host.drivers.items() if driver.bound.definition.name == workflow]
        return len({*drivers, *[run_id for run_id, name in self._claimed.items() if name == workflow]})

    def _moved(self, run_id: str, _: object) -> None:
        self._moving -= 1
        self._claimed.pop(run_id, None)
        if self._held_up or self._stopping:  # else what there is was claimed, and the storage tells of what comes
            self._wake.set()

    async def _sleep(self, next_at: int | None) -> None:
        """Until there may be something to claim: a change, a free place, or the next due time."""
        if self._stopping:
            return
        timer: Timer | None = None
        if next_at is not None and self._moving < self._concurrency:
            delay = max(0.0, (next_at - self._host.now()) / 1_000_000)
            timer = self._host.clock.call_later(delay, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    async def _watch(self) -> None:
        """Turn the storage's hints, and the poll behind them, into wake-ups."""
        count = -1
        while True:
            before = count
            try:
                count = await self._host.storage.changed(count, POLL)
            except FluxError as error:
                logger.warning("the storage does not tell of changes (%s); polling", error)
                await self._host.pause(POLL)
            self._wake.set()
            self._ticker.poll() if count == before else self._ticker.hint()


class StopOnSignals:
    """While entered, SIGTERM and SIGINT call `stop` (S14.4); only on a main thread whose loop can do it."""

    def __init__(self, stop: object) -> None:
        self._stop = stop
        self._installed: list[signal.Signals] = []

    def __enter__(self) -> StopOnSignals:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                try:
                    loop.add_signal_handler(number, self._stop)  # type: ignore[arg-type]
                except (NotImplementedError, RuntimeError, ValueError):
                    continue  # a loop without signal handlers: Windows has such, and some embedded ones
                self._installed.append(number)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in self._installed:
            loop.remove_signal_handler(number)

"""The right to move runs: one worker identity per engine, kept alive by a heartbeat (D13, D15, I12)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from ..clock import Clock, Jumping, SystemClock
from ..errors import FluxError
from ..storage import Renewal, WorkflowStorage

logger = logging.getLogger("flux.engine")


class Lease:
    """One worker identity (a nonce), and until when it may start handlers.

    The heartbeat is a thread with a loop of its own, so that a handler which blocks the event loop does not lose the
    leases of the others (I18). It gives up when the loop has not turned for two lease lengths.
    """

    def __init__(
        self, storage: WorkflowStorage, clock: Clock, nonce: str, seconds: float, on_renewal: Callable[[Lease, Renewal], None]
    ) -> None:
        self.nonce = nonce
        self.deadline = 0.0  # monotonic; counted from before a renewal was sent (I12)
        self._storage = storage
        self._clock = clock
        self._seconds = seconds
        self._on_renewal = on_renewal
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._ticked = clock.monotonic()
        self._thread: threading.Thread | None = None
        self._unhook: Callable[[], None] | None = None

    @property
    def length(self) -> int:
        """Microseconds."""
        return int(self._seconds * 1_000_000)

    @property
    def alive(self) -> bool:
        """Whether a handler may be started now (I12)."""
        return self._clock.monotonic() < self.deadline

    async def begin(self) -> int:
        """Register with the storage and start the heartbeat; returns the storage's time."""
        sent = self._clock.monotonic()
        now = await self._storage.register(self.nonce, self.length)
        self.deadline = sent + self._seconds
        if isinstance(self._clock, Jumping):
            self._unhook = self._clock.on_jump(self.beat)
        elif isinstance(self._clock, SystemClock):
            self._thread = threading.Thread(target=self._run, name="flux-heartbeat", daemon=True)
            self._thread.start()
        return now

    async def end(self) -> None:
        """Stop the heartbeat and give everything back."""
        self.stop()
        await self._storage.unregister(self.nonce)

    def stop(self) -> None:
        """Stop the heartbeat alone: what is held stays held until the lease runs out."""
        self._stop.set()
        self.deadline = 0.0
        if self._unhook is not None:
            self._unhook()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        # The first beat is a third of a lease away, so a short script never pays for this thread's event loop.
        if not self._stop.wait(self._seconds / 3):
            try:
                asyncio.run(self._beats())
            except Exception:
                logger.exception("the heartbeat of worker %s broke; its runs will be taken over", self.nonce)

    async def _beats(self) -> None:
        while not self._stop.is_set():
            self._call_soon(self._tick)
            if self._clock.monotonic() - self._ticked > 2 * self._seconds:
                logger.error("the event loop has not turned for %.0f s: worker %s gives its leases up", 2 * self._seconds, self.nonce)
                self.deadline = 0.0
                return
            await self.beat()
            # A thread cannot be cancelled: it looks at the flag often enough for `stop` to be quick.
            await asyncio.get_running_loop().run_in_executor(None, self._stop.wait, self._seconds / 3)

    async def beat(self) -> None:
        """Renew it, or learn that it is lost."""
        sent = self._clock.monotonic()
        try:
            renewal = await self._storage.renew(self.nonce, self.length)
        except FluxError as error:
            logger.warning("worker %s could not renew its lease: %s", self.nonce, error)
            return
        if renewal.alive:
            self.deadline = max(self.deadline, sent + self._seconds) if self.deadline else 0.0
        else:
            self.deadline = 0.0
        self._call_soon(self._on_renewal, self, renewal)
        if not renewal.alive:
            self._stop.set()

    def _tick(self) -> None:
        self._ticked = self._clock.monotonic()

    def _call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._stop.set()

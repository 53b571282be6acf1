"""A run held at arm's length: by id, from anywhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..core.status import RunStatus
from .view import RunResult

if TYPE_CHECKING:
    from .engine import FluxEngine


class RunHandle:
    """What `engine.start` and `engine.handle` give: an id, and what may be asked about its run."""

    __slots__ = ("_engine", "id")

    def __init__(self, engine: FluxEngine, run_id: str) -> None:
        self._engine = engine
        self.id = run_id

    async def status(self) -> RunStatus:
        """Where the run stands. Raises RunNotFound."""
        return (await self._engine.summary(self.id)).status

    async def details(self) -> RunResult:
        """The whole view of the run. Raises RunNotFound."""
        return await self._engine.get(self.id)

    async def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait until the run has ended; its data. Raises RunFailed, RunCancelled, RunNotFound, TimeoutError while the run goes on, and
        EngineClosed when the engine is closed before."""
        async with asyncio.timeout(timeout):
            ended = await self._engine.outcome(self.id)
        return ended.unwrap()

    async def cancel(self, reason: str = "", *, compensate: bool = True, interrupt: bool = False) -> RunResult:
        """Ask for the run to be cancelled, as `engine.cancel`."""
        return await self._engine.cancel(self.id, reason, compensate=compensate, interrupt=interrupt)

    def __repr__(self) -> str:
        return f"<RunHandle {self.id}>"

"""Engines that share one storage, as processes would, and that can die as processes do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import asyncpg

from flux import FluxEngine, WorkflowStorage
from flux.testing import VirtualClock
from flux_storage import MemoryStorage, PostgresStorage, SQLiteStorage

LEASE = 30


class Cluster:
    """With `path` each engine has a SQLiteStorage of its own on that file; with `url` a PostgresStorage on that database; else all
    share one MemoryStorage."""

    def __init__(self, path: Path | None, clock: VirtualClock, url: str = "") -> None:
        self.clock = clock
        self.path = path
        self.url = url
        self._memory = MemoryStorage(clock=clock)
        self._outsider: asyncpg.Connection | None = None
        self._stack = AsyncExitStack()
        self._dead: list[FluxEngine] = []

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()
        for engine in self._dead:
            await engine.storage.__aexit__(None, None, None)

    @property
    def in_memory(self) -> bool:
        """Whether there is no database."""
        return self.path is None and not self.url

    async def outsider(self) -> asyncpg.Connection:
        """A connection to the server that is not flux's."""
        if self._outsider is None:
            self._outsider = await asyncpg.connect(self.url.partition("&flux_schema=")[0])
            self._stack.push_async_callback(self._outsider.close)
        return self._outsider

    def storage(self) -> WorkflowStorage:
        """Another way to the one storage."""
        if self.url:
            storage = PostgresStorage.from_url(self.url)
            storage.clock = self.clock
            return storage
        if self.path is None:
            return self._memory
        return SQLiteStorage(self.path, synchronous="NORMAL", clock=self.clock)

    def new(self, storage: WorkflowStorage | None = None, **options: Any) -> FluxEngine:
        """An engine that is not open yet."""
        return FluxEngine(storage or self.storage(), lease=LEASE, **options)

    async def open(self, storage: WorkflowStorage | None = None, **options: Any) -> FluxEngine:
        """An open engine, closed at the end of the test."""
        engine = self.new(storage, **options)
        await engine.__aenter__()
        self._stack.push_async_callback(self._close, engine)
        return engine

    async def _close(self, engine: FluxEngine) -> None:
        if engine not in self._dead:
            await engine.close()

    async def crash(self, engine: FluxEngine) -> None:
        """The engine's process is gone: its tasks and its heartbeat stop where they are, and nothing is given back."""
        host = engine._host  # pyright: ignore[reportPrivateUsage]
        if host._lease is not None:
            host._lease.stop()
        host.is_open = False  # a cancellation is its own then, and not a handler's
        tasks = list(host._tasks)
        tasks.extend(worker._task for worker in list(host.workers) if worker._task is not None)
        for task in tasks:
            asyncio.get_running_loop().call_soon(task.cancel)  # once it has begun: who waits for it is told then
        await asyncio.gather(*tasks, return_exceptions=True)
        if host.hooks is not None:
            await host.hooks.close()
        self._dead.append(engine)

    async def bury(self, engine: FluxEngine) -> None:
        """The same, and its connections to the database are gone: what was under way in them is through, or never was."""
        await self.crash(engine)
        if not self.in_memory:
            engine._host.has_storage = False  # pyright: ignore[reportPrivateUsage]
            await engine.storage.__aexit__(None, None, None)
            self._dead.remove(engine)

    def stand_still(self) -> None:
        """Time moves by hand alone from here on."""
        self.clock._autojump = False  # pyright: ignore[reportPrivateUsage]

    async def outlive(self) -> None:
        """Let the leases of crashed engines run out: after what was under way, for a commit would extend one (D15)."""
        await eventually(lambda: not self.clock.working)
        await self.clock.advance(LEASE + 1)


async def eventually(condition: Callable[[], Any | Awaitable[Any]]) -> None:
    """Turn the event loop until the condition holds; fails after a minute, for a disk may stand still for seconds."""
    async with asyncio.timeout(60):
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0)


class Effects:
    """What handlers did to the world outside, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def step(self, name: str, result: Any = None, error: BaseException | None = None) -> Callable[[Any], Awaitable[Any]]:
        """A handler that notes its name, then raises or returns."""

        async def handler(ctx: Any) -> Any:
            self.done.append(name)
            if error is not None:
                raise error
            return result

        return handler

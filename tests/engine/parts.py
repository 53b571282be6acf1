"""What the tests of steps inside steps share: handlers that are known by their paths."""

from __future__ import annotations

import asyncio
from typing import Any

from flux import RunResult
from flux.testing import VirtualClock

from .cluster import eventually


class Declined(Exception):
    pass


class Parts:
    """`act` is the handler: it notes its path, waits if that is in `held`, raises if it is in `failing`, and returns it."""

    def __init__(self, *failing: str, held: tuple[str, ...] = ()) -> None:
        self.failing = set(failing)
        self.done: list[str] = []
        self.undone: list[str] = []
        self.cut: list[str] = []
        self.held = {path: asyncio.Event() for path in held}
        self.under_way = 0
        self.most = 0

    async def act(self, ctx: Any) -> str:
        """See the class."""
        self.done.append(ctx.path)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if ctx.path in self.held:
                await self.held[ctx.path].wait()
        except asyncio.CancelledError:
            self.cut.append(ctx.path)
            raise
        finally:
            self.under_way -= 1
        if ctx.path in self.failing:
            raise Declined(ctx.path)
        return str(ctx.path)

    async def mark(self, ctx: Any) -> str:
        """The same, and the data says so under the path."""
        result = await self.act(ctx)
        ctx.data[ctx.path] = True
        return result

    async def undo(self, ctx: Any) -> None:
        """Notes what is undone."""
        self.undone.append(ctx.path.removesuffix("!undo"))

    async def reached(self, *paths: str) -> None:
        """Wait until these have been called."""
        await eventually(lambda: set(paths) <= set(self.done))

    def let(self, *paths: str) -> None:
        """Let these go on."""
        for path in paths:
            self.held[path].set()

    def again(self) -> None:
        """Nothing fails or is held any more, and nothing has been done."""
        self.failing.clear()
        self.held.clear()
        self.done.clear()
        self.undone.clear()


class Slow:
    """A handler that takes some virtual time."""

    def __init__(self, clock: VirtualClock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds

    async def __call__(self, ctx: Any) -> str:
        over = asyncio.Event()
        self.clock.call_later(self.seconds, over.set)
        await over.wait()
        return str(ctx.path)


def statuses(result: RunResult) -> dict[str, str]:
    """Of the steps, by path."""
    return {line.path: line.status.value for line in result.history}

"""What the tests of doing it again share: a shop whose steps fail while they are told to, and a provider that knows keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from flux import Event, Hooks

from .cluster import Effects

Handler = Callable[[Any], Awaitable[Any]]


class Declined(Exception):
    pass


class Shop(Effects):
    """Notes what is done. The steps named in `failing` raise, those in `hanging` never return."""

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing = set(failing)
        self.hanging: set[str] = set()
        self.entered: dict[str, asyncio.Event] = {}
        self.saw: list[tuple[str, dict[str, Any]]] = []

    def act(self, name: str, **changes: Any) -> Handler:
        """A handler that returns its name and the number of its calls, and changes the data."""

        async def handler(ctx: Any) -> str:
            self.done.append(name)
            self.saw.append((name, dict(ctx.data)))
            self.entered.setdefault(name, asyncio.Event()).set()
            if name in self.hanging:
                await asyncio.Event().wait()
            if name in self.failing:
                raise Declined(name)
            if "!" not in ctx.path:
                ctx.data.update(changes)
            return f"{name} {self.done.count(name)}"

        return handler

    async def reached(self, name: str) -> None:
        """Wait until a handler of this name has been called."""
        await self.entered.setdefault(name, asyncio.Event()).wait()

    def again(self) -> None:
        """Nothing fails any more, and nothing has been done."""
        self.failing.clear()
        self.hanging.clear()
        self.entered.clear()
        self.done.clear()
        self.saw.clear()


class Provider:
    """Takes money once a key: a key that it knows gets the old answer, refunded or not."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.charges: dict[str, str] = {}
        self.refunds: dict[str, str] = {}

    async def charge(self, ctx: Any) -> str:
        self.asked.append(ctx.idempotency_key)
        return self.charges.setdefault(ctx.idempotency_key, f"charge-{len(self.charges) + 1}")

    async def refund(self, ctx: Any) -> None:
        self.refunds[ctx.idempotency_key] = ctx.result

    @property
    def paid(self) -> list[str]:
        """The charges that stand."""
        return [charge for charge in self.charges.values() if charge not in self.refunds.values()]


class Listener(Hooks):
    """Notes every event."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def _note(self, event: Event) -> None:
        self.heard.append((event.name, event.path))

    run_reopened = run_forked = step_resolved = step_probed = run_blocked = _note
    run_completed = run_failed = run_cancelled = step_started = _note


async def header(engine: Any, run_id: str) -> Any:
    """The head of a run in the storage."""
    return await engine.storage.read_header(run_id)


async def stands(engine: Any, run_id: str, status: str) -> bool:
    """Whether the run stands at this status."""
    return bool((await engine.summary(run_id)).status == status)

# pyright: strict
"""The public API as typed users write it: checked by mypy and pyright in strict mode, and run by test_typing.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flux import Context, FluxEngine, Hooks, Retry, RunResult, RunStatus, branch, create_workflow, wait
from flux_storage import MemoryStorage


@dataclass
class Order:
    """A typed input."""

    order_id: str
    total: int = 0


@dataclass
class State:
    """Typed data."""

    paid: bool = False


async def reserve(ctx: Context[Order, State]) -> str:
    """An async handler that reads typed input."""
    return ctx.input.order_id.upper()


def pay(ctx: Context[Order, State]) -> int:
    """A blocking handler that changes typed data."""
    ctx.data.paid = True
    return ctx.input.total


async def release(ctx: Context[Order, State]) -> None:
    """A compensation."""
    ctx.logger.info("released %s because of %r", ctx.result, ctx.error)


async def ask(ctx: Context[Any, Any]) -> object:
    """A handler that waits."""
    return wait("approval", timeout=3, default=None)


def is_paid(ctx: Context[Order, State]) -> bool:
    """A condition."""
    return ctx.data.paid


flow = (
    create_workflow("order", version="1", deadline=timedelta(days=7))
    .input(Order)
    .data(State)
    .step("reserve", reserve, compensate=release, retry=Retry(initial=0.1, jitter=False))
    .step("pay", pay, retries=3, timeout=30)
    .wait("approval", timeout=timedelta(days=3), on_timeout=branch().step("remind", reserve))
    .sleep("cool-off", seconds=0.001)
    .commit("ship", reserve, when=is_paid)
)


class Counting(Hooks):
    """Hooks of a user's."""

    def __init__(self) -> None:
        self.completed = 0

    def step_completed(self, event: Any) -> None:
        """Count."""
        self.completed += 1


async def main() -> RunResult:
    """Everything once."""
    async with FluxEngine(MemoryStorage(), workflows=[flow], hooks=[Counting()]) as engine:
        result = await engine.execute(flow, Order("a-1", 5), id="order-1")
        assert result.status is RunStatus.SUSPENDED
        result = await engine.signal(flow, result.id, "approval", {"by": "ana"}, signal_id="s-1")
        handle = engine.handle(result.id)
        data: dict[str, Any] = await handle.result(timeout=10)
        assert data == {"paid": True}
        return await handle.details()

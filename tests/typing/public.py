# pyright: strict
"""The public API as typed users write it: checked by mypy and pyright in strict mode, and run by test_typing.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flux import Branch, Context, FluxEngine, Hooks, Queue, Retry, RunResult, RunStatus, Workflow, branch, create_workflow, wait
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
    create_workflow(
        "order",
        version="1",
        deadline=timedelta(days=7),
        queue=Queue(concurrency=20, worker_concurrency=5, per_key=1, key=lambda order: order.order_id, rate=(100, timedelta(minutes=1))),
    )
    .input(Order)
    .data(State)
    .step("reserve", reserve, compensate=release, retry=Retry(initial=0.1, jitter=False))
    .step("pay", pay, retries=3, timeout=30)
    .wait("approval", timeout=timedelta(days=3), on_timeout=branch().step("remind", reserve))
    .sleep("cool-off", seconds=0.001)
    .commit("ship", reserve, when=is_paid)
)


def carrier(ctx: Context[Order, State]) -> str:
    """A selector."""
    return "air" if ctx.input.total > 100 else "road"


def order_lines(ctx: Context[Order, State]) -> list[str]:
    """Items."""
    return [ctx.input.order_id]


def newest(key: str, values: list[Any]) -> Any:
    """A merge."""
    return values[-1]


flow_of_steps = create_workflow("steps").step("pay", pay)
by_sea = branch().step("book", reserve, compensate=release).wait("landed", type=str)
more_branches: dict[str, Branch | Workflow[Any, Any]] = {"join": by_sea, "rest": flow_of_steps}
composed: Workflow[Order, State] = (
    create_workflow("shipment")
    .input(Order)
    .data(State)
    .parallel("prepare", label=reserve, invoice=branch().step("print", pay).wait("signed"), join="any", merge=newest)
    .parallel("again", more_branches, label=pay, join=2, on_failure="finish", when=is_paid)
    .route("carrier", carrier, air=reserve, sea=by_sea, default=lambda ctx: ctx.run_id)
    .loop("poll", reserve, until=is_paid, at_most=100)
    .loop("drain", by_sea, while_=lambda ctx: not ctx.data.paid, at_most=3)
    .loop("twice", pay, at_most=2)
    .for_each("lines", order_lines, pay, concurrency=10)
    .for_each("rest", lambda ctx: ctx.results["lines"], by_sea, concurrency=None, at_least=1, fail_fast=False, merge=newest)
    .child("billing", flow, input=lambda ctx: {"order_id": ctx.run_id}, when=is_paid)
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
        queued = await engine.start(flow, Order("a-2"), deduplication_key="a-2", concurrency_key="a-2")
        assert queued.id == (await engine.start(flow, Order("a-2"), deduplication_key="a-2")).id
        return await handle.details()

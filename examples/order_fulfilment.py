"""From an order to a parcel, or back again: steps, a condition, a commit step, and undoing.

    python examples/order_fulfilment.py

What to look for:
- `ctx.data` is the run's own memory; what a step changes is stored with its result, in one write.
- `when=` decides once whether a step is taken; a skipped step is never undone.
- `commit` is the step with the effect outside: it is shielded from cancellation, and recovery never repeats it once recorded.
- when the payment of the second order fails for good, what was done before it is undone, newest first.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from flux import Context, FluxEngine, NonRetryable, RunResult, create_workflow

HOME = Path(tempfile.gettempdir())  # the directory of this shop; main() chooses a fresh one


@dataclass
class Order:
    sku: str
    quantity: int
    card: str


@dataclass
class Bill:
    total: int = 0  # cents
    discount: int = 0


class CardRefused(NonRetryable):
    """Trying again would not help, so it fails the step at once."""


def shop() -> closing[sqlite3.Connection]:
    """The shop's own database; it knows nothing of flux."""
    return closing(sqlite3.connect(HOME / "shop.db", isolation_level=None))


def reserve(ctx: Context[Order, Bill]) -> int:
    """Take goods from stock. The key makes a second call, after a crash, change nothing."""
    sku, quantity = ctx.input.sku, ctx.input.quantity
    with shop() as db:
        db.execute("BEGIN IMMEDIATE")
        left, price = db.execute("SELECT stock, price FROM goods WHERE sku = ?", (sku,)).fetchone()
        if db.execute("INSERT OR IGNORE INTO taken VALUES (?, ?, ?)", (ctx.idempotency_key, sku, quantity)).rowcount:
            if left < quantity:
                raise NonRetryable(f"only {left} of {sku} left")
            db.execute("UPDATE goods SET stock = stock - ? WHERE sku = ?", (quantity, sku))
        db.execute("COMMIT")
    ctx.data.total = quantity * price
    return quantity


def put_back(ctx: Context[Order, Bill]) -> None:
    """Undo `reserve`, also if it had not happened after all."""
    key = ctx.idempotency_key.removesuffix("!undo")
    with shop() as db:
        db.execute("BEGIN IMMEDIATE")
        if db.execute("DELETE FROM taken WHERE key = ?", (key,)).rowcount:
            db.execute("UPDATE goods SET stock = stock + ? WHERE sku = ?", (ctx.input.quantity, ctx.input.sku))
        db.execute("COMMIT")


def discount(ctx: Context[Order, Bill]) -> int:
    ctx.data.discount = ctx.data.total // 10
    return ctx.data.discount


def write_invoice(ctx: Context[Order, Bill]) -> str:
    invoice = HOME / f"invoice-{ctx.run_id}.txt"
    invoice.write_text(f"{ctx.input.quantity} x {ctx.input.sku}\n{ctx.data.total - ctx.data.discount} cents\n")
    return hashlib.sha256(invoice.read_bytes()).hexdigest()[:12]


def void_invoice(ctx: Context[Order, Bill]) -> None:
    (HOME / f"invoice-{ctx.run_id}.txt").unlink(missing_ok=True)


def pay(ctx: Context[Order, Bill]) -> int:
    if ctx.input.card.startswith("0"):
        raise CardRefused(f"the bank refuses card {ctx.input.card}")
    cents = ctx.data.total - ctx.data.discount
    with shop() as db:
        db.execute("INSERT OR IGNORE INTO payments VALUES (?, ?)", (ctx.idempotency_key, cents))
    return cents


def ship(ctx: Context[Order, Bill]) -> str:
    parcel = HOME / f"parcel-{ctx.run_id}.txt"
    parcel.write_text(f"{ctx.input.quantity} x {ctx.input.sku}, invoice {ctx.results['invoice']}\n")
    return parcel.name


fulfil = (
    create_workflow("fulfil")
    .input(Order)
    .data(Bill)
    .step("reserve", reserve, compensate=put_back)
    .step("discount", discount, when=lambda ctx: ctx.data.total >= 10_000)
    .step("invoice", write_invoice, compensate=void_invoice)
    .step("pay", pay)
    .commit("ship", ship)
)


def show(result: RunResult) -> None:
    print(f"\n{result.id}: {result.status}" + (f", because {result.error}" if result.error else ""))
    for line in result.history:
        undone = f"undone: {line.compensation.status}" if line.compensation else ""
        print(f"  {line.name:9} {line.status:11} {line.result or '-':<20} {undone}".rstrip())


async def main() -> None:
    with shop() as db:
        db.execute("CREATE TABLE goods (sku TEXT PRIMARY KEY, stock INTEGER, price INTEGER)")
        db.execute("CREATE TABLE taken (key TEXT PRIMARY KEY, sku TEXT, quantity INTEGER)")
        db.execute("CREATE TABLE payments (key TEXT PRIMARY KEY, cents INTEGER)")
        db.execute("INSERT INTO goods VALUES ('lamp', 10, 4200)")
    async with FluxEngine(f"sqlite:///{(HOME / 'runs.db').as_posix()}") as engine:
        show(await engine.execute(fulfil, Order("lamp", 3, card="4111"), id="order-1"))
        show(await engine.execute(fulfil, Order("lamp", 2, card="0000"), id="order-2"))
    with shop() as db:
        stock, paid = db.execute("SELECT stock, (SELECT sum(cents) FROM payments) FROM goods").fetchone()
    papers = ", ".join(sorted(path.name for path in HOME.glob("*-order-*")))
    print(f"\nin stock: {stock} of 10; in the till: {paid} cents; on disk: {papers}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())

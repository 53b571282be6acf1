"""Money between two accounts in the same database, and a crash in the middle of a booking.

    python examples/transactional_ledger.py

What to look for:
- `transactional=True`: the handler writes through `ctx.connection`, in the transaction that also records the step. It needs no
  idempotency key: when the process dies after the writing and before the commit, nothing was written.
- the outbox: the order and the run that handles it begin in one transaction of the application's own, or neither does.
- `compensate=` undoes a booking that was committed, by a booking back: in a transaction of its own, so it looks whether it has
  been there before.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from flux import Context, FluxEngine, NonRetryable, RunStatus, create_workflow

HOME = Path(tempfile.gettempdir())  # where the bank is; main() chooses a fresh directory
TABLES = """
CREATE TABLE accounts (name TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0));
CREATE TABLE orders (id TEXT PRIMARY KEY, cents INTEGER NOT NULL);
CREATE TABLE undone (key TEXT PRIMARY KEY);
INSERT INTO accounts VALUES ('ana', 10000), ('shop', 0);
"""


# --- the handlers


def move(connection: sqlite3.Connection, giver: str, taker: str, cents: int) -> None:
    connection.execute("UPDATE accounts SET cents = cents - ? WHERE name = ?", (cents, giver))
    connection.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, taker))


def book(ctx: Context) -> str:
    move(ctx.connection, "ana", "shop", ctx.input["cents"])
    if os.environ.get("DIE") == ctx.run_id:
        os._exit(9)  # the money has been moved, and nothing is committed
    return f"{ctx.input['cents']} cents booked at attempt {ctx.attempt}"


def book_back(ctx: Context) -> None:
    with closing(sqlite3.connect(HOME / "bank.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("INSERT OR IGNORE INTO undone VALUES (?)", (ctx.idempotency_key,)).rowcount:
            move(connection, "shop", "ana", ctx.input["cents"])
        connection.execute("COMMIT")


async def pack(ctx: Context) -> str:
    if ctx.input["cents"] > 5000:
        raise NonRetryable("too big for a parcel")
    return "packed"


order = (
    create_workflow("order")
    .step("book", book, transactional=True, compensate=book_back)
    .step("pack", pack)
)  # fmt: skip


# --- the example


def accounts() -> str:
    with closing(sqlite3.connect(HOME / "bank.db")) as connection:
        return ", ".join(f"{name} {cents}" for name, cents in connection.execute("SELECT name, cents FROM accounts ORDER BY name"))


def engine() -> FluxEngine:
    return FluxEngine(f"sqlite:///{HOME / 'bank.db'}", workflows=[order])


async def place() -> None:
    """The child process: books, and dies."""
    async with engine() as flux:
        await flux.execute(order, {"cents": 1200}, id="order-1")


async def main() -> None:
    with closing(sqlite3.connect(HOME / "bank.db")) as connection:
        connection.executescript(TABLES)
    child = subprocess.run([sys.executable, __file__, "place"], env={**os.environ, "DIE": "order-1", "HOME_DIR": str(HOME)}, check=False)
    print(f"1. exit code {child.returncode}; {accounts()}")

    async with engine() as flux:
        run = await flux.resume(order, "order-1")
        print(f"2. {run.status}: {run.results['book']}; {accounts()}")

        with closing(sqlite3.connect(HOME / "bank.db", isolation_level=None)) as connection:
            for order_id, kept in (("order-2", False), ("order-3", True)):
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT INTO orders VALUES (?, ?)", (order_id, 6000))
                await flux.start(order, {"cents": 6000}, id=order_id, connection=connection)
                connection.execute("COMMIT" if kept else "ROLLBACK")
        async with flux.worker():
            await flux.until("order-3", [RunStatus.FAILED])
        runs = [f"{run.id} {run.status}" for run in (await flux.list()).runs]
        print(f"3. {', '.join(sorted(runs))}; {accounts()}")
        lines = [f"{line.name} {line.status}" for line in await flux.history("order-3")]
        print(f"   order-3: {', '.join(lines)}")


if __name__ == "__main__":
    if sys.argv[1:] == ["place"]:
        HOME = Path(os.environ["HOME_DIR"])
        asyncio.run(place())
    else:
        with tempfile.TemporaryDirectory() as directory:
            HOME = Path(directory)
            asyncio.run(main())

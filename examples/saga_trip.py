"""A trip of three bookings, all or none: the car fails, and what was booked is given back, newest first.

    python examples/saga_trip.py

What to look for:
- each step names its undoing with `compensate=`; it is checked when the workflow is built, not when it is needed.
- the hotel's desk is busy at first: that is retried, and nothing is undone for it. No car is for good: everything is.
- a compensation sees what its step returned (`ctx.result`) and what went wrong (`ctx.error`).
- undoing is recorded step by step like doing: a crash in the middle of it would go on where it stood.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from flux import Context, FluxEngine, NonRetryable, Retry, create_workflow

HOME = Path(tempfile.gettempdir())  # main() chooses a fresh directory


class NoCarLeft(NonRetryable):
    """Another attempt would find none either."""


def ledger() -> closing[sqlite3.Connection]:
    """The travel agency's own book, one line a booking or return."""
    return closing(sqlite3.connect(HOME / "ledger.db", isolation_level=None))


def book(ctx: Context, what: str, price: int) -> dict[str, Any]:
    """One line in the ledger; the key keeps a second call from booking twice."""
    code = hashlib.sha256(ctx.idempotency_key.encode()).hexdigest()[:6].upper()
    with ledger() as db:
        db.execute("INSERT OR IGNORE INTO lines (key, what, code, price) VALUES (?, ?, ?, ?)", (ctx.idempotency_key, what, code, price))
    return {"code": code, "price": price}


def give_back(ctx: Context) -> str:
    """The undoing of every booking. `ctx.result` is None where it is not known whether the step took effect."""
    if ctx.result is None:
        return "nothing to give back"
    line = (ctx.idempotency_key, f"{ctx.step} given back", ctx.result["code"], -ctx.result["price"])
    with ledger() as db:
        db.execute("INSERT OR IGNORE INTO lines (key, what, code, price) VALUES (?, ?, ?, ?)", line)
    return f"{ctx.result['code']} given back: {ctx.error}"


def book_flight(ctx: Context) -> dict[str, Any]:
    return book(ctx, f"flight to {ctx.input['to']}", 31_000)


def book_hotel(ctx: Context) -> dict[str, Any]:
    if ctx.attempt == 1:
        raise ConnectionError("the hotel's desk is busy")
    return book(ctx, f"hotel in {ctx.input['to']}", 48_000)


def book_car(ctx: Context) -> dict[str, Any]:
    if ctx.input["to"] == "Lisbon":
        raise NoCarLeft("no car left in Lisbon")
    return book(ctx, f"car in {ctx.input['to']}", 12_000)


def write_itinerary(ctx: Context) -> str:
    codes = [ctx.results[name]["code"] for name in ("flight", "hotel", "car")]
    (HOME / f"{ctx.run_id}.txt").write_text("\n".join(codes) + "\n")
    return ", ".join(codes)


trip = (
    create_workflow("trip")
    .step("flight", book_flight, compensate=give_back)
    .step("hotel", book_hotel, compensate=give_back, retries=2, retry=Retry(initial=0.05))
    .step("car", book_car, compensate=give_back)
    .step("itinerary", write_itinerary)
)


async def main() -> None:
    with ledger() as db:
        db.execute("CREATE TABLE lines (number INTEGER PRIMARY KEY, key TEXT UNIQUE, what TEXT, code TEXT, price INTEGER)")
    async with FluxEngine(f"sqlite:///{(HOME / 'runs.db').as_posix()}") as engine:
        for number, place in enumerate(("Porto", "Lisbon"), 1):
            result = await engine.execute(trip, {"to": place}, id=f"trip-{number}")
            print(f"\n{result.id} to {place}: {result.status}" + (f", because {result.error}" if result.error else ""))
            for line in result.history:
                undone = f"undone: {line.compensation.status}" if line.compensation else ""
                print(f"  {line.name:10} {line.status:12} attempts: {line.attempts}   {undone}".rstrip())
    print("\nThe agency's ledger, in the order in which things happened")
    with ledger() as db:
        for number, what, code, price in db.execute("SELECT number, what, code, price FROM lines ORDER BY number"):
            print(f"  {number}  {what:20} {code}  {price:8}")
        print(f"  {'sum of trip-2':31} {db.execute('SELECT sum(price) FROM lines WHERE number > 3').fetchone()[0]:8}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())

"""Last month's sales as a report: made once a month, by whoever comes first, and published again when it is lost.

    python examples/report_generation.py

What to look for:
- the id of a run says which report it is. A scheduler that fires twice, or two of them, make one report and not two.
- the process dies between the table and the page of the report. The next one to be started carries on: what was collected and
  added up is read from the run's history, and only the step that was hit is called again.
- publishing is a `commit` step, and so `engine.replay` runs it again, months later: with what the steps before it had recorded then,
  and the same idempotency key, though the sales in the database are others by now.
"""

from __future__ import annotations

import asyncio
import csv
import html
import io
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from flux import Context, FluxEngine, RunResult, create_workflow

HOME = Path(tempfile.gettempdir())  # the shop's database, the calls and the published reports; main() chooses a fresh directory
DIES = False  # whether this process dies in the middle of `render`

Sales = list[tuple[str, int, Decimal]]  # product, pieces, turnover


def shop() -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(HOME / "shop.db", isolation_level=None))


def note(ctx: Context[str]) -> None:
    """Count every call outside of flux."""
    with (HOME / "calls.txt").open("a") as calls:
        calls.write(f"{ctx.step} ")


# --- the workflow; its input is a month


def collect(ctx: Context[str]) -> Sales:
    note(ctx)
    with shop() as db:
        rows = db.execute("SELECT product, pieces, price FROM sales WHERE day LIKE ? ORDER BY day", (f"{ctx.input}-%",)).fetchall()
    return [(product, pieces, pieces * Decimal(price)) for product, pieces, price in rows]


def aggregate(ctx: Context[str]) -> Sales:
    """Decimals, tuples and dates are stored as what they are, and come back so."""
    note(ctx)
    sums: dict[str, tuple[int, Decimal]] = {}
    for product, pieces, turnover in ctx.results["collect"]:
        before = sums.get(product, (0, Decimal(0)))
        sums[product] = (before[0] + pieces, before[1] + turnover)
    ctx.data["total"] = sum((turnover for _, turnover in sums.values()), Decimal(0))
    return sorted([(product, *both) for product, both in sums.items()], key=lambda row: row[2], reverse=True)


def render(ctx: Context[str]) -> dict[str, str]:
    """Both forms are one result: there is never a table without its page."""
    note(ctx)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([("product", "pieces", "turnover"), *ctx.results["aggregate"]])
    if DIES:
        os._exit(9)
    cells = ["".join(f"<td>{html.escape(str(value))}</td>" for value in row) for row in ctx.results["aggregate"]]
    rows = "\n".join(f"<tr>{row}</tr>" for row in cells)
    page = f"<h1>Sales of {ctx.input}</h1>\n<table>\n{rows}\n</table>\n<p>Total: {ctx.data['total']}</p>\n"
    return {"csv": table.getvalue(), "html": page}


def publish(ctx: Context[str]) -> list[str]:
    note(ctx)
    (HOME / "public").mkdir(exist_ok=True)
    for kind, text in ctx.results["render"].items():
        new = HOME / "public" / f"{ctx.idempotency_key}.{kind}"
        new.write_text(text)
        new.replace(HOME / "public" / f"sales-{ctx.input}.{kind}")
    return [f"sales-{ctx.input}.{kind}" for kind in ctx.results["render"]]


report = (
    create_workflow("report")
    .input(str)
    .step("collect", collect)
    .step("aggregate", aggregate)
    .step("render", render)
    .commit("publish", publish)
)


async def make_report(month: str) -> RunResult:
    """What a cron job does, on every machine that has one."""
    async with FluxEngine(f"sqlite:///{(HOME / 'runs.db').as_posix()}") as engine:
        return await engine.execute(report, month, id=f"report-{month}")


async def publish_again(month: str) -> RunResult:
    async with FluxEngine(f"sqlite:///{(HOME / 'runs.db').as_posix()}") as engine:
        return await engine.replay(report, f"report-{month}", by="ana", reason="public/ was emptied")


def tell(run: RunResult | None = None) -> None:
    """The run's history, if there is one at hand, and what really happened since."""
    for line in () if run is None else run.history:
        print(f"   {line.name:10} {line.status:10} attempts: {line.attempts}" + (", and it was done before" if line.earlier else ""))
    calls = HOME / "calls.txt"
    print("   called:", calls.read_text().strip() if calls.exists() else "nothing")
    calls.unlink(missing_ok=True)


def main() -> None:
    with shop() as db:
        db.execute("CREATE TABLE sales (day TEXT, product TEXT, pieces INTEGER, price TEXT)")
        for day, product, pieces in (("03", "lamp", 2), ("11", "chair", 1), ("11", "lamp", 1), ("29", "rug & mat", 3)):
            db.execute("INSERT INTO sales VALUES (?, ?, ?, '42.10')", (f"2026-01-{day}", product, pieces))

    print("1. The report of January, in a process that dies before it is rendered")
    code = subprocess.run([sys.executable, __file__, HOME], check=False).returncode
    print(f"   exit code {code}; published: {(HOME / 'public').exists()}")
    tell()

    print("2. The next process is asked for the same report, and carries on")
    tell(asyncio.run(make_report("2026-01")))
    print((HOME / "public" / "sales-2026-01.csv").read_text().rstrip())

    print("3. The scheduler fires again")
    tell(asyncio.run(make_report("2026-01")))

    print("4. Somebody empties public/, and the sales have changed; the report is published again as it was")
    for path in (HOME / "public").iterdir():
        path.unlink()
    with shop() as db:
        db.execute("DELETE FROM sales")
    run = asyncio.run(publish_again("2026-01"))
    tell(run)
    print(f"   {run.reopenings[0].cause} by {run.reopenings[0].by}, because {run.reopenings[0].reason}; {run.id} is {run.status}")
    print((HOME / "public" / "sales-2026-01.html").read_text().rstrip().splitlines()[-1])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        HOME, DIES = Path(sys.argv[1]), True
        asyncio.run(make_report("2026-01"))
    else:
        with tempfile.TemporaryDirectory() as directory:
            HOME = Path(directory)
            main()

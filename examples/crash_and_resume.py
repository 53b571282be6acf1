"""An order that survives two kill -9. Run it: python examples/crash_and_resume.py

A child process carries an order through four steps on a SQLite file. Twice it kills itself in the middle of a step: the effect
has happened and flux has not recorded it yet, the worst instant there is. Each time it is started again, and carries on.
The handlers also note every call in a file of their own, so what is counted at the end is what happened, not what flux says.

What to look for: a step that is recorded is never run again. The step that was hit is, and `ctx.idempotency_key` is the
same as before, so that its handler recognises what it has done already.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from flux import Context, FluxEngine, RunResult, create_workflow

ORDER = {"sku": "lamp", "quantity": 2, "price": 4200}
KILLS = ("charge", "pack", "")  # where each process dies; the last one may live
AWAKE = time.time()  # from here on the time is flux's and ours; before it was Python's

# --- the workflow: four handlers that do real work in a directory


def reserve(ctx: Context) -> str:
    with closing(sqlite3.connect(here("stock.db"))) as stock, stock:
        stock.execute("CREATE TABLE IF NOT EXISTS taken (key TEXT PRIMARY KEY, sku TEXT, quantity INTEGER)")
        row = (ctx.idempotency_key, ctx.input["sku"], ctx.input["quantity"])
        new = stock.execute("INSERT OR IGNORE INTO taken VALUES (?, ?, ?)", row).rowcount == 1
    return effect(ctx, new, f"{row[2]} x {row[1]} taken from stock")


def charge(ctx: Context) -> str:
    ctx.data["total"] = ctx.input["quantity"] * ctx.input["price"]
    receipt = json.dumps({"key": ctx.idempotency_key, "cents": ctx.data["total"]})
    new = write_once(f"receipt-{ctx.idempotency_key[:8]}.json", receipt)
    return effect(ctx, new, f"{ctx.data['total'] / 100:.2f} EUR, receipt {hashlib.sha256(receipt.encode()).hexdigest()[:8]}")


def pack(ctx: Context) -> str:
    slip = f"{ctx.run_id}: {ctx.results['reserve']}; {ctx.results['charge']}\n"
    return effect(ctx, write_once("parcel.txt", slip), f"parcel.txt, {len(slip)} bytes")


def ship(ctx: Context) -> str:
    label = hashlib.sha256(ctx.idempotency_key.encode()).hexdigest()[:8]
    return effect(ctx, write_once(f"label-{label}.txt", here("parcel.txt").read_text()), f"handed over, label {label}")


order = create_workflow("order").step("reserve", reserve).step("charge", charge).step("pack", pack).commit("ship", ship)


def write_once(name: str, text: str) -> bool:
    """Whether this call wrote it: a second one finds the file and leaves it. A kill leaves a whole file, or none."""
    if here(name).exists():
        return False
    here(f"{name}.new").write_text(text)
    here(f"{name}.new").replace(here(name))
    return True


def effect(ctx: Context, new: bool, what: str) -> str:
    """Note the call outside of flux; then die, if this is where this process is to die."""
    call = {"process": int(sys.argv[2]), "step": ctx.step, "new": new, "what": what, "at": time.time(), "awake": time.time() - AWAKE}
    with here("calls.jsonl").open("a") as calls:
        calls.write(json.dumps(call) + "\n")
    if ctx.step == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL) if hasattr(signal, "SIGKILL") else os._exit(9)
    return what


# --- the processes


def here(name: str) -> Path:
    return Path(sys.argv[1]) / name


async def child() -> None:
    """What every process does, the first and the last alike: begin the order, or carry it on."""
    async with FluxEngine(f"sqlite:///{here('runs.db').as_posix()}") as engine:
        await engine.execute(order, ORDER, id="order-1001")


async def read_back(database: Path) -> RunResult:
    async with FluxEngine(f"sqlite:///{database.as_posix()}", workflows=[order]) as engine:
        return await engine.get("order-1001")


def parent(directory: Path) -> int:
    print(bold("\nAn order, and a process that is killed twice"))
    recorded: dict[str, int] = {}  # step -> the process that recorded it
    died_at = 0.0
    for number, kill in enumerate(KILLS, 1):
        code = subprocess.run([sys.executable, __file__, directory, str(number), kill], check=False).returncode
        ended_at = time.time()
        calls = [call for call in read_calls(directory) if call["process"] == number]
        began, died_at = beginning(calls[0], died_at), ended_at
        print(f"\n  {bold(f'Process {number}')}  {began}; {green('exit 0') if code == 0 else red(ending(code))}\n")
        for step, by in recorded.items():
            print(dim(f"    {step:8}  {f'recorded by process {by}':32}  not run again"))
        for call in calls:
            hit = call["step"] == kill
            seen = "effect happened" if call["new"] else "key known: no new effect"
            print(f"    {call['step']:8}  {call['what']:32}  {seen:24}  {red('KILLED, not recorded') if hit else green('recorded')}")
            if not hit:
                recorded[call["step"]] = number
    return report(read_calls(directory), asyncio.run(read_back(directory / "runs.db")))


def beginning(call: dict[str, Any], died_at: float) -> str:
    if not died_at:
        return "begins"
    return f"carries on {call['at'] - died_at:.2f} s after the kill, {call['awake']:.2f} s after Python was up"


def ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"died with exit code {code}"


def read_calls(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "calls.jsonl").read_text().splitlines()]


def report(calls: list[dict[str, Any]], result: RunResult) -> int:
    print(bold("\n  Counted outside, in the file that the handlers wrote\n"))
    print(dim(f"    {'step':8}  {'calls':>5}  {'effects':>7}"))
    once = True
    for step in order.steps:
        effects = [call["new"] for call in calls if call["step"] == step.name]
        once = once and sum(effects) == 1
        print(f"    {step.name:8}  {len(effects):5}  {sum(effects):7}")
    print(bold("\n  The history, read back from the SQLite file\n"))
    print(dim(f"    {'step':8}  {'kind':6}  {'status':9}  {'attempts':>8}  result"))
    for line in result.history:
        print(f"    {line.name:8}  {line.kind:6}  {line.status:9}  {line.attempts:8}  {line.result}")
    sum_up = green("every effect once") if once else red("NOT every effect once")
    print(f"\n  {result.id} is {result.status}: three processes, two kills, {sum_up}.\n")
    return 0 if result.status == "completed" and once else 1


def paint(code: int, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


bold, dim, red, green = partial(paint, 1), partial(paint, 2), partial(paint, 31), partial(paint, 32)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(child())
    else:
        with tempfile.TemporaryDirectory() as directory:
            sys.exit(parent(Path(directory)))

"""A run traced to a file, and its timeline drawn from that file alone.

    python examples/trace_a_run.py

What to look for:
- `hooks=[TraceFile(path)]` is all: every event becomes one line of JSON, in order, after what it tells of is durable.
- two engines append to one file here, as two processes would: the second takes the run up where the first left it.
- no line holds a value or the text of an error: the card number is in the input, and `grep` does not find it.
- a timeline needs no more than that file; so would `jq 'select(.event == "step_failed")' trace.ndjson`.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from flux import Context, FluxEngine, Retry, TraceFile, create_workflow

HOME = Path(tempfile.gettempdir())  # where database and trace are; main() chooses a fresh directory


class TerminalBusy(Exception):
    pass


class Refused(Exception):
    pass


# --- the workflow: a retry, a wait, a failure, and what is undone for it


def reserve(ctx: Context) -> str:
    return "seat 12A"


def release(ctx: Context) -> None:
    """Give the seat back."""


def authorise(ctx: Context) -> str:
    if ctx.attempt == 1:
        raise TerminalBusy(f"the terminal is busy with card {ctx.input['card']}")
    return "authorised"


def charge(ctx: Context) -> None:
    raise Refused(f"card {ctx.input['card']} is refused")


booking = (
    create_workflow("booking")
    .step("reserve", reserve, compensate=release)
    .step("authorise", authorise, retry=Retry(initial=0.2, jitter=False))
    .wait("confirmed")
    .step("charge", charge, retries=0)
)


# --- the timeline


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeline(events: list[dict[str, Any]]) -> None:
    """What happened when, in milliseconds from the first event; an attempt in a step, an error in a word."""
    begin = datetime.fromisoformat(events[0]["at"])
    for event in events:
        since = (datetime.fromisoformat(event["at"]) - begin).total_seconds() * 1000
        path = event.get("path", "")
        attempt = f"attempt {event['attempt']}" if "attempt" in event else ""
        print(f"   {since:7.1f} ms  {event['event']:<18} {path:<10} {attempt:<10} {event.get('error', '')}".rstrip())


async def main() -> None:
    url, trace = f"sqlite:///{(HOME / 'runs.db').as_posix()}", HOME / "trace.ndjson"

    print("1. The first engine runs it until it waits")
    async with FluxEngine(url, hooks=[TraceFile(trace)]) as engine:
        result = await engine.execute(booking, {"card": "4711 0815"}, id="booking-1")
        print(f"   {result.id} is {result.status}, waiting for {result.waiting_for[0]!r}")

    print("2. Another engine takes it to its end, and appends to the same file")
    async with FluxEngine(url, hooks=[TraceFile(trace)]) as engine:
        result = await engine.signal(booking, "booking-1", "confirmed")
        print(f"   {result.id} is {result.status}: {result.error}")

    print("3. The timeline, from the file alone")
    timeline(read(trace))
    print("the card number in the trace:", trace.read_text().count("4711"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())

"""Restate's handlers, served by hypercorn on a port of loopback: `python restate_service.py PORT FILE [hold]`.

Steps that somebody waits for add a byte to the file. With `hold`, third steps never end: for the process that is killed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import restate
from hypercorn import Config

MARKS = Path(*sys.argv[2:3])
HOLDS = sys.argv[3:4] == ["hold"]

bench = restate.Service("bench")
parked = restate.Workflow("parked")


async def step() -> dict[str, Any]:
    """As little as a step can do."""
    return {"n": 1, "ok": True}


def mark() -> None:
    """Somebody waits for this."""
    with MARKS.open("ab", buffering=0) as file:
        file.write(b".")


async def marked() -> dict[str, Any]:
    """The last step before a wait."""
    mark()
    return {"n": 1, "ok": True}


async def third() -> dict[str, Any]:
    """May never end."""
    if HOLDS:
        mark()
        await asyncio.Event().wait()
    return {"n": 1, "ok": True}


@bench.handler()
async def plain(ctx: restate.Context, steps: int) -> dict[str, Any]:
    """Trivial steps."""
    for index in range(steps - 1):
        await ctx.run_typed(f"s{index}", step)
    return await ctx.run_typed("last", step)


@bench.handler()
async def interrupted(ctx: restate.Context, n: int) -> dict[str, Any]:
    """Five steps, of which the third may not end."""
    for index, handler in enumerate((step, step, third, step)):
        await ctx.run_typed(f"s{index}", handler)
    return await ctx.run_typed("last", step)


@parked.main()
async def run(ctx: restate.WorkflowContext, n: int) -> dict[str, Any]:
    """A step, a wait, a step."""
    await ctx.run_typed("before", marked)
    await ctx.promise("go").value()
    return await ctx.run_typed("after", step)


@parked.handler()
async def go(ctx: restate.WorkflowSharedContext, told: dict[str, Any]) -> None:
    """The signal."""
    await ctx.promise("go").resolve(told)


async def main() -> None:
    """Serve until killed."""
    logging.disable(logging.WARNING)
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.accesslog = config.errorlog = None
    await hypercorn.asyncio.serve(restate.app(services=[bench, parked]), config)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(main())

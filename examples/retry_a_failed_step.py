"""A provider that is down, and three ways to go on by hand afterwards: retry, fork, resolve.

    python examples/retry_a_failed_step.py

What to look for:
- while the provider is down its step is tried again, each time after a longer delay; then the run fails and is undone.
- `engine.retry` lets that same run go on. What was undone is done again, under another idempotency key: under the old one the warehouse
  would answer "reserved already", and it is not any more. What stands is not called again.
- `engine.fork` makes a new run that shares the history before a step, for a second try with a run that has completed.
- behind the point of no return (`pivot=True`) nothing is undone. What fails there leaves the run `blocked`, and a person says with
  `engine.resolve` what is to become of it. Who did that, and why, is in the run's history.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

from flux import Context, FluxEngine, Retry, RunResult, create_workflow

HOME = Path(tempfile.gettempdir())  # what the providers know; main() chooses a fresh directory
BEGAN: list[float] = []  # when attempts to charge began


# --- the providers: each remembers requests by their key, in a file, and answers a repeated one as it did before


class ProviderDown(Exception):
    """Worth another attempt."""


def request(provider: str, ctx: Context, what: str) -> str:
    if (HOME / f"{provider}.down").exists():
        raise ProviderDown(f"the {provider} does not answer")
    path = HOME / f"{provider}.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    answer = known.setdefault(ctx.idempotency_key, f"{provider} {len(known) + 1}: {what}")
    path.write_text(json.dumps(known))
    return answer


def turn(provider: str, state: str) -> None:
    """Break a provider, or repair it."""
    down = HOME / f"{provider}.down"
    down.touch() if state == "off" else down.unlink()


# --- the workflow


def price(ctx: Context) -> int:
    ctx.data["total"] = total = int(ctx.input["pieces"]) * 4200
    return total


def reserve(ctx: Context) -> str:
    return request("warehouse", ctx, f"{ctx.input['pieces']} reserved, key {ctx.idempotency_key[:6]}")


def release(ctx: Context) -> str:
    return request("warehouse", ctx, "released")


def charge(ctx: Context) -> str:
    BEGAN.append(time.monotonic())
    return request("bank", ctx, f"{ctx.data['total']} cents charged, key {ctx.idempotency_key[:6]}")


def hand_over(ctx: Context) -> str:
    """Once the carrier has it, nobody gets it back."""
    return request("carrier", ctx, "parcel taken")


def send_mail(ctx: Context) -> str:
    return request("mail", ctx, f"your order is on its way: {ctx.results['hand-over']}")


order = (
    create_workflow("order")
    .step("price", price)
    .step("reserve", reserve, compensate=release)
    .step("charge", charge, retries=3, retry=Retry(backoff="exponential", initial=0.05, factor=2, jitter=False))
    .commit("hand-over", hand_over, pivot=True)
    .step("mail", send_mail, retries=0)
)


# --- the program


def show(run: RunResult) -> None:
    print(f"   {run.id} is {run.status}" + (f": {run.blocked_reason or run.error}" if run.error else ""))
    for line in run.history:
        more = " (inherited)" if line.inherited else f" (earlier: {', '.join(old.status for old in line.earlier)})" if line.earlier else ""
        print(f"      {line.name:10} {line.status:12} attempts: {line.attempts}  {line.result or ''}{more}".rstrip())


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="      the log says: %(message)s")
    async with FluxEngine(f"sqlite:///{(HOME / 'runs.db').as_posix()}") as engine:
        print("1. The bank is down: four attempts, then the run fails and the goods are released")
        turn("bank", "off")
        show(await engine.execute(order, {"pieces": 2}, id="order-1"))
        for number in range(1, len(BEGAN)):
            print(f"      attempt {number + 1} of charge began {BEGAN[number] - BEGAN[number - 1]:.2f} s after the one before it")

        print("2. The bank is back: the same run is retried, and goes on from the first step that is not done")
        turn("bank", "on")
        run = await engine.retry(order, "order-1", by="ana", reason="the bank is back")
        show(run)
        print("     ", *[f"{again.cause} from {again.from_step!r} by {again.by}: {again.reason}" for again in run.reopenings])

        print("3. The parcel is lost: a fork shares what was done before the handing over, and hands over another")
        show(await engine.fork(order, "order-1", from_step="hand-over", new_id="order-1-again", by="ana", reason="lost on its way"))

        print("4. The mail fails behind the point of no return: nothing is undone, and the run waits for a person")
        turn("mail", "off")
        run = await engine.execute(order, {"pieces": 1}, id="order-2")
        show(run)

        print("5. A person has rung up the customer instead, and says so")
        run = await engine.resolve("order-2", "mail", "done", result="told by telephone", by="ben", reason="mail is down")
        show(run)
        print("     ", *[f"{one.path} is taken as {one.way}, says {one.by}: {one.reason}" for one in run.resolutions])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())

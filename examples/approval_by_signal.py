"""A person decides: a run that waits for a signal, from both sides.

    python examples/approval_by_signal.py

What to look for:
- a run that waits holds no memory and no process; the signal may come days later, from any process that opens the same storage.
- a signal that comes early, before the run waits for it, is kept and not lost. Sent twice with one `signal_id`, it counts once.
- the payload is checked against the declared type at its sender.
- a wait with a `timeout=` goes on in `on_timeout` when nobody answers; a worker wakes the run for that.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from flux import Context, FluxEngine, InvalidPayload, create_workflow

HOME = Path(tempfile.gettempdir())  # where the papers are; main() chooses a fresh directory


@dataclass
class Claim:
    who: str
    cents: int


@dataclass
class Decision:
    by: str
    approved: bool


# --- the side of the handlers


def file_claim(ctx: Context[Claim]) -> str:
    """Write the claim down, and give back the checksum that the payment will quote."""
    paper = HOME / f"{ctx.run_id}.json"
    paper.write_text(json.dumps(asdict(ctx.input)))
    return hashlib.sha256(paper.read_bytes()).hexdigest()[:12]


def remind(ctx: Context[Claim]) -> Decision:
    """Nobody answered in time. What this returns stands for the answer."""
    (HOME / f"{ctx.run_id}.reminder.txt").write_text(f"{ctx.input.who} still waits for an answer\n")
    return Decision(by="nobody", approved=False)


def settle(ctx: Context[Claim]) -> str:
    decision: Decision = ctx.results["approval"]
    outcome = "paid" if decision.approved else "refused"
    (HOME / f"{ctx.run_id}.{outcome}.txt").write_text(f"{ctx.input.cents} cents, claim {ctx.results['file']}\n")
    return f"{ctx.input.who}: {ctx.input.cents} cents {outcome}, decided by {decision.by}"


expenses = (
    create_workflow("expenses")
    .input(Claim)
    .step("file", file_claim)
    .wait("approval", type=Decision, timeout=1.5, on_timeout=remind)  # in life: timedelta(days=3)
    .step("settle", settle)
)


# --- the side of the senders


async def main() -> None:
    url = f"sqlite:///{(HOME / 'runs.db').as_posix()}"
    async with FluxEngine(url, workflows=[expenses]) as engine, engine.worker():
        print("1. The run waits, and an answer comes")
        waiting = await engine.execute(expenses, Claim("ana", 4200), id="claim-1")
        print(f"   {waiting.id} is {waiting.status}, waiting for {waiting.waiting_for[0]!r}")
        try:
            await engine.signal(expenses, "claim-1", "approval", {"by": "bob", "approved": "perhaps"})
        except InvalidPayload as error:
            print(f"   refused at its sender, for its field {error.path!r}")
        result = await engine.signal(expenses, "claim-1", "approval", Decision("bob", approved=True))
        print(f"   {result.results['settle']}")

        print("2. The answer comes before the run has begun, and twice")
        await engine.start(expenses, Claim("cleo", 990), id="claim-2", delay=60)
        for _ in range(2):
            result = await engine.signal(expenses, "claim-2", "approval", Decision("dan", approved=True), signal_id="mail-77")
        print(f"   {result.results['settle']}")

        print("3. Nobody answers; the worker wakes the run when its time is out")
        handle = await engine.start(expenses, Claim("eve", 100_000), id="claim-3")
        await handle.result(timeout=30)
        print(f"   {(await handle.details()).results['settle']}")
    print("on disk:", ", ".join(sorted(path.name for path in HOME.glob("claim-*.txt"))))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())

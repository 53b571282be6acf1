"""Letters to a help desk, each on its own way through one workflow, and a picture of the way that it took.

    python examples/branching.py

What to look for:
- `when=` decides whether a step is taken. It is asked once, when the step is reached, and the answer is recorded: a run that is
  carried on after a crash, or after the rules have changed, stays on its way.
- two ways that exclude one another are two conditions that do; a later step looks at `ctx.results` to see which it was.
- a step that was skipped has no result, and is not undone: the third letter's refund is, its replacement is not.
- `to_mermaid` draws the workflow before anything runs, and a run's way through it afterwards. Any Mermaid viewer shows it.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flux import Context, FluxEngine, NonRetryable, RunResult, create_workflow

HOME = Path(tempfile.gettempdir())  # where letters and money go; main() chooses a fresh directory


@dataclass
class Letter:
    sender: str
    text: str


@dataclass
class Desk:
    topic: str = ""
    cents: int = 0


# --- the handlers


def read(ctx: Context[Letter, Desk]) -> str:
    """What the letter is about, as far as a few words tell."""
    text = ctx.input.text.lower()
    amount = re.search(r"(\d+) eur", text)
    ctx.data.cents = 100 * int(amount[1]) if amount else 0
    ctx.data.topic = "broken" if "broken" in text else "money" if ctx.data.cents else "question"
    return ctx.data.topic


def write(ctx: Context[Letter, Desk], text: str) -> str:
    (HOME / f"{ctx.run_id}-{ctx.step}.txt").write_text(f"{text}\n")
    return text


def ask_manager(ctx: Context[Letter, Desk]) -> str:
    return write(ctx, f"May we give {ctx.data.cents} cents to {ctx.input.sender}?")


def refund(ctx: Context[Letter, Desk]) -> str:
    return write(ctx, f"{ctx.data.cents} cents to {ctx.input.sender}")


def take_back(ctx: Context[Letter, Desk]) -> None:
    (HOME / f"{ctx.run_id}-{ctx.step}.txt").unlink(missing_ok=True)


def replace(ctx: Context[Letter, Desk]) -> str:
    return write(ctx, f"a new one for {ctx.input.sender}")


def answer(ctx: Context[Letter, Desk]) -> str:
    if ctx.input.sender == "nobody":
        raise NonRetryable("nobody has no address")
    did = ctx.results.get("refund") or ctx.results.get("replace") or "nothing"
    return write(ctx, f"Dear {ctx.input.sender}, we have done this for you: {did}.")


# --- the conditions: plain, quick functions of ctx


def is_money(ctx: Context[Letter, Desk]) -> bool:
    return ctx.data.topic == "money"


def is_much(ctx: Context[Letter, Desk]) -> bool:
    return is_money(ctx) and ctx.data.cents > 10_000


def is_granted(ctx: Context[Letter, Desk]) -> bool:
    """Whether nobody had to be asked, or the answer was yes."""
    return is_money(ctx) and ctx.results.get("approval", "yes") == "yes"


desk = (
    create_workflow("desk")
    .input(Letter)
    .data(Desk)
    .step("read", read)
    .step("ask", ask_manager, when=is_much)
    .wait("approval", type=str, when=is_much)
    .step("refund", refund, when=is_granted, compensate=take_back)
    .step("replace", replace, when=lambda ctx: ctx.data.topic == "broken", compensate=take_back)
    .commit("answer", answer)
)


# --- the program


def show(run: RunResult) -> None:
    print(f"{run.id}: {run.status}" + (f", because {run.error}" if run.error else ""))
    print("  ", ", ".join(f"{line.name} {line.status}" for line in run.history))


def draw(run: RunResult) -> str:
    """The run's way, in colours: by path, also that of a compensation."""
    statuses = {line.path: line.status.value for line in run.history}
    statuses |= {f"{line.path}!undo": line.compensation.status.value for line in run.history if line.compensation}
    return desk.to_mermaid(statuses)


async def main() -> None:
    async with FluxEngine(f"sqlite:///{(HOME / 'runs.db').as_posix()}") as engine:
        show(await engine.execute(desk, Letter("Ana", "My lamp came broken."), id="letter-1"))
        show(await engine.execute(desk, Letter("Ben", "You owe me 20 EUR."), id="letter-2"))
        show(await engine.execute(desk, Letter("nobody", "You owe me 30 EUR."), id="letter-3"))
        await engine.execute(desk, Letter("Cleo", "You owe me 500 EUR."), id="letter-4")
        show(await engine.signal(desk, "letter-4", "approval", "no"))
        picture = draw(await engine.get("letter-3"))
    for path in sorted(HOME.glob("letter-*.txt")):
        print(f"{path.name:24} {path.read_text().strip()}")
    print("\nThe way of letter-3, for a Mermaid viewer such as https://mermaid.live\n")
    print(picture, end="")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())

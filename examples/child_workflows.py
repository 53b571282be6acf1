"""A theatre company on tour: a workflow whose steps are workflows, each in a run of its own.

    python examples/child_workflows.py

What to look for:
- `.child(...)` starts another workflow as a step. Its run begins in the same transaction as the step, so a crash makes neither none of
  it nor two. Its id is made of its parent's: the history says which run it is, and it is looked at and signalled like any other.
- the truck waits for its driver. Nobody holds the tour meanwhile, or has to know that there is one: the signal goes to the truck, and
  when the truck's run has ended, the tour goes on.
- what a child leaves in its data is the result of the step, here in the order of the towns.
- in the second tour the last town has no hall. Its evening fails, the tour fails with that as the cause, and the evenings that were
  arranged by then are undone by their own workflow, in reverse order, before the tour takes back what it did itself.
- retried, the tour begins the evenings that were undone in new runs; the old ones stay for the record.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flux import Context, FluxEngine, NonRetryable, RunResult, branch, create_workflow

HOME = Path(tempfile.gettempdir())  # where bookings and posters go; main() chooses a fresh directory
HALLS = {"Porto": "Teatro Sá", "Braga": "Theatro Circo"}


@dataclass
class Tour:
    play: str
    towns: list[str]


@dataclass
class Evening:
    town: str
    play: str


# --- an evening in one town: a workflow that could be run by itself


def note(ctx: Context, text: str) -> str:
    (HOME / f"{ctx.run_id}-{ctx.step}.txt").write_text(text, "utf-8")
    return text


def take_back(ctx: Context) -> None:
    (HOME / f"{ctx.run_id}-{ctx.step}.txt").unlink(missing_ok=True)


def book(ctx: Context[Evening]) -> str:
    if ctx.input.town not in HALLS:
        raise NonRetryable(f"no hall in {ctx.input.town}")
    ctx.data["hall"] = HALLS[ctx.input.town]
    return note(ctx, ctx.data["hall"])


def print_posters(ctx: Context[Evening]) -> str:
    return note(ctx, f"{ctx.input.play} in {ctx.data['hall']}, {ctx.input.town}")


evening = (
    create_workflow("evening").input(Evening).step("book", book, compensate=take_back).step("posters", print_posters, compensate=take_back)
)

# --- the truck, which has to be confirmed by its driver


def load(ctx: Context) -> None:
    ctx.data["driver"] = ctx.results["driver"]


truck = create_workflow("truck").wait("driver", type=str).step("load", load)

# --- the tour


def rehearse(ctx: Context[Tour]) -> str:
    return note(ctx, f"rehearsed {ctx.input.play}")


def tell_press(ctx: Context[Tour]) -> str:
    halls = [town["evening"]["hall"] for town in ctx.results["towns"]]
    return note(ctx, f"{ctx.input.play}: {', '.join(halls)}; on the road with {ctx.results['truck']['driver']}")


def an_evening(ctx: Context[Tour]) -> Evening:
    return Evening(ctx.item, ctx.input.play)


tour = (
    create_workflow("tour")
    .input(Tour)
    .step("rehearse", rehearse, compensate=take_back)
    .for_each("towns", lambda ctx: ctx.input.towns, branch().child("evening", evening, input=an_evening), concurrency=1)
    .child("truck", truck)
    .commit("press", tell_press)
)


# --- the program


async def show(engine: FluxEngine, run: RunResult, indent: str = "") -> None:
    """A run, its steps, and beneath each step the run that it has started."""
    print(f"{indent}{run.workflow}: {run.status}" + (f", because {run.error}" if run.error and not indent else ""))
    for line in run.history:
        print(f"{indent}   {line.path:18} {line.status}")
        if line.child:
            await show(engine, await engine.get(line.child), indent + "      ")


async def main() -> None:
    async with FluxEngine(f"sqlite:///{(HOME / 'runs.db').as_posix()}") as engine:
        waiting = await engine.execute(tour, Tour("Hamlet", ["Porto", "Braga"]), id="tour-1")
        print(f"1. tour-1 is {waiting.status}; waiting for a signal: ", end="")
        print(*[run.workflow for run in (await engine.list(status="suspended")).runs if run.waiting_for])
        await engine.signal(truck, waiting.children["truck"], "driver", "Inês")
        done = await engine.get("tour-1")
        await show(engine, done)
        print(f"   {done.results['press']}\n")

        failed = await engine.execute(tour, Tour("Faust", ["Porto", "Braga", "Lisbon"]), id="tour-2")
        print("2. ", end="")
        await show(engine, failed)
        error: BaseException | None = failed.error
        while error is not None:
            print(f"   {type(error).__name__}", end="\n" if error.__cause__ is None else "  from")
            error = error.__cause__
        print(f"   on disk of tour-2: {len(list(HOME.glob('tour-2*.txt')))} files\n")

        HALLS["Lisbon"] = "São Carlos"
        again = await engine.retry(tour, "tour-2", by="ana", reason="a hall has turned up")
        print(f"3. tour-2 is {again.status} again; its runs:")
        for line in again.history:
            if line.child:
                earlier = [str((await engine.get(one.child)).status) for one in line.earlier if one.child]
                now = (await engine.get(line.child)).status
                print(f"   {line.path:18} {now}" + (f" (earlier: {', '.join(earlier)})" if earlier else ""))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())

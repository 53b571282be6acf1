"""A report every night: on the night the clock is put forward, after three nights without a worker, and once by hand.

    python examples/nightly_report.py

What to look for:
- every tick makes one run, whose id says for when: `nightly@2026-03-27T01:30:00Z`. That is why any number of workers can be at work.
- 02:30 is a time in Berlin. On 29 March 2026 the clock there skips from 02:00 to 03:00, and the report is written at 03:00.
- nobody was at work for three nights: `catch_up="one"`, the default, makes up for them with one run, for the latest.
- `engine.schedule` is for the start of your program: where the schedule is there already, it changes nothing.
- its nights pass in a moment, because the storage has a `VirtualClock`; without it they are nights.

It needs the extra `cron`: pip install 'flux-durable[cron,sqlite]'
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

from flux import Context, FluxEngine, Schedule, create_workflow, scheduled_at
from flux.testing import VirtualClock
from flux_storage import SQLiteStorage

HOME = Path(tempfile.gettempdir())  # where the reports are; main() chooses a fresh directory
BERLIN = ZoneInfo("Europe/Berlin")


# --- the workflow


def collect(ctx: Context) -> int:
    """The sales of the day that has just ended, from the shop named by the input."""
    tick = scheduled_at(ctx.run_id)
    assert tick is not None, "this run is none of a schedule"
    day = tick.astimezone(BERLIN).date() - timedelta(days=1)
    ctx.data["day"] = day.isoformat()
    return 100 + day.toordinal() % 7 * 10


def write(ctx: Context) -> str:
    path = HOME / f"{ctx.input['shop']}-{ctx.data['day']}.txt"
    path.write_text(f"{ctx.results['collect']} sold on {ctx.data['day']}\n")
    return path.name


report = create_workflow("report").step("collect", collect).commit("write", write)


# --- the story


async def declare(engine: FluxEngine) -> Schedule:
    """What a program does at its start."""
    return await engine.schedule("nightly", report, cron="30 2 * * *", timezone="Europe/Berlin", input={"shop": "mitte"})


async def night(engine: FluxEngine, clock: VirtualClock) -> None:
    """Wait for the next tick, and for its run."""
    schedule = await engine.get_schedule("nightly")
    assert schedule.next_run_at is not None
    await clock.advance(schedule.next_run_at - clock.datetime)
    await show(engine, schedule)


async def show(engine: FluxEngine, before: Schedule) -> None:
    """The run that is made after `before`, once it has ended."""
    while (schedule := await engine.get_schedule("nightly")).last_run_id == before.last_run_id:
        await asyncio.sleep(0.01)
    assert schedule.last_run_id is not None and schedule.last_run_at is not None
    run = engine.handle(schedule.last_run_id)
    await run.result()
    name = (await run.details()).results["write"]
    print(f"   {schedule.last_run_id}: at {schedule.last_run_at.astimezone(BERLIN):%a %d %b %H:%M} in Berlin, {name}")


async def main() -> None:
    clock = VirtualClock(datetime(2026, 3, 26, 12, tzinfo=timezone.utc), autojump=False)
    storage = SQLiteStorage(HOME / "runs.db", clock=clock)
    async with FluxEngine(storage, workflows=[report]) as engine:
        print("1. Four nights with a worker, and in the third the clock is put forward")
        await declare(engine)
        async with engine.worker():
            for _ in range(4):
                await night(engine, clock)

        print("2. Three nights and a morning without one")
        await clock.advance(days=3, hours=6)
        before = await engine.get_schedule("nightly")
        print("   the program starts again, and declares what is there:", "no change" if await declare(engine) == before else "changed")
        async with engine.worker():
            await show(engine, before)

            print("3. Paused for a night; and the report of that day is asked for by hand")
            schedule = await (await engine.get_schedule("nightly")).pause()
            await clock.advance(days=1)
            await schedule.trigger()
            await show(engine, schedule)
            await schedule.resume()

        print("4. What there is in the end")
        schedule = await engine.get_schedule("nightly")
        print(f"   the next run is at {schedule.next_run_at}; {len((await engine.list()).runs)} runs were made")
        print("  ", *sorted(path.name for path in HOME.glob("*.txt")))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())

"""What a child process does: one role each, told by name."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Any

from flux import Event, FluxEngine, Hooks, Retry, RunCancelled, RunFailed, StorageUnavailable
from flux_storage.sqlite import SQLiteStorage

from .here import point, points, say, settle_in
from .stories import WORKFLOWS, errand, order, story, weather

AT_ONCE = Retry(backoff="fixed", initial=0.005, jitter=False)


class Mortal(SQLiteStorage):
    """The process may die before and after each write."""


def _mortal(verb: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    write = getattr(SQLiteStorage, verb)

    async def call(self: Mortal, *args: Any, **kwargs: Any) -> Any:
        point(f"before {verb}")
        reply = await write(self, *args, **kwargs)
        point(f"after {verb}")
        return reply

    return call


for _verb in ("create", "commit", "post", "take", "register", "unregister"):
    setattr(Mortal, _verb, _mortal(_verb))


class Refusing(SQLiteStorage):
    """It cannot write at first: the disk is full for so many registrations."""

    refusals = 0

    async def register(self, worker: str, lease: int) -> int:
        if self.refusals:
            self.refusals -= 1
            raise StorageUnavailable("the disk is full")
        return await super().register(worker, lease)


class Teller(Hooks):
    """Tells the parent where a run stands."""

    async def run_suspended(self, event: Event) -> None:
        say("suspended", event.path)

    async def step_retried(self, event: Event) -> None:
        say("retried", event.path)


def main(role: str, log: str, effects: str, words: Connection, kill_at: int, arguments: dict[str, Any]) -> None:
    """The whole life of a child."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(level=logging.INFO, format="%(process)d %(name)s %(levelname)s %(message)s")
    settle_in(words, effects, kill_at)
    asyncio.run(ROLES[role](**arguments))


async def tell(path: str, ending: str) -> None:
    """Carry the story on, or begin it; when it waits, send its signal, or cancel it."""
    async with FluxEngine(Mortal(path), default_retry=AT_ONCE) as engine:
        result = await engine.execute(story, {"fails": ending == "failed"}, id="story-1")
        if result.waiting_for and ending == "cancelled":
            result = await engine.cancel("story-1", "changed my mind")
        elif result.waiting_for:
            result = await engine.signal(story, "story-1", "go", {"by": "ana"}, signal_id="go-1")
        lines = [(line.path, str(line.status), line.result) for line in result.history]
        undone = [(line.path, str(line.compensation.status)) for line in result.history if line.compensation]
        end = (str(result.status), lines, undone, result.data, str(result.error))
    say("ended", (end, points()))


async def do_again(path: str, cause: str, fine: bool = True) -> None:
    """Execute the order, or have it retried or replayed; a process that finds that begun carries it on."""
    weather["fine"] = fine
    async with FluxEngine(Mortal(path), workflows=[order], default_retry=AT_ONCE) as engine:
        if cause == "first":
            result = await engine.execute(order, id="order-1")
        elif any(done.cause == cause for done in (await engine.get("order-1")).reopenings):
            result = await engine.resume(order, "order-1")
        elif cause == "retry":
            result = await engine.retry(order, "order-1", by="ana")
        else:
            result = await engine.replay(order, "order-1", by="ana")
        lines = [(line.path, str(line.status), line.result, len(line.earlier)) for line in result.history]
        reopened = [(done.cause, done.from_step, done.by) for done in result.reopenings]
        end = (str(result.status), lines, result.data, str(result.error), reopened)
    say("ended", (end, points()))


async def carry(path: str, workflow: str) -> None:
    """Execute one run, or carry it on."""
    async with FluxEngine(Mortal(path), default_retry=AT_ONCE) as engine:
        result = await engine.execute(WORKFLOWS[workflow], id="run-1")
    say("ended", (str(result.status), points()))


async def work(
    path: str, lease: float = 30, grace: float = 20, concurrency: int = 100, tells: bool = False, refusals: int = 0, crash_limit: int = 20
) -> None:
    """Be a worker until told to stop. `tells`: the parent listens to what becomes of the runs."""
    hooks = [Teller()] if tells else []
    storage = Refusing(path)
    storage.refusals = refusals
    async with FluxEngine(
        storage, workflows=WORKFLOWS.values(), lease=lease, grace=grace, default_retry=AT_ONCE, hooks=hooks, crash_limit=crash_limit
    ) as engine:
        asyncio.get_running_loop().call_soon(say, "ready")
        await engine.work(concurrency=concurrency)


async def start(path: str, workflow: str, ids: list[str], stays: bool = False) -> None:
    """Store runs for workers. With `stays` a handler that can stay does."""
    async with FluxEngine(SQLiteStorage(path), drive_in_caller=False) as engine:
        for number, run_id in enumerate(ids):
            await engine.start(WORKFLOWS[workflow], {"number": number, "stays": stays}, id=run_id)
    say("started")


async def signal(path: str, run_id: str, workflow: str, name: str, payload: Any = None) -> None:
    """Send one signal."""
    async with FluxEngine(SQLiteStorage(path), drive_in_caller=False) as engine:
        await engine.signal(WORKFLOWS[workflow], run_id, name, payload)
    say("sent")


async def ping(path: str, run_id: str, rounds: int) -> None:
    """Send one signal after another, each once the run waits for it; say when each was sent."""
    sent: list[int] = []
    async with FluxEngine(SQLiteStorage(path), drive_in_caller=False) as engine:
        count = -1
        for number in range(rounds):
            while (await engine.summary(run_id)).waiting_for != (f"ping-{number}",):
                count = await engine.storage.changed(count, 5)
            sent.append(time.monotonic_ns())
            await engine.signal(WORKFLOWS["ping"], run_id, f"ping-{number}")
        await engine.handle(run_id).result(timeout=30)
    say("sent", sent)


async def cancel(path: str, run_id: str, interrupt: bool) -> None:
    """Ask for a cancel."""
    async with FluxEngine(SQLiteStorage(path), drive_in_caller=False) as engine:
        await engine.cancel(run_id, "not wanted any more", interrupt=interrupt)
        say("sent", time.monotonic_ns())


async def post(path: str, seconds: float, lanes: int) -> None:
    """Keep so many errands going for a time: start one, send its signal (early, late or twice), wait for its end, begin anew."""
    until = time.monotonic() + seconds
    numbers = iter(range(1_000_000))
    async with FluxEngine(SQLiteStorage(path), drive_in_caller=False) as engine:

        async def lane() -> None:
            while time.monotonic() < until:
                number = next(numbers)
                handle = await engine.start(errand, {"number": number}, id=f"errand-{number}")
                count = -1
                while number % 3 and "go" not in (await engine.summary(handle.id)).waiting_for:
                    count = await engine.storage.changed(count, 5)
                for _ in range(1 + number % 2):
                    await engine.signal(errand, handle.id, "go", {"number": number}, signal_id=f"go-{number}")
                try:
                    await handle.result(timeout=60)
                except RunFailed:
                    assert number % 5 == 0

        await asyncio.gather(*[lane() for _ in range(lanes)])
    say("posted", next(numbers))


async def see(path: str, ids: list[str]) -> None:
    """Wait until these runs have ended."""
    async with FluxEngine(SQLiteStorage(path)) as engine:
        for run_id in ids:
            try:
                await engine.handle(run_id).result(timeout=60)
            except (RunFailed, RunCancelled):
                continue
    say("seen")


ROLES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "tell": tell, "do_again": do_again, "carry": carry, "work": work, "start": start, "signal": signal, "ping": ping, "cancel": cancel,
    "post": post, "see": see,
}  # fmt: skip

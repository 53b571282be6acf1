"""What a child process does: one role each, told by name."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flux import Event, FluxEngine, Hooks, Retry, RunCancelled, RunFailed, StorageUnavailable
from flux.storage import Commit, Committed
from flux_storage.postgres import PostgresStorage, link, opened
from flux_storage.sqlite import SQLiteStorage

from . import bank
from .here import permission, permission_soon, point, points, say, settle_in
from .stories import WORKFLOWS, errand, house, order, story, weather

AT_ONCE = Retry(backoff="fixed", initial=0.005, jitter=False)


class Mortal:
    """A storage's process may die before and after each write."""


def _mortal(verb: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(self: Mortal, *args: Any, **kwargs: Any) -> Any:
        point(f"before {verb}")
        reply = await getattr(super(Mortal, self), verb)(*args, **kwargs)
        point(f"after {verb}")
        return reply

    return call


for _verb in ("create", "commit", "post", "take", "register", "unregister"):
    setattr(Mortal, _verb, _mortal(_verb))


class Manned:
    """The storage of a worker: it tells the parent under which names the worker is registered.

    `refusals`: it cannot write at first, the disk is full for so many registrations. `hesitates`: the first commit waits until the
    parent allows it.
    """

    refusals = 0
    hesitates = False

    async def commit(self, commit: Commit) -> Committed:
        if self.hesitates:
            self.hesitates = False
            say("hesitates")
            await permission_soon()
        committed: Committed = await super().commit(commit)  # type: ignore[misc]
        return committed

    async def register(self, worker: str, lease: int) -> int:
        if self.refusals:
            self.refusals -= 1
            raise StorageUnavailable("the disk is full")
        now: int = await super().register(worker, lease)  # type: ignore[misc]
        say("registered", worker)
        return now


class MortalSQLite(Mortal, SQLiteStorage):
    pass


class MortalPostgres(Mortal, PostgresStorage):
    pass


class MannedSQLite(Manned, SQLiteStorage):
    pass


class MannedPostgres(Manned, PostgresStorage):
    pass


def storage_at(
    where: str, sqlite: type[SQLiteStorage] = SQLiteStorage, postgres: type[PostgresStorage] = PostgresStorage
) -> SQLiteStorage | PostgresStorage:
    """The storage of a place: a file, or the URL of a schema."""
    return postgres.from_url(where) if where.startswith("postgresql:") else sqlite(where)


def mortal(where: str) -> SQLiteStorage | PostgresStorage:
    """The same, of a process that may die."""
    return storage_at(where, MortalSQLite, MortalPostgres)


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
    tempfile.tempdir = str(Path(log).parent)  # of this machine, as far as the children of one world know
    asyncio.run(ROLES[role](**arguments))


async def tell(where: str, ending: str) -> None:
    """Carry the story on, or begin it; when it waits, send its signal, or cancel it."""
    async with FluxEngine(mortal(where), default_retry=AT_ONCE) as engine:
        result = await engine.execute(story, {"fails": ending == "failed"}, id="story-1")
        if result.waiting_for and ending == "cancelled":
            result = await engine.cancel("story-1", "changed my mind")
        elif result.waiting_for:
            result = await engine.signal(story, "story-1", "go", {"by": "ana"}, signal_id="go-1")
        lines = [(line.path, str(line.status), line.result) for line in result.history]
        undone = [(line.path, str(line.compensation.status)) for line in result.history if line.compensation]
        end = (str(result.status), lines, undone, result.data, str(result.error))
    say("ended", (end, points()))


async def keep(where: str, ending: str) -> None:
    """Carry the family on, or begin it."""
    async with FluxEngine(mortal(where), default_retry=AT_ONCE) as engine:
        result = await engine.execute(house, {"fails": ending == "failed"}, id="house-1")
        found = [result, *[await engine.get(child) for child in result.children.values()]]
        lines = [(run.id, line.path, str(line.status), line.result) for run in found for line in run.history]
        end = (lines, [(run.id, str(run.status), run.data, run.parent, str(run.error)) for run in found])
    say("ended", (end, points()))


async def do_again(where: str, cause: str, fine: bool = True) -> None:
    """Execute the order, or have it retried or replayed; a process that finds that begun carries it on."""
    weather["fine"] = fine
    async with FluxEngine(mortal(where), workflows=[order], default_retry=AT_ONCE) as engine:
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


async def carry(where: str, workflow: str) -> None:
    """Execute one run, or carry it on."""
    async with FluxEngine(mortal(where), default_retry=AT_ONCE) as engine:
        result = await engine.execute(WORKFLOWS[workflow], id="run-1")
    say("ended", (str(result.status), points()))


async def work(
    where: str,
    concurrency: int = 100,
    tells: bool = False,
    refusals: int = 0,
    hesitates: bool = False,
    machine: str = "",
    answering: float = 0,
    **settings: Any,
) -> None:
    """Be a worker until told to stop. `tells`: the parent listens to what becomes of the runs. `machine`: where it runs as far as the
    others on PostgreSQL know. `answering`: seconds that it gives PostgreSQL to answer. `settings`: of the engine."""
    if machine:
        opened.machine = lambda: machine
    if answering:
        link.ANSWERING = answering
    storage: Any = storage_at(where, MannedSQLite, MannedPostgres)
    storage.refusals, storage.hesitates = refusals, hesitates
    settings = {"default_retry": AT_ONCE, "hooks": [Teller()] if tells else []} | settings
    engine = FluxEngine(storage, workflows=WORKFLOWS.values(), **settings)
    for tries in range(10):
        try:
            await engine.__aenter__()
        except StorageUnavailable:  # a server that recovers from a crash takes longer than the tries of one opening, on a slow machine
            if tries == 9:
                raise
        else:
            break
    try:
        asyncio.get_running_loop().call_soon(say, "ready")
        _tell_of_stopping(engine)
        await engine.work(concurrency=concurrency)
    finally:
        await engine.__aexit__(*sys.exc_info())


def _tell_of_stopping(engine: FluxEngine) -> None:
    drain = engine._host.drain  # pyright: ignore[reportPrivateUsage]

    def drain_and_tell() -> None:
        drain()
        say("stopping")

    engine._host.drain = drain_and_tell  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage]


async def start(where: str, workflow: str, ids: list[str], stays: bool = False) -> None:
    """Store runs for workers. With `stays` a handler that can stay does."""
    async with FluxEngine(storage_at(where), drive_in_caller=False) as engine:
        for number, run_id in enumerate(ids):
            await engine.start(WORKFLOWS[workflow], {"number": number, "stays": stays}, id=run_id)
    say("started")


async def signal(where: str, run_id: str, workflow: str, name: str, payload: Any = None) -> None:
    """Send one signal."""
    async with FluxEngine(storage_at(where), drive_in_caller=False) as engine:
        await engine.signal(WORKFLOWS[workflow], run_id, name, payload)
    say("sent")


async def ping(where: str, run_id: str, rounds: int) -> None:
    """Send one signal after another, each once the run waits for it; say when each was sent."""
    sent: list[int] = []
    async with FluxEngine(storage_at(where), drive_in_caller=False) as engine:
        count = -1
        for number in range(rounds):
            while (await engine.summary(run_id)).waiting_for != (f"ping-{number}",):
                count = await engine.storage.changed(count, 5)
            sent.append(time.monotonic_ns())
            await engine.signal(WORKFLOWS["ping"], run_id, f"ping-{number}")
        await engine.handle(run_id).result(timeout=30)
    say("sent", sent)


async def cancel(where: str, run_id: str, interrupt: bool) -> None:
    """Ask for a cancel."""
    async with FluxEngine(storage_at(where), drive_in_caller=False) as engine:
        await engine.cancel(run_id, "not wanted any more", interrupt=interrupt)
        say("sent", time.monotonic_ns())


async def post(where: str, seconds: float, lanes: int) -> None:
    """Keep so many errands going for a time: start one, send its signal (early, late or twice), wait for its end, begin anew."""
    until = time.monotonic() + seconds
    numbers = iter(range(1_000_000))
    async with FluxEngine(storage_at(where), drive_in_caller=False) as engine:

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


async def pour(where: str, workflow: str, count: int, lanes: int = 10) -> None:
    """Store many runs for workers, whatever becomes of the database meanwhile."""
    numbers = iter(range(count))
    async with FluxEngine(storage_at(where), drive_in_caller=False) as engine:

        async def lane() -> None:
            for number in numbers:
                while not await stored(number):
                    continue

        async def stored(number: int) -> bool:
            try:
                await engine.start(WORKFLOWS[workflow], {"number": number}, id=f"run-{number}")
            except StorageUnavailable:
                return False  # or it is there all the same: then the next try finds it
            return True

        say("pouring")
        await asyncio.gather(*[lane() for _ in range(lanes)])
    say("poured")


async def open_up(where: str, run_id: str) -> None:
    """Open the database at the same moment as others, and put one run into it."""
    say("ready")
    permission()
    async with FluxEngine(storage_at(where), drive_in_caller=False) as engine:
        await engine.start(WORKFLOWS["innocent"], id=run_id)


async def see(where: str, ids: list[str]) -> None:
    """Wait until these runs have ended."""
    async with FluxEngine(storage_at(where)) as engine:
        for run_id in ids:
            try:
                await engine.handle(run_id).result(timeout=60)
            except (RunFailed, RunCancelled):
                continue
    say("seen")


ROLES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "tell": tell, "keep": keep, "do_again": do_again, "carry": carry, "work": work, "start": start, "signal": signal, "ping": ping,
    "cancel": cancel, "post": post, "pour": pour, "open_up": open_up, "see": see, "book": bank.tell,
}  # fmt: skip

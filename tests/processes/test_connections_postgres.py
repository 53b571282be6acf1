"""Workers whose connections to a real PostgreSQL are ended, go silent, or are forgotten on the way."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..postgres import Server, Wire
from .children import POSTGRES, Child, World
from .outside import Story

pytestmark = POSTGRES

LATER = 60.0  # seconds: the lease of a worker that nobody is to wait for


@dataclass
class Line:
    """The wire to the server, as a test that waits for processes holds it; `where`: the schema at its end."""

    wire: Wire
    portal: BlockingPortal
    where: str

    def hush(self) -> None:
        self.portal.call(self.wire.hush)

    def speak(self) -> None:
        self.portal.call(self.wire.speak)

    def forget(self) -> None:
        self.portal.call(self.wire.forget)


@pytest.fixture
def line(database: Server, world: World, tmp_path: Path) -> Iterator[Line]:
    """A way to the world's database that can go silent."""
    folder = tmp_path / "w"
    folder.mkdir()
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Wire(database, folder)) as wire:
        yield Line(wire, portal, wire.url(world.where.split("&flux_schema=")[1]))
        world.close()


def end_sessions(server: Server, name: str) -> int:
    """End all sessions that call themselves so; how many there were."""
    return sum(found[0] for found in server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", name))


def named(world: World, name: str) -> str:
    """The database under this name of the application."""
    return f"{world.where}&application_name={name}"


def stop(*workers: Child) -> None:
    for worker in workers:
        worker.signal(signal.SIGTERM)
        worker.ends_well()


def doubts(runs: dict[str, Story]) -> list[str]:
    return [path for run in runs.values() for tag in ("lost", "cut") for path in run.paths(tag)]


@pytest.mark.parametrize("phase", ["handler", "thread", "commit", "undo"])
def test_sessions_that_end_while_a_handler_runs(world: World, database: Server, phase: str) -> None:
    """S15.3, S14.5, D14: the worker connects anew and keeps its run, though another looks for runs of the dead meanwhile."""
    worker = world.worker(where=named(world, "worker"))
    world.does("start", workflow=f"held-{phase}", ids=["run-1"])
    worker.says("in")
    other = world.worker()
    assert end_sessions(database, "worker") >= 3  # for steps, for notifications and for heartbeats
    world.does("start", workflow="innocent", ids=["run-2", "run-3"])
    world.does("see", ids=["run-2", "run-3"])
    worker.allow()
    world.does("see", ids=["run-1"])
    stop(worker, other)
    runs = world.check()
    assert not doubts(runs) and set(runs["run-1"].epochs) <= {0, 1}
    assert {effect.pid for effect in world.effects() if effect.run_id == "run-1"} == {worker.pid}


def test_sessions_that_end_again_and_again(world: World, database: Server) -> None:
    """S15.3, I45: under load, of each of the workers and of who stores the runs; nothing is lost, doubled, or even in doubt."""
    names = ["first", "second"]
    workers = [world.worker(where=named(world, name), lease=LATER, concurrency=10) for name in names]
    pourer = world.child("pour", where=named(world, "pourer"), workflow="five", count=300)
    ended = 0
    while len(world.effects("five")) < 300:
        for name in [*names, "pourer"]:
            ended += end_sessions(database, name)
        now = len(world.effects())
        world.until(lambda now=now: len(world.effects()) >= min(now + 50, 1500), "it goes on")
    pourer.ends_well()
    world.does("see", ids=[f"run-{number}" for number in range(300)])
    stop(*workers)
    runs = world.check()
    assert ended > 20 and len(runs) == 300
    assert {run.status for run in runs.values()} == {"completed"} and not doubts(runs)
    effects = world.effects()
    assert len({(effect.run_id, effect.path) for effect in effects}) == len(effects) == 1500


def test_answers_that_are_lost(world: World, line: Line) -> None:
    """S15.3, I45: the server has done it, and the connection breaks: again and again, while runs are stored, claimed and moved on. What
    was done is found, so that nothing is done twice, and no run is left with a worker that does not know of it."""
    lost: Counter[str] = Counter()

    def lose(statement: str) -> None:
        line.portal.call(line.wire.lose_answers, statement)
        world.until(lambda: line.wire.lost or len(world.effects("five")) == 200, "answers are lost")
        lost[statement] += line.wire.lost

    worker = world.worker(where=line.where, lease=LATER, concurrency=10)
    worker.says("registered")
    line.portal.call(line.wire.lose_answers, "made AS", 5)
    pourer = world.child("pour", where=line.where, workflow="five", count=200, lanes=4)
    world.until(lambda: line.wire.lost, "answers are lost")
    for statement in cycle(["moved AS", "leased AS"]):
        lose(statement)
        enough = min(len(world.effects()) + 10, 1000)
        world.until(lambda enough=enough: len(world.effects()) >= enough, "it goes on")
        if enough == 1000:
            break
    pourer.ends_well()
    world.does("see", ids=[f"run-{number}" for number in range(200)])
    stop(worker)
    runs = world.check()
    assert min(lost.values()) > 3 and len(runs) == 200
    assert {run.status for run in runs.values()} == {"completed"} and not doubts(runs)
    effects = world.effects()
    assert len({(effect.run_id, effect.path) for effect in effects}) == len(effects) == 1000


def test_a_server_that_stays_away(world: World, database: Server) -> None:
    """S15.3: a handler ends while there is no server. The worker keeps what it has to say, and says it when the server is back; one
    that has nothing to do comes back too."""
    busy = world.worker(lease=LATER, concurrency=1)
    world.does("start", workflow="held-handler", ids=["run-1"])
    busy.says("in")
    idle = world.worker(lease=LATER)
    idle.says("registered")
    database.stop()
    try:
        busy.allow()
        world.until(lambda: any("trying the same again" in text for text in world.told(busy)), "the commit fails")
        world.until(lambda: any("does not answer a claim" in text for text in world.told(idle)), "the claim fails")
    finally:
        database.start()
    world.does("see", ids=["run-1"])
    stop(busy)
    world.does("start", workflow="innocent", ids=["run-2"])
    world.does("see", ids=["run-2"])
    stop(idle)
    runs = world.check()
    assert not doubts(runs) and set(runs["run-1"].epochs) <= {0, 1}
    assert {effect.pid for effect in world.effects() if effect.run_id == "run-1"} == {busy.pid}


def test_a_worker_behind_a_silent_wire(world: World, line: Line) -> None:
    """S14.2, S15.3, I10, I11: nothing comes through until its lease is over and another has its runs; what it then says, late as it is,
    changes nothing. It tells so, and works on."""
    silent = world.worker(where=line.where, lease=1.5)
    world.does("start", workflow="held-handler", ids=["run-1"])
    silent.says("in")
    line.hush()
    other = world.worker()
    other.says("in")  # the lease is over
    silent.allow()
    other.allow()
    world.does("see", ids=["run-1"])
    before = world.check()["run-1"]
    assert before.tags("hold") == ["go", "lost", "go", "alone", "ok"]
    stop(other)
    line.speak()
    world.does("start", workflow="innocent", ids=["run-2"])
    world.does("see", ids=["run-2"])
    stop(silent)
    runs = world.check()
    assert runs["run-1"].records == before.records
    assert {effect.pid for effect in world.effects() if effect.run_id == "run-2"} == {silent.pid}
    assert any("moved by others now" in text or "dropped here" in text for text in world.told(silent))


@pytest.mark.parametrize("phase", ["handler", "thread", "commit"])
def test_a_short_silence(world: World, line: Line, phase: str) -> None:
    """S15.3: what the worker has to say waits for the wire, and nothing is lost by it."""
    silent = world.worker(where=line.where, lease=LATER)
    world.does("start", workflow=f"held-{phase}", ids=["run-1"])
    silent.says("in")
    line.hush()
    other = world.worker()
    silent.allow()
    world.does("start", workflow="innocent", ids=["run-2"])
    world.does("see", ids=["run-2"])
    line.speak()
    world.does("see", ids=["run-1"])
    stop(other, silent)
    runs = world.check()
    assert not doubts(runs) and set(runs["run-1"].epochs) <= {0, 1}


def test_connections_that_were_forgotten(world: World, line: Line) -> None:
    """S15.3, D13: something on the way has forgotten all connections, and nobody is told. The worker's heartbeat connects anew in time,
    so that it keeps its run, and what its handler has done is recorded once nobody waits for the old connection any more."""
    worker = world.worker(where=line.where, lease=9, answering=12)
    world.does("start", workflow="held-handler", ids=["run-1"])
    worker.says("in")
    other = world.worker()
    line.forget()
    worker.allow()
    world.does("see", ids=["run-1"])
    stop(other, worker)
    runs = world.check()
    assert not doubts(runs) and set(runs["run-1"].epochs) <= {0, 1}
    assert [effect.pid for effect in world.effects()] == [worker.pid] * 3


def test_a_killed_worker_of_another_machine(world: World) -> None:
    """S14.5, D14: no file tells of it here, but its sessions end with it: its runs are moved soon after, long before the lease."""
    first = world.worker(lease=LATER, machine="another")
    world.does("start", workflow="held-handler", ids=["run-1"])
    first.says("in")
    second = world.worker(lease=LATER)
    world.does("start", workflow="held-sleep", ids=["run-2"])
    world.does("see", ids=["run-2"])
    first.kill()
    second.says("in", seconds=LATER / 2)
    second.allow()
    world.does("see", ids=["run-1"])
    run = world.check()["run-1"]
    assert run.status == "completed" and run.tags("hold") == ["go", "lost", "go", "alone", "ok"]

"""Many runs on a real PostgreSQL, while workers are killed and frozen at random and the server is restarted twice.

The long one, 5,000 runs: `FLUX_TEST_PROFILE=long python -m pytest -s tests/processes/test_chaos_postgres.py`.
With `FLUX_TEST_SEED=…` the same is done at the same points of progress again.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import wait

from ..postgres import Server
from .children import POSTGRES, Child, World
from .outside import Story

LONG = os.environ.get("FLUX_TEST_PROFILE") == "long"
RUNS, KILLS, FREEZES = (5000, 100, 50) if LONG else (800, 16, 8)
STEPS = ["one", "two", "three", "four", "five"]
WORKERS = 4
LEASE = 1.5
STANDSTILL = 60.0  # seconds without any progress after which a test gives up


class Storm:
    """Four workers, one process that stores runs, and what happens to them. All is done at points of progress, not of time."""

    def __init__(self, world: World, server: Server, seed: int) -> None:
        self.world = world
        self.server = server
        self.chance = random.Random(seed)
        self.schema = world.where.split("&flux_schema=")[1]
        self.workers = [self.worker() for _ in range(WORKERS)]
        self.frozen: list[Child] = []
        self.thawed: list[Child] = []
        self.did: Counter[str] = Counter()
        self.pourer = world.child("pour", workflow="five", count=RUNS)
        self.pourer.says("pouring")

    def plan(self) -> list[tuple[int, Callable[[], None]]]:
        """What is done when so many handlers have been called."""
        steps = RUNS * len(STEPS)

        def somewhere(begin: float, end: float) -> int:
            return int(steps * self.chance.uniform(begin, end))

        restarts = [(somewhere(0.2, 0.4), lambda: self.restart("immediate")), (somewhere(0.5, 0.7), lambda: self.restart("fast"))]
        kills = [(somewhere(0.02, 0.9), self.kill) for _ in range(KILLS)]
        freezes = [(somewhere(0.02, 0.9), self.freeze) for _ in range(FREEZES)]
        return sorted([*restarts, *kills, *freezes], key=lambda item: item[0])

    def rage(self) -> None:
        """Do it all, and wait until every run has ended."""
        for at, act in self.plan():
            self.until(lambda at=at: self.called() >= at)
            act()
        self.until(lambda: not self.frozen and not self.pourer.lives(0) and not self.left())
        self.pourer.ends_well()
        self.until(lambda: all(told_so(self.world, worker) for worker in self.thawed if worker in self.workers))

    def end(self) -> None:
        """Stop the workers as a deploy does."""
        for worker in self.workers:
            worker.says("ready")  # before that, SIGTERM is what the system makes of it
            worker.signal(signal.SIGTERM)
        for worker in self.workers:
            worker.ends_well()

    # --- what is done

    def worker(self) -> Child:
        return self.world.child("work", lease=LEASE, concurrency=10)

    def kill(self) -> None:
        """One or several at once, now and then all, and those that are frozen; others come for them."""
        number = self.chance.choice([1, 1, 1, 2, 2, WORKERS])
        for place in self.chance.sample(range(WORKERS), number):
            victim = self.workers[place]
            if victim in self.frozen:
                if number < WORKERS or not self.thawed:
                    continue
                self.frozen.remove(victim)
            victim.kill()
            self.workers[place] = self.worker()
            self.did["killed"] += 1

    def freeze(self) -> None:
        """One that has taken part, if there is one: until its lease is over and others have what it held."""
        awake = [worker for worker in self.workers if worker not in self.frozen and worker.said("registered")]
        if len(awake) < 2:
            return
        victim = self.chance.choice(awake)
        victim.signal(signal.SIGSTOP)
        self.frozen.append(victim)
        self.did["frozen"] += 1

    def thaw(self) -> None:
        """Those who have lost everything go on."""
        for worker in list(self.frozen):
            living = "SELECT count(*) FROM {}.workers WHERE nonce = ANY ($1) AND state = 0"
            holding = "SELECT count(*) FROM {}.runs WHERE owner = ANY ($1)"
            if not any(self.count(text, worker.said("registered")) for text in (living, holding)):
                worker.signal(signal.SIGCONT)
                self.frozen.remove(worker)
                self.thawed.append(worker)
                self.did["thawed"] += 1

    def restart(self, mode: str) -> None:
        """The server ends, with all its sessions, and is started anew."""
        self.server.stop(mode)
        self.server.start()
        self.did[f"restarted {mode}"] += 1

    # --- what is seen

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it, and thaw the frozen meanwhile."""
        seen, since = (-1, -1), time.monotonic()
        while not condition():
            self.thaw()
            for worker in self.workers:
                assert worker.lives(0), f"{worker} ended by itself, with {worker.ends()}"
            now = (self.called(), self.left() if time.monotonic() - since > 1 else seen[1])
            if now != seen:
                seen, since = now, time.monotonic()
            assert time.monotonic() - since < STANDSTILL, f"nothing goes on: {now} of calls and runs; {dict(self.did)}"
            wait([worker.sentinel for worker in self.workers], 0.02)

    def called(self) -> int:
        """How often handlers have been called."""
        path = self.world.effects_file
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def left(self) -> int:
        """How many of the runs have not ended."""
        return self.count("SELECT count(*) FROM {}.runs WHERE status <> 'completed'") + RUNS - self.count("SELECT count(*) FROM {}.runs")

    def count(self, text: str, *parameters: object) -> int:
        return int(self.server.run(text.format(self.schema), *parameters)[0][0])


def check_run(run: Story, called: Counter[tuple[str, str]]) -> int:
    """S3.5, I2, I5: it has completed, each step is recorded once, and was called again only where an attempt was lost; how many were."""
    lost = Counter(run.paths("lost"))
    assert run.status == "completed"
    assert run.paths("ok") == STEPS
    assert not set(run.paths("err") + run.paths("cut") + run.paths("hold"))
    for path in STEPS:
        times = called[run.run_id, path]
        assert 1 <= times <= 1 + lost[path], f"{run.run_id}: {path} was called {times} times, and lost {lost[path]} times"
    return sum(lost.values())


@POSTGRES
def test_a_storm(world: World, database: Server) -> None:
    """S12.1, S14.2, S14.5, S15.3, I1, I2, I5, I11, I22: workers are killed and frozen beyond their lease again and again, the server
    crashes and is restarted; every run completes, each step is recorded once, effects are repeated only where an attempt was lost,
    and nothing stays leased."""
    seed = int(os.environ.get("FLUX_TEST_SEED") or random.SystemRandom().randrange(1_000_000))
    began = time.monotonic()
    try:
        storm = Storm(world, database, seed)
        storm.rage()
        storm.end()
        runs = world.check()
        called = Counter((effect.run_id, effect.path) for effect in world.effects())
        assert set(runs) == {f"run-{number}" for number in range(RUNS)}
        lost = sum(check_run(run, called) for run in runs.values())
        assert storm.count("SELECT count(*) FROM {}.runs WHERE owner IS NOT NULL") == 0
        assert storm.did["killed"] >= KILLS and storm.did["restarted immediate"] == storm.did["restarted fast"] == 1
        assert lost and storm.did["thawed"], "no attempt was lost or no frozen worker came back: this test has proved nothing"
        assert "the engine failed to move it" not in world.output() and "Traceback" not in world.output()
    except BaseException as error:
        error.add_note(f"FLUX_TEST_SEED={seed}")
        print(world.output()[-20_000:])
        raise
    done = ", ".join(f"{count} {what}" for what, count in storm.did.items())
    print(f"\nseed {seed}: {RUNS} runs in {time.monotonic() - began:.0f} s; {done}; {lost} attempts were lost and made good")


def told_so(world: World, worker: Child) -> bool:
    """Whether a worker says that its runs are in other hands."""
    return any("moved by others now" in line for line in world.told(worker))

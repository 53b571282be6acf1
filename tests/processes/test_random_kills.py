"""Workers killed from outside at random instants, under load, on one file."""

from __future__ import annotations

import os
import random
import signal
import time

from .children import BOTH, World

SECONDS = 60.0 if os.environ.get("FLUX_TEST_PROFILE") == "long" else 7.0


@BOTH
def test_workers_killed_at_random(world: World) -> None:
    """S12.1, S14.5, I1, I2, I5, I29: workers are killed again and again, one or both at once; every run ends, none is damaged."""
    chance = random.Random(7)
    poster = world.child("post", seconds=SECONDS, lanes=12)
    workers = [world.child("work"), world.child("work")]
    kills = 0
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        victims = chance.choice([[0], [1], [0, 1]])
        if poster.lives(chance.uniform(0.01, 0.4)):
            for victim in victims:
                workers[victim].kill()
                kills += 1
            for victim in victims:
                workers[victim] = world.child("work")
    total = poster.says("posted")
    poster.ends_well()
    for worker in workers:
        worker.says("ready")  # before that, SIGTERM is what the system makes of it
        worker.signal(signal.SIGTERM)
        worker.ends_well()
    runs = world.check()
    assert len(runs) == total
    lost = sum(len(run.paths("lost")) for run in runs.values())
    assert lost, "no kill met a handler: this test has proved nothing"
    for number in range(total):
        assert runs[f"errand-{number}"].status == ("completed" if number % 5 else "failed")
        assert runs[f"errand-{number}"].paths("sig") == ["go"]
    print(f"\n{kills} kills, {total} runs ended, {lost} attempts were lost and made good")

"""Several processes on one file under load, none of them killed."""

from __future__ import annotations

import os
import signal

from .children import BOTH, World

SECONDS = 60.0 if os.environ.get("FLUX_TEST_PROFILE") == "long" else 6.0


@BOTH
def test_two_workers_and_a_poster(world: World) -> None:
    """I1, I5, I23, I48, S7.2: no record is lost or doubled, every step runs exactly once, and nobody meets a locked database."""
    workers = [world.worker(), world.worker()]
    poster = world.child("post", seconds=SECONDS, lanes=20)
    total = poster.says("posted", seconds=SECONDS + 60)
    poster.ends_well()
    for worker in workers:
        worker.signal(signal.SIGTERM)
        worker.ends_well()
    runs = world.check()
    assert len(runs) == total > 20
    for number in range(total):
        run = runs[f"errand-{number}"]
        assert run.status == ("completed" if number % 5 else "failed")
        assert not [tag for tag, *_ in run.records if tag in ("lost", "cut", "err")]
        assert run.paths("sig") == ["go"], "each signal reaches one wait, though some were sent twice"
    effects = world.effects()
    assert len({(effect.run_id, effect.path) for effect in effects}) == len(effects), "a step ran twice, and nothing had failed"
    shares = [sum(effect.pid == worker.pid for effect in effects) for worker in workers]
    assert all(shares), "one of the workers did nothing"
    print(f"\n{total} runs, {len(effects)} steps in {SECONDS:g} s; the workers did {shares[0]} and {shares[1]}")

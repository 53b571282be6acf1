"""One process asks, another one holds the run."""

from __future__ import annotations

from statistics import median

from .children import BOTH, World
from .stories import ROUNDS


@BOTH
def test_signals_from_another_process_are_prompt(world: World) -> None:
    """S7.2, I25: each of many signals wakes the run in the other process, without a poll of a second in between."""
    world.worker()
    world.does("start", workflow="ping", ids=["run-1"])
    sender = world.child("ping", run_id="run-1", rounds=ROUNDS)
    sent = sender.says("sent")
    sender.ends_well()
    woken = [world.effects(f"pong-{number}")[0].at for number in range(ROUNDS)]
    latencies = [(there - here) / 1e6 for here, there in zip(sent, woken, strict=True)]
    world.check()
    assert median(latencies) < 200, f"a signal takes {median(latencies):.0f} ms to be seen: somebody polls"
    print(f"\na signal is acted on by another process after {median(latencies):.1f} ms (median of {ROUNDS}, worst {max(latencies):.0f})")


@BOTH
def test_a_signal_for_a_run_whose_handler_runs(world: World) -> None:
    """S7.2, D12: a signal that another process sends while the worker is in a handler is there when the run comes to wait."""
    worker = world.worker()
    world.does("start", workflow="held-early", ids=["run-1"])
    worker.says("in")
    world.does("signal", run_id="run-1", workflow="held-early", name="go", payload=7)
    worker.allow()
    world.does("see", ids=["run-1"])
    run = world.check()["run-1"]
    assert run.status == "completed"
    assert run.tags("go") == ["wait", "sig"]
    assert set(run.epochs) == {0, 1}, "it never let go of the run: created at 0, claimed at 1"


@BOTH
def test_an_interrupting_cancel_from_another_process(world: World) -> None:
    """S11.1, D13: it stops a handler of the worker within a heartbeat; what was begun is undone."""
    worker = world.worker(lease=1.5)
    world.does("start", workflow="stuck", ids=["run-1"])
    worker.says("in")
    canceller = world.child("cancel", run_id="run-1", interrupt=True)
    sent_at = canceller.says("sent")
    world.does("see", ids=["run-1"])
    run = world.check()["run-1"]
    assert run.status == "cancelled"
    assert run.tags("stay") == ["go", "cut"]
    assert [effect.path for effect in world.effects()] == ["first", "stay", "stay!undo", "first!undo"]
    took = (world.effects("stay!undo")[0].at - sent_at) / 1e6
    assert took < 10_000
    print(f"\nan interrupting cancel stopped the other process's handler after {took:.0f} ms (lease 1.5 s)")

"""Every program in `examples/` runs as it stands, and says what it is there to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

# What must stand in the output, in this order.
SAYS = {
    "crash_and_resume.py": [
        "Process 1  begins", "charge", "KILLED, not recorded",
        "Process 2  carries on", "reserve   recorded by process 1", "key known: no new effect", "pack", "KILLED, not recorded",
        "Process 3  carries on", "charge    recorded by process 2", "key known: no new effect", "ship",
        "reserve       1        1", "charge        2        1", "pack          2        1", "ship          1        1",
        "ship      commit  completed         1",
        "order-1001 is completed: three processes, two kills, every effect once.",
    ],
    "order_fulfilment.py": [
        "order-1: completed", "discount  completed   1260", "ship      completed   parcel-order-1.txt",
        "order-2: failed, because the bank refuses card 0000", "reserve   compensated", "discount  skipped", "pay       failed",
        "in stock: 7 of 10; in the till: 11340 cents; on disk: invoice-order-1.txt, parcel-order-1.txt",
    ],
    "approval_by_signal.py": [
        "claim-1 is suspended, waiting for 'approval'", "refused at its sender, for its field 'approved'",
        "ana: 4200 cents paid, decided by bob", "cleo: 990 cents paid, decided by dan",
        "eve: 100000 cents refused, decided by nobody",
        "on disk: claim-1.paid.txt, claim-2.paid.txt, claim-3.refused.txt, claim-3.reminder.txt",
    ],
    "saga_trip.py": [
        "trip-1 to Porto: completed", "hotel      completed    attempts: 2", "trip-2 to Lisbon: failed, because no car left in Lisbon",
        "flight     compensated", "hotel      compensated", "car        failed",
        "flight to Lisbon", "hotel in Lisbon", "hotel given back", "flight given back", "sum of trip-2                          0",
    ],
}  # fmt: skip


def run(name: str, directory: Path) -> str:
    """The output of one example, run from elsewhere."""
    done = subprocess.run([sys.executable, EXAMPLES / name], cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, "an example warns or logs"
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(name: str, tmp_path: Path) -> None:
    """It ends well, leaves nothing behind where it was started, and says what it should, in order."""
    output = run(name, tmp_path)
    at = 0
    for words in SAYS[name]:
        found = output.find(words, at)
        assert found >= 0, f"{words!r} is not in the rest of the output:\n{output[at:]}"
        at = found + len(words)
    assert not list(tmp_path.iterdir())
    assert "\033" not in output, "colours where nobody looks"


def test_every_example_is_there() -> None:
    """No expectation without its example."""
    assert set(SAYS) == {path.name for path in EXAMPLES.glob("*.py")}

"""What ought to be happening now. Derived from the state, never remembered elsewhere.

COMMIT the records that made an action outstanding BEFORE performing it: that is the one rule of order.
"""

from __future__ import annotations

from dataclasses import dataclass

from .state import RunState, StepState


@dataclass(slots=True)
class Outstanding:
    """`calls`: attempts to run (each once per holder). `interrupt`: of those, the ones to stop now (S11.1, S5.2).
    `wake_at`: when the run next needs a `Tick`, whatever else goes on; 0 for at once, None for never."""

    calls: list[StepState]
    interrupt: list[StepState]
    wake_at: int | None


def outstanding(state: RunState, now: int) -> Outstanding:
    """What ought to be happening in this run at `now`."""
    calls = list(state.calls.values())
    interrupt: list[StepState] = []
    if calls and state.unwinding is None and cut_cause(state, now) is not None:
        interrupt = [st for st in calls if not st.node.sheltered]
    return Outstanding(calls, interrupt, _next_tick(state, now) if calls else state.wake_at)


def _next_tick(state: RunState, now: int) -> int | None:
    """The next timer beside the attempts that run. A deadline that has passed is waited for by nobody: see `interrupt`; nor is a
    retry that is due when the run is to go down: what runs has to end first."""
    times = [st.due_at for st in state.parked.values() if st.due_at is not None]
    overdue = state.deadline_at is not None and now >= state.deadline_at
    if state.unwinding is None and (state.cancel is not None or state.failing is not None or overdue):
        times = [at for at in times if at > now]
    if state.unwinding is None and state.deadline_at is not None and now < state.deadline_at:
        times.append(state.deadline_at)
    return min(times, default=None)


def cut_cause(state: RunState, now: int) -> str | None:
    """Why attempts that are not sheltered should be stopped now, if they should (D10)."""
    if state.cancel is not None and state.cancel.interrupt:
        return "cancelled"
    if state.deadline_at is not None and now >= state.deadline_at and state.pivot is None:
        return "deadline"
    return None

"""What a run's outcome must be, told independently of the machine: plain loops over what an observer saw and over the journal."""

from __future__ import annotations

from typing import Any

from flux.core.records import (
    AttemptCut,
    AttemptFailed,
    AttemptLost,
    AttemptReleased,
    CancelRequested,
    Record,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    SignalReceived,
    SleepEnded,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepSuspended,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from flux.core.workflow import Step

from .world import DRAW, Case, Store, World

UNDO = "!undo"


def steps_by_path(steps: tuple[Step, ...], prefix: str = "") -> dict[str, Step]:
    """Every step at any depth, by its path."""
    found: dict[str, Step] = {}
    for step in steps:
        path = prefix + step.name
        found[path] = step
        if step.on_timeout is not None:
            found |= steps_by_path(step.on_timeout.steps, f"{path}/" if step.on_timeout.single else f"{path}/on_timeout/")
    return found


def history(store: Store) -> list[tuple[int, Record]]:
    """All records with their times."""
    return [(at, record) for at, records in store.journal() for record in records]


# --- compensation (S10)


def owed(step: Step, notes: set[str]) -> bool:
    """S10.4, from what the attempts of this step came to."""
    if step.compensate is None:
        return False
    if "returned" in notes:
        return True
    if step.compensate_when == "started":
        return bool(notes)
    return "doubt" in notes and (step.compensate_when == "in_doubt" or step.on_unknown == "compensate")


def expected_undo(case: Case, world: World) -> list[str] | None:
    """The compensations that the run owes, in order; None when it never went down."""
    steps = steps_by_path(case.definition.steps)
    seen = world.store.seen
    for _, record in history(world.store):
        if isinstance(record, UnwindStarted):
            started = [path for path in seen if not path.endswith(UNDO)]
            return [path for path in reversed(started) if owed(steps[path], seen[path])] if record.compensate else []
    return None


def check_compensation(case: Case, world: World) -> None:
    """S10.1 to S10.5, I30 to I33: the right ones, in order, one at a time, each to its own end, once."""
    right = expected_undo(case, world)
    records = [record for _, record in history(world.store)]
    order: list[str] = []
    ends: dict[str, bool] = {}
    for record in records:
        path = getattr(record, "path", "")
        if not path.endswith(UNDO):
            continue
        base = path.removesuffix(UNDO)
        assert base not in ends or type(record).__name__ == "RunBlocked", f"{path} goes on after its end"
        if base not in order:
            assert isinstance(record, StepStarted)
            assert all(other in ends for other in order), f"{path} starts before the one before it has ended"
            order.append(base)
        if isinstance(record, StepCompleted | StepFailed):
            ends[base] = isinstance(record, StepCompleted)
    if right is None:
        assert order == []
        assert not any(isinstance(record, RunFailed | RunCancelled) for record in records)
        return
    assert order == right[: len(order)]
    assert not any(isinstance(record, RunCompleted) for record in records)
    if world.state.ended is not None:
        assert list(ends) == right, "none is skipped"
        cause = next(record.cause for record in records if isinstance(record, UnwindStarted))
        clean = cause == "cancelled" and all(ends.values())
        assert world.state.ended == ("cancelled" if clean else "failed")
    for base, succeeded in ends.items():
        assert (world.state.steps[base].status == "compensated") is succeeded


# --- attempts (S4, I2, I5, I29)


def check_attempts(case: Case, world: World) -> None:
    """Each attempt has one outcome; each further one has a cause on record; none is early, and none too many."""
    steps = steps_by_path(case.definition.steps)
    running: dict[str, int] = {}  # path -> attempt
    raised: dict[str, int] = {}
    due: dict[str, int] = {}
    ended: set[str] = set()
    for at, record in history(world.store):
        path = getattr(record, "path", "")
        if isinstance(record, StepStarted):
            assert path not in running
            assert path not in ended, "I2"
            assert at >= due.pop(path, at), "I19"
            running[path] = record.attempt
        elif isinstance(record, AttemptFailed | AttemptLost | AttemptCut | AttemptReleased):
            assert running.pop(path) == record.attempt, "I29"
            if isinstance(record, AttemptFailed):
                raised[path] = raised.get(path, 0) + 1
                _check_delay(case, steps, at, record, raised[path])
            due[path] = at if isinstance(record, AttemptReleased) else record.retry_at or at
        elif isinstance(record, StepCompleted | StepSuspended):
            assert running.pop(path) == record.attempt, "I29"
            if isinstance(record, StepCompleted):
                ended.add(path)
        elif isinstance(record, StepFailed):
            if record.attempt:
                assert running.pop(path) == record.attempt, "I29"
                raised[path] = raised.get(path, 0) + 1
            assert path not in running
            ended.add(path)
    for path, count in raised.items():
        base = steps[path.removesuffix(UNDO)]
        retries = base.compensate_retries if path.endswith(UNDO) else base.retries
        assert count <= (retries or 0) + 1, "S4.1"
    assert set(running) == set(world.state.calls)


def _check_delay(case: Case, steps: dict[str, Step], at: int, record: AttemptFailed, failed: int) -> None:
    step = steps[record.path.removesuffix(UNDO)]
    assert step.retry is not None
    lines = case.script.get(record.path, ())
    wish = lines[failed - 1].delay if lines[failed - 1].what == "raises" else None
    assert record.retry_at == at + (step.retry.delay(failed, DRAW) if wish is None else wish)


# --- time, signals and the way down


def check_times(world: World) -> None:
    """I19, I26, S8.2: timers are not early, and each wait ends once."""
    due: dict[str, int | None] = {}
    over: set[str] = set()
    for at, record in history(world.store):
        path = getattr(record, "path", "")
        if isinstance(record, WaitStarted | StepSuspended):
            due[path] = record.expires_at
        elif isinstance(record, SleepStarted):
            due[path] = record.until
        elif isinstance(record, WaitExpired | SleepEnded | SignalReceived) or (isinstance(record, StepFailed) and path in due):
            if path in over:
                assert isinstance(record, StepFailed), "a wait that went to its branch fails with it"
                continue
            over.add(path)
            if not isinstance(record, SignalReceived):
                limit = due[path]
                assert limit is not None
                assert at >= limit


def check_signals(case: Case, world: World) -> None:
    """I22 to I24: each signal is taken once, in order by name, or is still in the inbox."""
    names = {}
    for seq, mail in enumerate(case.mail, 1):
        names[seq] = mail.name
    taken = [record.seq for _, record in history(world.store) if isinstance(record, SignalReceived)]
    assert len(taken) == len(set(taken))
    for name in set(names.values()):
        mine = [seq for seq in taken if names[seq] == name]
        assert mine == sorted(mine)
        left = [posting.seq for posting in world.store.inbox if posting.name == name]
        assert not left or not mine or max(mine) < min(left), "I24: the oldest first"
    accepted = {seq for seq in range(1, world.store.inbox_seq + 1) if names[seq]}
    assert accepted == set(taken) | {posting.seq for posting in world.store.inbox if posting.kind == "signal"}


def check_nothing_starts_on_the_way_down(world: World) -> None:
    """S11.1, S5.2, I28: after the deadline, and from the commit that records a cancel on, only compensations start."""
    deadline: int | None = None
    stopped = down = False
    for at, records in world.store.journal():
        over = stopped or (deadline is not None and at >= deadline)
        for record in records:
            if isinstance(record, RunCreated):
                deadline = record.deadline_at
            if isinstance(record, StepStarted | WaitStarted | SleepStarted | StepSkipped) and over:
                assert record.path.endswith(UNDO), f"{record} after the end"
            path = getattr(record, "path", "")
            assert not (down and path) or path.endswith(UNDO), "I28: in flight, and recorded too late"
            if isinstance(record, CancelRequested | UnwindStarted):
                over = stopped = True
                down = down or isinstance(record, UnwindStarted)


def check_skips(world: World) -> None:
    """S6.1, S10.5: what was skipped has one line in the journal."""
    records = [record for _, record in history(world.store)]
    for record in records:
        if isinstance(record, StepSkipped):
            mine = [one for one in records if getattr(one, "path", "").removesuffix(UNDO) == record.path]
            assert mine == [record]


def check_all(case: Case, world: World) -> None:
    """Every law that can be read off a journal."""
    check_compensation(case, world)
    check_attempts(case, world)
    check_times(world)
    check_signals(case, world)
    check_nothing_starts_on_the_way_down(world)
    check_skips(world)


# --- two ends compared


def end(world: World) -> dict[str, Any]:
    """How a run ended, without what a lost attempt may change: its number, and doubt."""
    state = world.state
    steps = {path: (st.status, st.result, st.failure, st.raised, st.started_at, st.ended_at) for path, st in state.steps.items()}
    return {
        "status": state.status,
        "data": state.data,
        "steps": steps,
        "order": list(state.steps),
        "unwinding": state.unwinding,
        "undo": state.undo,
        "waits": state.waits,
        "left": [posting.seq for posting in world.store.inbox],
        "ended_at": state.ended_at,
        "effects": {path for path, notes in world.store.seen.items() if notes & {"returned", "raised"}},
    }

"""What a run's outcome must be, told independently of the machine: plain loops over what an observer saw and over the journal."""

from __future__ import annotations

from typing import Any

from flux.core.records import (
    AttemptCut,
    AttemptFailed,
    AttemptIsolated,
    AttemptLost,
    AttemptPostponed,
    AttemptReleased,
    CancelRefused,
    CancelRequested,
    Record,
    Reopened,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunUnblocked,
    SignalReceived,
    SleepEnded,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSuspended,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from flux.core.retry import SUSPECT
from flux.core.workflow import Kind

from .world import DRAW, Case, Store, World, steps_by_path

UNDO = "!undo"
PROBE = "!probe"


def history(store: Store) -> list[tuple[int, Record]]:
    """All records with their times."""
    return [(at, record) for at, records in store.journal() for record in records]


def base_of(path: str) -> str:
    """The step that a path is about."""
    return path.partition("!")[0]


def within(path: str, top: str) -> bool:
    """Whether the step at `path` is `top`, or stands in it."""
    return path == top or path.startswith(f"{top}/")


def from_on(case: Case, path: str) -> set[str]:
    """The steps from this one on, in the order of the workflow; none for ''."""
    paths = list(steps_by_path(case.definition.steps))
    return set(paths[paths.index(path) :]) if path else set()


# --- compensation (S10)


class WayDown:
    """What one unwinding has done so far."""

    def __init__(self, right: list[str], cause: str) -> None:
        self.right = right
        self.cause = cause
        self.order: list[str] = []
        self.ends: dict[str, bool] = {}

    def take(self, record: Record) -> None:
        """One more record of it."""
        path = getattr(record, "path", "")
        if isinstance(record, RunFailed | RunCancelled):
            assert list(self.ends) == self.right, "none is skipped"
            clean = self.cause == "cancelled" and all(self.ends.values())
            assert isinstance(record, RunCancelled) is clean
        if not path.endswith(UNDO):
            return
        base = base_of(path)
        if isinstance(record, StepResolved):
            self.ends.pop(base, None)
            if record.way != "retry":
                self.ends[base] = record.way == "done"
            return
        assert base not in self.ends or isinstance(record, RunBlocked), f"{path} goes on after its end"
        if base not in self.order:
            assert isinstance(record, StepStarted)
            assert all(other in self.ends for other in self.order), f"{path} starts before the one before it has ended"
            self.order.append(base)
            assert self.order == self.right[: len(self.order)]
        if isinstance(record, StepCompleted | StepFailed):
            self.ends[base] = isinstance(record, StepCompleted)


def check_compensation(case: Case, world: World) -> None:
    """S10.1 to S10.5, I30 to I33: the right ones, in order, one at a time, each to its own end, once a way down. What an earlier
    generation left undone is among them, and what was undone is not."""
    down: WayDown | None = None
    rights = iter(world.store.unwindings)
    for _, record in history(world.store):
        if isinstance(record, UnwindStarted) and down is not None:
            assert not record.compensate, "a cancel of a run that is blocked in its compensation may leave out the rest"
            down.right = [*down.ends, *next(rights)]
        elif isinstance(record, UnwindStarted):
            down = WayDown(next(rights), record.cause)
        elif isinstance(record, Reopened):
            down = None
        elif down is not None:
            down.take(record)
            assert not isinstance(record, RunCompleted)
        else:
            assert not getattr(record, "path", "").endswith(UNDO)
    assert next(rights, None) is None
    for base, succeeded in ({} if down is None else down.ends).items():
        assert (world.state.steps[base].status == "compensated") is succeeded


def check_pivot(case: Case, world: World) -> None:
    """S9.4, D10: once a pivot has completed nothing is undone, and only a cancel that asks for that ends the run otherwise."""
    pivots = {step.name for step in case.definition.steps if step.pivot}
    passed = False
    for _, record in history(world.store):
        path = getattr(record, "path", "")
        if path in pivots:
            done = isinstance(record, StepCompleted | SignalReceived) or (isinstance(record, StepResolved) and record.way == "done")
            found = isinstance(record, StepProbed | WaitExpired) and record.result is not None
            passed = passed or done or found
        if passed and isinstance(record, UnwindStarted):
            assert (record.cause, record.compensate) == ("cancelled", False)
        if passed:
            assert not isinstance(record, RunFailed)
    assert (world.state.pivot is not None) is passed


# --- generations (D1 to D4)


def check_generations(case: Case, world: World) -> None:
    """S2.2, I9, D4: an ended run changes only by Reopened, each of which opens the next generation; after a replay it is what it was."""
    ended: Record | None = None
    before: Record | None = None  # how the run had ended that is replayed
    generation = 0
    for _, record in history(world.store):
        if isinstance(record, Reopened):
            generation += 1
            assert record.generation == generation
            before = ended if record.cause == "replay" else None
            ended = None
            continue
        assert ended is None, f"{record} after the end"
        if before is not None:
            assert not isinstance(record, UnwindStarted | RunCompleted | RunFailed | RunCancelled) or type(record) is type(before)
            assert not isinstance(record, UnwindStarted) and not getattr(record, "path", "").endswith(UNDO), "a replay undoes nothing"
        if isinstance(record, RunCompleted | RunFailed | RunCancelled):
            ended, before = record, None
    assert generation == world.state.generation


def check_data(case: Case, world: World) -> None:
    """D3, D4: the data is that of the steps that are done, in order; a retry takes it back to before its step."""
    first: dict[str, str | None] = {}
    done: dict[str, dict[str, str | None] | None] = {}
    found: dict[str, dict[str, str | None] | None] = {}  # what a replay changes, by steps that have not ended in it
    replays = False
    for _, record in history(world.store):
        path = getattr(record, "path", "")
        if isinstance(record, RunCreated):
            first = record.data
        elif isinstance(record, Reopened):
            replays = record.cause == "replay"
            found.clear()
            if not replays:
                gone = from_on(case, record.from_path)
                done = {one: changes for one, changes in done.items() if one not in gone}
        elif isinstance(record, RunCompleted | RunFailed | RunCancelled):
            replays = False
        elif isinstance(record, StepSuspended | StepCompleted) and not path.endswith(UNDO):
            (found if replays else done)[path] = record.changes
        elif isinstance(record, StepResolved) and not replays:
            done = {one: changes for one, changes in done.items() if path.endswith(UNDO) or not within(one, path)}
        elif isinstance(record, StepResolved):
            found.pop(path, None)
        elif isinstance(record, StepProbed) and replays and record.result is not None:
            done[path] = None
        if replays and isinstance(record, StepCompleted | SignalReceived | WaitExpired):
            done[path] = found.pop(path, None)
    if replays:
        return
    data: dict[str, str] = {}
    for changes in [first, *(done[one] for one in steps_by_path(case.definition.steps) if one in done)]:
        for key, value in (changes or {}).items():
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value
    assert world.state.data == data


def check_keys(case: Case, world: World) -> None:
    """D2: the generation in a path's key rises when the path is done again after it was compensated, and at no other time."""
    generations: dict[str, int] = {}
    undone: set[str] = set()
    for _, record in history(world.store):
        path = getattr(record, "path", "")
        if path.endswith(UNDO) and (isinstance(record, StepCompleted) or (isinstance(record, StepResolved) and record.way == "done")):
            undone.add(base_of(path))
        if isinstance(record, Reopened) and record.cause == "retry":
            for gone in from_on(case, record.from_path) & undone:
                generations[gone] = record.generation
                undone.discard(gone)
    for path in steps_by_path(case.definition.steps):
        assert world.state.key_of(path) == world.state.key_of(path + UNDO) == (path, generations.get(path, 0))


# --- attempts (S4, I2, I5, I29)


class Attempts:
    """What the journal has said of attempts so far."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.steps = steps_by_path(case.definition.steps)
        self.running: dict[str, int] = {}  # path -> attempt
        self.raised: dict[str, int] = {}  # in this generation
        self.lines: dict[str, int] = {}  # of the script, used up
        self.due: dict[str, int] = {}
        self.ended: set[str] = set()

    def take(self, at: int, record: Record) -> None:
        """One more record."""
        path = getattr(record, "path", "")
        if isinstance(record, StepStarted):
            assert path not in self.running
            assert path not in self.ended, "I2"
            assert at >= self.due.pop(path, at), "I19"
            self.running[path] = record.attempt
        elif isinstance(record, AttemptFailed | AttemptLost | AttemptCut | AttemptReleased):
            assert self.running.pop(path) == record.attempt, "I29"
            if isinstance(record, AttemptFailed):
                self._raise(path)
                self._check_delay(at, record)
            self.due[path] = at if isinstance(record, AttemptReleased) else record.retry_at or at
        elif isinstance(record, AttemptPostponed):
            assert record.retry_at > at >= self.due[path]
            self.due[path] = record.retry_at
        elif isinstance(record, StepCompleted | StepSuspended):
            assert self.running.pop(path) == record.attempt, "I29"
            if isinstance(record, StepCompleted):
                self.ended.add(path)
        elif isinstance(record, StepProbed):
            assert self.running.pop(path + PROBE) == record.attempt, "I29"
            self.due.pop(path, None)
            if record.result is not None:
                self.ended.add(path)
        elif isinstance(record, StepFailed):
            if record.attempt:
                assert self.running.pop(path) == record.attempt, "I29"
                self._raise(path)
            assert path not in self.running
            if not path.endswith(PROBE):
                self.ended.add(path)
        elif isinstance(record, StepResolved):
            self._again({one for one in self.all if base_of(one) == record.path or within(one, record.path)})
            if record.way != "retry":
                self.ended.add(path)
        elif isinstance(record, Reopened):
            self._reopen(record)

    @property
    def all(self) -> set[str]:
        """Every path seen."""
        return {*self.ended, *self.raised, *self.due}

    def _raise(self, path: str) -> None:
        self.raised[path] = self.raised.get(path, 0) + 1
        self.lines[path] = self.lines.get(path, 0) + 1
        base = self.steps[base_of(path)]
        retries = base.compensate_retries if path.endswith(UNDO) else self.case.defaults.retries if path.endswith(PROBE) else base.retries
        assert self.raised[path] <= (retries or 0) + 1, "S4.1"

    def _again(self, paths: set[str]) -> None:
        self.ended -= paths
        for path in paths:
            self.raised.pop(path, None)
            self.due.pop(path, None)

    def _reopen(self, record: Reopened) -> None:
        assert not self.running
        if record.cause == "retry":
            gone = from_on(self.case, record.from_path)
            self._again({path for path in self.all if "!" in path or path in gone})
        else:
            self._again({path for path in self.all if self.steps[base_of(path)].kind is Kind.COMMIT and not path.endswith(UNDO)})

    def _check_delay(self, at: int, record: AttemptFailed) -> None:
        step = self.steps[base_of(record.path)]
        failed = self.raised[record.path]
        policy = self.case.defaults.retry if record.path.endswith(PROBE) else step.retry
        assert policy is not None
        lines = self.case.script.get(record.path, ())
        line = lines[self.lines[record.path] - 1]
        asked = record.doubt and step.probe is not None and "!" not in record.path  # the probe goes first, whatever the retries say
        wish = line.delay if line.what == "raises" else None
        if asked and failed > (step.retries or 0):
            wish = 0
        assert record.retry_at == at + (policy.delay(failed, DRAW) if wish is None else wish)


def check_attempts(case: Case, world: World) -> None:
    """Each attempt has one outcome; each further one has a cause on record; none is early, and none too many."""
    attempts = Attempts(case)
    for at, record in history(world.store):
        attempts.take(at, record)
    assert set(attempts.running) == set(world.state.calls)


def check_isolation(world: World) -> None:
    """D11: from the third loss in a row on, an attempt starts only where it runs alone, and says so."""
    lost: dict[str, int] = {}
    for _, records in world.store.journal():
        for index, record in enumerate(records):
            path = getattr(record, "path", "")
            if isinstance(record, AttemptLost):
                lost[path] = lost.get(path, 0) + 1
            elif isinstance(record, AttemptFailed | StepSuspended | StepCompleted | StepResolved | SignalReceived | WaitExpired):
                lost.pop(path, None)
            elif isinstance(record, Reopened):
                lost.clear()
            elif isinstance(record, RunUnblocked):
                return  # it may begin anew
            elif isinstance(record, StepStarted) and lost.get(path, 0) >= SUSPECT:
                assert AttemptIsolated(path, record.attempt) in records[index:]


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
        elif isinstance(record, Reopened | StepResolved):
            due.clear()
            over.clear()
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
    names = dict(enumerate(world.store.accepted, 1))
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
    """S11.1, S5.2, I28: after the deadline, and from the commit that records a cancel on, only compensations start; past the
    point of no return a deadline blocks, and a cancel may be refused (D10)."""
    deadline: int | None = None
    stopped = down = False
    for at, records in world.store.journal():
        overdue = deadline is not None and at >= deadline and world.state.pivot is None
        for record in records:
            if isinstance(record, RunCreated | Reopened):
                deadline, stopped, down = record.deadline_at, False, False
                overdue = False
            if isinstance(record, CancelRefused):
                stopped = False
            if isinstance(record, StepStarted | WaitStarted | SleepStarted | StepSkipped) and (stopped or overdue):
                assert record.path.endswith(UNDO), f"{record} after the end"
            path = getattr(record, "path", "")
            assert not (down and path) or path.endswith(UNDO), "I28: in flight, and recorded too late"
            if isinstance(record, CancelRequested | UnwindStarted):
                stopped = True
                down = down or isinstance(record, UnwindStarted)


def check_skips(world: World) -> None:
    """S6.1, S10.5: what was skipped is not heard of again in its generation; it is undone only if it was done in an earlier one."""
    skipped: set[str] = set()
    again = False
    for _, record in history(world.store):
        path = getattr(record, "path", "")
        if isinstance(record, Reopened):
            skipped.clear()
            again = True
        elif isinstance(record, StepResolved):
            again = True
        elif path:
            assert base_of(path) not in skipped or (again and path.endswith(UNDO))
        if isinstance(record, StepSkipped):
            skipped.add(path)


def check_all(case: Case, world: World) -> None:
    """Every law that can be read off a journal."""
    check_compensation(case, world)
    check_pivot(case, world)
    check_generations(case, world)
    check_data(case, world)
    check_keys(case, world)
    check_attempts(case, world)
    check_isolation(world)
    check_times(world)
    check_signals(case, world)
    check_nothing_starts_on_the_way_down(world)
    check_skips(world)


# --- two ends compared


def end(world: World) -> dict[str, Any]:
    """How a run ended, without what a lost attempt may change: its number, and doubt."""
    state = world.state
    asked = [path for path in state.steps if path.endswith(PROBE)]  # nobody asks when nothing is in doubt
    steps = {
        path: (st.status, st.result, st.failure, st.raised, st.started_at, st.ended_at)
        for path, st in state.steps.items()
        if path not in asked
    }
    return {
        "status": state.status,
        "data": state.data,
        "steps": steps,
        "order": list(steps),
        "unwinding": state.unwinding,
        "undo": state.undo,
        "waits": state.waits,
        "left": [posting.seq for posting in world.store.inbox],
        "ended_at": state.ended_at,
        "generation": state.generation,
        "pivot": state.pivot,
        "keys": state.keys,
        "owed": list(state.owed),
        "acted": world.store.acted,
        "effects": {path for path, notes in world.store.seen.items() if notes & {"returned", "raised"} and not path.endswith(PROBE)},
    }

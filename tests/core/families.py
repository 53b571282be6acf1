"""A world of runs that are parents and children of one another, around one little store: what a commit writes, the runs that it makes and
the words that it sends are one step, as is the end of a run and the word to its parent.

Several runs are under way at once; which of them moves next is part of the story. After every commit the family is held to its laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from flux.core.actions import outstanding
from flux.core.commands import Advance, Arrived, Command, Cut, Lost, Posting, Reopen, Resolve, Tell, Tick, Unblock
from flux.core.evolve import fold
from flux.core.failure import Failure
from flux.core.machine import Moment, create, decide
from flux.core.patterns import pattern
from flux.core.plan import PROBE, UNDO, Defaults, Node, Plan, base_path
from flux.core.records import (
    AttemptCut,
    AttemptFailed,
    AttemptLost,
    ChildEnded,
    ChildStarted,
    Record,
    Reopened,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    StepCompleted,
    StepFailed,
    StepResolved,
    StepStarted,
    UndoDemanded,
    UnwindStarted,
)
from flux.core.retry import SECOND
from flux.core.state import RunState, StepState, undo_path
from flux.core.status import RunStatus, StepStatus
from flux.core.workflow import Definition, Step, can_be_undone, child_workflows, shape
from flux.errors import InvalidArgument, PastPivot
from flux.journal import decode_row, encode_row

from .test_laws_inside import by_pattern
from .world import DRAW, T0, Does, freeze, newborn, owed, read_cancel, read_child

TURNS = 3000
ROOT = "me"
ENDS = (RunCompleted, RunFailed, RunCancelled, UndoDemanded)

Crash = Literal["before", "after", "all"]


@dataclass(frozen=True)
class Call:
    """A cancel that somebody sends `after` seconds, to the run that was made as this one."""

    after: int
    whose: int = 0
    compensate: bool = True
    interrupt: bool = False


@dataclass(frozen=True, repr=False)
class Story:
    """A family, and everything that will happen to it. `script`: by workflow and pattern of a path."""

    definition: Definition
    script: dict[tuple[str, str], tuple[Does, ...]] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    order: tuple[int, ...] = ()  # who of those that can moves next
    crashes: dict[int, Crash] = field(default_factory=dict)
    ways: tuple[Literal["retry", "skip", "done"], ...] = ()  # what a person says to runs that are blocked, one after another; then "skip"
    retries: tuple[int, ...] = ()  # once all rest, the first run is retried: from its step of this number, or 0 for where it failed

    def __repr__(self) -> str:
        script = {path: [(does.what, does.took) for does in lines] for path, lines in self.script.items() if lines}
        rest = f"{self.calls=} {self.order=} {self.crashes=} {self.ways=} {self.retries=}".replace("self.", "")
        return f"Story({_shapes(self.definition)} {script=} {rest})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


def _shapes(definition: Definition) -> dict[str, str]:
    """The workflows of a family, in short."""
    found = {definition.name: shape(definition.body)}
    for one in child_workflows(definition.body):
        found |= _shapes(one)
    return found


@dataclass(eq=False)
class Kin:
    """One run: what is stored of it, and its holder."""

    run_id: str
    plan: Plan
    parent: str
    rows: list[tuple[int, str, str]] = field(default_factory=list)
    inbox: list[Posting] = field(default_factory=list)
    inbox_seq: int = 0
    seen: int = 0  # the inbox_seq at the last commit
    # the holder
    state: RunState = field(init=False)
    held: bool = False
    known: int = 0
    finish: dict[str, int] = field(default_factory=dict)  # attempts being performed: when they end
    # what an observer saw
    raised: dict[str, int] = field(default_factory=dict)  # path -> lines of its script that are used up
    notes: dict[str, set[str]] = field(default_factory=dict)  # path -> what its attempts came to since it was last undone
    effects: dict[str, int] = field(default_factory=dict)  # path of a step that can be undone -> how often it is done and not undone
    resolved: bool = False

    def journal(self) -> list[tuple[int, tuple[Record, ...]]]:
        """The rows, read back."""
        return [(at, decode_row(control, payload)) for at, control, payload in self.rows]

    def drop(self) -> None:
        """Its holder is gone."""
        self.held = False
        self.known = 0
        self.finish.clear()
        self.state = fold(self.plan, self.journal())

    def post(self, kind: Any, name: str, payload: str, at: int) -> None:
        """One more word for this run."""
        self.inbox_seq += 1
        self.inbox.append(Posting(self.inbox_seq, kind, name, payload, None, at))

    @property
    def clean(self) -> bool:
        """Whether nothing is left of it that should have been undone."""
        undos = [self.state.steps.get(undo_path(path)) for path in self.state.undo]
        return not self.state.unclean and not any(st is not None and st.status is StepStatus.FAILED for st in undos)


class Family:
    """All runs of one story. `run()` goes on until nothing moves any more."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.now = T0
        self.turns = 0
        self.picked = 0
        self.called = 0
        self.retried = 0
        self.asked: dict[str, int] = {}  # how often a person was asked what is to become of a run
        self.kin: dict[str, Kin] = {}
        self._make(ROOT, story.definition, "")

    def run(self) -> Family:
        """Until all is at rest."""
        while True:
            self._receive()
            ready = [thing for kin in list(self.kin.values()) if (thing := self._next_thing(kin)) is not None]
            if ready:
                self._choose(ready)()
                assert self.turns < TURNS, "the family does not come to rest"
            elif not self._pass_time() and not self._retry():
                return self

    def _retry(self) -> bool:
        """A person retries the first run, which has failed; whether it has."""
        kin = self.kin[ROOT]
        if self.retried == len(self.story.retries) or kin.state.ended in (None, RunStatus.COMPLETED):
            return False
        number = self.story.retries[self.retried]
        self.retried += 1
        names = ["", *kin.plan.root.by_name]
        kin.resolved = True
        try:
            self.commit(kin, Reopen("retry", names[number % len(names)], "ana", "why"))
        except (InvalidArgument, PastPivot):
            assert not kin.state.log, "what is refused leaves no trace"
        return True

    def _choose(self, ready: list[Callable[[], None]]) -> Callable[[], None]:
        order = self.story.order
        choice = order[self.picked % len(order)] if order else 0
        self.picked += 1
        return ready[choice % len(ready)]

    # --- what happens

    def _make(self, run_id: str, definition: Definition, parent: str) -> None:
        assert run_id not in self.kin, "I41: a child is created at most once"
        kin = self.kin[run_id] = Kin(run_id, Plan(definition, Defaults(retries=0, crash_limit=1000), shape(definition.body)), parent)
        deadline = None if definition.deadline is None else self.now + definition.deadline
        created = RunCreated(definition.name, definition.version, kin.plan.shape, "{}", {}, deadline, parent)
        kin.state, decision = create(kin.plan, created, self._moment(kin, halt=True))
        kin.state.settle()
        kin.rows.append((self.now, *encode_row(decision.records)))

    def _next_thing(self, kin: Kin) -> Callable[[], None] | None:
        state = kin.state
        unseen = kin.inbox_seq > kin.seen
        due = outstanding(state, self.now)
        timely = due.wake_at is not None and due.wake_at <= self.now
        if not kin.held:
            return (lambda: self._claim(kin)) if unseen or state.calls or timely or state.blocked else None
        if unseen:
            return lambda: self.commit(kin)
        if state.ended is not None:
            return None
        for st in due.calls:
            if st.path not in kin.finish:
                kin.finish[st.path] = self.now + self._does(kin, st).took * SECOND
        return self._outcome(kin, due.interrupt) or self._of_itself(kin, timely)

    def _outcome(self, kin: Kin, interrupt: list[StepState]) -> Callable[[], None] | None:
        state = kin.state
        for st in [*interrupt, *[st for st in state.calls.values() if state.is_stopped(st.path) and not st.node.sheltered]]:
            cause: Any = "stopped" if st not in interrupt else "deadline" if state.cancel is None else "cancelled"
            return lambda: self.commit(kin, Cut(st.path, st.attempt, cause))
        for st in state.calls.values():
            if kin.finish[st.path] <= self.now:
                return lambda: self.commit(kin, self._does(kin, st).command(st))
        return None

    def _of_itself(self, kin: Kin, timely: bool) -> Callable[[], None] | None:
        if kin.state.blocked is not None:
            return lambda: self._resolve(kin)
        return (lambda: self.commit(kin, Tick(), moves=True)) if timely else None

    def _claim(self, kin: Kin) -> None:
        kin.held = True
        for path in kin.state.calls:
            kin.notes[path].add("doubt")
        self.commit(kin, Lost(), Arrived(tuple(kin.inbox)), Advance())

    def _resolve(self, kin: Kin) -> None:
        blocked = kin.state.blocked
        assert blocked is not None
        kin.resolved = True
        if blocked.reason == "DeadlineExceeded":
            return self.commit(kin, Unblock())
        count = self.asked[kin.run_id] = self.asked.get(kin.run_id, -1) + 1
        way = self.story.ways[count] if count < len(self.story.ways) else "skip"
        self.commit(kin, Resolve(blocked.path, way, '"by hand"' if way == "done" else None, "ana", "why"))

    def _does(self, kin: Kin, st: StepState) -> Does:
        lines = self.story.script.get((kin.plan.definition.name, pattern(base_path(st.path)) + st.path[len(base_path(st.path)) :]), ())
        used = kin.raised.get(st.path, 0)
        return lines[used] if used < len(lines) else Does()

    def _receive(self) -> None:
        calls = self.story.calls
        while self.called < len(calls) and T0 + calls[self.called].after * SECOND <= self.now:
            call = calls[self.called]
            self.called += 1
            kin = list(self.kin.values())[call.whose % len(self.kin)]
            if kin.state.ended is None:
                kin.post("cancel", "", f"{int(call.compensate)}{int(call.interrupt)}", self.now)

    def _pass_time(self) -> bool:
        times = [T0 + call.after * SECOND for call in self.story.calls[self.called : self.called + 1]]
        for kin in self.kin.values():
            wake_at = outstanding(kin.state, self.now).wake_at
            times += [*kin.finish.values()] if kin.held else []
            times += [wake_at] if wake_at is not None else []
        later = [at for at in times if at > self.now]
        if later:
            self.now = min(later)
        return bool(later)

    # --- a commit

    def commit(self, kin: Kin, *commands: Command, moves: bool = False) -> None:
        """Decide and write, all of it or nothing."""
        crash = self.story.crashes.get(self.turns)
        self.turns += 1
        before = freeze(kin.state)
        over = {path: st.attempt for path, st in kin.state.calls.items()}
        decision = decide(kin.state, commands, self._moment(kin))
        while unseen := tuple(posting for posting in kin.inbox if posting.seq > kin.known):
            kin.state.rollback()
            assert freeze(kin.state) == before, "a refused decision leaves no trace"
            kin.known = kin.inbox_seq
            commands = (*commands, Arrived(unseen))
            decision = decide(kin.state, commands, self._moment(kin))
        assert decision.records or not moves, "I15, I17: woken for nothing, and woken again"
        if crash == "before":
            return kin.drop()
        kin.state.settle()
        kin.seen = kin.inbox_seq
        kin.inbox = [posting for posting in kin.inbox if posting.seq not in decision.consumed]
        self._write(kin, decision.records, decision.children, decision.tells)
        kin.finish = {path: at for path, at in kin.finish.items() if over.get(path) == _attempt(kin.state, path)}
        self._hold_to_the_laws(kin, commands)
        if crash == "after":
            kin.drop()
        elif crash == "all":
            for one in self.kin.values():
                one.drop()

    def _write(self, kin: Kin, records: list[Record], children: Iterable[Any], tells: Iterable[Tell]) -> None:
        if records:
            kin.rows.append((self.now, *encode_row(records)))
        for record in records:
            self._witness(kin, record)
        for one in children:
            self._make(one.run_id, one.definition, kin.run_id)
        for tell in tells:
            payload = f"{int(tell.compensate)}{int(tell.interrupt)}" if tell.kind == "cancel" else ""
            self.kin[tell.run_id].post(tell.kind, "", payload, self.now)
        if kin.parent and kin.state.ended is not None and any(isinstance(record, ENDS) for record in records):
            text = kin.state.ended.value + ("" if kin.clean else " dirty")
            self.kin[kin.parent].post("child", kin.run_id, text, self.now)

    # --- what the machine may know

    def _moment(self, kin: Kin, halt: bool = False) -> Moment:
        def ask(node: Node, path: str, question: str, about: Any = None) -> Any:
            return self._ask(kin, node, path, question)

        return Moment(self.now, lambda: DRAW, ask, read_cancel, read_child, halt, alone=True)

    def _ask(self, kin: Kin, node: Node, path: str, question: str) -> Any:
        if question == "child":
            assert node.step.child is not None
            return Born(newborn(kin.state, path).run_id.replace(ROOT, kin.run_id, 1), node.step.child)
        name = {"when": "when", "until": "compute", "route": "selector", "items": "items", "go_on": "go_on", "stop": "stop"}[question]
        value = getattr(node.step, name).value
        if question in ("go_on", "stop"):
            turn = int(path.rpartition("[")[2].rstrip("]"))
            value = None if value == -turn else (turn <= value if question == "go_on" else turn >= value)
        if value is None:
            return Failure("builtins:KeyError", f"the {question} of {pattern(path)} raised")
        return self.now + value * SECOND if question == "until" else value

    # --- what an observer sees

    def _witness(self, kin: Kin, record: Any) -> None:
        path = getattr(record, "path", "")
        if isinstance(record, StepStarted):
            kin.notes.setdefault(path, set())
        elif isinstance(record, ChildStarted):
            kin.notes[path] = set()  # of another one before, nothing can be undone
            kin.effects[path] = 0
        if isinstance(record, AttemptFailed) or (isinstance(record, StepFailed) and record.attempt):
            kin.raised[path] = kin.raised.get(path, 0) + 1
            kin.notes[path].add("raised")
        if getattr(record, "doubt", False) or isinstance(record, AttemptLost | AttemptCut):
            kin.notes[path].add("doubt")
        if _did(record):
            self._done(kin, path)
        elif isinstance(record, UnwindStarted) and record.compensate:
            self._way_down(kin)

    def _done(self, kin: Kin, path: str) -> None:
        base = base_path(path)
        if path.endswith(PROBE):
            return
        if path == base:
            kin.notes[path].add("returned")
            assert not kin.effects.get(path) or kin.state.generation, "done twice"
            kin.effects[path] = 1
        else:
            assert kin.notes[base], "I30: there was nothing to undo"
            kin.notes[base].clear()
            kin.effects[base] = 0

    def _way_down(self, kin: Kin) -> None:
        steps = by_pattern(kin.plan.definition.body)
        right = [path for path, notes in kin.notes.items() if "!" not in path and _is_owed(steps[pattern(path)], notes)]
        found = list(kin.state.undo)
        assert set(found) == set(right), "I30: exactly the right set"
        if not kin.resolved:
            assert found == [path for path in reversed(kin.state.steps) if path in right], "I31: the last that began first"

    # --- the laws

    def _hold_to_the_laws(self, kin: Kin, commands: tuple[Command, ...]) -> None:
        state = kin.state
        assert freeze(fold(kin.plan, kin.journal())) == freeze(state), "I8"
        again = tuple(command for command in commands if not isinstance(command, Lost | Resolve | Unblock | Reopen))
        before = freeze(state)
        decision = decide(state, again, self._moment(kin))
        assert (decision.records, decision.tells, decision.children) == ([], (), ()), "repeated"
        state.rollback()
        assert freeze(state) == before
        self._no_limbo(kin)
        if state.ended is not None:
            assert not (state.children or state.calls or state.stopping or state.descending)
            assert all(one.state.ended is not None for one in self.kin.values() if one.parent == kin.run_id), "before its children"
        elif kin.parent:
            assert self.kin[kin.parent].state.ended is None, "after its parent"

    def _no_limbo(self, kin: Kin) -> None:
        state = kin.state
        for path, run_id in state.children.items():
            child = self.kin[run_id]
            coming = child.state.ended is None or any(post.kind == "child" and post.name == run_id for post in kin.inbox)
            assert coming or any(post.kind == "unwind" for post in child.inbox), f"I15: nobody answers at {path}"
        if state.ended is not None or state.blocked is not None:
            return
        timers = [st for st in state.parked.values() if st.due_at is not None]
        alive = state.deadline_at is not None and state.unwinding is None
        if state.children and not (state.calls or state.waits):
            resting = state.descending or not (timers or alive or state.due)
            assert (state.wake_at is None) == resting, "D17: it waits for its children, and for nothing else"
        elif not state.children and not state.waits:
            assert state.wake_at is not None, "I15: no limbo"


@dataclass
class Born:
    """A child that is to be."""

    run_id: str
    definition: Definition


def _did(record: Record) -> bool:
    """Whether a step is done with this record, or undone."""
    if isinstance(record, ChildEnded):
        return record.status == ("cancelled" if record.path.endswith(UNDO) else "completed")
    return isinstance(record, StepCompleted) or (isinstance(record, StepResolved) and record.way == "done" and UNDO in record.path)


def _attempt(state: RunState, path: str) -> int | None:
    st = state.calls.get(path)
    return None if st is None else st.attempt


def _is_owed(step: Step, notes: set[str]) -> bool:
    if step.child is not None:
        return "returned" in notes and can_be_undone(step.child.body)
    return owed(step, notes)


def settled(family: Family) -> None:
    """What holds of every family that has come to rest: all have ended, and each way down has left what it should."""
    for kin in family.kin.values():
        assert kin.state.ended is not None, f"I15: {kin.run_id} is {kin.state.status.value}"
        parent = family.kin.get(kin.parent)
        if kin.state.ended is RunStatus.COMPLETED and parent is not None and parent.state.pivot is None:
            unwinding = parent.state.unwinding
            path = next((path for path, st in parent.state.steps.items() if st.child == kin.run_id and "!" not in path), "")
            undo = parent.state.steps.get(undo_path(path))
            if path and unwinding is not None and unwinding.compensate and can_be_undone(kin.plan.definition.body):
                assert kin.state.pivot is not None or (undo is not None and undo.status is StepStatus.FAILED), "S10.5: left as it was"
        if kin.state.unwinding is not None and kin.state.unwinding.compensate:
            steps = by_pattern(kin.plan.definition.body)
            for path, count in kin.effects.items():
                undo = kin.state.steps.get(undo_path(path))
                failed = undo is not None and undo.status is StepStatus.FAILED
                can = steps[pattern(path)].compensate is not None
                assert not (count and can and not failed), f"I30: {path} of {kin.run_id} was not undone"


def reopened(family: Family) -> int:
    """How many children were undone after they had completed."""
    return sum(isinstance(record, Reopened) for kin in family.kin.values() for _, row in kin.journal() for record in row)

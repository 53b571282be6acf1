"""A small synchronous world around the pure core: a store of rows and postings, a clock, handlers that follow a script, and
faults. It turns the loop that an engine turns, and after every commit it holds the core to its laws.

Time is virtual and counts in microseconds; every run begins at `T0`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from flux.core.actions import outstanding
from flux.core.children import number_of_child
from flux.core.commands import (
    Advance,
    Answered,
    Arrived,
    Block,
    Command,
    Cut,
    Lost,
    Migrate,
    Posting,
    Postpone,
    Raised,
    Released,
    Reopen,
    Resolve,
    Returned,
    Suspended,
    Tick,
    Unblock,
)
from flux.core.decision import Word
from flux.core.evolve import apply_row, fold
from flux.core.failure import Failure
from flux.core.machine import UNDECIDED, Moment, create, decide
from flux.core.plan import PROBE, UNDO, Defaults, Node, Plan, base_path
from flux.core.records import (
    AttemptFailed,
    CancelRequested,
    Record,
    RunCreated,
    StepCompleted,
    StepFailed,
    StepProbed,
    StepResolved,
    StepStarted,
    UnwindStarted,
)
from flux.core.retry import SECOND, SUSPECT
from flux.core.state import Frame, Inside, RunState, Scope, StepState
from flux.core.status import RunStatus
from flux.core.stride import set_out, stride, take
from flux.core.workflow import Definition, Kind, Step, shape
from flux.errors import InvalidArgument, PastPivot
from flux.journal import decode_row, encode_row

T0 = 1_000_000 * SECOND
DRAW = 0.5  # every random draw of this world
TURNS = 3000  # more than any scripted run can take

NOTES = {"returns": ("returned",), "waits": ("returned",), "raises": ("raised",), "gives up": ("raised",), "overruns": ("raised", "doubt")}
NOTES |= {"nothing": ()}
LATER = 5 * SECOND  # until a suspect that found no quiet worker tries again

PATIENT = Defaults(retries=0, crash_limit=1000)

Fault = Literal["before", "after", "release", "drain", "shutdown", "block"]


def handler(ctx: Any) -> None:
    """Stands in for a user's handler; what it does is in the script."""


@dataclass(frozen=True)
class Answer:
    """Stands in for a `when` or a sleep's `compute`: a bool, seconds after T0, or None for 'it raises'."""

    value: Any

    def __call__(self, ctx: Any) -> Any:
        raise AssertionError("the world answers for it")


def step(name: str, **kwargs: Any) -> Step:
    """A step with a handler."""
    return Step(name, kwargs.pop("kind", Kind.STEP), handler, **kwargs)


def commit(name: str, **kwargs: Any) -> Step:
    """A commit step."""
    return Step(name, Kind.COMMIT, handler, **kwargs)


def wait(name: str, **kwargs: Any) -> Step:
    """A wait step."""
    return Step(name, Kind.WAIT, **kwargs)


def child(name: str, **kwargs: Any) -> Step:
    """A step that starts another run, which has something to undo; of which workflow is the engine's business."""
    return Step(name, Kind.CHILD, **{"compensate": handler, **kwargs})


@dataclass(slots=True)
class Newborn:
    """A run that is to be a child."""

    run_id: str


def newborn(state: RunState, path: str) -> Newborn:
    """The child that the step at `path` starts next."""
    return Newborn(f"me~{path}~{number_of_child(state, path)}")


def sleep(name: str, **kwargs: Any) -> Step:
    """A sleep step."""
    return Step(name, Kind.SLEEP, **kwargs)


def result_of(path: str) -> str:
    """What the handler at this path returns, encoded."""
    return f'"{path}"'


@dataclass(frozen=True)
class Does:
    """What one call of a handler does, and how many seconds it takes."""

    what: Literal["returns", "raises", "gives up", "overruns", "waits", "nothing"] = "returns"
    took: int = 0
    changes: dict[str, str | None] | None = None
    delay: int | None = None
    signal: str = ""
    timeout: int | None = None
    default: str | None = None

    def command(self, st: StepState) -> Command:
        """The outcome as the machine hears it."""
        result = result_of(st.path)
        if st.node.probes is not None and self.what in ("returns", "nothing"):
            return Answered(st.path, st.attempt, result_of(base_path(st.path)) if self.what == "returns" else None)
        if self.what == "returns":
            return Returned(st.path, st.attempt, result, self.changes)
        if self.what == "waits":
            return Suspended(st.path, st.attempt, self.signal, self.timeout, self.default, self.changes)
        if self.what == "overruns":
            failure = Failure.of("StepTimeout", f"{st.path} overran")
            return Raised(st.path, st.attempt, failure, doubt=True)
        failure = Failure("builtins:ValueError", f"{st.path} raised", '["why"]', cause=Failure.of("StepError", "deeper"))
        return Raised(st.path, st.attempt, failure, self.what == "raises", self.delay)


@dataclass(frozen=True)
class Mail:
    """A posting that arrives `after` seconds."""

    after: int
    name: str = ""  # of the signal; '' is a cancel
    interrupt: bool = False
    compensate: bool = True


@dataclass(frozen=True)
class Act:
    """What a person does when the run has ended, or is blocked. `path`: the retry's from_step, '' for none."""

    what: Literal["retry", "replay", "resolve"]
    path: str = ""
    way: Literal["retry", "skip", "done"] = "retry"


@dataclass(frozen=True)
class Case:
    """A workflow and everything that will happen to its run."""

    definition: Definition
    script: dict[str, tuple[Does, ...]] = field(default_factory=dict)
    mail: tuple[Mail, ...] = ()
    faults: dict[int, Fault] = field(default_factory=dict)
    defaults: Defaults = PATIENT
    eager: bool = False  # the holder hears of postings while a handler runs, and not only at its next commit
    unblocks: int = 20  # how often somebody unblocks the run
    acts: tuple[Act, ...] = ()  # one by one, whenever the run rests

    @property
    def plan(self) -> Plan:
        """The workflow made ready."""
        return Plan(self.definition, self.defaults, shape(self.definition.body))


@dataclass
class Store:
    """What survives a crash, and the world outside."""

    now: int = T0
    rows: list[tuple[int, str, str]] = field(default_factory=list)  # (at, control, payload)
    inbox: list[Posting] = field(default_factory=list)  # not taken yet
    inbox_seq: int = 0
    mailed: int = 0
    # what an observer outside saw
    calls: list[tuple[str, int]] = field(default_factory=list)  # handlers called: (path, attempt)
    seen: dict[str, set[str]] = field(default_factory=dict)  # path -> what its attempts came to, where recorded
    running: set[str] = field(default_factory=set)  # attempts recorded as started, with no outcome recorded
    unblocked: int = 0
    acted: int = 0  # of the case's acts, how many are over
    accepted: list[str] = field(default_factory=list)  # names of the postings
    raised: dict[str, int] = field(default_factory=dict)  # path -> lines of its script that are used up
    outside: set[str] = field(default_factory=set)  # paths whose handler has returned: what a probe finds
    unwindings: list[list[str]] = field(default_factory=list)  # what each way down has to undo, in order

    def copy(self) -> Store:
        """An independent copy."""
        return replace(
            self, rows=list(self.rows), inbox=list(self.inbox), calls=list(self.calls),
            seen={path: set(notes) for path, notes in self.seen.items()}, running=set(self.running),
            accepted=list(self.accepted), raised=dict(self.raised), outside=set(self.outside), unwindings=list(self.unwindings),
        )  # fmt: skip

    def journal(self) -> list[tuple[int, tuple[Record, ...]]]:
        """The rows, read back."""
        return [(at, decode_row(control, payload)) for at, control, payload in self.rows]


class Crashed(Exception):
    """The process of this world is gone."""


class World:
    """One run and its holder. `run()` turns the loop until the run rests."""

    def __init__(self, case: Case, store: Store | None = None) -> None:
        self.case = case
        self.plan = case.plan
        self.store = store or Store()
        self.turns = 0
        self.strides = 0  # commits of the common case
        self.set_out = False  # its beginning was one, too
        self.known = 0  # the inbox_seq that the holder has seen
        self.finish: dict[str, int] = {}  # attempts being performed: when they end
        self.snapshots: list[Store] = []  # after every commit
        self.asked: list[str] = []
        self.fault: Fault | None = None  # the one of this turn
        self.draws = 0
        self.acting = False  # this commit is a person's act
        self.alone = False
        self.postponed: set[str] = set()
        self.state = RunState(self.plan)
        self.shadow = RunState(self.plan)  # folded from the rows alone
        if store is None:
            self._create()
        else:
            self._load()

    # --- the life of a holder

    def run(self) -> World:
        """Until nothing is outstanding, or only a signal that does not come."""
        while True:
            try:
                while self.turn():
                    assert self.turns < TURNS, "the run does not come to rest"
                return self
            except Crashed:
                self._recover()

    def _recover(self) -> None:
        while True:
            try:
                return self._load()
            except Crashed:
                pass

    def _create(self) -> None:
        definition = self.case.definition
        deadline = None if definition.deadline is None else T0 + definition.deadline
        created = RunCreated(definition.name, definition.version, self.plan.shape, "{}", {"k": "0"}, deadline)
        self.state, decision = create(self.plan, created, self._moment())
        self._append(decision.records)
        self.state.settle()
        self._begin_briefly(created, decision.records)
        self._hold_to_the_laws()

    def _begin_briefly(self, created: RunCreated, records: list[Record]) -> None:
        """The common case comes to the same as the general way (stride.py)."""
        begun = set_out(self.plan, created, self.store.now)
        if begun is None:
            return
        state, same = begun
        assert not state.log and vars(state).keys() == vars(self.state).keys()
        assert (list(same), freeze(state), list(state.data)) == (records, freeze(self.state), list(self.state.data))
        self.set_out = True

    def _load(self) -> None:
        """A new holder takes the run over."""
        self.finish.clear()
        self.state = fold(self.plan, self.store.journal())
        self.shadow = fold(self.plan, self.store.journal())
        self.known = self.store.inbox_seq
        assert set(self.state.calls) == self.store.running
        for path in self.store.running:
            self._note(path, "doubt")
        moved: tuple[Command, ...] = (Migrate(),) if self.state.version != self.case.definition.version else ()
        self.commit(*moved, Lost(), Arrived(tuple(self.store.inbox)), Advance(), over=set(self.state.calls))

    # --- one turn of the loop

    def turn(self) -> bool:
        """Do the next thing; False when there is none."""
        self._receive()
        state = self.state
        if state.ended is not None:
            return self._act()
        due = outstanding(state, self.store.now)
        assert not any(st.node.sheltered for st in due.interrupt), "S9.1: commit steps are not interrupted"
        if self.store.inbox_seq > self.known and (self.case.eager or not due.calls):
            self.commit()
        elif due.interrupt:
            self._cut(due.interrupt[0])
        elif due.calls:
            self._perform(due.calls[0])
        elif state.blocked is not None:
            return self._blocked()
        elif suspect := self._suspect():
            self._isolate(suspect)
        elif due.wake_at is not None and due.wake_at <= self.store.now:
            self.commit(Tick())
        else:
            return self._pass_time(due.wake_at)
        return True

    def _receive(self) -> None:
        """Postings that have arrived by now are accepted by the store."""
        store = self.store
        while store.mailed < len(self.case.mail) and T0 + self.case.mail[store.mailed].after * SECOND <= store.now:
            mail = self.case.mail[store.mailed]
            store.mailed += 1
            if self.state.ended is None:
                store.inbox_seq += 1
                store.inbox.append(_posting(store.inbox_seq, mail))
                store.accepted.append(mail.name)

    def _next_mail(self) -> int | None:
        mail = self.case.mail[self.store.mailed : self.store.mailed + 1]
        return T0 + mail[0].after * SECOND if mail else None

    def _pass_time(self, until: int | None) -> bool:
        times = [at for at in (until, self._next_mail()) if at is not None]
        if not times:
            return False
        assert min(times) > self.store.now
        self.store.now = min(times)
        return True

    def _perform(self, st: StepState) -> None:
        does = self.does(st)
        if st.path not in self.finish:
            self.store.calls.append((st.path, st.attempt))
            self.finish[st.path] = self.store.now + does.took * SECOND
        end = self.finish[st.path]
        deadline = self.state.deadline_at
        stops = [end]
        if (mail := self._next_mail()) is not None:
            stops.append(mail)
        if deadline is not None and deadline > self.store.now and not st.node.sheltered:
            stops.append(deadline)
        self.store.now = max(self.store.now, min(stops))
        if self.store.now < end:
            return
        self._receive()
        del self.finish[st.path]
        if st.node.probes is None and does.what in ("returns", "waits"):
            self.store.outside.add(st.path)
        self.commit(does.command(st), over=(st.path,), notes=NOTES[does.what])

    def does(self, st: StepState) -> Does:
        """The script's line for this attempt; attempts lost, cut or released do not use one up."""
        lines = self.case.script.get(st.path, ())
        used = self.store.raised.get(st.path, 0)
        if used < len(lines):
            return lines[used]
        if st.node.probes is not None and base_path(st.path) not in self.store.outside:
            return Does("nothing")
        return Does()

    def _cut(self, st: StepState) -> None:
        cancel = self.state.cancel
        cause: Literal["cancelled", "deadline"] = "cancelled" if cancel is not None and cancel.interrupt else "deadline"
        self._receive()
        self.finish.pop(st.path, None)
        self.commit(Cut(st.path, st.attempt, cause), over=(st.path,), notes=("doubt",))

    def _blocked(self) -> bool:
        blocked = self.state.blocked
        if self._act():
            return True
        if blocked is not None and blocked.reason not in UNDECIDED and self.store.unblocked < self.case.unblocks:
            self.store.unblocked += 1
            self.commit(Unblock())
            return True
        return self._pass_time(None)

    def _suspect(self) -> StepState | None:
        """A step that is due and may start only where it is alone (D11)."""
        now = self.store.now
        due = [st for st in self.state.parked.values() if st.lost >= SUSPECT and st.due_at is not None and st.due_at <= now]
        return due[0] if due else None

    def _isolate(self, suspect: StepState) -> None:
        """First there is no quiet worker, then there is."""
        if suspect.path not in self.postponed:
            self.postponed.add(suspect.path)
            self.commit(Postpone(suspect.path, LATER))
            return
        self.alone = True
        try:
            self.commit(Tick())
        finally:
            self.alone = False

    def _act(self) -> bool:
        """The next thing that a person does with a run that rests; what the machine refuses leaves no trace."""
        store = self.store
        while store.acted < len(self.case.acts):
            command = self._choose(self.case.acts[store.acted])
            if command is not None:
                before = freeze(self.state)
                self.acting = True
                try:
                    self.commit(command)
                    return True
                except (InvalidArgument, PastPivot):
                    assert freeze(self.state) == before, "what is refused leaves no trace"
                    assert not self.state.log
                finally:
                    self.acting = False
            store.acted += 1
        return False

    def _choose(self, act: Act) -> Command | None:
        """What callers may ask for in this state; the engine refuses the rest."""
        state = self.state
        if act.what == "replay":
            return None if state.ended is None else Reopen("replay", "", "ana", "again")
        if state.ended is RunStatus.COMPLETED:
            return None
        if state.ended is not None:
            return Reopen("retry", act.path, "ana", "again") if act.what == "retry" else None
        blocked = state.blocked
        if blocked is None:
            return None
        if act.what == "retry" and act.path:
            return None if state.unwinding is not None or state.replay is not None else Reopen("retry", act.path, "ana", "again")
        if base_path(blocked.path) not in state.steps:
            return None
        path = base_path(blocked.path) if blocked.path.endswith(PROBE) else blocked.path
        way = act.way if act.what == "resolve" else "retry"
        return Resolve(path, way, f'"done {path}"' if way == "done" else None, "ana", "why")

    # --- commit, or not

    def commit(self, *commands: Command, over: Iterable[str] = (), notes: Iterable[str] = (), halt: bool = False) -> None:
        """Decide, let the store refuse what did not see its inbox, and write. Faults strike here.

        `over`: the paths whose attempts these commands end; `notes`: what those came to.
        """
        self.fault = self.case.faults.get(self.turns)
        self.turns += 1
        halt = halt or self.fault in ("drain", "shutdown")
        self._receive()
        records, consumed, said = self._decide(commands, halt)
        assert not (halt and any(isinstance(record, StepStarted) for record in records)), "a halted run starts nothing"
        if self.fault == "before":
            raise Crashed
        for path in over:
            self.store.running.discard(path)
            for note in notes:
                self._note(path, note)
        store = self.store
        store.inbox = [posting for posting in store.inbox if posting.seq not in consumed]
        self._append(records)
        if self.acting and not records:
            store.acted += 1
        self.acting = False
        self.state.settle()
        self._hold_to_the_laws()
        self._repeat(said, halt)
        if self.fault == "after":
            raise Crashed
        self._leave(self.fault)

    def _decide(self, commands: tuple[Command, ...], halt: bool) -> tuple[list[Record], list[int], tuple[Command, ...]]:
        store = self.store
        before = freeze(self.state)
        if len(commands) == 1 and all(posting.seq <= self.known for posting in store.inbox):
            records = self._briefly(commands[0], halt)
            if records is not None:
                return records, [], commands
        while True:
            decision = decide(self.state, commands, self._moment(halt))
            unseen = tuple(posting for posting in store.inbox if posting.seq > self.known)
            if not unseen:
                return decision.records, decision.consumed, commands
            self.state.rollback()
            assert freeze(self.state) == before, "a refused decision leaves no trace"
            self.known = store.inbox_seq
            commands = (*commands, Arrived(unseen))

    def _briefly(self, command: Command, halt: bool) -> list[Record] | None:
        """The common case, decided and done in one go, comes to the same as the general way (stride.py)."""
        if not isinstance(command, Returned) or halt:
            return None
        records = stride(self.state, command, self.store.now)
        if records is None:
            return None
        decision = decide(self.state, (command,), self._moment(halt))
        general = (decision.records, decision.consumed, freeze(self.state), list(self.state.data), list(self.state.steps))
        self.state.rollback()
        self.state.data = {key: self.state.data[key] for key in self.shadow.data}  # the order of keys is not taken back
        take(self.state, command, self.store.now)
        assert not self.state.log
        assert (list(records), [], freeze(self.state), list(self.state.data), list(self.state.steps)) == general
        self.strides += 1
        return list(records)

    def _append(self, records: list[Record]) -> None:
        if not records:
            return
        store = self.store
        control, payload = encode_row(records)
        store.rows.append((store.now, control, payload))
        apply_row(self.shadow, store.now, decode_row(control, payload))
        store.running.update(record.path for record in records if isinstance(record, StepStarted))
        for record in records:
            self._witness(record)
        if self.acting:
            store.acted += 1
        self.snapshots.append(store.copy())

    def _witness(self, record: Record) -> None:
        """What an observer makes of one record: which effects there are that nobody has undone."""
        store = self.store
        if isinstance(record, StepStarted):
            store.seen.setdefault(record.path, set())
        elif isinstance(record, AttemptFailed) or (isinstance(record, StepFailed) and record.attempt):
            store.raised[record.path] = store.raised.get(record.path, 0) + 1
        elif isinstance(record, StepCompleted) and record.path.endswith(UNDO):
            self._undone(record.path)
        elif isinstance(record, StepProbed):
            notes = store.seen[record.path]
            notes.discard("doubt")
            notes.add("raised" if record.result is None else "returned")
            store.running.discard(record.path + PROBE)
        elif isinstance(record, StepResolved) and record.way == "done":
            self._undone(record.path) if record.path.endswith(UNDO) else self._note(record.path, "returned")
        elif isinstance(record, UnwindStarted):
            store.unwindings.append(owed_now(self.case.definition.steps, store.seen) if record.compensate else [])

    def _undone(self, path: str) -> None:
        self.store.seen[base_path(path)].clear()
        self.store.outside.discard(base_path(path))

    def _leave(self, fault: Fault | None) -> None:
        """The holder gives the run back in good order, or somebody parks it."""
        if fault == "block":
            self.commit(Block("DefinitionChanged", "the code has changed"))
        elif fault in ("release", "drain", "shutdown"):
            state = self.state
            for st in list(state.calls.values()):
                if st.path in self.finish or fault == "shutdown":
                    self.finish.pop(st.path, None)
                    self.commit(Cut(st.path, st.attempt, "shutdown"), over=(st.path,), notes=("doubt",), halt=True)
                else:
                    self.commit(Released(st.path, st.attempt), over=(st.path,), halt=True)
                if self.state is not state:
                    return  # it met a fault while it left, and the next holder is here already
            assert not state.calls, "a halted run starts nothing"
            self._load()

    def _note(self, path: str, note: str) -> None:
        self.store.seen.setdefault(path, set()).add(note)

    # --- what the machine may know

    def _moment(self, halt: bool = False) -> Moment:
        return Moment(self.store.now, self._draw, self._ask, read_cancel, read_child, halt, self.alone)

    def _draw(self) -> float:
        self.draws += 1
        return DRAW

    def _ask(self, node: Node, path: str, question: str) -> Any:
        assert path not in self.state.steps, "S6.1, I35: what is recorded is not asked again"
        self.asked.append(path)
        answer = node.when if question == "when" else node.step.compute
        assert isinstance(answer, Answer)
        if answer.value is None:
            return Failure("builtins:KeyError", f"the {question} of {path} raised")
        return answer.value if question == "when" else T0 + answer.value * SECOND

    # --- the laws that hold after every commit

    def _hold_to_the_laws(self) -> None:
        state, shadow = self.state, self.shadow
        assert state.facts() == shadow.facts(), "I8: state is the fold of the journal"
        assert freeze(state) == freeze(shadow)
        assert list(state.data) == list(shadow.data), "a handler sees its keys in one order"
        for group in (state.calls, state.parked):
            assert all(st is state.steps[path] for path, st in group.items())
        assert all(frame is state.frames[prefix] for prefix, frame in state.due.items())
        assert set(state.calls) == self.store.running
        moving = state.ended is None and state.blocked is None
        if moving:
            timer = state.wake_at is not None and (state.parked or state.deadline_at is not None or state.undo or state.replay is not None)
            assert state.calls or state.due or state.waits or timer, "S2.3, I15: no limbo"
        else:
            assert state.wake_at is None
        if state.status is RunStatus.PENDING:
            assert not state.steps
        if state.blocked is None:
            kept = {posting.name for posting in self.store.inbox if posting.kind == "signal"}
            assert not kept & set(state.waits), "S7.2, I25: a kept signal is taken"

    def _repeat(self, commands: tuple[Command, ...], halt: bool) -> None:
        """The same commands once more say nothing, now that they are recorded."""
        other = Lost | Block | Postpone | Reopen | Resolve | Migrate
        if self.state.blocked is not None:
            other |= Unblock  # it is blocked again, for another reason: who resumes it once more lifts that
        again = tuple(command for command in commands if not isinstance(command, other))
        before = freeze(self.state)
        decision = decide(self.state, again, self._moment(halt))
        assert (decision.records, decision.consumed) == ([], []), f"repeated: {again} gave {decision}"
        self.state.rollback()
        assert freeze(self.state) == before


def steps_by_path(steps: tuple[Step, ...], prefix: str = "") -> dict[str, Step]:
    """Every step at any depth, by its path, in the order in which they follow one another."""
    found: dict[str, Step] = {}
    for one in steps:
        path = prefix + one.name
        found[path] = one
        if one.on_timeout is not None:
            found |= steps_by_path(one.on_timeout.steps, f"{path}/" if one.on_timeout.single else f"{path}/on_timeout/")
    return found


def owed_now(steps: tuple[Step, ...], seen: dict[str, set[str]]) -> list[str]:
    """The compensations that are due, in order: S10.4, from what the attempts of each step came to since it was last undone."""
    return [path for path, one in reversed(steps_by_path(steps).items()) if owed(one, seen.get(path, set()))]


def owed(one: Step, notes: set[str]) -> bool:
    """Whether a step with these notes is to be undone."""
    if one.compensate is None:
        return False
    if "returned" in notes:
        return True
    if one.compensate_when == "started":
        return bool(notes)
    return "doubt" in notes and (one.compensate_when == "in_doubt" or one.on_unknown == "compensate")


def _posting(seq: int, mail: Mail) -> Posting:
    if mail.name:
        return Posting(seq, "signal", mail.name, f'{{"seq":{seq}}}', f"id-{seq}")
    return Posting(seq, "cancel", "", f"{int(mail.compensate)}{int(mail.interrupt)}")


def read_child(posting: Posting) -> Word:
    """The end of a child, from the payload of a posting of these tests: its status, and whether all is undone."""
    status, _, dirty = posting.payload.partition(" ")
    failure = None if status == "completed" else Failure("builtins:ValueError", f"child {status}")
    return status, f'"{posting.name}"' if status == "completed" else None, failure, not dirty  # type: ignore[return-value]


def read_cancel(posting: Posting) -> CancelRequested:
    """A cancel's request, as this world writes it."""
    return CancelRequested(posting.seq, "enough", posting.payload[0] == "1", posting.payload[1] == "1")


def freeze(value: Any) -> Any:
    """A value that later changes in place do not reach; of a state, all but its log and the storage's part."""
    if isinstance(value, RunState):
        return [freeze(fact) for fact in value.facts()], list(value.steps)
    if isinstance(value, StepState):
        return value.path, value.node.name, [freeze(one) for one in value.saved()]
    if isinstance(value, Frame):
        return value.key, value.owner, value.cursor, [node.name for node in value.steps.nodes], freeze(value.scope)
    if isinstance(value, Scope):
        return freeze(value.outer), dict(value.changes)
    if isinstance(value, Inside):
        return [freeze(getattr(value, one.name)) for one in fields(value)]
    if isinstance(value, dict):
        return {key: freeze(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [freeze(one) for one in value]
    return value

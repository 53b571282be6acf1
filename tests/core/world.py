"""A small synchronous world around the pure core: a store of rows and postings, a clock, handlers that follow a script, and
faults. It turns the loop that an engine turns, and after every commit it holds the core to its laws.

Time is virtual and counts in microseconds; every run begins at `T0`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flux.core.actions import outstanding
from flux.core.commands import Advance, Arrived, Block, Command, Cut, Lost, Posting, Raised, Released, Returned, Suspended, Tick, Unblock
from flux.core.failure import Failure
from flux.core.machine import Moment, create, decide
from flux.core.plan import Defaults, Node, Plan
from flux.core.records import CancelRequested, Record, RunCreated, StepStarted
from flux.core.retry import SECOND
from flux.core.state import Frame, RunState, StepState, fold
from flux.core.status import RunStatus
from flux.core.workflow import Definition, Kind, Step, shape
from flux.journal import decode_row, encode_row

T0 = 1_000_000 * SECOND
DRAW = 0.5  # every random draw of this world
TURNS = 3000  # more than any scripted run can take

NOTES = {"returns": ("returned",), "waits": ("returned",), "raises": ("raised",), "gives up": ("raised",), "overruns": ("raised", "doubt")}

PATIENT = Defaults(retries=0, crash_limit=1000)

Fault = Literal["before", "after", "release", "drain", "shutdown", "block"]


def handler(ctx: Any) -> None:
    """Stands in for a user's handler; what it does is in the script."""


@dataclass(frozen=True)
class Answer:
    """Stands in for a `when` or a sleep's `compute`: a bool, seconds after T0, or None for 'it raises'."""

    value: bool | int | None

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


def sleep(name: str, **kwargs: Any) -> Step:
    """A sleep step."""
    return Step(name, Kind.SLEEP, **kwargs)


@dataclass(frozen=True)
class Does:
    """What one call of a handler does, and how many seconds it takes."""

    what: Literal["returns", "raises", "gives up", "overruns", "waits"] = "returns"
    took: int = 0
    changes: dict[str, str | None] | None = None
    delay: int | None = None
    signal: str = ""
    timeout: int | None = None
    default: str | None = None

    def command(self, st: StepState) -> Command:
        """The outcome as the machine hears it."""
        result = f'"{st.path}"'
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
class Case:
    """A workflow and everything that will happen to its run."""

    definition: Definition
    script: dict[str, tuple[Does, ...]] = field(default_factory=dict)
    mail: tuple[Mail, ...] = ()
    faults: dict[int, Fault] = field(default_factory=dict)
    defaults: Defaults = PATIENT
    eager: bool = False  # the holder hears of postings while a handler runs, and not only at its next commit
    unblocks: int = 20  # how often somebody unblocks the run

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

    def copy(self) -> Store:
        """An independent copy."""
        return replace(
            self, rows=list(self.rows), inbox=list(self.inbox), calls=list(self.calls),
            seen={path: set(notes) for path, notes in self.seen.items()}, running=set(self.running),
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
        self.known = 0  # the inbox_seq that the holder has seen
        self.finish: dict[str, int] = {}  # attempts being performed: when they end
        self.snapshots: list[Store] = []  # after every commit
        self.asked: list[str] = []
        self.fault: Fault | None = None  # the one of this turn
        self.draws = 0
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
        self._hold_to_the_laws()

    def _load(self) -> None:
        """A new holder takes the run over."""
        self.finish.clear()
        self.state = fold(self.plan, self.store.journal())
        self.shadow = fold(self.plan, self.store.journal())
        self.known = self.store.inbox_seq
        assert set(self.state.calls) == self.store.running
        for path in self.store.running:
            self._note(path, "doubt")
        self.commit(Lost(), Arrived(tuple(self.store.inbox)), Advance(), over=set(self.state.calls))

    # --- one turn of the loop

    def turn(self) -> bool:
        """Do the next thing; False when there is none."""
        self._receive()
        state = self.state
        if state.ended is not None:
            return False
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
        self.commit(does.command(st), over=(st.path,), notes=NOTES[does.what])

    def does(self, st: StepState) -> Does:
        """The script's line for this attempt; attempts lost, cut or released do not use one up."""
        lines = self.case.script.get(st.path, ())
        return lines[st.raised] if st.raised < len(lines) else Does()

    def _cut(self, st: StepState) -> None:
        cancel = self.state.cancel
        cause: Literal["cancelled", "deadline"] = "cancelled" if cancel is not None and cancel.interrupt else "deadline"
        self._receive()
        self.finish.pop(st.path, None)
        self.commit(Cut(st.path, st.attempt, cause), over=(st.path,), notes=("doubt",))

    def _blocked(self) -> bool:
        if self.store.unblocked < self.case.unblocks:
            self.store.unblocked += 1
            self.commit(Unblock())
            return True
        return self._pass_time(None)

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
        self.state.settle()
        self._hold_to_the_laws()
        self._repeat(said, halt)
        if self.fault == "after":
            raise Crashed
        self._leave(self.fault)

    def _decide(self, commands: tuple[Command, ...], halt: bool) -> tuple[list[Record], list[int], tuple[Command, ...]]:
        store = self.store
        before = freeze(self.state)
        self._general(commands, halt, before)
        while True:
            decision = decide(self.state, commands, self._moment(halt))
            unseen = tuple(posting for posting in store.inbox if posting.seq > self.known)
            if not unseen:
                return decision.records, decision.consumed, commands
            self.state.rollback()
            assert freeze(self.state) == before, "a refused decision leaves no trace"
            self.known = store.inbox_seq
            commands = (*commands, Arrived(unseen))

    def _general(self, commands: tuple[Command, ...], halt: bool, before: Any) -> None:
        """A command decided alone, which may take a shorter way, and one decided in company come to the same."""
        ends: list[Any] = []
        for together in (commands, (*commands, Advance())):
            decision = decide(self.state, together, self._moment(halt))
            ends.append((decision.records, decision.consumed, freeze(self.state), list(self.state.data)))
            self.state.rollback()
            assert freeze(self.state) == before, "a refused decision leaves no trace"
            self.state.data = {key: self.state.data[key] for key in self.shadow.data}  # the order of keys is not taken back
        assert ends[0] == ends[1]

    def _append(self, records: list[Record]) -> None:
        if not records:
            return
        store = self.store
        control, payload = encode_row(records)
        store.rows.append((store.now, control, payload))
        self.shadow.apply_row(store.now, decode_row(control, payload))
        store.running.update(record.path for record in records if isinstance(record, StepStarted))
        for record in records:
            if isinstance(record, StepStarted):
                store.seen.setdefault(record.path, set())
        self.snapshots.append(store.copy())

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
        return Moment(self.store.now, self._draw, self._ask, read_cancel, halt)

    def _draw(self) -> float:
        self.draws += 1
        return DRAW

    def _ask(self, node: Node, path: str, question: str) -> Any:
        assert path not in self.shadow.steps, "S6.1, I35: what is recorded is not asked again"
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
            timer = state.wake_at is not None and (state.parked or state.deadline_at is not None or state.undo)
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
        again = tuple(command for command in commands if not isinstance(command, Lost | Block))
        before = freeze(self.state)
        decision = decide(self.state, again, self._moment(halt))
        assert (decision.records, decision.consumed) == ([], []), f"repeated: {again} gave {decision}"
        self.state.rollback()
        assert freeze(self.state) == before


def _posting(seq: int, mail: Mail) -> Posting:
    if mail.name:
        return Posting(seq, "signal", mail.name, f'{{"seq":{seq}}}', f"id-{seq}")
    return Posting(seq, "cancel", "", f"{int(mail.compensate)}{int(mail.interrupt)}")


def read_cancel(posting: Posting) -> CancelRequested:
    """A cancel's request, as this world writes it."""
    return CancelRequested(posting.seq, "enough", posting.payload[0] == "1", posting.payload[1] == "1")


def freeze(value: Any) -> Any:
    """A value that later changes in place do not reach; of a state, all but its log and the storage's part."""
    if isinstance(value, RunState):
        return [freeze(fact) for fact in value.facts()], list(value.steps)
    if isinstance(value, StepState):
        return value.path, value.node.name, value.saved()
    if isinstance(value, Frame):
        return value.prefix, value.owner, value.cursor, [node.name for node in value.steps.nodes]
    if isinstance(value, dict):
        return {key: freeze(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [freeze(one) for one in value]
    return value

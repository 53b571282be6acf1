"""The state of a run: everything its journal says.

State is the fold of the journal and nothing else (I8; `evolve.py`), save for the inbox, which is the storage's (D17). It is
updated in place by its one owner. While a decision is being prepared, every change also leaves its inverse in
`state.log`, so that a decision the storage refuses can be taken back at the cost of the decision, not of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .commands import Changes, Posting
from .failure import Failure
from .patterns import frames_around
from .plan import UNDO, Node, Plan, Sequence, base_path
from .records import CancelRequested, Reopened, RunBlocked, RunForked, StepResolved, UnwindStarted
from .status import RunStatus, StepStatus
from .workflow import Kind

ABSENT: Any = object()
RAN: Any = object()  # in the log: the step was running before


_LASTING = frozenset({"plan", "log", "position", "inbox", "inbox_seq", "misfits", "created_at", "updated_at"})

HALF_UNDONE = 3  # what `told` says of a child that could not undo all that it did

OPEN = frozenset({StepStatus.PENDING, StepStatus.RUNNING, StepStatus.SUSPENDED})


class StepState:
    """One execution of one step: a line of the history."""

    # Defaults stand on the class: most steps never change most of them, and making a StepState is on every step's way.
    status = StepStatus.PENDING
    attempt = 0  # attempts started
    raised = 0  # attempts that raised or timed out: what `retries` counts
    lost = 0  # attempts lost to crashes in a row
    doubt = False  # an effect may have happened whose outcome is not recorded (D8)
    result: str | None = None
    changes: Changes | None = None  # to the data, by the attempt that returned
    failure: Failure | None = None
    signal: str | None = None  # awaited now, or was
    default: str | None = None
    due_at: int | None = None  # of a retry, a sleep or a wait's timeout
    started_at: int | None = None
    ended_at: int | None = None
    alone = False  # this attempt runs alone in its worker (D11)
    guilty = 0  # attempts lost while alone: what `crash_limit` counts
    owed = False  # an effect of an earlier generation is not undone yet
    inside: Inside | None = None  # of a step with branches, once they have begun
    inherited = False  # done by the origin of this fork: its obligations are not ours (D5)
    child = ""  # the id of the run that it started
    told = 0  # whether that was asked to end: 1, and at once: 2; or HALF_UNDONE

    def __init__(self, path: str, node: Node) -> None:
        self.path = path
        self.node = node

    def saved(self) -> tuple[Any, ...]:
        """What changes, for `RunState.rollback`."""
        return (
            self.status, self.attempt, self.raised, self.lost, self.doubt, self.result, self.changes, self.failure,
            self.signal, self.default, self.due_at, self.started_at, self.ended_at, self.alone, self.guilty, self.owed,
            self.inherited, self.inside, self.child, self.told,
        )  # fmt: skip

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Back to what `saved` said."""
        (
            self.status, self.attempt, self.raised, self.lost, self.doubt, self.result, self.changes, self.failure,
            self.signal, self.default, self.due_at, self.started_at, self.ended_at, self.alone, self.guilty, self.owed,
            self.inherited, self.inside, self.child, self.told,
        ) = saved  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepState) and self.path == other.path and self.saved() == other.saved()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<StepState {self.path} {self.status.value}>"


@dataclass(slots=True)
class Scope:
    """What a branch that has others beside it sees of the data: what stood there at the fork, and its own changes (D22)."""

    outer: Scope | None
    changes: Changes = field(default_factory=dict)


@dataclass(slots=True)
class Inside:
    """What the branches of a step have come to."""

    choice: str = ""  # the branch of a route, or of a wait whose time is out
    turn: int = 0  # of a loop
    items: tuple[str, ...] = ()  # of a for_each, encoded
    waiting: tuple[str, ...] = ()  # keys of the branches that begin, or began, one after another
    begun: int = 0  # how many of those have
    done: dict[str, Scope] = field(default_factory=dict)  # by key, as they completed
    failed: dict[str, str] = field(default_factory=dict)  # key -> path of the step that failed
    stopping: bool = False  # the outcome is settled; what still runs is waited for


class Frame:
    """A sequence of steps being worked through: the workflow's own (key ''), or a branch inside the step `owner`.

    The key is a path: of the branch, the turn (`poll[3]`), the item; a body of one handler has it for its step too.
    """

    __slots__ = ("cursor", "key", "owner", "scope", "steps")

    def __init__(self, key: str, owner: str, steps: Sequence, scope: Scope | None = None) -> None:
        self.key = key
        self.owner = owner
        self.steps = steps
        self.scope = scope
        self.cursor = 0  # index of the step that the frame stands at

    def path_of(self, node: Node) -> str:
        """The path of this step of the frame."""
        return self.steps.path_of(self.key, node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and (self.key, self.owner, self.cursor, self.scope) == (
            other.key, other.owner, other.cursor, other.scope,
        )  # fmt: skip

    __hash__ = None  # type: ignore[assignment]


class RunState:
    """Everything the journal says about a run. The frontier (`calls`, `parked`, `due`) is kept, never searched for."""

    # Defaults stand on the class, as for StepState.
    workflow = ""
    version = ""
    shape = ""
    input = ""
    cancel: CancelRequested | None = None
    failing: str | None = None  # the top-level step whose failure ends the run
    decided: tuple[str, ...] = ()  # steps that failed and that somebody has decided about, while there are others to decide about
    unwinding: UnwindStarted | None = None
    undo: tuple[str, ...] = ()  # steps to compensate, in order
    undo_at = 0
    blocked: RunBlocked | None = None
    ended: RunStatus | None = None
    deadline_at: int | None = None
    continuation = 0  # how often it has begun again
    created_at = 0
    updated_at = 0
    ended_at: int | None = None
    position = 0  # commits folded
    # Parents and children (children.py)
    parent = ""  # the id of the run whose child this is
    demand = 0  # the posting by which the parent wants this run undone once it has ended
    descending = False  # it is to go down, or at its end, and waits for its children to end first
    unclean = False  # a child has left something that should have been undone
    # Doing it again (again.py)
    generation = 0
    again = False  # it has been reopened
    pivot: str | None = None  # the point of no return, once it has completed (S9.4)
    replay: tuple[str, ...] | None = None  # the commit steps that a replay runs again, in order
    replay_at = 0
    before: tuple[Any, ...] = ()  # what the replay found, for when it is over
    forked: RunForked | None = None
    inherited = 0  # steps that the origin of this fork has done
    reopenings: tuple[tuple[int, Reopened], ...] = ()
    resolutions: tuple[tuple[int, StepResolved], ...] = ()
    misfits: tuple[str, ...] = ()  # fingerprints of code that the journal does not fit (D28)
    inbox_seq = 0  # the newest posting seen

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.first: Changes = {}  # the data it began with
        self.data: dict[str, str] = {}
        self.past: dict[str, tuple[StepState, ...]] = {}  # steps as earlier generations left them
        self.owed: dict[str, StepState] = {}  # steps to be done again whose earlier effect is not undone
        self.keys: dict[str, tuple[str, int]] = {}  # path -> path and generation in its idempotency key, where not (path, 0) (D2)
        self.steps: dict[str, StepState] = {}  # every path reached, in the order of being reached
        self.frames: dict[str, Frame] = {}  # by prefix
        self.due: dict[str, Frame] = {}  # frames whose next step can be started
        self.calls: dict[str, StepState] = {}  # attempts that may be running
        self.parked: dict[str, StepState] = {}  # waits, sleeps and retry delays
        self.children: dict[str, str] = {}  # path of a child, or of its undoing -> id of the run that is waited for
        self.waits: dict[str, tuple[str, ...]] = {}  # signal name -> paths, earliest first (D24)
        self.inbox: dict[str, tuple[Posting, ...]] = {}  # the storage's part: signals accepted and not yet taken
        self.stopping: dict[str, StepState] = {}  # path -> a step with branches of which everything under that path is stopped
        self.log: list[tuple[Any, Any, Any]] = []  # how to take back what is being decided

    # --- what is asked of it

    @property
    def status(self) -> RunStatus:
        """Where the run stands (S2.1, D17)."""
        if self.ended is not None:
            return self.ended
        if self.blocked is not None:
            return RunStatus.BLOCKED
        if self.unwinding is not None:
            return RunStatus.COMPENSATING
        due = self.due and not self.descending and len(self.steps) > self.inherited
        if self.calls or due or (self.replay is not None and not self.parked):
            return RunStatus.RUNNING
        return RunStatus.SUSPENDED if self.parked or self.children else RunStatus.PENDING

    @property
    def wake_at(self) -> int | None:
        """When there is next something to do without a posting: 0 for at once, None for never."""
        if self.blocked is not None and self.blocked.misfit and self.ended is None:
            return 0  # for code that fits
        if self.ended is not None or self.blocked is not None:
            return None
        if self.calls:
            return 0
        if self.descending:
            return None  # for its children
        if self.due:
            return 0
        times = [st.due_at for st in self.parked.values() if st.due_at is not None]
        if self.unwinding is None and self.replay is None:
            if self.deadline_at is not None:
                times.append(self.deadline_at)
        elif not times and not self.waits and not self.children:
            return 0
        return min(times, default=None)

    def key_of(self, path: str) -> tuple[str, int]:
        """The path and the generation in the idempotency key of the step at `path`, which its compensation and its probe share (D2)."""
        base = base_path(path)
        return self.keys.get(base) or (base, 0)

    def result_text(self, path: str) -> str | None:
        """What the step at `path` returned last, encoded, in whatever generation."""
        st = self.steps.get(path) or self.owed.get(path)
        for one in (st, *reversed(self.past.get(path, ()))):
            if one is not None and one.result is not None:
                return one.result
        return None

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Names of the signals that the run awaits now."""
        return tuple(self.waits)

    def head(self) -> tuple[RunStatus, int | None, tuple[str, ...], str]:
        """Status, wake-up time, awaited signals and reason of being blocked: what the storage's header shows."""
        if self.calls and not self.waits and self.unwinding is None and self.blocked is None:
            return RunStatus.RUNNING, 0, (), ""
        blocked = self.blocked
        # A message of the user's may hold what no storage takes: NUL, and halves of surrogate pairs.
        text = "" if blocked is None else f"{blocked.reason}: {blocked.message}".replace("\0", "\\0")
        return self.status, self.wake_at, self.waiting_for, text.encode("utf-8", "backslashreplace").decode()

    # --- changing it, so that it can be taken back

    def clear(self) -> None:
        """Forget all that the journal has said, but for what is the storage's to say; undoable."""
        new = RunState(self.plan)
        for name, old in list(vars(self).items()):
            if name in _LASTING:
                continue
            if type(old) is dict and name != "first":  # kept, for whoever holds it
                for key in reversed(list(old)):  # so that taking it back restores their order
                    self.drop(old, key)
            else:
                self.assign(self, name, getattr(new, name))

    def put(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        """`mapping[key] = value`, undoable."""
        self.log.append((mapping, key, mapping.get(key, ABSENT)))
        mapping[key] = value

    def drop(self, mapping: dict[Any, Any], key: Any) -> None:
        """`mapping.pop(key, None)`, undoable."""
        old = mapping.pop(key, ABSENT)
        if old is not ABSENT:
            self.log.append((mapping, key, old))

    def assign(self, target: Any, name: str, value: Any) -> None:
        """`target.name = value`, undoable."""
        self.log.append((target, name, getattr(target, name)))
        setattr(target, name, value)

    def change(self, changes: Changes | None, scope: Scope | None = None) -> None:
        """Change the data, or a branch's view of it, undoable."""
        for key, value in (changes or {}).items():
            if scope is not None:
                self.put(scope.changes, key, value)
            elif value is None:
                self.drop(self.data, key)
            else:
                self.put(self.data, key, value)

    def frame_of(self, path: str) -> Frame | None:
        """The frame in which the step at `path` stands; None when that is over."""
        if "/" not in path and "[" not in path:
            return self.frames.get("")
        frame = self.frames.get(path)
        return frame if frame is not None or path.endswith("]") else self.frames.get(path.rpartition("/")[0])

    def data_at(self, path: str) -> dict[str, str]:
        """The data as the step at `path` sees it; not to be changed, and not changing while the step runs."""
        if "!" in path or self.replay is not None:
            return self.data
        frame = self.frame_of(path) or self._frame_around(path)
        if frame.scope is not None:
            return self._seen(frame.scope)
        return dict(self.data) if self._in_graph(frame) else self.data

    def _frame_around(self, path: str) -> Frame:
        """The innermost frame that is open around this path: a loop's test is asked before the turn."""
        return next(self.frames[key] for key in frames_around(path) if key in self.frames)

    def _in_graph(self, frame: Frame) -> bool:
        """Whether other steps may change the same data meanwhile."""
        at: Frame | None = frame
        while at is not None and at.steps.needs is None and at.owner:
            at = self.frame_of(at.owner)
        return at is not None and at.steps.needs is not None

    def _seen(self, scope: Scope) -> dict[str, str]:
        seen = dict(self.data if scope.outer is None else self._seen(scope.outer))
        for key, value in scope.changes.items():
            if value is None:
                seen.pop(key, None)
            else:
                seen[key] = value
        return seen

    def leave(self, path: str, at: int) -> None:
        """The step at `path` is given up: it waits for nothing any more."""
        st = self.save(self.steps[path])
        self.unpark(st)
        st.status = StepStatus.CANCELLED
        st.due_at = None
        st.ended_at = at

    def unpark(self, st: StepState) -> None:
        """The step waits for nothing any more."""
        self.drop(self.parked, st.path)
        if st.signal is not None and st.path in self.waits.get(st.signal, ()):
            left = tuple(path for path in self.waits[st.signal] if path != st.path)
            if left:
                self.put(self.waits, st.signal, left)
            else:
                self.drop(self.waits, st.signal)

    def is_stopped(self, path: str) -> bool:
        """Whether the step at `path` is in a branch that nobody waits for any more."""
        return any(path.startswith((f"{owner}/", f"{owner}[")) for owner in self.stopping)

    def save(self, st: StepState) -> StepState:
        """This step is about to change: let it be undoable."""
        self.log.append((st, None, st.saved()))
        return st

    def settle(self) -> None:
        """What was decided is committed: forget how to take it back."""
        self.log.clear()

    def rollback(self) -> None:
        """Take back everything since the last `settle`."""
        log = self.log
        while log:
            target, key, old = log.pop()
            if type(target) is dict:
                if old is ABSENT:
                    del target[key]
                elif key in target:
                    target[key] = old
                else:
                    _reinsert(target, key, old)
            elif key is None:
                target.restore(old)
            elif key is RAN:
                target.status = StepStatus.RUNNING
                target.result = target.changes = target.ended_at = None
                target.failure, target.lost, target.guilty = old
            else:
                setattr(target, key, old)

    def facts(self) -> tuple[Any, ...]:
        """Everything that the journal determines, comparable: two folds of one journal have equal facts (I8)."""
        return (
            self.status, self.workflow, self.version, self.shape, self.input, self.data, self.steps, self.frames,
            sorted(self.due), sorted(self.calls), sorted(self.parked), sorted(self.stopping), self.children,
            self.waits, self.cancel, self.failing, self.decided,
            self.unwinding, self.undo, self.undo_at, self.blocked, self.ended, self.deadline_at, self.wake_at,
            self.created_at, self.updated_at, self.ended_at, self.generation, self.pivot, self.replay, self.replay_at,
            self.parent, self.continuation, self.demand, self.descending, self.unclean, self.forked, self.reopenings, self.resolutions,
            self.misfits, self.first, self.past, self.owed, self.keys,
        )  # fmt: skip


def _reinsert(target: dict[Any, Any], key: Any, old: Any) -> None:
    # A dropped key goes back to the end; the frontier's dicts are small and their order is not a promise.
    target[key] = old


def undo_path(path: str) -> str:
    """The path of the compensation of the step at `path`."""
    return path + UNDO


def is_left(st: StepState) -> bool:
    """Of a child that goes on: whether its step is gone from the workflow."""
    return st.status is StepStatus.CANCELLED


def needs_undo(st: StepState) -> bool:
    """Whether this step belongs to the set of S10.4."""
    if st.node.undo is None or st.inherited or st.status is StepStatus.COMPENSATED:
        return False
    if st.owed:
        return True
    if st.node.kind is Kind.CHILD and not (st.child and st.node.undoable):
        return False  # somebody has said what it came to, or it does nothing that can be undone
    if st.status is StepStatus.SKIPPED and not st.doubt:
        return False
    if st.result is not None or st.signal is not None:
        return True  # completed, or its handler returned `wait` (its effect has happened)
    if st.node.compensate_when == "started":
        return st.attempt > 0
    return st.doubt and (st.node.compensate_when == "in_doubt" or st.node.on_unknown == "compensate")

"""The seam: what flux asks of a storage, and the values that cross it.

A storage keeps runs: a header each, a journal of rows that are only ever appended, and an inbox of postings. It decides
nothing about workflows; it compares and appends. The contract, which `flux.testing.conformance` turns into tests:

 1. Every verb is atomic: it happens whole or not at all, and once it has returned, what it wrote is durable.
 2. `create` makes a run once: a second call with its idempotency key and workflow, with its id, or with the workflow and the
    deduplication key of a run that has not ended, returns the run that is there, untouched; they are looked for in this order. With
    `owner` the new run is leased to that worker, at epoch 1. The commit that ends a run takes its deduplication key from it for good.
 3. `commit` states what it saw: owner, epoch, position and inbox_seq. Another owner, epoch or position, or an inbox_seq
    that is still to come (a storage set back by a restore): `LeaseLost`, nothing written. A newer inbox_seq: nothing
    written, and the reply carries the postings after the one that was seen. Otherwise its records become the row at
    position + 1, its postings are taken from the inbox and the header is replaced, in one transaction. `wake_at` 0 is the
    storage's now; `ended_at` is the instant of the commit that ended the run, None until then and when it goes on again.
    A `ref` is never given to another run: a commit to a deleted one is `RunNotFound`, whoever has its id now. `misfits`
    replaces those of the header; a `version` that is not '' moves the run to it, and to `shape`.
 4. The same commit sent twice is the same commit: the second call finds the row that the first wrote and succeeds,
    whatever has happened since. (One without records has left no row to be found.)
 5. A commit without records writes no row; it may give the lease back, and it is how a holder asks for new postings.
 6. `release` in a commit clears the owner; `wake_at` then says when the run can be claimed.
 7. `post` numbers a posting with the run's next inbox_seq and wakes the run: an unowned run that is not blocked becomes
    claimable now, or stays so. A `signal_id` that the run knows is accepted again without effect. No lease is needed: a
    `taker` that is not live, or that holds the run already, takes nothing, and the posting is accepted all the same.
 8. A run has one owner at most; its epoch grows with every change of hands and never falls.
 9. `claim` leases runs that have no owner, are due by the storage's own clock, and whose (workflow, version) was asked
    for with a shape that is not among the run's misfits (D28); higher priority first, then the earlier due time, one level
    of priority being worth a minute of waiting (D29); of equally urgent runs the one of higher priority. See 23 and 24.
10. A worker is a nonce with a lease, and live until it is condemned or unregistered, however late it is. `renew` extends
    the lease, and so does a commit that is written, once a third of it has passed (D15). A condemned worker never renews,
    and none of its commits is written. `claim` always, and `take` and `post` with a taker when they find the run's owner
    dead, condemn the other workers whose lease has run out (or whose process is known to be gone; closing a storage
    may count as that) and free their runs, which are due at once unless they have ended or are blocked. Registering a
    live nonce begins its lease anew; a condemned one becomes a worker that holds nothing.
11. `renew` may be awaited from any event loop, also while the one that opened the storage is blocked.
12. Every reply says what time it is for the storage; time never runs backwards within one opened storage.
13. What is handed in is not kept by reference, and what is handed out is not the stored thing (I43). Records are
    values that nobody changes (I1) and may be shared; the mappings in them may not.
14. A run whose rows cannot be read is returned with `error` set, and is in no other run's way (S15.2).
15. A cancelled caller never cuts a verb in two: it happens whole, perhaps after the caller has gone, or not at all.
16. A commit that is written may also create runs (`children`) and then post to others (`posts`, in order), all in its own
    transaction (I7, I41). A child is created as by `create` without an owner and without those keys; one whose id
    is taken is left as it is. A post does what `post` does (7), but is never refused: not for a full inbox, and one to a
    run that is gone, or has ended, is dropped; except for an `unwind`, which an ended run accepts: it stays as ended as it
    is, and is due now, for a claim or, where somebody holds it, for when that one's worker is gone.
17. A run whose `parent` is there is forgotten with it, and not before: `delete` refuses it, ended or not, and `purge` passes
    it over; the parent takes its children along, and theirs, however lately they ended. Only runs that have all ended go.
18. A commit with records that is `fresh` begins the journal anew: from then on whoever gets the whole run (`load`, `claim`,
    `take`, `post`) gets rows from that one on; `read_journal` gives all. Positions go on.
19. A schedule is a row with a name, an instant at which it is next due, and a revision that grows with every change: a new
    one's is one more than the highest of any that was forgotten (1 where none was). `advance` changes it only from the
    revision that was seen, and creates the runs of its ticks and posts, as a commit does (16), in the same transaction: of
    those that try, one succeeds. One whose row cannot be read is in no other's way (14): it is not due, or not advanced.
20. Texts are such as UTF-8 can carry, without NUL; whoever hands them in has seen to that (S15.6).
21. A storage that is `Transactional` lends transactions of its own database: what is done on the connection of one is written
    with the one commit that is made in it, or not at all (S3.6). That commit is fenced and means what `commit` says (3 to 6, 16, 18),
    and only it locks anything of flux's. Where it is refused (`LeaseLost`, `RunNotFound`) all is rolled back; so it is where
    its row is there already (4), and that is success. With newer postings nothing of it is written and the transaction stays open:
    decide again, commit again. Leaving without a commit rolls back. No outcome is guessed: `RolledBack` says that nothing is written
    and never will be, so that all may be done again (the exception to I45); where that cannot be known yet, `StorageUnavailable`:
    the same commit again, in the same transaction, only looks. What else the database has against what was done is raised as its
    driver raises it, and is rolled back.
22. A storage that is an `Outbox` creates runs and posts to them within a transaction of somebody else's on the same database: they
    are there, and tell those who wait, if and when that one is committed. Until then it may hold the runs that it posts to: their
    steps, and whoever commits together with them, wait for it. What is refused has written nothing and the transaction goes on.
    An error of the driver is the caller's to handle, as is the transaction.
23. `claim` keeps to its `limits`, each of one workflow: at most `room` runs of it in this call; none that would make more than
    `concurrency` held at a time, whoever holds them and why; none that would make more than `per_key` held of one lane; of those that
    nobody has held yet (epoch 0) none that would make more than `rate` begin in any span of so many microseconds, those counted that
    were made with a `rate` of their own and an owner. `create`, `take` and `post` are not held up. What a limit holds back is in no
    other's way: it is passed over as if it were not there, in `next_at` too, which for what the rate holds back is when it has room
    again. A claim that had to stop before it was through says so by a `next_at` that is now.
24. A lane is the runs of a workflow with one `lane` (not ''). A claim that meets a run whose lane is full parks it: claims pass it
    over until it is let in, or taken. Whoever gives up a run of a lane (6, 10), or forgets one (17), lets in the most urgent parked
    one (9) of each kind, which is a version, some misfits, and whether anybody has ever held it; so does a claim that takes one and
    leaves room in its lane. One that is made to be due at once, without an owner, is parked if the most urgent of its lane and kind
    that waits and is not parked is due and no less urgent. So whatever is parked has in its lane one that is held, or one of its kind
    that is due and not parked: no order of calls leaves it to nobody (I15).

Instants are integer microseconds UTC by the storage's clock; durations are microseconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from .core.commands import Posting, PostingKind
from .core.records import Record
from .core.status import TERMINAL, RunStatus
from .core.value import Value
from .errors import FluxError, UnreadableRun

__all__ = [
    "Claimed", "Code", "Commit", "Committed", "Created", "Header", "Limit", "NewRun", "Outbox", "Outgoing", "Posted", "Posting",
    "Query", "Renewal", "RolledBack",
    "Row", "Schedule", "StoredRun", "Transaction", "Transactional", "Within", "WorkflowStorage",
]  # fmt: skip

T = TypeVar("T")

Code: TypeAlias = tuple[str, str, str]  # what a worker can run: a workflow's name, version and shape


@dataclass(slots=True, eq=False, repr=False)
class Header(Value):
    """The head of a stored run: what lists show, what claims look for, and the lease.

    `ref` is the storage's own handle for the run; whoever got it in a reply hands it back in commits.
    `waiting` are the names of the signals it awaits; `blocked` is why it waits for a person, else ''; `misfits` are the shapes of code
    that its journal was found not to fit: no worker with one of them claims it (D28).
    """

    run_id: str
    ref: int
    workflow: str
    version: str
    shape: str
    status: RunStatus
    priority: int
    created_at: int
    updated_at: int
    ended_at: int | None
    wake_at: int | None
    owner: str | None
    epoch: int
    position: int
    inbox_seq: int
    input_digest: str
    idempotency_key: str | None = None
    waiting: tuple[str, ...] = ()
    blocked: str = ""
    misfits: tuple[str, ...] = ()
    parent: str = ""  # the id of the run whose child this is
    lane: str = ""  # of its workflow: the runs that share a limit (24)
    parked: bool = False  # behind others of its lane
    deduplication_key: str | None = None

    def copy(self) -> Header:
        """Another header that says the same."""
        return Header(
            self.run_id, self.ref, self.workflow, self.version, self.shape, self.status, self.priority, self.created_at,
            self.updated_at, self.ended_at, self.wake_at, self.owner, self.epoch, self.position, self.inbox_seq,
            self.input_digest, self.idempotency_key, self.waiting, self.blocked, self.misfits, self.parent,
            self.lane, self.parked, self.deduplication_key,
        )  # fmt: skip


@dataclass(slots=True, eq=False, repr=False)
class Row(Value):
    """One commit in a journal: its records are addressed by (position, index). Positions count from 1 (D20)."""

    position: int
    epoch: int
    at: int
    records: tuple[Record, ...]


@dataclass(slots=True, eq=False, repr=False)
class StoredRun(Value):
    """A run as it is stored: header, journal in order, and the postings that nothing has taken yet, in order.

    `error` is set, and `rows` incomplete, when the rows cannot be read.
    """

    header: Header
    rows: list[Row]
    postings: list[Posting]
    error: UnreadableRun | None = None


@dataclass(slots=True, eq=False, repr=False)
class NewRun(Value):
    """A run to be created. It can be claimed `delay` microseconds from now unless `owner` takes it at once."""

    run_id: str
    workflow: str
    version: str
    shape: str
    input_digest: str
    at: int
    records: tuple[Record, ...]
    status: RunStatus
    wake_at: int | None = None
    waiting: tuple[str, ...] = ()
    idempotency_key: str | None = None
    priority: int = 0
    delay: int = 0
    owner: str | None = None
    parent: str = ""  # the id of the run whose child this is
    lane: str = ""
    deduplication_key: str | None = None
    rate: tuple[int, int] | None = None  # of its workflow, as in `Limit`: with an owner it begins now, and counts


@dataclass(slots=True, eq=False, repr=False)
class Created(Value):
    """`fresh`: this call made the run. Otherwise `header` is that of the run which was there."""

    header: Header
    fresh: bool
    now: int


@dataclass(slots=True, eq=False, repr=False)
class Commit(Value):
    """One step forward of a run: what its holder saw, and what is to be written."""

    # what it saw
    run_id: str
    ref: int
    owner: str
    epoch: int
    position: int
    inbox_seq: int
    # what it writes
    at: int
    records: tuple[Record, ...]
    status: RunStatus
    wake_at: int | None
    waiting: tuple[str, ...] = ()
    blocked: str = ""
    consumed: tuple[int, ...] = ()
    release: bool = False
    misfits: tuple[str, ...] = ()
    version: str = ""  # with `shape`: the run moves to this version of its workflow
    shape: str = ""
    # what it means for others (16), and for whoever reads it later (18)
    children: tuple[NewRun, ...] = ()
    posts: tuple[Outgoing, ...] = ()
    fresh: bool = False
    lane: str = ""  # of the run: what has none is given up at no cost

    @property
    def ended(self) -> bool:
        """Whether this commit ends the run."""
        return self.status in TERMINAL


@dataclass(slots=True, eq=False, repr=False)
class Committed(Value):
    """The reply to a commit. With `postings` nothing was written: fold them, decide again, commit again (D12)."""

    now: int
    postings: tuple[Posting, ...] = ()


@dataclass(slots=True, eq=False, repr=False)
class Posted(Value):
    """The reply to `post`. `fresh` is False for a `signal_id` seen before. `run` is set when the poster now holds the run."""

    header: Header
    seq: int
    fresh: bool
    now: int
    run: StoredRun | None = None


@dataclass(slots=True, eq=False, repr=False)
class Limit(Value):
    """What a claim keeps to for one workflow (23); None: there is no such limit. All numbers are 1 or more."""

    workflow: str
    room: int | None = None  # runs that this claim takes, at most
    concurrency: int | None = None  # runs held at a time, by whomever
    per_key: int | None = None  # of one lane
    rate: tuple[int, int] | None = None  # so many runs begin in any so many microseconds


@dataclass(slots=True, eq=False, repr=False)
class Claimed(Value):
    """Runs now leased to the worker, and when the next one it could claim is due (None: none is known)."""

    runs: list[StoredRun]
    next_at: int | None
    now: int


@dataclass(slots=True, eq=False, repr=False)
class Renewal(Value):
    """Whether the worker still holds its runs, and which of those have postings that they have not seen (D13)."""

    alive: bool
    unseen: tuple[str, ...]
    now: int


@dataclass(slots=True, eq=False, repr=False)
class Query(Value):
    """Which runs to list: newest first by (created_at, run_id), those before `before`."""

    workflow: str | None = None
    statuses: Collection[RunStatus] = ()
    limit: int = 50
    before: tuple[int, str] | None = None
    version: str | None = None


@dataclass(slots=True, eq=False, repr=False)
class NewPosting(Value):
    """A posting to be numbered and kept. `payload` is encoded; a cancel's is its request."""

    kind: PostingKind
    name: str
    payload: str
    signal_id: str | None = None
    limit: int = field(default=1000)  # of postings not yet taken; a cancel is never refused for it (D25)


@dataclass(slots=True, eq=False, repr=False)
class Outgoing(Value):
    """A posting from one run to another."""

    run_id: str
    posting: NewPosting


@dataclass(slots=True, eq=False, repr=False)
class Schedule(Value):
    """When runs of a workflow are started by themselves. `rule` is JSON of flux's own: the storage does not look into it."""

    name: str
    workflow: str
    version: str
    rule: str
    next_at: int | None  # None: paused, or over
    last_at: int | None = None  # the instant of the last tick that made a run
    last_run: str = ""  # the id of that run
    revision: int = 0  # 0: it is new


@runtime_checkable
class WorkflowStorage(Protocol):
    """What an adapter implements; the module's docstring is its contract. It is an async context manager: entering opens
    (and migrates) the storage, leaving closes it. One that is entered again while it is open counts its users.

    Errors: `StorageUnavailable` when the storage cannot answer now (nothing was written, or what was written is what was
    asked); `StorageTooNew` on opening; and what the verbs name.
    """

    async def __aenter__(self) -> WorkflowStorage:
        """Open. Raises StorageTooNew, StorageMisused, StorageUnavailable."""
        ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close: what was acknowledged is durable, nothing else is written."""
        ...

    async def now(self) -> int:
        """The storage's time."""
        ...

    async def create(self, run: NewRun) -> Created:
        """Make a run (2). Raises LeaseLost when `owner` is not a live worker."""
        ...

    async def load(self, run_id: str) -> StoredRun | None:
        """The whole run, without taking it."""
        ...

    async def read_header(self, run_id: str) -> Header | None:
        """The head of the run alone."""
        ...

    async def read_journal(self, run_id: str, after: int = 0, limit: int = 500) -> list[Row]:
        """Rows behind position `after`. Raises UnreadableRun."""
        ...

    async def find(self, query: Query) -> list[Header]:
        """A page of runs."""
        ...

    async def commit(self, commit: Commit) -> Committed:
        """One step forward (3 to 6). Raises LeaseLost; RunNotFound when the run was deleted."""
        ...

    async def post(self, run_id: str, posting: NewPosting, *, workflow: str | None = None, taker: str | None = None) -> Posted:
        """Accept a posting (7); with `taker`, that worker also takes the run if nothing live holds it and it is not blocked.

        Raises RunNotFound (also when the run is of another workflow than `workflow`), RunFinished (not for a known
        signal_id), InboxFull.
        """
        ...

    async def take(self, run_id: str, worker: str, *, blocked: bool = False, ended: bool = False) -> StoredRun | None:
        """Lease this run to the worker, due or not, if nothing live holds it; None when something does.

        Unless `blocked`, not one that is blocked, and unless `ended`, not one that has ended: they come back unleased.
        Raises RunNotFound, LeaseLost when the worker is not live.
        """
        ...

    async def claim(self, worker: str, codes: Collection[Code], limit: int, limits: Collection[Limit] = ()) -> Claimed:
        """Lease up to `limit` due runs to the worker (9, 10), no more of a workflow than its limit allows (23). Raises LeaseLost when
        the worker is not live."""
        ...

    async def register(self, worker: str, lease: int) -> int:
        """Make a worker with this nonce, alive for `lease` microseconds; returns the storage's time."""
        ...

    async def renew(self, worker: str, lease: int) -> Renewal:
        """Alive for `lease` microseconds more (10, 11)."""
        ...

    async def unregister(self, worker: str) -> None:
        """The worker is gone: what it still holds is free and due at once."""
        ...

    async def changed(self, since: int, timeout: float) -> int:
        """The storage's count of changes that others may wait for: at once when it is not `since`, else when it changes or after
        `timeout` seconds. A hint: it may count too much, and a poll is the truth. Start with `since=-1`."""
        ...

    async def advance(self, schedule: Schedule, runs: Collection[NewRun] = (), posts: Collection[Outgoing] = ()) -> bool:
        """Make a schedule (revision 0), or replace it from the revision that was seen, which grows by one; with the runs of its ticks,
        as children of a commit are created, and postings, as a commit's (16, 19). Whether it did: another may have been first."""
        ...

    async def schedules(self, name: str | None = None, *, due: int | None = None, limit: int = 500, after: str = "") -> list[Schedule]:
        """The schedule of that name; or those with `next_at` up to `due`, the earliest first, then by name; or else those whose names
        come after `after`, by name (by code point)."""
        ...

    async def unschedule(self, name: str) -> bool:
        """Forget a schedule; whether there was one."""
        ...

    async def delete(self, run_id: str) -> None:
        """Forget an ended run, its children and all their rows (17).

        Raises RunNotFound; RunConflict for a child, ended or not; RunNotFinished where the run or one below it has not ended.
        """
        ...

    async def purge(self, finished_for: int, limit: int) -> int:
        """Forget up to `limit` runs that ended at least `finished_for` microseconds ago, each with its children, who do not count (17);
        returns how many. Large families make it fewer than `limit`: 0 says that there are no more."""
        ...


class RolledBack(FluxError):
    """A transaction that was lent is over and has written nothing, for a passing reason: all of it may be done again (21)."""


class Transaction(Protocol):
    """One transaction, lent by a `Transactional` storage to whoever holds a run, in the event loop that opened the storage.

    The order of things: `run` the handler, decide, `commit`; with postings in the reply decide and commit again. A handler that
    failed: leave, which rolls back, and commit its failure by the storage's own `commit`.
    """

    @property
    def connection(self) -> Any:
        """The driver's own connection (an `asyncpg.Connection`, a `sqlite3.Connection`), inside the open transaction. Only what
        `run` calls may use it. Whoever commits or rolls back on it by themselves gets `StorageMisused` from `commit`."""
        ...

    async def run(self, call: Callable[[Any], Awaitable[T] | T]) -> T:
        """What `call(connection)` returns, or raises. Where the storage's `handlers` are "async" it is awaited here, in the caller's task;
        where they are "def" it is called in the thread that the transaction lives in, and others' writes wait for it: such a storage
        may set it a limit, and raises TimeoutError, having rolled back, where it returns later than that."""
        ...

    async def commit(self, commit: Commit) -> Committed:
        """The step forward, which has records, with everything that was done on the connection (21). Raises LeaseLost, RunNotFound,
        RolledBack, StorageUnavailable, StorageMisused, and the errors of the driver. Once it is written the transaction is over."""
        ...


@runtime_checkable
class Transactional(Protocol):
    """What a storage may have beside the verbs: transactional steps (21)."""

    @property
    def handlers(self) -> Literal["async", "def"]:
        """What kind of functions can use its connections."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, open when it is entered; a bounded number at a time, others wait. Raises StorageUnavailable, StorageMisused."""
        ...


class Within(Protocol):
    """Two verbs, within a transaction of somebody else's (22)."""

    async def create(self, run: NewRun) -> Created:
        """Make a run as `create` does, without an owner. Raises StorageMisused where there is no open transaction on this database."""
        ...

    async def post(self, run_id: str, posting: NewPosting, *, workflow: str | None = None) -> Posted:
        """Accept a posting as `post` does, without a taker. Raises what that raises, and StorageMisused as above."""
        ...


@runtime_checkable
class Outbox(Protocol):
    """What a storage may have beside the verbs: runs and postings that come with the caller's own transaction (22)."""

    def within(self, connection: Any) -> Within:
        """For the driver's own connection, in a transaction that the caller has begun and is going to end."""
        ...

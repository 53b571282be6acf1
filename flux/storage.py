"""The seam: what flux asks of a storage, and the values that cross it.

A storage keeps runs: a header each, a journal of rows that are only ever appended, and an inbox of postings. It decides
nothing about workflows; it compares and appends. The contract, which `flux.testing.conformance` turns into tests:

 1. Every verb is atomic: it happens whole or not at all, and once it has returned, what it wrote is durable.
 2. `create` makes a run once: a second call with its id, or with its idempotency key and workflow, returns the run that
    is there, untouched; the key is looked for first. With `owner` the new run is leased to that worker, at epoch 1.
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
    of priority being worth a minute of waiting (D29); of equally urgent runs the one of higher priority.
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
16. Texts are such as UTF-8 can carry, without NUL; whoever hands them in has seen to that (S15.6).

Instants are integer microseconds UTC by the storage's clock; durations are microseconds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from .core.commands import Posting
from .core.records import Record
from .core.status import TERMINAL, RunStatus
from .core.value import Value
from .errors import UnreadableRun

__all__ = [
    "Claimed", "Code", "Commit", "Committed", "Created", "Header", "NewRun", "Posted", "Posting", "Query", "Renewal",
    "Row", "StoredRun", "WorkflowStorage",
]  # fmt: skip

Code: TypeAlias = tuple[str, str, str]  # what a worker can run: a workflow's name, version and shape


@dataclass(slots=True, eq=False, repr=False)
class Header(Value):
    """The head of a stored run: what lists show, what claims look for, and the lease.

    `ref` is the storage's own handle for the run; whoever got it in a reply hands it back in commits.
    `waiting` are the names of the signals it awaits; `blocked` is why it is parked, else ''; `misfits` are the shapes of code
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

    def copy(self) -> Header:
        """Another header that says the same."""
        return Header(
            self.run_id, self.ref, self.workflow, self.version, self.shape, self.status, self.priority, self.created_at,
            self.updated_at, self.ended_at, self.wake_at, self.owner, self.epoch, self.position, self.inbox_seq,
            self.input_digest, self.idempotency_key, self.waiting, self.blocked, self.misfits,
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


PostingKind: TypeAlias = Literal["signal", "cancel"]


@dataclass(slots=True, eq=False, repr=False)
class NewPosting(Value):
    """A posting to be numbered and kept. `payload` is encoded; a cancel's is its request."""

    kind: PostingKind
    name: str
    payload: str
    signal_id: str | None = None
    limit: int = field(default=1000)  # of postings not yet taken; a cancel is never refused for it (D25)


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

    async def claim(self, worker: str, codes: Collection[Code], limit: int) -> Claimed:
        """Lease up to `limit` due runs to the worker (9, 10). Raises LeaseLost when the worker is not live."""
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

    async def delete(self, run_id: str) -> None:
        """Forget an ended run and all its rows. Raises RunNotFound, RunNotFinished."""
        ...

    async def purge(self, finished_for: int, limit: int) -> int:
        """Forget up to `limit` runs that ended at least `finished_for` microseconds ago; returns how many."""
        ...

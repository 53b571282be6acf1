"""Writing runs: creating, committing, posting. All inside a transaction; checks come before writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flux.core.commands import Posting
from flux.core.status import RunStatus
from flux.errors import InboxFull, LeaseLost, RunFinished, RunNotFound
from flux.journal import FORMAT
from flux.storage import Commit, Committed, Created, NewPosting, NewRun, Outgoing

from ..heads import new_head
from . import queries
from .claiming import count_start, is_behind, let_in_all
from .leases import ENDED, Leases, Raw, demand_live, is_live, needs_no_look, prolong
from .rows import header_of, pack_names, pack_shapes, posting_of
from .writer import Transaction

Texts = tuple[str, str]  # control and payload of a row
Child = tuple[NewRun, Texts]


@dataclass(slots=True)
class RawPosted:
    """The head and perhaps the taken run as rows, to be read in the caller's thread."""

    header: Any
    seq: int
    fresh: bool
    now: int
    run: Raw | None


def create(tx: Transaction, run: NewRun, texts: Texts) -> Created:
    """Make a run once (contract 2)."""
    if run.owner is not None and run.idempotency_key is None and run.deduplication_key is None and run.rate is None:
        made = _create_held(tx, run, texts)
        if made is not None:
            return made
    existing = None
    if run.idempotency_key is not None:
        existing = tx.row(queries.HEADER_BY_KEY, (run.workflow, run.idempotency_key))
    if existing is None:
        existing = tx.row(queries.HEADER, (run.run_id,))
    once = None if run.status.value in ENDED else run.deduplication_key
    if existing is None and once is not None:
        existing = tx.row(queries.HEADER_ONCE, (run.workflow, once))
    if existing is not None:
        return Created(header_of(existing), False, tx.now)
    if run.owner is None:
        wake_at, epoch = tx.now + run.delay, 0
        tx.notify = True
    else:
        demand_live(tx, run.owner)
        wake_at, epoch = run.wake_at or tx.now, 1
        if run.rate is not None:
            count_start(tx, run.workflow, 1, run.rate)
    ref, parked = _insert(tx, run, texts, wake_at, epoch, run.owner, run.idempotency_key, once)
    return Created(new_head(run, ref, wake_at, run.owner, run.idempotency_key, once, parked=parked), True, tx.now)


def _create_held(tx: Transaction, run: NewRun, texts: Texts) -> Created | None:
    """What most runs are that begin where they are made, without a look at what is there; None where there is something, or nobody."""
    wake_at = run.wake_at or tx.now
    tx.cursor.execute(
        queries.CREATE_HELD,
        (
            run.run_id, run.workflow, run.version, run.shape, run.status.value, run.priority, run.at, run.at, wake_at,
            run.input_digest, pack_names(run.waiting), run.parent, run.lane, run.owner,
        ),
    )  # fmt: skip
    ref = tx.cursor.lastrowid
    if tx.cursor.rowcount != 1 or ref is None:
        return None
    tx.cursor.execute(queries.APPEND, (ref, 1, 1, run.at, FORMAT, *texts))
    return Created(new_head(run, ref, wake_at, run.owner), True, tx.now)


def _insert(
    tx: Transaction,
    run: NewRun,
    texts: Texts,
    wake_at: int,
    epoch: int = 0,
    owner: str | None = None,
    key: str | None = None,
    once: str | None = None,
) -> tuple[int, bool]:
    """Its ref, and whether it is parked."""
    parked = run.lane != "" and owner is None and not run.delay and is_behind(tx, run.workflow, run.version, run.lane, run.priority)
    tx.cursor.execute(
        queries.CREATE,
        (
            run.run_id, run.workflow, run.version, run.shape, run.status.value, run.priority, run.at, run.at, wake_at,
            owner, epoch, run.input_digest, key, pack_names(run.waiting), run.parent, run.lane, parked, once,
        ),
    )  # fmt: skip
    ref = tx.cursor.lastrowid
    assert ref is not None, "a row was inserted"
    tx.cursor.execute(queries.APPEND, (ref, 1, epoch, run.at, FORMAT, *texts))
    return ref, parked


def commit(tx: Transaction, commit: Commit, texts: Texts, children: Iterable[Child] = ()) -> Committed:
    """One step forward, if everything is as its holder saw it (D12). `children` are the commit's, with the texts of their rows."""
    if not needs_no_look(tx, commit.owner):
        is_live(tx, commit.owner)  # and how long its lease has left
    if not (_step(tx, commit) or _move(tx, commit)):
        return _refuse(tx, commit, texts)
    position = commit.position
    if commit.records:
        position += 1
        tx.cursor.execute(queries.APPEND, (commit.ref, position, commit.epoch, commit.at, FORMAT, *texts))
    for seq in commit.consumed:
        tx.cursor.execute(queries.CONSUME, (position, commit.ref, seq))
    if commit.release or commit.ended:
        tx.notify = True
        if commit.release and commit.lane:
            let_in_all(tx, [(_workflow_of(tx, commit.ref), commit.lane)])
    if commit.owner in tx.workers:
        prolong(tx, commit.owner)
    if children or commit.posts:
        spread(tx, children, commit.posts)
    return Committed(tx.now)


def spread(tx: Transaction, children: Iterable[Child], posts: Iterable[Outgoing]) -> None:
    """What a commit, or a tick, means for other runs (contract 16). Nothing of it is ever refused."""
    for child, texts in children:
        if tx.row(queries.ADDRESS, (child.run_id,)) is None:
            _insert(tx, child, texts, tx.now + child.delay)
            tx.notify = True
    for sent in posts:
        _deliver(tx, sent.run_id, sent.posting)


def _deliver(tx: Transaction, run_id: str, posting: NewPosting) -> None:
    row = tx.row(queries.ADDRESS, (run_id,))
    if row is None or type(row[4]) is not int:  # gone, or damaged (contract 14)
        return
    ref, _, status, _, _ = row
    if status in ENDED and posting.kind != "unwind":
        return
    if posting.signal_id is None or tx.row(queries.KNOWN_SIGNAL, (ref, posting.signal_id)) is None:
        _number(tx, posting, row, queries.DELIVER)


def _step(tx: Transaction, commit: Commit) -> bool:
    """What most commits are, in the way that touches no index; whether it was this, and as its holder saw it."""
    if commit.release or commit.ended or commit.version or commit.fresh or not commit.records:
        return False
    wake_at = tx.now if commit.wake_at == 0 else commit.wake_at
    stand = (commit.status.value, pack_names(commit.waiting), commit.blocked, pack_shapes(commit.misfits))
    change = (commit.position + 1, commit.at, wake_at)
    return tx.cursor.execute(queries.STEP, (*change, *_seen(commit), *stand)).rowcount == 1


def _seen(commit: Commit) -> tuple[Any, ...]:
    return commit.ref, commit.run_id, commit.owner, commit.epoch, commit.position, commit.inbox_seq


def _move(tx: Transaction, commit: Commit) -> bool:
    """Any other step."""
    moved = (commit.position + 1, commit.at) if commit.records else (commit.position, None)
    wake_at = tx.now if commit.wake_at == 0 else commit.wake_at
    ended = commit.ended
    stand = (commit.status.value, wake_at, pack_names(commit.waiting), commit.blocked, pack_shapes(commit.misfits))
    code = (commit.version, commit.shape) if commit.version else (None, None)
    base = moved[0] if commit.fresh and commit.records else None
    change = (*moved, *stand, ended, moved[1], commit.at, commit.release, *code, base, ended)
    return tx.cursor.execute(queries.MOVE, (*change, *_seen(commit))).rowcount == 1


def _workflow_of(tx: Transaction, ref: int) -> str:
    workflow: str = tx.row(queries.LANE_OF, (ref,))[0]
    return workflow


def _refuse(tx: Transaction, commit: Commit, texts: Texts) -> Committed:
    """Why nothing was written: it was written before, the lease is lost, or there are newer postings."""
    row = tx.row(queries.STAND, (commit.ref, commit.run_id))
    if row is None:
        raise RunNotFound(f"run {commit.run_id!r} was deleted")
    owner, epoch, position, inbox_seq = row
    if commit.records and tx.row(queries.WRITTEN, (commit.ref, commit.position + 1)) == (
        commit.epoch, commit.at, *texts,
    ):  # fmt: skip
        return Committed(tx.now)
    if owner != commit.owner or epoch != commit.epoch or not is_live(tx, commit.owner):
        raise LeaseLost(f"run {commit.run_id!r} is held by another worker")
    if position != commit.position or inbox_seq < commit.inbox_seq:
        raise LeaseLost(f"run {commit.run_id!r} stands at {position}, not at {commit.position}")
    return Committed(tx.now, newer(tx, commit.ref, commit.inbox_seq))


def newer(tx: Transaction, ref: int, seen: int) -> tuple[Posting, ...]:
    """Pending postings behind `seen`."""
    return tuple([posting_of(row) for row in tx.cursor.execute(queries.NEWER, (ref, seen))])


def post(tx: Transaction, leases: Leases, run_id: str, posting: NewPosting, workflow: str | None, taker: str | None) -> RawPosted:
    """Accept a posting, and let `taker` have the run if nothing live holds it (contract 7)."""
    row = tx.row(queries.ADDRESS, (run_id,))
    if row is None:
        raise RunNotFound(f"no run {run_id!r} in this storage")
    ref, of, status, owner, inbox_seq = row
    if workflow is not None and of != workflow:
        raise RunNotFound(f"run {run_id!r} is of workflow {of!r}, not {workflow!r}")
    known = None
    if posting.signal_id is not None:
        known = tx.row(queries.KNOWN_SIGNAL, (ref, posting.signal_id))
    if known is None:
        _accept(tx, run_id, posting, row)
    run = None
    if taker is not None and status not in ENDED and status != RunStatus.BLOCKED.value and is_live(tx, taker):
        run = leases.seize(tx, run_id, owner, taker)
    seq = inbox_seq + 1 if known is None else known[0]
    return RawPosted(tx.row(queries.HEADER, (run_id,)), seq, known is None, tx.now, run)


def _accept(tx: Transaction, run_id: str, posting: NewPosting, row: Any) -> None:
    ref, _, status, _, _ = row
    if status in ENDED:
        raise RunFinished(f"run {run_id!r} has ended: it is {status}")
    if posting.kind == "signal" and tx.row(queries.PENDING, (ref, posting.limit))[0] >= posting.limit:
        raise InboxFull(f"run {run_id!r} has {posting.limit} signals that nothing has taken yet")
    _number(tx, posting, row, queries.POST)


def _number(tx: Transaction, posting: NewPosting, row: Any, statement: str) -> None:
    ref, _, status, owner, inbox_seq = row
    seq = inbox_seq + 1
    kept = (ref, seq, posting.kind, posting.name, posting.payload, posting.signal_id, tx.now)
    if tx.cursor.execute(statement, kept).rowcount == 0:
        return
    # An ended run that is held is due as well: its holder may die before it has seen this.
    if status in ENDED or (owner is None and status != RunStatus.BLOCKED.value):
        tx.cursor.execute(queries.RING_FREE, (seq, tx.now, tx.now, ref))
    else:
        tx.cursor.execute(queries.RING, (seq, ref))
    tx.notify = True

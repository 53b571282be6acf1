"""Writing runs: creating, committing, posting. Each is one statement in the ordinary case (contract 1).

The order of locks, so that nobody waits in a circle: limited workflows and lanes (claiming.py, lanes.py), then schedules (the row in
`forgotten` first), then runs by their ids, then workers, then new runs by their ids. So batches are sorted; what does not keep to the
order passes over what is locked, or is one of the few whose transaction the server may break off, which are sent again (40P01): a worker
that registers anew and still stands in runs, two that make runs under each other's keys, and what lanes.py says.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from flux.core.commands import Posting
from flux.core.status import TERMINAL
from flux.errors import InboxFull, LeaseLost, RunFinished, RunNotFound, StorageUnavailable
from flux.journal import FORMAT
from flux.storage import Commit, Committed, Created, Header, NewPosting, NewRun

from ..heads import new_head
from .line import Member
from .link import ANSWERING, Connection
from .rows import HEADER, header_of, pack_names, pack_shapes, posting_of

if TYPE_CHECKING:
    from .opened import Opened
    from .spreading import Spreading

Texts: TypeAlias = tuple[str, str]  # control and payload of a row
NewWritten: TypeAlias = tuple[NewRun, Texts]
# A commit, its row (None: it is without records), and what it means for others (None: nothing).
Written: TypeAlias = "tuple[Commit, Texts | None, Spreading | None]"

ENDED = frozenset(status.value for status in TERMINAL)
TRIES = 20  # of a statement that found that others had been there


def new_mark() -> int:
    """A number for one call."""
    return secrets.randbits(62)


# --- creating


async def create_all(o: Opened, batch: list[Member[NewWritten]]) -> None:
    """Make runs once each (contract 2)."""
    left = {member.mark or new_mark(): member for member in sorted(batch, key=_new_id)}
    for _ in range(TRIES):
        now, made = await _create(o, left)
        for mark, (ref, wake_at) in made.items():
            member = left.pop(mark)
            run = member.request[0]
            member.value = Created(fresh_header(run, ref, wake_at, run.owner), True, now)
        if left:
            await _look_for(o, left, now)
        if not left:
            return
    raise StorageUnavailable(f"{o.link.where}: runs came and went while others of their names were made")


def create_lone(o: Opened, member: Member[NewWritten]) -> Coroutine[Any, Any, bool] | None:
    """Make a run that is alone: whether it is made; None where that takes more (see `Line`)."""
    return _create_lone(o, member) if o.express.prompt() else None


async def _create_lone(o: Opened, member: Member[NewWritten]) -> bool:
    run, texts = member.request
    member.mark = new_mark()
    said = (
        run.run_id, run.workflow, run.version, run.shape, run.status.value, run.priority, run.at, run.wake_at, run.delay, run.owner,
        run.input_digest, run.idempotency_key, pack_names(run.waiting), run.parent, *texts,
        None if run.status in TERMINAL else run.deduplication_key,
    )  # fmt: skip
    try:
        row = await o.express.first(o.sql.create_one, o.earliest(), o.token, FORMAT, member.mark, *said)
    finally:
        if run.owner is None:
            o.changes.own()
    if row is None:
        return False
    member.value = Created(fresh_header(run, row[1], row[2], run.owner), True, o.saw(row[0]))
    return True


def _new_id(member: Member[NewWritten]) -> str:
    return member.request[0].run_id


async def _create(o: Opened, left: dict[int, Member[NewWritten]]) -> tuple[int, dict[int, tuple[int, int]]]:
    """The time, and what was made: mark -> (ref, wake_at)."""
    new = [member.request for member in left.values()]
    owners, keys = [run.owner for run, _ in new], [run.idempotency_key for run, _ in new]
    try:
        once = [run.deduplication_key for run, _ in new]
        rows = await o.express.rows(o.sql.create, *new_columns(o, list(left), new, owners, keys, once=once))
    finally:
        if not all(owners):
            o.changes.own()
    return o.saw(rows[0][0]), {row[1]: (row[2], row[3]) for row in rows if row[1] is not None}


def new_columns(
    o: Opened,
    marks: list[int],
    new: list[NewWritten],
    owners: Sequence[str | None],
    keys: Sequence[str | None],
    token: str | None = None,
    once: Sequence[str | None] = (),
    parks: bool = True,
) -> tuple[Any, ...]:
    """What the statement is told that makes these runs. `token` marks its notification: this storage's own unless it is given. `parks`:
    whether they may be parked, for which their lanes must be locked."""
    runs = [run for run, _ in new]
    return (
        o.earliest(), o.token if token is None else token, FORMAT, marks,
        [run.run_id for run in runs], [run.workflow for run in runs], [run.version for run in runs], [run.shape for run in runs],
        [run.status.value for run in runs], [run.priority for run in runs], [run.at for run in runs], [run.wake_at for run in runs],
        [run.delay for run in runs], owners, [run.input_digest for run in runs], keys, [pack_names(run.waiting) for run in runs],
        [run.parent for run in runs], [control for _, (control, _) in new], [payload for _, (_, payload) in new],
        [run.lane for run in runs], [None if run.status in TERMINAL else key for run, key in zip(runs, once, strict=True)]
        if once else [None] * len(runs), parks,
    )  # fmt: skip


async def _look_for(o: Opened, left: dict[int, Member[NewWritten]], now: int) -> None:
    """Answer those whose run is there, perhaps made by this very call, and those whose owner is dead."""
    runs = [member.request[0] for member in left.values()]
    rows = await o.express.rows(
        o.sql.existing, [run.run_id for run in runs], [run.workflow for run in runs], [run.idempotency_key for run in runs],
        [run.owner for run in runs], [run.deduplication_key for run in runs],
    )  # fmt: skip
    marks = list(left)
    for row in rows:
        mark, live, columns = marks[row[0] - 1], row[1], row[2:]
        if columns[0] is not None:
            left.pop(mark).value = Created(header_of(columns), columns[HEADER] == mark, now)
        elif not live:
            member = left.pop(mark)
            member.error = LeaseLost(f"worker {member.request[0].owner!r} is not registered, or was condemned")


def fresh_header(run: NewRun, ref: int, wake_at: int, owner: str | None, *, parked: bool = False) -> Header:
    """The head of a run as it has just been made."""
    once = None if run.status in TERMINAL else run.deduplication_key
    return new_head(run, ref, wake_at, owner, run.idempotency_key, once, parked=parked)


# --- committing


async def commit_all(o: Opened, batch: list[Member[Written]]) -> None:
    """Steps forward of several runs, each with its own outcome (contract 3, I47)."""
    left = batch if len(batch) == 1 else sorted(batch, key=commit_id)
    for _ in range(TRIES):
        now, done = await _commit(o, left)
        for number in done:
            left[number - 1].value = Committed(now)
        if len(done) == len(left):
            return
        written = frozenset(done)
        left = await explain(o, [member for number, member in enumerate(left, start=1) if number not in written], now)
        if not left:
            return
    raise StorageUnavailable(f"{o.link.where}: runs changed again and again while they were committed")


def commit_id(member: Member[Written]) -> str:
    """The run that a commit is of."""
    return member.request[0].run_id


Fetch: TypeAlias = Callable[..., Awaitable[list[Any]]]  # a statement and its parameters -> all rows
Quick: TypeAlias = tuple[str, tuple[Any, ...]]  # a statement and its parameters


def commit_lone(o: Opened, member: Member[Written]) -> Coroutine[Any, Any, bool] | None:
    """A step forward of a run that is alone: whether it is written; None where that takes more (see `Line`)."""
    quick = _quick(o, member) if o.express.prompt() else None
    return None if quick is None else _commit_lone(o, member, quick)


async def _commit_lone(o: Opened, member: Member[Written], quick: Quick) -> bool:
    try:
        row = await o.express.first(quick[0], *quick[1])
    finally:
        if member.request[0].release:
            o.changes.own()
    if row is None:
        return False
    member.value = Committed(o.saw(row[0]))
    return True


def _quick(o: Opened, member: Member[Written]) -> Quick | None:
    """The short statement for what most commits are, if this is one and need not look after the lease."""
    c, texts, _ = member.request
    if texts is None or c.consumed or c.version or c.lane or (c.ended and not c.release) or o.prolongs(c.owner):
        return None
    said = (
        o.earliest(), FORMAT, c.ref, c.run_id, c.owner, c.epoch, c.position, c.inbox_seq, c.at, *texts, c.status.value, c.wake_at,
        pack_names(c.waiting), c.blocked, pack_shapes(c.misfits),
    )  # fmt: skip
    return (o.sql.last, (*said, o.token)) if c.release else (o.sql.step, said)


async def _commit(o: Opened, left: list[Member[Written]]) -> tuple[int, list[int]]:
    """The time, and which of them were written, counted from 1."""
    one = len(left) == 1
    loud = any(member.request[0].release or member.request[0].ended for member in left)
    try:
        if one and (quick := _quick(o, left[0])) is not None:
            row = await o.express.row(quick[0], *quick[1])
            return (o.earliest(), []) if row is None else (o.saw(row[0]), [1])
        if one:
            o.prolonged(left[0].request[0].owner)
        rows = [said_by(member) for member in left]
        said: Iterable[Any] = rows[0] if one else map(list, zip(*rows, strict=True))
        numbers, seqs = consumed_by(left)
        more = (numbers, seqs) if numbers else ()
        row = await o.express.row(o.sql.commit[one, bool(more), loud], o.earliest(), o.token, FORMAT, *said, *more)
    finally:
        if loud:
            o.changes.own()
    return o.saw(row[0]), row[1]


def said_by(member: Member[Written]) -> tuple[Any, ...]:
    """What a commit says, as the statement is told."""
    c, texts, _ = member.request
    return (
        c.ref, c.run_id, c.owner, c.epoch, c.position, c.inbox_seq, c.at, *(texts or (None, None)), c.status.value, c.wake_at,
        pack_names(c.waiting), c.blocked, pack_shapes(c.misfits), c.release, c.version, c.shape,
    )  # fmt: skip


def consumed_by(left: list[Member[Written]]) -> tuple[list[int], list[int]]:
    """The postings that are consumed: by which, counted from 1, and their numbers."""
    consumed = [(number, seq) for number, member in enumerate(left, start=1) for seq in member.request[0].consumed]
    return [number for number, _ in consumed], [seq for _, seq in consumed]


async def explain(
    o: Opened, left: list[Member[Written]], now: int, fetch: Fetch | None = None, *, told: bool = False
) -> list[Member[Written]]:
    """Why nothing was written: it was written before, the lease is lost, or there are newer postings. Returns those that nothing
    speaks against any more. `fetch`: how to ask, where that is not to be on a connection of the storage's own. `told`: newer
    postings were looked for, and none was found."""
    commits = [member.request[0] for member in left]
    fetch = o.express.rows if fetch is None else fetch
    rows = await fetch(
        o.sql.stand, [c.ref for c in commits], [c.run_id for c in commits], [c.owner for c in commits], [c.epoch for c in commits],
        [c.position for c in commits], [c.at for c in commits],
    )  # fmt: skip
    undecided: list[Member[Written]] = []
    newer: list[Member[Written]] = []
    for row in rows:
        member = left[row["n"] - 1]
        commit, texts, _ = member.request
        error = _refusal(commit, row)
        if texts is not None and texts == (row["control"], row["payload"]):
            member.value = Committed(now)
        elif error is not None:
            member.error = error
        else:
            (newer if row["inbox_seq"] > commit.inbox_seq else undecided).append(member)
    if told:
        for member in newer:
            member.value = Committed(now)
        return undecided
    # Where there is none, another worker may have taken the run and consumed them in between: who looks once more sees that.
    silent = await _tell(o, newer, now, fetch) if newer else []
    return undecided + await explain(o, silent, now, fetch, told=True) if silent else undecided


def _refusal(commit: Commit, row: Any) -> Exception | None:
    position, inbox_seq = row["position"], row["inbox_seq"]
    if row["ref"] is None:
        return RunNotFound(f"run {commit.run_id!r} was deleted")
    if row["owner"] != commit.owner or row["epoch"] != commit.epoch or not row["live"]:
        return LeaseLost(f"run {commit.run_id!r} is held by another worker")
    if position != commit.position:
        return LeaseLost(f"run {commit.run_id!r} stands at {position}, not at {commit.position}")
    if inbox_seq < commit.inbox_seq:
        return LeaseLost(f"run {commit.run_id!r} has had {inbox_seq} postings, not {commit.inbox_seq}")
    return None


async def _tell(o: Opened, members: list[Member[Written]], now: int, fetch: Fetch) -> list[Member[Written]]:
    """Reply with the postings that the holders have not seen (D12). Returns those for whom there is none."""
    commits = [member.request[0] for member in members]
    rows = await fetch(o.sql.newer, [c.ref for c in commits], [c.inbox_seq for c in commits])
    found: dict[int, list[Posting]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(posting_of(row[1:]))
    for number, postings in found.items():
        members[number - 1].value = Committed(now, tuple(postings))
    return [member for number, member in enumerate(members, start=1) if number not in found]


# --- posting


async def post(
    o: Opened, run_id: str, posting: NewPosting, workflow: str | None, mark: int, taker: str | None
) -> tuple[Header, int, bool, int, bool]:
    """Accept a posting: the head, its number, whether it is new (which is the caller's to tell those who wait; with a taker, also those of
    other storages), the time, and whether the taker has the run by it, under this mark.

    Raises RunNotFound, RunFinished, InboxFull.
    """
    said = (run_id, workflow, posting.kind, posting.name, posting.payload, posting.signal_id, posting.limit, mark, taker)

    async def work(connection: Connection, again: bool) -> Any:
        return await (_keep_behind if again else _keep)(o, connection, said)

    try:
        seq, row = await o.link.perform(work)
    except StorageUnavailable:
        o.changes.own()  # it may have been accepted
        raise
    if row is None:
        raise RunNotFound(f"no run {run_id!r} in this storage")
    header = header_of(row)
    if seq is None and row["what"] != "new":
        demand(row["what"], header, workflow)
        return header, row["seq"], False, o.saw(row["now"]), False
    if seq is not None:
        return header, seq, True, o.earliest(), False
    return header, header.inbox_seq, True, o.saw(row["now"]), row["taken"]


async def _keep(o: Opened, connection: Connection, said: tuple[Any, ...]) -> tuple[int | None, Any]:
    """The posting's number, if an earlier try has kept it, and the head of the run with what became of it; None where there is no run."""
    try:
        row = await connection.fetchrow(o.sql.post, o.earliest(), o.token, *said, timeout=ANSWERING)
        if row is None or row["what"] != "stale":
            return None, row
    except asyncpg.UniqueViolationError:
        pass  # the same signal, accepted from somebody else since this statement began
    return await _keep_behind(o, connection, said)


async def _keep_behind(o: Opened, connection: Connection, said: tuple[Any, ...]) -> tuple[int | None, Any]:
    """The same in several steps. First the lock: what is read after it is as new as can be, and what an earlier try of this call did, which
    may wait for it still though its connection is gone, is there then."""
    run_id, mark = said[0], said[7]
    async with connection.transaction():
        await connection.execute(o.sql.lock_run, run_id, timeout=ANSWERING)
        seq = await connection.fetchval(o.sql.posted, run_id, mark, timeout=ANSWERING)
        if seq is not None:
            return seq, await connection.fetchrow(o.sql.read_header, run_id, timeout=ANSWERING)
        return None, await keep_within(o, connection, (o.earliest(), o.token, *said))


async def keep_within(o: Opened, connection: Connection, said: tuple[Any, ...]) -> Any:
    """Inside a transaction that has asked for the run's lock: the head of the run with what became of the posting, None where there is
    no run. Who asked before the run was made has no lock, and asks again. Raises StorageUnavailable."""
    run_id = said[2]
    for _ in range(TRIES):
        row = await connection.fetchrow(o.sql.post, *said, timeout=ANSWERING)
        if row is None or row["what"] != "stale":
            return row
        await connection.execute(o.sql.lock_run, run_id, timeout=ANSWERING)
    raise StorageUnavailable(f"{o.link.where}: run {run_id!r} changed again and again while something was posted to it")


def demand(what: str, header: Header, workflow: str | None) -> None:
    """Raises what stands against a posting that is not new, unless it is known. Raises RunNotFound, RunFinished, InboxFull."""
    run_id = header.run_id
    if what == "other":
        raise RunNotFound(f"run {run_id!r} is of workflow {header.workflow!r}, not {workflow!r}")
    if what == "ended":
        raise RunFinished(f"run {run_id!r} has ended: it is {header.status.value}")
    if what == "full":
        raise InboxFull(f"run {run_id!r} has its limit of signals that nothing has taken yet")
    assert what == "known", f"nothing else speaks against a posting, but {what!r} does"

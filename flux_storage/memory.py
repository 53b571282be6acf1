"""Runs in this process's memory: the default, and the reference that the other adapters are held against.

Keeps what a database would: rows of text, never live objects (I43). It lives and dies
with its object; give one to two engines and they share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from types import TracebackType

from flux.clock import Clock, SystemClock
from flux.core.commands import Posting
from flux.core.status import TERMINAL, RunStatus
from flux.errors import InboxFull, LeaseLost, RunFinished, RunNotFinished, RunNotFound, UnreadableRun
from flux.journal import decode_row, encode_row
from flux.storage import Claimed, Code, Commit, Committed, Created, Header, NewPosting, NewRun, Posted, Query, Renewal, Row, StoredRun

MINUTE = 60_000_000
SWEEP = 1000  # runs freed of a dead worker in one call

_Stored = tuple[int, int, str, str]  # a row: epoch, at, control, payload; nothing that the garbage collector would visit for ever
_Due = tuple[int, str, int]
_Version = tuple[str, str]  # a workflow's name and version
_Level = tuple[int, tuple[str, ...]]  # a priority and misfits: runs that claims pass over together
_Wanted = dict[_Version, list[str]]  # the shapes that a worker has


@dataclass(slots=True)
class _Worker:
    expires_at: int
    lease: int
    owned: dict[str, None] = field(default_factory=dict)  # run ids


@dataclass(slots=True)
class _Run:
    header: Header
    rows: list[_Stored] = field(default_factory=list)
    inbox: dict[int, Posting] = field(default_factory=dict)  # not yet taken, by seq
    signal_ids: dict[str, int] = field(default_factory=dict)
    seen: int = 0  # the newest posting that the holder has stated


class MemoryStorage:
    """A `WorkflowStorage` in memory.

    `clock` is where its time comes from: give it `flux.testing.VirtualClock` and days pass at once.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self._runs: dict[str, _Run] = {}
        self._keys: dict[tuple[str, str], str] = {}  # (workflow, idempotency key) -> run id
        self._workers: dict[str, _Worker] = {}
        self._orphans: dict[str, None] = {}  # runs whose worker is condemned
        # Unowned runs with a wake-up time: (workflow, version) -> level -> heap of (wake_at, run id, ref). An entry whose
        # run has an owner by now, or another wake-up time, version or misfits, is stale and dropped when it comes up.
        self._due: dict[_Version, dict[_Level, list[_Due]]] = {}
        self._last = 0
        self._refs = 0
        self._changes = 0
        self._waiters: list[asyncio.Future[None]] = []

    async def __aenter__(self) -> MemoryStorage:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    async def now(self) -> int:
        """The clock's time, or the last answer where that is later (D16)."""
        return self._now()

    def _now(self) -> int:
        now = self.clock.now()
        if now < self._last:
            return self._last
        self._last = now
        return now

    # --- runs

    async def create(self, run: NewRun) -> Created:
        """Make a run, or find the one that is there."""
        now = self._now()
        known = run.run_id
        if run.idempotency_key is not None:
            known = self._keys.get((run.workflow, run.idempotency_key), known)
        existing = self._runs.get(known)
        if existing is not None:
            return Created(existing.header.copy(), False, now)
        owner = run.owner
        if owner is not None:
            self._live(owner).owned[run.run_id] = None
        self._refs += 1
        wake_at = (run.wake_at or now) if owner is not None else now + run.delay
        header = Header(
            run.run_id, self._refs, run.workflow, run.version, run.shape, run.status, run.priority, run.at, run.at, None,
            wake_at, owner, 0 if owner is None else 1, 1, 0, run.input_digest, run.idempotency_key, run.waiting,
        )  # fmt: skip
        stored = _Run(header, [(header.epoch, run.at, *encode_row(run.records))])
        self._runs[run.run_id] = stored
        if run.idempotency_key is not None:
            self._keys[run.workflow, run.idempotency_key] = run.run_id
        if owner is None:
            self._queue(header)
            self._notify()
        return Created(header.copy(), True, now)

    async def load(self, run_id: str) -> StoredRun | None:
        """The whole run."""
        stored = self._runs.get(run_id)
        return None if stored is None else _copy(stored)

    async def read_header(self, run_id: str) -> Header | None:
        """The head of the run."""
        stored = self._runs.get(run_id)
        return None if stored is None else stored.header.copy()

    async def read_journal(self, run_id: str, after: int = 0, limit: int = 500) -> list[Row]:
        """Rows behind `after`."""
        stored = self._runs.get(run_id)
        return [] if stored is None else _rows(stored, max(after, 0), max(limit, 0))

    async def find(self, query: Query) -> list[Header]:
        """A page of runs, newest first."""
        found = [
            stored.header
            for stored in self._runs.values()
            if (query.workflow is None or stored.header.workflow == query.workflow)
            and (query.version is None or stored.header.version == query.version)
            and (not query.statuses or stored.header.status in query.statuses)
            and (query.before is None or (stored.header.created_at, stored.header.run_id) < query.before)
        ]
        found.sort(key=lambda header: (header.created_at, header.run_id), reverse=True)
        return [header.copy() for header in found[: max(query.limit, 0)]]

    async def commit(self, commit: Commit) -> Committed:
        """One step forward."""
        now = self._now()
        stored = self._runs.get(commit.run_id)
        if stored is None or stored.header.ref != commit.ref:
            raise RunNotFound(f"run {commit.run_id!r} was deleted")
        header = stored.header
        worker = self._workers.get(commit.owner)
        held = worker is not None and header.owner == commit.owner and header.epoch == commit.epoch
        if not held or header.position != commit.position:
            if _already(stored, commit):
                return Committed(now)
            raise LeaseLost(_lost(header, commit, held))
        if header.inbox_seq != commit.inbox_seq:
            if header.inbox_seq < commit.inbox_seq:
                raise LeaseLost(f"run {commit.run_id!r} has had {header.inbox_seq} postings, not {commit.inbox_seq}")
            return Committed(now, tuple([replace(p) for p in stored.inbox.values() if p.seq > commit.inbox_seq]))
        if commit.records:
            header.position += 1
            stored.rows.append((header.epoch, commit.at, *encode_row(commit.records)))
            header.updated_at = commit.at
        for seq in commit.consumed:
            stored.inbox.pop(seq, None)
        stored.seen = commit.inbox_seq
        self._place(header, commit, now)
        if worker is not None and worker.expires_at - now < worker.lease - worker.lease // 3:
            worker.expires_at = now + worker.lease
        return Committed(now)

    def _place(self, header: Header, commit: Commit, now: int) -> None:
        """The header says where the run stands; others are told when that may concern them."""
        status = header.status = commit.status
        header.wake_at = commit.wake_at or (None if commit.wake_at is None else now)
        header.waiting = commit.waiting
        header.blocked = commit.blocked
        header.misfits = tuple(sorted(set(commit.misfits))) if commit.misfits else ()
        if commit.version:
            header.version, header.shape = commit.version, commit.shape
        if status not in TERMINAL:
            header.ended_at = None
        elif commit.records or header.ended_at is None:
            header.ended_at = commit.at
        if commit.release:
            self._free(header)
        if commit.release or header.ended_at is not None:
            self._notify()

    async def post(self, run_id: str, posting: NewPosting, *, workflow: str | None = None, taker: str | None = None) -> Posted:
        """Accept a signal or a cancel."""
        now = self._now()
        stored = self._stored(run_id)
        header = stored.header
        if workflow is not None and header.workflow != workflow:
            raise RunNotFound(f"run {run_id!r} is of workflow {header.workflow!r}, not {workflow!r}")
        if posting.signal_id is not None and posting.signal_id in stored.signal_ids:
            seq, fresh = stored.signal_ids[posting.signal_id], False
        else:
            seq, fresh = self._keep(stored, posting, now), True
        run = None
        still = header.status in TERMINAL or header.status is RunStatus.BLOCKED
        if taker is not None and taker in self._workers and not still:
            run = self._take(stored, taker, now)
        if fresh:
            self._notify()
        return Posted(header.copy(), seq, fresh, now, run)

    def _keep(self, stored: _Run, posting: NewPosting, now: int) -> int:
        header = stored.header
        if header.status in TERMINAL:
            raise RunFinished(f"run {header.run_id!r} has ended: it is {header.status.value}")
        if posting.kind == "signal" and len(stored.inbox) >= posting.limit:
            raise InboxFull(f"run {header.run_id!r} has {len(stored.inbox)} signals that nothing has taken yet")
        header.inbox_seq += 1
        seq = header.inbox_seq
        stored.inbox[seq] = Posting(seq, posting.kind, posting.name, posting.payload, posting.signal_id, now)
        if posting.signal_id is not None:
            stored.signal_ids[posting.signal_id] = seq
        late = header.wake_at is None or header.wake_at > now
        if late and header.owner is None and header.status is not RunStatus.BLOCKED:
            header.wake_at = now
            self._queue(header)
        return seq

    # --- leases

    async def take(self, run_id: str, worker: str, *, blocked: bool = False, ended: bool = False) -> StoredRun | None:
        """Lease this run if nothing live holds it."""
        now = self._now()
        self._live(worker)
        stored = self._stored(run_id)
        status = stored.header.status
        if (status in TERMINAL and not ended) or (status is RunStatus.BLOCKED and not blocked):
            return _copy(stored)
        return self._take(stored, worker, now)

    def _take(self, stored: _Run, worker: str, now: int) -> StoredRun | None:
        header = stored.header
        if header.owner is not None and header.owner != worker and self._expired(header.owner, now):
            self._disown(stored, now)
            self._sweep(now, worker)
        if header.owner is not None:
            return None
        self._workers[worker].owned[header.run_id] = None
        self._orphans.pop(header.run_id, None)
        header.owner = worker
        header.epoch += 1
        stored.seen = header.inbox_seq
        return _copy(stored)

    async def claim(self, worker: str, codes: Collection[Code], limit: int) -> Claimed:
        """Lease due runs."""
        now = self._now()
        self._live(worker)
        self._sweep(now, worker)
        wanted: _Wanted = {}
        for workflow, version, shape in codes:
            wanted.setdefault((workflow, version), []).append(shape)
        runs: list[StoredRun] = []
        while len(runs) < limit:
            best = self._best(wanted, now)
            if best is None:
                break
            taken = self._take(best, worker, now)
            if taken is not None:
                runs.append(taken)
        return Claimed(runs, min([heap[0][0] for _, _, heap in self._heaps(wanted)], default=None), now)

    def _best(self, wanted: _Wanted, now: int) -> _Run | None:
        """The most urgent due run; of equals the first by priority, by place among what is wanted, by id."""
        best: tuple[int, int, int, str] | None = None
        queue: list[_Due] = []
        for place, priority, heap in self._heaps(wanted):
            wake_at, run_id, _ = heap[0]
            if wake_at <= now:
                rank = (wake_at - priority * MINUTE, -priority, place, run_id)
                if best is None or rank < best:
                    best, queue = rank, heap
        return None if best is None else self._runs[heappop(queue)[1]]

    def _heaps(self, wanted: _Wanted) -> Iterator[tuple[int, int, list[_Due]]]:
        """Queues with something in them, except where no wanted shape fits: (place among what is wanted, priority, heap)."""
        for place, (version, shapes) in enumerate(wanted.items()):
            for (priority, misfits), heap in self._due.get(version, {}).items():
                if not misfits or any(shape not in misfits for shape in shapes):
                    self._trim(heap, version[1], misfits)
                    if heap:
                        yield place, priority, heap

    def _trim(self, heap: list[_Due], version: str, misfits: tuple[str, ...]) -> None:
        """Drop stale entries, so that the first one is a run that is queued here."""
        while heap:
            wake_at, run_id, ref = heap[0]
            stored = self._runs.get(run_id)
            if stored is not None:
                header = stored.header
                here = header.wake_at == wake_at and header.version == version and header.misfits == misfits
                if here and header.ref == ref and header.owner is None:
                    return
            heappop(heap)

    async def register(self, worker: str, lease: int) -> int:
        """Make a worker."""
        now = self._now()
        record = self._workers.get(worker)
        if record is None:
            for run_id in [name for name in self._orphans if self._holder(name) == worker]:
                del self._orphans[run_id]
                self._disown(self._runs[run_id], now)
            record = self._workers[worker] = _Worker(0, 0)
        record.expires_at, record.lease = now + lease, lease
        return now

    def _holder(self, run_id: str) -> str | None:
        stored = self._runs.get(run_id)
        return None if stored is None else stored.header.owner

    async def renew(self, worker: str, lease: int) -> Renewal:
        """Extend a worker's lease."""
        now = self._now()
        record = self._workers.get(worker)
        if record is None:
            return Renewal(False, (), now)
        record.expires_at, record.lease = now + lease, lease
        unseen = tuple(run_id for run_id in list(record.owned) if self._unseen(run_id, worker))
        return Renewal(True, unseen, now)

    def _unseen(self, run_id: str, worker: str) -> bool:
        stored = self._runs.get(run_id)
        return stored is not None and stored.header.owner == worker and stored.header.inbox_seq > stored.seen

    async def unregister(self, worker: str) -> None:
        """Free what the worker holds."""
        self._condemn(worker)
        self._sweep(self._now())

    def _live(self, worker: str) -> _Worker:
        record = self._workers.get(worker)
        if record is None:
            raise LeaseLost(f"worker {worker!r} is not registered, or was condemned")
        return record

    def _expired(self, worker: str, now: int) -> bool:
        record = self._workers.get(worker)
        return record is None or record.expires_at <= now

    def _condemn(self, worker: str) -> None:
        record = self._workers.pop(worker, None)
        if record is not None:
            self._orphans.update(record.owned)

    def _sweep(self, now: int, claimer: str | None = None) -> None:
        """Condemn workers whose lease ran out, except who claims, and free runs of condemned ones, a bounded number a call."""
        for worker in [name for name, record in self._workers.items() if record.expires_at <= now]:
            if worker != claimer:
                self._condemn(worker)
        for run_id in list(self._orphans)[:SWEEP]:
            del self._orphans[run_id]
            stored = self._runs.get(run_id)
            if stored is not None and stored.header.owner not in self._workers:
                self._disown(stored, now)
        if self._orphans:
            self._notify()

    def _disown(self, stored: _Run, now: int) -> None:
        header = stored.header
        if header.owner is None:
            return
        if header.status not in TERMINAL and header.status is not RunStatus.BLOCKED:
            header.wake_at = now
        self._free(header)
        self._notify()

    def _free(self, header: Header) -> None:
        if header.owner is not None:
            worker = self._workers.get(header.owner)
            if worker is not None:
                worker.owned.pop(header.run_id, None)
            header.owner = None
        self._queue(header)

    def _queue(self, header: Header) -> None:
        if header.wake_at is not None:
            levels = self._due.setdefault((header.workflow, header.version), {})
            heap = levels.setdefault((header.priority, header.misfits), [])
            heappush(heap, (header.wake_at, header.run_id, header.ref))

    # --- waiting, forgetting

    async def changed(self, since: int, timeout: float) -> int:
        """Wait for a change that others may wait for."""
        if self._changes != since:
            return self._changes
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.clock.poll_later(timeout, _wake, waiter)
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return self._changes

    def _notify(self) -> None:
        self._changes += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _wake(waiter)

    async def delete(self, run_id: str) -> None:
        """Forget an ended run."""
        stored = self._stored(run_id)
        if stored.header.status not in TERMINAL:
            raise RunNotFinished(f"run {run_id!r} is {stored.header.status.value}: cancel it first")
        self._forget(stored)

    async def purge(self, finished_for: int, limit: int) -> int:
        """Forget runs that ended long ago."""
        before = self._now() - finished_for
        old = [stored for stored in self._runs.values() if stored.header.ended_at is not None and stored.header.ended_at <= before]
        old.sort(key=lambda stored: stored.header.ended_at or 0)
        gone = old[: max(limit, 0)]
        for stored in gone:
            self._forget(stored)
        return len(gone)

    def _forget(self, stored: _Run) -> None:
        header = stored.header
        self._free(header)
        del self._runs[header.run_id]
        if header.idempotency_key is not None:
            del self._keys[header.workflow, header.idempotency_key]

    def _stored(self, run_id: str) -> _Run:
        stored = self._runs.get(run_id)
        if stored is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        return stored


def _already(stored: _Run, commit: Commit) -> bool:
    """Whether this very commit was written before (contract 4)."""
    if not commit.records or len(stored.rows) <= commit.position:
        return False
    return stored.rows[commit.position] == (commit.epoch, commit.at, *encode_row(commit.records))


def _lost(header: Header, commit: Commit, held: bool) -> str:
    if held:
        return f"run {commit.run_id!r} stands at {header.position}, not at {commit.position}"
    return f"run {commit.run_id!r} is held by another worker"


def _copy(stored: _Run) -> StoredRun:
    postings = [replace(posting) for posting in stored.inbox.values()]
    try:
        if len(stored.rows) != stored.header.position:
            raise UnreadableRun(f"run {stored.header.run_id!r}: a row of its journal is missing", stored.header.run_id)
        return StoredRun(stored.header.copy(), _rows(stored, 0, len(stored.rows)), postings)
    except UnreadableRun as error:
        return StoredRun(stored.header.copy(), [], postings, error)


def _rows(stored: _Run, after: int, limit: int) -> list[Row]:
    try:
        return [_row(position, row) for position, row in enumerate(stored.rows[after : after + limit], after + 1)]
    except UnreadableRun as error:
        run_id = stored.header.run_id
        raise UnreadableRun(f"run {run_id!r}: {error}", run_id) from error


def _row(position: int, stored: _Stored) -> Row:
    epoch, at, control, payload = stored
    return Row(position, epoch, at, decode_row(control, payload))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def open_url(url: str) -> MemoryStorage:
    """The storage for `memory:`."""
    return MemoryStorage()

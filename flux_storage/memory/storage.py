"""`MemoryStorage`: the verbs of `flux.storage.WorkflowStorage` in this process's memory.

Keeps what a database would: rows of text, never live objects (I43). It lives and dies
with its object; give one to two engines and they share it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from types import TracebackType

from flux.clock import Clock, SystemClock
from flux.core.commands import Posting
from flux.core.status import TERMINAL, RunStatus
from flux.errors import InboxFull, LeaseLost, RunConflict, RunFinished, RunNotFinished, RunNotFound
from flux.journal import encode_row
from flux.storage import (
    Claimed,
    Code,
    Commit,
    Committed,
    Created,
    Header,
    Limit,
    NewPosting,
    NewRun,
    Outgoing,
    Posted,
    Query,
    Renewal,
    Row,
    Schedule,
    StoredRun,
)

from ..heads import new_head
from ..queueing import Claiming, slot_of, wanted_of
from .changes import Changes
from .claiming import Look
from .due import DueQueue
from .kept import KeptRun, KeptWorker, copy_of, has_written, page_of, rows_of
from .lanes import Lanes
from .schedules import Schedules

SWEEP = 1000  # runs freed of a dead worker in one call
PURGE = 10_000  # runs forgotten in one call, children counted: the one that goes beyond is the last

_Texts = tuple[str, str]  # control and payload of a row


class MemoryStorage:
    """A `WorkflowStorage` in memory.

    `clock` is where its time comes from: give it `flux.testing.VirtualClock` and days pass at once.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self._runs: dict[str, KeptRun] = {}
        self._keys: dict[tuple[str, str], str] = {}  # (workflow, idempotency key) -> run id
        self._once: dict[tuple[str, str], str] = {}  # (workflow, deduplication key) -> run id
        self._workers: dict[str, KeptWorker] = {}
        self._orphans: dict[str, None] = {}  # runs whose worker is condemned
        self._due = DueQueue(self._runs)
        self._lanes = Lanes(self._runs, self._due.put)
        self._held: dict[str, int] = {}  # workflow -> how many of its runs somebody holds
        self._starts: dict[str, dict[int, int]] = {}  # workflow -> how many of its runs began at an instant
        self._children: dict[str, dict[str, None]] = {}  # a parent's id -> the ids of its children
        self._schedules = Schedules()
        self._last = 0
        self._refs = 0
        self._changes = Changes(self.clock)

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

    async def changed(self, since: int, timeout: float) -> int:
        """Wait for a change that others may wait for."""
        return await self._changes.wait(since, timeout)

    # --- runs

    async def create(self, run: NewRun) -> Created:
        """Make a run, or find the one that is there."""
        now = self._now()
        existing = self._existing(run)
        if existing is not None:
            return Created(existing.header.copy(), False, now)
        if run.owner is not None:
            self._live(run.owner)
        stored = self._make(run, encode_row(run.records), now, run.owner, run.idempotency_key)
        if run.deduplication_key is not None and not stored.ended:
            stored.header.deduplication_key = run.deduplication_key
            self._once[run.workflow, run.deduplication_key] = run.run_id
        if run.owner is not None and run.rate is not None:
            self._count(run.workflow, 1, run.rate, now)
        return Created(stored.header.copy(), True, now)

    def _existing(self, run: NewRun) -> KeptRun | None:
        """The run that this one would be another of."""
        known = run.run_id
        if run.idempotency_key is not None:
            known = self._keys.get((run.workflow, run.idempotency_key), known)
        if known not in self._runs and run.deduplication_key is not None:
            known = self._once.get((run.workflow, run.deduplication_key), known)
        return self._runs.get(known)

    def _make(self, run: NewRun, texts: _Texts, now: int, owner: str | None = None, key: str | None = None) -> KeptRun:
        self._refs += 1
        wake_at = now + run.delay if owner is None else run.wake_at or now
        header = new_head(run, self._refs, wake_at, owner, key)
        stored = self._runs[run.run_id] = KeptRun(header, [(header.epoch, run.at, *texts)])
        if key is not None:
            self._keys[run.workflow, key] = run.run_id
        if run.parent:
            self._children.setdefault(run.parent, {})[run.run_id] = None
        if owner is not None:
            self._workers[owner].owned[run.run_id] = None
            self._holds(header, 1)
        else:
            header.parked = run.lane != "" and run.delay == 0 and self._lanes.is_behind(header)
            self._waits(header)
            self._changes.notify()
        return stored

    async def load(self, run_id: str) -> StoredRun | None:
        """The whole run."""
        stored = self._runs.get(run_id)
        return None if stored is None else copy_of(stored)

    async def read_header(self, run_id: str) -> Header | None:
        """The head of the run."""
        stored = self._runs.get(run_id)
        return None if stored is None else stored.header.copy()

    async def read_journal(self, run_id: str, after: int = 0, limit: int = 500) -> list[Row]:
        """Rows behind `after`."""
        stored = self._runs.get(run_id)
        return [] if stored is None else rows_of(stored, max(after, 0), max(limit, 0))

    async def find(self, query: Query) -> list[Header]:
        """A page of runs, newest first."""
        return page_of(self._runs.values(), query)

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
            if has_written(stored, commit):
                return Committed(now)
            raise LeaseLost(_lost(header, commit, held))
        if header.inbox_seq != commit.inbox_seq:
            return Committed(now, _newer(stored, commit))
        children = [(child, encode_row(child.records)) for child in commit.children] if commit.children else []
        if commit.records:
            header.position += 1
            stored.rows.append((header.epoch, commit.at, *encode_row(commit.records)))
            header.updated_at = commit.at
            if commit.fresh:
                stored.base = header.position
        for seq in commit.consumed:
            stored.inbox.pop(seq, None)
        stored.seen = commit.inbox_seq
        self._place(header, commit, now)
        if worker is not None and worker.expires_at - now < worker.lease - worker.lease // 3:
            worker.expires_at = now + worker.lease
        if children or commit.posts:
            self._spread(children, commit.posts, now)
        return Committed(now)

    def _spread(self, children: Iterable[tuple[NewRun, _Texts]], posts: Iterable[Outgoing], now: int) -> None:
        """What a commit, or a tick, means for other runs (contract 16)."""
        for child, texts in children:
            if child.run_id not in self._runs:
                self._make(child, texts, now)
        for sent in posts:
            stored = self._runs.get(sent.run_id)
            if stored is None or (stored.ended and sent.posting.kind != "unwind"):
                continue
            if sent.posting.signal_id is None or sent.posting.signal_id not in stored.signal_ids:
                self._number(stored, sent.posting, now)
                self._changes.notify()

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
        if header.ended_at is not None and header.deduplication_key is not None:
            del self._once[header.workflow, header.deduplication_key]
            header.deduplication_key = None
        if commit.release:
            self._free(header)
            if commit.lane:
                self._lanes.let_in_all([(header.workflow, commit.lane)])
        if commit.release or header.ended_at is not None:
            self._changes.notify()

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
            self._changes.notify()
        return Posted(header.copy(), seq, fresh, now, run)

    def _keep(self, stored: KeptRun, posting: NewPosting, now: int) -> int:
        header = stored.header
        if header.status in TERMINAL:
            raise RunFinished(f"run {header.run_id!r} has ended: it is {header.status.value}")
        if posting.kind == "signal" and len(stored.inbox) >= posting.limit:
            raise InboxFull(f"run {header.run_id!r} has {len(stored.inbox)} signals that nothing has taken yet")
        return self._number(stored, posting, now)

    def _number(self, stored: KeptRun, posting: NewPosting, now: int) -> int:
        header = stored.header
        header.inbox_seq += 1
        seq = header.inbox_seq
        stored.inbox[seq] = Posting(seq, posting.kind, posting.name, posting.payload, posting.signal_id, now)
        if posting.signal_id is not None:
            stored.signal_ids[posting.signal_id] = seq
        late = header.wake_at is None or header.wake_at > now
        # An ended run that is held is due as well: its holder may die before it has seen this.
        if late and header.status is not RunStatus.BLOCKED and (header.owner is None or stored.ended):
            header.wake_at = now
            if header.owner is None:
                self._waits(header)
        return seq

    # --- leases

    async def take(self, run_id: str, worker: str, *, blocked: bool = False, ended: bool = False) -> StoredRun | None:
        """Lease this run if nothing live holds it."""
        now = self._now()
        self._live(worker)
        stored = self._stored(run_id)
        status = stored.header.status
        if (status in TERMINAL and not ended) or (status is RunStatus.BLOCKED and not blocked):
            return copy_of(stored)
        return self._take(stored, worker, now)

    def _take(self, stored: KeptRun, worker: str, now: int) -> StoredRun | None:
        header = stored.header
        if header.owner is not None and header.owner != worker and self._expired(header.owner, now):
            self._disown(stored, now)
            self._sweep(now, worker, [header])
        if header.owner is not None:
            return None
        self._workers[worker].owned[header.run_id] = None
        self._orphans.pop(header.run_id, None)
        header.owner = worker
        header.epoch += 1
        header.parked = False
        self._holds(header, 1)
        stored.seen = header.inbox_seq
        return copy_of(stored)

    async def claim(self, worker: str, codes: Collection[Code], limit: int, limits: Collection[Limit] = ()) -> Claimed:
        """Lease due runs."""
        now = self._now()
        self._live(worker)
        self._sweep(now, worker)
        wanted = wanted_of(codes)
        runs: list[StoredRun] = []

        def lease(stored: KeptRun) -> None:
            taken = self._take(stored, worker, now)
            assert taken is not None, "nobody holds it"
            runs.append(taken)

        look = Look(self._runs, self._due, self._lanes, self._held, self._starts, wanted, now, lease)
        claiming = Claiming(look, self._due.levels(wanted), limits, now, limit)
        next_at = await claiming.perform()
        for one in limits:
            if one.rate is not None and one.workflow in claiming.begun:
                self._count(one.workflow, claiming.begun[one.workflow], one.rate, now)
        return Claimed(runs, next_at, now)

    def _count(self, workflow: str, number: int, rate: tuple[int, int], now: int) -> None:
        """So many of its runs begin now."""
        at = slot_of(now, rate)
        starts = {when: n for when, n in self._starts.get(workflow, {}).items() if when > now - rate[1]}
        self._starts[workflow] = {**starts, at: starts.get(at, 0) + number}

    async def register(self, worker: str, lease: int) -> int:
        """Make a worker."""
        now = self._now()
        record = self._workers.get(worker)
        if record is None:
            left = [self._runs[name] for name in self._orphans if self._holder(name) == worker]
            for stored in left:
                del self._orphans[stored.header.run_id]
                self._disown(stored, now)
            self._let_in([stored.header for stored in left])
            record = self._workers[worker] = KeptWorker(0, 0)
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

    def _live(self, worker: str) -> KeptWorker:
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

    def _sweep(self, now: int, claimer: str | None = None, freed: Iterable[Header] = ()) -> None:
        """Condemn workers whose lease ran out, except who claims, and free runs of condemned ones, a bounded number a call. Some may
        have been `freed` already."""
        free = list(freed)
        for worker in [name for name, record in self._workers.items() if record.expires_at <= now]:
            if worker != claimer:
                self._condemn(worker)
        for run_id in list(self._orphans)[:SWEEP]:
            del self._orphans[run_id]
            stored = self._runs.get(run_id)
            if stored is not None and stored.header.owner not in self._workers:
                self._disown(stored, now)
                free.append(stored.header)
        self._let_in(free)
        if self._orphans:
            self._changes.notify()

    def _disown(self, stored: KeptRun, now: int) -> None:
        header = stored.header
        if header.owner is None:
            return
        if header.status not in TERMINAL and header.status is not RunStatus.BLOCKED:
            header.wake_at = now
        self._free(header)
        self._changes.notify()

    def _free(self, header: Header) -> None:
        if header.owner is not None:
            worker = self._workers.get(header.owner)
            if worker is not None:
                worker.owned.pop(header.run_id, None)
            header.owner = None
            self._holds(header, -1)
        self._waits(header)

    def _holds(self, header: Header, number: int) -> None:
        """So many more of its workflow are held, and of its lane."""
        self._held[header.workflow] = self._held.get(header.workflow, 0) + number
        if header.lane:
            self._lanes.hold(header, number)

    def _waits(self, header: Header) -> None:
        """Nobody holds it."""
        self._due.put(header)
        if header.lane:
            self._lanes.wait(header)

    def _let_in(self, given_up: Iterable[Header]) -> None:
        """Those of their lanes that were parked behind them."""
        self._lanes.let_in_all({(header.workflow, header.lane): None for header in given_up if header.lane})

    # --- schedules

    async def advance(self, schedule: Schedule, runs: Collection[NewRun] = (), posts: Collection[Outgoing] = ()) -> bool:
        """Make a schedule, or replace it."""
        now = self._now()
        children = [(run, encode_row(run.records)) for run in runs]
        if not self._schedules.put(schedule):
            return False
        self._spread(children, posts, now)
        self._changes.notify()
        return True

    async def schedules(self, name: str | None = None, *, due: int | None = None, limit: int = 500, after: str = "") -> list[Schedule]:
        """One, or those that are due, or a page of all."""
        return self._schedules.find(name, due, limit, after)

    async def unschedule(self, name: str) -> bool:
        """Forget a schedule."""
        gone = self._schedules.forget(name)
        if gone:
            self._changes.notify()
        return gone

    # --- forgetting

    async def delete(self, run_id: str) -> None:
        """Forget an ended run and its children."""
        stored = self._stored(run_id)
        if self._has_parent(stored):
            raise RunConflict(f"run {run_id!r} is a child of run {stored.header.parent!r}: delete that one")
        family = self._family(stored)
        for one in family:
            if not one.ended:
                raise RunNotFinished(f"run {one.header.run_id!r} is {one.header.status.value}: cancel it first")
        for one in family:
            self._forget(one)
        self._let_in([one.header for one in family])

    async def purge(self, finished_for: int, limit: int) -> int:
        """Forget runs that ended long ago."""
        before = self._now() - finished_for
        old = [one for one in self._runs.values() if one.header.ended_at is not None and one.header.ended_at <= before]
        old = sorted([one for one in old if not self._has_parent(one)], key=lambda one: one.header.ended_at or 0)
        gone = rows = 0
        families: list[list[KeptRun]] = []
        for stored in old:
            if gone >= limit or rows >= PURGE:
                break
            family = self._family(stored)
            if all(one.ended for one in family):
                for one in family:
                    self._forget(one)
                families.append(family)
                gone += 1
                rows += len(family)
        for family in families:
            self._let_in([one.header for one in family])
        return gone

    def _has_parent(self, stored: KeptRun) -> bool:
        return stored.header.parent != "" and stored.header.parent in self._runs

    def _family(self, stored: KeptRun) -> list[KeptRun]:
        """The run, its children, and theirs."""
        family = {stored.header.run_id: stored}
        new = [stored.header.run_id]
        while new:
            for run_id in self._children.get(new.pop(), ()):
                if run_id not in family:
                    family[run_id] = self._runs[run_id]
                    new.append(run_id)
        return list(family.values())

    def _forget(self, stored: KeptRun) -> None:
        header = stored.header
        if header.owner is not None or header.lane:
            self._changes.notify()
        self._free(header)
        del self._runs[header.run_id]
        if header.idempotency_key is not None:
            del self._keys[header.workflow, header.idempotency_key]
        if header.parent:
            siblings = self._children[header.parent]
            del siblings[header.run_id]
            if not siblings:
                del self._children[header.parent]

    def _stored(self, run_id: str) -> KeptRun:
        stored = self._runs.get(run_id)
        if stored is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        return stored


def _newer(stored: KeptRun, commit: Commit) -> tuple[Posting, ...]:
    if stored.header.inbox_seq < commit.inbox_seq:
        raise LeaseLost(f"run {commit.run_id!r} has had {stored.header.inbox_seq} postings, not {commit.inbox_seq}")
    return tuple([replace(posting) for posting in stored.inbox.values() if posting.seq > commit.inbox_seq])


def _lost(header: Header, commit: Commit, held: bool) -> str:
    if held:
        return f"run {commit.run_id!r} stands at {header.position}, not at {commit.position}"
    return f"run {commit.run_id!r} is held by another worker"

"""What a storage should answer, written as plainly as it can be: dictionaries, lists, and a look at everything each time.

It shares only the values of the seam with the adapters, none of their ways of finding things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from flux.core.status import TERMINAL, RunStatus
from flux.errors import InboxFull, LeaseLost, RunFinished, RunNotFinished, RunNotFound
from flux.storage import (
    Claimed,
    Code,
    Commit,
    Committed,
    Created,
    Header,
    NewPosting,
    NewRun,
    Posted,
    Posting,
    Query,
    Renewal,
    Row,
    StoredRun,
)


@dataclass
class Run:
    header: Header
    rows: list[Row]
    every: list[Posting] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    seen: int = 0

    @property
    def ended(self) -> bool:
        return self.header.status in TERMINAL

    @property
    def blocked(self) -> bool:
        return self.header.status is RunStatus.BLOCKED

    @property
    def pending(self) -> list[Posting]:
        return [posting for posting in self.every if posting.seq not in self.taken]

    def copy(self) -> StoredRun:
        return StoredRun(replace(self.header), list(self.rows), self.pending)


class Model:
    def __init__(self) -> None:
        self.now = 0
        self.runs: dict[str, Run] = {}
        self.workers: dict[str, tuple[int, int]] = {}  # live ones: when the lease ends, and how long it is
        self.refs = 0

    def find_run(self, run_id: str) -> Run:
        if run_id not in self.runs:
            raise RunNotFound
        return self.runs[run_id]

    def demand_live(self, worker: str) -> None:
        if worker not in self.workers:
            raise LeaseLost

    # --- runs

    def create(self, new: NewRun) -> Created:
        for run in self.runs.values():
            if new.idempotency_key and (run.header.workflow, run.header.idempotency_key) == (new.workflow, new.idempotency_key):
                return Created(replace(run.header), False, self.now)
        if new.run_id in self.runs:
            return Created(replace(self.runs[new.run_id].header), False, self.now)
        if new.owner is not None:
            self.demand_live(new.owner)
        self.refs += 1
        epoch = 0 if new.owner is None else 1
        header = Header(
            run_id=new.run_id, ref=self.refs, workflow=new.workflow, version=new.version, shape=new.shape, status=new.status,
            priority=new.priority, created_at=new.at, updated_at=new.at, ended_at=None,
            wake_at=self.now + new.delay if new.owner is None else new.wake_at or self.now,
            owner=new.owner, epoch=epoch, position=1, inbox_seq=0, input_digest=new.input_digest,
            idempotency_key=new.idempotency_key, waiting=new.waiting,
        )  # fmt: skip
        self.runs[new.run_id] = Run(header, [Row(1, epoch, new.at, new.records)])
        return Created(replace(header), True, self.now)

    def commit(self, commit: Commit) -> Committed:
        run = self.runs.get(commit.run_id)
        if run is None or run.header.ref != commit.ref:
            raise RunNotFound
        header = run.header
        same = Row(commit.position + 1, commit.epoch, commit.at, commit.records)
        if commit.records and same in run.rows:
            return Committed(self.now)
        self.demand_live(commit.owner)
        if (header.owner, header.epoch, header.position) != (commit.owner, commit.epoch, commit.position):
            raise LeaseLost
        if header.inbox_seq < commit.inbox_seq:
            raise LeaseLost
        if header.inbox_seq > commit.inbox_seq:
            return Committed(self.now, tuple(posting for posting in run.pending if posting.seq > commit.inbox_seq))
        self.write(run, commit, same)
        end, length = self.workers[commit.owner]
        if end - self.now < length - length // 3:
            self.workers[commit.owner] = self.now + length, length
        return Committed(self.now)

    def write(self, run: Run, commit: Commit, row: Row) -> None:
        header = run.header
        if commit.records:
            run.rows.append(row)
            header.position += 1
            header.updated_at = commit.at
        run.taken |= set(commit.consumed)
        run.seen = commit.inbox_seq
        header.status, header.waiting, header.blocked = commit.status, commit.waiting, commit.blocked
        header.wake_at = self.now if commit.wake_at == 0 else commit.wake_at
        header.misfits = tuple(sorted(set(commit.misfits)))
        if commit.version:
            header.version, header.shape = commit.version, commit.shape
        if commit.status not in TERMINAL:
            header.ended_at = None
        elif commit.records or header.ended_at is None:
            header.ended_at = commit.at
        if commit.release:
            header.owner = None

    def post(self, run_id: str, posting: NewPosting, workflow: str | None, taker: str | None) -> Posted:
        run = self.find_run(run_id)
        if workflow not in (None, run.header.workflow):
            raise RunNotFound
        known = [kept.seq for kept in run.every if posting.signal_id is not None and kept.signal_id == posting.signal_id]
        if not known:
            self.accept(run, posting)
        taken = None
        if taker in self.workers and not run.ended and not run.blocked:
            taken = self.seize(run, taker)
        return Posted(replace(run.header), known[0] if known else run.header.inbox_seq, not known, self.now, taken)

    def accept(self, run: Run, posting: NewPosting) -> None:
        if run.ended:
            raise RunFinished
        if posting.kind == "signal" and len(run.pending) >= posting.limit:
            raise InboxFull
        header = run.header
        header.inbox_seq += 1
        run.every.append(Posting(header.inbox_seq, posting.kind, posting.name, posting.payload, posting.signal_id, self.now))
        if header.owner is None and not run.blocked:
            header.wake_at = self.now if header.wake_at is None else min(self.now, header.wake_at)

    def delete(self, run_id: str) -> None:
        if not self.find_run(run_id).ended:
            raise RunNotFinished
        del self.runs[run_id]

    def purge(self, finished_for: int, limit: int) -> int:
        old = [run.header for run in self.runs.values() if run.ended and (run.header.ended_at or 0) <= self.now - finished_for]
        old.sort(key=lambda header: header.ended_at or 0)
        for header in old[:limit]:
            del self.runs[header.run_id]
        return len(old[:limit])

    def find(self, query: Query) -> list[Header]:
        found = [
            replace(run.header)
            for run in self.runs.values()
            if query.workflow in (None, run.header.workflow)
            and query.version in (None, run.header.version)
            and (not query.statuses or run.header.status in query.statuses)
            and (query.before is None or (run.header.created_at, run.header.run_id) < query.before)
        ]
        return sorted(found, key=lambda header: (header.created_at, header.run_id), reverse=True)[: query.limit]

    # --- leases

    def take(self, run_id: str, worker: str, blocked: bool, ended: bool) -> StoredRun | None:
        self.demand_live(worker)
        run = self.find_run(run_id)
        if (run.ended and not ended) or (run.blocked and not blocked):
            return run.copy()
        return self.seize(run, worker)

    def seize(self, run: Run, worker: str) -> StoredRun | None:
        owner = run.header.owner
        if owner not in (None, worker) and self.workers[owner][0] <= self.now:
            self.condemn_the_late(worker)
        if run.header.owner is not None:
            return None
        run.header.owner = worker
        run.header.epoch += 1
        run.seen = run.header.inbox_seq
        return run.copy()

    def claim(self, worker: str, codes: Sequence[Code], limit: int) -> Claimed:
        self.demand_live(worker)
        self.condemn_the_late(worker)
        versions = list(dict.fromkeys(code[:2] for code in codes))

        def fits(header: Header) -> bool:
            return any(code[:2] == (header.workflow, header.version) and code[2] not in header.misfits for code in codes)

        free = [run for run in self.runs.values() if run.header.owner is None and run.header.wake_at is not None and fits(run.header)]

        def urgency(run: Run) -> tuple[int, int, int, str]:
            header = run.header
            assert header.wake_at is not None
            version = versions.index((header.workflow, header.version))
            return header.wake_at - header.priority * 60_000_000, -header.priority, version, header.run_id

        due = [run for run in sorted(free, key=urgency) if run.header.wake_at is not None and run.header.wake_at <= self.now][:limit]
        runs = [self.seize(run, worker) for run in due]
        later = [run.header.wake_at for run in free if run.header.wake_at is not None and run.header.owner is None]
        return Claimed([run for run in runs if run is not None], min(later, default=None), self.now)

    def register(self, worker: str, lease: int) -> int:
        self.workers[worker] = self.now + lease, lease
        return self.now

    def renew(self, worker: str, lease: int) -> Renewal:
        if worker not in self.workers:
            return Renewal(False, (), self.now)
        self.workers[worker] = self.now + lease, lease
        unseen = [run.header.run_id for run in self.runs.values() if run.header.owner == worker and run.header.inbox_seq > run.seen]
        return Renewal(True, tuple(sorted(unseen)), self.now)

    def unregister(self, worker: str) -> None:
        if worker in self.workers:
            self.condemn(worker)
        self.condemn_the_late(None)

    def condemn_the_late(self, but: str | None) -> None:
        for worker, (end, _) in list(self.workers.items()):
            if end <= self.now and worker != but:
                self.condemn(worker)

    def condemn(self, worker: str) -> None:
        del self.workers[worker]
        for run in self.runs.values():
            if run.header.owner == worker:
                run.header.owner = None
                if not run.ended and not run.blocked:
                    run.header.wake_at = self.now

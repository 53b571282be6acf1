"""What a storage should answer, written as plainly as it can be: dictionaries, lists, and a look at everything each time.

It shares only the values of the seam with the adapters, none of their ways of finding things.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from flux.core.status import TERMINAL, RunStatus
from flux.errors import InboxFull, LeaseLost, RunConflict, RunFinished, RunNotFinished, RunNotFound
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
    Posting,
    Query,
    Renewal,
    Row,
    Schedule,
    StoredRun,
)


@dataclass
class Run:
    header: Header
    rows: list[Row]
    every: list[Posting] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    seen: int = 0
    base: int = 1

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
        return StoredRun(replace(self.header), [row for row in self.rows if row.position >= self.base], self.pending)


class Model:
    def __init__(self) -> None:
        self.now = 0
        self.runs: dict[str, Run] = {}
        self.workers: dict[str, tuple[int, int]] = {}  # live ones: when the lease ends, and how long it is
        self.refs = 0
        self.starts: list[tuple[str, int]] = []  # which workflows had a run begin that a rate counts, and when
        self.schedules: dict[str, Schedule] = {}
        self.forgotten = 0  # the highest revision of a schedule that is gone

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
        for run in self.runs.values():
            one = run.header
            if new.deduplication_key and (one.workflow, one.deduplication_key) == (new.workflow, new.deduplication_key):
                return Created(replace(one), False, self.now)
        if new.owner is not None:
            self.demand_live(new.owner)
        self.refs += 1
        epoch = 0 if new.owner is None else 1
        header = Header(
            run_id=new.run_id, ref=self.refs, workflow=new.workflow, version=new.version, shape=new.shape, status=new.status,
            priority=new.priority, created_at=new.at, updated_at=new.at, ended_at=None,
            wake_at=self.now + new.delay if new.owner is None else new.wake_at or self.now,
            owner=new.owner, epoch=epoch, position=1, inbox_seq=0, input_digest=new.input_digest,
            idempotency_key=new.idempotency_key, waiting=new.waiting, parent=new.parent, lane=new.lane,
            deduplication_key=None if new.status in TERMINAL else new.deduplication_key,
        )  # fmt: skip
        if new.owner is None:
            ahead = [run.header for run in self.waiting(header) if not run.header.parked]
            first = min(ahead, key=urgency, default=None)
            header.parked = bool(
                new.lane and not new.delay and first and (first.wake_at or 0) <= self.now and urgency(first)[:2] <= urgency(header)[:2]
            )
        elif new.rate is not None:
            self.starts.append((new.workflow, self.now))
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
        if commit.release and commit.lane:
            self.let_in([(header.workflow, commit.lane)])
        self.spread(commit.children, commit.posts)
        return Committed(self.now)

    # --- lanes

    def waiting(self, of: Header) -> list[Run]:
        """Those of the same lane and kind that nobody holds and that time can wake."""
        free = [run for run in self.runs.values() if run.header.owner is None and run.header.wake_at is not None]
        return [run for run in free if of.lane and lane_of(run.header) == lane_of(of) and kind_of(run.header) == kind_of(of)]

    def let_in(self, lanes: Iterable[tuple[str, str]]) -> None:
        for lane in set(lanes):
            parked = [run.header for run in self.runs.values() if run.header.parked and lane_of(run.header) == lane]
            for kind in {kind_of(header) for header in parked}:
                min([header for header in parked if kind_of(header) == kind], key=urgency).parked = False

    def nobody_is_left_behind(self) -> bool:
        """I15: who is parked is behind one that is held, or due and of its kind."""
        for run in self.runs.values():
            head = run.header
            held = any(other.header.owner is not None and lane_of(other.header) == lane_of(head) for other in self.runs.values())
            due = [other for other in self.waiting(head) if not other.header.parked and (other.header.wake_at or 0) <= self.now]
            if head.parked and (head.owner is not None or not (held or due)):
                return False
        return True

    def spread(self, children: Iterable[NewRun], posts: Iterable[Outgoing]) -> None:
        for child in children:
            self.create(replace(child, owner=None, idempotency_key=None, deduplication_key=None))
        for sent in posts:
            if sent.run_id in self.runs:
                try:
                    self.post(sent.run_id, replace(sent.posting, limit=10**9), None, None)
                except RunFinished:
                    if sent.posting.kind == "unwind":
                        self.accept(self.runs[sent.run_id], sent.posting)

    def write(self, run: Run, commit: Commit, row: Row) -> None:
        header = run.header
        if commit.records:
            run.rows.append(row)
            header.position += 1
            header.updated_at = commit.at
            if commit.fresh:
                run.base = row.position
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
        if header.ended_at is not None:
            header.deduplication_key = None
        if commit.release:
            header.owner = None

    def post(self, run_id: str, posting: NewPosting, workflow: str | None, taker: str | None) -> Posted:
        run = self.find_run(run_id)
        if workflow not in (None, run.header.workflow):
            raise RunNotFound
        known = [kept.seq for kept in run.every if posting.signal_id is not None and kept.signal_id == posting.signal_id]
        if not known:
            if run.ended:
                raise RunFinished
            if posting.kind == "signal" and len(run.pending) >= posting.limit:
                raise InboxFull
            self.accept(run, posting)
        taken = None
        if taker in self.workers and not run.ended and not run.blocked:
            taken = self.seize(run, taker)
        return Posted(replace(run.header), known[0] if known else run.header.inbox_seq, not known, self.now, taken)

    def accept(self, run: Run, posting: NewPosting) -> None:
        header = run.header
        header.inbox_seq += 1
        run.every.append(Posting(header.inbox_seq, posting.kind, posting.name, posting.payload, posting.signal_id, self.now))
        if run.ended or (header.owner is None and not run.blocked):
            header.wake_at = self.now if header.wake_at is None else min(self.now, header.wake_at)

    def delete(self, run_id: str) -> None:
        if self.find_run(run_id).header.parent in self.runs:
            raise RunConflict
        family = self.family(run_id)
        if not all(self.runs[one].ended for one in family):
            raise RunNotFinished
        self.forget(family)

    def forget(self, *families: set[str]) -> None:
        lanes = [{lane_of(self.runs[one].header) for one in family} for family in families]
        for one in set[str]().union(*families):
            del self.runs[one]
        for left in lanes:
            self.let_in(left)

    def purge(self, finished_for: int, limit: int) -> int:
        old = [
            run.header
            for run_id, run in self.runs.items()
            if run.ended and (run.header.ended_at or 0) <= self.now - finished_for and run.header.parent not in self.runs
            if all(self.runs[one].ended for one in self.family(run_id))
        ]
        old.sort(key=lambda header: header.ended_at or 0)
        self.forget(*[self.family(header.run_id) for header in old[:limit]])
        return len(old[:limit])

    def family(self, run_id: str) -> set[str]:
        """The run, its children, and theirs."""
        family = {run_id}
        while more := {one for one, run in self.runs.items() if run.header.parent in family} - family:
            family |= more
        return family

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

    # --- schedules

    def advance(self, schedule: Schedule, runs: Sequence[NewRun], posts: Sequence[Outgoing]) -> bool:
        known = self.schedules.get(schedule.name)
        if schedule.revision != (known.revision if known else 0):
            return False
        self.schedules[schedule.name] = replace(schedule, revision=(known.revision if known else self.forgotten) + 1)
        self.spread(runs, posts)
        return True

    def unschedule(self, name: str) -> bool:
        if name not in self.schedules:
            return False
        self.forgotten = max(self.forgotten, self.schedules.pop(name).revision)
        return True

    def find_schedules(self, due: int | None = None, after: str = "") -> list[Schedule]:
        if due is None:
            return [replace(one) for name, one in sorted(self.schedules.items()) if name > after]
        found = [(one.next_at, name) for name, one in self.schedules.items() if one.next_at is not None and one.next_at <= due]
        return [replace(self.schedules[name]) for _, name in sorted(found)]

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
        run.header.parked = False
        run.seen = run.header.inbox_seq
        return run.copy()

    def claim(self, worker: str, codes: Sequence[Code], limit: int, limits: Sequence[Limit] = ()) -> Claimed:
        self.demand_live(worker)
        self.condemn_the_late(worker)
        versions = list(dict.fromkeys(code[:2] for code in codes))
        bounds = {one.workflow: one for one in limits}
        taken: list[StoredRun] = []

        def fits(header: Header) -> bool:
            return any(code[:2] == (header.workflow, header.version) and code[2] not in header.misfits for code in codes)

        def held(header: Header, *, lane: bool) -> int:
            others = [run.header for run in self.runs.values() if run.header.owner is not None]
            return sum(lane_of(one) == lane_of(header) if lane else one.workflow == header.workflow for one in others)

        def open_from(header: Header) -> int | None:
            """From when on the limits let it be taken, None where only another's end does."""
            bound = bounds.get(header.workflow, Limit(header.workflow))
            mine = sum(run.header.workflow == header.workflow for run in taken)
            full = bound.concurrency is not None and held(header, lane=False) >= bound.concurrency
            if full or (bound.room is not None and mine >= bound.room):
                return None
            if header.epoch or bound.rate is None:
                return 0
            count, period = bound.rate
            began = sorted(at for workflow, at in self.starts if workflow == header.workflow and at > self.now - period)
            return 0 if len(began) < count else began[-count] + period

        def waiting() -> list[tuple[Header, int]]:
            found = [run.header for run in self.runs.values() if run.header.owner is None and not run.header.parked]
            wanted = [(one, open_from(one)) for one in found if one.wake_at is not None and fits(one)]
            return [(one, at) for one, at in wanted if at is not None]

        def place(header: Header) -> tuple[int, int, int, str]:
            return *urgency(header)[:2], versions.index((header.workflow, header.version)), header.run_id

        while len(taken) < limit:
            due = [header for header, at in waiting() if at == 0 and (header.wake_at or 0) <= self.now]
            if not due:
                break
            header = min(due, key=place)
            bound = bounds.get(header.workflow, Limit(header.workflow))
            if header.lane and bound.per_key is not None and held(header, lane=True) >= bound.per_key:
                header.parked = True
                continue
            if not header.epoch and bound.rate is not None:
                self.starts.append((header.workflow, self.now))
            run = self.seize(self.runs[header.run_id], worker)
            assert run is not None
            taken.append(run)
            if bound.per_key is None or held(header, lane=True) < bound.per_key:
                self.let_in([lane_of(header)] if header.lane else [])
        return Claimed(taken, min([max(header.wake_at or 0, at) for header, at in waiting()], default=None), self.now)

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
        self.condemn(*[worker for worker, (end, _) in self.workers.items() if end <= self.now and worker != but])

    def condemn(self, *workers: str) -> None:
        held = [run.header for run in self.runs.values() if run.header.owner in workers]
        for worker in workers:
            self.free(worker)
        self.let_in([lane_of(header) for header in held])

    def free(self, worker: str) -> None:
        del self.workers[worker]
        for run in self.runs.values():
            if run.header.owner == worker:
                run.header.owner = None
                if not run.ended and not run.blocked:
                    run.header.wake_at = self.now


def lane_of(header: Header) -> tuple[str, str]:
    return header.workflow, header.lane


def kind_of(header: Header) -> tuple[str, bool, tuple[str, ...]]:
    return header.version, header.epoch > 0, header.misfits


def urgency(header: Header) -> tuple[int, int, str]:
    return (header.wake_at or 0) - header.priority * 60_000_000, -header.priority, header.run_id

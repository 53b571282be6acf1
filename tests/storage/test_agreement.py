"""I42: all storages answer alike. They are driven side by side with a plain model, and compared after every step."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flux.core.records import RunCompleted, RunCreated, StepCompleted, StepStarted
from flux.core.status import TERMINAL, RunStatus
from flux.errors import FluxError
from flux.storage import (
    Claimed,
    Code,
    Commit,
    Created,
    Header,
    Limit,
    NewPosting,
    NewRun,
    Outgoing,
    Posted,
    Query,
    Renewal,
    Schedule,
    StoredRun,
    WorkflowStorage,
)
from flux.testing import VirtualClock
from flux_storage import MemoryStorage, SQLiteStorage

from .model import Model

IDS = st.sampled_from(["a", "b", "c", "d", "e"])
NEW = st.sampled_from(["a", "b", "c", "d", "e", *[f"r{number}" for number in range(20)]])
WORKERS = st.sampled_from(["u", "v", "w"])
VERSIONS = [("flow", "1"), ("flow", "2"), ("other", "1"), ("other", "2")]
CODES: list[Code] = [(*version, shape) for version in VERSIONS for shape in ("s", "t")]
MISFITS = st.sampled_from([(), (), (), ("s",), ("s",), ("t",), ("t", "s"), ("s", "t", "s"), ("ss",), ("st", "u")])
STATUSES = st.sampled_from(list(RunStatus))
MOMENTS = st.sampled_from([0, 1, 20_000_000, 61_000_000, 200_000_000])
LEASES = st.sampled_from([30_000_000, 100_000_000, 100_000_000, 1])
SIGNAL_IDS = st.sampled_from([None, None, "x", "y"])
KINDS = st.sampled_from(["signal", "cancel", "child", "unwind", "unwind"])
LANES = st.sampled_from(["", "", "k", "k", "l"])
RATES = st.sampled_from([None, None, *[(count, 61_000_000) for count in (1, 2, 3)]])  # one period: each forgets by its own
NAMES = st.sampled_from(["daily", "hourly", "weekly"])
RECORDS = st.sampled_from(
    [
        (), (StepStarted("a", 1),), (StepStarted("a", 2),), (RunCompleted(),),
        (StepCompleted("a", 1, '"\\ud800\\u0000é"', {"k": "1", "l": None}), StepStarted("b", 1)),
    ]
)  # fmt: skip


def _begins(status: RunStatus) -> bool:
    return status in (RunStatus.PENDING, RunStatus.SUSPENDED, RunStatus.RUNNING)


class Agreement(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = VirtualClock(autojump=False)
        self.start = self.clock.now()
        self.model = Model()
        self.storages: dict[str, WorkflowStorage] = {
            "memory": MemoryStorage(clock=self.clock),
            "sqlite": SQLiteStorage(Path(self.directory.name) / "flux.db", synchronous="NORMAL", clock=self.clock),
        }
        self.refs: dict[str, dict[int, int]] = {name: {} for name in self.storages}  # the model's ref -> the storage's
        self.views: list[Header] = []  # headers as holders have seen them, the model's refs in them
        self.commits: list[Commit] = []
        self.stack = AsyncExitStack()
        for storage in self.storages.values():
            self.run(self.stack.enter_async_context(storage))

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        self.directory.cleanup()

    def run(self, call: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await call

        return self.runner.run(wait())

    # --- asking all, and comparing

    def ask(self, answer: Callable[[], Any], call: Callable[[str, WorkflowStorage], Awaitable[Any]]) -> Any:
        """The model's reply, which all storages must give too; None where all raise the same class of error."""
        self.model.now = self.clock.now()
        expected = _outcome(answer)
        for name, storage in self.storages.items():
            actual = self.run(_reply(call(name, storage)))
            if isinstance(expected, Created) and isinstance(actual, Created):
                self.refs[name].setdefault(expected.header.ref, actual.header.ref)
            self.same(name, actual, expected)
        self.meet()
        return None if isinstance(expected, type) else expected

    def meet(self) -> None:
        """The refs of runs that others have made: children, and the runs of schedules."""
        for run_id, run in self.model.runs.items():
            for name, storage in self.storages.items():
                if run.header.ref not in self.refs[name]:
                    header = self.run(storage.read_header(run_id))
                    assert header is not None, (name, run_id)
                    self.refs[name][run.header.ref] = header.ref

    def same(self, name: str, actual: Any, expected: Any) -> None:
        assert self.plain(name, actual) == self.plain("model", expected), name

    def plain(self, name: str, value: Any) -> Any:
        """With the storage's own refs as the model's, and without an order where none is promised."""
        if isinstance(value, Header):
            return replace(value, ref=value.ref if name == "model" else self.model_ref(name, value.ref))
        if isinstance(value, Renewal):
            return replace(value, unseen=tuple(sorted(value.unseen)))
        if isinstance(value, list):
            return [self.plain(name, one) for one in value]
        if isinstance(value, (Created, Posted, StoredRun)):
            value = replace(value, header=self.plain(name, value.header))
        if isinstance(value, Posted):
            return replace(value, run=self.plain(name, value.run))
        if isinstance(value, Claimed):
            return replace(value, runs=self.plain(name, value.runs))
        return value

    def model_ref(self, name: str, ref: int) -> int:
        (known,) = [ours for ours, theirs in self.refs[name].items() if theirs == ref]
        return known

    @invariant()
    def all_is_equal(self) -> None:
        """Headers, rows, inboxes, lists and schedules."""
        self.model.now = self.clock.now()
        self.ask(lambda: self.model.find(Query()), lambda _, storage: storage.find(Query()))
        for run_id, run in self.model.runs.items():
            for name, storage in self.storages.items():
                self.same(name, self.run(storage.load(run_id)), run.copy())
        self.ask(self.model.find_schedules, lambda _, storage: storage.schedules())
        assert self.model.nobody_is_left_behind()

    def saw(self, *runs: StoredRun | None) -> None:
        self.views += [replace(run.header) for run in runs if run is not None and run.header.owner is not None]

    # --- who and what a rule is about: mostly what is there

    def a_run(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([*sorted(self.model.runs) * 4, "a", "d"]))

    def a_worker(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([*sorted(self.model.workers) * 4, "w"]))

    # --- runs

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        for worker, lease in (("u", 30_000_000), ("v", 100_000_000)):
            self.register(worker, lease)
        for run_id, owner in (("a", "u"), ("b", "v"), ("c", None), ("d", "v"), ("e", "v")):
            self.make(self.new(run_id, ("flow", "1"), owner=owner, lane=data.draw(LANES)))
        for run_id, status, wake, misfits in (("d", RunStatus.FAILED, None, ()), ("e", RunStatus.BLOCKED, self.clock.now() + 2, ("s",))):
            self.send(self.leave(self.model.runs[run_id].header, status, wake, misfits))
        self.make(self.new("f", ("flow", "1"), parent="d"))

    def leave(self, head: Header, status: RunStatus, wake: int | None = None, misfits: tuple[str, ...] = ()) -> Commit:
        """The run is given back, and nothing is recorded."""
        return Commit(
            head.run_id, head.ref, head.owner or "", head.epoch, head.position, head.inbox_seq, self.clock.now(), (), status, wake,
            release=True, misfits=misfits, lane=head.lane,
        )  # fmt: skip

    def new(self, run_id: str, version: tuple[str, str], **fields: Any) -> NewRun:
        records = (RunCreated(*version, "s", "1", {"k": "1"}),)
        return NewRun(run_id, *version, "s", "d", self.clock.now(), records, **{"status": RunStatus.PENDING, **fields})

    def make(self, new: NewRun) -> None:
        created = self.ask(lambda: self.model.create(new), lambda _, storage: storage.create(new))
        if created is not None and created.header.owner is not None:
            self.views.append(replace(created.header))

    @rule(
        data=st.data(), run_id=NEW, version=st.sampled_from(VERSIONS), key=st.sampled_from([None, None, "k", "l"]), wake=st.none() | MOMENTS
    )
    def create(self, data: st.DataObject, run_id: str, version: tuple[str, str], key: str | None, wake: int | None) -> None:
        fields = {
            "idempotency_key": key, "wake_at": None if wake is None else self.clock.now() + wake, "waiting": ("go",),
            "owner": self.a_worker(data) if data.draw(st.booleans()) else None, "status": data.draw(STATUSES.filter(_begins)),
            "priority": data.draw(st.sampled_from([-2, 0, 0, 3])), "delay": data.draw(MOMENTS),
            "parent": data.draw(st.sampled_from(["", "", "", run_id, "a", "d", "nobody"])),
            "lane": data.draw(LANES), "deduplication_key": data.draw(st.sampled_from([None, None, None, "k", "l"])),
            "rate": data.draw(RATES),
        }  # fmt: skip
        self.make(self.new(run_id, version, **fields))

    @precondition(lambda self: self.views)
    @rule(data=st.data(), records=RECORDS, status=STATUSES, wake=st.none() | MOMENTS)
    def commit(self, data: st.DataObject, records: Any, status: RunStatus, wake: int | None) -> None:
        """As somebody who held the run at some time, and knows or does not know where it stands now."""
        view = self.views[-1 - data.draw(st.integers(0, min(3, len(self.views) - 1)))]
        if data.draw(st.integers(0, 5)):
            run = self.model.runs.get(view.run_id)
            if run is not None and run.header.ref == view.ref:
                view.position, view.inbox_seq = run.header.position, run.header.inbox_seq
        self.send(self.commit_of(data, view, records, status, wake))

    @precondition(lambda self: any(run.header.owner is not None for run in self.model.runs.values()))
    @rule(data=st.data(), records=RECORDS, status=STATUSES, wake=st.none() | MOMENTS)
    def commit_as_holder(self, data: st.DataObject, records: Any, status: RunStatus, wake: int | None) -> None:
        """As the one who holds the run, and who may have missed the newest posting."""
        held = [run.header for _, run in sorted(self.model.runs.items()) if run.header.owner is not None]
        view = replace(data.draw(st.sampled_from(held)))
        if view.inbox_seq:
            view.inbox_seq -= not data.draw(st.integers(0, 3))
        self.send(self.commit_of(data, view, records, status, wake))

    def commit_of(self, data: st.DataObject, view: Header, records: Any, status: RunStatus, wake: int | None) -> Commit:
        at = self.clock.now()
        misfits = data.draw(MISFITS)
        still = status in TERMINAL or (status is RunStatus.BLOCKED and not misfits)  # other code may go on with a misfit (D28)
        run = self.model.runs.get(view.run_id)
        pending = [] if run is None else [posting.seq for posting in run.pending if posting.seq <= view.inbox_seq]
        commit = Commit(
            view.run_id, view.ref, view.owner or "", view.epoch, view.position, view.inbox_seq, at, records, status,
            None if still else wake if not wake else at + wake, ("go",) if status is RunStatus.SUSPENDED else (),
            "why" if status is RunStatus.BLOCKED else "", tuple(pending[: data.draw(st.integers(0, 2))]), data.draw(st.booleans()),
            misfits, *data.draw(st.sampled_from([("", ""), ("", "t"), ("1", "s"), ("2", "t")])),
            self.children(data, view.run_id), self.posts(data), not data.draw(st.integers(0, 5)), view.lane,
        )  # fmt: skip
        faults: dict[int, dict[str, Any]] = {
            0: {"owner": "w"}, 1: {"epoch": view.epoch + 1}, 2: {"position": view.position + 1}, 3: {"inbox_seq": view.inbox_seq + 1},
        }  # fmt: skip
        return replace(commit, **faults.get(data.draw(st.integers(0, 30)), {}))

    def children(self, data: st.DataObject, parent: str) -> tuple[NewRun, ...]:
        ids = data.draw(st.sampled_from([(), (), (), ("f",), ("f", "a"), ("g", "h"), ("g", "g")]))
        more = data.draw(st.sampled_from([{}, {"owner": "u", "idempotency_key": "k", "deduplication_key": "k"},
                                        {"delay": 20_000_000, "priority": 1}, {"lane": "k"}]))  # fmt: skip
        return tuple(self.new(run_id, ("flow", "1"), parent=parent, **more) for run_id in ids)

    def posts(self, data: st.DataObject) -> tuple[Outgoing, ...]:
        to = [self.a_run(data) for _ in range(data.draw(st.sampled_from([0, 0, 0, 1, 3])))]
        to += data.draw(st.sampled_from([[], [run_id for run_id, run in sorted(self.model.runs.items()) if run.ended]]))
        return tuple(
            Outgoing(run_id, NewPosting(data.draw(KINDS), f"n{number}", "1", data.draw(SIGNAL_IDS), 1)) for number, run_id in enumerate(to)
        )

    @precondition(lambda self: self.commits)
    @rule(data=st.data())
    def commit_again(self, data: st.DataObject) -> None:
        self.send(self.commits[-1 - data.draw(st.integers(0, min(5, len(self.commits) - 1)))])

    def send(self, commit: Commit) -> None:
        self.commits.append(commit)
        self.ask(lambda: self.model.commit(commit), lambda name, storage: storage.commit(replace(commit, ref=self.refs[name][commit.ref])))

    @rule(
        data=st.data(), kind=st.just("signal") | KINDS, signal_id=SIGNAL_IDS, limit=st.sampled_from([1, 3, 1000]),
        workflow=st.sampled_from([None, None, None, "flow", "other"]),
    )  # fmt: skip
    def post(self, data: st.DataObject, kind: Any, signal_id: str | None, limit: int, workflow: str | None) -> None:
        run_id, taker = self.a_run(data), self.a_worker(data) if data.draw(st.booleans()) else None
        posting = NewPosting(kind, "go", '"é\\u0000"', signal_id, limit)
        posted = self.ask(
            lambda: self.model.post(run_id, posting, workflow, taker),
            lambda _, storage: storage.post(run_id, posting, workflow=workflow, taker=taker),
        )
        if posted is not None:
            self.saw(posted.run)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """And perhaps make another run under the id at once, in the same hands."""
        run_id = self.a_run(data)
        gone = self.model.runs.get(run_id)
        self.ask(lambda: self.model.delete(run_id), lambda _, storage: storage.delete(run_id))
        if gone is not None and run_id not in self.model.runs and data.draw(st.booleans()):
            self.make(self.new(run_id, data.draw(st.sampled_from(VERSIONS)), owner=gone.header.owner))

    @rule(age=MOMENTS, limit=st.integers(0, 2))
    def purge(self, age: int, limit: int) -> None:
        old = [run.header.ended_at for run in self.model.runs.values() if run.ended]
        if len(set(old)) == len(old):  # which of two that ended at one moment goes first is nobody's business
            self.ask(lambda: self.model.purge(age, limit), lambda _, storage: storage.purge(age, limit))

    @rule(data=st.data(), before=st.none() | st.tuples(MOMENTS, IDS))
    def read(self, data: st.DataObject, before: tuple[int, str] | None) -> None:
        """Lists and parts of journals; whole runs are compared after each step."""
        mark = None if before is None else (self.start + before[0], before[1])
        workflow, version = data.draw(st.sampled_from([None, "flow", "other"])), data.draw(st.sampled_from([None, "1", "2"]))
        query = Query(workflow, data.draw(st.lists(STATUSES, max_size=3)), data.draw(st.integers(0, 4)), mark, version)
        self.ask(lambda: self.model.find(query), lambda _, storage: storage.find(query))
        run_id, after, limit = self.a_run(data), data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
        run = self.model.runs.get(run_id)
        rows = [] if run is None else run.rows
        self.ask(lambda: rows[after : after + limit], lambda _, storage: storage.read_journal(run_id, after, limit))
        self.ask(lambda: None if run is None else run.header, lambda _, storage: storage.read_header(run_id))

    # --- schedules

    @rule(data=st.data(), name=NAMES, next_at=st.none() | MOMENTS)
    def advance(self, data: st.DataObject, name: str, next_at: int | None) -> None:
        known = self.model.schedules.get(name)
        stale = data.draw(st.sampled_from([0, 0, 0, 0, -1, 1, None]))
        revision = 0 if known is None or stale is None else known.revision + stale
        if known is None and stale:
            revision = self.model.forgotten
        now = self.clock.now()
        schedule = Schedule(name, "flow", "1", '{"é":1}', None if next_at is None else now + next_at, now, "a", revision)
        runs, posts = self.children(data, data.draw(st.sampled_from(["", "a"]))), self.posts(data)
        self.ask(lambda: self.model.advance(schedule, runs, posts), lambda _, storage: storage.advance(schedule, runs, posts))

    @rule(name=NAMES)
    def unschedule(self, name: str) -> None:
        self.ask(lambda: self.model.unschedule(name), lambda _, storage: storage.unschedule(name))

    @rule(name=NAMES, due=MOMENTS, limit=st.integers(0, 3))
    def read_schedules(self, name: str, due: int, limit: int) -> None:
        at = self.clock.now() - 60_000_000 + due
        self.ask(lambda: self.model.find_schedules(at)[:limit], lambda _, storage: storage.schedules(due=at, limit=limit))
        self.ask(lambda: self.model.find_schedules(after=name)[:limit], lambda _, storage: storage.schedules(after=name, limit=limit))
        one = self.model.schedules.get(name)
        self.ask(lambda: [] if one is None else [one], lambda _, storage: storage.schedules(name))

    # --- leases

    @rule(data=st.data(), blocked=st.booleans(), ended=st.booleans())
    def take(self, data: st.DataObject, blocked: bool, ended: bool) -> None:
        self.demand(self.a_run(data), self.a_worker(data), blocked, ended)

    @precondition(lambda self: any(run.ended for run in self.model.runs.values()))
    @rule(data=st.data(), step=MOMENTS, then=st.sampled_from(["keep it", "give it back", "end it anew", "go on", "move it"]))
    def take_ended(self, data: st.DataObject, step: int, then: str) -> None:
        self.time_passes(step)
        run_id = data.draw(st.sampled_from([run_id for run_id, run in sorted(self.model.runs.items()) if run.ended]))
        taken = self.demand(run_id, self.a_worker(data), False, True)
        if taken is None or then == "keep it":
            return
        commit = self.leave(taken.header, taken.header.status)
        if then != "give it back":
            commit = replace(commit, records=(RunCompleted(),))
        if then == "go on":
            commit = replace(commit, status=RunStatus.RUNNING, wake_at=0, release=data.draw(st.booleans()))
        if then == "move it":
            commit = replace(commit, status=RunStatus.SUSPENDED, wake_at=commit.at + 1, version="2", shape="t")
        self.send(commit)

    def demand(self, run_id: str, worker: str, blocked: bool, ended: bool) -> StoredRun | None:
        taken: StoredRun | None = self.ask(
            lambda: self.model.take(run_id, worker, blocked, ended),
            lambda _, storage: storage.take(run_id, worker, blocked=blocked, ended=ended),
        )
        self.saw(taken)
        return taken

    @rule(data=st.data(), limit=st.integers(0, 3))
    def claim(self, data: st.DataObject, limit: int) -> None:
        worker = self.a_worker(data)
        codes = data.draw(st.sampled_from([CODES, CODES[::2], CODES[1::2]]) | st.lists(st.sampled_from(CODES), max_size=5))
        limits = [self.a_limit(data, workflow) for workflow in data.draw(st.sampled_from([(), (), ("flow",), ("flow", "other")]))]
        claimed = self.ask(
            lambda: self.model.claim(worker, codes, limit, limits), lambda _, storage: storage.claim(worker, codes, limit, limits)
        )
        if claimed is not None:
            self.saw(*claimed.runs)

    def a_limit(self, data: st.DataObject, workflow: str) -> Limit:
        some = st.none() | st.integers(1, 3)
        return Limit(workflow, data.draw(some), data.draw(some), data.draw(some), data.draw(RATES))

    @rule(worker=WORKERS, lease=LEASES)
    def register(self, worker: str, lease: int) -> None:
        self.ask(lambda: self.model.register(worker, lease), lambda _, storage: storage.register(worker, lease))

    @rule(data=st.data(), lease=LEASES)
    def renew(self, data: st.DataObject, lease: int) -> None:
        worker = self.a_worker(data)
        self.ask(lambda: self.model.renew(worker, lease), lambda _, storage: storage.renew(worker, lease))

    @precondition(lambda self: len(self.model.workers) > 1)
    @rule(data=st.data())
    def unregister(self, data: st.DataObject) -> None:
        worker = self.a_worker(data)
        self.ask(lambda: self.model.unregister(worker), lambda _, storage: storage.unregister(worker))

    @rule(step=MOMENTS)
    def time_passes(self, step: int) -> None:
        self.run(self.clock.advance(step / 1_000_000))


def _outcome(answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except FluxError as error:
        return type(error)


async def _reply(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except FluxError as error:
        return type(error)


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(stateful_step_count=50)
TestAgreement.__doc__ = "I42, I1, I7, I10, I11, I15, I24, I41: replies, error classes and all that can be seen are equal after every step."

"""What a call does when it makes, wakes or moves a run, and how it waits for it.

A call is never the owner of what it set in motion: work happens in tasks of the engine's own, and a caller that is cancelled
only detaches (D19).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..codec import Codec
from ..core.commands import Advance, Command, Released
from ..core.evolve import fold
from ..core.records import Record, RunForked
from ..core.sketch import drawn
from ..core.state import RunState
from ..core.status import TERMINAL, RunStatus
from ..errors import (
    DefinitionChanged,
    FluxError,
    InvalidArgument,
    LeaseLost,
    RunConflict,
    RunNotFound,
    StorageUnavailable,
    UnknownWorkflow,
    UnreadableRun,
)
from ..names import check_id
from ..storage import Created, Header, NewPosting, NewRun, Outbox, StoredRun, Within
from .awaiting import POLL, Awaiting
from .beginning import begin, check_priority
from .driver import Driver
from .host import Host, new_id
from .lease import Lease
from .redo import Choice
from .registry import Bound
from .view import RunResult

logger = logging.getLogger("flux.engine")


@dataclass(slots=True)
class Wanted:
    """A run as it is asked for. `delay` in microseconds."""

    input: Any
    id: str | None
    idempotency_key: str | None
    priority: int
    delay: int = 0
    concurrency_key: str | None = None
    deduplication_key: str | None = None


class Caller:
    """`stay`: seconds that a call stays with a run that sleeps. `drive`: whether calls move runs, or only post (D19)."""

    def __init__(self, host: Host, codec: Codec, stay: float, drive: bool) -> None:
        self._host = host
        self._codec = codec
        self._stay = stay
        self._drive = drive
        self._awaiting = Awaiting(host)
        host.carry = self.carry

    # --- making runs

    async def execute(self, bound: Bound, wanted: Wanted) -> RunResult:
        """Make the run and move it here; one that is there is carried on (S2.4)."""
        lease = await self._host.lease()
        halt = self._host.draining or self._host.isolation.closed or not bound.plan.root.calls_at_once
        state, new = self._new_run(bound, wanted, halt=halt)
        new.owner = lease.nonce
        driver = Driver(self._host, bound, new.run_id, 0, 0, lease, state, self._stay, self._drive, new.priority, new.lane)
        existing = await self._host.own(self._begin(driver, new, (Advance(),) if halt else ()))
        return await self._result_of(driver) if existing is None else await self.carry_on(existing, bound)

    async def store(self, bound: Bound, wanted: Wanted, connection: Any = None) -> str:
        """Make the run for a worker to take up; its id, or that of the run which was there. With a `connection`, in its transaction."""
        _, new = self._new_run(bound, wanted, halt=True)
        if connection is None:
            return (await self._store(bound, new)).header.run_id
        return self._checked(new, await self._within(connection).create(new)).header.run_id

    def _within(self, connection: Any) -> Within:
        storage = self._host.storage
        if isinstance(storage, Outbox):
            return storage.within(connection)
        raise InvalidArgument(f"connection= needs a storage on SQLite or PostgreSQL, and this one is a {type(storage).__name__}")

    async def _store(self, bound: Bound, new: NewRun) -> Created:
        created = await self._create(new)
        if created.fresh and self._host.hooks is not None:
            self._host.hooks.publish(bound.key, new.run_id, new.records, new.at)
        return created

    async def _begin(self, driver: Driver, new: NewRun, first: tuple[Command, ...]) -> str | None:
        """Store the run and move it until it rests, in a task of the engine's own (D19); the id of the run that was there instead."""
        try:
            created = await self._create_held(driver, new)
        except (StorageUnavailable, LeaseLost):
            self._host.retire(driver.lease)
            raise
        header = created.header
        if not created.fresh:
            return header.run_id
        driver.ref, driver.epoch = header.ref, header.epoch
        driver.state.settle()
        driver.state.position = 1
        if self._host.hooks is not None:
            self._host.hooks.publish(driver.bound.key, new.run_id, new.records, new.at)
        if self._host.isolation.closed:  # since the run was made: a suspect has this engine to itself (D11)
            first = (*[Released(st.path, st.attempt) for st in driver.state.calls.values()], *first)
        await self._host.move(driver, first)
        return None

    async def _create_held(self, driver: Driver, new: NewRun) -> Created:
        try:
            return await self._create(new)
        except LeaseLost:  # condemned a while ago, and told only now
            self._host.drop_lease(driver.lease)
            driver.lease = await self._host.lease()
            new.owner = driver.lease.nonce
            return await self._create(new)

    async def fork(self, bound: Bound, origin: RunState, new_id: str | None, shared: Sequence[Record], start: bool) -> RunResult:
        """Make a run that shares the history of another; move it here, or leave it to a worker (D5)."""
        wanted = Wanted(None, new_id, None, 0)
        if not start:
            _, new = self._new_run(bound, wanted, halt=True, origin=origin, shared=shared)
            if not (await self._store(bound, new)).fresh:
                await self._check_same(new.run_id, shared[0])
            return await self.get(new.run_id)
        lease = await self._host.lease()
        state, new = self._new_run(bound, wanted, halt=True, origin=origin, shared=shared)
        new.owner = lease.nonce
        driver = Driver(self._host, bound, new.run_id, 0, 0, lease, state, self._stay, self._drive, lane=new.lane)
        existing = await self._host.own(self._begin(driver, new, (Advance(),)))
        if existing is None:
            return await self._result_of(driver)
        await self._check_same(existing, shared[0])
        return await self.carry_on(existing, bound)

    async def _check_same(self, run_id: str, forked: Record) -> None:
        """The run that is there is this very fork, or the id is taken (S2.4): the same input says nothing, all forks have it."""
        there = (await self.fold(run_id)).forked
        if there is None or not isinstance(forked, RunForked) or (there.origin, there.from_path) != (forked.origin, forked.from_path):
            raise RunConflict(f"run {run_id!r} exists, and is another than this fork")

    def _new_run(
        self, bound: Bound, wanted: Wanted, *, halt: bool, origin: RunState | None = None, shared: Sequence[Record] = ()
    ) -> tuple[RunState, NewRun]:
        text = bound.write_input(wanted.input) if origin is None else origin.input
        now = self._host.now()
        run_id = new_id(now) if wanted.id is None else check_id(wanted.id)
        key, priority = wanted.idempotency_key, check_priority(wanted.priority)
        if key is not None:
            check_id(key, "idempotency key")
        if wanted.deduplication_key is not None:
            check_id(wanted.deduplication_key, "deduplication key")
        return begin(
            bound, run_id, text, now, self._host.draw, data=None if origin is None else origin.first, halt=halt, shared=shared,
            idempotency_key=key, priority=priority, delay=wanted.delay, concurrency_key=wanted.concurrency_key,
            deduplication_key=wanted.deduplication_key,
        )  # fmt: skip

    async def _create(self, new: NewRun) -> Created:
        return self._checked(new, await self._host.storage.create(new))

    def _checked(self, new: NewRun, created: Created) -> Created:
        self._host.saw(created.now)
        header = created.header
        same = (header.workflow, header.input_digest) == (new.workflow, new.input_digest)
        if not created.fresh and not same and not _is_duplicate(header, new):
            what = "another workflow" if header.workflow != new.workflow else "another input"
            raise RunConflict(f"run {header.run_id!r} exists, of workflow {header.workflow!r}, with {what} than this call's")
        return created

    # --- moving runs

    async def post(self, run_id: str, posting: NewPosting, workflow: str, *, interrupt: bool = False, compensate: bool = True) -> RunResult:
        """Post a signal or a cancel, and stay with the run while it is moved on here (S7.6). Raises as the storage's `post`."""
        driver = await self._host.own(self._deliver(run_id, posting, workflow, interrupt, compensate))
        if driver is not None and not driver.runs_in(asyncio.current_task()):
            await driver.finished()
            if not driver.lost or driver.error is not None:
                return await self._result_of(driver)
        return await self.get(run_id)

    async def post_within(self, connection: Any, run_id: str, posting: NewPosting, workflow: str) -> RunResult:
        """Post in a transaction of the caller's own; the run as it stands without it. Raises as the storage's `post`."""
        await self._within(connection).post(run_id, posting, workflow=workflow)
        return await self.get(run_id)

    async def _deliver(self, run_id: str, posting: NewPosting, workflow: str, interrupt: bool, compensate: bool) -> Driver | None:
        """Post, and see to it that what came is looked at; the driver to stay with. In a task of the engine's own (D19)."""
        host = self._host
        lease = await host.lease() if self._drive and not host.draining else None
        if interrupt:
            host.interrupting.add(run_id)
        try:
            posted = await self._host.storage.post(run_id, posting, workflow=workflow, taker=None if lease is None else lease.nonce)
            host.saw(posted.now)
            if posted.run is not None and lease is not None:
                return await host.take_on(posted.run, lease, self._stay, self._drive)
            if posting.kind == "cancel" and posted.header.status is RunStatus.BLOCKED and not host.draining:
                lease = lease or await host.lease()  # no worker looks for it
                run = await self._host.storage.take(run_id, lease.nonce, blocked=True)
                if run is not None and run.header.owner == lease.nonce:
                    return await host.take_down(run, lease, self._stay, self._drive)
            driver = host.drivers.get(run_id)
            if driver is None:
                return None
            driver.interrupt(compensate) if interrupt else driver.poke()
            return driver if interrupt or driver.resting else None
        except StorageUnavailable:
            if lease is not None:
                host.retire(lease)
            raise
        finally:
            host.interrupting.discard(run_id)

    async def carry_on(self, run_id: str, bound: Bound, *, blocked: bool = False) -> RunResult:
        """Take the run when nothing live holds it; else wait until its holder is done with it."""
        count = -1
        while True:
            driver = self._host.drivers.get(run_id)
            if driver is not None:
                return await self._follow(driver)
            taken = await self._host.own(self._take(run_id, bound, blocked))
            if isinstance(taken, Driver):
                return await self._follow(taken)
            if taken is not None:
                return self._view(taken)
            count = await self._host.storage.changed(count, POLL)

    async def carry(self, run_id: str, ended: bool = False) -> str:
        """Move a run on here, as far as it goes, for another one's sake; `ended`: also one that has ended, for its parent has something to
        say to it. Returns the id of its own parent if it has ended. What is wrong with it is its own matter."""
        count = -1
        try:
            while True:
                driver: Driver | StoredRun | None = self._host.drivers.get(run_id)
                if driver is None:
                    driver = await self._host.own(self._take(run_id, None, False, ended))
                if isinstance(driver, StoredRun):
                    return driver.header.parent if driver.header.status in TERMINAL else ""
                if driver is not None:
                    await driver.finished()
                    if not driver.lost:
                        return driver.state.parent if driver.state.ended is not None else ""
                elif self._host.draining:
                    return ""
                count = await self._host.storage.changed(count, POLL)
        except FluxError as error:
            logger.warning("run %s is left to others: %s", run_id, error)
            return ""

    async def _take(self, run_id: str, bound: Bound | None, blocked: bool, ended: bool = False) -> Driver | StoredRun | None:
        """Take the run and drive it; the run itself when there is nothing to drive, None when something else holds it."""
        run, lease = await self._seize(run_id, bound, blocked=blocked, ended=ended)
        if run is None:
            return None
        if run.header.owner != lease.nonce:
            return run
        try:
            bound = self._host.registry.require(run.header.workflow, run.header.version)
            state = self._host.restore(run, bound)
        except (DefinitionChanged, UnknownWorkflow, UnreadableRun):
            await self._host.give_back(run, lease)
            raise
        return self._host.drive_on(run, lease, bound, state, self._stay, tends=self._drive)

    async def _seize(
        self, run_id: str, bound: Bound | None, *, blocked: bool, ended: bool, once_more: bool = True
    ) -> tuple[StoredRun | None, Lease]:
        lease = await self._host.lease()
        try:
            run = await self._host.storage.take(run_id, lease.nonce, blocked=blocked, ended=ended)
        except StorageUnavailable:
            self._host.retire(lease)
            raise
        except LeaseLost:  # condemned a while ago, and told only now
            self._host.drop_lease(lease)
            if not once_more:
                raise
            return await self._seize(run_id, bound, blocked=blocked, ended=ended, once_more=False)
        if run is not None and bound is not None and run.header.workflow != bound.definition.name:
            await self._host.give_back(run, lease)
            raise RunConflict(f"run {run_id!r} is of workflow {run.header.workflow!r}, not {bound.definition.name!r}")
        return run, lease

    async def again(self, run_id: str, bound: Bound | None, choose: Choice) -> RunResult:
        """Take an ended or blocked run and do with it what `choose` says, which raises what cannot be done (D1).

        What somebody else has made of it since this call began is the answer to this call too: one of two retries reopens the run.
        """
        seen = await self.header(run_id)
        if bound is None:
            bound = self._host.registry.require(seen.workflow, seen.version)
        count = -1
        while True:
            taken = await self._host.own(self._take_again(run_id, bound, choose, seen))
            if isinstance(taken, Driver):
                await taken.finished()
                if not taken.lost or taken.state.position > seen.position:
                    return await self._result_of(taken)
                continue  # the lease was lost before anything is known to be written
            if taken:
                return await self.carry_on(run_id, bound)
            count = await self._host.storage.changed(count, POLL)

    async def _take_again(self, run_id: str, bound: Bound, choose: Choice, seen: Header) -> Driver | bool:
        """The driver of the run; else whether somebody else has moved it. If not, somebody holds it and may be about to."""
        run, lease = await self._seize(run_id, bound, blocked=True, ended=True)
        if run is None:
            return await self._moved(run_id, choose, seen)
        if _rests(seen) and run.header.position != seen.position:
            await self._host.give_back(run, lease)
            return True
        try:
            bound = self._host.registry.require(run.header.workflow, run.header.version)
            state = self._host.restore(run, bound)
            asked = choose(state)
        except Exception:
            await self._host.give_back(run, lease)
            raise
        return self._host.drive_on(run, lease, bound, state, self._stay, asked, self._drive)

    async def _moved(self, run_id: str, choose: Choice, seen: Header) -> bool:
        """A run that somebody moves is not retried; one that was retried, or resolved, a moment ago is followed."""
        if _rests(seen):
            return (await self.header(run_id)).position != seen.position
        state = await self.fold(run_id)
        if not state.reopenings and not state.resolutions:
            choose(state)
        return True

    async def _follow(self, driver: Driver) -> RunResult:
        """Wait for the driver; a caller that is cancelled only detaches (D19)."""
        await driver.finished()
        return await self._result_of(driver)

    async def _result_of(self, driver: Driver) -> RunResult:
        self._host.raise_stop()
        if driver.error is not None:
            raise driver.error
        if driver.lost:  # to another worker, or to nobody
            return await self.carry_on(driver.run_id, driver.bound)
        self._warn_about_timer(driver)
        if self._drive and driver.state.parent and driver.state.ended is not None:
            await self._carry_parents(driver.state.parent)
        return RunResult(driver.run_id, driver.state, self._codec)

    async def _carry_parents(self, run_id: str) -> None:
        """The end of a child is what its parent waits for; and so on."""
        while run_id and not self._host.draining:
            run_id = await self.carry(run_id)

    def _warn_about_timer(self, driver: Driver) -> None:
        state = driver.state
        if state.ended is None and state.wake_at and not self._host.workers:
            logger.warning(
                "run %s sleeps until its timer and no worker is at work in this process: a worker (engine.work()) or resume() must wake it",
                driver.run_id,
            )

    # --- reading runs

    async def get(self, run_id: str) -> RunResult:
        """The run as it stands. Raises RunNotFound, UnreadableRun."""
        run = await self._host.storage.load(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        return self._view(run)

    async def fold(self, run_id: str) -> RunState:
        """What the journal of this run says, as far as the code here can tell. Raises RunNotFound, UnreadableRun."""
        run = await self._host.storage.load(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        return self._fold(run)

    def _view(self, run: StoredRun) -> RunResult:
        run_id = run.header.run_id
        driver = self._host.drivers.get(run_id)
        return RunResult(run_id, self._fold(run), self._codec, None if driver is None else driver.progress)

    def _fold(self, run: StoredRun) -> RunState:
        if run.error is not None:
            raise run.error
        header = run.header
        rows = [(row.at, row.records) for row in run.rows]
        bound = self._host.registry.get(header.workflow, header.version)
        state: RunState | None = None
        if bound is not None:
            try:
                state = fold(bound.plan, rows)
            except (DefinitionChanged, UnreadableRun):
                state = None  # the code has changed: show the journal's own picture
        try:
            if state is None:
                state = drawn(rows)
        except (DefinitionChanged, UnreadableRun) as error:
            raise UnreadableRun(f"run {header.run_id!r}: {error}", header.run_id) from error
        return state

    async def until(self, run_id: str, statuses: Collection[RunStatus]) -> RunStatus:
        """Wait until the run stands at one of these statuses. Raises RunNotFound."""
        found = await self._awaiting.until(run_id, statuses)
        return found.state.status if isinstance(found, Driver) else found.header.status if isinstance(found, StoredRun) else found.status

    async def outcome(self, run_id: str) -> RunResult:
        """Wait until the run has ended; how. Raises RunNotFound, UnreadableRun."""
        found = await self._awaiting.until(run_id, TERMINAL, whole=True)
        if isinstance(found, Driver):
            return RunResult(run_id, found.state, self._codec)
        return self._view(found) if isinstance(found, StoredRun) else await self.get(run_id)

    async def header(self, run_id: str) -> Header:
        """The head of the run. Raises RunNotFound."""
        header = await self._host.storage.read_header(run_id)
        if header is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        return header


def _is_duplicate(header: Header, new: NewRun) -> bool:
    """Whether this run is there under the deduplication key of the new one alone: its input is its own then."""
    if header.run_id == new.run_id or (new.idempotency_key is not None and header.idempotency_key == new.idempotency_key):
        return False
    return new.deduplication_key is not None and header.deduplication_key == new.deduplication_key


def _rests(header: Header) -> bool:
    """Whether only a person moves this run on."""
    return header.status in TERMINAL or header.status is RunStatus.BLOCKED

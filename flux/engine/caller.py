"""What a call does when it makes, wakes or moves a run, and how it waits for it.

A call is never the owner of what it set in motion: work happens in tasks of the engine's own, and a caller that is cancelled
only detaches (D19).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..codec import Codec, digest
from ..core.commands import Advance, Command
from ..core.machine import Moment, create
from ..core.plan import Plan
from ..core.records import RunCreated
from ..core.sketch import sketch
from ..core.state import RunState, fold
from ..core.status import RunStatus
from ..errors import (
    DefinitionChanged,
    InvalidArgument,
    LeaseLost,
    RunConflict,
    RunNotFound,
    StorageUnavailable,
    UnknownWorkflow,
    UnreadableRun,
)
from ..names import check_id
from ..storage import Created, Header, NewPosting, NewRun, StoredRun
from .driver import Driver
from .host import Host, new_id
from .questions import read_cancel
from .registry import Bound
from .view import RunResult

logger = logging.getLogger("flux.engine")

POLL = 0.5  # seconds between looks at a run that another worker holds; its changes are noticed at once


@dataclass(slots=True)
class Wanted:
    """A run as it is asked for. `delay` in microseconds."""

    input: Any
    id: str | None
    idempotency_key: str | None
    priority: int
    delay: int = 0


class Caller:
    """`stay`: seconds that a call stays with a run that sleeps. `drive`: whether calls move runs, or only post (D19)."""

    def __init__(self, host: Host, codec: Codec, stay: float, drive: bool) -> None:
        self._host = host
        self._codec = codec
        self._stay = stay
        self._drive = drive

    # --- making runs

    async def execute(self, bound: Bound, wanted: Wanted) -> RunResult:
        """Make the run and move it here; one that is there is carried on (S2.4)."""
        lease = await self._host.lease()
        first = bound.plan.root.nodes[0]
        halt = self._host.draining or not (first.called and first.when is None)
        state, new = self._new_run(bound, wanted, halt=halt)
        new.owner = lease.nonce
        driver = Driver(self._host, bound, new.run_id, 0, 0, lease, state, self._stay)
        existing = await self._host.own(self._begin(driver, new, (Advance(),) if halt else ()))
        return await self._result_of(driver) if existing is None else await self.carry_on(existing, bound)

    async def store(self, bound: Bound, wanted: Wanted) -> str:
        """Make the run for a worker to take up; its id, or that of the run which was there."""
        _, new = self._new_run(bound, wanted, halt=True)
        created = await self._create(new)
        if created.fresh and self._host.hooks is not None:
            self._host.hooks.publish(bound, new.run_id, new.records, new.at)
        return created.header.run_id

    async def _begin(self, driver: Driver, new: NewRun, first: tuple[Command, ...]) -> str | None:
        """Store the run and move it until it rests, in a task of the engine's own (D19); the id of the run that was there instead."""
        try:
            created = await self._create(new)
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
            self._host.hooks.publish(driver.bound, new.run_id, new.records, new.at)
        await self._host.move(driver, first)
        return None

    def _new_run(self, bound: Bound, wanted: Wanted, *, halt: bool) -> tuple[RunState, NewRun]:
        definition = bound.definition
        text = bound.write_input(wanted.input)
        now = self._host.now()
        run_id = new_id(now) if wanted.id is None else check_id(wanted.id)
        key, priority = wanted.idempotency_key, wanted.priority
        if key is not None:
            check_id(key, "idempotency key")
        if type(priority) is not int or not -100 <= priority <= 100:
            raise InvalidArgument(f"priority is a whole number from -100 to 100, got {priority!r}")
        deadline = None if definition.deadline is None else now + definition.deadline
        record = RunCreated(definition.name, definition.version, bound.plan.shape, text, bound.first_data(), deadline)
        moment = Moment(now, self._host.draw, _no_questions, read_cancel, halt)
        state, decision = create(bound.plan, record, moment)
        new = NewRun(
            run_id, definition.name, definition.version, bound.plan.shape, digest(text), now,
            tuple(decision.records), state.status, None, (), key, priority, wanted.delay,
        )  # fmt: skip
        return state, new

    async def _create(self, new: NewRun) -> Created:
        created = await self._host.storage.create(new)
        self._host.saw(created.now)
        header = created.header
        if not created.fresh and (header.workflow, header.input_digest) != (new.workflow, new.input_digest):
            what = "another workflow" if header.workflow != new.workflow else "another input"
            raise RunConflict(f"run {header.run_id!r} exists, of workflow {header.workflow!r}, with {what} than this call's")
        return created

    # --- moving runs

    async def post(self, run_id: str, posting: NewPosting, workflow: str, *, interrupt: bool = False) -> RunResult:
        """Post a signal or a cancel, and stay with the run while it is moved on here (S7.6). Raises as the storage's `post`."""
        driver = await self._host.own(self._deliver(run_id, posting, workflow, interrupt))
        if driver is not None:
            await driver.finished()
            if not driver.lost or driver.error is not None:
                return await self._result_of(driver)
        return await self.get(run_id)

    async def _deliver(self, run_id: str, posting: NewPosting, workflow: str, interrupt: bool) -> Driver | None:
        """Post, and see to it that what came is looked at; the driver to stay with. In a task of the engine's own (D19)."""
        host = self._host
        lease = await host.lease() if self._drive and not host.draining else None
        if interrupt:
            host.interrupting.add(run_id)
        try:
            posted = await self._host.storage.post(run_id, posting, workflow=workflow, taker=None if lease is None else lease.nonce)
            host.saw(posted.now)
            if posted.run is not None and lease is not None:
                return await host.take_on(posted.run, lease, self._stay)
            if lease is not None and posting.kind == "cancel" and posted.header.status is RunStatus.BLOCKED:
                run = await self._host.storage.take(run_id, lease.nonce, blocked=True)
                if run is not None and run.header.owner == lease.nonce:
                    return await host.take_down(run, lease, self._stay)
            driver = host.drivers.get(run_id)
            if driver is None:
                return None
            driver.interrupt() if interrupt else driver.poke()
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

    async def _take(self, run_id: str, bound: Bound, blocked: bool) -> Driver | StoredRun | None:
        """Take the run and drive it; the run itself when there is nothing to drive, None when something else holds it."""
        lease = await self._host.lease()
        try:
            run = await self._host.storage.take(run_id, lease.nonce, blocked=blocked)
        except (StorageUnavailable, LeaseLost):
            self._host.retire(lease)
            raise
        if run is None:
            return None
        if run.header.workflow != bound.definition.name:
            await self._host.give_back(run, lease)
            raise RunConflict(f"run {run_id!r} is of workflow {run.header.workflow!r}, not {bound.definition.name!r}")
        if run.header.owner != lease.nonce:
            return run
        try:
            bound = self._host.registry.require(run.header.workflow, run.header.version)
            state = self._host.restore(run, bound)
        except (DefinitionChanged, UnknownWorkflow, UnreadableRun):
            await self._host.give_back(run, lease)
            raise
        return self._host.drive_on(run, lease, bound, state, self._stay)

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
        return RunResult(driver.run_id, driver.state, self._codec)

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

    def _view(self, run: StoredRun) -> RunResult:
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
                drawn = sketch(record for _, records in rows for record in records)
                state = fold(Plan(drawn), rows)
        except (DefinitionChanged, UnreadableRun) as error:
            raise UnreadableRun(f"run {header.run_id!r}: {error}", header.run_id) from error
        driver = self._host.drivers.get(header.run_id)
        return RunResult(header.run_id, state, self._codec, None if driver is None else driver.progress)

    async def until(self, run_id: str, statuses: Collection[RunStatus]) -> RunStatus:
        """Wait until the run stands at one of these statuses. Raises RunNotFound."""
        count = -1
        while True:
            driver = self._host.drivers.get(run_id)
            if driver is not None:
                await driver.finished()
            header = await self.header(run_id)
            if header.status in statuses:
                return header.status
            count = await self._host.storage.changed(count, POLL)

    async def header(self, run_id: str) -> Header:
        """The head of the run. Raises RunNotFound."""
        header = await self._host.storage.read_header(run_id)
        if header is None:
            raise RunNotFound(f"no run {run_id!r} in this storage")
        return header


def _no_questions(*_: Any) -> Any:
    raise AssertionError("a new run asks nothing before it is stored")

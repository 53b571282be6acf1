"""What applications hold: `FluxEngine`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal

from ..clock import Clock, SystemClock
from ..codec import Codec, JsonCodec
from ..core.retry import SECOND, Retry
from ..core.status import TERMINAL, RunStatus
from ..core.workflow import MISSING, Definition
from ..durations import to_microseconds
from ..errors import EngineClosed, InvalidArgument, PastPivot, UnknownSignal
from ..names import check_id, check_name, check_run
from ..storage import Header, NewPosting, WorkflowStorage
from .attempt import Threads
from .batch import execute_many
from .caller import Caller, Wanted
from .doctor import Report, examine
from .handle import RunHandle
from .hooks import Hooks
from .host import Host
from .lists import encode_cursor, read_query
from .options import check_each, check_switch, check_whole, make_defaults
from .questions import write_cancel
from .redo import Redo, act, choose_replay, choose_retry
from .registry import Bound, Registry
from .resolve import open_storage
from .schedules import CatchUp, Overlap, Schedule, Schedules
from .ticking import Ticker
from .view import Page, Progress, RunResult, RunSummary
from .worker import StopOnSignals, Worker

logger = logging.getLogger("flux.engine")

Duration = float | timedelta
PURGE_BATCH = 500


class FluxEngine:
    """Runs workflows on a storage. Use it as an async context manager; everything else is a call on it.

    `storage` is a URL (`sqlite:///orders.db`, `memory:`) or a storage object; without one, runs live in memory.
    `workflows` are registered at once; others are when a call names them. Durations are seconds or timedeltas: `default_timeout`
    bounds an attempt, `lease` is how long a silent worker keeps its runs, `grace` how long closing waits for handlers,
    `stay` how long a call stays with a run that sleeps. With `drive_in_caller=False` calls such as `signal` only post, and
    workers carry the runs on (D19). A `def` handler that overran its timeout and still runs holds its step up; after `abandon_after`
    its run is blocked (D9). `types` may be stored (D21), as may those that workflows declare.
    """

    def __init__(
        self,
        storage: str | WorkflowStorage | None = None,
        *,
        workflows: Iterable[Definition] = (),
        default_retries: int = 3,
        default_timeout: Duration | None = 30,
        default_retry: Retry | None = None,
        crash_limit: int = 20,
        lease: Duration = 30,
        grace: Duration = 20,
        stay: Duration = 60,
        hooks: Sequence[Hooks] = (),
        types: Iterable[type] = (),
        codec: Codec | None = None,
        clock: Clock | None = None,
        chance: random.Random | None = None,
        threads: int = 40,
        inbox_limit: int = 1000,
        abandon_after: Duration | None = None,
        drive_in_caller: bool = True,
    ) -> None:
        self.storage: WorkflowStorage = open_storage(storage)
        self.codec: Codec = codec or JsonCodec(types)
        defaults = make_defaults(default_retries, default_timeout, default_retry, crash_limit)
        self._registry = Registry(defaults, self.codec, self._note_progress, self.storage)
        self._host = Host(
            self.storage,
            clock or getattr(self.storage, "clock", None) or SystemClock(),
            self._registry,
            self.codec,
            chance or random.Random(),
            Threads(check_whole(threads, 1, "threads")),
            to_microseconds(lease, "lease") / SECOND,
            to_microseconds(grace, "grace", zero=True) / SECOND,
            None if abandon_after is None else to_microseconds(abandon_after, "abandon_after") / SECOND,
        )
        self._hooks = check_each(hooks, Hooks, "hooks", "objects of classes that extend Hooks")
        self._inbox_limit = check_whole(inbox_limit, 1, "inbox_limit")
        check_switch(drive_in_caller, "drive_in_caller")
        self._caller = Caller(self._host, self.codec, to_microseconds(stay, "stay", zero=True) / SECOND, drive_in_caller)
        self._redo = Redo(self._caller, self.codec)
        self._schedules = Schedules(self._host)
        for workflow in check_each(workflows, Definition, "workflows", "workflows made by create_workflow(...)"):
            self._registry.bind(workflow)

    # --- opening and closing

    async def __aenter__(self) -> FluxEngine:
        if self._host.has_storage:
            raise EngineClosed("this engine is open already, or is just being closed: one `async with` at a time")
        await self._host.open(self._hooks)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Start nothing more, let handlers finish for `grace` seconds, give the runs back, close the storage (S14.4, D10)."""
        await self._host.close()

    # --- running

    async def execute(
        self,
        workflow: Definition,
        input: Any = None,
        *,
        id: str | None = None,
        idempotency_key: str | None = None,
        deduplication_key: str | None = None,
        concurrency_key: str | None = None,
        priority: int = 0,
    ) -> RunResult:
        """Run it here and now, until it ends or suspends (S3.1). A failed run does not raise: see the result's `error`.

        With the id or key of a run that exists, that run is carried on, or returned when it has ended (S2.4). The limits of its queue do
        not hold it up, and it counts for them. Raises InvalidInput, RunConflict, and what a call that cannot be carried out raises.
        """
        self._check_open()
        bound = self._registry.bind(workflow)
        wanted = Wanted(input, id, idempotency_key, priority, 0, concurrency_key, deduplication_key)
        return await self._caller.execute(bound, wanted)

    async def start(
        self,
        workflow: Definition,
        input: Any = None,
        *,
        id: str | None = None,
        idempotency_key: str | None = None,
        deduplication_key: str | None = None,
        concurrency_key: str | None = None,
        priority: int = 0,
        delay: Duration = 0,
        connection: Any = None,
    ) -> RunHandle:
        """Store a run for a worker to take up, `delay` from now; durable when it returns (S3.1).

        A higher `priority` (−100 to 100) goes first. With the `deduplication_key` of a run of this workflow that has not ended, that is
        the run, whatever its input. Of runs with one `concurrency_key` the workflow's queue may let only some be moved at a time. With
        `connection`, a `sqlite3.Connection` or `asyncpg.Connection` inside a transaction of the caller's own on the storage's database,
        the run is there once the caller commits, and never if not (the outbox pattern). Raises StorageMisused where the connection is
        no such.
        """
        self._check_open()
        bound = self._registry.bind(workflow)
        later = to_microseconds(delay, "delay", zero=True)
        wanted = Wanted(input, id, idempotency_key, priority, later, concurrency_key, deduplication_key)
        return RunHandle(self, await self._caller.store(bound, wanted, connection))

    def handle(self, id: str) -> RunHandle:
        """A handle for a run by its id; nothing is looked up yet."""
        return RunHandle(self, check_run(id))

    # --- carrying on

    async def resume(self, workflow: Definition, id: str) -> RunResult:
        """Carry a suspended, interrupted or blocked run on here and now (S12.2); waits while another worker moves it.

        Raises RunNotFound, DefinitionChanged, and UnknownWorkflow when the run is of a version that is not registered (S13.3).
        """
        self._check_open()
        return await self._caller.carry_on(check_run(id), self._registry.bind(workflow), blocked=True)

    async def signal(
        self, workflow: Definition, id: str, name: str, data: Any = None, *, signal_id: str | None = None, connection: Any = None
    ) -> RunResult:
        """Send a signal: durable when this returns (S7.2). Carries the run on here when nothing else holds it (S7.6).

        With `connection` it is sent by the caller's own transaction, as in `start`: a worker takes it up once that is committed.
        Raises RunNotFound, RunFinished, UnknownSignal, InvalidPayload, InboxFull.
        """
        self._check_open()
        bound = self._registry.bind(workflow)
        id, name = check_run(id), check_name(name, "the name of a signal", error=InvalidArgument)
        if signal_id is not None:
            signal_id = check_id(signal_id, "signal id")
        await self._check_signal(bound, id, name)
        payload = bound.write_payload(name, data)
        posting = NewPosting("signal", name, payload, signal_id, self._inbox_limit)
        if connection is not None:
            return await self._caller.post_within(connection, id, posting, bound.definition.name)
        return await self._caller.post(id, posting, bound.definition.name)

    async def _check_signal(self, bound: Bound, run_id: str, name: str) -> None:
        """D24, D25: refused is a name that no wait can have; where waits are declared, one that is neither declared nor awaited now."""
        if not bound.signals or name in bound.signals:
            return
        header = await self._caller.header(run_id)
        if name not in header.waiting and header.status not in TERMINAL:
            known = ", ".join(sorted(bound.signals | set(header.waiting)))
            raise UnknownSignal(f"workflow {bound.definition.name!r} has no wait for {name!r}; it can wait for: {known}")

    async def cancel(self, id: str, reason: str = "", *, compensate: bool = True, interrupt: bool = False) -> RunResult:
        """Ask for the run to be cancelled: durable when this returns (S11). It is compensated unless `compensate=False`.

        A step in flight is finished and recorded first; `interrupt=True` stops its handler instead, and it is then in doubt.
        A cancel during compensation changes nothing; one during a replay ends that. Raises RunNotFound, RunFinished, and PastPivot when
        the run is past its point of no return: it can then only be cancelled with `compensate=False` (D10).
        """
        self._check_open()
        posting = NewPosting("cancel", "cancel", write_cancel(reason, compensate, interrupt))
        header = await self._caller.header(check_run(id))
        racing = compensate and await self._check_pivot(header)
        result = await self._caller.post(id, posting, header.workflow, interrupt=interrupt, compensate=compensate)
        if racing and result.past_pivot and not result.cancelling:
            raise _past_pivot(id)
        return result

    async def _check_pivot(self, header: Header) -> bool:
        """Whether the run may pass its point of no return meanwhile. Raises PastPivot; not in a replay, nor on the way down."""
        bound = self._registry.get(header.workflow, header.version)
        if bound is None or not bound.has_pivot or header.status in TERMINAL:
            return False
        state = await self._caller.fold(header.run_id)
        if state.replay is not None or state.unwinding is not None:
            return False
        if state.pivot is not None:
            raise _past_pivot(header.run_id)
        return True

    # --- doing it again

    async def retry(
        self, workflow: Definition, id: str, *, from_step: str | None = None, reason: str = "", by: str | None = None
    ) -> RunResult:
        """Let a failed, cancelled or blocked run go on under its id, its attempts reset (S12.2): from the first step that is not done
        (a compensated step is not), or from `from_step`, which may not skip one. `ctx.data` is what it was before that step (D3).

        It is recorded with `reason` and `by` (user@host unless said). Raises RunNotFound, RunFinished for a completed run,
        RunNotFinished for one that goes on by itself, InvalidArgument, PastPivot, DefinitionChanged.
        """
        self._check_open()
        return await self._caller.again(check_run(id), self._registry.bind(workflow), choose_retry(from_step, act(by, reason)))

    async def replay(self, workflow: Definition, id: str, *, reason: str = "", by: str | None = None) -> RunResult:
        """Run the commit steps of an ended run again, in order and with the same idempotency keys; everything else is served from its
        history (S9.3). Nothing is compensated: a commit step that fails leaves the run blocked, and cancelling that gives its
        old status back (D4). Raises RunNotFound, RunNotFinished, DefinitionChanged.
        """
        self._check_open()
        return await self._caller.again(check_run(id), self._registry.bind(workflow), choose_replay(act(by, reason)))

    async def fork(
        self,
        workflow: Definition,
        id: str,
        *,
        from_step: str | None = None,
        new_id: str | None = None,
        start: bool = True,
        reason: str = "",
        by: str | None = None,
    ) -> RunResult:
        """A new run with the input of run `id` that shares its history before `from_step` (S12.3); without it, none.

        The original is not touched, and what is shared is never compensated by the fork (D5). `workflow` may be of another
        version. With `start=False` it is only created, for a worker or `resume`. Raises RunNotFound, RunConflict,
        InvalidArgument when a step before `from_step` is not done, DefinitionChanged.
        """
        self._check_open()
        if new_id is not None:
            new_id = check_id(new_id)
        return await self._redo.fork(self._registry.bind(workflow), check_run(id), from_step, new_id, start, act(by, reason))

    async def resolve(
        self, id: str, path: str, way: Literal["retry", "skip", "done"], *, result: Any = MISSING, reason: str = "", by: str | None = None
    ) -> RunResult:
        """Move on a run that is blocked at the step or compensation at `path`: try it again, leave it out, or take it as done, for a step
        with this `result` (S10.6, S9.4). Raises RunNotFound, RunNotBlocked, InvalidArgument, UnknownWorkflow, DefinitionChanged.
        """
        self._check_open()
        return await self._redo.resolve(check_run(id), path, way, result, result is not MISSING, act(by, reason))

    async def doctor(self, *, ended: bool = False) -> Report:
        """Look at every run that has not ended (with `ended`, at all): what no rule would ever wake (I15), cannot be read, no longer
        fits, or waits for code that is not here, and what to do about it. Reads one run at a time and changes nothing."""
        self._check_open()
        return await examine(self.storage, self._registry, ended)

    # --- working

    async def work(self, *, concurrency: int = 100, handle_signals: bool = True) -> None:
        """Be a worker: claim due runs and move them on, at most `concurrency` at once (S14), until cancelled, `stop()`,
        SIGTERM or SIGINT; then let handlers finish for the grace period, and return."""
        worker = self.worker(concurrency=concurrency)
        with StopOnSignals(self._host.drain) if handle_signals else nullcontext():
            await worker.run()
            if self._host.draining:
                await self.close()
        self._host.raise_stop()

    def worker(self, *, concurrency: int = 100) -> Worker:
        """A worker beside an app: `async with engine.worker(): ...`."""
        self._check_open()
        if type(concurrency) is not int or concurrency < 1:
            raise InvalidArgument(f"concurrency is a whole number from 1, got {concurrency!r}")
        return Worker(self._host, concurrency, Ticker(self._host))

    def stop(self) -> None:
        """Tell the workers of this engine to stop: they claim no more and return when what they move rests."""
        for worker in list(self._host.workers):
            worker.stop()

    # --- schedules

    async def schedule(
        self,
        name: str,
        workflow: Definition,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        timezone: Any = "UTC",
        input: Any = None,
        catch_up: CatchUp = "one",
        overlap: Overlap = "allow",
        priority: int = 0,
    ) -> Schedule:
        """Start a run of the workflow at every time that `cron` names in `timezone`, or `every` so often. Workers do it, those that have
        the workflow in this version registered; each tick makes one run, whose id is the name and the instant (I21).

        Ticks that no worker looked at for a minute were missed: `catch_up` makes up for them by no run ("skip"), by "one" for the latest,
        or by "all". Where the last run has not ended, `overlap` says "allow", "skip" this tick, or "cancel" that run. With a name that
        exists, that schedule becomes this one; if it is this one already, nothing changes, also not its next tick: call it at every
        start. Raises InvalidArgument, InvalidInput, NotStorable, UnreadableSchedule.
        """
        self._check_open()
        asked = {"cron": cron, "every": every, "timezone": timezone, "catch_up": catch_up, "overlap": overlap}
        return await self._schedules.declare(name, self._registry.bind(workflow), input, priority, asked)

    async def schedules(self) -> Sequence[Schedule]:
        """All there are, by name."""
        self._check_open()
        return await self._schedules.all()

    async def get_schedule(self, name: str) -> Schedule:
        """The schedule of that name. Raises ScheduleNotFound."""
        self._check_open()
        return await self._schedules.get(name)

    # --- reading

    async def get(self, id: str) -> RunResult:
        """The run as it stands (S16). Raises RunNotFound, UnreadableRun."""
        self._check_open()
        return await self._caller.get(check_run(id))

    async def history(self, id: str) -> tuple[Any, ...]:
        """One line per step that the run has reached. Raises RunNotFound."""
        return (await self.get(id)).history

    async def summary(self, id: str) -> RunSummary:
        """The run's head alone: status, times, what it waits for. Raises RunNotFound."""
        self._check_open()
        return RunSummary.of(await self._caller.header(check_run(id)))

    async def list(
        self,
        *,
        name: str | None = None,
        status: RunStatus | str | Collection[RunStatus | str] | None = None,
        version: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Runs, newest first, at most `limit` (1 to 500) a page; go on with the page's `next_cursor`. Raises InvalidArgument."""
        self._check_open()
        headers = await self.storage.find(read_query(name, status, version, limit, cursor))
        page = headers[:limit]
        more = encode_cursor(page[-1].created_at, page[-1].run_id) if len(headers) > limit else None
        return Page(tuple(RunSummary.of(header) for header in page), more)

    async def until(self, run_id: str, statuses: Collection[RunStatus]) -> RunStatus:
        """Wait until the run stands at one of these statuses. Raises RunNotFound."""
        self._check_open()
        return await self._caller.until(check_run(run_id), statuses)

    async def outcome(self, id: str) -> RunResult:
        """Wait until the run has ended, whoever moves it; how. Raises RunNotFound, UnreadableRun."""
        self._check_open()
        return await self._caller.outcome(check_run(id))

    # --- many, and forgetting

    async def execute_many(
        self,
        workflow: Definition,
        inputs: Iterable[Any],
        *,
        concurrency: int = 10,
        on_progress: Callable[[int, int, RunResult], Any] | None = None,
        stop_on_error: bool = False,
    ) -> Sequence[RunResult]:
        """Execute a run for each input, at most `concurrency` at once; results in the order of the inputs.

        `on_progress(done, total, result)` is called after each. With `stop_on_error` no further run is started once
        one has failed, and the results of those that were not started are left out.
        """
        self._check_open()
        return await execute_many(self, workflow, list(inputs), concurrency, on_progress, stop_on_error)

    async def delete(self, id: str) -> None:
        """Forget an ended run and everything about it. Raises RunNotFound, RunNotFinished (D26)."""
        self._check_open()
        await self.storage.delete(check_run(id))

    async def purge(self, finished_for: Duration) -> int:
        """Forget all runs that ended at least this long ago, in bounded batches; returns how many."""
        self._check_open()
        age = to_microseconds(finished_for, "finished_for", zero=True)
        total = 0
        while True:
            gone = await self.storage.purge(age, PURGE_BATCH)
            total += gone
            if not gone:
                return total

    # --- small parts

    def _note_progress(self, run_id: str, path: str, fraction: float, message: str) -> None:
        driver = self._host.drivers.get(run_id)
        if driver is not None:
            driver.progress[path] = Progress(fraction, message)

    def _check_open(self) -> None:
        if not self._host.is_open:
            raise EngineClosed("the engine is not open: use it inside `async with FluxEngine(...) as engine:`")


def _past_pivot(id: str) -> PastPivot:
    return PastPivot(f"run {id!r} is past its point of no return: cancel it with compensate=False, or let it go on to its end")


def run(workflow: Definition, input: Any = None, *, storage: str | WorkflowStorage | None = None, id: str | None = None) -> RunResult:
    """For scripts without async: open an engine, execute, close. Not for use inside a running event loop."""

    async def main() -> RunResult:
        async with FluxEngine(storage) as engine:
            return await engine.execute(workflow, input, id=id)

    return asyncio.run(main())

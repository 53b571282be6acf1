"""Where drivers live: one engine's storage, time, lease and tasks, and how a stored run is taken up here."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ..clock import Clock
from ..codec import Codec
from ..core.commands import Advance, Arrived, Command, Lost, Migrate, Tick, Unblock
from ..core.decision import Moment
from ..core.evolve import fold
from ..core.machine import decide
from ..core.records import Record, RunBlocked
from ..core.sketch import drawn
from ..core.state import RunState
from ..core.status import TERMINAL, RunStatus
from ..errors import DefinitionChanged, EngineClosed, LeaseLost, RunNotFound, StorageUnavailable, UnreadableRun
from ..storage import Commit, Outgoing, Renewal, StoredRun, WorkflowStorage
from .attempt import Threads
from .cancelling import all_are_cancelled, being_cancelled, uncancel
from .driver import Driver
from .hooks import Dispatcher, Hooks
from .isolation import Isolation
from .kin import read_child, words
from .lease import Lease
from .questions import read_cancel
from .registry import Bound, Registry
from .view import told_of, way_from
from .worker import Worker

logger = logging.getLogger("flux.engine")

T = TypeVar("T")

CUT_TIME = 5.0  # seconds that a handler which is being stopped has to clean up, beyond the grace period


class Host:
    """One engine's runs: who drives them, under which lease, by which clock. Internal: applications hold a `FluxEngine`."""

    def __init__(
        self,
        storage: WorkflowStorage,
        clock: Clock,
        registry: Registry,
        codec: Codec,
        chance: random.Random,
        threads: Threads,
        lease_seconds: float,
        grace: float,
        abandon_after: float | None = None,
    ) -> None:
        self.storage = storage
        self.clock = clock
        self.registry = registry
        self.codec = codec
        self.draw: Callable[[], float] = chance.random
        self.threads = threads
        self.hooks: Dispatcher | None = None
        self.carry: Callable[[str, bool], Awaitable[object]] = _carry_nothing  # moves a child of a run on; the caller's part
        self.workers: set[Worker] = set()
        self.drivers: dict[str, Driver] = {}
        self._watchers: dict[str, list[asyncio.Future[Driver]]] = {}  # who waits for a run that nobody moves here just now, by its id
        self.interrupting: set[str] = set()  # runs for which an interrupting cancel is being posted from here
        self.draining = False  # no new attempt starts
        self.abandoning = False  # attempts under way are cut
        self.stopped_by: BaseException | None = None
        self._lease_seconds = lease_seconds
        self.grace = grace
        self.abandon_after = abandon_after
        self.isolation = Isolation(self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lease: Lease | None = None
        self._unanswered = ""  # the worker that was being registered when the storage failed, or the caller went away
        self._retired: set[Lease] = set()
        self._leasing: asyncio.Lock | None = None
        self.one_clock = getattr(storage, "clock", None) is clock
        self.now: Callable[[], int] = clock.now if self.one_clock else self._extrapolated
        """The storage's time, in microseconds UTC."""
        self._offset = 0  # storage time minus monotonic time, in microseconds (D16)
        self.is_open = False
        self.has_storage = False  # open, and not given up yet
        self._closing: asyncio.Lock | None = None

    # --- opening and closing

    async def open(self, hooks: Sequence[Hooks]) -> None:
        """Open the storage and set the time by it."""
        await self.storage.__aenter__()
        try:
            self.saw(await self.storage.now())
        except BaseException:
            await self.storage.__aexit__(None, None, None)
            raise
        self._leasing, self._closing = asyncio.Lock(), asyncio.Lock()
        self.has_storage = True
        if hooks:
            self.hooks = Dispatcher(hooks)
        self.draining = self.abandoning = False
        self.is_open = True

    async def close(self) -> None:
        """Start nothing more, let handlers finish, give the runs back, close the storage (S14.4, D10); once: who closes the engine
        meanwhile, as `work` does when it has been told to stop, waits for that."""
        if self._closing is None:
            return
        self.drain()
        async with self._closing:
            if self.has_storage:
                await self._close()

    async def _close(self) -> None:
        await self._settle()
        assert self._leasing is not None, "made when it was opened"
        async with self._leasing:  # a call may be registering just now, and begin something then
            self.is_open = False
        await self._settle()
        if self._lease is not None:
            self._retired.add(self._lease)
            self._lease = None
        while self._retired:
            await self._end(self._retired.pop())
        if self.hooks is not None:
            await self.hooks.close()
            self.hooks = None
        self.has_storage = False
        await self.storage.__aexit__(None, None, None)

    def drain(self) -> None:
        """Claim nothing, start no attempt: runs are given back at their next step boundary."""
        self.draining = True
        for worker in list(self.workers):
            worker.stop()
        for driver in list(self.drivers.values()):
            driver.poke()

    async def _settle(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.grace)
        self.abandoning = True
        for driver in list(self.drivers.values()):
            logger.warning("run %s: its handler outlasted the grace period; the step is in doubt", driver.run_id)
            driver.abandon()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CUT_TIME)
        for task in list(self._tasks):
            asyncio.get_running_loop().call_soon(task.cancel)  # once it has begun: else it could tell nobody that it was cut
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stops(self) -> bool:
        """Whether a cancellation of the engine's tasks is its own, or the end of the program: else a handler has brought it about."""
        return self._is_stopping() or (being_cancelled() and all_are_cancelled())

    def _is_stopping(self) -> bool:
        return self.abandoning or not self.is_open

    def stop_for(self, error: BaseException) -> None:
        """A handler raised KeyboardInterrupt or SystemExit: stop gracefully, and pass it on to whoever called."""
        self.stopped_by = error
        self.drain()

    def raise_stop(self) -> None:
        """Raise what a handler stopped this engine with, once."""
        if self.stopped_by is not None:
            error, self.stopped_by = self.stopped_by, None
            raise error

    # --- time (D16)
    # A storage in this process or on this host has the engine's own clock; another's is extrapolated from its replies.

    def _extrapolated(self) -> int:
        return int(self.clock.monotonic() * 1_000_000) + self._offset

    def saw(self, now: int) -> None:
        """A reply said what time it is for the storage. It is a little late by now, so nothing fires early (I19)."""
        if not self.one_clock:
            self._offset = now - int(self.clock.monotonic() * 1_000_000)

    async def pause(self, seconds: float) -> None:
        """Wait by the engine's clock."""
        woken = asyncio.Event()
        timer = self.clock.call_later(seconds, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()

    # --- the lease (D13)

    async def lease(self) -> Lease:
        """This engine's worker identity, made when it is first needed and again when it was lost."""
        lease = self._lease
        if lease is not None and lease.alive:
            return lease
        if self._leasing is None:
            raise EngineClosed("the engine is not open")
        async with self._leasing:
            if not self.is_open:
                raise EngineClosed("the engine was closed before this call had a lease")
            lease = self._lease
            if lease is not None and lease.deadline and not lease.alive:
                await lease.beat()  # late, but nobody may have noticed
            if lease is None or not lease.alive:
                if lease is not None:
                    self.drop_lease(lease)
                # A name whose registration was not answered is used again: the storage keeps a lock for each.
                self._unanswered = self._unanswered or new_id(self.now())
                lease = Lease(self.storage, self.clock, self._unanswered, self._lease_seconds, self._renewed)
                self.saw(await lease.begin())
                self._lease, self._unanswered = lease, ""
        return lease

    def _renewed(self, lease: Lease, renewal: Renewal) -> None:
        if not renewal.alive:
            logger.error("worker %s was condemned: its runs are moved by others now", lease.nonce)
            self.drop_lease(lease)
            return
        self.saw(renewal.now)
        for run_id in renewal.unseen:
            driver = self.drivers.get(run_id)
            if driver is not None:
                self.spawn(driver.look_safely())

    def drop_lease(self, lease: Lease) -> None:
        """The lease is lost: everything held under it must stop here (S14.2)."""
        lease.stop()
        if self._lease is lease:
            self._lease = None
        for driver in list(self.drivers.values()):
            if driver.lease is lease:
                driver.lose()

    def retire(self, lease: Lease) -> None:
        """A verb that leases runs was not answered: take nothing more under this identity, and give it back once its drivers are
        through, with whatever it may hold that nobody here knows of (I15)."""
        if self._lease is lease:
            self._lease = None
        self._retired.add(lease)
        self._end_retired()

    def _end_retired(self) -> None:
        for lease in self._retired - {driver.lease for driver in self.drivers.values()}:
            self._retired.discard(lease)
            self.spawn(self._end(lease))

    async def _end(self, lease: Lease) -> None:
        try:
            await lease.end()
        except StorageUnavailable as error:
            logger.warning("could not give the lease back (%s); it will run out by itself", error)

    # --- taking a run up

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of this engine's own, which closing waits for (D19)."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def own(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work in a task of the engine's own: a caller that is cancelled only detaches (D19)."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._tasks.add(loop.create_task(self._pass_on(work, answer)))
        return await answer

    async def _pass_on(self, work: Coroutine[Any, Any, T], answer: asyncio.Future[T]) -> None:
        # A future of the caller's own, and no callbacks: half the cost of `asyncio.shield`, and every run passes here.
        try:
            value = await work
        except asyncio.CancelledError:
            if not answer.done():
                why = "the engine was closed" if self._is_stopping() else "its task was cancelled, though the engine is open,"
                answer.set_exception(EngineClosed(f"{why} before this call had its answer"))
            raise
        except BaseException as error:
            if answer.done():
                logger.warning("a call whose caller has gone ended with %s: %s", type(error).__name__, error)
            else:
                answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            if not answer.done():
                answer.set_result(value)
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._tasks.discard(task)

    def adopt(self, run: StoredRun, lease: Lease, stay: float) -> asyncio.Task[None]:
        """Move a run that was claimed; the task ends when the run rests. For workers."""
        return self.spawn(self._adopt(run, lease, stay))

    async def _adopt(self, run: StoredRun, lease: Lease, stay: float) -> None:
        driver = await self.take_on(run, lease, stay)
        if driver is not None:
            await driver.finished()

    async def take_on(self, run: StoredRun, lease: Lease, stay: float, tends: bool = False) -> Driver | None:
        """Drive a run that is leased to us, or give it back: blocked, when it cannot be read or no longer fits (S13.2, S15.2)."""
        bound = self.registry.get(run.header.workflow, run.header.version)
        try:
            if bound is not None:
                return self.drive_on(run, lease, bound, self.restore(run, bound), stay, tends=tends)
        except (DefinitionChanged, UnreadableRun) as error:
            if await self._end_without_code(run, lease):
                return None
            if bound is not None and bound.fingerprint not in run.header.misfits:  # else it is known, and told
                await self._block(run, lease, error, bound.fingerprint)
                return None
            await self.give_back(run, lease)
            return None
        if not await self._end_without_code(run, lease):
            await self.give_back(run, lease)
        return None

    async def _block(self, run: StoredRun, lease: Lease, error: Exception, misfit: str = "") -> None:
        """Park the run. With `misfit` it does not fit this code: a worker with other code may take it at once (D28). One that has ended,
        and is to be undone, stays as it is, and is left to such a worker (S2.2)."""
        header = run.header
        reason = type(error).__name__
        record = RunBlocked(reason, str(error), "", misfit)
        misfits = (*header.misfits, misfit) if misfit else header.misfits
        if header.status in TERMINAL:
            if await self._write_back(run, lease, (), header.status, header.wake_at, "", misfits):
                logger.error("run %s is %s, and what its parent asks of it is left to others: %s", header.run_id, header.status, error)
            return
        if await self._write_back(run, lease, (record,), RunStatus.BLOCKED, 0 if misfit else None, f"{reason}: {error}", misfits):
            logger.error("run %s is blocked: %s. %s", header.run_id, told_of(record), way_from(record))

    async def take_down(self, run: StoredRun, lease: Lease, stay: float, tends: bool = False) -> Driver | None:
        """Carry on a blocked run, whose cancel has been posted (S2.1); as it was when no code here fits it."""
        bound = self.registry.get(run.header.workflow, run.header.version)
        try:
            if bound is not None:
                return self.drive_on(
                    run, lease, bound, self.restore(run, bound), stay, (), tends=tends
                )  # what the cancel says, and no more
        except (DefinitionChanged, UnreadableRun) as error:
            logger.warning("run %s stays blocked: %s", run.header.run_id, error)
        if not await self._end_without_code(run, lease):
            await self.give_back(run, lease)
        return None

    async def _end_without_code(self, run: StoredRun, lease: Lease) -> bool:
        """End the run and give it back, if it has been cancelled with `compensate=False`: nothing of it needs to be called for that
        (D28); where children go on, tell them to end, and end once they have. An earlier cancel that asked for compensation was not
        carried out, and gives way."""
        asked = [posting for posting in run.postings if posting.kind == "cancel" and not read_cancel(posting).compensate]
        told = [posting for posting in run.postings if posting.kind == "child"]
        if run.error is not None or not (asked or told):
            return False
        try:
            state = drawn((row.at, row.records) for row in run.rows)
        except (DefinitionChanged, UnreadableRun) as error:
            logger.warning("run %s cannot be cancelled here: %s", run.header.run_id, error)
            return False
        if state.ended is not None:  # what it may be asked needs its code
            return False
        if not asked and (state.cancel is None or state.cancel.compensate):
            return False
        heard = tuple(sorted([*asked[:1], *told], key=lambda posting: posting.seq))
        moment = Moment(self.now(), self.draw, _no_questions, read_cancel, read_child, halt=True)
        decision = decide(state, (Lost(), Arrived(heard), Unblock(), Advance()), moment)
        if state.ended is None and not (state.descending and decision.consumed):
            return False
        posts = words(run.header.run_id, state, decision.records, decision.tells, self.codec)
        status, wake_at, _, _ = state.head()
        await self._write_back(
            run, lease, tuple(decision.records), status, wake_at, "", run.header.misfits, posts, tuple(decision.consumed)
        )
        return True

    def restore(self, run: StoredRun, bound: Bound) -> RunState:
        """The state of a stored run. Raises UnreadableRun, DefinitionChanged."""
        header = run.header
        if run.error is not None:
            raise run.error
        try:
            state = fold(bound.plan, ((row.at, row.records) for row in run.rows))
        except DefinitionChanged as error:
            raise DefinitionChanged(f"run {header.run_id!r} of {bound.definition.name!r}: {error}", error.paths) from None
        except UnreadableRun as error:
            raise UnreadableRun(f"run {header.run_id!r}: {error}", header.run_id) from error
        state.position = header.position  # a journal that has begun anew is read from there on
        # What does not fit is the header's to say: this code was among it, and its rows have been put right since.
        state.misfits = tuple([misfit for misfit in header.misfits if misfit != bound.fingerprint])
        # Postings before the first of these were taken.
        state.inbox_seq = min([header.inbox_seq, *[posting.seq - 1 for posting in run.postings]])
        return state

    def drive_on(
        self,
        run: StoredRun,
        lease: Lease,
        bound: Bound,
        state: RunState,
        stay: float,
        asked: tuple[Command, ...] | None = None,
        tends: bool = False,
    ) -> Driver:
        """Carry a restored run on: what has come, what was lost, what is `asked` (to go on where it is blocked), what is due, then
        whatever can start."""
        header = run.header
        driver = Driver(self, bound, header.run_id, header.ref, header.epoch, lease, state, stay, tends, header.priority, header.lane)
        driver.migrating = state.version != bound.definition.version
        first: tuple[Command, ...] = (Migrate(),) if driver.migrating else ()
        if asked is None and state.blocked is not None:
            first = (*first, Unblock())
        return self.drive(driver, (*first, Arrived(tuple(run.postings), header.inbox_seq), Lost(), *(asked or ()), Tick(), Advance()))

    def drive(self, driver: Driver, commands: tuple[Command, ...]) -> Driver:
        """Let the driver move its run, in a task of the engine's own (D19)."""
        self.drivers[driver.run_id] = driver
        self.spawn(self.move(driver, commands))
        return driver

    async def move(self, driver: Driver, commands: tuple[Command, ...]) -> None:
        """Let the driver move its run until it rests, in the task that calls this."""
        self.drivers[driver.run_id] = driver
        try:
            await driver.run(commands)
        except asyncio.CancelledError:
            if self._is_stopping():
                raise
            await self._let_go(driver)
        except Exception as error:
            logger.exception("run %s: the engine failed to move it", driver.run_id)
            driver.error = error
            await self._park(driver, error)
        finally:
            if self.drivers.get(driver.run_id) is driver:
                del self.drivers[driver.run_id]
            driver.finish()
            for watcher in self._watchers.get(driver.run_id, ()):
                if not watcher.done():
                    watcher.set_result(driver)
            self.isolation.leave(driver)
            if self.isolation.active:
                self.isolation.look()
            if self._retired:
                self._end_retired()

    def watch(self, run_id: str) -> asyncio.Future[Driver]:
        """Done with the next driver that moves this run here, once it has let go of it. To be given back with `unwatch`."""
        watcher: asyncio.Future[Driver] = asyncio.get_running_loop().create_future()
        self._watchers.setdefault(run_id, []).append(watcher)
        return watcher

    def unwatch(self, run_id: str, watcher: asyncio.Future[Driver]) -> None:
        """Nobody waits for it any more."""
        watchers = self._watchers[run_id]
        watchers.remove(watcher)
        if not watchers:
            del self._watchers[run_id]

    async def _park(self, driver: Driver, error: Exception) -> None:
        """Something of flux's own broke: block the run with the reason, rather than leave it to nobody or try it for ever (I15, I17)."""
        try:
            run = await self.storage.load(driver.run_id)
            if run is not None and (run.header.owner, run.header.epoch) == (driver.lease.nonce, driver.epoch):
                demanded = run.header.status in TERMINAL and run.header.wake_at is not None  # tried again once its parent is resumed
                await self._block(run, driver.lease, error, driver.bound.fingerprint if demanded else "")
        except Exception:
            logger.exception("run %s: nor could it be parked; it is held until this worker ends", driver.run_id)

    async def _let_go(self, driver: Driver) -> None:
        """The task that moves the run was cancelled, and not by the engine: by a handler that had returned, or because the program ends
        without closing the engine. What was under way is not known: give the run back as it is stored, for anybody to go on with, rather
        than leave it to nobody (I15); its attempts are lost."""
        uncancel()
        driver.held = False
        driver.lost = True
        logger.error("run %s: the task that moves it was cancelled, and not by the engine; the run is given back", driver.run_id)
        try:
            await driver.landed(CUT_TIME)
            run = await self.storage.load(driver.run_id)
            if run is None or (run.header.owner, run.header.epoch) != (driver.lease.nonce, driver.epoch):
                return
            header = run.header
            wake_at = None if header.status in TERMINAL and header.wake_at is None else 0
            if await self._write_back(run, driver.lease, (), header.status, wake_at, header.blocked, header.misfits):
                return
        except Exception:
            logger.exception("run %s: nor could it be given back; it is freed with the lease", driver.run_id)
        self.retire(driver.lease)

    async def give_back(self, run: StoredRun, lease: Lease) -> None:
        """Return a run as it was."""
        header = run.header
        if header.owner == lease.nonce:
            await self._write_back(run, lease, (), header.status, header.wake_at, header.blocked, header.misfits)

    async def _write_back(
        self,
        run: StoredRun,
        lease: Lease,
        records: tuple[Record, ...],
        status: RunStatus,
        wake_at: int | None,
        blocked: str,
        misfits: tuple[str, ...],
        posts: tuple[Outgoing, ...] = (),
        consumed: tuple[int, ...] = (),
    ) -> bool:
        """Commit these records, give the run back and tell the hooks; whether it was still ours."""
        header = run.header
        waiting = () if status in TERMINAL else header.waiting
        seq = header.inbox_seq
        while True:
            commit = Commit(
                header.run_id, header.ref, lease.nonce, header.epoch, header.position, seq, self.now(), records,
                status, wake_at, waiting, blocked, consumed, True, misfits, posts=posts, lane=header.lane,
            )  # fmt: skip
            try:
                reply = await self.storage.commit(commit)
            except (LeaseLost, RunNotFound):
                return False
            except StorageUnavailable as error:
                logger.warning("run %s could not be given back (%s); it is freed with the lease", header.run_id, error)
                self.retire(lease)
                return False
            if not reply.postings:
                break
            # Not taken: whoever moves the run next finds them in the inbox, and is to look at once (I15).
            seq = reply.postings[-1].seq
            undo = any(posting.kind == "unwind" for posting in reply.postings)
            if undo if status in TERMINAL else status is not RunStatus.BLOCKED:
                wake_at = 0
        if self.hooks is not None and records:
            self.hooks.publish((header.workflow, header.version), header.run_id, records, commit.at)
        return True


async def _carry_nothing(run_id: str, ended: bool) -> None:
    """Without calls that move runs there is nobody to move a child for."""


def _no_questions(*_: Any) -> Any:
    raise AssertionError("nothing of a run without its code is asked")


def new_id(now: int) -> str:
    """A time-ordered id (D24)."""
    return f"{now:014x}{os.urandom(6).hex()}"

"""One run, moved on by its holder: perform what is outstanding, commit what follows, only then go on (S3.3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from ..codec import Undecodable
from ..context import Context
from ..core.commands import Advance, Arrived, Block, Command, Continued, CutCause, Posting, Postpone, Released, Returned, Suspended, Tick
from ..core.decision import Decision, Moment
from ..core.machine import decide
from ..core.plan import UNDO, Node, base_path
from ..core.records import Record, RunBlocked, RunCompleted, StepFailed
from ..core.retry import SUSPECT
from ..core.state import RunState, StepState
from ..core.status import RunStatus
from ..core.stride import stride, take
from ..errors import FluxError, LeaseLost, RunNotFound, StorageUnavailable
from ..storage import Commit, Committed, NewRun, RolledBack, Transaction, Transactional
from .attempt import Attempt, Entered, Stuck, is_async, returned
from .isolation import LATER, PATIENCE
from .kin import new_child, read_child, words
from .questions import ask, read_cancel
from .view import Progress, told_of, way_on

if TYPE_CHECKING:
    from .host import Host
    from .lease import Lease
    from .registry import Bound

logger = logging.getLogger("flux.engine")

FAIR = 64  # steps that never suspend, on a storage that never does, before others have their turn
ROLLED_BACK = 20  # times that a transaction may be taken back for a passing reason before that is taken for the handler's fault
RETRY_COMMIT = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # seconds between tries of a commit that the storage could not take


class Driver:
    """Holds one run and moves it until it ends, rests, or is lost.

    `stay` is how many seconds it waits, holding the run, for a sleep or a retry; a longer one gives the lease back. `tends`: the children
    that the run starts or speaks to are moved on here too, for a caller that may be all there is; otherwise by whoever claims them.
    """

    __slots__ = (
        "_attempts", "_flying", "_followers", "_landed", "_moment", "_rest", "_tended", "_woken", "bound", "epoch", "error", "held",
        "host", "lane", "lease", "lost", "migrating", "priority", "progress", "ref", "run_id", "state", "stay", "tends",
    )  # fmt: skip

    def __init__(
        self,
        host: Host,
        bound: Bound,
        run_id: str,
        ref: int,
        epoch: int,
        lease: Lease,
        state: RunState,
        stay: float,
        tends: bool = False,
        priority: int = 0,
        lane: str = "",
    ) -> None:
        self.host = host
        self.bound = bound
        self.run_id = run_id
        self.ref = ref
        self.epoch = epoch
        self.lease = lease
        self.state = state
        self.stay = stay
        self.tends = tends
        self.priority = priority  # of the run, and so of its children
        self.lane = lane
        self.held = True
        self.migrating = False  # the next commit moves the run to the version of `bound`
        self.lost = False  # somebody else holds the run now
        self.error: BaseException | None = None
        self.progress: dict[str, Progress] = {}
        self._followers: list[asyncio.Future[None]] | None = []  # None: it has let go
        self._attempts: dict[str, Attempt] = {}  # those that have suspended, and can be cut
        self._flying: dict[str, asyncio.Task[None]] = {}  # attempts beside one another, each in a task of its own
        self._landed: list[tuple[Command, ...] | BaseException] = []  # what came of them
        self._tended = 0  # children that are being moved on here for this run
        self._rest: asyncio.Future[None] | None = None
        self._woken = False
        self._moment = Moment(0, host.draw, self._ask, read_cancel, read_child, quiet=self._quiet)

    # --- from outside

    def finished(self) -> asyncio.Future[None]:
        """Done once this driver has let go of the run; each caller's own, so that one that is cancelled only detaches (D19)."""
        follower: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._followers is None:
            follower.set_result(None)
        else:
            self._followers.append(follower)
        return follower

    def finish(self) -> None:
        """Tell the followers; nothing here refers to the run's objects any longer than needed."""
        followers, self._followers = self._followers, None
        for follower in followers or ():
            if not follower.done():
                follower.set_result(None)
        self._moment.ask = self._moment.quiet = None  # type: ignore[assignment]  # they refer back to this driver

    def poke(self) -> None:
        """Something has come for this run: look into the inbox at the next chance, now if it rests."""
        self._woken = True
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    def interrupt(self, compensate: bool = True) -> None:
        """An interrupting cancel has been accepted: stop the handlers that may be stopped (S11.1). Past the point of no return a cancel
        that would compensate is going to be refused: it stops nothing (D10)."""
        if not compensate or self.state.pivot is None:
            self._cut("cancelled")
        self.poke()

    def abandon(self) -> None:
        """The grace period is over: stop the handler, whose step is then in doubt (D10)."""
        for attempt in list(self._attempts.values()):
            attempt.cut("shutdown")

    def lose(self) -> None:
        """The lease is lost: whatever runs here must not go on."""
        self.held = False
        self.lost = True
        self.abandon()
        self.poke()

    async def landed(self, seconds: float) -> None:
        """Wait until the attempts that were cut with it are through, at most so long."""
        if self._flying:
            await asyncio.wait(list(self._flying.values()), timeout=seconds)

    def suspended_in(self, attempt: Attempt) -> None:
        """A handler has suspended: from here on it can be cut."""
        self._attempts[attempt.st.path] = attempt
        if not self.held or self.host.abandoning:
            attempt.cut("shutdown")
        elif self.state.is_stopped(attempt.st.path) and not attempt.node.sheltered:
            attempt.cut("stopped")
        elif self._woken and self.run_id in self.host.interrupting:
            self.interrupt()

    def deadline_left(self, node: Node) -> float | None:
        """Seconds until the deadline cuts a handler of this node; None when it never does (D10)."""
        state = self.state
        deadline = state.deadline_at
        if deadline is None or node.sheltered or state.unwinding is not None or state.pivot is not None:
            return None
        return max(0.0, (deadline - self.host.now()) / 1_000_000)

    def note_waiting(self, path: str) -> None:
        """Let people see that a step cannot go on because the thread of an earlier attempt has not returned (D9)."""
        self.progress[path] = Progress(0.0, "waits for the thread of an earlier attempt to return")

    @property
    def resting(self) -> bool:
        """Whether it waits for time, rather than for a handler; its own, or that of a child which is moved on here."""
        if self._rest is None or self._flying:
            return False
        drivers = self.host.drivers
        return all(drivers[child].resting for child in self.state.children.values() if child in drivers)

    def runs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether one of its handlers does: who waits for the run there waits for itself."""
        return any(attempt.runs_in(task) for attempt in self._attempts.values())

    async def look_safely(self) -> None:
        """`look`, for a background task."""
        try:
            await self.look()
        except (LeaseLost, RunNotFound, StorageUnavailable) as error:
            logger.warning("run %s: could not look for postings: %s", self.run_id, error)

    async def look(self) -> None:
        """Ask for postings while a handler runs: an interrupting cancel must not wait for it (D13)."""
        state = self.state
        if not self._attempts or self._flying:
            return self.poke()
        self._woken = True
        reply = await self.host.storage.commit(self._commit_of((), (), self.host.now(), False))
        for posting in reply.postings:
            asked = read_cancel(posting) if posting.kind == "cancel" else None
            if asked is not None and asked.interrupt and state is self.state:
                self.interrupt(asked.compensate)

    # --- the loop

    async def run(self, first: tuple[Command, ...]) -> None:
        """Move the run on, starting with these commands."""
        try:
            for path, child in self.state.children.items() if self.tends else ():
                self._tend(child, ended=path.endswith(UNDO))
            if first:
                await self._advance(first)
            await self._loop()
        except (LeaseLost, RunNotFound) as error:
            self.held = False
            self.lost = True
            logger.warning("run %s: %s; dropped here", self.run_id, error)
            # If nobody has noticed, a later renewal must not keep a run that nobody moves (I15).
            if isinstance(error, LeaseLost):
                self.host.retire(self.lease)
        finally:
            for task in list(self._flying.values()):
                task.cancel()

    async def _loop(self) -> None:
        state = self.state
        calls = state.calls
        for turn in count(1):
            if not self.held:
                return
            if calls and self.host.clock.monotonic() >= self.lease.deadline:
                await self._hold_on()
            if calls and (len(calls) > 1 or state.parked or state.children or state.stopping or self._flying or self._landed):
                await self._side_by_side()
            elif calls:
                if not turn % FAIR:
                    await asyncio.sleep(0)
                st = next(iter(calls.values()))
                if st.node.transactional:
                    await self._in_transaction(st)
                    continue
                entered = self._enter(st)
                outcome = await self._follow(entered) if isinstance(entered, Entered) else (entered,)
                if type(outcome[0]) is Returned:
                    await self._stride(outcome[0])
                else:
                    await self._advance(outcome)
            elif not await self._wait():
                return

    async def _hold_on(self) -> None:
        """The lease has run out, by our clock; go on only if nobody has noticed. Raises LeaseLost."""
        await self.lease.beat()
        if not self.lease.alive:
            raise LeaseLost("the lease ran out before the next handler could be started")

    def _enter(self, st: StepState) -> Command | Entered:
        """Start one attempt. A handler that never suspends is done with here: it costs no task, no timer, no further coroutine."""
        host = self.host
        if host.draining:
            return Released(st.path, st.attempt)
        node = st.node
        number = st.attempt if node.probes is None else self.state.steps[base_path(st.path)].attempt
        context: Context[Any, Any] = Context(self.bound.source, self.run_id, self.state, st.path, node.label, number)
        if node.extra is None:
            node.extra = is_async(node.handler)
        if not node.extra or (node.aside and self.host.threads.busy(self.run_id, st.path)):
            return Entered(Attempt(self, st, context), None, None)
        try:
            call = node.handler(context)  # type: ignore[misc]
            waits_for = call.send(None)
        except StopIteration as stop:
            return returned(st, context, self.bound.codec, stop.value)
        except BaseException as error:
            return Entered(Attempt(self, st, context), None, error)
        return Entered(Attempt(self, st, context), call, waits_for)

    async def _in_transaction(self, st: StepState) -> None:
        """One attempt of a transactional step: what its handler does, and the commit of what follows, together or not at all (S3.6). One
        that was rolled back for a passing reason is no attempt: the handler is called again."""
        storage = self.host.storage
        assert isinstance(storage, Transactional), "asked when the workflow was registered"
        if self.host.draining or self._useless(st):
            await self._advance((Released(st.path, st.attempt),))
            return
        outcome: tuple[Command, ...] = ()
        for tries in count():
            attempt = Attempt(self, st, Context(self.bound.source, self.run_id, self.state, st.path, st.node.label, st.attempt))
            try:
                async with storage.transaction() as transaction:
                    outcome = await self._go_on(attempt, attempt.run_within(transaction, storage.handlers))
                    if isinstance(outcome[0], Returned | Suspended | Continued):
                        outcome = await self._commit_within(transaction, attempt, outcome)
                break
            except (RolledBack, StorageUnavailable) as error:
                self.state.rollback()
                if isinstance(error, RolledBack) and tries >= ROLLED_BACK:
                    outcome = (attempt.failed(error),)
                    break
                await self._wait_to_retry(error, tries)
        if outcome:
            await self._advance(outcome)

    async def _commit_within(self, transaction: Transaction, attempt: Attempt, outcome: tuple[Command, ...]) -> tuple[Command, ...]:
        """Commit what follows, in this transaction; what is left to be said once that has been rolled back."""
        try:
            return () if await self._advance(outcome, within=transaction, path=attempt.st.path) else outcome
        except (FluxError, asyncio.CancelledError):
            raise
        except Exception as error:  # of the driver: what the database has against what was done
            self.state.rollback()
            return (attempt.failed(error),)

    async def _side_by_side(self) -> None:
        """Attempts of several branches, waits and timers beside them: go on with whatever comes first."""
        if not self._landed:  # what has landed stands in `calls` until it is recorded
            lone = [st for st in self.state.calls.values() if st.node.transactional and st.path not in self._flying]
            if lone:  # on SQLite its commit would wait for that of another branch, and that for it
                await self._in_transaction(lone[0])
                return
            for st in self.state.calls.values():
                if st.path not in self._flying:
                    self._take_off(st)
            if not self._woken and not self._landed:
                await self._rest_for(self._next_timer())
        landed, self._landed = self._landed, []
        for outcome in landed:
            if isinstance(outcome, BaseException):
                raise outcome
        outcomes = [command for outcome in landed if not isinstance(outcome, BaseException) for command in outcome]
        await self._advance((*outcomes, Tick()), sync=self._woken)
        self._cut_side_by_side()

    def _take_off(self, st: StepState) -> None:
        """Call the handler, unless what has been recorded since makes it useless: then nothing is in doubt (D7)."""
        if self._useless(st):
            self._landed.append((Released(st.path, st.attempt),))
        else:
            self._flying[st.path] = self.host.spawn(self._fly(st))

    def _useless(self, st: StepState) -> bool:
        state = self.state
        interrupted = state.cancel is not None and state.cancel.interrupt and state.unwinding is None
        return interrupted or state.is_stopped(st.path)

    async def _fly(self, st: StepState) -> None:
        """One attempt in a task of its own: what its handler enters and leaves (a timeout, a task group) belongs to one task."""
        try:
            command = self._enter(st)
            outcome = await self._follow(command) if isinstance(command, Entered) else (command,)
            self._landed.append(outcome)
        except asyncio.CancelledError as error:
            if self.host.stops():
                raise
            self._landed.append(error)
        except Exception as error:
            self._landed.append(error)
        finally:
            self._flying.pop(st.path, None)
            self.poke_timer()

    def _next_timer(self) -> int | None:
        """The next instant at which something beside the attempts is due; what may not start now waits for another occasion."""
        host, state = self.host, self.state
        overdue = state.deadline_at is not None and state.deadline_at <= host.now()
        going_down = state.cancel is not None or state.failing is not None or overdue
        halted = going_down or host.draining or host.isolation.closed_to(self)
        times = [st.due_at for st in state.parked.values() if st.due_at is not None and st.lost < SUSPECT]
        if halted:
            times = [time for time in times if time > host.now()]
        if state.deadline_at is not None and state.unwinding is None and state.deadline_at > host.now():
            times.append(state.deadline_at)
        return min(times, default=None)

    def _cut_side_by_side(self) -> None:
        """Stop what an interrupting cancel, or the end of a branch's siblings, wants stopped."""
        state = self.state
        if state.cancel is not None and state.cancel.interrupt:
            self._cut("cancelled")
        elif state.stopping:
            self._cut("stopped")

    def _cut(self, cause: CutCause) -> None:
        for attempt in list(self._attempts.values()):
            if not attempt.node.sheltered and (cause == "cancelled" or self.state.is_stopped(attempt.st.path)):
                attempt.cut(cause)

    async def _follow(self, entered: Entered) -> tuple[Command, ...]:
        return await self._go_on(entered.attempt, entered.attempt.run(entered.call, entered.waits_for))

    async def _go_on(self, attempt: Attempt, work: Awaitable[Command]) -> tuple[Command, ...]:
        try:
            return (await work,)
        except (KeyboardInterrupt, SystemExit) as error:
            self.host.stop_for(error)
            attempt.cut_cause = "shutdown"
            return (attempt.stopped(),)
        except Undecodable as error:  # not the handler's fault: the run waits for code, or a person, that can read it (S15.2)
            logger.error("run %s is blocked: %s cannot read what is stored: %s", self.run_id, attempt.st.path, error)
            attempt.cut_cause = "shutdown"
            return attempt.stopped(), Block("UnreadableRun", str(error))
        except Stuck:
            path = base_path(attempt.st.path)
            text = f"the handler of {path!r} overran its timeout and its thread has not returned for {self.host.abandon_after:g} s"
            return attempt.stopped(), Block("HandlerStuck", text, attempt.st.path)
        finally:
            self._attempts.pop(attempt.st.path, None)

    async def _wait(self) -> bool:
        """Rest, holding the run, until its timer is due or something comes; False when the run was given back."""
        if not self.held:
            return False
        if self._woken:
            await self._advance((Tick(),), sync=True)
            return True
        if self._held_up():
            await self._rest_for(None)
            await self._advance((Tick(), Advance()), sync=self._woken)
            return True
        suspect = self._suspect()
        if suspect is not None:
            await self._begin_alone(suspect)
            return True
        due = self._stay_until()
        if due is None and self._tended and not self.host.draining:
            due = self._next_timer()
        elif due is None:
            await self._advance((), sync=True)  # gives the run back, unless something has come meanwhile
            return self.held
        await self._rest_for(due)
        await self._advance((Tick(),), sync=self._woken)
        return True

    async def _rest_for(self, due: int | None) -> None:
        """Until then, or until something comes."""
        self._rest = asyncio.get_running_loop().create_future()
        timer = None
        if due is not None:
            timer = self.host.clock.call_later(max(0.0, (due - self.host.now()) / 1_000_000), self.poke_timer)
        try:
            await self._rest
        finally:
            self._rest = None
            if timer is not None:
                timer.cancel()

    def _held_up(self) -> bool:
        """Whether something could start, were it not for a suspect that has this engine to itself (D11)."""
        host = self.host
        if not host.isolation.closed_to(self) or host.draining:
            return False
        wake_at = self.state.wake_at
        return wake_at is not None and wake_at <= host.now()

    def _suspect(self) -> StepState | None:
        """A step that is due, and was lost so often that it may start only where it is alone."""
        if self.host.draining or self.state.blocked is not None:
            return None
        now = self.host.now()
        due = [st for st in self.state.parked.values() if st.lost >= SUSPECT and st.due_at is not None and st.due_at <= now]
        return due[0] if due else None

    async def _begin_alone(self, suspect: StepState) -> None:
        """Wait until nothing else runs here, then start it; or let it wait for a quieter worker."""
        isolation = self.host.isolation
        asked = isolation.ask(self)
        if asked and not isolation.reached:
            await self._rest_for(self.host.now() + int(PATIENCE * 1_000_000))
        if self._woken or not self.held:
            isolation.leave(self)
        elif asked and isolation.reached:
            isolation.begin()
            await self._advance((Tick(),))
        else:
            isolation.leave(self)
            logger.warning(
                "run %s: %s was lost %d times and finds no quiet worker to run alone in", self.run_id, suspect.path, suspect.lost
            )
            await self._advance((Postpone(suspect.path, LATER),))

    def poke_timer(self) -> None:
        """The timer is due."""
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    def _stay_until(self) -> int | None:
        """When the sleep or retry delay that is worth staying for ends, None when there is none (S7.1: waits are not)."""
        state = self.state
        if self.host.draining or state.ended is not None or state.blocked is not None:
            return None
        times = [st.due_at for st in state.parked.values() if st.due_at is not None and st.path not in _awaiting(state)]
        if (state.parked or state.children) and not times:
            return None
        if state.deadline_at is not None and state.unwinding is None:
            times.append(state.deadline_at)
        if not times:
            return None
        due = min(times)
        return due if due - self.host.now() <= self.stay * 1_000_000 else None

    # --- one step forward

    async def _stride(self, done: Returned) -> None:
        """Decide what follows from this and commit it: in the common case without the ceremony, and applied once it is committed."""
        host, state = self.host, self.state
        now = host.now()
        records = None
        if not (host.draining or host.isolation.active or self.migrating or self._tended):
            records = stride(state, done, now)
        ends = records is not None and type(records[1]) is RunCompleted
        if records is None or (ends and state.parent):
            await self._advance((done,))
            return
        self._woken = False
        commit = Commit(
            self.run_id, self.ref, self.lease.nonce, self.epoch, state.position, state.inbox_seq, now, records,
            RunStatus.COMPLETED if ends else RunStatus.RUNNING, None if ends else 0, (), "", (), ends, state.misfits, lane=self.lane,
        )  # fmt: skip
        reply = await self._write(host.storage.commit, commit)
        if reply.postings:
            await self._advance((done,), arrived=reply.postings)
            return
        take(state, done, now)
        state.position += 1
        if ends:
            self.held = False
        if host.isolation.active:
            self._after_alone()
        if host.hooks is not None:
            host.hooks.publish(self.bound.key, self.run_id, records, now)

    async def _advance(
        self,
        commands: tuple[Command, ...],
        *,
        sync: bool = False,
        within: Transaction | None = None,
        path: str = "",
        arrived: tuple[Posting, ...] = (),
    ) -> bool:
        """Decide what follows from these commands and what has `arrived`, and commit it. With `sync`, ask the storage even when nothing
        follows. `within` this transaction: unless the step at `path` fails by what it did, and then nothing is done; whether it was."""
        host = self.host
        state = self.state
        moment = self._moment
        self._woken = False
        while True:
            now = moment.now = host.now()
            moment.halt = host.draining
            if host.isolation.active:
                moment.halt = moment.halt or host.isolation.closed_to(self)
                moment.alone = host.isolation.held_by(self)
            decision = decide(state, _with(arrived, commands) if arrived else commands, moment)
            release = not state.calls and (host.draining or not (self._stays(decision) or self._held_up()))
            if not (decision.records or decision.consumed or release or sync):
                state.settle()
                return True
            if within is not None and _fails(decision.records, path):
                state.rollback()
                return False
            commit = self._commit_of(tuple(decision.records), tuple(decision.consumed), now, release, decision)
            reply = await self._write(host.storage.commit if within is None else within.commit, commit)
            if not reply.postings:
                break
            # Nothing was written: what came goes first, so that a cancel accepted before a completion wins (D12, I27).
            state.rollback()
            arrived += reply.postings
        if release:
            self.held = False
        self._committed(decision.records, now)
        if commit.children or commit.posts:
            self._spread(commit, decision)
        return True

    def _stays(self, decision: Decision) -> bool:
        """Whether it waits here for what comes, holding the run."""
        return self._stay_until() is not None or (self.tends and bool(self._tended or decision.children or decision.tells))

    def _spread(self, commit: Commit, decision: Decision) -> None:
        """What was committed begins other runs, and has told some: see to it that it is noticed."""
        host = self.host
        for new in commit.children:
            if host.hooks is not None:
                host.hooks.publish((new.workflow, new.version), new.run_id, new.records, commit.at)
            if self.tends and self.held:
                self._tend(new.run_id)
        for tell in decision.tells:
            driver = host.drivers.get(tell.run_id)
            if driver is not None:
                driver.interrupt(tell.compensate) if tell.interrupt else driver.poke()
            if self.tends and self.held:
                self._tend(tell.run_id, ended=tell.kind == "unwind")
        parent = host.drivers.get(self.state.parent) if self.state.parent else None
        if parent is not None:
            parent.poke()

    def _tend(self, run_id: str, *, ended: bool = False) -> None:
        self._tended += 1
        self.host.spawn(self._tend_to(run_id, ended))

    async def _tend_to(self, run_id: str, ended: bool) -> None:
        try:
            await self.host.carry(run_id, ended)
        finally:
            self._tended -= 1
            self.poke()

    def _committed(self, records: list[Record], now: int) -> None:
        state = self.state
        state.settle()
        self.migrating = False
        if self.host.isolation.active:
            self._after_alone()
        if not records:
            return
        state.position += 1
        if state.blocked is not None and state.blocked in records:
            self._tell_blocked(state.blocked)
        if self.host.hooks is not None:
            self.host.hooks.publish(self.bound.key, self.run_id, records, now)

    def _after_alone(self) -> None:
        isolation = self.host.isolation
        self._moment.alone = False
        if isolation.closed_to(self):
            isolation.look()
        elif not any(map(self._is_suspect, self.state.calls.values())):
            isolation.leave(self)

    def _is_suspect(self, st: StepState) -> bool:
        asked = st.node.probes is not None and self.state.steps[base_path(st.path)].lost >= SUSPECT
        return asked or st.lost >= SUSPECT

    def _tell_blocked(self, blocked: RunBlocked) -> None:
        logger.error("run %s is blocked: %s. %s", self.run_id, told_of(blocked), way_on(self.state))

    def _commit_of(
        self, records: tuple[Record, ...], consumed: tuple[int, ...], now: int, release: bool, decision: Decision | None = None
    ) -> Commit:
        state = self.state
        status, wake_at, waiting, blocked = state.head()
        commit = Commit(
            self.run_id, self.ref, self.lease.nonce, self.epoch, state.position, state.inbox_seq,
            now, records, status, wake_at, waiting, blocked, consumed, release, state.misfits,
            state.version if self.migrating else "", state.shape if self.migrating else "", lane=self.lane,
        )  # fmt: skip
        if decision is not None and (decision.fresh or decision.children or decision.tells or state.parent):
            commit.fresh, commit.children = decision.fresh, decision.children
            commit.posts = words(self.run_id, state, records, decision.tells, self.host.codec)
        return commit

    async def _write(self, write: Callable[[Commit], Awaitable[Committed]], commit: Commit) -> Committed:
        """Commit; where the storage could not, try the same again as long as the lease holds (S15.3, I45): the handler is not run again."""
        for tries in count():
            try:
                reply = await write(commit)
            except StorageUnavailable as error:
                await self._wait_to_retry(error, tries)
            else:
                if not self.host.one_clock:
                    self.host.saw(reply.now)
                return reply
        raise AssertionError("count() ends never")

    async def _wait_to_retry(self, error: FluxError, tries: int) -> None:
        """Before a commit is tried again. Raises LeaseLost once that would be in vain."""
        if not self.lease.alive:
            raise LeaseLost(f"the storage could not write before the lease ran out: {error}") from error
        delay = RETRY_COMMIT[min(tries, len(RETRY_COMMIT) - 1)]
        logger.warning("run %s: the storage could not commit (%s); trying the same again in %.2f s", self.run_id, error, delay)
        await self.host.pause(delay)

    def _quiet(self) -> bool:
        return len(self.host.drivers) == 1  # one that rests now may start beside it

    def _ask(self, node: Node, path: str, question: Any, about: Any = None) -> Any:
        if question == "child":
            about = partial(self._new_child, node, path)
        return ask(self.bound, self.run_id, self.state, node, path, question, self._moment.now, about)

    def _new_child(self, node: Node, path: str, value: Any) -> NewRun:
        bound = self.host.registry.bind(node.step.child)  # type: ignore[arg-type]
        return new_child(bound, self.run_id, self.state, path, value, self._moment.now, self.host.draw, self.priority)


def _with(arrived: tuple[Posting, ...], commands: tuple[Command, ...]) -> tuple[Command, ...]:
    """These commands, and before them all postings in order: those that the run was taken with are older than what came since (I24)."""
    known = [posting for command in commands if type(command) is Arrived for posting in command.postings]
    return Arrived((*known, *arrived)), *[command for command in commands if type(command) is not Arrived]


def _fails(records: list[Record], path: str) -> bool:
    return any(isinstance(record, StepFailed) and record.path == path for record in records)


def _awaiting(state: RunState) -> frozenset[str]:
    return frozenset(path for paths in state.waits.values() for path in paths)

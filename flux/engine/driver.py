"""One run, moved on by its holder: perform what is outstanding, commit what follows, only then go on (S3.3)."""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import TYPE_CHECKING, Any

from ..codec import Undecodable
from ..context import Context
from ..core.commands import Arrived, Block, Command, Posting, Released, Tick
from ..core.machine import Moment, decide
from ..core.plan import Node
from ..core.records import Record
from ..core.state import RunState, StepState
from ..errors import LeaseLost, RunNotFound, StorageUnavailable
from ..storage import Commit, Committed
from .attempt import Attempt, Entered, is_async, returned
from .questions import ask, read_cancel
from .view import Progress

if TYPE_CHECKING:
    from .host import Host
    from .lease import Lease
    from .registry import Bound

logger = logging.getLogger("flux.engine")

FAIR = 64  # steps that never suspend, on a storage that never does, before others have their turn
RETRY_COMMIT = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # seconds between tries of a commit that the storage could not take


class Driver:
    """Holds one run and moves it until it ends, rests, or is lost.

    `stay` is how many seconds it waits, holding the run, for a sleep or a retry; a longer one gives the lease back.
    """

    __slots__ = (
        "_attempt", "_followers", "_moment", "_rest", "_woken", "bound", "epoch", "error", "held", "host", "lease",
        "lost", "progress", "ref", "run_id", "state", "stay",
    )  # fmt: skip

    def __init__(self, host: Host, bound: Bound, run_id: str, ref: int, epoch: int, lease: Lease, state: RunState, stay: float) -> None:
        self.host = host
        self.bound = bound
        self.run_id = run_id
        self.ref = ref
        self.epoch = epoch
        self.lease = lease
        self.state = state
        self.stay = stay
        self.held = True
        self.lost = False  # somebody else holds the run now
        self.error: BaseException | None = None
        self.progress: dict[str, Progress] = {}
        self._followers: list[asyncio.Future[None]] | None = []  # None: it has let go
        self._attempt: Attempt | None = None  # the one that has suspended, and can be cut
        self._rest: asyncio.Future[None] | None = None
        self._woken = False
        self._moment = Moment(0, host.draw, self._ask, read_cancel)

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
        self._moment.ask = None  # type: ignore[assignment]  # it refers back to this driver

    def poke(self) -> None:
        """Something has come for this run: look into the inbox at the next chance, now if it rests."""
        self._woken = True
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    def interrupt(self) -> None:
        """An interrupting cancel has been accepted: stop a handler that may be stopped (S11.1)."""
        attempt = self._attempt
        if attempt is not None and not attempt.node.sheltered:
            attempt.cut("cancelled")
        self.poke()

    def abandon(self) -> None:
        """The grace period is over: stop the handler, whose step is then in doubt (D10)."""
        if self._attempt is not None:
            self._attempt.cut("shutdown")

    def lose(self) -> None:
        """The lease is lost: whatever runs here must not go on."""
        self.held = False
        self.lost = True
        self.abandon()
        self.poke()

    def suspended_in(self, attempt: Attempt) -> None:
        """A handler has suspended: from here on it can be cut."""
        self._attempt = attempt
        if not self.held or self.host.abandoning:
            attempt.cut("shutdown")
        elif self._woken and self.run_id in self.host.interrupting:
            self.interrupt()

    def deadline_left(self, node: Node) -> float | None:
        """Seconds until the deadline cuts a handler of this node; None when it never does (D10)."""
        deadline = self.state.deadline_at
        if deadline is None or node.sheltered or self.state.unwinding is not None:
            return None
        return max(0.0, (deadline - self.host.now()) / 1_000_000)

    @property
    def resting(self) -> bool:
        """Whether it waits for time, rather than for a handler."""
        return self._rest is not None

    async def look_safely(self) -> None:
        """`look`, for a background task."""
        try:
            await self.look()
        except (LeaseLost, RunNotFound, StorageUnavailable) as error:
            logger.warning("run %s: could not look for postings: %s", self.run_id, error)

    async def look(self) -> None:
        """Ask for postings while a handler runs: an interrupting cancel must not wait for it (D13)."""
        state = self.state
        if self._attempt is None:
            return self.poke()
        self._woken = True
        reply = await self.host.storage.commit(self._commit_of((), (), self.host.now(), False))
        for posting in reply.postings:
            if posting.kind == "cancel" and read_cancel(posting).interrupt and state is self.state:
                self.interrupt()

    # --- the loop

    async def run(self, first: tuple[Command, ...]) -> None:
        """Move the run on, starting with these commands."""
        try:
            if first:
                await self._advance(first)
            calls = self.state.calls
            for turn in count(1):
                if not self.held:
                    break
                if calls:
                    if not turn % FAIR:
                        await asyncio.sleep(0)
                    command = self._enter(next(iter(calls.values())))
                    await self._advance(await self._go_on(command) if isinstance(command, Entered) else (command,))
                elif not await self._wait():
                    break
        except (LeaseLost, RunNotFound) as error:
            self.held = False
            self.lost = True
            logger.warning("run %s: %s; dropped here", self.run_id, error)

    def _enter(self, st: StepState) -> Command | Entered:
        """Start one attempt. A handler that never suspends is done with here: it costs no task, no timer, no further coroutine."""
        host = self.host
        if host.draining:
            return Released(st.path, st.attempt)
        if host.clock.monotonic() >= self.lease.deadline:
            raise LeaseLost("the lease ran out before the next handler could be started")
        node = st.node
        context: Context[Any, Any] = Context(self.bound.source, self.run_id, self.state, st.path, node.label, st.attempt)
        if node.extra is None:
            node.extra = is_async(node.handler)
        if not node.extra or (node.undoes is not None and self.host.threads.busy(self.run_id, st.path)):
            return Entered(Attempt(self, st, context), None, None)
        try:
            call = node.handler(context)  # type: ignore[misc]
            waits_for = call.send(None)
        except StopIteration as stop:
            return returned(st, context, self.bound.codec, stop.value)
        except BaseException as error:
            return Entered(Attempt(self, st, context), None, error)
        return Entered(Attempt(self, st, context), call, waits_for)

    async def _go_on(self, entered: Entered) -> tuple[Command, ...]:
        attempt = entered.attempt
        try:
            return (await attempt.run(entered.call, entered.waits_for),)
        except (KeyboardInterrupt, SystemExit) as error:
            self.host.stop_for(error)
            attempt.cut_cause = "shutdown"
            return (attempt.stopped(),)
        except Undecodable as error:  # not the handler's fault: the run waits for code, or a person, that can read it (S15.2)
            logger.error("run %s is blocked: %s cannot read what is stored: %s", self.run_id, attempt.st.path, error)
            attempt.cut_cause = "shutdown"
            return attempt.stopped(), Block("UnreadableRun", str(error))
        finally:
            self._attempt = None

    async def _wait(self) -> bool:
        """Rest, holding the run, until its timer is due or something comes; False when the run was given back."""
        if not self.held:
            return False
        if self._woken:
            await self._advance((Tick(),), sync=True)
            return True
        due = self._stay_until()
        if due is None:
            await self._advance((), sync=True)  # gives the run back, unless something has come meanwhile
            return self.held
        loop = asyncio.get_running_loop()
        self._rest = loop.create_future()
        delay = max(0.0, (due - self.host.now()) / 1_000_000)
        timer = self.host.clock.call_later(delay, self.poke_timer)
        try:
            await self._rest
        finally:
            self._rest = None
            timer.cancel()
        await self._advance((Tick(),), sync=self._woken)
        return True

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
        if state.parked and not times:
            return None
        if state.deadline_at is not None and state.unwinding is None:
            times.append(state.deadline_at)
        if not times:
            return None
        due = min(times)
        return due if due - self.host.now() <= self.stay * 1_000_000 else None

    # --- one step forward

    async def _advance(self, commands: tuple[Command, ...], *, sync: bool = False) -> None:
        """Decide what follows from these commands and commit it. With `sync`, ask the storage even when nothing follows."""
        host = self.host
        state = self.state
        moment = self._moment
        self._woken = False
        arrived: tuple[Posting, ...] = ()
        while True:
            now = moment.now = host.now()
            moment.halt = host.draining
            decision = decide(state, _with(arrived, commands) if arrived else commands, moment)
            release = not state.calls and (host.draining or self._stay_until() is None)
            if not (decision.records or decision.consumed or release or sync):
                state.settle()
                return
            commit = self._commit_of(tuple(decision.records), tuple(decision.consumed), now, release)
            try:
                reply = await host.storage.commit(commit)
            except StorageUnavailable as error:
                reply = await self._commit_again(commit, error)
            if not host.one_clock:
                host.saw(reply.now)
            if not reply.postings:
                break
            # Nothing was written: what came goes first, so that a cancel accepted before a completion wins (D12, I27).
            state.rollback()
            arrived += reply.postings
        state.settle()
        if decision.records:
            state.position += 1
            if host.hooks is not None:
                host.hooks.publish(self.bound, self.run_id, decision.records, now)
        if release:
            self.held = False

    def _commit_of(self, records: tuple[Record, ...], consumed: tuple[int, ...], now: int, release: bool) -> Commit:
        state = self.state
        status, wake_at, waiting, blocked = state.head()
        return Commit(
            self.run_id, self.ref, self.lease.nonce, self.epoch, state.position, state.inbox_seq,
            now, records, status, wake_at, waiting, blocked, consumed, release,
        )  # fmt: skip

    async def _commit_again(self, commit: Commit, error: StorageUnavailable) -> Committed:
        """Try the same commit again, as long as the lease holds (S15.3, I45): the handler is not run again for it."""
        for tries in count():
            if not self.lease.alive:
                raise LeaseLost(f"the storage could not write before the lease ran out: {error}") from error
            delay = RETRY_COMMIT[min(tries, len(RETRY_COMMIT) - 1)]
            logger.warning("run %s: the storage could not commit (%s); trying the same again in %.2f s", self.run_id, error, delay)
            await self.host.pause(delay)
            try:
                return await self.host.storage.commit(commit)
            except StorageUnavailable as again:
                error = again
        raise AssertionError("count() ends never")

    def _ask(self, node: Node, path: str, question: Any) -> Any:
        return ask(self.bound, self.run_id, self.state, node, path, question)


def _with(arrived: tuple[Posting, ...], commands: tuple[Command, ...]) -> tuple[Command, ...]:
    """These commands, and before them all postings in order: those that the run was taken with are older than what came since (I24)."""
    known = [posting for command in commands if type(command) is Arrived for posting in command.postings]
    return Arrived((*known, *arrived)), *[command for command in commands if type(command) is not Arrived]


def _awaiting(state: RunState) -> frozenset[str]:
    return frozenset(path for paths in state.waits.values() for path in paths)

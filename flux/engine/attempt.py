"""One attempt: a handler called once, its outcome turned into a command.

An `async` handler is driven in place: it is entered without a task or a timer, and only when it really suspends is its timer armed.
A `def` handler runs on a worker thread. Cancelling reaches a handler as a cancellation of the task it runs in.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, Literal

import anyio

from ..clock import Timer
from ..codec import Codec, Undecodable
from ..context import Context
from ..core.commands import Answered, Command, Continued, Cut, CutCause, Raised, Released, Returned, Suspended
from ..core.plan import Node, base_path
from ..core.retry import SECOND
from ..core.state import StepState
from ..core.workflow import MISSING
from ..durations import LONGEST
from ..errors import InvalidArgument, InvalidWorkflow, NonRetryable, NotStorable, RetryAfter, StepTimeout
from ..failures import capture
from ..storage import Transaction
from ..waiting import NOT_DONE, ContinueAsNew, WaitFor
from .cancelling import being_cancelled, take_back
from .pool import Pool

if TYPE_CHECKING:
    from .driver import Driver

_FINAL = (NonRetryable, NotStorable, InvalidWorkflow, InvalidArgument)  # never worth another try (S4.2, S15.1)


class Stuck(Exception):
    """The thread of an earlier attempt of the step has not returned for too long (D9)."""


class Attempt:
    """One try of one step. `cut` stops it from outside."""

    __slots__ = ("_asked", "_codec", "_driver", "_task", "_timers", "_uncalled", "context", "cut_cause", "node", "st", "timed_out")

    def __init__(self, driver: Driver, st: StepState, context: Context[Any, Any]) -> None:
        self._driver = driver
        self._codec: Codec = driver.bound.codec
        self._task: asyncio.Task[Any] | None = None
        self._timers: list[Timer] = []
        self._asked = 0
        self._uncalled = False  # its handler waits for a thread: stopped now, it is not in doubt (D7)
        self.st = st
        self.node: Node = st.node
        self.context = context
        self.timed_out = False
        self.cut_cause: CutCause | None = None

    # --- stopping it

    def cut(self, cause: CutCause) -> None:
        """Stop the handler, if it runs: it is then in doubt (D8)."""
        if self.cut_cause is None and not self.timed_out:
            self.cut_cause = cause
            self._cancel()

    def runs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether its handler does."""
        return self._task is not None and self._task is task

    def _overrun(self) -> None:
        if self.cut_cause is None:
            self.timed_out = True
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._asked += 1
            self._task.cancel()

    def _arm(self) -> None:
        """The handler has suspended: from here on it can overrun, and be stopped."""
        self._task = asyncio.current_task()
        self._limit()
        self._driver.suspended_in(self)

    def _limit(self, *, thread: bool = False) -> None:
        clock = self._driver.host.clock
        later = clock.poll_later if thread else clock.limit_later  # a thread runs in real time, whatever the clock
        if self.node.timeout is not None:
            self._timers.append(later(self.node.timeout / 1_000_000, self._overrun))
        left = self._driver.deadline_left(self.node)
        if left is not None:
            self._timers.append(later(left, self.cut, "deadline"))

    def _disarm(self) -> None:
        while self._timers:
            self._timers.pop().cancel()
        if self._task is not None:
            for _ in range(self._asked):
                self._task.uncancel()
            self._asked = 0
            self._task = None

    # --- running it

    async def run(self, call: Coroutine[Any, Any, Any] | None, waits_for: Any) -> Command:
        """Say what came of the handler that was `Entered`.

        Raises what is not the handler's to decide: KeyboardInterrupt, SystemExit, the cancellation of the engine itself, and Undecodable
        when the handler touched a stored value that cannot be read.
        """
        return await self._outcome(partial(self._go_through, call, waits_for))

    async def run_within(self, transaction: Transaction, kind: Literal["async", "def"]) -> Command:
        """Call a handler in this transaction, and say what came of it; as `run`."""
        self.context.lend(transaction.connection)
        inside = copy_context().run if kind == "def" else self._awaited
        return await self._outcome(lambda: transaction.run(lambda _: inside(self.node.handler, self.context)))  # type: ignore[arg-type]

    async def _awaited(self, handler: Any, context: Any) -> Any:
        self._arm()
        try:
            return await _whole(handler(context))
        finally:
            self._disarm()

    async def _go_through(self, call: Coroutine[Any, Any, Any] | None, waits_for: Any) -> Any:
        if call is not None:
            return await self._enter(call, waits_for)
        if waits_for is not None:
            raise _own_end(waits_for) if isinstance(waits_for, GeneratorExit) else waits_for
        return await self._call_when_free()

    async def _outcome(self, work: Callable[[], Awaitable[Any]]) -> Command:
        try:
            result = await work()
        except (Undecodable, Stuck, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            if being_cancelled():
                await take_back(self._driver.host.stops)
            return self._ended_by(error)
        if being_cancelled():  # by the handler, which has returned in spite of it
            await take_back(self._driver.host.stops)
        if self.timed_out or self.cut_cause is not None:
            return self.stopped()
        return returned(self.st, self.context, self._codec, result)

    async def _enter(self, call: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
        self._arm()
        try:
            return await _go_on(call, waits_for)
        finally:
            self._disarm()

    async def _call_when_free(self) -> Any:
        """Call a handler on a thread; or in place, once no thread of the step that it undoes is left (D9)."""
        key = self._driver.run_id, base_path(self.st.path)
        self._task = asyncio.current_task()
        self._uncalled = True
        self._driver.suspended_in(self)
        try:
            await self._freed(key)
            if not self.node.extra:
                return await self._call_in_thread(key)
        finally:
            self._disarm()
        self._uncalled = False
        return await self._awaited(self.node.handler, self.context)

    async def _freed(self, key: tuple[str, str]) -> None:
        """Wait until no thread of an earlier attempt is left. Raises Stuck after `abandon_after`."""
        host = self._driver.host
        waiting = host.threads.free(key)
        if waiting is None:
            return
        self._driver.note_waiting(key[1])
        late = asyncio.get_running_loop().create_future()
        timer: Timer | None = None
        if host.abandon_after is not None:
            timer = host.clock.poll_later(host.abandon_after, late.set_result, None)
        try:
            await asyncio.wait([waiting, late], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if timer is not None:
                timer.cancel()
        if not waiting.done():
            raise Stuck

    async def _call_in_thread(self, key: tuple[str, str]) -> Any:
        threads = self._driver.host.threads
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        turn = [True]  # whoever takes it decides: the thread that calls the handler, or the stop that came before

        def call() -> Any:
            try:
                turn.pop()
            except IndexError:
                return None
            loop.call_soon_threadsafe(self._arm_for, task)  # the timeout counts from the call (D9)
            try:
                return self.node.handler(self.context)  # type: ignore[misc]
            finally:
                threads.leave(loop, key)

        threads.enter(key)
        try:
            result = await threads.call(call)
        finally:
            self._uncalled = bool(turn and turn.pop())
            if self._uncalled:
                threads.left(key)
        # Asked of the class: a stranger's object may not like to be looked at.
        return await result if hasattr(type(result), "__await__") else result

    def _arm_for(self, task: asyncio.Task[Any] | None) -> None:
        if self._task is task and not self._timers:
            self._limit(thread=True)

    # --- what came of it

    def _ended_by(self, error: BaseException) -> Command:
        ours = self.timed_out or self.cut_cause is not None
        if isinstance(error, asyncio.CancelledError) and not ours and being_cancelled():
            raise error
        stop = _stop_within(error)
        if stop is not None:
            raise stop from error
        return self.failed(error)

    def failed(self, error: BaseException) -> Command:
        """The command for a handler that raised this."""
        if self.timed_out or self.cut_cause is not None:
            return self.stopped()
        delay: int | None = None
        retryable = False
        if isinstance(error, RetryAfter):
            retryable, delay = True, _wish(error)
        elif not isinstance(error, _FINAL):
            retryable = self.node.retry.wants(error)
        failure = capture(error, self._codec)
        return Raised(self.st.path, self.st.attempt, failure, retryable, delay)

    def stopped(self) -> Command:
        """The command for a handler that was stopped: it overran, or was cut."""
        if self._uncalled:
            return Released(self.st.path, self.st.attempt)
        if self.cut_cause is not None:
            return Cut(self.st.path, self.st.attempt, self.cut_cause)
        seconds = (self.node.timeout or 0) / 1_000_000
        error = StepTimeout(f"attempt {self.st.attempt} of {self.st.path!r} ran longer than its timeout of {seconds:g} s")
        failure = capture(error, self._codec)
        return Raised(self.st.path, self.st.attempt, failure, self.node.retry.wants(error), doubt=True)


def _wish(error: RetryAfter) -> int | None:
    """The delay that it asks for, in microseconds; None when that is no finite number, also that of a subclass which never set it."""
    seconds: object = getattr(error, "seconds", None)
    if not isinstance(seconds, int | float) or not abs(seconds) < math.inf:
        return None
    return min(int(max(0, min(seconds, LONGEST)) * SECOND), LONGEST)


@dataclass(slots=True, eq=False, repr=False)
class Entered:
    """An attempt whose outcome has to be waited for: its handler's coroutine has suspended on `waits_for`, or (without `call`) has
    raised it, or (with neither) is still to be called, on a thread."""

    attempt: Attempt
    call: Coroutine[Any, Any, Any] | None
    waits_for: Any


def returned(st: StepState, context: Context[Any, Any], codec: Codec, result: Any) -> Command:
    """The command for a handler that returned."""
    path = st.path
    try:
        if st.node.probes is not None:
            return Answered(path, st.attempt, None if result is NOT_DONE else codec.encode(result, path))
        if type(result) is WaitFor:
            default = codec.encode(result.default, path) if result.has_default else None
            return Suspended(path, st.attempt, result.signal, result.timeout, default, context.changes())
        if type(result) is ContinueAsNew:
            return _continued(st, context, result)
        return Returned(path, st.attempt, codec.encode(result, path), context.changes())
    except Exception as error:  # NotStorable, or whatever a stranger's object does when it is looked at
        return Raised(path, st.attempt, capture(error, codec), retryable=False)


def _continued(st: StepState, context: Context[Any, Any], result: ContinueAsNew) -> Command:
    if "/" in st.path or "[" in st.path or st.node.aside:
        raise InvalidWorkflow(f"{st.path!r} returned continue_as_new(): only a step at the top level of its workflow may")
    text = None if result.input is MISSING else context.write_input(result.input)
    return Continued(st.path, st.attempt, text, context.changes())


def _stop_within(error: BaseException) -> BaseException | None:
    """The KeyboardInterrupt or SystemExit that a group of exceptions has inside."""
    found = error.subgroup((KeyboardInterrupt, SystemExit)) if isinstance(error, BaseExceptionGroup) else None
    inner: BaseException | None = found
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner


async def _whole(call: Coroutine[Any, Any, Any]) -> Any:
    """Await a handler's coroutine from its beginning."""
    try:
        waits_for = call.send(None)
    except StopIteration as stop:
        return stop.value
    except GeneratorExit as end:
        raise _own_end(end) from end
    return await _go_on(call, waits_for)


@coroutine
def _go_on(call: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine that was entered by hand and has suspended on `waits_for`."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:
            try:
                waits_for = call.throw(error)
            except StopIteration as stop:
                return stop.value
            except GeneratorExit as end:
                if isinstance(error, GeneratorExit):  # the engine's own task is being closed
                    raise
                raise _own_end(end) from end
        else:
            try:
                waits_for = call.send(sent)
            except StopIteration as stop:
                return stop.value
            except GeneratorExit as end:
                raise _own_end(end) from end


def _own_end(error: GeneratorExit) -> RuntimeError:
    """What a handler that raises GeneratorExit has done: let through, it would close whatever awaits this run."""
    raised = RuntimeError("a handler raised GeneratorExit")
    raised.__cause__ = error
    return raised


def is_async(handler: Any) -> bool:
    """Whether calling it gives a coroutine: an `async def`, also behind a partial, a method or `__call__`."""
    while hasattr(handler, "func") and not inspect.iscoroutinefunction(handler):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))


class Threads:
    """The worker threads of `def` handlers, and which steps still have one (D9)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._limiter: anyio.CapacityLimiter | None = None
        self._pool = Pool()
        self._busy: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def call(self, function: Callable[[], Any]) -> Any:
        """Call it on a thread, once there is room for one."""
        limiter = self._limiter
        if limiter is None:
            limiter = self._limiter = anyio.CapacityLimiter(self._limit)
        async with limiter:
            return await self._pool.call(function)

    def enter(self, key: tuple[str, str]) -> None:
        """A thread is about to start for this step."""
        self._busy[key] = asyncio.get_running_loop().create_future()

    def leave(self, loop: asyncio.AbstractEventLoop, key: tuple[str, str]) -> None:
        """The thread has returned; called on it."""
        with suppress(RuntimeError):  # the loop is closed; nobody waits any more
            loop.call_soon_threadsafe(self.left, key)

    def left(self, key: tuple[str, str]) -> None:
        """The thread is gone, or never came."""
        done = self._busy.pop(key, None)
        if done is not None and not done.done():
            done.set_result(None)

    def busy(self, run_id: str, path: str) -> bool:
        """Whether a thread of this step, or of the step that is undone or asked after at `path`, is left."""
        return (run_id, base_path(path)) in self._busy

    def free(self, key: tuple[str, str]) -> asyncio.Future[None] | None:
        """Done when no thread of an earlier attempt of this step is left; None when none is."""
        return self._busy.get(key)

"""Threads for blocking calls. They are daemons: a call that never returns does not keep the process from ending (S14.4)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

IDLE = 5.0  # seconds after which a thread without work ends


class Pool:
    """As many threads as there are calls at once; how many that may be is for the caller to bound."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = threading.Semaphore(0)  # one for each thread that is without work

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns or raises. A caller that is cancelled leaves it running, or uncalled where it had not begun."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        context = copy_context()

        def work() -> None:
            if answer.cancelled():
                return
            value: Any = None
            failure: BaseException | None = None
            try:
                value = context.run(function, *args)
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed; nobody waits any more
                loop.call_soon_threadsafe(_settle, answer, value, failure)

        self._calls.put(work)
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._serve, name="flux-call", daemon=True).start()
        return await answer

    def _serve(self) -> None:
        while True:
            try:
                work = self._calls.get(timeout=IDLE)
            except Empty:
                if self._idle.acquire(blocking=False):
                    return
                continue  # somebody counts on this thread: the call is on its way
            work()
            del work  # what it holds is not kept until the next one comes
            self._idle.release()


def _settle(answer: asyncio.Future[Any], value: Any, failure: BaseException | None) -> None:
    if answer.done():
        return
    if failure is None:
        answer.set_result(value)
    elif isinstance(failure, StopIteration | GeneratorExit):  # a future takes none, and a coroutine would take it for its end
        wrapped = RuntimeError(f"a function on a thread raised {type(failure).__name__}")
        wrapped.__cause__ = failure
        answer.set_exception(wrapped)
    else:
        answer.set_exception(failure)

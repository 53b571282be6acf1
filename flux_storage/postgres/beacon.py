"""How the workers of a storage show that they live: a thread with an event loop and a connection of its own (D13 to D15).

Renewals come from any event loop, also while the one that opened the storage stands still (contract 11). The connection's session
holds an advisory lock for each worker: the server drops them with the connection, so that others learn of a machine that is gone
sooner than by its lease. A connection that is lost is made anew at once, and the locks with it; one from which nothing is heard
counts as lost soon, for the renewals of all workers wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from flux.errors import FluxError, StorageMisused

from .errors import breaks
from .link import SOON, Connect, Connection, Link, close

T = TypeVar("T")

MENDING = 0.5  # seconds between two tries to get the connection or a lock back

_HOLD = "SELECT k.key FROM unnest($1::bigint[]) AS k (key) WHERE pg_try_advisory_lock(k.key)"
_DROP = "SELECT pg_advisory_unlock($1::bigint)"

_log = logging.getLogger("flux.storage.postgres")


class Beacon:
    """`shown` is the statement that tells the others that the sessions of some workers are back."""

    def __init__(self, connect: Connect, shown: str, where: str) -> None:
        self._connect = connect
        self._shown = shown
        self._link = Link(self, where)
        self._gate = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # in the thread
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._wanted: dict[str, int] = {}  # worker -> key
        self._held: set[int] = set()  # keys that the connection's session has locked
        self._mending: asyncio.Task[None] | None = None

    # --- from any thread

    async def hold(self, worker: str, key: int) -> int | None:
        """Lock a worker's key for as long as the process and its connection last; None where the session does not have it yet."""
        return await self._there(self._hold(worker, key))

    async def drop(self, worker: str) -> None:
        """The worker is gone."""
        if self._thread is not None:
            await self._there(self._drop(worker))

    async def row(self, text: str, *parameters: Any, answering: float) -> Any:
        """The first row of a statement that may be sent twice. `answering`: seconds until another connection is tried."""
        return await self._there(self._link.row(text, *parameters, answering=answering))

    async def close(self) -> None:
        """Let go of connection and locks."""
        thread = self._thread
        if thread is None or self._loop is None:
            return
        self._link.closing = True
        await self._there(self._end())
        with self._gate:
            loop, self._loop = self._loop, None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it in the thread. A caller that goes away does not cut it short (contract 15)."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._started())
        except BaseException:
            work.close()
            raise
        return await asyncio.shield(asyncio.wrap_future(future))

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._gate:
            if self._loop is None:
                if self._link.closing:
                    raise StorageMisused("the storage was closed before this call")
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_turn, args=(self._loop,), name="flux-postgres-beacon", daemon=True)
                self._thread.start()
            return self._loop

    # --- in the thread

    async def acquire(self) -> Connection:
        """The one connection, with all locks that could be had; one caller at a time (see `Source`)."""
        await self._turn.acquire()
        try:
            return await self._ready()
        except BaseException:
            self._turn.release()
            raise

    def prompt(self) -> bool:
        """No."""
        return False

    async def at_once(self) -> Connection | None:
        """Never."""
        return None

    def release(self, connection: Connection, *, broken: bool = False) -> None:
        """The next caller may have it."""
        if broken:
            connection.terminate()
        self._turn.release()

    async def _ready(self) -> Connection:
        connection = self._connection
        if connection is None or connection.is_closed():
            self._held.clear()
            self._connection = connection = await self._connect()
            connection.add_termination_listener(self._lost)
        missing = {worker: key for worker, key in self._wanted.items() if key not in self._held}
        if missing:
            await self._lock(connection, missing)
        return connection

    async def _lock(self, connection: Connection, missing: dict[str, int]) -> None:
        """Take what can be taken: an old session of the same worker may still be there, until the server has noticed its end."""
        try:
            found = await connection.fetch(_HOLD, list(missing.values()), timeout=SOON)
            self._held.update(row[0] for row in found)
            shown = {worker: key for worker, key in missing.items() if key in self._held}
            await connection.execute(self._shown, list(shown), list(shown.values()), timeout=SOON)
        except BaseException as error:
            if breaks(error):
                connection.terminate()
            raise
        if len(shown) < len(missing):
            self._mend()

    async def _hold(self, worker: str, key: int) -> int | None:
        self._wanted[worker] = key
        await self._link.perform(_nothing)
        return key if key in self._held else None

    async def _drop(self, worker: str) -> None:
        key = self._wanted.pop(worker, None)
        if key is None or key not in self._held:
            return
        self._held.discard(key)
        try:
            await self._link.row(_DROP, key, answering=SOON)
        except FluxError as error:
            _log.debug("the lock of worker %s goes with its connection: %s", worker, error)

    def _lost(self, connection: Any) -> None:
        if connection is self._connection and not self._link.closing and self._wanted:
            self._mend()

    def _mend(self) -> None:
        if self._mending is None:
            self._mending = asyncio.get_running_loop().create_task(self._mend_patiently())

    async def _mend_patiently(self) -> None:
        """Until all locks are held again."""
        try:
            while self._wanted and not self._link.closing:
                try:
                    await self._link.perform(_nothing)
                except FluxError as error:
                    _log.warning("the workers' session is gone and cannot be made anew yet: %s", error)
                if self._connection is not None and not self._connection.is_closed() and self._held.issuperset(self._wanted.values()):
                    return
                await asyncio.sleep(MENDING)
        finally:
            self._mending = None

    async def _end(self) -> None:
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)
        async with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                await close(connection)


async def _nothing(connection: Connection, again: bool) -> None:
    """To get the connection is all."""


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()

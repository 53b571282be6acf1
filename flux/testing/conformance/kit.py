"""What a check works with: an open, empty storage, a clock moved by hand, and shorthands for the values of the seam."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict
from typing import Any, Protocol, TypeAlias, TypeVar

from ...clock import Clock
from ...core.commands import Posting, PostingKind
from ...core.records import Record, RunCreated, StepCompleted, StepStarted
from ...core.status import RunStatus
from ...storage import Claimed, Code, Commit, Committed, Created, Header, NewPosting, NewRun, Outgoing, Posted, StoredRun, WorkflowStorage
from ..clock import VirtualClock

T = TypeVar("T")

Make: TypeAlias = Callable[[Clock], WorkflowStorage]
Damage: TypeAlias = Callable[[str], None]
Check: TypeAlias = Callable[["Bench"], Awaitable[None]]

LEASE = 30_000_000  # microseconds
SECOND = 1_000_000
MINUTE = 60 * SECOND
PATIENCE = 30.0  # real seconds after which something that never comes is a failure
FLOW: Code = ("flow", "1", "s")  # the code that checks run


class Ledger(Protocol):
    """A table of the caller's own, in the database that the storage is on: what is written beside flux."""

    def note(self, connection: Any, text: str) -> Any:
        """Write a line in the transaction of this connection of the driver's; to be awaited where the storage's `handlers` are "async"."""
        ...

    async def lines(self) -> list[str]:
        """What is committed, in order."""
        ...

    def connection(self) -> AbstractAsyncContextManager[Any]:
        """A connection of the driver's, for as long as the block lasts."""
        ...

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """A transaction on it, which leaving commits; with an error it is rolled back."""
        ...


class HandClock(VirtualClock):
    """Time stands still until it is moved, and may also be set back, as a machine's clock can be."""

    def __init__(self) -> None:
        super().__init__(autojump=False)

    def set_back(self, microseconds: int) -> None:
        """The wall clock is corrected."""
        self._now -= microseconds


class Checks(dict[str, Check]):
    """Checks by name, in the order in which they were written."""

    def __call__(self, check: Check) -> Check:
        """Add one (a decorator)."""
        name: str = getattr(check, "__name__", "")
        if not name or name in self:
            raise ValueError(f"a check needs a name of its own, got {name!r}")
        self[name] = check
        return check


class Bench:
    """One check's surroundings. `storage` is open and empty; `clock` is the time it goes by."""

    def __init__(
        self,
        stack: AsyncExitStack,
        storage: WorkflowStorage,
        clock: HandClock,
        again: Make | None,
        damage: Damage | None,
        ledger: Ledger | None = None,
    ) -> None:
        self.storage = storage
        self.clock = clock
        self._stack = stack
        self._again = again
        self._damage = damage
        self._ledger = ledger

    @property
    def now(self) -> int:
        """The clock's time."""
        return self.clock.now()

    async def second(self) -> WorkflowStorage:
        """Another storage on the same data, beside the first."""
        if self._again is None:
            raise TypeError("this check needs again=, which opens the same data another time")
        return await self._stack.enter_async_context(self._again(self.clock))

    async def reopen(self) -> None:
        """Close the storage, and open its data anew."""
        await self._stack.aclose()
        self.storage = await self.second()

    @property
    def ledger(self) -> Ledger:
        """What is written beside flux."""
        if self._ledger is None:
            raise TypeError("this check needs ledger=, a table of the caller's own in the storage's database")
        return self._ledger

    def damage(self, run_id: str) -> None:
        """Make the first row of this run's journal unreadable."""
        if self._damage is None:
            raise TypeError("this check needs damage=, which makes the first row of a run's journal unreadable")
        self._damage(run_id)

    # --- shorthands

    async def worker(self, nonce: str, lease: int = LEASE) -> str:
        """A registered worker."""
        await self.storage.register(nonce, lease)
        return nonce

    async def create(self, run_id: str, **fields: Any) -> Created:
        """Create a run; `fields` are of `NewRun`."""
        return await self.storage.create(new_run(run_id, **{"at": self.now, **fields}))

    async def held(self, run_id: str, worker: str = "w", **fields: Any) -> Header:
        """A new run in the hands of a new worker."""
        await self.worker(worker)
        return (await self.create(run_id, owner=worker, **fields)).header

    async def parked(self, run_id: str, **fields: Any) -> Header:
        """A run that nobody holds and that only a posting wakes; `fields` are of `Commit`."""
        header = await self.held(run_id, f"parker-of-{run_id}")
        stand: dict[str, Any] = {"status": RunStatus.SUSPENDED, "wake_at": None, "release": True, "waiting": ("go",)}
        await self.commit(header, **{**stand, **fields})
        return await self.header(run_id)

    async def ended(self, run_id: str, **fields: Any) -> Header:
        """A run that has ended, and that nobody holds."""
        end: dict[str, Any] = {"status": RunStatus.COMPLETED, "waiting": ()}
        return await self.parked(run_id, **{**end, **fields})

    async def commit(self, seen: Header, **fields: Any) -> Committed:
        """Commit as the holder who saw this header; `fields` are of `Commit`."""
        return await self.storage.commit(commit_of(seen, **{"at": self.now, **fields}))

    async def post(self, run_id: str, signal_id: str | None = None, **options: Any) -> Posted:
        """Send the signal `go`."""
        return await self.storage.post(run_id, signal("go", signal_id=signal_id), **options)

    async def claim(self, worker: str, limit: int = 100, codes: Collection[Code] = (FLOW,)) -> Claimed:
        """Claim runs for these codes."""
        return await self.storage.claim(worker, codes, limit)

    async def claimed(self, worker: str, limit: int = 100, codes: Collection[Code] = (FLOW,)) -> list[str]:
        """The ids of what was claimed, in order."""
        return [run.header.run_id for run in (await self.claim(worker, limit, codes)).runs]

    async def load(self, run_id: str) -> StoredRun:
        """The run, which must be there."""
        run = await self.storage.load(run_id)
        if run is None:
            raise AssertionError(f"run {run_id!r} is not there")
        return run

    async def header(self, run_id: str) -> Header:
        """Its header, which must be there and the same in both readings."""
        header = await self.storage.read_header(run_id)
        equal(header, (await self.load(run_id)).header, "read_header beside load")
        assert header is not None
        return header

    async def unchanged(self, run_id: str, before: StoredRun) -> None:
        """Nothing was written to the run."""
        equal(await self.load(run_id), before, "the run after what had to change nothing")


def new_run(run_id: str, at: int, **fields: Any) -> NewRun:
    """A run to be created at `at`; `fields` are of `NewRun`."""
    values: dict[str, Any] = {
        "workflow": FLOW[0], "version": FLOW[1], "shape": FLOW[2], "input_digest": "d", "at": at,
        "records": (created_record(),), "status": RunStatus.PENDING,
    }  # fmt: skip
    return NewRun(run_id, **{**values, **fields})


def created_record(input: str = "1") -> RunCreated:
    """The first record of a run."""
    return RunCreated(*FLOW, input, {"a": "1", "b": None}, None)


def step(name: str = "a", result: str = "1") -> tuple[Record, ...]:
    """What the commit of a step holds: its result, and the start of the next."""
    return StepCompleted(name, 1, result), StepStarted(f"{name}_next", 1)


def commit_of(seen: Header, at: int, **fields: Any) -> Commit:
    """A commit by the holder who saw this header. By default it records a step and keeps the run."""
    values: dict[str, Any] = {
        "owner": seen.owner or "nobody", "epoch": seen.epoch, "position": seen.position, "inbox_seq": seen.inbox_seq, "at": at,
        "records": step(), "status": RunStatus.RUNNING, "wake_at": 0, "lane": seen.lane,
    }  # fmt: skip
    return Commit(seen.run_id, seen.ref, **{**values, **fields})


def signal(name: str, payload: str = "null", signal_id: str | None = None, limit: int = 1000) -> NewPosting:
    """A signal to be posted."""
    return NewPosting("signal", name, payload, signal_id, limit)


def sent(run_id: str, kind: PostingKind = "signal", signal_id: str | None = None, limit: int = 1000) -> Outgoing:
    """A posting from one run to another."""
    return Outgoing(run_id, NewPosting(kind, "go", "null", signal_id, limit))


def posting(seq: int, at: int, signal_id: str | None = None) -> Posting:
    """The signal `go` as it is kept."""
    return Posting(seq, "signal", "go", "null", signal_id, at)


# --- telling


def equal(actual: object, expected: object, what: str = "") -> None:
    """Raises AssertionError unless they are equal."""
    if actual != expected:
        raise AssertionError(f"{what or 'got'}: {_short(actual)}\nexpected: {_short(expected)}")


def true(condition: bool, what: str) -> None:
    """Raises AssertionError unless it holds."""
    if not condition:
        raise AssertionError(what)


def shows(header: Header, **fields: object) -> None:
    """Raises AssertionError unless the header has these fields."""
    equal({name: value for name, value in asdict(header).items() if name in fields}, fields, f"header of {header.run_id!r}")


async def refused(error: type[Exception], call: Awaitable[object]) -> None:
    """Raises AssertionError unless the call raises an error of exactly this class."""
    try:
        reply = await call
    except Exception as raised:
        if type(raised) is error:
            return
        raise AssertionError(f"raised {raised!r}, expected {error.__name__}") from raised
    raise AssertionError(f"replied {_short(reply)}, expected {error.__name__}")


async def patiently(call: Awaitable[T]) -> T:
    """The reply, or TimeoutError where none ever comes."""
    return await asyncio.wait_for(call, PATIENCE)


async def turns(count: int = 5) -> None:
    """Let the event loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 2000 else f"{text[:1000]} … {text[-500:]}"

"""Transactional steps, and runs that come with an application's own transaction (S3.6)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flux import FluxEngine, InvalidArgument, InvalidWorkflow, NonRetryable, RunNotFound, branch, create_workflow
from flux.errors import StorageMisused, StorageUnavailable
from flux.storage import RolledBack
from flux.testing import VirtualClock
from flux_storage import MemoryStorage

from .cluster import Cluster, eventually
from .parts import Parts

pytestmark = pytest.mark.anyio


class Ledger:
    """A table in the storage's database, and handlers that write to it: a `def` for SQLite, an `async def` for PostgreSQL."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.asynchronous = bool(cluster.url)
        self.calls: list[str] = []
        self.fail: dict[str, BaseException] = {}

    async def make(self) -> Ledger:
        """The table."""
        if self.asynchronous:
            outsider = await self.cluster.outsider()
            self.table = f"ledger_{uuid4().hex}"
            await outsider.execute(f"CREATE TABLE public.{self.table} (n bigserial, line text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        else:
            self.table = "ledger"
            with closing(sqlite3.connect(str(self.cluster.path))) as connection:
                connection.execute("CREATE TABLE ledger (line TEXT UNIQUE)")
                connection.commit()
        return self

    async def lines(self) -> list[str]:
        """What is committed."""
        if self.asynchronous:
            rows = await (await self.cluster.outsider()).fetch(f"SELECT line FROM public.{self.table} ORDER BY n")
            return [row[0] for row in rows]
        with closing(sqlite3.connect(str(self.cluster.path))) as connection:
            return [row[0] for row in connection.execute("SELECT line FROM ledger ORDER BY rowid")]

    @property
    def write(self) -> Any:
        """The handler: writes its path, changes the data, and perhaps fails then."""
        return self._later if self.asynchronous else self._now

    def _now(self, ctx: Any) -> str:
        self.calls.append(ctx.path)
        ctx.connection.execute("INSERT INTO ledger VALUES (?)", (f"{ctx.run_id} {ctx.path}",))
        return self._end(ctx)

    async def _later(self, ctx: Any) -> str:
        self.calls.append(ctx.path)
        await ctx.connection.execute(f"INSERT INTO public.{self.table} (line) VALUES ($1)", f"{ctx.run_id} {ctx.path}")
        return self._end(ctx)

    def _end(self, ctx: Any) -> str:
        ctx.data["written"] = True
        if ctx.path in self.fail:
            raise self.fail.pop(ctx.path)
        return str(ctx.path)


@pytest.fixture(params=["sqlite", "postgres"])
async def cluster(request: Any, clock: VirtualClock, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Cluster]:
    """On the storages that have transactions: always both."""
    async with AsyncExitStack() as stack:
        url = ""
        if request.param == "postgres":
            url = await stack.enter_async_context(request.getfixturevalue("server").lent_schema())
        yield await stack.enter_async_context(Cluster(tmp_path / "flux.db" if request.param == "sqlite" else None, clock, url))


@pytest.fixture
async def ledger(cluster: Cluster) -> Ledger:
    """The table."""
    return await Ledger(cluster).make()


async def test_what_the_handler_does_comes_with_the_step(engine: FluxEngine, ledger: Ledger) -> None:
    """S3.6: its lines, its result and its changes to the data."""
    parts = Parts()
    flow = (
        create_workflow("f").step("a", ledger.write, transactional=True).step("b", parts.act).commit("c", ledger.write, transactional=True)
    )
    result = await engine.execute(flow, id="r")
    assert (result.status, result.results, result.data) == ("completed", {"a": "a", "b": "b", "c": "c"}, {"written": True})
    assert await ledger.lines() == ["r a", "r c"]
    assert [line.attempts for line in result.history] == [1, 1, 1]


async def test_a_handler_that_fails_leaves_nothing(engine: FluxEngine, ledger: Ledger) -> None:
    """S3.4, S3.6: of each attempt that failed; the one that returned is there once, and none was ever in doubt."""
    ledger.fail = {"a": ValueError("first")}
    undone = Parts()
    flow = create_workflow("f").step("a", ledger.write, transactional=True, compensate=undone.undo, retries=1)
    result = await engine.execute(flow, id="r")
    assert (result.status, ledger.calls, await ledger.lines()) == ("completed", ["a", "a"], ["r a"])
    ledger.fail = {"a": NonRetryable("for good")}
    failed = await engine.execute(flow, id="s")
    assert (failed.status, failed.history[0].in_doubt, undone.undone, failed.data) == ("failed", False, [], {})
    assert await ledger.lines() == ["r a"]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", [StopIteration, GeneratorExit, asyncio.CancelledError])
async def test_what_would_end_a_coroutine(cluster: Cluster, ledger: Ledger, kind: type[BaseException], late: bool) -> None:
    """S3.9, I15: raised by a handler it fails the step, and no more: the call returns, and the run is held by nobody."""

    def fail(ctx: Any) -> None:
        if late:
            ledger.write(ctx)
        raise kind

    async def fail_async(ctx: Any) -> None:
        if late:
            await ledger.write(ctx)
        raise kind

    engine, other = await cluster.open(), await cluster.open()
    flow = create_workflow("fails").step("a", ledger.write, transactional=True)
    handler = fail_async if ledger.asynchronous else fail
    result = await engine.execute(flow.step("fail", handler, transactional=True, retries=0), id="r")
    assert (result.status, await ledger.lines()) == ("failed", ["r a"])
    error = (await other.get("r")).error
    assert kind.__name__ in f"{type(error).__name__} {error} {error.__cause__!r}"


async def test_what_the_database_has_against_it(engine: FluxEngine, ledger: Ledger) -> None:
    """S3.6: a constraint, looked at with the statement (SQLite) or with the commit (PostgreSQL), fails the attempt like any error."""
    again = create_workflow("k").commit("a", ledger.write, transactional=True, retries=0)
    done = await engine.execute(again, id="k1")
    assert done.status == "completed"
    replayed = await engine.replay(again, "k1")
    assert replayed.status == "blocked" and "ReplayFailed" in str(replayed.blocked_reason)
    assert (await ledger.lines()).count("k1 a") == 1


async def test_a_crash_at_any_moment(cluster: Cluster, ledger: Ledger) -> None:
    """S3.6, I45: before the commit nothing is there and the step is done again; after it, it is done."""
    flow = create_workflow("f").step("a", ledger.write, transactional=True).step("b", ledger.write, transactional=True)
    for number, when in enumerate(["before", "after"]):
        engine = await cluster.open(storage := _Cut(cluster, when))
        call = asyncio.create_task(engine.execute(flow, id=f"r{number}"))
        await eventually(lambda storage=storage: storage.cut)
        await cluster.crash(engine)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await storage.let_go()
        await cluster.outlive()
        result = await (await cluster.open()).resume(flow, f"r{number}")
        assert result.status == "completed"
    assert await ledger.lines() == ["r0 a", "r0 b", "r1 a", "r1 b"]
    assert ledger.calls == ["a", "a", "b", "a", "b"]


class _Cut:
    """A storage whose first transaction is never answered: its commit is not made, or made."""

    def __init__(self, cluster: Cluster, when: str) -> None:
        self._inner: Any = cluster.storage()
        self._when = when
        self.cut = False
        self._gone = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)

    async def let_go(self) -> None:
        """The process is gone, and with it its connections."""
        self._gone.set()
        await asyncio.sleep(0)

    def transaction(self) -> Any:
        """The inner's, cut."""
        return _CutTransaction(self, self._inner.transaction())


class _CutTransaction:
    def __init__(self, storage: _Cut, inner: Any) -> None:
        self._storage = storage
        self._context = inner

    async def __aenter__(self) -> Any:
        self._inner = await self._context.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._context.__aexit__(*error)

    @property
    def connection(self) -> Any:
        return self._inner.connection

    async def run(self, call: Any) -> Any:
        return await self._inner.run(call)

    async def commit(self, commit: Any) -> Any:
        if self._storage._when == "after":
            await self._inner.commit(commit)
        self._storage.cut = True
        await self._storage._gone.wait()
        raise asyncio.CancelledError


async def test_a_passing_trouble_is_no_attempt(cluster: Cluster, ledger: Ledger) -> None:
    """S15.3, I45: what was rolled back is done again, as the same attempt; an answer that was lost is asked for, and nothing twice."""
    unknown = [StorageUnavailable("what?")] if ledger.asynchronous else []  # SQLite always knows what it has written
    storage = _Troubled(cluster, [RolledBack("gone"), *unknown, None])
    engine = await cluster.open(storage)
    result = await engine.execute(create_workflow("f").step("a", ledger.write, transactional=True), id="r")
    assert (result.status, result.history[0].attempts, await ledger.lines()) == ("completed", 1, ["r a"])
    assert ledger.calls == ["a", "a"], "once more for the one that was rolled back"


async def test_one_that_is_rolled_back_every_time_has_failed(cluster: Cluster, ledger: Ledger) -> None:
    """S3.6, I17: its handler may bring it about each time; it is not called for ever."""
    engine = await cluster.open(_Troubled(cluster, [RolledBack("gone")] * 100))
    result = await engine.execute(create_workflow("f").step("a", ledger.write, transactional=True, retries=0))
    assert (result.status, result.history[0].attempts, await ledger.lines()) == ("failed", 1, [])
    assert "gone" in str(result.error) and len(ledger.calls) == 21


class _Troubled(_Cut):
    def __init__(self, cluster: Cluster, troubles: list[BaseException | None]) -> None:
        super().__init__(cluster, "")
        self.troubles = troubles

    def transaction(self) -> Any:
        """The inner's, with the next trouble at its commit."""
        return _TroubledTransaction(self, self._inner.transaction())


class _TroubledTransaction(_CutTransaction):
    async def commit(self, commit: Any) -> Any:
        trouble = self._storage.troubles.pop(0)  # type: ignore[attr-defined]
        if trouble is not None:
            raise trouble
        return await self._inner.commit(commit)


async def test_a_handler_that_closes_its_connection(engine: FluxEngine, ledger: Ledger) -> None:
    """S3.6: it is told that it may not, which is an error of its attempts; others go on."""
    calls: list[int] = []

    def now(ctx: Any) -> Any:
        calls.append(ctx.attempt)
        assert len(calls) < 5, "it is not called for ever"
        return ctx.connection.close()

    async def later(ctx: Any) -> None:
        await now(ctx)

    closes = create_workflow("f").step("a", later if ledger.asynchronous else now, transactional=True, retries=1)
    failed = await engine.execute(closes)
    assert (failed.status, calls) == ("failed", [1, 2])
    assert isinstance(failed.error, StorageMisused) and "leave it open" in str(failed.error)
    assert (await engine.execute(create_workflow("g").step("a", ledger.write, transactional=True), id="r")).status == "completed"
    assert await ledger.lines() == ["r a"]


async def test_a_signal_that_comes_meanwhile(engine: FluxEngine, ledger: Ledger) -> None:
    """D12, I27: a cancel that was accepted before the commit wins, and what the handler did is undone like any step's."""
    undone = Parts()

    async def cancel(ctx: Any) -> None:
        await engine.cancel("r", "enough")

    flow = (
        create_workflow("f")
        .parallel("p", a=branch().step("w", ledger.write, transactional=True, compensate=undone.undo), b=branch().step("c", cancel))
        .step("z", ledger.write, transactional=True)
    )
    result = await engine.execute(flow, id="r")
    assert (result.status, undone.undone, await ledger.lines()) == ("cancelled", ["p/a/w"], ["r p/a/w"])


async def test_many_at_once(engine: FluxEngine, ledger: Ledger) -> None:
    """S3.6: beside others, in branches and in runs of their own, each once."""
    body = branch().step("one", ledger.write, transactional=True).step("two", ledger.write, transactional=True)
    flow = create_workflow("f").for_each("all", lambda ctx: range(5), body, concurrency=None)
    results = await engine.execute_many(flow, range(8), concurrency=8)
    assert {result.status.value for result in results} == {"completed"}
    lines = await ledger.lines()
    assert len(lines) == len(set(lines)) == 8 * 5 * 2


async def test_what_is_no_transactional_step(engine: FluxEngine, ledger: Ledger) -> None:
    """S1.4: refused when it is registered, or where it is touched."""

    async def touch(ctx: Any) -> Any:
        return ctx.connection

    failed = await engine.execute(create_workflow("f").step("a", touch))
    assert "is there in a transactional step only" in str(failed.error)
    with pytest.raises(InvalidWorkflow, match="never are"):
        create_workflow("g").step("a", ledger.write, transactional=True, on_unknown="fail")
    with pytest.raises(InvalidWorkflow, match="must be True or False"):
        create_workflow("g").step("a", ledger.write, transactional=1)  # type: ignore[arg-type]
    other = ledger._now if ledger.asynchronous else ledger._later
    with pytest.raises(InvalidWorkflow, match="def function"):
        await engine.execute(create_workflow("h").step("a", other, transactional=True))
    async with FluxEngine(MemoryStorage()) as memory:
        with pytest.raises(InvalidWorkflow, match="MemoryStorage has no transactions"):
            await memory.start(create_workflow("i").parallel("p", x=branch().step("a", ledger.write, transactional=True)))


# --- the application's own transaction


async def test_a_run_starts_with_the_callers_transaction(engine: FluxEngine, ledger: Ledger) -> None:
    """S3.1, I40: it is there with the application's own rows, or not at all."""
    parts = Parts()
    flow = create_workflow("f").step("a", parts.act).wait("go")
    async with engine.worker():
        async with _mine(ledger, commit=False) as connection:
            lost = await engine.start(flow, {"n": 1}, id="lost", connection=connection)
        async with _mine(ledger) as connection:
            handle = await engine.start(flow, {"n": 2}, id="kept", connection=connection)
            same = await engine.start(flow, {"n": 2}, id="kept", connection=connection)
            with pytest.raises(RunNotFound):
                await handle.status()
        await eventually(lambda: _is(engine, "kept", "suspended"))
        async with _mine(ledger, commit=False) as connection:
            await engine.signal(flow, "kept", "go", 1, connection=connection)
        assert await handle.status() == "suspended" and same.id == "kept"
        async with _mine(ledger) as connection:
            before = await engine.signal(flow, "kept", "go", 2, connection=connection)
            assert before.status == "suspended"
        await handle.result()
        assert (await engine.get("kept")).results["go"] == 2
    with pytest.raises(RunNotFound):
        await lost.status()


@pytest.mark.parametrize("cluster", ["postgres"], indirect=True)
async def test_a_step_signals_its_own_run_in_its_transaction(engine: FluxEngine) -> None:
    """S3.1, S3.6: once, with the step; a handler of SQLite's writes nothing of flux's."""
    calls: list[str] = []

    async def tell(ctx: Any) -> None:
        calls.append(ctx.path)
        await engine.signal(flow, ctx.run_id, "go", 7, connection=ctx.connection)

    flow = create_workflow("f").step("a", tell, transactional=True).wait("go")
    result = await engine.execute(flow, id="r")
    assert (result.status, result.results["go"], calls) == ("completed", 7, ["a"])


async def _is(engine: FluxEngine, run_id: str, status: str) -> bool:
    try:
        return (await engine.summary(run_id)).status == status
    except RunNotFound:
        return False


@asynccontextmanager
async def _mine(ledger: Ledger, *, commit: bool = True) -> AsyncIterator[Any]:
    """A connection of the application's in a transaction, which is committed or rolled back."""
    if ledger.asynchronous:
        connection = await ledger.cluster.outsider()
        transaction = connection.transaction()
        await transaction.start()
        yield connection
        await (transaction.commit() if commit else transaction.rollback())
        return
    with closing(sqlite3.connect(str(ledger.cluster.path), isolation_level=None)) as own:
        own.execute("BEGIN IMMEDIATE")
        yield own
        own.execute("COMMIT" if commit else "ROLLBACK")


async def test_connections_that_cannot_be_used(engine: FluxEngine, ledger: Ledger) -> None:
    """S15.7: refused, and nothing is started."""
    flow = create_workflow("f").wait("go")
    with pytest.raises(StorageMisused):
        await engine.start(flow, id="r", connection=object())
    async with FluxEngine(MemoryStorage()) as memory:
        with pytest.raises(InvalidArgument, match="MemoryStorage"):
            await memory.start(flow, connection=object())
    assert (await engine.list()).runs == ()

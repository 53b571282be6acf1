"""Lists, pages, and forgetting."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, RunNotFinished, RunNotFound, RunStatus, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio


async def nothing(ctx: Any) -> None:
    return None


DONE = create_workflow("done").step("a", nothing)
WAITS = create_workflow("waits").wait("go")
FAILS = create_workflow("fails").step("a", Effects().step("a", error=ValueError("x")), retries=0)


async def fill(engine: FluxEngine, cluster: Cluster) -> list[str]:
    """Seven runs, a second apart: done, waits, fails, done 2, done, waits, a queued one."""
    ids: list[str] = []
    newer = create_workflow("done", version="2").step("a", nothing)
    for flow in (DONE, WAITS, FAILS, newer, DONE, WAITS):
        ids.append((await engine.execute(flow, id=f"r{len(ids)}")).id)
        await cluster.clock.advance(1)
    ids.append((await engine.start(DONE, id="r6", priority=3)).id)
    return ids


async def test_newest_first(engine: FluxEngine, cluster: Cluster) -> None:
    """api.md List: newest first by creation, with the head of each run."""
    ids = await fill(engine, cluster)
    page = await engine.list()
    assert [run.id for run in page.runs] == ids[::-1] and page.next_cursor is None
    newest, waiting = page.runs[0], page.runs[1]
    assert (newest.name, newest.workflow, newest.version, newest.status, newest.priority) == ("done", "done", "1", "pending", 3)
    assert waiting.waiting_for == ("go",) and waiting.completed_at is None and waiting.blocked_reason is None
    assert page.runs[-1].completed_at is not None and page.runs[-1].created_at <= page.runs[-1].updated_at


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"name": "done"}, [6, 4, 3, 0]), ({"name": "done", "version": "2"}, [3]), ({"name": "nobody"}, []),
        ({"status": "suspended"}, [5, 1]), ({"status": RunStatus.FAILED}, [2]), ({"status": ["failed", RunStatus.PENDING]}, [6, 2]),
        ({"status": []}, [6, 5, 4, 3, 2, 1, 0]), ({"name": "done", "status": ("completed",)}, [4, 3, 0]),
        ({"name": "waits", "status": "completed"}, []), ({"version": "2"}, [3]),
    ],
)  # fmt: skip
async def test_filters(engine: FluxEngine, cluster: Cluster, filters: dict[str, Any], expected: list[int]) -> None:
    """api.md List: by name, version, one status or several."""
    await fill(engine, cluster)
    assert [run.id for run in (await engine.list(**filters)).runs] == [f"r{n}" for n in expected]
    pages, cursor = [], None
    while True:
        page = await engine.list(**filters, limit=2, cursor=cursor)
        pages += [run.id for run in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert pages == [f"r{n}" for n in expected]


async def test_pages_do_not_shift(engine: FluxEngine, cluster: Cluster) -> None:
    """D24: runs that come meanwhile neither repeat nor hide others; runs of one instant are told apart."""
    for n in range(5):
        await engine.execute(DONE, id=f"same-{n}")
    first = await engine.list(limit=2)
    await cluster.clock.advance(1)
    await engine.execute(DONE, id="newer")
    second = await engine.list(limit=2, cursor=first.next_cursor)
    third = await engine.list(limit=2, cursor=second.next_cursor)
    assert [run.id for page in (first, second, third) for run in page.runs] == [f"same-{n}" for n in (4, 3, 2, 1, 0)]
    assert third.next_cursor is None


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "MTI=", "ä", 7, b"x", "\ud800", base64.urlsafe_b64encode(b"2:1:r").decode(),
     base64.urlsafe_b64encode(b"1:" + b"9" * 40 + b":r").decode(), base64.urlsafe_b64encode(b"1:x:r").decode()],
)  # fmt: skip
async def test_bad_cursors(engine: FluxEngine, cursor: Any) -> None:
    """api.md List: the cursor is opaque and checked."""
    with pytest.raises(InvalidArgument, match="cursor"):
        await engine.list(cursor=cursor)


@pytest.mark.parametrize(
    "bad", [{"limit": 0}, {"limit": 501}, {"limit": True}, {"limit": 1.5}, {"status": "finished"}, {"status": ["failed", 5]}]
)
async def test_bad_arguments(engine: FluxEngine, bad: dict[str, Any]) -> None:
    """S15.7: refused with what is allowed."""
    with pytest.raises(InvalidArgument):
        await engine.list(**bad)


async def test_while_it_runs(engine: FluxEngine) -> None:
    """S16: history, attempts and waits are readable while a run goes on."""
    entered, go = asyncio.Event(), asyncio.Event()

    async def hold(ctx: Any) -> None:
        entered.set()
        await go.wait()

    task = asyncio.create_task(engine.execute(create_workflow("live").step("a", nothing).step("hold", hold), id="r"))
    await entered.wait()
    live = await engine.get("r")
    assert live.status == "running" and [line.status.value for line in live.history] == ["completed", "running"]
    assert live.history[1].completed_at is None and live.completed_at is None and not live.finished
    go.set()
    assert (await task).finished and not live.finished  # a view does not follow the run


async def test_an_unknown_run(engine: FluxEngine) -> None:
    """api.md Results: RunNotFound."""
    who = "nobody"
    for call in (engine.get(who), engine.history(who), engine.summary(who), engine.delete(who), engine.resume(DONE, who)):
        with pytest.raises(RunNotFound, match="nobody"):
            await call


async def test_delete(engine: FluxEngine) -> None:
    """D26: an ended run is forgotten with all its rows; a live one is refused."""
    ended, live = await engine.execute(DONE, idempotency_key="k"), await engine.execute(WAITS)
    await engine.delete(ended.id)
    with pytest.raises(RunNotFound):
        await engine.get(ended.id)
    with pytest.raises(RunNotFinished, match="suspended"):
        await engine.delete(live.id)
    again = await engine.execute(DONE, idempotency_key="k")
    assert again.id != ended.id and (await engine.execute(DONE, id=ended.id)).status == "completed"


async def test_purge(engine: FluxEngine, cluster: Cluster) -> None:
    """D25, features §6: runs that ended long ago go, others stay; keys and signal ids go with them."""
    old = [(await engine.execute(flow)).id for flow in (DONE, FAILS)]
    waiting = await engine.execute(WAITS)
    await cluster.clock.advance(days=30)
    fresh = await engine.execute(DONE)
    assert await engine.purge(timedelta(days=31)) == 0
    assert await engine.purge(timedelta(days=30)) == 2
    for run_id in old:
        with pytest.raises(RunNotFound):
            await engine.get(run_id)
    assert {run.id for run in (await engine.list()).runs} == {waiting.id, fresh.id}
    assert await engine.purge(0) == 1
    with pytest.raises(InvalidArgument):
        await engine.purge(-1)

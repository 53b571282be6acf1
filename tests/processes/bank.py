"""A process that books in transactional steps, and may die at every statement (S3.6)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import asyncpg

from flux import Context, FluxEngine, Retry, create_workflow
from flux.storage import Commit, Committed
from flux_storage.postgres import PostgresStorage
from flux_storage.sqlite import SQLiteStorage

from .here import effect, point, points, say

LINES = "CREATE TABLE IF NOT EXISTS lines (run TEXT, text TEXT)"
SUMS = "CREATE TABLE IF NOT EXISTS sums (run TEXT PRIMARY KEY, lines BIGINT NOT NULL)"
NOTE = "INSERT INTO lines VALUES ({}, {})"
COUNT = "INSERT INTO sums VALUES ({}, 1) ON CONFLICT (run) DO UPDATE SET lines = sums.lines + 1"


def book(ctx: Context) -> str:
    """On SQLite: a line, and one more line counted."""
    point(f"{ctx.path} #{ctx.attempt}, begun")
    ctx.connection.execute(NOTE.format("?", "?"), (ctx.run_id, ctx.path))
    point(f"{ctx.path} #{ctx.attempt}, noted")
    ctx.connection.execute(COUNT.format("?"), (ctx.run_id,))
    point(f"{ctx.path} #{ctx.attempt}, counted")
    return str(ctx.path)


async def book_there(ctx: Context) -> str:
    """The same on PostgreSQL."""
    point(f"{ctx.path} #{ctx.attempt}, begun")
    await ctx.connection.execute(NOTE.format("$1", "$2"), ctx.run_id, ctx.path)
    point(f"{ctx.path} #{ctx.attempt}, noted")
    await ctx.connection.execute(COUNT.format("$1"), ctx.run_id)
    point(f"{ctx.path} #{ctx.attempt}, counted")
    return str(ctx.path)


async def plain(ctx: Context) -> str:
    """A step between."""
    effect(ctx)
    return "plain"


def booking(handler: Any) -> Any:
    """Two bookings, and a step of the usual kind between them."""
    return (
        create_workflow("booking")
        .step("first", handler, transactional=True)
        .step("between", plain)
        .commit("second", handler, transactional=True)
    )


class _Deadly:
    """A transaction in which the process may die before and after its commit."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> Any:
        point("before the transaction")
        self._inner = await self._context.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._context.__aexit__(*error)

    @property
    def connection(self) -> Any:
        """The inner's."""
        return self._inner.connection

    async def run(self, call: Any) -> Any:
        """The inner's."""
        return await self._inner.run(call)

    async def commit(self, commit: Commit) -> Committed:
        """The inner's, between two points."""
        point("before the commit")
        reply: Committed = await self._inner.commit(commit)
        point("after the commit")
        return reply


class DeadlySQLite(SQLiteStorage):
    """On a file."""

    def transaction(self) -> Any:
        """With points."""
        return _Deadly(super().transaction())


class DeadlyPostgres(PostgresStorage):
    """On a server."""

    def transaction(self) -> Any:
        """With points."""
        return _Deadly(super().transaction())


async def tell(where: str, url: str = "") -> None:
    """Execute the run, or carry it on; then say what is in the tables."""
    if url:
        storage: Any = DeadlyPostgres(url)
        workflow = booking(book_there)
    else:
        storage = DeadlySQLite(where)
        workflow = booking(book)
    retry = Retry(backoff="fixed", initial=0.005, jitter=False)
    async with FluxEngine(storage, default_retry=retry, lease=5) as engine:
        result = await engine.execute(workflow, id="run-1")
    found = await _tables(url) if url else _rows(where)
    say("ended", (str(result.status), {line.path: (line.attempts, line.in_doubt) for line in result.history}, found, points()))


def _rows(path: str) -> Any:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM lines").fetchall(), connection.execute("SELECT * FROM sums").fetchall()


async def _tables(url: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch("SELECT * FROM lines ORDER BY text")], [
            tuple(row) for row in await connection.fetch("SELECT * FROM sums")
        ]
    finally:
        await connection.close()

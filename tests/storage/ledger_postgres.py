"""A table beside flux, as an application has one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg

from ..postgres import Server


class PostgresLedger:
    """A `flux.testing.conformance.Ledger`, named after the schema beside which it is."""

    def __init__(self, server: Server, schema: str) -> None:
        self._server = server
        self.table = f"ledger_{schema}"

    @classmethod
    @asynccontextmanager
    async def made(cls, server: Server, schema: str) -> AsyncIterator[PostgresLedger]:
        """With its table, for as long as the block lasts."""
        ledger = cls(server, schema)
        await server.sql(f"CREATE TABLE {ledger.table} (n bigint GENERATED ALWAYS AS IDENTITY, line text)")
        try:
            yield ledger
        finally:
            await server.sql(f"DROP TABLE {ledger.table}")

    async def note(self, connection: Any, text: str) -> None:
        """Write a line in the transaction of this connection."""
        await connection.execute(f"INSERT INTO {self.table} (line) VALUES ($1)", text)

    async def lines(self) -> list[str]:
        """What is committed, in order."""
        return [row[0] for row in await self._server.sql(f"SELECT line FROM {self.table} ORDER BY n")]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection of its own."""
        connection = await asyncpg.connect(self._server.url())
        try:
            yield connection
        finally:
            await connection.close()

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """A transaction on it."""
        made: AbstractAsyncContextManager[Any] = connection.transaction()
        return made

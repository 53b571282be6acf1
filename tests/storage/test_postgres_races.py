"""What others do in the middle of a call: between two of its statements, or while an answer is on its way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from flux.errors import LeaseLost
from flux_storage import PostgresStorage

from ..postgres import Server, fresh_schema
from .runs import LEASE, new_run, signal, step

pytestmark = pytest.mark.anyio


@pytest.fixture
def schema() -> str:
    return fresh_schema()


@pytest.fixture
async def storage(server: Server, schema: str) -> AsyncIterator[PostgresStorage]:
    async with PostgresStorage(server.url(), schema=schema) as opened:
        await opened.register("w", LEASE)
        yield opened


@pytest.mark.parametrize("transactional", [False, True])
async def test_a_commit_that_another_worker_overtakes_is_no_success(
    storage: PostgresStorage, server: Server, schema: str, transactional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I11, D12: the holder loses its run, and the posting that it has not seen is consumed, while it asks for that posting."""
    header = (await storage.create(new_run("one", owner="w"))).header
    o = storage._parts()
    ask = o.express.rows
    async with PostgresStorage(server.url(), schema=schema) as other:
        await other.register("v", LEASE)

        async def rows(text: str, *parameters: object) -> list[Any]:
            if text is o.sql.newer:
                monkeypatch.undo()
                await other.unregister("w")
                run = await other.take("one", "v")
                assert run is not None
                await other.commit(step(run.header, 1, inbox_seq=1, consumed=(1,), at=77))
            return await ask(text, *parameters)

        monkeypatch.setattr(o.express, "rows", rows)
        await other.post("one", signal())
        with pytest.raises(LeaseLost):
            if transactional:
                async with storage.transaction() as lent:
                    await lent.commit(step(header, 1, at=55))
            else:
                await storage.commit(step(header, 1, at=55))
        run = await other.load("one")
        assert run is not None and [row.at for row in run.rows] == [1, 77]

"""PostgreSQL against the contract of flux.storage: every check of the public suite."""

from __future__ import annotations

import pytest

from flux.testing.conformance import CHECKS, DAMAGED_CHECKS, OUTBOX_CHECKS, SHARED_CHECKS, TRANSACTION_CHECKS, Make, run_check
from flux_storage import PostgresStorage

from ..postgres import Server, fresh_schema
from .ledger_postgres import PostgresLedger

pytestmark = pytest.mark.anyio


def storage_of(server: Server, schema: str) -> Make:
    return lambda clock: PostgresStorage(server.url(), schema=schema, clock=clock)


@pytest.mark.parametrize("name", CHECKS)
async def test_contract(name: str, server: Server) -> None:
    """I42, contract 1 to 20: what holds for one storage holds for all."""
    await run_check(name, storage_of(server, fresh_schema()))


@pytest.mark.parametrize("name", SHARED_CHECKS)
async def test_contract_of_shared_data(name: str, server: Server) -> None:
    """Contract 1, I48: one schema, opened twice and again."""
    make = storage_of(server, fresh_schema())
    await run_check(name, make, again=make)


@pytest.mark.parametrize("name", DAMAGED_CHECKS)
@pytest.mark.parametrize("change", ["control = '[['", "payload = 'x' || payload", "format = 999"])
async def test_contract_of_damaged_rows(name: str, change: str, server: Server) -> None:
    """S15.2, contract 14: whatever it is about the row that cannot be read."""
    schema = fresh_schema()

    def damage(run_id: str) -> None:
        text = f"UPDATE {schema}.journal SET {change} WHERE ref = (SELECT ref FROM {schema}.runs WHERE run_id = $1)"
        server.run(text, run_id)

    await run_check(name, storage_of(server, schema), damage=damage)


@pytest.mark.parametrize("name", [*TRANSACTION_CHECKS, *OUTBOX_CHECKS])
async def test_contract_of_transactions(name: str, server: Server) -> None:
    """S3.6, contract 21, 22: transactions that are lent, and those of the caller's own."""
    schema = fresh_schema()
    async with PostgresLedger.made(server, schema) as ledger:
        await run_check(name, storage_of(server, schema), ledger=ledger)

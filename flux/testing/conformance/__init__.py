"""The contract of `flux.storage` as tests: one small check a sentence, for any adapter and any test runner.

Each check is an `async` function that gets a new, empty storage and raises AssertionError where it breaks the contract; its
docstring quotes the number of the sentence. With pytest and anyio, an adapter's whole test file is:

    from flux.testing.conformance import CHECKS, run_check

    @pytest.mark.anyio
    @pytest.mark.parametrize("name", CHECKS)
    async def test_contract(name, tmp_path):
        await run_check(name, lambda clock: MyStorage(tmp_path / "db", clock=clock))

`CHECKS` are for every storage. `SHARED_CHECKS` are for those whose data can be opened another time, beside the first and
after it: give `run_check` an `again`. `DAMAGED_CHECKS` need a `damage`, which makes the first row of a run's journal
unreadable. `TRANSACTION_CHECKS` and `OUTBOX_CHECKS` are for storages that are `Transactional` or an `Outbox`, and need a
`ledger`: a table of the caller's own beside flux. Checks run on asyncio, and move the clock that they give by hand.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from . import (
    beginning,
    committing,
    creating,
    families,
    fitting,
    leasing,
    moments,
    posting,
    queueing,
    reading,
    reopening,
    scheduling,
    sharing,
    spreading,
    transactions,
    values,
    workers,
)
from .kit import Bench, Check, Damage, HandClock, Ledger, Make

__all__ = [
    "CHECKS", "DAMAGED_CHECKS", "OUTBOX_CHECKS", "SHARED_CHECKS", "TRANSACTION_CHECKS", "Bench", "Damage", "Ledger", "Make", "run_check",
]  # fmt: skip

_ALWAYS: dict[str, Check] = {
    **creating.CHECKS, **committing.CHECKS, **posting.CHECKS, **leasing.CHECKS, **fitting.CHECKS, **reopening.CHECKS,
    **workers.CHECKS, **reading.CHECKS, **moments.CHECKS, **values.CHECKS, **spreading.CHECKS, **families.CHECKS,
    **beginning.CHECKS, **scheduling.CHECKS,
    **queueing.CHECKS,
}  # fmt: skip
_ALL: dict[str, Check] = {
    **_ALWAYS, **sharing.SHARED, **sharing.DAMAGED, **transactions.TRANSACTIONS, **transactions.OUTBOX,
}  # fmt: skip

CHECKS: tuple[str, ...] = tuple(_ALWAYS)
SHARED_CHECKS: tuple[str, ...] = tuple(sharing.SHARED)
DAMAGED_CHECKS: tuple[str, ...] = tuple(sharing.DAMAGED)
TRANSACTION_CHECKS: tuple[str, ...] = tuple(transactions.TRANSACTIONS)
OUTBOX_CHECKS: tuple[str, ...] = tuple(transactions.OUTBOX)


async def run_check(
    name: str, make: Make, *, again: Make | None = None, damage: Damage | None = None, ledger: Ledger | None = None
) -> None:
    """Run one check on a new storage, which it opens and closes. Raises AssertionError where the contract is broken.

    `make(clock)` makes a storage that is empty and not yet open; `again(clock)` one more on the same data; `damage(run_id)`
    overwrites the first row of that run's journal with something that cannot be read; `ledger` is an empty table in the same database.
    """
    clock = HandClock()
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(make(clock))
        await _ALL[name](Bench(stack, storage, clock, again, damage, ledger))

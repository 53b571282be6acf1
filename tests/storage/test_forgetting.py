"""D26, D27, contract 17: what one purge forgets is bounded, however large the families are."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux.storage import Query, WorkflowStorage
from flux_storage import MemoryStorage, SQLiteStorage
from flux_storage.memory import storage as memory
from flux_storage.sqlite import forgetting

from .runs import LEASE, end, new_run

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("adapter", ["memory", "sqlite"])
async def test_a_purge_is_bounded_in_rows(adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract 17: whole families, no more once it is enough; asked until it returns 0, it forgets them all."""
    monkeypatch.setattr(memory, "PURGE", 5)
    monkeypatch.setattr(forgetting, "PURGE", 5)
    storages: dict[str, WorkflowStorage] = {"memory": MemoryStorage(), "sqlite": SQLiteStorage(tmp_path / "flux.db")}
    async with storages[adapter] as storage:
        await storage.register("w", LEASE)
        for number in range(5):
            for run_id in (f"p{number}", f"p{number}.a", f"p{number}.b", f"p{number}.c"):
                parent = run_id.rpartition(".")[0]
                header = (await storage.create(new_run(run_id, owner="w", parent=parent))).header
                await storage.commit(end(header, 1, at=number))
        assert await storage.purge(0, 500) == 2
        assert len(await storage.find(Query())) == 12
        assert [await storage.purge(0, 500) for _ in range(3)] == [2, 1, 0]
        assert await storage.find(Query()) == []


@pytest.mark.parametrize("adapter", ["memory", "sqlite"])
async def test_a_purge_looks_behind_families_that_go_on(adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract 17: however many of them there are."""
    monkeypatch.setattr(forgetting, "_PAGE", 2)
    storages: dict[str, WorkflowStorage] = {"memory": MemoryStorage(), "sqlite": SQLiteStorage(tmp_path / "flux.db")}
    async with storages[adapter] as storage:
        await storage.register("w", LEASE)
        for number in range(7):
            header = (await storage.create(new_run(f"p{number}", owner="w"))).header
            children = (new_run(f"p{number}.a", parent=header.run_id),) if number % 5 else ()
            await storage.commit(end(header, 1, children=children, at=1))
        assert [await storage.purge(0, 500) for _ in range(2)] == [2, 0]
        assert len(await storage.find(Query())) == 10

"""Checks of contract 17: a child is forgotten with its parent, and not before."""

from __future__ import annotations

from ...core.status import RunStatus
from ...errors import RunConflict, RunNotFinished, RunNotFound
from ...storage import Query
from .kit import SECOND, Bench, Checks, equal, refused, true

CHECKS = Checks()


async def _family(b: Bench, *ids: str, live: str = "") -> None:
    """Runs that have ended, but for `live`: the parent of `a.b.c` is `a.b`, where that is one of the ids."""
    for run_id in ids:
        parent = run_id.rpartition(".")[0]
        header = await b.held(run_id, f"w-{run_id}", parent=parent)
        if run_id != live:
            await b.commit(header, status=RunStatus.COMPLETED, wake_at=None, release=True)


async def _ids(b: Bench) -> list[str]:
    return sorted(header.run_id for header in await b.storage.find(Query(limit=1000)))


@CHECKS
async def delete_takes_children_along(b: Bench) -> None:
    """Contract 17: and theirs, with rows, inboxes and keys; other families stay."""
    await _family(b, "p", "p.a", "p.a.x", "p.a.y", "p.b", "q", "q.a")
    await b.storage.delete("p")
    equal(await _ids(b), ["q", "q.a"])
    for run_id in ("p", "p.a", "p.a.x"):
        equal((await b.storage.load(run_id), await b.storage.read_journal(run_id)), (None, []))
        await refused(RunNotFound, b.storage.delete(run_id))
    true((await b.create("p.a", parent="q")).fresh, "the id is free")
    await refused(RunNotFinished, b.storage.delete("q"))


@CHECKS
async def delete_refuses_a_child(b: Bench) -> None:
    """Contract 17: RunConflict, ended or not, as long as its parent is there; a parent that is not there protects nothing."""
    await _family(b, "p", "p.a", "p.b", live="p.b")
    for run_id in ("p.a", "p.b"):
        before = await b.load(run_id)
        await refused(RunConflict, b.storage.delete(run_id))
        await b.unchanged(run_id, before)
    await _family(b, "nobody.a", "nobody.a.x")
    await b.storage.delete("nobody.a")
    equal(await _ids(b), ["p", "p.a", "p.b"])


@CHECKS
async def delete_waits_for_children(b: Bench) -> None:
    """Contract 17: RunNotFinished where any of them has not ended, and all of them stay."""
    await _family(b, "p", "p.a", "p.a.x", "p.b", live="p.a.x")
    await refused(RunNotFinished, b.storage.delete("p"))
    equal(await _ids(b), ["p", "p.a", "p.a.x", "p.b"])
    await b.commit(await b.header("p.a.x"), status=RunStatus.FAILED, wake_at=None)
    await b.storage.delete("p")
    equal(await _ids(b), [])


@CHECKS
async def purge_takes_families(b: Bench) -> None:
    """Contract 17: whole ones, once the parent is old enough, however young its children are; `limit` counts parents."""
    await _family(b, "p", "p.a")
    await b.clock.advance(10)
    await _family(b, "p.a.x", "q", "q.a", "r")
    equal(await b.storage.purge(11 * SECOND, 100), 0)
    equal(await b.storage.purge(10 * SECOND, 100), 1)
    equal(await _ids(b), ["q", "q.a", "r"])
    equal((await b.storage.purge(0, 1), await b.storage.purge(0, 1), await b.storage.purge(0, 1)), (1, 1, 0))
    equal(await _ids(b), [])


@CHECKS
async def purge_passes_children_over(b: Bench) -> None:
    """Contract 17: and families that go on; they are in no other's way, however many and old they are."""
    live = await b.held("live", "w-live")
    for number in range(50):
        run_id = f"live.{number}"
        await b.create(run_id, parent="live", owner="w-live")
        header = await b.header(run_id)
        await b.commit(header, status=RunStatus.COMPLETED, wake_at=None, release=True)
    await _family(b, "p", "p.a", "p.a.x", live="p.a.x")
    await b.clock.advance(1)
    await _family(b, "old", "old.a", "nobody.a")
    equal(await b.storage.purge(0, 5), 2)
    true(await b.storage.load("old.a") is None, "children go with their parent")
    equal((len(await b.storage.find(Query(limit=500))), await b.storage.purge(0, 5)), (54, 0))
    await b.commit(live, status=RunStatus.COMPLETED, wake_at=None)
    equal(await b.storage.purge(0, 5), 1)
    equal(await _ids(b), ["p", "p.a", "p.a.x"])


@CHECKS
async def runs_that_are_each_others_parents_harm_nobody(b: Bench) -> None:
    """Contract 17: neither goes, and nothing loops for ever."""
    for run_id, parent in (("a", "b"), ("b", "a"), ("c", "c"), ("p", ""), ("p.a", "p")):
        header = await b.held(run_id, f"w-{run_id}", parent=parent)
        await b.commit(header, status=RunStatus.COMPLETED, wake_at=None)
    for run_id in ("a", "b", "c"):
        await refused(RunConflict, b.storage.delete(run_id))
    equal(await b.storage.purge(0, 9), 1)
    equal(await _ids(b), ["a", "b", "c"])

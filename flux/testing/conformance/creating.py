"""Checks of contract 2: a run is made once."""

from __future__ import annotations

import asyncio

from ...core.status import RunStatus
from ...errors import LeaseLost
from ...storage import Header, Query, Row
from .kit import FLOW, LEASE, SECOND, Bench, Checks, created_record, equal, new_run, refused, shows, true

CHECKS = Checks()


@CHECKS
async def create_stores_the_whole_run(b: Bench) -> None:
    """Contract 2, S3.1: header and first row are there when `create` returns."""
    created = await b.create("r", idempotency_key="k", priority=3, waiting=("go",), status=RunStatus.SUSPENDED)
    equal((created.fresh, created.now), (True, b.now))
    header = Header(
        "r", created.header.ref, "flow", "1", "s", RunStatus.SUSPENDED, 3, b.now, b.now, None, b.now, None, 0, 1, 0, "d", "k", ("go",), "",
    )  # fmt: skip
    equal(created.header, header)
    run = await b.load("r")
    equal((run.header, run.rows, run.postings, run.error), (header, [Row(1, 0, b.now, (created_record(),))], [], None))


@CHECKS
async def create_again_by_id_returns_the_run_untouched(b: Bench) -> None:
    """Contract 2, S2.4, I39: whatever the second call says, also of another workflow."""
    first = (await b.create("r")).header
    before = await b.load("r")
    await b.clock.advance(1)
    for fields in ({}, {"input_digest": "e", "priority": 9, "version": "2"}, {"workflow": "other"}, {"idempotency_key": "k"}):
        again = await b.create("r", **fields)
        equal((again.header, again.fresh, again.now), (first, False, b.now))
    await b.unchanged("r", before)
    true((await b.create("s", idempotency_key="k")).fresh, "a call that made nothing must not have left its key")


@CHECKS
async def create_again_by_key_returns_the_run_untouched(b: Bench) -> None:
    """Contract 2, S2.4, D27: the key is looked for before the id, and no second run is made."""
    first = (await b.create("r", idempotency_key="k")).header
    other = (await b.create("other")).header
    before = await b.load("r")
    for run_id in ("r", "r2", "other"):
        again = await b.create(run_id, idempotency_key="k")
        equal((again.header, again.fresh), (first, False))
    await b.unchanged("r", before)
    equal(await b.storage.find(Query()), sorted([first, other], key=lambda h: (h.created_at, h.run_id), reverse=True))


@CHECKS
async def keys_belong_to_their_workflow(b: Bench) -> None:
    """D27: the same key under another workflow is another key; the version does not count."""
    await b.create("r", idempotency_key="k")
    true((await b.create("s", idempotency_key="k", workflow="other")).fresh, "another workflow's key")
    equal((await b.create("t", idempotency_key="k", version="2")).header.run_id, "r")


@CHECKS
async def create_with_owner_leases_the_run(b: Bench) -> None:
    """Contract 2, D13: leased at epoch 1; nobody else can claim or take it, and its owner commits at once."""
    await b.worker("w")
    await b.worker("v")
    header = (await b.create("r", owner="w", wake_at=b.now + SECOND)).header
    shows(header, owner="w", epoch=1, position=1, inbox_seq=0, wake_at=b.now + SECOND)
    equal((await b.load("r")).rows[0].epoch, 1)
    await b.clock.advance(2)
    equal(await b.claimed("v"), [])
    equal(await b.storage.take("r", "v"), None)
    await b.commit(header)
    equal((await b.load("r")).header.position, 2)


@CHECKS
async def create_with_owner_takes_no_run_that_is_there(b: Bench) -> None:
    """Contract 2: the run which was there is untouched, also by the lease."""
    await b.worker("w")
    await b.create("r")
    again = await b.create("r", owner="w")
    shows(again.header, owner=None, epoch=0)
    equal(await b.claimed("w"), ["r"])


@CHECKS
async def create_needs_a_live_owner(b: Bench) -> None:
    """Contract 2, 10: for a worker that was never registered, was unregistered or condemned, nothing is made."""
    await refused(LeaseLost, b.create("r", owner="nobody", idempotency_key="k"))
    await b.worker("gone")
    await b.storage.unregister("gone")
    await refused(LeaseLost, b.create("r", owner="gone", idempotency_key="k"))
    await b.worker("late")
    await b.clock.advance(LEASE / SECOND)
    await b.worker("w")
    await b.claimed("w")
    await refused(LeaseLost, b.create("r", owner="late", idempotency_key="k"))
    equal(await b.storage.load("r"), None)
    true((await b.create("r", idempotency_key="k")).fresh, "a refused create must leave nothing, its key included")


@CHECKS
async def create_finds_a_run_for_a_dead_owner_too(b: Bench) -> None:
    """Contract 2: who asks again gets the run that is there, and needs no lease for that."""
    await b.create("r")
    equal((await b.create("r", owner="nobody")).fresh, False)


@CHECKS
async def a_delay_holds_a_run_back(b: Bench) -> None:
    """I13, I19: not claimable a microsecond early, by the storage's clock."""
    await b.worker("w")
    due = b.now + 10 * SECOND
    shows((await b.create("r", delay=10 * SECOND)).header, wake_at=due, created_at=b.now)
    claimed = await b.claim("w")
    equal((claimed.runs, claimed.next_at), ([], due))
    await b.clock.advance(9.999999)
    equal(await b.claimed("w"), [])
    await b.clock.advance(0.000001)
    equal(await b.claimed("w"), ["r"])


@CHECKS
async def concurrent_creates_of_one_id_make_one_run(b: Bench) -> None:
    """Contract 2, I39: fifty callers, one run."""
    replies = await asyncio.gather(*(b.create("r", input_digest=str(number)) for number in range(50)))
    equal(sum(reply.fresh for reply in replies), 1, "fresh replies")
    stored = await b.load("r")
    true(all(reply.header == stored.header for reply in replies), "everybody is told of the same run")
    equal(len(stored.rows), 1)


@CHECKS
async def concurrent_creates_under_one_key_make_one_run(b: Bench) -> None:
    """Contract 2, I39: the same for a key and fifty ids."""
    replies = await asyncio.gather(*(b.create(f"r{number}", idempotency_key="k") for number in range(50)))
    equal(sum(reply.fresh for reply in replies), 1, "fresh replies")
    equal(len({reply.header.run_id for reply in replies}), 1)
    equal(len(await b.storage.find(Query())), 1)


@CHECKS
async def a_workflow_and_version_may_have_any_name(b: Bench) -> None:
    """Names with every character that flux or a codec lets through come back, and are told apart."""
    names = [("a", ""), ("A", ""), ("a-b.c_d", "1.0+x"), ("f:g", "é𝄞"), ("a", "%"), ("a", "'\"\\")]
    for number, (workflow, version) in enumerate(names):
        await b.storage.create(new_run(f"r{number}", b.now, workflow=workflow, version=version))
    await b.worker("w")
    for number, name in enumerate(names):
        found = await b.claim("w", codes=[(*name, "s")])
        equal([(run.header.run_id, run.header.workflow, run.header.version) for run in found.runs], [(f"r{number}", *name)])
    equal((await b.claim("w", codes=[FLOW])).runs, [])

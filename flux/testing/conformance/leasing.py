"""Checks of contract 8 and 9: who holds a run, and in which order runs are claimed."""

from __future__ import annotations

import asyncio

from ...core.status import RunStatus
from ...errors import LeaseLost, RunNotFound
from .kit import FLOW, LEASE, MINUTE, SECOND, Bench, Checks, equal, posting, refused, shows, true

CHECKS = Checks()

# --- take


@CHECKS
async def a_free_run_is_taken_due_or_not(b: Bench) -> None:
    """Contract 8, S12.2: with everything in it, and with a new epoch."""
    await b.parked("r", wake_at=None)
    await b.create("s", delay=1000 * SECOND)
    await b.worker("w")
    for run_id, epoch in (("r", 2), ("s", 1)):
        run = await b.storage.take(run_id, "w")
        equal(run, await b.load(run_id))
        shows(await b.header(run_id), owner="w", epoch=epoch)
    await b.commit(await b.header("s"))


@CHECKS
async def a_held_run_is_not_taken(b: Bench) -> None:
    """Contract 8: None, and nothing changes; also for its own holder."""
    await b.held("r", "v")
    await b.worker("w")
    before = await b.load("r")
    equal((await b.storage.take("r", "w"), await b.storage.take("r", "v", blocked=True)), (None, None))
    await b.unchanged("r", before)


@CHECKS
async def an_ended_run_comes_back_unleased(b: Bench) -> None:
    """`take` of a run that has ended shows it and leases nothing, whatever it is asked."""
    await b.ended("r")
    await b.worker("w")
    before = await b.load("r")
    equal((await b.storage.take("r", "w"), await b.storage.take("r", "w", blocked=True)), (before, before))
    await b.unchanged("r", before)


@CHECKS
async def a_blocked_run_is_taken_only_on_demand(b: Bench) -> None:
    """`take` shows a blocked run; with `blocked` it leases it."""
    await b.parked("r", status=RunStatus.BLOCKED, blocked="why")
    await b.worker("w")
    before = await b.load("r")
    equal(await b.storage.take("r", "w"), before)
    await b.unchanged("r", before)
    taken = await b.storage.take("r", "w", blocked=True)
    equal(taken, await b.load("r"))
    shows(await b.header("r"), owner="w", epoch=2, status=RunStatus.BLOCKED, blocked="why")


@CHECKS
async def take_needs_a_run_and_a_live_worker(b: Bench) -> None:
    """RunNotFound and LeaseLost."""
    await b.worker("w")
    await refused(RunNotFound, b.storage.take("r", "w"))
    await b.create("r")
    await refused(LeaseLost, b.storage.take("r", "nobody"))
    await b.storage.unregister("w")
    await refused(LeaseLost, b.storage.take("r", "w"))
    shows(await b.header("r"), owner=None, epoch=0)


@CHECKS
async def concurrent_takers_have_one_winner(b: Bench) -> None:
    """Contract 8, I10: ten workers, one lease, one epoch."""
    await b.create("r")
    workers = [await b.worker(f"w{number}") for number in range(10)]
    taken = await asyncio.gather(*(b.storage.take("r", worker) for worker in workers))
    equal([run is not None for run in taken].count(True), 1)
    header = await b.header("r")
    equal((header.epoch, taken[workers.index(header.owner or "")] is not None), (1, True))


# --- claim


@CHECKS
async def a_claim_leases_due_runs(b: Bench) -> None:
    """Contract 9: whole runs, with owner, a new epoch and what is in the inbox."""
    await b.create("r")
    await b.post("r")
    await b.worker("w")
    claimed = await b.claim("w")
    equal((claimed.runs, claimed.now, claimed.next_at), ([await b.load("r")], b.now, None))
    shows(claimed.runs[0].header, owner="w", epoch=1)
    equal(claimed.runs[0].postings, [posting(1, b.now)])
    equal((await b.storage.renew("w", LEASE)).unseen, (), "what came with the claim was seen")


@CHECKS
async def a_claim_takes_only_what_was_asked_for(b: Bench) -> None:
    """Contract 9, S13.3, I37: workflow and version both; of nothing, nothing."""
    for run_id, workflow, version in (("a", "flow", "1"), ("b", "flow", "2"), ("c", "other", "1"), ("d", "other", "2")):
        await b.create(run_id, workflow=workflow, version=version)
    await b.worker("w")
    equal((await b.claim("w", codes=())).runs, [])
    claimed = await b.claim("w", codes={("flow", "2", "s"), ("other", "1", "s"), ("third", "1", "s")})
    equal(sorted(run.header.run_id for run in claimed.runs), ["b", "c"])
    equal(await b.claimed("w"), ["a"])
    shows(await b.header("d"), owner=None, epoch=0)


@CHECKS
async def a_version_asked_for_twice_is_claimed_once(b: Bench) -> None:
    """Contract 8: one lease a run, however the question is put."""
    await b.create("r")
    await b.worker("w")
    equal([run.header.epoch for run in (await b.claim("w", codes=[FLOW, FLOW])).runs], [1])


@CHECKS
async def a_claim_keeps_to_its_limit(b: Bench) -> None:
    """Contract 9, S14.3: the rest stays for others, and `next_at` says that it is due."""
    for number in range(5):
        await b.create(f"r{number}")
        await b.clock.advance(1)
    await b.worker("w")
    start = b.now - 5 * SECOND
    claimed = await b.claim("w", 0)
    equal((claimed.runs, claimed.next_at), ([], start))
    claimed = await b.claim("w", 2)
    equal(([run.header.run_id for run in claimed.runs], claimed.next_at), (["r0", "r1"], start + 2 * SECOND))
    equal(await b.claimed("w", 9), ["r2", "r3", "r4"])


@CHECKS
async def higher_priority_goes_first_then_the_earlier_due(b: Bench) -> None:
    """Contract 9, S14.3: among runs that came within a minute."""
    for number, priority in enumerate((0, 5, -3, 0, 5)):
        await b.create(f"r{number}", priority=priority)
        await b.clock.advance(1)
    await b.worker("w")
    equal(await b.claimed("w"), ["r1", "r4", "r0", "r3", "r2"])


@CHECKS
async def a_minute_of_waiting_is_worth_a_level(b: Bench) -> None:
    """Contract 9, D29: ageing lets a low priority starve no longer than that."""
    await b.worker("w")
    for age, first in ((119, "new"), (121, "old")):
        await b.create(f"old-{age}", priority=1)
        await b.clock.advance(age)
        await b.create(f"new-{age}", priority=3)
        await b.storage.renew("w", LEASE)
        equal((await b.claimed("w"))[0], f"{first}-{age}")


@CHECKS
async def equally_urgent_runs_go_by_priority(b: Bench) -> None:
    """Contract 9: a waited minute makes up for a level, and no more: of equally urgent runs the higher priority."""
    await b.create("a-low", priority=0)
    await b.create("b-high", priority=1, delay=MINUTE)
    await b.clock.advance(60)
    await b.worker("w")
    equal(await b.claimed("w"), ["b-high", "a-low"])


@CHECKS
async def next_at_is_the_earliest_of_what_was_asked_for(b: Bench) -> None:
    """Contract 9: over priorities and versions; runs that are held, parked or of others do not count."""
    await b.worker("w")
    equal((await b.claim("w")).next_at, None)
    now = b.now
    await b.create("a", delay=30 * SECOND, priority=5)
    await b.create("b", delay=20 * SECOND)
    await b.create("c", delay=10 * SECOND, version="2")
    await b.create("d", delay=5 * SECOND, workflow="other")
    await b.parked("e", wake_at=None)
    await b.held("f", "v", wake_at=now + SECOND)
    equal((await b.claim("w")).next_at, now + 20 * SECOND)
    equal((await b.claim("w", codes=[FLOW, ("flow", "2", "s")])).next_at, now + 10 * SECOND)


@CHECKS
async def what_is_held_ended_or_parked_is_not_claimed(b: Bench) -> None:
    """Contract 8, 9, I9."""
    await b.held("held", "v")
    await b.ended("ended")
    await b.parked("parked")
    await b.parked("blocked", status=RunStatus.BLOCKED, blocked="why")
    await b.worker("w")
    equal(await b.claimed("w"), [])


@CHECKS
async def claims_need_a_live_worker(b: Bench) -> None:
    """Contract 10: LeaseLost for one that is unknown or gone, and nothing is leased."""
    await b.create("r")
    await refused(LeaseLost, b.claim("nobody"))
    await b.worker("w")
    await b.storage.unregister("w")
    await refused(LeaseLost, b.claim("w"))
    shows(await b.header("r"), owner=None, epoch=0)


@CHECKS
async def concurrent_claims_share_no_run(b: Bench) -> None:
    """Contract 8, I10: four workers empty the queue together."""
    for number in range(40):
        await b.create(f"r{number}")
    workers = [await b.worker(f"w{number}") for number in range(4)]
    claims = await asyncio.gather(*(b.claimed(worker, 7) for worker in workers * 2))
    ids = [run_id for claim in claims for run_id in claim]
    equal((len(ids), len(set(ids))), (40, 40))
    for number, claim in enumerate(claims):
        for run_id in claim:
            shows(await b.header(run_id), owner=workers[number % 4], epoch=1)


@CHECKS
async def epochs_grow_with_every_change_of_hands(b: Bench) -> None:
    """Contract 8, I10: by claim, take, post and takeover; a commit keeps the epoch."""
    await b.create("r")
    await b.worker("w")
    epochs = [(await b.header("r")).epoch]
    for _ in range(2):
        for way in (lambda: b.claim("w"), lambda: b.storage.take("r", "w"), lambda: b.post("r", taker="w")):
            await way()
            header = await b.header("r")
            equal(header.owner, "w")
            epochs.append(header.epoch)
            await b.commit(header, release=True)
    await b.storage.take("r", "w")
    await b.storage.unregister("w")
    await b.worker("v")
    await b.claim("v")
    epochs.append((await b.header("r")).epoch)
    equal(epochs, [0, 1, 2, 3, 4, 5, 6, 8])
    equal([row.epoch for row in (await b.load("r")).rows], [0, 1, 2, 3, 4, 5, 6])


@CHECKS
async def many_waiting_runs_hide_no_due_one(b: Bench) -> None:
    """Contract 9: one due among hundreds that wait, and among many of other versions."""
    for number in range(200):
        await b.create(f"later-{number}", delay=(number + 1) * MINUTE, priority=number % 7)
        await b.create(f"other-{number}", version="2", priority=9)
    await b.create("due", priority=-100)
    await b.worker("w")
    claimed = await b.claim("w")
    equal([run.header.run_id for run in claimed.runs], ["due"])
    true(claimed.next_at == b.now + MINUTE, "next_at is the earliest of the waiting")

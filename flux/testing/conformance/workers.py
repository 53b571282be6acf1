"""Checks of contract 10 and 11: workers, their leases, and what becomes of the runs of a dead one."""

from __future__ import annotations

import asyncio
import threading

from ...core.status import RunStatus
from ...errors import LeaseLost
from ...storage import Renewal
from .kit import LEASE, PATIENCE, SECOND, Bench, Checks, equal, posting, refused, shows

CHECKS = Checks()


@CHECKS
async def a_renewal_extends_the_lease(b: Bench) -> None:
    """Contract 10, D13: by the length it names, from the storage's now; all runs of the worker with it."""
    await b.held("r")
    await b.worker("v", 1000 * LEASE)
    for _ in range(5):
        await b.clock.advance(0.9 * LEASE / SECOND)
        equal(await b.storage.renew("w", LEASE), Renewal(True, (), b.now))
        equal(await b.claimed("v"), [])
    await b.storage.renew("w", 3 * LEASE)
    await b.clock.advance(3 * LEASE / SECOND - 0.000001)
    equal(await b.claimed("v"), [])
    await b.clock.advance(0.000001)
    equal(await b.claimed("v"), ["r"])


@CHECKS
async def a_renewal_may_shorten_the_lease(b: Bench) -> None:
    """Contract 10: the lease lasts as long as its last renewal says."""
    await b.held("r")
    await b.storage.renew("w", SECOND)
    await b.clock.advance(1)
    await b.worker("v")
    equal(await b.claimed("v"), ["r"])


@CHECKS
async def a_worker_that_nobody_knows_is_not_alive(b: Bench) -> None:
    """Contract 10: `renew` says so and raises nothing."""
    equal(await b.storage.renew("nobody", LEASE), Renewal(False, (), b.now))


@CHECKS
async def a_late_renewal_saves_a_worker_that_nobody_condemned(b: Bench) -> None:
    """Contract 10: takeover condemns, time alone does not."""
    await b.held("r")
    await b.clock.advance(10 * LEASE / SECOND)
    equal((await b.storage.renew("w", LEASE)).alive, True)
    await b.worker("v")
    equal(await b.claimed("v"), [])


@CHECKS
async def a_condemned_worker_never_renews(b: Bench) -> None:
    """Contract 10, D13: however often it tries, and it can neither create, take nor claim."""
    await b.held("r")
    await b.clock.advance(LEASE / SECOND)
    await b.worker("v")
    equal(await b.claimed("v"), ["r"])
    for _ in range(3):
        equal((await b.storage.renew("w", LEASE)).alive, False)
        await b.clock.advance(1)
    await refused(LeaseLost, b.create("s", owner="w"))
    await refused(LeaseLost, b.storage.take("r", "w"))
    await refused(LeaseLost, b.claim("w"))


@CHECKS
async def a_claim_condemns_who_holds_nothing_too(b: Bench) -> None:
    """Contract 10: condemned is condemned, also when nothing had to be freed."""
    await b.worker("idle")
    await b.clock.advance(LEASE / SECOND)
    await b.worker("v")
    await b.claim("v")
    equal((await b.storage.renew("idle", LEASE)).alive, False)


@CHECKS
async def a_claimer_does_not_condemn_itself(b: Bench) -> None:
    """Contract 10: a worker that comes late to claim is alive, as nobody condemned it, and it keeps its runs."""
    header = await b.held("r")
    await b.create("s")
    await b.clock.advance(2 * LEASE / SECOND)
    equal(await b.claimed("w"), ["s"])
    await b.commit(header)
    equal((await b.storage.renew("w", LEASE)).alive, True)


@CHECKS
async def a_late_worker_takes_nothing_from_itself(b: Bench) -> None:
    """Contract 8, 10: it holds the run already, and does not condemn itself by asking for it."""
    header = await b.held("r")
    await b.clock.advance(2 * LEASE / SECOND)
    equal((await b.storage.take("r", "w"), (await b.post("r", taker="w")).run), (None, None))
    await b.commit(header, inbox_seq=1)
    shows(await b.header("r"), owner="w", epoch=1, position=2)


@CHECKS
async def runs_of_a_dead_worker_are_due_at_once(b: Bench) -> None:
    """Contract 10, I15, I16: whatever they waited for; what ended or is blocked is freed and not due."""
    await b.held("running")
    for run_id, status, wake_at in (
        ("waiting", RunStatus.SUSPENDED, None), ("sleeping", RunStatus.SUSPENDED, b.now + 10**12),
        ("blocked", RunStatus.BLOCKED, None), ("ended", RunStatus.COMPLETED, None),
    ):  # fmt: skip
        await b.commit((await b.create(run_id, owner="w")).header, status=status, wake_at=wake_at)
    await b.clock.advance(LEASE / SECOND)
    await b.worker("v")
    equal(sorted(await b.claimed("v")), ["running", "sleeping", "waiting"])
    for run_id in ("blocked", "ended"):
        shows(await b.header(run_id), owner=None, wake_at=None, epoch=1)
    for run_id in ("running", "waiting", "sleeping"):
        shows(await b.header(run_id), owner="v", wake_at=b.now, epoch=2)


@CHECKS
async def a_dead_worker_loses_all_its_runs_however_many(b: Bench) -> None:
    """Contract 8, 10, I15: also where they are freed a part at a time; it writes to none of them, freed or not yet."""
    await b.worker("w")
    runs = [created.header for created in await asyncio.gather(*(b.create(f"r{number}", owner="w") for number in range(1200)))]
    await b.clock.advance(LEASE / SECOND)
    await b.worker("v")
    claimed = await b.claimed("v", 1)
    for seen in (runs[0], runs[-1]):
        await refused(LeaseLost, b.commit(seen))
    while more := await b.claimed("v", 500):
        claimed += more
    equal((len(claimed), len(set(claimed))), (1200, 1200))


@CHECKS
async def taking_from_a_dead_worker_condemns_it(b: Bench) -> None:
    """Contract 10, I16: the run changes hands at once, and the dead one's other runs are free."""
    header = await b.held("r")
    await b.create("s", owner="w")
    await b.worker("v", 10 * LEASE)
    equal(await b.storage.take("r", "v"), None)
    await b.clock.advance(LEASE / SECOND)
    equal(await b.storage.take("r", "v"), await b.load("r"))
    shows(await b.header("r"), owner="v", epoch=2)
    shows(await b.header("s"), owner=None, wake_at=b.now, epoch=1)
    equal((await b.storage.renew("w", LEASE)).alive, False)
    await refused(LeaseLost, b.commit(header))


@CHECKS
async def a_live_worker_keeps_its_runs_when_another_dies(b: Bench) -> None:
    """Contract 10, I18: only the dead one's runs are freed."""
    await b.held("r", "w")
    await b.held("s", "v")
    await b.clock.advance(20)
    await b.storage.renew("v", LEASE)
    await b.clock.advance(20)
    await b.worker("u")
    equal(await b.claimed("u"), ["r"])
    shows(await b.header("s"), owner="v", epoch=1)
    equal((await b.storage.renew("v", LEASE)).alive, True)


@CHECKS
async def who_unregisters_gives_everything_back(b: Bench) -> None:
    """S14.4: its runs are due at once, and its nonce is done with."""
    header = await b.held("r")
    await b.commit(header, status=RunStatus.SUSPENDED, wake_at=None)
    await b.worker("v")
    await b.storage.unregister("w")
    shows(await b.header("r"), owner=None, wake_at=b.now, epoch=1)
    equal((await b.storage.renew("w", LEASE)).alive, False)
    equal(await b.claimed("v"), ["r"])
    await b.storage.unregister("w")
    await b.storage.unregister("nobody")
    shows(await b.header("r"), owner="v", epoch=2)


@CHECKS
async def registering_again_keeps_what_is_held(b: Bench) -> None:
    """Contract 10: a registration whose answer was lost is sent again; it begins the lease anew."""
    header = await b.held("r")
    await b.post("r")
    await b.clock.advance(20)
    equal(await b.storage.register("w", LEASE), b.now)
    await b.clock.advance(20)
    await b.worker("v")
    equal(await b.claimed("v"), [])
    equal((await b.storage.renew("w", LEASE)).unseen, ("r",))
    await b.commit(header, inbox_seq=1)
    await b.clock.advance(LEASE / SECOND)
    await b.worker("u")
    equal(await b.claimed("u"), ["r"])


@CHECKS
async def a_condemned_nonce_that_is_registered_again_holds_nothing(b: Bench) -> None:
    """Contract 10: it is another worker with the same name."""
    header = await b.held("r")
    await b.storage.unregister("w")
    await b.worker("w")
    await refused(LeaseLost, b.commit(header))
    shows(await b.header("r"), owner=None)
    equal(await b.claimed("w"), ["r"])
    shows(await b.header("r"), owner="w", epoch=2)


@CHECKS
async def a_renewal_names_runs_with_unseen_postings(b: Bench) -> None:
    """D13: until their holder has stated them in a commit; those of other workers are not named."""
    headers = [(await b.held(run_id)) for run_id in ("a", "b", "c")]
    await b.held("d", "v")
    for run_id in ("a", "c", "c", "d"):
        await b.post(run_id)
    for _ in range(2):
        equal(sorted((await b.storage.renew("w", LEASE)).unseen), ["a", "c"])
    equal((await b.commit(headers[0], records=())).postings, (posting(1, b.now),))
    equal(sorted((await b.storage.renew("w", LEASE)).unseen), ["a", "c"])
    await b.commit(headers[0], records=(), inbox_seq=1)
    await b.commit(headers[2], inbox_seq=2, release=True)
    equal((await b.storage.renew("w", LEASE)).unseen, ())


@CHECKS
async def renewals_come_from_any_event_loop(b: Bench) -> None:
    """Contract 11, D15: a thread with a loop of its own renews while the one that opened the storage stands still."""
    await b.held("r")
    await b.post("r")
    await b.clock.advance(20)
    replies: list[Renewal] = []
    thread = threading.Thread(target=lambda: replies.append(asyncio.run(_renew(b))), daemon=True)
    thread.start()
    thread.join(PATIENCE)  # the event loop of this check is blocked meanwhile, on purpose
    equal(replies, [Renewal(True, ("r",), b.now)])
    await b.clock.advance(20)
    await b.worker("v")
    equal(await b.claimed("v"), [])


@CHECKS
async def renewals_from_other_loops_go_on_beside_the_work(b: Bench) -> None:
    """Contract 11: while commits are under way, and again from another loop after the first has gone."""
    header = await b.held("r")
    for number in range(3):
        replies: list[Renewal] = []
        thread = threading.Thread(target=lambda out=replies: out.append(asyncio.run(_renew(b))), daemon=True)
        thread.start()
        await b.commit(header)
        header = await b.header("r")
        while thread.is_alive():
            await b.storage.read_header("r")
        equal((replies, header.position), ([Renewal(True, (), b.now)], number + 2))


async def _renew(b: Bench) -> Renewal:
    return await b.storage.renew("w", LEASE)

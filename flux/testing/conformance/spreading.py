"""Checks of contract 16: what a commit means for other runs is written with it, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from ...core.commands import Posting
from ...core.status import RunStatus
from ...errors import LeaseLost, RunFinished
from ...storage import Committed, Header, Query, Row
from .kit import (
    LEASE,
    SECOND,
    Bench,
    Checks,
    commit_of,
    created_record,
    equal,
    new_run,
    patiently,
    posting,
    refused,
    sent,
    shows,
    true,
    turns,
)

CHECKS = Checks()

# --- children


@CHECKS
async def a_commit_makes_children(b: Bench) -> None:
    """Contract 16, I41: as `create` would without an owner: claimable now, or after their delay."""
    header = await b.held("r")
    own: dict[str, Any] = {"parent": "r", "waiting": ("go",), "status": RunStatus.SUSPENDED}
    children = (new_run("r.a", b.now - 3, **own, priority=2), new_run("r.b", b.now, parent="r", delay=SECOND))
    equal(await b.commit(header, children=children), Committed(b.now))
    shows(await b.header("r"), position=2, parent="")
    made = await b.load("r.a")
    equal((made.rows, made.postings), ([Row(1, 0, b.now - 3, (created_record(),))], []))
    shows(made.header, **own, created_at=b.now - 3, wake_at=b.now, owner=None, epoch=0, position=1, priority=2, inbox_seq=0)
    shows(await b.header("r.b"), parent="r", wake_at=b.now + SECOND)
    claimed = await b.claim("w")
    equal((claimed.runs, claimed.next_at), ([await b.load("r.a")], b.now + SECOND))
    await b.commit(claimed.runs[0].header)
    shows(await b.header("r.a"), parent="r", position=2)


@CHECKS
async def a_child_has_no_owner_and_no_key(b: Bench) -> None:
    """Contract 16: whatever its `NewRun` says; a key that somebody has is in its way as little as it is in another's."""
    header = await b.held("r", idempotency_key="k")
    await b.commit(header, children=(new_run("c", b.now, owner="w", wake_at=b.now + LEASE, idempotency_key="k"),))
    shows(await b.header("c"), owner=None, epoch=0, wake_at=b.now, idempotency_key=None)
    await b.commit(await b.header("r"), children=(new_run("d", b.now, idempotency_key="l"),))
    true((await b.create("e", idempotency_key="l")).fresh, "a child has taken no key")


@CHECKS
async def a_child_whose_id_is_taken_is_left_as_it_is(b: Bench) -> None:
    """Contract 16: and the commit is written all the same, with the other children; also where two have one id."""
    header = await b.held("r")
    await b.parked("c")
    before = await b.load("c")
    children = (new_run("c", b.now, version="2"), new_run("d", b.now, priority=1), new_run("d", b.now, priority=2))
    equal(await b.commit(header, children=children), Committed(b.now))
    await b.unchanged("c", before)
    shows(await b.header("d"), priority=1)
    shows(await b.header("r"), position=2)


@CHECKS
async def a_run_may_be_created_as_a_child(b: Bench) -> None:
    """Contract 17: `create` keeps the parent, too; lists and claims show it."""
    await b.create("p")
    shows((await b.create("c", parent="p")).header, parent="p")
    shows(await b.header("c"), parent="p")
    await b.worker("w")
    equal({run.header.run_id: run.header.parent for run in (await b.claim("w")).runs}, {"p": "", "c": "p"})


# --- posts


@CHECKS
async def a_commit_posts_to_other_runs(b: Bench) -> None:
    """Contract 16, I24: of any kind, in their order, numbered with what others send."""
    header = await b.held("r")
    await b.parked("s")
    await b.post("s")
    first = b.now
    await b.clock.advance(1)
    await b.commit(header, posts=(sent("s", "child", "x"), sent("t"), sent("s", "cancel"), sent("s", "signal", "y")))
    kinds = (Posting(2, "child", "go", "null", "x", b.now), Posting(3, "cancel", "go", "null", None, b.now))
    equal((await b.load("s")).postings, [posting(1, first), *kinds, posting(4, b.now, "y")])
    shows(await b.header("s"), inbox_seq=4)


@CHECKS
async def a_post_of_a_commit_wakes_a_free_run(b: Bench) -> None:
    """Contract 7, 16, I25: one that waited for nothing but this, one whose timer is far, and none that is blocked; a due one
    keeps its place."""
    due = b.now
    await b.create("due")
    await b.parked("parked", wake_at=None)
    await b.parked("later", wake_at=b.now + 1000 * SECOND)
    await b.parked("blocked", status=RunStatus.BLOCKED, blocked="why")
    header = await b.held("r", wake_at=due)
    await b.clock.advance(1)
    await b.commit(header, posts=tuple([sent(run_id) for run_id in ("due", "parked", "later", "blocked")]))
    for run_id, wake_at in (("due", due), ("parked", b.now), ("later", b.now), ("blocked", None)):
        shows(await b.header(run_id), inbox_seq=1, wake_at=wake_at, owner=None)
    equal(sorted(await b.claimed("w")), ["due", "later", "parked"])


@CHECKS
async def a_post_of_a_commit_reaches_a_holder(b: Bench) -> None:
    """Contract 3, 10, 16, D12, D13: its next commit is refused with it, and its heartbeat tells."""
    held = await b.held("s", "v", wake_at=b.now + LEASE)
    await b.commit(await b.held("r"), posts=(sent("s"),))
    shows(await b.header("s"), inbox_seq=1, owner="v", wake_at=held.wake_at)
    equal((await b.storage.renew("v", LEASE)).unseen, ("s",))
    equal((await b.storage.renew("w", LEASE)).unseen, ())
    equal(await b.commit(held), Committed(b.now, (posting(1, b.now),)))
    equal(await b.commit(held, inbox_seq=1, consumed=(1,)), Committed(b.now))


@CHECKS
async def a_post_to_a_run_that_is_gone_or_has_ended_is_dropped(b: Bench) -> None:
    """Contract 16: the commit is written all the same, and the other posts with it."""
    await b.ended("ended")
    held = await b.held("held", "v")
    await b.commit(held, status=RunStatus.FAILED, wake_at=None)
    await b.parked("s")
    before = [await b.load("ended"), await b.load("held")]
    header = await b.held("r")
    posts = [sent(run_id, kind) for kind in ("signal", "cancel", "child") for run_id in ("nobody", "ended", "held")]
    equal(await b.commit(header, posts=(*posts, sent("nobody", "unwind"), sent("s"))), Committed(b.now))
    equal([await b.load("ended"), await b.load("held")], before)
    equal(await b.storage.load("nobody"), None)
    shows(await b.header("s"), inbox_seq=1)
    shows(await b.header("r"), position=2)


@CHECKS
async def a_post_of_a_commit_is_not_refused_for_a_full_inbox(b: Bench) -> None:
    """Contract 16, D25: it is flux that speaks, and it cannot wait."""
    header = await b.held("r")
    await b.create("s")
    await b.commit(header, posts=(sent("s", limit=1),) * 3)
    shows(await b.header("s"), inbox_seq=3)


@CHECKS
async def a_known_signal_id_in_a_commit_is_without_effect(b: Bench) -> None:
    """Contract 7, 16: pending, taken, twice in one commit, and for a run that has ended."""
    parked = await b.held("s", "v")
    await b.post("s", "a")
    await b.commit(parked, inbox_seq=1, consumed=(1,), wake_at=None, release=True)
    header = await b.held("r")
    await b.commit(header, posts=(sent("s", signal_id="a"),))
    shows(await b.header("s"), inbox_seq=1, wake_at=None)
    await b.commit(replace(header, position=2), posts=(sent("s", signal_id="b"), sent("s", signal_id="b")))
    shows(await b.header("s"), inbox_seq=2, wake_at=b.now)
    await b.ended("e")
    await b.commit(replace(header, position=3), posts=(sent("e", "unwind", "u"), sent("e", "unwind", "u")))
    equal((await b.load("e")).postings, [Posting(1, "unwind", "go", "null", "u", b.now)])


@CHECKS
async def a_dropped_posting_does_not_use_up_its_signal_id(b: Bench) -> None:
    """Contract 7, 16: of one commit to a run that has ended, only what the run accepts counts."""
    await b.ended("e")
    await b.commit(await b.held("r"), posts=(sent("e", signal_id="u"), sent("e", "unwind", "u"), sent("e", "unwind", "u")))
    equal((await b.load("e")).postings, [Posting(1, "unwind", "go", "null", "u", b.now)])


@CHECKS
async def children_are_made_before_posts_are_sent(b: Bench) -> None:
    """Contract 16: a child may be posted to by the commit that makes it."""
    await b.commit(await b.held("r"), children=(new_run("c", b.now, delay=LEASE),), posts=(sent("c"),))
    shows(await b.header("c"), inbox_seq=1, wake_at=b.now)


@CHECKS
async def a_run_may_post_to_itself(b: Bench) -> None:
    """Contract 16: it finds the posting once the commit is written: held, or given back."""
    header = await b.held("r")
    await b.commit(header, posts=(sent("r"),))
    shows(await b.header("r"), position=2, inbox_seq=1)
    equal((await b.storage.renew("w", LEASE)).unseen, ("r",))
    await b.commit(await b.header("r"), consumed=(1,), wake_at=None, release=True, posts=(sent("r"),))
    shows(await b.header("r"), position=3, inbox_seq=2, owner=None, wake_at=b.now)


# --- unwind


async def _unwound(b: Bench) -> Header:
    """A run that has ended and that a commit has told to unwind a second later."""
    await b.ended("e")
    await b.clock.advance(1)
    await b.commit(await b.held("r"), posts=(sent("e", "unwind"),))
    return await b.header("e")


@CHECKS
async def an_unwind_reaches_a_run_that_has_ended(b: Bench) -> None:
    """Contract 16, S10.7: it is as ended as before, can be claimed, and the claim gives the posting out."""
    header = await _unwound(b)
    shows(header, status=RunStatus.COMPLETED, ended_at=b.now - SECOND, wake_at=b.now, inbox_seq=1, owner=None)
    await refused(RunFinished, b.post("e"))
    claimed = (await b.claim("w")).runs
    equal(claimed, [await b.load("e")])
    equal(claimed[0].postings, [Posting(1, "unwind", "go", "null", None, b.now)])
    shows(claimed[0].header, status=RunStatus.COMPLETED, owner="w", epoch=2)
    await b.commit(claimed[0].header, status=RunStatus.COMPENSATING, consumed=(1,))
    shows(await b.header("e"), status=RunStatus.COMPENSATING, ended_at=None, position=3)


@CHECKS
async def an_unwind_outlives_who_claimed_it(b: Bench) -> None:
    """Contract 10, 16, I15: the worker dies with the ended run in its hands; the next one gets it."""
    await _unwound(b)
    equal(await b.claimed("w"), ["e"])
    await b.storage.unregister("w")
    await b.worker("v")
    claimed = {run.header.run_id: run.postings for run in (await b.claim("v")).runs}
    equal(claimed.get("e"), [Posting(1, "unwind", "go", "null", None, b.now)])


@CHECKS
async def an_unwind_reaches_an_ended_run_that_is_held(b: Bench) -> None:
    """Contract 3, 16: its holder is told, and where that one dies first, the next."""
    await b.ended("e")
    await b.worker("v")
    taken = await b.storage.take("e", "v", ended=True)
    true(taken is not None, "an ended run is leased on demand")
    await b.commit(await b.held("r"), posts=(sent("e", "unwind"),))
    header = await b.header("e")
    shows(header, owner="v", status=RunStatus.COMPLETED, inbox_seq=1)
    equal((await b.storage.renew("v", LEASE)).unseen, ("e",))
    reply = await b.commit(header, inbox_seq=0, records=(), status=RunStatus.COMPLETED, wake_at=None, release=True)
    equal(reply, Committed(b.now, (Posting(1, "unwind", "go", "null", None, b.now),)))
    await b.storage.unregister("v")
    equal(await b.claimed("w"), ["e"])


@CHECKS
async def an_unwind_to_a_run_that_goes_on_is_a_posting(b: Bench) -> None:
    """Contract 7, 16: as any other."""
    await b.parked("parked")
    await b.parked("blocked", status=RunStatus.BLOCKED, blocked="why")
    await b.commit(await b.held("r"), posts=(sent("parked", "unwind"), sent("blocked", "unwind")))
    shows(await b.header("parked"), inbox_seq=1, wake_at=b.now)
    shows(await b.header("blocked"), inbox_seq=1, wake_at=None)


# --- whole, or not at all


@CHECKS
async def a_refused_commit_makes_nothing_and_posts_nothing(b: Bench) -> None:
    """Contract 3, 16, I7: for newer postings, and for a lease that is lost; with records and without."""
    header = await b.held("r")
    await b.parked("s")
    await b.post("r")
    before = [await b.load("r"), await b.load("s")]
    more: dict[str, Any] = {"children": (new_run("c", b.now),), "posts": (sent("s"),), "fresh": True}
    for also in ({}, {"records": ()}, {"release": True}):
        equal(await b.commit(header, **more, **also), Committed(b.now, (posting(1, b.now),)))
        for wrong in ({"owner": "v"}, {"epoch": 2}, {"position": 2}, {"inbox_seq": 2}):
            await refused(LeaseLost, b.commit(header, **{**more, **also, **wrong}))
    equal([await b.load("r"), await b.load("s"), await b.storage.load("c")], [*before, None])


@CHECKS
async def the_same_commit_again_spreads_nothing_more(b: Bench) -> None:
    """Contract 4, 16, I45: nor are children made anew that were forgotten meanwhile."""
    header = await b.held("r")
    await b.parked("s")
    same = commit_of(header, b.now, children=(new_run("c", b.now),), posts=(sent("s"),), fresh=True)
    await b.storage.commit(same)
    await b.storage.take("c", "w")
    await b.commit(await b.header("c"), status=RunStatus.COMPLETED, wake_at=None)
    await b.storage.delete("c")
    before = [await b.load("r"), await b.load("s")]
    equal(await b.storage.commit(same), Committed(b.now))
    await b.commit(before[0].header, release=True)
    equal(await b.storage.commit(same), Committed(b.now))
    equal([await b.load("s"), await b.storage.load("c")], [before[1], None])
    shows(await b.header("r"), position=3, inbox_seq=0)


@CHECKS
async def a_commit_without_records_spreads_too(b: Bench) -> None:
    """Contract 5, 16."""
    await b.parked("s")
    await b.commit(await b.held("r"), records=(), children=(new_run("c", b.now),), posts=(sent("s"),))
    shows(await b.header("r"), position=1)
    shows(await b.header("s"), inbox_seq=1)
    shows(await b.header("c"), position=1)


@CHECKS
async def a_step_that_only_spreads_leaves_its_run_as_it_stands(b: Bench) -> None:
    """Contract 3, 16: status, version, wake-up and lease are what the commit says, as without children and posts."""
    header = await b.held("r", status=RunStatus.RUNNING, wake_at=b.now + 5)
    await b.parked("s")
    await b.commit(header, wake_at=b.now + 5, posts=(sent("s"),), children=(new_run("c", b.now),))
    equal(await b.header("r"), replace(header, position=2, updated_at=b.now))


@CHECKS
async def a_cancelled_commit_spreads_all_or_nothing(b: Bench) -> None:
    """Contract 15, 16: the row, the child and the posting are there together; the same commit settles it."""
    await b.worker("w")
    for number in range(20):
        header = (await b.create(f"r{number}", owner="w")).header
        await b.parked(f"s{number}")
        commit = commit_of(header, b.now, children=(new_run(f"c{number}", b.now),), posts=(sent(f"s{number}"),))
        task = asyncio.ensure_future(b.storage.commit(commit))
        await turns(number % 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(2):
            found = {header.run_id: header for header in await b.storage.find(Query(limit=100))}
            seen = (found[f"r{number}"].position, f"c{number}" in found, found[f"s{number}"].inbox_seq)
            true(seen in ((1, False, 0), (2, True, 1)), f"a commit was cut in two: {seen}")
            equal(await b.storage.commit(commit), Committed(b.now))
        shows(await b.header(f"s{number}"), inbox_seq=1)


@CHECKS
async def commits_that_post_to_one_run_are_all_heard(b: Bench) -> None:
    """Contract 1, 16, I22: twenty at one moment, each with two, and no number twice; a child that all of them make is made once."""
    await b.create("s")
    await b.worker("w")
    headers = [(await b.create(f"r{number}", owner="w")).header for number in range(20)]
    child = new_run("c", b.now)
    await asyncio.gather(*(b.commit(header, posts=(sent("s"), sent("s")), children=(child,)) for header in headers))
    equal([one.seq for one in (await b.load("s")).postings], list(range(1, 41)))
    equal(len((await b.load("c")).rows), 1)


@CHECKS
async def two_runs_may_post_to_each_other(b: Bench) -> None:
    """Contract 1, 16: at one moment; whoever is second learns of it, and nobody waits for ever."""
    await b.worker("w")
    for number in range(10):
        one, two = [(await b.create(f"{name}{number}", owner="w")).header for name in ("a", "b")]
        commits = (b.commit(one, posts=(sent(two.run_id),)), b.commit(two, posts=(sent(one.run_id),)))
        replies = await patiently(asyncio.gather(*commits))
        equal(sorted(len(reply.postings) for reply in replies), [0, 1])


@CHECKS
async def changed_tells_of_children_and_posts(b: Bench) -> None:
    """Contract 16, I15: somebody may wait for them."""
    header = await b.held("r")
    await b.held("s", "v")
    more: tuple[dict[str, Any], ...] = ({"children": (new_run("c", b.now),)}, {"posts": (sent("s"),)})
    for position, fields in enumerate(more, start=1):
        count = await patiently(b.storage.changed(-1, 3600))
        waiting = asyncio.ensure_future(b.storage.changed(count, 3600))
        await turns()
        await b.commit(replace(header, position=position), **fields)
        true(await patiently(waiting) != count, f"{fields} is a change")

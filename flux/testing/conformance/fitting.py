"""Checks of D28: no run is claimed by code that it does not fit, and a run moves to the version that a commit names."""

from __future__ import annotations

from typing import Any

from ...core.status import RunStatus
from ...errors import LeaseLost
from ...storage import Code, Query
from .kit import FLOW, LEASE, MINUTE, SECOND, Bench, Checks, commit_of, equal, posting, refused, shows, true

CHECKS = Checks()

FLOW_S, FLOW_T, FLOW_U = FLOW, ("flow", "1", "t"), ("flow", "1", "u")
NEXT: Code = ("flow", "2", "t")  # the code that runs move to


async def _misfit(b: Bench, run_id: str, *misfits: str, create: dict[str, Any] | None = None, **fields: Any) -> None:
    """A run that is blocked, that nobody holds, and that code which it fits could claim at once."""
    parker = await b.worker(f"parker-of-{run_id}")
    header = (await b.create(run_id, owner=parker, **(create or {}))).header
    stand: dict[str, Any] = {"status": RunStatus.BLOCKED, "blocked": "why", "wake_at": 0, "release": True}
    await b.commit(header, misfits=misfits, **{**stand, **fields})


# --- misfits


@CHECKS
async def misfits_are_those_of_the_last_commit(b: Bench) -> None:
    """Contract 3, D28: each commit replaces them, with records or without; they come back in order, each once."""
    header = await b.held("r")
    shows(header, misfits=())
    for given, kept in ((("t", "s", "t"), ("s", "t")), (("u",), ("u",)), ((), ())):
        await b.commit(header, records=(), misfits=given)
        shows(await b.header("r"), misfits=kept, position=1)
    await b.commit(header, misfits=("s",))
    header = await b.header("r")
    shows(header, misfits=("s",), position=2, status=RunStatus.RUNNING)
    equal(await b.storage.find(Query()), [header])
    await b.commit(header)
    shows(await b.header("r"), misfits=(), position=3)


@CHECKS
async def a_run_is_not_claimed_by_code_that_it_does_not_fit(b: Bench) -> None:
    """Contract 9, D28: by no worker with one of its misfits; by any other, with its misfits in the header."""
    await _misfit(b, "one", "s")
    await _misfit(b, "both", "s", "t")
    await b.worker("w")
    claimed = await b.claim("w")
    equal((claimed.runs, claimed.next_at), ([], None))
    equal(await b.claimed("w", codes=[FLOW_T]), ["one"])
    shows(await b.header("one"), owner="w", epoch=2, misfits=("s",), status=RunStatus.BLOCKED, blocked="why")
    equal(await b.claimed("w", codes=[FLOW_T]), [])
    claimed = await b.claim("w", codes=[FLOW_U])
    equal((claimed.runs, claimed.next_at), ([await b.load("both")], None))


@CHECKS
async def shapes_are_compared_whole(b: Bench) -> None:
    """Contract 9, D28: neither a part of a shape nor its other case is that shape."""
    await _misfit(b, "r", "abc", "de")
    await b.worker("w")
    for shape in ("abc", "de"):
        equal(await b.claimed("w", codes=[("flow", "1", shape)]), [])
    for shape in ("a", "bc", "c,d", "abc,de", "d", "ABC", "%", ""):
        equal(await b.claimed("w", codes=[("flow", "1", shape)]), ["r"], f"claimed with shape {shape!r}")
        await b.commit(await b.header("r"), records=(), misfits=("abc", "de"), release=True)


@CHECKS
async def code_that_was_mended_claims_again(b: Bench) -> None:
    """Contract 3, 9, D28: what the last commit says counts, also where the run is due at the same instant as before."""
    at = b.now - 1
    await _misfit(b, "r", "s", wake_at=at)
    await b.worker("w")
    for misfits, not_by, by in ((("t",), FLOW_T, FLOW_S), (("s",), FLOW_S, FLOW_T), (("s", "t"), FLOW_S, FLOW_U), ((), None, FLOW_S)):
        await b.storage.take("r", "w", blocked=True)
        await b.commit(await b.header("r"), records=(), misfits=misfits, wake_at=at, release=True)
        if not_by is not None:
            equal(await b.claimed("w", codes=[not_by]), [], f"claimed as {not_by} in spite of {misfits}")
        equal(await b.claimed("w", codes=[by]), ["r"], f"claimed as {by}, with misfits {misfits}")


@CHECKS
async def one_shape_that_fits_is_enough(b: Bench) -> None:
    """Contract 8, 9: a worker with two shapes of a version claims what fits either, once; what fits neither, not."""
    await _misfit(b, "neither", "s", "t")
    await _misfit(b, "one", "s")
    await _misfit(b, "other", "t")
    await b.create("all")
    await b.worker("w")
    claimed = await b.claim("w", codes=[FLOW_S, FLOW_T, FLOW_S])
    equal([(run.header.run_id, run.header.epoch) for run in claimed.runs], [("all", 1), ("one", 2), ("other", 2)])
    equal(claimed.next_at, None)


@CHECKS
async def misfits_belong_to_no_other_version(b: Bench) -> None:
    """Contract 9: shape and version are asked for together, code by code."""
    await _misfit(b, "first", "s")
    await _misfit(b, "second", "t", create={"version": "2"})
    await b.worker("w")
    equal(await b.claimed("w", codes=[FLOW_S, NEXT]), [])
    equal(await b.claimed("w", codes=[FLOW_T]), ["first"])
    equal(await b.claimed("w", codes=[("flow", "2", "s")]), ["second"])


@CHECKS
async def misfits_change_nothing_about_order(b: Bench) -> None:
    """Contract 9, D29: of what fits, the more urgent goes first, whatever else each does not fit."""
    for number, (misfits, priority) in enumerate(
        ((("t",), 0), ((), 0), (("u",), 5), (("s",), 9), (("t", "u"), 0), ((), 5), (("a",), 0), ((), -3), (("z",), 5))
    ):
        await _misfit(b, f"r{number}", *misfits, create={"priority": priority})
        await b.clock.advance(1)
    await b.worker("w")
    first = await b.claimed("w", limit=4)
    equal((first, await b.claimed("w")), (["r2", "r5", "r8", "r0"], ["r1", "r4", "r6", "r7"]))


@CHECKS
async def waiting_counts_for_misfits_too(b: Bench) -> None:
    """Contract 9, D29: a run that fits the claimer ages like any other."""
    await _misfit(b, "old", "t", create={"priority": 1})
    await b.clock.advance(121)
    await b.create("new", priority=3)
    await b.worker("w")
    equal(await b.claimed("w"), ["old", "new"])


@CHECKS
async def next_at_passes_over_what_does_not_fit(b: Bench) -> None:
    """Contract 9, D28: nothing is announced that the worker could not claim."""
    now = b.now
    await _misfit(b, "a", "s", wake_at=now + 5 * SECOND)
    await _misfit(b, "b", "t", wake_at=now + 10 * SECOND)
    await b.create("c", delay=20 * SECOND)
    await b.worker("w")
    for codes, next_at in (([FLOW_S], 10), ([FLOW_T], 5), ([FLOW_S, FLOW_T], 5)):
        claimed = await b.claim("w", codes=codes)
        equal((claimed.runs, claimed.next_at), ([], now + next_at * SECOND))


@CHECKS
async def claims_go_by_the_due_time_never_by_status(b: Bench) -> None:
    """Contract 9, D28: a blocked run that is due can be claimed, a running one with misfits only by what it fits."""
    await _misfit(b, "due")
    await _misfit(b, "later", "t", wake_at=b.now + SECOND)
    await _misfit(b, "never", "t", wake_at=None)
    await _misfit(b, "running", "s", status=RunStatus.RUNNING, blocked="")
    await b.worker("w")
    equal(await b.claimed("w"), ["due"])
    await b.clock.advance(1)
    equal(await b.claimed("w"), ["later"])
    equal(await b.claimed("w", codes=[FLOW_T]), ["running"])
    shows(await b.header("never"), owner=None, epoch=1, wake_at=None)


@CHECKS
async def a_posting_makes_no_blocked_run_due(b: Bench) -> None:
    """Contract 7: its due time stays what it is, for code that fits too; a run that is not blocked is due, and still no misfit's."""
    later = b.now + 10 * SECOND
    await _misfit(b, "r", "s", wake_at=later)
    await _misfit(b, "s", "s", status=RunStatus.SUSPENDED, blocked="", wake_at=None)
    await b.worker("w")
    for run_id, wake_at in (("r", later), ("s", b.now)):
        posted = await b.post(run_id, taker="w" if run_id == "r" else None)
        shows(posted.header, wake_at=wake_at, inbox_seq=1, owner=None, misfits=("s",))
        equal(posted.run, None)
    equal(await b.claimed("w"), [])
    claimed = await b.claim("w", codes=[FLOW_T])
    equal([(run.header.run_id, run.postings) for run in claimed.runs], [("s", [posting(1, b.now)])])
    equal(claimed.next_at, later)


@CHECKS
async def a_dead_worker_leaves_a_blocked_run_as_it_was(b: Bench) -> None:
    """Contract 10, D28: freed, with its misfits and its due time."""
    later = b.now + LEASE + 10 * SECOND
    await b.worker("w")
    for run_id, wake_at in (("due", b.now), ("later", later), ("never", None)):
        header = (await b.create(run_id, owner="w")).header
        await b.commit(header, status=RunStatus.BLOCKED, blocked="why", misfits=("s",), wake_at=wake_at)
    await b.clock.advance(LEASE / SECOND)
    await b.worker("v")
    equal(await b.claimed("v"), [])
    claimed = await b.claim("v", codes=[FLOW_T])
    equal(([run.header.run_id for run in claimed.runs], claimed.next_at), (["due"], later))
    for run_id, wake_at in (("later", later), ("never", None)):
        shows(await b.header(run_id), owner=None, wake_at=wake_at, epoch=1, misfits=("s",), blocked="why")


@CHECKS
async def who_asks_for_a_run_by_name_gets_it_whatever_it_fits(b: Bench) -> None:
    """`take`, and `post` with a taker: they name no code, and misfits are for claims."""
    await _misfit(b, "r", "s")
    await _misfit(b, "s", "s", status=RunStatus.SUSPENDED, blocked="", wake_at=None)
    await b.worker("w")
    equal(await b.storage.take("r", "w", blocked=True), await b.load("r"))
    equal((await b.post("s", taker="w")).run, await b.load("s"))
    for run_id in ("r", "s"):
        shows(await b.header(run_id), owner="w", epoch=2, misfits=("s",))


@CHECKS
async def many_misfits_hide_no_run_that_fits(b: Bench) -> None:
    """Contract 9, D28: hundreds that the worker cannot run, more urgent than the one it can."""
    for number in range(200):
        await _misfit(b, f"misfit-{number}", "s", create={"priority": number % 3})
    await b.create("fits", priority=-100)
    await b.create("later", priority=1, delay=MINUTE)
    await b.worker("w")
    claimed = await b.claim("w", limit=1)
    equal(([run.header.run_id for run in claimed.runs], claimed.next_at), (["fits"], b.now + MINUTE))
    true(len(await b.claimed("w", limit=150, codes=[FLOW_T])) == 150, "who fits gets them")


# --- moving to another version


@CHECKS
async def a_commit_moves_the_run_to_another_version(b: Bench) -> None:
    """Contract 3: version and shape of the header, and nothing else; without a version the shape is not looked at."""
    header = await b.held("r", idempotency_key="k")
    await b.commit(header, shape="t")
    shows(await b.header("r"), version="1", shape="s", position=2)
    header = await b.header("r")
    await b.commit(header, version="2", shape="t", wake_at=header.wake_at)
    moved = await b.header("r")
    shows(moved, workflow="flow", version="2", shape="t", position=3, owner="w", epoch=1, status=RunStatus.RUNNING)
    equal((await b.create("other", idempotency_key="k")).header, moved)
    await b.commit(moved)
    shows(await b.header("r"), version="2", shape="t", position=4)
    await b.commit(await b.header("r"), records=(), version="3", shape="")
    shows(await b.header("r"), version="3", shape="", position=4)


@CHECKS
async def a_moved_run_is_claimed_as_what_it_is_now(b: Bench) -> None:
    """Contract 3, 9: under the new version alone, also where it is due at the same instant as before."""
    await b.create("r")
    await b.worker("w")
    for code, former in ((NEXT, FLOW_S), (FLOW_S, NEXT), (NEXT, FLOW_S)):
        await b.storage.take("r", "w")
        header = await b.header("r")
        await b.commit(header, version=code[1], shape=code[2], wake_at=header.wake_at, release=True)
        claimed = await b.claim("w", codes=[former])
        equal((claimed.runs, claimed.next_at), ([], None))
        claimed = await b.claim("w", codes=[code])
        equal(claimed.runs, [await b.load("r")])
        shows(claimed.runs[0].header, version=code[1], shape=code[2], epoch=header.epoch + 1)
        await b.commit(claimed.runs[0].header, wake_at=header.wake_at, release=True)


@CHECKS
async def a_moved_run_that_waits_is_woken_where_it_is_now(b: Bench) -> None:
    """Contract 3, 7, 10: by a posting, and by the death of its holder."""
    await b.parked("r", version="2", shape="t")
    header = await b.held("s")
    await b.commit(header, version="2", shape="t", status=RunStatus.SUSPENDED, wake_at=None)
    await b.post("r")
    await b.clock.advance(LEASE / SECOND)
    await b.worker("v")
    equal(await b.claimed("v"), [])
    equal(await b.claimed("v", codes=[NEXT]), ["r", "s"])


@CHECKS
async def lists_show_a_moved_run_under_its_version(b: Bench) -> None:
    """Contract 3: `find` goes by the header, of runs that go on and of those that ended in the new version."""
    await b.parked("r", version="2", shape="t")
    await b.ended("s", version="2", shape="t")
    await b.create("t")
    for version, expected in (("1", ["t"]), ("2", ["r", "s"])):
        for query in (Query(version=version), Query("flow", version=version), Query(statuses=list(RunStatus), version=version)):
            equal(sorted(header.run_id for header in await b.storage.find(query)), expected, f"runs of version {version}")


@CHECKS
async def a_move_that_was_written_is_not_made_again(b: Bench) -> None:
    """Contract 4: the same commit again succeeds and changes nothing, also after the run moved on from there."""
    header = await b.held("r")
    same = commit_of(header, b.now, version="2", shape="t", misfits=("s",))
    await b.storage.commit(same)
    before = await b.load("r")
    await b.storage.commit(same)
    await b.unchanged("r", before)
    await b.commit(before.header, version="3", shape="u", release=True)
    before = await b.load("r")
    shows(before.header, version="3", shape="u", misfits=())
    await b.storage.commit(same)
    await refused(LeaseLost, b.commit(header, version="2", shape="t", records=()))
    await b.unchanged("r", before)

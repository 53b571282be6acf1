"""Checks of what is stored: every record and every text comes back as it was (S15.6, I43, I44)."""

from __future__ import annotations

import json
from dataclasses import replace

from ...core.commands import Posting
from ...core.failure import Failure
from ...core.records import (
    RECORDS,
    ArmEnded,
    ArmsJoined,
    ArmsStopped,
    AttemptCut,
    AttemptFailed,
    AttemptIsolated,
    AttemptLost,
    AttemptPostponed,
    AttemptReleased,
    BranchEnded,
    CancelRefused,
    CancelRequested,
    ChildEnded,
    ChildStarted,
    ChildTold,
    ItemsListed,
    ParallelStarted,
    Record,
    Reopened,
    RouteTaken,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunForked,
    RunMigrated,
    RunUnblocked,
    SignalReceived,
    SleepEnded,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepInherited,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSuspended,
    TurnStarted,
    UndoDemanded,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from ...storage import NewPosting
from .kit import Bench, Checks, equal, new_run, true

CHECKS = Checks()

ODD = "NUL \0, lone surrogates \ud800 \udfff, é 𝄞 \u2028, quotes ' \" ` \\ and \n \r \t \x7f \x1b"
TEXTS = (
    json.dumps(ODD), json.dumps("é 𝄞 \u2028 ÿ \ufeff", ensure_ascii=False), "null", '""', "", " ", json.dumps(10**400),
    json.dumps(-(2**63) - 1), json.dumps(["x"] * 1000), '{"~":"tag"}', "'; DROP TABLE runs; --", "x" * 200_000,
)  # fmt: skip
_WRONG = Failure("m:Error", ODD, "[1]", None, ODD, Failure("m:Cause", "why"), (Failure("m:A", "a"), Failure("m:B", "b", "[2]", '{"c":3}')))
SAMPLES: tuple[Record, ...] = (
    RunCreated("flow", "1", "s", '{"a":1}', {"k": '"v"', "gone": None, "é": "1"}, 5), RunCreated("flow", "", "", "1", {}),
    StepStarted("a[3]/b", 2), StepCompleted("a", 1, '"r"'), StepCompleted("a", 1, "", {}),
    StepCompleted("a", 1, "1", {"k": None, "l": "2"}),
    StepSuspended("a", 1, "go", 9, '"d"', {"k": "1"}), StepSuspended("a", 1, "go"),
    AttemptFailed("a", 3, _WRONG, 2**53 + 1, True), AttemptLost("a", 1, None), AttemptLost("a", 1, 7),
    AttemptCut("a", 1, "shutdown", None), AttemptReleased("a", 1), StepFailed("a!undo", 0, _WRONG, True), StepSkipped("a"),
    WaitStarted("w", "go"), WaitStarted("w", "go", 9), SignalReceived("w", 2, '{"x":1}'), WaitExpired("w", None), WaitExpired("w", "1"),
    BranchEnded("p"), SleepStarted("z", 10**16), SleepEnded("z"), CancelRequested(1, ODD, True, False),
    UnwindStarted("deadline", Failure("m:E", "", "[]", "{}"), False), RunCompleted(), RunFailed(), RunCancelled(),
    RunBlocked("DefinitionChanged", ODD, "a"), RunBlocked("DefinitionChanged", "", "", "s"), RunUnblocked(), CancelRefused(7),
    AttemptIsolated("a", 2), AttemptPostponed("a", 10**16), StepProbed("a", 1, '"r"'), StepProbed("a", 1, None),
    StepResolved("a", "done", "1", ODD, ODD), StepResolved("a", "skip", None, "", ""),
    Reopened(2, "retry", "", ODD, ODD, 5), Reopened(3, "replay", "a", "", ""), RunForked("r~1", "a", ODD, ODD),
    StepInherited("a", False, 2, "go", '"r"', {"k": "1", "l": None}, 1, 2),
    StepInherited("a", True, 0, None, None, None, None, None), RunMigrated("2", "t"),
    ParallelStarted("p"), RouteTaken("p", "yes"), TurnStarted("p", 3), ItemsListed("p", ("1", '"\\u0000é"', "")), ItemsListed("p", ()),
    ArmEnded("p/a"), ArmsStopped("p"), ArmsJoined("p", {"k": "1", "l": None}), ArmsJoined("p", None),
    RunCreated("flow", "1", "s", "1", {}, None, "r~1"), ChildStarted("a[3]/c", "r~2"), ChildTold("c", "cancel", True),
    ChildTold("c", "stop"), ChildTold("c!undo", "unwind"), ChildEnded("c", 4, "completed", '"r"', None),
    ChildEnded("c", 5, "failed", None, _WRONG, False), ChildEnded("c!undo", 6, "cancelled", None, None), UndoDemanded(7),
    Reopened(4, "unwind", "", "r~1", ""),
)  # fmt: skip


@CHECKS
async def every_record_comes_back_as_it_was(b: Bench) -> None:
    """I1, D20: each kind of record, with and without what is optional, alone and all in one row."""
    true({type(record) for record in SAMPLES} == set(RECORDS), "a kind of record has no sample here")
    await b.worker("w")
    header = (await b.create("r", owner="w", records=SAMPLES)).header
    for position, record in enumerate(SAMPLES, start=1):
        await b.commit(replace(header, position=position), records=(record,))
    rows = (await b.load("r")).rows
    equal([row.records for row in rows], [SAMPLES, *((record,) for record in SAMPLES)])
    equal(await b.storage.read_journal("r"), rows)


@CHECKS
async def every_encoded_text_survives(b: Bench) -> None:
    """S15.6, I44: whatever characters are in the value, as result, change, input, default and payload."""
    await b.worker("w")
    for number, text in enumerate(TEXTS):
        run_id = f"r{number}"
        first = RunCreated("flow", "1", "s", text, {"k": text})
        rest = (StepCompleted("a", 1, text, {"k": text, "l": None}), StepSuspended("b", 1, "go", None, text), SignalReceived("c", 1, text))
        header = (await b.create(run_id, owner="w", records=(first,))).header
        await b.storage.post(run_id, NewPosting("signal", "go", text))
        equal((await b.commit(header)).postings, (Posting(1, "signal", "go", text, None, b.now),))
        await b.commit(header, inbox_seq=1, records=rest)
        run = await b.load(run_id)
        equal(([row.records for row in run.rows], run.postings), ([(first,), rest], [Posting(1, "signal", "go", text, None, b.now)]))


@CHECKS
async def many_texts_in_one_row_do_not_run_together(b: Bench) -> None:
    """D20: lengths are counted in characters, not in bytes."""
    records = tuple(StepCompleted(f"s{number}", 1, text) for number, text in enumerate(("é", "", "𝄞𝄞", "a", "ÿ\u2028", "", "z") * 50))
    await b.storage.create(new_run("r", b.now, records=records))
    equal((await b.load("r")).rows[0].records, records)


@CHECKS
async def large_values_and_long_journals_survive(b: Bench) -> None:
    """S15.7: values of the size limit, several in a row, a row of many records, a journal of many rows."""
    header = await b.held("r")
    large = tuple(StepCompleted(f"s{number}", 1, chr(97 + number) * 2**20) for number in range(3))
    wide = tuple(StepStarted(f"items[{number}]/step", 1) for number in range(5000))
    await b.commit(header, records=large)
    await b.commit(replace(header, position=2), records=wide)
    for position in range(3, 303):
        await b.commit(replace(header, position=position), records=(StepStarted("a", position),))
    rows = (await b.load("r")).rows
    equal(([row.position for row in rows], rows[1].records == large, rows[2].records == wide), (list(range(1, 304)), True, True))
    equal([row.records for row in rows[3:]], [(StepStarted("a", position),) for position in range(3, 303)])


@CHECKS
async def header_texts_survive(b: Bench) -> None:
    """Contract 20, S15.6: names, reasons and digests with any character that UTF-8 can carry, but NUL."""
    odd = ODD.replace("\0", "").replace("\ud800", "").replace("\udfff", "")
    header = await b.held("r", shape=odd, input_digest=odd, waiting=("a", odd))
    equal((header.shape, header.input_digest, header.waiting), (odd, odd, ("a", odd)))
    await b.commit(header, waiting=(odd, "", "a,b", '"'), blocked=odd * 500)
    after = await b.header("r")
    equal((after.waiting, after.blocked), ((odd, "", "a,b", '"'), odd * 500))


@CHECKS
async def instants_keep_every_microsecond(b: Bench) -> None:
    """I13, I19: far ones too: no rounding by a float on the way."""
    header = await b.held("r")
    for position, instant in enumerate((2**53 + 1, 253402300799_999999, 1), start=1):
        await b.commit(replace(header, position=position), at=instant, wake_at=instant)
        after = await b.header("r")
        equal((after.updated_at, after.wake_at, (await b.load("r")).rows[-1].at), (instant, instant, instant))

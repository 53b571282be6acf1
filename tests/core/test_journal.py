"""Records as rows, for ever (D20)."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux import journal
from flux.core.evolve import fold
from flux.core.failure import Failure
from flux.core.records import RECORDS, Record, RunCompleted, RunCreated, StepCompleted, StepSkipped, StepStarted
from flux.errors import DefinitionChanged, UnreadableRun
from flux.journal import FORMAT, decode_row, encode_row

from .stories import FIRST, GOLDEN, RELEASE, STORIES, TOLD, plan_of, summary
from .world import World, freeze

NAMES = sorted(f"{path.parent.name}/{path.stem}" for path in GOLDEN.glob("*/*.json"))  # release/story
NOW = sorted(name for name in NAMES if name.startswith(f"{RELEASE}/"))

texts = st.text(max_size=12) | st.sampled_from(['{"a":[1,2]}', "\x00", "\U0001f600", '"', "\\", "\n"])
numbers = st.integers(-(2**63), 2**63 - 1)
changes = st.dictionaries(texts, st.none() | texts, max_size=4)
failures = st.recursive(
    st.builds(Failure, texts, texts, st.none() | texts, st.none() | texts, texts),
    lambda inner: st.builds(
        Failure, texts, texts, st.none() | texts, st.none() | texts, texts, st.none() | inner, st.lists(inner, max_size=2).map(tuple)
    ),
    max_leaves=4,
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "str": texts,
    "str | None": st.none() | texts,
    "int": numbers,
    "int | None": st.none() | numbers,
    "bool": st.booleans(),
    "tuple[str, ...]": st.lists(texts).map(tuple),
    "int | str | None": st.none() | numbers | texts,
    "dict[str, str] | None": st.none() | st.dictionaries(texts, texts, max_size=3),
    "Failure": failures,
    "Failure | None": st.none() | failures,
    "Changes": changes,
    "Changes | None": st.none() | changes,
    "Again": st.sampled_from(["retry", "replay", "unwind"]),
    "Told": st.sampled_from(["cancel", "stop", "unwind"]),
    "Literal['completed', 'failed', 'cancelled']": st.sampled_from(["completed", "failed", "cancelled"]),
    "Way": st.sampled_from(["retry", "skip", "done"]),
    "UnwindCause": st.sampled_from(["failed", "cancelled", "deadline"]),
    "CutCause": st.sampled_from(["cancelled", "deadline", "shutdown"]),
}


def of(kind: type[Record]) -> st.SearchStrategy[Record]:
    """Any record of this kind."""
    return st.builds(kind, *[BY_TYPE[str(field.type)] for field in fields(kind)])  # type: ignore[arg-type]


records = st.one_of([of(kind) for kind in RECORDS])
rows = st.lists(records, max_size=6)
junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 99) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(rows)
def test_rows_round_trip(row: list[Record]) -> None:
    """D20, I1: what was written is what is read."""
    control, payload = encode_row(row)
    assert decode_row(control, payload) == tuple(row)
    assert control.isascii()


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_record_has_a_tag_of_its_own(kind: type[Record]) -> None:
    """D20: the vocabulary is complete, and its tags are those that were released."""
    assert set(journal._TAGS.values()) == set(RECORDS) == set(Record.__subclasses__())
    assert [tag for tag, one in journal._TAGS.items() if one is kind] == [TAGS[kind.__name__]]


TAGS = {
    "RunCreated": "new", "StepStarted": "go", "StepCompleted": "ok", "StepSuspended": "park", "AttemptFailed": "err",
    "AttemptLost": "lost", "AttemptCut": "cut", "AttemptReleased": "free", "StepFailed": "fail", "StepSkipped": "skip",
    "WaitStarted": "wait", "SignalReceived": "sig", "WaitExpired": "late", "BranchEnded": "join", "SleepStarted": "nap",
    "SleepEnded": "up", "CancelRequested": "stop", "UnwindStarted": "down", "RunCompleted": "done", "RunFailed": "dead",
    "RunCancelled": "gone", "RunBlocked": "hold", "RunUnblocked": "move", "CancelRefused": "deny", "AttemptIsolated": "alone",
    "AttemptPostponed": "later", "StepProbed": "probe", "StepResolved": "fix", "Reopened": "again", "RunForked": "fork",
    "StepInherited": "had", "RunMigrated": "port", "ParallelStarted": "split", "RouteTaken": "route", "TurnStarted": "turn",
    "ItemsListed": "items", "ArmEnded": "arm", "ArmsStopped": "halt", "ArmsJoined": "merge", "ChildStarted": "child", "ChildTold": "tell",
    "ChildEnded": "home", "UndoDemanded": "undo",
}  # fmt: skip


@given(rows, st.lists(junk, min_size=1, max_size=3))
def test_unknown_trailing_fields_are_ignored(row: list[Record], more: list[Any]) -> None:
    """D20: a newer writer may add fields."""
    control, payload = encode_row(row)
    wider = json.dumps([[*entry, *more] if _is_full(entry) else entry for entry in json.loads(control)])
    assert decode_row(wider, payload) == tuple(row)


def _is_full(entry: list[Any]) -> bool:
    """Whether the entry has all the fields that this flux knows."""
    return len(entry) - 1 == len(fields(journal._TAGS[entry[0]]))  # type: ignore[arg-type]


@given(records)
def test_fields_that_an_older_writer_did_not_have_take_their_defaults(record: Record) -> None:
    """D20: a newer reader may know more fields."""
    known = fields(record)  # type: ignore[arg-type]
    required = [field for field in known if field.default is MISSING]
    bare = type(record)(*[getattr(record, field.name) for field in required])
    control, payload = encode_row([bare])
    entry = json.loads(control)[0]
    assert decode_row(json.dumps([entry[: len(required) + 1]]), payload) == (bare,)
    if required:
        with pytest.raises(UnreadableRun):
            decode_row(json.dumps([entry[: len(required)]]), payload)


def test_a_step_costs_few_bytes() -> None:
    """S3.3: what a row holds depends on its step alone."""
    control, payload = encode_row([StepCompleted("pay", 1, '{"id":7}'), StepStarted("ship", 1)])
    assert (control, payload) == ('[["ok","pay",1,8,null],["go","ship",1]]', '{"id":7}')


@pytest.mark.parametrize(
    ("control", "payload"),
    [
        ("", ""),
        ("[", ""),
        ("null", ""),
        ("5", ""),
        ("{}", ""),
        ('""', ""),
        ('"go"', ""),
        ('{"go":1}', ""),
        ("[5]", ""),
        ("[[]]", ""),
        ("[{}]", ""),
        ('["go"]', ""),
        ('[["nope","a",1]]', ""),
        ('[[["go"],"a",1]]', ""),
        ('[["go","a"]]', ""),
        ('[["ok","a",1,5,null]]', "1234"),
        ('[["ok","a",1,3,null]]', "1234"),
        ('[["ok","a",1,-1,null]]', "1234"),
        ('[["ok","a",1,4.0,null]]', "1234"),
        ('[["ok","a",1,"4",null]]', "1234"),
        ('[["ok","a",1,4,[1]]]', "1234"),
        ('[["go","a",1]]', "left over"),
        ('[["fail","a",1,["only a type"],false]]', ""),
        ('[["fail","a",1,"abcdefg",false]]', ""),
        ("[" * 100_000, ""),
    ],
    ids=range(25),
)
def test_malformed_rows_are_unreadable(control: str, payload: str) -> None:
    """S15.2: they are reported, never half read."""
    with pytest.raises(UnreadableRun):
        decode_row(control, payload)


def test_a_newer_format_is_refused() -> None:
    """D20, S15.4."""
    control, payload = encode_row([StepStarted("a", 1)])
    with pytest.raises(UnreadableRun, match="upgrade"):
        decode_row(control, payload, FORMAT + 1)


@given(junk | st.lists(st.tuples(st.sampled_from(sorted(journal._TAGS)), junk, junk, junk, junk, junk, junk)), st.text(max_size=9))
def test_whatever_is_stored_is_read_or_unreadable(control: Any, payload: str) -> None:
    """S15.2: no stored text raises anything else, neither when it is read nor when it is folded."""
    plan = STORIES["crashes"].plan
    first = (0, decode_row(*encode_row(World(STORIES["crashes"]).store.journal()[0][1])))
    with suppress(UnreadableRun, DefinitionChanged):
        fold(plan, [first, (1, decode_row(json.dumps(control), payload))])


@pytest.mark.parametrize("name", sorted(STORIES))
def test_a_journal_with_a_missing_row_is_not_taken_for_a_whole_one(name: str) -> None:
    """S15.2, S13.2: it folds to something that says so, and never raises anything but that."""
    case = STORIES[name]
    rows = World(case).run().store.journal()
    for gone in range(len(rows) - 1):
        with suppress(UnreadableRun, DefinitionChanged):
            fold(case.plan, rows[:gone] + rows[gone + 1 :])


def test_each_story_has_a_golden_journal() -> None:
    """D20: see `stories.py` on how one is made."""
    assert [f"{RELEASE}/{name}" for name in sorted([*STORIES, *TOLD])] == NOW
    assert [name for name in NAMES if name.startswith("0.1.0/")] == [f"0.1.0/{name}" for name in sorted(FIRST)], "kept for ever"
    kinds = {type(record) for name in NOW for _, row in _golden(name)[0] for record in row}
    assert kinds == set(RECORDS), "between them they have every record"


def _golden(name: str) -> tuple[list[tuple[int, tuple[Record, ...]]], dict[str, Any]]:
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert golden["format"] <= FORMAT
    rows = [(at, decode_row(control, payload, golden["format"])) for at, control, payload in golden["rows"]]
    return rows, golden["state"]


@pytest.mark.parametrize("name", NAMES)
def test_golden_journals_fold_for_ever(name: str) -> None:
    """D20, I49: what a release wrote is read by every later flux, to the same state."""
    rows, expected = _golden(name)
    found = json.loads(json.dumps(summary(fold(plan_of(name.partition("/")[2]), rows))))
    assert {key: found[key] for key in expected} == expected
    for _, row in rows:
        assert decode_row(*encode_row(row)) == row


@pytest.mark.parametrize("name", NOW)
def test_golden_journals_are_still_what_is_written(name: str) -> None:
    """D20: reading a row and writing it again changes nothing."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    for _, control, payload in golden["rows"]:
        assert encode_row(decode_row(control, payload)) == (control, payload)


@pytest.mark.parametrize("name", sorted(STORIES))
def test_snapshots_and_folds_of_stories_agree(name: str) -> None:
    """I8: at every row."""
    world = World(STORIES[name]).run()
    rows = world.store.journal()
    assert freeze(fold(STORIES[name].plan, rows)) == freeze(world.state)
    for store in world.snapshots:
        fold(STORIES[name].plan, store.journal())


@pytest.mark.parametrize("second", [StepStarted("b", 2), RunCompleted()], ids=["go", "done"])
@pytest.mark.parametrize(
    "first",
    [StepCompleted("a/b", 3, '{"n":1}'), RunCreated("w", "1", "s", '{"i":1}', {}), RunCreated("w", "1", "s", "1", {}, 7)],
    ids=["ok", "new", "deadline"],
)
def test_common_rows_are_written_as_all_others(first: Record, second: Record) -> None:
    """D20: in one piece or in general, the same text."""
    control, payload = encode_row((first, second))
    longer, same = encode_row((first, second, StepSkipped("x")))
    assert longer == control[:-1] + ',["skip","x"]]' and same == payload
    assert decode_row(control, payload) == (first, second)

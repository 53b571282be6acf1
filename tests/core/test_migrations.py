"""Runs of an old version under a new one (S13): whatever `check_migration` accepts goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux.core.commands import Answered, Arrived, Block, Command, Lost, Migrate, Posting, Raised, Reopen, Resolve, Returned, Tick
from flux.core.plan import Plan, base_path
from flux.core.records import (
    Record,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunMigrated,
    SignalReceived,
    StepCompleted,
    StepStarted,
    UnwindStarted,
    WaitStarted,
)
from flux.core.retry import SECOND
from flux.core.workflow import Body, Definition, Migration, Step, shape
from flux.errors import InvalidWorkflow
from flux.migrating import check_migration

from .strategies import cases
from .test_machine import BOOM, Talk, cancel, ok, signal
from .world import Answer, Case, Store, World, commit, handler, owed, step, steps_by_path, wait

MOVED = RunMigrated("2", "")


def moved_to(*steps: Step, old: Talk, rename: dict[str, str] | None = None, drop: tuple[str, ...] = ()) -> Talk:
    """The run under a version 2 of these steps; not moved yet."""
    migration = Migration(old.definition, tuple((rename or {}).items()), frozenset(drop))
    definition = replace(old.definition, version="2", body=Body(steps), migrations=(migration,))
    check_migration(definition, migration, "flow")
    return old.under(definition)


def begun(*steps: Step, **kwargs: Any) -> Talk:
    """A run whose first step has returned, and changed the data."""
    run = Talk(*steps, **kwargs)
    first = next(iter(run.state.calls))
    run.tell(Returned(first, 1, f'"{first}"', {"k": f'"{first}"'}))
    return run


def test_renamed_steps_keep_what_they_are() -> None:
    """S13, D2: outcome and key stay, whatever they are called now; a step that is done only now has its new name for a key."""
    run = moved_to(step("one"), step("two"), step("three"), old=begun(step("a"), step("b")), rename={"a": "one", "b": "two"})
    assert (list(run.state.steps), run.state.steps["one"].result) == (["one", "two"], '"a"')
    assert run.tell(Migrate(), Lost(), Tick())[0] == RunMigrated("2", "", {"a": "one", "b": "two"})
    assert run.state.version == "2"
    assert [run.state.key_of(path) for path in ("one", "two", "two!undo", "three")] == [("a", 0), ("b", 0), ("b", 0), ("three", 0)]
    assert run.tell(ok("two", 2)) == [StepCompleted("two", 2, "1"), StepStarted("three", 1)]
    assert run.tell(ok("three"))[-1] == RunCompleted()


def test_a_renamed_step_that_was_undone() -> None:
    """D2: the key's generation rises under its old path."""
    old = begun(step("a", compensate=handler), step("b"))
    old.tell(Raised("b", 1, BOOM))
    old.tell(ok("a!undo"))
    run = moved_to(step("one", compensate=handler), step("b"), old=old, rename={"a": "one"})
    records = run.tell(Migrate(), Reopen("retry", "", "ana", "why"))
    assert [type(record).__name__ for record in records] == ["RunMigrated", "Reopened", "StepStarted"]
    assert run.state.key_of("one") == ("a", 1)


def test_a_dropped_step_that_is_done() -> None:
    """S13: what it did stands: its changes, and what it owes."""
    old = begun(step("a"), step("gone", compensate=handler), step("b"))
    old.tell(Returned("gone", 1, '"gone"', {"k": '"gone"', "l": "1"}))
    run = moved_to(step("a"), step("b"), step("c"), old=old, drop=("gone",))
    assert run.tell(Migrate()) == [MOVED]
    assert run.state.data == {"k": '"gone"', "l": "1"}
    run.tell(ok("b"))
    assert run.tell(Raised("c", 1, BOOM))[-1] == StepStarted("gone!undo", 1)
    assert (run.state.result_text("gone"), run.state.key_of("gone")) == ('"gone"', ("gone", 0))
    assert run.tell(ok("gone!undo"))[-1] == RunFailed()
    assert run.tell(Reopen("retry", "b", "ana", "why"))[-1] == StepStarted("b", 1), "it is behind, and gone"
    assert run.state.data == {"k": '"gone"', "l": "1"}
    assert run.tell(Raised("b", 1, BOOM))[-1] == RunFailed(), "it was undone: not once more"


def test_a_retry_from_a_step_that_is_dropped() -> None:
    """D3, S13: what was begun again with it is done again, whatever of that is gone."""
    old = begun(step("a"), step("b", when=Answer(True)), step("c"))
    old.tell(ok("b"))
    old.tell(Raised("c", 1, BOOM))
    old.tell(Reopen("retry", "a", "ana", "why"))
    run = moved_to(step("b", when=Answer(True)), step("c"), old=old, drop=("a",))
    assert run.tell(Migrate(), Lost()) == [MOVED, StepStarted("b", 1)]
    run.tell(ok("b"))
    assert run.tell(ok("c"))[-1] == RunCompleted()


def test_a_step_that_only_a_later_version_drops() -> None:
    """S13: a run that is moved to the version between goes on with it there."""
    steps = (wait("go", timeout=SECOND, on_timeout=Body((step("x"), step("y")))), step("b"))
    run = moved_to(*steps, old=Talk(*steps))
    run.tell(Migrate())
    run.after(1).tell(Tick())
    run.tell(ok("go/on_timeout/x"))
    last = replace(run.definition, version="3", body=Body(steps[1:]), migrations=(Migration(run.plan.definition, (), frozenset({"go"})),))
    assert "go/on_timeout/y" in run.under(last).state.calls
    assert run.tell(Migrate(), Lost()) == [RunMigrated("3", ""), StepStarted("b", 1)]


def test_a_dropped_step_that_the_run_stands_at() -> None:
    """S13: it is left, whatever it was about; an attempt that ran is in doubt."""
    steps = (step("a"), step("gone", compensate=handler, retries=1), step("b"))
    run = moved_to(step("a"), step("b"), old=begun(*steps), drop=("gone",))
    assert run.tell(Migrate(), Lost()) == [MOVED, StepStarted("b", 1)]
    assert run.status("gone") == "cancelled"
    assert run.tell(Raised("b", 1, BOOM))[-1] == StepStarted("gone!undo", 1)

    waiting = begun(step("a"), step("gone", retries=1), step("b"))
    waiting.tell(Raised("gone", 1, BOOM))
    assert moved_to(step("a"), step("b"), old=waiting, drop=("gone",)).tell(Migrate()) == [MOVED, StepStarted("b", 1)]

    run = moved_to(step("a"), step("b"), old=begun(step("a"), wait("gone"), step("b")), drop=("gone",))
    assert run.tell(Migrate()) == [MOVED, StepStarted("b", 1)]
    assert (run.state.waits, run.state.parked) == ({}, {})
    assert moved_to(step("a"), old=begun(step("a"), wait("gone")), drop=("gone",)).tell(Migrate()) == [MOVED, RunCompleted()]


def test_a_dropped_wait_and_all_in_its_branch() -> None:
    """S13: the step that runs in there is left with it; or only that, and the branch goes on."""

    def timed_out() -> Talk:
        run = begun(step("a"), wait("go", timeout=SECOND, on_timeout=Body((step("x", compensate=handler), step("y")))), step("b"))
        run.after(1).tell(Tick())
        return run

    run = moved_to(step("a"), step("b"), old=timed_out(), drop=("go",))
    assert run.tell(Migrate(), Lost()) == [MOVED, StepStarted("b", 1)]
    assert run.tell(Raised("b", 1, BOOM))[-1] == StepStarted("go/on_timeout/x!undo", 1)

    kept = wait("went", signal="go", timeout=SECOND, on_timeout=Body((step("y"),)))
    run = moved_to(step("a"), kept, step("b"), old=timed_out(), rename={"go": "went"}, drop=("go/on_timeout/x",))
    renamed = {f"go{way}": f"went{way}" for way in ("", "/on_timeout", "/on_timeout/x", "/on_timeout/y")}
    assert run.tell(Migrate(), Lost()) == [RunMigrated("2", "", renamed), StepStarted("went/on_timeout/y", 1)]
    assert run.tell(ok("went/on_timeout/y"))[-1] == StepStarted("b", 1)
    assert run.tell(Raised("b", 1, BOOM))[-1] == StepStarted("went/on_timeout/x!undo", 1)


def test_a_compensation_goes_on_under_the_new_version() -> None:
    """I32, S10.2: that of a dropped step too, from where it was; and one that blocks, blocks on."""
    steps = (step("a"), step("gone", compensate=handler), step("b"))

    def unwinding(**kwargs: Any) -> Talk:
        run = begun(*steps, **kwargs)
        run.tell(ok("gone"))
        run.tell(Raised("b", 1, BOOM))
        return run

    run = moved_to(step("a"), step("b"), old=unwinding(), drop=("gone",))
    assert run.tell(Migrate(), Lost())[0] == MOVED
    assert run.tell(Tick()) == [StepStarted("gone!undo", 2)]
    assert run.tell(ok("gone!undo", 2))[-1] == RunFailed()

    old = unwinding(on_compensation_failure="block")
    old.tell(Raised("gone!undo", 1, BOOM))
    run = moved_to(step("a"), step("b"), old=old, drop=("gone",))
    assert run.tell(Migrate()) == [MOVED]
    assert run.state.status == "blocked"
    assert run.tell(Resolve("gone!undo", "retry", None, "ana", "why"))[-1] == StepStarted("gone!undo", 1)


def test_blocked_at_a_dropped_step() -> None:
    """S13: there is nothing left to decide, and the run goes on behind it."""
    old = Talk(commit("pay", pivot=True), step("gone"), step("b"))
    old.tell(ok("pay"))
    old.tell(Raised("gone", 1, BOOM))
    assert old.state.status == "blocked"
    run = moved_to(commit("pay", pivot=True), step("b"), old=old, drop=("gone",))
    assert run.tell(Migrate()) == [MOVED, StepStarted("b", 1)]
    assert (run.state.blocked, run.state.failing) == (None, None)

    inside = Talk(commit("pay", pivot=True), wait("go", timeout=SECOND, on_timeout=Body((step("x"), step("y")))))
    inside.tell(ok("pay"))
    inside.after(1).tell(Tick())
    inside.tell(Raised("go/on_timeout/x", 1, BOOM))
    kept = wait("go", timeout=SECOND, on_timeout=Body((step("y"),)))
    run = moved_to(commit("pay", pivot=True), kept, old=inside, drop=("go/on_timeout/x",))
    assert run.tell(Migrate()) == [MOVED, StepStarted("go/on_timeout/y", 1)]
    assert run.status("go") == "running"


def test_a_retry_of_a_step_that_is_dropped_later() -> None:
    """S13, D1: journals that begin again at it fold all the same."""
    old = begun(step("a"), step("gone"), step("b"))
    old.tell(Raised("gone", 1, BOOM))
    old.tell(Reopen("retry", "", "ana", "why"))
    run = moved_to(step("a"), step("b"), old=old, drop=("gone",))
    assert run.tell(Migrate(), Lost()) == [MOVED, StepStarted("b", 1)]

    old = begun(step("a"), step("gone"), step("gone2"), step("b"))
    old.tell(Returned("gone", 1, "1", {"k": "1"}))
    old.tell(Raised("gone2", 1, BOOM))
    old.tell(Reopen("retry", "", "ana", "why"))
    run = moved_to(step("a"), step("b"), old=old, drop=("gone", "gone2"))
    assert run.tell(Migrate(), Lost()) == [MOVED, StepStarted("b", 1)]
    assert run.state.data == {"k": "1"}, "what came before it stands"

    old = begun(step("a"), step("gone"), step("b"))
    old.tell(Block("WorkerCrashed", "why", "gone"), Lost())
    old.tell(Resolve("gone", "skip", None, "ana", "why"))
    run = moved_to(step("a"), step("b"), old=old, drop=("gone",))
    assert run.tell(Migrate(), Lost())[0] == MOVED
    assert run.status("gone") == "skipped"


def test_a_probe_of_a_dropped_step() -> None:
    """S13, S3.8: it is left with it."""
    old = begun(step("a"), step("gone", probe=handler, compensate=handler), step("b"))
    old.tell(Lost())
    old.tell(Tick())
    assert "gone!probe" in old.state.calls
    run = moved_to(step("a"), step("b"), old=old, drop=("gone",))
    assert run.tell(Migrate(), Lost()) == [MOVED, StepStarted("b", 1)]
    assert run.tell(Answered("gone!probe", 1, "1")) == []
    assert run.tell(cancel(1)) != []
    assert run.tell(ok("b"))[-1] == StepStarted("gone!undo", 1)


def test_two_migrations_in_a_row() -> None:
    """S13: a journal of the first version under the third, at once or by way of the second."""
    first = Definition("flow", body=Body((step("a"), wait("go", timeout=SECOND, on_timeout=Body((step("x"), step("y")))), step("c"))))
    branch = Body((step("x2"), step("y")))
    second = Definition(
        "flow", version="2", body=Body((step("a2"), wait("went", timeout=SECOND, signal="go", on_timeout=branch), step("c"))),
        migrations=(Migration(first, (("a", "a2"), ("go", "went"), ("go/on_timeout/x", "go/on_timeout/x2"))),),
    )  # fmt: skip
    third = Definition(
        "flow", version="3",
        body=Body((step("a3"), wait("went", timeout=SECOND, signal="go", on_timeout=Body((step("x3"),))), step("c"), step("d"))),
        migrations=(Migration(second, (("a2", "a3"), ("went/on_timeout/x2", "went/on_timeout/x3")), frozenset({"went/on_timeout/y"})),),
    )  # fmt: skip
    for definition in (second, third):
        check_migration(definition, definition.migrations[0], "flow")
    for stops in ((third,), (second, third)):
        run = begun(*first.steps)
        run.after(1).tell(Tick())
        run.tell(ok("go/on_timeout/x"))
        for definition in stops:
            records = run.under(definition).tell(Migrate(), Lost())
            assert isinstance(records[0], RunMigrated) and records[0].version == definition.version
        assert run.state.key_of("a3") == ("a", 0)
        assert run.state.key_of("went/on_timeout/x3") == ("go/on_timeout/x", 0)
        assert run.status("went") == "completed"
        assert run.tell(ok("c"))[-1] == StepStarted("d", 1)


def test_a_retry_inside_a_step_that_was_dropped_later() -> None:
    """S13, D1: a journal of the older version tells of a retry in the branch of a wait; under the newer one it is read all the same."""

    def retried(*more: Command) -> Talk:
        run = begun(step("a"), wait("go", timeout=SECOND, on_timeout=Body((step("on_timeout", retries=0),), single=True)), step("b"))
        run.after(1).tell(Tick())
        run.tell(Raised("go/on_timeout", 1, BOOM))
        run.tell(Reopen("retry", "", "ana", "why"), *more)
        return run

    run = moved_to(step("a"), step("b"), old=retried(), drop=("go",))
    assert run.tell(Migrate(), Lost()) == [MOVED, StepStarted("b", 1)]
    run = moved_to(step("a"), step("b"), old=retried(Raised("go/on_timeout", 1, BOOM)), drop=("go",))
    assert run.tell(Migrate(), Reopen("retry", "", "ana", "why"))[-1] == StepStarted("b", 1)


def test_names_of_dropped_steps_are_not_given_again() -> None:
    """S13, S1.3: a journal that tells of the old step would be taken for the new one's, however many versions ago."""
    first = Definition("flow", body=Body((step("a"), step("x"), step("b"))))
    second = Definition("flow", "2", Body((step("a"), step("b"))), migrations=(Migration(first, (), frozenset({"x"})),))
    third = Definition("flow", "3", Body((step("a"), step("b"), step("x"))), migrations=(Migration(second),))
    with pytest.raises(InvalidWorkflow, match="'x' was dropped on the way from 1"):
        check_migration(third, third.migrations[0], "flow")
    third = Definition("flow", "3", Body((step("x"), step("b"))), migrations=(Migration(second, (("a", "x"),)),))
    with pytest.raises(InvalidWorkflow, match="'x' was dropped on the way from 1"):
        check_migration(third, third.migrations[0], "flow")
    same = Definition("flow", "2", Body((step("a"), step("b"), step("x"))), migrations=(Migration(first, (), frozenset({"x"})),))
    with pytest.raises(InvalidWorkflow, match="'x' was dropped"):
        check_migration(same, same.migrations[0], "flow")


def test_an_ended_run_is_moved_when_it_is_done_again() -> None:
    """S13, S2.2: moving alone changes nothing that can be seen."""
    old = begun(step("a"), wait("go"))
    old.tell(signal(1))
    run = moved_to(step("a"), wait("go"), step("new"), old=old)
    assert (run.tell(Migrate()), run.state.status) == ([MOVED], "completed")
    old = begun(step("a"), wait("go"))
    old.tell(cancel(1))
    run = moved_to(step("a2"), wait("go"), step("new"), old=old, rename={"a": "a2"})
    assert run.tell(Migrate(), Reopen("retry", "", "ana", "why"))[-1] == WaitStarted("go", "go")
    assert run.tell(Arrived((Posting(2, "signal", "go", "1"),))) == [SignalReceived("go", 2, "1"), StepStarted("new", 1)]
    assert not [record for _, records in run.rows for record in records if isinstance(record, RunBlocked | RunCancelled)][1:]


# --- for all of them


class Move:
    """A new version of a workflow, and where each old path has gone."""

    def __init__(self, draw: Any, old: Definition, version: str) -> None:
        self.draw = draw
        self.version = version
        self.paths: dict[str, str] = {}
        self.rename: dict[str, str] = {}
        self.drop: set[str] = set()
        body = self._body(old.body, "", "")
        self.migration = Migration(old, tuple(self.rename.items()), frozenset(self.drop))
        self.definition = replace(old, version=version, body=body, migrations=(self.migration,))

    def __repr__(self) -> str:
        return f"MOVE {self.version} rename={self.rename} drop={self.drop} {shape(self.definition.body)}"

    def _body(self, body: Body, prefix: str, at: str) -> Body:
        steps: list[Step] = []
        for one in body.steps:
            path = prefix + one.name
            fate = "keep" if body.single else self.draw(st.sampled_from(["keep", "keep", "rename", "drop"]))
            name = f"{one.name}_{self.version}" if fate == "rename" else one.name
            if fate == "rename":
                self.rename[path] = path.removesuffix(one.name) + name
            self.paths[path] = at + name
            if fate == "drop":
                self.drop.add(path)
                self.paths |= {inner: at + inner.removeprefix(prefix) for inner in steps_by_path((one,), prefix) if inner != path}
            else:
                steps.append(replace(one, name=name, on_timeout=self._inner(one, path, at + name)))
        if not steps or (not body.single and self.draw(st.booleans())):
            steps.append(step(f"new{self.version}", compensate=handler))
        return replace(body, steps=tuple(steps))

    def _inner(self, one: Step, path: str, at: str) -> Body | None:
        if one.on_timeout is None:
            return None
        way = "/" if one.on_timeout.single else "/on_timeout/"
        return self._body(one.on_timeout, path + way, at + way)


@st.composite
def moves(draw: Any) -> tuple[Case, list[Move]]:
    """A case of an old version, and its way to a newer one, or two."""
    case = draw(cases())
    found = [Move(draw, case.definition, "2")]
    if draw(st.booleans()):
        found.append(Move(draw, found[0].definition, "3"))
    return case, found


class Moving(World):
    """A world of new code that takes over a run of old code. It knows all that any version would undo."""

    def __init__(self, case: Case, store: Store, steps: dict[str, Step]) -> None:
        self.steps = steps
        super().__init__(case, store)

    def _witness(self, record: Record) -> None:
        super()._witness(record)
        if isinstance(record, UnwindStarted) and record.compensate:
            right = {path for path, one in self.steps.items() if owed(one, self.store.seen.get(path, set()))}
            assert set(self.state.undo) == right, "I30: also of what is gone"


def goes(paths: dict[str, str], path: str) -> str:
    """Where this path has gone; one that an earlier move has dropped goes with the step that it stood in."""
    way = path
    while way and way not in paths:
        way = way.rpartition("/")[0]
    return paths.get(way, way) + path[len(way) :]


def renamed(store: Store, paths: dict[str, str]) -> Store:
    """What an observer knows, under the new names."""

    def name(path: str) -> str:
        return goes(paths, base_path(path)) + path[len(base_path(path)) :]

    copied = store.copy()
    copied.seen = {name(path): notes for path, notes in copied.seen.items()}
    copied.raised = {name(path): count for path, count in copied.raised.items()}
    copied.running = {name(path) for path in copied.running}
    copied.outside = {name(path) for path in copied.outside}
    return copied


def carried(case: Case, store: Store, move: Move, steps: dict[str, Step]) -> tuple[Moving, dict[str, Step]]:
    """This run under the new version, until it rests; and all the steps there ever were."""
    known = {goes(move.paths, path): one for path, one in steps.items()} | steps_by_path(move.definition.steps)
    acts = tuple(replace(act, path=goes(move.paths, act.path)) for act in case.acts)
    newer = replace(case, definition=move.definition, faults={}, script={}, acts=acts)
    return Moving(newer, renamed(store, move.paths), known), known


@settings(max_examples=max(60, settings().max_examples))
@given(moves(), st.data())
def test_what_is_accepted_goes_on(story: tuple[Case, list[Move]], data: st.DataObject) -> None:
    """S13, I8, I15, I30: from wherever it stands, any run of the old version folds under the new one, and comes to rest there with
    the laws holding: at once, or by way of the version between."""
    case, (move, *more) = story
    for one in (move, *more):
        check_migration(one.definition, one.migration, "flow")
    whole = World(case).run()
    steps = steps_by_path(case.definition.steps)
    for store in data.draw(st.lists(st.sampled_from(whole.snapshots), max_size=5, unique_by=lambda one: len(one.rows))):
        world, known = carried(case, store, move, steps)
        for stop in (world.run().snapshots[:1] + world.snapshots[-1:]) if more else ():
            carried(world.case, stop, more[0], known)[0].run()
        if more:
            straight(case, store, move, more[0], steps)


def straight(case: Case, store: Store, move: Move, last: Move, steps: dict[str, Step]) -> None:
    """From the first version to the third, with nothing between."""
    over = Move.__new__(Move)
    over.definition = last.definition
    over.paths = {path: goes(last.paths, new) for path, new in move.paths.items()}
    known = {**steps_by_path(move.definition.steps), **steps}
    world, _ = carried(case, store, over, known)
    renamed = {path: new for path, new in over.paths.items() if path != new}
    assert renamed.items() <= Plan(last.definition, shape=shape(last.definition.body)).ports[case.definition.version].rename.items()
    world.run()

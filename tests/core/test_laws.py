"""The laws of the machine, over generated workflows, outcomes, signals, cancels, deadlines and crashes.

`World` checks after every commit that the state is the fold of the journal (I8), that a refused decision leaves no trace
(D12), that repeating a command says nothing, and that the run has a reason to move again (I15). `model` reads the rest off the journal.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings

from flux.core.commands import Advance, Arrived, Block, Command, Cut, Lost, Posting, Raised, Released, Returned, Suspended, Tick, Unblock
from flux.core.evolve import fold
from flux.core.failure import Failure
from flux.core.machine import Moment, decide
from flux.core.records import AttemptCut, StepStarted
from flux.core.retry import SECOND
from flux.core.status import TERMINAL
from flux.core.workflow import Body, Definition

from .model import check_all, end, history
from .strategies import cases
from .test_machine import Talk
from .world import T0, Answer, Case, Fault, World, commit, freeze, handler, read_cancel, step

MANY = settings(max_examples=max(250, settings().max_examples))  # a case is cheap, and what matters in it is seldom


def test_a_plain_sequence_goes_on_in_strides() -> None:
    """S3.3: what most commits say is decided in one go, which the laws below hold to be what `decide` says."""
    steps = (step("a"), step("b", compensate=handler), commit("c"), step("d", when=Answer(True)), step("e"))
    plain = Definition("plain", body=Body(steps))
    world = World(Case(plain)).run()
    assert world.state.status == "completed" and world.set_out
    assert world.strides == 4  # not from c to d, whose condition is asked
    assert not World(Case(Definition("asked", body=Body((step("a", when=Answer(True)),))))).set_out


@MANY
@given(cases())
def test_laws_hold_whatever_happens(case: Case) -> None:
    """I2, I5, I8, I15, I19, I22 to I24, I26, I28 to I33, I35, S2.3, S4, S10, S11: through any faults."""
    world = World(case).run()
    check_all(case, world)
    assert freeze(fold(case.plan, world.store.journal())) == freeze(world.state)


@MANY
@given(cases(faults=False))
def test_without_faults_each_attempt_is_called_once(case: Case) -> None:
    """I5, S3.7: a fault-free run loses nothing, and calls each attempt that it has recorded exactly once, unless it was cut first."""
    world = World(case).run()
    check_all(case, world)
    records = [record for _, record in history(world.store)]
    started = [(record.path, record.attempt) for record in records if isinstance(record, StepStarted)]
    cut = {(record.path, record.attempt) for record in records if isinstance(record, AttemptCut)}
    assert [one for one in world.store.calls if one not in cut] == [one for one in started if one not in cut]
    assert not any(st.lost for st in world.state.steps.values())


@MANY
@given(cases(exact=True, faults=False))
def test_every_prefix_resumes_to_the_same_end(case: Case) -> None:
    """S3.2, S12.1, I8: wherever the process dies, another one takes the run to the end it would have had."""
    whole = World(case).run()
    for store in whole.snapshots:
        again = World(case, store.copy()).run()
        assert end(again) == end(whole), f"resumed after row {len(store.rows)}"


@MANY
@given(cases(exact=True))
def test_faults_change_nothing(case: Case) -> None:
    """S3.5, S14.4: crashes before or after commits, releases and drains add attempts, and nothing else."""
    faults: dict[int, Fault] = {turn: fault for turn, fault in case.faults.items() if fault in ("release", "drain")}
    smooth = World(Case(case.definition, case.script, case.mail, {}, case.defaults)).run()
    bumpy = World(Case(case.definition, case.script, case.mail, faults, case.defaults)).run()
    before, after = end(smooth), end(bumpy)
    for one in (before, after):
        one["steps"] = {path: line[:3] for path, line in one["steps"].items()}
    assert before == after


@MANY
@given(cases())
def test_terminal_runs_are_inert(case: Case) -> None:
    """S2.2, I9: every command says nothing and changes nothing."""
    world = World(case).run()
    if world.state.status not in TERMINAL:
        return
    failure = Failure("builtins:ValueError", "late")
    late: list[Command] = [
        Advance(), Lost(), Tick(), Block("DefinitionChanged", "why"), Unblock(),
        Arrived((Posting(10**6, "signal", "a", "1"), Posting(10**6 + 1, "cancel", "", "11"))),
    ]  # fmt: skip
    for path, st in world.state.steps.items():
        for attempt in (st.attempt, st.attempt + 1):
            late += [
                Returned(path, attempt, "1", {"k": "9"}), Suspended(path, attempt, "a"), Raised(path, attempt, failure),
                Cut(path, attempt, "cancelled"), Released(path, attempt),
            ]  # fmt: skip
    before = freeze(world.state)
    for command in late:
        decision = decide(world.state, (command,), _moment(world.store.now + 10**12))
        assert (decision.records, decision.consumed) == ([], [])
        world.state.settle()
        assert freeze(world.state) == before


def _moment(now: int) -> Moment:
    def never(*args: Any) -> Any:
        raise AssertionError("nothing is asked")

    return Moment(now, never, never, read_cancel, never)


# --- the cost of a step, counted (S3.3)


class Unwalkable(dict[str, Any]):
    """A mapping that may be looked into by key, and not be walked."""

    def _walked(self, *args: Any) -> Any:
        raise AssertionError("the history was walked")

    __iter__ = items = values = keys = copy = __reversed__ = __eq__ = _walked


def work_of(do: Callable[[], object]) -> int:
    """How many bytecodes and calls this takes."""
    count = 0

    def opcodes(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += 1
        return opcodes

    def calls(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += 1

    trace = sys.gettrace()
    gc.disable()  # a collection calls whoever watches it, and that is not the machine's work
    sys.settrace(opcodes)
    sys.setprofile(calls)
    try:
        do()
    finally:
        sys.setprofile(None)
        sys.settrace(trace)
        gc.enable()
    return count


def _long_run(length: int, when: Answer | None = None) -> Talk:
    run = Talk(*(step(f"s{index}", compensate=handler, when=when) for index in range(length)))
    run.checked = False
    run.state.steps = Unwalkable(run.state.steps)
    run.state.data = Unwalkable({f"key{index}": "1" for index in range(length)})
    return run


@pytest.mark.parametrize("when", [None, Answer(True)], ids=["plain", "with a condition"])
def test_the_ten_thousandth_step_costs_what_the_tenth_does(when: Answer | None) -> None:
    """S3.3: the work of a step does not depend on how many came before it, nor on how much data there is."""
    run = _long_run(10_100, when)
    costs: dict[int, int] = {}

    def turn(index: int) -> None:
        decision = decide(run.state, (Returned(f"s{index}", 1, "1", {"k": "2"}),), moment)
        assert len(decision.records) == 2
        assert run.state.status == "running"
        assert (run.state.wake_at, run.state.waiting_for) == (0, ())
        run.state.settle()

    moment = run.moment
    for index in range(10_001):
        if index in (10, 1000, 10_000):
            costs[index] = work_of(lambda index=index: turn(index))  # type: ignore[misc]
        else:
            turn(index)
    assert costs[10] == costs[1000] == costs[10_000], costs
    assert costs[10] < 3000, "and it is not much"


def test_every_compensation_costs_the_same() -> None:
    """S10.1: the set is found once, when the way down begins."""
    run = _long_run(1100)
    moment = run.moment
    for index in range(1099):
        decide(run.state, (Returned(f"s{index}", 1, "1"),), moment)
        run.state.settle()
    run.state.steps = dict(dict.items(run.state.steps))
    run.tell(Raised("s1099", 1, Failure("builtins:ValueError", "boom"), retryable=False))
    run.state.steps = Unwalkable(run.state.steps)
    costs = {
        index: work_of(lambda index=index: run.tell(Returned(f"s{index}!undo", 1, "1")))  # type: ignore[misc]
        for index in range(1098, 0, -1)
    }
    assert costs[1090] == costs[500] == costs[1], "constant"


def test_refused_decisions_cost_what_they_changed() -> None:
    """D12: taking a decision back does not copy the run."""
    run = _long_run(3000)
    costs: list[int] = []
    for index in range(2001):
        decide(run.state, (Returned(f"s{index}", 1, "1", {"k": "2"}),), run.moment)
        if index in (10, 2000):
            costs.append(work_of(run.state.rollback))
            decide(run.state, (Returned(f"s{index}", 1, "1", {"k": "2"}),), run.moment)
        run.state.settle()
    assert costs[0] == costs[1]


@pytest.mark.parametrize("halt", [False, True])
def test_a_new_run_waits_for_its_creator_to_commit(halt: bool) -> None:
    """S3.1: creating asks for the first start and performs nothing."""
    run = Talk(step("a"), halt=halt)
    assert run.now == T0
    assert run.first == ([] if halt else [StepStarted("a", 1)])
    assert SECOND == 1_000_000

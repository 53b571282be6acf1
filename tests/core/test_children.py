"""Children as transcripts: what their parent says to them, and they to it (S1.2, D6, I41)."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.actions import outstanding
from flux.core.again import inherited
from flux.core.commands import Arrived, Block, Lost, Migrate, Posting, Raised, Suspended, Tell, Tick, Unblock
from flux.core.failure import Failure
from flux.core.plan import PROBE, UNDO, base_path
from flux.core.records import (
    ArmsJoined,
    BranchEnded,
    CancelRefused,
    ChildEnded,
    ChildStarted,
    ChildTold,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunForked,
    RunUnblocked,
    StepFailed,
    StepInherited,
    StepSkipped,
    StepStarted,
    TurnStarted,
    UndoDemanded,
    UnwindStarted,
)
from flux.core.retry import SECOND
from flux.core.sketch import drawn, sketch
from flux.core.status import RunStatus
from flux.core.workflow import Body, Definition, Kind, Step, child_workflows
from flux.errors import InvalidArgument

from .test_again import boom, once_more, past_pivot, refused, replay, resolve, resolved, retry
from .test_inside import after, body, for_each, loop, parallel, route
from .test_machine import BOOM, OVERDUE, Talk, cancel, ok, request, signal
from .test_migrations import moved_to
from .world import T0, Answer, child, commit, handler, newborn, step, wait

RESTING = (RunStatus.SUSPENDED, None)


def word(seq: int, run_id: str, status: str = "completed") -> Arrived:
    """A child's last word; `status` may end in ' dirty'."""
    return Arrived((Posting(seq, "child", run_id, status),))


def demand(seq: int = 1) -> Arrived:
    return Arrived((Posting(seq, "unwind", "", ""),))


def kinds(records: list[Any]) -> list[str]:
    return [type(record).__name__ for record in records]


def rest(run: Talk) -> tuple[RunStatus, int | None]:
    return run.state.status, run.state.wake_at


def sketched(run: Talk) -> None:
    """The journal can be read without its workflow, and tells the same."""
    state = drawn(run.rows)
    assert (state.status, state.ended, state.children) == (run.state.status, run.state.ended, run.state.children)
    known = {path: (st.status, st.result, st.child) for path, st in state.steps.items()}
    assert known == {path: (st.status, st.result, st.child) for path, st in run.state.steps.items()}


# --- a child on the way


def test_a_parent_waits_for_its_child() -> None:
    """S1.2, D17: it waits without anything in hand, and the child's result is the step's."""
    run = Talk(step("a"), child("c"), step("b"))
    assert run.tell(ok("a"))[1:] == [ChildStarted("c", "me~c~0")]
    assert rest(run) == RESTING
    assert run.tell(Tick(), Lost()) == []
    assert run.tell(word(1, "me~c~0")) == [ChildEnded("c", 1, "completed", '"me~c~0"', None), StepStarted("b", 1)]
    assert run.tell(word(2, "me~c~0")) == []
    assert run.consumed == [2], "nobody waits for it: it is taken out of the inbox"
    assert run.tell(ok("b"))[-1] == RunCompleted()
    assert (run.tell(word(3, "me~c~0")), run.consumed) == ([], [3])
    sketched(run)


def test_a_child_begins_when_somebody_holds_its_parent() -> None:
    """S14.4: nothing starts in a run that is being given back."""
    run = Talk(child("c"), halt=True)
    assert (run.first, rest(run)) == ([], (RunStatus.PENDING, 0))
    run.halt = False
    assert run.tell(Tick()) == [ChildStarted("c", "me~c~0")]


def test_a_child_that_cannot_be_made() -> None:
    """S6.2: its input could not be computed: there is no child, and the step has failed."""
    run = Talk(step("a", compensate=handler), child("c", child_input=handler))
    run.child_fails = BOOM
    assert run.tell(ok("a"))[1:] == [StepFailed("c", 0, BOOM), UnwindStarted("failed", BOOM), StepStarted("a!undo", 1)]
    run.tell(ok("a!undo"))
    run.child_fails = None
    run.tell(retry())
    assert run.tell(ok("a"))[-1] == ChildStarted("c", "me~c~0"), "the first one"
    sketched(run)


def test_a_condition_on_a_child() -> None:
    """S6.1: no child is made."""
    run = Talk(child("c", when=Answer(False)), step("b"))
    assert run.first == [StepSkipped("c"), StepStarted("b", 1)]
    assert run.tell(Raised("b", 1, BOOM))[-1] == RunFailed()


def test_children_anywhere() -> None:
    """S1.2, D24: in a route, a loop, for_each, a graph; each has its own."""
    run = Talk(
        route("r", "x", x=body(child("c"))), loop("l", body(child("c")), 2), for_each("f", ("1", "2", "3"), body(child("c")), concurrency=2)
    )
    assert run.first[-1] == ChildStarted("r/x/c", "me~r/x/c~0")
    assert run.tell(word(1, "me~r/x/c~0"))[1:] == [BranchEnded("r"), TurnStarted("l", 1), ChildStarted("l[1]/c", "me~l[1]/c~0")]
    assert run.tell(word(2, "me~l[1]/c~0"))[1:] == [TurnStarted("l", 2), ChildStarted("l[2]/c", "me~l[2]/c~0")]
    run.tell(word(3, "me~l[2]/c~0"))
    assert list(run.state.children) == ["f[1]/c", "f[2]/c"], "two at once"
    assert run.tell(word(4, "me~f[2]/c~0"))[-1] == ChildStarted("f[3]/c", "me~f[3]/c~0")
    run.tell(word(5, "me~f[3]/c~0"))
    assert rest(run) == RESTING
    assert run.tell(word(6, "me~f[1]/c~0"))[-2:] == [ArmsJoined("f", None), RunCompleted()]
    sketched(run)


def test_items_that_go_on_keep_their_places() -> None:
    """I15, I41: when a run goes on behind a step that failed beside them, no more children are under way at once than there may be, and
    none is begun under the id of one that has ended."""
    items = for_each("f", ("1", "2", "3", "4"), body(child("c")), concurrency=2, on_failure="finish", at_least=1)
    ways = body(after(items), after(step("s")))
    run = Talk(commit("pay", pivot=True), route("r", "x", x=ways), step("z"))
    run.tell(ok("pay"))
    run.tell(word(1, "me~r/x/f[1]/c~0", "failed"))
    assert list(run.state.children) == ["r/x/f[2]/c", "r/x/f[3]/c"]
    assert isinstance(run.tell(boom("r/x/s"))[-1], RunBlocked)
    assert kinds(run.tell(resolve("r/x/s", "skip"))) == ["StepResolved"], "two are under way, as many as may be"
    assert {key for key in run.state.frames if key.endswith("]")} == {"r/x/f[2]", "r/x/f[3]"}
    ended = {"me~r/x/f[1]/c~0"}
    for seq in range(2, 10):
        if not run.state.children:
            break
        assert len(run.state.children) <= 2 and not ended & set(run.state.children.values())
        last = run.state.children[list(run.state.children)[-1]]
        run.tell(word(seq, last, "failed" if seq == 2 else "completed"))
        ended.add(last)
    assert list(run.state.calls) == ["z"]


def test_no_two_children_have_one_id() -> None:
    """D24, I41: a step whose child has ended, and that is begun again where it stands, gets another."""
    run = Talk(parallel("p", a=child("c"), b=step("s")))
    run.tell(word(1, "me~p/a/c~0", "failed"))
    assert newborn(run.state, "p/a/c").run_id == "me~p/a/c~1"
    run.tell(ok("p/b/s"))
    run.tell(retry())
    assert run.state.children == {"p/a/c": "me~p/a/c~1"}


def test_children_side_by_side() -> None:
    """I6: in a graph what depends on one waits for it, and the rest goes on."""
    run = Talk(after(child("c")), after(child("d")), after(step("x"), "c"), after(step("y"), "c", "d"))
    assert run.first == [ChildStarted("c", "me~c~0"), ChildStarted("d", "me~d~0")]
    assert run.tell(word(1, "me~c~0"))[1:] == [StepStarted("x", 1)]
    assert run.tell(ok("x"), word(2, "me~d~0"))[-1] == StepStarted("y", 1)
    assert run.tell(ok("y"))[-1] == RunCompleted()


def test_a_child_that_ends_while_its_parent_is_blocked() -> None:
    """I28: it is recorded; the run goes on where it was once it is moved on."""
    for status, then in (("completed", [StepStarted("b", 1)]), ("failed", [UnwindStarted, RunFailed])):
        run = Talk(child("c"), step("b"))
        run.tell(Block("DefinitionChanged", "why"))
        assert rest(run) == (RunStatus.BLOCKED, None)
        assert kinds(run.tell(word(1, "me~c~0", status))) == ["ChildEnded"] + ["StepFailed"] * (status == "failed")
        assert rest(run) == (RunStatus.BLOCKED, None)
        records = run.tell(Unblock())
        assert records[0] == RunUnblocked()
        assert records[1:] == then or [type(one) for one in records[1:]] == then


# --- a branch that nobody waits for


def test_a_branch_with_a_child_is_stopped() -> None:
    """S11.3: the child is told, once, and waited for; then the branches join."""
    run = Talk(parallel("p", a=step("x"), b=child("c"), more={"join": "any"}), step("z"))
    assert kinds(run.tell(ok("p/a/x"))) == ["StepCompleted", "ArmEnded", "ArmsStopped", "ChildTold"]
    assert run.rows[-1][1][-1] == ChildTold("p/b/c", "stop")
    assert run.told == [Tell("me~p/b/c~0", "cancel", "its branch was stopped")]
    assert rest(run) == RESTING
    assert run.tell(Tick()) == [] and run.told == []
    assert run.tell(word(1, "me~p/b/c~0", "cancelled"))[1:] == [ArmsJoined("p", None), StepStarted("z", 1)]
    assert run.status("p/b/c") == "cancelled"
    sketched(run)


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_stopped_child_may_end_otherwise(status: str) -> None:
    """S11.2: what it came to counts for nothing any more, but if it did something, that is undone with the rest."""
    run = Talk(parallel("p", a=step("x"), b=body(child("c"), step("never")), more={"join": "any"}), step("z"))
    run.tell(ok("p/a/x"))
    assert run.tell(word(1, "me~p/b/c~0", status))[1:] == [ArmsJoined("p", None), StepStarted("z", 1)]
    run.tell(boom("z"))
    assert run.told == ([Tell("me~p/b/c~0", "unwind")] if status == "completed" else [])


def test_a_failing_branch_takes_the_childs_down() -> None:
    """S11.3, I34: siblings are settled before the way down begins."""
    run = Talk(step("s", compensate=handler), parallel("p", a=step("x"), b=child("c")))
    run.tell(ok("s"))
    assert kinds(run.tell(boom("p/a/x"))) == ["StepFailed", "ArmsStopped", "ChildTold"]
    assert kinds(run.tell(word(1, "me~p/b/c~0", "cancelled"))) == ["ChildEnded", "StepFailed", "UnwindStarted", "StepStarted"]
    assert run.tell(ok("s!undo"))[-1] == RunFailed()


def test_a_failed_child_stops_the_other_branches() -> None:
    """S11.3: and with on_failure="finish" it does not."""
    run = Talk(parallel("p", a=child("c"), b=child("d")))
    records = run.tell(word(1, "me~p/a/c~0", "failed"))
    assert kinds(records) == ["ChildEnded", "StepFailed", "ArmsStopped", "ChildTold"]
    assert run.tell(word(2, "me~p/b/d~0", "cancelled"))[-1] == RunFailed()
    run = Talk(parallel("p", a=child("c"), b=child("d"), more={"on_failure": "finish"}))
    assert kinds(run.tell(word(1, "me~p/a/c~0", "failed"))) == ["ChildEnded", "StepFailed"]
    assert kinds(run.tell(word(2, "me~p/b/d~0"))) == ["ChildEnded", "ArmEnded", "StepFailed", "UnwindStarted", "ChildTold"]


def test_a_stop_that_leads_to_another() -> None:
    """S11.3, I15: when the inner branches are settled and the outer ones are stopped for it, their children are told at once."""
    inner = parallel("i", a=step("x"), b=child("c"))
    run = Talk(parallel("o", a=inner, b=child("d")))
    run.tell(boom("o/a/i/a/x"))
    records = run.tell(word(1, "me~o/a/i/b/c~0", "cancelled"))
    assert kinds(records) == ["ChildEnded", "StepFailed", "ArmsStopped", "ChildTold"]
    assert run.told == [Tell("me~o/b/d~0", "cancel", "its branch was stopped")]
    assert run.tell(word(2, "me~o/b/d~0", "cancelled"))[-1] == RunFailed()


def test_a_child_beside_what_fails_in_a_graph() -> None:
    """S11.3: in a branch that is a graph, the step beside it is stopped with it."""
    run = Talk(parallel("p", a=body(after(step("x")), after(child("c"))), b=step("y"), more={"on_failure": "finish"}))
    assert kinds(run.tell(boom("p/a/x"))) == ["StepFailed", "ChildTold"]
    assert kinds(run.tell(ok("p/b/y"))) == ["StepCompleted", "ArmEnded"]
    assert rest(run) == RESTING
    assert run.tell(word(1, "me~p/a/c~0", "cancelled"))[-1] == RunFailed()


# --- the run goes down


def test_a_stopped_branch_is_no_more_stopped_on_the_way_down() -> None:
    """S10.5: what is undone in there is not told to stop."""
    graph = body(after(child("c")), after(step("x")))
    run = Talk(parallel("p", a=graph, b=wait("go"), more={"on_failure": "finish"}))
    assert kinds(run.tell(boom("p/a/x"))) == ["StepFailed", "ChildTold"]
    run.tell(cancel(1))
    assert kinds(run.tell(word(2, "me~p/a/c~0"))) == ["ChildEnded", "UnwindStarted", "ChildTold"]
    assert run.told == [Tell("me~p/a/c~0", "unwind")]
    assert not run.state.stopping
    assert run.tell(Tick()) == []
    assert run.tell(word(3, "me~p/a/c~0", "cancelled"))[-1] == RunCancelled()


def test_a_child_that_goes_on_goes_down_first() -> None:
    """S11, S10.5: a cancelled parent calls its child back before it undoes anything."""
    run = Talk(step("a", compensate=handler), child("c"))
    run.tell(ok("a"))
    assert run.tell(cancel(1))[1:] == [ChildTold("c", "cancel")]
    assert run.told == [Tell("me~c~0", "cancel", "enough")]
    assert rest(run) == RESTING
    assert kinds(run.tell(word(2, "me~c~0", "cancelled"))) == ["ChildEnded", "UnwindStarted", "StepStarted"]
    assert run.tell(ok("a!undo"))[-1] == RunCancelled()
    sketched(run)


def test_a_child_that_completed_although_it_was_told_to_stop() -> None:
    """S11.2: it is undone in its turn."""
    run = Talk(step("a", compensate=handler), child("c"), step("b"))
    run.tell(ok("a"))
    run.tell(cancel(1))
    assert kinds(run.tell(word(2, "me~c~0"))) == ["ChildEnded", "UnwindStarted", "ChildTold"]
    assert run.told == [Tell("me~c~0", "unwind")]
    assert run.tell(word(3, "me~c~0", "cancelled"))[1:] == [StepStarted("a!undo", 1)]
    assert run.tell(ok("a!undo"))[-1] == RunCancelled()


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_cancel_without_compensation(status: str) -> None:
    """S11.2: nor does the child compensate, and one that has completed stays so."""
    run = Talk(step("a", compensate=handler), child("c"))
    run.tell(ok("a"))
    run.tell(cancel(1, compensate=False))
    assert run.told == [Tell("me~c~0", "cancel", "enough", False)]
    assert kinds(run.tell(word(2, "me~c~0", status))) == ["ChildEnded", "UnwindStarted", "RunCancelled"]
    assert run.status("c") == ("completed" if status == "completed" else "cancelled")


def test_a_cancel_that_is_made_urgent() -> None:
    """S11.1: the child hears of it too, once."""
    run = Talk(child("c"), child("d"))
    assert run.tell(cancel(1))[-1] == ChildTold("c", "cancel")
    assert run.tell(cancel(2)) == [] and run.told == []
    assert run.tell(cancel(3, interrupt=True))[-1] == ChildTold("c", "cancel", True)
    assert run.told == [Tell("me~c~0", "cancel", "enough", True, True)]
    assert run.tell(cancel(4, interrupt=True)) == [] and run.told == []
    assert run.tell(word(5, "me~c~0", "cancelled"))[-1] == RunCancelled()
    run = Talk(child("c"))
    assert run.tell(cancel(1, interrupt=True))[-1] == ChildTold("c", "cancel", True)
    assert run.tell(cancel(2, interrupt=True)) == []


def test_the_deadline_of_a_parent() -> None:
    """S5.2: its child is called back, and waited for without a timer."""
    run = Talk(step("a", compensate=handler), child("c"), deadline=5 * SECOND)
    run.tell(ok("a"))
    assert rest(run) == (RunStatus.SUSPENDED, run.now + 5 * SECOND)
    assert run.after(5).tell(Tick()) == [ChildTold("c", "cancel")]
    assert run.told == [Tell("me~c~0", "cancel", "its parent ends")]
    assert rest(run) == RESTING
    assert run.tell(Tick()) == []
    assert run.tell(word(1, "me~c~0", "cancelled"))[1:] == [UnwindStarted("deadline", OVERDUE), StepStarted("a!undo", 1)]


def test_a_step_fails_beside_a_child() -> None:
    """S11.3: at the top level; nothing starts meanwhile, and nobody turns in circles."""
    run = Talk(after(step("x", compensate=handler)), after(child("c")), after(step("y")), after(step("z"), "x"))
    run.tell(ok("y"))
    run.halt = True
    run.tell(ok("x"))  # z can start
    run.halt = False
    assert run.tell(cancel(1))[-1] == ChildTold("c", "cancel")
    assert list(run.state.due) == [""]
    assert rest(run) == RESTING
    assert kinds(run.tell(word(2, "me~c~0", "cancelled"))) == ["ChildEnded", "UnwindStarted", "StepStarted"]


def test_what_is_in_flight_is_recorded_before_the_children_are_told() -> None:
    """I28: the attempt beside them first."""
    run = Talk(after(step("x", compensate=handler)), after(child("c")))
    assert run.tell(cancel(1)) == [request(1)]
    assert kinds(run.tell(ok("x"))) == ["StepCompleted", "ChildTold"]


@pytest.mark.parametrize("how", ["cancelled", "overdue", "failed"])
def test_a_child_that_was_stopped_before_the_run_went_down(how: str) -> None:
    """I15: it is not told again, and waited for without turning in circles."""
    run = Talk(
        after(parallel("p", a=step("x"), b=child("c"), more={"join": "any"})), after(step("y")), after(step("z"), "y"), deadline=5 * SECOND
    )
    run.tell(ok("p/a/x"))
    assert run.told
    if how == "cancelled":
        run.tell(cancel(1))
    elif how == "overdue":
        run.after(5)
    records = run.tell(boom("y") if how == "failed" else ok("y"))
    assert records[-1] == ChildTold("p/b/c", "cancel")
    assert run.told == []
    assert rest(run) == RESTING
    assert run.tell(Tick()) == []
    assert run.tell(word(2, "me~p/b/c~0", "cancelled"))[-1] == (RunCancelled() if how == "cancelled" else RunFailed())


def test_nothing_moves_while_the_children_go_down() -> None:
    """S9.4: a point of no return that waits is not reached any more; the signal is kept for a retry."""
    run = Talk(after(commit("pay", pivot=True, waits=("go",))), after(child("c")))
    run.tell(Suspended("pay", 1, "go"))
    run.tell(cancel(1))
    assert run.tell(signal(2)) == []
    assert run.consumed == []
    assert kinds(run.tell(word(3, "me~c~0", "cancelled"))) == ["ChildEnded", "UnwindStarted", "RunCancelled"]
    run.tell(retry())
    assert kinds(run.tell(Suspended("pay", 1, "go"))) == ["StepSuspended", "SignalReceived"]


def test_timers_rest_while_the_children_go_down() -> None:
    """S9.4: the same for one whose time is out."""
    run = Talk(after(commit("pay", pivot=True)), after(child("c")))
    run.tell(Suspended("pay", 1, "go", SECOND, "1"))
    run.tell(cancel(1))
    assert run.after(2).tell(Tick()) == []
    run.tell(Block("DefinitionChanged", "why"))
    assert kinds(run.tell(Unblock())) == ["RunUnblocked"]
    assert run.tell(word(2, "me~c~0", "cancelled"))[-1] == RunCancelled()


def test_a_failed_child_fails_its_parent() -> None:
    """S3.9: with the cause."""
    run = Talk(step("a"), child("c"))
    run.tell(ok("a"))
    records = run.tell(word(1, "me~c~0", "failed"))
    assert kinds(records) == ["ChildEnded", "StepFailed", "UnwindStarted", "RunFailed"]
    failure = run.state.steps["c"].failure
    assert failure is not None
    assert (failure.type, failure.cause) == ("flux.errors:ChildFailed", Failure("builtins:ValueError", "child failed"))
    assert "failed: ValueError: child failed" in failure.message
    assert run.tell(retry())[-1] == ChildStarted("c", "me~c~1"), "another child"
    sketched(run)


def test_somebody_cancels_a_child() -> None:
    """S11: for its parent it has failed."""
    run = Talk(step("a", compensate=handler), child("c"))
    run.tell(ok("a"))
    assert kinds(run.tell(word(1, "me~c~0", "cancelled"))) == ["ChildEnded", "StepFailed", "UnwindStarted", "StepStarted"]
    assert "was cancelled" in str(run.state.steps["c"].failure)
    assert run.tell(ok("a!undo"))[-1] == RunFailed()


# --- undoing what has completed


def test_a_finished_child_is_undone() -> None:
    """S10.5, D6: it is told to, in its turn, and the parent goes on once it has."""
    run = Talk(step("a", compensate=handler), child("c"), step("b"))
    run.tell(ok("a"))
    run.tell(word(1, "me~c~0"))
    assert kinds(run.tell(Raised("b", 1, BOOM))) == ["StepFailed", "UnwindStarted", "ChildTold"]
    assert run.told == [Tell("me~c~0", "unwind")]
    assert rest(run) == (RunStatus.COMPENSATING, None)
    assert run.status("c") == "compensating"
    assert run.tell(Tick(), Lost(), cancel(2)) == []
    assert kinds(run.tell(word(3, "me~c~0", "cancelled"))) == ["ChildEnded", "StepStarted"]
    assert run.status("c") == "compensated"
    assert run.tell(ok("a!undo"))[-1] == RunFailed()
    sketched(run)


def test_several_are_undone_in_order() -> None:
    """S10.1, I31: children and steps, one by one, the last that began first."""
    run = Talk(child("c"), step("a", compensate=handler), parallel("p", a=child("d"), b=child("e")), step("b"))
    run.tell(word(1, "me~c~0"))
    run.tell(ok("a"))
    run.tell(word(2, "me~p/b/e~0"))
    run.tell(word(3, "me~p/a/d~0"))
    told: list[str] = []
    run.tell(boom("b"))
    for seq in range(4, 20):
        if run.state.ended is not None:
            break
        if run.told:
            (tell,) = run.told
            told.append(tell.run_id)
            run.tell(word(seq, tell.run_id, "cancelled"))
        else:
            (path,) = run.state.calls
            told.append(path)
            run.tell(ok(path))
    assert told == ["me~p/b/e~0", "me~p/a/d~0", "a!undo", "me~c~0"]
    assert run.state.ended is RunStatus.FAILED


def test_a_worker_that_gives_the_run_back_still_tells() -> None:
    """S14.4: no handler begins, and a child is told nevertheless: somebody else hears what it says."""
    run = Talk(step("a", compensate=handler), child("c"), step("b"))
    run.tell(ok("a"))
    run.tell(word(1, "me~c~0"))
    run.halt = True
    assert kinds(run.tell(boom("b"))) == ["StepFailed", "UnwindStarted", "ChildTold"]
    assert kinds(run.tell(word(2, "me~c~0", "cancelled"))) == ["ChildEnded"]
    assert rest(run) == (RunStatus.COMPENSATING, 0)
    run.halt = False
    assert run.tell(Tick()) == [StepStarted("a!undo", 1)]


def undoing(**kwargs: Any) -> Talk:
    run = Talk(step("a", compensate=handler), child("c"), step("b"), **kwargs)
    run.tell(ok("a"))
    run.tell(word(1, "me~c~0"))
    run.tell(boom("b"))
    return run


@pytest.mark.parametrize("policy", ["continue", "block"])
def test_a_child_that_is_past_its_point_of_no_return(policy: str) -> None:
    """D6: its parent blocks, whatever it does about compensations that fail."""
    for way in ("retry", "skip", "done"):
        run = undoing(on_compensation_failure=policy)
        assert kinds(run.tell(word(2, "me~c~0", "completed"))) == ["ChildEnded", "StepFailed", "RunBlocked"]
        blocked = run.state.blocked
        assert blocked is not None and (blocked.reason, blocked.path) == ("PastPivot", "c!undo")
        assert rest(run) == (RunStatus.BLOCKED, None)
        assert run.tell(Unblock()) == []
        records = run.tell(resolve("c!undo", way))
        if way == "retry":
            assert records[1:] == [ChildTold("c!undo", "unwind")]
            assert run.told == [Tell("me~c~0", "unwind")], "it is asked again"
            assert rest(run) == (RunStatus.COMPENSATING, None)
            records = run.tell(word(3, "me~c~0", "cancelled"))
        assert records[-1] == StepStarted("a!undo", 1)
        assert run.status("c") == ("completed" if way == "skip" else "compensated")
        assert run.tell(ok("a!undo"))[-1] == RunFailed()
        sketched(run)


def test_a_cancel_leaves_out_a_child_that_cannot_be_undone() -> None:
    """S11.2: of a run that is blocked on its way down."""
    run = undoing()
    run.tell(word(2, "me~c~0", "completed"))
    assert kinds(run.tell(cancel(3))) == ["CancelRequested", "StepResolved", "StepStarted"]
    run = undoing()
    run.tell(word(2, "me~c~0", "completed"))
    assert run.tell(cancel(3, compensate=False))[-1] == RunFailed()


@pytest.mark.parametrize("policy", ["continue", "block"])
def test_a_child_whose_undoing_failed(policy: str) -> None:
    """S10.3, S10.6: as any compensation that failed."""
    run = undoing(on_compensation_failure=policy)
    records = run.tell(word(2, "me~c~0", "failed dirty"))
    if policy == "block":
        assert kinds(records) == ["ChildEnded", "StepFailed", "RunBlocked"]
        records = run.tell(resolve("c!undo", "skip"))
    assert records[-1] == StepStarted("a!undo", 1)
    assert run.tell(ok("a!undo"))[-1] == RunFailed()
    assert run.status("c!undo") == "failed"


def test_a_cancelled_run_whose_child_left_something_behind() -> None:
    """S10.3, I33: it is failed, and not cancelled."""
    for status, end in (("cancelled", RunCancelled()), ("failed", RunCancelled()), ("failed dirty", RunFailed())):
        run = Talk(step("a"), child("c"))
        run.tell(ok("a"))
        run.tell(cancel(1))
        assert run.tell(word(2, "me~c~0", status))[-1] == end
    run.tell(retry())
    assert not run.state.unclean
    run.tell(cancel(3))
    assert run.tell(word(4, "me~c~1", "cancelled"))[-1] == RunCancelled(), "the next time it is clean"


# --- a child's side


def test_a_child_is_undone_for_its_parent() -> None:
    """D6: what has completed goes down once more, at its parent's demand alone."""
    run = Talk(step("a", compensate=handler))
    run.tell(ok("a"))
    assert kinds(run.tell(demand())) == ["UndoDemanded", "Reopened", "UnwindStarted", "StepStarted"]
    assert run.tell(ok("a!undo"))[-1] == RunCancelled()
    assert run.tell(demand(2)) == [UndoDemanded(2)]
    sketched(run)


def test_a_child_with_nothing_to_undo() -> None:
    """D6: it says so at once."""
    run = Talk(step("a"))
    run.tell(ok("a"))
    assert kinds(run.tell(demand())) == ["UndoDemanded", "Reopened", "UnwindStarted", "RunCancelled"]


def test_a_child_is_undone_in_the_order_in_which_it_was_done() -> None:
    """S10.1: the last that began first, as in any run."""
    pair = body(step("x", compensate=handler), step("y", compensate=handler))
    run = Talk(parallel("p", a=pair, b=pair))
    for path in ("p/b/x", "p/b/y", "p/a/x", "p/a/y"):
        run.tell(ok(path))
    run.tell(demand())
    assert run.state.undo == ("p/a/y", "p/b/y", "p/b/x", "p/a/x")


def test_a_child_past_its_point_of_no_return_says_so() -> None:
    """D6: the demand is recorded, so that its parent hears of it, and nothing else happens."""
    run = past_pivot()
    assert run.state.ended is RunStatus.COMPLETED
    assert run.tell(demand(1)) == [UndoDemanded(1)]
    assert run.tell(demand(2)) == [UndoDemanded(2)]
    assert rest(run) == (RunStatus.COMPLETED, None)


def test_a_child_that_is_being_replayed() -> None:
    """D6, D4: it is undone when it has ended."""
    run = Talk(commit("a", compensate=handler))
    run.tell(ok("a"))
    run.tell(replay())
    assert run.tell(demand(1)) == [UndoDemanded(1)]
    assert run.state.demand == 1
    records = run.tell(ok("a"))
    assert kinds(records) == ["StepCompleted", "RunCompleted", "Reopened", "UnwindStarted", "StepStarted"]
    assert run.state.demand == 0
    assert run.tell(ok("a!undo"))[-1] == RunCancelled()


def test_a_demand_that_comes_before_the_end() -> None:
    """D6: a child that somebody retries at that moment is undone once it has completed; if it fails, that is its answer."""
    for end, last in ((ok("a"), StepStarted("a!undo", 1)), (boom("a"), RunFailed())):
        run = Talk(step("a", compensate=handler))
        run.tell(boom("a"))
        run.tell(retry())
        run.tell(demand(1))
        assert run.tell(end)[-1] == last
        assert run.state.demand == 0


def test_a_failed_child_has_nothing_more_to_undo() -> None:
    """D6: it says what it is."""
    run = Talk(step("a"))
    run.tell(boom("a"))
    assert run.tell(demand(1)) == [UndoDemanded(1)]
    assert run.state.demand == 0


def test_a_child_has_its_own_children_undone() -> None:
    """S10.5: as a whole."""
    run = Talk(child("c"), step("a", compensate=handler))
    run.tell(word(1, "me~c~0"))
    run.tell(ok("a"))
    run.tell(demand(2))
    assert run.tell(ok("a!undo"))[-1] == ChildTold("c!undo", "unwind")
    assert run.tell(word(3, "me~c~0", "cancelled"))[-1] == RunCancelled()


def test_a_child_past_its_point_of_no_return_that_is_being_replayed() -> None:
    """D6: it stays what it is, and its parent hears that when the replay has ended."""
    run = past_pivot()
    run.tell(replay())
    assert run.tell(demand(1)) == [UndoDemanded(1)]
    assert run.tell(ok("pay"))[-1] == RunCompleted()
    assert run.state.ended is RunStatus.COMPLETED


# --- doing it again


def test_a_retry_does_not_build_on_a_child_that_is_half_undone() -> None:
    """D3: another child is made for one whose undoing has failed; what is left of that is on record."""
    run = undoing()
    run.tell(word(2, "me~c~0", "failed dirty"))
    run.tell(ok("a!undo"))
    assert run.tell(retry("a"))[-1] == StepStarted("a", 1)
    assert run.tell(ok("a"))[-1] == ChildStarted("c", "me~c~1")
    run = undoing()
    run.tell(word(2, "me~c~0", "completed"))
    run.tell(resolve("c!undo", "skip"), ok("a!undo"))
    run.tell(ok("a!undo"))
    run.tell(retry("a"))
    assert kinds(run.tell(ok("a"))) == ["StepCompleted", "ChildStarted", "ChildEnded", "StepStarted"], (
        "past its point of no return it stands"
    )


def test_a_retry_has_another_child_for_one_that_was_undone() -> None:
    """D2, D3: a compensated step is not done."""
    run = undoing()
    run.tell(word(2, "me~c~0", "cancelled"))
    run.tell(ok("a!undo"))
    run.tell(retry())
    assert run.tell(ok("a"))[-1] == ChildStarted("c", "me~c~1")
    run.tell(word(3, "me~c~1"))
    run.tell(boom("b"))
    assert run.told == [Tell("me~c~1", "unwind")], "the other is undone already"
    run.tell(word(4, "me~c~1", "cancelled"))
    run.tell(ok("a!undo"))
    run.tell(retry())
    assert run.tell(ok("a"))[-1] == ChildStarted("c", "me~c~2")


def test_a_retry_takes_over_a_child_that_stands() -> None:
    """I41, D2: it had completed and was not undone: it is the same, and what it came to counts."""
    run = Talk(step("a"), child("c"), step("b"))
    run.tell(ok("a"))
    run.tell(word(1, "me~c~0"))
    run.tell(cancel(2, compensate=False))
    run.tell(ok("b"))
    assert run.state.ended is RunStatus.CANCELLED
    assert run.tell(retry("a"))[-1] == StepStarted("a", 1)
    assert run.tell(ok("a"))[1:] == [
        ChildStarted("c", "me~c~0"), ChildEnded("c", 0, "completed", '"me~c~0"', None), StepStarted("b", 1),
    ]  # fmt: skip
    run.tell(boom("b"))
    assert run.told == [Tell("me~c~0", "unwind")]
    assert run.tell(word(3, "me~c~0", "cancelled"))[-1] == RunFailed()
    assert run.tell(retry("a"))[-1] == StepStarted("a", 1)
    assert run.tell(ok("a"))[-1] == ChildStarted("c", "me~c~1"), "now it is undone"
    sketched(run)


def test_a_child_that_stands_is_owed() -> None:
    """I30: when the retry fails before it comes there again, or leaves it out this time."""
    for skip in (False, True):
        answers = {"c": True}
        run = Talk(step("a"), child("c", when=Answer(answers)), step("b"))
        run.tell(ok("a"))
        run.tell(word(1, "me~c~0"))
        run.tell(cancel(2, compensate=False), ok("b"))
        run.tell(retry("a"))
        if skip:
            answers["c"] = False
            assert run.tell(ok("a"))[1:] == [StepSkipped("c"), StepStarted("b", 1)]
        run.tell(boom("b" if skip else "a"))
        assert run.told == [Tell("me~c~0", "unwind")]
        assert run.tell(word(3, "me~c~0", "cancelled"))[-1] == RunFailed()
        assert run.status("c") == "compensated"


def test_a_retry_of_what_a_child_depends_on() -> None:
    """I41: refused while that child goes on, for there would be two."""
    run = Talk(after(step("a")), after(child("c"), "a"), after(step("b")), crash_limit=1)
    run.tell(ok("a"))
    assert "c" in run.state.children
    for _ in range(9):
        run.alone = True
        run.tell(Lost())
        run.after(60).tell(Tick())
    assert run.state.status == "blocked"
    refused(run, retry("a"), InvalidArgument, "would do 'c' again, whose child 'me~c~0' goes on")
    refused(run, retry("c"), InvalidArgument, "would do 'c' again")
    assert run.tell(resolve("b", "retry"))[-1] == StepStarted("b", 1)
    assert run.state.children == {"c": "me~c~0"}, "it goes on beside it"
    run.tell(word(1, "me~c~0"))
    assert run.tell(ok("b"))[-1] == RunCompleted()


def test_a_retry_beside_a_child() -> None:
    """D3, I41: what goes on by itself does, though nothing else in its branch is done."""
    run = Talk(after(parallel("p", a=wait("go"), b=child("c"))), after(commit("pay", pivot=True)), after(step("x")))
    run.tell(ok("pay"))
    assert kinds(run.tell(boom("x"))) == ["StepFailed", "RunBlocked"]
    assert run.tell(resolve("x", "retry")) == [resolved("x", "retry"), StepStarted("x", 1)]
    assert run.state.children == {"p/b/c": "me~p/b/c~0"}
    run.tell(ok("x"), signal(1))
    assert run.tell(word(2, "me~p/b/c~0"))[-1] == RunCompleted()


def test_a_retry_of_a_branch_beside_a_child_that_was_stopped() -> None:
    """I15: the join is lifted, and the child, which goes down, counts as failed."""
    run = Talk(after(parallel("p", a=step("x"), b=child("c"), more={"join": "any"})), after(step("y")), crash_limit=1)
    run.tell(ok("p/a/x"))
    while run.state.status != "blocked":
        run.alone = True
        run.tell(Lost())
        run.after(60).tell(Tick())
    run.tell(resolve("y", "retry"))
    run.tell(ok("y"))
    assert run.tell(word(1, "me~p/b/c~0", "cancelled"))[-1] == RunCompleted()


def test_a_child_that_failed_past_the_point_of_no_return() -> None:
    """S9.4: a person says what becomes of it."""
    for way, then in (("retry", ChildStarted("c", "me~c~1")), ("skip", StepStarted("b", 1)), ("done", StepStarted("b", 1))):
        run = past_pivot(child("c"), step("b"))
        assert kinds(run.tell(word(1, "me~c~0", "failed"))) == ["ChildEnded", "StepFailed", "RunBlocked"]
        assert run.tell(resolve("c", way, '"by hand"' if way == "done" else None))[-1] == then
    run.tell(cancel(2, compensate=False))
    assert run.tell(ok("b"))[-1] == RunCancelled()
    assert not run.told


def test_children_beside_a_failure_past_the_point_of_no_return() -> None:
    """S9.4, D10: they go on while the run is blocked, and their end is recorded."""
    run = Talk(after(commit("pay", pivot=True)), after(step("x"), "pay"), after(child("c"), "pay"), after(step("y"), "c"))
    run.tell(ok("pay"))
    assert kinds(run.tell(boom("x"))) == ["StepFailed", "RunBlocked"]
    assert run.told == []
    assert kinds(run.tell(word(1, "me~c~0"))) == ["ChildEnded"]
    assert run.tell(resolve("x", "retry"))[1:] == [StepStarted("x", 1), StepStarted("y", 1)]
    run = past_pivot(child("c"), deadline=5 * SECOND)
    assert run.after(5).tell(Tick())[-1].reason == "DeadlineExceeded"  # type: ignore[attr-defined]
    assert run.tell(Unblock()) == [RunUnblocked()]
    assert rest(run) == RESTING
    assert run.tell(word(1, "me~c~0"))[-1] == RunCompleted()


def test_a_cancel_past_the_point_of_no_return_with_a_child() -> None:
    """D10: refused, and the child goes on; with compensate=False it is told."""
    run = past_pivot(child("c"))
    assert run.tell(cancel(1)) == [CancelRefused(1)]
    assert run.told == []
    run.tell(cancel(2, compensate=False))
    assert run.told == [Tell("me~c~0", "cancel", "enough", False)]
    assert run.tell(word(3, "me~c~0", "cancelled"))[-1] == RunCancelled()


def test_a_cancel_of_a_blocked_run_with_a_child() -> None:
    """S2.1, I15: it goes down once its child has, and a person's word between changes nothing."""
    run = Talk(after(step("a")), after(child("c")), crash_limit=1)
    while run.state.status != "blocked":
        run.alone = True
        run.tell(Lost())
        run.after(60).tell(Tick())
    assert run.tell(cancel(1))[-1] == ChildTold("c", "cancel")
    run.tell(resolve("a", "retry"))
    assert run.state.wake_at is None
    assert run.tell(word(2, "me~c~0", "cancelled"))[-1] == RunCancelled()


def test_a_resolution_while_the_children_go_down() -> None:
    """S2.1, I15: the run goes on after all, and has lost the child that was told to end."""
    run = Talk(after(step("x")), after(child("c")), after(step("y"), "x"))
    assert kinds(run.tell(boom("x"))) == ["StepFailed", "ChildTold"]
    run.tell(Block("DefinitionChanged", "why", "x"))
    assert run.tell(resolve("x", "retry"))[-1] == StepStarted("x", 1)
    assert run.tell(ok("x"))[-1] == StepStarted("y", 1)
    assert kinds(run.tell(word(1, "me~c~0", "cancelled"))) == ["ChildEnded", "StepFailed"]
    assert run.tell(ok("y"))[-1] == RunFailed()


def test_replay_serves_children() -> None:
    """D4: only commit steps run again."""
    run = Talk(child("c"), commit("a"), child("d"), commit("b"))
    run.tell(word(1, "me~c~0"))
    run.tell(ok("a"))
    run.tell(word(2, "me~d~0"))
    run.tell(ok("b"))
    assert run.tell(replay()) == [once_more(1), StepStarted("a", 1)]
    assert run.tell(ok("a"))[-1] == StepStarted("b", 1)
    assert run.tell(ok("b"))[-1] == RunCompleted()
    assert run.status("c") == "completed"
    sketched(run)


def test_a_fork_inherits_no_child() -> None:
    """D5: its result, and not the duty to undo it."""
    steps = (child("c"), parallel("p", a=child("d"), b=step("x")), child("e"), step("b"))
    origin = Talk(*steps)
    origin.tell(word(1, "me~c~0"))
    with pytest.raises(InvalidArgument, match="not done"):
        inherited(origin.state, origin.plan, "e")
    origin.tell(ok("p/b/x"))
    origin.tell(word(2, "me~p/a/d~0"))
    shared = inherited(origin.state, origin.plan, "e")
    run = Talk(*steps, inherited=[RunForked("origin", "e", "ana", "why"), *shared])
    assert (run.state.result_text("c"), run.first[-1]) == ('"me~c~0"', ChildStarted("e", "me~e~0"))
    run.tell(word(1, "me~e~0"))
    run.tell(boom("b"))
    assert run.told == [Tell("me~e~0", "unwind")]
    assert run.tell(word(2, "me~e~0", "cancelled"))[-1] == RunFailed()
    assert run.tell(retry("c"))[-1] == ChildStarted("c", "me~c~0"), "its own first, under its own id"
    assert [type(one) for one in shared] == [StepInherited] * 4
    kinds_drawn = {one.name: one.kind for one in sketch(record for _, row in run.rows[:1] for record in row).steps}
    assert kinds_drawn["c"] is Kind.CHILD
    sketched(run)


# --- changed code


def test_a_renamed_child() -> None:
    """S13: it is waited for, and undone, under its new name."""
    old = Talk(step("a"), child("c"), step("b"))
    old.tell(ok("a"))
    run = moved_to(step("a"), child("d"), step("b"), old=old, rename={"c": "d"})
    run.tell(Migrate())
    assert (run.state.children, run.told) == ({"d": "me~c~0"}, [])
    assert run.tell(word(1, "me~c~0"))[-1] == StepStarted("b", 1)
    assert run.state.key_of("d") == ("c", 0)
    run.tell(boom("b"))
    assert run.told == [Tell("me~c~0", "unwind")]
    assert run.tell(word(2, "me~c~0", "cancelled"))[-1] == RunFailed()


def test_a_dropped_child_that_is_done() -> None:
    """S13, I30: what it did is owed."""
    old = Talk(child("gone"), step("b"))
    old.tell(word(1, "me~gone~0"))
    run = moved_to(step("b"), old=old, drop=("gone",))
    run.tell(Migrate(), Lost(), Tick())
    run.tell(Raised("b", next(iter(run.state.calls.values())).attempt, BOOM))
    assert run.told == [Tell("me~gone~0", "unwind")]
    assert run.tell(word(2, "me~gone~0", "cancelled"))[-1] == RunFailed()


def dropped(*more: Step, **kwargs: Any) -> Talk:
    """A run that stood at a child that is gone."""
    old = Talk(step("a", compensate=handler), child("gone"), *more, **kwargs)
    old.tell(ok("a"))
    return moved_to(step("a", compensate=handler), *more, old=old, drop=("gone",))


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_dropped_child_that_goes_on(status: str) -> None:
    """S13, I15: it is told to end, the run goes on beside it, and what it comes to fails nobody."""
    run = dropped(step("b"), step("z"))
    assert kinds(run.tell(Migrate())) == ["RunMigrated", "ChildTold", "StepStarted"]
    assert run.told == [Tell("me~gone~0", "cancel", "its step is gone")]
    assert run.tell(ok("b"))[-1] == StepStarted("z", 1)
    assert kinds(run.tell(word(1, "me~gone~0", status))) == ["ChildEnded"]
    assert run.status("gone") == ("completed" if status == "completed" else "cancelled")
    assert run.tell(boom("z"))[-1] == (ChildTold("gone!undo", "unwind") if status == "completed" else StepStarted("a!undo", 1))


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_the_end_waits_for_a_dropped_child(status: str) -> None:
    """I15: no run ends before its children have."""
    run = dropped(step("b"))
    run.tell(Migrate())
    assert kinds(run.tell(ok("b"))) == ["StepCompleted", "ChildTold"]
    assert run.told == []
    assert rest(run) == RESTING
    assert run.tell(Tick()) == []
    assert run.tell(word(1, "me~gone~0", status))[-1] == RunCompleted()
    run = dropped()
    assert kinds(run.tell(Migrate())) == ["RunMigrated", "ChildTold", "ChildTold"]
    assert run.tell(word(1, "me~gone~0", status))[-1] == RunCompleted()
    run = dropped(step("b"))
    run.tell(Migrate())
    run.tell(cancel(1), ok("b"))
    assert run.tell(word(2, "me~gone~0", status))[-1] == (
        ChildTold("gone!undo", "unwind") if status == "completed" else StepStarted("a!undo", 1)
    )


def test_the_end_past_the_pivot_waits_for_a_dropped_child() -> None:
    """D10, I15: also when its deadline has passed meanwhile."""
    old = Talk(commit("pay", pivot=True), child("gone"), step("b"), deadline=5 * SECOND)
    old.tell(ok("pay"))
    run = moved_to(commit("pay", pivot=True), step("b"), old=old, drop=("gone",))
    run.tell(Migrate())
    assert kinds(run.after(5).tell(ok("b"))) == ["StepCompleted", "ChildTold"]
    assert rest(run) == RESTING
    assert run.tell(word(1, "me~gone~0", "cancelled"))[-1] == RunCompleted()


def test_a_dropped_branch_with_a_child() -> None:
    """S13: the step around it is left, and the child told."""
    for stopped in (False, True):
        old = Talk(parallel("p", a=step("x"), b=child("c"), more={"join": "any"}), step("b"))
        if stopped:
            old.tell(ok("p/a/x"))
        run = moved_to(step("b"), old=old, drop=("p",))
        records = run.tell(Migrate(), Lost())
        assert kinds(records) == ["RunMigrated"] + ["ChildTold"] * (not stopped) + ["StepStarted"]
        assert run.tell(ok("b"))[-1] == ChildTold("p/b/c", "cancel")
        assert run.tell(word(1, "me~p/b/c~0", "cancelled"))[-1] == RunCompleted()
        assert not run.state.stopping


def test_a_dropped_child_that_had_failed() -> None:
    """S13, S9.4: the run that was blocked at it goes on without it."""
    old = past_pivot(child("gone"), step("b"))
    old.tell(word(1, "me~gone~0", "failed"))
    run = moved_to(*old.definition.steps[:2], step("b"), old=old, drop=("gone",))
    assert kinds(run.tell(Migrate())) == ["RunMigrated", "StepStarted"]
    old = Talk(step("a"), child("gone"), step("b"))
    old.tell(ok("a"))
    old.tell(word(1, "me~gone~0", "failed"))
    run = moved_to(step("a"), step("b"), old=old, drop=("gone",))
    run.tell(Migrate())
    assert run.tell(retry())[-1] == StepStarted("b", 1)


def test_a_dropped_child_that_is_being_undone() -> None:
    """S10.2: its undoing goes on, and so does that of a parent that is blocked at it."""
    old = Talk(child("gone"), step("b"))
    old.tell(word(1, "me~gone~0"))
    old.tell(boom("b"))
    run = moved_to(step("b"), old=old, drop=("gone",))
    assert kinds(run.tell(Migrate())) == ["RunMigrated"]
    assert run.tell(word(2, "me~gone~0", "cancelled"))[-1] == RunFailed()


def test_a_run_goes_down_while_its_code_changes() -> None:
    """S13, I15: a dropped child that was told already is not told again."""
    old = Talk(step("a"), child("gone"), step("b"))
    old.tell(ok("a"))
    old.tell(cancel(1))
    run = moved_to(step("a"), step("b"), old=old, drop=("gone",))
    assert kinds(run.tell(Migrate())) == ["RunMigrated"]
    assert (run.told, rest(run)) == ([], RESTING)
    assert run.tell(word(2, "me~gone~0", "cancelled"))[-1] == RunCancelled()


# --- what is waited for beside attempts that run


@pytest.mark.parametrize("how", ["cancelled", "failed", "overdue"])
def test_a_retry_that_is_due_while_the_run_goes_down(how: str) -> None:
    """I17: it is not started, and the attempt that runs is not waited for by turning in circles."""
    run = Talk(after(commit("x")), after(step("y", retries=1)), after(step("z")), deadline=5 * SECOND)
    run.tell(boom("y"))
    if how == "cancelled":
        run.tell(cancel(1))
    if how == "failed":
        run.tell(boom("z"))
    run.after(5 if how == "overdue" else 1)
    assert run.tell(Tick()) == []
    assert outstanding(run.state, run.now).wake_at == (None if how == "overdue" else T0 + 5 * SECOND)


# --- of definitions


def test_the_children_of_a_definition() -> None:
    """S1.4: found at any depth, so that they can be registered with it."""
    one, two = Definition("one"), Definition("two")
    inner = Body((child("c", child=two),))
    assert child_workflows(Body((child("a", child=one), Step("l", Kind.LOOP, body=inner), step("b")))) == [one, two]


def test_what_is_called_on_behalf_of_a_child() -> None:
    """S10.5: its undoing is a path of its own; a child has no probe."""
    run = Talk(child("c"))
    node = run.plan.root.by_name["c"]
    assert node.undo is not None and node.probe is None
    assert (base_path("c" + UNDO), base_path("c" + PROBE)) == ("c", "c")

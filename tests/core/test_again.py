"""Doing it again, as transcripts: retry, replay, fork, resolve, the point of no return, and probes."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.actions import outstanding
from flux.core.again import first_undone, inherited
from flux.core.commands import (
    Advance,
    Answered,
    Block,
    Command,
    Continued,
    Cut,
    Lost,
    Raised,
    Reopen,
    Resolve,
    Returned,
    Suspended,
    Tick,
    Unblock,
)
from flux.core.failure import Failure
from flux.core.records import (
    AttemptCut,
    AttemptFailed,
    AttemptIsolated,
    AttemptLost,
    BranchEnded,
    CancelRefused,
    Record,
    Reopened,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunForked,
    RunUnblocked,
    SignalReceived,
    StepCompleted,
    StepFailed,
    StepInherited,
    StepProbed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSuspended,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from flux.core.retry import SECOND
from flux.core.status import RunStatus, StepStatus
from flux.core.workflow import Body
from flux.errors import InvalidArgument, PastPivot

from .test_machine import BOOM, CANCELLED, OVERDUE, SLOW, Talk, cancel, lose, ok, request, signal
from .world import T0, Answer, commit, freeze, handler, step, wait


def retry(from_step: str = "") -> Reopen:
    return Reopen("retry", from_step, "ana", "why")


def replay() -> Reopen:
    return Reopen("replay", "", "ana", "why")


def again(generation: int, path: str, deadline_at: int | None = None) -> Reopened:
    return Reopened(generation, "retry", path, "ana", "why", deadline_at)


def once_more(generation: int) -> Reopened:
    return Reopened(generation, "replay", "", "ana", "why")


def resolve(path: str, way: Any, result: str | None = None) -> Resolve:
    return Resolve(path, way, result, "ana", "why")


def resolved(path: str, way: Any, result: str | None = None) -> StepResolved:
    return StepResolved(path, way, result, "ana", "why")


def does(path: str, result: str, attempt: int = 1, **changes: str) -> Returned:
    """A handler that returned and changed the data."""
    return Returned(path, attempt, result, dict(changes))


def boom(path: str, attempt: int = 1) -> Raised:
    return Raised(path, attempt, BOOM)


def refused(run: Talk, command: Command, error: type[Exception], match: str) -> None:
    """The command raises, and leaves no trace."""
    before = freeze(run.state)
    with pytest.raises(error, match=match):
        run.tell(command)
    assert freeze(run.state) == before
    assert not run.state.log


# --- retry (D1 to D3, S12.2)


def test_retry_goes_on_from_the_step_that_failed() -> None:
    """S12.2, D3: what is done stays done; the step's attempts and the data begin anew."""
    run = Talk(step("a"), step("b", retries=1), step("c"))
    run.tell(does("a", "1", k="1"))
    run.tell(boom("b"))
    run.after(1).tell(Tick())
    assert run.tell(boom("b", 2)) == [StepFailed("b", 2, BOOM), UnwindStarted("failed", BOOM), RunFailed()]
    assert run.tell(retry()) == [again(1, "b"), StepStarted("b", 1)]
    assert (run.state.status, run.state.generation, run.state.data) == (RunStatus.RUNNING, 1, {"k": "1"})
    assert run.tell(boom("b")) == [AttemptFailed("b", 1, BOOM, run.now + SECOND)], "its retries begin anew"
    run.after(1).tell(Tick())
    assert run.tell(ok("b", 2)) == [StepCompleted("b", 2, "1"), StepStarted("c", 1)]
    assert run.tell(ok("c")) == [StepCompleted("c", 1, "1"), RunCompleted()]
    assert run.tell(retry()) == [again(2, ""), RunCompleted()], "there is nothing left to do"


def test_retry_after_compensation_begins_at_the_first_compensated_step() -> None:
    """D3, D2: a compensated step is not done, and its key rises; the compensation shares it."""
    run = Talk(step("a"), step("b", compensate=handler), step("c", compensate=handler), step("d"))
    run.tell(does("a", "1", k="1"))
    run.tell(does("b", "2", k="2"))
    run.tell(does("c", "3", k="3"))
    run.tell(boom("d"))
    run.tell(ok("c!undo"))
    run.tell(ok("b!undo"))
    assert run.state.data == {"k": "3"}
    assert [run.state.key_of(path) for path in ("a", "b", "b!undo")] == [("a", 0), ("b", 0), ("b", 0)]
    assert run.tell(retry()) == [again(1, "b"), StepStarted("b", 1)]
    assert run.state.data == {"k": "1"}, "as it was before that step"
    assert [run.state.key_of(path) for path in ("a", "b", "b!undo", "c!probe", "d")] == [
        ("a", 0), ("b", 1), ("b", 1), ("c", 1), ("d", 0),
    ]  # fmt: skip
    run.tell(ok("b"))
    assert run.tell(cancel()) == [request()]
    run.tell(ok("c"))
    assert run.tell(ok("c!undo")) == [StepCompleted("c!undo", 1, "1"), StepStarted("b!undo", 1)]
    assert run.tell(ok("b!undo")) == [StepCompleted("b!undo", 1, "1"), RunCancelled()]
    run.tell(retry())
    assert [run.state.key_of(path)[1] for path in "abcd"] == [0, 2, 2, 0]


def test_retry_after_a_cancel() -> None:
    """S12.2, S11: the cancel is over, and the steps that it stopped start again; with `when` asked again (D3)."""
    run = Talk(step("a"), wait("go", when=Answer(True)), step("b", when=Answer(False)))
    run.tell(ok("a"))
    assert run.tell(cancel()) == [request(), UnwindStarted("cancelled", CANCELLED), RunCancelled()]
    assert run.tell(signal(2)) == [], "kept for whoever retries"
    assert run.tell(retry()) == [
        again(1, "go"),
        WaitStarted("go", "go"),
        SignalReceived("go", 2, '"yes"'),
        StepSkipped("b"),
        RunCompleted(),
    ]
    assert (run.consumed, run.state.cancel, run.state.unwinding) == ([2], None, None)


def test_retry_inside_a_branch() -> None:
    """D3: the branch was entered, and what is done in there stays done."""
    run = Talk(step("a"), wait("go", timeout=SECOND, on_timeout=Body((step("x"), step("y"), step("z")))), step("b"))
    run.tell(ok("a"))
    run.after(1).tell(Tick())
    run.tell(does("go/on_timeout/x", "1", k="x"))
    run.tell(boom("go/on_timeout/y"))
    assert (run.status("go"), run.state.ended) == ("failed", "failed")
    refused(run, retry("go/on_timeout/z"), InvalidArgument, "would skip 'go/on_timeout/y'")
    assert run.tell(retry()) == [again(1, "go/on_timeout/y"), StepStarted("go/on_timeout/y", 1)]
    assert (run.status("go"), run.state.data) == ("running", {"k": "x"})
    assert run.tell(ok("go/on_timeout/y"))[1:] == [StepStarted("go/on_timeout/z", 1)]
    assert run.tell(boom("go/on_timeout/z"))[:2] == [StepFailed("go/on_timeout/z", 1, BOOM), StepFailed("go", 0, BOOM)]
    assert run.tell(retry("go/on_timeout/x")) == [again(2, "go/on_timeout/x"), StepStarted("go/on_timeout/x", 1)]
    assert run.state.data == {}
    run.tell(boom("go/on_timeout/x"))
    assert run.tell(retry("go")) == [again(3, "go"), WaitStarted("go", "go", run.now + SECOND)]
    assert run.tell(signal(1)) == [SignalReceived("go", 1, '"yes"'), StepStarted("b", 1)]


def test_what_was_undone_inside_a_finished_branch_is_done_again() -> None:
    """D3: the wait is done, but a step in its branch was compensated, so the retry begins there."""
    run = Talk(wait("go", timeout=SECOND, on_timeout=Body((step("x"), step("y", compensate=handler)))), step("b"))
    run.after(1).tell(Tick())
    run.tell(ok("go/on_timeout/x"))
    run.tell(ok("go/on_timeout/y"))
    run.tell(boom("b"))
    run.tell(ok("go/on_timeout/y!undo"))
    assert [run.status(path) for path in ("go", "go/on_timeout/y")] == ["completed", "compensated"]
    assert run.tell(retry()) == [again(1, "go/on_timeout/y"), StepStarted("go/on_timeout/y", 1)]
    assert run.tell(ok("go/on_timeout/y")) == [StepCompleted("go/on_timeout/y", 1, "1"), BranchEnded("go"), StepStarted("b", 1)]


def test_a_branch_that_was_not_taken_cannot_be_retried_into() -> None:
    """D3: nor one that only an earlier generation took."""
    run = Talk(wait("go", timeout=SECOND, on_timeout=Body((step("x", compensate=handler),))), step("b"))
    run.tell(signal(1))
    run.tell(boom("b"))
    refused(run, retry("go/on_timeout/x"), InvalidArgument, "did not take")

    run = Talk(wait("go", timeout=SECOND, on_timeout=Body((step("x", compensate=handler),))), step("b"))
    run.after(1).tell(Tick())
    run.tell(ok("go/on_timeout/x", result='"x"'))
    run.tell(cancel(1, compensate=False))
    run.tell(ok("b"))
    run.tell(retry("go"))
    run.tell(signal(2))
    assert run.tell(boom("b"))[-1] == StepStarted("go/on_timeout/x!undo", 1), "its effect is owed all the same"
    assert run.state.result_text("go/on_timeout/x") == '"x"'
    run.tell(ok("go/on_timeout/x!undo"))
    refused(run, retry("go/on_timeout/x"), InvalidArgument, "did not take")
    assert first_undone(run.state) == "b"


def test_retry_from_an_earlier_step() -> None:
    """S12.2: it and all that follow are done again; a later one than the first that is not done is refused, and an unknown one."""
    run = Talk(step("a"), step("b"), step("c"), step("d"))
    for path in "abc":
        run.tell(does(path, "1", k=f'"{path}"'))
    run.tell(boom("d"))
    assert run.tell(retry("b")) == [again(1, "b"), StepStarted("b", 1)]
    assert run.state.data == {"k": '"a"'}
    assert run.tell(ok("b"))[1:] == [StepStarted("c", 1)]
    run.tell(boom("c"))
    refused(run, retry("d"), InvalidArgument, "would skip 'c'")
    refused(run, retry("e"), InvalidArgument, "no step 'e'")
    refused(run, retry("c!undo"), InvalidArgument, "no step")
    refused(run, retry("a/b"), InvalidArgument, "no step")


def test_retry_reckons_its_deadline_anew() -> None:
    """S5.2, I20: computed once a generation."""
    run = Talk(wait("go"), deadline=9 * SECOND)
    assert run.after(9).tell(Tick()) == [UnwindStarted("deadline", OVERDUE), RunFailed()]
    assert run.after(1).tell(retry()) == [again(1, "go", run.now + 9 * SECOND), WaitStarted("go", "go")]
    assert (run.state.deadline_at, run.state.wake_at) == (T0 + 19 * SECOND, T0 + 19 * SECOND)
    assert run.after(9).tell(Tick())[0] == UnwindStarted("deadline", OVERDUE)


def test_retry_of_a_blocked_run() -> None:
    """S12.2: from a step, whatever it is blocked for on its way up."""
    run = Talk(step("a"), step("b"))
    run.tell(ok("a"))
    run.tell(Block("DefinitionChanged", "why"), Lost())
    assert run.tell(retry("a")) == [again(1, "a"), StepStarted("a", 1)]
    assert run.state.blocked is None


def test_effects_of_an_earlier_generation_are_owed() -> None:
    """I30, S10.4: done in generation 0, reset by a retry and not reached again, or failing this time, it is still undone: once,
    in order, with the result that it had."""
    run = Talk(*(step(name, compensate=handler) for name in "abcd"))
    for path in "abc":
        run.tell(Returned(path, 1, f'"{path}"'))
    run.tell(cancel(1, compensate=False))
    run.tell(boom("d"))
    assert run.state.status == "cancelled"
    run.tell(retry("b"))
    assert sorted(run.state.owed) == ["c"]
    assert run.tell(boom("b")) == [StepFailed("b", 1, BOOM), UnwindStarted("failed", BOOM), StepStarted("c!undo", 1)]
    assert run.state.result_text("c") == '"c"'
    assert run.tell(ok("c!undo")) == [StepCompleted("c!undo", 1, "1"), StepStarted("b!undo", 1)], "it failed now, and was done then"
    assert run.state.result_text("b") == '"b"'
    run.tell(ok("b!undo"))
    assert run.tell(ok("a!undo")) == [StepCompleted("a!undo", 1, "1"), RunFailed()]
    assert [run.status(path) for path in "abc"] == ["compensated"] * 3
    run.tell(retry())
    assert run.tell(boom("a")) == [StepFailed("a", 1, BOOM), UnwindStarted("failed", BOOM), RunFailed()], "nothing twice"


def test_what_several_generations_owe_is_undone_in_the_order_of_the_steps() -> None:
    """I31: the last step first, whichever generation it is of."""
    run = Talk(*(step(name, compensate=handler) for name in "abcd"))
    for path in "abc":
        run.tell(ok(path))
    run.tell(cancel(1, compensate=False))
    run.tell(boom("d"))
    run.tell(retry("b"))
    run.tell(cancel(2, compensate=False))
    run.tell(boom("b"))
    run.tell(retry("a"))
    assert run.tell(boom("a"))[-1] == StepStarted("c!undo", 1)
    assert run.state.undo == ("c", "b", "a")

    branch = Body((step("x", compensate=handler),))
    run = Talk(wait("go", timeout=SECOND, on_timeout=branch), step("b", compensate=handler), step("c"))
    run.after(1).tell(Tick())
    run.tell(ok("go/on_timeout/x"))
    run.tell(ok("b"))
    run.tell(cancel(1, compensate=False))
    run.tell(boom("c"))
    run.tell(retry("go"))
    run.tell(signal(2))
    run.tell(ok("b"))
    assert run.tell(boom("c"))[-1] == StepStarted("b!undo", 1)
    assert run.state.undo == ("b", "go/on_timeout/x"), "what this generation did not come to stands where it was"


def test_a_step_that_is_skipped_this_time_is_undone_for_the_last() -> None:
    """I30, S10.5: what was done stays owed, whatever `when` says now."""
    answer = [True]

    class Asked(Talk):
        def _ask(self, node: Any, path: str, question: str) -> Any:
            return answer[0]

    run = Asked(step("a", compensate=handler, when=Answer(True)), step("b"))
    run.tell(ok("a"))
    run.tell(cancel(1, compensate=False))
    run.tell(boom("b"))
    answer[0] = False
    assert run.tell(retry("a")) == [again(1, "a"), StepSkipped("a"), StepStarted("b", 1)]
    assert run.tell(boom("b"))[-1] == StepStarted("a!undo", 1)


def test_a_compensation_that_failed_is_owed_still() -> None:
    """I30, S10.3: the next way down tries it again."""
    run = Talk(step("a", compensate=handler), step("b"))
    run.tell(ok("a"))
    run.tell(boom("b"))
    assert run.tell(boom("a!undo")) == [StepFailed("a!undo", 1, BOOM), RunFailed()]
    assert run.tell(retry()) == [again(1, "b"), StepStarted("b", 1)], "a is done, as nothing could undo it"
    assert run.tell(boom("b"))[-1] == StepStarted("a!undo", 1)
    assert run.tell(ok("a!undo")) == [StepCompleted("a!undo", 1, "1"), RunFailed()]


# --- replay (D4, S9.3)


def replayable() -> Talk:
    """A completed run with two commit steps."""
    run = Talk(step("a"), commit("b", compensate=handler), step("c"), commit("d"), step("e"))
    for path in "abcde":
        run.tell(does(path, f'"{path}"', k=f'"{path}"', **{path: "1"}))
    assert run.state.status == "completed"
    return run


def test_replay_runs_commit_steps_again_in_order() -> None:
    """S9.3, D4, D2: on the data of that time, under the same keys; what they return now is what the run has."""
    run = replayable()
    assert run.tell(replay()) == [once_more(1), StepStarted("b", 1)]
    assert (run.state.status, run.state.data) == (RunStatus.RUNNING, {"k": '"a"', "a": "1"})
    assert run.tell(does("b", '"new"', k='"B"', b="2")) == [StepCompleted("b", 1, '"new"', {"k": '"B"', "b": "2"}), StepStarted("d", 1)]
    assert run.state.data == {"k": '"c"', "a": "1", "b": "2", "c": "1"}
    assert run.tell(ok("d", result='"newer"')) == [StepCompleted("d", 1, '"newer"'), RunCompleted()]
    assert run.state.data == {"k": '"e"', "a": "1", "b": "2", "c": "1", "e": "1"}
    assert [run.state.steps[path].result for path in "abcde"] == ['"a"', '"new"', '"c"', '"newer"', '"e"']
    assert run.state.keys == {}
    assert [len(run.state.past.get(path, ())) for path in "abcde"] == [0, 1, 0, 1, 0]
    assert Talk(step("a")).tell(ok("a"), replay()) == [StepCompleted("a", 1, "1"), RunCompleted()], "only what has ended"
    run = Talk(step("a"))
    run.tell(ok("a"))
    assert run.tell(replay()) == [once_more(1), RunCompleted()]


def test_replay_that_fails_blocks_and_compensates_nothing() -> None:
    """D4: a person decides; an Unblock does not, and a cancel restores what was."""
    run = replayable()
    run.tell(replay())
    blocked = RunBlocked("ReplayFailed", "'b' failed when it was run again: ValueError: boom", "b")
    assert run.tell(boom("b")) == [StepFailed("b", 1, BOOM), blocked]
    assert (run.state.status, run.tell(Unblock()), run.tell(Advance())) == ("blocked", [], [])
    data = replayable().state.data
    assert run.tell(cancel()) == [request(), RunCompleted()]
    assert (run.state.status, run.state.data, run.state.cancel, run.state.replay) == ("completed", data, None, None)
    assert (run.state.steps["b"].result, run.status("b")) == ('"b"', "completed")


def test_cancelled_replay_keeps_what_was_run_again() -> None:
    """D4, S9.1: the commit step in flight ends first, and nothing is interrupted."""
    run = replayable()
    run.tell(replay())
    assert run.tell(cancel(interrupt=True)) == [request(interrupt=True)]
    assert outstanding(run.state, run.now).interrupt == []
    assert run.tell(ok("b", result='"new"')) == [StepCompleted("b", 1, '"new"'), RunCompleted()]
    assert [run.state.steps[path].result for path in "bd"] == ['"new"', '"d"']
    assert (run.status("d"), run.state.calls, run.state.parked) == ("completed", {}, {})


@pytest.mark.parametrize(("way", "result"), [("skip", '"b"'), ("done", '"mine"')])
def test_failed_replay_is_resolved(way: str, result: str) -> None:
    """D4: left as it was, or taken as done with another result; then the next one's turn."""
    run = replayable()
    run.tell(replay())
    run.tell(boom("b"))
    told = '"mine"' if way == "done" else None
    assert run.tell(resolve("b", way, told)) == [resolved("b", way, told), StepStarted("d", 1)]
    assert (run.state.steps["b"].result, run.status("b")) == (result, "completed")
    run.tell(ok("d"))
    assert run.state.status == "completed"


def test_failed_replay_is_tried_again_and_still_knows_what_was() -> None:
    """D4: however often it fails, what it was before the replay stands behind it."""
    run = replayable()
    run.tell(replay())
    run.tell(boom("b"))
    for _ in range(3):
        assert run.tell(resolve("b", "retry")) == [resolved("b", "retry"), StepStarted("b", 1)]
        run.tell(boom("b"))
    assert run.tell(resolve("b", "skip")) == [resolved("b", "skip"), StepStarted("d", 1)]
    assert (run.state.steps["b"].result, run.state.steps["b"].changes) == ('"b"', {"k": '"b"', "b": "1"})


def test_replay_of_failed_and_cancelled_runs() -> None:
    """D4: only what is done is run again, and the run is failed, or cancelled, as it was; a retry goes on as if nothing had been."""
    run = Talk(commit("a"), commit("b", compensate=handler), commit("c"))
    run.tell(does("a", "1", k="1"))
    run.tell(does("b", "2", k="2"))
    run.tell(boom("c"))
    run.tell(ok("b!undo"))
    assert run.tell(replay()) == [once_more(1), StepStarted("a", 1)]
    assert run.state.data == {}
    assert run.tell(does("a", "3", k="3")) == [StepCompleted("a", 1, "3", {"k": "3"}), RunFailed()]
    assert run.state.unwinding == UnwindStarted("failed", BOOM)
    assert (run.status("b"), run.state.data) == ("compensated", {"k": "2"})
    assert run.tell(retry()) == [again(2, "b"), StepStarted("b", 1)]
    assert (run.state.data, run.state.key_of("a"), run.state.key_of("b")) == ({"k": "3"}, ("a", 0), ("b", 2))

    run = Talk(commit("a"), wait("go"), deadline=99 * SECOND)
    run.tell(ok("a"))
    run.tell(cancel())
    run.tell(replay())
    assert run.state.deadline_at is None
    assert run.after(200).tell(boom("a"))[-1].reason == "ReplayFailed"  # type: ignore[attr-defined]
    run.tell(resolve("a", "skip"))
    assert (run.state.status, run.state.cancel) == ("cancelled", request())


def test_a_commit_step_that_waits_does_so_in_a_replay() -> None:
    """S9.3, S7.1: the run is suspended meanwhile, and a cancel gives up the wait."""
    run = Talk(commit("a"), commit("b"))
    run.tell(Suspended("a", 1, "go", None, None, {"k": "1"}), signal(1, payload="1"))
    run.tell(ok("b"))
    run.tell(replay())
    assert run.tell(Suspended("a", 1, "go", 5 * SECOND, None, {"k": "2"})) == [
        StepSuspended("a", 1, "go", run.now + 5 * SECOND, None, {"k": "2"})
    ]
    assert (run.state.status, run.state.waiting_for, run.state.wake_at) == ("suspended", ("go",), run.now + 5 * SECOND)
    assert run.tell(signal(2, payload="2")) == [SignalReceived("a", 2, "2"), StepStarted("b", 1)]
    run.tell(ok("b"))
    assert (run.state.steps["a"].result, run.state.data) == ("2", {"k": "2"})
    run.tell(replay())
    run.tell(Suspended("a", 1, "go", None, None, {"k": "3"}))
    assert run.tell(cancel(3)) == [request(3), RunCompleted()]
    assert (run.state.steps["a"].result, run.state.data, run.state.waits) == ("2", {"k": "2"}, {})


def test_replay_survives_its_worker() -> None:
    """S3.7, S4: lost, retried and released like any other."""
    run = Talk(commit("a", retries=1), commit("b"))
    run.tell(ok("a"))
    run.tell(ok("b"))
    run.tell(replay())
    assert run.tell(Lost()) == [AttemptLost("a", 1, run.now)]
    assert run.tell(Tick()) == [StepStarted("a", 2)]
    assert run.tell(boom("a", 2)) == [AttemptFailed("a", 2, BOOM, run.now + SECOND)]
    assert (run.state.status, run.state.wake_at) == ("suspended", run.now + SECOND)
    run.halt = True
    assert run.after(1).tell(Tick()) == []
    run.halt = False
    assert run.tell(Tick()) == [StepStarted("a", 3)]
    run.halt = True
    assert run.tell(ok("a", 3)) == [StepCompleted("a", 3, "1")]
    assert (run.state.status, run.state.wake_at) == ("running", 0)
    run.halt = False
    assert run.tell(Advance()) == [StepStarted("b", 1)]


def test_retry_after_a_replay() -> None:
    """D1, I30: the replayed step's effect is one effect."""
    run = Talk(commit("a", compensate=handler), step("b"))
    run.tell(ok("a"))
    run.tell(cancel(1, compensate=False))
    run.tell(boom("b"))
    run.tell(replay())
    run.tell(ok("a", result='"new"'))
    assert run.state.status == "cancelled"
    assert run.tell(retry()) == [again(2, "b"), StepStarted("b", 1)]
    assert run.tell(boom("b"))[-1] == StepStarted("a!undo", 1)
    assert run.state.result_text("a") == '"new"'
    assert run.tell(ok("a!undo"))[-1] == RunFailed()


def test_continue_as_new_in_a_replay() -> None:
    """D4: it begins nothing anew, also past the point of no return: the next commit step runs again, and the run is what it was."""
    run = Talk(step("a"), commit("pay", pivot=True), commit("ship"))
    for path in ("a", "pay", "ship"):
        run.tell(ok(path))
    assert run.tell(replay()) == [once_more(1), StepStarted("pay", 1)]
    assert run.tell(Continued("pay", 1, '"next"', {"k": "2"})) == [StepCompleted("pay", 1, "null", {"k": "2"}), StepStarted("ship", 1)]
    assert run.tell(Continued("ship", 1, None)) == [StepCompleted("ship", 1, "null"), RunCompleted()]
    assert (run.state.continuation, run.state.input, run.state.data) == (0, "{}", {"k": "2"})


# --- fork (D5, S12.3)


def test_a_fork_shares_the_history_and_none_of_the_obligations() -> None:
    """D5: its data is what the original had before that step; when it fails, only what it did itself is undone."""
    steps = (
        step("a", compensate=handler),
        step("skipped", when=Answer(False)),
        wait("go", timeout=SECOND, on_timeout=Body((step("x", compensate=handler),))),
        step("b", compensate=handler),
        step("c"),
    )
    origin = Talk(*steps)
    origin.tell(does("a", "1", k="1", gone="1"))
    origin.after(1).tell(Tick())
    origin.tell(Returned("go/on_timeout/x", 1, "2", {"gone": None, "l": "2"}))
    origin.tell(does("b", "3", k="3"))
    shared: list[Record] = inherited(origin.state, origin.plan, "b")
    assert [type(record) for record in shared] == [StepInherited] * 4
    forked = RunForked("origin", "b", "ana", "why")
    run = Talk(*steps, inherited=[forked, *shared])
    assert run.first == [forked, *shared, StepStarted("b", 1)]
    assert run.state.data == {"k": "1", "l": "2"}
    lines = [run.state.steps[path] for path in ("a", "skipped", "go", "go/on_timeout/x")]
    assert [(st.status, st.result) for st in lines] == [("completed", "1"), ("skipped", None), ("completed", None), ("completed", "2")]
    assert lines[0].started_at == T0
    run.tell(ok("b"))
    assert run.tell(boom("c"))[-1] == StepStarted("b!undo", 1)
    assert run.tell(ok("b!undo")) == [StepCompleted("b!undo", 1, "1"), RunFailed()]
    assert run.tell(retry("a")) == [again(1, "a"), StepStarted("a", 1)]
    assert run.tell(boom("a"))[1:] == [UnwindStarted("failed", BOOM), RunFailed()], "nor are they owed"
    assert inherited(origin.state, origin.plan, None) == []
    for path, why in (("c", "not done"), ("d", "no step"), ("go/on_timeout/x", "top level"), ("b!undo", "no step")):
        if path == "c":
            origin.tell(boom("c"), ok("b!undo"))
        with pytest.raises(InvalidArgument, match=why):
            inherited(origin.state, origin.plan, path)


def test_a_replay_of_a_fork_runs_only_its_own_commit_steps() -> None:
    """D5, D4: what it inherited is the original's to run again."""
    steps = (commit("a"), commit("b"))
    origin = Talk(*steps)
    origin.tell(ok("a"))
    run = Talk(*steps, inherited=[RunForked("origin", "b", "ana", "why"), *inherited(origin.state, origin.plan, "b")])
    run.tell(ok("b"))
    assert run.tell(replay()) == [once_more(1), StepStarted("b", 1)]


# --- moving on what is blocked (S10.6)


def crashed(*steps: Any, path: str, **kwargs: Any) -> Talk:
    """A run that is blocked because this step took its worker with it."""
    run = Talk(*steps, crash_limit=1, **kwargs)
    run.alone = True
    while path not in run.state.calls:
        run.tell(ok(next(iter(run.state.calls))))
    lose(run, path, 5)
    assert run.state.blocked is not None
    assert (run.state.blocked.reason, run.state.blocked.path) == ("WorkerCrashed", path)
    run.alone = False
    return run


def test_resolving_a_step_that_crashes_its_workers() -> None:
    """S3.7: tried again from scratch, left out, or taken as done with a result; its effect is in doubt, and undone as such."""

    def blocked() -> Talk:
        return crashed(step("a"), step("b", compensate=handler), step("c"), path="b")

    run = blocked()
    assert run.tell(resolve("b", "retry")) == [resolved("b", "retry"), StepStarted("b", 1)]
    assert run.tell(Lost()) == [AttemptLost("b", 1, run.now)], "the count began anew"

    run = blocked()
    assert run.tell(resolve("b", "skip")) == [resolved("b", "skip"), StepStarted("c", 1)]
    assert run.status("b") is StepStatus.SKIPPED
    assert run.tell(boom("c"))[-1] == StepStarted("b!undo", 1), "it may have happened"

    run = blocked()
    assert run.tell(resolve("b", "done", '"by hand"')) == [resolved("b", "done", '"by hand"'), StepStarted("c", 1)]
    assert (run.status("b"), run.state.steps["b"].result) == ("completed", '"by hand"')
    assert run.tell(boom("c"))[-1] == StepStarted("b!undo", 1)
    assert run.state.resolutions == ((run.now, resolved("b", "done", '"by hand"')),)


def test_resolving_a_compensation() -> None:
    """S10.6: tried again, left out (the run is failed then), or done by hand."""

    def blocked() -> Talk:
        run = Talk(step("a", compensate=handler), step("b", compensate=handler), wait("go"), on_compensation_failure="block")
        run.tell(ok("a"))
        run.tell(ok("b"))
        run.tell(cancel())
        run.tell(boom("b!undo"))
        assert run.state.status == "blocked"
        return run

    run = blocked()
    assert run.tell(resolve("b!undo", "retry")) == [resolved("b!undo", "retry"), StepStarted("b!undo", 1)]
    assert run.tell(ok("b!undo")) == [StepCompleted("b!undo", 1, "1"), StepStarted("a!undo", 1)]
    assert run.tell(ok("a!undo"))[-1] == RunCancelled()

    run = blocked()
    assert run.tell(resolve("b!undo", "skip")) == [resolved("b!undo", "skip"), StepStarted("a!undo", 1)]
    assert run.status("b") is StepStatus.COMPLETED
    assert run.tell(ok("a!undo"))[-1] == RunFailed()

    run = blocked()
    assert run.tell(resolve("b!undo", "done", "null")) == [resolved("b!undo", "done", "null"), StepStarted("a!undo", 1)]
    assert run.status("b") is StepStatus.COMPENSATED
    assert run.tell(ok("a!undo"))[-1] == RunCancelled()


def test_resolving_a_compensation_that_crashes_its_workers() -> None:
    """S10.6, D11: it has no outcome yet; the three ways are the same."""

    def blocked() -> Talk:
        run = Talk(step("a", compensate=handler), wait("go"), crash_limit=1)
        run.tell(ok("a"))
        run.tell(cancel())
        run.alone = True
        lose(run, "a!undo", 5)
        assert run.state.status == "blocked"
        return run

    assert blocked().tell(resolve("a!undo", "skip")) == [resolved("a!undo", "skip"), RunFailed()]
    assert blocked().tell(resolve("a!undo", "done", "null")) == [resolved("a!undo", "done", "null"), RunCancelled()]
    run = blocked()
    assert run.tell(resolve("a!undo", "retry")) == [resolved("a!undo", "retry"), StepStarted("a!undo", 1)]
    assert run.tell(ok("a!undo"))[-1] == RunCancelled()


# --- the point of no return (S9.4, D10)


def past_pivot(*after: Any, **kwargs: Any) -> Talk:
    run = Talk(step("a", compensate=handler), commit("pay", pivot=True, compensate=handler), *after, **kwargs)
    run.tell(ok("a"))
    run.tell(ok("pay"))
    assert run.state.pivot == "pay"
    return run


def test_before_the_pivot_all_is_undone() -> None:
    """S9.4: it is no point of no return before it has completed."""
    run = Talk(step("a", compensate=handler), commit("pay", pivot=True), step("b"))
    run.tell(ok("a"))
    assert run.tell(boom("pay"))[-1] == StepStarted("a!undo", 1)
    assert run.state.pivot is None


@pytest.mark.parametrize("way", ["retry", "skip", "done"])
def test_failure_past_the_pivot_blocks(way: str) -> None:
    """S9.4: retried by its own policy, then for a person, never unwound."""
    run = past_pivot(step("b", retries=1), step("c"))
    run.tell(boom("b"))
    run.after(1).tell(Tick())
    blocked = RunBlocked("PastPivot", "'b' failed after the point of no return 'pay': ValueError: boom", "b")
    assert run.tell(boom("b", 2)) == [StepFailed("b", 2, BOOM), blocked]
    assert (run.tell(Unblock()), run.tell(Tick(), Advance()), run.state.wake_at) == ([], [], None)
    told = '"by hand"' if way == "done" else None
    records = run.tell(resolve("b", way, told))
    assert records == [resolved("b", way, told), StepStarted("b" if way == "retry" else "c", 1)]
    while run.state.calls:
        run.tell(ok(next(iter(run.state.calls))))
    assert run.state.status == "completed"
    assert run.status("b") == ("skipped" if way == "skip" else "completed")


@pytest.mark.parametrize("way", ["retry", "skip", "done"])
def test_failure_past_the_pivot_inside_a_branch(way: str) -> None:
    """S9.4: the step that failed is resolved, and the wait it stands in goes on."""
    run = past_pivot(wait("go", timeout=SECOND, on_timeout=Body((step("x"), step("y")))), step("c"))
    run.after(1).tell(Tick())
    path = "go/on_timeout/x"
    assert run.tell(boom(path))[-1] == RunBlocked(
        "PastPivot", f"{path!r} failed after the point of no return 'pay': ValueError: boom", path
    )
    following = path if way == "retry" else "go/on_timeout/y"
    assert run.tell(resolve(path, way)) == [resolved(path, way), StepStarted(following, 1)]
    assert run.status("go") is StepStatus.RUNNING
    while run.state.calls:
        run.tell(ok(next(iter(run.state.calls))))
    assert (run.state.status, run.status("go")) == ("completed", "completed")


def test_a_wait_past_the_pivot_that_ran_out() -> None:
    """S9.4, S7.2: tried again it takes the signal that has come meanwhile, and what its attempt changed is taken back (S3.4)."""
    run = past_pivot(step("ask"))
    run.tell(Suspended("ask", 1, "go", SECOND, None, {"k": "1"}))
    assert run.after(1).tell(Tick())[-1].reason == "PastPivot"  # type: ignore[attr-defined]
    assert run.tell(signal(1)) == []
    assert run.tell(resolve("ask", "retry")) == [resolved("ask", "retry"), StepStarted("ask", 1)]
    assert run.state.data == {}
    assert run.tell(Suspended("ask", 1, "go"))[-2:] == [SignalReceived("ask", 1, '"yes"'), RunCompleted()]


def test_cancel_past_the_pivot() -> None:
    """D10: refused, also when it was accepted while the pivot ran; with compensate=False it ends the run and undoes nothing."""
    run = Talk(step("a", compensate=handler), commit("pay", pivot=True), wait("go"))
    run.tell(ok("a"))
    assert run.tell(cancel(1)) == [request(1)]
    assert run.tell(ok("pay")) == [StepCompleted("pay", 1, "1"), CancelRefused(1), WaitStarted("go", "go")]
    assert run.tell(cancel(2)) == [CancelRefused(2)]
    assert run.consumed == [2]
    assert run.tell(cancel(3, compensate=False)) == [
        request(3, compensate=False), UnwindStarted("cancelled", CANCELLED, False), RunCancelled(),
    ]  # fmt: skip
    assert run.status("a") is StepStatus.COMPLETED
    assert run.tell(retry()) == [again(1, "go"), WaitStarted("go", "go")]
    assert run.state.pivot == "pay"
    assert run.tell(cancel(4)) == [CancelRefused(4)]


def test_cancel_of_a_run_that_is_blocked_past_its_pivot() -> None:
    """D10, S2.1."""
    run = past_pivot(step("b"))
    run.tell(boom("b"))
    assert run.tell(cancel(1)) == [CancelRefused(1)]
    assert run.state.status == "blocked"
    assert run.tell(cancel(2, compensate=False))[-1] == RunCancelled()


def test_retry_does_not_go_back_past_the_pivot() -> None:
    """S9.4, D10: nor to it."""
    run = past_pivot(step("b"), step("c"))
    run.tell(ok("b"))
    run.tell(cancel(1, compensate=False))
    run.tell(boom("c"))
    for path in ("a", "pay"):
        refused(run, retry(path), PastPivot, "fork the run instead")
    assert run.tell(retry("b")) == [again(1, "b"), StepStarted("b", 1)]
    run = past_pivot(step("b"))
    run.tell(boom("b"))
    refused(run, retry("a"), PastPivot, "fork the run instead")


def test_deadline_past_the_pivot_blocks() -> None:
    """D10: what is in flight goes on; then the run is parked until somebody lifts the deadline."""
    run = past_pivot(step("b"), step("c"), deadline=9 * SECOND)
    assert outstanding(run.state, T0 + 10 * SECOND).interrupt == []
    text = "the deadline passed after the point of no return 'pay'"
    assert run.after(9).tell(ok("b")) == [StepCompleted("b", 1, "1"), RunBlocked("DeadlineExceeded", text)]
    assert run.tell(Unblock()) == [RunUnblocked(), StepStarted("c", 1)]
    assert run.state.deadline_at is None
    assert run.after(9).tell(ok("c"))[-1] == RunCompleted()

    run = past_pivot(wait("go"), deadline=9 * SECOND)
    assert run.state.wake_at == T0 + 9 * SECOND
    assert run.after(9).tell(Tick()) == [RunBlocked("DeadlineExceeded", text)]
    assert run.tell(signal(1)) == []
    assert run.tell(Unblock()) == [RunUnblocked(), SignalReceived("go", 1, '"yes"'), RunCompleted()]


def test_the_last_step_past_the_pivot_completes_late() -> None:
    """D10: nothing is left that the deadline could stop."""
    run = past_pivot(step("b"), deadline=9 * SECOND)
    assert run.after(99).tell(ok("b")) == [StepCompleted("b", 1, "1"), RunCompleted()]
    run = Talk(commit("pay", pivot=True), deadline=9 * SECOND)
    assert run.after(99).tell(ok("pay")) == [StepCompleted("pay", 1, "1"), RunCompleted()]


def test_continue_as_new_past_the_pivot() -> None:
    """S9.4, D10: the run begins again, with another deadline, though this one has passed; at the pivot itself, too, whose return voids a
    cancel that compensates."""

    def begins(run: Talk, path: str) -> list[Record]:
        *before, created, started = run.after(9).tell(Continued(path, 1, None))
        assert isinstance(created, RunCreated) and created.deadline_at == T0 + 18 * SECOND and isinstance(started, StepStarted)
        assert run.state.continuation == 1 and run.state.cancel is None and run.state.pivot is None
        return before

    assert begins(past_pivot(step("b"), deadline=9 * SECOND), "b") == []
    pivot = Talk(commit("pay", pivot=True), step("b"), deadline=9 * SECOND)
    assert begins(pivot, "pay") == []
    pivot = Talk(commit("pay", pivot=True), step("b"), deadline=9 * SECOND)
    pivot.tell(cancel(1))
    assert begins(pivot, "pay") == [CancelRefused(1)]
    pivot = Talk(commit("pay", pivot=True), step("b"))
    pivot.tell(cancel(1, compensate=False))
    assert pivot.tell(Continued("pay", 1, None))[0] == StepCompleted("pay", 1, "null")
    assert pivot.state.status == "cancelled"
    before = Talk(step("a"), commit("pay", pivot=True), deadline=9 * SECOND)
    assert before.after(9).tell(Continued("a", 1, None))[1:] == [UnwindStarted("deadline", OVERDUE), RunFailed()]


def test_every_way_in_which_a_pivot_completes() -> None:
    """S9.4: by returning, by the signal or the default that it waited for, by its probe, by hand."""

    def pivot(*commands: Command, **kwargs: Any) -> Talk:
        run = Talk(commit("pay", pivot=True, **kwargs), wait("never"), crash_limit=1)
        for command in commands:
            run.after(1).tell(command)
        return run

    waits = Suspended("pay", 1, "go", SECOND, "0")
    assert pivot(waits, signal(1)).state.pivot == "pay"
    assert pivot(waits, Tick()).state.pivot == "pay"
    assert pivot(Lost(), Tick(), Answered("pay!probe", 1, "1"), probe=handler).state.pivot == "pay"
    assert pivot(Lost(), Block("X", "why", "pay"), resolve("pay", "done", "1")).state.pivot == "pay"
    assert pivot(Lost(), Block("X", "why", "pay"), resolve("pay", "skip")).state.pivot is None
    assert pivot(waits).state.pivot is None


# --- probes (S3.8)


def probed(**kwargs: Any) -> Talk:
    return Talk(step("a", probe=handler, compensate=handler, **kwargs), step("b"))


def test_a_lost_attempt_is_asked_after() -> None:
    """S3.8: the probe's answer is the step's result, as if the attempt had been heard of."""
    run = probed()
    assert run.tell(Lost()) == [AttemptLost("a", 1, run.now)]
    assert run.tell(Tick()) == [StepStarted("a!probe", 1)]
    assert (run.status("a"), run.state.status, run.state.key_of("a!probe")) == ("running", "running", ("a", 0))
    assert run.tell(Answered("a!probe", 2, '"late"')) == []
    assert run.tell(Answered("a!probe", 1, '"found"')) == [StepProbed("a", 1, '"found"'), StepStarted("b", 1)]
    assert run.tell(Answered("a!probe", 1, '"found"')) == []
    assert (run.status("a"), run.state.steps["a"].result) == ("completed", '"found"')
    assert run.tell(boom("b"))[-1] == StepStarted("a!undo", 1), "it is done, so it is undone"


def test_nothing_had_happened() -> None:
    """S3.8: the step is called again, and nothing is in doubt any more."""
    run = probed()
    run.tell(Lost())
    run.tell(Tick())
    assert run.tell(Answered("a!probe", 1, None)) == [StepProbed("a", 1, None), StepStarted("a", 2)]
    assert run.tell(boom("a", 2)) == [StepFailed("a", 2, BOOM), UnwindStarted("failed", BOOM), RunFailed()], "nothing to undo"
    run = probed()
    run.tell(Lost())
    run.tell(Tick())
    run.halt = True
    assert run.tell(Answered("a!probe", 1, None)) == [StepProbed("a", 1, None)]
    assert run.state.wake_at == run.now
    run.halt = False
    assert run.tell(Tick()) == [StepStarted("a", 2)]


def test_timeouts_ask_first() -> None:
    """S3.8, S4.1: before the next attempt, and before the step fails for good."""
    run = probed(retries=1)
    assert run.tell(Raised("a", 1, SLOW, doubt=True)) == [AttemptFailed("a", 1, SLOW, run.now + SECOND, True)]
    assert run.after(1).tell(Tick()) == [StepStarted("a!probe", 1)]
    assert run.tell(Answered("a!probe", 1, None)) == [StepProbed("a", 1, None), StepStarted("a", 2)]
    assert run.tell(Raised("a", 2, SLOW, doubt=True)) == [AttemptFailed("a", 2, SLOW, run.now, True)], "the retries are used up"
    assert run.tell(Tick()) == [StepStarted("a!probe", 2)]
    assert run.tell(Answered("a!probe", 2, None)) == [
        StepProbed("a", 2, None), StepFailed("a", 0, SLOW), UnwindStarted("failed", SLOW), RunFailed(),
    ]  # fmt: skip
    run = probed()
    run.tell(Raised("a", 1, SLOW, doubt=True))
    run.tell(Tick())
    assert run.tell(Answered("a!probe", 1, "1"))[-1] == StepStarted("b", 1), "it had happened after all"
    assert probed(retries=1).tell(boom("a")) == [AttemptFailed("a", 1, BOOM, T0 + SECOND)], "it raised: that is known"


def test_a_probe_that_raises() -> None:
    """S3.8, D8: the step's effect stays in doubt; it is not called again, and undone as such."""
    run = probed()
    run.tell(Lost())
    run.tell(Tick())
    text = "an attempt of 'a' may have taken effect, and its probe could not say: ValueError: boom"
    unknown = Failure("flux.errors:UnknownOutcome", text, cause=BOOM)
    assert run.tell(boom("a!probe")) == [
        StepFailed("a!probe", 1, BOOM), StepFailed("a", 0, unknown, True), UnwindStarted("failed", unknown), StepStarted("a!undo", 1),
    ]  # fmt: skip
    run.tell(ok("a!undo"))
    assert run.tell(retry()) == [again(1, "a"), StepStarted("a", 1)], "it was undone: nothing to ask"
    assert run.state.key_of("a") == ("a", 1)


def test_a_probe_is_lost_cut_and_retried_like_a_step() -> None:
    """S3.8, S10.2."""
    run = Talk(step("a", probe=handler))
    run.tell(Lost())
    run.tell(Tick())
    assert run.tell(Lost()) == [AttemptLost("a!probe", 1, run.now)]
    assert run.tell(Tick()) == [StepStarted("a!probe", 2)]
    assert run.tell(Cut("a!probe", 2, "shutdown")) == [AttemptCut("a!probe", 2, "shutdown", run.now)]
    assert run.tell(Tick()) == [StepStarted("a!probe", 3)]
    assert run.tell(Answered("a!probe", 3, "1"))[-1] == RunCompleted()


def test_cancelled_while_it_is_asked() -> None:
    """S11.1, I28: the answer is recorded first; an interrupting cancel leaves it in doubt."""
    run = probed()
    run.tell(Lost())
    run.tell(Tick())
    assert run.tell(cancel()) == [request()]
    assert run.tell(Answered("a!probe", 1, None)) == [StepProbed("a", 1, None), UnwindStarted("cancelled", CANCELLED), RunCancelled()]
    assert run.status("a") is StepStatus.CANCELLED

    run = probed()
    run.tell(Lost())
    run.tell(Tick())
    run.tell(cancel())
    assert run.tell(Answered("a!probe", 1, "1"))[-1] == StepStarted("a!undo", 1)

    run = probed()
    run.tell(Lost())
    run.tell(Tick())
    run.tell(cancel(interrupt=True))
    assert [st.path for st in outstanding(run.state, run.now).interrupt] == ["a!probe"]
    assert run.tell(Cut("a!probe", 1, "cancelled"))[-1] == StepStarted("a!undo", 1)

    run = probed()
    run.tell(Lost())
    assert run.tell(cancel()) == [request(), UnwindStarted("cancelled", CANCELLED), StepStarted("a!undo", 1)], "nobody is asked any more"


def test_a_doubt_of_an_earlier_generation_is_asked_about() -> None:
    """S3.8, I30: a retry does not call a step again whose last attempt may have taken effect."""
    run = probed()
    run.tell(cancel(1, compensate=False))
    assert run.tell(Lost())[-1] == RunCancelled()
    assert run.tell(retry()) == [again(1, "a"), StepStarted("a!probe", 1)]
    assert run.tell(Answered("a!probe", 1, "1")) == [StepProbed("a", 1, "1"), StepStarted("b", 1)]
    run = probed()
    run.tell(cancel(1, compensate=False))
    run.tell(Lost())
    run.tell(retry())
    assert run.tell(Answered("a!probe", 1, None)) == [StepProbed("a", 1, None), StepStarted("a", 1)]


def test_a_suspect_is_asked_after_alone() -> None:
    """D11, S3.8: the probe of a suspect runs alone, and so does the attempt that follows."""
    run = Talk(step("a", probe=handler))
    for _ in range(3):
        run.after(9).tell(Tick())
        if "a!probe" in run.state.calls:
            run.tell(Answered("a!probe", run.state.calls["a!probe"].attempt, None))
        run.tell(Lost())
    assert run.state.steps["a"].lost == 3
    assert run.after(9).tell(Tick()) == []
    run.alone = True
    assert run.tell(Tick()) == [StepStarted("a!probe", 3), AttemptIsolated("a!probe", 3)]
    assert run.tell(Answered("a!probe", 3, None)) == [StepProbed("a", 3, None), StepStarted("a", 4), AttemptIsolated("a", 4)]


def test_a_probe_inside_a_branch() -> None:
    """S3.8: the branch goes on after it."""
    run = Talk(wait("go", timeout=SECOND, on_timeout=Body((commit("x", probe=handler), step("y")))))
    assert run.after(1).tell(Tick()) == [WaitExpired("go", None), StepStarted("go/on_timeout/x", 1)]
    run.tell(Lost())
    assert run.tell(Tick()) == [StepStarted("go/on_timeout/x!probe", 1)]
    assert run.tell(Answered("go/on_timeout/x!probe", 1, "1"))[-1] == StepStarted("go/on_timeout/y", 1)


def test_a_probe_in_a_replay() -> None:
    """D4, S3.8: its answer is the result; its failure is the replay's."""
    run = Talk(commit("a", probe=handler), commit("b"))
    run.tell(ok("a"))
    run.tell(ok("b"))
    run.tell(replay())
    run.tell(Lost())
    assert run.tell(Tick()) == [StepStarted("a!probe", 1)]
    assert run.tell(boom("a!probe"))[-1].reason == "ReplayFailed"  # type: ignore[attr-defined]
    assert run.tell(cancel())[-1] == RunCompleted()
    assert list(run.state.steps) == ["a", "b"], "no line says that it is still asked"
    run.tell(replay())
    run.tell(Lost())
    assert run.tell(Tick()) == [StepStarted("a!probe", 1)]
    assert run.tell(Answered("a!probe", 1, '"found"')) == [StepProbed("a", 1, '"found"'), StepStarted("b", 1)]

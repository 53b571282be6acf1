"""Steps inside steps, as transcripts: parallel, route, loop, for_each, graphs, and what becomes of them on the way down and again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flux.core.again import first_undone, inherited
from flux.core.commands import Advance, Answered, Block, Cut, Lost, Raised, Released, Suspended, Tick, Unblock
from flux.core.evolve import fold
from flux.core.failure import Failure
from flux.core.inside import arm_completed
from flux.core.records import (
    ArmEnded,
    ArmsJoined,
    ArmsStopped,
    AttemptCut,
    AttemptFailed,
    AttemptLost,
    AttemptReleased,
    BranchEnded,
    ItemsListed,
    ParallelStarted,
    RouteTaken,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunForked,
    RunUnblocked,
    SignalReceived,
    SleepEnded,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepProbed,
    StepSkipped,
    StepStarted,
    StepSuspended,
    TurnStarted,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from flux.core.retry import SECOND
from flux.core.sketch import sketch
from flux.core.status import RunStatus
from flux.core.workflow import Body, Kind, Step
from flux.errors import InvalidArgument

from .test_again import again, boom, does, once_more, refused, replay, resolve, resolved, retry
from .test_machine import BOOM, CANCELLED, OVERDUE, SLOW, Talk, cancel, ok, request, signal
from .world import T0, Answer, commit, handler, sleep, step, wait

ONE = Body((step("one"),), single=True)


def body(*steps: Step) -> Body:
    return Body(steps)


def parallel(name: str, /, *, more: dict[str, Any] | None = None, **branches: Body | Step) -> Step:
    """Branches: a body, or a step that is one alone. `more`: the options."""
    found = tuple((key, one if isinstance(one, Body) else Body((one,))) for key, one in branches.items())
    return Step(name, Kind.PARALLEL, branches=found, **(more or {}))


def route(name: str, answer: Any, **branches: Body) -> Step:
    return Step(name, Kind.ROUTE, branches=tuple(branches.items()), selector=Answer(answer))


def loop(name: str, inner: Body, at_most: int = 5, **kwargs: Any) -> Step:
    """`stop` and `go_on`: answers by path."""
    tests = {key: Answer(kwargs.pop(key)) for key in ("stop", "go_on") if key in kwargs}
    return Step(name, Kind.LOOP, body=inner, at_most=at_most, **tests, **kwargs)


def for_each(name: str, items: Any, inner: Body, **kwargs: Any) -> Step:
    return Step(name, Kind.FOR_EACH, items=Answer(items), body=inner, **kwargs)


def after(one: Step, *names: str) -> Step:
    """The same in a graph."""
    return replace(one, after=names)


def go(*paths: str) -> list[Any]:
    return [StepStarted(path, 1) for path in paths]


def unwound(failure: Failure = BOOM) -> list[Any]:
    return [UnwindStarted("failed", failure), RunFailed()]


def statuses(run: Talk) -> dict[str, str]:
    return {path: st.status.value for path, st in run.state.steps.items()}


# --- parallel


def test_all_branches_begin_at_once_and_join() -> None:
    """S1.2, I6: the join is there when all have ended, and the run goes on."""
    run = Talk(parallel("p", a=body(step("x"), step("y")), b=ONE), step("z"))
    assert run.first == [ParallelStarted("p"), *go("p/a/x", "p/b")]
    assert run.tell(ok("p/b")) == [StepCompleted("p/b", 1, "1"), ArmEnded("p/b")]
    assert run.tell(ok("p/a/x")) == [StepCompleted("p/a/x", 1, "1"), *go("p/a/y")]
    assert run.tell(ok("p/a/y")) == [StepCompleted("p/a/y", 1, "1"), ArmEnded("p/a"), ArmsJoined("p", None), *go("z")]
    assert run.tell(ok("z"))[-1] == RunCompleted()


def test_several_outcomes_in_one_decision() -> None:
    """S3.3: what landed together is recorded together."""
    run = Talk(parallel("p", a=step("x"), b=step("x")))
    assert run.tell(ok("p/a/x"), ok("p/b/x")) == [
        StepCompleted("p/a/x", 1, "1"), StepCompleted("p/b/x", 1, "1"), ArmEnded("p/a"), ArmEnded("p/b"), ArmsJoined("p", None),
        RunCompleted(),
    ]  # fmt: skip


def test_a_wait_does_not_hold_up_another_branch() -> None:
    """S7.1: and the run is running, and listens."""
    run = Talk(parallel("p", a=body(wait("go"), step("x")), b=body(step("y"), step("z")), c=body(sleep("nap", duration=SECOND))))
    assert run.first == [ParallelStarted("p"), WaitStarted("p/a/go", "go"), *go("p/b/y"), SleepStarted("p/c/nap", T0 + SECOND)]
    assert (run.state.status, run.state.waiting_for) == (RunStatus.RUNNING, ("go",))
    run.tell(ok("p/b/y"))
    assert run.tell(signal(1)) == [SignalReceived("p/a/go", 1, '"yes"'), *go("p/a/x")]
    assert run.after(1).tell(Tick()) == [SleepEnded("p/c/nap"), ArmEnded("p/c")]
    run.tell(ok("p/b/z"))
    assert run.tell(ok("p/a/x"))[-2:] == [ArmsJoined("p", None), RunCompleted()]


def test_two_branches_await_one_signal() -> None:
    """D24: the one that began first gets it."""
    run = Talk(parallel("p", a=body(wait("w", signal="go")), b=body(wait("w", signal="go"))))
    assert run.tell(signal(1)) == [SignalReceived("p/a/w", 1, '"yes"'), ArmEnded("p/a")]
    assert run.state.status is RunStatus.SUSPENDED
    assert run.tell(signal(2))[0] == SignalReceived("p/b/w", 2, '"yes"')


@pytest.mark.parametrize(("join", "need"), [("any", 1), (2, 2)])
def test_a_join_of_some_stops_the_others_once(join: Any, need: int) -> None:
    """S1.2, I6: what waits is left, what runs is let to its outcome and is nobody's; the join comes once."""
    run = Talk(parallel("p", a=step("x"), b=step("x"), c=step("x"), d=body(wait("go")), more={"join": join}), step("z"))
    for arm in "abc"[: need - 1]:
        run.tell(ok(f"p/{arm}/x"))
    last = "abc"[need - 1]
    assert run.tell(does(f"p/{last}/x", "1", k="1"))[1:] == [ArmEnded(f"p/{last}"), ArmsStopped("p")]
    assert run.status("p/d/go") == "cancelled" and run.state.waiting_for == ()
    left = "abc"[need:]
    for arm in left[:-1]:
        assert run.tell(does(f"p/{arm}/x", "1", k="2", l="3")) == [StepCompleted(f"p/{arm}/x", 1, "1", {"k": "2", "l": "3"})]
    assert run.tell(boom(f"p/{left[-1]}/x")) == [StepFailed(f"p/{left[-1]}/x", 1, BOOM), ArmsJoined("p", {"k": "1"}), *go("z")]
    assert run.state.data == {"k": "1"}


def test_stopped_attempts_are_cut() -> None:
    """S11.3, D8: an attempt that was stopped is in doubt, and none follows; a sheltered one finishes; a released one was never called."""
    run = Talk(parallel("p", a=step("x"), b=step("x", retries=3, compensate=handler), c=commit("x"), d=step("x"), more={"join": "any"}))
    run.tell(ok("p/a/x"))
    assert run.tell(Cut("p/b/x", 1, "stopped")) == [AttemptCut("p/b/x", 1, "stopped", None)]
    assert run.tell(Released("p/d/x", 1)) == [AttemptReleased("p/d/x", 1)]
    assert run.tell(Tick()) == []
    assert run.tell(ok("p/c/x")) == [StepCompleted("p/c/x", 1, "1"), ArmsJoined("p", None), RunCompleted()]
    assert statuses(run) == {"p": "completed", "p/a/x": "completed", "p/b/x": "cancelled", "p/c/x": "completed", "p/d/x": "cancelled"}
    assert run.state.steps["p/b/x"].doubt and not run.state.steps["p/d/x"].doubt


@pytest.mark.parametrize("on_failure", ["cancel", "finish"])
def test_a_branch_that_fails(on_failure: str) -> None:
    """S11.3, I34: its siblings are settled first, then the step fails with the branch's failure."""
    run = Talk(parallel("p", a=step("x"), b=body(step("x"), step("y")), c=body(wait("go")), more={"on_failure": on_failure}))
    failed = run.tell(boom("p/a/x"))
    if on_failure == "cancel":
        assert failed == [StepFailed("p/a/x", 1, BOOM), ArmsStopped("p")]
        assert run.tell(ok("p/b/x")) == [StepCompleted("p/b/x", 1, "1"), StepFailed("p", 0, BOOM), *unwound()]
    else:
        assert failed == [StepFailed("p/a/x", 1, BOOM)]
        assert run.tell(ok("p/b/x")) == [StepCompleted("p/b/x", 1, "1"), *go("p/b/y")]
        assert run.tell(ok("p/b/y")) == [StepCompleted("p/b/y", 1, "1"), ArmEnded("p/b")]
        assert run.tell(signal(1)) == [SignalReceived("p/c/go", 1, '"yes"'), ArmEnded("p/c"), StepFailed("p", 0, BOOM), *unwound()]


def test_too_many_failures_for_a_join() -> None:
    """S11.3: as soon as the join cannot be reached, and no sooner."""
    run = Talk(parallel("p", a=step("x"), b=step("x"), c=step("x"), more={"join": 2}))
    assert run.tell(boom("p/b/x")) == [StepFailed("p/b/x", 1, BOOM)]
    assert run.tell(boom("p/a/x")) == [StepFailed("p/a/x", 1, BOOM), ArmsStopped("p")]
    failed = run.tell(ok("p/c/x"))
    assert failed[1].failure.message == "0 of the 3 branches of 'p' completed, and 2 had to" and failed[1].failure.cause == BOOM
    assert isinstance(failed[-1], RunFailed)


def test_a_stopped_handler_that_would_wait_is_left() -> None:
    """S7.2, S10.4: it takes no signal from others; its effect has happened, and is undone."""
    run = Talk(
        parallel("p", a=step("x"), b=step("x", compensate=handler), c=step("x"), more={"join": "any"}),
        wait("later", signal="go"),
        step("z"),
    )
    run.tell(ok("p/a/x"))
    run.tell(signal(1))
    assert run.tell(Suspended("p/b/x", 1, "go")) == [StepSuspended("p/b/x", 1, "go")]
    assert run.consumed == [] and run.status("p/b/x") == "cancelled"
    assert run.tell(ok("p/c/x"))[1:] == [ArmsJoined("p", None), WaitStarted("later", "go"), SignalReceived("later", 1, '"yes"'), *go("z")]
    assert run.tell(boom("z"))[-1] == StepStarted("p/b/x!undo", 1)


def test_a_probe_that_is_stopped_leaves_no_step_running() -> None:
    """S3.8, S11.3: the step that was asked after is left with it."""
    run = Talk(parallel("p", a=body(sleep("nap", duration=SECOND)), b=step("x", probe=handler), more={"join": "any"}))
    run.tell(Raised("p/b/x", 1, SLOW, doubt=True))
    assert run.tell(Tick()) == [StepStarted("p/b/x!probe", 1)]
    run.after(1).tell(Tick())
    assert run.tell(Cut("p/b/x!probe", 1, "stopped"))[1:] == [ArmsJoined("p", None), RunCompleted()]
    assert run.status("p/b/x") == "cancelled"


# --- data (D22)


def test_changes_meet_at_the_join() -> None:
    """D22: a branch sees the data at the fork and its own changes; equal values agree, a deletion is a change; in declaration order."""
    run = Talk(step("s"), parallel("p", a=body(step("x"), step("y")), b=step("x")), step("z"))
    run.tell(does("s", "1", k="0", gone="0"))
    run.tell(does("p/b/x", "1", k="1", b="1"))
    run.tell(does("p/a/x", "1", k="1", gone=None, a="1"))  # type: ignore[arg-type]
    assert run.state.data_at("p/a/y") == {"k": "1", "a": "1"}
    assert run.state.data == {"k": "0", "gone": "0"}
    assert run.tell(ok("p/a/y"))[2] == ArmsJoined("p", {"k": "1", "gone": None, "a": "1", "b": "1"})
    assert run.state.data == {"k": "1", "a": "1", "b": "1"}


def test_branches_that_disagree() -> None:
    """D22: one key, two values: a failure, unless `merge` says."""
    for merge in (None, lambda key, texts: f"{key}{texts}"):
        run = Talk(parallel("p", a=step("x"), b=step("x"), c=step("x"), more={"merge": merge}))
        run.tell(does("p/c/x", "1", k="3", l="1"))
        run.tell(does("p/b/x", "1", k=None))  # type: ignore[arg-type]
        joined = run.tell(does("p/a/x", "1", k="1"))
        if merge is None:
            assert joined[2].failure.type.endswith("DataConflict") and isinstance(joined[-1], RunFailed)
            assert run.state.data == {}
        else:
            assert joined[2] == ArmsJoined("p", {"k": "k['1', None, '3']", "l": "1"})


def test_scopes_within_scopes() -> None:
    """D22: the inner join is the outer branch's own change."""
    inner = parallel("q", c=body(step("x")), d=body(step("x")))
    run = Talk(parallel("p", a=body(step("s"), inner, step("z")), b=step("x")))
    run.tell(does("p/a/s", "1", s="1"))
    run.tell(does("p/a/q/c/x", "1", k="1", s="2"))
    assert run.state.data_at("p/a/q/d/x") == {"s": "1"} and run.state.data_at("p/b/x") == {}
    assert run.tell(ok("p/a/q/d/x"))[2:] == [ArmsJoined("p/a/q", {"k": "1", "s": "2"}), *go("p/a/z")]
    assert run.state.data_at("p/a/z") == {"k": "1", "s": "2"}
    run.tell(ok("p/a/z"))
    assert run.tell(ok("p/b/x"))[-2] == ArmsJoined("p", {"s": "2", "k": "1"})


def test_a_stopped_item_of_one_handler_is_nobodys() -> None:
    """D22: the frame that it stood in is gone, and that around it is another's."""
    run = Talk(for_each("f", ("1", "2"), ONE), step("z"))
    run.tell(boom("f[1]"))
    assert run.tell(does("f[2]", "1", k="1")) == [StepCompleted("f[2]", 1, "1", {"k": "1"}), StepFailed("f", 0, BOOM), *unwound()]
    assert run.state.data == {}
    assert run.state.frames[""].cursor == 0
    run.tell(retry())
    assert run.tell(ok("f[1]")) == [StepCompleted("f[1]", 1, "1"), ArmEnded("f[1]"), ArmsJoined("f", {"k": "1"}), *go("z")]


# --- route


def test_a_route_is_asked_once() -> None:
    """I35, S1.2: its answer is recorded; an unknown one takes `default`, or fails the step."""
    run = Talk(route("r", "b", a=ONE, b=body(step("x"), step("y"))), step("z"))
    assert run.first == [RouteTaken("r", "b"), *go("r/b/x")]
    run.tell(ok("r/b/x"))
    run.tell(Lost())
    run.after(9).tell(Tick())
    assert run.tell(ok("r/b/y", 2))[-1:] == go("z")
    assert run.asked == [("route", "r")]
    assert Talk(route("r", 7, a=ONE, default=ONE)).first == [RouteTaken("r", "default"), *go("r/default")]
    unknown = Talk(route("r", "c", a=ONE, b=ONE)).first
    assert unknown[0].failure.type.endswith("UnknownBranch") and isinstance(unknown[-1], RunFailed)
    assert Talk(route("r", BOOM, a=ONE)).first == [StepFailed("r", 0, BOOM), *unwound()]


def test_a_branch_of_a_route_fails_with_it() -> None:
    """S1.2: through every step around it."""
    run = Talk(route("r", "a", a=body(loop("l", body(route("s", "b", b=ONE)), stop=True))))
    assert run.first == [RouteTaken("r", "a"), TurnStarted("r/a/l", 1), RouteTaken("r/a/l[1]/s", "b"), *go("r/a/l[1]/s/b")]
    assert run.tell(boom("r/a/l[1]/s/b")) == [
        StepFailed("r/a/l[1]/s/b", 1, BOOM), *[StepFailed(path, 0, BOOM) for path in ("r/a/l[1]/s", "r/a/l", "r")], *unwound(),
    ]  # fmt: skip


# --- loop


def test_until_is_asked_after_each_turn() -> None:
    """S1.2, S1.3, I35: once a turn, in that turn."""
    run = Talk(loop("l", ONE, stop={"l[1]": False, "l[2]": True}), step("z"))
    assert run.first == [TurnStarted("l", 1), *go("l[1]")]
    assert run.tell(does("l[1]", "1", k="1")) == [StepCompleted("l[1]", 1, "1", {"k": "1"}), TurnStarted("l", 2), *go("l[2]")]
    assert run.tell(ok("l[2]")) == [StepCompleted("l[2]", 1, "1"), BranchEnded("l"), *go("z")]
    assert run.asked == [("stop", "l[1]"), ("stop", "l[2]")] and run.state.data == {"k": "1"}


def test_while_is_asked_before_each_turn() -> None:
    """S1.2: there may be no turn at all."""
    run = Talk(loop("l", body(step("x")), go_on={"l[1]": True, "l[2]": False}), step("z"))
    assert run.tell(ok("l[1]/x")) == [StepCompleted("l[1]/x", 1, "1"), BranchEnded("l"), *go("z")]
    assert Talk(loop("l", ONE, go_on=False), step("z")).first == [BranchEnded("l"), *go("z")]


def test_a_loop_that_is_not_done() -> None:
    """S1.2: without a test it takes all its turns; with one that never says so, it fails."""
    run = Talk(loop("l", ONE, at_most=2), step("z"))
    run.tell(ok("l[1]"))
    assert run.tell(ok("l[2]"))[1:] == [BranchEnded("l"), *go("z")]
    for test in ("stop", "go_on"):
        run = Talk(loop("l", ONE, at_most=1, **{test: test == "go_on"}))
        ended = run.tell(ok("l[1]"))
        assert ended[1].failure.type.endswith("LoopLimit") and isinstance(ended[-1], RunFailed)


@pytest.mark.parametrize("test", ["stop", "go_on"])
def test_a_loop_test_that_raises(test: str) -> None:
    """S6.2: it fails the loop, which is all that is not done: a retry does it again."""
    run = Talk(loop("l", ONE, **{test: {"l[1]": test == "go_on", "l[2]": BOOM} if test == "go_on" else BOOM}))
    assert run.tell(ok("l[1]")) == [StepCompleted("l[1]", 1, "1"), StepFailed("l", 0, BOOM), *unwound()]
    assert run.tell(retry())[1:] == [TurnStarted("l", 1), *go("l[1]")]


def test_a_loops_test_sees_the_data_of_its_branch() -> None:
    """D22: before the turn is there, too."""
    seen: list[dict[str, str]] = []

    class Watching(Talk):
        def _ask(self, node: Any, path: str, question: str, about: Any = None) -> Any:
            seen.append(dict(self.state.data_at(f"{path}/{question}")))
            return super()._ask(node, path, question, about)

    tested = loop("l", ONE, go_on={"p/a/l[1]": True, "p/a/l[2]": False})
    run = Watching(parallel("p", a=body(step("x"), tested), b=step("y")))
    run.tell(does("p/a/x", "1", k="1"))
    run.tell(does("p/a/l[1]", "1", k="2"))
    assert seen == [{"k": "1"}, {"k": "2"}]


# --- for_each


def test_items_begin_as_there_is_room() -> None:
    """S1.2, S1.3: in order, so many at once; an item that ends early makes room."""
    run = Talk(for_each("f", ("1", "2", "3"), body(step("x"), step("y")), concurrency=2), step("z"))
    assert run.first == [ItemsListed("f", ("1", "2", "3")), *go("f[1]/x", "f[2]/x")]
    run.tell(ok("f[2]/x"))
    assert run.tell(ok("f[2]/y")) == [StepCompleted("f[2]/y", 1, "1"), ArmEnded("f[2]"), *go("f[3]/x")]
    for path in ("f[3]/x", "f[3]/y", "f[1]/x"):
        run.tell(ok(path))
    assert run.tell(ok("f[1]/y")) == [StepCompleted("f[1]/y", 1, "1"), ArmEnded("f[1]"), ArmsJoined("f", None), *go("z")]


def test_no_items() -> None:
    """S1.2: nothing to do is done; unless some had to complete."""
    assert Talk(for_each("f", (), ONE)).first == [ItemsListed("f", ()), ArmsJoined("f", None), RunCompleted()]
    failed = Talk(for_each("f", (), ONE, at_least=1)).first
    assert failed[1].failure.type.endswith("BranchesFailed") and isinstance(failed[-1], RunFailed)
    assert Talk(for_each("f", BOOM, ONE)).first == [StepFailed("f", 0, BOOM), *unwound()]
    assert ArmsStopped("f") in Talk(for_each("f", ("1",), ONE, at_least=2)).first, "it cannot be reached"


def test_at_least_lets_the_others_to_their_end() -> None:
    """S1.2: so many have to complete, and all are tried."""
    run = Talk(for_each("f", ("1", "2", "3"), ONE, at_least=1, concurrency=1))
    assert run.tell(ok("f[1]")) == [StepCompleted("f[1]", 1, "1"), ArmEnded("f[1]"), *go("f[2]")]
    assert run.tell(boom("f[2]")) == [StepFailed("f[2]", 1, BOOM), *go("f[3]")]
    assert run.tell(boom("f[3]")) == [StepFailed("f[3]", 1, BOOM), ArmsJoined("f", None), RunCompleted()]


@pytest.mark.parametrize("fast", [True, False])
def test_an_item_that_fails(fast: bool) -> None:
    """S11.3: at once those that have not begun never do, or all are let to their end."""
    run = Talk(for_each("f", ("1", "2", "3"), ONE, concurrency=2, on_failure="cancel" if fast else "finish"))
    if fast:
        assert run.tell(boom("f[1]")) == [StepFailed("f[1]", 1, BOOM), ArmsStopped("f")]
        assert run.tell(Cut("f[2]", 1, "stopped"))[-1] == RunFailed()
        assert "f[3]" not in run.state.steps
    else:
        assert run.tell(boom("f[1]")) == [StepFailed("f[1]", 1, BOOM), *go("f[3]")]
        run.tell(ok("f[3]"))
        assert run.tell(ok("f[2]"))[1:] == [ArmEnded("f[2]"), StepFailed("f", 0, BOOM), *unwound()]


# --- graphs


def diamond(**kwargs: Any) -> tuple[Step, ...]:
    return (
        step("a"), step("b", after=("a",), **kwargs.get("b", {})), step("c", after=("a",), **kwargs.get("c", {})),
        step("d", after=("b", "c")),
    )  # fmt: skip


def test_a_diamond() -> None:
    """I6: a step begins when all that it comes after are done, and once."""
    run = Talk(*diamond())
    assert run.first == go("a")
    assert run.tell(ok("a"))[1:] == go("b", "c")
    assert run.tell(ok("c")) == [StepCompleted("c", 1, "1")]
    assert run.tell(ok("b"))[1:] == go("d")
    assert run.tell(ok("d"))[1:] == [RunCompleted()]


def test_a_diamond_with_an_untaken_branch() -> None:
    """S6.1, I6: what is skipped is done."""
    run = Talk(*diamond(b={"when": Answer(False)}))
    assert run.tell(ok("a"))[1:] == [StepSkipped("b"), *go("c")]
    assert run.tell(ok("c"))[1:] == go("d")
    assert run.tell(ok("d"))[1:] == [RunCompleted()]


def test_a_failure_in_a_graph_waits_for_what_runs() -> None:
    """I28: nothing more starts, what runs is recorded first, and all are undone, the last that began first."""
    run = Talk(*(step(one.name, after=one.after, compensate=handler) for one in diamond()))
    run.tell(ok("a"))
    assert run.tell(boom("b")) == [StepFailed("b", 1, BOOM)]
    assert run.tell(ok("c"))[1:] == [UnwindStarted("failed", BOOM), *go("c!undo")]
    assert run.tell(ok("c!undo"))[1:] == go("a!undo")


def test_conflicts_in_a_graph() -> None:
    """D22: two steps of which neither comes after the other; what comes after may change it again, and equal values agree."""
    run = Talk(*diamond())
    run.tell(does("a", "1", k="1"))
    run.tell(does("b", "1", k="2"))
    conflict = run.tell(does("c", "1", k="3"))[0]
    assert conflict.failure.type.endswith("DataConflict") and conflict.doubt, "its handler has returned"
    assert run.state.data == {"k": "2"}
    run = Talk(*diamond())
    run.tell(does("a", "1", k="1"))
    run.tell(does("b", "1", k="2"))
    run.tell(does("c", "1", k="2"))
    run.tell(does("d", "1", k="3"))
    assert run.state.status is RunStatus.COMPLETED and run.state.data == {"k": "3"}


@pytest.mark.parametrize("kind", ["parallel", "loop", "suspended", "inside a loop"])
def test_conflicts_with_what_is_inside_a_step_of_a_graph(kind: str) -> None:
    """D22: whatever way the change came."""
    graph = body(step("b", after=()), step("s", after=()), after(parallel("p", x=step("y"))), after(loop("l", body(step("y")), 1)))
    run = Talk(loop("o", graph, 1)) if kind == "inside a loop" else Talk(*graph.steps)
    at = "o[1]/" if kind == "inside a loop" else ""
    run.tell(does(f"{at}b", "1", k="1"))
    command = {
        "parallel": does("p/x/y", "1", k="2"), "loop": does("l[1]/y", "1", k="2"), "suspended": Suspended("s", 1, "go", changes={"k": "2"}),
        "inside a loop": does("o[1]/l[1]/y", "1", k="2"),
    }[kind]  # fmt: skip
    failed = [record for record in run.tell(command) if isinstance(record, StepFailed)]
    assert failed and failed[0].failure.type.endswith("DataConflict")


def test_a_handler_in_a_graph_sees_the_data_of_its_start() -> None:
    """D22: what others commit meanwhile is not there half-way."""
    run = Talk(step("a", after=()), step("b", after=()))
    seen = run.state.data_at("b")
    run.tell(does("a", "1", k="1"))
    assert seen == {} and run.state.data == {"k": "1"}


def test_a_graph_in_a_branch_that_fails() -> None:
    """S11.3: what goes on beside the failed step in that branch is stopped, and the other branches go on."""
    graph = body(step("x", after=()), step("y", after=(), retries=5), wait("go"), loop("l", body(sleep("nap", duration=SECOND))))
    graph = Body(tuple(after(one) for one in graph.steps))
    run = Talk(parallel("p", a=graph, b=body(wait("w")), more={"join": "any"}))
    assert run.tell(boom("p/a/x")) == [StepFailed("p/a/x", 1, BOOM)]
    assert run.status("p/a/go") == "cancelled" and run.status("p/a/l") == "cancelled" and run.state.waiting_for == ("w",)
    assert run.tell(Raised("p/a/y", 1, BOOM)) == [StepFailed("p/a/y", 1, BOOM)], "it is not tried again"
    assert run.after(9).tell(Tick()) == [] and run.state.status is RunStatus.SUSPENDED and run.state.wake_at is None
    assert run.tell(signal(1, "w"))[1:] == [ArmEnded("p/b"), ArmsJoined("p", None), RunCompleted()]
    assert not run.state.stopping


# --- on the way down


def test_everything_inside_is_undone_in_reverse_order() -> None:
    """S10.1, S10.5, I30, I31: whatever it stands in, once each; what was skipped or only begun is not."""
    u: dict[str, Any] = {"compensate": handler, "compensate_when": "completed"}
    run = Talk(
        step("s", **u),
        loop("l", body(step("x", **u)), 2),
        route("r", "a", a=body(step("x", **u), step("n", when=Answer(False), **u))),
        for_each("f", ("1", "2"), body(step("x", **u))),
        parallel("p", a=body(step("x", **u), step("y", **u)), b=body(step("x", **u))),
        step("z"),
    )
    order = ["s", "l[1]/x", "l[2]/x", "r/a/x", "f[1]/x", "f[2]/x", "p/a/x", "p/b/x", "p/a/y"]
    for path in [*order[:4], "f[2]/x", "f[1]/x", "p/b/x", "p/a/x", "p/a/y"]:
        run.tell(ok(path))
    run.tell(boom("z"))
    assert list(run.state.undo) == order[::-1]
    for path in order[:0:-1]:
        assert isinstance(run.tell(ok(f"{path}!undo"))[-1], StepStarted)
    assert run.tell(ok("s!undo"))[-1] == RunFailed()


def test_losers_of_a_join_are_undone_if_they_did_something() -> None:
    """S10.4, S10.5, D8: completed or in doubt, by the same rule as anywhere."""
    u: dict[str, Any] = {"compensate": handler}
    run = Talk(parallel("p", a=step("x"), b=step("x", **u), c=step("x", **u), d=step("x", **u), more={"join": "any"}), step("z"))
    run.tell(ok("p/a/x"))
    run.tell(ok("p/b/x"))
    run.tell(Cut("p/c/x", 1, "stopped"))
    run.tell(boom("p/d/x"))
    run.tell(boom("z"))
    assert run.state.undo == ("p/c/x", "p/b/x")


def test_cancel_while_several_run() -> None:
    """S11.1, I28: each is recorded first; with `interrupt` they are cut, but for what is sheltered."""
    for interrupt in (False, True):
        run = Talk(parallel("p", a=step("x", compensate=handler), b=commit("x", compensate=handler), c=body(wait("go"))))
        assert run.tell(cancel(interrupt=interrupt)) == [request(interrupt=interrupt)]
        run.tell(Cut("p/a/x", 1, "cancelled") if interrupt else ok("p/a/x"))
        assert run.tell(ok("p/b/x"))[-2:] == [UnwindStarted("cancelled", CANCELLED), *go("p/b/x!undo")]
        assert statuses(run)["p"] == "cancelled" and run.state.waiting_for == ()
        run.tell(ok("p/b/x!undo"))
        assert run.tell(ok("p/a/x!undo"))[-1] == RunCancelled()


def test_deadline_while_several_run() -> None:
    """S5.2, D10: the same."""
    run = Talk(parallel("p", a=step("x"), b=commit("x"), c=body(sleep("nap", duration=9 * SECOND))), deadline=SECOND)
    assert run.after(1).tell(Tick()) == []
    assert run.tell(Cut("p/a/x", 1, "deadline")) == [AttemptCut("p/a/x", 1, "deadline", None)]
    assert run.tell(ok("p/b/x")) == [StepCompleted("p/b/x", 1, "1"), UnwindStarted("deadline", OVERDUE), RunFailed()]


def test_several_attempts_are_lost() -> None:
    """S3.7, S3.8: each by its own rule."""
    run = Talk(parallel("p", a=step("x"), b=step("x"), c=body(wait("go"))))
    lost = run.tell(Lost(), Advance())
    assert [type(record) for record in lost] == [AttemptLost, AttemptLost] and lost[0].retry_at is not None
    run.now = max(record.retry_at for record in lost)  # type: ignore[union-attr]
    assert run.tell(Tick()) == [StepStarted("p/a/x", 2), StepStarted("p/b/x", 2)]
    run = Talk(parallel("p", a=step("x"), b=step("x", on_unknown="fail"), c=step("x", compensate=handler)))
    lost = run.tell(Lost(), Advance())
    assert [type(record).__name__ for record in lost] == [
        "AttemptLost", "AttemptLost", "StepFailed", "ArmsStopped", "AttemptLost", "StepFailed", "UnwindStarted", "StepStarted",
    ]  # fmt: skip
    assert lost[4] == AttemptLost("p/c/x", 1, None) and lost[-1] == StepStarted("p/c/x!undo", 1)


def test_lost_while_branches_are_stopped() -> None:
    """S11.3: nobody wants another attempt."""
    run = Talk(parallel("p", a=step("x"), b=step("x"), more={"join": "any"}))
    run.tell(ok("p/a/x"))
    assert run.tell(Lost(), Advance()) == [AttemptLost("p/b/x", 1, None), ArmsJoined("p", None), RunCompleted()]


def test_retries_and_timeouts_inside() -> None:
    """S4.1, S7.5: a branch's own affair."""
    run = Talk(parallel("p", a=step("x", retries=1), b=body(wait("go", timeout=SECOND, on_timeout=ONE))))
    assert run.tell(boom("p/a/x")) == [AttemptFailed("p/a/x", 1, BOOM, T0 + SECOND)]
    assert run.after(1).tell(Tick()) == [WaitExpired("p/b/go", None), StepStarted("p/a/x", 2), *go("p/b/go/on_timeout")]
    assert run.tell(ok("p/b/go/on_timeout"))[1:] == [BranchEnded("p/b/go"), ArmEnded("p/b")]
    assert run.tell(boom("p/a/x", 2))[1:] == [StepFailed("p", 0, BOOM), *unwound()]


# --- again


def test_retry_keeps_what_is_done_inside() -> None:
    """S12.2, D3: the branches that are done stand, with their changes; the rest begins again."""
    run = Talk(step("s"), parallel("p", a=body(step("x"), step("y")), b=body(step("x"), step("y")), c=body(wait("go"))), step("z"))
    run.tell(ok("s"))
    run.tell(does("p/a/x", "1", a="1"))
    run.tell(does("p/b/x", "1", b="1"))
    run.tell(ok("p/b/y"))
    run.tell(boom("p/a/y"))
    assert first_undone(run.state) == "p/a/y"
    assert run.tell(retry()) == [again(1, "p/a/y"), *go("p/a/y"), WaitStarted("p/c/go", "go")]
    assert run.state.data_at("p/a/y") == {"a": "1"}
    run.tell(signal(1))
    assert run.tell(ok("p/a/y"))[1:] == [ArmEnded("p/a"), ArmsJoined("p", {"a": "1", "b": "1"}), *go("z")]


def test_what_completed_while_it_was_stopped_stands_in_a_retry() -> None:
    """S12.2, D22: with what it changed."""
    run = Talk(parallel("p", a=step("x"), b=step("x")))
    run.tell(boom("p/a/x"))
    run.tell(does("p/b/x", "1", k="1"))
    assert run.state.status is RunStatus.FAILED and run.state.data == {}
    assert run.tell(retry()) == [again(1, "p/a/x"), *go("p/a/x")]
    assert run.tell(ok("p/a/x"))[2] == ArmsJoined("p", {"k": "1"})


def test_retry_from_a_step_inside() -> None:
    """S12.2: that and what follows it there; its siblings stand."""
    run = Talk(parallel("p", a=body(step("x"), step("y")), b=body(step("x"))), step("z"))
    for path in ("p/a/x", "p/a/y", "p/b/x"):
        run.tell(does(path, "1", **{path.replace("/", ""): "1"}))
    run.tell(boom("z"))
    assert run.tell(retry("p/a/y")) == [again(1, "p/a/y"), *go("p/a/y")]
    assert run.tell(ok("p/a/y"))[2] == ArmsJoined("p", {"pax": "1", "pbx": "1"})
    other = Talk(route("r", "a", a=body(step("x")), b=body(step("x"))))
    other.tell(boom("r/a/x"))
    refused(other, retry("r/b/x"), InvalidArgument, "would skip")


def test_loops_keep_their_turns() -> None:
    """S12.2, D3: those that are done; a turn named again takes those after it with it."""
    run = Talk(loop("l", body(step("x"), step("y")), 3), step("z"))
    for path in ("l[1]/x", "l[1]/y", "l[2]/x"):
        run.tell(does(path, "1", **{path[2] + path[-1]: "1"}))
    run.tell(boom("l[2]/y"))
    assert run.tell(retry()) == [again(1, "l[2]/y"), *go("l[2]/y")]
    assert run.state.data == {"1x": "1", "1y": "1", "2x": "1"}
    run.tell(boom("l[2]/y"))
    assert run.tell(retry("l[1]/y")) == [again(2, "l[1]/y"), *go("l[1]/y")]
    assert run.state.data == {"1x": "1"} and "l[2]/x" not in run.state.steps
    run.tell(ok("l[1]/y"))
    assert list(run.state.calls) == ["l[2]/x"]


def test_items_begin_again_as_there_is_room() -> None:
    """S12.2: with the items that were recorded, and not more at once than before."""
    run = Talk(for_each("f", tuple("1234"), ONE, concurrency=1, on_failure="finish"))
    for number, outcome in ((1, boom), (2, ok), (3, boom), (4, ok)):
        run.tell(outcome(f"f[{number}]"))
    assert run.state.status is RunStatus.FAILED
    assert run.tell(retry()) == [again(1, "f[1]"), *go("f[1]")]
    assert run.tell(ok("f[1]"))[1:] == [ArmEnded("f[1]"), *go("f[3]")]
    assert run.tell(ok("f[3]"))[1:] == [ArmEnded("f[3]"), ArmsJoined("f", None), RunCompleted()]
    assert run.asked == [("items", "f")]


def test_a_graph_begins_again_where_it_has_to() -> None:
    """S12.2: what does not come after the step that failed stands."""
    run = Talk(*diamond())
    run.tell(ok("a"))
    run.tell(boom("b"))
    run.tell(ok("c"))
    assert run.tell(retry()) == [again(1, "b"), *go("b")]
    assert run.tell(ok("b"))[1:] == go("d")


def test_commits_inside_run_again_in_a_replay() -> None:
    """S9.3, D4: in order, on the data of that time, and the run is what it was."""
    run = Talk(
        loop("l", body(commit("c")), 2), parallel("p", a=body(step("x"), commit("c"), step("y")), b=Body((commit("one"),), single=True))
    )
    run.tell(does("l[1]/c", "1", k="1"))
    run.tell(does("l[2]/c", "2", k="2"))
    run.tell(does("p/a/x", "1", a="1"))
    run.tell(does("p/b", "1", b="1"))
    run.tell(ok("p/a/c"))
    run.tell(does("p/a/y", "1", a="2"))
    before = dict(run.state.data)
    assert before == {"k": "2", "a": "2", "b": "1"}
    assert run.tell(replay()) == [once_more(1), *go("l[1]/c")]
    assert run.state.data_at("l[1]/c") == {}
    assert run.tell(does("l[1]/c", "1", k="1"))[1:] == go("l[2]/c")
    assert run.state.data_at("l[2]/c") == {"k": "1"}
    assert run.tell(does("l[2]/c", "2", k="2"))[1:] == go("p/b")
    assert run.tell(does("p/b", "1", b="1"))[1:] == go("p/a/c")
    assert run.state.data_at("p/a/c") == {"k": "2", "a": "1"}
    assert run.tell(ok("p/a/c"))[1:] == [RunCompleted()]
    assert run.state.data == before


def test_a_replay_of_a_cancelled_run_sees_the_data_of_that_time() -> None:
    """D4: not what its branch, which is still there, came to."""
    run = Talk(parallel("p", a=body(step("x"), commit("c"), step("y"), wait("go"))))
    run.tell(does("p/a/x", "1", k="1"))
    run.tell(ok("p/a/c"))
    run.tell(does("p/a/y", "1", k="2"))
    run.tell(cancel())
    run.tell(replay())
    assert run.state.data_at("p/a/c") == {"k": "1"}
    assert run.tell(ok("p/a/c"))[1:] == [RunCancelled()]


def test_a_fork_inherits_what_is_inside() -> None:
    """D5: results and changes, and no obligations; what is inside it cannot be done again alone."""
    steps = (
        loop("l", body(step("x", compensate=handler)), 2),
        parallel("p", a=step("x", compensate=handler), b=ONE),
        for_each("f", ("1", "2"), ONE),
        route("r", "a", a=ONE, b=ONE),
        step("z"),
    )
    origin = Talk(*steps)
    for path in ("l[1]/x", "l[2]/x", "p/a/x", "p/b", "f[1]", "f[2]", "r/a"):
        origin.tell(does(path, "1", **{path.replace("/", "").replace("[", "").replace("]", ""): "1"}))
    assert list(origin.state.calls) == ["z"]
    run = Talk(*steps, inherited=[RunForked("origin", "z", "ana", "why"), *inherited(origin.state, origin.plan, "z")])
    assert run.first[-1] == StepStarted("z", 1) and run.state.data == origin.state.data
    assert run.state.steps["l"].inside.turn == 2 and run.state.steps["r"].inside.choice == "a"  # type: ignore[union-attr]
    assert run.tell(boom("z"))[1:] == unwound()
    refused(run, retry("f[2]"), InvalidArgument, "shares with its origin")
    assert run.tell(retry("f"))[1] == ItemsListed("f", ("1", "2"))


def test_a_fork_inherits_what_counts() -> None:
    """D5, S12.3: nothing of a branch that lost or failed; whether it did is what the fork sees too."""
    steps = (
        parallel("p", a=step("x"), b=body(step("y"), step("never")), c=step("late"), more={"join": "any"}),
        for_each("f", ("1", "2"), body(step("first"), step("item")), at_least=1, on_failure="finish"),
        step("z"),
    )
    origin = Talk(*steps)
    origin.tell(ok("p/b/y"))
    origin.tell(ok("p/a/x"))
    origin.tell(Cut("p/b/never", 1, "stopped"))
    origin.tell(ok("p/c/late"))
    origin.tell(ok("f[1]/first"), ok("f[2]/first"))
    origin.tell(boom("f[1]/item"), ok("f[2]/item"))
    assert list(origin.state.calls) == ["z"]
    assert (origin.status("p/b/never"), origin.status("p/c/late"), origin.status("f[1]/item")) == ("cancelled", "completed", "failed")
    run = Talk(*steps, inherited=[RunForked("origin", "z", "ana", "why"), *inherited(origin.state, origin.plan, "z")])
    assert list(run.state.steps) == ["p", "p/a/x", "f", "f[2]/first", "f[2]/item", "z"]
    for path, keys in (("p", ("p/a", "p/b", "p/c")), ("f", ("f[1]", "f[2]"))):
        counted = [[arm_completed(one.state, one.state.steps[path], key) for key in keys] for one in (origin, run)]
        assert counted[0] == counted[1]
    run.tell(boom("z"))
    assert run.tell(retry())[1:] == go("z"), "what is shared is done"
    once_more = inherited(run.state, run.plan, "z")
    assert once_more == inherited(origin.state, origin.plan, "z"), "a fork of the fork"


def test_a_fork_does_not_inherit_what_was_undone() -> None:
    """D3, D5: a step in which something was compensated, or is about to be, is not done."""
    origin = Talk(parallel("p", a=step("x", compensate=handler), b=step("y")), step("z"))
    origin.tell(ok("p/a/x"), ok("p/b/y"))
    origin.tell(boom("z"))
    for status in ("compensating", "compensated"):
        assert (origin.status("p"), origin.status("p/a/x")) == ("completed", status)
        with pytest.raises(InvalidArgument, match="would skip 'p'"):
            inherited(origin.state, origin.plan, "z")
        origin.tell(ok("p/a/x!undo"))


def test_blocked_inside_past_the_pivot() -> None:
    """S9.4, S10.6: at the step that failed, whatever it stands in; it is tried again, left out, or taken as done."""
    places = {
        "l[1]/x": loop("l", body(step("x")), 1),
        "f[1]": for_each("f", ("1", "2"), ONE, on_failure="finish"),
        "p/a/r/b/x": parallel("p", a=body(route("r", "b", b=body(step("x")))), b=ONE),
        "g": step("g"),
    }
    for path, one in places.items():
        for way in ("retry", "skip", "done"):
            run = Talk(commit("pivot", pivot=True), one, step("z"))
            run.tell(ok("pivot"))
            others = [other for other in run.state.calls if other != path]
            for other in others:
                run.tell(ok(other))
            assert run.tell(boom(path))[-1] == RunBlocked(
                "PastPivot", f"{path!r} failed after the point of no return 'pivot': ValueError: boom", path
            )
            told = run.tell(resolve(path, way, '"done"' if way == "done" else None))
            assert told[0] == resolved(path, way, '"done"' if way == "done" else None)
            if way == "retry":
                assert told[1:] == go(path)
                run.tell(ok(path))
            assert list(run.state.calls) == ["z"], (path, way)
            assert run.tell(ok("z"))[-1] == RunCompleted()


def test_each_failure_is_decided_about() -> None:
    """S3.8, S10.6: nobody is called again because somebody has decided about another; nothing starts before all have been decided about."""
    unsure = step("a", on_unknown="fail")
    fan = parallel("f", x=unsure, y=step("b"), z=body(step("k"), step("l")), more={"on_failure": "finish"})
    graph = (after(commit("pay", pivot=True)), after(unsure, "pay"), after(step("b"), "pay"), after(step("c"), "a", "b"))
    for steps, a, b, rest in (((commit("pay", pivot=True), fan, step("c")), "f/x/a", "f/y/b", ("f/z/k", "f/z/l")), (graph, "a", "b", ())):
        for first in ("skip", "done", "retry"):
            for second in ("skip", "done", "retry"):
                run = Talk(*steps)
                run.tell(ok("pay"))
                for path in rest:
                    run.tell(ok(path))
                run.tell(Cut(a, 1, "shutdown"))
                run.tell(boom(b))
                assert stuck(run) == a
                told = run.tell(resolve(a, first, '"A"' if first == "done" else None))
                assert (told[0].way, stuck(run), len(told)) == (first, b, 2)  # type: ignore[union-attr]
                assert run.status(b) == "failed"
                told = run.tell(resolve(b, second, '"B"' if second == "done" else None))
                again = [path for path, way in ((a, first), (b, second)) if way == "retry"]
                assert [record.path for record in told if isinstance(record, StepStarted)] == (again or ["c"])
                for path in again:
                    run.tell(ok(path))
                assert run.tell(ok("c"))[-1] == RunCompleted()


def test_what_was_stopped_in_doubt_is_decided_about() -> None:
    """S3.8, D8, S10.6: a step that may be called once at most, and was stopped with others while it ran, is not called again unasked."""
    unsure = step("a", on_unknown="fail")
    deep = body(parallel("g", u=unsure, v=step("k", on_unknown="fail", probe=handler)))
    for arm, path, beside in ((unsure, "f/x/a", ()), (deep, "f/x/g/u/a", ("f/x/g/v/k!probe",))):
        for first in ("skip", "done", "retry"):
            for second in ("skip", "done", "retry"):
                run = Talk(commit("pay", pivot=True), parallel("f", x=arm, y=step("b")), step("c"))
                run.tell(ok("pay"))
                run.tell(boom("f/y/b"))
                run.tell(*[Cut(one, 1, "stopped") for one in list(run.state.calls)])
                assert stuck(run) == "f/y/b"
                told = run.tell(resolve("f/y/b", first, '"B"' if first == "done" else None))
                assert (len(told), stuck(run)) == (2, path)
                assert "was stopped while it ran" in told[1].message  # type: ignore[union-attr]
                told = run.tell(resolve(path, second, '"A"' if second == "done" else None))
                again = [one for one, way in ((path, second), ("f/y/b", first)) if way == "retry"]
                begun = [record.path for record in told if isinstance(record, StepStarted)]
                assert sorted(begun) == sorted([*beside, *(again or ([] if beside else ["c"]))])


def test_items_that_failed_before_another_step_did_stay_failed() -> None:
    """S3.8, S10.6: nobody has decided about them when the run goes on behind that step; the fan ends once its other items have."""
    fan = for_each("e", ("1", "2"), body(step("d")), concurrency=1, on_failure="finish")
    for around, path in ((fan, "e"), (route("r", "x", x=body(fan)), "r/x/e"), (parallel("r", x=body(fan)), "r/x/e")):
        run = Talk(after(commit("pay", pivot=True)), after(around, "pay"), after(step("s"), "pay"))
        for command in (ok("pay"), boom("s"), boom(f"{path}[1]/d")):
            run.tell(command)
        assert stuck(run) == "s"
        assert run.tell(resolve("s", "skip"))[1:] == [*go(f"{path}[2]/d")]
        run.tell(ok(f"{path}[2]/d"))
        assert stuck(run) == f"{path}[1]/d"
        assert run.tell(resolve(f"{path}[1]/d", "skip"))[-1] == RunCompleted()


def test_an_item_that_fails_while_it_is_stopped_is_decided_about() -> None:
    """S3.8, S10.6: as is the one that failed before, once the fan has come to its end without them."""
    fan = for_each("e", ("1", "2"), body(step("d")), on_failure="finish")
    run = Talk(commit("pay", pivot=True), parallel("f", x=body(fan), y=step("b")))
    for command in (ok("pay"), boom("f/x/e[1]/d"), boom("f/y/b"), boom("f/x/e[2]/d")):
        run.tell(command)
    for path in ("f/y/b", "f/x/e[2]/d", "f/x/e[1]/d"):
        assert stuck(run) == path
        told = run.tell(resolve(path, "skip"))
        assert not [record for record in told if isinstance(record, StepStarted)]
    assert told[-1] == RunCompleted()


def test_failures_of_items_one_after_another() -> None:
    """S10.6: also of those that have to wait for their place once the run goes on."""
    for inner, path in ((ONE, "f[{}]"), (body(route("r", "b", b=ONE)), "f[{}]/r/b"), (body(after(step("i"))), "f[{}]/i")):
        for way in ("skip", "done", "retry"):
            run = Talk(commit("pay", pivot=True), for_each("f", ("1", "2", "3"), inner, concurrency=1, on_failure="finish"), step("z"))
            run.tell(ok("pay"))
            for number in (1, 2, 3):
                run.tell(boom(path.format(number)))
            for number in (1, 2, 3):
                assert stuck(run) == path.format(number)
                run.tell(resolve(path.format(number), way, '"done"' if way == "done" else None))
            for number in (1, 2, 3) if way == "retry" else ():
                assert list(run.state.calls) == [path.format(number)]
                run.tell(ok(path.format(number)))
            assert run.tell(ok("z"))[-1] == RunCompleted()


def test_what_was_allowed_to_fail_stays_failed() -> None:
    """S3.8, S10.6: an item that the join does without is not called again because of a failure elsewhere."""
    items = for_each("f", ("1", "2", "3"), body(step("i", on_unknown="fail"), step("j")), at_least=1, on_failure="finish", concurrency=2)
    run = Talk(after(commit("pay", pivot=True)), after(items, "pay"), after(step("s"), "pay"), after(step("z"), "f", "s"))
    run.tell(ok("pay"))
    run.tell(Cut("f[1]/i", 1, "shutdown"))
    run.tell(ok("f[2]/i"))
    run.tell(boom("s"))
    run.tell(ok("f[2]/j"))
    run.tell(ok("f[3]/i"))
    assert stuck(run) == "s"
    assert run.tell(resolve("s", "skip"))[1:] == [*go("f[3]/j")]
    assert run.status("f[1]/i") == "failed"
    assert ArmsJoined("f", None) in run.tell(ok("f[3]/j"))
    assert run.tell(ok("z"))[-1] == RunCompleted()


def test_a_failure_beside_what_crashes() -> None:
    """S3.8, S10.1: somebody decides about the step that took its workers down, not about the one that failed beside it."""
    for way in ("skip", "done", "retry"):
        run = Talk(after(step("a", compensate=handler)), after(step("b", on_unknown="fail"), "a"), after(step("c"), "a"))
        run.tell(ok("a"))
        run.tell(Cut("b", 1, "shutdown"), Block("WorkerCrashed", "why", "c"), Cut("c", 1, "shutdown"))
        told = run.tell(resolve("c", way))
        assert isinstance(told[1], UnwindStarted) and told[1].failure.type.endswith("UnknownOutcome"), way
        assert told[2:] == go("a!undo")


def stuck(run: Talk) -> str:
    """Where the run is blocked."""
    return "" if run.state.blocked is None else run.state.blocked.path


def test_what_waits_beside_a_failure_waits_on() -> None:
    """I29, S10.6: a step in a graph is resolved; the branches beside it, in which nothing is done yet, are not begun once more."""
    run = Talk(after(commit("pay", pivot=True)), after(parallel("f", a=wait("go"), b=wait("on")), "pay"), after(step("s"), "pay"))
    run.tell(ok("pay"))
    assert isinstance(run.tell(boom("s"))[-1], RunBlocked)
    assert run.tell(resolve("s", "skip")) == [resolved("s", "skip")]
    assert run.state.waits == {"go": ("f/a/go",), "on": ("f/b/on",)}
    run.tell(signal(1, "go"))
    assert run.tell(signal(2, "on"))[-1] == RunCompleted()


def test_the_first_failure_is_the_runs() -> None:
    """S10.1: not that of a step that was in flight beside it, and failed later."""
    first, second = Failure.of("First", "1"), Failure.of("Second", "2")
    run = Talk(after(step("a")), after(step("b"), "a"), after(step("c"), "a"))
    run.tell(ok("a"))
    run.tell(Raised("c", 1, first))
    assert run.tell(Raised("b", 1, second))[1:] == unwound(first)

    run = Talk(after(commit("pay", pivot=True)), after(step("b"), "pay"), after(step("c"), "pay"))
    run.tell(ok("pay"))
    run.tell(Raised("c", 1, first))
    assert run.tell(Raised("b", 1, second))[-1] == RunBlocked("PastPivot", "'c' failed after the point of no return 'pay': First: 1", "c")


def test_a_conflict_past_the_pivot_is_the_joins() -> None:
    """S9.4: not that of a branch that was allowed to fail."""
    run = Talk(commit("pivot", pivot=True), parallel("p", a=step("x"), b=step("x"), c=step("x"), more={"join": 2}))
    run.tell(ok("pivot"))
    run.tell(boom("p/a/x"))
    run.tell(does("p/b/x", "1", k="1"))
    assert run.tell(does("p/c/x", "1", k="2"))[-1].path == "p"


# --- what is refused leaves no trace, and what was written can be read


def test_nothing_starts_in_a_halted_run() -> None:
    """D7: what has ended may end its branch; no attempt starts."""
    run = Talk(parallel("p", a=body(step("x"), step("y")), b=ONE))
    run.halt = True
    assert run.tell(ok("p/a/x")) == [StepCompleted("p/a/x", 1, "1")]
    assert run.tell(ok("p/b"))[:1] == [StepCompleted("p/b", 1, "1")]
    run.halt = False
    assert StepStarted("p/a/y", 1) in run.tell(Advance())


def test_a_sketch_reads_every_kind() -> None:
    """S15: a run is read without its workflow, also where steps of a graph went on side by side."""
    graph = tuple(after(one) for one in (step("b"), parallel("p", x=ONE, y=body(wait("go"))), loop("l", body(step("x"), step("y")), 2)))
    run = Talk(*graph, step("c", after=("b", "p")), after(for_each("f", ("1",), ONE), "c"), after(route("r", "a", a=ONE), "f"))
    run.tell(signal(1))
    for path in ("p/x", "b", "l[1]/x", "c", "f[1]", "l[1]/y", "l[2]/x", "l[2]/y", "r/a"):
        run.tell(ok(path))
    assert run.state.status is RunStatus.COMPLETED
    run.checked = False
    seen = run.under(sketch(record for _, row in run.rows for record in row)).state
    assert {path: (st.status, st.node.kind) for path, st in seen.steps.items()} == {
        path: (st.status, st.node.kind) for path, st in fold(run.plan, run.rows).steps.items()
    }
    assert list(seen.steps) == list(run.state.steps) and seen.data == run.state.data and seen.ended is RunStatus.COMPLETED


# --- probes (S3.8)


def asked(*more: Step, **options: Any) -> Talk:
    """A run whose branch `x` asks after `a`; beside it in there go on those named `more`, and a branch `y`."""
    x = body(after(step("a", probe=handler, compensate=handler, retries=1)), *[after(one) for one in more])
    run = Talk(parallel("p", x=x, y=step("b"), more=options))
    run.tell(Raised("p/x/a", 1, SLOW, doubt=True))
    assert run.after(5).tell(Tick()) == go("p/x/a!probe")
    return run


def test_a_probe_answers_in_a_branch_that_has_failed() -> None:
    """I17, S11.3: the step is not called again, and nothing is due for it."""
    run = asked(step("c"), on_failure="finish")
    run.tell(Raised("p/x/c", 1, BOOM))
    assert run.tell(Answered("p/x/a!probe", 1, None)) == [StepProbed("p/x/a", 1, None)]
    assert statuses(run)["p/x/a"] == "cancelled" and not run.state.parked
    assert run.tell(ok("p/y/b"))[-2:] == unwound()


def test_a_probe_answers_in_a_blocked_run() -> None:
    """S2.1: nothing is started until the run is moved on."""
    run = asked()
    run.tell(Released("p/y/b", 1), Block("HandlerStuck", "why", "p/y/b"))
    assert run.tell(Answered("p/x/a!probe", 1, None)) == [StepProbed("p/x/a", 1, None)]
    assert run.state.status == "blocked" and not run.state.calls
    assert run.tell(Unblock(), Tick()) == [RunUnblocked(), StepStarted("p/y/b", 1), StepStarted("p/x/a", 2)]


@pytest.mark.parametrize("late", [False, True])
def test_a_probe_in_a_branch_that_is_not_needed(late: bool) -> None:
    """S11.3, S16: a step whose probe was not called, before or after the others win, is given up with it."""
    run = asked(step("c"), join="any")
    let_go = Released("p/x/a!probe", 1)
    for command in (ok("p/y/b"), let_go) if late else (let_go, ok("p/y/b")):
        run.tell(command)
    run.tell(Released("p/x/c", 1))
    assert run.state.status == "completed" and not run.state.parked
    assert {path for path, status in statuses(run).items() if status == "cancelled"} == {"p/x/a", "p/x/c", "p/x/a!probe"}
    assert {path for path, status in statuses(run).items() if status == "completed"} == {"p", "p/y/b"}

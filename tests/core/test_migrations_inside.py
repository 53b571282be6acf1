"""Runs that are blocked inside a step with branches, or in a graph, at a step that a new version drops (S13)."""

from __future__ import annotations

from typing import Any

from flux.core.commands import Arrived, Block, Cut, Lost, Migrate, Posting, Raised, Tick
from flux.core.records import ArmEnded, ArmsJoined, ChildStarted, RunCompleted, StepStarted, WaitStarted

from .test_again import does, resolve
from .test_inside import after, body, for_each, go, parallel, route, statuses, stuck
from .test_machine import BOOM, Talk, ok, signal
from .test_migrations import MOVED, moved_to
from .world import child, commit, handler, step, wait

PAY = commit("pay", pivot=True)


def paid(*steps: Any) -> Talk:
    """A run that has passed its point of no return."""
    run = Talk(*steps)
    run.tell(ok("pay"))
    return run


def test_branches_keep_what_they_have_done() -> None:
    """S3.2, D22, S13: the branches beside the dropped step see what they had changed, and so does the join."""

    def fork(*b: Any) -> Any:
        return parallel("p", a=body(step("s"), step("t")), b=body(*b, step("ok")))

    for cause in ("failed", "lost"):
        old = paid(PAY, fork(step("gone")), step("z"))
        old.tell(does("p/a/s", "1", k='"s"'))
        if cause == "failed":
            old.tell(Raised("p/b/gone", 1, BOOM))
            old.tell(Cut("p/a/t", 1, "stopped"))
        else:
            old.tell(Block("WorkerCrashed", "why", "p/b/gone"))
        assert stuck(old) == "p/b/gone"
        run = moved_to(PAY, fork(), step("z"), old=old, drop=("p/b/gone",))
        assert run.tell(Migrate(), Lost(), Tick())[0] == MOVED
        assert set(run.state.calls) == {"p/a/t", "p/b/ok"}, "nothing is left lying"
        assert run.state.data_at("p/a/t") == {"k": '"s"'}
        run.tell(ok("p/b/ok"))
        attempt = run.state.calls["p/a/t"].attempt
        assert run.tell(ok("p/a/t", attempt))[1:] == [ArmEnded("p/a"), ArmsJoined("p", {"k": '"s"'}), *go("z")]
        assert run.state.data == {"k": '"s"'}


def test_a_child_beside_it_is_another_one() -> None:
    """I15, I41, S13: the one that was cancelled when its branch was stopped is not waited for again."""

    def fork(*b: Any) -> Any:
        return parallel("p", b=body(*b, step("ok")), a=body(child("c")))

    old = paid(PAY, fork(step("gone")))
    old.tell(Raised("p/b/gone", 1, BOOM))
    old.tell(Arrived((Posting(1, "child", "me~p/a/c~0", "cancelled"),)))
    assert stuck(old) == "p/b/gone"
    run = moved_to(PAY, fork(), old=old, drop=("p/b/gone",))
    assert run.tell(Migrate()) == [MOVED, *go("p/b/ok"), ChildStarted("p/a/c", "me~p/a/c~1")]
    run.tell(ok("p/b/ok"))
    assert run.tell(Arrived((Posting(2, "child", "me~p/a/c~1", "completed"),)))[-1] == RunCompleted()


def test_graphs_go_on_beside_it() -> None:
    """S2.3, I15, S13: what was stopped with the dropped step is done again; nothing in a graph waits for what will not come."""
    inner = body(after(wait("w")), after(step("x"), "w"))
    old = paid(PAY, parallel("p", b=body(step("gone"), step("ok")), a=inner))
    old.tell(Raised("p/b/gone", 1, BOOM))
    assert stuck(old) == "p/b/gone"
    run = moved_to(PAY, parallel("p", b=body(step("ok")), a=inner), old=old, drop=("p/b/gone",))
    assert run.tell(Migrate()) == [MOVED, *go("p/b/ok"), WaitStarted("p/a/w", "w", None)]
    run.tell(ok("p/b/ok"))
    run.tell(signal(1, "w"))
    assert run.tell(ok("p/a/x"))[-1] == RunCompleted()


def test_every_item_that_failed_at_it_goes_on() -> None:
    """S13: there is nothing left to decide about any of them."""

    def fan(*steps: Any) -> Any:
        return for_each("f", ("1", "2", "3"), body(*steps, step("s")), on_failure="finish")

    old = paid(PAY, fan(step("gone")), step("z"))
    old.tell(ok("f[1]/gone"), Raised("f[2]/gone", 1, BOOM))
    old.tell(ok("f[1]/s"))
    old.tell(Raised("f[3]/gone", 1, BOOM))
    assert stuck(old) == "f[2]/gone"
    run = moved_to(PAY, fan(), step("z"), old=old, drop=("f[n]/gone",))
    assert run.tell(Migrate()) == [MOVED, *go("f[2]/s", "f[3]/s")]
    assert {run.status("f[2]/gone"), run.status("f[3]/gone")} == {"cancelled"}
    run.tell(ok("f[2]/s"))
    assert run.tell(ok("f[3]/s"))[-1] == StepStarted("z", 1)


def test_what_goes_on_beside_it_is_not_begun_twice() -> None:
    """I29, S3.8, S13: an attempt that runs, and one that is being asked after."""
    probed = step("a", probe=handler)
    old = Talk(parallel("p", a=probed, b=body(step("gone"), step("ok"))))
    old.tell(Lost())
    old.tell(Tick())
    assert set(old.state.calls) == {"p/a/a!probe", "p/b/gone"}
    old.tell(Block("WorkerCrashed", "why", "p/b/gone"))
    run = moved_to(parallel("p", a=probed, b=step("ok")), old=old, drop=("p/b/gone",))
    assert run.tell(Migrate()) == [MOVED, *go("p/b/ok")]
    run.tell(Lost())
    assert (list(run.state.calls), list(run.state.parked)) == ([], ["p/a/a!probe", "p/b/ok"])

    fork = after(parallel("p", a=step("a")))
    old = Talk(after(step("gone")), fork)
    old.tell(Block("WorkerCrashed", "why", "gone"))
    run = moved_to(fork, old=old, drop=("gone",))
    assert run.tell(Migrate()) == [MOVED]
    assert list(run.state.calls) == ["p/a/a"]
    assert run.tell(ok("p/a/a"))[-1] == RunCompleted()


def test_choices_that_were_made_stand() -> None:
    """I35, S13: nobody is asked again which way the run goes."""

    def ways(*b: Any) -> Any:
        return route("r", "b", a=body(step("x")), b=body(*b, step("ok")))

    old = paid(PAY, ways(step("gone")))
    old.tell(Raised("r/b/gone", 1, BOOM))
    assert stuck(old) == "r/b/gone"
    run = moved_to(PAY, ways(), old=old, drop=("r/b/gone",))
    run.asked.clear()
    assert run.tell(Migrate()) == [MOVED, *go("r/b/ok")]
    assert run.asked == []
    assert statuses(run) == {"pay": "completed", "r": "running", "r/b/gone": "cancelled", "r/b/ok": "running"}


def test_other_failures_are_still_to_be_decided_about() -> None:
    """S3.8, S13: what failed beside the dropped step, and is not dropped, is not called again unasked."""
    unsure = after(step("a", on_unknown="fail"), "pay")
    pay, last = after(PAY), after(step("z"), "a")
    old = paid(pay, after(step("gone"), "pay"), unsure, last)
    old.tell(Raised("gone", 1, BOOM))
    old.tell(Cut("a", 1, "shutdown"))
    assert stuck(old) == "gone"
    run = moved_to(pay, unsure, last, old=old, drop=("gone",))
    run.tell(Migrate())
    assert (stuck(run), list(run.state.calls)) == ("a", [])
    assert run.tell(resolve("a", "skip"))[-1] == StepStarted("z", 1)
    assert run.tell(ok("z"))[-1] == RunCompleted()

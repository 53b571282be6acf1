"""The machine as transcripts: a command, and the full list of records that follow from it."""

from __future__ import annotations

from typing import Any

from flux.core.actions import cut_cause, outstanding
from flux.core.commands import (
    Advance,
    Arrived,
    Block,
    Command,
    Cut,
    Lost,
    Posting,
    Postpone,
    Raised,
    Released,
    Resolve,
    Returned,
    Suspended,
    Tell,
    Tick,
    Unblock,
)
from flux.core.evolve import fold
from flux.core.failure import Failure
from flux.core.machine import Moment, create, decide
from flux.core.plan import Defaults, Plan
from flux.core.records import (
    AttemptCut,
    AttemptFailed,
    AttemptIsolated,
    AttemptLost,
    AttemptPostponed,
    AttemptReleased,
    BranchEnded,
    CancelRequested,
    Record,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunUnblocked,
    SignalReceived,
    SleepEnded,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepResolved,
    StepSkipped,
    StepStarted,
    StepSuspended,
    UnwindStarted,
    WaitExpired,
    WaitStarted,
)
from flux.core.retry import SECOND, Retry
from flux.core.state import RunState
from flux.core.status import RunStatus, StepStatus
from flux.core.workflow import Body, Definition, Step

from .world import DRAW, T0, Answer, commit, freeze, handler, newborn, read_cancel, read_child, sleep, step, wait

BOOM = Failure("builtins:ValueError", "boom")
SLOW = Failure.of("StepTimeout", "too slow")


class Talk:
    """A run that is spoken to; every decision is taken as committed, and the state held to be the fold of them all."""

    checked = True
    child_fails: Failure | None = None  # why no child can be made

    def __init__(
        self,
        *steps: Step,
        crash_limit: int = 20,
        halt: bool = False,
        inherited: list[Record] | None = None,
        parent: str = "",
        **kwargs: Any,
    ) -> None:
        self.definition = Definition("flow", body=Body(steps), **kwargs)
        self.plan = Plan(self.definition, Defaults(retries=0, retry=Retry(jitter=False), crash_limit=crash_limit))
        self.now = T0
        self.draws = 0
        self.asked: list[tuple[str, str]] = []
        self.halt = halt
        self.alone = False
        deadline = self.definition.deadline
        created = RunCreated("flow", self.definition.version, "", "{}", {}, None if deadline is None else T0 + deadline, parent)
        self.state = RunState(self.plan)
        self.state, decision = create(self.plan, created, self.moment, inherited or [])
        self.state.settle()
        self.first = decision.records[1:]
        self.rows: list[tuple[int, list[Record]]] = [(self.now, decision.records)]
        self.consumed: list[int] = []
        self.told: list[Tell] = []

    @property
    def moment(self) -> Moment:
        """What the machine may know now."""
        return Moment(self.now, self._draw, self._ask, read_cancel, read_child, self.halt, self.alone)

    def _draw(self) -> float:
        self.draws += 1
        return DRAW

    def _ask(self, node: Any, path: str, question: str, about: Any = None) -> Any:
        """A dict answers by path, and anything else is the answer."""
        self.asked.append((question, path))
        if question == "child":
            return self.child_fails or newborn(self.state, path)
        names = {"when": "when", "until": "compute", "route": "selector", "items": "items", "go_on": "go_on", "stop": "stop"}
        if question == "merge":
            return {key: node.step.merge(key, texts) for key, texts in about.items()}
        value = getattr(node.step, names[question]).value
        return value[path] if isinstance(value, dict) else value

    def tell(self, *commands: Command) -> list[Record]:
        """The records that follow."""
        decision = decide(self.state, commands, self.moment)
        self.state.settle()
        self.consumed = decision.consumed
        self.told = list(decision.tells)
        if decision.records:
            self.rows.append((self.now, decision.records))
            assert not self.checked or freeze(fold(self.plan, self.rows)) == freeze(self.state), "I8"
        return decision.records

    def under(self, definition: Definition) -> Talk:
        """The same run, loaded by newer code."""
        self.plan = Plan(definition, Defaults(retries=0, retry=Retry(jitter=False)))
        self.state = fold(self.plan, self.rows)
        return self

    def after(self, seconds: float) -> Talk:
        """Time passes."""
        self.now += int(seconds * SECOND)
        return self

    def status(self, path: str) -> StepStatus:
        """Of a step."""
        return self.state.steps[path].status


def ok(path: str, attempt: int = 1, result: str = "1") -> Returned:
    return Returned(path, attempt, result)


def signal(seq: int, name: str = "go", payload: str = '"yes"') -> Arrived:
    return Arrived((Posting(seq, "signal", name, payload),))


def cancel(seq: int = 1, *, compensate: bool = True, interrupt: bool = False) -> Arrived:
    return Arrived((Posting(seq, "cancel", "", f"{int(compensate)}{int(interrupt)}"),))


def request(seq: int = 1, *, compensate: bool = True, interrupt: bool = False) -> CancelRequested:
    return CancelRequested(seq, "enough", compensate, interrupt)


CANCELLED = Failure.of("RunCancelled", "enough")
OVERDUE = Failure.of("DeadlineExceeded", "the run did not end before its deadline")


def unknown(path: str) -> Failure:
    text = f"an attempt of {path!r} was lost, whether it took effect is not known, and it is not to be called again"
    return Failure.of("UnknownOutcome", text)


# --- going forward


def test_result_changes_and_next_start_are_one_decision() -> None:
    """S3.1, S3.3: each outcome comes with the start of what follows."""
    run = Talk(step("a"), step("b"))
    assert run.first == [StepStarted("a", 1)]
    assert run.tell(Returned("a", 1, "1", {"k": "2", "l": "3"})) == [StepCompleted("a", 1, "1", {"k": "2", "l": "3"}), StepStarted("b", 1)]
    assert run.tell(Returned("b", 1, "4", {"l": None})) == [StepCompleted("b", 1, "4", {"l": None}), RunCompleted()]
    assert run.state.data == {"k": "2"}
    assert run.state.status is RunStatus.COMPLETED


def test_stale_outcomes_say_nothing() -> None:
    """I29: an attempt has one outcome, and an old attempt has none left."""
    run = Talk(step("a", retries=1), step("b"))
    run.tell(Raised("a", 1, BOOM))
    run.after(1).tell(Tick())
    late: tuple[Command, ...] = (ok("a", 1), Raised("a", 1, BOOM), Suspended("a", 1, "go"), Cut("a", 1, "shutdown"), Released("a", 1))
    for command in late:
        assert run.tell(command) == []
    assert run.tell(ok("a", 2), ok("a", 2)) == [StepCompleted("a", 2, "1"), StepStarted("b", 1)]


def test_retry_then_success() -> None:
    """S4.1, S4.3, I19: the delay is a recorded timer, and the attempt after it starts no sooner."""
    run = Talk(step("a", retries=1))
    assert run.tell(Raised("a", 1, BOOM)) == [AttemptFailed("a", 1, BOOM, T0 + SECOND)]
    assert run.state.status is RunStatus.SUSPENDED
    assert run.state.wake_at == T0 + SECOND
    assert run.after(0.999999).tell(Tick()) == []
    assert run.after(0.000001).tell(Tick()) == [StepStarted("a", 2)]
    assert run.tell(Tick()) == []
    assert run.tell(ok("a", 2)) == [StepCompleted("a", 2, "1"), RunCompleted()]


def test_retries_are_used_up() -> None:
    """S4.1, S10.1: n further attempts, then the step has failed for good."""
    run = Talk(step("a", retries=1))
    run.tell(Raised("a", 1, BOOM))
    run.after(1).tell(Tick())
    assert run.tell(Raised("a", 2, BOOM)) == [StepFailed("a", 2, BOOM), UnwindStarted("failed", BOOM), RunFailed()]


def test_conditions_are_recorded() -> None:
    """S6.1, S6.2: no is recorded as skipped; a condition that raises fails its step, which never had an attempt."""
    run = Talk(step("a", when=Answer(False)), step("b", when=Answer(True)), step("c", when=Answer(False)))
    assert run.first == [StepSkipped("a"), StepStarted("b", 1)]
    assert run.tell(ok("b")) == [StepCompleted("b", 1, "1"), StepSkipped("c"), RunCompleted()]

    class Bad(Talk):
        def _ask(self, node: Any, path: str, question: str) -> Any:
            return BOOM

    assert Bad(step("a", retries=3, when=Answer(True))).first == [StepFailed("a", 0, BOOM), UnwindStarted("failed", BOOM), RunFailed()]


def test_sleeps() -> None:
    """S8.1, S8.2: the due time is recorded once; one that has passed already takes no time."""
    run = Talk(sleep("nap", duration=5 * SECOND), sleep("until", until=T0 + SECOND), sleep("asked", compute=Answer(T0)))
    assert run.first == [SleepStarted("nap", T0 + 5 * SECOND)]
    assert run.state.status is RunStatus.SUSPENDED
    assert run.after(4).tell(Tick()) == []
    assert run.after(2).tell(Tick()) == [
        SleepEnded("nap"),
        SleepStarted("until", T0 + SECOND),
        SleepEnded("until"),
        SleepStarted("asked", T0),
        SleepEnded("asked"),
        RunCompleted(),
    ]


# --- waits and signals


def test_wait_then_signal() -> None:
    """S7.1, S7.3, I23: the payload is the wait's result, and the posting is taken in the same commit."""
    run = Talk(wait("go"), step("a"))
    assert run.first == [WaitStarted("go", "go")]
    assert (run.state.status, run.state.wake_at, run.state.waiting_for) == (RunStatus.SUSPENDED, None, ("go",))
    assert run.tell(signal(1, "other")) == []
    assert run.consumed == []
    assert run.tell(signal(2)) == [SignalReceived("go", 2, '"yes"'), StepStarted("a", 1)]
    assert run.consumed == [2]
    assert run.tell(signal(2)) == []


def test_early_signals_are_kept_in_order() -> None:
    """S7.2, I24, D24: kept until a wait comes, oldest first, one wait each."""
    run = Talk(step("a"), wait("one", signal="go"), wait("two", signal="go"))
    assert run.tell(signal(1, payload="1"), signal(2, payload="2"), signal(3, payload="3")) == []
    assert run.tell(ok("a")) == [
        StepCompleted("a", 1, "1"),
        WaitStarted("one", "go"),
        SignalReceived("one", 1, "1"),
        WaitStarted("two", "go"),
        SignalReceived("two", 2, "2"),
        RunCompleted(),
    ]
    assert run.consumed == [1, 2]

    run = Talk(step("a"), wait("one", signal="go"), wait("two", signal="go"))
    run.tell(signal(1))
    run.tell(signal(1))
    assert run.tell(ok("a"))[1:] == [WaitStarted("one", "go"), SignalReceived("one", 1, '"yes"'), WaitStarted("two", "go")], (
        "one signal, one wait"
    )


def test_wait_timeout_fails() -> None:
    """S7.5: with neither default nor branch."""
    run = Talk(wait("go", timeout=3 * SECOND))
    failure = Failure.of("WaitTimeout", "no signal 'go' came for 'go' before its timeout")
    assert run.after(2).tell(Tick()) == []
    assert run.after(1).tell(Tick()) == [StepFailed("go", 0, failure), UnwindStarted("failed", failure), RunFailed()]


def test_wait_timeout_takes_its_default() -> None:
    """S7.5, I26: after which the signal is too late, and stays in the inbox."""
    run = Talk(wait("go", timeout=3 * SECOND, default_text="null"), step("a"))
    assert run.after(3).tell(Tick(), signal(1)) == [WaitExpired("go", "null"), StepStarted("a", 1)]
    assert run.consumed == []
    assert run.state.steps["go"].result == "null"


def test_signal_before_the_timeout_is_recorded_wins() -> None:
    """I26: by commit order, also when the time is over."""
    run = Talk(wait("go", timeout=3 * SECOND, default_text="null"))
    assert run.after(9).tell(signal(1), Tick()) == [SignalReceived("go", 1, '"yes"'), RunCompleted()]


def test_wait_timeout_goes_to_its_branch() -> None:
    """S7.5: a body's steps stand below the wait's path and `on_timeout`."""
    run = Talk(wait("go", timeout=SECOND, on_timeout=Body((step("x"), step("y")))), step("a"))
    assert run.after(1).tell(Tick()) == [WaitExpired("go", None), StepStarted("go/on_timeout/x", 1)]
    assert run.status("go") is StepStatus.RUNNING
    assert run.tell(ok("go/on_timeout/x")) == [StepCompleted("go/on_timeout/x", 1, "1"), StepStarted("go/on_timeout/y", 1)]
    assert run.tell(ok("go/on_timeout/y")) == [StepCompleted("go/on_timeout/y", 1, "1"), BranchEnded("go"), StepStarted("a", 1)]
    assert run.status("go") is StepStatus.COMPLETED


def test_wait_timeout_branch_of_one_handler_fails() -> None:
    """S7.5: a single handler stands right below the wait; its failure is the wait's."""
    run = Talk(wait("go", timeout=SECOND, on_timeout=Body((step("on_timeout"),), single=True)))
    assert run.after(1).tell(Tick()) == [WaitExpired("go", None), StepStarted("go/on_timeout", 1)]
    assert run.tell(Raised("go/on_timeout", 1, BOOM)) == [
        StepFailed("go/on_timeout", 1, BOOM),
        StepFailed("go", 0, BOOM),
        UnwindStarted("failed", BOOM),
        RunFailed(),
    ]


def test_cancel_inside_a_branch_ends_the_wait_too() -> None:
    """S16: no line of an ended run's history says that it still runs."""
    run = Talk(wait("go", timeout=SECOND, on_timeout=Body((step("x"), sleep("y", duration=9 * SECOND)))))
    run.after(1).tell(Tick())
    run.tell(ok("go/on_timeout/x"))
    assert run.tell(cancel()) == [request(), UnwindStarted("cancelled", CANCELLED), RunCancelled()]
    assert run.status("go/on_timeout/y") is StepStatus.CANCELLED
    assert run.status("go") is StepStatus.CANCELLED


def test_handler_returns_wait() -> None:
    """S7.1: the step goes on as a wait; its changes are kept, the payload is its result."""
    run = Talk(step("a"), step("b"))
    assert run.tell(Suspended("a", 1, "go", 5 * SECOND, None, {"k": "1"})) == [
        StepSuspended("a", 1, "go", T0 + 5 * SECOND, None, {"k": "1"})
    ]
    assert run.state.data == {"k": "1"}
    assert run.tell(signal(1)) == [SignalReceived("a", 1, '"yes"'), StepStarted("b", 1)]
    assert run.tell(signal(2)) == []
    assert run.tell(Suspended("b", 1, "go")) == [StepSuspended("b", 1, "go"), SignalReceived("b", 2, '"yes"'), RunCompleted()]


def test_handler_that_waited_too_long() -> None:
    """S7.5, S10.4: its default, or failure; as its handler returned, it is compensated."""
    run = Talk(step("a"), step("b", compensate=handler, compensate_when="completed"))
    run.tell(Suspended("a", 1, "go", SECOND, "0"))
    assert run.after(1).tell(Tick()) == [WaitExpired("a", "0"), StepStarted("b", 1)]
    run.tell(Suspended("b", 1, "go", SECOND))
    failure = Failure.of("WaitTimeout", "no signal 'go' came for 'b' before its timeout")
    assert run.after(1).tell(Tick()) == [StepFailed("b", 0, failure), UnwindStarted("failed", failure), StepStarted("b!undo", 1)]


# --- the way down


def test_failure_compensates_in_reverse_order() -> None:
    """S10.1, S10.5, I30, I31: what completed, one by one, the last first; not what was skipped, nor what raised."""
    run = Talk(
        step("a", compensate=handler),
        step("b", compensate=handler, when=Answer(False)),
        step("c", compensate=handler),
        step("d", compensate=handler),
    )
    run.tell(ok("a"))
    run.tell(ok("c"))
    assert run.tell(Raised("d", 1, BOOM)) == [StepFailed("d", 1, BOOM), UnwindStarted("failed", BOOM), StepStarted("c!undo", 1)]
    assert run.state.status is RunStatus.COMPENSATING
    assert run.status("c") is StepStatus.COMPENSATING
    assert run.tell(ok("c!undo")) == [StepCompleted("c!undo", 1, "1"), StepStarted("a!undo", 1)]
    assert run.tell(ok("a!undo")) == [StepCompleted("a!undo", 1, "1"), RunFailed()]
    assert [run.status(path) for path in "abcd"] == ["compensated", "skipped", "compensated", "failed"]


def test_cancel_waits_for_the_step_in_flight() -> None:
    """S11.1, I28: what is in flight is recorded first, then compensated; it is not tried again."""
    run = Talk(step("a", compensate=handler), step("b", compensate=handler, retries=5), step("c"))
    run.tell(ok("a"))
    assert run.tell(cancel()) == [request()]
    assert run.consumed == [1]
    assert outstanding(run.state, run.now).interrupt == []
    assert run.tell(ok("b")) == [StepCompleted("b", 1, "1"), UnwindStarted("cancelled", CANCELLED), StepStarted("b!undo", 1)]
    assert run.tell(cancel(2)) == []
    assert run.consumed == [2], "S11.2: one during compensation changes nothing"
    assert run.tell(ok("b!undo")) == [StepCompleted("b!undo", 1, "1"), StepStarted("a!undo", 1)]
    assert run.tell(ok("a!undo")) == [StepCompleted("a!undo", 1, "1"), RunCancelled()]
    assert run.state.status is RunStatus.CANCELLED


def test_cancel_stops_retries() -> None:
    """S11.1: a step that raises after a cancel has failed; one between two attempts is not started again."""
    run = Talk(step("a", retries=5))
    run.tell(cancel())
    assert run.tell(Raised("a", 1, BOOM)) == [StepFailed("a", 1, BOOM), UnwindStarted("cancelled", CANCELLED), RunCancelled()]
    run = Talk(step("a", retries=5))
    run.tell(Raised("a", 1, BOOM))
    assert run.after(1).tell(Tick(), cancel()) == [StepStarted("a", 2), request()], "started before the cancel was seen"
    run = Talk(step("a", retries=5))
    run.tell(Raised("a", 1, BOOM))
    assert run.after(1).tell(cancel(), Tick()) == [request(), UnwindStarted("cancelled", CANCELLED), RunCancelled()]


def test_cancel_without_compensation() -> None:
    """S11.2: when it was told not to."""
    run = Talk(step("a", compensate=handler), wait("go"))
    run.tell(ok("a"))
    assert run.tell(cancel(compensate=False)) == [request(compensate=False), UnwindStarted("cancelled", CANCELLED, False), RunCancelled()]
    assert run.status("a") is StepStatus.COMPLETED
    assert run.status("go") is StepStatus.CANCELLED


def test_interrupting_cancel() -> None:
    """S11.1, D8: the handler is stopped, and its step is in doubt, so it is compensated."""
    run = Talk(step("a", compensate=handler))
    run.tell(cancel(interrupt=True))
    assert [st.path for st in outstanding(run.state, run.now).interrupt] == ["a"]
    assert cut_cause(run.state, run.now) == "cancelled"
    assert run.tell(Cut("a", 1, "cancelled")) == [
        AttemptCut("a", 1, "cancelled", None),
        UnwindStarted("cancelled", CANCELLED),
        StepStarted("a!undo", 1),
    ]
    assert outstanding(run.state, run.now).interrupt == [], "a compensation is not interrupted"


def test_second_cancel_is_the_same_request() -> None:
    """S11.2: the first one's terms stand; a later one may only make it urgent."""
    run = Talk(step("a"))
    assert run.tell(cancel(1, compensate=True)) == [request(1)]
    assert run.tell(cancel(2, compensate=False)) == []
    assert run.tell(cancel(3, compensate=False, interrupt=True)) == [request(3, interrupt=True)]
    assert run.tell(cancel(4, interrupt=True)) == []


def test_cut_by_the_deadline_beside_the_point_of_no_return() -> None:
    """D10, S9.4, I15: whether the run goes down is not known while that step is under way; once it has completed, what was cut goes on."""
    run = Talk(step("a"), step("long", after=("a",)), commit("point", pivot=True, after=("a",)), deadline=SECOND)
    run.tell(Returned("a", 1, "1"))
    run.now += SECOND
    assert run.tell(Cut("long", 1, "deadline")) == [AttemptCut("long", 1, "deadline", run.now)]
    completed, blocked = run.tell(Returned("point", 1, "1"))
    assert isinstance(completed, StepCompleted) and isinstance(blocked, RunBlocked) and blocked.reason == "DeadlineExceeded"
    assert run.tell(Unblock(), Tick()) == [RunUnblocked(), StepStarted("long", 2)]


def test_commit_steps_are_sheltered() -> None:
    """S9.1, D10: neither an interrupting cancel nor the deadline stops them."""
    run = Talk(commit("a"), deadline=SECOND)
    run.tell(cancel(interrupt=True))
    assert outstanding(run.state, run.now + 9 * SECOND).interrupt == []
    assert run.after(9).tell(ok("a")) == [StepCompleted("a", 1, "1"), UnwindStarted("cancelled", CANCELLED), RunCancelled()]


def test_deadline() -> None:
    """S5.2, S10.1: it ends the run failed, and stops what is not sheltered, never early."""
    run = Talk(step("a", compensate=handler, compensate_when="completed"), wait("go"), deadline=9 * SECOND)
    assert run.state.deadline_at == T0 + 9 * SECOND
    run.tell(ok("a"))
    assert run.state.wake_at == T0 + 9 * SECOND
    assert run.after(8.999999).tell(Tick()) == []
    assert run.after(0.000001).tell(Tick()) == [UnwindStarted("deadline", OVERDUE), StepStarted("a!undo", 1)]
    assert run.tell(ok("a!undo")) == [StepCompleted("a!undo", 1, "1"), RunFailed()]

    run = Talk(step("a"), deadline=SECOND)
    assert outstanding(run.state, T0 + SECOND - 1).interrupt == []
    assert outstanding(run.state, T0).wake_at == T0 + SECOND, "with a handler running, the deadline is the next timer"
    assert [st.path for st in outstanding(run.state, T0 + SECOND).interrupt] == ["a"]
    assert run.after(1).tell(Cut("a", 1, "deadline")) == [
        AttemptCut("a", 1, "deadline", None),
        UnwindStarted("deadline", OVERDUE),
        RunFailed(),
    ]


def test_failed_compensation_goes_on() -> None:
    """S10.2, S10.3, I33: retried by its own policy, then recorded; the rest still run; the run is failed."""
    run = Talk(step("a", compensate=handler), step("b", compensate=handler, compensate_retries=1), wait("go"))
    run.tell(ok("a"))
    run.tell(ok("b"))
    run.tell(cancel())
    assert run.tell(Raised("b!undo", 1, BOOM)) == [AttemptFailed("b!undo", 1, BOOM, T0 + SECOND)]
    assert run.state.wake_at == T0 + SECOND
    assert run.after(1).tell(Tick()) == [StepStarted("b!undo", 2)]
    assert run.tell(Raised("b!undo", 2, BOOM)) == [StepFailed("b!undo", 2, BOOM), StepStarted("a!undo", 1)]
    assert run.tell(ok("a!undo")) == [StepCompleted("a!undo", 1, "1"), RunFailed()]
    assert run.status("b") is StepStatus.COMPLETED
    assert run.state.unwinding == UnwindStarted("cancelled", CANCELLED)


def test_failed_compensation_blocks() -> None:
    """S10.6: with on_compensation_failure="block" the run is parked, and goes on when it is moved."""
    run = Talk(step("a", compensate=handler), step("b", compensate=handler), wait("go"), on_compensation_failure="block")
    run.tell(ok("a"))
    run.tell(ok("b"))
    run.tell(cancel())
    blocked = RunBlocked("CompensationFailed", "'b!undo' failed: ValueError: boom", "b!undo")
    assert run.tell(Raised("b!undo", 1, BOOM)) == [StepFailed("b!undo", 1, BOOM), blocked]
    assert (run.state.status, run.state.wake_at) == (RunStatus.BLOCKED, None)
    assert run.tell(Tick(), Advance()) == []
    assert run.tell(Unblock()) == [], "somebody has to say what is to become of it"
    assert run.tell(Resolve("b!undo", "skip", None, "ana", "gone")) == [
        StepResolved("b!undo", "skip", None, "ana", "gone"),
        StepStarted("a!undo", 1),
    ]
    assert run.tell(ok("a!undo")) == [StepCompleted("a!undo", 1, "1"), RunFailed()]


def test_compensate_when() -> None:
    """S10.4: in doubt (an overrun), completed only, or started at all."""

    def undone(rule: Any, failure: Failure, doubt: bool, **kwargs: Any) -> bool:
        run = Talk(step("a", compensate=handler, compensate_when=rule, **kwargs))
        return StepStarted("a!undo", 1) in run.tell(Raised("a", 1, failure, doubt=doubt))

    assert [undone(rule, BOOM, False) for rule in ("in_doubt", "completed", "started")] == [False, False, True]
    assert [undone(rule, SLOW, True) for rule in ("in_doubt", "completed", "started")] == [True, False, True]
    assert undone("completed", SLOW, True, on_unknown="compensate")


# --- crashes, releases, parking


def test_lost_attempts_wait_longer_and_longer() -> None:
    """S3.7, D11: 0, 1, 2, 4 … seconds, counted apart from retries."""
    run = Talk(step("a", retries=0))
    assert run.tell(Lost()) == [AttemptLost("a", 1, T0)]
    assert run.tell(Lost()) == [], "there is nothing to lose twice"
    assert run.tell(Tick()) == [StepStarted("a", 2)]
    assert run.tell(Lost()) == [AttemptLost("a", 2, T0 + SECOND)]
    assert run.tell(Tick()) == []
    assert run.after(1).tell(Tick()) == [StepStarted("a", 3)]
    assert run.tell(Lost()) == [AttemptLost("a", 3, run.now + 2 * SECOND)]
    run.alone = True
    assert run.after(2).tell(Tick()) == [StepStarted("a", 4), AttemptIsolated("a", 4)]
    assert run.tell(Lost()) == [AttemptLost("a", 4, run.now + 4 * SECOND)]


def lose(run: Talk, path: str, times: int) -> list[Record]:
    """Lose this step's attempt so often in a row; the last loss's records."""
    records: list[Record] = []
    for _ in range(times):
        if path not in run.state.calls:
            run.after(100).tell(Tick())
        records = run.tell(Lost())
    return records


def test_a_suspect_runs_alone() -> None:
    """D11: from the third loss in a row on nothing starts unless it is alone; who finds no quiet worker waits longer."""
    run = Talk(step("a"))
    lose(run, "a", 3)
    assert run.after(9).tell(Tick(), Advance()) == []
    assert run.tell(Postpone("a", 30 * SECOND)) == [AttemptPostponed("a", run.now + 30 * SECOND)]
    assert run.state.wake_at == run.now + 30 * SECOND
    run.alone = True
    assert run.after(29).tell(Tick()) == []
    assert run.after(1).tell(Tick()) == [StepStarted("a", 4), AttemptIsolated("a", 4)]
    assert run.tell(Postpone("a", SECOND)) == [], "it runs"
    assert run.tell(ok("a", 4)) == [StepCompleted("a", 4, "1"), RunCompleted()]


def test_only_losses_while_alone_count_towards_the_limit() -> None:
    """S3.7, D11: what was lost beside others may be their doing; the run is parked, reversibly."""
    run = Talk(step("a"), crash_limit=3)
    assert lose(run, "a", 3) == [AttemptLost("a", 3, run.now + 2 * SECOND)]
    run.alone = True
    assert lose(run, "a", 1) == [AttemptLost("a", 4, run.now + 4 * SECOND)]
    text = "'a' lost 5 attempts in a row to crashes of its worker, 2 of them while it ran alone"
    assert lose(run, "a", 1) == [AttemptLost("a", 5, run.now + 8 * SECOND), RunBlocked("WorkerCrashed", text, "a")]
    assert run.after(99).tell(Tick()) == []
    assert run.tell(signal(1)) == []
    run.alone = False
    assert run.tell(Unblock()) == [RunUnblocked()]
    assert run.tell(Unblock()) == []
    assert run.tell(Tick()) == [StepStarted("a", 6)]
    assert run.tell(Lost()) == [AttemptLost("a", 6, run.now)], "the count began anew"
    assert run.tell(Tick()) == [StepStarted("a", 7)]
    assert run.tell(ok("a", 7)) == [StepCompleted("a", 7, "1"), RunCompleted()]


def test_progress_resets_the_crash_count() -> None:
    """S3.7: only losses in a row count."""
    run = Talk(step("a", retries=1), crash_limit=2)
    run.tell(Lost())
    run.tell(Tick())
    run.tell(Raised("a", 2, BOOM))
    run.after(1).tell(Tick())
    assert run.tell(Lost()) == [AttemptLost("a", 3, run.now)]
    assert run.state.steps["a"].doubt


def test_unknown_outcome_is_not_called_again() -> None:
    """S3.8: on_unknown="fail" is at most once, whether lost, cut at shutdown or overrun; "compensate" undoes it too."""
    run = Talk(step("a", retries=5, on_unknown="fail"))
    assert run.tell(Lost()) == [
        AttemptLost("a", 1, None),
        StepFailed("a", 0, unknown("a"), True),
        UnwindStarted("failed", unknown("a")),
        RunFailed(),
    ]
    run = Talk(step("a", retries=5, on_unknown="compensate", compensate=handler, compensate_when="completed"))
    assert run.tell(Cut("a", 1, "shutdown")) == [
        AttemptCut("a", 1, "shutdown", None),
        StepFailed("a", 0, unknown("a"), True),
        UnwindStarted("failed", unknown("a")),
        StepStarted("a!undo", 1),
    ]
    run = Talk(step("a", retries=5, on_unknown="fail"))
    assert run.tell(Raised("a", 1, SLOW, doubt=True)) == [StepFailed("a", 1, SLOW, True), UnwindStarted("failed", SLOW), RunFailed()]
    run = Talk(step("a", retries=5, on_unknown="fail"))
    assert run.tell(Raised("a", 1, BOOM)) == [AttemptFailed("a", 1, BOOM, T0 + SECOND)], "it raised: that is known"


def test_lost_compensation_is_called_again() -> None:
    """S10.2, I32: a compensation that is due is never skipped, whatever its step says of unknown outcomes."""
    run = Talk(step("a", compensate=handler, on_unknown="fail"), wait("go"), deadline=50 * SECOND)
    run.tell(ok("a"))
    run.tell(cancel())
    assert run.after(99).tell(Lost()) == [AttemptLost("a!undo", 1, run.now)]
    assert run.tell(Tick()) == [StepStarted("a!undo", 2)]
    assert run.tell(Cut("a!undo", 2, "shutdown")) == [AttemptCut("a!undo", 2, "shutdown", run.now)]
    assert run.tell(Tick()) == [StepStarted("a!undo", 3)]
    assert run.tell(Cut("a!undo", 3, "cancelled")) == [AttemptCut("a!undo", 3, "cancelled", run.now)]
    assert run.tell(Tick()) == [StepStarted("a!undo", 4)]
    assert run.tell(ok("a!undo", 4)) == [StepCompleted("a!undo", 4, "1"), RunCancelled()]


def test_lost_after_a_cancel_or_deadline_is_not_called_again() -> None:
    """S11.1, S5.2: it is in doubt, and the run goes down."""
    run = Talk(step("a", compensate=handler, on_unknown="fail"))
    run.tell(cancel())
    assert run.tell(Lost()) == [AttemptLost("a", 1, None), UnwindStarted("cancelled", CANCELLED), StepStarted("a!undo", 1)]
    run = Talk(step("a"), deadline=SECOND)
    assert run.after(1).tell(Lost()) == [AttemptLost("a", 1, None), UnwindStarted("deadline", OVERDUE), RunFailed()]


def test_release_puts_nothing_in_doubt() -> None:
    """D7, S14.4: what was not dispatched does not count, and is due at once."""
    run = Talk(step("a", compensate=handler, compensate_when="started", on_unknown="fail"))
    run.halt = True
    assert run.after(5).tell(Released("a", 1)) == [AttemptReleased("a", 1)]
    assert (run.state.wake_at, run.status("a")) == (run.now, StepStatus.PENDING)
    assert run.tell(Tick(), Advance()) == [], "the holder that gives the run back starts nothing"
    run.halt = False
    assert run.after(5).tell(Lost(), Advance(), Tick()) == [StepStarted("a", 1)]
    assert run.state.steps["a"].started_at == run.now, "the time before it was called counts for nothing"

    run = Talk(step("a", compensate=handler, compensate_when="started"))
    run.tell(Released("a", 1))
    assert run.tell(cancel()) == [request(), UnwindStarted("cancelled", CANCELLED), RunCancelled()]


def test_graceful_drain_leaves_work_due() -> None:
    """S14.4: a halted holder records outcomes and starts no attempt; what follows is due for the next one."""
    run = Talk(step("a"), step("b", when=Answer(True)))
    run.halt = True
    assert run.tell(ok("a")) == [StepCompleted("a", 1, "1")]
    assert (run.state.status, run.state.wake_at) == (RunStatus.RUNNING, 0)
    run.halt = False
    assert run.tell(Advance()) == [StepStarted("b", 1)]
    run.halt = True
    assert run.tell(ok("b")) == [StepCompleted("b", 1, "1"), RunCompleted()], "ending needs no attempt"

    run = Talk(step("a"), step("b"))
    run.halt = True
    assert run.tell(ok("a")) == [StepCompleted("a", 1, "1")]

    run = Talk(step("a"), halt=True)
    assert (run.first, run.state.status, run.state.wake_at) == ([], RunStatus.PENDING, 0)
    run.halt = False
    assert run.tell(Advance()) == [StepStarted("a", 1)]


def test_drain_on_the_way_down() -> None:
    """S14.4, S10.2: the next compensation is left due as well."""
    run = Talk(step("a", compensate=handler), step("b"))
    run.tell(ok("a"))
    run.halt = True
    assert run.tell(Raised("b", 1, BOOM)) == [StepFailed("b", 1, BOOM), UnwindStarted("failed", BOOM)]
    assert (run.state.status, run.state.wake_at) == (RunStatus.COMPENSATING, 0)
    run.halt = False
    assert run.tell(Lost(), Advance()) == [StepStarted("a!undo", 1)]


def test_shutdown_cut_is_tried_again() -> None:
    """D10: what outlasts the grace period is in doubt, and another attempt follows."""
    run = Talk(step("a", compensate=handler))
    assert run.tell(Cut("a", 1, "shutdown")) == [AttemptCut("a", 1, "shutdown", T0)]
    assert run.state.steps["a"].doubt
    assert run.tell(Tick()) == [StepStarted("a", 2)]


def test_cut_for_a_cancel_that_is_not_recorded() -> None:
    """S2.3: such an attempt is tried again, so that the run is not left with nothing to wake it."""
    run = Talk(step("a"))
    assert run.tell(Cut("a", 1, "cancelled")) == [AttemptCut("a", 1, "cancelled", T0)]
    assert run.tell(Tick()) == [StepStarted("a", 2)]
    assert run.tell(Cut("a", 2, "deadline")) == [AttemptCut("a", 2, "deadline", T0)]
    run = Talk(step("a"))
    assert run.tell(Cut("a", 1, "cancelled"), cancel(interrupt=True)) == [
        AttemptCut("a", 1, "cancelled", T0),
        request(interrupt=True),
        UnwindStarted("cancelled", CANCELLED),
        RunCancelled(),
    ]


def test_blocked_runs_record_outcomes_and_keep_signals() -> None:
    """S13.2, S7.2, I28: nothing new starts, but what was in flight is recorded, and no signal is lost."""
    run = Talk(step("a"), wait("go"), step("b"))
    assert run.tell(Block("DefinitionChanged", "why")) == [RunBlocked("DefinitionChanged", "why")]
    assert run.tell(Block("DefinitionChanged", "again")) == []
    assert run.tell(ok("a")) == [StepCompleted("a", 1, "1")]
    assert run.tell(signal(1)) == []
    assert run.tell(Unblock()) == [RunUnblocked(), WaitStarted("go", "go"), SignalReceived("go", 1, '"yes"'), StepStarted("b", 1)]


def test_blocked_runs_record_losses() -> None:
    """S3.8: an attempt that a blocked run lost is not called again unrecorded."""
    run = Talk(step("a", on_unknown="fail"))
    run.tell(Block("DefinitionChanged", "why"))
    assert run.tell(Lost()) == [AttemptLost("a", 1, None), StepFailed("a", 0, unknown("a"), True)]
    assert run.tell(Unblock()) == [RunUnblocked(), UnwindStarted("failed", unknown("a")), RunFailed()]


def test_blocked_wait_takes_its_signal_when_moved_on() -> None:
    """S7.2, I23: a waiting run that is parked leaves signals in the inbox until it is moved on."""
    run = Talk(wait("go"))
    run.tell(Block("DefinitionChanged", "why"))
    assert run.tell(signal(1), signal(2)) == []
    assert run.consumed == []
    assert run.tell(Unblock()) == [RunUnblocked(), SignalReceived("go", 1, '"yes"'), RunCompleted()]
    assert run.consumed == [1]


def test_blocked_run_can_be_cancelled() -> None:
    """S2.1, S11.1: a cancel is a person's act that moves a parked run, downwards."""
    run = Talk(step("a", compensate=handler), step("b"), crash_limit=1)
    run.tell(ok("a"))
    run.alone = True
    lose(run, "b", 4)
    assert run.state.status == "blocked"
    assert run.tell(cancel()) == [request(), UnwindStarted("cancelled", CANCELLED), StepStarted("a!undo", 1)]
    assert run.state.status == "compensating"

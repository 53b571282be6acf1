"""The table of statuses and commands is total, and does what it says."""

from __future__ import annotations

import pytest

from flux.core import commands as module
from flux.core.commands import (
    Advance,
    Answered,
    Arrived,
    Block,
    Command,
    Continued,
    Cut,
    Lost,
    Migrate,
    Posting,
    Postpone,
    Raised,
    Released,
    Reopen,
    Resolve,
    Returned,
    Suspended,
    Tick,
    Unblock,
)
from flux.core.failure import Failure
from flux.core.machine import decide
from flux.core.retry import SECOND
from flux.core.status import APPLY, COMMANDS, IGNORE, TABLE, TERMINAL, RunStatus
from flux.core.workflow import Step

from .test_machine import Talk, cancel, ok
from .world import freeze, handler, sleep, step, wait

BOOM = Failure("builtins:ValueError", "boom")

ALL: tuple[Command, ...] = (
    Advance(),
    Returned("a", 1, "1"),
    Suspended("a", 1, "go"),
    Continued("a", 1, None),
    Raised("a", 1, BOOM),
    Cut("a", 1, "shutdown"),
    Lost(),
    Released("a", 1),
    Tick(),
    Arrived((Posting(1, "signal", "go", "1"), Posting(2, "cancel", "", "11"))),
    Block("DefinitionChanged", "why", "a"),
    Unblock(),
    Answered("a!probe", 1, "1"),
    Postpone("a", SECOND),
    Resolve("a", "retry", None, "ana", "why"),
    Reopen("retry", "", "ana", "why"),
    Migrate(),
)


def reach(status: RunStatus) -> Talk:
    """A run in this status."""
    undoable: Step = step("a", compensate=handler)
    if status is RunStatus.PENDING:
        return Talk(undoable, halt=True)
    run = Talk(undoable, wait("go", timeout=SECOND))
    if status is RunStatus.RUNNING:
        return run
    if status is RunStatus.BLOCKED:
        run.tell(Block("DefinitionChanged", "why"), Cut("a", 1, "shutdown"))
        return run
    run.tell(ok("a"))
    if status is RunStatus.SUSPENDED:
        return run
    if status is RunStatus.COMPLETED:
        run.tell(Arrived((Posting(1, "signal", "go", "1"),)))
        return run
    if status is RunStatus.CANCELLED:
        run.tell(cancel())
    else:
        run.after(1).tell(Tick())
    if status is not RunStatus.COMPENSATING:
        run.tell(ok("a!undo"))
    return run


def test_every_command_has_an_answer_in_every_status() -> None:
    """S2.1, I8: the table is total, and names each command once."""
    subclasses = set(Command.__subclasses__())
    assert subclasses == {one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Command)} - {Command}
    assert set(COMMANDS) == subclasses == {type(command) for command in ALL}
    assert len(COMMANDS) == len(subclasses)
    assert set(TABLE) == set(RunStatus)
    for answers in TABLE.values():
        assert set(answers) == subclasses
        assert set(answers.values()) <= {APPLY, IGNORE}


def test_terminal_statuses_ignore_everything_but_a_persons_act() -> None:
    """S2.2, I9: only `Reopen` takes a run out of them; signals that nobody took are kept for it, and a migration changes no status."""
    assert {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED} == TERMINAL
    for status in TERMINAL:
        assert {command for command, answer in TABLE[status].items() if answer is APPLY} == {Arrived, Reopen, Migrate}
        for command in (ALL[9], Migrate()):
            run = reach(status)
            run.tell(command)
            assert run.state.status is status
            assert run.consumed == []


@pytest.mark.parametrize("status", list(RunStatus), ids=str)
def test_each_status_can_be_reached(status: RunStatus) -> None:
    """S2.1."""
    assert reach(status).state.status is status


@pytest.mark.parametrize("command", ALL, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("status", list(RunStatus), ids=str)
def test_the_table_is_obeyed(status: RunStatus, command: Command) -> None:
    """S2.2, I9: what is ignored adds nothing and changes nothing; what is applied can be taken back."""
    run = reach(status)
    run.halt = True  # nothing starts of itself: what is seen is the command's own doing
    before = freeze(run.state)
    decision = decide(run.state, (command,), run.moment)
    if TABLE[status][type(command)] is IGNORE:
        assert (decision.records, decision.consumed) == ([], [])
        assert freeze(run.state) == before
    run.state.rollback()
    assert freeze(run.state) == before


def test_suspended_means_only_waits_and_timers() -> None:
    """D17: a wait, a sleep and a retry's delay; not a running handler, nor one that can start."""
    assert Talk(wait("go")).state.status is RunStatus.SUSPENDED
    assert Talk(sleep("nap", duration=SECOND)).state.status is RunStatus.SUSPENDED
    run = Talk(step("a", retries=1))
    assert run.state.status == "running"
    run.tell(Raised("a", 1, BOOM))
    assert run.state.status == "suspended"
    run.halt = True
    run.after(1).tell(Tick())
    assert (run.state.status, run.state.wake_at) == (RunStatus.SUSPENDED, run.now)

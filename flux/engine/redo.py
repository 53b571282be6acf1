"""Doing it again: retry, replay, fork, and moving on what is blocked (S12.2, S12.3, D1 to D5)."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..codec import Codec
from ..core.again import inherited, retry_from
from ..core.commands import Command, Reopen, Resolve, Unblock
from ..core.failure import TEXT_LIMIT
from ..core.plan import PROBE, UNDO, base_path
from ..core.records import Record, RunForked
from ..core.state import RunState
from ..core.status import RunStatus
from ..errors import InvalidArgument, RunConflict, RunFinished, RunNotBlocked, RunNotFinished
from .view import RunResult, way_on

if TYPE_CHECKING:
    from .caller import Caller
    from .registry import Bound

Choice = Callable[[RunState], tuple[Command, ...]]  # what to do with the run, or why not, as an exception


@dataclass(frozen=True, slots=True)
class Act:
    """Who has it done, and why: for the journal."""

    by: str
    reason: str


def act(by: str | None, reason: str) -> Act:
    """`by` is user@host of this process unless it is said."""
    for text in (reason, by):
        if not (text is None or (isinstance(text, str) and len(text) <= TEXT_LIMIT)):
            raise InvalidArgument(f"by= and reason= are texts of at most {TEXT_LIMIT:,} characters")
    return Act(_me() if by is None else by, reason or "")


def _me() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name
        user = "?"
    return f"{user}@{socket.gethostname()}"


def choose_retry(from_step: str | None, asked: Act) -> Choice:
    """What a retry does: an ended run goes on from a step; a blocked one from where it is blocked (D3)."""

    def choose(state: RunState) -> tuple[Command, ...]:
        if state.ended is RunStatus.COMPLETED:
            raise RunFinished("the run is completed, there is nothing to retry; replay() runs its commit steps again, fork() begins anew")
        if state.ended is None and state.blocked is None:
            raise RunNotFinished(f"the run is {state.status.value} and goes on by itself; resume() carries it on here and now")
        if state.ended is None and from_step is None:
            return _from_the_block(state, asked)
        if (state.unwinding is not None and state.ended is None) or state.replay is not None:
            raise InvalidArgument(f"from_step is for runs that have ended or are blocked on their way up; {way_on(state)}")
        retry_from(state, from_step)
        return (Reopen("retry", from_step or "", asked.by, asked.reason),)

    return choose


def _from_the_block(state: RunState, asked: Act) -> tuple[Command, ...]:
    path = "" if state.blocked is None else state.blocked.path
    if not path or base_path(path) not in state.steps:
        return (Unblock(),)
    return (Resolve(_at(path), "retry", None, asked.by, asked.reason),)


def _at(path: str) -> str:
    return base_path(path) if path.endswith(PROBE) else path


def choose_replay(asked: Act) -> Choice:
    """What a replay does: the commit steps of an ended run run again (D4)."""

    def choose(state: RunState) -> tuple[Command, ...]:
        if state.ended is None:
            raise RunNotFinished(f"the run is {state.status.value}: only a run that has ended can be replayed")
        return (Reopen("replay", "", asked.by, asked.reason),)

    return choose


def choose_resolution(path: str, way: Any, result: str | None, asked: Act) -> Choice:
    """What a resolution does: the step at which the run is blocked is tried again, left out, or taken as done (S10.6)."""

    def choose(state: RunState) -> tuple[Command, ...]:
        blocked = state.blocked
        if blocked is None or state.ended is not None:
            raise RunNotBlocked(f"the run is {state.status.value}, it is not blocked")
        if not blocked.path:
            raise RunNotBlocked(f"the run is not blocked at a step: {blocked.reason}: {blocked.message}. {way_on(state)}")
        if path not in (blocked.path, base_path(blocked.path)):
            raise RunNotBlocked(f"the run is blocked at {base_path(blocked.path)!r}, not at {path!r}")
        if result is not None and blocked.path.endswith(UNDO):
            raise InvalidArgument("a compensation has no result to take over")
        text = (result or "null") if way == "done" and not (state.replay is not None and result is None) else None
        return (Resolve(_at(blocked.path), way, text, asked.by, asked.reason),)

    return choose


class Redo:
    """The calls behind `FluxEngine.retry`, `replay`, `fork` and `resolve`."""

    def __init__(self, caller: Caller, codec: Codec) -> None:
        self._caller = caller
        self._codec = codec

    async def resolve(self, run_id: str, path: str, way: str, result: Any, given: bool, asked: Act) -> RunResult:
        """See `FluxEngine.resolve`."""
        if way not in ("retry", "skip", "done"):
            raise InvalidArgument(f"a run is resolved by 'retry', 'skip' or 'done', got {way!r}")
        if given and way != "done":
            raise InvalidArgument("result= is for a step that is taken as done")
        text = self._codec.encode(result, f"result of {path!r}") if given else None
        return await self._caller.again(run_id, None, choose_resolution(path, way, text, asked))

    async def fork(self, bound: Bound, origin: str, from_step: str | None, new_id: str | None, start: bool, asked: Act) -> RunResult:
        """See `FluxEngine.fork`."""
        state = await self._caller.fold(origin)
        if state.workflow != bound.definition.name:
            raise RunConflict(f"run {origin!r} is of workflow {state.workflow!r}, not {bound.definition.name!r}")
        shared: tuple[Record, ...] = (RunForked(origin, from_step or "", asked.by, asked.reason), *inherited(state, bound.plan, from_step))
        return await self._caller.fork(bound, state, new_id, shared, start)

"""The quick, pure questions that the machine asks of user code (S1.5), and how a cancel is written in a posting."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..core.commands import Posting
from ..core.failure import TEXT_LIMIT
from ..core.plan import Node
from ..core.records import CancelRequested
from ..core.state import RunState
from ..durations import to_instant
from ..errors import InvalidArgument, InvalidWorkflow, UnreadableRun
from ..failures import capture

if TYPE_CHECKING:
    from .registry import Bound


def ask(bound: Bound, run_id: str, state: RunState, node: Node, path: str, question: str) -> Any:
    """Evaluate a step's `when` (a bool) or a computed sleep (microseconds UTC); a Failure when it raised (S6.2)."""
    context: Context[Any, Any] = Context(bound.source, run_id, state, path, node.name, 0)
    try:
        if question == "when":
            return bool(_plain(node.when(context), path))  # type: ignore[misc]
        return to_instant(_plain(node.step.compute(context), path), state.updated_at)  # type: ignore[misc]
    except Exception as error:
        return capture(error, bound.codec)


def _plain(answer: Any, path: str) -> Any:
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise InvalidWorkflow(f"the condition of {path!r} is asynchronous: conditions are plain functions of ctx")
    return answer


def write_cancel(reason: str, compensate: bool, interrupt: bool) -> str:
    """The payload of a cancel posting. Raises InvalidArgument (S15.7)."""
    if not isinstance(reason, str) or len(reason) > TEXT_LIMIT:
        raise InvalidArgument(f"the reason of a cancel is a str of at most {TEXT_LIMIT:,} characters")
    if type(compensate) is not bool or type(interrupt) is not bool:
        raise InvalidArgument("compensate= and interrupt= are True or False")
    return json.dumps({"reason": reason, "compensate": compensate, "interrupt": interrupt})


def read_cancel(posting: Posting) -> CancelRequested:
    """The request in a cancel posting. Raises UnreadableRun when it is damaged (S15.2)."""
    try:
        asked = json.loads(posting.payload)
        return CancelRequested(posting.seq, str(asked["reason"]), bool(asked["compensate"]), bool(asked["interrupt"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnreadableRun(f"the cancel that was posted as number {posting.seq} cannot be read: {type(error).__name__}") from error

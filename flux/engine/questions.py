"""The quick, pure questions that the machine asks of user code (S1.5), and how a cancel is written in a posting."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..core.commands import Posting
from ..core.plan import Node
from ..core.records import CancelRequested
from ..core.state import RunState
from ..durations import to_instant
from ..errors import InvalidWorkflow
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
    """The payload of a cancel posting."""
    return json.dumps({"reason": reason, "compensate": compensate, "interrupt": interrupt})


def read_cancel(posting: Posting) -> CancelRequested:
    """The request in a cancel posting."""
    asked = json.loads(posting.payload)
    return CancelRequested(posting.seq, str(asked["reason"]), bool(asked["compensate"]), bool(asked["interrupt"]))

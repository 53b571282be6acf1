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
from ..names import exact

if TYPE_CHECKING:
    from .registry import Bound


def ask(bound: Bound, run_id: str, state: RunState, node: Node, path: str, question: str, now: int, about: Any = None) -> Any:
    """Evaluate a step's `when` or a loop's test (a bool), a computed sleep (microseconds UTC, counted from `now`), a route's selector, a
    for_each's items (encoded), a merge of the conflicts it is asked `about` (encoded, by key), or a child's input (`about` makes it the
    run); a Failure when it raised (S6.2)."""
    step = node.step
    try:
        if question == "merge":
            return _merge(bound, step.merge, path, about)
        inside = f"{path}/{question}" if path.endswith("]") else path  # a loop's test sees its turn
        if question == "child" and step.child_input is None:
            return about(None)
        context: Context[Any, Any] = Context(bound.source, run_id, state, inside, node.name, 0)
        if question in ("stop", "go_on"):
            _show_last_turn(context, path, question)
        asked = {
            "when": node.when,
            "until": step.compute,
            "route": step.selector,
            "items": step.items,
            "stop": step.stop,
            "go_on": step.go_on,
            "child": step.child_input,
        }
        answer = _plain(asked[question](context), path)  # type: ignore[misc]
        if question == "until":
            return to_instant(answer, now)
        if question == "child":
            return about(answer)
        if question == "items":
            return [bound.codec.encode(item, f"{path}: items[{index}]") for index, item in enumerate(answer)]
        if question == "route":
            return exact(answer) if isinstance(answer, str) else answer
        return bool(answer)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a cancellation too: nothing is awaited here, so it is the function's own
        return capture(error, bound.codec)


def _show_last_turn(context: Context[Any, Any], key: str, question: str) -> None:
    """`until` is asked after its turn, `while_` before."""
    loop, _, number = key.removesuffix("]").rpartition("[")
    last = int(number) - (question == "go_on")
    if last:
        context.show_turn(f"{loop}[{last}]")


def _merge(bound: Bound, merge: Any, path: str, conflicts: dict[str, list[str | None]]) -> dict[str, str | None]:
    """What each key comes to; a branch that deleted it counts as None."""
    codec = bound.codec
    found: dict[str, str | None] = {}
    for key, texts in conflicts.items():
        values = [None if text is None else codec.decode(text) for text in texts]
        found[key] = codec.encode(_plain(merge(key, values), path), f"{path}: data[{key!r}]")
    return found


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

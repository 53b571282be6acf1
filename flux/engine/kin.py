"""What parents and children say to one another: runs that begin within a commit, and words posted with it (S1.2, D6, D24)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from ..codec import Codec, digest
from ..core.children import number_of_child
from ..core.commands import Posting, Tell
from ..core.decision import Word
from ..core.failure import Failure
from ..core.records import Record, RunCancelled, RunCompleted, RunFailed, UndoDemanded
from ..core.state import RunState, undo_path
from ..core.status import RunStatus, StepStatus
from ..errors import UnreadableRun
from ..journal import pack_failure, unpack_failure
from ..storage import NewPosting, NewRun, Outgoing
from .beginning import begin
from .questions import write_cancel
from .registry import Bound

LONGEST = 183  # characters of a parent's id that its children's begin with

_ENDS = (RunCompleted, RunFailed, RunCancelled, UndoDemanded)  # a parent hears of each of these


def child_id(run_id: str, state: RunState, path: str) -> str:
    """The id of the child that the step at `path` starts next (D24)."""
    name, _ = state.key_of(path)
    which = digest("\n".join((run_id, str(state.continuation), name, str(number_of_child(state, path)))))
    begins = run_id if len(run_id) <= LONGEST else run_id.partition("~")[0][:LONGEST]
    return f"{begins}~{which[:16]}"


def new_child(
    bound: Bound, run_id: str, state: RunState, path: str, value: Any, now: int, draw: Callable[[], float], priority: int
) -> NewRun:
    """The run that this step starts, with this input. Raises InvalidInput, NotStorable."""
    _, new = begin(bound, child_id(run_id, state, path), bound.write_input(value), now, draw, parent=run_id, priority=priority)
    return new


def words(run_id: str, state: RunState, records: Iterable[Record], tells: Iterable[Tell], codec: Codec) -> tuple[Outgoing, ...]:
    """What a commit of these records posts to other runs."""
    found = [Outgoing(tell.run_id, _told(run_id, tell)) for tell in tells]
    if state.parent and state.ended is not None and any(isinstance(record, _ENDS) for record in records):
        found.append(Outgoing(state.parent, NewPosting("child", run_id, _word(state, state.ended, codec))))
    return tuple(found)


def _told(run_id: str, tell: Tell) -> NewPosting:
    if tell.kind == "unwind":
        return NewPosting("unwind", run_id, "{}")
    return NewPosting("cancel", "cancel", write_cancel(tell.reason, tell.compensate, tell.interrupt))


def _word(state: RunState, ended: RunStatus, codec: Codec) -> str:
    failure = None if state.unwinding is None else state.unwinding.failure
    undone = [state.steps.get(undo_path(path)) for path in state.undo]
    left = [undo.failure for undo in undone if undo is not None and undo.status is StepStatus.FAILED]
    if left and state.unwinding is not None and state.unwinding.cause == "cancelled":
        failure = left[0]  # that it was cancelled is no news
    result = data_text(state.data, codec) if ended is RunStatus.COMPLETED else None
    clean = not left and not state.unclean
    return json.dumps({"status": ended.value, "result": result, "failure": pack_failure(failure), "clean": clean})


def read_child(posting: Posting) -> Word:
    """What a child says of its end. Raises UnreadableRun when it is damaged (S15.2)."""
    try:
        said = json.loads(posting.payload)
        status, result = said["status"], said["result"]
        failure: Failure | None = unpack_failure(said["failure"])
        if status not in ("completed", "failed", "cancelled") or not isinstance(result, str | None):
            raise ValueError("it says what no child says")
        return status, result, failure, bool(said["clean"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        text = f"the word of child {posting.name!r} that was posted as number {posting.seq} cannot be read: {type(error).__name__}"
        raise UnreadableRun(text) from error


def data_text(data: dict[str, str], codec: Codec) -> str:
    """The data as one encoded mapping."""
    if all(key.isascii() and not key.startswith("~") for key in data):  # what the codec writes: no need to decode it for that
        return "{" + ",".join(f"{json.dumps(key)}:{text}" for key, text in data.items()) + "}"
    return codec.encode({key: codec.decode(text) for key, text in data.items()}, "data")

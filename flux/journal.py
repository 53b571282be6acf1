"""Records as rows: how a commit is written, so that it can be read for ever (D20).

A row has two texts. `control` is a JSON list of records, each a list: a tag, then its fields in the order of the class;
`payload` is the row's encoded values one after another, and control says how long each is, so that reading a row decodes
none of them. Readers ignore fields they do not know; a field that an older writer did not have takes its default. A new
field of encoded text needs a new format: readers that do not know it could not tell which text is whose.
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from .core import records as vocabulary
from .core.failure import Failure
from .core.records import Record, RunCompleted, RunCreated, StepCompleted, StepStarted
from .errors import UnreadableRun

FORMAT = 1  # of rows; a reader refuses a newer one

# Tags are for ever. A new record gets a new tag, and a tag is never given to another record.
_TAGS: dict[str, type[Record]] = {
    "new": vocabulary.RunCreated,
    "go": vocabulary.StepStarted,
    "ok": vocabulary.StepCompleted,
    "park": vocabulary.StepSuspended,
    "err": vocabulary.AttemptFailed,
    "lost": vocabulary.AttemptLost,
    "cut": vocabulary.AttemptCut,
    "free": vocabulary.AttemptReleased,
    "fail": vocabulary.StepFailed,
    "skip": vocabulary.StepSkipped,
    "wait": vocabulary.WaitStarted,
    "sig": vocabulary.SignalReceived,
    "late": vocabulary.WaitExpired,
    "join": vocabulary.BranchEnded,
    "nap": vocabulary.SleepStarted,
    "up": vocabulary.SleepEnded,
    "stop": vocabulary.CancelRequested,
    "down": vocabulary.UnwindStarted,
    "done": vocabulary.RunCompleted,
    "dead": vocabulary.RunFailed,
    "gone": vocabulary.RunCancelled,
    "hold": vocabulary.RunBlocked,
    "move": vocabulary.RunUnblocked,
    "deny": vocabulary.CancelRefused,
    "alone": vocabulary.AttemptIsolated,
    "later": vocabulary.AttemptPostponed,
    "probe": vocabulary.StepProbed,
    "fix": vocabulary.StepResolved,
    "again": vocabulary.Reopened,
    "fork": vocabulary.RunForked,
    "had": vocabulary.StepInherited,
    "port": vocabulary.RunMigrated,
    "split": vocabulary.ParallelStarted,
    "route": vocabulary.RouteTaken,
    "turn": vocabulary.TurnStarted,
    "items": vocabulary.ItemsListed,
    "arm": vocabulary.ArmEnded,
    "halt": vocabulary.ArmsStopped,
    "merge": vocabulary.ArmsJoined,
    "child": vocabulary.ChildStarted,
    "tell": vocabulary.ChildTold,
    "home": vocabulary.ChildEnded,
    "undo": vocabulary.UndoDemanded,
}
VOCABULARY = len(_TAGS)  # grows with every new record: code that knows fewer cannot read what code that knows more has written

_TEXTS = frozenset({"result", "input", "payload", "default"})  # fields that hold an encoded value

_FIRST = [field.default for field in fields(vocabulary.RunCreated)]
_BRIEF = 7  # so much of it is always written: the tag, and up to the deadline

_quote = json.encoder.encode_basestring_ascii
_dumps = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode


def encode_row(records: Sequence[Record]) -> tuple[str, str]:
    """`(control, payload)` of a row."""
    if len(records) == 2:
        row = _common(*records)
        if row is not None:
            return row
    texts: list[str] = []
    control = [_encode(record, texts) for record in records]
    return _dumps(control), "".join(texts)


def _common(first: Record, second: Record) -> tuple[str, str] | None:
    """The rows that most commits write, in one piece: exactly what the general way writes; None for any other."""
    if type(second) is StepStarted:
        after = f'["go",{_quote(second.path)},{second.attempt}]'
    elif type(second) is RunCompleted:
        after = '["done"]'
    else:
        return None
    if type(first) is StepCompleted and first.changes is None:
        return f'[["ok",{_quote(first.path)},{first.attempt},{len(first.result)},null],{after}]', first.result
    if type(first) is RunCreated and not first.data and not first.parent and not first.continuation:
        names = f"{_quote(first.workflow)},{_quote(first.version)},{_quote(first.shape)}"
        deadline = "null" if first.deadline_at is None else first.deadline_at
        return f'[["new",{names},{len(first.input)},{{}},{deadline}],{after}]', first.input
    return None


def decode_row(control: str, payload: str, version: int = FORMAT) -> tuple[Record, ...]:
    """The records of a row. Raises UnreadableRun, without a run id, when it is not a row that this flux can read."""
    if version > FORMAT:
        raise UnreadableRun(f"the row is of format {version}, this flux reads up to {FORMAT}: upgrade it")
    reader = _Reader(payload)
    try:
        entries = json.loads(control)
        if type(entries) is not list:
            raise ValueError("control is not a list")
        records = tuple([_decode(entry, reader) for entry in entries])
        reader.end()
        return records
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise UnreadableRun(f"a row of the journal is malformed: {type(error).__name__}: {error}") from error


class _Reader:
    """Hands out the payload's texts by their lengths."""

    __slots__ = ("at", "payload")

    def __init__(self, payload: str) -> None:
        self.payload = payload
        self.at = 0

    def take(self, length: int) -> str:
        end = self.at + length
        if length < 0 or end > len(self.payload):
            raise ValueError("the payload is shorter than control says")
        text = self.payload[self.at : end]
        self.at = end
        return text

    def end(self) -> None:
        if self.at != len(self.payload):
            raise ValueError("the payload is longer than control says")


def _encode(record: Record, texts: list[str]) -> list[Any]:
    if isinstance(record, StepStarted):
        return ["go", record.path, record.attempt]
    if isinstance(record, StepCompleted) and record.changes is None:
        texts.append(record.result)
        return ["ok", record.path, record.attempt, len(record.result), None]
    tag, plan = _ENCODERS[type(record)]
    entry = [tag, *[pack(getattr(record, name), texts) for name, pack in plan]]
    if tag == "new":
        while len(entry) > _BRIEF and entry[-1] == _FIRST[len(entry) - 2]:
            entry.pop()  # no parent, and never begun again: as it was written before there were such runs
    return entry


def _decode(entry: list[Any], reader: _Reader) -> Record:
    kind, plan, required = _DECODERS[entry[0]]
    if len(entry) <= required:
        raise ValueError(f"a {entry[0]!r} record has {len(entry) - 1} fields, expected {required}")
    return kind(*[unpack(value, reader) for value, unpack in zip(entry[1:], plan, strict=False)])


def _pack_plain(value: Any, texts: list[str]) -> Any:
    return value


def _unpack_plain(value: Any, reader: _Reader) -> Any:
    return value


def _pack_text(value: str | None, texts: list[str]) -> int | None:
    if value is None:
        return None
    texts.append(value)
    return len(value)


def _unpack_text(value: int | None, reader: _Reader) -> str | None:
    return None if value is None else reader.take(value)


def _pack_texts(value: tuple[str, ...], texts: list[str]) -> list[int]:
    texts.extend(value)
    return [len(text) for text in value]


def _unpack_texts(value: list[int], reader: _Reader) -> tuple[str, ...]:
    return tuple([reader.take(length) for length in value])


def _pack_changes(value: dict[str, str | None] | None, texts: list[str]) -> Any:
    return None if value is None else {key: _pack_text(text, texts) for key, text in value.items()}


def _unpack_changes(value: dict[str, int | None] | None, reader: _Reader) -> Any:
    return None if value is None else {key: _unpack_text(length, reader) for key, length in value.items()}


def pack_failure(value: Failure | None, texts: list[str] | None = None) -> Any:
    """A failure as JSON-ready lists."""
    if value is None:
        return None
    return [
        value.type, value.message, value.args, value.state, value.traceback,
        pack_failure(value.cause), [pack_failure(one) for one in value.also],
    ]  # fmt: skip


def unpack_failure(value: Any, reader: _Reader | None = None) -> Any:
    """The failure that `pack_failure` packed."""
    if value is None:
        return None
    kind, message, args, state, traceback, cause, also = value[:7]
    return Failure(kind, message, args, state, traceback, unpack_failure(cause), tuple(unpack_failure(one) for one in also))


def _ways(field: Field[Any]) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    if field.name in _TEXTS:
        return _pack_text, _unpack_text
    if field.name == "items":
        return _pack_texts, _unpack_texts
    if field.name in ("changes", "data"):
        return _pack_changes, _unpack_changes
    if field.name == "failure":
        return pack_failure, unpack_failure
    return _pack_plain, _unpack_plain


_ENCODERS = {kind: (tag, tuple((f.name, _ways(f)[0]) for f in fields(kind))) for tag, kind in _TAGS.items()}  # type: ignore[arg-type]
_DECODERS = {
    tag: (kind, tuple(_ways(f)[1] for f in fields(kind)), sum(f.default is MISSING for f in fields(kind)))  # type: ignore[arg-type]
    for tag, kind in _TAGS.items()
}

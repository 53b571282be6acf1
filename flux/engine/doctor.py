"""Looking after runs: which of them nothing would ever move, and what to do about it (I15)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from ..core.evolve import fold
from ..core.records import Record
from ..core.sketch import drawn
from ..core.state import RunState
from ..core.status import TERMINAL, RunStatus
from ..errors import DefinitionChanged, UnreadableRun
from ..storage import Header, Query, StoredRun, WorkflowStorage
from .instants import to_datetime
from .registry import Registry
from .stranded import Lanes, stranded
from .view import told_of, way_on

PAGE = 200  # runs looked up at once
SHOWN = 200  # findings of a kind that are kept
LATE = 60_000_000  # microseconds after which a due run that nobody has taken is worth a word

Kind: TypeAlias = Literal["stuck", "unreadable", "misfit", "unknown workflow", "blocked", "late", "header"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a run that needs a look. `kind` is one of

    - `stuck`: no lease, timer, signal or queue will ever move it: this should not happen, and is a bug or a damaged row;
    - `unreadable`: its rows cannot be read; `misfit`: its journal does not fit the workflow registered here;
    - `unknown workflow`: its workflow or version is not registered here; `blocked`: it waits for a person;
    - `late`: it has been due for a minute, and no worker has taken it;
    - `header`: what lists show differs from what its journal says.
    """

    kind: Kind
    run_id: str
    workflow: str
    version: str
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: run {self.run_id} ({self.workflow} {self.version}): {self.message}. {self.advice}"


@dataclass(slots=True)
class Report:
    """What `engine.doctor()` found: `examined` runs, of which those in `counts`, by kind, need a look. `findings` has the newest 200 runs
    of each kind, the worst kinds first. Neither quotes what a handler raised, or a stored value."""

    at: datetime
    examined: int = 0
    counts: dict[Kind, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        lines = [f"{self.examined} runs examined, {sum(self.counts.values())} need a look"]
        for kind, count in self.counts.items():
            shown = [str(one) for one in self.findings if one.kind == kind]
            lines += shown
            if count > len(shown):
                lines.append(f"{kind}: {count - len(shown)} more")
        return "\n".join(lines)


_ORDER: tuple[Kind, ...] = ("stuck", "unreadable", "header", "misfit", "unknown workflow", "blocked", "late")


async def examine(storage: WorkflowStorage, registry: Registry, ended: bool) -> Report:
    """Look at every run, one at a time."""
    now = await storage.now()
    report = Report(to_datetime(now))
    found: dict[Kind, list[Finding]] = {kind: [] for kind in _ORDER}
    counts = dict.fromkeys(_ORDER, 0)
    lanes = Lanes(now)
    async for header in _headers(storage, ended):
        run = await storage.load(header.run_id)
        if run is None:
            continue  # deleted meanwhile
        report.examined += 1
        lanes.see(run.header)
        finding, state = _look_at(run, registry, now)
        if finding is None and state is not None and state.children:
            finding = await _unheard(storage, registry, run, state)
        if finding is not None:
            _note(finding, counts, found)
    left = lanes.left()
    for header in await stranded(storage, left) if left else ():
        message = "it is parked behind its concurrency key, and no run with that key will let it in"
        _note(_finding("stuck", header, message, f"resume(workflow, {header.run_id!r}) takes it up"), counts, found)
    report.counts = {kind: count for kind, count in counts.items() if count}
    report.findings = [finding for kind in _ORDER for finding in found[kind]]
    return report


def _note(finding: Finding, counts: dict[Kind, int], found: dict[Kind, list[Finding]]) -> None:
    counts[finding.kind] += 1
    if len(found[finding.kind]) < SHOWN:
        found[finding.kind].append(finding)


async def _headers(storage: WorkflowStorage, ended: bool) -> AsyncIterator[Header]:
    statuses = () if ended else tuple(status for status in RunStatus if status not in TERMINAL)
    before: tuple[int, str] | None = None
    while page := await storage.find(Query(None, statuses, PAGE, before)):
        for header in page:
            yield header
        await asyncio.sleep(0)  # a storage that never suspends leaves others their turn
        before = page[-1].created_at, page[-1].run_id


def _rows(run: StoredRun) -> list[tuple[int, tuple[Record, ...]]]:
    return [(row.at, row.records) for row in run.rows]


async def _unheard(storage: WorkflowStorage, registry: Registry, run: StoredRun, state: RunState) -> Finding | None:
    """A child that the run waits for, and will never hear of, or not from the code that is here."""
    header = run.header
    heard = {posting.name for posting in run.postings if posting.kind == "child"}
    for path, child in state.children.items():
        there = await storage.read_header(child)
        if there is not None and there.status in TERMINAL and _is_left(there, registry):
            message = f"run {header.run_id!r} wants it undone, and its journal does not fit the workflow registered here"
            return _finding("misfit", there, message, "Deploy code that fits: it is left as it is until then")
        if there is not None and (there.status not in TERMINAL or there.wake_at is not None or there.owner is not None or child in heard):
            continue
        now = await storage.read_header(header.run_id)
        if now is not None and (now.position, now.inbox_seq, now.owner) == (header.position, header.inbox_seq, None):
            what = "is not there" if there is None else f"is {there.status.value}, and has not told it"
            message = f"{path!r} waits for {child}, which {what}"
            return _finding("stuck", header, message, "The rows of the child were changed by something other than flux: restore them")
    return None


def _is_left(header: Header, registry: Registry) -> bool:
    """Whether the run is due, and left to other code than what is registered here (D28)."""
    bound = registry.get(header.workflow, header.version)
    return header.wake_at is not None and bound is not None and bound.fingerprint in header.misfits


def _look_at(run: StoredRun, registry: Registry, now: int) -> tuple[Finding | None, RunState | None]:
    header = run.header
    if run.error is not None:
        return _unreadable(header, run.error), None
    bound = registry.get(header.workflow, header.version)
    misfit: DefinitionChanged | None = None
    state: RunState | None = None
    try:
        if bound is not None:
            state = fold(bound.plan, _rows(run))
    except DefinitionChanged as error:
        misfit = error
    except UnreadableRun as error:
        return _unreadable(header, error), None
    try:
        state = drawn(_rows(run)) if state is None else state
    except (DefinitionChanged, UnreadableRun) as error:
        return _unreadable(header, error), None
    if misfit is not None and header.status != RunStatus.BLOCKED and header.status not in TERMINAL:
        advice = "Deploy code that fits, or declare a migration; a worker that takes it leaves it blocked until then"
        return _finding("misfit", header, str(misfit), advice), state
    if header.owner is None:
        finding = _damage(header, state) or _standstill(run, state, now)
        if finding is not None:
            return finding, state
    limited = header.workflow in registry.queues
    return _of_its_state(header, state, known=bound is not None, limited=limited, now=now), state


def _damage(header: Header, state: RunState) -> Finding | None:
    """Where its row says another thing than its journal."""
    told: tuple[tuple[str, str], ...] = (
        (header.status.value, state.status.value),
        (f"{header.workflow} {header.version}", f"{state.workflow} {state.version}"),
    )
    if header.status not in TERMINAL:
        told = (*told, (f"waiting for {header.waiting}", f"waiting for {state.waiting_for}"))
    for row, journal in told:
        if row != journal:
            message = f"its row says {row}, its journal {journal}"
            return _finding("header", header, message, "The row was changed by something other than flux: restore it from a backup")
    return None


def _standstill(run: StoredRun, state: RunState, now: int) -> Finding | None:
    """What no lease, timer, signal or queue will ever move (I15), or not when it should."""
    header = run.header
    if header.status in TERMINAL:
        return None
    message = ""
    come = [posting for posting in run.postings if posting.kind == "cancel" or posting.name in state.waits]
    if header.wake_at is not None:
        due = max(state.wake_at or 0, header.updated_at, now)
        if state.wake_at is not None and header.wake_at - due > LATE and header.status != RunStatus.PENDING:
            message = f"it is due at {to_datetime(due)}, and its row says {to_datetime(header.wake_at)}"
    elif state.wake_at is not None:
        message = f"it is {header.status.value}, it has something to do, and nothing will ever wake it"
    elif header.status != RunStatus.BLOCKED and not state.waits and not state.children:
        message = f"it is {header.status.value}, and nothing will ever wake it"
    elif header.status != RunStatus.BLOCKED and come:
        message = f"a {come[0].kind} has come for it, and nothing will ever look at that"
    return _finding("stuck", header, message, f"resume(workflow, {header.run_id!r}) takes it up") if message else None


def _of_its_state(header: Header, state: RunState, *, known: bool, limited: bool, now: int) -> Finding | None:
    if header.status in TERMINAL:
        return None
    if header.status == RunStatus.BLOCKED and state.blocked is not None:
        return _finding("blocked", header, told_of(state.blocked), way_on(state))
    if not known:
        return _unknown(header)
    if header.owner is None and header.wake_at is not None and now - header.wake_at > LATE and not header.parked:
        seconds = (now - header.wake_at) // 1_000_000
        advice = "It may wait for a place in its queue; else start a worker: engine.work()" if limited else "Start a worker: engine.work()"
        return _finding("late", header, f"it has been due for {seconds} s, and no worker has taken it", advice)
    return None


def _unknown(header: Header) -> Finding:
    advice = "Start a worker that has it, or register a version that migrates_from it"
    return _finding("unknown workflow", header, "its workflow in this version is not registered here", advice)


def _unreadable(header: Header, error: Exception) -> Finding:
    return _finding("unreadable", header, str(error), "Restore its rows from a backup, or read it with the flux that wrote it")


def _finding(kind: Kind, header: Header, message: str, advice: str) -> Finding:
    return Finding(kind, header.run_id, header.workflow, header.version, message, advice)

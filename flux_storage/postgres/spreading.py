"""What a commit or a tick of a schedule means for other runs: children and postings, in its transaction (contract 16, I7, I41).

Such commits have a line of their own, since they take several statements; those that gather share a transaction. They are as
written one after the other: first all of them, then all their children, then all their postings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from flux.errors import StorageUnavailable
from flux.journal import FORMAT, encode_row
from flux.storage import Committed, NewRun, Outgoing

from .lanes import lanes_of, let_in, lock_lanes
from .line import Member
from .link import ANSWERING, Connection
from .runs import TRIES, NewWritten, Written, commit_id, consumed_by, explain, new_columns, new_mark, said_by

if TYPE_CHECKING:
    from .opened import Opened

Sent: TypeAlias = tuple[Outgoing, int]  # with the number of the call that sends it


@dataclass(slots=True)
class Spreading:
    """The children of a commit with the texts of their rows, and its number. `tried`: it may have been written already."""

    children: list[NewWritten]
    mark: int
    tried: bool = False


def spreading(runs: Iterable[NewRun]) -> Spreading:
    """Of a call that makes these runs, and may post."""
    return Spreading([(run, encode_row(run.records)) for run in runs], new_mark())


async def commit_all(o: Opened, batch: list[Member[Written]]) -> None:
    """Steps forward that concern others too, each with its own outcome."""
    left = batch
    try:
        while left:
            group, later = _apart(left)
            await _settle(o, group)
            left = later
    except StorageUnavailable as error:
        for member in left:
            if member.value is None:  # else it is written
                member.error = error


def _apart(batch: list[Member[Written]]) -> tuple[list[Member[Written]], list[Member[Written]]]:
    """Those that can be written together, and the others: a run must see what was sent to it before it (contract 3)."""
    group: list[Member[Written]] = []
    later: list[Member[Written]] = []
    reached: set[str] = set()
    for member in batch:
        commit = member.request[0]
        if commit.run_id in reached:
            later.append(member)
        else:
            group.append(member)
            reached.update([sent.run_id for sent in commit.posts])
    return sorted(group, key=commit_id), later


async def _settle(o: Opened, group: list[Member[Written]]) -> None:
    left = group
    for _ in range(TRIES):
        now, done = await _write(o, left)
        for number in done:
            left[number - 1].value = Committed(now)
        rest = [member for number, member in enumerate(left, start=1) if number not in done]
        left = await explain(o, rest, now) if rest else rest
        if not left:
            return
    raise StorageUnavailable(f"{o.link.where}: runs changed again and again while they were committed")


async def _write(o: Opened, left: list[Member[Written]]) -> tuple[int, set[int]]:
    """The time, and which of them are written, counted from 1."""

    async def work(connection: Connection, _: bool) -> tuple[int, set[int]]:
        known = await _written_before(o, connection, left)
        for member in left:
            _of(member).tried = True
        todo = [number for number in range(1, len(left) + 1) if number not in known]
        if not todo:
            return o.earliest(), known
        async with connection.transaction():
            now, done = await commit_within(o, connection, [left[number - 1] for number in todo])
        return o.saw(now), known | {todo[number - 1] for number in done}

    try:
        return await o.express.perform(work)
    finally:
        o.changes.own()


def _of(member: Member[Written]) -> Spreading:
    spreading = member.request[2]
    assert spreading is not None, "a commit of this line says what it means for others"
    return spreading


async def _written_before(o: Opened, connection: Connection, left: list[Member[Written]]) -> set[int]:
    """Which of those that were tried are written and have left no row: their postings tell, or there is nothing to be told (I45)."""
    sent: dict[tuple[str, int], int] = {}
    for number, member in enumerate(left, start=1):
        commit, texts, _ = member.request
        if texts is None and _of(member).tried:
            sent.update({(to.run_id, _of(member).mark): number for to in commit.posts})
    if not sent:
        return set()
    found = await connection.fetch(o.sql.delivered, [run_id for run_id, _ in sent], [mark for _, mark in sent], timeout=ANSWERING)
    marks = {row[0] for row in found}
    return {number for (_, mark), number in sent.items() if mark in marks}


async def commit_within(o: Opened, connection: Connection, left: list[Member[Written]]) -> tuple[int, list[int]]:
    """Inside a transaction: the time, and which of them were written, counted from 1; the rest has left locks."""
    given_up = [member.request[0].lane for member in left if member.request[0].release]
    await lock_lanes(o, connection, [*given_up, *[child.lane for member in left for child, _ in _of(member).children]])
    posts = [sent for member in left for sent in member.request[0].posts]
    locked = await lock(o, connection, posts, [commit_id(member) for member in left])
    said = map(list, zip(*map(said_by, left), strict=True))
    fresh = [number for number, member in enumerate(left, start=1) if member.request[0].fresh]
    row = await connection.fetchrow(o.sql.commit_widely, o.earliest(), o.token, FORMAT, *said, *consumed_by(left), fresh, timeout=ANSWERING)
    written = [left[number - 1] for number in sorted(row[1])]
    if any(given_up):
        refs = [member.request[0].ref for member in written if member.request[0].release and member.request[0].lane]
        for lane in (await lanes_of(o, connection, refs)).values():
            await let_in(o, connection, [lane])
    children = [child for member in written for child in _of(member).children]
    await spread(o, connection, children, [(sent, _of(member).mark) for member in written for sent in member.request[0].posts], locked)
    return row[0], row[1]


# --- inside a transaction


async def lock(o: Opened, connection: Connection, posts: Iterable[Outgoing], also: Iterable[str] = ()) -> set[str]:
    """Lock the runs that are posted to, and others; returns the ids of those that are there. Without postings there is no need."""
    to = {sent.run_id for sent in posts}
    if not to:
        return to
    return await _lock(o, connection, to.union(also))


async def _lock(o: Opened, connection: Connection, ids: Iterable[str]) -> set[str]:
    return {row[0] for row in await connection.fetch(o.sql.lock, sorted(ids), timeout=ANSWERING)}


async def spread(o: Opened, connection: Connection, children: Sequence[NewWritten], posts: Sequence[Sent], locked: set[str]) -> None:
    """Make children and send postings to those of `locked` and to the children. Nothing of it is ever refused."""
    reached = set(locked)
    if children:
        ids = {child.run_id for child, _ in children}
        reached |= await _make(o, connection, children)
        late = ids.intersection([sent.run_id for sent, _ in posts]) - reached
        if late:  # others have made them just now
            reached |= await _lock(o, connection, late)
    sent = [(to, mark) for to, mark in posts if to.run_id in reached]
    if sent:
        await connection.fetchrow(
            o.sql.deliver, o.earliest(), o.token,
            [to.run_id for to, _ in sent], [to.posting.kind for to, _ in sent], [to.posting.name for to, _ in sent],
            [to.posting.payload for to, _ in sent], [to.posting.signal_id for to, _ in sent], [mark for _, mark in sent],
            timeout=ANSWERING,
        )  # fmt: skip


async def _make(o: Opened, connection: Connection, children: Sequence[NewWritten]) -> set[str]:
    """Make those whose ids are free; returns these ids."""
    each: dict[str, NewWritten] = {}
    for child in children:
        each.setdefault(child[0].run_id, child)
    new = [each[run_id] for run_id in sorted(each)]
    made = await _insert(o, connection, [child for child in new if not child[0].lane])
    for child in each.values():  # those with a lane one after the other: one is parked behind another
        if child[0].lane:
            made |= await _insert(o, connection, [child])
    return made


async def _insert(o: Opened, connection: Connection, new: list[NewWritten]) -> set[str]:
    if not new:
        return set()
    marks = {new_mark(): run.run_id for run, _ in new}
    nobody = [None] * len(new)
    rows = await connection.fetch(o.sql.create, *new_columns(o, list(marks), new, nobody, nobody), timeout=ANSWERING)
    return {marks[row[1]] for row in rows if row[1] is not None}

"""A real storage behind faults: verbs that fail before or after they have done their work, or are held up."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from flux.storage import (
    Claimed,
    Code,
    Commit,
    Committed,
    Created,
    Header,
    Limit,
    NewPosting,
    NewRun,
    Outgoing,
    Posted,
    Query,
    Renewal,
    Row,
    Schedule,
    StoredRun,
    WorkflowStorage,
)


@dataclass
class Fault:
    """Raise `error` in the next `times` calls of `verb`: instead of doing it, or (`after`) when it is done."""

    verb: str
    error: BaseException
    after: bool = False
    times: int = 1


class Faulty:
    """The storage `inner` with faults. `calls` notes every verb and its first argument."""

    def __init__(self, inner: WorkflowStorage) -> None:
        self.inner = inner
        self.clock: Any = inner.clock  # type: ignore[attr-defined]
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, Any]] = []
        self.held: dict[str, asyncio.Event] = {}

    def fail(self, verb: str, error: BaseException, *, after: bool = False, times: int = 1) -> None:
        """Plan a fault."""
        self.faults.append(Fault(verb, error, after, times))

    def commits(self) -> list[Commit]:
        """The commits with records that were asked for, repeated ones too."""
        return [argument for verb, argument in self.calls if verb == "commit" and argument.records]

    async def _do(self, verb: str, first: Any, *rest: Any, **named: Any) -> Any:
        self.calls.append((verb, first))
        if verb in self.held:
            await self.held[verb].wait()
        fault = next((fault for fault in self.faults if fault.verb == verb and fault.times > 0), None)
        if fault is not None:
            fault.times -= 1
            if not fault.after:
                raise fault.error
        arguments = () if first is self else (first,)
        answer = await getattr(self.inner, verb)(*arguments, *rest, **named)
        if fault is not None:
            raise fault.error
        return answer

    async def __aenter__(self) -> Faulty:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.inner.__aexit__(kind, error, trace)

    async def now(self) -> int:
        return int(await self._do("now", self))

    async def create(self, run: NewRun) -> Created:
        answer: Created = await self._do("create", run)
        return answer

    async def load(self, run_id: str) -> StoredRun | None:
        answer: StoredRun | None = await self._do("load", run_id)
        return answer

    async def read_header(self, run_id: str) -> Header | None:
        answer: Header | None = await self._do("read_header", run_id)
        return answer

    async def read_journal(self, run_id: str, after: int = 0, limit: int = 500) -> list[Row]:
        answer: list[Row] = await self._do("read_journal", run_id, after, limit)
        return answer

    async def find(self, query: Query) -> list[Header]:
        answer: list[Header] = await self._do("find", query)
        return answer

    async def commit(self, commit: Commit) -> Committed:
        answer: Committed = await self._do("commit", commit)
        return answer

    async def post(self, run_id: str, posting: NewPosting, *, workflow: str | None = None, taker: str | None = None) -> Posted:
        answer: Posted = await self._do("post", run_id, posting, workflow=workflow, taker=taker)
        return answer

    async def take(self, run_id: str, worker: str, *, blocked: bool = False, ended: bool = False) -> StoredRun | None:
        answer: StoredRun | None = await self._do("take", run_id, worker, blocked=blocked, ended=ended)
        return answer

    async def claim(self, worker: str, codes: Collection[Code], limit: int, limits: Collection[Limit] = ()) -> Claimed:
        answer: Claimed = await self._do("claim", worker, codes, limit, limits)
        return answer

    async def register(self, worker: str, lease: int) -> int:
        return int(await self._do("register", worker, lease))

    async def renew(self, worker: str, lease: int) -> Renewal:
        answer: Renewal = await self._do("renew", worker, lease)
        return answer

    async def unregister(self, worker: str) -> None:
        await self._do("unregister", worker)

    async def changed(self, since: int, timeout: float) -> int:
        return int(await self._do("changed", since, timeout))

    async def delete(self, run_id: str) -> None:
        await self._do("delete", run_id)

    async def purge(self, finished_for: int, limit: int) -> int:
        return int(await self._do("purge", finished_for, limit))

    async def advance(self, schedule: Schedule, runs: Collection[NewRun] = (), posts: Collection[Outgoing] = ()) -> bool:
        return bool(await self._do("advance", schedule, runs, posts))

    async def schedules(self, name: str | None = None, *, due: int | None = None, limit: int = 500, after: str = "") -> list[Schedule]:
        answer: list[Schedule] = await self._do("schedules", name, due=due, limit=limit, after=after)
        return answer

    async def unschedule(self, name: str) -> bool:
        return bool(await self._do("unschedule", name))

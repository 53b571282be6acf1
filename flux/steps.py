"""The methods that add a plain step: a handler, a commit, a sleep. Those with bodies are in bodies.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from .core.retry import Retry
from .core.workflow import MISSING, CompensateWhen, Handler, Kind, Missing, OnUnknown, Step
from .durations import Duration, add_up, from_datetime, to_microseconds
from .errors import InvalidArgument, InvalidWorkflow
from .labels import shown
from .names import check_name, exact

__all__ = ["PlainSteps", "limit"]


class PlainSteps(ABC):
    """One method a kind of step."""

    __slots__ = ()

    @abstractmethod
    def _with(self, step: Step) -> Self:
        """The same and one more step, checked."""

    @abstractmethod
    def _owner(self) -> str:
        """What errors call this."""

    def step(
        self,
        name: str,
        handler: Handler,
        *,
        retries: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | Missing | None = MISSING,
        when: Handler | None = None,
        after: Iterable[str] | None = None,
        compensate: Handler | None = None,
        compensate_retries: int | None = None,
        compensate_timeout: Duration | None = None,
        compensate_when: CompensateWhen = "in_doubt",
        on_unknown: OnUnknown = "retry",
        probe: Handler | None = None,
        waits: Iterable[str] = (),
        transactional: bool = False,
    ) -> Self:
        """A step: `handler(ctx)`, a `def` or an `async def`, whose return value is recorded under `name`.

        `retries` and `retry` say how often and when it is tried again (S4), `timeout` bounds one attempt, in seconds or as a
        timedelta (S5.1); not given, they are the engine's. `timeout=None` means no limit. `when(ctx)` is asked once, and a
        falsy answer skips the step (S6). `compensate(ctx)` undoes it when the run fails or is cancelled later on (S10), with
        retries and a timeout of its own. `on_unknown` says what follows when an attempt was lost; instead of guessing, `probe(ctx)`
        can ask outside whether it happened, and returns the result or `flux.NOT_DONE` (S3.8). `waits` declares the
        signals that the handler may return `wait(...)` for (D25).

        The handler of a `transactional` step gets the storage's own connection as `ctx.connection`, inside the transaction that also
        carries the step's commit: what it does there happens exactly once (S3.6). On SQLite it is a `def`, which has 2 seconds and
        keeps others from writing meanwhile; on PostgreSQL an `async def`. No attempt of it is ever in doubt.

        `after` names steps that were added before: once any step beside this one has it, they are no sequence but a graph, in which
        each starts when those that it comes after have ended, and those without `after` at once. Raises InvalidWorkflow.
        """
        where = self._place(name)
        step = Step(
            name,
            Kind.STEP,
            handler,
            when=when,
            after=names_after(after, where),
            retries=retries,
            retry=retry,
            timeout=limit(timeout, "timeout", where),
            unlimited=timeout is None,
            on_unknown=on_unknown,
            probe=probe,
            compensate=compensate,
            compensate_retries=compensate_retries,
            compensate_timeout=limit(compensate_timeout, "compensate_timeout", where),
            compensate_when=compensate_when,
            waits=_names(waits, where),
            transactional=transactional,
        )
        return self._with(step)

    def commit(
        self,
        name: str,
        handler: Handler,
        *,
        retries: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | Missing | None = MISSING,
        when: Handler | None = None,
        after: Iterable[str] | None = None,
        compensate: Handler | None = None,
        compensate_retries: int | None = None,
        compensate_timeout: Duration | None = None,
        compensate_when: CompensateWhen = "in_doubt",
        on_unknown: OnUnknown = "retry",
        probe: Handler | None = None,
        waits: Iterable[str] = (),
        transactional: bool = False,
        pivot: bool = False,
    ) -> Self:
        """A step with an outside effect (S9): shielded from cancellation, not repeated by recovery, run again by a replay.

        The arguments are those of `step`, but without `timeout=` an attempt has no limit (D10). With `pivot` it is the point of
        no return: once it has completed nothing is compensated any more, and what fails after it leaves the run `blocked`
        for a person (S9.4). Raises InvalidWorkflow.
        """
        where = self._place(name)
        step = Step(
            name,
            Kind.COMMIT,
            handler,
            when=when,
            after=names_after(after, where),
            retries=retries,
            retry=retry,
            timeout=limit(timeout, "timeout", where),
            unlimited=timeout is None,
            on_unknown=on_unknown,
            probe=probe,
            compensate=compensate,
            compensate_retries=compensate_retries,
            compensate_timeout=limit(compensate_timeout, "compensate_timeout", where),
            compensate_when=compensate_when,
            waits=_names(waits, where),
            transactional=transactional,
            pivot=pivot,
        )
        return self._with(step)

    def sleep(
        self,
        name: str,
        duration: Duration | datetime | Handler | None = None,
        *,
        seconds: float | None = None,
        minutes: float | None = None,
        hours: float | None = None,
        days: float | None = None,
        until: datetime | Handler | None = None,
        when: Handler | None = None,
        after: Iterable[str] | None = None,
    ) -> Self:
        """Suspend the run for a time (S8). Say how long in exactly one way: `duration`, the keywords of units (together), or `until`.

        `duration` is seconds or a timedelta, an aware datetime, or a function of ctx that answers with one of these; `until` an
        aware datetime or such a function. An instant in the past ends the sleep at once. Raises InvalidWorkflow.
        """
        where = self._place(name)
        named = {"seconds": seconds, "minutes": minutes, "hours": hours, "days": days}
        units = {unit: value for unit, value in named.items() if value is not None}
        ways = [way for way in (duration, units or None, until) if way is not None]
        if len(ways) != 1:
            raise InvalidWorkflow(
                f"{where}: a sleep takes exactly one way of saying how long (a duration, hours=... and the like, until=...), "
                f"got {len(ways)}"
            )
        try:
            step = replace(_sleep(name, duration, units, until, when), after=names_after(after, where))
        except InvalidArgument as error:
            raise InvalidWorkflow(f"{where}: {error}") from None
        return self._with(step)

    def _place(self, name: object) -> str:
        """The step as errors call it; refuses a malformed name."""
        owner = self._owner()
        return f"{owner}, step {check_name(name, f'{owner}: the name of a step')!r}"


def _sleep(name: str, duration: Any, units: dict[str, Any], until: datetime | Handler | None, when: Handler | None) -> Step:
    if units:
        return Step(name, Kind.SLEEP, when=when, duration=add_up(units))
    way = duration if until is None else until
    if isinstance(way, datetime):
        return Step(name, Kind.SLEEP, when=when, until=from_datetime(way, "until"))
    if callable(way):
        return Step(name, Kind.SLEEP, when=when, compute=way)
    if until is not None:
        raise InvalidArgument(f"until must be an aware datetime or a function of ctx, got {shown(until)}")
    return Step(name, Kind.SLEEP, when=when, duration=to_microseconds(duration, "a sleep"))


def limit(value: Duration | Missing | None, what: str, where: str) -> int | None:
    """A duration in microseconds, None for none. Raises InvalidWorkflow."""
    if value is None or value is MISSING:
        return None
    try:
        return to_microseconds(value, what)
    except InvalidArgument as error:
        raise InvalidWorkflow(f"{where}: {error}") from None


def names_after(names: Iterable[str] | None, where: str) -> tuple[str, ...] | None:
    """The steps that this one comes after, in a graph; None in a sequence."""
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidWorkflow(f"{where}: after must be a list of names of steps, got {shown(names)}")
    return _exactly(names)


def _names(names: object, where: str) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidWorkflow(f"{where}: waits must be a tuple of names of signals, got {shown(names)}")
    return _exactly(names)


def _exactly(names: Iterable[Any]) -> tuple[str, ...]:
    return tuple(exact(name) if isinstance(name, str) else name for name in names)

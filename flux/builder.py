"""The fluent, immutable front: `create_workflow("order").step("pay", pay).wait("approval")`.

A `Workflow` is a value (S1.1): every call returns a new one and leaves the old as it was, so two that grow from one base do not
know of each other. Whatever is wrong is an InvalidWorkflow at the call that made it so (S1.4).

`StepMethods` has one method a kind of step; `Workflow` and `Branch` share it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, Self, TypeAlias, cast, overload

from typing_extensions import TypeVar

from .check import check_added, check_data_type, check_handler, check_header, check_question, check_type, owner_of
from .core.retry import Retry
from .core.workflow import (
    MISSING,
    Body,
    CompensateWhen,
    Definition,
    Handler,
    Kind,
    Migration,
    Missing,
    OnCompensationFailure,
    OnUnknown,
    Step,
)
from .diagram import describe, to_mermaid
from .durations import Duration, add_up, from_datetime, to_microseconds
from .errors import InvalidArgument, InvalidWorkflow
from .labels import shown
from .migrating import check_migration
from .names import check_name

__all__ = ["Branch", "Workflow", "branch", "create_workflow"]

InputT = TypeVar("InputT", default=Any)
DataT = TypeVar("DataT", default=Any)
NewT = TypeVar("NewT")


class StepMethods(ABC):
    """The methods that add a step: one a kind."""

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
        compensate: Handler | None = None,
        compensate_retries: int | None = None,
        compensate_timeout: Duration | None = None,
        compensate_when: CompensateWhen = "in_doubt",
        on_unknown: OnUnknown = "retry",
        probe: Handler | None = None,
        waits: Iterable[str] = (),
    ) -> Self:
        """A step: `handler(ctx)`, a `def` or an `async def`, whose return value is recorded under `name`.

        `retries` and `retry` say how often and when it is tried again (S4), `timeout` bounds one attempt, in seconds or as a
        timedelta (S5.1); not given, they are the engine's. `timeout=None` means no limit. `when(ctx)` is asked once, and a
        falsy answer skips the step (S6). `compensate(ctx)` undoes it when the run fails or is cancelled later on (S10), with
        retries and a timeout of its own. `on_unknown` says what follows when an attempt was lost; instead of guessing, `probe(ctx)`
        can ask outside whether it happened, and returns the result or `flux.NOT_DONE` (S3.8). `waits` declares the
        signals that the handler may return `wait(...)` for (D25). Raises InvalidWorkflow.
        """
        where = self._place(name)
        step = Step(
            name,
            Kind.STEP,
            handler,
            when=when,
            retries=retries,
            retry=retry,
            timeout=_limit(timeout, "timeout", where),
            unlimited=timeout is None,
            on_unknown=on_unknown,
            probe=probe,
            compensate=compensate,
            compensate_retries=compensate_retries,
            compensate_timeout=_limit(compensate_timeout, "compensate_timeout", where),
            compensate_when=compensate_when,
            waits=_names(waits, where),
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
        compensate: Handler | None = None,
        compensate_retries: int | None = None,
        compensate_timeout: Duration | None = None,
        compensate_when: CompensateWhen = "in_doubt",
        on_unknown: OnUnknown = "retry",
        probe: Handler | None = None,
        waits: Iterable[str] = (),
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
            retries=retries,
            retry=retry,
            timeout=_limit(timeout, "timeout", where),
            unlimited=timeout is None,
            on_unknown=on_unknown,
            probe=probe,
            compensate=compensate,
            compensate_retries=compensate_retries,
            compensate_timeout=_limit(compensate_timeout, "compensate_timeout", where),
            compensate_when=compensate_when,
            waits=_names(waits, where),
            pivot=pivot,
        )
        return self._with(step)

    def wait(
        self,
        name: str,
        *,
        signal: str | None = None,
        type: Any = None,
        timeout: Duration | None = None,
        default: Any = MISSING,
        on_timeout: Handler | Branch | Definition | None = None,
        when: Handler | None = None,
    ) -> Self:
        """Suspend the run until a signal comes; its payload is the result (S7). The signal is called `name` unless `signal=` says so.

        A payload that does not fit `type` is refused at its sender. After `timeout` (seconds or a timedelta) the wait fails with
        WaitTimeout, or results in `default`, or goes on in `on_timeout`: a handler, a `branch()` or a workflow, of which only
        the steps are taken. Raises InvalidWorkflow.
        """
        where = self._place(name)
        step = Step(
            name,
            Kind.WAIT,
            when=when,
            timeout=_limit(timeout, "timeout", where),
            signal=name if signal is None else signal,
            type=type,
            default=default,
            on_timeout=None if on_timeout is None else _body(on_timeout, "on_timeout", where),
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
            step = _sleep(name, duration, units, until, when)
        except InvalidArgument as error:
            raise InvalidWorkflow(f"{where}: {error}") from None
        return self._with(step)

    def _place(self, name: object) -> str:
        """The step as errors call it; refuses a malformed name."""
        owner = self._owner()
        return f"{owner}, step {check_name(name, f'{owner}: the name of a step')!r}"


@dataclass(frozen=True, slots=True)
class Branch(StepMethods):
    """Steps without a workflow around them, for `on_timeout=` and other bodies. Made by `branch()`."""

    body: Body = field(default_factory=Body)

    def _with(self, step: Step) -> Self:
        return replace(self, body=_append(self.body, step, self._owner()))

    def _owner(self) -> str:
        return "branch"


def branch() -> Branch:
    """An empty branch, to add steps to: `branch().step("remind", remind).wait("answer")`."""
    return Branch()


class Workflow(Definition, StepMethods, Generic[InputT, DataT]):
    """A workflow, as a frozen value: `name`, `version`, `steps` and the rules of its runs. Made by `create_workflow(...)`."""

    __slots__ = ()

    def _with(self, step: Step) -> Self:
        return replace(self, body=_append(self.body, step, self._owner()))

    def _owner(self) -> str:
        return owner_of(self)

    @overload
    def input(self, kind: type[NewT]) -> Workflow[NewT, DataT]: ...
    @overload
    def input(self, kind: Any) -> Workflow[Any, DataT]: ...
    def input(self, kind: Any) -> Workflow[Any, DataT]:
        """Declare the type of a run's input: what does not fit is refused before anything is stored. Raises InvalidWorkflow."""
        check_type(kind, "the input type", self._owner())
        return cast("Workflow[Any, DataT]", self._set(input_type=kind))

    def data(self, kind: type[NewT]) -> Workflow[InputT, NewT]:
        """Declare `ctx.data` to be this dataclass, whose fields all have defaults: a run begins without data. Raises InvalidWorkflow."""
        check_data_type(kind, self._owner())
        return cast("Workflow[InputT, NewT]", self._set(data_type=kind))

    def validate(self, validator: Handler) -> Self:
        """Ask `validator(input)` before a run is stored; raising or False refuses the input. Raises InvalidWorkflow."""
        check_question(validator, "validate", self._owner(), "the input")
        return self._set(validator=validator)

    def migrates_from(self, old: Definition, *, rename: Mapping[str, str] | None = None, drop: Iterable[str] = ()) -> Self:
        """Carry runs of another version on under this one (S13): `rename` maps old paths of steps to new ones, `drop` names those that
        are gone. Call it when the steps are there: it is checked that every state a run of `old` can be in goes on here, so new
        steps come after the old ones. What a dropped step did stands, and is compensated if need be. Keep `old` in the code
        while such runs live, but do not register it: a registered version runs its own. Raises InvalidWorkflow.
        """
        if isinstance(drop, str):
            raise InvalidWorkflow(f"{self._owner()}: drop must be a list of paths, got {shown(drop)}")
        migration = Migration(old, tuple((rename or {}).items()), frozenset(drop))
        check_migration(self, migration, self._owner())
        return self._set(migrations=(*self.migrations, migration))

    def build(self) -> Self:
        """The workflow itself: there is no other state to leave."""
        return self

    def describe(self) -> dict[str, Any]:
        """The workflow as JSON-ready data: name, version, rules and steps. Durations are seconds."""
        return describe(self)

    def to_mermaid(self, statuses: Mapping[str, str] | None = None) -> str:
        """The workflow as a Mermaid flowchart; `statuses` (path to step status) colours the steps. Raises InvalidArgument."""
        return to_mermaid(self, statuses)

    def _set(self, **changes: Any) -> Self:
        changed = replace(self, **changes)
        check_header(changed)
        return changed

    def __repr__(self) -> str:
        return f"<Workflow {self.name} {self.version}: {', '.join(step.name for step in self.steps) or 'no steps'}>"


def create_workflow(
    name: str, *, version: str = "1", deadline: Duration | None = None, on_compensation_failure: OnCompensationFailure = "continue"
) -> Workflow[Any, Any]:
    """An empty workflow, to add steps to.

    `deadline` (seconds or a timedelta) bounds a whole run, across suspensions and crashes (S5.2). A compensation that fails
    for good lets the others run ("continue", S10.3) or parks the run for a person ("block", S10.6). Raises InvalidWorkflow.
    """
    check_name(name, "the name of a workflow")
    workflow: Workflow[Any, Any] = Workflow(
        name, version, deadline=_limit(deadline, "deadline", f"workflow {name!r}"), on_compensation_failure=on_compensation_failure
    )
    check_header(workflow)
    return workflow


def _append(body: Body, step: Step, owner: str) -> Body:
    longer = replace(body, steps=(*body.steps, step))
    check_added(longer, owner)
    return longer


_BodySource: TypeAlias = Handler | Branch | Definition


def _body(source: _BodySource, name: str, where: str) -> Body:
    """What a branch, a workflow or a handler becomes inside a step."""
    if isinstance(source, Branch):
        return source.body
    if isinstance(source, Definition):
        if source.deadline is not None:
            raise InvalidWorkflow(f"{where}: {name} is a workflow with a deadline, and only a run has one")
        return source.body
    check_handler(source, name, where)
    return Body((Step(name, Kind.STEP, source),), single=True)


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


def _limit(value: Duration | Missing | None, what: str, where: str) -> int | None:
    if value is None or value is MISSING:
        return None
    try:
        return to_microseconds(value, what)
    except InvalidArgument as error:
        raise InvalidWorkflow(f"{where}: {error}") from None


def _names(names: object, where: str) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidWorkflow(f"{where}: waits must be a tuple of names of signals, got {shown(names)}")
    return tuple(cast("Iterable[str]", names))

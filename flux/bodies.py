"""Steps inside steps: `branch()`, and the methods that add a step with bodies, or a workflow of its own: wait, parallel, route,
loop, for_each and child.

A body is a handler, a `branch()`, or a workflow, of which only the steps are taken. The result of a handler's body is what the
handler returned; that of steps a mapping of their results, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeAlias, cast, overload

from .check import check_added
from .check_functions import check_handler
from .core.workflow import MISSING, Body, Definition, Handler, Kind, OnBranchFailure, Step
from .durations import Duration
from .errors import InvalidWorkflow
from .labels import shown
from .names import check_name
from .steps import PlainSteps, limit, names_after

__all__ = ["BodySource", "Branch", "StepMethods", "append", "branch"]

BodySource: TypeAlias = "Handler | Branch | Definition"
Test: TypeAlias = Callable[[Any], object]  # of ctx; what counts is whether the answer is true
Selector: TypeAlias = Callable[[Any], str]
Items: TypeAlias = Callable[[Any], Iterable[Any]]
Merge: TypeAlias = Callable[[str, list[Any]], Any]


class StepMethods(PlainSteps):
    """One method a kind of step, all of them."""

    __slots__ = ()

    def wait(
        self,
        name: str,
        *,
        signal: str | None = None,
        type: Any = None,
        timeout: Duration | None = None,
        default: Any = MISSING,
        on_timeout: BodySource | None = None,
        when: Handler | None = None,
        after: Iterable[str] | None = None,
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
            after=names_after(after, where),
            timeout=limit(timeout, "timeout", where),
            signal=name if signal is None else signal,
            type=type,
            default=default,
            on_timeout=None if on_timeout is None else body_of(on_timeout, "on_timeout", "on_timeout", where),
        )
        return self._with(step)

    def parallel(
        self,
        name: str,
        branches: Mapping[str, BodySource] | None = None,
        /,
        *,
        join: Literal["all", "any"] | int = "all",
        on_failure: OnBranchFailure = "cancel",
        merge: Merge | None = None,
        when: Test | None = None,
        after: Iterable[str] | None = None,
        **bodies: BodySource,
    ) -> Self:
        """Branches beside one another: `.parallel("prepare", label=make_label, invoice=branch().step(...))`. The result is a mapping
        by branch name, of those that completed; a step inside is at `prepare/invoice/print`, a branch of one handler at
        `prepare/label` (S1.2, S1.3).

        `join` is how many have to complete: "all", "any" (one), or a number; what is then still under way is stopped. When too
        many have failed for that, the step fails, and the other branches are stopped first (`on_failure="cancel"`) or let to their
        end ("finish") (S11.3). A branch sees `ctx.data` as it was at the start plus its own changes; these meet at the join. Where
        branches gave one key different values, it becomes `merge(key, values)`, and without `merge` that is a DataConflict (D22).
        Branches whose names are options here (`join`, `when`, ...) go into the mapping `branches`. Raises InvalidWorkflow.
        """
        where = self._place(name)
        inner = _named(branches, bodies, where)
        return self._with(
            Step(
                name,
                Kind.PARALLEL,
                when=when,
                after=names_after(after, where),
                branches=inner,
                join=join,
                on_failure=on_failure,
                merge=merge,
            )
        )

    def route(
        self,
        name: str,
        selector: Selector,
        branches: Mapping[str, BodySource] | None = None,
        /,
        *,
        when: Test | None = None,
        after: Iterable[str] | None = None,
        **bodies: BodySource,
    ) -> Self:
        """One of several branches: `.route("carrier", choose, air=by_air, sea=branch().step(...), default=by_road)`. The result is
        `{"branch": name, "result": what it resulted in}`; a step inside is at `carrier/sea/book`, a branch of one handler at
        `carrier/air` (S1.2, S1.3).

        `selector(ctx)` is asked once, its answer is recorded (I35), and is the name of a branch. What names none takes the branch
        called `default`; without one the step fails. A branch called `when` goes into the mapping `branches`. Raises
        InvalidWorkflow.
        """
        where = self._place(name)
        return self._with(
            Step(name, Kind.ROUTE, when=when, after=names_after(after, where), selector=selector, branches=_named(branches, bodies, where))
        )

    @overload
    def loop(
        self,
        name: str,
        body: BodySource,
        *,
        until: Test,
        while_: Test | None = None,
        at_most: int,
        when: Test | None = None,
        after: Iterable[str] | None = None,
    ) -> Self: ...
    @overload
    def loop(
        self,
        name: str,
        body: BodySource,
        *,
        while_: Test | None = None,
        at_most: int,
        when: Test | None = None,
        after: Iterable[str] | None = None,
    ) -> Self: ...
    def loop(
        self,
        name: str,
        body: BodySource,
        *,
        until: Test | None = None,
        while_: Test | None = None,
        at_most: int | None = None,
        when: Test | None = None,
        after: Iterable[str] | None = None,
    ) -> Self:
        """A body again and again: `.loop("poll", body, until=lambda ctx: ctx.data["ready"], at_most=100)`. The result is a list of
        what the turns resulted in; a step inside is at `poll[3]/fetch` in the third turn, a body of one handler at `poll[3]`
        (S1.2, S1.3).

        `while_(ctx)` is asked before each turn and `until(ctx)` after it, once (I35); handlers see `ctx.turn`, from 1. A loop that is
        neither stopped by `until` nor by `while_` within `at_most` turns fails as LoopLimit; one with neither of them takes just
        that many turns. `at_most` is required: a loop without an end is refused. Raises InvalidWorkflow.
        """
        where = self._place(name)
        inner = body_of(body, "body", name, where)
        return self._with(
            Step(name, Kind.LOOP, when=when, after=names_after(after, where), body=inner, go_on=while_, stop=until, at_most=at_most)
        )

    def for_each(
        self,
        name: str,
        items: Items,
        body: BodySource,
        *,
        concurrency: int | None = 10,
        at_least: int | None = None,
        fail_fast: bool = True,
        merge: Merge | None = None,
        when: Test | None = None,
        after: Iterable[str] | None = None,
    ) -> Self:
        """A body for every item: `.for_each("lines", lambda ctx: ctx.input.lines, body, concurrency=10)`. The result is a list in
        the order of the items, None for one that did not complete; a step inside is at `lines[1]/reserve` for the first item, a body of
        one handler at `lines[1]` (S1.2, S1.3).

        `items(ctx)` is asked once and its answer recorded (I35); there may be none. Handlers see `ctx.item`, and `ctx.index` from 0.
        `concurrency` items are under way at once, None for all. `at_least` is how many have to complete, None for all; the others
        are let to their end. When too many have failed for that, the step fails, and the items under way are stopped first
        (`fail_fast`) or all let to their end. Items see the data, and `merge` joins their changes, as in `parallel` (D22). Raises
        InvalidWorkflow.
        """
        where = self._place(name)
        if type(fail_fast) is not bool:
            raise InvalidWorkflow(f"{where}: fail_fast must be True or False, got {shown(fail_fast)}")
        step = Step(
            name,
            Kind.FOR_EACH,
            when=when,
            after=names_after(after, where),
            items=items,
            body=body_of(body, "body", name, where),
            concurrency=concurrency,
            at_least=at_least,
            on_failure="cancel" if fail_fast else "finish",
            merge=merge,
        )
        return self._with(step)

    def child(
        self,
        name: str,
        workflow: Definition,
        *,
        input: Callable[[Any], Any] | None = None,
        when: Test | None = None,
        after: Iterable[str] | None = None,
    ) -> Self:
        """Another workflow, in a run of its own: `.child("billing", billing, input=lambda ctx: {"order": ctx.run_id})`. The result is the
        child's data; its id stands in the history (S1.2, D24).

        The child begins in the transaction that reaches this step, once (I41), with what `input(ctx)` answers, or no input; the parent
        waits for its end without holding anything. A child that fails, or is cancelled, fails the step as ChildFailed, with the
        child's error as its cause. A parent that goes down calls back a child that goes on, and has one that has completed undo what
        it did, in its turn (S10.5). A child is a run like others: it can be read, signalled and cancelled by its id. It is
        forgotten with its parent only (D6). Raises InvalidWorkflow.
        """
        where = self._place(name)
        return self._with(Step(name, Kind.CHILD, when=when, after=names_after(after, where), child=workflow, child_input=input))


@dataclass(frozen=True, slots=True)
class Branch(StepMethods):
    """Steps without a workflow around them, for `on_timeout=` and other bodies. Made by `branch()`."""

    body: Body = field(default_factory=Body)

    def _with(self, step: Step) -> Self:
        return replace(self, body=append(self.body, step, self._owner()))

    def _owner(self) -> str:
        return "branch"


def branch() -> Branch:
    """An empty branch, to add steps to: `branch().step("remind", remind).wait("answer")`."""
    return Branch()


def append(body: Body, step: Step, owner: str) -> Body:
    """The body and one more step. Raises InvalidWorkflow."""
    longer = replace(body, steps=(*body.steps, step))
    check_added(longer, owner)
    return longer


def body_of(source: BodySource, what: str, name: str, where: str) -> Body:
    """What a handler (then a step called `name`), a branch or a workflow becomes inside a step. Raises InvalidWorkflow."""
    if isinstance(source, Branch):
        return source.body
    if isinstance(source, Definition):
        if source.deadline is not None:
            raise InvalidWorkflow(f"{where}: {what} is a workflow with a deadline, and only a run has one")
        return source.body
    check_handler(source, what, where)
    return Body((Step(name, Kind.STEP, source),), single=True)


def _named(given: object, bodies: Mapping[str, BodySource], where: str) -> tuple[tuple[str, Body], ...]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidWorkflow(f"{where}: branches must be a mapping of names to bodies, got {shown(given)}")
    mapping = cast("Mapping[str, BodySource]", given or {})
    twice = mapping.keys() & bodies.keys()
    if twice:
        raise InvalidWorkflow(f"{where}: branch {min(twice)!r} is given twice, in the mapping and by keyword")
    found: list[tuple[str, Body]] = []
    for given_name, source in (*mapping.items(), *bodies.items()):
        name = check_name(given_name, f"{where}: the name of a branch")
        found.append((name, body_of(source, f"branch {name!r}", name, where)))
    return tuple(found)

"""The fluent, immutable front: `create_workflow("order").step("pay", pay).wait("approval")`.

A `Workflow` is a value (S1.1): every call returns a new one and leaves the old as it was, so two that grow from one base do not
know of each other. Whatever is wrong is an InvalidWorkflow at the call that made it so (S1.4).

The methods that add a step, one a kind, are in steps.py and bodies.py; `Workflow` and `Branch` share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Generic, Self, cast, overload

from typing_extensions import TypeVar

from .bodies import Branch, StepMethods, append, branch
from .check import check_data_type, check_header, check_type, owner_of
from .check_functions import check_question
from .core.workflow import Definition, Handler, Migration, OnCompensationFailure, Step
from .diagram import describe, to_mermaid
from .durations import Duration
from .errors import InvalidWorkflow
from .labels import shown
from .migrating import check_migration
from .names import check_name, exact
from .queue import Queue
from .steps import limit

__all__ = ["Branch", "Workflow", "branch", "create_workflow"]

InputT = TypeVar("InputT", default=Any)
DataT = TypeVar("DataT", default=Any)
NewT = TypeVar("NewT")


class Workflow(Definition, StepMethods, Generic[InputT, DataT]):
    """A workflow, as a frozen value: `name`, `version`, `steps` and the rules of its runs. Made by `create_workflow(...)`."""

    __slots__ = ()

    def _with(self, step: Step) -> Self:
        return replace(self, body=append(self.body, step, self._owner()))

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
        if rename is not None and not isinstance(rename, Mapping):
            raise InvalidWorkflow(f"{self._owner()}: rename must be a mapping of old paths to new ones, got {shown(rename)}")
        if isinstance(drop, str) or not isinstance(drop, Iterable):
            raise InvalidWorkflow(f"{self._owner()}: drop must be a list of paths, got {shown(drop)}")
        gone = tuple(drop)
        if not all(isinstance(path, str) for path in gone):
            raise InvalidWorkflow(f"{self._owner()}: drop must be a list of paths, got {shown(gone)}")
        names = tuple((_exact(path), _exact(name)) for path, name in (rename or {}).items())
        migration = Migration(old, names, frozenset(map(exact, gone)))
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
    name: str,
    *,
    version: str = "1",
    deadline: Duration | None = None,
    on_compensation_failure: OnCompensationFailure = "continue",
    queue: Queue | None = None,
) -> Workflow[Any, Any]:
    """An empty workflow, to add steps to.

    `deadline` (seconds or a timedelta) bounds a whole run, across suspensions and crashes (S5.2). A compensation that fails
    for good lets the others run ("continue", S10.3) or parks the run for a person ("block", S10.6). `queue` limits how many of its runs
    are moved at once and begin in a time; it may change without a new version. Raises InvalidWorkflow.
    """
    check_name(name, "the name of a workflow")
    workflow: Workflow[Any, Any] = Workflow(
        name,
        version,
        deadline=limit(deadline, "deadline", f"workflow {name!r}"),
        on_compensation_failure=on_compensation_failure,
        queue=queue,
    )
    check_header(workflow)
    return workflow


def _exact(path: str) -> str:
    return exact(path) if isinstance(path, str) else path  # what is no text is refused, with the others, by `check_migration`

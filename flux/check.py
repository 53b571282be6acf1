"""Everything that can be wrong with a definition, found when it is built or registered (S1.4, S10.6).

Every refusal is an InvalidWorkflow that names the workflow and the step: `workflow 'order', step 'pay': ...`.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeGuard, cast, get_args, get_origin

from .check_functions import check_handler, check_merge, check_question
from .check_queue import check_queue
from .core.patterns import NTH, body_path, step_path
from .core.retry import SECOND, Retry
from .core.workflow import MISSING, Body, CompensateWhen, Definition, Kind, OnBranchFailure, OnCompensationFailure, OnUnknown, Step
from .durations import LONGEST
from .errors import InvalidWorkflow
from .labels import shown, type_name
from .migrating import check_migration
from .names import check_name, is_version

LONGEST_PATH = 1_000  # characters (D24)
_NUMBER = len("[12345]")  # what the number of a turn or an item is taken to need of them


def check_definition(definition: Definition) -> None:
    """A definition that is to be registered: it must be able to run as it stands. Raises InvalidWorkflow."""
    check_header(definition)
    owner = owner_of(definition)
    if not definition.body.steps:
        raise InvalidWorkflow(f"{owner}: it has no steps; add one with .step(name, handler)")
    _check_body(definition.body, owner, "")
    _check_payload_types(definition.body, owner)
    for migration in definition.migrations:
        check_migration(definition, migration, owner)


def owner_of(definition: Definition) -> str:
    """What errors call the workflow."""
    return f"workflow {definition.name!r}"


def check_header(definition: Definition) -> None:
    """All of a definition but its steps. Raises InvalidWorkflow."""
    check_name(definition.name, "the name of a workflow")
    owner = owner_of(definition)
    if not is_version(definition.version):
        raise InvalidWorkflow(
            f"{owner}: version must be 1 to 64 letters, digits and _ . + -, such as '2' or '1.4.0', got {shown(definition.version)}"
        )
    _check_micros(definition.deadline, "deadline", owner)
    _check_choice(definition.on_compensation_failure, OnCompensationFailure, "on_compensation_failure", owner)
    check_queue(definition.queue, owner)
    if definition.validator is not None:
        check_question(definition.validator, "validate", owner, "the input")
    if definition.input_type is not None:
        check_type(definition.input_type, "the input type", owner)
    if definition.data_type is not None:
        check_data_type(definition.data_type, owner)


def check_added(body: Body, owner: str) -> None:
    """A body whose last step is new: that step alone, and how it fits the others. Raises InvalidWorkflow."""
    *before, step = body.steps
    check_step(step, owner, step.name)
    if any(other.name == step.name for other in before):
        raise _twice(owner, step.name)
    _check_after(step, [other.name for other in before], owner, step.name)
    if step.type is not None or step.bodies:
        _check_payload_types(body, owner)


def check_step(step: Step, owner: str, path: str) -> None:
    """One step and what is inside it; `path` is where it stands. Raises InvalidWorkflow."""
    check_name(step.name, f"{owner}: the name of a step")
    where = f"{owner}, step {path!r}"
    if len(path) + path.count(NTH) * (_NUMBER - len(NTH)) > LONGEST_PATH:
        raise InvalidWorkflow(f"{owner}, step {path[:40] + '...'!r}: its path has more than {LONGEST_PATH} characters")
    if step.when is not None:
        check_question(step.when, "when", where)
    _check_fields(step, where)
    _CHECKS[step.kind](step, where)
    if step.pivot and path != step.name:
        raise InvalidWorkflow(f"{where}: a pivot stands at the top level of its workflow, not inside another step (D10)")
    for name, inner in step.bodies.items():
        _check_inner(step, name, inner, where)
        _check_body(inner, owner, body_path(step, path, name))


def _check_fields(step: Step, where: str) -> None:
    """Bodies that a step of this kind does not have would never run."""
    for field, given in (("on_timeout", step.on_timeout is not None), ("branches", step.branches != ()), ("body", step.body is not None)):
        if given and _BODIES.get(step.kind) != field:
            raise InvalidWorkflow(f"{where}: a {step.kind.value} has no {field}")


def _check_inner(step: Step, name: str, inner: Body, where: str) -> None:
    what = f"branch {name!r}" if step.branches else name
    if not inner.steps:
        raise InvalidWorkflow(f"{where}: {what} has no steps")
    if inner.single:
        only = inner.steps[0]
        if len(inner.steps) > 1 or only.handler is None or only.name != (step.name if step.body is not None else name):
            raise InvalidWorkflow(f"{where}: {what} is marked as made from one handler, and is not")


def _check_body(body: Body, owner: str, at: str) -> None:
    seen: set[str] = set()
    for step in body.steps:
        path = step_path(body, at, step)
        check_step(step, owner, path)
        if step.name in seen:
            raise _twice(owner, path)
        _check_after(step, seen, owner, path)
        seen.add(step.name)


def _check_after(step: Step, before: Collection[str], owner: str, path: str) -> None:
    """What a step comes after was added before it: so there are no cycles."""
    names = step.after or ()
    unknown = [name for name in names if name not in before]
    if unknown:
        known = ", ".join(before) or "none"
        raise InvalidWorkflow(f"{owner}, step {path!r}: after names {unknown[0]!r}, which is no step added before it (those are: {known})")
    if len(set(names)) < len(names):
        raise InvalidWorkflow(f"{owner}, step {path!r}: after names a step twice, got {shown(step.after)}")


def _twice(owner: str, path: str) -> InvalidWorkflow:
    return InvalidWorkflow(f"{owner}, step {path!r}: a step beside it has this name already")


# --- one small function a kind


def _check_called(step: Step, where: str) -> None:
    check_handler(step.handler, "handler", where)
    check_retries(step.retries, "retries", where)
    check_retry(step.retry, where)
    _check_micros(step.timeout, "timeout", where)
    _check_choice(step.on_unknown, OnUnknown, "on_unknown", where)
    _check_probe(step, where)
    _check_transactional(step, where)
    for signal in step.waits:
        check_name(signal, f"{where}: the name of a signal in waits")
    if len(set(step.waits)) < len(step.waits):
        raise InvalidWorkflow(f"{where}: waits names a signal twice, got {shown(step.waits)}")
    _check_compensation(step, where)


def _check_transactional(step: Step, where: str) -> None:
    if type(step.transactional) is not bool:
        raise InvalidWorkflow(f"{where}: transactional must be True or False, got {shown(step.transactional)}")
    useless = [name for name, given in (("probe=", step.probe is not None), ("on_unknown=", step.on_unknown != "retry")) if given]
    if step.transactional and useless:
        raise InvalidWorkflow(f"{where}: {useless[0]} is for attempts in doubt, and those of a transactional step never are")


def _check_probe(step: Step, where: str) -> None:
    if type(step.pivot) is not bool:
        raise InvalidWorkflow(f"{where}: pivot must be True or False, got {shown(step.pivot)}")
    if step.probe is None:
        return
    check_handler(step.probe, "probe", where)
    if step.on_unknown != "retry":
        raise InvalidWorkflow(f"{where}: probe= finds out what on_unknown={step.on_unknown!r} would guess: one of them must go")


def _check_compensation(step: Step, where: str) -> None:
    _check_choice(step.compensate_when, CompensateWhen, "compensate_when", where)
    if step.compensate is not None:
        check_handler(step.compensate, "compensate", where)
        check_retries(step.compensate_retries, "compensate_retries", where)
        _check_micros(step.compensate_timeout, "compensate_timeout", where)
        if step.on_unknown == "compensate" and step.compensate_when == "completed":
            raise InvalidWorkflow(
                f"{where}: on_unknown='compensate' undoes a step in doubt, compensate_when='completed' does not: one of them must go"
            )
        return
    useless = [
        name
        for name, given in (
            ("compensate_retries", step.compensate_retries is not None),
            ("compensate_timeout", step.compensate_timeout is not None),
            ("compensate_when", step.compensate_when != "in_doubt"),
            ("on_unknown='compensate'", step.on_unknown == "compensate"),
        )
        if given
    ]
    if useless:
        raise InvalidWorkflow(f"{where}: {useless[0]} needs compensate=")


def _check_wait(step: Step, where: str) -> None:
    check_name(step.signal, f"{where}: the name of its signal")
    _check_micros(step.timeout, "timeout", where)
    if step.type is not None:
        check_type(step.type, "type", where)
    for name, given in (("default", step.default is not MISSING), ("on_timeout", step.on_timeout is not None)):
        if given and step.timeout is None:
            raise InvalidWorkflow(f"{where}: {name}= needs a timeout=, without one the wait never ends by itself")
    if step.default is not MISSING and step.on_timeout is not None:
        raise InvalidWorkflow(f"{where}: default= and on_timeout= exclude each other")


def _check_sleep(step: Step, where: str) -> None:
    ways = [way for way in (step.duration, step.until, step.compute) if way is not None]
    if len(ways) != 1:
        raise InvalidWorkflow(f"{where}: a sleep takes exactly one way of saying how long, got {len(ways)}")
    _check_micros(step.duration, "a sleep", where)
    if step.compute is not None:
        check_question(step.compute, "a computed sleep", where)


def _check_parallel(step: Step, where: str) -> None:
    _check_branches(step, where)
    number = len(step.branches)
    if step.join not in ("all", "any") and not (_is_whole(step.join) and 1 <= step.join <= number):
        raise InvalidWorkflow(
            f"{where}: join must be 'all', 'any' or a whole number from 1 to the number of branches, {number}, got {shown(step.join)}"
        )
    _check_meeting(step, where)


def _check_route(step: Step, where: str) -> None:
    check_question(step.selector, "selector", where)
    _check_branches(step, where)
    if len(step.branches) == 1 and step.branches[0][0] == "default":
        raise InvalidWorkflow(f"{where}: a route has at least one branch beside its default")


def _check_branches(step: Step, where: str) -> None:
    if not step.branches:
        raise InvalidWorkflow(f"{where}: a {step.kind.value} has at least one branch")
    seen: set[str] = set()
    for name, _ in step.branches:
        check_name(name, f"{where}: the name of a branch")
        if name in seen:
            raise InvalidWorkflow(f"{where}: two branches are called {name!r}")
        seen.add(name)


def _check_loop(step: Step, where: str) -> None:
    if step.body is None:
        raise InvalidWorkflow(f"{where}: body is missing")
    for what, test in (("while_", step.go_on), ("until", step.stop)):
        if test is not None:
            check_question(test, what, where)
    if step.at_most is None:
        raise InvalidWorkflow(f"{where}: a loop needs an end: say with at_most= how many turns it may take")
    _check_whole(step.at_most, 1, "at_most", where)


def _check_for_each(step: Step, where: str) -> None:
    if step.body is None:
        raise InvalidWorkflow(f"{where}: body is missing")
    check_question(step.items, "items", where)
    _check_whole(step.concurrency, 1, "concurrency", where)
    _check_whole(step.at_least, 0, "at_least", where)
    _check_meeting(step, where)


def _check_meeting(step: Step, where: str) -> None:
    _check_choice(step.on_failure, OnBranchFailure, "on_failure", where)
    if step.merge is not None:
        check_merge(step.merge, "merge", where)


def _check_child(step: Step, where: str) -> None:
    if not isinstance(step.child, Definition):
        raise InvalidWorkflow(f"{where}: a child is a workflow made by create_workflow(...), got {shown(step.child)}")
    if not step.child.steps:
        raise InvalidWorkflow(f"{where}: its workflow {step.child.name!r} has no steps")
    if step.child_input is not None:
        check_question(step.child_input, "input", where)


_CHECKS: dict[Kind, Callable[[Step, str], None]] = {
    Kind.STEP: _check_called,
    Kind.COMMIT: _check_called,
    Kind.WAIT: _check_wait,
    Kind.SLEEP: _check_sleep,
    Kind.PARALLEL: _check_parallel,
    Kind.ROUTE: _check_route,
    Kind.LOOP: _check_loop,
    Kind.FOR_EACH: _check_for_each,
    Kind.CHILD: _check_child,
}
_BODIES = {Kind.WAIT: "on_timeout", Kind.PARALLEL: "branches", Kind.ROUTE: "branches", Kind.LOOP: "body", Kind.FOR_EACH: "body"}


# --- numbers and choices


def check_retries(value: object, what: str, where: str) -> None:
    """A number of retries, or None for the engine's. Raises InvalidWorkflow."""
    _check_whole(value, 0, what, where)


def _check_whole(value: object, least: int, what: str, where: str) -> None:
    if value is not None and not (_is_whole(value) and value >= least):
        raise InvalidWorkflow(f"{where}: {what} must be a whole number ≥ {least}, got {shown(value)}")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def check_retry(retry: object, where: str) -> None:
    """A retry policy, or None for the engine's. Raises InvalidWorkflow."""
    if retry is None:
        return
    if not isinstance(retry, Retry):
        raise InvalidWorkflow(f"{where}: retry must be a Retry(...), got {shown(retry)} (how often is retries=)")
    if retry.backoff not in ("exponential", "linear", "fixed"):
        raise InvalidWorkflow(f"{where}: retry.backoff must be one of 'exponential', 'linear', 'fixed', got {shown(retry.backoff)}")
    for what, seconds in (("retry.initial", retry.initial), ("retry.maximum", retry.maximum)):
        _check_seconds(seconds, what, where)
        if seconds > LONGEST / SECOND:
            raise InvalidWorkflow(f"{where}: {what} must be at most 1,000 years, in seconds, got {shown(seconds)}")
    _check_seconds(retry.factor, "retry.factor", where)
    if type(retry.jitter) is not bool:
        raise InvalidWorkflow(f"{where}: retry.jitter must be True or False, got {shown(retry.jitter)}")
    if retry.max_elapsed is not None:
        _check_seconds(retry.max_elapsed, "retry.max_elapsed", where)
    for what, kinds in (("retry.retry_on", retry.retry_on), ("retry.give_up_on", retry.give_up_on)):
        _check_exceptions(kinds, what, where)


def _check_seconds(value: object, what: str, where: str) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return
    raise InvalidWorkflow(f"{where}: {what} must be a finite number ≥ 0, got {shown(value)}")


def _check_exceptions(kinds: object, what: str, where: str) -> None:
    if not _are_exceptions(kinds):
        raise InvalidWorkflow(f"{where}: {what} must be a tuple of exception classes, got {shown(kinds)}")


def _are_exceptions(kinds: object) -> bool:
    if not isinstance(kinds, tuple):
        return False
    return all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in cast("tuple[object, ...]", kinds))


def _check_micros(value: object, what: str, where: str) -> None:
    if value is None or (_is_whole(value) and value > 0):
        return
    raise InvalidWorkflow(f"{where}: {what} must be more than 0, in whole microseconds, got {shown(value)}")


def _check_choice(value: object, choices: Any, what: str, where: str) -> None:
    known = get_args(choices)
    if value not in known:
        raise InvalidWorkflow(f"{where}: {what} must be one of {', '.join(map(repr, known))}, got {shown(value)}")


# --- types


def check_type(kind: object, what: str, where: str) -> None:
    """Something that can stand in an annotation: a class, a union, a generic alias. Raises InvalidWorkflow."""
    if isinstance(kind, type | types.UnionType) or kind is Any or get_origin(kind) is not None:
        return
    if hasattr(kind, "__supertype__") or hasattr(kind, "__value__"):  # NewType, type alias
        return
    raise InvalidWorkflow(f"{where}: {what} must be a type, got {shown(kind)}")


def _is_dataclass(kind: object) -> TypeGuard[type[Any]]:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def check_data_type(kind: object, where: str) -> None:
    """The type of a run's data: a dataclass that can be made without arguments. Raises InvalidWorkflow."""
    if not _is_dataclass(kind):
        raise InvalidWorkflow(f"{where}: the data type must be a dataclass, got {shown(kind)}")
    empty = dataclasses.MISSING
    for field in dataclasses.fields(kind):
        if not field.init or (field.default is empty and field.default_factory is empty):
            raise InvalidWorkflow(
                f"{where}: the field {field.name!r} of data type {kind.__name__} must have a default and stand in its "
                "__init__: a run begins without data"
            )


def _check_payload_types(body: Body, owner: str) -> None:
    """One signal has one declared type: it is checked at the sender, who does not know which wait will take it (S7.3)."""
    found: dict[str, Any] = {}
    for step in _waits(body):
        signal = step.signal or step.name
        if found.setdefault(signal, step.type) != step.type:
            raise InvalidWorkflow(
                f"{owner}, step {step.name!r}: signal {signal!r} is declared with two types, "
                f"{type_name(found[signal])} and {type_name(step.type)}"
            )


def _waits(body: Body) -> Iterator[Step]:
    for step in body.steps:
        if step.kind is Kind.WAIT and step.type is not None:
            yield step
        for inner in step.bodies.values():
            yield from _waits(inner)

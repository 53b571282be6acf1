"""The workflows an engine knows, each made ready to run with that engine's defaults and codec."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from ..check import check_definition, owner_of
from ..codec import Codec, digest
from ..context import Source
from ..convert import ConversionError, check_convertible, convert, declared_types, returned_types
from ..core.plan import UNDO, Defaults, Plan
from ..core.workflow import MISSING, Body, Definition, Step, child_workflows, declared_signals, shape
from ..errors import InvalidInput, InvalidPayload, InvalidWorkflow, NotStorable, UnknownWorkflow
from ..failures import rebuild
from ..journal import VOCABULARY
from ..queue import Queue
from ..storage import Code, Transactional, WorkflowStorage
from .attempt import is_async


class Bound:
    """A workflow as one engine runs it."""

    __slots__ = ("codec", "definition", "fingerprint", "has_pivot", "plan", "signals", "source", "types")

    def __init__(self, definition: Definition, defaults: Defaults, codec: Codec, progress: Callable[..., None]) -> None:
        self.definition = definition
        self.codec = codec
        for kind in _declared(definition):
            codec.declare(kind)
        body = _with_default_texts(definition.body, codec, owner_of(definition))
        self.plan = Plan(replace(definition, body=body), defaults, digest(shape(body))[:16])
        self.fingerprint = f"{digest(_needs(definition))[:16]}.{VOCABULARY}"  # of what this code can read and go on with (D28)
        self.has_pivot = any(step.pivot for step in body.steps)
        self.signals = declared_signals(body)
        self.types = _payload_types(body)
        self.source = Source(
            codec,
            self.read_input,
            self.write_input,
            definition.data_type,
            lambda failure: rebuild(failure, codec),
            _idempotency_key,
            progress,
        )

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.definition.name, self.definition.version

    def write_input(self, value: Any) -> str:
        """The encoded input, checked (S15). Raises InvalidInput, NotStorable."""
        definition = self.definition
        text = self.codec.encode(value, "input")
        if definition.input_type is None and definition.validator is None:
            return text
        try:
            typed = value if definition.input_type is None else convert(value, definition.input_type)
        except ConversionError as error:
            raise InvalidInput(f"input of workflow {definition.name!r}: {error}", error.path) from error
        self._validate(typed)
        return text

    def _validate(self, value: Any) -> None:
        validate = self.definition.validator
        if validate is None:
            return
        name = self.definition.name
        try:
            answer = validate(value)
        except Exception as error:
            raise InvalidInput(f"input of workflow {name!r} is refused: {type(error).__name__}: {error}") from error
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise InvalidWorkflow(f"workflow {name!r}: validate must be a plain function, and its answer is asynchronous (S1.5)")
        if answer is False:
            raise InvalidInput(f"input of workflow {name!r} is refused by its validate function")

    def read_input(self, text: str) -> Any:
        """The input as handlers get it."""
        value = self.codec.decode(text)
        kind = self.definition.input_type
        return value if kind is None else convert(value, kind)

    def first_data(self) -> dict[str, str | None]:
        """The data that a run begins with: empty, or the defaults of the declared dataclass."""
        kind = self.definition.data_type
        if kind is None:
            return {}
        first = kind()
        where = f"workflow {self.definition.name!r}: the data it begins with"
        return {field.name: self.codec.encode(getattr(first, field.name), f"{where}, field {field.name!r}") for field in fields(kind)}

    def write_payload(self, signal: str, value: Any) -> str:
        """The encoded payload of a signal, checked at the sender and made the declared type (S7.3). Raises InvalidPayload, NotStorable."""
        kind = self.types.get(signal)
        if kind is not None:
            try:
                value = convert(value, kind)
            except ConversionError as error:
                raise InvalidPayload(f"signal {signal!r} of workflow {self.definition.name!r}: {error}", error.path) from error
        return self.codec.encode(value, f"signal {signal!r}")


class Registry:
    """Workflows by name and version."""

    def __init__(self, defaults: Defaults, codec: Codec, progress: Callable[..., None], storage: WorkflowStorage) -> None:
        self._defaults = defaults
        self._storage = storage
        self._codec = codec
        self._progress = progress
        self._bound: dict[tuple[str, str], Bound] = {}
        self._ported: dict[tuple[str, str], Bound] = {}  # older versions that go on under a registered one
        self.queues: dict[str, Queue] = {}  # the limits of workflows by name: of the version that was registered last
        self.changes = 0  # counts registrations, so that a worker notices new ones

    def bind(self, workflow: Definition) -> Bound:
        """The workflow made ready; registers it. Raises InvalidWorkflow (S1.4)."""
        if not isinstance(workflow, Definition):
            raise InvalidWorkflow(f"expected a workflow made by create_workflow(...), got {type(workflow).__name__}")
        known = self._bound.get((workflow.name, workflow.version))
        if known is not None and known.definition is workflow:
            return known
        check_definition(workflow)
        self._check_transactional(workflow)
        for child in child_workflows(workflow.body):
            self.bind(child)
        bound = Bound(workflow, self._defaults, self._codec, self._progress)
        if known is not None and known.plan.shape != bound.plan.shape:
            raise InvalidWorkflow(
                f"workflow {workflow.name!r} version {workflow.version!r} is registered with other steps already: "
                "give the changed one another version"
            )
        self._bound[bound.key] = bound
        if workflow.queue is not None:
            self.queues[workflow.name] = workflow.queue
        else:
            self.queues.pop(workflow.name, None)
        for version in bound.plan.ports:
            self._ported[workflow.name, version] = bound
        self.changes += 1
        return bound

    def _check_transactional(self, workflow: Definition) -> None:
        """Handlers that work in a transaction are of the kind that this engine's storage can call in one (S3.6)."""
        for step in [step for step in _steps(workflow.body) if step.transactional]:
            where = f"workflow {workflow.name!r}, step {step.name!r}"
            storage = self._storage
            if not isinstance(storage, Transactional):
                raise InvalidWorkflow(
                    f"{where}: {type(storage).__name__} has no transactions for a transactional step; SQLite and PostgreSQL have "
                    "(for a test: 'sqlite:///:memory:')"
                )
            if is_async(step.handler) is not (storage.handlers == "async"):
                expected = "an async def" if storage.handlers == "async" else "a def"
                raise InvalidWorkflow(
                    f"{where}: the handler of a transactional step on {type(storage).__name__} must be {expected} function"
                )

    def get(self, name: str, version: str) -> Bound | None:
        """A registered workflow: of this version, or one that runs of this version migrate to (S13)."""
        return self._bound.get((name, version)) or self._ported.get((name, version))

    def require(self, name: str, version: str) -> Bound:
        """A registered workflow. Raises UnknownWorkflow."""
        bound = self.get(name, version)
        if bound is None:
            known = ", ".join(f"{n} {v}" for n, v in sorted(self._bound)) or "none"
            raise UnknownWorkflow(f"workflow {name!r} version {version!r} is not registered here (registered: {known})")
        return bound

    def codes(self) -> tuple[Code, ...]:
        """All that a worker can claim."""
        return tuple([(name, version, bound.fingerprint) for (name, version), bound in {**self._ported, **self._bound}.items()])


def _idempotency_key(run_id: str, continuation: int, path: str, generation: int, undoing: bool) -> str:
    """The key of D2: of the step, and for its compensation the same with `!undo`."""
    return digest(f"{run_id}\n{continuation}\n{path}\n{generation}") + (UNDO if undoing else "")


def _needs(definition: Definition) -> str:
    """All that decides whether a journal fits this code: its shape, what can be called to undo or to ask after a step, and how it reads
    older versions."""
    body = definition.body
    calls = "".join("ny"[step.compensate is not None] + "ny"[step.probe is not None] for step in _steps(body))
    older = [(sorted(one.rename), sorted(one.drop), one.old.version, _needs(one.old)) for one in definition.migrations]
    return f"{shape(body)} {calls} {older}"


def _steps(body: Body) -> list[Step]:
    found: list[Step] = []
    for step in body.steps:
        found.append(step)
        for inner in step.bodies.values():
            found.extend(_steps(inner))
    return found


def _declared(definition: Definition) -> set[type]:
    """Types that this workflow says may be stored (D21): of its input, its data, its payloads and what its handlers return."""
    steps = _steps(definition.body)
    found: set[type] = set()
    types = [("the input", definition.input_type), ("the data", definition.data_type)]
    for what, annotation in (*types, *[(f"step {step.name!r}", step.type) for step in steps]):
        if annotation is not None:
            try:
                check_convertible(annotation)
            except InvalidWorkflow as error:
                raise InvalidWorkflow(f"{owner_of(definition)}, {what}: {error}") from error
            found |= declared_types(annotation)
    for step in steps:
        for function in (step.handler, step.compensate, step.probe, step.items, step.child_input):
            if function is not None:
                found |= returned_types(function)
        if step.child is not None:  # its data is the step's result
            found |= _declared(step.child)
    return found


def _payload_types(body: Body) -> dict[str, Any]:
    return {step.signal or step.name: step.type for step in _steps(body) if step.type is not None}


def _with_default_texts(body: Body, codec: Codec, owner: str) -> Body:
    steps = [
        replace(
            step,
            default_text=_default_text(step, codec, owner),
            on_timeout=None if step.on_timeout is None else _with_default_texts(step.on_timeout, codec, owner),
            branches=tuple([(name, _with_default_texts(inner, codec, owner)) for name, inner in step.branches]),
            body=None if step.body is None else _with_default_texts(step.body, codec, owner),
        )
        for step in body.steps
    ]
    return replace(body, steps=tuple(steps))


def _default_text(step: Step, codec: Codec, owner: str) -> str | None:
    if step.default is MISSING:
        return None
    try:
        return codec.encode(step.default, f"{owner}, step {step.name!r}: default")
    except NotStorable as error:
        raise InvalidWorkflow(str(error)) from error

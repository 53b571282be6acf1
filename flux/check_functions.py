"""Functions that a definition is given: whether they can be called as they will be (S1.4, S1.5).

Every refusal is an InvalidWorkflow that names the workflow and the step.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .errors import InvalidWorkflow
from .labels import cut, function_name, shown


def check_handler(value: object, what: str, where: str) -> None:
    """A handler or a compensation: `def` or `async def`, called with ctx alone. Raises InvalidWorkflow."""
    if value is None:
        raise InvalidWorkflow(f"{where}: {what} is missing")
    _check_callable(value, what, where, ("ctx",))


def check_question(value: object, what: str, where: str, argument: str = "ctx") -> None:
    """A condition, a selector, a computed sleep, ...: a plain `def` of one argument (S1.5). Raises InvalidWorkflow."""
    _check_plain(value, what, where, (argument,))


def check_merge(value: object, what: str, where: str) -> None:
    """A plain `def` of a key and the values that branches gave it (D22). Raises InvalidWorkflow."""
    _check_plain(value, what, where, ("key", "values"))


def _check_plain(value: object, what: str, where: str, arguments: tuple[str, ...]) -> None:
    target = _check_callable(value, what, where, arguments)
    if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(value):
        raise InvalidWorkflow(f"{where}: {what} must be a plain function, and {function_name(value)}() is asynchronous (S1.5)")


def _check_callable(value: object, what: str, where: str, arguments: tuple[str, ...]) -> Any:
    """Check it, and return the function that a call of it runs."""
    named = " and ".join(arguments)
    if not callable(value):
        raise InvalidWorkflow(f"{where}: {what} must be a function of {named}, got {shown(value)}")
    target = _target(value)
    if isinstance(target, type):
        raise InvalidWorkflow(f"{where}: {what} must be a function of {named}, got the class {target.__name__}")
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise InvalidWorkflow(f"{where}: {what} must return a value, and {function_name(value)}() yields: it is a generator")
    for follow in (False, True):  # a decorated function is called by its outer signature, which often says only *args
        signature = _signature(value, follow)
        if signature is not None and not _takes(signature, len(arguments)):
            number = "one positional argument" if len(arguments) == 1 else "two positional arguments"
            takes = str(signature.replace(return_annotation=inspect.Signature.empty))
            raise InvalidWorkflow(f"{where}: {what} must take {number}, {named}; {function_name(value)}() takes {cut(takes)}")
        if signature is None or not _takes_anything(signature):
            break
    return target


def _target(value: Any) -> Any:
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, type) or inspect.isroutine(value):
        return value
    return type(value).__call__


def _signature(value: Callable[..., Any], follow: bool) -> inspect.Signature | None:
    try:
        return inspect.signature(value, follow_wrapped=follow)
    except (ValueError, TypeError):  # a builtin that does not tell
        return None


def _takes(signature: inspect.Signature, number: int) -> bool:
    try:
        signature.bind(*[None] * number)
    except TypeError:
        return False
    return True


def _takes_anything(signature: inspect.Signature) -> bool:
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())

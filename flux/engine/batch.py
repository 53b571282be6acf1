"""Many runs of one workflow, a bounded number at a time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from ..core.status import RunStatus
from ..core.workflow import Definition
from ..errors import InvalidArgument
from .view import RunResult

if TYPE_CHECKING:
    from .engine import FluxEngine


async def execute_many(
    engine: FluxEngine,
    workflow: Definition,
    inputs: list[Any],
    concurrency: int,
    on_progress: Callable[[int, int, RunResult], Any] | None,
    stop_on_error: bool,
) -> Sequence[RunResult]:
    """Results in the order of the inputs."""
    if type(concurrency) is not int or concurrency < 1:
        raise InvalidArgument(f"concurrency is a whole number from 1, got {concurrency!r}")
    results: dict[int, RunResult] = {}
    todo = iter(enumerate(inputs))
    stopped = False

    async def lane() -> None:
        nonlocal stopped
        for index, item in todo:
            result = results[index] = await engine.execute(workflow, item)
            if stop_on_error and result.status in (RunStatus.FAILED, RunStatus.CANCELLED):
                stopped = True
            if on_progress is not None:
                answer = on_progress(len(results), len(inputs), result)
                if inspect.isawaitable(answer):
                    await answer
            if stopped:
                return

    await _together(lane, min(concurrency, len(inputs)))
    return [results[index] for index in sorted(results)]


async def _together(lane: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """Raises the first error alone, as one `execute` would; runs that were started go on to their end."""
    failed: BaseException | None = None
    lanes: list[asyncio.Task[None]] = []
    try:
        async with asyncio.TaskGroup() as group:
            lanes += [group.create_task(lane()) for _ in range(count)]
    except* Exception as errors:
        failed = errors.exceptions[0]
    if failed is not None:
        raise failed
    if any(one.cancelled() for one in lanes):  # by `on_progress`, of which a group says nothing: what the lane had left is not done
        raise asyncio.CancelledError

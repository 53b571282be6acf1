"""What is written to the log, and what never is."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from flux import DefinitionChanged, InvalidInput, InvalidPayload, NotStorable, Retry, create_workflow

from .cluster import Cluster, Effects

pytestmark = pytest.mark.anyio

SECRET = "canary-4711-card-number"


async def test_secrets_are_not_printed(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """S16: inputs, results, data, payloads and error texts of handlers do not reach the log, whatever happens to the run."""
    caplog.set_level(logging.DEBUG)
    effects = Effects()

    async def leak(ctx: Any) -> str:
        ctx.data["secret"] = SECRET
        return SECRET

    async def fail(ctx: Any) -> None:
        raise ValueError(SECRET)

    flow = (
        create_workflow("secret")
        .input(dict)
        .step("leak", leak, compensate=effects.step("undo", error=OSError(SECRET)), compensate_retries=0)
        .wait("go", type=dict)
        .step("fail", fail, retries=1, retry=Retry(initial=0, jitter=False))
    )
    engine = await cluster.open(workflows=[flow])
    result = await engine.execute(flow, {"card": SECRET}, id="r")
    with pytest.raises(InvalidPayload):
        await engine.signal(flow, "r", "go", SECRET)
    with pytest.raises(InvalidInput):
        await engine.execute(flow, SECRET)
    with pytest.raises(NotStorable):
        await engine.execute(flow, {"card": object(), "other": SECRET})
    changed = await cluster.open()
    other = create_workflow("secret").step("other", leak).wait("go")
    with pytest.raises(DefinitionChanged):
        await changed.resume(other, "r")
    await changed.signal(other, "r", "go", {"card": SECRET})
    result = await engine.resume(flow, "r")
    assert result.status == "failed"
    await cluster.crash(engine)
    assert SECRET not in caplog.text and SECRET not in repr(result) and SECRET not in repr(result.history)
    for handler in caplog.records:
        assert SECRET not in repr(handler.__dict__)


async def test_a_timer_without_a_worker(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """D18: a run left suspended with a timer, and nobody to wake it, is a warning; with a worker, or a wait alone, it is not."""
    engine = await cluster.open()
    timer, wait = create_workflow("timer").sleep("s", days=1), create_workflow("wait").wait("w")
    with caplog.at_level(logging.WARNING, logger="flux.engine"):
        await engine.execute(wait)
        assert caplog.records == []
        result = await engine.execute(timer)
        assert len(caplog.records) == 1 and result.id in caplog.text and "worker" in caplog.text
        caplog.clear()
        async with engine.worker():
            await engine.execute(timer)
        assert not [record for record in caplog.records if "timer" in record.getMessage()]


async def test_a_quiet_run(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing went wrong: nothing is said, above DEBUG."""
    engine = await cluster.open()
    with caplog.at_level(logging.INFO):
        await engine.execute(create_workflow("quiet").step("a", Effects().step("a")))
    assert [record for record in caplog.records if record.name.startswith("flux")] == []

"""What the tests of child workflows share: a shop at the corner, and how a family of runs is read."""

from __future__ import annotations

from typing import Any

from flux import FluxEngine, RunResult, Workflow, create_workflow

from .again import Shop


def billing(shop: Shop, name: str = "billing", **step: Any) -> Workflow[Any, Any]:
    """A child of two steps, `{name}.a` and `{name}.b`, each of which is undone."""
    flow = create_workflow(name)
    for letter in "ab":
        called = f"{name}.{letter}"
        flow = flow.step(letter, shop.act(called, **{letter: called}), retries=0, compensate=shop.act(f"undo {called}"), **step)
    return flow


def order(shop: Shop, *children: Workflow[Any, Any], name: str = "order") -> Workflow[Any, Any]:
    """A parent: `first`, a step for each child with the child's name, `last`."""
    flow = create_workflow(name).step("first", shop.act("first"), compensate=shop.act("undo first"))
    for child in children:
        flow = flow.child(child.name, child)
    return flow.step("last", shop.act("last"), retries=0, compensate=shop.act("undo last"))


async def family(engine: FluxEngine, run_id: str) -> dict[str, RunResult]:
    """The run under "", its children by their paths, theirs by `path:path`, and so on."""
    found = {"": await engine.get(run_id)}
    for path, child in found[""].children.items():
        for below, run in (await family(engine, child)).items():
            found[f"{path}:{below}" if below else path] = run
    return found


async def standing(engine: FluxEngine, run_id: str) -> dict[str, str]:
    """The statuses of a family."""
    return {path: run.status.value for path, run in (await family(engine, run_id)).items()}

"""List filters and cursors: InvalidArgument for whatever no page gave and no workflow has, and nothing else (S15.7)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from flux import FluxEngine, InvalidArgument, RunStatus, create_workflow

from ..engine.cluster import Cluster
from .hostile import OBJECTS, TEXTS
from .test_ids import is_clear

pytestmark = pytest.mark.anyio


async def handler(ctx: Any) -> int:
    return 1


FLOW = create_workflow("flow").step("a", handler)

NOT_TEXT = {name: value for name, value in OBJECTS.items() if name not in ("bool", "number")}

REFUSED: dict[str, list[Any]] = {
    "name": [*TEXTS.values(), *OBJECTS.values(), "1a", "a/b", "' OR '1'='1", "flow%"],
    "version": [*[text for name, text in TEXTS.items()], *OBJECTS.values(), "-1", "1 or 1"],
    "status": [*TEXTS.values(), *[value for name, value in OBJECTS.items() if name != "list"], 0, "COMPLETED", "completed ",
               ["completed", "done"], [None], [["completed"]], {"completed": 1, "x": 2}, [OBJECTS["grumpy"]], b"completed"],
    "limit": [0, -1, 501, 10**30, True, 1.0, "10", None, *NOT_TEXT.values()],
    "cursor": [*TEXTS.values(), *OBJECTS.values()],
}  # fmt: skip


@pytest.mark.parametrize("filter", REFUSED)
async def test_filters_that_are_refused(engine: FluxEngine, filter: str) -> None:
    """S15.7: the same on every storage, whatever the value does when it is looked at."""
    await engine.execute(FLOW)
    for value in REFUSED[filter]:
        with pytest.raises(InvalidArgument) as caught:
            await engine.list(**{filter: value})
        assert is_clear(caught.value)


@pytest.mark.parametrize(
    "filters",
    [
        {"name": "flow"}, {"name": "flow", "version": "1"}, {"status": ["completed"]}, {"status": ("completed", RunStatus.FAILED)},
        {"status": {"completed"}}, {"status": {"completed": "as a mapping's keys"}}, {"status": []},
        {"name": "flow", "status": "completed"},
    ],
)  # fmt: skip
async def test_filters_that_find(engine: FluxEngine, filters: Any) -> None:
    """api.md List."""
    run_id = (await engine.execute(FLOW)).id
    assert [run.id for run in (await engine.list(**filters)).runs] == [run_id]


@pytest.mark.parametrize("filters", [{"name": "Flow"}, {"name": "flo"}, {"name": "a:b"}, {"version": "2"}, {"version": "01"}])
async def test_filters_match_whole_and_exactly(engine: FluxEngine, filters: Any) -> None:
    """S15.6: no folding, no prefixes, no numbers for texts, on any storage."""
    await engine.execute(FLOW)
    assert (await engine.list(**filters)).runs == ()


def cursor(text: str | bytes) -> str:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(raw).decode()


TAMPERED = [
    cursor("1:5"), cursor("1::r"), cursor("2:5:r"), cursor(":5:r"), cursor("1:x:r"), cursor("1:5:"), cursor("1: 5:r"), cursor("1:+5:r"),
    cursor("1:1_0:r"), cursor("1:05:r"), cursor("1:5.0:r"), cursor("1:٥:r"), cursor("1:" + "9" * 40 + ":r"),
    cursor("1:-" + "9" * 19 + ":r"),
    cursor("1:" + "9" * 5000 + ":r"), cursor("1:5:a b"), cursor("1:5:r'; --"), cursor("1:5:r\n"), cursor("1:5:r\0"), cursor("1:5:../r"),
    cursor("1:5:" + "x" * 201), cursor("1:5:\ud800"), cursor(b"1:5:\xff"), cursor("1:5:r") + "\n", " " + cursor("1:5:r"),
    cursor("1:5:r").rstrip("="), cursor("1:5:r") + "====", cursor("1:5:r") + cursor("1:5:r"), "~" + cursor("1:5:r"), "A" * 5_000_000,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(TAMPERED)))
async def test_tampered_cursors(engine: FluxEngine, number: int) -> None:
    """api.md List: a cursor is taken to the letter as a page gave it, or refused; its text is not shown."""
    await engine.execute(FLOW)
    with pytest.raises(InvalidArgument, match=r"^the cursor is not one that a page gave as `next_cursor`$"):
        await engine.list(cursor=TAMPERED[number])


async def test_a_cursor_of_another_place(cluster: Cluster, engine: FluxEngine) -> None:
    """api.md List: one from another list or storage says where to go on, and reaches nothing that a list would not."""
    for n in range(4):
        await engine.execute(FLOW, id=f"r{n}")
        await cluster.clock.advance(1)
    page = await engine.list(limit=2)
    assert page.next_cursor is not None
    assert [run.id for run in (await engine.list(name="flow", cursor=page.next_cursor)).runs] == ["r1", "r0"]
    assert (await engine.list(name="other", cursor=page.next_cursor)).runs == ()
    async with FluxEngine() as stranger:
        assert (await stranger.list(cursor=page.next_cursor)).runs == ()
    assert (await engine.list(cursor=cursor("1:0:zzz"))).runs == ()
    everything = await engine.list(cursor=cursor(f"1:{(1 << 63) - 1}:zzz"))
    assert len(everything.runs) == 4 and everything.next_cursor is None


async def test_the_longest_id_has_a_cursor(engine: FluxEngine) -> None:
    """S15.7: 200 characters, and the cursor still fits its own limit."""
    for letter in "ab":
        await engine.execute(FLOW, id=letter * 200)
    page = await engine.list(limit=1)
    assert [run.id for run in (await engine.list(limit=1, cursor=page.next_cursor)).runs] == ["a" * 200]

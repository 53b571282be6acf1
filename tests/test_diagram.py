"""How a workflow is shown: as data and as a flowchart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from flux.builder import branch, create_workflow
from flux.core.retry import Retry
from flux.core.status import StepStatus
from flux.core.workflow import Body, Definition, Kind, Step
from flux.diagram import to_mermaid
from flux.errors import InvalidArgument


@dataclass
class OrderInput:
    total: int


@dataclass
class OrderData:
    total: int = 0


def fetch(ctx: Any) -> str:
    return "fetched"


async def release(ctx: Any) -> None:
    return None


def remind(text: str, ctx: Any) -> None:
    return None


NOON = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))

ORDER = (
    create_workflow("order", version="2", deadline=timedelta(days=7), on_compensation_failure="block")
    .input(OrderInput)
    .data(OrderData)
    .validate(fetch)
    .step("fetch", fetch)
    .step("reserve", fetch, compensate=release, compensate_timeout=2, retries=3, timeout=30, retry=Retry(give_up_on=(KeyError,)))
    .step("discount", fetch, when=fetch, timeout=None)
    .wait(
        "approval",
        signal="ok",
        type=int | None,
        timeout=timedelta(days=3),
        on_timeout=branch().step("remind", partial(remind, "now"), when=fetch).wait("late", timeout=90, default=None),
    )
    .wait("note", timeout=1, on_timeout=fetch, when=fetch)
    .sleep("cool-off", hours=1)
    .sleep("noon", until=NOON)
    .sleep("some", fetch, when=fetch)
    .commit("ship", fetch, compensate=release, waits=("shipped",))
)

CHART = """\
flowchart TD
    start(["order 2"])
    s1["fetch"]
    s2["reserve"]
    u2[/"undo: release"/]
    c3{"discount?"}
    s3["discount"]
    s4{{"approval<br/>signal ok, at most 3 d"}}
    subgraph t4["approval: on timeout"]
        c4_1{"remind?"}
        s4_1["remind"]
        s4_2{{"late<br/>default after 1 min 30 s"}}
    end
    c5{"note?"}
    s5{{"note<br/>at most 1 s"}}
    subgraph t5["note: on timeout"]
        s5_1["fetch"]
    end
    s6("cool-off<br/>1 h")
    s7("noon<br/>until 2030-01-01T10:00:00+00:00")
    c8{"some?"}
    s8("some<br/>computed")
    s9[["ship"]]
    u9[/"undo: release"/]
    done(["completed"])
    start --> s1
    s1 --> s2
    s2 -.- u2
    s2 --> c3
    c3 --> s3
    s3 --> s4
    c3 -. skip .-> s4
    s4 -->|timeout| c4_1
    c4_1 --> s4_1
    s4_1 --> s4_2
    c4_1 -. skip .-> s4_2
    s4 --> c5
    s4_2 --> c5
    c5 --> s5
    s5 -->|timeout| s5_1
    s5 --> s6
    s5_1 --> s6
    c5 -. skip .-> s6
    s6 --> s7
    s7 --> c8
    c8 --> s8
    s8 --> s9
    c8 -. skip .-> s9
    s9 -.- u9
    s9 --> done
"""


def test_the_flowchart() -> None:
    """S1.2, S6, S7.5, S10: every kind has its shape, conditions their way round, compensations their place beside."""
    assert ORDER.to_mermaid() == CHART
    assert to_mermaid(ORDER) == CHART


def test_the_flowchart_of_a_run() -> None:
    """S16: the status of every step, by its path, colours it; the rest of the text stays the same."""
    text = ORDER.to_mermaid(
        {
            "reserve!undo": "completed",
            "fetch": StepStatus.COMPLETED,
            "reserve": "compensated",
            "note/on_timeout": "completed",
            "approval/on_timeout/late": "failed",
            "gone": "completed",
        }
    )
    assert text.startswith(CHART)
    assert text[len(CHART) :].splitlines() == [
        "    classDef completed fill:#d3f9d8,stroke:#2b8a3e,color:#212529",
        "    class s1,u2,s5_1 completed",
        "    classDef failed fill:#ffe3e3,stroke:#c92a2a,color:#212529",
        "    class s4_2 failed",
        "    classDef compensated fill:#e5dbff,stroke:#5f3dc4,color:#212529",
        "    class s2 compensated",
    ]


@pytest.mark.parametrize("status", list(StepStatus))
def test_every_status_has_a_colour(status: StepStatus) -> None:
    lines = create_workflow("x").step("a", fetch).to_mermaid({"a": status.value}).splitlines()
    assert lines[-2].startswith(f"    classDef {status.value} fill:") and lines[-1] == f"    class s1 {status.value}"


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="status 'done' of 'fetch' is not known; expected one of: pending, running"):
        ORDER.to_mermaid({"fetch": "done"})


def test_what_mermaid_would_read_is_escaped() -> None:
    """A definition made by hand, or a handler's name, may hold anything."""
    odd = Step('end"]; <b>#1 & `x`\nnext', Kind.STEP, fetch, compensate=lambda ctx: ctx)
    text = to_mermaid(Definition("odd", body=Body((odd,))))
    assert '    s1["end#quot;]; #lt;b#gt;#35;1 #amp; #96;x#96; next"]\n' in text
    assert '    u1[/"undo: #lt;lambda#gt;"/]\n' in text


def test_an_empty_workflow_can_be_drawn() -> None:
    text = 'flowchart TD\n    start(["x 1"])\n    done(["completed"])\n    start --> done\n'
    assert create_workflow("x").to_mermaid() == text


def test_describe() -> None:
    """The whole definition as JSON-ready data, in seconds."""
    told = ORDER.describe()
    steps = {step["name"]: step for step in told.pop("steps")}
    assert told == {
        "name": "order",
        "version": "2",
        "deadline": 604800.0,
        "input": "OrderInput",
        "data": "OrderData",
        "validated": True,
        "on_compensation_failure": "block",
    }
    assert list(steps) == ["fetch", "reserve", "discount", "approval", "note", "cool-off", "noon", "some", "ship"]
    assert steps["fetch"] == {
        "name": "fetch", "kind": "step", "when": False, "handler": "fetch", "retries": "default", "retry": "default",
        "timeout": "default", "on_unknown": "retry", "waits": [], "compensation": None,
    }  # fmt: skip
    assert steps["reserve"]["retries"] == 3 and steps["reserve"]["timeout"] == 30.0
    assert steps["reserve"]["compensation"] == {"handler": "release", "retries": "default", "timeout": 2.0, "when": "in_doubt"}
    assert steps["reserve"]["retry"]["give_up_on"] == ["KeyError"]
    assert steps["discount"]["when"] is True and steps["discount"]["timeout"] is None
    assert steps["ship"]["kind"] == "commit" and steps["ship"]["timeout"] is None and steps["ship"]["waits"] == ["shipped"]


def test_describe_waits_and_sleeps() -> None:
    steps = {step["name"]: step for step in ORDER.describe()["steps"]}
    approval = steps["approval"]
    remind_step, late = approval.pop("on_timeout")
    assert approval == {
        "name": "approval", "kind": "wait", "when": False, "signal": "ok", "type": "int | None", "timeout": 259200.0,
        "has_default": False,
    }  # fmt: skip
    assert (remind_step["handler"], remind_step["when"]) == ("remind", True)
    assert (late["has_default"], late["timeout"], late["on_timeout"]) == (True, 90.0, None)
    assert [steps[name]["seconds"] for name in ("cool-off", "noon", "some")] == [3600.0, None, None]
    assert [steps[name]["until"] for name in ("cool-off", "noon", "some")] == [None, "2030-01-01T10:00:00+00:00", None]
    assert [steps[name]["computed"] for name in ("cool-off", "noon", "some")] == [False, False, True]


def test_what_is_described_is_json() -> None:
    assert json.loads(json.dumps(ORDER.describe(), allow_nan=False)) == ORDER.describe()

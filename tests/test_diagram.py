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
        "queue": None,
    }
    assert list(steps) == ["fetch", "reserve", "discount", "approval", "note", "cool-off", "noon", "some", "ship"]
    assert steps["fetch"] == {
        "name": "fetch", "kind": "step", "when": False, "handler": "fetch", "retries": "default", "retry": "default",
        "timeout": "default", "on_unknown": "retry", "probe": None, "pivot": False, "transactional": False, "waits": [],
        "compensation": None, "after": None,
    }  # fmt: skip
    assert steps["reserve"]["retries"] == 3 and steps["reserve"]["timeout"] == 30.0
    assert steps["reserve"]["compensation"] == {"handler": "release", "retries": "default", "timeout": 2.0, "when": "in_doubt"}
    assert steps["reserve"]["retry"]["give_up_on"] == ["KeyError"]
    assert steps["discount"]["when"] is True and steps["discount"]["timeout"] is None
    assert steps["ship"]["kind"] == "commit" and steps["ship"]["timeout"] is None and steps["ship"]["waits"] == ["shipped"]


def test_describe_what_an_attempt_in_doubt_and_a_point_of_no_return_mean() -> None:
    """S3.6, S3.8, S9.4: all that is said of a step is told."""
    flow = create_workflow("x").step("a", fetch, probe=release).commit("b", fetch, pivot=True).step("c", fetch, transactional=True)
    told = [[step[rule] for rule in ("probe", "pivot", "transactional")] for step in flow.describe()["steps"]]
    assert told == [["release", False, False], [None, True, False], [None, False, True]]


def test_describe_waits_and_sleeps() -> None:
    steps = {step["name"]: step for step in ORDER.describe()["steps"]}
    approval = steps["approval"]
    remind_step, late = approval.pop("on_timeout")
    assert approval == {
        "name": "approval", "kind": "wait", "when": False, "signal": "ok", "type": "int | None", "timeout": 259200.0,
        "has_default": False, "after": None,
    }  # fmt: skip
    assert (remind_step["handler"], remind_step["when"]) == ("remind", True)
    assert (late["has_default"], late["timeout"], late["on_timeout"]) == (True, 90.0, None)
    assert [steps[name]["seconds"] for name in ("cool-off", "noon", "some")] == [3600.0, None, None]
    assert [steps[name]["until"] for name in ("cool-off", "noon", "some")] == [None, "2030-01-01T10:00:00+00:00", None]
    assert [steps[name]["computed"] for name in ("cool-off", "noon", "some")] == [False, False, True]


def test_what_is_described_is_json() -> None:
    assert json.loads(json.dumps(ORDER.describe(), allow_nan=False)) == ORDER.describe()


# --- steps with bodies


def choose(ctx: Any) -> str:
    return "air"


def ready(ctx: Any) -> bool:
    return True


def lines(ctx: Any) -> list[int]:
    return [1]


def newest(key: str, values: list[Any]) -> Any:
    return values[-1]


TURNS = branch().step("look", fetch).step("note", release, when=ready)
ITEMS = branch().step("reserve", fetch, compensate=release).wait("packed")
SHIPMENT = (
    create_workflow("ship")
    .parallel("prepare", label=fetch, invoice=branch().step("print", fetch).wait("signed"), join=1, merge=newest)
    .route("carrier", choose, air=release, sea=branch().step("book", fetch, when=ready), default=fetch, when=ready)
    .loop("poll", TURNS, until=ready, at_most=100)
    .loop("drain", fetch, while_=ready, at_most=5)
    .loop("thrice", fetch, at_most=3)
    .for_each("lines", lines, ITEMS)
)

SHIPMENT_CHART = """\
flowchart TD
    start(["ship 1"])
    subgraph p1["in parallel"]
        s1[/"prepare"\\]
        subgraph b1_1["label"]
            s1_1_1["fetch"]
        end
        subgraph b1_2["invoice"]
            s1_2_1["print"]
            s1_2_2{{"signed"}}
        end
        j1[\\"1 of 2"/]
    end
    c2{"carrier?"}
    s2{"carrier"}
    subgraph b2_1["air"]
        s2_1_1["release"]
    end
    subgraph b2_2["sea"]
        c2_2_1{"book?"}
        s2_2_1["book"]
    end
    subgraph b2_3["default"]
        s2_3_1["fetch"]
    end
    subgraph p3["loop"]
        s3(["poll"])
        s3_1["look"]
        c3_2{"note?"}
        s3_2["note"]
    end
    subgraph p4["loop"]
        s4(["drain"])
        s4_1["fetch"]
    end
    subgraph p5["loop"]
        s5(["thrice"])
        s5_1["fetch"]
    end
    subgraph p6["for each (10 at once)"]
        s6[/"lines"\\]
        s6_1["reserve"]
        u6_1[/"undo: release"/]
        s6_2{{"packed"}}
        j6[\\"all"/]
    end
    done(["completed"])
    start --> s1
    s1 --> s1_1_1
    s1 --> s1_2_1
    s1_2_1 --> s1_2_2
    s1_1_1 --> j1
    s1_2_2 --> j1
    j1 --> c2
    c2 --> s2
    s2 -->|"air"| s2_1_1
    s2 -->|"sea"| c2_2_1
    c2_2_1 --> s2_2_1
    s2 -.->|"default"| s2_3_1
    s2_1_1 --> s3
    s2_2_1 --> s3
    c2_2_1 -. skip .-> s3
    s2_3_1 --> s3
    c2 -. skip .-> s3
    s3 --> s3_1
    s3_1 --> c3_2
    c3_2 --> s3_2
    s3_2 -->|"until ready, at most 100"| s3
    c3_2 -.->|"until ready, at most 100"| s3
    s3_2 --> s4
    c3_2 -. skip .-> s4
    s4 --> s4_1
    s4_1 -->|"while ready, at most 5"| s4
    s4 -->|done| s5
    s5 --> s5_1
    s5_1 -->|"3 times"| s5
    s5_1 --> s6
    s6 --> s6_1
    s6_1 -.- u6_1
    s6_1 --> s6_2
    s6_2 --> j6
    j6 --> done
"""


def test_the_flowchart_of_steps_with_bodies() -> None:
    """S1.2: a parallel and a for_each from fork to join, a route with its ways, a loop with the way back."""
    assert SHIPMENT.to_mermaid() == SHIPMENT_CHART


def test_bodies_within_bodies_are_drawn() -> None:
    """S1.2: every box has an id of its own, and all boxes are closed."""
    inner = branch().for_each("each", lines, fetch, concurrency=None, at_least=2)
    text = create_workflow("x").loop("a", branch().parallel("b", c=inner, d=fetch), until=ready, while_=ready, at_most=2).to_mermaid()
    assert '        subgraph p1_1["in parallel"]\n' in text and '                subgraph p1_1_1_1["for each (all at once)"]\n' in text
    assert '[\\"at least 2"/]' in text and 'j1_1 -->|"while ready, until ready, at most 2"| s1\n' in text
    boxes = [line.split()[1] for line in text.splitlines() if line.lstrip().startswith("subgraph")]
    assert len(set(boxes)) == len(boxes) == text.count(" end\n") and "    s1 -->|done| done\n    j1_1 --> done\n" in text


def classes(text: str) -> dict[str, str]:
    """The status of each node that has one."""
    found = [line.split() for line in text.splitlines() if line.startswith("    class ")]
    return {node: status for _, nodes, status in found for node in nodes.split(",")}


def test_a_loop_shows_its_latest_turn() -> None:
    """S1.3, S16: nothing of the turns before, also where the latest has not come so far."""
    text = SHIPMENT.to_mermaid(
        {
            "poll": "running",
            "poll[9]/look": "failed",
            "poll[9]/note": "completed",
            "poll[10]/look": "running",
            "drain[1]": "failed",
            "drain[2]": "completed",
            "drain[2]/other": "failed",
            "thrice[x]": "failed",
        }
    )
    assert classes(text) == {"s3": "running", "s3_1": "running", "s4_1": "completed"}


def test_a_for_each_shows_the_worst_of_its_items() -> None:
    """S1.3, S16: failed before running before completed; compensations by themselves."""
    items = {f"lines[{number}]/reserve": status for number, status in enumerate(("completed", "running", "skipped"), start=1)}
    assert classes(SHIPMENT.to_mermaid(items)) == {"s6_1": "running"}
    assert classes(SHIPMENT.to_mermaid({**items, "lines[7]/reserve": "failed"})) == {"s6_1": "failed"}
    undone = {"lines[1]/reserve!undo": "completed", "lines[2]/reserve!undo": "failed", "lines[1]/reserve": "compensated"}
    assert classes(SHIPMENT.to_mermaid(undone)) == {"s6_1": "compensated", "u6_1": "failed"}


def test_loops_of_items_and_items_of_loops() -> None:
    """S1.3: each item has a latest turn of its own."""
    flow = create_workflow("x").for_each("each", lines, branch().loop("poll", fetch, at_most=5))
    told = {"each[1]/poll[1]": "failed", "each[1]/poll[2]": "completed", "each[2]/poll[1]": "suspended"}
    assert classes(flow.to_mermaid(told)) == {"s1_1_1": "suspended"}
    flow = create_workflow("x").loop("poll", branch().for_each("each", lines, fetch), at_most=5)
    told = {"poll[1]/each[1]": "failed", "poll[2]/each[1]": "completed", "poll[2]/each[2]": "running"}
    assert classes(flow.to_mermaid(told)) == {"s1_1_1": "running"}


def test_branches_are_coloured_by_their_paths() -> None:
    """S1.3: of one handler at the branch, of steps inside it."""
    told = {"prepare": "completed", "prepare/label": "failed", "prepare/invoice/signed": "suspended", "carrier/air": "skipped"}
    assert classes(SHIPMENT.to_mermaid(told)) == {"s1": "completed", "s1_1_1": "failed", "s1_2_2": "suspended", "s2_1_1": "skipped"}


def test_the_worst_of_all_statuses_is_known() -> None:
    for status in StepStatus:
        assert classes(SHIPMENT.to_mermaid({"lines[1]/reserve": status, "lines[2]/reserve": "skipped"})) == {"s6_1": status.value}


def test_describe_steps_with_bodies() -> None:
    """S1.2: their rules and all that is inside them."""
    prepare, carrier, poll, drain, thrice, each = SHIPMENT.describe()["steps"]
    names = {name: [step["name"] for step in steps] for name, steps in prepare.pop("branches").items()}
    assert names == {"label": ["label"], "invoice": ["print", "signed"]}
    assert prepare == {
        "name": "prepare",
        "kind": "parallel",
        "when": False,
        "join": 1,
        "on_failure": "cancel",
        "merge": "newest",
        "after": None,
    }
    assert list(carrier.pop("branches")) == ["air", "sea", "default"]
    assert carrier == {"name": "carrier", "kind": "route", "when": True, "selector": "choose", "after": None}
    assert [step["name"] for step in poll.pop("body")] == ["look", "note"]
    assert poll == {"name": "poll", "kind": "loop", "when": False, "while": None, "until": "ready", "at_most": 100, "after": None}
    assert (drain["while"], drain["until"], thrice["while"], thrice["until"]) == ("ready", None, None, None)
    assert [step["kind"] for step in each.pop("body")] == ["step", "wait"]
    assert each == {
        "name": "lines", "kind": "for_each", "when": False, "items": "lines", "concurrency": 10, "at_least": None,
        "on_failure": "cancel", "merge": None, "after": None,
    }  # fmt: skip
    assert json.loads(json.dumps(SHIPMENT.describe(), allow_nan=False)) == SHIPMENT.describe()


GRAPH = (
    create_workflow("breakfast")
    .step("boil", fetch)
    .step("grind", fetch, when=ready)
    .parallel("lay", cups=fetch, plates=branch().step("big", fetch).step("small", fetch, after=()).step("look", fetch, after=["big"]))
    .step("pour", fetch, after=["boil", "grind"])
    .step("wipe", fetch, after=["lay"])
    .step("serve", fetch, after=["pour", "lay"])
)

GRAPH_EDGES = """\
    start --> s1
    start --> c2
    c2 --> s2
    start --> s3
    s3 --> s3_1_1
    s3 --> s3_2_1
    s3 --> s3_2_2
    s3_2_1 --> s3_2_3
    s3_1_1 --> j3
    s3_2_2 --> j3
    s3_2_3 --> j3
    s1 --> s4
    s2 --> s4
    c2 -. skip .-> s4
    j3 --> s5
    s4 --> s6
    j3 --> s6
    s5 --> done
    s6 --> done
"""


def test_a_graph_is_drawn_and_described_as_one() -> None:
    """S1.2: steps with `after=` are no sequence: an arrow leads from each that a step comes after, inside of branches too."""
    assert GRAPH.to_mermaid().endswith('    done(["completed"])\n' + GRAPH_EDGES)
    told = GRAPH.describe()["steps"]
    assert [step["after"] for step in told] == [[], [], [], ["boil", "grind"], ["lay"], ["pour", "lay"]]
    assert [step["after"] for step in told[2]["branches"]["plates"]] == [[], [], ["big"]]
    assert told[2]["branches"]["cups"][0]["after"] is None

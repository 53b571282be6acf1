"""The runs behind the golden journals: between them they write every kind of record.

    python -m tests.core.stories

writes those journals that are missing in `tests/core/golden/<RELEASE>/`, and never touches one that is there: a golden journal
stands for what a released flux has written, and every later one must fold it to the same state (D20). `RELEASE` is the release
being made: what stands under an earlier one is kept for ever, with the stories that it needs. To add a journal, add a story
and run the command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flux.core.again import inherited
from flux.core.commands import Arrived, Continued, Cut, Migrate, Posting, Raised, Reopen, Resolve, Returned, Tick
from flux.core.failure import Failure
from flux.core.plan import Defaults, Plan
from flux.core.records import RunForked
from flux.core.retry import SECOND, Retry
from flux.core.state import RunState
from flux.core.workflow import Body, Definition, Kind, Migration, Step
from flux.journal import FORMAT, encode_row, pack_failure

from .test_machine import Talk
from .world import T0, Act, Answer, Case, Does, Mail, World, child, commit, handler, sleep, step, wait

GOLDEN = Path(__file__).parent / "golden"
RELEASE = "0.2.0"
FIXED = Retry("fixed", initial=2.0, jitter=False)
ONCE = Defaults(retries=0, retry=FIXED, crash_limit=2)

STORIES: dict[str, Case] = {
    "retry_sleep_signal": Case(
        Definition(
            "order",
            version="2",
            body=Body(
                (
                    step("fetch", retries=2),
                    step("skipped", when=Answer(False)),
                    sleep("nap", duration=3 * SECOND),
                    sleep("until", until=T0 + 4 * SECOND),
                    wait("approval", timeout=60 * SECOND),
                    step("ask"),
                    commit("ship"),
                )
            ),
        ),
        {
            "fetch": (Does("raises", 1), Does("overruns", 1), Does(changes={"k": '"ü\\u0000"', "gone": "1"})),
            "ask": (Does("waits", signal="answer", timeout=9 * SECOND, default="[]", changes={"gone": None}),),
        },
        (Mail(2, "answer"), Mail(20, "approval"), Mail(21, "nobody")),
        defaults=ONCE,
    ),
    "timeouts": Case(
        Definition(
            "timeouts",
            body=Body(
                (
                    wait("one", timeout=SECOND, default_text='{"by":"default"}'),
                    wait("two", timeout=SECOND, on_timeout=Body((step("x"), wait("three", timeout=SECOND, default_text="null")))),
                    wait("four", timeout=SECOND, on_timeout=Body((step("on_timeout"),), single=True)),
                    wait("five", timeout=SECOND),
                )
            ),
        ),
        defaults=ONCE,
    ),
    "cancel_with_compensation": Case(
        Definition(
            "cancel", body=Body((step("a", compensate=handler), step("b", compensate=handler), step("c", compensate=handler), step("d")))
        ),
        {"b!undo": (Does("raises"),), "c": (Does(took=9),)},
        (Mail(4), Mail(5, interrupt=True)),
        eager=True,
        defaults=ONCE,
    ),
    "crashes": Case(
        Definition("crashes", body=Body((step("a"), step("b"), step("c", on_unknown="fail", compensate=handler)))),
        faults={0: "after", 2: "after", 5: "release", 9: "after"},
        defaults=ONCE,
    ),
    "suspect": Case(
        Definition("suspect", body=Body((step("a"), step("b")))),
        faults={0: "after", 2: "after", 4: "after", 7: "after", 12: "after"},
        defaults=ONCE,
    ),
    "deadline_blocked_undo": Case(
        Definition(
            "deadline",
            body=Body((step("a", compensate=handler), step("b", compensate=handler, compensate_retries=1), wait("never"))),
            deadline=5 * SECOND,
            on_compensation_failure="block",
        ),
        {"b!undo": (Does("raises"), Does("gives up"))},
        defaults=ONCE,
    ),
    "cancelled_at_rest": Case(
        Definition("rest", body=Body((step("a", compensate=handler), wait("go")))), mail=(Mail(3, compensate=False),), defaults=ONCE
    ),
    "still_waiting": Case(
        Definition("waiting", body=Body((step("a", retries=1), wait("go", timeout=None), step("b")))),
        {"a": (Does("raises", delay=0), Does())},
        (Mail(1, "other"),),
        defaults=ONCE,
    ),
    "again": Case(
        Definition(
            "again",
            body=Body(
                (
                    step("a", compensate=handler),
                    wait("go", timeout=SECOND, on_timeout=Body((step("x", compensate=handler), step("y")))),
                    step("b", probe=handler, retries=1, compensate=handler),
                    commit("c"),
                    commit("pay", pivot=True),
                    step("mail"),
                )
            ),
            deadline=60 * SECOND,
            on_compensation_failure="block",
        ),
        {
            "go/on_timeout/y": (Does("raises"), Does(changes={"k": "1"})),
            "b": (Does("overruns", 2), Does("overruns")),
            "b!probe": (Does("nothing"), Does()),
            "c": (Does(changes={"k": "2"}),),
            "pay": (Does(took=3),),
            "mail": (Does("raises"),),
            "a!undo": (Does("raises"),),
        },
        (Mail(8),),
        defaults=ONCE,
        eager=True,
        acts=(
            Act("resolve", way="retry"),
            Act("resolve", way="done"),
            Act("retry"),
            Act("retry"),
            Act("resolve", way="skip"),
            Act("replay"),
        ),
    ),
    "parked": Case(Definition("parked", body=Body((step("a"), step("b"), step("c")))), faults={0: "block"}, unblocks=0, defaults=ONCE),
}


FIRST = frozenset(STORIES) - {"again", "suspect"}  # the stories of release 0.1.0

ORIGIN = Body((step("a"), step("b", compensate=handler), wait("go"), step("gone")))
TARGET = Definition(
    "flow",
    version="2",
    body=Body((step("first"), wait("go"), step("new"))),
    migrations=(Migration(Definition("flow", body=ORIGIN), (("a", "first"),), frozenset({"b", "gone"})),),
)


def moved() -> Talk:
    """A fork of a run of an old version, begun there and carried on under the new one."""
    origin = Talk(*ORIGIN.steps)
    origin.tell(Returned("a", 1, "1", {"k": "2"}))
    fork = Talk(*ORIGIN.steps, inherited=[RunForked("origin", "b", "ana", "why"), *inherited(origin.state, origin.plan, "b")])
    fork.tell(Returned("b", 1, "3", {"l": "4"}))
    fork.after(1).under(TARGET).tell(Migrate())
    fork.tell(Arrived((Posting(1, "signal", "go", '"yes"'),)))
    fork.tell(Returned("new", 1, "5"))
    return fork


ONE = Body((step("one"),), single=True)
COMPOSED = Definition(
    "composed",
    body=Body(
        (
            Step(
                "p",
                Kind.PARALLEL,
                branches=(("a", Body((step("x"), step("y")))), ("b", Body((wait("go"),))), ("c", ONE), ("d", ONE)),
                join=2,
            ),
            Step("r", Kind.ROUTE, branches=(("a", ONE), ("b", Body((step("x"),)))), selector=Answer("b")),
            Step("l", Kind.LOOP, body=Body((step("x"),)), at_most=2),
            Step("f", Kind.FOR_EACH, body=Body((step("x"), sleep("nap", duration=SECOND))), items=Answer(('"one"', "2")), concurrency=1),
            Step(
                "g", Kind.PARALLEL, branches=(("a", Body((step("x", after=()), step("y", after=()), step("z", after=("x",))))), ("b", ONE))
            ),
        )
    ),
)


def composed() -> Talk:
    """Every kind of step with branches; the last fails, and is retried."""
    run = Talk(*COMPOSED.steps)
    run.tell(Returned("p/a/x", 1, "1", {"k": "1", "l": "2"}))
    run.tell(Returned("p/a/y", 1, "2", {"k": None}), Returned("p/c", 1, "3"))
    run.tell(Cut("p/d", 1, "stopped"))
    for path in ("r/b/x", "l[1]/x", "l[2]/x", "f[1]/x", "f[2]/x"):
        run.tell(Returned(path, 1, "4", {path[-3:-2]: "5"}))
        run.after(1).tell(Tick())
    run.tell(Raised("g/a/x", 1, Failure("builtins:ValueError", "boom")), Returned("g/b", 1, "6", {"m": "7"}))
    run.tell(Returned("g/a/y", 1, "8", {"n": "9"}))
    run.tell(Reopen("retry", "", "ana", "why"))
    run.tell(Returned("g/a/x", 1, "1"))
    return run


PARENT = Definition(
    "parent",
    body=Body(
        (
            child("c"),
            Step("p", Kind.PARALLEL, branches=(("a", Body((step("x"),))), ("b", Body((child("d"),)))), join="any"),
            child("e"),
            step("z"),
        )
    ),
)


def parent() -> Talk:
    """Children of all sorts: one is undone, one stopped, one refuses; and a retry, which is cancelled."""

    def word(seq: int, run_id: str, status: str = "completed") -> Arrived:
        return Arrived((Posting(seq, "child", run_id, status),))

    run = Talk(*PARENT.steps)
    run.tell(word(1, "me~c~0"))
    run.after(1).tell(Returned("p/a/x", 1, "1"))
    run.after(1).tell(word(2, "me~p/b/d~0", "cancelled"))
    run.after(1).tell(word(3, "me~e~0"))
    run.tell(Raised("z", 1, Failure("builtins:ValueError", "boom")))
    run.after(1).tell(word(4, "me~e~0", "completed"))
    run.tell(Resolve("e!undo", "skip", None, "ana", "why"))
    run.after(1).tell(word(5, "me~c~0", "cancelled"))
    run.tell(Reopen("retry", "c", "ana", "why"))
    run.after(1).tell(Arrived((Posting(6, "cancel", "", "10"),)))
    run.tell(Arrived((Posting(7, "cancel", "", "11"),)))
    run.after(1).tell(word(8, "me~c~1", "failed dirty"))
    return run


CHILD = Definition("child", body=Body((step("a", compensate=handler), step("b"))))


def undone() -> Talk:
    """A child that begins again once, completes, and is undone for its parent."""
    run = Talk(*CHILD.steps, parent="me")
    run.tell(Returned("a", 1, "1", {"k": "2"}))
    run.after(1).tell(Continued("b", 1, '"next"', {"l": "3"}))
    run.tell(Returned("a", 1, "4"))
    run.after(1).tell(Returned("b", 1, "5"))
    run.after(1).tell(Arrived((Posting(1, "unwind", "", ""),)))
    run.tell(Returned("a!undo", 1, "6"))
    return run


TOLD: dict[str, Definition] = {"moved": TARGET, "composed": COMPOSED, "parent": PARENT, "undone": CHILD}


def plan_of(name: str) -> Plan:
    """The plan under which the journal of this name is folded."""
    return Plan(TOLD[name]) if name in TOLD else STORIES[name].plan


def journals() -> dict[str, tuple[list[tuple[int, str, str]], RunState]]:
    """Each story as rows, and the state that they fold to."""
    made = {name: (world.store.rows, world.state) for name, world in ((name, World(case).run()) for name, case in STORIES.items())}
    told = {"moved": moved(), "composed": composed(), "parent": parent(), "undone": undone()}
    return made | {name: ([(at, *encode_row(records)) for at, records in talk.rows], talk.state) for name, talk in told.items()}


def summary(state: RunState) -> dict[str, Any]:
    """What a fold says, as JSON."""
    steps = {
        path: [st.status, st.attempt, st.raised, st.lost, st.doubt, st.result, pack_failure(st.failure), st.due_at]
        for path, st in state.steps.items()
    }
    unwinding, blocked = state.unwinding, state.blocked
    return {
        "status": state.status,
        "workflow": [state.workflow, state.version, state.shape],
        "input": state.input,
        "data": state.data,
        "steps": steps,
        "waiting_for": state.waiting_for,
        "wake_at": state.wake_at,
        "unwinding": None if unwinding is None else [unwinding.cause, pack_failure(unwinding.failure), unwinding.compensate],
        "undo": [state.undo, state.undo_at],
        "blocked": None if blocked is None else [blocked.reason, blocked.message, blocked.path],
        "cancel": None if state.cancel is None else [state.cancel.reason, state.cancel.compensate, state.cancel.interrupt],
        "again": [state.generation, state.pivot, state.keys, sorted(state.owed), {path: len(old) for path, old in state.past.items()}],
        "family": [state.parent, state.children, {path: st.child for path, st in state.steps.items() if st.child}, state.unclean],
        "times": [state.created_at, state.updated_at, state.ended_at, state.deadline_at],
    }


def write_missing() -> list[Path]:
    """Write the journals that are missing under `RELEASE`; returns their files."""
    written: list[Path] = []
    (GOLDEN / RELEASE).mkdir(exist_ok=True)
    for name, (rows, state) in journals().items():
        path = GOLDEN / RELEASE / f"{name}.json"
        if path.exists():
            continue
        golden = {"format": FORMAT, "rows": rows, "state": summary(state)}
        path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    for written_path in write_missing():
        print(f"written: {written_path.name}")

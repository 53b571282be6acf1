"""LangGraph's side: a graph of five nodes, with its SQLite checkpointer."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, TypedDict

from common import Figures, Job, idle, import_seconds, lanes, one_by_one, perform, resident, side_by_side
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

SYNC: Any = "sync"  # a checkpoint is stored before the next node begins
WARM = 50  # runs that are parked before their memory is looked at


class State(TypedDict):
    """What the nodes hand on."""

    n: int
    ok: bool


async def node(state: State) -> State:
    """As little as a node can do."""
    return {"n": 1, "ok": True}


async def wait(state: State) -> State:
    """Until somebody resumes it."""
    interrupt("go")
    return {"n": 1, "ok": True}


def chain(nodes: list[Any]) -> StateGraph[Any]:
    """These one after the other."""
    graph: StateGraph[Any] = StateGraph(State)
    names = [f"s{index}" for index in range(len(nodes))]
    for name, work in zip(names, nodes, strict=True):
        graph.add_node(name, work)
    for left, right in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(left, right)
    return graph


numbers = count()


def runner(graph: Any) -> Callable[[], Awaitable[object]]:
    """One run, under an id of its own."""

    async def one() -> None:
        await graph.ainvoke({"n": 0, "ok": False}, {"configurable": {"thread_id": str(next(numbers))}}, durability=SYNC)

    return one


async def signals(job: Job, graph: Any) -> Figures:
    """W6."""
    number = job.sizes["runs"]
    names, told = iter(range(-WARM, number)), iter(range(number))

    async def park() -> None:
        await graph.ainvoke({"n": 0, "ok": False}, {"configurable": {"thread_id": f"run-{next(names)}"}}, durability=SYNC)

    async def tell() -> None:
        await graph.ainvoke(Command(resume={"by": "ana"}), {"configurable": {"thread_id": f"run-{next(told)}"}}, durability=SYNC)

    await lanes(park, WARM, 100)
    before, start = resident(), time.perf_counter()
    await lanes(park, number, 100)
    halfway = time.perf_counter()
    held = resident() - before
    await lanes(tell, number, 100)
    return {"parking": number / (halfway - start), "rate": number / (time.perf_counter() - halfway), "held": held / number}


async def weight(graph: Any) -> Figures:
    """W8."""
    used = "from langgraph.graph import StateGraph; from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver"
    found = {"import": import_seconds("import langgraph.graph"), "ready": import_seconds(used)}
    await runner(graph)()
    return found | await idle()


async def work(job: Job) -> Figures:
    """What the job says."""
    async with AsyncSqliteSaver.from_conn_string(f"{job.place}/langgraph.db") as saver:
        await saver.setup()
        mode = sqlite3.connect(f"{job.place}/langgraph.db").execute("PRAGMA journal_mode").fetchone()[0]
        if mode != "wal":
            raise RuntimeError(f"expected a write-ahead log, found {mode}")
        five = chain([node] * 5).compile(checkpointer=saver)
        if job.workload == "W1":
            return await one_by_one(runner(five), job.sizes["runs"], warm=5)
        if job.workload == "W2":
            return await side_by_side(runner(five), job.sizes["runs"], warm=20)
        if job.workload == "W6":
            return await signals(job, chain([node, wait, node]).compile(checkpointer=saver))
        return await weight(five)


if __name__ == "__main__":
    perform(work)

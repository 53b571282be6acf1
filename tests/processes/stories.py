"""The workflows that the children run. Every handler has exactly one effect a call."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from flux import Context, RetryAfter, Workflow, create_workflow

from .here import effect, permission, permission_soon, say


async def act(ctx: Context) -> str:
    effect(ctx)
    return ctx.path


def act_on_a_thread(ctx: Context) -> str:
    effect(ctx)
    return ctx.path


async def undo(ctx: Context) -> None:
    effect(ctx)


# --- the story: steps of every kind. With {"fails": True} the last one fails for good, and all is undone.


async def reserve(ctx: Context) -> dict[str, int]:
    effect(ctx)
    ctx.data["reserved"] = 3
    return {"shelf": 7}


def flaky(ctx: Context) -> str:
    """Its third attempt is the first that works."""
    effect(ctx)
    if ctx.attempt < 3:
        raise ConnectionError(f"attempt {ctx.attempt}")
    ctx.data["label"] = "L-1"
    return "label"


async def charge(ctx: Context) -> str:
    effect(ctx)
    return ctx.idempotency_key


async def refund(ctx: Context) -> None:
    """Its first attempt fails."""
    effect(ctx)
    if ctx.attempt < 2:
        raise ConnectionError("the bank is busy")


async def finish(ctx: Context) -> dict[str, Any]:
    effect(ctx)
    if ctx.input["fails"]:
        raise OSError("no carrier")
    return {"by": ctx.results["go"]["by"], "shelf": ctx.results["reserve"]["shelf"]}


story = (
    create_workflow("story")
    .step("reserve", reserve, compensate=undo)
    .step("flaky", flaky, retries=3, compensate=undo)
    .commit("charge", charge, compensate=refund, compensate_retries=2)
    .sleep("nap", seconds=0.02)
    .wait("go")
    .step("finish", finish, retries=2)
)


# --- the errand: for load, many runs of it. Every fifth fails, and is undone.


async def count(ctx: Context) -> int:
    effect(ctx)
    ctx.data["count"] = ctx.data.get("count", 0) + 1
    return int(ctx.data["count"])


async def take_a_moment(ctx: Context) -> str:
    effect(ctx)
    await pass_time(0.01)
    return "done"


async def pass_time(seconds: float) -> None:
    passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, _pass, passed)
    await passed


def _pass(passed: asyncio.Future[None]) -> None:
    if not passed.done():  # the attempt may have been cut just now
        passed.set_result(None)


async def fail_sometimes(ctx: Context) -> None:
    effect(ctx)
    if ctx.input["number"] % 5 == 0:
        raise ValueError("every fifth run fails")


errand = (
    create_workflow("errand")
    .step("one", count, compensate=undo)
    .step("two", act_on_a_thread)
    .step("three", take_a_moment, compensate=undo)
    .wait("go")
    .commit("four", count, compensate=undo)
    .step("five", fail_sometimes, retries=0)
)


# --- at a standstill: a worker can be caught in each phase. The step called "hold" stays until the parent allows it to end.


async def hold(ctx: Context) -> str:
    effect(ctx)
    say("in")
    await permission_soon()
    return "held"


def hold_a_thread(ctx: Context) -> str:
    effect(ctx)
    say("in")
    permission()
    return "held"


async def ask_for_later(ctx: Context) -> str:
    effect(ctx)
    if ctx.attempt == 1:
        raise RetryAfter(0.4)
    return "later"


async def give_up(ctx: Context) -> None:
    effect(ctx)
    raise ValueError("no")


def _held(name: str) -> Workflow[Any, Any]:
    return create_workflow(name).step("first", act, compensate=undo)


held = {
    "handler": _held("held-handler").step("hold", hold).step("after", act),
    "thread": _held("held-thread").step("hold", hold_a_thread).step("after", act),
    "commit": _held("held-commit").commit("hold", hold).step("after", act),
    "sleep": _held("held-sleep").sleep("nap", seconds=0.4).step("after", act),
    "retry": _held("held-retry").step("later", ask_for_later).step("after", act),
    "wait": _held("held-wait").wait("go").step("after", act),
    "early": _held("held-early").step("hold", hold).wait("go").step("after", act),
    "undo": _held("held-undo").step("paid", act, compensate=hold).step("bad", give_up, retries=0),
}


# --- one that stays for ever, one that stops its process, and one that waits again and again


async def stay_for_ever(ctx: Context) -> None:
    effect(ctx)
    if ctx.attempt == 1:
        say("in")
        await asyncio.get_running_loop().create_future()


async def freeze(ctx: Context) -> str:
    effect(ctx)
    if ctx.attempt == 1:
        say("in")
        os.kill(os.getpid(), signal.SIGSTOP)
    return f"attempt {ctx.attempt}"


stuck = create_workflow("stuck").step("first", act, compensate=undo).step("stay", stay_for_ever, timeout=None, compensate=undo)
frozen = create_workflow("frozen").step("first", act).step("freeze", freeze).step("after", act)


# --- one that kills its process whenever it is called, and one that works beside it


async def kill(ctx: Context) -> None:
    effect(ctx)
    os._exit(9)


deadly = create_workflow("deadly").step("kill", kill)
innocent = create_workflow("innocent")
for _name in ("one", "two", "three"):
    innocent = innocent.step(_name, take_a_moment)


# --- one of five steps, of every kind, for load


async def take_longer(ctx: Context) -> str:
    effect(ctx)
    await pass_time(0.1)
    return ctx.path


five = (
    create_workflow("five")
    .step("one", act)
    .step("two", take_longer)
    .step("three", act_on_a_thread)
    .commit("four", take_longer)
    .step("five", count)
)

ROUNDS = 30
ping = create_workflow("ping")
for _number in range(ROUNDS):
    ping = ping.wait(f"ping-{_number}").step(f"pong-{_number}", act)

# --- an order that fails in bad weather, and is done again


weather = {"fine": False}  # a process says what it has


async def ship(ctx: Context) -> str:
    effect(ctx)
    if not weather["fine"]:
        raise OSError("no carrier")
    return f"shipped {ctx.data['boxes']}"


async def pack(ctx: Context) -> int:
    effect(ctx)
    ctx.data["boxes"] = ctx.data.get("boxes", 0) + 1
    return int(ctx.data["boxes"])


order = (
    create_workflow("order")
    .step("reserve", act)
    .commit("charge", charge, compensate=undo)
    .step("pack", pack, compensate=undo)
    .step("label", act_on_a_thread)
    .commit("ship", ship, retries=1)
    .commit("mail", act)
)


# --- steps that are called once at most


async def hold_once(ctx: Context) -> str:
    """In a child that is to be killed by its parent it stays; elsewhere it returns."""
    effect(ctx)
    if ctx.input and ctx.input.get("stays"):
        say("in")
        await permission_soon()
    return "once"


def hold_a_thread_once(ctx: Context) -> str:
    effect(ctx)
    if ctx.input and ctx.input.get("stays"):
        say("in")
        permission()
    return "once"


once = {
    "async": create_workflow("once-async")
    .step("first", act, compensate=undo)
    .step("once", hold_once, on_unknown="fail")
    .step("after", act),
    "thread": create_workflow("once-thread")
    .step("first", act, compensate=undo)
    .step("once", hold_a_thread_once, on_unknown="fail", compensate=undo)
    .step("after", act),
    "commit": create_workflow("once-commit")
    .step("first", act, compensate=undo)
    .commit("once", hold_once, on_unknown="compensate", compensate=undo)
    .step("after", act),
}

# --- a family: a parent whose last step fails for good with {"fails": True}, and then everything is undone


async def close(ctx: Context) -> str:
    effect(ctx)
    if ctx.input.get("fails"):
        raise OSError("nobody is at home")
    return f"{ctx.results['bill']['paid']} {ctx.results['parcel']['boxes']}"


async def pay(ctx: Context) -> None:
    effect(ctx)
    ctx.data["paid"] = ctx.input["amount"]


bill = create_workflow("bill").commit("pay", pay, compensate=undo)
parcel = create_workflow("parcel").step("pack", pack, compensate=undo).step("fetch", act_on_a_thread)
house = (
    create_workflow("house")
    .step("open", act, compensate=undo)
    .child("bill", bill, input=lambda ctx: {"amount": 7})
    .child("parcel", parcel)
    .step("close", close, retries=0)
)

ALL = (story, errand, five, *held.values(), stuck, frozen, ping, deadly, innocent, order, *once.values(), house, bill, parcel)
WORKFLOWS = {workflow.name: workflow for workflow in ALL}

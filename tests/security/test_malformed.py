"""Damaged rows: each is reported with its run's id, and the others go on (S15.2)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from flux import FluxEngine, FluxError, RunStatus, UnreadableRun, create_workflow
from flux.storage import NewPosting

from ..engine.cluster import Cluster, eventually
from ..engine.conftest import STORAGES
from ..engine.damage import sql
from .rows import Row, change_row, drop_row

pytestmark = pytest.mark.anyio


async def pay(ctx: Any) -> dict[str, str]:
    ctx.data["paid"] = True
    return {"receipt": "x" * 20}


async def ship(ctx: Any) -> str:
    return str(ctx.results["pay"]["receipt"])


FLOW = create_workflow("shop").step("pay", pay).wait("go").step("ship", ship)


def control(text: str) -> Callable[[str, str], Row]:
    return lambda _control, payload: (text, payload)


def payload(change: Callable[[str], str]) -> Callable[[str, str], Row]:
    return lambda control, payload: (control, change(payload))


def record(change: Callable[[list[Any]], Any]) -> Callable[[str, str], Row]:
    """Change the records of a row."""

    def act(control: str, payload: str) -> Row:
        records = json.loads(control)
        change(records)
        return json.dumps(records), payload

    return act


# Rows that are no rows: told when the run is looked at, whatever one wants of it.
UNREADABLE: dict[str, Callable[[str, str], Row]] = {
    "no JSON": control("nonsense"),
    "empty": control(""),
    "half of it": lambda control, payload: (control[: len(control) // 2], payload),
    "no list": control("{}"),
    "a number": control("5"),
    "a list of numbers": control("[1,2]"),
    "an empty record": control("[[]]"),
    "no record": control("[]"),
    "an unknown tag": control('[["zz",1]]'),
    "a tag that is no text": control('[[["ok"],1]]'),
    "a hostile tag": control('[["__class__","os:system"]]'),
    "fields that lack": control('[["ok","pay"]]'),
    "a path that is none": record(lambda records: records[0].__setitem__(1, 5)),
    "a path that was not started": record(lambda records: records[0].__setitem__(1, "elsewhere")),
    "a negative length": record(lambda records: records[0].__setitem__(3, -1)),
    "a length that is too long": record(lambda records: records[0].__setitem__(3, 10**9)),
    "a length that is a text": record(lambda records: records[0].__setitem__(3, "9")),
    "nested too deep": control("[" * 100_000),
    "a number too long": control("[[" + "9" * 5000 + "]]"),
    "a payload that is cut": payload(lambda text: text[:-1]),
    "a payload that is longer": payload(lambda text: text + "x"),
    "a payload that is gone": payload(lambda _: ""),
}


async def two_runs(cluster: Cluster) -> None:
    """Runs `bad` and `good`, both waiting, and no engine."""
    engine = await cluster.open()
    for id in ("bad", "good"):
        assert (await engine.execute(FLOW, id=id)).waiting_for == ("go",)
    await engine.close()


async def is_reported_alone(cluster: Cluster) -> None:
    """Every way of asking for `bad` says so and names it; lists, claims and `good` do not notice; nothing else is raised."""
    engine = await cluster.open(workflows=[FLOW])
    for call in (engine.get("bad"), engine.history("bad"), engine.resume(FLOW, "bad"), engine.handle("bad").details()):
        with pytest.raises(UnreadableRun, match="bad") as caught:
            await call
        assert caught.value.run_id == "bad" and len(str(caught.value)) < 500 and str(caught.value).isprintable()
    assert {run.id for run in (await engine.list()).runs} == {"bad", "good"} and (await engine.summary("bad")).id == "bad"
    await engine.start(FLOW, id="new")
    await engine.storage.post("bad", NewPosting("signal", "go", "null"))
    async with engine.worker():
        await engine.signal(FLOW, "good", "go")
        await engine.handle("good").result(timeout=60)

        async def both_at_rest() -> bool:
            bad, new = await engine.summary("bad"), await engine.summary("new")
            return bad.status is RunStatus.BLOCKED and new.status is RunStatus.SUSPENDED

        await eventually(both_at_rest)
    assert "UnreadableRun" in ((await engine.summary("bad")).blocked_reason or "")
    assert (await engine.get("good")).results["ship"] == "x" * 20


@pytest.mark.parametrize("damage", UNREADABLE)
async def test_a_row_that_cannot_be_read(cluster: Cluster, damage: str) -> None:
    """S15.2, D20: the second of a run's rows."""
    await two_runs(cluster)
    await change_row(cluster, "bad", 2, UNREADABLE[damage])
    await is_reported_alone(cluster)


@pytest.mark.parametrize("damage", ["no JSON", "an unknown tag", "a payload that is longer", "no list"])
async def test_a_first_row_that_cannot_be_read(cluster: Cluster, damage: str) -> None:
    """S15.2: not even what workflow it was is known then."""
    await two_runs(cluster)
    await change_row(cluster, "bad", 1, UNREADABLE[damage])
    await is_reported_alone(cluster)


async def test_a_first_row_that_is_another_record(cluster: Cluster) -> None:
    """S15.2: a journal begins with the creation of its run."""
    await two_runs(cluster)
    await change_row(cluster, "bad", 1, lambda control, payload: ('[["done"]]', ""))
    await is_reported_alone(cluster)


@pytest.mark.parametrize("position", [1, 2])
async def test_a_row_that_is_missing(cluster: Cluster, position: int) -> None:
    """S15.2: a journal is whole, or it is not read."""
    await two_runs(cluster)
    await drop_row(cluster, "bad", position)
    await is_reported_alone(cluster)


# Rows and heads in memory have no columns: what they hold is damaged above.
in_columns = pytest.mark.parametrize("cluster", [name for name in STORAGES if name != "memory"], indirect=True)
# PostgreSQL keeps a value of another type than its column's out, and so it does a text that is not UTF-8.
in_loose_columns = pytest.mark.parametrize("cluster", ["sqlite"], indirect=True)


async def change_column(cluster: Cluster, table: str, change: str) -> None:
    """Of the head of `bad`, or of the second row of its journal."""
    which = "run_id = 'bad'" if table == "runs" else "position = 2 AND ref = (SELECT ref FROM {}runs WHERE run_id = 'bad')"
    await sql(cluster, f"UPDATE {{}}{table} SET {change} WHERE {which}")


COLUMNS = {
    "a future format": ("journal", "format = 99"),
    "a time before all time": ("journal", "at = -9223372036854775807"),
    "a time in the far future": ("journal", "at = 9223372036854775807"),
    "a row elsewhere": ("journal", "position = 7"),
    "a head before its journal": ("runs", "position = 7"),
}
LOOSE_COLUMNS = {
    "bytes that are no text": ("journal", "control = CAST(x'ff' AS TEXT)"),
    "a blob": ("journal", "payload = x'ff00'"),
    "a number for a text": ("journal", "control = 5"),
    "a format that is a text": ("journal", "format = 'x'"),
    "a position that is a text": ("journal", "position = 'x'"),
}


@in_columns
@pytest.mark.parametrize("damage", COLUMNS)
async def test_damage_in_columns(cluster: Cluster, damage: str) -> None:
    """S15.2, D20: the same for what only columns can hold."""
    await two_runs(cluster)
    await change_column(cluster, *COLUMNS[damage])
    await is_reported_alone(cluster)


@in_loose_columns
@pytest.mark.parametrize("damage", LOOSE_COLUMNS)
async def test_damage_in_loose_columns(cluster: Cluster, damage: str) -> None:
    """S15.2, D20: the same for what only SQLite's columns can hold."""
    await two_runs(cluster)
    await change_column(cluster, *LOOSE_COLUMNS[damage])
    await is_reported_alone(cluster)


@in_columns
@pytest.mark.parametrize("status", ["dancing", "", "COMPLETED", "running\n"])
async def test_an_unknown_status(cluster: Cluster, status: str) -> None:
    """S15.2: a head that says what no flux writes is shown as blocked; the others go on."""
    await two_runs(cluster)
    await sql(cluster, "UPDATE {}runs SET status = $1 WHERE run_id = 'bad'", status)
    engine = await cluster.open(workflows=[FLOW])
    assert {run.id: run.status.value for run in (await engine.list()).runs} == {"bad": "blocked", "good": "suspended"}
    with pytest.raises(UnreadableRun, match="bad"):
        await engine.get("bad")
    assert (await engine.signal(FLOW, "good", "go")).status == "completed"


HEADS = {
    "a change in the far future": "updated_at = 9223372036854775807",
    "an end before all time": "ended_at = -9223372036854775807",
    "waits that are no JSON": "waiting = '{'",
    "waits that are no list": "waiting = '5'",
}
LOOSE_HEADS = {
    "a change that is a text": "updated_at = 'x'",
    "a timer that is a text": "wake_at = 'soon'",
    "a status that is no text": "status = CAST(x'ff' AS TEXT)",
}


@in_columns
@pytest.mark.parametrize("damage", HEADS)
async def test_a_damaged_head(cluster: Cluster, damage: str) -> None:
    """S15.2: it is shown as blocked where it is listed, told as UnreadableRun where it is read, and is in no other run's way."""
    await two_runs(cluster)
    await change_column(cluster, "runs", HEADS[damage])
    await is_in_nobodys_way(cluster)


@in_loose_columns
@pytest.mark.parametrize("damage", LOOSE_HEADS)
async def test_a_head_damaged_in_loose_columns(cluster: Cluster, damage: str) -> None:
    """S15.2: the same for what only SQLite's columns can hold."""
    await two_runs(cluster)
    await change_column(cluster, "runs", LOOSE_HEADS[damage])
    await is_in_nobodys_way(cluster)


async def is_in_nobodys_way(cluster: Cluster) -> None:
    """The head of `bad` is shown as one that cannot be read; `good` and new runs go on."""
    engine = await cluster.open(workflows=[FLOW])
    for _ in range(2):
        assert {run.id: run.status.value for run in (await engine.list()).runs} == {"bad": "blocked", "good": "suspended"}
        assert (await engine.summary("bad")).blocked_reason == "UnreadableRun"
        with pytest.raises(UnreadableRun, match="bad"):
            await engine.get("bad")
    await engine.start(FLOW, id="new")
    async with engine.worker():

        async def taken_up() -> bool:
            return (await engine.summary("new")).status is RunStatus.SUSPENDED

        await eventually(taken_up)
        await engine.signal(FLOW, "good", "go")
        await engine.handle("good").result(timeout=60)


@in_loose_columns
@pytest.mark.parametrize("column", ["workflow", "version", "shape", "blocked", "owner", "idempotency_key"])
async def test_bytes_that_are_no_text_in_a_head(cluster: Cluster, column: str) -> None:
    """S15.2: lists, claims and reads of other runs do not fail for them, and later reads see later commits."""
    await two_runs(cluster)
    await change_column(cluster, "runs", f"{column} = CAST(x'ff' AS TEXT)")
    engine = await cluster.open(workflows=[FLOW])
    assert {run.id for run in (await engine.list()).runs} == {"bad", "good"} and (await engine.summary("bad")).id == "bad"
    await engine.start(FLOW, id="new")
    assert (await engine.summary("new")).status is RunStatus.PENDING
    assert (await engine.signal(FLOW, "good", "go")).status == "completed"
    async with engine.worker():

        async def taken_up() -> bool:
            return (await engine.summary("new")).status is RunStatus.SUSPENDED

        await eventually(taken_up)


VALUES = {
    "no JSON": "nonsense", "an unknown tag": '{"~zz":1}', "a malformed date": '{"~date":"canary"}', "no base64": '{"~bytes":"!"}',
    "nested too deep": "[" * 5000, "NaN": "NaN", "two values": "1 2", "a missing class": '{"~data":["gone:Gone",{}]}', "empty": "",
    "a zone": '{"~datetime":["2026-01-01T00:00:00",0,"canary"]}', "a duplicate tag": '{"~date":"2026-01-01","~date":"canary"}',
    "an unhashable key": '{"~map":[[[1],2]]}', "a huge number": "9" * 5000,
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
async def test_a_value_that_cannot_be_read(cluster: Cluster, value: str, caplog: pytest.LogCaptureFixture) -> None:
    """S15.2, S16: the run can be looked at, all but that value; a step that needs it does not go on and the run is blocked, saying why
    without showing what is stored."""
    caplog.set_level(logging.DEBUG)
    await two_runs(cluster)
    text = VALUES[value]

    def change(control: str, payload: str) -> Row:
        records = json.loads(control)
        before = records[0][3]
        records[0][3] = len(text)
        return json.dumps(records), text + payload[before:]

    await change_row(cluster, "bad", 2, change)
    engine = await cluster.open(workflows=[FLOW])
    result = await engine.get("bad")
    assert result.status == "suspended" and result.data == {"paid": True} and result.history[0].status == "completed"
    with pytest.raises(UnreadableRun, match="bad") as caught:
        _ = result.results
    assert caught.value.run_id == "bad"
    after = await engine.signal(FLOW, "bad", "go")
    assert after.status == "blocked" and "UnreadableRun" in (after.blocked_reason or "") and len(after.blocked_reason or "") < 500
    assert (await engine.signal(FLOW, "good", "go")).status == "completed"
    assert "canary" not in caplog.text and "canary" not in str(caught.value) + str(after.blocked_reason)


@pytest.mark.parametrize("text", ["nonsense", "{}", "[]", "5", '{"reason":1}', "", "[" * 5000])
async def test_a_damaged_cancel(cluster: Cluster, text: str) -> None:
    """S15.2: a posting that says nothing cancels nothing; it is told, and the others go on."""
    await two_runs(cluster)
    engine = await cluster.open(workflows=[FLOW])
    await engine.storage.post("bad", NewPosting("cancel", "cancel", text))
    with pytest.raises(UnreadableRun):
        await engine.resume(FLOW, "bad")
    assert (await engine.get("bad")).status == "blocked" and (await engine.signal(FLOW, "good", "go")).status == "completed"


async def looked_at(engine: FluxEngine) -> None:
    """Everything that can be seen of `bad`: it is there, or it is an error of flux's own."""
    try:
        result = await engine.get("bad")
    except UnreadableRun as error:
        assert error.run_id == "bad"
        return
    for see in (
        lambda: (result.status, result.created_at, result.completed_at, result.duration, result.waiting_for, result.wake_at, repr(result)),
        lambda: (result.input, result.data),
        lambda: result.results,
        lambda: (result.error, result.blocked_reason),
        lambda: [(line.path, line.status, line.error, line.duration, line.compensation, repr(line)) for line in result.history],
    ):
        try:
            see()
        except FluxError as error:
            assert isinstance(error, UnreadableRun) and error.run_id == "bad"


@pytest.mark.parametrize("position", [1, 2])
async def test_every_byte(cluster: Cluster, position: int) -> None:
    """S15.2: whichever character of a row is another one, looking at the run raises UnreadableRun or nothing."""
    await two_runs(cluster)
    engine = await cluster.open(workflows=[FLOW])
    whole: list[Row] = []
    await change_row(cluster, "bad", position, lambda control, payload: whole.append((control, payload)) or (control, payload))
    good, text = whole[0]
    for at in range(len(good)):
        for other in '"5[x':
            changed = good[:at] + other + good[at + 1 :]
            await change_row(cluster, "bad", position, lambda _c, _p, changed=changed: (changed, text))
            await looked_at(engine)
    await change_row(cluster, "bad", position, lambda _c, _p: (good, text))
    assert (await engine.get("bad")).status == "suspended"

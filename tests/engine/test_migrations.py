"""Runs of an old version that go on under a new one, by a declared migration (S13)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flux import FluxEngine, InvalidWorkflow, Retry, Workflow, branch, create_workflow
from flux.core.records import RunMigrated
from flux.storage import StoredRun

from .cluster import Cluster, Effects, eventually

pytestmark = pytest.mark.anyio

RENAME = {"charge": "pay", "go": "confirm"}
DROP = ["notify"]


class Shop:
    """Both versions of one workflow, and what their handlers did; `notify` is dropped, `charge` and `go` are renamed."""

    def __init__(self) -> None:
        self.effects = Effects()
        self.keys: dict[str, set[str]] = {}
        self.hang: set[str] = set()  # handlers that never return
        self.fail: set[str] = set()  # handlers that raise
        self.entered = asyncio.Event()

    def act(self, name: str) -> Callable[[Any], Any]:
        async def handler(ctx: Any) -> str:
            self.effects.done.append(name)
            self.keys.setdefault(name, set()).add(ctx.idempotency_key)
            if not name.startswith("undo"):
                ctx.data[name] = ctx.attempt
            if name in self.hang:
                self.entered.set()
                await asyncio.Event().wait()
            if name in self.fail:
                raise LookupError(name)
            return f"result of {name}"

        return handler

    def _step(self, flow: Workflow[Any, Any], name: str, tag: str) -> Workflow[Any, Any]:
        retry = Retry("fixed", initial=600, maximum=600, jitter=False)
        return flow.step(
            name, self.act(f"{tag}"), compensate=self.act(f"undo {tag}"), retries=1, retry=retry, timeout=None,
            compensate_timeout=9999,
        )  # fmt: skip

    @property
    def one(self) -> Workflow[Any, Any]:
        flow = self._step(create_workflow("shop"), "charge", "pay")
        flow = self._step(flow, "notify", "notify")
        flow = flow.sleep("nap", 100).wait("go", timeout=1000, default="none")
        return self._step(flow, "ship", "ship")

    @property
    def two(self) -> Workflow[Any, Any]:
        flow = self._step(create_workflow("shop", version="2"), "pay", "pay")
        flow = flow.sleep("nap", 100).wait("confirm", signal="go", timeout=1000, default="none")
        flow = self._step(flow, "ship", "ship")
        flow = flow.step("thank", self.act("thank"))
        return flow.migrates_from(self.one, rename=RENAME, drop=DROP)


async def stored(engine: FluxEngine, run_id: str) -> StoredRun:
    run = await engine.storage.load(run_id)
    assert run is not None
    return run


async def reaches(engine: FluxEngine, run_id: str, status: str, path: str = "") -> None:
    async def there() -> bool:
        result = await engine.get(run_id)
        return result.status == status and (not path or result.history[-1].path == path)

    await eventually(there)


async def crashed(cluster: Cluster, shop: Shop, *, crash_limit: int = 20) -> str:
    """A run of version 1 whose worker has died in a handler."""
    engine = await cluster.open(workflows=[shop.one], crash_limit=crash_limit)
    task = asyncio.create_task(engine.execute(shop.one, id="r"))
    await shop.entered.wait()
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    shop.hang.clear()
    return "r"


async def started(cluster: Cluster, shop: Shop) -> str:
    """A run of version 1, as far as it comes without time passing."""
    cluster.stand_still()
    engine = await cluster.open()
    await engine.execute(shop.one, id="r")
    await engine.close()
    return "r"


async def check_done(engine: FluxEngine, shop: Shop, run_id: str = "r", version: str = "2") -> None:
    """It has ended well, as a run of the new version."""
    result = await engine.get(run_id)
    assert (result.status, result.version) == ("completed", version)
    (listed,) = (await engine.list(name="shop", version=version)).runs
    assert listed.id == run_id and not (await engine.list(name="shop", version="1")).runs
    assert result.results["pay"] == "result of pay" and "charge" not in result.results
    assert "charge" not in [line.path for line in result.history]
    run = await stored(engine, run_id)
    assert sum(isinstance(record, RunMigrated) for row in run.rows for record in row.records) == 1
    assert all(len(keys) == 1 for keys in shop.keys.values()), shop.keys


# --- every state in which version 1 can leave a run


async def test_sleeping(cluster: Cluster) -> None:
    """S13, I38: a worker that has only the new version claims it once its timer is due; what it did is there under the new names,
    its data is kept, and a dropped step's too."""
    shop = Shop()
    run_id = await started(cluster, shop)
    engine = await cluster.open(workflows=[shop.two])
    poster = await cluster.open(drive_in_caller=False, workflows=[shop.two])
    async with engine.worker():
        await cluster.clock.advance(seconds=101)
        await reaches(engine, run_id, "suspended", "confirm")
        assert (await engine.get(run_id)).waiting_for == ("go",)
        await poster.signal(shop.two, run_id, "go", 5)
        await engine.handle(run_id).result(timeout=60)
    await check_done(engine, shop)
    assert shop.effects.done == ["pay", "notify", "ship", "thank"]
    assert (await engine.get(run_id)).data == {"pay": 1, "notify": 1, "ship": 1, "thank": 1}


async def test_waiting(cluster: Cluster) -> None:
    """S13, S7: the wait goes on under its new name, with the signal that senders know and the timeout it began with."""
    shop = Shop()
    run_id = await started(cluster, shop)
    first = await cluster.open(workflows=[shop.one])
    async with first.worker():
        await cluster.clock.advance(seconds=101)
        await reaches(first, run_id, "suspended", "go")
    late = (await first.get(run_id)).wake_at
    engine = await cluster.open(workflows=[shop.two])
    result = await engine.get(run_id)
    assert (result.version, result.waiting_for, result.wake_at, result.history[-1].path) == ("1", ("go",), late, "confirm")
    await engine.signal(shop.two, run_id, "go", 5)
    await check_done(engine, shop)
    assert (await engine.get(run_id)).results["confirm"] == 5 and shop.effects.done == ["pay", "notify", "ship", "thank"]


async def test_waiting_until_its_timeout(cluster: Cluster) -> None:
    """S13, S8: a timer that was set under the old version fires under the new one, at its time."""
    shop = Shop()
    run_id = await started(cluster, shop)
    first = await cluster.open(workflows=[shop.one])
    async with first.worker():
        await cluster.clock.advance(seconds=101)
        await reaches(first, run_id, "suspended", "go")
    engine = await cluster.open(workflows=[shop.two])
    async with engine.worker():
        await cluster.clock.advance(seconds=990)
        assert (await engine.get(run_id)).status == "suspended"
        await cluster.clock.advance(seconds=20)
        await engine.handle(run_id).result(timeout=60)
    await check_done(engine, shop)
    assert (await engine.get(run_id)).results["confirm"] == "none"


async def test_retrying(cluster: Cluster) -> None:
    """S13, S4: a step between two attempts goes on under its new name, with the attempts it has used and its key."""
    shop = Shop()
    shop.fail = {"pay"}
    run_id = await started(cluster, shop)
    shop.fail = set()
    engine = await cluster.open(workflows=[shop.two])
    async with engine.worker():
        await cluster.clock.advance(seconds=601)
        await reaches(engine, run_id, "suspended", "nap")
    line = (await engine.get(run_id)).history[0]
    assert (line.path, line.attempts) == ("pay", 2) and shop.effects.done == ["pay", "pay"]
    assert (await engine.resume(shop.two, run_id)).status == "suspended"
    await cluster.clock.advance(seconds=101)
    assert (await engine.resume(shop.two, run_id)).waiting_for == ("go",)
    await engine.signal(shop.two, run_id, "go")
    await check_done(engine, shop)
    assert shop.effects.done == ["pay", "pay", "ship", "thank"]  # `notify` was not reached yet, and is gone


async def test_standing_at_a_dropped_step(cluster: Cluster) -> None:
    """S13: a run whose dropped step is being retried goes on behind it, and what it may have done is undone in the end."""
    shop = Shop()
    shop.fail = {"notify"}
    run_id = await started(cluster, shop)
    engine = await cluster.open(workflows=[shop.two])
    result = await engine.resume(shop.two, run_id)
    assert (result.status, result.version, result.history[-1].path) == ("suspended", "2", "nap")
    assert (await engine.cancel(run_id)).status == "cancelled"
    assert shop.effects.done == ["pay", "notify", "undo pay"]  # it raised: nothing is in doubt


async def test_in_doubt(cluster: Cluster) -> None:
    """S13, S3.7, D2: an attempt that was lost with its process is taken up under the new name, with the same key."""
    shop = Shop()
    shop.hang = {"pay"}
    run_id = await crashed(cluster, shop)
    cluster.stand_still()
    engine = await cluster.open(workflows=[shop.two])
    async with engine.worker():
        await reaches(engine, run_id, "suspended", "nap")
    line = (await engine.get(run_id)).history[0]
    assert (line.path, line.attempts, shop.effects.done) == ("pay", 2, ["pay", "pay"]) and len(shop.keys["pay"]) == 1


@pytest.mark.parametrize("undone", [True, False], ids=["cancelled", "carried on"])
async def test_in_doubt_at_a_dropped_step(cluster: Cluster, undone: bool) -> None:
    """S13, D8: a dropped step that may have taken effect is not run again, and is compensated when the run goes down."""
    shop = Shop()
    shop.hang = {"notify"}
    run_id = await crashed(cluster, shop)
    cluster.stand_still()
    engine = await cluster.open(workflows=[shop.two])
    result = await engine.resume(shop.two, run_id)
    assert (result.status, result.history[-1].path, shop.effects.done) == ("suspended", "nap", ["pay", "notify"])
    if undone:
        assert (await engine.cancel(run_id)).status == "cancelled"
        assert shop.effects.done == ["pay", "notify", "undo notify", "undo pay"]
        return
    await cluster.clock.advance(seconds=101)
    await engine.resume(shop.two, run_id)
    await engine.signal(shop.two, run_id, "go")
    await check_done(engine, shop)


async def test_blocked(cluster: Cluster) -> None:
    """S13, D28: what one engine found not to fit, another one with the migration takes by itself."""
    shop = Shop()
    run_id = await started(cluster, shop)
    other = await cluster.open(workflows=[create_workflow("shop").step("z", shop.act("z"))])
    async with other.worker():
        await cluster.clock.advance(seconds=101)
        await reaches(other, run_id, "blocked")
    engine = await cluster.open(workflows=[shop.two])
    async with engine.worker():
        await reaches(engine, run_id, "suspended", "confirm")
    await engine.signal(shop.two, run_id, "go")
    await check_done(engine, shop)


async def test_blocked_by_a_migration_that_was_wrong(cluster: Cluster) -> None:
    """D28, S13: a migration from another shape than the runs have blocks them; with the right one, and the same steps, they go on."""
    shop = Shop()
    run_id = await started(cluster, shop)
    wrong_old = create_workflow("shop").step("charge", shop.act("pay")).sleep("rest", 100).wait("go")
    wrong = create_workflow("shop", version="2")
    for step in shop.two.steps:
        wrong = wrong._set(body=type(wrong.body)((*wrong.body.steps, step)))
    wrong = wrong.migrates_from(wrong_old, rename={**RENAME, "rest": "nap"})
    other = await cluster.open(workflows=[wrong])
    async with other.worker():
        await cluster.clock.advance(seconds=101)
        await reaches(other, run_id, "blocked")
    assert (await other.summary(run_id)).version == "1"
    engine = await cluster.open(workflows=[shop.two])
    async with engine.worker():
        await reaches(engine, run_id, "suspended", "confirm")
    await engine.signal(shop.two, run_id, "go")
    await check_done(engine, shop)


async def test_blocked_for_a_crash(cluster: Cluster) -> None:
    """S13, S3.7: a run that is blocked for a person stays so; `resume` with the new version moves it on as that."""
    shop = Shop()
    shop.hang = {"pay"}
    for _ in range(2):
        shop.hang.add("pay")
        shop.entered.clear()
        engine = await cluster.open(workflows=[shop.one], crash_limit=2)
        task = asyncio.create_task(engine.resume(shop.one, "r") if shop.effects.done else engine.execute(shop.one, id="r"))
        await shop.entered.wait()
        await cluster.crash(engine)
        await asyncio.gather(task, return_exceptions=True)
        await cluster.outlive()
    first = await cluster.open(workflows=[shop.one], crash_limit=2)
    async with first.worker():
        await reaches(first, "r", "blocked")
    shop.hang.clear()
    engine = await cluster.open(workflows=[shop.two])
    cluster.stand_still()
    await cluster.clock.advance(seconds=2)
    assert (await engine.get("r")).status == "blocked" and "'charge'" in ((await engine.get("r")).blocked_reason or "")
    result = await engine.resume(shop.two, "r")
    assert (result.status, result.version, result.history[-1].path) == ("suspended", "2", "nap")
    assert len(shop.keys["pay"]) == 1


async def test_compensating(cluster: Cluster) -> None:
    """S13, S10: a run on its way down is undone to its end under the new version: nothing twice, nothing left out, with its keys."""
    shop = Shop()
    shop.hang = {"undo notify"}
    cluster.stand_still()
    engine = await cluster.open(workflows=[shop.one])
    await engine.execute(shop.one, id="r")
    task = asyncio.create_task(engine.cancel("r"))
    await shop.entered.wait()
    await cluster.crash(engine)
    await asyncio.gather(task, return_exceptions=True)
    await cluster.outlive()
    shop.hang.clear()
    after = await cluster.open(workflows=[shop.two])
    async with after.worker():
        await reaches(after, "r", "cancelled")
    assert shop.effects.done == ["pay", "notify", "undo notify", "undo notify", "undo pay"]
    result = await after.get("r")
    assert result.version == "2" and {line.path: str(line.status) for line in result.history}["pay"] == "compensated"
    assert len(shop.keys["undo pay"]) == 1 and shop.keys["undo pay"] == {f"{key}!undo" for key in shop.keys["pay"]}


@pytest.mark.parametrize("failing", ["pay", "notify", "ship"])
async def test_failed_and_then_retried(cluster: Cluster, failing: str) -> None:
    """S13, S12.2, D3: a run that failed under the old version is retried under the new one, which it is then of."""
    shop = Shop()
    shop.fail = {failing}
    engine = await cluster.open(workflows=[shop.one])
    async with engine.worker():
        handle = await engine.start(shop.one, id="r")
        await engine.signal(shop.one, "r", "go", 5)
        await reaches(engine, "r", "failed")
    await engine.close()
    shop.fail.clear()
    after = await cluster.open(workflows=[shop.two])
    assert (await after.get(handle.id)).version == "1"
    shop.effects.done.clear()
    await after.retry(shop.two, "r")
    async with after.worker():
        await after.handle("r").result(timeout=60)
    result = await after.get("r")
    assert (result.status, result.version) == ("completed", "2")
    assert [line.path for line in result.history if line.path != "notify"] == ["pay", "nap", "confirm", "ship", "thank"]
    assert "notify" not in shop.effects.done and shop.effects.done[-2:] == ["ship", "thank"]


async def test_what_has_ended_stays(cluster: Cluster) -> None:
    """S13: an ended run of the old version is read under the new names, and not moved to it."""
    shop = Shop()
    engine = await cluster.open(workflows=[shop.one])
    async with engine.worker():
        await engine.start(shop.one, id="r")
        await engine.signal(shop.one, "r", "go", 5)
        await reaches(engine, "r", "completed")
    after = await cluster.open(workflows=[shop.two])
    result = await after.resume(shop.two, "r")
    assert (result.status, result.version) == ("completed", "1")
    assert [line.path for line in result.history] == ["pay", "notify", "nap", "confirm", "ship"]


@pytest.mark.parametrize("way", ["go", "cancel"])
async def test_the_doctor_without_its_code(cluster: Cluster, way: str) -> None:
    """I15, I38: where neither version is registered, a migrated run is reported as that, and nobody is told to restore a backup."""
    shop = Shop()
    run_id = await started(cluster, shop)
    engine = await cluster.open(workflows=[shop.two])
    await cluster.clock.advance(seconds=101)
    await engine.resume(shop.two, run_id)
    shop.fail = {"ship", "undo pay"}
    await (engine.signal(shop.two, run_id, "go") if way == "go" else engine.cancel(run_id))
    report = await (await cluster.open()).doctor()
    assert list(report.counts) in (["unknown workflow"], []) and (await engine.doctor()).healthy
    assert report.counts or (await engine.get(run_id)).finished


# --- who takes what


async def test_a_registered_version_runs_its_own(cluster: Cluster) -> None:
    """S13.3: an engine with both versions leaves runs of the old one to the old one."""
    shop = Shop()
    run_id = await started(cluster, shop)
    engine = await cluster.open(workflows=[shop.two, shop.one])
    async with engine.worker():
        await cluster.clock.advance(seconds=101)
        await reaches(engine, run_id, "suspended", "go")
        await engine.signal(shop.two, run_id, "go")
        await reaches(engine, run_id, "completed")
    assert (await engine.get(run_id)).version == "1" and "thank" not in shop.effects.done


async def test_an_old_engine_leaves_migrated_runs(cluster: Cluster) -> None:
    """I37, S16: it neither claims a migrated run nor hinders it, and can still show it."""
    shop = Shop()
    run_id = await started(cluster, shop)
    new, old = await cluster.open(workflows=[shop.two]), await cluster.open(workflows=[shop.one])
    await cluster.clock.advance(seconds=101)
    assert (await new.resume(shop.two, run_id)).version == "2"
    before = (await stored(new, run_id)).header
    async with old.worker():
        poster = await cluster.open(drive_in_caller=False)
        await poster.signal(shop.two, run_id, "go", 5)
        other = create_workflow("other").step("o", shop.act("o"))
        await (await old.start(other)).result(timeout=60)
        await cluster.clock.advance(minutes=60)
        after = (await stored(new, run_id)).header
        assert (after.epoch, after.position, after.version) == (before.epoch, before.position, "2")
        shown = await old.get(run_id)
        assert (shown.version, shown.status, shown.waiting_for) == ("2", "suspended", ("go",))
        async with new.worker():
            await new.handle(run_id).result(timeout=60)
    await check_done(new, shop)
    shown = await old.get(run_id)
    assert shown.status == "completed" and shown.results["ship"] == "result of ship" and shown.results["confirm"] == 5


async def test_the_way_through_three_versions(cluster: Cluster) -> None:
    """S13: a chain of migrations leads runs of every older version to the newest, also one after the other."""
    shop = Shop()
    three = create_workflow("shop", version="3")
    three = shop._step(three, "settle", "pay").sleep("nap", 100).wait("confirm", signal="go", timeout=1000, default="none")
    three = shop._step(three, "ship", "ship").step("thank", shop.act("thank")).migrates_from(shop.two, rename={"pay": "settle"})
    run_id = await started(cluster, shop)
    second = await cluster.open(workflows=[shop.two])
    await second.execute(shop.two, id="r2")
    await cluster.clock.advance(seconds=101)
    engine = await cluster.open()
    await engine.execute(shop.one, id="r1")
    await second.resume(shop.two, run_id)  # it goes by way of 2, r1 does not
    last = await cluster.open(workflows=[three])
    async with last.worker():
        await cluster.clock.advance(seconds=101)
        for one in (run_id, "r1", "r2"):
            await last.signal(three, one, "go", one)
            await last.handle(one).result(timeout=60)
            result = await last.get(one)
            assert (result.version, result.results["settle"], result.results["confirm"]) == ("3", "result of pay", one)
            assert [line.path for line in result.history if line.path != "notify"] == ["settle", "nap", "confirm", "ship", "thank"]
            assert "charge" not in result.results and (await last.summary(one)).version == "3"
    assert len(shop.keys["pay"]) == 3  # one a run


# --- refused where it is declared


def plain(name: str = "m", version: str = "1", steps: str = "a b c") -> Workflow[Any, Any]:
    flow = create_workflow(name, version=version)
    for step in steps.split():
        flow = flow.step(step, Effects().step(step))
    return flow


def steps(flow: Any, **after: tuple[str, ...]) -> Any:
    for name, names in after.items():
        flow = flow.step(name, Effects().step(name), after=names)
    return flow


def graph(version: str = "1", **after: tuple[str, ...]) -> Workflow[Any, Any]:
    flow: Workflow[Any, Any] = steps(create_workflow("m", version=version), **after)
    return flow


@pytest.mark.parametrize(
    ("old", "new", "options"),
    [
        (plain(), graph("2", a=(), b=("a",), c=("a",), d=("b", "c")), {}),
        (graph(a=(), b=(), c=("b",), d=("c", "a")), graph("2", x=(), c=(), d=("x", "c"), e=("d",)), {"drop": ["b"], "rename": {"a": "x"}}),
        (graph(a=(), b=("a",), c=("b",)), graph("2", a=(), c=("a",)), {"drop": ["b"]}),
        (graph(a=(), b=("a",), c=("b",)), plain(version="2", steps="a b c d"), {}),
    ],
)
def test_graphs_that_ask_for_no_more(old: Any, new: Any, options: Any) -> None:
    """S13: a step of a graph goes on where what it comes after now had ended before it in the old version too."""
    assert new.migrates_from(old, **options).migrations


@pytest.mark.parametrize(
    ("old", "new", "options", "words"),
    [
        (plain(steps="a b"), plain(version="2", steps="a c"), {}, "a run that has reached 'b'"),
        (plain(steps="a b"), plain(version="2", steps="a"), {}, "a run that has reached 'b'"),
        (plain(steps="a b"), plain(version="2", steps="new a b"), {}, "a run that has reached 'a'"),
        (plain(steps="a b"), plain(version="2", steps="b a"), {}, "a run that has reached 'a'"),
        (plain(steps="a b"), plain(version="2", steps="a x"), {"rename": {"b": "y"}}, "a run that has reached 'b'"),
        (plain(steps="a b"), plain(version="2", steps="a b"), {"drop": ["b"]}, "'b' was dropped"),
        (plain(steps="a b"), plain(version="2", steps="a b"), {"drop": ["z"]}, "no step 'z'"),
        (plain(steps="a b"), plain(version="2", steps="a b"), {"rename": {"z": "a"}}, "no step 'z'"),
        (plain(steps="a b"), plain(version="2", steps="a c"), {"rename": {"b": "c"}, "drop": ["b"]}, "'b' is renamed and dropped"),
        (plain(steps="a b"), plain(version="2", steps="a c"), {"rename": {"b": "a/c"}}, "keeps a step where it stands"),
        (plain(steps="a b"), plain(version="2", steps="a c"), {"rename": {"b": "c!"}}, "the new name of 'b'"),
        (plain(version="2"), plain(version="2"), {}, "another version"),
        (plain(name="other"), plain(version="2"), {}, "another version"),
        (plain(steps="a").wait("w"), plain(version="2", steps="a w"), {}, "a run that has reached 'w' does not fit: it was a 'wait'"),
        (plain(steps="a").wait("w"), plain(version="2", steps="a").wait("v"), {"rename": {"w": "v"}}, "reached 'w'.*while it waits.*'w'"),
        (
            plain(steps="a").step("b", Effects().step("b"), compensate=Effects().step("u")),
            plain(version="2", steps="a b"), {}, "a run that has reached 'b' does not fit while it is undone",
        ),
        (
            plain(steps="a").step("b", Effects().step("b"), probe=Effects().step("p")),
            plain(version="2", steps="a b"), {}, "a run that has reached 'b' does not fit while it is asked after",
        ),
        (
            plain(steps="a").wait("w", timeout=5, on_timeout=Effects().step("late")),
            plain(version="2", steps="a").wait("w"), {}, "a run that has reached 'w' does not fit: the new version has no such on_timeout=",
        ),
        (
            graph(a=(), b=(), c=("a", "b")), plain(version="2"), {}, "reached 'b' does not fit: it could begin before 'a' there",
        ),
        (graph(a=(), b=(), c=("b",)), graph("2", a=(), b=(), c=("a",)), {}, "reached 'c' does not fit: it could begin before 'a'"),
        (
            create_workflow("m").parallel("p", x=steps(branch(), a=(), b=())), create_workflow("m", version="2").parallel(
                "p", x=branch().step("a", Effects().step("a")).step("b", Effects().step("b"))
            ), {}, "a run that has reached 'p/x/b' does not fit: it could begin before 'a'",
        ),
    ],
)  # fmt: skip
def test_refused_migrations(old: Any, new: Any, options: Any, words: str) -> None:
    """S13: what does not fit is refused where it is declared, and the message names the state of a run that could not go on."""
    with pytest.raises(InvalidWorkflow, match=words):
        new.migrates_from(old, **options)


def test_what_is_no_workflow() -> None:
    """S13: neither is a name, nor a text for the list of what is dropped."""
    with pytest.raises(InvalidWorkflow, match="takes a workflow"):
        plain(version="2").migrates_from("m")  # type: ignore[arg-type]
    with pytest.raises(InvalidWorkflow, match="drop must be a list"):
        plain(version="2", steps="a").migrates_from(plain(), drop="bc")
    for options, words in (
        ({"drop": 5}, "drop must be a list"), ({"drop": [["b"]]}, "drop must be a list"), ({"rename": [("b", "c")]}, "must be a mapping"),
        ({"rename": {"b": 5}}, "rename maps paths to paths"), ({"rename": {5: "b"}}, "rename maps paths to paths"),
    ):  # fmt: skip
        with pytest.raises(InvalidWorkflow, match=words):
            plain(version="2").migrates_from(plain(), **options)  # type: ignore[arg-type]

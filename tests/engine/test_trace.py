"""A run's events in a file, one line each (D26, S15.5, S16)."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flux import Event, FluxEngine, Hooks, InvalidArgument, Retry, TraceFile, create_workflow

from .cluster import Cluster, Effects
from .test_hooks import recording

pytestmark = pytest.mark.anyio

AT_ONCE = Retry(initial=0, jitter=False)
CANARY = "canary-4711"
NOW = datetime.fromisoformat("2026-01-02T03:04:05+00:00")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


async def flaky(ctx: Any) -> None:
    if ctx.attempt == 1:
        raise OSError(f"{CANARY}\nsecond line \ud800")


def story(effects: Effects) -> Any:
    return (
        create_workflow("story", version="3")
        .step("a", flaky, retry=AT_ONCE, compensate=effects.step("undo"))
        .step("b", effects.step("b"), when=lambda ctx: False)
        .wait("go")
        .step("c", effects.step("c", error=ValueError(CANARY)), retries=0)
    )


async def tell(cluster: Cluster, *hooks: Hooks) -> str:
    engine = await cluster.open(hooks=hooks)
    flow = story(Effects())
    run_id = (await engine.execute(flow, {"card": CANARY})).id
    await engine.signal(flow, run_id, "go", CANARY)
    await engine.close()
    return run_id


async def test_every_event_is_a_line(cluster: Cluster, tmp_path: Path) -> None:
    """D26: what hooks are told stands in the file when the engine is closed, in order; empty fields are left out."""
    told: list[Event] = []
    path = tmp_path / "trace.ndjson"
    run_id = await tell(cluster, TraceFile(path), recording(told, False))
    found = lines(path)
    assert [(line["event"], line.get("path", ""), line.get("attempt", 0)) for line in found] == [(e.name, e.path, e.attempt) for e in told]
    assert {(line["run_id"], line["workflow"], line["version"]) for line in found} == {(run_id, "story", "3")}
    for line, event in zip(found, told, strict=True):
        at = datetime.fromisoformat(line["at"])
        assert at == event.at and at.utcoffset() == timedelta(0) and len(line["at"]) == len("2026-01-02T03:04:05.000000+00:00")
    assert found[0].keys() == {"at", "event", "run_id", "workflow", "version"}
    assert {line["error"] for line in found if "error" in line} == {"OSError", "ValueError"} and path.read_bytes().endswith(b"}\n")


async def test_no_values_and_no_texts_of_errors(cluster: Cluster, tmp_path: Path) -> None:
    """S16: unless one asks for them; and then they are texts of errors alone."""
    quiet, loud = tmp_path / "quiet", tmp_path / "loud"
    await tell(cluster, TraceFile(quiet), TraceFile(str(loud), messages=True))
    assert CANARY not in quiet.read_text() and all("message" not in line for line in lines(quiet))
    messages = {line["event"]: line["message"] for line in lines(loud) if "message" in line}
    assert messages == {"step_retried": f"{CANARY}\nsecond line \ud800", "step_failed": CANARY, "run_compensating": CANARY}
    assert [line["event"] for line in lines(loud)] == [line["event"] for line in lines(quiet)]


async def test_a_blocked_run_names_its_reason(cluster: Cluster, tmp_path: Path) -> None:
    """S16: the class, not the words, which may quote an error."""
    path = tmp_path / "trace"
    flow = create_workflow("blocks", on_compensation_failure="block").step(
        "a", Effects().step("a"), compensate=Effects().step("undo", error=ValueError(CANARY)), compensate_retries=0
    )
    engine = await cluster.open(hooks=[TraceFile(path)])
    assert (await engine.execute(flow.step("b", Effects().step("b", error=KeyError("x")), retries=0))).status == "blocked"
    await engine.close()
    blocked = next(line for line in lines(path) if line["event"] == "run_blocked")
    assert blocked["error"] and CANARY not in path.read_text()


def test_every_event_there_is() -> None:
    """D26: also those that hooks learn later on: the class follows `Hooks`."""
    names = [name for name in vars(Hooks) if not name.startswith("_")]
    assert len(names) >= 16 and all(getattr(TraceFile, name) is not getattr(Hooks, name) for name in names)


def event(name: str = "step_started", **fields: Any) -> Event:
    return Event(name, "r", "flow", "1", NOW, **fields)


def test_an_event_that_nobody_knew(tmp_path: Path) -> None:
    """D26: nothing here depends on names."""
    path = tmp_path / "trace"
    TraceFile(path).write(event("run_forked"))
    assert lines(path) == [
        {"at": "2026-01-02T03:04:05.000000+00:00", "event": "run_forked", "run_id": "r", "workflow": "flow", "version": "1"}
    ]


def test_lines_are_appended_whole(tmp_path: Path) -> None:
    """Several threads, each with an object of its own or a shared one, lose and mix nothing; what was there stays."""
    path = tmp_path / "trace"
    TraceFile(path).write(event(path="first"))
    shared = TraceFile(path, messages=True)

    def write(number: int) -> None:
        trace = shared if number % 2 else TraceFile(path, messages=True)
        for n in range(100):
            trace.write(event(path=f"{number}-{n}", error="x" * 5_000))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(path)
    assert found[0]["path"] == "first" and sorted(line["path"] for line in found[1:]) == sorted(
        f"{m}-{n}" for m in range(6) for n in range(100)
    )


PROCESS = """
import sys
from flux import FluxEngine, TraceFile, create_workflow
import asyncio

async def main():
    flow = create_workflow("flow").step("a", step).step("b", step)
    async with FluxEngine(hooks=[TraceFile(sys.argv[1])]) as engine:
        for n in range(20):
            await engine.execute(flow, id=f"{sys.argv[2]}-{n}")

async def step(ctx):
    return None

asyncio.run(main())
"""


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Each line is one write, so those of several processes stand beside each other."""
    path = tmp_path / "trace"
    started = [subprocess.Popen([sys.executable, "-c", PROCESS, str(path), name]) for name in "ab"]
    assert [process.wait(60) for process in started] == [0, 0]
    found = lines(path)
    assert len(found) == 2 * 20 * 6 and {line["run_id"] for line in found} == {f"{name}-{n}" for name in "ab" for n in range(20)}


def test_a_line_that_was_cut(tmp_path: Path) -> None:
    """A disk that was full, or a writer that died: the next line begins on a line of its own."""
    path = tmp_path / "trace"
    path.write_text('{"at":"20')
    TraceFile(path).write(event())
    TraceFile(path).write(event())
    torn, *whole = path.read_text().splitlines()
    assert torn == '{"at":"20' and len(whole) == 2 and all(json.loads(line)["event"] == "step_started" for line in whole)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """S15.5: told once, counted, and told again when it is over; nothing is raised."""
    path = tmp_path / "trace"
    trace = TraceFile(path)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, line: write(file, line[:10]))
        trace.write(event())
        patch.setattr(os, "write", lambda file, line: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(3):
            trace.write(event())
    assert len(caplog.records) == 1 and "cannot be written" in caplog.text
    trace.write(event(path="after"))
    trace.write(event(path="later"))
    assert len(caplog.records) == 2 and "4 lines are missing" in caplog.text
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()[1:]] == ["after", "later"]


@pytest.mark.parametrize("place", ["missing/trace", ".", "file/trace"])
async def test_a_file_that_cannot_be_written(cluster: Cluster, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture) -> None:
    """S15.5, I46: the run and the other hooks do not notice; the log says it once."""
    (tmp_path / "file").write_text("")
    told: list[Event] = []
    run_id = await tell(cluster, TraceFile(tmp_path / place), recording(told, True))
    assert told[-1].name == "run_failed" and told[-1].run_id == run_id
    warnings = [record for record in caplog.records if record.name == "flux.hooks"]
    assert len(warnings) == 1 and warnings[0].levelno == logging.WARNING and "cannot be written" in caplog.text


async def test_nothing_is_left_open(tmp_path: Path) -> None:
    """The file can be taken away at any time, and is made anew; a new one is its owner's alone."""
    path = tmp_path / "trace"
    flow = create_workflow("flow").step("a", Effects().step("a"))
    for _ in range(2):
        async with FluxEngine(hooks=[TraceFile(path)]) as engine:
            await engine.execute(flow)
        assert [line["event"] for line in lines(path)] == ["run_started", "step_started", "step_completed", "run_completed"]
        if os.name == "posix":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert not [name for name in os.listdir("/dev/fd") if os.path.realpath(f"/dev/fd/{name}") == str(path)]
        path.rename(tmp_path / "rotated")


def test_a_pipe_will_do() -> None:
    """Such as the standard output of a container."""
    code = "from tests.engine.test_trace import event; from flux import TraceFile; TraceFile('/dev/stdout').write(event())"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["event"] == "step_started"


def test_arguments() -> None:
    """S15.7: refused at once rather than at every event."""
    with pytest.raises(InvalidArgument):
        TraceFile("a\0b")
    with pytest.raises(TypeError):
        TraceFile(5)  # type: ignore[arg-type]
    assert repr(TraceFile("x.ndjson")) == "<TraceFile x.ndjson>"


async def test_what_to_write_can_be_chosen(cluster: Cluster, tmp_path: Path) -> None:
    """A subclass that overrides `write` sees every event first."""

    class Failures(TraceFile):
        def write(self, event: Event) -> None:
            if event.error:
                super().write(event)

    await tell(cluster, Failures(tmp_path / "trace"))
    assert [line["event"] for line in lines(tmp_path / "trace")] == ["step_retried", "step_failed", "run_compensating"]

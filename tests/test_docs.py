"""The documents say what is so: their examples run, their links lead somewhere, and what they name is there.

The Python blocks of one `##` section of README.md or docs/guide.md, put together in order, are one script. It is run as it
stands in an empty directory, and whatever stands in a comment behind a `print(...)` must be what that prints.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import flux
from flux import Context, FluxEngine, RunResult, Workflow, create_workflow
from flux.testing import VirtualClock
from flux_storage import MemoryStorage

from .engine.cluster import Cluster, eventually

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
GUARANTEES = ROOT / "docs" / "guarantees.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"


# --- examples

_FENCE = re.compile(r"^```(\w*)$")
_SHOWN = re.compile(r"^\s*print\(.*\)  # (.+)$")


def scripts(document: Path) -> dict[str, str]:
    """The script of each section that has one, by heading; every line stands where it stands in the document."""
    found: dict[str, list[str]] = {}
    heading, language = "start", ""
    lines = document.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence is not None:
            language = "" if language else fence[1] or "text"
        elif language == "python":
            script = found.setdefault(heading, [""] * len(lines))
            script[number] = line
        elif not language and line.startswith("## "):
            heading = line[3:]
    return {title: "\n".join(script) for title, script in found.items()}


EXAMPLES = [
    pytest.param(document, title, script, id=f"{document.name}: {title}")
    for document in (ROOT / "README.md", ROOT / "docs" / "guide.md")
    for title, script in scripts(document).items()
]


@pytest.mark.parametrize(("document", "title", "script"), EXAMPLES)
def test_examples_run(
    document: Path, title: str, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they stand, and they print what they say."""
    module = ModuleType("docs_" + re.sub(r"\W", "_", f"{document.stem}_{title}"))
    monkeypatch.setitem(sys.modules, module.__name__, module)  # its classes can be found, as those of a script can
    monkeypatch.chdir(tmp_path)
    exec(compile(script, str(document), "exec"), vars(module))
    printed = capsys.readouterr().out.splitlines()
    expected = [match[1] for match in map(_SHOWN.match, script.splitlines()) if match is not None]
    assert [line for line in expected if line not in printed] == [], f"printed: {printed}"


def test_there_are_examples() -> None:
    """Neither document has lost its blocks."""
    names = [str(example.id) for example in EXAMPLES]
    assert sum(name.startswith("README.md") for name in names) >= 2
    assert sum(name.startswith("guide.md") for name in names) >= 10


# --- names, links and tests


@pytest.mark.parametrize("name", flux.__all__)
def test_public_names_have_docstrings(name: str) -> None:
    """Of their own, and so have their public methods and properties."""
    thing = getattr(flux, name)
    assert thing.__doc__, f"flux.{name} says nothing about itself"
    if inspect.isclass(thing) and thing.__module__.startswith("flux"):
        silent = [
            member
            for member, value in vars(thing).items()
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)) and not value.__doc__
        ]
        assert not silent, f"flux.{name}: {silent}"


_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """What a link into a document can lead to."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    """To a file that is there, and to a heading in it."""
    text = _CODE.sub("", document.read_text("utf-8"))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{document.name} links to {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_scripts_that_are_to_be_run_are_there(document: Path) -> None:
    """Every .py file in a shell block."""
    for block in re.findall(r"^```sh\n(.*?)^```$", document.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for script in re.findall(r"\bpython3? ([\w./-]+\.py)\b", block):
            assert (ROOT / script).exists(), script


def test_tests_that_are_named_exist() -> None:
    """Whatever a document calls a proof can be run."""
    known: dict[Path, set[str]] = {}
    for document in DOCUMENTS:
        for path, name in re.findall(r"\b(tests/[\w/]+\.py)::(\w+)", document.read_text("utf-8")):
            file = ROOT / path
            if file not in known:
                assert file.exists(), f"{document.name} names {path}"
                known[file] = functions(file)
            assert name in known[file], f"{document.name} names {path}::{name}"
    assert len(known) >= 10, "the guarantees name their tests"


def functions(file: Path) -> set[str]:
    """The names of the test functions of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, kinds)}


# --- the picture of the house


def test_the_module_map_is_complete() -> None:
    """Each module stands in it once, and each file that the document names is there."""
    text = ARCHITECTURE.read_text("utf-8")
    for path in re.findall(r"`((?:flux|flux_storage)/[\w/]+\.(?:py|sql))`", text):
        assert (ROOT / path).is_file(), path
    mapped = re.findall(r"^\| `((?:flux|flux_storage)/[\w/]+\.(?:py|sql))` \|", text, re.MULTILINE)
    files = [path for package in ("flux", "flux_storage") for kind in ("py", "sql") for path in (ROOT / package).rglob(f"*.{kind}")]
    modules = {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}
    assert sorted(mapped) == sorted(modules)


def test_the_floors_are_those_that_are_checked() -> None:
    """The document's list is the import contract's."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = next(one["layers"] for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    section = ARCHITECTURE.read_text("utf-8").partition("## Floors")[2].partition("\n## ")[0]
    drawn = [line.split("  ")[0] for line in section.partition("```text\n")[2].partition("\n```")[0].splitlines()]
    assert drawn == layers


# --- the table of writes

WRITES = ("create", "commit", "post", "take", "claim")  # the verbs that are write transactions


async def ok(ctx: Context) -> int:
    return 1


async def refuse(ctx: Context) -> None:
    raise OSError("no")


async def second_time_lucky(ctx: Context) -> int:
    if ctx.attempt == 1:
        raise OSError("not yet")
    return 1


calls: list[str] = []


async def second_call_lucky(ctx: Context) -> int:
    calls.append(ctx.path)
    if len(calls) == 1:
        raise OSError("not yet")
    return 1


async def took_effect(ctx: Context) -> int:
    return 1


hanging: list[str] = []


async def hang_once(ctx: Context) -> int:
    if ctx.attempt == 1:
        hanging.append(ctx.run_id)
        await asyncio.get_running_loop().create_future()
    return 1


def counting(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the writes of every MemoryStorage."""
    verbs: Counter[str] = Counter()

    def count(name: str) -> None:
        method = getattr(MemoryStorage, name)

        def call(*args: Any, **options: Any) -> Any:
            verbs[name] += 1
            return method(*args, **options)

        monkeypatch.setattr(MemoryStorage, name, call)

    for name in WRITES:
        count(name)
    return verbs


Act = Callable[[FluxEngine, Workflow[Any, Any], VirtualClock], Awaitable[RunResult]]


async def resume_later(engine: FluxEngine, workflow: Workflow[Any, Any], clock: VirtualClock) -> RunResult:
    await clock.advance(hours=2)
    return await engine.resume(workflow, "run-1")


ACTS: dict[str, Act] = {
    "signal": lambda engine, workflow, clock: engine.signal(workflow, "run-1", "go"),
    "cancel": lambda engine, workflow, clock: engine.cancel("run-1"),
    "resume": resume_later,
    "retry": lambda engine, workflow, clock: engine.retry(workflow, "run-1"),
    "replay": lambda engine, workflow, clock: engine.replay(workflow, "run-1"),
    "fork": lambda engine, workflow, clock: engine.fork(workflow, "run-1", from_step="b"),
    "skip": lambda engine, workflow, clock: engine.resolve("run-1", "b", "skip"),
    "again": lambda engine, workflow, clock: engine.resolve("run-1", "b", "retry"),
}


async def run_through(workflow: Workflow[Any, Any], *then: str | Workflow[Any, Any]) -> None:
    """Execute it, and do what it needs to end or to be blocked; from a workflow in between on, in an engine that has only that."""
    clock = VirtualClock()
    storage = MemoryStorage(clock=clock)
    calls.clear()
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(FluxEngine(storage))
        result = await engine.execute(workflow, id="run-1")
        for act in then:
            if isinstance(act, Workflow):
                workflow = act
                engine = await stack.enter_async_context(FluxEngine(storage))
            else:
                result = await ACTS[act](engine, workflow, clock)
        assert result.finished or result.status == "blocked" or not then


async def claim(crash: bool) -> None:
    """A run that a worker takes up; after a crash, another process's run."""
    workflow = create_workflow("flow").step("a", hang_once if crash else ok)
    hanging.clear()
    async with Cluster(None, VirtualClock()) as cluster:
        first = await cluster.open(workflows=[workflow])
        handle = await first.start(workflow, id="run-1")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(first.worker())
            if not crash:
                await handle.result()
                return
            await eventually(lambda: hanging)
            await cluster.crash(first)
            stack.pop_all()
        await cluster.outlive()
        second = await cluster.open(workflows=[workflow])
        assert (await second.resume(workflow, "run-1")).history[0].attempts == 2


flow = create_workflow("flow")
one = flow.step("a", ok)
waits = one.wait("go").step("b", ok)
newer = create_workflow("flow", version="2").step("a", ok).wait("go").step("c", ok).migrates_from(waits, rename={"b": "c"})
other = flow.wait("go").step("a", ok)
lucky = one.step("b", second_call_lucky, retries=0)
pivoted = flow.commit("a", ok, pivot=True).step("b", second_call_lucky, retries=0)
asked = flow.step("a", hang_once, timeout=1, probe=took_effect)
fails = flow.step("a", ok, compensate=ok).step("b", refuse, retries=0)
part = create_workflow("part").step("a", ok)
kept = flow.child("c", part).step("b", refuse, retries=0)
regretted = flow.child("c", create_workflow("part").step("a", ok, compensate=ok)).step("b", refuse, retries=0)

# What the table says -> a story with it, the same story without it.
Story = tuple[Any, ...]
STORIES: dict[str, tuple[Story, Story]] = {
    "a step or a commit step": ((one.commit("b", ok, when=lambda ctx: True),), (one,)),
    "a step whose `when` says no": ((one.step("b", ok, when=lambda ctx: False).step("c", ok),), (one.step("c", ok),)),
    "a retry": ((flow.step("a", second_time_lucky),), (one,)),
    "a wait, and the signal that ends it": ((one.wait("go").step("b", ok), "signal"), (one.step("b", ok),)),
    "a sleep that the call stays for": ((one.sleep("nap", seconds=5).step("b", ok),), (one.step("b", ok),)),
    "a longer sleep, carried on by `resume`": ((one.sleep("nap", hours=1).step("b", ok), "resume"), (one.step("b", ok),)),
    "a cancel of a run that waits": ((one.wait("go"), "cancel"), (one,)),
    "a compensation": ((fails,), (flow.step("a", ok).step("b", refuse, retries=0),)),
    "a probe, after a timeout": ((asked,), (one,)),
    "`retry` of a run that failed at its last step": ((lucky, "retry"), (lucky,)),
    "`replay` of a run with one commit step": ((one.commit("b", ok), "replay"), (one.commit("b", ok),)),
    "`fork` before the last step": ((one.step("b", ok), "fork"), (one.step("b", ok),)),
    "a failure behind the pivot, which blocks the run": ((pivoted,), (lucky,)),
    '`resolve` with `"skip"` or `"done"`, at the last step': ((pivoted, "skip"), (pivoted,)),
    '`resolve` with `"retry"`, at the last step': ((pivoted, "again"), (pivoted,)),
    "a child of one step, carried on by its parent's call": ((one.child("c", part).step("b", ok),), (one.step("b", ok),)),
    "the undoing of a child with one compensation": ((regretted,), (kept,)),
    "a migration of a run that is carried on": ((waits, newer, "signal"), (waits, "signal")),
    "a signal to a run that the code here does not fit": ((waits, other, "signal"), (one.wait("go"),)),
}


def table() -> dict[str, int]:
    """What the document says a thing costs, by its name."""
    section = GUARANTEES.read_text("utf-8").partition("## What is written, and when")[2].partition("\n## ")[0]
    return {row[0]: int(row[1]) for row in re.findall(r"^\| (.+?) \| (\d+) \|", section, re.MULTILINE)}


@pytest.mark.anyio
async def test_the_table_of_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """D7, S3.3: it says what is measured, and nothing that is not."""
    verbs = counting(monkeypatch)

    async def writes(story: Awaitable[None]) -> int:
        verbs.clear()
        await story
        return verbs.total()

    measured = {name: await writes(run_through(*story)) - await writes(run_through(*base)) for name, (story, base) in STORIES.items()}
    measured["`execute` of five steps, from start to end"] = await writes(
        run_through(one.step("b", ok).step("c", ok).step("d", ok).step("e", ok))
    )
    await claim(crash=False)  # its other claims are looks that find nothing
    await writes(claim(crash=False))
    measured["taking up a run that `start` made"] = min(verbs["claim"], 1) + verbs["commit"] - 1
    await writes(claim(crash=True))
    measured["taking over a run whose process died"] = verbs["take"] + verbs["commit"] - 2
    assert table() == measured

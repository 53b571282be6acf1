"""Children from the parent's side: started, listened to, signalled, and gone when a test ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from . import roles
from .outside import Effect, Story, check, read_effects, read_runs

# One warm process that has imported everything forks the others: a child costs 20 ms in place of 400.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.processes.roles"])

BOTH = pytest.mark.parametrize("places", ["sqlite", "postgres"], indirect=True)
POSTGRES = pytest.mark.parametrize("places", ["postgres"], indirect=True)

BOOKS = threading.Lock()  # starting a child looks after all others, and two threads must not read one exit code

SECONDS = 60.0  # after which a test gives up waiting; nothing here takes that long


class Child:
    """One process and its role."""

    def __init__(self, role: str, log: Path, effects: Path, kill_at: int, arguments: dict[str, Any]) -> None:
        self.role = role
        self.log = log
        self._words, theirs = CONTEXT.Pipe()
        self._heard: list[tuple[str, Any]] = []
        self._passed = 0  # of what was heard, when `says` last found its word
        self._process = CONTEXT.Process(target=roles.main, args=(role, str(log), str(effects), theirs, kill_at, arguments), daemon=True)
        with BOOKS:
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """What becomes ready when it ends."""
        return self._process.sentinel

    def says(self, word: str, *, seconds: float = SECONDS) -> Any:
        """Wait until it says this; what else it says meanwhile is passed over."""
        until = time.monotonic() + seconds
        while True:
            for said, value in self._heard[self._passed :]:
                self._passed += 1
                if said == word:
                    return value
            try:
                heard = self._hear(max(0.0, until - time.monotonic()))
            except EOFError:
                raise AssertionError(f"{self} ended before it said {word!r}:\n{self.output()}") from None
            assert heard, f"{self} did not say {word!r}:\n{self.output()}"

    def said(self, word: str) -> list[Any]:
        """What it has said under this word so far."""
        try:
            while self._hear(0):
                continue
        except (EOFError, ConnectionError):
            pass  # it has ended
        return [value for said, value in self._heard if said == word]

    def _hear(self, seconds: float) -> bool:
        heard = self._words.poll(seconds)
        if heard:
            self._heard.append(self._words.recv())
        return heard

    def allow(self) -> None:
        """Let the handler that holds go on."""
        self._words.send(None)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def lives(self, seconds: float) -> bool:
        """Whether it is still there after so long."""
        wait([self.sentinel], seconds)
        with BOOKS:
            return self._process.exitcode is None

    def ends(self, *, seconds: float = SECONDS) -> int:
        """Wait for its end; its exit code, negative for the signal that killed it."""
        assert not self.lives(seconds), f"{self} does not end:\n{self.output()}"
        assert self._process.exitcode is not None
        return self._process.exitcode

    def ends_well(self) -> None:
        """Wait for its end, which must be a good one."""
        assert self.ends() == 0, f"{self} ended badly:\n{self.output()}"

    def kill(self) -> None:
        """The end, at once; nothing if it has ended."""
        if self.lives(0):
            self.signal(signal.SIGKILL)
            self.ends()

    def output(self) -> str:
        """All that was logged by the children so far."""
        return self.log.read_text() if self.log.exists() else ""

    def __repr__(self) -> str:
        return f"<Child {self.role} {self._process.pid}>"


class World:
    """A database, a file of effects, a log, and the children that share them. `url`: of a schema on PostgreSQL; else it is a file."""

    def __init__(self, directory: Path, url: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.where = url or str(directory / "runs.db")
        self.effects_file = directory / "effects.txt"
        self.log = directory / "log.txt"
        self._children: list[Child] = []

    def child(self, role: str, *, kill_at: int = 0, **arguments: Any) -> Child:
        """Start one. `where`: another way to the database."""
        arguments.setdefault("where", self.where)
        child = Child(role, self.log, self.effects_file, kill_at, arguments)
        self._children.append(child)
        return child

    def does(self, role: str, **arguments: Any) -> Child:
        """Start one and wait for its good end."""
        child = self.child(role, **arguments)
        child.ends_well()
        return child

    def worker(self, **arguments: Any) -> Child:
        """A worker that is ready."""
        child = self.child("work", **arguments)
        child.says("ready")
        return child

    def effects(self, path: str | None = None) -> list[Effect]:
        """What happened, of one step or of all."""
        return [effect for effect in read_effects(self.effects_file) if path in (None, effect.path)]

    def check(self, *, ended: bool = True) -> dict[str, Story]:
        """What must hold of every run; the runs."""
        assert "database is locked" not in self.output()
        return check(self.where, self.effects_file, ended=ended)

    def runs(self) -> dict[str, Story]:
        """The runs as they stand."""
        return read_runs(self.where)

    def output(self) -> str:
        """All that was logged."""
        return self.log.read_text() if self.log.exists() else ""

    def until(self, condition: Callable[[], object], what: str, *, seconds: float = SECONDS) -> None:
        """Wait for what no child says. Looks after a hundredth of a second again, or at once when a child ends."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"{what}: not within {seconds:g} s:\n{self.output()}"
            wait([child.sentinel for child in self._children if child.lives(0)], 0.01)

    def told(self, child: Child) -> list[str]:
        """What one of them has logged."""
        return [line for line in self.output().splitlines() if line.startswith(f"{child.pid} ")]

    def close(self) -> None:
        """No child outlives its test."""
        for child in self._children:
            child.kill()

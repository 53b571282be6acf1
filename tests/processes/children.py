"""Children from the parent's side: started, listened to, signalled, and gone when a test ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from . import roles
from .outside import Effect, Story, check, read_effects

# One warm process that has imported everything forks the others: a child costs 20 ms in place of 400.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.processes.roles"])

BOOKS = threading.Lock()  # starting a child looks after all others, and two threads must not read one exit code

SECONDS = 60.0  # after which a test gives up waiting; nothing here takes that long


class Child:
    """One process and its role."""

    def __init__(self, role: str, log: Path, effects: Path, kill_at: int, arguments: dict[str, Any]) -> None:
        self.role = role
        self.log = log
        self._words, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=roles.main, args=(role, str(log), str(effects), theirs, kill_at, arguments), daemon=True)
        with BOOKS:
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def says(self, word: str, *, seconds: float = SECONDS) -> Any:
        """Wait until it says this; what else it says meanwhile is passed over."""
        until = time.monotonic() + seconds
        try:
            while self._words.poll(max(0.0, until - time.monotonic())):
                said, value = self._words.recv()
                if said == word:
                    return value
        except EOFError:
            raise AssertionError(f"{self} ended before it said {word!r}:\n{self.output()}") from None
        raise AssertionError(f"{self} did not say {word!r}:\n{self.output()}")

    def allow(self) -> None:
        """Let the handler that holds go on."""
        self._words.send(None)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def lives(self, seconds: float) -> bool:
        """Whether it is still there after so long."""
        wait([self._process.sentinel], seconds)
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
    """A database, a file of effects, a log, and the children that share them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.database = directory / "runs.db"
        self.effects_file = directory / "effects.txt"
        self.log = directory / "log.txt"
        self._children: list[Child] = []

    def child(self, role: str, *, kill_at: int = 0, **arguments: Any) -> Child:
        """Start one."""
        arguments["path"] = str(self.database)
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
        return check(self.database, self.effects_file, ended=ended)

    def output(self) -> str:
        """All that was logged."""
        return self.log.read_text() if self.log.exists() else ""

    def close(self) -> None:
        """No child outlives its test."""
        for child in self._children:
            child.kill()

"""Where each side runs: a virtual environment of its own with every package pinned, made on demand under `benchmarks/.envs`.

What is pinned stands in `requirements/NAME.txt`; an environment is made anew when that or the interpreter has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".envs"
REQUIREMENTS = HERE / "requirements"
LAST_WORDS = 400  # characters of an installer's complaint that are worth showing


class Unavailable(Exception):
    """What a side needs cannot be had here; says why, for the report."""


def python(name: str) -> Path:
    """The interpreter of the environment of that name, made first if need be. Raises Unavailable."""
    home = ENVIRONMENTS / name
    program = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = _mark((REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8") + sys.version)
    if not (home / "mark").exists() or (home / "mark").read_text() != wanted:
        print(f"making the environment {name}", flush=True)
        _fresh(home)
        _call(sys.executable, "-m", "venv", str(home))
        _call(str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS / f"{name}.txt"))
        (home / "mark").write_text(wanted)
    return program


def node_program(name: str) -> Path:
    """A program from the npm packages of `requirements/package.json`. Raises Unavailable."""
    home = ENVIRONMENTS / "node"
    text = (REQUIREMENTS / "package.json").read_text(encoding="utf-8")
    if not (home / "mark").exists() or (home / "mark").read_text() != _mark(text):
        if shutil.which("npm") is None:
            raise Unavailable("needs node and npm, which are not installed here")
        print("making the environment node", flush=True)
        _fresh(home)
        (home / "package.json").write_text(text, encoding="utf-8")
        _call("npm", "install", "--silent", "--no-audit", "--no-fund", cwd=home)
        (home / "mark").write_text(_mark(text))
    return home / "node_modules" / ".bin" / name


def versions(name: str) -> dict[str, str]:
    """What is pinned for an environment, by package."""
    if name == "node":
        found: dict[str, str] = json.loads((REQUIREMENTS / "package.json").read_text(encoding="utf-8"))["dependencies"]
        return found
    pins = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").split()
    return dict(pin.split("==", 1) for pin in pins if "==" in pin)


def _fresh(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (ENVIRONMENTS / ".gitignore").write_text("*\n")


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _call(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "warn" not in line.lower()]
        raise Unavailable(f"could not be installed: {' '.join(errors)[-LAST_WORDS:].strip()}")

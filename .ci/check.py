"""Everything that must hold before a change lands: `python3 .ci/check.py`.

Makes `.venv` beside the project when there is none, installs the project with its development extra, then runs format and lint
checks, types, import contracts and all tests. `--fast` leaves out the types.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")


LONGEST = 45 * 60  # seconds for one command: what takes longer hangs


def call(*words: str) -> int:
    """Run a command in the project's environment, showing it."""
    print("$", *words, flush=True)
    try:
        return subprocess.run([str(BIN / words[0]), *words[1:]], cwd=ROOT, check=False, timeout=LONGEST).returncode
    except subprocess.TimeoutExpired:
        print(f"ended after {LONGEST} s", flush=True)
        return 1


def prepare() -> None:
    """The environment, with this checkout installed in it."""
    if sys.version_info < (3, 11):  # noqa: UP036  # run by whatever python3 is there
        sys.exit(f"flux needs Python 3.11 or later, this is {sys.version.split()[0]}")
    if not (BIN / "python").exists() and not (BIN / "python.exe").exists():
        venv.create(ENVIRONMENT, with_pip=True)
    if call("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", ".[dev]"):
        sys.exit("the environment could not be made")


def main(arguments: list[str]) -> int:
    """Run every check; the number of those that failed."""
    prepare()
    checks = [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("lint-imports",)]
    if "--fast" not in arguments:
        checks += [("mypy",), ("basedpyright",)]
    checks.append(("python", "-m", "pytest", "-n", "2", "--dist", "loadfile"))
    failed = [" ".join(check) for check in checks if call(*check)]
    print("failed: " + "; ".join(failed) if failed else "all checks passed", flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Signing up: an account, a mail, and a person who confirms at once, after a reminder, or never.

    python examples/user_signup.py

What to look for:
- the input is a dataclass. What does not fit it, or what `validate` refuses, never becomes a run; the error names the field.
- the id of a run says whom it is about, so the button that is pressed twice makes one run.
- a wait with a `timeout=` goes on in a branch: a reminder, and a second wait for the same signal.
- nobody confirms: the second wait has no way out, so the run fails, and creating the account is undone.
- its days pass in a moment, because the storage has a `VirtualClock`, as in tests (tests/test_examples.py); without it they are days.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from flux import Context, FluxEngine, InvalidInput, NonRetryable, RunResult, branch, create_workflow
from flux.testing import VirtualClock
from flux_storage import SQLiteStorage

HOME = Path(tempfile.gettempdir())  # the users' database and the outgoing mails; main() chooses a fresh directory


@dataclass
class Signup:
    email: str
    name: str
    news: bool = False


@dataclass
class Confirmation:
    code: str


def check(signup: Signup) -> bool:
    """What types cannot say. False, or an exception, refuses the input."""
    name, _, host = signup.email.partition("@")
    return bool(name) and "." in host


def users() -> closing[sqlite3.Connection]:
    """The site's own database."""
    db = sqlite3.connect(HOME / "users.db", isolation_level=None)
    db.execute("CREATE TABLE IF NOT EXISTS users (email TEXT PRIMARY KEY, name TEXT, active INTEGER, made_by TEXT)")
    return closing(db)


def create_account(ctx: Context[Signup]) -> str:
    """A second attempt finds what the first has made by its key, and only somebody else's account is in the way."""
    row = (ctx.input.email, ctx.input.name, ctx.idempotency_key)
    with users() as db:
        db.execute("INSERT OR IGNORE INTO users VALUES (?, ?, 0, ?)", row)
        (owner,) = db.execute("SELECT made_by FROM users WHERE email = ?", row[:1]).fetchone()
    if owner != ctx.idempotency_key:
        raise NonRetryable(f"{ctx.input.email} has an account already")
    return ctx.idempotency_key[:6]  # the code that the mail asks for


def delete_account(ctx: Context[Signup]) -> None:
    """Undoes `create_account`, if it did anything."""
    with users() as db:
        db.execute("DELETE FROM users WHERE made_by = ?", (ctx.idempotency_key.removesuffix("!undo"),))


def send(ctx: Context[Signup]) -> str:
    """A mail is a file here. It is named for the step, so that sending it again changes nothing; a mail service would get the key."""
    path = HOME / "outbox" / f"{ctx.input.email} {ctx.step}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"Hello {ctx.input.name}, please confirm. Your code is {ctx.results['account']}.\n")
    return path.name


def activate(ctx: Context[Signup]) -> str:
    """Where the first wait went into its branch, its result is what the branch's steps gave, by name."""
    answer: Any = ctx.results["confirmed"]
    confirmation: Confirmation = answer["after-reminder"] if isinstance(answer, dict) else answer
    if confirmation.code != ctx.results["account"]:
        raise NonRetryable(f"the code is not {confirmation.code}")
    with users() as db:
        db.execute("UPDATE users SET active = 1 WHERE email = ?", (ctx.input.email,))
    return "after a reminder" if isinstance(answer, dict) else "at once"


signup = (
    create_workflow("signup")
    .input(Signup)
    .validate(check)
    .step("account", create_account, compensate=delete_account)
    .commit("welcome", send)
    .wait(
        "confirmed",
        type=Confirmation,
        timeout=timedelta(days=2),
        on_timeout=branch()
        .commit("reminder", send)
        .wait("after-reminder", signal="confirmed", type=Confirmation, timeout=timedelta(days=5)),
    )
    .step("activate", activate)
)


def show(run: RunResult) -> None:
    waits = f", waits for {run.waiting_for[0]!r} until {run.wake_at:%A}" if run.waiting_for else ""
    print(f"   {run.input.name}: {run.status}{waits}" + (f", because {run.error}" if run.error else ""))
    print("     ", ", ".join(f"{line.name} {line.status}" for line in run.history))


async def confirm(engine: FluxEngine, name: str) -> RunResult:
    """What the page behind the link in the mail does."""
    code = (HOME / "outbox" / f"{name}@example.org welcome.txt").read_text().rpartition(" ")[2].strip(".\n")
    return await engine.signal(signup, f"signup-{name}@example.org", "confirmed", Confirmation(code))


async def main() -> None:
    clock = VirtualClock(autojump=False)  # it is Thursday, 1 January 2026, until we say otherwise
    storage = SQLiteStorage(HOME / "runs.db", clock=clock)
    async with FluxEngine(storage, workflows=[signup]) as engine, engine.worker():
        print("Thursday: four people sign up, one of them twice")
        for form in ({"email": "dan.example.org", "name": "Dan"}, {"email": "dan@example.org", "name": 7}):
            try:
                await engine.execute(signup, form)
            except InvalidInput as error:
                print(f"   Dan: {error}")
        for name in ("Ana", "Ben", "Cleo", "Cleo"):
            email = f"{name.lower()}@example.org"
            run = await engine.execute(signup, Signup(email, name), id=f"signup-{email}")
        show(run)
        show(await confirm(engine, "ana"))

        await clock.advance(days=2)
        print("Saturday: the others are reminded, and Ben confirms")
        for name in ("ben", "cleo"):  # the worker does it; this waits for it
            run = await engine.resume(signup, f"signup-{name}@example.org")
        show(run)
        show(await confirm(engine, "ben"))

        await clock.advance(days=5)
        print("Thursday again: Cleo has never answered")
        show(await engine.resume(signup, "signup-cleo@example.org"))
        print("runs:", len((await engine.list()).runs))
    with users() as db:
        print("users:", ", ".join(f"{name} <{email}>" for name, email in db.execute("SELECT name, email FROM users WHERE active")))
    print("mails:", ", ".join(sorted(path.stem for path in (HOME / "outbox").iterdir())))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())

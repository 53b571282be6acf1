"""Paths as a definition knows them: `poll[n]/fetch` stands for the step `fetch` of every turn of the loop `poll` (S1.3)."""

from __future__ import annotations

from collections.abc import Iterator

from .workflow import Body, Step

NTH = "[n]"  # of a turn or an item, whichever


def body_path(step: Step, path: str, name: str) -> str:
    """Where a body inside the step at `path` stands: `ok/on_timeout`, `prepare/label`, `poll[n]`."""
    return f"{path}{NTH}" if step.body is not None else f"{path}/{name}"


def step_path(body: Body, at: str, step: Step) -> str:
    """Where a step of the body at `at` stands ('' for the workflow's own). What was made from one handler is that body."""
    if body.single:
        return at
    return f"{at}/{step.name}" if at else step.name


def frames_around(path: str) -> Iterator[str]:
    """The keys of the sequences that a step at this path stands in, from the inside out: of `p/a/poll[3]/x` these are `p/a/poll[3]`,
    `p/a` and '' for the workflow's own."""
    keys = [""]
    at = ""
    parts = iter(path.partition("!")[0].split("/"))
    for part in parts:
        at = f"{at}/{part}" if at else part
        if part.endswith("]"):
            keys.append(at)
        elif (name := next(parts, None)) is not None:
            at = f"{at}/{name}"
            keys.append(at)
    return reversed(keys)


def pattern(path: str) -> str:
    """The path with `[n]` for every number."""
    if "[" not in path:
        return path
    start, *rest = path.split("[")
    return start + "".join(NTH + piece.partition("]")[2] if _counts(piece) else f"[{piece}" for piece in rest)


def numbered(plain: str, path: str) -> str:
    """The pattern `plain` with the numbers that `path` has, which has as many."""
    first, *rest = plain.split(NTH)
    return first + "".join([f"[{number}]{part}" for (_, number), part in zip(numbers(path), rest, strict=True)])


def numbers(path: str) -> Iterator[tuple[str, int]]:
    """The turns and items on the way to a path, from the outside in: whose, and which."""
    at = path.find("[")
    while at >= 0:
        piece = path[at + 1 :]
        if _counts(piece):
            yield path[:at], int(piece.partition("]")[0])
        at = path.find("[", at + 1)


def _counts(piece: str) -> bool:
    number, end, _ = piece.partition("]")
    return bool(end) and number.isascii() and number.isdecimal() and len(number) <= 18

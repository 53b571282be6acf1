"""Whether a declared migration fits: every state that a run of the old version can be in must go on under the new one (S13)."""

from __future__ import annotations

from dataclasses import replace

from .core.patterns import body_path, step_path
from .core.plan import Defaults, ports, renamed
from .core.workflow import Body, Definition, Kind, Migration, Step, is_graph
from .errors import InvalidWorkflow
from .labels import shown
from .names import check_name


def check_migration(new: Definition, migration: Migration, owner: str) -> None:
    """Raises InvalidWorkflow, which names the first state of the old version that does not fit, and why."""
    old = migration.old
    if not isinstance(old, Definition):
        raise InvalidWorkflow(f"{owner}: migrates_from takes a workflow, got {shown(old)}")
    if old.name != new.name or old.version == new.version:
        raise InvalidWorkflow(
            f"{owner}: a migration leads from another version of the same workflow; this is {new.name!r} {new.version}, "
            f"and the other {old.name!r} {old.version}"
        )
    where = f"{owner} {new.version}, migration from {old.version}"
    _check_names(migration, old, where)
    _check_body(old.body, new.body, migration, ("", ""), where)
    _check_ghosts(new, migration, where)


def _check_ghosts(new: Definition, migration: Migration, where: str) -> None:
    """Journals of all older versions tell of what they have dropped, under its last name: no other step may have that."""
    now = _paths(new.body)
    for version, port in ports(replace(new, migrations=(migration,)), (), Defaults()).items():
        gone = sorted(now & port.ghosts.keys())
        if gone:
            raise InvalidWorkflow(
                f"{where}: {gone[0]!r} was dropped on the way from {version}, but the new version has a step of that name: "
                "give it another name"
            )


def _check_names(migration: Migration, old: Definition, where: str) -> None:
    known = _paths(old.body)
    names = dict(migration.rename)
    for path, name in migration.rename:
        if not isinstance(path, str) or not isinstance(name, str):
            raise InvalidWorkflow(f"{where}: rename maps paths to paths, got {shown(path)} and {shown(name)}")
        check_name(name.rpartition("/")[2], f"{where}: the new name of {path!r}")
        above = path.rpartition("/")[0]
        if name.rpartition("/")[0] not in (above, renamed(above, names)):
            raise InvalidWorkflow(f"{where}: {path!r} cannot move to {name!r}: a rename keeps a step where it stands")
    named = [path for path, _ in migration.rename]
    for path in (*named, *sorted(migration.drop)):
        if path not in known:
            raise InvalidWorkflow(f"{where}: the old version has no step {path!r}; it has {', '.join(sorted(known))}")
    both = migration.drop & set(named)
    if both:
        raise InvalidWorkflow(f"{where}: {min(both)!r} is renamed and dropped")


def _paths(body: Body, at: str = "") -> frozenset[str]:
    """All that can be renamed or dropped by itself, `poll[n]/fetch` for every turn's: what was made from one handler is its body."""
    found: set[str] = set()
    for step in body.steps:
        path = step_path(body, at, step)
        found.update(() if body.single else (path,))
        for name, inner in step.bodies.items():
            found |= _paths(inner, body_path(step, path, name))
    return frozenset(found)


def _check_body(old: Body, new: Body, migration: Migration, at: tuple[str, str], where: str) -> None:
    """A run stands at any step of the old body, with all before it done: those must be the first steps of the new body. `at` is
    where the two bodies stand.
    """
    names = dict(migration.rename)
    before, needed = _ended_before(old), _ended_before(new)
    became: dict[str, str] = {}
    kept = 0
    for step in old.steps:
        path = step_path(old, at[0], step)
        if path in migration.drop:
            continue
        state = f"a run that has reached {path!r} does not fit"
        if kept >= len(new.steps):
            raise InvalidWorkflow(f"{where}: {state}: the new version has no step for it; rename it or drop it")
        there = new.steps[kept]
        new_path = step_path(new, at[1], there)
        if not old.single and there.name != names.get(path, path).rpartition("/")[2]:
            raise InvalidWorkflow(
                f"{where}: {state}: the new version has {new_path!r} in its place; rename or drop the old step, "
                "and let new steps come after all old ones"
            )
        became[step.name] = there.name
        early = needed[there.name] - {became[name] for name in before[step.name] if name in became}
        if early:
            raise InvalidWorkflow(f"{where}: {state}: it could begin before {min(early)!r} there, which it comes after now")
        _check_step(step, there, f"{where}: {state}")
        for name, inner in step.bodies.items():
            both = body_path(step, path, name), body_path(there, new_path, name)
            _check_body(inner, there.bodies[name], migration, both, where)
        kept += 1


def _ended_before(body: Body) -> dict[str, set[str]]:
    """For each step, by name, those beside it that have ended when it begins."""
    graph = is_graph(body)
    found: dict[str, set[str]] = {}
    for step in body.steps:
        names = (step.after or ()) if graph else tuple(found)
        found[step.name] = set(names).union(*(found[name] for name in names))
    return found


def _signal(wait: Step) -> str:
    return wait.signal or wait.name


def _check_step(old: Step, new: Step, state: str) -> None:
    if old.kind is not new.kind:
        raise InvalidWorkflow(f"{state}: it was a {old.kind.value!r} and is a {new.kind.value!r} now")
    if old.kind is Kind.WAIT and _signal(old) != _signal(new):
        raise InvalidWorkflow(
            f"{state} while it waits: senders know the signal {_signal(old)!r}, and the new version waits for {_signal(new)!r} there: "
            f"give it signal={_signal(old)!r}"
        )
    if old.compensate is not None and new.compensate is None:
        raise InvalidWorkflow(f"{state} while it is undone: the new version has no compensate= for it")
    if old.probe is not None and new.probe is None:
        raise InvalidWorkflow(f"{state} while it is asked after: the new version has no probe= for it")
    for name, body in old.bodies.items():
        there = new.bodies.get(name)
        if there is None:
            what = f"branch {name!r}" if old.branches else f"{name}="
            raise InvalidWorkflow(f"{state}: the new version has no such {what} for it")
        if there.single is not body.single:
            raise InvalidWorkflow(
                f"{state}: its {name} was {_made_from(body)} and is {_made_from(there)} now, whose steps have other paths"
            )


def _made_from(body: Body) -> str:
    return "one handler" if body.single else "a branch of steps"

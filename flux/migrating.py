"""Whether a declared migration fits: every state that a run of the old version can be in must go on under the new one (S13)."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from .core.plan import Defaults, ports
from .core.workflow import Body, Definition, Kind, Migration, Step
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
    _check_body(old.body, new.body, migration, "", "", where)
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
        check_name(name.rpartition("/")[2], f"{where}: the new name of {path!r}")
        above = path.rpartition("/")[0]
        if name.rpartition("/")[0] not in (above, _moved(above, names)):
            raise InvalidWorkflow(f"{where}: {path!r} cannot move to {name!r}: a rename keeps a step where it stands")
    named = [path for path, _ in migration.rename]
    for path in (*named, *sorted(migration.drop)):
        if path not in known:
            raise InvalidWorkflow(f"{where}: the old version has no step {path!r}; it has {', '.join(sorted(known))}")
    both = migration.drop & set(named)
    if both:
        raise InvalidWorkflow(f"{where}: {min(both)!r} is renamed and dropped")


def _moved(path: str, names: dict[str, str]) -> str:
    """This path with every step on the way to it under its new name."""
    ways = accumulate(path.split("/"), "{}/{}".format)
    return "/".join(names.get(way, way).rpartition("/")[2] for way in ways)


def _paths(body: Body, prefix: str = "") -> frozenset[str]:
    found: set[str] = set()
    for step in body.steps:
        found.add(f"{prefix}{step.name}")
        for name, inner in step.bodies.items():
            found |= _paths(inner, f"{prefix}{step.name}/" if inner.single else f"{prefix}{step.name}/{name}/")
    return frozenset(found)


def _check_body(old: Body, new: Body, migration: Migration, prefix: str, at: str, where: str) -> None:
    """A run stands at any step of the old body, with all before it done: those must be the first steps of the new body."""
    renamed = dict(migration.rename)
    index = 0
    for step in old.steps:
        path = f"{prefix}{step.name}"
        if path in migration.drop:
            continue
        name = renamed.get(path, path).rpartition("/")[2]
        state = f"a run that has reached {path!r} does not fit"
        if index >= len(new.steps):
            raise InvalidWorkflow(f"{where}: {state}: the new version has no step for it; rename it or drop it")
        there = new.steps[index]
        if there.name != name:
            raise InvalidWorkflow(
                f"{where}: {state}: the new version has {f'{at}{there.name}'!r} in its place; rename or drop the old step, "
                "and let new steps come after all old ones"
            )
        _check_step(step, there, path, f"{where}: {state}")
        for inner, body in step.bodies.items():
            way = "/" if body.single else f"/{inner}/"
            _check_body(body, there.bodies[inner], migration, f"{path}{way}", f"{at}{there.name}{way}", where)
        index += 1


def _signal(wait: Step) -> str:
    return wait.signal or wait.name


def _check_step(old: Step, new: Step, path: str, state: str) -> None:
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
        if there is None or there.single is not body.single:
            raise InvalidWorkflow(f"{state}: the new version has no such {name}= for it")

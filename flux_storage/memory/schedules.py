"""Schedules by name (contract 19)."""

from __future__ import annotations

from dataclasses import replace

from flux.storage import Schedule


class Schedules:
    """Those that there are, and the highest revision of those that were forgotten."""

    def __init__(self) -> None:
        self._kept: dict[str, Schedule] = {}
        self._forgotten = 0

    def put(self, schedule: Schedule) -> bool:
        """Make it, or replace it from the revision that was seen; whether that was the one."""
        known = self._kept.get(schedule.name)
        if schedule.revision != (0 if known is None else known.revision):
            return False
        revision = self._forgotten if known is None else known.revision
        self._kept[schedule.name] = replace(schedule, revision=revision + 1)
        return True

    def find(self, name: str | None, due: int | None, limit: int, after: str) -> list[Schedule]:
        """The one of that name; or those that are due, the earliest first; or a page by name."""
        if name is not None:
            found = [self._kept[name]] if name in self._kept else []
        elif due is not None:
            found = sorted([one for one in self._kept.values() if one.next_at is not None and one.next_at <= due], key=_urgency)
        else:
            found = [self._kept[known] for known in sorted(self._kept) if known > after]
        return [replace(one) for one in found[: max(limit, 0)]]

    def forget(self, name: str) -> bool:
        """Whether there was one."""
        known = self._kept.pop(name, None)
        if known is not None:
            self._forgotten = max(self._forgotten, known.revision)
        return known is not None


def _urgency(schedule: Schedule) -> tuple[int, str]:
    return schedule.next_at or 0, schedule.name

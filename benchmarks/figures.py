"""From single measurements to what is said of them: medians, spread, percent of the limit, ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from .plan import BESIDE, OWN, WORKLOADS, Figure, Scale, Workload, claim_figures
from .runner import Found

FLOOR, FLUX = "floor", "flux"


@dataclass(frozen=True)
class Line:
    """One row of a workload's table: what one subject reached on one storage.

    `values` by figure are all that was measured, `limits` by figure the part of the floor's speed that it reached, where there is a
    floor. `against` is how many times as fast flux was in the first figure; None where there is nothing to compare with.
    """

    workload: Workload
    storage: str
    subject: str
    values: dict[str, list[float]]
    limits: dict[str, float]
    against: float | None

    def middle(self, figure: str) -> float | None:
        """The median."""
        found = self.values.get(figure)
        return median(found) if found else None


def figures_of(workload: Workload, scale: Scale) -> tuple[Figure, ...]:
    """What its table shows."""
    return workload.figures or claim_figures(next(iter(scale.sizes[workload.key].values())))


def lines(found: Found, scale: Scale) -> Iterator[Line]:
    """All rows, in the order in which they are shown."""
    for workload in WORKLOADS:
        first = figures_of(workload, scale)[0]
        for storage in (*workload.storages, OWN):
            for (key, place, subject), values in found.values.items():
                if (key, place) == (workload.key, storage):
                    limits = {} if subject == FLOOR else _limits(found, (key, storage, FLOOR), values, figures_of(workload, scale))
                    yield Line(workload, storage, subject, values, limits, _against(found, key, storage, subject, values, first))


def _limits(found: Found, floor: tuple[str, str, str], values: dict[str, list[float]], figures: Sequence[Figure]) -> dict[str, float]:
    ratios = {figure.name: _ratio(found, floor, values, figure) for figure in figures if figure.unit in ("s", "/s")}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _against(found: Found, key: str, storage: str, subject: str, values: dict[str, list[float]], figure: Figure) -> float | None:
    if subject.startswith((FLUX, FLOOR)):
        return None
    slower = _ratio(found, (key, BESIDE.get(storage, storage), FLUX), values, figure)
    return None if not slower else 1 / slower


def _ratio(found: Found, other: tuple[str, str, str], values: dict[str, list[float]], figure: Figure) -> float | None:
    """How many times as fast these are as `other`."""
    theirs, mine = found.values.get(other, {}).get(figure.name), values.get(figure.name)
    if not theirs or not mine or not median(mine) or not median(theirs):
        return None
    quotient = over(mine, theirs)
    return 1 / quotient if figure.less else quotient


def over(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as much: the median of what each round says, so that a machine that drifts between rounds does not matter.

    Where one side was not measured in every round, the medians are compared.
    """
    if len(mine) == len(theirs) and all(theirs):
        return median(one / other for one, other in zip(mine, theirs, strict=True))
    return median(mine) / median(theirs)


def middle(found: Found, workload: str, storage: str, subject: str, figure: str) -> float | None:
    """One median, None when it was not measured."""
    values = found.values.get((workload, storage, subject), {}).get(figure)
    return median(values) if values else None


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Least, median, most."""
    return min(values), median(values), max(values)

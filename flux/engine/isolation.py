"""A worker to itself for a suspect: a step that was lost with its process again and again (D11)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..clock import Timer

if TYPE_CHECKING:
    from .driver import Driver
    from .host import Host

logger = logging.getLogger("flux.engine")

PATIENCE = 10.0  # seconds that a suspect waits for the attempts beside it to end, while no other starts
ALONE = 30.0  # seconds that nothing else starts beside a suspect that runs: a crash that comes later harms others, a long step does not
LATER = 30_000_000  # microseconds until a suspect that found no quiet worker tries again


class Isolation:
    """At most one suspect at a time runs in an engine; while it begins, no other attempt does."""

    __slots__ = ("_holder", "_host", "_open", "_timer", "active")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._holder: Driver | None = None
        self.active = False
        """Whether a suspect runs here, or wants to. An attribute: it is asked at every step."""
        self._open = True
        self._timer: Timer | None = None

    @property
    def closed(self) -> bool:
        """Whether something wants this engine to itself, or has it."""
        return not self._open

    def closed_to(self, driver: Driver) -> bool:
        """Whether this driver may start nothing now."""
        return not self._open and self._holder is not driver

    def held_by(self, driver: Driver) -> bool:
        """Whether this driver may start its suspect."""
        return self._holder is driver and self.reached

    def ask(self, driver: Driver) -> bool:
        """Let nothing else start from here on; False when another suspect came first."""
        if self._holder not in (None, driver):
            return False
        self._holder = driver
        self.active = True
        self._open = False
        return True

    @property
    def reached(self) -> bool:
        """Whether no attempt but the holder's is under way."""
        return all(not driver.state.calls for driver in self._host.drivers.values() if driver is not self._holder)

    def look(self) -> None:
        """An attempt has ended: this may be what the holder waits for."""
        if self._holder is not None and not self._open and self.reached:
            self._holder.poke_timer()

    def begin(self) -> None:
        """The suspect is about to start."""
        self._timer = self._host.clock.limit_later(ALONE, self.open)

    def leave(self, driver: Driver) -> None:
        """The driver's suspect has an outcome, or gave up waiting."""
        if self._holder is driver:
            self._holder = None
            self.active = False
            self.open()

    def open(self) -> None:
        """Others may start again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._open = True
        for driver in list(self._host.drivers.values()):
            driver.poke_timer()
        for worker in list(self._host.workers):
            worker.wake()

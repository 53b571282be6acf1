"""When to try again, and after how long (S4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Backoff: TypeAlias = Literal["exponential", "linear", "fixed"]
Errors: TypeAlias = tuple[type[BaseException], ...]

SECOND = 1_000_000  # microseconds, the core's unit of time

BUGS: Errors = (TypeError, NameError, AttributeError, ImportError)  # a bug is not a transient fault (D29)


@dataclass(frozen=True, slots=True)
class Retry:
    """How a step is tried again. How often is the step's `retries=`.

    The n-th delay is `initial * factor ** (n - 1)` (exponential), `initial * n` (linear) or `initial` (fixed), at most
    `maximum`, all in seconds; with `jitter` it is drawn evenly between 0 and that (S4.1). It is drawn once and recorded
    (S4.4). `retry_on` names the exceptions worth another try; `give_up_on` those that are not, to which
    TypeError, NameError, AttributeError and ImportError belong unless `retry_on` names them (D29). `max_elapsed`
    bounds the seconds from the step's first start to the last try.
    """

    backoff: Backoff = "exponential"
    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 60.0
    jitter: bool = True
    retry_on: Errors = (Exception,)
    give_up_on: Errors = ()
    max_elapsed: float | None = None

    def delay(self, failed: int, draw: float) -> int:
        """Microseconds until the next attempt after `failed` (≥ 1) that raised; `draw` in [0, 1)."""
        if self.backoff == "exponential":
            try:
                seconds = self.initial * float(self.factor) ** (failed - 1)
            except OverflowError:
                seconds = self.maximum if self.initial else 0.0
        elif self.backoff == "linear":
            seconds = self.initial * failed
        else:
            seconds = self.initial
        seconds = min(seconds, self.maximum)
        return int((seconds * draw if self.jitter else seconds) * SECOND)

    def wants(self, error: BaseException) -> bool:
        """Whether this error is worth another attempt."""
        if isinstance(error, self.give_up_on):
            return False
        if isinstance(error, BUGS):
            return any(isinstance(error, kind) for kind in self.retry_on if issubclass(kind, BUGS))
        return isinstance(error, self.retry_on)


SUSPECT = 3  # lost attempts in a row from which on the next runs alone in its worker (D11)


def crash_delay(lost: int) -> int:
    """Microseconds before the attempt that follows the `lost`-th lost one in a row (D11): 0, then 1, 2, 4 … 60 s."""
    return 0 if lost < 2 else min(60, 2 ** min(lost - 2, 6)) * SECOND

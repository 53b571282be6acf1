"""What went wrong, as a value the journal can keep (S3.9)."""

from __future__ import annotations

from dataclasses import dataclass

TEXT_LIMIT = 8 * 1024  # characters of message and of traceback text (S15.7)


@dataclass(slots=True)
class Failure:
    """A recorded exception.

    `type` is `module:qualname`; `args` and `state` are encoded values (None: args are just the message);
    `cause` is the failure it was raised from; `also` holds the members of an exception group.
    """

    type: str
    message: str
    args: str | None = None
    state: str | None = None
    traceback: str = ""
    cause: Failure | None = None
    also: tuple[Failure, ...] = ()

    @staticmethod
    def of(name: str, message: str) -> Failure:
        """A failure that flux itself found: `name` is a class of `flux.errors`."""
        return Failure(f"flux.errors:{name}", message)

    def __str__(self) -> str:
        return f"{self.type.rpartition(':')[2]}: {self.message}"

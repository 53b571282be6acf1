"""What goes wrong in PostgreSQL, as flux says it. The one place where its error codes are looked at."""

from __future__ import annotations

import asyncpg

from flux.errors import FluxError, StorageMisused, StorageUnavailable

# Whatever can go wrong between here and the server. (`InternalClientError`: the server has just ended the connection.)
TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

# The server or the way to it is gone for now, or it chose this transaction to give way: the same again may succeed.
_PASSING = ("08", "40", "57P", "55P03", "25006", "25P03", "53300")
# The server cannot do its work: disk or memory full, I/O errors, a statement that was timed out, internal errors.
_UNABLE = ("25", "53", "54", "57", "58", "XX", "28")
# It does not have what flux made, or may not do what flux needs.
_FOREIGN = ("0A", "23", "3D", "3F", "42")


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment. What the failed one has done is not known."""
    if isinstance(error, asyncpg.PostgresError):
        return _state(error).startswith(_PASSING)
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # the connection closed under it; a ValueError is about what was said
    return isinstance(error, TROUBLE)


def is_refusal(error: BaseException) -> bool:
    """Whether the server has answered, and rolled back: of anything else that goes wrong in COMMIT nobody knows."""
    return isinstance(error, asyncpg.PostgresError) and not _state(error).startswith(("08", "57"))


def breaks(error: BaseException) -> bool:
    """Whether the connection is of no more use."""
    if isinstance(error, asyncpg.PostgresError):
        return _state(error).startswith(("08", "57P", "25P03"))
    return is_passing(error) or not isinstance(error, Exception)


def translate(error: Exception, where: str) -> Exception:
    """The error a caller gets; what is no error of PostgreSQL or of the way to it stays."""
    if isinstance(error, FluxError):
        return error
    if is_passing(error):
        return StorageUnavailable(f"{where}: {_describe(error)}")
    if isinstance(error, asyncpg.PostgresError):
        if _state(error).startswith(_UNABLE):
            return StorageUnavailable(f"{where}: {_describe(error)}")
        if _state(error).startswith(_FOREIGN):
            return StorageMisused(f"{where} is not a schema that flux can work with: {_describe(error)}")
    if isinstance(error, asyncpg.ClientConfigurationError):
        return StorageMisused(f"{where}: {error}")
    return error


def _describe(error: Exception) -> str:
    state = f" ({_state(error)})" if isinstance(error, asyncpg.PostgresError) else ""
    return f"{type(error).__name__}: {error}{state}"


def _state(error: asyncpg.PostgresError) -> str:
    return str(getattr(error, "sqlstate", None) or "")

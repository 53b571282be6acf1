"""From a URL to a storage: adapters register under the entry-point group `flux.storage`, by URL scheme."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidArgument
from ..labels import shown
from ..storage import WorkflowStorage

GROUP = "flux.storage"


def open_storage(storage: str | WorkflowStorage | None) -> WorkflowStorage:
    """The storage object for a URL; an object is returned as it is, None is memory. Raises InvalidArgument."""
    if storage is not None and not isinstance(storage, str):
        if isinstance(storage, type) or not isinstance(storage, WorkflowStorage):
            raise InvalidArgument(f"storage must be a storage object or a URL such as 'sqlite:///orders.db', got {shown(storage)}")
        return storage
    url = "memory:" if storage is None else storage
    scheme, colon, _ = url.partition(":")
    if not colon:
        raise InvalidArgument(f"{url!r} is not a storage URL: expected 'sqlite:///orders.db', 'postgresql://host/db' or 'memory:'")
    made: WorkflowStorage = _adapter(scheme)(url)
    return made


def _adapter(scheme: str) -> Any:
    # Imported here because it costs more than all of flux, and only an engine that is made from a URL needs it.
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=GROUP)}
    if scheme not in found:
        known = ", ".join(sorted(found)) or "none: is flux-durable installed?"
        raise InvalidArgument(f"no storage for URLs that begin with {scheme!r} (installed: {known})")
    return found[scheme].load()

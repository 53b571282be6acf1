"""Stored rows, as somebody with access to the storage could change them: the same damage in memory, in the file and on the server."""

from __future__ import annotations

import json
from collections.abc import Callable

from ..engine.cluster import Cluster
from ..engine.damage import sql

Row = tuple[str, str]  # control, payload

_WHERE = "ref = (SELECT ref FROM {}runs WHERE run_id = $1) AND position = $2"


async def change_row(cluster: Cluster, run_id: str, position: int, change: Callable[[str, str], Row]) -> None:
    """Rewrite one row of a run's journal; positions count from 1."""
    if cluster.in_memory:
        rows = cluster.storage()._runs[run_id].rows  # type: ignore[attr-defined]
        epoch, at, control, payload = rows[position - 1]
        rows[position - 1] = (epoch, at, *change(control, payload))
        return
    [found] = await sql(cluster, f"SELECT control, payload FROM {{}}journal WHERE {_WHERE}", run_id, position)
    control, payload = change(*[one.decode() if isinstance(one, bytes) else one for one in found])
    await sql(cluster, f"UPDATE {{}}journal SET control = $3, payload = $4 WHERE {_WHERE}", run_id, position, control, payload)


async def drop_row(cluster: Cluster, run_id: str, position: int) -> None:
    """Remove one row of a run's journal."""
    if cluster.in_memory:
        del cluster.storage()._runs[run_id].rows[position - 1]  # type: ignore[attr-defined]
    else:
        await sql(cluster, f"DELETE FROM {{}}journal WHERE {_WHERE}", run_id, position)


async def write_result(cluster: Cluster, run_id: str, text: str) -> None:
    """Put another encoded value where the first step's result stands in the second row."""

    def change(control: str, payload: str) -> Row:
        records = json.loads(control)
        assert records[0][0] == "ok"
        records[0][3] = len(text)
        return json.dumps(records), text + payload[len(payload) if len(records) == 1 else json.loads(control)[0][3] :]

    await change_row(cluster, run_id, 2, change)

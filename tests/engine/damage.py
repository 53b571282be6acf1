"""Rows changed by something other than flux: what a bad disk, a hasty hand or a half restored backup leaves."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from flux import RunStatus

from .cluster import Cluster


async def damage_header(cluster: Cluster, run_id: str, **fields: Any) -> None:
    """Change these columns of the run's head: `wake_at`, `status`, `version`, or `waiting` (names with spaces between)."""
    for name, value in fields.items():
        if cluster.in_memory:
            header = cluster.storage()._runs[run_id].header  # type: ignore[attr-defined]
            setattr(header, name, RunStatus(value) if name == "status" else tuple(value.split()) if name == "waiting" else value)
        else:
            text = json.dumps(value.split()) if name == "waiting" else value
            also = ", due_at = $1" if name == "wake_at" and cluster.path is None else ""  # of a run that nobody holds
            await sql(cluster, f"UPDATE {{}}runs SET {name} = $1{also} WHERE run_id = $2", text, run_id)


async def damage_row(cluster: Cluster, run_id: str, control: str) -> str:
    """Replace what the run's first row says; what it said."""
    if cluster.in_memory:
        rows = cluster.storage()._runs[run_id].rows  # type: ignore[attr-defined]
        epoch, at, was, payload = rows[0]
        rows[0] = (epoch, at, control, payload)
        return str(was)
    where = "position = 1 AND ref = (SELECT ref FROM {}runs WHERE run_id = $1)"
    [(was,)] = await sql(cluster, f"SELECT control FROM {{}}journal WHERE {where}", run_id)
    await sql(cluster, f"UPDATE {{}}journal SET control = $2 WHERE {where}", run_id, control)
    return str(was)


async def sql(cluster: Cluster, text: str, *parameters: Any) -> list[Any]:
    """The rows of a statement of somebody else's, with $1 and so on. `{}` is what stands before the names of flux's tables."""
    if cluster.path is not None:
        connection = sqlite3.connect(cluster.path)
        with connection:
            rows = connection.execute(text.replace("{}", "flux_").replace("$", "?"), parameters).fetchall()
        connection.close()
        return rows
    schema = cluster.url.rpartition("=")[2]
    cluster.clock.working += 1
    try:
        return list(await (await cluster.outsider()).fetch(text.replace("{}", f'"{schema}".'), *parameters))
    finally:
        cluster.clock.working -= 1

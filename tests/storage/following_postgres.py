"""Columns of the PostgreSQL schema that follow from others, and that each statement has to write along."""

from __future__ import annotations

from typing import Any

from flux_storage import PostgresStorage

_RUNS = """
SELECT run_id, begun, lane_owner, due_at, rank, kind, unfit FROM "{s}".runs
WHERE begun IS DISTINCT FROM (epoch > 0)
    OR lane_owner IS DISTINCT FROM CASE WHEN lane <> '' THEN owner END
    OR due_at IS DISTINCT FROM CASE WHEN owner IS NULL AND NOT parked THEN wake_at END
    OR rank IS DISTINCT FROM CASE WHEN lane <> '' AND owner IS NULL THEN wake_at - priority * 60000000 END
    OR owner IS NULL AND unfit IS DISTINCT FROM CASE misfits WHEN '' THEN '' ELSE md5(misfits) END
    OR owner IS NULL AND kind IS DISTINCT FROM CASE WHEN lane <> '' THEN
        version || CASE WHEN epoch > 0 THEN ' 1 ' ELSE ' 0 ' END || CASE misfits WHEN '' THEN '' ELSE md5(misfits) END END
"""
_INBOX = 'SELECT ref, seq, taken, pending FROM "{s}".inbox WHERE pending IS DISTINCT FROM CASE WHEN taken IS NULL THEN ref END'


async def astray(storage: PostgresStorage) -> list[Any]:
    """The rows in which one does not follow; there should be none."""
    o = storage._parts()
    return [row for text in (_RUNS, _INBOX) for row in await o.link.rows(text.replace("{s}", storage.schema))]

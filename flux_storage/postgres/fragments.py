"""Pieces that the SQL texts of the adapter share.

In all of them {s} is the schema and {now} the time: the CTE `t` asks it once a statement, and `$1` is the earliest that it may be.
"""

from __future__ import annotations

MINUTE = 60_000_000  # microseconds that one level of priority is worth (D29)

ENDED = "('completed', 'failed', 'cancelled')"
STILL = "('completed', 'failed', 'cancelled', 'blocked')"

T = "t AS MATERIALIZED (SELECT {now} AS now)"
OWN = "greatest($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
GIVEN = "$1::bigint"
NOTIFY = "(SELECT pg_notify('flux_{s}', $2::text) WHERE EXISTS {why})"  # an InitPlan: it is evaluated once a statement

# The fields of `flux.storage.Header`, in its order.
_FIELDS = (
    "run_id", "ref", "workflow", "version", "shape", "status", "priority", "created_at", "updated_at", "ended_at", "wake_at",
    "owner", "epoch", "position", "inbox_seq", "input_digest", "idempotency_key", "waiting", "blocked", "misfits", "parent",
    "lane", "parked", "deduplication_key",
)  # fmt: skip
HEADER = ", ".join(f"r.{field}" for field in _FIELDS)

# The kinds of runs that can be claimed now or later, each once, of the workflows in the CTE `codes`: a loose scan of the index.
LEVEL = 'FROM "{s}".runs r WHERE r.workflow = v.workflow AND r.version = v.version AND r.due_at IS NOT NULL'
LEVELS_OF_CODES = f"""levels AS (
    SELECT v.place, v.workflow, v.version, l.* FROM codes v CROSS JOIN LATERAL (
        SELECT r.begun, r.priority, r.unfit, r.misfits {LEVEL} ORDER BY r.begun DESC, r.priority DESC, r.unfit DESC LIMIT 1
    ) l
    UNION ALL
    SELECT v.place, v.workflow, v.version, l.* FROM levels v CROSS JOIN LATERAL (
        SELECT r.begun, r.priority, r.unfit, r.misfits {LEVEL} AND (r.begun, r.priority, r.unfit) < (v.begun, v.priority, v.unfit)
        ORDER BY r.begun DESC, r.priority DESC, r.unfit DESC LIMIT 1
    ) l
)"""

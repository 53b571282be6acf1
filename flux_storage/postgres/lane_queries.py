"""The SQL texts of limits: claims that keep to some, lanes, and what has begun in a time (contract 23, 24)."""

from __future__ import annotations

from .fragments import LEVELS_OF_CODES, MINUTE, STILL, T, freed, held

# Locks of this transaction: of workflows with limits, and of lanes. Each is taken in the order of its numbers.
LOCK_NUMBERS = "SELECT pg_advisory_xact_lock(a.number) FROM unnest($1::bigint[]) AS a (number)"
# Which of these could be had.
TRY_NUMBERS = "SELECT a.number FROM unnest($1::bigint[]) AS a (number) WHERE pg_try_advisory_xact_lock(a.number)"

# The time, and the levels of what could be claimed now or later: a loose scan of the index.
LEVELS = f"""
WITH RECURSIVE {T}, codes AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::text[], $4::text[]) AS c (place, workflow, version)
), {LEVELS_OF_CODES}
SELECT t.now, EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = $5 AND w.state = 0) AS live, v.*
FROM t LEFT JOIN levels v ON true
"""
_OF_LEVEL = (
    'FROM "{s}".runs r WHERE r.workflow = $1 AND r.version = $2 AND r.begun = $3 AND r.priority = $4 AND r.unfit = $5'
    " AND r.due_at IS NOT NULL"
)
DUE = f"""
SELECT r.ref, r.due_at, r.run_id, r.lane {_OF_LEVEL} AND r.due_at <= $6 ORDER BY r.due_at, r.run_id LIMIT $7 FOR UPDATE SKIP LOCKED
"""
NEXT = f"SELECT r.due_at {_OF_LEVEL} ORDER BY r.due_at LIMIT 1"
# How many runs of a workflow somebody holds, counted up to a limit.
HELD = """
SELECT count(*) FROM (
    SELECT FROM "{s}".workers w CROSS JOIN LATERAL (
        SELECT FROM "{s}".runs r WHERE r.owner = w.nonce AND r.workflow = $1 LIMIT $2
    ) r WHERE w.state < 2 LIMIT $2
) x
"""
# The same of some lanes.
HELD_IN = """
SELECT a.lane, (
    SELECT count(*) FROM (
        SELECT FROM "{s}".runs r WHERE r.workflow = $1 AND r.lane = a.lane AND r.lane <> '' AND r.owner IS NOT NULL LIMIT $3
    ) x
) FROM unnest($2::text[]) AS a (lane)
"""
PARK = 'UPDATE "{s}".runs SET parked = true, due_at = NULL WHERE ref = ANY ($1::bigint[])'
LEASE = f'UPDATE "{{s}}".runs r SET {held("$1")}, mark = $2 WHERE r.ref = ANY ($3::bigint[]) AND r.owner IS NULL'
_PARKED = 'FROM "{s}".runs r WHERE r.workflow = v.workflow AND r.lane = v.lane AND r.parked = true AND r.rank IS NOT NULL'
# The most urgent of each kind that is parked in these lanes. Who waits for a row that is taken meanwhile finds the next.
LET_IN = f"""
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT DISTINCT a.workflow, a.lane FROM unnest($1::text[], $2::text[]) AS a (workflow, lane)
), kinds AS (
    SELECT v.workflow, v.lane, k.kind FROM asked v CROSS JOIN LATERAL (SELECT r.kind {_PARKED} ORDER BY r.kind LIMIT 1) k
    UNION ALL
    SELECT v.workflow, v.lane, k.kind FROM kinds v
    CROSS JOIN LATERAL (SELECT r.kind {_PARKED} AND r.kind > v.kind ORDER BY r.kind LIMIT 1) k
), first AS MATERIALIZED (
    SELECT f.ref FROM kinds v CROSS JOIN LATERAL (
        SELECT r.ref {_PARKED} AND r.kind = v.kind ORDER BY r.rank, r.priority DESC, r.run_id LIMIT 1 FOR UPDATE
    ) f
), back AS (
    UPDATE "{{s}}".runs r SET parked = false, due_at = CASE WHEN r.owner IS NULL THEN r.wake_at END
    FROM first f WHERE r.ref = f.ref AND r.parked
    RETURNING r.ref, r.workflow, r.lane, r.version, r.begun, r.priority, r.unfit, r.misfits, r.wake_at, r.run_id
)
SELECT b.*, (SELECT pg_notify('flux_{{s}}', $3::text)) FROM back b
"""
# The lanes of some runs.
LANES_OF = "SELECT r.ref, r.workflow, r.lane FROM \"{s}\".runs r WHERE r.ref = ANY ($1::bigint[]) AND r.lane <> ''"

# Runs of lanes that condemned workers hold, and freeing some of them.
DEAD = """
SELECT r.ref, r.workflow, r.lane FROM "{s}".workers w CROSS JOIN LATERAL (
    SELECT r.ref, r.workflow, r.lane FROM "{s}".runs r WHERE r.lane_owner = w.nonce LIMIT $1
) r WHERE w.state = 1 LIMIT $1
"""
FREE = f"""
WITH {T} UPDATE "{{s}}".runs r SET {freed(f"CASE WHEN r.status IN {STILL} THEN r.wake_at ELSE t.now END")}
FROM t WHERE r.ref = ANY ($2::bigint[]) AND EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = r.owner AND w.state = 1)
RETURNING r.workflow, r.lane
"""

STARTS = 'SELECT at, n FROM "{s}".starts WHERE workflow = $1 AND at > $2 ORDER BY at'
START = """
INSERT INTO "{s}".starts AS s (workflow, at, n) VALUES ($1, $2, $3) ON CONFLICT (workflow, at) DO UPDATE SET n = s.n + excluded.n
"""
FORGET_STARTS = 'DELETE FROM "{s}".starts WHERE workflow = $1 AND at <= $2'

# Whether a new run is parked behind another of its lane (24), where it may be: `a` is the run, `t` the time.
BEHIND = f"""
CASE WHEN a.lane = '' OR a.owner IS NOT NULL OR a.delay <> 0 OR NOT $23::boolean THEN false ELSE coalesce((
    SELECT h.wake_at <= t.now AND (h.rank, -h.priority) <= (t.now - a.priority * {MINUTE}, -a.priority) FROM "{{s}}".runs h
    WHERE h.workflow = a.workflow AND h.lane = a.lane AND h.parked = false AND h.kind = a.version || ' 0 ' AND h.rank IS NOT NULL
    ORDER BY h.rank, h.priority DESC, h.run_id LIMIT 1
), false) END
"""

"""The SQL texts of what concerns several runs: postings from one to others, and families, which are forgotten together."""

from __future__ import annotations

from .fragments import ENDED, NOTIFY, T, woken

_SANE = 1 << 62  # a greater inbox_seq is damage

# --- what a commit or a tick means for others

# Lock runs in the order in which they are given. What is read of them afterwards is as new as can be.
LOCK = """
SELECT r.run_id FROM unnest($1::text[]) AS a (run_id) CROSS JOIN LATERAL (
    SELECT r.run_id FROM "{s}".runs r WHERE r.run_id = a.run_id FOR UPDATE
) r
"""
_WOKEN = f"CASE WHEN r.status <> 'blocked' AND (r.owner IS NULL OR r.status IN {ENDED}) THEN least(r.wake_at, t.now) ELSE r.wake_at END"
# Keep postings to locked runs in their order, number them and wake those that may go on; an ended run that is held is due as
# well: its holder may die before it has seen this. Of those that a run would take, the first under each signal_id counts. A run
# whose numbers are damaged is passed over (contract 14).
DELIVER = f"""
WITH {T}, sent AS MATERIALIZED (
    SELECT * FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[]) WITH ORDINALITY
        AS p (run_id, kind, name, payload, signal_id, mark, k)
), welcome AS MATERIALIZED (
    SELECT r.ref, r.inbox_seq, p.*, row_number() OVER (PARTITION BY r.ref, p.signal_id ORDER BY p.k) AS nth
    FROM sent p JOIN "{{s}}".runs r ON r.run_id = p.run_id
    WHERE (r.status NOT IN {ENDED} OR p.kind = 'unwind') AND r.inbox_seq BETWEEN 0 AND {_SANE}
        AND NOT EXISTS (SELECT FROM "{{s}}".inbox i WHERE i.ref = r.ref AND i.signal_id = p.signal_id)
), kept AS (
    INSERT INTO "{{s}}".inbox (ref, seq, kind, name, payload, signal_id, at, mark, pending)
    SELECT w.ref, w.inbox_seq + row_number() OVER (PARTITION BY w.ref ORDER BY w.k),
        w.kind, w.name, w.payload, w.signal_id, t.now, w.mark, w.ref
    FROM welcome w CROSS JOIN t WHERE w.signal_id IS NULL OR w.nth = 1
    ON CONFLICT DO NOTHING
    RETURNING ref, seq
), rung AS (
    UPDATE "{{s}}".runs r SET inbox_seq = k.seq, {woken(_WOKEN)}
    FROM (SELECT ref, max(seq) AS seq FROM kept GROUP BY ref) k CROSS JOIN t WHERE r.ref = k.ref
    RETURNING r.ref
)
SELECT t.now, {NOTIFY.replace("{why}", "(SELECT FROM rung)")} FROM t
"""
# Which of some postings are kept: a call whose answer was lost finds by them that it was carried out.
DELIVERED = """
SELECT DISTINCT a.mark FROM unnest($1::text[], $2::bigint[]) AS a (run_id, mark)
WHERE EXISTS (SELECT FROM "{s}".inbox i WHERE i.ref = (SELECT ref FROM "{s}".runs WHERE run_id = a.run_id) AND i.mark = a.mark)
"""

# --- forgetting

# Whose child a run is, if its parent is there.
PARENT = """
SELECT (SELECT o.run_id FROM "{s}".runs o WHERE o.run_id = r.parent) FROM "{s}".runs r WHERE r.run_id = $1
"""
# A run, its children, and theirs.
FAMILY = """
WITH RECURSIVE family AS (
    SELECT r.ref, r.run_id, r.status FROM "{s}".runs r WHERE r.run_id = $1
    UNION
    SELECT c.ref, c.run_id, c.status FROM family f CROSS JOIN LATERAL (
        SELECT r.ref, r.run_id, r.status FROM "{s}".runs r WHERE r.parent = f.run_id AND r.parent <> ''
    ) c
)
SELECT ref, run_id, status FROM family
"""
# Runs that ended long ago, the oldest first, behind one of them; not those that are forgotten with their parent.
OLD = """
SELECT r.ended_at, r.ref, r.run_id, EXISTS (SELECT FROM "{s}".runs c WHERE c.parent = r.run_id AND c.parent <> '')
FROM "{s}".runs r
WHERE r.ended_at IS NOT NULL AND r.ended_at <= (SELECT {now}) - $2::bigint AND (r.ended_at, r.ref) > ($3::bigint, $4::bigint)
    AND NOT EXISTS (SELECT FROM "{s}".runs o WHERE o.run_id = r.parent)
ORDER BY r.ended_at, r.ref LIMIT $5
"""
# Lock them, and say how they stand; what others have locked is passed over.
LOCK_FREE = 'SELECT ref, status FROM "{s}".runs WHERE ref = ANY ($1::bigint[]) FOR UPDATE SKIP LOCKED'
# All that is kept of runs.
DELETE = tuple(f'DELETE FROM "{{s}}".{table} WHERE ref = ANY ($1::bigint[])' for table in ("inbox", "journal", "runs"))

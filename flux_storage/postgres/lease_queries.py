"""The SQL texts of workers and of what they hold: registering, renewing, condemning, taking and claiming."""

from __future__ import annotations

from .fragments import ENDED, LEVEL, LEVELS_OF_CODES, MINUTE, NOTIFY, STILL, T, freed, held

SWEEP = 1000  # runs freed of dead workers in one call
DOUBT = 5_000_000  # microseconds that a worker has left once its session is gone (D14)
PROOF = 60 * MINUTE  # a statement that began before its worker was condemned is over after that long, by far
REMEMBERED = 30 * 24 * 60 * MINUTE  # how long the nonce of a condemned worker is kept

_LIVE = 'EXISTS (SELECT FROM "{s}".workers w WHERE w.nonce = $2 AND w.state = 0)'
_DUE_AGAIN = freed(f"CASE WHEN r.status IN {STILL} THEN r.wake_at ELSE t.now END")

# Lease one run that nobody holds, or that a condemned worker did: its epoch grows with the change of hands (I10).
TAKE = f"""
WITH {T} UPDATE "{{s}}".runs r SET {held("$2")}, mark = $4,
    wake_at = CASE WHEN r.owner IS NULL OR r.status IN {STILL} THEN r.wake_at ELSE t.now END
FROM t WHERE r.run_id = $3 AND {_LIVE}
    AND ($5::boolean OR r.status <> 'blocked') AND ($6::boolean OR r.status NOT IN {ENDED})
    AND (r.owner IS NULL OR NOT EXISTS (SELECT FROM "{{s}}".workers o WHERE o.nonce = r.owner AND o.state = 0))
RETURNING t.now, r.ref
"""
# Why that was not possible: the run, whether the taker lives, and its owner as a worker.
HOLDER = f"""
WITH {T} SELECT t.now, {_LIVE} AS live, r.ref, r.status, r.owner, r.mark, o.lock,
    o.state = 0 AND least(o.expires_at, o.doubt_until) > t.now AS holds, o.state = 0 AND o.host = $4 AS here
FROM t LEFT JOIN "{{s}}".runs r ON r.run_id = $3 LEFT JOIN "{{s}}".workers o ON o.nonce = r.owner
"""

_OF_LEVEL = f"{LEVEL} AND r.begun = v.begun AND r.priority = v.priority AND r.unfit = v.unfit"

# Lease what is most urgent (9). `levels` are the priorities and misfits of all that could be claimed now or later, each pair
# once (a loose scan of the index): runs that a claimer cannot run cost it one look for all of a level, however many they are.
# `quota` says how many come from which level; only so many are locked, and what others have locked is passed over. Where one of them
# has a lane, none is leased: that takes more than one statement (claiming.py).
CLAIM = f"""
WITH RECURSIVE {T}, codes AS MATERIALIZED (
    SELECT * FROM unnest($5::bigint[], $6::text[], $7::text[]) AS c (place, workflow, version)
), shapes AS MATERIALIZED (
    SELECT * FROM unnest($8::bigint[], $9::text[]) AS c (place, shape)
), {LEVELS_OF_CODES}, fitting AS MATERIALIZED (
    SELECT * FROM levels v WHERE EXISTS (
        SELECT FROM shapes c WHERE c.place = v.place AND c.shape <> ALL (string_to_array(v.misfits, chr(31)))
    )
), best AS (
    SELECT v.* FROM fitting v CROSS JOIN t CROSS JOIN LATERAL (
        SELECT r.due_at, r.run_id {_OF_LEVEL} AND r.due_at <= t.now ORDER BY r.due_at, r.run_id LIMIT $4
    ) d ORDER BY d.due_at - v.priority * {MINUTE}, v.priority DESC, v.place, d.run_id LIMIT $4
), quota AS MATERIALIZED (
    SELECT v.place, v.workflow, v.version, v.begun, v.priority, v.unfit, count(*) AS n FROM best v GROUP BY 1, 2, 3, 4, 5, 6
), picked AS MATERIALIZED (
    SELECT v.place, v.priority, d.* FROM quota v CROSS JOIN t CROSS JOIN LATERAL (
        SELECT r.ref, r.due_at, r.run_id, r.lane {_OF_LEVEL} AND r.due_at <= t.now
        ORDER BY r.due_at, r.run_id LIMIT v.n FOR UPDATE SKIP LOCKED
    ) d
), leased AS (
    UPDATE "{{s}}".runs r SET {held("$2")}, mark = $3
    FROM picked p WHERE r.ref = p.ref AND r.owner IS NULL AND {_LIVE} AND NOT EXISTS (SELECT FROM picked WHERE lane <> '')
    RETURNING r.ref, p.due_at - p.priority * {MINUTE} AS rank, p.priority, p.place, p.run_id
)
SELECT t.now, {_LIVE} AS live, ARRAY(SELECT ref FROM leased ORDER BY rank, priority DESC, place, run_id) AS refs, (
    SELECT min(d.due_at) FROM fitting v CROSS JOIN LATERAL (
        SELECT r.due_at {_OF_LEVEL} AND r.ref NOT IN (SELECT ref FROM leased) ORDER BY r.due_at LIMIT 1
    ) d
) AS next_at, EXISTS (SELECT FROM picked WHERE lane <> '') AS laned FROM t
"""
# What a claim whose answer was lost has leased.
LEASED = 'SELECT ref FROM "{s}".runs WHERE owner = $1 AND mark = $2'

# Condemn the late and the gone, except who claims, and free a bounded number of the runs of condemned workers: due at once
# unless they have ended or are blocked. What is locked just now is passed over: it is freed the next time. Runs with a lane are freed
# by themselves (lanes.py).
SWEEPING = f"""
WITH {T}, late AS (
    UPDATE "{{s}}".workers w SET state = 1, condemned_at = t.now FROM t
    WHERE w.state = 0 AND w.nonce IS DISTINCT FROM $3::text
        AND (least(w.expires_at, w.doubt_until) <= t.now OR w.nonce = ANY ($4::text[]))
        AND ($3 IS NULL OR EXISTS (SELECT FROM "{{s}}".workers c WHERE c.nonce = $3 AND c.state = 0))
    RETURNING w.nonce, w.host, w.lock
), dead AS MATERIALIZED (
    SELECT nonce FROM late UNION SELECT nonce FROM "{{s}}".workers WHERE state = 1
), held AS MATERIALIZED (
    SELECT r.ref, r.owner FROM dead d CROSS JOIN LATERAL (
        SELECT r.ref, r.owner FROM "{{s}}".runs r WHERE r.owner = d.nonce AND r.lane = '' LIMIT {SWEEP} FOR UPDATE SKIP LOCKED
    ) r LIMIT {SWEEP}
), freed AS (
    UPDATE "{{s}}".runs r SET {_DUE_AGAIN} FROM held h CROSS JOIN t
    WHERE r.ref = h.ref AND r.owner IS NOT DISTINCT FROM h.owner
    RETURNING r.ref
), buried AS (
    UPDATE "{{s}}".workers w SET state = 2 FROM t
    WHERE w.state = 1 AND w.condemned_at < t.now - {PROOF} AND NOT EXISTS (SELECT FROM "{{s}}".runs r WHERE r.owner = w.nonce)
)
SELECT t.now, (SELECT count(*) FROM freed) AS freed, late.*, EXISTS (
        SELECT FROM dead d CROSS JOIN LATERAL (SELECT FROM "{{s}}".runs r WHERE r.lane_owner = d.nonce LIMIT 1) r
    ) AS laned,
    {NOTIFY.replace("{why}", "(SELECT FROM late) OR EXISTS (SELECT FROM freed)")}
FROM t LEFT JOIN late ON true
"""
# Look after the sessions of the others (D14): one that is gone leaves its worker a few seconds to come back. A database that was
# restarted has ended all sessions, and nobody must be taken over for that. The answer: the live ones of this host.
PROBE = f"""
WITH {T}, doubted AS (
    UPDATE "{{s}}".workers w SET doubt_until = t.now + {DOUBT} FROM t
    WHERE w.state = 0 AND w.nonce IS DISTINCT FROM $2::text AND w.doubt_until IS NULL AND w.expires_at > t.now + {DOUBT}
        AND CASE WHEN w.beacon IS NULL THEN false ELSE pg_try_advisory_xact_lock_shared(w.beacon) END
)
SELECT w.nonce, w.lock FROM "{{s}}".workers w
WHERE w.state = 0 AND w.nonce IS DISTINCT FROM $2 AND w.host = $3 AND w.lock IS NOT NULL
"""

# Make a worker; one that was condemned before holds nothing.
REGISTER = f"""
WITH {T}, freed AS (
    UPDATE "{{s}}".runs r SET {_DUE_AGAIN} FROM t
    WHERE r.owner = $3 AND NOT EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = $3 AND w.state = 0)
    RETURNING r.ref
), forgotten AS (
    DELETE FROM "{{s}}".workers w USING t WHERE w.state = 2 AND w.condemned_at < t.now - {REMEMBERED} AND w.nonce <> $3
), made AS (
    INSERT INTO "{{s}}".workers (nonce, expires_at, lease, beacon, host, lock, state)
    SELECT $3, t.now + $4::bigint, $4, $5::bigint, $6::text, $7::text, 0 FROM t
    ON CONFLICT (nonce) DO UPDATE SET expires_at = excluded.expires_at, lease = excluded.lease, beacon = excluded.beacon,
        host = excluded.host, lock = excluded.lock, state = 0, doubt_until = NULL, condemned_at = NULL
)
SELECT t.now, {NOTIFY.replace("{why}", "(SELECT FROM freed)")} FROM t
"""
# Extend the lease of a worker that lives, and tell of its runs with postings that it has not stated (D13).
RENEW = f"""
WITH {T}, extended AS (
    UPDATE "{{s}}".workers w SET expires_at = t.now + $3::bigint, lease = $3, doubt_until = NULL FROM t
    WHERE w.nonce = $2 AND w.state = 0 RETURNING w.nonce
)
SELECT t.now, EXISTS (SELECT FROM extended) AS alive, ARRAY(
    SELECT r.run_id FROM "{{s}}".runs r WHERE r.owner = $2 AND r.inbox_seq > r.seen_seq
) AS unseen FROM t
"""
# The sessions of these workers are back.
SHOWN = 'UPDATE "{s}".workers SET doubt_until = NULL, beacon = k.key FROM unnest($1::text[], $2::bigint[]) AS k (nonce, key) ' \
    "WHERE workers.nonce = k.nonce AND state = 0"  # fmt: skip

"""Every SQL text of the adapter. What becomes part of a text is the checked name of the schema, and nothing else (S15.7).

In the texts {s} is the schema and {now} the time: a CTE `t` asks it once a statement, and `$1` is the earliest that it may be.
The statements name rows by primary key or by one index each, whatever the planner knows of the tables: see `SETTINGS`.
"""

from __future__ import annotations

MINUTE = 60_000_000  # microseconds that one level of priority is worth (D29)
SWEEP = 1000  # runs freed of dead workers in one call
DOUBT = 5_000_000  # microseconds that a worker has left once its session is gone (D14)
PROOF = 60 * MINUTE  # a statement that began before its worker was condemned is over after that long, by far
REMEMBERED = 30 * 24 * 60 * MINUTE  # how long the nonce of a condemned worker is kept

# Plans are made once and kept, so they must be right for tables of any size: a new database has no statistics, and a plan made
# for ten rows would read all of a million later. So each text leaves one index to look into and one order to find there:
# `IS NOT DISTINCT FROM` compares what must not be looked up. (What is off counts as dear, which would set off the compiler.)
# Who has waited for a row goes on with the row as it is then: that is what 'read committed' means.
SETTINGS = """
SET default_transaction_isolation = 'read committed';
SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off;
SET enable_mergejoin = off; SET enable_sort = off; SET jit = off
"""

_ENDED = "('completed', 'failed', 'cancelled')"
_STILL = "('completed', 'failed', 'cancelled', 'blocked')"

_T = "t AS MATERIALIZED (SELECT {now} AS now)"
_OWN = "greatest($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
_GIVEN = "$1::bigint"
_NOTIFY = "(SELECT pg_notify('flux_{s}', $2::text) WHERE EXISTS {why})"  # an InitPlan: it is evaluated once a statement

# The fields of `flux.storage.Header`, in its order.
_FIELDS = (
    "run_id", "ref", "workflow", "version", "shape", "status", "priority", "created_at", "updated_at", "ended_at", "wake_at",
    "owner", "epoch", "position", "inbox_seq", "input_digest", "idempotency_key", "waiting", "blocked", "misfits",
)  # fmt: skip
_HEADER = ", ".join(f"r.{field}" for field in _FIELDS)

# --- reading

_READ_HEADER = f'SELECT {_HEADER} FROM "{{s}}".runs r WHERE r.run_id = $1'

# Whole runs from one snapshot: the head, its journal column by column, and what is pending in its inbox.
_LOAD = f"""
SELECT {_HEADER}, j.*, i.*, r.mark FROM "{{s}}".runs r
CROSS JOIN LATERAL (
    SELECT array_agg(x.position), array_agg(x.epoch), array_agg(x.at), array_agg(x.format), array_agg(x.control), array_agg(x.payload)
    FROM (SELECT * FROM "{{s}}".journal WHERE ref = r.ref ORDER BY position) x
) j (positions, epochs, ats, formats, controls, payloads)
CROSS JOIN LATERAL (
    SELECT array_agg(x.seq), array_agg(x.kind), array_agg(x.name), array_agg(x.payload), array_agg(x.signal_id), array_agg(x.at)
    FROM (SELECT * FROM "{{s}}".inbox WHERE pending = r.ref ORDER BY seq) x
) i (seqs, kinds, names, texts, signal_ids, posted)
"""

_JOURNAL = """
SELECT position, epoch, at, format, control, payload FROM "{s}".journal
WHERE ref = (SELECT ref FROM "{s}".runs WHERE run_id = $1) AND position > $2 ORDER BY position LIMIT $3
"""

_BEFORE = "(r.created_at, r.run_id) < ($1::bigint, $2::text) AND ($3::text IS NULL OR r.version = $3)"
_NEWEST = "ORDER BY r.created_at DESC, r.run_id DESC LIMIT $4"
_FIND = f'SELECT {_HEADER} FROM "{{s}}".runs r WHERE {_BEFORE} {_NEWEST}'
_FIND_WORKFLOW = f'SELECT {_HEADER} FROM "{{s}}".runs r WHERE r.workflow = $5 AND {_BEFORE} {_NEWEST}'
# A page of the runs in any of some statuses: the newest of each, merged.
_FIND_STATUSES = f"""
SELECT r.* FROM unnest($6::text[]) AS s (status) CROSS JOIN LATERAL (
    SELECT {_HEADER} FROM "{{s}}".runs r
    WHERE r.status = s.status AND ($5::text IS NULL OR r.workflow = $5) AND {_BEFORE} {_NEWEST}
) r {_NEWEST}
"""

# --- making runs

# New runs, each unless its id or key is taken or its owner is dead; `mark` tells them apart.
_CREATE = f"""
WITH {_T}, asked AS MATERIALIZED (
    SELECT * FROM unnest(
        $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[],
        $13::bigint[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[]
    ) AS a (mark, run_id, workflow, version, shape, status, priority, at, wake_at, delay, owner, input_digest, idempotency_key,
            waiting, control, payload)
), made AS (
    INSERT INTO "{{s}}".runs (run_id, workflow, version, shape, status, priority, created_at, updated_at, wake_at, owner, epoch,
        position, inbox_seq, seen_seq, input_digest, idempotency_key, waiting, blocked, misfits, mark)
    SELECT a.run_id, a.workflow, a.version, a.shape, a.status, a.priority, a.at, a.at,
        CASE WHEN a.owner IS NULL THEN t.now + a.delay ELSE coalesce(nullif(a.wake_at, 0), t.now) END, a.owner,
        CASE WHEN a.owner IS NULL THEN 0 ELSE 1 END, 1, 0, 0, a.input_digest, a.idempotency_key, a.waiting, '', '', a.mark
    FROM asked a CROSS JOIN t
    WHERE a.owner IS NULL OR EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = a.owner AND w.state = 0)
    ON CONFLICT DO NOTHING
    RETURNING mark, ref, wake_at, epoch, owner
), written AS (
    INSERT INTO "{{s}}".journal (ref, position, epoch, at, format, control, payload)
    SELECT m.ref, 1, m.epoch, a.at, $3::bigint, a.control, a.payload FROM made m JOIN asked a ON a.mark = m.mark
)
SELECT t.now, m.mark, m.ref, m.wake_at, {_NOTIFY.replace("{why}", "(SELECT FROM made WHERE owner IS NULL)")}
FROM t LEFT JOIN made m ON true
"""

# The runs that stand in the way of such: by key, else by id; and whether their owners live.
_EXISTING = f"""
SELECT a.n, a.owner IS NULL OR EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = a.owner AND w.state = 0) AS live, r.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS a (run_id, workflow, key, owner, n)
LEFT JOIN LATERAL (
    SELECT {_HEADER}, r.mark FROM "{{s}}".runs r WHERE r.workflow = a.workflow AND r.idempotency_key = a.key
    UNION ALL
    SELECT {_HEADER}, r.mark FROM "{{s}}".runs r WHERE r.run_id = a.run_id
    LIMIT 1
) r ON true
"""

# --- steps

# What a commit says, in the order of the parameters from $4 on.
_SAID = {
    "ref": "bigint", "run_id": "text", "owner": "text", "epoch": "bigint", "position": "bigint", "inbox_seq": "bigint", "at": "bigint",
    "control": "text", "payload": "text", "status": "text", "wake_at": "bigint", "waiting": "text", "blocked": "text",
    "misfits": "text", "release": "boolean", "version": "text", "shape": "text",
}  # fmt: skip
_MANY = "asked AS MATERIALIZED (SELECT * FROM unnest({}) WITH ORDINALITY AS a ({}, n))".format(
    ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(_SAID.values(), start=4)), ", ".join(_SAID)
)
# A lone one comes as it is: a third quicker than as arrays of one.
_ONE = "asked AS (SELECT {}, 1::bigint AS n)".format(
    ", ".join(f"${number}::{kind} AS {name}" for number, (name, kind) in enumerate(_SAID.items(), start=4))
)
# Steps forward, each if everything is as its holder saw it (D12). A worker that is condemned while this runs may have one
# more commit behind it, to runs that nobody else has yet: whoever takes one over changes owner and epoch, and is waited for.
_COMMIT = f"""
WITH {_T}, {{asked}}, moved AS (
    UPDATE "{{s}}".runs r SET
        position = CASE WHEN a.control IS NULL THEN r.position ELSE r.position + 1 END,
        updated_at = CASE WHEN a.control IS NULL THEN r.updated_at ELSE a.at END,
        seen_seq = r.inbox_seq, status = a.status, wake_at = CASE a.wake_at WHEN 0 THEN t.now ELSE a.wake_at END,
        waiting = a.waiting, blocked = a.blocked, misfits = a.misfits,
        ended_at = CASE WHEN a.status IN {_ENDED} THEN CASE WHEN a.control IS NULL THEN coalesce(r.ended_at, a.at) ELSE a.at END END,
        owner = CASE WHEN a.release THEN NULL ELSE r.owner END,
        version = CASE a.version WHEN '' THEN r.version ELSE a.version END,
        shape = CASE a.version WHEN '' THEN r.shape ELSE a.shape END
    FROM asked a CROSS JOIN t
    WHERE r.ref = a.ref AND r.run_id = a.run_id AND r.owner IS NOT DISTINCT FROM a.owner AND r.epoch = a.epoch AND r.position = a.position
        AND r.inbox_seq = a.inbox_seq AND EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = a.owner AND w.state = 0)
    RETURNING a.n, a.ref, a.owner, a.epoch, a.position, a.at, a.control, a.payload, a.release OR a.status IN {_ENDED} AS loud
), written AS (
    INSERT INTO "{{s}}".journal (ref, position, epoch, at, format, control, payload)
    SELECT ref, position + 1, epoch, at, $3::bigint, control, payload FROM moved WHERE control IS NOT NULL
), prolonged AS (
    UPDATE "{{s}}".workers w SET expires_at = t.now + w.lease, doubt_until = NULL
    FROM t WHERE w.nonce IN (SELECT owner FROM moved) AND w.state = 0
        AND least(w.expires_at, w.doubt_until) - t.now < w.lease - w.lease / 3
){{more}}
SELECT t.now, ARRAY(SELECT n FROM moved), {{told}} FROM t
"""
_LOUD = _NOTIFY.replace("{why}", "(SELECT FROM moved WHERE loud)")
_QUIET = "$2::text"
# The same where postings are consumed too.
_CONSUMED = """, consumed AS (
    UPDATE "{s}".inbox i SET taken = m.position + CASE WHEN m.control IS NULL THEN 0 ELSE 1 END
    FROM moved m JOIN unnest($21::bigint[], $22::bigint[]) AS c (n, seq) ON c.n = m.n
    WHERE i.ref = m.ref AND i.seq = c.seq
)"""

# Why a commit found nothing to update: where its run stands, and the row that it would have written, if it was written before.
_STAND = """
SELECT a.n, r.ref, r.owner, r.epoch, r.position, r.inbox_seq, j.control, j.payload,
    EXISTS (SELECT FROM "{s}".workers w WHERE w.nonce = a.owner AND w.state = 0) AS live
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) WITH ORDINALITY
    AS a (ref, run_id, owner, epoch, position, at, n)
LEFT JOIN "{s}".runs r ON r.ref = a.ref AND r.run_id = a.run_id
LEFT JOIN "{s}".journal j ON j.ref = a.ref AND j.position = a.position + 1 AND j.epoch = a.epoch AND j.at = a.at
"""
# Pending postings behind those that were seen.
_NEWER = """
SELECT a.n, i.seq, i.kind, i.name, i.payload, i.signal_id, i.at
FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS a (ref, seen, n)
JOIN "{s}".inbox i ON i.pending = a.ref AND i.seq > a.seen ORDER BY a.n, i.seq
"""

# --- postings

# Keep a posting and number it: the run's row is locked first, so that no parking commit can miss it (I25). What is read of the
# inbox is as old as the statement; where the row has changed since then, nothing is done and the statement is sent again.
_POST = f"""
WITH {_T}, seen AS MATERIALIZED (SELECT ctid AS place FROM "{{s}}".runs WHERE run_id = $3), run AS MATERIALIZED (
    SELECT r.*, r.ctid AS place FROM "{{s}}".runs r WHERE r.run_id = $3 FOR UPDATE
), known AS MATERIALIZED (
    SELECT i.seq FROM "{{s}}".inbox i WHERE i.ref = (SELECT ref FROM run) AND i.signal_id = $8
), verdict AS MATERIALIZED (
    SELECT CASE
        WHEN r.place IS DISTINCT FROM (SELECT place FROM seen) THEN 'stale'
        WHEN r.workflow <> $4::text THEN 'other'
        WHEN EXISTS (SELECT FROM known) THEN 'known'
        WHEN r.status IN {_ENDED} THEN 'ended'
        WHEN $5::text = 'signal' AND $9::bigint <= (
            SELECT count(*) FROM (SELECT FROM "{{s}}".inbox i WHERE i.pending = r.ref LIMIT $9) x
        ) THEN 'full'
        ELSE 'new' END AS what
    FROM run r
), rung AS (
    UPDATE "{{s}}".runs r SET inbox_seq = r.inbox_seq + 1,
        wake_at = CASE WHEN r.owner IS NULL AND r.status <> 'blocked' THEN least(r.wake_at, t.now) ELSE r.wake_at END
    FROM t CROSS JOIN verdict v WHERE r.run_id = $3 AND v.what = 'new'
    RETURNING {_HEADER}
), kept AS (
    INSERT INTO "{{s}}".inbox (ref, seq, kind, name, payload, signal_id, at, mark)
    SELECT g.ref, g.inbox_seq, $5, $6::text, $7::text, $8, t.now, $10::bigint FROM rung g CROSS JOIN t
)
SELECT {_HEADER}, v.what, t.now, (SELECT seq FROM known) AS seq, {_NOTIFY.replace("{why}", "(SELECT FROM rung)")}
FROM (SELECT {_HEADER} FROM run r WHERE NOT EXISTS (SELECT FROM rung) UNION ALL SELECT * FROM rung) r CROSS JOIN verdict v CROSS JOIN t
"""
_LOCK_RUN = 'SELECT FROM "{s}".runs WHERE run_id = $1 FOR UPDATE'
# The posting that a call whose answer was lost has made.
_POSTED = """
SELECT i.seq FROM "{s}".inbox i WHERE i.ref = (SELECT ref FROM "{s}".runs WHERE run_id = $1) AND i.mark = $2
"""

# --- leases

_LIVE = 'EXISTS (SELECT FROM "{s}".workers w WHERE w.nonce = $2 AND w.state = 0)'
_DUE_AGAIN = f"wake_at = CASE WHEN r.status IN {_STILL} THEN r.wake_at ELSE t.now END"

# Lease one run that nobody holds, or that a condemned worker did: its epoch grows with the change of hands (I10).
_TAKE = f"""
WITH {_T} UPDATE "{{s}}".runs r SET owner = $2, epoch = r.epoch + 1, seen_seq = r.inbox_seq, mark = $4,
    wake_at = CASE WHEN r.owner IS NULL OR r.status IN {_STILL} THEN r.wake_at ELSE t.now END
FROM t WHERE r.run_id = $3 AND {_LIVE}
    AND ($5::boolean OR r.status <> 'blocked') AND ($6::boolean OR r.status NOT IN {_ENDED})
    AND (r.owner IS NULL OR NOT EXISTS (SELECT FROM "{{s}}".workers o WHERE o.nonce = r.owner AND o.state = 0))
RETURNING t.now, r.ref
"""
# Why that was not possible: the run, whether the taker lives, and its owner as a worker.
_HOLDER = f"""
WITH {_T} SELECT t.now, {_LIVE} AS live, r.ref, r.status, r.owner, r.mark, o.lock,
    o.state = 0 AND least(o.expires_at, o.doubt_until) > t.now AS holds, o.state = 0 AND o.host = $4 AS here
FROM t LEFT JOIN "{{s}}".runs r ON r.run_id = $3 LEFT JOIN "{{s}}".workers o ON o.nonce = r.owner
"""

_LEVEL = 'FROM "{s}".runs r WHERE r.workflow = v.workflow AND r.version = v.version AND r.due_at IS NOT NULL'
_OF_LEVEL = f"{_LEVEL} AND r.priority = v.priority AND r.unfit = v.unfit"

# Lease what is most urgent (9). `levels` are the priorities and misfits of all that could be claimed now or later, each pair
# once (a loose scan of the index): runs that a claimer cannot run cost it one look for all of a level, however many they are.
# `quota` says how many come from which level; only so many are locked, and what others have locked is passed over.
_CLAIM = f"""
WITH RECURSIVE {_T}, codes AS MATERIALIZED (
    SELECT * FROM unnest($5::bigint[], $6::text[], $7::text[]) AS c (place, workflow, version)
), shapes AS MATERIALIZED (
    SELECT * FROM unnest($8::bigint[], $9::text[]) AS c (place, shape)
), levels AS (
    SELECT v.place, v.workflow, v.version, l.* FROM codes v CROSS JOIN LATERAL (
        SELECT r.priority, r.unfit, r.misfits {_LEVEL} ORDER BY r.priority DESC, r.unfit DESC LIMIT 1
    ) l
    UNION ALL
    SELECT v.place, v.workflow, v.version, l.* FROM levels v CROSS JOIN LATERAL (
        SELECT r.priority, r.unfit, r.misfits {_LEVEL} AND (r.priority, r.unfit) < (v.priority, v.unfit)
        ORDER BY r.priority DESC, r.unfit DESC LIMIT 1
    ) l
), fitting AS MATERIALIZED (
    SELECT * FROM levels v WHERE EXISTS (
        SELECT FROM shapes c WHERE c.place = v.place AND c.shape <> ALL (string_to_array(v.misfits, chr(31)))
    )
), best AS (
    SELECT v.* FROM fitting v CROSS JOIN t CROSS JOIN LATERAL (
        SELECT r.due_at, r.run_id {_OF_LEVEL} AND r.due_at <= t.now ORDER BY r.due_at, r.run_id LIMIT $4
    ) d ORDER BY d.due_at - v.priority * {MINUTE}, v.priority DESC, v.place, d.run_id LIMIT $4
), quota AS MATERIALIZED (
    SELECT v.place, v.workflow, v.version, v.priority, v.unfit, count(*) AS n FROM best v GROUP BY 1, 2, 3, 4, 5
), picked AS MATERIALIZED (
    SELECT v.place, v.priority, d.* FROM quota v CROSS JOIN t CROSS JOIN LATERAL (
        SELECT r.ref, r.due_at, r.run_id {_OF_LEVEL} AND r.due_at <= t.now
        ORDER BY r.due_at, r.run_id LIMIT v.n FOR UPDATE SKIP LOCKED
    ) d
), leased AS (
    UPDATE "{{s}}".runs r SET owner = $2, epoch = r.epoch + 1, seen_seq = r.inbox_seq, mark = $3
    FROM picked p WHERE r.ref = p.ref AND r.owner IS NULL AND {_LIVE}
    RETURNING r.ref, p.due_at - p.priority * {MINUTE} AS rank, p.priority, p.place, p.run_id
)
SELECT t.now, {_LIVE} AS live, ARRAY(SELECT ref FROM leased ORDER BY rank, priority DESC, place, run_id) AS refs, (
    SELECT min(d.due_at) FROM fitting v CROSS JOIN LATERAL (
        SELECT r.due_at {_OF_LEVEL} AND r.ref NOT IN (SELECT ref FROM leased) ORDER BY r.due_at LIMIT 1
    ) d
) AS next_at FROM t
"""
# What a claim whose answer was lost has leased.
_LEASED = 'SELECT ref FROM "{s}".runs WHERE owner = $1 AND mark = $2'

# Condemn the late and the gone, except who claims, and free a bounded number of the runs of condemned workers: due at once
# unless they have ended or are parked. What is locked just now is passed over: it is freed the next time.
_SWEEP = f"""
WITH {_T}, late AS (
    UPDATE "{{s}}".workers w SET state = 1, condemned_at = t.now FROM t
    WHERE w.state = 0 AND w.nonce IS DISTINCT FROM $3::text
        AND (least(w.expires_at, w.doubt_until) <= t.now OR w.nonce = ANY ($4::text[]))
        AND ($3 IS NULL OR EXISTS (SELECT FROM "{{s}}".workers c WHERE c.nonce = $3 AND c.state = 0))
    RETURNING w.nonce, w.host, w.lock
), dead AS MATERIALIZED (
    SELECT nonce FROM late UNION SELECT nonce FROM "{{s}}".workers WHERE state = 1
), held AS MATERIALIZED (
    SELECT r.ref, r.owner FROM dead d CROSS JOIN LATERAL (
        SELECT r.ref, r.owner FROM "{{s}}".runs r WHERE r.owner = d.nonce LIMIT {SWEEP} FOR UPDATE SKIP LOCKED
    ) r LIMIT {SWEEP}
), freed AS (
    UPDATE "{{s}}".runs r SET owner = NULL, {_DUE_AGAIN} FROM held h CROSS JOIN t
    WHERE r.ref = h.ref AND r.owner IS NOT DISTINCT FROM h.owner
    RETURNING r.ref
), buried AS (
    UPDATE "{{s}}".workers w SET state = 2 FROM t
    WHERE w.state = 1 AND w.condemned_at < t.now - {PROOF} AND NOT EXISTS (SELECT FROM "{{s}}".runs r WHERE r.owner = w.nonce)
)
SELECT t.now, (SELECT count(*) FROM freed) AS freed, late.*,
    {_NOTIFY.replace("{why}", "(SELECT FROM late) OR EXISTS (SELECT FROM freed)")}
FROM t LEFT JOIN late ON true
"""
# Look after the sessions of the others (D14): one that is gone leaves its worker a few seconds to come back. A database that was
# restarted has ended all sessions, and nobody must be taken over for that. The answer: the live ones of this host.
_PROBE = f"""
WITH {_T}, doubted AS (
    UPDATE "{{s}}".workers w SET doubt_until = t.now + {DOUBT} FROM t
    WHERE w.state = 0 AND w.nonce IS DISTINCT FROM $2::text AND w.doubt_until IS NULL AND w.expires_at > t.now + {DOUBT}
        AND CASE WHEN w.beacon IS NULL THEN false ELSE pg_try_advisory_xact_lock_shared(w.beacon) END
)
SELECT w.nonce, w.lock FROM "{{s}}".workers w
WHERE w.state = 0 AND w.nonce IS DISTINCT FROM $2 AND w.host = $3 AND w.lock IS NOT NULL
"""

# Make a worker; one that was condemned before holds nothing.
_REGISTER = f"""
WITH {_T}, freed AS (
    UPDATE "{{s}}".runs r SET owner = NULL, {_DUE_AGAIN} FROM t
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
SELECT t.now, {_NOTIFY.replace("{why}", "(SELECT FROM freed)")} FROM t
"""
# Extend the lease of a worker that lives, and tell of its runs with postings that it has not stated (D13).
_RENEW = f"""
WITH {_T}, extended AS (
    UPDATE "{{s}}".workers w SET expires_at = t.now + $3::bigint, lease = $3, doubt_until = NULL FROM t
    WHERE w.nonce = $2 AND w.state = 0 RETURNING w.nonce
)
SELECT t.now, EXISTS (SELECT FROM extended) AS alive, ARRAY(
    SELECT r.run_id FROM "{{s}}".runs r WHERE r.owner = $2 AND r.inbox_seq > r.seen_seq
) AS unseen FROM t
"""
# The sessions of these workers are back.
_SHOWN = 'UPDATE "{s}".workers SET doubt_until = NULL, beacon = k.key FROM unnest($1::text[], $2::bigint[]) AS k (nonce, key) ' \
    "WHERE workers.nonce = k.nonce AND state = 0"  # fmt: skip

# --- forgetting

_ENDED_RUN = 'SELECT ref, status FROM "{s}".runs WHERE run_id = $1 FOR UPDATE'
_OLD = """
SELECT ref FROM "{s}".runs WHERE ended_at IS NOT NULL AND ended_at <= (SELECT {now}) - $2::bigint
ORDER BY ended_at, ref LIMIT $3 FOR UPDATE SKIP LOCKED
"""
_DELETE = tuple(f'DELETE FROM "{{s}}".{table} WHERE ref = ANY ($1::bigint[])' for table in ("inbox", "journal", "runs"))


class Queries:
    """The texts for one schema. `given`: the time comes with each statement, instead of from the server."""

    def __init__(self, schema: str, given: bool) -> None:
        def text(template: str) -> str:
            return template.replace("{s}", schema).replace("{now}", _GIVEN if given else _OWN)

        self.channel = f"flux_{schema}"
        self.now = text("SELECT {now}")
        self.read_header = text(_READ_HEADER)
        self.load = text(f"{_LOAD} WHERE r.run_id = $1")
        self.load_many = text(f"{_LOAD} WHERE r.ref = ANY ($1::bigint[]) AND r.owner IS NOT DISTINCT FROM $2 AND r.mark = $3")
        self.journal = text(_JOURNAL)
        self.find = text(_FIND)
        self.find_workflow = text(_FIND_WORKFLOW)
        self.find_statuses = text(_FIND_STATUSES)
        self.create = text(_CREATE)
        self.existing = text(_EXISTING)
        # (whether it is of one, whether it consumes postings, whether others may wait for it) -> the text
        self.commit = {
            (one, more, loud): text(
                _COMMIT.replace("{asked}", _ONE if one else _MANY)
                .replace("{more}", _CONSUMED if more else "")
                .replace("{told}", _LOUD if loud else _QUIET)
            )
            for one in (True, False)
            for more in (True, False)
            for loud in (True, False)
        }
        self.stand = text(_STAND)
        self.newer = text(_NEWER)
        self.post = text(_POST)
        self.lock_run = text(_LOCK_RUN)
        self.posted = text(_POSTED)
        self.take = text(_TAKE)
        self.holder = text(_HOLDER)
        self.claim = text(_CLAIM)
        self.leased = text(_LEASED)
        self.sweep = text(_SWEEP)
        self.probe = text(_PROBE)
        self.register = text(_REGISTER)
        self.renew = text(_RENEW)
        self.shown = text(_SHOWN)
        self.ended_run = text(_ENDED_RUN)
        self.old = text(_OLD)
        self.delete = tuple(text(template) for template in _DELETE)

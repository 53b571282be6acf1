"""Every SQL text of the adapter, for one schema. What becomes part of a text is the checked name of the schema, and nothing
else (S15.7).

Here are those of reading runs, making them, their steps and their postings; lease_queries.py, family_queries.py and
schedule_queries.py have the others, fragments.py what they share. The statements name rows by primary key or by one index each,
whatever the planner knows of the tables: see `SETTINGS`.
"""

from __future__ import annotations

from . import family_queries, lane_queries, lease_queries, schedule_queries
from .fragments import ENDED, GIVEN, HEADER, NOTIFY, OWN, T, free, rank

# Plans are made once and kept, so they must be right for tables of any size: a new database has no statistics, and a plan made
# for ten rows would read all of a million later. So each text leaves one index to look into and one order to find there:
# `IS NOT DISTINCT FROM` compares what must not be looked up. (What is off counts as dear, which would set off the compiler.)
# Who has waited for a row goes on with the row as it is then: that is what 'read committed' means. A session that is cut off in the
# middle of a transaction must not keep runs locked: the server ends it.
UNFINISHED = 10_000  # milliseconds that a transaction which has locked runs may do nothing
SETTINGS = f"""
SET default_transaction_isolation = 'read committed';
SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off;
SET enable_mergejoin = off; SET enable_sort = off; SET jit = off; SET idle_in_transaction_session_timeout = {UNFINISHED}
"""

# --- reading

_READ_HEADER = f'SELECT {HEADER} FROM "{{s}}".runs r WHERE r.run_id = $1'

# Whole runs from one snapshot: the head, its journal column by column from where it begins, and what is pending in its inbox.
_LOAD = f"""
SELECT {HEADER}, j.*, i.*, r.mark, r.base FROM "{{s}}".runs r
CROSS JOIN LATERAL (
    SELECT array_agg(x.position), array_agg(x.epoch), array_agg(x.at), array_agg(x.format), array_agg(x.control), array_agg(x.payload)
    FROM (SELECT * FROM "{{s}}".journal WHERE ref = r.ref AND position >= r.base ORDER BY position) x
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
_FIND = f'SELECT {HEADER} FROM "{{s}}".runs r WHERE {_BEFORE} {_NEWEST}'
_FIND_WORKFLOW = f'SELECT {HEADER} FROM "{{s}}".runs r WHERE r.workflow = $5 AND {_BEFORE} {_NEWEST}'
# A page of the runs in any of some statuses: the newest of each, merged.
_FIND_STATUSES = f"""
SELECT r.* FROM unnest($6::text[]) AS s (status) CROSS JOIN LATERAL (
    SELECT {HEADER} FROM "{{s}}".runs r
    WHERE r.status = s.status AND ($5::text IS NULL OR r.workflow = $5) AND {_BEFORE} {_NEWEST}
) r {_NEWEST}
"""

# --- making runs

# New runs, each unless its id or key is taken or its owner is dead; `mark` tells them apart.
_CREATE = f"""
WITH {T}, asked AS MATERIALIZED (
    SELECT a.*, {lane_queries.BEHIND} AS parked, CASE WHEN a.owner IS NULL THEN t.now + a.delay END AS free_at FROM t CROSS JOIN unnest(
        $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[],
        $13::bigint[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[],
        $22::text[]
    ) AS a (mark, run_id, workflow, version, shape, status, priority, at, wake_at, delay, owner, input_digest, idempotency_key,
            waiting, parent, control, payload, lane, deduplication_key)
), made AS (
    INSERT INTO "{{s}}".runs (run_id, workflow, version, shape, status, priority, created_at, updated_at, wake_at, owner, epoch,
        position, inbox_seq, seen_seq, input_digest, idempotency_key, waiting, blocked, misfits, parent, mark, lane, parked,
        deduplication_key, begun, lane_owner, kind, due_at, rank)
    SELECT a.run_id, a.workflow, a.version, a.shape, a.status, a.priority, a.at, a.at,
        CASE WHEN a.owner IS NULL THEN a.free_at ELSE coalesce(nullif(a.wake_at, 0), t.now) END, a.owner,
        CASE WHEN a.owner IS NULL THEN 0 ELSE 1 END, 1, 0, 0, a.input_digest, a.idempotency_key, a.waiting, '', '', a.parent, a.mark,
        a.lane, a.parked, a.deduplication_key, a.owner IS NOT NULL, CASE WHEN a.lane <> '' THEN a.owner END,
        CASE WHEN a.lane <> '' THEN a.version || CASE WHEN a.owner IS NULL THEN ' 0 ' ELSE ' 1 ' END END,
        CASE WHEN NOT a.parked THEN a.free_at END, {rank("a.free_at", "a")}
    FROM asked a CROSS JOIN t
    WHERE a.owner IS NULL OR EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = a.owner AND w.state = 0)
    ON CONFLICT DO NOTHING
    RETURNING mark, ref, wake_at, epoch, owner, parked
), written AS (
    INSERT INTO "{{s}}".journal (ref, position, epoch, at, format, control, payload)
    SELECT m.ref, 1, m.epoch, a.at, $3::bigint, a.control, a.payload FROM made m JOIN asked a ON a.mark = m.mark
)
SELECT t.now, m.mark, m.ref, m.wake_at, {NOTIFY.replace("{why}", "(SELECT FROM made WHERE owner IS NULL)")}, m.parked
FROM t LEFT JOIN made m ON true
"""

# A lone one, without a lane, as it comes; there is no row where it was not made.
_CREATE_ONE = f"""
WITH {T}, made AS (
    INSERT INTO "{{s}}".runs (run_id, workflow, version, shape, status, priority, created_at, updated_at, wake_at, due_at, owner, begun,
        epoch, position, inbox_seq, seen_seq, input_digest, idempotency_key, waiting, blocked, misfits, parent, mark, deduplication_key)
    SELECT $5, $6, $7, $8, $9, $10::bigint, $11::bigint, $11::bigint, CASE WHEN $14::text IS NULL THEN t.now + $13::bigint
        ELSE coalesce(nullif($12::bigint, 0), t.now) END, CASE WHEN $14::text IS NULL THEN t.now + $13::bigint END, $14::text,
        $14::text IS NOT NULL, CASE WHEN $14::text IS NULL THEN 0 ELSE 1 END, 1, 0, 0, $15, $16, $17, '', '', $18, $4::bigint, $21
    FROM t WHERE $14::text IS NULL OR EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = $14::text AND w.state = 0)
    ON CONFLICT DO NOTHING
    RETURNING ref, wake_at, epoch
)
INSERT INTO "{{s}}".journal (ref, position, epoch, at, format, control, payload)
SELECT m.ref, 1, m.epoch, $11::bigint, $3::bigint, $19, $20 FROM made m
RETURNING (SELECT now FROM t), ref, (SELECT wake_at FROM made), (SELECT pg_notify('flux_{{s}}', $2::text) WHERE $14::text IS NULL)
"""

# The runs that stand in the way of such: by key, else by id; and whether their owners live.
_EXISTING = f"""
SELECT a.n, a.owner IS NULL OR EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = a.owner AND w.state = 0) AS live, r.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS a (run_id, workflow, key, owner, once, n)
LEFT JOIN LATERAL (
    SELECT {HEADER}, r.mark FROM "{{s}}".runs r WHERE r.workflow = a.workflow AND r.idempotency_key = a.key
    UNION ALL
    SELECT {HEADER}, r.mark FROM "{{s}}".runs r WHERE r.run_id = a.run_id
    UNION ALL
    SELECT {HEADER}, r.mark FROM "{{s}}".runs r WHERE r.workflow = a.workflow AND r.deduplication_key = a.once
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
_WAKE_AT = "CASE a.wake_at WHEN 0 THEN t.now ELSE a.wake_at END"
_VERSION = "CASE a.version WHEN '' THEN r.version ELSE a.version END"
_RELEASED = ", ".join(
    f"{column} = CASE WHEN a.release THEN {value} ELSE r.{column} END" for column, value in free(_WAKE_AT, _VERSION, "a.misfits").items()
)
# Steps forward, each if everything is as its holder saw it (D12). A worker that is condemned while this runs may have one
# more commit behind it, to runs that nobody else has yet: whoever takes one over changes owner and epoch, and is waited for.
_COMMIT = f"""
WITH {T}, {{asked}}, moved AS (
    UPDATE "{{s}}".runs r SET
        position = CASE WHEN a.control IS NULL THEN r.position ELSE r.position + 1 END,
        updated_at = CASE WHEN a.control IS NULL THEN r.updated_at ELSE a.at END,
        seen_seq = r.inbox_seq, status = a.status, wake_at = {_WAKE_AT},
        waiting = a.waiting, blocked = a.blocked, misfits = a.misfits,
        ended_at = CASE WHEN a.status IN {ENDED} THEN CASE WHEN a.control IS NULL THEN coalesce(r.ended_at, a.at) ELSE a.at END END,
        {_RELEASED},
        version = {_VERSION},
        shape = CASE a.version WHEN '' THEN r.shape ELSE a.shape END,
        deduplication_key = CASE WHEN a.status NOT IN {ENDED} THEN r.deduplication_key END{{base}}
    FROM asked a CROSS JOIN t
    WHERE r.ref = a.ref AND r.run_id = a.run_id AND r.owner IS NOT DISTINCT FROM a.owner AND r.epoch = a.epoch AND r.position = a.position
        AND r.inbox_seq = a.inbox_seq AND EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = a.owner AND w.state = 0)
    RETURNING a.n, a.ref, a.owner, a.epoch, a.position, a.at, a.control, a.payload, a.release OR a.status IN {ENDED} AS loud
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
# What most commits say, for half of the server's time: one run, with records, which takes no postings and moves to no version; `prolonged`
# is left out for most of a second after a commit that had it. The answer is the time, or no row where nothing was moved.
_STANDS = """r.ref = $3::bigint AND r.run_id = $4 AND r.owner IS NOT DISTINCT FROM $5::text AND r.epoch = $6::bigint
        AND r.position = $7::bigint AND r.inbox_seq = $8::bigint
        AND EXISTS (SELECT FROM "{s}".workers w WHERE w.nonce = $5 AND w.state = 0)"""
_WRITTEN = """INSERT INTO "{s}".journal (ref, position, epoch, at, format, control, payload)
SELECT ref, position, $6::bigint, $9::bigint, $2::bigint, $10, $11 FROM moved"""
_STEP = f"""
WITH moved AS (
    UPDATE "{{s}}".runs r SET position = r.position + 1, updated_at = $9::bigint, seen_seq = r.inbox_seq, status = $12, ended_at = NULL,
        wake_at = CASE $13::bigint WHEN 0 THEN {{now}} ELSE $13::bigint END, waiting = $14, blocked = $15, misfits = $16
    WHERE {_STANDS}
    RETURNING r.ref, r.position
)
{_WRITTEN}
RETURNING {{now}}
"""
# The same where the holder gives the run back, ended or not.
_BACK = ", ".join(
    f"{column} = {value}" for column, value in free("CASE $13::bigint WHEN 0 THEN t.now ELSE $13::bigint END", misfits="$16::text").items()
)
_LAST = f"""
WITH {T}, moved AS (
    UPDATE "{{s}}".runs r SET position = r.position + 1, updated_at = $9::bigint, seen_seq = r.inbox_seq, status = $12, {_BACK},
        wake_at = CASE $13::bigint WHEN 0 THEN t.now ELSE $13::bigint END, waiting = $14, blocked = $15, misfits = $16::text,
        ended_at = CASE WHEN $12 IN {ENDED} THEN $9::bigint END,
        deduplication_key = CASE WHEN $12 NOT IN {ENDED} THEN r.deduplication_key END
    FROM t WHERE {_STANDS}
    RETURNING r.ref, r.position
)
{_WRITTEN}
RETURNING (SELECT now FROM t), (
    SELECT pg_notify('flux_{{s}}', $17::text) WHERE EXISTS (SELECT FROM "{{s}}".listeners l WHERE l.token <> $17::text)
)
"""
_LOUD = NOTIFY.replace("{why}", "(SELECT FROM moved WHERE loud)")
_QUIET = "$2::text"
# The same where a journal begins anew (the numbers of such commits).
_BASE = ", base = CASE WHEN a.control IS NOT NULL AND a.n = ANY ($23::bigint[]) THEN r.position + 1 ELSE r.base END"
# The same where postings are consumed too.
_CONSUMED = """, consumed AS (
    UPDATE "{s}".inbox i SET taken = m.position + CASE WHEN m.control IS NULL THEN 0 ELSE 1 END, pending = NULL
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
# inbox is as old as the statement; where the row has changed since then, nothing is done and the statement is sent again. A poster who
# can has the run at once, as `take` would give it; there is no notification then: transactions with one wait for the disk one by one.
_WOKEN = "CASE WHEN r.owner IS NULL AND r.status <> 'blocked' THEN least(r.wake_at, t.now) ELSE r.wake_at END"
_RUNG = f"""wake_at = {_WOKEN}, due_at = CASE WHEN r.owner IS NULL AND NOT r.parked AND NOT v.takes THEN {_WOKEN} END,
        rank = CASE WHEN r.owner IS NULL AND NOT v.takes THEN {rank(_WOKEN)} END,
        owner = CASE WHEN v.takes THEN $11 ELSE r.owner END, lane_owner = CASE WHEN v.takes AND r.lane <> '' THEN $11 ELSE r.lane_owner END,
        epoch = CASE WHEN v.takes THEN r.epoch + 1 ELSE r.epoch END, begun = r.begun OR v.takes, parked = r.parked AND NOT v.takes,
        seen_seq = CASE WHEN v.takes THEN r.inbox_seq + 1 ELSE r.seen_seq END, mark = CASE WHEN v.takes THEN $10 ELSE r.mark END"""
_POST = f"""
WITH {T}, seen AS MATERIALIZED (SELECT ctid AS place FROM "{{s}}".runs WHERE run_id = $3), run AS MATERIALIZED (
    SELECT r.*, r.ctid AS place FROM "{{s}}".runs r WHERE r.run_id = $3 FOR UPDATE
), known AS MATERIALIZED (
    SELECT i.seq FROM "{{s}}".inbox i WHERE i.ref = (SELECT ref FROM run) AND i.signal_id = $8
), verdict AS MATERIALIZED (
    SELECT CASE
        WHEN r.place IS DISTINCT FROM (SELECT place FROM seen) THEN 'stale'
        WHEN r.workflow <> $4::text THEN 'other'
        WHEN EXISTS (SELECT FROM known) THEN 'known'
        WHEN r.status IN {ENDED} THEN 'ended'
        WHEN $5::text = 'signal' AND $9::bigint <= (
            SELECT count(*) FROM (SELECT FROM "{{s}}".inbox i WHERE i.pending = r.ref LIMIT $9) x
        ) THEN 'full'
        ELSE 'new' END AS what,
        r.owner IS NULL AND r.status <> 'blocked' AND EXISTS (SELECT FROM "{{s}}".workers w WHERE w.nonce = $11 AND w.state = 0) AS takes
    FROM run r
), rung AS (
    UPDATE "{{s}}".runs r SET inbox_seq = r.inbox_seq + 1, {_RUNG}
    FROM t CROSS JOIN verdict v WHERE r.run_id = $3 AND v.what = 'new'
    RETURNING {HEADER}
), kept AS (
    INSERT INTO "{{s}}".inbox (ref, seq, kind, name, payload, signal_id, at, mark, pending)
    SELECT g.ref, g.inbox_seq, $5, $6::text, $7::text, $8, t.now, $10::bigint, g.ref FROM rung g CROSS JOIN t
)
SELECT {HEADER}, v.what, t.now, (SELECT seq FROM known) AS seq, v.what = 'new' AND v.takes AS taken,
    {NOTIFY.replace("{why}", "(SELECT FROM rung) AND $11::text IS NULL")}
FROM (SELECT {HEADER} FROM run r WHERE NOT EXISTS (SELECT FROM rung) UNION ALL SELECT * FROM rung) r CROSS JOIN verdict v CROSS JOIN t
"""
_LOCK_RUN = 'SELECT FROM "{s}".runs WHERE run_id = $1 FOR UPDATE'
# The posting that a call whose answer was lost has made.
_POSTED = """
SELECT i.seq FROM "{s}".inbox i WHERE i.ref = (SELECT ref FROM "{s}".runs WHERE run_id = $1) AND i.mark = $2
"""

# --- notifications

# From now on this connection listens; those that are gone do not. Where nobody else listens nothing is notified: it would cost a run a
# tenth of its time, for the server wakes the notifier's own connection too.
_LISTEN = """
WITH locked AS MATERIALIZED (SELECT pg_advisory_lock($1::bigint)), gone AS (
    DELETE FROM "{s}".listeners l WHERE pg_try_advisory_xact_lock(l.key)
)
INSERT INTO "{s}".listeners (key, token) SELECT $1, $2 FROM locked
"""
_UNLISTEN = 'DELETE FROM "{s}".listeners WHERE key = $1 AND token = $2'

# --- transactions of others

# Marks a transaction, so that one which its handler has ended cannot be taken for it.
_LEND = "SELECT set_config('flux.transaction', $1, true)"
# Before the first lock: whether it is still that one, and from here on the server ends it if nobody goes on with it: a holder that
# is cut off must not keep its run locked.
_RETURN = f"SELECT current_setting('flux.transaction', true), set_config('idle_in_transaction_session_timeout', '{UNFINISHED}', true)"
# Where the tables are, without an error where they are not.
_HERE = "SELECT to_regclass($1) IS NOT NULL"
_HOME = 'SELECT home FROM "{s}".flux_schema'


class Queries:
    """The texts for one schema. `given`: the time comes with each statement, instead of from the server."""

    def __init__(self, schema: str, given: bool) -> None:
        def text(template: str) -> str:
            return template.replace("{s}", schema).replace("{now}", GIVEN if given else OWN)

        self.channel = f"flux_{schema}"
        self.listen, self.unlisten = text(_LISTEN), text(_UNLISTEN)
        self.now = text("SELECT {now}")
        self.read_header = text(_READ_HEADER)
        self.load = text(f"{_LOAD} WHERE r.run_id = $1")
        self.load_many = text(f"{_LOAD} WHERE r.ref = ANY ($1::bigint[]) AND r.owner IS NOT DISTINCT FROM $2 AND r.mark = $3")
        self.journal = text(_JOURNAL)
        self.find = text(_FIND)
        self.find_workflow = text(_FIND_WORKFLOW)
        self.find_statuses = text(_FIND_STATUSES)
        self.create = text(_CREATE)
        self.create_one = text(_CREATE_ONE)
        self.existing = text(_EXISTING)
        # (whether it is of one, whether it consumes postings, whether others may wait for it) -> the text
        self.commit = {
            (one, more, loud): text(
                _COMMIT.replace("{asked}", _ONE if one else _MANY)
                .replace("{more}", _CONSUMED if more else "")
                .replace("{told}", _LOUD if loud else _QUIET)
                .replace("{base}", "")
            )
            for one in (True, False)
            for more in (True, False)
            for loud in (True, False)
        }
        self.step = text(_STEP)
        self.last = text(_LAST)
        self.stand = text(_STAND)
        self.newer = text(_NEWER)
        self.post = text(_POST)
        self.lock_run = text(_LOCK_RUN)
        self.posted = text(_POSTED)
        self.commit_widely = text(
            _COMMIT.replace("{asked}", _MANY).replace("{more}", _CONSUMED).replace("{told}", _LOUD).replace("{base}", _BASE)
        )
        self.lock = text(family_queries.LOCK)
        self.deliver = text(family_queries.DELIVER)
        self.delivered = text(family_queries.DELIVERED)
        self.parent = text(family_queries.PARENT)
        self.family = text(family_queries.FAMILY)
        self.old = text(family_queries.OLD)
        self.lock_free = text(family_queries.LOCK_FREE)
        self.delete = tuple(text(template) for template in family_queries.DELETE)
        self.schedule = text(schedule_queries.SCHEDULE)
        self.schedules = text(schedule_queries.SCHEDULES)
        self.schedules_due = text(schedule_queries.SCHEDULES_DUE)
        self.forgotten = text(schedule_queries.FORGOTTEN)
        self.schedule_new = text(schedule_queries.SCHEDULE_NEW)
        self.schedule_change = text(schedule_queries.SCHEDULE_CHANGE)
        self.scheduled = text(schedule_queries.SCHEDULED)
        self.unschedule = text(schedule_queries.UNSCHEDULE)
        self.lend, self.give_back, self.here, self.home = _LEND, _RETURN, _HERE, text(_HOME)
        self.take = text(lease_queries.TAKE)
        self.holder = text(lease_queries.HOLDER)
        self.claim = text(lease_queries.CLAIM)
        self.leased = text(lease_queries.LEASED)
        self.sweep = text(lease_queries.SWEEPING)
        self.probe = text(lease_queries.PROBE)
        self.register = text(lease_queries.REGISTER)
        self.renew = text(lease_queries.RENEW)
        self.shown = text(lease_queries.SHOWN)
        self.lock_numbers = text(lane_queries.LOCK_NUMBERS)
        self.try_numbers = text(lane_queries.TRY_NUMBERS)
        self.levels = text(lane_queries.LEVELS)
        self.due = text(lane_queries.DUE)
        self.next_of_level = text(lane_queries.NEXT)
        self.held = text(lane_queries.HELD)
        self.held_in = text(lane_queries.HELD_IN)
        self.park = text(lane_queries.PARK)
        self.lease = text(lane_queries.LEASE)
        self.let_in = text(lane_queries.LET_IN)
        self.lanes_of = text(lane_queries.LANES_OF)
        self.dead = text(lane_queries.DEAD)
        self.free = text(lane_queries.FREE)
        self.starts = text(lane_queries.STARTS)
        self.start = text(lane_queries.START)
        self.forget_starts = text(lane_queries.FORGET_STARTS)
        self.tell = text("SELECT pg_notify('flux_{s}', $1::text)")

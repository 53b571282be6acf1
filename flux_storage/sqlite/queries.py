"""Every SQL text of the adapter. None is ever built from input (S15.7)."""

from __future__ import annotations

# The fields of `flux.storage.Header`, in its order.
_HEADER = (
    "run_id, ref, workflow, version, shape, status, priority, created_at, updated_at, ended_at, wake_at, owner, epoch, "
    "position, inbox_seq, input_digest, idempotency_key, waiting, blocked, misfits, parent, lane, parked, deduplication_key"
)

# --- transactions

# Open a write transaction: at once, because a deferred one fails when it turns into a writer.
BEGIN = "BEGIN IMMEDIATE"
FILES = "PRAGMA database_list"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# How many changes others may wait for.
CHANGES = "SELECT n FROM flux_changes"
SET_CHANGES = "UPDATE flux_changes SET n = ?"
# Whether anybody else wrote to the file since this connection last asked.
DATA_VERSION = "PRAGMA data_version"

# --- reading

# The head of a run.
HEADER = f"SELECT {_HEADER} FROM flux_runs WHERE run_id = ?"
# The head of the run that a workflow made under an idempotency key.
HEADER_BY_KEY = f"SELECT {_HEADER} FROM flux_runs WHERE workflow = ? AND idempotency_key = ?"
# The same of one that has not ended, under a deduplication key.
HEADER_ONCE = f"SELECT {_HEADER} FROM flux_runs WHERE workflow = ? AND deduplication_key = ?"

_REST = ", ".join(["NULL"] * 19)  # as many columns as a head has beyond those of a row or a posting

# A whole run from one snapshot: its head and where its journal begins (0), its journal from there (1) and what is pending in
# its inbox (2). Journal and payloads come as bytes, so that one damaged text cannot keep the other rows from being read.
LOAD = f"""
SELECT 0, {_HEADER}, base FROM flux_runs WHERE run_id = :run_id
UNION ALL
SELECT 1, position, epoch, at, format, CAST(control AS BLOB), CAST(payload AS BLOB), {_REST}
FROM flux_journal WHERE ref = (SELECT ref FROM flux_runs WHERE run_id = :run_id)
    AND position >= (SELECT base FROM flux_runs WHERE run_id = :run_id)
UNION ALL
SELECT 2, seq, kind, name, CAST(payload AS BLOB), signal_id, at, {_REST}
FROM flux_inbox WHERE ref = (SELECT ref FROM flux_runs WHERE run_id = :run_id) AND taken IS NULL
"""

# A part of a journal.
JOURNAL = """
SELECT position, epoch, at, format, CAST(control AS BLOB), CAST(payload AS BLOB)
FROM flux_journal WHERE ref = (SELECT ref FROM flux_runs WHERE run_id = ?) AND position > ? ORDER BY position LIMIT ?
"""

_BEFORE = "AND (created_at, run_id) < (:at, :run_id) AND (:version IS NULL OR version = :version)"
_NEWEST = "ORDER BY created_at DESC, run_id DESC LIMIT :limit"

# A page of all runs.
FIND = f"SELECT {_HEADER} FROM flux_runs INDEXED BY flux_runs_created WHERE 1 {_BEFORE} {_NEWEST}"
# A page of one workflow's runs.
FIND_WORKFLOW = f"SELECT {_HEADER} FROM flux_runs INDEXED BY flux_runs_workflow WHERE workflow = :workflow {_BEFORE} {_NEWEST}"


def _find_status(number: int) -> str:
    page = (
        f"SELECT {_HEADER} FROM flux_runs INDEXED BY flux_runs_status "
        f"WHERE status = :status{number} AND (:workflow IS NULL OR workflow = :workflow) {_BEFORE} {_NEWEST}"
    )
    return f"SELECT * FROM ({page})"


# A page of the runs in any of so many statuses: the newest of each, merged.
FIND_STATUSES = {
    count: " UNION ALL ".join(map(_find_status, range(count))) + f" {_NEWEST}"
    for count in range(1, 9)
}  # fmt: skip

# --- writing runs

# A new run.
CREATE = """
INSERT INTO flux_runs (run_id, workflow, version, shape, status, priority, created_at, updated_at, wake_at, owner, epoch,
                       position, inbox_seq, seen_seq, input_digest, idempotency_key, waiting, blocked, parent, lane, parked,
                       deduplication_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, 0, ?, ?, ?, '', ?, ?, ?, ?)
"""
# The same of one that has no key and that its maker holds, if it is not there and that worker lives.
CREATE_HELD = """
INSERT INTO flux_runs (run_id, workflow, version, shape, status, priority, created_at, updated_at, wake_at, owner, epoch,
                       position, inbox_seq, seen_seq, input_digest, waiting, blocked, parent, lane)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, nonce, 1, 1, 0, 0, ?, ?, '', ?, ? FROM flux_workers WHERE nonce = ? AND state = 0
ON CONFLICT (run_id) DO NOTHING
"""
# A row of a journal.
APPEND = "INSERT INTO flux_journal (ref, position, epoch, at, format, control, payload) VALUES (?, ?, ?, ?, ?, ?, ?)"

_HELD = """ref = ? AND run_id = ? AND owner = ? AND epoch = ? AND position = ? AND inbox_seq = ?
    AND EXISTS (SELECT 1 FROM flux_workers w WHERE w.nonce = owner AND w.state = 0)"""

# A step of a run that goes on: no page of an index is written, for of what changes only `wake_at` stands in any, and only while nobody
# holds the run.
STEP = f"""
UPDATE flux_runs SET position = ?, updated_at = COALESCE(?, updated_at), seen_seq = inbox_seq, wake_at = ?
WHERE {_HELD} AND status = ? AND waiting = ? AND blocked = ? AND misfits = ?
"""
# Any other step. Where it ends the run, a commit with a row says when; where it moves the run, to which code; where it begins the
# journal anew, with which row.
MOVE = f"""
UPDATE flux_runs SET position = ?, updated_at = COALESCE(?, updated_at), seen_seq = inbox_seq, status = ?, wake_at = ?,
    waiting = ?, blocked = ?, misfits = ?, ended_at = CASE WHEN ? THEN COALESCE(?, ended_at, ?) END,
    owner = CASE WHEN ? THEN NULL ELSE owner END, version = COALESCE(?, version), shape = COALESCE(?, shape),
    base = COALESCE(?, base), deduplication_key = CASE WHEN ? THEN NULL ELSE deduplication_key END
WHERE {_HELD}
"""
# Why a commit found nothing to update.
STAND = "SELECT owner, epoch, position, inbox_seq FROM flux_runs WHERE ref = ? AND run_id = ?"
# The row that a commit would have written, if it was written before.
WRITTEN = "SELECT epoch, at, control, payload FROM flux_journal WHERE ref = ? AND position = ?"

# --- postings

# What a new posting must know of its run.
ADDRESS = "SELECT ref, workflow, status, owner, inbox_seq FROM flux_runs WHERE run_id = ?"
# A posting under an id that the run has seen.
KNOWN_SIGNAL = "SELECT seq FROM flux_inbox WHERE ref = ? AND signal_id = ?"
# How many postings nobody has taken, counted up to a limit.
PENDING = """
SELECT count(*) FROM (
    SELECT 1 FROM flux_inbox INDEXED BY flux_inbox_pending WHERE ref = ? AND taken IS NULL LIMIT ?
)
"""
# Pending postings behind the one that was seen.
NEWER = """
SELECT seq, kind, name, CAST(payload AS BLOB), signal_id, at
FROM flux_inbox INDEXED BY flux_inbox_pending WHERE ref = ? AND taken IS NULL AND seq > ? ORDER BY seq
"""
# Keep a posting.
POST = "INSERT INTO flux_inbox (ref, seq, kind, name, payload, signal_id, at) VALUES (?, ?, ?, ?, ?, ?, ?)"
# The same for a run whose inbox may be damaged: it is in no other run's way (contract 14).
DELIVER = f"{POST} ON CONFLICT (ref, seq) DO NOTHING"
# Number it: the wake-up that no parking run can miss (I25).
RING = "UPDATE flux_runs SET inbox_seq = ? WHERE ref = ?"
# The same for a run that nobody holds: it can be claimed now.
RING_FREE = "UPDATE flux_runs SET inbox_seq = ?, wake_at = min(COALESCE(wake_at, ?), ?) WHERE ref = ?"
# Postings that a commit consumed.
CONSUME = "UPDATE flux_inbox SET taken = ? WHERE ref = ? AND seq = ?"

# --- leases

# The next lower priority that has claimable runs, and the last misfits there (a loose scan of the index, with the next):
# runs that a claimer cannot run cost it one look for all with the same priority and misfits, however many they are (D28).
_CLAIMABLE = "owner IS NULL AND wake_at IS NOT NULL AND parked = 0"
LEVEL = f"""
SELECT priority, misfits FROM flux_runs INDEXED BY flux_runs_claimable
WHERE workflow = ? AND version = ? AND begun = ? AND {_CLAIMABLE} AND priority < ?
ORDER BY priority DESC, misfits DESC LIMIT 1
"""
# The same priority with the misfits before those. (Of `(priority, misfits) < (?, ?)` SQLite would read what is equal, too.)
BESIDE = f"""
SELECT priority, misfits FROM flux_runs INDEXED BY flux_runs_claimable
WHERE workflow = ? AND version = ? AND begun = ? AND priority = ? AND {_CLAIMABLE} AND misfits < ?
ORDER BY misfits DESC LIMIT 1
"""
_OF_LEVEL = f"workflow = ? AND version = ? AND begun = ? AND priority = ? AND misfits = ? AND {_CLAIMABLE}"
# Due runs of one level, longest due first.
DUE = f"""
SELECT wake_at, run_id, lane FROM flux_runs INDEXED BY flux_runs_claimable
WHERE {_OF_LEVEL} AND wake_at <= ?
ORDER BY wake_at, run_id LIMIT ?
"""
# When the first run of one level is due.
NEXT = f"""
SELECT wake_at FROM flux_runs INDEXED BY flux_runs_claimable
WHERE {_OF_LEVEL}
ORDER BY wake_at LIMIT 1
"""
# Lease a run: its epoch grows with the change of hands (I10).
TAKE = "UPDATE flux_runs SET owner = ?, epoch = epoch + 1, seen_seq = inbox_seq, parked = 0 WHERE run_id = ?"
_OWNED = "SELECT ref FROM flux_runs INDEXED BY flux_runs_owned WHERE owner = ? ORDER BY workflow, ref LIMIT ?"
# The lanes of those that the next statement frees.
LANES_OF = f"SELECT DISTINCT workflow, lane FROM flux_runs WHERE lane <> '' AND ref IN ({_OWNED})"
# A bounded number of runs that a condemned worker held: free, and due at once unless they have ended or are parked.
FREE = f"""
UPDATE flux_runs SET owner = NULL,
    wake_at = CASE WHEN status IN ('completed', 'failed', 'cancelled', 'blocked') THEN wake_at ELSE ? END
WHERE ref IN ({_OWNED})
"""
# One run that a condemned worker held.
FREE_ONE = """
UPDATE flux_runs SET owner = NULL,
    wake_at = CASE WHEN status IN ('completed', 'failed', 'cancelled', 'blocked') THEN wake_at ELSE ? END
WHERE run_id = ?
"""
# Runs of a worker with postings that it has not stated (D13).
UNSEEN = """
SELECT run_id FROM flux_runs INDEXED BY flux_runs_owned WHERE owner = ? AND inbox_seq > seen_seq
"""

# --- limits

# How many runs of a workflow somebody holds, counted up to a limit.
HELD = """
SELECT count(*) FROM (
    SELECT 1 FROM flux_workers AS w INDEXED BY flux_workers_present CROSS JOIN flux_runs AS r INDEXED BY flux_runs_owned
    WHERE w.state < 2 AND r.owner = w.nonce AND r.owner IS NOT NULL AND r.workflow = ? LIMIT ?
)
"""
# The same of one lane.
HELD_IN = """
SELECT count(*) FROM (
    SELECT 1 FROM flux_runs INDEXED BY flux_runs_lane WHERE workflow = ? AND lane = ? AND lane <> '' AND owner IS NOT NULL LIMIT ?
)
"""
# Take a run out of the due order, and put it back.
PARK = "UPDATE flux_runs SET parked = 1 WHERE run_id = ?"
LET_IN = "UPDATE flux_runs SET parked = 0 WHERE run_id = ?"
_WAITING = (
    "FROM flux_runs INDEXED BY flux_runs_parked WHERE workflow = ? AND lane = ? AND lane <> '' AND owner IS NULL AND wake_at IS NOT NULL"
)
# The most urgent of the next kind that is parked in a lane.
PARKED = f"""
SELECT kind, version, begun, priority, misfits, wake_at, run_id {_WAITING} AND parked = 1 AND kind > ?
ORDER BY kind, rank, priority DESC, run_id LIMIT 1
"""
# The most urgent of a kind that waits in a lane and is not parked.
AHEAD = f"SELECT wake_at, rank, priority {_WAITING} AND parked = 0 AND kind = ? ORDER BY rank, priority DESC, run_id LIMIT 1"
LANE = "SELECT workflow, lane FROM flux_runs WHERE run_id = ?"
# What has begun lately.
STARTS = "SELECT at, n FROM flux_starts WHERE workflow = ? AND at > ? ORDER BY at"
START = "INSERT INTO flux_starts (workflow, at, n) VALUES (?, ?, ?) ON CONFLICT (workflow, at) DO UPDATE SET n = n + excluded.n"
FORGET_STARTS = "DELETE FROM flux_starts WHERE workflow = ? AND at <= ?"

# A worker.
WORKER = "SELECT expires_at, lease, lock, state FROM flux_workers WHERE nonce = ?"
# All workers that live, or that may still stand in runs.
WORKERS = """
SELECT nonce, expires_at, lock, state FROM flux_workers INDEXED BY flux_workers_present WHERE state < 2 ORDER BY nonce
"""
REGISTER = "INSERT OR REPLACE INTO flux_workers (nonce, expires_at, lease, lock, state) VALUES (?, ?, ?, ?, 0)"
EXTEND = "UPDATE flux_workers SET expires_at = ?, lease = ? WHERE nonce = ?"
# It never renews again.
SET_STATE = "UPDATE flux_workers SET state = ? WHERE nonce = ?"
# Workers that were condemned long ago and stand nowhere.
FORGET_WORKERS = "DELETE FROM flux_workers WHERE state = 2 AND expires_at < ?"

# --- forgetting

# Whose child a run is, if its parent is there.
PARENT = "SELECT (SELECT run_id FROM flux_runs AS other WHERE other.run_id = child.parent) FROM flux_runs AS child WHERE run_id = ?"
# A run, its children, and theirs.
FAMILY = """
WITH RECURSIVE family (ref, run_id, status) AS (
    SELECT ref, run_id, status FROM flux_runs WHERE run_id = ?
    UNION
    SELECT child.ref, child.run_id, child.status FROM family CROSS JOIN flux_runs AS child INDEXED BY flux_runs_children
    WHERE child.parent = family.run_id AND child.parent <> ''
)
SELECT ref, run_id, status FROM family
"""
LANE_OF = "SELECT workflow, lane, owner FROM flux_runs WHERE ref = ?"
# Runs that ended long ago, the oldest first, behind one of them; not those that are forgotten with their parent.
OLD = """
SELECT ended_at, ref, run_id FROM flux_runs AS child INDEXED BY flux_runs_ended
WHERE ended_at IS NOT NULL AND ended_at <= ? AND (ended_at, ref) > (?, ?)
    AND NOT EXISTS (SELECT 1 FROM flux_runs AS other WHERE other.run_id = child.parent)
ORDER BY ended_at, ref LIMIT ?
"""
# All that is kept of a run.
DELETE = ("DELETE FROM flux_inbox WHERE ref = ?", "DELETE FROM flux_journal WHERE ref = ?", "DELETE FROM flux_runs WHERE ref = ?")

# --- schedules

# Text is text and an instant an instant, whatever is in the row (contract 14).
_SCHEDULE = """
SELECT CAST(name AS TEXT), CAST(workflow AS TEXT), CAST(version AS TEXT), CAST(rule AS TEXT), next_at, last_at,
       CAST(last_run AS TEXT), revision
FROM flux_schedules
"""
SCHEDULE = f"{_SCHEDULE} WHERE name = :name LIMIT :limit"
# All, by name.
SCHEDULES = f"{_SCHEDULE} WHERE name > :after ORDER BY name LIMIT :limit"
# What is due, the earliest first.
SCHEDULES_DUE = f"""
{_SCHEDULE} INDEXED BY flux_schedules_next
WHERE next_at IS NOT NULL AND next_at BETWEEN 0 AND :due AND typeof(next_at) = 'integer' ORDER BY next_at, name LIMIT :limit
"""
# A new one, with a revision that none had.
SCHEDULE_NEW = """
INSERT INTO flux_schedules (workflow, version, rule, next_at, last_at, last_run, name, revision)
VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT forgotten + 1 FROM flux_changes)) ON CONFLICT (name) DO NOTHING
"""
# The same, changed, if it is as it was seen.
SCHEDULE_CHANGE = """
UPDATE flux_schedules SET workflow = ?, version = ?, rule = ?, next_at = ?, last_at = ?, last_run = ?, revision = revision + 1
WHERE name = ? AND revision = ?
"""
# Forget it, but not its revision.
SCHEDULE_GONE = """
UPDATE flux_changes SET forgotten = max(forgotten,
    (SELECT CASE WHEN typeof(revision) = 'integer' THEN revision ELSE 0 END FROM flux_schedules WHERE name = ?))
WHERE EXISTS (SELECT 1 FROM flux_schedules WHERE name = ?)
"""
UNSCHEDULE = "DELETE FROM flux_schedules WHERE name = ?"

# --- opening

APPLICATION = "PRAGMA application_id"
TABLES = "SELECT count(*) FROM sqlite_master"
HAS_SCHEMA = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'flux_schema'"
VERSION = "SELECT version FROM flux_schema"
FIRST_VERSION = "INSERT INTO flux_schema (version) VALUES (?)"
SET_VERSION = "UPDATE flux_schema SET version = ?"
# Readers and the writer do not wait for each other.
WAL = "PRAGMA journal_mode = WAL"
SYNCHRONOUS = {"FULL": "PRAGMA synchronous = FULL", "NORMAL": "PRAGMA synchronous = NORMAL"}
READ_ONLY = "PRAGMA query_only = 1"

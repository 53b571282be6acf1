"""Every SQL text of the adapter. None is ever built from input (S15.7)."""

from __future__ import annotations

# The fields of `flux.storage.Header`, in its order.
_HEADER = (
    "run_id, ref, workflow, version, shape, status, priority, created_at, updated_at, ended_at, wake_at, owner, epoch, "
    "position, inbox_seq, input_digest, idempotency_key, waiting, blocked, misfits"
)

# --- transactions

# Open a write transaction: at once, because a deferred one fails when it turns into a writer.
BEGIN = "BEGIN IMMEDIATE"
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

# A whole run from one snapshot: its head (0), its journal (1) and what is pending in its inbox (2). Journal and payloads
# come as bytes, so that one damaged text cannot keep the other rows from being read.
LOAD = f"""
SELECT 0, {_HEADER} FROM flux_runs WHERE run_id = :run_id
UNION ALL
SELECT 1, position, epoch, at, format, CAST(control AS BLOB), CAST(payload AS BLOB),
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM flux_journal WHERE ref = (SELECT ref FROM flux_runs WHERE run_id = :run_id)
UNION ALL
SELECT 2, seq, kind, name, CAST(payload AS BLOB), signal_id, at,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
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
                       position, inbox_seq, seen_seq, input_digest, idempotency_key, waiting, blocked)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, 0, ?, ?, ?, '')
"""
# A row of a journal.
APPEND = "INSERT INTO flux_journal (ref, position, epoch, at, format, control, payload) VALUES (?, ?, ?, ?, ?, ?, ?)"

_HELD = "ref = ? AND run_id = ? AND owner = ? AND epoch = ? AND position = ? AND inbox_seq = ?"

# A step of a run that stays as it is in every indexed column: no index is touched.
STEP = f"""
UPDATE flux_runs SET position = ?, updated_at = COALESCE(?, updated_at), seen_seq = inbox_seq
WHERE {_HELD} AND status = ? AND wake_at IS ? AND waiting = ? AND blocked = ? AND misfits = ?
"""
# Any other step. Where it ends the run, a commit with a row says when; where it moves the run, to which code.
MOVE = f"""
UPDATE flux_runs SET position = ?, updated_at = COALESCE(?, updated_at), seen_seq = inbox_seq, status = ?, wake_at = ?,
    waiting = ?, blocked = ?, misfits = ?, ended_at = CASE WHEN ? THEN COALESCE(?, ended_at, ?) END,
    owner = CASE WHEN ? THEN NULL ELSE owner END, version = COALESCE(?, version), shape = COALESCE(?, shape)
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
# Number it: the wake-up that no parking run can miss (I25).
RING = "UPDATE flux_runs SET inbox_seq = ? WHERE ref = ?"
# The same for a run that nobody holds: it can be claimed now.
RING_FREE = "UPDATE flux_runs SET inbox_seq = ?, wake_at = min(COALESCE(wake_at, ?), ?) WHERE ref = ?"
# Postings that a commit consumed.
CONSUME = "UPDATE flux_inbox SET taken = ? WHERE ref = ? AND seq = ?"

# --- leases

# The next lower priority that has claimable runs, and the last misfits there (a loose scan of the index, with the next):
# runs that a claimer cannot run cost it one look for all with the same priority and misfits, however many they are (D28).
LEVEL = """
SELECT priority, misfits FROM flux_runs INDEXED BY flux_runs_claimable
WHERE workflow = ? AND version = ? AND owner IS NULL AND wake_at IS NOT NULL AND priority < ?
ORDER BY priority DESC, misfits DESC LIMIT 1
"""
# The same priority with the misfits before those. (Of `(priority, misfits) < (?, ?)` SQLite would read what is equal, too.)
BESIDE = """
SELECT priority, misfits FROM flux_runs INDEXED BY flux_runs_claimable
WHERE workflow = ? AND version = ? AND priority = ? AND owner IS NULL AND wake_at IS NOT NULL AND misfits < ?
ORDER BY misfits DESC LIMIT 1
"""
# Due runs of one level, longest due first.
DUE = """
SELECT wake_at, run_id FROM flux_runs INDEXED BY flux_runs_claimable
WHERE workflow = ? AND version = ? AND priority = ? AND misfits = ? AND owner IS NULL AND wake_at IS NOT NULL AND wake_at <= ?
ORDER BY wake_at, run_id LIMIT ?
"""
# When the first run of one level is due.
NEXT = """
SELECT wake_at FROM flux_runs INDEXED BY flux_runs_claimable
WHERE workflow = ? AND version = ? AND priority = ? AND misfits = ? AND owner IS NULL AND wake_at IS NOT NULL
ORDER BY wake_at LIMIT 1
"""
# Lease a run: its epoch grows with the change of hands (I10).
TAKE = "UPDATE flux_runs SET owner = ?, epoch = epoch + 1, seen_seq = inbox_seq WHERE run_id = ?"
# A bounded number of runs that a condemned worker held: free, and due at once unless they have ended or are parked.
FREE = """
UPDATE flux_runs SET owner = NULL,
    wake_at = CASE WHEN status IN ('completed', 'failed', 'cancelled', 'blocked') THEN wake_at ELSE ? END
WHERE ref IN (SELECT ref FROM flux_runs INDEXED BY flux_runs_owned WHERE owner = ? ORDER BY ref LIMIT ?)
"""
# One run that a condemned worker held.
FREE_ONE = """
UPDATE flux_runs SET owner = NULL,
    wake_at = CASE WHEN status IN ('completed', 'failed', 'cancelled', 'blocked') THEN wake_at ELSE ? END
WHERE run_id = ?
"""
# Runs of a worker with postings that it has not stated (D13).
UNSEEN = """
SELECT run_id FROM flux_runs INDEXED BY flux_runs_owned WHERE owner = ? AND inbox_seq > seen_seq ORDER BY ref
"""

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

# Whether a run can be deleted.
ENDED = "SELECT ref, status FROM flux_runs WHERE run_id = ?"
# Runs that ended long ago, a bounded number.
OLD = """
SELECT ref FROM flux_runs INDEXED BY flux_runs_ended WHERE ended_at IS NOT NULL AND ended_at <= ?
ORDER BY ended_at, ref LIMIT ?
"""
# All that is kept of a run.
DELETE = ("DELETE FROM flux_inbox WHERE ref = ?", "DELETE FROM flux_journal WHERE ref = ?", "DELETE FROM flux_runs WHERE ref = ?")

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

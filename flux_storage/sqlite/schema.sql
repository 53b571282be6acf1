-- flux on SQLite, schema version 1. A file may hold tables of others: everything here begins with flux_.
-- Instants are microseconds UTC. No step of a running run touches an index of flux_runs: see STEP in queries.py.

-- One row: the version of this schema. (PRAGMA user_version belongs to whoever else lives in the file.)
CREATE TABLE flux_schema (version INTEGER NOT NULL);

-- One row, counted up by every transaction that other processes may wait for.
CREATE TABLE flux_changes (n INTEGER NOT NULL);
INSERT INTO flux_changes (n) VALUES (0);

-- The head of each run (D12). `seen_seq` is the newest posting its holder has stated (D13).
CREATE TABLE flux_runs (
    ref INTEGER PRIMARY KEY AUTOINCREMENT, -- never given out again: a deleted run's holder must not write to another run
    run_id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    version TEXT NOT NULL,
    shape TEXT NOT NULL,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    ended_at INTEGER,
    wake_at INTEGER,
    owner TEXT,
    epoch INTEGER NOT NULL,
    position INTEGER NOT NULL,
    inbox_seq INTEGER NOT NULL,
    seen_seq INTEGER NOT NULL,
    input_digest TEXT NOT NULL,
    idempotency_key TEXT,
    waiting TEXT NOT NULL,
    blocked TEXT NOT NULL
);

-- What a claim looks through: only runs that nobody holds and that time can wake.
CREATE INDEX flux_runs_claimable ON flux_runs (workflow, version, priority, wake_at, run_id)
    WHERE owner IS NULL AND wake_at IS NOT NULL;
-- What a worker holds: for its heartbeat, and to free it all.
CREATE INDEX flux_runs_owned ON flux_runs (owner) WHERE owner IS NOT NULL;
-- Lists, newest first.
CREATE INDEX flux_runs_created ON flux_runs (created_at, run_id);
CREATE INDEX flux_runs_workflow ON flux_runs (workflow, created_at, run_id);
CREATE INDEX flux_runs_status ON flux_runs (status, created_at, run_id);
-- What a purge looks through.
CREATE INDEX flux_runs_ended ON flux_runs (ended_at) WHERE ended_at IS NOT NULL;
-- One run per workflow and idempotency key (S2.4).
CREATE UNIQUE INDEX flux_runs_key ON flux_runs (workflow, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- One row a commit, only ever appended (I1, D20).
CREATE TABLE flux_journal (
    ref INTEGER NOT NULL,
    position INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at INTEGER NOT NULL,
    format INTEGER NOT NULL,
    control TEXT NOT NULL,
    payload TEXT NOT NULL,
    UNIQUE (ref, position)
);

-- Signals and cancels; `taken` is the position of the commit that consumed it.
CREATE TABLE flux_inbox (
    ref INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    payload TEXT NOT NULL,
    signal_id TEXT,
    at INTEGER NOT NULL,
    taken INTEGER,
    UNIQUE (ref, seq)
);
CREATE UNIQUE INDEX flux_inbox_signal ON flux_inbox (ref, signal_id) WHERE signal_id IS NOT NULL;
CREATE INDEX flux_inbox_pending ON flux_inbox (ref, seq) WHERE taken IS NULL;

-- One row a worker. `state` is 0 while it lives, 1 when it is condemned and may still stand in runs, 2 when it does not.
-- `lock` is the file beside the database that its process keeps locked (D14).
CREATE TABLE flux_workers (
    nonce TEXT PRIMARY KEY,
    expires_at INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    lock TEXT,
    state INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX flux_workers_present ON flux_workers (state) WHERE state < 2;

-- flux on PostgreSQL, schema version 1. Everything here belongs to flux; the migration has set the search path to its schema.
-- Instants are bigint microseconds UTC. Texts that are compared or sorted are so by their bytes, as everywhere in flux.

-- The head of each run (D12). No step of a running run changes an indexed column, so that its update can stay on the page
-- (HOT): that is what the room on each page is for, and why `due_at` is empty as long as somebody holds the run. What follows from other
-- columns is written by the statements: fragments.py has the rules. What every row has, of one length, comes first: it is found at once.
-- `seen_seq` is the newest posting its holder has stated (D13). `mark` is the number of the call that made or leased the run:
-- a call whose answer was lost finds by it what it has done (I45).
CREATE TABLE runs (
    ref bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- never given out again: a deleted run's holder must not write to another run
    priority bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    epoch bigint NOT NULL,
    position bigint NOT NULL,
    inbox_seq bigint NOT NULL,
    seen_seq bigint NOT NULL,
    base bigint NOT NULL DEFAULT 1, -- the position of the first row that is loaded: the journal began anew there
    mark bigint NOT NULL,
    parked boolean NOT NULL DEFAULT false, -- behind others of its lane
    begun boolean NOT NULL DEFAULT false, -- whether anybody has ever held it
    run_id text COLLATE "C" NOT NULL UNIQUE,
    workflow text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    shape text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    input_digest text COLLATE "C" NOT NULL,
    waiting text COLLATE "C" NOT NULL,
    blocked text COLLATE "C" NOT NULL,
    misfits text COLLATE "C" NOT NULL,
    parent text COLLATE "C" NOT NULL, -- the id of the run whose child this is, else ''
    lane text COLLATE "C" NOT NULL DEFAULT '', -- the runs of a workflow with the same one, if it is not '', share a limit
    unfit text COLLATE "C" NOT NULL DEFAULT '', -- while nobody holds it: its misfits, or if they are any something short for an index
    ended_at bigint,
    wake_at bigint,
    due_at bigint, -- `wake_at` while nobody holds it and it is not parked
    owner text COLLATE "C",
    idempotency_key text COLLATE "C",
    deduplication_key text COLLATE "C", -- until the run ends
    -- Of those with a lane: the owner; while nobody holds it, what none of another is in the way of when both are parked, and the order of
    -- claims among those that wait.
    lane_owner text COLLATE "C",
    kind text COLLATE "C",
    rank bigint
) WITH (fillfactor = 70);

-- What a claim looks through: only runs that nobody holds and that time can wake.
CREATE INDEX runs_claimable ON runs (workflow, version, begun, priority, unfit, due_at, run_id) WHERE due_at IS NOT NULL;
-- What a worker holds: for its heartbeat, to free it all, and how many of each workflow.
CREATE INDEX runs_owned ON runs (owner, workflow) WHERE owner IS NOT NULL;
-- What is held of a lane, and what waits there.
CREATE INDEX runs_lane ON runs (workflow, lane) WHERE lane <> '' AND owner IS NOT NULL;
CREATE INDEX runs_lane_owned ON runs (lane_owner) WHERE lane_owner IS NOT NULL;
CREATE INDEX runs_parked ON runs (workflow, lane, parked, kind, rank, priority DESC, run_id) WHERE rank IS NOT NULL;
-- One run that has not ended per workflow and deduplication key.
CREATE UNIQUE INDEX runs_deduplication ON runs (workflow, deduplication_key) WHERE deduplication_key IS NOT NULL;
-- Lists, newest first.
CREATE INDEX runs_created ON runs (created_at, run_id);
CREATE INDEX runs_workflow ON runs (workflow, created_at, run_id);
CREATE INDEX runs_status ON runs (status, created_at, run_id);
-- What a purge looks through.
CREATE INDEX runs_ended ON runs (ended_at, ref) WHERE ended_at IS NOT NULL;
-- The children of a run: they are forgotten together.
CREATE INDEX runs_children ON runs (parent) WHERE parent <> '';
-- One run per workflow and idempotency key (S2.4).
CREATE UNIQUE INDEX runs_key ON runs (workflow, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- How many runs of a workflow with a rate have begun, lately.
CREATE TABLE starts (
    workflow text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (workflow, at)
);

-- One row a commit, only ever appended (I1, D20).
CREATE TABLE journal (
    ref bigint NOT NULL,
    position bigint NOT NULL,
    epoch bigint NOT NULL,
    at bigint NOT NULL,
    format bigint NOT NULL,
    control text COLLATE "C" NOT NULL,
    payload text COLLATE "C" NOT NULL,
    PRIMARY KEY (ref, position)
);

-- Signals, cancels and what runs tell each other; `taken` is the position of the commit that consumed it, `mark` the number of the
-- call that posted it.
CREATE TABLE inbox (
    ref bigint NOT NULL,
    seq bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    payload text COLLATE "C" NOT NULL,
    signal_id text COLLATE "C",
    at bigint NOT NULL,
    taken bigint,
    mark bigint NOT NULL,
    pending bigint, -- `ref` until it is taken
    PRIMARY KEY (ref, seq)
);
CREATE UNIQUE INDEX inbox_signal ON inbox (ref, signal_id) WHERE signal_id IS NOT NULL;
CREATE INDEX inbox_pending ON inbox (pending, seq) WHERE pending IS NOT NULL;

-- One row a worker. `state` is 0 while it lives, 1 once it is condemned and may still stand in runs, 2 when it does not.
-- `beacon` is the key of the advisory lock that its session holds while its connection lasts; once that was found free, the
-- worker has until `doubt_until` to show that it lives (D14). `host` and `lock` say where its process keeps which file locked.
CREATE TABLE workers (
    nonce text COLLATE "C" PRIMARY KEY,
    expires_at bigint NOT NULL,
    lease bigint NOT NULL,
    beacon bigint,
    doubt_until bigint,
    host text COLLATE "C",
    lock text COLLATE "C",
    state smallint NOT NULL,
    condemned_at bigint
) WITH (fillfactor = 50);
CREATE INDEX workers_present ON workers (nonce) WHERE state < 2;

-- Who listens to notifications: one row a session, which holds the advisory lock `key` as long as it lasts.
CREATE TABLE listeners (
    token text COLLATE "C" NOT NULL,
    key bigint NOT NULL,
    PRIMARY KEY (token, key)
);

-- When runs are started by themselves. `rule` is JSON; `next_at` is NULL where it is paused or over; `mark` is the number of the
-- call that made or changed it last.
CREATE TABLE schedules (
    name text COLLATE "C" PRIMARY KEY,
    workflow text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    rule text COLLATE "C" NOT NULL,
    next_at bigint,
    last_at bigint,
    last_run text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    mark bigint NOT NULL
);
CREATE INDEX schedules_next ON schedules (next_at, name) WHERE next_at IS NOT NULL;
-- In its one row, the highest revision of a schedule that was forgotten: one that is made under its name must not be taken for it.
CREATE TABLE forgotten (
    one boolean PRIMARY KEY CHECK (one),
    revision bigint NOT NULL
);

-- flux on SQLite, from schema version 1 (schema.sql) to version 2.

-- The shapes of code that a run was found not to fit (D28): sorted, with commas between them.
ALTER TABLE flux_runs ADD COLUMN misfits TEXT NOT NULL DEFAULT '';
-- The id of the run whose child this is, else ''.
ALTER TABLE flux_runs ADD COLUMN parent TEXT NOT NULL DEFAULT '';
-- The position of the first row that is loaded: the journal began anew there.
ALTER TABLE flux_runs ADD COLUMN base INTEGER NOT NULL DEFAULT 1;

-- The runs of a workflow with the same one, if it is not '', share a limit; behind which this run may be parked.
ALTER TABLE flux_runs ADD COLUMN lane TEXT NOT NULL DEFAULT '';
ALTER TABLE flux_runs ADD COLUMN parked INTEGER NOT NULL DEFAULT 0;
-- Until the run ends.
ALTER TABLE flux_runs ADD COLUMN deduplication_key TEXT;
-- Whether anybody has ever held it.
ALTER TABLE flux_runs ADD COLUMN begun INTEGER GENERATED ALWAYS AS (epoch > 0) VIRTUAL;
-- Runs of which none is in the way of another kind when they are parked.
ALTER TABLE flux_runs ADD COLUMN kind TEXT GENERATED ALWAYS AS (version || ' ' || (epoch > 0) || ' ' || misfits) VIRTUAL;
-- The order of claims: a level of priority is worth a minute.
ALTER TABLE flux_runs ADD COLUMN rank INTEGER GENERATED ALWAYS AS (wake_at - priority * 60000000) VIRTUAL;

-- What a claim looks through: as before, and all runs with the same misfits, or that have not begun, can be passed over in one look.
DROP INDEX flux_runs_claimable;
CREATE INDEX flux_runs_claimable ON flux_runs (workflow, version, begun, priority, misfits, wake_at, run_id)
    WHERE owner IS NULL AND wake_at IS NOT NULL AND parked = 0;
-- What a worker holds: as before, and of each workflow how many.
DROP INDEX flux_runs_owned;
CREATE INDEX flux_runs_owned ON flux_runs (owner, workflow) WHERE owner IS NOT NULL;
-- What is held of a lane, and what waits there.
CREATE INDEX flux_runs_lane ON flux_runs (workflow, lane) WHERE lane <> '' AND owner IS NOT NULL;
CREATE INDEX flux_runs_parked ON flux_runs (workflow, lane, parked, kind, rank, priority DESC, run_id)
    WHERE lane <> '' AND owner IS NULL AND wake_at IS NOT NULL;
-- One run that has not ended per workflow and deduplication key.
CREATE UNIQUE INDEX flux_runs_deduplication ON flux_runs (workflow, deduplication_key) WHERE deduplication_key IS NOT NULL;
-- How many runs of a workflow with a rate have begun, lately.
CREATE TABLE flux_starts (
    workflow TEXT NOT NULL,
    at INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (workflow, at)
) WITHOUT ROWID;
-- The children of a run: they are forgotten together.
CREATE INDEX flux_runs_children ON flux_runs (parent) WHERE parent <> '';

-- When runs are started by themselves. `rule` is JSON; `next_at` is NULL where it is paused or over.
CREATE TABLE flux_schedules (
    name TEXT PRIMARY KEY,
    workflow TEXT NOT NULL,
    version TEXT NOT NULL,
    rule TEXT NOT NULL,
    next_at INTEGER,
    last_at INTEGER,
    last_run TEXT NOT NULL,
    revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX flux_schedules_next ON flux_schedules (next_at, name) WHERE next_at IS NOT NULL;
-- The highest revision of a schedule that was forgotten: one that is made under its name must not be taken for it.
ALTER TABLE flux_changes ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;

-- flux on SQLite, from schema version 1 (schema.sql) to version 2.

-- The shapes of code that a run was found not to fit (D28): sorted, with commas between them.
ALTER TABLE flux_runs ADD COLUMN misfits TEXT NOT NULL DEFAULT '';

-- What a claim looks through: as before, and all runs with the same misfits can be passed over in one look.
DROP INDEX flux_runs_claimable;
CREATE INDEX flux_runs_claimable ON flux_runs (workflow, version, priority, misfits, wake_at, run_id)
    WHERE owner IS NULL AND wake_at IS NOT NULL;

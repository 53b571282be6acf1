"""The SQL texts of schedules."""

from __future__ import annotations

from .rows import REVISIONS

_FIELDS = "s.name, s.workflow, s.version, s.rule, s.next_at, s.last_at, s.last_run, s.revision"
_SAID = "workflow = $2::text, version = $3::text, rule = $4::text, next_at = $5::bigint, last_at = $6::bigint, last_run = $7::text"
_NOTIFY = "pg_notify('flux_{s}', $9::text)"

SCHEDULE = f'SELECT {_FIELDS} FROM "{{s}}".schedules s WHERE s.name = $1 LIMIT $2'
# All, by name.
SCHEDULES = f'SELECT {_FIELDS} FROM "{{s}}".schedules s WHERE s.name > $1 ORDER BY s.name LIMIT $2'
# What is due, the earliest first.
SCHEDULES_DUE = f"""
SELECT {_FIELDS} FROM "{{s}}".schedules s
WHERE s.next_at IS NOT NULL AND s.next_at BETWEEN 0 AND $1::bigint ORDER BY s.next_at, s.name LIMIT $2
"""
# The highest revision of a schedule that was forgotten, locked: no schedule is made while one is forgotten.
FORGOTTEN = """
INSERT INTO "{s}".forgotten AS f (one, revision) VALUES (true, 0) ON CONFLICT (one) DO UPDATE SET revision = f.revision
RETURNING f.revision
"""
# A new one, with a revision that none had.
SCHEDULE_NEW = f"""
WITH changed AS (
    INSERT INTO "{{s}}".schedules (name, workflow, version, rule, next_at, last_at, last_run, mark, revision)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $10) ON CONFLICT (name) DO NOTHING RETURNING name
)
SELECT {_NOTIFY} FROM changed
"""
# The same, changed, if it is as it was seen.
SCHEDULE_CHANGE = f"""
WITH changed AS (
    UPDATE "{{s}}".schedules SET {_SAID}, mark = $8::bigint, revision = revision + 1
    WHERE name = $1 AND revision = $10::bigint AND revision BETWEEN 1 AND {REVISIONS} RETURNING name
)
SELECT {_NOTIFY} FROM changed
"""
# Whether it stands as this call has left it.
SCHEDULED = 'SELECT EXISTS (SELECT FROM "{s}".schedules WHERE name = $1 AND mark = $2)'
# Forget it, but not its revision.
UNSCHEDULE = f"""
WITH gone AS (
    DELETE FROM "{{s}}".schedules WHERE name = $1 RETURNING revision
), remembered AS (
    UPDATE "{{s}}".forgotten f SET revision = greatest(f.revision, gone.revision) FROM gone
    WHERE f.one AND gone.revision BETWEEN 1 AND {REVISIONS} + 1
)
SELECT pg_notify('flux_{{s}}', $2::text) FROM gone
"""

"""Pieces that the SQL texts of the adapter share.

In all of them {s} is the schema and {now} the time: the CTE `t` asks it once a statement, and `$1` is the earliest that it may be.
"""

from __future__ import annotations

MINUTE = 60_000_000  # microseconds that one level of priority is worth (D29)

ENDED = "('completed', 'failed', 'cancelled')"
STILL = "('completed', 'failed', 'cancelled', 'blocked')"

T = "t AS MATERIALIZED (SELECT {now} AS now)"
OWN = "greatest($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
GIVEN = "$1::bigint"
NOTIFY = "(SELECT pg_notify('flux_{s}', $2::text) WHERE EXISTS {why})"  # an InitPlan: it is evaluated once a statement

# What follows from other columns, and is kept for the indexes alone: `begun` from `epoch`, the rest as below. Each statement that changes
# the ones says the others as well. (Generated columns cost each statement 20 microseconds, a third of a step: the server reads all their
# rules anew.) `kind` and `unfit` are right while nobody holds the run.
_KIND = "CASE WHEN r.lane <> '' THEN {version} || CASE WHEN r.epoch > 0 THEN ' 1 ' ELSE ' 0 ' END || {unfit} END"
_UNFIT = "CASE {misfits} WHEN '' THEN '' ELSE md5({misfits}) END"


def rank(wake_at: str, run: str = "r") -> str:
    """Where a run with a lane that nobody holds stands among those that wait there."""
    return f"CASE WHEN {run}.lane <> '' THEN {wake_at} - {run}.priority * {MINUTE} END"


def held(owner: str) -> str:
    """What is assigned to a run `r` that this worker takes."""
    return (
        f"owner = {owner}, epoch = r.epoch + 1, seen_seq = r.inbox_seq, parked = false, begun = true, due_at = NULL, rank = NULL,"
        f" lane_owner = CASE WHEN r.lane <> '' THEN {owner} END"
    )


def free(wake_at: str, version: str = "r.version", misfits: str = "r.misfits") -> dict[str, str]:
    """What is assigned to a run `r` that its holder gives back: column -> value."""
    unfit = _UNFIT.format(misfits=misfits)
    return {
        "owner": "NULL", "lane_owner": "NULL", "due_at": f"CASE WHEN NOT r.parked THEN {wake_at} END", "rank": rank(wake_at),
        "kind": _KIND.format(version=version, unfit=unfit), "unfit": unfit,
    }  # fmt: skip


def freed(wake_at: str) -> str:
    """The same with nothing else, as assignments."""
    return ", ".join(f"{column} = {value}" for column, value in {"wake_at": wake_at, **free(wake_at)}.items())


def woken(wake_at: str) -> str:
    """What is assigned to a run `r`, held or not, that is to wake then."""
    return (
        f"wake_at = {wake_at}, due_at = CASE WHEN r.owner IS NULL AND NOT r.parked THEN {wake_at} END,"
        f" rank = CASE WHEN r.owner IS NULL THEN {rank(wake_at)} END"
    )


# The fields of `flux.storage.Header`, in its order.
_FIELDS = (
    "run_id", "ref", "workflow", "version", "shape", "status", "priority", "created_at", "updated_at", "ended_at", "wake_at",
    "owner", "epoch", "position", "inbox_seq", "input_digest", "idempotency_key", "waiting", "blocked", "misfits", "parent",
    "lane", "parked", "deduplication_key",
)  # fmt: skip
HEADER = ", ".join(f"r.{field}" for field in _FIELDS)

# The kinds of runs that can be claimed now or later, each once, of the workflows in the CTE `codes`: a loose scan of the index.
LEVEL = 'FROM "{s}".runs r WHERE r.workflow = v.workflow AND r.version = v.version AND r.due_at IS NOT NULL'
LEVELS_OF_CODES = f"""levels AS (
    SELECT v.place, v.workflow, v.version, l.* FROM codes v CROSS JOIN LATERAL (
        SELECT r.begun, r.priority, r.unfit, r.misfits {LEVEL} ORDER BY r.begun DESC, r.priority DESC, r.unfit DESC LIMIT 1
    ) l
    UNION ALL
    SELECT v.place, v.workflow, v.version, l.* FROM levels v CROSS JOIN LATERAL (
        SELECT r.begun, r.priority, r.unfit, r.misfits {LEVEL} AND (r.begun, r.priority, r.unfit) < (v.begun, v.priority, v.unfit)
        ORDER BY r.begun DESC, r.priority DESC, r.unfit DESC LIMIT 1
    ) l
)"""

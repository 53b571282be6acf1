"""The versions of the schema, and how a database gets there (S15.4, I50)."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from flux.errors import StorageMisused, StorageTooNew

from .link import ANSWERING, Connection

OLDEST = 13  # of PostgreSQL: the first with all that the texts in queries.py use and its makers still looked after when they were written

# Step n leads from version n to n + 1. A step that was released never changes, nor does the script that it runs.
STEPS: tuple[str, ...] = ("schema.sql",)
VERSION = len(STEPS)

_LOCK = "SELECT pg_advisory_xact_lock($1)"
_EXISTS = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"
_TABLES = "SELECT array_agg(c.relname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1"
_COLUMNS = """
SELECT count(*) FROM information_schema.columns
WHERE table_schema = $1 AND table_name = 'flux_schema' AND (column_name, data_type) IN (('version', 'integer'), ('home', 'text'))
"""
_SEARCH = "SELECT set_config('search_path', $1, true)"
_FIRST = "CREATE TABLE flux_schema (version integer NOT NULL, home text NOT NULL)"


def number_of(*names: str) -> int:
    """The key of an advisory lock for these names."""
    return int.from_bytes(hashlib.sha256("\0".join(("flux", *names)).encode()).digest()[:8], "big", signed=True)


async def prepare(connection: Connection, schema: str) -> str:
    """Check the schema and bring it up to date; returns the name that it was given when it was made.

    Raises StorageTooNew and StorageMisused before anything is touched, and the errors of asyncpg.
    """
    major = connection.get_server_version().major
    if major < OLDEST:
        raise StorageMisused(f"this is PostgreSQL {major}: flux needs {OLDEST} or a newer one")
    encoding = await connection.fetchval("SHOW server_encoding", timeout=ANSWERING)
    if encoding != "UTF8":
        raise StorageMisused(f"this database is encoded in {encoding}: flux needs one in UTF8")
    version, home = await _look(connection, schema)
    if version == VERSION:
        return home
    async with connection.transaction():
        await connection.execute(_LOCK, number_of("migration", schema))
        version, home = await _look(connection, schema)  # whoever comes second finds the steps done
        if version < VERSION:
            home = await _migrate(connection, schema, version, home)
    return home


async def _look(connection: Connection, schema: str) -> tuple[int, str]:
    """The version of the schema, 0 where flux has not been, and its given name."""
    tables = await connection.fetchval(_TABLES, schema)
    if not tables:
        return 0, ""
    row = None
    if await connection.fetchval(_COLUMNS, schema) == 2:
        row = await connection.fetchrow(f'SELECT version, home FROM "{schema}".flux_schema')
    if row is None or row["version"] < 1:
        named = ", ".join(sorted(tables)[:3])
        raise StorageMisused(f"schema {schema!r} holds what flux did not make ({named}): give flux a schema of its own")
    if row["version"] > VERSION:
        raise StorageTooNew(f"schema {schema!r} has version {row['version']}, this flux knows up to {VERSION}: upgrade flux")
    return row["version"], row["home"]


async def _migrate(connection: Connection, schema: str, version: int, home: str) -> str:
    """All missing steps, inside the transaction."""
    if not await connection.fetchval(_EXISTS, schema):
        await connection.execute(f'CREATE SCHEMA "{schema}"')
    await connection.execute(_SEARCH, schema)
    if version == 0:
        home = uuid.uuid4().hex
        await connection.execute(_FIRST)
        await connection.execute("INSERT INTO flux_schema (version, home) VALUES (0, $1)", home)
    for script in STEPS[version:]:
        await connection.execute(Path(__file__).with_name(script).read_text("utf-8"))
    await connection.execute("UPDATE flux_schema SET version = $1", VERSION)
    return home

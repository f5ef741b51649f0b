"""Brings a database to this program's schema: dbmate's file format and table, run over asyncpg.

Files are `schema/NNNN_noun.sql` with a `-- migrate:up` and a `-- migrate:down` part, each run in one transaction
together with its row in `schema_migrations` (`-- migrate:up transaction:false`: without one). dbmate itself can read
and run them too. Schemas expand first and contract later, since nodes of two versions run at once; so a schema that
is ahead of a program is fine, one that is behind is not.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Final

import asyncpg
import msgspec

LOCK_KEY: Final = 0x4150504C41555345  # "APPLAUSE": one migration at a time for the whole database
_NAME: Final = re.compile(r"(\d+)\w*\.sql")
_PART: Final = re.compile(r"^-- *migrate:(up|down)(.*)$", re.MULTILINE)


class Migration(msgspec.Struct, frozen=True):
    """One file. `version` is the number that its name begins with."""

    version: str
    name: str
    up: str
    down: str
    in_transaction: bool = True


class SchemaBehind(Exception):
    """The database lacks migrations that this program needs; `pending` are their names."""

    def __init__(self, pending: Sequence[str]) -> None:
        super().__init__(f"the database's schema is behind, run `applause migrate`: it lacks {', '.join(pending)}")
        self.pending = tuple(pending)


def parse(name: str, text: str) -> Migration:
    """A file's text as a Migration. Raises ValueError where it has no up part or its name no number."""
    number = _NAME.fullmatch(name)
    parts = list(_PART.finditer(text))
    if number is None or not parts or parts[0][1] != "up":
        raise ValueError(f"{name} is no migration: NNNN_noun.sql, beginning with `-- migrate:up`")
    ends = [part.start() for part in parts[1:]] + [len(text)]
    bodies = {part[1]: text[part.end() : end].strip() for part, end in zip(parts, ends, strict=True)}
    in_transaction = "transaction:false" not in parts[0][2]
    return Migration(number[1], name, bodies["up"], bodies.get("down", ""), in_transaction)


def load_migrations() -> list[Migration]:
    """This program's migrations in their order, from its package."""
    files = (file for file in resources.files("storage").joinpath("schema").iterdir() if file.name.endswith(".sql"))
    return sorted((parse(file.name, file.read_text("utf-8")) for file in files), key=lambda each: each.version)


TABLE_EXISTS: Final = "SELECT to_regclass('schema_migrations') IS NOT NULL"
LIST_APPLIED: Final = "SELECT version FROM schema_migrations"


async def pending(conn: asyncpg.Connection, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """Migrations that this database still lacks, in order. Changes nothing."""
    known = load_migrations() if migrations is None else migrations
    applied = {row["version"] for row in await conn.fetch(LIST_APPLIED)} if await conn.fetchval(TABLE_EXISTS) else set()
    return [migration for migration in known if migration.version not in applied]


async def ensure_current(conn: asyncpg.Connection) -> None:
    """Raise SchemaBehind where migrations are pending. A node calls it before it serves."""
    if missing := await pending(conn):
        raise SchemaBehind([migration.name for migration in missing])


CREATE_TABLE: Final = "CREATE TABLE IF NOT EXISTS schema_migrations (version varchar PRIMARY KEY)"


async def migrate(conn: asyncpg.Connection, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is pending and return its names. Runs at the same time wait for each other, and find nothing to do.

    A failing migration raises PostgreSQL's error and leaves no trace of itself; those before it stay.
    """
    async with _alone(conn):
        await conn.execute(CREATE_TABLE)
        missing = await pending(conn, migrations)
        for migration in missing:
            await _apply(conn, migration)
    return [migration.name for migration in missing]


NOTE_APPLIED: Final = "INSERT INTO schema_migrations (version) VALUES ($1)"


async def _apply(conn: asyncpg.Connection, migration: Migration) -> None:
    if not migration.in_transaction:
        await conn.execute(migration.up, timeout=None)
        await conn.execute(NOTE_APPLIED, migration.version)
        return
    async with conn.transaction():
        await conn.execute(migration.up, timeout=None)
        await conn.execute(NOTE_APPLIED, migration.version)


@asynccontextmanager
async def _alone(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Hold the advisory lock of the session, which its end releases however it comes."""
    await conn.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)

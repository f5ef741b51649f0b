"""The epoch: a name for one history of one database, so that no client believes a `seq` of another one."""

from __future__ import annotations

import hashlib
from typing import Final

import asyncpg

# Each part changes where another can't: the random id with a rebuilt schema or `renew`, the system identifier with
# another cluster, the oids with a restore into the same cluster, the timeline with a promotion or recovery.
FETCH: Final = """
SELECT concat_ws('/', instance.random_id, system_identifier, pg_database.oid, 'heads'::regclass::oid,
                 left(pg_walfile_name(pg_current_wal_lsn()), 8))
  FROM instance, pg_control_system(), pg_database
 WHERE datname = current_database()
"""


async def fetch_epoch(conn: asyncpg.Connection) -> str:
    """Sixteen hex digits. Fails on a standby, where nothing may be served from anyway."""
    return hashlib.sha256(str(await conn.fetchval(FETCH)).encode()).hexdigest()[:16]


RENEW: Final = "UPDATE instance SET random_id = gen_random_uuid()"


async def renew_epoch(conn: asyncpg.Connection) -> None:
    """Make every client reload: for a database whose files were copied, which nothing inside it can see."""
    await conn.execute(RENEW)

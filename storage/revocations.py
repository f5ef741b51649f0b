"""Who and which tokens were sent away, and how every node hears of it.

Each row carries the transaction that wrote it. A node asks for the rows of all transactions that had not ended at its
last good look (`pg_snapshot_xmin`): what commits late is not passed over, however late, and after an outage nothing is
missing either. A row may thus come twice; to apply it again does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from asyncpg import Connection

# No token lives longer, whatever its issuer thinks: refused above is its second use, a year after it was revoked.
KEPT_DAYS: Final = 400

REVOKE_USER = """
INSERT INTO user_revocations (user_id, up_to) VALUES ($1, floor(extract(epoch FROM clock_timestamp())))
ON CONFLICT (user_id) DO UPDATE SET
    up_to = greatest(user_revocations.up_to, floor(extract(epoch FROM clock_timestamp()))),
    revoked_at = clock_timestamp(), xact = pg_current_xact_id()
"""


async def revoke_user(conn: Connection, user_id: int) -> None:
    """Refuse the user's tokens that were issued up to this second of the database's clock."""
    await conn.execute(REVOKE_USER, user_id)


REVOKE_ONE = "INSERT INTO token_revocations (jti) VALUES ($1) ON CONFLICT (jti) DO NOTHING"


async def revoke_token(conn: Connection, jti: str) -> None:
    """Refuse the token with this id."""
    await conn.execute(REVOKE_ONE, jti)


class Standing(NamedTuple):
    """What the database says of a token's user: None where the identity, or the user, is not known."""

    user_id: int | None
    status: str | None
    is_revoked: bool


FETCH_STANDING = """
SELECT who.id, u.status,
    EXISTS (SELECT FROM user_revocations r WHERE r.user_id = who.id AND r.up_to >= coalesce($4::bigint, 0))
    OR EXISTS (SELECT FROM token_revocations r WHERE r.jti = $5)
FROM (SELECT coalesce($1::bigint, (SELECT user_id FROM identities WHERE issuer = $2 AND subject = $3)) AS id) who
LEFT JOIN users u ON u.id = who.id
"""


async def fetch_standing(
    conn: Connection, user_id: int | None, identity: tuple[str, str] | None, issued_at: int | None, jti: str | None
) -> Standing:
    """How a token's user stands, who is known by their id or by (issuer, subject). `issued_at`: Unix second."""
    issuer, subject = identity or (None, None)
    row = await conn.fetchrow(FETCH_STANDING, user_id, issuer, subject, issued_at, jti)
    assert row is not None, "one row, whoever is known"
    return Standing(*row)


LIST_REVOKED_TOKENS = "SELECT jti FROM token_revocations WHERE jti = ANY($1::text[])"


async def list_revoked_tokens(conn: Connection, jtis: Sequence[str]) -> set[str]:
    """Those of the token ids that were revoked."""
    return {row[0] for row in await conn.fetch(LIST_REVOKED_TOKENS, list(jtis))}


class News(NamedTuple):
    """What was sent away since a look. `horizon` is where the next look begins."""

    horizon: str
    users: list[tuple[int, int]]  # (user, the Unix second up to which their tokens are refused)
    jtis: list[str]
    suspended: list[int]


FETCH_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"


async def fetch_horizon(conn: Connection) -> str:
    """Where a look begins that is to see all that happens from now on."""
    horizon: str = await conn.fetchval(FETCH_HORIZON)
    return horizon


# One statement, so one snapshot.
FETCH_NEWS = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text,
    ARRAY(SELECT ARRAY[user_id, up_to] FROM user_revocations WHERE xact >= $1::text::xid8),
    ARRAY(SELECT jti FROM token_revocations WHERE xact >= $1::text::xid8),
    ARRAY(SELECT id FROM users WHERE status = 'suspended' AND suspended_xact >= $1::text::xid8)
"""


async def fetch_news(conn: Connection, horizon: str) -> News:
    """What has been committed since the look that gave `horizon`, and perhaps a little from before it."""
    row = await conn.fetchrow(FETCH_NEWS, horizon)
    assert row is not None
    return News(row[0], [(user_id, up_to) for user_id, up_to in row[1]], row[2], row[3])


TRIM = f"DELETE FROM token_revocations WHERE revoked_at < clock_timestamp() - interval '{KEPT_DAYS} days'"


async def trim(conn: Connection) -> None:
    """Forget token ids that were revoked so long ago that the tokens have expired. Users' rows stay: one each."""
    await conn.execute(TRIM)

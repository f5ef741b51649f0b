"""People as the app's backend describes them, each with a head and a wallet from the first moment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import columns

if TYPE_CHECKING:
    from asyncpg import Connection


class StoredUser(NamedTuple):
    """One user, with the `seq` of their inbox as of the same snapshot."""

    id: int
    username: str
    display_name: str | None
    picture_url: str | None
    email: str | None
    roles: list[str]
    status: str
    following_count: int
    followers_count: int
    version: int | None
    inbox_seq: int


FETCH_USER = """
SELECT u.id, u.username, u.display_name, u.picture_url, u.email, u.roles, u.status,
    u.following_count, u.followers_count, u.version, h.seq
FROM users u JOIN heads h ON h.user_id = u.id WHERE u.id = $1
"""


async def fetch_user(conn: Connection, user_id: int) -> StoredUser | None:
    """The user with this id."""
    row = await conn.fetchrow(FETCH_USER, user_id)
    return StoredUser(*row) if row else None


FETCH_STATUS = "SELECT status FROM users WHERE id = $1"


async def fetch_status(conn: Connection, user_id: int) -> str | None:
    """`active` or `suspended`; None where there is no such user."""
    status: str | None = await conn.fetchval(FETCH_STATUS, user_id)
    return status


# Sorted, since two batches that insert the same new users wait for each other's keys.
INSERT_UNKNOWN_USERS = """
WITH created AS (
    INSERT INTO users (id, username)
    SELECT id, coalesce(username, 'user_' || id) FROM unnest($1::bigint[], $2::text[]) AS new(id, username)
    ORDER BY id
    ON CONFLICT (id) DO NOTHING RETURNING id
), their_heads AS (
    INSERT INTO heads (user_id) SELECT id FROM created
), their_accounts AS (
    INSERT INTO accounts (user_id, currency) SELECT id, 'LYK' FROM created
)
SELECT id FROM created
"""


async def insert_unknown_users(conn: Connection, ids: Sequence[int], usernames: Sequence[str | None]) -> set[int]:
    """Create those users who don't exist yet, with heads and wallets; the ids of those created.

    Without a username a user is called `user_<id>`. Existing users are left as they are.
    """
    return {row[0] for row in await conn.fetch(INSERT_UNKNOWN_USERS, list(ids), list(usernames))}


class UserChange(NamedTuple):
    """What to write of one user. None keeps what is stored; in the texts that may be missing, `""` removes it."""

    id: int
    username: str | None = None
    display_name: str | None = None
    picture_url: str | None = None
    email: str | None = None
    roles: str | None = None  # comma-separated: an array of arrays would have to be rectangular
    status: str | None = None
    following_count: int | None = None
    followers_count: int | None = None
    version: int | None = None


# The rows are locked in order of their ids first. The UPDATE then sees each row as of the lock,
# since PostgreSQL evaluates it again for rows that changed during the wait.
UPDATE_USERS = """
WITH given AS (
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::bigint[], $9::bigint[], $10::bigint[])
    AS given(id, username, display_name, picture_url, email, roles, status, following_count, followers_count, version)
), locked AS (
    SELECT id, status FROM users WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE
)
UPDATE users u SET
    username = coalesce(given.username, u.username),
    display_name = nullif(coalesce(given.display_name, u.display_name), ''),
    picture_url = nullif(coalesce(given.picture_url, u.picture_url), ''),
    email = nullif(coalesce(given.email, u.email), ''),
    roles = coalesce(string_to_array(given.roles, ','), u.roles),
    status = coalesce(given.status, u.status),
    suspended_xact = CASE WHEN given.status = 'suspended' AND u.status <> 'suspended' THEN pg_current_xact_id()
        ELSE u.suspended_xact END,
    following_count = coalesce(given.following_count, u.following_count),
    followers_count = coalesce(given.followers_count, u.followers_count),
    -- the directory's part, where follow verbs have counted for them (storage/follows.py)
    following_base = u.following_base + coalesce(given.following_count - u.following_count, 0),
    followers_base = u.followers_base + coalesce(given.followers_count - u.followers_count, 0),
    version = coalesce(given.version, u.version)
FROM given JOIN locked ON locked.id = given.id
WHERE u.id = given.id AND (given.version >= u.version) IS NOT FALSE
RETURNING u.id, locked.status, u.status
"""


class StatusChange(NamedTuple):
    """Somebody was suspended, or is not any more."""

    user_id: int
    before: str
    after: str


async def upsert_users(conn: Connection, changes: Sequence[UserChange]) -> list[StatusChange]:
    """Create or change users, each at most once in `changes`; returns whose status it has changed. Call it in a
    transaction.

    A `version` older than the stored one is ignored as a whole; the same version is applied again,
    so that a repeated call that adds what a first one left out isn't lost. A change without a
    username creates nobody.

    Two statements and not one, since fields that were left out can't be told from an insert's own
    defaults in ON CONFLICT DO UPDATE; and the second sees users whom somebody else created meanwhile.
    """
    named = [change for change in changes if change.username is not None]
    if named:
        await insert_unknown_users(conn, [change.id for change in named], [change.username for change in named])
    rows = await conn.fetch(UPDATE_USERS, *columns(changes, len(UserChange._fields)))
    return [StatusChange(*row) for row in rows if row[1] != row[2]]


LOCK_USERS = FETCH_USER.replace(
    "WHERE u.id = $1", "WHERE u.id = ANY($1::bigint[]) ORDER BY u.id FOR NO KEY UPDATE OF u"
)


async def lock_users(conn: Connection, user_ids: Collection[int]) -> dict[int, StoredUser]:
    """Those of the users who exist, as they are and stay until the transaction ends."""
    return {row[0]: StoredUser(*row) for row in await conn.fetch(LOCK_USERS, list(user_ids))}


LIST_KNOWN = "SELECT id FROM users WHERE id = ANY($1::bigint[])"


async def list_known(conn: Connection, user_ids: Collection[int]) -> set[int]:
    """Those of the users who exist."""
    return {row[0] for row in await conn.fetch(LIST_KNOWN, list(user_ids))}

"""Which user a subject of an identity provider is. The mapping only grows: what was read once stays true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import columns
from storage.users import insert_unknown_users

if TYPE_CHECKING:
    from asyncpg import Connection

Identity = tuple[str, str]
"""(issuer, subject)"""

LIST = """
SELECT i.issuer, i.subject, i.user_id FROM unnest($1::text[], $2::text[]) AS d(issuer, subject)
JOIN identities i USING (issuer, subject)
"""


async def list_identities(conn: Connection, identities: Sequence[Identity]) -> dict[Identity, int]:
    """The users of those identities that are known."""
    return {(row[0], row[1]): row[2] for row in await conn.fetch(LIST, *columns(identities, 2))}


class NewIdentity(NamedTuple):
    """Somebody who comes for the first time; `username` None calls them `user_<id>`."""

    issuer: str
    subject: str
    username: str | None


# Sorted, since two nodes that insert the same ones wait for each other's keys.
INSERT = """
INSERT INTO identities (issuer, subject, user_id)
SELECT issuer, subject, nextval('identity_user_id')
FROM (SELECT * FROM unnest($1::text[], $2::text[]) AS new(issuer, subject) ORDER BY issuer, subject) sorted
ON CONFLICT (issuer, subject) DO NOTHING RETURNING issuer, subject, user_id
"""

# The app has given out this id itself, so the identity gets the next one.
MOVE = """
UPDATE identities SET user_id = nextval('identity_user_id') WHERE user_id = ANY($1::bigint[])
RETURNING issuer, subject, user_id
"""


async def insert_identities(conn: Connection, new: Sequence[NewIdentity]) -> None:
    """Give each identity that is not known yet a user of its own. Call it in a transaction; each at most once in `new`.

    Whom somebody else is just creating is waited for and left to them: ask `list_identities` in a statement afterwards.
    """
    usernames = {(each.issuer, each.subject): each.username for each in new}
    rows = await conn.fetch(INSERT, *columns(list(usernames), 2))
    while rows:
        ids = [row[2] for row in rows]
        created = await insert_unknown_users(conn, ids, [usernames[row[0], row[1]] for row in rows])
        taken = [user_id for user_id in ids if user_id not in created]
        rows = await conn.fetch(MOVE, taken) if taken else []

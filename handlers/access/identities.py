"""Identities: which user somebody is whom an identity provider calls `auth0|…` or by a UUID."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from handlers.directory.rules import creates_user
from storage.identities import Identity, NewIdentity, insert_identities, list_identities
from storage.pool import session, transaction

if TYPE_CHECKING:
    from handlers.caller import Claims
    from storage.pool import Pool

MOST_KNOWN: Final = 20_000  # about 5 MB


def identity_of(claims: Claims) -> Identity | None:
    """(issuer, subject); None where the subject is a user's id in digits."""
    return None if claims.issuer is None else (claims.issuer, claims.caller.subject)


class Identities:
    """Looks up users of identities and creates them at their first use. What was found is remembered: it never changes
    within one history of the database."""

    def __init__(self, *, pool: Pool, create_unknown: bool) -> None:
        self._pool = pool
        self._create_unknown = create_unknown
        self._known: dict[Identity, int] = {}

    def known(self, claims: Claims) -> int | None:
        """The token's user as far as can be told without the database."""
        identity = identity_of(claims)
        return claims.caller.user_id if identity is None else self._known.get(identity)

    def forget(self) -> None:
        """The database has another history, in which these may be other people."""
        self._known.clear()

    async def resolve(self, batch: Iterable[Claims]) -> dict[Identity, int]:
        """The users of all these tokens' identities, those created who may be; the others are missing."""
        new = {identity: claims for claims in batch if (identity := identity_of(claims)) is not None}
        async with session(self._pool) as conn:
            found = await list_identities(conn, list(new))
        created = [
            NewIdentity(*identity, claims.username)
            for identity, claims in new.items()
            if identity not in found
            and creates_user(is_backend=claims.caller.is_backend, create_unknown=self._create_unknown)
        ]
        if created:
            async with transaction(self._pool) as conn:
                await insert_identities(conn, created)
                found |= await list_identities(conn, [(each.issuer, each.subject) for each in created])
        self._remember(found)
        return found

    def _remember(self, found: dict[Identity, int]) -> None:
        self._known |= found
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

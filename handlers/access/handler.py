"""Decides whether a verified token may come in, and takes that away again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import UNSET

from handlers.access.identities import Identities, identity_of
from handlers.access.wire import RevokeRequest
from handlers.errors import Refusal
from storage import audit_log, revocations
from storage.audit_log import LogEntry
from storage.pool import session, transaction
from storage.revocations import Standing
from storage.statement import write_together

if TYPE_CHECKING:
    from handlers.caller import Claims
    from storage.pool import Pool


class AccessHandler:
    """For HTTP, request by request, and for fresh tokens of open sockets. Connects come in batches and ask storage
    themselves (gateway/socket/arrivals.py). `on_revoked` is called after each revocation."""

    def __init__(self, *, pool: Pool, identities: Identities, on_revoked: Callable[[], None]) -> None:
        self._pool = pool
        self._identities = identities
        self._on_revoked = on_revoked

    async def admit(self, claims: Claims) -> Claims:
        """The claims with the user they are of; the first use of an identity creates them, as a first connect would.

        Refusals: `unauthorized` for a revoked token, and for a new identity where nobody may be created; `forbidden`
        for the suspended. A backend whose subject is no user's comes in as it is.
        """
        standing = await self.standing(claims)
        if standing.is_revoked:
            raise Refusal("unauthorized", "The token is not valid.")
        if standing.status == "suspended":
            raise Refusal("forbidden", "This user is suspended.")
        user_id = standing.user_id
        if user_id is None and not claims.caller.is_backend:
            user_id = await self._first_use(claims)
        return claims if user_id == claims.caller.user_id else claims.of_user(user_id)

    async def standing(self, claims: Claims) -> Standing:
        """How the token's user stands in the database now."""
        issued_at = None if claims.issued_at is None else math.floor(claims.issued_at)
        async with session(self._pool) as conn:
            return await revocations.fetch_standing(
                conn, claims.caller.user_id, identity_of(claims), issued_at, claims.jti
            )

    async def revoke(self, request: RevokeRequest, who: str) -> None:
        """`POST /v1/revocations`: of all that a user has up to this second, or of one token. `who` is the token's
        subject."""
        if (request.user_id is UNSET) == (request.jti is UNSET):
            raise Refusal("invalid_payload", "Exactly one of `userId` and `jti` is needed.", field="userId")
        async with transaction(self._pool) as conn:
            target = ""
            if isinstance(request.user_id, int):
                await revocations.revoke_user(conn, request.user_id)
                target = f"user:{request.user_id}"
            elif isinstance(request.jti, str):
                await revocations.revoke_token(conn, request.jti)
                target = f"token:{request.jti}"
            await write_together(conn, audit_log.append([LogEntry(who, "revoke", target, None, None)]))
        self._on_revoked()

    async def _first_use(self, claims: Claims) -> int:
        for user_id in (await self._identities.resolve([claims])).values():
            return user_id
        raise Refusal("unauthorized", "The token's user is not known here.")

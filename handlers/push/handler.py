"""Registers devices, and forgets them."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from handlers.errors import Refusal
from handlers.push.wire import RegisterRequest
from storage import heads, push_devices
from storage.db import is_lock_timeout
from storage.pool import session, transaction
from storage.push_devices import Registered

if TYPE_CHECKING:
    from asyncpg import Connection

    from handlers.caller import Claims
    from storage.pool import Pool


class DevicesHandler:
    """`/v1/devices`. At most `most_devices` a user, with tokens of at most `most_token_chars`."""

    def __init__(self, *, pool: Pool, most_devices: int, most_token_chars: int) -> None:
        self._pool = pool
        self._most_devices = most_devices
        self._most_token_chars = most_token_chars

    async def register(self, user_id: int, claims: Claims, request: RegisterRequest) -> None:
        """A user's device, for as long as the token that they came with is not revoked. Registering it again changes
        it; a provider's token that is known moves, from whichever device and user.

        Refuses `invalid_payload` (the provider's token is too long), `conflict` (too many devices), `unavailable`.
        """
        if len(request.token) > self._most_token_chars:
            message = f"A token has at most {self._most_token_chars} characters."
            raise Refusal("invalid_payload", message, field="token")
        issued_at = None if claims.issued_at is None else math.floor(claims.issued_at)
        device = Registered(
            user_id, request.device_id, request.token, key_of(request.token), request.platform, issued_at, claims.jti
        )
        try:
            async with transaction(self._pool) as conn:
                await heads.hold_briefly(conn)
                await self._store(conn, device)
        except Exception as error:
            if not is_lock_timeout(error):
                raise
            raise Refusal("unavailable", "The user concerned is too busy.", retry_after_ms=1000) from None

    async def forget(self, user_id: int, device_id: str) -> None:
        """Nothing is pushed to it any more; the same where there is none."""
        async with session(self._pool) as conn:
            await push_devices.delete(conn, user_id, device_id)

    async def _store(self, conn: Connection, device: Registered) -> None:
        seqs = await heads.lock(conn, [device.user_id])
        if device.user_id not in seqs:
            raise Refusal("not_found", "This token is no user's.")
        others = await push_devices.count_others(conn, device.user_id, device.device_id, device.token_key)
        if others >= self._most_devices:
            message = f"There are {others} devices already: forget one."
            raise Refusal("conflict", message, field="deviceId")
        await push_devices.register(conn, device, seqs[device.user_id])


def key_of(token: str) -> bytes:
    """What a provider's token is found by."""
    return hashlib.blake2b(token.encode(), digest_size=16).digest()

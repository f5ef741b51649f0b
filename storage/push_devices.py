"""Devices that can be told though they are not connected, and how far they have been."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from storage.statement import Write, columns

if TYPE_CHECKING:
    from asyncpg import Connection


class Registered(NamedTuple):
    """A device as somebody registers it. `issued_at` (Unix second) and `jti` are of the token of ours that they came
    with."""

    user_id: int
    device_id: str
    token: str
    token_key: bytes
    platform: str
    issued_at: int | None
    jti: str | None


COUNT_OTHERS = """
SELECT count(*) FROM push_devices WHERE user_id = $1 AND device_id <> $2 AND token_key <> $3
"""


async def count_others(conn: Connection, user_id: int, device_id: str, token_key: bytes) -> int:
    """The user's devices that registering this one leaves as they are; the user's head is locked."""
    return int(await conn.fetchval(COUNT_OTHERS, user_id, device_id, token_key))


DELETE_REPLACED = """
DELETE FROM push_devices WHERE user_id = $1 AND device_id = $2 AND token_key <> $3 RETURNING pushed_seq
"""

# A token that somebody has registered moves, wherever it was: it is one phone.
INSERT = """
INSERT INTO push_devices AS d (user_id, device_id, token, token_key, platform, issued_at, jti, pushed_seq)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (token_key) DO UPDATE SET user_id = excluded.user_id, device_id = excluded.device_id,
    platform = excluded.platform, issued_at = excluded.issued_at, jti = excluded.jti, registered_at = clock_timestamp(),
    pushed_seq = CASE WHEN d.user_id = excluded.user_id THEN d.pushed_seq ELSE excluded.pushed_seq END
"""


async def register(conn: Connection, device: Registered, head: int) -> None:
    """Store a device, or change it: what came before it is not pushed to it, what waits for it stays. The user's head
    is locked, so that each event is either before it, or sees it."""
    pushed = await conn.fetchval(DELETE_REPLACED, device.user_id, device.device_id, device.token_key)
    await conn.execute(INSERT, *device, head if pushed is None else pushed)


DELETE = "DELETE FROM push_devices WHERE user_id = $1 AND device_id = $2"


async def delete(conn: Connection, user_id: int, device_id: str) -> None:
    """Forget a device; nothing happens where there is none."""
    await conn.execute(DELETE, user_id, device_id)


class Device(NamedTuple):
    """A device to be told. `is_refused`: the token that it was registered with has been revoked."""

    user_id: int
    device_id: str
    token: str
    token_key: bytes
    platform: str
    pushed_seq: int
    is_refused: bool
    is_suspended: bool
    seen_seq: int  # up to where its user has seen their notifications


LIST = """
SELECT d.user_id, d.device_id, d.token, d.token_key, d.platform, d.pushed_seq,
    EXISTS (SELECT FROM user_revocations r WHERE r.user_id = d.user_id AND r.up_to >= coalesce(d.issued_at, 0))
        OR EXISTS (SELECT FROM token_revocations t WHERE t.jti = d.jti),
    u.status = 'suspended', coalesce(s.seq, 0)
FROM push_devices d JOIN users u ON u.id = d.user_id LEFT JOIN notifications_seen s ON s.user_id = d.user_id
WHERE d.user_id = ANY($1::bigint[]) ORDER BY d.user_id, d.device_id
"""


async def list_devices(conn: Connection, user_ids: Collection[int]) -> list[Device]:
    """All devices of these users."""
    return [Device(*row) for row in await conn.fetch(LIST, list(user_ids))]


LIST_ACKED = "SELECT user_id, device_id, acked FROM devices WHERE user_id = ANY($1::bigint[])"


async def list_acked(conn: Connection, user_ids: Collection[int]) -> dict[int, dict[str, int]]:
    """user -> device -> confirmed seq, of each device that ever confirmed any."""
    acked: dict[int, dict[str, int]] = {}
    for user_id, device_id, seq in await conn.fetch(LIST_ACKED, list(user_ids)):
        acked.setdefault(user_id, {})[device_id] = seq
    return acked


MARK = """
UPDATE push_devices d SET pushed_seq = new.seq FROM unnest($1::bigint[], $2::bigint[]) AS new(user_id, seq)
WHERE d.user_id = new.user_id AND d.pushed_seq < new.seq
"""


def mark_pushed(seqs: Mapping[int, int]) -> list[Write]:
    """The write by which nothing up to `seq` is pushed to any device of a user any more; their heads are locked."""
    return [Write(MARK, columns(list(seqs.items()), 2))] if seqs else []


class Undelivered(NamedTuple):
    """What was certainly not delivered: a device was marked up to `after`, and has got no more than `before`."""

    user_id: int
    device_id: str
    before: int
    after: int


# Where it was marked further since, others may have delivered what is later: then what is between is given up.
RESTORE = """
UPDATE push_devices d SET pushed_seq = new.before
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) AS new(user_id, device_id, before, after)
WHERE d.user_id = new.user_id AND d.device_id = new.device_id AND d.pushed_seq = new.after
"""


def restore(rows: Sequence[Undelivered]) -> list[Write]:
    """The write by which that is tried again; their users' heads are locked."""
    return [Write(RESTORE, columns(rows, 4))] if rows else []


DELETE_TOKENS = """
DELETE FROM push_devices d USING unnest($1::bigint[], $2::bytea[]) AS gone(user_id, token_key)
WHERE d.token_key = gone.token_key AND d.user_id = gone.user_id
"""


def delete_tokens(tokens: Collection[tuple[int, bytes]]) -> list[Write]:
    """The write that forgets devices, unless they have come with another token, or to somebody else, meanwhile."""
    return [Write(DELETE_TOKENS, columns(list(tokens), 2))] if tokens else []

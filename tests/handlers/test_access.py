"""Who is admitted over HTTP, against the real database; and which tokens a revocation takes with it."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from handlers.access.handler import AccessHandler
from handlers.access.identities import MOST_KNOWN, Identities
from handlers.access.rules import is_revoked
from handlers.access.wire import RevokeRequest
from handlers.caller import Caller, Claims
from handlers.errors import Refusal
from storage.pool import transaction
from storage.users import UserChange, upsert_users


def claims(
    subject: str, *roles: str, issuer: str = "i", issued_at: float | None = 1.0, jti: str | None = None
) -> Claims:
    user_id = int(subject) if subject.isdigit() else None
    caller = Caller(subject=subject, user_id=user_id, roles=frozenset(roles))
    return Claims(
        caller=caller,
        expires_at=2e9,
        issued_at=issued_at,
        jti=jti,
        issuer=issuer if user_id is None else None,
        username=f"name of {subject}",
    )


class Access:
    """The handler with what its tests look at."""

    def __init__(self, pool: asyncpg.Pool, *, create_unknown: bool = True) -> None:
        self.told = 0
        self.identities = Identities(pool=pool, create_unknown=create_unknown)
        self.handler = AccessHandler(pool=pool, identities=self.identities, on_revoked=self._tell)

    def _tell(self) -> None:
        self.told += 1

    async def code_of(self, who: Claims) -> str:
        with pytest.raises(Refusal) as refused:
            await self.handler.admit(who)
        return refused.value.code


@pytest.fixture
def access(pool: asyncpg.Pool) -> Access:
    return Access(pool)


@given(st.none() | st.floats(0, 2**33), st.none() | st.integers(0, 2**33))
def test_a_revocation_takes_what_was_issued_in_its_second_or_before(issued_at: float | None, up_to: int | None) -> None:
    expected = up_to is not None and (issued_at is None or issued_at < up_to + 1)
    assert is_revoked(issued_at, up_to) is expected


@pytest.mark.parametrize(
    ("issued_at", "expected"),
    [(None, True), (0, True), (99, True), (100, True), (100.0, True), (100.9, True), (101, False), (101.5, False)],
)
def test_the_second_itself_is_taken_too(issued_at: float | None, expected: bool) -> None:
    assert is_revoked(issued_at, 100) is expected
    assert is_revoked(issued_at, None) is False


async def test_an_identity_is_one_user_for_ever_and_everywhere(pool: asyncpg.Pool) -> None:
    nodes = [Access(pool) for _ in range(4)]
    who = claims("auth0|7", "viewer")
    admitted = await asyncio.gather(*(node.handler.admit(who) for node in nodes * 5))
    [user_id] = {each.caller.user_id for each in admitted}
    assert user_id is not None
    assert user_id >= 2**52
    assert (await Access(pool).handler.admit(who)).caller == Caller("auth0|7", user_id, frozenset({"viewer"}))
    other = await nodes[0].handler.admit(claims("auth0|7", issuer="j"))
    assert other.caller.user_id != user_id
    rows = await pool.fetch("SELECT id, username FROM users ORDER BY id")
    assert [row["username"] for row in rows] == ["name of auth0|7"] * 2


async def test_digits_are_nobodys_identity(access: Access) -> None:
    who = claims("7")
    assert await access.handler.admit(who) is who
    assert access.identities.known(who) == 7


async def test_who_creates_nobody(pool: asyncpg.Pool, access: Access) -> None:
    for role in ("service", "admin"):
        assert (await access.handler.admit(claims("billing", role))).caller.user_id is None
    closed = Access(pool, create_unknown=False)
    assert await closed.code_of(claims("auth0|7")) == "unauthorized"
    assert await pool.fetchval("SELECT count(*) FROM users") == 0
    assert await pool.fetchval("SELECT count(*) FROM identities") == 0

    known = (await access.handler.admit(claims("auth0|7"))).caller.user_id
    assert (await closed.handler.admit(claims("auth0|7"))).caller.user_id == known
    assert (await access.handler.admit(claims("auth0|7", "admin"))).caller.user_id == known, (
        "an admin who is a user too"
    )


async def test_who_is_revoked_is_unauthorized_until_the_next_log_in(pool: asyncpg.Pool, access: Access) -> None:
    now = time.time()
    user_id = (await access.handler.admit(claims("auth0|7"))).caller.user_id
    assert user_id is not None
    await access.handler.revoke(RevokeRequest(user_id=user_id), "ops")
    assert await access.code_of(claims("auth0|7", issued_at=now)) == "unauthorized"
    assert await access.code_of(claims("auth0|7", issued_at=None)) == "unauthorized"
    assert await Access(pool).code_of(claims(str(user_id), issued_at=now)) == "unauthorized"
    assert await access.handler.admit(claims("auth0|7", issued_at=now + 5))
    await access.handler.revoke(RevokeRequest(jti="t1"), "ops")
    assert await access.code_of(claims("8", issued_at=now + 5, jti="t1")) == "unauthorized"
    assert await access.code_of(claims("billing", "service", issued_at=now + 5, jti="t1")) == "unauthorized"
    assert await access.handler.admit(claims("8", issued_at=now + 5, jti="t2"))
    assert access.told == 2
    rows = await pool.fetch("SELECT who, what, target, before, after FROM audit_log ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("ops", "revoke", f"user:{user_id}", None, None),
        ("ops", "revoke", "token:t1", None, None),
    ]


async def test_a_revoked_token_creates_nobody(pool: asyncpg.Pool, access: Access) -> None:
    await access.handler.revoke(RevokeRequest(jti="t1"), "ops")
    assert await access.code_of(claims("auth0|7", jti="t1")) == "unauthorized"
    assert await pool.fetchval("SELECT count(*) FROM users") == 0


async def test_the_suspended_are_forbidden(pool: asyncpg.Pool, access: Access) -> None:
    user_id = (await access.handler.admit(claims("auth0|7"))).caller.user_id
    assert user_id is not None
    async with transaction(pool) as conn:
        await upsert_users(conn, [UserChange(user_id, status="suspended")])
    for who in (claims("auth0|7"), claims("auth0|7", "admin"), claims(str(user_id))):
        assert await access.code_of(who) == "forbidden"


@pytest.mark.parametrize("request_", [RevokeRequest(), RevokeRequest(user_id=7, jti="t")])
async def test_exactly_one_is_revoked(access: Access, request_: RevokeRequest) -> None:
    with pytest.raises(Refusal) as refused:
        await access.handler.revoke(request_, "ops")
    assert (refused.value.code, refused.value.field) == ("invalid_payload", "userId")
    assert access.told == 0
    assert request_.user_id is UNSET or request_.jti is not UNSET


async def test_memory_is_bounded_and_forgets_another_history(pool: asyncpg.Pool, access: Access) -> None:
    async with transaction(pool) as conn:
        await conn.execute(
            "INSERT INTO identities SELECT 'i', 's' || n, n FROM generate_series(1, $1::int) n", MOST_KNOWN + 10
        )
    found = await access.identities.resolve([claims(f"s{n}") for n in range(1, MOST_KNOWN + 11)])
    assert len(found) == MOST_KNOWN + 10
    known = [n for n in range(1, MOST_KNOWN + 11) if access.identities.known(claims(f"s{n}"))]
    assert len(known) == MOST_KNOWN
    access.identities.forget()
    assert access.identities.known(claims(f"s{known[0]}")) is None

"""The audit of identities: each planted fault is found."""

from __future__ import annotations

import asyncpg
import pytest

from storage.audit import audit
from storage.audit_access import ACCESS_CHECKS
from storage.identities import NewIdentity, insert_identities

FAULTS = {
    "an identity has no user": "UPDATE identities SET user_id = 4711 WHERE subject = 'auth0|1'",
    "an identity's id is still to be given out": "SELECT setval('identity_user_id', last_value, false)"
    " FROM identity_user_id",
}


@pytest.mark.parametrize(("check", "fault"), FAULTS.items(), ids=list(FAULTS))
async def test_a_planted_fault_is_found(conn: asyncpg.Connection, check: str, fault: str) -> None:
    async with conn.transaction():
        await insert_identities(conn, [NewIdentity("i", f"auth0|{number}", None) for number in range(3)])
    assert await audit(conn) == []
    await conn.execute(fault)
    [finding] = await audit(conn)
    assert finding.check == check


def test_each_check_has_its_fault() -> None:
    assert FAULTS.keys() == ACCESS_CHECKS.keys()

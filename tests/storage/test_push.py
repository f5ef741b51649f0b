"""Who is entered as due, and the audit of it: each planted fault is found."""

from __future__ import annotations

from typing import Final

import asyncpg
import pytest

from storage import push_due
from storage.audit import audit
from storage.audit_push import PUSH_CHECKS
from storage.push_due import is_pushable
from storage.statement import write_together
from tests.support.phones import Phones, phones

__all__ = ["phones"]

FAULTS: Final = {
    "a device was told more than there is": "UPDATE push_devices SET pushed_seq = pushed_seq + 100",
    "something could be pushed, and nobody will look": "DELETE FROM push_due",
}


@pytest.mark.parametrize(("check", "fault"), FAULTS.items(), ids=list(FAULTS))
async def test_a_planted_fault_is_found(phones: Phones, check: str, fault: str) -> None:
    await phones.register(1)
    await phones.tell(1)
    await phones.tell(2)
    assert await audit(phones.conn) == []
    await phones.conn.execute(fault)
    [finding] = await audit(phones.conn)
    assert finding.check == check


def test_each_check_has_its_fault() -> None:
    assert FAULTS.keys() == PUSH_CHECKS.keys()


@pytest.mark.parametrize(
    ("event_type", "expected"),
    [
        (None, True),
        ("chat:message:sent", True),
        ("app:anything", True),
        ("notification:video_like", True),
        ("chat:message:read", False),
        ("chat:conversation:changed", False),
        ("wallet:points:earned", False),
    ],
)
def test_what_may_be_pushed(event_type: str | None, expected: bool) -> None:
    assert is_pushable(event_type) is expected


async def test_who_is_due_already_stays_so_also_twice_in_a_statement(phones: Phones, conn: asyncpg.Connection) -> None:
    await phones.register(1)
    await phones.register(3)
    await write_together(conn, [*push_due.enter({1, 2, 3}), *push_due.enter({3, 1})])
    since = await conn.fetch("SELECT user_id, since FROM push_due ORDER BY 1")
    assert [row[0] for row in since] == [1, 3]
    await write_together(conn, push_due.enter([3, 1]))
    assert await conn.fetch("SELECT user_id, since FROM push_due ORDER BY 1") == since
    assert push_due.enter(set()) == []


async def test_heads_are_changed_in_place(phones: Phones, conn: asyncpg.Connection) -> None:
    """Nothing of a push stands in them, so their updates stay HOT."""
    await phones.register(1)
    for _ in range(20):
        await phones.tell(1)
    await conn.execute("SELECT pg_stat_force_next_flush()")
    updated, hot = await conn.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'heads'"
    )
    assert updated == hot >= 20

"""Arrivals: what a connecting user is told, at a cost that does not grow with how many others there are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg

from storage.arrivals import LIST, Arrival, list_arrivals
from storage.revocations import revoke_user
from storage.users import UserChange, insert_unknown_users, upsert_users


async def test_those_who_are_known_are_told_of(conn: asyncpg.Connection) -> None:
    await insert_unknown_users(conn, [7, 8, 9], [None] * 3)
    await upsert_users(conn, [UserChange(8, status="suspended")])
    await revoke_user(conn, 9)
    revoked_up_to = await conn.fetchval("SELECT up_to FROM user_revocations")
    await conn.execute("UPDATE heads SET seq = 30, oldest_seq = 21 WHERE user_id = 9")
    assert await list_arrivals(conn, [7, 8, 9, 10, 7]) == {
        7: Arrival(7, "active", 0, 1, None),
        8: Arrival(8, "suspended", 0, 1, None),
        9: Arrival(9, "active", 30, 21, revoked_up_to),
    }
    assert await list_arrivals(conn, []) == {}


async def test_the_others_are_not_read(conn: asyncpg.Connection) -> None:
    """Whatever the planner knows of the tables: of new ones nothing."""
    await conn.execute("ALTER TABLE users SET (autovacuum_enabled = off)")
    await conn.execute("ALTER TABLE heads SET (autovacuum_enabled = off)")
    await insert_unknown_users(conn, list(range(1, 3_001)), [None] * 3_000)
    explained = "EXPLAIN (ANALYZE, FORMAT JSON) " + LIST.replace("$1", f"'{{{','.join(map(str, range(1, 21)))}}}'")
    for _ in range(2):
        [plan] = json.loads(await conn.fetchval(explained))
        read = {name: rows for name, rows in _rows_read(plan["Plan"]) if name != "user_revocations"}
        assert read == {"users": 20, "heads": 20}
        await conn.execute("ANALYZE")


def _rows_read(node: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """(table, rows) of all scans in a plan."""
    if "Relation Name" in node:
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        yield node["Relation Name"], rows * node["Actual Loops"]
    for below in node.get("Plans", ()):
        yield from _rows_read(below)

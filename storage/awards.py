"""Amounts and thresholds of awards: the newest version of an action holds, older ones are its history."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncpg import Connection

LIST = "SELECT DISTINCT ON (action) action, points, threshold FROM awards ORDER BY action, version DESC"


async def list_awards(conn: Connection) -> list[tuple[str, int, int]]:
    """(action, minor units, threshold) of every award that holds now."""
    return [(row[0], row[1], row[2]) for row in await conn.fetch(LIST)]

"""Independent writes that share one statement, since each round trip costs more than its rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from asyncpg import Connection

_PARAMETER = re.compile(r"\$(\d+)")


class Write(NamedTuple):
    """One data-modifying statement with its arguments, numbered from $1."""

    sql: str
    args: tuple[Any, ...]


@lru_cache(maxsize=64)
def _joined(statements: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """All statements as CTEs of one, their parameters renumbered; the same parts give the same text,
    so that the driver's cache of prepared statements holds it."""
    parts, offset = [], 0
    for number, (sql, size) in enumerate(zip(statements, sizes, strict=True)):
        shifted = _PARAMETER.sub(lambda match, by=offset: f"${int(match[1]) + by}", sql)  # type: ignore[misc]
        parts.append(f"write_{number} AS ({shifted})")
        offset += size
    return "WITH " + ",\n".join(parts) + "\nSELECT"


async def write_together(conn: Connection, writes: Sequence[Write]) -> None:
    """Carry out all writes in one round trip.

    They share one snapshot and must not touch the same row of a table twice: a row inserted in one
    CTE can't be updated in its sibling.
    """
    if writes:
        sql = _joined(tuple(write.sql for write in writes), tuple(len(write.args) for write in writes))
        await conn.execute(sql, *(arg for write in writes for arg in write.args))


def columns(rows: Sequence[Sequence[Any]], width: int) -> tuple[list[Any], ...]:
    """Rows as the arrays that `unnest` takes, also where there are none."""
    return tuple(list(column) for column in zip(*rows, strict=True)) if rows else tuple([] for _ in range(width))


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@lru_cache(maxsize=1024)
def micros(moment: datetime) -> int:
    """A moment as microseconds since 1970, for `moment_of` in SQL. The driver takes three microseconds to encode a
    moment, and a batch's rows share one."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(column: str) -> str:
    """SQL that makes a moment of microseconds again, exactly."""
    return f"('epoch'::timestamptz + {column} * interval '1 microsecond')"

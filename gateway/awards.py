"""`applause awards`: what actions pay, shown and changed by an operator at the database."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from handlers.catalogue.handler import NEWEST, change_award
from handlers.catalogue.wire import PutAwardRequest
from handlers.inbox.envelope import timestamp_of
from handlers.money import as_number
from storage import awards
from storage.awards import AwardVersion

if TYPE_CHECKING:
    from asyncpg import Connection

_MOST_SHOWN = 1000


async def list_lines(conn: Connection) -> list[str]:
    """A line for each award that holds now."""
    _, found = await awards.list_in_force(conn)
    return list(_table([[award.action, *_terms(award)] for award in found]))


async def history_lines(conn: Connection, action: str) -> list[str]:
    """A line for each version of an award, newest first; [] where there is no such award."""
    versions = await awards.list_versions(conn, action, NEWEST, _MOST_SHOWN)
    rows = [[timestamp_of(each.valid_from), *_terms(each), f"by {each.changed_by or '-'}"] for each in versions]
    return list(_table(rows))


async def set_award(
    conn: Connection, action: str, *, points: str, threshold: int | None, daily_cap: int | None, max_amount: int
) -> str:
    """Change an award as `PUT /v1/awards/{action}` does; what it pays then. Raises Refusal, and ValueError where
    `points` is no amount."""
    try:
        request = PutAwardRequest(
            points=msgspec.Raw(points.encode()),
            threshold=UNSET if threshold is None else threshold,
            daily_cap=UNSET if daily_cap is None else daily_cap,
        )
    except ValueError as error:
        raise ValueError(str(error).split(" - at `$", 1)[0]) from None
    async with conn.transaction():
        award = await change_award(conn, action, request, who=f"cli:{os_user()}", max_amount=max_amount)
    return "  ".join([award.action, *filter(None, _terms(award))])


def os_user() -> str:
    """Whoever runs this, as the operating system knows them: the environment can say anything."""
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _terms(award: AwardVersion) -> list[str]:
    cap = "" if award.daily_cap is None else f"daily cap {award.daily_cap}"
    return [f"points {as_number(award.points)}", f"threshold {award.threshold}", cap]


def _table(rows: list[list[str]]) -> Iterator[str]:
    """The rows with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

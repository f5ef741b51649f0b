"""The audit log: who changed what by their own decision, append-only by a trigger of the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from storage.statement import Write, columns


class LogEntry(NamedTuple):
    """One change. `who` is a token's subject or `cli:<user of the operating system>`; `before` and `after` are JSON
    text, None where there was nothing, or is nothing any more; `created_at` None: as of the write."""

    who: str
    what: str
    target: str
    before: str | None
    after: str | None
    created_at: datetime | None = None


APPEND = """
INSERT INTO audit_log (who, what, target, before, after, created_at)
SELECT who, what, target, before, after, coalesce(created_at, clock_timestamp())
FROM unnest($1::text[], $2::text[], $3::text[], $4::json[], $5::json[], $6::timestamptz[])
    AS new(who, what, target, before, after, created_at)
"""


def append(entries: Sequence[LogEntry]) -> list[Write]:
    """The writes that store the entries: in the transaction of what they tell of."""
    return [Write(APPEND, columns(entries, len(LogEntry._fields)))] if entries else []

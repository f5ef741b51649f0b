"""What was taken in from Kafka: how far each partition is, which records there were, and answers that wait to be sent.

A partition's offset is moved in the transaction of what its records came to, from where that transaction believes it
to be: so of two members of the group that both believe the partition to be theirs, one stores nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from storage.requests import KEPT_DAYS_OF_MONEY
from storage.statement import columns

if TYPE_CHECKING:
    from asyncpg import Connection

Partition = tuple[str, int]
"""(topic, number)"""


class Step(NamedTuple):
    """How far one transaction takes a partition: from `before`, where it must stand, to `after`."""

    topic: str
    partition: int
    before: int
    after: int


class Overtaken(Exception):
    """These partitions do not stand where they were believed to: somebody else takes them in, or did."""

    def __init__(self, partitions: set[Partition]) -> None:
        super().__init__(f"overtaken at {sorted(partitions)}")
        self.partitions = partitions


# Who holds a row will move it, so there is nothing to wait for: and whoever waited would stop all others of its batch.
ADVANCE = """
WITH free AS (
    SELECT o.topic, o.partition FROM unnest($1::ingress_row[]) AS step
    JOIN ingress_offsets o ON o.topic = step.topic AND o.partition = step.partition AND o.next = step.before
    FOR NO KEY UPDATE OF o SKIP LOCKED
)
UPDATE ingress_offsets o SET next = step.after FROM unnest($1::ingress_row[]) AS step, free
WHERE free.topic = step.topic AND free.partition = step.partition
    AND o.topic = step.topic AND o.partition = step.partition AND o.next = step.before
RETURNING o.topic, o.partition
"""


async def advance(conn: Connection, steps: Sequence[Step]) -> None:
    """Move each partition by its one step. Raises Overtaken with those that stand elsewhere or that somebody else is
    moving: the transaction must be rolled back then."""
    moved = {(row[0], row[1]) for row in await conn.fetch(ADVANCE, steps)}
    if left := {step[:2] for step in steps} - moved:
        raise Overtaken(left)


LIST_OFFSETS = """
SELECT o.topic, o.partition, o.next FROM unnest($1::text[], $2::integer[]) AS asked(topic, partition)
JOIN ingress_offsets o ON o.topic = asked.topic AND o.partition = asked.partition
"""


async def list_offsets(conn: Connection, partitions: Collection[Partition]) -> dict[Partition, int]:
    """The first offset that was not taken in, of those partitions of which any was."""
    rows = await conn.fetch(LIST_OFFSETS, *columns(list(partitions), 2))
    return {(row[0], row[1]): row[2] for row in rows}


BEGIN = """
INSERT INTO ingress_offsets (topic, partition, next) SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[])
ON CONFLICT DO NOTHING
"""


async def begin(conn: Connection, offsets: Mapping[Partition, int]) -> None:
    """Note where partitions are begun with, unless somebody has begun already."""
    await conn.execute(BEGIN, *columns(sorted((*partition, next_) for partition, next_ in offsets.items()), 3))


# -- answers to commands ---------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """An answer as JSON, for whoever calls itself `source`."""

    source: str
    body: bytes


INSERT_OUTCOMES = "INSERT INTO ingress_outcomes (source, body) SELECT * FROM unnest($1::text[], $2::bytea[])"


async def insert_outcomes(conn: Connection, outcomes: Sequence[Outcome]) -> None:
    """Keep answers until they are sent, in the transaction of what they tell of."""
    await conn.execute(INSERT_OUTCOMES, *columns(outcomes, 2))


# So that two nodes don't send the same ones, but one that freezes with them does not keep them.
HOLD_FOR_A_WHILE = "SELECT set_config('idle_in_transaction_session_timeout', '15s', true)"
LOCK_OUTCOMES = "SELECT id, source, body FROM ingress_outcomes ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED"


async def lock_outcomes(conn: Connection, limit: int) -> tuple[list[int], list[Outcome]]:
    """(ids, outcomes) of the oldest that nobody is sending; locked for the transaction, which has 15 s to send them."""
    await conn.execute(HOLD_FOR_A_WHILE)
    rows = await conn.fetch(LOCK_OUTCOMES, limit)
    return [row[0] for row in rows], [Outcome(row[1], row[2]) for row in rows]


DELETE_OUTCOMES = "DELETE FROM ingress_outcomes WHERE id = ANY($1::bigint[])"


async def delete_outcomes(conn: Connection, ids: Sequence[int]) -> None:
    """They were sent."""
    await conn.execute(DELETE_OUTCOMES, ids)


# -- records of the directory ----------------------------------------------------------------------------------------

RecordKey = tuple[str, str]
"""(source, id)"""

INSERT_RECORDS = """
INSERT INTO ingested_directory (source, id) SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT DO NOTHING RETURNING source, id
"""


async def insert_records(conn: Connection, keys: Iterable[RecordKey]) -> set[RecordKey]:
    """Note records of the directory; those that were not there before. Waits for transactions that are noting the
    same ones; sorted, so that two don't wait for each other."""
    rows = await conn.fetch(INSERT_RECORDS, *columns(sorted(set(keys)), 2))
    return {(row[0], row[1]) for row in rows}


DROP_OLD_RECORDS = f"""
DELETE FROM ingested_directory WHERE created_at < clock_timestamp() - interval '{KEPT_DAYS_OF_MONEY} days'
"""


async def drop_old_records(conn: Connection) -> None:
    """Forget what Kafka itself has long forgotten."""
    await conn.execute(DROP_OLD_RECORDS)

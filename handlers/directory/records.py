"""Records of Kafka's: what other backends know of users and videos, each taken in once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from handlers.directory.bulk import put_users, put_videos
from handlers.directory.handler import given
from handlers.directory.wire import DirectoryRecord, UserRecord, VideoRecord
from handlers.errors import Refusal
from storage import heads, ingress
from storage.ingress import RecordKey, Step
from storage.pool import transaction

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.pool import Pool

PASSING: Final = ("conflict", "ownerId")  # somebody else has just handed the video over


class RecordsRefused(Exception):
    """Nothing was stored, since these records (by their index) can't be."""

    def __init__(self, refusals: Mapping[int, Refusal]) -> None:
        super().__init__(f"{len(refusals)} records refused")
        self.refusals = refusals

    @property
    def is_passing(self) -> bool:
        """Whether the same records may be taken when they are tried again."""
        return any((each.code, each.field) == PASSING for each in self.refusals.values())


class RecordsHandler:
    """Outside the lane, as all of the directory is. Where follow verbs count (`follows_count`), nobody else may set
    follow counts."""

    def __init__(self, *, pool: Pool, follows_count: bool) -> None:
        self._pool = pool
        self._follows_count = follows_count
        self._one_at_a_time = asyncio.Lock()  # the pool is not theirs alone

    async def take(self, records: Sequence[DirectoryRecord], step: Step) -> int:
        """Take in all records of one step of their partition, or none; how many of them were taken in before.

        Each is as a PUT of its own, users first: whoever names an owner may have created them a moment ago. Raises
        RecordsRefused, and storage.ingress.Overtaken where the partition stands elsewhere.
        """
        async with self._one_at_a_time, transaction(self._pool) as conn:
            await heads.hold_briefly(conn)
            unseen = await ingress.insert_records(conn, {(record.source, record.id) for record in records})
            new = _firsts(records, unseen)
            results = await self._put(conn, new)
            if refusals := {at: result for at, result in results.items() if isinstance(result, Refusal)}:
                raise RecordsRefused(refusals)
            await ingress.advance(conn, [step])
        return len(records) - len(new)

    async def _put(self, conn: Connection, records: Mapping[int, DirectoryRecord]) -> dict[int, bool | Refusal]:
        users = {at: (each.user_id, each) for at, each in records.items() if isinstance(each, UserRecord)}
        videos = {
            at: (each.video_id, each, given(each.version))
            for at, each in records.items()
            if isinstance(each, VideoRecord)
        }
        results: dict[int, bool | Refusal] = {}
        if users:
            who = {user_id: record.source for user_id, record in users.values()}
            put = await put_users(conn, list(users.values()), who, follows_count=self._follows_count)
            results.update(zip(users, put, strict=True))
        if videos:
            results.update(zip(videos, await put_videos(conn, list(videos.values())), strict=True))
        return results


def _firsts(records: Sequence[DirectoryRecord], unseen: set[RecordKey]) -> dict[int, DirectoryRecord]:
    """By their index, of each unseen key the first."""
    left = set(unseen)
    found: dict[int, DirectoryRecord] = {}
    for at, record in enumerate(records):
        key = (record.source, record.id)
        if key in left:
            left.discard(key)
            found[at] = record
    return found

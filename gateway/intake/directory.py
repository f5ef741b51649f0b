"""The partition of the directory: its records are carried out by themselves, outside the lane."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from aiokafka.structs import ConsumerRecord

from fanout.tasks import Backoff
from gateway.intake.counts import OK, REPEATED
from gateway.intake.dead_letters import Unread
from gateway.intake.partition import FAULT_OF_OURS, FIRST_PAUSE_S, LONGEST_PAUSE_S, At, Partition, Tools
from gateway.intake.records import directory_record, sentence
from handlers.directory.records import RecordsHandler, RecordsRefused
from handlers.directory.wire import DirectoryRecord
from storage.db import is_connection_lost, is_lock_timeout, is_retryable
from storage.ingress import Overtaken, Step

log = structlog.get_logger()

MOST_TRIES: Final = 5  # at what somebody else has just changed

Read = tuple[ConsumerRecord[bytes, bytes], DirectoryRecord]


class DirectoryPartition(Partition):
    """One transaction for all that it was handed, or as many as it takes where some of it can't be stored."""

    def __init__(self, at: At, stored: int, tools: Tools, handler: RecordsHandler) -> None:
        super().__init__(at, stored, tools)
        self._handler = handler

    @property
    def is_under_way(self) -> bool:
        return False

    def _read(self, record: ConsumerRecord[bytes, bytes]) -> DirectoryRecord:
        return directory_record(record.value or b"")

    async def _carry_out(self, read: Sequence[Read]) -> None:
        backoff = Backoff(first=FIRST_PAUSE_S, most=LONGEST_PAUSE_S)
        tries = 0
        while read and not self._lost:
            try:
                return await self._store(read)
            except Overtaken:
                return self.lose()
            except RecordsRefused as refused:
                tries += 1
                if not refused.is_passing or tries == MOST_TRIES:
                    refusals = refused.refusals
                    await self._bury([Unread(read[at][0], sentence(refusal)) for at, refusal in refusals.items()])
                    read = [each for at, each in enumerate(read) if at not in refusals]
                    continue
            except Exception as error:
                if not (is_connection_lost(error) or is_retryable(error) or is_lock_timeout(error)):
                    return await self._find_the_one(read, error)
            await asyncio.sleep(backoff.next())

    async def _store(self, read: Sequence[Read]) -> None:
        after = read[-1][0].offset + 1
        step = Step(self.at.topic, self.at.number, self.stored, after)
        repeated = await self._handler.take([record for _, record in read], step)
        self._move_to(after)
        counts = self._tools.counts.records
        counts[self.at.kind, REPEATED] += repeated
        counts[self.at.kind, OK] += len(read) - repeated

    async def _find_the_one(self, read: Sequence[Read], error: Exception) -> None:
        """The database refuses, and it is a fault of ours: the others must not suffer from the one record."""
        if len(read) > 1:
            half = len(read) // 2
            await self._carry_out(read[:half])
            await self._carry_out(read[half:])
            return
        record = read[0][0]
        sqlstate = getattr(error, "sqlstate", None)
        log.error(
            "record_failed", topic=record.topic, partition=record.partition, offset=record.offset,
            error=type(error).__name__, sqlstate=sqlstate,
        )  # fmt: skip
        await self._bury([Unread(record, FAULT_OF_OURS)])

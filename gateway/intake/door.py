"""Door 3, put together: the member, its partitions, dead letters and answers."""

from __future__ import annotations

import asyncio
from typing import Final

from fanout.kafka import Kafka
from gateway.intake import records
from gateway.intake.counts import IntakeCounts
from gateway.intake.dead_letters import DeadLetters
from gateway.intake.deeds import DeedPartition, Room, Work
from gateway.intake.directory import DirectoryPartition
from gateway.intake.member import Group, Member
from gateway.intake.offsets import Offsets
from gateway.intake.outbox import Outbox
from gateway.intake.partition import At, Partition, Tools
from gateway.intake.sender import Sender
from gateway.intake.topics import COMMANDS, DEAD_LETTERS, DIRECTORY, EVENTS, OUTCOMES, READ, full_name, topics_of
from gateway.lane import Lane
from gateway.settings import Settings
from handlers.directory.records import RecordsHandler
from storage.pool import Pool

LEAVING_S: Final = 5.0


class IntakeDoor:
    """`run` and `outbox.run` are services that are begun again when they fail."""

    def __init__(self, *, settings: Settings, kafka: Kafka, pool: Pool, lane: Lane, directory: RecordsHandler) -> None:
        prefix, limits = settings.kafka.prefix, settings.intake
        names = {full_name(prefix, topic): topic for topic in READ}
        self._kafka = kafka
        self._topics = topics_of(prefix, limits.partitions)
        self._group = Group(full_name(prefix, "intake"), names, limits.session_timeout_s)
        self._offsets = Offsets(pool)
        self._letters = DeadLetters(Sender(kafka, full_name(prefix, DEAD_LETTERS)))
        self.counts = IntakeCounts()
        self.outbox = Outbox(pool=pool, sender=Sender(kafka, full_name(prefix, OUTCOMES)), counts=self.counts)
        self._decoding = asyncio.Lock()
        room = Room(limits.in_flight)
        self._work = {
            EVENTS: Work(lane, room, records.events(settings.events), None),
            COMMANDS: Work(lane, room, records.command, self.outbox.soon),
        }
        self._directory = directory
        self._life: asyncio.Task[None] | None = None
        self._has_left = False

    async def run(self) -> None:
        """One life in the group, until something breaks; none after `leave`."""
        if not self._has_left:
            await self._kafka.ensure(self._topics)
            await self._live()
        await asyncio.Event().wait()

    async def leave(self) -> None:
        """Take in nothing more, and give the partitions to others."""
        self._has_left = True
        await self._end_life()

    async def _live(self) -> None:
        member = Member(
            kafka=self._kafka,
            group=self._group,
            offsets=self._offsets,
            counts=self.counts,
            partition_of=self._partition_of,
        )
        life = self._life = asyncio.create_task(member.run())
        try:
            await asyncio.wait([life])
        finally:
            await self._end_life()
            await self._letters.close()
        if not self._has_left:
            life.result()

    async def _end_life(self) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life], timeout=LEAVING_S)

    def _partition_of(self, at: At, stored: int, reader: Member) -> Partition:
        tools = Tools(reader, self._offsets, self._letters, self.counts, self._decoding)
        if at.kind == DIRECTORY:
            return DirectoryPartition(at, stored, tools, self._directory)
        return DeedPartition(at, stored, tools, self._work[at.kind])

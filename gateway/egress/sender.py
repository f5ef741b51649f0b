"""A page on its way to Kafka.

Of each partition one batch is under way at a time, and the next is sent when Kafka has acknowledged it: a client that
gives up a batch goes on with the next one, and whoever reads would take what comes in the second try for repeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from fanout.kafka import Kafka, bury, quiet, start

SEND_S: Final = 5.0
BATCH_BYTES: Final = 2**19  # brokers take twice as much

Record = tuple[int, bytes]
"""(user, value); the user's id is the key."""


class Sender:
    """Its client is made when it is first needed. What fails leaves it unusable: the next one begins where Kafka has
    acknowledged all."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None

    async def send(self, records: Sequence[Record]) -> None:
        """Return when Kafka has all of them, each user's in their order. Raises what `AWAY` names."""
        async with asyncio.timeout(SEND_S):
            if self._producer is None:
                self._producer = self._kafka.producer(acks="all", enable_idempotence=True, max_batch_size=BATCH_BYTES)
                await start(self._producer)
            waiting = await self._batches(self._producer, records)
            while waiting:
                await self._send_first(self._producer, waiting)
                waiting = {partition: batches[1:] for partition, batches in waiting.items() if batches[1:]}

    async def close(self) -> None:
        """End the client, whatever it is doing."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await bury(producer)

    async def _send_first(self, producer: AIOKafkaProducer, waiting: dict[int, list[Any]]) -> None:
        acks = [
            quiet(await producer.send_batch(batches[0], self._topic, partition=partition))
            for partition, batches in waiting.items()
        ]
        await asyncio.wait(acks)
        for ack in acks:
            ack.result()

    async def _batches(self, producer: AIOKafkaProducer, records: Sequence[Record]) -> dict[int, list[Any]]:
        """By partition, as every client of Kafka would choose it by the key."""
        partitions = len(await producer.partitions_for(self._topic))
        found: dict[int, list[Any]] = {}
        for user_id, value in records:
            key, partition = _place_of(user_id, partitions)
            batches = found.setdefault(partition, [])
            if not batches or batches[-1].append(timestamp=None, key=key, value=value) is None:
                batches.append(producer.create_batch())
                batches[-1].append(timestamp=None, key=key, value=value)
        return found


@lru_cache(maxsize=65_536)  # to compute it takes longer than all the rest that is done with a record here
def _place_of(user_id: int, partitions: int) -> tuple[bytes, int]:
    key = b"%d" % user_id
    return key, (murmur2(key) & 0x7FFFFFFF) % partitions

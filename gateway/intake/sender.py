"""Records on their way to one topic of Kafka's, each acknowledged by all of its replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaProducer

from fanout.kafka import AWAY, Kafka, bury, quiet, start

SEND_S: Final = 5.0

Record = tuple[bytes, bytes]
"""(key, value); those of one key keep their order."""


class NotSent(Exception):
    """Kafka has not acknowledged; some of the records may be there all the same."""


class Sender:
    """Its producer is made when it is first needed, and anew after whatever failed."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None
        self._one_at_a_time = asyncio.Lock()

    async def send(self, records: Sequence[Record]) -> None:
        """Return when Kafka has all of them. Raises NotSent."""
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(SEND_S):
                    await self._send(records)
            except AWAY as error:
                await self.close()
                raise NotSent(type(error).__name__) from error
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """End the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await bury(producer)

    async def _send(self, records: Sequence[Record]) -> None:
        if self._producer is None:
            self._producer = self._kafka.producer(acks="all", enable_idempotence=False)
            await start(self._producer)
        acks = [quiet(await self._producer.send(self._topic, value, key=key)) for key, value in records]
        await asyncio.gather(*acks)

"""How this room reaches Kafka, and what it looks like when Kafka is away.

aiokafka hangs where its broker is gone: in sending, in starting, and in stopping too. So all of it has a time limit
here, and whatever failed is buried and made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.structs import OffsetAndMetadata, TopicPartition

REQUEST_TIMEOUT_S: Final = 5.0
START_TIMEOUT_S: Final = 5.0
BURY_S: Final = 0.15  # for each of three steps
MOST_REPLICAS: Final = 3

AWAY: Final = (KafkaError, OSError, TimeoutError)
"""What a lost, restarting or frozen Kafka raises. All of it is met by trying again later."""


class TopicsMissing(Exception):
    """Topics are not there, and the broker does not let us create them. `topics` are their names."""

    def __init__(self, topics: Mapping[str, str]) -> None:
        named = ", ".join(f"{name} ({why})" for name, why in topics.items())
        super().__init__(f"topics are missing in Kafka and can't be created by this node: {named}")
        self.topics = tuple(topics)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that somebody needs, as it is created where it is missing. One that is there stays as it is."""

    name: str
    partitions: int
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kafka:
    """One cluster of brokers; `servers` as its clients take them: host:port, comma-separated."""

    servers: str

    def producer(self, **settings: Any) -> AIOKafkaProducer:
        """Not started yet. Each one that was made is to be buried."""
        return AIOKafkaProducer(**self._common(), **settings)

    def consumer(self, **settings: Any) -> AIOKafkaConsumer:
        """Likewise."""
        return AIOKafkaConsumer(**self._common(), **settings)

    async def ensure(self, topics: Sequence[Topic]) -> None:
        """Create those that are missing. Raises TopicsMissing where the broker does not allow it."""
        admin = AIOKafkaAdminClient(**self._common())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await admin.start()
                there = set(await admin.list_topics())  # asking for one by name might create it, in another shape
                missing = [topic for topic in topics if topic.name not in there]
                if missing:
                    await _create(admin, missing)
        finally:
            await _within(BURY_S, admin.close)

    def _common(self) -> dict[str, Any]:
        return {"bootstrap_servers": self.servers, "request_timeout_ms": round(REQUEST_TIMEOUT_S * 1000)}


async def start(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Raises one of `AWAY` where Kafka is."""
    async with asyncio.timeout(START_TIMEOUT_S):
        await client.start()


async def commit(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """Tell Kafka how far the consumer's group is, once. Raises one of `AWAY`, which a rebalance is too.

    Whoever gives it up has given up the request as well. The client's own `commit` shields that, so that nobody would
    hear what becomes of it but the log, as a fault of ours.
    """
    if not offsets.keys() <= consumer.assignment():
        raise KafkaError("they are another member's")
    subscription, coordinator = consumer._subscription.subscription, consumer._coordinator
    await coordinator.ensure_coordinator_known()
    async with coordinator._commit_lock:
        places = {at: OffsetAndMetadata(offset, "") for at, offset in offsets.items()}
        await coordinator._do_commit_offsets(subscription.assignment, places)


def quiet(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """The same one. Where it fails and nobody looks any more, the log does not tell it as a fault of ours."""
    future.add_done_callback(_notice)
    return future


async def bury(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """End it at once, whatever state it and Kafka are in; what it has not sent is lost. By itself it would wait for an
    answer to each request, and for each batch; and a consumer's end can raise a CancelledError that nobody sent."""
    if isinstance(client, AIOKafkaProducer):
        inner, kept, sending = client.client, client._message_accumulator, client._sender.sender_task
        if sending is not None:  # that of an idempotent producer stumbles over its own end: told to nobody, see quiet
            sending.remove_done_callback(client._sender._fail_all)
            quiet(sending)
        for batch in chain.from_iterable(kept._batches.values()):
            quiet(batch._drain_waiter)  # fails with the batch, and nobody waits for it unless the queue is full
        kept.fail_all(KafkaError("given up"))
        kept._batches.clear()  # or it would begin to send them yet
        kept._pending_batches = _Forgiving(kept._pending_batches)
    else:
        inner = client._client
    # Its connections first, so that nothing waits for them; and again, since what runs still may have opened one.
    for step in (inner.close, client.stop, inner.close):
        await _within(BURY_S, step)


class _Forgiving(set[Any]):
    """Each batch removes itself from these in a moment, also one that is to be repeated, and is not among them."""

    def remove(self, batch: Any) -> None:
        self.discard(batch)


async def _create(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> None:
    brokers = len((await admin.describe_cluster())["brokers"])
    answer = await admin.create_topics(
        [
            NewTopic(topic.name, topic.partitions, min(brokers, MOST_REPLICAS), topic_configs=dict(topic.settings))
            for topic in topics
        ]
    )
    errors = {name: for_code(code) for name, code, *_ in answer.topic_errors if code}
    refused = {name: error.__name__ for name, error in errors.items() if error is not TopicAlreadyExistsError}
    if refused:
        raise TopicsMissing(refused)


async def _within(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    """In a task of its own, so that whatever it raises stays there."""
    task = asyncio.ensure_future(step())
    await asyncio.wait([task], timeout=seconds)
    quiet(task)
    task.cancel()


def _notice(done: asyncio.Future[Any]) -> None:
    _ = done.cancelled() or done.exception()

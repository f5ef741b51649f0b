"""Brokers and presences of a cluster, on the run's real Kafka and Valkey, each test with names of its own."""

from __future__ import annotations

import itertools
import os
from typing import NamedTuple

import asyncpg
import pytest

from fanout.broker import Listeners
from fanout.broker_kafka import KafkaBroker, fanout_topic
from fanout.kafka import Kafka
from fanout.presence import Locator
from fanout.presence_redis import RedisPresence
from tests.fanout.sinks import Tasks

PARTITIONS = 4
_numbers = itertools.count(1)


class Places(NamedTuple):
    """Where a cluster's nodes meet."""

    kafka: str
    valkey: str
    prefix: str


@pytest.fixture
def prefix() -> str:
    """Names of this test's own begin so."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def places(kafka: str, valkey: str, prefix: str) -> Places:
    """Both."""
    return Places(kafka, valkey, prefix)


@pytest.fixture
def redis_places(valkey: str, prefix: str) -> Places:
    """Without Kafka, which takes longer to start."""
    return Places("", valkey, prefix)


def presence_of(
    name: str,
    pool: asyncpg.Pool,
    places: Places,
    tasks: Tasks,
    *,
    lease_s: float = 2.0,
    renew_every_s: float = 0.1,
    partitions: int = PARTITIONS,
) -> RedisPresence:
    """Of one node; it has little patience."""
    return RedisPresence(
        pool=pool,
        url=places.valkey,
        prefix=places.prefix,
        node=name,
        partitions=partitions - 1,
        spawn=tasks,
        lease_s=lease_s,
        renew_every_s=renew_every_s,
    )


def kafka_broker(
    name: str,
    places: Places,
    locator: Locator | None,
    listeners: Listeners,
    tasks: Tasks,
    *,
    family: str = "",
    partitions: int = PARTITIONS,
) -> KafkaBroker:
    """Of one node."""
    return KafkaBroker(
        kafka=Kafka(places.kafka),
        topic=fanout_topic(places.prefix, partitions),
        node=name,
        family=family or name,
        locator=locator,
        listeners=listeners,
        spawn=tasks,
    )

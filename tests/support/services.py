"""A real Kafka and a real Valkey for the whole run, started by the first test that asks for them.

Tests share them: each takes topics with a prefix of its own, and keys with a prefix (or a Redis database) of its own.
Those that stop, kill or freeze one start their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.cluster.kafka import EmbeddedKafka, kafka_missing
from gateway.cluster.valkey import EmbeddedValkey, valkey_missing
from tests.support.absence import not_run


def need_kafka() -> None:
    """Skip the test, naming what is missing, where Kafka can't run."""
    if (why := kafka_missing()) is not None:
        not_run("kafka", why)


def need_valkey() -> None:
    """Skip the test, naming what is missing, where Valkey can't run."""
    if (why := valkey_missing()) is not None:
        not_run("valkey", why)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The bootstrap server of the run's Kafka. Topics are not created by being used."""
    need_kafka()
    async with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server.bootstrap


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address, with its password, of the run's Valkey."""
    need_valkey()
    async with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url

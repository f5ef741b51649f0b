"""What a process of the gateway stands on: its database, and what asks it to end."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from contextlib import AsyncExitStack
from typing import Final

import structlog

from gateway.sessions import BESIDE_THE_POOL
from gateway.settings import BadSettings, Settings
from gateway.supervisor import Supervisor
from storage.db import connect
from storage.embedded import SERVER_SETTINGS, EmbeddedPostgres
from storage.migrate import ensure_current, migrate

log = structlog.get_logger()

FOR_COMMANDS: Final = 20  # `audit`, `migrate`, somebody's psql


async def database(settings: Settings, stack: AsyncExitStack, supervisor: Supervisor) -> str:
    """The database's address: one's own, on a schema that is current; or ours, started and migrated."""
    if not settings.is_embedded:
        conn = await connect(settings.database.url)
        try:
            await ensure_current(conn)
        finally:
            await conn.close()
        return settings.database.url
    postgres = EmbeddedPostgres(
        settings.data_path,
        binaries=settings.binaries_path,
        serving_port=settings.server.port or None,
        settings={"max_connections": str(_most_connections(settings))},
    )
    dsn = (await stack.enter_async_context(postgres)).dsn
    conn = await connect(dsn)
    try:
        await migrate(conn)
    finally:
        await conn.close()
    supervisor.start("postgres", postgres.keep_running())
    return dsn


class CannotStart(Exception):
    """Something that a node needs is not there, and won't come by itself; the message says what."""


async def topics(settings: Settings) -> None:
    """Create what is missing in Kafka. Where Kafka is away, that is done when it is back. Raises CannotStart where the
    broker does not allow it."""
    if not settings.kafka.bootstrap_servers:
        return
    needed = ["aiokafka", "redis"] if settings.redis.url else ["aiokafka"]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise BadSettings([f"kafka, redis: need {' and '.join(missing)}: pip install 'applause[cluster]'"])
    from fanout.kafka import AWAY, TopicsMissing
    from gateway.egress.publisher import ledger_topic
    from gateway.intake.topics import topics_of
    from gateway.workers.team import fanout_topic_of, kafka_of

    wanted = [] if settings.is_embedded else [fanout_topic_of(settings)]  # nobody else can have that database
    if settings.intake.enabled:
        wanted += topics_of(settings.kafka.prefix, settings.intake.partitions)
    if settings.egress.enabled:
        wanted.append(ledger_topic(settings))
    if not wanted:
        return
    try:
        await kafka_of(settings).ensure(wanted)
    except TopicsMissing as error:
        raise CannotStart(str(error)) from None
    except AWAY as error:
        log.warning("kafka_away", error=type(error).__name__, servers=settings.kafka.bootstrap_servers)


def stop_signal() -> asyncio.Future[None]:
    """Done when SIGTERM or SIGINT has come."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def ask() -> None:
        if not stop.done():
            stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    return stop


def _most_connections(settings: Settings) -> int:
    """Of the embedded PostgreSQL: for all workers, and commands beside them."""
    needed = settings.server.workers * (settings.database.pool_size + BESIDE_THE_POOL) + FOR_COMMANDS
    return max(needed, int(SERVER_SETTINGS["max_connections"]))

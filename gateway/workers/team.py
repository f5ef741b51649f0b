"""The workers of one parent, as one of them sees them; and which presence and broker a node needs therefore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.broker import Broker, Listeners, MemoryBroker
from fanout.broker_both import BothBrokers
from fanout.broker_postgres import PostgresBroker
from fanout.broker_unix import UnixBroker
from fanout.presence import MemoryPresence, Presence
from fanout.presence_postgres import PostgresPresence
from fanout.presence_unix import UnixPresence
from gateway.settings import Settings

if TYPE_CHECKING:
    import asyncpg

    from fanout.kafka import Kafka, Topic
    from fanout.line import Line
    from fanout.tasks import Spawn

READY: Final = 3  # a worker listens
SCRAPE: Final = 4  # its metrics, please
PING: Final = 5  # does its loop turn?
"""Subjects on the line, beside those of broker and presence."""


@dataclass(frozen=True, slots=True)
class Team:
    """`name` begins the names of all its nodes, and no others'."""

    line: Line
    name: str
    size: int

    @property
    def number(self) -> int:
        """This worker's, from 0 on."""
        return self.line.number

    @property
    def others(self) -> list[int]:
        """The other workers' numbers."""
        return [number for number in range(self.size) if number != self.number]


def kafka_of(settings: Settings) -> Kafka:
    """The Kafka that is set."""
    from fanout.kafka import Kafka  # with what only a cluster needs

    return Kafka(",".join(settings.kafka.bootstrap_servers))


def fanout_topic_of(settings: Settings) -> Topic:
    """The topic that nodes talk on, as it is created where it is missing."""
    from fanout.broker_kafka import fanout_topic

    return fanout_topic(settings.kafka.prefix, settings.kafka.fanout_partitions)


def presence_for(
    settings: Settings, *, dsn: str | None, pool: asyncpg.Pool, node: str, team: Team | None, spawn: Spawn
) -> Presence:
    """`dsn` is given where other nodes may be anywhere that the database is reached from, `team` where there are
    siblings."""
    if dsn is None:
        return MemoryPresence(node) if team is None else UnixPresence(line=team.line, node=node, spawn=spawn)
    family = team.name if team else node
    if not settings.redis.url:
        return PostgresPresence(pool=pool, node=node, spawn=spawn, family=family)
    from fanout.presence_redis import RedisPresence

    return RedisPresence(
        pool=pool,
        url=settings.redis.url,
        prefix=settings.kafka.prefix,
        node=node,
        family=family,
        partitions=settings.kafka.fanout_partitions - 1,
        spawn=spawn,
    )


def broker_for(
    settings: Settings,
    *,
    dsn: str | None,
    node: str,
    team: Team | None,
    presence: Presence,
    listeners: Listeners,
    spawn: Spawn,
) -> Broker:
    """Likewise."""
    if dsn is None:
        return MemoryBroker() if team is None else UnixBroker(line=team.line, listeners=listeners)

    def far(listeners: Listeners) -> Broker:
        # All of a team have one name there, so that none hears again what it has heard near.
        family = team.name if team else node
        if not settings.kafka.bootstrap_servers:
            return PostgresBroker(dsn=dsn, node=family, listeners=listeners, spawn=spawn)
        from fanout.broker_kafka import KafkaBroker
        from fanout.presence_redis import RedisPresence

        return KafkaBroker(
            kafka=kafka_of(settings),
            topic=fanout_topic_of(settings),
            node=node,
            family=family,
            locator=presence if isinstance(presence, RedisPresence) else None,
            listeners=listeners,
            spawn=spawn,
        )

    if team is None:
        return far(listeners)
    line = team.line
    return BothBrokers(
        near=lambda heard: UnixBroker(line=line, listeners=heard),
        far=far,
        listeners=listeners,
        has_far=presence.strangers,
    )

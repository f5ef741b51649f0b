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

if TYPE_CHECKING:
    import asyncpg

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


def presence_for(*, dsn: str | None, pool: asyncpg.Pool, node: str, team: Team | None, spawn: Spawn) -> Presence:
    """`dsn` is given where other nodes may be anywhere that the database is reached from, `team` where there are
    siblings."""
    if dsn is not None:
        return PostgresPresence(pool=pool, node=node, spawn=spawn, family=team.name if team else node)
    return MemoryPresence() if team is None else UnixPresence(line=team.line, spawn=spawn)


def broker_for(
    *, dsn: str | None, node: str, team: Team | None, presence: Presence, listeners: Listeners, spawn: Spawn
) -> Broker:
    """Likewise."""
    if dsn is None:
        return MemoryBroker() if team is None else UnixBroker(line=team.line, listeners=listeners)
    if team is None:
        return PostgresBroker(dsn=dsn, node=node, listeners=listeners, spawn=spawn)
    assert isinstance(presence, PostgresPresence)
    return BothBrokers(
        near=lambda heard: UnixBroker(line=team.line, listeners=heard),
        # All of a team have one name there, so that none hears again what it has heard near.
        far=lambda heard: PostgresBroker(dsn=dsn, node=team.name, listeners=heard, spawn=spawn),
        listeners=listeners,
        has_far=presence.strangers,
    )

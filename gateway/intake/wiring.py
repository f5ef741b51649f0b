"""Door 3 as the settings have it, if this node takes part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.lane import Lane
from gateway.settings import Settings
from gateway.supervisor import Supervisor
from gateway.workers.team import kafka_of
from handlers.directory.records import RecordsHandler
from storage.pool import Pool

if TYPE_CHECKING:
    from gateway.intake.door import IntakeDoor


def start_intake(settings: Settings, supervisor: Supervisor, *, pool: Pool, lane: Lane) -> IntakeDoor | None:
    """Its services run from here on. None where there is no Kafka, or this node takes no part."""
    if not settings.kafka.bootstrap_servers or not settings.intake.enabled:
        return None
    from gateway.intake.door import IntakeDoor  # with what only a cluster needs

    intake = IntakeDoor(
        settings=settings,
        kafka=kafka_of(settings),
        pool=pool,
        lane=lane,
        directory=RecordsHandler(pool=pool, follows_count=settings.users.follows_count),
    )
    supervisor.keep("intake", intake.run)
    supervisor.keep("outcomes", intake.outbox.run)
    return intake

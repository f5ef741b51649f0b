"""Door 3 as the settings have it, if this node takes part."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gateway.lane import Lane
from gateway.metrics.doors import of_intake
from gateway.metrics.registry import Show
from gateway.settings import Settings
from gateway.supervisor import Supervisor
from gateway.workers.team import kafka_of
from handlers.directory.records import RecordsHandler
from storage.pool import Pool

if TYPE_CHECKING:
    from gateway.intake.door import IntakeDoor


def start_intake(
    settings: Settings, supervisor: Supervisor, show: Show, *, pool: Pool, lane: Lane
) -> IntakeDoor | None:
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
    show(partial(of_intake, intake.counts))
    return intake

"""The ledger for others to read as the settings have it, if this node takes part."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from gateway.failpoints import Failpoints
from gateway.metrics.doors import of_egress
from gateway.metrics.registry import Show
from gateway.settings import Settings
from gateway.supervisor import Supervisor
from gateway.workers.team import kafka_of
from storage.pool import Pool

if TYPE_CHECKING:
    from asyncpg import Connection


def start_egress(
    settings: Settings,
    supervisor: Supervisor,
    show: Show,
    *,
    node: str,
    pool: Pool,
    connect: Callable[[], Awaitable[Connection]],
    epoch: Callable[[], str],
    failpoints: Failpoints,
) -> None:
    """Its services run from here on, unless there is no Kafka or this node takes no part."""
    if not settings.kafka.bootstrap_servers or not settings.egress.enabled:
        return
    from gateway.egress.publisher import EgressPublisher, ledger_topic  # with what only a cluster needs
    from gateway.egress.watch import EgressWatch

    egress = EgressPublisher(
        settings=settings,
        kafka=kafka_of(settings),
        node=node,
        connect=connect,
        epoch=epoch,
        failpoints=failpoints,
    )
    watch = EgressWatch(pool=pool, topic=ledger_topic(settings).name, counts=egress.counts)
    supervisor.keep("egress", egress.run)
    supervisor.keep("egress watch", watch.run)
    show(partial(of_egress, egress.counts))

"""One node at a time: page after page of the ledger, and how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog

from fanout.kafka import Kafka, Topic
from gateway.egress.counts import EgressCounts
from gateway.egress.sender import Record, Sender
from gateway.failpoints import Failpoints
from gateway.settings import Settings
from handlers.wallet.transactions import record_of
from handlers.wire import encode
from storage import egress
from storage.egress import Page, Place

if TYPE_CHECKING:
    from asyncpg import Connection

log = structlog.get_logger()

RENEWALS: Final = 3  # in the time of a lease
LOOK_EVERY_S: Final = 0.5  # the fewer pages, the less each entry costs
CLAIM_EVERY_S: Final = 1.0
PAGE: Final = 500  # entries, some 450 bytes each: what others on this loop wait for is a few milliseconds
RENDER_AT_ONCE: Final = 100
RELEASE_S: Final = 1.0

FAILPOINT: Final = "after_egress_before_place"


def ledger_topic(settings: Settings) -> Topic:
    """As it is created where it is missing."""
    return Topic(f"{settings.kafka.prefix}.ledger", settings.egress.partitions)


class EgressPublisher:
    """`run` is a service that is begun again when it fails. `connect` opens its own session, a lane's, and `epoch` is
    that of the database which this has found."""

    def __init__(
        self,
        *,
        settings: Settings,
        kafka: Kafka,
        node: str,
        connect: Callable[[], Awaitable[Connection]],
        epoch: Callable[[], str],
        failpoints: Failpoints,
    ) -> None:
        self._kafka = kafka
        self._topic = ledger_topic(settings)
        self._lease_s = settings.egress.lease_s
        self._node = node
        self._connect = connect
        self._epoch = epoch
        self._failpoints = failpoints
        self.counts = EgressCounts()

    async def run(self) -> None:
        """One life, until something breaks."""
        conn: Connection | None = None
        sender = Sender(self._kafka, self._topic.name)
        try:
            await self._kafka.ensure([self._topic])
            conn = await self._connect()
            await conn.execute("SET synchronous_commit = off")  # a place that a crash takes back means repeats, no more
            while True:
                place = await egress.claim(conn, self._topic.name, self._node, self._lease_s)
                if place is None:
                    await asyncio.sleep(CLAIM_EVERY_S)
                else:
                    await self._publish(conn, sender, place)
        except Exception:
            self.counts.failures += 1
            raise
        finally:
            self.counts.is_publishing = False
            await asyncio.shield(self._end(conn, sender))

    async def _publish(self, conn: Connection, sender: Sender, place: Place) -> None:
        """From there on, until another node has taken over."""
        self.counts.is_publishing = True
        if place.swept is not None:
            self.counts.sweeps += 1
            log.info("egress_sweeps", topic=self._topic.name, after_user=place.swept[0])
        renewed_at = time.monotonic()
        while True:
            page = await egress.next_page(conn, place, PAGE)
            if page.rows:
                await sender.send(await self._rendered(page))
                await self._failpoints.reach(FAILPOINT)
            is_due = time.monotonic() - renewed_at > self._lease_s / RENEWALS
            if page.rows or place.swept != page.then.swept or is_due:
                renewed_at = time.monotonic()
                if not await egress.advance(conn, self._topic.name, self._node, page.then, self._lease_s):
                    break
            self.counts.records += len(page.rows)
            self.counts.pages += bool(page.rows)
            place = page.then
            if not page.is_full:
                await asyncio.sleep(LOOK_EVERY_S)
        self.counts.is_publishing = False
        log.warning("egress_overtaken", topic=self._topic.name)

    async def _rendered(self, page: Page) -> list[Record]:
        epoch = self._epoch()
        records: list[Record] = []
        for entry, status in page.rows:
            if len(records) % RENDER_AT_ONCE == RENDER_AT_ONCE - 1:
                await asyncio.sleep(0)
            records.append((entry.user_id, encode(record_of(entry, status, epoch))))
        return records

    async def _end(self, conn: Connection | None, sender: Sender) -> None:
        """Nothing more goes to Kafka from here before another may go on."""
        await sender.close()
        if conn is not None:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                async with asyncio.timeout(RELEASE_S):
                    await egress.release(conn, self._topic.name, self._node)
            conn.terminate()

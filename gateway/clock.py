"""Door 4: what is due. Each chore runs by the clock on whichever node gets to it; all of them may be repeated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from handlers.catalogue.current import CurrentAwards
from handlers.deed import Delivered
from handlers.engagement.settler import Settler
from handlers.engagement.totals import LiveTotals
from handlers.events.applier import Applier
from handlers.inbox.retention import Retention
from handlers.messaging.settler import GroupSettler
from handlers.push.job import PushJob
from storage import heads, ingress, requests
from storage.db import is_connection_lost, is_lock_timeout, is_retryable
from storage.pool import Pool, session

if TYPE_CHECKING:
    from asyncpg import Connection

    from fanout.delivery import Delivery
    from fanout.hub import Hub
    from fanout.presence import Presence
    from gateway.history import History

log = structlog.get_logger()

SETTLE_EVERY_S: Final = 0.1
SETTLE_SHARE: Final = 0.1  # of the time, where there is much: then it is gathered longer, up to
SETTLE_AT_LEAST_EVERY_S: Final = 0.5
PARTITIONS_EVERY_S: Final = 3600.0
APPLY_EVERY_S: Final = 1.0
TELL_GROUPS_EVERY_S: Final = 0.25
TELL_GROUPS_REST_S: Final = 0.05
PUSH_EVERY_S: Final = 0.5
LEAVE_EVERY_S: Final = 0.05
HISTORY_EVERY_S: Final = 2.0
TOTALS_EVERY_S: Final = 0.5
AWARDS_EVERY_S: Final = 0.5  # an operator's change holds on every node within a second


class OwnSession:
    """A database session that one chore keeps for itself, for its length in an `async with` at a time: opened where
    there is none, ended by any error in it (whatever it was in the middle of), and by `close`."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._conn: Connection | None = None

    async def __aenter__(self) -> Connection:
        if self._conn is None or self._conn.is_closed():
            self._conn = await self._connect()
        return self._conn

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.close()

    def close(self) -> None:
        """End it, without a word to the database: a frozen one would not answer."""
        if self._conn is not None:
            self._conn.terminate()


class Clock:
    """Settles accruals, compares heads, keeps partitions. Who misses hints sets `compare_now`.

    `connect` opens the settler's own session, a lane's: it locks heads, and its plans are as old as it is.
    """

    def __init__(
        self,
        *,
        pool: Pool,
        connect: Callable[[], Awaitable[Connection]],
        settler: Settler,
        delivery: Delivery,
        hub: Hub,
        presence: Presence,
        deliver: Callable[[Sequence[Delivered]], None],
        compare_now: asyncio.Event,
    ) -> None:
        self._pool = pool
        self._session = OwnSession(connect)
        self._settler = settler
        self._delivery = delivery
        self._hub = hub
        self._presence = presence
        self._deliver = deliver
        self._compare_now = compare_now

    async def settle(self) -> None:
        """Serve until cancelled: whatever waits for creators, at most once a second each."""
        went_well = True
        rest_s = SETTLE_EVERY_S
        with closing(self._session):
            while True:
                await asyncio.sleep(rest_s)
                begun = time.monotonic()
                went_well = await _attempt("settle", self._settle, went_well)
                took_s = time.monotonic() - begun
                rest_s = min(max(took_s / SETTLE_SHARE, SETTLE_EVERY_S), SETTLE_AT_LEAST_EVERY_S)

    async def keep_partitions(self) -> None:
        """Serve until cancelled: partitions ahead of time, expired ones away."""
        await _for_ever("partitions", PARTITIONS_EVERY_S, self._keep_partitions)

    async def follow_awards(self, current: CurrentAwards) -> None:
        """Serve until cancelled: what operators have changed, on whichever node."""

        async def look() -> None:
            async with session(self._pool) as conn:
                await current.look(conn)

        await _for_ever("awards", AWARDS_EVERY_S, look)

    async def tell_totals(self, totals: LiveTotals) -> None:
        """Serve until cancelled: the totals of videos that somebody watches here, at most twice a second."""
        await _for_ever("totals", TOTALS_EVERY_S, totals.look)

    async def follow_history(self, history: History) -> None:
        """Serve until cancelled: a new epoch, also where the connections to the database stay as they are."""

        async def look() -> None:
            async with session(self._pool) as conn:
                await history.look(conn)

        await _for_ever("history", HISTORY_EVERY_S, look)

    async def compare_heads(self, every_s: float) -> None:
        """Serve until cancelled: the inbox is the truth, whatever hints were lost."""
        await _when_woken("compare", self._compare_now, every_s, self._compare)

    async def _settle(self) -> None:
        await _settle_all(self._settler, self._session, self._deliver)

    async def _keep_partitions(self) -> None:
        async with session(self._pool) as conn:
            await requests.maintain_partitions(conn)
            await ingress.drop_old_records(conn)

    async def _compare(self) -> None:
        known = self._delivery.heads_behind()
        if not known:
            return
        async with session(self._pool) as conn:
            ahead = await heads.list_ahead(conn, known)
        for user_id, seq in ahead:
            self._delivery.raise_head(user_id, seq)
        if self._presence.other_nodes():
            for replaced in await self._presence.newer(self._hub.named_devices()):
                self._delivery.replace(*replaced)


class GroupClock:
    """Tells large groups what was gathered for them, as soon as it may. `connect` opens a session of its own, a lane's;
    `tell_now` is set where something was just gathered here."""

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[Connection]],
        settler: GroupSettler,
        deliver: Callable[[Sequence[Delivered]], None],
        tell_now: asyncio.Event,
    ) -> None:
        self._session = OwnSession(connect)
        self._settler = settler
        self._deliver = deliver
        self._tell_now = tell_now

    async def tell_groups(self) -> None:
        """Serve until cancelled."""
        with closing(self._session):
            await _when_woken("groups", self._tell_now, TELL_GROUPS_EVERY_S, self._tell)

    async def _tell(self) -> None:
        await _settle_all(self._settler, self._session, self._deliver)
        await asyncio.sleep(TELL_GROUPS_REST_S)  # a busy group asks for it with each batch


class InboxClock:
    """Brings backends' events to long lists of recipients, and keeps inboxes short. Who leaves work to the applier
    sets `apply_now`; what another node has left when it died is found by looking."""

    def __init__(
        self,
        *,
        pool: Pool,
        applier: Applier,
        retention: Retention,
        deliver: Callable[[Sequence[Delivered]], None],
        apply_now: asyncio.Event,
    ) -> None:
        self._pool = pool
        self._applier = applier
        self._retention = retention
        self._deliver = deliver
        self._apply_now = apply_now

    async def apply_broadcasts(self) -> None:
        """Serve until cancelled: what waits for thousands of recipients."""
        await _when_woken("broadcasts", self._apply_now, APPLY_EVERY_S, self._apply)

    async def trim_inboxes(self, every_s: float) -> None:
        """Serve until cancelled: what retention does not keep."""
        await _for_ever("retention", every_s, self._trim)

    async def _apply(self) -> None:
        told: Sequence[Delivered] | None = []
        while told is not None:
            async with session(self._pool) as conn:  # given back after each chunk: others wait for one, too
                told = await self._applier.apply(conn)
            self._deliver(told or [])

    async def _trim(self) -> None:
        async with session(self._pool) as conn:
            await self._retention.run(conn)


class PushClock:
    """Pushes to who is not there. `connect` opens the job's own session, a lane's: it locks heads, and its plans are as
    old as it is."""

    def __init__(self, *, connect: Callable[[], Awaitable[Connection]], job: PushJob) -> None:
        self._session = OwnSession(connect)
        self._job = job

    async def push(self) -> None:
        """Serve until cancelled."""
        went_well = True
        with closing(self._session):
            while True:
                await asyncio.sleep(LEAVE_EVERY_S if self._job.is_leaving else PUSH_EVERY_S)
                went_well = await _attempt("push", self._push, went_well)

    async def leave(self) -> None:
        """Take nobody any more, and return when it is written down what has become of all who are being told."""
        self._job.is_leaving = True
        while self._job.in_flight:
            await asyncio.sleep(LEAVE_EVERY_S)

    async def _push(self) -> None:
        async with self._session as conn:
            await self._job.run(conn)


class Settles(Protocol):
    """A settler of any kind."""

    @property
    def is_behind(self) -> bool:
        """Whether more was due than one transaction takes."""
        ...

    async def settle(self, conn: Connection) -> Sequence[Delivered]:
        """Settle what is due in one transaction; returns the committed events."""
        ...


async def _settle_all(settler: Settles, own: OwnSession, deliver: Callable[[Sequence[Delivered]], None]) -> None:
    """Transaction after transaction, until nothing more is due."""
    async with own as conn:
        deliver(await settler.settle(conn))
        while settler.is_behind:
            deliver(await settler.settle(conn))


async def _when_woken(name: str, now: asyncio.Event, every_s: float, chore: Callable[[], Awaitable[None]]) -> None:
    """The chore whenever it is asked for, and every so often anyway."""
    went_well = True
    while True:
        try:
            async with asyncio.timeout(every_s):
                await now.wait()
        except TimeoutError:
            pass
        now.clear()
        went_well = await _attempt(name, chore, went_well)


async def _for_ever(name: str, every_s: float, chore: Callable[[], Awaitable[None]]) -> None:
    went_well = True
    while True:
        await asyncio.sleep(every_s)
        went_well = await _attempt(name, chore, went_well)


async def _attempt(name: str, chore: Callable[[], Awaitable[None]], went_well: bool) -> bool:
    """A chore that the database is not there for, or that met another node's, is tried again next time.

    Takes whether it went well the last time, and returns whether it did now: only the first failure is logged.
    """
    try:
        await chore()
    except Exception as error:
        if not (is_connection_lost(error) or is_retryable(error) or is_lock_timeout(error)):
            raise
        if went_well:
            log.warning("chore_postponed", chore=name, error=type(error).__name__)
        return False
    return True

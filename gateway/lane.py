"""The lane: deeds in micro-batches, one transaction in flight, bounded admission.

One lane per process: a second worker gains more than a second lane (measured; see README's decisions). The lane owns
one database session of its own. Whatever happens to it, each deed is answered exactly once, within
`deadline_s` of its receipt: with its outcome, or with `unavailable`, which carries
`outcome: "unknown"` where a COMMIT was sent whose fate is not known.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from gateway.batch import resolve, run_in_turn
from gateway.counts import LaneCounts, Throttle
from gateway.intake.commit import take_steps
from handlers.deed import GIVEN_UP, Answer, BatchResult, Deed, Delivered
from handlers.errors import Refusal, refusal_ack
from storage import heads
from storage.db import is_connection_lost, is_lock_timeout, is_retryable
from storage.ingress import Overtaken

if TYPE_CHECKING:
    from asyncpg import Connection

    from gateway.failpoints import Failpoints
    from handlers.deed import DeedHandler

log = structlog.get_logger()

_EXPIRY_PERIOD_S = 0.25
_LEAST_TIME_S = 0.4  # for a batch whose oldest deed is nearly due
_RECONNECT_PAUSE_S = 0.1
_SLOW_LINE_EVERY_S = 5.0


class Orders(Protocol):
    """What keeps an action's own events behind its acknowledgement on the acting connection."""

    def hold(self, order_key: Any) -> None:
        """From now on the connection hears of nothing that is not known yet."""
        ...

    def release(self, order_key: Any) -> None:
        """Its acknowledgements are queued."""
        ...


class Lane:
    """Takes deeds from all doors through the database, in the order of their connections.

    `handlers` names each event's domain. `connect` opens the lane's session; `deliver` gets each committed event;
    `catch_up` is called when events may have been committed that nobody here has seen.
    """

    def __init__(
        self,
        *,
        handlers: Mapping[str, DeedHandler],
        connect: Callable[[], Awaitable[Connection]],
        orders: Orders,
        deliver: Callable[[Sequence[Delivered]], None],
        catch_up: Callable[[], None],
        limits: LaneLimits,
    ) -> None:
        self._handlers = handlers
        self._connect = connect
        self._orders = orders
        self._deliver = deliver
        self._catch_up = catch_up
        self._limits = limits
        self._queue: deque[Deed] = deque()
        self._running: list[Deed] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._conn: Connection | None = None
        self._committing = False
        self._slow_line = Throttle(_SLOW_LINE_EVERY_S)
        self.available = True  # False while the database is known to be away
        self.counts = LaneCounts()
        self.slow_s = math.inf  # an action that takes as long is named in the log
        self.failpoints: Failpoints | None = None  # set where a test wants this node to die or to stand still

    # -- admission -------------------------------------------------------------------------------

    def submit(self, deed: Deed) -> None:
        """Queue the deed. Raises Refusal `overloaded` where too many wait already."""
        if len(self._queue) >= self._limits.queue:
            raise Refusal("overloaded", "Too many actions are waiting.", retry_after_ms=1000)
        self._queue.append(deed)
        self._wake.set()
        self._idle.clear()

    def withdraw(self, order_key: object) -> None:
        """Give up what waits of one of Kafka's partitions. What is being carried out goes on."""
        kept: deque[Deed] = deque()
        given_up: list[Deed] = []
        for deed in self._queue:
            (given_up if deed.order_key is order_key else kept).append(deed)
        self._queue = kept
        self._give_up(given_up)
        if not self.depth:
            self._wake.set()  # an empty batch, after which nothing waits any more

    @property
    def depth(self) -> int:
        """Deeds waiting or running."""
        return len(self._queue) + len(self._running)

    async def drained(self) -> None:
        """Return when every deed submitted so far has been answered."""
        await self._idle.wait()

    # -- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        expiry = asyncio.create_task(self._expire_forever())
        self._wake.set()  # an empty batch opens the session, so that the first deed finds it
        try:
            while True:
                await self._wake.wait()
                await self._run_batch()
                if not self._queue and self.available:
                    self._wake.clear()
                    self._idle.set()
        finally:
            expiry.cancel()
            if self._conn is not None:
                self._conn.terminate()

    async def _run_batch(self) -> None:
        self._expire()  # here too: a deed that is put back each time is hardly ever seen waiting
        self._running = self._next_batch()
        keys = [deed.order_key for deed in self._running if deed.order_key is not None and deed.place is None]
        for key in keys:
            self._orders.hold(key)
        try:
            if self._running:
                if self.failpoints is not None:
                    await self.failpoints.reach("after_receipt")
                await self._carry_out(self._running)
            else:  # back from the loss of the database, or all that waited has expired
                await self._session()
        except Exception as error:
            if not is_connection_lost(error):
                raise
            await self._lost(error)
        finally:
            self._put_back()
            for key in keys:
                self._orders.release(key)

    def _next_batch(self) -> list[Deed]:
        """From the front of the queue as much as one transaction may hold, and at least one deed."""
        batch: list[Deed] = []
        room = self._limits.batch
        while self._queue and room > 0:
            batch.append(self._queue.popleft())
            room -= batch[-1].weight
        return batch

    async def _carry_out(self, deeds: list[Deed], *, skip_locked: bool = False) -> None:
        """One transaction for all; a batch that the database refuses is halved until the one at fault
        is found, so that the others don't suffer."""
        try:
            result = await self._transact(deeds, skip_locked=skip_locked)
        except Overtaken as overtaken:
            lost = [deed for deed in deeds if deed.place and deed.place[:2] in overtaken.partitions]
            self._give_up(lost)
            if len(lost) < len(deeds):
                await self._carry_out([deed for deed in deeds if _is_unanswered(deed)], skip_locked=skip_locked)
        except Exception as error:
            if is_connection_lost(error):
                raise
            self._committing = False  # the database has said no: nothing of it is stored
            if is_lock_timeout(error):
                # Somebody holds a head and does not let go: the others must not wait for them.
                self.counts.lock_timeouts += 1
                await self._carry_out(deeds, skip_locked=True)
            elif is_retryable(error):
                self.counts.retries += 1
                await self._carry_out(deeds, skip_locked=skip_locked)
            elif len(deeds) > 1:
                self.counts.halved += 1
                half = len(deeds) // 2
                await self._carry_out(deeds[:half], skip_locked=skip_locked)
                if rest := _not_behind(deeds[:half], deeds[half:]):
                    await self._carry_out(rest, skip_locked=skip_locked)
            else:
                self._fail(deeds[0], error)
        else:
            await self._finish(result)

    async def _transact(self, deeds: list[Deed], *, skip_locked: bool) -> BatchResult:
        now = asyncio.get_running_loop().time()
        due = min((deed.received_at for deed in deeds if deed.place is None), default=now) + self._limits.deadline_s
        async with asyncio.timeout_at(max(due, now + _LEAST_TIME_S)):
            conn = await self._session()
            self.counts.begin()
            parts = await resolve(conn, self._handlers, deeds)
            self.counts.lap("resolve")
            await conn.execute("BEGIN")
            try:
                concerned = set().union(*(part.concern.user_ids for part in parts))
                locked = await heads.lock(conn, concerned, skip_locked=skip_locked) if concerned else {}
                self.counts.lap("lock")
                result = await run_in_turn(conn, parts, locked)
                await take_steps(conn, result.answers)
                self.counts.lap("run")
            except Exception as error:
                if not is_connection_lost(error):
                    await conn.execute("ROLLBACK")
                raise
            self._committing = True
            await conn.execute("COMMIT")
            self._committing = False
            self.counts.commit(len(deeds))
            return result

    async def _finish(self, result: BatchResult) -> None:
        """Acknowledge first, then tell. What has to wait stays unanswered until `_put_back`."""
        if self.failpoints is not None:
            await self.failpoints.reach("after_commit_before_ack")
        unseen = False
        for deed, outcome in result.answers:
            if outcome is not None:
                unseen = unseen or deed.attempted
                _answer(deed, outcome)
        self._note(result.answers)
        if self.failpoints is not None:
            await self.failpoints.reach("after_commit_before_delivery")
        self._deliver(result.events)
        for tell in result.afterwards:
            tell()
        if unseen:
            self._catch_up()

    def _note(self, answers: Sequence[Answer]) -> None:
        """Count what was answered, and name the slowest where it took long: one line, for others may have too."""
        now = asyncio.get_running_loop().time()
        answered = [deed for deed, outcome in answers if outcome is not None and deed.place is None]
        for deed in answered:
            self.counts.waits.observe(now - deed.received_at)
            self.counts.replays += deed.is_replay
        slowest = min(answered, key=_received_at, default=None)
        if slowest is None:
            return
        took_s = now - slowest.received_at
        if took_s > self._limits.deadline_s:
            self.counts.late += sum(now - deed.received_at > self._limits.deadline_s for deed in answered)
        if took_s >= self.slow_s and (missed := self._slow_line.take()) is not None:
            log.warning(
                "action_slow", **_named(slowest), took_ms=int(took_s * 1000), batch=len(answered), missed=missed
            )

    def _fail(self, deed: Deed, error: Exception) -> None:
        """The one deed at fault. An error's text may quote what was sent: its name and SQL state say enough."""
        self.counts.failed += 1
        log.error("deed_failed", **_named(deed), error=type(error).__name__, sqlstate=getattr(error, "sqlstate", None))
        _answer(deed, Refusal("internal", "This action can't be carried out."))

    def _give_up(self, deeds: Sequence[Deed]) -> None:
        """Somebody else takes their records in. What they may have stored all the same has to be looked for."""
        self.counts.given_up += len(deeds)
        for deed in deeds:
            _answer(deed, GIVEN_UP)
        if any(deed.attempted for deed in deeds):
            self._catch_up()

    def _put_back(self) -> None:
        """What the batch left unanswered goes to the front of the queue, in its order."""
        self._queue.extendleft(deed for deed in reversed(self._running) if _is_unanswered(deed))
        self._running = []

    # -- trouble ---------------------------------------------------------------------------------

    async def _session(self) -> Connection:
        if self._conn is None or self._conn.is_closed():
            self._conn = await self._connect()
            if not self.available:
                log.warning("lane_found_database")
            self.available = True
        return self._conn

    async def _lost(self, error: Exception) -> None:
        """The session broke: nothing or everything of the batch is stored. The same keys run again."""
        if self.available:  # a line when it is lost and one when it is back, not one per try
            self.counts.lost += 1
            log.warning("lane_lost_database", error=type(error).__name__, committing=self._committing)
        self.available = False
        if self._committing:
            for deed in filter(_is_unanswered, self._running):
                deed.attempted = True
        self._committing = False
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None
        self._put_back()
        self._expire()
        await asyncio.sleep(_RECONNECT_PAUSE_S)

    async def _expire_forever(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_PERIOD_S)
            self._expire()

    def _expire(self) -> None:
        """Answer what has waited too long, wherever it stands: receipt times need not rise along the
        queue, for a deed may have waited on its connection before."""
        limit = asyncio.get_running_loop().time() - self._limits.deadline_s
        late = [deed for deed in self._queue if deed.received_at <= limit and deed.place is None]
        before = {deed.order_key for deed in self._running if deed.order_key is not None and _is_unanswered(deed)}
        expired = [deed for deed in late if deed.order_key not in before]  # the others after those of their connection
        if expired:
            gone = set(expired)
            self._queue = deque(deed for deed in self._queue if deed not in gone)
        self.counts.expired += len(expired)
        for deed in expired:  # an answer may let its connection submit the next one
            _answer(
                deed,
                Refusal(
                    "unavailable",
                    "The database does not answer.",
                    retry_after_ms=1000,
                    outcome="unknown" if deed.attempted else None,
                ),
            )


class LaneLimits(Protocol):
    """Deeds in a batch, deeds waiting, seconds until an answer."""

    @property
    def batch(self) -> int: ...
    @property
    def queue(self) -> int: ...
    @property
    def deadline_s(self) -> float: ...


def _named(deed: Deed) -> dict[str, Any]:
    """Which action it is, for the log."""
    return {"action": deed.event, "user_id": deed.user_id, "action_id": deed.action_id}


def _received_at(deed: Deed) -> float:
    return deed.received_at


def _already_answered(_: bytes) -> None:
    raise AssertionError("a deed was answered twice")


def _is_unanswered(deed: Deed) -> bool:
    return deed.answer is not _already_answered


def _not_behind(before: Sequence[Deed], deeds: Sequence[Deed]) -> list[Deed]:
    """Those of the deeds whose connection has none waiting among `before`: they must not overtake it."""
    waiting = {deed.order_key for deed in before if deed.order_key is not None and _is_unanswered(deed)}
    return [deed for deed in deeds if deed.order_key not in waiting]


def _answer(deed: Deed, outcome: bytes | Refusal) -> None:
    answer, deed.answer = deed.answer, _already_answered
    answer(outcome if isinstance(outcome, bytes) else refusal_ack(outcome))

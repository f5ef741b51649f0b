"""Delivery: each event to each connection of its user once, in order, live or from the inbox. One mechanism.

An event with `seq = cursor.at + 1` goes out at once unless a *pump* runs. Anything further ahead only raises the head
which the cursor must reach, and the pump pages the inbox until it is there, then flips back to live. Resume, gap
repair, other nodes' events, events out of commit order and a client that was slow for a moment are all this.

The invariant (see `Cursor`): a sink is given exactly `at + 1`, and `at` moves in the same step. Two writers exist,
`deliver` and the pump; `cursor.live` is true for the one only while the other does not run, and is flipped without an
await in between. Everything here runs on the event loop's thread, so what has no await in it is one step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from fanout.counts import DeliveryCounts
from fanout.cursor import NOT_STARTED, Cursor, Sink
from fanout.hub import Hub
from fanout.pages import Page, Pages, ReadFailed, ReadPages
from fanout.tasks import Backoff, Spawn

FrameOf = Callable[[bytes], bytes]
"""Envelope JSON -> the finished frame that a sink takes."""

EARLY_MAX = 32  # live events kept for a cursor while its pump runs; more are read from the inbox
TURN_BYTES = 65_536  # what a pump writes before the loop may flush, and before it can learn of congestion
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 2.0

log = logging.getLogger(__name__)


class Delivery:
    """Brings events to cursors. All methods are synchronous; pumps run as tasks of `spawn`, one per cursor and only
    while it is behind. A pump holds at most `page` events in memory, also while its sink is congested."""

    def __init__(self, *, hub: Hub, read_pages: ReadPages, frame_of: FrameOf, spawn: Spawn, page: int = 100) -> None:
        self._hub = hub
        self._users = hub.users
        self._pages = Pages(read_pages=read_pages, spawn=spawn, limit=page)
        self._frame_of = frame_of
        self._spawn = spawn
        self._reads_fail = False
        self.counts = DeliveryCounts()

    # A connection's life

    def attach(self, user_id: int, sink: Sink, device_id: str = "", generation: int = 0) -> Cursor:
        """Registers a connection. Call it *before* reading the user's head: from here on every event raises the
        cursor's head, so none can slip in between that reading and `start`. Nothing is written before `start`."""
        cursor = Cursor(user_id, sink, device_id, generation)
        self._hub.add(cursor)
        return cursor

    def start(self, cursor: Cursor, at: int, head: int, on_resumed: Callable[[int], None]) -> None:
        """Replays `at + 1` to `head`, calls `on_resumed(seq)` with the last one given (at once where there is nothing
        to replay), then whatever was heard of meanwhile, then live. Does nothing on a cursor that is gone."""
        if cursor.gone:
            return
        if cursor.at != NOT_STARTED or at < 0:
            raise ValueError(f"cannot start a cursor at {at} that stands at {cursor.at}")
        cursor.at = at
        cursor.target = head
        cursor.head = max(cursor.head, head)
        cursor.on_resumed = on_resumed
        self.counts.resume(max(head - at, 0))
        if at >= head:
            self._catch_up_from_memory(cursor)
            cursor.live = cursor.resumed and not cursor.gone
        self._kick(cursor)

    def detach(self, cursor: Cursor) -> None:
        """Forgets a connection. A pump that is reading ends when its read does, and writes nothing any more."""
        self._hub.remove(cursor)
        self._silence(cursor)

    # Events

    def deliver(self, user_id: int, seq: int, envelope: bytes) -> None:
        """A committed event, from memory, to all of its user's connections here. To be called after the
        acknowledgement of the action that caused it was queued: unlike the pump, it is not stopped by `hold`."""
        found = self._users.get(user_id)
        if found is None:
            return
        if isinstance(found, Cursor):
            if found.live and seq == found.at + 1 and not found.sink.congested:
                found.at = seq
                found.sink.write(self._frame_of(envelope))
                self.counts.live += 1
            else:
                self._deliver_late(found, seq, envelope)
            return
        self._deliver_to_many(self._hub.cursors_of(user_id), seq, envelope)

    def raise_head(self, user_id: int, seq: int) -> None:
        """The user's inbox is known to reach `seq`: a hint from another node, or the comparison of heads. The events
        must be readable already. Late, repeated and out-of-order hints do no harm."""
        for cursor in self._hub.cursors_of(user_id):
            cursor.head = max(cursor.head, seq)
            self._kick(cursor)

    def heads_behind(self) -> dict[int, int]:
        """user -> the lowest `seq` at which one of the user's connections stands, for the periodic comparison with
        the heads in the database; `raise_head` with what is higher there. Also repairs hints that got lost."""
        lowest: dict[int, int] = {}
        for cursor in self._hub:
            at = cursor.at
            if at != NOT_STARTED and not cursor.gone and lowest.get(cursor.user_id, at) >= at:
                lowest[cursor.user_id] = at
        return lowest

    # Flow

    def hold(self, cursor: Cursor) -> None:
        """From now to the matching `release` (they nest) the pump gives nothing above the head that is known now.
        Around a batch with actions of this connection: what the batch commits can be read from the inbox before the
        acknowledgements are queued, and must not overtake them. Live events pass, see `deliver`."""
        if not cursor.holds:
            cursor.ceiling = max(cursor.head, cursor.at)
        cursor.holds += 1

    def release(self, cursor: Cursor) -> None:
        """Ends a `hold`; with the last one the pump goes on where the cursor is behind."""
        if not cursor.holds:
            raise ValueError("release without hold")
        cursor.holds -= 1
        if not cursor.holds and cursor.head > cursor.at:
            self._kick(cursor)

    def writable(self, cursor: Cursor) -> None:
        """The sink is no longer congested: what waited goes on."""
        _wake(cursor)
        self._kick(cursor)

    # Live topics: ephemeral, so they have no seq and nothing waits for anybody

    def subscribe(self, cursor: Cursor, topic: str) -> None:
        if not cursor.gone:
            self._hub.join(cursor, topic)

    def unsubscribe(self, cursor: Cursor, topic: str) -> None:
        self._hub.part(cursor, topic)

    def publish_topic(self, topic: str, *envelopes: bytes) -> bool:
        """A frame each, the same for all subscribers here, in one write. Withheld before `resumed`, dropped for
        congested sinks. Returns whether all of them got it."""
        members = tuple(self._hub.members(topic))  # a copy: a write may end a connection
        frame = b"".join(map(self._frame_of, envelopes)) if members else b""
        dropped = 0
        for cursor in members:
            if cursor.resumed:
                sink = cursor.sink
                if not sink.congested:
                    sink.write(frame)
                    continue
            dropped += 1
        self.counts.topic += (len(members) - dropped) * len(envelopes)
        self.counts.dropped += dropped * len(envelopes)
        return not dropped

    def tell_users(
        self, user_ids: Sequence[int], envelope: bytes, topic: str | None = None, but: object | None = None
    ) -> None:
        """An ephemeral event, one frame for all connections of these users here, or those that have joined `topic`;
        never for `but`. Withheld before `resumed`, dropped for congested sinks: nothing waits for anybody."""
        frame = None
        for cursor in self._connections(user_ids, topic):
            if cursor is but:
                continue
            if cursor.resumed and not cursor.sink.congested:
                frame = frame or self._frame_of(envelope)
                cursor.sink.write(frame)
                self.counts.users += 1
            else:
                self.counts.dropped += 1

    def _connections(self, user_ids: Sequence[int], topic: str | None) -> list[Cursor]:
        if topic is None:
            return [cursor for user_id in user_ids for cursor in self._hub.cursors_of(user_id)]
        members = self._hub.members(topic)  # few, whoever may join
        wanted = set(user_ids) if members else ()
        return [cursor for cursor in members if cursor.user_id in wanted]

    # Ending connections

    def cut(self, cursor: Cursor, code: str) -> None:
        """Writes no more to a cursor and ends its connection, which detaches it in its own time."""
        if not cursor.gone:
            self._silence(cursor)
            cursor.sink.cut(code)

    def cut_user(self, user_id: int, code: str) -> None:
        """Ends all of a user's connections here (`revoked`, `user_suspended`)."""
        for cursor in self._hub.cursors_of(user_id):
            self.cut(cursor, code)

    def replace(self, user_id: int, device_id: str, generation: int) -> None:
        """A device has connected again as `generation`: ends its older connections here as `replaced`. A generation
        of 0 is not known yet, and is judged by `Presence.newer` later."""
        for cursor in self._hub.cursors_of(user_id):
            if device_id and cursor.device_id == device_id and 0 < cursor.generation < generation:
                self.cut(cursor, "replaced")

    # Inside

    def _deliver_to_many(self, cursors: tuple[Cursor, ...], seq: int, envelope: bytes) -> None:
        frame = None
        for cursor in cursors:
            if cursor.live and seq == cursor.at + 1 and not cursor.sink.congested:
                frame = frame or self._frame_of(envelope)
                cursor.at = seq
                cursor.sink.write(frame)
                self.counts.live += 1
            else:
                self._deliver_late(cursor, seq, envelope)

    def _deliver_late(self, cursor: Cursor, seq: int, envelope: bytes) -> None:
        if seq <= cursor.at or cursor.gone:
            return
        cursor.head = max(cursor.head, seq)
        if not cursor.pumping:
            self._kick(cursor)
        elif not cursor.sink.congested:
            _keep_early(cursor, seq, envelope)

    def _kick(self, cursor: Cursor) -> None:
        """Starts the pump of a cursor that is behind and may move. Whoever lifts one of these obstacles kicks."""
        if cursor.pumping or cursor.gone or cursor.at == NOT_STARTED or cursor.sink.congested:
            return
        if cursor.at < cursor.goal():
            cursor.pumping, cursor.live = True, False
            self.counts.pumps += 1
            self._spawn(self._pump(cursor))

    async def _pump(self, cursor: Cursor) -> None:
        try:
            while self._catch_up_from_memory(cursor):
                if cursor.sink.congested:
                    await _pause(cursor)
                else:
                    await self._give(cursor, await self._read(cursor))
        except Exception:
            self.cut(cursor, "unavailable")  # a fault of ours; better a reconnect than a connection that has gone deaf
            raise
        finally:
            # No await since the loop found nothing left to do: nobody can have raised the head unseen.
            cursor.pumping, cursor.early = False, None
            cursor.live = cursor.resumed and not cursor.gone

    def _catch_up_from_memory(self, cursor: Cursor) -> bool:
        """Does what needs no reading: says `resumed` where its target is reached, gives the early events that are
        next. Returns whether there is more to read."""
        if not cursor.resumed and cursor.at >= cursor.target and not cursor.gone:
            cursor.resumed = True
            announce, cursor.on_resumed = cursor.on_resumed, None
            if announce is not None:
                announce(cursor.at)
        early = cursor.early
        if early and cursor.resumed:
            while not (cursor.gone or cursor.sink.congested) and (envelope := early.pop(cursor.at + 1, None)):
                self._write(cursor, cursor.at + 1, envelope)
        return not cursor.gone and cursor.at < cursor.goal()

    async def _read(self, cursor: Cursor) -> Page:
        """The next page. Repeats until the database answers or the cursor is gone; never loses its place, for nobody
        else moves `at` while a pump runs."""
        backoff = Backoff(first=RETRY_FIRST_S, most=RETRY_MOST_S)
        while not cursor.gone:
            try:
                page = await self._pages.next_of(cursor)
            except ReadFailed as failed:  # giving up would leave a gap
                self._note_reads(failing=str(failed))
                await _pause(cursor, backoff.next())
            else:
                self._note_reads(failing=None)
                return page
        return []

    async def _give(self, cursor: Cursor, page: Page) -> None:
        """Writes a page. Where its first event is not the next one, retention has overtaken the cursor; the cut client
        resumes and is told `complete: false`. An empty page below a known head says the same."""
        if not page:
            self.cut(cursor, "slow_consumer")
        room = TURN_BYTES
        for seq, envelope in page:
            if room <= 0:
                await asyncio.sleep(0)  # queued behind the connection's flush, so congestion shows after it
                room = TURN_BYTES
            while cursor.sink.congested and not cursor.gone:
                await _pause(cursor)
            if cursor.gone:
                return
            if seq == cursor.at + 1:
                room -= self._write(cursor, seq, envelope)
            elif seq > cursor.at:
                self.cut(cursor, "slow_consumer")

    def _write(self, cursor: Cursor, seq: int, envelope: bytes) -> int:
        cursor.at = seq
        self.counts.replayed += 1
        frame = self._frame_of(envelope)
        cursor.sink.write(frame)
        return len(frame)

    def _silence(self, cursor: Cursor) -> None:
        cursor.gone, cursor.live, cursor.resumed = True, False, False
        cursor.early = cursor.on_resumed = None
        _wake(cursor)

    def _note_reads(self, *, failing: str | None) -> None:
        """Logs when reads begin to fail and when they work again: a line each, not one per waiting phone and try."""
        if self._reads_fail != (failing is not None):
            self._reads_fail = failing is not None
            if failing:
                log.warning("inbox can't be read (%s); pumps wait and try again", failing)
            else:
                log.warning("inbox can be read again")


def _keep_early(cursor: Cursor, seq: int, envelope: bytes) -> None:
    if cursor.early is None:
        cursor.early = {}
    elif len(cursor.early) >= EARLY_MAX:  # drop what pages have overtaken; where none is, the inbox has this one too
        cursor.early = {kept: body for kept, body in cursor.early.items() if kept > cursor.at}
    if len(cursor.early) < EARLY_MAX:
        cursor.early[seq] = envelope


async def _pause(cursor: Cursor, seconds: float | None = None) -> None:
    """Waits, without polling, until the cursor is woken (writable, detached, cut), or for at most `seconds`."""
    loop = asyncio.get_running_loop()
    cursor.wake = loop.create_future()
    timer = loop.call_later(seconds, _wake, cursor) if seconds is not None else None
    try:
        await cursor.wake
    finally:
        cursor.wake = None
        if timer is not None:
            timer.cancel()


def _wake(cursor: Cursor) -> None:
    if cursor.wake is not None and not cursor.wake.done():
        cursor.wake.set_result(None)

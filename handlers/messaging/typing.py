"""Who is typing, shown to the others of the conversation (spec 5): kept in memory, each node of its own connections.

What is shown lasts for three seconds after the last `typing:start`, and no longer than the connection that typed. To a
client that dies, or a node, nothing is owed: a phone takes the sign away by itself after a while, as it has to.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from handlers.deed import fresh_id
from handlers.errors import Refusal
from handlers.inbox.envelope import render_ephemeral, timestamp_of
from handlers.messaging import ids
from handlers.messaging.wire import TypingAck, TypingEvent
from handlers.wire import encode
from storage import audience
from storage.audience import Audience
from storage.pool import session

if TYPE_CHECKING:
    from storage.pool import Pool

TYPING_TTL_S: Final = 3.0  # after the last `typing:start`
SHOWN_EVERY_S: Final = 2.0  # at most, of one typist

Place = tuple[int, str]  # user, conversation


class Timers(Protocol):
    """What is asked of the event loop."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle: ...


class Typing:
    """`typing:start`, `typing:stop`, and whatever else ends it. `tell` sends an envelope to all connections of users.

    A connection is named by whatever it is known by; nothing of it is kept once it is gone.
    """

    def __init__(self, *, pool: Pool, tell: Callable[[Sequence[int], bytes], None], timers: Timers) -> None:
        self._pool = pool
        self._tell = tell
        self._timers = timers
        self._typists: dict[Place, Typist] = {}
        self._places: dict[Hashable, set[Place]] = {}  # of connections that type somewhere

    async def start(self, connection: Hashable, user_id: int, conversation_id: str) -> TypingAck:
        """Show it, or show it for longer. Refuses `not_found` to who does not take part."""
        place = (user_id, conversation_id)
        typist = self._typists.get(place)
        if typist is None or typist.is_rested:
            found = await self._fetch_audience(place)
            typist = self._typists.get(place)  # another connection of theirs may have come first
            if typist is None:
                typist = self._typists[place] = Typist(place, self._timers, self._tell, self._forget)
            typist.audience = found
        self._hand_over(typist, connection)
        typist.start()
        return TypingAck(conversation_id)

    async def stop(self, user_id: int, conversation_id: str) -> TypingAck:
        """Show it no more. Refuses `not_found` to who does not take part."""
        if (user_id, conversation_id) not in self._typists:
            await self._fetch_audience((user_id, conversation_id))
        self.end(user_id, conversation_id)
        return TypingAck(conversation_id)

    def end(self, user_id: int, conversation_id: str) -> None:
        """A message was sent, or the chat was closed."""
        if (typist := self._typists.get((user_id, conversation_id))) is not None:
            typist.stop()

    def left(self, connection: Hashable) -> None:
        """The connection is gone, and with it what it typed."""
        for place in self._places.pop(connection, ()):
            self._typists[place].connection = None
            self._typists[place].stop()

    async def _fetch_audience(self, place: Place) -> Audience:
        user_id, conversation_id = place
        found = None
        if ids.is_id(conversation_id):
            async with session(self._pool) as conn:
                found = await audience.fetch_audience(conn, conversation_id, user_id)
        if found is None:
            raise Refusal("not_found", "There is no such conversation.", field="conversationId")
        return found

    def _hand_over(self, typist: Typist, connection: Hashable) -> None:
        """The connection that has typed last is the one that counts."""
        if typist.connection != connection:
            self._forget_connection(typist)
            typist.connection = connection
            self._places.setdefault(connection, set()).add(typist.place)

    def _forget(self, typist: Typist) -> None:
        del self._typists[typist.place]
        self._forget_connection(typist)

    def _forget_connection(self, typist: Typist) -> None:
        if typist.connection is None:
            return
        places = self._places[typist.connection]
        places.discard(typist.place)
        if not places:
            del self._places[typist.connection]


class Typist:
    """Somebody typing in one conversation, or who has a moment ago. Calls `forget` when there is nothing left to know.

    It is shown at once, and again when it goes on, at most once in SHOWN_EVERY_S: what comes sooner is shown then, if
    it still holds. Its audience is at most as old as that.
    """

    def __init__(
        self,
        place: Place,
        timers: Timers,
        tell: Callable[[Sequence[int], bytes], None],
        forget: Callable[[Typist], None],
    ) -> None:
        self.place = place
        self.connection: Hashable | None = None
        self.audience: Audience
        self._timers = timers
        self._tell = tell
        self._forget = forget
        self._is_typing = False
        self._shown_to: list[int] | None = None
        self._rests_until = -math.inf  # until then it is not shown again
        self._rest: asyncio.TimerHandle | None = None
        self._ends: asyncio.TimerHandle | None = None

    @property
    def is_rested(self) -> bool:
        """Whether it is shown at once when it goes on."""
        return self._timers.time() >= self._rests_until

    def start(self) -> None:
        """Typing goes on for a while."""
        self._is_typing = True
        if self._ends is not None:
            self._ends.cancel()
        self._ends = self._timers.call_later(TYPING_TTL_S, self.stop)
        if self.is_rested:
            self._show()

    def stop(self) -> None:
        """It has ended."""
        self._is_typing = False
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None
        if self._shown_to is not None:
            self._say(self._shown_to, is_typing=False)
            self._shown_to = None
        if self._rest is None:
            self._forget(self)

    def _show(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._shown_to = self.audience.user_ids
        self._say(self._shown_to, is_typing=True)
        self._rests_until = self._timers.time() + SHOWN_EVERY_S
        self._rest = self._timers.call_later(SHOWN_EVERY_S, self._rested)

    def _rested(self) -> None:
        self._rest = None
        if not self._is_typing:
            self._forget(self)
        elif self._shown_to is None:  # it has begun again meanwhile
            self._show()

    def _say(self, user_ids: Sequence[int], *, is_typing: bool) -> None:
        if not user_ids:
            return
        user_id, conversation_id = self.place
        data = encode(TypingEvent(conversation_id, user_id, self.audience.username, is_typing))
        timestamp = timestamp_of(datetime.now(UTC))
        self._tell(
            user_ids, render_ephemeral(str(fresh_id()), "typing_indicator", "chat:typing:started", data, timestamp)
        )

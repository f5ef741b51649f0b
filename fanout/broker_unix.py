"""The broker between the workers of one parent, over their lines: the database has no part in it.

Hints leave at the end of the loop turn in which they were announced, those of one turn together. A line drops them
where a worker reads too slowly; that worker is told, and compares heads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from fanout.broker import Announced, Listeners
from fanout.line import Line
from fanout.notices import Compare, Gathered, Notice, tell

SUBJECT: Final = 1
HEADS_MAX: Final = 20_000  # more at once are told as "compare"; walking them costs less than that up to here

log = logging.getLogger(__name__)


class UnixBroker:
    """See `Broker`. The line is opened, and closed, by whoever made it."""

    def __init__(self, *, line: Line, listeners: Listeners) -> None:
        self._line = line
        self._listeners = listeners
        self._gathered = Gathered(HEADS_MAX)
        self._flush_is_due = False
        self._started = False
        self._decoder: msgspec.json.Decoder[list[Notice]] = msgspec.json.Decoder(list[Notice])
        self._encoder = msgspec.json.Encoder()

    async def start(self) -> None:
        self._line.hear(SUBJECT, self._hear, gap=self._listeners.on_compare)
        self._started = True
        self._say([Compare()])  # so that the others know of this node before presence tells them

    async def stop(self) -> None:
        if self._started:
            self._flush()
            self._started = False
            self._line.ignore(SUBJECT)

    def announce_events(self, events: Sequence[Announced]) -> None:
        self._gathered.add_heads([(event.user_id, event.seq) for event in events])
        self._flush_soon()

    def publish_topic(self, topic: str, envelope: bytes) -> None:
        self._gathered.add_topic(topic, envelope)
        self._flush_soon()

    def publish_users(self, user_ids: Sequence[int], envelope: bytes, topic: str | None = None) -> None:
        self._gathered.add_users(user_ids, envelope, topic)
        self._flush_soon()

    def announce_replaced(self, user_id: int, device_id: str, generation: int) -> None:
        self._gathered.add_replaced(user_id, device_id, generation)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        gathered, self._gathered = self._gathered, Gathered(HEADS_MAX)
        if self._started and gathered:
            self._say(gathered.notices())

    def _say(self, notices: list[Notice]) -> None:
        """In one frame: what passes it on does as much for one notice as for all of a turn."""
        self._line.say(SUBJECT, self._encoder.encode(notices))

    def _hear(self, body: bytes) -> None:
        try:
            notices = self._decoder.decode(body)
        except ValueError:  # no worker of this version says so
            log.warning("broker heard a notice that it doesn't know")
            return
        for notice in notices:
            tell(notice, self._listeners)

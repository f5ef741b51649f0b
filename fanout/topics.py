"""Messages of live topics on their way to a room.

To tell a thousand connections takes milliseconds, nearly all of them system calls, and four messages in one write cost
hardly more than one. So for a large room a message waits while others are just being published, and leaves with
them; the only one of its time leaves at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fanout.delivery import Delivery
from fanout.hub import Hub

LARGE: Final = 64  # members of a room from which on a message waits for others
WAIT_S: Final = 0.005  # at most
WAITING_BYTES: Final = 65_536  # what waits at most: as much as leaves in one write


class Topics:
    """Gathers what is published, in its order. `more_to_come` says whether anybody is just publishing; nothing is known
    of other nodes, whose messages come gathered."""

    def __init__(self, *, hub: Hub, delivery: Delivery, more_to_come: Callable[[], bool]) -> None:
        self._hub = hub
        self._delivery = delivery
        self._more_to_come = more_to_come
        self._waiting: dict[str, list[bytes]] = {}
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def publish(self, topic: str, envelope: bytes) -> None:
        """An envelope for all who listen to a topic here, soon."""
        if not self._hub.members(topic):
            return
        asyncio.get_running_loop().call_soon(self._look)
        self._waiting.setdefault(topic, []).append(envelope)
        self._bytes += len(envelope)

    def _look(self) -> None:
        """The turn in which something was published is over, and whoever published it has been answered."""
        if not self._waiting:
            return
        if self._bytes >= WAITING_BYTES or not self._is_large() or not self._more_to_come():
            self._send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT_S, self._send)

    def _is_large(self) -> bool:
        return any(len(self._hub.members(topic)) >= LARGE for topic in self._waiting)

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        for topic, envelopes in waiting.items():
            self._delivery.publish_topic(topic, *envelopes)

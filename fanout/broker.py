"""Broker: what nodes tell each other. Hints for speed only; the inbox and presence are the truth.

Anything said may get lost, come twice or late. Events of users are covered by the comparison of heads, replaced
devices by `Presence.newer`, topics and what is published to users are ephemeral. So announcing never waits, never
fails and never grows without bound, and no receiver may conclude anything from silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Listeners:
    """What a node does when another node says something; called on the event loop. A listener must not block."""

    on_heads: Callable[[list[tuple[int, int]]], None]
    """(user, seq): these inboxes now reach that far. Readable already; users that are not connected here included."""
    on_events: Callable[[list[tuple[int, int, bytes]]], None]
    """(user, seq, envelope JSON): the events themselves, each user's in the order in which one node committed them."""
    on_compare: Callable[[], None]
    """Hints were lost, or are too many to tell one by one: compare the heads of all connected users now."""
    on_topic: Callable[[str, bytes], None]
    """(topic, envelope JSON)"""
    on_users: Callable[[Sequence[int], bytes, str | None], None]
    """(users, envelope JSON, topic): an ephemeral event for those of them who are connected here; where a topic is
    named, on the connections that have joined it."""
    on_replaced: Callable[[int, str, int], None]
    """(user, device, generation): the device has connected elsewhere as `generation`."""


class Announced(Protocol):
    """One committed event, as brokers take it."""

    @property
    def user_id(self) -> int: ...
    @property
    def seq(self) -> int: ...

    @property
    def envelope(self) -> bytes:
        """Its JSON: rendered when it is first asked for, and once."""


class Broker(Protocol):
    """One per node. `start` before the first announcement, `stop` once at the end; nothing is heard afterwards. A node
    never hears itself, so whoever announces serves its own connections too."""

    async def start(self) -> None:
        """Returns when others' announcements are heard from now on; raises what the bus raises if it is away, unless
        that bus is one that a node can do without: then it is heard as soon as it is back."""

    async def stop(self) -> None:
        """Sends what is gathered, within a second, and ends."""

    def announce_events(self, events: Sequence[Announced]) -> None:
        """Committed events. Only after the commit. Whether they are told whole or as heads is the broker's affair."""

    def publish_topic(self, topic: str, envelope: bytes) -> None:
        """A live-topic message as envelope JSON, of any size. Big and small ones may overtake each other."""

    def publish_users(self, user_ids: Sequence[int], envelope: bytes, topic: str | None = None) -> None:
        """An ephemeral event for users as envelope JSON, of any size and for any number, on the connections that have
        joined a topic where one is named. As with topics."""

    def announce_replaced(self, user_id: int, device_id: str, generation: int) -> None:
        """A device has connected here."""


class MemoryBroker:
    """There is no other node: nobody to tell, nobody to hear."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def announce_events(self, events: Sequence[Announced]) -> None: ...

    def publish_topic(self, topic: str, envelope: bytes) -> None: ...

    def publish_users(self, user_ids: Sequence[int], envelope: bytes, topic: str | None = None) -> None: ...

    def announce_replaced(self, user_id: int, device_id: str, generation: int) -> None: ...

"""After a commit: events to connections here from memory, to other nodes as hints; and what other nodes say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fanout.broker import Broker, Listeners
from fanout.delivery import Delivery
from fanout.hub import Hub
from fanout.presence import Presence


class Published(Protocol):
    """One committed event. `row` is rendered only where its user is connected here."""

    @property
    def user_id(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def row(self) -> Any: ...


class Publisher:
    """Tells everybody. `render` makes an event's envelope from its row; `compare_soon` is asked where hints may be
    missing. Nothing here waits or fails: the inbox is the truth."""

    def __init__(
        self,
        *,
        hub: Hub,
        delivery: Delivery,
        presence: Presence,
        render: Callable[[Any], bytes],
        compare_soon: Callable[[], None],
    ) -> None:
        self._users = hub.users
        self._delivery = delivery
        self._presence = presence
        self._render = render
        self._compare_soon = compare_soon
        self._broker: Broker

    def listeners(self) -> Listeners:
        """What this node does when another one says something: hand them to the broker, and that to `join`."""
        return Listeners(self._hear_heads, self._compare_soon, self._delivery.publish_topic, self._delivery.replace)

    def join(self, broker: Broker) -> None:
        """The broker is there."""
        self._broker = broker

    def events(self, events: Sequence[Published]) -> None:
        """Committed events, each user's in the order of `seq`."""
        for event in events:
            if event.user_id in self._users:
                self._delivery.deliver(event.user_id, event.seq, self._render(event.row))
        if events and self._presence.other_nodes():
            self._broker.announce_heads([(event.user_id, event.seq) for event in events])

    def topic(self, topic: str, envelope: bytes) -> None:
        """A message of a live topic, as the envelope's JSON."""
        self._delivery.publish_topic(topic, envelope)
        if self._presence.other_nodes():
            self._broker.publish_topic(topic, envelope)

    def replaced(self, user_id: int, device_id: str, generation: int) -> None:
        """A device has connected here as `generation`: its older connections, wherever they are, end."""
        self._delivery.replace(user_id, device_id, generation)
        if self._presence.other_nodes():
            self._broker.announce_replaced(user_id, device_id, generation)

    def _hear_heads(self, heads: list[tuple[int, int]]) -> None:
        for user_id, seq in heads:
            if user_id in self._users:
                self._delivery.raise_head(user_id, seq)

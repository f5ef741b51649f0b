"""After a commit: events to connections here from memory, to other nodes as hints; and what other nodes say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from fanout.broker import Broker, Listeners
from fanout.counts import BrokerCounts
from fanout.delivery import Delivery
from fanout.hub import Hub
from fanout.presence import Presence
from fanout.topics import Topics

COMPANY_S: Final = 30.0  # a node that was heard may be there for as long, whatever presence knows yet


class Published(Protocol):
    """One committed event. `row` is rendered only where its user is connected."""

    @property
    def user_id(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def row(self) -> Any: ...


class Rendered:
    """An event whose envelope is made when somebody wants it, here or elsewhere, and once. See `Announced`."""

    __slots__ = ("_envelope", "_render", "_row", "seq", "user_id")

    def __init__(self, event: Published, render: Callable[[Any], bytes]) -> None:
        self.user_id = event.user_id
        self.seq = event.seq
        self._row = event.row
        self._render = render
        self._envelope: bytes | None = None

    @property
    def envelope(self) -> bytes:
        if self._envelope is None:
            self._envelope = self._render(self._row)
        return self._envelope


class Publisher:
    """Tells everybody. `render` makes an event's envelope from its row; `compare_soon` is asked where hints may be
    missing; `more_to_come` says whether anybody is just publishing. Nothing here waits or fails: the inbox is the
    truth."""

    def __init__(
        self,
        *,
        hub: Hub,
        delivery: Delivery,
        presence: Presence,
        render: Callable[[Any], bytes],
        compare_soon: Callable[[], None],
        more_to_come: Callable[[], bool],
    ) -> None:
        self._hub = hub
        self._users = hub.users
        self._delivery = delivery
        self._topics = Topics(hub=hub, delivery=delivery, more_to_come=more_to_come)
        self._presence = presence
        self._render = render
        self._compare_soon = compare_soon
        self._broker: Broker
        self._heard_at = -COMPANY_S
        self.counts = BrokerCounts()

    def listeners(self) -> Listeners:
        """What this node does when another one says something: hand them to the broker, and that to `join`."""
        return Listeners(
            on_heads=self._hear_heads,
            on_events=self._hear_events,
            on_compare=self._hear_compare,
            on_topic=self._hear_topic,
            on_users=self._hear_users,
            on_replaced=self._hear_replaced,
        )

    def join(self, broker: Broker) -> None:
        """The broker is there."""
        self._broker = broker

    def events(self, events: Sequence[Published]) -> None:
        """Committed events, each user's in the order of `seq`."""
        told = [Rendered(event, self._render) for event in events]
        for event in told:
            if event.user_id in self._users:
                self._delivery.deliver(event.user_id, event.seq, event.envelope)
        if told and self.has_company():
            self._broker.announce_events(told)
            self.counts.said["events"] += len(told)

    def topic(self, topic: str, envelope: bytes) -> None:
        """A message of a live topic, as the envelope's JSON."""
        self._topics.publish(topic, envelope)
        if self.has_company():
            self._broker.publish_topic(topic, envelope)
            self.counts.said["topic"] += 1

    def users(
        self, user_ids: Sequence[int], envelope: bytes, *, topic: str | None = None, but: object | None = None
    ) -> None:
        """An ephemeral event for users, as the envelope's JSON, on every node: to their connections that have joined
        `topic`, to all where none is named, and never to `but`, a connection here."""
        self._delivery.tell_users(user_ids, envelope, topic, but)
        if self.has_company():
            self._broker.publish_users(user_ids, envelope, topic)
            self.counts.said["users"] += 1

    def replaced(self, user_id: int, device_id: str, generation: int) -> None:
        """A device has connected here as `generation`: its older connections, wherever they are, end."""
        self._delivery.replace(user_id, device_id, generation)
        if self.has_company():
            self._broker.announce_replaced(user_id, device_id, generation)
            self.counts.said["replaced"] += 1

    def _hear_heads(self, heads: list[tuple[int, int]]) -> None:
        self._note("heads", len(heads))
        for user_id, seq in heads:
            if user_id in self._users:
                self._delivery.raise_head(user_id, seq)

    def _hear_events(self, events: list[tuple[int, int, bytes]]) -> None:
        self._note("events", len(events))
        for user_id, seq, envelope in events:
            if user_id not in self._users:
                continue
            if any(cursor.holds for cursor in self._hub.cursors_of(user_id)):
                # It may come of an action that a connection here waits for, too, and must not overtake that answer.
                self._delivery.raise_head(user_id, seq)
            else:
                self._delivery.deliver(user_id, seq, envelope)

    def _hear_compare(self) -> None:
        self._note("compare", 1)
        self._compare_soon()

    def _hear_topic(self, topic: str, envelope: bytes) -> None:
        self._note("topic", 1)
        self._topics.publish(topic, envelope)

    def _hear_users(self, user_ids: Sequence[int], envelope: bytes, topic: str | None) -> None:
        self._note("users", 1)
        self._delivery.tell_users(user_ids, envelope, topic)

    def _hear_replaced(self, user_id: int, device_id: str, generation: int) -> None:
        self._note("replaced", 1)
        self._delivery.replace(user_id, device_id, generation)

    def has_company(self) -> bool:
        """Whether there is anybody to tell. Presence learns of a new node late; but whoever starts says something."""
        return self._presence.other_nodes() or time.monotonic() < self._heard_at + COMPANY_S

    def _note(self, kind: str, count: int) -> None:
        self._heard_at = time.monotonic()
        self.counts.heard[kind] += count

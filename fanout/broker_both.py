"""Two brokers as one: the near one to the workers beside this one, the far one to nodes elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from fanout.broker import Announced, Broker, Listeners
from fanout.publisher import COMPANY_S


class BothBrokers:
    """See `Broker`. The far one is told only while there is somebody far: `has_far` knows them late, but they say
    something when they start. Whoever is near must not hear the far one's copy: ephemeral events would come twice."""

    def __init__(
        self,
        *,
        near: Callable[[Listeners], Broker],
        far: Callable[[Listeners], Broker],
        listeners: Listeners,
        has_far: Callable[[], bool],
    ) -> None:
        self._near = near(listeners)
        self.far = far(self._noting(listeners))
        self._has_far = has_far
        self._heard_at = -COMPANY_S

    async def start(self) -> None:
        await self._near.start()
        await self.far.start()

    async def stop(self) -> None:
        await self._near.stop()
        await self.far.stop()

    def announce_events(self, events: Sequence[Announced]) -> None:
        for broker in self._concerned():
            broker.announce_events(events)

    def publish_topic(self, topic: str, envelope: bytes) -> None:
        for broker in self._concerned():
            broker.publish_topic(topic, envelope)

    def publish_users(self, user_ids: Sequence[int], envelope: bytes, topic: str | None = None) -> None:
        for broker in self._concerned():
            broker.publish_users(user_ids, envelope, topic)

    def announce_replaced(self, user_id: int, device_id: str, generation: int) -> None:
        for broker in self._concerned():
            broker.announce_replaced(user_id, device_id, generation)

    def _concerned(self) -> tuple[Broker, ...]:
        is_far = self._has_far() or time.monotonic() < self._heard_at + COMPANY_S
        return (self._near, self.far) if is_far else (self._near,)

    def _noting(self, listeners: Listeners) -> Listeners:
        """The same, and that somebody far was heard."""

        def noting(listener: Callable[..., None]) -> Callable[..., None]:
            def hear(*said: Any) -> None:
                self._heard_at = time.monotonic()
                listener(*said)

            return hear

        return Listeners(
            on_heads=noting(listeners.on_heads),
            on_events=noting(listeners.on_events),
            on_compare=noting(listeners.on_compare),
            on_topic=noting(listeners.on_topic),
            on_users=noting(listeners.on_users),
            on_replaced=noting(listeners.on_replaced),
        )

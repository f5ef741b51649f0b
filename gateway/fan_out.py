"""Fan-out as one node has it."""

from __future__ import annotations

from typing import NamedTuple

from fanout.broker import Broker
from fanout.delivery import Delivery
from fanout.hub import Hub
from fanout.presence import Presence
from fanout.publisher import Publisher


class FanOut(NamedTuple):
    """Who is connected here, what they are given, and how the other nodes hear of it."""

    hub: Hub
    delivery: Delivery
    publisher: Publisher
    presence: Presence
    broker: Broker

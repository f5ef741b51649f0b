"""What the fan-out did so far, as plain numbers: increments on the hot path cost next to nothing."""

from __future__ import annotations

from collections import Counter


class DeliveryCounts:
    """Frames handed to connections, and what it took."""

    __slots__ = ("dropped", "live", "pumps", "replayed", "resumed_events", "resumes", "topic", "users")

    def __init__(self) -> None:
        self.live = 0  # events from memory
        self.replayed = 0  # events from the inbox, or kept while a pump ran
        self.topic = 0  # messages of live topics
        self.users = 0  # ephemeral events for users
        self.dropped = 0  # both, withheld from who had not resumed or reads too slowly
        self.pumps = 0
        self.resumes: Counter[int] = Counter()  # bits of the number of events to replay -> connections
        self.resumed_events = 0

    def resume(self, events: int) -> None:
        """A connection begins that many events behind."""
        self.resumes[events.bit_length()] += 1
        self.resumed_events += events


class BrokerCounts:
    """Hints to and from other nodes, by kind: `heads`, `topic`, `users`, `replaced`, `compare`."""

    __slots__ = ("heard", "said")

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()

"""What the fan-out did so far, as plain numbers: increments on the hot path cost next to nothing."""

from __future__ import annotations

import time
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
    """What was told to other nodes and heard of them, by kind: `events` (whole), `heads` (their `seq` alone), `topic`,
    `users`, `replaced`, `compare`."""

    __slots__ = ("heard", "said")

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()


class PresenceCounts:
    """What was asked of Redis, and how often it could not say."""

    __slots__ = ("answered_at", "asked", "entered_again", "peers", "unknown", "unsure")

    def __init__(self) -> None:
        self.asked = 0  # times that somebody asked where users are
        self.unknown = 0  # of them, those without an answer: broadcast
        self.entered_again = 0  # times that all connections were
        self.peers = 0  # other nodes that Redis knows, as of the last answer
        self.unsure = 0  # of them, those that have to be told everything
        self.answered_at = time.monotonic()  # when Redis last did what this node looks after


class KafkaCounts:
    """Records of the fan-out topic, and what became of them."""

    __slots__ = ("dropped", "failures", "gaps", "heard", "heard_bytes", "round_trip_s", "said", "said_bytes")

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()  # `one`: for one node, `all`, `beat`: for itself
        self.said_bytes = 0
        self.heard: Counter[str] = Counter()  # `one`, `all`, `skipped`: for another node, `unreadable`
        self.heard_bytes = 0  # of those that are for this node
        self.dropped: Counter[str] = Counter()  # `events`, told as a comparison; `ephemeral`, `too_large`
        self.gaps = 0  # times that records were missed, so that heads were compared
        self.failures: Counter[str] = Counter()  # `talk`, `listen`: clients made anew
        self.round_trip_s = 0.0  # of the last heartbeat

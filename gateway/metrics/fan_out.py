"""Fan-out's numbers: what connections are given, and what nodes tell each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric

from fanout.broker_both import BothBrokers
from fanout.counts import KafkaCounts, PresenceCounts
from gateway.metrics.families import counter, gauge, resumes

if TYPE_CHECKING:
    from fanout.broker import Broker
    from fanout.delivery import Delivery
    from fanout.presence import Presence
    from fanout.publisher import Publisher


def of_fanout(delivery: Delivery, publisher: Publisher) -> Iterator[Metric]:
    """Events on their way to connections and other nodes."""
    counts = delivery.counts
    kinds = {"live": counts.live, "replayed": counts.replayed, "topic": counts.topic, "users": counts.users}
    yield counter(
        "deliveries",
        "Frames given to connections: from memory, from the inbox, ephemeral ones of topics and users.",
        kinds,
        "kind",
    )
    yield counter(
        "ephemeral_drops", "Ephemeral events withheld from who had not resumed or read too slowly.", counts.dropped
    )
    yield counter("pump_starts", "Times that a connection fell back to reading its inbox.", counts.pumps)
    yield resumes(counts.resumes, counts.resumed_events)
    hints = {
        (direction, kind): told[kind]
        for direction, told in (("said", publisher.counts.said), ("heard", publisher.counts.heard))
        for kind in ("events", "heads", "topic", "users", "replaced", "compare")
    }
    yield counter("broker_announcements", "Hints to and from other nodes.", hints, "direction", "kind")


def of_cluster(broker: Broker, presence: Presence) -> Iterator[Metric]:
    """What goes through Kafka, and what Redis knows; nothing where a node has neither."""
    counts = getattr(presence, "counts", None)
    by_presence = counts if isinstance(counts, PresenceCounts) else None
    kafka: Any = broker.far if isinstance(broker, BothBrokers) else broker
    by_kafka = kafka.counts if isinstance(getattr(kafka, "counts", None), KafkaCounts) else None
    ages: dict[str, float] = {}
    if by_kafka is not None:
        yield from _of_kafka(by_kafka)
        ages = {f"kafka_{'all' if each == '0' else 'own'}": age for each, age in kafka.beat_ages().items()}
    if by_presence is not None:
        looked = {"found": by_presence.asked - by_presence.unknown, "unknown": by_presence.unknown}
        yield counter(
            "presence_lookups", "Times that Redis was asked where users are; unknown: broadcast.", looked, "result"
        )
        yield counter(
            "presence_reentries", "Times that this node entered all its connections.", by_presence.entered_again
        )
        peers = {"sure": by_presence.peers - by_presence.unsure, "unsure": by_presence.unsure}
        yield gauge(
            "presence_nodes",
            "Other nodes, by whether Redis has all their connections or they are told all.",
            peers,
            "trust",
        )
        ages["redis"] = time.monotonic() - by_presence.answered_at
    if ages:
        yield gauge(
            "bus_heartbeat_age_seconds",
            "Since this node heard its own heartbeat: more than 15 is bad.",
            ages,
            "bus",
        )


def _of_kafka(counts: KafkaCounts) -> Iterator[Metric]:
    records = {("said", kind): counts.said[kind] for kind in ("one", "all", "beat")}
    records |= {("heard", kind): counts.heard[kind] for kind in ("one", "all", "skipped", "unreadable")}
    yield counter(
        "fanout_records",
        "Records between nodes: for one node, for all, for oneself; skipped: another's, in a partition that is shared.",
        records,
        "direction",
        "kind",
    )
    volume = {"said": counts.said_bytes, "heard": counts.heard_bytes}
    yield counter("fanout_bytes", "Bytes of records between nodes; heard: of those for this node.", volume, "direction")
    kinds = ("events", "ephemeral", "too_large")
    dropped = {kind: counts.dropped[kind] for kind in kinds}
    yield counter(
        "fanout_drops",
        "What was not told to others: events, which are compared instead, and ephemeral.",
        dropped,
        "kind",
    )
    yield counter("fanout_gaps", "Times that records were missed, so that heads were compared.", counts.gaps)
    failures = {side: counts.failures[side] for side in ("talk", "listen")}
    yield counter("fanout_failures", "Times that a client of Kafka failed and was made anew.", failures, "side")
    yield gauge("bus_round_trip_seconds", "Of the last heartbeat through Kafka.", counts.round_trip_s)

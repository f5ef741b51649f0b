"""Prometheus metrics: a reader over the plain numbers that each part keeps (`gateway/counts.py`), at each scrape.

Names begin with `applause_`, units are base units, no label tells a user, and every label's values are few: events of
the verb table (what a client makes up is `other`), codes of closed lists, templates of routes.
"""

from __future__ import annotations

import gc
import importlib.metadata
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fanout.broker_both import BothBrokers
from fanout.counts import KafkaCounts, PresenceCounts
from gateway.counts import OK, Acks, Histogram, HttpCounts
from gateway.socket.connection import ASKED, CLOSING, LIVE, OPENED
from handlers.push.provider import Result

if TYPE_CHECKING:
    from fanout.broker import Broker
    from fanout.delivery import Delivery
    from fanout.hub import Hub
    from fanout.presence import Presence
    from fanout.publisher import Publisher
    from gateway.egress.counts import EgressCounts
    from gateway.intake.counts import IntakeCounts
    from gateway.lane import Lane
    from gateway.socket.door import SocketDoor
    from gateway.vitals import Vitals
    from handlers.engagement.settler import Settler
    from handlers.inbox.retention import Retention
    from handlers.messaging.settler import GroupSettler
    from handlers.push.job import PushJob

NAMESPACE: Final = "applause"
PHASES: Final = {OPENED: "handshake", ASKED: "arriving", LIVE: "live", CLOSING: "closing"}

Reading = Callable[[], Iterable[Metric]]
"""Reads one part's numbers. Runs at each scrape, on the event loop, so it must not wait."""


def registry(readings: Iterable[Reading]) -> CollectorRegistry:
    """One node's own registry: its parts, the process, the build."""
    made = CollectorRegistry(auto_describe=True)
    made.register(_Readings(readings))
    ProcessCollector(namespace=NAMESPACE, registry=made)
    return made


class _Readings(Collector):
    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = [*readings, _of_build, _of_garbage]

    def collect(self) -> Iterator[Metric]:
        for reading in self._readings:
            yield from reading()


# -- the parts -------------------------------------------------------------------------------------------------------


def of_socket(door: SocketDoor, hub: Hub) -> Reading:
    """Connections: how many, in which state, how they came and went. Walks them all: 6 ms for 50,000."""

    def read() -> Iterator[Metric]:
        phases = Counter(connection.phase for connection in door.connections)
        yield _gauge(
            "connections", "Open sockets by state.", {name: phases[phase] for phase, name in PHASES.items()}, "state"
        )
        yield _gauge("users_connected", "Users with a connection to this node.", len(hub.users))
        yield _gauge("topics", "Live topics that somebody on this node listens to.", len(hub.topics()))
        counts = door.counts
        yield _counter(
            "connects", "Connects by result: accepted, or why not.", {"accepted": 0} | counts.connects, "result"
        )
        yield _counter("closes", "Ends of accepted connections by reason.", {"client": 0} | counts.closes, "code")
        yield _counter("send_queue_cuts", "Connections cut since their send queue was full or too old.", counts.cuts)

    return read


def of_acks(doors: Mapping[str, Acks]) -> Reading:
    """Answers, on every door alike."""

    def read() -> Iterator[Metric]:
        acks = CounterMetricFamily(
            f"{NAMESPACE}_acks", "Answered events by door, event and code.", labels=["door", "event", "code"]
        )
        for door, answered in doors.items():
            for event, done in answered.done.items():
                acks.add_metric([door, event, OK], done)
            for (event, code), refused in sorted(answered.refused.items()):
                acks.add_metric([door, event, code], refused)
        yield acks

    return read


def of_http(counts: HttpCounts) -> Reading:
    """HTTP requests."""

    def read() -> Iterator[Metric]:
        requests = CounterMetricFamily(
            f"{NAMESPACE}_http_requests",
            "Answered HTTP requests by route, method and status.",
            labels=["route", "method", "status"],
        )
        for (route, method, status), answered in sorted(counts.requests.items()):
            requests.add_metric([route, method, str(status)], answered)
        yield requests
        times = HistogramMetricFamily(
            f"{NAMESPACE}_http_request_duration_seconds",
            "Time to answer an HTTP request.",
            labels=["route", "method"],
        )
        for labels, histogram in sorted(counts.times.items()):
            times.add_metric(list(labels), *_buckets(histogram))
        yield times

    return read


def of_lane(lane: Lane) -> Reading:
    """Actions on their way through the database."""

    def read() -> Iterator[Metric]:
        counts = lane.counts
        yield _gauge("lane_depth", "Actions waiting or running.", lane.depth)
        yield _gauge("lane_available", "1 while the lane has its database, else 0.", int(lane.available))
        yield _histogram("action_duration_seconds", "From an action's receipt to its answer.", counts.waits)
        yield _histogram("lane_batch_actions", "Actions in a transaction.", counts.batch_size)
        yield _histogram("lane_batch_duration_seconds", "Time that a transaction took.", counts.batch_time)
        yield _counter("lane_phase_seconds", "Time spent in each phase of transactions.", counts.phases, "phase")
        yield _counter(
            "lane_repeats",
            "Transactions that ran again: a lock not given, an error that passes, a batch halved to find a fault.",
            {"lock_timeout": counts.lock_timeouts, "retryable": counts.retries, "halved": counts.halved},
            "reason",
        )
        yield _counter("lane_losses", "Times that the lane lost its database.", counts.lost)
        yield _counter("replays", "Actions answered with their kept outcome.", counts.replays)
        yield _counter("actions_expired", "Actions that waited too long and were answered unavailable.", counts.expired)
        yield _counter("actions_late", "Actions carried out whose answer came after its time.", counts.late)
        yield _counter(
            "records_given_up",
            "Records of Kafka's that somebody else takes in: nothing of them was stored.",
            counts.given_up,
        )
        yield _counter("actions_failed", "Actions answered internal: a fault of ours.", counts.failed)

    return read


def of_intake(counts: IntakeCounts) -> Reading:
    """Kafka's records. Only where this node takes part."""

    def read() -> Iterator[Metric]:
        records = CounterMetricFamily(
            f"{NAMESPACE}_intake_records",
            "Records taken in, by topic and outcome: ok, repeated, dead_letter, or the code of a refusal.",
            labels=["topic", "outcome"],
        )
        for labels, number in sorted(counts.records.items()):
            records.add_metric(list(labels), number)
        yield records
        yield _gauge("intake_partitions", "Partitions that this node takes in.", counts.partitions, "topic")
        yield _gauge("intake_lag_records", "Records of these that still wait in Kafka.", counts.lag, "topic")
        paused = GaugeMetricFamily(
            f"{NAMESPACE}_intake_paused_partitions",
            "Partitions that do not go on, by reason: dead_letters or offset_out_of_range. Somebody has to look.",
            labels=["topic", "reason"],
        )
        for labels, number in sorted(counts.paused.items()):
            paused.add_metric(list(labels), number)
        yield paused
        yield _counter("intake_sends", "Records that Kafka has acknowledged.", counts.sent, "topic")
        yield _counter(
            "intake_send_failures", "Records that it has not: they are sent again.", counts.failed_sends, "topic"
        )
        yield _counter("intake_lives", "Times that this node has begun to take part.", counts.lives)
        yield _counter("intake_begun_again", "Times that a partition went back to what is stored.", counts.begun_again)

    return read


def of_egress(counts: EgressCounts) -> Reading:
    """The ledger on its way to Kafka. Only where this node may publish it."""

    def read() -> Iterator[Metric]:
        yield _counter("egress_records", "Entries of the ledger that Kafka has acknowledged.", counts.records)
        yield _counter("egress_pages", "Pages that these were sent in.", counts.pages)
        yield _counter("egress_sweeps", "Times that this node began to publish the whole ledger.", counts.sweeps)
        yield _counter("egress_failures", "Times that it broke off, and began again.", counts.failures)
        yield _gauge("egress_publishing", "1 while this is the node that publishes, else 0.", int(counts.is_publishing))
        lag = counts.lag
        yield _gauge("egress_lag_records", "Entries that wait to be published (10,000: or more).", lag.entries)
        yield _gauge("egress_lag_seconds", "How long the oldest of them has waited.", lag.oldest_s)
        yield _gauge(
            "egress_transaction_seconds",
            "Age of the oldest transaction that writes anything in this PostgreSQL: later ones wait for it.",
            lag.transaction_s,
        )
        yield _gauge("egress_sweeping", "1 while the whole ledger is being published.", int(lag.is_sweeping))

    return read


def of_fanout(delivery: Delivery, publisher: Publisher) -> Reading:
    """Events on their way to connections and other nodes."""

    def read() -> Iterator[Metric]:
        counts = delivery.counts
        kinds = {"live": counts.live, "replayed": counts.replayed, "topic": counts.topic, "users": counts.users}
        yield _counter(
            "deliveries",
            "Frames given to connections: from memory, from the inbox, ephemeral ones of topics and users.",
            kinds,
            "kind",
        )
        yield _counter(
            "ephemeral_drops", "Ephemeral events withheld from who had not resumed or read too slowly.", counts.dropped
        )
        yield _counter("pump_starts", "Times that a connection fell back to reading its inbox.", counts.pumps)
        yield _resumes(counts.resumes, counts.resumed_events)
        hints = CounterMetricFamily(
            f"{NAMESPACE}_broker_announcements", "Hints to and from other nodes.", labels=["direction", "kind"]
        )
        for direction, told in (("said", publisher.counts.said), ("heard", publisher.counts.heard)):
            for kind in ("events", "heads", "topic", "users", "replaced", "compare"):
                hints.add_metric([direction, kind], told[kind])
        yield hints

    return read


def of_cluster(broker: Broker, presence: Presence) -> Reading:
    """What goes through Kafka, and what Redis knows; nothing where a node has neither."""
    counts = getattr(presence, "counts", None)
    by_presence = counts if isinstance(counts, PresenceCounts) else None
    kafka: Any = broker.far if isinstance(broker, BothBrokers) else broker
    by_kafka = kafka.counts if isinstance(getattr(kafka, "counts", None), KafkaCounts) else None

    def read() -> Iterator[Metric]:
        ages: dict[str, float] = {}
        if by_kafka is not None:
            yield from _of_kafka(by_kafka)
            ages = {f"kafka_{'all' if each == '0' else 'own'}": age for each, age in kafka.beat_ages().items()}
        if by_presence is not None:
            looked = {"found": by_presence.asked - by_presence.unknown, "unknown": by_presence.unknown}
            yield _counter(
                "presence_lookups", "Times that Redis was asked where users are; unknown: broadcast.", looked, "result"
            )
            yield _counter(
                "presence_reentries", "Times that this node entered all its connections.", by_presence.entered_again
            )
            peers = {"sure": by_presence.peers - by_presence.unsure, "unsure": by_presence.unsure}
            yield _gauge(
                "presence_nodes",
                "Other nodes, by whether Redis has all their connections or they are told all.",
                peers,
                "trust",
            )
            ages["redis"] = time.monotonic() - by_presence.answered_at
        if ages:
            yield _gauge(
                "bus_heartbeat_age_seconds",
                "Since this node heard its own heartbeat: more than 15 is bad.",
                ages,
                "bus",
            )

    return read


def _of_kafka(counts: KafkaCounts) -> Iterator[Metric]:
    records = CounterMetricFamily(
        f"{NAMESPACE}_fanout_records",
        "Records between nodes: for one node, for all, for oneself; skipped: another's, in a partition that is shared.",
        labels=["direction", "kind"],
    )
    for direction, told, kinds in (
        ("said", counts.said, ("one", "all", "beat")),
        ("heard", counts.heard, ("one", "all", "skipped", "unreadable")),
    ):
        for kind in kinds:
            records.add_metric([direction, kind], told[kind])
    yield records
    volume = {"said": counts.said_bytes, "heard": counts.heard_bytes}
    yield _counter(
        "fanout_bytes", "Bytes of records between nodes; heard: of those for this node.", volume, "direction"
    )
    kinds = ("events", "ephemeral", "too_large")
    dropped = {kind: counts.dropped[kind] for kind in kinds}
    yield _counter(
        "fanout_drops",
        "What was not told to others: events, which are compared instead, and ephemeral.",
        dropped,
        "kind",
    )
    yield _counter("fanout_gaps", "Times that records were missed, so that heads were compared.", counts.gaps)
    failures = {side: counts.failures[side] for side in ("talk", "listen")}
    yield _counter("fanout_failures", "Times that a client of Kafka failed and was made anew.", failures, "side")
    yield _gauge("bus_round_trip_seconds", "Of the last heartbeat through Kafka.", counts.round_trip_s)


def of_pool(pool: Any) -> Reading:
    """asyncpg's pool. Who waits for a connection stands in its queue, which is private: no public word says it."""

    def read() -> Iterator[Metric]:
        idle = pool.get_idle_size()
        states = {"idle": idle, "busy": pool.get_size() - idle}
        yield _gauge("pool_connections", "Database connections of the pool by state.", states, "state")
        yield _gauge("pool_connections_max", "As many may be open.", pool.get_max_size())
        waiting = getattr(getattr(pool, "_queue", None), "_getters", ())
        yield _gauge("pool_waiting", "Requests that wait for a connection.", len(waiting))

    return read


def of_push(job: PushJob) -> Reading:
    """Pushes to users with no connection."""

    def read() -> Iterator[Metric]:
        results = dict.fromkeys(get_args(Result), 0) | job.results
        yield _counter("pushes", "Pushes by what the provider made of them.", results, "result")
        looks = dict.fromkeys(("pushed", "quiet", "connected"), 0) | job.looks
        yield _counter("push_looks", "Times that a user was looked at, by what came of it.", looks, "result")
        yield _gauge("push_in_flight", "Users who are being told.", job.in_flight)

    return read


def of_retention(retention: Retention) -> Reading:
    """Inboxes that are kept short, by whichever node gets to it."""

    def read() -> Iterator[Metric]:
        yield _counter("inbox_trim_runs", "Passes over the inboxes that this node began.", retention.passes)
        yield _counter("inbox_trims", "Times that a user's inbox was shortened.", retention.trims)

    return read


def of_vitals(vitals: Vitals, settler: Settler) -> Reading:
    """What is looked at now and then: the loop, what waits to be settled, the ledger."""

    def read() -> Iterator[Metric]:
        yield _histogram("event_loop_lag_seconds", "How late the event loop was, twice a second.", vitals.lag)
        yield _counter("settler_runs", "Times that the settler looked for what is due.", settler.runs)
        yield _counter(
            "settlements", "Sums that the settler posted: one per creator, video and kind.", settler.settlements
        )
        yield _gauge("accruals_waiting", "Accruals that wait for the settler (10,000: or more).", vitals.accruals)
        yield _gauge("accruals_oldest_seconds", "How long the oldest of them has waited.", vitals.oldest_accrual_s)
        yield _gauge(
            "ledger_imbalance",
            "Minor units between balances and entries, as far as looked at; 0 is good.",
            vitals.imbalance,
        )
        yield _gauge(
            "audit_findings", "Accounts whose books do not hold, by check; 0 is good.", vitals.findings, "check"
        )
        yield _counter("audit_accounts", "Accounts looked at by the rolling audit.", vitals.audited)
        yield _counter("audit_rounds", "Times that the rolling audit has seen every account.", vitals.rounds)

    return read


def of_groups(settler: GroupSettler) -> Reading:
    """What is told to large groups a while after it was said."""

    def read() -> Iterator[Metric]:
        yield _counter("group_settler_runs", "Times that it was looked for what groups have not heard.", settler.runs)
        yield _counter("group_events", "Previews and reads that were gathered, as events told.", settler.told)

    return read


def _of_build() -> Iterator[Metric]:
    version = importlib.metadata.version("applause")
    yield InfoMetricFamily(
        f"{NAMESPACE}_build", "What runs here.", {"version": version, "python": platform.python_version()}
    )


def _of_garbage() -> Iterator[Metric]:
    stats = gc.get_stats()
    for name, what in (("collections", "Runs of the garbage collector."), ("collected", "Objects that it freed.")):
        yield _counter(f"gc_{name}", what, {str(n): stat[name] for n, stat in enumerate(stats)}, "generation")


# -- numbers as families ---------------------------------------------------------------------------------------------


def _counter(name: str, what: str, value: float | Mapping[str, float], label: str = "") -> Metric:
    return _family(CounterMetricFamily, name, what, value, label)


def _gauge(name: str, what: str, value: float | Mapping[str, float], label: str = "") -> Metric:
    return _family(GaugeMetricFamily, name, what, value, label)


def _family(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    what: str,
    value: float | Mapping[str, float],
    label: str,
) -> Metric:
    if not isinstance(value, Mapping):
        return kind(f"{NAMESPACE}_{name}", what, value=value)
    family = kind(f"{NAMESPACE}_{name}", what, labels=[label])
    for key, each in value.items():
        family.add_metric([key], each)
    return family


def _histogram(name: str, what: str, histogram: Histogram) -> Metric:
    buckets, total = _buckets(histogram)
    return HistogramMetricFamily(f"{NAMESPACE}_{name}", what, buckets=buckets, sum_value=total)


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Cumulative, as Prometheus has them."""
    bounds = [*map(float, histogram.bounds), float("inf")]
    sums, running = [], 0
    for count in histogram.counts:
        running += count
        sums.append(running)
    return [
        ("+Inf" if bound == float("inf") else str(bound), n) for bound, n in zip(bounds, sums, strict=True)
    ], histogram.sum


def _resumes(by_bits: Mapping[int, int], events: int) -> Metric:
    """Counted by the bits of the number: 0, 1, up to 3, up to 7 and so on."""
    buckets, running = [], 0
    for bits in range(15):
        running += by_bits.get(bits, 0)
        buckets.append((str(float(2**bits - 1)), running))
    buckets.append(("+Inf", sum(by_bits.values())))
    return HistogramMetricFamily(
        f"{NAMESPACE}_resume_events",
        "Events that an accepted connection was behind.",
        buckets=buckets,
        sum_value=events,
    )

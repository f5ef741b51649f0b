"""The doors' numbers: sockets, answers, HTTP, and both ways of Kafka."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client.core import Metric

from gateway.counts import OK, Acks, HttpCounts
from gateway.metrics.families import counter, gauge, histograms
from gateway.socket.connection import ASKED, CLOSING, LIVE, OPENED

if TYPE_CHECKING:
    from fanout.hub import Hub
    from gateway.egress.counts import EgressCounts
    from gateway.intake.counts import IntakeCounts
    from gateway.socket.door import SocketDoor

PHASES: Final = {OPENED: "handshake", ASKED: "arriving", LIVE: "live", CLOSING: "closing"}


def of_socket(door: SocketDoor, hub: Hub) -> Iterator[Metric]:
    """Connections: how many, in which state, how they came and went. Walks them all: 6 ms for 50,000."""
    phases = Counter(connection.phase for connection in door.connections)
    yield gauge(
        "connections", "Open sockets by state.", {name: phases[phase] for phase, name in PHASES.items()}, "state"
    )
    yield gauge("users_connected", "Users with a connection to this node.", len(hub.users))
    yield gauge("topics", "Live topics that somebody on this node listens to.", len(hub.topics()))
    counts = door.counts
    yield counter("connects", "Connects by result: accepted, or why not.", {"accepted": 0} | counts.connects, "result")
    yield counter("closes", "Ends of accepted connections by reason.", {"client": 0} | counts.closes, "code")
    yield counter("send_queue_cuts", "Connections cut since their send queue was full or too old.", counts.cuts)


def of_acks(doors: Mapping[str, Acks]) -> Iterator[Metric]:
    """Answers, on every door alike."""
    acks: dict[tuple[str, str, str], float] = {}
    for door, answered in doors.items():
        acks |= {(door, event, OK): done for event, done in answered.done.items()}
        acks |= {(door, event, code): refused for (event, code), refused in sorted(answered.refused.items())}
    yield counter("acks", "Answered events by door, event and code.", acks, "door", "event", "code")


def of_http(counts: HttpCounts) -> Iterator[Metric]:
    """HTTP requests."""
    requests = {
        (route, method, str(status)): answered for (route, method, status), answered in sorted(counts.requests.items())
    }
    yield counter(
        "http_requests", "Answered HTTP requests by route, method and status.", requests, "route", "method", "status"
    )
    times = dict(sorted(counts.times.items()))
    yield histograms("http_request_duration_seconds", "Time to answer an HTTP request.", times, "route", "method")


def of_intake(counts: IntakeCounts) -> Iterator[Metric]:
    """Kafka's records. Only where this node takes part."""
    yield counter(
        "intake_records",
        "Records taken in, by topic and outcome: ok, repeated, dead_letter, or the code of a refusal.",
        dict(sorted(counts.records.items())),
        "topic",
        "outcome",
    )
    yield gauge("intake_partitions", "Partitions that this node takes in.", counts.partitions, "topic")
    yield gauge("intake_lag_records", "Records of these that still wait in Kafka.", counts.lag, "topic")
    yield gauge(
        "intake_paused_partitions",
        "Partitions that do not go on, by reason: dead_letters or offset_out_of_range. Somebody has to look.",
        dict(sorted(counts.paused.items())),
        "topic",
        "reason",
    )
    yield counter("intake_sends", "Records that Kafka has acknowledged.", counts.sent, "topic")
    yield counter("intake_send_failures", "Records that it has not: they are sent again.", counts.failed_sends, "topic")
    yield counter("intake_lives", "Times that this node has begun to take part.", counts.lives)
    yield counter("intake_begun_again", "Times that a partition went back to what is stored.", counts.begun_again)


def of_egress(counts: EgressCounts) -> Iterator[Metric]:
    """The ledger on its way to Kafka. Only where this node may publish it."""
    yield counter("egress_records", "Entries of the ledger that Kafka has acknowledged.", counts.records)
    yield counter("egress_pages", "Pages that these were sent in.", counts.pages)
    yield counter("egress_sweeps", "Times that this node began to publish the whole ledger.", counts.sweeps)
    yield counter("egress_failures", "Times that it broke off, and began again.", counts.failures)
    yield gauge("egress_publishing", "1 while this is the node that publishes, else 0.", int(counts.is_publishing))
    lag = counts.lag
    yield gauge("egress_lag_records", "Entries that wait to be published (10,000: or more).", lag.entries)
    yield gauge("egress_lag_seconds", "How long the oldest of them has waited.", lag.oldest_s)
    yield gauge(
        "egress_transaction_seconds",
        "Age of the oldest transaction that writes anything in this PostgreSQL: later ones wait for it.",
        lag.transaction_s,
    )
    yield gauge("egress_sweeping", "1 while the whole ledger is being published.", int(lag.is_sweeping))

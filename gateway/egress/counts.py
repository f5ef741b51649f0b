"""What was published, as plain numbers (see gateway/counts.py)."""

from __future__ import annotations

from storage.egress import Lag


class EgressCounts:
    """`lag` is of the whole cluster, as this node saw it last; the others are this node's."""

    __slots__ = ("failures", "is_publishing", "lag", "pages", "records", "sweeps")

    def __init__(self) -> None:
        self.records = 0  # that Kafka has acknowledged
        self.pages = 0
        self.sweeps = 0  # times that this node began or went on to go through the whole ledger
        self.failures = 0  # times that Kafka or the database did not take a page
        self.is_publishing = False
        self.lag = Lag(0, 0.0, 0.0, False)

"""What came of records, as plain numbers (see gateway/counts.py). Topics are known by their short names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from gateway.intake.topics import READ, WRITTEN

OK: Final = "ok"
REPEATED: Final = "repeated"
DEAD_LETTER: Final = "dead_letter"

LETTERS_AWAY: Final = "dead_letters"  # why a partition is paused
OUT_OF_RANGE: Final = "offset_out_of_range"


class IntakeCounts:
    """`records` by (topic, outcome): ok, repeated, dead_letter, or the code of a refusal. The gauges are of the
    partitions that this node has now."""

    __slots__ = ("begun_again", "failed_sends", "lag", "lives", "partitions", "paused", "records", "sent")

    def __init__(self) -> None:
        self.records: Counter[tuple[str, str]] = Counter(
            {(topic, outcome): 0 for topic in READ for outcome in (OK, REPEATED, DEAD_LETTER)}
        )
        self.sent: Counter[str] = Counter(dict.fromkeys(WRITTEN, 0))
        self.failed_sends: Counter[str] = Counter(dict.fromkeys(WRITTEN, 0))
        self.begun_again = 0  # times that a partition went back to what is stored
        self.lives = 0  # times that this node joined the group
        self.partitions: dict[str, int] = dict.fromkeys(READ, 0)
        self.lag: dict[str, int] = dict.fromkeys(READ, 0)  # records that wait in Kafka
        self.paused: Counter[tuple[str, str]] = Counter()  # (topic, why) -> partitions that do not go on
        self.note_paused(())

    def note_paused(self, paused: Iterable[tuple[str, str]]) -> None:
        """One (topic, why) for each; of all others the alarm sees a 0."""
        self.paused = Counter({(topic, why): 0 for topic in READ for why in (LETTERS_AWAY, OUT_OF_RANGE)})
        self.paused.update(paused)

"""The topics that this door reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fanout.kafka import Topic

EVENTS: Final = "events"
DIRECTORY: Final = "directory"
COMMANDS: Final = "commands"
OUTCOMES: Final = "outcomes"
DEAD_LETTERS: Final = "dead-letters"

READ: Final = (EVENTS, DIRECTORY, COMMANDS)
WRITTEN: Final = (OUTCOMES, DEAD_LETTERS)


def full_name(prefix: str, topic: str) -> str:
    """As Kafka knows it."""
    return f"{prefix}.{topic}"


def topics_of(prefix: str, partitions: int) -> Sequence[Topic]:
    """All of them, as they are created where they are missing."""
    from fanout.kafka import Topic  # with what only a cluster needs

    return [Topic(full_name(prefix, topic), partitions) for topic in (*READ, *WRITTEN)]

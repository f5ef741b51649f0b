"""What an award is: amounts and thresholds as data, shared by every domain that pays."""

from __future__ import annotations

import msgspec


class Award(msgspec.Struct, frozen=True):
    """One row of the awards table: minor units paid, the follow count from which they are, and how often in a UTC day
    per (actor, video) where it pays more than once (None: as often as it likes)."""

    points: int
    threshold: int
    daily_cap: int | None = None


Awards = dict[str, Award]


def points_for(award: Award, follow_count: int) -> int:
    """Minor units that somebody with this follow count earns: at the threshold is enough."""
    return award.points if follow_count >= award.threshold else 0

"""Chores that are one look through the pool: to follow what others have changed, and to keep the house."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.clock.rhythm import Chore
from handlers.catalogue.current import CurrentAwards
from handlers.engagement.totals import LiveTotals
from storage import ingress, requests
from storage.pool import Pool, session

if TYPE_CHECKING:
    from gateway.history import History

PARTITIONS_EVERY_S: Final = 3600.0
HISTORY_EVERY_S: Final = 2.0
TOTALS_EVERY_S: Final = 0.5
AWARDS_EVERY_S: Final = 0.5  # an operator's change holds on every node within a second


async def keep_partitions(pool: Pool) -> None:
    """Serve until cancelled: partitions ahead of time, expired ones away."""

    async def keep() -> None:
        async with session(pool) as conn:
            await requests.maintain_partitions(conn)
            await ingress.drop_old_records(conn)

    await Chore("partitions", keep).for_ever(PARTITIONS_EVERY_S)


async def follow_awards(pool: Pool, current: CurrentAwards) -> None:
    """Serve until cancelled: what operators have changed, on whichever node."""

    async def look() -> None:
        async with session(pool) as conn:
            await current.look(conn)

    await Chore("awards", look).for_ever(AWARDS_EVERY_S)


async def follow_history(pool: Pool, history: History) -> None:
    """Serve until cancelled: a new epoch, also where the connections to the database stay as they are."""

    async def look() -> None:
        async with session(pool) as conn:
            await history.look(conn)

    await Chore("history", look).for_ever(HISTORY_EVERY_S)


async def tell_totals(totals: LiveTotals) -> None:
    """Serve until cancelled: the totals of videos that somebody watches here, at most twice a second."""
    await Chore("totals", totals.look).for_ever(TOTALS_EVERY_S)

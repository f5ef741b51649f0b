"""The awards that hold on this node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handlers.awards import Award, Awards
from storage import awards

if TYPE_CHECKING:
    from asyncpg import Connection


class CurrentAwards:
    """What actions are judged by: as of the last look, which comes every half second and after each change here."""

    def __init__(self) -> None:
        self.in_force: Awards = {}
        self._last_change = 0

    async def look(self, conn: Connection) -> None:
        """Take over what has changed. Of two looks at once the older may end last: the next one puts that right."""
        if await awards.fetch_last_change(conn) == self._last_change:
            return
        last_change, found = await awards.list_in_force(conn)
        self.in_force = {award.action: Award(award.points, award.threshold, award.daily_cap) for award in found}
        self._last_change = last_change

"""Which history of the database this node serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from storage.epoch import fetch_epoch

if TYPE_CHECKING:
    from asyncpg import Connection

log = structlog.get_logger()


class History:
    """Reads the epoch on every new database connection and every now and then; where it changed, `on_change` is
    called, so that no client goes on with a `seq` of another history."""

    def __init__(self, *, on_change: Callable[[], None]) -> None:
        self.epoch = ""
        self._on_change = on_change

    async def look(self, conn: Connection) -> None:
        """What a new connection is asked first, and the clock asks again."""
        epoch = await fetch_epoch(conn)
        changed = self.epoch and epoch != self.epoch
        self.epoch = epoch
        if changed:
            log.warning("epoch_changed", epoch=epoch)
            self._on_change()

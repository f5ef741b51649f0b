"""Signs of life: how late the event loop is, what waits to be settled, and whether the books hold as far as looked at.

The rolling audit takes some accounts at a time and proves each one's last entries against its balance (see
`storage/spot_audit.py`). It sees a balance that no entry explains, a broken chain and a missing or doubled `n` within
them; it does not see what lies further back, nor awards against engagements: for that there is `applause audit`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from gateway.counts import DURATIONS_S, Histogram
from storage import accruals, spot_audit
from storage.pool import Pool, session
from storage.spot_audit import CHECKS, START, Fault, Looked, Place

log = structlog.get_logger()

LAG_EVERY_S: Final = 0.5
LOOK_EVERY_S: Final = 5.0
PATIENCE_S: Final = 5.0
ACCOUNTS_AT_ONCE: Final = 200  # some 5 ms of the database, 1 in 1,000 of its time
MOST_FAULTS: Final = 1_000


class Vitals:
    """Looks now and then, and remembers what it saw. Two services, `watch_loop` and `look`."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool
        self._place: Place = START
        self._faults: dict[Place, Fault] = {}
        self.lag = Histogram(DURATIONS_S)
        self.accruals = 0
        self.oldest_accrual_s = 0.0
        self.audited = 0
        self.rounds = 0

    @property
    def imbalance(self) -> int:
        """Minor units between the balances that are wrong and what their entries say."""
        return sum(fault.amount for fault in self._faults.values())

    @property
    def findings(self) -> dict[str, int]:
        """Accounts that are wrong, by check. One is forgotten when it is found right again."""
        found = dict.fromkeys(CHECKS, 0)
        for fault in self._faults.values():
            found[fault.check] += 1
        return found

    async def watch_loop(self) -> None:
        """Serve until cancelled: how much later than asked for the loop comes back."""
        while True:
            due = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.lag.observe(max(time.monotonic() - due, 0.0))

    async def look(self) -> None:
        """Serve until cancelled: what waits for the settler, and the next accounts. Whatever goes wrong here must not
        stop the product: it is told once, and tried again."""
        went_well = True
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self.look_once()
            except Exception as error:
                if went_well:
                    log.warning("vitals_failed", error=type(error).__name__)
                went_well = False
            else:
                went_well = True

    async def look_once(self) -> None:
        """What `look` does each time."""
        async with session(self._pool) as conn:
            self.accruals, self.oldest_accrual_s = await accruals.fetch_waiting(conn)
            looked = await spot_audit.look(conn, self._place, ACCOUNTS_AT_ONCE)
        self._take(looked)

    def _take(self, looked: Looked) -> None:
        self.audited += len(looked.places)
        for place in looked.places:
            self._faults.pop(place, None)
        for place, fault in looked.faults.items():
            if len(self._faults) < MOST_FAULTS:
                self._faults[place] = fault
                log.error("audit_finding", check=fault.check, user_id=place[0], currency=place[1], amount=fault.amount)
        is_last = len(looked.places) < ACCOUNTS_AT_ONCE
        self.rounds += is_last
        self._place = START if is_last else looked.places[-1]

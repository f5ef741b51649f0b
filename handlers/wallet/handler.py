"""Reads of the wallet: `wallet:get`, `wallet:history`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handlers.errors import Refusal
from handlers.money import as_number
from handlers.wallet.transactions import transaction_of
from handlers.wallet.wire import Balance, GetAck, GetRequest, HistoryAck, HistoryRequest
from storage import ledger
from storage.pool import session

if TYPE_CHECKING:
    from storage.pool import Pool

_FROM_THE_NEWEST = 2**53


class WalletHandler:
    """Answers from the ledger."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def get(self, user_id: int, request: GetRequest) -> GetAck:
        """The user's balances, or that of one currency."""
        return (await self.get_balances(user_id, request.currency))[0]

    async def get_balances(self, user_id: int, currency: str | None = None) -> tuple[GetAck, int]:
        """The balances and the inbox's `seq` in the same snapshot. Refuses `not_found` for an unknown user."""
        async with session(self._pool) as conn:
            rows = await ledger.list_balances(conn, user_id, currency)
        if not rows and currency is None:
            raise Refusal("not_found", "There is no such user.", field="userId")
        balances = [Balance(name, as_number(balance), as_number(reserved)) for name, balance, reserved, _ in rows]
        return GetAck(balances), rows[0][3] if rows else 0

    async def history(self, user_id: int, request: HistoryRequest) -> HistoryAck:
        """A page of entries, newest first; the cursor is the last one's `seq`."""
        return (await self.get_history(user_id, request))[0]

    async def get_history(self, user_id: int, request: HistoryRequest) -> tuple[HistoryAck, int]:
        """The page and the inbox's `seq` in the same snapshot."""
        before = int(request.cursor) if request.cursor is not None else _FROM_THE_NEWEST
        async with session(self._pool) as conn:
            rows, seq = await ledger.list_entries(conn, user_id, before, request.currency, request.limit + 1)
        page = rows[: request.limit]
        cursor = str(page[-1][0].seq) if len(rows) > request.limit else None
        return HistoryAck([transaction_of(*row) for row in page], cursor), seq

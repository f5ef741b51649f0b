"""Reads of the wallet: `wallet:get`, `wallet:history`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from handlers.errors import Refusal
from handlers.inbox.envelope import timestamp_of
from handlers.money import as_number
from handlers.wallet.points import reason_of
from handlers.wallet.wire import Balance, GetAck, GetRequest, HistoryAck, HistoryRequest, Transaction
from storage import ledger
from storage.ledger import Entry
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
        return HistoryAck([_transaction(*row) for row in page], cursor), seq


def _transaction(entry: Entry, status: str, transfer_id: UUID) -> Transaction:
    return Transaction(
        id=str(entry.id),
        user_id=entry.user_id,
        currency=entry.currency,
        n=entry.n,
        action=entry.action,
        points=as_number(entry.points),
        balance_before=as_number(entry.balance_before),
        balance_after=as_number(entry.balance_after),
        counter_account=entry.counter_account,
        transfer_id=str(transfer_id),
        status=status,
        reason=reason_of(entry),
        metadata=msgspec.Raw(entry.metadata.encode()),
        created_at=timestamp_of(entry.created_at),
    )

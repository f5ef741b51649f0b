"""What wallets look like on the wire (spec 3 and 4)."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec

from handlers.wire import Message, Request

Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3,8}\Z")]
PageLimit = Annotated[int, msgspec.Meta(ge=1, le=100)]
Cursor = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,16}\Z")]


class GetRequest(Request, frozen=True):
    currency: Currency | None = None


class HistoryRequest(Request, frozen=True):
    currency: Currency | None = None
    cursor: Cursor | None = None
    limit: PageLimit = 50


class Balance(Message):
    currency: str
    balance: Decimal
    reserved: Decimal


class GetAck(Message):
    balances: list[Balance]


class Transaction(Message):
    id: str
    user_id: int
    currency: str
    n: int
    action: str
    points: Decimal
    balance_before: Decimal
    balance_after: Decimal
    counter_account: str
    transfer_id: str
    status: str
    reason: str
    metadata: msgspec.Raw
    created_at: str


class HistoryAck(Message):
    transactions: list[Transaction]
    next_cursor: str | None


class PointsEarnedEvent(Message):
    user_id: int
    currency: str
    action: str
    points: Decimal
    new_balance: Decimal
    previous_balance: Decimal
    reason: str
    timestamp: str
    metadata: msgspec.Raw

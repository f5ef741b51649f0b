"""What items and awards look like on the wire (spec 4 and 7)."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from handlers.wire import Amount, Currency, Message, Request, minor_of, positive

ItemName = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


class PutItemRequest(Request, frozen=True):
    """An item to create or change. Left out keeps; a new one needs name and price, and costs LYK unless it says
    otherwise."""

    name: ItemName | UnsetType = UNSET
    price: Amount | UnsetType = UNSET
    currency: Currency | UnsetType = UNSET

    def __post_init__(self) -> None:
        if not isinstance(self.price, UnsetType):
            positive(self.price, "price")


class ItemView(Message):
    item_id: str
    name: str
    price: Decimal
    currency: str


class PutAwardRequest(Request, frozen=True):
    """What an action pays from now on. Left out keeps; `dailyCap` null: as often as it likes."""

    points: Amount | UnsetType = UNSET
    threshold: Count | UnsetType = UNSET
    daily_cap: Count | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if not isinstance(self.points, UnsetType) and minor_of(self.points, "points") < 0:
            raise ValueError("Expected a number of at least 0 - at `$.points`")


class AwardView(Message):
    """`dailyCap` only where there is one."""

    points: Decimal
    threshold: int
    daily_cap: int | UnsetType = UNSET


class AwardVersionView(Message):
    """One version of an award; `changedBy` null: as the program came."""

    points: Decimal
    threshold: int
    changed_by: str | None
    timestamp: str
    daily_cap: int | UnsetType = UNSET


class AwardHistory(Message):
    history: list[AwardVersionView]
    next_cursor: str | None

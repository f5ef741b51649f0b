"""What wallets look like on the wire (spec 3 and 4)."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec

from handlers.money import LYK
from handlers.wire import (
    ActionId,
    Amount,
    Currency,
    ItemId,
    Message,
    RecordId,
    Request,
    Source,
    UserId,
    minor_of,
    positive,
)

MAX_METADATA_BYTES: Final = 4096  # it goes to the user's phones with the event

PageLimit = Annotated[int, msgspec.Meta(ge=1, le=100)]
Cursor = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,16}\Z")]
Note = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00]*\Z")]
ReasonText = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*\Z")]


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


class LedgerRecord(Transaction):
    """A record of the topic `ledger`, its key the user's id. Where `epoch` is another than before, the database was
    restored or promoted: what was told of this account under another one, from this `n` on, is not so any more."""

    epoch: str


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


class PointsDeductedEvent(PointsEarnedEvent):
    """`points_deducted`: the same shape, `points` positive too."""


class WalletUpdateEvent(Message):
    """`wallet_update`: a correction."""

    user_id: int
    currency: str
    new_balance: Decimal
    previous_balance: Decimal
    reason: str
    timestamp: str


class GiftRequest(Request, frozen=True):
    to_user_id: UserId
    amount: Amount
    action_id: ActionId
    note: Note | None = None

    def __post_init__(self) -> None:
        positive(self.amount, "amount")


class PurchaseRequest(Request, frozen=True):
    item_id: ItemId
    action_id: ActionId


class BoostRequest(Request, frozen=True):
    video_id: ItemId
    amount: Amount
    action_id: ActionId

    def __post_init__(self) -> None:
        positive(self.amount, "amount")


class DeductionRequest(Request, frozen=True):
    """A backend takes `amount` from a user's wallet."""

    action_id: ActionId
    user_id: UserId
    amount: Amount
    reason: ReasonText
    action: Literal["penalty", "withdrawal"] = "penalty"
    currency: Currency = LYK
    metadata: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        positive(self.amount, "amount")
        _check_metadata(self.metadata)


class CorrectionRequest(Request, frozen=True):
    """A backend changes a user's balance by `amount`, which carries the sign."""

    action_id: ActionId
    user_id: UserId
    amount: Amount
    reason: ReasonText
    action: Literal["correction"] = "correction"
    currency: Currency = LYK
    metadata: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not minor_of(self.amount, "amount"):
            raise ValueError("Expected a number other than 0 - at `$.amount`")
        _check_metadata(self.metadata)


class DeductCommand(DeductionRequest, frozen=True, kw_only=True, tag_field="verb", tag="deduct"):
    """The same as a record of Kafka's."""

    source: Source
    action_id: RecordId = msgspec.field(name="id")


class CorrectCommand(CorrectionRequest, frozen=True, kw_only=True, tag_field="verb", tag="correct"):
    """The same as a record of Kafka's."""

    source: Source
    action_id: RecordId = msgspec.field(name="id")


class AwardCommand(Request, frozen=True, kw_only=True, tag_field="verb", tag="award"):
    """A backend gives `amount` to a user. What is paid for engagement or moved between people Applause itself judges,
    so no backend may call it by those names."""

    source: Source
    action_id: RecordId = msgspec.field(name="id")
    user_id: UserId
    amount: Amount
    reason: ReasonText
    action: Literal["campaign_reward", "mining_reward", "referral_reward", "credit_purchased", "refund"] = (
        "campaign_reward"
    )
    currency: Currency = LYK
    metadata: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        positive(self.amount, "amount")
        _check_metadata(self.metadata)


Command = AwardCommand | DeductCommand | CorrectCommand


class SpendAck(Message):
    """The ack's data of whatever moves value in a wallet: the entry's id, and what there is after it."""

    transaction_id: str
    new_balance: Decimal


def _check_metadata(metadata: dict[str, Any] | None) -> None:
    if metadata is None:
        return
    if len(msgspec.json.encode(metadata)) > MAX_METADATA_BYTES:
        raise ValueError(f"Expected at most {MAX_METADATA_BYTES} bytes - at `$.metadata`")
    if _has_nul(metadata):  # PostgreSQL keeps such JSON, but can't look into it any more
        raise ValueError("Expected text without NUL - at `$.metadata`")


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_has_nul, value))

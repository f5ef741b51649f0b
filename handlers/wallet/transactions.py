"""A ledger entry as a row of the history, and as a record of the topic `ledger`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from handlers.inbox.envelope import timestamp_of
from handlers.money import as_number
from handlers.wallet.points import reason_of
from handlers.wallet.wire import LedgerRecord, Transaction
from storage.ledger import Entry


def transaction_of(entry: Entry, status: str, transfer_id: UUID) -> Transaction:
    """As `wallet:history` shows it."""
    return Transaction(*_fields(entry, status, transfer_id))


def record_of(entry: Entry, status: str, epoch: str) -> LedgerRecord:
    """The same with the epoch of its database."""
    return LedgerRecord(*(*_fields(entry, status, entry.transfer_id or entry.id), epoch))


def _fields(entry: Entry, status: str, transfer_id: UUID) -> tuple[Any, ...]:
    entry_id = str(entry.id)
    return (
        entry_id,
        entry.user_id,
        entry.currency,
        entry.n,
        entry.action,
        as_number(entry.points),
        as_number(entry.balance_before),
        as_number(entry.balance_after),
        entry.counter_account,
        entry_id if transfer_id is entry.id else str(transfer_id),
        status,
        reason_of(entry),
        msgspec.Raw(entry.metadata.encode()),
        timestamp_of(entry.created_at),
    )

"""What the gateway writes to Kafka about what it has read there (spec 6). What it reads: the domains' own wire.py."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from handlers.errors import ErrorBody
from handlers.wallet.wire import SpendAck
from handlers.wire import Message


class Outcome(Message):
    """The answer to a command: `data` where `ok` is true, else `error`. To a repetition the first answer again."""

    source: str
    id: str
    ok: bool
    data: SpendAck | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET


class Letter(Message):
    """A record that could not be read, why, and where it stands. Key and value are in base64."""

    reason: str
    topic: str
    partition: int
    offset: int
    key: str | None
    value: str | None

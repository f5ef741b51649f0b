"""Names of live topics, what backends may call their events, and whom a list of recipients names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_LIVE_TOPIC: Final = re.compile(r"live:[A-Za-z0-9._:-]{1,64}")

# Clients change balances and chats by these without asking: whoever could send them could forge money and messages.
RESERVED_TYPES: Final = frozenset(
    {
        "points_earned",
        "points_deducted",
        "wallet_update",
        "message_preview",
        "message_received",
        "message_read",
        "conversation_changed",
        "typing_indicator",
    }
)
RESERVED_EVENT_TYPES: Final = ("wallet:", "chat:")


# Characters of all copies: the row that recipients could share takes as much by itself.
MOST_COPIED: Final = 1_024


def is_copied(size: int, recipients: int) -> bool:
    """True where each recipient's inbox gets the whole event, whose data have this size, instead of referring to one
    row that all share."""
    return size * recipients <= MOST_COPIED


def is_live_topic(topic: str) -> bool:
    """True for `live:{name}`, the name being 1 to 64 of `A-Z a-z 0-9 . _ : -`: open to every user."""
    return _LIVE_TOPIC.fullmatch(topic) is not None


def is_reserved_type(type_: str) -> bool:
    """True for types that tell of money and chats (spec 3 and 5)."""
    return type_ in RESERVED_TYPES


def is_reserved_event_type(event_type: str) -> bool:
    """True for `wallet:…` and `chat:…`."""
    return event_type.startswith(RESERVED_EVENT_TYPES)


def distinct_recipients(user_ids: Iterable[int]) -> list[int]:
    """Each recipient once, ascending: as a set, since a backend that repeats itself may list them differently."""
    return sorted(set(user_ids))

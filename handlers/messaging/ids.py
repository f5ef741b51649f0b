"""Ids of conversations and messages.

A message's id is a UUID of version 8 whose first 48 bits are its number in the conversation: so it is found by the key
of its row, without an index on ids, and compared whole.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from handlers.deed import derived_id, fresh_id, uuid_of

PATTERN: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_CANONICAL: Final = re.compile(PATTERN)
_VERSION_8: Final = 0x8000
_RANDOM_A: Final = 0x0FFF


def is_id(text: str) -> bool:
    """Whether it may be the id of a conversation or message: there is one way to write each."""
    return _CANONICAL.fullmatch(text) is not None


def direct_id(one: int, other: int) -> str:
    """The id of the direct conversation of two."""
    return str(derived_id(f"direct/{min(one, other)}/{max(one, other)}"))


def group_id() -> str:
    """The id of a new group."""
    return str(fresh_id())


def message_id(number: int, origin: str) -> UUID:
    """The id of the message with this number; `origin` names the request key."""
    rest = derived_id(origin).bytes
    middle = _VERSION_8 | int.from_bytes(rest[6:8], "big") & _RANDOM_A
    return uuid_of(number.to_bytes(6, "big") + middle.to_bytes(2, "big") + rest[8:])


def number_of(message_id: str) -> int:
    """The number that an id carries, be there such a message or not; `is_id` holds of it."""
    return int(message_id[:8] + message_id[9:13], 16)

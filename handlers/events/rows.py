"""A backend's event as the rows of its recipients."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from handlers.deed import derived_id
from storage.broadcasts import Body
from storage.inbox import SharedEvent


def events_for(body: Body, seqs: Mapping[int, int]) -> list[SharedEvent]:
    """The next event of each user, whose head stands at `seqs[user]`."""
    return [SharedEvent(user_id, seqs[user_id] + 1, body) for user_id in sorted(seqs)]


def id_of(broadcast_id: int) -> UUID:
    """What the rows of one broadcast are known by: where one stood twice in an inbox, the audit would find it."""
    return derived_id(f"broadcast/{broadcast_id}")

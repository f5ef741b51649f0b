"""What waits to be told to large groups: written with each message and read pointer, taken by the settler.

Insert-only, so that the lane, which holds heads, never waits here for the settler, which wants them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from storage.statement import Write, columns

if TYPE_CHECKING:
    pass

INSERT = """
INSERT INTO gathered (conversation_id, reader_id) SELECT * FROM unnest($1::uuid[], $2::bigint[])
"""


def insert_gathered(places: Collection[tuple[str, int | None]]) -> list[Write]:
    """The write of (conversation, reader whose pointer has moved; None: there is a message)."""
    return [Write(INSERT, columns(list(places), 2))] if places else []

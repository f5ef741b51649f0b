"""What can be bought, at which price."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncpg import Connection


class StoredItem(NamedTuple):
    """One item; `price` is in minor units of its currency."""

    id: str
    name: str
    price: int
    currency: str


LIST_ITEMS = "SELECT id, name, price, currency FROM items WHERE id = ANY($1::text[])"


async def list_items(conn: Connection, item_ids: Collection[str]) -> dict[str, StoredItem]:
    """Those of the items that there are, by id."""
    return {row[0]: StoredItem(*row) for row in await conn.fetch(LIST_ITEMS, list(item_ids))}


async def fetch_item(conn: Connection, item_id: str) -> StoredItem | None:
    """The item with this id."""
    return (await list_items(conn, [item_id])).get(item_id)


LOCK_ITEM = "SELECT pg_advisory_xact_lock(hashtextextended('applause.item:' || $1, 0))"


async def lock_item(conn: Connection, item_id: str) -> None:
    """Wait for others who change this item, be there a row of it or not: until the end of the transaction."""
    await conn.execute(LOCK_ITEM, item_id)


UPSERT_ITEM = """
INSERT INTO items (id, name, price, currency) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, price = excluded.price, currency = excluded.currency
"""


async def upsert_item(conn: Connection, item: StoredItem) -> None:
    """Create the item, or change all of it."""
    await conn.execute(UPSERT_ITEM, *item)

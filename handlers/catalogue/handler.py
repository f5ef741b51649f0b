"""Shows and changes items and awards. Each change is in the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from handlers.awards import Award
from handlers.catalogue.current import CurrentAwards
from handlers.catalogue.rules import can_have_cap
from handlers.catalogue.wire import (
    AwardHistory,
    AwardVersionView,
    AwardView,
    ItemView,
    PutAwardRequest,
    PutItemRequest,
)
from handlers.errors import Refusal
from handlers.inbox.envelope import timestamp_of
from handlers.money import DECIMALS, LYK, as_number
from handlers.wire import Message, encode, minor_of
from storage import audit_log, awards, items
from storage.audit_log import LogEntry
from storage.awards import AwardVersion
from storage.items import StoredItem
from storage.pool import session, transaction
from storage.statement import write_together

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.pool import Pool

NEWEST: Final = 2**31 - 1  # above every version


class CatalogueHandler:
    """Items for backends and buyers, awards for admins.

    `max_amount` is the highest price and award, in whole units. `current` looks after each change of an award, so that
    this node need not wait.
    """

    def __init__(self, *, pool: Pool, max_amount: int, current: CurrentAwards) -> None:
        self._pool = pool
        self._max_amount = max_amount
        self._current = current

    async def put_item(self, item_id: str, request: PutItemRequest, who: str) -> ItemView:
        """Create or change an item and return it."""
        async with transaction(self._pool) as conn:
            await items.lock_item(conn, item_id)
            before = await items.fetch_item(conn, item_id)
            after = _item_of(item_id, request, before, self._max_amount)
            if after != before:
                await items.upsert_item(conn, after)
                views = (_item_view(before) if before else None, _item_view(after))
                await _log(conn, who, "item:put", f"item:{item_id}", *views)
        return _item_view(after)

    async def get_item(self, item_id: str) -> ItemView:
        """An item; Refusal `not_found`."""
        async with session(self._pool) as conn:
            stored = await items.fetch_item(conn, item_id)
        if stored is None:
            raise Refusal("not_found", "There is no such item.")
        return _item_view(stored)

    async def put_award(self, action: str, request: PutAwardRequest, who: str) -> AwardView:
        """Change an award and return it; what is judged from now on is paid by it."""
        async with transaction(self._pool) as conn:
            version = await change_award(conn, action, request, who=who, max_amount=self._max_amount)
        async with session(self._pool) as conn:
            await self._current.look(conn)
        return award_view(version)

    async def get_award(self, action: str) -> AwardView:
        """What an action pays now; Refusal `not_found`."""
        async with session(self._pool) as conn:
            return award_view(_known(await awards.fetch_award(conn, action)))

    async def get_award_history(self, action: str, cursor: str | None, limit: int) -> AwardHistory:
        """A page of an award's versions, newest first; the cursor is the last one's number. Refusal `not_found`."""
        before = int(cursor) if cursor is not None else NEWEST
        async with session(self._pool) as conn:
            versions = await awards.list_versions(conn, action, min(before, NEWEST), limit + 1)
            if not versions:
                _known(await awards.fetch_award(conn, action))
        page = versions[:limit]
        next_cursor = str(page[-1].version) if len(versions) > limit else None
        return AwardHistory([_version_view(version) for version in page], next_cursor)


async def change_award(
    conn: Connection, action: str, request: PutAwardRequest, *, who: str, max_amount: int
) -> AwardVersion:
    """Store a new version of an award, with its entry in the audit log; nothing where it says what holds already.

    Call it in a transaction. Refuses `not_found`, and `invalid_payload` above `max_amount` (whole units) and for a
    daily cap of what pays once for ever.
    """
    await awards.lock_awards(conn)
    before = _known(await awards.fetch_award(conn, action))
    terms = _terms_of(request, before, max_amount)
    if terms == Award(before.points, before.threshold, before.daily_cap):
        return before
    after = await awards.insert_version(
        conn, action, before.version + 1, terms.points, terms.threshold, terms.daily_cap, who
    )
    await _log(conn, who, "award:put", f"award:{action}", award_view(before), award_view(after))
    return after


def award_view(version: AwardVersion) -> AwardView:
    """A version as it is shown."""
    return AwardView(as_number(version.points), version.threshold, _shown(version.daily_cap))


def _known(version: AwardVersion | None) -> AwardVersion:
    if version is None:
        raise Refusal("not_found", "There is no award for such an action.", field="action")
    return version


def _terms_of(request: PutAwardRequest, before: AwardVersion, max_amount: int) -> Award:
    points = before.points if isinstance(request.points, UnsetType) else minor_of(request.points, "points")
    threshold = before.threshold if isinstance(request.threshold, UnsetType) else request.threshold
    daily_cap = before.daily_cap if isinstance(request.daily_cap, UnsetType) else request.daily_cap
    if points > max_amount * 10 ** DECIMALS[LYK]:
        raise Refusal("invalid_payload", f"An award is at most {max_amount}.", field="points")
    if daily_cap is not None and not can_have_cap(before.action):
        raise Refusal("invalid_payload", "This pays once for ever, so it has no cap.", field="dailyCap")
    return Award(points, threshold, daily_cap)


def _item_of(item_id: str, request: PutItemRequest, before: StoredItem | None, max_amount: int) -> StoredItem:
    name = request.name if request.name is not UNSET else before.name if before else None
    currency = request.currency if request.currency is not UNSET else before.currency if before else LYK
    price = minor_of(request.price, "price") if request.price is not UNSET else before.price if before else None
    if name is None or price is None:
        field = "name" if name is None else "price"
        raise Refusal("invalid_payload", f"`{field}` is needed to create this.", field=field)
    if currency not in DECIMALS:
        raise Refusal("invalid_payload", "There is no such currency.", field="currency")
    if price > max_amount * 10 ** DECIMALS[currency]:
        raise Refusal("invalid_payload", f"A price is at most {max_amount}.", field="price")
    return StoredItem(item_id, name, price, currency)


def _item_view(stored: StoredItem) -> ItemView:
    return ItemView(stored.id, stored.name, as_number(stored.price, DECIMALS[stored.currency]), stored.currency)


def _version_view(version: AwardVersion) -> AwardVersionView:
    return AwardVersionView(
        points=as_number(version.points),
        threshold=version.threshold,
        changed_by=version.changed_by,
        timestamp=timestamp_of(version.valid_from),
        daily_cap=_shown(version.daily_cap),
    )


def _shown(daily_cap: int | None) -> int | UnsetType:
    return UNSET if daily_cap is None else daily_cap


async def _log(conn: Connection, who: str, what: str, target: str, before: Message | None, after: Message) -> None:
    before_text = encode(before).decode() if before is not None else None
    await write_together(conn, audit_log.append([LogEntry(who, what, target, before_text, encode(after).decode())]))

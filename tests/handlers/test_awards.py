"""Items and awards as data: changed at run time, with their history, in the audit log."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import msgspec
import pytest

from handlers.awards import Award
from handlers.catalogue.current import CurrentAwards
from handlers.catalogue.handler import CatalogueHandler
from handlers.catalogue.wire import PutAwardRequest, PutItemRequest
from handlers.errors import Refusal
from handlers.wire import encode
from storage import db
from tests.support.engagements import CREATOR, FAN, Batches, asked, balances, seed


@pytest.fixture
def current() -> CurrentAwards:
    return CurrentAwards()


@pytest.fixture
def catalogue(pool: asyncpg.Pool, current: CurrentAwards) -> CatalogueHandler:
    return CatalogueHandler(pool=pool, max_amount=1000, current=current)


def award(**fields: Any) -> PutAwardRequest:
    return msgspec.json.decode(msgspec.json.encode(fields), type=PutAwardRequest)


def item(**fields: Any) -> PutItemRequest:
    return msgspec.json.decode(msgspec.json.encode(fields), type=PutItemRequest)


def shown(message: msgspec.Struct) -> Any:
    return json.loads(encode(message))


async def logged(conn: asyncpg.Connection) -> list[tuple[Any, ...]]:
    rows = await conn.fetch("SELECT who, what, target, before, after FROM audit_log ORDER BY id")
    return [(*row[:3], *(json.loads(text) if text else None for text in row[3:])) for row in rows]


# -- awards ------------------------------------------------------------------------------------------------------------


async def test_awards_come_as_the_spec_has_them(catalogue: CatalogueHandler) -> None:
    expected = {
        "video_liked": {"points": 1, "threshold": 100}, "video_viewed": {"points": 1, "threshold": 100},
        "video_shared": {"points": 2, "threshold": 100},
        "comment_posted": {"points": 2, "threshold": 100, "dailyCap": 5},
        "video_uploaded": {"points": 5, "threshold": 1000}, "like_received": {"points": 1, "threshold": 1000},
        "view_received": {"points": 0.1, "threshold": 1000}, "share_received": {"points": 1, "threshold": 1000},
    }  # fmt: skip
    assert {action: shown(await catalogue.get_award(action)) for action in expected} == expected


async def test_a_change_is_in_force_in_the_history_and_in_the_log(
    catalogue: CatalogueHandler, conn: asyncpg.Connection
) -> None:
    changed = await catalogue.put_award("video_liked", award(points=1.25, threshold=50), "ops")
    assert shown(changed) == shown(await catalogue.get_award("video_liked")) == {"points": 1.25, "threshold": 50}
    page = shown(await catalogue.get_award_history("video_liked", None, 50))
    newest, first = page["history"]
    assert page["nextCursor"] is None
    assert newest == {"points": 1.25, "threshold": 50, "changedBy": "ops", "timestamp": newest["timestamp"]}
    assert first == {"points": 1, "threshold": 100, "changedBy": None, "timestamp": first["timestamp"]}
    assert newest["timestamp"] > first["timestamp"]
    assert await logged(conn) == [
        ("ops", "award:put", "award:video_liked", {"points": 1, "threshold": 100}, {"points": 1.25, "threshold": 50})
    ]


async def test_what_is_left_out_stays_and_null_lifts_the_cap(catalogue: CatalogueHandler) -> None:
    steps = [
        (award(points=3), {"points": 3, "threshold": 100, "dailyCap": 5}),
        (award(dailyCap=7), {"points": 3, "threshold": 100, "dailyCap": 7}),
        (award(threshold=0), {"points": 3, "threshold": 0, "dailyCap": 7}),
        (award(dailyCap=None), {"points": 3, "threshold": 0}),
        (award(points=0), {"points": 0, "threshold": 0}),
    ]
    for request, expected in steps:
        assert shown(await catalogue.put_award("comment_posted", request, "ops")) == expected


async def test_saying_what_holds_already_changes_nothing(catalogue: CatalogueHandler, conn: asyncpg.Connection) -> None:
    for request in (award(), award(points=1, threshold=100), award(dailyCap=None)):
        assert shown(await catalogue.put_award("video_liked", request, "ops")) == {"points": 1, "threshold": 100}
    assert await logged(conn) == []
    assert len((await catalogue.get_award_history("video_liked", None, 50)).history) == 1


async def test_history_comes_in_pages(catalogue: CatalogueHandler) -> None:
    for points in range(2, 7):
        await catalogue.put_award("video_liked", award(points=points), "ops")
    seen: list[int] = []
    cursor: str | None = None
    while True:
        page = shown(await catalogue.get_award_history("video_liked", cursor, 2))
        seen += [row["points"] for row in page["history"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert seen == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("action", "fields", "code", "field"),
    [
        ("video_watched", {"points": 1}, "not_found", "action"),
        ("video_liked", {"points": 1000.01}, "invalid_payload", "points"),
        ("video_liked", {"dailyCap": 5}, "invalid_payload", "dailyCap"),
    ],
)
async def test_what_can_t_be_set_is_refused(
    catalogue: CatalogueHandler, conn: asyncpg.Connection, action: str, fields: Any, code: str, field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await catalogue.put_award(action, award(**fields), "ops")
    assert (refused.value.code, refused.value.field) == (code, field)
    assert await logged(conn) == []


@pytest.mark.parametrize("ask", ["get_award", "get_award_history"])
async def test_an_unknown_action_is_not_found(catalogue: CatalogueHandler, ask: str) -> None:
    with pytest.raises(Refusal) as refused:
        await getattr(catalogue, ask)("video_watched", *([None, 50] if ask == "get_award_history" else []))
    assert refused.value.code == "not_found"


@pytest.mark.parametrize(
    "fields",
    [
        {"points": "1"}, {"points": -0.01}, {"points": 0.001}, {"points": None}, {"threshold": -1}, {"threshold": 1.5},
        {"dailyCap": -1}, {"dailyCap": "5"}, {"cap": 5},
    ],
)  # fmt: skip
def test_what_is_no_award_is_named(fields: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(fields))):
        award(**fields)


async def test_changes_at_once_each_get_a_version(catalogue: CatalogueHandler) -> None:
    await asyncio.gather(
        *(catalogue.put_award("video_liked", award(points=points), f"ops-{points}") for points in range(2, 10))
    )
    history = (await catalogue.get_award_history("video_liked", None, 50)).history
    assert sorted(int(row.points) for row in history) == list(range(1, 10))
    for row in history[:-1]:
        assert row.changed_by == f"ops-{row.points}"


async def test_a_node_takes_over_what_changed_elsewhere(
    catalogue: CatalogueHandler, current: CurrentAwards, conn: asyncpg.Connection
) -> None:
    other_node = CurrentAwards()
    await other_node.look(conn)
    assert other_node.in_force["video_liked"] == Award(100, 100)
    before = other_node.in_force
    await other_node.look(conn)
    assert other_node.in_force is before, "a look that finds nothing new reads one number"
    await catalogue.put_award("comment_posted", award(points=3, dailyCap=1), "ops")
    assert current.in_force["comment_posted"] == Award(300, 100, 1), "here at once"
    await other_node.look(conn)
    assert other_node.in_force == current.in_force
    assert before["comment_posted"] == Award(200, 100, 5), "what a batch was judged by does not change under it"


async def test_actions_judged_afterwards_are_paid_by_the_change(
    catalogue: CatalogueHandler, current: CurrentAwards, conn: asyncpg.Connection
) -> None:
    await seed(conn)
    await current.look(conn)
    await Batches(conn, current.in_force).data(asked(FAN, "video:like"))
    await catalogue.put_award("video_liked", award(points=0.25), "ops")
    await Batches(conn, current.in_force).data(asked(FAN + 1, "video:like"), asked(FAN, "video:like", "b"))
    assert await balances(conn) == {FAN: 125, FAN + 1: 25, CREATOR: 200}
    await catalogue.put_award("video_liked", award(threshold=101), "ops")
    [data] = await Batches(conn, current.in_force).data(asked(FAN + 2, "video:like"))
    assert data["reason"] == "not_eligible"


# -- items -------------------------------------------------------------------------------------------------------------


async def test_an_item_from_put_to_get(catalogue: CatalogueHandler, conn: asyncpg.Connection) -> None:
    created = shown(await catalogue.put_item("rose", item(name="A rose", price=2.5, currency="LYK"), "shop"))
    assert created == {"itemId": "rose", "name": "A rose", "price": 2.5, "currency": "LYK"}
    dearer = shown(await catalogue.put_item("rose", item(price=2.99), "shop"))
    assert dearer == shown(await catalogue.get_item("rose")) == {**created, "price": 2.99}
    await catalogue.put_item("rose", item(name="A rose"), "shop")
    assert await logged(conn) == [
        ("shop", "item:put", "item:rose", None, created),
        ("shop", "item:put", "item:rose", created, dearer),
    ]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "A rose"}, "price"),
        ({"price": 1}, "name"),
        ({"name": "A rose", "price": 1, "currency": "XYZ"}, "currency"),
        ({"name": "A rose", "price": 1000.01}, "price"),
    ],
)
async def test_an_item_that_can_t_be_is_refused(
    catalogue: CatalogueHandler, conn: asyncpg.Connection, fields: Any, field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await catalogue.put_item("rose", item(**fields), "shop")
    assert (refused.value.code, refused.value.field) == ("invalid_payload", field)
    with pytest.raises(Refusal) as missing:
        await catalogue.get_item("rose")
    assert missing.value.code == "not_found"
    assert await logged(conn) == []


async def test_an_item_created_at_once_is_one(catalogue: CatalogueHandler, conn: asyncpg.Connection) -> None:
    await asyncio.gather(*(catalogue.put_item("rose", item(name="A rose", price=price), "shop") for price in (1, 2, 3)))
    entries = await logged(conn)
    assert [before for *_, before, _ in entries] == [None, *(after for *_, after in entries[:-1])]


async def test_the_log_and_the_change_are_one(catalogue: CatalogueHandler, dsn: str, conn: asyncpg.Connection) -> None:
    """Where the log can't be written, nothing is changed."""
    other = await db.connect(dsn)
    await other.execute("ALTER TABLE audit_log ADD CHECK (who <> 'nobody')")
    await other.close()
    for change in (
        catalogue.put_item("rose", item(name="A rose", price=1), "nobody"),
        catalogue.put_award("video_liked", award(points=9), "nobody"),
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await change
    assert await conn.fetchval("SELECT count(*) FROM items") == 0
    assert shown(await catalogue.get_award("video_liked"))["points"] == 1

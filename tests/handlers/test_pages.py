"""Envelopes: the same whether live, alone or in a page of thousands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.pages import Wanted
from handlers.inbox import envelope
from handlers.inbox.envelope import render, render_pages, timestamp_of
from handlers.inbox.pages import InboxPages
from storage import inbox, ledger
from storage.broadcasts import Body
from storage.inbox import Event, SharedEvent, StoredEvent
from storage.ledger import ISSUANCE, Entry
from storage.statement import write_together
from storage.users import insert_unknown_users
from tests.support.shared import insert_body, refer

NOW = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
BODY = Body("e1", "news", None, '{"count": 1.10}', NOW)


def entry(user_id: int, seq: int) -> Entry:
    return Entry(user_id, seq, "LYK", 1, uuid4(), "refund", 1, 0, 1, ISSUANCE, None, "{}", NOW)


@given(
    moment=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 - the zone follows
    zone=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=11))]),
    whole=st.booleans(),
)
def test_a_timestamp_has_milliseconds_and_is_utc(moment: datetime, zone: timezone, whole: bool) -> None:
    moment = moment.replace(tzinfo=zone, microsecond=0 if whole else moment.microsecond)
    expected = moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    assert timestamp_of(moment) == f"{expected}Z"


def test_pages_are_rendered_as_each_event_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Body] = []

    def encode(body: Body) -> envelope.Parts:
        encoded.append(body)
        return parts_of(body)

    parts_of = envelope._parts_of
    monkeypatch.setattr(envelope, "_parts_of", encode)
    own = StoredEvent(1, 3, uuid4(), "video_like", "a:b", '{"n": 1.10}', NOW)
    pages: list[list[Event] | None] = [
        [SharedEvent(1, 2, BODY), own, entry(1, 4)],
        None,
        [],
        [SharedEvent(2, 7, BODY), SharedEvent(2, 8, BODY._replace(id="e2", event_type="c:d"))],
    ]
    assert render_pages(pages) == [page and [(event.seq, render(event)) for event in page] for page in pages]
    assert [body.id for body in encoded] == ["e1", "e2"], "what many share is encoded once"


async def test_what_is_read_is_what_is_stored(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await insert_unknown_users(conn, [1, 2], [None, None])
    broadcast_id = await insert_body(conn, BODY, [1, 2], applied=2)
    shared = [SharedEvent(1, 1, BODY), SharedEvent(2, 1, BODY)]
    await write_together(conn, refer(shared, broadcast_id))
    own, paid = StoredEvent(1, 2, uuid4(), "video_like", None, "{}", NOW), entry(1, 3)
    await write_together(conn, [*ledger.post([paid]), *inbox.append([own], {1: 3})])

    read = InboxPages(pool=pool).read
    assert await read([Wanted(2, 0, 1), Wanted(1, 0, 3), Wanted(1, 3, 3)], 500) == [
        [(1, render(shared[1]))],
        [(1, render(shared[0])), (2, render(own)), (3, render(paid))],
        [],
    ]
    assert await read([Wanted(1, 1, 3)], 1) == [[(2, render(own))]]

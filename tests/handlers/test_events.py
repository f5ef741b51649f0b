"""Events of backends for users: each known recipient has it once, under their own seq, whatever comes in between."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.deed import Delivered
from handlers.errors import Refusal
from handlers.events.applier import Applier
from handlers.events.request import MAX_EVENT_BYTES, checked
from handlers.events.rows import events_for
from handlers.events.wire import PublishAnswer, PublishRequest
from handlers.inbox import envelope
from handlers.inbox.envelope import render
from handlers.inbox.handler import InboxHandler
from handlers.inbox.wire import FetchRequest
from storage import db, heads, users
from storage.audit import audit
from storage.broadcasts import Body
from tests.support.engagements import FAN, Batches, asked, awards_of, seed
from tests.support.publishing import Desk

UNKNOWN: Final = 404
EARLIER: Final = "2025-12-23T14:00:00.123456+02:00"
_ids = itertools.count(1)


class Told:
    """Remembers what was published, and renders it as the publisher would."""

    def __init__(self) -> None:
        self.envelopes: dict[int, list[Any]] = {}
        self.ephemeral: list[tuple[list[int], Any]] = []
        self.woken = 0

    def events(self, events: Sequence[Delivered]) -> None:
        for event in events:
            rendered = json.loads(render(event.row))
            assert rendered["seq"] == event.seq
            self.envelopes.setdefault(event.user_id, []).append(rendered)

    def topic(self, topic: str, envelope: bytes) -> None:
        raise AssertionError("this is for users")

    def users(self, user_ids: Sequence[int], envelope: bytes) -> None:
        self.ephemeral.append((list(user_ids), json.loads(envelope)))

    def wake(self) -> None:
        self.woken += 1


def handler_on(pool: asyncpg.Pool, told: Told, **limits: int) -> Desk:
    return Desk(pool, told, wake=told.wake, **limits)


def event(*recipients: int, **fields: Any) -> PublishRequest:
    given = {"id": f"e{next(_ids)}", "type": "profile_followed", "recipientIds": recipients, "data": {"n": 1}, **fields}
    return msgspec.json.decode(json.dumps({k: v for k, v in given.items() if v is not ...}), type=PublishRequest)


async def people(conn: asyncpg.Connection, count: int) -> list[int]:
    """So many users, from 1 on."""
    ids = list(range(1, count + 1))
    await users.insert_unknown_users(conn, ids, [None] * count)
    return ids


async def inbox_of(pool: asyncpg.Pool, user_id: int) -> list[Any]:
    async def nowhere(_: int) -> list[tuple[str, str]]:
        return []

    page = await InboxHandler(pool=pool, connections_of=nowhere).fetch(user_id, FetchRequest(0, 500))
    assert page.complete
    events = [json.loads(bytes(each)) for each in page.events]
    assert [each["seq"] for each in events] == list(range(1, page.seq + 1))
    return events


async def until_applied(conn: asyncpg.Connection, told: Told, chunk: int = 500) -> int:
    """Apply all that waits; the number of chunks."""
    applier, chunks = Applier(chunk_recipients=chunk), 0
    while (events := await applier.apply(conn)) is not None:
        told.events(events)
        chunks += 1
    return chunks


# -- up to a chunk: stored when it is answered -------------------------------------------------------


async def test_it_is_in_each_inbox_and_told_as_it_is_read_later(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await people(conn, 3)
    told = Told()
    handler = handler_on(pool, told)
    data = {"actorId": 7, "text": 'é "quoted" \\ 👍', "list": [1, 2.5, None], "deep": {"a": True}}
    first = event(1, 3, data=data, timestamp=EARLIER)
    assert await handler.publish_event("feed", first) == PublishAnswer(2, 0)
    assert await handler.publish_event("feed", event(2, 3, type="x", eventType="y:z")) == PublishAnswer(2, 0)
    assert await inbox_of(pool, 1) == told.envelopes[1] == [
        {
            "id": first.id, "seq": 1, "type": "profile_followed", "eventType": "notification:profile_followed",
            "recipientIds": [1], "data": data, "timestamp": "2025-12-23T12:00:00.123Z",
        }
    ]  # fmt: skip
    assert await inbox_of(pool, 2) == told.envelopes[2]
    assert await inbox_of(pool, 3) == told.envelopes[3]
    assert [(each["eventType"], each["recipientIds"]) for each in told.envelopes[3]] == [
        ("notification:profile_followed", [3]), ("y:z", [3]),
    ]  # fmt: skip
    assert await audit(conn) == []


@pytest.mark.parametrize(
    "type_", ["profile_followed", "video_comment", "video_like", "follow_request", "live_stream_started", "a:B.c_d-1"]
)
async def test_any_type_passes_through(conn: asyncpg.Connection, pool: asyncpg.Pool, type_: str) -> None:
    await people(conn, 1)
    await handler_on(pool, Told()).publish_event("feed", event(1, type=type_, data={}))
    [event_] = await inbox_of(pool, 1)
    assert (event_["type"], event_["eventType"], event_["data"]) == (type_, f"notification:{type_}", {})


async def test_the_body_is_stored_once_for_all(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    everybody = await people(conn, 500)
    told = Told()
    answer = await handler_on(pool, told).publish_event("feed", event(*everybody, data={"text": "x" * 60_000}))
    assert answer == PublishAnswer(500, 0)
    assert await conn.fetchval("SELECT count(*) FROM broadcasts") == 1
    assert await conn.fetchval("SELECT sum(pg_column_size(i.*)) < 100000 FROM inbox i")
    assert len(told.envelopes) == 500
    assert told.woken == 0
    assert await audit(conn) == []


async def test_unknown_recipients_are_skipped_and_repeated_ones_count_once(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await people(conn, 2)
    told = Told()
    handler = handler_on(pool, told)
    request = event(2, UNKNOWN, 1, 2, UNKNOWN, 2)
    assert await handler.publish_event("feed", request) == PublishAnswer(2, 1)
    assert sorted(told.envelopes) == [1, 2]
    await users.insert_unknown_users(conn, [UNKNOWN], [None])
    assert await handler.publish_event("feed", request) == PublishAnswer(2, 1), "as it was answered then"
    assert await inbox_of(pool, UNKNOWN) == []
    assert await handler.publish_event("feed", event(405, 406)) == PublishAnswer(0, 2)
    assert await conn.fetchval("SELECT count(*) FROM inbox") == 2, "for nobody nothing is stored"
    assert await audit(conn) == []


async def test_the_same_again_changes_nothing_and_another_body_is_refused(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await people(conn, 3)
    told = Told()
    handler = handler_on(pool, told)
    fields: dict[str, Any] = {"id": "once", "data": {"a": 1, "b": 2}}
    same = [event(1, 2, **fields), event(2, 1, 2, **fields), event(1, 2, source="feed", **fields)]
    answers = await asyncio.gather(*(handler.publish_event("feed", request) for request in same * 4))
    assert set(map(str, answers)) == {str(PublishAnswer(2, 0))}
    others: list[PublishRequest] = [
        event(1, 2, 3, **fields), event(1, **fields), event(1, 2, ephemeral=True, **fields),
        event(1, 2, id="once"), event(1, 2, type="x", **fields), event(1, 2, eventType="x", **fields),
        event(1, 2, timestamp=EARLIER, **fields), event(recipientIds=..., topic="live:a", **fields),
    ]  # fmt: skip
    for other in others:
        with pytest.raises(Refusal) as refused:
            await handler.publish_event("feed", other)
        assert refused.value.code == "idempotency_conflict"
    assert [len(await inbox_of(pool, user)) for user in (1, 2, 3)] == [1, 1, 0]
    await handler.publish_event("another", event(1, 2, **fields))
    assert {user: len(events) for user, events in told.envelopes.items()} == {1: 2, 2: 2}
    assert told.ephemeral == []
    assert await audit(conn) == []


async def test_it_takes_its_place_among_the_likes(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    """Awards, notifications and backends' events are one gapless sequence, with everybody at it at once."""
    await seed(conn)
    told = Told()
    handler = handler_on(pool, told)
    batches = Batches(conn, await awards_of(conn))

    async def like() -> None:
        for video in ("a", "b", "c", "s"):
            await batches.data(*(asked(FAN + each, "video:like", video) for each in range(3)))

    publishing = (handler.publish_event("feed", event(FAN, FAN + 1, FAN + 2, 1)) for _ in range(20))
    await asyncio.gather(like(), *publishing)
    for user in (FAN, FAN + 1, FAN + 2):
        assert [each["type"] for each in await inbox_of(pool, user)].count("points_earned") == 4
        assert [each["type"] for each in await inbox_of(pool, user)].count("profile_followed") == 20
    assert await audit(conn) == []


async def test_held_recipients_are_unavailable_and_nothing_is_stored(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await people(conn, 2)
    handler = handler_on(pool, Told())
    request = event(1, 2)
    async with conn.transaction():
        await heads.lock(conn, [2])
        with pytest.raises(Refusal) as refused:
            await handler.publish_event("feed", request)
    assert (refused.value.code, refused.value.outcome) == ("unavailable", None)
    assert await inbox_of(pool, 1) == []
    assert await handler.publish_event("feed", request) == PublishAnswer(2, 0)
    assert await audit(conn) == []


def test_a_body_is_encoded_once_for_all_its_readers() -> None:
    body = Body("e1", "news", None, '{"text":"é"}', datetime(2026, 1, 2, tzinfo=UTC))
    before = envelope._shared.cache_info().misses
    rendered = [json.loads(render(each)) for each in events_for(body, range(1, 1001), dict.fromkeys(range(1, 1001), 4))]
    assert envelope._shared.cache_info().misses == before + 1
    assert {(each["seq"], *each["recipientIds"]) for each in rendered} == {(5, user) for user in range(1, 1001)}
    assert rendered[0] == {
        "id": "e1", "seq": 5, "type": "news", "eventType": "notification:news", "recipientIds": [1],
        "data": {"text": "é"}, "timestamp": "2026-01-02T00:00:00.000Z",
    }  # fmt: skip


# -- many in one batch -------------------------------------------------------------------------------


class Kept:
    """What should have come of all events so far, one after the other."""

    def __init__(self, known: int) -> None:
        self.taken: dict[str, tuple[Any, PublishAnswer]] = {}
        self.inboxes: dict[int, list[str]] = {user: [] for user in range(1, known + 1)}
        self.cues: list[str] = []

    def take(self, key: str, recipients: list[int], kind: str, n: int) -> PublishAnswer | str:
        said = (sorted(set(recipients)), kind, n)
        if key in self.taken:
            before, answer = self.taken[key]
            return answer if before == said else "idempotency_conflict"
        known = sorted(set(recipients) & self.inboxes.keys())
        answer = PublishAnswer(len(known), len(set(recipients)) - len(known))
        self.taken[key] = said, answer
        if kind == "cue":
            self.cues.append(key)
        else:
            for user in known:
                self.inboxes[user].append(key)
        return answer


one_event = st.tuples(
    st.sampled_from("abcdef"),
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.sampled_from(["kept", "kept", "cue"]),
    st.integers(0, 1),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(one_event, min_size=1, max_size=6), min_size=1, max_size=4))
async def test_a_batch_is_as_one_event_after_the_other(
    conn: asyncpg.Connection, pool: asyncpg.Pool, batches: list[list[tuple[str, list[int], str, int]]]
) -> None:
    """Of the same key in one batch the first counts; each recipient's events stand in the order of the batch."""
    source = f"feed {next(_ids)}"
    await conn.execute("TRUNCATE users, heads, accounts, inbox, broadcasts, ingested_events")
    await people(conn, 4)
    told, model = Told(), Kept(4)
    desk = handler_on(pool, told, chunk_recipients=3)
    for batch in batches:
        requests = [
            event(*who, id=key, data={"n": n}, **({"ephemeral": True} if kind == "cue" else {}))
            for key, who, kind, n in batch
        ]
        answers = await desk.publish_together(*(checked(source, request, desk.limits) for request in requests))
        expected = [model.take(*each) for each in batch]
        assert [readable_answer(each) for each in answers] == expected
        await until_applied(conn, told)
    for user, keys in model.inboxes.items():
        found = await inbox_of(pool, user)
        assert told.envelopes.get(user, []) == found
        assert sorted(each["id"] for each in found) == sorted(keys)
        at_once = [key for key in keys if len(model.taken[key][0][0]) <= 3]
        assert [each["id"] for each in found if each["id"] in at_once] == at_once
    assert [each["id"] for _, each in told.ephemeral] == model.cues
    assert await audit(conn) == []


def readable_answer(outcome: bytes | Refusal) -> PublishAnswer | str:
    if isinstance(outcome, Refusal):
        return outcome.code
    return PublishAnswer(**msgspec.json.decode(outcome)["data"])


# -- refusals ----------------------------------------------------------------------------------------

REFUSED: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({"recipientIds": ...}, "invalid_payload", "topic"),
    ({"topic": "live:a"}, "invalid_payload", "recipientIds"),
    ({"type": "points_earned"}, "invalid_payload", "type"),
    ({"type": "points_deducted"}, "invalid_payload", "type"),
    ({"type": "wallet_update", "eventType": "notification:x"}, "invalid_payload", "type"),
    ({"type": "message_preview"}, "invalid_payload", "type"),
    ({"type": "typing_indicator", "ephemeral": True}, "invalid_payload", "type"),
    ({"eventType": "wallet:points:earned"}, "invalid_payload", "eventType"),
    ({"eventType": "chat:message:sent"}, "invalid_payload", "eventType"),
    ({"recipientIds": [1, 2, 3, 4]}, "payload_too_large", "recipientIds"),
    ({"data": {"a": "x" * MAX_EVENT_BYTES}}, "payload_too_large", "data"),
    ({"data": {"a": "x\0y"}}, "invalid_payload", "data"),
    ({"timestamp": "9999-12-31T23:00:00-23:00"}, "invalid_payload", "timestamp"),
]


async def test_refusals_leave_no_trace(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await people(conn, 4)
    told = Told()
    handler = handler_on(pool, told, max_recipients=3)
    for fields, code, field in REFUSED:
        with pytest.raises(Refusal) as refused:
            await handler.publish_event("feed", event(**{"id": "e", "recipientIds": [1], **fields}))
        assert (refused.value.code, refused.value.field) == (code, field), fields
    assert await handler.publish_event("feed", event(1, 2, 1, 2, 3, id="e")) == PublishAnswer(3, 0)
    assert await conn.fetchval("SELECT count(*) FROM ingested_events") == 1


@pytest.mark.parametrize("recipients", [[], [0], ["1"], [2**53], [1.5], 7, None], ids=str)
def test_recipients_are_ids(recipients: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.recipientIds"):
        event(recipientIds=recipients)


# -- ephemeral ---------------------------------------------------------------------------------------


async def test_an_ephemeral_event_is_told_once_and_kept_by_nobody(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    everybody = await people(conn, 3)
    told = Told()
    handler = handler_on(pool, told, chunk_recipients=1)
    request = event(3, UNKNOWN, 1, 3, type="cue", ephemeral=True, timestamp=EARLIER)
    for _ in range(2):
        answer = await handler.publish_event("feed", request)
        assert answer == PublishAnswer(2, 1), "also above a chunk: nothing is stored"
    assert told.ephemeral == [
        (
            [1, 3],
            {
                "id": request.id, "seq": None, "type": "cue", "eventType": "notification:cue", "recipientIds": [],
                "data": {"n": 1}, "timestamp": "2025-12-23T12:00:00.123Z",
            },
        )
    ]  # fmt: skip
    assert [await inbox_of(pool, user) for user in everybody] == [[], [], []]
    assert (told.envelopes, told.woken) == ({}, 0)
    assert await conn.fetchval("SELECT count(*) FROM broadcasts") == 0


# -- above a chunk: the applier ----------------------------------------------------------------------


async def test_ten_thousand_are_accepted_and_reached_chunk_by_chunk(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    everybody = await people(conn, 9_998)
    told = Told()
    handler = handler_on(pool, told)
    request = event(*everybody, 20_000, 20_001, data={"text": "x" * 60_000})
    answer = await handler.publish_event("feed", request)
    assert (answer, told.woken) == (PublishAnswer(9_998, 2), 1)
    assert await conn.fetchval("SELECT count(*) FROM inbox") == 0
    assert await audit(conn) == []
    assert await until_applied(conn, told) == 20
    assert {user: len(events) for user, events in told.envelopes.items()} == dict.fromkeys(everybody, 1)
    assert await inbox_of(pool, 9_998) == told.envelopes[9_998]
    again = await handler.publish_event("feed", request)
    assert (again, told.woken) == (answer, 1)
    assert await until_applied(conn, told) == 0
    with pytest.raises(Refusal) as refused:
        await handler.publish_event("feed", event(*range(1, 10_002)))
    assert refused.value.code == "payload_too_large"
    assert await audit(conn) == []


async def test_who_has_gone_meanwhile_is_passed_over(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    everybody = await people(conn, 5)
    told = Told()
    await handler_on(pool, told, chunk_recipients=2).publish_event("feed", event(*everybody))
    await conn.execute("DELETE FROM heads WHERE user_id IN (1, 2, 5)")
    assert await until_applied(conn, told, chunk=2) == 3
    assert sorted(told.envelopes) == [3, 4]


async def test_one_whom_somebody_holds_keeps_the_chunk_waiting_and_loses_nothing(
    conn: asyncpg.Connection, pool: asyncpg.Pool, dsn: str
) -> None:
    await people(conn, 4)
    told = Told()
    await handler_on(pool, told, chunk_recipients=2).publish_event("feed", event(1, 2, 3, 4))
    other = await db.connect(dsn)
    async with other.transaction():
        await heads.lock(other, [4])
        with pytest.raises(asyncpg.LockNotAvailableError):
            await until_applied(conn, told, chunk=2)
    assert sorted(told.envelopes) == [1, 2]
    assert await until_applied(conn, told, chunk=2) == 1
    assert {user: len(events) for user, events in told.envelopes.items()} == dict.fromkeys((1, 2, 3, 4), 1)
    await other.close()


steps = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["begin", "commit", "die"])), max_size=30)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(2, 9), min_size=1, max_size=3), chunk=st.integers(1, 4), script=steps)
async def test_whatever_dies_between_two_nodes_each_recipient_has_it_once(
    conn: asyncpg.Connection, pool: asyncpg.Pool, dsn: str, sizes: list[int], chunk: int, script: list[tuple[str, str]]
) -> None:
    """Two appliers on sessions of their own begin, commit and die in any order; then both come back at once."""
    await people(conn, 29)
    told = Told()
    expected = {user: len(await inbox_of(pool, user)) for user in range(1, 30)}
    for number, size in enumerate(sizes):  # nobody twice, or one node would have to wait for the other
        recipients = range(10 * number + 1, 10 * number + 1 + size)
        await handler_on(pool, told, chunk_recipients=1).publish_event("feed", event(*recipients))
        expected |= {user: expected[user] + 1 for user in recipients}
    nodes = {name: await db.connect(dsn) for name in "ab"}
    running: dict[str, Any] = {}
    applier = Applier(chunk_recipients=chunk)
    for name, deed in script:
        if deed == "begin" and name not in running:
            running[name] = nodes[name].transaction()
            await running[name].start()
            await applier.apply(nodes[name])
        elif deed != "begin" and name in running:
            transaction = running.pop(name)
            await (transaction.commit() if deed == "commit" else transaction.rollback())
    for name in running:
        nodes[name].terminate()
        nodes[name] = await db.connect(dsn)
    assert await audit(conn) == [], "also in the middle of it"

    async def finish(node: asyncpg.Connection) -> None:
        while await applier.apply(node) is not None:
            pass

    await asyncio.gather(*(finish(node) for node in nodes.values()))
    assert {user: len(await inbox_of(pool, user)) for user in range(1, 30)} == expected
    assert await conn.fetchval("SELECT bool_and(done_at IS NOT NULL) FROM broadcasts")
    for node in nodes.values():
        await node.close()
    assert await audit(conn) == []

"""What is pushed, and in which words: by table, and against a naive reading of the spec."""

from __future__ import annotations

import json
from typing import Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from handlers.push.rules import (
    BODY_CHARACTERS,
    MESSAGE,
    TITLE_CHARACTERS,
    News,
    Push,
    Standing,
    arrived,
    message_of,
    pushes,
)


def news(seq: int, type_: str, **data: Any) -> News:
    return News(seq, f"id-{seq}", type_, "chat:message:sent" if type_ == MESSAGE else None, data)


def message(seq: int, conversation: str, number: int, text: str = "hi") -> News:
    return news(seq, MESSAGE, conversationId=conversation, number=number, lastMessage=text, senderUsername="ana")


@pytest.mark.parametrize(
    ("connected", "acked", "expected"),
    [
        ([""], {}, 9),
        (["web"], {}, 9),
        (["web"], {"phone": 3}, 9),
        (["phone"], {"phone": 3}, 3),
        (["phone", "web"], {"phone": 3}, 9),
        (["phone", "tablet"], {"phone": 3, "tablet": 5}, 5),
        (["phone"], {"phone": 9}, 9),
    ],
)
def test_live_is_arrived_unless_all_connected_devices_confirm(
    connected: list[str], acked: dict[str, int], expected: int
) -> None:
    assert arrived(9, connected, acked) == expected


@pytest.mark.parametrize(
    ("type_", "data", "title", "body"),
    [
        ("video_like", {"actorUsername": "ana", "count": 1}, "New like", "ana liked your video"),
        ("video_like", {"actorUsername": "ana", "count": 2}, "New likes", "ana and 1 other liked your video"),
        ("video_like", {"actorUsername": "ana", "count": 30}, "New likes", "ana and 29 others liked your video"),
        ("video_like", {"actorUsername": None, "count": True}, "New like", "Somebody liked your video"),
        ("video_share", {"actorUsername": "ana", "count": 3}, "New shares", "ana and 2 others shared your video"),
        ("video_comment", {"actorUsername": "ana", "text": "wow"}, "ana commented on your video", "wow"),
        ("profile_followed", {"actorUsername": "ana"}, "New follower", "ana follows you"),
        ("follow_request", {"actorUsername": "ana"}, "Follow request", "ana would like to follow you"),
        ("live_stream_started", {}, "Live now", "Somebody is live"),
        ("live_stream_started", {"title": "Now!", "body": "ana sings"}, "Now!", "ana sings"),
        ("an_apps_own", {"title": "Sale", "body": "Half price"}, "Sale", "Half price"),
        ("an_apps_own", {"title": "Sale", "body": 5}, None, None),
        ("an_apps_own", {"title": "", "body": "x"}, None, None),
    ],
)
def test_words(type_: str, data: dict[str, Any], title: str | None, body: str | None) -> None:
    [push] = pushes([news(1, type_, **data)], 0, 0, {}, 20)
    assert (push.title, push.body) == (title, body)
    assert push.data == {"id": "id-1", "seq": "1", "type": type_, "eventType": f"notification:{type_}"}


def test_words_of_a_message() -> None:
    pair, group = Standing(0, 3, None), Standing(0, 1, "Weekend")
    told = pushes([message(1, "a", 1), message(2, "b", 1)], 0, 0, {"a": pair, "b": group}, 20)
    assert [(push.title, push.body, push.unread) for push in told] == [("ana", "hi", 3), ("Weekend", "ana: hi", 1)]
    assert [(push.collapse, push.thread) for push in told] == [("chat:a", "chat:a"), ("chat:b", "chat:b")]


def test_what_an_app_needs_is_given_and_all_of_it_is_text() -> None:
    [push] = pushes(
        [news(1, "video_comment", videoId="v", commentId="c", actorId=7, secret="x", text="t")], 0, 0, {}, 9
    )
    assert {name: push.data[name] for name in ("videoId", "commentId", "actorId")} == {
        "videoId": "v", "commentId": "c", "actorId": "7",
    }  # fmt: skip
    assert "secret" not in push.data
    [odd] = pushes([news(1, "x", videoId=["v"], actorId=True, commentId="c" * 65)], 0, 0, {}, 9)
    assert odd.data.keys() == {"id", "seq", "type", "eventType"}


SHOWN = Push(5, "ana", "hi", {"seq": "5"}, "chat:c", "chat:c", 2)


@pytest.mark.parametrize(
    ("push", "platform", "expected"),
    [
        (
            SHOWN,
            "android",
            {"android": {"priority": "HIGH", "ttl": "60s", "collapse_key": "chat:c",
                         "notification": {"tag": "chat:c", "notification_count": 2}}},
        ),
        (
            SHOWN,
            "ios",
            {"apns": {"headers": {"apns-priority": "10", "apns-collapse-id": "chat:c"},
                      "payload": {"aps": {"thread-id": "chat:c", "sound": "default"}}}},
        ),
        (
            SHOWN,
            "web",
            {"webpush": {"headers": {"TTL": "60", "Urgency": "high"}, "notification": {"tag": "chat:c"}}},
        ),
        (SHOWN._replace(collapse=None, unread=None), "android", {"android": {"priority": "HIGH", "ttl": "60s"}}),
    ],
)  # fmt: skip
def test_a_message_has_the_shape_of_fcms(push: Push, platform: str, expected: dict[str, Any]) -> None:
    common = {"token": "t", "data": {"seq": "5"}, "notification": {"title": "ana", "body": "hi"}}
    assert message_of(push, "t", platform, 60) == common | expected


@pytest.mark.parametrize("platform", ["android", "ios", "web"])
def test_what_has_no_words_shows_nothing(platform: str) -> None:
    silent = message_of(Push(5, None, None, {}, "own"), "t", platform, 60)
    assert "notification" not in silent
    assert "notification" not in silent.get("android", {})
    assert "notification" not in silent.get("webpush", {})
    if platform == "ios":
        assert silent["apns"]["payload"]["aps"] == {"thread-id": "own", "content-available": 1}
        assert silent["apns"]["headers"] == {"apns-priority": "5"}


@given(st.text(), st.text())
def test_texts_are_bounded_and_of_whole_characters(title: str, body: str) -> None:
    for push in pushes([news(1, "own", title=title, body=body)], 0, 0, {}, 1):
        for shown, whole, most in ((push.title, title, TITLE_CHARACTERS), (push.body, body, BODY_CHARACTERS)):
            if shown is not None:
                clusters = regex.findall(r"\X", whole)
                assert len(regex.findall(r"\X", shown)) <= most
                assert shown == whole or shown == "".join(clusters[: most - 1]) + "…"


@given(st.text(alphabet=["a", "\u0301", "👍", "🏽", "\u200d", "\r", "\n"], min_size=200, max_size=900))
def test_however_long_their_characters_are(text: str) -> None:
    [push] = pushes([news(1, "own", title=text, body=text)], 0, 0, {}, 1)
    assert len(json.dumps(push.title)) < 8_000
    assert len(push.title or "") <= 501


EVENTS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "", "gone"]), st.integers(1, 9)), max_size=30
)  # conversation ("": a notification) and number
STANDINGS = st.fixed_dictionaries(
    {name: st.builds(Standing, st.integers(0, 9), st.integers(0, 4), st.none()) for name in ("a", "b")}
)


@given(EVENTS, STANDINGS, st.integers(0, 30), st.integers(0, 30), st.integers(1, 10))
def test_quiet_for_what_was_seen(
    events: list[tuple[str, int]], standings: dict[str, Standing], after: int, seen: int, most: int
) -> None:
    """One for each notification beyond both, one for each conversation's newest unread message beyond `after`."""
    inbox = [
        message(seq, chat, number) if chat else news(seq, "video_like")
        for seq, (chat, number) in enumerate(events, start=1)
    ]
    expected = {}
    for seq, (chat, number) in enumerate(events, start=1):
        if seq <= after:
            continue
        if not chat:
            if seq > seen:
                expected[f"#{seq}"] = seq
        elif chat in standings and standings[chat].unread and number > standings[chat].read_number:
            expected[chat] = seq
    told = pushes(inbox, after, seen, standings, most)
    assert [push.seq for push in told] == sorted(expected.values())[-most:]


@given(EVENTS, STANDINGS, st.integers(0, 12))
def test_whoever_stops_goes_on_behind_the_last(
    events: list[tuple[str, int]], standings: dict[str, Standing], stop: int
) -> None:
    """What was told up to some push, and what is told from its `seq` on, is everything, and nothing twice."""
    inbox = [
        message(seq, chat, number) if chat else news(seq, "video_like")
        for seq, (chat, number) in enumerate(events, start=1)
    ]
    whole = pushes(inbox, 0, 0, standings, 99)
    first = whole[:stop]
    rest = pushes(inbox, first[-1].seq if first else 0, 0, standings, 99)
    assert first + rest == whole

"""What a preview shows, which ids there are, and how many messages are unread: by table and against a naive count."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.messaging import ids
from handlers.messaging.rules import (
    TYPES,
    Books,
    Chat,
    Participant,
    moves,
    own_behind,
    preview,
    range_to_count,
    read,
    send,
)
from handlers.messaging.wire import SendRequest

FAMILY = "👨‍👩‍👧‍👦"  # seven code points
FLAG = "🇦🇹"
ACCENT = "e\u0301"


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("hi", "hi"),
        ("x" * 50, "x" * 50),
        ("x" * 51, "x" * 50),
        (FAMILY * 50, FAMILY * 50),
        (FAMILY * 51, FAMILY * 50),
        (FLAG * 60, FLAG * 50),
        (ACCENT * 4 + "x" * 60, ACCENT * 4 + "x" * 46),
        ("x" * 49 + ACCENT + "y", "x" * 49 + ACCENT),
        ("\r\n" * 60, "\r\n" * 50),
        ("ä" * 60, "ä" * 50),
        ("x" + "\u0301" * 3_999, "x" + "\u0301" * 3_999),
        ("a\nb" * 30, ("a\nb" * 30)[:50]),
    ],
)
def test_a_preview_of_a_text_is_its_first_fifty_characters(content: str, shown: str) -> None:
    assert preview(0, content) == shown


def test_a_preview_of_anything_else_says_what_it_is() -> None:
    shown = [preview(number, "a caption") for number in range(1, len(TYPES))]
    assert shown == ["📷 Photo", "🎥 Video", "🎵 Audio", "GIF", "Sticker"]
    assert TYPES == ("text", "image", "video", "audio", "gif", "sticker"), "they are stored by their place"


@given(st.integers(1, 2**48 - 1), st.text())
def test_a_message_s_id_carries_its_number(number: int, origin: str) -> None:
    text = str(ids.message_id(number, origin))
    assert ids.is_id(text)
    assert ids.number_of(text) == number
    assert text[14] == "8"
    assert text[19] in "89ab"
    assert text == str(ids.message_id(number, origin)) != str(ids.message_id(number, origin + "x"))


@pytest.mark.parametrize(
    "text", ["", "x", "{6f4d1a5e-c0a6-4f0c-9a3b-e2a1d7c0a9f1}", "6F4D1A5E-C0A6-4F0C-9A3B-E2A1D7C0A9F1", "6f4d1a5e" * 4]
)
def test_there_is_one_way_to_write_an_id(text: str) -> None:
    assert not ids.is_id(text)


def test_a_pair_has_one_conversation_whoever_asks() -> None:
    assert ids.direct_id(7, 3) == ids.direct_id(3, 7) != ids.direct_id(7, 4)
    assert ids.is_id(ids.direct_id(1, 2**53 - 1))


BODIES = [
    ({"messageType": "text"}, "content"),
    ({"messageType": "text", "content": ""}, "content"),
    ({"messageType": "text", "content": " \t\n\u2003"}, "content"),
    ({"messageType": "text", "content": "a\0b"}, "content"),
    ({"messageType": "text", "content": "x" * 4_001}, "content"),
    ({"messageType": "text", "content": None}, "content"),
    ({"messageType": "text", "content": "hi", "mediaUrl": "https://x/y"}, "mediaUrl"),
    ({"messageType": "image"}, "mediaUrl"),
    ({"messageType": "image", "content": "a caption"}, "mediaUrl"),
    ({"messageType": "image", "mediaUrl": "http://x/y"}, "mediaUrl"),
    ({"messageType": "image", "mediaUrl": "https://"}, "mediaUrl"),
    ({"messageType": "image", "mediaUrl": "https:///y"}, "mediaUrl"),
    ({"messageType": "image", "mediaUrl": "https://x/a b"}, "mediaUrl"),
    ({"messageType": "image", "mediaUrl": "https://x/\n"}, "mediaUrl"),
    ({"messageType": "image", "mediaUrl": "https://me@x/y"}, "mediaUrl"),
    ({"messageType": "image", "mediaUrl": "https://x/" + "y" * 2_048}, "mediaUrl"),
    ({"messageType": "image", "mediaUrl": "https://x/y", "content": ""}, "content"),
    ({"messageType": "picture", "mediaUrl": "https://x/y"}, "messageType"),
    ({"messageType": "text", "content": "hi", "conversationId": ""}, "conversationId"),
    ({"messageType": "text", "content": "hi", "actionId": "short"}, "actionId"),
]


@pytest.mark.parametrize(("body", "field"), BODIES, ids=str)
def test_what_is_no_message_names_its_field(body: dict[str, object], field: str) -> None:
    given_body = {"conversationId": "c", "actionId": "action-1", **body}
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(given_body, SendRequest)
    assert f"$.{field}`" in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        {"messageType": "text", "content": "x" * 4_000},
        {"messageType": "text", "content": "😀" * 4_000},
        {"messageType": "text", "content": "hi", "mediaUrl": None},
        *({"messageType": each, "mediaUrl": "https://x.example:8443/y?z#w"} for each in TYPES[1:]),
        {"messageType": "gif", "mediaUrl": "https://x", "content": "a caption"},
        {"messageType": "gif", "mediaUrl": "https://x", "content": " "},
    ],
    ids=lambda body: str(body)[:60],
)
def test_what_is_a_message_is_taken(body: dict[str, object]) -> None:
    msgspec.convert({"conversationId": "c" * 64, "actionId": "action-1", **body}, SendRequest)


# -- unread ------------------------------------------------------------------------------------------

steps = st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.integers(0, 12)), max_size=40)


@given(steps, st.booleans(), st.lists(st.integers(1, 40), max_size=4))
def test_unread_is_what_a_naive_count_says(
    script: list[tuple[bool, int, int]], gathered: bool, cuts: list[int]
) -> None:
    """Each step: a message, or a read up to some number. At `cuts` a batch ends, and what was counted is stored."""
    senders: list[int] = []
    pointers = dict.fromkeys((1, 2, 3), 0)
    chat = Chat("c", False, 0, 0, {user: Participant(0, 0) for user in pointers}, gathered)
    books = Books(seqs=dict.fromkeys(pointers, 0), chats={"c": chat})
    stored = 0
    plan: dict[int, int] = {}  # step -> own messages behind, as the database counts them when the batch begins
    for place, (is_send, user, number) in enumerate(script):
        if place == 0 or place in cuts:
            stored = len(senders)
            for each in chat.participants.values():
                each.own_now = 0
            ends = min([*(cut for cut in cuts if cut > place), len(script)])
            for later in range(place, ends):
                _, reader, to = script[later]
                after, upto = range_to_count(stored, chat.participants[reader], to)
                counted = senders[after:upto].count(reader)
                plan[later] = own_behind(stored, chat.participants[reader], to, counted)
        if is_send:
            before = dict(books.seqs)
            told = send(books, chat, user)
            senders.append(user)
            assert [each.user_id for each in told] == ([] if gathered else [each for each in pointers if each != user])
            assert all(each.seq == before[each.user_id] + 1 for each in told)
            for each in told:
                assert each.unread == _unread(senders, pointers[each.user_id], each.user_id)
        elif number <= stored and moves(chat, user, number):
            assert number > pointers[user]
            pointers[user] = number
            notices = read(books, chat, user, number, plan[place])
            assert [each.user_id for each in notices if each.unread is not None] == [user]
            assert notices[0].unread == _unread(senders, number, user)
            assert {each.user_id for each in notices} == ({user} if gathered else set(pointers))
        elif number <= stored:
            assert number <= pointers[user]
        for each, pointer in pointers.items():
            assert chat.participants[each].read_number == pointer
            assert chat.unread(each) == _unread(senders, pointer, each)
    assert chat.last_number == len(senders)


def _unread(senders: list[int], pointer: int, user: int) -> int:
    return sum(sender != user for sender in senders[pointer:])

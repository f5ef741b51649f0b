"""What of somebody's news is pushed, and in which words: values in, values out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import regex

MESSAGE: Final = "message_preview"
TITLE_CHARACTERS: Final = 60
BODY_CHARACTERS: Final = 120
_MOST_POINTS: Final = 500  # code points that are looked at of any text
_SOMEBODY: Final = "Somebody"
# What apps are given beside the words, where the event has it.
_NAMED: Final = ("conversationId", "lastMessageId", "videoId", "commentId", "actorId")
_MOST_NAMED: Final = 64


class News(NamedTuple):
    """One event of somebody's inbox."""

    seq: int
    id: str
    type: str
    event_type: str | None
    data: Mapping[str, Any]


class Standing(NamedTuple):
    """Where they stand in a conversation now; `title` of a group."""

    read_number: int
    unread: int
    title: str | None


class Push(NamedTuple):
    """One thing to tell. `seq` is that of the newest event in it. Without words (`title`) the app finds its own.

    `collapse`: it takes the place of an earlier one with the same name, if that is still shown; `thread` is what it is
    shown with.
    """

    seq: int
    title: str | None
    body: str | None
    data: dict[str, str]
    thread: str
    collapse: str | None = None
    unread: int | None = None


def arrived(head: int, connected: Collection[str], acked: Mapping[str, int]) -> int:
    """Up to where somebody who is connected has got their events. Live is arrived, unless all their connected devices
    confirm: then it is what these have confirmed, for a connection may be dead without anybody knowing."""
    confirmed = [acked.get(device) for device in connected]
    known = [seq for seq in confirmed if seq is not None]
    return max(known) if known and len(known) == len(confirmed) else head


def pushes(news: Sequence[News], after: int, seen_seq: int, standings: Mapping[str, Standing], most: int) -> list[Push]:
    """What to tell a device of its user's news, by the `seq` of the newest event in each, at most the newest `most`:
    whoever stops in the middle goes on behind the last one. Of each conversation the newest message."""
    told: list[Push] = []
    newest: dict[str, Push] = {}
    for event in news:
        if event.seq <= after:
            continue
        if event.type == MESSAGE:
            name = str(event.data.get("conversationId"))
            standing = standings.get(name)
            if standing is not None and is_unread(event, standing):
                newest[name] = _of_message(event, standing)
        elif event.seq > seen_seq:
            told.append(_of_notification(event))
    return sorted((*told, *newest.values()), key=lambda push: push.seq)[-most:]


def is_unread(event: News, standing: Standing) -> bool:
    """Whether a message's preview is news to who stands there."""
    number = event.data.get("number")
    return standing.unread > 0 and isinstance(number, int) and number > standing.read_number


def message_of(push: Push, token: str, platform: str, ttl_s: int) -> dict[str, Any]:
    """A push to a device, as FCM's HTTP v1 has it. `ttl_s`: then it is not brought any more."""
    message: dict[str, Any] = {"token": token, "data": push.data}
    if push.title is not None:
        message["notification"] = {"title": push.title, "body": push.body}
    if platform == "android":
        message["android"] = _android(push, ttl_s)
    elif platform == "ios":
        message["apns"] = _apns(push)
    else:
        headers = {"TTL": str(ttl_s), "Urgency": "high"}
        shown = {"notification": {"tag": push.collapse}} if push.collapse and push.title is not None else {}
        message["webpush"] = {"headers": headers, **shown}
    return message


def _android(push: Push, ttl_s: int) -> dict[str, Any]:
    block: dict[str, Any] = {"priority": "HIGH", "ttl": f"{ttl_s}s"}
    if push.collapse:
        block["collapse_key"] = push.collapse
    shown: dict[str, Any] = {}
    if push.collapse:
        shown["tag"] = push.collapse
    if push.unread is not None:
        shown["notification_count"] = push.unread
    if push.title is not None and shown:
        block["notification"] = shown
    return block


def _apns(push: Push) -> dict[str, Any]:
    # What shows nothing wakes the app, and Apple takes that at a low priority only.
    aps: dict[str, Any] = {"thread-id": push.thread}
    aps |= {"sound": "default"} if push.title is not None else {"content-available": 1}
    headers = {"apns-priority": "10" if push.title is not None else "5"}
    if push.collapse:
        headers["apns-collapse-id"] = push.collapse
    return {"headers": headers, "payload": {"aps": aps}}


def _of_message(event: News, standing: Standing) -> Push:
    sender = _text(event.data, "senderUsername") or _SOMEBODY
    text = _text(event.data, "lastMessage") or ""
    title, body = (sender, text) if standing.title is None else (standing.title, f"{sender}: {text}")
    conversation = f"chat:{event.data['conversationId']}"
    data = _data_of(event) | {"unreadCount": str(standing.unread)}
    return Push(
        event.seq, _cut(title, TITLE_CHARACTERS), _cut(body, BODY_CHARACTERS), data, conversation, conversation,
        standing.unread,
    )  # fmt: skip


def _of_notification(event: News) -> Push:
    words = _own_words(event.data) or _words(event.type, event.data)
    title, body = words or (None, None)
    return Push(
        event.seq,
        None if title is None else _cut(title, TITLE_CHARACTERS),
        None if body is None else _cut(body, BODY_CHARACTERS),
        _data_of(event),
        event.type[:64],
    )


def _own_words(data: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a backend has put an event in itself."""
    title, body = _text(data, "title"), _text(data, "body")
    return (title, body) if title and body else None


def _words(type_: str, data: Mapping[str, Any]) -> tuple[str, str] | None:
    """(title, body) of a type that we know words for."""
    who = _text(data, "actorUsername") or _SOMEBODY
    match type_:
        case "video_like":
            return "New likes" if _is_many(data) else "New like", f"{_who(who, data)} liked your video"
        case "video_share":
            return "New shares" if _is_many(data) else "New share", f"{_who(who, data)} shared your video"
        case "video_comment":
            return f"{who} commented on your video", _text(data, "text") or ""
        case "profile_followed":
            return "New follower", f"{who} follows you"
        case "follow_request":
            return "Follow request", f"{who} would like to follow you"
        case "live_stream_started":
            return "Live now", f"{who} is live"
    return None


def _is_many(data: Mapping[str, Any]) -> bool:
    count = data.get("count")
    return isinstance(count, int) and count > 1


def _who(who: str, data: Mapping[str, Any]) -> str:
    """The newest of them, and how many others."""
    if not _is_many(data):
        return who
    others = data["count"] - 1
    return f"{who} and {others} {'other' if others == 1 else 'others'}"


def _data_of(event: News) -> dict[str, str]:
    """What the app needs to open the right screen; all of it texts, as the provider wants them."""
    data = {
        "id": event.id,
        "seq": str(event.seq),
        "type": event.type,
        "eventType": event.event_type or f"notification:{event.type}",
    }
    for name in _NAMED:
        value = event.data.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and len(str(value)) <= _MOST_NAMED:
            data[name] = str(value)
    return data


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    return value if isinstance(value, str) else None


def _cut(text: str, most: int) -> str:
    """The beginning of a text: so many characters as people count them, whole ones."""
    if len(text) <= most:
        return text
    cut = str(regex.match(rf"\X{{0,{most - 1}}}+", text[:_MOST_POINTS])[0])
    return f"{cut}…" if cut != text else text

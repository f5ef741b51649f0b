"""Records of Kafka's, read strictly: each kind, and each way in which one can't be read."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from gateway.intake import records
from gateway.intake.records import Unreadable
from gateway.settings import Events
from handlers.deed import Deed, fingerprint
from handlers.directory.wire import UserRecord, VideoRecord
from handlers.events.request import checked
from handlers.wallet.wire import AwardCommand, CorrectCommand, DeductCommand
from tests.handlers.test_events import event as over_http
from tests.support.intake import command, event, user, video

DEED_OF: Final = {"events": records.events(Events()), "commands": records.command}


def read(topic: str, record: Any) -> Any:
    value = record if isinstance(record, bytes) else json.dumps(record).encode()
    if topic == "directory":
        return records.directory_record(value)
    return DEED_OF[topic](value, order_key=None)


def test_an_event_is_the_deed_that_it_is_over_http() -> None:
    record = event(3, 1, 1, id="once", data={"b": 1, "a": 2})
    deed: Deed = read("events", record)
    assert (deed.event, deed.subject, deed.action_id, deed.weight) == ("event:publish", "feed", "once", 2)
    same = checked("feed", over_http(1, 3, id="once", type="news", data={"a": 2, "b": 1}), Events())
    assert (deed.request.key, deed.fingerprint) == (same.key, same.fingerprint)
    assert deed.request.recipients == [1, 3]


def test_a_command_is_the_deed_that_it_is_over_http() -> None:
    deed: Deed = read(
        "commands", command("deduct", 7, 2.5, id="deduct-1", action="withdrawal", metadata={"b": 1, "a": 2})
    )
    assert (deed.event, deed.subject, deed.action_id, deed.user_id) == ("wallet:deduct", "shop", "deduct-1", 7)
    assert isinstance(deed.request, DeductCommand)
    payload = {"userId": 7, "actionId": "deduct-1", "action": "withdrawal", "reason": "As promised", "amount": 2.5}
    payload["metadata"] = {"a": 2, "b": 1}
    assert deed.fingerprint == fingerprint("wallet:deduct", json.dumps(payload).encode())


def test_each_verb_and_kind_has_its_own_request() -> None:
    award, correct = read("commands", command("award", 7, 0.01)), read("commands", command("correct", 7, -3))
    assert (award.event, type(award.request), award.request.action) == ("wallet:award", AwardCommand, "campaign_reward")
    assert (correct.event, type(correct.request)) == ("wallet:correct", CorrectCommand)
    somebody, something = (
        read("directory", user(7, username="ann", version=3)),
        read("directory", video("v", title="V")),
    )
    assert (type(somebody), somebody.user_id, somebody.version) == (UserRecord, 7, 3)
    assert (type(something), something.video_id, something.title) == (VideoRecord, "v", "V")


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


TWO_DECIMALS: Final = "Expected a number with at most two decimals - at `$.amount`"
UNREADABLE: Final = [
    *((topic, value, reason) for topic in ("events", "commands", "directory") for value, reason in (
        (b"", "The value is empty."),
        (b"{", "This is not valid JSON."),
        (b"\xff{}", "This is not valid JSON."),
        (b'{"data":' + b'{"a":' * 100_000, "This is not valid JSON."),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b"7", "Expected `object`, got `int`"),
    )),
    ("events", without(event(1), "source"), "Object missing required field `source`"),
    ("events", without(event(1), "id"), "Object missing required field `id`"),
    ("events", event(1, type="points_earned"), "Only Applause itself tells of money and chats. - at `$.type`"),
    ("events", event(1, data=[]), "Expected `object`, got `array` - at `$.data`"),
    ("events", event(0), "Expected `int` >= 1 - at `$.recipientIds[0]`"),
    ("events", event(2**53), "Expected `int` <= 9007199254740991 - at `$.recipientIds[0]`"),
    ("events", event(1, extra=1), "Object contains unknown field `extra`"),
    ("events", event(1, topic="live:a"), "One of `topic` and `recipientIds`, please. - at `$.recipientIds`"),
    ("events", event(1, recipientIds=...), "One of `topic` and `recipientIds` is needed. - at `$.topic`"),
    ("events", event(*range(1, 10_002)), "An event has at most 10000 recipients. - at `$.recipientIds`"),
    ("events", event(1, data={"x": "y" * 70_000}), "An event has at most 65536 bytes. - at `$.data`"),
    ("events", event(1, data={"x": "\0"}), "Texts must not hold NUL. - at `$.data`"),
    ("events", event(1, source="\0"), r"Expected `str` matching regex '^[^\\x00]*\\Z' - at `$.source`"),
    ("events", json.dumps(event(1)).replace('"n": 1', '"n": NaN').encode(), "This is not valid JSON."),
    ("commands", command("mint", 1, 1), "Invalid value 'mint' - at `$.verb`"),
    ("commands", without(command("award", 1, 1), "verb"), "Object missing required field `verb`"),
    ("commands", without(command("award", 1, 1), "reason"), "Object missing required field `reason`"),
    ("commands", command("award", 1, 0), "Expected a number above 0 - at `$.amount`"),
    ("commands", command("award", 1, -1), "Expected a number above 0 - at `$.amount`"),
    ("commands", command("deduct", 1, 0.001), TWO_DECIMALS),
    ("commands", command("correct", 1, 0), "Expected a number other than 0 - at `$.amount`"),
    ("commands", {**command("award", 1, 1), "amount": "1"}, TWO_DECIMALS),
    ("commands", command("award", 1, 1, action="video_liked"), "Invalid enum value 'video_liked' - at `$.action`"),
    ("commands", command("award", 1, 1, action="gift_received"), "Invalid enum value 'gift_received' - at `$.action`"),
    ("commands", command("deduct", 1, 1, action="refund"), "Invalid enum value 'refund' - at `$.action`"),
    ("commands", command("award", 1, 1, currency="eur"),
     "Expected `str` matching regex '^[A-Z]{3,8}\\\\Z' - at `$.currency`"),
    ("commands", command("award", 1, 1, metadata={"a": "x" * 5000}), "Expected at most 4096 bytes - at `$.metadata`"),
    ("commands", command("award", 1, 1, actionId="12345678"), "Object contains unknown field `actionId`"),
    ("directory", {**user(1), "kind": "shop"}, "Invalid value 'shop' - at `$.kind`"),
    ("directory", without(user(1), "kind"), "Object missing required field `kind`"),
    ("directory", without(user(1), "id"), "Object missing required field `id`"),
    ("directory", without(user(1), "userId"), "Object missing required field `userId`"),
    ("directory", user(1, followersCount=-1), "Expected `int` >= 0 - at `$.followersCount`"),
    ("directory", user(1, ownerId=1), "Object contains unknown field `ownerId`"),
    ("directory", video(""), "Expected `str` of length >= 1 - at `$.videoId`"),
    ("directory", video("v", version="1"), "Expected `int`, got `str` - at `$.version`"),
]  # fmt: skip


@pytest.mark.parametrize(("topic", "record", "reason"), UNREADABLE)
def test_what_can_t_be_read_says_why(topic: str, record: Any, reason: str) -> None:
    with pytest.raises(Unreadable) as unreadable:
        read(topic, record)
    assert str(unreadable.value) == reason

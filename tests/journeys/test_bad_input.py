"""Whatever a client sends gets a clear answer or a clear end, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.clients import wire
from tests.support.stage import VIEWER, Stage, action_id

MALFORMED: list[tuple[str, Any, str | None]] = [
    ("video:like", {"videoId": "v"}, "actionId"),
    ("video:like", {"actionId": "action-1"}, "videoId"),
    ("video:like", {"videoId": "v", "actionId": "action-1", "points": 5}, "points"),
    ("video:like", {"videoId": 7, "actionId": "action-1"}, "videoId"),
    ("video:like", {"videoId": "", "actionId": "action-1"}, "videoId"),
    ("video:like", {"videoId": "v" * 65, "actionId": "action-1"}, "videoId"),
    ("video:like", {"videoId": "a\0b", "actionId": "action-1"}, "videoId"),
    ("video:like", {"videoId": "v", "actionId": "short"}, "actionId"),
    ("video:like", {"videoId": "v", "actionId": "a" * 65}, "actionId"),
    ("video:like", {"videoId": "v", "actionId": "späces no"}, "actionId"),
    ("video:like", {"videoId": "v", "actionId": "action-1\n"}, "actionId"),
    ("video:like", [], None),
    ("video:like", "v", None),
    ("video:like", None, None),
    ("video:like", 7, None),
    ("video:view", {"videoId": "v", "actionId": "action-1", "watchedMs": -1}, "watchedMs"),
    ("video:view", {"videoId": "v", "actionId": "action-1", "watchedMs": 1.5}, "watchedMs"),
    ("video:view", {"videoId": "v", "actionId": "action-1", "watchedMs": 2**53}, "watchedMs"),
    ("video:share", {"videoId": "v", "actionId": "action-1", "channel": "c" * 33}, "channel"),
    ("video:share", {"videoId": "v", "actionId": "action-1", "channel": ""}, "channel"),
    ("wallet:get", {"currency": "lyk"}, "currency"),
    ("wallet:history", {"limit": 101}, "limit"),
    ("wallet:history", {"cursor": "'; DROP TABLE users"}, "cursor"),
    ("inbox:ack", {"seq": -1}, "seq"),
    ("inbox:ack", {"seq": True}, "seq"),
    ("auth:refresh", {}, "token"),
]


@pytest.mark.parametrize(("event", "payload", "field"), MALFORMED, ids=str)
async def test_payloads_are_strict_and_the_field_is_named(
    stage: Stage, event: str, payload: Any, field: str | None
) -> None:
    phone = await stage.phone(await stage.person())
    answer = await phone.call(event, payload)
    error = answer["error"] | {"message": None}
    expected = {"code": "invalid_payload", "message": None, "retryable": False}
    assert (answer["ok"], error) == (False, expected | ({"field": field} if field else {}))
    assert (await phone.call("wallet:get", {}))["ok"], "the connection stays open"


RAW = [
    ('["video:like",{"videoId":NaN,"actionId":"action-1"}]', "videoId"),
    ('["video:like",{"videoId":"v","actionId":"action-1","watchedMs":Infinity}]', "watchedMs"),
    ('["video:like",{"videoId":"\\ud800","actionId":"action-1"}]', None),
    ('["video:like",{"videoId":"v"', None),
    ('["video:like",{"videoId":"v"}]]', None),
    ("[7,{}]", None),
    ("[]", None),
    ("[null]", None),
    ('["video:like",{},{}]', None),
    ("[" * 5_000 + "]" * 5_000, None),
    ('["video:like",' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "]", None),
]


@pytest.mark.parametrize(("body", "field"), RAW, ids=lambda value: str(value)[:40])
async def test_what_is_not_an_event_is_answered_all_the_same(stage: Stage, body: str, field: str | None) -> None:
    async with wire(stage.server.url) as bare:
        await bare.enter(stage.server.token(await stage.person()))
        await bare.say(f"427{body}", '428["wallet:get"]')
        refusal, answer = await bare.packet() or "", await bare.packet() or ""
        [ack] = json.loads(refusal.removeprefix("437"))
        assert (ack["error"]["code"], ack["error"].get("field")) == ("invalid_payload", field)
        assert answer.startswith('438[{"ok":true')


async def test_the_last_of_two_equal_keys_counts(stage: Stage) -> None:
    async with wire(stage.server.url) as bare:
        await bare.enter(stage.server.token(await stage.person()))
        await bare.say('421["topic:subscribe",{"topic":"user:1","topic":"live:x"}]')
        assert await bare.packet() == '431[{"ok":true,"data":{"topic":"live:x"}}]'


@pytest.mark.parametrize(
    "event",
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener", "", "no:such", "*"],
)
async def test_unknown_and_reserved_events_are_refused(stage: Stage, event: str) -> None:
    async with wire(stage.server.url) as bare:
        await bare.enter(stage.server.token(await stage.person()))
        await bare.say("421" + json.dumps([event, {"token": "x"}]), '422["wallet:get"]')
        [ack] = json.loads((await bare.packet() or "").removeprefix("431"))
        assert ack["error"]["code"] in ("unknown_event", "invalid_payload")
        assert (await bare.packet() or "").startswith('432[{"ok":true'), "and end nothing"


async def test_the_tenth_bad_request_in_a_minute_ends_the_connection(stage: Stage) -> None:
    async with wire(stage.server.url) as bare:
        await bare.enter(stage.server.token(await stage.person()))
        for number in range(1, 10):
            await bare.say(f'42{number}["no:such"]')
            assert (await bare.packet() or "").startswith(f'43{number}[{{"ok":false')
        await bare.say('42["video:like",{}]')  # also where nobody asks for an answer
        *rest, closing, disconnect = await bare.rest()
        assert rest == []
        assert json.loads(closing[2:])[1]["code"] == "too_many_errors"
        assert disconnect == "41"
        assert bare.close_code == 1008


async def test_the_official_client_stays_away_after_too_many_errors(stage: Stage) -> None:
    phone = await stage.js_phone(await stage.person())
    for _ in range(10):
        await phone.send("no:such", {})
    assert await phone.hear("disconnect") == ["io server disconnect"]
    assert [closing["code"] for closing in phone.of("closing")] == ["too_many_errors"]


async def test_refusals_of_good_requests_are_no_errors(stage: Stage) -> None:
    phone = await stage.phone(await stage.person())
    for _ in range(15):
        await phone.fail("not_found", "video:like", {"videoId": "nowhere", "actionId": action_id()})
    assert (await phone.call("wallet:get", {}))["ok"]


async def test_a_newer_client_is_treated_leniently(stage: Stage) -> None:
    viewer = await stage.person(follows=VIEWER)
    video = await stage.video(await stage.person())
    phone = await stage.phone(viewer, protocol="2")
    like = {"videoId": video, "actionId": action_id()}

    answer = await phone.call("video:like", like | {"mood": "happy"})
    assert answer["data"]["award"] == {"points": 1, "newBalance": 1}
    assert (await phone.call("video:like", like | {"mood": "happy"}))["replayed"]
    for _ in range(12):
        await phone.fail("unknown_event", "video:superlike", like)
    await phone.fail("invalid_payload", "video:like", {"videoId": video})
    assert (await phone.call("wallet:get", {}))["ok"]


async def test_an_older_client_is_not(stage: Stage) -> None:
    phone = await stage.phone(await stage.person(), protocol="1")
    error = await phone.fail("invalid_payload", "wallet:get", {"mood": "happy"})
    assert error["field"] == "mood"


VIOLATIONS: list[tuple[str, str | bytes, int]] = [
    ("an unknown packet", "9", 1008),
    ("no packet at all", "", 1008),
    ("a binary event", '451-["x",{"_placeholder":true,"num":0}]', 1003),
    ("a binary ack", '461-1[{"_placeholder":true,"num":0}]', 1003),
    ("a binary message", b"\x00\x01", 1003),
    ("a second CONNECT", '40{"token":"x"}', 1008),
    ("a message too big", "42" + json.dumps(["x", "x" * 65_536]), 1009),
    ("an ack id that is too long", '421234567890123456["x"]', 1008),
]


@pytest.mark.parametrize(("packet", "code"), [each[1:] for each in VIOLATIONS], ids=[each[0] for each in VIOLATIONS])
async def test_what_is_not_the_protocol_ends_the_connection(stage: Stage, packet: str | bytes, code: int) -> None:
    user = await stage.person()
    async with wire(stage.server.url) as bare:
        await bare.enter(stage.server.token(user))
        await bare.say(packet)
        closing, disconnect = await bare.rest()
        assert json.loads(closing[2:])[1]["code"] == "protocol_error"
        assert (disconnect, bare.close_code) == ("41", code)
        await stage.gone(user)


async def test_an_event_before_connect_ends_the_connection(stage: Stage) -> None:
    async with wire(stage.server.url) as bare:
        await bare.say('421["wallet:get"]')
        assert (await bare.rest(), bare.close_code) == ([], 1008)


async def test_bad_input_ends_no_other_connection_and_stores_nothing(stage: Stage) -> None:
    viewer = await stage.person(follows=VIEWER)
    video = await stage.video(await stage.person())
    good = await stage.phone(viewer)

    async def misbehave(packet: str | bytes) -> None:
        async with wire(stage.server.url) as bare:
            await bare.enter(stage.server.token(viewer))
            await bare.say(packet)
            await bare.rest()

    await asyncio.gather(*(misbehave(packet) for _, packet, _ in VIOLATIONS))

    assert (await good.call("video:like", {"videoId": video, "actionId": action_id()}))["ok"]
    await good.caught_up(1)
    assert await stage.balance(viewer) == (1, 1)


async def test_secrets_and_payloads_are_not_logged(stage: Stage) -> None:
    user, secret = await stage.person(), "a very private remark"
    token = stage.server.token(user)
    async with wire(stage.server.url) as bare:
        await bare.enter(token)
        await bare.say(f'421["video:like",{{"videoId":"{secret}","text":"{secret}"}}]', f'42["{secret}"', f"4{secret}")
        await bare.rest()
    await stage.server.ask("PUT", f"/v1/users/{user}", {"username": secret, "colour": secret}, token=token)
    assert token not in stage.server.log
    assert secret not in stage.server.log


async def test_actions_are_limited_per_user(stage: Stage) -> None:
    """Two seconds' worth at once; what was refused was not carried out, and succeeds later."""
    viewer, other = await stage.person(), await stage.person()
    video = await stage.video(await stage.person())
    phones = [await stage.phone(viewer) for _ in range(2)]  # the limit is the user's, not the connection's
    views = [{"videoId": video, "actionId": action_id()} for _ in range(200)]

    answers = await asyncio.gather(*(phones[number % 2].call("video:view", view) for number, view in enumerate(views)))

    refused = [answer["error"] for answer in answers if not answer["ok"]]
    done = len(views) - len(refused)
    assert 100 <= done < 200
    assert {(error["code"], error["retryable"]) for error in refused} == {("rate_limited", True)}
    assert all(0 < error["retryAfterMs"] <= 2_000 for error in refused)
    assert (await (await stage.phone(other)).call("wallet:get", {}))["ok"], "others don't notice"
    late = next(view for view, answer in zip(views, answers, strict=True) if not answer["ok"])
    while not (answer := await phones[0].call("video:view", late))["ok"]:
        await asyncio.sleep(answer["error"]["retryAfterMs"] / 1000)
    assert (answer["data"]["total"], answer.get("replayed")) == (done + 1, None)

"""Coming in, being refused, several devices, and the end of a token."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import jwt
import pytest

from storage import arrivals
from tests.support.clients import Phone, wire
from tests.support.server import Gateway
from tests.support.stage import VIEWER, Stage, action_id

WELCOME = {
    "userId", "node", "protocol", "epoch", "seq", "oldestSeq", "complete", "serverTime", "tokenExpiresInMs", "limits",
    "reconnect",
}  # fmt: skip
BRIEF_S = 2  # a token's life: long enough to connect with on a busy machine, and to be over while an action waits
LONG = "a secret that is not the server's, and long enough"


@pytest.mark.parametrize("client", ["phone", "js_phone"])
async def test_a_stranger_with_a_good_token_is_welcome(stage: Stage, client: str) -> None:
    user = stage.stranger()
    phone = await getattr(stage, client)(user)

    names = [heard.name for heard in phone.log if heard.name != "connect"]
    assert names == ["welcome", "resumed"]
    welcome = phone.welcome
    assert set(welcome) == WELCOME
    assert (welcome["userId"], welcome["protocol"], welcome["complete"]) == (user, 1, True)
    assert (welcome["seq"], welcome["oldestSeq"]) == (0, 1)
    assert phone.of("resumed") == [{"seq": 0}]
    assert 3_590_000 < welcome["tokenExpiresInMs"] <= 3_600_000
    assert welcome["limits"] == {"maxMessageBytes": 65536, "actionsPerSecond": 50}
    me = await stage.server.ask("GET", "/v1/me", token=stage.server.token(user))
    assert (me.status, me.body["username"], me.headers["X-Inbox-Seq"]) == (200, f"user_{user}", "0")


async def test_a_stranger_is_named_by_the_token(stage: Stage) -> None:
    user = stage.stranger()
    phone = Phone()
    await phone.connect(stage.server.url, {"token": stage.server.token(user, username="john_doe")})
    await phone.hear("resumed")
    assert (await stage.server.ask("GET", f"/v1/users/{user}")).body["username"] == "john_doe"
    await phone.close()


async def test_the_token_may_come_in_the_header(stage: Stage) -> None:
    user = await stage.person()
    phone = Phone()
    await phone.connect(stage.server.url, None, Authorization=f"Bearer {stage.server.token(user)}")
    await phone.hear("resumed")
    assert phone.welcome["userId"] == user
    await phone.close()


async def test_the_token_of_a_query_string_is_not_read(server: Gateway) -> None:
    query = f"EIO=4&transport=websocket&token={server.token(7)}"
    async with wire(server.url, query) as bare:
        await bare.say("40")
        assert json.loads((await bare.packet() or "")[2:])["data"]["code"] == "token_missing"


def refused_tokens(server: Gateway) -> dict[str, tuple[str | None, str]]:
    """Of each kind (the token, the code that it must be refused with)."""
    good = {"sub": "7", "exp": time.time() + 60}
    return {
        "none": (None, "token_missing"),
        "empty": ("", "token_missing"),
        "no token at all": ("rubbish", "token_invalid"),
        "another secret's": (jwt.encode(good, LONG, algorithm="HS256"), "token_invalid"),
        "unsigned": (jwt.encode(good, None, algorithm="none"), "token_invalid"),
        "expired": (server.token(7, ttl_s=-1), "token_expired"),
        "without an end": (server.token(7, exp=None), "token_invalid"),
        "not yet": (server.token(7, nbf=time.time() + 3000), "token_invalid"),
        "of nobody": (server.token(7, sub=None), "token_invalid"),
        "of user 0": (server.token(0), "token_invalid"),
        "of a user beyond JavaScript": (server.token(2**53), "token_invalid"),
        "of a backend that is no user": (server.token("billing", "service"), "token_invalid"),
    }


KINDS = [
    "none", "empty", "no token at all", "another secret's", "unsigned", "expired", "without an end", "not yet",
    "of nobody", "of user 0", "of a user beyond JavaScript", "of a backend that is no user",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_token_is_a_connect_error_with_data(server: Gateway, kind: str) -> None:
    token, code = refused_tokens(server)[kind]
    phone = Phone()
    await phone.connect(server.url, {} if token is None else {"token": token})

    [error] = await phone.hear("connect_error")
    assert error["message"] == code
    assert error["data"] == {"code": code, "message": error["data"]["message"], "retryable": False}
    assert not token or token not in server.log


async def test_the_official_client_gets_a_refusal_as_an_error_with_data(stage: Stage) -> None:
    phone = await stage.js_caller(stage.stranger())
    await phone.connect(stage.server.url, {"token": "rubbish"})
    [error] = await phone.hear("connect_error")
    assert (error["message"], error["data"]["code"]) == ("token_invalid", "token_invalid")


async def test_who_is_refused_is_closed_and_can_try_no_second_token(server: Gateway) -> None:
    async with wire(server.url) as bare:
        await bare.say('40{"token":"rubbish"}', "40" + json.dumps({"token": server.token(7)}))
        [refusal] = await bare.rest()
        assert refusal.startswith("44{")
        assert bare.close_code == 1008


async def test_a_suspended_user_is_refused_until_active_again(stage: Stage) -> None:
    user = await stage.person(status="suspended")
    phone = Phone()
    await phone.connect(stage.server.url, {"token": stage.server.token(user)})
    [error] = await phone.hear("connect_error")
    assert error["data"]["code"] == "user_suspended"
    me = await stage.server.ask("GET", "/v1/me", token=stage.server.token(user))
    assert (me.status, me.body["code"]) == (403, "forbidden")

    await stage.server.ask("PUT", f"/v1/users/{user}", {"status": "active"})
    await stage.phone(user)


@pytest.mark.parametrize("code", ["user_suspended", "token_invalid"])
async def test_who_is_sent_away_while_arriving_hears_why(stage: Stage, code: str) -> None:
    """Their node finds them among its connections before it knows who they are: one client would wait for an answer,
    and another come back."""
    user, phone = await stage.person(), Phone()
    token = stage.server.token(user, jti=(jti := f"lost-{user}"))
    async with stage.server.database() as conn, stage.server.database() as other, conn.transaction():
        await conn.execute("LOCK TABLE heads IN ACCESS EXCLUSIVE MODE")
        arriving = asyncio.create_task(phone.connect(stage.server.url, {"token": token}))
        while not await other.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = $1", arrivals.LIST
        ):
            await asyncio.sleep(0.01)
        if code == "user_suspended":
            await other.execute(
                "UPDATE users SET status = 'suspended', suspended_xact = pg_current_xact_id() WHERE id = $1", user
            )
            jti = "nobody's"
        revoked = await stage.server.ask(  # the node looks at once for what is new
            "POST", "/v1/revocations", {"jti": jti}, token=stage.server.token("root", "admin")
        )
        assert revoked.status == 204
        [error] = await phone.hear("connect_error")
        assert (error["message"], error["data"]["code"]) == (code, code)
        await arriving
    await stage.server.ask("PUT", f"/v1/users/{user}", {"status": "active"})
    await stage.phone(user)


@pytest.mark.parametrize(
    "auth",
    [
        {"lastSeq": "12345678901234567"},
        {"lastSeq": "-1"},
        {"lastSeq": "1.0"},
        {"lastSeq": "seven"},
        {"lastSeq": "٣"},
        {"deviceId": "d" * 129},
        {"protocol": "new"},
        {"token": 7},
    ],
    ids=str,
)
async def test_a_connect_that_can_not_be_read_is_refused(server: Gateway, auth: dict[str, Any]) -> None:
    phone = Phone()
    await phone.connect(server.url, {"token": server.token(7), **auth})
    [error] = await phone.hear("connect_error")
    assert error["data"]["code"] == "invalid_payload"


async def test_numbers_are_accepted_for_strings(stage: Stage) -> None:
    phone = await stage.phone(await stage.person(), lastSeq=0, protocol=1)
    assert phone.welcome["complete"] is True


async def test_unknown_fields_of_auth_do_no_harm(stage: Stage) -> None:
    await stage.phone(await stage.person(), appVersion="7.1")


async def test_the_first_packet_must_come_in_time(hasty: Gateway) -> None:
    async with wire(hasty.url) as silent:
        assert await silent.rest() == []
        assert silent.close_code == 1008


async def test_origins_are_checked(server: Gateway) -> None:
    async with wire(server.url, origin=server.url):
        pass  # the gateway's own pages
    with pytest.raises(Exception, match="403"):
        async with wire(server.url, origin="https://elsewhere.example"):
            pass


async def test_a_user_has_so_many_connections_and_no_more(stage: Stage) -> None:
    user = await stage.person()
    phones = await asyncio.gather(*(stage.phone(user, deviceId=f"device-{number}") for number in range(20)))
    extra = Phone()
    await extra.connect(stage.server.url, {"token": stage.server.token(user)})
    [error] = await extra.hear("connect_error")
    assert error["data"]["code"] == "connection_limit"
    again = await stage.phone(user, deviceId="device-0")  # takes the place of one of them
    assert (await phones[0].hear("closing"))[0]["code"] == "replaced"
    await asyncio.gather(*(phone.close() for phone in [*phones, again]))
    await stage.gone(user)


async def test_all_devices_hear_the_same(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    devices = [
        await stage.phone(viewer, deviceId="phone"),
        await stage.phone(viewer, deviceId="tablet"),
        await stage.phone(viewer),
        await stage.js_phone(viewer, deviceId="laptop"),
    ]
    for _ in range(3):
        await devices[0].do("video:like", videoId=await stage.video(creator), actionId=action_id())

    heard = [await device.told("points_earned", 3) for device in devices]

    assert all(events == heard[0] for events in heard)
    state = await stage.inbox(viewer)
    assert [device["deviceId"] for device in state["devices"]] == ["laptop", "phone", "tablet"]
    assert state["connected"]
    assert await devices[0].do("inbox:ack", seq=2) == {"acked": 2}
    assert await devices[0].do("inbox:ack", seq=1) == {"acked": 2}, "never back"
    assert await devices[1].do("inbox:ack", seq=99) == {"acked": 3}, "never above the head"
    assert await devices[2].do("inbox:ack", seq=1) == {"acked": 1}, "without a device only answered"
    acked = {device["deviceId"]: device["acked"] for device in (await stage.inbox(viewer))["devices"]}
    assert acked == {"laptop": 0, "phone": 2, "tablet": 3}


async def test_the_same_device_again_replaces_the_first(stage: Stage) -> None:
    user = await stage.person()
    first = await stage.js_phone(user, deviceId="phone")
    other = await stage.js_phone(user, deviceId="tablet")
    second = await stage.js_phone(user, deviceId="phone")

    [closing] = await first.hear("closing")
    assert (closing["code"], closing["retryable"]) == ("replaced", False)
    assert await first.hear("disconnect") == ["io server disconnect"], "so that it stays away"
    assert await other.do("wallet:get")
    assert await second.do("wallet:get")
    assert len(first.of("connect")) == 1


async def test_a_near_end_is_announced_and_a_fresh_token_moves_it(stage: Stage) -> None:
    user = await stage.person()
    phone = Phone()
    stage.phones.append((user, phone))
    old_end = time.monotonic() + BRIEF_S
    await phone.connect(stage.server.url, {"token": stage.server.token(user, ttl_s=BRIEF_S)})
    [notice] = await phone.hear("auth:expiring")
    assert 0 < notice["inMs"] <= BRIEF_S * 1000

    for bad in ("rubbish", stage.server.token(user, ttl_s=-1), stage.server.token(user + 1)):
        error = await phone.fail("unauthorized", "auth:refresh", {"token": bad})
        assert bad not in json.dumps(error)
    data = await phone.do("auth:refresh", token=stage.server.token(user, ttl_s=60.5))
    assert 60_000 < data["tokenExpiresInMs"] <= 60_500
    notices = await phone.hear("auth:expiring", 2)  # 60 s ahead of the new end
    assert 59_000 < notices[1]["inMs"] <= 60_000
    await asyncio.sleep(old_end + 0.3 - time.monotonic())
    assert (await phone.call("wallet:get", {}))["ok"]
    assert phone.of("closing") == []


async def test_an_expired_token_ends_the_connection(stage: Stage) -> None:
    user = await stage.person()
    async with wire(stage.server.url) as bare:
        packets = await bare.enter(stage.server.token(user, ttl_s=BRIEF_S))
        packets += await bare.rest()
        assert [packet.partition(",")[0] for packet in packets[1:]] == [
            '42["welcome"', '42["resumed"', '42["auth:expiring"', '42["closing"',
        ]  # fmt: skip
        [_, closing] = json.loads(packets[-1][2:])
        assert (closing["code"], closing["retryable"]) == ("token_expired", True)
        assert bare.close_code == 1008, "without a DISCONNECT packet"


async def test_what_is_in_flight_at_the_end_finishes_and_nothing_new_begins(stage: Stage) -> None:
    """A client that is always busy does not outlive its token."""
    user = await stage.person()
    video = await stage.video(user)
    phone = Phone()
    stage.phones.append((user, phone))
    await phone.connect(stage.server.url, {"token": stage.server.token(user, ttl_s=BRIEF_S)})
    await phone.hear("resumed")

    async with stage.server.database() as conn, conn.transaction():
        await conn.execute("SELECT FROM heads WHERE user_id = $1 FOR UPDATE", user)
        running = asyncio.create_task(phone.call("video:like", {"videoId": video, "actionId": action_id()}))
        while not phone.of("ack"):  # until the end everything waits behind the like
            late = asyncio.create_task(phone.call("wallet:get", {}))
            await asyncio.wait([late], timeout=0.05)
        assert phone.of("ack")[0]["error"]["code"] == "unauthorized"
        assert phone.of("closing") == []
    assert (await running)["ok"]
    [closing] = await phone.hear("closing")
    assert closing["code"] == "token_expired"


async def test_the_official_client_comes_back_by_itself_with_a_fresh_token(stage: Stage) -> None:
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    videos = [await stage.video(creator) for _ in range(2)]
    other = await stage.phone(viewer)
    phone = await stage.js_caller(viewer)
    await phone.connect(stage.server.url, {"token": stage.server.token(viewer, ttl_s=BRIEF_S)}, follow=True)
    await phone.hear("auth:expiring")
    await phone.give(token=stage.server.token(viewer))
    await other.do("video:like", videoId=videos[0], actionId=action_id())

    await phone.hear("disconnect")
    await other.do("video:like", videoId=videos[1], actionId=action_id())
    await phone.hear("resumed", 2)

    assert [closing["code"] for closing in phone.of("closing")] == ["token_expired"]
    assert phone.of("disconnect") == ["transport close"]
    assert [event["seq"] for event in await phone.told("points_earned", 2)] == [1, 2]
    assert phone.welcome["complete"]
    assert (await phone.call("wallet:get", {}))["ok"]

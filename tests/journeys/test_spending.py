"""Gifts, purchases, boosts, and what backends take, give back and correct: over sockets and HTTP, with the official
JavaScript client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.clients import PATIENCE_S
from tests.support.stage import CREATOR, VIEWER, Stage, action_id


async def correct(stage: Stage, user: int, amount: float, **fields: Any) -> Any:
    """A backend changes a balance; the answer's body."""
    body = {"actionId": action_id(), "userId": user, "amount": amount, "reason": "As promised", **fields}
    answer = await stage.server.ask("POST", "/v1/wallet/corrections", body)
    assert answer.status == 200, answer
    return answer.body


async def rich(stage: Stage, amount: float = 10) -> int:
    """Somebody with so much LYK."""
    user = await stage.person()
    await correct(stage, user, amount)
    return user


async def item(stage: Stage, price: float) -> str:
    name = f"item-{action_id()}"
    answer = await stage.server.ask("PUT", f"/v1/items/{name}", {"name": "A rose", "price": price, "currency": "LYK"})
    assert answer.status == 200, answer
    return name


async def test_a_gift_is_told_to_both(stage: Stage) -> None:
    giver, receiver = await rich(stage), await stage.person()
    givers, receivers = await stage.js_phone(giver), await stage.js_phone(receiver)

    data = await givers.do("wallet:gift", toUserId=receiver, amount=0.1, note="for you ♥", actionId=action_id())

    [sent], [received] = await givers.told("points_deducted"), await receivers.told("points_earned")
    assert data == {"transactionId": sent["id"], "newBalance": 9.9}
    assert sent == {
        "id": sent["id"], "seq": 2, "type": "points_deducted", "eventType": "wallet:points:deducted",
        "recipientIds": [giver], "timestamp": sent["timestamp"],
        "data": {
            "userId": giver, "currency": "LYK", "action": "gift_sent", "points": 0.1, "newBalance": 9.9,
            "previousBalance": 10, "reason": "Sent a gift", "timestamp": sent["timestamp"],
            "metadata": {"toUserId": receiver, "note": "for you ♥"},
        },
    }  # fmt: skip
    assert received["eventType"] == "wallet:points:earned"
    assert received["data"] == {
        "userId": receiver, "currency": "LYK", "action": "gift_received", "points": 0.1, "newBalance": 0.1,
        "previousBalance": 0, "reason": "Received a gift", "timestamp": received["timestamp"],
        "metadata": {"fromUserId": giver, "note": "for you ♥"},
    }  # fmt: skip
    [row, _] = (await givers.do("wallet:history"))["transactions"]
    [other] = (await receivers.do("wallet:history"))["transactions"]
    assert row | {"createdAt": ""} == {
        "id": sent["id"], "userId": giver, "currency": "LYK", "n": 2, "action": "gift_sent", "points": -0.1,
        "balanceBefore": 10, "balanceAfter": 9.9, "counterAccount": f"user:{receiver}", "transferId": sent["id"],
        "status": "completed", "reason": "Sent a gift", "metadata": sent["data"]["metadata"], "createdAt": "",
    }  # fmt: skip
    assert (other["transferId"], other["counterAccount"], other["points"]) == (sent["id"], f"user:{giver}", 0.1)


async def test_a_purchase_and_a_boost(stage: Stage) -> None:
    buyer = await rich(stage)
    video, rose = await stage.video(await stage.person()), await item(stage, 2.5)
    phone = await stage.js_phone(buyer)

    bought = await phone.do("wallet:purchase", itemId=rose, actionId=action_id())
    boosted = await phone.do("wallet:boost", videoId=video, amount=7.5, actionId=action_id())

    first, second = await phone.told("points_deducted", 2)
    assert [bought, boosted] == [
        {"transactionId": first["id"], "newBalance": 7.5}, {"transactionId": second["id"], "newBalance": 0},
    ]  # fmt: skip
    assert (first["data"]["action"], first["data"]["metadata"]) == ("purchase", {"itemId": rose, "itemName": "A rose"})
    assert (second["data"]["action"], second["data"]["metadata"]) == ("boost_post", {"videoId": video})
    error = await phone.fail("insufficient_funds", "wallet:purchase", {"itemId": rose, "actionId": action_id()})
    assert (error["need"], error["have"], error["retryable"]) == (2.5, 0, False)


async def test_deductions_and_corrections_of_a_backend(stage: Stage) -> None:
    user = await rich(stage)
    phone = await stage.js_phone(user)
    deduction = {"actionId": action_id(), "userId": user, "amount": 2.25, "reason": "Spam", "metadata": {"case": 7}}

    answer = await stage.server.ask("POST", "/v1/wallet/deductions", deduction)
    again = await stage.server.ask("POST", "/v1/wallet/deductions", deduction)
    corrected = await correct(stage, user, -0.75, reason="Counted twice")

    [told] = await phone.told("points_deducted")
    [updated] = await phone.told("wallet_update")
    assert answer.body == {"ok": True, "data": {"transactionId": told["id"], "newBalance": 7.75}}
    assert again.body == {**answer.body, "replayed": True}
    assert corrected == {"ok": True, "data": {"transactionId": updated["id"], "newBalance": 7}}
    assert (told["data"]["action"], told["data"]["reason"], told["data"]["metadata"]) == (
        "penalty", "Spam", {"case": 7},
    )  # fmt: skip
    assert updated["eventType"] == "wallet:balance:updated"
    assert updated["data"] == {
        "userId": user, "currency": "LYK", "newBalance": 7, "previousBalance": 7.75, "reason": "Counted twice",
        "timestamp": updated["timestamp"],
    }  # fmt: skip
    too_much = await stage.server.ask(
        "POST", "/v1/wallet/deductions", deduction | {"actionId": action_id(), "amount": 8}
    )
    assert (too_much.status, too_much.body["code"], too_much.body["need"], too_much.body["have"]) == (
        402, "insufficient_funds", 8, 7,
    )  # fmt: skip
    theirs = stage.server.token(user)
    refused = await stage.server.ask("POST", "/v1/wallet/corrections", deduction, token=theirs)
    assert (refused.status, refused.body["code"]) == (403, "forbidden")
    for event in ("wallet:deduct", "wallet:correct"):
        assert await phone.fail("unknown_event", event, deduction)
        answer = await stage.server.ask("POST", f"/v1/actions/{event}", deduction, token=theirs)
        assert (answer.status, answer.body["code"]) == (404, "unknown_event")


async def test_the_last_coin_over_two_doors_and_three_connections(stage: Stage) -> None:
    user, friend = await rich(stage, 1), await stage.person()
    phones = [await stage.js_phone(user), await stage.phone(user)]
    gift = {"toUserId": friend, "amount": 1}
    token = stage.server.token(user)
    for _ in range(5):
        answers = await asyncio.gather(
            *(phone.call("wallet:gift", gift | {"actionId": action_id()}) for phone in phones for _ in range(2)),
            *(
                stage.server.ask("POST", "/v1/actions/wallet:gift", gift | {"actionId": action_id()}, token=token)
                for _ in range(2)
            ),
        )
        outcomes = [answer if isinstance(answer, dict) else answer.body for answer in answers]
        codes = [(each.get("error") or each).get("code", "ok") for each in outcomes]
        assert sorted(codes) == ["insufficient_funds"] * 5 + ["ok"]
        assert await stage.balance(user) == (0, (await stage.inbox(user))["seq"])
        await correct(stage, user, 1)


async def test_the_same_key_over_any_door_is_one_gift(stage: Stage) -> None:
    giver, receiver = await rich(stage), await stage.person()
    phones = [await stage.js_phone(giver), await stage.phone(giver)]
    gift = {"toUserId": receiver, "amount": 3, "actionId": action_id()}
    token = stage.server.token(giver)
    *answers, over_http = await asyncio.gather(
        *(phone.call("wallet:gift", gift) for phone in phones),
        stage.server.ask("POST", "/v1/actions/wallet:gift", gift, token=token),
    )
    outcomes = [*answers, over_http.body]
    assert [outcome["data"] for outcome in outcomes] == [outcomes[0]["data"]] * 3
    assert sum("replayed" in outcome for outcome in outcomes) == 2
    assert (await stage.balance(giver))[0] == 7
    kept = await stage.server.ask("GET", f"/v1/actions/{gift['actionId']}", token=token)
    assert kept.body["data"] == outcomes[0]["data"]


async def test_fraud_is_blocked_and_that_is_kept(stage: Stage) -> None:
    giver, suspended = await rich(stage), await stage.person(status="suspended")
    phone = await stage.js_phone(giver)
    key = action_id()
    for receiver in (giver, suspended):
        await phone.fail("fraud_blocked", "wallet:gift", {"toUserId": receiver, "amount": 1, "actionId": action_id()})
    to_suspended = {"toUserId": suspended, "amount": 1, "actionId": key}
    await phone.fail("fraud_blocked", "wallet:gift", to_suspended)
    assert (await phone.call("wallet:gift", to_suspended))["replayed"]
    over_http = await stage.server.ask("POST", "/v1/actions/wallet:gift", to_suspended, token=stage.server.token(giver))
    assert (over_http.status, over_http.body["code"], over_http.body["replayed"]) == (403, "fraud_blocked", True)
    await stage.server.ask("PUT", f"/v1/users/{suspended}", {"status": "active"})
    assert (await stage.balance(giver))[0] == 10


@pytest.mark.parametrize("amount", [0, -1, 0.001, "1", None, True, [1], 1_000_000.01])
async def test_what_is_no_amount_is_named_and_changes_nothing(stage: Stage, amount: Any) -> None:
    giver, receiver = await rich(stage), await stage.person()
    phone = await stage.js_phone(giver)
    payload = {"toUserId": receiver, "amount": amount, "actionId": action_id()}
    assert (await phone.fail("invalid_payload", "wallet:gift", payload))["field"] == "amount"
    answer = await stage.server.ask("POST", "/v1/actions/wallet:gift", payload, token=stage.server.token(giver))
    assert (answer.status, answer.body["field"]) == (400, "amount")
    assert (await phone.do("wallet:gift", **payload | {"amount": 1}))["newBalance"] == 9, "its key is free"


async def test_unknown_users_items_and_videos_are_not_found(stage: Stage) -> None:
    phone = await stage.js_phone(await rich(stage))
    for event, payload, field in (
        ("wallet:gift", {"toUserId": 2**53 - 1, "amount": 1}, "toUserId"),
        ("wallet:purchase", {"itemId": "nothing"}, "itemId"),
        ("wallet:boost", {"videoId": "nowhere", "amount": 1}, "videoId"),
    ):
        assert (await phone.fail("not_found", event, {**payload, "actionId": action_id()}))["field"] == field


async def test_an_operator_s_change_of_an_award_holds_within_a_second(stage: Stage) -> None:
    creator, viewer = await stage.person(followers=CREATOR), await stage.person(follows=VIEWER)
    phone = await stage.js_phone(viewer)
    admin = stage.server.token("ops", "admin")
    path = "/v1/awards/video_shared"
    try:
        put = await stage.server.ask("PUT", path, {"points": 0.5, "threshold": 100}, token=admin)
        assert (put.status, put.body) == (200, {"points": 0.5, "threshold": 100})
        share = await phone.do("video:share", videoId=await stage.video(creator), actionId=action_id())
        assert share["award"] == {"points": 0.5, "newBalance": 0.5}, "at once on the node that was told"
        done = await asyncio.to_thread(stage.server.run, "awards", "list")
        assert done.returncode == 0, done.stderr
        changed = await asyncio.to_thread(_set_award, stage, "0.25")
        assert changed == 0
        async with asyncio.timeout(PATIENCE_S):
            while True:
                share = await phone.do("video:share", videoId=await stage.video(creator), actionId=action_id())
                if share["award"]["points"] == 0.25:
                    break
        history = (await stage.server.ask("GET", f"{path}/history?limit=2", token=admin)).body["history"]
        assert [row["points"] for row in history] == [0.25, 0.5]
        assert history[0]["changedBy"].startswith("cli:")
        assert history[1]["changedBy"] == "ops"
    finally:
        await stage.server.ask("PUT", path, {"points": 2, "threshold": 100}, token=admin)


def _set_award(stage: Stage, points: str) -> int:
    return stage.server.run("awards", "set", "video_shared", "--points", points).returncode

"""Batches of spends on the real database: gifts, purchases, boosts, deductions, corrections."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from handlers.errors import Refusal
from handlers.inbox.envelope import render
from handlers.money import MAX_MINOR
from storage import db, heads, items
from storage.audit import audit
from storage.items import StoredItem
from tests.support.engagements import Batches, awards_of, seed
from tests.support.engagements import asked as acted
from tests.support.spending import (
    ANN,
    BEN,
    CLEO,
    SUSPENDED,
    Asked,
    Spends,
    asked,
    boost,
    codes,
    corrected,
    deducted,
    gift,
    lyk_of,
    purchase,
    seed_wallets,
)


@pytest.fixture
async def spends(conn: asyncpg.Connection) -> Spends:
    """Runs batches on `conn`, whose database has people with 10 LYK (Ann), 5 (Ben) and none (Cleo)."""
    await seed_wallets(conn, ann=10, ben=5)
    return Spends(conn)


@pytest.fixture(autouse=True)
async def _audited(conn: asyncpg.Connection) -> Any:
    """Whatever a test does, the books are right afterwards."""
    yield
    assert await audit(conn) == []


def told(spends: Spends, user_id: int) -> list[Any]:
    return [json.loads(render(event.row)) for event in spends.events if event.user_id == user_id]


# -- each verb ---------------------------------------------------------------------------------------------------------


async def test_a_gift_moves_from_one_wallet_to_the_other(spends: Spends, conn: asyncpg.Connection) -> None:
    [data] = await spends.data(gift(ANN, BEN, 2.5, note="for you"))
    assert await lyk_of(conn) == {ANN: 750, BEN: 750}
    [sent], [received] = told(spends, ANN), told(spends, BEN)
    assert data == {"transactionId": sent["id"], "newBalance": 7.5}
    assert (sent["type"], sent["eventType"], sent["seq"]) == ("points_deducted", "wallet:points:deducted", 2)
    assert sent["data"] == {
        "userId": ANN, "currency": "LYK", "action": "gift_sent", "points": 2.5, "newBalance": 7.5,
        "previousBalance": 10, "reason": "Sent a gift", "timestamp": sent["timestamp"],
        "metadata": {"toUserId": BEN, "note": "for you"},
    }  # fmt: skip
    assert (received["type"], received["eventType"]) == ("points_earned", "wallet:points:earned")
    assert received["data"] == {
        "userId": BEN, "currency": "LYK", "action": "gift_received", "points": 2.5, "newBalance": 7.5,
        "previousBalance": 5, "reason": "Received a gift", "timestamp": received["timestamp"],
        "metadata": {"fromUserId": ANN, "note": "for you"},
    }  # fmt: skip
    rows = await conn.fetch(
        "SELECT user_id, points, counter_account, transfer_id::text, status FROM wallet_transactions"
        " WHERE action LIKE 'gift%' ORDER BY user_id"
    )
    assert [tuple(row) for row in rows] == [
        (ANN, -250, f"user:{BEN}", data["transactionId"], "completed"),
        (BEN, 250, f"user:{ANN}", data["transactionId"], "completed"),
    ]


async def test_a_purchase_costs_what_the_catalogue_says(spends: Spends, conn: asyncpg.Connection) -> None:
    [data] = await spends.data(purchase(ANN))
    [event] = told(spends, ANN)
    assert data == {"transactionId": event["id"], "newBalance": 7.5}
    assert (event["type"], event["data"]["action"], event["data"]["points"]) == ("points_deducted", "purchase", 2.5)
    assert event["data"]["metadata"] == {"itemId": "rose", "itemName": "A rose"}
    row = await conn.fetchrow("SELECT points, counter_account, transfer_id FROM wallet_transactions ORDER BY n DESC")
    assert tuple(row) == (-250, "platform:purchases", None)
    await items.upsert_item(conn, StoredItem("rose", "A red rose", 300, "LYK"))
    assert (await spends.data(purchase(ANN)))[0]["newBalance"] == 4.5
    assert told(spends, ANN)[-1]["data"]["metadata"]["itemName"] == "A red rose"
    assert told(spends, ANN)[0] == event, "what was told stays as it was told"


async def test_a_boost_names_its_video(spends: Spends, conn: asyncpg.Connection) -> None:
    [data] = await spends.data(boost(ANN, 0.01))
    [event] = told(spends, ANN)
    assert (data["newBalance"], event["data"]["action"], event["data"]["points"]) == (9.99, "boost_post", 0.01)
    assert event["data"]["metadata"] == {"videoId": "a"}
    assert told(spends, BEN) == [], "it is nobody else's"


@pytest.mark.parametrize(
    ("deed", "what", "action", "points"),
    [
        (lambda: gift(ANN, BEN, 2.5), "wallet:gift", "gift_sent", -2.5),
        (lambda: purchase(ANN), "wallet:purchase", "purchase", -2.5),
        (lambda: boost(ANN, 0.01), "wallet:boost", "boost_post", -0.01),
    ],
)
async def test_what_somebody_spends_is_logged_once(
    spends: Spends, conn: asyncpg.Connection, deed: Any, what: str, action: str, points: float
) -> None:
    [data] = await spends.data(deed())
    [entry] = await conn.fetch("SELECT * FROM audit_log WHERE who = $1", str(ANN))
    assert (entry["who"], entry["what"], entry["target"]) == (str(ANN), what, f"user:{ANN}")
    assert json.loads(entry["before"]) == {"currency": "LYK", "balance": 10}
    after = json.loads(entry["after"])
    assert (after["action"], after["points"], after["transactionId"]) == (action, points, data["transactionId"])
    assert (await spends.run(gift(ANN, BEN, 100)))[0]["ok"] is False
    assert await conn.fetchval("SELECT count(*) FROM audit_log WHERE who = $1", str(ANN)) == 1, "a refusal is no action"


@pytest.mark.parametrize(
    ("fields", "action", "counter_account"),
    [
        ({}, "penalty", "platform:issuance"),
        ({"action": "penalty", "currency": "LYK"}, "penalty", "platform:issuance"),
        ({"action": "withdrawal"}, "withdrawal", "platform:payouts"),
    ],
)
async def test_a_deduction_is_told_with_its_reason_and_logged(
    spends: Spends, conn: asyncpg.Connection, fields: dict[str, Any], action: str, counter_account: str
) -> None:
    [data] = await spends.data(deducted(ANN, 3, metadata={"case": "c-1", "weight": 0.1}, **fields))
    [event] = told(spends, ANN)
    assert data == {"transactionId": event["id"], "newBalance": 7}
    assert (event["type"], event["data"]["action"], event["data"]["points"]) == ("points_deducted", action, 3)
    assert (event["data"]["reason"], event["data"]["metadata"]) == ("Spam", {"case": "c-1", "weight": 0.1})
    row = await conn.fetchrow("SELECT counter_account FROM wallet_transactions WHERE action = $1", action)
    assert row["counter_account"] == counter_account
    entry = await conn.fetchrow("SELECT * FROM audit_log ORDER BY id DESC LIMIT 1")
    assert (entry["who"], entry["what"], entry["target"]) == ("shop", "wallet:deduct", f"user:{ANN}")
    assert json.loads(entry["before"]) == {"currency": "LYK", "balance": 10}
    assert json.loads(entry["after"]) == {
        "currency": "LYK", "balance": 7, "action": action, "points": -3, "reason": "Spam", "transactionId": event["id"],
    }  # fmt: skip


@pytest.mark.parametrize(("amount", "balance"), [(1.25, 11.25), (-10, 0)])
async def test_a_correction_is_an_update(
    spends: Spends, conn: asyncpg.Connection, amount: float, balance: float
) -> None:
    [data] = await spends.data(corrected(ANN, amount, reason="Counted wrongly"))
    [event] = told(spends, ANN)
    assert data == {"transactionId": event["id"], "newBalance": balance}
    assert (event["type"], event["eventType"]) == ("wallet_update", "wallet:balance:updated")
    assert event["data"] == {
        "userId": ANN, "currency": "LYK", "newBalance": balance, "previousBalance": 10, "reason": "Counted wrongly",
        "timestamp": event["timestamp"],
    }  # fmt: skip
    assert await conn.fetchval("SELECT what FROM audit_log ORDER BY id DESC LIMIT 1") == "wallet:correct"


# -- too little --------------------------------------------------------------------------------------------------------


async def test_too_little_says_what_it_takes_and_what_there_is_and_changes_nothing(
    spends: Spends, conn: asyncpg.Connection
) -> None:
    before = await conn.fetch("SELECT * FROM accounts ORDER BY user_id")
    answers = await spends.run(gift(BEN, ANN, 5.01), purchase(CLEO), boost(CLEO, 0.01), deducted(BEN, 6),
                               corrected(CLEO, -0.5))  # fmt: skip
    assert codes(answers) == ["insufficient_funds"] * 5
    assert [(answer["error"]["need"], answer["error"]["have"]) for answer in answers] == [
        (5.01, 5), (2.5, 0), (0.01, 0), (6, 5), (0.5, 0),
    ]  # fmt: skip
    assert not any(answer["error"]["retryable"] for answer in answers)
    assert await conn.fetch("SELECT * FROM accounts ORDER BY user_id") == before
    assert spends.events == []


async def test_that_it_was_too_little_is_kept(spends: Spends, conn: asyncpg.Connection) -> None:
    [first] = await spends.run(gift(CLEO, ANN, 1, actionId="the-key-1"))
    await spends.data(corrected(CLEO, 5))
    [again] = await spends.run(gift(CLEO, ANN, 1, actionId="the-key-1"))
    assert again == {**first, "replayed": True}
    await spends.data(gift(CLEO, ANN, 1))
    assert (await lyk_of(conn))[CLEO] == 400


async def test_all_of_it_can_be_spent_and_what_is_reserved_can_not(spends: Spends, conn: asyncpg.Connection) -> None:
    await conn.execute("UPDATE accounts SET reserved = 400 WHERE user_id = $1", ANN)
    [answer] = await spends.run(boost(ANN, 6.01))
    assert (answer["error"]["need"], answer["error"]["have"]) == (6.01, 6)
    assert (await spends.data(boost(ANN, 6)))[0]["newBalance"] == 4
    await conn.execute("UPDATE accounts SET reserved = 0")
    assert (await spends.data(boost(ANN, 4)))[0]["newBalance"] == 0


async def test_of_two_spends_of_the_last_coin_in_one_batch_the_first_wins(
    spends: Spends, conn: asyncpg.Connection
) -> None:
    answers = await spends.run(gift(ANN, CLEO, 10), gift(ANN, BEN, 10), boost(ANN, 0.01), gift(CLEO, BEN, 10))
    assert codes(answers) == ["ok", "insufficient_funds", "insufficient_funds", "ok"], "what came in can go out again"
    assert await lyk_of(conn) == {BEN: 1500}


async def test_many_spends_of_many_users_in_one_batch(spends: Spends, conn: asyncpg.Connection) -> None:
    batch = [gift(giver, receiver, 0.5) for giver in (ANN, BEN) for receiver in (BEN, ANN, CLEO) if giver != receiver]
    answers = await spends.run(*batch, purchase(ANN), boost(BEN, 1), deducted(CLEO, 1), corrected(CLEO, 3))
    assert codes(answers) == ["ok"] * 8
    assert await lyk_of(conn) == {ANN: 1000 - 100 + 50 - 250, BEN: 500 - 100 + 50 - 100, CLEO: 100 - 100 + 300}
    assert [event["seq"] for event in told(spends, CLEO)] == [1, 2, 3, 4]


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_fraud_is_blocked_from_the_first_and_that_is_kept(spends: Spends, conn: asyncpg.Connection) -> None:
    await conn.execute("UPDATE accounts SET reserved = 0")
    deeds = [
        gift(ANN, ANN, 1, actionId="to-myself-1"), gift(ANN, SUSPENDED, 1, actionId="suspended-1"),
        gift(SUSPENDED, ANN, 1, actionId="suspended-2"), purchase(SUSPENDED, actionId="suspended-3"),
        boost(SUSPENDED, 1, actionId="suspended-4"),
    ]  # fmt: skip
    answers = await spends.run(*deeds)
    assert codes(answers) == ["fraud_blocked"] * 5, "whether or not there is enough"
    await conn.execute("UPDATE users SET status = 'active'")
    [again] = await spends.run(gift(ANN, SUSPENDED, 1, actionId="suspended-1"))
    assert again == {**answers[1], "replayed": True}
    assert await lyk_of(conn) == {ANN: 1000, BEN: 500}
    assert codes(await spends.run(gift(ANN, SUSPENDED, 1))) == ["ok"]


async def test_somebody_suspended_can_be_fined_and_corrected(spends: Spends, conn: asyncpg.Connection) -> None:
    assert codes(await spends.run(corrected(SUSPENDED, 5), deducted(SUSPENDED, 1))) == ["ok", "ok"]
    assert (await lyk_of(conn))[SUSPENDED] == 400


@pytest.mark.parametrize(
    ("deed", "code", "field"),
    [
        (lambda: gift(ANN, 404, 1), "not_found", "toUserId"),
        (lambda: purchase(ANN, "thorn"), "not_found", "itemId"),
        (lambda: boost(ANN, 1, "nowhere"), "not_found", "videoId"),
        (lambda: deducted(404, 1), "not_found", "userId"),
        (lambda: corrected(404, 1), "not_found", "userId"),
        (lambda: deducted(ANN, 1, currency="XYZ"), "invalid_payload", "currency"),
        (lambda: corrected(ANN, 1, currency="XYZ"), "invalid_payload", "currency"),
        (lambda: gift(ANN, BEN, 1_000_000.01), "invalid_payload", "amount"),
        (lambda: boost(ANN, 1_000_001), "invalid_payload", "amount"),
        (lambda: corrected(ANN, -1_000_000.01), "invalid_payload", "amount"),
    ],
)
async def test_a_refusal_that_leaves_no_trace(
    spends: Spends, conn: asyncpg.Connection, deed: Any, code: str, field: str
) -> None:
    keys = "SELECT (SELECT count(*) FROM money_requests) + (SELECT count(*) FROM backend_requests)"
    before = await conn.fetchval(keys)
    refused, [refusal, other] = deed(), await spends.run(deed(), boost(ANN, 1))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.field) == (code, field)
    assert other["ok"], "and the rest of its batch does not suffer"
    assert await conn.fetchval(keys) == before + 1
    assert refused.answers == []


async def test_what_is_there_later_can_be_bought_with_the_same_key(spends: Spends, conn: asyncpg.Connection) -> None:
    assert codes(await spends.run(purchase(ANN, "thorn", actionId="the-key-1"))) == ["not_found"]
    await items.upsert_item(conn, StoredItem("thorn", "A thorn", 1, "LYK"))
    [answer] = await spends.run(purchase(ANN, "thorn", actionId="the-key-1"))
    assert (answer["data"]["newBalance"], "replayed" in answer) == (9.99, False)


async def test_a_deleted_video_is_not_found_but_its_boosts_are_replayed(
    spends: Spends, conn: asyncpg.Connection
) -> None:
    [first] = await spends.run(boost(ANN, 1, actionId="the-key-1"))
    await conn.execute("UPDATE videos SET deleted_at = now()")
    assert codes(await spends.run(boost(ANN, 1))) == ["not_found"]
    assert await spends.run(boost(ANN, 1, actionId="the-key-1")) == [{**first, "replayed": True}]


async def test_a_balance_stays_what_a_phone_can_show(spends: Spends, conn: asyncpg.Connection) -> None:
    await Spends(conn, max_amount=MAX_MINOR // 100).data(corrected(BEN, 9_999_999_999_989.99))
    answers = await spends.run(gift(ANN, BEN, 5.01), corrected(BEN, 5.01))
    assert codes(answers) == ["conflict", "conflict"]
    assert answers[0]["error"]["field"] == "amount"
    [data] = await spends.data(gift(ANN, BEN, 5))
    assert data["newBalance"] == 5
    assert (await lyk_of(conn))[BEN] == MAX_MINOR


# -- keys --------------------------------------------------------------------------------------------------------------

EACH = [
    lambda: gift(ANN, BEN, 1, actionId="the-key-1"),
    lambda: purchase(ANN, actionId="the-key-1"),
    lambda: boost(ANN, 1, actionId="the-key-1"),
    lambda: deducted(ANN, 1, actionId="the-key-1"),
    lambda: corrected(ANN, -1, actionId="the-key-1"),
]


@pytest.mark.parametrize("deed", EACH)
@pytest.mark.parametrize("same_batch", [True, False])
async def test_the_same_key_is_answered_again_and_changes_nothing(
    spends: Spends, conn: asyncpg.Connection, deed: Any, same_batch: bool
) -> None:
    log = await conn.fetchval("SELECT count(*) FROM audit_log")
    if same_batch:
        first, second = await spends.run(deed(), deed())
    else:
        [first], [second] = await spends.run(deed()), await spends.run(deed())
    assert first["ok"]
    assert second == {**first, "replayed": True}
    assert len([event for event in spends.events if event.user_id == ANN]) == 1
    assert await conn.fetchval("SELECT count(*) FROM audit_log") <= log + 1


async def test_a_key_belongs_to_one_action(spends: Spends, conn: asyncpg.Connection) -> None:
    answers = await spends.run(*(deed() for deed in EACH[:3]), gift(ANN, BEN, 2, actionId="the-key-1"))
    assert codes(answers) == ["ok", *["idempotency_conflict"] * 3]
    answers = await spends.run(*(deed() for deed in EACH[3:]), deducted(BEN, 1, actionId="the-key-1"))
    assert codes(answers) == ["ok", "idempotency_conflict", "idempotency_conflict"]
    assert await lyk_of(conn) == {ANN: 800, BEN: 600}


async def test_backends_keys_are_each_subject_s_own(spends: Spends, conn: asyncpg.Connection) -> None:
    deeds = [deducted(ANN, 1, subject=who, actionId="the-key-1") for who in ("shop", "police", str(ANN))]
    answers = await spends.run(*deeds, gift(ANN, BEN, 1, actionId="the-key-1"))
    assert codes(answers) == ["ok"] * 4
    assert len({answer["data"]["transactionId"] for answer in answers}) == 4


async def test_keys_of_spends_last_thirty_days(spends: Spends, conn: asyncpg.Connection) -> None:
    await spends.run(gift(ANN, BEN, 1, actionId="the-key-1"))
    await conn.execute("UPDATE money_requests SET created_at = created_at - interval '29 days 23 hours'")
    [kept] = await spends.run(gift(ANN, BEN, 1, actionId="the-key-1"))
    assert kept["replayed"]
    await conn.execute("UPDATE money_requests SET created_at = created_at - interval '2 hours'")
    [again] = await spends.run(gift(ANN, BEN, 1, actionId="the-key-1"))
    assert "replayed" not in again
    assert again["data"]["transactionId"] != kept["data"]["transactionId"]


async def test_a_batch_that_runs_again_after_an_unknown_commit_is_no_replay(spends: Spends) -> None:
    deed = gift(ANN, BEN, 1)
    [first] = await spends.run(deed)
    deed.deed.attempted = True
    assert await spends.run(deed) == [first]


# -- other nodes, other domains ----------------------------------------------------------------------------------------


async def test_who_is_held_waits_and_the_others_don_t(spends: Spends, conn: asyncpg.Connection, dsn: str) -> None:
    other = await db.connect(dsn)
    async with other.transaction():
        await heads.lock(other, [BEN])
        batch = [gift(ANN, BEN, 1), boost(ANN, 1), deducted(CLEO, 1), corrected(BEN, 1)]
        answers = await spends.run(*batch, skip_locked=True)
    await other.close()
    assert codes(answers) == ["later", "later", "insufficient_funds", "later"], "and one's later spends with them"
    assert codes(await spends.run(*(each for each, answer in zip(batch, answers, strict=True) if answer is None))) == [
        "ok", "ok", "ok",
    ]  # fmt: skip


async def test_two_nodes_at_once_leave_one_winner(spends: Spends, conn: asyncpg.Connection, dsn: str) -> None:
    others = [await db.connect(dsn) for _ in range(4)]
    nodes = [Spends(other) for other in others]
    for turn in range(10):
        await spends.data(corrected(CLEO, 1))
        last_coin = [
            [gift(CLEO, ANN, 1)], [purchase(ANN), gift(CLEO, BEN, 1)], [boost(CLEO, 1)], [deducted(CLEO, 1)],
        ]  # fmt: skip
        answers = await asyncio.gather(*(node.run(*deeds) for node, deeds in zip(nodes, last_coin, strict=True)))
        assert sorted(codes([each[-1] for each in answers])) == ["insufficient_funds"] * 3 + ["ok"], turn
        await spends.data(corrected(ANN, 2.5))
    for other in others:
        await other.close()
    assert CLEO not in await lyk_of(conn)


async def test_the_same_key_through_two_nodes_at_once(spends: Spends, conn: asyncpg.Connection, dsn: str) -> None:
    others = [await db.connect(dsn) for _ in range(4)]
    nodes = [Spends(other) for other in others]

    async def run(node: Spends, deed: Asked) -> Any:
        while True:  # as the lane does with a key that somebody else took a moment ago
            try:
                return (await node.run(deed))[0]
            except asyncpg.UniqueViolationError as error:
                if not db.is_retryable(error):
                    raise

    for turn in range(5):
        for make in (
            lambda key: gift(ANN, BEN, 0.1, actionId=key),
            lambda key: deducted(ANN, 0.1, actionId=key),
        ):
            answers = await asyncio.gather(*(run(node, make(f"turn-{turn:08}")) for node in nodes))
            assert sum("replayed" in answer for answer in answers) == 3
            assert len({answer["data"]["transactionId"] for answer in answers}) == 1
    for other in others:
        await other.close()
    assert await lyk_of(conn) == {ANN: 1000 - 2 * 5 * 10, BEN: 500 + 5 * 10}


async def test_after_another_domain_of_the_same_transaction_seqs_and_balances_go_on(conn: asyncpg.Connection) -> None:
    """As gateway.batch runs domains in turn: one lock, and each sees what the one before it has written."""
    await seed(conn)
    likes, spends = Batches(conn, await awards_of(conn)), Spends(conn)
    fan = 10
    like, present = acted(fan, "video:like").deed, gift(fan, 11, 0.4).deed
    handlers = [(likes._handler, like), (spends._handler, present)]
    concerns = [await handler.resolve(conn, [deed]) for handler, deed in handlers]
    async with conn.transaction():
        locked = await heads.lock(conn, set().union(*(concern.user_ids for concern in concerns)))
        for (handler, deed), concern in zip(handlers, concerns, strict=True):
            result = await handler.run(conn, [deed], concern, locked)
            locked.update({event.user_id: event.seq for event in result.events})
    assert json.loads(result.answers[0].outcome)["data"]["newBalance"] == 0.6  # type: ignore[arg-type]
    assert await conn.fetchval("SELECT seq FROM heads WHERE user_id = $1", fan) == 2


async def test_whom_nobody_knows_spends_nothing(spends: Spends) -> None:
    """However their deed came here: it is answered, and does not wait for a head that there is not."""
    assert codes(await spends.run(asked(404, "wallet:boost", videoId="a", amount=1))) == ["not_found"]

"""Door 3 on a real broker and database: what other backends write, and what is not as it should be."""

from __future__ import annotations

import base64
import itertools
import json
import os
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from gateway import ground, settings
from gateway.intake import partition, sender
from handlers.inbox.envelope import render
from storage import users
from storage.audit import audit
from tests.support.intake import Backends, Flow, backends, command, event, taking, user, video

_prefixes = itertools.count(1)


@pytest.fixture
async def others(kafka: str, conn: asyncpg.Connection) -> AsyncIterator[Backends]:
    """Backends whose topics have two partitions; users 1 to 20 are there."""
    await users.insert_unknown_users(conn, range(1, 21), [None] * 20)
    async with backends(kafka, f"test-{os.getpid()}-{next(_prefixes)}") as made:
        yield made
        assert await audit(conn) == []


async def inbox(conn: asyncpg.Connection, user_id: int) -> list[str]:
    rows = await conn.fetch("SELECT event_id FROM inbox WHERE user_id = $1 ORDER BY seq", user_id)
    return [row[0] for row in rows]


async def test_all_kinds_of_records_are_taken_in(others: Backends, dsn: str, conn: asyncpg.Connection) -> None:
    await others.write("events", event(1, 2, id="a"), event(1, id="b", ephemeral=True), event(1, 77, id="c"))
    await others.write("events", event(id="d", recipientIds=..., topic="live:x"), partition=1)
    await others.write("commands", command("award", 1, 5, id="one"), command("deduct", 1, 2, id="two"))
    await others.write("commands", command("deduct", 1, 20, id="three"), command("correct", 1, -1, id="four"))
    await others.write("commands", command("award", 77, 1, id="five", action="refund"), partition=1)
    await others.write("directory", user(30, username="new", followersCount=3), video("v", ownerId=30, title="V"))
    async with taking(dsn, others) as taker:
        await others.all_taken_in(conn)
        assert (await inbox(conn, 1), await inbox(conn, 2)) == (["a", "c"], ["a"])
        assert [each.user_id for each in taker.told].count(1) == 2 + 3
        assert {json.loads(envelope)["id"]: to for to, envelope in taker.ephemeral} == {"b": [1], "d": "live:x"}
        given = await others.outcomes(5)
        assert {name: each.get("data", each.get("error")) for name, each in given.items()} == {
            "one": {"transactionId": given["one"]["data"]["transactionId"], "newBalance": 5},
            "two": {"transactionId": given["two"]["data"]["transactionId"], "newBalance": 3},
            "three": {
                "code": "insufficient_funds", "message": "There is not enough in the wallet.", "retryable": False,
                "need": 20, "have": 3,
            },
            "four": {"transactionId": given["four"]["data"]["transactionId"], "newBalance": 2},
            "five": {"code": "not_found", "message": "There is no such user.", "retryable": False, "field": "userId"},
        }  # fmt: skip
        assert [each["source"] for each in given.values()] == ["shop"] * 5
        earned = json.loads(
            render(next(each for each in taker.told if each.row.user_id == 1 and hasattr(each.row, "n")).row)
        )
        assert (earned["type"], earned["eventType"]) == ("points_earned", "wallet:points:earned")
        assert (earned["data"]["action"], earned["data"]["reason"]) == ("campaign_reward", "As promised")
        assert await conn.fetchval("SELECT title FROM videos v JOIN users u ON u.id = v.owner_id") == "V"
        records = taker.door.counts.records
        assert records["events", "ok"] == 4
        assert (records["commands", "ok"], records["commands", "insufficient_funds"]) == (3, 1)
        assert (records["commands", "not_found"], records["directory", "ok"]) == (1, 2)
    async with taking(dsn, others) as again:
        await again.has_partitions(6)
        await others.write("events", event(1, id="e"))
        await others.all_taken_in(conn)
        assert again.door.counts.records["events", "ok"] == 1, "it goes on where the other one was"
    assert await inbox(conn, 1) == ["a", "c", "e"]


async def test_who_writes_twice_is_heard_once(others: Backends, dsn: str, conn: asyncpg.Connection) -> None:
    same, award, rename = event(1, 2, id="same"), command("award", 1, 5, id="same"), user(1, id="same", username="ann")
    async with taking(dsn, others) as taker:
        for partition in (0, 1, 0):
            await others.write("events", same, same, partition=partition)
            await others.write("commands", award, award, partition=partition)
            await others.write("directory", rename, user(1, username="anna"), rename, partition=partition)
        await others.write("events", same | {"data": {}})
        await others.all_taken_in(conn)
        assert await inbox(conn, 1) == ["same"]
        assert await conn.fetchval("SELECT balance FROM accounts WHERE user_id = 1") == 500
        assert await conn.fetchval("SELECT username FROM users WHERE id = 1") == "anna"
        assert [each["data"]["newBalance"] for each in await others.read("outcomes", 6)] == [5] * 6
        records = taker.door.counts.records
        assert (records["events", "ok"], records["events", "repeated"]) == (1, 5)
        assert records["events", "idempotency_conflict"] == 1
        assert (records["commands", "ok"], records["commands", "repeated"]) == (1, 5)
        assert (records["directory", "ok"], records["directory", "repeated"]) == (4, 5)


async def test_what_can_t_be_read_stops_nothing_and_stands_in_the_dead_letters(
    others: Backends, dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: list[bytes | None] = [b"", b"{", b"\xff\x00", None, b"[]", b'{"source":"x"}', b"x" * 900_000]
    monkeypatch.setattr(partition, "YIELD_EVERY", 2)
    for number, value in enumerate(bad):
        await others.write("events", event(1, id=f"e{number}"))
        await others.write("events", value, key=b"key")
        await others.write("commands", value, command("award", 1, 1, id=f"c{number}"))
        await others.write("directory", value, user(1, followersCount=number))
    await others.write("commands", command("mint", 1, 1), command("award", 1, 1, action="video_liked"))
    await others.write("directory", {**user(1), "kind": "shop"}, user(99, followersCount=1), video("v", ownerId=99))
    async with taking(dsn, others) as taker:
        letters = await others.letters(3 * len(bad) + 5)
        await others.all_taken_in(conn)
        assert taker.door.counts.records["events", "dead_letter"] == len(bad)
    assert await inbox(conn, 1) == [f"e{number}" for number in range(len(bad))]
    assert await conn.fetchval("SELECT balance FROM accounts WHERE user_id = 1") == 100 * len(bad)
    assert await conn.fetchval("SELECT followers_count FROM users WHERE id = 1") == len(bad) - 1
    told = [each for each in letters if each["topic"] == others.topic("events")]
    assert [each["offset"] for each in told] == [2 * number + 1 for number in range(len(bad))]
    assert [None if each["value"] is None else base64.b64decode(each["value"]) for each in told[:-1]] == bad[:-1]
    assert {(each["partition"], base64.b64decode(each["key"])) for each in told} == {(0, b"key")}
    assert (told[0]["reason"], told[1]["reason"]) == ("The value is empty.", "This is not valid JSON.")
    assert told[-1]["reason"] == (
        "This is not valid JSON. (too long for a letter: at most 65536 bytes of each, key and value, are here)"
    )
    assert base64.b64decode(told[-1]["value"]) == b"x" * 65_536
    reasons = {each["reason"] for each in letters if each["topic"] != others.topic("events")}
    assert reasons >= {
        "Invalid value 'mint' - at `$.verb`",
        "Invalid enum value 'video_liked' - at `$.action`",
        "Invalid value 'shop' - at `$.kind`",
        "A new user needs a name. - at `$.username`",
        "There is no such user to own the video. - at `$.ownerId`",
    }


async def test_a_record_that_can_t_be_carried_out_is_a_dead_letter_too(
    others: Backends, dsn: str, conn: asyncpg.Connection
) -> None:
    """A fault of ours, as if it were: the database refuses what passed all checks."""
    await conn.execute("ALTER TABLE inbox ADD CHECK (event_id <> 'bad')")
    await conn.execute("ALTER TABLE users ADD CHECK (followers_count <> 13)")
    async with taking(dsn, others):
        await others.write("events", *(event(1, id="bad" if number == 5 else f"{number}") for number in range(10)))
        await others.write("directory", *(user(number, followersCount=number) for number in range(1, 20)))
        letters = await others.letters(2)
        await others.all_taken_in(conn)
    assert {(each["topic"], each["offset"]) for each in letters} == {
        (others.topic("events"), 5), (others.topic("directory"), 12),
    }  # fmt: skip
    assert all("fault of Applause's" in each["reason"] for each in letters)
    assert await inbox(conn, 1) == [f"{number}" for number in range(10) if number != 5]
    assert await conn.fetchval("SELECT sum(followers_count) FROM users") == sum(range(1, 20)) - 13


async def refuse(others: Backends, topic: str, *, refused: bool) -> None:
    """Whatever is written there is too large; or not any more."""
    wanted = {"max.message.bytes": "10" if refused else "1048588"}
    async with others.admin() as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, others.topic(topic), wanted)])


async def test_where_letters_are_refused_only_that_partition_waits_and_goes_on_by_itself(
    others: Backends, dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "SEND_S", 0.5)
    monkeypatch.setattr(partition, "LONGEST_PAUSE_S", 0.5)
    await refuse(others, "dead-letters", refused=True)
    async with taking(dsn, others) as taker:
        counts = taker.door.counts
        await others.write("events", event(1, id="a"), b"bad", event(1, id="b"))
        await taker.until(lambda: counts.paused == Counter({("events", "dead_letters"): 1}), "the pause")
        await others.write("events", event(1, id="c"), partition=1)
        await others.write("commands", command("award", 1, 1))
        await taker.until(lambda: len(taker.told) == 2, "the other partitions")
        assert (await inbox(conn, 1))[:1] == ["c"]
        assert counts.failed_sends["dead-letters"] > 0
        await refuse(others, "dead-letters", refused=False)
        assert [each["offset"] for each in await others.letters(1)] == [1]
        await others.all_taken_in(conn)
        await taker.until(lambda: not counts.paused.total(), "the end of the pause")
    assert sorted(await inbox(conn, 1)) == ["a", "b", "c"]


async def test_answers_wait_where_their_topic_refuses_them(
    others: Backends, dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "SEND_S", 0.5)
    await refuse(others, "outcomes", refused=True)
    async with taking(dsn, others) as taker:
        await others.write("commands", *(command("award", 1, 1, id=f"{number}") for number in range(30)))
        await taker.until(lambda: taker.door.counts.failed_sends["outcomes"] > 0, "a refusal")
        await taker.until(lambda: len(taker.told) == 30, "all commands")
        assert await conn.fetchval("SELECT count(*) FROM ingress_outcomes") == 30
        await refuse(others, "outcomes", refused=False)
        given = await others.read("outcomes", 30)
        await others.all_taken_in(conn)
    assert list(dict.fromkeys(each["id"] for each in given)) == [f"{number}" for number in range(30)]


async def test_an_offset_that_kafka_has_lost_stops_its_partition_until_a_person_says_where_to_go_on(
    others: Backends, dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "LOOK_FOR_REPAIR_S", 0.1)
    await others.write("events", *(event(1, id=f"{number}") for number in range(5)))
    async with taking(dsn, others):
        await others.all_taken_in(conn)
    await others.write("events", *(event(1, id=f"{number}") for number in range(5, 10)))
    await others.delete_up_to("events", 8)
    async with taking(dsn, others) as taker:
        await taker.until(
            lambda: taker.door.counts.paused == Counter({("events", "offset_out_of_range"): 1}), "the alarm"
        )
        await others.write("events", event(1, id="other"), partition=1)
        await taker.until(lambda: len(taker.told) == 1, "the other partition")
        assert await inbox(conn, 1) == ["0", "1", "2", "3", "4", "other"]
        await conn.execute(
            "UPDATE ingress_offsets SET next = 8 WHERE topic = $1 AND partition = 0", others.topic("events")
        )
        await others.all_taken_in(conn)
        await taker.until(lambda: not taker.door.counts.paused.total(), "the end of the alarm")
    assert await inbox(conn, 1) == ["0", "1", "2", "3", "4", "other", "8", "9"]


async def test_of_a_topic_that_is_older_than_we_are_all_that_there_is_is_taken_in(
    others: Backends, dsn: str, conn: asyncpg.Connection
) -> None:
    await others.write("events", *(event(1, id=f"{number}") for number in range(5)))
    await others.delete_up_to("events", 3)
    async with taking(dsn, others):
        await others.all_taken_in(conn)
    assert await inbox(conn, 1) == ["3", "4"]


async def test_what_a_producer_takes_back_is_not_taken_in(others: Backends, dsn: str, conn: asyncpg.Connection) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=others.servers, transactional_id=others.prefix)
    await producer.start()
    async with taking(dsn, others):
        for number, is_meant in enumerate((True, False, True, False)):
            await producer.begin_transaction()
            await producer.send_and_wait(
                others.topic("events"), json.dumps(event(1, id=f"{number}")).encode(), partition=0
            )
            await (producer.commit_transaction() if is_meant else producer.abort_transaction())
        await others.all_taken_in(conn)  # over the marks, too, which end transactions and which nobody sees
    await producer.stop()
    assert await inbox(conn, 1) == ["0", "2"]
    assert (await others.ends())[others.topic("events"), 0] == 8


async def test_a_full_lane_is_waited_for(others: Backends, dsn: str, conn: asyncpg.Connection) -> None:
    flow = Flow(others)
    await flow.write(300)
    async with taking(dsn, others, lane={"queue": 20, "batch": 20}):
        await flow.check(conn)


async def test_topics_that_are_missing_are_created(kafka: str, dsn: str, conn: asyncpg.Connection) -> None:
    others = Backends(kafka, f"test-{os.getpid()}-{next(_prefixes)}")
    async with taking(dsn, others, partitions=3) as taker:
        await taker.has_partitions(9)
        async with others.admin() as admin:
            [described] = await admin.describe_topics([others.topic("outcomes")])
    assert len(described["partitions"]) == 3


async def test_topics_that_can_t_be_created_end_the_start_and_are_named(kafka: str) -> None:
    """Kafka takes a dot and an underscore for the same, so that one is in the other's way."""
    prefix = f"test-{os.getpid()}-{next(_prefixes)}"
    with_intake = settings.Settings(kafka=settings.Kafka(bootstrap_servers=(kafka,), prefix=prefix))
    without = msgspec.structs.replace(with_intake, intake=settings.Intake(enabled=False))
    async with Backends(kafka, prefix).admin() as admin:
        await admin.create_topics([NewTopic(f"{prefix}_dead-letters", 1, 1)])
    await ground.topics(without)
    with pytest.raises(ground.CannotStart) as refused:
        await ground.topics(with_intake)
    assert f"{prefix}.dead-letters (" in str(refused.value)
    assert f"{prefix}.events (" not in str(refused.value)


async def test_whatever_a_producer_compresses_with_is_read(
    others: Backends, dsn: str, conn: asyncpg.Connection
) -> None:
    async with taking(dsn, others):
        for kind in ("gzip", "lz4", "snappy", "zstd"):
            async with AIOKafkaProducer(bootstrap_servers=others.servers, compression_type=kind) as producer:
                value = json.dumps(event(1, id=kind)).encode()
                await producer.send_and_wait(others.topic("events"), value, partition=0)
        await others.all_taken_in(conn)
    assert await inbox(conn, 1) == ["gzip", "lz4", "snappy", "zstd"]


async def test_members_come_and_go_while_records_flow(others: Backends, dsn: str, conn: asyncpg.Connection) -> None:
    """Two stay, a third comes and goes every second: each time all partitions change hands."""
    flow = Flow(others)
    async with taking(dsn, others) as one, taking(dsn, others) as two:
        for _ in range(4):
            async with taking(dsn, others) as third:
                await flow.write(150)
                await third.until(lambda: sum(third.door.counts.partitions.values()) > 0, "its share")
                await flow.write(150)
            await flow.write(50)
        await flow.check(conn)
        assert one.door.counts.lives == two.door.counts.lives == 1
        taken = [sum(each.door.counts.partitions.values()) for each in (one, two)]
        assert sum(taken) == 6

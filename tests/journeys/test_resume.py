"""Away and back: what was missed comes in order, once, or the client is told that it can't."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.clients import HANDSHAKE, masked
from tests.support.network import Network
from tests.support.stage import VIEWER, Stage, action_id


async def _liked(stage: Stage, count: int) -> tuple[int, list[Any]]:
    """A user with `count` events in their inbox, and those events."""
    creator, viewer = await stage.person(), await stage.person(follows=VIEWER)
    phone = await stage.phone(viewer)
    videos = await asyncio.gather(*(stage.video(creator) for _ in range(count)))
    for video in videos:
        await phone.do("video:like", videoId=video, actionId=action_id())
    events = await phone.told("points_earned", count) if count else []
    await phone.close()
    return viewer, events


@pytest.mark.parametrize("client", ["phone", "js_phone"])
async def test_what_was_missed_comes_before_resumed_and_once(stage: Stage, client: str) -> None:
    viewer, events = await _liked(stage, 5)

    for last in (0, 3, 5):
        phone = await getattr(stage, client)(viewer, lastSeq=str(last))
        names = [heard.name for heard in phone.log if heard.name != "connect"]
        assert names == ["welcome", *["notification"] * (5 - last), "resumed"]
        assert phone.events() == events[last:]
        assert (phone.welcome["complete"], phone.welcome["seq"], phone.welcome["oldestSeq"]) == (True, 5, 1)
        assert phone.of("resumed") == [{"seq": 5}]


async def test_the_same_epoch_resumes(stage: Stage) -> None:
    viewer, events = await _liked(stage, 2)
    epoch = (await stage.phone(viewer)).welcome["epoch"]
    phone = await stage.phone(viewer, lastSeq="1", epoch=epoch)
    assert phone.events() == events[1:]


@pytest.mark.parametrize("auth", [{"lastSeq": "1", "epoch": "another history"}, {"lastSeq": "3"}], ids=str)
async def test_another_history_and_the_future_are_not_complete(stage: Stage, auth: dict[str, str]) -> None:
    viewer, _ = await _liked(stage, 2)
    phone = await stage.phone(viewer, **auth)
    assert (phone.welcome["complete"], phone.welcome["seq"]) == (False, 2)
    assert (phone.events(), phone.of("resumed")) == ([], [{"seq": 2}])

    video = await stage.video(await stage.person())  # and it goes on from there
    await phone.do("video:like", videoId=video, actionId=action_id())
    assert [event["seq"] for event in await phone.told("points_earned")] == [3]


async def test_the_largest_last_seq_is_the_future_and_no_fault(stage: Stage) -> None:
    phone = await stage.phone(await stage.person(), lastSeq="9" * 16)
    assert phone.welcome["complete"] is False


async def test_without_last_seq_it_starts_at_the_head(stage: Stage) -> None:
    viewer, _ = await _liked(stage, 2)
    for auth in ({}, {"lastSeq": ""}):
        phone = await stage.phone(viewer, **auth)
        assert (phone.welcome["complete"], phone.of("resumed"), phone.events()) == (True, [{"seq": 2}], [])


async def test_an_inbox_that_reaches_no_further_back_is_not_complete(stage: Stage) -> None:
    viewer, events = await _liked(stage, 5)
    async with stage.server.database() as conn:  # what retention would do
        await conn.execute("UPDATE heads SET oldest_seq = 4 WHERE user_id = $1", viewer)
    try:
        phones = {last: await stage.phone(viewer, lastSeq=str(last)) for last in (0, 2, 3)}
        assert {last: phone.welcome["complete"] for last, phone in phones.items()} == {0: False, 2: False, 3: True}
        assert [phone.events() for phone in phones.values()] == [[], [], events[3:]]
        assert phones[0].welcome["oldestSeq"] == 4
        page = await phones[0].do("inbox:fetch", afterSeq=2, limit=10)
        assert page == {"events": [], "seq": 5, "oldestSeq": 4, "complete": False}
    finally:
        async with stage.server.database() as conn:
            await conn.execute("UPDATE heads SET oldest_seq = 1 WHERE user_id = $1", viewer)


async def test_the_inbox_comes_in_pages(stage: Stage) -> None:
    viewer, events = await _liked(stage, 7)
    phone = await stage.phone(viewer)

    first = await phone.do("inbox:fetch", afterSeq=0, limit=3)
    assert first == {"events": events[:3], "seq": 7, "oldestSeq": 1, "complete": True}
    assert (await phone.do("inbox:fetch", afterSeq=5, limit=3))["events"] == events[5:]
    assert (await phone.do("inbox:fetch", afterSeq=7, limit=500))["events"] == []
    assert (await phone.do("inbox:fetch", afterSeq=8, limit=1))["complete"] is False
    for payload, field in (
        ({"afterSeq": 0, "limit": 0}, "limit"),
        ({"afterSeq": 0, "limit": 501}, "limit"),
        ({"afterSeq": -1, "limit": 1}, "afterSeq"),
        ({"limit": 1}, "afterSeq"),
    ):
        assert (await phone.fail("invalid_payload", "inbox:fetch", payload))["field"] == field


async def test_a_long_absence_is_replayed_page_by_page(stage: Stage) -> None:
    """More events than a page of the pump (500), while more keep coming."""
    missed = 1_200
    viewer = await stage.person(follows=VIEWER)
    video = await stage.video(await stage.person())
    await _fill_inbox(stage, viewer, missed)

    reader = await stage.phone(viewer, lastSeq="0")
    liking = await stage.phone(viewer)
    await liking.do("video:like", videoId=video, actionId=action_id())
    await reader.caught_up(missed + 1)

    assert [event["seq"] for event in reader.events()] == list(range(1, missed + 2))


async def test_events_that_come_during_the_replay_are_neither_lost_nor_doubled(stage: Stage) -> None:
    viewer = await stage.person(follows=VIEWER)
    creator = await stage.person()
    videos = await asyncio.gather(*(stage.video(creator) for _ in range(60)))
    acting = await stage.phone(viewer)

    async def act() -> None:
        await asyncio.gather(*(acting.do("video:like", videoId=video, actionId=action_id()) for video in videos))

    _, *readers = await asyncio.gather(act(), *(stage.phone(viewer, lastSeq="0") for _ in range(8)))
    await asyncio.gather(*(reader.caught_up(60) for reader in readers))
    for reader in readers:
        assert [event["seq"] for event in reader.events()] == list(range(1, 61))


async def test_whoever_connects_does_not_wait_for_those_who_resume(stage: Stage) -> None:
    """Inboxes can't be read for a while, as if a storm of resumes kept the database busy. Connects, and reads of
    everything else, have sessions of their own."""
    people = [await stage.person() for _ in range(20)]
    for person in people:
        await _fill_inbox(stage, person, 3)
    newcomer = await stage.person()

    async with stage.server.database() as conn, conn.transaction():
        await conn.execute("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE")
        resuming = [asyncio.create_task(stage.phone(person, lastSeq="0")) for person in people]
        while not all([(await stage.inbox(person))["connected"] for person in people]):
            await asyncio.sleep(0.01)
        phone = await stage.phone(newcomer)
        assert (await phone.do("wallet:get"))["balances"]
        assert not any(task.done() for task in resuming)
    for reader in await asyncio.gather(*resuming):
        assert [event["seq"] for event in reader.events()] == [1, 2, 3]


async def test_who_reads_nothing_is_cut_off_and_resumes(hasty_stage: Stage) -> None:
    """A client that leaves its TCP window shut costs the server a bounded queue; back again, it misses nothing."""
    stage = hasty_stage
    viewer = await stage.person()
    await _fill_inbox(stage, viewer, 2_000, padding=5_000)  # 10 MB: more than queue and kernel hold
    other = await stage.phone(await stage.person())
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.server.port, limit=1024)
    writer.write(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(masked(f'40{{"token":"{stage.server.token(viewer)}","lastSeq":"0"}}'))
    while not (await stage.inbox(viewer))["connected"]:
        await asyncio.sleep(0.01)
    assert (await other.call("wallet:get", {}))["ok"], "others don't notice"
    await stage.gone(viewer)  # whose reader takes 2 KiB and no more

    writer.transport.abort()
    phone = await stage.js_phone(viewer, follow=True, lastSeq="0")  # this server cuts it, too, where it has no CPU
    assert [event["seq"] for event in phone.events()] == list(range(1, 2_001))


async def test_the_official_client_follows_through_cuts_of_its_transport(stage: Stage) -> None:
    """Its connection is cut again and again from behind; it reconnects and hears each event once."""
    viewer = await stage.person(follows=VIEWER)
    creator = await stage.person()
    videos = await asyncio.gather(*(stage.video(creator) for _ in range(12)))
    acting = await stage.phone(viewer)
    async with Network(stage.server.port) as tunnel:
        phone = await stage.js_caller(viewer)
        await phone.connect(tunnel.url, {"token": stage.server.token(viewer)}, follow=True)
        await phone.hear("resumed")
        for turn, video in enumerate(videos, 1):
            if turn % 4 == 0:
                tunnel.cut()
            await acting.do("video:like", videoId=video, actionId=action_id())
            if turn % 4 == 0:
                await phone.hear("resumed", 1 + turn // 4)
        await phone.caught_up(12)
        assert [event["seq"] for event in phone.events()] == list(range(1, 13))
        assert len(phone.of("welcome")) == 4
        assert set(phone.of("disconnect")) <= {"transport close", "transport error"}
        await phone.close()


async def _fill_inbox(stage: Stage, user: int, count: int, *, padding: int = 0) -> None:
    """So many events as if others had caused them: too many to bring about by likes in a test's time."""
    async with stage.server.database() as conn, conn.transaction():
        await conn.execute("SELECT FROM heads WHERE user_id = $1 FOR NO KEY UPDATE", user)
        await conn.execute(
            """
            INSERT INTO inbox (user_id, seq, id, type, event_type, data, created_at)
            SELECT $1, n, gen_random_uuid(), 'test', NULL, json_build_object('n', n, 'padding', repeat('x', $3)), now()
            FROM generate_series(1, $2::bigint) n
            """,
            user, count, padding,
        )  # fmt: skip
        await conn.execute("UPDATE heads SET seq = $2 WHERE user_id = $1", user, count)

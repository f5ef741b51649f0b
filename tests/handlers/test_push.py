"""The job that pushes, on the real database: at most once, nothing forgotten, quiet for what was seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from handlers.access.handler import AccessHandler
from handlers.access.identities import Identities
from handlers.access.wire import RevokeRequest
from handlers.errors import Refusal
from handlers.inbox.notifications import NotificationsHandler
from handlers.inbox.wire import SeenRequest
from handlers.push import job as pushing
from handlers.push.provider import Answer
from storage import inbox
from storage.audit import audit
from storage.push_news import LOOK_BACK
from tests.support.chats import read, send
from tests.support.phones import LIMITS, Phones, phones

__all__ = ["phones"]


@pytest.fixture(autouse=True)
async def _books(phones: Phones) -> AsyncIterator[None]:
    """Whatever happens, nobody is forgotten."""
    yield
    assert await audit(phones.conn) == []


# -- what is told ------------------------------------------------------------------------------------------------------


async def test_a_message_to_somebody_away_is_one_push(phones: Phones) -> None:
    pair = await phones.chats.talk(1, 2)
    token = await phones.register(2)
    message = await phones.chats.say(1, pair, "hello there")
    await phones.push()
    [told] = phones.provider.told
    assert told["token"] == token
    assert told["notification"] == {"title": "user_1", "body": "hello there"}
    assert told["data"]["conversationId"] == pair
    assert (told["data"]["lastMessageId"], told["data"]["unreadCount"], told["data"]["seq"]) == (message, "1", "2")
    assert told["data"]["eventType"] == "chat:message:sent"
    assert told["android"]["notification"] == {"tag": f"chat:{pair}", "notification_count": 1}
    assert await phones.due() == []
    await phones.push()
    assert len(phones.provider.told) == 1


async def test_messages_are_gathered_by_conversation_and_notifications_are_not(phones: Phones) -> None:
    pair, group = await phones.chats.talk(1, 2), await phones.chats.talk(3, 2, 4, title="Weekend")
    token = await phones.register(2)
    for text in ("one", "two", "three"):
        await phones.chats.say(1, pair, text)
    await phones.tell(2)
    await phones.chats.say(3, group, "who comes?")
    await phones.tell(2)
    await phones.push()
    assert phones.provider.bodies(token) == ["three", "ana follows you", "user_3: who comes?", "ana follows you"]
    assert [message["data"].get("unreadCount") for message in phones.provider.told] == ["3", None, "1", None]
    assert phones.provider.told[2]["notification"]["title"] == "Weekend"


async def test_each_device_is_told_once_and_who_has_none_costs_no_row(phones: Phones) -> None:
    tokens = [await phones.register(1, device) for device in ("phone", "tablet")]
    await phones.tell(1)
    await phones.tell(2)
    assert await phones.due() == [1]
    await phones.push()
    assert sorted(message["token"] for message in phones.provider.told) == sorted(tokens)


async def test_what_moves_balances_or_tells_of_reading_makes_nobody_due(phones: Phones) -> None:
    pair = await phones.chats.talk(1, 2)
    await phones.register(1)
    message = await phones.chats.say(1, pair)
    await phones.chats.data(read(2, pair, message))
    assert phones.chats.told(1, "message_read") != []
    assert await phones.due() == []


async def test_what_is_not_to_be_pushed_old_or_far_back_is_not(phones: Phones) -> None:
    token = await phones.register(1)
    await phones.tell(1, "something_else")
    await phones.push()
    await phones.tell(1)
    await phones.conn.execute("UPDATE inbox SET created_at = created_at - interval '2 hours'")
    await phones.push()
    assert phones.provider.told == []
    last = [await phones.tell(1) for _ in range(25)][-1]
    await phones.push()
    assert phones.provider.seqs(token) == list(range(last - LIMITS.most_events + 1, last + 1)), "the newest"
    await phones.tell(1)
    await phones.conn.execute("UPDATE heads SET seq = seq + $1 WHERE user_id = 1", LOOK_BACK)
    await phones.push()
    assert phones.provider.seqs(token)[-1] == last, "nobody is told of what is so far back"
    await phones.conn.execute("UPDATE heads SET seq = seq - $1 WHERE user_id = 1", LOOK_BACK)
    await phones.conn.execute("UPDATE push_devices SET pushed_seq = pushed_seq - $1", LOOK_BACK)
    assert await phones.due() == []


async def test_an_event_whose_data_is_large_or_no_object_is_told_without_words(phones: Phones) -> None:
    await phones.register(1)
    await phones.tell(1, "live_stream_started", "[1]")
    await phones.tell(1, "live_stream_started", '{"actorUsername": "ana", "x": "%s"}' % ("x" * 20_000))
    await phones.push()
    assert [message["notification"]["body"] for message in phones.provider.told] == ["Somebody is live"] * 2


# -- quiet -------------------------------------------------------------------------------------------------------------


async def test_who_is_connected_is_not_pushed_and_neither_later(phones: Phones) -> None:
    token = await phones.register(1)
    phones.connected[1] = ["phone"]
    seq = await phones.tell(1)
    await phones.push()
    assert (phones.provider.told, await phones.due(), await phones.pushed(1)) == ([], [], seq)
    phones.connected.clear()
    await phones.push()
    later = await phones.tell(1)
    await phones.push()
    assert phones.provider.seqs(token) == [later]


async def test_a_connection_that_confirms_has_what_it_has_confirmed(phones: Phones) -> None:
    """It may be dead without anybody knowing."""
    token = await phones.register(1)
    first = await phones.tell(1)
    await inbox.mark_acked(phones.conn, 1, "phone", first)
    phones.connected[1] = ["phone"]
    second = await phones.tell(1)
    await phones.push()
    assert (phones.provider.told, await phones.due(), await phones.pushed(1)) == ([], [1], first)
    phones.connected.clear()
    await phones.be_due_now()
    await phones.push()
    assert phones.provider.seqs(token) == [second]


async def test_what_a_device_has_confirmed_is_not_pushed_to_it(phones: Phones) -> None:
    phone, tablet = await phones.register(1), await phones.register(1, "tablet")
    first, second = await phones.tell(1), await phones.tell(1)
    await inbox.mark_acked(phones.conn, 1, "phone", first)
    await phones.push()
    assert (phones.provider.seqs(phone), phones.provider.seqs(tablet)) == ([second], [first, second])


async def test_notifications_that_were_seen_are_quiet_and_messages_are_not(phones: Phones, pool: asyncpg.Pool) -> None:
    pair = await phones.chats.talk(1, 2)
    token = await phones.register(2)
    await phones.chats.say(1, pair, "hello")
    await phones.tell(2)
    seen = await phones.tell(2)
    await NotificationsHandler(pool=pool).mark_seen(2, SeenRequest(seen))
    await phones.tell(2)
    await phones.push()
    assert phones.provider.bodies(token) == ["hello", "ana follows you"]


async def test_messages_that_were_read_are_quiet_and_so_are_those_of_groups_one_has_left(phones: Phones) -> None:
    pair, other, group = await phones.chats.talk(1, 2), await phones.chats.talk(3, 2), await phones.chats.talk(4, 2, 5)
    token = await phones.register(2)
    await phones.chats.say(1, pair, "read")
    message = await phones.chats.say(1, pair, "read, too")
    await phones.chats.say(3, other, "read, but not")
    await phones.chats.data(read(2, pair, message))
    await phones.chats.say(3, other, "the rest")
    await phones.chats.say(4, group, "left")
    await phones.chats.conversations.remove(2, group, 2)
    await phones.push()
    assert phones.provider.bodies(token) == ["the rest"]
    assert phones.provider.told[0]["data"]["unreadCount"] == "2"


async def test_the_suspended_are_not_pushed_and_not_afterwards(phones: Phones) -> None:
    token = await phones.register(1)
    await phones.conn.execute("UPDATE users SET status = 'suspended' WHERE id = 1")
    await phones.tell(1)
    await phones.push()
    await phones.conn.execute("UPDATE users SET status = 'active' WHERE id = 1")
    await phones.push()
    later = await phones.tell(1)
    await phones.push()
    assert phones.provider.seqs(token) == [later]


@pytest.mark.parametrize("what", ["user", "token"])
async def test_who_was_revoked_is_silent_until_they_register_anew(
    phones: Phones, pool: asyncpg.Pool, what: str
) -> None:
    identities = Identities(pool=pool, create_unknown=False)
    access = AccessHandler(pool=pool, identities=identities, on_revoked=lambda: None)
    token = await phones.register(1, jti="the-token")
    other = await phones.register(1, "tablet", jti="another")
    await phones.tell(1)
    await access.revoke(RevokeRequest(user_id=1) if what == "user" else RevokeRequest(jti="the-token"), "tests")
    await phones.push()
    assert phones.provider.seqs(token) == []
    assert phones.provider.seqs(other) == ([] if what == "user" else [1])
    assert await phones.pushed(1) is None, "forgotten"
    await phones.register(1, issued_at=3e9, jti="a-fresh-one")
    await phones.tell(1)
    await phones.push()
    assert phones.provider.seqs(token) == [2]


async def test_a_phone_that_is_just_coming_back_has_a_moment(phones: Phones) -> None:
    await phones.register(1)
    patient = phones.new_job(LIMITS._replace(after_s=3600))
    await phones.tell(1)
    await phones.push(patient)
    assert (phones.provider.told, await phones.due()) == ([], [1])


async def test_where_it_is_not_known_who_is_connected_nobody_is_pushed_and_nobody_forgotten(phones: Phones) -> None:
    async def nobody_knows(user_id: int) -> list[str]:
        raise ConnectionError("Redis is away")

    await phones.register(1)
    await phones.tell(1)
    phones.job._devices_of = nobody_knows
    with pytest.raises(ConnectionError):
        await phones.job.run(phones.conn)
    assert (phones.provider.told, await phones.due(), await phones.pushed(1)) == ([], [1], 0)
    phones.job = phones.new_job()
    await phones.push()
    assert len(phones.provider.told) == 1


# -- at most once, and nobody forgotten --------------------------------------------------------------------------------


async def test_two_jobs_at_once_tell_everybody_once(phones: Phones) -> None:
    tokens = [await phones.register(user) for user in range(1, 11)]
    jobs = [(phones.new_job(), await phones.session()) for _ in range(3)]
    for _ in range(5):
        for user in range(1, 11):
            await phones.tell(user)
        await asyncio.gather(*(phones.push(*each) for each in jobs))
    await phones.push()
    for token in tokens:
        assert phones.provider.seqs(token) == [1, 2, 3, 4, 5]
    assert await phones.due() == []


async def test_events_that_come_while_a_job_looks_are_not_forgotten(phones: Phones) -> None:
    """Lanes and jobs in each other's way: whoever finds a row of the due must not find it taken away afterwards."""
    token = await phones.register(1)
    lane, looking = await phones.session(), await phones.session()
    writer = Phones.__new__(Phones)
    writer.conn = lane
    told = 0

    async def write() -> None:
        nonlocal told
        for _ in range(60):
            told = await writer.tell(1)

    writing = asyncio.create_task(write())
    job = phones.new_job(LIMITS._replace(most_events=100))
    while not writing.done():
        await phones.push(job, looking)
    await writing
    await phones.push(job, looking)
    assert phones.provider.seqs(token) == list(range(1, told + 1))
    assert await phones.due() == []


async def test_a_crash_before_the_commit_loses_nothing(phones: Phones, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: Any) -> None:
        raise ConnectionResetError

    token = await phones.register(1)
    await phones.tell(1)
    with monkeypatch.context() as patched:
        patched.setattr(pushing, "write_together", crash)
        with pytest.raises(ConnectionResetError):
            await phones.job.run(phones.conn)
    assert (phones.provider.told, await phones.pushed(1), await phones.due()) == ([], 0, [1])
    await phones.push(phones.new_job())
    assert phones.provider.seqs(token) == [1]


async def test_a_crash_after_the_commit_doubles_nothing(phones: Phones) -> None:
    token = await phones.register(1)
    await phones.tell(1)
    phones.provider.gates[token] = asyncio.Event()
    await phones.job.run(phones.conn)  # and never again: the node has died
    assert (await phones.pushed(1), await phones.due()) == (1, [1])
    other = phones.new_job()
    await phones.job.run(phones.conn)
    await other.run(phones.conn)
    assert other.in_flight == 0, "left alone for as long as it may take"
    await phones.tell(1)
    await phones.be_due_now()  # so much time has passed
    del phones.provider.gates[token]
    await other_node(phones)
    assert phones.provider.seqs(token) == [2], "what was in flight is lost, or has arrived"
    assert await phones.due() == []


async def test_a_crash_between_telling_and_writing_it_down_doubles_nothing(phones: Phones) -> None:
    token = await phones.register(1)
    await phones.tell(1)
    await phones.job.run(phones.conn)
    await asyncio.gather(*phones.tasks)
    assert phones.provider.seqs(token) == [1]
    await phones.be_due_now()
    await phones.push(phones.new_job())
    assert phones.provider.seqs(token) == [1]
    await phones.push()
    assert await phones.due() == []


async def test_what_comes_while_somebody_is_told_is_told_next(phones: Phones) -> None:
    token = await phones.register(1)
    await phones.tell(1)
    gate = phones.provider.gates[token] = asyncio.Event()
    await phones.job.run(phones.conn)
    await phones.tell(1)
    await phones.job.run(phones.conn)
    gate.set()
    await phones.push()
    await phones.push()
    assert phones.provider.seqs(token) == [1, 2]


# -- providers ---------------------------------------------------------------------------------------------------------


async def test_a_token_that_is_gone_is_forgotten_and_the_other_device_is_told(phones: Phones) -> None:
    gone, other = await phones.register(1), await phones.register(1, "tablet")
    phones.provider.answers[gone] = [Answer("gone")]
    await phones.tell(1)
    await phones.tell(1)
    await phones.push()
    assert phones.provider.seqs(other) == [1, 2]
    assert (await phones.pushed(1), await phones.pushed(1, "tablet")) == (None, 2)
    assert phones.provider.entered.count(gone) == 1


async def test_what_was_certainly_not_delivered_is_tried_again_and_nothing_else(phones: Phones) -> None:
    pair = await phones.chats.talk(1, 2)
    token = await phones.register(2)
    await phones.chats.say(1, pair, "first")
    for _ in range(3):
        await phones.tell(2)
    await phones.chats.say(1, pair, "second")  # gathered: told behind the three
    phones.provider.answers[token] = [Answer("sent"), Answer("unknown"), Answer("later", 5)]
    await phones.push()
    assert phones.provider.seqs(token) == [3, 4]
    assert (await phones.pushed(2), await phones.due()) == (4, [2])
    assert await phones.conn.fetchval("SELECT since > clock_timestamp() + interval '2 seconds' FROM push_due")
    await phones.push()
    assert phones.provider.seqs(token) == [3, 4], "not before it is time"
    await phones.be_due_now()
    await phones.push()
    assert phones.provider.seqs(token) == [3, 4, 5, 6]
    assert phones.provider.bodies(token)[-1] == "second"
    assert await phones.due() == []


async def test_tries_are_further_and_further_apart(phones: Phones) -> None:
    token = await phones.register(1)
    await phones.tell(1)
    phones.provider.answers[token] = [Answer("later")] * 9
    pauses = []
    for _ in range(9):
        await phones.push()
        pauses.append(await phones.conn.fetchval("SELECT extract(epoch FROM since - clock_timestamp()) FROM push_due"))
        await phones.be_due_now()
    assert 2 < pauses[0] < 6
    assert 250 < pauses[-1] < 601
    assert await phones.conn.fetchval("SELECT tries FROM push_due") == 9
    await phones.push()
    assert (phones.provider.seqs(token), await phones.due()) == ([1], [])


async def test_nothing_is_doubled_where_somebody_else_has_gone_on(phones: Phones) -> None:
    """A node stood still for longer than its lease; its failure is then no reason to go back."""
    token = await phones.register(1)
    await phones.tell(1)
    gate = phones.provider.gates[token] = asyncio.Event()
    phones.provider.answers[token] = [Answer("later")]
    await phones.job.run(phones.conn)
    await asyncio.sleep(0)
    await phones.tell(1)
    await phones.be_due_now()
    del phones.provider.gates[token]
    phones.provider.answers[token].insert(0, Answer("sent"))
    await other_node(phones)
    gate.set()
    await phones.push()
    await phones.be_due_now()
    await phones.push()
    await phones.tell(1)
    await phones.push()
    assert phones.provider.seqs(token) == [2, 3]


async def test_who_stood_still_for_long_goes_back_where_nobody_has_gone_on(phones: Phones) -> None:
    token = await phones.register(1)
    await phones.tell(1)
    gate = phones.provider.gates[token] = asyncio.Event()
    phones.provider.answers[token] = [Answer("later")]
    await phones.job.run(phones.conn)
    await phones.be_due_now()
    await other_node(phones)
    assert await phones.due() == [], "it found nothing new"
    gate.set()
    await phones.push()
    assert await phones.due() == [1]
    await phones.be_due_now()
    await phones.push()
    assert phones.provider.seqs(token) == [1]


async def test_who_has_much_to_tell_a_slow_provider_goes_on_later(phones: Phones) -> None:
    tokens = [await phones.register(1, device) for device in ("phone", "tablet")]
    for _ in range(3):
        await phones.tell(1)
    gates = [phones.provider.gates.setdefault(token, asyncio.Event()) for token in tokens]
    await phones.job.run(phones.conn)
    await asyncio.sleep(0)
    phones.now += pushing.ERRAND_S + 1  # the first push has taken so long
    for gate in gates:
        gate.set()
    await phones.push()
    assert [phones.provider.seqs(token) for token in tokens] == [[1], []]
    await phones.be_due_now()
    await phones.push()
    assert [phones.provider.seqs(token) for token in tokens] == [[1, 2, 3], [1, 2, 3]]


async def other_node(phones: Phones) -> None:
    """Another node's job, which does not wait for what the first has on its way."""
    job, tasks = phones.new_job(), set(phones.tasks)
    await job.run(phones.conn)
    await asyncio.gather(*(phones.tasks - tasks))
    await job.run(phones.conn)


async def test_while_the_provider_is_away_nobody_is_taken(phones: Phones) -> None:
    first = await phones.register(1)
    phones.provider.answers[first] = [Answer("later", 30, is_away=True)]
    await phones.tell(1)
    await phones.push()
    second = await phones.register(2)
    await phones.tell(2)
    await phones.push()
    assert second not in phones.provider.entered
    phones.now += 31
    await phones.push()
    assert phones.provider.seqs(second) == [1]


async def test_a_push_that_hangs_holds_up_nobody_else(phones: Phones) -> None:
    hangs = await phones.register(1)
    phones.provider.gates[hangs] = asyncio.Event()
    await phones.tell(1)
    await phones.job.run(phones.conn)
    token = await phones.register(2)
    for expected in (1, 2, 3):
        await phones.tell(2)
        while len(phones.provider.seqs(token)) < expected:
            await phones.job.run(phones.conn)
            await asyncio.sleep(0.01)
    await phones.job.run(phones.conn)
    assert phones.job.in_flight == 1


async def test_a_push_takes_no_longer_than_it_may_and_may_have_arrived(phones: Phones) -> None:
    hangs = await phones.register(1)
    phones.provider.gates[hangs] = asyncio.Event()
    await phones.tell(1)
    hasty = phones.new_job(LIMITS._replace(timeout_s=0.01))
    await phones.push(hasty)
    assert hasty.results == {"unknown": 1}
    assert (await phones.pushed(1), await phones.due()) == (1, [])


async def test_no_more_are_told_at_once_than_may_be(phones: Phones) -> None:
    for user in range(1, 11):
        token = await phones.register(user)
        phones.provider.gates[token] = asyncio.Event()
        await phones.tell(user)
    job = phones.new_job(LIMITS._replace(in_flight=3))
    for _ in range(3):
        await job.run(phones.conn)
        await asyncio.sleep(0)
    assert (job.in_flight, len(phones.provider.entered)) == (3, 3)
    job.is_leaving = True
    for gate in phones.provider.gates.values():
        gate.set()
    await phones.push(job)
    assert len(phones.provider.told) == 3, "who leaves takes nobody else"
    job.is_leaving = False
    for _ in range(3):
        await phones.push(job)
    assert len(phones.provider.told) == 10


# -- devices -----------------------------------------------------------------------------------------------------------


async def test_what_came_before_a_device_is_not_pushed_to_it(phones: Phones) -> None:
    await phones.tell(1)
    token = await phones.register(1)
    await phones.tell(1)
    await phones.register(1, token=token)
    await phones.register(1, token="another-one")
    await phones.push()
    assert (phones.provider.seqs(token), phones.provider.seqs("another-one")) == ([], [2]), "what waits stays"


async def test_a_token_is_one_devices_and_moves(phones: Phones) -> None:
    token = await phones.register(1)
    await phones.tell(1)
    await phones.tell(2)
    await phones.register(2, "the same phone", token)
    await phones.push()
    assert (phones.provider.told, await phones.pushed(1), await phones.pushed(2, "the same phone")) == ([], None, 1)
    await phones.tell(1)
    await phones.tell(2)
    await phones.push()
    assert phones.provider.seqs(token) == [2]
    assert await phones.conn.fetchval("SELECT count(*) FROM push_devices") == 1


async def test_a_token_that_many_register_at_once_is_one_of_theirs(phones: Phones) -> None:
    await asyncio.gather(*(phones.register(user, token="the-one") for user in range(1, 11)))
    assert await phones.conn.fetchval("SELECT count(*) FROM push_devices") == 1


async def test_a_user_has_so_many_devices_however_many_register_at_once(phones: Phones) -> None:
    tried = await asyncio.gather(
        *(phones.register(1, f"device-{number}") for number in range(8)), return_exceptions=True
    )
    refused = [each for each in tried if isinstance(each, Refusal)]
    assert [(each.code, each.field) for each in refused] == [("conflict", "deviceId")] * 5
    taken = [each for each in tried if isinstance(each, str)]
    await phones.register(1, taken[0].removeprefix("token-1-"), "a-new-token")
    await phones.devices.forget(1, taken[0].removeprefix("token-1-"))
    await phones.register(1, "yet another")
    await phones.devices.forget(1, "nobody's")


async def test_a_token_is_not_too_long(phones: Phones) -> None:
    await phones.register(1, token="x" * 100)
    with pytest.raises(Refusal) as refused:
        await phones.register(1, token="x" * 101)
    assert (refused.value.code, refused.value.field) == ("invalid_payload", "token")


async def test_a_forgotten_device_is_told_nothing(phones: Phones) -> None:
    await phones.register(1)
    await phones.tell(1)
    await phones.devices.forget(1, "phone")
    await phones.push()
    assert (phones.provider.told, await phones.due()) == ([], [])


async def test_a_device_that_registers_while_an_event_is_written_is_told_or_too_late(phones: Phones) -> None:
    """Each event is either before the registration, or sees it."""
    lane = await phones.session()
    async with lane.transaction():
        await lane.execute("SELECT seq FROM heads WHERE user_id = 1 FOR NO KEY UPDATE")
        registering = asyncio.create_task(phones.register(1))
        await asyncio.sleep(0.05)
        assert not registering.done(), "it waits for the event that is being written"
    await registering


async def test_a_batch_of_messages_enters_each_once(phones: Phones) -> None:
    trio = await phones.chats.talk(1, 2, 3)
    for user in (1, 2, 3):
        await phones.register(user)
    await phones.chats.data(*(send(user, trio) for user in (1, 2, 3, 1, 2)))
    assert await phones.due() == [1, 2, 3]

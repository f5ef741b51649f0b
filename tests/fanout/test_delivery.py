"""Delivery, case by case. The interleavings nobody thought of are in test_delivery_simulation.py."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fanout import delivery as delivery_module
from fanout.cursor import Cursor
from fanout.delivery import EARLY_MAX, Delivery
from fanout.hub import Hub
from tests.fanout.sinks import Inbox, Recorder, Tasks

USER = 7


class World:
    """One Delivery with an inbox in memory. Its frames are the envelopes."""

    def __init__(self, *, head: int = 0, page: int = 3) -> None:
        self.inbox = Inbox(head)
        self.tasks = Tasks()
        self.hub = Hub()
        self.resumed: list[int] = []
        self.delivery = Delivery(
            hub=self.hub, read_pages=self.inbox.read_pages, frame_of=bytes, spawn=self.tasks, page=page
        )

    def connect(self, sink: Recorder, *, at: int = 0, head: int | None = None, user_id: int = USER) -> Cursor:
        cursor = self.delivery.attach(user_id, sink, "phone", 1)
        self.delivery.start(cursor, at, self.inbox.head if head is None else head, self.resumed.append)
        return cursor

    def commit(self, *, live: bool = True) -> int:
        self.inbox.head += 1
        if live:
            self.delivery.deliver(USER, self.inbox.head, b"%d" % self.inbox.head)
        return self.inbox.head

    async def settle(self) -> None:
        await self.tasks.settle()


def frames(first: int, last: int) -> list[bytes]:
    return [b"%d" % seq for seq in range(first, last + 1)]


async def test_a_live_event_goes_out_in_the_same_step() -> None:
    world, sink = World(), Recorder()
    world.connect(sink)
    world.commit()
    assert sink.frames == [b"1"]
    assert not world.tasks.running
    assert not world.inbox.reads


async def test_nobody_connected_is_nothing_to_do() -> None:
    world = World()
    world.commit()
    world.delivery.raise_head(USER, 5)
    assert not world.tasks.running


async def test_resume_pages_the_inbox_then_says_so_then_lives() -> None:
    world, sink = World(head=8), Recorder()
    cursor = world.connect(sink, at=2)
    await world.settle()
    assert sink.frames == frames(3, 8)
    assert world.resumed == [8]
    assert cursor.live
    world.commit()
    assert sink.frames == frames(3, 9)


async def test_with_nothing_to_replay_resumed_comes_at_once() -> None:
    world = World(head=4)
    world.connect(Recorder(), at=4)
    assert world.resumed == [4]


async def test_an_event_between_attach_and_start_is_not_lost() -> None:
    world, sink = World(head=2), Recorder()
    cursor = world.delivery.attach(USER, sink)
    head_read = world.inbox.head
    world.commit()
    assert sink.frames == []
    world.delivery.start(cursor, 2, head_read, world.resumed.append)
    await world.settle()
    assert (world.resumed, sink.frames) == ([2], [b"3"])


async def test_resumed_stands_between_the_replay_and_what_came_meanwhile() -> None:
    world, sink = World(head=2), Recorder()
    cursor = world.delivery.attach(USER, sink)
    world.delivery.start(cursor, 0, 2, lambda seq: sink.write(b"resumed %d" % seq))
    world.commit()
    world.commit()
    await world.settle()
    assert sink.frames == [b"1", b"2", b"resumed 2", b"3", b"4"]


async def test_events_out_of_commit_order_are_put_right_by_the_pump() -> None:
    world, sink = World(), Recorder()
    world.connect(sink)
    world.inbox.head = 2
    world.delivery.deliver(USER, 2, b"2")
    world.delivery.deliver(USER, 1, b"1")
    await world.settle()
    assert sink.frames == [b"1", b"2"]


async def test_a_head_raised_while_the_last_read_is_in_flight_is_reached() -> None:
    world, sink = World(head=1), Recorder()
    world.inbox.gate.clear()
    cursor = world.connect(sink)
    await world.settle()
    assert len(world.inbox.reads) == 1
    world.delivery.raise_head(USER, world.commit(live=False))
    world.inbox.gate.set()
    await world.settle()
    assert sink.frames == [b"1", b"2"]
    assert cursor.live


async def test_live_events_during_a_pump_are_given_from_memory() -> None:
    world, sink = World(head=1), Recorder()
    world.inbox.gate.clear()
    cursor = world.connect(sink)
    await world.settle()
    for _ in range(EARLY_MAX):
        world.commit()
    world.inbox.gate.set()
    await world.settle()
    assert sink.frames == frames(1, 1 + EARLY_MAX)
    assert world.inbox.reads == [(0, 1)]
    assert cursor.live
    assert cursor.early is None


async def test_more_live_events_than_the_buffer_holds_come_from_the_inbox() -> None:
    world, sink = World(head=1, page=500), Recorder()
    world.inbox.gate.clear()
    cursor = world.connect(sink)
    await world.settle()
    for _ in range(3 * EARLY_MAX):
        world.commit()
        assert len(cursor.early or ()) <= EARLY_MAX
    world.inbox.gate.set()
    await world.settle()
    assert sink.frames == frames(1, 1 + 3 * EARLY_MAX)


async def test_detach_during_a_pump_ends_it_without_a_further_frame() -> None:
    world, sink = World(head=9), Recorder()
    world.inbox.gate.clear()
    cursor = world.connect(sink)
    await world.settle()
    world.delivery.detach(cursor)
    world.inbox.gate.set()
    await world.settle()
    assert sink.frames == []
    assert world.resumed == []
    assert not world.tasks.running
    assert len(world.hub) == 0


async def test_while_held_the_pump_stops_at_the_head_known_before() -> None:
    world, sink = World(head=2), Recorder()
    cursor = world.connect(sink, at=0)
    await world.settle()
    world.delivery.hold(cursor)
    world.delivery.hold(cursor)
    world.delivery.raise_head(USER, world.commit(live=False))
    world.delivery.release(cursor)
    await world.settle()
    assert sink.frames == frames(1, 2)
    world.delivery.release(cursor)
    await world.settle()
    assert sink.frames == frames(1, 3)


async def test_a_pump_that_reads_already_respects_a_hold() -> None:
    world, sink = World(head=2), Recorder()
    world.inbox.gate.clear()
    cursor = world.connect(sink)
    await world.settle()
    world.delivery.hold(cursor)
    world.delivery.raise_head(USER, world.commit(live=False))
    world.inbox.gate.set()
    await world.settle()
    assert sink.frames == frames(1, 2)
    world.delivery.release(cursor)
    await world.settle()
    assert sink.frames == frames(1, 3)


async def test_a_live_event_passes_a_hold() -> None:
    world, sink = World(), Recorder()
    cursor = world.connect(sink)
    world.delivery.hold(cursor)
    world.commit()
    assert sink.frames == [b"1"]


async def test_release_without_hold_is_a_fault() -> None:
    world = World()
    with pytest.raises(ValueError, match="without hold"):
        world.delivery.release(world.connect(Recorder()))


async def test_a_congested_sink_is_given_nothing_until_it_is_writable() -> None:
    world, sink = World(), Recorder()
    cursor = world.connect(sink)
    sink.congested = True
    for _ in range(5):
        world.commit()
    await world.settle()
    assert sink.frames == []
    assert not world.tasks.running  # nothing waits, nothing is buffered
    sink.congested = False
    world.delivery.writable(cursor)
    await world.settle()
    assert sink.frames == frames(1, 5)
    assert cursor.live


async def test_congestion_in_the_middle_of_a_page_pauses_the_pump_there() -> None:
    world, sink = World(head=6, page=6), Recorder(congest_after=2)
    cursor = world.connect(sink)
    await world.settle()
    assert sink.frames == frames(1, 2)
    assert len(world.tasks.running) == 1
    sink.congested, sink.congest_after = False, None
    world.delivery.writable(cursor)
    await world.settle()
    assert sink.frames == frames(1, 6)
    assert len(world.inbox.reads) == 1


async def test_detach_wakes_a_pump_that_waits_for_a_congested_sink() -> None:
    world, sink = World(head=6, page=6), Recorder(congest_after=2)
    cursor = world.connect(sink)
    await world.settle()
    world.delivery.detach(cursor)
    await world.settle()
    assert not world.tasks.running


async def test_a_pump_lets_the_loop_flush_between_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection learns that its transport is full when it flushes, once per turn: the pump must leave it one."""
    monkeypatch.setattr(delivery_module, "TURN_BYTES", 3)
    world, sink = World(head=9, page=9), Recorder()

    class Flushing(Recorder):
        def write(self, frame: bytes) -> None:
            if not self.frames:
                asyncio.get_running_loop().call_soon(self.flush)
            super().write(frame)

        def flush(self) -> None:
            self.congested = True

    sink = Flushing()
    world.connect(sink)
    await world.settle()
    assert sink.frames == frames(1, 3)


async def test_failing_reads_are_tried_again_from_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "RETRY_FIRST_S", 0.001)
    world, sink = World(head=5), Recorder()
    world.inbox.failures_left = 3
    world.connect(sink)
    async with asyncio.timeout(5):
        while world.tasks.running:
            await asyncio.sleep(0.001)
    assert sink.frames == frames(1, 5)
    assert world.inbox.reads[:4] == [(0, 5)] * 4


async def test_a_pump_that_waits_for_the_database_dies_with_detach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "RETRY_FIRST_S", 60.0)
    world, sink = World(head=5), Recorder()
    world.inbox.failures_left = 1
    cursor = world.connect(sink)
    await world.settle()
    assert len(world.tasks.running) == 1
    world.delivery.detach(cursor)
    await world.settle()
    assert not world.tasks.running


@pytest.mark.parametrize("oldest", [3, 9])
async def test_a_cursor_that_retention_overtook_is_cut(oldest: int) -> None:
    world, sink = World(head=5), Recorder()
    world.inbox.oldest = oldest
    world.connect(sink)
    await world.settle()
    world.commit()
    assert (sink.frames, sink.cuts, world.resumed) == ([], ["slow_consumer"], [])


async def test_a_fault_of_ours_ends_the_connection_instead_of_leaving_it_deaf() -> None:
    world, sink = World(head=1), Recorder()

    def broken(envelope: bytes) -> bytes:
        raise LookupError(envelope)

    world.delivery = Delivery(hub=world.hub, read_pages=world.inbox.read_pages, frame_of=broken, spawn=world.tasks)
    world.connect(sink)
    with contextlib.suppress(AssertionError):
        await world.settle()
    assert isinstance(world.tasks.failures[0], LookupError)
    assert sink.cuts == ["unavailable"]


async def test_all_connections_of_a_user_hear_each_at_its_own_place() -> None:
    world = World(head=3)
    sinks = [Recorder(), Recorder(), Recorder()]
    cursors = [world.connect(sink, at=at) for sink, at in zip(sinks, (0, 3, 3), strict=True)]
    world.commit()
    assert [sink.frames for sink in sinks] == [[], [b"4"], [b"4"]]
    await world.settle()
    assert sinks[0].frames == frames(1, 4)
    world.delivery.detach(cursors[1])
    world.commit()
    assert [sink.frames[-1] for sink in sinks] == [b"5", b"4", b"5"]


async def test_heads_behind_tells_the_lowest_cursor_of_each_user_that_has_started() -> None:
    world = World(head=9)
    world.delivery.attach(8, Recorder())
    sink = Recorder()
    sink.congested = True
    world.connect(sink, at=4)
    world.connect(Recorder(), at=9)
    assert world.delivery.heads_behind() == {USER: 4}


async def test_topics_are_withheld_before_resumed_and_dropped_when_congested() -> None:
    world = World(head=3)
    ready, resuming, full, other = (Recorder() for _ in range(4))
    for sink, at in ((ready, 3), (resuming, 0), (full, 3)):
        world.delivery.subscribe(world.connect(sink, at=at), "live:goals")
    world.connect(other, at=3)
    full.congested = True
    world.delivery.publish_topic("live:goals", b"goal")
    world.delivery.publish_topic("live:nothing", b"x")
    assert [sink.frames for sink in (ready, resuming, full, other)] == [[b"goal"], [], [], []]


async def test_an_event_for_users_is_one_frame_for_all_of_them_who_have_resumed() -> None:
    world = World()
    made: list[bytes] = []

    def frame_of(envelope: bytes) -> bytes:
        made.append(envelope)
        return envelope

    world.delivery = Delivery(hub=world.hub, read_pages=world.inbox.read_pages, frame_of=frame_of, spawn=world.tasks)
    sinks = {user: [Recorder(), Recorder()] for user in (1, 2, 3)}
    for user, both in sinks.items():
        for sink in both:
            world.delivery.start(world.delivery.attach(user, sink), 0, 0, world.resumed.append)
    full, resuming, unstarted = Recorder(), Recorder(), Recorder()
    world.delivery.start(world.delivery.attach(2, full), 0, 0, world.resumed.append)
    full.congested = True
    world.inbox.head = 1
    world.inbox.gate.clear()
    world.delivery.start(world.delivery.attach(2, resuming), 0, 1, world.resumed.append)
    world.delivery.attach(2, unstarted)
    world.delivery.tell_users([1, 2, 404], b"cue")
    assert [sink.frames for both in sinks.values() for sink in both] == [[b"cue"]] * 4 + [[]] * 2
    assert (full.frames, resuming.frames, unstarted.frames) == ([], [], [])
    assert made == [b"cue"]
    world.delivery.tell_users([404], b"cue")
    assert made == [b"cue"], "nobody is here"
    world.inbox.gate.set()
    await world.settle()
    world.delivery.tell_users([2], b"again")
    assert resuming.frames == [b"1", b"again"], "withheld until it had resumed, and never given late"


async def test_an_event_for_users_of_a_topic_reaches_those_of_them_who_have_joined_it() -> None:
    world = World()
    mine, other, hers, stranger = (Recorder() for _ in range(4))
    acting = world.connect(mine, user_id=1)
    cursors = [acting, world.connect(other, user_id=1), world.connect(hers, user_id=2)]
    cursors.append(world.connect(stranger, user_id=3))
    for cursor in (acting, *cursors[2:]):
        world.delivery.subscribe(cursor, "chat:a")
    world.delivery.tell_users([1, 2], b"a", "chat:a")
    assert [sink.frames for sink in (mine, other, hers, stranger)] == [[b"a"], [], [b"a"], []]
    world.delivery.tell_users([1, 2], b"b", "chat:b")
    world.delivery.tell_users([1], b"c", None, acting)
    assert [sink.frames for sink in (mine, other, hers, stranger)] == [[b"a"], [b"c"], [b"a"], []]


async def test_a_topic_ends_with_its_last_subscriber() -> None:
    world, sink = World(), Recorder()
    cursor = world.connect(sink)
    world.delivery.subscribe(cursor, "live:a")
    world.delivery.subscribe(cursor, "live:a")
    world.delivery.subscribe(cursor, "live:b")
    world.delivery.unsubscribe(cursor, "live:a")
    world.delivery.unsubscribe(cursor, "live:never")
    world.delivery.publish_topic("live:a", b"a")
    assert sink.frames == []
    assert set(world.hub.topics()) == {"live:b"}
    world.delivery.detach(cursor)
    world.delivery.detach(cursor)
    world.delivery.subscribe(cursor, "live:a")
    assert not world.hub.topics()


async def test_a_device_that_connects_again_replaces_its_older_connections_only() -> None:
    world = World()
    sinks = {name: Recorder() for name in ("old", "new", "tablet", "nameless", "unknown")}
    known = {
        "old": ("phone", 5),
        "new": ("phone", 6),
        "tablet": ("tablet", 4),
        "nameless": ("", 3),
        "unknown": ("phone", 0),
    }
    for name, (device, generation) in known.items():
        world.delivery.attach(USER, sinks[name], device, generation)
    world.delivery.replace(USER, "phone", 6)
    world.delivery.replace(USER, "", 6)
    assert [name for name, sink in sinks.items() if sink.cuts] == ["old"]
    assert sinks["old"].cuts == ["replaced"]
    assert sorted(world.hub.named_devices()) == [(USER, "phone", 6), (USER, "tablet", 4)]


async def test_a_connection_that_ends_while_it_is_written_to_does_not_disturb_the_others() -> None:
    world = World()

    class Dying(Recorder):
        def write(self, frame: bytes) -> None:
            super().write(frame)
            world.delivery.detach(cursor)

    first, dying, last = Recorder(), Dying(), Recorder()
    world.connect(first)
    cursor = world.connect(dying)
    world.connect(last)
    for each in world.hub.cursors_of(USER):
        world.delivery.subscribe(each, "live:a")
    world.delivery.publish_topic("live:a", b"a")
    world.commit()
    assert (first.frames, dying.frames, last.frames) == ([b"a", b"1"], [b"a"], [b"a", b"1"])

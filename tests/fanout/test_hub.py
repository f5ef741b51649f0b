from __future__ import annotations

import random

from fanout.cursor import Cursor
from fanout.hub import Hub
from tests.fanout.sinks import Recorder


def test_the_hub_is_a_set_of_cursors_by_user_and_topic() -> None:
    """Random changes, against plain lists."""
    random.seed(7)
    hub = Hub()
    present: list[Cursor] = []
    member: list[tuple[str, Cursor]] = []
    for _ in range(3_000):
        match random.randrange(4):
            case 0:
                cursor = Cursor(random.randrange(20), Recorder(), "", 0)
                hub.add(cursor)
                present.append(cursor)
            case 1 if present:
                cursor = present.pop(random.randrange(len(present)))
                hub.remove(cursor)
                hub.remove(cursor)
                member = [(topic, other) for topic, other in member if other is not cursor]
            case 2 if present:
                pair = (f"live:{random.randrange(5)}", random.choice(present))
                hub.join(pair[1], pair[0])
                if pair not in member:
                    member.append(pair)
            case 3 if member:
                topic, cursor = member.pop(random.randrange(len(member)))
                hub.part(cursor, topic)
        assert len(hub) == len(present)
    assert set(hub) == set(present)
    for user_id in range(20):
        assert hub.cursors_of(user_id) == tuple(cursor for cursor in present if cursor.user_id == user_id)
    for topic in {topic for topic, _ in member} | {"live:nobody"}:
        assert set(hub.members(topic)) == {cursor for name, cursor in member if name == topic}
    assert set(hub.topics()) == {topic for topic, _ in member}

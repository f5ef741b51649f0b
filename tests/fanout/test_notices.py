from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import notices
from fanout.broker import Listeners
from fanout.notices import Compare, Events, Gathered, Heads, Large, Replaced, Topic, Users, Wording, tell

MAX_ID = 2**53 - 1


def test_what_one_node_writes_another_reads_and_itself_ignores() -> None:
    a, b = Wording("node-a.1"), Wording("node-b.1")
    for notice in (Heads([(7, 4)]), Compare(), Replaced(7, "phone", 12), Large(3)):
        text = a.write(notice)
        assert b.read(text) == notice
        assert a.read(text) is None
    assert Wording("node-a").read(a.write(Compare())) == Compare()  # a name that begins alike is another's


def test_equal_notices_are_unlike_texts() -> None:
    """PostgreSQL would drop the second of two equal ones in one transaction."""
    wording = Wording("a")
    assert wording.write(Compare()) != wording.write(Compare())


@pytest.mark.parametrize(
    "text", ["", "b", "b 1", 'b x ["compare"]', "b 1 {", 'b 1 ["unheard"]', 'b 1 ["heads", 3]', "b 1 5"]
)
def test_what_is_no_notice_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's texts are its own
        Wording("a").read(text)


def test_a_nodes_name_is_one_word() -> None:
    for name in ("", "two words"):
        with pytest.raises(ValueError, match="one word"):
            Wording(name)


@given(st.lists(st.tuples(st.integers(1, MAX_ID), st.integers(1, MAX_ID)), max_size=notices.HEADS_MAX))
def test_heads_fit_notify_and_keep_the_highest_of_each_user(heads: list[tuple[int, int]]) -> None:
    gathered = Gathered()
    gathered.add_heads(heads)
    told: dict[int, int] = {}
    for notice in gathered.notices():
        assert isinstance(notice, Heads)
        assert len(Wording("n" * 100).write(notice)) <= notices.PAYLOAD_MAX
        told |= notice.pairs
    assert told == {user: max(seq for other, seq in heads if other == user) for user, _ in heads}


def test_the_longest_heads_fit_notify() -> None:
    pairs = [(MAX_ID - n, MAX_ID) for n in range(notices.HEADS_PER_NOTICE)]
    assert len(Wording("n" * 100).write(Heads(pairs))) <= notices.PAYLOAD_MAX


def test_too_many_heads_become_one_comparison() -> None:
    gathered = Gathered()
    gathered.add_heads([(user, 1) for user in range(notices.HEADS_MAX + 1)])
    gathered.add_heads([(5, 2)])
    assert gathered.notices() == [Compare()]


def test_waiting_topics_and_replaced_devices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "EPHEMERAL_MAX", 3)
    monkeypatch.setattr(notices, "REPLACED_MAX", 2)
    gathered = Gathered()
    assert not gathered
    for n in range(5):
        gathered.add_topic("live:a", b"%d" % n)
        gathered.add_replaced(n, "phone", n)
    gathered.add_replaced(4, "phone", 3)
    assert [bytes(notice.envelope) for notice in gathered.notices() if isinstance(notice, Topic)] == [b"2", b"3", b"4"]
    assert [notice for notice in gathered.notices() if isinstance(notice, Replaced)] == [
        Replaced(3, "phone", 3),
        Replaced(4, "phone", 4),
    ]
    monkeypatch.setattr(notices, "EPHEMERAL_BYTES_MAX", 10)
    gathered.add_topic("live:a", b"1234567890")
    assert [bytes(notice.envelope) for notice in gathered.notices() if isinstance(notice, Topic)] == [b"1234567890"]


def test_long_lists_of_users_are_bounded_by_what_they_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "EPHEMERAL_BYTES_MAX", 100 * notices.ID_BYTES)
    gathered = Gathered()
    gathered.add_users([], b"{}")
    assert not gathered
    for n in range(5):
        gathered.add_users([n] * 40, b"")
    assert [notice.user_ids[0] for notice in gathered.notices() if isinstance(notice, Users)] == [3, 4]
    gathered.add_users([7] * 101, b"")
    assert not gathered.notices()


def test_each_listener_is_told_what_is_for_it() -> None:
    heard: list[tuple[object, ...]] = []
    listeners = Listeners(
        on_heads=lambda heads: heard.append(("heads", heads)),
        on_events=lambda events: heard.append(("events", events)),
        on_compare=lambda: heard.append(("compare",)),
        on_topic=lambda topic, envelope: heard.append((topic, envelope)),
        on_users=lambda user_ids, envelope, topic: heard.append((user_ids, envelope, topic)),
        on_replaced=lambda *device: heard.append(device),
    )
    a, b = Wording("a"), Wording("b")
    gathered = Gathered()
    gathered.add_heads([(7, 4)])
    gathered.add_topic("live:a", '{"data":"ä"}'.encode())
    gathered.add_users([7, 8], b'{"data":1}')
    gathered.add_users([7], b"{}", "chat:a")
    gathered.add_replaced(7, "phone", 12)
    events = Events([(7, 5, msgspec.Raw(b'{"seq":5}'))])
    for notice in [Compare(), events, *gathered.notices()]:
        read = b.read(a.write(notice))
        assert read is not None
        tell(read, listeners)
    assert heard == [
        ("compare",), ("events", [(7, 5, b'{"seq":5}')]), ("heads", [(7, 4)]), (7, "phone", 12),
        ("live:a", '{"data":"ä"}'.encode()), ([7, 8], b'{"data":1}', None), ([7], b"{}", "chat:a"),
    ]  # fmt: skip


def test_what_a_node_of_before_topics_says_to_users_is_for_all_their_connections() -> None:
    assert Wording("b").read('a 1 ["users",[7,8],{"data":1}]') == Users([7, 8], msgspec.Raw(b'{"data":1}'), None)

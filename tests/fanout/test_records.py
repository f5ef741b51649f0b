"""What a batch becomes on its way through Kafka: who is told what."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from fanout import records as records_module
from fanout.notices import Compare, Events, Heads, Replaced, Topic, Users
from fanout.presence import Peer, Where
from fanout.records import EVENTS_MAX, Outbox, Record, read, records
from tests.fanout.sinks import Told, told

B, C, D, E = (Peer(name, partition) for partition, name in enumerate("BCDE", 1))
RAW = msgspec.Raw(b"{}")


def where(holders: dict[int, Iterable[Peer]], unsure: Iterable[Peer] = (), peers: int = 4) -> Where:
    return Where({user: tuple(found) for user, found in holders.items()}, tuple(unsure), peers)


def outbox(*pairs: tuple[int, int]) -> Outbox:
    made = Outbox()
    made.add_events(told(pairs))
    return made


def written(made: Iterable[Record]) -> dict[tuple[int, bytes], list[list[object]]]:
    """(partition, key) -> the notices of each record"""
    found: dict[tuple[int, bytes], list[list[object]]] = {}
    for record in made:
        found.setdefault((record.partition, record.key), []).append(list(read(record.value)))
    return found


def events(*pairs: tuple[int, int]) -> Events:
    return Events([(user, seq, RAW) for user, seq in pairs])


def test_each_node_gets_one_record_with_what_concerns_it() -> None:
    made = written(records(outbox((1, 5), (2, 6), (1, 7), (3, 8)), where({1: [B], 2: [C], 3: [B, C]}), "A"))
    assert made == {
        (1, b"=B"): [[events((1, 5), (1, 7), (3, 8))]],
        (2, b"=C"): [[events((2, 6), (3, 8))]],
    }


def test_a_user_on_no_node_costs_no_record() -> None:
    assert not written(records(outbox((1, 5), (2, 6)), where({}), "A"))


def test_who_is_on_most_nodes_is_told_once_to_all() -> None:
    made = written(records(outbox((1, 5), (2, 6), (3, 7)), where({1: [B, C, D], 2: [B, C], 3: [B]}), "A"))
    assert made == {
        (0, b"*A"): [[events((1, 5))]],
        (1, b"=B"): [[events((2, 6), (3, 7))]],
        (2, b"=C"): [[events((2, 6))]],
    }
    assert set(written(records(outbox((1, 5)), where({1: [B]}, peers=1), "A"))) == {(1, b"=B")}, "the only other one"


def test_where_nobody_knows_all_are_told() -> None:
    assert written(records(outbox((1, 5), (2, 6)), None, "A")) == {(0, b"*A"): [[events((1, 5), (2, 6))]]}


def test_a_node_that_may_hold_anybody_is_told_everything() -> None:
    made = written(records(outbox((1, 5), (2, 6)), where({1: [B]}, unsure=[C]), "A"))
    assert made == {(1, b"=B"): [[events((1, 5))]], (2, b"=C"): [[events((1, 5), (2, 6))]]}


def test_ephemeral_events_name_to_each_node_the_users_that_it_holds() -> None:
    box = Outbox()
    box.others.add_users([1, 2, 3, 4], b"{}")
    box.others.add_replaced(2, "phone", 9)
    made = written(records(box, where({1: [B], 2: [B, C], 3: []}, unsure=[D], peers=9), "A"))
    assert made == {
        (1, b"=B"): [[Replaced(2, "phone", 9), Users([1, 2], RAW)]],
        (2, b"=C"): [[Replaced(2, "phone", 9), Users([2], RAW)]],
        (3, b"=D"): [[Replaced(2, "phone", 9), Users([1, 2, 3, 4], RAW)]],
    }
    everybody = where({1: [B], 2: [C], 3: [D]}, peers=4)
    assert written(records(box, everybody, "A"))[0, b"*A"] == [[Users([1, 2, 3, 4], RAW)]]
    box = Outbox()
    box.others.add_users([1, 2], b"{}", "chat:a")
    made = written(records(box, where({1: [B], 2: [C]}, peers=9), "A"))
    assert made == {(1, b"=B"): [[Users([1], RAW, "chat:a")]], (2, b"=C"): [[Users([2], RAW, "chat:a")]]}


def test_topics_and_comparisons_are_for_all() -> None:
    box = outbox((1, 5))
    box.add_compare()
    box.others.add_topic("live:a", b"{}")
    assert written(records(box, where({1: [B]}), "A")) == {(0, b"*A"): [[Compare(), Topic("live:a", RAW)]]}
    assert box.user_ids() == set()


def test_everybody_concerned_is_asked_for() -> None:
    box = outbox((1, 5))
    box.others.add_users([2, 3], b"{}")
    box.others.add_replaced(4, "", 9)
    assert box.user_ids() == {1, 2, 3, 4}
    assert box
    assert not Outbox()


def test_too_many_events_are_told_as_a_comparison() -> None:
    box = Outbox()
    box.add_events(told((user, 1) for user in range(EVENTS_MAX)))
    assert (len(box.events), box.compares) == (EVENTS_MAX, False)
    box.add_events(told([(7, 1)]))
    box.add_events(told([(8, 1)]))
    assert (box.events, box.compares, box.dropped) == ([], True, EVENTS_MAX + 2)


def test_a_record_is_bounded_and_what_is_too_much_is_told_as_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "RECORD_BYTES", 300)
    monkeypatch.setattr(records_module, "EVENT_BYTES_MAX", 500)
    envelope = b'"%s"' % (b"x" * 100)
    box = Outbox()
    box.add_events([Told(user, 1, envelope) for user in range(1, 9)])
    made = list(records(box, None, "A"))
    notices = [notice for record in made for notice in read(record.value)]
    whole = [pair[:2] for notice in notices if isinstance(notice, Events) for pair in notice.events]
    heads = [tuple(pair) for notice in notices if isinstance(notice, Heads) for pair in notice.pairs]
    assert (whole, heads) == ([(user, 1) for user in range(1, 6)], [(user, 1) for user in range(6, 9)])
    assert max(len(record.value) for record in made) < 2 * 300


@pytest.mark.parametrize("value", [b"", b"{", b"[]x", b'[["unheard"]]', b'[["heads",3]]', b'{"a":1}', b"\xff"])
def test_what_is_no_record_is_told_apart(value: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's own, whichever
        read(value)

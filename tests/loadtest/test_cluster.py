"""`applause loadtest cluster`: what it counts, and that it counts it on a real cluster."""

from __future__ import annotations

import time

import msgspec

from loadtest.cluster import Post, Result, Told, as_table
from tests.loadtest.conftest import Command
from tests.support.services import need_kafka, need_valkey


def message(event_id: str) -> bytes:
    return b'42["notification",{"id":"%b","seq":1}]' % event_id.encode()


def test_each_event_counts_once_for_each_user_from_when_it_was_due() -> None:
    post, now = Post(), time.perf_counter()
    event = post.begin(now - 3, here=[1, 2], there=[3])
    for user in (1, 3, 3):
        post.heard(user, message(event))
    assert (post.expected, post.there, post.come, post.twice) == (3, 1, 2, 1)
    post.sent[0].come.update({1: now - 2, 3: now - 1.5})
    here, there, added = post.waits()
    assert (here.count, there.count, added.count) == (1, 1, 1)
    waited = [round(each.quantile(0.5), 1) for each in (here, there, added)]
    assert waited == [1.0, 1.5, 0.5], "it waited for its turn, and that counts"


def test_what_was_published_to_warm_up_counts_for_nothing() -> None:
    earlier, post = Post(), Post()
    late = earlier.begin(0, here=[1], there=[2])
    post.begin(0, here=[1], there=[2])
    post.heard(1, message(late))
    post.heard(1, b'42["resumed",{"seq":0}]')
    assert (post.come, post.twice) == (0, 0)


def test_what_is_told_adds_up() -> None:
    before, after = Told(1, 1, 0, 100), Told(1, 1, 0, 100) + Told(4, 3, 2, 500)
    assert after.since(before) == Told(4, 3, 2, 500)


def test_it_measures_a_cluster(command: Command) -> None:
    need_kafka()
    need_valkey()
    asked = ["--nodes", "2", "--rate", "20", "--users", "50", "--seconds", "1", "--warm-up", "1", "--json", "-"]
    said = command("cluster", *asked)
    assert said.status == 0, said.err
    [result] = msgspec.json.decode(said.out, type=list[Result])
    assert (result.nodes, result.events, result.lost, result.twice) == (2, 80, 0, 0)
    assert result.records_per_event > 0
    assert 100 < result.bytes_per_event < 2_000
    assert 0 < result.here_ms[0] <= result.here_ms[1]
    assert "elsewhere" in as_table([result])

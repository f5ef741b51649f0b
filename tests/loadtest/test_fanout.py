"""What the listeners of the load test count."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.crew import Count
from loadtest.phone import Address
from loadtest.scenarios.fanout import Listener, Room

HERE = Address("127.0.0.1", 1, b"")


class Line:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_cut = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.is_cut = True


def listener(room: Room, *, keeps: bool = False) -> tuple[Listener, Line]:
    """One that is connected and ready."""
    phone, line = Listener(HERE, b"", room, keeps=keeps), Line()
    phone.connection_made(line)  # type: ignore[arg-type]
    phone.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    line.written.clear()
    return phone, line


def frame(text: bytes) -> bytes:
    size = len(text)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")) + text


MESSAGES: list[Any] = [b"x" * size for size in (10, 100, 126, 300, 5_000)]


@given(bodies=st.lists(st.sampled_from(MESSAGES), max_size=12), cuts=st.lists(st.integers(0, 20_000), max_size=6))
@pytest.mark.parametrize("keeps", [False, True])
def test_every_event_counts_once_in_whatever_pieces(keeps: bool, bodies: list[bytes], cuts: list[int]) -> None:
    count = Count()
    room = Room(1, 1, count)
    phone, line = listener(room, keeps=keeps)
    stream = b"".join(frame(b'42["notification",%b]' % body) for body in bodies) + frame(b"2")
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in pairwise(edges):
        phone.data_received(stream[start:end])
    assert (count.done, count.faults, len(room.missing)) == (len(bodies), 0, len(bodies))
    assert line.written == [b"\x81\x81\x00\x00\x00\x003"], "the ping among them is answered"
    assert not line.is_cut


def test_what_is_no_notification_is_a_fault() -> None:
    count = Count()
    phone, _ = listener(Room(1, 1, count))
    phone.data_received(frame(b'42["notification",%b]' % (b"x" * 200)) + frame(b'42["closing",%b]' % (b"x" * 200)))
    assert (count.done, count.faults) == (1, 1)

"""frames.py by table, by property, and against the websockets package's Sans-I/O core."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from gateway.socket.frames import (
    Close,
    FrameParser,
    Item,
    Ping,
    Pong,
    Violation,
    close_frame,
    pong_frame,
    text_frame,
)
from tests.gateway.socket.frame_maker import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame, text

LIMIT = 1000


def parse(*chunks: bytes, limit: int = LIMIT) -> list[Item]:
    parser = FrameParser(limit)
    return [item for chunk in chunks for item in parser.feed(chunk)]


VALID = {
    "short": (text("hello"), [b"hello"]),
    "empty": (text(""), [b""]),
    "longest short": (text("x" * 125), [b"x" * 125]),
    "two bytes of length": (text("x" * 126), [b"x" * 126]),
    "several": (text("a") + text("b") + text("ç"), [b"a", b"b", "ç".encode()]),
    "just the limit": (text("x" * LIMIT), [b"x" * LIMIT]),
    "ping and pong": (frame(PING, b"p") + frame(PONG), [Ping(b"p"), Pong(b"")]),
    "fragments with a ping between": (
        text("a", fin=False) + frame(PING) + frame(CONTINUATION, b"b", fin=False) + frame(CONTINUATION, b"c"),
        [Ping(b""), b"abc"],
    ),
    "a character over two fragments": (text(b"\xc3", fin=False) + frame(CONTINUATION, b"\xa7"), ["ç".encode()]),
    "close without a code": (close(), [Close(None, "")]),
    "close": (close(1000, b"bye") + text("not read"), [Close(1000, "bye")]),
    "close within a message": (text("a", fin=False) + close(1001), [Close(1001, "")]),
    "private close code": (close(4999), [Close(4999, "")]),
}


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("step", [1, 2, 7, 100_000])
def test_valid_streams(name: str, step: int) -> None:
    stream, items = VALID[name]
    assert parse(*(stream[at : at + step] for at in range(0, len(stream), step))) == items


FAULTS = {
    "not masked": (text("a", masked=False), 1002),
    "reserved bit 1": (text("a", rsv=4), 1002),
    "reserved bit 3": (text("a", rsv=1), 1002),
    "reserved opcode 3": (frame(3, b"a"), 1002),
    "reserved opcode 11": (frame(11, b"a"), 1002),
    "fragmented ping": (frame(PING, fin=False), 1002),
    "ping of 126": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"a"), 1002),
    "a message within a message": (text("a", fin=False) + text("b"), 1002),
    "length not in its shortest form, 2": (text("a", width=2), 1002),
    "length not in its shortest form, 8": (text("x" * 200, width=8), 1002),
    "length with its top bit": (b"\x81\xff" + b"\xff" * 8, 1002),
    "a length of eight bytes that begins like one of two": (b"\x81\xff" + b"\0\xc8" + bytes(300), 1009),
    "binary": (frame(BINARY, b"a"), 1003),
    "binary fragment": (frame(BINARY, b"a", fin=False), 1003),
    "not UTF-8": (text(b"\xff"), 1007),
    "a surrogate": (text(b"\xed\xa0\x80"), 1007),
    "overlong": (text(b"\xc0\xaf"), 1007),
    "not UTF-8 over fragments": (text(b"\xc3", fin=False) + frame(CONTINUATION, b"a"), 1007),
    "long and not UTF-8": (text(b"\xff" * 300), 1007),
    "too big": (text("x" * (LIMIT + 1)), 1009),
    "too big by its header alone": (text("x" * (LIMIT + 1))[:4], 1009),
    "too big in sum": (text("x" * LIMIT, fin=False) + frame(CONTINUATION, b"x")[:2], 1009),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close with a bad reason": (close(1000, b"\xff"), 1007),
    **{f"close code {code}": (close(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)},
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("step", [1, 3, 100_000])
def test_faults_end_the_stream_after_what_came_before(name: str, step: int) -> None:
    stream, code = FAULTS[name]
    stream = text("before") + stream + text("after")
    items = parse(*(stream[at : at + step] for at in range(0, len(stream), step)))
    assert items[0] == b"before"
    assert len(items) == 2
    assert isinstance(items[1], Violation)
    assert items[1].code == code


def test_a_small_limit_counts_for_short_frames_too() -> None:
    assert parse(text("x" * 9), limit=8) == [Violation(1009, "message too big")]


def test_idle_parsers_hold_nothing() -> None:
    parser = FrameParser(LIMIT)
    for stream, items in VALID.values():
        if not isinstance(items[-1], Close):
            parser.feed(stream[:1])
            parser.feed(stream[1:])
            assert parser._pending is None


@pytest.mark.parametrize("size", [*range(20), 125, 126, 1000, 65535, 65536, 65537])
def test_text_of_any_length_is_unmasked(size: int) -> None:
    payload = bytes(random.Random(size).choices(range(128), k=size))
    stream = text(payload)
    assert parse(stream, limit=size) == parse(stream[:-1], stream[-1:], limit=size) == [payload]


# -- properties ------------------------------------------------------------------------------------------------------

payloads = st.one_of(st.binary(max_size=12), st.text(max_size=60).map(str.encode), st.just(b"x" * 130))
any_frame = st.builds(
    frame,
    st.sampled_from([TEXT, TEXT, TEXT, CONTINUATION, PING, PONG, CLOSE, BINARY, 3]),
    payloads,
    fin=st.booleans(),
    rsv=st.sampled_from([0] * 15 + [1]),
    masked=st.sampled_from([True] * 15 + [False]),
)
streams = st.lists(any_frame, max_size=8).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(streams, st.lists(st.integers(0, 400), max_size=6))
def test_any_split_gives_the_same_items(stream: bytes, cuts: list[int]) -> None:
    bounds = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    assert parse(*(stream[start:end] for start, end in pairwise(bounds))) == parse(stream)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_never_raises(stream: bytes) -> None:
    parse(stream)


# -- the websockets package as oracle --------------------------------------------------------------------------------

PADDING = bytes(LIMIT + 200)  # completes any frame that waits, then breaks every stream


def websockets_items(stream: bytes) -> list[Item]:
    """What the Sans-I/O core makes of `stream`, with texts put together and checked as its upper layers do."""
    peer = Protocol(Side.SERVER, max_size=LIMIT)
    peer.receive_data(stream)
    items: list[Item] = []
    message = b""
    for event in peer.events_received():
        assert isinstance(event, Frame)
        payload = bytes(event.data)
        if event.opcode is Opcode.PING:
            items.append(Ping(payload))
        elif event.opcode is Opcode.PONG:
            items.append(Pong(payload))
        elif event.opcode is Opcode.CLOSE:
            assert peer.close_rcvd is not None
            code = int(peer.close_rcvd.code)
            return [*items, Close(None if code == 1005 else code, peer.close_rcvd.reason)]
        elif event.opcode is Opcode.BINARY:
            return [*items, Violation(1003, "")]
        else:
            message += payload
            if event.fin:
                try:
                    message.decode()
                except UnicodeDecodeError:
                    return [*items, Violation(1007, "")]
                items.append(message)
                message = b""
    assert peer.close_sent is not None
    return [*items, Violation(int(peer.close_sent.code), "")]


def agree(stream: bytes) -> bool:
    """Whether both see the same, apart from differences that are meant: each is a rule that the core checks later,
    in another order, or not at all."""
    ours, theirs = parse(stream), websockets_items(stream)
    if ours[:-1] != theirs[: len(ours) - 1]:
        return False
    end = ours[-1]
    if isinstance(end, Close) and theirs[-1] == Violation(1002, "") and len(ours) == len(theirs):
        return True  # a close within a message is a control frame like any other (RFC 6455, 5.4)
    if not isinstance(end, Violation):
        return end == theirs[-1] and len(ours) == len(theirs)
    if end.reason in ("frame length is not in its shortest form", "control frame too long", "binary message"):
        return True  # longer forms of a length pass there; and a binary message is refused at its first byte here
    if len(ours) != len(theirs):
        return False
    last = theirs[-1]
    # The core looks at sizes first, then at the bits of the first byte, then at the payload, there at the reason first.
    meant = {(1002, 1009), (1002, 1003), (1002, 1007)}
    return isinstance(last, Violation) and (end.code == last.code or (end.code, last.code) in meant)


@settings(max_examples=150, deadline=None)
@given(streams)
def test_the_oracle_agrees_on_built_streams(stream: bytes) -> None:
    assert agree(stream + PADDING)


@pytest.mark.parametrize("name", [*VALID, *FAULTS])
def test_the_oracle_agrees_on_the_tables(name: str) -> None:
    assert agree((VALID | FAULTS)[name][0] + PADDING)  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(10))
def test_the_oracle_agrees_on_mutated_streams(seed: int) -> None:
    chance = random.Random(seed)
    kinds = [TEXT, TEXT, TEXT, PING, PONG, CLOSE, CONTINUATION]
    for _ in range(100):
        stream = bytearray()
        for _ in range(chance.randint(1, 6)):
            stream += frame(
                chance.choice(kinds), b"a\xc3\xa7" * chance.choice([0, 1, 5, 60]), fin=chance.random() < 0.8
            )
        for _ in range(chance.randint(0, 3)):
            at = chance.randrange(len(stream))
            if chance.random() < 0.7:
                stream[at] ^= 1 << chance.randrange(8)
            else:
                del stream[at : at + chance.randint(1, 3)]
            stream = stream or bytearray(b"\0")
        assert agree(bytes(stream) + PADDING), bytes(stream)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_a_client_reads_our_text_frames(size: int) -> None:
    client = Protocol(Side.CLIENT, max_size=None)
    client.receive_data(text_frame(b"x" * size))
    [event] = client.events_received()
    assert isinstance(event, Frame)
    assert (event.opcode, event.fin, bytes(event.data)) == (Opcode.TEXT, True, b"x" * size)


def test_a_client_reads_our_control_frames() -> None:
    client = Protocol(Side.CLIENT)
    client.receive_data(pong_frame(b"q" * 125) + close_frame(1008))
    pong, end = client.events_received()
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"q" * 125)  # type: ignore[union-attr]
    assert end.data == b"\x03\xf0"  # type: ignore[union-attr]
    assert close_frame(None) == b"\x88\x00"

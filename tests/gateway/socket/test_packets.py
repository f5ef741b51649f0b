"""packets.py by table, by property, and against python-socketio's and python-engineio's packet classes."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import msgspec
import pytest
from engineio.packet import Packet as EnginePacket
from hypothesis import given, settings
from hypothesis import strategies as st
from socketio import packet as official

from gateway.socket import packets
from gateway.socket.packets import Connect, Event, Leave, MalformedEvent, Nothing, Pong, ProtocolError, decode


def plain(packet: packets.Packet) -> Any:
    """A packet with its Raws decoded, fit to compare."""
    match packet:
        case Event(name, args, ack_id):
            return ("event", name, [msgspec.json.decode(arg) for arg in args], ack_id)
        case Connect(namespace, auth):
            return ("connect", namespace, None if auth is None else msgspec.json.decode(auth))
        case _:
            return packet


DECODED = {
    b"3": Pong(),
    b"1": Leave(),
    b"6": Nothing(),
    b"41": Leave(),
    b"41/,": Leave(),
    b"40": ("connect", "/", None),
    b"40/": ("connect", "/", None),
    b'40{"token":"t"}': ("connect", "/", {"token": "t"}),
    b'40/,{"token":"t"}': ("connect", "/", {"token": "t"}),
    b'40/?token=secret,{"a":1}': ("connect", "/", {"a": 1}),
    b"40[1]": ("connect", "/", [1]),
    b"40/other,": ("connect", "/other", None),
    b"40/other": ("connect", "/other", None),
    b'42["a"]': ("event", "a", [], None),
    b'420["a",{}]': ("event", "a", [{}], 0),
    b'42007["a",1,2]': ("event", "a", [1, 2], 7),
    b'42/,12["a"]': ("event", "a", [], 12),
    b'42999999999999999["a"]': ("event", "a", [], 999999999999999),
    b'42["connect"]': ("event", "connect", [], None),
    b"431[]": Nothing(),
    b'4312[{"a":1}]': Nothing(),
    b"42": MalformedEvent(None, None),
    b"4212": MalformedEvent(12, None),
    b"42[]": MalformedEvent(None, None),
    b"42x": MalformedEvent(None, None),
    b"42-1[]": MalformedEvent(None, None),
    b"42 []": MalformedEvent(None, None),
    b'42{"a":1}': MalformedEvent(None, None),
    b"42[1]": MalformedEvent(None, None),
    b'421["a"': MalformedEvent(1, None),
    b'42["a"]]': MalformedEvent(None, None),
    rb'42["\ud800"]': MalformedEvent(None, None),
    b'425["a",{"x":{"y":NaN}}]': MalformedEvent(5, "y"),
    b'42["a",{"x":-Infinity}]': MalformedEvent(None, "x"),
    b'42["a",' + b"[" * 60_000: MalformedEvent(None, None),
}


@pytest.mark.parametrize("message", DECODED, ids=lambda message: message[:30].decode())
def test_decode(message: bytes) -> None:
    assert plain(decode(message)) == DECODED[message]


REFUSED = {
    b"": 1008,
    b"0{}": 1008,
    b"2": 1008,
    b"2probe": 1008,
    b"3probe": 1008,
    b"5": 1008,
    b"7": 1008,
    b"4": 1008,
    b"47": 1008,
    b"44{}": 1008,
    b"40{": 1008,
    b"40x": 1008,
    b"41x": 1008,
    b"41/other,": 1008,
    b'42/other,["a"]': 1008,
    b'421234567890123456["a"]': 1008,
    b"42" + b"9" * 5000: 1008,
    b"43": 1008,
    b"43[]": 1008,
    b"431": 1008,
    b"43/other,1[]": 1008,
    b"40/" + b"x" * 300: 1008,
    b'451-["a",{"_placeholder":true,"num":0}]': 1003,
    b"461-1[]": 1003,
    b"bAAAA": 1003,
}


@pytest.mark.parametrize("message", REFUSED, ids=lambda message: message[:30].decode())
def test_protocol_errors(message: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(message)
    assert caught.value.code == REFUSED[message]


names = st.text(min_size=1, max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def as_message(packet: official.Packet) -> bytes:
    encoded: str = EnginePacket(4, packet.encode()).encode()
    return encoded.encode()


@settings(max_examples=100, deadline=None)
@given(names, st.lists(values, max_size=3), st.none() | st.integers(0, 10**15 - 1))
def test_events_of_an_official_client(name: str, args: list[Any], ack_id: int | None) -> None:
    message = as_message(official.Packet(official.EVENT, [name, *args], id=ack_id))
    assert plain(decode(message)) == ("event", name, args, ack_id)


@settings(max_examples=50, deadline=None)
@given(st.none() | st.dictionaries(st.text(max_size=5), values, max_size=3), st.sampled_from([None, "/", "/chat"]))
def test_connects_of_an_official_client(auth: Any, namespace: str | None) -> None:
    message = as_message(official.Packet(official.CONNECT, auth, namespace=namespace))
    assert plain(decode(message)) == ("connect", namespace or "/", auth)


def read_officially(message: bytes) -> official.Packet:
    engine = EnginePacket(encoded_packet=message.decode())
    assert engine.packet_type == 4
    return official.Packet(encoded_packet=message.decode()[1:])


@settings(max_examples=100, deadline=None)
@given(values, st.integers(0, 10**15 - 1))
def test_an_official_client_reads_what_we_send(value: Any, ack_id: int) -> None:
    body = json.dumps(value).encode()
    event = read_officially(packets.event_packet("video:like", body))
    assert (event.packet_type, event.data) == (official.EVENT, ["video:like", value])
    ack = read_officially(packets.ack_packet(ack_id, body))
    assert (ack.packet_type, ack.id, ack.data) == (official.ACK, ack_id, [value])


def test_an_official_client_reads_the_handshake_and_the_refusals() -> None:
    opened = packets.open_packet("s", ping_interval_ms=25000, ping_timeout_ms=20000, max_message_bytes=65536)
    handshake = EnginePacket(encoded_packet=opened.decode())
    assert handshake.packet_type == 0
    assert handshake.data == {
        "sid": "s",
        "upgrades": [],
        "pingInterval": 25000,
        "pingTimeout": 20000,
        "maxPayload": 65536,
    }
    connected = read_officially(packets.connect_packet("abc"))
    assert (connected.packet_type, connected.data) == (official.CONNECT, {"sid": "abc"})
    refused = read_officially(packets.connect_error_packet(b'{"message":"no"}'))
    assert (refused.packet_type, refused.namespace, refused.data) == (official.CONNECT_ERROR, None, {"message": "no"})
    unknown = read_officially(packets.invalid_namespace_packet("/other"))
    assert (unknown.namespace, unknown.data) == ("/other", {"message": "Invalid namespace"})
    assert read_officially(packets.DISCONNECT_PACKET).packet_type == official.DISCONNECT
    assert EnginePacket(encoded_packet=packets.PING_PACKET.decode()).packet_type == 2


@pytest.mark.parametrize("seed", range(5))
def test_mutated_packets_raise_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    samples = [message for message in (*DECODED, *REFUSED) if 0 < len(message) < 200]
    for _ in range(500):
        message = bytearray(chance.choice(samples))
        for _ in range(chance.randint(1, 4)):
            message[chance.randrange(len(message))] = chance.choice(b'0123456789[]{}",:/-?\\ abNI')
        with contextlib.suppress(ProtocolError):
            decode(bytes(message))

"""connection.py over real sockets: good clients, bad ones, slow ones, silent ones."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
import socketio

from gateway.socket.connection import CLOSE_S, event_frame
from tests.gateway.socket.frame_maker import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame, text
from tests.gateway.socket.raw_client import House, RawClient, request, serve


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with serve() as running:
        yield running


# -- good clients ----------------------------------------------------------------------------------------------------


async def test_an_official_client_connects_emits_and_leaves(house: House) -> None:
    client = socketio.AsyncClient()
    heard = asyncio.get_running_loop().create_future()
    client.on("welcome", heard.set_result)
    await client.connect(f"http://127.0.0.1:{house.port}", auth={"token": "t"}, transports=["websocket"])
    assert await asyncio.wait_for(heard, 2) == {}
    assert house.app.auths == [{"token": "t"}]
    assert len(client.get_sid()) == 20
    assert await client.call("echo", ("çé", {"a": [1]}), timeout=2) == ["çé", {"a": [1]}]
    big = "x" * 60_000
    assert await client.call("echo", big, timeout=2) == [big]
    assert await asyncio.gather(*(client.call("echo", n, timeout=2) for n in range(50))) == [[n] for n in range(50)]
    await client.disconnect()
    await house.wait_for(lambda: house.app.lost)
    assert house.app.lost == house.app.connections


async def test_every_connection_has_names_of_its_own(house: House) -> None:
    names = set()
    for _ in range(3):
        client = await RawClient.open(house.port)
        client.writer.write(request() + text("40"))
        await client.read_handshake()
        names |= {msgspec.json.decode((await client.text()).lstrip("04"))["sid"] for _ in range(2)}
        client.writer.close()
    assert len(names) == 6


async def test_an_official_client_learns_why_it_is_refused(house: House) -> None:
    client = socketio.AsyncClient(reconnection=False)
    told = asyncio.get_running_loop().create_future()
    client.on("connect_error", told.set_result)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(f"http://127.0.0.1:{house.port}", auth={"refuse": "1"}, transports=["websocket"])
    assert (await told)["message"] == "token_invalid"
    await house.wait_for(lambda: not house.door.connections)
    assert len(house.app.lost) == 1


async def test_an_official_client_comes_back_after_a_bare_close_and_stays_away_after_disconnect(house: House) -> None:
    client = socketio.AsyncClient(reconnection_delay=0.01, randomization_factor=0)
    await client.connect(f"http://127.0.0.1:{house.port}", transports=["websocket"])
    house.app.connections[0].drop()
    await house.wait_for(lambda: len(house.app.connections) == 2, 3)
    told = asyncio.get_running_loop().create_future()
    client.on("closing", told.set_result)
    await asyncio.sleep(0.05)
    house.app.connections[1].end(closing=event_frame("closing", b'{"code":"revoked"}'), disconnect=True, code=1008)
    assert await asyncio.wait_for(told, 2) == {"code": "revoked"}
    await house.wait_for(lambda: not house.door.connections)
    await asyncio.sleep(0.1)
    assert len(house.app.connections) == 2
    await client.disconnect()


async def test_no_event_of_a_turn_is_written_alone(house: House) -> None:
    client = await house.client()
    [connection] = house.app.connections
    writes = []
    transport = connection._transport
    connection._transport = type("Spy", (), {"write": lambda _, data: (writes.append(data), transport.write(data))})()  # type: ignore[assignment]
    client.writer.write(b"".join(text(f'42{n}["echo",{n}]') for n in range(20)))
    assert [await client.text() for _ in range(20)] == [f"43{n}[[{n}]]" for n in range(20)]
    connection._transport = transport
    assert len(writes) == 1


async def test_events_without_an_ack_and_odd_ones_reach_the_app(house: House) -> None:
    client = await house.client()
    for message in ('42["a"]', '42["connect",1]', '42/,3["b"]', "42[]", '427["c",{"x":NaN}]', "3", "6", "431[]"):
        client.send(message)
    client.send('429["last"]')
    assert await client.text() == "433[[]]"
    assert await client.text() == "439[[]]"
    assert house.app.events == [("a", [], None), ("connect", [1], None), ("b", [], 3), ("last", [], 9)]
    assert house.app.malformed == [(None, None), (7, "x")]


async def test_an_unknown_namespace_is_refused_and_nothing_else_happens(house: House) -> None:
    client = await house.client(connect=False)
    client.send("40/admin,{}")
    assert await client.text() == '44/admin,{"message":"Invalid namespace"}'
    client.send("40/,{}")
    assert (await client.text()).startswith('40{"sid"')
    client.send("40/admin")
    assert await client.text() == '42["welcome",{}]'
    assert await client.text() == '44/admin,{"message":"Invalid namespace"}'


async def test_websocket_pings_are_answered_between_fragments(house: House) -> None:
    client = await house.client()
    client.writer.write(text('421["echo",', fin=False) + frame(PING, b"here?") + frame(CONTINUATION, b'"x"]'))
    assert {await client.frame(), await client.frame()} == {(PONG, b"here?"), (TEXT, b'431[["x"]]')}


@pytest.mark.parametrize(
    ("sent", "code"), [(close(1000, b"bye"), 1000), (close(), 0), (text("41"), 1000), (text("1"), 1000)]
)
async def test_the_peer_may_leave(house: House, sent: bytes, code: int) -> None:
    client = await house.client()
    client.writer.write(sent)
    assert await client.rest() == ([], code)
    await house.wait_for(lambda: house.app.lost and not house.door.connections)


@pytest.mark.parametrize("how", ["abort", "eof"])
async def test_a_vanished_peer_is_lost_at_once(house: House, how: str) -> None:
    client = await house.client()
    if how == "abort":
        client.writer.transport.abort()
    else:
        client.writer.write_eof()
    await house.wait_for(lambda: house.app.lost and not house.door.connections, 0.5)
    assert len(house.app.lost) == 1


async def test_a_bearer_is_taken_once(house: House) -> None:
    await house.client(headers="Authorization: Bearer abc.def\r\n")
    await house.client(headers="Authorization: Basic abc\r\n")
    assert house.app.bearers == ["abc.def", None]
    assert [connection.take_bearer() for connection in house.app.connections] == [None, None]


async def test_the_token_does_not_stay_in_memory(house: House) -> None:
    client = await house.client(connect=False, headers="Authorization: Bearer in-the-header\r\n")
    client.send('40{"token":"in-the-payload"}')
    await client.text()
    house.app.auths.clear()
    house.app.bearers.clear()
    await asyncio.sleep(0)
    [connection] = house.app.connections
    gc.collect()
    found, seen, queue = [], set(), [connection]
    while queue:  # everything that the connection keeps alive of its own
        one = queue.pop()
        if id(one) in seen or isinstance(one, type) or one is connection._hall:
            continue
        seen.add(id(one))
        if isinstance(one, bytes | bytearray | str) and "in-the" in str(one):
            found.append(one)
        queue.extend(gc.get_referents(one))
    assert found == []
    requests = [one for one in gc.get_objects() if type(one).__name__ == "Request"]  # other tests' ones included
    assert not [one for one in requests if "in-the-header" in one.headers.get("Authorization", "")]


# -- bad clients -----------------------------------------------------------------------------------------------------

CLOSING = '42["closing",{"code":"protocol_error","message":"This is not the protocol.","retryable":false}]'
BAD = {
    "unmasked": (text('42["a"]', masked=False), 1002),
    "reserved bits": (text('42["a"]', rsv=4), 1002),
    "reserved opcode": (frame(3), 1002),
    "fragmented ping": (frame(PING, fin=False), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "close code 1006": (close(1006), 1002),
    "binary message": (frame(BINARY, b"x"), 1003),
    "bad UTF-8": (text(b'42["\xff"]'), 1007),
    "too big": (text("x" * 65_537), 1009),
    "too big by its header": (text("x" * 65_537)[:10], 1009),
    "binary packet": (text('451-["a",{"_placeholder":true,"num":0}]'), 1003),
    "base64 packet": (text("bAAAA"), 1003),
    "empty packet": (text(""), 1008),
    "ping of the client's": (text("2"), 1008),
    "upgrade": (text("5"), 1008),
    "unknown packet": (text("9"), 1008),
    "second CONNECT": (text('40{"token":"guess"}'), 1008),
    "event for another namespace": (text('42/x,["a"]'), 1008),
    "endless ack id": (text("42" + "1" * 100 + '["a"]'), 1008),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_protocol_error_ends_the_connection_with_its_code(house: House, name: str) -> None:
    sent, code = BAD[name]
    client = await house.client()
    client.writer.write(text('421["echo"]') + sent + text('42["after"]'))
    assert await client.rest() == (["431[[]]", CLOSING, "41"], code)
    await house.wait_for(lambda: house.app.lost and not house.door.connections)
    assert [event[0] for event in house.app.events] == ["echo"]
    assert len(house.app.lost) == 1


@pytest.mark.parametrize("sent", [text('42["a"]'), text('421["a"]'), text("42[]"), text("40{"), text("9"), text("2")])
async def test_before_connect_only_connect_is_the_protocol(house: House, sent: bytes) -> None:
    client = await house.client(connect=False)
    client.writer.write(sent)
    assert await client.rest() == ([], 1008)
    assert not house.app.connections
    assert not house.app.lost


async def test_an_event_before_the_answer_to_connect_is_an_error(house: House) -> None:
    house.app.hold = True
    client = await house.client(connect=False)
    client.writer.write(text("40") + text('42["a"]'))
    assert await client.rest() == ([], 1008)
    await house.wait_for(lambda: house.app.lost)
    house.app.connections[0].accept()  # too late, and harmless


async def test_a_refused_client_cannot_try_again(house: House) -> None:
    client = await house.client(connect=False)
    client.writer.write(text('40{"refuse":1}') + text("40"))
    assert await client.rest() == (['44{"message":"token_invalid","data":{"code":"token_invalid"}}'], 1008)
    assert len(house.app.connections) == 1
    assert len(house.app.lost) == 1


async def test_a_fault_of_the_app_ends_one_connection(house: House, caplog: pytest.LogCaptureFixture) -> None:
    other, client = await house.client(), await house.client()
    with caplog.at_level(logging.CRITICAL, "gateway.socket.connection"):
        client.send('42["crash"]')
        assert await client.rest() == ([], 1011)
    other.send('421["echo"]')
    assert await other.text() == "431[[]]"
    assert len(house.app.lost) == 1


async def test_a_peer_that_does_not_answer_the_close_is_cut(house: House) -> None:
    client = await house.client()
    house.app.connections[0].end(closing=None, disconnect=True, code=1008)
    assert await client.text() == "41"
    assert (await client.frame())[0] == CLOSE
    client.send('42["too late"]')
    await house.wait_for(lambda: house.app.lost)
    await house.wait_for(lambda: not house.door.connections, 10)
    assert CLOSE_S < 1, "within a second, where the loop is not late"
    assert house.app.events == []


async def test_the_last_words_leave_before_the_cut_also_after_a_stall(house: House) -> None:
    """uvloop calls what is due by then before what was to be called soon."""
    client = await house.client()
    house.app.connections[0].end(closing=None, disconnect=True, code=1008)
    time.sleep(CLOSE_S + 0.2)  # noqa: ASYNC251 -- that is the stall
    assert await client.rest() == (["41"], 1008)
    await house.wait_for(lambda: not house.door.connections)


async def test_after_the_end_nothing_is_written(house: House) -> None:
    client = await house.client()
    [connection] = house.app.connections
    connection.write(event_frame("first", b"1"))
    connection.end(closing=None, disconnect=False, code=1001)
    assert connection.congested
    connection.write(event_frame("second", b"2"))
    connection.ack(1, b"{}")
    connection.end(closing=None, disconnect=True, code=1008)
    connection.drop()
    assert await client.rest() == (['42["first",1]'], 1001)
    await house.wait_for(lambda: not house.door.connections)
    connection.write(b"")
    assert len(house.app.lost) == 1


# -- time ------------------------------------------------------------------------------------------------------------


async def test_without_connect_the_socket_is_closed() -> None:
    async with serve(connect_timeout_s=0.2) as house:
        client = await house.client(connect=False)
        client.writer.write(frame(PING) + text("6"))
        started = time.monotonic()
        assert await client.rest() == ([], 1008)
        assert time.monotonic() - started > 0.1
        assert not house.app.lost


async def test_pings_keep_a_client_and_their_lack_of_answer_ends_it() -> None:
    async with serve(ping_interval_s=0.1, ping_timeout_s=0.2) as house:
        client = await house.client()
        for _ in range(3):
            assert await client.text() == "2"
            client.send("3")
        assert await client.text() == "2"
        started = time.monotonic()
        assert await client.rest() == ([], 1001)
        assert time.monotonic() - started > 0.15
        assert len(house.app.lost) == 1


async def test_an_official_client_lives_through_pings() -> None:
    async with serve(ping_interval_s=0.05, ping_timeout_s=0.1) as house:
        client = socketio.AsyncClient(reconnection=False)
        await client.connect(f"http://127.0.0.1:{house.port}", transports=["websocket"])
        await asyncio.sleep(0.3)
        assert await client.call("echo", 1, timeout=1) == [1]
        assert not house.app.lost
        await client.disconnect()


# -- slow clients ----------------------------------------------------------------------------------------------------


async def test_a_slow_client_is_cut_by_bytes() -> None:
    async with serve(send_queue_bytes=200_000) as house:
        client = await house.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        [connection] = house.app.connections
        sent = 0
        most = 0
        while not house.app.lost:
            for _ in range(20):
                connection.write(event_frame("x", b'"' + b"x" * 1000 + b'"'))
                most = max(most, connection._queued + connection._transport.get_write_buffer_size())
            sent += 20_000
            await asyncio.sleep(0)
            assert sent < 20_000_000
        assert most < 200_000 + 70_000
        await house.wait_for(lambda: not house.door.connections)


async def test_one_turn_cannot_queue_without_bound() -> None:
    async with serve(send_queue_bytes=200_000) as house:
        client = await house.client()
        [connection] = house.app.connections
        for _ in range(20_000):
            connection.write(event_frame("x", b'"' + b"x" * 1000 + b'"'))
        assert connection._phase == 3
        assert connection._queued + connection._transport.get_write_buffer_size() < 300_000
        texts, _ = await client.rest()
        assert '"slow_consumer"' in texts[-1]
        assert texts[-1] != "41"


async def test_a_slow_client_is_cut_by_age() -> None:
    async with serve(send_queue_age_s=0.3, send_queue_bytes=10**9) as house:
        client = await house.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        [connection] = house.app.connections
        while not connection.congested:
            connection.write(event_frame("x", b'"' + b"x" * 50_000 + b'"'))
            await asyncio.sleep(0)
        started = time.monotonic()
        connection.write(event_frame("waits", b"1"))
        await house.wait_for(lambda: house.app.lost, 10)
        assert time.monotonic() - started > 0.25
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        texts, code = await client.rest()
        assert code == 1008
        assert msgspec.json.decode(texts[-1][2:])[1]["code"] == "slow_consumer"
        assert "waits" not in "".join(texts[-3:])


async def test_a_client_that_catches_up_goes_on() -> None:
    async with serve(send_queue_bytes=10**9) as house:
        client = await house.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        [connection] = house.app.connections
        count = 0
        while not connection.congested:
            connection.write(event_frame("x", b"[%d,%b]" % (count, b'"' + b"x" * 50_000 + b'"')))
            count += 1
            await asyncio.sleep(0)
        connection.write(event_frame("last", b"1"))
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(count):
            assert (await client.text()).startswith(f'42["x",[{number},')
        assert await client.text() == '42["last",1]'
        await house.wait_for(lambda: house.app.writable == 1)
        assert not connection.congested
        client.send('421["echo"]')
        assert await client.text() == "431[[]]"

"""door.py: who is let in and how others are told, from the porch and from aiohttp alike, and the hand-over of aiohttp's
transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from gateway.socket.connection import Connection
from gateway.socket.door import Refused
from tests.gateway.socket.frame_maker import text
from tests.gateway.socket.raw_client import KEY, QUERY, House, RawClient, request, serve


@pytest.fixture(params=["porch", "aiohttp"])
def has_porch(request: pytest.FixtureRequest) -> bool:
    """Which of them reads the handshake."""
    return request.param == "porch"


@pytest.fixture
async def house(has_porch: bool) -> AsyncIterator[House]:
    async with serve(has_porch=has_porch) as running:
        yield running


REFUSALS = {
    "polling": (request(query="/socket.io/?EIO=4&transport=polling"), 400, 0, "Transport unknown"),
    "no transport": (request(query="/socket.io/?EIO=4"), 400, 0, "Transport unknown"),
    "polling by POST": (
        request(query="/socket.io/?EIO=4&transport=polling", method="POST", headers="Content-Length: 0\r\n"),
        400,
        0,
        "Transport unknown",
    ),
    "upgrade of a polling session": (request(query=QUERY + "&sid=x"), 400, 1, "Session ID unknown"),
    "method": (request(method="POST", headers="Content-Length: 0\r\n"), 405, 2, "Bad handshake method"),
    "Engine.IO 3": (request(query=QUERY.replace("4", "3")), 400, 5, "Unsupported protocol version"),
    "no version of Engine.IO": (
        request(query="/socket.io?transport=websocket"),
        400,
        5,
        "Unsupported protocol version",
    ),
    "no Upgrade": (request(without="Upgrade"), 400, 3, "Bad request"),
    "another Upgrade": (request(Upgrade="h2c"), 400, 3, "Bad request"),
    "no Connection": (request(without="Connection"), 400, 3, "Bad request"),
    "another Connection": (request(Connection="close"), 400, 3, "Bad request"),
    "version 8": (request(Sec_WebSocket_Version="8"), 426, 3, "Bad request"),
    "no version": (request(without="Sec-WebSocket-Version"), 400, 3, "Bad request"),
    "no key": (request(without="Sec-WebSocket-Key"), 400, 3, "Bad request"),
    "a short key": (request(Sec_WebSocket_Key="c2hvcnQ="), 400, 3, "Bad request"),
    "a key that is no base64": (request(Sec_WebSocket_Key="!" * 24), 400, 3, "Bad request"),
    "two keys": (request(headers=f"Sec-WebSocket-Key: {KEY}\r\n"), 400, 3, "Bad request"),
    "a body": (request(headers="Content-Length: 3\r\n") + b"abc", 400, 3, "Bad request"),
    "HTTP/1.0": (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 400, 3, "Bad request"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusals(house: House, name: str) -> None:
    sent, status, code, message = REFUSALS[name]
    answered, answer = await house.exchange(sent)
    assert answered == status, answer
    assert msgspec.json.decode(answer.partition("\r\n\r\n")[2]) == {"code": code, "message": message}
    if status == 426:
        assert "Sec-WebSocket-Version: 13\r\n" in answer
    if status == 405:
        assert "Allow: GET\r\n" in answer
    assert not house.door.connections


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://test", "test", True),
        ("https://test", "test", True),
        ("https://TEST", "test:443", True),
        ("http://test:8080", "test:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("https://app.example", "test", True),
        ("https://app.example/", "test", True),
        ("http://app.example", "test", False),
        ("http://test:8080", "test", False),
        ("http://other", "test", False),
        ("http://test.other", "test", False),
        ("null", "test", False),
        ("", "test", False),
        ("http://[", "test", False),
    ],
)
async def test_origins(origin: str, host: str, allowed: bool, has_porch: bool) -> None:
    async with serve(has_porch=has_porch, allowed_origins=("https://app.example",)) as house:
        sent = request(Host=host, Origin=origin, headers="X-Forwarded-Host: other\r\n")
        client = await RawClient.open(house.port)
        client.writer.write(sent)
        status = (await client.reader.readline()).split()[1]
        assert status == (b"101" if allowed else b"403")
        client.writer.close()


async def test_a_star_lets_every_origin_in(has_porch: bool) -> None:
    async with serve(has_porch=has_porch, allowed_origins=("*",)) as house:
        await house.client(headers="Origin: null\r\n")


async def test_refusals_for_the_moment_are_503_with_retry_after(has_porch: bool) -> None:
    reasons = [Refused("draining", "this node is going away", 2.5)]
    async with serve(has_porch=has_porch, refused=lambda: reasons[-1] if reasons else None) as house:
        status, answer = await house.exchange(request())
        assert status == 503
        assert "Retry-After: 3\r\n" in answer
        body = msgspec.json.decode(answer.partition("\r\n\r\n")[2])
        assert (body["code"], body["retryable"], body["retryAfterMs"]) == ("draining", True, 2500)
        assert house.door.counts.connects == {"draining": 1}
        reasons.clear()
        await house.client()


async def test_the_number_of_connections_is_bounded(has_porch: bool) -> None:
    async with serve(has_porch=has_porch, max_connections=2) as house:
        first, _ = await house.client(), await house.client(connect=False)
        status, answer = await house.exchange(request())
        assert (status, '"overloaded"' in answer) == (503, True)
        first.writer.close()
        await house.wait_for(lambda: len(house.door.connections) == 1)
        await house.client()


async def test_connections_of_one_address_are_bounded_where_that_is_set(has_porch: bool) -> None:
    async with serve(has_porch=has_porch, max_connections_per_address=1) as house:
        first = await house.client()
        status, answer = await house.exchange(request())
        assert (status, '"connection_limit"' in answer) == (503, True)
        first.writer.close()
        await house.wait_for(lambda: not house.door.connections)
        await house.client()


async def test_half_a_header_is_closed(has_porch: bool) -> None:
    async with serve(has_porch=has_porch, header_timeout_s=0.2) as house:

        async def hang(sent: bytes) -> float:
            client = await RawClient.open(house.port)
            client.writer.write(sent)
            started = time.monotonic()
            assert await asyncio.wait_for(client.reader.read(), 10) == b""
            client.writer.close()
            return time.monotonic() - started

        halves = (b"", b"GET /socket.io/?EIO=4", request()[:-2], request()[:-20])
        assert all(took_s > 0.1 for took_s in await asyncio.gather(*map(hang, halves)))


async def test_a_header_that_trickles_is_closed(has_porch: bool) -> None:
    async with serve(has_porch=has_porch, header_timeout_s=0.4) as house:
        client = await RawClient.open(house.port)
        started = time.monotonic()
        ended = asyncio.ensure_future(client.reader.read())
        while not ended.done():
            client.writer.write(b"A")
            await asyncio.wait([ended], timeout=0.05)
            assert time.monotonic() - started < 10
        client.writer.close()


# -- the hand-over: what aiohttp 3.14.5 does not document, see `hand_over` ------------------------------------------


async def test_bytes_right_behind_the_header_are_not_lost(house: House) -> None:
    client = await house.client(connect=False, tail=text("40") + text('421["echo",1]')[:5])
    assert (await client.text()).startswith("40")
    client.writer.write(text('421["echo",1]')[5:])
    assert await client.text() == '42["welcome",{}]'
    assert await client.text() == "431[[1]]"


async def test_a_long_tail_does_not_leave_the_transport_paused(house: House) -> None:
    flood = text("40") + text("6") * 40_000
    client = await house.client(connect=False, tail=flood)
    assert (await client.text()).startswith("40")
    assert await client.text() == '42["welcome",{}]'
    client.send('421["echo",1]')
    assert await client.text() == "431[[1]]"


async def test_a_kept_alive_connection_can_be_upgraded(house: House) -> None:
    client = await RawClient.open(house.port)
    for _ in range(2):
        client.writer.write(b"GET /plain HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await client.reader.readuntil(b"done!")).startswith(b"HTTP/1.1 200")
    client.writer.write(b"GET /plain HTTP/1.1\r\nHost: test\r\n\r\n" + request() + text("40"))
    assert (await client.reader.readuntil(b"done!")).startswith(b"HTTP/1.1 200")
    await client.read_handshake()
    assert (await client.text()).startswith("0{")
    assert (await client.text()).startswith("40")


async def test_nothing_of_the_request_is_left(house: House) -> None:
    before = asyncio.all_tasks()
    clients = [await house.client() for _ in range(5)]
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() == before
    server = house.runner.server
    assert isinstance(server, web.Server)
    assert server.connections == []
    for connection in house.app.connections:
        assert connection._transport.get_protocol() is connection
    started = time.monotonic()
    await house.runner.cleanup()
    assert time.monotonic() - started < 5
    clients[0].send('421["echo"]')
    assert await clients[0].text() == "431[[]]"


async def test_neither_the_header_deadline_nor_keep_alive_reach_a_connection(has_porch: bool) -> None:
    async with serve(has_porch=has_porch, header_timeout_s=0.1) as house:
        client = await house.client()
        await asyncio.sleep(0.3)
        client.send('421["echo"]')
        assert await client.text() == "431[[]]"


async def test_a_client_that_leaves_during_the_handshake_leaves_nothing(house: House) -> None:
    for _ in range(20):
        client = await RawClient.open(house.port)
        client.writer.write(request() + text("40"))
        client.writer.transport.abort()
    await asyncio.sleep(0.2)
    await house.wait_for(lambda: not house.door.connections)
    assert len(house.app.lost) == len(house.app.connections)
    assert all(isinstance(connection, Connection) for connection in house.app.lost)


async def test_the_handshake_says_how_this_server_is_set(has_porch: bool) -> None:
    async with serve(has_porch=has_porch, ping_interval_s=0.5, ping_timeout_s=0.25, max_message_bytes=5000) as house:
        client = await RawClient.open(house.port)
        client.writer.write(request(query=QUERY.replace("/?", "?")))
        await client.read_handshake()
        opened = msgspec.json.decode((await client.text())[1:])
        assert len(opened.pop("sid")) == 20
        assert opened == {"upgrades": [], "pingInterval": 500, "pingTimeout": 250, "maxPayload": 5000}
        client.writer.close()

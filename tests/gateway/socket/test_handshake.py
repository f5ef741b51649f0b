"""handshake.py and porch.py: what they read, aiohttp would take for the same; the rest is aiohttp's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import socketio  # type: ignore[import-untyped]
from aiohttp import ClientSession
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from gateway.proxies import Proxies
from gateway.socket.handshake import MAX_FIELDS, MAX_HEAD_BYTES, Handshake, read_handshake
from tests.gateway.socket.frame_maker import text
from tests.gateway.socket.raw_client import KEY, QUERY, House, RawClient, request, serve

CHROME = request(
    Connection="keep-alive, Upgrade",
    Origin="http://test",
    headers="Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux) Chrome/141.0\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\nCookie: a=1; b=2\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
)


# -- what is read ----------------------------------------------------------------------------------------------------


def test_a_handshake_is_read() -> None:
    assert read_handshake(request()) == Handshake(KEY, "test", None, None, None, len(request()))


def test_what_it_says_is_kept() -> None:
    sent = request(
        Host="test:8080",
        query="/socket.io?transport=websocket&EIO=4&t=abc.123&x=",
        headers="AUTHORIZATION:Bearer abc \r\norigin:   null\r\nX-Forwarded-For: 1.2.3.4, 10.0.0.1\r\n",
    )
    read = read_handshake(sent + b"\x81frames")
    assert read == Handshake(KEY, "test:8080", "null", "Bearer abc", "1.2.3.4, 10.0.0.1", len(sent))


def test_a_browsers_is_read() -> None:
    read = read_handshake(CHROME)
    assert read is not None
    assert read.origin == "http://test"


@pytest.mark.parametrize("size", range(1, len(request())))
def test_half_of_one_is_not_read(size: int) -> None:
    assert read_handshake(request()[:size]) is None


def test_what_would_reach_the_limits_of_aiohttp_is_not_read() -> None:
    def long(size: int) -> bytes:
        filler = size - len(request(headers="X: \r\n"))
        return request(headers=f"X: {'x' * filler}\r\n")

    def many(count: int) -> bytes:
        return request(headers="".join(f"X-{number}: x\r\n" for number in range(count - 5)))

    assert read_handshake(long(MAX_HEAD_BYTES)) is not None
    assert read_handshake(long(MAX_HEAD_BYTES + 1)) is None
    assert read_handshake(many(MAX_FIELDS)) is not None
    assert read_handshake(many(MAX_FIELDS + 1)) is None


# -- aiohttp as the oracle -------------------------------------------------------------------------------------------

PROXIES = Proxies(["127.0.0.0/8", "10.0.0.0/8"])


@asynccontextmanager
async def both() -> AsyncIterator[tuple[House, House]]:
    """The same server with a porch and without."""
    chosen: dict[str, Any] = {
        "allowed_origins": ("https://app.example",),
        "header_timeout_s": 0.1,
        "address_of": PROXIES.client,
    }
    async with serve(**chosen) as ours, serve(has_porch=False, **chosen) as theirs:
        yield ours, theirs


async def outcome(house: House, sent: bytes) -> object:
    """What the client gets, and the connection that it has if it gets one."""
    client = await RawClient.open(house.port)
    try:
        client.writer.write(sent)
        head = await client.reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101"):
            assert (await client.text()).startswith("0{")
            [connection] = house.door.connections
            return head, connection.address, connection.take_bearer()
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Date:")]
        sizes = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")]
        return lines, await client.reader.readexactly(sum(sizes))
    except (asyncio.IncompleteReadError, ConnectionError):
        return "closed without an answer"
    finally:
        client.writer.transport.abort()
        await house.wait_for(lambda: not house.door.connections)


LINES = [
    "Accept: */*",
    "Authorization: Bearer abc",
    "Authorization: bearer  abc ",
    "Authorization: Basic abc",
    "Authorization:",
    "Connection: Upgrade",
    "Connection: keep-alive, Upgrade",
    "Connection: keep-alive,upgrade",
    "Connection: close, Upgrade",
    "Connection: close",
    "Content-Encoding: gzip",
    "Content-Length: 0",
    "Content-Length: 3",
    "Content-Length: 0, 0",
    "Content-Type: text/plain",
    "Cookie: a=1",
    "Expect: 100-continue",
    "Expect: nothing",
    "Host: other",
    "Host: te st",
    "Host:",
    "HTTP2-Settings: AAMAAABkAAQAAP__",
    "Keep-Alive: timeout=5",
    "Origin: http://test",
    "Origin: https://app.example",
    "Origin: http://other",
    "Proxy-Connection: close",
    "Sec-WebSocket-Extensions: permessage-deflate",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==",
    "Sec-WebSocket-Key: c2hvcnQ=",
    "Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5",
    "Sec-WebSocket-Protocol: chat",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Version: 13, 8",
    "Sec-WebSocket-Version: 8",
    "TE: trailers",
    "Trailer: X",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "transfer-encoding : chunked",
    "Upgrade: websocket",
    "Upgrade: WebSocket",
    "Upgrade: websocket/13",
    "Upgrade: websocket, h2c",
    "Upgrade: h2c",
    "X: a\tb",
    "X: \x00",
    "X: \x7f",
    "X: ü",
    "X:",
    "X",
    ": x",
    " folded",
    "\tfolded",
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-For: 1.2.3.4, 10.1.1.1",
    "X-Forwarded-For: nobody",
    "X-Forwarded-Host: test",
    "x_y: z",
    "x!y: z",
]
SOUND = request().decode().split("\r\n")[1:-2]
QUERIES = [
    QUERY,
    "/socket.io?EIO=4&transport=websocket",
    "/socket.io/?transport=websocket&EIO=4&t=1.2",
    QUERY + "&EIO=3",
    QUERY + "&EIO=4",
    "/socket.io/?EIO=3&EIO=4&transport=websocket",
    QUERY + "&sid=",
    QUERY + "&x",
    QUERY + "&x=1=2",
    QUERY + "&",
    QUERY + "&=",
    QUERY + "&&x=1",
    QUERY + "#x",
    QUERY + "?",
    QUERY + "&x=%41",
    QUERY + "&EI%4f=3",
    QUERY + ";EIO=3",
    "/socket.io/?EIO=4&transport=polling",
    "/socket.io//?EIO=4&transport=websocket",
    "/Socket.io/?EIO=4&transport=websocket",
    "/socket.io/../socket.io/?EIO=4&transport=websocket",
    "/socketXio/?EIO=4&transport=websocket",
    "http://test/socket.io/?EIO=4&transport=websocket",
    "/plain",
    "/plain?EIO=4&transport=websocket",
]


def _mostly(usual: str, *others: str) -> st.SearchStrategy[str]:
    return st.sampled_from([usual] * 40 + list(others))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Handshakes, most of them a little wrong."""
    method = draw(_mostly("GET", "get", "POST", "HEAD", "CONNECT", " GET"))
    version = draw(_mostly("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1", "HTTP/1.1 "))
    query = draw(st.just(QUERY) | st.sampled_from(QUERIES))
    lines = [line for line in SOUND if draw(_mostly(line, ""))]
    for line in draw(st.lists(st.sampled_from(LINES), max_size=3)):
        lines.insert(draw(st.integers(0, len(lines))), line)
    lines = [line + "\r\n" for line in [f"{method} {query} {version}", *lines]]
    odd = draw(st.integers(0, len(lines) - 1))
    lines[odd] = lines[odd][:-2] + draw(_mostly("\r\n", "\n", "\r", "\r\r\n", " \r\n"))
    return "".join(lines).encode() + b"\r\n"


@st.composite
def misprints(draw: st.DrawFn) -> bytes:
    """Good handshakes but for one byte."""
    good = draw(st.sampled_from([request(), CHROME, request(headers="Authorization: Bearer abc\r\n")]))
    at = draw(st.integers(0, len(good) - 1))
    return good[:at] + draw(st.binary(max_size=1)) + good[at + draw(st.integers(0, 1)) :]


async def compare(ours: House, theirs: House, sent: bytes) -> bool:
    """Whether the porch has let it in."""
    ours.http.clear()
    assert await outcome(ours, sent) == await outcome(theirs, sent)
    assert ours.http or read_handshake(sent), "what is not read is passed on"
    return not ours.http


async def test_aiohttp_takes_each_of_these_alike() -> None:
    async with both() as (ours, theirs):
        let_in = [await compare(ours, theirs, request(query=query)) for query in QUERIES]
        let_in += [await compare(ours, theirs, request(headers=line + "\r\n")) for line in LINES]
        assert {True, False} == set(let_in)


def test_aiohttp_takes_every_request_alike() -> None:
    with asyncio.Runner() as runner:
        servers = both()
        ours, theirs = runner.run(servers.__aenter__())

        @example(CHROME)
        @settings(deadline=None, max_examples=400)
        @given(requests() | misprints())
        def check(sent: bytes) -> None:
            runner.run(compare(ours, theirs, sent))

        check()
        runner.run(servers.__aexit__(None, None, None))


@pytest.mark.parametrize(
    "tail",
    [
        text("40") + text("1"),
        text("40") + text('421["echo",1]') + text("1"),
        text("40") + text("6") * 40_000 + text("1"),
        b"GET /plain HTTP/1.1\r\nHost: test\r\n\r\n",
        b"\r\n\r\n",
    ],
    ids=["CONNECT", "a few frames", "many frames", "another request", "empty lines"],
)
async def test_what_comes_right_behind_is_frames(tail: bytes) -> None:
    async def answer(house: House) -> object:
        client = await RawClient.open(house.port)
        client.writer.write(request() + tail)
        await client.read_handshake()
        assert (await client.text()).startswith("0{")
        texts, code = await client.rest()
        return [packet.partition('"sid"')[0] for packet in texts], code

    async with both() as (ours, theirs):
        assert await answer(ours) == await answer(theirs)
        assert not ours.http


# -- the porch -------------------------------------------------------------------------------------------------------


async def test_official_clients_and_browsers_need_no_aiohttp() -> None:
    async with serve() as house:
        url = f"http://127.0.0.1:{house.port}"
        client = socketio.AsyncSimpleClient()
        await client.connect(url, transports=["websocket"])
        async with connect(f"ws://127.0.0.1:{house.port}{QUERY}") as websocket:
            assert str(await websocket.recv()).startswith("0{")
        async with ClientSession() as session, session.ws_connect(url + QUERY) as ws:
            assert (await ws.receive_str()).startswith("0{")
        await client.disconnect()
        assert house.http == []


async def test_a_handshake_in_two_pieces_is_aiohttps() -> None:
    async with serve() as house:
        client = await RawClient.open(house.port)
        client.writer.write(request()[:40])
        await house.wait_for(lambda: house.http)
        client.writer.write(request()[40:] + text("40"))
        await client.read_handshake()
        assert (await client.text()).startswith("0{")
        assert (await client.text()).startswith("40")


async def test_who_says_nothing_is_sent_away() -> None:
    async with serve(header_timeout_s=0.1) as house:
        client = await RawClient.open(house.port)
        await house.wait_for(lambda: house.porch.waiting)
        assert await client.reader.read() == b""
        await house.wait_for(lambda: not house.porch.waiting)
        assert house.http == []


async def test_who_has_spoken_or_left_does_not_wait_any_more() -> None:
    async with serve(header_timeout_s=0.1) as house:
        silent = await RawClient.open(house.port)
        await house.wait_for(lambda: house.porch.waiting)
        silent.writer.transport.abort()
        await house.wait_for(lambda: not house.porch.waiting)
        await house.client()
        other = await RawClient.open(house.port)
        other.writer.write(b"GET")
        await house.wait_for(lambda: house.http)
        assert not house.porch.waiting


async def test_a_porch_that_closes_sends_everybody_away() -> None:
    async with serve() as house:
        waiting = await RawClient.open(house.port)
        inside = await house.client()
        await house.wait_for(lambda: house.porch.waiting)
        house.porch.close()
        assert await waiting.reader.read() == b""
        inside.send('421["echo"]')
        assert await inside.text() == "431[[]]"


async def test_small_writes_leave_at_once() -> None:
    """The transport has Nagle's algorithm off, as aiohttp's have: a small frame behind another would wait for its
    acknowledgement."""
    async with serve() as house:
        await house.client()
        [connection] = house.door.connections
        raw = connection._transport.get_extra_info("socket")
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

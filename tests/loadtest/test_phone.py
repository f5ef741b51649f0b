"""The phone against a server that sends whatever the test says, in whatever pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from loadtest.phone import Address, Phone, PhoneFailed, connect_all, text_frame

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Recorder(Phone):
    __slots__ = ("acks", "events")

    def __init__(self, address: Address) -> None:
        super().__init__(address, b'{"token":"t"}')
        self.acks: list[tuple[int, bytes]] = []
        self.events: list[bytes] = []

    def acked(self, ack_id: int, message: bytes) -> None:
        self.acks.append((ack_id, message))

    def heard(self, message: bytes) -> None:
        self.events.append(message)


def sent(text: bytes) -> bytes:
    """A server's text frame."""
    size = len(text)
    if size < 126:
        return bytes((0x81, size)) + text
    if size < 0x10000:
        return b"\x81\x7e" + size.to_bytes(2, "big") + text
    return b"\x81\x7f" + size.to_bytes(8, "big") + text


@asynccontextmanager
async def serving(conversation: Conversation) -> AsyncIterator[Address]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await conversation(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Address("127.0.0.1", port, b'42["resumed"')


async def test_it_connects_and_hears_every_size_in_any_pieces() -> None:
    events = [b'42["notification",%b]' % (b"1" * size) for size in (1, 120, 126, 70_000)]
    said: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(UPGRADED + sent(b'0{"sid":"s"}'))
        connect = text_frame(b'40{"token":"t"}')
        said.append(await reader.readexactly(len(connect)))
        stream = sent(b'40{"sid":"x"}') + sent(b'42["welcome",{}]') + sent(b'42["resumed",{"seq":0}]') + sent(b"2")
        stream += b"".join(map(sent, events)) + sent(b'4312[{"ok":true}]')
        for at in range(500):
            writer.write(stream[at : at + 1])
            await asyncio.sleep(0)
        writer.write(stream[500:])
        said.append(await reader.readexactly(len(text_frame(b"3"))))

    async with serving(talk) as address:
        (phone,) = await connect_all(address, lambda _: Recorder(address), 1)
        async with asyncio.timeout(5):
            while not phone.acks:
                await asyncio.sleep(0.01)
        phone.transport.abort()
    assert phone.events == events
    assert phone.acks == [(12, b'4312[{"ok":true}]')]
    assert said == [text_frame(b'40{"token":"t"}'), text_frame(b"3")]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
        UPGRADED + sent(b'0{"sid":"s"}') + sent(b'44{"message":"token_invalid"}'),
        UPGRADED,  # and then the end
    ],
)
async def test_a_refusal_is_an_error(answer: bytes) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with serving(talk) as address:
        with pytest.raises(ExceptionGroup) as raised:
            await connect_all(address, lambda _: Recorder(address), 1)
    assert raised.group_contains(PhoneFailed)


def test_frames_are_masked_with_the_key_that_changes_nothing() -> None:
    assert text_frame(b"hi") == b"\x81\x82\0\0\0\0hi"
    assert text_frame(b"x" * 126) == b"\x81\xfe\0\x7e\0\0\0\0" + b"x" * 126

"""How connections came and went, as the metrics tell it: each is counted once, by the reason that began its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from gateway.socket.connection import event_frame
from gateway.socket.door import Refused
from tests.gateway.socket.frame_maker import BINARY, close, frame
from tests.gateway.socket.raw_client import House, RawClient, request, serve

HASTY: Final[dict[str, Any]] = {"connect_timeout_s": 0.3, "ping_interval_s": 0.3, "ping_timeout_s": 0.3}


async def says_farewell(house: House) -> None:
    (await house.client()).send("41")


async def closes_its_socket(house: House) -> None:
    (await house.client()).writer.write(close(1000))


async def vanishes(house: House) -> None:
    (await house.client()).writer.transport.abort()


async def answers_no_ping(house: House) -> RawClient:
    return await house.client()


async def sends_binary(house: House) -> None:
    (await house.client()).writer.write(frame(BINARY, b"x"))


async def meets_a_fault(house: House) -> None:
    (await house.client()).send('42["crash"]')


async def never_says_connect(house: House) -> RawClient:
    return await house.client(connect=False)


async def talks_before_it_may(house: House) -> None:
    (await house.client(connect=False)).send('42["early"]')


async def has_no_good_token(house: House) -> None:
    (await house.client(connect=False)).send('40{"refuse":"1"}')


async def leaves_while_it_is_looked_up(house: House) -> None:
    house.app.hold = True
    client = await house.client(connect=False)
    client.send("40")
    await house.wait_for(lambda: house.app.connections)
    client.writer.transport.abort()


async def does_not_read(house: House) -> None:
    client = await house.client()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    [connection] = house.app.connections
    while not house.app.lost:
        connection.write(event_frame("x", b'"' + b"x" * 50_000 + b'"'))
        await asyncio.sleep(0)
    client.writer.transport.abort()


Deed = Callable[[House], Awaitable[RawClient | None]]
TABLE: Final[list[tuple[Deed, dict[str, int], dict[str, int]]]] = [
    (says_farewell, {"accepted": 1}, {"client": 1}),
    (closes_its_socket, {"accepted": 1}, {"client": 1}),
    (vanishes, {"accepted": 1}, {"transport_lost": 1}),
    (answers_no_ping, {"accepted": 1}, {"ping_timeout": 1}),
    (sends_binary, {"accepted": 1}, {"protocol_error": 1}),
    (meets_a_fault, {"accepted": 1}, {"internal": 1}),
    (does_not_read, {"accepted": 1}, {"slow_consumer": 1}),
    (never_says_connect, {"connect_timeout": 1}, {}),
    (talks_before_it_may, {"protocol_error": 1}, {}),
    (has_no_good_token, {"refused": 1}, {}),
    (leaves_while_it_is_looked_up, {"transport_lost": 1}, {}),
]


@pytest.mark.parametrize(("deed", "connects", "closes"), TABLE, ids=[deed.__name__ for deed, _, _ in TABLE])
async def test_each_connection_is_counted_once(
    deed: Deed, connects: dict[str, int], closes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("gateway.socket.connection"), "disabled", True)  # of the fault that is meant
    async with serve(send_queue_bytes=200_000, **HASTY) as house:
        held = await deed(house)  # noqa: F841 - a client that nobody holds is closed by the garbage collector
        await house.wait_for(lambda: house.door.counts.connects and not house.door.connections, 5)
        counts = house.door.counts
        assert (dict(counts.connects), dict(counts.closes)) == (connects, closes)
        assert counts.cuts == closes.get("slow_consumer", 0)


async def test_who_is_not_let_in_is_counted_by_what_they_are_told() -> None:
    async with serve(refused=lambda: Refused("draining", "going away")) as house:
        for _ in range(2):
            client = await RawClient.open(house.port)
            client.writer.write(request())
            assert b"503" in await client.reader.readline()
            client.writer.close()
        assert dict(house.door.counts.connects) == {"draining": 2}

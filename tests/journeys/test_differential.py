"""One script against stock python-socketio and against Applause: where they differ, it is meant, and here is why."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from functools import partial
from typing import Any, Final, NamedTuple

import pytest
import socketio
from aiohttp import web
from websockets.exceptions import ConnectionClosed

from tests.support.clients import Wire, wire
from tests.support.server import Gateway

SENTINEL: Final = '42999["topic:subscribe",{"topic":"live:sentinel"}]'
FIRST_USER: Final = 7_000_001
SILENCE_S: Final = 1.0  # so long must a server that answers nothing any more stay silent


class Case(NamedTuple):
    """What is said on a fresh connection, after CONNECT unless `greeted` is false, each CONNECT being waited for
    unless `patient` is. Then the sentinel is sent: its answer shows that the connection still works."""

    says: tuple[str | bytes, ...]
    greeted: bool = True
    patient: bool = True


SUBSCRIBE: Final = '["topic:subscribe",{"topic":"live:x"}]'
CASES: Final[dict[str, Case]] = {
    "CONNECT": Case(("40{token}",), greeted=False),
    "CONNECT of the default namespace by its name": Case(("40/,{token}",), greeted=False),
    "CONNECT without a token": Case(("40",), greeted=False),
    "CONNECT with a bad token": Case(('40{"token":"rubbish"}',), greeted=False),
    "CONNECT after a refusal": Case(('40{"token":"rubbish"}', "40{token}"), greeted=False),
    "CONNECT with an auth that is no JSON": Case(("40{",), greeted=False),
    "an event right behind CONNECT": Case(("40{token}", f"421{SUBSCRIBE}"), greeted=False, patient=False),
    "CONNECT of another namespace": Case(("40/admin,{token}",)),
    "a second CONNECT": Case(("40{token}",)),
    "an event before CONNECT": Case((f"421{SUBSCRIBE}",), greeted=False),
    "an event with an ack": Case((f"421{SUBSCRIBE}",)),
    "an event with ack id 0": Case((f"420{SUBSCRIBE}",)),
    "an event with a long ack id": Case((f"42123456789012{SUBSCRIBE}",)),
    "an event without an ack": Case((f"42{SUBSCRIBE}",)),
    "an event of the default namespace by its name": Case((f"42/,1{SUBSCRIBE}",)),
    "an event of a namespace that is not connected": Case((f"42/admin,1{SUBSCRIBE}",)),
    "events in order": Case(tuple(f"42{number}{SUBSCRIBE}" for number in range(1, 6))),
    "an event in Unicode": Case(('421["topic:subscribe",{"topic":"live:x","\\u0074opic":"live:y"}]',)),
    "an ack that nobody asked for": Case(("431[]",)),
    "an unknown event": Case(('421["no:such",{}]',)),
    "an event without a name": Case(("421[]",)),
    "an event whose name is no text": Case(("421[7,{}]",)),
    "an event that is no JSON": Case(('421["topic:subscribe",',)),
    "an event with NaN": Case(('421["topic:subscribe",{"topic":NaN}]',)),
    "an event with one payload too many": Case(('421["topic:subscribe",{"topic":"live:x"},{}]',)),
    "an event without a payload": Case(('421["topic:subscribe"]',)),
    "an event named connect": Case(('421["connect",{"HTTP_HOST":"x"}]',)),
    "an event named disconnect": Case(('421["disconnect"]',)),
    "DISCONNECT": Case(("41",)),
    "CONNECT_ERROR by a client": Case(('44{"message":"x"}',)),
    "a binary event": Case(('451-["topic:subscribe",{"_placeholder":true,"num":0}]', b"\x01")),
    "a binary event that never comes whole": Case(('452-["topic:subscribe",{"_placeholder":true,"num":0}]',)),
    "a binary message": Case((b"\x00\x01",)),
    "an unknown packet of Socket.IO": Case(("49",)),
    "an unknown packet of Engine.IO": Case(("9",)),
    "an empty message": Case(("",)),
    "pong without a ping": Case(("3",)),
    "noop": Case(("6",)),
    "Engine.IO close": Case(("1",)),
    "a message of 65 KiB": Case(("421" + json.dumps(["topic:subscribe", {"topic": "x" * 65_600}]),)),
}

OK: Final = '[{"ok":true,"data":{"topic":"live:x"}}]'
WORKS, CLOSED, SILENCE = FINAL = ("works", "closed", "silence")  # works: the sentinel was answered


class Difference(NamedTuple):
    """What stock does, what we do, and why we do."""

    stock: list[str]
    ours: list[str]
    why: str


def _refused(code: str) -> str:
    return '44{"message":"%s","data":{"code":"%s","message":"…","retryable":false}}' % (code, code)  # noqa: UP031


def _answered(code: str, more: str = "") -> list[str]:
    return ['431[{"ok":false,"error":{"code":"%s","message":"…","retryable":false%s}}]' % (code, more), WORKS]  # noqa: UP031


def _ended(code: int) -> list[str]:
    return ['42["closing",{"code":"protocol_error","message":"…","retryable":false}]', "41", f"closed {code}"]


EACH_GETS_AN_ANSWER: Final = "stock drops it, and its caller waits for a time-out; here every event is answered"
NO_BINARY: Final = "binary packets are not part of this gateway; in stock a broken one wedges the socket"
NOT_THE_PROTOCOL: Final = "stock logs a traceback and goes on; here what is not the protocol ends the connection"
DIFFERENCES: Final[dict[str, Difference]] = {
    "CONNECT without a token": Difference(
        [_refused("token_missing"), SILENCE], [_refused("token_missing"), "closed 1008"],
        "a refused socket is closed, so that nobody holds it open",
    ),
    "CONNECT with a bad token": Difference(
        [_refused("token_invalid"), SILENCE], [_refused("token_invalid"), "closed 1008"],
        "a refused socket is closed, so that nobody holds it open",
    ),
    "CONNECT after a refusal": Difference(
        [_refused("token_invalid"), '40{"sid":"…"}', WORKS], [_refused("token_invalid"), "closed 1008"],
        "a second try on the same socket would serve those who guess tokens",
    ),
    "CONNECT with an auth that is no JSON": Difference([SILENCE], ["closed 1008"], NOT_THE_PROTOCOL),
    "CONNECT of another namespace": Difference(
        ['44/admin,"Unable to connect"', WORKS], ['44/admin,{"message":"…"}', WORKS],
        "the protocol wants an object, as Node's server sends",
    ),
    "a second CONNECT": Difference(['44"Unable to connect"', WORKS], _ended(1008), NOT_THE_PROTOCOL),
    "an event right behind CONNECT": Difference(
        ['40{"sid":"…"}', f"431{OK}", WORKS], ["closed 1008"],
        "the protocol has clients wait for the answer, and official ones do; nothing is kept for those not known yet",
    ),
    "an event before CONNECT": Difference([SILENCE], ["closed 1008"], NOT_THE_PROTOCOL),
    "an event of a namespace that is not connected": Difference([WORKS], _ended(1008), NOT_THE_PROTOCOL),
    "an unknown event": Difference([WORKS], _answered("unknown_event"), EACH_GETS_AN_ANSWER),
    "an event without a name": Difference([WORKS], _answered("invalid_payload"), EACH_GETS_AN_ANSWER),
    "an event whose name is no text": Difference([WORKS], _answered("invalid_payload"), EACH_GETS_AN_ANSWER),
    "an event that is no JSON": Difference([WORKS], _answered("invalid_payload"), EACH_GETS_AN_ANSWER),
    "an event with NaN": Difference(
        ['431[{"ok":true,"data":{"topic":NaN}}]', WORKS], _answered("invalid_payload", ',"field":"topic"'),
        "NaN is no JSON: stock passes it on, and it fails later, in the database or in JSON.parse",
    ),
    "an event with one payload too many": Difference([WORKS], _answered("invalid_payload"), EACH_GETS_AN_ANSWER),
    "an event without a payload": Difference(
        [WORKS], _answered("invalid_payload", ',"field":"topic"'), EACH_GETS_AN_ANSWER
    ),
    "an event named connect": Difference(
        [WORKS], _answered("unknown_event"), "stock runs the server's own handler with the client's arguments"
    ),
    "an event named disconnect": Difference(
        [WORKS], _answered("unknown_event"), "stock runs the server's own handler, and its application believes it"
    ),
    "DISCONNECT": Difference(
        [SILENCE], ["closed 1000"], "there is one namespace, so who leaves it needs the socket no more"
    ),
    "CONNECT_ERROR by a client": Difference([WORKS], _ended(1008), NOT_THE_PROTOCOL),
    "a binary event": Difference([WORKS], _ended(1003), NO_BINARY),
    "a binary event that never comes whole": Difference([SILENCE], _ended(1003), NO_BINARY),
    "a binary message": Difference([WORKS], _ended(1003), NO_BINARY),
    "an unknown packet of Socket.IO": Difference([WORKS], _ended(1008), NOT_THE_PROTOCOL),
    "an unknown packet of Engine.IO": Difference([WORKS], _ended(1008), NOT_THE_PROTOCOL),
    "an empty message": Difference(["closed 1006"], _ended(1008), "a clean end tells the client why"),
    "Engine.IO close": Difference([SILENCE], ["closed 1000"], "who leaves is gone within a second, not after 45"),
    "a message of 65 KiB": Difference(
        ['431[{"ok":true,"data":{"topic":"x…"}}]', WORKS], _ended(1009), "stock admits a megabyte; here 64 KiB"
    ),
}  # fmt: skip


# -- the same service, on stock python-socketio ----------------------------------------------------------------------


def stock_app() -> web.Application:
    """What a careful engineer writes with it: the same refusals, the same answers."""
    sio = socketio.AsyncServer(
        async_mode="aiohttp", transports=["websocket"], async_handlers=False, cors_allowed_origins=[]
    )

    async def connect(sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        token = auth.get("token") if isinstance(auth, dict) else None
        if not token or len(token) < 20:
            code = "token_invalid" if token else "token_missing"
            raise socketio.exceptions.ConnectionRefusedError(
                code, {"code": code, "message": "Not you.", "retryable": False}
            )

    async def subscribe(sid: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "data": {"topic": payload["topic"]}}

    sio.on("connect", connect)
    sio.on("topic:subscribe", subscribe)
    app = web.Application()
    sio.attach(app)
    return app


# -- the script ------------------------------------------------------------------------------------------------------


async def outcome(url: str, case: Case, token: str) -> list[str]:
    """The packets that came of the case, and what became of the connection."""
    auth = json.dumps({"token": token})
    async with wire(url, close_timeout=0.1) as bare:
        steps: list[str] = []
        if case.greeted:
            await bare.say(f"40{auth}")
            await _step(bare)
        for packet in [*case.says, SENTINEL]:
            with contextlib.suppress(ConnectionClosed):
                await bare.say(packet.replace("{token}", auth) if isinstance(packet, str) else packet)
            if case.patient and str(packet).startswith("40"):
                steps.append(await _step(bare))
        while not steps or not steps[-1].startswith(FINAL):
            steps.append(await _step(bare))
        return steps


async def _step(bare: Wire) -> str:
    """The next packet but for those that only we send, on top; or how it ended."""
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                packet = await bare.packet()
        except TimeoutError:
            return SILENCE
        if packet is None:
            return f"{CLOSED} {bare.close_code}"
        if packet.startswith("43999"):
            return WORKS
        if not packet.startswith(('42["welcome"', '42["resumed"')):
            return _plain(packet)


def _plain(packet: str) -> str:
    """Without what is random or only meant for people."""
    packet = re.sub(r'"sid":"[^"]+"', '"sid":"…"', packet)
    packet = re.sub(r'"message":"[^"]*[ .…][^"]*"', '"message":"…"', packet)
    return re.sub("x{20,}", "x…", packet)


Outcomes = dict[str, tuple[list[str], list[str]]]


@pytest.fixture(scope="module")
def outcomes(server: Gateway) -> Outcomes:
    """Of each case (stock's outcome, ours): all at once, since where stock falls silent one has to wait."""
    return asyncio.run(_play(server))


async def _play(server: Gateway) -> Outcomes:
    runner = web.AppRunner(stock_app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stock = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        tokens = [server.token(FIRST_USER + number) for number in range(len(CASES))]
        theirs, ours = [
            await asyncio.gather(*map(partial(outcome, url), CASES.values(), tokens)) for url in (stock, server.url)
        ]
        return dict(zip(CASES, zip(theirs, ours, strict=True), strict=True))
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("name", CASES)
def test_both_do_the_same_or_differ_on_purpose(outcomes: Outcomes, name: str) -> None:
    theirs, ours = outcomes[name]
    difference = DIFFERENCES.get(name)
    if difference is None:
        assert theirs == ours
    else:
        assert (theirs, ours) == (difference.stock, difference.ours), difference.why


def test_each_difference_is_one(outcomes: Outcomes) -> None:
    assert DIFFERENCES.keys() <= CASES.keys()
    assert [name for name, difference in DIFFERENCES.items() if difference.stock == difference.ours] == []

"""Cheap phones for crowds: a Socket.IO client of a few lines with what an app needs to lose nothing.

Each keeps what is not acknowledged and repeats it under the same `actionId`, keeps `lastSeq` and `epoch`, and comes
back by itself. It notes whatever breaks a promise.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

AWARDED: Final = {"video_liked": "video:like", "video_viewed": "video:view", "video_shared": "video:share"}
COME_BACK_S: Final = 0.2
RETRYABLE: Final = frozenset({"unavailable", "overloaded", "rate_limited", "draining"})


def token_for(user_id: int, secret: str) -> str:
    """A token good for the length of any test."""
    return jwt.encode({"sub": str(user_id), "exp": time.time() + 600}, secret, algorithm="HS256")


@dataclass(slots=True)
class Action:
    """One action with all answers that ever came for it."""

    event: str
    payload: dict[str, Any]
    done: asyncio.Event
    answers: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)

    @property
    def action_id(self) -> str:
        return str(self.payload["actionId"])


class CheapPhone:
    """One user's connection to `url()`, renewed whenever it breaks."""

    def __init__(self, user_id: int, secret: str, url: Callable[[], str]) -> None:
        self.user_id = user_id
        self.actions: dict[str, Action] = {}
        self.last_seq = 0
        self.head = 0  # as the last welcome has it
        self.connects = 0
        self.faults: list[str] = []
        self.refused: list[tuple[float, dict[str, Any]]] = []  # (seconds that it took, error)
        self.points = 0  # minor units of all points_earned
        self._token = token_for(user_id, secret)
        self._url = url
        self._epoch: str | None = None
        self._socket: ClientConnection | None = None
        self._ids = itertools.count()
        self._asked: dict[int, tuple[Action, float]] = {}
        self._acked_events: set[tuple[str, str]] = set()
        self.online = asyncio.Event()
        self._service: asyncio.Task[None] | None = None

    # -- a life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self._service = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """Leave for good."""
        assert self._service is not None
        self._service.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._service

    async def _serve(self) -> None:
        while True:
            with contextlib.suppress(ConnectionClosed, InvalidHandshake, OSError, TimeoutError):
                await self._live()
            self.online.clear()
            self._socket = None
            await asyncio.sleep(COME_BACK_S * random.uniform(0.5, 1.5))

    async def _live(self) -> None:
        address = self._url().replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        async with connect(address, compression=None, proxy=None, ping_interval=None, open_timeout=5) as socket:
            auth = {"token": self._token, "lastSeq": str(self.last_seq)}
            if self._epoch is not None:
                auth["epoch"] = self._epoch
            await socket.send("40" + json.dumps(auth))
            self._asked.clear()
            self._acked_events.clear()
            async for packet in socket:
                assert isinstance(packet, str)
                if packet == "2":
                    await socket.send("3")
                elif packet.startswith("43"):
                    self._take_ack(packet)
                elif packet.startswith("42"):
                    name, body = json.loads(packet[2:])
                    if name == "welcome":
                        await self._enter(socket, body)
                    elif name == "notification":
                        self._take_event(body)
                elif packet.startswith("44"):
                    self.faults.append(f"refused: {packet}")

    async def _enter(self, socket: ClientConnection, welcome: dict[str, Any]) -> None:
        self.connects += 1
        if not welcome["complete"] or (self._epoch or welcome["epoch"]) != welcome["epoch"]:
            self.faults.append(f"cannot resume at {self.last_seq}: {welcome}")
        self._epoch, self.head = welcome["epoch"], welcome["seq"]
        self._socket = socket
        for action in list(self.actions.values()):
            if not action.done.is_set():
                await self._send(action)
        self.online.set()

    # -- actions -----------------------------------------------------------------------------------------------------

    def begin(self, event: str, video_id: str, action_id: str, **fields: Any) -> Action:
        """Put an action into the outbox; `send_soon` or the next connection sends it."""
        action = Action(event, {"videoId": video_id, "actionId": action_id, **fields}, asyncio.Event())
        return self.actions.setdefault(action_id, action)

    async def act(self, event: str, video_id: str, action_id: str, **fields: Any) -> dict[str, Any]:
        """Carry out an action, whatever happens meanwhile; the data of its ack."""
        action = self.begin(event, video_id, action_id, **fields)
        await self.send_soon(action)
        await action.done.wait()
        return dict(action.answers[-1]["data"])

    async def send_soon(self, action: Action) -> None:
        """Send it now where there is a connection; also again."""
        with contextlib.suppress(ConnectionClosed):
            if self._socket is not None:
                await self._send(action)

    async def _send(self, action: Action) -> None:
        assert self._socket is not None
        number = next(self._ids)
        self._asked[number] = (action, time.monotonic())
        await self._socket.send(f"42{number}" + json.dumps([action.event, action.payload]))

    def _take_ack(self, packet: str) -> None:
        number, _, body = packet[2:].partition("[")
        action, asked_at = self._asked.pop(int(number))
        answer = json.loads("[" + body)[0]
        if answer["ok"]:
            if answer["data"]["award"] is not None:
                self._acked_events.add((action.event, action.payload["videoId"]))
            action.answers.append(answer)
            action.done.set()
            if answer["data"] != action.answers[0]["data"]:
                self.faults.append(f"{action.action_id}: {answer} after {action.answers[0]}")
            return
        self.refused.append((time.monotonic() - asked_at, answer["error"]))
        action.refusals.append(answer["error"])
        if answer["error"].get("outcome") == "unknown":  # its events may say so before its repetition does
            self._acked_events.add((action.event, action.payload["videoId"]))
        if answer["error"]["code"] in RETRYABLE:
            if not action.done.is_set():
                asyncio.get_running_loop().call_later(0.2, self._again, action)
        else:
            self.faults.append(f"{action.event} {action.payload}: {answer}")

    def _again(self, action: Action) -> None:
        if self._socket is not None and not action.done.is_set():
            self._retry = asyncio.create_task(self.send_soon(action))

    # -- events ------------------------------------------------------------------------------------------------------

    acts_elsewhere = False  # the user has another connection: awards may come of what that one did

    def _take_event(self, event: dict[str, Any]) -> None:
        if event["seq"] != self.last_seq + 1:
            self.faults.append(f"seq {event['seq']} after {self.last_seq}")
        self.last_seq = event["seq"]
        if event["type"] != "points_earned":
            return
        data = event["data"]
        self.points += round(data["points"] * 100)
        if round(data["newBalance"] * 100) != self.points:
            self.faults.append(f"balance {data['newBalance']} after {self.points / 100} of points earned")
        acted = (AWARDED.get(data["action"], ""), data["metadata"]["videoId"])
        live = event["seq"] > self.head
        if live and acted[0] and not self.acts_elsewhere and acted not in self._acked_events:
            self.faults.append(f"{acted} was told before it was answered: {event['seq']}")

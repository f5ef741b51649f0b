"""Presence of workers whose parent keeps it for all of them: nobody else can have their database.

A question is never lost between a worker and the parent, and who of the two dies takes their half along: the parent
forgets a worker that ended at once. So there is no lease, and nothing to reconcile.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import msgspec

from fanout.line import PARENT, Line
from fanout.presence import Held, MemoryPresence, is_in_the_way
from fanout.tasks import Spawn

SUBJECT: Final = 2
COMMAND_TIMEOUT_S: Final = 5.0
STOP_S: Final = 1.0


class Join(msgspec.Struct, frozen=True, array_like=True, tag="join"):
    node: str


class Part(msgspec.Struct, frozen=True, array_like=True, tag="part"):
    pass


class Enter(msgspec.Struct, frozen=True, array_like=True, tag="enter"):
    connections: list[tuple[int, str]]


class Leave(msgspec.Struct, frozen=True, array_like=True, tag="leave"):
    connections: list[tuple[int, int]]


class Newer(msgspec.Struct, frozen=True, array_like=True, tag="newer"):
    connections: list[tuple[int, str, int]]


class Elsewhere(msgspec.Struct, frozen=True, array_like=True, tag="elsewhere"):
    connections: list[tuple[int, str, int]]


class ConnectionsOf(msgspec.Struct, frozen=True, array_like=True, tag="connections"):
    user_id: int


Question = Join | Part | Enter | Leave | Newer | Elsewhere | ConnectionsOf


class PresenceDesk:
    """The parent's side: who is connected to which worker."""

    def __init__(self, line: Line) -> None:
        """`line` is the parent's own."""
        self._line = line
        self._presence = MemoryPresence()
        self._workers: dict[int, dict[int, int]] = {}  # worker -> generation -> user
        self._names: dict[int, str] = {}  # worker -> node
        self._decoder: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question)
        line.answer(SUBJECT, self._answer)

    def forget(self, worker: int) -> None:
        """It has ended, and so have its connections."""
        if (connections := self._workers.pop(worker, None)) is not None:
            self._presence.take_out([(user, generation) for generation, user in connections.items()])
            self._tell_workers()

    async def _answer(self, worker: int, body: bytes) -> bytes:
        return msgspec.json.encode(await self._answer_to(worker, self._decoder.decode(body)))

    async def _answer_to(self, worker: int, question: Question) -> Any:
        match question:
            case Join(node):
                self._names[worker] = node
                self.forget(worker)  # the last questions of an earlier one of this number may come after its end
                self._workers[worker] = {}
                self._tell_workers()
                return list(self._workers)
            case Part():
                self.forget(worker)
            case Enter(connections):
                generations = await self._presence.enter(connections)
                users = (user for user, _ in connections)
                self._workers.setdefault(worker, {}).update(zip(generations, users, strict=True))
                return generations
            case Leave(connections):
                own = self._workers.get(worker, {})
                gone = [(user, generation) for user, generation in connections if own.get(generation) == user]
                for _, generation in gone:
                    own.pop(generation, None)
                self._presence.take_out(gone)
            case Newer(connections):
                return await self._presence.newer(connections)
            case Elsewhere(connections):
                own = self._workers.get(worker, {})
                return [
                    sum(
                        older[0] not in own and is_in_the_way(older, each)
                        for older in self._presence.entries_of(each[0])
                    )
                    for each in connections
                ]
            case ConnectionsOf(user_id):
                return [(device, self._node_of(own)) for own, device in self._presence.entries_of(user_id)]
        return None

    def _node_of(self, generation: int) -> str:
        return next(self._names[worker] for worker, own in self._workers.items() if generation in own)

    def _tell_workers(self) -> None:
        self._line.say(SUBJECT, msgspec.json.encode(list(self._workers)))


class UnixPresence:
    """See `Presence`. The line is opened, and closed, by whoever made it."""

    def __init__(self, *, line: Line, node: str, spawn: Spawn) -> None:
        self._line = line
        self._node = node
        self._spawn = spawn
        self._others = False

    async def start(self) -> None:
        self._line.hear(SUBJECT, self._hear_workers, gap=lambda: None)
        self._hear_workers(await self._line.ask(PARENT, SUBJECT, msgspec.json.encode(Join(self._node))))

    async def look(self) -> None: ...  # the parent tells who comes and goes

    async def stop(self) -> None:
        self._line.ignore(SUBJECT)
        with contextlib.suppress(OSError):  # a time-out included: the parent sees the end of the process
            async with asyncio.timeout(STOP_S):
                await self._ask(Part(), None)

    async def enter(self, connections: list[tuple[int, str]]) -> list[int]:
        entered: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._spawn(self._enter(connections, entered))
        return await entered

    async def leave(self, connections: list[tuple[int, int]]) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, and this process goes, too
            await self._ask(Leave(connections), None)

    def other_nodes(self) -> bool:
        return self._others

    def strangers(self) -> bool:
        return False

    async def newer(self, connections: list[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            newer: list[tuple[int, str, int]] = await self._ask(Newer(connections), list[tuple[int, str, int]])
            return newer

    async def elsewhere(self, connections: list[tuple[int, str, int]]) -> list[int]:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            counts: list[int] = await self._ask(Elsewhere(connections), list[int])
            return counts

    async def connections_of(self, user_id: int) -> list[Held]:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            held: list[Held] = await self._ask(ConnectionsOf(user_id), list[Held])
            return held

    def _hear_workers(self, body: bytes) -> None:
        self._others = any(worker != self._line.number for worker in msgspec.json.decode(body, type=list[int]))

    async def _enter(self, connections: list[tuple[int, str]], entered: asyncio.Future[list[int]]) -> None:
        """A task of its own: it is carried out also where whoever asked was cancelled, and must be undone then."""
        try:
            generations: list[int] = await self._ask(Enter(connections), list[int])
        except OSError as error:
            if not entered.done():
                entered.set_exception(error)
            return
        if entered.cancelled():
            await self.leave(
                [(user, generation) for (user, _), generation in zip(connections, generations, strict=True)]
            )
        else:
            entered.set_result(generations)

    async def _ask(self, question: Question, answer: Any) -> Any:
        return msgspec.json.decode(await self._line.ask(PARENT, SUBJECT, msgspec.json.encode(question)), type=answer)

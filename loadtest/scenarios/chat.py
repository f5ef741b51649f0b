"""Chats of two: everybody writes to the same other person, who writes back.

A message costs what a like does: one row of its own, one event for somebody else, one acknowledgement after the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from handlers.directory.wire import PutUserRequest
from loadtest.asking import Asker, Asking
from loadtest.backend import Asked, Backend
from loadtest.crew import Checked, Count, Part, Share, Target, new_run
from loadtest.figures import Figure
from loadtest.measure import PLAINLY, Conduct, Window, measured
from loadtest.phone import hang_up
from loadtest.promises import AT_ONCE, check_replays, check_witnesses
from loadtest.scenarios.likes import seed
from loadtest.servers import Server
from loadtest.witness import answer_of

WARM_UP_S: Final = 1.0
TEXT: Final = "See you at the pier at eight, and bring the others."
NUMBERED: Final = "conversations whose last number is that of the messages that were acknowledged"


class ChatJob(msgspec.Struct, frozen=True, tag="chat", kw_only=True):
    """`connections` people, two by two; `rate`: messages a second of all parts, open loop; None: one in flight on each
    connection."""

    first_user: int
    connections: int
    run: str
    rate: float | None = None
    patience_s: float = 0.0  # 0: nothing is checked

    def part(self, target: Target, share: Share) -> Part:
        """One process's pairs."""
        return ChatPart(self, target, share)


class Pair(NamedTuple):
    """Two who talk: their ids, the conversation and the number of its last message before."""

    users: tuple[int, int]
    conversation: str
    before: int


class Talker(Asker):
    """One person's messages."""

    __slots__ = ("_run", "conversation", "said")

    event = b"message:send"

    def __init__(self, part: Asking[Any], user: int, conversation: str, run: str) -> None:
        super().__init__(part, user)
        self._run = run
        self.conversation = conversation
        self.said = 0  # acknowledged

    def payload(self, number: int) -> bytes:
        action = f"{self._run}-{self.user}-{number}"
        return (
            f'{{"conversationId":"{self.conversation}","messageType":"text","content":"{TEXT}","actionId":"{action}"}}'
        ).encode()

    def judge(self, number: int, message: bytes) -> None:
        answer = answer_of(message)
        if not answer.ok:
            self.refused(answer, message)
            return
        self.said += 1
        if self.witness is not None:
            self.keep(number, None)


class ChatPart(Asking[Talker]):
    """Some of the pairs."""

    def __init__(self, job: ChatJob, target: Target, share: Share) -> None:
        super().__init__(target, share, rate=job.rate, patience_s=job.patience_s)
        self.job = job
        self._firsts = [job.first_user + 2 * pair for pair in share.of_people(job.connections // 2)]
        self._pairs: list[Pair] = []

    async def prepare(self) -> None:
        self._pairs = await self._talk_all([(first, first + 1) for first in self._firsts])
        run = self.job.run
        await self.connect([Talker(self, user, pair.conversation, run) for pair in self._pairs for user in pair.users])

    async def end(self) -> None:
        self.count_unanswered()
        if self.patience_s:
            self.count.checked = [self.order, await self._check_numbers()]
            self.count.checked += (await check_replays(self.target, self.kept.all))[:1]
            self.count.checked += (await check_witnesses(self.target, self.witnesses, self.patience_s))[:1]
        await hang_up(self.phones)

    async def _check_numbers(self) -> Checked:
        said: dict[str, int] = {}
        for phone in self.phones:
            said[phone.conversation] = said.get(phone.conversation, 0) + phone.said
        found = await self._talk_all([pair.users for pair in self._pairs])
        checked = Checked(1, NUMBERED, count=len(found))
        for old, new in zip(self._pairs, found, strict=True):
            if new.before - old.before != said[old.conversation]:
                told = f"{said[old.conversation]} acknowledged, {new.before - old.before} numbered"
                checked.fault(f"{old.conversation}: {told}")
        return checked

    async def _talk(self, users: tuple[int, int]) -> Pair:
        """Their conversation, which is made by whoever asks first."""
        first, second = users
        address = self.target.address
        async with Backend(address.host, address.port, self.target.token(str(first))) as backend:
            conversation = await converse(backend, [second])
            return Pair(users, conversation, await last_number(backend, conversation))

    async def _talk_all(self, many: list[tuple[int, int]]) -> list[Pair]:
        """In the order of `many`, a few at once."""
        at_once = asyncio.Semaphore(AT_ONCE)

        async def talk(users: tuple[int, int]) -> Pair:
            async with at_once:
                return await self._talk(users)

        return await asyncio.gather(*map(talk, many))


class _Made(msgspec.Struct, rename="camel"):
    conversation_id: str


class _Row(msgspec.Struct, rename="camel"):
    last_number: int


async def converse(backend: Backend, others: Sequence[int], *, title: str | None = None) -> str:
    """The conversation of whom `backend` speaks for with others; a new one where it has a title."""
    made = await backend.ask(Asked("POST", "/v1/conversations", {"participantIds": list(others), "title": title}))
    return msgspec.json.decode(made, type=_Made).conversation_id


async def last_number(backend: Backend, conversation: str) -> int:
    """Of its newest message; 0 where there is none."""
    row = await backend.ask(Asked("GET", f"/v1/conversations/{conversation}", {}))
    return msgspec.json.decode(row, type=_Row).last_number


async def run_chat(
    server: Server,
    *,
    first_user: int,
    connections: int,
    seconds: float,
    rate: float | None = None,
    conduct: Conduct = PLAINLY,
) -> list[Figure]:
    """Messages per second with one in flight on each connection, then the latency at half of that rate, open loop. With
    a `rate`, that rate alone. What was checked goes to `conduct.found`."""
    people = range(first_user, first_user + connections // 2 * 2)
    await seed(server, dict.fromkeys(people, PutUserRequest(username="talker")), {})
    job = ChatJob(
        first_user=first_user, connections=connections, run=new_run(), rate=rate, patience_s=conduct.patience_s
    )
    if rate is not None:
        figure, _ = await _measure(server, job, f"chat, {rate:,.0f}/s", seconds, conduct)
        return [figure]
    closed, _ = await _measure(server, job, "chat", seconds, conduct)
    half = msgspec.structs.replace(job, run=new_run(), rate=closed.value / 2)
    paced, _ = await _measure(server, half, "chat, half rate", seconds, conduct)
    return [closed, paced]


async def _measure(
    server: Server, job: ChatJob, measure: str, seconds: float, conduct: Conduct
) -> tuple[Figure, Count]:
    window = Window(measure, "messages/s", seconds, WARM_UP_S)
    figure, count = await measured(server, job, window, conduct)
    conduct.found(count.checked)
    return figure, count

"""Chats of two: everybody writes to the same other person, who writes back.

A message costs what a like does: one row of its own, one event for somebody else, one acknowledgement after the commit.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Final, NamedTuple

import msgspec

from handlers.directory.wire import PutUserRequest
from loadtest.backend import Asked, Backend
from loadtest.crew import Asking, Checked, Count, Crew, Part, Share, Target
from loadtest.figures import Figure
from loadtest.measure import PLAINLY, Conduct, Window, measured
from loadtest.phone import Address, Phone, connect_all, hang_up, text_frame
from loadtest.promises import AT_ONCE, Kept, Reservoir, check_replays, check_witnesses
from loadtest.scenarios.likes import seed
from loadtest.servers import Server
from loadtest.witness import CHAIN, NO_GAP, Witness, answer_of

WARM_UP_S: Final = 1.0
TEXT: Final = "See you at the pier at eight, and bring the others."
NUMBERED: Final = "conversations whose last number is that of the messages that were acknowledged"

_PASSING: Final = frozenset({"rate_limited", "overloaded", "unavailable", "draining"})


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


class Talker(Phone):
    """One person's messages."""

    __slots__ = ("_asked_at", "_next", "_part", "conversation", "said", "user", "witness")

    def __init__(self, address: Address, auth: bytes, part: ChatPart, user: int, conversation: str) -> None:
        super().__init__(address, auth)
        self.user = user
        self.conversation = conversation
        self.said = 0  # acknowledged
        self.witness = Witness(user, part.order, part.chain) if part.job.patience_s else None
        self._part = part
        self._asked_at: dict[int, float] = {}
        self._next = 0

    def begin(self) -> None:
        self.write_one(time.perf_counter())

    def write_one(self, due: float) -> None:
        """A message; the wait is counted from `due`, when it should have been sent."""
        self.say_now(self._frame(due))

    def acked(self, ack_id: int, message: bytes) -> None:
        part, now = self._part, time.perf_counter()
        part.count.done += 1
        part.count.waits.record(now - self._asked_at.pop(ack_id))
        self._judge(ack_id, message)
        if part.is_closed_loop and not part.stopped:
            self.say(self._frame(now))

    def welcomed(self, message: bytes) -> None:
        if self.witness is not None:
            self.witness.welcomed(message)

    def heard(self, message: bytes) -> None:
        if self.witness is not None and message.startswith(b'42["n'):
            self.witness.told(message)

    def lost(self) -> None:
        if not self._part.stopped:
            self._part.count.fault("a connection was lost")

    @property
    def unanswered(self) -> list[float]:
        """When the messages should have been sent that have no ack yet."""
        return list(self._asked_at.values())

    def _judge(self, number: int, message: bytes) -> None:
        part, answer = self._part, answer_of(message)
        if answer.ok:
            self.said += 1
            if part.job.patience_s and (place := part.kept.place()) is not None:
                part.kept.put(place, Kept(self.user, "message:send", self._payload(number), None))
        elif answer.error is not None and answer.error.code in _PASSING:
            part.count.refused += 1
        else:
            part.count.fault(message)

    def _frame(self, due: float) -> bytes:
        number, self._next = self._next, self._next + 1
        self._part.count.sent += 1
        self._asked_at[number] = due
        return text_frame(b'42%d["message:send",%b]' % (number, self._payload(number)))

    def _payload(self, number: int) -> bytes:
        action = f"{self._part.job.run}-{self.user}-{number}"
        return (
            f'{{"conversationId":"{self.conversation}","messageType":"text","content":"{TEXT}","actionId":"{action}"}}'
        ).encode()


class ChatPart(Asking[Talker]):
    """Some of the pairs."""

    def __init__(self, job: ChatJob, target: Target, share: Share) -> None:
        super().__init__(job.rate, share)
        self.job = job
        self.kept = Reservoir()
        self.order, self.chain = Checked(4, NO_GAP), Checked(3, CHAIN)
        self._target, self._share = target, share
        self._pairs: list[Pair] = []
        self._turn = 0

    async def prepare(self) -> None:
        firsts = [self.job.first_user + 2 * pair for pair in self._share.of_people(self.job.connections // 2)]
        self._pairs = await self._talk_all([(first, first + 1) for first in firsts])
        people = [(user, pair.conversation) for pair in self._pairs for user in pair.users]
        target = self._target
        self.phones = await connect_all(
            target.address,
            lambda at: Talker(target.address, target.auth(people[at][0]), self, *people[at]),
            len(people),
        )

    async def end(self) -> None:
        self.count_unanswered()
        if self.job.patience_s:
            witnesses = {phone.user: phone.witness for phone in self.phones if phone.witness is not None}
            self.count.checked = [self.order, await self._check_numbers()]
            self.count.checked += (await check_replays(self._target, self.kept.all))[:1]
            self.count.checked += (await check_witnesses(self._target, witnesses, self.job.patience_s))[:1]
        await hang_up(self.phones)

    def send_one(self, due: float) -> bool:
        self.phones[self._turn % len(self.phones)].write_one(due)
        self._turn += 1
        return True

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
        address = self._target.address
        async with Backend(address.host, address.port, self._target.token(str(first))) as backend:
            made = await backend.ask(Asked("POST", "/v1/conversations", {"participantIds": [second]}))
            conversation = msgspec.json.decode(made, type=_Made).conversation_id
            row = await backend.ask(Asked("GET", f"/v1/conversations/{conversation}", {}))
        return Pair(users, conversation, msgspec.json.decode(row, type=_Row).last_number)

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
    job = ChatJob(first_user=first_user, connections=connections, run=_name(), rate=rate, patience_s=conduct.patience_s)
    if rate is not None:
        figure, _ = await _measure(server, job, f"chat, {rate:,.0f}/s", seconds, conduct)
        return [figure]
    closed, _ = await _measure(server, job, "chat", seconds, conduct)
    half = msgspec.structs.replace(job, run=_name(), rate=closed.value / 2)
    paced, _ = await _measure(server, half, "chat, half rate", seconds, conduct)
    return [closed, paced]


async def _measure(
    server: Server, job: ChatJob, measure: str, seconds: float, conduct: Conduct
) -> tuple[Figure, Count]:
    window = Window(measure, "messages/s", seconds, WARM_UP_S)
    async with Crew(server, job, processes=conduct.processes, door=server.door) as crew:
        figure, count = await measured(
            server, crew, window, conduct, is_complete=lambda count: count.done >= count.sent
        )
    conduct.found(count.checked)
    return figure, count


def _name() -> str:
    return uuid.uuid4().hex[:8]

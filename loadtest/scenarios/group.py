"""A busy group: its members like videos, one like in flight each, while in every other window some of them write.

Each message is for all of them: at once for those few who look at the chat, and who read it, gathered for all others.
Their likes should hardly be slower for it. Windows are quiet, busy, busy, quiet and so on, so that what else changes
over the run meets both kinds alike.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import msgspec

from handlers.directory.wire import PutUserRequest, PutVideoRequest
from loadtest.asking import Asking
from loadtest.backend import Backend
from loadtest.crew import Checked, Count, Crew, Part, Share, Target, new_run
from loadtest.figures import Figure, brief, per, summary
from loadtest.histogram import Histogram
from loadtest.measure import CHECKING, SETTLE_S, Conduct, Watch, Window, look_on, wound_up
from loadtest.phone import connect_all, hang_up, text_frame
from loadtest.promises import check_replays, check_totals, check_witnesses, sum_of_totals
from loadtest.report import RATIO
from loadtest.scenarios.chat import Talker, converse, last_number
from loadtest.scenarios.likes import FOLLOWERS, FOLLOWS, Liker, LikesJob, LikesPart, seed, video_id
from loadtest.servers import Server
from loadtest.witness import WitnessedPhone, answer_of

MEMBERS: Final = 256
WRITERS, LOOKERS = 8, 5  # of them; all others like
FEWEST: Final = WRITERS + LOOKERS + 1
RATE: Final = 20.0
PAIRS: Final = 4  # of windows, one quiet and one busy
CREATORS: Final = 50

WARM_UP_S: Final = 2.0
LEAD_IN_S: Final = 1.0  # of each window: by then all have been given what is gathered for a second
POLL_S: Final = 0.02

NUMBERED: Final = "messages of a group that were acknowledged have its next numbers"
HEARD: Final = "messages in an open chat, in the order of their numbers, none twice"

_OPEN, _READ = 0, 1  # numbers of a looker's acks
_RECEIVED: Final = b'"type":"message_received"'
_PREVIEW: Final = b'"type":"message_preview"'


class GroupJob(msgspec.Struct, frozen=True, tag="group", kw_only=True):
    """`members` from `first_user` on: first those who write, `rate` messages a second of all parts, then those who look
    at the chat, then those who like `videos`. The conversation and `run` are filled in by `run_group`."""

    first_user: int
    videos: int
    members: int = MEMBERS
    rate: float = RATE
    conversation: str = ""
    run: str = ""
    patience_s: float = 0.0

    @property
    def likes(self) -> LikesJob:
        """Of those who like."""
        return LikesJob(
            kind="uniform", connections=self.members - WRITERS - LOOKERS, run=self.run, videos=self.videos,
            base=self.first_user + WRITERS + LOOKERS - 1, patience_s=self.patience_s,
        )  # fmt: skip

    @property
    def owners(self) -> dict[str, int]:
        """All videos, each with its creator, who is no member."""
        first = self.first_user + self.members
        return {video_id("uniform", self.likes.base, at): first + at % CREATORS for at in range(self.videos)}

    def part(self, target: Target, share: Share) -> Part:
        """One process's members."""
        return GroupPart(self, target, share)


class Member(Liker):
    """Likes, and is told of messages."""

    __slots__ = ("_told",)

    def __init__(self, part: MembersPart, number: int) -> None:
        super().__init__(part, number)
        self._told = part

    def heard(self, message: bytes) -> None:
        self._told.previews += _PREVIEW in message
        super().heard(message)


class MembersPart(LikesPart):
    """Some of those who like."""

    previews = 0  # that they were told

    def phone(self, number: int) -> Member:
        return Member(self, number)


class Received(msgspec.Struct, rename="camel"):
    """Of a message what a looker reads."""

    message_id: str
    number: int


class Envelope(msgspec.Struct):
    """Of `message_received`."""

    data: Received


class Looker(WitnessedPhone):
    """Has the chat open, and says of the newest message that it was read whenever the last such word was taken."""

    __slots__ = ("_conversation", "_newest", "_number", "_part", "_read", "user")

    def __init__(self, part: TalkPart, user: int, conversation: str) -> None:
        super().__init__(part.target.address, part.target.auth(user), part.witness(user))
        self.user = user
        self._part = part
        self._conversation = conversation
        self._number = 0  # of the newest
        self._newest = self._read = ""  # their ids

    def open(self) -> None:
        """Open the chat."""
        self.say_now(text_frame(f'42{_OPEN}["chat:open",{{"conversationId":"{self._conversation}"}}]'.encode()))

    def acked(self, ack_id: int, message: bytes) -> None:
        answer = answer_of(message)
        if not answer.ok and not (answer.error is not None and answer.error.is_passing and ack_id == _READ):
            self._part.count.fault(message)
        elif ack_id == _OPEN:
            self._part.opened += 1
        else:
            self._part.reads += answer.ok
            done, self._read = self._read, ""
            if self._newest != done:
                self._say_read()

    def heard(self, message: bytes) -> None:
        super().heard(message)
        if _RECEIVED not in message:
            return
        received = _EVENT.decode(message[2:])[1].data
        order = self._part.heard
        order.count += 1
        if received.number <= self._number:
            order.fault(f"user {self.user}: {received.number} after {self._number}")
        self._number, self._newest = received.number, received.message_id
        if not self._read:
            self._say_read()

    def lost(self) -> None:
        if not self._part.ended:
            self._part.count.fault("a connection was lost")

    def _say_read(self) -> None:
        self._read = self._newest
        read = f'{{"conversationId":"{self._conversation}","messageId":"{self._read}"}}'
        self.say(text_frame(f'42{_READ}["message:read",{read}]'.encode()))


_EVENT: Final = msgspec.json.Decoder(tuple[str, Envelope])


class TalkPart(Asking[Talker]):
    """Some of those who write, and of those who look."""

    def __init__(self, job: GroupJob, target: Target, share: Share) -> None:
        self._writers = share_of(job.first_user, WRITERS, share)
        self._lookers = share_of(job.first_user + WRITERS, LOOKERS, share)
        super().__init__(target, Share(), rate=job.rate * len(self._writers) / WRITERS, patience_s=job.patience_s)
        self.heard = Checked(4, HEARD)
        self.opened = self.reads = 0
        self.ended = False
        self._job = job
        self._looking: list[Looker] = []

    async def prepare(self) -> None:
        job, self.stopped = self._job, True
        await self.connect([Talker(self, user, job.conversation, job.run) for user in self._writers])
        self._looking = [Looker(self, user, job.conversation) for user in self._lookers]
        await connect_all(self.target.address, self._looking.__getitem__, len(self._looking))
        for phone in self._looking:
            phone.open()
        async with asyncio.timeout(SETTLE_S):
            while self.opened < len(self._looking):
                await asyncio.sleep(POLL_S)

    async def begin(self) -> None:
        if self.stopped and self.phones:
            self.stopped = False
            await super().begin()

    async def stop(self) -> None:
        await super().stop()
        for _ in range(round(SETTLE_S / POLL_S)):
            if self.count.done >= self.count.sent:
                break
            await asyncio.sleep(POLL_S)

    async def end(self) -> None:
        self.ended = True
        self.count_unanswered()
        self.count.more = {"messages": sum(phone.said for phone in self.phones), "reads": self.reads}
        if self.patience_s:
            looking = {phone.user: phone.witness for phone in self._looking if phone.witness is not None}
            self.count.checked = [self.order, self.heard]
            self.count.checked += (await check_replays(self.target, self.kept.all))[:1]
            self.count.checked += (await check_witnesses(self.target, self.witnesses | looking, self.patience_s))[:1]
        await hang_up([*self.phones, *self._looking])


class GroupPart(Part):
    """Some of the members. Its count is of likes; what was written, heard and read is told in the end."""

    def __init__(self, job: GroupJob, target: Target, share: Share) -> None:
        super().__init__()
        self._likes = MembersPart(job.likes, target, share)
        self._talk = TalkPart(job, target, share)
        self.count = self._likes.count

    def check(self) -> None:
        self._talk.check()

    async def prepare(self) -> None:
        await self._likes.prepare()
        await self._talk.prepare()

    async def begin(self) -> None:
        await self._likes.begin()

    async def disturb(self) -> None:
        await self._talk.begin()

    async def calm(self) -> None:
        await self._talk.stop()

    async def stop(self) -> None:
        await self._talk.stop()
        await self._likes.stop()

    async def end(self) -> None:
        await self._talk.end()
        await self._likes.end()
        talk = self._talk.count
        self.count.note("likesRefused", self.count.refused)
        self.count.faults += talk.faults
        self.count.refused += talk.refused
        self.count.first_fault = self.count.first_fault or talk.first_fault
        self.count.checked += talk.checked
        self.count.more |= talk.more | {"heard": self._talk.heard.count, "previews": self._likes.previews}


def share_of(first: int, count: int, share: Share) -> list[int]:
    """Which users of `count` from `first` on are this part's."""
    return [first + number for number in share.of_people(count)]


class Seen(NamedTuple):
    """One window."""

    figure: Figure
    waits: Histogram


class Windows(NamedTuple):
    """All of them, pair by pair."""

    quiet: list[Seen]
    busy: list[Seen]


async def run_group(
    server: Server, job: GroupJob, *, seconds: float, pairs: int = PAIRS, conduct: Conduct = CHECKING
) -> list[Figure]:
    """Likes per second in windows of `seconds` in which nobody writes, and in those in which some do, and what these
    are of those. What was checked goes to `conduct.found`."""
    await _seed_group(server, job)
    first, *others = range(job.first_user, job.first_user + job.members)
    async with Backend(server.address.host, server.address.port, server.token(str(first))) as backend:
        group = await converse(backend, others, title="A busy group")
    job = msgspec.structs.replace(job, run=new_run(), conversation=group, patience_s=conduct.patience_s)
    liked = await sum_of_totals(server, job.owners)
    windows, count = await _watched(server, job, seconds, pairs, conduct)
    async with Backend(server.address.host, server.address.port, server.token(str(first))) as backend:
        numbered = await last_number(backend, group)
    messages = Checked(1, NUMBERED, count=count.more["messages"])
    if numbered != messages.count:
        messages.fault(f"{messages.count:,} were acknowledged, {numbered:,} numbered")
    liked += count.done - count.more["likesRefused"]
    totals = await check_totals(server, list(job.owners), liked, conduct.patience_s)
    conduct.found([*count.checked, messages, totals])
    return _figures(job, windows, count)


async def _seed_group(server: Server, job: GroupJob) -> None:
    members = range(job.first_user, job.first_user + job.members)
    owners = job.owners
    users = dict.fromkeys(members, PutUserRequest(username="member", following_count=FOLLOWS))
    users |= dict.fromkeys(owners.values(), PutUserRequest(username="creator", followers_count=FOLLOWERS))
    await seed(server, users, {at: PutVideoRequest(owner_id=owner, title="A video") for at, owner in owners.items()})


async def _watched(
    server: Server, job: GroupJob, seconds: float, pairs: int, conduct: Conduct
) -> tuple[Windows, Count]:
    windows = Windows([], [])
    async with Crew(server, job, processes=conduct.processes, door=server.door) as crew:
        await crew.do("prepare")
        await crew.do("begin")
        await conduct.settle(WARM_UP_S)
        for is_busy in order_of(pairs):
            window = Window("group, busy" if is_busy else "group, quiet", "likes/s", seconds, LEAD_IN_S)
            await crew.do("disturb" if is_busy else "calm")
            await conduct.settle(window.warm_up_s)
            watch = Watch(server, await crew.do("look"))
            series = await look_on(watch, crew, window, conduct.progress)
            windows[is_busy].append(Seen(watch.figure(window, series), watch.waits))
        return windows, await wound_up(crew)


def _figures(job: GroupJob, windows: Windows, count: Count) -> list[Figure]:
    quiet, busy = map(together, windows)
    more = count.more
    notes = [
        count.first_fault,
        f"{job.members} members, {more['messages']:,} messages at {job.rate:,.0f}/s",
        f"{more['heard']:,} heard and {more['reads']:,} read in {LOOKERS} open chats",
        f"{more['previews']:,} previews to those who like",
        "phones ran out of videos" if more["ranOut"] else "",
    ]
    busy = msgspec.structs.replace(
        busy, faults=count.faults, refused=count.refused, note="; ".join(filter(None, notes))
    )
    pairs = [per(after.figure.value, before.figure.value) for before, after in zip(*windows, strict=True)]
    cost = per(busy.per_cpu_second, quiet.per_cpu_second)
    ratio = Figure(
        measure=RATIO, server=quiet.server, value=per(busy.value, quiet.value), unit="× the quiet likes",
        samples=len(pairs), note=f"pairs {', '.join(map(brief, pairs))}; {cost:.2f} × as many a CPU second",
    )  # fmt: skip
    return [quiet, busy, ratio]


def order_of(pairs: int) -> list[bool]:
    """Whether each window is a busy one: every other pair the other way round."""
    return [bool((pair + at) % 2) for pair in range(pairs) for at in range(2)]


def together(seen: list[Seen]) -> Figure:
    """Windows of the same length as one."""
    figures = [each.figure for each in seen]
    waits = Histogram()
    for each in seen:
        waits.add(each.waits)

    def mean(name: str) -> Any:
        return sum(getattr(figure, name) for figure in figures) / len(figures)

    return msgspec.structs.replace(
        figures[0],
        value=mean("value"),
        samples=sum(figure.samples for figure in figures),
        latency_ms=summary(waits),
        histogram=waits,
        server_cores=round(mean("server_cores"), 3),
        database_cores=round(mean("database_cores"), 3),
        client_cores=round(mean("client_cores"), 3),
        client_most=max(figure.client_most for figure in figures),
        series=[
            msgspec.structs.replace(sample, at=round(sample.at + at * figure.series[-1].at, 2))
            for at, figure in enumerate(figures)
            for sample in figure.series
        ],
    )

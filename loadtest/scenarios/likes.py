"""Durable, paid likes: each of another (user, video), so that each pays the viewer and the creator.

`uniform` spreads them over the videos of many creators. `hot` has everybody like one creator's videos, one after the
other and all the same one at about the same time, since a user is paid for a video only once.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

import msgspec

from handlers.directory.wire import PutUserRequest, PutVideoRequest
from loadtest.backend import Asked, ask_all
from loadtest.crew import Asking, Checked, Count, Crew, Part, Share, Target, batches
from loadtest.figures import Figure
from loadtest.measure import PLAINLY, Conduct, Window, measured
from loadtest.phone import Address, Phone, connect_all, hang_up, text_frame
from loadtest.promises import Kept, Reservoir, check_replays, check_totals, check_witnesses, sum_of_totals
from loadtest.servers import Server
from loadtest.witness import CHAIN, NO_GAP, Witness, answer_of, cents

VIDEOS: Final = 1_000  # of each kind: more than a connection can like in a short run
CREATORS: Final = 50
FIRST_CREATOR: Final = 1_000_001
HOT_CREATOR: Final = 2_000_001
FOLLOWS: Final = 250  # enough to be paid as a viewer
FOLLOWERS: Final = 5_000  # and as a creator

WARM_UP_S: Final = 1.0
BULK: Final = 1_000

_PASSING: Final = frozenset({"rate_limited", "overloaded", "unavailable", "draining"})


class LikesJob(msgspec.Struct, frozen=True, tag="likes", kw_only=True):
    """`rate`: likes a second of all parts, open loop; None: one in flight on each connection."""

    kind: str
    connections: int
    run: str
    rate: float | None = None
    base: int = 0
    first_video: int = 0
    videos: int = VIDEOS
    patience_s: float = 0.0  # 0: nothing is checked

    def part(self, target: Target, share: Share) -> Part:
        """One process's likers."""
        return LikesPart(self, target, share)


class Liker(Phone):
    """One user's likes; their n-th is of another video each."""

    __slots__ = ("_asked_at", "_job", "_part", "_user", "next_video", "witness")

    def __init__(self, address: Address, auth: bytes, part: LikesPart, user: int) -> None:
        super().__init__(address, auth)
        self._part = part
        self._job = part.job
        self._user = user
        self._asked_at: dict[int, float] = {}
        self.next_video = part.job.first_video
        self.witness = Witness(part.job.base + user, part.order, part.chain) if part.job.patience_s else None

    def begin(self) -> None:
        self.like(time.perf_counter())

    def like(self, due: float) -> None:
        """Like the next video; the wait is counted from `due`, when it should have been sent."""
        self.say_now(self._frame(due))

    def acked(self, ack_id: int, message: bytes) -> None:
        part, now = self._part, time.perf_counter()
        part.count.done += 1
        part.count.waits.record(now - self._asked_at.pop(ack_id))
        self._judge(ack_id, message)
        if part.is_closed_loop and not (part.stopped or self.is_done):
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
    def is_done(self) -> bool:
        """Whether this user has liked all there is."""
        return self.next_video >= self._job.videos

    @property
    def unanswered(self) -> list[float]:
        """When the likes should have been sent that have no ack yet."""
        return list(self._asked_at.values())

    def _judge(self, number: int, message: bytes) -> None:
        part, answer = self._part, answer_of(message)
        award = answer.data.award if answer.data is not None else None
        if not answer.ok and answer.error is not None and answer.error.code in _PASSING:
            part.count.refused += 1
        elif award is None:
            part.count.fault(message)
        elif self.witness is not None:
            self.witness.acked += cents(award.points)
            if (place := part.kept.place()) is not None:
                kept = Kept(self._job.base + self._user, "video:like", self._payload(number), cents(award.points))
                part.kept.put(place, kept)

    def _frame(self, due: float) -> bytes:
        number, self.next_video = self.next_video, self.next_video + 1
        self._part.count.sent += 1
        self._asked_at[number] = due
        return text_frame(b'42%d["video:like",%b]' % (number, self._payload(number)))

    def _payload(self, number: int) -> bytes:
        job = self._job
        video = number if job.kind == "hot" else (number + self._user * 37) % job.videos
        name = video_id(job.kind, job.base, video)
        return f'{{"videoId":"{name}","actionId":"{job.run}-{self._user}-{number}"}}'.encode()


class LikesPart(Asking[Liker]):
    """Some of the likers, and what they share."""

    def __init__(self, job: LikesJob, target: Target, share: Share) -> None:
        super().__init__(job.rate, share)
        self.job = job
        self.kept = Reservoir()
        self.order, self.chain = Checked(4, NO_GAP), Checked(3, CHAIN)
        self._target = target
        self._share = share
        self._turn = 0

    async def prepare(self) -> None:
        people = self._share.of_people(self.job.connections)
        target, base = self._target, self.job.base
        self.phones = await connect_all(
            target.address,
            lambda at: Liker(target.address, target.auth(base + people[at] + 1), self, people[at] + 1),
            len(people),
        )

    async def end(self) -> None:
        self.count_unanswered()
        self.count.reach = max((phone.next_video for phone in self.phones), default=0)
        self.count.note("ranOut", sum(phone.is_done for phone in self.phones))
        if self.job.patience_s:
            witnesses = {self.job.base + phone._user: phone.witness for phone in self.phones if phone.witness}
            self.count.checked = [self.order, self.chain]
            self.count.checked += await check_replays(self._target, self.kept.all)
            self.count.checked += await check_witnesses(self._target, witnesses, self.job.patience_s)
        await hang_up(self.phones)

    def send_one(self, due: float) -> bool:
        phone = self.phones[self._turn % len(self.phones)]
        self._turn += 1
        if phone.is_done:
            return False
        phone.like(due)
        return True


def video_id(kind: str, base: int, number: int) -> str:
    """Videos of another `base` are others, so a server can be loaded again."""
    return f"{kind}-{base}-{number}" if base else f"{kind}-{number}"


async def seed_likes(server: Server, *, connections: int, videos: int = VIDEOS, base: int = 0) -> None:
    """The users and videos of both kinds of run."""
    users = {
        base + user: PutUserRequest(username="viewer", following_count=FOLLOWS) for user in range(1, connections + 1)
    }
    creators = [base + FIRST_CREATOR + number for number in range(CREATORS)]
    hot = base + HOT_CREATOR
    users |= dict.fromkeys([*creators, hot], PutUserRequest(username="creator", followers_count=FOLLOWERS))
    owners = {video_id("uniform", base, number): creators[number % CREATORS] for number in range(videos)}
    owners |= {video_id("hot", base, number): hot for number in range(videos)}
    put = {video: PutVideoRequest(owner_id=owner, title="A video") for video, owner in owners.items()}
    await seed(server, users, put)


async def seed(server: Server, users: dict[int, PutUserRequest], videos: dict[str, PutVideoRequest]) -> None:
    """Create these; in bulk where the server takes that."""
    token, host, port = server.token("loadtest", "service"), server.address.host, server.address.port
    for kind, puts in (("users", users), ("videos", videos)):
        rows: list[tuple[int | str, dict[str, Any]]] = [(key, msgspec.to_builtins(put)) for key, put in puts.items()]
        if server.takes_bulk:
            many = [[{"id": key, **row} for key, row in batch] for batch in batches(rows, BULK)]
            requests = [Asked("POST", f"/v1/{kind}/bulk", {kind: each}) for each in many]
        else:
            requests = [Asked("PUT", f"/v1/{kind}/{key}", row) for key, row in rows]
        await ask_all(host, port, token, requests)


async def run_likes(
    server: Server,
    kind: str,
    *,
    connections: int,
    seconds: float,
    conduct: Conduct = PLAINLY,
    rate: float | None = None,
    videos: int = VIDEOS,
    base: int = 0,
) -> list[Figure]:
    """Likes per second with one in flight on each connection, then the latency at half of that rate, open loop.
    With a `rate`, that rate alone. What was checked goes to `conduct.found`."""
    job = LikesJob(
        kind=kind,
        connections=connections,
        run=_name(),
        rate=rate,
        base=base,
        videos=videos,
        patience_s=conduct.patience_s,
    )
    if rate is not None:
        figure, _ = await _measure(server, job, f"likes {kind}, {rate:,.0f}/s", seconds, conduct)
        return [figure]
    closed, count = await _measure(server, job, f"likes {kind}", seconds, conduct)
    half = msgspec.structs.replace(job, run=_name(), rate=closed.value / 2, first_video=count.reach)
    paced, _ = await _measure(server, half, f"likes {kind}, half rate", seconds, conduct)
    return [closed, paced]


async def _measure(
    server: Server, job: LikesJob, measure: str, seconds: float, conduct: Conduct
) -> tuple[Figure, Count]:
    every = [video_id(job.kind, job.base, number) for number in range(job.videos)]
    before = await sum_of_totals(server, every) if conduct.patience_s else 0
    window = Window(measure, "likes/s", seconds, WARM_UP_S)
    async with Crew(server, job, processes=conduct.processes, door=server.door) as crew:
        figure, count = await measured(
            server, crew, window, conduct, is_complete=lambda count: count.done >= count.sent
        )
    if conduct.patience_s:
        accepted = count.done - count.refused
        count.checked.append(await check_totals(server, every, before + accepted, conduct.patience_s))
        conduct.found(count.checked)
    if count.more.get("ranOut"):
        figure = msgspec.structs.replace(
            figure, note="; ".join(filter(None, (figure.note, "phones ran out of videos")))
        )
    return figure, count


def _name() -> str:
    return uuid.uuid4().hex[:8]

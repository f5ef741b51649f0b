"""Durable, paid likes: each of another (user, video), so that each pays the viewer and the creator.

`uniform` spreads them over the videos of many creators. `hot` has everybody like one creator's videos, one after the
other and all the same one at about the same time, since a user is paid for a video only once.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from handlers.directory.wire import PutUserRequest, PutVideoRequest
from loadtest.asking import Asker, Asking
from loadtest.backend import Asked, ask_all
from loadtest.crew import Count, Part, Share, Target, batches, new_run
from loadtest.figures import Figure
from loadtest.measure import PLAINLY, Conduct, Window, measured
from loadtest.phone import hang_up
from loadtest.promises import check_replays, check_totals, check_witnesses, sum_of_totals
from loadtest.servers import Server
from loadtest.witness import answer_of, cents

VIDEOS: Final = 1_000  # of each kind: more than a connection can like in a short run
CREATORS: Final = 50
FIRST_CREATOR: Final = 1_000_001
HOT_CREATOR: Final = 2_000_001
FOLLOWS: Final = 250  # enough to be paid as a viewer
FOLLOWERS: Final = 5_000  # and as a creator

WARM_UP_S: Final = 1.0
BULK: Final = 1_000


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


class Liker(Asker):
    """One user's likes; their n-th is of another video each."""

    __slots__ = ("_job", "_number")

    event = b"video:like"

    def __init__(self, part: LikesPart, number: int) -> None:
        self._job = job = part.job
        self._number = number
        super().__init__(part, job.base + number, first=job.first_video, below=job.videos)

    def payload(self, number: int) -> bytes:
        job = self._job
        video = number if job.kind == "hot" else (number + self._number * 37) % job.videos
        name = video_id(job.kind, job.base, video)
        return f'{{"videoId":"{name}","actionId":"{job.run}-{self._number}-{number}"}}'.encode()

    def judge(self, number: int, message: bytes) -> None:
        answer = answer_of(message)
        award = answer.data.award if answer.data is not None else None
        if award is None:
            self.refused(answer, message)
        elif self.witness is not None:
            paid = cents(award.points)
            self.witness.acked += paid
            self.keep(number, paid)


class LikesPart(Asking[Liker]):
    """Some of the likers."""

    def __init__(self, job: LikesJob, target: Target, share: Share) -> None:
        super().__init__(target, share, rate=job.rate, patience_s=job.patience_s)
        self.job = job
        self._people = share.of_people(job.connections)

    async def prepare(self) -> None:
        await self.connect([self.phone(person + 1) for person in self._people])

    def phone(self, number: int) -> Liker:
        """Of the so manieth user."""
        return Liker(self, number)

    async def end(self) -> None:
        self.count_unanswered()
        self.count.reach = max((phone.next for phone in self.phones), default=0)
        self.count.note("ranOut", sum(phone.is_done for phone in self.phones))
        if self.patience_s:
            self.count.checked = [self.order, self.chain]
            self.count.checked += await check_replays(self.target, self.kept.all)
            self.count.checked += await check_witnesses(self.target, self.witnesses, self.patience_s)
        await hang_up(self.phones)


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
        run=new_run(),
        rate=rate,
        base=base,
        videos=videos,
        patience_s=conduct.patience_s,
    )
    if rate is not None:
        figure, _ = await _measure(server, job, f"likes {kind}, {rate:,.0f}/s", seconds, conduct)
        return [figure]
    closed, count = await _measure(server, job, f"likes {kind}", seconds, conduct)
    half = msgspec.structs.replace(job, run=new_run(), rate=closed.value / 2, first_video=count.reach)
    paced, _ = await _measure(server, half, f"likes {kind}, half rate", seconds, conduct)
    return [closed, paced]


async def _measure(
    server: Server, job: LikesJob, measure: str, seconds: float, conduct: Conduct
) -> tuple[Figure, Count]:
    every = [video_id(job.kind, job.base, number) for number in range(job.videos)]
    before = await sum_of_totals(server, every) if conduct.patience_s else 0
    window = Window(measure, "likes/s", seconds, WARM_UP_S)
    figure, count = await measured(server, job, window, conduct)
    if conduct.patience_s:
        accepted = count.done - count.refused
        count.checked.append(await check_totals(server, every, before + accepted, conduct.patience_s))
        conduct.found(count.checked)
    if count.more.get("ranOut"):
        figure = msgspec.structs.replace(
            figure, note="; ".join(filter(None, (figure.note, "phones ran out of videos")))
        )
    return figure, count

"""People, videos and deeds for tests of engagement on a real database."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from handlers.awards import Award, Awards
from handlers.deed import Deed, Delivered, fingerprint
from handlers.engagement.handler import EngagementHandler
from handlers.engagement.wire import CommentRequest, LikeRequest, ShareRequest, UnlikeRequest, ViewRequest
from storage import requests, users
from storage.awards import list_in_force
from storage.users import UserChange
from tests.support.deeds import readable, run_batch
from tests.support.videos import upsert_video

if TYPE_CHECKING:
    from asyncpg import Connection

REQUESTS: Final = {
    "video:like": LikeRequest,
    "video:unlike": UnlikeRequest,
    "video:view": ViewRequest,
    "video:share": ShareRequest,
    "video:comment": CommentRequest,
}
CREATOR: Final = 1
OTHER_CREATOR: Final = 2
FAN: Final = 10  # and those after; all are eligible
STRANGER: Final = 9  # follows 99, followed by 999
_ids = itertools.count(1)


async def seed(conn: Connection, fans: int = 10) -> None:
    """Creators 1 (videos a, b) and 2 (video c), a stranger with a video of their own (s), fans 10, 11, …"""
    await requests.maintain_partitions(conn)
    people = [UserChange(id=each, username=f"user_{each}", following_count=100) for each in range(FAN, FAN + fans)]
    people += [
        UserChange(id=each, username=f"creator_{each}", following_count=100, followers_count=1000)
        for each in (CREATOR, OTHER_CREATOR)
    ]
    people.append(UserChange(id=STRANGER, username="stranger", following_count=99, followers_count=999))
    async with conn.transaction():
        await users.upsert_users(conn, people)
        for video_id, owner_id in (("a", CREATOR), ("b", CREATOR), ("c", OTHER_CREATOR), ("s", STRANGER)):
            await upsert_video(conn, video_id, owner_id, video_id.upper())


async def awards_of(conn: Connection) -> Awards:
    """The awards as the migration brings them."""
    _, versions = await list_in_force(conn)
    return {each.action: Award(each.points, each.threshold, each.daily_cap) for each in versions}


class Asked:
    """One deed with the answers that it got."""

    def __init__(
        self, user_id: int, event: str, video_id: str, action_id: str, *, order_key: object | None, **fields: Any
    ) -> None:
        payload = json.dumps({"videoId": video_id, "actionId": action_id, **fields}).encode()
        self.answers: list[Any] = []
        self.done = asyncio.Event()
        self.answered_at = 0.0
        self.deed = Deed(
            user_id=user_id,
            event=event,
            request=msgspec.json.decode(payload, type=REQUESTS[event]),
            fingerprint=fingerprint(event, payload),
            received_at=asyncio.get_running_loop().time(),
            order_key=user_id if order_key is None else order_key,
            answer=self._take,
        )

    def _take(self, body: bytes) -> None:
        self.answers.append(json.loads(body))
        self.answered_at = asyncio.get_running_loop().time()
        self.done.set()

    @property
    def answer(self) -> Any:
        """The one answer that there must be."""
        assert len(self.answers) == 1, self.answers
        return self.answers[0]


def asked(
    user_id: int,
    event: str,
    video_id: str = "a",
    action_id: str = "",
    *,
    order_key: object | None = None,
    **fields: Any,
) -> Asked:
    """A deed as a door makes it, with an action id of its own unless one is given."""
    return Asked(user_id, event, video_id, action_id or f"act-{next(_ids):08}", order_key=order_key, **fields)


class Batches:
    """Runs batches as the lane does, one transaction each, on a connection of its own."""

    def __init__(self, conn: Connection, awards: Awards, *, prompt_batch: int = 64) -> None:
        self._conn = conn
        self._handler = EngagementHandler(awards=lambda: awards, prompt_batch=prompt_batch)
        self.events: list[Delivered] = []

    async def run(self, *batch: Asked, skip_locked: bool = False, meanwhile: Any = None) -> list[Any]:
        """The answers in the order of the deeds: acks, refusals' codes, or None for the next batch."""
        deeds = [each.deed for each in batch]
        result = await run_batch(self._conn, self._handler, deeds, skip_locked=skip_locked, meanwhile=meanwhile)
        self.events += result.events
        return [readable(answer.outcome) for answer in result.answers]

    async def data(self, *batch: Asked) -> list[Any]:
        """`run`, which must succeed: the data of each ack."""
        answers = await self.run(*batch)
        assert all(answer["ok"] for answer in answers), answers
        return [answer["data"] for answer in answers]


async def balances(conn: Connection) -> dict[int, int]:
    """user -> minor units, of those who have any."""
    return {row[0]: row[1] for row in await conn.fetch("SELECT user_id, balance FROM accounts WHERE balance > 0")}


async def let_pass(conn: Connection, seconds: float) -> None:
    """Time passes for the creators: what they heard of lies that much further back."""
    await conn.execute("UPDATE video_counters SET last_paid_at = last_paid_at - $1 * interval '1 second'", seconds)


def of_user(events: Sequence[Delivered], user_id: int) -> list[Delivered]:
    """One user's events."""
    return [event for event in events if event.user_id == user_id]

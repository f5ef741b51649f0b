"""Live totals of videos, for whoever has subscribed to `video:{id}` (spec 2).

Each node looks by itself at the videos that somebody watches there: whatever changed a total, and wherever, the next
look finds it, so that no node tells another and nothing can get lost. It costs one statement every half second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

from handlers.deed import fresh_id
from handlers.engagement.rules import TOTALS_OF, watched_video
from handlers.engagement.wire import VideoTotalsEvent
from handlers.errors import Refusal
from handlers.inbox.envelope import render_ephemeral, timestamp_of
from handlers.wire import encode
from storage import videos
from storage.pool import session
from storage.videos import VideoTotals

if TYPE_CHECKING:
    from storage.pool import Pool

VIDEOS_AT_ONCE: Final = 2_000  # in a statement


class LiveTotals:
    """What those who watch have been told, and what they are to be told.

    `topics` are all that somebody listens to here; `publish` tells everybody here, and returns whether all of them got
    it.
    """

    def __init__(
        self, *, pool: Pool, topics: Callable[[], Collection[str]], publish: Callable[[str, bytes], bool]
    ) -> None:
        self._pool = pool
        self._topics = topics
        self._publish = publish
        self._told: dict[str, VideoTotals] = {}  # by video

    async def check(self, video_id: str) -> None:
        """Refuses `not_found` where there is no such video."""
        async with session(self._pool) as conn:
            if not await videos.list_totals(conn, [video_id]):
                raise Refusal("not_found", "There is no such video.", field="topic")

    def tell_again(self, video_id: str) -> None:
        """Somebody has begun to watch: the next look tells the totals, changed or not."""
        self._told.pop(video_id, None)

    async def look(self) -> None:
        """Tell of what has changed since the last look. Who did not get it is told again the next time."""
        watched = [video_id for topic in self._topics() if (video_id := watched_video(topic)) is not None]
        waiting = iter(watched)
        while some := list(islice(waiting, VIDEOS_AT_ONCE)):
            async with session(self._pool) as conn:
                found = await videos.list_totals(conn, some)
            self._tell(found)
        for video_id in self._told.keys() - set(watched):
            del self._told[video_id]

    def _tell(self, found: Mapping[str, VideoTotals]) -> None:
        timestamp = timestamp_of(datetime.now(UTC))
        for video_id, totals in found.items():
            if self._told.get(video_id) == totals:
                continue
            if self._publish(*_message(video_id, totals, timestamp)):
                self._told[video_id] = totals
            else:
                self.tell_again(video_id)


def _message(video_id: str, totals: VideoTotals, timestamp: str) -> tuple[str, bytes]:
    data = encode(VideoTotalsEvent(video_id, *totals))
    envelope = render_ephemeral(str(fresh_id()), "video_totals", "notification:video_totals", data, timestamp)
    return f"{TOTALS_OF}{video_id}", envelope

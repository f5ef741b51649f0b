"""The pages of a video's comments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from handlers.engagement.wire import Comment, Comments
from handlers.errors import Refusal
from handlers.inbox.envelope import timestamp_of
from storage import comments, videos
from storage.comments import StoredComment
from storage.pool import session

if TYPE_CHECKING:
    from storage.pool import Pool

CURSOR: Final = r"[0-9]{1,16}"  # the last comment's number
_FROM_THE_NEWEST: Final = 2**53


class CommentPages:
    """`GET /v1/videos/{id}/comments`."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def list(self, video_id: str, cursor: str | None, limit: int) -> Comments:
        """A page of comments, newest first; Refusal `not_found` where there is no such video."""
        before = int(cursor) if cursor is not None else _FROM_THE_NEWEST
        async with session(self._pool) as conn:
            if await videos.fetch_video(conn, video_id) is None:
                raise Refusal("not_found", "There is no such video.")
            rows = await comments.list_newest(conn, video_id, before, limit + 1)
        page = rows[:limit]
        return Comments([_row(comment) for _, comment in page], str(page[-1][0]) if len(rows) > limit else None)


def _row(comment: StoredComment) -> Comment:
    return Comment(
        comment_id=str(comment.id),
        video_id=comment.video_id,
        user_id=comment.user_id,
        username=comment.username,
        text=comment.text,
        timestamp=timestamp_of(comment.created_at),
    )

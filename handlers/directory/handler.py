"""Creates, changes and shows users and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from msgspec import UNSET, UnsetType

from handlers.directory.rules import creates_user, distinct_roles
from handlers.directory.wire import PutUserRequest, PutVideoRequest, UserView, VideoView
from handlers.errors import Refusal
from storage import audit_log, heads, users, videos
from storage.audit_log import LogEntry
from storage.pool import session, transaction
from storage.statement import write_together
from storage.users import StatusChange, StoredUser, UserChange
from storage.videos import StoredVideo

if TYPE_CHECKING:
    from asyncpg import Connection

    from handlers.caller import Caller
    from storage.pool import Pool

T = TypeVar("T")

_REMOVED: Final = ""  # what UserChange takes for "no such text any more"


class DirectoryHandler:
    """Users and videos, outside the lane: none of it moves value or stores an event.

    Where follow verbs count (`follows_count`), nobody else may set follow counts.
    """

    def __init__(self, *, pool: Pool, create_unknown: bool, follows_count: bool = False) -> None:
        self._pool = pool
        self._create_unknown = create_unknown
        self._follows_count = follows_count

    async def put_user(self, user_id: int, request: PutUserRequest, who: str) -> UserView:
        """Create or change a user and return all of them; an older `version` changes nothing. `who` does so:
        the subject of a token.

        Refuses `conflict` for follow counts other than those that stand, where follow verbs count.
        """
        async with transaction(self._pool) as conn:
            change = change_of(user_id, request)
            if self._follows_count:
                refuse_counts(change, await users.fetch_user(conn, user_id))
                change = change._replace(following_count=None, followers_count=None)
            await log_statuses(conn, await users.upsert_users(conn, [change]), {user_id: who})
            stored = await users.fetch_user(conn, user_id)
        if stored is None:
            _refuse_incomplete("username")
        return _user_view(stored)

    async def get_user(self, user_id: int) -> tuple[UserView, int]:
        """A user and the `seq` of their inbox in the same snapshot; Refusal `not_found`."""
        async with session(self._pool) as conn:
            stored = await users.fetch_user(conn, user_id)
        if stored is None:
            raise Refusal("not_found", "There is no such user.")
        return _user_view(stored), stored.inbox_seq

    async def get_me(self, caller: Caller, username: str | None) -> tuple[UserView, int]:
        """The caller as a user, created at the first sight of their token as on a first connect.

        `username` is what the token says. Backends are no users unless they were put here
        (`not_found`); where nobody may be created, a stranger's token is `unauthorized`.
        """
        if caller.user_id is None:
            raise Refusal("not_found", "This token is no user's.")
        await self.know_user(caller, username)
        return await self.get_user(caller.user_id)

    async def know_user(self, caller: Caller, username: str | None) -> None:
        """See to it that the caller, who has a user's id, is a user. Refusals as of `get_me`."""
        assert caller.user_id is not None
        async with transaction(self._pool) as conn:
            if await users.fetch_status(conn, caller.user_id) is None:
                self._refuse_stranger(caller)
                await users.insert_unknown_users(conn, [caller.user_id], [username])

    async def put_video(self, video_id: str, request: PutVideoRequest) -> VideoView:
        """Create or change a video and return it with its totals."""
        owner_id, title = given(request.owner_id), given(request.title)
        async with transaction(self._pool) as conn:
            if owner_id is not None:
                await _settle_owner(conn, video_id, owner_id, title)
            await videos.update_video(conn, video_id, owner_id, title)
            stored = await videos.fetch_video(conn, video_id)
        if stored is None:
            _refuse_incomplete("ownerId" if owner_id is None else "title")
        return _video_view(stored)

    async def get_video(self, video_id: str) -> VideoView:
        """A video with its totals; Refusal `not_found`."""
        async with session(self._pool) as conn:
            stored = await videos.fetch_video(conn, video_id)
        if stored is None:
            raise Refusal("not_found", "There is no such video.")
        return _video_view(stored)

    async def delete_video(self, video_id: str, who: str) -> None:
        """Delete a video; Refusal `not_found`. What it has earned is still settled, and nobody is paid for it twice,
        should it come back."""
        async with transaction(self._pool) as conn:
            if not await videos.mark_deleted(conn, video_id):
                raise Refusal("not_found", "There is no such video.")
            await write_together(
                conn, audit_log.append([LogEntry(who, "video:delete", f"video:{video_id}", None, None)])
            )

    def _refuse_stranger(self, caller: Caller) -> None:
        if creates_user(is_backend=caller.is_backend, create_unknown=self._create_unknown):
            return
        if caller.is_backend:
            raise Refusal("not_found", "This token is no user's.")
        raise Refusal("unauthorized", "The token's user is not known here.")


async def _settle_owner(conn: Connection, video_id: str, owner_id: int, title: str | None) -> None:
    """See that the owner exists, create the video where it is new, and hold both heads where it changes hands.

    It is created first, so that whoever else is creating it (a user who uploads it, for one) is seen afterwards. The
    lane writes a video's award under the head of the owner whom it read; it must not see another one between that and
    its commit.
    """
    if await users.fetch_status(conn, owner_id) is None:
        raise Refusal("not_found", "There is no such user to own the video.", field="ownerId")
    if title is not None:
        await videos.insert_video(conn, video_id, owner_id, title)
    before = await videos.fetch_owner(conn, video_id)
    if before is None or before == owner_id:
        return
    await heads.lock(conn, {before, owner_id})
    if await videos.fetch_owner(conn, video_id) != before:
        raise Refusal("conflict", "The video has just changed hands.", field="ownerId")


async def log_statuses(conn: Connection, changes: Sequence[StatusChange], who: Mapping[int, str]) -> None:
    """Note in the audit log who suspended whom, or took that back; `who` by the user's id."""
    entries = [
        LogEntry(who[user_id], "user:status", f"user:{user_id}", f'{{"status":"{before}"}}', f'{{"status":"{after}"}}')
        for user_id, before, after in changes
    ]
    await write_together(conn, audit_log.append(entries))


def refuse_counts(change: UserChange, stored: StoredUser | None) -> None:
    """What was read may be sent back as it is; anything else would undo what follow verbs have counted."""
    following, followers = (stored.following_count, stored.followers_count) if stored else (0, 0)
    for given, stands, field in (
        (change.following_count, following, "followingCount"),
        (change.followers_count, followers, "followersCount"),
    ):
        if given is not None and given != stands:
            raise Refusal("conflict", "Follow verbs count here (users.follow_counts), nobody sets it.", field=field)


def _refuse_incomplete(field: str) -> NoReturn:
    raise Refusal("invalid_payload", f"`{field}` is needed to create this.", field=field)


def given(value: T | UnsetType) -> T | None:
    """The value of a field, None where it was left out."""
    return None if isinstance(value, UnsetType) else value


def _removable(value: str | UnsetType | None) -> str | None:
    return _REMOVED if value is None else given(value)


def change_of(user_id: int, request: PutUserRequest) -> UserChange:
    """What a PUT asks to write."""
    return UserChange(
        id=user_id,
        username=given(request.username),
        display_name=_removable(request.display_name),
        picture_url=_removable(request.picture_url),
        email=_removable(request.email),
        roles=None if request.roles is UNSET else ",".join(distinct_roles(request.roles)),
        status=given(request.status),
        following_count=given(request.following_count),
        followers_count=given(request.followers_count),
        version=given(request.version),
    )


def _user_view(stored: StoredUser) -> UserView:
    return UserView(
        id=stored.id,
        username=stored.username,
        display_name=stored.display_name,
        picture_url=stored.picture_url,
        email=stored.email,
        roles=stored.roles,
        status=stored.status,
        following_count=stored.following_count,
        followers_count=stored.followers_count,
        version=stored.version,
    )


def _video_view(stored: StoredVideo) -> VideoView:
    return VideoView(
        video_id=stored.id,
        owner_id=stored.owner_id,
        title=stored.title,
        total_likes=stored.total_likes,
        total_views=stored.total_views,
        total_shares=stored.total_shares,
        total_comments=stored.total_comments,
    )

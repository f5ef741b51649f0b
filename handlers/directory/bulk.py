"""Many users or videos at once: the right rows are applied, the others named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from handlers.directory.handler import change_of, given, log_statuses, refuse_counts
from handlers.directory.wire import BulkAnswer, PutUserRequest, PutVideoRequest, RowError, UserRow, VideoRow
from handlers.errors import Refusal
from storage import heads, users, videos
from storage.pool import transaction
from storage.users import StoredUser, UserChange
from storage.videos import VideoRecord

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.pool import Pool

R = TypeVar("R")
User = tuple[int, PutUserRequest]
Video = tuple[str, PutVideoRequest, int | None]
"""(id, what to change, version)"""


class BulkHandler:
    """`POST /v1/users/bulk`, `POST /v1/videos/bulk`: one transaction each, rows of one id in their order.

    A row that could not be decoded comes as the Refusal that says why. Where follow verbs count (`follows_count`),
    nobody else may set follow counts.
    """

    def __init__(self, *, pool: Pool, follows_count: bool) -> None:
        self._pool = pool
        self._follows_count = follows_count

    async def put_users(self, rows: Sequence[UserRow | Refusal], who: str) -> BulkAnswer:
        """Create or change users, each as a PUT of its own would. `who` is the token's subject."""
        async with transaction(self._pool) as conn:
            good = [(row.id, row) for row in rows if isinstance(row, UserRow)]
            whose = dict.fromkeys((user_id for user_id, _ in good), who)
            return _answer(rows, await put_users(conn, good, whose, follows_count=self._follows_count))

    async def put_videos(self, rows: Sequence[VideoRow | Refusal]) -> BulkAnswer:
        """Create or change videos, each as a PUT of its own would."""
        async with transaction(self._pool) as conn:
            good = [(row.id, row, None) for row in rows if isinstance(row, VideoRow)]
            return _answer(rows, await put_videos(conn, good))


def _answer(rows: Sequence[object], results: Sequence[bool | Refusal]) -> BulkAnswer:
    """Rows are Refusals already, or have a result each."""
    answer = BulkAnswer(changed=0, unchanged=0, errors=[])
    left = iter(results)
    for index, row in enumerate(rows):
        result = row if isinstance(row, Refusal) else next(left)
        if isinstance(result, Refusal):
            answer.errors.append(RowError(index, result.code, result.field))
        elif result:
            answer.changed += 1
        else:
            answer.unchanged += 1
    return answer


async def put_users(
    conn: Connection, rows: Sequence[User], who: Mapping[int, str], *, follows_count: bool
) -> list[bool | Refusal]:
    """Create or change users in a transaction; for each row whether it has changed anything, or why it may not. `who`
    does so, by the user's id."""
    names = {user_id: name for user_id, row in reversed(rows) if (name := given(row.username)) is not None}
    created = await users.insert_unknown_users(conn, list(names), list(names.values()))
    before = await users.lock_users(conn, {user_id for user_id, _ in rows})
    after = dict(before)

    def put(each: User) -> bool:
        user_id, row = each
        user, is_new = after.get(user_id), user_id in created
        if user is None or (is_new and given(row.username) is None):
            raise Refusal("invalid_payload", "A new user needs a name.", field="username")
        change = change_of(user_id, row)
        if follows_count:
            refuse_counts(change, user)
        created.discard(user_id)
        after[user_id] = _merged(user, change)
        return is_new or after[user_id] != user

    results = [_tried(put, row) for row in rows]
    if changed := [_whole(user) for user_id, user in after.items() if user != before[user_id]]:
        await log_statuses(conn, await users.upsert_users(conn, changed), who)
    return results


async def put_videos(conn: Connection, rows: Sequence[Video]) -> list[bool | Refusal]:
    """The same of videos; an older version than the stored one changes nothing."""
    named = {owner for _, row, _ in rows if (owner := given(row.owner_id)) is not None}
    owners = await users.list_known(conn, named)
    created = await videos.insert_videos(conn, _new_records(rows, owners))
    before = await videos.list_records(conn, {video_id for video_id, *_ in rows})
    lost = await _lock_owners(conn, before, rows)
    after = dict(before)

    def put(row: Video) -> bool:
        video_id = row[0]
        if video_id in lost:
            raise Refusal("conflict", "The video has just changed hands.", field="ownerId")
        old = None if video_id in created else after.get(video_id)
        after[video_id] = _described(row, old, owners)
        created.discard(video_id)
        return after[video_id] != old

    results = [_tried(put, row) for row in rows]
    if changed := [record for video_id, record in after.items() if record != before[video_id]]:
        await videos.update_videos(conn, changed)
    return results


def _tried(put: Callable[[R], bool], row: R) -> bool | Refusal:
    try:
        return put(row)
    except Refusal as refusal:
        return refusal


def _merged(user: StoredUser, change: UserChange) -> StoredUser:
    """The user with the change, or as they are where it is older."""
    if change.version is not None and user.version is not None and change.version < user.version:
        return user
    fields = {name: value for name, value in change._asdict().items() if value is not None}
    if change.roles is not None:
        fields["roles"] = change.roles.split(",")
    for text in ("display_name", "picture_url", "email"):
        if fields.get(text) == "":
            fields[text] = None
    return user._replace(**fields)


def _whole(user: StoredUser) -> UserChange:
    return UserChange(
        id=user.id,
        username=user.username,
        display_name=user.display_name or "",
        picture_url=user.picture_url or "",
        email=user.email or "",
        roles=",".join(user.roles),
        status=user.status,
        following_count=user.following_count,
        followers_count=user.followers_count,
        version=user.version,
    )


def _new_records(rows: Sequence[Video], owners: set[int]) -> list[VideoRecord]:
    """What each id is created as where nobody has it: by the first row that says whose it is and what it is called."""
    records: dict[str, VideoRecord] = {}
    for video_id, row, version in rows:
        owner_id, title = given(row.owner_id), given(row.title)
        if owner_id in owners and owner_id is not None and title is not None:
            records.setdefault(video_id, VideoRecord(video_id, owner_id, title, version))
    return list(records.values())


async def _lock_owners(conn: Connection, before: dict[str, VideoRecord], rows: Sequence[Video]) -> set[str]:
    """Hold the heads of the old and new owners of videos that change hands, which guard their counters; those that have
    changed hands before we held them."""
    moves = [
        (video_id, owner)
        for video_id, row, _ in rows
        if video_id in before and (owner := given(row.owner_id)) not in (None, before[video_id].owner_id)
    ]
    if not moves:
        return set()
    moving = {video_id for video_id, _ in moves}
    await heads.lock(conn, {before[each].owner_id for each in moving} | {owner for _, owner in moves if owner})
    now = await videos.list_records(conn, moving)
    return {each for each in moving if now[each].owner_id != before[each].owner_id}


def _described(row: Video, old: VideoRecord | None, owners: set[int]) -> VideoRecord:
    video_id, change, version = row
    owner_id, title = given(change.owner_id), given(change.title)
    if owner_id is not None and owner_id not in owners:
        raise Refusal("not_found", "There is no such user to own the video.", field="ownerId")
    if old is not None and version is not None and old.version is not None and version < old.version:
        return old
    if old is not None and not old.deleted:
        owner_id, title = owner_id or old.owner_id, title or old.title
    if owner_id is None or title is None:
        field = "ownerId" if owner_id is None else "title"
        raise Refusal("invalid_payload", f"`{field}` is needed to create this.", field=field)
    stored = None if old is None else old.version
    return VideoRecord(video_id, owner_id, title, stored if version is None else version)

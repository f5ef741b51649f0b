"""Many users or videos at once: the right rows are applied, the others named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from handlers.directory.handler import change_of, given, refuse_counts
from handlers.directory.wire import BulkAnswer, RowError, UserRow, VideoRow
from handlers.errors import Refusal
from storage import heads, users, videos
from storage.pool import transaction
from storage.users import StoredUser, UserChange
from storage.videos import VideoRecord

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.pool import Pool

R = TypeVar("R", UserRow, VideoRow)


class BulkHandler:
    """`POST /v1/users/bulk`, `POST /v1/videos/bulk`: one transaction each, rows of one id in their order.

    A row that could not be decoded comes as the Refusal that says why. Where follow verbs count (`follows_count`),
    nobody else may set follow counts.
    """

    def __init__(self, *, pool: Pool, follows_count: bool) -> None:
        self._pool = pool
        self._follows_count = follows_count

    async def put_users(self, rows: Sequence[UserRow | Refusal]) -> BulkAnswer:
        """Create or change users, each as a PUT of its own would."""
        good = [row for row in rows if isinstance(row, UserRow)]
        async with transaction(self._pool) as conn:
            names = {row.id: name for row in reversed(good) if (name := given(row.username)) is not None}
            created = await users.insert_unknown_users(conn, list(names), list(names.values()))
            before = await users.lock_users(conn, {row.id for row in good})
            after = dict(before)

            def put(row: UserRow) -> bool:
                user, is_new = after.get(row.id), row.id in created
                if user is None or (is_new and given(row.username) is None):
                    raise Refusal("invalid_payload", "A new user needs a name.", field="username")
                change = change_of(row.id, row)
                if self._follows_count:
                    refuse_counts(change, user)
                created.discard(row.id)
                after[row.id] = _merged(user, change)
                return is_new or after[row.id] != user

            answer = _each(rows, put)
            if changed := [_whole(user) for user_id, user in after.items() if user != before[user_id]]:
                await users.upsert_users(conn, changed)
        return answer

    async def put_videos(self, rows: Sequence[VideoRow | Refusal]) -> BulkAnswer:
        """Create or change videos, each as a PUT of its own would."""
        good = [row for row in rows if isinstance(row, VideoRow)]
        async with transaction(self._pool) as conn:
            owners = await users.list_known(conn, {owner for row in good if (owner := given(row.owner_id)) is not None})
            created = await videos.insert_videos(conn, _new_records(good, owners))
            before = await videos.list_records(conn, {row.id for row in good})
            lost = await _lock_owners(conn, before, good)
            after = dict(before)

            def put(row: VideoRow) -> bool:
                if row.id in lost:
                    raise Refusal("conflict", "The video has just changed hands.", field="ownerId")
                old = None if row.id in created else after.get(row.id)
                after[row.id] = _described(row, old, owners)
                created.discard(row.id)
                return after[row.id] != old

            answer = _each(rows, put)
            if changed := [record for video_id, record in after.items() if record != before[video_id]]:
                await videos.update_videos(conn, changed)
        return answer


def _each(rows: Sequence[R | Refusal], put: Callable[[R], bool]) -> BulkAnswer:
    """Put each row: True where that changes something."""
    answer = BulkAnswer(changed=0, unchanged=0, errors=[])
    for index, row in enumerate(rows):
        try:
            if isinstance(row, Refusal):
                raise row
            if put(row):
                answer.changed += 1
            else:
                answer.unchanged += 1
        except Refusal as refusal:
            answer.errors.append(RowError(index, refusal.code, refusal.field))
    return answer


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


def _new_records(rows: Sequence[VideoRow], owners: set[int]) -> list[VideoRecord]:
    """What each id is created as where nobody has it: by the first row that says whose it is and what it is called."""
    records: dict[str, VideoRecord] = {}
    for row in rows:
        owner_id, title = given(row.owner_id), given(row.title)
        if owner_id in owners and owner_id is not None and title is not None:
            records.setdefault(row.id, VideoRecord(row.id, owner_id, title))
    return list(records.values())


async def _lock_owners(conn: Connection, before: dict[str, VideoRecord], rows: Sequence[VideoRow]) -> set[str]:
    """Hold the heads of the old and new owners of videos that change hands, which guard their counters; those that have
    changed hands before we held them."""
    moves = [
        (row.id, owner)
        for row in rows
        if row.id in before and (owner := given(row.owner_id)) not in (None, before[row.id].owner_id)
    ]
    if not moves:
        return set()
    moving = {video_id for video_id, _ in moves}
    await heads.lock(conn, {before[each].owner_id for each in moving} | {owner for _, owner in moves if owner})
    now = await videos.list_records(conn, moving)
    return {each for each in moving if now[each].owner_id != before[each].owner_id}


def _described(row: VideoRow, old: VideoRecord | None, owners: set[int]) -> VideoRecord:
    owner_id, title = given(row.owner_id), given(row.title)
    if owner_id is not None and owner_id not in owners:
        raise Refusal("not_found", "There is no such user to own the video.", field="ownerId")
    if old is not None and not old.deleted:
        owner_id, title = owner_id or old.owner_id, title or old.title
    if owner_id is None or title is None:
        field = "ownerId" if owner_id is None else "title"
        raise Refusal("invalid_payload", f"`{field}` is needed to create this.", field=field)
    return VideoRecord(row.id, owner_id, title)

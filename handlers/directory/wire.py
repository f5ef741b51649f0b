"""What users and videos look like on the wire (spec 7)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from handlers.wire import MAX_USER_ID, ItemId, Message, RecordId, Request, Source, Title, UserId

_WITHOUT_NUL: Final = r"^[^\x00]*\Z"

Username = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=_WITHOUT_NUL)]
DisplayName = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_WITHOUT_NUL)]
PictureUrl = Annotated[str, msgspec.Meta(min_length=1, max_length=2048, pattern=_WITHOUT_NUL)]
Email = Annotated[str, msgspec.Meta(min_length=3, max_length=320, pattern=r"^[^\x00\s@]+@[^\x00\s@]+\Z")]
Role = Literal["viewer", "creator", "sponsor", "admin", "service"]
Roles = Annotated[list[Role], msgspec.Meta(max_length=16)]
Status = Literal["active", "suspended"]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_USER_ID)]


class PutUserRequest(Request, frozen=True):
    """A user to create or change. Left out keeps, null removes (where it may be missing).

    `username` may be left out of a change only: whoever is created has one.
    """

    username: Username | UnsetType = UNSET
    display_name: DisplayName | UnsetType | None = UNSET
    picture_url: PictureUrl | UnsetType | None = UNSET
    email: Email | UnsetType | None = UNSET
    roles: Roles | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    following_count: Count | UnsetType = UNSET
    followers_count: Count | UnsetType = UNSET
    version: Count | UnsetType = UNSET


class UserView(Message):
    """One user, as backends and they themselves see them."""

    id: int
    username: str
    display_name: str | None
    picture_url: str | None
    email: str | None
    roles: list[str]
    status: str
    following_count: int
    followers_count: int
    version: int | None


class PutVideoRequest(Request, frozen=True):
    """A video to create or change; both fields are needed to create one."""

    owner_id: UserId | UnsetType = UNSET
    title: Title | UnsetType = UNSET


class VideoView(Message):
    """One video with its totals, which may lag by a second."""

    video_id: str
    owner_id: int
    title: str
    total_likes: int
    total_views: int
    total_shares: int
    total_comments: int


class UserRow(PutUserRequest, frozen=True, kw_only=True):
    """One user of `POST /v1/users/bulk`."""

    id: UserId


class VideoRow(PutVideoRequest, frozen=True, kw_only=True):
    """One video of `POST /v1/videos/bulk`."""

    id: ItemId


class BulkUsersRequest(Request, frozen=True):
    """Each row is a UserRow, decoded by itself, so that a bad one does not spoil the others."""

    users: list[msgspec.Raw]


class BulkVideosRequest(Request, frozen=True):
    """Each row is a VideoRow."""

    videos: list[msgspec.Raw]


class UserRecord(PutUserRequest, frozen=True, kw_only=True, tag_field="kind", tag="user"):
    """One user as a record of Kafka's; `id` is the record's own."""

    source: Source
    id: RecordId
    user_id: UserId


class VideoRecord(PutVideoRequest, frozen=True, kw_only=True, tag_field="kind", tag="video"):
    """One video likewise; an older `version` than the stored one changes nothing."""

    source: Source
    id: RecordId
    video_id: ItemId
    version: Count | UnsetType = UNSET


DirectoryRecord = UserRecord | VideoRecord


class RowError(Message, omit_defaults=True):
    """Why the row at `index` (from 0) was not applied."""

    index: int
    code: str
    field: str | None = None


class BulkAnswer(Message):
    """`unchanged`: the rows that were so already, or older than what is stored."""

    changed: int
    unchanged: int
    errors: list[RowError]

"""What following looks like on the wire (spec 2 and 3)."""

from __future__ import annotations

from handlers.wire import ActionId, Message, Request, UserId


class FollowRequest(Request, frozen=True):
    user_id: UserId
    action_id: ActionId


class UnfollowRequest(Request, frozen=True):
    user_id: UserId
    action_id: ActionId


class FollowAck(Message):
    """The ack's data of both verbs; `already`: there was nothing to change."""

    user_id: int
    already: bool


class ProfileFollowedEvent(Message):
    actor_id: int
    actor_username: str
    actor_profile_pic: str | None
    followers_count: int

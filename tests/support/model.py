"""What all verbs come to, told naively: one action after the other, plain dictionaries, amounts in hundredths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

VIEWER_FROM, CREATOR_FROM = 100, 1000  # follow counts
ACTOR_POINTS: Final = {"video:like": 100, "video:view": 100, "video:share": 200, "video:comment": 200}
CREATOR_POINTS: Final = {"video:like": 100, "video:view": 10, "video:share": 100}
UPLOAD_POINTS: Final = 500
COMMENTS_A_DAY: Final = 5


class Refused(Exception):
    """The action is refused with this code."""


@dataclass
class Person:
    follows: int
    followers: int
    suspended: bool = False
    balance: int = 0


@dataclass
class Model:
    """`people` by id, `owners` of videos, `prices` of items."""

    people: dict[int, Person]
    owners: dict[str, int]
    prices: dict[str, int]
    totals: dict[tuple[str, str], int] = field(default_factory=dict)  # (video, verb)
    likes: set[tuple[int, str]] = field(default_factory=set)
    acted: set[tuple[int, str, str]] = field(default_factory=set)  # views, shares: ever
    paid: set[tuple[int, str, str]] = field(default_factory=set)
    creators_paid: set[tuple[int, str, str]] = field(default_factory=set)
    comments: dict[tuple[int, str], int] = field(default_factory=dict)  # paid today
    follows: set[tuple[int, int]] = field(default_factory=set)

    def act(self, user: int, event: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The ack's data, without what only the server knows. Raises Refused."""
        verb = event.partition(":")[2]
        data: dict[str, Any] = getattr(self, f"_{verb}")(user, payload)
        return data

    # -- videos ------------------------------------------------------------------------------------------------------

    def _like(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        video = self._video(payload)
        already = (user, video) in self.likes
        self.likes.add((user, video))
        return self._engaged(user, "video:like", video, already=already, change=not already)

    def _unlike(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        video = self._video(payload)
        stood = (user, video) in self.likes
        self.likes.discard((user, video))
        total = self._count(video, "video:like", -stood)
        return {"videoId": video, "total": total, "already": not stood, "award": None}

    def _view(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        return self._repeatable(user, "video:view", payload)

    def _share(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        return self._repeatable(user, "video:share", payload)

    def _comment(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        video = self._video(payload)
        return self._engaged(user, "video:comment", video, already=False, change=True)

    def _repeatable(self, user: int, event: str, payload: dict[str, Any]) -> dict[str, Any]:
        video = self._video(payload)
        already = (user, video, event) in self.acted
        self.acted.add((user, video, event))
        return self._engaged(user, event, video, already=already, change=True)

    def _engaged(self, user: int, event: str, video: str, *, already: bool, change: bool) -> dict[str, Any]:
        total = self._count(video, event, change)
        owner = self.owners[video]
        reason = self._reason(user, event, video)
        earns = owner != user and self.people[owner].followers >= CREATOR_FROM and event in CREATOR_POINTS
        if earns and (user, video, event) not in self.creators_paid:
            self.creators_paid.add((user, video, event))
            self.people[owner].balance += CREATOR_POINTS[event]
        data: dict[str, Any] = {"videoId": video, "total": total, "already": already, "award": None}
        if reason is not None:
            return data | {"reason": reason}
        self.paid.add((user, video, event))
        if event == "video:comment":
            self.comments[user, video] = self.comments.get((user, video), 0) + 1
        return data | {"award": self._pay(user, ACTOR_POINTS[event])}

    def _reason(self, user: int, event: str, video: str) -> str | None:
        if self.owners[video] == user:
            return "own_video"
        if event != "video:comment" and (user, video, event) in self.paid:
            return "already_paid"
        if event == "video:comment" and self.comments.get((user, video), 0) >= COMMENTS_A_DAY:
            return "daily_cap"
        return "not_eligible" if self.people[user].follows < VIEWER_FROM else None

    def _upload(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        video = payload["videoId"]
        if self.owners.setdefault(video, user) != user:
            raise Refused("conflict")
        if (user, video, "upload") in self.paid:
            return {"videoId": video, "award": None, "reason": "already_paid"}
        if self.people[user].followers < CREATOR_FROM:
            return {"videoId": video, "award": None, "reason": "not_eligible"}
        self.paid.add((user, video, "upload"))
        return {"videoId": video, "award": self._pay(user, UPLOAD_POINTS)}

    # -- people ------------------------------------------------------------------------------------------------------

    def _follow(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        pair = self._other(user, payload)
        already = pair in self.follows
        self.follows.add(pair)
        return {"userId": pair[1], "already": already}

    def _unfollow(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        pair = self._other(user, payload)
        already = pair not in self.follows
        self.follows.discard(pair)
        return {"userId": pair[1], "already": already}

    def _other(self, user: int, payload: dict[str, Any]) -> tuple[int, int]:
        other = payload["userId"]
        if other == user:
            raise Refused("forbidden")
        if other not in self.people:
            raise Refused("not_found")
        return user, other

    # -- points ------------------------------------------------------------------------------------------------------

    def _gift(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        other = payload["toUserId"]
        if other not in self.people:
            raise Refused("not_found")
        if other == user or self.people[other].suspended:
            raise Refused("fraud_blocked")
        spent = self._spend(user, round(payload["amount"] * 100))
        self.people[other].balance += round(payload["amount"] * 100)
        return spent

    def _purchase(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        if payload["itemId"] not in self.prices:
            raise Refused("not_found")
        return self._spend(user, self.prices[payload["itemId"]])

    def _boost(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        self._video(payload)
        return self._spend(user, round(payload["amount"] * 100))

    def _deduct(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        return self._spend(user, round(payload["amount"] * 100))

    def _correct(self, user: int, payload: dict[str, Any]) -> dict[str, Any]:
        return self._spend(user, -round(payload["amount"] * 100))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _video(self, payload: dict[str, Any]) -> str:
        if payload["videoId"] not in self.owners:
            raise Refused("not_found")
        return str(payload["videoId"])

    def _count(self, video: str, event: str, change: int) -> int:
        self.totals[video, event] = self.totals.get((video, event), 0) + change
        return self.totals[video, event]

    def _pay(self, user: int, points: int) -> dict[str, Any]:
        self.people[user].balance += points
        return {"points": points / 100, "newBalance": self.people[user].balance / 100}

    def _spend(self, user: int, amount: int) -> dict[str, Any]:
        if self.people[user].balance < amount:
            raise Refused("insufficient_funds")
        self.people[user].balance -= amount
        return {"newBalance": self.people[user].balance / 100}

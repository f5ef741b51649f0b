"""What following and unfollowing comes to: values in, values out, one deed after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

Pair = tuple[int, int]  # (follower, followed)


@dataclass(slots=True)
class Follow:
    """One pair's state: whether it stands, whether the users' counts hold it, whether it was told within 24 h."""

    following: bool = False
    counted: bool = False
    notified: bool = False
    notified_now: bool = False
    is_blocked: bool = False  # the followed does not want to hear of it


@dataclass(slots=True)
class Profile:
    """What a follow tells of its follower."""

    username: str
    picture_url: str | None


@dataclass(slots=True)
class CountChange:
    """What a batch does to one user's two counts: by how much they change, and how many more follows they hold."""

    following: int = 0
    followers: int = 0
    counted_following: int = 0
    counted_followers: int = 0


@dataclass(slots=True)
class Notice:
    """One `profile_followed`."""

    user_id: int
    seq: int
    actor_id: int
    profile: Profile
    followers: int
    origin: str


@dataclass(slots=True)
class Books:
    """Everything that a batch reads and changes. `decide` runs over it, one deed after the other."""

    counts_follows: bool
    seqs: dict[int, int]  # of locked users
    profiles: dict[int, Profile]
    following: dict[int, int]  # of each follower, how many they follow by their count
    followers: dict[int, int]  # of each followed, how many follow them by their count
    follows: dict[Pair, Follow]
    changed: set[Pair] = field(default_factory=set)
    counts: dict[int, CountChange] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)


def decide(books: Books, pair: Pair, *, follows: bool, origin: str) -> bool:
    """Record that the one follows the other from now on, or no longer; returns whether that stood before.

    Both must be locked. `origin` names the request key.
    """
    follow = books.follows[pair]
    if follow.following == follows:
        return True
    follow.following = follows
    _count(books, pair, follow)
    books.changed.add(pair)
    if follows and not (follow.notified or follow.is_blocked):
        follow.notified = follow.notified_now = True
        _tell(books, pair, origin)
    return False


def _count(books: Books, pair: Pair, follow: Follow) -> None:
    """Both counts follow where the verbs count. A follow of the time when they did not is taken back all the same:
    the directory's count held it. One that was counted is no longer, whatever the setting is by now."""
    counted = follow.following and books.counts_follows
    more = counted - follow.counted
    follow.counted = counted
    if not (books.counts_follows or more):
        return
    step = (1 if follow.following else -1) if books.counts_follows else 0
    follower, followed = (books.counts.setdefault(user_id, CountChange()) for user_id in pair)
    follower.following += _add(books.following, pair[0], step)
    follower.counted_following += more
    followed.followers += _add(books.followers, pair[1], step)
    followed.counted_followers += more


def _add(counts: dict[int, int], user_id: int, step: int) -> int:
    """Move a count, not below zero (a directory may have said too few); returns by how much it moved."""
    before = counts[user_id]
    counts[user_id] = max(before + step, 0)
    return counts[user_id] - before


def _tell(books: Books, pair: Pair, origin: str) -> None:
    follower, followed = pair
    books.seqs[followed] += 1
    seq, profile = books.seqs[followed], books.profiles[follower]
    books.notices.append(Notice(followed, seq, follower, profile, books.followers[followed], origin))

"""Batches of follows and unfollows: against a model, and on the real database in both modes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.deed import Deed
from handlers.directory.handler import DirectoryHandler
from handlers.directory.wire import PutUserRequest
from handlers.errors import Refusal
from handlers.profile.handler import ProfileHandler
from handlers.profile.rules import Books, Follow, Profile, decide
from storage import db, heads
from storage.audit import audit
from tests.support.deeds import Runs, deed
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, seed

PEOPLE: Final = (1, 2, 3)
PAIRS: Final = [(one, other) for one in PEOPLE for other in PEOPLE if one != other]

# -- rules -------------------------------------------------------------------------------------------

steps = st.lists(st.tuples(st.sampled_from(PAIRS), st.booleans(), st.booleans()), max_size=30)


@given(steps, st.integers(0, 2))
def test_every_count_is_what_history_says(steps: list[tuple[tuple[int, int], bool, bool]], said: int) -> None:
    """Each step is a batch of its own: who, whether they follow, and whether the verbs count at that time.

    `said` is what the directory had told of everybody before.
    """
    follows = {pair: Follow() for pair in PAIRS}
    following = dict.fromkeys(PEOPLE, said)
    followers = dict.fromkeys(PEOPLE, said)
    base = {(user, side): said for user in PEOPLE for side in ("following", "followers")}
    now: set[tuple[int, int]] = set()  # who follows whom
    held: set[tuple[int, int]] = set()  # those of them whom the verbs have counted
    told: list[tuple[int, int]] = []
    for pair, follow, counts in steps:
        books = Books(
            counts_follows=counts, seqs=dict.fromkeys(PEOPLE, 7), follows=follows, following=dict(following),
            followers=dict(followers), profiles={user: Profile(f"user_{user}", None) for user in PEOPLE},
        )  # fmt: skip
        before = (dict(following), dict(followers))
        assert decide(books, pair, follows=follow, origin="o") == ((pair in now) == follow)
        changes = (pair in now) != follow
        if follow and changes and pair not in told:
            told.append(pair)
            [notice] = books.notices
            assert (notice.user_id, notice.seq, notice.actor_id) == (pair[1], 8, pair[0])
            assert notice.followers == books.followers[pair[1]]
        else:
            assert not books.notices
        if changes:
            held = held | {pair} if follow and counts else held - {pair}
        now = now | {pair} if follow else now - {pair}
        step = ((1 if follow else -1) if counts else 0) * changes
        following[pair[0]] = max(following[pair[0]] + step, 0)
        followers[pair[1]] = max(followers[pair[1]] + step, 0)
        for user, change in books.counts.items():
            assert before[0][user] + change.following == following[user]
            assert before[1][user] + change.followers == followers[user]
            base[user, "following"] += change.following - change.counted_following
            base[user, "followers"] += change.followers - change.counted_followers
        assert (books.following, books.followers) == (following, followers)
    counted = [pair for pair, follow in follows.items() if follow.counted]
    for user in PEOPLE:
        assert following[user] == base[user, "following"] + sum(pair[0] == user for pair in counted)
        assert followers[user] == base[user, "followers"] + sum(pair[1] == user for pair in counted)
    assert set(counted) == held
    assert now == {pair for pair, follow in follows.items() if follow.following}


# -- on the database ---------------------------------------------------------------------------------


def follow(user: int, other: int = CREATOR, **fields: Any) -> Deed:
    return deed(user, "profile:follow", userId=other, **fields)


def unfollow(user: int, other: int = CREATOR, **fields: Any) -> Deed:
    return deed(user, "profile:unfollow", userId=other, **fields)


@pytest.fixture
async def runs(conn: asyncpg.Connection) -> Runs:
    """Runs batches on `conn` where the directory is the master of follow counts."""
    await seed(conn)
    await conn.execute("UPDATE users SET picture_url = 'https://x/' || id WHERE id = $1", FAN)
    return Runs(conn, ProfileHandler(counts_follows=False))


@pytest.fixture
async def counting(conn: asyncpg.Connection) -> Runs:
    """Runs batches on `conn` where follow verbs count. Fans follow 100, the creator is followed by 1,000."""
    await seed(conn)
    return Runs(conn, ProfileHandler(counts_follows=True))


@pytest.fixture(autouse=True)
async def _audited(conn: asyncpg.Connection) -> Any:
    """Whatever a test does, the books are right afterwards."""
    yield
    assert await audit(conn) == []


async def counts(conn: asyncpg.Connection, user: int) -> tuple[int, int]:
    """(following, followers)."""
    row = await conn.fetchrow("SELECT following_count, followers_count FROM users WHERE id = $1", user)
    return row[0], row[1]


async def let_pass(conn: asyncpg.Connection, hours: float) -> None:
    await conn.execute("UPDATE follows SET notified_at = notified_at - $1 * interval '1 hour'", hours)


async def test_a_follow_is_answered_and_told(runs: Runs, conn: asyncpg.Connection) -> None:
    assert await runs.data(follow(FAN), follow(FAN + 1)) == [{"userId": CREATOR, "already": False}] * 2
    first, second = runs.told(CREATOR)
    assert (first["seq"], first["type"], first["eventType"]) == (1, "profile_followed", "notification:profile_followed")
    assert first["data"] == {
        "actorId": FAN, "actorUsername": f"user_{FAN}", "actorProfilePic": f"https://x/{FAN}", "followersCount": 1000,
    }  # fmt: skip
    assert (second["seq"], second["data"]["actorProfilePic"], second["data"]["followersCount"]) == (2, None, 1000)
    assert (await counts(conn, CREATOR), await counts(conn, FAN)) == ((100, 1000), (100, 0)), "the directory's"


async def test_already_says_that_nothing_changed(runs: Runs) -> None:
    deeds = [unfollow(FAN), follow(FAN), follow(FAN), unfollow(FAN), unfollow(FAN), follow(FAN)]
    expected = [True, False, True, False, True, False]
    assert [data["already"] for data in await runs.data(*deeds)] == expected
    assert len(runs.told(CREATOR)) == 1


async def test_the_followed_hears_once_in_a_day_however_often_it_is_toggled(
    runs: Runs, conn: asyncpg.Connection
) -> None:
    for hours, told in ((0, 1), (0, 1), (23.9, 1), (0, 1), (0.2, 2), (0, 2), (23.9, 2)):
        await let_pass(conn, hours)
        await runs.data(unfollow(FAN), follow(FAN), unfollow(FAN), follow(FAN))
        assert len(runs.told(CREATOR)) == told
    await runs.data(follow(CREATOR, FAN))
    assert len(runs.told(FAN)) == 1, "the other way round is another pair"
    await let_pass(conn, 25)
    await runs.data(follow(FAN))
    assert len(runs.told(CREATOR)) == 2, "a follow that stands is no news"


async def test_nobody_follows_themselves_or_nobody(runs: Runs, conn: asyncpg.Connection) -> None:
    own, lost, fine = await runs.run(follow(FAN, FAN, action_id="the-key-1"), follow(FAN, 404), follow(FAN))
    assert (own["ok"], own["error"]["code"], own["error"]["field"]) == (False, "forbidden", "userId")
    assert (lost, fine["ok"]) == ("not_found", True)
    assert await runs.run(follow(FAN, FAN, action_id="the-key-1")) == [{**own, "replayed": True}]
    assert await conn.fetchval("SELECT count(*) FROM follows") == 1
    assert await conn.fetchval("SELECT count(*) FROM requests") == 2, "what is not found leaves no trace"


async def test_a_key_follows_once(runs: Runs, conn: asyncpg.Connection) -> None:
    first, again, other = await runs.run(
        follow(FAN, action_id="the-key-1"), follow(FAN, action_id="the-key-1"), unfollow(FAN, action_id="the-key-1")
    )
    assert again == {**first, "replayed": True}
    assert other == "idempotency_conflict"
    await runs.data(unfollow(FAN))
    assert await runs.run(follow(FAN, action_id="the-key-1")) == [again]
    assert await conn.fetchval("SELECT count(*) FROM follows WHERE following") == 0


async def test_follow_verbs_count_where_they_are_the_master(counting: Runs, conn: asyncpg.Connection) -> None:
    await counting.data(follow(FAN), follow(FAN + 1), follow(FAN), follow(CREATOR, FAN), follow(FAN, OTHER_CREATOR))
    assert await counts(conn, CREATOR) == (101, 1002)
    assert await counts(conn, FAN) == (102, 1)
    assert [event["data"]["followersCount"] for event in counting.told(CREATOR)] == [1001, 1002]
    await counting.data(unfollow(FAN), unfollow(FAN), unfollow(FAN + 2))
    assert await counts(conn, CREATOR) == (101, 1001)
    assert await counts(conn, FAN) == (101, 1)


async def test_counts_are_exact_through_several_nodes_at_once(
    counting: Runs, conn: asyncpg.Connection, dsn: str
) -> None:
    others = [await db.connect(dsn) for _ in range(4)]
    nodes = [Runs(other, ProfileHandler(counts_follows=True)) for other in others]
    people = [CREATOR, OTHER_CREATOR, *range(FAN, FAN + 6)]
    before = {user: await counts(conn, user) for user in people}
    await asyncio.gather(*(_toggle(node, people, start) for start, node in enumerate(nodes)))
    for other in others:
        await other.close()
    pairs = [(row[0], row[1]) for row in await conn.fetch("SELECT * FROM follows WHERE following")]
    following, followers = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    assert pairs
    for user in people:
        assert await counts(conn, user) == (before[user][0] + following[user], before[user][1] + followers[user])


async def _toggle(node: Runs, people: list[int], start: int) -> None:
    for turn in range(30):
        batch = []
        for number in range(6):
            one = people[(start + turn * 3 + number * 5) % len(people)]
            other = people[(start * 3 + turn + number * 7 + 1) % len(people)]
            if one != other:
                batch.append((follow if (turn + number + start) % 3 else unfollow)(one, other))
        await node.run(*batch)


async def test_the_other_way_of_counting_may_be_chosen_at_any_time(
    runs: Runs, conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    counting = Runs(conn, ProfileHandler(counts_follows=True))
    directory = DirectoryHandler(pool=pool, create_unknown=True)
    await runs.data(follow(FAN))
    await counting.data(follow(FAN + 1), follow(FAN + 2), unfollow(FAN))
    assert await counts(conn, CREATOR) == (100, 1001), "a follow that the directory had counted is taken back"
    assert await audit(conn) == []
    await runs.data(unfollow(FAN + 1), follow(FAN + 3))
    assert await counts(conn, CREATOR) == (100, 1001), "which knows by itself"
    assert await audit(conn) == []
    await directory.put_user(CREATOR, PutUserRequest(followers_count=5), "crm")
    assert await audit(conn) == []
    await counting.data(unfollow(FAN + 2), follow(FAN + 4), follow(FAN + 1))
    assert await counts(conn, CREATOR) == (100, 6)
    await directory.put_user(CREATOR, PutUserRequest(followers_count=0), "crm")
    await counting.data(unfollow(FAN + 4))
    assert await counts(conn, CREATOR) == (100, 0), "never below nothing"


async def test_where_verbs_count_nobody_sets_counts(counting: Runs, pool: asyncpg.Pool) -> None:
    directory = DirectoryHandler(pool=pool, create_unknown=True, follows_count=True)
    made = await directory.put_user(50, PutUserRequest(username="ada", following_count=0), "crm")
    assert (made.following_count, made.followers_count) == (0, 0)
    await directory.put_user(51, PutUserRequest(username="ben"), "crm")
    await counting.data(follow(51, 50))
    for change, field in (
        (PutUserRequest(followers_count=7), "followersCount"),
        (PutUserRequest(following_count=7, followers_count=1), "followingCount"),
        (PutUserRequest(username="eve", followers_count=0), "followersCount"),
    ):
        with pytest.raises(Refusal) as refused:
            await directory.put_user(50, change, "crm")
        assert (refused.value.code, refused.value.field) == ("conflict", field)
    with pytest.raises(Refusal):
        await directory.put_user(52, PutUserRequest(username="new", followers_count=1), "crm")
    same = await directory.put_user(50, PutUserRequest(username="eva", following_count=0, followers_count=1), "crm")
    assert (same.username, same.followers_count) == ("eva", 1), "what was read may be sent back"


async def test_whose_heads_are_held_wait_with_what_comes_behind(runs: Runs, conn: asyncpg.Connection, dsn: str) -> None:
    other = await db.connect(dsn)
    held = other.transaction()
    await held.start()
    await heads.lock(other, [CREATOR, FAN + 1])
    waits, behind, acts, passes = follow(FAN), follow(FAN, FAN + 2), follow(FAN + 1, FAN + 2), follow(FAN + 3, FAN + 2)
    answers = await runs.run(waits, behind, acts, passes, skip_locked=True)
    assert [answer is not None for answer in answers] == [False, False, False, True]
    await held.rollback()
    await other.close()
    assert [data["already"] for data in await runs.data(waits, behind, acts)] == [False] * 3

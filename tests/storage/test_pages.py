"""Pages of many inboxes at once: each is what it would be by itself, and all together stay small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import broadcasts, inbox, ledger
from storage.broadcasts import Body
from storage.db import BY_INDEX, create_pool
from storage.inbox import Event, SharedEvent, StoredEvent
from storage.ledger import ISSUANCE, Entry
from storage.statement import write_together
from storage.users import insert_unknown_users
from tests.support.shared import insert_body, refer

NOW: Final = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
USERS: Final = (1, 2, 3, 4)
ROOM_OF_A_PAGE, ROOM_OF_ALL = 60, 150  # letters of bodies, so that those below are small, large and larger than a page
SIZES: Final = {"small": 10, "large": 40, "huge": 90}

Asked = tuple[int, int, int]
Stories = dict[int, list[Event]]


@pytest.fixture(autouse=True)
async def _users(conn: asyncpg.Connection) -> None:
    await insert_unknown_users(conn, list(USERS), [None] * len(USERS))


@contextmanager
def little_room() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inbox, "PAGE_BYTES", ROOM_OF_A_PAGE)
        patch.setattr(inbox, "PAGES_BYTES", ROOM_OF_ALL)
        yield


async def store(conn: asyncpg.Connection, kinds: dict[int, list[str]]) -> Stories:
    """Each user's events from seq 1 on. What many get has few bodies, of which each is another user's too."""
    bodies: dict[str, tuple[int, Body]] = {}
    for name, size in SIZES.items():
        for number in range(3):
            body = Body(f"{name}-{number}", "news", None, '"' + str(number) * (size - 2) + '"', NOW)
            bodies[f"{name}{number}"] = await insert_body(conn, body, USERS, applied=4), body
    stories: Stories = {}
    for user_id, of_user in kinds.items():
        story: list[Event] = []
        for seq, kind in enumerate(of_user, start=1):
            if kind == "entry":
                n = sum(isinstance(event, Entry) for event in story) + 1
                story.append(Entry(user_id, seq, "LYK", n, uuid4(), "refund", 1, n - 1, n, ISSUANCE, None, "{}", NOW))
            elif kind == "own":
                story.append(StoredEvent(user_id, seq, uuid4(), "video_like", "a:b", '{"n": 1.10}', NOW))
            else:
                broadcast_id, body = bodies[f"{kind}{seq % 3}"]
                shared = SharedEvent(user_id, seq, body)
                await write_together(conn, refer([shared], broadcast_id))
                story.append(shared)
        stories[user_id] = story
        entries = [event for event in story if isinstance(event, Entry)]
        own = [event for event in story if isinstance(event, StoredEvent)]
        await write_together(conn, [*ledger.post(entries), *inbox.append(own, {user_id: len(story)})])
    return stories


def page_of(story: Sequence[Event], after: int, upto: int, limit: int) -> list[Event]:
    """What anybody would write: the first of the wanted ones, to where their bodies have filled a page."""
    page: list[Event] = []
    size = 0
    for event in story:
        if after < event.seq <= upto and len(page) < limit:
            if isinstance(event, SharedEvent):
                if size >= ROOM_OF_A_PAGE:
                    break
                size += len(event.body.data)
            page.append(event)
    return page


def size_of(page: Sequence[Event] | None) -> int:
    return sum(len(event.body.data) for event in page or () if isinstance(event, SharedEvent))


kinds = st.sampled_from(["own", "entry", "small", "large", "huge"])
inboxes = st.fixed_dictionaries({user: st.lists(kinds, max_size=12) for user in USERS})
asking = st.lists(
    st.tuples(st.sampled_from((*USERS, 404)), st.integers(-1, 14), st.integers(-1, 14)), min_size=1, max_size=8
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=inboxes, asked=asking, limit=st.integers(1, 12))
async def test_pages_read_together_are_what_each_is_by_itself(
    conn: asyncpg.Connection, kinds: dict[int, list[str]], asked: list[Asked], limit: int
) -> None:
    story = conn.transaction()
    await story.start()
    try:
        with little_room():
            stories = await store(conn, kinds)
            alone = [page_of(stories.get(user, ()), after, upto, limit) for user, after, upto in asked]
            assert [await inbox.list_after(conn, *each, limit) for each in asked] == alone
            together = await inbox.list_pages(conn, asked, limit)

            assert together[0] == alone[0], "the first one is always answered"
            for place, (page, whole) in enumerate(zip(together, alone, strict=True)):
                if page is None:
                    assert size_of(whole) or any(map(size_of, together[:place])), "only bodies take room"
                else:
                    assert page == whole[: len(page)]
                    assert bool(page) == bool(whole), "empty only where there is nothing"
            assert sum(map(size_of, together)) < ROOM_OF_ALL + ROOM_OF_A_PAGE + SIZES["huge"]
            if not {"large", "huge"} & {kind for of_user in kinds.values() for kind in of_user}:
                assert None not in together or sum(map(size_of, alone)) >= ROOM_OF_ALL
            await _all_get_all(conn, stories, limit)
    finally:
        await story.rollback()


async def _all_get_all(conn: asyncpg.Connection, stories: Stories, limit: int) -> None:
    """Who asks again until there is no more has everything, in order and once."""
    got: Stories = {user: [] for user in stories}
    waiting = list(stories)
    while waiting:
        asked = [(user, len(got[user]), len(stories[user])) for user in waiting]
        for user, page in zip(tuple(waiting), await inbox.list_pages(conn, asked, limit), strict=True):
            got[user] += page or []
            if page == []:
                waiting.remove(user)
    assert got == stories


async def test_the_same_inbox_can_be_asked_for_twice(conn: asyncpg.Connection) -> None:
    stories = await store(conn, {1: ["own", "small", "entry"], 2: ["small"]})
    one = stories[1]
    pages = await inbox.list_pages(conn, [(1, 0, 3), (2, 0, 1), (1, 1, 3), (1, 0, 2), (404, 0, 9), (1, 3, 3)], 10)
    assert pages == [one, stories[2], one[1:], one[:2], [], []]


async def test_a_body_that_all_have_is_fetched_once(conn: asyncpg.Connection) -> None:
    await store(conn, {user: ["small"] for user in USERS})
    pages = await inbox.list_pages(conn, [(user, 0, 1) for user in USERS], 10)
    assert len({id(event.body) for page in pages for event in page or () if isinstance(event, SharedEvent)}) == 1


async def test_a_large_body_fills_few_pages_at_once_however_many_want_it(conn: asyncpg.Connection) -> None:
    """It is read once, but each reader's envelope holds it."""
    with little_room():
        stories = await store(conn, {user: ["large"] for user in USERS})
        asked = [(user, 0, 1) for user in (*USERS, *USERS)]
        pages = await inbox.list_pages(conn, asked, 10)
        assert pages == [*stories.values(), None, None, None, None], "four of 40 letters are more than 150"


async def test_what_is_missing_of_one_inbox_is_looked_for_again_for_that_one_alone(conn: asyncpg.Connection) -> None:
    """A gap says that retention came between two statements; here it stays, so that all tries are seen."""
    stories = await store(conn, {1: ["own"] * 4, 2: ["own"] * 4})
    await conn.execute("DELETE FROM inbox WHERE user_id = 2 AND seq = 2")
    watched = Watched(conn)
    pages = await inbox.list_pages(watched, [(1, 0, 4), (2, 0, 4)], 10)  # type: ignore[arg-type]
    assert pages == [stories[1], [stories[2][0], *stories[2][2:]]]
    assert watched.asked == [[1, 2], [2], [2], [2], [2]]


class Watched:
    """A connection that notes whose events are read."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self.asked: list[list[int]] = []

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        if query == inbox.LIST_EVENTS:
            users = args[0]
            assert isinstance(users, list)
            self.asked.append(users)
        return await self._conn.fetch(query, *args)


@pytest.mark.parametrize("rows", [0, 5, 500], ids=["empty", "tiny", "some"])
async def test_a_plan_that_is_kept_goes_by_index_however_small_the_tables_were(
    conn: asyncpg.Connection, dsn: str, rows: int
) -> None:
    """Sessions keep plans: what was quick while a table was a page long took seconds when it had grown."""
    await conn.execute("INSERT INTO heads SELECT g, 1, 1 FROM generate_series(1000, 999 + $1::int) g", rows)
    await conn.execute(
        "INSERT INTO inbox SELECT g, 1, gen_random_uuid(), 'x', NULL, '{}', now() FROM generate_series(1, $1::int) g",
        rows,
    )
    await conn.execute("ANALYZE heads, inbox, wallet_transactions, broadcasts")
    pool = await create_pool(dsn, size=1, settings=BY_INDEX | {"plan_cache_mode": "force_generic_plan"})
    async with pool.acquire() as kept:
        for number, (query, given) in enumerate(
            [
                (inbox.LIST_EVENTS, "'{1,2}', '{0,0}', '{1,1}', 500"),
                (inbox.LIST_ENTRIES, "'{1,2}', '{0,0}', '{1,1}', 500"),
                (broadcasts.LIST_BODIES, "'{1,2}', 1000"),
            ]
        ):
            await kept.execute(f"PREPARE kept_{number} AS {query}")
            plan = "\n".join(row[0] for row in await kept.fetch(f"EXPLAIN EXECUTE kept_{number}({given})"))
            assert "Index Scan using" in plan, plan
            assert "Seq Scan" not in plan, plan
    await pool.close()

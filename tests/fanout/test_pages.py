"""Pages read together: who is in which statement, and what a failing one costs. Delivery with them is in
test_delivery.py and test_delivery_simulation.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fanout import pages as pages_module
from fanout.cursor import Cursor
from fanout.pages import READERS, Page, Pages, ReadFailed, Wanted
from tests.fanout.sinks import Recorder, Tasks

LIMIT = 3


class Database:
    """Statements that wait to be answered. Each user's events are those that are asked for."""

    def __init__(self) -> None:
        self.statements: list[tuple[Sequence[Wanted], asyncio.Future[list[Page | None]]]] = []
        self.asked: list[list[int]] = []  # the users of each statement so far
        self.tasks = Tasks()
        self.pages = Pages(read_pages=self.read, spawn=self.tasks, limit=LIMIT)

    async def read(self, wanted: Sequence[Wanted], limit: int) -> list[Page | None]:
        assert limit == LIMIT
        answer: asyncio.Future[list[Page | None]] = asyncio.get_running_loop().create_future()
        self.statements.append((wanted, answer))
        self.asked.append([user_id for user_id, _, _ in wanted])
        return await answer

    def answer(self, *left_out: int) -> None:
        """The oldest statement that waits, without the pages of these users."""
        wanted, answer = self.statements.pop(0)
        answer.set_result([None if one.user_id in left_out else page_of(one) for one in wanted])

    def fail(self) -> None:
        self.statements.pop(0)[1].set_exception(OSError("the database is away"))

    async def ask(self, *cursors: Cursor) -> list[asyncio.Task[Page]]:
        """Each asks for its next page; returns when nothing moves by itself."""
        asking = [asyncio.create_task(self.pages.next_of(cursor)) for cursor in cursors]
        await settle()
        return asking


def page_of(wanted: Wanted) -> Page:
    return [(seq, b"%d" % seq) for seq in range(wanted.after + 1, wanted.upto + 1)][:LIMIT]


def cursor(user_id: int, *, at: int = 0, head: int = 1) -> Cursor:
    made = Cursor(user_id, Recorder(), "", 0)
    made.at, made.target = at, head
    return made


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def database() -> Database:
    return Database()


async def test_whoever_asks_in_the_same_moment_shares_a_statement(database: Database) -> None:
    asking = await database.ask(cursor(1), cursor(2, at=4, head=6), cursor(1, head=9))
    assert [wanted for wanted, _ in database.statements] == [[(1, 0, 1), (2, 4, 6), (1, 0, 9)]]
    database.answer()
    assert [await each for each in asking] == [
        [(1, b"1")],
        [(5, b"5"), (6, b"6")],
        [(1, b"1"), (2, b"2"), (3, b"3")],
    ]
    await settle()
    assert not database.tasks.running, "readers live only while somebody waits"


async def test_a_statement_is_bounded_and_so_is_their_number(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of long inboxes it holds one page each, so few fit; of short ones many."""
    monkeypatch.setattr(pages_module, "EVENTS_AT_ONCE", 6)
    long, short = [cursor(user, head=1000) for user in range(10)], [cursor(user) for user in range(10, 20)]
    asking = await database.ask(*long, *short)
    while database.statements:
        assert len(database.statements) <= READERS
        database.answer()
        await settle()
    assert database.asked == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11, 12, 13, 14, 15], [16, 17, 18, 19]]
    assert [len(await each) for each in asking] == [LIMIT] * 10 + [1] * 10


async def test_those_who_come_while_all_readers_are_busy_are_gathered(database: Database) -> None:
    for user in range(5):
        await database.ask(cursor(user))
    assert database.asked == [[0], [1]]
    database.answer()
    await settle()
    assert database.asked == [[0], [1], [2, 3, 4]]


async def test_a_long_inbox_waits_for_its_next_page_behind_all_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module, "EVENTS_AT_ONCE", 3)
    long = cursor(1, head=1000)

    async def pump() -> None:
        while True:
            long.at += len(await database.pages.next_of(long))

    pumping = asyncio.create_task(pump())
    await database.ask(*(cursor(user, head=3) for user in range(2, 8)))
    for _ in range(8):
        database.answer()
        await settle()
    # Its second page was asked for when the first was answered: behind all who waited by then.
    assert database.asked[:8] == [[1], [2], [3], [4], [5], [6], [7], [1]]
    pumping.cancel()


async def test_a_failing_statement_fails_only_those_in_it(database: Database) -> None:
    in_it = await database.ask(cursor(1), cursor(2))
    [beside], [behind] = await database.ask(cursor(3)), await database.ask(cursor(4))
    database.fail()
    await settle()
    for each in in_it:
        with pytest.raises(ReadFailed, match=r"^OSError$"):
            await each
    [again] = await database.ask(cursor(1))
    while database.statements:
        database.answer()
        await settle()
    assert [await each for each in (beside, behind, again)] == [[(1, b"1")]] * 3
    assert database.asked == [[1, 2], [3], [4], [1]]


async def test_an_answer_that_does_not_fit_is_a_failure_and_nobody_waits_for_ever(database: Database) -> None:
    asking = await database.ask(cursor(1), cursor(2))
    database.statements.pop()[1].set_result([[(1, b"1")]])
    await settle()
    assert [each.done() for each in asking] == [True, True]
    assert isinstance(asking[1].exception(), ReadFailed)


async def test_who_found_no_room_is_read_next_before_all_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module, "EVENTS_AT_ONCE", 4)
    asking = await database.ask(*(cursor(user) for user in range(1, 13)))
    database.answer(2, 4)
    await settle()
    assert database.asked == [[1, 2, 3, 4], [5, 6, 7, 8], [2, 4, 9, 10]]
    while database.statements:
        database.answer()
        await settle()
    assert [await each for each in asking] == [[(1, b"1")]] * 12


async def test_for_one_that_has_gone_nothing_is_read(database: Database) -> None:
    for user in range(READERS):  # all of them are busy
        await database.ask(cursor(user))
    here, gone, given_up = cursor(10), cursor(11), cursor(12)
    asking = await database.ask(here, gone, given_up)
    gone.gone = True
    asking[2].cancel()
    database.answer()
    await settle()
    assert database.asked[-1] == [10]
    assert await asking[1] == []


async def test_where_all_have_gone_there_is_no_statement(database: Database) -> None:
    one = cursor(1)
    asking = asyncio.create_task(database.pages.next_of(one))
    await asyncio.sleep(0)
    one.gone = True
    assert await asking == []
    assert database.asked == []
    [again] = await database.ask(cursor(2))
    database.answer()
    assert await again == [(1, b"1")], "the next one is read as ever"


async def test_who_goes_while_it_is_read_disturbs_nobody(database: Database) -> None:
    asking = await database.ask(cursor(1), cursor(2))
    asking[0].cancel()
    await settle()
    database.answer()
    assert await asking[1] == [(1, b"1")]
    await settle()
    assert not database.tasks.running
    assert not database.tasks.failures

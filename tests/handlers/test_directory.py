"""The directory's deeds against the real database: who is created, shown, refused."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from handlers.caller import Caller
from handlers.directory.handler import DirectoryHandler
from handlers.directory.rules import creates_user, distinct_roles
from handlers.directory.wire import PutUserRequest, PutVideoRequest
from handlers.errors import Refusal


@pytest.fixture
def directory(pool: asyncpg.Pool) -> DirectoryHandler:
    return DirectoryHandler(pool=pool, create_unknown=True)


def caller(user_id: int | None, *roles: str) -> Caller:
    return Caller(subject=str(user_id), user_id=user_id, roles=frozenset(roles))


@pytest.mark.parametrize(
    ("is_backend", "create_unknown", "expected"),
    [(False, True, True), (False, False, False), (True, True, False), (True, False, False)],
)
def test_who_creates_a_user(is_backend: bool, create_unknown: bool, expected: bool) -> None:
    assert creates_user(is_backend=is_backend, create_unknown=create_unknown) is expected


def test_roles_are_kept_once() -> None:
    assert distinct_roles(["viewer", "creator", "viewer"]) == ["viewer", "creator"]


async def test_put_then_get(directory: DirectoryHandler) -> None:
    request = PutUserRequest(username="john", display_name="John", email=None, roles=["creator", "creator"], version=3)
    put = await directory.put_user(7, request, "crm")
    assert (put, 0) == await directory.get_user(7)
    assert (put.id, put.username, put.display_name, put.email, put.roles, put.version) == (
        7, "john", "John", None, ["creator"], 3,
    )  # fmt: skip
    assert (await directory.put_user(7, PutUserRequest(display_name=None), "crm")).display_name is None


async def test_a_new_user_needs_a_name(directory: DirectoryHandler) -> None:
    with pytest.raises(Refusal) as refused:
        await directory.put_user(7, PutUserRequest(email="a@b"), "crm")
    assert (refused.value.code, refused.value.field) == ("invalid_payload", "username")


async def test_me_is_created_once_and_by_the_tokens_name(directory: DirectoryHandler) -> None:
    answers = await asyncio.gather(*(directory.get_me(caller(7, "viewer"), "john") for _ in range(5)))
    assert {(me.id, me.username, seq) for me, seq in answers} == {(7, "john", 0)}
    assert (await directory.get_me(caller(8), None))[0].username == "user_8"


@pytest.mark.parametrize(
    ("who", "create_unknown", "code"),
    [
        (caller(7, "service"), True, "not_found"),
        (caller(7, "admin", "viewer"), False, "not_found"),
        (caller(None, "service"), True, "not_found"),
        (caller(7, "viewer"), False, "unauthorized"),
    ],
)
async def test_me_creates_nobody_else(pool: asyncpg.Pool, who: Caller, create_unknown: bool, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        await DirectoryHandler(pool=pool, create_unknown=create_unknown).get_me(who, None)
    assert refused.value.code == code
    assert await pool.fetchval("SELECT count(*) FROM users") == 0


async def test_a_backend_that_is_a_user_is_shown(directory: DirectoryHandler) -> None:
    await directory.put_user(7, PutUserRequest(username="root"), "crm")
    assert (await directory.get_me(caller(7, "admin"), None))[0].username == "root"


async def test_a_video_and_its_owner(directory: DirectoryHandler) -> None:
    with pytest.raises(Refusal) as refused:
        await directory.put_video("v", PutVideoRequest(owner_id=7, title="Dance"))
    assert (refused.value.code, refused.value.field) == ("not_found", "ownerId")
    await directory.put_user(7, PutUserRequest(username="john"), "crm")
    await directory.put_user(8, PutUserRequest(username="jane"), "crm")
    for incomplete, field in ((PutVideoRequest(owner_id=7), "title"), (PutVideoRequest(title="Dance"), "ownerId")):
        with pytest.raises(Refusal) as refused:
            await directory.put_video("v", incomplete)
        assert (refused.value.code, refused.value.field) == ("invalid_payload", field)
    put = await directory.put_video("v", PutVideoRequest(owner_id=7, title="Dance"))
    assert put == await directory.get_video("v")
    assert (await directory.put_video("v", PutVideoRequest(owner_id=8))).owner_id == 8
    assert (await directory.get_video("v")).title == "Dance"


async def test_a_hand_over_waits_for_the_owners_head(directory: DirectoryHandler, pool: asyncpg.Pool) -> None:
    for user_id in (7, 8):
        await directory.put_user(user_id, PutUserRequest(username="x"), "crm")
    await directory.put_video("v", PutVideoRequest(owner_id=7, title="Dance"))
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM heads WHERE user_id = 7 FOR NO KEY UPDATE")
        hand_over = asyncio.ensure_future(directory.put_video("v", PutVideoRequest(owner_id=8)))
        await directory.put_video("v", PutVideoRequest(title="New title"))  # needs no head
        await asyncio.sleep(0.05)
        assert not hand_over.done()
    assert (await hand_over).owner_id == 8


async def test_a_video_is_deleted_once_and_put_again(directory: DirectoryHandler) -> None:
    for user_id in (7, 8):
        await directory.put_user(user_id, PutUserRequest(username="x"), "crm")
    await directory.put_video("v", PutVideoRequest(owner_id=7, title="Dance"))
    await directory.delete_video("v", "crm")
    for deed in (directory.delete_video("v", "crm"), directory.get_video("v")):
        with pytest.raises(Refusal) as refused:
            await deed
        assert refused.value.code == "not_found"
    with pytest.raises(Refusal) as refused:
        await directory.put_video("v", PutVideoRequest(title="Back"))
    assert (refused.value.code, refused.value.field) == ("invalid_payload", "ownerId")
    back = await directory.put_video("v", PutVideoRequest(owner_id=8, title="Back"))
    assert (back.owner_id, back.title) == (8, "Back")


async def test_to_put_a_deleted_video_under_another_waits_for_its_owner_s_head(
    directory: DirectoryHandler, pool: asyncpg.Pool
) -> None:
    """What it still owes is settled under that head."""
    for user_id in (7, 8):
        await directory.put_user(user_id, PutUserRequest(username="x"), "crm")
    await directory.put_video("v", PutVideoRequest(owner_id=7, title="Dance"))
    await directory.delete_video("v", "crm")
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM heads WHERE user_id = 7 FOR NO KEY UPDATE")
        put = asyncio.ensure_future(directory.put_video("v", PutVideoRequest(owner_id=8, title="Back")))
        await _somebody_waits(conn)
        assert not put.done()
    assert (await put).owner_id == 8


async def test_a_video_that_is_just_being_uploaded_is_handed_over_under_its_owner_s_head(
    directory: DirectoryHandler, pool: asyncpg.Pool
) -> None:
    for user_id in (7, 8):
        await directory.put_user(user_id, PutUserRequest(username="x"), "crm")
    async with pool.acquire() as uploading, pool.acquire() as holding, holding.transaction():
        await holding.execute("SELECT FROM heads WHERE user_id = 7 FOR NO KEY UPDATE")
        transaction = uploading.transaction()
        await transaction.start()
        await uploading.execute("INSERT INTO videos (id, owner_id, title) VALUES ('v', 7, 'Mine')")
        put = asyncio.ensure_future(directory.put_video("v", PutVideoRequest(owner_id=8, title="Put")))
        await _somebody_waits(holding)
        await transaction.commit()
        await _somebody_waits(holding)
        assert (await holding.fetchval("SELECT owner_id FROM videos"), put.done()) == (7, False)
    assert (await put).owner_id == 8


async def _somebody_waits(conn: asyncpg.Connection) -> None:
    async with asyncio.timeout(10):
        while not await conn.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0.01)


async def test_suspensions_and_deleted_videos_are_logged_with_whoever_did_it(
    directory: DirectoryHandler, conn: asyncpg.Connection
) -> None:
    async def put(who: str, **fields: Any) -> None:
        await directory.put_user(7, PutUserRequest(**fields), who)

    await put("crm", username="ann", version=5)
    await put("mod", status="suspended", version=6)
    await put("crm", status="suspended", version=7)
    await put("crm", status="active", version=1)
    await put("mod", status="active", version=8)
    await directory.put_video("v", PutVideoRequest(owner_id=7, title="V"))
    await directory.delete_video("v", "mod")
    with pytest.raises(Refusal):
        await directory.delete_video("v", "crm")
    rows = await conn.fetch(
        "SELECT who, what, target, before ->> 'status', after ->> 'status' FROM audit_log ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [
        ("mod", "user:status", "user:7", "active", "suspended"),
        ("mod", "user:status", "user:7", "suspended", "active"),
        ("mod", "video:delete", "video:v", None, None),
    ]

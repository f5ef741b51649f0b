"""Many users and videos at once: right rows are applied, wrong ones named, and it comes to what single PUTs come to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gateway.http.bulk import MOST_ROWS, bulk_routes
from handlers.directory.bulk import BulkHandler
from storage.audit import audit
from tests.support.site import USER, Site, problem_of, serving


@pytest.fixture
async def bulk(pool: asyncpg.Pool, conn: asyncpg.Connection) -> AsyncIterator[Site]:
    handler = BulkHandler(pool=pool, follows_count=False)
    async with serving(pool, extra=lambda door: bulk_routes(door, handler)) as site:
        yield site
    assert await audit(conn) == []


async def put(site: Site, kind: str, *rows: Any) -> tuple[int, int, list[tuple[int, str, str | None]]]:
    """(changed, unchanged, [(index, code, field)])"""
    response = await site.ask("POST", f"/v1/{kind}/bulk", json={kind: list(rows)})
    assert response.status == 200, await response.text()
    body = await response.json()
    assert set(body) == {"changed", "unchanged", "errors"}
    return body["changed"], body["unchanged"], [(e["index"], e["code"], e.get("field")) for e in body["errors"]]


async def get(site: Site, path: str) -> Any:
    return await (await site.ask("GET", path)).json()


async def test_right_rows_are_applied_and_wrong_ones_named(bulk: Site) -> None:
    rows = [
        {"id": 1, "username": "ada", "followersCount": 1000, "roles": ["creator"]},
        {"id": 2},  # nobody is created without a name
        {"id": 0, "username": "zero"},
        {"username": "nobody"},
        {"id": 3, "username": "eve", "shoeSize": 43},
        "text",
        {"id": 4, "username": "bob", "email": "bob@example.org", "version": 3},
    ]
    assert await put(bulk, "users", *rows) == (2, 0, [
        (1, "invalid_payload", "username"), (2, "invalid_payload", "id"), (3, "invalid_payload", "id"),
        (4, "invalid_payload", "shoeSize"), (5, "invalid_payload", None),
    ])  # fmt: skip
    assert (await get(bulk, "/v1/users/1"))["followersCount"] == 1000
    assert (await get(bulk, "/v1/users/4"))["email"] == "bob@example.org"
    for absent in (2, 3):
        await problem_of(await bulk.ask("GET", f"/v1/users/{absent}"), 404, "not_found")


async def test_what_is_so_already_or_older_is_unchanged(bulk: Site) -> None:
    ada = {"id": 1, "username": "ada", "displayName": "Ada", "version": 5}
    assert await put(bulk, "users", ada) == (1, 0, [])
    assert await put(bulk, "users", ada, {"id": 1}) == (0, 2, [])
    assert await put(bulk, "users", ada | {"version": 4, "displayName": "Older"}) == (0, 1, [])
    assert await put(bulk, "users", {"id": 1, "displayName": None}) == (1, 0, [])
    assert (await get(bulk, "/v1/users/1"))["displayName"] is None


async def test_rows_of_one_id_count_in_their_order(bulk: Site) -> None:
    rows = [{"id": 1, "followersCount": 1}, {"id": 1, "username": "ada"}, {"id": 1, "username": "ada l."}]
    assert await put(bulk, "users", *rows) == (2, 0, [(0, "invalid_payload", "username")])
    user = await get(bulk, "/v1/users/1")
    assert (user["username"], user["followersCount"]) == ("ada l.", 0)


async def test_videos(bulk: Site) -> None:
    await put(bulk, "users", {"id": 1, "username": "ada"}, {"id": 2, "username": "bob"})
    rows = [
        {"id": "a", "ownerId": 1, "title": "A"},
        {"id": "b", "ownerId": 9, "title": "B"},
        {"id": "c", "ownerId": 1},
        {"id": "d", "title": "D"},
        {"id": "x" * 65, "ownerId": 1, "title": "X"},
        {"id": "a", "title": "A again"},
    ]
    assert await put(bulk, "videos", *rows) == (2, 0, [
        (1, "not_found", "ownerId"), (2, "invalid_payload", "title"), (3, "invalid_payload", "ownerId"),
        (4, "invalid_payload", "id"),
    ])  # fmt: skip
    assert await put(bulk, "videos", {"id": "a", "ownerId": 2}, {"id": "a", "title": "A again"}) == (1, 1, [])
    video = await get(bulk, "/v1/videos/a")
    assert (video["ownerId"], video["title"]) == (2, "A again")
    assert (await bulk.ask("DELETE", "/v1/videos/a")).status == 204
    assert await put(bulk, "videos", {"id": "a", "title": "Gone"}) == (0, 0, [(0, "invalid_payload", "ownerId")])
    assert await put(bulk, "videos", {"id": "a", "ownerId": 1, "title": "Back"}) == (1, 0, [])
    assert (await get(bulk, "/v1/videos/a"))["title"] == "Back"


async def test_a_thousand_rows_and_not_one_more(bulk: Site) -> None:
    users = [{"id": number, "username": f"u{number}"} for number in range(1, MOST_ROWS + 1)]
    assert await put(bulk, "users", *users) == (MOST_ROWS, 0, [])
    videos = [{"id": f"v{number}", "ownerId": number, "title": "T"} for number in range(1, MOST_ROWS + 1)]
    assert await put(bulk, "videos", *videos) == (MOST_ROWS, 0, [])
    more = await bulk.ask("POST", "/v1/users/bulk", json={"users": [*users, {"id": 5000, "username": "more"}]})
    await problem_of(more, 413, "payload_too_large", "users")
    await problem_of(await bulk.ask("GET", "/v1/users/5000"), 404, "not_found")
    assert await put(bulk, "users") == (0, 0, [])


async def test_for_backends_only(bulk: Site) -> None:
    await problem_of(await bulk.ask("POST", "/v1/users/bulk", "7", json={"users": []}), 403, "forbidden")
    await problem_of(await bulk.ask("POST", "/v1/videos/bulk", "7", json={"videos": []}), 403, "forbidden")


@pytest.mark.parametrize("seed", range(4))
async def test_bulks_come_to_what_single_puts_come_to(bulk: Site, seed: int) -> None:
    chance = random.Random(seed)
    rows = [_user(chance) for _ in range(60)]
    for at in range(0, len(rows), 7):
        await put(bulk, "users", *rows[at : at + 7])
    for row in rows:
        user = {**row, "id": row["id"] + 100}
        await bulk.ask("PUT", f"/v1/users/{user.pop('id')}", json=user)
    for number in range(1, 6):
        one, other = await get(bulk, f"/v1/users/{number}"), await get(bulk, f"/v1/users/{number + 100}")
        assert {**one, "id": 0} == {**other, "id": 0}


def _user(chance: random.Random) -> dict[str, Any]:
    fields = {
        "username": chance.choice(["a", "b", "c"]), "displayName": chance.choice([None, "D", "E"]),
        "followersCount": chance.randrange(3), "version": chance.randrange(5), "roles": ["viewer"],
        "status": chance.choice(["active", "suspended"]),
    }  # fmt: skip
    return {"id": chance.randrange(1, 6)} | {name: fields[name] for name in fields if chance.random() < 0.5}


async def test_bulks_at_once_do_not_stop_each_other(bulk: Site) -> None:
    await put(bulk, "users", *[{"id": number, **USER} for number in range(1, 40)])
    await put(bulk, "videos", *[{"id": f"v{number}", "ownerId": 1, "title": "T"} for number in range(40)])

    async def hand_over(seed: int) -> None:
        chance = random.Random(seed)
        rows = [{"id": f"v{chance.randrange(40)}", "ownerId": chance.randrange(1, 40)} for _ in range(60)]
        people = [{"id": number, "followersCount": seed} for number in chance.sample(range(1, 40), 39)]
        _, _, errors = await put(bulk, "videos", *rows)
        assert {code for _, code, _ in errors} <= {"conflict"}
        assert (await put(bulk, "users", *people))[2] == []

    await asyncio.gather(*(hand_over(seed) for seed in range(6)))

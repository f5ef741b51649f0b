"""Who gets past the door and with what; a problem for everything else, and nothing stored."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

import gateway.http.door
from gateway.http.door import MAX_BODY_BYTES
from tests.support.site import USER, Site, problem_of, token_of


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/users/7"), ("GET", "/v1/users/7"), ("GET", "/v1/users/7/wallet"), ("GET", "/v1/users/7/inbox"),
        ("PUT", "/v1/videos/v"), ("GET", "/v1/videos/v"), ("POST", "/v1/events"),
    ],
)  # fmt: skip
async def test_doors_for_backends_only(sealed: Site, method: str, path: str) -> None:
    await problem_of(await sealed.ask(method, path, "7", data=b"not even JSON"), 403, "forbidden")
    anonymous = await sealed.ask(method, path, None)
    await problem_of(anonymous, 401, "unauthorized")
    assert anonymous.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "authorization",
    [
        "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer x", "Bearer a b", "Bearer " + "x" * 5000,
        token_of("7"), f"Bearer {token_of('7', exp=time.time() - 61)}", f"Bearer {token_of('0')}",
        f"Bearer {token_of('7', nbf=time.time() + 600)}", f"Bearer {token_of('7', exp='soon')}",
    ],
)  # fmt: skip
async def test_bad_tokens_are_unauthorized(sealed: Site, authorization: str) -> None:
    response = await sealed.ask("GET", "/v1/me", None, headers={"Authorization": authorization})
    body = await problem_of(response, 401, "unauthorized")
    assert not body["retryable"]
    assert len(authorization) < 20 or authorization[7:] not in json.dumps(body)
    query = await sealed.ask("GET", f"/v1/me?token={token_of('7')}&access_token={token_of('7')}", None)
    await problem_of(query, 401, "unauthorized")


async def test_two_authorizations_are_none(sealed: Site) -> None:
    both = [("Authorization", f"Bearer {token_of('7')}"), ("Authorization", f"Bearer {token_of('8')}")]
    await problem_of(await sealed.client.get("/v1/me", headers=both), 401, "unauthorized")


async def test_http_takes_a_token_a_little_after_its_end(site: Site) -> None:
    token = token_of("7", exp=time.time() - 30)
    assert (await site.ask("GET", "/v1/me", None, headers={"Authorization": f"Bearer {token}"})).status == 200


@pytest.mark.parametrize("roles", [["viewer"], ["service"], ["admin"]])
async def test_a_suspended_user_is_forbidden(site: Site, roles: list[str]) -> None:
    await site.ask("PUT", "/v1/users/7", json={**USER, "status": "suspended"})
    headers = {"Authorization": f"Bearer {token_of('7', roles=roles)}"}
    await problem_of(await site.ask("GET", "/v1/me", None, headers=headers), 403, "forbidden")
    await site.ask("PUT", "/v1/users/7", json={"status": "active"})
    assert (await site.ask("GET", "/v1/me", None, headers=headers)).status == 200


BAD_USERS: list[tuple[bytes | dict[str, Any], str | None]] = [
    (b"", None),
    (b"not json", None),
    (b"\xff\xfe", None),
    (b"[" * 100_000, None),
    (b"[]", None),
    (b"null", None),
    (b'{"username":"a"} x', None),
    (b'{"username":"a","displayName":NaN}', "displayName"),
    (b'{"username":"\\ud800"}', None),
    (b'{"username":"\xff"}', None),
    ({"username": None}, "username"),
    ({"username": ""}, "username"),
    ({"username": 7}, "username"),
    ({"username": "x" * 101}, "username"),
    ({"username": "a\0b"}, "username"),
    ({**USER, "displayName": "a\0b"}, "displayName"),
    ({**USER, "email": "nobody"}, "email"),
    ({**USER, "email": "a@b\0"}, "email"),
    ({**USER, "pictureUrl": "x" * 2049}, "pictureUrl"),
    ({**USER, "roles": "viewer"}, "roles"),
    ({**USER, "roles": ["king"]}, "roles"),
    ({**USER, "roles": ["viewer,admin"]}, "roles"),
    ({**USER, "status": "deleted"}, "status"),
    ({**USER, "followingCount": -1}, "followingCount"),
    ({**USER, "followingCount": 1.5}, "followingCount"),
    ({**USER, "followingCount": "1"}, "followingCount"),
    ({**USER, "followingCount": True}, "followingCount"),
    ({**USER, "followersCount": 2**53}, "followersCount"),
    ({**USER, "followersCount": 10**30}, "followersCount"),
    ({**USER, "version": 2**63}, "version"),
    ({**USER, "display_name": "John"}, "display_name"),
    ({**USER, "id": 7}, "id"),
    ({**USER, "nobody": 1}, "nobody"),
]


@pytest.mark.parametrize(("body", "field"), BAD_USERS)
async def test_bad_users_are_refused_by_the_field_and_stored_nowhere(
    sealed: Site, body: bytes | dict[str, Any], field: str | None
) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await sealed.ask("PUT", "/v1/users/7", data=raw, headers={"Content-Type": "application/json"})
    await problem_of(response, 400, "invalid_payload", field)


async def test_a_new_user_without_a_name_is_stored_nowhere(site: Site, pool: asyncpg.Pool) -> None:
    await problem_of(await site.ask("PUT", "/v1/users/7", json={}), 400, "invalid_payload", "username")
    assert await pool.fetchval("SELECT count(*) FROM heads") == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ownerId": "7", "title": "x"}, "ownerId"), ({"ownerId": 0, "title": "x"}, "ownerId"),
        ({"ownerId": None, "title": "x"}, "ownerId"), ({"ownerId": 7, "title": ""}, "title"),
        ({"ownerId": 7, "title": "a\0b"}, "title"), ({"ownerId": 7, "title": "x" * 501}, "title"),
        ({"ownerId": 7, "title": "x", "totalLikes": 9}, "totalLikes"),
    ],
)  # fmt: skip
async def test_bad_videos(sealed: Site, body: dict[str, Any], field: str) -> None:
    await problem_of(await sealed.ask("PUT", "/v1/videos/v", json=body), 400, "invalid_payload", field)


async def test_a_new_video_needs_owner_and_title(site: Site) -> None:
    await site.ask("PUT", "/v1/users/7", json=USER)
    await problem_of(await site.ask("PUT", "/v1/videos/v", json={"title": "x"}), 400, "invalid_payload", "ownerId")
    await problem_of(await site.ask("PUT", "/v1/videos/v", json={"ownerId": 7}), 400, "invalid_payload", "title")
    await problem_of(await site.ask("GET", "/v1/videos/v"), 404, "not_found")


@pytest.mark.parametrize(
    "user_id", ["0", "007", "-7", "7.0", "abc", "9007199254740992", "9" * 400, "%D9%A7", "7%00", "%20 7"]
)
@pytest.mark.parametrize("tail", ["", "/wallet", "/inbox"])
async def test_bad_user_ids(sealed: Site, user_id: str, tail: str) -> None:
    await problem_of(await sealed.ask("GET", f"/v1/users/{user_id}{tail}"), 400, "invalid_payload", "id")


@pytest.mark.parametrize("video_id", ["x" * 65, "a%00b", "%00"])
async def test_bad_video_ids(sealed: Site, video_id: str) -> None:
    await problem_of(await sealed.ask("GET", f"/v1/videos/{video_id}"), 400, "invalid_payload", "id")


async def test_odd_video_ids_are_only_unknown(site: Site) -> None:
    for video_id in ("x" * 64, "%FF", "%ED%A0%80", "%F0%9F%91%8F", "a%20b", "%25", "{a}", "'; --"):
        await problem_of(await site.ask("GET", f"/v1/videos/{video_id}"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/users/7", {"GET", "HEAD", "PUT"}),
        ("POST", "/v1/users/7", {"GET", "HEAD", "PUT"}),
        ("GET", "/v1/events", {"POST"}),
        ("POST", "/v1/me", {"GET", "HEAD"}),
        ("OPTIONS", "/v1/me", {"GET", "HEAD"}),
        ("PATCH", "/v1/me", {"GET", "HEAD"}),
    ],
)
async def test_wrong_methods_name_the_right_ones(sealed: Site, method: str, path: str, allow: set[str]) -> None:
    response = await sealed.ask(method, path)
    await problem_of(response, 405, "invalid_payload")
    assert set(response.headers["Allow"].split(",")) == allow


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/nothing", "/v1/users", "/v1/users/", "/v1/users/7/", "/nothing", "/"]
)
async def test_unknown_paths(sealed: Site, path: str) -> None:
    await problem_of(await sealed.ask("GET", path), 404, "not_found")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"}, {"Content-Type": "application/json-seq"}, {"Content-Type": "application/xml"},
        {"Content-Type": ""}, {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)  # fmt: skip
async def test_other_content_types(sealed: Site, headers: dict[str, str]) -> None:
    response = await sealed.ask(
        "PUT", "/v1/users/7", data=b'{"username":"a"}', headers=headers, skip_auto_headers=["Content-Type"]
    )
    await problem_of(response, 415, "invalid_payload")


async def test_a_charset_is_no_other_content_type(site: Site) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert (await site.ask("PUT", "/v1/users/7", data=b'{"username":"a"}', headers=headers)).status == 200


async def test_bodies_have_a_bound(sealed: Site) -> None:
    headers = {"Content-Type": "application/json"}
    at_most = b'{"username":"' + b"x" * (MAX_BODY_BYTES - 15) + b'"}'
    await problem_of(
        await sealed.ask("PUT", "/v1/users/7", data=at_most, headers=headers), 400, "invalid_payload", "username"
    )
    await problem_of(
        await sealed.ask("PUT", "/v1/users/7", data=at_most + b" ", headers=headers), 413, "payload_too_large"
    )

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    await problem_of(await sealed.ask("PUT", "/v1/users/7", data=chunks(), headers=headers), 413, "payload_too_large")


async def test_a_body_that_never_arrives(sealed: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.http.door, "BODY_PATIENCE_S", 0.05)

    async def forever() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    response = await sealed.ask("PUT", "/v1/users/7", data=forever(), headers={"Content-Type": "application/json"})
    await problem_of(response, 408, "invalid_payload")


@pytest.mark.parametrize(("expect", "status"), [("100-continue", 200), ("200-ok", 417)])
async def test_expectations(site: Site, expect: str, status: int) -> None:
    response = await site.ask("PUT", "/v1/users/7", json=USER, headers={"Expect": expect})
    assert response.status == status
    if status == 417:
        await problem_of(response, 417, "invalid_payload")


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abc-123", True), ("x" * 128, True), ("x" * 129, False), ("", False), ("a b", False), ("<script>", False)],
)
async def test_request_ids(sealed: Site, given: str, is_kept: bool) -> None:
    for path, who in (("/v1/users/x", "service"), ("/v1/me", None), ("/v1/nothing", "7"), ("/livez", None)):
        response = await sealed.ask("GET", path, who, headers={"X-Request-Id": given})
        assert (response.headers["X-Request-Id"] == given) is is_kept
        assert response.headers["X-Request-Id"]


async def test_health(sealed: Site) -> None:
    for path in ("/livez", "/readyz"):
        response = await sealed.ask("GET", path, None)
        assert (response.status, await response.json()) == (200, {"status": "ok", "problems": []})
    sealed.problems = ["database away"]
    unready = await sealed.ask("GET", "/readyz", None)
    assert (unready.status, await unready.json()) == (503, {"status": "unready", "problems": ["database away"]})
    sealed.problems, sealed.is_draining = [], True
    assert (await sealed.ask("GET", "/readyz", None)).status == 503
    assert (await sealed.ask("GET", "/livez", None)).status == 200

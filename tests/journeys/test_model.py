"""Any mix of all verbs, retried at random through any door and node, equals a naive model."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import jwt
import pytest

from storage.audit import audit
from tests.support.clients import Phone
from tests.support.cluster import SECRET, NodeProcess, cluster
from tests.support.crowd import token_for
from tests.support.model import CREATOR_FROM, VIEWER_FROM, Model, Person, Refused

VIEWERS, CREATORS, SUSPENDED = (11, 12, 13, 14), (21, 22), 31
STEPS: Final = 220
REPEATED: Final = 0.3  # sent more than once at the same time
AGAIN: Final = 0.1  # some earlier action instead of a new one
KEPT_CODES: Final = frozenset({"insufficient_funds", "fraud_blocked", "forbidden", "conflict"})
FOR_BACKENDS: Final = {"wallet:deduct": "deductions", "wallet:correct": "corrections"}


def people() -> dict[int, Person]:
    """Viewers (one of them follows too few), creators (one is followed by too few), and somebody suspended."""
    made = {user: Person(VIEWER_FROM - (user == VIEWERS[-1]), 0) for user in VIEWERS}
    made |= {user: Person(0, CREATOR_FROM - (user == CREATORS[-1])) for user in CREATORS}
    return made | {SUSPENDED: Person(0, 0, suspended=True)}


class World:
    """Two nodes, each user's phone on both, and HTTP."""

    def __init__(self, nodes: list[NodeProcess], http: aiohttp.ClientSession) -> None:
        self.nodes = nodes
        self.phones: dict[tuple[int, int], Phone] = {}
        self._http = http
        now = {"exp": 2**33, "roles": ["service"]}
        self._backend = jwt.encode({"sub": "backend", **now}, SECRET, algorithm="HS256")

    async def put(self, path: str, body: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {self._backend}"}
        async with self._http.put(self.nodes[0].url + path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()

    async def act(self, user: int, event: str, payload: dict[str, Any], door: int) -> dict[str, Any]:
        """Through door 0 or 1, a socket of that node, or 2 or 3, its HTTP. The acknowledgement."""
        if event in FOR_BACKENDS:
            path, token = f"/v1/wallet/{FOR_BACKENDS[event]}", self._backend
        elif door < 2:
            answer: dict[str, Any] = await self.phones[user, door].call(event, payload)
            return answer
        else:
            path, token = f"/v1/actions/{event}", token_for(user, SECRET)
        headers = {"Authorization": f"Bearer {token}"}
        async with self._http.post(self.nodes[door % 2].url + path, json=payload, headers=headers) as response:
            body: dict[str, Any] = await response.json()
            return body if response.status == 200 else {"ok": False, "error": body, "replayed": body.get("replayed")}


@pytest.mark.parametrize(("seed", "bus"), [(1, "postgres"), (2, "kafka"), (3, "postgres")], indirect=["bus"])
async def test_everything_equals_a_naive_model(
    dsn: str, conn: asyncpg.Connection, tmp_path: Path, seed: int, bus: dict[str, object]
) -> None:
    chance = random.Random(seed)
    model = Model(people(), {"v1": CREATORS[0], "v2": CREATORS[0], "v3": CREATORS[1]}, {"rose": 150, "car": 99_999})
    async with world(dsn, tmp_path, model, bus) as stage:
        history: list[tuple[int, str, dict[str, Any], dict[str, Any]]] = []
        for step in range(STEPS):
            if history and chance.random() < AGAIN:
                user, event, payload, first = chance.choice(history)
                again = await stage.act(user, event, payload, chance.randrange(4))
                assert comparable(again) == first | {"replayed": True}, (user, event, payload)
                continue
            user, event, payload = wish(chance, f"step-{seed}-{step:04}")
            doors = [chance.randrange(4) for _ in range(3 if chance.random() < REPEATED else 1)]
            answers = await asyncio.gather(*(stage.act(user, event, payload, door) for door in doors))
            first = check(model, user, event, payload, answers)
            if first["ok"] or first["error"]["code"] in KEPT_CODES:
                history.append((user, event, payload, first))

        await settled(conn)
        balances = dict(await conn.fetch("SELECT user_id, balance FROM accounts"))
        assert balances == {user: person.balance for user, person in model.people.items()}
        counted = await conn.fetch("SELECT video_id, kind, total FROM video_counters")
        verbs = {1: "video:like", 2: "video:view", 3: "video:share", 4: "video:comment"}
        assert {(video, verbs[kind]): total for video, kind, total in counted} == model.totals
        follows = await conn.fetch("SELECT follower_id, followed_id FROM follows WHERE following")
        assert {tuple(row) for row in follows} == model.follows
        assert await audit(conn) == []
        for user in model.people.keys() - {SUSPENDED}:
            await replay_equals_fetch(stage, user, balances[user])


def wish(chance: random.Random, action_id: str) -> tuple[int, str, dict[str, Any]]:
    """(user, event, payload): now and then of what is not there."""
    video = {"videoId": chance.choice(["v1", "v2", "v3", "v3", "none"])}
    amount = {"amount": chance.choice([0.01, 0.5, 1, 2, 7.25])}
    user = chance.choice(VIEWERS + CREATORS)
    kind = chance.randrange(16)
    if kind < 7:
        event = chance.choice(["video:like", "video:like", "video:unlike", "video:view", "video:share"])
        payload: dict[str, Any] = video
    elif kind < 9:
        event, payload = "video:comment", video | {"text": chance.choice(["nice", "👏🏽", 'a "quote"'])}
    elif kind == 9:
        event, payload = "video:upload", {"videoId": chance.choice(["v1", "u1", "u2"]), "title": "New"}
    elif kind == 10:
        event = chance.choice(["profile:follow", "profile:follow", "profile:unfollow"])
        payload = {"userId": chance.choice([*VIEWERS, *CREATORS, 404])}
    else:
        user = chance.choice(VIEWERS)  # whose balance no settlement changes meanwhile
        event, payload = chance.choice(
            [
                ("wallet:gift", amount | {"toUserId": chance.choice([*VIEWERS, *CREATORS, SUSPENDED, 404])}),
                ("wallet:purchase", {"itemId": chance.choice(["rose", "rose", "car", "none"])}),
                ("wallet:boost", amount | video),
                ("wallet:deduct", amount | {"userId": user, "reason": "Spam"}),
                ("wallet:correct", {"amount": chance.choice([-1, 0.75, 3]), "userId": user, "reason": "Sorry"}),
            ]
        )
    return user, event, payload | {"actionId": action_id}


def check(
    model: Model, user: int, event: str, payload: dict[str, Any], answers: list[dict[str, Any]]
) -> dict[str, Any]:
    """All answers must be the model's, one of them first where the outcome is kept. Returns that one."""
    try:
        expected = {"ok": True, "data": model.act(user, event, payload)}
    except Refused as refused:
        expected = {"ok": False, "error": {"code": str(refused)}}
    found = [comparable(answer) for answer in answers]
    is_kept = expected["ok"] or expected["error"]["code"] in KEPT_CODES
    assert sum("replayed" not in answer for answer in found) == (1 if is_kept else len(found)), (event, answers)
    plain = [{name: value for name, value in answer.items() if name != "replayed"} for answer in found]
    if user in CREATORS and expected["ok"] and (award := expected["data"].get("award")):
        for answer in plain:  # what the settler has not told yet is missing in a creator's own balance
            assert answer["data"]["award"]["newBalance"] <= award["newBalance"]
            answer["data"]["award"]["newBalance"] = award["newBalance"]
    assert all(answer == expected for answer in plain), (user, event, payload, expected, answers)
    return next((comparable(answer) for answer in answers if not answer.get("replayed")), found[0])


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Without texts, and without the ids that only the server knows."""
    if not answer["ok"]:
        plain: dict[str, Any] = {"ok": False, "error": {"code": answer["error"]["code"]}}
    else:
        data = {name: value for name, value in answer["data"].items() if name not in ("commentId", "transactionId")}
        plain = {"ok": True, "data": copy.deepcopy(data)}
    return plain | ({"replayed": True} if answer.get("replayed") else {})


@asynccontextmanager
async def world(dsn: str, folder: Path, model: Model, bus: dict[str, object]) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(cluster(dsn, folder, LIMITS__ACTIONS_PER_SECOND=10_000, **bus))
        stage = World(nodes, await stack.enter_async_context(aiohttp.ClientSession()))
        for user, person in model.people.items():
            fields = {"username": f"user_{user}", "status": "suspended" if person.suspended else "active"}
            counts = {"followingCount": person.follows, "followersCount": person.followers}
            await stage.put(f"/v1/users/{user}", fields | counts)
        for video, owner in model.owners.items():
            await stage.put(f"/v1/videos/{video}", {"ownerId": owner, "title": video.upper()})
        for item, price in model.prices.items():
            await stage.put(f"/v1/items/{item}", {"name": item, "price": price / 100, "currency": "LYK"})
        for user in VIEWERS + CREATORS:
            for number, node in enumerate(nodes):
                phone = stage.phones[user, number] = Phone()
                stack.push_async_callback(phone.close)
                await phone.connect(node.url, {"token": token_for(user, SECRET)})
                await phone.hear("resumed")
        yield stage


async def settled(conn: asyncpg.Connection) -> None:
    async with asyncio.timeout(20):
        while await conn.fetchval("SELECT EXISTS (SELECT FROM accruals)"):
            await asyncio.sleep(0.05)


async def replay_equals_fetch(stage: World, user: int, balance: int) -> None:
    """What both phones heard live is what is replayed to a new one and can be fetched, and it makes the balance."""
    reader = Phone()
    await reader.connect(stage.nodes[0].url, {"token": token_for(user, SECRET), "lastSeq": "0"})
    await reader.hear("resumed")
    replayed = reader.events()
    page = await reader.do("inbox:fetch", afterSeq=0, limit=500)
    assert page["events"] == replayed
    assert [event["seq"] for event in replayed] == list(range(1, len(replayed) + 1))
    for number in (0, 1):
        phone = stage.phones[user, number]
        await phone.caught_up(len(replayed))
        assert phone.events() == replayed
    moved = [event["data"] for event in replayed if event["eventType"].startswith("wallet:")]
    assert all(later["previousBalance"] == earlier["newBalance"] for earlier, later in pairwise(moved))
    assert (moved[-1]["newBalance"] if moved else 0) == balance / 100
    await reader.close()

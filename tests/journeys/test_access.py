"""Who comes in with which token, who is sent away, and that they stay away: over real sockets, on two nodes."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import jwt
import pytest

from storage.audit import audit
from tests.support.clients import Client, JsPhone, Node, Phone, Wire, start_node, wire
from tests.support.cluster import SECRET, NodeProcess, cluster
from tests.support.issuer import Issuer, SigningKey, ec_key, issuing, rsa_key
from tests.support.processes import nothing_broke
from tests.support.server import Answer, running
from tests.support.stage import VIEWER, action_id

WITHIN_S: Final = 5.0  # after a revocation or suspension, all sockets of all nodes
OLD_SECRET: Final = "the secret that was in use before this one"


class Place:
    """Two nodes, an identity provider, phones; and all tokens that were ever made, to look for them in the logs."""

    def __init__(self, nodes: list[NodeProcess], issuer: Issuer, driver: Node) -> None:
        self.nodes = nodes
        self.issuer = issuer
        self._driver = driver
        self._given: list[str] = []
        self._phones: list[Client] = []

    def token(self, subject: object, *roles: str, secret: str = SECRET, **claims: Any) -> str:
        """HS256; None leaves a claim out."""
        now = int(time.time())
        given = {"sub": str(subject), "roles": roles, "iat": now, "exp": now + 600, "jti": uuid.uuid4().hex, **claims}
        given = {name: value for name, value in given.items() if value is not None}
        return self.note(jwt.encode(given, secret, algorithm="HS256"))

    def note(self, token: str) -> str:
        """Remember a token that somebody else made."""
        self._given.append(token)
        return token

    async def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = None, node: int = 0
    ) -> Answer:
        """One HTTP request, by a backend unless `token` says otherwise."""
        headers = {"Authorization": f"Bearer {token or self.token('backend', 'service')}"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.nodes[node].url + path, headers=headers, json=body) as response,
        ):
            content = await response.read()
            return Answer(response.status, json.loads(content) if content else None, response.headers)

    async def knock(self, token: str, node: int = 0, **auth: Any) -> JsPhone:
        """The official client, on its way in."""
        name = f"phone-{len(self._driver.phones)}"
        phone = self._driver.phones[name] = JsPhone(self._driver, name)
        self._phones.append(phone)
        await phone.connect(self.nodes[node].url, {"token": token, **auth})
        return phone

    async def phone(self, token: str, node: int = 0, **auth: Any) -> JsPhone:
        """The official client, connected and resumed."""
        phone = await self.knock(token, node, **auth)
        await phone.hear("resumed")
        return phone

    async def refused(self, token: str, code: str, node: int = 0) -> None:
        """The official client must be told `code`, and stay out."""
        phone = await self.knock(token, node)
        [error] = await phone.hear("connect_error")
        assert error["data"] == {"code": code, "message": error["data"]["message"], "retryable": False}

    async def check(self) -> None:
        """Nothing of any token in any log, no fault, and no socket that reconnected after it was told to stay away."""
        for phone in self._phones:
            codes = [closing["code"] for closing in phone.of("closing")]
            if codes and codes[-1] in ("revoked", "user_suspended"):
                assert len(phone.of("connect")) == 1, "it came back by itself"
        for node in self.nodes:
            nothing_broke(node.log)
            for token in self._given:
                for part in token.split(".")[1:]:
                    assert not part or part[:40] not in node.log, "a token in the log"

    async def close(self) -> None:
        await asyncio.gather(*(phone.close() for phone in self._phones))
        await self._driver.stop()


@asynccontextmanager
async def place(dsn: str, folder: Path, **settings: object) -> AsyncIterator[Place]:
    """Settings may hold `{jwks}` for the provider's address."""
    async with issuing() as issuer:
        filled = {name: str(value).format(jwks=issuer.url) for name, value in settings.items()}
        driver = await start_node()
        async with cluster(dsn, folder, **filled) as nodes:
            made = Place(nodes, issuer, driver)
            try:
                yield made
                await made.check()
            finally:
                await made.close()


async def sent_away(phone: Client, code: str, since: float) -> None:
    """It was told so in time, with a DISCONNECT packet."""
    [closing] = await phone.hear("closing")
    assert (closing["code"], closing["retryable"]) == (code, False)
    assert await phone.hear("disconnect") == ["io server disconnect"]
    assert time.monotonic() - since < WITHIN_S


async def test_published_keys_beside_the_secret(dsn: str, tmp_path: Path) -> None:
    async with place(dsn, tmp_path, AUTH__JWKS_URL="{jwks}") as here:
        issuer = here.issuer
        for token in (here.note(issuer.rsa.token("7")), here.note(issuer.ec.token("8")), here.token(9)):
            phone = await here.phone(token)
            assert phone.welcome["userId"] in (7, 8, 9)
            assert (await here.ask("GET", "/v1/me", token=token)).status == 200
        assert issuer.fetches == 2, "one by each node, at its start"

        # rotation: the new key is found at its first use
        new = SigningKey("rsa-2", rsa_key(1))
        issuer.keys = [new.jwk(), issuer.ec.jwk()]
        phones = await asyncio.gather(*(here.phone(here.note(new.token("7"))) for _ in range(10)))
        assert {phone.welcome["userId"] for phone in phones} == {7}
        assert issuer.fetches == 3
        await here.refused(here.note(issuer.rsa.token("7")), "token_invalid")

        # unknown kids: refused, and the provider does not notice
        strangers = [SigningKey(f"made-up-{number}", rsa_key(2)) for number in range(30)]
        await asyncio.gather(*(here.refused(here.note(each.token("7")), "token_invalid") for each in strangers))
        answers = await asyncio.gather(
            *(here.ask("GET", "/v1/me", token=here.note(each.token("7"))) for each in strangers)
        )
        assert {(answer.status, answer.body["code"]) for answer in answers} == {(401, "unauthorized")}
        assert issuer.fetches == 3

        # the provider is away: what is known goes on, also a refresh on an open socket
        await issuer.close()
        phone = await here.phone(here.note(issuer.ec.token("8")))
        assert await phone.do("auth:refresh", token=here.note(issuer.ec.token("8")))
        for bad in (strangers[0].token("8"), issuer.ec.token("9"), new.token("8", exp=1)):
            await phone.fail("unauthorized", "auth:refresh", {"token": here.note(bad)})
        # algorithm confusion, end to end
        for secret in ("", issuer.rsa.jwk()["n"], SECRET[:-1]):
            forged = jwt.encode({"sub": "7", "exp": time.time() + 60}, secret or None, "HS256" if secret else "none")
            await here.refused(here.note(forged), "token_invalid")


async def test_a_provider_that_hangs_at_the_start(dsn: str, tmp_path: Path) -> None:
    """The nodes start; whom nobody can judge comes back by themselves, and is let in when the keys are there."""
    async with issuing() as issuer:
        issuer.answering.clear()
        before = time.monotonic()
        async with cluster(dsn, tmp_path, nodes=1, AUTH__JWKS_URL=issuer.url) as nodes:
            assert time.monotonic() - before < 10
            driver = await start_node()
            here = Place(nodes, issuer, driver)
            assert (await here.phone(here.token(9))).welcome["userId"] == 9, "the secret needs no provider"
            token = here.note(issuer.rsa.token("7"))
            phone = await here.knock(token)
            answer = await here.ask("GET", "/v1/me", token=token)
            assert (answer.status, answer.body["code"]) == (503, "unavailable")
            assert answer.body["retryable"]
            assert phone.of("welcome") == []
            assert [error["data"] for error in phone.of("connect_error") if error["data"]] == []
            issuer.answering.set()
            await phone.hear("resumed")
            assert phone.welcome["userId"] == 7
            await here.check()
            await here.close()


async def test_somebody_with_a_uuid_is_one_user_everywhere(dsn: str, tmp_path: Path, conn: asyncpg.Connection) -> None:
    async with place(dsn, tmp_path, AUTH__JWKS_URL="{jwks}") as here:
        subject = str(uuid.uuid4())
        fresh = [here.note(here.issuer.ec.token(subject, username="ada")) for _ in range(8)]
        first = await asyncio.gather(*(here.phone(token, number % 2) for number, token in enumerate(fresh)))
        [user] = {phone.welcome["userId"] for phone in first}
        assert 2**52 <= user < 2**53
        me = await here.ask("GET", "/v1/me", token=fresh[0], node=1)
        assert (me.body["id"], me.body["username"]) == (user, "ada")
        other = await here.phone(here.token(subject))  # the same subject of another issuer, which is: of none
        assert other.welcome["userId"] != user

        await here.ask("PUT", f"/v1/users/{user}", {"followingCount": VIEWER})
        await here.ask("PUT", "/v1/users/1", {"username": "owner"})
        await here.ask("PUT", "/v1/videos/v", {"ownerId": 1, "title": "Sunrise"})
        like = {"videoId": "v", "actionId": action_id()}
        assert (await first[0].call("video:like", like))["data"]["award"] == {"points": 1, "newBalance": 1}
        for phone in first:
            [earned] = await phone.told("points_earned")
            assert (earned["data"]["userId"], earned["recipientIds"]) == (user, [user])
        again = await here.phone(here.note(here.issuer.rsa.token(subject)), 1, lastSeq="0")
        assert again.welcome["userId"] == user
        assert (await again.told("points_earned"))[0]["data"]["newBalance"] == 1
        answer = await here.ask("POST", "/v1/actions/video:like", like, token=fresh[3], node=1)
        assert (answer.status, answer.body["replayed"]) == (200, True), "the same user's key on every door"
        assert await again.do("auth:refresh", token=here.note(here.issuer.rsa.token(subject)))
        await again.fail("unauthorized", "auth:refresh", {"token": here.note(here.issuer.rsa.token("auth0|x"))})

        # backends are nobody
        await here.refused(here.note(here.issuer.rsa.token("billing", roles=["service"])), "token_invalid")
        assert await conn.fetchval("SELECT count(*) FROM identities") == 2, "and a refused refresh makes nobody"
        assert await audit(conn) == []


async def test_two_hundred_new_people_at_once_on_two_nodes(dsn: str, tmp_path: Path, conn: asyncpg.Connection) -> None:
    async with cluster(dsn, tmp_path) as nodes:
        tokens = [
            jwt.encode({"sub": f"auth0|{number}", "exp": time.time() + 60}, SECRET, algorithm="HS256")
            for number in range(200)
        ]

        async def enter(token: str, node: NodeProcess) -> int:
            async with wire(node.url) as bare:
                packets = await bare.enter(token)
                return int(json.loads(packets[1][2:])[1]["userId"])

        both = await asyncio.gather(*(enter(token, node) for token in tokens for node in nodes))
        assert both[::2] == both[1::2]
        assert len(set(both)) == 200
        assert await conn.fetchval("SELECT count(*) FROM users") == 200
        assert await audit(conn) == []


async def test_nobody_new_where_that_is_switched_off(dsn: str, tmp_path: Path) -> None:
    async with place(dsn, tmp_path, AUTH__JWKS_URL="{jwks}", USERS__CREATE_UNKNOWN="false") as here:
        token = here.note(here.issuer.rsa.token("auth0|7"))
        await here.refused(token, "token_invalid")
        answer = await here.ask("GET", "/v1/me", token=token)
        assert (answer.status, answer.body["code"]) == (401, "unauthorized")


async def test_two_secrets_while_one_is_being_replaced(dsn: str, tmp_path: Path) -> None:
    async with place(dsn, tmp_path, AUTH__PREVIOUS_SECRET=OLD_SECRET) as here:
        for secret in (SECRET, OLD_SECRET):
            token = here.token(7, secret=secret)
            assert (await here.phone(token)).welcome["userId"] == 7
            assert (await here.ask("GET", "/v1/me", token=token, node=1)).status == 200
        await here.refused(here.token(7, secret="a third one of more than thirty-two bytes"), "token_invalid")
        assert OLD_SECRET not in here.nodes[0].log


async def test_a_revoked_user_leaves_all_nodes_and_logs_in_again(dsn: str, tmp_path: Path) -> None:
    async with place(dsn, tmp_path) as here:
        long_ago = int(time.time()) - 100
        old = [here.token(7, iat=long_ago), here.token(7), here.token(7, iat=None), here.token(7, jti=None)]
        phones = [await here.phone(token, node) for token in old for node in (0, 1)]
        others = [await here.phone(here.token(8), node) for node in (0, 1)]
        later = await here.phone(here.token(7, iat=int(time.time()) + 30))  # its issuer's clock is ahead

        since = time.monotonic()
        assert (await here.ask("POST", "/v1/revocations", {"userId": 7}))[:2] == (204, None)
        refused_at_once = [await here.ask("GET", "/v1/me", token=token, node=1) for token in old]
        assert {(answer.status, answer.body["code"]) for answer in refused_at_once} == {(401, "unauthorized")}
        await asyncio.gather(*(sent_away(phone, "revoked", since) for phone in phones))
        for token in old:
            await here.refused(token, "token_invalid", node=1)

        await asyncio.sleep(1)  # the revocation's own second must be over
        fresh = here.token(7)
        again = [await here.phone(fresh, node) for node in (0, 1)]
        assert (await here.ask("GET", "/v1/me", token=fresh)).status == 200
        for phone in [*again, *others, later]:
            assert (await phone.call("wallet:get", {}))["ok"]
            assert phone.of("closing") == []


async def test_a_revoked_token_leaves_and_others_of_its_user_stay(dsn: str, tmp_path: Path) -> None:
    async with place(dsn, tmp_path) as here:
        lost, kept = here.token(7, jti="lost-phone"), here.token(7, jti="kept-phone")
        phones = [await here.phone(lost, node) for node in (0, 1)]
        stay = [await here.phone(kept, node) for node in (0, 1)]
        moved = await here.phone(here.token(7, jti="before"))
        assert await moved.do("auth:refresh", token=here.token(7, jti="after"))
        left = await here.phone(lost)
        assert await left.do("auth:refresh", token=here.token(7, jti="anew"))

        since = time.monotonic()
        for jti in ("lost-phone", "before"):
            assert (await here.ask("POST", "/v1/revocations", {"jti": jti}, node=1)).status == 204
        assert (await here.ask("GET", "/v1/me", token=lost)).status == 401
        await asyncio.gather(*(sent_away(phone, "revoked", since) for phone in phones))
        await here.refused(lost, "token_invalid")
        error = await stay[0].fail("unauthorized", "auth:refresh", {"token": lost})
        assert lost not in json.dumps(error)
        for phone in (*stay, moved, left):  # what was renewed goes by its new token
            assert (await phone.call("wallet:get", {}))["ok"]

        since = time.monotonic()
        await here.ask("POST", "/v1/revocations", {"jti": "after"})
        await sent_away(moved, "revoked", since)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "userId"), ({"userId": 7, "jti": "t"}, "userId"), ({"userId": 0}, "userId"), ({"userId": "7"}, "userId"),
        ({"jti": ""}, "jti"), ({"jti": "a\0b"}, "jti"), ({"jti": "x" * 256}, "jti"), ({"user": 7}, "user"),
    ],
    ids=repr,
)  # fmt: skip
async def test_what_is_no_revocation(stage: Any, body: dict[str, Any], field: str) -> None:
    answer = await stage.server.ask("POST", "/v1/revocations", body)
    assert (answer.status, answer.body["code"], answer.body["field"]) == (400, "invalid_payload", field)


async def test_revoking_is_for_backends(stage: Any) -> None:
    user = await stage.person()
    answer = await stage.server.ask("POST", "/v1/revocations", {"userId": user}, token=stage.server.token(user))
    assert (answer.status, answer.body["code"]) == (403, "forbidden")
    admin = stage.server.token("root", "admin")
    assert (await stage.server.ask("POST", "/v1/revocations", {"userId": 2**53 - 1}, token=admin)).status == 204


async def test_a_suspended_user_leaves_all_nodes(dsn: str, tmp_path: Path) -> None:
    async with place(dsn, tmp_path) as here:
        await here.ask("PUT", "/v1/users/7", {"username": "seven"})
        phones = [await here.phone(here.token(7), node, deviceId=f"d{node}") for node in (0, 1)]
        other = await here.phone(here.token(8), 1)

        since = time.monotonic()
        assert (await here.ask("PUT", "/v1/users/7", {"status": "suspended"})).status == 200
        await asyncio.gather(*(sent_away(phone, "user_suspended", since) for phone in phones))
        token = here.token(7)
        await here.refused(token, "user_suspended", node=1)
        answer = await here.ask("GET", "/v1/me", token=token, node=1)
        assert (answer.status, answer.body["code"]) == (403, "forbidden")
        assert (await other.call("wallet:get", {}))["ok"]

        await here.ask("PUT", "/v1/users/7", {"status": "active"})
        assert (await here.phone(here.token(7), 1)).welcome["userId"] == 7


async def test_no_connect_slips_past_a_revocation(dsn: str, tmp_path: Path) -> None:
    """Phones pour in on both nodes while their users are revoked and suspended: in the end no socket is left."""
    async with place(dsn, tmp_path) as here, AsyncExitStack() as stack:
        users = range(100, 140)
        for user in users:
            await here.ask("PUT", f"/v1/users/{user}", {"username": f"u{user}"})
        came_in: list[Wire] = []
        stop = asyncio.Event()

        async def pour(user: int) -> None:
            """One phone after the other, 15 open at most."""
            token = here.token(user)
            for number in range(15):
                if not stop.is_set():
                    bare = await stack.enter_async_context(wire(here.nodes[(user + number) % 2].url))
                    if (await bare.enter(token))[-1:] == ['42["resumed",{"seq":0}]']:
                        came_in.append(bare)

        pouring = [asyncio.create_task(pour(user)) for user in users]
        while len(came_in) < 2 * len(users):
            await asyncio.sleep(0.01)
        known = len(came_in)
        await asyncio.gather(
            *(
                here.ask("POST", "/v1/revocations", {"userId": user}, node=user // 2 % 2)
                if user < 120
                else here.ask("PUT", f"/v1/users/{user}", {"status": "suspended"}, node=user // 2 % 2)
                for user in users
            )
        )
        since = time.monotonic()
        stop.set()
        await asyncio.gather(*pouring)
        ends = await asyncio.gather(*(bare.rest() for bare in came_in))
        assert time.monotonic() - since < WITHIN_S
        assert len(came_in) > known, "some came in meanwhile"
        codes = {json.loads(packets[-2][2:])[1]["code"] for packets in ends}
        assert codes == {"revoked", "user_suspended"}
        assert {packets[-1] for packets in ends} == {"41"}


async def test_a_node_that_was_frozen_catches_up(dsn: str, tmp_path: Path) -> None:
    async with place(dsn, tmp_path) as here:
        phone = await here.phone(here.token(7), 1)
        here.nodes[1].freeze()
        await here.ask("POST", "/v1/revocations", {"userId": 7})
        await here.ask("POST", "/v1/revocations", {"userId": 8})
        here.nodes[1].thaw()
        await sent_away(phone, "revoked", time.monotonic())


async def test_the_limit_of_an_address_behind_a_proxy(tmp_path: Path) -> None:
    settings = {"SERVER__TRUSTED_PROXIES": "127.0.0.0/8", "SOCKET__MAX_CONNECTIONS_PER_ADDRESS": 2}
    async with running(tmp_path / "data", **settings) as gateway:

        async def phone_from(forwarded: str) -> Phone:
            phone = Phone()
            await phone.connect(gateway.url, {"token": gateway.token(7)}, **{"X-Forwarded-For": forwarded})
            return phone

        first = [await phone_from("203.0.113.9"), await phone_from("198.51.100.1, 203.0.113.9")]
        assert all(phone.of("connect_error") == [] for phone in first)
        third = await phone_from("198.51.100.2, 203.0.113.9")
        assert third.of("welcome") == []
        assert third.of("connect_error")
        async with aiohttp.ClientSession() as http:
            asked = {"X-Forwarded-For": "203.0.113.9", "Connection": "Upgrade", "Upgrade": "websocket"}
            asked |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "YSBrZXkgb2YgMTYgYnl0ZQ=="}
            async with http.get(f"{gateway.url}/socket.io/?EIO=4&transport=websocket", headers=asked) as response:
                body = await response.json(content_type=None)
                assert (response.status, body["code"]) == (503, "connection_limit")
                assert response.headers["Retry-After"]
        other = await phone_from("203.0.113.10")
        await other.hear("resumed")
        for phone in (*first, third, other):
            await phone.close()


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
async def test_weak_keys_let_nobody_in(dsn: str, tmp_path: Path) -> None:
    """Keys that the provider should not have published let nobody in, and the good one beside them does."""
    async with issuing() as issuer:
        weak, good = SigningKey("weak", rsa_key(9, 1024)), SigningKey("good", ec_key(3))
        issuer.keys = [weak.jwk(), good.jwk()]
        async with cluster(dsn, tmp_path, nodes=1, AUTH__JWKS_URL=issuer.url) as nodes:
            here = Place(nodes, issuer, await start_node())
            await here.refused(here.note(weak.token("7")), "token_invalid")
            assert (await here.phone(here.note(good.token("7")))).welcome["userId"] == 7
            await here.check()
            await here.close()
